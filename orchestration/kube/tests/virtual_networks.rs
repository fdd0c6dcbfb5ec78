//! Networks by definition (virtualnetworks.skein.io) against a real configuration API.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod support;

use serde_json::{Value, json};
use skein_kube::objects::KubeObject;
use skein_model::Kind;
use support::{Bench, namespace, object, pod};

const NETWORK: &str = "opencontrail.org/network";

/// A definition; `more` stands below `metadata`, `spec` below `spec`.
fn definition(namespace: &str, name: &str, more: &str, spec: &str) -> KubeObject {
    object(&format!(
        "kind: VirtualNetwork\nmetadata: {{name: {name}, namespace: {namespace}{more}}}\nspec: {{{spec}}}"
    ))
}

const KEPT: &str = ", finalizers: [skein.io/in-use]";
const GOING: &str =
    ", finalizers: [other/one, skein.io/in-use], deletionTimestamp: \"2026-01-01T00:00:00Z\"";

/// The last status that was told of a definition.
fn ready(bench: &Bench, name: &str) -> Value {
    let of = |patch: &&skein_kube::desired::Patch| patch.status && &*patch.key.name == name;
    let last = bench.patches.iter().rfind(of).unwrap_or_else(|| panic!("{:#?}", bench.patches));
    last.body["status"]["conditions"][0].clone()
}

#[tokio::test]
async fn kubectl_alone_makes_a_network_that_pods_choose() {
    let mut bench = Bench::new().await;
    bench.node("node-1", "10.9.9.1").await;
    bench.put(namespace("shop", "", ""));
    bench.put(namespace("lab", "", &format!("{NETWORK}: shop/blue")));
    // The pod comes first: it waits and is told why.
    bench.put(pod("shop", "web", "", &format!("{NETWORK}: blue")));
    bench.settle().await;
    assert!(bench.reasons().contains(&"UnknownNetwork"), "{:?}", bench.notices);

    let spec = "subnets: [{cidr: 10.77.0.0/24, gateway: 10.77.0.9}, {cidr: 'fd00:77::/64'}], \
                routeTargets: {importExport: ['target:64512:700'], import: ['target:64512:701']}, fabricSNAT: true";
    bench.put(definition("shop", "blue", KEPT, spec));
    bench.put(pod("lab", "job", "", ""));
    bench.settle().await;
    let network = bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:blue").await;
    assert_eq!(network.properties["fabric_snat"], true);
    let targets = &network.properties["route_target_list"]["route_target"];
    assert_eq!(*targets, json!(["target:64512:700"]));
    let imported = &network.properties["import_route_target_list"]["route_target"];
    assert_eq!(*imported, json!(["target:64512:701"]));
    let subnets = &network.reference_to(Kind::NETWORK_IPAM).unwrap().attr["ipam_subnets"];
    assert_eq!(subnets[0]["default_gateway"], "10.77.0.9");
    for name in ["web", "job"] {
        let machine = bench.core.graph().of_kind(Kind::VIRTUAL_MACHINE_INTERFACE);
        let port = machine.into_iter().find(|p| p.name().starts_with(name)).unwrap();
        assert_eq!(bench.targets(port, Kind::VIRTUAL_NETWORK), ["default-domain:k8s-shop:blue"]);
    }
    assert_eq!(ready(&bench, "blue")["status"], "True");
    // Nobody joins it with anything; nodes reach the pods in it.
    let np = "default-domain:k8s-default:k8s-nodes-to-k8s-shop-blue-np";
    assert_eq!(bench.targets(&network, Kind::NETWORK_POLICY), [np]);
}

