//! Workloads in workloads: sub-interfaces, and the services by which they reach their node.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use serde_json::json;
use skein_compiler::Engine;
use skein_model::{Change, FqName, Kind};
use world::{Build, id, network, port};

fn engine(changes: impl IntoIterator<Item = Vec<Change>>) -> Engine {
    let mut engine = Engine::new();
    engine.apply(&changes.into_iter().flatten().collect::<Vec<_>>());
    engine
}

/// A machine's port on a node, and one with a tag that shares its device.
fn machine(node: &str) -> Vec<Vec<Change>> {
    let nic = |name: &str, mac: &str| {
        Build::new(Kind::VIRTUAL_MACHINE_INTERFACE, name)
            .with("virtual_machine_interface_mac_addresses", json!({"mac_address": [mac]}))
    };
    let bound = json!({"key_value_pair": [{"key": "host_id", "value": node}]});
    let mut changes = port("vm", "machines", "10.5.0.7", &[]);
    changes[0] = nic("vm", "02:00:00:00:00:01")
        .refer(Kind::VIRTUAL_NETWORK, "machines")
        .with("virtual_machine_interface_bindings", bound)
        .put();
    let mut child = port("pod", "pods", "10.6.0.7", &[]);
    child[0] = nic("pod", "02:00:00:00:00:02")
        .refer(Kind::VIRTUAL_NETWORK, "pods")
        .refer(Kind::VIRTUAL_MACHINE_INTERFACE, "vm")
        .with("virtual_machine_interface_properties", json!({"sub_interface_vlan_tag": 100}))
        .put();
    vec![network("machines", 5, &[]), network("pods", 6, &[]), changes, child]
}

#[test]
fn a_sub_interface_is_where_its_parent_is() {
    let vm = id(Kind::VIRTUAL_MACHINE_INTERFACE, "vm");
    let pod = id(Kind::VIRTUAL_MACHINE_INTERFACE, "pod");
    let mut engine = engine(machine("node-1"));
    let (parent, child) = (engine.interface(vm).unwrap(), engine.interface(pod).unwrap());
    assert_eq!((parent.parent, parent.sub_interfaces.as_slice()), (None, &[pod][..]));
    assert_eq!((child.parent, child.sub_interfaces.len()), (Some((vm, 100)), 0));
    assert_eq!(child.host.as_deref(), Some("node-1"));
    assert_ne!(child.vrf, parent.vrf);
    // It moves with it, and goes by itself.
    let moved = machine("node-2").swap_remove(2);
    engine.apply(&moved);
    assert_eq!(engine.interface(pod).unwrap().host.as_deref(), Some("node-2"));
    let gone = [Change::Delete(pod)];
    let delta = engine.apply(&gone);
    assert!(delta.interfaces.iter().any(|(uuid, _)| *uuid == vm), "the parent's list changed");
    assert!(engine.interface(vm).unwrap().sub_interfaces.is_empty());
}

#[test]
fn link_local_services_are_every_networks() {
    let link_local = |entries: serde_json::Value| {
        vec![
            Build::new(Kind::GLOBAL_VROUTER_CONFIG, "global")
                .with("linklocal_services", json!({"linklocal_service_entry": entries}))
                .put(),
        ]
    };
    let mut special = network("link-local", 2, &[]);
    for change in &mut special {
        if let Change::Put(object) = change
            && object.kind == Kind::VIRTUAL_NETWORK
        {
            let name = "default-domain:default-project:__link_local__";
            std::sync::Arc::make_mut(object).fq_name = FqName::parse(name);
        }
    }
    let entry = json!([
        {"linklocal_service_name": "vrouter-agent", "linklocal_service_ip": "10.10.10.2",
         "linklocal_service_port": 9091, "ip_fabric_service_ip": ["127.0.0.1"],
         "ip_fabric_service_port": 9091},
        {"linklocal_service_name": "half", "linklocal_service_ip": "10.10.10.3",
         "linklocal_service_port": 0, "ip_fabric_service_port": 1},
    ]);
    let mut engine = engine([special, network("a", 5, &[]), link_local(entry)]);
    let name = "default-domain:default-project:__link_local__:__link_local__";
    let network = id(Kind::VIRTUAL_NETWORK, "a");
    let vrfs = |engine: &Engine| -> Vec<String> {
        engine.vrf(network).unwrap().service_vrfs.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(vrfs(&engine), [name]);
    assert!(engine.vrf(id(Kind::VIRTUAL_NETWORK, "link-local")).unwrap().link_local);
    let set = engine.services_of(id(Kind::GLOBAL_VROUTER_CONFIG, "global")).unwrap();
    let told: Vec<_> = set.services.iter().map(|s| (s.protocol, s.address, s.port)).collect();
    assert_eq!(told, [17, 6].map(|protocol| (protocol, [10, 10, 10, 2].into(), 9091)));
    assert_eq!((set.services[0].vrf.as_str(), set.services[0].members.len()), (name, 1));
    // None left: nobody has the network any more.
    engine.apply(&link_local(json!([])));
    assert!(vrfs(&engine).is_empty());
}
