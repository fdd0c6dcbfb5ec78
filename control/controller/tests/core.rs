//! What nodes are told, by example.
#![allow(clippy::unwrap_used, clippy::panic)]

mod follower;
#[path = "../../compiler/tests/world/mod.rs"]
mod world;

use follower::{Agent, Follower, START, local, two_nodes, uuid};
use skein_controller::{Core, END_OF_RIB_LIMIT, RESTART_TIME, STALE_TIME};
use skein_model::{Change, Kind};
use skein_proto::session::{self, to_agent};
use std::time::Duration;
use world::dns::{ipam, record, server};
use world::services::{balancer, floating_ip, member, node, of_cluster};
use world::{Build, id, network, policy, port};

#[test]
fn a_node_gets_what_its_ports_need_and_no_more() {
    let (_, one, _) = two_nodes(&[]);
    assert_eq!(one.view.interfaces.keys().collect::<Vec<_>>(), [&uuid("f")]);
    assert_eq!(one.view.vrfs.keys().collect::<Vec<_>>(), ["default-domain:shop:front:front"]);
    assert_eq!(one.view.snapshots, 1);
    assert_eq!(one.paths("front", "10.5.0.7"), ["192.168.0.1"]);
    assert!(one.paths("front", "10.6.0.7").is_empty());
    assert_eq!(one.view.complete.len(), 1);
}

#[test]
fn a_policy_leaks_routes_and_its_removal_takes_them_back() {
    let (mut core, mut one, _) = two_nodes(&["web"]);
    assert_eq!(one.paths("front", "10.6.0.7"), ["192.168.0.2"]);
    core.configure(&network("back", 6, &[]), 8, false);
    one.poll(&mut core);
    assert!(one.paths("front", "10.6.0.7").is_empty());
}

#[test]
fn a_node_may_only_announce_addresses_that_intent_gave_its_ports() {
    let (mut core, mut one, two) = two_nodes(&["web"]);
    // A port that the node did not announce.
    let foreign = local("b", "back", "10.6.0.7", 30);
    let publish = session::Publish { reach: vec![foreign], unreach: Vec::new() };
    assert_eq!(core.publish(&one.name, one.id, &publish).len(), 1);
    // An own port, but an address that it does not have.
    two.publish(&mut core, local("b", "back", "10.6.0.99", 31));
    one.poll(&mut core);
    assert!(one.paths("front", "10.6.0.99").is_empty());
    // The address arrives in the configuration: the announcement counts from then on.
    core.configure(&port("b", "back", "10.6.0.99", &[]), 9, false);
    one.poll(&mut core);
    assert_eq!(one.paths("front", "10.6.0.99"), ["192.168.0.2"]);
    assert!(one.paths("front", "10.6.0.7").is_empty());
}

#[test]
fn a_port_bound_to_one_node_is_no_business_of_another() {
    let (mut core, mut one, two) = two_nodes(&["web"]);
    let mut bound = port("b", "back", "10.6.0.7", &[]);
    let Change::Put(object) = &bound[0] else { panic!("a port is put") };
    let mut object = (**object).clone();
    let bindings = serde_json::json!({"key_value_pair": [{"key": "host_id", "value": "node-2"}]});
    object.properties.insert("virtual_machine_interface_bindings".into(), bindings);
    bound[0] = Change::Put(std::sync::Arc::new(object));
    core.configure(&bound, 8, false);
    // Node 1 claims it too: it is told nothing of it and draws no traffic for it.
    let claim = session::Interest { add: vec![uuid("b")], ..session::Interest::default() };
    core.interest(&one.name, one.id, &claim);
    one.publish(&mut core, local("b", "back", "10.6.0.7", 40));
    one.poll(&mut core);
    assert!(!one.view.interfaces.contains_key(&uuid("b")));
    assert_eq!(one.paths("front", "10.6.0.7"), ["192.168.0.2"]);
    drop(two);
}

