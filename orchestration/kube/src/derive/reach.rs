//! Networks that operators and users made, joined with the nodes' own: kubelets' probes reach the pods in them (docs/adr/0029).
//!
//! Nodes have one routing table, so no two networks that nodes reach may overlap. Who is reached already stays so.

use super::Context;
use super::nested;
use super::networks::{attached, prefixes};
use crate::desired::{Derived, Link};
use crate::key::{self, Key, Sort};
use ipnet::IpNet;
use serde_json::{Value, json};
use skein_model::{FqName, Kind, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the policies are, in the annotation `kind`.
pub(crate) const KIND: &str = "NodeReach";
/// Behind all policies of the network's operator.
const LAST: u32 = 1000;
/// What is told where a network is not joined.
pub(super) const REASON: &str = "NodesCannotReach";

/// What becomes of a network that pods live in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nodes reach it by a policy of ours.
    Joined,
    /// Nodes reach it anyway, or are not to.
    Left,
    /// Nodes do not, and why.
    Refused(String),
}

/// What became of the networks that pods live in.
#[derive(Debug, Default)]
pub struct ReachTable {
    joined: BTreeSet<FqName>,
    refused: BTreeMap<FqName, String>,
}

impl ReachTable {
    /// Takes a verdict down, none for a network without pods. True if it is another one.
    pub(crate) fn set(&mut self, network: &FqName, verdict: Option<Verdict>) -> bool {
        let before = (self.joined.remove(network), self.refused.remove(network));
        let after = match verdict {
            Some(Verdict::Joined) => {
                self.joined.insert(network.clone());
                (true, None)
            }
            Some(Verdict::Refused(why)) => {
                self.refused.insert(network.clone(), why.clone());
                (false, Some(why))
            }
            Some(Verdict::Left) | None => (false, None),
        };
        before != after
    }

    /// Networks that are not joined.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &FqName> {
        self.refused.keys()
    }

    /// All networks that were judged.
    pub(crate) fn judged(&self) -> impl Iterator<Item = &FqName> {
        self.joined.iter().chain(self.refused.keys())
    }

    /// Why nodes do not reach a network.
    pub(super) fn why_not(&self, network: &FqName) -> Option<&str> {
        self.refused.get(network).map(String::as_str)
    }
}

/// The owner of what joins a network.
pub(crate) fn key(network: &FqName) -> Key {
    Key::new(Sort::Reach, "", &network.to_string())
}

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let mut out = Derived::default();
    let network = FqName::parse(&key.name);
    if !cx.reach.joined.contains(&network) {
        return out;
    }
    let Some(object) = cx.graph.by_name(Kind::VIRTUAL_NETWORK, &network) else { return out };
    let nodes = nested::nodes(cx);
    let parts: Vec<&str> = network.parts().iter().skip(1).map(|part| &**part).collect();
    let usual = cx.names.shared_object(&format!("nodes-to-{}-np", parts.join("-")));
    let name = cx.free_name(key, Kind::NETWORK_POLICY, usual);
    // Who has a way outside by the nodes' addresses asks nodes as anybody there does.
    let outwards = object.properties.get("fabric_snat") == Some(&Value::Bool(true));
    let direction = if outwards || is_underlay(cx, object) { "<>" } else { ">" };
    let (from, to) = (std::slice::from_ref(&nodes), std::slice::from_ref(&network));
    out.objects.push(cx.network_policy(key, name.clone(), from, to, direction));
    let last = json!({"sequence": {"major": LAST, "minor": 0}});
    for (holder, attr) in [(network.clone(), last), (nodes, attached(name.clone()).attr)] {
        out.links.push(Link {
            holder: (Kind::VIRTUAL_NETWORK, holder),
            target: (Kind::NETWORK_POLICY, name.clone()),
            attr,
            optional: true,
        });
    }
    out
}

/// Whether nodes may reach a network that pods live in.
pub(crate) fn judge(cx: &Context<'_>, network: &FqName) -> Verdict {
    let allowed = &cx.settings.node_reach_subnets;
    let Some(object) = cx.graph.by_name(Kind::VIRTUAL_NETWORK, network) else {
        return Verdict::Left;
    };
    let own = prefixes(cx.graph, network);
    if allowed.is_empty() || own.is_empty() {
        return Verdict::Left;
    }
    let refused = |why: String| {
        let own: Vec<String> = own.iter().map(IpNet::to_string).collect();
        Verdict::Refused(format!(
            "nodes do not reach pods in {network} ({}), so probes other than exec fail: {why}",
            own.join(", ")
        ))
    };
    let outside = |net: &&IpNet| !allowed.iter().any(|allowed| allowed.contains(*net));
    if let Some(net) = own.iter().find(outside) {
        return refused(format!(
            "{net} is not in node_reach_subnets; use another prefix, or have it added to the manager's settings"
        ));
    }
    let nodes = nested::nodes(cx);
    let around = Around::of(cx, &nodes, network);
    if around.joined_otherwise {
        return Verdict::Left;
    }
    let advice = "use another prefix for one of them";
    if let Some((what, net)) = fixed(cx, is_underlay(cx, object), &own) {
        return refused(format!("it overlaps with {net}, {what}; {advice}"));
    }
    let holds = around.joined || cx.reach.joined.contains(network);
    for (other, by_us) in &around.others {
        let keeps = !by_us || !holds || other < network;
        if keeps && let Some(net) = overlap(&own, &prefixes(cx.graph, other)) {
            return refused(format!(
                "it overlaps with {other} ({net}), which nodes reach already; {advice}"
            ));
        }
    }
    Verdict::Joined
}

