//! The reference evaluator: the definition of what a policy does to a connection.
//!
//! Written to be read, not to be fast. Layers are ANDed in order; inside a layer the first matching
//! rule decides, else the layer's default (spec/vrouter.md sections 4.1 and 4.2). A matching rule that
//! skips decides nothing: evaluation goes on behind its tier.

use crate::{Attributes, Direction, Family, Layer, Policy, Rule, RuleAction, selection};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use uuid::Uuid;

/// The opening packet of a connection, from the workload's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Address of the other end.
    pub remote: IpAddr,
    /// The workload's own (primary) address.
    pub local: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port as the packet carries it; 0 where the protocol has none.
    pub source_port: u16,
    /// Destination port as the packet carries it; ICMP and ICMPv6: `type << 8 | code`; else 0.
    pub destination_port: u16,
}

/// What a policy says, and who said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The connection may be opened.
    pub pass: bool,
    /// Index of the layer that decided: the first that drops, else the last one. `None`: no layers.
    pub layer: Option<usize>,
    /// The rule that decided; `None` when it was the layer's default.
    pub rule: Option<Uuid>,
}

/// Judges the opening packet of a connection.
#[must_use]
pub fn evaluate(
    policy: &Policy,
    direction: Direction,
    remote: &Attributes,
    packet: &Packet,
) -> Verdict {
    judge(&policy.layers, direction, remote, packet)
}

/// What the verdict would be if staged policies were in force; `None` when none is staged here. The
/// policy would change something for this packet if [`evaluate`] says otherwise.
#[must_use]
pub fn evaluate_staged(
    policy: &Policy,
    direction: Direction,
    remote: &Attributes,
    packet: &Packet,
) -> Option<Verdict> {
    (!policy.staged.is_empty()).then(|| judge(&policy.staged, direction, remote, packet))
}

fn judge(layers: &[Layer], direction: Direction, remote: &Attributes, packet: &Packet) -> Verdict {
    let mut verdict = Verdict { pass: true, layer: None, rule: None };
    for (index, layer) in layers.iter().enumerate() {
        let rules = match direction {
            Direction::Egress => &layer.egress,
            Direction::Ingress => &layer.ingress,
        };
        let hit = first_verdict(rules, |rule| matches(rule, remote, packet));
        verdict = Verdict {
            pass: hit.map_or(layer.default_pass, |rule| rule.action == RuleAction::Pass),
            layer: Some(index),
            rule: hit.map(|rule| rule.id),
        };
        if !verdict.pass {
            break;
        }
    }
    verdict
}

/// The rule that decides: the first that holds and does not skip, in tiers that none before skipped.
fn first_verdict(rules: &[Rule], holds: impl Fn(&Rule) -> bool) -> Option<&Rule> {
    let mut left: Option<u32> = None;
    for rule in rules {
        if left.is_some_and(|tier| rule.tier <= tier) || !holds(rule) {
            continue;
        }
        match rule.action {
            RuleAction::Skip => left = Some(rule.tier),
            RuleAction::Pass | RuleAction::Deny => return Some(rule),
        }
    }
    None
}

fn matches(rule: &Rule, remote: &Attributes, packet: &Packet) -> bool {
    let family = Family::of(packet.remote);
    rule.family.is_none_or(|f| f == family.number())
        && rule.protocol.is_none_or(|p| p == packet.protocol)
        && (rule.local_prefixes.is_empty()
            || rule.local_prefixes.iter().any(|p| p.contains(&packet.local)))
        && (rule.remotes.is_empty()
            || rule.remotes.iter().any(|peer| {
                selection::peer_matches(peer, remote, |prefix| prefix.contains(&packet.remote))
            }))
        && selection::carries(remote, &rule.remote_tags)
        && (!tests_destination(rule, packet.protocol)
            || in_any(&rule.destination_ports, packet.destination_port))
        && (!tests_source(rule, packet.protocol) || in_any(&rule.source_ports, packet.source_port))
}

fn in_any(ranges: &[RangeInclusive<u16>], port: u16) -> bool {
    ranges.iter().any(|range| range.contains(&port))
}

/// Protocols whose ports every port condition is about: TCP, UDP, SCTP (spec section 4.2).
pub(crate) const PORT_PROTOCOLS: [u8; 3] = [6, 17, 132];

/// ICMP and ICMPv6: a rule that names them may narrow type and code, as Kubernetes and Neutron ask.
pub(crate) const ICMP_PROTOCOLS: [u8; 2] = [1, 58];

/// Whether the rule's destination ports are a condition for a packet of this protocol. A rule for any protocol
/// narrows TCP, UDP and SCTP only; other protocols pass its port test.
pub(crate) fn tests_destination(rule: &Rule, protocol: u8) -> bool {
    !rule.destination_ports.is_empty()
        && (PORT_PROTOCOLS.contains(&protocol)
            || (ICMP_PROTOCOLS.contains(&protocol) && rule.protocol == Some(protocol)))
}

