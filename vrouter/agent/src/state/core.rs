//! The core itself: events in, operations out.

use super::compile::{self, CompiledRoute, Context, LocalPath};
use super::diff::Operation;
use super::merge::Merged;
use super::numbers::{LABELS, Numbers, Pool, VRFS};
use super::spec::{InterfaceSpec, read_policy};
use super::tables::{InterfaceEntry, NextHop, PolicyState, RouteEntry, Tables};
use super::view::Touched;
use ipnet::IpNet;
use skein_policy::{
    Addition, Decision, Family, Identities, Identity, Policy, Program, RuleBook, RuleNumber,
    policy_prefixes,
};
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Next hop numbers; 0 discards. The upper end is the datapath's default table size.
const NEXT_HOPS: std::ops::Range<u32> = 1..16_384;
/// Policy numbers; 0 is "no policy".
const POLICIES: std::ops::Range<u32> = 1..1 << 16;

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

/// A bound port on its way to a table entry.
struct Judged {
    ifindex: u32,
    entry: InterfaceEntry,
    policy: Option<Arc<Policy>>,
    local: Vec<IpAddr>,
}

struct Loaded {
    number: u32,
    program: Program,
}

/// State of the agent between I/O.
pub struct Core {
    merged: Merged,
    ports: BTreeMap<Uuid, LocalPort>,
    numbers: Numbers,
    default_max_flows: u32,
    context: Context,
    interfaces: BTreeMap<Uuid, InterfaceSpec>,
    port_problems: BTreeMap<Uuid, PortProblem>,
    problems: BTreeMap<String, String>,
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
            ports: BTreeMap::new(),
            numbers,
            default_max_flows,
            context: Context { own_address, ..Context::default() },
            interfaces: BTreeMap::new(),
            port_problems: BTreeMap::new(),
            problems: BTreeMap::new(),
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
        let Some(LocalPort { ifindex, .. }) = self.ports.get(&uuid) else { return Some(PortProblem::NotBound) };
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

    /// Interfaces, policies and what routes depend on; marks the routes that follow from changes.
    fn compile_intent(&mut self, touched: &mut Touched) {
        let leader = self.merged.leader();
        self.problems.clear();
        self.port_problems.clear();
        let mut context = Context {
            own_address: self.context.own_address,
            encapsulations: compile::encapsulations(leader.global()),
            ..Context::default()
        };
        for vrf in leader.vrfs() {
            if let Some(number) = self.numbers.vrfs.take(&vrf.name, VRFS) {
                context.vrfs.insert(vrf.name.clone(), number);
            } else {
                self.problems.insert(vrf.name.clone(), "no VRF number is free".into());
            }
        }
        let mut policies: BTreeMap<&str, Arc<Policy>> = BTreeMap::new();
        for set in leader.policies() {
            match read_policy(set) {
                Ok(policy) => {
                    policies.insert(&set.id, Arc::new(policy));
                }
                Err(reason) => {
                    self.problems.insert(format!("policy {}", set.id), reason);
                }
            }
        }
        self.interfaces.clear();
        for interface in leader.interfaces() {
            match InterfaceSpec::read(interface) {
                Ok(spec) => {
                    self.interfaces.insert(spec.uuid, spec);
                }
                Err(reason) => {
                    if let Ok(uuid) = interface.uuid.parse() {
                        self.port_problems.insert(uuid, PortProblem::Unreadable(reason.clone()));
                    }
                    self.problems.insert(format!("interface {}", interface.uuid), reason);
                }
            }
        }

        // Who is here, and with which policy.
        let mut used: Vec<Judged> = Vec::new();
        for (uuid, LocalPort { ifindex, mtu, .. }) in &self.ports {
            let spec = self.interfaces.get(uuid);
            let problem = match spec {
                None => Some(PortProblem::NoIntent),
                Some(spec) if spec.admin_down => Some(PortProblem::AdminDown),
                Some(spec) if !context.vrfs.contains_key(&spec.vrf) => {
                    Some(PortProblem::NoVrf(spec.vrf.clone()))
                }
                Some(_) => None,
            };
            if let Some(problem) = problem {
                self.port_problems.entry(*uuid).or_insert(problem);
                continue;
            }
            let label = self.numbers.labels.take(uuid, LABELS);
            let (Some(spec), Some(label)) = (spec, label) else {
                self.port_problems.insert(*uuid, PortProblem::Exhausted);
                continue;
            };
            let policy = spec.policy.as_deref().and_then(|id| policies.get(id)).cloned();
            let entry = InterfaceEntry {
                uuid: *uuid,
                vrf: context.vrfs[&spec.vrf],
                label,
                mac: spec.mac,
                gateway4: gateways(spec).find_map(|gateway| match gateway {
                    IpAddr::V4(gateway) => Some(gateway),
                    IpAddr::V6(_) => None,
                }),
                gateway6: gateways(spec).find_map(|gateway| match gateway {
                    IpAddr::V6(gateway) => Some(gateway),
                    IpAddr::V4(_) => None,
                }),
                policy: if spec.policy_disabled {
                    PolicyState::Disabled
                } else {
                    PolicyState::Missing
                },
                max_flows: if spec.max_flows == 0 { self.default_max_flows } else { spec.max_flows },
                mtu: *mtu,
            };
            context.labels.insert(label, *ifindex);
            let table = context.local.entry(spec.vrf.clone()).or_default();
            for (prefix, _) in &spec.addresses {
                table.entry(prefix.addr().into()).or_default().push(LocalPath {
                    ifindex: *ifindex,
                    attributes: spec.attributes.clone(),
                });
            }
            let policy = policy.filter(|_| !spec.policy_disabled);
            let local = spec.addresses.iter().map(|(prefix, _)| prefix.addr()).collect();
            used.push(Judged { ifindex: *ifindex, entry, policy, local });
        }
        context.conditions =
            policy_prefixes(used.iter().filter_map(|judged| judged.policy.as_deref()));
        self.mark_routes(&context, touched);
        self.context = context;
        self.free_vrf_numbers();
        self.load_policies(used);
    }

