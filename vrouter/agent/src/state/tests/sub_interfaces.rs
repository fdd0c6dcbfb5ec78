//! Workloads inside workloads.

use super::wire::{interface, policy, uuid, vrf};
use super::{Event, OWN, core, feed};
use crate::state::core::Core;
use crate::state::tables::NextHop;
use skein_proto::session as wire;
use std::net::IpAddr;

#[test]
fn a_sub_interface_comes_and_goes_with_its_parent() {
    let nested = || wire::Interface { sub_interfaces: vec![], ..interface(4, 2, 0, 4) };
    let parent =
        wire::Interface { sub_interfaces: vec![uuid(4).to_string()], ..interface(1, 1, 0, 0) };
    let rival = wire::Interface { vlan: 100, parent: uuid(1).to_string(), ..interface(3, 2, 0, 0) };
    let mut core = core();
    core.connected(0);
    let local = wire::Vrf { link_local: true, ..vrf(0, 0) };
    let intent = wire::Intent {
        revision: 1,
        vrfs: vec![local, vrf(1, 1), vrf(2, 1)],
        policies: vec![policy(0, 0)],
        interfaces: vec![parent, nested(), rival, interface(5, 1, 0, 0)],
        services: vec![wire::Service {
            id: "agent".into(),
            vrf: "vrf0".into(),
            address: "10.10.10.2".into(),
            protocol: 6,
            port: 9091,
            members: vec![wire::Member {
                address: "127.0.0.1".into(),
                port: 9091,
                ..wire::Member::default()
            }],
            ..wire::Service::default()
        }],
        end_of_snapshot: true,
        ..wire::Intent::default()
    };
    feed(&mut core, &Event::Intent(0, intent));
    let settle = |core: &mut Core| {
        for operation in core.operations() {
            core.applied(&operation);
        }
    };
    settle(&mut core);
    assert_eq!(core.in_force().interfaces.len(), 0, "no device, no workload in it");
    feed(&mut core, &Event::Bind(1));
    feed(&mut core, &Event::Bind(5));
    settle(&mut core);
    assert!(core.sub_interfaces().contains(&uuid(4)));
    // Of two that claim a tag, one has it, and the other is told.
    assert_eq!(core.port_problem(uuid(4)).is_some(), core.port_problem(uuid(3)).is_none());
    let winner = if core.port_problem(uuid(4)).is_none() { uuid(4) } else { uuid(3) };
    let port = core.local_port(winner).cloned().expect("it is here because its parent is");
    assert_eq!((port.vlan, port.mtu), (Some((1, 100)), 1450));
    let entry = core.in_force().interfaces.values().find(|entry| entry.uuid == winner).cloned();
    let entry = entry.expect("in force");
    // The node's services know it, and lead to the node's own stack.
    let metadata = entry.metadata.expect("a metadata address");
    assert_eq!(core.by_metadata(metadata), Some(winner));
    let at = |vrf: u32, address: IpAddr| {
        let route = core.in_force().routes.get(&(vrf, address.into()))?;
        core.in_force().next_hops.get(&route.next_hop).cloned()
    };
    let names = core.vrf_names();
    let number = |name: &str| names.iter().find(|(_, n)| **n == name).map(|(n, _)| *n).unwrap();
    let to_host = Some(NextHop::Local { ifindex: 5, context: 0 });
    assert_eq!(at(number("vrf0"), OWN.parse().unwrap()), to_host);
    let ifindex = skein_datapath::sub_interface(entry.label);
    assert_eq!(at(number("vrf1"), metadata.into()), Some(NextHop::Local { ifindex, context: 0 }));
    let services = &core.in_force().services;
    let service = services.iter().find(|((vrf, ..), _)| *vrf == number("vrf0")).unwrap().1;
    assert!(service.link_local);
    assert_eq!(service.members.first().unwrap().0, OWN.parse::<IpAddr>().unwrap());
    drop(names);
    feed(&mut core, &Event::Unbind(1));
    settle(&mut core);
    assert_eq!(core.local_port(winner), None);
    assert_eq!(core.by_metadata(metadata), None);
    assert_eq!(core.in_force().interfaces.len(), 1, "the host's alone");
}
