//! What the core knows of nodes: addresses at which node ports answer, zones, and the health of services here.

use super::Core;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// From whose address the host's own members see it (datapath: `HOST_GATEWAY4`).
const STAND_IN: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// A node of the fabric.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeSpec {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) zone: String,
}

/// What a health check's port answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthCheck {
    /// Namespace and name of the service, as far as it has such.
    pub service: String,
    /// Members of this node that take connections.
    pub members: BTreeSet<IpAddr>,
}

impl Core {
    /// Tells the node's own addresses, as its kernel has them. True if they changed.
    pub fn set_own_addresses(&mut self, mut addresses: BTreeSet<IpAddr>) -> bool {
        addresses.extend(self.context.own_address);
        if self.own_addresses == addresses {
            return false;
        }
        self.own_addresses = addresses;
        self.nodes_changed = true;
        true
    }

    /// Takes over what the leading controller says of nodes.
    pub(super) fn read_nodes(&mut self) {
        let listed = self.merged.leader().global().map(|global| global.nodes.as_slice());
        let read = listed.unwrap_or_default().iter().map(|node| {
            let addresses = node.addresses.iter().filter_map(|text| text.parse().ok()).collect();
            (node.name.clone(), NodeSpec { addresses, zone: node.zone.clone() })
        });
        let nodes: BTreeMap<String, NodeSpec> = read.collect();
        if self.nodes != nodes {
            self.nodes = nodes;
            self.nodes_changed = true;
        }
    }

    /// Addresses of nodes, and whether they are this one's.
    pub(super) fn all_addresses(&self) -> BTreeMap<IpAddr, bool> {
        let others = self.nodes.iter().filter(|(name, _)| **name != self.node);
        let mut all: BTreeMap<IpAddr, bool> =
            others.flat_map(|(_, node)| &node.addresses).map(|address| (*address, false)).collect();
        let listed = self.nodes.get(&self.node).into_iter().flat_map(|node| &node.addresses);
        all.extend(listed.chain(&self.own_addresses).map(|address| (*address, true)));
        all
    }

    /// What the node's own stack reaches by its interface besides networks: services' external addresses, which would leave
    /// the node otherwise, and who stands in for itself.
    #[must_use]
    pub fn host_addresses(&self) -> BTreeSet<IpNet> {
        let Some(host) = self.host_port() else { return BTreeSet::new() };
        let Some(reach) = self.context.reach.get(&host.vrf) else { return BTreeSet::new() };
        let usable: BTreeSet<&str> =
            reach.services.iter().map(|(name, _, _)| name.as_str()).collect();
        let nodes = self.all_addresses();
        let external = self.services.values().filter(|service| {
            let ours = service.external && usable.contains(service.vrf.as_str());
            // The way to another node must not lead through the fabric, which leads there.
            ours && !nodes.contains_key(&service.address)
        });
        let external = external.map(|service| service.address);
        let own = self.context.own_address;
        let stand_in = own.filter(IpAddr::is_ipv4).map(|_| IpAddr::V4(STAND_IN));
        let fits = |a: &IpAddr| own.is_some_and(|own| own.is_ipv4() == a.is_ipv4());
        external.filter(fits).chain(stand_in).map(IpNet::from).collect()
    }

    /// Health checks of services, by the port that answers them.
    #[must_use]
    pub fn health_checks(&self) -> BTreeMap<u16, HealthCheck> {
        let mut all: BTreeMap<u16, HealthCheck> = BTreeMap::new();
        for service in self.services.values().filter(|service| service.health_check_port != 0) {
            let check = all.entry(service.health_check_port).or_default();
            let name =
                service.name.rsplit_once(':').map_or(service.name.as_str(), |(name, _)| name);
            name.clone_into(&mut check.service);
            let here = service.members.iter().filter(|m| m.node == self.node && !m.draining);
            check.members.extend(here.map(|member| member.address));
        }
        all
    }
}