#[test]
fn routes_of_a_lost_node_stay_for_the_restart_time_and_no_longer() {
    let (mut core, mut one, two) = two_nodes(&["web"]);
    core.disconnect("node-2", two.id, Duration::from_secs(10));
    core.tick(Duration::from_secs(10) + RESTART_TIME - Duration::from_secs(1));
    one.poll(&mut core);
    assert_eq!(one.paths("front", "10.6.0.7"), ["192.168.0.2"]);
    core.tick(Duration::from_secs(10) + RESTART_TIME);
    one.poll(&mut core);
    assert!(one.paths("front", "10.6.0.7").is_empty());
}

#[test]
fn a_node_that_comes_back_keeps_what_it_repeats() {
    let (mut core, mut one, two) = two_nodes(&["web"]);
    core.disconnect("node-2", two.id, Duration::from_secs(1));
    let again = Agent::new(&mut core, 2, &["b"]);
    one.poll(&mut core);
    assert_eq!(one.paths("front", "10.6.0.7"), ["192.168.0.2"]);
    core.end_of_publish("node-2", again.id);
    one.poll(&mut core);
    assert!(one.paths("front", "10.6.0.7").is_empty(), "not repeated, so gone");
}

/// Two ports, each on its node, that share an address, preferred as given; 0: nothing is said.
fn sharing(preferences: [i64; 2]) -> (Core, Agent, Agent) {
    let mut core = Core::default();
    let mut changes = network("front", 5, &[]);
    let mut shared = Build::new(Kind::INSTANCE_IP, "shared")
        .with("instance_ip_address", serde_json::json!("10.5.0.100"))
        .with("instance_ip_mode", serde_json::json!("active-standby"))
        .refer(Kind::VIRTUAL_NETWORK, "front");
    for (name, own, preference) in [("one", "10.5.0.7", 0), ("two", "10.5.0.8", 1)] {
        let mut made = port(name, "front", own, &[]);
        shared = shared.refer(Kind::VIRTUAL_MACHINE_INTERFACE, name);
        let Change::Put(object) = made.remove(0) else { panic!("a port is put") };
        let wanted = serde_json::json!({"local_preference": preferences[preference]});
        let build = Build((*object).clone());
        changes.push(build.with("virtual_machine_interface_properties", wanted).put());
        changes.extend(made);
    }
    changes.push(shared.put());
    core.configure(&changes, 7, true);
    let mut agents = ["one", "two"].iter().zip(1..).map(|(name, node)| {
        let agent = Agent::new(&mut core, node, &[name]);
        agent.publish(&mut core, local(name, "front", "10.5.0.100", 15 + u32::from(node)));
        core.end_of_publish(&agent.name, agent.id);
        agent
    });
    let (mut one, mut two) = (agents.next().unwrap(), agents.next().unwrap());
    drop(agents);
    one.poll(&mut core);
    two.poll(&mut core);
    (core, one, two)
}

const SHARED: (&str, &str) = ("front", "10.5.0.100");

#[test]
fn of_ports_that_share_an_address_the_preferred_one_is_used_and_equal_ones_share() {
    for (preferences, wanted) in [
        ([200, 100], vec!["192.168.0.1"]),
        ([100, 200], vec!["192.168.0.2"]),
        ([0, 200], vec!["192.168.0.2"]),
        ([0, 50], vec!["192.168.0.1"]),
        ([0, 0], vec!["192.168.0.1", "192.168.0.2"]),
        ([0, 100], vec!["192.168.0.1", "192.168.0.2"]),
        ([150, 150], vec!["192.168.0.1", "192.168.0.2"]),
    ] {
        let (_, one, two) = sharing(preferences);
        for agent in [one, two] {
            assert_eq!(agent.paths(SHARED.0, SHARED.1), wanted, "{preferences:?}");
            let told = agent.view.interfaces.values().next().unwrap().local_preference;
            assert!(told > 0, "a node is always told");
        }
    }
}

