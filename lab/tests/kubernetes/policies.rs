//! Network policies: for each one the table of all pods x all pods x ports must be the one that Kubernetes means.

use crate::{
    PATIENCE, PODS_READY, Steps, all_answered, ask_from_node, create_namespace, create_pod,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE};
use skein_lab::wait_for;
use std::time::{Duration, Instant};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PORTS: [&str; 3] = ["tcp:80", "tcp:81", "udp:80"];
/// How long an answer is awaited in a table: a lost handshake is repeated only after a second.
const ANSWER: Duration = Duration::from_millis(900);
/// How long one is awaited while a policy is on its way.
const GLANCE: Duration = Duration::from_millis(100);

/// A pod by namespace and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(&'static str, &'static str);

/// Whether a connection from one pod to another on a port may be.
type Expected<'a> = Box<dyn Fn(Place, Place, &str) -> bool + 'a>;

struct Case<'a> {
    name: &'static str,
    /// Policies of namespace x.
    policies: Vec<Value>,
    expected: Expected<'a>,
}

pub(crate) fn check(cluster: &Cluster, steps: &mut Steps) {
    let pods = start(cluster);
    steps.done("pods for policies");
    assert_table(&pods, "no policy", &|_, _, _| true);
    for case in cases(&pods) {
        hold(cluster, &pods, &case);
    }
    steps.done("policies");
    for namespace in NAMESPACES {
        cluster.api().delete(&format!("/api/v1/namespaces/{namespace}")).unwrap();
    }
}

/// Three pods in each of three namespaces, a namespace's pods and pods of one name on different nodes.
fn start(cluster: &Cluster) -> Vec<(Place, KubePod)> {
    for namespace in NAMESPACES {
        create_namespace(cluster, &json!({"name": namespace, "labels": {"ns": namespace}}));
    }
    for (row, namespace) in NAMESPACES.into_iter().enumerate() {
        for (column, name) in PODS.into_iter().enumerate() {
            let node = cluster.nodes()[(row + column) % cluster.nodes().len()].name();
            create_pod(cluster, namespace, &pod(name, node));
        }
    }
    let mut found = Vec::new();
    for namespace in NAMESPACES {
        for pod in cluster.wait_pods(namespace, "pod", PODS.len(), PODS_READY).unwrap() {
            let name = PODS.into_iter().find(|name| *name == pod.name).unwrap();
            found.push((Place(namespace, name), pod));
        }
    }
    found
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"pod": name}},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
                "ports": [{"name": "door", "containerPort": 81, "protocol": "TCP"}],
                "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 5},
            }],
        },
    })
}

fn policy(name: &str, spec: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": spec})
}

/// Ingress of pod a of namespace x from peers on ports; empty means any.
fn to_a(from: Value, ports: Value) -> Vec<Value> {
    let mut rule = json!({});
    for (key, value) in [("from", from), ("ports", ports)] {
        if value.as_array().is_some_and(|list| !list.is_empty()) {
            rule[key] = value;
        }
    }
    let spec = json!({
        "podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Ingress"], "ingress": [rule],
    });
    vec![policy("to-a", &spec)]
}

fn cases(pods: &[(Place, KubePod)]) -> Vec<Case<'_>> {
    const A: Place = Place("x", "a");
    let address = |place: Place| {
        pods.iter().find(|(at, _)| *at == place).map(|(_, pod)| pod.address.clone()).unwrap()
    };
    let none = json!([]);
    let named = |labels: Value| json!({"matchLabels": labels});
    let hole = format!("{}/32", address(Place("y", "b")));
    let deny = |kinds: Value| policy("deny", &json!({"podSelector": {}, "policyTypes": kinds}));
    let mut cases = Vec::new();
    let mut case = |name, policies, expected: Expected<'static>| {
        cases.push(Case { name, policies, expected });
    };
    case("nothing comes in", vec![deny(json!(["Ingress"]))], Box::new(|_, to, _| to.0 != "x"));
    case("nothing goes out", vec![deny(json!(["Egress"]))], Box::new(|from, _, _| from.0 != "x"));
    case(
        "pods of a label come in",
        to_a(json!([{"podSelector": named(json!({"pod": "b"}))}]), none.clone()),
        Box::new(|from, to, _| to != A || from == Place("x", "b")),
    );
    case(
        "a namespace comes in",
        to_a(json!([{"namespaceSelector": named(json!({"ns": "y"}))}]), none.clone()),
        Box::new(|from, to, _| to != A || from.0 == "y"),
    );
    case(
        "pods of a label in other namespaces, and namespaces by an expression, come in",
        to_a(
            json!([
                {"namespaceSelector": named(json!({"ns": "y"})), "podSelector": named(json!({"pod": "b"}))},
                {"namespaceSelector": {"matchExpressions": [
                    {"key": "ns", "operator": "NotIn", "values": ["x", "y"]},
                ]}},
            ]),
            none.clone(),
        ),
        Box::new(|from, to, _| to != A || from == Place("y", "b") || from.0 == "z"),
    );
    case(
        "a port and a named port are open",
        to_a(none, json!([{"protocol": "UDP", "port": 80}, {"protocol": "TCP", "port": "door"}])),
        Box::new(|_, to, port| to != A || port != "tcp:80"),
    );
    case(
        "addresses come in but for one",
        to_a(json!([{"ipBlock": {"cidr": "10.244.0.0/16", "except": [hole]}}]), json!([])),
        Box::new(|from, to, _| to != A || from != Place("y", "b")),
    );
    case(
        "two policies add up",
        [
            vec![deny(json!(["Ingress"]))],
            to_a(
                json!([{"namespaceSelector": named(json!({"ns": "z"}))}]),
                json!([{"protocol": "TCP", "port": 81}]),
            ),
        ]
        .concat(),
        Box::new(|from, to, port| to.0 != "x" || (to == A && from.0 == "z" && port == "tcp:81")),
    );
    case(
        "out to a namespace on a port only, while the other side keeps its own rules",
        vec![policy(
            "out",
            &json!({
                "podSelector": {"matchLabels": {"pod": "a"}}, "policyTypes": ["Egress"],
                "egress": [{
                    "to": [{"namespaceSelector": named(json!({"ns": "y"}))}],
                    "ports": [{"protocol": "UDP", "port": 80}],
                }],
            }),
        )],
        Box::new(|from, to, port| from != A || (to.0 == "y" && port == "udp:80")),
    );
    cases
}