#[tokio::test]
async fn networks_are_joined_by_both_sides() {
    let mut bench = Bench::new().await;
    bench.put(namespace("shop", "", ""));
    bench.put(namespace("bank", "", ""));
    let blue = "subnets: [{cidr: 10.77.0.0/24}], isolated: false, connectTo: [bank/red]";
    bench.put(definition("shop", "blue", KEPT, blue));
    bench.put(definition("bank", "red", KEPT, "subnets: [{cidr: 10.78.0.0/24}]"));
    bench.settle().await;
    let blue = bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:blue").await;
    let red = bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-bank:red").await;
    assert_eq!(bench.targets(&blue, Kind::NETWORK_POLICY), ["default-domain:k8s-shop:blue-np"]);
    // To be named by another one changes nothing at this one.
    assert!(red.reference_to(Kind::NETWORK_POLICY).is_none());
    // The cluster's own networks join whoever asks.
    for own in ["k8s-default-pod-network", "k8s-default-service-network"] {
        let name = format!("default-domain:k8s-default:{own}");
        let network = bench.must(Kind::VIRTUAL_NETWORK, &name).await;
        let policies = bench.targets(&network, Kind::NETWORK_POLICY);
        assert!(policies.contains(&"default-domain:k8s-shop:blue-np".to_owned()), "{policies:?}");
    }
    bench.put(definition("shop", "blue", KEPT, "subnets: [{cidr: 10.77.0.0/24}]"));
    bench.settle().await;
    let blue = bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:blue").await;
    assert!(blue.reference_to(Kind::NETWORK_POLICY).is_none());
    assert!(bench.get(Kind::NETWORK_POLICY, "default-domain:k8s-shop:blue-np").await.is_none());
}

#[tokio::test]
async fn a_network_goes_with_its_last_pod() {
    let mut bench = Bench::new().await;
    bench.node("node-1", "10.9.9.1").await;
    bench.put(namespace("shop", "", ""));
    let spec = "subnets: [{cidr: 10.77.0.0/24}], external: true";
    // Without the finalizer it is added.
    bench.put(definition("shop", "blue", "", spec));
    bench.settle().await;
    let added = bench.patches.iter().find(|p| !p.status).expect("no finalizer was added");
    assert_eq!(added.body["metadata"]["finalizers"], json!(["skein.io/in-use"]));
    assert!(bench.get(Kind::FLOATING_IP_POOL, "default-domain:k8s-shop:blue:pool").await.is_some());

    let web = pod("shop", "web", "", &format!("{NETWORK}: blue"));
    bench.put(web.clone());
    bench.settle().await;
    bench.patches.clear();
    bench.put(definition("shop", "blue", GOING, spec));
    bench.settle().await;
    assert!(bench.reasons().contains(&"InUse"), "{:?}", bench.notices);
    assert_eq!(ready(&bench, "blue")["reason"], "InUse");
    bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:blue").await;
    assert!(bench.patches.iter().all(|patch| patch.status), "{:#?}", bench.patches);

    bench.core.kube_delete(&web);
    bench.settle().await;
    assert!(bench.get(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:blue").await.is_none());
    let freed = bench.patches.iter().rfind(|p| !p.status).expect("the finalizer stays");
    assert_eq!(freed.body["metadata"]["finalizers"], json!(["other/one"]));
}

#[tokio::test]
async fn what_cannot_be_made_is_told_and_breaks_nothing() {
    let mut bench = Bench::new().await;
    bench.put(namespace("shop", "", ""));
    bench.put(definition("shop", "blue", KEPT, "subnets: [{cidr: 10.77.0.0/24}]"));
    bench.settle().await;
    for (spec, words) in [
        ("subnets: [{cidr: ten}]", "not a prefix"),
        ("subnets: [{cidr: 10.77.0.1/24}]", "write 10.77.0.0/24"),
        ("subnets: [{cidr: 10.77.0.0/24}, {cidr: 10.77.0.0/16}]", "overlap"),
        ("subnets: [{cidr: 10.77.0.0/24, gateway: 10.78.0.1}]", "not in 10.77.0.0/24"),
        ("subnets: [{cidr: 10.77.0.0/24}], connectTo: ['a/b/c']", "spec.connectTo"),
        ("subnets: []", "no subnet"),
    ] {
        bench.notices.clear();
        bench.put(definition("shop", "blue", KEPT, spec));
        bench.settle().await;
        let condition = ready(&bench, "blue");
        assert_eq!(condition["status"], "False", "{spec}");
        let message = condition["message"].as_str().unwrap();
        assert!(message.contains(words), "{spec}: {message}");
        assert!(bench.reasons().contains(&"BadNetwork"), "{spec}: {:?}", bench.notices);
        // What works is not taken away.
        bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:blue").await;
    }
}
