//! Ports of a node's address that its workloads borrow: `port_translation_pools` of global-vrouter-config
//! (spec/vrouter.md section 9.2). Every node has the same, of its own address.

use crate::service::protocol_number;
use skein_model::values::{PortTranslationPool, PortTranslationPools};
use std::ops::RangeInclusive;

/// Ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortPool {
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// First port, from 1 on.
    pub first: u16,
    /// Last port, not before the first.
    pub last: u16,
}

/// Where a pool begins that says only how many ports it has: where nodes' own ranges begin.
fn begin(protocol: u8) -> Option<u16> {
    match protocol {
        6 | 132 => Some(56_000),
        17 => Some(57_024),
        _ => None,
    }
}

/// In order, without overlaps. What says nothing sensible is left out: the API refuses it.
pub(crate) fn read(pools: &PortTranslationPools) -> Vec<PortPool> {
    let mut all: Vec<PortPool> = pools.port_translation_pool.iter().filter_map(one).collect();
    all.sort_unstable();
    let mut joined: Vec<PortPool> = Vec::new();
    for pool in all {
        match joined.last_mut() {
            Some(last)
                if last.protocol == pool.protocol
                    && u32::from(pool.first) <= u32::from(last.last) + 1 =>
            {
                last.last = last.last.max(pool.last);
            }
            _ => joined.push(pool),
        }
    }
    joined
}

fn one(pool: &PortTranslationPool) -> Option<PortPool> {
    let protocol = protocol_number(pool.protocol.as_deref()?)?;
    let begin = begin(protocol)?;
    let ports = match &pool.port_range {
        Some(range) => {
            let port = |value: Option<i64>| u16::try_from(value?).ok();
            port(range.start_port)?..=port(range.end_port)?
        }
        None => counted(begin, pool.port_count.as_deref()?.trim().parse().ok()?),
    };
    let (first, last) = ports.into_inner();
    (first != 0 && first <= last).then_some(PortPool { protocol, first, last })
}

/// As many ports from `begin` on, and if those do not reach, as many as there are up to the last one.
fn counted(begin: u16, count: u16) -> RangeInclusive<u16> {
    match begin.checked_add(count.saturating_sub(1)) {
        _ if count == 0 => RangeInclusive::new(1, 0),
        Some(last) => begin..=last,
        None => u16::MAX - (count - 1)..=u16::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_by_its_size_begins_at_its_place_or_ends_at_the_last_port() {
        assert_eq!(counted(56_000, 1024), 56_000..=57_023);
        assert_eq!(counted(56_000, 1), 56_000..=56_000);
        assert_eq!(counted(56_000, 9_536), 56_000..=65_535);
        assert_eq!(counted(56_000, 20_000), 45_536..=65_535);
        assert_eq!(counted(56_000, u16::MAX), 1..=65_535);
        assert!(counted(56_000, 0).is_empty());
    }
}
