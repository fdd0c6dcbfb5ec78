//! One node as the controller sees it.

use crate::core::may_have;
use crate::dns::{DnsDelta, PendingDns, SentDns};
use crate::message;
use ipnet::IpNet;
use skein_bgp::{Rib, TunnelType};
use skein_compiler::{Engine, Global, Interface, PolicySet, Service, ServiceSet, Vrf};
use skein_proto::session;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Tells a node's sessions apart; a later one has a higher number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId(pub(crate) u64);

/// A route that a node announced, before intent is asked whether the port has the address.
#[derive(Clone, Debug)]
pub(crate) struct LocalRoute {
    pub(crate) label: u32,
    pub(crate) instance: u16,
}

/// Names a route of a node: the port, the prefix, and the VRF where it is announced.
pub(crate) type LocalKey = (Uuid, IpNet, Arc<str>);

impl LocalRoute {
    /// Reads a published route; the error says what is wrong with it.
    pub(crate) fn parse(route: &session::LocalRoute) -> Result<(LocalKey, LocalRoute), String> {
        let interface: Uuid = route
            .interface
            .parse()
            .map_err(|_| format!("interface {:?} is no uuid", route.interface))?;
        let prefix: IpNet = route
            .prefix
            .parse()
            .map_err(|_| format!("prefix {:?} is not ADDRESS/LENGTH", route.prefix))?;
        if route.label < 16 || route.label > 0x000f_ffff {
            return Err(format!("label {} is outside 16 to 1048575", route.label));
        }
        let instance = u16::try_from(route.instance_id)
            .map_err(|_| format!("instance_id {} is above 65535", route.instance_id))?;
        let key = (interface, prefix, Arc::from(route.vrf.as_str()));
        Ok((key, LocalRoute { label: route.label, instance }))
    }
}

/// What a node has not been told yet.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) global: bool,
    pub(crate) interfaces: BTreeSet<Uuid>,
    /// By network; only VRFs that the node has already.
    pub(crate) vrfs: BTreeSet<Uuid>,
    /// By listener of a load balancer; only services that the node may use.
    pub(crate) services: BTreeSet<Uuid>,
    pub(crate) dns: PendingDns,
    pub(crate) routes: BTreeSet<(Arc<str>, IpNet)>,
    end_of_rib: BTreeSet<String>,
    snapshot: bool,
}

/// Changes of intent for one node.
#[derive(Debug, Default)]
pub(crate) struct IntentDelta {
    pub(crate) revision: u64,
    pub(crate) global: Option<Arc<Global>>,
    pub(crate) vrfs: Vec<Arc<Vrf>>,
    pub(crate) vrfs_removed: Vec<String>,
    pub(crate) policies: Vec<Arc<PolicySet>>,
    pub(crate) policies_removed: Vec<Uuid>,
    pub(crate) interfaces: Vec<Arc<Interface>>,
    pub(crate) interfaces_removed: Vec<Uuid>,
    pub(crate) services: Vec<Service>,
    pub(crate) services_removed: Vec<String>,
    pub(crate) dns: DnsDelta,
    pub(crate) end_of_snapshot: bool,
}

/// A node and its session.
#[derive(Debug)]
pub struct Node {
    /// Where others send encapsulated packets.
    pub tunnel_address: IpAddr,
    /// What it can receive.
    pub tunnels: Vec<TunnelType>,
    /// Software version it said it has.
    pub version: String,
    /// When its current session began or its last one ended, on the controller's clock.
    pub since: Duration,
    /// Its last report.
    pub status: session::Status,
    pub(crate) session: Option<SessionId>,
    pub(crate) gone_since: Option<Duration>,
    /// Away for so long that other ways to its addresses are better, and not heard in full since.
    pub(crate) stale: bool,
    pub(crate) interest: BTreeSet<Uuid>,
    pub(crate) announced_interest: bool,
    pub(crate) published: BTreeMap<LocalKey, LocalRoute>,
    /// Routes announced again in this session.
    pub(crate) refreshed: BTreeSet<LocalKey>,
    pub(crate) published_all: bool,
    pub(crate) pending: Pending,
    sent_interfaces: BTreeMap<Uuid, Arc<Interface>>,
    sent_vrfs: BTreeMap<Uuid, Arc<Vrf>>,
    /// Networks whose services its workloads may use.
    served: BTreeSet<Uuid>,
    sent_services: BTreeMap<Uuid, Arc<ServiceSet>>,
    pub(crate) sent_dns: SentDns,
}

impl Node {
    pub(crate) fn new(tunnel_address: IpAddr) -> Node {
        Node {
            tunnel_address,
            tunnels: Vec::new(),
            version: String::new(),
            since: Duration::ZERO,
            status: session::Status::default(),
            session: None,
            gone_since: None,
            stale: false,
            interest: BTreeSet::new(),
            announced_interest: false,
            published: BTreeMap::new(),
            refreshed: BTreeSet::new(),
            published_all: false,
            pending: Pending::default(),
            sent_interfaces: BTreeMap::new(),
            sent_vrfs: BTreeMap::new(),
            served: BTreeSet::new(),
            sent_services: BTreeMap::new(),
            sent_dns: SentDns::default(),
        }
    }

