//! Which node answers for addresses of services in the underlay.

use super::wire::{interface, policy, service, vrf};
use super::{Core, Event, OWN, core, feed};
use skein_proto::session as wire;
use std::collections::BTreeSet;
use std::net::IpAddr;

const NODES: [&str; 4] = ["here", "there", "third", "unheard"];
/// The VRF of the nodes' own stacks, and that of services.
const HOSTS: u8 = 0;
const SERVICES: u8 = 1;
/// What `service` makes of it: external, and announced.
const EXTERNAL: u8 = 16 | 128;
/// Sixty addresses are enough for each of four nodes to have some.
const ADDRESSES: std::ops::Range<u8> = 100..160;

fn address(node: usize) -> String {
    format!("172.31.0.{}", node + 1)
}

/// A service for each address, with members on these nodes.
fn services(members: &[&str], local: bool) -> Vec<wire::Service> {
    let member = |node: &&str| wire::Member {
        node: (*node).to_owned(),
        ..service(0, SERVICES, 1, EXTERNAL).members[0].clone()
    };
    let one = |last: u8| wire::Service {
        id: format!("service{last}"),
        address: format!("198.51.100.{last}"),
        members: members.iter().map(member).collect(),
        external_local: local,
        ..service(0, SERVICES, 1, EXTERNAL)
    };
    ADDRESSES.map(one).collect()
}

/// A node's own stack, as controllers tell where it is.
fn stack(node: usize, local_preference: u32) -> wire::Route {
    let path = wire::Path {
        next_hop: address(node),
        label: 20,
        encapsulations: vec![wire::Encapsulation::Vxlan as i32],
        local_preference,
        ..wire::Path::default()
    };
    wire::Route {
        vrf: format!("vrf{HOSTS}"),
        prefix: format!("{}/32", address(node)),
        paths: vec![path],
    }
}

fn apply(core: &mut Core) -> BTreeSet<IpAddr> {
    for operation in core.operations() {
        core.applied(&operation);
    }
    core.in_force().natives.keys().copied().collect()
}

/// Four nodes are known; of three the controllers hear.
fn fabric() -> Core {
    let mut core = core();
    core.connected(0);
    let facts = NODES.iter().enumerate().map(|(node, name)| wire::NodeFacts {
        name: (*name).to_owned(),
        addresses: vec![address(node)],
        zone: String::new(),
    });
    let host = wire::Interface {
        addresses: vec![wire::Address { prefix: format!("{OWN}/32"), gateway: String::new() }],
        host: true,
        ..interface(5, HOSTS, 0, 0)
    };
    let intent = wire::Intent {
        revision: 1,
        global: Some(wire::Global { nodes: facts.collect(), ..wire::Global::default() }),
        // The low bits say whose services there are: of VRF 1.
        vrfs: vec![vrf(HOSTS, 1 << SERVICES), vrf(SERVICES, 1 << SERVICES)],
        policies: vec![policy(0, 0)],
        interfaces: vec![host],
        end_of_snapshot: true,
        ..wire::Intent::default()
    };
    feed(&mut core, &Event::Intent(0, intent));
    feed(&mut core, &Event::Bind(5));
    routes(&mut core, (0..3).map(|node| stack(node, 100)).collect());
    core
}

fn routes(core: &mut Core, reach: Vec<wire::Route>) {
    feed(core, &Event::Routes(0, wire::Routes { reach, ..wire::Routes::default() }));
}

fn set(core: &mut Core, services: Vec<wire::Service>) -> BTreeSet<IpAddr> {
    let intent = wire::Intent { revision: 2, services, ..wire::Intent::default() };
    feed(core, &Event::Intent(0, intent));
    apply(core)
}

#[test]
fn an_address_does_not_follow_members_that_any_node_passes_clients_on_to() {
    let mut core = fabric();
    let all = set(&mut core, services(&["there"], false));
    assert!((1..60).contains(&all.len()), "some of sixty, with no member here: {all:?}");
    for members in [&["here", "there", "third"][..], &["third"], &["here"]] {
        assert_eq!(set(&mut core, services(members, false)), all, "{members:?}");
    }
    // Without any member there is nothing to pass on to.
    assert_eq!(set(&mut core, services(&[], false)), BTreeSet::new());
}

#[test]
fn clients_that_members_are_to_see_come_by_a_node_with_members() {
    let mut core = fabric();
    assert_eq!(set(&mut core, services(&["there"], true)), BTreeSet::new());
    assert_eq!(set(&mut core, services(&["here"], true)).len(), ADDRESSES.len());
}

#[test]
fn a_node_that_is_not_heard_answers_only_while_it_has_members() {
    let mut core = fabric();
    let before = set(&mut core, services(&["there"], false));
    let mut taken_over = |lost: wire::Route| {
        routes(&mut core, vec![lost]);
        apply(&mut core)
    };
    // Its routes stand back, and then go.
    let third_is_away = taken_over(stack(2, 50));
    assert!(third_is_away.is_superset(&before) && third_is_away.len() > before.len());
    let back = taken_over(stack(2, 100));
    assert_eq!(back, before);
    // What has members there stays there: Kubernetes knows better than an agent that is away.
    let there_is_away = taken_over(stack(1, 50));
    assert_eq!(there_is_away, before);
    let without_members = set(&mut core, services(&["third"], false));
    assert!(without_members.is_superset(&before) && without_members.len() > before.len());
}
