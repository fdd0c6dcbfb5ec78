//! Policies by hand: the traps of conformance suites, and what the original got wrong.
//!
//! They say no results: those are the oracle's, for every connection.

#![allow(clippy::needless_pass_by_value, reason = "json! reads better where it is passed")]

use crate::oracle::World;
use serde_json::{Value, json};

/// A name, and the policies that hold at one time.
pub(crate) type Case = (&'static str, Vec<Value>);

fn np(namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

fn is(key: &str, value: &str) -> Value {
    json!({"matchLabels": {key: value}})
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
    let mut one = json!({"key": key, "operator": operator});
    if !values.is_empty() {
        one["values"] = json!(values);
    }
    json!({"matchExpressions": [one]})
}

/// What comes in to the selected pods of x.
fn to(subject: Value, rules: Value) -> Value {
    np("x", "to", json!({"podSelector": subject, "policyTypes": ["Ingress"], "ingress": rules}))
}

/// What goes out from the selected pods of x.
fn out(subject: Value, rules: Value) -> Value {
    np("x", "out", json!({"podSelector": subject, "policyTypes": ["Egress"], "egress": rules}))
}

fn deny(namespace: &str, types: Value) -> Value {
    np(namespace, "deny", json!({"podSelector": {}, "policyTypes": types}))
}

/// All cases, for pods with these addresses.
pub(crate) fn cases(world: &World) -> Vec<Case> {
    [whole_namespaces(), selectors(), labels(), ports(), blocks(world), together()].concat()
}

/// Deny-all, allow-all, and what of policyTypes is left out.
fn whole_namespaces() -> Vec<Case> {
    let all = || json!({});
    vec![
        ("nothing comes in", vec![deny("x", json!(["Ingress"]))]),
        ("nothing goes out", vec![deny("x", json!(["Egress"]))]),
        ("neither in nor out", vec![deny("x", json!(["Ingress", "Egress"]))]),
        ("neither in nor out, anywhere", {
            ["x", "y", "z"].map(|one| deny(one, json!(["Ingress", "Egress"]))).into()
        }),
        ("everything comes in", vec![to(all(), json!([{}]))]),
        ("everything goes out", vec![out(all(), json!([{}]))]),
        ("an empty list of rules closes", vec![to(all(), json!([]))]),
        ("an empty list of peers and ports is everyone", {
            vec![to(all(), json!([{"from": [], "ports": []}]))]
        }),
        (
            "types are told by what is there: in only",
            vec![np("x", "p", json!({"podSelector": {}}))],
        ),
        ("types are told by what is there: both", {
            vec![np(
                "x",
                "p",
                json!({"podSelector": {}, "egress": [{"to": [{"podSelector": {}}]}]}),
            )]
        }),
        ("rules of a direction that is not named mean nothing", {
            let spec = json!({
                "podSelector": {}, "policyTypes": ["Egress"],
                "ingress": [{"from": [{"podSelector": is("pod", "a")}]}], "egress": [{}],
            });
            vec![np("x", "p", spec)]
        }),
        // The guide's scenarios: each end decides for itself.
        (
            "all may leave, none may enter",
            vec![out(all(), json!([{}])), deny("x", json!(["Ingress"]))],
        ),
        (
            "all may enter, none may leave",
            vec![to(all(), json!([{}])), deny("x", json!(["Egress"]))],
        ),
    ]
}

fn selectors() -> Vec<Case> {
    let a = || is("pod", "a");
    let from = |peers: Value| vec![to(is("pod", "a"), json!([{ "from": peers }]))];
    vec![
        ("subjects by one of several values", {
            vec![to(expression("pod", "In", &["a", "c"]), json!([]))]
        }),
        ("subjects by none of several values", {
            vec![to(expression("pod", "NotIn", &["a", "c"]), json!([]))]
        }),
        ("subjects by a label they have", vec![to(expression("tier", "Exists", &[]), json!([]))]),
        (
            "subjects by a label they lack",
            vec![to(expression("tier", "DoesNotExist", &[]), json!([]))],
        ),
        ("a label that is absent is in no list", {
            vec![to(expression("tier", "NotIn", &["db"]), json!([]))]
        }),
        ("labels and expressions are all needed", {
            let both = json!({
                "matchLabels": {"tier": "db"},
                "matchExpressions": [{"key": "pod", "operator": "In", "values": ["a", "b"]}],
            });
            vec![to(both, json!([]))]
        }),
        ("a selector that contradicts itself selects nobody", {
            let none = json!({
                "matchLabels": {"pod": "a"},
                "matchExpressions": [{"key": "pod", "operator": "In", "values": ["b"]}],
            });
            vec![to(none, json!([])), out(a(), json!([]))]
        }),
        (
            "pods of a label come in, from the own namespace",
            from(json!([{"podSelector": is("pod", "b")}])),
        ),
        ("all pods of the own namespace come in", from(json!([{"podSelector": {}}]))),
        ("all pods of all namespaces come in", from(json!([{"namespaceSelector": {}}]))),
        ("a namespace comes in", from(json!([{"namespaceSelector": is("ns", "y")}]))),
        ("pods of a label in a namespace: one peer", {
            from(json!([{"namespaceSelector": is("ns", "y"), "podSelector": is("pod", "b")}]))
        }),
        ("pods of a label or a namespace: two peers", {
            from(json!([{"namespaceSelector": is("ns", "y")}, {"podSelector": is("pod", "b")}]))
        }),
        ("peers by several values", {
            from(json!([{
                "namespaceSelector": {}, "podSelector": expression("pod", "In", &["b", "c"]),
            }]))
        }),
        ("namespaces by expressions", {
            from(json!([{"namespaceSelector": expression("ns", "NotIn", &["x", "y"])}]))
        }),
        ("namespaces by a label they have, pods by one they lack", {
            from(json!([{
                "namespaceSelector": expression("team", "Exists", &[]),
                "podSelector": expression("team", "DoesNotExist", &[]),
            }]))
        }),
        ("several labels are all needed", {
            let both = json!({"matchLabels": {"tier": "db", "team": "red"}});
            from(json!([{"namespaceSelector": {}, "podSelector": both}]))
        }),
        ("several rules add up", {
            let rules = json!([
                {"from": [{"podSelector": is("pod", "b")}]},
                {"from": [{"namespaceSelector": is("ns", "z")}]},
            ]);
            vec![to(a(), rules)]
        }),
        ("the same peer twice is one", {
            from(json!([{"podSelector": is("pod", "b")}, {"podSelector": is("pod", "b")}]))
        }),
    ]
}

/// Labels that are easily mistaken.
fn labels() -> Vec<Case> {
    let from = |peers: Value| vec![to(is("pod", "a"), json!([{ "from": peers }]))];
    let everywhere = |pods: Value| json!([{"namespaceSelector": {}, "podSelector": pods}]);
    vec![
        (
            "a pod's label is not its namespace's",
            from(json!([{"namespaceSelector": is("team", "red")}])),
        ),
        ("a namespace's label is not its pods'", from(everywhere(is("team", "blue")))),
        ("both of one key", {
            from(
                json!([{"namespaceSelector": is("team", "blue"), "podSelector": is("team", "red")}]),
            )
        }),
        ("one selector for pods and for namespaces", {
            let any = || expression("team", "Exists", &[]);
            from(json!([{"namespaceSelector": any()}, {"podSelector": any()}]))
        }),
        ("a key with a domain", from(everywhere(is("example.com/role", "Front")))),
        ("a subject with such a key", {
            vec![to(expression("example.com/role", "Exists", &[]), json!([]))]
        }),
        ("an empty value", from(everywhere(is("example.com/role", "")))),
        (
            "an empty value of a namespace",
            from(json!([{"namespaceSelector": is("example.com/env", "")}])),
        ),
        ("capitals in a key", from(everywhere(is("App", "one")))),
        ("a key that tags use otherwise", from(everywhere(is("application", "k8s")))),
        (
            "such a key of the subject",
            vec![to(is("application", "k8s"), json!([])), out(is("tier", "web"), json!([]))],
        ),
        ("a namespace by its name", {
            from(json!([{"namespaceSelector": is("kubernetes.io/metadata.name", "y")}]))
        }),
        ("namespaces by their names, otherwise", {
            let names =
                |operator, values| expression("kubernetes.io/metadata.name", operator, values);
            from(json!([
                {"namespaceSelector": names("NotIn", &["x", "z"])},
                {"namespaceSelector": names("DoesNotExist", &[])},
            ]))
        }),
    ]
}

fn ports() -> Vec<Case> {
    let all = || json!({});
    let at = |ports: Value| vec![to(json!({}), json!([{ "ports": ports }]))];
    let away = |rule: Value| vec![out(json!({}), json!([rule]))];
    vec![
        ("a port without a protocol is TCP", at(json!([{"port": 80}]))),
        ("a protocol without a port is all of them", at(json!([{"protocol": "UDP"}]))),
        ("a port of SCTP", at(json!([{"protocol": "SCTP", "port": 80}]))),
        ("ports of several protocols", {
            at(
                json!([{"protocol": "UDP", "port": 81}, {"port": 80}, {"protocol": "SCTP", "port": 81}]),
            )
        }),
        ("a port by its name is each pod's own", at(json!([{"port": "door"}]))),
        ("a name is of a protocol, too", at(json!([{"protocol": "UDP", "port": "door"}]))),
        ("a name that no pod has opens nothing", at(json!([{"port": "nothing"}]))),
        ("a number and a name", at(json!([{"protocol": "UDP", "port": 80}, {"port": "door"}]))),
        ("a range", at(json!([{"port": 80, "endPort": 81}]))),
        ("out to a port by the target's name for it", {
            away(json!({"to": [{"namespaceSelector": {}}], "ports": [{"port": "door"}]}))
        }),
        ("out to whoever calls a port so", away(json!({"ports": [{"port": "door"}]}))),
        ("out to a namespace on a port, while the other side keeps its own rules", {
            let rule = json!({
                "to": [{"namespaceSelector": is("ns", "y")}], "ports": [{"protocol": "UDP", "port": 80}],
            });
            vec![out(is("pod", "a"), json!([rule]))]
        }),
        ("peers of a rule share its ports, rules do not", {
            let rules = json!([
                {"from": [{"podSelector": all()}], "ports": [{"port": 80}]},
                {"from": [{"namespaceSelector": is("ns", "z")}], "ports": [{"port": 81}]},
            ]);
            vec![to(all(), rules)]
        }),
    ]
}

fn blocks(world: &World) -> Vec<Case> {
    let address = |namespace: &str, pod: &str| {
        let found = world.pods.iter().find(|one| one.namespace == namespace && one.name == pod);
        found.map(|one| one.addresses[0].to_string()).unwrap_or_default()
    };
    let one = |namespace: &str, pod: &str| format!("{}/32", address(namespace, pod));
    let block = |cidr: &str, except: &[String]| {
        let mut block = json!({ "cidr": cidr });
        if !except.is_empty() {
            block["except"] = json!(except);
        }
        json!({ "ipBlock": block })
    };
    let from = |peers: Value| to(is("pod", "a"), json!([{ "from": peers }]));
    let pods = "10.244.0.0/16";
    vec![
        ("addresses come in but for one", vec![from(json!([block(pods, &[one("y", "b")])]))]),
        ("a hole is no deny: another peer of the rule may fill it", {
            vec![from(json!([
                block(pods, &[one("y", "b"), one("z", "c")]), {"namespaceSelector": is("ns", "y")},
            ]))]
        }),
        ("a hole is no deny: another policy may fill it", {
            let mut second = from(json!([block(&one("y", "b"), &[])]));
            second["metadata"]["name"] = json!("second");
            vec![from(json!([block(pods, &[one("y", "b")])])), second]
        }),
        ("every IPv4 address", vec![from(json!([block("0.0.0.0/0", &[])]))]),
        ("every IPv6 address", vec![from(json!([block("::/0", &[])]))]),
        ("a block that is all hole", {
            vec![from(json!([block("0.0.0.0/0", &["0.0.0.0/1".into(), "128.0.0.0/1".into()])]))]
        }),
        ("one address on one port", {
            let rule = json!({"from": [block(&one("z", "a"), &[])], "ports": [{"port": 81}]});
            vec![to(json!({}), json!([rule]))]
        }),
        ("out to addresses but for some", {
            let rule = json!({"to": [block(pods, &[one("y", "a"), one("x", "b")])]});
            vec![out(json!({}), json!([rule]))]
        }),
        // The guide's third scenario.
        ("out to an address whose own side lets nobody in", {
            let rule = json!({"to": [block(&one("x", "b"), &[])]});
            vec![out(is("pod", "a"), json!([rule])), to(is("pod", "b"), json!([]))]
        }),
    ]
}

/// Policies about the same pods, and about each other's.
fn together() -> Vec<Case> {
    vec![
        ("two policies add up", {
            let rule =
                json!({"from": [{"namespaceSelector": is("ns", "z")}], "ports": [{"port": 81}]});
            vec![deny("x", json!(["Ingress"])), to(is("pod", "a"), json!([rule]))]
        }),
        ("a policy selects no pod of another namespace", {
            vec![np("y", "own", json!({"podSelector": is("pod", "a"), "policyTypes": ["Ingress"]}))]
        }),
        ("one namespace lets out what the other lets in", {
            let y = json!({
                "podSelector": {}, "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"namespaceSelector": is("ns", "x"), "podSelector": is("pod", "b")}]}],
            });
            let rule = json!({"to": [{"namespaceSelector": is("ns", "y"), "podSelector": is("pod", "c")}]});
            vec![np("y", "in", y), out(json!({}), json!([rule]))]
        }),
        ("every namespace to itself", {
            let own = json!({
                "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": [{"podSelector": {}}]}], "egress": [{"to": [{"podSelector": {}}]}],
            });
            ["x", "y", "z"].map(|namespace| np(namespace, "own", own.clone())).into()
        }),
        ("everything closed, one door opened at both ends", {
            let mut all: Vec<Value> =
                ["x", "y", "z"].map(|one| deny(one, json!(["Ingress", "Egress"]))).into();
            let door = json!([{"protocol": "SCTP", "port": 81}]);
            let peer = |namespace: &str, pod: &str| json!([{"namespaceSelector": is("ns", namespace), "podSelector": is("pod", pod)}]);
            all.push(out(is("pod", "a"), json!([{"to": peer("z", "c"), "ports": door}])));
            let opened = json!({
                "podSelector": is("pod", "c"), "ingress": [{"from": peer("x", "a"), "ports": door}],
            });
            all.push(np("z", "in", opened));
            all
        }),
    ]
}