#[test]
fn the_standby_takes_over_from_a_node_that_is_away_until_it_is_back_in_full() {
    let (mut core, one, mut two) = sharing([200, 100]);
    let lost = Duration::from_secs(10);
    core.disconnect("node-1", one.id, lost);
    core.tick(lost + STALE_TIME - Duration::from_secs(1));
    two.poll(&mut core);
    assert_eq!(two.paths(SHARED.0, SHARED.1), ["192.168.0.1"], "it may only be restarting");
    assert!(!core.has_lost(lost + STALE_TIME - Duration::from_millis(1)));
    assert!(core.has_lost(lost + STALE_TIME));
    core.tick(lost + STALE_TIME);
    assert!(!core.has_lost(lost + STALE_TIME), "that is seen to");
    two.poll(&mut core);
    assert_eq!(two.paths(SHARED.0, SHARED.1), ["192.168.0.2"]);

    let again = Agent::new(&mut core, 1, &["one"]);
    two.poll(&mut core);
    assert_eq!(two.paths(SHARED.0, SHARED.1), ["192.168.0.2"], "it may have lost everything");
    again.publish(&mut core, local("one", "front", "10.5.0.100", 16));
    core.end_of_publish("node-1", again.id);
    two.poll(&mut core);
    assert_eq!(two.paths(SHARED.0, SHARED.1), ["192.168.0.1"]);
}

#[test]
fn a_fresh_controller_does_not_call_a_table_complete_before_all_nodes_spoke() {
    let mut core = Core::default();
    let mut changes = network("front", 5, &[]);
    changes.extend(port("f", "front", "10.5.0.7", &[]));
    changes.push(world::Build::new(Kind::VIRTUAL_ROUTER, "node-2").put());
    core.configure(&changes, 1, true);
    let mut one = Agent::new(&mut core, 1, &["f"]);
    core.tick(START);
    core.end_of_publish("node-1", one.id);
    one.poll(&mut core);
    assert!(one.view.complete.is_empty());
    core.tick(END_OF_RIB_LIMIT);
    one.poll(&mut core);
    assert_eq!(one.view.complete.len(), 1);
}

#[test]
fn nothing_is_sent_before_the_configuration_is_known() {
    let mut core = Core::default();
    let mut one = Agent::new(&mut core, 1, &["f"]);
    core.configure(&network("front", 5, &[]), 1, false);
    one.poll(&mut core);
    assert_eq!(one.view, Follower::default());
    core.configure(&[], 2, true);
    one.poll(&mut core);
    assert_eq!(one.view.snapshots, 1);
}

/// Clients on node 1, members on node 2, services in a network of their own that a policy joins to the clients'.
fn with_service() -> (Core, Agent, Agent) {
    let (mut core, mut one, mut two) = two_nodes(&[]);
    let mut changes = vec![policy("use", &[("front", "services", "<>", "any", -1, "pass")])];
    changes.extend(network("services", 7, &["use"]));
    changes.extend(network("front", 5, &["use"]));
    changes.extend(balancer("web", "services", "10.7.0.10", 80, serde_json::json!({})));
    changes.push(member("m", "web", "10.6.0.7", "b", serde_json::json!({"node": "node-2"})));
    core.configure(&changes, 8, false);
    one.poll(&mut core);
    two.poll(&mut core);
    (core, one, two)
}

