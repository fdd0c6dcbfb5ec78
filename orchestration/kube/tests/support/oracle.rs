//! What Kubernetes' API says about policies, written from its text and from nothing of ours.
//!
//! It reads objects as the API server keeps them, as JSON, and answers for one connection at a time, the slow way: who
//! is selected, is any policy about this direction, does any rule of any of them let it pass. It shares no code with
//! what is tested: not the selectors, not the prefixes, not the defaults.
//!
//! Beside it the one thing that Skein adds: namespaces that are isolated.
//!
//! Sources: the field descriptions of `networking.k8s.io/v1` NetworkPolicy and of `policy.networking.k8s.io` v1alpha1
//! and v1alpha2.

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

pub type Labels = BTreeMap<String, String>;

#[derive(Clone, Debug, Default)]
pub struct Namespace {
    pub name: String,
    pub labels: Labels,
    /// Pods of other namespaces do not reach its own, whatever policies say; its own reach out.
    pub isolated: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Pod {
    pub namespace: String,
    pub name: String,
    pub labels: Labels,
    pub addresses: Vec<IpAddr>,
    /// Name, protocol (`TCP`), number.
    pub ports: Vec<(String, String, u16)>,
}

/// A cluster as policies see it.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub namespaces: Vec<Namespace>,
    pub pods: Vec<Pod>,
    /// NetworkPolicies.
    pub policies: Vec<Value>,
    /// ClusterNetworkPolicies, AdminNetworkPolicies, BaselineAdminNetworkPolicies.
    pub admin: Vec<Value>,
}

/// One end of a connection, by one of its addresses.
#[derive(Clone, Copy, Debug)]
pub enum End<'w> {
    Pod(&'w Pod, IpAddr),
    /// A node with these labels.
    Node(&'w Labels, IpAddr),
    Outside(IpAddr),
}

impl End<'_> {
    fn address(self) -> IpAddr {
        match self {
            End::Pod(_, address) | End::Node(_, address) | End::Outside(address) => address,
        }
    }
}

/// What is asked for: protocol (`TCP`) and destination port.
pub type Door<'a> = (&'a str, u16);

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Ingress,
    Egress,
}

/// Whether a connection may be opened: the source's side lets it out and the destination's side lets it in. A pod is
/// never kept from itself.
pub fn allowed(world: &World, from: End<'_>, to: End<'_>, door: Door<'_>) -> bool {
    if let (End::Pod(a, _), End::Pod(b, _)) = (from, to)
        && (&a.namespace, &a.name) == (&b.namespace, &b.name)
    {
        return true;
    }
    if let (End::Pod(a, _), End::Pod(b, _)) = (from, to)
        && a.namespace != b.namespace
        && world.namespaces.iter().any(|one| one.name == b.namespace && one.isolated)
    {
        return false;
    }
    let leaves = match from {
        End::Pod(pod, _) => side(world, pod, to, to, door, Way::Egress),
        End::Node(..) | End::Outside(_) => true,
    };
    let enters = match to {
        End::Pod(pod, _) => side(world, pod, from, to, door, Way::Ingress),
        End::Node(..) | End::Outside(_) => true,
    };
    leaves && enters
}

