//! From an owner to the objects it wants. No I/O, no state: the same question has the same answer.

mod admin;
mod annotations;
mod cluster;
mod dns;
mod elsewhere;
mod firewall;
mod host_port;
mod ingress;
mod nad;
mod namespace;
pub(crate) mod nested;
mod networks;
mod node;
mod pod;
mod policy;
pub(crate) mod reach;
mod requests;
mod service;
mod shared;
mod staged;
mod tags;
mod underlay;
mod virtual_network;

pub use annotations::{NetworkChoice, network_choices};
pub(crate) use elsewhere::users_of_networks;
pub use reach::ReachTable;
pub use staged::STAGED;
pub(crate) use tags::service_id;
pub use tags::{Candidate, Shift, TagTable};
pub use virtual_network::FINALIZER;

use crate::cache::Cache;
use crate::desired::{Derived, Desired};
use crate::key::{Key, Ownership, Sort};
use crate::names::Names;
use crate::settings::Settings;
use serde_json::Value;
use skein_model::{FqName, Graph, Kind, Object};
use std::net::IpAddr;
use std::sync::Arc;

/// All that derivations may look at.
#[derive(Debug)]
pub struct Context<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// Names of this cluster.
    pub names: &'a Names,
    /// Whose objects these are.
    pub ownership: &'a Ownership,
    /// Kubernetes as it is.
    pub cache: &'a Cache,
    /// The configuration as it is.
    pub graph: &'a Graph,
    /// Tags that are asked for.
    pub tags: &'a TagTable,
    /// Networks that nodes reach.
    pub reach: &'a ReachTable,
}

impl<'a> Context<'a> {
    /// What an owner wants; nothing if it does not exist any more.
    #[must_use]
    pub fn derive(&self, key: &Key) -> Derived {
        match key.sort {
            Sort::Cluster => cluster::derive(self, key),
            Sort::Tag => shared::tag(self, key),
            Sort::AddressGroup => shared::address_group(self, key),
            Sort::Namespace => namespace::derive(self, key),
            Sort::Nad => nad::derive(self, key),
            Sort::VirtualNetwork => virtual_network::derive(self, key),
            Sort::Reach => reach::derive(self, key),
            Sort::Service => service::derive(self, key),
            Sort::Policy | Sort::MultiPolicy => policy::derive(self, key),
            Sort::Admin => admin::derive(self, key),
            Sort::Ingress => ingress::derive(self, key),
            Sort::Pod => pod::derive(self, key),
        }
    }

    /// An object of the owner, with the annotations that say so.
    fn owned(
        &self,
        key: &Key,
        kind: Kind,
        parent: Option<Kind>,
        name: FqName,
        more: &[(&str, &str)],
    ) -> Desired {
        let namespace = if key.sort == Sort::Namespace { &key.name } else { &key.namespace };
        let project = match key.sort {
            Sort::Cluster | Sort::Tag | Sort::AddressGroup | Sort::Reach | Sort::Admin => {
                self.names.cluster_project()
            }
            _ => self.names.project(namespace),
        };
        let annotations = self.ownership.annotations(key, project.name(), more);
        Desired::new(kind, parent, name).set("annotations", annotations)
    }

    /// The name, unless another owner has it already: then one that nobody else makes.
    fn free_name(&self, key: &Key, kind: Kind, name: FqName) -> FqName {
        let owner = |name: &FqName| {
            let object = self.graph.by_name(kind, name)?;
            Some((self.ownership.is_foreign(object), self.ownership.owner_of(object)))
        };
        let own = format!("{}/{}/{}", self.names.cluster(), key.namespace, key.name);
        let last = format!("{}__{}", name.name(), crate::names::digest(&own));
        let longer =
            name.parent().map_or_else(|| FqName::single(&last), |parent| parent.child(&last));
        // What has the longer name keeps it: nobody's end is to move anything of others.
        let has_longer = || owner(&longer).is_some_and(|(_, of)| of.as_ref() == Some(key));
        let taken = owner(&name)
            .is_some_and(|(foreign, of)| foreign || of.is_some_and(|owner| owner != *key));
        if taken || has_longer() { longer } else { name }
    }

    /// The vRouter of a node: by its address, else by its name, as tunnels may have addresses of their own. Nodes of
    /// other clusters may be called the same.
    fn router(&self, node: &str, address: Option<IpAddr>) -> Option<&'a Arc<Object>> {
        let text = address.map(|address| address.to_string());
        let of_address = |router: &&Arc<Object>| {
            let own = router.properties.get("virtual_router_ip_address").and_then(Value::as_str);
            own.is_some() && own == text.as_deref()
        };
        let root = FqName::single("default-global-system-config");
        // The usual name first: it costs one look-up.
        let named = self.graph.by_name(Kind::VIRTUAL_ROUTER, &root.child(node));
        let ours = |router: &&Arc<Object>| !self.is_others(router);
        let fits = |router: &&Arc<Object>| of_address(router) || text.is_none() && ours(router);
        if let Some(router) = named.filter(fits) {
            return Some(router);
        }
        let all = || self.graph.of_kind(Kind::VIRTUAL_ROUTER);
        all()
            .find(of_address)
            .or_else(|| named.filter(ours))
            .or_else(|| all().filter(ours).find(|r| r.name().eq_ignore_ascii_case(node)))
    }

    /// Whether a vRouter is that of another cluster's node.
    fn is_others(&self, router: &Object) -> bool {
        let cluster = crate::key::annotation(router, crate::key::CLUSTER).unwrap_or_default();
        !cluster.is_empty() && cluster != self.names.cluster()
    }

    /// What the fabric calls a node of Kubernetes.
    fn host(&self, node: &str) -> String {
        let address = self.cache.nodes.get(node).and_then(|node| node.addresses.first().copied());
        self.router(node, address)
            .map_or_else(|| node.to_owned(), |router| router.name().to_owned())
    }
}
