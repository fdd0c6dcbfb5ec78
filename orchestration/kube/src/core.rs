//! The manager without I/O: changes of Kubernetes and of the configuration in, writes out.
//!
//! Level-triggered: a change only marks owners; a marked owner is derived anew from everything as it is now, compared
//! with what it has, and the difference becomes writes. So a lost event, a restart or a long outage needs no care of
//! its own: everything is marked once, and what is right already costs a comparison.

mod impact;
mod nested;

use crate::cache::{Cache, Place};
use crate::derive::{Context, TagTable};
use crate::desired::{Demand, Derived, Patch, Problem};
use crate::key::{Key, Ownership, Sort};
use crate::names::Names;
use crate::objects::{KubeObject, Resource};
use crate::plan::{Plan, Planner, Write};
use crate::settings::Settings;
use skein_model::{Change, FqName, Graph, Kind, Object};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// Types of the configuration that are followed.
pub const FOLLOWED: [Kind; 27] = [
    Kind::DOMAIN,
    Kind::PROJECT,
    Kind::GLOBAL_SYSTEM_CONFIG,
    Kind::POLICY_MANAGEMENT,
    Kind::VIRTUAL_NETWORK,
    Kind::NETWORK_IPAM,
    Kind::NETWORK_POLICY,
    Kind::SECURITY_GROUP,
    Kind::VIRTUAL_ROUTER,
    Kind::VIRTUAL_MACHINE,
    Kind::VIRTUAL_MACHINE_INTERFACE,
    Kind::INSTANCE_IP,
    Kind::TAG,
    Kind::APPLICATION_POLICY_SET,
    Kind::FIREWALL_POLICY,
    Kind::FIREWALL_RULE,
    Kind::ADDRESS_GROUP,
    Kind::SERVICE_APPLIANCE_SET,
    Kind::LOADBALANCER,
    Kind::LOADBALANCER_LISTENER,
    Kind::LOADBALANCER_POOL,
    Kind::LOADBALANCER_MEMBER,
    Kind::FLOATING_IP_POOL,
    Kind::FLOATING_IP,
    Kind::GLOBAL_VROUTER_CONFIG,
    Kind::VIRTUAL_DNS,
    Kind::VIRTUAL_DNS_RECORD,
];

/// How long a write may take to come back by the watch.
const SETTLE: Duration = Duration::from_secs(5);
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How long before a Kubernetes object is told the same thing again.
const REPATCH: Duration = Duration::from_secs(10);

/// A message for the owner of a Kubernetes object.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Which object.
    pub key: Key,
    /// What is wrong.
    pub problem: Problem,
}

/// What is to be done for one owner.
#[derive(Debug, PartialEq)]
pub struct Work {
    /// The owner.
    pub key: Key,
    /// Calls of the configuration API, in this order; the first failure ends them. [`Core::done`] must follow.
    pub writes: Vec<Write>,
    /// Changes of Kubernetes objects.
    pub patches: Vec<Patch>,
    /// Messages.
    pub notices: Vec<Notice>,
}

/// How the writes of an owner ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// All were made.
    Written,
    /// One was refused, with the text for people; the second value: the API understood and said no.
    Failed(String, bool),
}

/// What the watch must show before an owner is looked at again.
#[derive(Debug)]
enum Expect {
    Present(Kind, FqName),
    Absent(Uuid),
    Newer(Uuid, u64),
}

#[derive(Debug, Default)]
struct State {
    /// Writes are on their way.
    busy: bool,
    /// Writes were made and have not come back yet.
    settling: Option<(Vec<Expect>, Duration)>,
    failures: u32,
    not_before: Duration,
    demands: Vec<Demand>,
    reported: Vec<Problem>,
    patched: Option<(Vec<Patch>, Duration)>,
    /// Addresses that must come back.
    addresses: HashMap<FqName, IpAddr>,
}