/// One pod's side: the tiers in their order.
fn side(world: &World, pod: &Pod, peer: End<'_>, to: End<'_>, door: Door<'_>, way: Way) -> bool {
    if let Some(verdict) = tier(world, pod, peer, to, door, way, true) {
        return verdict;
    }
    let mut isolated = false;
    for policy in &world.policies {
        let spec = &policy["spec"];
        if policy["metadata"]["namespace"] != pod.namespace.as_str()
            || !selects(&spec["podSelector"], &pod.labels)
            || !is_about(spec, way)
        {
            continue;
        }
        isolated = true;
        let rules = if way == Way::Ingress { &spec["ingress"] } else { &spec["egress"] };
        let peers = if way == Way::Ingress { "from" } else { "to" };
        let fits = |rule: &Value| {
            any_or_none(&rule[peers], |one| is_peer(world, one, &pod.namespace, peer))
                && any_or_none(&rule["ports"], |one| is_port(one, to, door))
        };
        if list(rules).iter().any(fits) {
            return true;
        }
    }
    !isolated && tier(world, pod, peer, to, door, way, false).unwrap_or(true)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// "If this field is empty or missing, this rule matches all", else any of the list.
fn any_or_none(value: &Value, fits: impl Fn(&Value) -> bool) -> bool {
    list(value).is_empty() || list(value).iter().any(fits)
}

/// policyTypes: "If this field is not specified, it will default based on the existence of ingress or egress rules;
/// policies that contain an egress section are assumed to affect egress, and all policies ... ingress."
fn is_about(spec: &Value, way: Way) -> bool {
    let types = list(&spec["policyTypes"]);
    if types.is_empty() {
        return way == Way::Ingress || !list(&spec["egress"]).is_empty();
    }
    types.iter().any(|one| one == if way == Way::Ingress { "Ingress" } else { "Egress" })
}

/// A label selector: all of matchLabels and all of matchExpressions; an empty one selects everything.
pub fn selects(selector: &Value, labels: &Labels) -> bool {
    let equal = selector["matchLabels"].as_object().is_none_or(|all| {
        all.iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str())
    });
    let expressed = list(&selector["matchExpressions"]).iter().all(|one| {
        let have = labels.get(one["key"].as_str().unwrap());
        let among = || list(&one["values"]).iter().any(|v| v.as_str() == have.map(String::as_str));
        match one["operator"].as_str().unwrap() {
            "In" => have.is_some() && among(),
            // "NotIn" is also true of what has no such label.
            "NotIn" => have.is_none() || !among(),
            "Exists" => have.is_some(),
            "DoesNotExist" => have.is_none(),
            other => panic!("operator {other}"),
        }
    });
    equal && expressed
}

/// Every namespace has its name as a label.
fn namespace_labels(world: &World, name: &str) -> Labels {
    let found = world.namespaces.iter().find(|one| one.name == name);
    let mut labels = found.map(|one| one.labels.clone()).unwrap_or_default();
    labels.insert("kubernetes.io/metadata.name".into(), name.to_owned());
    labels
}

fn is_peer(world: &World, peer: &Value, own_namespace: &str, end: End<'_>) -> bool {
    if let Some(block) = peer.get("ipBlock").filter(|v| !v.is_null()) {
        let address = end.address();
        return within(block["cidr"].as_str().unwrap(), address)
            && !list(&block["except"]).iter().any(|one| within(one.as_str().unwrap(), address));
    }
    let End::Pod(pod, _) = end else { return false };
    let given = |name: &str| peer.get(name).filter(|value| !value.is_null());
    let in_namespace = match given("namespaceSelector") {
        Some(selector) => selects(selector, &namespace_labels(world, &pod.namespace)),
        None => pod.namespace == own_namespace,
    };
    in_namespace && given("podSelector").is_none_or(|selector| selects(selector, &pod.labels))
}

fn is_port(port: &Value, to: End<'_>, door: Door<'_>) -> bool {
    if port["protocol"].as_str().unwrap_or("TCP") != door.0 {
        return false;
    }
    match &port["port"] {
        Value::Null => true,
        Value::String(name) => is_called(to, name, door),
        number => {
            let first = number.as_u64().unwrap();
            let last = port["endPort"].as_u64().unwrap_or(first);
            (first..=last).contains(&u64::from(door.1))
        }
    }
}

/// A named port is one of the destination's pod.
fn is_called(to: End<'_>, name: &str, door: Door<'_>) -> bool {
    let End::Pod(pod, _) = to else { return false };
    pod.ports.iter().any(|(n, p, number)| n == name && p == door.0 && *number == door.1)
}

