//! Whom a change concerns. Too many is slow, too few is wrong.

use super::Core;
use crate::cache::Changed;
use crate::derive::{Candidate, Shift, TagTable};
use crate::desired::Predicate;
use crate::key::{Key, Sort};
use crate::objects::{KubeObject, Meta, Namespace, Pod, Resource, Slice};
use serde_json::Value;
use skein_model::Object;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

fn place(sort: Sort, meta: &Meta) -> Key {
    Key { sort, namespace: meta.namespace.clone(), name: meta.name.clone() }
}

impl Core {
    pub(super) fn kube_changed(&mut self, changed: &Changed) {
        let Some(object) = changed.after.as_ref().or(changed.before.as_ref()) else { return };
        for (protocol, name) in &changed.port_names {
            let users: Vec<Key> = self.tags.users_of_port(protocol, name).cloned().collect();
            self.marked.extend(users);
        }
        match object {
            KubeObject::Namespace(namespace) => self.namespace_changed(namespace, changed),
            KubeObject::Pod(pod) => self.pod_changed(pod, changed),
            KubeObject::Service(service) => {
                self.mark(place(Sort::Service, &service.meta));
                self.mark_ingresses(&service.meta.namespace);
            }
            KubeObject::Slice(_) => self.slice_changed(changed),
            KubeObject::Ingress(ingress) => self.mark(place(Sort::Ingress, &ingress.meta)),
            KubeObject::IngressClass(_) => {
                let keys: Vec<Key> =
                    self.cache.ingresses.values().map(|i| place(Sort::Ingress, &i.meta)).collect();
                self.marked.extend(keys);
            }
            KubeObject::NetworkPolicy(policy) => {
                let multi = policy.resource == Resource::MultiNetworkPolicy;
                let sort = if multi { Sort::MultiPolicy } else { Sort::Policy };
                self.mark(place(sort, &policy.meta));
            }
            KubeObject::Nad(nad) => {
                self.mark(place(Sort::Nad, &nad.meta));
                let asks =
                    |pod: &&Pod| pod.meta.annotation("k8s.v1.cni.cncf.io/networks").is_some();
                let pods: Vec<Key> = self
                    .cache
                    .pods
                    .values()
                    .filter(asks)
                    .map(|pod| place(Sort::Pod, &pod.meta))
                    .collect();
                self.marked.extend(pods);
                let users = crate::derive::users_of_networks(&self.cache);
                self.marked.extend(users);
            }
            KubeObject::VirtualNetwork(network) => {
                // Whoever waits for it waits for what it becomes.
                self.mark(place(Sort::VirtualNetwork, &network.meta));
            }
            KubeObject::AdminPolicy(policy) => {
                let kind = policy.resource.kind();
                self.mark(Key::new(Sort::Admin, kind, &policy.meta.name));
            }
            KubeObject::Node(node) => {
                // Zones and addresses: of the node itself, of backends and of policies about nodes.
                self.mark_cluster();
                self.mark_reach();
                let name = node.meta.name.clone();
                let services: BTreeSet<Key> = self
                    .cache
                    .slices
                    .values()
                    .filter(|slice| {
                        slice.endpoints.iter().any(|e| e.node.as_deref() == Some(&*name))
                    })
                    .filter_map(service_of)
                    .collect();
                self.marked.extend(services);
                let admin: Vec<Key> = self
                    .cache
                    .admin
                    .values()
                    .map(|p| Key::new(Sort::Admin, p.resource.kind(), &p.meta.name))
                    .collect();
                self.marked.extend(admin);
                // In an outer fabric its address says which machine its pods are on.
                if self.names.nodes_network().is_some() {
                    let pods = self.cache.pods.values();
                    let here = pods.filter(|pod| pod.node.as_deref() == Some(&*name));
                    let here: Vec<Key> = here.map(|pod| place(Sort::Pod, &pod.meta)).collect();
                    self.marked.extend(here);
                }
            }
        }
    }

    fn namespace_changed(&mut self, namespace: &Namespace, changed: &Changed) {
        let name = namespace.meta.name.clone();
        self.mark(Key::new(Sort::Namespace, "", &name));
        let annotations = |object: &Option<KubeObject>| {
            object.as_ref().map(|object| object.meta().annotations.clone())
        };
        let told = annotations(&changed.before) != annotations(&changed.after);
        if told {
            self.mark_cluster();
            let services: Vec<Key> =
                self.cache.services_in(&name).map(|s| place(Sort::Service, &s.meta)).collect();
            self.marked.extend(services);
            self.mark_ingresses(&name);
        }
        // Its labels are tags of its pods, its annotations say where they live.
        let pods: Vec<Key> = self.cache.pods_in(&name).map(|p| place(Sort::Pod, &p.meta)).collect();
        self.marked.extend(pods);
    }

