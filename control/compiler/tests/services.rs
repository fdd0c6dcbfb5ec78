//! What load balancers, floating IPs and the ports of nodes mean, by example.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests; figures are for the reader")]

mod world;

use serde_json::json;
use skein_compiler::{Engine, FloatingDirection, Interface, Member, Service};
use skein_model::{Change, Kind};
use std::sync::Arc;
use std::time::Instant;
use world::services::{balancer, floating_ip, member, node};
use world::{Build, id, network, policy, port};

fn compile(changes: impl IntoIterator<Item = Vec<Change>>) -> Engine {
    let mut engine = Engine::new();
    engine.apply(&changes.into_iter().flatten().collect::<Vec<_>>());
    engine
}

fn services(engine: &Engine, name: &str) -> Vec<Service> {
    let found = engine.services_of(id(Kind::LOADBALANCER_LISTENER, name));
    found.map(|set| set.services.clone()).unwrap_or_default()
}

fn interface(engine: &Engine, name: &str) -> Arc<Interface> {
    engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, name)).unwrap().clone()
}

fn contexts(engine: &Engine, name: &str) -> Vec<(String, Option<String>)> {
    let port = interface(engine, name);
    let one = |context: &skein_compiler::Context| {
        let floating = context.floating.as_ref().map(|floating| floating.address.to_string());
        (context.vrf.clone(), floating)
    };
    port.contexts.iter().map(one).collect()
}

fn service_vrfs(engine: &Engine, network: &str) -> Vec<String> {
    let vrf = engine.vrf(id(Kind::VIRTUAL_NETWORK, network)).unwrap();
    vrf.service_vrfs.iter().map(|(name, _)| name.clone()).collect()
}

/// Pods in one network, services in another, joined by a policy.
fn cluster() -> Vec<Vec<Change>> {
    vec![
        vec![policy("ps", &[("pods", "services", "<>", "any", -1, "pass")])],
        network("pods", 5, &["ps"]),
        network("services", 6, &["ps"]),
        network("public", 7, &[]),
        port("a", "pods", "10.5.0.7", &[]),
        port("b", "pods", "10.5.0.8", &[]),
    ]
}

const SERVICES: &str = "default-domain:shop:services:services";
const PUBLIC: &str = "default-domain:shop:public:public";

#[test]
fn a_service_has_members_and_they_are_present_in_its_vrf() {
    let mut all = cluster();
    all.push(balancer("web", "services", "10.6.0.10", 80, json!({})));
    all.push(vec![
        member("m1", "web", "10.5.0.7", "a", json!({"node": "node-1"})),
        member("m2", "web", "10.5.0.8", "b", json!({"ready": false})),
        member("m3", "web", "192.168.7.7", "", json!({})),
    ]);
    let engine = compile(all);
    let found = services(&engine, "web");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].address.to_string(), found[0].port), ("10.6.0.10".into(), 80));
    assert_eq!((found[0].vrf.as_str(), found[0].node_port), (SERVICES, 30080));
    let members: Vec<_> = found[0].members.iter().map(|m| m.address.to_string()).collect();
    assert_eq!(members, ["10.5.0.7", "192.168.7.7"], "who is not ready is not chosen");
    assert_eq!(found[0].members[0].node, "node-1");
    assert_eq!(found[0].members[1].interface, None);
    // Ready or not: connections that are there go on.
    let present = [(SERVICES.to_owned(), None)];
    assert_eq!(contexts(&engine, "a"), present);
    assert_eq!(contexts(&engine, "b"), present);
    assert_eq!(interface(&engine, "a").contexts[0].network_id, 6);
    assert_eq!(service_vrfs(&engine, "pods"), [SERVICES]);
    assert_eq!(service_vrfs(&engine, "services"), [SERVICES]);
    assert!(service_vrfs(&engine, "public").is_empty());
}

