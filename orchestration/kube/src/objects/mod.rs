//! What matters of each Kubernetes object, and nothing else of it.
//!
//! The informers drop everything that is not here at once, so that thousands of pods cost little.

mod admin_policy;
mod endpoints;
mod ingress;
mod meta;
mod network_policy;
mod pod;
mod selector;
mod service;
mod virtual_network;

pub use admin_policy::{AdminAction, AdminPeer, AdminPolicy, AdminPort, AdminRule, Subject, Tier};
pub use endpoints::{Endpoint, EndpointPort, Slice};
pub use ingress::{Backend, Ingress, IngressClass, IngressPath, IngressRule, IngressTls, PathType};
pub use meta::Meta;
pub use network_policy::{IpBlock, NetworkPolicy, Peer, PolicyPort, PolicyRule, PortName};
pub use pod::{HostPort, NETWORK_READY, Nad, Namespace, NetworkCondition, Node, Pod};
pub use selector::{Operator, Requirement, Selector};
pub use service::{Service, ServicePort, ServiceType};
pub use virtual_network::{NetworkSpec, RouteTargetSpec, SubnetSpec, VirtualNetwork};

use kube::core::DynamicObject;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The Kubernetes types that are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // their names say it
pub enum Resource {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    Endpoints,
    Ingress,
    IngressClass,
    NetworkPolicy,
    MultiNetworkPolicy,
    Nad,
    VirtualNetwork,
    ClusterNetworkPolicy,
    AdminNetworkPolicy,
    BaselineAdminNetworkPolicy,
}

impl Resource {
    /// The `kind` in Kubernetes.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::Ingress => "Ingress",
            Self::IngressClass => "IngressClass",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::MultiNetworkPolicy => "MultiNetworkPolicy",
            Self::Nad => "NetworkAttachmentDefinition",
            Self::VirtualNetwork => "VirtualNetwork",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::AdminNetworkPolicy => "AdminNetworkPolicy",
            Self::BaselineAdminNetworkPolicy => "BaselineAdminNetworkPolicy",
        }
    }

    /// Every type.
    pub const ALL: [Self; 15] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::Endpoints,
        Self::Ingress,
        Self::IngressClass,
        Self::NetworkPolicy,
        Self::MultiNetworkPolicy,
        Self::Nad,
        Self::VirtualNetwork,
        Self::ClusterNetworkPolicy,
        Self::AdminNetworkPolicy,
        Self::BaselineAdminNetworkPolicy,
    ];
}

/// The label by which every namespace has its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// One Kubernetes object, compact.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // their names say it
pub enum KubeObject {
    Namespace(Namespace),
    Node(Node),
    Pod(Pod),
    Service(Service),
    Slice(Slice),
    Ingress(Ingress),
    IngressClass(IngressClass),
    NetworkPolicy(NetworkPolicy),
    Nad(Nad),
    VirtualNetwork(Box<VirtualNetwork>),
    AdminPolicy(AdminPolicy),
}

/// An object that does not have the form its type demands.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name} is not understood: {reason}; it is left out until it changes")]
pub struct NotUnderstood {
    /// Its kind.
    pub kind: &'static str,
    /// `namespace/name`.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

impl KubeObject {
    /// Takes what matters out of an object.
    ///
    /// # Errors
    /// It does not have the form its type demands.
    pub fn read(resource: Resource, object: DynamicObject) -> Result<Self, NotUnderstood> {
        let DynamicObject { metadata, data, .. } = object;
        if resource == Resource::VirtualNetwork {
            let name = Meta::new(metadata.clone()).display();
            return VirtualNetwork::new(metadata, data)
                .map(|network| Self::VirtualNetwork(Box::new(network)))
                .map_err(|reason| NotUnderstood { kind: resource.kind(), name, reason });
        }
        let meta = Meta::new(metadata);
        let wrong = |meta: &Meta, reason: String| NotUnderstood {
            kind: resource.kind(),
            name: meta.display(),
            reason,
        };
        let result = match resource {
            Resource::Namespace => {
                let mut meta = meta.clone();
                // API servers since 1.22 set it; selectors may rely on it everywhere.
                meta.labels.insert(NAMESPACE_NAME.into(), (*meta.name).into());
                Ok(Self::Namespace(Namespace { meta }))
            }
            Resource::Node => body(data).map(|raw| Self::Node(Node::new(meta.clone(), raw))),
            Resource::Pod => body(data).map(|raw| Self::Pod(Pod::new(meta.clone(), raw))),
            Resource::Service => {
                body(data).map(|raw| Self::Service(Service::new(meta.clone(), raw)))
            }
            Resource::EndpointSlice => {
                body(data).map(|raw| Self::Slice(Slice::of_slice(meta.clone(), raw)))
            }
            Resource::Endpoints => {
                body(data).map(|raw| Self::Slice(Slice::of_endpoints(meta.clone(), raw)))
            }
            Resource::Ingress => {
                body(data).map(|raw| Self::Ingress(Ingress::new(meta.clone(), raw)))
            }
            Resource::IngressClass => {
                body(data).map(|raw| Self::IngressClass(IngressClass::new(meta.clone(), raw)))
            }
            Resource::NetworkPolicy | Resource::MultiNetworkPolicy => {
                Ok(Self::NetworkPolicy(NetworkPolicy::new(resource, meta.clone(), data)))
            }
            Resource::Nad => body(data).map(|raw| Self::Nad(Nad::new(meta.clone(), &raw))),
            Resource::VirtualNetwork
            | Resource::ClusterNetworkPolicy
            | Resource::AdminNetworkPolicy
            | Resource::BaselineAdminNetworkPolicy => {
                Ok(Self::AdminPolicy(AdminPolicy::new(resource, meta.clone(), &data)))
            }
        };
        result.map_err(|reason| wrong(&meta, reason))
    }

    /// Its metadata.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        match self {
            Self::Namespace(o) => &o.meta,
            Self::Node(o) => &o.meta,
            Self::Pod(o) => &o.meta,
            Self::Service(o) => &o.meta,
            Self::Slice(o) => &o.meta,
            Self::Ingress(o) => &o.meta,
            Self::IngressClass(o) => &o.meta,
            Self::NetworkPolicy(o) => &o.meta,
            Self::Nad(o) => &o.meta,
            Self::VirtualNetwork(o) => &o.meta,
            Self::AdminPolicy(o) => &o.meta,
        }
    }
}

fn body<T: DeserializeOwned>(data: Value) -> Result<T, String> {
    serde_json::from_value(data).map_err(|error| error.to_string())
}

/// Lists that may be null in JSON.
fn nullable<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}