/// Figures for people and machines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Owners that wait for work.
    pub marked: usize,
    /// Owners with writes on their way.
    pub busy: usize,
    /// Owners whose last writes failed.
    pub failing: usize,
    /// Kubernetes objects with a problem.
    pub problems: usize,
    /// Configuration objects of this cluster.
    pub owned: usize,
    /// Kubernetes objects.
    pub kubernetes: usize,
    /// Owners that were derived since the start.
    pub derived: u64,
}

/// The manager.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    names: Names,
    ownership: Ownership,
    cache: Cache,
    graph: Graph,
    tags: TagTable,
    owned: HashMap<Key, BTreeSet<Uuid>>,
    owners: HashMap<Uuid, Key>,
    states: HashMap<Key, State>,
    marked: BTreeSet<Key>,
    /// Owners by what they wait for.
    waiting: HashMap<(Kind, FqName), BTreeSet<Key>>,
    waiting_gone: HashMap<Uuid, BTreeSet<Key>>,
    /// Owners that may be tried again, by when.
    later: BTreeMap<(Duration, Key), ()>,
    kubernetes_ready: bool,
    configuration_ready: bool,
    /// Every owner was derived once, so that all demands are known.
    complete: bool,
    /// Shared things that nobody demanded before that: they may be needed after all.
    undecided: BTreeSet<Key>,
    busy: usize,
    derived: u64,
}

