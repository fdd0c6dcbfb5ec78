//! Owners: what a configuration object is there for.

use crate::objects::Resource;
use serde_json::{Map, Value, json};
use skein_model::Object;
use std::fmt;
use std::sync::Arc;

/// What owns configuration objects, in the order in which owners are worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sort {
    /// The cluster itself.
    Cluster,
    /// A tag that something needs; the name is the tag's.
    Tag,
    /// A prefix that policies name; the name is the prefix.
    AddressGroup,
    /// A namespace.
    Namespace,
    /// A network attachment definition.
    Nad,
    /// A network that a user made.
    VirtualNetwork,
    /// A network that nodes reach, because pods live in it; the name is the network's.
    Reach,
    /// A service.
    Service,
    /// A network policy.
    Policy,
    /// A network policy that is about networks beside the cluster's own.
    MultiPolicy,
    /// A policy of administrators; the namespace is its resource's kind.
    Admin,
    /// An ingress.
    Ingress,
    /// A pod.
    Pod,
}

/// An owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it is.
    pub sort: Sort,
    /// Namespace, if it lives in one.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind())?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The text that starts every key of annotations that say whose an object is.
const KIND: &str = "kind";
/// The annotation that says which cluster an object belongs to.
pub(crate) const CLUSTER: &str = "cluster";

impl Key {
    /// An owner that lives in a namespace.
    #[must_use]
    pub fn new(sort: Sort, namespace: &str, name: &str) -> Self {
        Self { sort, namespace: namespace.into(), name: name.into() }
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(name: &str) -> Self {
        Self::new(Sort::Cluster, "", name)
    }

    /// The value of the annotation `kind`.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self.sort {
            Sort::Cluster => "Cluster",
            Sort::Tag => "Tag",
            Sort::AddressGroup => "AddressGroup",
            Sort::Namespace => "Namespace",
            Sort::Nad => "Network",
            Sort::VirtualNetwork => "VirtualNetwork",
            Sort::Reach => crate::derive::reach::KIND,
            Sort::Service => "Service",
            Sort::Policy => "NetworkPolicy",
            Sort::MultiPolicy => "MultiNetworkPolicy",
            Sort::Admin => &self.namespace,
            Sort::Ingress => "Ingress",
            Sort::Pod => "Pod",
        }
    }

    fn of_kind(kind: &str, namespace: &str, name: &str) -> Option<Self> {
        let sort = match kind {
            "Cluster" => Sort::Cluster,
            "Tag" => Sort::Tag,
            "AddressGroup" => Sort::AddressGroup,
            "Namespace" => Sort::Namespace,
            "Network" => Sort::Nad,
            "VirtualNetwork" => Sort::VirtualNetwork,
            crate::derive::reach::KIND => Sort::Reach,
            "Service" | "Endpoints" => Sort::Service,
            "NetworkPolicy" => Sort::Policy,
            "MultiNetworkPolicy" => Sort::MultiPolicy,
            "Ingress" => Sort::Ingress,
            "Pod" => Sort::Pod,
            "ClusterNetworkPolicy" | "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" => {
                return Some(Self::new(Sort::Admin, kind, name));
            }
            _ => return None,
        };
        Some(Self::new(sort, namespace, name))
    }

    /// The Kubernetes type behind it, for Events.
    #[must_use]
    pub fn resource(&self) -> Option<Resource> {
        Some(match self.sort {
            Sort::Cluster | Sort::Tag | Sort::AddressGroup | Sort::Reach => return None,
            Sort::Namespace => Resource::Namespace,
            Sort::Nad => Resource::Nad,
            Sort::VirtualNetwork => Resource::VirtualNetwork,
            Sort::Service => Resource::Service,
            Sort::Policy => Resource::NetworkPolicy,
            Sort::MultiPolicy => Resource::MultiNetworkPolicy,
            Sort::Ingress => Resource::Ingress,
            Sort::Pod => Resource::Pod,
            Sort::Admin => match &*self.namespace {
                "AdminNetworkPolicy" => Resource::AdminNetworkPolicy,
                "BaselineAdminNetworkPolicy" => Resource::BaselineAdminNetworkPolicy,
                _ => Resource::ClusterNetworkPolicy,
            },
        })
    }
}

/// Whose objects are looked at: the cluster and its owner.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// Annotation `owner`.
    pub owner: String,
    /// Annotation `cluster`.
    pub cluster: String,
}

impl Ownership {
    /// Annotations of an object that `key` owns, and more.
    #[must_use]
    pub fn annotations(&self, key: &Key, project: &str, more: &[(&str, &str)]) -> Value {
        let mut pairs = vec![
            (KIND, key.kind()),
            ("owner", &self.owner),
            (CLUSTER, &self.cluster),
            ("project", project),
        ];
        if !key.namespace.is_empty() && key.sort != Sort::Admin {
            pairs.push(("namespace", &key.namespace));
        }
        pairs.push(("name", &key.name));
        pairs.extend_from_slice(more);
        let pairs: Vec<Value> =
            pairs.into_iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        json!({ "key_value_pair": pairs })
    }

    /// The owner of an object, if it is one of this cluster's.
    #[must_use]
    pub fn owner_of(&self, object: &Object) -> Option<Key> {
        let properties = crate::packed::properties(object);
        let get = |key: &str| annotation_in(&properties, key);
        if get("owner")? != self.owner || get(CLUSTER)? != self.cluster {
            return None;
        }
        Key::of_kind(get(KIND)?, get("namespace").unwrap_or_default(), get("name")?)
    }

    /// Whether an object belongs to another cluster that is managed like this.
    #[must_use]
    pub fn is_foreign(&self, object: &Object) -> bool {
        let properties = crate::packed::properties(object);
        let get = |key: &str| annotation_in(&properties, key);
        get("owner").is_some() && get(CLUSTER).is_some_and(|cluster| cluster != self.cluster)
    }
}

/// An annotation of an object that is not packed.
#[must_use]
pub fn annotation<'a>(object: &'a Object, key: &str) -> Option<&'a str> {
    annotation_in(&object.properties, key)
}

fn annotation_in<'a>(properties: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    let pairs = properties.get("annotations")?.get("key_value_pair")?.as_array()?;
    let pair = pairs.iter().find(|pair| pair.get("key").and_then(Value::as_str) == Some(key))?;
    pair.get("value").and_then(Value::as_str)
}
