//! What is to be done for one owner, and when: after writes that are on their way have come back, after failures a
//! while later.

use super::{Core, Notice, Outcome, Reason, Work, condition};
use crate::desired::{Demand, Derived, Patch, Problem};
use crate::key::{Key, Sort};
use crate::plan::{Plan, Planner, Write};
use skein_model::{FqName, Graph, Kind};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;
use uuid::Uuid;

/// How long a write may take to come back by the watch.
const SETTLE: Duration = Duration::from_secs(5);
/// First and longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));
/// How many of those that wait for an address are tried when one is freed.
const FED: usize = 4;
/// How long before a Kubernetes object is told the same thing again.
const REPATCH: Duration = Duration::from_secs(10);

/// What the watch must show before an owner is looked at again.
#[derive(Debug)]
pub(super) enum Expect {
    Present(Kind, FqName),
    Absent(Uuid),
    Newer(Uuid, u64),
}

/// What is known of an owner between two looks at it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Writes are on their way.
    busy: bool,
    /// Writes were made and have not come back yet.
    settling: Option<(Vec<Expect>, Duration)>,
    pub(super) failures: u32,
    not_before: Duration,
    demands: Vec<Demand>,
    pub(super) reported: Vec<Problem>,
    /// Why its writes are not made, once that is told.
    refused: Option<Problem>,
    /// Its place among those for which no address is left.
    hungry: Option<u64>,
    /// An address was freed while it was on its way.
    fed: bool,
    pub(super) patched: Option<(Vec<Patch>, Duration)>,
    /// Addresses that must come back.
    addresses: HashMap<FqName, IpAddr>,
}

impl Core {
    pub(super) fn look_at(&mut self, key: Key, now: Duration) -> Option<Work> {
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
        if key.sort == Sort::Reach {
            self.judge_reach(&key);
        }
        let derived = self.context().derive(&key);
        let shared = matches!(key.sort, Sort::Tag | Sort::AddressGroup | Sort::Reach);
        if shared && !self.complete && derived.objects.is_empty() {
            self.undecided.insert(key);
            return None;
        }
        self.take_demands(&key, &derived);
        let plan = self.plan(&key, &derived);
        self.register_waits(&key, &derived, &plan);
        self.settle_up(key, derived, plan, now)
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
        let exists = self.owned.contains_key(&key);
        let state = self.states.entry(key.clone()).or_default();
        if plan.writes.is_empty() {
            // There is nothing left that could fail.
            state.refused = None;
            if plan.waits.is_empty() {
                state.failures = 0;
            }
            if let Some(place) = state.hungry.take() {
                self.hungry.remove(&place);
            }
        }
        problems.extend(state.refused.clone());
        problems.sort();
        problems.dedup();
        state.addresses.extend(plan.keep);
        if plan.writes.is_empty() && plan.waits.is_empty() {
            state.addresses.clear();
        }
        // One look-up for a pod of which nothing is wrong, and no write.
        let settled = plan.writes.is_empty() && plan.waits.is_empty() && !derived.hold;
        let pod = (key.sort == Sort::Pod)
            .then(|| self.cache.pods.get(&(key.namespace.clone(), key.name.clone())))
            .flatten();
        let mut wanted = derived.patches;
        wanted.extend(pod.and_then(|pod| condition::patch(&key, pod, &problems, settled)));
        if pod.is_some() && !problems.is_empty() {
            self.wrong.insert(key.clone());
        } else {
            self.wrong.remove(&key);
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
            .is_none_or(|(before, at)| *before != wanted || now >= *at + REPATCH);
        if wanted.is_empty() {
            // It was seen.
            state.patched = None;
        }
        let patches = if again { wanted } else { Vec::new() };
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
                state.refused = None;
                if let Some(place) = state.hungry.take() {
                    self.hungry.remove(&place);
                }
                if let Some((_, until)) = &mut state.settling {
                    *until = now + SETTLE;
                }
            }
            // Another cluster uses it still, which only the API knows. The next comparison of everything tries again.
            Outcome::Failed(_, Reason::Refused)
                if matches!(key.sort, Sort::Tag | Sort::AddressGroup)
                    && !self.tags.is_used(key) =>
            {
                state.settling = None;
                state.failures = 0;
                return notices;
            }
            Outcome::Failed(text, reason) => {
                state.settling = None;
                state.failures += 1;
                state.not_before = now + backoff(state.failures);
                if std::mem::take(&mut state.fed) {
                    state.not_before = now;
                }
                let (reason, waits_for) = match reason {
                    Reason::Unavailable => (None, None),
                    Reason::Refused => (Some("Refused"), None),
                    Reason::PoolEmpty(place) => (Some("PoolEmpty"), Some(place)),
                    Reason::AddressTaken(which) => (Some("AddressTaken"), Some(which)),
                };
                let mut message = text.clone();
                if let Some(what) = waits_for {
                    message.push_str("; it is given as soon as it is free");
                    if state.hungry.is_none() {
                        self.queued += 1;
                        state.hungry = Some(self.queued);
                        self.hungry.insert(self.queued, (key.clone(), what.clone()));
                    }
                }
                let problem = reason.map(|reason| Problem { reason, message });
                // The first refusals may be about what is on its way.
                if state.failures >= 3 && problem.is_some() && state.refused != problem {
                    state.refused.clone_from(&problem);
                    if let Some(problem) = problem.filter(|new| !state.reported.contains(new)) {
                        state.reported.push(problem.clone());
                        notices.push(Notice { key: key.clone(), problem });
                    }
                }
            }
        }
        self.mark(key.clone());
        notices
    }

    /// There may be addresses again: those that wait longest for the same are tried at once, the others by and by.
    pub(super) fn feed(&mut self) {
        let mut first: Vec<Key> = Vec::new();
        let mut tried: HashMap<&str, usize> = HashMap::new();
        for (key, what) in self.hungry.values() {
            let count = tried.entry(what).or_default();
            if *count < FED {
                *count += 1;
                first.push(key.clone());
            }
        }
        for key in first {
            if let Some(state) = self.states.get_mut(&key) {
                state.fed = state.busy;
                state.not_before = Duration::ZERO;
            }
            self.mark(key);
        }
    }
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
