//! The tag firewall: what application policy sets decide about a port's connections.
//!
//! A port's tags select its sets; the sets' policies, in order, make one list of rules of which the
//! first that passes or denies decides, and the end of the list denies. A port without any policy
//! passes (spec/kubernetes.md section 5.1). Of a rule's two endpoints one is the port: whether it is
//! can be told from the port's tags and network, here and now. The other becomes a condition on the
//! remote end.
//!
//! Ports with equal tags in one network have equal layers, so layers are compiled for [`Subject`]s,
//! not for ports; and a set keeps its rules by the tags they ask for ([`policy::RuleSet`]), so that a
//! subject looks only at rules that may be about it.

mod end;
mod policy;
mod rule;

pub(crate) use end::End;
pub(crate) use policy::{FirewallPolicy, RuleSet, policy, rule_set, sets};
pub(crate) use rule::{FirewallRule, resolve as rule};

use crate::engine::Engine;
use crate::query::{Answer, Query, Stamped, content_id};
use crate::rule::Rules;
use end::Local;
use policy::Placed;
use skein_model::{FqName, Kind};
use skein_policy::{Layer, RuleAction};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// Number of the tag type that selects policy sets.
pub(crate) const APPLICATION: u32 = 1;

/// All that the firewall asks about a port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subject {
    /// The project it belongs to, for that project's default set.
    pub(crate) project: Option<Uuid>,
    /// Its network.
    pub(crate) network: Uuid,
    /// Its tags of type `application`, as objects.
    pub(crate) applications: Vec<Uuid>,
    /// Ids of all its tags, sorted.
    pub(crate) tags: Vec<u32>,
}

impl Subject {
    /// Equal subjects have equal ids.
    pub(crate) fn id(&self) -> Uuid {
        let mut content =
            Vec::with_capacity(48 + 16 * self.applications.len() + 4 * self.tags.len());
        content.extend(self.project.unwrap_or_default().as_bytes());
        content.extend(self.network.as_bytes());
        content.push(u8::try_from(self.applications.len()).unwrap_or(u8::MAX));
        content.extend(self.applications.iter().flat_map(|uuid| *uuid.as_bytes()));
        content.extend(self.tags.iter().flat_map(|id| id.to_be_bytes()));
        content_id(&content)
    }

    fn values_of(&self, tag_type: u32) -> impl Iterator<Item = u32> {
        self.tags.iter().copied().filter(move |id| id >> 16 == tag_type)
    }
}

/// What the firewall says about a subject's ports.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Firewall {
    /// The layer in force; without one everything passes.
    pub(crate) enforced: Option<Layer>,
    /// The layer that would be in force if staged policies were; `None` when they would change nothing.
    pub(crate) staged: Option<Layer>,
}

/// A rule that is about a subject, which stands at one of its ends.
#[derive(Clone)]
struct Hit<'a> {
    placed: &'a Placed,
    tier: u32,
    end: usize,
    local: Local,
    /// Tags that the remote end must share, one list an alternative.
    shared: Vec<Vec<u32>>,
}

/// The firewall of a subject's ports.
pub(crate) fn firewall(engine: &mut Engine, id: Uuid) -> Answer {
    let Some(subject) = engine.subject(id) else { return Answer::Nothing };
    let sets = sets_of(engine, &subject);
    if sets.is_empty() {
        return Answer::Nothing;
    }
    let mut hits = Vec::new();
    let mut base = 0;
    for set in &sets {
        collect(set, base, &subject, &mut hits);
        base += set.tiers;
    }
    let mut content = Vec::with_capacity(hits.len() * 32);
    let in_force = sets.iter().any(|set| set.enforced);
    // A staged policy that is not about the subject may still bring the end of the list, which denies.
    let changes = sets.iter().any(|set| set.staged)
        && (!in_force || hits.iter().any(|hit| hit.placed.staged));
    let staged = changes.then(|| layer(hits.clone(), &mut content));
    content.push(u8::from(changes));
    hits.retain(|hit| !hit.placed.staged);
    let enforced = in_force.then(|| layer(hits, &mut content));
    content.push(u8::from(in_force));
    Answer::Firewall(Arc::new(Stamped {
        id: content_id(&content),
        value: Firewall { enforced, staged },
    }))
}

