//! Services and ingresses against a real configuration API.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use skein_kube::Settings;
use skein_model::{Kind, Object};
use support::{Bench, namespace, note, object, pod, uid};

const SERVICE: &str = "kind: Service\nmetadata: {name: web, namespace: shop}\nspec:\n  type: NodePort\n  clusterIP: 10.96.1.10\n  clusterIPs: [10.96.1.10]\n  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}\n  externalTrafficPolicy: Local\n  internalTrafficPolicy: Cluster\n  ports:\n  - {name: http, port: 80, targetPort: http, nodePort: 30001}\n  - {name: dns, port: 53, protocol: UDP, nodePort: 30002}";

fn slice(more: &str, endpoints: &str) -> String {
    format!(
        "kind: EndpointSlice\nmetadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080, protocol: TCP}}, {{name: dns, port: 5353, protocol: UDP}}]\n{more}endpoints: {endpoints}"
    )
}

fn properties(object: &Object, name: &str) -> Value {
    skein_kube::packed::properties(object).get(name).cloned().unwrap_or_default()
}

/// Members of the pool of a port: address, port, interface?, node, ready, serving, terminating.
fn members(bench: &Bench, part: &str) -> Vec<Value> {
    let graph = bench.core.graph();
    let mut pools = graph.of_kind(Kind::LOADBALANCER_POOL);
    let pool = pools.find(|pool| pool.name().contains(part)).expect(part);
    let mut all: Vec<Value> = graph
        .children_of_kind(pool.uuid, Kind::LOADBALANCER_MEMBER)
        .map(|member| {
            let p = properties(member, "loadbalancer_member_properties");
            let yes = |name: &str, absent: bool| p[name].as_bool().unwrap_or(absent);
            json!([
                p["address"],
                p["protocol_port"],
                p.get("interface").is_some_and(|i| !i.is_null()),
                p["node"],
                yes("ready", true),
                yes("serving", true),
                yes("terminating", false),
            ])
        })
        .collect();
    all.sort_by_key(Value::to_string);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_says_everything_that_a_node_must_know() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    let backend = pod("shop", "a", "app: web", "");
    bench.put(backend.clone());
    let service = object(SERVICE);
    bench.put(service.clone());
    let id = uid(&backend);
    bench.yaml(&slice("", &format!(
        "[{{addresses: [10.47.0.1], conditions: {{ready: true}}, nodeName: node-1, targetRef: {{kind: Pod, uid: {id}}}}}, {{addresses: [192.0.2.7], conditions: {{ready: false, serving: true, terminating: true}}, nodeName: node-2}}]"
    )));
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new());
    let base = format!("web__{}", uid(&service));
    let balancer = bench.must(Kind::LOADBALANCER, &format!("default-domain:k8s-shop:{base}")).await;
    assert_eq!(balancer.uuid.to_string(), uid(&service));
    assert_eq!(balancer.properties["loadbalancer_provider"], "native");
    assert_eq!(balancer.properties["loadbalancer_properties"]["vip_address"], "10.96.1.10");
    let facts = &balancer.properties["loadbalancer_service"];
    assert_eq!(facts["addresses"], json!(["10.96.1.10"]));
    assert_eq!(facts["session_affinity"], "ClientIP");
    assert_eq!(facts["session_affinity_timeout"], 600);
    assert_eq!(facts["external_traffic_policy"], "Local");
    assert_eq!(facts["internal_traffic_policy"], "Cluster");
    let port = format!("k8s__Service__web__{}", uid(&service));
    let port = bench
        .must(Kind::VIRTUAL_MACHINE_INTERFACE, &format!("default-domain:k8s-shop:{port}"))
        .await;
    assert_eq!(port.properties["virtual_machine_interface_device_owner"], "K8S:LOADBALANCER");
    assert_eq!(
        bench.targets(&port, Kind::VIRTUAL_NETWORK),
        ["default-domain:k8s-default:k8s-default-service-network"]
    );
    let address = bench.must(Kind::INSTANCE_IP, &format!("web__{}", port.uuid)).await;
    assert_eq!(address.properties["instance_ip_address"], "10.96.1.10");
    let listeners = bench.names(Kind::LOADBALANCER_LISTENER);
    assert_eq!(listeners.len(), 2);
    let http = listeners
        .iter()
        .find(|name| name.contains("-TCP-80-"))
        .expect("named by protocol and port");
    let http = bench.must(Kind::LOADBALANCER_LISTENER, http).await;
    assert_eq!(note(&http, "portName"), Some("http"));
    assert_eq!(http.properties["loadbalancer_listener_properties"]["node_port"], 30001);
    assert_eq!(http.name(), format!("{base}-TCP-80-{}", http.uuid));
    assert_eq!(
        members(&bench, "-TCP-80-"),
        [
            json!(["10.47.0.1", 8080, true, "node-1", true, true, false]),
            json!(["192.0.2.7", 8080, false, "node-2", false, true, true]),
        ]
    );
    assert_eq!(members(&bench, "-UDP-53-")[0][1], 5353);

    // The pod goes away: one property of one object in each pool.
    let before = bench.writes;
    bench.yaml(&slice("", &format!(
        "[{{addresses: [10.47.0.1], conditions: {{ready: false, serving: true, terminating: true}}, nodeName: node-1, targetRef: {{kind: Pod, uid: {id}}}}}, {{addresses: [192.0.2.7], conditions: {{ready: false, serving: true, terminating: true}}, nodeName: node-2}}]"
    )));
    bench.settle().await;
    assert_eq!(bench.writes - before, 2);
    assert_eq!(
        members(&bench, "-TCP-80-")[0],
        json!(["10.47.0.1", 8080, true, "node-1", false, true, true])
    );

    // A port goes with its listener and members; a target port's change leaves no old member.
    let one = SERVICE.replace("\n  - {name: dns, port: 53, protocol: UDP, nodePort: 30002}", "");
    bench.yaml(&one);
    bench.yaml(
        &slice("", "[{addresses: [10.47.0.9], nodeName: node-1}]")
            .replace("port: 8080", "port: 9090"),
    );
    bench.settle().await;
    assert_eq!(bench.names(Kind::LOADBALANCER_LISTENER).len(), 1);
    assert_eq!(
        members(&bench, "-TCP-80-"),
        [json!(["10.47.0.9", 9090, false, "node-1", true, true, false])]
    );

    bench.core.kube_delete(&service);
    bench.settle().await;
    for kind in [
        Kind::LOADBALANCER,
        Kind::LOADBALANCER_LISTENER,
        Kind::LOADBALANCER_POOL,
        Kind::LOADBALANCER_MEMBER,
    ] {
        assert_eq!(bench.names(kind), Vec::<String>::new(), "{kind}");
    }
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn older_endpoints_and_slices_serve_as_well() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    bench.yaml(SERVICE);
    // discovery.k8s.io/v1beta1 of Kubernetes 1.20: the node is in the topology.
    bench.yaml(&slice("", "[{addresses: [10.47.0.1], topology: {kubernetes.io/hostname: node-3, topology.kubernetes.io/zone: z1}}]"));
    bench.settle().await;
    assert_eq!(
        members(&bench, "-TCP-80-"),
        [json!(["10.47.0.1", 8080, false, "node-3", true, true, false])]
    );
    bench.core.kube_delete(&object(&slice("", "[]")));
    bench.yaml("kind: Endpoints\nmetadata: {name: web, namespace: shop}\nsubsets:\n- addresses: [{ip: 192.0.2.1, nodeName: n4}]\n  notReadyAddresses: [{ip: 192.0.2.2}]\n  ports: [{name: http, port: 81}]");
    bench.settle().await;
    assert_eq!(
        members(&bench, "-TCP-80-"),
        [
            json!(["192.0.2.1", 81, false, "n4", true, true, false]),
            json!(["192.0.2.2", 81, false, null, false, false, false])
        ]
    );
    assert_eq!(members(&bench, "-UDP-53-"), Vec::<Value>::new());
    // A port's name may stand for other numbers elsewhere: each subset has ports of its own.
    bench.yaml("kind: Endpoints\nmetadata: {name: web, namespace: shop}\nsubsets:\n- addresses: [{ip: 192.0.2.1, nodeName: n4}]\n  ports: [{name: http, port: 81}]\n- addresses: [{ip: 192.0.2.3, nodeName: n4}]\n  ports: [{name: http, port: 82}, {name: dns, port: 53, protocol: UDP}]");
    bench.settle().await;
    assert_eq!(
        members(&bench, "-TCP-80-"),
        [
            json!(["192.0.2.1", 81, false, "n4", true, true, false]),
            json!(["192.0.2.3", 82, false, "n4", true, true, false])
        ]
    );
    assert_eq!(
        members(&bench, "-UDP-53-"),
        [json!(["192.0.2.3", 53, false, "n4", true, true, false])]
    );
}

