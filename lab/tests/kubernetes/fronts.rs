//! Load balancers and Ingresses of pods that are not in the cluster's own network alone: of an isolated namespace in a network of the
//! operator's, and of pods with three networks.

use crate::ingress::{Asker, Front};
use crate::networks::{assert_reach, wait_answers};
use crate::outside::{Balanced, POOL};
use crate::{PODS_READY, Steps, create_namespace, create_pod};
use serde_json::{Value, json};
use skein_lab::kubernetes::{KubePod, PROBE_IMAGE, SkeinNetwork};

const APP: &str = "page";

pub(crate) fn check(front: &Front<'_>, network: &SkeinNetwork, steps: &mut Steps) {
    custom_isolated(front, network);
    steps.done("a load balancer and an Ingress of an isolated namespace in a network of its own");
    three_networks(front);
    steps.done("a load balancer and an Ingress of pods with three networks");
}

/// The namespace is isolated, and its pods are in a network that the operator made: services are theirs once a policy joins their
/// networks.
fn custom_isolated(front: &Front<'_>, network: &SkeinNetwork) {
    const SPACE: &str = "walled";
    const INSIDE: &str = "default-domain:walled:inside";
    let skein = |arguments: &[&str]| network.skein(arguments).unwrap().success().unwrap();
    skein(&["create", "project", "walled"]);
    skein(&["create", "network", "inside", "--project", "walled", "--subnet", "10.84.0.0/24"]);
    space(front, SPACE, &json!({"opencontrail.org/network": INSIDE}));
    let pods = pages(front, SPACE, &json!({}));
    assert!(pods.iter().all(|pod| pod.address.starts_with("10.84.0.")), "{pods:?}");
    let services = "default-domain:k8s-walled:k8s-walled-service-network";
    let rule = format!("pass between {INSIDE} and {services}");
    skein(&["create", "policy", "services", "--project", "walled", "--rule", &rule]);
    let both = |verb: &str| {
        for one in [INSIDE, services] {
            skein(&[verb, "network", one, "policy", "default-domain:walled:services"]);
        }
    };
    both("attach");
    let inner = reached(front, SPACE, &pods);
    assert!(inner.starts_with("10.84.0."), "{inner}");
    // Neither by the address of its page inside nor by those of its pods.
    assert_reach(&front.clients, &pods, false);
    wait_answers(&front.clients, &[format!("tcp:{inner}:80")], false);
    remove(front, SPACE);
    both("detach");
}

/// Services lead to first interfaces, however many there are.
fn three_networks(front: &Front<'_>) {
    const SPACE: &str = "many";
    space(front, SPACE, &json!({}));
    for (name, cidr) in [("left", "10.85.0.0/24"), ("right", "10.86.0.0/24")] {
        let annotations = json!({ "opencontrail.org/cidr": cidr });
        let definition = json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": name, "namespace": SPACE, "annotations": annotations},
            "spec": {"config": r#"{"cniVersion": "0.3.1", "type": "skein"}"#},
        });
        front.cluster.apply(&definition.to_string()).unwrap();
    }
    let pods = pages(front, SPACE, &json!({"k8s.v1.cni.cncf.io/networks": "left,right"}));
    for pod in &pods {
        let shown = pod.run("/bin/ip", &["-4", "-o", "addr", "show"]).unwrap().success().unwrap();
        for (device, prefix) in [("eth0", "10.244."), ("eth1", "10.85.0."), ("eth2", "10.86.0.")] {
            let there = |line: &str| line.contains(device) && line.contains(prefix);
            assert!(shown.lines().any(there), "{device}: {shown}");
        }
    }
    let inner = reached(front, SPACE, &pods);
    assert!(inner.starts_with("10.244."), "{inner}");
    assert_reach(&front.clients, &pods, false);
    remove(front, SPACE);
}

/// An isolated namespace with external addresses.
fn space(front: &Front<'_>, name: &str, more: &Value) {
    let mut annotations =
        json!({"opencontrail.org/isolation": "true", "opencontrail.org/fip-pool": POOL});
    annotations.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    create_namespace(front.cluster, &json!({"name": name, "annotations": annotations}));
}

/// A pod on every node, which serves pages and says who it is.
fn pages(front: &Front<'_>, namespace: &str, annotations: &Value) -> Vec<KubePod> {
    let nodes = front.cluster.nodes();
    for node in nodes {
        let container = json!({
            "name": "web", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
            "args": ["serve", "tcp:80", "http:8080"],
        });
        let pod = json!({
            "metadata": {
                "name": format!("{APP}-{}", node.name()), "labels": {"app": APP},
                "annotations": annotations,
            },
            "spec": {
                "nodeName": node.name(), "terminationGracePeriodSeconds": 1,
                "containers": [container],
            },
        });
        create_pod(front.cluster, namespace, &pod);
    }
    let selector = format!("app={APP}");
    front.cluster.wait_pods(namespace, &selector, nodes.len(), PODS_READY).unwrap()
}

/// All pods answer the world at a load balancer's address, and serve its Ingress for the world and for themselves; gives the address
/// of the Ingress inside.
fn reached(front: &Front<'_>, namespace: &str, pods: &[KubePod]) -> String {
    let balanced = Balanced::new(front.world, namespace, &json!({}), &json!({"app": APP}));
    balanced.answers(&pods.iter().map(|pod| pod.name.clone()).collect());
    balanced.remove();
    let service = json!({
        "metadata": {"name": APP},
        "spec": {"selector": {"app": APP}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    let services = format!("/api/v1/namespaces/{namespace}/services");
    front.cluster.api().create(&services, &service).unwrap();
    let backend = json!({"service": {"name": APP, "port": {"number": 80}}});
    let ingress = json!({
        "metadata": {"name": APP},
        "spec": {"ingressClassName": "skein", "defaultBackend": backend},
    });
    let ingresses = ingresses(namespace);
    front.cluster.api().create(&ingresses, &ingress).unwrap();
    let [external, inner] = front.addresses_of(&format!("{ingresses}/{APP}"));
    front.beyond().served("http://any/", &external, None, APP);
    for pod in pods {
        Asker::Pod(pod).served("http://any/", &inner, None, APP);
    }
    inner
}

fn ingresses(namespace: &str) -> String {
    format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses")
}

fn remove(front: &Front<'_>, namespace: &str) {
    let api = front.cluster.api();
    api.delete(&format!("{}/{APP}", ingresses(namespace))).unwrap();
    api.delete(&format!("/api/v1/namespaces/{namespace}")).unwrap();
}