/// The networks that nodes reach.
struct Around {
    /// This one, by a policy that is not of this kind.
    joined_otherwise: bool,
    /// This one, by a policy of this kind.
    joined: bool,
    /// Others, and whether that is by a policy of this kind, of whatever cluster.
    others: BTreeMap<FqName, bool>,
}

impl Around {
    fn of(cx: &Context<'_>, nodes: &FqName, network: &FqName) -> Self {
        let (mut joined_otherwise, mut joined) = (false, false);
        let mut others: BTreeMap<FqName, bool> = BTreeMap::new();
        let reached = cx.reach.joined.iter().filter(|other| *other != network);
        others.extend(reached.map(|other| (other.clone(), true)));
        let center = cx.graph.by_name(Kind::VIRTUAL_NETWORK, nodes);
        for policy in center.into_iter().flat_map(|c| c.references_to(Kind::NETWORK_POLICY)) {
            let Some(policy) = cx.graph.get(policy.uuid) else { continue };
            let by_us = key::annotation(policy, "kind") == Some(KIND);
            for holder in cx.graph.back_references_from(policy.uuid, Kind::VIRTUAL_NETWORK) {
                if holder.fq_name == *nodes {
                    continue;
                }
                if holder.fq_name == *network {
                    joined |= by_us;
                    joined_otherwise |= !by_us && joins(policy, nodes, network);
                    continue;
                }
                // Whoever is joined otherwise cannot make way.
                let entry = others.entry(holder.fq_name.clone()).or_insert(by_us);
                *entry &= by_us;
            }
        }
        Self { joined_otherwise, joined, others }
    }
}

/// Whether a policy passes something between two networks, as far as its rules name them.
fn joins(policy: &Object, one: &FqName, other: &FqName) -> bool {
    let names = |side: &Value, network: &FqName| {
        let text = network.to_string();
        let mut all = side.as_array().into_iter().flatten();
        all.any(|address| {
            let name = address.get("virtual_network").and_then(Value::as_str);
            name.is_some_and(|name| name == "any" || name == text)
        })
    };
    let rules = policy.properties.get("network_policy_entries").and_then(|e| e.get("policy_rule"));
    let mut rules = rules.and_then(Value::as_array).into_iter().flatten();
    rules.any(|rule| {
        let (sources, targets) = (&rule["src_addresses"], &rule["dst_addresses"]);
        (names(sources, one) && names(targets, other))
            || (names(sources, other) && names(targets, one))
    })
}

fn is_underlay(cx: &Context<'_>, network: &Arc<Object>) -> bool {
    let fabric = cx.graph.by_name(Kind::VIRTUAL_NETWORK, &cx.names.ip_fabric());
    fabric.is_some_and(|fabric| {
        network.references_to(Kind::VIRTUAL_NETWORK).any(|link| link.uuid == fabric.uuid)
    })
}

fn overlap(own: &[IpNet], others: &[IpNet]) -> Option<IpNet> {
    let meet = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    others.iter().find(|other| own.iter().any(|one| meet(one, other))).copied()
}

/// What nodes need for themselves and a network overlaps with.
fn fixed(cx: &Context<'_>, underlay: bool, own: &[IpNet]) -> Option<(&'static str, IpNet)> {
    let settings = cx.settings;
    let lists = [
        ("the cluster's pods", &settings.pod_subnets),
        ("the cluster's services", &settings.service_subnets),
    ];
    for (what, list) in lists {
        if let Some(net) = overlap(own, list) {
            return Some((what, net));
        }
    }
    // A network in the underlay has nodes' neighbours as its own, and is routed as they are.
    if underlay {
        return None;
    }
    if let Some(net) = overlap(own, &prefixes(cx.graph, &nested::nodes(cx))) {
        return Some(("the nodes' own network", net));
    }
    let nodes = cx.cache.nodes.values().flat_map(|node| node.addresses.iter().copied());
    let routers = cx.graph.of_kind(Kind::VIRTUAL_ROUTER).filter_map(|router| {
        router.properties.get("virtual_router_ip_address")?.as_str()?.parse().ok()
    });
    let nodes: Vec<IpNet> = nodes.chain(routers).map(IpNet::from).collect();
    if let Some(net) = overlap(own, &nodes) {
        return Some(("a node's address", net));
    }
    let (namespace, name) = (Arc::from("default"), Arc::from("kubernetes"));
    let servers = cx.cache.slices_of(&namespace, &name);
    let servers: Vec<IpNet> =
        servers.flat_map(|slice| &slice.endpoints).map(|e| IpNet::from(e.address)).collect();
    overlap(own, &servers).map(|net| ("the address of an API server", net))
}

impl Context<'_> {
    /// Tells whoever chose a network that nodes do not reach it.
    pub(super) fn tell_of_reach(&self, network: &FqName, out: &mut Derived) {
        if let Some(why) = self.reach.why_not(network) {
            out.problem(REASON, why.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_new_when_it_differs() {
        let (mut table, network) = (ReachTable::default(), FqName::parse("a:b:c"));
        let refused = |why: &str| Some(Verdict::Refused(why.into()));
        assert!(table.set(&network, Some(Verdict::Joined)));
        assert!(!table.set(&network, Some(Verdict::Joined)));
        assert!(table.set(&network, refused("one")));
        assert!(table.set(&network, refused("two")));
        assert!(!table.set(&network, refused("two")));
        assert_eq!(table.why_not(&network), Some("two"));
        assert!(table.set(&network, None));
        assert!(!table.set(&network, Some(Verdict::Left)));
        assert_eq!(table.judged().count(), 0);
    }
}
