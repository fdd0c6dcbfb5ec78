//! Ports of nodes from inside: for workloads, at any node's address, and for the node's own stack.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by panicking"
)]

mod bed;
use bed::whole::{Whole, whole};
use bed::*;
use skein_datapath::{DropReason as R, *};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const SERVICES: u32 = 2;
const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// Another address of the node.
const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
const PORT: u16 = 30_080;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const VXLAN: usize = 14 + 20 + 8 + 8 + 14;

/// Bob plays the node's own stack; PEER is another node.
fn nodes() -> Bed {
    let mut bed = Bed::new();
    let outside = NextHop::Outside { uplink: bed.uplink, gateway: None, mtu: MTU };
    bed.datapath.set_next_hop(30, &outside).unwrap();
    let vif = Vif { host: true, gateway4: None, gateway6: None, ..bed.vif(bed.bob) };
    bed.datapath.set_vif(&vif).unwrap();
    let node = NodeAddress {
        address4: Some(NODE),
        address6: Some(NODE6),
        next_hop4: 30,
        next_hop6: 30,
        host: Some(bed.bob),
        ..NodeAddress::default()
    };
    bed.datapath.set_node_address(&node).unwrap();
    let owners: BTreeMap<IpAddr, AddressOwner> = [
        (NODE.into(), AddressOwner::This),
        (NODE6.into(), AddressOwner::This),
        (SECOND.into(), AddressOwner::This),
        (PEER.into(), AddressOwner::Other),
        (PEER6.into(), AddressOwner::Other),
    ]
    .into();
    let gone = [(PEER_2.into(), AddressOwner::Other)].into();
    bed.datapath.set_node_addresses(&gone).unwrap();
    bed.datapath.set_node_addresses(&owners).unwrap();
    assert_eq!(bed.datapath.node_addresses().unwrap(), owners);
    let mut changes = vec![];
    for vrf in [VRF, SERVICES] {
        for (prefix, next_hop) in [
            ("10.1.0.2/32", 1),
            ("10.1.0.9/32", 3),
            ("fd01::2/128", 1),
            ("fd01::9/128", 3),
            ("192.0.2.1/32", 2),
            ("2001:db8::1/128", 2),
            ("192.0.2.2/32", 3),
            ("2001:db8::2/128", 3),
        ] {
            let prefix = prefix.parse().unwrap();
            changes.push(RouteChange::Set(Route { vrf, prefix, next_hop, identity: 9 }));
        }
    }
    bed.datapath.change_routes(&changes).unwrap();
    bed
}

fn inside(address: IpAddr, protocol: u8, members: &[(IpAddr, u16)]) -> Service {
    Service {
        at: ServiceKey { vrf: INSIDE, address, protocol, port: PORT },
        member_vrf: SERVICES,
        members: members
            .iter()
            .map(|(address, port)| ServiceMember {
                address: *address,
                port: *port,
                draining: false,
            })
            .collect(),
        affinity: None,
        keep_source: false,
        sources: vec![],
        by_node: false,
        link_local: false,
        open: false,
    }
}

fn frame(source: [u8; 6], packet: &Whole) -> Vec<u8> {
    let packet = packet.packet();
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    ethernet(source, GATEWAY_MAC, kind, &packet)
}

fn alice_sends(bed: &Bed, packet: &Whole) -> Ran {
    bed.alice(&frame(ALICE_MAC, packet))
}

/// The host's stack sends to an address of its own: by `lo`, and from there to its interface.
fn host_sends(bed: &Bed, packet: &Whole) -> Ran {
    let packet = packet.packet();
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let on_lo = ethernet([0; 6], [0; 6], kind, &packet);
    let ran = bed.run(Hook::Loopback, bed.bob, &on_lo);
    if ran.outcome == Outcome::Host {
        assert_eq!(ran.frame, on_lo, "what is the stack's stays as it is");
        return ran;
    }
    assert_eq!(ran.outcome, bed.delivered(bed.bob));
    bed.run(Hook::Workload, bed.bob, &ran.frame)
}

/// The host's stack sends by its interface to the fabric.
fn host_sends_out(bed: &Bed, packet: &Whole) -> Ran {
    bed.run(Hook::Workload, bed.bob, &frame(BOB_MAC, packet))
}

