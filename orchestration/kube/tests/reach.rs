//! Networks of operators and users that nodes reach, because pods live in them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod support;

use serde_json::{Value, json};
use skein_client::ReferenceChange;
use skein_kube::Settings;
use skein_kube::objects::KubeObject;
use skein_model::{FqName, Kind, Object};
use support::{Bench, namespace, object};

const NETWORK: &str = "opencontrail.org/network";
const FABRIC: &str = "default-domain:default-project:ip-fabric";
const REASON: &str = "NodesCannotReach";

/// A network that an operator made.
async fn network(bench: &Bench, name: &str, prefix: &str, more: Value) {
    let (prefix, len) = prefix.split_once('/').unwrap();
    let len: u8 = len.parse().unwrap();
    let mut network = json!({
        "fq_name": ["default-domain", "default-project", name], "parent_type": "project",
        "network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": prefix, "ip_prefix_len": len}}]},
        }],
    });
    network.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    bench.client.create(Kind::VIRTUAL_NETWORK, network).await.unwrap();
}

fn full(name: &str) -> String {
    format!("default-domain:default-project:{name}")
}

fn ours(name: &str) -> String {
    format!("default-domain:k8s-default:k8s-nodes-to-default-project-{name}-np")
}

/// A pod that asks for a network, with a probe of one kind.
fn pod_in(name: &str, network: &str, probe: &str) -> KubeObject {
    let annotation = if network.is_empty() {
        String::new()
    } else {
        format!(", annotations: {{{NETWORK}: '{}'}}", full(network))
    };
    object(&format!(
        "kind: Pod\nmetadata: {{name: {name}, namespace: shop{annotation}}}\n\
         spec: {{nodeName: node-1, containers: [{{name: a, readinessProbe: {{{probe}}}}}]}}\n\
         status: {{phase: Running, hostIP: 10.9.9.1}}"
    ))
}

const TCP: &str = "tcpSocket: {port: 80}";

async fn start(settings: Settings) -> Bench {
    let mut bench = Bench::with(settings).await;
    bench.node("node-1", "10.9.9.1").await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    bench
}

/// The policies of a network that it shares with the nodes' own.
async fn joined(bench: &Bench, name: &str) -> Vec<String> {
    let fabric = bench.must(Kind::VIRTUAL_NETWORK, FABRIC).await;
    let there = bench.targets(&fabric, Kind::NETWORK_POLICY);
    let network = bench.must(Kind::VIRTUAL_NETWORK, name).await;
    let mut own = bench.targets(&network, Kind::NETWORK_POLICY);
    own.retain(|policy| there.contains(policy));
    own
}

