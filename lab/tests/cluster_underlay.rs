//! A Kubernetes whose own pod network is in the underlay, by the setting `ip_fabric_forwarding`: every pod that no namespace or annotation
//! puts elsewhere has an address of the underlay, and is met by it, on other nodes and beyond the gateway. Needs root and the programs of
//! Kubernetes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; how long the steps took is for whoever reads a failure"
)]

mod support;

use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Cluster, ClusterOptions, KubePod, NetworkOptions, PROBE_IMAGE, ProbeOutcome, SkeinNetwork,
    ask_from,
};
use skein_lab::{Outside, Pod, wait_for};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;
use support::frames::Ear;
use support::{programs, steps::Steps};

const NODES: usize = 2;
const ANSWER: Duration = Duration::from_secs(3);
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(60);
const PODS_READY: Duration = Duration::from_secs(120);
/// The port of tunnels.
const VXLAN: u16 = 4789;
const SETTING: &str = "--ip-fabric-forwarding";

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web", "pod": name}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        },
    })
}

/// Makes pods, of which one is on each node in turn, and waits until all that are in the namespace run.
fn start(cluster: &Cluster, namespace: &str, names: &[&str], all: usize) -> Vec<KubePod> {
    for (number, name) in names.iter().enumerate() {
        let node = cluster.nodes()[number % NODES].name();
        wait_for("a pod to be taken", PATIENCE, || {
            let path = format!("/api/v1/namespaces/{namespace}/pods");
            cluster.api().create(&path, &pod(name, node)).map_err(|error| error.to_string())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    cluster.wait_pods(namespace, "app=web", all, PODS_READY).unwrap()
}

fn in_underlay(pods: &[KubePod]) {
    for pod in pods {
        let address: Ipv4Addr = pod.address.parse().unwrap();
        // The manager's default of `ip_fabric_subnets`, 10.64.0.0/12.
        assert!(matches!(address.octets(), [10, 64..=79, ..]), "{pod:?}");
    }
}

fn targets(pods: &[KubePod]) -> Vec<String> {
    let each = |pod: &KubePod| ["tcp", "udp", "sctp"].map(|p| format!("{p}:{}:80", pod.address));
    pods.iter().flat_map(each).collect()
}

/// Waits until all targets answer somebody, and see the asker by this address.
fn seen_as(who: &str, own: &str, ask: impl Fn() -> Vec<ProbeOutcome>) {
    wait_for(&format!("answers to {who}"), PATIENCE, || {
        let outcomes = ask();
        let right = |outcome: &ProbeOutcome| {
            let client = outcome.answer.as_ref().and_then(|a| a.client.rsplit_once(':'));
            client.is_some_and(|(address, _)| address == own)
        };
        if outcomes.iter().all(right) { Ok(()) } else { Err(format!("{outcomes:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Pods, nodes and the host beyond the gateway reach the pods, and these the nodes and that host; all as what they are.
fn everybody_is_met(cluster: &Cluster, outside: &Outside, pods: &[KubePod]) {
    let programs = &cluster.options().programs;
    let pods_at = targets(pods);
    let world = outside.addresses().0.to_string();
    let mut away = vec![format!("tcp:{world}:80")];
    away.extend(cluster.nodes().iter().map(|node| format!("tcp:{}:7090", node.host().ipv4())));
    for pod in pods {
        let all: Vec<String> = pods_at.iter().chain(&away).cloned().collect();
        seen_as(&pod.name, &pod.address, || pod.ask(&all, ANSWER).unwrap());
    }
    let by = |host: &Pod| ask_from(host, programs, &pods_at, ANSWER).unwrap();
    seen_as("the world", &world, || by(outside.world()));
    for node in cluster.nodes() {
        let ask = || ask_from(node.host(), programs, &pods_at, ANSWER).unwrap();
        seen_as(node.name(), &node.host().ipv4().to_string(), ask);
    }
}

#[test]
fn pods_of_a_cluster_are_in_the_underlay_when_its_setting_says_so() {
    let mut steps = Steps::start();
    let options = ClusterOptions { nodes: NODES, ..ClusterOptions::new(&programs::folder()) };
    let mut cluster = Cluster::start("tunder", options).unwrap_or_else(|error| panic!("{error}"));
    let outside = cluster.outside().unwrap();
    for node in cluster.nodes() {
        outside.leads(node.host()).unwrap();
    }
    outside.expects("10.64.0.0/12").unwrap();
    let options = NetworkOptions {
        manager_arguments: vec![SETTING.into(), "true".into()],
        ..NetworkOptions::default()
    };
    let mut network =
        SkeinNetwork::install(&cluster, &options).unwrap_or_else(|error| panic!("{error}"));
    let program = cluster.options().programs.join("skein-probe");
    let serve = |address: &str| {
        let mut command = Command::new(&program);
        command.args(["serve", address]);
        command
    };
    let _world = outside.world().spawn("probe", &mut serve("tcp:80")).unwrap();
    let _nodes: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| node.host().spawn("peer", &mut serve("tcp:7090")).unwrap())
        .collect();
    steps.done("a cluster of two nodes with the setting");

    let pods = start(&cluster, "default", &["a", "b", "c", "d"], 4);
    in_underlay(&pods);
    let ear = Ear::of_uplink(cluster.nodes()[0].host());
    everybody_is_met(&cluster, &outside, &pods);
    ear.caught_up();
    assert_eq!(ear.heard_udp(VXLAN), 0, "something went by a tunnel");
    steps.done("pods, nodes and the world");

    services(&cluster, &pods);
    apart(&cluster, &outside, &pods);
    policy(&cluster, &outside, &pods);
    steps.done("services, an isolated namespace, a policy");

    off(&cluster, &mut network, &options, &outside, &pods);
    steps.done("the setting taken away");
}

/// A service is none of the underlay's: it leads to members there all the same.
fn services(cluster: &Cluster, pods: &[KubePod]) {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 8080, "targetPort": 80}]});
    let service = json!({"metadata": {"name": "web"}, "spec": spec});
    let made = cluster.api().create("/api/v1/namespaces/default/services", &service).unwrap();
    let target = format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap());
    for pod in pods {
        seen_as("a service's client", &pod.address, || {
            let mut outcomes = pod.ask(&vec![target.clone(); 12], ANSWER).unwrap();
            // Who is its own client is seen by an address that stands in for it.
            outcomes.retain(|o| o.answer.as_ref().is_none_or(|answer| answer.pod != pod.name));
            outcomes
        });
    }
}

/// An isolated namespace has a network of its own, which is not in the underlay.
fn apart(cluster: &Cluster, outside: &Outside, pods: &[KubePod]) {
    let annotations = json!({"opencontrail.org/isolation": "true"});
    let namespace = json!({"metadata": {"name": "alone", "annotations": annotations}});
    cluster.api().create("/api/v1/namespaces", &namespace).unwrap();
    let own = start(cluster, "alone", &["e", "f"], 2);
    assert!(own.iter().all(|pod| pod.address.starts_with("10.244.")), "{own:?}");
    for pod in &own {
        let all: Vec<String> = targets(&own).into_iter().chain(targets(pods)).collect();
        seen_as(&pod.name, &pod.address, || pod.ask(&all, ANSWER).unwrap());
    }
    let mut outcomes: Vec<ProbeOutcome> =
        pods.iter().flat_map(|pod| pod.ask(&targets(&own), SILENCE).unwrap()).collect();
    outside.expects("10.244.0.0/16").unwrap();
    let programs = &cluster.options().programs;
    outcomes.extend(ask_from(outside.world(), programs, &targets(&own), SILENCE).unwrap());
    for outcome in outcomes {
        assert!(!outcome.answered(), "{outcome:?}");
    }
}

/// Who may come to a pod there is said by policies, for the world as for pods.
fn policy(cluster: &Cluster, outside: &Outside, pods: &[KubePod]) {
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let world = format!("{}/32", outside.addresses().0);
    let (closed, friend, other) = (&pods[0], &pods[1], &pods[2]);
    let shown = targets(std::slice::from_ref(closed));
    let programs = &cluster.options().programs;
    let answers = || {
        let by_world = ask_from(outside.world(), programs, &shown, SILENCE).unwrap();
        [by_world, friend.ask(&shown, SILENCE).unwrap(), other.ask(&shown, SILENCE).unwrap()]
            .map(|outcomes| outcomes.iter().filter(|outcome| outcome.answered()).count())
    };
    let expect = |wanted: [usize; 3]| {
        wait_for(&format!("answers to the world, a friend, another: {wanted:?}"), PATIENCE, || {
            let now = answers();
            if now == wanted { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    };
    let by = |pod: &KubePod| json!({"podSelector": {"matchLabels": {"pod": pod.name}}});
    let policy = |peer: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "door", "namespace": "default"},
            "spec": {
                "podSelector": {"matchLabels": {"pod": closed.name}}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [peer]}],
            },
        })
    };
    cluster.apply(&policy(by(friend)).to_string()).unwrap();
    expect([0, 3, 0]);
    cluster.apply(&policy(json!({"ipBlock": {"cidr": world}})).to_string()).unwrap();
    expect([3, 0, 0]);
    cluster.api().delete(&format!("{policies}/door")).unwrap();
    expect([3, 3, 3]);
}

/// The addresses are what they are: the pods keep them, new ones get such addresses too, and the manager says so.
fn off(
    cluster: &Cluster,
    network: &mut SkeinNetwork,
    options: &NetworkOptions,
    outside: &Outside,
    pods: &[KubePod],
) {
    let mut without = options.clone();
    without.manager_arguments = vec![SETTING.into(), "false".into()];
    let _other = network.standby_manager(cluster, &without, 8119).unwrap();
    network.manager.stop().unwrap();
    wait_for("the event", PATIENCE, || {
        let events = cluster.api().list("/api/v1/events").map_err(|error| error.to_string())?;
        let told = events.iter().any(|event| {
            event["reason"] == "ForwardingStays" && event["involvedObject"]["name"] == "default"
        });
        if told { Ok(()) } else { Err(format!("{} others", events.len())) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let all = start(cluster, "default", &["g", "h"], 6);
    in_underlay(&all);
    for before in pods {
        let after = all.iter().find(|pod| pod.name == before.name).unwrap();
        assert_eq!((&before.uid, &before.addresses), (&after.uid, &after.addresses));
    }
    everybody_is_met(cluster, outside, &all);
}
