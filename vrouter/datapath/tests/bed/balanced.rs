//! A bed with services: Alice asks them, Bob and hosts far away are members.

use super::whole::Whole;
use super::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// VRF of the services; members are reached there, by contexts.
pub const SERVICES: u32 = 2;
pub const WEB: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub const WEB6: Ipv6Addr = Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1);
pub const BOB_CONTEXT: u32 = 5;
pub const BOB_CONTEXT_LABEL: u32 = 105;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;
pub const VXLAN: usize = 14 + 20 + 8 + 8 + 14;

pub fn key(address: impl Into<IpAddr>, protocol: u8, port: u16) -> ServiceKey {
    ServiceKey { vrf: SERVICES, address: address.into(), protocol, port }
}

pub fn member(address: impl Into<IpAddr>, port: u16) -> ServiceMember {
    ServiceMember { address: address.into(), port, draining: false }
}

pub fn service(at: ServiceKey, members: Vec<ServiceMember>) -> Service {
    Service {
        at,
        member_vrf: SERVICES,
        members,
        affinity: None,
        keep_source: false,
        link_local: false,
        open: false,
        sources: vec![],
        by_node: false,
    }
}

/// Alice's VRF has routes to the service addresses; theirs has routes to everyone.
pub fn with_services() -> Bed {
    let mut bed = Bed::new();
    let context =
        Context { vrf: SERVICES, policy4: Some(ALLOW), policy6: Some(ALLOW), floating: None };
    bed.datapath.set_context(BOB_CONTEXT, &context).unwrap();
    bed.datapath.set_label(BOB_CONTEXT_LABEL, bed.bob, BOB_CONTEXT).unwrap();
    bed.datapath.set_next_hop(20, &NextHop::Service { vrf: SERVICES }).unwrap();
    let bob = NextHop::Local { ifindex: bed.bob, context: BOB_CONTEXT };
    bed.datapath.set_next_hop(21, &bob).unwrap();
    let routes = [
        (SERVICES, "10.1.0.2/32", 1, 1001),
        (SERVICES, "10.1.0.3/32", 21, 1002),
        (SERVICES, "10.1.0.9/32", 3, 1009),
        (SERVICES, "10.2.0.0/16", 3, 1010),
        (SERVICES, "fd01::2/128", 1, 1001),
        (SERVICES, "fd01::3/128", 21, 1002),
        (SERVICES, "fd01::9/128", 3, 1009),
        (VRF, "10.96.0.0/16", 20, 0),
        (VRF, "fd96::/64", 20, 0),
    ];
    let changes = routes.map(|(vrf, prefix, next_hop, identity)| {
        RouteChange::Set(Route { vrf, prefix: prefix.parse().unwrap(), next_hop, identity })
    });
    bed.datapath.change_routes(&changes).unwrap();
    bed
}

pub fn bob_sends(bed: &Bed, packet: &Whole) -> Ran {
    let bytes = packet.packet();
    let kind = if packet.source.is_ipv4() { 0x0800 } else { 0x86dd };
    bed.run(Hook::Workload, bed.bob, &ethernet(BOB_MAC, GATEWAY_MAC, kind, &bytes))
}

pub fn alice_sends(bed: &Bed, packet: &Whole) -> Ran {
    bed.alice(&from_alice(&packet.packet()))
}

pub fn far_sends(bed: &Bed, packet: &Whole) -> Ran {
    bed.fabric(&vxlan(PEER, ALICE_LABEL, &packet.packet()))
}

/// Members far away.
pub fn many(count: u8) -> Vec<ServiceMember> {
    (1..=count).map(|n| member([10, 2, 0, n], 8000 + u16::from(n))).collect()
}
