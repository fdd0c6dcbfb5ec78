//! The verdicts of the real programs equal the reference evaluator's, on random policies and packets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::*;
use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use skein_datapath::*;
use skein_policy::{
    Attributes, Direction, Identities, Identity, Layer, Packet, Peer, Policy, Program, Rule,
    RuleAction, RuleBook, evaluate, policy_prefixes,
};
use std::net::IpAddr;
use std::ops::RangeInclusive;

fn range() -> impl Strategy<Value = RangeInclusive<u16>> {
    prop_oneof![
        (0u16..6, 0u16..6).prop_map(|(a, b)| a..=b),
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a.min(b)..=a.max(b)),
    ]
}

fn rule() -> impl Strategy<Value = Rule> {
    use proptest::collection::vec;
    let peer = prop_oneof![
        (0u32..3).prop_map(Peer::Network),
        (0u32..3).prop_map(Peer::SecurityGroup),
        vec(0u32..3, 0..3).prop_map(Peer::Tags),
        prop_oneof![
            Just("10.0.0.0/8"),
            Just("10.1.0.8/29"),
            Just("10.1.0.9/32"),
            Just("fd01::8/125"),
            Just("::/0")
        ]
        .prop_map(|text| Peer::Prefix(text.parse().expect("prefix"))),
        Just(Peer::PrefixExcept(
            "10.1.0.0/16".parse().expect("prefix"),
            vec!["10.1.0.8/29".parse().expect("prefix")],
        )),
    ];
    let action = prop_oneof![
        2 => Just(RuleAction::Pass),
        2 => Just(RuleAction::Deny),
        1 => Just(RuleAction::Skip),
    ];
    let protocol = prop_oneof![Just(6u8), Just(17), Just(1), Just(58), Just(47)];
    let family = prop_oneof![3 => Just(None), 1 => Just(Some(4u8)), 1 => Just(Some(6u8))];
    let sources = prop_oneof![3 => Just(vec![]), 1 => vec(range(), 1..3)];
    let local = prop_oneof![3 => Just(vec![]), 1 => Just(vec!["10.1.0.2/32"]), 1 => Just(vec!["10.1.0.3/32"])];
    (
        any::<u128>(),
        (action, 0u32..3),
        vec(peer, 0..3),
        local,
        family,
        proptest::option::of(protocol),
        sources,
        vec(range(), 0..3),
    )
        .prop_map(
            |(id, (action, tier), remotes, local, family, protocol, sources, destinations)| Rule {
                id: uuid::Uuid::from_u128(id),
                action,
                tier,
                remotes,
                local_prefixes: local.iter().map(|p| p.parse().expect("prefix")).collect(),
                family,
                protocol,
                source_ports: sources,
                destination_ports: destinations,
                ..Rule::default()
            },
        )
}

