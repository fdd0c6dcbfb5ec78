//! Network policies: the guide's six examples exactly, and what the original gets wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::Value;
use skein_kube::Settings;
use skein_kube::core::Core;
use skein_kube::key::{Key, Sort};
use skein_model::{Kind, Object};
use support::lines::{derived, line, policy_rules, table};
use support::{Bench, namespace, object, pod};

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
