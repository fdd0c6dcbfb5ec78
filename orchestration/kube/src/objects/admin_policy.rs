//! Policies of the cluster's administrators: ClusterNetworkPolicy, and its older forms AdminNetworkPolicy and
//! BaselineAdminNetworkPolicy.
//!
//! They fail closed, as their API demands: what is not understood of a rule that accepts is accepted from nobody, and of one
//! that denies or passes on it is denied. A subject that is not understood is every pod that it may mean; for these,
//! nothing is accepted or passed on.

use super::{Meta, Resource, Selector};
use ipnet::IpNet;
use serde_json::Value;

/// A policy of administrators.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminPolicy {
    /// Metadata.
    pub meta: Meta,
    /// Which of the types it is.
    pub resource: Resource,
    /// Before or after the policies of namespaces.
    pub tier: Tier,
    /// Lower comes first, 0 to 1000.
    pub priority: u16,
    /// Who it is about.
    pub subject: Subject,
    /// Rules for what reaches them, in order.
    pub ingress: Vec<AdminRule>,
    /// Rules for what they reach, in order.
    pub egress: Vec<AdminRule>,
    /// What is wrong with it, for its owner.
    pub problems: Vec<String>,
}

/// When a policy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Before the policies of namespaces.
    Admin,
    /// After them.
    Baseline,
}

/// Pods that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// In these namespaces,
    pub namespaces: Selector,
    /// these pods; none means all.
    pub pods: Option<Selector>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminRule {
    /// What happens.
    pub action: AdminAction,
    /// The other end: any of these.
    pub peers: Vec<AdminPeer>,
    /// At any of these; none means all.
    pub ports: Vec<AdminPort>,
}

/// What happens to what a rule fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminAction {
    /// It passes; nobody later is asked.
    Accept,
    /// It is dropped.
    Deny,
    /// The next tier decides.
    Pass,
}

/// The other end of a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum AdminPeer {
    /// Pods.
    Pods(Subject),
    /// Nodes.
    Nodes(Selector),
    /// Addresses.
    Networks(Vec<IpNet>),
    /// Everyone: whom peers that are not understood may mean.
    Everyone,
}

/// Ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminPort {
    /// Protocol, from, to.
    Range(&'static str, u16, u16),
    /// What a pod calls so, in whatever protocol.
    Named(String),
}

impl AdminPolicy {
    pub(crate) fn new(resource: Resource, meta: Meta, data: &Value) -> Self {
        let spec = data.get("spec").cloned().unwrap_or_default();
        let mut problems = Vec::new();
        let tier = match (resource, spec.get("tier").and_then(Value::as_str)) {
            (Resource::BaselineAdminNetworkPolicy, _) | (_, Some("Baseline")) => Tier::Baseline,
            (Resource::AdminNetworkPolicy, _) | (_, Some("Admin") | None) => Tier::Admin,
            (_, Some(other)) => {
                problems.push(format!("spec.tier: {other:?} is not known, taken as Admin"));
                Tier::Admin
            }
        };
        let priority = spec.get("priority").and_then(Value::as_u64).unwrap_or(0).min(1000);
        let mut of_subject = Vec::new();
        let subject = subject(spec.get("subject"), "spec.subject", &mut of_subject);
        let sure = of_subject.is_empty();
        let wider = "taken as every pod that it may mean, for which Deny and Pass deny and Accept does nothing";
        problems.extend(of_subject.into_iter().map(|reason| format!("{reason}; {wider}")));
        let mut rules = |field: &str, peers: &str| {
            let list = spec.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            list.iter()
                .enumerate()
                .flat_map(|(at, raw)| {
                    rule(raw, peers, &format!("spec.{field}[{at}]"), sure, &mut problems)
                })
                .collect::<Vec<_>>()
        };
        let ingress = rules("ingress", "from");
        let egress = rules("egress", "to");
        Self {
            meta,
            resource,
            tier,
            priority: u16::try_from(priority).unwrap_or(1000),
            subject,
            ingress,
            egress,
            problems,
        }
    }
}

/// Pods that are meant; where that is not understood, more than these.
fn subject(raw: Option<&Value>, place: &str, problems: &mut Vec<String>) -> Subject {
    let part = |name: &str| raw.and_then(|raw| raw.get(name)).filter(|value| !value.is_null());
    match (part("namespaces"), part("pods")) {
        (Some(namespaces), None) => {
            // v1alpha1's early form wraps the selector once more.
            let inner = namespaces.get("namespaceSelector").unwrap_or(namespaces);
            let place = format!("{place}.namespaces");
            Subject { namespaces: Selector::understood(inner, &place, problems), pods: None }
        }
        (None, Some(pods)) => {
            let mut selector = |name: &str| {
                let raw = pods.get(name).unwrap_or(&Value::Null);
                Selector::understood(raw, &format!("{place}.pods.{name}"), problems)
            };
            let namespaces = selector("namespaceSelector");
            Subject { namespaces, pods: Some(selector("podSelector")) }
        }
        (both, _) => {
            let what = if both.is_some() { "both" } else { "neither" };
            problems.push(format!("{place} names {what} of namespaces and pods"));
            Subject { namespaces: Selector::default(), pods: None }
        }
    }
}

