//! Policies with something in them that nobody understands, of the types that no API server checks: their writers are told, and what
//! might have been meant to be refused is refused.

use crate::networks::{on_every_node, wait_answers};
use crate::{ANSWER, PATIENCE, create_namespace};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod};
use skein_lab::wait_for;

/// About the second interface of a pod: what may come in is at ports that are none.
///
/// `from`: who asks, `to`: the pod's address there.
pub(crate) fn of_other_networks(cluster: &Cluster, from: &[KubePod], to: &str, subject: &Value) {
    let policy = json!({
        "apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy",
        "metadata": {
            "name": "torn", "namespace": "default",
            "annotations": {"k8s.v1.cni.cncf.io/policy-for": "side"},
        },
        "spec": {
            "podSelector": subject, "policyTypes": ["Ingress"],
            "ingress": [{"ports": [{"port": 90, "endPort": 80}]}],
        },
    });
    let targets = [80, 81].map(|port| format!("tcp:{to}:{port}"));
    wait_answers(from, &targets, true);
    cluster.apply(&policy.to_string()).unwrap();
    told(cluster, "MultiNetworkPolicy", "torn", "80 is less than 90");
    wait_answers(from, &targets, false);
    // Understood, it lets in whom it names.
    let mut policy = policy;
    policy["spec"]["ingress"] = json!([{"ports": [{"port": 80, "endPort": 90}]}]);
    cluster.apply(&policy.to_string()).unwrap();
    wait_answers(from, &targets, true);
    let path = "/apis/k8s.cni.cncf.io/v1beta1/namespaces/default/multi-networkpolicies/torn";
    cluster.api().delete(path).unwrap();
}

/// An administrator's: ports of a denial that are no ports may be any, and an acceptance is of what is understood.
pub(crate) fn of_administrators(cluster: &Cluster, others: &[KubePod]) {
    const SPACE: &str = "torn";
    create_namespace(cluster, &json!({"name": SPACE}));
    let own = on_every_node(cluster, SPACE, "web", &json!({}));
    let at = |port: u16| -> Vec<String> {
        own.iter().map(|pod| format!("tcp:{}:{port}", pod.address)).collect()
    };
    let policy = |rule: &str, ports: Value| {
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "torn"},
            "spec": {
                "tier": "Admin", "priority": 1,
                "subject": {"namespaces": {"matchLabels": {"kubernetes.io/metadata.name": SPACE}}},
                "ingress": [
                    {"name": "first", "action": rule, "from": [{"namespaces": {}}], "protocols": ports},
                ],
            },
        })
    };
    let port = |number: u32| json!({"tcp": {"destinationPort": {"number": number}}});
    // 80 alone is denied; with a second one that is none, all are.
    cluster.apply(&policy("Deny", json!([port(80)])).to_string()).unwrap();
    wait_answers(others, &at(80), false);
    wait_answers(others, &at(81), true);
    cluster.apply(&policy("Deny", json!([port(80), port(70_000)])).to_string()).unwrap();
    told(cluster, "ClusterNetworkPolicy", "torn", "protocols[1]");
    wait_answers(others, &at(81), false);
    // And of an acceptance before a namespace's own denial, only what is a port.
    let shut = json!({"metadata": {"name": "shut"}, "spec": {"podSelector": {}}});
    let policies = format!("/apis/networking.k8s.io/v1/namespaces/{SPACE}/networkpolicies");
    cluster.api().create(&policies, &shut).unwrap();
    cluster.apply(&policy("Accept", json!([port(80), port(70_000)])).to_string()).unwrap();
    wait_answers(others, &at(80), true);
    wait_answers(others, &at(81), false);
    // Whoever reaches the node's own pods, nodes do.
    for (number, node) in cluster.nodes().iter().enumerate() {
        let pod = own.iter().find(|pod| pod.node == node.name()).unwrap();
        let target = [format!("tcp:{}:81", pod.address)];
        wait_for("a node to reach its own pod", PATIENCE, || {
            crate::all_answered(crate::ask_from_node(cluster, number, &target, ANSWER))
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    let path = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies/torn";
    cluster.api().delete(path).unwrap();
    cluster.api().delete(&format!("/api/v1/namespaces/{SPACE}")).unwrap();
}

/// Waits for the Event that names what is not understood.
fn told(cluster: &Cluster, kind: &str, name: &str, what: &str) {
    wait_for(&format!("an Event of {kind} {name}"), PATIENCE, || {
        let all = cluster.api().list("/api/v1/events").map_err(|error| error.to_string())?;
        let about = |event: &&Value| {
            event["involvedObject"]["kind"] == kind && event["involvedObject"]["name"] == name
        };
        let own: Vec<&Value> = all.iter().filter(about).collect();
        let says = |event: &&Value| {
            let message = event["message"].as_str().unwrap_or_default();
            event["reason"] == "BadPolicy" && message.contains(what)
        };
        if own.iter().any(says) { Ok(()) } else { Err(format!("{own:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}
