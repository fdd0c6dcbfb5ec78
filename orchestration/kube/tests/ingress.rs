//! Ingresses and the nodes that carry them, against a real configuration API.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::json;
use skein_client::ReferenceChange;
use skein_kube::Settings;
use skein_model::{Kind, Object};
use support::{Bench, namespace, note};

const SERVICE: &str = "kind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.1.10, clusterIPs: [10.96.1.10], ports: [{name: http, port: 80}]}";

fn ingress(spec: &str) -> String {
    format!(
        "kind: Ingress\nmetadata: {{name: front, namespace: shop}}\nspec:\n  {spec}\n  rules:\n  - host: '*.example.com'\n    http: {{paths: [{{path: /x, pathType: ImplementationSpecific, backend: {{service: {{name: web, port: {{name: http}}}}}}}}]}}"
    )
}

async fn bench(settings: Settings) -> Bench {
    let mut bench = Bench::with(settings).await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    bench.yaml(SERVICE);
    bench
}

async fn of_ingress(bench: &Bench, kind: Kind) -> Vec<Object> {
    let mut all = Vec::new();
    for name in bench.names(kind).iter().filter(|name| name.contains("front__")) {
        all.push(bench.must(kind, name).await);
    }
    all
}

async fn listeners(bench: &Bench) -> Vec<Object> {
    of_ingress(bench, Kind::LOADBALANCER_LISTENER).await
}

async fn address(bench: &Bench) -> Object {
    of_ingress(bench, Kind::INSTANCE_IP).await.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_nodes_that_share_the_address_stay_and_keep_nothing_from_going() {
    let mut bench = bench(Settings::default()).await;
    bench.yaml(&ingress(""));
    bench.settle().await;
    // A node carries it: a port of its own at the same network, which shares the address.
    let network = "default-domain:k8s-default:k8s-default-pod-network";
    let network = bench.must(Kind::VIRTUAL_NETWORK, network).await;
    let port = json!({
        "fq_name": ["default-domain", "k8s-default", "node-1-front"], "parent_type": "project",
        "virtual_network_refs": [{"uuid": network.uuid}],
    });
    let port = bench.client.create(Kind::VIRTUAL_MACHINE_INTERFACE, port).await.unwrap();
    let share = |ip: &Object| ReferenceChange {
        kind: Kind::INSTANCE_IP,
        uuid: ip.uuid,
        target_kind: Kind::VIRTUAL_MACHINE_INTERFACE,
        target: port,
        attr: json!(null),
    };
    bench.client.reference_update(&share(&address(&bench).await)).await.unwrap();
    bench.settle().await;
    bench.core.mark_all();
    bench.settle().await;
    let shares = |ip: &Object| {
        ip.references_to(Kind::VIRTUAL_MACHINE_INTERFACE).any(|reference| reference.uuid == port)
    };
    assert!(shares(&address(&bench).await), "it stays through a full comparison");
    assert_eq!(address(&bench).await.properties["instance_ip_mode"], "active-standby");

    // The namespace moves to another network: the address is another one, in that network.
    let ipam =
        json!({"fq_name": ["default-domain", "default-project", "own"], "parent_type": "project"});
    bench.client.create(Kind::NETWORK_IPAM, ipam).await.unwrap();
    let own = json!({
        "fq_name": ["default-domain", "default-project", "own"], "parent_type": "project",
        "network_ipam_refs": [{
            "to": ["default-domain", "default-project", "own"],
            "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": "10.77.0.0", "ip_prefix_len": 24}}]},
        }],
    });
    bench.client.create(Kind::VIRTUAL_NETWORK, own).await.unwrap();
    bench.put(namespace(
        "shop",
        "",
        "opencontrail.org/network: 'default-domain:default-project:own'",
    ));
    bench.settle().await;
    let moved =
        address(&bench).await.properties["instance_ip_address"].as_str().unwrap().to_owned();
    assert!(moved.starts_with("10.77.0."), "{moved}");

    // The class is another one: everything goes.
    bench.yaml(&ingress("ingressClassName: nginx"));
    bench.settle().await;
    assert!(of_ingress(&bench, Kind::LOADBALANCER).await.is_empty());
    assert!(of_ingress(&bench, Kind::INSTANCE_IP).await.is_empty());
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_tls_and_kinds_of_paths() {
    let mut bench = bench(Settings::default()).await;
    bench.yaml("kind: IngressClass\nmetadata: {name: other, annotations: {ingressclass.kubernetes.io/is-default-class: 'true'}}\nspec: {controller: example.com/other}");
    bench.yaml("kind: IngressClass\nmetadata: {name: skein}\nspec: {controller: skein.io/ingress}");
    bench.yaml(&ingress(""));
    bench.settle().await;
    assert!(listeners(&bench).await.is_empty(), "the default class is another's");
    bench.yaml(&ingress("ingressClassName: skein"));
    bench.settle().await;
    let list = listeners(&bench).await;
    assert_eq!(list.len(), 1);
    assert_eq!(note(&list[0], "host"), Some("*.example.com"));
    assert_eq!(note(&list[0], "pathType"), Some("ImplementationSpecific"));

    // TLS on, and off again.
    for (spec, wanted) in [
        ("ingressClassName: skein\n  tls: [{hosts: [a.example.com], secretName: cert}]", 2),
        ("ingressClassName: skein", 1),
        ("ingressClassName: skein\n  tls: [{secretName: cert}]", 2),
    ] {
        bench.yaml(&ingress(spec));
        bench.settle().await;
        assert_eq!(listeners(&bench).await.len(), wanted, "{spec}");
    }
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_are_compared_whole_where_the_original_is_wanted() {
    let settings = Settings { exact_ingress_paths: true, ..Settings::default() };
    let mut bench = bench(settings).await;
    bench.yaml(&ingress("defaultBackend: {service: {name: web, port: {number: 80}}}"));
    bench.settle().await;
    let list = listeners(&bench).await;
    let mut kinds: Vec<String> =
        list.iter().map(|l| note(l, "pathType").unwrap().to_owned()).collect();
    kinds.sort();
    assert_eq!(kinds, ["Exact", "Prefix"]);
}
