//! Every reason to drop can be met, is counted under its own name, and the docs page tells it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::*;
use skein_datapath::{DropReason as R, *};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Packets that meet each reason under the test bed's ordinary set-up.
fn ordinary() -> Vec<(R, Hook, Vec<u8>)> {
    let plain = || ip4(ALICE, FAR).with(17, &udp(1, 2, b"data"));
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = from_alice(&plain());
        change(&mut frame);
        frame
    };
    let to_alice = ip4(FAR, ALICE).with(17, &udp(1, 2, b"data"));
    let six = |next, payload: &[u8]| from_alice(&ip6(ALICE6, FAR6, 64, next, payload));
    let mut nine_extensions = vec![];
    for _ in 0..9 {
        nine_extensions.extend([60, 0, 0, 0, 0, 0, 0, 0]);
    }
    let mut vxlan_without_vni = vxlan(PEER, ALICE_LABEL, &to_alice);
    vxlan_without_vni[42] = 0;
    let mut deep = mpls_over_udp(PEER, ALICE_LABEL, 6635, &to_alice);
    deep[44] &= !1;
    let mut outer_fragment = vxlan(PEER, ALICE_LABEL, &to_alice);
    outer_fragment[20] = 0x20;
    let mut options_gre = mpls_over_gre(PEER, ALICE_LABEL, &to_alice);
    options_gre[34] = 0x20;
    let mut not_ip = vxlan(PEER, ALICE_LABEL, &to_alice);
    not_ip[62..64].copy_from_slice(&[8, 6]);
    let multicast = ip4(ALICE, [224, 0, 0, 251].into()).with(17, &udp(5353, 5353, b"q"));
    let workload = |reason, frame| (reason, Hook::Workload, frame);
    let fabric = |reason, frame| (reason, Hook::Fabric, frame);
    vec![
        workload(R::Truncated, changed(&|f| f.truncate(40))),
        workload(R::Truncated, changed(&|f| f[16] = 0xff)),
        workload(R::BadHeader, changed(&|f| f[14] = 0x42)),
        workload(R::BadHeader, from_alice(&ip4(ALICE, FAR).with(6, &[0; 20]))),
        workload(R::UnknownEthertype, changed(&|f| f[12] = 0x77)),
        workload(R::VlanTagged, changed(&|f| f[12..14].copy_from_slice(&[0x81, 0]))),
        workload(
            R::DoubleTagged,
            changed(&|f| drop(f.splice(12..12, [0x81, 0, 0, 5, 0x81, 0, 0, 6]))),
        ),
        workload(R::SourceMac, changed(&|f| f[7] ^= 1)),
        workload(R::DestinationMac, changed(&|f| f[5] ^= 1)),
        workload(R::Multicast, ethernet(ALICE_MAC, [1, 0, 0x5e, 0, 0, 0xfb], 0x0800, &multicast)),
        workload(R::Multicast, from_alice(&multicast)),
        workload(R::SourceAddress, from_alice(&ip4(BOB, FAR).with(17, &udp(1, 2, b"")))),
        fabric(R::SourceAddress, vxlan(PEER_2, ALICE_LABEL, &to_alice)),
        fabric(
            R::SourceAddress,
            vxlan(PEER, ALICE_LABEL, &ip4(BOB, ALICE).with(17, &udp(1, 2, b""))),
        ),
        workload(
            R::NoRoute,
            from_alice(&ip4(ALICE, [9, 9, 9, 9].into()).with(17, &udp(1, 2, b""))),
        ),
        workload(
            R::DiscardRoute,
            from_alice(&ip4(ALICE, [10, 5, 0, 1].into()).with(17, &udp(1, 2, b""))),
        ),
        workload(
            R::TtlExceeded,
            from_alice(&Ip4 { ttl: 1, ..ip4(ALICE, FAR) }.with(17, &udp(1, 2, b"0123456789"))),
        ),
        workload(R::TooBig, from_alice(&ip4(ALICE, FAR).with(17, &udp(1, 2, &[0; 1460])))),
        workload(
            R::FragmentWithoutFirst,
            from_alice(&Ip4 { fragment: 9, ..ip4(ALICE, FAR) }.with(17, &[0; 8])),
        ),
        workload(
            R::IcmpErrorWithoutFlow,
            from_alice(&ip4(ALICE, FAR).with(1, &icmp(3, 3, 0, &to_alice))),
        ),
        fabric(R::UnknownLabel, vxlan(PEER, 9999, &to_alice)),
        fabric(R::UnknownPeer, vxlan([192, 0, 2, 66].into(), ALICE_LABEL, &to_alice)),
        fabric(R::OuterFragment, outer_fragment),
        fabric(R::BadTunnelHeader, vxlan_without_vni),
        fabric(R::BadTunnelHeader, deep),
        fabric(R::BadTunnelHeader, options_gre),
        fabric(R::UnknownEthertype, not_ip),
        fabric(R::NotThisPort, vxlan(PEER, BOB_LABEL, &to_alice)),
        workload(
            R::ArpIgnored,
            ethernet(ALICE_MAC, [255; 6], 0x0806, &{
                let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 2];
                arp.extend([0; 20]);
                arp
            }),
        ),
        workload(
            R::NdIgnored,
            from_alice(&ip6(ALICE6, FAR6, 255, 58, &icmp6(ALICE6, FAR6, 133, &[0; 4]))),
        ),
        workload(R::GatewayService, from_alice(&ip4(ALICE, GATEWAY).with(6, &tcp(1, 22, SYN)))),
        workload(
            R::LinkLocal,
            from_alice(&ip6(ALICE6, "fe80::1".parse().expect("address"), 64, 17, &udp(1, 2, b""))),
        ),
        workload(R::ExtensionHeaders, six(60, &nine_extensions)),
        workload(
            R::Martian,
            from_alice(&ip4(ALICE, [127, 0, 0, 1].into()).with(17, &udp(1, 2, b""))),
        ),
        workload(R::Martian, from_alice(&ip4(ALICE, ALICE).with(17, &udp(1, 2, b"")))),
    ]
}

