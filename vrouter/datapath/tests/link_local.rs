//! Services of the node itself: whoever asks is known there by an address that the node gave, whatever its own is.

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
use std::net::Ipv4Addr;

/// VRF of the node's own stack, which Bob's interface plays, and the one that link-local addresses are in.
const HOST_VRF: u32 = 4;
const LINK_LOCAL: u32 = 5;
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 10, 10, 2);
const ALICE_METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 11);
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

fn routes(bed: &mut Bed, routes: &[(VrfId, String, u32)]) {
    let changes: Vec<_> = routes
        .iter()
        .map(|(vrf, prefix, next_hop)| {
            let prefix = prefix.parse().expect("prefix");
            RouteChange::Set(Route { vrf: *vrf, prefix, next_hop: *next_hop, identity: 1 })
        })
        .collect();
    bed.datapath.change_routes(&changes).expect("routes");
}

fn with_node_service(member: Ipv4Addr) -> Bed {
    let mut bed = Bed::new();
    let alice = Vif { metadata: Some(ALICE_METADATA), ..bed.vif(bed.alice) };
    let host = Vif { host: true, vrf: HOST_VRF, ..bed.vif(bed.bob) };
    let uplink = bed.uplink;
    let d = &mut bed.datapath;
    d.set_vif(&alice).unwrap();
    d.set_vif(&host).unwrap();
    d.set_next_hop(20, &NextHop::Service { vrf: LINK_LOCAL }).unwrap();
    d.set_next_hop(30, &NextHop::Outside { uplink, gateway: None, mtu: MTU }).unwrap();
    let service = Service {
        at: ServiceKey { vrf: LINK_LOCAL, address: SERVICE.into(), protocol: 6, port: 9091 },
        member_vrf: LINK_LOCAL,
        members: vec![ServiceMember { address: member.into(), port: 8097, draining: false }],
        affinity: None,
        keep_source: false,
        link_local: true,
        open: false,
        by_node: false,
        sources: vec![],
    };
    d.set_service(&service).unwrap();
    assert!(d.services().unwrap().contains(&service));
    let node = NodeAddress { address4: Some(NODE), next_hop4: 30, ..NodeAddress::default() };
    d.set_node_address(&node).unwrap();
    routes(
        &mut bed,
        &[
            (VRF, format!("{SERVICE}/32"), 20),
            (LINK_LOCAL, format!("{NODE}/32"), 2),
            (LINK_LOCAL, format!("{ELSEWHERE}/32"), 30),
            (HOST_VRF, format!("{NODE}/32"), 2),
            (HOST_VRF, format!("{ALICE_METADATA}/32"), 1),
        ],
    );
    bed
}

fn to_service(flags: u8) -> Vec<u8> {
    from_alice(&ip4(ALICE, SERVICE).with(6, &tcp(1000, 9091, flags)))
}

#[test]
fn the_node_knows_its_client_by_the_metadata_address() {
    let mut bed = with_node_service(NODE);
    // No policy has a say: the node answers for itself.
    bed.set_policy(5, &only(vec![], vec![]));
    let policy = VifPolicy::Enforce { v4: Some(5), v6: Some(5) };
    let vif = Vif { policy, metadata: Some(ALICE_METADATA), ..bed.vif(bed.alice) };
    bed.datapath.set_vif(&vif).unwrap();
    for flags in [SYN, 0x10] {
        let out = bed.alice(&to_service(flags));
        assert_eq!(out.outcome, bed.delivered(bed.bob));
        assert_eq!(address4(&out.frame, 26), ALICE_METADATA);
        assert_eq!(address4(&out.frame, 30), NODE);
        assert_eq!(out.frame[36..38], 8097_u16.to_be_bytes());
    }
    // The answer.
    let answer = ip4(NODE, ALICE_METADATA).with(6, &tcp(8097, 1000, SYN | 0x10));
    let back = bed.run(Hook::Workload, bed.bob, &ethernet(BOB_MAC, GATEWAY_MAC, 0x0800, &answer));
    assert_eq!(back.outcome, bed.delivered(bed.alice));
    assert_eq!(address4(&back.frame, 26), SERVICE);
    assert_eq!(address4(&back.frame, 30), ALICE);
    assert_eq!(back.frame[34..36], 9091_u16.to_be_bytes());
}

#[test]
fn nobody_speaks_by_a_metadata_address_and_it_is_no_way_in() {
    let mut bed = with_node_service(NODE);
    // As its own source, or as that of another network's workload with such an address.
    let forged = from_alice(&ip4(ALICE_METADATA, SERVICE).with(6, &tcp(1, 9091, SYN)));
    assert_eq!(bed.alice(&forged).outcome, dropped(R::SourceAddress));
    // The host opens nothing by it.
    let open = ip4(NODE, ALICE_METADATA).with(6, &tcp(1, 22, SYN));
    let ran = bed.run(Hook::Workload, bed.bob, &ethernet(BOB_MAC, GATEWAY_MAC, 0x0800, &open));
    assert_eq!(ran.outcome, dropped(R::NotThisPort));
    // Another port of the address, and a workload without a metadata address.
    let other = from_alice(&ip4(ALICE, SERVICE).with(6, &tcp(1, 9092, SYN)));
    let told = |bed: &Bed, frame: &[u8]| bed.alice(frame).outcome;
    let refused = Outcome::ToWorkload { ifindex: bed.alice, answer_to: Some(R::ServicePort) };
    assert_eq!(told(&bed, &other), refused);
    let vif = bed.vif(bed.alice);
    bed.datapath.set_vif(&vif).unwrap();
    assert_eq!(told(&bed, &to_service(SYN)), refused);
}

#[test]
fn a_service_elsewhere_is_reached_from_the_nodes_address() {
    let bed = with_node_service(ELSEWHERE);
    let out = bed.alice(&to_service(SYN));
    assert_eq!(out.outcome, Outcome::Outside { uplink: bed.uplink });
    assert_eq!(address4(&out.frame, 26), NODE);
    assert_eq!(address4(&out.frame, 30), ELSEWHERE);
}
