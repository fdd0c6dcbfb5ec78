//! Nodes reach pods in networks of every kind, so that kubelets' probes do; pods reach no more than before by that.

use crate::networks::{SILENCE, assert_answers, assert_reach};
use crate::{
    ANSWER, PATIENCE, PODS_READY, Steps, all_answered, ask_from_node, create_namespace, create_pod,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, SkeinNetwork};
use skein_lab::wait_for;
use std::process::Command;

const NETWORK: &str = "opencontrail.org/network";
const DEFINITION: &str =
    include_str!("../../../deploy/helm/skein/crds/virtualnetworks.skein.io.yaml");
const SPACE: &str = "probed";
/// Where a server listens on each node's own network.
const PORT: u16 = 7091;

/// Pods of one kind of network.
struct Kind {
    name: &'static str,
    namespace: &'static str,
    annotations: Value,
    /// What their addresses start with.
    prefix: &'static str,
    /// They may ask the nodes.
    asks_nodes: bool,
}

pub(crate) fn check(
    cluster: &Cluster,
    network: &SkeinNetwork,
    others: &[KubePod],
    steps: &mut Steps,
) {
    cluster.apply(DEFINITION).unwrap();
    let skein = |arguments: &[&str]| network.skein(arguments).unwrap().success().unwrap();
    skein(&["create", "project", "probed"]);
    skein(&["create", "network", "made", "--project", "probed", "--subnet", "10.87.0.0/24"]);
    let isolated = json!({"opencontrail.org/isolation": "true"});
    create_namespace(cluster, &json!({"name": "probed-alone", "annotations": isolated}));
    create_namespace(cluster, &json!({"name": SPACE}));
    let chosen = json!({ NETWORK: "probed/defined" });
    create_namespace(cluster, &json!({"name": "probed-chosen", "annotations": chosen}));
    define(cluster, "defined", "10.88.0.0/24");
    let kind = |name, namespace, annotations, prefix, asks_nodes| Kind {
        name,
        namespace,
        annotations,
        prefix,
        asks_nodes,
    };
    let kinds = [
        kind("isolated", "probed-alone", json!({}), "10.244.", true),
        kind("by-api", SPACE, json!({ NETWORK: "default-domain:probed:made" }), "10.87.0.", false),
        kind("by-definition", SPACE, json!({ NETWORK: "defined" }), "10.88.0.", false),
        kind("by-namespace", "probed-chosen", json!({}), "10.88.0.", false),
    ];
    for kind in &kinds {
        for node in cluster.nodes() {
            let name = format!("{}-{}", kind.name, node.name());
            probed(cluster, kind.namespace, &name, kind.name, node.name(), &kind.annotations);
        }
    }
    let count = cluster.nodes().len();
    let pods: Vec<Vec<KubePod>> = kinds
        .iter()
        .map(|kind| {
            let app = format!("app={}", kind.name);
            let pods = cluster.wait_pods(kind.namespace, &app, count, PODS_READY);
            let pods = pods.unwrap_or_else(|error| panic!("{}: {error}", kind.name));
            assert!(pods.iter().all(|pod| pod.address.starts_with(kind.prefix)), "{pods:?}");
            pods
        })
        .collect();
    steps.done("pods whose probes reach them in networks of all kinds");
    nodes_reach(cluster, &pods.concat());
    nodes_are_reached(cluster, &kinds, &pods);
    // To be reached by nodes joins networks with nothing else.
    let (alone, rest) = pods.split_first().unwrap();
    for own in rest {
        assert_reach(own, alone, false);
        assert_reach(own, others, false);
        assert_reach(others, own, false);
    }
    assert_reach(&pods[1], &pods[2], false);
    assert_reach(&pods[2], &pods[3], true);
    steps.done("nodes reach them, and nobody else does");
    overlapping(cluster, &pods[2], &pods[3]);
    steps.done("overlapping networks, of which nodes reach one");
    for (kind, before) in kinds.iter().zip(&pods) {
        let now = cluster.pods(kind.namespace, &format!("app={}", kind.name)).unwrap();
        for pod in now.iter().filter(|now| before.iter().any(|pod| pod.uid == now.uid)) {
            assert_eq!(pod.restarts, 0, "a probe of its liveness failed: {pod:?}");
        }
    }
    for namespace in ["probed-alone", SPACE, "probed-chosen"] {
        cluster.api().delete(&format!("/api/v1/namespaces/{namespace}")).unwrap();
    }
}

fn define(cluster: &Cluster, name: &str, prefix: &str) {
    let network = json!({
        "apiVersion": "skein.io/v1alpha1", "kind": "VirtualNetwork",
        "metadata": {"name": name, "namespace": SPACE}, "spec": {"subnets": [{"cidr": prefix}]},
    });
    // Kubernetes' list of definitions may be a moment old.
    wait_for("a network to be taken", PATIENCE, || {
        cluster.apply(&network.to_string()).map_err(|error| error.to_string())
    })
    .unwrap();
}

