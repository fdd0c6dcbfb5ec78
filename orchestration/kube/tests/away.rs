//! What happens while the API server is away, and what it forgot meanwhile; and types whose served version changes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

#[path = "support/plane.rs"]
mod plane;

use plane::{ConfigApi, Plane, eventually, http};
use serde_json::{Value, json};
use skein_client::Client;
use skein_model::{FqName, Kind};

/// A Kubernetes, a configuration API and the manager between them.
struct World {
    plane: Plane,
    client: Client,
    status: u16,
    stop: tokio::sync::oneshot::Sender<()>,
    manager: tokio::task::JoinHandle<Result<(), skein_kube::ManagerError>>,
    api: ConfigApi,
}

impl World {
    async fn start() -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter("warn,skein_kube=info").try_init();
        let plane = Plane::start(&[]);
        plane.apply(include_str!("../../../deploy/kubernetes/rbac.yaml"));
        plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}");
        let api = ConfigApi::start().await;
        let client = api.client.clone();
        let mut config = api.manager(&plane);
        let status = config.status.port();
        config.election.identity = "test".into();
        config.cluster.public_fip_pool = Some("default-domain:default-project:public:pool".into());
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let manager = tokio::spawn(skein_kube::run(config, || {}, async {
            let _ = stopped.await;
        }));
        Self { plane, client, status, stop, manager, api }
    }

    /// A figure of the manager's metrics, all of its kinds together.
    fn figure(&self, name: &str) -> u64 {
        let text = http(self.status, "GET", "/metrics", "");
        let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Notes of the Events with a reason, about objects of a name.
    fn told(&self, reason: &str, name: &str) -> Vec<String> {
        let (good, text) = self.plane.kubectl(&["get", "events", "-n", "shop", "-o", "json"], "");
        assert!(good, "{text}");
        let all: Value = serde_json::from_str(&text).unwrap();
        let all = all["items"].as_array().unwrap().iter();
        all.filter(|one| one["reason"] == reason && one["involvedObject"]["name"] == name)
            .map(|one| one["message"].as_str().unwrap().to_owned())
            .collect()
    }

    async fn is_there(&self, kind: Kind, name: &str) {
        let name = FqName::parse(name);
        let what = format!("{kind} {name}");
        eventually(&what, async || self.client.get_by_name(kind, &name).await.ok()).await;
    }

    async fn end(self) {
        let _ = self.stop.send(());
        self.manager.await.unwrap().unwrap();
        self.api.stop().await;
    }
}

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{nodeName: node-1, containers: [{{name: a, image: none}}]}}"
    )
}

