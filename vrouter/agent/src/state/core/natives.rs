//! Addresses in the underlay that this node answers for: workloads', floating ones of public networks, and of services there.

use super::Core;
use crate::state::tables::NextHop;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use uuid::Uuid;

/// In place of a next hop's number: the address is that of services.
const SERVICES: u32 = 0;

impl Core {
    pub(super) fn compile_natives(&mut self) {
        let mut numbered = BTreeMap::new();
        for address in self.announced_here() {
            numbered.insert(address, SERVICES);
        }
        for (address, (vrf, ifindex, context)) in self.context.natives.clone() {
            let hop = NextHop::Local { ifindex, context };
            if self.leads(vrf, address, &hop)
                && let Some(number) = self.use_next_hop(hop)
            {
                numbered.insert(address, number);
            }
        }
        // The new ones are counted first: a next hop of both stays.
        let old = std::mem::replace(&mut self.wanted.natives, numbered);
        for number in old.into_values().filter(|number| *number != SERVICES) {
            self.release_next_hop(number);
        }
    }

    /// Whether an address's own VRF leads to a workload here: one of another node may be preferred.
    fn leads(&self, vrf: u32, address: IpAddr, to: &NextHop) -> bool {
        let Some(route) = self.wanted.routes.get(&(vrf, address.into())) else { return false };
        match self.wanted.next_hops.get(&route.next_hop) {
            Some(NextHop::Ecmp { members }) => {
                members.iter().any(|member| self.wanted.next_hops.get(member) == Some(to))
            }
            one => one == Some(to),
        }
    }

    /// Addresses of services for which the nodes that have members have chosen this one.
    fn announced_here(&self) -> BTreeSet<IpAddr> {
        let mut stay: BTreeMap<IpAddr, BTreeMap<&str, usize>> = BTreeMap::new();
        let mut leave = stay.clone();
        for service in self.services.values().filter(|service| service.announced) {
            for nodes in [&mut stay, &mut leave] {
                nodes.entry(service.address).or_default();
            }
            // A node counts once for each port of the address: one that serves them all is best.
            for (nodes, draining) in [(&mut stay, false), (&mut leave, true)] {
                let members = service.members.iter().filter(|m| m.draining == draining);
                let names: BTreeSet<&str> = members.map(|member| &*member.node).collect();
                for name in names.into_iter().filter(|name| !name.is_empty()) {
                    *nodes.entry(service.address).or_default().entry(name).or_default() += 1;
                }
            }
        }
        let chosen = stay.iter().filter(|(address, nodes)| {
            let nodes = if nodes.is_empty() { &leave[*address] } else { nodes };
            elected(**address, nodes) == Some(&*self.node)
        });
        chosen.map(|(address, _)| *address).collect()
    }

    /// Addresses that workloads of this node have in the underlay as their own.
    #[must_use]
    pub fn underlay_hosts(&self) -> BTreeSet<IpAddr> {
        let own = self.context.natives.iter().filter(|(address, (_, _, context))| {
            *context == 0 && self.wanted.natives.contains_key(*address)
        });
        own.map(|(address, _)| *address).collect()
    }
}

/// The node of a set that answers for an address: whoever asks comes to the same, and when a node joins or leaves, only its own
/// addresses move (rendezvous hashing, Thaler and Ravishankar 1996).
fn elected<'a>(address: IpAddr, nodes: &BTreeMap<&'a str, usize>) -> Option<&'a str> {
    let most = nodes.values().max()?;
    let best = nodes.iter().filter(|(_, ports)| *ports == most).map(|(name, _)| *name);
    best.max_by_key(|name| {
        Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{address}|{name}").as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_answers_and_only_a_leavers_addresses_move() {
        let nodes = |names: &[&'static str]| names.iter().map(|n| (*n, 1)).collect();
        let (three, two) = (nodes(&["a", "b", "c"]), nodes(&["a", "b"]));
        let mut share = BTreeMap::new();
        for last in 0..=255 {
            let address = IpAddr::from([203, 0, 113, last]);
            let one = elected(address, &three).unwrap();
            *share.entry(one).or_insert(0) += 1;
            if one != "c" {
                assert_eq!(elected(address, &two), Some(one));
            }
        }
        assert!(share.values().all(|count| *count > 50), "{share:?}");
        let mut uneven = three;
        uneven.insert("b", 2);
        assert_eq!(elected([203, 0, 113, 1].into(), &uneven), Some("b"));
        assert_eq!(elected([203, 0, 113, 1].into(), &BTreeMap::new()), None);
    }
}
