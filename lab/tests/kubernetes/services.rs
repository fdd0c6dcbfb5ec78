//! Services: cluster addresses, the API server's own, and ports of the nodes.

use crate::{
    ANSWER, NODES, PATIENCE, PODS_READY, Steps, ask_from_host, ask_from_node, create_pod,
    other_node,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, ProbeOutcome, SkeinNetwork};
use skein_lab::wait_for;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices";
/// Asked so often, one of three members is left out once in ten million runs.
const OFTEN: usize = 40;
const SHORT: Duration = Duration::from_millis(500);

pub(crate) fn check(
    cluster: &Cluster,
    network: &SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    let address = cluster_address(cluster, pods, steps);
    changes_are_followed(cluster, pods, &address, steps);
    the_api_server_is_reached(cluster, pods);
    steps.done("service of the API server from a pod and a node");
    node_ports(cluster, pods);
    steps.done("node ports");
    others_stacks_and_names(cluster, network, pods);
    steps.done("host-network pods, endpoints without a selector, ports by name");
    for name in ["web", "doors", "near"] {
        cluster.api().delete(&format!("{SERVICES}/{name}")).unwrap();
    }
    wait_for("services to be gone from the nodes", PATIENCE, || {
        let shown = network.skein_on(0, &["vrouter", "services"]).unwrap().stdout;
        if shown.contains("default/web") { Err(shown) } else { Ok(()) }
    })
    .unwrap();
    wait_for("the service's address to be silent", PATIENCE, || {
        let gone = pods[0].ask(&[format!("tcp:{address}:8080")], SHORT).unwrap();
        if gone[0].answered() { Err(format!("{gone:?}")) } else { Ok(()) }
    })
    .unwrap();
    steps.done("services deleted");
}

/// Makes a service of the pods of a set; gives what the API server made of it.
fn service(cluster: &Cluster, name: &str, set: &str, more: &Value) -> Value {
    let mut spec = json!({
        "selector": {"set": set},
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 8080, "targetPort": 80},
            {"name": "udp", "protocol": "UDP", "port": 8080, "targetPort": 80},
        ],
    });
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let object = json!({"metadata": {"name": name}, "spec": spec});
    cluster.api().create(SERVICES, &object).unwrap()
}

pub(crate) fn names(pods: &[KubePod], set: &str) -> BTreeSet<String> {
    let of_set = |pod: &&KubePod| pod.object["metadata"]["labels"]["set"] == set;
    pods.iter().filter(of_set).map(|pod| pod.name.clone()).collect()
}

/// Who answers; an answer that is missing is one of "-".
pub(crate) fn answering(outcomes: &[ProbeOutcome]) -> BTreeSet<String> {
    let name =
        |outcome: &ProbeOutcome| outcome.answer.as_ref().map_or("-".into(), |a| a.pod.clone());
    outcomes.iter().map(name).collect()
}

