//! The fabric's nodes: where node ports answer, and where they stand.

use crate::cluster::{self, annotation};
use crate::engine::Engine;
use crate::query::{Answer, Query};
use skein_model::Kind;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Annotations of a virtual-router that an orchestrator writes: its zone, and addresses besides the tunnel's.
const ZONE: &str = "zone";
const ADDRESSES: &str = "addresses";

/// What others need to know of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeFacts {
    /// Name of its virtual-router.
    pub name: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Where it stands; empty: not known.
    pub zone: String,
    /// The orchestrator's cluster that it is a node of; empty: of none.
    pub cluster: String,
}

pub(crate) fn facts(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::VIRTUAL_ROUTER, uuid) else { return Answer::Nothing };
    let tunnel: Option<String> = object.property("virtual_router_ip_address");
    let listed = annotation(&object, ADDRESSES).unwrap_or_default();
    let texts = tunnel.iter().map(String::as_str).chain(listed.split(','));
    let addresses = texts.filter_map(|text| text.trim().parse::<IpAddr>().ok());
    Answer::Node(Arc::new(NodeFacts {
        name: object.name().to_owned(),
        addresses: addresses.filter(is_usable).collect(),
        zone: annotation(&object, ZONE).unwrap_or_default(),
        cluster: cluster::of(&object),
    }))
}

/// Nobody else may be meant by it.
fn is_usable(address: &IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// All nodes, in order of their names.
pub(crate) fn all(engine: &mut Engine) -> Answer {
    let mut nodes: Vec<Arc<NodeFacts>> = Vec::new();
    for uuid in engine.all(Kind::VIRTUAL_ROUTER) {
        if let Answer::Node(node) = engine.ask(Query::Node(uuid)) {
            nodes.push(node);
        }
    }
    nodes.sort_unstable();
    Answer::Nodes(Arc::new(nodes))
}
