//! By the node's own address: workloads to the outside, and the outside to services.

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
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const WORLD6: Ipv6Addr = Ipv6Addr::new(0xfd04, 0, 0, 0, 0, 0, 0, 1);
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

fn node() -> NodeAddress {
    NodeAddress {
        address4: Some(NODE),
        address6: Some(NODE6),
        next_hop4: 30,
        next_hop6: 30,
        ..NodeAddress::default()
    }
}

fn with_outside() -> Bed {
    let mut bed = Bed::new();
    let outside = NextHop::Outside { uplink: bed.uplink, gateway: None, mtu: MTU };
    bed.datapath.set_next_hop(30, &outside).unwrap();
    bed.datapath.set_node_address(&node()).unwrap();
    assert_eq!(bed.datapath.node_address().unwrap(), node());
    let routes = ["0.0.0.0/0", "::/0"].map(|prefix| {
        let prefix = prefix.parse().unwrap();
        RouteChange::Set(Route { vrf: VRF, prefix, next_hop: 30, identity: 5000 })
    });
    bed.datapath.change_routes(&routes).unwrap();
    bed
}

fn alice_sends(bed: &Bed, packet: &Whole) -> Ran {
    bed.alice(&from_alice(&packet.packet()))
}

fn arrives(bed: &Bed, packet: &[u8]) -> Ran {
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    bed.fabric(&ethernet([4; 6], [2; 6], kind, packet))
}

fn outward(bed: &Bed) -> Outcome {
    Outcome::Outside { uplink: bed.uplink }
}