#[test]
fn a_client_gets_services_and_the_way_to_members_only_where_they_are_members() {
    let (mut core, mut one, mut two) = with_service();
    let services: Vec<_> = one.view.services.values().collect();
    assert_eq!((services.len(), services[0].address.as_str()), (1, "10.7.0.10"));
    assert_eq!(services[0].members[0].address, "10.6.0.7");
    // The member's node needs the VRF, but has no clients.
    assert!(two.view.services.is_empty());
    assert_eq!(two.view.interfaces[&uuid("b")].contexts.len(), 1);
    // Its route there is for the services' VRF alone.
    two.publish(&mut core, local("b", "services", "10.6.0.7", 18));
    one.poll(&mut core);
    assert_eq!(one.paths("services", "10.6.0.7"), ["192.168.0.2"]);
    assert!(one.paths("front", "10.6.0.7").is_empty());
    let vrf = "default-domain:shop:services:services".to_owned();
    let route = &one.view.routes[&(vrf, "10.6.0.7/32".to_owned())];
    assert_eq!(route.paths[0].network_id, 7, "it is seen as one of the services' network");
    // Whoever is no member may not announce itself there.
    one.publish(&mut core, local("f", "services", "10.5.0.7", 19));
    one.poll(&mut core);
    // What is there is the client's own route, which the policy brings.
    let vrf = "default-domain:shop:services:services".to_owned();
    let paths = &one.view.routes[&(vrf, "10.5.0.7/32".to_owned())].paths;
    assert_eq!(paths.iter().map(|path| path.label).collect::<Vec<_>>(), [16]);
    // The member goes: its route goes with it, the service stays and refuses.
    core.configure(&[Change::Delete(id(Kind::LOADBALANCER_MEMBER, "m"))], 9, false);
    one.poll(&mut core);
    two.poll(&mut core);
    assert!(one.paths("services", "10.6.0.7").is_empty());
    assert!(one.view.services.values().next().unwrap().members.is_empty());
    assert_eq!(two.view.vrfs.len(), 1);
    core.configure(&network("front", 5, &[]), 10, false);
    one.poll(&mut core);
    assert!(one.view.services.is_empty() && one.view.vrfs.len() == 1);
}

#[test]
fn a_floating_ip_is_announced_with_the_targets_of_its_network() {
    let (mut core, mut one, mut two) = two_nodes(&[]);
    core.configure(&floating_ip("fip", "front", "203.0.113.5", "b"), 8, false);
    two.poll(&mut core);
    two.publish(&mut core, local("b", "front", "203.0.113.5", 18));
    one.poll(&mut core);
    assert_eq!(one.paths("front", "203.0.113.5"), ["192.168.0.2"]);
    // Its own address is not reached there.
    two.publish(&mut core, local("b", "front", "10.6.0.7", 19));
    one.poll(&mut core);
    assert!(one.paths("front", "10.6.0.7").is_empty());
}

#[test]
fn a_node_has_the_port_of_its_own_stack_without_asking() {
    let (mut core, mut one, mut two) = two_nodes(&[]);
    let vhost = uuid("node-1:vhost0");
    core.configure(&node("node-1", "192.168.0.1", "front"), 8, false);
    one.poll(&mut core);
    two.poll(&mut core);
    let port = &one.view.interfaces[&vhost];
    assert!(port.host && port.addresses[0].prefix == "192.168.0.1/32");
    assert!(!two.view.interfaces.contains_key(&vhost));
    // Neither its own list of ports nor a new session takes it away.
    let mut again = Agent::new(&mut core, 1, &["f"]);
    again.poll(&mut core);
    assert!(again.view.interfaces.contains_key(&vhost));
    let id = again.id;
    let none = session::Interest { remove: vec![vhost.clone()], ..session::Interest::default() };
    core.interest("node-1", id, &none);
    again.poll(&mut core);
    assert!(again.view.interfaces.contains_key(&vhost));
    let mut route = local("node-1:vhost0", "front", "192.168.0.1", 20);
    route.interface = vhost;
    again.publish(&mut core, route);
    again.poll(&mut core);
    assert_eq!(again.paths("front", "192.168.0.1"), ["192.168.0.1"]);
}