/// Makes a layer of rules, and adds to `content` what tells it from others.
fn layer(mut hits: Vec<Hit<'_>>, content: &mut Vec<u8>) -> Layer {
    number_tiers(&mut hits);
    let mut rules = Rules::default();
    for hit in &hits {
        content.extend(hit.placed.rule.id.as_bytes());
        content.push(hit.end as u8);
        content.push(u8::from(hit.local == Local::Always));
        content.extend(hit.tier.to_be_bytes());
        content.extend(hit.shared.iter().flatten().flat_map(|tag| tag.to_be_bytes()));
        hit.placed.rule.value.emit(hit.end, hit.tier, &hit.local, &hit.shared, &mut rules);
    }
    Layer {
        name: "firewall".into(),
        egress: rules.egress,
        ingress: rules.ingress,
        default_pass: false,
    }
}

/// The sets that decide about a subject, in order: those of the whole system, its project's own, those of its
/// application. Sets without any policy have no say, or every new project would be closed.
fn sets_of(engine: &mut Engine, subject: &Subject) -> Vec<Arc<RuleSet>> {
    let vrouters = FqName::parse("default-global-system-config:default-global-vrouter-config");
    let global = engine.find(Kind::GLOBAL_VROUTER_CONFIG, &vrouters);
    let holders = global.into_iter().chain(subject.project);
    let holders: Vec<Uuid> = holders.chain(subject.applications.iter().copied()).collect();
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for holder in holders {
        let Answer::Sets(sets) = engine.ask(Query::Sets(holder)) else { continue };
        for set in sets.iter().copied().filter(|set| seen.insert(*set)) {
            if let Answer::RuleSet(set) = engine.ask(Query::RuleSet(set)) {
                out.push(set);
            }
        }
    }
    out
}

/// Finds a set's rules that are about the subject, in order.
fn collect<'a>(set: &'a RuleSet, base: u32, subject: &Subject, hits: &mut Vec<Hit<'a>>) {
    for (at, end) in set.candidates(&subject.tags) {
        let placed = &set.rules[at];
        let rule = &placed.rule.value;
        let Some(local) = rule.ends[end].local(subject) else { continue };
        // A rule with equal ends and both directions says the same from either side.
        let twice = |hit: &Hit<'_>| {
            std::ptr::eq(hit.placed, placed)
                && rule.opens == [true, true]
                && rule.ends[0] == rule.ends[1]
        };
        if hits.last().is_some_and(twice) {
            continue;
        }
        if let Some(shared) = shared(&rule.match_types, subject) {
            hits.push(Hit { placed, tier: base + placed.tier, end, local, shared });
        }
    }
}

/// Values of the match types that the remote end must share, one list an alternative; `None` when
/// the port has no tag of one of the types: both ends must have one (spec/vrouter.md section 4.2).
fn shared(match_types: &[u32], subject: &Subject) -> Option<Vec<Vec<u32>>> {
    let mut alternatives = vec![Vec::new()];
    for tag_type in match_types {
        alternatives = alternatives
            .iter()
            .flat_map(|so_far| {
                subject.values_of(*tag_type).map(|tag| {
                    let mut longer = so_far.clone();
                    longer.push(tag);
                    longer
                })
            })
            .collect();
    }
    (!alternatives.is_empty()).then_some(alternatives)
}

/// Numbers tiers from 0 as far as a skip needs them, so that a tier elsewhere changes nothing here.
fn number_tiers(hits: &mut [Hit<'_>]) {
    let mut previous = None;
    let mut number = 0;
    let mut skips = false;
    for hit in hits {
        if previous.is_some_and(|tier| tier != hit.tier) && skips {
            number += 1;
            skips = false;
        }
        previous = Some(hit.tier);
        hit.tier = number;
        skips |= hit.placed.rule.value.action == RuleAction::Skip;
    }
}