/// The types of administrators' policies, as far as the API server must know them.
pub(crate) fn definitions() -> Value {
    let one = |kind: &str, plural: &str, version: &str| {
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.policy.networking.k8s.io"),
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
            },
            "spec": {
                "group": "policy.networking.k8s.io", "scope": "Cluster",
                "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase()},
                "versions": [{
                    "name": version, "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    }},
                }],
            },
        })
    };
    json!({"apiVersion": "v1", "kind": "List", "items": [
        one("ClusterNetworkPolicy", "clusternetworkpolicies", "v1alpha2"),
        one("AdminNetworkPolicy", "adminnetworkpolicies", "v1alpha1"),
        one("BaselineAdminNetworkPolicy", "baselineadminnetworkpolicies", "v1alpha1"),
    ]})
}

fn admin(kind: &str, name: &str, spec: Value) -> Value {
    let version = if kind == "ClusterNetworkPolicy" { "v1alpha2" } else { "v1alpha1" };
    json!({
        "apiVersion": format!("policy.networking.k8s.io/{version}"), "kind": kind,
        "metadata": {"name": name}, "spec": spec,
    })
}

fn cluster(name: &str, tier: &str, priority: u32, ingress: Value) -> Value {
    let subject = json!({"namespaces": is("ns", "x")});
    let spec = json!({"tier": tier, "priority": priority, "subject": subject, "ingress": ingress});
    admin("ClusterNetworkPolicy", name, spec)
}

