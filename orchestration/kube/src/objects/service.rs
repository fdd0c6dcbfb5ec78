//! Services.

use super::Meta;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How a service is offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[allow(missing_docs)] // Kubernetes' own words
pub enum ServiceType {
    #[default]
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Service {
    /// Metadata.
    pub meta: Meta,
    /// How it is offered.
    pub kind: ServiceType,
    /// Its addresses in the cluster; none for headless ones.
    pub addresses: Vec<IpAddr>,
    /// `None` was asked for.
    pub headless: bool,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`.
    pub external: Vec<String>,
    /// `spec.loadBalancerIP`.
    pub wanted: Option<String>,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// `spec.loadBalancerSourceRanges`.
    pub source_ranges: Vec<String>,
    /// Seconds, if the affinity is to the client's address.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.healthCheckNodePort`.
    pub health_port: Option<u16>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// `spec.trafficDistribution`.
    pub distribution: Option<String>,
    /// `spec.externalName`.
    pub external_name: Option<String>,
    /// `status.loadBalancer.ingress[].ip`.
    pub ingress: Vec<String>,
    /// Those of them that the cluster's own traffic need not leave for (`ipMode` is not `Proxy`).
    pub ingress_vips: Vec<String>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name; empty if it is the only one.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: String,
    /// Its number.
    pub port: u16,
    /// Port of every node.
    pub node_port: Option<u16>,
    /// What is spoken.
    pub app_protocol: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Raw {
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    r#type: Option<ServiceType>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", deserialize_with = "super::nullable")]
    cluster_ips: Vec<String>,
    #[serde(deserialize_with = "super::nullable")]
    ports: Vec<RawPort>,
    #[serde(rename = "externalIPs", deserialize_with = "super::nullable")]
    external_ips: Vec<String>,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: Option<String>,
    load_balancer_class: Option<String>,
    #[serde(deserialize_with = "super::nullable")]
    load_balancer_source_ranges: Vec<String>,
    session_affinity: Option<String>,
    session_affinity_config: Option<RawAffinity>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    health_check_node_port: Option<u16>,
    publish_not_ready_addresses: Option<bool>,
    traffic_distribution: Option<String>,
    external_name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawAffinity {
    #[serde(rename = "clientIP")]
    client_ip: Option<RawClientIp>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawClientIp {
    timeout_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    port: u16,
    #[serde(default)]
    node_port: Option<u16>,
    #[serde(default)]
    app_protocol: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    load_balancer: RawLoadBalancer,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct RawLoadBalancer {
    #[serde(deserialize_with = "super::nullable")]
    pub(crate) ingress: Vec<BTreeMap<String, serde_json::Value>>,
}

impl RawLoadBalancer {
    /// The addresses in it.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let ip = |one: &BTreeMap<String, serde_json::Value>| {
            one.get("ip").and_then(|ip| ip.as_str()).map(str::to_owned)
        };
        self.ingress.iter().filter_map(ip).collect()
    }
}

impl RawLoadBalancer {
    /// The addresses in it whose traffic nodes see as it was sent.
    fn vips(&self) -> Vec<String> {
        let direct = self
            .ingress
            .iter()
            .filter(|one| one.get("ipMode").and_then(|mode| mode.as_str()) != Some("Proxy"));
        let ip = direct.filter_map(|one| one.get("ip").and_then(|ip| ip.as_str()));
        ip.map(str::to_owned).collect()
    }
}

/// Seconds that Kubernetes keeps a client at its backend by default.
const DEFAULT_AFFINITY: u32 = 10_800;

impl Service {
    pub(crate) fn new(meta: Meta, raw: Raw) -> Self {
        let Raw { spec, status } = raw;
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let mut addresses: Vec<IpAddr> = spec
            .cluster_ips
            .iter()
            .map(String::as_str)
            .chain(spec.cluster_ip.as_deref())
            .filter_map(|text| text.parse().ok())
            .collect();
        let mut seen = Vec::new();
        addresses.retain(|address| {
            let new = !seen.contains(address);
            seen.push(*address);
            new
        });
        let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
            let config = spec.session_affinity_config.and_then(|c| c.client_ip);
            config.and_then(|c| c.timeout_seconds).unwrap_or(DEFAULT_AFFINITY)
        });
        let ports = spec
            .ports
            .into_iter()
            .map(|port| ServicePort {
                name: port.name.unwrap_or_default(),
                protocol: port.protocol.unwrap_or_else(|| "TCP".into()),
                port: port.port,
                node_port: port.node_port.filter(|p| *p != 0),
                app_protocol: port.app_protocol,
            })
            .collect();
        Self {
            meta,
            kind: spec.r#type.unwrap_or_default(),
            addresses,
            headless,
            ports,
            external: spec.external_ips,
            wanted: spec.load_balancer_ip.filter(|ip| !ip.is_empty()),
            class: spec.load_balancer_class,
            source_ranges: spec.load_balancer_source_ranges,
            affinity,
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            health_port: spec.health_check_node_port.filter(|p| *p != 0),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            distribution: spec.traffic_distribution,
            external_name: spec.external_name,
            ingress: status.load_balancer.addresses(),
            ingress_vips: status.load_balancer.vips(),
        }
    }
}
