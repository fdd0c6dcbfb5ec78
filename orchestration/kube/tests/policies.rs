//! Network policies: the guide's six examples exactly, and what the original gets wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::Value;
use skein_kube::Settings;
use skein_kube::core::Core;
use skein_kube::key::{Key, Sort};
use skein_model::{Kind, Object};
use std::collections::BTreeMap;
use support::{Bench, namespace, object, pod};

/// A rule as a line: `action service source > target`, with where it is judged.
fn line(rule: &BTreeMap<String, Value>) -> String {
    let end = |name: &str| {
        let end = &rule[name];
        if end["any"] == true {
            "any".to_owned()
        } else if let Some(tags) = end["tags"].as_array().filter(|tags| !tags.is_empty()) {
            let mut tags: Vec<&str> = tags.iter().map(|t| t.as_str().unwrap()).collect();
            tags.sort_unstable();
            tags.join("&")
        } else {
            format!("AG {}", end["address_group"].as_str().unwrap().rsplit(':').next().unwrap())
        }
    };
    let service = &rule["service"];
    let ports = &service["dst_ports"];
    let ports = match (ports["start_port"].as_u64().unwrap(), ports["end_port"].as_u64().unwrap()) {
        (0, 65535) => String::new(),
        (first, last) if first == last => format!(":{first}"),
        (first, last) => format!(":{first}-{last}"),
    };
    let hole = if rule.get("is_exception") == Some(&Value::Bool(true)) { "hole " } else { "" };
    format!(
        "{hole}{} {}{ports} {} > {} @{}",
        rule["action_list"]["simple_action"].as_str().unwrap(),
        service["protocol"].as_str().unwrap(),
        end("endpoint_1"),
        end("endpoint_2"),
        rule["judged_at"].as_str().unwrap(),
    )
}

