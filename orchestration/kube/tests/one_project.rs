//! All namespaces in one project (`cluster_project`), and one project each: the objects have other names, and who reaches whom is the
//! same.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::Value;
use skein_kube::Settings;
use skein_model::{Kind, Object};
use std::collections::BTreeMap;
use support::{Bench, namespace, note, pod};

const PROJECT: &str = "default-domain:all";

fn shared() -> Settings {
    Settings {
        cluster_project: Some("{'domain': 'default-domain', 'project': 'all'}".into()),
        ..Settings::default()
    }
}

/// Two isolated namespaces and two that are not, with a pod, a service, a policy and a definition each, all of the same names; one
/// has a network made by kubectl.
async fn filled(settings: Settings) -> Bench {
    let mut bench = Bench::with(settings).await;
    bench.put(namespace("default", "", ""));
    for (name, annotations) in [
        ("shop", "opencontrail.org/isolation: 'true'"),
        ("bank", "opencontrail.org/isolation: 'true', opencontrail.org/isolation.service: 'false'"),
        ("yard", ""),
        ("port", ""),
    ] {
        bench.put(namespace(name, "", annotations));
        bench.yaml(&format!(
            "kind: NetworkAttachmentDefinition\nmetadata: {{name: side, namespace: {name}, annotations: {{opencontrail.org/cidr: '10.12.0.0/24'}}}}\n\
             spec: {{config: '{{\"cniVersion\": \"0.3.1\", \"type\": \"skein\"}}'}}\n---\n\
             kind: Service\nmetadata: {{name: web, namespace: {name}}}\nspec: {{clusterIP: 10.96.1.{}, ports: [{{port: 80}}]}}\n---\n\
             kind: NetworkPolicy\nmetadata: {{name: only, namespace: {name}}}\nspec: {{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{from: [{{podSelector: {{}}}}]}}]}}",
            10 + name.len() + usize::from(name.as_bytes()[0])
        ));
    }
    bench.yaml("kind: VirtualNetwork\nmetadata: {name: blue, namespace: yard}\nspec: {subnets: [{cidr: 10.77.0.0/24}], isolated: false, connectTo: [services]}");
    // A pod that is there before its network is told that there is none yet.
    bench.settle().await;
    for name in ["shop", "bank", "yard", "port"] {
        bench.put(pod(name, "web", "app: web", "k8s.v1.cni.cncf.io/networks: side"));
    }
    bench.put(pod("yard", "chooses", "", "opencontrail.org/network: blue"));
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new(), "no write was refused");
    assert_eq!(bench.reasons(), Vec::<&str>::new(), "{:?}", bench.notices);
    bench
}

/// A name as both forms have it: what one project says in the name, several say in the project.
fn plain(text: &str) -> String {
    // A policy about a network has the network's project in its name.
    let mut text = text.replace("default-domain:all:", "").replace("nodes-to-all-", "nodes-to-");
    for project in ["default", "shop", "bank", "yard", "port"] {
        let own = format!("default-domain:k8s-{project}:");
        text = text.replace(&format!("{own}k8s-side-"), &format!("k8s-{project}-side-nad-"));
        text = text.replace(&format!("{own}blue"), &format!("{project}-blue"));
        text = text.replace(&own, "");
        text = text.replace(&format!("nodes-to-k8s-{project}-"), &format!("nodes-to-{project}-"));
    }
    text
}

