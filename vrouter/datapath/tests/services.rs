//! Services: picking a member, translating there and back, and what happens when members come and go.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::balanced::*;
use bed::whole::{Whole, whole};
use bed::*;
use skein_datapath::{DropReason as R, *};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

#[test]
fn a_member_behind_a_tunnel_gets_the_packet_and_its_answer_comes_from_the_service() {
    let mut bed = with_services();
    for protocol in [TCP, UDP, SCTP] {
        for (alice, web, far) in [
            (IpAddr::from(ALICE), IpAddr::from(WEB), IpAddr::from(FAR)),
            (ALICE6.into(), WEB6.into(), FAR6.into()),
        ] {
            let one = service(key(web, protocol, 80), vec![member(far, 8080)]);
            bed.datapath.set_service(&one).unwrap();
            for size in [0, 20, 333, 1300] {
                let asked = Whole { size, ..whole(protocol, (alice, 1000), (web, 80)) };
                let seen = asked.between((alice, 1000), (far, 8080));
                let ran = alice_sends(&bed, &asked);
                assert_eq!(ran.outcome, bed.tunnel_out());
                assert_eq!(ran.frame[VXLAN..], seen.hops_less(1).packet(), "{asked:?}");
                let ran = far_sends(&bed, &seen.back());
                assert_eq!(ran.outcome, bed.delivered(bed.alice));
                assert_eq!(ran.frame[14..], asked.back().packet(), "{asked:?}");
            }
        }
    }
    let flows = bed.datapath.flows(FlowFilter::default()).unwrap();
    assert_eq!(flows.len(), 6, "each shows once");
    for flow in &flows {
        assert_eq!((flow.remote_port, flow.packets_out, flow.packets_in), (80, 4, 4));
        let translated = flow.translated.unwrap();
        assert_eq!((translated.local, translated.local_port), (flow.local, 1000));
        assert_eq!(translated.remote_port, 8080);
    }
    let counters = bed.datapath.vif_counters(ALICE_ID).unwrap();
    assert_eq!(counters.flows, 12, "both entries count");
    // They end together.
    let soon = Timeouts { idle: Duration::ZERO, ..Timeouts::default() };
    std::thread::sleep(Duration::from_millis(20));
    let swept = bed.datapath.sweep(&soon).unwrap();
    assert_eq!((swept.live, swept.removed), (0, 12));
    assert_eq!(bed.datapath.vif_counters(ALICE_ID).unwrap().flows, 0);
}

#[test]
fn a_udp_packet_without_checksum_stays_without() {
    let mut bed = with_services();
    let one = service(key(WEB, UDP, 53), vec![member(FAR, 5353)]);
    bed.datapath.set_service(&one).unwrap();
    let asked = Whole { unchecked: true, ..whole(UDP, (ALICE, 1000), (WEB, 53)) };
    let seen = asked.between((ALICE, 1000), (FAR, 5353));
    assert_eq!(alice_sends(&bed, &asked).frame[VXLAN..], seen.hops_less(1).packet());
    assert_eq!(far_sends(&bed, &seen.back()).frame[14..], asked.back().packet());
}

#[test]
fn a_member_of_this_node_is_met_in_the_services_vrf() {
    let mut bed = with_services();
    for (alice, web, bob) in [
        (IpAddr::from(ALICE), IpAddr::from(WEB), IpAddr::from(BOB)),
        (ALICE6.into(), WEB6.into(), BOB6.into()),
    ] {
        let one = service(key(web, TCP, 80), vec![member(bob, 8080)]);
        bed.datapath.set_service(&one).unwrap();
        let asked = whole(TCP, (alice, 1000), (web, 80)).kind(SYN);
        let seen = asked.between((alice, 1000), (bob, 8080));
        let ran = alice_sends(&bed, &asked);
        assert_eq!(ran.outcome, bed.delivered(bed.bob));
        assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
        // Bob's own VRF has no route to Alice any more: he answers by the context's.
        let prefix = "10.1.0.2/32".parse().unwrap();
        let moved = RouteChange::Set(Route { vrf: VRF, prefix, next_hop: 1, identity: 1001 });
        bed.datapath.change_routes(&[moved]).unwrap();
        let ran = bob_sends(&bed, &seen.back().kind(SYN | ACK));
        assert_eq!(ran.outcome, bed.delivered(bed.alice));
        assert_eq!(ran.frame[14..], asked.back().kind(SYN | ACK).hops_less(1).packet());
    }
    let filter = FlowFilter { vif: Some(BOB_ID), limit: 0 };
    let flows = bed.datapath.flows(filter).unwrap();
    assert!(flows.iter().all(|flow| flow.context == BOB_CONTEXT && flow.translated.is_none()));
    // A tunnel packet with the context's label goes the same way; without a context it goes nowhere.
    let seen = whole(UDP, (FAR, 1000), (BOB, 8080)).packet();
    let ran = bed.fabric(&vxlan(PEER, BOB_CONTEXT_LABEL, &seen));
    assert_eq!(ran.outcome, bed.delivered(bed.bob));
    bed.datapath.remove_context(BOB_CONTEXT).unwrap();
    let seen = whole(UDP, (FAR, 1001), (BOB, 8080)).packet();
    let ran = bed.fabric(&vxlan(PEER, BOB_CONTEXT_LABEL, &seen));
    assert_eq!(ran.outcome, dropped(R::UnknownContext));
}

