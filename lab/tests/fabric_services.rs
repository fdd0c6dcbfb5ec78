//! Services, floating IPs, the node's own stack and the way outside, from objects of the configuration API to packets, with
//! nothing in between left out. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]
#![allow(clippy::needless_pass_by_value, reason = "json! reads better where it is passed")]

mod support;

use serde_json::{Value, json};
use skein_lab::{Pod, Workload};
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use support::named::{Named, from_host, from_pod};
use support::{Bed, api, soon};

const VIP: &str = "10.2.0.10";

/// Who answers a few dozen connections; a failed one answers with its error.
fn answering(mut ask: impl FnMut() -> Result<(String, String), String>) -> BTreeSet<String> {
    (0..30).map(|_| ask().map_or_else(|error| error, |(name, _)| name)).collect()
}

fn make(bed: &Bed, kind: &str, fields: Value) -> String {
    let host = bed.fabric.control_host();
    let (status, answer) =
        api(host, "POST", &format!("/{kind}s"), &json!({ kind: fields })).unwrap();
    assert_eq!(status, 200, "{kind}: {answer}");
    answer[kind]["uuid"].as_str().unwrap().to_owned()
}

fn remove(bed: &Bed, kind: &str, uuid: &str) {
    let (status, answer) = bed.api("DELETE", &format!("/{kind}/{uuid}"), &Value::Null);
    assert_eq!(status, 200, "{kind}: {answer}");
}

const FABRIC: [&str; 3] = ["default-domain", "default-project", "ip-fabric"];

/// Networks of pods and of services, joined to each other, and all of them to the nodes.
fn networks(bed: &Bed) {
    bed.network("pods", 1);
    bed.network("services", 2);
    let end = |name: &str| json!({"virtual_network": format!("default-domain:shop:{name}")});
    let any = json!([{"start_port": -1, "end_port": -1}]);
    let policy = |name: &str, from: Value, to: Value| {
        make(
            bed,
            "network-policy",
            json!({
                "fq_name": ["default-domain", "shop", name], "parent_type": "project",
                "network_policy_entries": {"policy_rule": [{
                    "direction": "<>", "protocol": "any", "src_ports": any, "dst_ports": any,
                    "src_addresses": from, "dst_addresses": to,
                    "action_list": {"simple_action": "pass"},
                }]},
            }),
        );
    };
    policy("ps", json!([end("pods")]), json!([end("services")]));
    let fabric = json!([{"virtual_network": FABRIC.join(":")}]);
    policy("fabric", json!([end("pods"), end("services")]), fabric);
    let attach = |network: &[&str], policies: &[&str]| {
        let refs: Vec<Value> = policies
            .iter()
            .map(|name| {
                json!({"to": ["default-domain", "shop", name],
                       "attr": {"sequence": {"major": 0, "minor": 0}}})
            })
            .collect();
        let uuid = bed.uuid("virtual-network", network);
        bed.put("virtual-network", &uuid, &json!({"network_policy_refs": refs}));
    };
    attach(&["default-domain", "shop", "pods"], &["ps", "fabric"]);
    attach(&["default-domain", "shop", "services"], &["ps", "fabric"]);
    attach(&FABRIC, &["fabric"]);
}

/// A native load balancer on the address, port 80 and node port 30080; gives its pool.
fn balancer(bed: &Bed, name: &str, service: Value) -> String {
    let full = |name: &str| json!(["default-domain", "shop", name]);
    let services = full("services");
    let vip = make(
        bed,
        "virtual-machine-interface",
        json!({"fq_name": full(&format!("vip-{name}")), "parent_type": "project",
               "virtual_network_refs": [{"to": services}]}),
    );
    make(
        bed,
        "instance-ip",
        json!({"fq_name": [format!("vip-{name}")], "instance_ip_address": VIP,
               "virtual_network_refs": [{"to": services}],
               "virtual_machine_interface_refs": [{"uuid": vip}]}),
    );
    make(
        bed,
        "loadbalancer",
        json!({"fq_name": full(name), "parent_type": "project", "loadbalancer_provider": "native",
               "loadbalancer_properties": {"vip_address": VIP, "admin_state": true},
               "loadbalancer_service": service,
               "virtual_machine_interface_refs": [{"uuid": vip}]}),
    );
    make(
        bed,
        "loadbalancer-listener",
        json!({"fq_name": full(name), "parent_type": "project",
               "loadbalancer_listener_properties": {
                   "protocol": "TCP", "protocol_port": 80, "admin_state": true,
                   "node_port": 30080},
               "loadbalancer_refs": [{"to": full(name)}]}),
    );
    make(
        bed,
        "loadbalancer-pool",
        json!({"fq_name": full(name), "parent_type": "project",
               "loadbalancer_pool_properties": {
                   "protocol": "TCP", "admin_state": true,
                   "subnet_id": "00000000-0000-4000-8000-000000000001"},
               "loadbalancer_listener_refs": [{"to": full(name)}]}),
    )
}

