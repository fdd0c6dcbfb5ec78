//! Networks in the underlay and the way outside from the nodes' addresses: annotations, settings, and what cannot be.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use serde_json::json;
use skein_kube::Settings;
use skein_kube::objects::KubeObject;
use skein_model::{Kind, Object};
use support::{Bench, namespace, object, pod};

const PODS: &str = "default-domain:k8s-default:k8s-default-pod-network";
const FABRIC: &str = "default-domain:default-project:ip-fabric";

fn own(name: &str) -> String {
    format!("default-domain:k8s-{name}:k8s-{name}-pod-network")
}

fn isolated(name: &str, forwarding: &str, snat: &str) -> KubeObject {
    let mut all = String::from("opencontrail.org/isolation: 'true'");
    for (key, value) in [("ip_fabric_forwarding", forwarding), ("ip_fabric_snat", snat)] {
        if !value.is_empty() {
            all.push_str(&format!(", opencontrail.org/{key}: '{value}'"));
        }
    }
    namespace(name, "", &all)
}

/// Whether it is in the underlay, whether it leaves by the nodes' addresses, and where its addresses come from.
fn state(bench: &Bench, network: &Object) -> (bool, bool, Vec<String>) {
    let provider = bench.targets(network, Kind::VIRTUAL_NETWORK) == [FABRIC];
    let snat = network.properties.get("fabric_snat") == Some(&json!(true));
    let ipams = bench.targets(network, Kind::NETWORK_IPAM);
    (provider, snat, ipams.iter().map(|n| n.rsplit(':').next().unwrap().to_owned()).collect())
}

async fn look(bench: &Bench, network: &str) -> (bool, bool, String) {
    let object = bench.must(Kind::VIRTUAL_NETWORK, network).await;
    let (provider, snat, ipams) = state(bench, &object);
    (provider, snat, ipams.join(","))
}

fn is(provider: bool, snat: bool, ipam: &str) -> (bool, bool, String) {
    (provider, snat, format!("k8s-{ipam}"))
}

async fn address(bench: &Bench, pod: &str) -> String {
    let name = bench.names(Kind::INSTANCE_IP).into_iter().find(|n| n.starts_with(pod)).unwrap();
    let object = bench.must(Kind::INSTANCE_IP, &name).await;
    object.properties["instance_ip_address"].as_str().unwrap().to_owned()
}