/// The rules of a firewall policy in their order: name and line.
fn rules(bench: &Bench, policy: &Object) -> Vec<(String, String)> {
    let mut all: Vec<(String, &Object)> = policy
        .references_to(Kind::FIREWALL_RULE)
        .map(|r| {
            let rule: &Object = bench.core.graph().get(r.uuid).unwrap();
            (r.attr["sequence"].as_str().unwrap().to_owned(), rule)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all.into_iter()
        .map(|(_, rule)| {
            let fields = skein_kube::packed::properties(rule)
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            (rule.name().to_owned(), line(&fields))
        })
        .collect()
}

async fn policy_rules(bench: &Bench, name: &str) -> Vec<(String, String)> {
    let policy =
        bench.must(Kind::FIREWALL_POLICY, &format!("default-policy-management:{name}")).await;
    rules(bench, &policy)
}

/// The guide's examples, as users apply them.
const EXAMPLES: [&str; 6] = [
    include_str!("../../../examples/kubernetes/network-policy-1-conditional.yaml"),
    include_str!("../../../examples/kubernetes/network-policy-2-allow-all-ingress.yaml"),
    include_str!("../../../examples/kubernetes/network-policy-3-deny-all-ingress.yaml"),
    include_str!("../../../examples/kubernetes/network-policy-4-allow-all-egress.yaml"),
    include_str!("../../../examples/kubernetes/network-policy-5-deny-all-egress.yaml"),
    include_str!("../../../examples/kubernetes/network-policy-6-deny-all.yaml"),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_six_examples_have_exactly_the_objects_of_the_guide() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("mine", "project: myproject", ""));
    bench.put(pod("default", "db", "role: db, pod-template-hash: abc", ""));
    bench.put(pod("mine", "web", "role: frontend", ""));
    for example in EXAMPLES {
        bench.yaml(example);
    }
    bench.settle().await;
    assert_eq!(bench.log, Vec::<String>::new());
    let s = "namespace=default&role=db";
    let p = "default-ingress-test-network-policy-0";
    let want: Vec<(String, String)> = [
        (
            format!("{p}-ipBlock-0-172.17.1.0/24-0"),
            format!("hole deny tcp:6379 AG 172.17.1.0/24 > {s} @endpoint-2"),
        ),
        (
            format!("{p}-ipBlock-0-cidr-172.17.0.0/16-0"),
            format!("pass tcp:6379 AG 172.17.0.0/16 > {s} @endpoint-2"),
        ),
        (
            format!("{p}-namespaceSelector-1-0"),
            format!("pass tcp:6379 project=myproject > {s} @endpoint-2"),
        ),
        (
            format!("{p}-podSelector-2-0"),
            format!("pass tcp:6379 namespace=default&role=frontend > {s} @endpoint-2"),
        ),
        (
            "default-egress-test-network-policy-ipBlock-0-cidr-10.0.0.0/24-0".into(),
            format!("pass tcp:5978 {s} > AG 10.0.0.0/24 @endpoint-1"),
        ),
    ]
    .into();
    assert_eq!(policy_rules(&bench, "k8s-default-test-network-policy").await, want);
    let all = "namespace=default";
    assert_eq!(
        policy_rules(&bench, "k8s-default-allow-all-ingress").await,
        [(
            "default-ingress-allow-all-ingress-0-allow-all-0".to_owned(),
            format!("pass any any > {all} @endpoint-2")
        )]
    );
    assert_eq!(
        policy_rules(&bench, "k8s-default-allow-all-egress").await,
        [(
            "default-egress-allow-all-egress-allow-all-0".to_owned(),
            format!("pass any {all} > any @endpoint-1")
        )]
    );
    for name in ["deny-ingress", "deny-all-egress", "deny-all-ingress-egress"] {
        assert_eq!(policy_rules(&bench, &format!("k8s-default-{name}")).await, []);
    }
    let mut denied = policy_rules(&bench, "k8s-denyall").await;
    denied.sort();
    let ingress = |name: &str, s: &str| {
        (format!("default-ingress-{name}-denyall"), format!("deny any any > {s} @endpoint-2"))
    };
    let egress = |name: &str, s: &str| {
        (
            format!("default-egress-{name}-default-deny-all"),
            format!("deny any {s} > any @endpoint-1"),
        )
    };
    let mut want = vec![
        ingress("test-network-policy", s),
        egress("test-network-policy", s),
        ingress("allow-all-ingress", all),
        ingress("deny-ingress", all),
        egress("allow-all-egress", all),
        egress("deny-all-egress", all),
        ingress("deny-all-ingress-egress", all),
        egress("deny-all-ingress-egress", all),
    ];
    want.sort();
    assert_eq!(denied, want);
    let groups = bench.names(Kind::ADDRESS_GROUP);
    let prefix = "default-policy-management:";
    for net in ["172.17.1.0/24", "172.17.0.0/16", "10.0.0.0/24"] {
        assert!(groups.contains(&format!("{prefix}{net}")), "{groups:?}");
    }
    // Only labels that a selector uses become tags, of pods and of their namespaces.
    let tags = |bench: &Bench, pod: &str| {
        let graph = bench.core.graph();
        let mut ports = graph.of_kind(Kind::VIRTUAL_MACHINE_INTERFACE);
        let port = ports.find(|port| port.name().starts_with(&format!("{pod}__"))).unwrap();
        bench.targets(port, Kind::TAG)
    };
    assert_eq!(tags(&bench, "db"), ["namespace=default", "role=db"]);
    assert_eq!(tags(&bench, "web"), ["namespace=mine", "project=myproject", "role=frontend"]);
    // In the set: Ingress, then the six, then what denies and what allows.
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
    assert_eq!(order.len(), 9);
    assert_eq!(order[0].1, "k8s-Ingress");
    assert_eq!(order[7].1, "k8s-denyall");
    assert_eq!(order[8].1, "k8s-allowall");

    // A label's change is a change of tags; a policy's end takes its rules, tags and groups along.
    bench.put(pod("default", "db", "role: frontend", ""));
    bench.settle().await;
    assert_eq!(tags(&bench, "db"), ["namespace=default", "role=frontend"]);
    for example in EXAMPLES {
        bench.core.kube_delete(&object(example));
    }
    bench.settle().await;
    assert_eq!(bench.names(Kind::ADDRESS_GROUP), Vec::<String>::new());
    assert_eq!(policy_rules(&bench, "k8s-denyall").await, []);
    assert_eq!(bench.names(Kind::FIREWALL_RULE).len(), 4, "the namespaces' own");
    assert_eq!(tags(&bench, "web"), ["namespace=mine"]);
    assert_eq!(bench.names(Kind::TAG), ["application=k8s", "namespace=default", "namespace=mine"]);
    assert_eq!(bench.log, Vec::<String>::new());
}

/// What a policy wants, without any API: lines in order.
fn derived(core: &Core, name: &str) -> Vec<String> {
    core.derive(&Key::new(Sort::Policy, "shop", name))
        .objects
        .iter()
        .filter(|o| o.kind == Kind::FIREWALL_RULE)
        .map(|o| {
            let fields = o.properties.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            line(&fields)
        })
        .collect()
}

fn table(spec: &str) -> Vec<String> {
    let mut core = Core::new(Settings::default());
    core.kube_put(namespace("shop", "", ""));
    let ports = "spec: {nodeName: node-1, containers: [{name: a, ports: [{name: http, containerPort: PORT}]}]}";
    for (name, port) in [("a", "8080"), ("b", "9090")] {
        core.kube_put(object(&format!(
            "kind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n{}",
            ports.replace("PORT", port)
        )));
    }
    core.kube_put(object(&format!(
        "kind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}"
    )));
    derived(&core, "p")
}

#[test]
fn selectors_ports_and_families_mean_what_kubernetes_says() {
    let me = "namespace=shop";
    let deny = format!("deny any any > {me} @endpoint-2");
    let cases: Vec<(&str, Vec<String>)> = vec![
        // Everyone, on some ports of several protocols.
        (
            "{podSelector: {}, ingress: [{ports: [{port: 80}, {protocol: UDP, port: 5000, endPort: 5010}, {protocol: SCTP}]}]}",
            vec![
                format!("pass tcp:80 any > {me} @endpoint-2"),
                format!("pass udp:5000-5010 any > {me} @endpoint-2"),
                format!("pass sctp any > {me} @endpoint-2"),
                deny.clone(),
            ],
        ),
        // All pods of all namespaces is not everyone.
        (
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {}}]}]}",
            vec![format!("pass any selector-all=namespaces > {me} @endpoint-2"), deny.clone()],
        ),
        // A namespace by its name.
        (
            "{podSelector: {}, ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: web}}, podSelector: {matchLabels: {app: x}}}]}]}",
            vec![format!("pass any app=x&namespace=web > {me} @endpoint-2"), deny.clone()],
        ),
        // Both families.
        (
            "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}}]}]}",
            vec![
                format!("hole deny any AG 2001-db8-1--/48 > {me} @endpoint-2"),
                format!("pass any AG 2001-db8--/32 > {me} @endpoint-2"),
                deny.clone(),
            ],
        ),
        // A name of a port is another number in each pod.
        (
            "{podSelector: {}, ingress: [{ports: [{port: http}]}]}",
            vec![
                format!("pass tcp:8080 any > {me}&port-tcp-http=8080 @endpoint-2"),
                format!("pass tcp:9090 any > {me}&port-tcp-http=9090 @endpoint-2"),
                deny.clone(),
            ],
        ),
        // Outwards it is the other pod's name.
        (
            "{podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}], ports: [{port: http}]}]}",
            vec![
                format!("pass tcp:8080 {me} > {me}&port-tcp-http=8080 @endpoint-1"),
                format!("pass tcp:9090 {me} > {me}&port-tcp-http=9090 @endpoint-1"),
                format!("deny any {me} > any @endpoint-1"),
            ],
        ),
        // No rule at all closes; egress alone leaves ingress open.
        ("{podSelector: {}, ingress: []}", vec![deny.clone()]),
        (
            "{podSelector: {}, policyTypes: [Egress], ingress: [{}]}",
            vec![format!("deny any {me} > any @endpoint-1")],
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(table(spec), want, "{spec}");
    }
}

