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

    // Both ways of saying that only members of the client's node are asked.
    bench.yaml(&SERVICE.replace("internalTrafficPolicy: Cluster", "internalTrafficPolicy: Local"));
    bench.settle().await;
    let local = bench.must(Kind::LOADBALANCER, &format!("default-domain:k8s-shop:{base}")).await;
    assert_eq!(local.properties["loadbalancer_service"]["internal_traffic_policy"], "Local");
    assert_eq!(local.properties["loadbalancer_service"]["external_traffic_policy"], "Local");
    bench.yaml(SERVICE);
    bench.settle().await;
    let balancer = bench.must(Kind::LOADBALANCER, &format!("default-domain:k8s-shop:{base}")).await;
    assert_eq!(balancer.properties["loadbalancer_service"]["internal_traffic_policy"], "Cluster");

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
async fn an_address_that_is_freed_goes_to_who_waits_for_one() {
    let settings = Settings {
        public_fip_pool: Some("default-domain:default-project:public:pool".into()),
        // Addresses for four pods: beside network, broadcast, gateway and the nodes' own.
        pod_subnets: vec!["10.32.0.0/29".parse().unwrap()],
        ..Settings::default()
    };
    let mut bench = Bench::with(settings).await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    let network = |extra: &[&str]| {
        let all = ["198.51.100.0"].into_iter().chain(extra.iter().copied());
        let subnets: Vec<Value> = all
            .map(|prefix| json!({"subnet": {"ip_prefix": prefix, "ip_prefix_len": 29}}))
            .collect();
        json!({
            "fq_name": ["default-domain", "default-project", "public"], "parent_type": "project",
            "network_ipam_refs": [{
                "to": ["default-domain", "default-project", "default-network-ipam"],
                "attr": {"ipam_subnets": subnets},
            }],
        })
    };
    let public = bench.client.create(Kind::VIRTUAL_NETWORK, network(&[])).await.unwrap();
    let pool = json!({"fq_name": ["default-domain", "default-project", "public", "pool"], "parent_type": "virtual-network"});
    bench.client.create(Kind::FLOATING_IP_POOL, pool).await.unwrap();
    bench.settle().await;
    let service = |name: &str, at: usize| {
        object(&format!(
            "kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.1.{at}, ports: [{{port: 80}}]}}"
        ))
    };
    let mut now = std::time::Duration::from_secs(1000);
    // One after the other until there is nothing left: the last two of each kind wait.
    let (mut services, mut pods) = (Vec::new(), Vec::new());
    let waiting = |bench: &Bench, name: &str| {
        let mut told = bench.notices.iter().filter(|one| *one.key.name == *name);
        told.any(|one| one.problem.reason == "PoolEmpty")
    };
    for hungry in 1..=2 {
        while services.iter().filter(|name: &&String| waiting(&bench, name)).count() < hungry {
            let at = services.len() + 1;
            assert!(at < 12, "{:?}", bench.notices);
            services.push(format!("web-{at}"));
            bench.put(service(services.last().unwrap(), at));
            for _ in 0..8 {
                now += std::time::Duration::from_secs(1);
                bench.step(now).await;
            }
        }
        while pods.iter().filter(|name: &&String| waiting(&bench, name)).count() < hungry {
            assert!(pods.len() < 12, "{:?}", bench.notices);
            pods.push(format!("pod-{}", pods.len() + 1));
            bench.put(pod("shop", pods.last().unwrap(), "", ""));
            for _ in 0..8 {
                now += std::time::Duration::from_secs(1);
                bench.step(now).await;
            }
        }
    }
    assert!(!bench.reasons().contains(&"Refused"), "{:?}", bench.notices);
    let text = &bench.notices.iter().find(|one| one.problem.reason == "PoolEmpty").unwrap();
    assert!(text.problem.message.contains("public"), "says which: {text:?}");
    let floating = |bench: &Bench, name: &str| {
        bench.names(Kind::FLOATING_IP).iter().any(|one| one.contains(&format!(":{name}__")))
    };
    let address = |bench: &Bench, name: &str| {
        bench.names(Kind::INSTANCE_IP).iter().any(|one| one.starts_with(&format!("{name}__")))
    };
    let [.., first, second] = services.as_slice() else { panic!("{services:?}") };
    let [.., one, two] = pods.as_slice() else { panic!("{pods:?}") };
    for _ in 0..30 {
        now += std::time::Duration::from_secs(10);
        bench.step(now).await;
    }
    assert!(!floating(&bench, first) && !floating(&bench, second));
    assert!(!address(&bench, one) && !address(&bench, two));
    assert_eq!(bench.reasons().iter().filter(|reason| **reason == "PoolEmpty").count(), 4);

    // From here on time stands still: nobody tries again just because it has waited for long.
    let still = now;
    bench.core.kube_delete(&service("web-1", 1));
    bench.core.kube_delete(&pod("shop", "pod-1", "", ""));
    for _ in 0..20 {
        bench.step(still).await;
    }
    assert!(
        floating(&bench, first),
        "who waits longest gets it: {:?}",
        bench.names(Kind::FLOATING_IP)
    );
    assert!(!floating(&bench, second));
    assert!(address(&bench, one), "{:?}", bench.names(Kind::INSTANCE_IP));
    assert!(!address(&bench, two));
    let told = bench.patches.iter().rev().find(|patch| *patch.key.name == **first).unwrap();
    let ip = told.body["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap();
    assert!(ip.starts_with("198.51.100."), "{told:?}");
    assert_eq!(bench.core.figures().failing, 2, "two wait, and nobody else has a problem");

    // The operator gives the pool more.
    let fields = json!({"network_ipam_refs": network(&["198.51.100.64"])["network_ipam_refs"]});
    bench.client.update(Kind::VIRTUAL_NETWORK, public, fields).await.unwrap();
    for _ in 0..20 {
        bench.step(still).await;
    }
    assert!(floating(&bench, second));
    assert_eq!(bench.core.figures().failing, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_given_when_its_holder_goes() {
    let public_fip_pool = Some("default-domain:default-project:public:pool".into());
    let mut bench = Bench::with(Settings { public_fip_pool, ..Settings::default() }).await;
    pool(&bench).await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    bench.settle().await;
    let service = |name: &str, at: usize| {
        object(&format!(
            "kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{type: LoadBalancer, loadBalancerIP: 198.51.100.77, clusterIP: 10.96.1.{at}, ports: [{{port: 80}}]}}"
        ))
    };
    // Somebody who is no Kubernetes object has the address.
    let other = json!({
        "fq_name": ["other"], "instance_ip_family": "v4", "instance_ip_address": "198.51.100.77",
        "virtual_network_refs": [{"to": ["default-domain", "default-project", "public"]}],
    });
    let other = bench.client.create(Kind::INSTANCE_IP, other).await.unwrap();
    bench.put(service("web", 1));
    let mut now = std::time::Duration::from_secs(1000);
    for _ in 0..20 {
        now += std::time::Duration::from_secs(5);
        bench.step(now).await;
    }
    assert_eq!(bench.reasons(), ["AddressTaken"], "{:?}", bench.notices);
    assert!(bench.notices[0].problem.message.contains("198.51.100.77"));
    assert_eq!(bench.names(Kind::FLOATING_IP), Vec::<String>::new());
    // Time stands still.
    bench.client.delete(Kind::INSTANCE_IP, other).await.unwrap();
    for _ in 0..20 {
        bench.step(now).await;
    }
    assert_eq!(bench.names(Kind::FLOATING_IP).len(), 1);
    assert_eq!(bench.core.figures().failing, 0);
    assert_eq!(bench.core.figures().problems, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_address_that_is_not_ours_to_serve_is_told() {
    let service_subnets = vec!["10.96.0.0/16".parse().unwrap()];
    let mut bench = Bench::with(Settings { service_subnets, ..Settings::default() }).await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    let service = |name: &str, addresses: &str| {
        let first = addresses.split(',').next().unwrap();
        format!(
            "kind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{clusterIP: {first}, clusterIPs: [{addresses}], ports: [{{port: 80}}]}}"
        )
    };
    // One of a second ServiceCIDR, one of which a family is served, and one as it should be.
    bench.yaml(&service("beyond", "10.200.0.9"));
    bench.yaml(&service("half", "10.96.0.9, 'fd00:96::9'"));
    bench.yaml(&service("good", "10.96.0.10"));
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new(), "nothing is asked for in vain");
    let told: Vec<String> = bench
        .notices
        .iter()
        .map(|one| format!("{} {} {}", one.problem.reason, one.key.name, one.problem.message))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    let told = told.join("\n");
    for words in [
        "OutsideServiceSubnets beyond the cluster address 10.200.0.9",
        "OutsideServiceSubnets half the cluster address fd00:96::9",
        "(10.96.0.0/16)",
    ] {
        assert!(told.contains(words), "{told}");
    }
    let balancers = bench.names(Kind::LOADBALANCER);
    assert_eq!(balancers.len(), 2, "{balancers:?}");
    let half = balancers.iter().find(|name| name.contains("half__")).unwrap();
    let half = bench.must(Kind::LOADBALANCER, half).await;
    assert_eq!(half.properties["loadbalancer_service"]["addresses"], json!(["10.96.0.9"]));
    // A manager that is told less than before takes nothing away.
    let keep = ["good", "half"].map(|name| object(&service(name, "10.96.0.10")));
    let service_subnets = vec!["10.97.0.0/16".parse().unwrap()];
    let fewer = Settings { service_subnets, ..Settings::default() };
    let mut all = vec![namespace("default", "", ""), namespace("shop", "", "")];
    all.extend(keep);
    bench.restart(fewer, all);
    while !bench.core.synced() {
        bench.step(std::time::Duration::ZERO).await;
    }
    for second in 1..5 {
        bench.step(std::time::Duration::from_secs(second)).await;
    }
    assert!(bench.names(Kind::LOADBALANCER).len() == 2, "{:?}", bench.names(Kind::LOADBALANCER));
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
