//! Workloads whose addresses are the underlay's: no tunnels, the same judgement, and nobody else's packets.

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

const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const WORLD6: Ipv6Addr = Ipv6Addr::new(0xfd04, 0, 0, 0, 0, 0, 0, 1);
/// In the underlay, on another node.
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 20);
const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 0x20);
const FLOATING: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const BALANCED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
const PUBLIC: u32 = 3;
const TENANT: u32 = 4;
const CONTEXT: u32 = 6;
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const ROUTER_MAC: [u8; 6] = [4; 6];
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

fn route(vrf: u32, prefix: &str, next_hop: u32, identity: u32) -> RouteChange {
    RouteChange::Set(Route { vrf, prefix: prefix.parse().unwrap(), next_hop, identity })
}

/// Alice is in the underlay, Bob is a tenant's whose network is joined to hers; FAR is a tenant's elsewhere.
fn with_natives() -> Bed {
    let mut bed = Bed::new();
    let (alice, bob, uplink) = (bed.alice, bed.bob, bed.uplink);
    let anywhere = NextHop::Native { uplink, node: None, gateway: None, mtu: MTU };
    let node = Some(PEER.into());
    bed.datapath.set_next_hop(40, &anywhere).unwrap();
    let neighbour = NextHop::Native { uplink, node, gateway: node, mtu: MTU };
    bed.datapath.set_next_hop(41, &neighbour).unwrap();
    bed.datapath.set_next_hop(42, &NextHop::Local { ifindex: alice, context: CONTEXT }).unwrap();
    bed.datapath
        .change_routes(&[
            route(VRF, "0.0.0.0/0", 40, 5000),
            route(VRF, "::/0", 40, 5000),
            route(VRF, "10.1.0.20/32", 41, 1020),
            route(VRF, "fd01::20/128", 41, 1020),
            // What nobody of her network has is not looked for.
            route(VRF, "10.1.0.0/16", 0, 0),
            route(VRF, "fd01::/64", 0, 0),
            route(TENANT, "10.1.0.2/32", 1, 1001),
            route(TENANT, "10.1.0.3/32", 2, 1002),
            route(PUBLIC, "203.0.113.10/32", 42, 1001),
            route(PUBLIC, "0.0.0.0/0", 40, 5000),
        ])
        .unwrap();
    let vif = Vif { vrf: TENANT, ..bed.vif(bob) };
    bed.datapath.set_vif(&vif).unwrap();
    bed.datapath.set_uplink(uplink, UPLINK_MAC).unwrap();
    for address in [IpAddr::from(ALICE), ALICE6.into()] {
        assert!(bed.datapath.set_native(address, Native::Workload(1)).unwrap());
        assert!(!bed.datapath.set_native(address, Native::Workload(1)).unwrap());
    }
    bed
}

fn arrives(bed: &Bed, packet: &[u8]) -> Ran {
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    bed.fabric(&ethernet(ROUTER_MAC, [2; 6], kind, packet))
}

fn alice_sends(bed: &Bed, packet: &Whole) -> Ran {
    bed.alice(&from_alice(&packet.packet()))
}

fn outward(bed: &Bed) -> Outcome {
    Outcome::Outside { uplink: bed.uplink }
}