/// Services, floating IPs and the node's address, each with something wrong, and packets that meet it.
fn translated(bed: &mut Bed) -> Vec<(R, Hook, Vec<u8>)> {
    let (alice, uplink) = (bed.alice, bed.uplink);
    let d = &mut bed.datapath;
    let far = || ServiceMember { address: FAR.into(), port: 61, draining: false };
    let service = |vrf, address: [u8; 4], protocol, port, members| Service {
        at: ServiceKey { vrf, address: address.into(), protocol, port },
        member_vrf: 2,
        members,
        affinity: None,
        keep_source: false,
        link_local: false,
        open: false,
        sources: vec![],
        by_node: false,
    };
    let web = [10, 96, 0, 1];
    for (protocol, port, members) in
        [(17, 70, vec![far()]), (17, 71, vec![]), (6, 72, vec![far()]), (132, 73, vec![far()])]
    {
        d.set_service(&service(2, web, protocol, port, members)).unwrap();
    }
    let sources = vec!["203.0.113.0/24".parse().unwrap()];
    let outside = service(OUTSIDE, NODE.octets(), 6, 30_080, vec![far()]);
    d.set_service(&Service { sources, ..outside }).unwrap();
    let floating = |ports, direction| Context {
        vrf: 2,
        policy4: Some(ALLOW),
        policy6: Some(ALLOW),
        floating: Some(Floating {
            address: [203, 0, 113, 1].into(),
            fixed: ALICE.into(),
            direction,
            ports,
        }),
    };
    let mapped = vec![PortMapping { protocol: 6, floating: 80, fixed: 8080 }];
    d.set_context(5, &floating(mapped, FloatingDirection::Both)).unwrap();
    d.set_context(6, &floating(vec![], FloatingDirection::Egress)).unwrap();
    for (label, context) in [(205, 5), (206, 6), (277, 77)] {
        d.set_label(label, alice, context).unwrap();
    }
    d.set_node_address(&NodeAddress {
        address4: Some(NODE),
        tcp: vec![],
        ..NodeAddress::default()
    })
    .unwrap();
    d.set_next_hop(20, &NextHop::Service { vrf: 2 }).unwrap();
    d.set_next_hop(30, &NextHop::Outside { uplink, gateway: None, mtu: MTU }).unwrap();
    let route = |vrf, prefix: &str, next_hop| {
        let prefix = prefix.parse().unwrap();
        RouteChange::Set(Route { vrf, prefix, next_hop, identity: 0 })
    };
    d.change_routes(&[
        route(VRF, "10.96.0.0/16", 20),
        route(VRF, "172.20.0.0/16", 30),
        route(2, "10.1.0.9/32", 3),
    ])
    .unwrap();

    let to_web =
        |protocol, transport: &[u8]| from_alice(&ip4(ALICE, web.into()).with(protocol, transport));
    // A connection whose member goes, and one that looks as the service's would.
    bed.alice(&to_web(6, &tcp(60, 72, SYN)));
    bed.datapath.set_service(&service(2, web, 6, 72, vec![])).unwrap();
    bed.alice(&from_alice(&ip4(ALICE, FAR).with(17, &udp(60, 61, b""))));
    let world = Ipv4Addr::new(198, 51, 100, 1);
    let into = |label, port| {
        let packet = ip4(world, [203, 0, 113, 1].into()).with(6, &tcp(1000, port, SYN));
        vxlan(PEER, label, &packet)
    };
    let sctp = Ip4 { fragment: 0x2000, ..ip4(ALICE, web.into()) };
    let client = ip4(world, NODE).with(6, &tcp(1000, 30_080, SYN));
    vec![
        (R::UnknownContext, Hook::Fabric, into(277, 80)),
        (R::ServicePort, Hook::Workload, to_web(17, &udp(1, 99, b""))),
        (R::NoMembers, Hook::Workload, to_web(17, &udp(1, 71, b""))),
        (R::TranslationGone, Hook::Workload, to_web(6, &tcp(60, 72, ACK))),
        (R::TranslationCollision, Hook::Workload, to_web(17, &udp(60, 70, b""))),
        (R::PortNotMapped, Hook::Fabric, into(205, 81)),
        (R::FloatingDirection, Hook::Fabric, into(206, 80)),
        (
            R::SnatExhausted,
            Hook::Workload,
            from_alice(&ip4(ALICE, [172, 20, 0, 1].into()).with(6, &tcp(1, 2, SYN))),
        ),
        (
            R::NotTranslatable,
            Hook::Workload,
            from_alice(&sctp.with(132, &[0, 1, 0, 73, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0])),
        ),
        (R::ServiceSource, Hook::Fabric, ethernet([4; 6], [2; 6], 0x0800, &client)),
    ]
}

