//! Tables without room say so by name and size, change nothing by it, and take more when there is room.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by panicking"
)]

mod bed;

use bed::*;
use skein_datapath::*;

/// What a table without room says.
fn full(result: Result<impl std::fmt::Debug>) -> (&'static str, u32) {
    match result {
        Err(error @ Error::Full { .. }) => {
            let text = error.to_string();
            let Error::Full { table, size } = error else { unreachable!() };
            assert!(text.contains(table) && text.contains(&size.to_string()), "{text}");
            (table, size)
        }
        other => panic!("{other:?}"),
    }
}

fn route(prefix: &str, next_hop: u32) -> Route {
    Route { vrf: VRF, prefix: prefix.parse().unwrap(), next_hop, identity: 1010 }
}

#[test]
fn tables_without_room_say_so_and_keep_what_they_have() {
    let mut bed = Bed::with(|config| {
        // Two more than the bed's own.
        config.prefix_route_table_size = 6;
        config.host_route_table_size = 8;
        config.policy_table_size = 64;
        config.service_table_size = 2;
    });
    let far = |bed: &Bed, to| {
        let packet = ip4(ALICE, to).with(17, &udp(1, 2, b"x"));
        bed.alice(&from_alice(&packet)).outcome
    };

    // Routes: what fits goes in, whatever stands beside it; what is there can be changed and removed.
    let wanted = ["10.6.0.0/16", "10.7.0.0/16", "10.8.0.0/16", "10.9.0.0/16"];
    let changes: Vec<_> = wanted.map(|prefix| RouteChange::Set(route(prefix, 3))).into();
    let refused = bed.datapath.change_routes_that_fit(&changes).unwrap();
    let places: Vec<usize> = refused.iter().map(|(at, _)| *at).collect();
    assert_eq!(places, [2, 3]);
    let before = bed.datapath.routes().unwrap();
    for error in refused.into_iter().map(|(_, error)| error) {
        assert_eq!(full(Err::<(), _>(error)), ("prefix_routes", 6));
    }
    assert_eq!(full(bed.datapath.change_routes(&changes[2..])), ("prefix_routes", 6));
    assert_eq!(bed.datapath.routes().unwrap().len(), before.len());
    let [sixth, eighth] = [[10, 6, 0, 1], [10, 8, 0, 1]].map(std::net::Ipv4Addr::from);
    assert_eq!(far(&bed, sixth), bed.tunnel_out());
    assert_eq!(far(&bed, eighth), dropped(DropReason::NoRoute));
    // In the place of its own: 10.5.0.0/16 leads nowhere, until now.
    let there = [10, 5, 0, 1].into();
    assert_ne!(far(&bed, there), bed.tunnel_out());
    bed.datapath.change_routes(&[RouteChange::Set(route("10.5.0.0/16", 3))]).unwrap();
    assert_eq!(far(&bed, there), bed.tunnel_out());
    let gone = RouteChange::Remove { vrf: VRF, prefix: "10.6.0.0/16".parse().unwrap() };
    let refused = bed.datapath.change_routes_that_fit(&[gone, changes[2]]).unwrap();
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(far(&bed, eighth), bed.tunnel_out());
    assert_eq!(far(&bed, sixth), dropped(DropReason::NoRoute));
    let host = |last: u8| RouteChange::Set(route(&format!("10.1.0.{last}/32"), 3));
    let refused = bed.datapath.change_routes_that_fit(&[host(50), host(51), host(52)]).unwrap();
    let mut refused = refused.into_iter();
    let (at, error) = refused.next().unwrap();
    assert_eq!((at, full(Err::<(), _>(error))), (2, ("host_routes", 8)));

    // A policy that does not fit leaves nothing behind, so that a smaller one does.
    let many = |rules: u16| only((0..rules).map(|n| pass(6, n * 7 + 1)).collect(), vec![]);
    let loaded = bed.datapath.policies();
    for _ in 0..3 {
        assert_eq!(full(bed.datapath.load_policy(2, &flatten(&many(200)))), ("policies", 64));
        assert_eq!(bed.datapath.policies(), loaded);
    }
    bed.datapath.load_policy(2, &flatten(&only(vec![pass(17, 2)], vec![]))).unwrap();
    bed.judge_alice_by(2);
    assert_eq!(far(&bed, there), bed.tunnel_out());
    let denied = ip4(ALICE, FAR).with(17, &udp(1, 3, b"x"));
    assert_eq!(bed.alice(&from_alice(&denied)).outcome, dropped(DropReason::PolicyDeny));

    // Next hops are numbered: a number beyond the table has no room.
    let tunnel = bed.tunnel(PEER, Encapsulation::Vxlan);
    assert_eq!(full(bed.datapath.set_next_hop(64, &tunnel)), ("next_hops", 64));
    bed.datapath.set_next_hop(63, &tunnel).unwrap();

    let service = |last: u8| Service {
        at: ServiceKey { vrf: 2, address: [10, 96, 0, last].into(), protocol: 17, port: 80 },
        member_vrf: 2,
        members: vec![ServiceMember { address: FAR.into(), port: 8080, draining: false }],
        affinity: None,
        keep_source: false,
        link_local: false,
        open: false,
        sources: vec![],
        by_node: false,
    };
    bed.datapath.set_service(&service(1)).unwrap();
    bed.datapath.set_service(&service(2)).unwrap();
    assert_eq!(full(bed.datapath.set_service(&service(3))), ("services", 2));
    bed.datapath.remove_service(&service(1).at).unwrap();
    bed.datapath.set_service(&service(3)).unwrap();
    assert_eq!(bed.datapath.services().unwrap().len(), 2);
}
