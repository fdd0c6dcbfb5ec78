//! What a virtual-router is told of its Kubernetes node: zone and addresses. It is not ours: only these annotations are.

use super::Context;
use crate::desired::{Derived, Desired};
use crate::key::annotation;
use serde_json::json;
use skein_model::Kind;
use std::net::IpAddr;

const ZONE: &str = "zone";
const ADDRESSES: &str = "addresses";

pub(super) fn derive(cx: &Context<'_>, out: &mut Derived) {
    for (name, node) in &cx.cache.nodes {
        let Some(router) = cx.router(name, node.addresses.first().copied()) else { continue };
        let addresses: Vec<String> = node.addresses.iter().map(IpAddr::to_string).collect();
        let pairs: Vec<_> =
            [(ZONE, node.zone().unwrap_or_default().to_owned()), (ADDRESSES, addresses.join(","))]
                .into_iter()
                // What never was need not be made empty.
                .filter(|(key, value)| !value.is_empty() || annotation(router, key).is_some())
                .map(|(key, value)| json!({"key": key, "value": value}))
                .collect();
        if pairs.is_empty() {
            continue;
        }
        let parent = Some(Kind::GLOBAL_SYSTEM_CONFIG);
        let router = Desired::new(Kind::VIRTUAL_ROUTER, parent, router.fq_name.clone());
        out.objects.push(router.set("annotations", json!({"key_value_pair": pairs})));
    }
}
