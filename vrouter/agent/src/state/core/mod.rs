//! The core itself: events in, operations out.

mod choice;
mod dns;
mod forgetting;
mod intent;
mod natives;
mod nested;
mod node;
mod order;
mod room;
mod routes;
mod services;

pub use self::dns::{DnsChanges, DnsPorts, DnsView};
pub use node::HealthCheck;
pub use room::Waiting;

use crate::state::compile::Context;
use crate::state::diff::Operation;
use crate::state::merge::Merged;
use crate::state::numbers::{Numbers, Pool};
use crate::state::port_pools::PortPools;
use crate::state::spec::{InterfaceSpec, ServiceSpec};
use crate::state::tables::{NextHop, PolicyState, ServiceKey, Tables};
use crate::state::view::Touched;
use ipnet::IpNet;
use skein_policy::{Decision, Family, Identities, Identity, Policy, Program, RuleBook, RuleNumber};
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use uuid::Uuid;

/// A port whose host end exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPort {
    /// virtual-machine-interface.
    pub uuid: Uuid,
    /// Host end.
    pub ifindex: u32,
    /// MTU of the workload's end in bytes; 0: not known.
    pub mtu: u32,
    /// It has no device, but a VLAN on another port's: host end and tag.
    pub vlan: Option<(u32, u16)>,
}

/// Why a port does not forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortProblem {
    /// Its host end is not bound.
    NotBound,
    /// No controller has sent its interface.
    NoIntent,
    /// The controller's word about it could not be read.
    Unreadable(String),
    /// Its VRF is not known.
    NoVrf(String),
    /// Its owner switched it off.
    AdminDown,
    /// Its policy is not known or not readable; it drops everything.
    NoPolicy,
    /// Labels or VRF numbers are used up.
    Exhausted,
    /// It is compiled, but the kernel does not hold it yet.
    NotApplied,
    /// Questions of the names of this VRF are not heard yet.
    NoNames(String),
    /// No controller has told others, nor this node's own stack, where it is.
    NotAnnounced,
}

impl std::fmt::Display for PortProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotBound => f.write_str("its host interface is not bound"),
            Self::NoIntent => f.write_str("no controller has sent its configuration yet"),
            Self::Unreadable(what) => write!(f, "its configuration is not readable: {what}"),
            Self::NoVrf(vrf) => write!(f, "its routing instance {vrf} is not known"),
            Self::AdminDown => f.write_str("it is switched off (id_perms.enable is false)"),
            Self::NoPolicy => f.write_str("its policy is not known: it drops everything"),
            Self::Exhausted => f.write_str("no label or VRF number is free"),
            Self::NotApplied => f.write_str("the kernel does not hold it yet"),
            Self::NoNames(vrf) => {
                write!(f, "the node does not answer names of {vrf} yet: see its log about DNS")
            }
            Self::NotAnnounced => f.write_str("no controller has confirmed its addresses yet"),
        }
    }
}

/// What a policy is specialised to. Content, not name: equal policies are loaded once.
#[derive(Clone, PartialEq, Eq, Hash)]
struct PolicyKey {
    policy: Arc<Policy>,
    family: Family,
    local: Option<IpAddr>,
}

struct Loaded {
    number: u32,
    program: Program,
}