/// A pod with probes of every kind that a node must reach it for: it is ready when all of them succeeded.
fn probed(
    cluster: &Cluster,
    namespace: &str,
    name: &str,
    app: &str,
    node: &str,
    annotations: &Value,
) {
    let times = |probe: Value| {
        let mut probe = probe;
        for (name, value) in [("periodSeconds", 1), ("timeoutSeconds", 10)] {
            probe[name] = json!(value);
        }
        probe
    };
    let http = || times(json!({"httpGet": {"path": "/", "port": 8080}}));
    let tcp = |port: u16| times(json!({"tcpSocket": {"port": port}}));
    let container = |name: &str, serves: &[&str]| {
        let arguments: Vec<&str> = ["serve"].iter().chain(serves).copied().collect();
        json!({"name": name, "image": PROBE_IMAGE, "imagePullPolicy": "Never", "args": arguments})
    };
    let patient = |mut probe: Value| {
        probe["failureThreshold"] = json!(600);
        probe
    };
    let mut first = container("first", &["tcp:80", "http:8080"]);
    first["startupProbe"] = patient(http());
    first["readinessProbe"] = tcp(80);
    first["livenessProbe"] = http();
    let mut second = container("second", &["tcp:81"]);
    second["startupProbe"] = patient(tcp(81));
    second["readinessProbe"] = http();
    second["livenessProbe"] = tcp(81);
    let pod = json!({
        "metadata": {"name": name, "labels": {"app": app}, "annotations": annotations},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1, "containers": [first, second],
        },
    });
    create_pod(cluster, namespace, &pod);
}

/// Every node, not a pod's own alone, and it is seen by its address.
fn nodes_reach(cluster: &Cluster, pods: &[KubePod]) {
    let targets: Vec<String> = pods.iter().map(|pod| format!("tcp:{}:80", pod.address)).collect();
    for (number, node) in cluster.nodes().iter().enumerate() {
        let all = wait_for("answers to a node", PATIENCE, || {
            all_answered(ask_from_node(cluster, number, &targets, ANSWER))
        });
        let all = all.unwrap_or_else(|error| panic!("{}: {error}", node.name()));
        for (outcome, pod) in all.iter().zip(pods) {
            let answer = outcome.answer.as_ref().unwrap();
            assert_eq!(answer.pod, pod.name, "{}: {outcome:?}", node.name());
            let client = answer.client.rsplit_once(':').unwrap().0;
            assert_eq!(client, node.host().ipv4().to_string(), "{outcome:?}");
        }
    }
}

/// Pods of the cluster's own networks ask nodes; those in others' do not, though the nodes reach them.
fn nodes_are_reached(cluster: &Cluster, kinds: &[Kind], pods: &[Vec<KubePod>]) {
    let nodes = cluster.nodes();
    let listens = format!("tcp:{PORT}");
    let _servers: Vec<_> = nodes
        .iter()
        .map(|node| {
            let mut serve = Command::new(cluster.options().programs.join("skein-probe"));
            serve.args(["serve", &listens]);
            node.host().spawn("probed", &mut serve).unwrap()
        })
        .collect();
    let targets: Vec<String> =
        nodes.iter().map(|node| format!("tcp:{}:{PORT}", node.host().ipv4())).collect();
    for (kind, pods) in kinds.iter().zip(pods) {
        assert_answers(pods, &targets, kind.asks_nodes);
    }
}

/// A network that overlaps with another one: its pods run and are told that nodes do not reach them. They do when the other one's
/// last pod is gone.
fn overlapping(cluster: &Cluster, first: &[KubePod], same: &[KubePod]) {
    define(cluster, "wider", "10.88.0.0/20");
    let annotations = json!({ NETWORK: "wider" });
    for node in cluster.nodes() {
        let name = format!("wider-{}", node.name());
        probed(cluster, SPACE, &name, "wider", node.name(), &annotations);
    }
    let own = wait_for("the second network's pods to run", PODS_READY, || {
        let pods = cluster.pods(SPACE, "app=wider").map_err(|error| error.to_string())?;
        let run = |pod: &KubePod| pod.phase == "Running" && !pod.address.is_empty();
        if pods.iter().all(run) { Ok(pods) } else { Err(format!("{pods:?}")) }
    });
    let own = own.unwrap_or_else(|error| panic!("{error}"));
    for pod in &own {
        wait_for("an Event of the pod", PATIENCE, || {
            let events = cluster.api().list(&format!("/api/v1/namespaces/{SPACE}/events"));
            let told = events.unwrap().into_iter().any(|event| {
                event["involvedObject"]["name"] == pod.name.as_str()
                    && event["reason"] == "NodesCannotReach"
            });
            if told { Ok(()) } else { Err("it is not told") }
        })
        .unwrap_or_else(|error| panic!("{}: {error}", pod.name));
    }
    let targets: Vec<String> = own.iter().map(|pod| format!("tcp:{}:80", pod.address)).collect();
    for number in 0..cluster.nodes().len() {
        for outcome in ask_from_node(cluster, number, &targets, SILENCE) {
            assert!(!outcome.answered(), "{outcome:?}");
        }
    }
    let now = cluster.pods(SPACE, "app=wider").unwrap();
    assert!(now.iter().all(|pod| !pod.ready), "{now:?}");
    for pod in first.iter().chain(same) {
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        cluster.api().delete(&path).unwrap();
    }
    // Their collector may come once a minute, and their own probes are long in vain by then.
    let ready = cluster.wait_pods(SPACE, "app=wider", own.len(), crate::PODS_GONE);
    nodes_reach(cluster, &ready.unwrap_or_else(|error| panic!("{error}")));
}