#[test]
fn a_service_without_members_and_a_port_without_service_are_refused_by_icmp() {
    let mut bed = with_services();
    let answer = |reason| Outcome::ToWorkload { ifindex: bed.alice, answer_to: Some(reason) };
    for protocol in [TCP, UDP] {
        for (reason, port) in [(R::NoMembers, 80), (R::ServicePort, 81)] {
            let expected = answer(reason);
            bed.datapath.set_service(&service(key(WEB, protocol, 80), vec![])).unwrap();
            bed.datapath.set_service(&service(key(WEB6, protocol, 80), vec![])).unwrap();
            let asked = whole(protocol, (ALICE, 1000), (WEB, port)).packet();
            let ran = bed.alice(&from_alice(&asked));
            assert_eq!(ran.outcome, expected);
            let reply = &ran.frame[14..];
            assert_eq!((address4(reply, 12), address4(reply, 16)), (WEB.into(), ALICE.into()));
            assert_eq!((reply[9], reply[20], reply[21]), (1, 3, 3));
            assert_eq!(checksum(&[&reply[20..]]), 0);
            assert_eq!(reply[28..], asked[..], "the packet is quoted as it was sent");
            let asked = whole(protocol, (ALICE6, 1000), (WEB6, port)).packet();
            let ran = bed.alice(&from_alice(&asked));
            assert_eq!(ran.outcome, expected);
            let reply = &ran.frame[14..];
            assert_eq!((reply[40], reply[41]), (1, 4));
            assert_eq!(checksum6(WEB6, ALICE6, &reply[40..]), 0);
        }
    }
    // Ping means no service.
    let ping = whole(1, (ALICE, 7), (WEB, 7)).kind(8);
    assert_eq!(alice_sends(&bed, &ping).outcome, answer(R::ServicePort));
    assert!(bed.datapath.flows(FlowFilter::default()).unwrap().is_empty());
}

/// The member each client port gets.
fn picks(bed: &Bed, protocol: u8, ports: std::ops::Range<u16>) -> BTreeMap<u16, (IpAddr, u16)> {
    ports
        .map(|port| {
            let ran = alice_sends(bed, &whole(protocol, (ALICE, port), (WEB, 80)));
            assert_eq!(ran.outcome, bed.tunnel_out(), "port {port}");
            let inner = &ran.frame[VXLAN..];
            (port, (address4(inner, 16), u16::from_be_bytes([inner[22], inner[23]])))
        })
        .collect()
}