fn lent(packet: &[u8]) -> u16 {
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

#[test]
fn a_workload_reaches_the_ports_of_every_node() {
    let mut bed = nodes();
    for protocol in [TCP, UDP, SCTP] {
        for (any, alice, far, addresses) in [
            (ANY4, IpAddr::from(ALICE), IpAddr::from(FAR), [NODE.into(), PEER.into()]),
            (ANY6, ALICE6.into(), FAR6.into(), [IpAddr::from(NODE6), PEER6.into()]),
        ] {
            bed.datapath.set_service(&inside(any, protocol, &[(far, 8080)])).unwrap();
            for (address, here) in addresses.into_iter().zip([true, false]) {
                let asked = whole(protocol, (alice, 1000 + u16::from(here)), (address, PORT));
                let seen = asked.between((alice, asked.ports.0), (far, 8080));
                for _ in 0..2 {
                    let ran = alice_sends(&bed, &asked);
                    assert_eq!(ran.outcome, bed.tunnel_out());
                    assert_eq!(ran.frame[VXLAN..], seen.hops_less(1).packet());
                    let ran = bed.fabric(&vxlan(PEER, ALICE_LABEL, &seen.back().packet()));
                    assert_eq!(ran.outcome, bed.delivered(bed.alice));
                    assert_eq!(ran.frame[14..], asked.back().packet());
                }
                // Another port is the node's.
                let other = whole(protocol, (alice, 1000), (address, PORT + 1));
                let to = if here { bed.delivered(bed.bob) } else { bed.tunnel_out() };
                assert_eq!(alice_sends(&bed, &other).outcome, to);
            }
            // An address that is no node's has no node ports.
            let stranger = if any == ANY4 { FAR.into() } else { IpAddr::from(FAR6) };
            let ran = alice_sends(&bed, &whole(protocol, (alice, 1005), (stranger, PORT)));
            assert_eq!(ran.outcome, bed.tunnel_out());
            assert_eq!(ran.frame[VXLAN..][16..20] == [10, 1, 0, 9], any == ANY4);
        }
    }
}

#[test]
fn members_of_one_node_are_met_at_its_address_only() {
    let mut bed = nodes();
    let all = [(ALICE.into(), 8080), (FAR.into(), 8080)];
    bed.datapath.set_service(&Service { by_node: true, ..inside(ANY4, TCP, &all) }).unwrap();
    // The other node has none, and its stack is asked.
    let asked = whole(TCP, (ALICE, 1), (PEER, PORT)).kind(SYN);
    let ran = alice_sends(&bed, &asked);
    assert_eq!(ran.outcome, bed.tunnel_out());
    assert_eq!(ran.frame[VXLAN..], asked.hops_less(1).packet());
    let question = Question {
        ifindex: bed.alice,
        direction: EGRESS,
        local: ALICE.into(),
        remote: NODE.into(),
        protocol: TCP,
        source_port: 1,
        destination_port: PORT,
    };
    assert!(bed.datapath.trace(&question).unwrap().member.is_some());
    let at_peer = Question { remote: PEER.into(), ..question };
    assert_eq!(bed.datapath.trace(&at_peer).unwrap().member, None);
    bed.datapath.set_service(&inside(PEER.into(), TCP, &[(FAR.into(), 8080)])).unwrap();
    for port in 10..30 {
        let ran = alice_sends(&bed, &whole(TCP, (ALICE, port), (PEER, PORT)).kind(SYN));
        assert_eq!(ran.outcome, bed.tunnel_out());
        assert_eq!(address4(&ran.frame, VXLAN + 16), IpAddr::from(FAR));
    }
    assert_eq!(bed.datapath.trace(&at_peer).unwrap().member, Some((FAR.into(), 8080)));
    // At its own node, all: kube-proxy does not keep a node's clients to members of that node.
    let mut met = [0; 2];
    for port in 30..60 {
        let ran = alice_sends(&bed, &whole(TCP, (ALICE, port), (NODE, PORT)).kind(SYN));
        met[usize::from(ran.outcome == bed.tunnel_out())] += 1;
    }
    assert!(met.iter().all(|count| *count > 0), "{met:?}");
}

#[test]
fn the_nodes_own_stack_reaches_its_own_ports() {
    let mut bed = nodes();
    for protocol in [TCP, UDP, SCTP] {
        for (any, node, alice, far) in [
            (ANY4, IpAddr::from(NODE), IpAddr::from(ALICE), IpAddr::from(FAR)),
            (ANY6, NODE6.into(), ALICE6.into(), FAR6.into()),
        ] {
            // Nobody's port: the stack's own.
            let asked = whole(protocol, (node, 5000), (node, PORT));
            assert_eq!(host_sends(&bed, &asked).outcome, Outcome::Host);
            for (member, port) in [(alice, 5001), (far, 5002)] {
                bed.datapath.set_service(&inside(any, protocol, &[(member, 8080)])).unwrap();
                let asked = whole(protocol, (node, port), (node, PORT));
                let seen = asked.between((node, port), (member, 8080));
                for _ in 0..2 {
                    let ran = host_sends(&bed, &asked);
                    let answer = if member == alice {
                        assert_eq!(ran.outcome, bed.delivered(bed.alice), "{protocol}");
                        assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
                        alice_sends(&bed, &seen.back())
                    } else {
                        assert_eq!(ran.outcome, bed.tunnel_out());
                        assert_eq!(ran.frame[VXLAN..], seen.hops_less(1).packet());
                        bed.fabric(&vxlan(PEER, BOB_LABEL, &seen.back().packet()))
                    };
                    assert_eq!(answer.outcome, bed.delivered(bed.bob));
                    let hops = u8::from(member == alice);
                    assert_eq!(answer.frame[14..], asked.back().hops_less(hops).packet());
                }
            }
            bed.datapath.remove_service(&inside(any, protocol, &[]).at).unwrap();
        }
    }
}

#[test]
fn other_addresses_of_the_node_borrow_the_one_the_fabric_knows() {
    let mut bed = nodes();
    let local = Ipv4Addr::LOCALHOST;
    for protocol in [TCP, UDP, SCTP] {
        bed.datapath.set_service(&inside(ANY4, protocol, &[(ALICE.into(), 8080)])).unwrap();
        for (source, to) in [(local, local), (SECOND, SECOND), (NODE, SECOND)] {
            let asked = whole(protocol, (source, 6000), (to, PORT));
            let mut ports = vec![];
            for _ in 0..2 {
                let ran = host_sends(&bed, &asked);
                assert_eq!(ran.outcome, bed.delivered(bed.alice), "{source} {to}");
                let port = lent(&ran.frame[14..]);
                ports.push(port);
                let seen = asked.between((NODE, port), (ALICE, 8080));
                assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
                let ran = alice_sends(&bed, &seen.back());
                assert_eq!(ran.outcome, bed.delivered(bed.bob));
                assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
                // A change of routes makes every entry be looked at again.
                let far = Route {
                    vrf: VRF,
                    prefix: "10.77.0.0/16".parse().unwrap(),
                    next_hop: 3,
                    identity: 1,
                };
                bed.datapath.change_routes(&[RouteChange::Set(far)]).unwrap();
            }
            assert_eq!(ports[0], ports[1], "a connection keeps its port");
            let kept = if source == NODE { 6000..=6000 } else { 56_000..=58_047 };
            assert!(kept.contains(&ports[0]), "{source}: {}", ports[0]);
        }
    }
    // Nobody else may say so.
    let forged =
        ethernet(GATEWAY_MAC, GATEWAY_MAC, 0x0800, &whole(TCP, (local, 1), (local, PORT)).packet());
    assert_eq!(bed.alice(&forged).outcome, dropped(R::SourceMac));
    let ran = alice_sends(&bed, &whole(TCP, (ALICE, 1), (local, PORT)));
    assert_eq!(ran.outcome, dropped(R::Martian));
}

/// The network leads 10.96.0.0/16 to services; one address of it.
fn cluster_addresses(bed: &mut Bed) -> Ipv4Addr {
    bed.datapath.set_next_hop(20, &NextHop::Service { vrf: SERVICES }).unwrap();
    let prefix = "10.96.0.0/16".parse().unwrap();
    let route = Route { vrf: VRF, prefix, next_hop: 20, identity: 1 };
    bed.datapath.change_routes(&[RouteChange::Set(route)]).unwrap();
    [10, 96, 0, 1].into()
}

#[test]
fn masqueraded_connections_of_the_node_come_from_the_address_the_fabric_knows() {
    let mut bed = nodes();
    let vip = cluster_addresses(&mut bed);
    for protocol in [TCP, UDP, SCTP] {
        let service = inside(vip.into(), protocol, &[(ALICE.into(), 8080)]);
        let at = ServiceKey { vrf: SERVICES, ..service.at };
        bed.datapath.set_service(&Service { at, ..service }).unwrap();
        // To a workload, as kube-proxy has translated it already, and to a service.
        for (port, to) in [(6100, (ALICE, 8080)), (6101, (vip, PORT))] {
            let asked = whole(protocol, (SECOND, port), to);
            for _ in 0..2 {
                let ran = host_sends_out(&bed, &asked);
                assert_eq!(ran.outcome, bed.delivered(bed.alice), "{protocol} {to:?}");
                let lent = lent(&ran.frame[14..]);
                assert!((56_000..=58_047).contains(&lent), "{lent}");
                let seen = asked.between((NODE, lent), (ALICE, 8080));
                assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
                let ran = alice_sends(&bed, &seen.back());
                assert_eq!(ran.outcome, bed.delivered(bed.bob));
                assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
                let far = "10.77.0.0/16".parse().unwrap();
                let far = Route { vrf: VRF, prefix: far, next_hop: 3, identity: 1 };
                bed.datapath.change_routes(&[RouteChange::Set(far)]).unwrap();
            }
        }
        // The member may be the stack itself.
        let own = inside(vip.into(), protocol, &[(NODE.into(), 8080)]);
        let at = ServiceKey { vrf: SERVICES, port: PORT + 1, ..own.at };
        bed.datapath.set_service(&Service { at, ..own }).unwrap();
        let asked = whole(protocol, (SECOND, 6102), (vip, PORT + 1));
        let seen = asked.between((vip, 6102), (NODE, 8080));
        assert_eq!(host_sends_out(&bed, &asked).frame[14..], seen.hops_less(1).packet());
        let ran = host_sends_out(&bed, &seen.back());
        assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
    }
    // An address that is not the node's stays out.
    let stranger = whole(TCP, (Ipv4Addr::new(203, 0, 113, 99), 1), (ALICE, 8080));
    assert_eq!(host_sends_out(&bed, &stranger).outcome, dropped(R::SourceAddress));
}

#[test]
fn the_nodes_own_stack_may_be_the_member() {
    let mut bed = nodes();
    let vip = cluster_addresses(&mut bed);
    for protocol in [TCP, UDP, SCTP] {
        let own = [(NODE.into(), 8080)];
        let cluster = inside(vip.into(), protocol, &own);
        let at = ServiceKey { vrf: SERVICES, ..cluster.at };
        bed.datapath.set_service(&Service { at, ..cluster }).unwrap();
        bed.datapath.set_service(&inside(ANY4, protocol, &own)).unwrap();
        let gateway: Ipv4Addr = [169, 254, 1, 1].into();
        for (source, port, to, stands_for) in [
            (NODE, 7000, vip, vip),
            (NODE, 7001, NODE, gateway),
            (Ipv4Addr::LOCALHOST, 7002, Ipv4Addr::LOCALHOST, gateway),
        ] {
            let asked = whole(protocol, (source, port), (to, PORT));
            let seen = asked.between((stands_for, port), (NODE, 8080));
            for _ in 0..2 {
                let ran =
                    if to == vip { host_sends_out(&bed, &asked) } else { host_sends(&bed, &asked) };
                assert_eq!(ran.outcome, bed.delivered(bed.bob), "{to}");
                assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
                let ran = host_sends_out(&bed, &seen.back());
                assert_eq!(ran.outcome, bed.delivered(bed.bob), "answer from {to}");
                assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
                let far = Route {
                    vrf: VRF,
                    prefix: "10.77.0.0/16".parse().unwrap(),
                    next_hop: 3,
                    identity: 1,
                };
                bed.datapath.change_routes(&[RouteChange::Set(far)]).unwrap();
            }
        }
        // A workload's member of the same service: the stack of its node.
        let asked = whole(protocol, (ALICE, 7003), (vip, PORT));
        let ran = alice_sends(&bed, &asked);
        assert_eq!(ran.outcome, bed.delivered(bed.bob));
        let seen = asked.between((ALICE, 7003), (NODE, 8080));
        assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
    }
}

#[test]
fn at_the_uplink_all_addresses_of_the_node_answer_and_no_others() {
    let mut bed = nodes();
    let at = ServiceKey { vrf: OUTSIDE, address: ANY4, protocol: TCP, port: PORT };
    let members = inside(ANY4, TCP, &[(ALICE.into(), 8080)]);
    bed.datapath.set_service(&Service { at, keep_source: true, ..members }).unwrap();
    let world: Ipv4Addr = [198, 51, 100, 1].into();
    for (port, (address, expected)) in (5000..).zip([
        (NODE, bed.delivered(bed.alice)),
        (SECOND, bed.delivered(bed.alice)),
        (PEER, Outcome::Host),
        (Ipv4Addr::new(203, 0, 113, 99), Outcome::Host),
    ]) {
        let asked = whole(TCP, (world, port), (address, PORT));
        let ran = bed.fabric(&ethernet([4; 6], [2; 6], 0x0800, &asked.packet()));
        assert_eq!(ran.outcome, expected, "{address}");
        if expected != Outcome::Host {
            let seen = asked.between((world, port), (ALICE, 8080));
            let ran = alice_sends(&bed, &seen.back());
            assert_eq!(ran.outcome, Outcome::Outside { uplink: bed.uplink });
            assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
        }
    }
}

#[test]
fn source_ranges_hold_inside_too_but_not_for_the_node() {
    let mut bed = nodes();
    bed.datapath.set_next_hop(20, &NextHop::Service { vrf: SERVICES }).unwrap();
    let balanced: Ipv4Addr = [203, 0, 113, 80].into();
    let prefix = "203.0.113.80/32".parse().unwrap();
    let route = Route { vrf: VRF, prefix, next_hop: 20, identity: 1 };
    bed.datapath.change_routes(&[RouteChange::Set(route)]).unwrap();
    let one = inside(balanced.into(), TCP, &[(FAR.into(), 8080)]);
    let at = ServiceKey { vrf: SERVICES, ..one.at };
    let one = Service { at, sources: vec!["198.51.100.0/24".parse().unwrap()], ..one };
    bed.datapath.set_service(&one).unwrap();
    let asked = whole(TCP, (ALICE, 1), (balanced, PORT));
    assert_eq!(alice_sends(&bed, &asked).outcome, dropped(R::ServiceSource));
    let asked = whole(TCP, (NODE, 1), (balanced, PORT));
    assert_eq!(host_sends_out(&bed, &asked).outcome, bed.tunnel_out());
    let sources = vec!["10.1.0.0/24".parse().unwrap()];
    bed.datapath.set_service(&Service { sources, ..one.clone() }).unwrap();
    let asked = whole(TCP, (ALICE, 2), (balanced, PORT));
    assert_eq!(alice_sends(&bed, &asked).outcome, bed.tunnel_out());
    // Who has the service in its VRF goes by it, whatever is at the uplink: there may be no member of this node.
    let at = ServiceKey { vrf: OUTSIDE, ..one.at };
    bed.datapath.set_service(&Service { at, members: vec![], sources: vec![], ..one }).unwrap();
    let asked = whole(TCP, (ALICE, 3), (balanced, PORT));
    assert_eq!(alice_sends(&bed, &asked).outcome, bed.tunnel_out());
}

#[test]
fn a_client_outside_reaches_the_nodes_own_stack() {
    let mut bed = nodes();
    let worlds: [Ipv4Addr; 2] = [[198, 51, 100, 1].into(), [198, 51, 100, 2].into()];
    let gateway: Ipv4Addr = [169, 254, 1, 1].into();
    for keep_source in [false, true] {
        let mut stood_in = vec![];
        for world in worlds {
            for protocol in [TCP, UDP, SCTP] {
                let one = inside(ANY4, protocol, &[(NODE.into(), 8080)]);
                let at = ServiceKey { vrf: OUTSIDE, ..one.at };
                bed.datapath.set_service(&Service { at, keep_source, ..one }).unwrap();
                let from = 5000 + u16::from(keep_source);
                let asked = whole(protocol, (world, from), (NODE, PORT));
                for _ in 0..2 {
                    let ran = bed.fabric(&ethernet([4; 6], [2; 6], 0x0800, &asked.packet()));
                    assert_eq!(ran.outcome, bed.delivered(bed.bob));
                    let port = lent(&ran.frame[14..]);
                    stood_in.push((protocol, port));
                    let seen = asked.between((gateway, port), (NODE, 8080));
                    assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
                    let ran = host_sends_out(&bed, &seen.back());
                    assert_eq!(ran.outcome, Outcome::Outside { uplink: bed.uplink });
                    assert_eq!(ran.frame[14..], asked.back().hops_less(1).packet());
                }
            }
        }
        stood_in.sort_unstable();
        stood_in.dedup();
        assert_eq!(stood_in.len(), 6, "clients are kept apart, and keep their ports");
    }
}