impl Core {
    /// A manager that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let names = Names::new(&settings);
        let ownership =
            Ownership { owner: settings.owner.clone(), cluster: settings.cluster_name.clone() };
        let mut core = Self {
            settings,
            names,
            ownership,
            cache: Cache::default(),
            graph: Graph::default(),
            tags: TagTable::default(),
            owned: HashMap::new(),
            owners: HashMap::new(),
            states: HashMap::new(),
            marked: BTreeSet::new(),
            waiting: HashMap::new(),
            waiting_gone: HashMap::new(),
            later: BTreeMap::new(),
            kubernetes_ready: false,
            configuration_ready: false,
            complete: false,
            undecided: BTreeSet::new(),
            busy: 0,
            derived: 0,
        };
        core.mark_cluster();
        core
    }

    /// The Kubernetes objects.
    #[must_use]
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The configuration, as far as it is followed.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Figures.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let cache = &self.cache;
        let states = self.states.values();
        Figures {
            marked: self.marked.len() + self.later.len(),
            busy: self.busy,
            failing: states.clone().filter(|state| state.failures > 0).count(),
            problems: states.filter(|state| !state.reported.is_empty()).count(),
            owned: self.owners.len(),
            kubernetes: cache.keys().len() + cache.slices.len() + cache.nodes.len(),
            derived: self.derived,
        }
    }

    /// Whether both sides were read once.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.kubernetes_ready && self.configuration_ready
    }

    // ------------------------------------------------------------ Kubernetes

    /// All Kubernetes types were listed once. Before this nothing is written: what is not known yet would be taken
    /// for deleted.
    pub fn kubernetes_listed(&mut self) {
        if !self.kubernetes_ready {
            self.kubernetes_ready = true;
            self.mark_all();
        }
    }

    /// A Kubernetes object is new or changed.
    pub fn kube_put(&mut self, object: KubeObject) {
        if let Some(changed) = self.cache.put(object) {
            self.kube_changed(&changed);
        }
    }

    /// A Kubernetes object is gone.
    pub fn kube_delete(&mut self, object: &KubeObject) {
        if let Some(changed) = self.cache.delete(object) {
            self.kube_changed(&changed);
        }
    }

    /// A type was listed in full: what is not among it is gone.
    pub fn kube_relisted(&mut self, resource: Resource, seen: &HashSet<Place>) {
        for object in self.cache.absent(resource, seen) {
            self.kube_delete(&object);
        }
    }

    // ------------------------------------------------------------ configuration

    /// Everything that the configuration holds.
    pub fn config_snapshot(&mut self, objects: Vec<Object>, revision: u64) {
        let mut known: BTreeSet<Uuid> = self.graph.objects().map(|object| object.uuid).collect();
        for object in objects {
            known.remove(&object.uuid);
            self.config_put(object, revision);
        }
        for uuid in known {
            self.config_delete(uuid);
        }
        self.configuration_ready = true;
        self.mark_all();
    }

    /// A configuration object is new or changed.
    pub fn config_put(&mut self, mut object: Object, revision: u64) {
        let owner = self.ownership.owner_of(&object);
        if owner.is_none() && !kept_anyway(object.kind) && !is_host_port(&object) {
            if !self.is_of_machines(&object) {
                self.config_delete(object.uuid);
                return;
            }
            nested::strip(&mut object);
        }
        object.revision = revision;
        if object.kind == Kind::FIREWALL_RULE && owner.is_none() {
            // Only its name matters: it is taken.
            let annotations = crate::packed::properties(&object).get("annotations").cloned();
            object.properties.clear();
            object.properties.extend(annotations.map(|value| ("annotations".to_owned(), value)));
            object.references.clear();
        }
        crate::packed::shrink(&mut object);
        let uuid = object.uuid;
        if let Some(before) =
            self.owners.get(&uuid).filter(|before| Some(*before) != owner.as_ref())
        {
            let before = before.clone();
            self.disown(uuid, &before);
            self.mark(before);
        }
        if let Some(key) = &owner {
            self.owned.entry(key.clone()).or_default().insert(uuid);
            self.owners.insert(uuid, key.clone());
        }
        let (kind, name) = (object.kind, object.fq_name.clone());
        let object = Arc::new(object);
        let before = self.graph.apply(&Change::Put(object.clone()));
        if owner.is_none() {
            self.machine_changed(before.as_deref(), &object);
        }
        if let Some(key) = owner {
            self.mark(key);
        }
        if before.is_none() {
            self.appeared(kind, &name);
        } else {
            // A blocker may have let go.
            self.wake_gone(uuid);
        }
        if is_host_port(&object) {
            self.mark_dns();
        }
        if kind == Kind::VIRTUAL_ROUTER {
            let address = |o: &Object| o.properties.get("virtual_router_ip_address").cloned();
            if before.is_none_or(|before| address(&before) != address(&object)) {
                self.router_changed(&object);
            }
        }
    }

    /// A configuration object is gone.
    pub fn config_delete(&mut self, uuid: Uuid) {
        let Some(object) = self.graph.apply(&Change::Delete(uuid)) else { return };
        if let Some(key) = self.owners.get(&uuid).cloned() {
            self.disown(uuid, &key);
            self.mark(key);
        }
        self.wake_gone(uuid);
        if object.kind == Kind::VIRTUAL_ROUTER {
            self.router_changed(&object);
        }
        if is_host_port(&object) {
            self.mark_dns();
        }
        // Whoever refers to it by name may want it back, or say that it is missing.
        if matches!(object.kind, Kind::VIRTUAL_NETWORK | Kind::FLOATING_IP_POOL | Kind::TAG) {
            self.vanished(&object);
        }
    }

    fn disown(&mut self, uuid: Uuid, key: &Key) {
        self.owners.remove(&uuid);
        if let Some(set) = self.owned.get_mut(key) {
            set.remove(&uuid);
            if set.is_empty() {
                self.owned.remove(key);
            }
        }
    }

    fn appeared(&mut self, kind: Kind, name: &FqName) {
        let keys = self.waiting.remove(&(kind, name.clone()));
        for key in keys.into_iter().flatten() {
            self.mark(key);
        }
    }

    fn wake_gone(&mut self, uuid: Uuid) {
        for key in self.waiting_gone.remove(&uuid).into_iter().flatten() {
            self.mark(key);
        }
    }

    // ------------------------------------------------------------ work

    /// Marks an owner.
    pub fn mark(&mut self, key: Key) {
        self.marked.insert(key);
    }

    /// Marks everyone: resync. It repairs any drift, whatever caused it.
    pub fn mark_all(&mut self) {
        self.mark_cluster();
        for key in self.cache.keys() {
            self.mark(key);
        }
        // Owners of objects that Kubernetes no longer knows.
        let owners: Vec<Key> = self.owned.keys().cloned().collect();
        self.marked.extend(owners);
    }

    fn mark_cluster(&mut self) {
        let name = self.settings.cluster_name.clone();
        self.mark(Key::cluster(&name));
    }

    /// The next work, at most for so many owners that `limit` are busy. `now` only grows.
    pub fn poll(&mut self, now: Duration, limit: usize) -> Vec<Work> {
        if !self.synced() {
            return Vec::new();
        }
        while let Some(((at, _), ())) = self.later.first_key_value()
            && *at <= now
        {
            if let Some(((_, key), ())) = self.later.pop_first() {
                self.mark(key);
            }
        }
        let mut out = Vec::new();
        while self.busy < limit {
            let Some(key) = self.marked.pop_first() else {
                if self.complete {
                    break;
                }
                self.complete = true;
                self.marked.append(&mut self.undecided);
                continue;
            };
            if let Some(work) = self.look_at(key, now) {
                if !work.writes.is_empty() {
                    self.busy += 1;
                }
                out.push(work);
            }
        }
        out
    }

    /// When [`poll`](Self::poll) has something to do although nothing happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Duration> {
        self.later.first_key_value().map(|((at, _), ())| *at)
    }

    fn look_at(&mut self, key: Key, now: Duration) -> Option<Work> {
        let state = self.states.entry(key.clone()).or_default();
        if state.busy {
            // Done comes, and marks again.
            return None;
        }
        if let Some((expects, until)) = &state.settling {
            let mut met = true;
            for expect in expects.iter().filter(|expect| !is_met(&self.graph, expect)) {
                met = false;
                // Others' objects wake this owner as well: the holder of a link is not its own.
                let waiters = match expect {
                    Expect::Present(kind, name) => {
                        self.waiting.entry((*kind, name.clone())).or_default()
                    }
                    Expect::Absent(uuid) | Expect::Newer(uuid, _) => {
                        self.waiting_gone.entry(*uuid).or_default()
                    }
                };
                waiters.insert(key.clone());
            }
            if !met && now < *until {
                self.later.insert((*until, key), ());
                return None;
            }
            self.later.remove(&(*until, key.clone()));
            state.settling = None;
            if met {
                state.failures = 0;
            } else {
                // It was written and is not seen: the watch hangs, or someone undoes it. No storm of writes.
                state.failures += 1;
                state.not_before = now + backoff(state.failures);
            }
        }
        if now < state.not_before {
            self.later.insert((state.not_before, key), ());
            return None;
        }
        self.derived += 1;
        let derived = self.context().derive(&key);
        let shared = matches!(key.sort, Sort::Tag | Sort::AddressGroup);
        if shared && !self.complete && derived.objects.is_empty() {
            self.undecided.insert(key);
            return None;
        }
        self.take_demands(&key, &derived);
        let plan = self.plan(&key, &derived);
        self.register_waits(&key, &derived, &plan);
        self.settle_up(key, derived, plan, now)
    }

    fn context(&self) -> Context<'_> {
        Context {
            settings: &self.settings,
            names: &self.names,
            ownership: &self.ownership,
            cache: &self.cache,
            graph: &self.graph,
            tags: &self.tags,
        }
    }

    /// What an owner wants now. For tests and for people who ask why.
    #[must_use]
    pub fn derive(&self, key: &Key) -> Derived {
        self.context().derive(key)
    }

    fn plan(&mut self, key: &Key, derived: &Derived) -> Plan {
        let empty = BTreeSet::new();
        let state = self.states.entry(key.clone()).or_default();
        // Asked for in vain a few times: the pod gets another one.
        let tries = state.failures < 3;
        let mut addresses: HashMap<FqName, IpAddr> =
            derived.addresses.iter().filter(|_| tries).cloned().collect();
        if tries {
            addresses
                .extend(state.addresses.iter().map(|(name, address)| (name.clone(), *address)));
        }
        Planner {
            graph: &self.graph,
            ownership: &self.ownership,
            key,
            owned: self.owned.get(key).unwrap_or(&empty),
            derived,
            addresses: &addresses,
        }
        .plan()
    }

    fn take_demands(&mut self, key: &Key, derived: &Derived) {
        let Some(state) = self.states.get_mut(key) else { return };
        if derived.hold || state.demands == derived.demands {
            return;
        }
        let before = std::mem::replace(&mut state.demands, derived.demands.clone());
        let shift = self.tags.change(key, &before, &derived.demands);
        self.shifted(shift);
    }

    fn register_waits(&mut self, key: &Key, derived: &Derived, plan: &Plan) {
        for wait in derived.waits.iter().chain(&plan.waits) {
            self.waiting.entry(wait.clone()).or_default().insert(key.clone());
        }
        for uuid in &plan.waits_gone {
            self.waiting_gone.entry(*uuid).or_default().insert(key.clone());
        }
    }

    fn settle_up(&mut self, key: Key, derived: Derived, plan: Plan, now: Duration) -> Option<Work> {
        let mut problems = derived.problems;
        problems.extend(plan.clashes.iter().map(|(kind, name)| Problem {
            reason: "NameTaken",
            message: format!(
                "{kind} {name} belongs to something else; remove it, or choose another cluster_name"
            ),
        }));
        problems.sort();
        problems.dedup();
        let exists = self.owned.contains_key(&key);
        let state = self.states.entry(key.clone()).or_default();
        state.addresses.extend(plan.keep);
        if plan.writes.is_empty() && plan.waits.is_empty() {
            state.addresses.clear();
        }
        let notices = problems
            .iter()
            .filter(|problem| !state.reported.contains(problem))
            .map(|problem| Notice { key: key.clone(), problem: problem.clone() })
            .collect::<Vec<_>>();
        state.reported = problems;
        let again = state
            .patched
            .as_ref()
            .is_none_or(|(before, at)| *before != derived.patches || now >= *at + REPATCH);
        let patches = if again { derived.patches } else { Vec::new() };
        if !patches.is_empty() {
            state.patched = Some((patches.clone(), now));
        }
        if plan.writes.is_empty() {
            let idle = state.demands.is_empty() && state.reported.is_empty() && state.failures == 0;
            if idle && !exists && !self.known(&key) {
                self.states.remove(&key);
            }
            if patches.is_empty() && notices.is_empty() {
                return None;
            }
        } else {
            state.busy = true;
            let expects = expectations(&self.graph, &plan.writes);
            state.settling = Some((expects, Duration::MAX));
        }
        Some(Work { key, writes: plan.writes, patches, notices })
    }

    /// The writes of an owner ended.
    pub fn done(&mut self, key: &Key, outcome: &Outcome, now: Duration) -> Vec<Notice> {
        let Some(state) = self.states.get_mut(key) else { return Vec::new() };
        if !std::mem::take(&mut state.busy) {
            return Vec::new();
        }
        self.busy -= 1;
        let mut notices = Vec::new();
        match outcome {
            Outcome::Written => {
                if let Some((_, until)) = &mut state.settling {
                    *until = now + SETTLE;
                }
            }
            Outcome::Failed(text, refused) => {
                state.settling = None;
                state.failures += 1;
                state.not_before = now + backoff(state.failures);
                // The first refusals may be about what is on its way.
                if *refused && state.failures == 3 {
                    let problem = Problem { reason: "Refused", message: text.clone() };
                    state.reported.push(problem.clone());
                    notices.push(Notice { key: key.clone(), problem });
                }
            }
        }
        self.mark(key.clone());
        notices
    }

    /// Whether Kubernetes knows an owner.
    fn known(&self, key: &Key) -> bool {
        let place = (key.namespace.clone(), key.name.clone());
        match key.sort {
            Sort::Cluster => true,
            Sort::Tag | Sort::AddressGroup => false,
            Sort::Namespace => self.cache.namespaces.contains_key(&key.name),
            Sort::Nad => self.cache.nads.contains_key(&place),
            Sort::VirtualNetwork => self.cache.virtual_networks.contains_key(&place),
            Sort::Service => self.cache.services.contains_key(&place),
            Sort::Policy => self.cache.policies.contains_key(&place),
            Sort::MultiPolicy => self.cache.multi_policies.contains_key(&place),
            Sort::Admin => self.cache.admin.contains_key(&place),
            Sort::Ingress => self.cache.ingresses.contains_key(&place),
            Sort::Pod => self.cache.pods.contains_key(&place),
        }
    }

    /// The Kubernetes identity of an owner, for messages.
    #[must_use]
    pub fn uid_of(&self, key: &Key) -> Option<Uuid> {
        let place = (key.namespace.clone(), key.name.clone());
        let meta = match key.sort {
            Sort::Cluster | Sort::Tag | Sort::AddressGroup => return None,
            Sort::Namespace => &self.cache.namespaces.get(&key.name)?.meta,
            Sort::Nad => &self.cache.nads.get(&place)?.meta,
            Sort::VirtualNetwork => &self.cache.virtual_networks.get(&place)?.meta,
            Sort::Service => &self.cache.services.get(&place)?.meta,
            Sort::Policy => &self.cache.policies.get(&place)?.meta,
            Sort::MultiPolicy => &self.cache.multi_policies.get(&place)?.meta,
            Sort::Admin => &self.cache.admin.get(&place)?.meta,
            Sort::Ingress => &self.cache.ingresses.get(&place)?.meta,
            Sort::Pod => &self.cache.pods.get(&place)?.meta,
        };
        Some(meta.uid)
    }
}