/// Whether the rule's source ports are a condition for a packet of this protocol.
pub(crate) fn tests_source(rule: &Rule, protocol: u8) -> bool {
    !rule.source_ports.is_empty() && PORT_PROTOCOLS.contains(&protocol)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Peer;

    fn rule(pass: bool) -> Rule {
        Rule { id: Uuid::new_v4(), action: pass.into(), ..Rule::default() }
    }

    fn layer(rules: Vec<Rule>, default_pass: bool) -> Layer {
        Layer { name: "test".into(), egress: rules, ingress: vec![], default_pass }
    }

    fn policy(layers: Vec<Layer>) -> Policy {
        Policy { layers, ..Policy::default() }
    }

    fn tcp(port: u16) -> Packet {
        Packet {
            remote: IpAddr::from([10, 0, 0, 2]),
            local: IpAddr::from([10, 0, 0, 1]),
            protocol: 6,
            source_port: 4000,
            destination_port: port,
        }
    }

    #[test]
    fn no_layers_pass() {
        let verdict =
            evaluate(&Policy::default(), Direction::Egress, &Attributes::default(), &tcp(80));
        assert_eq!(verdict, Verdict { pass: true, layer: None, rule: None });
    }

    #[test]
    fn first_match_wins_and_every_layer_must_pass() {
        let (deny, allow) = (Rule { destination_ports: vec![80..=80], ..rule(false) }, rule(true));
        let policy =
            policy(vec![layer(vec![deny.clone(), allow.clone()], false), layer(vec![], false)]);
        let at = |port| evaluate(&policy, Direction::Egress, &Attributes::default(), &tcp(port));
        assert_eq!(at(80), Verdict { pass: false, layer: Some(0), rule: Some(deny.id) });
        assert_eq!(at(81), Verdict { pass: false, layer: Some(1), rule: None });
    }

    #[test]
    fn ports_of_an_any_protocol_rule_do_not_narrow_icmp() {
        let any = Rule { destination_ports: vec![80..=80], ..rule(true) };
        let icmp = Rule { protocol: Some(1), ..any.clone() };
        let packet = Packet { protocol: 1, destination_port: 8 << 8, ..tcp(0) };
        let judge = |rule: Rule| {
            let policy = policy(vec![layer(vec![rule], false)]);
            evaluate(&policy, Direction::Egress, &Attributes::default(), &packet).pass
        };
        assert!(judge(any));
        assert!(!judge(icmp.clone()));
        assert!(judge(Rule { destination_ports: vec![8 << 8..=(8 << 8 | 255)], ..icmp }));
    }

    #[test]
    fn staged_layers_are_told_of_and_not_enforced() {
        let (now, then) = (layer(vec![rule(true)], false), layer(vec![rule(false)], false));
        let policy = Policy { layers: vec![now.clone()], staged: vec![then] };
        let who = Attributes::default();
        assert!(evaluate(&policy, Direction::Egress, &who, &tcp(80)).pass);
        let staged = evaluate_staged(&policy, Direction::Egress, &who, &tcp(80));
        assert!(staged.is_some_and(|verdict| !verdict.pass));
        let policy = Policy { layers: vec![now], ..Policy::default() };
        assert_eq!(evaluate_staged(&policy, Direction::Egress, &who, &tcp(80)), None);
    }

    #[test]
    fn a_skip_leaves_its_tier_and_no_more() {
        let at = |tier, action| Rule { tier, action, ..rule(false) };
        let tiers = vec![
            Rule { destination_ports: vec![80..=80], ..at(1, RuleAction::Skip) },
            at(1, RuleAction::Deny),
            Rule { destination_ports: vec![80..=80], ..at(2, RuleAction::Pass) },
            at(3, RuleAction::Deny),
        ];
        let policy = policy(vec![layer(tiers.clone(), false)]);
        let judge = |port| evaluate(&policy, Direction::Egress, &Attributes::default(), &tcp(port));
        assert_eq!(judge(80), Verdict { pass: true, layer: Some(0), rule: Some(tiers[2].id) });
        assert_eq!(judge(81), Verdict { pass: false, layer: Some(0), rule: Some(tiers[1].id) });
    }

    #[test]
    fn an_exception_is_a_hole_not_a_verdict() {
        let net = |text: &str| text.parse().unwrap();
        let hole = Peer::PrefixExcept(net("10.0.0.0/8"), vec![net("10.0.0.0/30")]);
        let holed = Rule { remotes: vec![hole], ..rule(true) };
        let behind = Rule { remotes: vec![Peer::Prefix(net("10.0.0.2/32"))], ..rule(true) };
        let policy = policy(vec![layer(vec![holed, behind.clone()], false)]);
        let judge = |last| {
            let remote = IpAddr::from([10, 0, 0, last]);
            let packet = Packet { remote, ..tcp(1) };
            evaluate(&policy, Direction::Egress, &Attributes::default(), &packet)
        };
        assert!(judge(9).pass && !judge(1).pass);
        assert_eq!(judge(2).rule, Some(behind.id));
    }

    #[test]
    fn remote_tags_narrow_every_peer() {
        let any = Rule { remote_tags: vec![7], ..rule(true) };
        let policy = policy(vec![layer(vec![any], false)]);
        let pass = |tags: &[u32]| {
            let who = Attributes { tags: tags.to_vec(), ..Attributes::default() };
            evaluate(&policy, Direction::Egress, &who, &tcp(1)).pass
        };
        assert!(pass(&[7]) && !pass(&[8]));
    }

    #[test]
    fn peers_are_alternatives_and_tags_are_all_needed() {
        let remotes = vec![Peer::SecurityGroup(9), Peer::Tags(vec![1, 2])];
        let policy = policy(vec![layer(vec![Rule { remotes, ..rule(true) }], false)]);
        let pass = |tags: &[u32], groups: &[u32]| {
            let who =
                Attributes { network: 1, security_groups: groups.to_vec(), tags: tags.to_vec() };
            evaluate(&policy, Direction::Egress, &who, &tcp(1)).pass
        };
        assert!(pass(&[1, 2, 3], &[]));
        assert!(!pass(&[1, 3], &[]));
        assert!(pass(&[], &[9]));
    }
}