#[test]
fn members_share_clients_and_few_move_when_one_goes() {
    let mut bed = with_services();
    let vif = Vif { flow_quota: 100_000, ..bed.vif(bed.alice) };
    let all = many(10);
    bed.datapath.set_service(&service(key(WEB, UDP, 80), all.clone())).unwrap();
    bed.datapath.set_vif(&vif).unwrap();
    let before = picks(&bed, UDP, 1000..1500);
    for one in &all {
        let share = before.values().filter(|pick| pick.0 == one.address).count();
        assert!((25..80).contains(&share), "{} has {share} of 500", one.address);
        assert!(
            before.values().all(|(address, port)| *address != one.address || *port == one.port)
        );
    }
    // Established flows stay with a member that drains, new ones avoid it.
    let mut changed = all.clone();
    changed[3].draining = true;
    bed.datapath.set_service(&service(key(WEB, UDP, 80), changed.clone())).unwrap();
    assert_eq!(picks(&bed, UDP, 1000..1500), before);
    let fresh = picks(&bed, UDP, 2000..2200);
    assert!(fresh.values().all(|pick| pick.0 != changed[3].address));
    let listed = bed.datapath.services().unwrap();
    assert_eq!((listed.len(), listed[0].members.len()), (1, 10));
    assert!(listed[0].members.contains(&changed[3]));
    // Draining ones alone still take new connections.
    let last = ServiceMember { draining: true, ..changed[0] };
    let one = service(key(WEB, UDP, 90), vec![last]);
    bed.datapath.set_service(&one).unwrap();
    let ran = alice_sends(&bed, &whole(UDP, (ALICE, 5), (WEB, 90)));
    assert_eq!(ran.outcome, bed.tunnel_out());
    assert!(bed.datapath.services().unwrap().contains(&one));
    bed.datapath.remove_service(&one.at).unwrap();
    // Gone: its UDP flows move, the others do not.
    changed.remove(3);
    bed.datapath.set_service(&service(key(WEB, UDP, 80), changed)).unwrap();
    let after = picks(&bed, UDP, 1000..1500);
    for (port, pick) in &before {
        if pick.0 == all[3].address {
            assert_ne!(after[port].0, all[3].address);
        } else {
            assert_eq!(&after[port], pick);
        }
    }
    // Without any flow: how many clients would move when one of ten comes back?
    bed.datapath.remove_vif(bed.alice).unwrap();
    bed.datapath.set_vif(&vif).unwrap();
    let nine = picks(&bed, UDP, 1000..1500);
    bed.datapath.set_service(&service(key(WEB, UDP, 80), all)).unwrap();
    bed.datapath.remove_vif(bed.alice).unwrap();
    bed.datapath.set_vif(&vif).unwrap();
    let ten = picks(&bed, UDP, 1000..1500);
    let moved = nine.iter().filter(|(port, pick)| ten[port] != **pick).count();
    assert!((20..100).contains(&moved), "{moved} of 500 moved");
}

#[test]
fn tcp_stays_with_a_member_that_takes_no_new_connections_while_it_is_routed() {
    let mut bed = with_services();
    let at = key(WEB, TCP, 80);
    let [first, second] = [member(FAR, 8080), member(Ipv4Addr::new(10, 2, 0, 7), 8080)];
    bed.datapath.set_service(&service(at, vec![first])).unwrap();
    let asked = whole(TCP, (ALICE, 1000), (WEB, 80));
    let to = |member: ServiceMember| asked.between((ALICE, 1000), (member.address, 8080));
    assert_eq!(alice_sends(&bed, &asked.kind(SYN)).outcome, bed.tunnel_out());
    let answer = to(first).back().kind(SYN | ACK);
    assert_eq!(far_sends(&bed, &answer).outcome, bed.delivered(bed.alice));
    bed.datapath.set_service(&service(at, vec![second])).unwrap();
    for _ in 0..2 {
        let ran = alice_sends(&bed, &asked);
        assert_eq!(ran.frame[VXLAN..], to(first).hops_less(1).packet());
        let ran = far_sends(&bed, &to(first).back());
        assert_eq!(ran.frame[14..], asked.back().packet());
    }
    let ran = alice_sends(&bed, &asked.kind(SYN));
    assert_eq!(ran.frame[VXLAN..], to(second).kind(SYN).hops_less(1).packet());
    assert_eq!(bed.datapath.vif_counters(ALICE_ID).unwrap().flows, 2, "the old pair made room");
    // The service goes altogether: so do new connections.
    assert!(bed.datapath.remove_service(&at).unwrap());
    assert_eq!(alice_sends(&bed, &asked).outcome, bed.tunnel_out());
    assert!(matches!(
        alice_sends(&bed, &asked.kind(SYN)).outcome,
        Outcome::ToWorkload { answer_to: Some(R::ServicePort), .. }
    ));
}

#[test]
fn affinity_keeps_a_client_with_its_member_while_it_is_there() {
    let mut bed = with_services();
    let sticky = |members| Service {
        affinity: Some(Duration::from_secs(60)),
        ..service(key(WEB, UDP, 80), members)
    };
    bed.datapath.set_service(&sticky(many(10))).unwrap();
    let mut taken: Vec<_> = picks(&bed, UDP, 1000..1050).into_values().collect();
    taken.dedup();
    assert_eq!(taken.len(), 1, "{taken:?}");
    let rest: Vec<_> = many(10).into_iter().filter(|m| m.address != taken[0].0).collect();
    bed.datapath.set_service(&sticky(rest)).unwrap();
    let mut next: Vec<_> = picks(&bed, UDP, 1100..1150).into_values().collect();
    next.dedup();
    assert_eq!(next.len(), 1);
    assert_ne!(next, taken);
    // It comes back: the client stays where it is now.
    bed.datapath.set_service(&sticky(many(10))).unwrap();
    assert!(picks(&bed, UDP, 1200..1250).into_values().all(|pick| pick == next[0]));
}