/// State of the agent between I/O.
pub struct Core {
    merged: Merged,
    leading: usize,
    ports: BTreeMap<Uuid, LocalPort>,
    /// Ports on VLANs of those.
    nested: BTreeMap<Uuid, LocalPort>,
    numbers: Numbers,
    default_max_flows: u32,
    context: Context,
    interfaces: BTreeMap<Uuid, InterfaceSpec>,
    port_problems: BTreeMap<Uuid, PortProblem>,
    problems: BTreeMap<String, String>,
    judging: BTreeMap<Uuid, Arc<Policy>>,
    identities: Identities,
    /// So many identities are kept without a look at what they are good for.
    identity_spare: usize,
    /// More identities than this, and those that are of no use are looked for.
    identity_limit: usize,
    book: RuleBook,
    policies: HashMap<PolicyKey, Loaded>,
    policy_numbers: BTreeSet<u32>,
    last_policy: u32,
    next_hops: Pool<NextHop>,
    next_hop_users: BTreeMap<u32, u32>,
    /// Name of this node: which members are here.
    node: String,
    /// Addresses of this node, as its kernel has them.
    own_addresses: BTreeSet<IpAddr>,
    /// All nodes, by name.
    nodes: BTreeMap<String, node::NodeSpec>,
    /// They changed since services were compiled.
    nodes_changed: bool,
    /// Host end of the interface of the node's own stack.
    host_interface: Option<u32>,
    /// Ports that the host chooses from for its own connections.
    host_ports: RangeInclusive<u16>,
    /// Ports that workloads borrow.
    pools: PortPools,
    context_labels: BTreeSet<u32>,
    services: BTreeMap<String, ServiceSpec>,
    /// VRF numbers that services were compiled with.
    service_numbers: BTreeMap<String, u32>,
    /// And VRFs of the node's own services.
    services_of_node: BTreeSet<String>,
    /// Services by the place they want; the first one has it.
    claims: BTreeMap<ServiceKey, BTreeSet<String>>,
    claimed: BTreeMap<String, BTreeSet<ServiceKey>>,
    service_problems: BTreeMap<String, String>,
    unsettled_services: BTreeSet<ServiceKey>,
    announced: natives::Announced,
    dns: dns::DnsState,
    wanted: Tables,
    applied: Tables,
    applied_policies: BTreeSet<u32>,
    touched: Touched,
    /// Route keys where `wanted` and `applied` may differ.
    unsettled: BTreeSet<(u32, IpNet)>,
    /// Policy changes to be made before routes and interfaces.
    policy_work: Vec<Operation>,
}

impl Core {
    /// An empty core for `controllers` controllers.
    #[must_use]
    pub fn new(
        controllers: usize,
        own_address: Option<IpAddr>,
        numbers: Numbers,
        default_max_flows: u32,
    ) -> Self {
        Self {
            merged: Merged::new(controllers),
            leading: 0,
            ports: BTreeMap::new(),
            nested: BTreeMap::new(),
            numbers,
            default_max_flows,
            context: Context { own_address, ..Context::default() },
            interfaces: BTreeMap::new(),
            port_problems: BTreeMap::new(),
            problems: BTreeMap::new(),
            judging: BTreeMap::new(),
            identities: Identities::default(),
            identity_spare: forgetting::SPARE,
            identity_limit: forgetting::SPARE,
            book: RuleBook::default(),
            policies: HashMap::new(),
            policy_numbers: BTreeSet::new(),
            last_policy: 0,
            next_hops: Pool::default(),
            next_hop_users: BTreeMap::new(),
            node: String::new(),
            own_addresses: own_address.into_iter().collect(),
            nodes: BTreeMap::new(),
            nodes_changed: false,
            host_interface: None,
            host_ports: 32_768..=60_999,
            pools: PortPools::default(),
            context_labels: BTreeSet::new(),
            services: BTreeMap::new(),
            service_numbers: BTreeMap::new(),
            services_of_node: BTreeSet::new(),
            claims: BTreeMap::new(),
            claimed: BTreeMap::new(),
            service_problems: BTreeMap::new(),
            unsettled_services: BTreeSet::new(),
            announced: natives::Announced::default(),
            dns: dns::DnsState::default(),
            wanted: Tables::default(),
            applied: Tables::default(),
            applied_policies: BTreeSet::new(),
            touched: Touched { intent: true, ..Touched::default() },
            unsettled: BTreeSet::new(),
            policy_work: Vec::new(),
        }
    }

    /// Sets the name of this node, by which services know their local members.
    #[must_use]
    pub fn named(mut self, node: &str) -> Self {
        node.clone_into(&mut self.node);
        self
    }

    /// Says which ports the host chooses from for its own connections (`net.ipv4.ip_local_port_range`).
    #[must_use]
    pub fn with_host_ports(mut self, ports: RangeInclusive<u16>) -> Self {
        self.host_ports = ports;
        self
    }