#[test]
fn packets_go_and_come_as_they_are() {
    let bed = with_natives();
    let ends: [(IpAddr, [IpAddr; 2]); 2] = [
        (ALICE.into(), [WORLD.into(), NEIGHBOUR.into()]),
        (ALICE6.into(), [WORLD6.into(), NEIGHBOUR6.into()]),
    ];
    for (alice, others) in ends {
        for other in others {
            for protocol in [TCP, UDP, SCTP] {
                let out = whole(protocol, (alice, 1000), (other, 80));
                let ran = alice_sends(&bed, &out);
                assert_eq!(ran.outcome, outward(&bed), "{protocol} to {other}");
                assert_eq!(ran.frame[14..], out.hops_less(1).packet());
                let ran = arrives(&bed, &out.back().packet());
                assert_eq!(ran.outcome, bed.delivered(bed.alice));
                assert_eq!(ran.frame[14..], out.back().hops_less(1).packet());
                // They open connections as well.
                let opened = whole(protocol, (other, 2000), (alice, 81)).kind(SYN);
                let ran = arrives(&bed, &opened.packet());
                assert_eq!(ran.outcome, bed.delivered(bed.alice));
                let ran = alice_sends(&bed, &opened.back());
                assert_eq!(ran.outcome, outward(&bed));
                assert_eq!(ran.frame[14..], opened.back().hops_less(1).packet());
            }
        }
    }
    // A router on the way has something to say about it.
    let out = whole(UDP, (ALICE, 1000), (WORLD, 80));
    let error = ip4([192, 0, 2, 254].into(), ALICE).with(1, &icmp(11, 0, 0, &out.packet()));
    assert_eq!(arrives(&bed, &error).outcome, bed.delivered(bed.alice));
    let stranger = whole(UDP, (ALICE, 1000), (WORLD, 82)).packet();
    let error = ip4([192, 0, 2, 254].into(), ALICE).with(1, &icmp(11, 0, 0, &stranger));
    assert_eq!(arrives(&bed, &error).outcome, dropped(R::IcmpErrorWithoutFlow));
    // The whole MTU of the underlay, and no more.
    let sized = |size| Whole { size, ..whole(UDP, (ALICE, 1), (WORLD, 2)) };
    assert_eq!(alice_sends(&bed, &sized(1472)).outcome, outward(&bed));
    let ran = alice_sends(&bed, &sized(1473));
    assert!(matches!(ran.outcome, Outcome::ToWorkload { answer_to: Some(R::TooBig), .. }));
    // With other networks by tunnel, as ever.
    assert_eq!(alice_sends(&bed, &whole(UDP, (ALICE, 1), (FAR, 2))).outcome, bed.tunnel_out());
}

#[test]
fn nobody_comes_in_by_the_uplink_who_lives_elsewhere() {
    let bed = with_natives();
    let alice6: IpAddr = ALICE6.into();
    // To a tenant's address, to one nobody has: not ours, and untouched.
    for (from, to) in [
        (IpAddr::from(WORLD), IpAddr::from(BOB)),
        (NEIGHBOUR.into(), BOB.into()),
        (NEIGHBOUR.into(), FAR.into()),
        (WORLD.into(), NODE.into()),
        (WORLD6.into(), BOB6.into()),
    ] {
        let packet = whole(TCP, (from, 1), (to, 80)).kind(SYN).packet();
        let ran = arrives(&bed, &packet);
        assert_eq!((ran.outcome, &ran.frame[14..]), (Outcome::Host, &packet[..]), "{from} to {to}");
    }
    // In the name of a tenant here, of one elsewhere, of nobody in the fabric's own prefix.
    for (from, to) in [
        (IpAddr::from(BOB), IpAddr::from(ALICE)),
        (FAR.into(), ALICE.into()),
        ([10, 1, 0, 99].into(), ALICE.into()),
        (BOB6.into(), alice6),
        ("fd01::99".parse().unwrap(), alice6),
    ] {
        let packet = whole(TCP, (from, 1), (to, 80)).kind(SYN).packet();
        assert_eq!(arrives(&bed, &packet).outcome, dropped(R::SourceAddress), "{from}");
    }
    for (from, to) in
        [(IpAddr::from(ALICE), IpAddr::from(ALICE)), ([127, 0, 0, 1].into(), ALICE.into())]
    {
        let packet = whole(TCP, (from, 1), (to, 80)).packet();
        assert_eq!(arrives(&bed, &packet).outcome, dropped(R::Martian), "{from}");
    }
    // By a tunnel in the name of one who has none.
    for from in [NEIGHBOUR, WORLD] {
        let inner = whole(TCP, (from, 1), (ALICE, 80)).kind(SYN).packet();
        assert_eq!(
            bed.fabric(&vxlan(PEER, ALICE_LABEL, &inner)).outcome,
            dropped(R::SourceAddress)
        );
    }
    // And a connection that came by one way does not go on by the other.
    let inner = whole(TCP, (FAR, 5), (ALICE, 80)).kind(SYN).packet();
    assert_eq!(bed.fabric(&vxlan(PEER, ALICE_LABEL, &inner)).outcome, bed.delivered(bed.alice));
    assert_eq!(arrives(&bed, &inner).outcome, dropped(R::SourceAddress));
}

