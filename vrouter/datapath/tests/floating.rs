//! Floating IPs, in and out, and what the node's own stack may do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::whole::{Whole, whole};
use bed::*;
use skein_datapath::{DropReason as R, *};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const PUBLIC: u32 = 3;
const ALICE_FLOATING: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const BOB_FLOATING: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
const ALICE_FLOATING6: Ipv6Addr = Ipv6Addr::new(0xfd03, 0, 0, 0, 0, 0, 0, 0x10);
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const WORLD6: Ipv6Addr = Ipv6Addr::new(0xfd04, 0, 0, 0, 0, 0, 0, 1);
const ALICE_CONTEXT: u32 = 6;
const BOB_CONTEXT: u32 = 7;
const ALICE_CONTEXT6: u32 = 8;
const ALICE_CONTEXT_LABEL: u32 = 106;
const ALICE_CONTEXT6_LABEL: u32 = 108;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const VXLAN: usize = 14 + 20 + 8 + 8 + 14;

fn floating(address: impl Into<IpAddr>, fixed: impl Into<IpAddr>) -> Context {
    Context {
        vrf: PUBLIC,
        policy4: Some(ALLOW),
        policy6: Some(ALLOW),
        floating: Some(Floating {
            address: address.into(),
            fixed: fixed.into(),
            direction: FloatingDirection::Both,
            ports: vec![],
        }),
    }
}

fn route(vrf: u32, prefix: &str, next_hop: u32) -> RouteChange {
    RouteChange::Set(Route { vrf, prefix: prefix.parse().unwrap(), next_hop, identity: 3000 })
}

fn with_floating() -> Bed {
    let mut bed = Bed::new();
    let (alice, bob) = (bed.alice, bed.bob);
    let contexts = [
        (ALICE_CONTEXT, floating(ALICE_FLOATING, ALICE)),
        (BOB_CONTEXT, floating(BOB_FLOATING, BOB)),
        (ALICE_CONTEXT6, floating(ALICE_FLOATING6, ALICE6)),
    ];
    for (id, context) in &contexts {
        bed.datapath.set_context(*id, context).unwrap();
    }
    bed.datapath.set_label(ALICE_CONTEXT_LABEL, alice, ALICE_CONTEXT).unwrap();
    bed.datapath.set_label(ALICE_CONTEXT6_LABEL, alice, ALICE_CONTEXT6).unwrap();
    let local = |ifindex, context| NextHop::Local { ifindex, context };
    bed.datapath.set_next_hop(20, &local(alice, ALICE_CONTEXT)).unwrap();
    bed.datapath.set_next_hop(21, &local(bob, BOB_CONTEXT)).unwrap();
    bed.datapath.set_next_hop(22, &local(alice, ALICE_CONTEXT6)).unwrap();
    bed.datapath
        .change_routes(&[
            route(PUBLIC, "203.0.113.10/32", 20),
            route(PUBLIC, "203.0.113.11/32", 21),
            route(PUBLIC, "fd03::10/128", 22),
            route(PUBLIC, "0.0.0.0/0", 3),
            route(PUBLIC, "::/0", 3),
        ])
        .unwrap();
    let floats = vec![ALICE_CONTEXT, ALICE_CONTEXT6];
    let vif = Vif { floating: floats, ..bed.vif(alice) };
    bed.datapath.set_vif(&vif).unwrap();
    let vif = Vif { floating: vec![BOB_CONTEXT], ..bed.vif(bob) };
    bed.datapath.set_vif(&vif).unwrap();
    bed
}

fn alice_sends(bed: &Bed, packet: &Whole) -> Ran {
    bed.alice(&from_alice(&packet.packet()))
}

fn bob_sends(bed: &Bed, packet: &Whole) -> Ran {
    let frame = ethernet(BOB_MAC, GATEWAY_MAC, 0x0800, &packet.packet());
    bed.run(Hook::Workload, bed.bob, &frame)
}

fn arrives(bed: &Bed, label: u32, packet: &Whole) -> Ran {
    bed.fabric(&vxlan(PEER, label, &packet.packet()))
}

/// Every protocol in both families: label, the outside's address, the floating one, the fixed one.
fn cases() -> Vec<(u8, u32, IpAddr, IpAddr, IpAddr)> {
    let mut all = vec![];
    for protocol in [TCP, UDP, SCTP, 1] {
        let label = ALICE_CONTEXT_LABEL;
        all.push((protocol, label, WORLD.into(), ALICE_FLOATING.into(), ALICE.into()));
    }
    for protocol in [TCP, UDP, SCTP, 58] {
        let label = ALICE_CONTEXT6_LABEL;
        all.push((protocol, label, WORLD6.into(), ALICE_FLOATING6.into(), ALICE6.into()));
    }
    all
}

fn first(protocol: u8) -> u8 {
    match protocol {
        1 => 8,
        58 => 128,
        _ => ACK,
    }
}