/// Annotations that are understood and do nothing are told of.
#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_about_a_namespace_is_told() {
    let isolation = |own: &str, services: &str| {
        let all = [("isolation", own), ("isolation.service", services)];
        let said = all.iter().filter(|(_, value)| !value.is_empty());
        let said: Vec<String> =
            said.map(|(key, value)| format!("opencontrail.org/{key}: '{value}'")).collect();
        said.join(", ")
    };
    for (name, own, services, told) in [
        ("default", "true", "", true),
        ("default", "true", "false", true),
        ("default", "false", "", false),
        ("shop", "", "true", true),
        ("shop", "false", "false", true),
        ("shop", "true", "false", false),
        ("shop", "true", "", false),
    ] {
        let mut bench = Bench::new().await;
        bench.put(namespace(name, "", &isolation(own, services)));
        bench.settle().await;
        let wanted: &[&str] = if told { &["NotIsolated"] } else { &[] };
        assert_eq!(bench.reasons(), wanted, "{name}: {own:?} {services:?}");
        if name == "default" {
            assert!(bench.get(Kind::VIRTUAL_NETWORK, PODS).await.is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn translation_may_be_switched_on_a_living_namespace() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(isolated("shop", "", ""));
    bench.put(pod("shop", "web", "", ""));
    bench.settle().await;
    assert_eq!(look(&bench, PODS).await, is(false, false, "pod-ipam"));
    for (wish, outcome) in [("true", true), ("false", false), ("true", true), ("", false)] {
        bench.put(isolated("shop", "", wish));
        bench.settle().await;
        assert_eq!(look(&bench, &own("shop")).await, is(false, outcome, "pod-ipam"), "{wish}");
        assert_eq!(look(&bench, PODS).await, is(false, false, "pod-ipam"));
    }
    // The cluster's own network goes by the namespace default.
    bench.put(namespace("default", "", "opencontrail.org/ip_fabric_snat: 'true'"));
    bench.settle().await;
    assert_eq!(look(&bench, PODS).await, is(false, true, "pod-ipam"));
    assert!(bench.reasons().is_empty(), "{:?}", bench.notices);
    // A namespace without a network of its own has none to switch.
    bench.put(namespace("plain", "", "opencontrail.org/ip_fabric_forwarding: 'true'"));
    bench.settle().await;
    assert_eq!(bench.reasons(), ["NoNetworkOfItsOwn"]);
    bench.put(isolated("bad", "perhaps", ""));
    bench.settle().await;
    assert_eq!(bench.reasons(), ["NoNetworkOfItsOwn", "BadAnnotation"]);
    assert_eq!(look(&bench, &own("bad")).await, is(false, false, "pod-ipam"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forwarding_gives_addresses_of_the_underlay_and_stays() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    // Both: forwarding wins.
    bench.put(isolated("edge", "true", "true"));
    bench.put(pod("edge", "web", "", ""));
    bench.settle().await;
    assert_eq!(look(&bench, &own("edge")).await, is(true, false, "ip-fabric-ipam"));
    let had = address(&bench, "web").await;
    assert!(had.starts_with("10.64.") || had.starts_with("10.7"), "{had}");
    assert_eq!(look(&bench, PODS).await, is(false, false, "pod-ipam"));
    // It cannot leave, and says so; translation cannot take its place.
    bench.put(isolated("edge", "false", "true"));
    bench.settle().await;
    assert_eq!(bench.reasons(), ["ForwardingStays"]);
    assert_eq!(look(&bench, &own("edge")).await, is(true, false, "ip-fabric-ipam"));
    assert_eq!(address(&bench, "web").await, had);
    // After a restart of the manager, too.
    let keep = [namespace("default", "", ""), isolated("edge", "", ""), pod("edge", "web", "", "")];
    bench.restart(Settings::default(), keep.to_vec());
    bench.settle().await;
    assert_eq!(look(&bench, &own("edge")).await, is(true, false, "ip-fabric-ipam"));
    // Deleted and made anew it is what is wished then.
    for forwarding in ["", "true"] {
        let gone = [isolated("edge", "", ""), pod("edge", "web", "", "")];
        gone.iter().rev().for_each(|object| bench.core.kube_delete(object));
        bench.settle().await;
        assert!(bench.get(Kind::VIRTUAL_NETWORK, &own("edge")).await.is_none());
        bench.put(isolated("edge", forwarding, ""));
        bench.put(pod("edge", "web", "", ""));
        bench.settle().await;
        let (there, ipam) =
            if forwarding.is_empty() { (false, "pod-ipam") } else { (true, "ip-fabric-ipam") };
        assert_eq!(look(&bench, &own("edge")).await, is(there, false, ipam));
    }
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_with_pods_does_not_change_their_addresses() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(isolated("shop", "", ""));
    let web = pod("shop", "web", "", "");
    bench.put(web.clone());
    bench.settle().await;
    let had = address(&bench, "web").await;
    bench.put(isolated("shop", "true", ""));
    bench.settle().await;
    assert_eq!(bench.reasons(), ["ForwardingWaits"]);
    assert_eq!(look(&bench, &own("shop")).await, is(false, false, "pod-ipam"));
    assert_eq!(address(&bench, "web").await, had);
    // When they are gone, the next comparison switches it on.
    bench.core.kube_delete(&web);
    bench.settle().await;
    bench.core.mark_all();
    bench.settle().await;
    assert_eq!(look(&bench, &own("shop")).await, is(true, false, "ip-fabric-ipam"));
    bench.put(web);
    bench.settle().await;
    assert_ne!(address(&bench, "web").await, had);
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clusters_own_network_goes_by_the_settings() {
    for (forwarding, snat, expected) in [
        (true, true, is(true, false, "ip-fabric-ipam")),
        (false, true, is(false, true, "pod-ipam")),
    ] {
        let settings = Settings {
            ip_fabric_forwarding: forwarding,
            ip_fabric_snat: snat,
            ..Settings::default()
        };
        let mut bench = Bench::with(settings).await;
        bench.put(namespace("default", "", ""));
        bench.put(namespace("kube-system", "", ""));
        bench.put(pod("default", "web", "", ""));
        bench.settle().await;
        assert_eq!(look(&bench, PODS).await, expected);
        let services = PODS.replace("pod-network", "service-network");
        assert_eq!(look(&bench, &services).await, is(false, false, "service-ipam"));
        assert!(bench.reasons().is_empty(), "{:?}", bench.notices);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_of_networks_have_the_same_switches() {
    let nad = |switches: &str| {
        object(&format!(
            "kind: NetworkAttachmentDefinition\nmetadata: {{name: blue, namespace: default, annotations: {{\
             opencontrail.org/cidr: 192.168.7.0/24{switches}}}}}\n\
             spec: {{config: '{{\"type\": \"contrail-k8s-cni\"}}'}}"
        ))
    };
    let on = |key: &str| format!(", opencontrail.org/{key}: 'true'");
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(nad(""));
    bench.settle().await;
    let names = bench.names(Kind::VIRTUAL_NETWORK);
    let blue = names.into_iter().find(|name| name.contains("blue")).unwrap();
    let now = async |bench: &Bench| {
        let (provider, snat, _) = look(bench, &blue).await;
        (provider, snat)
    };
    assert_eq!(now(&bench).await, (false, false));
    for (switches, expected) in [
        (on("ip_fabric_snat"), (false, true)),
        (String::new(), (false, false)),
        (on("ip_fabric_forwarding"), (true, false)),
    ] {
        bench.put(nad(&switches));
        bench.settle().await;
        assert_eq!(now(&bench).await, expected, "{switches}");
    }
    bench.put(nad(""));
    bench.settle().await;
    assert_eq!((now(&bench).await, bench.reasons()), ((true, false), vec!["ForwardingStays"]));
    assert_eq!(bench.log, Vec::<String>::new());
}
