//! Policies by chance: everything that the API has, in the mixtures that nobody would write by hand.
//!
//! Left out is what the API leaves open: a port by its name towards addresses, administrators' policies of equal priority.

use super::oracle::{Pod, World};
use serde_json::{Value, json};
use std::net::IpAddr;

/// A small generator (xorshift64*): all follows from one number.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Keys and values that pods carry, and some that none does.
pub const POD_LABELS: &[(&str, &[&str])] = &[
    ("pod", &["a", "b", "c", "nobody"]),
    ("tier", &["web", "db"]),
    ("team", &["red", "blue", "green"]),
    ("example.com/role", &["Front", "back", ""]),
    ("application", &["k8s", "other"]),
    ("App", &["one", "two"]),
];
/// The same of namespaces. Some keys are those of pods.
pub const NAMESPACE_LABELS: &[(&str, &[&str])] = &[
    ("ns", &["x", "y", "z", "nobody"]),
    ("team", &["red", "blue", "green"]),
    ("kubernetes.io/metadata.name", &["x", "y", "nobody"]),
    ("example.com/env", &["prod", ""]),
];

fn selector(random: &mut Random, labels: &[(&str, &[&str])]) -> Value {
    let mut out = json!({});
    let equalities = *random.pick(&[0, 0, 1, 1, 1, 2]);
    for _ in 0..equalities {
        let (key, values) = random.pick(labels);
        out["matchLabels"][*key] = json!(random.pick(values));
    }
    let expressions = *random.pick(&[0, 0, 0, 1, 1, 2]);
    for _ in 0..expressions {
        let (key, values) = random.pick(labels);
        let operator = *random.pick(&["In", "NotIn", "Exists", "DoesNotExist"]);
        let mut one = json!({"key": key, "operator": operator});
        if operator.ends_with("In") {
            let mut wanted: Vec<&str> = vec![*random.pick(values)];
            if random.one_in(2) {
                wanted.push(*random.pick(values));
            }
            wanted.dedup();
            one["values"] = json!(wanted);
        }
        let all = out.as_object_mut().unwrap();
        let list = all.entry("matchExpressions").or_insert_with(|| json!([]));
        list.as_array_mut().unwrap().push(one);
    }
    out
}

fn masked(address: IpAddr, length: u8) -> String {
    let text = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    };
    format!("{text}/{length}")
}

fn block(random: &mut Random, pods: &[Pod]) -> Value {
    let pod = random.pick(pods);
    let address = *random.pick(&pod.addresses);
    let lengths: &[u8] =
        if address.is_ipv4() { &[0, 16, 24, 28, 30, 31, 32] } else { &[0, 64, 120, 124, 127, 128] };
    let at = random.below(lengths.len());
    let mut block = json!({"cidr": masked(address, lengths[at])});
    let mut except = Vec::new();
    if at + 1 < lengths.len() {
        for _ in 0..*random.pick(&[0, 1, 1, 2]) {
            // The API demands that it lies within; most often another pod's, if the prefix is wide enough.
            let inside: Vec<IpAddr> = pods
                .iter()
                .flat_map(|pod| pod.addresses.iter().copied())
                .filter(|one| {
                    one.is_ipv4() == address.is_ipv4()
                        && masked(*one, lengths[at]) == masked(address, lengths[at])
                })
                .collect();
            let length = lengths[at + 1 + random.below(lengths.len() - at - 1)];
            except.push(masked(*random.pick(&inside), length));
        }
        except.dedup();
    }
    if !except.is_empty() {
        block["except"] = json!(except);
    }
    json!({ "ipBlock": block })
}

fn port(random: &mut Random, named: bool) -> Value {
    let protocol = *random.pick(&["TCP", "TCP", "UDP", "SCTP"]);
    let mut port = json!({});
    if protocol != "TCP" || random.one_in(2) {
        port["protocol"] = json!(protocol);
    }
    match random.below(if named { 6 } else { 4 }) {
        0 => {}
        1 | 2 => port["port"] = json!(random.pick(&[80, 81, 82])),
        3 => {
            port["port"] = json!(random.pick(&[1, 79, 80, 81]));
            port["endPort"] = json!(random.pick(&[81, 82, 65535]));
        }
        _ => port["port"] = json!(random.pick(&["door", "post", "gate", "nothing"])),
    }
    port
}

