//! What networks in the underlay mean, by example.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use serde_json::json;
use skein_compiler::{Engine, Vrf};
use skein_model::{Change, Kind};
use std::sync::Arc;
use world::services::{balancer, floating_ip, member, node};
use world::underlay::{fabric, pooled, provided, public};
use world::{Build, id, network, policy, port};

fn compile(changes: impl IntoIterator<Item = Vec<Change>>) -> Engine {
    let mut engine = Engine::new();
    engine.apply(&changes.into_iter().flatten().collect::<Vec<_>>());
    engine
}

fn vrf(engine: &Engine, network: &str) -> Arc<Vrf> {
    engine.vrf(id(Kind::VIRTUAL_NETWORK, network)).unwrap().clone()
}

fn closed(engine: &Engine, network: &str) -> Vec<String> {
    vrf(engine, network).closed.iter().map(ToString::to_string).collect()
}

#[test]
fn a_network_is_in_the_underlay_by_its_provider() {
    let mut engine = compile([fabric(&[]), provided("pods", 5, &[]), network("tenant", 6, &[])]);
    let flags = |engine: &Engine, name: &str| {
        let vrf = vrf(engine, name);
        (vrf.underlay, vrf.native)
    };
    assert_eq!(flags(&engine, "pods"), (true, true));
    assert_eq!(flags(&engine, "tenant"), (false, false));
    assert_eq!(flags(&engine, "ip-fabric"), (false, true));
    // Another provider is another wire.
    engine.apply(&network("wire", 7, &[]));
    let vlan = Build::new(Kind::VIRTUAL_NETWORK, "tenant")
        .with("virtual_network_network_id", json!(6))
        .refer(Kind::VIRTUAL_NETWORK, "wire");
    engine.apply(&[vlan.put()]);
    assert_eq!(flags(&engine, "tenant"), (false, false));
    engine.apply(&network("pods", 5, &[]));
    assert_eq!(flags(&engine, "pods"), (false, false));
}

#[test]
fn who_may_reach_the_underlay_does_not_meet_strangers_there() {
    let snat = |name: &str, number| {
        let mut all = network(name, number, &[]);
        if let Some(Change::Put(object)) = all.last_mut() {
            let properties = &mut Arc::make_mut(object).properties;
            properties.insert("fabric_snat".into(), json!(true));
        }
        all
    };
    let mut engine = compile([
        fabric(&[]),
        provided("one", 5, &[]),
        pooled("two", 6, 128, 191),
        snat("out", 7),
        network("in", 8, &[]),
    ]);
    let both = ["10.5.0.0/24", "10.6.0.128/26"];
    for name in ["one", "two", "out"] {
        assert_eq!(closed(&engine, name), both, "{name}");
    }
    assert!(closed(&engine, "in").is_empty(), "it has no way there");
    // Public addresses are for everyone.
    engine.apply(&[public("one")]);
    assert_eq!(closed(&engine, "out"), ["10.6.0.128/26"]);
    engine.apply(&[Change::Delete(id(Kind::FLOATING_IP_POOL, "one"))]);
    assert_eq!(closed(&engine, "out"), both);
    let delta = engine.apply(&network("two", 6, &[]));
    assert!(delta.vrfs.len() >= 3, "all of them have to know: {delta:?}");
    assert_eq!(closed(&engine, "one"), ["10.5.0.0/24"]);
    // Forwarding wins over translation.
    let mut both = provided("out", 7, &[]);
    if let Some(Change::Put(object)) = both.last_mut() {
        let properties = &mut Arc::make_mut(object).properties;
        properties.insert("fabric_snat".into(), json!(true));
    }
    engine.apply(&both);
    assert!(vrf(&engine, "out").underlay && !vrf(&engine, "out").fabric_snat);
}

#[test]
fn floating_ips_are_of_the_underlay_where_their_network_is() {
    let open = [("ip-fabric", "pods", "<>", "any", -1, "pass")];
    let mut all = vec![
        vec![policy("np", &open)],
        fabric(&["np"]),
        network("pods", 5, &[]),
        network("services", 6, &[]),
        provided("public", 7, &[]),
        network("far", 8, &[]),
        port("a", "pods", "10.5.0.7", &[]),
        floating_ip("near", "public", "10.7.0.5", "a"),
        floating_ip("elsewhere", "far", "10.8.0.5", "a"),
        balancer("web", "services", "10.6.0.10", 80, json!({})),
        floating_ip("web", "public", "10.7.0.80", "vip-web"),
        balancer("db", "services", "10.6.0.11", 80, json!({})),
        floating_ip("db", "far", "10.8.0.80", "vip-db"),
    ];
    all.push(vec![member("m1", "web", "10.5.0.7", "a", json!({}))]);
    let engine = compile(all);
    let port = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, "a")).unwrap();
    let mut known: Vec<(String, bool)> = port
        .contexts
        .iter()
        .filter_map(|c| Some((c.floating.as_ref()?.address.to_string(), c.underlay)))
        .collect();
    known.sort();
    // That of the balancer is no member's own.
    let expected = [("10.7.0.5", true), ("10.7.0.80", false), ("10.8.0.5", false)];
    assert_eq!(known, expected.map(|(address, underlay)| (address.to_owned(), underlay)));
    let announced = |name: &str| -> Vec<(String, bool)> {
        let set = engine.services_of(id(Kind::LOADBALANCER_LISTENER, name)).unwrap();
        set.services.iter().map(|s| (s.address.to_string(), s.announced)).collect()
    };
    assert_eq!(announced("web"), [("10.6.0.10".into(), false), ("10.7.0.80".into(), true)]);
    assert_eq!(announced("db"), [("10.6.0.11".into(), false), ("10.8.0.80".into(), false)]);
}

#[test]
fn the_host_reaches_the_underlays_workloads_by_its_uplink() {
    let end = |name: &str| json!([{"virtual_network": name}]);
    let rule = json!({
        "direction": "<>", "protocol": "any",
        "src_addresses": [{"network_policy": "default-domain:shop:np"}],
        "dst_addresses": end("default-domain:default-project:ip-fabric"),
        "src_ports": [{"start_port": -1, "end_port": -1}],
        "dst_ports": [{"start_port": -1, "end_port": -1}],
        "action_list": {"simple_action": "pass"},
    });
    let np = Build::new(Kind::NETWORK_POLICY, "np")
        .with("network_policy_entries", json!({"policy_rule": [rule]}))
        .put();
    let engine = compile([
        vec![np],
        fabric(&["np"]),
        provided("pods", 5, &["np"]),
        network("tenant", 6, &["np"]),
        node("node-1", "192.168.0.1", "ip-fabric"),
    ]);
    let host = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, "node-1:vhost0")).unwrap();
    let texts = |list: &[ipnet::IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&host.host_prefixes), ["10.6.0.0/24"]);
    assert_eq!(texts(&host.underlay_prefixes), ["10.5.0.0/24"]);
}