fn peer(raw: &Value) -> Result<AdminPeer, String> {
    if let Some(nodes) = raw.get("nodes").filter(|v| !v.is_null()) {
        return Selector::exactly(nodes, ".nodes").map(AdminPeer::Nodes);
    }
    if let Some(Value::Array(list)) = raw.get("networks") {
        let nets = list.iter().map(|text| {
            let text = text.as_str().unwrap_or_default();
            text.parse::<IpNet>()
                .map(|n| n.trunc())
                .map_err(|_| format!(".networks: {text:?} is not a prefix"))
        });
        return nets.collect::<Result<_, _>>().map(AdminPeer::Networks);
    }
    if raw.get("domainNames").is_some() {
        return Err(".domainNames are not served; write networks".into());
    }
    let mut problems = Vec::new();
    let pods = subject(Some(raw), "", &mut problems);
    if problems.is_empty() { Ok(AdminPeer::Pods(pods)) } else { Err(problems.join(", ")) }
}

fn transport(name: &str) -> Option<&'static str> {
    match name {
        "TCP" | "tcp" => Some("tcp"),
        "UDP" | "udp" => Some("udp"),
        "SCTP" | "sctp" => Some("sctp"),
        _ => None,
    }
}

fn port(raw: &Value) -> Result<AdminPort, String> {
    let number = |value: Option<&Value>| {
        let number = value.and_then(Value::as_u64).and_then(|n| u16::try_from(n).ok());
        number.filter(|n| *n > 0).ok_or_else(|| "names no port".to_owned())
    };
    let range = |range: &Value| {
        let (start, end) = (number(range.get("start"))?, number(range.get("end"))?);
        if start > end { Err(format!("ends before it starts, at {end}")) } else { Ok((start, end)) }
    };
    let protocol = |value: Option<&Value>| {
        let name = value.and_then(Value::as_str).unwrap_or("TCP");
        transport(name).ok_or_else(|| format!("{name:?} is not TCP, UDP or SCTP"))
    };
    let named = raw.get("namedPort").or_else(|| raw.get("destinationNamedPort"));
    if let Some(name) = named.and_then(Value::as_str) {
        return Ok(AdminPort::Named(name.to_owned()));
    }
    if let Some(one) = raw.get("portNumber") {
        let port = number(one.get("port"))?;
        return Ok(AdminPort::Range(protocol(one.get("protocol"))?, port, port));
    }
    if let Some(raw) = raw.get("portRange") {
        let (start, end) = range(raw)?;
        return Ok(AdminPort::Range(protocol(raw.get("protocol"))?, start, end));
    }
    for name in ["tcp", "udp", "sctp"] {
        let Some(one) = raw.get(name) else { continue };
        let protocol = protocol(Some(&Value::from(name)))?;
        return match one.get("destinationPort") {
            None | Some(Value::Null) => Ok(AdminPort::Range(protocol, 0, u16::MAX)),
            Some(port) => match port.get("range") {
                Some(raw) => {
                    let (start, end) = range(raw)?;
                    Ok(AdminPort::Range(protocol, start, end))
                }
                None => {
                    let port = number(port.get("number"))?;
                    Ok(AdminPort::Range(protocol, port, port))
                }
            },
        };
    }
    Err("names no port".into())
}

/// The rules that one becomes: what is understood of it, and the denial of what may be meant by the rest. `sure`: the
/// subject is understood.
fn rule(
    raw: &Value,
    peers: &str,
    place: &str,
    sure: bool,
    problems: &mut Vec<String>,
) -> Vec<AdminRule> {
    let action = match raw.get("action").and_then(Value::as_str) {
        Some("Accept" | "Allow") => AdminAction::Accept,
        Some("Pass") => AdminAction::Pass,
        Some("Deny") => AdminAction::Deny,
        other => {
            problems.push(format!("{place}.action: {other:?} is not known, taken as Deny"));
            AdminAction::Deny
        }
    };
    let taken = match action {
        AdminAction::Accept => "it accepts nothing",
        AdminAction::Deny | AdminAction::Pass => "the rule denies all that it may mean",
    };
    let list = |name: &str| raw.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (mut ends, mut other_ends) = (Vec::new(), false);
    for (at, one) in list(peers).iter().enumerate() {
        match peer(one) {
            Ok(end) => ends.push(end),
            Err(reason) => {
                problems.push(format!("{place}.{peers}[{at}]{reason}; {taken}"));
                other_ends = true;
            }
        }
    }
    if list(peers).is_empty() {
        problems.push(format!("{place}.{peers} names nobody; {taken}"));
        other_ends = true;
    }
    let (mut ports, mut other_ports) = (Vec::new(), false);
    for field in ["ports", "protocols"] {
        for (at, one) in list(field).iter().enumerate() {
            match port(one) {
                Ok(port) => ports.push(port),
                Err(reason) => {
                    problems.push(format!("{place}.{field}[{at}] {reason}; {taken}"));
                    other_ports = true;
                }
            }
        }
    }
    let mut out = Vec::new();
    // A denial of more covers it.
    let readable = !(ends.is_empty() || other_ports && ports.is_empty());
    if action != AdminAction::Deny && sure && readable {
        out.push(AdminRule { action, peers: ends.clone(), ports: ports.clone() });
    }
    let denies = action == AdminAction::Deny || !sure || other_ends || other_ports;
    if action != AdminAction::Accept && denies {
        let peers = if other_ends { vec![AdminPeer::Everyone] } else { ends };
        let ports = if other_ports { Vec::new() } else { ports };
        out.push(AdminRule { action: AdminAction::Deny, peers, ports });
    }
    out
}