/// Public addresses: one.
async fn pool(client: &Client) {
    let network = json!({
        "fq_name": ["default-domain", "default-project", "public"], "parent_type": "project",
        "network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": [{
                "subnet": {"ip_prefix": "198.51.100.0", "ip_prefix_len": 24},
                "allocation_pools": [{"start": "198.51.100.9", "end": "198.51.100.9"}],
            }]},
        }],
    });
    client.create(Kind::VIRTUAL_NETWORK, network).await.unwrap();
    let pool = json!({"fq_name": ["default-domain", "default-project", "public", "pool"], "parent_type": "virtual-network"});
    client.create(Kind::FLOATING_IP_POOL, pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_while_the_api_server_is_away_is_told_when_it_is_back() {
    let mut world = World::start().await;
    pool(&world.client).await;
    world.plane.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {type: LoadBalancer, ports: [{name: http, port: 80}]}");
    let ip = |world: &World| {
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        world.plane.kubectl(&["get", "service", "-n", "shop", "web", "-o", path], "").1
    };
    eventually("the address", async || (ip(&world) == "198.51.100.9").then_some(())).await;
    world.plane.apply(&pod("before"));
    world.is_there(Kind::VIRTUAL_MACHINE, "k8s__shop__before").await;
    world.plane.apply("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: guard, namespace: shop}\nspec: {podSelector: {}, ingress: []}");
    world.is_there(Kind::FIREWALL_POLICY, "default-policy-management:k8s-shop-guard").await;
    assert_eq!(world.figure("skein_kube_lists_total{kind=\"Pod\",reason=\"expired\"}"), 0);
    assert_eq!(world.figure("skein_kube_lists_total{kind=\"Pod\",reason=\"start\"}"), 1);

    // Someone else takes the one address: the manager cannot tell, as there is no API server.
    world.plane.kill_server();
    let other = json!({
        "fq_name": ["other"], "instance_ip_family": "v4", "instance_ip_address": "198.51.100.9",
        "virtual_network_refs": [{"to": ["default-domain", "default-project", "public"]}],
    });
    let other = eventually("the address of somebody else", async || {
        for floating in world.client.list(Kind::FLOATING_IP, &Default::default()).await.ok()? {
            let _ = world.client.delete(Kind::FLOATING_IP, floating.uuid).await;
        }
        // The manager asks for it again at once, and may be faster.
        world.client.create(Kind::INSTANCE_IP, other.clone()).await.ok()
    })
    .await;
    eventually("something to tell", async || (world.figure("skein_kube_untold") > 0).then_some(()))
        .await;
    // Without an API server it does not lead for long either.
    eventually("the end of the lease", async || {
        (world.figure("skein_kube_leading") == 0).then_some(())
    })
    .await;
    // And does not forget.
    eventually("something to tell", async || (world.figure("skein_kube_untold") > 0).then_some(()))
        .await;

    // The API server comes back, and knows nothing of what was before.
    world.plane.forget_history();
    world.plane.start_server(&[]);
    let told = eventually("the Event", async || {
        Some(world.told("PoolEmpty", "web")).filter(|told| !told.is_empty())
    })
    .await;
    assert!(told[0].contains("exhausted") && told[0].contains("as soon as it is free"), "{told:?}");
    eventually("all to be told", async || (world.figure("skein_kube_untold") == 0).then_some(()))
        .await;
    assert_eq!(world.told("PoolEmpty", "web").len(), 1, "once");

    // It listed anew what was too old, and carries on.
    for kind in ["Pod", "Service", "NetworkPolicy", "Namespace"] {
        let name = format!("skein_kube_lists_total{{kind=\"{kind}\",reason=\"expired\"}}");
        eventually(&name, async || (world.figure(&name) > 0).then_some(())).await;
    }
    world.plane.apply(&pod("after"));
    world.is_there(Kind::VIRTUAL_MACHINE, "k8s__shop__after").await;
    let (good, text) = world.plane.kubectl(&["delete", "networkpolicy", "-n", "shop", "guard"], "");
    assert!(good, "{text}");
    let gone = FqName::parse("default-policy-management:k8s-shop-guard");
    eventually("the policy's end", async || {
        world.client.get_by_name(Kind::FIREWALL_POLICY, &gone).await.is_err().then_some(())
    })
    .await;

    // Events about objects without a namespace are where API servers keep them.
    world.plane.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: odd, annotations: {opencontrail.org/isolation: perhaps}}");
    eventually("the Event on a namespace", async || {
        let list =
            ["get", "events", "-n", "default", "--field-selector", "involvedObject.name=odd"];
        world.plane.kubectl(&list, "").1.contains("BadAnnotation").then_some(())
    })
    .await;

    // The address is free again, and it is the service's, without anybody's doing.
    world.client.delete(Kind::INSTANCE_IP, other).await.unwrap();
    eventually("the address given back", async || {
        let list = world.client.list(Kind::FLOATING_IP, &Default::default()).await.ok()?;
        (list.len() == 1 && ip(&world) == "198.51.100.9").then_some(())
    })
    .await;
    world.end().await;
}

const MULTI: &str = include_str!("../../../deploy/kubernetes/multi-networkpolicies.yaml");

