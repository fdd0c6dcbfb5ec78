//! What the controller knows and what it owes each node. No I/O: time and events come in as
//! arguments, messages are taken out by whoever has room to send them.
//!
//! Every node has a set of things that it has not been told yet. A change only adds to that set;
//! [`Core::take`] turns it into messages from what is true *then*. A slow node therefore costs one
//! entry a thing, and what changed twice is sent once.

use crate::message;
use crate::node::{LocalRoute, Node, SessionId};
use ipnet::IpNet;
use skein_bgp::{
    Path, PathKey, Rib, RouteDistinguisher, RouteTarget, STALE_LOCAL_PREFERENCE, Source,
};
use skein_compiler::{Engine, Interface};
use skein_model::{Change, Kind};
use skein_proto::session;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long after its start a controller waits for all nodes to announce their routes before it
/// tells anyone that a table is complete (spec/control-plane.md section 4.6, shortened: agents
/// reconnect within seconds).
pub const END_OF_RIB_LIMIT: Duration = Duration::from_secs(60);

/// How long routes of a node without a session stay (graceful restart, RFC 4724).
pub const RESTART_TIME: Duration = Duration::from_secs(300);

/// How long a node may be without a session before its routes stand back behind every other way to the same address. An
/// agent that restarts is back sooner, so its workloads keep their traffic; where a node has died, a standby elsewhere
/// takes over after this time, if the controller is not told another one. Shorter than an agent takes to come back on a busy
/// machine, it would cost the connections of every shared address at each restart.
pub const STALE_TIME: Duration = Duration::from_secs(5);

/// The controller's state.
#[derive(Debug, Default)]
pub struct Core {
    engine: Engine,
    rib: Rib,
    nodes: BTreeMap<String, Node>,
    /// Nodes that announced a port.
    homes: HashMap<Uuid, BTreeSet<String>>,
    /// Nodes that have a VRF.
    holders: HashMap<Arc<str>, BTreeSet<String>>,
    /// Paths in the table for each port.
    announced: HashMap<Uuid, BTreeSet<PathKey>>,
    /// Ports of the nodes' own stacks, by node. A node has its own without asking.
    host_ports: HashMap<String, Uuid>,
    /// VRF names by network, to know what to remove.
    vrf_names: HashMap<Uuid, Arc<str>>,
    revision: u64,
    /// The whole configuration has been read once.
    synced: bool,
    /// Tables hold what every node had before this controller started.
    rib_complete: bool,
    started: Option<Duration>,
    /// [`STALE_TIME`] unless told otherwise.
    grace: Option<Duration>,
    last_session: u64,
}