/// Types of which others' objects matter too.
fn kept_anyway(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::VIRTUAL_MACHINE
            | Kind::VIRTUAL_MACHINE_INTERFACE
            | Kind::INSTANCE_IP
            | Kind::LOADBALANCER
            | Kind::LOADBALANCER_LISTENER
            | Kind::LOADBALANCER_POOL
            | Kind::LOADBALANCER_MEMBER
            | Kind::FLOATING_IP
            | Kind::SECURITY_GROUP
            | Kind::VIRTUAL_DNS_RECORD
    )
}

/// Whether an object is the port of a node's own stack.
fn is_host_port(object: &Object) -> bool {
    object.kind == Kind::VIRTUAL_MACHINE_INTERFACE
        && object.parent.is_some_and(|(kind, _)| kind == Kind::VIRTUAL_ROUTER)
}

fn backoff(failures: u32) -> Duration {
    let factor = 1u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
    BACKOFF.0.saturating_mul(factor).min(BACKOFF.1)
}

fn expectations(graph: &Graph, writes: &[Write]) -> Vec<Expect> {
    let revision = |uuid: Uuid| graph.get(uuid).map_or(0, |object| object.revision);
    writes
        .iter()
        .map(|write| match write {
            Write::Create { kind, name, .. } => Expect::Present(*kind, name.clone()),
            Write::Delete { uuid, .. } => Expect::Absent(*uuid),
            Write::Update { uuid, .. } | Write::Reference { uuid, .. } => {
                Expect::Newer(*uuid, revision(*uuid))
            }
        })
        .collect()
}

fn is_met(graph: &Graph, expect: &Expect) -> bool {
    match expect {
        Expect::Present(kind, name) => graph.by_name(*kind, name).is_some(),
        Expect::Absent(uuid) => graph.get(*uuid).is_none(),
        Expect::Newer(uuid, revision) => {
            graph.get(*uuid).is_none_or(|object| object.revision > *revision)
        }
    }
}
