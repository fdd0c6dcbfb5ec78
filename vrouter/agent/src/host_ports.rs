//! Ports that the host chooses from for its own connections, and those it leaves to workloads.

use crate::AgentError;
use skein_datapath::NodeAddress;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

/// Ports that the kernel does not give to the host's own connections.
const RESERVED: &str = "ipv4/ip_local_reserved_ports";
/// First and last port that it gives to them.
const CHOSEN_FROM: &str = "ipv4/ip_local_port_range";
/// What the kernel does when nobody set it.
const DEFAULT: RangeInclusive<u16> = 32_768..=60_999;

/// Ports that the host chooses from for its own connections.
pub(crate) fn chosen_from() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string(skein_cni::sysctl(CHOSEN_FROM)).unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => first..=last,
        _ => DEFAULT,
    }
}

/// Keeps the host from using the ports that it lends from now on, and gives back those that it lent `before`. What others
/// reserved stays so.
pub(crate) fn reserve(before: &NodeAddress, now: &NodeAddress) -> Result<(), AgentError> {
    let path = &skein_cni::sysctl(RESERVED);
    let there = std::fs::read_to_string(path).map_err(AgentError::file("read", path))?;
    // Nothing was lent before there was an address.
    let lent = before.address4.is_some() || before.address6.is_some();
    let old = if lent { ranges(before) } else { Vec::new() };
    let wanted = list(&there, &old, &ranges(now));
    std::fs::write(path, wanted).map_err(AgentError::file("write", path))
}

fn ranges(node: &NodeAddress) -> Vec<RangeInclusive<u16>> {
    let ports = [&node.tcp, &node.udp, &node.sctp].into_iter().flatten();
    ports.chain([&node.icmp]).cloned().collect()
}

/// A list as the kernel writes it, without `old` and with `new`.
fn list(there: &str, old: &[RangeInclusive<u16>], new: &[RangeInclusive<u16>]) -> String {
    let mut reserved = vec![false; usize::from(u16::MAX) + 1];
    let mut mark = |range: &RangeInclusive<u16>, what: bool| {
        range.clone().for_each(|port| reserved[usize::from(port)] = what);
    };
    for part in there.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse(), last.trim().parse()) {
            mark(&(first..=last), true);
        }
    }
    old.iter().for_each(|range| mark(range, false));
    new.iter().for_each(|range| mark(range, true));
    let mut text = String::new();
    let mut from = None;
    // One more, to end a range that goes up to the last port.
    for (port, is_reserved) in reserved.into_iter().chain([false]).enumerate() {
        match (from, is_reserved) {
            (None, true) => from = Some(port),
            (Some(first), false) => {
                let comma = if text.is_empty() { "" } else { "," };
                // Writing to a String cannot fail.
                let _ = write!(text, "{comma}{first}-{}", port - 1);
                from = None;
            }
            _ => {}
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_given_back_and_what_others_reserved_stays() {
        assert_eq!(list("\n", &[], &[56_000..=57_023, 57_024..=58_047]), "56000-58047\n");
        let there = "8080,30000-32767,56000-58047\n";
        let (old, new) = ([56_000..=58_047], [20_000..=20_001, 65_000..=65_535]);
        assert_eq!(list(there, &old, &new), "8080-8080,20000-20001,30000-32767,65000-65535\n");
        assert_eq!(list(there, &old, &[57_000..=57_000]), "8080-8080,30000-32767,57000-57000\n");
        assert_eq!(list("1-3", &[1..=3], &[]), "\n");
    }
}