#[test]
fn affinity_takes_another_port_and_no_other_member() {
    let mut bed = with_services();
    let sticky =
        Service { affinity: Some(Duration::from_secs(60)), ..service(key(WEB, UDP, 80), many(10)) };
    bed.datapath.set_service(&sticky).unwrap();
    let (IpAddr::V4(member), there) = picks(&bed, UDP, 1000..1001)[&1000] else { panic!() };
    // Straight to the member from a port that the service's client uses next.
    let straight = whole(UDP, (ALICE, 1001), (member.octets(), there));
    assert_eq!(alice_sends(&bed, &straight).outcome, bed.tunnel_out());
    let asked = whole(UDP, (ALICE, 1001), (WEB, 80));
    let ran = alice_sends(&bed, &asked);
    assert_eq!(ran.outcome, bed.tunnel_out());
    let inner = &ran.frame[VXLAN..];
    let from = port(inner, 20);
    assert_ne!(from, 1001);
    let seen = asked.between((ALICE, from), (member.octets(), there));
    assert_eq!(inner, seen.hops_less(1).packet());
    assert_eq!(far_sends(&bed, &seen.back()).frame[14..], asked.back().packet());
    let later: Vec<_> = picks(&bed, UDP, 1100..1150).into_values().collect();
    assert!(later.iter().all(|pick| *pick == (member.into(), there)), "{later:?}");
}

#[test]
fn what_would_look_like_another_connection_takes_the_next_member_or_another_port() {
    let mut bed = with_services();
    let at = key(WEB, UDP, 80);
    let to = |n: u8| whole(UDP, (ALICE, 1000), ([10, 2, 0, n], 8000 + u16::from(n)));
    bed.datapath.set_service(&service(at, many(2))).unwrap();
    let asked = whole(UDP, (ALICE, 1000), (WEB, 80));
    let first = picks(&bed, UDP, 1000..1001)[&1000].0;
    // Straight to the member from the same port: the service's flow has these addresses.
    let taken = if first == IpAddr::from([10, 2, 0, 1]) { 1 } else { 2 };
    assert_eq!(alice_sends(&bed, &to(taken)).outcome, dropped(R::TranslationCollision));
    // The other way round.
    bed.datapath.remove_vif(bed.alice).unwrap();
    let vif = bed.vif(bed.alice);
    bed.datapath.set_vif(&vif).unwrap();
    assert_eq!(alice_sends(&bed, &to(taken)).frame[23], UDP);
    let second = picks(&bed, UDP, 1000..1001)[&1000].0;
    assert_ne!(first, second);
    bed.datapath.remove_vif(bed.alice).unwrap();
    bed.datapath.set_vif(&vif).unwrap();
    for n in [1, 2] {
        alice_sends(&bed, &to(n));
    }
    for _ in 0..2 {
        let ran = alice_sends(&bed, &asked);
        assert_eq!(ran.outcome, bed.tunnel_out());
        let inner = &ran.frame[VXLAN..];
        let (from, to) = (port(inner, 20), port(inner, 22));
        assert!(from != 1000 && (8001..=8002).contains(&to), "{from} to {to}");
        let seen = asked.between((ALICE, from), ([10, 2, 0, (to - 8000) as u8], to));
        assert_eq!(inner, seen.hops_less(1).packet());
        assert_eq!(far_sends(&bed, &seen.back()).frame[14..], asked.back().packet());
    }
}

