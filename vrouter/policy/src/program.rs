//! Flattening: a policy, specialised to one family and local address, becomes policy map entries.
//!
//! For each remote identity the applicable rules are swept along the destination port axis, once for every protocol the rules
//! name and once for all others. A sweep keeps, per layer, the set of rules in force at the port; the first of each set
//! that no skip before it leaves out decides. Sweeps become port prefixes ([`crate::ports`]). Cost: O(r log r) per identity and protocol.

use crate::evaluate::{PORT_PROTOCOLS, tests_destination, tests_source};
use crate::ports::{Steps, normalise, prefixes, simplify};
use crate::{
    Action, Direction, Entry, Family, Identity, IdentityNumber, Policy, Rule, RuleAction,
    SourceEntry, selection,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use uuid::Uuid;

/// Number of a decision in the kernel's maps, flows and events; [`RuleBook`] turns it back. 0: no layer had a say.
pub type RuleNumber = u32;

/// Who decided: a rule, or a layer's default.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// Name of the layer.
    pub layer: String,
    /// The rule; `None` for the layer's default.
    pub rule: Option<Uuid>,
}

/// Numbers of decisions, for the whole node. Numbers are never reused.
#[derive(Clone, Debug, Default)]
pub struct RuleBook {
    numbers: HashMap<Decision, RuleNumber>,
    decisions: Vec<Decision>,
}

impl RuleBook {
    fn intern(&mut self, layer: &str, rule: Option<Uuid>) -> RuleNumber {
        let decision = Decision { layer: layer.to_owned(), rule };
        if let Some(&number) = self.numbers.get(&decision) {
            return number;
        }
        self.decisions.push(decision.clone());
        let number = self.decisions.len() as RuleNumber;
        self.numbers.insert(decision, number);
        number
    }

    /// What a number stands for; `None` for 0 and for numbers this book never gave.
    #[must_use]
    pub fn get(&self, number: RuleNumber) -> Option<&Decision> {
        self.decisions.get((number as usize).checked_sub(1)?)
    }
}

/// Entries to be added to a loaded policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addition {
    /// For the policy map.
    pub entries: Vec<Entry>,
    /// For the source port map; to be written first.
    pub sources: Vec<SourceEntry>,
}

#[derive(Clone, Debug)]
struct ProgramRule {
    rule: Rule,
    number: RuleNumber,
    destinations: Vec<std::ops::RangeInclusive<u16>>,
    sources: Vec<std::ops::RangeInclusive<u16>>,
}

#[derive(Clone, Debug)]
struct ProgramLayer {
    rules: [Vec<ProgramRule>; 2],
    default_pass: bool,
    default_number: RuleNumber,
}

/// Verdict and rule at one point of the port axis.
type Outcome = (bool, RuleNumber);
/// What an entry will say at one point of the port axis.
type Cell = (Action, RuleNumber);
/// Per layer, which rules speak about the remote end.
type Selected = Vec<Vec<usize>>;

/// A policy for one family and local address, ready to be flattened for identities as they appear.
#[derive(Clone, Debug)]
pub struct Program {
    family: Family,
    layers: Vec<ProgramLayer>,
    source_tables: HashMap<Vec<(u16, Outcome)>, u32>,
    fresh_sources: Vec<SourceEntry>,
}

impl Program {
    /// Specialises a policy. `local` is the interface's primary address of the family: rules with local prefixes it
    /// is not in are left out. Interfaces for which this gives the same result may share the loaded policy.
    #[must_use]
    pub fn new(
        policy: &Policy,
        family: Family,
        local: Option<IpAddr>,
        book: &mut RuleBook,
    ) -> Self {
        let mut layers = Vec::with_capacity(policy.layers.len());
        for layer in &policy.layers {
            let mut take = |rules: &[Rule]| -> Vec<ProgramRule> {
                rules
                    .iter()
                    .filter(|rule| selection::local_matches(rule, family, local))
                    .map(|rule| ProgramRule {
                        number: book.intern(&layer.name, Some(rule.id)),
                        destinations: normalise(&rule.destination_ports),
                        sources: normalise(&rule.source_ports),
                        rule: rule.clone(),
                    })
                    .collect()
            };
            let rules = [take(&layer.egress), take(&layer.ingress)];
            let default_number = book.intern(&layer.name, None);
            layers.push(ProgramLayer { rules, default_pass: layer.default_pass, default_number });
        }
        Self { family, layers, source_tables: HashMap::new(), fresh_sources: Vec::new() }
    }

