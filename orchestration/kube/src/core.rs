//! The manager without I/O: changes of Kubernetes and of the configuration in, writes out.
//!
//! Level-triggered: a change only marks owners; a marked owner is derived anew from everything as it is now, compared
//! with what it has, and the difference becomes writes. So a lost event, a restart or a long outage needs no care of
//! its own: everything is marked once, and what is right already costs a comparison.

mod condition;
mod configuration;
mod impact;
mod nested;
mod reach;
mod work;

pub use configuration::FOLLOWED;

use crate::cache::{Cache, Place};
use crate::derive::{Context, ReachTable, TagTable};
use crate::desired::{Derived, Patch, Problem};
use crate::key::{Key, Ownership, Sort};
use crate::names::Names;
use crate::objects::{KubeObject, Resource};
use crate::plan::Write;
use crate::settings::Settings;
use crate::tellings::Told;
use skein_model::{FqName, Graph, Kind};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;
use uuid::Uuid;
use work::State;

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
    /// One was not, with the text for people.
    Failed(String, Reason),
}

/// Why a write was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It was not answered, or not yet.
    Unavailable,
    /// The API understood and said no.
    Refused,
    /// No address is left to give: where, in the API's words.
    PoolEmpty(String),
    /// Somebody else has the address that was asked for: which, in the API's words.
    AddressTaken(String),
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
    reach: ReachTable,
    owned: HashMap<Key, BTreeSet<Uuid>>,
    owners: HashMap<Uuid, Key>,
    states: HashMap<Key, State>,
    marked: BTreeSet<Key>,
    /// Marked pods that had nothing yet, in the order in which they were marked; some may be done meanwhile.
    fresh: VecDeque<Key>,
    /// Owners by what they wait for.
    waiting: HashMap<(Kind, FqName), BTreeSet<Key>>,
    waiting_gone: HashMap<Uuid, BTreeSet<Key>>,
    /// Owners that may be tried again, by when.
    later: BTreeMap<(Duration, Key), ()>,
    /// Owners that wait for an address, those that wait longest first, and for what.
    hungry: BTreeMap<u64, (Key, String)>,
    queued: u64,
    /// Pods of which something is wrong: a network that changes may mend it.
    wrong: BTreeSet<Key>,
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
            reach: ReachTable::default(),
            owned: HashMap::new(),
            owners: HashMap::new(),
            states: HashMap::new(),
            marked: BTreeSet::new(),
            fresh: VecDeque::new(),
            waiting: HashMap::new(),
            waiting_gone: HashMap::new(),
            later: BTreeMap::new(),
            hungry: BTreeMap::new(),
            queued: 0,
            wrong: BTreeSet::new(),
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

    /// The owner of a pod that should have ports and has nothing yet.
    #[must_use]
    pub fn new_pod(&self, object: &KubeObject) -> Option<Key> {
        let KubeObject::Pod(pod) = object else { return None };
        let key = Key::new(Sort::Pod, &pod.meta.namespace, &pod.meta.name);
        (pod.is_attached() && !self.owned.contains_key(&key)).then_some(key)
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

    /// Marks an owner.
    pub fn mark(&mut self, key: Key) {
        let fresh = key.sort == Sort::Pod && !self.owned.contains_key(&key);
        if fresh && !self.marked.contains(&key) {
            self.fresh.push_back(key.clone());
        }
        self.marked.insert(key);
    }

    /// The next owner to look at: pods come last, when the policies about them are known, and new ones, which cannot start
    /// before, go before others that change, in their order: nobody overtakes them by its name.
    fn next_marked(&mut self) -> Option<Key> {
        if self.marked.first()?.sort == Sort::Pod {
            while let Some(key) = self.fresh.pop_front() {
                if self.marked.remove(&key) {
                    return Some(key);
                }
            }
        }
        self.marked.pop_first()
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
            let Some(key) = self.next_marked() else {
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

    fn context(&self) -> Context<'_> {
        Context {
            settings: &self.settings,
            names: &self.names,
            ownership: &self.ownership,
            cache: &self.cache,
            graph: &self.graph,
            tags: &self.tags,
            reach: &self.reach,
        }
    }

    /// Whether something is still to be told: what was wrong may be put right by now.
    #[must_use]
    pub fn wants(&self, told: &Told) -> bool {
        match told {
            Told::Notice(notice, _) => {
                let state = self.states.get(&notice.key);
                state.is_some_and(|state| state.reported.contains(&notice.problem))
            }
            Told::Patches(key, patches) => {
                let patched = self.states.get(key).and_then(|state| state.patched.as_ref());
                patched.is_some_and(|(wanted, _)| wanted == patches)
            }
        }
    }

    /// What an owner wants now. For tests and for people who ask why.
    #[must_use]
    pub fn derive(&self, key: &Key) -> Derived {
        self.context().derive(key)
    }

    /// Whether Kubernetes knows an owner.
    fn known(&self, key: &Key) -> bool {
        key.sort == Sort::Cluster || self.uid_of(key).is_some()
    }

    /// The Kubernetes identity of an owner, for messages.
    #[must_use]
    pub fn uid_of(&self, key: &Key) -> Option<Uuid> {
        let place = (key.namespace.clone(), key.name.clone());
        let meta = match key.sort {
            Sort::Cluster | Sort::Tag | Sort::AddressGroup | Sort::Reach => return None,
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
