//! The flattened form means what the reference evaluator means, on random policies and packets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

use ipnet::IpNet;
use proptest::prelude::*;
use skein_policy::*;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use uuid::Uuid;

fn range() -> impl Strategy<Value = RangeInclusive<u16>> {
    prop_oneof![
        (0u16..6, 0u16..6).prop_map(|(a, b)| a..=b),
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b)),
        Just(0..=u16::MAX),
    ]
}

fn prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (0u8..4, prop_oneof![Just(0u8), 22u8..=32]).prop_map(|(n, l)| IpNet::new(
            IpAddr::from([10, 0, n, n]),
            l
        )
        .unwrap()),
        (0u16..4, prop_oneof![Just(0u8), 120u8..=128]).prop_map(|(n, l)| {
            IpNet::new(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]), l).unwrap()
        }),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        (0u32..3).prop_map(Peer::Network),
        (0u32..3).prop_map(Peer::SecurityGroup),
        prefix().prop_map(Peer::Prefix),
        (prefix(), proptest::collection::vec(prefix(), 1..3))
            .prop_map(|(prefix, except)| Peer::PrefixExcept(prefix, except)),
        proptest::collection::vec(0u32..3, 0..3).prop_map(Peer::Tags),
    ]
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(6u8), Just(17), Just(1), Just(58), Just(132), Just(47), Just(0)]
}

fn action() -> impl Strategy<Value = RuleAction> {
    prop_oneof![
        2 => Just(RuleAction::Pass),
        2 => Just(RuleAction::Deny),
        1 => Just(RuleAction::Skip),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    use proptest::collection::vec;
    (
        any::<u128>(),
        (action(), 0u32..3, prop_oneof![4 => Just(vec![]), 1 => vec(0u32..3, 1..2)]),
        vec(peer(), 0..3),
        vec(prefix(), 0..2),
        prop_oneof![3 => Just(None), 1 => Just(Some(4u8)), 1 => Just(Some(6u8))],
        proptest::option::of(protocol()),
        prop_oneof![3 => Just(vec![]), 1 => vec(range(), 1..3)],
        vec(range(), 0..3),
    )
        .prop_map(
            |(id, (action, tier, tags), remotes, local, family, protocol, source, destination)| {
                Rule {
                    id: Uuid::from_u128(id),
                    action,
                    tier,
                    remotes,
                    remote_tags: tags,
                    local_prefixes: local,
                    family,
                    protocol,
                    source_ports: source,
                    destination_ports: destination,
                }
            },
        )
}

/// Rules in the order of their tiers.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(rule(), 0..8).prop_map(|mut rules| {
        rules.sort_by_key(|rule| rule.tier);
        rules
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    use proptest::collection::vec;
    let layer = (rules(), rules(), any::<bool>());
    vec(layer, 0..4).prop_map(|layers| Policy {
        layers: layers
            .into_iter()
            .enumerate()
            .map(|(n, (egress, ingress, default_pass))| Layer {
                name: format!("layer-{n}"),
                egress,
                ingress,
                default_pass,
            })
            .collect(),
        ..Policy::default()
    })
}

fn packet() -> impl Strategy<Value = (Attributes, Packet)> {
    let port = || prop_oneof![0u16..8, any::<u16>()];
    let attributes = (
        0u32..3,
        proptest::collection::btree_set(0u32..3, 0..3),
        proptest::collection::btree_set(0u32..3, 0..3),
    )
        .prop_map(|(network, groups, tags)| Attributes {
            network,
            security_groups: groups.into_iter().collect(),
            tags: tags.into_iter().collect(),
        });
    (attributes, any::<bool>(), 0u8..4, 0u8..4, protocol(), port(), port()).prop_map(
        |(attributes, v6, remote, local, protocol, source_port, destination_port)| {
            let address = |n: u8| -> IpAddr {
                if v6 {
                    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)])
                } else {
                    IpAddr::from([10, 0, n, n])
                }
            };
            let packet = Packet {
                remote: address(remote),
                local: address(local),
                protocol,
                source_port,
                destination_port,
            };
            (attributes, packet)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn flattened_lookup_equals_evaluator(
        policy in policy(),
        packets in proptest::collection::vec(packet(), 1..30),
    ) {
        let conditions = policy_prefixes([&policy]);
        let mut ids = Identities::default();
        for (attributes, packet) in &packets {
            let holding = conditions.iter().filter(|p| p.contains(&packet.remote)).copied();
            let identity = Identity::new(attributes.clone(), holding);
            let (number, _) = ids.intern(&identity);
            let mut book = RuleBook::default();
            let family = Family::of(packet.remote);
            let mut program = Program::new(&policy, family, Some(packet.local), &mut book);
            let mut flat = FlatPolicy::default();
            let loaded = program.flatten([]);
            flat.extend(&loaded.entries, &loaded.sources);
            // Identities come one by one, also after the policy was loaded; none rewrites another.
            for (number, identity) in ids.iter() {
                let more = program.add(number, identity);
                flat.extend(&more.entries, &more.sources);
            }
            for direction in [Direction::Egress, Direction::Ingress] {
                let expected = evaluate(&policy, direction, attributes, packet);
                let (pass, rule) = flat.lookup(
                    direction, number, packet.protocol, packet.source_port, packet.destination_port,
                ).expect("a loaded policy has a verdict for everything");
                prop_assert_eq!(pass, expected.pass);
                let decision = book.get(rule);
                let layer = expected.layer.map(|l| policy.layers[l].name.as_str());
                prop_assert_eq!(decision.map(|d| d.layer.as_str()), layer);
                prop_assert_eq!(decision.and_then(|d| d.rule), expected.rule);
            }
        }
    }
}

#[test]
fn a_thousand_rules_flatten_small_and_fast() {
    let rule = |n: u16, pass: bool| Rule {
        id: Uuid::from_u128(n.into()),
        action: pass.into(),
        protocol: Some(6),
        destination_ports: vec![n..=n],
        ..Rule::default()
    };
    let mut egress: Vec<Rule> = (0..1000).map(|n| rule(n * 3 + 1, false)).collect();
    egress.push(Rule { destination_ports: vec![], ..rule(9, true) });
    let layer = Layer { name: "sg".into(), egress, ingress: vec![], default_pass: false };
    let policy = Policy { layers: vec![layer], ..Policy::default() };
    let mut program = Program::new(&policy, Family::V4, None, &mut RuleBook::default());
    let flat = program.flatten([]);
    // One entry a rule, the protocol's own, and a default for each direction.
    assert_eq!(flat.entries.len(), 1003);
    let named = Identity::new(Attributes { network: 4, ..Attributes::default() }, []);
    assert_eq!(program.add(1, &named), Addition::default());
}
