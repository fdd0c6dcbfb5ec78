//! Which tags are asked for, and which pods carry them.
//!
//! Only labels that a selector uses become tags. An AND of equalities is said with one tag a label, as the original
//! does; any other selector is judged here, and the pods it fits carry one tag made for it.

use super::reach;
use crate::desired::{Demand, Interfaces, Predicate};
use crate::key::{Key, Sort};
use crate::names;
use crate::objects::{Meta, Pod, Selector};
use skein_model::FqName;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use uuid::Uuid;

/// Everything that owners demand.
#[derive(Debug, Default)]
pub struct TagTable {
    /// Who demands what.
    demanded: HashMap<Demand, BTreeSet<Key>>,
    /// Predicates of a tag.
    tags: BTreeMap<String, BTreeSet<Predicate>>,
    /// Tags of pod labels and of namespace labels.
    pod_labels: HashMap<(String, String), String>,
    namespace_labels: HashMap<(String, String), String>,
    /// Tags whose predicates must be judged one by one.
    judged: BTreeMap<Predicate, String>,
    /// How many demands are for pod labels of a key.
    pod_keys: BTreeMap<String, usize>,
}

/// What a change of demands means for others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Shift {
    /// Shared objects to look at: tags, address-groups, and what joins networks with nodes.
    pub keys: BTreeSet<Key>,
    /// Predicates that are new or gone: the pods they fit change their tags.
    pub predicates: Vec<Predicate>,
    /// A label key became one of pods, or is none any more: namespace selectors may need another tag.
    pub pod_keys: bool,
}

/// What a pod is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Its namespace, if it is known.
    pub namespace: Option<&'a Meta>,
    /// Services whose backend it is.
    pub services: &'a BTreeSet<Uuid>,
}

impl TagTable {
    /// An owner's demands are now these.
    pub fn change(&mut self, key: &Key, before: &[Demand], after: &[Demand]) -> Shift {
        let mut shift = Shift::default();
        for demand in after {
            let owners = self.demanded.entry(demand.clone()).or_default();
            let first = owners.is_empty();
            owners.insert(key.clone());
            if first {
                self.add(demand, &mut shift);
            }
        }
        for demand in before.iter().filter(|demand| !after.contains(demand)) {
            let Some(owners) = self.demanded.get_mut(demand) else { continue };
            owners.remove(key);
            if owners.is_empty() {
                self.demanded.remove(demand);
                self.remove(demand, &mut shift);
            }
        }
        shift
    }

    fn add(&mut self, demand: &Demand, shift: &mut Shift) {
        match demand {
            Demand::AddressGroup(net) => {
                shift.keys.insert(Key::new(Sort::AddressGroup, "", net));
            }
            Demand::Reach(network) => drop(shift.keys.insert(reach::key(network))),
            Demand::PortName(..) => {}
            Demand::Tag(tag, predicate) => {
                shift.keys.insert(Key::new(Sort::Tag, "", tag));
                self.tags.entry(tag.clone()).or_default().insert(predicate.clone());
                match predicate {
                    Predicate::Named => return,
                    Predicate::PodLabel(key, value) => {
                        self.pod_labels.insert((key.clone(), value.clone()), tag.clone());
                        let count = self.pod_keys.entry(key.clone()).or_default();
                        *count += 1;
                        shift.pod_keys |= *count == 1;
                    }
                    Predicate::NamespaceLabel(key, value) => {
                        self.namespace_labels.insert((key.clone(), value.clone()), tag.clone());
                    }
                    other => {
                        self.judged.insert(other.clone(), tag.clone());
                    }
                }
                shift.predicates.push(predicate.clone());
            }
        }
    }

    fn remove(&mut self, demand: &Demand, shift: &mut Shift) {
        match demand {
            Demand::AddressGroup(net) => {
                shift.keys.insert(Key::new(Sort::AddressGroup, "", net));
            }
            Demand::Reach(network) => drop(shift.keys.insert(reach::key(network))),
            Demand::PortName(..) => {}
            Demand::Tag(tag, predicate) => {
                shift.keys.insert(Key::new(Sort::Tag, "", tag));
                if let Some(set) = self.tags.get_mut(tag) {
                    set.remove(predicate);
                    if set.is_empty() {
                        self.tags.remove(tag);
                    }
                }
                match predicate {
                    Predicate::Named => return,
                    Predicate::PodLabel(key, value) => {
                        self.pod_labels.remove(&(key.clone(), value.clone()));
                        if let Some(count) = self.pod_keys.get_mut(key) {
                            *count -= 1;
                            if *count == 0 {
                                self.pod_keys.remove(key);
                                shift.pod_keys = true;
                            }
                        }
                    }
                    Predicate::NamespaceLabel(key, value) => {
                        self.namespace_labels.remove(&(key.clone(), value.clone()));
                    }
                    other => {
                        self.judged.remove(other);
                    }
                }
                shift.predicates.push(predicate.clone());
            }
        }
    }

