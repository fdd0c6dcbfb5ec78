//! What a virtual-router is told of its Kubernetes node: zone, addresses, and whose it is. It is not ours: only these
//! annotations are.

use super::Context;
use crate::desired::{Derived, Desired};
use crate::key::{CLUSTER, annotation};
use serde_json::json;
use skein_model::{Kind, Object};
use std::collections::BTreeSet;
use std::net::IpAddr;
use uuid::Uuid;

const ZONE: &str = "zone";
const ADDRESSES: &str = "addresses";
/// What stays of a node that is gone: nothing.
const GONE: [(&str, &str); 3] = [(ZONE, ""), (ADDRESSES, ""), (CLUSTER, "")];

pub(super) fn derive(cx: &Context<'_>, out: &mut Derived) {
    // Machines of an outer fabric are no nodes of it.
    if cx.names.nodes_network().is_some() {
        return;
    }
    let mut told: BTreeSet<Uuid> = BTreeSet::new();
    for (name, node) in &cx.cache.nodes {
        let Some(router) = cx.router(name, node.addresses.first().copied()) else { continue };
        let addresses: Vec<String> = node.addresses.iter().map(IpAddr::to_string).collect();
        let addresses = addresses.join(",");
        let facts = [
            (ZONE, node.zone().unwrap_or_default()),
            (ADDRESSES, addresses.as_str()),
            (CLUSTER, cx.names.cluster()),
        ];
        told.insert(router.uuid);
        tell(router, &facts, out);
    }
    // One that left may join another cluster.
    for router in cx.graph.of_kind(Kind::VIRTUAL_ROUTER) {
        let ours = annotation(router, CLUSTER) == Some(cx.names.cluster());
        if ours && !told.contains(&router.uuid) {
            tell(router, &GONE, out);
        }
    }
}

fn tell(router: &Object, facts: &[(&str, &str)], out: &mut Derived) {
    let pairs: Vec<_> = facts
        .iter()
        // What never was need not be made empty.
        .filter(|(key, value)| !value.is_empty() || annotation(router, key).is_some())
        .map(|(key, value)| json!({"key": key, "value": value}))
        .collect();
    if pairs.is_empty() {
        return;
    }
    let parent = Some(Kind::GLOBAL_SYSTEM_CONFIG);
    let router = Desired::new(Kind::VIRTUAL_ROUTER, parent, router.fq_name.clone());
    out.objects.push(router.set("annotations", json!({"key_value_pair": pairs})));
}