/// What is told about a policy of the namespace `shop`.
fn told(core: &Core, key: &Key) -> Vec<String> {
    let problems = core.derive(key).problems;
    assert!(problems.iter().all(|one| one.reason == "BadPolicy"), "{problems:?}");
    problems.into_iter().map(|one| one.message).collect()
}

#[test]
fn what_is_not_understood_of_a_policy_selects_nothing_and_is_told() {
    let deny = "deny any any > namespace=shop @endpoint-2";
    let web = "pass any app=x&namespace=shop > namespace=shop @endpoint-2";
    // Spec, what else than the denial is left, and where the fault is said to be.
    let from = |peer: &str| {
        format!(
            "{{podSelector: {{}}, ingress: [{{from: [{{podSelector: {{matchLabels: {{app: x}}}}}}, {peer}]}}]}}"
        )
    };
    let on =
        |port: &str| format!("{{podSelector: {{}}, ingress: [{{ports: [{{port: 80}}, {port}]}}]}}");
    let peers = [
        ("{ipBlock: {cidr: 10.0.0.300/8}}", "from[1].ipBlock.cidr"),
        // Without its hole it would let more pass.
        ("{ipBlock: {cidr: 10.0.0.0/8, except: [nonsense]}}", "from[1].ipBlock.except[0]"),
        ("{ipBlock: {cidr: 10.0.0.0/8, but: [10.1.0.0/16]}}", "from[1].ipBlock.but"),
        ("{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}", "from[1] has an ipBlock"),
        ("{}", "from[1] names nobody"),
        ("{podSelector: {}, serviceAccount: {}}", "from[1].serviceAccount"),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: Like, values: [b]}]}}",
            "from[1].podSelector.matchExpressions[0]",
        ),
        (
            "{namespaceSelector: {matchExpressions: [{key: a, operator: NotIn}]}}",
            "from[1].namespaceSelector.matchExpressions[0]",
        ),
        ("{namespaceSelector: {matchLabel: {a: b}}}", "from[1].namespaceSelector.matchLabel"),
        ("everyone", "from[1] is not an object"),
    ];
    let ports = [
        ("{port: 70000}", "ports[1].port"),
        ("{port: 0}", "ports[1].port"),
        ("{port: -1}", "ports[1].port"),
        ("{port: ''}", "ports[1].port"),
        ("{port: 90, endPort: 89}", "ports[1].endPort"),
        ("{port: http, endPort: 89}", "ports[1].port"),
        ("{endPort: 89}", "ports[1].endPort"),
        ("{protocol: ICMP}", "ports[1].protocol"),
        ("{port: 443, alpn: h2}", "ports[1].alpn"),
    ];
    let http = "pass tcp:80 any > namespace=shop @endpoint-2";
    let peers = peers.iter().map(|(peer, place)| (from(peer), web, place));
    let ports = ports.iter().map(|(port, place)| (on(port), http, place));
    for (spec, left, place) in peers.chain(ports) {
        let mut core = Core::new(Settings::default());
        core.kube_put(namespace("shop", "", ""));
        for kind in ["NetworkPolicy", "MultiNetworkPolicy"] {
            let annotation = "k8s.v1.cni.cncf.io/policy-for: side";
            core.kube_put(object(&format!(
                "kind: {kind}\nmetadata: {{name: p, namespace: shop, annotations: {{{}}}}}\nspec: {spec}",
                if kind == "NetworkPolicy" { "" } else { annotation }
            )));
        }
        assert_eq!(derived(&core, "p"), [left, deny], "{spec}");
        let key = Key::new(Sort::Policy, "shop", "p");
        let all = told(&core, &key);
        assert!(all.len() == 1 && all[0].contains(place), "{spec}: {all:?}");
        assert!(all[0].starts_with("spec.ingress[0]."), "{all:?}");
        // The other type says the same of other interfaces.
        let multi = core.derive(&Key::new(Sort::MultiPolicy, "shop", "p"));
        let rules = multi.objects.iter().filter(|o| o.kind == Kind::FIREWALL_RULE);
        assert!(
            rules.count() >= 3,
            "{spec}: the one that is understood, the denial, what passes else"
        );
        assert!(multi.problems.iter().any(|one| one.message == all[0]), "{:?}", multi.problems);
    }
}