#[test]
fn kubernetes_words_arrive() {
    let mut all = cluster();
    all.push(balancer(
        "web",
        "services",
        "10.6.0.10",
        80,
        json!({
            "addresses": ["10.6.0.10", "fd00:6::10"],
            "external_addresses": ["203.0.113.9"],
            "ingress_addresses": ["198.51.100.1"],
            "session_affinity": "ClientIP",
            "internal_traffic_policy": "Local",
            "external_traffic_policy": "Local",
            "source_ranges": [{"ip_prefix": "198.51.0.0", "ip_prefix_len": 16}],
        }),
    ));
    let leaving = json!({"terminating": true, "serving": true});
    let gone = json!({"terminating": true, "serving": false});
    all.push(vec![
        member("m1", "web", "10.5.0.7", "a", leaving),
        member("m2", "web", "10.5.0.8", "b", gone),
        member("m3", "web", "fd00:5::8", "b", json!({})),
    ]);
    let engine = compile(all);
    let found = services(&engine, "web");
    let of = |address: &str| found.iter().find(|s| s.address.to_string() == address).unwrap();
    assert_eq!(found.len(), 4);
    let [v4, v6] = [of("10.6.0.10"), of("fd00:6::10")];
    let draining = |member: &Member| (member.address.to_string(), member.draining);
    assert_eq!(v4.members.iter().map(draining).collect::<Vec<_>>(), [("10.5.0.7".into(), true)]);
    assert_eq!(v6.members.iter().map(draining).collect::<Vec<_>>(), [("fd00:5::8".into(), false)]);
    assert_eq!((v4.affinity_seconds, v4.internal_local, v4.external_local), (10_800, true, true));
    let outside = of("198.51.100.1");
    assert_eq!(outside.source_prefixes[0].to_string(), "198.51.0.0/16");
    assert_eq!((outside.node_port, outside.internal_local), (0, false));
    assert!(outside.external && !v4.external);
    assert!(of("203.0.113.9").source_prefixes.is_empty());
}

#[test]
fn another_provider_and_a_switched_off_balancer_are_no_services() {
    for (key, value) in [
        ("loadbalancer_provider", json!("opencontrail")),
        ("loadbalancer_properties", json!({"vip_address": "10.6.0.10", "admin_state": false})),
    ] {
        let mut all = cluster();
        let mut web = balancer("web", "services", "10.6.0.10", 80, json!({}));
        let Change::Put(object) = &mut web[2] else { unreachable!() };
        Arc::make_mut(object).properties.insert(key.into(), value);
        all.push(web);
        all.push(vec![member("m1", "web", "10.5.0.7", "a", json!({}))]);
        let engine = compile(all);
        assert!(services(&engine, "web").is_empty());
        assert!(contexts(&engine, "a").is_empty() && service_vrfs(&engine, "pods").is_empty());
    }
}

#[test]
fn a_floating_ip_is_a_context_and_one_of_a_service_is_mapped() {
    let mut all = cluster();
    all.push(floating_ip("f1", "public", "203.0.113.5", "a"));
    all.push(balancer("web", "services", "10.6.0.10", 80, json!({})));
    all.push(floating_ip("f2", "public", "203.0.113.6", "vip-web"));
    all.push(vec![member("m1", "web", "10.5.0.8", "b", json!({}))]);
    let engine = compile(all);
    assert_eq!(contexts(&engine, "a"), [(PUBLIC.to_owned(), Some("203.0.113.5".to_owned()))]);
    let floating = interface(&engine, "a").contexts[0].floating.clone().unwrap();
    assert_eq!(floating.fixed.to_string(), "10.5.0.7");
    assert!(floating.mappings.is_empty() && floating.direction == FloatingDirection::Both);
    assert_eq!(
        contexts(&engine, "b"),
        [(PUBLIC.to_owned(), Some("203.0.113.6".to_owned())), (SERVICES.to_owned(), None)]
    );
    let floating = interface(&engine, "b").contexts[0].floating.clone().unwrap();
    assert_eq!(floating.direction, FloatingDirection::Ingress);
    let mapping = floating.mappings.first().unwrap();
    assert_eq!((mapping.protocol, mapping.floating, mapping.fixed), (6, 80, 8080));
    // Within the fabric the service itself answers there.
    assert!(services(&engine, "web").iter().any(|s| s.address.to_string() == "203.0.113.6"));
}

