//! Addresses in the underlay that this node answers for: workloads', floating ones of public networks, and of services there.

use super::Core;
use super::node::NodeSpec;
use crate::state::spec::ServiceSpec;
use crate::state::tables::NextHop;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use uuid::Uuid;

/// In place of a next hop's number: the address is that of services.
const SERVICES: u32 = 0;

/// Addresses of services in the underlay, and what decides which node answers for them.
#[derive(Debug, Default)]
pub(super) struct Announced {
    /// Those that this node answers for.
    here: BTreeSet<IpAddr>,
    carriers: Carriers,
    /// Addresses of services that changed since.
    pub(super) changed: BTreeSet<IpAddr>,
}

/// Nodes that pass clients on to members elsewhere, whatever members they have themselves: so an address stays while members come and
/// go.
#[derive(Debug, Default, PartialEq, Eq)]
struct Carriers {
    /// The family of the address that they lend for it.
    ipv4: bool,
    /// VRFs of which they have the services: each node's own stack has the same.
    vrfs: BTreeSet<String>,
    nodes: BTreeSet<String>,
}

impl Carriers {
    /// Nodes that can answer for the address of these services, with how many of them each serves: one that serves all is best.
    fn able<'a>(
        &'a self,
        services: &[&'a ServiceSpec],
        draining: bool,
    ) -> BTreeMap<&'a str, usize> {
        let mut able = BTreeMap::new();
        for service in services {
            let members = service.members.iter().filter(|m| m.draining == draining);
            let mut nodes: BTreeSet<&str> = members.map(|member| &*member.node).collect();
            let passed_on = !service.external_local
                && service.address.is_ipv4() == self.ipv4
                && self.vrfs.contains(&service.vrf);
            if passed_on && !nodes.is_empty() {
                nodes.extend(self.nodes.iter().map(String::as_str));
            }
            for node in nodes.into_iter().filter(|node| !node.is_empty()) {
                *able.entry(node).or_default() += 1;
            }
        }
        able
    }
}

impl Core {
    /// Compiles what the node answers for. `reached`: who is where may have changed, too.
    pub(super) fn compile_natives(&mut self, reached: bool) {
        self.elect(reached);
        let mut numbered = BTreeMap::new();
        for address in &self.announced.here {
            numbered.insert(*address, SERVICES);
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

    /// Finds out for which addresses of services the nodes that can answer choose this one: for those of changed services, or for all
    /// when nodes come or go.
    fn elect(&mut self, reached: bool) {
        if reached {
            let carriers = self.carriers();
            if self.announced.carriers != carriers {
                self.announced.carriers = carriers;
                let all = self.services.values().filter(|service| service.announced);
                self.announced.changed.extend(all.map(|service| service.address));
            }
        }
        let changed = std::mem::take(&mut self.announced.changed);
        if changed.is_empty() {
            return;
        }
        self.announced.here.retain(|address| !changed.contains(address));
        let mut services: BTreeMap<IpAddr, Vec<&ServiceSpec>> = BTreeMap::new();
        for service in self.services.values().filter(|service| service.announced) {
            if changed.contains(&service.address) {
                services.entry(service.address).or_default().push(service);
            }
        }
        for (address, services) in services {
            let able = |draining| self.announced.carriers.able(&services, draining);
            // Who serves for its last seconds does so if nobody else is there.
            let nodes = Some(able(false)).filter(|nodes| !nodes.is_empty());
            if elected(address, &nodes.unwrap_or_else(|| able(true))) == Some(&*self.node) {
                self.announced.here.insert(address);
            }
        }
    }

    fn carriers(&self) -> Carriers {
        let reach = self.host_vrf().and_then(|vrf| self.context.reach.get(vrf));
        let usable = reach.into_iter().flat_map(|reach| &reach.services);
        Carriers {
            ipv4: self.context.own_address.is_some_and(|own| own.is_ipv4()),
            vrfs: usable.map(|(name, _, _)| name.clone()).collect(),
            nodes: self.present(),
        }
    }

    /// Nodes whose own stack a route leads to that controllers stand by: that of a node they do not hear is less preferred.
    fn present(&self) -> BTreeSet<String> {
        let Some(vrf) = self.host_vrf() else { return BTreeSet::new() };
        let preference = |node: &NodeSpec| {
            let paths = node.addresses.iter().flat_map(|address| {
                let paths = self.merged.paths(vrf, &IpNet::from(*address));
                paths.into_iter().filter(move |path| path.next_hop == *address)
            });
            paths.map(|path| path.local_preference).max()
        };
        let nodes = self.nodes.iter();
        let found: BTreeMap<&str, u32> =
            nodes.filter_map(|(name, node)| Some((name.as_str(), preference(node)?))).collect();
        let best = found.values().max().copied();
        let best = found.into_iter().filter(|(_, one)| Some(*one) == best);
        best.map(|(name, _)| name.to_owned()).collect()
    }

    /// The VRF of the node's own stack.
    pub(super) fn host_vrf(&self) -> Option<&str> {
        let host = self.interfaces.values().find(|interface| interface.host)?;
        Some(&host.vrf)
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
