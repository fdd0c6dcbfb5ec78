//! The node's own addresses, as workloads use them to reach the outside and clients outside use them to reach services.

use crate::abi::{
    ADDRESS_OTHER, ADDRESS_OWN, NODE_IPV4, NODE_IPV6, PORT_RANGES, address_key, ip_from_abi,
    ip_to_abi, types,
};
use crate::{Datapath, Error, NextHopId, Result};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

/// Whose a node's address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressOwner {
    /// This node's.
    This,
    /// Another one's.
    Other,
}

/// What the node lends to its workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAddress {
    /// Source of IPv4 packets that leave by [`crate::NextHop::Outside`].
    pub address4: Option<Ipv4Addr>,
    /// The same for IPv6.
    pub address6: Option<Ipv6Addr>,
    /// Source ports, in at most [`NodeAddress::RANGES`] ranges that do not overlap. The host must not use them itself:
    /// `net.ipv4.ip_local_reserved_ports`.
    pub tcp: Vec<RangeInclusive<u16>>,
    /// Source ports of UDP; to be reserved as well.
    pub udp: Vec<RangeInclusive<u16>>,
    /// Source ports of SCTP.
    pub sctp: Vec<RangeInclusive<u16>>,
    /// Identifiers of ICMP and ICMPv6 echo requests.
    pub icmp: RangeInclusive<u16>,
    /// Host end of the host's interface ([`crate::Vif::host`]). Services reached from outside
    /// ([`crate::OUTSIDE`]) whose members see the node's address need it.
    pub host: Option<u32>,
    /// A [`crate::NextHop::Outside`], by which answers to IPv4 clients outside leave.
    pub next_hop4: NextHopId,
    /// The same for IPv6.
    pub next_hop6: NextHopId,
}

impl NodeAddress {
    /// Ranges of ports that a protocol can have.
    pub const RANGES: usize = PORT_RANGES;
}

impl Default for NodeAddress {
    fn default() -> Self {
        // The original's port translation pools; ports of SCTP and identifiers beside them.
        Self {
            address4: None,
            address6: None,
            tcp: vec![56_000..=57_023],
            udp: vec![57_024..=58_047],
            sctp: vec![56_000..=57_023],
            icmp: 56_000..=58_047,
            host: None,
            next_hop4: 0,
            next_hop6: 0,
        }
    }
}

fn range(range: &RangeInclusive<u16>) -> types::port_range {
    types::port_range { first: *range.start(), last: *range.end() }
}

fn pool(field: &'static str, ports: &[RangeInclusive<u16>]) -> Result<types::port_pool> {
    if ports.len() > PORT_RANGES {
        let reason = format!("{} ranges are more than {PORT_RANGES}", ports.len());
        return Err(Error::Argument { field, reason });
    }
    if ports.iter().any(|ports| *ports.start() == 0 || ports.is_empty()) {
        let reason = "a range is empty, or holds port 0, which cannot be lent".into();
        return Err(Error::Argument { field, reason });
    }
    let mut pool = types::port_pool::default();
    for (slot, ports) in pool.range.iter_mut().zip(ports) {
        *slot = range(ports);
    }
    Ok(pool)
}

fn ranges(pool: &types::port_pool) -> Vec<RangeInclusive<u16>> {
    let used = pool.range.iter().filter(|range| range.first != 0);
    used.map(|range| range.first..=range.last).collect()
}

impl Datapath {
    /// Says which of its own addresses the node lends. Without any, packets on the uplink that are no tunnel packets
    /// are the host's.
    ///
    /// # Errors
    /// [`Error::Argument`] if a range of ports is empty or holds 0, or there are too many.
    pub fn set_node_address(&mut self, node: &NodeAddress) -> Result<()> {
        let old = self.node.get(&0)?.unwrap_or_default();
        let mut raw = types::node {
            host: node.host.unwrap_or(0),
            next_hop4: node.next_hop4,
            next_hop6: node.next_hop6,
            tcp: pool("tcp", &node.tcp)?,
            udp: pool("udp", &node.udp)?,
            sctp: pool("sctp", &node.sctp)?,
            icmp: range(&node.icmp),
            services: old.services,
            natives: old.natives,
            uplink: old.uplink,
            uplink_mac: old.uplink_mac,
            ..types::node::default()
        };
        if let Some(address) = node.address4 {
            raw.families |= NODE_IPV4;
            raw.address4 = ip_to_abi(address.into()).1;
        }
        if let Some(address) = node.address6 {
            raw.families |= NODE_IPV6;
            raw.address6 = ip_to_abi(address.into()).1;
        }
        self.node.set(&0, &raw)
    }

    /// What was said last; all defaults if nothing was.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn node_address(&self) -> Result<NodeAddress> {
        let raw = self.node.get(&0)?.unwrap_or_default();
        let address = |flag, family, address| {
            (raw.families & flag != 0).then(|| ip_from_abi(family, address))
        };
        Ok(NodeAddress {
            address4: match address(NODE_IPV4, 4, &raw.address4) {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            },
            address6: match address(NODE_IPV6, 6, &raw.address6) {
                Some(IpAddr::V6(address)) => Some(address),
                _ => None,
            },
            tcp: ranges(&raw.tcp),
            udp: ranges(&raw.udp),
            sctp: ranges(&raw.sctp),
            icmp: raw.icmp.first..=raw.icmp.last,
            host: (raw.host != 0).then_some(raw.host),
            next_hop4: raw.next_hop4,
            next_hop6: raw.next_hop6,
        })
    }

    /// Says which addresses are of nodes: those at which node ports answer. Replaces what was said before.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Kernel`].
    pub fn set_node_addresses(&self, wanted: &BTreeMap<IpAddr, AddressOwner>) -> Result<()> {
        for (key, _) in self.node_addresses.entries()? {
            if !wanted.contains_key(&ip_from_abi(key.family, &key.address)) {
                self.node_addresses.remove(&key)?;
            }
        }
        for (address, owner) in wanted {
            let owner = match owner {
                AddressOwner::This => ADDRESS_OWN,
                AddressOwner::Other => ADDRESS_OTHER,
            };
            self.node_addresses.set(&address_key(*address), &owner)?;
        }
        Ok(())
    }

    /// What was said last.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn node_addresses(&self) -> Result<BTreeMap<IpAddr, AddressOwner>> {
        let entries = self.node_addresses.entries()?.into_iter();
        Ok(entries
            .map(|(key, owner)| {
                let owner =
                    if owner == ADDRESS_OWN { AddressOwner::This } else { AddressOwner::Other };
                (ip_from_abi(key.family, &key.address), owner)
            })
            .collect())
    }

    /// The programs look for services at the uplink only while there are some.
    pub(crate) fn count_outside(&self, more: i32) -> Result<()> {
        let mut raw = self.node.get(&0)?.unwrap_or_default();
        raw.services = raw.services.saturating_add_signed(more);
        self.node.set(&0, &raw)
    }
}