/// All that decides who reaches whom: policies of networks with their rules, networks, tags and groups of ports, rules of firewalls.
fn reach(bench: &Bench) -> BTreeMap<String, Vec<String>> {
    let graph = bench.core.graph();
    let mut all = BTreeMap::new();
    let mut say = |object: &Object, what: &[Kind], property: &str| {
        let mut lines: Vec<String> = what
            .iter()
            .flat_map(|kind| bench.targets(object, *kind))
            .map(|name| plain(&name))
            .collect();
        let properties = skein_kube::packed::properties(object);
        let value = properties.get(property).cloned().map(|mut value| {
            let rules = value.get_mut("policy_rule").and_then(Value::as_array_mut);
            for rule in rules.into_iter().flatten().filter_map(Value::as_object_mut) {
                // The API makes it up.
                rule.remove("rule_uuid");
            }
            plain(&value.to_string())
        });
        lines.extend(value);
        lines.sort();
        all.insert(format!("{} {}", object.kind, plain(&object.fq_name.to_string())), lines);
    };
    for network in graph.of_kind(Kind::VIRTUAL_NETWORK) {
        say(network, &[Kind::NETWORK_POLICY, Kind::TAG], "virtual_network_properties");
    }
    for policy in graph.of_kind(Kind::NETWORK_POLICY) {
        say(policy, &[], "network_policy_entries");
    }
    for port in graph.of_kind(Kind::VIRTUAL_MACHINE_INTERFACE) {
        let kinds = [Kind::VIRTUAL_NETWORK, Kind::TAG, Kind::SECURITY_GROUP];
        say(port, &kinds, "port_security_enabled");
    }
    for rule in graph.of_kind(Kind::FIREWALL_RULE) {
        say(rule, &[], "endpoint_1");
    }
    for balancer in graph.of_kind(Kind::LOADBALANCER) {
        say(balancer, &[], "loadbalancer_properties");
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn one_project_holds_what_several_would() {
    let mut bench = filled(shared()).await;
    let projects: Vec<String> = bench.names(Kind::PROJECT);
    assert!(projects.iter().all(|name| !name.contains("k8s")), "{projects:?}");
    for (kind, name) in [
        (Kind::PROJECT, ""),
        (Kind::NETWORK_IPAM, ":k8s-pod-ipam"),
        (Kind::VIRTUAL_NETWORK, ":k8s-default-pod-network"),
        (Kind::VIRTUAL_NETWORK, ":k8s-default-service-network"),
        (Kind::VIRTUAL_NETWORK, ":k8s-shop-pod-network"),
        (Kind::VIRTUAL_NETWORK, ":k8s-shop-service-network"),
        (Kind::VIRTUAL_NETWORK, ":k8s-bank-pod-network"),
        (Kind::SECURITY_GROUP, ":k8s-shop-default-sg"),
        (Kind::SECURITY_GROUP, ":k8s-yard-default-sg"),
        // What may be called the same in every namespace says whose it is.
        (Kind::VIRTUAL_NETWORK, ":k8s-shop-side-nad-pod-network"),
        (Kind::VIRTUAL_NETWORK, ":k8s-yard-side-nad-pod-network"),
        (Kind::VIRTUAL_NETWORK, ":yard-blue"),
        (Kind::NETWORK_POLICY, ":k8s-default-service-np"),
        (Kind::NETWORK_POLICY, ":k8s-shop-pod-service-np"),
        (Kind::NETWORK_POLICY, ":yard-blue-np"),
    ] {
        let object = bench.must(kind, &format!("{PROJECT}{name}")).await;
        if kind != Kind::PROJECT {
            assert_eq!(note(&object, "project"), Some("all"), "{name}");
        }
    }
    let ports = bench.names(Kind::VIRTUAL_MACHINE_INTERFACE);
    assert_eq!(ports.len(), 13, "nine of pods, four of services");
    assert!(ports.iter().all(|name| name.starts_with(&format!("{PROJECT}:"))), "{ports:?}");
    // A namespace goes, the project stays: it is everybody's, and perhaps not the manager's at all.
    bench.core.kube_delete(&pod("yard", "chooses", "", ""));
    for name in ["shop", "bank", "yard", "port"] {
        bench.core.kube_delete(&pod(name, "web", "", ""));
        bench.core.kube_delete(&namespace(name, "", ""));
    }
    bench.settle().await;
    bench.must(Kind::PROJECT, PROJECT).await;
    assert!(
        bench
            .get(Kind::VIRTUAL_NETWORK, &format!("{PROJECT}:k8s-shop-pod-network"))
            .await
            .is_none()
    );
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE), Vec::<String>::new());
    bench.must(Kind::VIRTUAL_NETWORK, &format!("{PROJECT}:k8s-default-pod-network")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reaches_whom_is_the_same() {
    let one = reach(&filled(shared()).await);
    let each = reach(&filled(Settings::default()).await);
    assert_eq!(one.keys().collect::<Vec<_>>(), each.keys().collect::<Vec<_>>());
    assert_eq!(one, each);
    // It says something: isolated pods' network has other policies than the cluster's.
    let of = |name: &str| &one[&format!("virtual-network {name}")];
    assert!(of("k8s-shop-pod-network").iter().any(|name| name == "k8s-shop-pod-service-np"));
    assert!(of("k8s-default-pod-network").iter().all(|name| name != "k8s-shop-pod-service-np"));
}