fn member(bed: &Bed, node: usize, workload: &Workload, more: Value) -> String {
    let mut properties = json!({
        "address": workload.ipv4(), "protocol_port": 8080, "admin_state": true,
        "interface": bed.port(node, workload), "node": bed.fabric.node(node).host().name(),
    });
    if let (Some(all), Value::Object(more)) = (properties.as_object_mut(), more) {
        all.extend(more);
    }
    let name = format!("member-{}", workload.ipv4());
    make(
        bed,
        "loadbalancer-member",
        json!({"fq_name": ["default-domain", "shop", "web", name],
               "parent_type": "loadbalancer-pool", "loadbalancer_member_properties": properties}),
    )
}

#[test]
fn a_service_is_reached_from_pods_nodes_and_outside() {
    let mut bed = Bed::start("tsvc");
    networks(&bed);
    let client = bed.attach(0, "client", "pods");
    let near = bed.attach(0, "near", "pods");
    let far = bed.attach(1, "far", "pods");
    let _servers = [Named::start(&near.pod, 8080, "near"), Named::start(&far.pod, 8080, "far")];
    balancer(&bed, "web", json!({}));
    let near_member = member(&bed, 0, &near, json!({}));
    let far_member = member(&bed, 1, &far, json!({}));
    let vip = || from_pod(&client.pod, VIP, 80);
    let start = Instant::now();
    soon("the service to answer", || vip().is_ok());
    println!("the service answered {:?} after its last member was written", start.elapsed());
    let both: BTreeSet<String> = ["near", "far"].map(str::to_owned).into();
    soon("both members", || answering(vip) == both);
    // Members see their client, not a balancer.
    assert_eq!(vip().unwrap().1, client.ipv4());
    let listed = bed.look(0, "services");
    assert_eq!(listed[0]["members"].as_array().unwrap().len(), 2, "{listed:?}");
    // A member that uses its own service reaches itself and the other.
    soon("a member as client", || answering(|| from_pod(&near.pod, VIP, 80)) == both);

    // Hosts: to pods of both nodes, and to the service.
    let hosts = [0, 1].map(|node| bed.fabric.node(node).host().clone());
    for host in &hosts {
        for workload in [&near, &far] {
            soon("a host to reach a pod", || from_host(host, workload.ipv4(), 8080).is_ok());
        }
        let mut seen = BTreeSet::new();
        let reached = skein_lab::wait_until("x", Duration::from_secs(5), || {
            seen = answering(|| from_host(host, VIP, 80));
            seen == both
        });
        assert!(reached.is_ok(), "{} to the service: {seen:?}", host.name());
    }
    // A pod to the addresses of nodes.
    for host in &hosts {
        let address = host.ipv4().to_string();
        assert!(client.pod.pings(&address, 3).unwrap(), "{address}: {:?}", bed.look(0, "drops"));
    }
    // From outside, at any node.
    let outside = bed.fabric.control_host().clone();
    for host in &hosts {
        let address = host.ipv4().to_string();
        let ask = || from_host(&outside, &address, 30080);
        soon("both members at the node port", || answering(ask) == both);
    }

    // A pod may use that of its own node, too.
    let address = hosts[0].ipv4().to_string();
    soon("the node port for a pod", || from_pod(&client.pod, &address, 30080).is_ok());

    // Not ready, gone, none left.
    let properties = |ready: bool| {
        json!({"loadbalancer_member_properties": {
            "address": near.ipv4(), "protocol_port": 8080, "admin_state": true, "ready": ready,
            "interface": bed.port(0, &near), "node": hosts[0].name(),
        }})
    };
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    bed.put("loadbalancer-member", &near_member, &properties(false));
    soon("the member to be left out", || answering(vip) == only("far"));
    bed.put("loadbalancer-member", &near_member, &properties(true));
    soon("the member to be back", || answering(vip) == both);
    remove(&bed, "loadbalancer-member", &far_member);
    soon("the member to go", || answering(vip) == only("near"));
    // The agent comes back to what the kernel holds.
    bed.fabric.node_mut(0).kill_agent().unwrap();
    assert_eq!(answering(vip), only("near"));
    bed.fabric.node_mut(0).restart_agent().unwrap();
    assert_eq!(answering(vip), only("near"));
    assert_eq!(answering(|| from_host(&hosts[0], VIP, 80)), only("near"));
    remove(&bed, "loadbalancer-member", &near_member);
    soon("connections to be refused", || vip().is_err_and(|error| error.contains("refused")));
    // skein0 is there once, with a route to each network.
    soon("a route to each network", || {
        let mut show = Command::new("ip");
        let routes = hosts[0].run(show.args(["route", "show", "dev", "skein0"])).unwrap();
        routes.stdout.lines().count() == 2
    });
}

