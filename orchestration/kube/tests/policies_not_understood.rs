//! Policies that are not understood: nothing passes by mistake, and every field in question is told.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use skein_kube::Settings;
use skein_kube::core::Core;
use skein_kube::key::{Key, Sort};
use skein_model::Kind;
use support::lines::{derived, line, policy_rules, told};
use support::{Bench, namespace, object};

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
