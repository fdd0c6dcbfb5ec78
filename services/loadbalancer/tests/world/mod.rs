//! A small world of configuration objects, and an API that takes in what is written.
#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(clippy::needless_pass_by_value)] // json! reads better where it is passed

use serde_json::{Map, Value, json};
use skein_loadbalancer::{Balancer, Write, read};
use skein_model::{Change, Graph, Kind, Object};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// A stable uuid for a type and name.
pub(crate) fn id(kind: Kind, name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{kind}/{name}").as_bytes())
}

pub(crate) const VIP: &str = "10.1.0.100";

/// All objects, in the form of the API.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    objects: BTreeMap<Uuid, (Kind, Map<String, Value>)>,
    /// What changed since the last look.
    pub(crate) changed: Vec<Uuid>,
}

impl World {
    /// A load balancer `web` with its port and address, and a network.
    pub(crate) fn new(address: &str) -> World {
        let mut world = World::default();
        world.put(Kind::VIRTUAL_NETWORK, "pods", json!({}));
        world.put(
            Kind::VIRTUAL_MACHINE_INTERFACE,
            "vip",
            json!({
                "virtual_network_refs": [{"uuid": id(Kind::VIRTUAL_NETWORK, "pods")}],
                "tag_refs": [{"uuid": id(Kind::TAG, "ingress=web")}],
            }),
        );
        world.put(
            Kind::INSTANCE_IP,
            "vip",
            json!({
                "instance_ip_address": address,
                "virtual_machine_interface_refs":
                    [{"uuid": id(Kind::VIRTUAL_MACHINE_INTERFACE, "vip")}],
            }),
        );
        world.put(
            Kind::FLOATING_IP,
            "fip",
            json!({
                "floating_ip_address": "192.0.2.7",
                "virtual_machine_interface_refs":
                    [{"uuid": id(Kind::VIRTUAL_MACHINE_INTERFACE, "vip")}],
            }),
        );
        world.balancer("web", "opencontrail", address);
        world
    }

    pub(crate) fn balancer(&mut self, name: &str, provider: &str, address: &str) {
        self.put(
            Kind::LOADBALANCER,
            name,
            json!({
                "loadbalancer_provider": provider,
                "loadbalancer_properties": {"vip_address": address, "admin_state": true},
                "virtual_machine_interface_refs":
                    [{"uuid": id(Kind::VIRTUAL_MACHINE_INTERFACE, "vip")}],
            }),
        );
    }

    pub(crate) fn put(&mut self, kind: Kind, name: &str, fields: Value) {
        let Value::Object(mut fields) = fields else { panic!("fields are an object") };
        let uuid = id(kind, name);
        let full = match kind {
            Kind::INSTANCE_IP => json!([name]),
            Kind::VIRTUAL_ROUTER => json!(["default-global-system-config", name]),
            _ => json!(["default-domain", "shop", name]),
        };
        fields.insert("uuid".into(), json!(uuid));
        fields.entry("fq_name").or_insert(full);
        self.objects.insert(uuid, (kind, fields));
        self.changed.push(uuid);
    }

    pub(crate) fn annotate(&mut self, kind: Kind, name: &str, annotations: Value) {
        let uuid = id(kind, name);
        let (_, fields) = self.objects.get_mut(&uuid).unwrap();
        fields.insert("annotations".into(), annotations);
        self.changed.push(uuid);
    }

    pub(crate) fn remove(&mut self, kind: Kind, name: &str) {
        self.objects.remove(&id(kind, name));
        self.changed.push(id(kind, name));
    }

    /// A listener with a pool of its own name, unless it is said to have none.
    pub(crate) fn listener(&mut self, name: &str, properties: Value, notes: &[(&str, &str)]) {
        let pairs: Vec<Value> =
            notes.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
        self.put(
            Kind::LOADBALANCER_LISTENER,
            name,
            json!({
                "loadbalancer_listener_properties": properties,
                "annotations": {"key_value_pair": pairs},
                "loadbalancer_refs": [{"uuid": id(Kind::LOADBALANCER, "web")}],
            }),
        );
    }