fn cluster_address(cluster: &Cluster, pods: &[KubePod], steps: &mut Steps) -> String {
    let made = service(cluster, "web", "probe1", &json!({}));
    let since = Instant::now();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let members = names(pods, "probe1");
    let one = [format!("tcp:{address}:8080")];
    wait_for("the service to answer", PATIENCE, || {
        let outcomes = pods[0].ask(&one, SHORT).unwrap();
        if outcomes[0].answered() { Ok(()) } else { Err(format!("{outcomes:?}")) }
    })
    .unwrap();
    println!("a service answers {:.2} s after it was made", since.elapsed().as_secs_f64());
    for protocol in ["tcp", "udp"] {
        let targets = vec![format!("{protocol}:{address}:8080"); OFTEN];
        for pod in pods {
            let outcomes = answered_by(&members, &pod.name, || pod.ask(&targets, ANSWER).unwrap());
            // A member sees the client's own address; one that got itself sees the service's.
            for answer in outcomes.iter().filter_map(|outcome| outcome.answer.as_ref()) {
                let seen = if answer.pod == pod.name { &address } else { &pod.address };
                assert!(answer.client.starts_with(&format!("{seen}:")), "{}: {answer:?}", pod.name);
            }
        }
        for node in 0..NODES {
            let ask = || ask_from_node(cluster, node, &targets, ANSWER);
            answered_by(&members, &format!("node {node}"), ask);
        }
    }
    wait_for("a port that the service does not have", PATIENCE, || {
        let closed = pods[0].ask(&[format!("tcp:{address}:8081")], ANSWER).unwrap();
        assert!(!closed[0].answered(), "{closed:?}");
        let refused = closed[0].error.as_deref() == Some("refused");
        if refused { Ok(()) } else { Err(format!("{closed:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    steps.done("a service's cluster address from every pod and node");
    address
}

/// Other members, no members, members again.
fn changes_are_followed(cluster: &Cluster, pods: &[KubePod], address: &str, steps: &mut Steps) {
    let targets = vec![format!("tcp:{address}:8080"); OFTEN];
    let asker = &pods[0];
    for (set, wanted) in [
        ("probe2", names(pods, "probe2")),
        ("nobody", BTreeSet::from(["-".to_owned()])),
        ("probe1", names(pods, "probe1")),
    ] {
        let since = Instant::now();
        cluster
            .api()
            .merge(&format!("{SERVICES}/web"), &json!({"spec": {"selector": {"set": set}}}))
            .unwrap();
        wait_for("the new members to answer", PATIENCE, || {
            let outcomes = asker.ask(&targets, SHORT).unwrap();
            let now = answering(&outcomes);
            if now == wanted { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .unwrap();
        println!("members {set} after {:.2} s", since.elapsed().as_secs_f64());
    }
    steps.done("changed members are followed");
}

/// As a program in a pod talks to the API server: over TLS, with the pod's token, at the service's address.
fn the_api_server_is_reached(cluster: &Cluster, pods: &[KubePod]) {
    let version = cluster.api().get("/version").unwrap()["gitVersion"].to_string();
    for pod in [&pods[0], other_node(pods, &pods[0])] {
        let pid = pod.pid().unwrap().to_string();
        let account = format!("/proc/{pid}/root/var/run/secrets/kubernetes.io/serviceaccount");
        let token = std::fs::read_to_string(format!("{account}/token")).unwrap();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--net", "--"]).arg(cluster.kubectl_program()).args([
            "--server=https://10.96.0.1:443",
            &format!("--certificate-authority={account}/ca.crt"),
            &format!("--token={token}"),
            "--request-timeout=5s",
            "get",
            "--raw",
            "/version",
        ]);
        // A kubeconfig of whoever runs this is none of a pod's.
        command.env("KUBECONFIG", "/dev/null").env("HOME", cluster.state());
        wait_for(&format!("the API server to answer {}", pod.name), PATIENCE, || {
            let ran = command.output().unwrap();
            let answer = String::from_utf8_lossy(&ran.stdout).into_owned();
            if answer.contains(&version) { Ok(()) } else { Err(format!("{ran:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    // What answers plain HTTP so on that port is the API server.
    for node in cluster.nodes() {
        wait_for(&format!("the API server to answer {}", node.name()), PATIENCE, || {
            let answer = node.host().inside(|| plain_http("10.96.0.1:443")).unwrap();
            if answer.contains("HTTPS server") { Ok(()) } else { Err(answer) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

fn plain_http(address: &str) -> String {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect_timeout(&address.parse().unwrap(), ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_else(|error| error.to_string())
}

/// Members that are no pods of ours: a pod on its node's network, and a host that only a slice names; and members of which each has another
/// number for the port's name. Asked from pods and hosts of all nodes.
fn others_stacks_and_names(cluster: &Cluster, network: &SkeinNetwork, pods: &[KubePod]) {
    let pod = |name: &str, node: usize, more: &Value| {
        let mut container =
            json!({"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({
            "metadata": {"name": name, "labels": {"app": name, "doors": more["ports"][0]["name"]}},
            "spec": {
                "nodeName": cluster.nodes()[node].name(), "terminationGracePeriodSeconds": 1,
                "hostNetwork": name == "on-host", "containers": [container],
            },
        })
    };
    let served = json!({"args": ["serve", "tcp:7080", "udp:7080"], "ports": [{"name": "host", "containerPort": 7080}]});
    create_pod(cluster, "default", &pod("on-host", 1, &served));
    for (name, node, port) in [("door-80", 0, 80), ("door-81", 2, 81)] {
        let door = json!({"ports": [{"name": "door", "containerPort": port}]});
        create_pod(cluster, "default", &pod(name, node, &door));
    }
    let mut command = Command::new(cluster.options().programs.join("skein-probe"));
    command.args(["serve", "tcp:7081", "udp:7081"]);
    let outside = cluster.control_host();
    let _server = outside.spawn("members", &mut command).unwrap();

    // It has its node's address, and nothing of it is in the configuration.
    let on_host = cluster.wait_pods("default", "app=on-host", 1, PODS_READY).unwrap().remove(0);
    let node = cluster.nodes()[1].host().ipv4().to_string();
    assert_eq!(on_host.addresses, std::slice::from_ref(&node));
    for kind in ["virtual-machine", "virtual-machine-interface", "instance-ip"] {
        let list = network.skein(&["get", kind]).unwrap().success().unwrap();
        assert!(!list.contains("on-host"), "{kind}: {list}");
    }
    cluster.wait_pods("default", "doors=door", 2, PODS_READY).unwrap();

    let make = |name: &str, spec: Value| -> String {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        let made = cluster.api().create(SERVICES, &object).unwrap();
        made["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    let ports = |target: u16| -> Value {
        let one = |p: &str| json!({"name": p.to_lowercase(), "protocol": p, "port": 8080, "targetPort": target});
        ["TCP", "UDP"].map(one).into()
    };
    let chosen = make("on-host", json!({"selector": {"app": "on-host"}, "ports": ports(7080)}));
    let named = json!([{"port": 8080, "targetPort": "door"}]);
    let named = make("doors-by-name", json!({"selector": {"doors": "door"}, "ports": named}));
    // Without a selector: whoever makes the slice says where.
    let given = |name: &str, address: &str, port: u16| -> String {
        let made = make(name, json!({ "ports": ports(port) }));
        let slice = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": [
                {"name": "tcp", "protocol": "TCP", "port": port},
                {"name": "udp", "protocol": "UDP", "port": port},
            ],
        });
        cluster.api().create(SLICES, &slice).unwrap();
        made
    };
    let given_node = given("given-node", &node, 7080);
    let beyond = outside.ipv4().to_string();
    let given_host = given("given-host", &beyond, 7081);

    let mut clients: Vec<(String, Ask<'_>)> = Vec::new();
    for (number, node) in cluster.nodes().iter().enumerate() {
        let pod = pods.iter().find(|pod| pod.node == node.name()).unwrap();
        clients.push((pod.name.clone(), Box::new(|targets| pod.ask(targets, ANSWER).unwrap())));
        let ask = move |targets: &[String]| ask_from_node(cluster, number, targets, ANSWER);
        clients.push((node.name().to_owned(), Box::new(ask)));
    }
    for (who, ask) in &clients {
        for (vip, server) in [
            (&chosen, format!("{node}:7080")),
            (&given_node, format!("{node}:7080")),
            (&given_host, format!("{beyond}:7081")),
        ] {
            let targets = ["tcp", "udp"].map(|p| format!("{p}:{vip}:8080"));
            let outcomes = wait_for(&format!("{server} to answer {who}"), PATIENCE, || {
                crate::all_answered(ask(&targets))
            });
            let outcomes = outcomes.unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(outcomes[0].answer.as_ref().unwrap().server, Some(server), "{who}");
        }
        let targets = vec![format!("tcp:{named}:8080"); OFTEN];
        let both = ["door-80", "door-81"].map(str::to_owned).into();
        for answer in
            answered_by(&both, who, || ask(&targets)).iter().filter_map(|o| o.answer.as_ref())
        {
            let port = answer.pod.trim_start_matches("door-");
            let server = answer.server.as_deref().unwrap_or_default();
            assert!(server.ends_with(&format!(":{port}")), "{who}: {answer:?}");
        }
    }
    for name in ["on-host", "doors-by-name", "given-node", "given-host"] {
        cluster.api().delete(&format!("{SERVICES}/{name}")).unwrap();
    }
    for name in ["on-host", "door-80", "door-81"] {
        cluster.api().delete(&format!("/api/v1/namespaces/default/pods/{name}")).unwrap();
    }
}

/// How a client asks.
type Ask<'a> = Box<dyn Fn(&[String]) -> Vec<ProbeOutcome> + 'a>;

/// From outside the cluster: every node answers with every member; with the policy `Local` only for its own, and
/// the member sees the client's address.
fn node_ports(cluster: &Cluster, pods: &[KubePod]) {
    let ports = ["TCP", "UDP"].map(|protocol| {
        json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 8080, "targetPort": 80,
            "nodePort": 30_080})
    });
    let made = json!({"type": "NodePort", "ports": ports});
    let made = service(cluster, "doors", "probe1", &made);
    let near = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let near = service(cluster, "near", "probe2", &near);
    let client = cluster.control_host();
    for (index, protocol) in ["tcp", "udp"].into_iter().enumerate() {
        for node in cluster.nodes() {
            let target = |service: &Value| {
                let port = &service["spec"]["ports"][index]["nodePort"];
                vec![format!("{protocol}:{}:{port}", node.host().ipv4()); OFTEN]
            };
            let members = names(pods, "probe1");
            expect(cluster, client, &target(&made), &members);
            let local =
                pods.iter().filter(|pod| pod.node == node.name()).cloned().collect::<Vec<_>>();
            for outcome in expect(cluster, client, &target(&near), &names(&local, "probe2")) {
                let seen = outcome.answer.unwrap().client;
                assert!(seen.starts_with(&format!("{}:", client.ipv4())), "{seen}");
            }
        }
    }
    node_ports_from_inside(cluster, pods, &made["spec"]["ports"][0]["nodePort"]);
}

/// Node ports are there for a node's own pods, and for the other nodes.
fn node_ports_from_inside(cluster: &Cluster, pods: &[KubePod], port: &Value) {
    let members = names(pods, "probe1");
    let check = |who: &str, ask: &dyn Fn() -> Vec<ProbeOutcome>| {
        wait_for(&format!("{who} to be answered"), PATIENCE, || {
            let outcomes = ask();
            let right = answering(&outcomes).is_subset(&members);
            if right { Ok(()) } else { Err(format!("{outcomes:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    };
    for (number, node) in cluster.nodes().iter().enumerate() {
        let own = ["tcp", "udp"].map(|p| format!("{p}:{}:{port}", node.host().ipv4()));
        for pod in pods.iter().filter(|pod| pod.node == node.name()) {
            check(&pod.name, &|| pod.ask(&own, ANSWER).unwrap());
        }
        for other in (0..NODES).filter(|other| *other != number) {
            let ask = || ask_from_node(cluster, other, &own, ANSWER);
            check(cluster.nodes()[other].name(), &ask);
        }
    }
}

/// Waits until exactly these answer.
fn expect(
    cluster: &Cluster,
    from: &skein_lab::Host,
    targets: &[String],
    members: &BTreeSet<String>,
) -> Vec<ProbeOutcome> {
    answered_by(members, &targets[0], || ask_from_host(cluster, from, targets, ANSWER))
}

pub(crate) fn answered_by(
    members: &BTreeSet<String>,
    who: &str,
    ask: impl Fn() -> Vec<ProbeOutcome>,
) -> Vec<ProbeOutcome> {
    wait_for(&format!("{who} to be answered by {members:?}"), PATIENCE, || {
        let outcomes = ask();
        if &answering(&outcomes) == members { Ok(outcomes) } else { Err(format!("{outcomes:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"))
}