#[test]
fn workloads_speak_for_themselves_only() {
    let bed = with_natives();
    for from in [NEIGHBOUR, WORLD, BOB, NODE, Ipv4Addr::new(10, 1, 0, 99)] {
        let ran = alice_sends(&bed, &whole(UDP, (from, 1), ([198, 51, 100, 7], 2)));
        assert_eq!(ran.outcome, dropped(R::SourceAddress), "{from}");
    }
    // Isolation: what shares her prefix and is not routed is not reached by the back door.
    let ran = alice_sends(&bed, &whole(UDP, (ALICE, 1), ([10, 1, 0, 99], 2)));
    assert_eq!(ran.outcome, dropped(R::DiscardRoute));
}

#[test]
fn both_ends_are_judged() {
    let mut bed = with_natives();
    bed.set_policy(2, &only(vec![pass(6, 80)], vec![pass(6, 22)]));
    let flowing = whole(TCP, (NEIGHBOUR, 9), (ALICE, 8080)).kind(SYN);
    assert_eq!(arrives(&bed, &flowing.packet()).outcome, bed.delivered(bed.alice));
    bed.judge_alice_by(2);
    assert_eq!(arrives(&bed, &flowing.kind(ACK).packet()).outcome, dropped(R::PolicyDeny));
    for (other, port, passes) in [(NEIGHBOUR, 80, true), (WORLD, 81, false)] {
        let ran = alice_sends(&bed, &whole(TCP, (ALICE, 1), (other, port)).kind(SYN));
        assert_eq!(ran.outcome, if passes { outward(&bed) } else { dropped(R::PolicyDeny) });
    }
    for (other, port, passes) in [(NEIGHBOUR, 22, true), (WORLD, 23, false)] {
        let ran = arrives(&bed, &whole(TCP, (other, 1), (ALICE, port)).kind(SYN).packet());
        let inward = bed.delivered(bed.alice);
        assert_eq!(ran.outcome, if passes { inward } else { dropped(R::PolicyDeny) });
    }
    // Without policy state nothing passes.
    let policy = VifPolicy::Enforce { v4: None, v6: None };
    let vif = Vif { policy, ..bed.vif(bed.alice) };
    bed.datapath.set_vif(&vif).unwrap();
    let ran = arrives(&bed, &whole(TCP, (NEIGHBOUR, 7), (ALICE, 22)).kind(SYN).packet());
    assert_eq!(ran.outcome, dropped(R::NoPolicy));
    // A port without port security takes what is for it.
    let vif = Vif { policy: VifPolicy::Disabled, ..bed.vif(bed.alice) };
    bed.datapath.set_vif(&vif).unwrap();
    let ran = arrives(&bed, &whole(TCP, (NEIGHBOUR, 7), (ALICE, 22)).kind(SYN).packet());
    assert_eq!(ran.outcome, bed.delivered(bed.alice));
    let ran = alice_sends(&bed, &whole(TCP, (ALICE, 22), (NEIGHBOUR, 7)));
    assert_eq!(ran.outcome, outward(&bed));
}

fn arp_request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
    body.extend(ROUTER_MAC);
    body.extend(sender.octets());
    body.extend([0; 6]);
    body.extend(target.octets());
    ethernet(ROUTER_MAC, [0xff; 6], 0x0806, &body)
}

