//! Names of services as records of a virtual-DNS, against a real configuration API.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use skein_kube::Settings;
use skein_model::Kind;
use support::{Bench, namespace, object, uid};
use uuid::Uuid;

fn settings(serve: bool) -> Settings {
    let mut settings = Settings::default();
    settings.dns.serve = serve;
    settings.service_subnets.push("fd00:96::/112".parse().unwrap());
    settings
}

const CLUSTER_IP: &str = "kind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  clusterIP: 10.96.1.10\n  clusterIPs: [10.96.1.10, 'fd00:96::10']\n  ports:\n  - {name: http, port: 80}\n  - {name: dns, port: 53, protocol: UDP}\n  - {port: 81}";
const HEADLESS: &str = "kind: Service\nmetadata: {name: db, namespace: shop}\nspec: {clusterIP: None, ports: [{name: sql, port: 5432}]}";
const EXTERNAL: &str = "kind: Service\nmetadata: {name: out, namespace: shop}\nspec: {type: ExternalName, externalName: www.example.com}";
const FRONT: &str = "kind: Service\nmetadata: {name: kube-dns, namespace: kube-system}\nspec:\n  clusterIP: 10.96.0.10\n  clusterIPs: [10.96.0.10]\n  ports:\n  - {name: dns, port: 53, protocol: UDP}\n  - {name: dns-tcp, port: 53}\n  - {name: metrics, port: 9153}";

fn slice(endpoints: &str) -> String {
    format!(
        "kind: EndpointSlice\nmetadata: {{name: db-1, namespace: shop, labels: {{kubernetes.io/service-name: db}}}}\naddressType: IPv4\nports: [{{name: sql, port: 5432}}]\nendpoints: {endpoints}"
    )
}

/// Records of the zone: name, type, data, and a star where the address does not lead back.
fn records(bench: &Bench) -> Vec<String> {
    let graph = bench.core.graph();
    let mut all: Vec<String> = graph
        .of_kind(Kind::VIRTUAL_DNS_RECORD)
        .map(|object| {
            let data = &skein_kube::packed::properties(object)["virtual_DNS_record_data"];
            let text = |name: &str| data[name].as_str().unwrap().to_owned();
            let star = if data["reverse"] == json!(false) { " *" } else { "" };
            format!("{} {} {}{star}", text("record_name"), text("record_type"), text("record_data"))
        })
        .collect();
    all.sort();
    all
}

