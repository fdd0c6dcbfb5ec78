//! The Kubernetes objects as they are, with what is looked up often.

use crate::derive::service_id;
use crate::key::{Key, Sort};
use crate::objects::{
    AdminPolicy, Ingress, IngressClass, KubeObject, Nad, Namespace, NetworkPolicy, Node, Pod,
    Resource, Service, Slice, VirtualNetwork,
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use uuid::Uuid;

/// `namespace`, `name`.
pub type Place = (Arc<str>, Arc<str>);

/// All Kubernetes objects that matter.
#[derive(Debug, Default)]
pub struct Cache {
    /// Namespaces by name.
    pub namespaces: BTreeMap<Arc<str>, Namespace>,
    /// Nodes by name.
    pub nodes: BTreeMap<Arc<str>, Node>,
    /// Pods.
    pub pods: BTreeMap<Place, Pod>,
    /// Services.
    pub services: BTreeMap<Place, Service>,
    /// Endpoint slices.
    pub slices: BTreeMap<Place, Slice>,
    /// Ingresses.
    pub ingresses: BTreeMap<Place, Ingress>,
    /// Classes of ingresses.
    pub classes: BTreeMap<Arc<str>, IngressClass>,
    /// Network policies.
    pub policies: BTreeMap<Place, NetworkPolicy>,
    /// Network policies of the form that is about other networks.
    pub multi_policies: BTreeMap<Place, NetworkPolicy>,
    /// Network attachment definitions.
    pub nads: BTreeMap<Place, Nad>,
    /// Networks that users made.
    pub virtual_networks: BTreeMap<Place, VirtualNetwork>,
    /// Policies of administrators, by kind and name.
    pub admin: BTreeMap<Place, AdminPolicy>,
    /// Slices of a service.
    by_service: HashMap<Place, BTreeSet<Arc<str>>>,
    /// Services that endpoints with a pod belong to, with how often.
    pod_services: HashMap<Uuid, BTreeMap<Uuid, u32>>,
    /// Pods by uid.
    by_uid: HashMap<Uuid, Place>,
    /// Numbers behind port names: (protocol, name) to numbers, each with its count of pods.
    port_numbers: HashMap<(Box<str>, Box<str>), BTreeMap<u16, u32>>,
}

/// What a change of the cache was.
#[derive(Debug)]
pub struct Changed {
    /// The object before.
    pub before: Option<KubeObject>,
    /// The object now.
    pub after: Option<KubeObject>,
    /// Port names whose set of numbers is another one now: protocol, name.
    pub port_names: Vec<(Box<str>, Box<str>)>,
}

impl Cache {
    /// A new or changed object; none if nothing that matters changed.
    pub fn put(&mut self, object: KubeObject) -> Option<Changed> {
        let before = self.take(&object);
        let same = before.as_ref() == Some(&object);
        let mut port_names = Vec::new();
        if let Some(before) = &before {
            self.unindex(before, &mut port_names);
        }
        self.index(&object, &mut port_names);
        self.insert(object.clone());
        // What was taken out and put back is no change.
        let still = |name: &(Box<str>, Box<str>), object: Option<&KubeObject>| {
            object.map_or_else(Vec::new, |o| numbers_of(o, name))
        };
        port_names.sort();
        port_names.dedup();
        port_names.retain(|name| still(name, before.as_ref()) != still(name, Some(&object)));
        (!same).then_some(Changed { before, after: Some(object), port_names })
    }

    /// An object that is gone.
    pub fn delete(&mut self, object: &KubeObject) -> Option<Changed> {
        let before = self.take(object)?;
        let mut port_names = Vec::new();
        self.unindex(&before, &mut port_names);
        Some(Changed { before: Some(before), after: None, port_names })
    }

    fn insert(&mut self, object: KubeObject) {
        let meta = object.meta();
        let name = meta.name.clone();
        let place = (meta.namespace.clone(), name.clone());
        match object {
            KubeObject::Namespace(o) => drop(self.namespaces.insert(name, o)),
            KubeObject::Node(o) => drop(self.nodes.insert(name, o)),
            KubeObject::Pod(o) => drop(self.pods.insert(place, o)),
            KubeObject::Service(o) => drop(self.services.insert(place, o)),
            KubeObject::Slice(o) => drop(self.slices.insert(place, o)),
            KubeObject::Ingress(o) => drop(self.ingresses.insert(place, o)),
            KubeObject::IngressClass(o) => drop(self.classes.insert(name, o)),
            KubeObject::NetworkPolicy(o) => drop(self.policies_of(o.resource).insert(place, o)),
            KubeObject::Nad(o) => drop(self.nads.insert(place, o)),
            KubeObject::VirtualNetwork(o) => drop(self.virtual_networks.insert(place, *o)),
            KubeObject::AdminPolicy(o) => {
                self.admin.insert((o.resource.kind().into(), name), o);
            }
        }
    }

    fn take(&mut self, like: &KubeObject) -> Option<KubeObject> {
        let meta = like.meta();
        let place = (meta.namespace.clone(), meta.name.clone());
        match like {
            KubeObject::Namespace(_) => {
                self.namespaces.remove(&meta.name).map(KubeObject::Namespace)
            }
            KubeObject::Node(_) => self.nodes.remove(&meta.name).map(KubeObject::Node),
            KubeObject::Pod(_) => self.pods.remove(&place).map(KubeObject::Pod),
            KubeObject::Service(_) => self.services.remove(&place).map(KubeObject::Service),
            KubeObject::Slice(_) => self.slices.remove(&place).map(KubeObject::Slice),
            KubeObject::Ingress(_) => self.ingresses.remove(&place).map(KubeObject::Ingress),
            KubeObject::IngressClass(_) => {
                self.classes.remove(&meta.name).map(KubeObject::IngressClass)
            }
            KubeObject::NetworkPolicy(o) => {
                self.policies_of(o.resource).remove(&place).map(KubeObject::NetworkPolicy)
            }
            KubeObject::Nad(_) => self.nads.remove(&place).map(KubeObject::Nad),
            KubeObject::VirtualNetwork(_) => self
                .virtual_networks
                .remove(&place)
                .map(|network| KubeObject::VirtualNetwork(Box::new(network))),
            KubeObject::AdminPolicy(o) => self
                .admin
                .remove(&(o.resource.kind().into(), meta.name.clone()))
                .map(KubeObject::AdminPolicy),
        }
    }

    fn policies_of(&mut self, resource: Resource) -> &mut BTreeMap<Place, NetworkPolicy> {
        match resource {
            Resource::MultiNetworkPolicy => &mut self.multi_policies,
            _ => &mut self.policies,
        }
    }

    fn index(&mut self, object: &KubeObject, changed: &mut Vec<(Box<str>, Box<str>)>) {
        match object {
            KubeObject::Pod(pod) => {
                let place = (pod.meta.namespace.clone(), pod.meta.name.clone());
                self.by_uid.insert(pod.meta.uid, place);
                for (name, protocol, number) in live_ports(pod) {
                    let key = (protocol.clone(), name.clone());
                    let count = self
                        .port_numbers
                        .entry(key.clone())
                        .or_default()
                        .entry(*number)
                        .or_default();
                    *count += 1;
                    if *count == 1 {
                        changed.push(key);
                    }
                }
            }
            KubeObject::Slice(slice) => {
                if let Some(service) = &slice.service {
                    let place = (slice.meta.namespace.clone(), service.clone());
                    self.by_service.entry(place).or_default().insert(slice.meta.name.clone());
                    let id = service_id(&slice.meta.namespace, service);
                    for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod) {
                        *self.pod_services.entry(pod).or_default().entry(id).or_default() += 1;
                    }
                }
            }
            _ => {}
        }
    }

    fn unindex(&mut self, object: &KubeObject, changed: &mut Vec<(Box<str>, Box<str>)>) {
        match object {
            KubeObject::Pod(pod) => {
                self.by_uid.remove(&pod.meta.uid);
                for (name, protocol, number) in live_ports(pod) {
                    let key = (protocol.clone(), name.clone());
                    let Some(numbers) = self.port_numbers.get_mut(&key) else { continue };
                    if let Some(count) = numbers.get_mut(number) {
                        *count -= 1;
                        if *count == 0 {
                            numbers.remove(number);
                            if numbers.is_empty() {
                                self.port_numbers.remove(&key);
                            }
                            changed.push(key);
                        }
                    }
                }
            }
            KubeObject::Slice(slice) => {
                if let Some(service) = &slice.service {
                    let place = (slice.meta.namespace.clone(), service.clone());
                    if let Some(names) = self.by_service.get_mut(&place) {
                        names.remove(&slice.meta.name);
                        if names.is_empty() {
                            self.by_service.remove(&place);
                        }
                    }
                    let id = service_id(&slice.meta.namespace, service);
                    for pod in slice.endpoints.iter().filter_map(|endpoint| endpoint.pod) {
                        let Some(services) = self.pod_services.get_mut(&pod) else { continue };
                        if let Some(count) = services.get_mut(&id) {
                            *count -= 1;
                            if *count == 0 {
                                services.remove(&id);
                            }
                        }
                        if services.is_empty() {
                            self.pod_services.remove(&pod);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Objects of a type that a full list does not hold: `(namespace, name)`.
    #[must_use]
    pub fn absent(&self, resource: Resource, seen: &HashSet<Place>) -> Vec<KubeObject> {
        fn rest<T: Clone>(
            map: &BTreeMap<Place, T>,
            seen: &HashSet<Place>,
            wrap: fn(T) -> KubeObject,
        ) -> Vec<KubeObject> {
            let gone = map.iter().filter(|(place, _)| !seen.contains(*place));
            gone.map(|(_, object)| wrap(object.clone())).collect()
        }
        let bare = |name: &Arc<str>| !seen.contains(&(Arc::from(""), name.clone()));
        match resource {
            Resource::Namespace => {
                let gone = self.namespaces.values().filter(|o| bare(&o.meta.name));
                gone.cloned().map(KubeObject::Namespace).collect()
            }
            Resource::Node => {
                let gone = self.nodes.values().filter(|o| bare(&o.meta.name));
                gone.cloned().map(KubeObject::Node).collect()
            }
            Resource::IngressClass => {
                let gone = self.classes.values().filter(|o| bare(&o.meta.name));
                gone.cloned().map(KubeObject::IngressClass).collect()
            }
            Resource::Pod => rest(&self.pods, seen, KubeObject::Pod),
            Resource::Service => rest(&self.services, seen, KubeObject::Service),
            Resource::EndpointSlice | Resource::Endpoints => {
                rest(&self.slices, seen, KubeObject::Slice)
            }
            Resource::Ingress => rest(&self.ingresses, seen, KubeObject::Ingress),
            Resource::NetworkPolicy => rest(&self.policies, seen, KubeObject::NetworkPolicy),
            Resource::MultiNetworkPolicy => {
                rest(&self.multi_policies, seen, KubeObject::NetworkPolicy)
            }
            Resource::Nad => rest(&self.nads, seen, KubeObject::Nad),
            Resource::VirtualNetwork => rest(&self.virtual_networks, seen, |network| {
                KubeObject::VirtualNetwork(Box::new(network))
            }),
            Resource::ClusterNetworkPolicy
            | Resource::AdminNetworkPolicy
            | Resource::BaselineAdminNetworkPolicy => {
                let own = self.admin.values().filter(|o| o.resource == resource);
                let gone = own.filter(|o| bare(&o.meta.name));
                gone.cloned().map(KubeObject::AdminPolicy).collect()
            }
        }
    }

    /// The slices of a service.
    pub fn slices_of(
        &self,
        namespace: &Arc<str>,
        service: &Arc<str>,
    ) -> impl Iterator<Item = &Slice> {
        let names = self.by_service.get(&(namespace.clone(), service.clone()));
        names
            .into_iter()
            .flatten()
            .filter_map(|name| self.slices.get(&(namespace.clone(), name.clone())))
    }

    /// A pod by its uid.
    #[must_use]
    pub fn pod(&self, uid: Uuid) -> Option<&Pod> {
        self.pods.get(self.by_uid.get(&uid)?)
    }

    /// Ids of the services whose backend a pod is.
    #[must_use]
    pub fn services_of(&self, pod: Uuid) -> BTreeSet<Uuid> {
        let services = self.pod_services.get(&pod);
        services.map_or_else(BTreeSet::new, |services| services.keys().copied().collect())
    }

    /// Numbers that pods have for a port name; the protocol in capitals.
    #[must_use]
    pub fn port_numbers(&self, protocol: &str, name: &str) -> Vec<u16> {
        let numbers = self.port_numbers.get(&(protocol.into(), name.into()));
        numbers.map_or_else(Vec::new, |numbers| numbers.keys().copied().collect())
    }

    /// The pods of a namespace.
    pub fn pods_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Pod> {
        in_namespace(&self.pods, namespace)
    }

    /// The services of a namespace.
    pub fn services_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Service> {
        in_namespace(&self.services, namespace)
    }

    /// The ingresses of a namespace.
    pub fn ingresses_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Ingress> {
        in_namespace(&self.ingresses, namespace)
    }

    /// Every owner there is, apart from the cluster and shared things.
    #[must_use]
    pub fn keys(&self) -> Vec<Key> {
        let mut out: Vec<Key> = Vec::new();
        out.extend(self.namespaces.keys().map(|name| Key::new(Sort::Namespace, "", name)));
        let places: [(Sort, Vec<&Place>); 8] = [
            (Sort::Nad, self.nads.keys().collect()),
            (Sort::VirtualNetwork, self.virtual_networks.keys().collect()),
            (Sort::Service, self.services.keys().collect()),
            (Sort::Policy, self.policies.keys().collect()),
            (Sort::MultiPolicy, self.multi_policies.keys().collect()),
            (Sort::Admin, self.admin.keys().collect()),
            (Sort::Ingress, self.ingresses.keys().collect()),
            (Sort::Pod, self.pods.keys().collect()),
        ];
        for (sort, list) in places {
            out.extend(list.into_iter().map(|(namespace, name)| Key {
                sort,
                namespace: namespace.clone(),
                name: name.clone(),
            }));
        }
        out
    }
}

fn in_namespace<'a, T>(
    map: &'a BTreeMap<Place, T>,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let namespace = namespace.clone();
    let start: Place = (namespace.clone(), "".into());
    map.range(start..).take_while(move |(place, _)| place.0 == namespace).map(|(_, object)| object)
}

/// Named ports of a pod that can be reached.
fn live_ports(pod: &Pod) -> &[(Box<str>, Box<str>, u16)] {
    if pod.is_attached() { &pod.ports } else { &[] }
}

fn numbers_of(object: &KubeObject, name: &(Box<str>, Box<str>)) -> Vec<u16> {
    let KubeObject::Pod(pod) = object else { return Vec::new() };
    live_ports(pod)
        .iter()
        .filter(|(n, protocol, _)| *n == name.1 && *protocol == name.0)
        .map(|(_, _, number)| *number)
        .collect()
}
