//! Compiling services: each to the places where it is reached, with the members that this node may choose.

use super::Core;
use crate::state::compile::ServiceIndex;
use crate::state::spec::ServiceSpec;
use crate::state::tables::{INSIDE, NextHop, NodeEntry, OUTSIDE, ServiceEntry, ServiceKey};
use crate::state::view::Touched;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

impl Core {
    /// Compiles the services that were touched, or all of them when they are another controller's or VRFs have other
    /// numbers; marks the routes that follow.
    pub(super) fn compile_services(&mut self, all: bool, touched: &mut Touched) {
        let mut ids = std::mem::take(&mut touched.services);
        let renumbered = self.service_numbers != self.context.vrfs
            || self.services_of_node != self.context.link_local;
        if renumbered {
            self.service_numbers.clone_from(&self.context.vrfs);
            self.services_of_node.clone_from(&self.context.link_local);
        }
        if all || renumbered {
            ids.extend(self.services.keys().cloned());
            ids.extend(self.merged.leader().services().map(|service| service.id.clone()));
        }
        let mut places: BTreeSet<ServiceKey> = BTreeSet::new();
        for id in ids {
            self.compile_service(&id, &mut places, touched);
        }
        for key in places {
            self.compile_place(key);
        }
    }

    fn compile_service(
        &mut self,
        id: &str,
        places: &mut BTreeSet<ServiceKey>,
        touched: &mut Touched,
    ) {
        let own = self.dns.services.get(id).cloned().map(Ok);
        let read = own
            .or_else(|| self.merged.leader().service(id).map(|service| self.read_service(service)));
        let subject = format!("service {id}");
        if self.service_problems.remove(&subject).is_some() {
            self.problems.remove(&subject);
        }
        if let Some(Err(what)) = &read {
            self.service_problem(subject, format!("unreadable {what}"));
        }
        let new = read.and_then(Result::ok);
        let old = match &new {
            Some(new) => self.services.insert(id.to_owned(), new.clone()),
            None => self.services.remove(id),
        };
        if old != new {
            // The new one first: an address of both stays.
            self.count(new.as_ref(), 1, touched);
            self.count(old.as_ref(), -1, touched);
            let both = [&new, &old].into_iter().flatten().filter(|service| service.announced);
            self.announced.changed.extend(both.map(|service| service.address));
        }
        let wanted = new.as_ref().map(|new| self.places(new)).unwrap_or_default();
        let before = self.claimed.remove(id).unwrap_or_default();
        for key in before.difference(&wanted) {
            if let Some(claims) = self.claims.get_mut(key) {
                claims.remove(id);
                if claims.is_empty() {
                    self.claims.remove(key);
                }
            }
        }
        for key in &wanted {
            self.claims.entry(*key).or_default().insert(id.to_owned());
        }
        places.extend(before.union(&wanted));
        if !wanted.is_empty() {
            self.claimed.insert(id.to_owned(), wanted);
        }
    }

    fn service_problem(&mut self, subject: String, reason: String) {
        self.problems.insert(subject.clone(), reason.clone());
        self.service_problems.insert(subject, reason);
    }

    /// Counts a service's addresses in or out of the index that routes are compiled from.
    fn count(&mut self, service: Option<&ServiceSpec>, by: isize, touched: &mut Touched) {
        let Some(service) = service else { return };
        let index = Arc::make_mut(&mut self.context.services);
        let address = IpNet::from(service.address);
        // A port of a node has no address of its own.
        if service.node.is_empty() && step(&mut index.addresses, &service.vrf, address, by) {
            for (client, reach) in &self.context.reach {
                if reach.services.iter().any(|(name, _, _)| *name == service.vrf) {
                    touched.route(client, address);
                }
            }
        }
        if service.shows_clients() {
            let before = index.entered.contains_key(&service.vrf);
            step(&mut index.entered, &service.vrf, address, by);
            if before != index.entered.contains_key(&service.vrf) {
                self.context.conditions.iter().for_each(|c| touched.route(&service.vrf, *c));
            }
        }
        for member in service.members.iter().filter(|member| !member.in_fabric) {
            let ServiceIndex { outside, .. } = index;
            if step(outside, &service.vrf, member.address.into(), by) {
                touched.route(&service.vrf, member.address.into());
            }
        }
    }

    /// Where a service is reached on this node.
    fn places(&self, service: &ServiceSpec) -> BTreeSet<ServiceKey> {
        let mut all = BTreeSet::new();
        let Some(vrf) = self.context.vrfs.get(&service.vrf).copied() else { return all };
        let ServiceSpec { address, protocol, port, .. } = *service;
        let lent = self.context.own_address.is_some_and(|own| own.is_ipv4() == address.is_ipv4());
        if !service.node.is_empty() {
            if lent {
                all.extend(self.port_places(service));
            }
            return all;
        }
        all.insert((vrf, address, protocol, port));
        if service.external {
            all.insert((OUTSIDE, address, protocol, port));
            // As a node's address it stays on `lo`, or is met at that node.
            if self.own_addresses.contains(&address) {
                all.insert((INSIDE, address, protocol, port));
            }
        }
        if lent && service.node_port != 0 {
            let every = any(address);
            all.insert((OUTSIDE, every, protocol, service.node_port));
            all.insert((INSIDE, every, protocol, service.node_port));
            if service.external_local {
                for (name, node) in self.nodes.iter().filter(|(name, _)| **name != self.node) {
                    if service.members.iter().any(|member| member.node == *name) {
                        let same = |a: &&IpAddr| a.is_ipv4() == address.is_ipv4();
                        let addresses = node.addresses.iter().filter(same);
                        all.extend(addresses.map(|a| (INSIDE, *a, protocol, service.node_port)));
                    }
                }
            }
        }
        all
    }