impl Core {
    /// Applies configuration changes of one revision. `snapshot` says that the graph is whole now.
    pub fn configure(&mut self, changes: &[Change], revision: u64, snapshot: bool) {
        let delta = self.engine.apply(changes);
        self.revision = revision;
        self.synced |= snapshot;
        let mut refresh: BTreeSet<Uuid> = BTreeSet::new();
        for (network, vrf) in delta.vrfs {
            match vrf {
                Some(vrf) => {
                    let mut import = vrf.import.clone();
                    // Members of its services are for itself alone.
                    import.insert(RouteTarget::private(vrf.network_id));
                    self.rib.set_vrf(&vrf.name, vrf.network_id, &import);
                    self.vrf_names.insert(network, Arc::from(vrf.name.as_str()));
                    // Route targets of its routes may differ now.
                    refresh.extend(self.announced_in(network));
                }
                None => {
                    if let Some(name) = self.vrf_names.remove(&network) {
                        self.rib.remove_vrf(&name);
                    }
                }
            }
            for node in self.nodes.values_mut().filter(|node| node.sent_vrf(network)) {
                node.pending.vrfs.insert(network);
            }
        }
        for (listener, services) in delta.services {
            let network = services.map(|set| set.network);
            for node in self.nodes.values_mut() {
                if node.uses_services(listener, network) {
                    node.pending.services.insert(listener);
                }
            }
        }
        for (zone, _) in delta.dns_zones {
            self.nodes.values_mut().for_each(|node| node.zone_changed(zone));
        }
        for (object, set) in delta.dns_records {
            let zone = set.map(|set| set.zone);
            self.nodes.values_mut().for_each(|node| node.records_changed(object, zone));
        }
        for (uuid, port) in delta.interfaces {
            refresh.insert(uuid);
            self.host_ports.retain(|_, host_port| *host_port != uuid);
            if let Some(port) = port.filter(|port| port.is_host)
                && let Some(host) = &port.host
            {
                self.host_ports.insert(host.clone(), uuid);
                self.give_host_port(host);
            }
            for name in self.homes.get(&uuid).into_iter().flatten() {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.pending.interfaces.insert(uuid);
                }
            }
        }
        if delta.global.is_some() {
            for node in self.nodes.values_mut() {
                node.pending.global = true;
            }
        }
        for uuid in refresh {
            self.refresh_routes(uuid);
        }
        self.spread();
    }

    /// A node has the port of its own stack, whether it has heard of it yet or not.
    fn give_host_port(&mut self, name: &str) {
        let Some(uuid) = self.host_ports.get(name).copied() else { return };
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.interest.insert(uuid);
        node.pending.interfaces.insert(uuid);
        self.homes.entry(uuid).or_default().insert(name.to_owned());
    }

    /// Ports of a network, or present in it, that are in the routing table or could be.
    fn announced_in(&self, network: Uuid) -> Vec<Uuid> {
        let in_network = |uuid: &Uuid| {
            self.engine.interface(*uuid).is_some_and(|port| {
                port.network == network || port.contexts.iter().any(|c| c.network == network)
            })
        };
        self.homes.keys().filter(|uuid| in_network(uuid)).copied().collect()
    }

    // ------------------------------------------------------------- sessions

    /// A node connected. An older session of the same node is over: its id no longer counts.
    pub fn connect(&mut self, hello: &session::Hello, now: Duration) -> Result<SessionId, String> {
        let tunnel_address: IpAddr = hello
            .tunnel_address
            .parse()
            .map_err(|_| format!("tunnel_address {:?} is no IP address", hello.tunnel_address))?;
        if hello.node.is_empty() {
            return Err("hello without a node name".into());
        }
        self.last_session += 1;
        let id = SessionId(self.last_session);
        let node =
            self.nodes.entry(hello.node.clone()).or_insert_with(|| Node::new(tunnel_address));
        let tunnels = message::tunnels(&hello.encapsulations);
        let moved = node.tunnel_address != tunnel_address || node.tunnels != tunnels;
        node.open(id, hello.version.clone(), tunnel_address, tunnels, now);
        if moved {
            for uuid in node.interest.clone() {
                self.refresh_routes(uuid);
            }
            self.spread();
        }
        self.give_host_port(&hello.node);
        self.started.get_or_insert(now);
        Ok(id)
    }

    /// A session is over. Routes of the node stay until [`RESTART_TIME`] has passed.
    pub fn disconnect(&mut self, node: &str, id: SessionId, now: Duration) {
        if let Some(node) = self.current(node, id) {
            node.close(now);
        }
    }

    /// The node, if `id` is its current session.
    fn current(&mut self, name: &str, id: SessionId) -> Option<&mut Node> {
        self.nodes.get_mut(name).filter(|node| node.session == Some(id))
    }

    /// A node says which ports it has.
    pub fn interest(&mut self, name: &str, id: SessionId, interest: &session::Interest) {
        let host_port = self.host_ports.get(name).copied();
        let Some(node) = self.current(name, id) else { return };
        let uuids = |list: &[String]| -> BTreeSet<Uuid> {
            list.iter().filter_map(|text| text.parse().ok()).collect()
        };
        let mut add = uuids(&interest.add);
        add.extend(host_port);
        let mut gone = uuids(&interest.remove);
        if interest.replace {
            gone.extend(node.interest.difference(&add));
            node.announced_interest = true;
        }
        gone.retain(|uuid| Some(*uuid) != host_port);
        node.interest.extend(&add);
        node.interest.retain(|uuid| !gone.contains(uuid));
        node.pending.interfaces.extend(add.iter().chain(&gone));
        for uuid in &gone {
            if let Some(homes) = self.homes.get_mut(uuid) {
                homes.remove(name);
                if homes.is_empty() {
                    self.homes.remove(uuid);
                }
            }
        }
        for uuid in &add {
            self.homes.entry(*uuid).or_default().insert(name.to_owned());
        }
        for uuid in add.union(&gone) {
            self.refresh_routes(*uuid);
        }
        self.spread();
    }

    /// A node announces or withdraws routes of its workloads. Returns what it may not announce.
    pub fn publish(
        &mut self,
        name: &str,
        id: SessionId,
        publish: &session::Publish,
    ) -> Vec<(session::LocalRoute, String)> {
        let mut rejected = Vec::new();
        let Some(node) = self.current(name, id) else { return rejected };
        let mut touched = BTreeSet::new();
        for route in &publish.reach {
            match LocalRoute::parse(route) {
                Ok(((uuid, _, _), _)) if !node.interest.contains(&uuid) => {
                    let reason = "this node did not announce the port in its interest".to_owned();
                    rejected.push((route.clone(), reason));
                }
                Ok((key, local)) => {
                    touched.insert(key.0);
                    node.published.insert(key.clone(), local);
                    node.refreshed.insert(key);
                }
                Err(reason) => rejected.push((route.clone(), reason)),
            }
        }
        for route in &publish.unreach {
            if let Ok((key, _)) = LocalRoute::parse(route) {
                node.published.remove(&key);
                touched.insert(key.0);
            }
        }
        for uuid in touched {
            self.refresh_routes(uuid);
        }
        self.spread();
        rejected
    }

    /// A node has announced everything: what it did not repeat is gone.
    pub fn end_of_publish(&mut self, name: &str, id: SessionId) {
        let Some(node) = self.current(name, id) else { return };
        let gone: Vec<_> =
            node.published.keys().filter(|key| !node.refreshed.contains(*key)).cloned().collect();
        for key in &gone {
            node.published.remove(key);
        }
        node.published_all = true;
        let mut concerned: BTreeSet<Uuid> = gone.into_iter().map(|(uuid, _, _)| uuid).collect();
        if std::mem::take(&mut node.stale) {
            concerned.extend(&node.interest);
        }
        for uuid in concerned {
            self.refresh_routes(uuid);
        }
        self.check_rib_complete(None);
        self.spread();
    }

    /// A node reports on itself.
    pub fn status(&mut self, name: &str, id: SessionId, status: session::Status) {
        if let Some(node) = self.current(name, id) {
            node.status = status;
        }
    }

    /// Sets how long a node may be without a session before its routes stand back.
    pub fn set_grace(&mut self, grace: Duration) {
        self.grace = Some(grace);
    }

    fn grace(&self) -> Duration {
        self.grace.unwrap_or(STALE_TIME)
    }

    /// Whether a node's routes should stand back now, and do not yet: [`Core::tick`] sees to it.
    pub fn has_lost(&self, now: Duration) -> bool {
        self.nodes.values().any(|node| node.is_lost(now, self.grace()))
    }

    /// Time passes: prefers others to nodes that are away, and gives up on those that stay away.
    pub fn tick(&mut self, now: Duration) {
        self.started.get_or_insert(now);
        let mut concerned = BTreeSet::new();
        let grace = self.grace();
        for node in self.nodes.values_mut() {
            if node.is_lost(now, grace) {
                node.stale = true;
                concerned.extend(node.interest.iter().copied());
            }
        }
        for uuid in concerned {
            self.refresh_routes(uuid);
        }
        let expired: Vec<String> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.gone_since.is_some_and(|t| now >= t + RESTART_TIME))
            .map(|(name, _)| name.clone())
            .collect();
        for name in expired {
            self.forget(&name);
        }
        self.check_rib_complete(Some(now));
        self.spread();
    }

    fn forget(&mut self, name: &str) {
        let Some(node) = self.nodes.remove(name) else { return };
        for homes in self.homes.values_mut() {
            homes.remove(name);
        }
        self.homes.retain(|_, homes| !homes.is_empty());
        for holders in self.holders.values_mut() {
            holders.remove(name);
        }
        for uuid in node.interest {
            self.refresh_routes(uuid);
        }
    }

    /// Whether tables may be called complete: every known vRouter has announced its routes, or has
    /// had time to.
    fn check_rib_complete(&mut self, now: Option<Duration>) {
        if self.rib_complete || !self.synced {
            return;
        }
        let waited = match (now, self.started) {
            (Some(now), Some(started)) => now >= started + END_OF_RIB_LIMIT,
            _ => false,
        };
        let expected = self.engine.graph().of_kind(Kind::VIRTUAL_ROUTER);
        let all_here = expected
            .map(|router| router.name())
            .chain(self.nodes.keys().map(String::as_str))
            .all(|name| self.nodes.get(name).is_some_and(|node| node.published_all));
        if waited || all_here {
            self.rib_complete = true;
        }
    }

    // ------------------------------------------------------------- routes

    /// Brings the routing table in line with what intent and the nodes say of one port.
    fn refresh_routes(&mut self, uuid: Uuid) {
        let mut wanted: BTreeMap<PathKey, Path> = BTreeMap::new();
        if let Some(port) = self.engine.interface(uuid) {
            for name in self.homes.get(&uuid).into_iter().flatten() {
                let Some(node) = self.nodes.get(name) else { continue };
                for ((_, prefix, vrf), local) in node.published_of(uuid) {
                    wanted.extend(self.path(name, node, port, (vrf, *prefix), local));
                }
            }
        }
        let before = self.announced.remove(&uuid).unwrap_or_default();
        for key in before.iter().filter(|key| !wanted.contains_key(key)) {
            self.rib.withdraw(key);
        }
        if !wanted.is_empty() {
            self.announced.insert(uuid, wanted.keys().cloned().collect());
        }
        for (key, path) in wanted {
            self.rib.announce(&key, path);
        }
    }

    /// The VPN route of a published address, if intent agrees that the port has it there.
    fn path(
        &self,
        name: &str,
        node: &Node,
        port: &Interface,
        (vrf, prefix): (&str, IpNet),
        local: &LocalRoute,
    ) -> Option<(PathKey, Path)> {
        let is_host = prefix.prefix_len() == prefix.max_prefix_len();
        if !may_have(name, port) || !is_host || !port.enabled {
            return None;
        }
        let (route_targets, network, native) = self.origin(port, vrf, prefix.addr())?;
        let rd = RouteDistinguisher {
            address: rd_address(node.tunnel_address),
            instance: local.instance,
        };
        let key = PathKey { prefix, rd, source: Source(name.into()), id: local.label };
        let path = Path {
            next_hop: node.tunnel_address,
            label: local.label,
            tunnels: node.tunnels.clone(),
            native,
            route_targets,
            network,
            security_groups: port.attributes.security_groups.clone(),
            tags: port.attributes.tags.clone(),
            local_preference: if node.stale {
                STALE_LOCAL_PREFERENCE
            } else {
                port.local_preference
            },
        };
        Some((key, path))
    }

    /// Route targets and origin network of an address of a port in a VRF, its own or one of its contexts', and whether it is one of
    /// the underlay.
    fn origin(
        &self,
        port: &Interface,
        vrf: &str,
        address: IpAddr,
    ) -> Option<(BTreeSet<RouteTarget>, u32, bool)> {
        let own_address = || port.addresses.iter().any(|own| own.prefix.addr() == address);
        if vrf == port.vrf && own_address() {
            let network = self.engine.vrf(port.network)?;
            return Some((network.export.clone(), port.attributes.network, network.native));
        }
        let context =
            port.contexts.iter().filter(|context| context.vrf == vrf).find(|context| {
                context.floating.as_ref().map_or_else(own_address, |f| f.address == address)
            })?;
        let route_targets = if context.floating.is_some() {
            self.engine.vrf(context.network)?.export.clone()
        } else {
            // A member of a service: the way to it is the service's own, nobody else's.
            BTreeSet::from([RouteTarget::private(context.network_id)])
        };
        Some((route_targets, context.network_id, context.underlay))
    }

    /// Hands changed routes to the nodes that have their VRF.
    fn spread(&mut self) {
        for (vrf, prefix) in self.rib.take_changed() {
            for name in self.holders.get(&vrf).into_iter().flatten() {
                if let Some(node) = self.nodes.get_mut(name) {
                    node.pending.routes.insert((vrf.clone(), prefix));
                }
            }
        }
    }

    // ------------------------------------------------------------- out

    /// Messages that a node has not been sent; none while the configuration is not known.
    pub fn take(&mut self, name: &str, id: SessionId) -> Vec<session::ToAgent> {
        let synced = self.synced;
        let rib_complete = self.rib_complete;
        let Some(node) = self.nodes.get_mut(name).filter(|node| node.session == Some(id)) else {
            return Vec::new();
        };
        if !synced || !node.announced_interest {
            return Vec::new();
        }
        let mut out = Vec::new();
        if let Some(intent) = node.take_intent(name, &self.engine, &self.rib, self.revision) {
            for vrf in &intent.vrfs {
                let name_of = Arc::from(vrf.name.as_str());
                self.holders.entry(name_of).or_default().insert(name.to_owned());
            }
            for vrf in &intent.vrfs_removed {
                if let Some(holders) = self.holders.get_mut(vrf.as_str()) {
                    holders.remove(name);
                }
            }
            out.push(message::intent(&intent));
        }
        if let Some(routes) = node.take_routes(&self.rib, rib_complete) {
            out.push(routes);
        }
        out
    }

    /// Whether [`Core::take`] would return anything.
    pub fn has_news(&self, name: &str, id: SessionId) -> bool {
        self.synced
            && self
                .nodes
                .get(name)
                .is_some_and(|node| node.session == Some(id) && node.has_news(self.rib_complete))
    }

    /// Whether the session is still the node's current one.
    pub fn is_current(&self, name: &str, id: SessionId) -> bool {
        self.nodes.get(name).is_some_and(|node| node.session == Some(id))
    }

    /// Nodes by name.
    pub fn nodes(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter()
    }

    /// The compiler, to look things up.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The routing table, to look things up.
    pub fn rib(&self) -> &Rib {
        &self.rib
    }

    /// Revision of the configuration that is in force here.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether the whole configuration has been read.
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Global AS number, once the configuration is known.
    pub fn autonomous_system(&self) -> u32 {
        self.engine.global().map_or(0, |global| global.autonomous_system)
    }

    /// An interface, to look it up.
    pub fn interface(&self, uuid: Uuid) -> Option<&Arc<Interface>> {
        self.engine.interface(uuid)
    }
}

/// Whether a node may have a port: one bound to another node is not its business, whatever it says.
pub(crate) fn may_have(node: &str, port: &Interface) -> bool {
    port.host.as_deref().is_none_or(|host| host == node)
}

/// The address half of a route distinguisher. IPv6 underlays take a hash of the address, which only
/// has to differ between nodes.
fn rd_address(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => {
            let folded = Uuid::new_v5(&Uuid::NAMESPACE_OID, &v6.octets());
            let [a, b, c, d, ..] = *folded.as_bytes();
            Ipv4Addr::new(a, b, c, d)
        }
    }
}
