//! What configurations mean, by example.

#![allow(clippy::unwrap_used)]

mod world;

use skein_compiler::Engine;
use skein_model::{Change, Kind};
use skein_policy::{Layer, Peer, RuleAction};
use world::{Build, dual, group, id, network, policy, port, second_address, targeted};

fn compile(changes: impl IntoIterator<Item = Vec<Change>>) -> Engine {
    let mut engine = Engine::new();
    engine.apply(&changes.into_iter().flatten().collect::<Vec<_>>());
    engine
}

fn vrf_import(engine: &Engine, name: &str) -> Vec<String> {
    let vrf = engine.vrf(id(Kind::VIRTUAL_NETWORK, name)).unwrap();
    vrf.import.iter().map(ToString::to_string).collect()
}

fn vrf_export(engine: &Engine, name: &str) -> Vec<String> {
    let vrf = engine.vrf(id(Kind::VIRTUAL_NETWORK, name)).unwrap();
    vrf.export.iter().map(ToString::to_string).collect()
}

fn layers(engine: &Engine, name: &str) -> Vec<Layer> {
    let port = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, name)).unwrap();
    port.policy.as_ref().unwrap().policy.layers.clone()
}

#[test]
fn a_port_has_its_network_address_and_gateway() {
    let engine = compile([network("front", 5, &[]), port("p1", "front", "10.5.0.7", &[])]);
    let found = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, "p1")).unwrap();
    assert_eq!(found.vrf, "default-domain:shop:front:front");
    assert_eq!(found.addresses[0].prefix.to_string(), "10.5.0.7/24");
    assert_eq!(found.addresses[0].gateway.unwrap().to_string(), "10.5.0.1");
    assert_eq!(found.attributes.network, 5);
    assert!(layers(&engine, "p1").is_empty());
    assert_eq!(vrf_import(&engine, "front"), ["target:64512:8000005"]);
}

#[test]
fn networks_are_joined_only_when_both_attach_a_policy_that_names_the_other() {
    let web = [("front", "back", ">", "tcp", 80, "pass")];
    let engine = compile([
        vec![policy("web", &web)],
        network("front", 5, &["web"]),
        network("back", 6, &[]),
    ]);
    assert_eq!(vrf_import(&engine, "front"), ["target:64512:8000005"]);
    let engine = compile([
        vec![policy("web", &web)],
        network("front", 5, &["web"]),
        network("back", 6, &["web"]),
    ]);
    let both = ["target:64512:8000005", "target:64512:8000006"];
    assert_eq!(vrf_import(&engine, "front"), both);
    assert_eq!(vrf_import(&engine, "back"), both);
}

/// `route_target_list` works both ways, the other two lists one way each; all are beside the network's own target.
#[test]
fn lists_of_route_targets_say_what_a_network_imports_and_exports() {
    let listed = |name, number, both: &[&str], import: &[&str], export: &[&str]| {
        targeted(network(name, number, &[]), both, import, export)
    };
    let mut engine = compile([
        listed("front", 5, &["target:1:10"], &["target:2:20"], &["target:3:30", "none"]),
        listed("back", 6, &[], &["target:3:30"], &[]),
        network("alone", 7, &[]),
    ]);
    assert_eq!(
        vrf_import(&engine, "front"),
        ["target:1:10", "target:2:20", "target:64512:8000005"]
    );
    assert_eq!(
        vrf_export(&engine, "front"),
        ["target:1:10", "target:3:30", "target:64512:8000005"]
    );
    // One way: it has the routes of the other, and the other none of its own.
    let meets = |engine: &Engine, from: &str, to: &str| {
        let imports = vrf_import(engine, to);
        vrf_export(engine, from).iter().any(|target| imports.contains(target))
    };
    assert!(meets(&engine, "front", "back") && !meets(&engine, "back", "front"));
    assert!(!meets(&engine, "front", "alone") && !meets(&engine, "alone", "front"));
    // A network that names another's own target imports it without a policy.
    engine.apply(&listed("alone", 7, &[], &["target:64512:8000005"], &[]));
    assert!(meets(&engine, "front", "alone") && !meets(&engine, "alone", "front"));
    // Lists that go take their routes with them.
    engine.apply(&network("front", 5, &[]));
    assert_eq!(vrf_import(&engine, "front"), ["target:64512:8000005"]);
    assert_eq!(vrf_export(&engine, "front"), ["target:64512:8000005"]);
    assert!(!meets(&engine, "front", "back"));
}