async fn pool(bench: &Bench) {
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
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_balancer_gets_an_address_of_its_pool_and_kubernetes_is_told() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    let service = |more: &str, annotations: &str| {
        format!(
            "kind: Service\nmetadata: {{name: web, namespace: shop, annotations: {{{annotations}}}}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.1.10, ports: [{{port: 80}}]{more}}}"
        )
    };
    bench.yaml(&service("", ""));
    bench.settle().await;
    assert_eq!(bench.reasons(), ["NoPool"]);
    let named = "opencontrail.org/fip-pool: \"{'domain':'default-domain','project':'default-project','network':'public','name':'pool'}\"";
    bench.yaml(&service("", named));
    bench.settle().await;
    assert_eq!(bench.reasons(), ["NoPool", "UnknownPool"]);
    pool(&bench).await;
    bench.settle().await;
    let patch = bench.patches.last().expect("the status is written");
    assert!(patch.status);
    let ip = patch.body["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("198.51.100."), "{ip}");
    let floating = bench.names(Kind::FLOATING_IP);
    assert!(
        floating[0].starts_with("default-domain:default-project:public:pool:web__"),
        "{floating:?}"
    );
    assert!(floating[0].ends_with("None-externalIP"));
    // A wish for one address; another one that no pool holds is for nodes to answer.
    bench.yaml(&service(", loadBalancerIP: 198.51.100.77, externalIPs: [203.0.113.5], loadBalancerSourceRanges: [192.0.2.0/24]", named));
    bench.settle().await;
    assert_eq!(bench.names(Kind::FLOATING_IP).len(), 1);
    let balancer = bench.names(Kind::LOADBALANCER)[0].clone();
    let balancer = bench.must(Kind::LOADBALANCER, &balancer).await;
    let facts = &balancer.properties["loadbalancer_service"];
    assert_eq!(facts["ingress_addresses"], json!(["198.51.100.77"]));
    assert_eq!(facts["external_addresses"], json!(["203.0.113.5"]));
    assert_eq!(facts["source_ranges"], json!([{"ip_prefix": "192.0.2.0", "ip_prefix_len": 24}]));
    // No longer balanced: the address is free again.
    bench.yaml("kind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: ClusterIP, clusterIP: 10.96.1.10, ports: [{port: 80}]}\nstatus: {loadBalancer: {ingress: [{ip: 198.51.100.77}]}}");
    bench.settle().await;
    assert_eq!(bench.names(Kind::FLOATING_IP), Vec::<String>::new());
    assert_eq!(bench.patches.last().unwrap().body["status"]["loadBalancer"]["ingress"], json!([]));
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn isolated_services_live_apart_unless_the_namespace_opens_them() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", "opencontrail.org/isolation: 'true'"));
    bench.yaml(SERVICE);
    bench.settle().await;
    let network = |bench: &Bench| {
        let graph = bench.core.graph();
        let port = graph.of_kind(Kind::VIRTUAL_MACHINE_INTERFACE).next().unwrap();
        bench.targets(port, Kind::VIRTUAL_NETWORK)
    };
    assert_eq!(network(&bench), ["default-domain:k8s-shop:k8s-shop-service-network"]);
    bench.put(namespace(
        "shop",
        "",
        "opencontrail.org/isolation: 'true', opencontrail.org/isolation.service: 'false'",
    ));
    bench.settle().await;
    assert_eq!(network(&bench), ["default-domain:k8s-default:k8s-default-service-network"]);
    let address = bench.names(Kind::INSTANCE_IP)[0].clone();
    let address = bench.must(Kind::INSTANCE_IP, &address).await;
    assert_eq!(address.properties["instance_ip_address"], "10.96.1.10");
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingress_is_a_load_balancer_for_its_class_alone() {
    let pool_name = "default-domain:default-project:public:pool";
    let settings = Settings { public_fip_pool: Some(pool_name.into()), ..Settings::default() };
    let mut bench = Bench::with(settings).await;
    pool(&bench).await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    let backend = pod("shop", "a", "app: web", "");
    bench.put(backend.clone());
    bench.yaml(SERVICE);
    bench.yaml(&slice(
        "",
        &format!(
            "[{{addresses: [10.47.0.1], nodeName: node-1, targetRef: {{kind: Pod, uid: {}}}}}]",
            uid(&backend)
        ),
    ));
    let ingress = |class: &str| {
        format!(
            "kind: Ingress\nmetadata: {{name: front, namespace: shop, annotations: {{{class}}}}}\nspec:\n  tls: [{{hosts: [a.example], secretName: cert}}, {{secretName: fallback}}]\n  defaultBackend: {{service: {{name: web, port: {{number: 80}}}}}}\n  rules:\n  - host: a.example\n    http: {{paths: [{{path: /x, pathType: Prefix, backend: {{service: {{name: web, port: {{name: http}}}}}}}}, {{path: /y, pathType: Exact, backend: {{resource: {{kind: Bucket, name: b}}}}}}]}}"
        )
    };
    bench.yaml(&ingress(""));
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new());
    assert_eq!(bench.reasons(), ["BadBackend"], "a resource cannot be served, and is told");
    let balancer =
        bench.names(Kind::LOADBALANCER).into_iter().find(|n| n.contains("front__")).unwrap();
    let balancer = bench.must(Kind::LOADBALANCER, &balancer).await;
    assert_eq!(balancer.properties["loadbalancer_provider"], "opencontrail");
    let mut fronts = Vec::new();
    for name in bench.names(Kind::LOADBALANCER_LISTENER).iter().filter(|n| n.contains("front__")) {
        let listener = bench.must(Kind::LOADBALANCER_LISTENER, name).await;
        let p = &listener.properties["loadbalancer_listener_properties"];
        let text = |key: &str| note(&listener, key).unwrap_or("-").to_owned();
        fronts.push(format!(
            "{} {} {} {} {} {}",
            p["protocol"],
            p["protocol_port"],
            text("type"),
            text("host"),
            text("path"),
            text("pathType")
        ));
        if p["protocol"] == "TERMINATED_HTTPS" {
            assert_eq!(p["sni_containers"], json!(["shop__cert"]));
            assert_eq!(p["default_tls_container"], "shop__fallback");
        }
    }
    fronts.sort();
    assert_eq!(
        fronts,
        [
            "\"HTTP\" 80 acl a.example /x Prefix",
            "\"HTTP\" 80 acl a.example /y Exact",
            "\"HTTP\" 80 default   Prefix",
            "\"TERMINATED_HTTPS\" 443 - - - -",
        ]
    );
    let tags = |bench: &Bench, start: &str| {
        let graph = bench.core.graph();
        let port = graph
            .of_kind(Kind::VIRTUAL_MACHINE_INTERFACE)
            .find(|p| p.name().starts_with(start))
            .unwrap()
            .clone();
        bench.targets(&port, Kind::TAG)
    };
    assert_eq!(
        tags(&bench, "k8s__Ingress__front__"),
        ["application=k8s", "ingress=k8s-shop-front", "namespace=shop"]
    );
    bench.must(Kind::FIREWALL_RULE, "default-policy-management:k8s-Ingress-shop-front-web").await;
    assert_eq!(tags(&bench, "a__"), ["k8s-svc-shop-web=web", "namespace=shop"]);
    let told = bench.patches.iter().rev().find(|p| p.key.name.as_ref() == "front").unwrap();
    let told = &told.body["status"]["loadBalancer"]["ingress"];
    assert!(told[0]["ip"].as_str().unwrap().starts_with("198.51.100."));
    assert!(told[1]["ip"].as_str().unwrap().starts_with("10.4"));

    // Another controller's: everything goes.
    bench.yaml(&ingress("kubernetes.io/ingress.class: nginx"));
    bench.settle().await;
    assert_eq!(bench.names(Kind::LOADBALANCER).len(), 1, "the service's own");
    assert_eq!(bench.names(Kind::FLOATING_IP), Vec::<String>::new());
    assert!(
        bench
            .get(Kind::FIREWALL_RULE, "default-policy-management:k8s-Ingress-shop-front-web")
            .await
            .is_none()
    );
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_another_controller_gave_are_answered_and_left_alone() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    for (class, name, address) in [
        ("loadBalancerClass: example.com/metal, ", "classed", "10.96.1.20"),
        ("", "unclassed", "10.96.1.21"),
    ] {
        bench.yaml(&format!(
            "kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{type: LoadBalancer, {class}clusterIP: {address}, allocateLoadBalancerNodePorts: false, loadBalancerSourceRanges: [198.51.100.0/24], ports: [{{port: 80}}]}}\nstatus: {{loadBalancer: {{ingress: [{{ip: 203.0.113.7, ipMode: VIP}}, {{ip: 203.0.113.8, ipMode: Proxy}}, {{ip: 203.0.113.9}}, {{hostname: lb.example}}]}}}}"
        ));
    }
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new());
    for balancer in bench.names(Kind::LOADBALANCER) {
        let balancer = bench.must(Kind::LOADBALANCER, &balancer).await;
        let facts = &balancer.properties["loadbalancer_service"];
        assert_eq!(facts["ingress_addresses"], json!(["203.0.113.7", "203.0.113.9"]));
        assert_eq!(facts["source_ranges"][0]["ip_prefix"], "198.51.100.0");
    }
    for listener in bench.names(Kind::LOADBALANCER_LISTENER) {
        let listener = bench.must(Kind::LOADBALANCER_LISTENER, &listener).await;
        let properties = &listener.properties["loadbalancer_listener_properties"];
        assert!(properties["node_port"].is_null(), "{properties}");
    }
    assert_eq!(bench.names(Kind::LOADBALANCER).len(), 2);
    assert_eq!(bench.names(Kind::FLOATING_IP), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_families_hints_and_distribution_reach_the_objects_and_names_make_none() {
    let service_subnets =
        ["10.96.0.0/12", "fd00:96::/108"].map(|text| text.parse().unwrap()).to_vec();
    let mut bench = Bench::with(Settings { service_subnets, ..Settings::default() }).await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    bench.yaml("kind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.1.30, clusterIPs: [10.96.1.30, 'fd00:96::30'], ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack, publishNotReadyAddresses: true, trafficDistribution: PreferClose, ports: [{name: s, port: 80, protocol: SCTP}]}");
    bench.yaml("kind: Service\nmetadata: {name: away, namespace: shop}\nspec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}");
    bench.yaml("kind: Service\nmetadata: {name: none, namespace: shop}\nspec: {clusterIP: None, ports: [{port: 80}]}");
    for (family, address, name) in [("IPv4", "10.47.0.1", "web-4"), ("IPv6", "fd00:47::1", "web-6")]
    {
        bench.yaml(&format!(
            "kind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\naddressType: {family}\nports: [{{name: s, port: 8080, protocol: SCTP}}]\nendpoints: [{{addresses: ['{address}'], nodeName: node-1, zone: east, conditions: {{ready: false}}, hints: {{forZones: [{{name: west}}], forNodes: [{{name: node-9}}]}}}}]"
        ));
    }
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new());
    let balancers = bench.names(Kind::LOADBALANCER);
    assert_eq!(balancers.len(), 1, "{balancers:?}");
    let facts =
        bench.must(Kind::LOADBALANCER, &balancers[0]).await.properties["loadbalancer_service"]
            .clone();
    assert_eq!(facts["addresses"], json!(["10.96.1.30", "fd00:96::30"]));
    assert_eq!(facts["traffic_distribution"], "PreferSameZone");
    assert_eq!(facts["publish_not_ready"], true);
    let listener = bench.names(Kind::LOADBALANCER_LISTENER);
    let listener = bench.must(Kind::LOADBALANCER_LISTENER, &listener[0]).await;
    assert_eq!(listener.properties["loadbalancer_listener_properties"]["protocol"], "SCTP");
    let graph = bench.core.graph();
    let members: Vec<Value> = graph
        .of_kind(Kind::LOADBALANCER_MEMBER)
        .map(|member| properties(member, "loadbalancer_member_properties"))
        .collect();
    assert_eq!(members.len(), 2);
    for member in members {
        assert_eq!((&member["zone"], &member["ready"]), (&json!("east"), &json!(true)));
        assert_eq!(member["hint_zones"], json!(["west"]));
        assert_eq!(member["hint_nodes"], json!(["node-9"]));
    }
}
