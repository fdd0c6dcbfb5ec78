//! What a controller says, made of small numbers so that events meet each other.

use skein_proto::session as wire;
use uuid::Uuid;

pub(super) fn uuid(port: u8) -> Uuid {
    Uuid::from_u128(u128::from(port) + 1)
}

/// The same number means the same VRF but for the low bits of `uses`: whose services, and the way outside.
pub(super) fn vrf(number: u8, uses: u8) -> wire::Vrf {
    let usable = (0..3).filter(|other| uses & (1 << other) != 0);
    wire::Vrf {
        name: format!("vrf{number}"),
        network_id: u32::from(number),
        service_vrfs: usable.map(|other| format!("vrf{other}")).collect(),
        fabric_snat: uses & 8 != 0,
        link_local: uses & 16 != 0,
        underlay: uses & 64 != 0,
        closed_prefixes: if uses & 32 != 0 { vec!["10.0.0.0/29".into()] } else { vec![] },
        dns_zone: if uses & 128 != 0 { "zone0".into() } else { String::new() },
        subnets: vec![wire::Subnet {
            prefix: "10.0.0.0/24".into(),
            service_address: if number == 0 { String::new() } else { "10.0.0.253".into() },
            ..wire::Subnet::default()
        }],
        ..wire::Vrf::default()
    }
}

pub(super) fn zone(number: u8, version: u8) -> wire::DnsZone {
    wire::DnsZone {
        id: format!("zone{number}"),
        domain: "a.example".into(),
        default_ttl: version.into(),
        ..wire::DnsZone::default()
    }
}

pub(super) fn records(number: u8, zone: u8) -> wire::DnsRecordSet {
    wire::DnsRecordSet {
        id: format!("set{number}"),
        zone: format!("zone{zone}"),
        ..wire::DnsRecordSet::default()
    }
}

pub(super) fn service(number: u8, vrf: u8, member: u8, kind: u8) -> wire::Service {
    wire::Service {
        id: format!("service{number}"),
        vrf: format!("vrf{vrf}"),
        // Now and then two of them want one place.
        address: format!("10.0.0.{}", 5 + number % 2),
        protocol: 6,
        port: 80,
        members: (0..=member % 3)
            .map(|nth| wire::Member {
                address: format!("10.0.0.{}", member + nth),
                port: 8080,
                interface: if kind & 1 == 0 { uuid(member).to_string() } else { String::new() },
                node: if nth == 0 { "here".into() } else { "there".into() },
                draining: kind & 2 != 0,
                zone: if nth == 1 { "east".into() } else { String::new() },
                ..wire::Member::default()
            })
            .collect(),
        internal_local: kind & 4 != 0,
        node_port: if kind & 8 != 0 { 30_080 } else { 0 },
        external: kind & 16 != 0,
        announced: kind & 128 != 0,
        external_local: kind & 32 != 0,
        node: if kind & 64 != 0 { "here".into() } else { String::new() },
        distribution: i32::from(kind) & 1,
        ..wire::Service::default()
    }
}

pub(super) fn context(vrf: u8, policy: u8, floating: u8) -> wire::Context {
    wire::Context {
        vrf: format!("vrf{vrf}"),
        policy: format!("policy{policy}"),
        network_id: u32::from(vrf),
        floating_address: if floating < 3 { String::new() } else { format!("10.0.0.{floating}") },
        underlay: floating & 1 != 0,
        fixed_address: if floating < 3 { String::new() } else { "10.0.0.1".into() },
        ..wire::Context::default()
    }
}

pub(super) fn policy(number: u8, version: u8) -> wire::PolicySet {
    let peer = |peer| wire::PolicyPeer { peer: Some(peer) };
    let remotes = match version {
        0 => vec![],
        1 => vec![peer(wire::policy_peer::Peer::NetworkId(1))],
        2 => vec![peer(wire::policy_peer::Peer::Prefix("10.0.0.0/30".into()))],
        _ => vec![peer(wire::policy_peer::Peer::Prefix("10.0.0.2/31".into()))],
    };
    let rule = wire::PolicyRule {
        id: Uuid::from_u128(77 + u128::from(version)).to_string(),
        pass: true,
        remotes,
        protocol: 256,
        ..wire::PolicyRule::default()
    };
    let layer = wire::PolicyLayer {
        name: "network-policy".into(),
        egress: vec![rule.clone()],
        ingress: vec![rule],
        default_pass: false,
    };
    wire::PolicySet { id: format!("policy{number}"), layers: vec![layer], staged: vec![] }
}

pub(super) fn interface(port: u8, vrf: u8, policy: u8, contexts: u8) -> wire::Interface {
    // Now and then a port is a VLAN on another one's device.
    let is_nested = port == 4 && contexts >= 4;
    wire::Interface {
        uuid: uuid(port).to_string(),
        name: format!("port{port}"),
        vrf: format!("vrf{vrf}"),
        mac: format!("02:00:00:00:00:{port:02x}"),
        addresses: vec![wire::Address {
            prefix: format!("10.0.0.{port}/24"),
            gateway: "10.0.0.254".into(),
        }],
        policy: if policy == 3 { String::new() } else { format!("policy{policy}") },
        network_id: u32::from(vrf),
        contexts: (0..contexts % 4)
            .filter(|other| *other != vrf)
            .map(|other| context(other, policy % 3, contexts))
            .collect(),
        host: port == 5,
        local_preference: [0, 100, 200][usize::from(contexts % 3)],
        parent: if is_nested { uuid(1).to_string() } else { String::new() },
        vlan: if is_nested { 100 } else { 0 },
        ..wire::Interface::default()
    }
}

pub(super) fn route(vrf: u8, host: u8, length: u8, next_hop: u8, label: u8) -> wire::Route {
    let path = |last: u8| wire::Path {
        next_hop: format!("172.31.0.{last}"),
        label: 16 + u32::from(label),
        encapsulations: vec![wire::Encapsulation::Vxlan as i32],
        network_id: u32::from(label % 2),
        local_preference: [100, 100, 200][usize::from(label % 3)],
        native: label > 2,
        ..wire::Path::default()
    };
    // Two paths now and then: an ECMP group.
    let paths =
        if label == 0 { vec![path(next_hop), path(next_hop + 1)] } else { vec![path(next_hop)] };
    wire::Route { vrf: format!("vrf{vrf}"), prefix: format!("10.0.0.{host}/{length}"), paths }
}