    /// Whether anyone demands a tag.
    #[must_use]
    pub fn is_needed(&self, tag: &str) -> bool {
        self.tags.contains_key(tag)
    }

    /// Whether anyone demands a prefix.
    #[must_use]
    pub fn is_prefix_needed(&self, net: &str) -> bool {
        self.demanded.contains_key(&Demand::AddressGroup(net.to_owned()))
    }

    /// Whether anyone demands what a shared owner stands for.
    #[must_use]
    pub(crate) fn is_used(&self, key: &Key) -> bool {
        match key.sort {
            Sort::Tag => self.is_needed(&key.name),
            Sort::AddressGroup => self.is_prefix_needed(&key.name),
            _ => true,
        }
    }

    /// Pods that live in a network that nodes are to reach.
    pub(crate) fn users_of_network(&self, network: &FqName) -> impl Iterator<Item = &Key> {
        self.demanded.get(&Demand::Reach(network.clone())).into_iter().flatten()
    }

    /// Owners that use a port name.
    pub fn users_of_port(&self, protocol: &str, name: &str) -> impl Iterator<Item = &Key> {
        let demand = Demand::PortName(protocol.to_owned(), name.to_owned());
        self.demanded.get(&demand).into_iter().flatten()
    }

    /// Owners that select namespaces by labels.
    #[must_use]
    pub fn namespace_selectors(&self) -> BTreeSet<Key> {
        let wanted = |demand: &Demand| {
            matches!(
                demand,
                Demand::Tag(_, Predicate::NamespaceLabel(..) | Predicate::Namespaces(_))
            )
        };
        let found = self.demanded.iter().filter(|(demand, _)| wanted(demand));
        found.flat_map(|(_, owners)| owners.iter().cloned()).collect()
    }

    /// The selector that a tag was made for.
    #[must_use]
    pub fn selector_text(&self, tag: &str) -> Option<String> {
        self.tags.get(tag)?.iter().find_map(|predicate| match predicate {
            Predicate::Pods(selector) | Predicate::Namespaces(selector) => {
                Some(selector.canonical())
            }
            Predicate::Interfaces(which) => Some(which.canonical()),
            _ => None,
        })
    }

    /// Whether a predicate fits a pod.
    #[must_use]
    pub fn fits(predicate: &Predicate, candidate: Candidate<'_>) -> bool {
        let pod = &candidate.pod.meta;
        let label = |meta: &Meta, key: &str, value: &str| {
            meta.labels.get(key).is_some_and(|own| **own == *value)
        };
        match predicate {
            Predicate::Named => false,
            Predicate::PodLabel(key, value) => label(pod, key, value),
            Predicate::NamespaceLabel(key, value) => {
                candidate.namespace.is_some_and(|meta| label(meta, key, value))
            }
            Predicate::Pods(selector) => selector.matches(&pod.labels),
            Predicate::Namespaces(selector) => candidate
                .namespace
                .map_or(selector.is_empty(), |meta| selector.matches(&meta.labels)),
            Predicate::Port(protocol, name, number) => candidate
                .pod
                .ports
                .iter()
                .any(|(n, p, port)| **n == **name && **p == **protocol && port == number),
            Predicate::Service(namespace, name) => {
                let id = service_id(namespace, name);
                candidate.services.contains(&id)
            }
            // Whether it has such an interface is asked of each of them.
            Predicate::Interfaces(which) => {
                let here = match &which.namespace {
                    Some(name) => **name == *pod.namespace,
                    None => candidate.namespace.map_or(which.namespaces.is_empty(), |meta| {
                        which.namespaces.matches(&meta.labels)
                    }),
                };
                here && which.pods.matches(&pod.labels)
            }
        }
    }