/// Rules in the order of their tiers.
fn rules() -> impl Strategy<Value = Vec<Rule>> {
    proptest::collection::vec(rule(), 0..6).prop_map(|mut rules| {
        rules.sort_by_key(|rule| rule.tier);
        rules
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    use proptest::collection::vec;
    let layer = (rules(), rules(), any::<bool>());
    vec(layer, 0..3).prop_map(|layers| Policy {
        layers: layers
            .into_iter()
            .map(|(egress, ingress, default_pass)| Layer {
                name: "l".into(),
                egress,
                ingress,
                default_pass,
            })
            .collect(),
        ..Policy::default()
    })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let set = || proptest::collection::btree_set(0u32..3, 0..3);
    (0u32..3, set(), set()).prop_map(|(network, groups, tags)| Attributes {
        network,
        security_groups: groups.into_iter().collect(),
        tags: tags.into_iter().collect(),
    })
}

type Shape = (bool, bool, u8, u16, u16);

fn packet() -> impl Strategy<Value = Shape> {
    let port = || prop_oneof![0u16..8, any::<u16>()];
    let protocol = prop_oneof![Just(6u8), Just(17), Just(1), Just(47)];
    (any::<bool>(), any::<bool>(), protocol, port(), port())
}

/// The frame of a shape, and what the evaluator is asked.
fn build((six, out, protocol, source, destination): Shape) -> (Vec<u8>, Direction, Packet) {
    // An echo request stands for ICMP: other types have tests of their own.
    let kind = if six { 128 } else { 8 };
    let protocol = if protocol == 1 && six { 58 } else { protocol };
    let (local, remote): (IpAddr, IpAddr) =
        if six { (ALICE6.into(), FAR6.into()) } else { (ALICE.into(), FAR.into()) };
    let (ports, payload) = match protocol {
        6 => ((source, destination), tcp(source, destination, SYN)),
        17 => ((source, destination), udp(source, destination, b"x")),
        1 | 58 => ((0, u16::from(kind) << 8), icmp(kind, 0, source, b"")),
        _ => ((0, 0), vec![0; 8]),
    };
    let ip = match (six, out) {
        (false, true) => ip4(ALICE, FAR).with(protocol, &payload),
        (false, false) => ip4(FAR, ALICE).with(protocol, &payload),
        (true, true) => ip6(ALICE6, FAR6, 64, protocol, &payload),
        (true, false) => ip6(FAR6, ALICE6, 64, protocol, &payload),
    };
    let packet =
        Packet { remote, local, protocol, source_port: ports.0, destination_port: ports.1 };
    if out {
        (from_alice(&ip), Direction::Egress, packet)
    } else {
        (vxlan(PEER, ALICE_LABEL, &ip), Direction::Ingress, packet)
    }
}

#[test]
fn the_kernels_verdict_is_the_evaluators() {
    let bed = std::cell::RefCell::new(Bed::new());
    let generation = std::cell::Cell::new(10);
    let cases = Cases { cases: 1500, failure_persistence: None, ..Cases::default() };
    let strategy = (policy(), attributes(), proptest::collection::vec(packet(), 1..40));
    TestRunner::new(cases)
        .run(&strategy, |(policy, attributes, shapes)| {
            let mut bed = bed.borrow_mut();
            let (v4, v6) = (generation.get(), generation.get() + 1);
            generation.set(generation.get() + 2);
            let mut book = RuleBook::default();
            let mut identities = Identities::default();
            for (id, remote, local) in
                [(v4, IpAddr::from(FAR), IpAddr::from(ALICE)), (v6, FAR6.into(), ALICE6.into())]
            {
                let holding =
                    policy_prefixes([&policy]).into_iter().filter(|p| p.contains(&remote));
                let identity = Identity::new(attributes.clone(), holding);
                let (number, _) = identities.intern(&identity);
                let family = skein_policy::Family::of(remote);
                let mut program = Program::new(&policy, family, Some(local), &mut book);
                let addition = program.flatten([(number, &identity)]);
                bed.datapath.load_policy(id, &addition).unwrap();
                let change = RouteChange::Set(Route {
                    vrf: VRF,
                    prefix: remote.into(),
                    next_hop: 3,
                    identity: number,
                });
                bed.datapath.change_routes(&[change]).unwrap();
            }
            // A fresh vif: no flow of the case before decides for this one.
            let policy_ids = VifPolicy::Enforce { v4: Some(v4), v6: Some(v6) };
            let record = Vif { id: v4, policy: policy_ids, ..bed.vif(bed.alice) };
            bed.datapath.set_vif(&record).unwrap();
            let mut opened = std::collections::BTreeSet::new();
            for shape in shapes {
                let (frame, direction, packet) = build(shape);
                // A packet of a connection that exists follows its opener's verdict: ask about openers only.
                let (own, other) = match direction {
                    Direction::Egress => (packet.source_port, packet.destination_port),
                    Direction::Ingress => (packet.destination_port, packet.source_port),
                };
                let icmp = packet.protocol == 1 || packet.protocol == 58;
                let key = (
                    packet.remote,
                    packet.protocol,
                    own,
                    other,
                    icmp && direction == Direction::Egress,
                );
                if opened.contains(&key) {
                    continue;
                }
                let ran = match direction {
                    Direction::Egress => bed.alice(&frame),
                    Direction::Ingress => bed.fabric(&frame),
                };
                let verdict = evaluate(&policy, direction, &attributes, &packet);
                let expected = match (verdict.pass, direction) {
                    (false, _) => dropped(DropReason::PolicyDeny),
                    (true, Direction::Egress) => bed.tunnel_out(),
                    (true, Direction::Ingress) => bed.delivered(bed.alice),
                };
                prop_assert_eq!(ran.outcome, expected, "{:?} {:?}", direction, packet);
                if verdict.pass {
                    opened.insert(key);
                }
            }
            bed.datapath.unload_policy(v4).unwrap();
            bed.datapath.unload_policy(v6).unwrap();
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_forgotten_identity_is_anyone_and_the_others_stay() {
    let mut bed = Bed::new();
    let rule = Rule {
        id: uuid::Uuid::from_u128(1),
        action: RuleAction::Pass,
        tier: 0,
        remotes: vec![Peer::Tags(vec![7])],
        remote_tags: vec![],
        local_prefixes: vec![],
        family: None,
        protocol: None,
        source_ports: vec![],
        destination_ports: vec![],
    };
    let layer =
        Layer { name: "test".into(), egress: vec![], ingress: vec![rule], default_pass: false };
    let policy = Policy { layers: vec![layer], staged: vec![] };
    let mut identities = Identities::default();
    let mut friend = |network| {
        let attributes = Attributes { network, tags: vec![7], ..Attributes::default() };
        let identity = Identity::new(attributes, []);
        (identities.intern(&identity).0, identity)
    };
    let (first, second) = (friend(1), friend(2));
    let local = Some(IpAddr::from(ALICE));
    let mut program =
        Program::new(&policy, skein_policy::Family::V4, local, &mut RuleBook::default());
    let addition = program.flatten([(first.0, &first.1), (second.0, &second.1)]);
    bed.datapath.load_policy(40, &addition).unwrap();
    let mut vif = 1000;
    let mut asked = |bed: &mut Bed, identity: u32| {
        let route = Route { vrf: VRF, prefix: IpAddr::from(FAR).into(), next_hop: 3, identity };
        bed.datapath.change_routes(&[RouteChange::Set(route)]).unwrap();
        // A fresh vif: no flow of before decides.
        vif += 1;
        let policy = VifPolicy::Enforce { v4: Some(40), v6: None };
        let record = Vif { id: vif, policy, ..bed.vif(bed.alice) };
        bed.datapath.set_vif(&record).unwrap();
        let frame = vxlan(PEER, ALICE_LABEL, &ip4(FAR, ALICE).with(17, &udp(1000, 53, b"x")));
        bed.fabric(&frame).outcome
    };
    let pass = bed.delivered(bed.alice);
    let deny = dropped(DropReason::PolicyDeny);
    assert_eq!([asked(&mut bed, first.0), asked(&mut bed, second.0)], [pass, pass]);
    assert_eq!(asked(&mut bed, 0), deny);
    let gone = std::collections::BTreeSet::from([0, first.0]);
    bed.datapath.shrink_policy(40, &gone).unwrap();
    assert_eq!([asked(&mut bed, first.0), asked(&mut bed, second.0)], [deny, pass]);
    assert_eq!(asked(&mut bed, 0), deny, "what is everybody's stays");
    // It comes back, and another process may unload what this one has left.
    bed.datapath.load_policy(40, &program.add(first.0, &first.1)).unwrap();
    assert_eq!(asked(&mut bed, first.0), pass);
    bed.datapath.shrink_policy(41, &gone).unwrap();
}
