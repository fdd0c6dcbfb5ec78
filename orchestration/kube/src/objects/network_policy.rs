//! Network policies of namespaces: NetworkPolicy, and MultiNetworkPolicy, which says the same of other networks.

use super::{IntOrString, Meta, Resource, Selector};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(default, deserialize_with = "super::nullable")]
    pod_selector: Selector,
    #[serde(default, deserialize_with = "super::nullable")]
    policy_types: Vec<String>,
    #[serde(default)]
    ingress: Option<Vec<RawRule>>,
    #[serde(default)]
    egress: Option<Vec<RawRule>>,
}

#[derive(Deserialize)]
struct RawRule {
    #[serde(default, alias = "from", alias = "to", deserialize_with = "super::nullable")]
    peers: Vec<RawPeer>,
    #[serde(default, deserialize_with = "super::nullable")]
    ports: Vec<RawPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPeer {
    #[serde(default)]
    ip_block: Option<RawBlock>,
    #[serde(default)]
    pod_selector: Option<Selector>,
    #[serde(default)]
    namespace_selector: Option<Selector>,
}

#[derive(Deserialize)]
struct RawBlock {
    cidr: String,
    #[serde(default, deserialize_with = "super::nullable")]
    except: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<IntOrString>,
    #[serde(default)]
    end_port: Option<i64>,
}

fn cidr(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text.parse().map_err(|_| format!("{text:?} is not a prefix"))?;
    Ok(net.trunc())
}

fn port(raw: RawPort) -> Result<PolicyPort, String> {
    let number = |n: i64| u16::try_from(n).map_err(|_| format!("{n} is not a port"));
    let port = match raw.port {
        None => None,
        Some(IntOrString::Number(first)) => {
            let first = number(first)?;
            Some(PortName::Range(first, raw.end_port.map_or(Ok(first), number)?))
        }
        Some(IntOrString::Name(name)) => match name.parse::<u16>() {
            Ok(n) => Some(PortName::Range(n, n)),
            Err(_) => Some(PortName::Named(name)),
        },
    };
    let protocol = raw.protocol.unwrap_or_else(|| "TCP".into()).to_lowercase();
    Ok(PolicyPort { protocol, port })
}

fn rule(raw: RawRule) -> Result<PolicyRule, String> {
    let peers = raw.peers.into_iter().map(|peer| match peer.ip_block {
        Some(block) => Ok(Peer::Block(IpBlock {
            cidr: cidr(&block.cidr)?,
            except: block.except.iter().map(|text| cidr(text)).collect::<Result<_, _>>()?,
        })),
        None => Ok(Peer::Pods { pods: peer.pod_selector, namespaces: peer.namespace_selector }),
    });
    Ok(PolicyRule {
        peers: peers.collect::<Result<_, String>>()?,
        ports: raw.ports.into_iter().map(port).collect::<Result<_, _>>()?,
    })
}

impl NetworkPolicy {
    pub(crate) fn new(resource: Resource, meta: Meta, mut data: Value) -> Result<Self, String> {
        let spec = data.get_mut("spec").map(Value::take).unwrap_or_default();
        let text = spec.to_string();
        let raw: RawSpec = super::body(spec)?;
        let named = |kind: &str| raw.policy_types.iter().any(|t| t == kind);
        // The API server fills in policyTypes; this is what it would fill in.
        let restricts_ingress = raw.policy_types.is_empty() || named("Ingress");
        let restricts_egress = if raw.policy_types.is_empty() {
            raw.egress.as_ref().is_some_and(|rules| !rules.is_empty())
        } else {
            named("Egress")
        };
        let rules = |list: Option<Vec<RawRule>>, wanted: bool| -> Result<Vec<_>, String> {
            list.filter(|_| wanted).unwrap_or_default().into_iter().map(rule).collect()
        };
        Ok(Self {
            meta,
            resource,
            subject: raw.pod_selector,
            restricts_ingress,
            restricts_egress,
            ingress: rules(raw.ingress, restricts_ingress)?,
            egress: rules(raw.egress, restricts_egress)?,
            spec: text,
        })
    }
}
