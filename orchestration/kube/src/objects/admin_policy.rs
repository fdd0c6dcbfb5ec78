//! Policies of the cluster's administrators: ClusterNetworkPolicy, and its older forms AdminNetworkPolicy and
//! BaselineAdminNetworkPolicy.

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
    /// Who it is about; none if that is not understood.
    pub subject: Option<Subject>,
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
    /// Everyone: what a deny becomes when its peers are not understood.
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
            _ => Tier::Admin,
        };
        let priority = spec.get("priority").and_then(Value::as_u64).unwrap_or(0).min(1000);
        let subject = subject(spec.get("subject"));
        if let Err(reason) = &subject {
            problems.push(format!("spec.subject: {reason}"));
        }
        let mut rules = |field: &str, peers: &str| {
            let list = spec.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            list.iter()
                .enumerate()
                .filter_map(|(at, raw)| {
                    rule(raw, peers, &format!("spec.{field}[{at}]"), &mut problems)
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
            subject: subject.ok(),
            ingress,
            egress,
            problems,
        }
    }
}

fn selector(raw: &Value) -> Result<Selector, String> {
    serde_json::from_value(raw.clone()).map_err(|error| error.to_string())
}

fn subject(raw: Option<&Value>) -> Result<Subject, String> {
    let raw = raw.ok_or("is missing")?;
    if let Some(namespaces) = raw.get("namespaces").filter(|v| !v.is_null()) {
        // v1alpha1's early form wraps the selector once more.
        let inner = namespaces.get("namespaceSelector").unwrap_or(namespaces);
        return Ok(Subject { namespaces: selector(inner)?, pods: None });
    }
    let pods =
        raw.get("pods").filter(|v| !v.is_null()).ok_or("names neither namespaces nor pods")?;
    let part = |name: &str| pods.get(name).filter(|v| !v.is_null());
    Ok(Subject {
        namespaces: part("namespaceSelector").map_or(Ok(Selector::default()), selector)?,
        pods: Some(part("podSelector").map_or(Ok(Selector::default()), selector)?),
    })
}

fn peer(raw: &Value) -> Result<AdminPeer, String> {
    if let Some(nodes) = raw.get("nodes").filter(|v| !v.is_null()) {
        return selector(nodes).map(AdminPeer::Nodes);
    }
    if let Some(Value::Array(list)) = raw.get("networks") {
        let nets = list.iter().map(|text| {
            let text = text.as_str().unwrap_or_default();
            text.parse::<IpNet>()
                .map(|n| n.trunc())
                .map_err(|_| format!("{text:?} is not a prefix"))
        });
        return nets.collect::<Result<_, _>>().map(AdminPeer::Networks);
    }
    if raw.get("domainNames").is_some() {
        return Err("domainNames are not served; write networks".into());
    }
    subject(Some(raw)).map(AdminPeer::Pods)
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
        number.ok_or_else(|| "names no port".to_owned())
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
    if let Some(range) = raw.get("portRange") {
        let (start, end) = (number(range.get("start"))?, number(range.get("end"))?);
        return Ok(AdminPort::Range(protocol(range.get("protocol"))?, start, end));
    }
    for name in ["tcp", "udp", "sctp"] {
        let Some(one) = raw.get(name) else { continue };
        let protocol = protocol(Some(&Value::from(name)))?;
        return match one.get("destinationPort") {
            None | Some(Value::Null) => Ok(AdminPort::Range(protocol, 0, u16::MAX)),
            Some(port) => match port.get("range") {
                Some(range) => Ok(AdminPort::Range(
                    protocol,
                    number(range.get("start"))?,
                    number(range.get("end"))?,
                )),
                None => {
                    let port = number(port.get("number"))?;
                    Ok(AdminPort::Range(protocol, port, port))
                }
            },
        };
    }
    Err("names no port".into())
}

/// Fails closed: what is not understood of a deny denies everyone, of anything else nobody.
fn rule(raw: &Value, peers: &str, place: &str, problems: &mut Vec<String>) -> Option<AdminRule> {
    let action = match raw.get("action").and_then(Value::as_str) {
        Some("Accept" | "Allow") => AdminAction::Accept,
        Some("Pass") => AdminAction::Pass,
        Some("Deny") => AdminAction::Deny,
        other => {
            problems.push(format!("{place}.action: {other:?} is not known, taken as Deny"));
            AdminAction::Deny
        }
    };
    let deny = action == AdminAction::Deny;
    let list = |name: &str| raw.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let mut ends = Vec::new();
    for one in list(peers) {
        match peer(one) {
            Ok(end) => ends.push(end),
            Err(reason) => {
                problems.push(format!("{place}.{peers}: {reason}"));
                if deny {
                    ends.push(AdminPeer::Everyone);
                }
            }
        }
    }
    let mut ports = Vec::new();
    let wanted = list("ports").iter().chain(list("protocols"));
    let mut any = false;
    for one in wanted {
        any = true;
        match port(one) {
            Ok(port) => ports.push(port),
            Err(reason) => problems.push(format!("{place}.ports: {reason}")),
        }
    }
    // Ports were asked for and none is left: a deny is for all of them, another rule for none.
    if any && ports.is_empty() && !deny {
        return None;
    }
    (!ends.is_empty()).then_some(AdminRule { action, peers: ends, ports })
}