    fn mark_ingresses(&mut self, namespace: &Arc<str>) {
        let keys: Vec<Key> =
            self.cache.ingresses_in(namespace).map(|i| place(Sort::Ingress, &i.meta)).collect();
        self.marked.extend(keys);
    }

    fn pod_changed(&mut self, pod: &Pod, changed: &Changed) {
        self.mark(place(Sort::Pod, &pod.meta));
        // A network on its way out goes with its last pod.
        let going = self.cache.virtual_networks.values().filter(|network| network.deleting);
        let going: Vec<Key> =
            going.map(|network| place(Sort::VirtualNetwork, &network.meta)).collect();
        self.marked.extend(going);
        let known = |object: &Option<KubeObject>| match object {
            Some(KubeObject::Pod(pod)) => Some((pod.meta.uid, pod.host_network)),
            _ => None,
        };
        if known(&changed.before) == known(&changed.after) {
            return;
        }
        // Members say which port a backend is.
        let services = self.cache.services_of(pod.meta.uid);
        if !services.is_empty() {
            let slices = self.cache.slices.iter();
            let keys: BTreeSet<Key> = slices
                .filter(|((namespace, _), _)| *namespace == pod.meta.namespace)
                .filter(|(_, slice)| slice.endpoints.iter().any(|e| e.pod == Some(pod.meta.uid)))
                .filter_map(|(_, slice)| service_of(slice))
                .collect();
            self.marked.extend(keys);
        }
    }

    fn slice_changed(&mut self, changed: &Changed) {
        let slices = [&changed.before, &changed.after];
        let mut pods: BTreeSet<Uuid> = BTreeSet::new();
        for object in slices.into_iter().flatten() {
            let KubeObject::Slice(slice) = object else { continue };
            self.marked.extend(service_of(slice));
            pods.extend(slice.endpoints.iter().filter_map(|endpoint| endpoint.pod));
        }
        // Only ingresses make a service a tag of its backends.
        if self.cache.ingresses.is_empty() {
            return;
        }
        let keys: Vec<Key> = pods
            .into_iter()
            .filter_map(|uid| self.cache.pod(uid))
            .map(|pod| place(Sort::Pod, &pod.meta))
            .collect();
        self.marked.extend(keys);
    }

    /// The nodes are the members of the service by which pods ask for names.
    pub(super) fn mark_dns(&mut self) {
        if self.settings.dns.serve
            && let Some(front) = self.settings.dns.front()
        {
            self.mark(front);
        }
    }

    pub(super) fn router_changed(&mut self, router: &Object) {
        self.mark_dns();
        let address = router.properties.get("virtual_router_ip_address").and_then(Value::as_str);
        let name = router.name();
        let here = |pod: &&Pod| {
            pod.node.as_deref().is_some_and(|node| node.eq_ignore_ascii_case(name))
                || pod.host_address.is_some_and(|a| Some(a.to_string().as_str()) == address)
        };
        let pods = self.cache.pods.values().filter(here).map(|pod| place(Sort::Pod, &pod.meta));
        let pods: Vec<Key> = pods.collect();
        self.marked.extend(pods);
        self.mark_cluster();
    }

    /// Something that others name is gone.
    pub(super) fn vanished(&mut self, object: &Object) {
        let holders: Vec<Uuid> = self.graph.back_references(object.uuid).map(|o| o.uuid).collect();
        for holder in holders {
            if let Some(key) = self.owners.get(&holder).cloned() {
                self.mark(key);
            }
        }
        self.mark(Key::new(Sort::Tag, "", object.name()));
    }

    /// Others' tags, and pods whose tags these are.
    pub(super) fn shifted(&mut self, shift: Shift) {
        self.marked.extend(shift.keys);
        if shift.pod_keys {
            let users = self.tags.namespace_selectors();
            self.marked.extend(users);
        }
        if shift.predicates.is_empty() {
            return;
        }
        let services: Vec<&Predicate> =
            shift.predicates.iter().filter(|p| matches!(p, Predicate::Service(..))).collect();
        let mut keys = Vec::new();
        for pod in self.cache.pods.values().filter(|pod| pod.is_attached()) {
            let namespace = self.cache.namespaces.get(&pod.meta.namespace).map(|n| &n.meta);
            let own = if services.is_empty() {
                BTreeSet::new()
            } else {
                self.cache.services_of(pod.meta.uid)
            };
            let candidate = Candidate { pod, namespace, services: &own };
            if shift.predicates.iter().any(|predicate| TagTable::fits(predicate, candidate)) {
                keys.push(place(Sort::Pod, &pod.meta));
            }
        }
        self.marked.extend(keys);
    }
}

fn service_of(slice: &Slice) -> Option<Key> {
    let name = slice.service.clone()?;
    Some(Key { sort: Sort::Service, namespace: slice.meta.namespace.clone(), name })
}