#[test]
fn what_is_left_of_nothing_lets_nothing_pass() {
    let deny = "deny any any > namespace=shop @endpoint-2";
    let out = "deny any namespace=shop > any @endpoint-1";
    let wide = "deny any any > namespace=shop&role=db @endpoint-2";
    for (spec, want, place) in [
        // A list of which nothing is left is not an empty one, which would mean everyone.
        ("{podSelector: {}, ingress: [{from: [{}]}]}", vec![deny], "from[0]"),
        (
            "{podSelector: {}, ingress: [{ports: [{port: x y, endPort: 1}]}]}",
            vec![deny],
            "ports[0]",
        ),
        ("{podSelector: {}, ingress: [{from: {}}]}", vec![deny], "ingress[0].from"),
        ("{podSelector: {}, ingress: [{form: []}]}", vec![deny], "ingress[0].form"),
        ("{podSelector: {}, ingress: {}}", vec![deny], "spec.ingress"),
        ("{podSelector: {}, ingress: [{to: [{podSelector: {}}]}]}", vec![deny], "ingress[0].to"),
        ("{podSelector: {}, egress: {}, ingress: []}", vec![deny, out], "spec.egress"),
        ("{podSelector: {}, policyTypes: [Forward], egress: []}", vec![deny, out], "policyTypes"),
        ("{podSelector: {}, policyTypes: Egress}", vec![deny, out], "policyTypes"),
        ("open", vec![deny], "spec is not an object"),
        // Pods that may be meant are isolated; nothing passes to them, for they may be others than were meant.
        (
            "{podSelector: {matchLabels: {role: db}, matchExpressions: [{key: a, operator: Is}]}, ingress: [{}]}",
            vec![wide],
            "spec.podSelector.matchExpressions[0]",
        ),
        ("{podSelector: all, ingress: [{}]}", vec![deny], "spec.podSelector"),
    ] {
        let mut core = Core::new(Settings::default());
        core.kube_put(namespace("shop", "", ""));
        core.kube_put(object(&format!(
            "kind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}"
        )));
        assert_eq!(derived(&core, "p"), want, "{spec}");
        let all = told(&core, &Key::new(Sort::Policy, "shop", "p"));
        assert!(all.iter().any(|one| one.contains(place)), "{spec}: {all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_no_longer_understood_stops_to_let_pass_and_goes_when_it_is_deleted() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "", ""));
    let policy = |cidr: &str| {
        object(&format!(
            "kind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {{podSelector: {{}}, ingress: [{{from: [{{ipBlock: {{cidr: {cidr}}}}}]}}]}}"
        ))
    };
    bench.put(policy("192.0.2.0/24"));
    bench.settle().await;
    assert_eq!(policy_rules(&bench, "k8s-shop-p").await.len(), 1);
    bench.put(policy("192.0.2.0/240"));
    bench.settle().await;
    assert_eq!(policy_rules(&bench, "k8s-shop-p").await, []);
    let denial = "default-policy-management:shop-ingress-p-denyall";
    bench.must(Kind::FIREWALL_RULE, denial).await;
    assert_eq!(bench.reasons(), ["BadPolicy"]);
    let notice = &bench.notices[0];
    assert_eq!(notice.key, Key::new(Sort::Policy, "shop", "p"));
    assert!(notice.problem.message.contains("spec.ingress[0].from[0].ipBlock.cidr"));
    // What cannot be read can be deleted.
    bench.core.kube_delete(&policy("192.0.2.0/240"));
    bench.settle().await;
    assert!(bench.get(Kind::FIREWALL_RULE, denial).await.is_none());
    assert!(
        bench.get(Kind::FIREWALL_POLICY, "default-policy-management:k8s-shop-p").await.is_none()
    );
    assert_eq!(bench.log, Vec::<String>::new());
}

#[test]
fn a_selector_that_tags_cannot_say_becomes_one_tag_on_the_pods_it_fits() {
    let spec = "{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [cache, db]}]}, ingress: []}";
    let lines = table(spec);
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("> namespace=shop&selector-"), "{lines:?}");
    // The order in which it is written makes no difference.
    assert_eq!(lines, table(&spec.replace("[cache, db]", "[db, cache]")));
    assert_ne!(lines, table(&spec.replace("[cache, db]", "[db]")));
    // Capitals: tag types have none.
    let capital = table("{podSelector: {matchLabels: {App: x}}, ingress: []}");
    assert!(capital[0].contains("selector-"), "{capital:?}");
    // One value in a list is an equality.
    let one = table(
        "{podSelector: {matchExpressions: [{key: role, operator: In, values: [db]}]}, ingress: []}",
    );
    assert_eq!(one, ["deny any any > namespace=shop&role=db @endpoint-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_carry_the_tags_of_the_selectors_that_fit_them() {
    let mut bench = Bench::new().await;
    bench.put(namespace("default", "", ""));
    bench.put(namespace("shop", "team: red", ""));
    bench.put(pod("shop", "a", "tier: web", ""));
    bench.put(pod("shop", "b", "tier: db, team: red", ""));
    bench.settle().await;
    bench.yaml(
        "kind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec:\n  podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [db]}]}\n  ingress: [{from: [{namespaceSelector: {matchLabels: {team: red}}}]}]",
    );
    bench.settle().await;
    let tags = |bench: &Bench, pod: &str| {
        let graph = bench.core.graph();
        let mut ports = graph.of_kind(Kind::VIRTUAL_MACHINE_INTERFACE);
        let port = ports.find(|port| port.name().starts_with(&format!("{pod}__"))).unwrap();
        bench.targets(port, Kind::TAG)
    };
    assert_eq!(tags(&bench, "a").len(), 3, "{:?}", tags(&bench, "a"));
    assert_eq!(tags(&bench, "b"), ["namespace=shop", "team=red"]);
    // Now pods are selected by the same key: a pod's own label must not pass for its namespace's.
    bench.yaml(
        "kind: NetworkPolicy\nmetadata: {name: q, namespace: shop}\nspec: {podSelector: {matchLabels: {team: red}}, ingress: []}",
    );
    bench.settle().await;
    let (a, b) = (tags(&bench, "a"), tags(&bench, "b"));
    assert!(!a.contains(&"team=red".to_owned()), "{a:?}");
    assert!(b.contains(&"team=red".to_owned()), "{b:?}");
    assert!(
        a.iter().any(|tag| tag.starts_with("selector-") && tag.ends_with("=namespaces")),
        "{a:?}"
    );
    assert!(
        b.iter().any(|tag| tag.starts_with("selector-") && tag.ends_with("=namespaces")),
        "{b:?}"
    );
    assert_eq!(bench.log, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_share_a_controller() {
    let mut one = Bench::new().await;
    let policy = "kind: NetworkPolicy\nmetadata: {name: p, namespace: default}\nspec: {podSelector: {matchLabels: {role: db}}, ingress: []}";
    one.put(namespace("default", "", ""));
    one.put(pod("default", "db", "role: db", ""));
    one.yaml(policy);
    one.settle().await;
    let before = one.names(Kind::FIREWALL_RULE);
    let first: Vec<_> = one.core.cache().pods.keys().cloned().collect();
    // Another manager with another cluster, same names of everything.
    let settings = Settings { cluster_name: "east".into(), ..Settings::default() };
    one.restart(settings, vec![namespace("default", "", ""), object("kind: Pod\nmetadata: {name: db, namespace: default, labels: {role: db}, uid: 7b1d64c8-0000-4000-8000-00000000000e}\nspec: {nodeName: node-9}"), object(policy)]);
    one.settle().await;
    assert_eq!(one.log, Vec::<String>::new());
    one.must(Kind::VIRTUAL_MACHINE, "east__default__db").await;
    one.must(Kind::VIRTUAL_MACHINE, "k8s__default__db").await;
    one.must(Kind::APPLICATION_POLICY_SET, "default-policy-management:east").await;
    // The rule's name has no cluster in it: the second one's says more, and the first one's stays.
    for name in &before {
        one.must(Kind::FIREWALL_RULE, name).await;
    }
    let rules = one.names(Kind::FIREWALL_RULE);
    let taken: Vec<&String> =
        rules.iter().filter(|name| name.contains("default-ingress-p-denyall")).collect();
    assert_eq!(taken.len(), 2, "{rules:?}");
    assert_eq!(first.len(), 1);
    // And the first comes back to find everything as it left it.
    let before = one.writes;
    one.restart(
        Settings::default(),
        vec![namespace("default", "", ""), pod("default", "db", "role: db", ""), object(policy)],
    );
    one.settle().await;
    assert_eq!(one.writes, before);
}

#[test]
fn the_cluster_wide_action_is_a_switch() {
    let settings = Settings { cluster_wide_policy_action: true, ..Settings::default() };
    let mut core = Core::new(settings);
    core.kube_put(namespace("shop", "", ""));
    core.kube_put(object("kind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\nspec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}"));
    assert_eq!(
        derived(&core, "p"),
        ["pass any namespace=shop > any @both", "deny any namespace=shop > any @both"]
    );
}

#[test]
fn administrators_policies_come_before_and_after_the_others() {
    let mut core = Core::new(Settings::default());
    core.kube_put(namespace("shop", "", ""));
    core.kube_put(object(
        "kind: ClusterNetworkPolicy\nmetadata: {name: guard}\nspec:\n  tier: Admin\n  priority: 7\n  subject: {namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}\n  ingress:\n  - {name: a, action: Accept, from: [{namespaces: {matchLabels: {team: ops}}}], protocols: [{tcp: {destinationPort: {number: 22}}}]}\n  - {name: b, action: Pass, from: [{pods: {namespaceSelector: {}, podSelector: {matchLabels: {app: web}}}}]}\n  - {name: c, action: Deny, from: [{namespaces: {}}]}\n  egress:\n  - {name: d, action: Deny, to: [{networks: [10.0.0.0/8]}]}",
    ));
    let key = Key::new(Sort::Admin, "ClusterNetworkPolicy", "guard");
    let out = core.derive(&key);
    let lines: Vec<String> = out
        .objects
        .iter()
        .filter(|o| o.kind == Kind::FIREWALL_RULE)
        .map(|o| line(&o.properties.iter().map(|(k, v)| (k.clone(), v.clone())).collect()))
        .collect();
    assert_eq!(
        lines,
        [
            "pass tcp:22 team=ops > namespace=shop @endpoint-2",
            "skip any app=web > namespace=shop @endpoint-2",
            "deny any selector-all=namespaces > namespace=shop @endpoint-2",
            "deny any namespace=shop > AG 10.0.0.0/8 @endpoint-1",
        ]
    );
    let policy = out.objects.iter().find(|o| o.kind == Kind::FIREWALL_POLICY).unwrap();
    assert_eq!(policy.properties["policy_tier"], "admin");
    let place = out.links[0].attr["sequence"].as_str().unwrap();
    assert!(place.starts_with("00001.0007"), "{place}");
    // The older forms say the same.
    core.kube_put(object(
        "kind: BaselineAdminNetworkPolicy\nmetadata: {name: default}\nspec:\n  subject: {namespaces: {}}\n  ingress:\n  - {action: Deny, from: [{namespaces: {}}], ports: [{portNumber: {protocol: TCP, port: 80}}, {namedPort: http}]}\n  egress:\n  - {action: Allow, to: [{domainNames: ['*.example.com']}]}",
    ));
    let out = core.derive(&Key::new(Sort::Admin, "BaselineAdminNetworkPolicy", "default"));
    assert_eq!(out.problems.len(), 1, "domain names are refused aloud");
    assert!(out.links[0].attr["sequence"].as_str().unwrap().starts_with("99998.5"));
}

#[test]
fn administrators_policies_fail_closed() {
    let me = "namespace=shop";
    let ops = "team=ops";
    let subject = "{namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}";
    let from = "from: [{namespaces: {matchLabels: {team: ops}}}]";
    let whole = "selector-all=namespaces";
    let cases: Vec<(&str, String, Vec<String>, &str)> = vec![
        // Ports of a denial that are not understood may be any.
        (
            subject,
            format!("{{action: Deny, {from}, protocols: [{{tcp: {{destinationPort: {{number: 22}}}}}}, {{tcp: {{destinationPort: {{number: 70000}}}}}}]}}"),
            vec![format!("deny any {ops} > {me} @endpoint-2")],
            "ingress[0].protocols[1]",
        ),
        (
            subject,
            format!("{{action: Deny, {from}, ports: [{{portRange: {{start: 90, end: 80}}}}]}}"),
            vec![format!("deny any {ops} > {me} @endpoint-2")],
            "ingress[0].ports[0]",
        ),
        // Its peers may be anyone.
        (
            subject,
            "{action: Deny, from: [{namespaces: {matchExpressions: [{key: a, operator: Is}]}}], ports: [{portNumber: {port: 80}}]}".into(),
            vec![format!("deny tcp:80 any > {me} @endpoint-2")],
            "from[0].namespaces.matchExpressions[0]",
        ),
        (subject, "{action: Deny, from: []}".into(), vec![format!("deny any any > {me} @endpoint-2")], "from names nobody"),
        // What is accepted is what is understood.
        (
            subject,
            format!("{{action: Accept, {from}, ports: [{{portNumber: {{port: 80}}}}, {{portNumber: {{port: 0}}}}]}}"),
            vec![format!("pass tcp:80 {ops} > {me} @endpoint-2")],
            "ports[1]",
        ),
        (subject, "{action: Accept, from: [{sameLabels: [a]}]}".into(), vec![], "from[0] names neither"),
        // What is passed on, too; the rest is denied, or a later rule might accept it.
        (
            subject,
            "{action: Pass, from: [{namespaces: {matchLabels: {team: ops}}}, {}]}".into(),
            vec![format!("skip any {ops} > {me} @endpoint-2"), format!("deny any any > {me} @endpoint-2")],
            "from[1]",
        ),
        // A subject that is not understood is all that it may mean.
        (
            "{namespaces: {matchLabels: {team: red}, matchExpressions: [{key: a, operator: Is}]}}",
            format!("{{action: Deny, {from}}}"),
            vec![format!("deny any {ops} > team=red @endpoint-2")],
            "spec.subject.namespaces.matchExpressions[0]",
        ),
        ("{}", format!("{{action: Deny, {from}}}"), vec![format!("deny any {ops} > {whole} @endpoint-2")], "spec.subject names neither"),
        ("{}", format!("{{action: Pass, {from}}}"), vec![format!("deny any {ops} > {whole} @endpoint-2")], "spec.subject"),
        ("{}", format!("{{action: Accept, {from}}}"), vec![], "spec.subject"),
    ];
    for (subject, rule, want, place) in cases {
        let mut core = Core::new(Settings::default());
        core.kube_put(namespace("shop", "", ""));
        core.kube_put(object(&format!(
            "kind: ClusterNetworkPolicy\nmetadata: {{name: guard}}\nspec: {{tier: Admin, priority: 7, subject: {subject}, ingress: [{rule}]}}"
        )));
        let key = Key::new(Sort::Admin, "ClusterNetworkPolicy", "guard");
        let lines: Vec<String> = core
            .derive(&key)
            .objects
            .iter()
            .filter(|o| o.kind == Kind::FIREWALL_RULE)
            .map(|o| line(&o.properties.iter().map(|(k, v)| (k.clone(), v.clone())).collect()))
            .collect();
        assert_eq!(lines, want, "{subject} {rule}");
        let all = told(&core, &key);
        assert!(all.len() == 1 && all[0].contains(place), "{subject} {rule}: {all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_policy_is_in_no_list_that_is_in_force_and_its_writer_is_told() {
    let mut bench = Bench::new().await;
    bench.put(namespace("shop", "", ""));
    bench.put(pod("shop", "db", "role: db", ""));
    let policy = |annotation: &str| {
        format!(
            "kind: NetworkPolicy\nmetadata: {{name: p, namespace: shop, annotations: {{{annotation}}}}}\n\
             spec: {{podSelector: {{matchLabels: {{role: db}}}}, ingress: [{{ports: [{{port: 80}}]}}]}}"
        )
    };
    bench.yaml(&policy("skein.io/staged: 'true'"));
    bench.settle().await;
    let staged = |object: &Object| object.properties.get("staged") == Some(&Value::Bool(true));
    let denies = "k8s-shop-p-staged-denyall";
    for name in ["k8s-shop-p", denies] {
        let made =
            bench.must(Kind::FIREWALL_POLICY, &format!("default-policy-management:{name}")).await;
        assert!(staged(&made), "{made:?}");
    }
    assert_eq!(policy_rules(&bench, "k8s-denyall").await, []);
    assert_eq!(policy_rules(&bench, denies).await.len(), 1);
    // Behind what denies, before what allows everything.
    let set = bench.must(Kind::APPLICATION_POLICY_SET, "default-policy-management:k8s").await;
    let mut order: Vec<(String, String)> = set
        .references_to(Kind::FIREWALL_POLICY)
        .map(|r| {
            let name = bench.core.graph().get(r.uuid).unwrap().name().to_owned();
            (r.attr["sequence"].as_str().unwrap().to_owned(), name)
        })
        .collect();
    order.sort();
    let order: Vec<&str> = order.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(order, ["k8s-Ingress", "k8s-shop-p", "k8s-denyall", denies, "k8s-allowall"]);

    // What controllers write there becomes an Event.
    let made =
        bench.must(Kind::FIREWALL_POLICY, &format!("default-policy-management:{denies}")).await;
    let report = serde_json::json!({"staged_report": {
        "would_deny": 37, "would_allow": 0, "examples": ["would deny 10.1.1.1 -> 10.1.1.2 tcp 81"],
    }});
    bench.client.update(Kind::FIREWALL_POLICY, made.uuid, report).await.unwrap();
    bench.settle().await;
    let told: Vec<_> =
        bench.notices.drain(..).map(|n| (n.problem.reason, n.problem.message)).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "StagedPolicy");
    assert!(told[0].1.contains("at least 20") && told[0].1.contains("10.1.1.2 tcp 81"), "{told:?}");

    // In force: what was staged goes, the deny is where denies are.
    bench.yaml(&policy(""));
    bench.settle().await;
    assert_eq!(policy_rules(&bench, "k8s-denyall").await.len(), 1);
    assert_eq!(
        bench.get(Kind::FIREWALL_POLICY, &format!("default-policy-management:{denies}")).await,
        None
    );
    let made = bench.must(Kind::FIREWALL_POLICY, "default-policy-management:k8s-shop-p").await;
    assert!(!staged(&made));

    // What is not understood is not put into force.
    bench.yaml(&policy("skein.io/staged: 'perhaps'"));
    bench.settle().await;
    assert_eq!(bench.reasons(), ["BadAnnotation"]);
    assert_eq!(policy_rules(&bench, "k8s-denyall").await, []);
}
