//! From words to tables, one key at a time: pure functions of the merged view and the local ports.

use super::merge::Merged;
use super::spec::PathSpec;
use super::tables::{Encapsulation, NextHop};
use ipnet::IpNet;
use skein_policy::{Attributes, Identity};
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// More equal paths than this are cut off; the rest stays reachable through these.
pub(crate) const ECMP_LIMIT: usize = 16;

/// The preference list when the configuration has none: VXLAN first, because kernels and NICs merge it
/// on receive (DESIGN decision 9).
pub(crate) const DEFAULT_ENCAPSULATIONS: [Encapsulation; 3] =
    [Encapsulation::Vxlan, Encapsulation::MplsOverUdp, Encapsulation::MplsOverGre];

/// A workload of this node as a route destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalPath {
    pub(crate) ifindex: u32,
    /// Number of the port's context in that VRF; 0: it is the port's own.
    pub(crate) context: u32,
    pub(crate) attributes: Attributes,
    /// Higher is better.
    pub(crate) local_preference: u32,
    /// Nobody else's route for the prefix counts: an address of the node's making.
    pub(crate) alone: bool,
}

/// What a route compiles to before numbers are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CompiledRoute {
    pub(crate) members: Vec<NextHop>,
    pub(crate) identity: Identity,
}

/// Everything route compilation depends on besides the controllers' routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) own_address: Option<IpAddr>,
    pub(crate) encapsulations: Vec<Encapsulation>,
    /// VRF names to numbers.
    pub(crate) vrfs: BTreeMap<String, u32>,
    /// Those whose services are the node's own.
    pub(crate) link_local: BTreeSet<String>,
    /// Local workloads by VRF name and host prefix.
    pub(crate) local: BTreeMap<String, BTreeMap<IpNet, Vec<LocalPath>>>,
    /// Local workloads by label, for routes that lead back here: host end and context.
    pub(crate) labels: BTreeMap<u32, (u32, u32)>,
    /// What a VRF has besides its routes.
    pub(crate) reach: BTreeMap<String, Reach>,
    /// Addresses of services, and of their members outside the fabric.
    pub(crate) services: Arc<ServiceIndex>,
    /// CIDR conditions of all policies in use.
    pub(crate) conditions: BTreeSet<IpNet>,
    /// Addresses in the underlay that workloads here have: VRF, host end and context.
    pub(crate) natives: BTreeMap<IpAddr, (u32, u32, u32)>,
    /// Addresses of nodes: no service takes them away from those.
    pub(crate) nodes: BTreeSet<IpNet>,
}

/// What a VRF has besides its routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// VRFs whose services its workloads may use: name, number, network.
    pub(crate) services: Vec<(String, u32, u32)>,
    /// What no route matches leaves from the node's own address.
    pub(crate) outside: bool,
    /// It is in the underlay: so leaves what others there have, and what no route matches.
    pub(crate) underlay: bool,
    /// Of the underlay, where only what is routed is reached.
    pub(crate) closed: BTreeSet<IpNet>,
}

/// Default routes of both families.
const EVERYWHERE: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0)),
];

/// Addresses by VRF, each with how many services have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceIndex {
    pub(crate) addresses: BTreeMap<String, BTreeMap<IpNet, usize>>,
    /// Members that are no workloads: reached from the node's own address.
    pub(crate) outside: BTreeMap<String, BTreeMap<IpNet, usize>>,
    /// Those whose members see clients outside the fabric by their own addresses.
    pub(crate) entered: BTreeMap<String, BTreeMap<IpNet, usize>>,
}

fn has(table: &BTreeMap<String, BTreeMap<IpNet, usize>>, vrf: &str, prefix: &IpNet) -> bool {
    table.get(vrf).is_some_and(|addresses| addresses.contains_key(prefix))
}

impl Context {
    /// Gives an address in the underlay to a port's VRF, host end and context: it is the first one's.
    pub(crate) fn claim(&mut self, address: IpAddr, place: (u32, u32, u32)) -> Result<(), String> {
        if Some(address) == self.own_address || self.natives.contains_key(&address) {
            return Err(format!("{address} is another one's in the underlay"));
        }
        self.natives.insert(address, place);
        Ok(())
    }

    /// The default route's prefix, of the family in which the node has an address.
    pub(crate) fn default_prefix(&self) -> Option<IpNet> {
        match self.own_address? {
            IpAddr::V4(_) => Some(IpNet::V4(ipnet::Ipv4Net::default())),
            IpAddr::V6(_) => Some(IpNet::V6(ipnet::Ipv6Net::default())),
        }
    }

