//! Settings by which a cluster behaves as the original did.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use skein_kube::Settings;
use skein_model::Kind;
use support::{Bench, namespace, object, pod};

const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

#[tokio::test(flavor = "multi_thread")]
async fn external_addresses_are_written_to_the_services_spec_as_well() {
    for write_external_ips in [true, false] {
        let public_fip_pool = Some("default-domain:default-project:public:pool".into());
        let mut bench =
            Bench::with(Settings { write_external_ips, public_fip_pool, ..Settings::default() })
                .await;
        let network = json!({
            "fq_name": ["default-domain", "default-project", "public"], "parent_type": "project",
            "network_ipam_refs": [{
                "to": ["default-domain", "default-project", "default-network-ipam"],
                "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": "198.51.100.0", "ip_prefix_len": 24}}]},
            }],
        });
        bench.client.create(Kind::VIRTUAL_NETWORK, network).await.unwrap();
        let pool = json!({"fq_name": ["default-domain", "default-project", "public", "pool"], "parent_type": "virtual-network"});
        bench.client.create(Kind::FLOATING_IP_POOL, pool).await.unwrap();
        bench.put(namespace("default", "", ""));
        bench.put(namespace("shop", "", ""));
        let service = |spec: &str, status: &str| {
            object(&format!(
                "kind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.1.10, ports: [{{port: 80}}]{spec}}}\nstatus: {status}"
            ))
        };
        // One of the user's own, which no pool has.
        let own = if write_external_ips { ", externalIPs: [203.0.113.9]" } else { "" };
        bench.put(service(own, "{}"));
        bench.settle().await;
        let last = |status: bool| bench.patches.iter().rev().find(|one| one.status == status);
        let told =
            last(true).expect("the status is written").body["status"]["loadBalancer"]["ingress"][0]
                ["ip"]
                .as_str()
                .unwrap()
                .to_owned();
        let spec = last(false).map(|one| one.body["spec"]["externalIPs"].clone());
        assert_eq!(spec, write_external_ips.then(|| json!(["203.0.113.9", told])));
        // It is there: nothing is written again, and it is the same address, not a second one.
        bench.patches.clear();
        let written = format!(", externalIPs: [203.0.113.9, {told}]");
        let more = if write_external_ips { written.as_str() } else { "" };
        bench.put(service(more, &json!({"loadBalancer": {"ingress": [{"ip": told}]}}).to_string()));
        bench.settle().await;
        assert_eq!(bench.patches, []);
        assert_eq!(bench.names(Kind::FLOATING_IP).len(), 1);
        assert_eq!(bench.log, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn network_status_has_one_address_as_a_text() {
    for network_status_single_ip in [true, false] {
        let mut bench =
            Bench::with(Settings { network_status_single_ip, ..Settings::default() }).await;
        bench.put(namespace("default", "", ""));
        bench.yaml("kind: NetworkAttachmentDefinition\nmetadata: {name: blue, namespace: default, annotations: {opencontrail.org/cidr: '192.168.1.0/24,fd00:1::/64'}}\nspec: {config: '{\"type\": \"skein\"}'}");
        let asks = r#"k8s.v1.cni.cncf.io/networks: '[{"name":"blue","ips":["192.168.1.77","fd00:1::77"],"mac":"02:00:00:00:00:09"}]'"#;
        bench.put(pod("default", "web", "", asks));
        bench.settle().await;
        let patch = bench.patches.last().expect("the status is written");
        let text = patch.body["metadata"]["annotations"][STATUS].as_str().unwrap();
        let status: Value = serde_json::from_str(text).unwrap();
        let blue = if network_status_single_ip {
            json!({"name": "default/blue", "ips": "192.168.1.77", "mac": "02:00:00:00:00:09"})
        } else {
            json!({
                "name": "default/blue", "interface": "eth1", "mac": "02:00:00:00:00:09",
                "ips": ["192.168.1.77", "fd00:1::77"], "default": false, "dns": {},
            })
        };
        assert_eq!(status[1], blue);
        assert_eq!(status[0]["ips"].is_string(), network_status_single_ip, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn isolated_pods_reach_others_or_do_not() {
    let both = |isolated_reach_default| Settings { isolated_reach_default, ..Settings::default() };
    let mut bench = Bench::with(both(false)).await;
    let all = [
        namespace("default", "", ""),
        namespace("shop", "", "opencontrail.org/isolation: 'true'"),
        pod("shop", "web", "", ""),
    ];
    all.iter().cloned().for_each(|object| bench.put(object));
    bench.settle().await;
    let (own, default) = (
        "default-domain:k8s-shop:k8s-shop-pod-network",
        "default-domain:k8s-default:k8s-default-pod-network",
    );
    let way = "default-domain:k8s-shop:k8s-shop-pod-default-np";
    let policies = [
        "default-domain:k8s-default:k8s-default-ip-fabric-np",
        "default-domain:k8s-default:k8s-default-service-np",
        "default-domain:k8s-shop:k8s-shop-pod-service-np",
    ];
    let network = bench.must(Kind::VIRTUAL_NETWORK, own).await;
    assert_eq!(bench.targets(&network, Kind::NETWORK_POLICY), policies);
    assert!(bench.get(Kind::NETWORK_POLICY, way).await.is_none());
    // No rule of any policy has both networks, so nothing joins them.
    let graph = bench.core.graph();
    for policy in graph.of_kind(Kind::NETWORK_POLICY) {
        let text = policy.properties["network_policy_entries"].to_string();
        let side = |name: &str| text.contains(&format!("\"{name}\""));
        assert!(!(side(own) && side(default)) || text.contains("ip-fabric"), "{text}");
    }
    // The switch may be turned on a living cluster, both ways.
    for (reach, count) in [(true, 4), (false, 3)] {
        bench.restart(both(reach), all.to_vec());
        bench.settle().await;
        let network = bench.must(Kind::VIRTUAL_NETWORK, own).await;
        assert_eq!(bench.targets(&network, Kind::NETWORK_POLICY).len(), count);
        let network = bench.must(Kind::VIRTUAL_NETWORK, default).await;
        let there = bench.targets(&network, Kind::NETWORK_POLICY).iter().any(|name| name == way);
        assert_eq!(there, reach);
        assert_eq!(bench.get(Kind::NETWORK_POLICY, way).await.is_some(), reach);
    }
    assert_eq!(bench.log, Vec::<String>::new());
}
