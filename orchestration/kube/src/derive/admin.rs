//! Policies of administrators as firewall objects, before and after those of namespaces.

use super::Context;
use super::firewall::{End, RuleSpec, rank};
use crate::desired::{Demand, Derived, Predicate, Ref};
use crate::key::Key;
use crate::objects::{AdminAction, AdminPeer, AdminPort, AdminRule, Subject, Tier};
use ipnet::IpNet;
use serde_json::json;
use skein_model::Kind;

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let Some(policy) = cx.cache.admin.get(&(key.namespace.clone(), key.name.clone())) else {
        return Derived::default();
    };
    let mut out = Derived::default();
    for problem in &policy.problems {
        out.problem("BadPolicy", problem.clone());
    }
    let short = match &*key.namespace {
        "AdminNetworkPolicy" => "anp",
        "BaselineAdminNetworkPolicy" => "banp",
        _ => "cnp",
    };
    let base = cx.names.of(&format!("{short}-{}", key.name));
    let subject = tags(cx, &policy.subject, &mut out);
    let mut references = Vec::new();
    for (way, rules) in [("ingress", &policy.ingress), ("egress", &policy.egress)] {
        for (at, rule) in rules.iter().enumerate() {
            let prefix = format!("{base}-{way}-{at}");
            add(cx, key, way, &prefix, rule, &subject, &mut references, &mut out);
        }
    }
    let name = cx.free_name(key, Kind::FIREWALL_POLICY, cx.names.policy_object(&base));
    let staged = cx.staged(&policy.meta, &mut out);
    let tier = if policy.tier == Tier::Admin { "admin" } else { "baseline" };
    out.objects.push(
        cx.owned(key, Kind::FIREWALL_POLICY, Some(Kind::POLICY_MANAGEMENT), name.clone(), &[])
            .set("policy_tier", tier)
            .set("staged", staged)
            .refer_with(Kind::FIREWALL_RULE, references),
    );
    let order = format!("{:04}{}", policy.priority, &rank(&base)[..5]);
    let place = match policy.tier {
        Tier::Admin => format!("00001.{order}"),
        // Behind what namespaces deny, before what the cluster allows.
        Tier::Baseline => format!("99998.5{order}"),
    };
    out.links.push(cx.placed(&name, &place));
    if staged {
        cx.report_staged(&[name], &mut out);
    }
    out
}

fn tags(cx: &Context<'_>, subject: &Subject, out: &mut Derived) -> Vec<String> {
    let mut list = Vec::new();
    if let Some(pods) = subject.pods.as_ref().filter(|pods| !pods.is_empty()) {
        list.extend(cx.tags.for_pods(pods));
    }
    // Every pod is in some namespace.
    if list.is_empty() || !subject.namespaces.is_empty() {
        list.extend(cx.tags.for_namespaces(&subject.namespaces));
    }
    let mut tags = Vec::new();
    for (tag, predicate) in list {
        let demand = Demand::Tag(tag.clone(), predicate);
        if !out.demands.contains(&demand) {
            out.demands.push(demand);
        }
        tags.push(tag);
    }
    tags.sort();
    tags
}

fn peers(cx: &Context<'_>, peer: &AdminPeer, out: &mut Derived) -> Vec<End> {
    match peer {
        AdminPeer::Everyone => vec![End::Any],
        AdminPeer::Pods(subject) => vec![End::Tags(tags(cx, subject, out))],
        AdminPeer::Networks(nets) => nets.iter().copied().map(End::Prefix).collect(),
        AdminPeer::Nodes(selector) => cx
            .cache
            .nodes
            .values()
            .filter(|node| selector.matches(&node.meta.labels))
            .flat_map(|node| {
                node.addresses.iter().map(|address| End::Prefix(IpNet::from(*address)))
            })
            .collect(),
    }
}

/// Protocol, ports, and the tag of pods that call them so.
type Ports = (&'static str, (u16, u16), Option<(String, Predicate)>);

fn ports(cx: &Context<'_>, rule: &AdminRule, out: &mut Derived) -> Vec<Ports> {
    if rule.ports.is_empty() {
        return vec![("any", (0, u16::MAX), None)];
    }
    let mut all = Vec::new();
    for port in &rule.ports {
        match port {
            AdminPort::Range(protocol, first, last) => all.push((*protocol, (*first, *last), None)),
            AdminPort::Named(name) => {
                for (protocol, capitals) in [("tcp", "TCP"), ("udp", "UDP"), ("sctp", "SCTP")] {
                    out.demands.push(Demand::PortName(capitals.into(), name.clone()));
                    for number in cx.cache.port_numbers(capitals, name) {
                        let predicate = Predicate::Port(capitals.into(), name.clone(), number);
                        let tag = (format!("port-{protocol}-{name}={number}"), predicate);
                        all.push((protocol, (number, number), Some(tag)));
                    }
                }
            }
        }
    }
    all
}

#[allow(clippy::too_many_arguments)] // one place, one call
fn add(
    cx: &Context<'_>,
    key: &Key,
    way: &str,
    prefix: &str,
    rule: &AdminRule,
    subject: &[String],
    references: &mut Vec<Ref>,
    out: &mut Derived,
) {
    let action = match rule.action {
        AdminAction::Accept => "pass",
        AdminAction::Deny => "deny",
        AdminAction::Pass => "skip",
    };
    let all_ports = ports(cx, rule, out);
    for (j, peer) in rule.peers.iter().enumerate() {
        for (n, end) in peers(cx, peer, out).into_iter().enumerate() {
            for (k, (protocol, range, named)) in all_ports.iter().enumerate() {
                let (mut own, mut other) = (subject.to_vec(), end.clone());
                if let Some((tag, predicate)) = named {
                    let demand = Demand::Tag(tag.clone(), predicate.clone());
                    if !out.demands.contains(&demand) {
                        out.demands.push(demand);
                    }
                    match (way, &mut other) {
                        ("ingress", _) => own.push(tag.clone()),
                        (_, End::Tags(tags)) => tags.push(tag.clone()),
                        (_, End::Any) => other = End::Tags(vec![tag.clone()]),
                        // Addresses call no port anything.
                        (_, End::Prefix(_)) => continue,
                    }
                }
                let own = End::Tags(own);
                let (source, target, judged_at) = if way == "ingress" {
                    (other, own, "endpoint-2")
                } else {
                    (own, other, "endpoint-1")
                };
                let spec = RuleSpec {
                    name: &format!("{prefix}-{j}-{n}-{k}"),
                    action,
                    protocol,
                    ports: *range,
                    source,
                    target,
                    judged_at,
                    exception: false,
                };
                let made = cx.rule(key, &spec, out);
                references.push(Ref {
                    name: made.name.clone(),
                    attr: json!({"sequence": format!("{:05}.0", references.len())}),
                });
                out.objects.push(made);
            }
        }
    }
}