    /// Takes over what the kernel already holds, so that only differences are written. Policies there get
    /// replaced under new numbers: which rule a number meant is not in the kernel.
    pub fn adopt(&mut self, found: Tables, policies: impl IntoIterator<Item = u32>) {
        for (number, next_hop) in &found.next_hops {
            self.next_hops.set(next_hop.clone(), *number);
        }
        for number in policies {
            self.policy_numbers.insert(number);
            self.last_policy = self.last_policy.max(number);
            self.applied_policies.insert(number);
        }
        self.unsettled.extend(found.routes.keys());
        self.unsettled_services.extend(found.services.keys());
        self.context_labels.extend(found.contexts.keys());
        self.applied = found;
        self.touched.intent = true;
    }

    /// Loads the state saved before a restart.
    pub fn load(&mut self, intent: wire::Intent, routes: &wire::Routes) {
        self.merged.load(intent, routes, &mut self.touched);
    }

    /// A controller's stream opened.
    pub fn connected(&mut self, controller: usize) {
        self.merged.connected(controller);
    }

    /// A controller's stream closed.
    pub fn disconnected(&mut self, controller: usize) {
        self.merged.disconnected(controller, &mut self.touched);
    }

    /// Intent from a controller.
    pub fn intent(&mut self, controller: usize, intent: wire::Intent) {
        self.merged.intent(controller, intent, &mut self.touched);
    }

    /// Routes from a controller.
    pub fn routes(&mut self, controller: usize, routes: &wire::Routes) {
        self.merged.routes(controller, routes, &mut self.touched);
    }

    /// A port's host end exists.
    pub fn bind(&mut self, port: LocalPort) {
        let known = self.ports.insert(port.uuid, port.clone());
        self.touched.intent |= known != Some(port);
    }

    /// A port's host end is gone, or its workload is. The label is freed by [`Core::forget`].
    pub fn unbind(&mut self, uuid: Uuid) {
        self.touched.intent |= self.ports.remove(&uuid).is_some();
    }

    /// A port will not come back: its label may go to another, later.
    pub fn forget(&mut self, uuid: Uuid) {
        self.unbind(uuid);
        self.numbers.forget(&uuid);
    }

    /// Why a port does not forward; `None` when it does, with its policy in force.
    #[must_use]
    pub fn port_problem(&self, uuid: Uuid) -> Option<PortProblem> {
        if let Some(problem) = self.port_problems.get(&uuid) {
            return Some(problem.clone());
        }
        let Some(LocalPort { ifindex, .. }) = self.local_port(uuid) else {
            return Some(PortProblem::NotBound);
        };
        let wanted = self.wanted.interfaces.get(ifindex);
        match wanted {
            Some(entry) if self.applied.interfaces.get(ifindex) == Some(entry) => {
                let missing = entry.policy == PolicyState::Missing;
                missing.then_some(PortProblem::NoPolicy)
            }
            _ => Some(PortProblem::NotApplied),
        }
    }

    /// Routes of forwarding local workloads, to publish.
    #[must_use]
    pub fn local_routes(&self) -> Vec<wire::LocalRoute> {
        let mut routes = Vec::new();
        for (uuid, LocalPort { ifindex, .. }) in self.ports.iter().chain(&self.nested) {
            let (Some(spec), Some(entry)) =
                (self.interfaces.get(uuid), self.applied.interfaces.get(ifindex))
            else {
                continue;
            };
            if entry.uuid != *uuid || self.wanted.interfaces.get(ifindex) != Some(entry) {
                continue;
            }
            let mut announce = |vrf: &str, address: IpAddr, label: u32, instance_id: u32| {
                routes.push(wire::LocalRoute {
                    vrf: vrf.to_owned(),
                    prefix: IpNet::from(address).to_string(),
                    interface: uuid.to_string(),
                    label,
                    instance_id,
                });
            };
            let own = spec.addresses.iter().map(|(prefix, _)| prefix.addr());
            own.clone().for_each(|address| announce(&spec.vrf, address, entry.label, entry.vrf));
            for context in &spec.contexts {
                let Some(id) = self.numbers.labels.get(&context.id(*uuid)) else { continue };
                let Some(entry) = self.applied.contexts.get(&id) else { continue };
                if self.wanted.contexts.get(&id) != Some(entry) {
                    continue;
                }
                match &context.floating {
                    Some(floating) => announce(&context.vrf, floating.address, id, entry.vrf),
                    None => {
                        own.clone().for_each(|a| announce(&context.vrf, a, id, entry.vrf));
                    }
                }
            }
        }
        routes
    }