fn rule(random: &mut Random, pods: &[Pod], peers: &str) -> Value {
    let mut rule = json!({});
    let mut blocks = false;
    let count = *random.pick(&[0, 1, 1, 1, 2, 3]);
    let list: Vec<Value> = (0..count)
        .map(|_| match random.below(5) {
            0 => json!({"podSelector": selector(random, POD_LABELS)}),
            1 => json!({"namespaceSelector": selector(random, NAMESPACE_LABELS)}),
            2 | 3 => json!({
                "podSelector": selector(random, POD_LABELS),
                "namespaceSelector": selector(random, NAMESPACE_LABELS),
            }),
            _ => {
                blocks = true;
                block(random, pods)
            }
        })
        .collect();
    if !list.is_empty() {
        rule[peers] = json!(list);
    }
    let named = peers == "from" || !blocks;
    let ports: Vec<Value> =
        (0..*random.pick(&[0, 0, 1, 1, 2, 3])).map(|_| port(random, named)).collect();
    if !ports.is_empty() {
        rule["ports"] = json!(ports);
    }
    rule
}

/// A NetworkPolicy.
pub fn policy(random: &mut Random, world: &World, name: &str) -> Value {
    let namespace = &random.pick(&world.namespaces).name;
    let mut spec = json!({"podSelector": selector(random, POD_LABELS)});
    let types =
        *random.pick(&[&[][..], &["Ingress"][..], &["Egress"][..], &["Ingress", "Egress"][..]]);
    if !types.is_empty() {
        spec["policyTypes"] = json!(types);
    }
    for (field, peers) in [("ingress", "from"), ("egress", "to")] {
        if random.one_in(4) {
            continue;
        }
        let rules: Vec<Value> =
            (0..*random.pick(&[0, 1, 1, 2, 3])).map(|_| rule(random, &world.pods, peers)).collect();
        spec[field] = json!(rules);
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    })
}

fn admin_subject(random: &mut Random) -> Value {
    if random.one_in(2) {
        return json!({"namespaces": selector(random, NAMESPACE_LABELS)});
    }
    json!({"pods": {
        "namespaceSelector": selector(random, NAMESPACE_LABELS),
        "podSelector": selector(random, POD_LABELS),
    }})
}

/// An administrators' policy of any of the three types. `number` becomes its priority.
pub fn admin(random: &mut Random, world: &World, number: usize) -> Value {
    let kind =
        *random.pick(&["ClusterNetworkPolicy", "ClusterNetworkPolicy", "AdminNetworkPolicy"]);
    let old = kind == "AdminNetworkPolicy";
    let mut spec = json!({"priority": number, "subject": admin_subject(random)});
    if !old {
        spec["tier"] = json!(random.pick(&["Admin", "Baseline"]));
    }
    for (field, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules: Vec<Value> = (0..*random.pick(&[0, 1, 2, 3]))
            .map(|_| {
                let mut networks = false;
                let ends: Vec<Value> = (0..*random.pick(&[1, 1, 2]))
                    .map(|_| {
                        if peers == "to" && random.one_in(4) {
                            networks = true;
                            let one = block(random, &world.pods);
                            return json!({"networks": [one["ipBlock"]["cidr"]]});
                        }
                        admin_subject(random)
                    })
                    .collect();
                let accept = if old { "Allow" } else { "Accept" };
                let mut rule =
                    json!({"action": random.pick(&[accept, "Deny", "Deny", "Pass"]), peers: ends});
                let ports: Vec<Value> = (0..*random.pick(&[0, 0, 1, 2]))
                    .map(|_| admin_port(random, old, peers == "from" || !networks))
                    .collect();
                if !ports.is_empty() {
                    rule[if old { "ports" } else { "protocols" }] = json!(ports);
                }
                rule
            })
            .collect();
        if !rules.is_empty() {
            spec[field] = json!(rules);
        }
    }
    json!({
        "apiVersion": format!("policy.networking.k8s.io/{}", if old { "v1alpha1" } else { "v1alpha2" }),
        "kind": kind, "metadata": {"name": format!("admin-{number}")}, "spec": spec,
    })
}

fn admin_port(random: &mut Random, old: bool, named: bool) -> Value {
    let protocol = *random.pick(&["TCP", "TCP", "UDP", "SCTP"]);
    let number = *random.pick(&[80, 81, 82]);
    let lower = protocol.to_lowercase();
    match (random.below(if named { 4 } else { 3 }), old) {
        (0, true) => json!({"portRange": {"protocol": protocol, "start": 80, "end": number}}),
        (1 | 2, true) => json!({"portNumber": {"protocol": protocol, "port": number}}),
        (_, true) => json!({"namedPort": random.pick(&["door", "post", "gate"])}),
        (0, false) => {
            json!({lower: {"destinationPort": {"range": {"start": 80, "end": number}}}})
        }
        (1, false) => json!({lower: {}}),
        (2, false) => json!({lower: {"destinationPort": {"number": number}}}),
        (_, false) => json!({"destinationNamedPort": random.pick(&["door", "post", "gate"])}),
    }
}
