//! Nested mode against a real configuration API: pods as sub-interfaces of the nodes' machines.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::json;
use skein_client::Client;
use skein_kube::Settings;
use skein_model::{FqName, Kind, Object};
use std::collections::BTreeSet;
use support::{Bench, namespace, pod};

const NODES: &str = "default-domain:default-project:nodes";
const PARENT: &str = "default-domain:default-project:vm-1";

fn settings() -> Settings {
    let network = "{'domain': 'default-domain', 'project': 'default-project', 'name': 'nodes'}";
    Settings { nested_mode: true, cluster_network: Some(network.into()), ..Settings::default() }
}

async fn machine(client: &Client, address: &str) {
    let port = json!({
        "fq_name": FqName::parse(PARENT), "parent_type": "project",
        "virtual_network_refs": [{"to": FqName::parse(NODES)}],
        "virtual_machine_interface_bindings": {"key_value_pair": [{"key": "host_id", "value": "compute-1"}]},
    });
    client.create(Kind::VIRTUAL_MACHINE_INTERFACE, port).await.unwrap();
    let ip = json!({
        "fq_name": ["vm-1-address"], "instance_ip_address": address,
        "virtual_network_refs": [{"to": FqName::parse(NODES)}],
        "virtual_machine_interface_refs": [{"to": FqName::parse(PARENT)}],
    });
    client.create(Kind::INSTANCE_IP, ip).await.unwrap();
}

async fn nodes_network(client: &Client) {
    let ipam =
        json!({"ipam_subnets": [{"subnet": {"ip_prefix": "10.9.9.0", "ip_prefix_len": 24}}]});
    let to = ["default-domain", "default-project", "default-network-ipam"];
    let network = json!({
        "fq_name": FqName::parse(NODES), "parent_type": "project",
        "network_ipam_refs": [{"to": to, "attr": ipam}],
    });
    client.create(Kind::VIRTUAL_NETWORK, network).await.unwrap();
}

async fn ports(client: &Client) -> Vec<Object> {
    let options = skein_client::ListOptions::default();
    let all = client.list(Kind::VIRTUAL_MACHINE_INTERFACE, &options).await.unwrap();
    all.into_iter().filter(|port| tag(port).is_some()).collect()
}

