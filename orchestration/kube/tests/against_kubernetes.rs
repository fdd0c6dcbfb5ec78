//! The whole manager between a real Kubernetes API server and a real configuration API, with no more rights than
//! `deploy/kubernetes/rbac.yaml` gives.
//!
//! Needs etcd and the programs of Kubernetes: from the folder that `KUBEBUILDER_ASSETS` names, else those that
//! scripts/kubernetes built, else installed ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "support/plane.rs"]
mod plane;

use plane::{ConfigApi, Plane, eventually, free_port};
use serde_json::json;
use skein_client::Client;
use skein_model::{FqName, Kind, Object};
use std::time::{Duration, Instant};

async fn object(client: &Client, kind: Kind, name: &str) -> Object {
    let name = FqName::parse(name);
    eventually(&format!("{kind} {name}"), async || client.get_by_name(kind, &name).await.ok()).await
}

fn pod(name: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{role: db}}, annotations: {{{annotations}}}}}\nspec: {{nodeName: node-1, containers: [{{name: a, image: none}}]}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_cluster_is_translated_with_least_rights() {
    // What goes wrong should be read with the test's own output.
    let _ = tracing_subscriber::fmt().with_env_filter("warn,skein_kube=info").try_init();
    let mut plane = Plane::start(&[]);
    plane.apply(include_str!("../../../deploy/kubernetes/rbac.yaml"));
    let api = ConfigApi::start().await;
    let client = api.client.clone();
    let mut config = api.manager(&plane);
    config.election.identity = "test".into();
    config.cluster.public_fip_pool = Some("default-domain:default-project:public:pool".into());
    // Nobody waits for the end of a lease this long.
    config.election.duration = 60;
    let second = config.clone();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let manager = tokio::spawn(skein_kube::run(config, || {}, async {
        let _ = stopped.await;
    }));
    let network = json!({
        "fq_name": ["default-domain", "default-project", "public"], "parent_type": "project",
        "network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": "198.51.100.0", "ip_prefix_len": 24}}]},
        }],
    });
    client.create(Kind::VIRTUAL_NETWORK, network).await.unwrap();
    let pool = json!({"fq_name": ["default-domain", "default-project", "public", "pool"], "parent_type": "virtual-network"});
    client.create(Kind::FLOATING_IP_POOL, pool).await.unwrap();

    plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}");
    plane.apply(&pod("db", ""));
    let machine = object(&client, Kind::VIRTUAL_MACHINE, "k8s__shop__db").await;
    let (_, uid) =
        plane.kubectl(&["get", "pod", "-n", "shop", "db", "-o", "jsonpath={.metadata.uid}"], "");
    assert_eq!(machine.uuid.to_string(), uid);

    plane.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: LoadBalancer, ports: [{name: http, port: 80, targetPort: 8080}]}");
    plane.apply("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{name: http, port: 8080, protocol: TCP}]\nendpoints: [{addresses: [10.47.255.1], topology: {kubernetes.io/hostname: node-1}}]");
    eventually("the load balancer's address in the status", async || {
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        let (_, ip) = plane.kubectl(&["get", "service", "-n", "shop", "web", "-o", path], "");
        ip.starts_with("198.51.100.").then_some(())
    })
    .await;
    eventually("the member", async || {
        let list = client.list(Kind::LOADBALANCER_MEMBER, &Default::default()).await.ok()?;
        list.iter()
            .any(|m| m.properties["loadbalancer_member_properties"]["node"] == "node-1")
            .then_some(())
    })
    .await;

    plane.apply("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard, namespace: shop}\nspec: {podSelector: {matchLabels: {role: db}}, ingress: []}");
    object(&client, Kind::FIREWALL_POLICY, "default-policy-management:k8s-shop-guard").await;
    object(&client, Kind::TAG, "role=db").await;

    plane.apply(&pod("bad", "opencontrail.org/network: 'non:sense'"));
    eventually("the Event", async || {
        let (_, text) = plane.kubectl(&["get", "events", "-n", "shop", "-o", "json"], "");
        text.contains("BadAnnotation").then_some(())
    })
    .await;
    // Another mistake of the same kind is told in its own words.
    plane.apply(&pod("bad", "opencontrail.org/network: 'quite:other:non:sense'"));
    eventually("the other Event", async || {
        let (_, text) = plane.kubectl(&["get", "events", "-n", "shop", "-o", "json"], "");
        (text.contains("quite:other:non:sense") && text.contains("\\\"non:sense")).then_some(())
    })
    .await;
    // Its status says so as well.
    let condition = |status: &str, said: &str| {
        let path = "jsonpath={.status.conditions[?(@.type=='skein.io/NetworkReady')]}";
        let (_, text) = plane.kubectl(&["get", "pod", "-n", "shop", "bad", "-o", path], "");
        let found: serde_json::Value = serde_json::from_str(&text).ok()?;
        let told = found["message"].as_str()?.contains(said) && found["status"] == status;
        (told && found["lastTransitionTime"].is_string()).then_some(found)
    };
    let found = eventually("the condition", async || condition("False", "quite:other")).await;
    assert_eq!(found["reason"], "BadAnnotation", "{found}");
    let since = found["lastTransitionTime"].clone();
    plane.apply(&pod("bad", "opencontrail.org/network: 'a:third:bit:of:non:sense'"));
    let found = eventually("the other condition", async || condition("False", "a:third")).await;
    assert_eq!(found["lastTransitionTime"], since, "it is as false as it was");
    plane.apply(&pod("bad", "opencontrail.org/network: ''"));
    let found = eventually("the mended condition", async || condition("True", "made")).await;
    assert_eq!(found["reason"], "Made", "{found}");
    let all = "jsonpath={.status.conditions[*].type}";
    let types = |name: &str| plane.kubectl(&["get", "pod", "-n", "shop", name, "-o", all], "").1;
    assert_eq!(types("bad").matches("skein.io/NetworkReady").count(), 1, "{}", types("bad"));
    assert!(!types("db").contains("skein.io"), "nothing was ever wrong: {}", types("db"));

    plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: apart, annotations: {opencontrail.org/isolation: 'true'}}");
    object(&client, Kind::VIRTUAL_NETWORK, "default-domain:k8s-apart:k8s-apart-pod-network").await;

    // The definition of attachments is made by the manager. No object of it here: Kubernetes before 1.24, built with Go
    // 1.18 or later, dies of the first custom resource (its vendored modern-go/reflect2 is older than 1.0.2). Tables
    // in tests/pods.rs cover attachments.
    eventually("the definition of attachments", async || {
        let crd = "network-attachment-definitions.k8s.cni.cncf.io";
        plane.kubectl(&["get", "crd", crd], "").0.then_some(())
    })
    .await;
    let (_, lease) = plane.kubectl(
        &[
            "get",
            "lease",
            "-n",
            "kube-system",
            "skein-kube-manager-k8s",
            "-o",
            "jsonpath={.spec.holderIdentity}",
        ],
        "",
    );
    assert_eq!(lease, "test");

    // The API server goes and comes back; in between a policy vanished from the store behind the watch's back.
    plane.kill_server();
    plane.start_server(&[]);
    let (good, text) = plane.kubectl(&["delete", "networkpolicy", "-n", "shop", "guard"], "");
    assert!(good, "{text}");
    plane.apply(&pod("later", ""));
    object(&client, Kind::VIRTUAL_MACHINE, "k8s__shop__later").await;
    let gone = FqName::parse("default-policy-management:k8s-shop-guard");
    eventually("the policy's end", async || {
        client.get_by_name(Kind::FIREWALL_POLICY, &gone).await.is_err().then_some(())
    })
    .await;
    let (good, text) =
        plane.kubectl(&["delete", "pod", "-n", "shop", "later", "--force", "--grace-period=0"], "");
    assert!(good, "{text}");
    let later = FqName::parse("k8s__shop__later");
    eventually("the pod's end", async || {
        client.get_by_name(Kind::VIRTUAL_MACHINE, &later).await.is_err().then_some(())
    })
    .await;

    // A second manager stands by, and takes over when the first one is gone.
    let mut standby = second;
    // Not the first one's, which listens.
    let page = free_port();
    standby.status.set_port(page);
    standby.election.identity = "standby".into();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let second = tokio::spawn(skein_kube::run(standby, || {}, async {
        let _ = ended.await;
    }));
    eventually("the standby's page", async || {
        tokio::net::TcpStream::connect(("127.0.0.1", page)).await.ok()
    })
    .await;
    let _ = stop.send(());
    manager.await.unwrap().unwrap();
    plane.apply(&pod("after", ""));
    // Much shorter than the lease: whoever stops gives it back.
    let since = Instant::now();
    object(&client, Kind::VIRTUAL_MACHINE, "k8s__shop__after").await;
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    let path = "jsonpath={.spec.holderIdentity}";
    let lease = ["get", "lease", "-n", "kube-system", "skein-kube-manager-k8s", "-o", path];
    assert_eq!(plane.kubectl(&lease, "").1, "standby");
    let _ = end.send(());
    second.await.unwrap().unwrap();
    api.stop().await;
}