    /// Whether it has a session.
    pub fn connected(&self) -> bool {
        self.session.is_some()
    }

    /// Whether it has been away for longer than it may, and nobody has drawn the consequences.
    pub(crate) fn is_lost(&self, now: Duration, grace: Duration) -> bool {
        !self.stale && self.gone_since.is_some_and(|since| now >= since + grace)
    }

    /// How many routes it announces.
    pub fn route_count(&self) -> usize {
        self.published.len()
    }

    /// A new session begins: the node is told everything again.
    pub(crate) fn open(
        &mut self,
        id: SessionId,
        version: String,
        tunnel_address: IpAddr,
        tunnels: Vec<TunnelType>,
        now: Duration,
    ) {
        self.session = Some(id);
        self.version = version;
        self.tunnel_address = tunnel_address;
        self.tunnels = tunnels;
        self.since = now;
        self.gone_since = None;
        self.announced_interest = false;
        self.refreshed.clear();
        self.published_all = false;
        self.sent_interfaces.clear();
        self.sent_vrfs.clear();
        self.served.clear();
        self.sent_services.clear();
        self.sent_dns.clear();
        self.pending = Pending { global: true, snapshot: true, ..Pending::default() };
        self.pending.interfaces.extend(&self.interest);
    }

    pub(crate) fn close(&mut self, now: Duration) {
        self.session = None;
        self.since = now;
        self.gone_since = Some(now);
        self.pending = Pending::default();
    }

    pub(crate) fn sent_vrf(&self, network: Uuid) -> bool {
        self.sent_vrfs.contains_key(&network)
    }

    /// How many services it has been told of.
    pub fn service_count(&self) -> usize {
        self.sent_services.values().map(|set| set.services.len()).sum()
    }

    /// Whether services of a listener concern it; `network` is where they live now.
    pub(crate) fn uses_services(&self, listener: Uuid, network: Option<Uuid>) -> bool {
        self.sent_services.contains_key(&listener)
            || network.is_some_and(|network| self.served.contains(&network))
    }

    pub(crate) fn published_of(
        &self,
        uuid: Uuid,
    ) -> impl Iterator<Item = (&LocalKey, &LocalRoute)> {
        // The zero prefix of IPv4 sorts before every other one.
        self.published
            .range((uuid, IpNet::default(), Arc::from(""))..)
            .take_while(move |((of, _, _), _)| *of == uuid)
    }

    pub(crate) fn has_news(&self, rib_complete: bool) -> bool {
        let p = &self.pending;
        self.announced_interest
            && (p.global
                || p.snapshot
                || !p.interfaces.is_empty()
                || !p.vrfs.is_empty()
                || !p.services.is_empty()
                || !p.dns.is_empty()
                || !p.routes.is_empty()
                || (rib_complete && !p.end_of_rib.is_empty()))
    }

    fn policies(&self) -> BTreeMap<Uuid, Arc<PolicySet>> {
        let sets = self.sent_interfaces.values().flat_map(|port| port.policies());
        sets.map(|set| (set.id, set.clone())).collect()
    }

    /// Turns pending intent into a delta, as things are now.
    pub(crate) fn take_intent(
        &mut self,
        name: &str,
        engine: &Engine,
        rib: &Rib,
        revision: u64,
    ) -> Option<IntentDelta> {
        let pending = &mut self.pending;
        let touched = std::mem::take(&mut pending.interfaces);
        let mut dirty_vrfs = std::mem::take(&mut pending.vrfs);
        let snapshot = std::mem::take(&mut pending.snapshot);
        let global = std::mem::take(&mut pending.global);
        let mut listeners = std::mem::take(&mut pending.services);
        let nothing = touched.is_empty()
            && dirty_vrfs.is_empty()
            && listeners.is_empty()
            && pending.dns.is_empty();
        if nothing && !snapshot && !global {
            return None;
        }
        let mut out = IntentDelta { revision, end_of_snapshot: snapshot, ..IntentDelta::default() };
        if global {
            out.global = engine.global().map(|global| Arc::new(global.seen_from(name)));
        }
        let policies_before = self.policies();
        for uuid in touched {
            let port = engine
                .interface(uuid)
                .filter(|port| self.interest.contains(&uuid) && may_have(name, port));
            match port {
                Some(port) if self.sent_interfaces.get(&uuid) == Some(port) => {}
                Some(port) => {
                    self.sent_interfaces.insert(uuid, port.clone());
                    out.interfaces.push(port.clone());
                }
                None => {
                    if self.sent_interfaces.remove(&uuid).is_some() {
                        out.interfaces_removed.push(uuid);
                    }
                }
            }
        }
        let (needed, served) = self.needs(engine);
        for network in served.difference(&self.served) {
            listeners.extend(engine.listeners_in(*network));
        }
        let unserved = self.sent_services.iter().filter(|(_, set)| !served.contains(&set.network));
        listeners.extend(unserved.map(|(listener, _)| *listener));
        self.served = served;
        dirty_vrfs.extend(needed.iter().filter(|n| !self.sent_vrfs.contains_key(n)));
        dirty_vrfs.extend(self.sent_vrfs.keys().filter(|n| !needed.contains(n)));
        for network in dirty_vrfs {
            self.update_vrf(network, needed.contains(&network), engine, rib, &mut out);
        }
        for listener in listeners {
            self.update_services(listener, engine, &mut out);
        }
        self.take_dns(&needed, engine, &mut out);
        let policies = self.policies();
        out.policies.extend(
            policies.values().filter(|set| !policies_before.contains_key(&set.id)).cloned(),
        );
        out.policies_removed.extend(policies_before.keys().filter(|id| !policies.contains_key(id)));
        Some(out)
    }