#[test]
fn every_reason_can_be_met() {
    let mut bed = Bed::new();
    let mut met = BTreeSet::new();
    let mut meet = |bed: &Bed, reason: R, hook: Hook, frame: &[u8]| {
        let count = |bed: &Bed| {
            let drops = bed.datapath.drops().unwrap();
            drops.iter().find(|(r, _)| *r == reason).map_or(0, |(_, n)| *n)
        };
        let before = count(bed);
        let ifindex = if hook == Hook::Fabric { bed.uplink } else { bed.alice };
        let ran = bed.run(hook, ifindex, frame);
        let told = match ran.outcome {
            Outcome::Dropped(r) | Outcome::ToWorkload { answer_to: Some(r), .. } => Some(r),
            _ => None,
        };
        assert_eq!(told, Some(reason), "{:?}", ran.outcome);
        assert_eq!(count(bed), before + 1, "{reason:?} is counted once");
        met.insert(reason);
    };
    for (reason, hook, frame) in ordinary() {
        meet(&bed, reason, hook, &frame);
    }
    for (reason, hook, frame) in translated(&mut bed) {
        meet(&bed, reason, hook, &frame);
    }
    // Ports no packet above opened a flow for.
    let plain = from_alice(&ip4(ALICE, FAR).with(17, &udp(77, 78, b"")));
    let vif = bed.vif(bed.alice);
    let enforce = |v4| VifPolicy::Enforce { v4, v6: None };
    for (reason, change) in [
        (R::AdminDown, Vif { admin_down: true, ..vif.clone() }),
        (R::NoPolicy, Vif { policy: enforce(None), ..vif.clone() }),
        (R::PolicyIncomplete, Vif { policy: enforce(Some(77)), ..vif.clone() }),
        (R::FlowQuota, Vif { flow_quota: 0, ..vif.clone() }),
        (R::PolicyDeny, Vif { policy: enforce(Some(5)), ..vif.clone() }),
    ] {
        bed.set_policy(5, &only(vec![], vec![]));
        bed.datapath.set_vif(&change).unwrap();
        meet(&bed, reason, Hook::Workload, &plain);
    }
    bed.datapath.remove_vif(bed.alice).unwrap();
    meet(&bed, R::NoInterface, Hook::Workload, &plain);

    // These have tests of their own in packets.rs: they need a small table, a packet the kernel does not rewrite, a flood.
    let elsewhere =
        BTreeSet::from([R::FlowTableFull, R::RewriteFailed, R::IcmpErrorLimit, R::RemoteShare]);
    let missing: Vec<_> =
        R::ALL.iter().filter(|r| !met.contains(r) && !elsewhere.contains(r)).collect();
    assert!(missing.is_empty(), "nothing here meets {missing:?}");
}

#[test]
fn port_security_off_forwards_without_flows_and_source_checks() {
    let mut bed = Bed::new();
    let vif = Vif { policy: VifPolicy::Disabled, ..bed.vif(bed.alice) };
    bed.datapath.set_vif(&vif).unwrap();
    let strange = ethernet(
        [6; 6],
        GATEWAY_MAC,
        0x0800,
        &ip4([7, 7, 7, 7].into(), FAR).with(17, &udp(1, 2, b"")),
    );
    assert_eq!(bed.alice(&strange).outcome, bed.tunnel_out());
    let inner = ip4(FAR, ALICE).with(17, &udp(1, 2, b""));
    assert_eq!(bed.fabric(&vxlan(PEER, ALICE_LABEL, &inner)).outcome, bed.delivered(bed.alice));
    assert!(bed.datapath.flows(FlowFilter::default()).unwrap().is_empty());
}

#[test]
fn the_docs_page_is_current() {
    let generated = include_str!(concat!(env!("OUT_DIR"), "/drop-reasons.md"));
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/drop-reasons.md");
    if std::env::var_os("SKEIN_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, generated).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == generated,
        "docs/drop-reasons.md is out of date: SKEIN_UPDATE_DOCS=1 cargo test -p skein-datapath --test every_reason"
    );
}
