//! Networks beside the cluster's own: isolated namespaces, a network of the operator's, a second interface.

use crate::{
    ANSWER, PATIENCE, PODS_READY, Steps, all_answered, create_namespace, create_pod, streams,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, ProbeOutcome, SkeinNetwork};
use skein_lab::wait_for;
use std::time::{Duration, Instant};

/// How long an answer that must not come is waited for.
pub(crate) const SILENCE: Duration = Duration::from_millis(900);

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

/// After a change that each node hears of for itself: waits until all are answered or none is, by any target.
pub(crate) fn wait_answers(from: &[KubePod], targets: &[String], wanted: bool) {
    let timeout = if wanted { ANSWER } else { SILENCE };
    std::thread::scope(|scope| {
        for pod in from {
            scope.spawn(move || {
                wait_for(&format!("answers to {}: {wanted}", pod.name), PATIENCE, || {
                    let outcomes = pod.ask(targets, timeout).unwrap();
                    let right = |outcome: &ProbeOutcome| outcome.answered() == wanted;
                    if outcomes.iter().all(right) { Ok(()) } else { Err(format!("{outcomes:?}")) }
                })
                .unwrap_or_else(|error| panic!("{error}"));
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
    assert_answers(others, std::slice::from_ref(&address), false);
    switched(cluster, others, &own, &address);
    cluster.api().delete("/api/v1/namespaces/alone").unwrap();
}

/// Isolation is switched off and on again while the pods run: they keep their addresses, and what is busy among them goes on.
fn switched(cluster: &Cluster, others: &[KubePod], own: &[KubePod], service: &String) {
    let target = format!("{}:80", own[1].address);
    let stream = own[0].stream(&target, &cluster.state().join("alone.log")).unwrap();
    for (value, wanted) in [("false", true), ("true", false)] {
        let since = Instant::now();
        let patch = json!({"metadata": {"annotations": {"opencontrail.org/isolation": value}}});
        cluster.api().merge("/api/v1/namespaces/alone", &patch).unwrap();
        let mut targets = tcp(own);
        targets.push(service.clone());
        wait_answers(others, &targets, wanted);
        println!("isolation {value} after {:.2} s", since.elapsed().as_secs_f64());
        assert_answers(others, &targets, wanted);
        // Among themselves and outwards nothing changes.
        assert_reach(own, own, true);
        assert_reach(own, others, true);
        assert_answers(own, std::slice::from_ref(service), true);
        let now = cluster.pods("alone", "app=web").unwrap();
        for (before, after) in own.iter().zip(&now) {
            assert_eq!((&before.uid, &before.addresses), (&after.uid, &after.addresses));
            assert_eq!((before.restarts, &before.containers), (after.restarts, &after.containers));
        }
    }
    streams::unnoticed(stream, &own[1].name);
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
    chosen_by_namespace(cluster, &skein, others);
}

/// All pods of a namespace are in a network, but for one that says otherwise; services are reached once a policy joins their
/// network with it, and no others.
fn chosen_by_namespace(cluster: &Cluster, skein: &dyn Fn(&[&str]) -> String, others: &[KubePod]) {
    skein(&["create", "network", "rear", "--project", "shop", "--subnet", "10.17.0.0/24"]);
    let network = "opencontrail.org/network";
    let choice = json!({ network: "default-domain:shop:front" });
    create_namespace(cluster, &json!({"name": "chosen", "annotations": choice}));
    let mut own = on_every_node(cluster, "chosen", "front", &json!({}));
    let other = json!({ network: "default-domain:shop:rear" });
    let rear = on_every_node(cluster, "chosen", "rear", &other);
    let within = |pods: &[KubePod], prefix: &str| {
        assert!(pods.iter().all(|pod| pod.address.starts_with(prefix)), "{prefix}: {pods:?}");
    };
    within(&own, "10.7.0.");
    within(&rear, "10.17.0.");
    assert_reach(&own, &own, true);
    assert_reach(&own, &rear, false);
    let service = json!({
        "metadata": {"name": "joined"},
        "spec": {"selector": {"set": "probe1"}, "ports": [{"port": 8080, "targetPort": 80}]},
    });
    const SERVICES: &str = "/api/v1/namespaces/default/services";
    let made = cluster.api().create(SERVICES, &service).unwrap();
    let vip = format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap());
    assert_answers(others, std::slice::from_ref(&vip), true);
    own.extend(rear);
    assert_answers(&own, std::slice::from_ref(&vip), false);
    let services = "default-domain:k8s-default:k8s-default-service-network";
    let rule = format!("pass between default-domain:shop:front and {services}");
    skein(&["create", "policy", "front-services", "--project", "shop", "--rule", &rule]);
    let policy = "default-domain:shop:front-services";
    for network in ["default-domain:shop:front", services] {
        skein(&["attach", "network", network, "policy", policy]);
    }
    let (joined, apart) = own.split_at(cluster.nodes().len());
    assert_answers(joined, std::slice::from_ref(&vip), true);
    assert_answers(apart, std::slice::from_ref(&vip), false);
    assert_reach(joined, others, false);
    for network in ["default-domain:shop:front", services] {
        skein(&["detach", "network", network, "policy", policy]);
    }
    wait_answers(joined, std::slice::from_ref(&vip), false);
    cluster.api().delete(&format!("{SERVICES}/joined")).unwrap();
    cluster.api().delete("/api/v1/namespaces/chosen").unwrap();
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