    /// Networks whose VRFs the node needs, and those among them whose services its workloads may use.
    fn needs(&self, engine: &Engine) -> (BTreeSet<Uuid>, BTreeSet<Uuid>) {
        let mut needed = BTreeSet::new();
        let mut clients = BTreeSet::new();
        // A network's ports use the same services, but for the nodes' own stacks, of which a node has one.
        let mut others = BTreeMap::new();
        for port in self.sent_interfaces.values() {
            clients.insert(port.network);
            if port.is_host {
                others.insert(port.network, &port.others_services);
            }
            needed.extend(port.contexts.iter().map(|context| context.network));
        }
        let mut served = BTreeSet::new();
        for vrf in clients.iter().filter_map(|network| engine.vrf(*network)) {
            let others = others.get(&vrf.network_uuid);
            let usable = vrf.service_vrfs.iter().map(|(_, network)| *network);
            let usable = usable.filter(|used| others.is_none_or(|others| !others.contains(used)));
            served.extend(usable.filter(|network| engine.vrf(*network).is_some()));
        }
        needed.extend(&clients);
        needed.extend(&served);
        (needed, served)
    }

    fn update_services(&mut self, listener: Uuid, engine: &Engine, out: &mut IntentDelta) {
        let new = engine.services_of(listener).filter(|set| self.served.contains(&set.network));
        let old = match new {
            Some(new) => self.sent_services.insert(listener, new.clone()),
            None => self.sent_services.remove(&listener),
        };
        let list = |set: Option<&Arc<ServiceSet>>| -> BTreeMap<String, Service> {
            let all = set.into_iter().flat_map(|set| &set.services);
            all.map(|service| (service.id.clone(), service.clone())).collect()
        };
        let (old, new) = (list(old.as_ref()), list(new));
        out.services_removed.extend(old.keys().filter(|id| !new.contains_key(*id)).cloned());
        out.services.extend(
            new.into_iter().filter(|(id, new)| old.get(id) != Some(new)).map(|(_, new)| new),
        );
    }

    fn update_vrf(
        &mut self,
        network: Uuid,
        needed: bool,
        engine: &Engine,
        rib: &Rib,
        out: &mut IntentDelta,
    ) {
        let Some(vrf) = engine.vrf(network).filter(|_| needed) else {
            if let Some(old) = self.sent_vrfs.remove(&network) {
                out.vrfs_removed.push(old.name.clone());
                self.pending.routes.retain(|(name, _)| **name != *old.name);
                self.pending.end_of_rib.remove(&old.name);
            }
            return;
        };
        match self.sent_vrfs.insert(network, vrf.clone()) {
            Some(old) if old == *vrf => return,
            Some(_) => {}
            None => {
                let name: Arc<str> = Arc::from(vrf.name.as_str());
                let all = rib.prefixes(&vrf.name).map(|prefix| (name.clone(), *prefix));
                self.pending.routes.extend(all);
                self.pending.end_of_rib.insert(vrf.name.clone());
            }
        }
        out.vrfs.push(vrf.clone());
    }

    /// Turns pending routes into a message, as the table is now.
    pub(crate) fn take_routes(
        &mut self,
        rib: &Rib,
        rib_complete: bool,
    ) -> Option<session::ToAgent> {
        let changed = std::mem::take(&mut self.pending.routes);
        let mut out = session::Routes::default();
        for (vrf, prefix) in changed {
            let best = rib.best(&vrf, &prefix);
            if best.is_empty() {
                let key = session::RouteKey { vrf: vrf.to_string(), prefix: prefix.to_string() };
                out.unreach.push(key);
            } else {
                out.reach.push(message::route(&vrf, &prefix, &best));
            }
        }
        if rib_complete {
            out.end_of_rib.extend(std::mem::take(&mut self.pending.end_of_rib));
        }
        let nothing = out.reach.is_empty() && out.unreach.is_empty() && out.end_of_rib.is_empty();
        (!nothing)
            .then_some(session::ToAgent { message: Some(session::to_agent::Message::Routes(out)) })
    }
}