#[test]
fn the_uplink_answers_for_them() {
    let mut bed = with_natives();
    let router = Ipv4Addr::new(192, 0, 2, 254);
    for asker in [router, Ipv4Addr::UNSPECIFIED] {
        let ran = bed.fabric(&arp_request(asker, ALICE));
        assert_eq!(ran.outcome, outward(&bed));
        let mut wanted = vec![0, 1, 8, 0, 6, 4, 0, 2];
        wanted.extend(UPLINK_MAC);
        wanted.extend(ALICE.octets());
        wanted.extend(ROUTER_MAC);
        wanted.extend(asker.octets());
        assert_eq!(ran.frame[..42], ethernet(UPLINK_MAC, ROUTER_MAC, 0x0806, &wanted));
    }
    // Not for tenants, not for other nodes' and the host's own, not to announcements, not on other interfaces.
    for target in [BOB, NEIGHBOUR, FAR, NODE] {
        let asked = arp_request(router, target);
        let ran = bed.fabric(&asked);
        assert_eq!((ran.outcome, ran.frame), (Outcome::Host, asked), "{target}");
    }
    assert_eq!(bed.fabric(&arp_request(ALICE, ALICE)).outcome, Outcome::Host);
    let elsewhere = bed.run(Hook::Fabric, bed.bob, &arp_request(router, ALICE));
    assert_eq!(elsewhere.outcome, Outcome::Host);

    let solicit = |from: Ipv6Addr, target: Ipv6Addr| {
        let mut body = target.octets().to_vec();
        body.extend([1, 1]);
        body.extend(ROUTER_MAC);
        let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, target.segments()[7]);
        let body = [&[0; 4], &body[..]].concat();
        let packet = ip6(from, to, 255, 58, &icmp6(from, to, 135, &body));
        bed.fabric(&ethernet(ROUTER_MAC, [0x33, 0x33, 0xff, 0, 0, 2], 0x86dd, &packet))
    };
    let router6: Ipv6Addr = "fe80::fe".parse().unwrap();
    let ran = solicit(router6, ALICE6);
    assert_eq!(ran.outcome, outward(&bed));
    assert_eq!((&ran.frame[..6], &ran.frame[6..12]), (&ROUTER_MAC[..], &UPLINK_MAC[..]));
    assert_eq!(ran.frame[22..38], ALICE6.octets());
    assert_eq!(ran.frame[38..54], router6.octets());
    assert_eq!((ran.frame[54], ran.frame[58]), (136, 0x60));
    assert_eq!(ran.frame[80..86], UPLINK_MAC);
    assert_eq!(checksum6(ALICE6, router6, &ran.frame[54..86]), 0);
    let ran = solicit(Ipv6Addr::UNSPECIFIED, ALICE6);
    assert_eq!((&ran.frame[..6], ran.frame[58]), (&[0x33, 0x33, 0, 0, 0, 1][..], 0x20));
    assert_eq!(solicit(router6, BOB6).outcome, Outcome::Host);

    let mut known = bed.datapath.natives().unwrap();
    known.sort();
    assert_eq!(known, [(ALICE.into(), Native::Workload(1)), (ALICE6.into(), Native::Workload(1))]);
    assert!(bed.datapath.routes().unwrap().iter().all(|route| route.vrf != 0));
    for address in [IpAddr::from(ALICE), ALICE6.into()] {
        assert!(bed.datapath.remove_native(address).unwrap());
        assert!(!bed.datapath.remove_native(address).unwrap());
    }
    assert_eq!(bed.fabric(&arp_request(router, ALICE)).outcome, Outcome::Host);
    let packet = whole(TCP, (WORLD, 1), (ALICE, 80)).packet();
    assert_eq!(arrives(&bed, &packet).outcome, Outcome::Host);
    bed.datapath.announce(ALICE.into()).unwrap();
}

/// Alice is a tenant's here, whose way outside is the node's address; she has a floating address in a public network.
fn with_floating() -> Bed {
    let mut bed = with_natives();
    let (alice, uplink) = (bed.alice, bed.uplink);
    for address in [IpAddr::from(ALICE), ALICE6.into()] {
        bed.datapath.remove_native(address).unwrap();
    }
    let policy = Some(ALLOW);
    let floating = Floating {
        address: FLOATING.into(),
        fixed: ALICE.into(),
        direction: FloatingDirection::Both,
        ports: vec![],
    };
    let context =
        Context { vrf: PUBLIC, policy4: policy, policy6: policy, floating: Some(floating) };
    bed.datapath.set_context(CONTEXT, &context).unwrap();
    bed.datapath.set_native(FLOATING.into(), Native::Workload(42)).unwrap();
    let vif = Vif { floating: vec![CONTEXT], ..bed.vif(alice) };
    bed.datapath.set_vif(&vif).unwrap();
    bed.datapath.set_next_hop(30, &NextHop::Outside { uplink, gateway: None, mtu: MTU }).unwrap();
    let node = NodeAddress { address4: Some(NODE), next_hop4: 30, ..NodeAddress::default() };
    bed.datapath.set_node_address(&node).unwrap();
    bed.datapath.change_routes(&[route(VRF, "0.0.0.0/0", 30, 0)]).unwrap();
    bed
}

