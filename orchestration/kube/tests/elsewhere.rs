//! Policies and services that are about networks beside pods' first ones, against a real configuration API.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::{Value, json};
use skein_model::{Kind, Object};
use support::{Bench, namespace, note, object, pod, uid};

fn definition(name: &str, cidr: &str, plugin: &str) -> String {
    format!(
        "kind: NetworkAttachmentDefinition\nmetadata: {{name: {name}, namespace: shop, annotations: {{opencontrail.org/cidr: '{cidr}'}}}}\n\
         spec: {{config: '{{\"cniVersion\": \"0.3.1\", \"type\": \"{plugin}\"}}'}}"
    )
}

fn policy(kind: &str, name: &str, annotation: &str, spec: &str) -> String {
    format!(
        "kind: {kind}\nmetadata: {{name: {name}, namespace: shop, annotations: {{{annotation}}}}}\nspec: {spec}"
    )
}

const ON_BACK: &str = "k8s.v1.cni.cncf.io/policy-for: back";
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks: 'back,side'";

/// The port of a pod, by its number among the pod's.
async fn port(bench: &Bench, pod: &str, index: usize) -> Object {
    for name in bench.names(Kind::VIRTUAL_MACHINE_INTERFACE) {
        let port = bench.must(Kind::VIRTUAL_MACHINE_INTERFACE, &name).await;
        let own = note(&port, "name") == Some(pod);
        if own && note(&port, "index").is_some_and(|text| text.starts_with(&format!("{index}/"))) {
            return port;
        }
    }
    unreachable!("{pod} has no port {index}")
}

async fn tags(bench: &Bench, pod: &str, index: usize) -> Vec<String> {
    let port = port(bench, pod, index).await;
    bench.targets(&port, Kind::TAG)
}