    /// Frees the numbers of VRFs that are gone and of which the kernel holds no route any more.
    fn free_vrf_numbers(&mut self) {
        let gone: Vec<(String, u32)> = self
            .numbers
            .vrfs
            .iter()
            .filter(|(name, _)| !self.context.vrfs.contains_key(*name))
            .map(|(name, number)| (name.clone(), number))
            .collect();
        for (name, number) in gone {
            let range = (number, first_prefix())..(number + 1, first_prefix());
            let held = |tables: &Tables| tables.routes.range(range.clone()).next().is_some();
            if !held(&self.wanted) && !held(&self.applied) {
                self.numbers.vrfs.free(&name);
            }
        }
    }

    /// Loads the policies in use, unloads the others, and completes the interfaces' entries.
    fn load_policies(&mut self, used: Vec<Judged>) {
        let mut interfaces = BTreeMap::new();
        let mut keep: HashMap<PolicyKey, Loaded> = HashMap::new();
        for Judged { ifindex, mut entry, policy, local } in used {
            if let Some(policy) = policy {
                let mut number = |family| {
                    let local = local_address(&policy, &local, family);
                    self.policy(&mut keep, PolicyKey { policy: policy.clone(), family, local })
                };
                if let (Some(v4), Some(v6)) = (number(Family::V4), number(Family::V6)) {
                    entry.policy = PolicyState::Loaded { v4, v6 };
                }
            }
            interfaces.insert(ifindex, entry);
        }
        let dropped: BTreeSet<u32> = self.policies.values().map(|loaded| loaded.number).collect();
        self.policies = keep;
        // Work for a policy that was dropped before it was ever loaded is void, and so is its number.
        self.policy_work.retain(|work| match work {
            Operation::LoadPolicy { number, .. } | Operation::ExtendPolicy { number, .. } => {
                !dropped.contains(number)
            }
            _ => true,
        });
        for number in dropped.iter().filter(|number| !self.applied_policies.contains(*number)) {
            self.policy_numbers.remove(number);
        }
        self.wanted.interfaces = interfaces;
    }

    fn policy(&mut self, keep: &mut HashMap<PolicyKey, Loaded>, key: PolicyKey) -> Option<u32> {
        if let Some(loaded) = keep.get(&key) {
            return Some(loaded.number);
        }
        let loaded = if let Some(loaded) = self.policies.remove(&key) {
            loaded
        } else {
            let number = self.free_policy_number()?;
            let mut program = Program::new(&key.policy, key.family, key.local, &mut self.book);
            let entries = program.flatten(self.identities.iter());
            self.policy_work.push(Operation::LoadPolicy { number, family: key.family, entries });
            Loaded { number, program }
        };
        let number = loaded.number;
        keep.insert(key, loaded);
        Some(number)
    }

    fn free_policy_number(&mut self) -> Option<u32> {
        let after = self.last_policy + 1;
        let number = (after..POLICIES.end)
            .chain(POLICIES.start..after.min(POLICIES.end))
            .find(|number| !self.policy_numbers.contains(number))?;
        self.last_policy = number;
        self.policy_numbers.insert(number);
        Some(number)
    }

