//! The configuration as it comes by the watch: what is kept of it, whose it is, and who waits for it.

use super::{Core, nested};
use crate::key::Key;
use skein_model::{Change, FqName, Kind, Object};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// Types of the configuration that are followed.
pub const FOLLOWED: [Kind; 27] = [
    Kind::DOMAIN,
    Kind::PROJECT,
    Kind::GLOBAL_SYSTEM_CONFIG,
    Kind::POLICY_MANAGEMENT,
    Kind::VIRTUAL_NETWORK,
    Kind::NETWORK_IPAM,
    Kind::NETWORK_POLICY,
    Kind::SECURITY_GROUP,
    Kind::VIRTUAL_ROUTER,
    Kind::VIRTUAL_MACHINE,
    Kind::VIRTUAL_MACHINE_INTERFACE,
    Kind::INSTANCE_IP,
    Kind::TAG,
    Kind::APPLICATION_POLICY_SET,
    Kind::FIREWALL_POLICY,
    Kind::FIREWALL_RULE,
    Kind::ADDRESS_GROUP,
    Kind::SERVICE_APPLIANCE_SET,
    Kind::LOADBALANCER,
    Kind::LOADBALANCER_LISTENER,
    Kind::LOADBALANCER_POOL,
    Kind::LOADBALANCER_MEMBER,
    Kind::FLOATING_IP_POOL,
    Kind::FLOATING_IP,
    Kind::GLOBAL_VROUTER_CONFIG,
    Kind::VIRTUAL_DNS,
    Kind::VIRTUAL_DNS_RECORD,
];

impl Core {
    /// Everything that the configuration holds.
    pub fn config_snapshot(&mut self, mut objects: Vec<Object>, revision: u64) {
        // Which addresses of others matter is known once the nodes' network is.
        objects.sort_by_key(|object| object.kind != Kind::VIRTUAL_NETWORK);
        let mut known: BTreeSet<Uuid> = self.graph.objects().map(|object| object.uuid).collect();
        for object in objects {
            known.remove(&object.uuid);
            self.config_put(object, revision);
        }
        for uuid in known {
            self.config_delete(uuid);
        }
        self.configuration_ready = true;
        self.mark_all();
    }

    /// A configuration object is new or changed.
    pub fn config_put(&mut self, mut object: Object, revision: u64) {
        let owner = self.ownership.owner_of(&object);
        if owner.is_none() && !kept_anyway(object.kind) && !is_host_port(&object) {
            if !self.is_of_machines(&object) {
                self.forget(object.uuid);
                return;
            }
            nested::strip(&mut object);
        }
        object.revision = revision;
        if object.kind == Kind::FIREWALL_RULE && owner.is_none() {
            // Only its name matters: it is taken.
            let annotations = crate::packed::properties(&object).get("annotations").cloned();
            object.properties.clear();
            object.properties.extend(annotations.map(|value| ("annotations".to_owned(), value)));
            object.references.clear();
        }
        crate::packed::shrink(&mut object);
        let uuid = object.uuid;
        if let Some(before) =
            self.owners.get(&uuid).filter(|before| Some(*before) != owner.as_ref())
        {
            let before = before.clone();
            self.disown(uuid, &before);
            self.mark(before);
        }
        if let Some(key) = &owner {
            self.owned.entry(key.clone()).or_default().insert(uuid);
            self.owners.insert(uuid, key.clone());
        }
        let (kind, name) = (object.kind, object.fq_name.clone());
        let object = Arc::new(object);
        let before = self.graph.apply(&Change::Put(object.clone()));
        if owner.is_none() {
            self.machine_changed(before.as_deref(), &object);
        }
        if let Some(key) = owner {
            self.mark(key);
        }
        if before.is_none() {
            self.appeared(kind, &name);
        } else {
            // A blocker may have let go.
            self.wake_gone(uuid);
        }
        if matches!(kind, Kind::VIRTUAL_NETWORK | Kind::NETWORK_IPAM) {
            // Perhaps with more subnets.
            self.feed();
            for key in self.wrong.clone() {
                self.mark(key);
            }
            self.network_changed(before.as_deref(), uuid);
        }
        if is_host_port(&object) {
            self.mark_dns();
        }
        if kind == Kind::VIRTUAL_ROUTER {
            let address = |o: &Object| o.properties.get("virtual_router_ip_address").cloned();
            if before.is_none_or(|before| address(&before) != address(&object)) {
                self.router_changed(&object);
            }
        }
    }

    /// A configuration object is gone.
    pub fn config_delete(&mut self, uuid: Uuid) {
        // Addresses of others are not kept, so what is not known may have been one.
        let known = self.graph.get(uuid).map(|object| object.kind);
        self.forget(uuid);
        if known.is_none_or(|kind| matches!(kind, Kind::INSTANCE_IP | Kind::FLOATING_IP)) {
            self.feed();
        }
    }

    fn forget(&mut self, uuid: Uuid) {
        let Some(object) = self.graph.apply(&Change::Delete(uuid)) else { return };
        if let Some(key) = self.owners.get(&uuid).cloned() {
            self.disown(uuid, &key);
            self.mark(key);
        }
        self.wake_gone(uuid);
        if object.kind == Kind::VIRTUAL_ROUTER {
            self.router_changed(&object);
        }
        if is_host_port(&object) {
            self.mark_dns();
        }
        if matches!(object.kind, Kind::VIRTUAL_NETWORK | Kind::NETWORK_POLICY) {
            self.mark_refused_reach();
        }
        // Whoever refers to it by name may want it back, or say that it is missing.
        if matches!(object.kind, Kind::VIRTUAL_NETWORK | Kind::FLOATING_IP_POOL | Kind::TAG) {
            self.vanished(&object);
        }
    }

    fn disown(&mut self, uuid: Uuid, key: &Key) {
        self.owners.remove(&uuid);
        if let Some(set) = self.owned.get_mut(key) {
            set.remove(&uuid);
            if set.is_empty() {
                self.owned.remove(key);
            }
        }
    }

    fn appeared(&mut self, kind: Kind, name: &FqName) {
        let keys = self.waiting.remove(&(kind, name.clone()));
        for key in keys.into_iter().flatten() {
            self.mark(key);
        }
    }

    fn wake_gone(&mut self, uuid: Uuid) {
        for key in self.waiting_gone.remove(&uuid).into_iter().flatten() {
            self.mark(key);
        }
    }
}

/// Types of which others' objects matter too.
fn kept_anyway(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::VIRTUAL_MACHINE
            | Kind::VIRTUAL_MACHINE_INTERFACE
            | Kind::INSTANCE_IP
            | Kind::LOADBALANCER
            | Kind::LOADBALANCER_LISTENER
            | Kind::LOADBALANCER_POOL
            | Kind::LOADBALANCER_MEMBER
            | Kind::FLOATING_IP
            | Kind::SECURITY_GROUP
            | Kind::VIRTUAL_DNS_RECORD
    )
}

/// Whether an object is the port of a node's own stack.
fn is_host_port(object: &Object) -> bool {
    object.kind == Kind::VIRTUAL_MACHINE_INTERFACE
        && object.parent.is_some_and(|(kind, _)| kind == Kind::VIRTUAL_ROUTER)
}