#[test]
fn a_nodes_own_stack_uses_its_clusters_services_and_no_others() {
    let (mut core, mut one, mut two) = two_nodes(&[]);
    // The nodes' network is joined to both clusters' services, which have the same address and node port.
    let joined =
        [("fabric", "east", "<>", "any", -1, "pass"), ("fabric", "west", "<>", "any", -1, "pass")];
    let mut changes = vec![policy("np", &joined)];
    changes.extend(network("fabric", 4, &["np"]));
    changes.extend(of_cluster("east", network("east", 7, &["np"])));
    changes.extend(of_cluster("west", network("west", 8, &["np"])));
    for name in ["east", "west"] {
        changes.extend(balancer(
            &format!("web-{name}"),
            name,
            "10.96.0.10",
            80,
            serde_json::json!({}),
        ));
    }
    changes.extend(node("node-1", "192.168.0.1", "fabric"));
    changes.extend(node("node-2", "192.168.0.2", "fabric"));
    core.configure(&changes, 8, false);
    one.poll(&mut core);
    two.poll(&mut core);
    let vrfs = |agent: &Agent| -> Vec<String> {
        let mut all: Vec<_> = agent.view.services.values().map(|s| s.vrf.clone()).collect();
        all.sort();
        all.iter().map(|vrf| vrf.rsplit(':').next().unwrap().to_owned()).collect()
    };
    // Nodes of no cluster have to do with all.
    assert_eq!((vrfs(&one), one.view.nodes.len()), (vec!["east".into(), "west".into()], 2));
    core.configure(&of_cluster("east", node("node-1", "192.168.0.1", "fabric")), 9, false);
    one.poll(&mut core);
    two.poll(&mut core);
    assert_eq!((vrfs(&one), one.view.nodes.len()), (vec!["east".into()], 2));
    assert_eq!((vrfs(&two), two.view.nodes.len()), (vec!["east".into(), "west".into()], 2));
    core.configure(&of_cluster("west", node("node-2", "192.168.0.2", "fabric")), 10, false);
    one.poll(&mut core);
    two.poll(&mut core);
    assert_eq!((vrfs(&one), one.view.nodes.clone()), (vec!["east".into()], vec!["node-1".into()]));
    assert_eq!((vrfs(&two), two.view.nodes.clone()), (vec!["west".into()], vec!["node-2".into()]));
    // The way to pods is there as before.
    let host = &one.view.interfaces[&uuid("node-1:vhost0")];
    assert_eq!(host.host_prefixes, ["10.7.0.0/24", "10.8.0.0/24"]);
    // A node changes sides.
    core.configure(&of_cluster("west", node("node-1", "192.168.0.1", "fabric")), 11, false);
    one.poll(&mut core);
    assert_eq!((vrfs(&one), one.view.nodes.len()), (vec!["west".into()], 2));
}

#[test]
fn one_name_of_a_thousand_that_changes_is_one_small_message() {
    let (mut core, mut one, mut two) = two_nodes(&[]);
    let mut zone =
        vec![server("shop", serde_json::json!({"domain_name": "shop.example"})), ipam("shop")];
    zone.extend((0..1000).map(|n| record("shop", &format!("s{n}"), "A", "10.0.0.1")));
    core.configure(&zone, 8, false);
    one.poll(&mut core);
    two.poll(&mut core);
    assert_eq!((one.view.dns_zones.len(), one.view.dns_records.len()), (1, 1000));
    core.configure(&[record("shop", "s7", "A", "10.0.0.7")], 9, false);
    let messages = core.take("node-1", one.id);
    let [session::ToAgent { message: Some(to_agent::Message::Intent(intent)) }] =
        messages.as_slice()
    else {
        panic!("{messages:?}")
    };
    assert_eq!((intent.dns_records.len(), intent.dns_zones.len()), (1, 0));
    assert_eq!(intent.dns_records[0].records[0].data, "10.0.0.7");
    assert!(intent.vrfs.is_empty() && intent.interfaces.is_empty());
    // A node without the network has nothing of it any more.
    core.configure(&[ipam("")], 10, false);
    two.poll(&mut core);
    assert!(two.view.dns_zones.is_empty() && two.view.dns_records.is_empty());
}
