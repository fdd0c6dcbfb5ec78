//! Clusters, namespaces and pods against a real configuration API.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::json;
use skein_kube::Settings;
use skein_model::Kind;
use support::{Bench, namespace, note, object, pod, uid};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_a_namespace_and_a_pod_have_the_originals_objects() {
    let mut bench = Bench::new().await;
    bench.node("node-1", "10.9.9.1").await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "team: a", ""));
    let web = pod("shop", "web", "app: web", "");
    bench.put(web.clone());
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new(), "no write was refused");
    for (kind, names) in [
        (
            Kind::PROJECT,
            &[
                "default-domain:k8s-default",
                "default-domain:k8s-kube-system",
                "default-domain:k8s-shop",
            ][..],
        ),
        (
            Kind::NETWORK_IPAM,
            &[
                "default-domain:k8s-default:k8s-pod-ipam",
                "default-domain:k8s-default:k8s-service-ipam",
                "default-domain:k8s-default:k8s-ip-fabric-ipam",
            ],
        ),
        (
            Kind::VIRTUAL_NETWORK,
            &[
                "default-domain:k8s-default:k8s-default-pod-network",
                "default-domain:k8s-default:k8s-default-service-network",
            ],
        ),
        (
            Kind::NETWORK_POLICY,
            &[
                "default-domain:k8s-default:k8s-default-ip-fabric-np",
                "default-domain:k8s-default:k8s-default-service-np",
                "default-domain:k8s-default:k8s-default-pod-service-np",
            ],
        ),
        (Kind::APPLICATION_POLICY_SET, &["default-policy-management:k8s"]),
        (
            Kind::FIREWALL_POLICY,
            &[
                "default-policy-management:k8s-Ingress",
                "default-policy-management:k8s-denyall",
                "default-policy-management:k8s-allowall",
            ],
        ),
        (
            Kind::FIREWALL_RULE,
            &[
                "default-policy-management:k8s-Namespace-shop-ingress",
                "default-policy-management:k8s-Namespace-shop-egress",
            ],
        ),
        (
            Kind::SECURITY_GROUP,
            &[
                "default-domain:k8s-shop:k8s-shop-default-sg",
                "default-domain:k8s-default:k8s-default-default-sg",
            ],
        ),
        (Kind::TAG, &["application=k8s", "namespace=shop"]),
    ] {
        for name in names {
            bench.must(kind, name).await;
        }
    }
    let set = bench.must(Kind::APPLICATION_POLICY_SET, "default-policy-management:k8s").await;
    let mut order: Vec<(String, String)> = set
        .references_to(Kind::FIREWALL_POLICY)
        .map(|r| {
            (
                r.attr["sequence"].as_str().unwrap().to_owned(),
                bench.core.graph().get(r.uuid).unwrap().name().to_owned(),
            )
        })
        .collect();
    order.sort();
    let order: Vec<&str> = order.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(order, ["k8s-Ingress", "k8s-denyall", "k8s-allowall"]);

    let machine = bench.must(Kind::VIRTUAL_MACHINE, "k8s__shop__web").await;
    assert_eq!(machine.uuid.to_string(), uid(&web), "a machine has its pod's uid");
    assert_eq!(machine.properties["server_type"], "container");
    assert_eq!(note(&machine, "labels"), Some(r#"{"app":"web"}"#));
    let ports = bench.names(Kind::VIRTUAL_MACHINE_INTERFACE);
    assert_eq!(ports.len(), 1);
    assert!(ports[0].starts_with("default-domain:k8s-shop:web__"), "{ports:?}");
    let port = bench.must(Kind::VIRTUAL_MACHINE_INTERFACE, &ports[0]).await;
    assert_eq!(port.name(), format!("web__{}", port.uuid));
    for (key, value) in [
        ("index", "0/1"),
        ("families", "v4"),
        ("network", "default"),
        ("kind", "Pod"),
        ("owner", "k8s"),
        ("cluster", "k8s"),
        ("namespace", "shop"),
        ("name", "web"),
    ] {
        assert_eq!(note(&port, key), Some(value), "{key}");
    }
    let bindings = &port.properties["virtual_machine_interface_bindings"]["key_value_pair"];
    assert!(bindings.as_array().unwrap().contains(&json!({"key": "host_id", "value": "node-1"})));
    assert_eq!(bench.targets(&port, Kind::TAG), ["namespace=shop"]);
    assert_eq!(
        bench.targets(&port, Kind::VIRTUAL_NETWORK),
        ["default-domain:k8s-default:k8s-default-pod-network"]
    );
    let address = bench.must(Kind::INSTANCE_IP, &format!("web__{}", port.uuid)).await;
    assert!(address.properties["instance_ip_address"].as_str().unwrap().starts_with("10.4"));
    let router = bench.must(Kind::VIRTUAL_ROUTER, "default-global-system-config:node-1").await;
    assert_eq!(bench.targets(&router, Kind::VIRTUAL_MACHINE), ["k8s__shop__web"]);

    // Everything is right already: a resync writes nothing.
    let before = bench.writes;
    bench.core.mark_all();
    bench.settle().await;
    assert_eq!(bench.writes, before);

    // A finished pod gives its address back; a deleted namespace leaves nothing.
    let done = object(
        "kind: Pod\nmetadata: {name: web, namespace: shop}\nspec: {nodeName: node-1}\nstatus: {phase: Succeeded}",
    );
    bench.put(done.clone());
    bench.settle().await;
    assert_eq!(bench.names(Kind::INSTANCE_IP), Vec::<String>::new());
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE), Vec::<String>::new());
    bench.core.kube_delete(&done);
    bench.core.kube_delete(&namespace("shop", "", ""));
    bench.settle().await;
    assert!(bench.get(Kind::PROJECT, "default-domain:k8s-shop").await.is_none());
    assert!(bench.get(Kind::TAG, "namespace=shop").await.is_none(), "tags go with their last user");
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn isolation_can_be_switched_on_and_off_and_pods_keep_their_addresses() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    bench.put(pod("shop", "web", "", ""));
    bench.settle().await;
    let port = bench.names(Kind::VIRTUAL_MACHINE_INTERFACE)[0].clone();
    let address_name = port.rsplit(':').next().unwrap().to_owned();
    let first = bench.must(Kind::INSTANCE_IP, &address_name).await;

    bench.put(namespace("shop", "", "opencontrail.org/isolation: 'true'"));
    bench.settle().await;
    let own = "default-domain:k8s-shop:k8s-shop-pod-network";
    let network = bench.must(Kind::VIRTUAL_NETWORK, own).await;
    assert_eq!(note(&network, "isolated"), Some("True"));
    assert_eq!(
        bench.targets(&network, Kind::NETWORK_POLICY),
        [
            "default-domain:k8s-default:k8s-default-ip-fabric-np",
            "default-domain:k8s-default:k8s-default-service-np",
            "default-domain:k8s-shop:k8s-shop-pod-default-np",
            "default-domain:k8s-shop:k8s-shop-pod-service-np",
        ]
    );
    assert_eq!(bench.targets(&network, Kind::TAG), ["application=k8s"]);
    bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:k8s-shop-service-network").await;
    let moved = bench.must(Kind::VIRTUAL_MACHINE_INTERFACE, &port).await;
    assert_eq!(bench.targets(&moved, Kind::VIRTUAL_NETWORK), [own]);
    let second = bench.must(Kind::INSTANCE_IP, &address_name).await;
    assert_eq!(first.properties["instance_ip_address"], second.properties["instance_ip_address"]);
    assert_eq!(bench.targets(&second, Kind::VIRTUAL_NETWORK), [own]);
    let policy =
        bench.must(Kind::NETWORK_POLICY, "default-domain:k8s-default:k8s-default-service-np").await;
    let sources = &policy.properties["network_policy_entries"]["policy_rule"][0]["src_addresses"];
    assert!(sources.to_string().contains(own));
    // Isolated pods reach the others, not the other way round.
    let out =
        bench.must(Kind::NETWORK_POLICY, "default-domain:k8s-shop:k8s-shop-pod-default-np").await;
    assert_eq!(out.properties["network_policy_entries"]["policy_rule"][0]["direction"], ">");

    bench.put(namespace("shop", "", ""));
    bench.settle().await;
    assert!(bench.get(Kind::VIRTUAL_NETWORK, own).await.is_none());
    let third = bench.must(Kind::INSTANCE_IP, &address_name).await;
    assert_eq!(first.properties["instance_ip_address"], third.properties["instance_ip_address"]);
    let default = bench
        .must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-default:k8s-default-pod-network")
        .await;
    assert!(
        !bench.targets(&default, Kind::NETWORK_POLICY).iter().any(|name| name.contains("shop"))
    );
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_custom_network_holds_pods_and_an_unknown_one_is_told() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", "opencontrail.org/network: \"{'domain':'default-domain','project':'default-project','name':'blue'}\""));
    bench.put(pod("shop", "web", "", ""));
    bench.put(pod(
        "shop",
        "own",
        "",
        "opencontrail.org/network: 'default-domain:default-project:red'",
    ));
    bench.put(pod("shop", "bad", "", "opencontrail.org/network: 'shop:red'"));
    bench.settle().await;
    let mut reasons = bench.reasons();
    reasons.sort_unstable();
    assert_eq!(reasons, ["BadAnnotation", "UnknownNetwork", "UnknownNetwork"]);
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE_INTERFACE), Vec::<String>::new());
    for (name, prefix) in [("blue", "192.168.1.0"), ("red", "192.168.2.0")] {
        let network = json!({
            "fq_name": ["default-domain", "default-project", name], "parent_type": "project",
            "network_ipam_refs": [{
                "to": ["default-domain", "default-project", "default-network-ipam"],
                "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": prefix, "ip_prefix_len": 24}}]},
            }],
        });
        bench.client.create(Kind::VIRTUAL_NETWORK, network).await.unwrap();
    }
    bench.settle().await;
    let ports = bench.names(Kind::VIRTUAL_MACHINE_INTERFACE);
    assert_eq!(ports.len(), 2, "the pods come as soon as their networks do");
    let own = ports.iter().find(|name| name.contains("own__")).unwrap();
    let own = bench.must(Kind::VIRTUAL_MACHINE_INTERFACE, own).await;
    assert_eq!(bench.targets(&own, Kind::VIRTUAL_NETWORK), ["default-domain:default-project:red"]);
    assert_eq!(
        bench.targets(&own, Kind::TAG),
        ["application=k8s", "namespace=shop"],
        "policies hold there, too"
    );
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_with_three_networks_has_three_ports_and_its_status_says_so() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    for (name, cidr) in [("blue", "192.168.1.0/24"), ("shop", "192.168.2.0/24")] {
        bench.yaml(&format!(
            "kind: NetworkAttachmentDefinition\nmetadata: {{name: {name}, namespace: shop, annotations: {{opencontrail.org/cidr: '{cidr}'}}}}\n\
             spec: {{config: '{{\"cniVersion\": \"0.3.1\", \"type\": \"contrail-k8s-cni\"}}'}}"
        ));
    }
    let asked = r#"k8s.v1.cni.cncf.io/networks: '[{"name":"blue","ips":["192.168.1.77"],"mac":"02:00:00:00:00:09"},{"name":"shop","interface":"net7"}]'"#;
    bench.put(pod("shop", "web", "", asked));
    bench.settle().await;
    bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:k8s-blue-pod-network").await;
    bench.must(Kind::NETWORK_IPAM, "default-domain:k8s-shop:k8s-blue-pod-ipam").await;
    // Its name would be the isolated network's.
    bench.must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-shop:k8s-shop-nad-pod-network").await;
    let mut seen = Vec::new();
    for name in bench.names(Kind::VIRTUAL_MACHINE_INTERFACE) {
        let port = bench.must(Kind::VIRTUAL_MACHINE_INTERFACE, &name).await;
        let text = |key: &str| note(&port, key).unwrap_or("-").to_owned();
        seen.push((text("index"), text("network"), text("interface")));
    }
    seen.sort();
    let want = [("0/3", "default", "-"), ("1/3", "blue", "-"), ("2/3", "shop", "net7")];
    assert_eq!(seen, want.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    let patch = bench.patches.last().expect("the status is written");
    let text = patch.body["metadata"]["annotations"]["k8s.v1.cni.cncf.io/network-status"]
        .as_str()
        .unwrap();
    let status: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(status[0]["name"], "cluster-wide-default");
    assert_eq!(status[0]["default"], true);
    assert_eq!(status[1]["name"], "shop/blue");
    assert_eq!(status[1]["ips"], json!(["192.168.1.77"]));
    assert_eq!(status[1]["mac"], "02:00:00:00:00:09");
    assert_eq!(status[2]["interface"], "net7");
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_while_it_was_away_is_put_right() {
    let mut bench = Bench::new().await;
    let keep =
        [namespace("default", "", ""), namespace("shop", "", ""), pod("shop", "stays", "", "")];
    for object in
        keep.iter().cloned().chain([namespace("gone", "", ""), pod("gone", "web", "", "")])
    {
        bench.put(object);
    }
    bench.settle().await;
    let port = bench
        .names(Kind::VIRTUAL_MACHINE_INTERFACE)
        .into_iter()
        .find(|n| n.contains("stays"))
        .unwrap();
    let address = port.rsplit(':').next().unwrap().to_owned();
    // Someone deletes an address and a rule, and changes a network, while a namespace and its pod go.
    let ip = bench.must(Kind::INSTANCE_IP, &address).await;
    bench.client.delete(Kind::INSTANCE_IP, ip.uuid).await.unwrap();
    let network = bench
        .must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-default:k8s-default-pod-network")
        .await;
    bench
        .client
        .update(
            Kind::VIRTUAL_NETWORK,
            network.uuid,
            json!({"network_policy_refs": [], "fabric_snat": true}),
        )
        .await
        .unwrap();
    bench.restart(Settings::default(), keep.to_vec());
    bench.settle().await;
    assert!(bench.get(Kind::PROJECT, "default-domain:k8s-gone").await.is_none());
    assert!(bench.get(Kind::VIRTUAL_MACHINE, "k8s__gone__web").await.is_none());
    bench.must(Kind::INSTANCE_IP, &address).await;
    let network = bench
        .must(Kind::VIRTUAL_NETWORK, "default-domain:k8s-default:k8s-default-pod-network")
        .await;
    assert_eq!(bench.targets(&network, Kind::NETWORK_POLICY).len(), 2);
    assert_ne!(network.properties.get("fabric_snat"), Some(&json!(true)));
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_the_same_name_replaces_the_one_before() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    let with_uid = |uid: &str| {
        object(&format!(
            "kind: Pod\nmetadata: {{name: db-0, namespace: default, uid: {uid}}}\nspec: {{nodeName: node-1}}"
        ))
    };
    bench.put(with_uid("7b1d64c8-0000-4000-8000-000000000001"));
    bench.settle().await;
    // The informer missed the deletion.
    bench.put(with_uid("7b1d64c8-0000-4000-8000-000000000002"));
    bench.settle().await;
    let machine = bench.must(Kind::VIRTUAL_MACHINE, "k8s__default__db-0").await;
    assert_eq!(machine.uuid.to_string(), "7b1d64c8-0000-4000-8000-000000000002");
    assert_eq!(bench.names(Kind::VIRTUAL_MACHINE_INTERFACE).len(), 1);
    assert_eq!(bench.names(Kind::INSTANCE_IP).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_right_after_another_does_not_wait() {
    let mut bench = Bench::new().await;
    bench.node("node-1", "10.9.9.1").await;
    bench.put(namespace("default", "", ""));
    bench.settle().await;
    // The pod's last write is a link from its node, which belongs to someone else.
    let begun = std::time::Instant::now();
    bench.put(pod("default", "web", "", ""));
    bench.settle().await;
    bench.put(pod("default", "web", "", "opencontrail.org/network: 'non:sense'"));
    bench.settle().await;
    assert_eq!(bench.reasons(), ["BadAnnotation"]);
    assert!(begun.elapsed() < std::time::Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn host_ports_are_balancers_on_the_pods_own_port_and_go_with_it() {
    let mut bench = Bench::new().await;
    bench.node("node-1", "10.9.9.1").await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    let ports = "  containers:\n  - name: a\n    ports:\n    - {containerPort: 8080, hostPort: 80}\n    - {containerPort: 53, hostPort: 53, protocol: UDP, hostIP: 127.0.0.1}\n    - {containerPort: 9, hostPort: 9, protocol: SCTP, hostIP: 0.0.0.0}\n    - {containerPort: 7}";
    let web = object(&format!(
        "kind: Pod\nmetadata: {{name: web, namespace: shop}}\nspec:\n  nodeName: node-1\n{ports}"
    ));
    bench.put(web.clone());
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new(), "no write was refused");
    let id = uid(&web);
    let name = |part: &str| format!("default-domain:k8s-shop:web__host-ports__{id}__{part}");
    let all = bench.must(Kind::LOADBALANCER, &name("all")).await;
    let facts = &all.properties["loadbalancer_service"];
    assert_eq!(facts["host_node"], "node-1");
    assert_eq!(facts["addresses"][0], "0.0.0.0");
    let port = bench.targets(&all, Kind::VIRTUAL_MACHINE_INTERFACE);
    assert!(port[0].starts_with("default-domain:k8s-shop:web__"), "{port:?}");
    let local = bench.must(Kind::LOADBALANCER, &name("127.0.0.1")).await;
    assert_eq!(local.properties["loadbalancer_service"]["addresses"], json!(["127.0.0.1"]));
    let mut listeners = bench.names(Kind::LOADBALANCER_LISTENER);
    listeners.sort();
    assert_eq!(
        listeners,
        [name("127.0.0.1-UDP-53"), name("all-SCTP-9"), name("all-TCP-80")],
        "and none for what is the pod's alone"
    );
    let graph = bench.core.graph();
    let pool = graph.of_kind(Kind::LOADBALANCER_POOL).find(|p| p.name().ends_with("-TCP-80"));
    let members: Vec<_> = graph
        .children_of_kind(pool.unwrap().uuid, Kind::LOADBALANCER_MEMBER)
        .map(|member| {
            skein_kube::packed::properties(member)["loadbalancer_member_properties"].clone()
        })
        .collect();
    assert!(members.iter().all(|m| m["protocol_port"] == 8080 && m["node"] == "node-1"));
    assert!(!members.is_empty());
    // A pod that has ended holds no port of its node.
    bench.put(object(&format!(
        "kind: Pod\nmetadata: {{name: web, namespace: shop}}\nspec:\n  nodeName: node-1\n{ports}\nstatus: {{phase: Succeeded}}"
    )));
    bench.settle().await;
    assert_eq!(bench.names(Kind::LOADBALANCER_LISTENER), Vec::<String>::new());
    assert_eq!(bench.names(Kind::LOADBALANCER), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn virtual_routers_are_told_their_nodes_zone_and_addresses() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    let node = |zone: &str| {
        format!(
            "kind: Node\nmetadata: {{name: node-1, labels: {{topology.kubernetes.io/zone: {zone}}}}}\nstatus: {{addresses: [{{type: InternalIP, address: 10.9.9.1}}, {{type: ExternalIP, address: 192.0.2.9}}]}}"
        )
    };
    bench.yaml(&node("east"));
    bench.settle().await;
    // The router comes after the node.
    bench.node("node-1", "10.9.9.1").await;
    bench.settle().await;
    let router = "default-global-system-config:node-1";
    let told = bench.must(Kind::VIRTUAL_ROUTER, router).await;
    assert_eq!(note(&told, "zone"), Some("east"));
    assert_eq!(note(&told, "addresses"), Some("10.9.9.1,192.0.2.9"));
    bench.yaml(&node("west"));
    bench.settle().await;
    assert_eq!(note(&bench.must(Kind::VIRTUAL_ROUTER, router).await, "zone"), Some("west"));
    assert_eq!(bench.log, Vec::<String>::new(), "no write was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_pods_go_before_changes_of_others_in_the_order_in_which_they_came() {
    let mut bench = Bench::new().await;
    bench.put(namespace("shop", "", ""));
    let old: Vec<String> = (0..8).map(|n| format!("a{n}")).collect();
    for name in &old {
        bench.put(pod("shop", name, "", ""));
    }
    bench.settle().await;
    // Each of these is a write, and their names come first.
    for name in &old {
        bench.put(pod("shop", name, "version: '2'", ""));
    }
    for name in ["z", "m"] {
        bench.put(pod("shop", name, "", ""));
    }
    let now = std::time::Duration::from_secs(3600);
    let order: Vec<String> = (1..=3)
        .flat_map(|busy| bench.core.poll(now, busy))
        .map(|w| w.key.name.to_string())
        .collect();
    assert_eq!(order, ["z", "m", "a0"]);
}
