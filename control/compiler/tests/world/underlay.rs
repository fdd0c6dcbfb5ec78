//! Networks whose provider is the nodes' own.

use super::{Build, id, network};
use serde_json::json;
use skein_model::{Change, FqName, Kind, Reference};
use std::sync::Arc;

const FABRIC: &str = "ip-fabric";

/// The nodes' own network.
pub(crate) fn fabric(policies: &[&str]) -> Vec<Change> {
    let mut all = network(FABRIC, 90, policies);
    for change in &mut all {
        let Change::Put(object) = change else { continue };
        let object = Arc::make_mut(object);
        let name = "default-domain:default-project:ip-fabric";
        match object.kind {
            Kind::VIRTUAL_NETWORK => object.fq_name = FqName::parse(name),
            Kind::ROUTING_INSTANCE => object.fq_name = FqName::parse(&format!("{name}:ip-fabric")),
            _ => {}
        }
    }
    all
}

/// A network as [`network`] makes it, in the underlay.
pub(crate) fn provided(name: &str, number: u32, policies: &[&str]) -> Vec<Change> {
    let mut all = network(name, number, policies);
    for change in &mut all {
        if let Change::Put(object) = change
            && object.kind == Kind::VIRTUAL_NETWORK
        {
            Arc::make_mut(object).references.push(Reference {
                kind: Kind::VIRTUAL_NETWORK,
                uuid: id(Kind::VIRTUAL_NETWORK, FABRIC),
                attr: json!(null),
                relaxed: false,
            });
        }
    }
    all
}

/// The same with a pool of its subnet's addresses for ports.
pub(crate) fn pooled(name: &str, number: u32, first: u8, last: u8) -> Vec<Change> {
    let mut all = provided(name, number, &[]);
    for change in &mut all {
        if let Change::Put(object) = change {
            for reference in &mut Arc::make_mut(object).references {
                if let Some(subnet) = reference.attr.pointer_mut("/ipam_subnets/0") {
                    subnet["allocation_pools"] = json!([{
                        "start": format!("10.{number}.0.{first}"), "end": format!("10.{number}.0.{last}"),
                    }]);
                }
            }
        }
    }
    all
}

/// A pool of floating IPs: the network is public.
pub(crate) fn public(network: &str) -> Change {
    Build::new(Kind::FLOATING_IP_POOL, network).under(Kind::VIRTUAL_NETWORK, network).put()
}
