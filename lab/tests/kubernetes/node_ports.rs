//! Who reaches what by the addresses of nodes: node ports, hostPorts, health checks, and externalIPs, from a pod on each node, from each
//! node's own host, and from outside.

use crate::{ANSWER, PATIENCE, Steps, ask_from_host, create_namespace, create_pod};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, KubeProxy, ProbeOutcome};
use skein_lab::{Host, wait_for};
use std::collections::BTreeSet;
use std::time::Duration;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const NODE_PORT: u16 = 30_180;
const LOCAL_PORT: u16 = 30_181;
const CLOSED_PORT: u16 = 30_182;
/// Chosen like the others: one that Kubernetes chooses may be one of them.
const HEALTH_PORT: u16 = 30_183;
const HOST_PORT: u16 = 18_080;
/// Somebody leads it to the cluster, as its users say.
const EXTERNAL: &str = "203.0.113.5";
/// Often enough that each of three members answers.
const OFTEN: usize = 30;
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(400);
const ISOLATED: &str = "closed";

pub(crate) fn check(cluster: &Cluster, pods: &[KubePod], steps: &mut Steps) {
    let service = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["selector"] = json!({"set": "probe1"});
        let object = json!({"metadata": {"name": name}, "spec": spec});
        cluster.api().create(SERVICES, &object).unwrap();
    };
    let ports = |node_port: u16| json!([{"name": "tcp", "protocol": "TCP", "port": 80, "targetPort": 80, "nodePort": node_port}]);
    service(
        "everywhere",
        json!({"type": "NodePort", "ports": ports(NODE_PORT), "externalIPs": [EXTERNAL]}),
    );
    let way = format!("{EXTERNAL}/32 via {}", cluster.nodes()[1].host().ipv4());
    cluster.control_host().ip(&format!("route add {way}\n")).unwrap();
    service(
        "here",
        json!({
            "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports(LOCAL_PORT),
            "healthCheckNodePort": HEALTH_PORT,
        }),
    );
    isolated_server(cluster, cluster.nodes()[1].name());
    let clients = clients(cluster, pods);
    let members = |node: &str| -> BTreeSet<String> {
        let those = pods.iter().filter(|pod| pod.object["metadata"]["labels"]["set"] == "probe1");
        those.filter(|pod| pod.node == node).map(|pod| pod.name.clone()).collect()
    };
    everyone(cluster, &clients, &members);
    every_protocol(cluster, &clients);
    for node in cluster.nodes() {
        // Who is in front asks this.
        let target = format!("{}:{HEALTH_PORT}", node.host().ipv4());
        wait_for("a health check", PATIENCE, || {
            let said = cluster.control_host().inside(|| get(&target)).unwrap();
            let none = members(node.name()).is_empty();
            let expected = if none { "HTTP/1.1 503" } else { "HTTP/1.1 200" };
            if said.starts_with(expected) { Ok(()) } else { Err(said) }
        })
        .unwrap();
    }
    println!("{} clients asked 4 ports at 3 nodes", clients.len());
    steps.done("ports of nodes from pods, hosts and outside");

    // Whoever sees a packet first serves it: for the nodes' own processes that is kube-proxy. Its masquerading takes the address
    // that it finds first, which is none that the fabric knows.
    let proxies: Vec<KubeProxy> = cluster
        .nodes()
        .iter()
        .enumerate()
        .map(|(number, node)| {
            let other = format!("address add 172.20.0.{}/32 dev lo\n", number + 1);
            node.host().ip(&other).unwrap();
            KubeProxy::start(cluster, node.host(), node.name(), "10.244.0.0/16")
                .unwrap_or_else(|error| panic!("{error}"))
        })
        .collect();
    println!("beside {}", proxies[0].versions().unwrap());
    everyone(cluster, &clients, &members);
    for proxy in proxies {
        proxy.remove().unwrap_or_else(|error| panic!("{error}"));
    }
    for (number, client) in clients.iter().filter(|client| client.is_host).enumerate().skip(1) {
        let node = &cluster.nodes()[number - 1];
        node.host().ip(&format!("address delete 172.20.0.{number}/32 dev lo\n")).unwrap();
        expect(client, "127.0.0.1", NODE_PORT, &everybody(cluster, &members));
    }
    steps.done("the same beside kube-proxy");

    // The port goes with its pod.
    cluster.api().delete(&format!("/api/v1/namespaces/{ISOLATED}/pods/server")).unwrap();
    let address = cluster.nodes()[1].host().ipv4().to_string();
    expect(&clients[0], &address, HOST_PORT, &["-".to_owned()].into());
    cluster.control_host().ip(&format!("route delete {way}\n")).unwrap();
    for name in ["everywhere", "here"] {
        cluster.api().delete(&format!("{SERVICES}/{name}")).unwrap();
    }
    cluster.api().delete(&format!("/api/v1/namespaces/{ISOLATED}")).unwrap();
    steps.done("ports that go");
}