    pub(crate) fn pool(&mut self, name: &str, properties: Value, monitor: Option<&str>) {
        let monitors: Vec<Value> = monitor
            .iter()
            .map(|name| json!({"uuid": id(Kind::LOADBALANCER_HEALTHMONITOR, name)}))
            .collect();
        self.put(
            Kind::LOADBALANCER_POOL,
            name,
            json!({
                "loadbalancer_pool_properties": properties,
                "loadbalancer_listener_refs": [{"uuid": id(Kind::LOADBALANCER_LISTENER, name)}],
                "loadbalancer_healthmonitor_refs": monitors,
            }),
        );
    }

    pub(crate) fn member(&mut self, pool: &str, name: &str, address: &str, port: u16, more: Value) {
        let mut properties = json!({"address": address, "protocol_port": port});
        if let (Some(all), Value::Object(more)) = (properties.as_object_mut(), more) {
            all.extend(more);
        }
        self.put(
            Kind::LOADBALANCER_MEMBER,
            name,
            json!({
                "parent_type": "loadbalancer-pool",
                "parent_uuid": id(Kind::LOADBALANCER_POOL, pool),
                "loadbalancer_member_properties": properties,
            }),
        );
    }

    /// A route as the Kubernetes manager says it: host, path type, path; to a pool with one member.
    pub(crate) fn route(&mut self, host: &str, kind: &str, path: &str, member: (&str, u16)) {
        let name = format!("{host} {kind} {path}");
        let notes = [("type", "acl"), ("host", host), ("path", path), ("pathType", kind)];
        self.listener(&name, json!({"protocol": "HTTP", "protocol_port": 80}), &notes);
        self.pool(&name, json!({"protocol": "HTTP", "loadbalancer_method": "ROUND_ROBIN"}), None);
        self.member(&name, &format!("m {name}"), member.0, member.1, json!({}));
    }

    pub(crate) fn otherwise(&mut self, member: (&str, u16)) {
        let http = json!({"protocol": "HTTP", "protocol_port": 80});
        self.listener("default", http, &[("type", "default")]);
        self.pool("default", json!({"protocol": "HTTP"}), None);
        self.member("default", "m default", member.0, member.1, json!({}));
    }

    pub(crate) fn object(&self, uuid: Uuid) -> Option<Object> {
        let (kind, fields) = self.objects.get(&uuid)?;
        Some(skein_client::decode(*kind, fields.clone()).unwrap())
    }

    pub(crate) fn objects(&self) -> Vec<Object> {
        self.objects.keys().map(|uuid| self.object(*uuid).unwrap()).collect()
    }

    pub(crate) fn graph(&self) -> Graph {
        let mut graph = Graph::default();
        for object in self.objects() {
            graph.apply(&Change::Put(Arc::new(object)));
        }
        graph
    }

    /// `web`, read.
    pub(crate) fn read(&self) -> Balancer {
        let graph = self.graph();
        let object = graph.get(id(Kind::LOADBALANCER, "web")).unwrap();
        read::balancer(&graph, object).unwrap()
    }

    /// Takes in what a node writes, as the API would.
    pub(crate) fn write(&mut self, write: &Write) {
        match write {
            Write::Create { kind, fields } => {
                let name = fields["fq_name"].as_array().unwrap().last().unwrap();
                let (kind, name) = (*kind, name.as_str().unwrap().to_owned());
                if !self.objects.contains_key(&id(kind, &name)) {
                    self.put(kind, &name, fields.clone());
                }
            }
            Write::Update { uuid, fields, .. } => {
                let (_, object) = self.objects.get_mut(uuid).unwrap();
                object.extend(fields.as_object().unwrap().clone());
                self.changed.push(*uuid);
            }
            Write::Delete { uuid, .. } => {
                self.objects.remove(uuid);
                self.changed.push(*uuid);
            }
            Write::Refer { uuid, port, add, .. } => {
                let Some((_, object)) = self.objects.get_mut(uuid) else { return };
                let list = object
                    .entry("virtual_machine_interface_refs")
                    .or_insert_with(|| json!([]))
                    .as_array_mut()
                    .unwrap();
                list.retain(|one| one["uuid"] != json!(port));
                if *add {
                    list.push(json!({"uuid": port}));
                }
                self.changed.push(*uuid);
            }
        }
    }

    /// What the objects say of a reference list.
    pub(crate) fn targets(&self, kind: Kind, name: &str, target: Kind) -> Vec<Uuid> {
        let object = self.object(id(kind, name));
        object.map_or_else(Vec::new, |o| o.references_to(target).map(|r| r.uuid).collect())
    }
}