    /// What the kernel shall hold.
    #[must_use]
    pub fn wanted(&self) -> &Tables {
        &self.wanted
    }

    /// What the kernel holds.
    #[must_use]
    pub fn in_force(&self) -> &Tables {
        &self.applied
    }

    /// Numbers to save before they are told to anyone.
    #[must_use]
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Messages that [`Core::load`] takes after a restart.
    #[must_use]
    pub fn saved(&self) -> (wire::Intent, wire::Routes) {
        self.merged.messages()
    }

    /// Revision of the intent in use.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.merged.leader().revision()
    }

    /// True while a connected controller has said everything.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.merged.is_fresh()
    }

    /// A port's configuration, when a controller sent it.
    #[must_use]
    pub fn interface(&self, uuid: Uuid) -> Option<&InterfaceSpec> {
        self.interfaces.get(&uuid)
    }

    /// The policy that judges a bound port's connections.
    #[must_use]
    pub fn policy_of(&self, uuid: Uuid) -> Option<&Policy> {
        self.judging.get(&uuid).map(AsRef::as_ref)
    }

    /// The policies that judge bound ports' connections.
    pub(crate) fn judging(&self) -> impl Iterator<Item = (Uuid, &Arc<Policy>)> {
        self.judging.iter().map(|(uuid, policy)| (*uuid, policy))
    }

    /// Who an identity is.
    #[must_use]
    pub fn identity(&self, number: u32) -> Option<&Identity> {
        self.identities.get(number)
    }

    /// Which rule a number in an event or a flow means.
    #[must_use]
    pub fn decision(&self, number: RuleNumber) -> Option<&Decision> {
        self.book.get(number)
    }

    /// VRF names by number.
    #[must_use]
    pub fn vrf_names(&self) -> BTreeMap<u32, &str> {
        self.context.vrfs.iter().map(|(name, number)| (*number, name.as_str())).collect()
    }

    /// What could not be understood or done: subject and reason.
    #[must_use]
    pub fn problems(&self) -> &BTreeMap<String, String> {
        &self.problems
    }

    fn settle(&mut self, key: (u32, IpNet)) {
        if self.wanted.routes.get(&key) == self.applied.routes.get(&key) {
            self.unsettled.remove(&key);
        }
    }

    fn compile(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        // Another controller's word counts from now on: it may differ in everything.
        let leading = self.merged.leading();
        let other = std::mem::replace(&mut self.leading, leading) != leading;
        touched.intent |= other;
        if touched.intent {
            self.compile_intent(&mut touched);
        }
        self.dns.note(other, &mut touched);
        let renamed = self.compile_dns(&mut touched);
        let all = std::mem::take(&mut self.nodes_changed) || other || renamed;
        self.compile_services(all, &mut touched);
        for (subject, reason) in touched.problems {
            self.problems.insert(subject, reason);
        }
        let host_routes = |vrf| touched.routes.contains_key(vrf);
        let reached = touched.intent || all || self.host_vrf().is_some_and(host_routes);
        for (vrf, prefixes) in touched.routes {
            let keys: BTreeSet<IpNet> =
                prefixes.into_iter().flat_map(|prefix| self.context.affected(prefix)).collect();
            for prefix in keys {
                self.compile_route(&vrf, prefix);
            }
        }
        self.compile_natives(reached);
        self.compile_node();
    }

    /// Services by id.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<String, ServiceSpec> {
        &self.services
    }

    /// The port of the node's own stack, when a controller has sent it.
    #[must_use]
    pub fn host_port(&self) -> Option<InterfaceSpec> {
        let mut hosts = self.merged.leader().interfaces().filter(|interface| interface.host);
        InterfaceSpec::read(hosts.next()?).ok()
    }
}

/// The smallest prefix in order.
fn first_prefix() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::default())
}