/// A service with ports of every protocol, two of some: at nodes and at an external address each leads to its own port of the pods.
fn every_protocol(cluster: &Cluster, clients: &[Client<'_>]) {
    // Protocol, the service's port, the pods', the nodes'.
    const PORTS: [(&str, u16, u16, u16); 5] = [
        ("tcp", 90, 80, 30_190),
        ("tcp", 91, 81, 30_191),
        ("udp", 90, 80, 30_190),
        ("sctp", 90, 80, 30_190),
        ("sctp", 91, 81, 30_191),
    ];
    let port = |(protocol, port, target, node): (&str, u16, u16, u16)| {
        json!({
            "name": format!("{protocol}-{port}"), "protocol": protocol.to_uppercase(),
            "port": port, "targetPort": target, "nodePort": node,
        })
    };
    let spec = |kind: &str| {
        json!({
            "type": kind, "selector": {"set": "probe1"}, "externalIPs": [EXTERNAL],
            "ports": PORTS.map(port),
        })
    };
    let object = |kind: &str| json!({"metadata": {"name": "protocols"}, "spec": spec(kind)});
    // The API server's doing: only services of these types have ports at nodes.
    let refused = cluster.api().create(SERVICES, &object("ClusterIP"));
    assert!(refused.is_err_and(|error| error.to_string().contains("nodePort")));
    cluster.api().create(SERVICES, &object("NodePort")).unwrap();
    let mut targets = Vec::new();
    for (protocol, port, target, node_port) in PORTS {
        targets.push((format!("{protocol}:{EXTERNAL}:{port}"), target));
        for node in cluster.nodes() {
            targets.push((format!("{protocol}:{}:{node_port}", node.host().ipv4()), target));
        }
    }
    let asked: Vec<String> = targets.iter().map(|(target, _)| target.clone()).collect();
    for client in clients {
        wait_for(&format!("every protocol to answer {}", client.name), PATIENCE, || {
            let outcomes = (client.ask)(&asked, ANSWER);
            let wrong: Vec<&ProbeOutcome> = outcomes
                .iter()
                .zip(&targets)
                .filter(|(outcome, (_, port))| {
                    // Only TCP knows where it was asked.
                    let right = |server: &String| server.ends_with(&format!(":{port}"));
                    let answer = outcome.answer.as_ref();
                    !answer.is_some_and(|answer| answer.server.as_ref().is_none_or(right))
                })
                .map(|(outcome, _)| outcome)
                .collect();
            if wrong.is_empty() { Ok(()) } else { Err(format!("{wrong:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    cluster.api().delete(&format!("{SERVICES}/protocols")).unwrap();
}

fn everybody(cluster: &Cluster, members: &dyn Fn(&str) -> BTreeSet<String>) -> BTreeSet<String> {
    cluster.nodes().iter().flat_map(|node| members(node.name())).collect()
}

/// All clients at all ports of all nodes. `members`: of the services, by node.
fn everyone(cluster: &Cluster, clients: &[Client<'_>], members: &dyn Fn(&str) -> BTreeSet<String>) {
    let all = everybody(cluster, members);
    for client in clients {
        expect(client, EXTERNAL, 80, &all);
    }
    for (number, node) in cluster.nodes().iter().enumerate() {
        let address = node.host().ipv4().to_string();
        let on_node = members(node.name());
        for client in clients {
            let at_home = client.home == Some(number);
            let wanted = if at_home { &all } else { &on_node };
            let mut addresses = vec![address.as_str()];
            if at_home && client.is_host {
                addresses.push("127.0.0.1");
            }
            for address in addresses {
                expect(client, address, NODE_PORT, &all);
                expect(client, address, LOCAL_PORT, wanted);
                // Isolation holds inside the cluster; outside and hosts are no pods of another namespace.
                let pod_elsewhere = client.home.is_some() && !client.is_host;
                let closed: BTreeSet<String> =
                    [if pod_elsewhere { "-" } else { "server" }.to_owned()].into();
                expect(client, address, CLOSED_PORT, &closed);
                let held = if number == 1 { "server" } else { "-" };
                let held = if pod_elsewhere { "-" } else { held };
                expect(client, address, HOST_PORT, &[held.to_owned()].into());
            }
        }
    }
}

/// A pod in a namespace of its own networks, with a hostPort, behind a node port.
fn isolated_server(cluster: &Cluster, node: &str) {
    let isolated = json!({"name": ISOLATED, "annotations": {"opencontrail.org/isolation": "true"}});
    create_namespace(cluster, &isolated);
    let pod = json!({
        "metadata": {"name": "server", "labels": {"app": "server"}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "probe", "image": skein_lab::kubernetes::PROBE_IMAGE,
                "imagePullPolicy": "Never",
                "ports": [{"containerPort": 80, "hostPort": HOST_PORT}]}],
        },
    });
    create_pod(cluster, ISOLATED, &pod);
    let service = json!({"metadata": {"name": "server"}, "spec": {
        "type": "NodePort", "selector": {"app": "server"},
        "ports": [{"port": 80, "targetPort": 80, "nodePort": CLOSED_PORT}],
    }});
    cluster.api().create(&format!("/api/v1/namespaces/{ISOLATED}/services"), &service).unwrap();
}

/// Asks targets, each for so long.
type Ask<'a> = dyn Fn(&[String], Duration) -> Vec<ProbeOutcome> + 'a;

struct Client<'a> {
    name: String,
    /// The node it is on.
    home: Option<usize>,
    is_host: bool,
    ask: Box<Ask<'a>>,
}

fn clients<'a>(cluster: &'a Cluster, pods: &'a [KubePod]) -> Vec<Client<'a>> {
    let host = |name: String, host: &'a Host, home| Client {
        name,
        home,
        is_host: true,
        ask: Box::new(move |targets, timeout| ask_from_host(cluster, host, targets, timeout)),
    };
    let mut all = vec![host("outside".into(), cluster.control_host(), None)];
    for (number, node) in cluster.nodes().iter().enumerate() {
        all.push(host(format!("host of {}", node.name()), node.host(), Some(number)));
        let pod = pods.iter().find(|pod| pod.node == node.name()).unwrap();
        all.push(Client {
            name: format!("pod on {}", node.name()),
            home: Some(number),
            is_host: false,
            ask: Box::new(move |targets, timeout| pod.ask(targets, timeout).unwrap()),
        });
    }
    all
}

fn expect(client: &Client<'_>, address: &str, port: u16, wanted: &BTreeSet<String>) {
    let (often, timeout) = if wanted.contains("-") { (1, SILENCE) } else { (OFTEN, ANSWER) };
    let targets = vec![format!("tcp:{address}:{port}"); often];
    wait_for(&format!("{} to {address}:{port}: {wanted:?}", client.name), PATIENCE, || {
        let outcomes = (client.ask)(&targets, timeout);
        let name = |outcome: &ProbeOutcome| {
            outcome.answer.as_ref().map_or_else(|| "-".to_owned(), |answer| answer.pod.clone())
        };
        let seen: BTreeSet<String> = outcomes.iter().map(name).collect();
        if seen == *wanted { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .unwrap();
}

fn get(target: &str) -> String {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect_timeout(&target.parse().unwrap(), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    ask().unwrap_or_else(|error| error.to_string())
}