/// The reference of a routing instance says the same of one target: `import_export`, or both ways without it.
#[test]
fn targets_of_a_routing_instance_work_one_way_if_they_say_so() {
    let target = |name: &str| Build::new(Kind::ROUTE_TARGET, name).put();
    let side = |side: &str| serde_json::json!({"import_export": side});
    let instance = Build::new(Kind::ROUTING_INSTANCE, "front")
        .with("routing_instance_is_default", true.into())
        .refer(Kind::ROUTE_TARGET, "target:1:1")
        .refer_with(Kind::ROUTE_TARGET, "target:2:2", side("import"))
        .refer_with(Kind::ROUTE_TARGET, "target:3:3", side("export"))
        .put();
    let targets = ["target:1:1", "target:2:2", "target:3:3"].map(target).to_vec();
    let engine = compile([network("front", 5, &[]), targets, vec![instance]]);
    assert_eq!(vrf_import(&engine, "front"), ["target:1:1", "target:2:2"]);
    assert_eq!(vrf_export(&engine, "front"), ["target:1:1", "target:3:3"]);
}

#[test]
fn a_port_of_both_families_has_an_address_and_a_gateway_of_each() {
    let engine = compile([
        dual(network("front", 5, &[]), 5),
        port("p1", "front", "10.5.0.7", &[]),
        vec![second_address("p1", "front", "fd00:5::7")],
    ]);
    let found = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, "p1")).unwrap();
    let mut addresses: Vec<_> = found.addresses.iter().collect();
    addresses.sort_by_key(|address| address.prefix.to_string());
    let said: Vec<_> = addresses
        .iter()
        .map(|address| (address.prefix.to_string(), address.gateway.unwrap().to_string()))
        .collect();
    let expected = [("10.5.0.7/24", "10.5.0.1"), ("fd00:5::7/64", "fd00:5::1")];
    assert_eq!(said, expected.map(|(prefix, gateway)| (prefix.to_owned(), gateway.to_owned())));
    let vrf = engine.vrf(id(Kind::VIRTUAL_NETWORK, "front")).unwrap();
    let subnets: Vec<_> = vrf.subnets.iter().map(|subnet| subnet.prefix.to_string()).collect();
    assert_eq!(subnets, ["10.5.0.0/24", "fd00:5::/64"]);
}

#[test]
fn nodes_lend_the_ports_that_the_configuration_says() {
    let config = |pools: serde_json::Value| {
        let pools = serde_json::json!({"port_translation_pool": pools});
        let build = Build::new(Kind::GLOBAL_VROUTER_CONFIG, "vrouters");
        vec![build.with("port_translation_pools", pools).put()]
    };
    let pools = |engine: &Engine| -> Vec<_> {
        let global = engine.global().unwrap();
        global.port_pools.iter().map(|pool| (pool.protocol, pool.first, pool.last)).collect()
    };
    let range = |protocol: &str, start: i64, end: i64| {
        serde_json::json!({"protocol": protocol,
        "port_range": {"start_port": start, "end_port": end}})
    };
    let mut engine = compile([config(serde_json::json!([
        range("udp", 5000, 5010),
        range("tcp", 2100, 2200),
        range("TCP", 2000, 2099),
        range("6", 2150, 2300),
        {"protocol": "sctp", "port_count": "100"},
        // Not sensible, and refused by the API.
        range("tcp", 9, 8),
        range("udp", 0, 8),
        range("icmp", 1, 8),
        {"protocol": "tcp"},
    ]))]);
    assert_eq!(pools(&engine), [(6, 2000, 2300), (17, 5000, 5010), (132, 56_000, 56_099)]);
    engine.apply(&config(serde_json::json!([])));
    assert_eq!(pools(&engine), []);
}

#[test]
fn connections_last_as_long_as_the_configuration_says() {
    let config = |entries: serde_json::Value| {
        let list = serde_json::json!({"flow_aging_timeout": entries});
        let build = Build::new(Kind::GLOBAL_VROUTER_CONFIG, "vrouters");
        vec![build.with("flow_aging_timeout_list", list).put()]
    };
    let entry = |protocol: &str, port: i64, seconds: i64| serde_json::json!({"protocol": protocol, "port": port, "timeout_in_seconds": seconds});
    let ages = |engine: &Engine| -> Vec<_> {
        let global = engine.global().unwrap();
        global.flow_ages.iter().map(|age| (age.protocol, age.port, age.seconds)).collect()
    };
    let mut engine = compile([config(serde_json::json!([
        entry("tcp", 9042, 2_147_483_647),
        entry("udp", 53, 9),
        entry("17", 53, 10),
        entry("icmp", 0, 20),
        entry("TCP", 0, 0),
        // Not sensible, and refused by the API.
        entry("tcp", 70_000, 5),
        entry("tcp", 80, -1),
        entry("carrier-pigeon", 0, 5),
        entry("any", 0, 5),
        {"protocol": "tcp", "port": 81},
    ]))]);
    let ever = 2_147_483_647;
    assert_eq!(ages(&engine), [(1, 0, 20), (6, 0, 0), (6, 9042, ever), (17, 53, 10), (58, 0, 20)]);
    engine.apply(&config(serde_json::json!([])));
    assert_eq!(ages(&engine), []);
}