    /// One place of a service: in its VRF, if it is there, else by an address of a node.
    #[must_use]
    pub fn place_of(&self, id: &str) -> Option<ServiceKey> {
        let mut places = self.claimed.get(id)?.iter();
        places
            .clone()
            .find(|key| key.0 != OUTSIDE && key.0 != INSIDE)
            .or(places.next_back())
            .copied()
    }

    /// Where a port of one node is reached on this one.
    fn port_places(&self, service: &ServiceSpec) -> Vec<ServiceKey> {
        let ServiceSpec { address, protocol, port, .. } = *service;
        let key = |vrf, address| (vrf, address, protocol, port);
        if service.node == self.node {
            // Nobody else knows the way to this.
            let outside = (!address.is_loopback()).then(|| key(OUTSIDE, address));
            return outside.into_iter().chain([key(INSIDE, address)]).collect();
        }
        let there = self.nodes.get(&service.node).into_iter().flat_map(|node| &node.addresses);
        there
            .filter(|one| one.is_ipv4() == address.is_ipv4())
            .filter(|one| address.is_unspecified() || **one == address)
            .map(|one| key(INSIDE, *one))
            .collect()
    }

    fn compile_place(&mut self, key: ServiceKey) {
        let claims: Vec<String> = self.claims.get(&key).into_iter().flatten().cloned().collect();
        let entry = claims.first().and_then(|id| self.entry(self.services.get(id)?, key));
        for loser in claims.iter().skip(1) {
            let (vrf, address, protocol, port) = key;
            let reason = format!(
                "address {address}, protocol {protocol}, port {port} in VRF {vrf} is another one's: service {}",
                claims[0]
            );
            self.service_problem(format!("service {loser}"), reason);
        }
        match entry {
            Some(entry) => self.wanted.services.insert(key, entry),
            None => self.wanted.services.remove(&key),
        };
        self.unsettled_services.insert(key);
        self.settle_service(&key);
    }

    fn entry(&self, service: &ServiceSpec, key: ServiceKey) -> Option<ServiceEntry> {
        let (vrf, address, _, port) = key;
        let own_port = !service.node.is_empty();
        let by_node_port =
            !own_port && service.node_port == port && (vrf == OUTSIDE || vrf == INSIDE);
        // Another node's address stands for the members of that node.
        let elsewhere = (by_node_port && vrf == INSIDE && !address.is_unspecified())
            .then(|| self.nodes.iter().find(|(_, node)| node.addresses.contains(&address)))
            .flatten();
        let only = match (vrf, elsewhere) {
            (_, Some((name, _))) => Some(name.as_str()),
            (OUTSIDE, _) => service.external_local.then_some(self.node.as_str()),
            // Who is in the cluster may use all of them, as with kube-proxy.
            (INSIDE, _) => None,
            _ => service.internal_local.then_some(self.node.as_str()),
        };
        let by_address = service.external && address == service.address;
        Some(ServiceEntry {
            member_vrf: *self.context.vrfs.get(&service.vrf)?,
            members: self.choose(service, only),
            affinity_seconds: service.affinity_seconds,
            keep_source: vrf == OUTSIDE && (service.external_local || own_port),
            link_local: vrf != OUTSIDE
                && vrf != INSIDE
                && self.context.link_local.contains(&service.vrf),
            // Whoever may not ask for names can do nothing; the original lets DNS of the gateway pass, too.
            open: vrf != OUTSIDE
                && service.members.iter().any(|m| self.is_own_dns(m) || self.is_link(m)),
            sources: if by_address { service.sources.clone() } else { BTreeSet::new() },
            by_node: vrf == INSIDE
                && address.is_unspecified()
                && (own_port || service.external_local),
        })
    }

    pub(super) fn settle_service(&mut self, key: &ServiceKey) {
        if self.wanted.services.get(key) == self.applied.services.get(key) {
            self.unsettled_services.remove(key);
        }
    }

    /// What the node lends of itself, from the moment that something leaves or enters by it.
    pub(super) fn compile_node(&mut self) {
        let Some(address) = self.context.own_address else { return };
        let needed = self.wanted.node.is_some()
            || self.wanted.next_hops.values().any(|hop| *hop == NextHop::Outside)
            || [OUTSIDE, INSIDE].iter().any(|vrf| {
                let first = self.claims.range((*vrf, FIRST, 0, 0)..).next();
                first.is_some_and(|(key, _)| key.0 == *vrf)
            });
        if !needed {
            return;
        }
        let next_hop = match &self.wanted.node {
            Some(node) => node.next_hop,
            // Held from now on: answers to clients outside leave by it.
            None => match self.use_next_hop(NextHop::Outside) {
                Some(number) => number,
                None => return,
            },
        };
        let pools = self.pools.clone();
        self.wanted.node = Some(NodeEntry { address, host: self.host_interface, next_hop, pools });
        self.wanted.node_addresses = self.all_addresses();
    }
}

/// All addresses of a node, of this one's family.
fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

/// The smallest address in order.
const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

/// Counts one up or down; true when it appears or goes.
fn step(
    table: &mut BTreeMap<String, BTreeMap<IpNet, usize>>,
    vrf: &str,
    prefix: IpNet,
    by: isize,
) -> bool {
    let addresses = table.entry(vrf.to_owned()).or_default();
    let count = addresses.entry(prefix).or_default();
    let before = *count;
    *count = count.saturating_add_signed(by);
    let after = *count;
    if after == 0 {
        addresses.remove(&prefix);
        if addresses.is_empty() {
            table.remove(vrf);
        }
    }
    (before == 0) != (after == 0)
}
