//! Endpoints of services: slices of v1 and v1beta1, and the older Endpoints as slices.

use super::Meta;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const HOST_LABEL: &str = "kubernetes.io/hostname";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Some endpoints of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Metadata.
    pub meta: Meta,
    /// The service; none for a slice that belongs to none.
    pub service: Option<Arc<str>>,
    /// Ports of every endpoint in it that has none of its own.
    pub ports: Vec<EndpointPort>,
    /// Addresses.
    pub endpoints: Vec<Endpoint>,
}

/// A port that endpoints answer on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointPort {
    /// The service port's name.
    pub name: Box<str>,
    /// TCP, UDP or SCTP.
    pub protocol: Box<str>,
    /// Its number.
    pub port: u16,
}

/// An address that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// Uid of the pod behind it.
    pub pod: Option<Uuid>,
    /// Node it is on.
    pub node: Option<Box<str>>,
    /// Zone it is in.
    pub zone: Option<Box<str>>,
    /// Takes new connections.
    pub ready: bool,
    /// Answers.
    pub serving: bool,
    /// Is being deleted.
    pub terminating: bool,
    /// Zones that should use it.
    pub hint_zones: Vec<Box<str>>,
    /// Nodes that should use it.
    pub hint_nodes: Vec<Box<str>>,
    /// Its name below a headless service's.
    pub hostname: Option<Box<str>>,
    /// Its own ports, where others of the same object have different ones.
    pub ports: Option<Box<[EndpointPort]>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawSlice {
    #[serde(default)]
    address_type: String,
    #[serde(default, deserialize_with = "super::nullable")]
    endpoints: Vec<RawEndpoint>,
    #[serde(default, deserialize_with = "super::nullable")]
    ports: Vec<RawPort>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawEndpoint {
    #[serde(deserialize_with = "super::nullable")]
    addresses: Vec<String>,
    #[serde(deserialize_with = "super::nullable")]
    conditions: RawConditions,
    target_ref: Option<RawTarget>,
    node_name: Option<String>,
    hostname: Option<String>,
    zone: Option<String>,
    /// v1beta1.
    #[serde(deserialize_with = "super::nullable")]
    topology: BTreeMap<String, String>,
    #[serde(deserialize_with = "super::nullable")]
    hints: RawHints,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawHints {
    #[serde(deserialize_with = "super::nullable")]
    for_zones: Vec<RawName>,
    #[serde(deserialize_with = "super::nullable")]
    for_nodes: Vec<RawName>,
}

#[derive(Deserialize)]
struct RawName {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawTarget {
    kind: Option<String>,
    uid: Option<String>,
}

impl RawTarget {
    fn pod(&self) -> Option<Uuid> {
        let pod = self.kind.as_deref() == Some("Pod");
        self.uid.as_deref().filter(|_| pod).and_then(|uid| Uuid::try_parse(uid).ok())
    }
}

#[derive(Deserialize)]
struct RawPort {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    port: Option<u16>,
}

#[derive(Deserialize)]
pub(crate) struct RawEndpoints {
    #[serde(default, deserialize_with = "super::nullable")]
    subsets: Vec<RawSubset>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawSubset {
    #[serde(deserialize_with = "super::nullable")]
    addresses: Vec<RawAddress>,
    #[serde(deserialize_with = "super::nullable")]
    not_ready_addresses: Vec<RawAddress>,
    #[serde(deserialize_with = "super::nullable")]
    ports: Vec<RawPort>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawAddress {
    ip: String,
    hostname: Option<String>,
    node_name: Option<String>,
    target_ref: Option<RawTarget>,
}

fn ports(raw: Vec<RawPort>) -> Vec<EndpointPort> {
    raw.into_iter()
        .filter_map(|port| {
            Some(EndpointPort {
                name: port.name.unwrap_or_default().into(),
                protocol: port.protocol.unwrap_or_else(|| "TCP".into()).into(),
                port: port.port?,
            })
        })
        .collect()
}

fn boxed(names: Vec<RawName>) -> Vec<Box<str>> {
    names.into_iter().map(|one| one.name.into()).collect()
}

impl Slice {
    pub(crate) fn of_slice(meta: Meta, raw: RawSlice) -> Self {
        let service = meta.labels.get(SERVICE_LABEL).map(|name| Arc::from(&**name));
        // FQDN slices have nothing that a packet could be sent to.
        let endpoints = if raw.address_type == "FQDN" { Vec::new() } else { raw.endpoints };
        let endpoints = endpoints
            .into_iter()
            .filter_map(|mut one| {
                // The addresses of one endpoint mean the same place; readers use the first.
                let address = one.addresses.first()?.parse().ok()?;
                let ready = one.conditions.ready.unwrap_or(true);
                let node = one.node_name.take().or_else(|| one.topology.remove(HOST_LABEL));
                let zone = one.zone.take().or_else(|| one.topology.remove(ZONE_LABEL));
                Some(Endpoint {
                    address,
                    pod: one.target_ref.as_ref().and_then(RawTarget::pod),
                    node: node.map(Into::into),
                    zone: zone.map(Into::into),
                    ready,
                    serving: one.conditions.serving.unwrap_or(ready),
                    terminating: one.conditions.terminating.unwrap_or(false),
                    hint_zones: boxed(one.hints.for_zones),
                    hint_nodes: boxed(one.hints.for_nodes),
                    hostname: one.hostname.map(Into::into),
                    ports: None,
                })
            })
            .collect();
        Self { meta, service, ports: ports(raw.ports), endpoints }
    }

    /// The ports of one of its endpoints.
    #[must_use]
    pub fn ports_of<'a>(&'a self, endpoint: &'a Endpoint) -> &'a [EndpointPort] {
        endpoint.ports.as_deref().unwrap_or(&self.ports)
    }

    /// The older form. Its subsets differ in ports.
    pub(crate) fn of_endpoints(meta: Meta, raw: RawEndpoints) -> Self {
        let service = Some(meta.name.clone());
        let mut shared: Vec<EndpointPort> = Vec::new();
        let mut endpoints = Vec::new();
        let several = raw.subsets.len() > 1;
        for subset in raw.subsets {
            let mut own = Some(ports(subset.ports));
            if !several {
                shared = own.take().unwrap_or_default();
            }
            let ready = subset.addresses.into_iter().map(|a| (a, true));
            let not = subset.not_ready_addresses.into_iter().map(|a| (a, false));
            for (one, ready) in ready.chain(not) {
                let Ok(address) = one.ip.parse() else { continue };
                endpoints.push(Endpoint {
                    address,
                    pod: one.target_ref.as_ref().and_then(RawTarget::pod),
                    node: one.node_name.map(Into::into),
                    zone: None,
                    ready,
                    serving: ready,
                    terminating: false,
                    hint_zones: Vec::new(),
                    hint_nodes: Vec::new(),
                    hostname: one.hostname.map(Into::into),
                    ports: own.clone().map(Into::into),
                });
            }
        }
        Self { meta, service, ports: shared, endpoints }
    }
}