    /// Finds the routes whose compilation may differ under the new context.
    fn mark_routes(&self, new: &Context, touched: &mut Touched) {
        let old = &self.context;
        if old.conditions != new.conditions || old.encapsulations != new.encapsulations {
            for (vrf, prefix) in self.merged.prefixes() {
                touched.route(vrf, *prefix);
            }
            for context in [old, new] {
                for (vrf, prefix) in locals(context) {
                    touched.route(vrf, *prefix);
                }
                for vrf in context.vrfs.keys() {
                    context.conditions.iter().for_each(|c| touched.route(vrf, *c));
                }
            }
            return;
        }
        let changed_vrf = |vrf: &str| old.vrfs.get(vrf) != new.vrfs.get(vrf);
        let loops = old.labels != new.labels;
        for (vrf, prefix) in self.merged.prefixes() {
            let leads_here = || {
                let paths = self.merged.paths(vrf, prefix);
                paths.iter().any(|path| Some(path.next_hop) == new.own_address)
            };
            if changed_vrf(vrf) || (loops && leads_here()) {
                touched.route(vrf, *prefix);
            }
        }
        for (one, other) in [(old, new), (new, old)] {
            for (vrf, prefix) in locals(one) {
                let there = other.local.get(vrf).and_then(|table| table.get(prefix));
                if changed_vrf(vrf) || there != Some(&one.local[vrf][prefix]) {
                    touched.route(vrf, *prefix);
                }
            }
        }
        // A VRF that goes takes all its keys with it, those of conditions too.
        for (vrf, number) in &old.vrfs {
            if changed_vrf(vrf) {
                let keys = self.wanted.routes.range((*number, first_prefix())..);
                for ((_, prefix), _) in keys.take_while(|((vrf, _), _)| vrf == number) {
                    touched.route(vrf, *prefix);
                }
            }
        }
    }

    fn compile_route(&mut self, vrf: &str, prefix: IpNet) {
        // A VRF that is not ours any more still has its number, for taking its routes out.
        let Some(number) = self.numbers.vrfs.get(&vrf.to_owned()) else { return };
        let key = (number, prefix);
        let known = self.context.vrfs.contains_key(vrf);
        let compiled = if known { self.context.route(&self.merged, vrf, &prefix) } else { None };
        let entry = compiled.and_then(|compiled| self.number_route(compiled));
        let old = match entry {
            Some(entry) => self.wanted.routes.insert(key, entry),
            None => self.wanted.routes.remove(&key),
        };
        if old != entry {
            if let Some(old) = old {
                self.release_next_hop(old.next_hop);
            }
            self.unsettled.insert(key);
        } else if let Some(entry) = entry {
            // Numbering counted it a second time.
            self.release_next_hop(entry.next_hop);
        }
    }

    fn number_route(&mut self, compiled: CompiledRoute) -> Option<RouteEntry> {
        let (identity, new) = self.identities.intern(&compiled.identity);
        if new {
            for loaded in self.policies.values_mut() {
                let entries = loaded.program.add(identity, &compiled.identity);
                if entries != Addition::default() {
                    let number = loaded.number;
                    self.policy_work.push(Operation::ExtendPolicy { number, entries });
                }
            }
        }
        let next_hop = match compiled.members.as_slice() {
            [] => return None,
            [one] => self.use_next_hop(one.clone())?,
            many => {
                let members = many.iter().map(|member| self.use_next_hop(member.clone()));
                let members: Vec<u32> = members.collect::<Option<_>>()?;
                self.use_next_hop(NextHop::Ecmp { members })?
            }
        };
        Some(RouteEntry { next_hop, identity })
    }

    fn use_next_hop(&mut self, next_hop: NextHop) -> Option<u32> {
        let Some(number) = self.next_hops.take(&next_hop, NEXT_HOPS) else {
            self.problems.insert("next hops".into(), "no next hop number is free".into());
            return None;
        };
        let users = self.next_hop_users.entry(number).or_default();
        *users += 1;
        if *users > 1 {
            // An ECMP group holds its members once, however many routes use the group.
            if let NextHop::Ecmp { members } = &next_hop {
                members.iter().for_each(|member| self.release_next_hop(*member));
            }
            return Some(number);
        }
        self.wanted.next_hops.insert(number, next_hop);
        Some(number)
    }

    fn release_next_hop(&mut self, number: u32) {
        let Some(users) = self.next_hop_users.get_mut(&number) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        self.next_hop_users.remove(&number);
        let Some(next_hop) = self.wanted.next_hops.remove(&number) else { return };
        // The number stays taken until the kernel has forgotten it.
        if !self.applied.next_hops.contains_key(&number) {
            self.next_hops.free(&next_hop);
        }
        if let NextHop::Ecmp { members } = next_hop {
            members.into_iter().for_each(|member| self.release_next_hop(member));
        }
    }
}

fn gateways(spec: &InterfaceSpec) -> impl Iterator<Item = IpAddr> + '_ {
    spec.addresses.iter().filter_map(|(_, gateway)| *gateway)
}

fn locals(context: &Context) -> impl Iterator<Item = (&str, &IpNet)> {
    let tables = context.local.iter();
    tables.flat_map(|(vrf, table)| table.keys().map(move |prefix| (vrf.as_str(), prefix)))
}

/// Only a policy that asks for the local address is specialised to it; all others are shared.
fn local_address(policy: &Policy, local: &[IpAddr], family: Family) -> Option<IpAddr> {
    let rules = policy.layers.iter().flat_map(|layer| layer.egress.iter().chain(&layer.ingress));
    let asked = rules.into_iter().any(|rule| !rule.local_prefixes.is_empty());
    let first = || local.iter().find(|address| Family::of(**address) == family).copied();
    asked.then(first).flatten()
}

/// The smallest prefix in order.
fn first_prefix() -> IpNet {
    IpNet::V4(ipnet::Ipv4Net::default())
}