/// The port, or identifier, that a packet left with.
fn lent(frame: &[u8], protocol: u8) -> u16 {
    let at = if frame[14] >> 4 == 4 { 34 } else { 54 };
    let at = if protocol == 1 || protocol == 58 { at + 4 } else { at };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

#[test]
fn a_node_that_serves_past_the_fabric_is_asked_there_and_still_comes_in_by_its_tunnel() {
    let mut bed = with_outside();
    let there = Ipv4Addr::new(10, 99, 0, 1);
    bed.datapath.set_next_hop(31, &NextHop::Composite { members: vec![30, 3] }).unwrap();
    let prefix = "10.99.0.1/32".parse().unwrap();
    let route = Route { vrf: VRF, prefix, next_hop: 31, identity: 5000 };
    bed.datapath.change_routes(&[RouteChange::Set(route)]).unwrap();
    for port in 1..65 {
        let asks = ip4(ALICE, there).with(UDP, &udp(port, 80, b"x"));
        assert_eq!(bed.alice(&from_alice(&asks)).outcome, outward(&bed), "port {port}");
    }
    // What it asks itself comes from where it is, and is answered there.
    let asks = ip4(there, ALICE).with(UDP, &udp(9, 80, b"y"));
    let ran = bed.fabric(&vxlan(PEER, ALICE_LABEL, &asks));
    assert_eq!(ran.outcome, bed.delivered(bed.alice));
    let answer = ip4(ALICE, there).with(UDP, &udp(80, 9, b"z"));
    let ran = bed.alice(&from_alice(&answer));
    assert_eq!(ran.outcome, bed.tunnel_out());
    assert_eq!(address4(&ran.frame, 30), PEER);
}

#[test]
fn a_workload_leaves_by_the_nodes_address_and_only_answers_come_back() {
    let bed = with_outside();
    let default = NodeAddress::default();
    for protocol in [TCP, UDP, SCTP, 1, 58] {
        for (alice, node, world) in [
            (IpAddr::from(ALICE), IpAddr::from(NODE), IpAddr::from(WORLD)),
            (ALICE6.into(), NODE6.into(), WORLD6.into()),
        ] {
            let (kind, range) = match protocol {
                1 if alice.is_ipv4() => (8, vec![default.icmp.clone()]),
                58 if alice.is_ipv6() => (128, vec![default.icmp.clone()]),
                1 | 58 => continue,
                TCP => (ACK, default.tcp.clone()),
                UDP => (ACK, default.udp.clone()),
                _ => (ACK, default.sctp.clone()),
            };
            let elsewhere: IpAddr = match world {
                IpAddr::V4(_) => [198, 51, 100, 2].into(),
                IpAddr::V6(_) => "fd04::2".parse().unwrap(),
            };
            let ends = if kind == ACK { (1000, 443) } else { (77, 77) };
            let asked = whole(protocol, (alice, ends.0), (world, ends.1)).kind(kind);
            for _ in 0..2 {
                let ran = alice_sends(&bed, &asked);
                assert_eq!(ran.outcome, outward(&bed), "{protocol}");
                let port = lent(&ran.frame, protocol);
                assert!(range.iter().any(|range| range.contains(&port)), "{port}");
                let theirs = if kind == ACK { 443 } else { port };
                let seen = asked.between((node, port), (world, theirs));
                assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
                let ran = arrives(&bed, &seen.back().packet());
                assert_eq!(ran.outcome, bed.delivered(bed.alice));
                assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
                // To another port, from elsewhere, and the host's own: untouched.
                for other in [
                    seen.back().between((world, theirs ^ 1), (node, port ^ 1)),
                    seen.back().between((elsewhere, theirs), (node, port)),
                    seen.back().between((world, 22), (node, 22)),
                ] {
                    let packet = other.packet();
                    let ran = arrives(&bed, &packet);
                    assert_eq!(ran.outcome, Outcome::Host);
                    assert_eq!(ran.frame[14..], packet);
                }
            }
        }
    }
    // Routes of its own still win.
    assert_eq!(alice_sends(&bed, &whole(UDP, (ALICE, 1), (FAR, 2))).outcome, bed.tunnel_out());
}

#[test]
fn two_workloads_share_the_address_and_errors_find_the_right_one() {
    let bed = with_outside();
    let from_bob = |packet: &Whole| {
        let frame = ethernet(BOB_MAC, GATEWAY_MAC, 0x0800, &packet.packet());
        bed.run(Hook::Workload, bed.bob, &frame)
    };
    let (alice, bob) =
        (whole(UDP, (ALICE, 1000), (WORLD, 53)), whole(UDP, (BOB, 1000), (WORLD, 53)));
    let ports = [lent(&alice_sends(&bed, &alice).frame, UDP), lent(&from_bob(&bob).frame, UDP)];
    assert_ne!(ports[0], ports[1]);
    let router = Ipv4Addr::new(192, 0, 2, 254);
    for (port, asked, ifindex) in [(ports[0], alice, bed.alice), (ports[1], bob, bed.bob)] {
        let seen = asked.between((NODE, port), (WORLD, 53));
        let quoted = seen.packet();
        let error = ip4(router, NODE).with(1, &icmp(11, 0, 0, &quoted));
        let ran = arrives(&bed, &error);
        assert_eq!(ran.outcome, bed.delivered(ifindex));
        let Whole { source: IpAddr::V4(owner), .. } = asked else { panic!() };
        let mut quoted_back = asked.packet();
        quoted_back[26..28].copy_from_slice(&quoted[26..28]);
        let expected = Ip4 { ttl: 63, ..ip4(router, owner) }.with(1, &icmp(11, 0, 0, &quoted_back));
        assert_eq!(ran.frame[14..], expected);
    }
    let stranger = ip4(router, NODE)
        .with(1, &icmp(11, 0, 0, &whole(UDP, (NODE, ports[0]), (WORLD, 54)).packet()));
    assert_eq!(arrives(&bed, &stranger).outcome, Outcome::Host);
}

#[test]
fn when_ports_run_out_it_is_told() {
    let mut bed = with_outside();
    let narrow = NodeAddress { tcp: vec![56_000..=56_002, 900..=900], ..node() };
    bed.datapath.set_node_address(&narrow).unwrap();
    let open = |port, to| alice_sends(&bed, &whole(TCP, (ALICE, port), (WORLD, to)).kind(SYN));
    let ports: BTreeSet<_> = (1..5).map(|port| lent(&open(port, 80).frame, TCP)).collect();
    assert_eq!(
        ports,
        BTreeSet::from([900, 56_000, 56_001, 56_002]),
        "all ranges, to the last port"
    );
    assert_eq!(open(5, 80).outcome, dropped(R::SnatExhausted));
    assert_eq!(open(5, 81).outcome, outward(&bed), "another destination has its own");
    assert_eq!(open(1, 80).outcome, outward(&bed), "who has one keeps it");
    let mut told = vec![];
    bed.datapath.poll_events(|event| told.push(event.reason)).unwrap();
    assert_eq!(told, [R::SnatExhausted]);
    // They age like any others, and give their room back.
    std::thread::sleep(Duration::from_millis(20));
    let now = Timeouts { idle: Duration::ZERO, ..Timeouts::default() };
    assert_eq!(bed.datapath.sweep(&now).unwrap(), Swept { live: 0, removed: 10 });
    assert_eq!(bed.datapath.vif_counters(ALICE_ID).unwrap().flows, 0);
    let ran = alice_sends(&bed, &whole(TCP, (ALICE, 9), (WORLD, 80)).kind(SYN));
    assert_eq!(ran.outcome, outward(&bed));
    // And they go with their interface.
    bed.datapath.remove_vif(bed.alice).unwrap();
    assert_eq!(bed.datapath.sweep(&now).unwrap(), Swept { live: 0, removed: 0 });
}

#[test]
fn most_of_a_large_pool_is_lent_before_a_port_is_hard_to_find() {
    let mut bed = with_outside();
    let pools = vec![20_000..=20_299, 30_000..=30_199, 40_000..=40_499];
    bed.datapath.set_node_address(&NodeAddress { tcp: pools.clone(), ..node() }).unwrap();
    assert_eq!(bed.datapath.node_address().unwrap().tcp, pools);
    let open = |port| alice_sends(&bed, &whole(TCP, (ALICE, port), (WORLD, 80)).kind(SYN));
    let mut lent_ports = BTreeSet::new();
    let refused = (1..=800).filter(|port| match open(*port) {
        ran if ran.outcome == outward(&bed) => !lent_ports.insert(lent(&ran.frame, TCP)),
        ran => ran.outcome == dropped(R::SnatExhausted),
    });
    // Four of five are taken at the end: 32 tries in vain have a chance of 0.8 ** 32 then.
    let refused = refused.count();
    assert!(refused <= 3, "{refused} of 800 found none of 1000 ports");
    assert!(lent_ports.iter().all(|port| pools.iter().any(|pool| pool.contains(port))));
    assert!(pools.iter().all(|pool| lent_ports.iter().any(|port| pool.contains(port))));
}

#[test]
fn pools_that_cannot_be_are_refused() {
    let mut bed = with_outside();
    let many = (1..=5).map(|n| n * 100..=n * 100 + 1).collect();
    for pool in [vec![0..=5], vec![RangeInclusive::new(6, 5)], many] {
        let refused = bed.datapath.set_node_address(&NodeAddress { udp: pool, ..node() });
        assert!(matches!(refused, Err(Error::Argument { field: "udp", .. })), "{refused:?}");
    }
    assert_eq!(bed.datapath.node_address().unwrap(), node());
}

#[test]
fn a_route_into_the_fabric_ends_the_detour() {
    let mut bed = with_outside();
    let asked = whole(TCP, (ALICE, 1000), (WORLD, 80));
    let udp = whole(UDP, (ALICE, 1000), (WORLD, 80));
    assert_eq!(alice_sends(&bed, &asked.kind(SYN)).outcome, outward(&bed));
    assert_eq!(alice_sends(&bed, &udp).outcome, outward(&bed));
    let prefix = "198.51.100.0/24".parse().unwrap();
    let better = Route { vrf: VRF, prefix, next_hop: 3, identity: 1 };
    bed.datapath.change_routes(&[RouteChange::Set(better)]).unwrap();
    assert_eq!(alice_sends(&bed, &asked).outcome, dropped(R::TranslationGone));
    assert_eq!(alice_sends(&bed, &asked.kind(SYN)).outcome, bed.tunnel_out());
    assert_eq!(alice_sends(&bed, &udp).outcome, bed.tunnel_out());
    // And the other way round.
    bed.datapath.change_routes(&[RouteChange::Remove { vrf: VRF, prefix }]).unwrap();
    assert_eq!(alice_sends(&bed, &asked).outcome, dropped(R::TranslationGone));
    assert_eq!(alice_sends(&bed, &udp).outcome, outward(&bed));
}

#[test]
fn a_member_outside_the_fabric_is_reached_by_the_nodes_address() {
    let mut bed = with_outside();
    bed.datapath.set_next_hop(20, &NextHop::Service { vrf: 2 }).unwrap();
    let api: IpAddr = Ipv4Addr::new(10, 96, 0, 1).into();
    let set = |vrf, prefix: &str, next_hop| {
        let prefix = prefix.parse().unwrap();
        RouteChange::Set(Route { vrf, prefix, next_hop, identity: 9 })
    };
    let routes = [set(VRF, "10.96.0.0/16", 20), set(2, "0.0.0.0/0", 30)];
    bed.datapath.change_routes(&routes).unwrap();
    let members = vec![ServiceMember { address: WORLD.into(), port: 6443, draining: false }];
    let service = Service {
        at: ServiceKey { vrf: 2, address: api, protocol: TCP, port: 443 },
        member_vrf: 2,
        members,
        affinity: None,
        keep_source: false,
        link_local: false,
        open: false,
        sources: vec![],
        by_node: false,
    };
    bed.datapath.set_service(&service).unwrap();
    let asked = whole(TCP, (ALICE, 1000), (api, 443));
    let ran = alice_sends(&bed, &asked.kind(SYN));
    assert_eq!(ran.outcome, outward(&bed));
    let seen = asked.between((NODE, lent(&ran.frame, TCP)), (WORLD, 6443));
    assert_eq!(ran.frame[14..], seen.kind(SYN).hops_less(1).packet());
    let ran = arrives(&bed, &seen.back().packet());
    assert_eq!(ran.outcome, bed.delivered(bed.alice));
    assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
}

#[test]
fn what_does_not_fit_outside_is_told() {
    let bed = with_outside();
    let sized = |size| Whole { size, ..whole(UDP, (ALICE, 1), (WORLD, 2)) };
    assert_eq!(alice_sends(&bed, &sized(1472)).outcome, outward(&bed));
    let asked = sized(1473);
    let ran = alice_sends(&bed, &asked);
    assert!(matches!(ran.outcome, Outcome::ToWorkload { answer_to: Some(R::TooBig), .. }));
    assert_eq!(ran.frame[42..70], asked.packet()[..28], "the packet as it was sent");
}

// ------------------------------------------------------------------ services at the uplink

const SERVICES: u32 = 2;

/// Bob plays the node's own stack; Alice and FAR can be members.
fn with_node_ports() -> Bed {
    let mut bed = with_outside();
    let vif = Vif { host: true, ..bed.vif(bed.bob) };
    bed.datapath.set_vif(&vif).unwrap();
    let node = NodeAddress { host: Some(bed.bob), ..node() };
    bed.datapath.set_node_address(&node).unwrap();
    let set = |vrf, prefix: &str, next_hop| {
        let prefix = prefix.parse().unwrap();
        RouteChange::Set(Route { vrf, prefix, next_hop, identity: 9 })
    };
    bed.datapath
        .change_routes(&[
            set(SERVICES, "10.1.0.2/32", 1),
            set(SERVICES, "fd01::2/128", 1),
            set(SERVICES, "10.1.0.9/32", 3),
            set(SERVICES, "fd01::9/128", 3),
            // The node's address, as members and the host itself know it.
            set(SERVICES, "192.0.2.1/32", 2),
            set(SERVICES, "2001:db8::1/128", 2),
            set(VRF, "192.0.2.1/32", 2),
            set(VRF, "2001:db8::1/128", 2),
        ])
        .unwrap();
    bed
}

fn node_port(address: IpAddr, protocol: u8, member: (IpAddr, u16)) -> Service {
    Service {
        at: ServiceKey { vrf: OUTSIDE, address, protocol, port: 30_080 },
        member_vrf: SERVICES,
        members: vec![ServiceMember { address: member.0, port: member.1, draining: false }],
        affinity: None,
        keep_source: false,
        link_local: false,
        open: false,
        sources: vec![],
        by_node: false,
    }
}

/// Client, node, member here, member elsewhere.
fn families() -> [(IpAddr, IpAddr, IpAddr, IpAddr); 2] {
    [
        (WORLD.into(), NODE.into(), ALICE.into(), FAR.into()),
        (WORLD6.into(), NODE6.into(), ALICE6.into(), FAR6.into()),
    ]
}

#[test]
fn a_client_outside_is_seen_by_a_member_of_the_node() {
    let mut bed = with_node_ports();
    for protocol in [TCP, UDP, SCTP] {
        for (world, node, alice, _) in families() {
            let one = Service { keep_source: true, ..node_port(node, protocol, (alice, 8080)) };
            bed.datapath.set_service(&one).unwrap();
            let asked = whole(protocol, (world, 5000), (node, 30_080));
            let seen = asked.between((world, 5000), (alice, 8080));
            for _ in 0..2 {
                let ran = arrives(&bed, &asked.packet());
                assert_eq!(ran.outcome, bed.delivered(bed.alice));
                assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
                let ran = alice_sends(&bed, &seen.back());
                assert_eq!(ran.outcome, outward(&bed));
                assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
            }
            let other = whole(protocol, (world, 5000), (node, 30_081)).packet();
            assert_eq!(arrives(&bed, &other).outcome, Outcome::Host);
        }
    }
    // The member's policy judges the client, and the member's port.
    bed.set_policy(2, &only(vec![], vec![pass(6, 8080)]));
    bed.judge_alice_by(2);
    let asked = |protocol| whole(protocol, (WORLD, 5001), (NODE, 30_080)).packet();
    assert_eq!(arrives(&bed, &asked(TCP)).outcome, bed.delivered(bed.alice));
    assert_eq!(arrives(&bed, &asked(UDP)).outcome, dropped(R::PolicyDeny));
    // A member that is not here cannot keep the source.
    let far = Service { keep_source: true, ..node_port(NODE.into(), TCP, (FAR.into(), 8080)) };
    bed.datapath.set_service(&far).unwrap();
    let asked = whole(TCP, (WORLD, 5002), (NODE, 30_080)).packet();
    assert_eq!(arrives(&bed, &asked).outcome, dropped(R::NoMembers));
}

/// A client uses a port again for another service, or another address of the same one: the member may be the same.
#[test]
fn a_client_outside_may_use_its_port_again_at_the_same_member() {
    let mut bed = with_node_ports();
    for (world, node, alice, _) in families() {
        let one = Service { keep_source: true, ..node_port(node, TCP, (alice, 8080)) };
        let other = Service { at: ServiceKey { port: 30_081, ..one.at }, ..one.clone() };
        bed.datapath.set_service(&one).unwrap();
        bed.datapath.set_service(&other).unwrap();
        let asked = |port| whole(TCP, (world, 5000), (node, port));
        let seen = whole(TCP, (world, 5000), (alice, 8080));
        let opens = |port: u16| arrives(&bed, &asked(port).kind(SYN).packet()).outcome;
        assert_eq!(opens(30_080), bed.delivered(bed.alice));
        assert_eq!(alice_sends(&bed, &seen.back().kind(SYN | ACK)).outcome, outward(&bed));
        assert_eq!(opens(30_081), dropped(R::TranslationCollision), "it lives");
        assert_eq!(alice_sends(&bed, &seen.back().kind(FIN | ACK)).outcome, outward(&bed));
        let end = arrives(&bed, &asked(30_080).kind(FIN | ACK).packet());
        assert_eq!(end.outcome, bed.delivered(bed.alice));
        assert_eq!(opens(30_081), bed.delivered(bed.alice), "the other one has ended");
        let ran = alice_sends(&bed, &seen.back().kind(SYN | ACK));
        assert_eq!(ran.outcome, outward(&bed));
        let expected = asked(30_081).back().kind(SYN | ACK).hops_less(1);
        assert_eq!(ran.frame[14..], expected.packet());
    }
}

#[test]
fn a_client_outside_reaches_any_member_by_the_nodes_address() {
    const VXLAN: usize = 14 + 20 + 8 + 8 + 14;
    let mut bed = with_node_ports();
    for protocol in [TCP, UDP, SCTP] {
        for (world, node, alice, far) in families() {
            let asked = whole(protocol, (world, 5000), (node, 30_080));
            // Elsewhere.
            bed.datapath.set_service(&node_port(node, protocol, (far, 8080))).unwrap();
            for _ in 0..2 {
                let ran = arrives(&bed, &asked.packet());
                assert_eq!(ran.outcome, bed.tunnel_out());
                let port = lent(&ran.frame[VXLAN - 14..], protocol);
                let seen = asked.between((node, port), (far, 8080));
                assert_eq!(ran.frame[VXLAN..], seen.hops_less(1).packet());
                let answer = vxlan(PEER, BOB_LABEL, &seen.back().packet());
                let ran = bed.fabric(&answer);
                assert_eq!(ran.outcome, outward(&bed), "{protocol}");
                assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
            }
            // On this node.
            let asked = asked.between((world, 5001), (node, 30_080));
            bed.datapath.set_service(&node_port(node, protocol, (alice, 8080))).unwrap();
            for _ in 0..2 {
                let ran = arrives(&bed, &asked.packet());
                assert_eq!(ran.outcome, bed.delivered(bed.alice));
                let port = lent(&ran.frame, protocol);
                let seen = asked.between((node, port), (alice, 8080));
                assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
                let ran = alice_sends(&bed, &seen.back());
                assert_eq!(ran.outcome, outward(&bed));
                assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
            }
        }
    }
    // The client is no process of the host: it does not pass where policy is against it.
    bed.set_policy(2, &only(vec![], vec![]));
    bed.judge_alice_by(2);
    let asked = whole(TCP, (WORLD, 5002), (NODE, 30_080)).packet();
    assert_eq!(arrives(&bed, &asked).outcome, dropped(R::PolicyDeny));
}

#[test]
fn a_workload_reaches_node_ports_as_well() {
    const VXLAN: usize = 14 + 20 + 8 + 8 + 14;
    let mut bed = with_node_ports();
    for (_, node, alice, far) in families() {
        let asked = whole(TCP, (alice, 1000), (node, 30_080));
        let seen = asked.between((alice, 1000), (far, 8080));
        // Before, and on other ports, the address is the host's.
        let other = whole(TCP, (alice, 1000), (node, 30_081));
        assert_eq!(alice_sends(&bed, &other).outcome, bed.delivered(bed.bob));
        bed.datapath.set_service(&node_port(node, TCP, (far, 8080))).unwrap();
        for _ in 0..2 {
            let ran = alice_sends(&bed, &asked);
            assert_eq!(ran.outcome, bed.tunnel_out());
            assert_eq!(ran.frame[VXLAN..], seen.hops_less(1).packet());
            let ran = bed.fabric(&vxlan(PEER, ALICE_LABEL, &seen.back().packet()));
            assert_eq!(ran.outcome, bed.delivered(bed.alice));
            assert_eq!(ran.frame[14..], asked.back().packet());
            let prefix = "10.77.0.0/16".parse().unwrap();
            bed.datapath.change_routes(&[RouteChange::Remove { vrf: VRF, prefix }]).unwrap();
        }
    }
}

#[test]
fn clients_outside_are_told_why_not() {
    let mut bed = with_node_ports();
    let sources = vec!["203.0.113.0/24".parse().unwrap()];
    let one = Service { sources, ..node_port(NODE.into(), TCP, (FAR.into(), 8080)) };
    bed.datapath.set_service(&one).unwrap();
    assert_eq!(bed.datapath.services().unwrap(), vec![one.clone()]);
    let asked = |from: [u8; 4]| whole(TCP, (Ipv4Addr::from(from), 5000), (NODE, 30_080));
    assert_eq!(
        arrives(&bed, &asked([198, 51, 100, 1]).packet()).outcome,
        dropped(R::ServiceSource)
    );
    assert_eq!(arrives(&bed, &asked([203, 0, 113, 1]).packet()).outcome, bed.tunnel_out());
    // What does not fit the tunnel, and what nobody takes.
    let large = Whole { size: 1440, ..asked([203, 0, 113, 2]) };
    let told = |packet: &Whole, code| {
        let bytes = packet.packet();
        let ran = arrives(&bed, &bytes);
        assert_eq!(ran.outcome, outward(&bed));
        let reply = &ran.frame[14..];
        assert_eq!((address4(reply, 12), address4(reply, 16)), (NODE.into(), packet.source));
        assert_eq!((reply[20], reply[21]), (3, code));
        assert_eq!(checksum(&[&reply[20..]]), 0);
        let quoted = &reply[28..];
        assert_eq!(quoted, &bytes[..quoted.len()]);
    };
    told(&large, 4);
    bed.datapath.set_service(&Service { members: vec![], ..one.clone() }).unwrap();
    let told = |packet: &Whole| {
        let ran = arrives(&bed, &packet.packet());
        assert_eq!((ran.outcome, ran.frame[35]), (outward(&bed), 3));
    };
    told(&asked([203, 0, 113, 3]));
    let drops = bed.datapath.drops().unwrap();
    for reason in [R::TooBig, R::NoMembers, R::ServiceSource] {
        assert!(drops.contains(&(reason, 1)), "{drops:?}");
    }
    // Without the service the port is the host's again.
    assert!(bed.datapath.remove_service(&one.at).unwrap());
    assert_eq!(arrives(&bed, &asked([203, 0, 113, 4]).packet()).outcome, Outcome::Host);
}
