//! Firewall policies and application policy sets: rules in order, and by the tags they ask for.

use super::End;
use super::rule::FirewallRule;
use crate::engine::Engine;
use crate::query::{Answer, Query, Stamped, content_id};
use skein_model::values::FirewallSequence;
use skein_model::views::{ApplicationPolicySet, FirewallPolicy as View};
use skein_model::{Kind, Object};
use std::collections::HashMap;
use std::sync::Arc;
use uuid::Uuid;

/// A firewall policy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FirewallPolicy {
    /// The tier it says it is in; policies that name none are in one without a name.
    pub(crate) tier: String,
    /// Not in force: what it would change is only told.
    pub(crate) staged: bool,
    /// Rules in order; exceptions are part of the rules they are cut into.
    pub(crate) rules: Vec<Arc<Stamped<FirewallRule>>>,
}

/// A rule and its place.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Number of the tier within the set.
    pub(crate) tier: u32,
    /// Its policy is only staged.
    pub(crate) staged: bool,
    pub(crate) rule: Arc<Stamped<FirewallRule>>,
}

/// Position of a rule, and the end at which a port may stand.
type Candidate = (usize, usize);

/// All rules of an application policy set.
#[derive(Debug)]
pub(crate) struct RuleSet {
    /// Equal content has equal ids.
    id: Uuid,
    /// Rules in order.
    pub(crate) rules: Vec<Placed>,
    /// How many tiers there are.
    pub(crate) tiers: u32,
    /// Some policy is in force.
    pub(crate) enforced: bool,
    /// Some policy is only staged.
    pub(crate) staged: bool,
    /// Ends that ask for tags, by the one of them that the fewest ends ask for.
    by_tag: HashMap<u32, Vec<Candidate>>,
    /// All other ends at which ports are judged.
    others: Vec<Candidate>,
}

impl PartialEq for RuleSet {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl RuleSet {
    fn new(rules: Vec<Placed>, tiers: u32, enforced: bool, staged: bool) -> RuleSet {
        let mut content = Vec::with_capacity(rules.len() * 24);
        content.extend([u8::from(enforced), u8::from(staged)]);
        let mut asked: HashMap<u32, usize> = HashMap::new();
        for placed in &rules {
            content.extend(placed.tier.to_be_bytes());
            content.push(u8::from(placed.staged));
            content.extend(placed.rule.id.as_bytes());
            for end in &placed.rule.value.ends {
                if let End::Tags(tags) = end {
                    tags.iter().for_each(|tag| *asked.entry(*tag).or_default() += 1);
                }
            }
        }
        let mut by_tag: HashMap<u32, Vec<Candidate>> = HashMap::new();
        let mut others = Vec::new();
        for (at, placed) in rules.iter().enumerate() {
            let rule = &placed.rule.value;
            for (end, who) in rule.ends.iter().enumerate().filter(|(end, _)| rule.judged[*end]) {
                let rarest = match who {
                    End::Tags(tags) => tags.iter().min_by_key(|tag| asked.get(*tag).copied()),
                    _ => None,
                };
                match rarest {
                    Some(tag) => by_tag.entry(*tag).or_default().push((at, end)),
                    None => others.push((at, end)),
                }
            }
        }
        RuleSet { id: content_id(&content), rules, tiers, enforced, staged, by_tag, others }
    }