#[test]
fn services_share_the_ports_of_a_client_at_their_member() {
    let mut bed = with_services();
    for number in 80..84 {
        bed.datapath.set_service(&service(key(WEB, TCP, number), many(1))).unwrap();
    }
    let mut seen = vec![];
    for number in 80..84 {
        let asked = whole(TCP, (ALICE, 1000), (WEB, number));
        let ran = alice_sends(&bed, &asked.kind(SYN));
        assert_eq!(ran.outcome, bed.tunnel_out(), "{number}");
        let from = port(&ran.frame[VXLAN..], 20);
        let to = asked.between((ALICE, from), ([10, 2, 0, 1], 8001));
        let ran = far_sends(&bed, &to.back().kind(SYN | ACK));
        assert_eq!(ran.frame[14..], asked.back().kind(SYN | ACK).packet());
        // The first three live on; the last one has ended when the next comes with its port.
        seen.push((asked, to, from));
    }
    let ports: std::collections::BTreeSet<u16> = seen.iter().map(|one| one.2).collect();
    assert_eq!((seen[0].2, ports.len()), (1000, 4), "{ports:?}");
    let flows = |bed: &Bed| bed.datapath.vif_counters(ALICE_ID).unwrap().flows;
    assert_eq!(flows(&bed), 8);
    // The one that has the port ends: the next service's connection takes its place at once.
    alice_sends(&bed, &seen[0].0.kind(RST));
    bed.datapath.set_service(&service(key(WEB, TCP, 90), many(1))).unwrap();
    let asked = whole(TCP, (ALICE, 1000), (WEB, 90));
    let ran = alice_sends(&bed, &asked.kind(SYN));
    let to = asked.between((ALICE, 1000), ([10, 2, 0, 1], 8001));
    assert_eq!(ran.frame[VXLAN..], to.kind(SYN).hops_less(1).packet());
    assert_eq!(flows(&bed), 8, "the old pair made room");
}

