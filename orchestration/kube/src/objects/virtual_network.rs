//! Networks that users of Kubernetes make themselves: `virtualnetworks.skein.io`.

use super::{Meta, nullable};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

/// A network as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualNetwork {
    /// Metadata.
    pub meta: Meta,
    /// What it should be.
    pub spec: NetworkSpec,
    /// Its finalizers, others' as well.
    pub finalizers: Vec<String>,
    /// It is to be deleted once nothing keeps it.
    pub deleting: bool,
    /// What was last said about it.
    pub status: Value,
}

/// What a network should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkSpec {
    /// Prefixes with their gateways.
    #[serde(deserialize_with = "nullable")]
    pub subnets: Vec<SubnetSpec>,
    /// Its pods reach each other only; absent: true.
    pub isolated: Option<bool>,
    /// Networks to be joined with.
    #[serde(deserialize_with = "nullable")]
    pub connect_to: Vec<String>,
    /// More route targets.
    #[serde(deserialize_with = "nullable")]
    pub route_targets: RouteTargetSpec,
    /// The way outside through the node's address.
    #[serde(rename = "fabricSNAT")]
    pub fabric_snat: bool,
    /// Reached from outside.
    pub external: bool,
}

/// A prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct SubnetSpec {
    /// Address and length.
    pub cidr: String,
    /// Address of the gateway; absent: the first.
    pub gateway: Option<String>,
}

/// Route targets as texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteTargetSpec {
    /// Both ways.
    #[serde(deserialize_with = "nullable")]
    pub import_export: Vec<String>,
    /// Only into the network.
    #[serde(deserialize_with = "nullable")]
    pub import: Vec<String>,
    /// Only out of it.
    #[serde(deserialize_with = "nullable")]
    pub export: Vec<String>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    spec: NetworkSpec,
    #[serde(default)]
    status: Value,
}

impl VirtualNetwork {
    pub(super) fn new(meta: ObjectMeta, data: Value) -> Result<Self, String> {
        let raw: Raw = serde_json::from_value(data).map_err(|error| error.to_string())?;
        Ok(Self {
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            meta: Meta::new(meta),
            spec: raw.spec,
            status: raw.status,
        })
    }
}