    /// The tags that a pod carries, one of a type.
    #[must_use]
    pub fn of_pod(&self, candidate: Candidate<'_>) -> BTreeSet<String> {
        let pod = &candidate.pod.meta;
        // In this order, as the first of a type stays.
        let mut by_type: BTreeMap<String, String> = BTreeMap::new();
        let mut add = |tag: &str| {
            let kind = tag.split('=').next().unwrap_or_default().to_owned();
            by_type.entry(kind).or_insert_with(|| tag.to_owned());
        };
        add(&names::namespace_tag(&pod.namespace));
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        if !self.pod_labels.is_empty() {
            for label in pod.labels.iter().map(|(k, v)| pair(k, v)) {
                if let Some(tag) = self.pod_labels.get(&label) {
                    add(tag);
                }
            }
        }
        if !self.namespace_labels.is_empty() {
            for label in
                candidate.namespace.iter().flat_map(|meta| &meta.labels).map(|(k, v)| pair(k, v))
            {
                if let Some(tag) = self.namespace_labels.get(&label) {
                    add(tag);
                }
            }
        }
        for (predicate, tag) in &self.judged {
            if !matches!(predicate, Predicate::Interfaces(_)) && Self::fits(predicate, candidate) {
                add(tag);
            }
        }
        by_type.into_values().collect()
    }

    /// The tags that a pod's interface in a network beside its first carries for those who mean this network, one of a
    /// type; none if nobody does.
    #[must_use]
    pub fn of_interface(&self, candidate: Candidate<'_>, network: &str) -> BTreeSet<String> {
        let mut meant = BTreeSet::new();
        let mut names: BTreeMap<&str, &str> = BTreeMap::new();
        for (predicate, tag) in &self.judged {
            match predicate {
                Predicate::Interfaces(which)
                    if which.networks.contains(network) && Self::fits(predicate, candidate) =>
                {
                    meant.insert(tag.clone());
                }
                Predicate::Port(..) if Self::fits(predicate, candidate) => {
                    names.entry(tag.split('=').next().unwrap_or_default()).or_insert(tag);
                }
                _ => {}
            }
        }
        if !meant.is_empty() {
            meant.extend(names.into_values().map(str::to_owned));
        }
        meant
    }

    /// The tags for a selector of pods.
    #[must_use]
    pub fn for_pods(&self, selector: &Selector) -> Vec<(String, Predicate)> {
        let plain = selector.equalities().and_then(|all| {
            all.into_iter()
                .map(|(key, value)| {
                    let predicate = Predicate::PodLabel(key.to_owned(), value.to_owned());
                    Some((names::label_tag(key, value)?, predicate))
                })
                .collect::<Option<Vec<_>>>()
        });
        plain.unwrap_or_else(|| {
            let tag = format!("selector-{}=pods", names::digest(&selector.canonical()));
            vec![(tag, Predicate::Pods(selector.clone()))]
        })
    }

    /// The tags for a selector of namespaces.
    #[must_use]
    pub fn for_namespaces(&self, selector: &Selector) -> Vec<(String, Predicate)> {
        if selector.is_empty() {
            let tag = "selector-all=namespaces".to_owned();
            return vec![(tag, Predicate::Namespaces(selector.clone()))];
        }
        let plain = selector.equalities().and_then(|all| {
            all.into_iter()
                .map(|(key, value)| {
                    if key == "kubernetes.io/metadata.name" {
                        return Some((names::namespace_tag(value), Predicate::Named));
                    }
                    // A port carries one tag of a type: pods' own labels come first.
                    if self.pod_keys.contains_key(key) {
                        return None;
                    }
                    let predicate = Predicate::NamespaceLabel(key.to_owned(), value.to_owned());
                    Some((names::label_tag(key, value)?, predicate))
                })
                .collect::<Option<Vec<_>>>()
        });
        plain.unwrap_or_else(|| {
            // A port carries one tag of a type, and the same selector may be asked for pods as well.
            let text = format!("namespaces {}", selector.canonical());
            let tag = format!("selector-{}=namespaces", names::digest(&text));
            vec![(tag, Predicate::Namespaces(selector.clone()))]
        })
    }
}

/// The tag of interfaces.
#[must_use]
pub(super) fn interface_tag(which: &Interfaces) -> String {
    format!("selector-{}=interfaces", names::digest(&which.canonical()))
}

/// Names a service in [`Candidate::services`].
#[must_use]
pub(crate) fn service_id(namespace: &str, name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_DNS, format!("{namespace}/{name}").as_bytes())
}