/// Whether a prefix holds an address, bit by bit.
pub fn within(prefix: &str, address: IpAddr) -> bool {
    let (network, length) = prefix.split_once('/').unwrap();
    let length: usize = length.parse().unwrap();
    let bits = |address: IpAddr| -> Vec<u8> {
        match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    };
    let (a, b) = (bits(network.parse().unwrap()), bits(address));
    a.len() == b.len()
        && (0..length).all(|at| {
            let mask = 0x80 >> (at % 8);
            a[at / 8] & mask == b[at / 8] & mask
        })
}

/// What administrators' policies of a tier say; `None` when they leave it to the next.
fn tier(
    world: &World,
    pod: &Pod,
    peer: End<'_>,
    to: End<'_>,
    door: Door<'_>,
    way: Way,
    admin: bool,
) -> Option<bool> {
    let is_admin = |policy: &&Value| {
        let first = match policy["kind"].as_str().unwrap() {
            "AdminNetworkPolicy" => true,
            "BaselineAdminNetworkPolicy" => false,
            _ => policy["spec"]["tier"] == "Admin",
        };
        first == admin
    };
    let mut all: Vec<&Value> = world.admin.iter().filter(is_admin).collect();
    // "Policies with lower priority values have higher precedence."
    all.sort_by_key(|policy| policy["spec"]["priority"].as_u64().unwrap_or(0));
    for policy in all {
        let spec = &policy["spec"];
        if !is_subject(world, &spec["subject"], pod) {
            continue;
        }
        let (rules, peers) = match way {
            Way::Ingress => (&spec["ingress"], "from"),
            Way::Egress => (&spec["egress"], "to"),
        };
        for rule in list(rules) {
            let fits = list(&rule[peers]).iter().any(|one| is_admin_peer(world, one, peer))
                && any_or_none(&rule["ports"], |one| is_admin_port(one, to, door))
                && any_or_none(&rule["protocols"], |one| is_admin_port(one, to, door));
            if !fits {
                continue;
            }
            match rule["action"].as_str().unwrap() {
                "Accept" | "Allow" => return Some(true),
                "Deny" => return Some(false),
                "Pass" => return None,
                other => panic!("action {other}"),
            }
        }
    }
    None
}

pub fn is_subject(world: &World, subject: &Value, pod: &Pod) -> bool {
    let labels = namespace_labels(world, &pod.namespace);
    if let Some(selector) = subject.get("namespaces") {
        return selects(selector, &labels);
    }
    let pods = &subject["pods"];
    selects(&pods["namespaceSelector"], &labels) && selects(&pods["podSelector"], &pod.labels)
}

fn is_admin_peer(world: &World, peer: &Value, end: End<'_>) -> bool {
    if let Some(networks) = peer.get("networks") {
        return list(networks).iter().any(|one| within(one.as_str().unwrap(), end.address()));
    }
    if let Some(selector) = peer.get("nodes") {
        return matches!(end, End::Node(labels, _) if selects(selector, labels));
    }
    let End::Pod(pod, _) = end else { return false };
    is_subject(world, peer, pod)
}

fn is_admin_port(port: &Value, to: End<'_>, door: Door<'_>) -> bool {
    let between = |range: &Value| {
        let (first, last) = (range["start"].as_u64().unwrap(), range["end"].as_u64().unwrap());
        (first..=last).contains(&u64::from(door.1))
    };
    if let Some(name) = port.get("namedPort").or(port.get("destinationNamedPort")) {
        return is_called(to, name.as_str().unwrap(), door);
    }
    if let Some(one) = port.get("portNumber") {
        return one["protocol"] == door.0 && one["port"] == door.1;
    }
    if let Some(range) = port.get("portRange") {
        return range["protocol"].as_str().unwrap_or("TCP") == door.0 && between(range);
    }
    let Some(one) = port.get(door.0.to_lowercase()) else { return false };
    match one.get("destinationPort").filter(|v| !v.is_null()) {
        None => true,
        Some(port) => match port.get("range") {
            Some(range) => between(range),
            None => port["number"] == door.1,
        },
    }
}