#[test]
fn a_deny_rule_joins_nothing() {
    let engine = compile([
        vec![policy("no", &[("front", "back", "<>", "any", -1, "deny")])],
        network("front", 5, &["no"]),
        network("back", 6, &["no"]),
    ]);
    assert_eq!(vrf_import(&engine, "front"), ["target:64512:8000005"]);
}

#[test]
fn a_one_way_rule_lets_only_the_source_open_connections() {
    let engine = compile([
        vec![policy("web", &[("front", "back", ">", "tcp", 80, "pass")])],
        network("front", 5, &["web"]),
        network("back", 6, &["web"]),
        port("f", "front", "10.5.0.7", &[]),
        port("b", "back", "10.6.0.7", &[]),
    ]);
    let front = &layers(&engine, "f")[0];
    assert_eq!(front.egress[0].remotes, [Peer::Network(6)]);
    assert_eq!(front.egress[0].destination_ports, [80..=80]);
    // Implicit rules follow: the own network passes, the named one does not, the rest does.
    assert_eq!(front.egress[1].remotes, [Peer::Network(5)]);
    assert!(
        front.egress[1].action == RuleAction::Pass
            && front.egress[2].action == RuleAction::Deny
            && front.default_pass
    );
    assert_eq!(front.ingress.len(), 2);
    let back = &layers(&engine, "b")[0];
    assert_eq!(back.ingress[0].remotes, [Peer::Network(5)]);
    assert_eq!(back.egress.len(), 2);
}

#[test]
fn policies_are_read_in_order_of_their_sequence() {
    let engine = compile([
        vec![
            policy("first", &[("front", "back", ">", "tcp", 80, "deny")]),
            policy("second", &[("front", "back", "<>", "any", -1, "pass")]),
        ],
        network("front", 5, &["first", "second"]),
        network("back", 6, &["first", "second"]),
        port("f", "front", "10.5.0.7", &[]),
    ]);
    let rules = &layers(&engine, "f")[0].egress;
    assert!(rules[0].action == RuleAction::Deny && rules[0].destination_ports == [80..=80]);
    assert!(rules[1].action == RuleAction::Pass && rules[1].destination_ports.is_empty());
}

#[test]
fn security_group_rules_apply_at_the_member() {
    let engine = compile([
        vec![group("web", 8_000_001, "tcp", "0.0.0.0/0"), group("db", 8_000_002, "tcp", "web")],
        network("front", 5, &[]),
        port("w", "front", "10.5.0.7", &["web"]),
        port("d", "front", "10.5.0.8", &["db"]),
    ]);
    let db = &layers(&engine, "d")[0];
    assert_eq!(db.ingress[0].remotes, [Peer::SecurityGroup(8_000_001)]);
    assert_eq!((db.ingress[0].protocol, db.ingress[0].family), (Some(6), Some(4)));
    assert!(!db.default_pass);
    // The whole of IPv4 is a family, not a prefix to keep an identity for.
    let web = &layers(&engine, "w")[0];
    assert!(web.ingress[0].remotes.is_empty() && web.ingress[0].family == Some(4));
    let port = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, "w")).unwrap();
    assert_eq!(port.attributes.security_groups, [8_000_001]);
}

#[test]
fn equal_ports_share_one_policy() {
    let engine = compile([
        vec![group("web", 8_000_001, "tcp", "0.0.0.0/0")],
        network("front", 5, &[]),
        port("a", "front", "10.5.0.7", &["web"]),
        port("b", "front", "10.5.0.8", &["web"]),
    ]);
    let policy = |name: &str| {
        engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, name)).unwrap().policy.clone().unwrap()
    };
    assert!(std::sync::Arc::ptr_eq(&policy("a"), &policy("b")));
}

#[test]
fn a_change_touches_only_what_it_concerns() {
    let mut engine = compile([
        vec![group("web", 8_000_001, "tcp", "0.0.0.0/0")],
        network("front", 5, &[]),
        network("back", 6, &[]),
        port("a", "front", "10.5.0.7", &["web"]),
        port("b", "back", "10.6.0.8", &[]),
    ]);
    let delta = engine.apply(&[group("web", 8_000_001, "udp", "0.0.0.0/0")]);
    let touched: Vec<_> = delta.interfaces.iter().map(|(uuid, _)| *uuid).collect();
    assert_eq!(touched, [id(Kind::VIRTUAL_MACHINE_INTERFACE, "a")]);
    assert!(delta.vrfs.is_empty() && delta.global.is_none());
    let delta = engine.apply(&[Change::Delete(id(Kind::VIRTUAL_MACHINE_INTERFACE, "b"))]);
    assert_eq!(delta.interfaces, [(id(Kind::VIRTUAL_MACHINE_INTERFACE, "b"), None)]);
}