#[test]
fn a_floating_address_of_a_public_network_is_reached_from_outside() {
    let bed = with_floating();
    assert_eq!(bed.fabric(&arp_request(WORLD, FLOATING)).outcome, outward(&bed));
    for (protocol, kind) in [(TCP, SYN), (UDP, ACK), (SCTP, ACK), (1, 8)] {
        let ends = if protocol == 1 { (77, 77) } else { (5000, 80) };
        let asked = whole(protocol, (WORLD, ends.0), (FLOATING, ends.1)).kind(kind);
        let seen = asked.between((WORLD, ends.0), (ALICE, ends.1));
        for _ in 0..2 {
            let ran = arrives(&bed, &asked.packet());
            assert_eq!(ran.outcome, bed.delivered(bed.alice), "{protocol}");
            assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
            let ran = alice_sends(&bed, &seen.back());
            assert_eq!(ran.outcome, outward(&bed));
            assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
        }
    }
    // Her own address is still nobody's outside; and hers is what she is known by, not the node's.
    let packet = whole(TCP, (WORLD, 1), (ALICE, 80)).kind(SYN).packet();
    assert_eq!(arrives(&bed, &packet).outcome, Outcome::Host);
    let out = whole(TCP, (ALICE, 3000), (WORLD, 443)).kind(SYN);
    let ran = alice_sends(&bed, &out);
    assert_eq!(ran.outcome, outward(&bed));
    assert_eq!(ran.frame[14..], out.between((FLOATING, 3000), (WORLD, 443)).hops_less(1).packet());
    let question = Question {
        ifindex: bed.alice,
        direction: skein_policy::Direction::Egress,
        local: ALICE.into(),
        remote: WORLD.into(),
        protocol: TCP,
        source_port: 1,
        destination_port: 443,
    };
    assert_eq!(bed.datapath.trace(&question).unwrap().context, Some(CONTEXT));
}

#[test]
fn a_services_address_is_asked_for_and_left_to_the_service() {
    let mut bed = with_floating();
    let service = Service {
        at: ServiceKey { vrf: OUTSIDE, address: BALANCED.into(), protocol: TCP, port: 80 },
        member_vrf: VRF,
        members: vec![ServiceMember { address: ALICE.into(), port: 8080, draining: false }],
        affinity: None,
        keep_source: true,
        sources: vec![],
        link_local: false,
        open: false,
        by_node: false,
    };
    bed.datapath.set_service(&service).unwrap();
    assert_eq!(bed.fabric(&arp_request(WORLD, BALANCED)).outcome, Outcome::Host);
    bed.datapath.set_native(BALANCED.into(), Native::Services).unwrap();
    assert_eq!(bed.fabric(&arp_request(WORLD, BALANCED)).outcome, outward(&bed));
    let asked = whole(TCP, (WORLD, 5000), (BALANCED, 80));
    let seen = asked.between((WORLD, 5000), (ALICE, 8080));
    let ran = arrives(&bed, &asked.kind(SYN).packet());
    assert_eq!(ran.outcome, bed.delivered(bed.alice));
    assert_eq!(ran.frame[14..], seen.kind(SYN).hops_less(1).packet());
    let ran = alice_sends(&bed, &seen.back());
    assert_eq!(ran.outcome, outward(&bed));
    assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
    let other = whole(TCP, (WORLD, 5000), (BALANCED, 81)).packet();
    assert_eq!(arrives(&bed, &other).outcome, Outcome::Host);
}