/// Makes a case's policies, waits for their effect, compares the whole table, and takes them back.
fn hold(cluster: &Cluster, pods: &[(Place, KubePod)], case: &Case<'_>) {
    const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/x/networkpolicies";
    // A connection that is to be closed tells when the policy is in force.
    let (from, to, port) = pairs(pods)
        .into_iter()
        .find(|(from, to, port)| !(case.expected)(from.0, to.0, port))
        .unwrap();
    let witness = [target(&to.1, port)];
    for policy in &case.policies {
        cluster.api().create(POLICIES, policy).unwrap();
    }
    let since = Instant::now();
    let closed = |wanted: bool| {
        wait_for(case.name, PATIENCE, || {
            let at = since.elapsed();
            let outcome = from.1.ask(&witness, GLANCE).unwrap();
            if outcome[0].answered() == wanted { Err(format!("{outcome:?}")) } else { Ok(at) }
        })
        .unwrap()
    };
    println!("policy in force after {:.3} s: {}", closed(true).as_secs_f64(), case.name);
    assert_table(pods, case.name, &case.expected);
    // Whatever comes in or not: a node reaches its own pods, so that its probes work.
    for (number, node) in cluster.nodes().iter().enumerate() {
        let own = pods.iter().filter(|(at, pod)| at.0 == "x" && pod.node == node.name());
        let targets: Vec<String> = own.map(|(_, pod)| target(pod, "tcp:80")).collect();
        let all = wait_for("a node's own pods", PATIENCE, || {
            all_answered(ask_from_node(cluster, number, &targets, ANSWER))
        });
        all.unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
    for policy in &case.policies {
        let name = policy["metadata"]["name"].as_str().unwrap();
        cluster.api().delete(&format!("{POLICIES}/{name}")).unwrap();
    }
    closed(false);
}

type Pair<'a> = (&'a (Place, KubePod), &'a (Place, KubePod), &'static str);

/// All questions of a table; whom a pod is to itself no policy says.
fn pairs(pods: &[(Place, KubePod)]) -> Vec<Pair<'_>> {
    let mut all = Vec::new();
    for from in pods {
        for to in pods.iter().filter(|to| to.0 != from.0) {
            all.extend(PORTS.map(|port| (from, to, port)));
        }
    }
    all
}

fn target(pod: &KubePod, port: &str) -> String {
    let (protocol, port) = port.split_once(':').unwrap();
    format!("{protocol}:{}:{port}", pod.address)
}

/// Waits until the whole table is as expected; panics with every line that is not.
fn assert_table(
    pods: &[(Place, KubePod)],
    name: &str,
    expected: &dyn Fn(Place, Place, &str) -> bool,
) {
    let wrong = || -> Vec<String> {
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> = pods
                .iter()
                .map(|from| {
                    let all = pairs(pods).into_iter().filter(|pair| pair.0.0 == from.0);
                    let all: Vec<Pair<'_>> = all.collect();
                    scope.spawn(move || {
                        let targets: Vec<String> =
                            all.iter().map(|(_, to, port)| target(&to.1, port)).collect();
                        let outcomes = from.1.ask(&targets, ANSWER).unwrap();
                        all.into_iter().zip(outcomes).collect::<Vec<_>>()
                    })
                })
                .collect();
            asking.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        answers
            .into_iter()
            .filter(|((from, to, port), outcome)| {
                outcome.answered() != expected(from.0, to.0, port)
            })
            .map(|((from, to, port), outcome)| {
                format!(
                    "{:?} on {} -> {:?} on {} {port}: {:?}",
                    from.0, from.1.node, to.0, to.1.node, outcome.error
                )
            })
            .collect()
    };
    wait_for(&format!("the table of `{name}`"), PATIENCE, || {
        let wrong = wrong();
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("{} wrong:\n{}", wrong.len(), wrong.join("\n")))
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}
