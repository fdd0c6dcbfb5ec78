//! Pods, and what they live in: namespaces, nodes, attached networks.

use super::Meta;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::net::IpAddr;

/// The condition by which a pod's status says that its network cannot be as it asks. Only pods of which something was wrong
/// have it.
pub const NETWORK_READY: &str = "skein.io/NetworkReady";

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Namespace {
    /// Metadata.
    pub meta: Meta,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Metadata.
    pub meta: Meta,
    /// Addresses, internal ones first.
    pub addresses: Vec<IpAddr>,
}

#[derive(Deserialize)]
pub(crate) struct RawNode {
    #[serde(default)]
    status: RawNodeStatus,
}

#[derive(Deserialize, Default)]
struct RawNodeStatus {
    #[serde(default, deserialize_with = "super::nullable")]
    addresses: Vec<RawNodeAddress>,
}

#[derive(Deserialize)]
struct RawNodeAddress {
    r#type: String,
    address: String,
}

impl Node {
    pub(crate) fn new(meta: Meta, raw: RawNode) -> Self {
        let mut all = raw.status.addresses;
        all.sort_by_key(|one| one.r#type != "InternalIP");
        let addresses = all.iter().filter_map(|one| one.address.parse().ok()).collect();
        Self { meta, addresses }
    }

    /// Its zone.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.meta.labels.get("topology.kubernetes.io/zone").map(|zone| &**zone)
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Metadata.
    pub meta: Meta,
    /// Node it was put on.
    pub node: Option<Box<str>>,
    /// That node's address.
    pub host_address: Option<IpAddr>,
    /// Addresses it says it has.
    pub addresses: Vec<IpAddr>,
    /// It uses the node's own network.
    pub host_network: bool,
    /// All its containers are done for good.
    pub finished: bool,
    /// Ports with a name: name, protocol in capitals, number.
    pub ports: Vec<(Box<str>, Box<str>, u16)>,
    /// Ports of its node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// What its status says about its network.
    pub condition: Option<Box<NetworkCondition>>,
    /// Its node asks it over the network whether it is well.
    pub probed: bool,
}

/// The condition [`NETWORK_READY`] of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkCondition {
    /// Whether its network is as it asks.
    pub ready: bool,
    /// Why, in one word.
    pub reason: String,
    /// Why, and what to do.
    pub message: String,
}

/// A port of a pod's node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The one address of the node; `None`: all.
    pub address: Option<IpAddr>,
    /// TCP, UDP or SCTP.
    pub protocol: Box<str>,
    /// The node's port.
    pub port: u16,
    /// The pod's port.
    pub target: u16,
}

#[derive(Deserialize)]
pub(crate) struct RawPod {
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: Option<String>,
    host_network: Option<bool>,
    #[serde(deserialize_with = "super::nullable")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "super::nullable")]
    init_containers: Vec<RawContainer>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    restart_policy: Option<String>,
    startup_probe: Option<RawProbe>,
    readiness_probe: Option<RawProbe>,
    liveness_probe: Option<RawProbe>,
    #[serde(deserialize_with = "super::nullable")]
    ports: Vec<RawPort>,
}

impl RawContainer {
    fn is_probed(&self) -> bool {
        let all = [&self.startup_probe, &self.readiness_probe, &self.liveness_probe];
        // All others come over the network: httpGet, tcpSocket, grpc.
        all.into_iter().flatten().any(|probe| probe.exec.is_none())
    }
}

#[derive(Deserialize)]
struct RawProbe {
    exec: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: u16,
    host_port: Option<u16>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    phase: Option<String>,
    #[serde(rename = "hostIP")]
    host_ip: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs", deserialize_with = "super::nullable")]
    pod_ips: Vec<RawPodIp>,
    #[serde(deserialize_with = "super::nullable")]
    conditions: Vec<RawCondition>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawCondition {
    r#type: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
}

#[derive(Deserialize)]
struct RawPodIp {
    ip: Option<String>,
}

impl Pod {
    pub(crate) fn new(meta: Meta, raw: RawPod) -> Self {
        let RawPod { spec, status } = raw;
        // Only init containers that stay (sidecars) have ports that anyone can reach.
        let stay = || {
            spec.init_containers
                .iter()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        };
        let mut host_ports: Vec<HostPort> = spec
            .containers
            .iter()
            .chain(stay())
            .flat_map(|container| &container.ports)
            .filter_map(|port| {
                Some(HostPort {
                    // The unspecified address of one family means all of both, as in the portmap plugin.
                    address: port
                        .host_ip
                        .as_deref()
                        .and_then(|text| text.parse::<IpAddr>().ok())
                        .filter(|address| !address.is_unspecified()),
                    protocol: port.protocol.as_deref().unwrap_or("TCP").into(),
                    port: port.host_port.filter(|port| *port != 0)?,
                    target: port.container_port,
                })
            })
            .collect();
        host_ports.sort();
        host_ports.dedup();
        let mut ports: Vec<_> = spec
            .containers
            .iter()
            .chain(stay())
            .flat_map(|container| &container.ports)
            .filter_map(|port| {
                let name = port.name.clone()?.into_boxed_str();
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((name, protocol.into_boxed_str(), port.container_port))
            })
            .collect();
        ports.sort();
        ports.dedup();
        let probed = spec.containers.iter().chain(stay()).any(RawContainer::is_probed);
        let mut addresses: Vec<IpAddr> = status
            .pod_ips
            .iter()
            .filter_map(|one| one.ip.as_deref())
            .chain(status.pod_ip.as_deref())
            .filter_map(|text| text.parse().ok())
            .collect();
        addresses.dedup();
        let condition = status.conditions.into_iter().find(|one| one.r#type == NETWORK_READY);
        let condition = condition.map(|one| {
            Box::new(NetworkCondition {
                ready: one.status == "True",
                reason: one.reason.unwrap_or_default(),
                message: one.message.unwrap_or_default(),
            })
        });
        Self {
            meta,
            node: spec.node_name.filter(|n| !n.is_empty()).map(String::into_boxed_str),
            host_address: status.host_ip.and_then(|text| text.parse().ok()),
            addresses,
            host_network: spec.host_network.unwrap_or(false),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            ports,
            host_ports,
            condition,
            probed,
        }
    }

    /// Whether it should have ports in the fabric.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        !self.host_network && !self.finished && self.node.is_some()
    }
}

/// A network that pods may ask for by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nad {
    /// Metadata.
    pub meta: Meta,
    /// `type` in its CNI configuration, or of its first plugin; why there is none.
    pub plugin: Result<String, String>,
}

#[derive(Deserialize)]
pub(crate) struct RawNad {
    #[serde(default)]
    spec: RawNadSpec,
}

#[derive(Deserialize, Default)]
struct RawNadSpec {
    #[serde(default, deserialize_with = "super::nullable")]
    config: String,
}

impl Nad {
    pub(crate) fn new(meta: Meta, raw: &RawNad) -> Self {
        Self { meta, plugin: plugin(&raw.spec.config) }
    }
}

fn plugin(config: &str) -> Result<String, String> {
    let json: serde_json::Value = serde_json::from_str(config)
        .map_err(|error| format!("spec.config is not JSON: {error}"))?;
    let kind = json.get("type").or_else(|| json.get("plugins")?.get(0)?.get("type"));
    kind.and_then(|t| t.as_str())
        .map(str::to_owned)
        .ok_or_else(|| "spec.config has no \"type\"".to_owned())
}