#[test]
fn the_outside_reaches_a_workload_by_its_floating_address() {
    let bed = with_floating();
    for (protocol, label, world, public, fixed) in cases() {
        let asked = whole(protocol, (world, 999), (public, 999)).kind(first(protocol));
        let seen = asked.between((world, 999), (fixed, 999));
        for _ in 0..2 {
            let ran = arrives(&bed, label, &asked);
            assert_eq!(ran.outcome, bed.delivered(bed.alice), "{protocol}");
            assert_eq!(ran.frame[14..], seen.packet());
            let ran = alice_sends(&bed, &seen.back());
            assert_eq!(ran.outcome, bed.tunnel_out(), "{protocol}");
            assert_eq!(ran.frame[VXLAN..], asked.back().hops_less(1).packet());
        }
    }
    // The fixed address is not known there.
    let ran = arrives(&bed, ALICE_CONTEXT_LABEL, &whole(UDP, (WORLD, 1), (ALICE, 2)));
    assert_eq!(ran.outcome, dropped(R::NotThisPort));
    let flows = bed.datapath.flows(FlowFilter::default()).unwrap();
    assert_eq!(flows.len(), 8);
    assert!(flows.iter().all(|f| f.direction == skein_policy::Direction::Ingress));
    assert!(flows.iter().all(|f| f.context != 0 && (f.packets_in, f.packets_out) == (2, 2)));
}

#[test]
fn a_workload_reaches_the_outside_by_its_floating_address_where_its_own_vrf_knows_less() {
    let mut bed = with_floating();
    for (protocol, label, world, public, fixed) in cases() {
        let asked = whole(protocol, (fixed, 777), (world, 777)).kind(first(protocol));
        let seen = asked.between((public, 777), (world, 777));
        for _ in 0..2 {
            let ran = alice_sends(&bed, &asked);
            assert_eq!(ran.outcome, bed.tunnel_out(), "{protocol}");
            assert_eq!(ran.frame[VXLAN..], seen.hops_less(1).packet());
            let ran = arrives(&bed, label, &seen.back());
            assert_eq!(ran.outcome, bed.delivered(bed.alice));
            assert_eq!(ran.frame[14..], asked.back().packet());
        }
    }
    let source = |bed: &Bed, to: Ipv4Addr| {
        let ran = alice_sends(bed, &whole(UDP, (ALICE, 5), (to, 6)));
        assert_eq!(ran.outcome, bed.tunnel_out(), "{to}");
        let inner = if ran.frame[36..38] == 4789_u16.to_be_bytes() { VXLAN } else { 46 };
        address4(&ran.frame, inner + 12)
    };
    assert_eq!(source(&bed, FAR), ALICE);
    assert_eq!(source(&bed, FAR_UDP), ALICE);
    // A default route of its own is not better than the public one, and a longer public one is.
    bed.datapath.change_routes(&[route(VRF, "0.0.0.0/0", 3)]).unwrap();
    assert_eq!(source(&bed, Ipv4Addr::new(198, 51, 100, 9)), ALICE);
    bed.datapath.change_routes(&[route(PUBLIC, "198.51.100.0/24", 3)]).unwrap();
    assert_eq!(source(&bed, Ipv4Addr::new(198, 51, 100, 10)), ALICE_FLOATING);
}

#[test]
fn two_workloads_of_a_node_talk_by_their_floating_addresses() {
    let bed = with_floating();
    for protocol in [TCP, UDP] {
        let asked = whole(protocol, (ALICE, 1000), (BOB_FLOATING, 80));
        let seen = asked.between((ALICE_FLOATING, 1000), (BOB, 80));
        for _ in 0..2 {
            let ran = alice_sends(&bed, &asked);
            assert_eq!(ran.outcome, bed.delivered(bed.bob));
            assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
            let ran = bob_sends(&bed, &seen.back());
            assert_eq!(ran.outcome, bed.delivered(bed.alice));
            assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
        }
    }
}

#[test]
fn a_floating_address_may_stand_for_some_ports_only() {
    let mut bed = with_floating();
    let mut context = floating(ALICE_FLOATING, ALICE);
    let mapping = PortMapping { protocol: TCP, floating: 80, fixed: 8080 };
    context.floating.as_mut().unwrap().ports = vec![mapping];
    bed.datapath.set_context(ALICE_CONTEXT, &context).unwrap();
    assert!(bed.datapath.contexts().unwrap().contains(&(ALICE_CONTEXT, context)));
    let asked = whole(TCP, (WORLD, 999), (ALICE_FLOATING, 80));
    let seen = asked.between((WORLD, 999), (ALICE, 8080));
    let ran = arrives(&bed, ALICE_CONTEXT_LABEL, &asked);
    assert_eq!(ran.frame[14..], seen.packet());
    let ran = alice_sends(&bed, &seen.back());
    assert_eq!(ran.frame[VXLAN..], asked.back().hops_less(1).packet());
    for other in [
        whole(TCP, (WORLD, 999), (ALICE_FLOATING, 81)),
        whole(UDP, (WORLD, 999), (ALICE_FLOATING, 80)),
        whole(1, (WORLD, 9), (ALICE_FLOATING, 9)).kind(8),
    ] {
        let ran = arrives(&bed, ALICE_CONTEXT_LABEL, &other);
        assert_eq!(ran.outcome, dropped(R::PortNotMapped));
    }
    // Outwards by the mapped port, and by no other.
    let ran = alice_sends(&bed, &whole(TCP, (ALICE, 8080), (WORLD, 25)));
    let expected = whole(TCP, (ALICE_FLOATING, 80), (WORLD, 25)).hops_less(1);
    assert_eq!(ran.frame[VXLAN..], expected.packet());
    let ran = alice_sends(&bed, &whole(TCP, (ALICE, 8081), (WORLD, 25)));
    assert_eq!(ran.outcome, dropped(R::NoRoute));
}