/// A name, policies of namespaces, and those of administrators.
pub(crate) type AdminCase = (&'static str, Vec<Value>, Vec<Value>);

pub(crate) fn admin_cases() -> Vec<AdminCase> {
    let space = |name: &str| json!([{"namespaces": is("ns", name)}]);
    let everyone = || json!([{"namespaces": {}}]);
    let tcp = |port: u16| json!([{"tcp": {"destinationPort": {"number": port}}}]);
    let open = || to(json!({}), json!([{}]));
    let shut = || deny("x", json!(["Ingress"]));
    vec![
        ("an administrator's deny comes before a namespace's allow", vec![open()], {
            vec![cluster("no-y", "Admin", 5, json!([{"action": "Deny", "from": space("y")}]))]
        }),
        ("an administrator's accept comes before a namespace's deny", vec![shut()], {
            let rule = json!({"action": "Accept", "from": space("z"), "protocols": tcp(80)});
            vec![cluster("z-80", "Admin", 5, json!([rule]))]
        }),
        (
            "what is passed on, namespaces decide",
            { vec![to(json!({}), json!([{"ports": [{"port": 80}]}]))] },
            {
                let some =
                    json!([{"pods": {"namespaceSelector": {}, "podSelector": is("pod", "b")}}]);
                let rules = json!([
                    {"action": "Pass", "from": some}, {"action": "Deny", "from": everyone()},
                ]);
                vec![cluster("pass-b", "Admin", 5, rules)]
            },
        ),
        (
            "the baseline is for pods that no policy is about",
            { vec![to(is("pod", "a"), json!([{"from": [{"namespaceSelector": is("ns", "y")}]}]))] },
            {
                vec![cluster(
                    "base",
                    "Baseline",
                    5,
                    json!([{"action": "Deny", "from": everyone()}]),
                )]
            },
        ),
        ("a lower priority comes first", vec![], {
            let rule = |action: &str| json!([{"action": action, "from": space("y")}]);
            vec![
                cluster("later", "Admin", 20, rule("Deny")),
                cluster("first", "Admin", 3, rule("Accept")),
                cluster("base", "Baseline", 1, json!([{"action": "Deny", "from": everyone()}])),
            ]
        }),
        ("the older forms", vec![shut()], {
            let subject = json!({"pods": {"namespaceSelector": is("ns", "x"), "podSelector": is("pod", "a")}});
            let rules = json!([
                {"action": "Allow", "from": everyone(), "ports": [{"namedPort": "door"}]},
                {"action": "Allow", "from": everyone(), "ports": [
                    {"portNumber": {"protocol": "SCTP", "port": 80}},
                    {"portRange": {"protocol": "UDP", "start": 81, "end": 90}},
                ]},
            ]);
            let baseline = json!({
                "subject": {"namespaces": is("ns", "y")},
                "egress": [{"action": "Deny", "to": [{"networks": ["10.244.0.0/16"]}]}],
            });
            vec![
                admin(
                    "AdminNetworkPolicy",
                    "old",
                    json!({
                        "priority": 7, "subject": subject, "ingress": rules,
                    }),
                ),
                admin("BaselineAdminNetworkPolicy", "default", baseline),
            ]
        }),
    ]
}

/// What administrators say about nodes, by their labels. Only ways out may name them.
pub(crate) fn node_cases() -> Vec<(&'static str, Vec<Value>)> {
    let host =
        |names: &[&str]| json!([{"nodes": expression("kubernetes.io/hostname", "In", names)}]);
    let everyone = || json!({"namespaces": {}});
    let named = |name: &str, tier: &str, priority: u32, subject: Value, egress: Value| {
        let spec =
            json!({"tier": tier, "priority": priority, "subject": subject, "egress": egress});
        admin("ClusterNetworkPolicy", name, spec)
    };
    let subject = || json!({"namespaces": is("ns", "x")});
    let port = || json!([{"udp": {"destinationPort": {"number": 7090}}}]);
    vec![
        ("pods of a namespace do not get to two nodes", {
            let rule = json!([{"action": "Deny", "to": host(&["node1", "node2"])}]);
            vec![named("not-nodes", "Admin", 5, subject(), rule)]
        }),
        ("nodes only, and of one only a port", {
            let rules = json!([
                {"action": "Accept", "to": host(&["node3"])},
                {"action": "Accept", "to": host(&["node1"]), "protocols": port()},
            ]);
            let shut = json!([{"action": "Deny", "to": [{"networks": ["0.0.0.0/0"]}]}]);
            vec![
                named("some-nodes", "Admin", 5, everyone(), rules),
                named("shut", "Baseline", 5, everyone(), shut),
            ]
        }),
    ]
}
