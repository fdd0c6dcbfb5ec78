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
use skein_lab::{Host, Pod, Workload};
use std::collections::BTreeSet;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use support::named::{Named, answering, from_host, from_pod};
use support::{Bed, PATIENCE, api, soon};

const VIP: &str = "10.2.0.10";

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
        let reached = skein_lab::wait_until("an answer", PATIENCE, || {
            seen = answering(|| from_host(host, VIP, 80));
            seen == both
        });
        assert!(reached.is_ok(), "{} to the service: {seen:?}; {}", host.name(), drops(&bed));
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
    // skein0 is there once, with a route to each network and to who stands in for the host.
    soon("a route to each network", || {
        let mut show = Command::new("ip");
        let routes = hosts[0].run(show.args(["route", "show", "dev", "skein0"])).unwrap();
        routes.stdout.lines().count() == 3
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

/// A server of the host's own stack that says its name to whoever connects.
fn on_host(host: &Host, port: u16, name: &'static str) -> Named {
    let listener = host.inside(|| TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap();
    Named::serve(listener, name)
}

/// Asks an address and port; gives who answers and whom it saw.
type Ask<'a> = dyn Fn(&str, u16) -> Result<(String, String), String> + 'a;

/// Who asks, by name.
struct Client<'a> {
    name: String,
    ask: Box<Ask<'a>>,
    /// The node it is on, and whether it is that node's own stack.
    place: Option<(usize, bool)>,
}

fn clients<'a>(hosts: &'a [Host; 2], pods: [&'a Pod; 2], outside: &'a Host) -> Vec<Client<'a>> {
    let mut all = vec![Client {
        name: "outside".into(),
        ask: Box::new(|address, port| from_host(outside, address, port)),
        place: None,
    }];
    for (node, (host, pod)) in hosts.iter().zip(pods).enumerate() {
        all.push(Client {
            name: format!("host {node}"),
            ask: Box::new(move |address, port| from_host(host, address, port)),
            place: Some((node, true)),
        });
        all.push(Client {
            name: format!("pod on {node}"),
            ask: Box::new(move |address, port| from_pod(pod, address, port)),
            place: Some((node, false)),
        });
    }
    all
}

fn drops(bed: &Bed) -> String {
    format!("dropped: {:?} {:?}", bed.look(0, "drops"), bed.look(1, "drops"))
}

/// Everyone at every address of every node: who answers, as `policy` says.
fn assert_node_ports(bed: &Bed, clients: &[Client<'_>], hosts: &[Host; 2], local: bool) {
    let names = ["near", "far"];
    let both: BTreeSet<String> = names.map(str::to_owned).into();
    let only = |node: usize| BTreeSet::from([names[node].to_owned()]);
    for client in clients {
        let mut targets: Vec<(String, usize)> =
            hosts.iter().enumerate().map(|(n, host)| (host.ipv4().to_string(), n)).collect();
        if let Some((node, true)) = client.place {
            targets.push(("127.0.0.1".into(), node));
            targets.push((format!("172.20.0.{}", node + 1), node));
        }
        for (address, node) in targets {
            // At its own node a client in the cluster gets all members, as with kube-proxy.
            let at_home = client.place.is_some_and(|(home, _)| home == node);
            let wanted = if local && !at_home { only(node) } else { both.clone() };
            let mut seen = BTreeSet::new();
            let reached = skein_lab::wait_until("an answer", PATIENCE, || {
                seen = answering(|| (client.ask)(&address, 30080));
                seen == wanted
            });
            let drops = || drops(bed);
            assert!(
                reached.is_ok(),
                "{} to {address}: {seen:?}, not {wanted:?}; {}",
                client.name,
                drops()
            );
        }
    }
}

/// A second address of each node, which the fabric does not know it by.
fn second_addresses(hosts: &[Host; 2]) {
    for (node, host) in hosts.iter().enumerate() {
        let address = format!("172.20.0.{}/32", node + 1);
        let mut add = Command::new("ip");
        add.args(["address", "add", &address, "dev", "lo"]);
        host.run(&mut add).unwrap().success().unwrap();
    }
}

#[test]
fn node_ports_answer_at_every_node_from_everywhere() {
    let mut bed = Bed::start("tsvn");
    networks(&bed);
    let near = bed.attach(0, "near", "pods");
    let far = bed.attach(1, "far", "pods");
    let here = bed.attach(0, "here", "pods");
    let there = bed.attach(1, "there", "pods");
    let servers = [Named::start(&near.pod, 8080, "near"), Named::start(&far.pod, 8080, "far")];
    let hosts = [0, 1].map(|node| bed.fabric.node(node).host().clone());
    second_addresses(&hosts);
    let outside = bed.fabric.control_host().clone();
    balancer(&bed, "web", json!({"external_traffic_policy": "Cluster"}));
    member(&bed, 0, &near, json!({}));
    member(&bed, 1, &far, json!({}));
    let clients = clients(&hosts, [&here.pod, &there.pod], &outside);
    assert_node_ports(&bed, &clients, &hosts, false);
    // Packets as large as fit on `lo`: all of them arrive.
    const MUCH: u64 = 1 << 20;
    let taken = || servers.iter().map(Named::taken).sum::<u64>();
    let before = taken();
    let target = SocketAddr::from(([127, 0, 0, 1], 30080));
    let sent = hosts[0].inside(|| {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
        std::io::Write::write_all(&mut stream, &vec![7; MUCH as usize])
    });
    sent.unwrap().unwrap();
    soon("all of it to arrive", || taken() == before + MUCH);

    // The members of the node that is asked, and all for whoever is on it.
    let uuid = bed.uuid("loadbalancer", &["default-domain", "shop", "web"]);
    let policy = |policy: &str| {
        json!({"loadbalancer_service": {"addresses": [VIP], "external_traffic_policy": policy,
               "health_check_node_port": 30099}})
    };
    bed.put("loadbalancer", &uuid, &policy("Local"));
    assert_node_ports(&bed, &clients, &hosts, true);
    // Health checks say where there are members, from any host.
    let healthy = |node: usize| {
        let address = hosts[node].ipv4();
        let answer = outside.inside(|| plain_http(&format!("{address}:30099"))).unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    };
    for node in [0, 1] {
        soon("a healthy node", || healthy(node) == "HTTP/1.1 200 OK");
    }
    let mut gone = json!({"address": near.ipv4(), "protocol_port": 8080, "admin_state": true,
        "interface": bed.port(0, &near), "node": hosts[0].name(), "ready": false});
    let name = format!("member-{}", near.ipv4());
    let first = bed.uuid("loadbalancer-member", &["default-domain", "shop", "web", &name]);
    bed.put("loadbalancer-member", &first, &json!({"loadbalancer_member_properties": gone}));
    soon("a node without members", || healthy(0) == "HTTP/1.1 503 Service Unavailable");
    assert_eq!(healthy(1), "HTTP/1.1 200 OK");
    let address = hosts[0].ipv4().to_string();
    for client in clients.iter().filter(|client| client.place.is_none_or(|(node, _)| node == 1)) {
        soon("nobody to answer", || (client.ask)(&address, 30080).is_err());
    }
    gone["ready"] = json!(true);
    bed.put("loadbalancer-member", &first, &json!({"loadbalancer_member_properties": gone}));
    bed.put("loadbalancer", &uuid, &policy("Cluster"));
    assert_node_ports(&bed, &clients, &hosts, false);
    // All of it is the kernel's, not the agent's.
    drop(clients);
    bed.fabric.node_mut(0).kill_agent().unwrap();
    assert!(from_host(&hosts[0], "127.0.0.1", 30080).is_ok());
    assert!(from_pod(&there.pod, &address, 30080).is_ok());
    bed.fabric.node_mut(0).restart_agent().unwrap();
    assert!(from_host(&hosts[0], "127.0.0.1", 30080).is_ok());
    // kube-proxy beside: whoever sees a packet first serves it.
    for host in &hosts {
        let rules = kube_proxys_rules(near.ipv4(), far.ipv4());
        let path = std::env::temp_dir().join(format!("skein-lab-rules-{}", host.name()));
        std::fs::write(&path, rules).unwrap();
        host.run(Command::new("iptables-restore").arg("--noflush").arg(&path))
            .unwrap()
            .success()
            .unwrap();
        std::fs::remove_file(path).unwrap();
    }
    assert_node_ports(
        &bed,
        &self::clients(&hosts, [&here.pod, &there.pod], &outside),
        &hosts,
        false,
    );
    let both: BTreeSet<String> = ["near", "far"].map(str::to_owned).into();
    for host in &hosts {
        assert_eq!(answering(|| from_host(host, VIP, 80)), both);
    }
}

/// What kube-proxy in its iptables mode, and the kubelet, write for the service of two members.
fn kube_proxys_rules(one: &str, other: &str) -> String {
    let chains = [
        "KUBE-SERVICES",
        "KUBE-NODEPORTS",
        "KUBE-EXT-WEB",
        "KUBE-SVC-WEB",
        "KUBE-SEP-ONE",
        "KUBE-SEP-OTHER",
        "KUBE-MARK-MASQ",
        "KUBE-POSTROUTING",
    ];
    let chains = chains.map(|chain| format!(":{chain} - [0:0]\n")).concat();
    format!(
        "*nat\n{chains}\
         -A PREROUTING -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-SERVICES\n\
         -A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
         -A KUBE-SERVICES -d {VIP}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-WEB\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
         -A KUBE-NODEPORTS -p tcp -m tcp --dport 30080 -j KUBE-EXT-WEB\n\
         -A KUBE-EXT-WEB -j KUBE-MARK-MASQ\n\
         -A KUBE-EXT-WEB -j KUBE-SVC-WEB\n\
         -A KUBE-SVC-WEB ! -s 10.1.0.0/24 -d {VIP}/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n\
         -A KUBE-SVC-WEB -m statistic --mode random --probability 0.5 -j KUBE-SEP-ONE\n\
         -A KUBE-SVC-WEB -j KUBE-SEP-OTHER\n\
         -A KUBE-SEP-ONE -s {one}/32 -j KUBE-MARK-MASQ\n\
         -A KUBE-SEP-ONE -p tcp -m tcp -j DNAT --to-destination {one}:8080\n\
         -A KUBE-SEP-OTHER -s {other}/32 -j KUBE-MARK-MASQ\n\
         -A KUBE-SEP-OTHER -p tcp -m tcp -j DNAT --to-destination {other}:8080\n\
         COMMIT\n\
         *filter\n:KUBE-FIREWALL - [0:0]\n:KUBE-FORWARD - [0:0]\n\
         -A INPUT -j KUBE-FIREWALL\n\
         -A OUTPUT -j KUBE-FIREWALL\n\
         -A FORWARD -j KUBE-FORWARD\n\
         -A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         COMMIT\n"
    )
}

fn plain_http(target: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream =
            TcpStream::connect_timeout(&target.parse().unwrap(), Duration::from_secs(1))?;
        std::io::Write::write_all(&mut stream, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    ask().unwrap_or_else(|error| error.to_string())
}

#[test]
fn the_nodes_own_stack_serves_and_external_addresses_do_not_leave_the_cluster() {
    let bed = Bed::start("tsvh");
    networks(&bed);
    let here = bed.attach(0, "here", "pods");
    let there = bed.attach(1, "there", "pods");
    let near = bed.attach(0, "near", "pods");
    let hosts = [0, 1].map(|node| bed.fabric.node(node).host().clone());
    let outside = bed.fabric.control_host().clone();
    let _servers = [on_host(&hosts[0], 8080, "stack"), Named::start(&near.pod, 8080, "near")];
    const EXTERNAL: &str = "198.51.100.7";
    let service = |source: &[&str]| {
        let prefix = |text: &&str| {
            let (address, length) = text.split_once('/').unwrap();
            json!({"ip_prefix": address, "ip_prefix_len": length.parse::<u8>().unwrap()})
        };
        json!({"addresses": [VIP], "ingress_addresses": [EXTERNAL],
               "external_traffic_policy": "Local",
               "source_ranges": source.iter().map(prefix).collect::<Vec<_>>()})
    };
    balancer(&bed, "web", service(&[]));
    let own = hosts[0].ipv4().to_string();
    make(
        &bed,
        "loadbalancer-member",
        json!({"fq_name": ["default-domain", "shop", "web", "stack"],
               "parent_type": "loadbalancer-pool",
               "loadbalancer_member_properties": {
                   "address": own, "protocol_port": 8080, "admin_state": true,
                   "node": hosts[0].name()}}),
    );
    let only = |name: &str| BTreeSet::from([name.to_owned()]);
    let clients = clients(&hosts, [&here.pod, &there.pod], &outside);
    for client in &clients {
        let mut targets = vec![(own.as_str(), 30080)];
        if let Some((node, is_host)) = client.place {
            targets.extend([(VIP, 80), (EXTERNAL, 80)]);
            if is_host && node == 0 {
                targets.push(("127.0.0.1", 30080));
            }
        }
        for (address, port) in targets {
            let mut seen = BTreeSet::new();
            let reached = skein_lab::wait_until("an answer", PATIENCE, || {
                seen = answering(|| (client.ask)(address, port));
                seen == only("stack")
            });
            let drops = || drops(&bed);
            assert!(reached.is_ok(), "{} to {address}:{port}: {seen:?}; {}", client.name, drops());
        }
    }
    // The address does not leave: nobody outside would answer it. Who may use it is told, but for nodes.
    let uuid = bed.uuid("loadbalancer", &["default-domain", "shop", "web"]);
    let ranges = format!("{}/32", here.ipv4());
    bed.put("loadbalancer", &uuid, &json!({"loadbalancer_service": service(&[&ranges])}));
    soon("a client out of range", || from_pod(&there.pod, EXTERNAL, 80).is_err());
    assert!(from_pod(&here.pod, EXTERNAL, 80).is_ok());
    assert!(from_host(&hosts[1], EXTERNAL, 80).is_ok());
    assert!(from_pod(&there.pod, VIP, 80).is_ok(), "the cluster's own address is open");
}

#[test]
fn a_port_of_one_node_leads_to_its_pod() {
    let bed = Bed::start("tsvp");
    networks(&bed);
    let here = bed.attach(0, "here", "pods");
    let there = bed.attach(1, "there", "pods");
    let server = bed.attach(0, "near", "pods");
    let hosts = [0, 1].map(|node| bed.fabric.node(node).host().clone());
    let outside = bed.fabric.control_host().clone();
    let _server = Named::start(&server.pod, 8080, "near");
    let full = |name: &str| json!(["default-domain", "shop", name]);
    // As the Kubernetes manager says a container's hostPort: on the pod's own port.
    let port = bed.port(0, &server);
    make(
        &bed,
        "loadbalancer",
        json!({"fq_name": full("host-port"), "parent_type": "project",
               "loadbalancer_provider": "native",
               "loadbalancer_properties": {"vip_address": server.ipv4(), "admin_state": true},
               "loadbalancer_service": {"addresses": ["0.0.0.0"], "host_node": hosts[0].name()},
               "virtual_machine_interface_refs": [{"uuid": port}]}),
    );
    make(
        &bed,
        "loadbalancer-listener",
        json!({"fq_name": full("host-port"), "parent_type": "project",
               "loadbalancer_listener_properties": {
                   "protocol": "TCP", "protocol_port": 18080, "admin_state": true},
               "loadbalancer_refs": [{"to": full("host-port")}]}),
    );
    make(
        &bed,
        "loadbalancer-pool",
        json!({"fq_name": full("host-port"), "parent_type": "project",
               "loadbalancer_pool_properties": {
                   "protocol": "TCP", "admin_state": true,
                   "subnet_id": "00000000-0000-4000-8000-000000000001"},
               "loadbalancer_listener_refs": [{"to": full("host-port")}]}),
    );
    let member = make(
        &bed,
        "loadbalancer-member",
        json!({"fq_name": ["default-domain", "shop", "host-port", "one"],
               "parent_type": "loadbalancer-pool",
               "loadbalancer_member_properties": {
                   "address": server.ipv4(), "protocol_port": 8080, "admin_state": true,
                   "interface": port, "node": hosts[0].name()}}),
    );
    let clients = clients(&hosts, [&here.pod, &there.pod], &outside);
    let addresses = hosts.each_ref().map(|host| host.ipv4().to_string());
    for client in &clients {
        let mut seen = String::new();
        let reached = skein_lab::wait_until("an answer", PATIENCE, || {
            let answer = (client.ask)(&addresses[0], 18080);
            seen = format!("{answer:?}");
            answer.is_ok_and(|(name, _)| name == "near")
        });
        assert!(reached.is_ok(), "{}: {seen}; {}", client.name, drops(&bed));
        // At the other node nobody answers.
        assert!((client.ask)(&addresses[1], 18080).is_err(), "{}", client.name);
    }
    assert_eq!(from_host(&hosts[0], "127.0.0.1", 18080).unwrap().0, "near");
    // The server sees who asks from outside, and from pods.
    assert_eq!(from_host(&outside, &addresses[0], 18080).unwrap().1, outside.ipv4().to_string());
    assert_eq!(from_pod(&there.pod, &addresses[0], 18080).unwrap().1, there.ipv4());
    remove(&bed, "loadbalancer-member", &member);
    for client in &clients {
        soon("the port to close", || (client.ask)(&addresses[0], 18080).is_err());
    }
}