#[test]
fn the_host_is_a_port_with_the_nodes_address_and_nothing_judges_it() {
    let open = [("fabric", "pods", "<>", "any", -1, "pass")];
    let mut all = vec![
        vec![policy("np", &open)],
        network("fabric", 4, &["np"]),
        network("pods", 5, &["np"]),
        network("apart", 6, &[]),
    ];
    all.push(node("node-1", "192.168.0.1", "fabric"));
    let engine = compile(all);
    let host = interface(&engine, "node-1:vhost0");
    assert!(host.is_host && host.host.as_deref() == Some("node-1"));
    assert_eq!(host.addresses[0].prefix.to_string(), "192.168.0.1/32");
    assert!(host.policy.as_ref().unwrap().policy.layers.is_empty());
    let prefixes: Vec<_> = host.host_prefixes.iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.5.0.0/24"]);
}

#[test]
fn a_policys_name_stands_for_every_network_it_is_attached_to() {
    let end = |key: &str, name: &str| json!([{key: format!("default-domain:shop:{name}")}]);
    let rule = json!({
        "direction": "<>", "protocol": "any",
        "src_addresses": end("network_policy", "np"),
        "dst_addresses": end("virtual_network", "fabric"),
        "src_ports": [{"start_port": -1, "end_port": -1}],
        "dst_ports": [{"start_port": -1, "end_port": -1}],
        "action_list": {"simple_action": "pass"},
    });
    let np = Build::new(Kind::NETWORK_POLICY, "np")
        .with("network_policy_entries", json!({"policy_rule": [rule]}))
        .put();
    let all = vec![
        vec![np],
        network("fabric", 4, &["np"]),
        network("pods", 5, &["np"]),
        network("other", 6, &["np"]),
        network("apart", 7, &[]),
    ];
    let mut engine = compile(all);
    let import = |engine: &Engine, name: &str| {
        engine.vrf(id(Kind::VIRTUAL_NETWORK, name)).unwrap().import.len()
    };
    assert_eq!(import(&engine, "fabric"), 3);
    assert_eq!((import(&engine, "pods"), import(&engine, "apart")), (2, 1));
    engine.apply(&network("apart", 7, &["np"]));
    assert_eq!((import(&engine, "fabric"), import(&engine, "apart")), (4, 2));
}

#[test]
fn a_member_costs_its_own_service_among_a_thousand() {
    let mut engine = compile(cluster());
    let mut all = Vec::new();
    for number in 0..1000u32 {
        let (high, low) = (number / 250, number % 250);
        let name = format!("s{number}");
        all.extend(balancer(&name, "services", &format!("10.6.{high}.{low}"), 80, json!({})));
        for nth in 0..5 {
            let pod = format!("p{number}-{nth}");
            let address = format!("10.5.{high}.{}", (low + nth) % 250);
            all.extend(port(&pod, "pods", &address, &[]));
            all.push(member(&format!("m{number}-{nth}"), &name, &address, &pod, json!({})));
        }
    }
    let start = Instant::now();
    engine.apply(&all);
    let whole = start.elapsed();
    assert_eq!(engine.services().count(), 1000);
    let start = Instant::now();
    let change = member("m500-3", "s500", "10.5.2.3", "p500-3", json!({"ready": false}));
    let delta = engine.apply(&[change]);
    println!("1,000 services of 5 members: {whole:?}; one member changed: {:?}", start.elapsed());
    assert_eq!((delta.services.len(), delta.interfaces.len(), delta.vrfs.len()), (1, 0, 0));
    let set = delta.services[0].1.as_ref().unwrap();
    assert_eq!(set.services[0].members.len(), 4);
    let delta = engine.apply(&[Change::Delete(id(Kind::LOADBALANCER_MEMBER, "m500-3"))]);
    let touched: Vec<_> = delta.interfaces.iter().map(|(uuid, _)| *uuid).collect();
    assert_eq!(touched, [id(Kind::VIRTUAL_MACHINE_INTERFACE, "p500-3")], "it lost its context");
}