fn port(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

#[test]
fn a_client_can_be_its_own_member() {
    let mut bed = with_services();
    for (alice, web) in [(IpAddr::from(ALICE), IpAddr::from(WEB)), (ALICE6.into(), WEB6.into())] {
        let one = service(key(web, TCP, 80), vec![member(alice, 8080)]);
        bed.datapath.set_service(&one).unwrap();
        let asked = whole(TCP, (alice, 1000), (web, 80)).kind(SYN);
        let seen = asked.between((web, 1000), (alice, 8080));
        for _ in 0..2 {
            let ran = alice_sends(&bed, &asked);
            assert_eq!(ran.outcome, bed.delivered(bed.alice));
            assert_eq!(ran.frame[14..], seen.hops_less(1).packet());
            let ran = alice_sends(&bed, &seen.back().kind(SYN | ACK));
            assert_eq!(ran.outcome, bed.delivered(bed.alice));
            assert_eq!(ran.frame[14..], asked.back().kind(SYN | ACK).hops_less(1).packet());
            // Whatever changes in the VRF: it holds.
            bed.datapath
                .change_routes(&[RouteChange::Remove {
                    vrf: VRF,
                    prefix: "10.77.0.0/16".parse().unwrap(),
                }])
                .unwrap();
        }
    }
}

#[test]
fn policy_judges_the_member_and_its_port() {
    let mut bed = with_services();
    bed.datapath.set_service(&service(key(WEB, TCP, 80), vec![member(FAR, 8080)])).unwrap();
    for (number, port, expected) in [
        (2, 80, dropped(R::PolicyDeny)),
        (3, 8080, bed.tunnel_out()),
        (4, 80, dropped(R::PolicyDeny)),
    ] {
        bed.set_policy(number, &only(vec![pass(6, port)], vec![]));
        bed.judge_alice_by(number);
        assert_eq!(alice_sends(&bed, &whole(TCP, (ALICE, 1000), (WEB, 80))).outcome, expected);
    }
    let answer = whole(TCP, (FAR, 8080), (ALICE, 1000));
    assert_eq!(far_sends(&bed, &answer).outcome, dropped(R::PolicyDeny));
    // A context is judged by its own policy.
    bed.datapath.set_service(&service(key(WEB, TCP, 81), vec![member(BOB, 8080)])).unwrap();
    bed.judge_alice_by(ALLOW);
    let context =
        |policy| Context { vrf: SERVICES, policy4: policy, policy6: None, floating: None };
    let asked = whole(TCP, (ALICE, 1000), (WEB, 81)).kind(SYN);
    for (policy, expected) in [
        (Some(ALLOW), bed.delivered(bed.bob)),
        (Some(2), dropped(R::PolicyDeny)),
        (None, dropped(R::NoPolicy)),
        (Some(ALLOW), bed.delivered(bed.bob)),
    ] {
        bed.datapath.set_context(BOB_CONTEXT, &context(policy)).unwrap();
        assert_eq!(alice_sends(&bed, &asked).outcome, expected);
    }
}

#[test]
fn answers_may_come_by_any_context_of_the_client_in_the_services_vrf() {
    let mut bed = with_services();
    // Alice is a member of something herself; and of something else.
    for (id, vrf) in [(6, SERVICES), (7, 9)] {
        let context = Context { vrf, policy4: Some(ALLOW), policy6: Some(ALLOW), floating: None };
        bed.datapath.set_context(id, &context).unwrap();
        bed.datapath.set_label(100 + id, bed.alice, id).unwrap();
    }
    bed.datapath.set_service(&service(key(WEB, TCP, 80), vec![member(FAR, 8080)])).unwrap();
    let asked = whole(TCP, (ALICE, 1000), (WEB, 80));
    let seen = asked.between((ALICE, 1000), (FAR, 8080));
    let direct = whole(TCP, (ALICE, 1001), (FAR, 8080));
    for packet in [&asked, &direct] {
        alice_sends(&bed, &packet.kind(SYN));
    }
    for label in [ALICE_LABEL, 106, ALICE_LABEL, 106] {
        let ran = bed.fabric(&vxlan(PEER, label, &seen.back().packet()));
        assert_eq!(ran.outcome, bed.delivered(bed.alice), "{label}");
        assert_eq!(ran.frame[14..], asked.back().packet());
        // What she opened without a service as well, and she goes on in her own VRF.
        let ran = bed.fabric(&vxlan(PEER, label, &direct.back().packet()));
        assert_eq!(ran.outcome, bed.delivered(bed.alice), "{label}");
        assert_eq!(alice_sends(&bed, &direct).outcome, bed.tunnel_out());
    }
    let flows = bed.datapath.flows(FlowFilter::default()).unwrap();
    assert!(flows.iter().all(|flow| flow.context == 0));
    for packet in [&seen, &direct] {
        let ran = bed.fabric(&vxlan(PEER, 107, &packet.back().packet()));
        let told = [dropped(R::SourceAddress), dropped(R::NotThisPort)];
        assert!(told.contains(&ran.outcome), "another VRF does not know it: {:?}", ran.outcome);
    }
}

#[test]
fn a_service_is_for_those_whose_vrf_has_a_route_to_it() {
    let mut bed = with_services();
    bed.datapath.set_service(&service(key(WEB, UDP, 80), many(1))).unwrap();
    let asked = whole(UDP, (ALICE, 1000), (WEB, 80));
    assert_eq!(alice_sends(&bed, &asked).outcome, bed.tunnel_out());
    let prefix = "10.96.0.0/16".parse().unwrap();
    bed.datapath.change_routes(&[RouteChange::Remove { vrf: VRF, prefix }]).unwrap();
    assert_eq!(alice_sends(&bed, &asked).outcome, dropped(R::NoRoute));
}

#[test]
fn without_port_security_services_work_too() {
    let mut bed = with_services();
    bed.datapath.set_service(&service(key(WEB, UDP, 80), vec![member(FAR, 8080)])).unwrap();
    let vif = Vif { policy: VifPolicy::Disabled, ..bed.vif(bed.alice) };
    bed.datapath.set_vif(&vif).unwrap();
    let asked = whole(UDP, (ALICE, 1000), (WEB, 80));
    let seen = asked.between((ALICE, 1000), (FAR, 8080));
    assert_eq!(alice_sends(&bed, &asked).frame[VXLAN..], seen.hops_less(1).packet());
    assert_eq!(far_sends(&bed, &seen.back()).frame[14..], asked.back().packet());
    // Everything else goes without flows.
    alice_sends(&bed, &whole(UDP, (ALICE, 1), (FAR, 2)));
    far_sends(&bed, &whole(UDP, (FAR, 1), (ALICE, 2)));
    assert_eq!(bed.datapath.flows(FlowFilter::default()).unwrap().len(), 1);
}

/// An ICMP error from `router` about a packet, and what it says.
fn error_about(router: impl Into<IpAddr>, packet: &Whole) -> Vec<u8> {
    let quoted = packet.packet();
    match (router.into(), packet.source) {
        (IpAddr::V4(router), IpAddr::V4(to)) => ip4(router, to).with(1, &icmp(3, 4, 0, &quoted)),
        (IpAddr::V6(router), IpAddr::V6(to)) => {
            let rest = [&[0, 0, 5, 0][..], &quoted].concat();
            ip6(router, to, 64, 58, &icmp6(router, to, 2, &rest))
        }
        _ => panic!("two families"),
    }
}

/// With the quote's transport checksum as `other` has it: a translated quote keeps the one it came with.
fn expect_error(router: impl Into<IpAddr>, packet: &Whole, other: &Whole) -> Vec<u8> {
    let (mut quoted, theirs) = (packet.packet(), other.packet());
    let (at, width) = match packet.protocol {
        6 => (16, 2),
        17 => (6, 2),
        _ => (8, 4),
    };
    let at = at + if packet.source.is_ipv4() { 20 } else { 40 };
    quoted[at..at + width].copy_from_slice(&theirs[at..at + width]);
    match (router.into(), packet.source) {
        (IpAddr::V4(router), IpAddr::V4(to)) => ip4(router, to).with(1, &icmp(3, 4, 0, &quoted)),
        (IpAddr::V6(router), IpAddr::V6(to)) => {
            let rest = [&[0, 0, 5, 0][..], &quoted].concat();
            ip6(router, to, 64, 58, &icmp6(router, to, 2, &rest))
        }
        _ => panic!("two families"),
    }
}

#[test]
fn icmp_errors_about_translated_packets_are_translated_inside_and_out() {
    let mut bed = with_services();
    let router6 = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1);
    let prefix = "fd02::/64".parse().unwrap();
    let route = Route { vrf: SERVICES, prefix, next_hop: 3, identity: 1 };
    bed.datapath.change_routes(&[RouteChange::Set(route)]).unwrap();
    for protocol in [TCP, UDP, SCTP] {
        for (alice, web, far, router) in [
            (IpAddr::from(ALICE), IpAddr::from(WEB), IpAddr::from(FAR), [10, 2, 0, 250].into()),
            (ALICE6.into(), WEB6.into(), FAR6.into(), router6.into()),
        ] {
            let one = service(key(web, protocol, 80), vec![member(far, 8080)]);
            bed.datapath.set_service(&one).unwrap();
            let asked = whole(protocol, (alice, 1000), (web, 80));
            let seen = asked.between((alice, 1000), (far, 8080));
            alice_sends(&bed, &asked);
            // From a router on the way, and from the member.
            for (from, shown) in [(router, router), (far, web)] {
                let ran = bed.fabric(&vxlan(PEER, ALICE_LABEL, &error_about(from, &seen)));
                assert_eq!(ran.outcome, bed.delivered(bed.alice));
                assert_eq!(ran.frame[14..], expect_error(shown, &asked, &seen), "{protocol}");
            }
            // From Alice about an answer.
            let error = error_about(alice, &asked.back());
            let ran = bed.alice(&from_alice(&error));
            assert_eq!(ran.outcome, bed.tunnel_out());
            let mut expected = expect_error(alice, &seen.back(), &asked.back());
            let hops = if alice.is_ipv4() { 8 } else { 7 };
            expected[hops] -= 1;
            if alice.is_ipv4() {
                expected[10..12].fill(0);
                let sum = checksum(&[&expected[..20]]);
                expected[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            assert_eq!(ran.frame[VXLAN..], expected);
        }
    }
}

#[test]
fn fragments_are_translated_alike() {
    let mut bed = with_services();
    bed.datapath.set_service(&service(key(WEB, UDP, 80), vec![member(FAR, 8080)])).unwrap();
    let asked = Whole { size: 56, ..whole(UDP, (ALICE, 1000), (WEB, 80)) };
    let seen = asked.between((ALICE, 1000), (FAR, 8080));
    let parts = |packet: &Whole, source, destination, ttl| {
        let transport = packet.transport();
        let one = |fragment, range: std::ops::Range<usize>| {
            Ip4 { fragment, ttl, id: 9, ..ip4(source, destination) }.with(UDP, &transport[range])
        };
        [one(0x2000, 0..32), one(4, 32..64)]
    };
    let expected = parts(&seen, ALICE, FAR, 63);
    for (part, expected) in parts(&asked, ALICE, WEB, 64).iter().zip(&expected) {
        let ran = bed.alice(&from_alice(part));
        assert_eq!(ran.outcome, bed.tunnel_out());
        assert_eq!(&ran.frame[VXLAN..], expected);
    }
    let expected = parts(&asked.back(), WEB, ALICE, 64);
    for (part, expected) in parts(&seen.back(), FAR, ALICE, 64).iter().zip(&expected) {
        let ran = bed.fabric(&vxlan(PEER, ALICE_LABEL, part));
        assert_eq!(ran.outcome, bed.delivered(bed.alice));
        assert_eq!(&ran.frame[14..], expected);
    }
    // SCTP's checksum is over all fragments.
    bed.datapath.set_service(&service(key(WEB, SCTP, 80), vec![member(FAR, 8080)])).unwrap();
    let transport = whole(SCTP, (ALICE, 1000), (WEB, 80)).transport();
    let first = Ip4 { fragment: 0x2000, ..ip4(ALICE, WEB) }.with(SCTP, &transport);
    assert_eq!(bed.alice(&from_alice(&first)).outcome, dropped(R::NotTranslatable));
}

#[test]
fn the_next_process_finds_services_and_contexts() {
    let mut bed = with_services();
    let one = Service {
        affinity: Some(Duration::from_secs(10)),
        ..service(key(WEB, TCP, 80), vec![member(FAR, 8080), member(BOB, 8081)])
    };
    bed.datapath.set_service(&one).unwrap();
    let mut next = Datapath::open(&Config::new(bed.pin_dir())).unwrap();
    let mut expected = one.clone();
    expected.members.sort_unstable();
    assert_eq!(next.services().unwrap(), vec![expected]);
    assert_eq!(next.contexts().unwrap().len(), 1);
    assert!(next.labels().unwrap().contains(&(BOB_CONTEXT_LABEL, bed.bob, BOB_CONTEXT)));
    let other = Service { at: key(WEB, TCP, 81), ..one };
    next.set_service(&other).unwrap();
    assert_eq!(next.services().unwrap().len(), 2);
    assert!(next.remove_service(&other.at).unwrap());
    assert!(!next.remove_service(&other.at).unwrap());
}

#[test]
fn a_trace_goes_by_the_service() {
    let mut bed = with_services();
    bed.set_policy(2, &only(vec![pass(6, 8080)], vec![]));
    bed.judge_alice_by(2);
    bed.datapath.set_service(&service(key(WEB, TCP, 80), vec![member(FAR, 8080)])).unwrap();
    bed.datapath.set_service(&service(key(WEB, TCP, 81), vec![member(FAR, 8081)])).unwrap();
    bed.datapath.set_service(&service(key(WEB, TCP, 82), vec![])).unwrap();
    let ask = |port| {
        let question = Question {
            ifindex: bed.alice,
            direction: EGRESS,
            local: ALICE.into(),
            remote: WEB.into(),
            protocol: TCP,
            source_port: 999,
            destination_port: port,
        };
        bed.datapath.trace(&question).unwrap()
    };
    let answer = ask(80);
    assert_eq!((answer.dropped, answer.member), (None, Some((FAR.into(), 8080))));
    assert_eq!(answer.identity, Some(1009));
    assert_eq!(ask(81).dropped, Some(R::PolicyDeny));
    assert_eq!(ask(82).dropped, Some(R::NoMembers));
    assert_eq!(ask(83).dropped, Some(R::ServicePort));
}

#[test]
fn what_workloads_ask_an_open_service_passes_their_policy_and_nothing_else_does() {
    let mut bed = with_services();
    // Not a single connection may be opened by Alice.
    bed.set_policy(2, &only(vec![], vec![]));
    bed.judge_alice_by(2);
    let (alice, web, far) = (IpAddr::from(ALICE), IpAddr::from(WEB), IpAddr::from(FAR));
    let asked = whole(UDP, (alice, 1000), (web, 53));
    let closed = service(key(web, UDP, 53), vec![member(far, 8053)]);
    bed.datapath.set_service(&closed).unwrap();
    assert!(matches!(alice_sends(&bed, &asked).outcome, Outcome::Dropped(_)));
    let open = Service { open: true, ..closed };
    bed.datapath.set_service(&open).unwrap();
    assert_eq!(bed.datapath.services().unwrap(), [open]);
    for _ in 0..2 {
        assert_eq!(alice_sends(&bed, &asked).outcome, bed.tunnel_out());
        let seen = asked.between((alice, 1000), (far, 8053));
        assert_eq!(far_sends(&bed, &seen.back()).outcome, bed.delivered(bed.alice));
        // Looked through again, it still passes.
        bed.set_policy(3, &only(vec![], vec![]));
        bed.judge_alice_by(3);
    }
    // Past the service the member is nobody that may be asked.
    let straight = whole(UDP, (alice, 1001), (far, 8053));
    assert!(matches!(alice_sends(&bed, &straight).outcome, Outcome::Dropped(_)));
}