async fn bed() -> Bench {
    let mut bench = Bench::new().await;
    bench.node("node-1", "10.9.9.1").await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    bench.yaml(&definition("back", "192.168.1.0/24", "skein"));
    bench.yaml(&definition("side", "192.168.2.0/24", "skein"));
    bench.put(pod("shop", "db", "role: db", NETWORKS));
    bench.put(pod("shop", "web", "role: web", NETWORKS));
    bench.put(pod("shop", "cache", "role: cache", NETWORKS));
    bench
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_for_a_network_is_about_interfaces_in_it_and_no_others() {
    let spec = "{podSelector: {matchLabels: {role: db}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {role: web}}}], ports: [{port: 5432}]}]}";
    for kind in ["NetworkPolicy", "MultiNetworkPolicy"] {
        let mut bench = bed().await;
        bench.yaml(&policy(kind, "guard", ON_BACK, spec));
        bench.settle().await;
        assert_eq!(bench.log, Vec::<String>::new());
        assert!(bench.notices.iter().all(|notice| &*notice.key.name != "guard"));
        // Two tags, the subject's and the peer's, each on the one interface that is meant.
        let (subject, peer) = (tags(&bench, "db", 1).await, tags(&bench, "web", 1).await);
        for both in [&subject, &peer] {
            assert_eq!((both.len(), both[0].as_str()), (2, "application=k8s"), "{both:?}");
            assert!(both[1].starts_with("selector-") && both[1].ends_with("=interfaces"));
        }
        assert_ne!(subject, peer);
        for (name, index) in [("cache", 1), ("db", 2), ("web", 2)] {
            assert_eq!(tags(&bench, name, index).await, Vec::<String>::new(), "{name} {index}");
        }
        for name in ["db", "web", "cache"] {
            assert_eq!(tags(&bench, name, 0).await, ["namespace=shop"], "{name}");
        }
        let ends = |rule: &str| {
            let rules: Vec<&Object> = bench
                .core
                .graph()
                .of_kind(Kind::FIREWALL_RULE)
                .filter(|one| one.name().contains(rule))
                .map(|one| &**one)
                .collect();
            assert_eq!(rules.len(), 1, "{rule}");
            let fields = skein_kube::packed::properties(rules[0]).into_owned();
            // The API adds numbers to the tags' names.
            let end = |name: &str| {
                let mut end = fields[name].clone();
                end.as_object_mut().unwrap().remove("tag_ids");
                end
            };
            (end("endpoint_1"), end("endpoint_2"))
        };
        let of = |tag: &str| json!({"tags": [tag]});
        let multi = if kind == "MultiNetworkPolicy" { "__multi" } else { "" };
        let passed = format!("shop-ingress-guard{multi}-0-podSelector-0-0");
        assert_eq!(ends(&passed), (of(&peer[1]), of(&subject[1])));
        let any = json!({"any": true});
        assert_eq!(
            ends(&format!("shop-ingress-guard{multi}-denyall")),
            (any.clone(), of(&subject[1]))
        );
        // What the policy does not restrict passes: of the subject, and of the peer.
        for tag in [&subject[1], &peer[1]] {
            let mark = tag.trim_start_matches("selector-").trim_end_matches("=interfaces");
            let rule = format!("shop-guard{multi}-interfaces-{mark}");
            assert_eq!(ends(&format!("{rule}-egress")), (of(tag), any.clone()));
            assert_eq!(ends(&format!("{rule}-ingress")), (any.clone(), of(tag)));
        }
        // It goes, and with it everything that was for it.
        bench.core.kube_delete(&object(&policy(kind, "guard", ON_BACK, spec)));
        bench.settle().await;
        assert_eq!(tags(&bench, "db", 1).await, Vec::<String>::new());
        assert!(bench.names(Kind::TAG).iter().all(|tag| !tag.contains("interfaces")));
        assert!(bench.names(Kind::FIREWALL_RULE).iter().all(|rule| !rule.contains("guard")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_forms_of_one_name_stand_beside_each_other() {
    let mut bench = bed().await;
    let spec = "{podSelector: {matchLabels: {role: db}}, policyTypes: [Ingress, Egress], egress: [{to: [{ipBlock: {cidr: 192.168.1.0/24}}]}, {to: [{namespaceSelector: {}}]}]}";
    bench.yaml(&policy("NetworkPolicy", "guard", "", spec));
    bench.yaml(&policy("MultiNetworkPolicy", "guard", ON_BACK, spec));
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new());
    let all = bench.names(Kind::FIREWALL_POLICY);
    for name in ["k8s-shop-guard", "k8s-shop-guard__multi"] {
        assert!(all.contains(&format!("default-policy-management:{name}")), "{name}: {all:?}");
    }
    // A selector of namespaces means the interfaces of their pods in these networks.
    let web = tags(&bench, "web", 1).await;
    assert_eq!(web.len(), 2, "{web:?}");
    assert_eq!(tags(&bench, "db", 1).await.len(), 3);
    assert!(tags(&bench, "db", 0).await.contains(&"role=db".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_that_cannot_be_meant_are_told() {
    let mut bench = bed().await;
    bench.yaml(&definition("foreign", "192.168.3.0/24", "macvlan"));
    let deny = "{podSelector: {}, policyTypes: [Ingress]}";
    let told = |bench: &Bench, name: &str| -> Vec<&'static str> {
        let own = bench.notices.iter().filter(|notice| &*notice.key.name == name);
        own.map(|notice| notice.problem.reason).collect()
    };
    for (kind, name, annotation) in [
        ("MultiNetworkPolicy", "none", ""),
        ("NetworkPolicy", "bad", "k8s.v1.cni.cncf.io/policy-for: 'a/b/c'"),
        ("NetworkPolicy", "absent", "k8s.v1.cni.cncf.io/policy-for: later"),
        ("NetworkPolicy", "others", "k8s.v1.cni.cncf.io/policy-for: foreign"),
    ] {
        bench.yaml(&policy(kind, name, annotation, deny));
    }
    bench.settle().await;
    for name in ["none", "bad"] {
        assert_eq!(told(&bench, name), ["BadAnnotation"], "{name}");
    }
    for name in ["absent", "others"] {
        assert_eq!(told(&bench, name), ["UnknownNetwork"], "{name}");
    }
    assert_eq!(
        tags(&bench, "db", 0).await,
        ["namespace=shop"],
        "nobody's first interface is meant"
    );
    // The network comes, and a pod in it.
    bench.yaml(&definition("later", "192.168.4.0/24", "skein"));
    bench.put(pod("shop", "new", "", "k8s.v1.cni.cncf.io/networks: later"));
    bench.settle().await;
    assert_eq!(tags(&bench, "new", 1).await.len(), 2);
}

/// Members of the one pool there is: address and the port that has it.
fn members(bench: &Bench) -> Vec<(String, Option<String>)> {
    let graph = bench.core.graph();
    let mut all: Vec<_> = graph
        .of_kind(Kind::LOADBALANCER_MEMBER)
        .map(|member| {
            let fields = skein_kube::packed::properties(member);
            let own = &fields["loadbalancer_member_properties"];
            let text = |value: &Value| value.as_str().map(str::to_owned);
            (text(&own["address"]).unwrap(), text(own.get("interface").unwrap_or(&Value::Null)))
        })
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_services_backends_are_asked_in_the_network_that_it_names() {
    let mut bench = bed().await;
    let asked = r#"k8s.v1.cni.cncf.io/networks: '[{"name": "back", "ips": ["192.168.1.77"]}]'"#;
    let backend = pod("shop", "one", "", asked);
    let without = pod("shop", "plain", "", "");
    let service = |annotation: &str| {
        format!(
            "kind: Service\nmetadata: {{name: sql, namespace: shop, annotations: {{{annotation}}}}}\n\
             spec: {{clusterIP: 10.96.1.10, clusterIPs: [10.96.1.10], ports: [{{port: 5432}}]}}"
        )
    };
    let endpoint = |address: &str, pod: &str| {
        format!("{{addresses: [{address}], targetRef: {{kind: Pod, uid: {pod}}}}}")
    };
    bench.yaml(&format!(
        "kind: EndpointSlice\nmetadata: {{name: sql-1, namespace: shop, labels: {{kubernetes.io/service-name: sql}}}}\naddressType: IPv4\nports: [{{port: 5432, protocol: TCP}}]\nendpoints: [{}, {}, {{addresses: [192.0.2.7]}}]",
        endpoint("10.47.0.1", &uid(&backend)),
        endpoint("10.47.0.2", &uid(&without)),
    ));
    bench.put(without);
    // The service is there before its backend.
    bench.yaml(&service("k8s.v1.cni.cncf.io/service-network: back"));
    bench.settle().await;
    assert_eq!(members(&bench), [("192.0.2.7".to_owned(), None)]);
    bench.put(backend);
    bench.settle().await;
    let second = port(&bench, "one", 1).await.uuid.to_string();
    // A pod that is not in the network is no backend; an address that is no pod's stays.
    let wanted = [("192.0.2.7".to_owned(), None), ("192.168.1.77".to_owned(), Some(second))];
    assert_eq!(members(&bench), wanted);
    // And back.
    bench.yaml(&service(""));
    bench.settle().await;
    let addresses: Vec<String> = members(&bench).into_iter().map(|(address, _)| address).collect();
    assert_eq!(addresses, ["10.47.0.1", "10.47.0.2", "192.0.2.7"]);
    assert_eq!(bench.log, Vec::<String>::new());
    bench.yaml(&service("k8s.v1.cni.cncf.io/service-network: nowhere"));
    bench.settle().await;
    assert!(bench.reasons().contains(&"UnknownNetwork"), "{:?}", bench.notices);
}