async fn rule(bench: &Bench, policy: &str) -> (String, String, String) {
    let policy = bench.must(Kind::NETWORK_POLICY, policy).await;
    let rules = &policy.properties["network_policy_entries"]["policy_rule"];
    assert_eq!(rules.as_array().unwrap().len(), 1, "{rules}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let end = |side: &str| text(&rules[0][side][0]["virtual_network"]);
    (end("src_addresses"), text(&rules[0]["direction"]), end("dst_addresses"))
}

/// Pods that were told that nodes do not reach them.
fn told(bench: &Bench) -> Vec<String> {
    let told = bench.notices.iter().filter(|notice| notice.problem.reason == REASON);
    let mut all: Vec<String> = told.map(|notice| notice.key.to_string()).collect();
    all.sort();
    all
}

fn message(bench: &Bench) -> &str {
    let told = bench.notices.iter().rfind(|notice| notice.problem.reason == REASON);
    &told.unwrap_or_else(|| panic!("{:?}", bench.notices)).problem.message
}

async fn change(bench: &Bench, holder: &Object, policy: &str, attach: bool) {
    let target = bench.must(Kind::NETWORK_POLICY, policy).await.uuid;
    let change = ReferenceChange {
        kind: Kind::VIRTUAL_NETWORK,
        uuid: holder.uuid,
        target_kind: Kind::NETWORK_POLICY,
        target,
        attr: json!({"sequence": {"major": 0, "minor": 0}}),
    };
    if attach {
        bench.client.reference_update(&change).await.unwrap();
    } else {
        bench.client.reference_delete(&change).await.unwrap();
    }
}

async fn policy(bench: &Bench, name: &str, one: &str, other: &str) {
    let any = json!([{"start_port": -1, "end_port": -1}]);
    let fields = json!({
        "fq_name": ["default-domain", "default-project", name], "parent_type": "project",
        "network_policy_entries": {"policy_rule": [{
            "direction": "<>", "protocol": "any", "src_ports": any, "dst_ports": any,
            "src_addresses": [{"virtual_network": one}], "dst_addresses": [{"virtual_network": other}],
            "action_list": {"simple_action": "pass"},
        }]},
    });
    bench.client.create(Kind::NETWORK_POLICY, fields).await.unwrap();
    for network in [one, other] {
        let holder = bench.must(Kind::VIRTUAL_NETWORK, network).await;
        change(bench, &holder, &full(name), true).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_joined_while_pods_live_in_it() {
    let mut bench = start(Settings::default()).await;
    network(&bench, "blue", "10.7.0.0/24", json!({})).await;
    network(&bench, "other", "10.17.0.0/24", json!({})).await;
    // What else its operator joined it with.
    policy(&bench, "mine", &full("blue"), &full("other")).await;
    bench.settle().await;
    assert!(joined(&bench, &full("blue")).await.is_empty());
    let (one, two) = (pod_in("one", "blue", TCP), pod_in("two", "blue", "exec: {command: [a]}"));
    bench.put(one.clone());
    bench.put(two.clone());
    bench.settle().await;
    assert_eq!(joined(&bench, &full("blue")).await, [ours("blue")]);
    let wanted = (FABRIC.to_owned(), ">".to_owned(), full("blue"));
    assert_eq!(rule(&bench, &ours("blue")).await, wanted, "nodes ask, and nobody else");
    // Nobody lives there.
    assert!(joined(&bench, &full("other")).await.is_empty());

    // What is lost is mended, on either side.
    for holder in [full("blue"), FABRIC.to_owned()] {
        let object = bench.must(Kind::VIRTUAL_NETWORK, &holder).await;
        change(&bench, &object, &ours("blue"), false).await;
        bench.settle().await;
        assert_eq!(joined(&bench, &full("blue")).await, [ours("blue")], "{holder}");
    }
    let made = bench.must(Kind::NETWORK_POLICY, &ours("blue")).await;
    let none = json!({"network_policy_entries": {"policy_rule": []}});
    bench.client.update(Kind::NETWORK_POLICY, made.uuid, none).await.unwrap();
    bench.settle().await;
    assert_eq!(rule(&bench, &ours("blue")).await, wanted);

    bench.core.kube_delete(&one);
    bench.settle().await;
    assert_eq!(joined(&bench, &full("blue")).await, [ours("blue")], "one is left");
    bench.core.kube_delete(&two);
    bench.settle().await;
    assert!(bench.get(Kind::NETWORK_POLICY, &ours("blue")).await.is_none());
    let blue = bench.must(Kind::VIRTUAL_NETWORK, &full("blue")).await;
    assert_eq!(bench.targets(&blue, Kind::NETWORK_POLICY), [full("mine")], "the operator's stays");
    assert!(told(&bench).is_empty(), "{:?}", bench.notices);
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_by_definition_and_by_namespace_are_joined_as_well() {
    let mut bench = start(Settings::default()).await;
    let spec = "subnets: [{cidr: 10.77.0.0/24}, {cidr: 'fd00:77::/64'}]";
    bench.put(object(&format!(
        "kind: VirtualNetwork\nmetadata: {{name: blue, namespace: shop}}\nspec: {{{spec}}}"
    )));
    bench.put(namespace("chosen", "", &format!("{NETWORK}: shop/blue")));
    bench.put(support::pod("chosen", "web", "", ""));
    // In networks that are the cluster's own nothing is to be done, also when they are chosen by name.
    let own = "default-domain:k8s-default:k8s-default-pod-network";
    bench.put(support::pod("shop", "usual", "", ""));
    bench.put(support::pod("shop", "named", "", &format!("{NETWORK}: '{own}'")));
    bench.put(namespace("alone", "", "opencontrail.org/isolation: 'true'"));
    bench.put(support::pod("alone", "web", "", ""));
    bench.settle().await;
    let blue = "default-domain:k8s-shop:blue";
    let policy = "default-domain:k8s-default:k8s-nodes-to-k8s-shop-blue-np";
    assert_eq!(joined(&bench, blue).await, [policy]);
    let usual = "default-domain:k8s-default:k8s-default-ip-fabric-np";
    assert_eq!(joined(&bench, own).await, [usual]);
    assert_eq!(joined(&bench, "default-domain:k8s-alone:k8s-alone-pod-network").await, [usual]);
    assert!(told(&bench).is_empty(), "{:?}", bench.notices);
    // The definition is compared anew and takes nothing away.
    bench.core.mark_all();
    bench.settle().await;
    assert_eq!(joined(&bench, blue).await, [policy]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_overlap_the_first_stays_and_the_other_is_told() {
    let mut bench = start(Settings::default()).await;
    // By name the second one would be the first.
    network(&bench, "z-first", "10.7.0.0/24", json!({})).await;
    network(&bench, "a-second", "10.7.0.0/16", json!({})).await;
    let first = pod_in("first", "z-first", TCP);
    let second = pod_in("second", "a-second", TCP);
    let silent = pod_in("silent", "a-second", "exec: {command: [a]}");
    bench.put(first.clone());
    bench.settle().await;
    bench.put(second.clone());
    bench.put(silent.clone());
    bench.settle().await;
    assert_eq!(joined(&bench, &full("z-first")).await, [ours("z-first")]);
    assert!(joined(&bench, &full("a-second")).await.is_empty());
    // Whoever needs no node to reach it hears nothing.
    assert_eq!(told(&bench), ["Pod shop/second"]);
    let said = message(&bench);
    assert!(said.contains(&full("z-first")) && said.contains("another prefix"), "{said}");

    // A manager that starts anew finds the same first one.
    let namespaces = [namespace("default", "", ""), namespace("shop", "", "")];
    let all = namespaces.into_iter().chain([first.clone(), second.clone(), silent]);
    bench.notices.clear();
    bench.restart(Settings::default(), all.collect());
    bench.settle().await;
    bench.core.mark_all();
    bench.settle().await;
    assert_eq!(joined(&bench, &full("z-first")).await, [ours("z-first")]);
    assert!(joined(&bench, &full("a-second")).await.is_empty());
    assert_eq!(told(&bench), ["Pod shop/second"]);

    // It makes way with its last pod.
    bench.core.kube_delete(&first);
    bench.settle().await;
    assert!(joined(&bench, &full("z-first")).await.is_empty());
    assert_eq!(joined(&bench, &full("a-second")).await, [ours("a-second")]);
    bench.notices.clear();
    bench.put(first);
    bench.settle().await;
    assert_eq!(joined(&bench, &full("a-second")).await, [ours("a-second")]);
    assert_eq!(told(&bench), ["Pod shop/first"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_an_operator_joined_with_the_nodes_comes_first() {
    let mut bench = start(Settings::default()).await;
    network(&bench, "z-theirs", "10.7.0.0/16", json!({})).await;
    network(&bench, "blue", "10.7.0.0/24", json!({})).await;
    bench.put(pod_in("web", "blue", TCP));
    bench.settle().await;
    assert_eq!(joined(&bench, &full("blue")).await, [ours("blue")]);
    policy(&bench, "theirs", &full("z-theirs"), FABRIC).await;
    bench.settle().await;
    bench.core.mark_all();
    bench.settle().await;
    assert!(joined(&bench, &full("blue")).await.is_empty());
    assert_eq!(told(&bench), ["Pod shop/web"]);
    // What the operator joined is not joined a second time.
    bench.put(pod_in("other", "z-theirs", TCP));
    bench.settle().await;
    assert_eq!(joined(&bench, &full("z-theirs")).await, [full("theirs")]);
    assert_eq!(told(&bench), ["Pod shop/web"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_need_themselves_is_no_network_of_pods() {
    for (prefix, words) in [
        ("10.40.0.0/16", "the cluster's pods"),
        ("10.96.7.0/24", "the cluster's services"),
        ("10.9.0.0/16", "a node's address"),
        ("10.11.12.0/24", "an API server"),
        ("192.0.2.0/24", "node_reach_subnets"),
        ("8.0.0.0/6", "node_reach_subnets"),
    ] {
        let mut bench = start(Settings::default()).await;
        bench.put(object(
            "kind: EndpointSlice\nmetadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}\n\
             addressType: IPv4\nports: [{name: https, port: 6443, protocol: TCP}]\nendpoints: [{addresses: [10.11.12.13]}]",
        ));
        network(&bench, "blue", prefix, json!({})).await;
        bench.put(pod_in("web", "blue", TCP));
        bench.settle().await;
        assert!(joined(&bench, &full("blue")).await.is_empty(), "{prefix}");
        assert_eq!(told(&bench), ["Pod shop/web"], "{prefix}");
        assert!(message(&bench).contains(words), "{prefix}: {}", message(&bench));
        assert_eq!(bench.names(Kind::INSTANCE_IP).len(), 1, "the pod has its address");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_switched_off_and_narrowed() {
    let off = || Settings { node_reach_subnets: Vec::new(), ..Settings::default() };
    let mut bench = start(Settings::default()).await;
    network(&bench, "blue", "10.7.0.0/24", json!({})).await;
    let web = pod_in("web", "blue", TCP);
    bench.put(web.clone());
    bench.settle().await;
    assert_eq!(joined(&bench, &full("blue")).await, [ours("blue")]);
    let all = || vec![namespace("default", "", ""), namespace("shop", "", ""), web.clone()];
    bench.restart(off(), all());
    bench.settle().await;
    assert!(joined(&bench, &full("blue")).await.is_empty());
    assert!(told(&bench).is_empty(), "{:?}", bench.notices);
    let narrow = Settings {
        node_reach_subnets: vec!["10.8.0.0/16".parse().unwrap()],
        ..Settings::default()
    };
    bench.restart(narrow, all());
    bench.settle().await;
    assert_eq!(told(&bench), ["Pod shop/web"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_by_the_nodes_addresses_asks_nodes_too() {
    let mut bench = start(Settings::default()).await;
    network(&bench, "blue", "10.7.0.0/24", json!({"fabric_snat": true})).await;
    bench.put(pod_in("web", "blue", TCP));
    bench.settle().await;
    assert_eq!(rule(&bench, &ours("blue")).await.1, "<>");
    let blue = bench.must(Kind::VIRTUAL_NETWORK, &full("blue")).await;
    let without = json!({"fabric_snat": false});
    bench.client.update(Kind::VIRTUAL_NETWORK, blue.uuid, without).await.unwrap();
    bench.settle().await;
    assert_eq!(rule(&bench, &ours("blue")).await.1, ">");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_chose_the_network_is_told() {
    let mut bench = start(Settings::default()).await;
    let define = |name: &str, prefix: &str| {
        object(&format!(
            "kind: VirtualNetwork\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{subnets: [{{cidr: {prefix}}}]}}"
        ))
    };
    bench.put(define("blue", "10.77.0.0/24"));
    bench.put(support::pod("shop", "web", "", &format!("{NETWORK}: blue")));
    bench.settle().await;
    bench.put(define("red", "10.77.0.0/16"));
    bench.put(namespace("chosen", "", &format!("{NETWORK}: shop/red")));
    bench.put(support::pod("chosen", "web", "", ""));
    bench.settle().await;
    assert_eq!(told(&bench), ["Namespace chosen", "VirtualNetwork shop/red"]);
    let red = bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:red").await;
    assert_eq!(bench.targets(&red, Kind::NETWORK_POLICY), Vec::<String>::new());
    let name = FqName::parse("default-domain:k8s-shop:blue");
    assert!(bench.core.graph().by_name(Kind::VIRTUAL_NETWORK, &name).is_some());
}