fn tag(port: &Object) -> Option<u64> {
    port.properties
        .get("virtual_machine_interface_properties")?
        .get("sub_interface_vlan_tag")?
        .as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_vlans_of_the_machine_they_are_on() {
    let mut bench = Bench::with(settings()).await;
    nodes_network(&bench.client).await;
    bench.node("compute-1", "172.31.0.1").await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("apart", "", "opencontrail.org/isolation: 'true'"));
    bench.put(pod("default", "early", "", ""));
    bench.settle().await;
    assert!(bench.notices.iter().any(|n| n.problem.reason == "UnknownNode"), "{:?}", bench.notices);
    assert!(ports(&bench.client).await.is_empty());
    // The machine appears: nothing but its address says which pods are on it.
    machine(&bench.client, "10.9.9.1").await;
    for nth in 0..40 {
        bench.put(pod(if nth % 2 == 0 { "default" } else { "apart" }, &format!("p{nth}"), "", ""));
    }
    bench.settle().await;
    let all = ports(&bench.client).await;
    let tags: BTreeSet<u64> = all.iter().filter_map(tag).collect();
    assert_eq!((all.len(), tags.len()), (41, 41), "no two have one tag");
    assert!(tags.iter().all(|tag| (1..=4094).contains(tag)));
    let read = |kind, name: &str| {
        let (client, name) = (bench.client.clone(), FqName::parse(name));
        async move { client.get_by_name(kind, &name).await.expect("it is there") }
    };
    let parent = read(Kind::VIRTUAL_MACHINE_INTERFACE, PARENT).await;
    assert_eq!(parent.references_to(Kind::VIRTUAL_MACHINE_INTERFACE).count(), 41, "and back");
    for port in &all {
        let up: Vec<_> = port.references_to(Kind::VIRTUAL_MACHINE_INTERFACE).collect();
        assert_eq!((up.len(), up[0].uuid), (1, parent.uuid));
    }
    // The pods' machines are the outer node's.
    let router = read(Kind::VIRTUAL_ROUTER, "default-global-system-config:compute-1").await;
    assert_eq!(router.references_to(Kind::VIRTUAL_MACHINE).count(), 41);
    // The nodes' network is joined to the cluster's, isolated ones included.
    let policy = "default-domain:k8s-default:k8s-nested-underlay-np";
    let policy = read(Kind::NETWORK_POLICY, policy).await;
    for network in [
        NODES,
        "default-domain:k8s-default:k8s-default-pod-network",
        "default-domain:k8s-default:k8s-default-service-network",
        "default-domain:k8s-apart:k8s-apart-pod-network",
        "default-domain:k8s-apart:k8s-apart-service-network",
    ] {
        let network = read(Kind::VIRTUAL_NETWORK, network).await;
        let on = |r: &skein_model::Reference| r.uuid == policy.uuid;
        assert!(network.references_to(Kind::NETWORK_POLICY).any(on), "{}", network.fq_name);
    }
    let entries = &policy.properties["network_policy_entries"];
    assert_eq!(entries["policy_rule"][0]["dst_addresses"], json!([{"virtual_network": NODES}]));

    // A restart changes no tag.
    let of = |all: &[Object]| -> Vec<(String, Option<u64>)> {
        let mut list: Vec<_> = all.iter().map(|p| (p.fq_name.to_string(), tag(p))).collect();
        list.sort();
        list
    };
    let before = of(&all);
    let mut keep = vec![
        namespace("default", "", ""),
        namespace("apart", "", "opencontrail.org/isolation: 'true'"),
    ];
    keep.push(pod("default", "early", "", ""));
    keep.extend((0..40).map(|nth| {
        pod(if nth % 2 == 0 { "default" } else { "apart" }, &format!("p{nth}"), "", "")
    }));
    bench.writes = 0;
    bench.notices.clear();
    bench.restart(settings(), keep);
    bench.settle().await;
    // In whatever order the configuration came.
    assert_eq!(bench.reasons(), Vec::<&str>::new());
    assert_eq!(of(&ports(&bench.client).await), before);
    assert_eq!(bench.writes, 0, "nothing was to be done: {:?}", bench.log);
    // What goes gives its tag back.
    for nth in 0..40 {
        let one = pod(if nth % 2 == 0 { "default" } else { "apart" }, &format!("p{nth}"), "", "");
        bench.core.kube_delete(&one);
    }
    bench.settle().await;
    assert_eq!(ports(&bench.client).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_tag_is_passed_over() {
    let mut bench = Bench::with(settings()).await;
    nodes_network(&bench.client).await;
    bench.node("compute-1", "172.31.0.1").await;
    machine(&bench.client, "10.9.9.1").await;
    bench.put(namespace("default", "", ""));
    let web = pod("default", "web", "", "");
    let uid: uuid::Uuid = support::uid(&web).parse().unwrap();
    let port = uuid::Uuid::new_v5(&uid, b"interface/0");
    let first = (port.as_u128() % 4094) as u64 + 1;
    // Somebody else's sub-interface has the tag that this pod would take.
    let other = json!({
        "fq_name": ["default-domain", "default-project", "trunk"], "parent_type": "project",
        "virtual_network_refs": [{"to": FqName::parse(NODES)}],
        "virtual_machine_interface_properties": {"sub_interface_vlan_tag": first},
        "virtual_machine_interface_refs": [{"to": FqName::parse(PARENT)}],
    });
    bench.client.create(Kind::VIRTUAL_MACHINE_INTERFACE, other).await.unwrap();
    bench.put(web);
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new(), "no write was refused");
    let tags: BTreeSet<Option<u64>> = ports(&bench.client).await.iter().map(tag).collect();
    assert_eq!(tags, BTreeSet::from([Some(first), Some(first % 4094 + 1)]));
}