    /// Rules that may be about a port with these tags, in order.
    pub(crate) fn candidates(&self, tags: &[u32]) -> Vec<Candidate> {
        let tagged = tags.iter().filter_map(|tag| self.by_tag.get(tag)).flatten();
        let mut out: Vec<Candidate> = tagged.chain(&self.others).copied().collect();
        out.sort_unstable();
        out
    }
}

/// References to a kind in the order of their sequences; equal ones in the order they were made.
fn in_order(object: &Object, kind: Kind) -> Vec<Uuid> {
    let mut all: Vec<_> = object
        .references_to(kind)
        .map(|reference| {
            let sequence = reference.attribute::<FirewallSequence>().and_then(|s| s.sequence);
            (sequence_key(&sequence.unwrap_or_default()), reference.uuid)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter().map(|(_, uuid)| uuid).collect()
}

/// `00002.25` as its number and the digits of its fraction, which compare like the fraction.
fn sequence_key(text: &str) -> (u64, String) {
    let (number, fraction) = text.split_once('.').unwrap_or((text, ""));
    (number.parse().unwrap_or(0), fraction.trim_end_matches('0').to_owned())
}

/// Reads one policy.
pub(crate) fn policy(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::FIREWALL_POLICY, uuid) else { return Answer::Nothing };
    let Some(view) = View::of(&object) else { return Answer::Nothing };
    let mut rules = Vec::new();
    let mut holes: Vec<Arc<FirewallRule>> = Vec::new();
    for uuid in in_order(&object, Kind::FIREWALL_RULE) {
        let Answer::FirewallRule(mut rule) = engine.ask(Query::FirewallRule(uuid)) else {
            continue;
        };
        if rule.is_exception {
            holes.push(rule);
            continue;
        }
        if !holes.is_empty() {
            let mut holed = FirewallRule::clone(&rule);
            let before = holes.len();
            // A hole is cut once: a later rule for the same addresses has its own say.
            holes.retain(|hole| !holed.cut(hole));
            if holes.len() < before {
                rule = Arc::new(holed);
            }
        }
        rules.push(Arc::new(Stamped::new(FirewallRule::clone(&rule))));
    }
    let tier = view.policy_tier().unwrap_or_default();
    let staged = view.staged() == Some(true);
    Answer::FirewallPolicy(Arc::new(FirewallPolicy { tier, staged, rules }))
}

/// Reads one set; [`Answer::Nothing`] when it has no policies.
pub(crate) fn rule_set(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::APPLICATION_POLICY_SET, uuid) else {
        return Answer::Nothing;
    };
    let mut rules = Vec::new();
    let mut tier: Option<(u32, String)> = None;
    let (mut enforced, mut staged) = (false, false);
    for uuid in in_order(&object, Kind::FIREWALL_POLICY) {
        let Answer::FirewallPolicy(policy) = engine.ask(Query::FirewallPolicy(uuid)) else {
            continue;
        };
        let number = match &tier {
            Some((number, name)) if *name == policy.tier => *number,
            Some((number, _)) => number + 1,
            None => 0,
        };
        tier = Some((number, policy.tier.clone()));
        enforced |= !policy.staged;
        staged |= policy.staged;
        rules.extend(policy.rules.iter().map(|rule| Placed {
            tier: number,
            staged: policy.staged,
            rule: rule.clone(),
        }));
    }
    match tier {
        Some((last, _)) => {
            Answer::RuleSet(Arc::new(RuleSet::new(rules, last + 1, enforced, staged)))
        }
        None => Answer::Nothing,
    }
}

/// The sets that a tag, a project or the global vRouter configuration selects.
pub(crate) fn sets(engine: &mut Engine, holder: Uuid) -> Answer {
    let Some(object) = engine.any(holder) else { return Answer::Nothing };
    if object.kind == Kind::PROJECT {
        let own: Vec<Uuid> = object
            .references_to(Kind::APPLICATION_POLICY_SET)
            .filter_map(|r| engine.get(Kind::APPLICATION_POLICY_SET, r.uuid))
            .filter(|set| {
                ApplicationPolicySet::of(set).and_then(ApplicationPolicySet::all_applications)
                    == Some(true)
            })
            .map(|set| set.uuid)
            .collect();
        return Answer::Sets(Arc::new(own));
    }
    let mut sets = engine.back_references(holder, Kind::APPLICATION_POLICY_SET);
    // What holds for all comes before what a project adds.
    sets.sort_by(|a, b| {
        (a.fq_name.parts().len(), &a.fq_name).cmp(&(b.fq_name.parts().len(), &b.fq_name))
    });
    Answer::Sets(Arc::new(sets.iter().map(|set| set.uuid).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_sort_as_numbers_with_fractions() {
        let mut all = ["00002.0", "00001.5", "00001.25", "1", "00010.0", "2.1"];
        all.sort_by_key(|text| sequence_key(text));
        assert_eq!(all, ["1", "00001.25", "00001.5", "00002.0", "2.1", "00010.0"]);
    }
}