#[test]
fn traffic_policies_keep_to_the_node_and_keep_the_client() {
    let bed = Bed::start("tsvl");
    networks(&bed);
    let client = bed.attach(0, "client", "pods");
    let near = bed.attach(0, "near", "pods");
    let far = bed.attach(1, "far", "pods");
    let _servers = [Named::start(&near.pod, 8080, "near"), Named::start(&far.pod, 8080, "far")];
    balancer(
        &bed,
        "web",
        json!({"internal_traffic_policy": "Local", "external_traffic_policy": "Local",
               "session_affinity": "ClientIP", "addresses": [VIP]}),
    );
    member(&bed, 0, &near, json!({}));
    member(&bed, 1, &far, json!({}));
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    soon("the service", || answering(|| from_pod(&client.pod, VIP, 80)) == only("near"));
    let outside = bed.fabric.control_host().clone();
    for (node, name) in [(0, "near"), (1, "far")] {
        let address = bed.fabric.node(node).host().ipv4().to_string();
        soon("the node port", || from_host(&outside, &address, 30080).is_ok());
        assert_eq!(answering(|| from_host(&outside, &address, 30080)), only(name));
        let seen = from_host(&outside, &address, 30080).unwrap().1;
        assert_eq!(seen, outside.ipv4().to_string(), "the source is kept");
    }
}

#[test]
fn floating_ips_and_the_way_outside() {
    let bed = Bed::start("tfip");
    bed.network("pods", 1);
    bed.network("public", 3);
    let inside = bed.attach(0, "inside", "pods");
    let there = bed.attach(1, "there", "public");
    let _servers =
        [Named::start(&inside.pod, 8080, "inside"), Named::start(&there.pod, 8080, "there")];
    assert!(from_pod(&there.pod, inside.ipv4(), 8080).is_err(), "no policy joins the networks");
    make(
        &bed,
        "floating-ip-pool",
        json!({"fq_name": ["default-domain", "shop", "public", "pool"],
               "parent_type": "virtual-network"}),
    );
    make(
        &bed,
        "floating-ip",
        json!({"fq_name": ["default-domain", "shop", "public", "pool", "fip"],
               "parent_type": "floating-ip-pool", "floating_ip_address": "10.3.0.77",
               "project_refs": [{"to": ["default-domain", "shop"]}],
               "virtual_machine_interface_refs": [{"uuid": bed.port(0, &inside)}]}),
    );
    soon("the floating IP", || from_pod(&there.pod, "10.3.0.77", 8080).is_ok());
    // And the other way it is the source.
    soon("the floating IP as source", || {
        from_pod(&inside.pod, there.ipv4(), 8080).is_ok_and(|(_, seen)| seen == "10.3.0.77")
    });

    // Out of the fabric: the controller's host is no node.
    let outside = bed.fabric.control_host().clone();
    let address = outside.ipv4().to_string();
    let connects = |pod: &Pod| {
        let target = SocketAddr::new(address.parse().unwrap(), 8082);
        let limit = Duration::from_secs(1);
        pod.inside(|| TcpStream::connect_timeout(&target, limit).is_ok()).unwrap()
    };
    assert!(!connects(&inside.pod), "nothing leads outside before it is asked for");
    let uuid = bed.uuid("virtual-network", &["default-domain", "shop", "pods"]);
    bed.put("virtual-network", &uuid, &json!({"fabric_snat": true}));
    soon("the way outside", || connects(&inside.pod));
    assert!(!connects(&there.pod), "another network's pods stay in");
}