    /// Prefixes that a VRF has for services, for the outside and for its clients, whatever routes it has.
    pub(crate) fn derived(&self, vrf: &str) -> Vec<IpNet> {
        let reach = self.reach.get(vrf);
        let services = reach.into_iter().flat_map(|reach| &reach.services);
        let addresses = services.filter_map(|(name, _, _)| self.services.addresses.get(name));
        let mut all: Vec<IpNet> = addresses.flat_map(|table| table.keys().copied()).collect();
        all.extend(self.services.outside.get(vrf).into_iter().flat_map(|table| table.keys()));
        let outside = reach.is_some_and(|reach| reach.outside);
        all.extend(self.default_prefix().filter(|_| outside));
        if let Some(reach) = reach {
            all.extend(EVERYWHERE.into_iter().filter(|_| reach.underlay));
            all.extend(&reach.closed);
        }
        if self.services.entered.contains_key(vrf) {
            all.extend(&self.conditions);
        }
        all
    }

    /// The route to a service's address.
    fn service(&self, vrf: &str, prefix: &IpNet) -> Option<(Vec<NextHop>, Attributes)> {
        if self.nodes.contains(prefix) {
            return None;
        }
        let reach = self.reach.get(vrf)?;
        let mut usable = reach.services.iter();
        let (_, number, network) =
            usable.find(|(name, _, _)| has(&self.services.addresses, name, prefix))?;
        let attributes = Attributes { network: *network, ..Attributes::default() };
        Some((vec![NextHop::Service { vrf: *number }], attributes))
    }

    /// Whether the node can send to an address of this family from its own.
    fn leaves(&self, prefix: &IpNet) -> bool {
        self.own_address.is_some_and(|own| own.is_ipv4() == prefix.addr().is_ipv4())
    }

    /// Compiles one key of the merged table: a route's prefix or a condition's. `None` when nothing covers it.
    pub(crate) fn route(
        &self,
        merged: &Merged,
        vrf: &str,
        prefix: &IpNet,
    ) -> Option<CompiledRoute> {
        let own = self.covering(merged, vrf, prefix);
        if own.is_none() && !self.conditions.contains(prefix) {
            return None;
        }
        let above = || ancestors(*prefix).skip(1).find_map(|p| self.covering(merged, vrf, &p));
        // Clients outside, whom no route leads to, are judged all the same: by the route that tells which conditions hold.
        let entered = || {
            let entered = self.services.entered.contains_key(vrf);
            entered.then(|| (vec![NextHop::Discard], Attributes::default()))
        };
        let (members, attributes) = own.or_else(above).or_else(entered)?;
        let holding = if self.conditions.is_empty() {
            Vec::new()
        } else {
            ancestors(*prefix).filter(|p| self.conditions.contains(p)).collect()
        };
        Some(CompiledRoute { members, identity: Identity::new(attributes, holding) })
    }