fn multi(version: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: k8s.cni.cncf.io/{version}\nkind: MultiNetworkPolicy\nmetadata: {{name: {name}, namespace: shop, annotations: {{k8s.v1.cni.cncf.io/policy-for: side}}}}\nspec: {spec}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_is_followed_in_another_version_and_its_definition_refuses_what_makes_no_sense() {
    let world = World::start().await;
    let crd = "multi-networkpolicies.k8s.cni.cncf.io";
    let serve = |v1beta2: bool| {
        let patch = json!([
            {"op": "replace", "path": "/spec/versions/0/served", "value": v1beta2},
            {"op": "replace", "path": "/spec/versions/1/served", "value": !v1beta2},
        ]);
        let patch = patch.to_string();
        let (good, text) =
            world.plane.kubectl(&["patch", "crd", crd, "--type=json", "-p", &patch], "");
        assert!(good, "{text}");
    };
    let served = async |version: &str| {
        let path = format!("/apis/k8s.cni.cncf.io/{version}/multi-networkpolicies");
        let get = ["get", "--raw", path.as_str()];
        eventually(&path, async || world.plane.kubectl(&get, "").0.then_some(())).await;
    };
    world.plane.apply(MULTI);
    serve(false);
    served("v1beta1").await;
    let good = "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 'fd00::/8', except: ['fd00:1::/32']}}], ports: [{port: 80, endPort: 90}, {port: http, protocol: UDP}]}]}";
    let apply = async |yaml: String| {
        // What kubectl knows of types may be older than the definition.
        eventually("a policy", async || {
            let (good, text) = world.plane.kubectl(&["apply", "-f", "-"], &yaml);
            assert!(good || text.contains("no matches for kind"), "{text}");
            good.then_some(())
        })
        .await;
    };
    apply(multi("v1beta1", "old", good)).await;
    let policy = |name: &str| format!("default-policy-management:k8s-shop-{name}__multi");
    world.is_there(Kind::FIREWALL_POLICY, &policy("old")).await;

    for (spec, place) in [
        ("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.300/8}}]}]}", "cidr"),
        (
            "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}]}]}",
            "except",
        ),
        ("{podSelector: {}, ingress: [{from: [{}]}]}", "from"),
        ("{podSelector: {}, ingress: [{ports: [{port: 70000}]}]}", "port"),
        ("{podSelector: {}, ingress: [{ports: [{port: 0}]}]}", "port"),
        ("{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 70000}]}]}", "endPort"),
        ("{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}", "protocol"),
        ("{podSelector: {}, policyTypes: [Forward]}", "policyTypes"),
        ("{podSelector: {matchExpressions: [{key: a, operator: Like}]}}", "operator"),
        ("{ingress: []}", "podSelector"),
    ] {
        let (good, text) =
            world.plane.kubectl(&["create", "-f", "-"], &multi("v1beta1", "bad", spec));
        assert!(!good && text.contains(place), "{spec}: {text}");
    }
    // What a definition cannot check fails closed, and each fault has an Event of its own.
    apply(multi("v1beta1", "faulty", "{podSelector: {}, ingress: [{from: [{podSelector: {matchExpressions: [{key: a, operator: NotIn}]}}], ports: [{port: 90, endPort: 80}]}]}")).await;
    world
        .is_there(
            Kind::FIREWALL_RULE,
            "default-policy-management:shop-ingress-faulty__multi-denyall",
        )
        .await;
    eventually("both Events", async || {
        let told = world.told("BadPolicy", "faulty");
        let names = |place: &str| told.iter().any(|text| text.contains(place));
        (names("from[0].podSelector.matchExpressions[0]") && names("ports[0].endPort"))
            .then_some(())
    })
    .await;

    // An upgrade: the version that is followed is served no longer.
    serve(true);
    served("v1beta2").await;
    apply(multi("v1beta2", "new", good)).await;
    world.is_there(Kind::FIREWALL_POLICY, &policy("new")).await;
    world.is_there(Kind::FIREWALL_POLICY, &policy("old")).await;
    let lists = "skein_kube_lists_total{kind=\"MultiNetworkPolicy\",reason=\"rediscovered\"}";
    // It may take a while until the API server ends a watch of a version that it does not serve any more.
    eventually(lists, async || (world.figure(lists) > 0).then_some(())).await;
    apply(multi("v1beta2", "newer", good)).await;
    world.is_there(Kind::FIREWALL_POLICY, &policy("newer")).await;
    let gone = FqName::parse(&policy("old"));
    let (good, text) =
        world.plane.kubectl(&["delete", "multi-networkpolicies", "-n", "shop", "old"], "");
    assert!(good, "{text}");
    eventually("the end of the old one", async || {
        world.client.get_by_name(Kind::FIREWALL_POLICY, &gone).await.is_err().then_some(())
    })
    .await;
    world.end().await;
}