#[test]
fn a_floating_address_may_be_for_one_direction_only() {
    let mut bed = with_floating();
    let inward = whole(UDP, (WORLD, 1), (ALICE_FLOATING, 2));
    let outward = whole(UDP, (ALICE, 3), (WORLD, 4));
    for (direction, comes_in, goes_out) in [
        (FloatingDirection::Ingress, bed.delivered(bed.alice), dropped(R::NoRoute)),
        (FloatingDirection::Egress, dropped(R::FloatingDirection), bed.tunnel_out()),
    ] {
        let mut context = floating(ALICE_FLOATING, ALICE);
        context.floating.as_mut().unwrap().direction = direction;
        bed.datapath.remove_vif(bed.alice).unwrap();
        let vif = Vif { floating: vec![ALICE_CONTEXT], ..bed.vif(bed.alice) };
        bed.datapath.set_vif(&vif).unwrap();
        bed.datapath.set_context(ALICE_CONTEXT, &context).unwrap();
        assert_eq!(arrives(&bed, ALICE_CONTEXT_LABEL, &inward).outcome, comes_in);
        assert_eq!(alice_sends(&bed, &outward).outcome, goes_out);
    }
}

#[test]
fn connections_end_with_their_floating_address() {
    let mut bed = with_floating();
    let asked = whole(TCP, (WORLD, 999), (ALICE_FLOATING, 80));
    let seen = asked.between((WORLD, 999), (ALICE, 80));
    assert_eq!(arrives(&bed, ALICE_CONTEXT_LABEL, &asked).outcome, bed.delivered(bed.alice));
    let other = floating([203, 0, 113, 99], ALICE);
    bed.datapath.set_context(ALICE_CONTEXT, &other).unwrap();
    assert_eq!(alice_sends(&bed, &seen.back()).outcome, dropped(R::TranslationGone));
    let ran = arrives(&bed, ALICE_CONTEXT_LABEL, &asked);
    assert_eq!(ran.outcome, dropped(R::TranslationGone));
    let back = floating(ALICE_FLOATING, ALICE);
    bed.datapath.set_context(ALICE_CONTEXT, &back).unwrap();
    assert_eq!(alice_sends(&bed, &seen.back()).outcome, bed.tunnel_out());
    // Someone else's packets do not go by its flow: not by the port's own label.
    let ran = arrives(&bed, ALICE_LABEL, &asked);
    assert_eq!(ran.outcome, dropped(R::SourceAddress));
}

/// Bob plays the node's own stack.
fn with_host() -> Bed {
    let mut bed = Bed::new();
    let vif = Vif { host: true, ..bed.vif(bed.bob) };
    bed.datapath.set_vif(&vif).unwrap();
    assert!(bed.datapath.vifs().unwrap().iter().any(|vif| vif.host));
    bed
}

#[test]
fn the_nodes_own_stack_reaches_its_workloads_whatever_their_policy() {
    let mut bed = with_host();
    bed.set_policy(2, &only(vec![], vec![]));
    bed.judge_alice_by(2);
    let probe = whole(TCP, (BOB, 999), (ALICE, 80)).kind(SYN);
    let answer = probe.back().kind(SYN | ACK);
    assert_eq!(bob_sends(&bed, &probe).outcome, bed.delivered(bed.alice));
    assert_eq!(alice_sends(&bed, &answer).outcome, bed.delivered(bed.bob));
    // Also when policy and routes change under way, whichever end speaks first.
    bed.set_policy(3, &only(vec![], vec![]));
    bed.judge_alice_by(3);
    assert_eq!(alice_sends(&bed, &answer).outcome, bed.delivered(bed.bob));
    assert_eq!(bob_sends(&bed, &probe.kind(ACK)).outcome, bed.delivered(bed.alice));
    // Not what the workload opens to it, nor what others open.
    let outward = whole(TCP, (ALICE, 5), (BOB, 22)).kind(SYN);
    assert_eq!(alice_sends(&bed, &outward).outcome, dropped(R::PolicyDeny));
    let ran = arrives(&bed, ALICE_LABEL, &whole(TCP, (FAR, 5), (ALICE, 80)));
    assert_eq!(ran.outcome, dropped(R::PolicyDeny));
    // A port without policy in force stays closed.
    let policy = VifPolicy::Enforce { v4: None, v6: None };
    let vif = Vif { policy, ..bed.vif(bed.alice) };
    bed.datapath.set_vif(&vif).unwrap();
    assert_eq!(bob_sends(&bed, &probe.kind(ACK)).outcome, dropped(R::NoPolicy));
}