    /// The keys whose compilation may change when the route at `prefix` does.
    pub(crate) fn affected(&self, prefix: IpNet) -> impl Iterator<Item = IpNet> + '_ {
        let inside = self.conditions.iter().copied().filter(move |c| prefix.contains(c));
        std::iter::once(prefix).chain(inside)
    }

    fn covering(
        &self,
        merged: &Merged,
        vrf: &str,
        prefix: &IpNet,
    ) -> Option<(Vec<NextHop>, Attributes)> {
        // A service's address is the services' alone.
        if let Some(service) = self.service(vrf, prefix) {
            return Some(service);
        }
        let reach = self.reach.get(vrf);
        let underlay = reach.is_some_and(|reach| reach.underlay);
        let mut members = Vec::new();
        let mut attributes = None;
        let mut paths = merged.paths(vrf, prefix);
        for local in self.preferred_locals(vrf, prefix, &mut paths) {
            // All members of a service announce its address: a node may have more of them than a next hop takes.
            if members.len() < ECMP_LIMIT {
                members.push(NextHop::Local { ifindex: local.ifindex, context: local.context });
            }
            attributes.get_or_insert_with(|| local.attributes.clone());
            if local.alone {
                return Some((members, local.attributes.clone()));
            }
        }
        paths.sort_by_key(|path| std::cmp::Reverse(path.local_preference));
        let best = paths.first().map(|path| path.local_preference);
        for path in paths.iter().filter(|path| Some(path.local_preference) == best) {
            let Some(member) = self.member(path, prefix, underlay) else { continue };
            attributes.get_or_insert_with(|| path.attributes.clone());
            if !members.contains(&member) && members.len() < ECMP_LIMIT {
                members.push(member);
            }
        }
        let outside = || (vec![NextHop::Outside], Attributes::default());
        // A service's member that is no workload: another machine answers it past the fabric, so it is asked
        // past the fabric, too. When it is a node of ours, what that asks itself comes through the fabric all the
        // same: its ways stay behind the first one, which is taken where it goes out.
        let here = members.iter().any(|member| matches!(member, NextHop::Local { .. }));
        if !here && self.leaves(prefix) && has(&self.services.outside, vrf, prefix) {
            let (mut all, attributes) = outside();
            all.extend(members);
            all.truncate(ECMP_LIMIT);
            return Some((all, attributes));
        }
        if attributes.is_none()
            && self.default_prefix() == Some(*prefix)
            && reach.is_some_and(|reach| reach.outside)
        {
            return Some(outside());
        }
        if attributes.is_none() && reach.is_some_and(|reach| reach.closed.contains(prefix)) {
            return Some((vec![NextHop::Discard], Attributes::default()));
        }
        if attributes.is_none() && underlay && EVERYWHERE.contains(prefix) {
            return Some((vec![NextHop::Native { node: None }], Attributes::default()));
        }
        Some((members, attributes?))
    }

    /// Local workloads with an address, but for those that stand back behind another one of the same network that is
    /// preferred, here or elsewhere: active and standby share an address. Paths that stand back behind a local one go.
    fn preferred_locals(
        &self,
        vrf: &str,
        prefix: &IpNet,
        paths: &mut Vec<PathSpec>,
    ) -> Vec<&LocalPath> {
        let locals = self.local.get(vrf).and_then(|table| table.get(prefix));
        let locals: Vec<&LocalPath> = locals.into_iter().flatten().collect();
        let best = |network: u32| {
            let local = locals.iter().filter(|local| local.attributes.network == network);
            local.map(|local| local.local_preference).max()
        };
        paths.retain(|path| {
            // Our own, back from a controller, may be older than what is known here.
            Some(path.next_hop) == self.own_address
                || best(path.attributes.network) <= Some(path.local_preference)
        });
        let better = |local: &LocalPath| {
            let elsewhere = paths.iter().any(|path| {
                path.attributes.network == local.attributes.network
                    && path.local_preference > local.local_preference
                    && Some(path.next_hop) != self.own_address
            });
            elsewhere || best(local.attributes.network) > Some(local.local_preference)
        };
        locals.iter().copied().filter(|local| !better(local)).collect()
    }

    fn member(&self, path: &PathSpec, prefix: &IpNet, underlay: bool) -> Option<NextHop> {
        if Some(path.next_hop) == self.own_address {
            // Our own route, back from a controller: straight to the workload, or nowhere if it has gone.
            let (ifindex, context) = *self.labels.get(&path.label)?;
            return Some(NextHop::Local { ifindex, context });
        }
        if underlay && path.native {
            // A node of the other family is no gateway: it answers for the address itself.
            let same = path.next_hop.is_ipv4() == prefix.addr().is_ipv4();
            return Some(NextHop::Native { node: same.then_some(path.next_hop) });
        }
        let usable = |wanted: &Encapsulation| {
            path.encapsulations.iter().filter_map(|e| encapsulation(*e)).any(|e| e == *wanted)
        };
        Some(NextHop::Tunnel {
            destination: path.next_hop,
            encapsulation: *self.encapsulations.iter().find(|wanted| usable(wanted))?,
            label: path.label,
        })
    }
}

/// Addresses of all nodes.
pub(crate) fn node_prefixes(global: Option<&wire::Global>) -> BTreeSet<IpNet> {
    let nodes = global.map(|global| global.nodes.as_slice()).unwrap_or_default();
    let texts = nodes.iter().flat_map(|node| &node.addresses);
    texts.filter_map(|text| text.parse::<IpAddr>().ok()).map(IpNet::from).collect()
}

/// Which connections last otherwise: seconds by protocol and port.
pub(crate) fn ages(global: Option<&wire::Global>) -> BTreeMap<(u8, u16), u32> {
    let listed = global.map(|global| global.flow_ages.as_slice()).unwrap_or_default();
    let one = |age: &wire::FlowAge| {
        let key = (u8::try_from(age.protocol).ok()?, u16::try_from(age.port).ok()?);
        Some((key, age.seconds))
    };
    listed.iter().filter_map(one).collect()
}

/// The preference list of the configuration, or the default.
pub(crate) fn encapsulations(global: Option<&wire::Global>) -> Vec<Encapsulation> {
    let wanted =
        global.map(|global| global.encapsulation_priorities.as_slice()).unwrap_or_default();
    let mut list: Vec<Encapsulation> = Vec::new();
    for one in wanted.iter().filter_map(|number| encapsulation(*number)) {
        if !list.contains(&one) {
            list.push(one);
        }
    }
    if list.is_empty() { DEFAULT_ENCAPSULATIONS.to_vec() } else { list }
}

fn encapsulation(number: i32) -> Option<Encapsulation> {
    match wire::Encapsulation::try_from(number).ok()? {
        wire::Encapsulation::Unspecified => None,
        wire::Encapsulation::MplsOUdp => Some(Encapsulation::MplsOverUdp),
        wire::Encapsulation::Vxlan => Some(Encapsulation::Vxlan),
        wire::Encapsulation::MplsOGre => Some(Encapsulation::MplsOverGre),
    }
}

/// The prefix itself and everything that contains it, longest first.
fn ancestors(prefix: IpNet) -> impl Iterator<Item = IpNet> {
    std::iter::successors(Some(prefix), IpNet::supernet)
}