async fn host_port(bench: &Bench, node: &str, address: &str) -> Uuid {
    bench.node(node, address).await;
    let fields = json!({
        "fq_name": ["default-global-system-config", node, "vhost0"], "parent_type": "virtual-router",
        "virtual_network_refs": [{"to": ["default-domain", "default-project", "ip-fabric"]}],
    });
    bench.client.create(Kind::VIRTUAL_MACHINE_INTERFACE, fields).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_have_the_records_of_the_specification() {
    let mut bench = Bench::with(settings(true)).await;
    bench.put(namespace("shop", "", ""));
    for yaml in [CLUSTER_IP, HEADLESS, EXTERNAL] {
        bench.yaml(yaml);
    }
    bench.yaml(&slice("[{addresses: [10.47.0.1], hostname: first}, {addresses: [10.47.0.2]}, {addresses: [10.47.0.3], conditions: {ready: false}}]"));
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new());
    let web = [
        "_dns._udp.web.shop.svc SRV 0 100 53 web.shop.svc.cluster.local. *",
        "_http._tcp.web.shop.svc SRV 0 100 80 web.shop.svc.cluster.local. *",
        "web.shop.svc A 10.96.1.10",
        "web.shop.svc AAAA fd00:96::10",
    ];
    let db = [
        "10-47-0-2.db.shop.svc A 10.47.0.2",
        "_sql._tcp.db.shop.svc SRV 0 100 5432 10-47-0-2.db.shop.svc.cluster.local. *",
        "_sql._tcp.db.shop.svc SRV 0 100 5432 first.db.shop.svc.cluster.local. *",
        "db.shop.svc A 10.47.0.1 *",
        "db.shop.svc A 10.47.0.2 *",
        "first.db.shop.svc A 10.47.0.1",
    ];
    let mut expected: Vec<&str> =
        [&web[..], &db[..], &["out.shop.svc CNAME www.example.com. *"]].concat();
    expected.sort_unstable();
    assert_eq!(records(&bench), expected);

    let server = bench.must(Kind::VIRTUAL_DNS, "default-domain:k8s-cluster-dns").await;
    let data = &server.properties["virtual_DNS_data"];
    assert_eq!(
        (&data["domain_name"], &data["cluster_names"]),
        (&json!("cluster.local"), &json!(true))
    );
    for ipam in ["pod-ipam", "service-ipam"] {
        let ipam =
            bench.must(Kind::NETWORK_IPAM, &format!("default-domain:k8s-default:k8s-{ipam}")).await;
        assert_eq!(bench.targets(&ipam, Kind::VIRTUAL_DNS), ["default-domain:k8s-cluster-dns"]);
        assert_eq!(ipam.properties["network_ipam_mgmt"]["ipam_dns_method"], "virtual-dns-server");
    }

    // One endpoint more is its own records and nobody else's.
    let before = bench.writes;
    bench.yaml(&slice("[{addresses: [10.47.0.1], hostname: first}, {addresses: [10.47.0.2]}, {addresses: [10.47.0.3]}]"));
    bench.settle().await;
    assert_eq!(bench.writes - before, 3);
    // Whoever wants its endpoints known before they are ready gets that.
    bench.yaml(&slice("[{addresses: [10.47.0.3], conditions: {ready: false}}]"));
    bench.settle().await;
    assert!(!records(&bench).iter().any(|record| record.contains("db")), "{:?}", records(&bench));
    bench.yaml(&HEADLESS.replace("spec: {", "spec: {publishNotReadyAddresses: true, "));
    bench.settle().await;
    assert_eq!(records(&bench).iter().filter(|record| record.contains("db")).count(), 3);
    for yaml in [CLUSTER_IP, HEADLESS, EXTERNAL] {
        bench.core.kube_delete(&object(yaml));
    }
    bench.settle().await;
    assert!(records(&bench).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_that_pods_ask_leads_to_the_clients_node() {
    let mut bench = Bench::with(settings(true)).await;
    bench.put(namespace("kube-system", "", ""));
    let one = host_port(&bench, "node-1", "192.0.2.1").await;
    bench.yaml(FRONT);
    bench.settle().await;
    let members = |bench: &Bench| {
        let graph = bench.core.graph();
        let mut all: Vec<Value> = graph
            .of_kind(Kind::LOADBALANCER_MEMBER)
            .map(|member| {
                let properties = skein_kube::packed::properties(member);
                let p = &properties["loadbalancer_member_properties"];
                json!([p["address"], p["protocol_port"], p["node"], p["interface"]])
            })
            .collect();
        all.sort_by_key(Value::to_string);
        all
    };
    let first = json!(["192.0.2.1", 8053, "node-1", one.to_string()]);
    assert_eq!(members(&bench), [first.clone(), first.clone()], "one for UDP, one for TCP");
    let balancer = format!("default-domain:k8s-kube-system:kube-dns__{}", uid(&object(FRONT)));
    let balancer = bench.must(Kind::LOADBALANCER, &balancer).await;
    assert_eq!(balancer.properties["loadbalancer_service"]["internal_traffic_policy"], "Local");
    // Nodes come and go.
    let two = host_port(&bench, "node-2", "192.0.2.2").await;
    bench.settle().await;
    assert_eq!(members(&bench).len(), 4);
    bench.client.delete(Kind::VIRTUAL_MACHINE_INTERFACE, two).await.unwrap();
    bench.settle().await;
    assert_eq!(members(&bench).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_pods_serve_names_nothing_changes_and_switching_takes_all_back() {
    let mut bench = Bench::with(settings(false)).await;
    let all = || {
        vec![
            namespace("shop", "", ""),
            namespace("kube-system", "", ""),
            object(CLUSTER_IP),
            object(FRONT),
        ]
    };
    for object in all() {
        bench.put(object);
    }
    host_port(&bench, "node-1", "192.0.2.1").await;
    bench.settle().await;
    let kinds = [Kind::VIRTUAL_DNS, Kind::VIRTUAL_DNS_RECORD, Kind::LOADBALANCER_MEMBER];
    let counts = |bench: &Bench| kinds.map(|kind| bench.names(kind).len());
    assert_eq!(counts(&bench), [0, 0, 0]);
    bench.restart(settings(true), all());
    bench.settle().await;
    assert_eq!(counts(&bench), [1, 8, 2]);
    bench.restart(settings(false), all());
    bench.settle().await;
    assert_eq!(counts(&bench), [0, 0, 0]);
    let ipam = bench.must(Kind::NETWORK_IPAM, "default-domain:k8s-default:k8s-pod-ipam").await;
    assert!(
        ipam.references.is_empty() && !ipam.properties.contains_key("network_ipam_mgmt"),
        "{ipam:?}"
    );
}
