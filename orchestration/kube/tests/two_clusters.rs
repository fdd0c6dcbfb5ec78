//! Two managers, one after the other, on one configuration: what is the other cluster's is left alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use skein_kube::Settings;
use skein_kube::objects::KubeObject;
use skein_model::Kind;
use support::{Bench, namespace, note, object};

const POLICY: &str = "kind: NetworkPolicy\nmetadata: {name: p, namespace: default}\nspec: {podSelector: {matchLabels: {role: db}}, ingress: []}";

fn east() -> Settings {
    Settings { cluster_name: "east".into(), ..Settings::default() }
}

fn node(address: &str) -> KubeObject {
    object(&format!(
        "kind: Node\nmetadata: {{name: node-1, labels: {{topology.kubernetes.io/zone: z}}}}\nstatus: {{addresses: [{{type: InternalIP, address: {address}}}]}}"
    ))
}

fn pod(uid: u8) -> KubeObject {
    object(&format!(
        "kind: Pod\nmetadata: {{name: db, namespace: default, labels: {{role: db}}, uid: 7b1d64c8-0000-4000-8000-0000000000{uid:02x}}}\nspec: {{nodeName: node-1, containers: [{{name: a}}]}}\nstatus: {{phase: Running}}"
    ))
}

/// Cluster, zone and addresses that a virtual-router is told to have.
async fn told(bench: &Bench, name: &str) -> [String; 3] {
    let router =
        bench.must(Kind::VIRTUAL_ROUTER, &format!("default-global-system-config:{name}")).await;
    ["cluster", "zone", "addresses"].map(|key| note(&router, key).unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_name_are_told_apart_by_their_addresses() {
    let mut bench = Bench::new().await;
    bench.node("node-1", "10.9.9.1").await;
    bench.node("east-node-1", "10.9.9.2").await;
    for object in [namespace("default", "", ""), node("10.9.9.1"), pod(1)] {
        bench.put(object);
    }
    bench.settle().await;
    assert_eq!(told(&bench, "node-1").await, ["k8s", "z", "10.9.9.1"]);
    assert_eq!(told(&bench, "east-node-1").await, ["", "", ""]);
    bench.restart(east(), vec![namespace("default", "", ""), node("10.9.9.2"), pod(2)]);
    bench.settle().await;
    assert_eq!(told(&bench, "node-1").await, ["k8s", "z", "10.9.9.1"]);
    assert_eq!(told(&bench, "east-node-1").await, ["east", "z", "10.9.9.2"]);
    let router = bench.must(Kind::VIRTUAL_ROUTER, "default-global-system-config:east-node-1").await;
    assert_eq!(bench.targets(&router, Kind::VIRTUAL_MACHINE), ["east__default__db"]);
    // A node whose vRouter is not known yet is not the other's of the same name.
    bench.restart(east(), vec![namespace("default", "", ""), node("10.9.9.3"), pod(2)]);
    bench.settle().await;
    assert_eq!(told(&bench, "node-1").await, ["k8s", "z", "10.9.9.1"]);
    // What left the cluster is nobody's, and may join another one.
    assert_eq!(told(&bench, "east-node-1").await, ["", "", ""]);
    bench.restart(Settings::default(), vec![namespace("default", "", ""), node("10.9.9.2")]);
    bench.settle().await;
    assert_eq!(told(&bench, "east-node-1").await, ["k8s", "z", "10.9.9.2"]);
    assert_eq!(told(&bench, "node-1").await, ["", "", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_ends_the_other_goes_on_with() {
    let mut bench = Bench::new().await;
    let here = || vec![namespace("default", "", ""), pod(1), object(POLICY)];
    let there = || vec![namespace("default", "", ""), pod(2), object(POLICY)];
    here().into_iter().for_each(|object| bench.put(object));
    bench.settle().await;
    bench.restart(east(), there());
    bench.settle().await;
    let rules = bench.names(Kind::FIREWALL_RULE);
    assert_eq!(bench.log, Vec::<String>::new());
    // The first one's policy ends. The tag that it made is used: the API refuses, and that is the end of it.
    bench.restart(Settings::default(), vec![namespace("default", "", ""), pod(1)]);
    bench.settle().await;
    assert!(
        bench.log.iter().all(|refused| refused.contains("cannot be removed: Back-References from")),
        "{:?}",
        bench.log
    );
    assert_eq!(bench.reasons(), Vec::<&str>::new());
    bench.must(Kind::TAG, "role=db").await;
    // The second one's rules keep their names, though the shorter ones are free now.
    let before = bench.writes;
    bench.restart(east(), there());
    bench.settle().await;
    assert_eq!(bench.writes, before);
    let own = |all: &[String]| -> Vec<String> {
        all.iter().filter(|name| name.contains("__")).cloned().collect()
    };
    assert_eq!(own(&bench.names(Kind::FIREWALL_RULE)), own(&rules));
    assert!(!own(&rules).is_empty());
}
