//! Networks beside the cluster's own: isolated namespaces, a network of the operator's, a second interface.

use crate::{ANSWER, PATIENCE, PODS_READY, Steps, all_answered, create_namespace, create_pod};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, SkeinNetwork};
use skein_lab::wait_for;
use std::time::Duration;

/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(900);

pub(crate) fn check(
    cluster: &Cluster,
    network: &SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    isolated_namespace(cluster, pods);
    steps.done("an isolated namespace");
    chosen_network(cluster, network, pods);
    steps.done("a network of the operator's");
    second_interface(cluster, network);
    steps.done("a second interface");
}

/// A pod on every node, in a namespace.
pub(crate) fn on_every_node(
    cluster: &Cluster,
    namespace: &str,
    app: &str,
    annotations: &Value,
) -> Vec<KubePod> {
    for node in cluster.nodes() {
        let pod = json!({
            "metadata": {
                "name": format!("{app}-{}", node.name()),
                "labels": {"app": app}, "annotations": annotations,
            },
            "spec": {
                "nodeName": node.name(),
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
            },
        });
        create_pod(cluster, namespace, &pod);
    }
    let count = cluster.nodes().len();
    cluster.wait_pods(namespace, &format!("app={app}"), count, PODS_READY).unwrap()
}

fn tcp(pods: &[KubePod]) -> Vec<String> {
    pods.iter().map(|pod| format!("tcp:{}:80", pod.address)).collect()
}

pub(crate) fn assert_reach(from: &[KubePod], to: &[KubePod], wanted: bool) {
    assert_answers(from, &tcp(to), wanted);
}

/// All ask at once: waiting for what does not come is most of the time. What is to come may be on its way; what is not
/// to come must not come at any time.
pub(crate) fn assert_answers(from: &[KubePod], targets: &[String], wanted: bool) {
    std::thread::scope(|scope| {
        for pod in from {
            scope.spawn(move || {
                if wanted {
                    let all = wait_for(&format!("answers to {}", pod.name), PATIENCE, || {
                        all_answered(pod.ask(targets, ANSWER).unwrap())
                    });
                    all.unwrap_or_else(|error| panic!("{error}"));
                    return;
                }
                for outcome in pod.ask(targets, SILENCE).unwrap() {
                    assert!(!outcome.answered(), "{} asks: {outcome:?}", pod.name);
                }
            });
        }
    });
}

fn isolated_namespace(cluster: &Cluster, others: &[KubePod]) {
    let annotations = json!({"opencontrail.org/isolation": "true"});
    create_namespace(cluster, &json!({"name": "alone", "annotations": annotations}));
    let own = on_every_node(cluster, "alone", "web", &json!({}));
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 8080, "targetPort": 80}]},
    });
    let made = cluster.api().create("/api/v1/namespaces/alone/services", &service).unwrap();
    let address = format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap());
    assert_reach(&own, &own, true);
    assert_reach(others, &own, false);
    // They reach out; nobody reaches in.
    assert_reach(&own, others, true);
    assert_answers(&own, std::slice::from_ref(&address), true);
    assert_answers(others, &[address], false);
    cluster.api().delete("/api/v1/namespaces/alone").unwrap();
}

/// A network that exists before the pods that choose it.
fn chosen_network(cluster: &Cluster, network: &SkeinNetwork, others: &[KubePod]) {
    let skein = |arguments: &[&str]| network.skein(arguments).unwrap().success().unwrap();
    skein(&["create", "project", "shop"]);
    skein(&["create", "network", "front", "--project", "shop", "--subnet", "10.7.0.0/24"]);
    let choice = r#"{"domain": "default-domain", "project": "shop", "name": "front"}"#;
    let annotations = json!({"opencontrail.org/network": choice});
    let own = on_every_node(cluster, "default", "front", &annotations);
    for pod in &own {
        assert!(pod.address.starts_with("10.7.0."), "{pod:?}");
    }
    assert_reach(&own, &own, true);
    assert_reach(others, &own, false);
    assert_reach(&own, others, false);
    remove(cluster, "default", &own);
}

fn remove(cluster: &Cluster, namespace: &str, pods: &[KubePod]) {
    for pod in pods {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{}", pod.name);
        cluster.api().delete(&path).unwrap();
    }
}

fn second_interface(cluster: &Cluster, network: &SkeinNetwork) {
    let definition = json!({
        "apiVersion": "k8s.cni.cncf.io/v1",
        "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "back", "annotations": {"opencontrail.org/cidr": "10.8.0.0/24"}},
        "spec": {"config": r#"{"cniVersion": "0.3.1", "type": "skein"}"#},
    });
    const DEFINITIONS: &str =
        "/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions";
    cluster.apply(&definition.to_string()).unwrap();
    let annotations = json!({"k8s.v1.cni.cncf.io/networks": "back@net7"});
    let own = on_every_node(cluster, "default", "two", &annotations);
    let mut second = Vec::new();
    for pod in &own {
        let shown = pod.run("/bin/ip", &["-4", "addr", "show", "net7"]).unwrap().success().unwrap();
        let address = shown.split_whitespace().find(|word| word.starts_with("10.8.0.")).unwrap();
        second.push(format!("tcp:{}:80", address.split('/').next().unwrap()));
        let path = format!("/api/v1/namespaces/default/pods/{}", pod.name);
        let told = cluster.api().wait("network-status", &path, PATIENCE, |object| {
            object["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"].is_string()
        });
        let told = told.unwrap_or_else(|error| panic!("{error}"));
        let status = &told["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"];
        assert!(status.as_str().unwrap().contains("net7"), "{status}");
    }
    assert_reach(&own, &own, true);
    for pod in &own {
        let all = wait_for("answers of second interfaces", PATIENCE, || {
            all_answered(pod.ask(&second, ANSWER).unwrap())
        });
        for outcome in all.unwrap_or_else(|error| panic!("{}: {error}", pod.name)) {
            let answer = outcome.answer.as_ref().unwrap();
            assert!(answer.client.starts_with("10.8.0."), "{outcome:?}");
        }
    }
    remove(cluster, "default", &own);
    cluster.api().delete(&format!("{DEFINITIONS}/back")).unwrap();
    let gone = || network.skein(&["get", "virtual-network"]).unwrap().stdout;
    wait_for("the network of the definition to go", PODS_READY, || {
        let shown = gone();
        if shown.contains("back-pod-network") { Err(shown) } else { Ok(()) }
    })
    .unwrap();
}
