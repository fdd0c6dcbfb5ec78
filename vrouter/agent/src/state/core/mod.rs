//! The core itself: events in, operations out.

mod intent;
mod routes;

use crate::state::compile::Context;
use crate::state::diff::Operation;
use crate::state::merge::Merged;
use crate::state::numbers::{Numbers, Pool};
use crate::state::spec::InterfaceSpec;
use crate::state::tables::{NextHop, PolicyState, Tables};
use crate::state::view::Touched;
use ipnet::IpNet;
use skein_policy::{Decision, Family, Identities, Identity, Policy, Program, RuleBook, RuleNumber};
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
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
    numbers: Numbers,
    default_max_flows: u32,
    context: Context,
    interfaces: BTreeMap<Uuid, InterfaceSpec>,
    port_problems: BTreeMap<Uuid, PortProblem>,
    problems: BTreeMap<String, String>,
    judging: BTreeMap<Uuid, Arc<Policy>>,
    identities: Identities,
    book: RuleBook,
    policies: HashMap<PolicyKey, Loaded>,
    policy_numbers: BTreeSet<u32>,
    last_policy: u32,
    next_hops: Pool<NextHop>,
    next_hop_users: BTreeMap<u32, u32>,
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
            numbers,
            default_max_flows,
            context: Context { own_address, ..Context::default() },
            interfaces: BTreeMap::new(),
            port_problems: BTreeMap::new(),
            problems: BTreeMap::new(),
            judging: BTreeMap::new(),
            identities: Identities::default(),
            book: RuleBook::default(),
            policies: HashMap::new(),
            policy_numbers: BTreeSet::new(),
            last_policy: 0,
            next_hops: Pool::default(),
            next_hop_users: BTreeMap::new(),
            wanted: Tables::default(),
            applied: Tables::default(),
            applied_policies: BTreeSet::new(),
            touched: Touched { intent: true, ..Touched::default() },
            unsettled: BTreeSet::new(),
            policy_work: Vec::new(),
        }
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
        self.ports.insert(port.uuid, port);
        self.touched.intent = true;
    }

    /// A port's host end is gone, or its workload is. The label is freed by [`Core::forget`].
    pub fn unbind(&mut self, uuid: Uuid) {
        self.touched.intent |= self.ports.remove(&uuid).is_some();
    }

    /// A port will not come back: its label may go to another, later.
    pub fn forget(&mut self, uuid: Uuid) {
        self.unbind(uuid);
        self.numbers.labels.free(&uuid);
    }

    /// Compiles what was touched and gives the operations that lead from what the kernel holds to what is
    /// wanted, in a safe order. Each must be confirmed with [`Core::applied`] once done; what is not
    /// confirmed comes again.
    pub fn operations(&mut self) -> Vec<Operation> {
        self.compile();
        let mut put = Vec::new();
        let mut remove = Vec::new();
        for (number, next_hop) in &self.wanted.next_hops {
            if self.applied.next_hops.get(number) != Some(next_hop) {
                put.push(Operation::PutNextHop(*number, next_hop.clone()));
            }
        }
        // ECMP groups refer to members: members have the smaller effort of going first.
        put.sort_by_key(|operation| {
            matches!(operation, Operation::PutNextHop(_, NextHop::Ecmp { .. }))
        });
        put.extend(self.policy_work.iter().cloned());
        for key in &self.unsettled {
            match (self.wanted.routes.get(key), self.applied.routes.get(key)) {
                (Some(wanted), applied) if applied != Some(wanted) => {
                    put.push(Operation::PutRoute(key.0, key.1, *wanted));
                }
                (None, Some(_)) => remove.push(Operation::RemoveRoute(key.0, key.1)),
                _ => {}
            }
        }
        let mut interface_removals = Vec::new();
        for (ifindex, entry) in &self.applied.interfaces {
            if !self.wanted.interfaces.contains_key(ifindex) {
                interface_removals.push(Operation::RemoveInterface(*ifindex, entry.clone()));
            }
        }
        for (ifindex, entry) in &self.wanted.interfaces {
            if self.applied.interfaces.get(ifindex) != Some(entry) {
                put.push(Operation::PutInterface(*ifindex, entry.clone()));
            }
        }
        let loaded: BTreeSet<u32> = self.policies.values().map(|loaded| loaded.number).collect();
        let old = self.applied_policies.iter().filter(|number| !loaded.contains(*number));
        let policy_removals = old.map(|number| Operation::RemovePolicy(*number));
        let hops = self.applied.next_hops.iter();
        let hop_removals = hops
            .filter(|(number, _)| !self.wanted.next_hops.contains_key(*number))
            .map(|(number, next_hop)| Operation::RemoveNextHop(*number, next_hop.clone()));
        // An interface that is gone stops first: its label must not reach a port that took its index.
        let mut all = interface_removals;
        all.append(&mut put);
        all.append(&mut remove);
        all.extend(policy_removals);
        all.extend(hop_removals);
        all
    }

    /// Confirms that the kernel holds an operation's outcome.
    pub fn applied(&mut self, operation: &Operation) {
        match operation {
            Operation::PutNextHop(number, next_hop) => {
                self.applied.next_hops.insert(*number, next_hop.clone());
            }
            Operation::LoadPolicy { number, .. } => {
                self.applied_policies.insert(*number);
                self.policy_work.retain(|work| work != operation);
            }
            Operation::ExtendPolicy { .. } => self.policy_work.retain(|work| work != operation),
            Operation::PutRoute(vrf, prefix, entry) => {
                self.applied.routes.insert((*vrf, *prefix), *entry);
                self.settle((*vrf, *prefix));
            }
            Operation::PutInterface(ifindex, entry) => {
                self.applied.interfaces.insert(*ifindex, entry.clone());
            }
            Operation::RemoveInterface(ifindex, _) => {
                self.applied.interfaces.remove(ifindex);
            }
            Operation::RemoveRoute(vrf, prefix) => {
                self.applied.routes.remove(&(*vrf, *prefix));
                self.settle((*vrf, *prefix));
            }
            Operation::RemovePolicy(number) => {
                self.applied_policies.remove(number);
                self.policy_numbers.remove(number);
            }
            Operation::RemoveNextHop(number, _) => {
                if let Some(next_hop) = self.applied.next_hops.remove(number) {
                    // Only now may another next hop get the number.
                    if !self.wanted.next_hops.contains_key(number) {
                        self.next_hops.free(&next_hop);
                    }
                }
            }
        }
    }

    /// Why a port does not forward; `None` when it does, with its policy in force.
    #[must_use]
    pub fn port_problem(&self, uuid: Uuid) -> Option<PortProblem> {
        if let Some(problem) = self.port_problems.get(&uuid) {
            return Some(problem.clone());
        }
        let Some(LocalPort { ifindex, .. }) = self.ports.get(&uuid) else {
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
        for (uuid, LocalPort { ifindex, .. }) in &self.ports {
            let (Some(spec), Some(entry)) =
                (self.interfaces.get(uuid), self.applied.interfaces.get(ifindex))
            else {
                continue;
            };
            if entry.uuid != *uuid || self.wanted.interfaces.get(ifindex) != Some(entry) {
                continue;
            }
            routes.extend(spec.addresses.iter().map(|(prefix, _)| wire::LocalRoute {
                vrf: spec.vrf.clone(),
                prefix: IpNet::from(prefix.addr()).to_string(),
                interface: uuid.to_string(),
                label: entry.label,
                instance_id: entry.vrf,
            }));
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
        touched.intent |= std::mem::replace(&mut self.leading, leading) != leading;
        if touched.intent {
            self.compile_intent(&mut touched);
        }
        for (subject, reason) in touched.problems {
            self.problems.insert(subject, reason);
        }
        for (vrf, prefixes) in touched.routes {
            let keys: BTreeSet<IpNet> =
                prefixes.into_iter().flat_map(|prefix| self.context.affected(prefix)).collect();
            for prefix in keys {
                self.compile_route(&vrf, prefix);
            }
        }
    }
}

/// The smallest prefix in order.
fn first_prefix() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::default())
}
