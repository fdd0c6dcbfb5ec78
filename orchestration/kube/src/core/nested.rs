//! Nested mode: what is followed of the machines that the cluster's nodes are.

use super::Core;
use crate::derive::nested::node_address;
use crate::key::{Key, Sort};
use crate::packed;
use skein_model::{Kind, Object};
use std::collections::BTreeSet;
use std::net::IpAddr;
use uuid::Uuid;

/// What matters of a machine's port, or of another cluster's on it.
const PROPERTIES: [&str; 3] = [
    "virtual_machine_interface_bindings",
    "virtual_machine_interface_properties",
    "instance_ip_address",
];

/// Drops what does not matter of others' ports and addresses: there are many.
pub(super) fn strip(object: &mut Object) {
    // It comes packed by the watch.
    object.properties = packed::properties(object).into_owned();
    object.properties.retain(|name, _| PROPERTIES.contains(&name.as_str()));
    object.references.retain(|reference| {
        matches!(reference.kind, Kind::VIRTUAL_MACHINE_INTERFACE | Kind::VIRTUAL_NETWORK)
    });
}

impl Core {
    /// Ports, and addresses of the nodes' network, in nested mode.
    pub(super) fn is_of_machines(&self, object: &Object) -> bool {
        let Some(network) = self.names.nodes_network() else { return false };
        match object.kind {
            Kind::VIRTUAL_MACHINE_INTERFACE => true,
            Kind::INSTANCE_IP => {
                let network = self.graph.by_name(Kind::VIRTUAL_NETWORK, &network);
                network.is_some_and(|network| {
                    object.references_to(Kind::VIRTUAL_NETWORK).any(|r| r.uuid == network.uuid)
                })
            }
            _ => false,
        }
    }

    /// A machine's port or address is new or different: the pods on it are looked at again.
    pub(super) fn machine_changed(&mut self, before: Option<&Object>, after: &Object) {
        let content = |object: &Object| {
            let ends: Vec<Uuid> = object.references.iter().map(|r| r.uuid).collect();
            (packed::properties(object).into_owned(), ends)
        };
        let addresses: BTreeSet<IpAddr> = match after.kind {
            _ if self.names.nodes_network().is_none() => return,
            Kind::INSTANCE_IP => address(after).into_iter().collect(),
            Kind::VIRTUAL_MACHINE_INTERFACE => {
                // Sub-interfaces come and go; only where the machine is matters to its pods.
                let bindings = |object: &Object| {
                    let properties = packed::properties(object);
                    properties.get("virtual_machine_interface_bindings").cloned()
                };
                if before.is_some_and(|before| bindings(before) == bindings(after)) {
                    return;
                }
                let all = self.graph.back_references_from(after.uuid, Kind::INSTANCE_IP);
                all.filter_map(|ip| address(ip)).collect()
            }
            _ => return,
        };
        if before.is_some_and(|before| content(before) == content(after)) {
            return;
        }
        let cx = self.context();
        let pods = self.cache.pods.values();
        let here = pods.filter(|pod| {
            node_address(&cx, pod).is_some_and(|address| addresses.contains(&address))
        });
        let keys: Vec<Key> = here
            .map(|pod| Key {
                sort: Sort::Pod,
                namespace: pod.meta.namespace.clone(),
                name: pod.meta.name.clone(),
            })
            .collect();
        self.marked.extend(keys);
    }
}

fn address(ip: &Object) -> Option<IpAddr> {
    packed::text(ip, "instance_ip_address")?.parse().ok()
}
