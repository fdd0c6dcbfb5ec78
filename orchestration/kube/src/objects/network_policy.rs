//! Network policies of namespaces: NetworkPolicy, and MultiNetworkPolicy, which says the same of other networks.
//!
//! They are never left out, whatever is wrong with them: a peer or port that is not understood selects nothing, and the
//! pods stay isolated. API servers check NetworkPolicies; the definition of MultiNetworkPolicy need not check anything.

use super::{Meta, Resource, Selector};
use ipnet::IpNet;
use serde_json::{Map, Value};

/// A NetworkPolicy, or a MultiNetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkPolicy {
    /// Metadata.
    pub meta: Meta,
    /// Which of the two it is.
    pub resource: Resource,
    /// The pods it is about.
    pub subject: Selector,
    /// It restricts what reaches them.
    pub restricts_ingress: bool,
    /// It restricts what they reach.
    pub restricts_egress: bool,
    /// Who may reach them.
    pub ingress: Vec<PolicyRule>,
    /// Whom they may reach.
    pub egress: Vec<PolicyRule>,
    /// The spec as JSON text, for the annotation.
    pub spec: String,
    /// What is wrong with it, for its owner.
    pub problems: Vec<String>,
}

/// One block of a policy: any of the peers at any of the ports.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyRule {
    /// Peers; none means everyone.
    pub peers: Vec<Peer>,
    /// Ports; none means all.
    pub ports: Vec<PolicyPort>,
}

/// The other end.
#[derive(Clone, Debug, PartialEq)]
pub enum Peer {
    /// Addresses.
    Block(IpBlock),
    /// Pods by their labels, in namespaces by theirs; in the policy's own without the latter.
    Pods {
        /// Pods; none means all.
        pods: Option<Selector>,
        /// Namespaces; none means the policy's own.
        namespaces: Option<Selector>,
    },
}

/// Addresses with holes.
#[derive(Clone, Debug, PartialEq)]
pub struct IpBlock {
    /// All of these,
    pub cidr: IpNet,
    /// without these.
    pub except: Vec<IpNet>,
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// tcp, udp or sctp.
    pub protocol: String,
    /// Which; none means all.
    pub port: Option<PortName>,
}

/// A port, or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortName {
    /// From, to.
    Range(u16, u16),
    /// Whatever the pod calls so.
    Named(String),
}

type Fields = Map<String, Value>;

/// What is there and not null.
fn part<'v>(fields: &'v Fields, name: &str) -> Option<&'v Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// A field that is not known may make the selection narrower, so nothing is made of what has one.
fn only(fields: &Fields, known: &[&str]) -> Result<(), String> {
    match fields.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!(".{name} is not known")),
        None => Ok(()),
    }
}

fn cidr(raw: Option<&Value>, place: &str) -> Result<IpNet, String> {
    let text = raw.and_then(Value::as_str).ok_or_else(|| format!("{place} is missing"))?;
    let net: IpNet = text.parse().map_err(|_| format!("{place}: {text:?} is not a prefix"))?;
    Ok(net.trunc())
}

fn block(raw: &Value) -> Result<IpBlock, String> {
    let fields = raw.as_object().ok_or(".ipBlock is not an object")?;
    only(fields, &["cidr", "except"]).map_err(|reason| format!(".ipBlock{reason}"))?;
    let except = match part(fields, "except") {
        None => Vec::new(),
        Some(Value::Array(list)) => list
            .iter()
            .enumerate()
            .map(|(at, one)| cidr(Some(one), &format!(".ipBlock.except[{at}]")))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(".ipBlock.except is not a list".into()),
    };
    Ok(IpBlock { cidr: cidr(part(fields, "cidr"), ".ipBlock.cidr")?, except })
}

fn peer(raw: &Value) -> Result<Peer, String> {
    let fields = raw.as_object().ok_or(" is not an object")?;
    only(fields, &["ipBlock", "podSelector", "namespaceSelector"])?;
    let selector = |name: &str| {
        let raw = part(fields, name);
        raw.map(|raw| Selector::exactly(raw, &format!(".{name}"))).transpose()
    };
    let (pods, namespaces) = (selector("podSelector")?, selector("namespaceSelector")?);
    match (part(fields, "ipBlock"), pods.is_some() || namespaces.is_some()) {
        (Some(_), true) => Err(" has an ipBlock and a selector".into()),
        (Some(raw), false) => block(raw).map(Peer::Block),
        (None, true) => Ok(Peer::Pods { pods, namespaces }),
        (None, false) => Err(" names nobody".into()),
    }
}

fn number(raw: &Value, place: &str) -> Result<u16, String> {
    let number = raw.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    number.ok_or_else(|| format!("{place}: {raw} is not a port"))
}