    /// The entries a freshly loaded policy needs: "anyone" and every identity known by now.
    pub fn flatten<'a>(
        &mut self,
        identities: impl IntoIterator<Item = (IdentityNumber, &'a Identity)>,
    ) -> Addition {
        let mut all = self.everyone();
        for (number, identity) in identities {
            let more = self.add(number, identity);
            all.entries.extend(more.entries);
            all.sources.extend(more.sources);
        }
        all
    }

    /// The entries of identity 0: remote ends no rule names.
    pub fn everyone(&mut self) -> Addition {
        self.addition(0, None)
    }

    /// The entries one more identity needs. Empty if the policy does not tell it from anyone.
    pub fn add(&mut self, number: IdentityNumber, identity: &Identity) -> Addition {
        self.addition(number, Some(identity))
    }

    fn addition(&mut self, number: IdentityNumber, identity: Option<&Identity>) -> Addition {
        let mut entries = Vec::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            let selected = self.select(direction, identity);
            if identity.is_none() || selected != self.select(direction, None) {
                self.flatten_one(direction, number, &selected, &mut entries);
            }
        }
        Addition { entries, sources: std::mem::take(&mut self.fresh_sources) }
    }

    fn select(&self, direction: Direction, identity: Option<&Identity>) -> Selected {
        let applies = |r: &ProgramRule| selection::remote_matches(&r.rule, self.family, identity);
        self.layers
            .iter()
            .map(|layer| {
                let rules = layer.rules[direction as usize].iter().enumerate();
                rules.filter(|(_, rule)| applies(rule)).map(|(index, _)| index).collect()
            })
            .collect()
    }

    fn flatten_one(
        &mut self,
        direction: Direction,
        identity: IdentityNumber,
        selected: &Selected,
        entries: &mut Vec<Entry>,
    ) {
        let entry = |protocol, port, port_bits, (action, rule): Cell| Entry {
            direction,
            identity,
            protocol,
            port,
            port_bits,
            action,
            rule,
        };
        // Protocols no rule names: no ports are tested there, so the sweep has a single step.
        let others = self.sweep(direction, selected, None)[0].1;
        entries.push(entry(None, 0, 0, others));
        for protocol in self.named_protocols(direction, selected) {
            let cells = self.sweep(direction, selected, Some(protocol));
            for p in prefixes(&cells, Some(others)) {
                entries.push(entry(Some(protocol), p.port, p.bits, p.value));
            }
        }
    }

    fn rules<'a>(
        &'a self,
        direction: Direction,
        selected: &'a Selected,
    ) -> impl Iterator<Item = (usize, usize, &'a ProgramRule)> {
        selected.iter().enumerate().flat_map(move |(layer, rules)| {
            rules.iter().map(move |&r| (layer, r, &self.layers[layer].rules[direction as usize][r]))
        })
    }

    fn named_protocols(&self, direction: Direction, selected: &Selected) -> BTreeSet<u8> {
        let mut named = BTreeSet::new();
        for (_, _, r) in self.rules(direction, selected) {
            match r.rule.protocol {
                Some(protocol) => {
                    named.insert(protocol);
                }
                None if !(r.rule.destination_ports.is_empty()
                    && r.rule.source_ports.is_empty()) =>
                {
                    named.extend(PORT_PROTOCOLS);
                }
                None => {}
            }
        }
        named
    }

    /// Walks the destination port axis for one protocol, or for all protocols no rule names (`None`).
    fn sweep(
        &mut self,
        direction: Direction,
        selected: &Selected,
        protocol: Option<u8>,
    ) -> Steps<Cell> {
        // At each port: rules that begin (true) or end (false) to apply there.
        let mut edges: BTreeMap<u32, Vec<(usize, usize, bool)>> = BTreeMap::from([(0, vec![])]);
        for (layer, index, r) in self.rules(direction, selected) {
            if r.rule.protocol.is_some() && r.rule.protocol != protocol {
                continue;
            }
            if protocol.is_some_and(|p| tests_destination(&r.rule, p)) {
                for range in &r.destinations {
                    edges.entry((*range.start()).into()).or_default().push((layer, index, true));
                    edges
                        .entry(u32::from(*range.end()) + 1)
                        .or_default()
                        .push((layer, index, false));
                }
            } else {
                edges.entry(0).or_default().push((layer, index, true));
            }
        }
        let mut active: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.layers.len()];
        let mut steps = Vec::with_capacity(edges.len());
        for (port, changes) in edges {
            for (layer, index, begins) in changes {
                if begins {
                    active[layer].insert(index);
                } else {
                    active[layer].remove(&index);
                }
            }
            if let Ok(port) = u16::try_from(port) {
                steps.push((port, self.cell(direction, &active, protocol)));
            }
        }
        simplify(&mut steps);
        steps
    }

    /// What holds where these rules are in force: a verdict, or a table by source port.
    fn cell(
        &mut self,
        direction: Direction,
        active: &[BTreeSet<usize>],
        protocol: Option<u8>,
    ) -> Cell {
        let by_source = |r: &ProgramRule| protocol.is_some_and(|p| tests_source(&r.rule, p));
        let mut cuts = BTreeSet::from([0_u32]);
        for (layer, rules) in self.layers.iter().zip(active) {
            let all = &layer.rules[direction as usize];
            let mut left = None;
            for r in rules.iter().map(|&i| &all[i]) {
                if left.is_some_and(|tier| r.rule.tier <= tier) {
                    continue;
                }
                if by_source(r) {
                    for range in &r.sources {
                        cuts.extend([u32::from(*range.start()), u32::from(*range.end()) + 1]);
                    }
                } else if r.rule.action == RuleAction::Skip {
                    left = Some(r.rule.tier);
                } else {
                    // Rules behind the first unconditional verdict never decide.
                    break;
                }
            }
        }
        let mut steps: Steps<Outcome> = cuts
            .into_iter()
            .filter_map(|cut| u16::try_from(cut).ok())
            .map(|cut| {
                (
                    cut,
                    self.outcome(direction, active, |r| {
                        !by_source(r) || r.sources.iter().any(|range| range.contains(&cut))
                    }),
                )
            })
            .collect();
        simplify(&mut steps);
        match steps[..] {
            [(_, (true, rule))] => (Action::Pass, rule),
            [(_, (false, rule))] => (Action::Drop, rule),
            _ => (Action::BySource(self.source_table(steps)), 0),
        }
    }

    fn outcome(
        &self,
        direction: Direction,
        active: &[BTreeSet<usize>],
        holds: impl Fn(&ProgramRule) -> bool,
    ) -> Outcome {
        let mut outcome = (true, 0);
        for (layer, rules) in self.layers.iter().zip(active) {
            let all = &layer.rules[direction as usize];
            outcome = (layer.default_pass, layer.default_number);
            let mut left = None;
            for r in rules.iter().map(|&i| &all[i]) {
                if left.is_some_and(|tier| r.rule.tier <= tier) || !holds(r) {
                    continue;
                }
                if r.rule.action == RuleAction::Skip {
                    left = Some(r.rule.tier);
                } else {
                    outcome = (r.rule.action == RuleAction::Pass, r.number);
                    break;
                }
            }
            if !outcome.0 {
                break;
            }
        }
        outcome
    }

    fn source_table(&mut self, steps: Steps<Outcome>) -> u32 {
        if let Some(&table) = self.source_tables.get(&steps) {
            return table;
        }
        let table = self.source_tables.len() as u32 + 1;
        self.fresh_sources.extend(prefixes(&steps, None).into_iter().map(|p| SourceEntry {
            table,
            port: p.port,
            port_bits: p.bits,
            pass: p.value.0,
            rule: p.value.1,
        }));
        self.source_tables.insert(steps, table);
        table
    }
}

const _: () = assert!(Direction::Egress as usize == 0 && Direction::Ingress as usize == 1);