fn port(raw: &Value) -> Result<PolicyPort, String> {
    let fields = raw.as_object().ok_or(" is not an object")?;
    only(fields, &["protocol", "port", "endPort"])?;
    let end = part(fields, "endPort");
    let port = match part(fields, "port") {
        None if end.is_some() => return Err(".endPort needs a port".into()),
        None => None,
        Some(Value::String(name)) => match name.parse::<u16>() {
            Ok(n) if n > 0 && end.is_none() => Some(PortName::Range(n, n)),
            Err(_) if !name.is_empty() && end.is_none() => Some(PortName::Named(name.clone())),
            _ => return Err(format!(".port: {name:?} is not a port, or takes no endPort")),
        },
        Some(first) => {
            let first = number(first, ".port")?;
            let last = end.map_or(Ok(first), |end| number(end, ".endPort"))?;
            if last < first {
                return Err(format!(".endPort: {last} is less than {first}"));
            }
            Some(PortName::Range(first, last))
        }
    };
    let protocol = part(fields, "protocol").map_or(Some("TCP"), Value::as_str).unwrap_or_default();
    let protocol = protocol.to_lowercase();
    if !matches!(&*protocol, "tcp" | "udp" | "sctp") {
        return Err(".protocol is not TCP, UDP or SCTP".into());
    }
    Ok(PolicyPort { protocol, port })
}

/// The entries of a list that are understood. None: there are some and none of them is, so it selects nothing.
fn listed<T>(
    raw: Option<&Value>,
    place: &str,
    read: impl Fn(&Value) -> Result<T, String>,
    problems: &mut Vec<String>,
) -> Option<Vec<T>> {
    let list = match raw {
        None => return Some(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(_) => {
            problems.push(format!("{place} is not a list; it selects nothing"));
            return None;
        }
    };
    let mut out = Vec::new();
    for (at, one) in list.iter().enumerate() {
        match read(one) {
            Ok(one) => out.push(one),
            Err(reason) => problems.push(format!("{place}[{at}]{reason}; it selects nothing")),
        }
    }
    (list.is_empty() || !out.is_empty()).then_some(out)
}

fn rule(raw: &Value, place: &str, peers: &str, problems: &mut Vec<String>) -> Option<PolicyRule> {
    let fields = raw.as_object().ok_or(" is not an object".to_owned());
    let known = fields.and_then(|fields| only(fields, &[peers, "ports"]).map(|()| fields));
    let fields = match known {
        Ok(fields) => fields,
        Err(reason) => {
            problems.push(format!("{place}{reason}; the rule lets nothing pass"));
            return None;
        }
    };
    // Both are read, so that all is told at once.
    let ends = listed(part(fields, peers), &format!("{place}.{peers}"), peer, problems);
    let ports = listed(part(fields, "ports"), &format!("{place}.ports"), port, problems);
    Some(PolicyRule { peers: ends?, ports: ports? })
}

fn rules(spec: &Fields, field: &str, peers: &str, problems: &mut Vec<String>) -> Vec<PolicyRule> {
    match part(spec, field) {
        None => Vec::new(),
        Some(Value::Array(list)) => list
            .iter()
            .enumerate()
            .filter_map(|(at, raw)| rule(raw, &format!("spec.{field}[{at}]"), peers, problems))
            .collect(),
        Some(_) => {
            problems.push(format!("spec.{field} is not a list; it lets nothing pass"));
            Vec::new()
        }
    }
}

/// Which ways are restricted: what reaches the pods, what they reach.
fn types(spec: &Fields, problems: &mut Vec<String>) -> (bool, bool) {
    let list = match part(spec, "policyTypes") {
        Some(Value::Array(list)) => list.as_slice(),
        None => &[],
        Some(_) => {
            problems.push("spec.policyTypes is not a list; both ways are restricted".into());
            return (true, true);
        }
    };
    if list.is_empty() {
        // The API server fills in policyTypes; this is what it would fill in.
        let none = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        return (true, part(spec, "egress").is_some_and(|value| !none(value)));
    }
    let (mut ingress, mut egress) = (false, false);
    for one in list {
        match one.as_str() {
            Some("Ingress") => ingress = true,
            Some("Egress") => egress = true,
            _ => {
                let text = "is not Ingress or Egress; both ways are restricted";
                problems.push(format!("spec.policyTypes: {one} {text}"));
                (ingress, egress) = (true, true);
            }
        }
    }
    (ingress, egress)
}

impl NetworkPolicy {
    pub(crate) fn new(resource: Resource, meta: Meta, mut data: Value) -> Self {
        let spec = data.get_mut("spec").map(Value::take).unwrap_or_default();
        let text = spec.to_string();
        let mut problems = Vec::new();
        let fields = match spec {
            Value::Object(fields) => fields,
            Value::Null => Fields::new(),
            _ => {
                problems.push("spec is not an object; all pods are isolated".into());
                Fields::new()
            }
        };
        let (restricts_ingress, restricts_egress) = types(&fields, &mut problems);
        let mut ingress = rules(&fields, "ingress", "from", &mut problems);
        let mut egress = rules(&fields, "egress", "to", &mut problems);
        let whole = fields.get("podSelector").unwrap_or(&Value::Null);
        let mut of_subject = Vec::new();
        let subject = Selector::understood(whole, "spec.podSelector", &mut of_subject);
        if !of_subject.is_empty() {
            // It may mean fewer pods than these: to isolate them all is safe, to let anything pass to them is not.
            ingress.clear();
            egress.clear();
        }
        let isolated =
            "without that condition its pods are isolated, and no rule lets anything pass";
        problems.extend(of_subject.into_iter().map(|reason| format!("{reason}; {isolated}")));
        if !restricts_ingress {
            ingress.clear();
        }
        if !restricts_egress {
            egress.clear();
        }
        Self {
            meta,
            resource,
            subject,
            restricts_ingress,
            restricts_egress,
            ingress,
            egress,
            spec: text,
            problems,
        }
    }
}
