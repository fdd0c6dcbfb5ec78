//! Remembers answers and what they were made from.

use crate::dns::{self, DnsRecordSet, DnsZone};
use crate::firewall::{self, Subject};
use crate::intent::{Global, Interface, PolicySet, Vrf};
use crate::query::{Answer, Query, Read};
use crate::service::{self, ServiceSet};
use crate::{interface, network, network_policy, node, security_group};
use skein_model::{Change, FqName, Graph, Kind, Object};
use skein_policy::Policy;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use uuid::Uuid;

/// Outputs that changed; `None` stands for one that is gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// By virtual network.
    pub vrfs: Vec<(Uuid, Option<Arc<Vrf>>)>,
    /// By virtual-machine-interface.
    pub interfaces: Vec<(Uuid, Option<Arc<Interface>>)>,
    /// By listener of a load balancer.
    pub services: Vec<(Uuid, Option<Arc<ServiceSet>>)>,
    /// By virtual-DNS.
    pub dns_zones: Vec<(Uuid, Option<Arc<DnsZone>>)>,
    /// By virtual-DNS-record, port or floating IP.
    pub dns_records: Vec<(Uuid, Option<Arc<DnsRecordSet>>)>,
    /// Cluster-wide settings, when they changed.
    pub global: Option<Arc<Global>>,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.vrfs.is_empty()
            && self.interfaces.is_empty()
            && self.services.is_empty()
            && self.dns_zones.is_empty()
            && self.dns_records.is_empty()
            && self.global.is_none()
    }
}

#[derive(Debug)]
struct Memo {
    answer: Answer,
    reads: HashSet<Read>,
}

/// The compiler: a graph, and every answer worked out from it.
#[derive(Debug, Default)]
pub struct Engine {
    graph: Graph,
    memos: HashMap<Query, Memo>,
    readers: HashMap<Read, HashSet<Query>>,
    /// What the queries being answered have read so far, innermost last.
    frames: Vec<HashSet<Read>>,
    /// Policies that interfaces hold, so that ten thousand equal ports hold one.
    policies: HashMap<Uuid, Weak<PolicySet>>,
    /// Listeners by the network their services live in.
    services_in: HashMap<Uuid, BTreeSet<Uuid>>,
    /// What each port serves: listener, address and port.
    memberships: HashMap<Uuid, BTreeSet<(Uuid, IpAddr, u16)>>,
    /// Sets of records by the zone they are in.
    records_in: HashMap<Uuid, BTreeSet<Uuid>>,
    /// What the ids in [`Query::Firewall`] stand for.
    subjects: HashMap<Uuid, Arc<Subject>>,
}

impl Engine {
    /// Compiles a whole graph.
    pub fn new() -> Engine {
        Engine::default()
    }

    /// The graph as it is now.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Every VRF, in no particular order.
    pub fn vrfs(&self) -> impl Iterator<Item = &Arc<Vrf>> {
        self.memos.values().filter_map(|memo| match &memo.answer {
            Answer::Vrf(vrf) => Some(vrf),
            _ => None,
        })
    }

    /// Every interface, in no particular order.
    pub fn interfaces(&self) -> impl Iterator<Item = &Arc<Interface>> {
        self.memos.values().filter_map(|memo| match &memo.answer {
            Answer::Interface(interface) => Some(interface),
            _ => None,
        })
    }

    /// One interface.
    pub fn interface(&self, uuid: Uuid) -> Option<&Arc<Interface>> {
        match &self.memos.get(&Query::Interface(uuid))?.answer {
            Answer::Interface(interface) => Some(interface),
            _ => None,
        }
    }

    /// One network's VRF.
    pub fn vrf(&self, network: Uuid) -> Option<&Arc<Vrf>> {
        match &self.memos.get(&Query::Vrf(network))?.answer {
            Answer::Vrf(vrf) => Some(vrf),
            _ => None,
        }
    }

    /// Every listener's services, in no particular order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<ServiceSet>> {
        self.memos.values().filter_map(|memo| match &memo.answer {
            Answer::Services(services) => Some(services),
            _ => None,
        })
    }

    /// One listener's services.
    pub fn services_of(&self, listener: Uuid) -> Option<&Arc<ServiceSet>> {
        match &self.memos.get(&Query::Services(listener))?.answer {
            Answer::Services(services) => Some(services),
            _ => None,
        }
    }

    /// Listeners whose services live in a network.
    pub fn listeners_in(&self, network: Uuid) -> impl Iterator<Item = Uuid> {
        self.services_in.get(&network).into_iter().flatten().copied()
    }

    /// Every zone, in no particular order.
    pub fn dns_zones(&self) -> impl Iterator<Item = &Arc<DnsZone>> {
        self.memos.values().filter_map(|memo| match &memo.answer {
            Answer::DnsZone(zone) => Some(zone),
            _ => None,
        })
    }

    /// One virtual-DNS's zone.
    pub fn dns_zone(&self, server: Uuid) -> Option<&Arc<DnsZone>> {
        match &self.memos.get(&Query::DnsZone(server))?.answer {
            Answer::DnsZone(zone) => Some(zone),
            _ => None,
        }
    }

    /// Sets of records in a zone.
    pub fn dns_records_in(&self, zone: Uuid) -> impl Iterator<Item = Uuid> {
        self.records_in.get(&zone).into_iter().flatten().copied()
    }

    /// The records that an object stands for.
    pub fn dns_records(&self, object: Uuid) -> Option<&Arc<DnsRecordSet>> {
        match &self.memos.get(&Query::DnsRecords(object))?.answer {
            Answer::DnsRecords(set) => Some(set),
            _ => None,
        }
    }

    /// Cluster-wide settings, once anything was compiled.
    pub fn global(&self) -> Option<&Arc<Global>> {
        match &self.memos.get(&Query::Global)?.answer {
            Answer::Global(global) => Some(global),
            _ => None,
        }
    }

    /// Applies changes to the graph and says which outputs are different now.
    pub fn apply(&mut self, changes: &[Change]) -> Delta {
        let mut dirty: BTreeSet<Query> = BTreeSet::new();
        dirty.insert(Query::Global);
        for change in changes {
            let old = self.graph.apply(change);
            let new = match change {
                Change::Put(object) => Some(object.clone()),
                Change::Delete(_) => None,
            };
            self.touch(old.as_deref(), new.as_deref(), &mut dirty);
        }
        let mut delta = Delta::default();
        while let Some(query) = dirty.pop_first() {
            // A query nobody reads any more was forgotten while others were asked again.
            if !query.is_output() && !self.memos.contains_key(&query) {
                continue;
            }
            let old = self.memos.get(&query).map(|memo| memo.answer.clone());
            let answer = self.ask_again(query);
            if old.as_ref() == Some(&answer) {
                continue;
            }
            if let Some(readers) = self.readers.get(&Read::Query(query)) {
                dirty.extend(readers.iter().copied());
            }
            if let Query::Services(listener) = query {
                self.index_services(listener, old.as_ref(), &answer, &mut dirty);
            }
            if let Query::DnsRecords(object) = query {
                self.index_records(object, old.as_ref(), &answer);
            }
            Self::report(query, old, answer, &mut delta);
        }
        delta
    }

    fn index_records(&mut self, object: Uuid, old: Option<&Answer>, new: &Answer) {
        let zone = |answer: Option<&Answer>| match answer {
            Some(Answer::DnsRecords(set)) => Some(set.zone),
            _ => None,
        };
        if let Some(zone) = zone(old)
            && let Some(all) = self.records_in.get_mut(&zone)
        {
            all.remove(&object);
            if all.is_empty() {
                self.records_in.remove(&zone);
            }
        }
        if let Some(zone) = zone(Some(new)) {
            self.records_in.entry(zone).or_default().insert(object);
        }
    }

    /// Brings the indices of services up to date and marks who reads what changed in them.
    fn index_services(
        &mut self,
        listener: Uuid,
        old: Option<&Answer>,
        new: &Answer,
        dirty: &mut BTreeSet<Query>,
    ) {
        let set = |answer: Option<&Answer>| match answer {
            Some(Answer::Services(services)) => Some(services.clone()),
            _ => None,
        };
        let (old, new) = (set(old), set(Some(new)));
        let mut changed: BTreeSet<Read> = BTreeSet::new();
        let network = |services: &Option<Arc<ServiceSet>>| services.as_ref().map(|s| s.network);
        if network(&old) != network(&new) {
            if let Some(network) = network(&old)
                && let Some(all) = self.services_in.get_mut(&network)
            {
                all.remove(&listener);
                if all.is_empty() {
                    self.services_in.remove(&network);
                    changed.insert(Read::ServicesIn(network));
                }
            }
            if let Some(network) = network(&new) {
                let all = self.services_in.entry(network).or_default();
                if all.is_empty() {
                    changed.insert(Read::ServicesIn(network));
                }
                all.insert(listener);
            }
        }
        let places = |services: &Option<Arc<ServiceSet>>| -> BTreeSet<(Uuid, IpAddr, u16)> {
            let present = services.iter().flat_map(|services| &services.present);
            let flat = present.flat_map(|(port, places)| {
                places.iter().map(|(address, number)| (*port, *address, *number))
            });
            flat.collect()
        };
        let (before, after) = (places(&old), places(&new));
        for (port, address, number) in before.difference(&after) {
            if let Some(served) = self.memberships.get_mut(port) {
                served.remove(&(listener, *address, *number));
                if served.is_empty() {
                    self.memberships.remove(port);
                }
            }
            changed.insert(Read::Memberships(*port));
        }
        for (port, address, number) in after.difference(&before) {
            self.memberships.entry(*port).or_default().insert((listener, *address, *number));
            changed.insert(Read::Memberships(*port));
        }
        for read in changed {
            dirty.extend(self.readers.get(&read).into_iter().flatten().copied());
        }
    }

    fn report(query: Query, old: Option<Answer>, answer: Answer, delta: &mut Delta) {
        let was_there = old.is_some_and(|old| old != Answer::Nothing);
        match (query, answer) {
            (Query::Vrf(uuid), Answer::Vrf(vrf)) => delta.vrfs.push((uuid, Some(vrf))),
            (Query::Vrf(uuid), _) if was_there => delta.vrfs.push((uuid, None)),
            (Query::Interface(uuid), Answer::Interface(interface)) => {
                delta.interfaces.push((uuid, Some(interface)));
            }
            (Query::Interface(uuid), _) if was_there => delta.interfaces.push((uuid, None)),
            (Query::Services(uuid), Answer::Services(services)) => {
                delta.services.push((uuid, Some(services)));
            }
            (Query::Services(uuid), _) if was_there => delta.services.push((uuid, None)),
            (Query::DnsZone(uuid), Answer::DnsZone(zone)) => {
                delta.dns_zones.push((uuid, Some(zone)));
            }
            (Query::DnsZone(uuid), _) if was_there => delta.dns_zones.push((uuid, None)),
            (Query::DnsRecords(uuid), Answer::DnsRecords(set)) => {
                delta.dns_records.push((uuid, Some(set)));
            }
            (Query::DnsRecords(uuid), _) if was_there => delta.dns_records.push((uuid, None)),
            (Query::Global, Answer::Global(global)) => delta.global = Some(global),
            _ => {}
        }
    }

    /// Marks what read anything that differs between the two forms of an object.
    fn touch(&self, old: Option<&Object>, new: Option<&Object>, dirty: &mut BTreeSet<Query>) {
        let Some(any) = new.or(old) else { return };
        let mut mark = |read: &Read| {
            if let Some(readers) = self.readers.get(read) {
                dirty.extend(readers.iter().copied());
            }
        };
        mark(&Read::Object(any.uuid));
        for object in [old, new].into_iter().flatten() {
            for reference in &object.references {
                mark(&Read::BackReferences(reference.uuid, object.kind));
            }
        }
        if old.is_none() || new.is_none() {
            mark(&Read::Name(any.kind, any.fq_name.clone()));
            mark(&Read::Kind(any.kind));
            if let Some((_, parent)) = any.parent {
                mark(&Read::Children(parent, any.kind));
            }
        }
        match any.kind {
            Kind::VIRTUAL_NETWORK => {
                dirty.insert(Query::Vrf(any.uuid));
            }
            Kind::VIRTUAL_MACHINE_INTERFACE => {
                dirty.insert(Query::Interface(any.uuid));
                dirty.insert(Query::DnsRecords(any.uuid));
            }
            Kind::VIRTUAL_DNS => {
                dirty.insert(Query::DnsZone(any.uuid));
            }
            Kind::VIRTUAL_DNS_RECORD | Kind::FLOATING_IP => {
                dirty.insert(Query::DnsRecords(any.uuid));
            }
            Kind::LOADBALANCER_LISTENER | Kind::GLOBAL_VROUTER_CONFIG => {
                dirty.insert(Query::Services(any.uuid));
            }
            _ => {}
        }
    }

    fn ask_again(&mut self, query: Query) -> Answer {
        self.frames.push(HashSet::new());
        let answer = match query {
            Query::Network(uuid) => network::facts(self, uuid),
            Query::Node(uuid) => node::facts(self, uuid),
            Query::Nodes => node::all(self),
            Query::Mentions(uuid) => network_policy::mentions(self, uuid),
            Query::Tags(uuid) => interface::own_tags(self, uuid),
            Query::GroupId(uuid) => security_group::id(self, uuid),
            Query::GroupRules(uuid) => security_group::rules(self, uuid),
            Query::FirewallRule(uuid) => firewall::rule(self, uuid),
            Query::FirewallPolicy(uuid) => firewall::policy(self, uuid),
            Query::RuleSet(uuid) => firewall::rule_set(self, uuid),
            Query::Sets(uuid) => firewall::sets(self, uuid),
            Query::Firewall(id) => firewall::firewall(self, id),
            Query::NetworkLayer(uuid) => network_policy::layer(self, uuid),
            Query::RouteTargets(uuid) => network::route_targets(self, uuid),
            Query::Peers(uuid) => network_policy::peers(self, uuid),
            Query::NetworkDns(uuid) => dns::of_network(self, uuid),
            Query::DnsZone(uuid) => dns::zone(self, uuid),
            Query::DnsRecords(uuid) => dns::records(self, uuid),
            Query::Frontend(uuid) => service::frontend(self, uuid),
            Query::Services(uuid) => service::services(self, uuid),
            Query::Vrf(uuid) => network::vrf(self, uuid),
            Query::Interface(uuid) => interface::interface(self, uuid),
            Query::Global => network::global(self),
        };
        let reads = self.frames.pop().unwrap_or_default();
        for read in &reads {
            self.readers.entry(read.clone()).or_default().insert(query);
        }
        // An output that is not there yet must be asked again when what it lacks appears; one whose
        // object is gone comes back with the object.
        let gone = query.object().is_some_and(|uuid| self.graph.get(uuid).is_none());
        let old = self.memos.insert(query, Memo { answer: answer.clone(), reads });
        if let Some(old) = old {
            self.stop_reading(query, &old.reads);
        }
        if gone {
            self.forget(query);
        }
        answer
    }

    /// Takes `query` off the readers of everything it no longer reads.
    fn stop_reading(&mut self, query: Query, before: &HashSet<Read>) {
        for read in before {
            let still = self.memos.get(&query).is_some_and(|memo| memo.reads.contains(read));
            if still {
                continue;
            }
            let Some(readers) = self.readers.get_mut(read) else { continue };
            readers.remove(&query);
            if readers.is_empty() {
                self.readers.remove(read);
                if let Read::Query(inner) = read
                    && !inner.is_output()
                {
                    self.forget(*inner);
                }
            }
        }
    }

    /// Drops an answer that nothing needs.
    fn forget(&mut self, query: Query) {
        if let Query::Firewall(id) = query {
            self.subjects.remove(&id);
        }
        if let Some(memo) = self.memos.remove(&query) {
            self.stop_reading(query, &memo.reads);
        }
    }

    fn record(&mut self, read: Read) {
        if let Some(frame) = self.frames.last_mut() {
            frame.insert(read);
        }
    }

    // ------------------------------------------------ what queries may do

    /// Another query's answer.
    pub(crate) fn ask(&mut self, query: Query) -> Answer {
        self.record(Read::Query(query));
        match self.memos.get(&query) {
            Some(memo) => memo.answer.clone(),
            None => self.ask_again(query),
        }
    }

    /// The policy with an id, built unless some interface holds it already.
    pub(crate) fn shared_policy(
        &mut self,
        id: Uuid,
        build: impl FnOnce() -> Policy,
    ) -> Arc<PolicySet> {
        if let Some(known) = self.policies.get(&id).and_then(Weak::upgrade) {
            return known;
        }
        // Dead entries are few beside the work of building a policy.
        self.policies.retain(|_, policy| policy.strong_count() > 0);
        let policy = Arc::new(PolicySet { id, policy: build() });
        self.policies.insert(id, Arc::downgrade(&policy));
        policy
    }

    /// The firewall of a subject.
    pub(crate) fn firewall(&mut self, subject: Subject) -> Answer {
        let id = subject.id();
        self.subjects.entry(id).or_insert_with(|| Arc::new(subject));
        self.ask(Query::Firewall(id))
    }

    /// What an id in [`Query::Firewall`] stands for.
    pub(crate) fn subject(&self, id: Uuid) -> Option<Arc<Subject>> {
        self.subjects.get(&id).cloned()
    }

    /// An object of any kind.
    pub(crate) fn any(&mut self, uuid: Uuid) -> Option<Arc<Object>> {
        self.record(Read::Object(uuid));
        self.graph.get(uuid).cloned()
    }

    /// An object of a kind.
    pub(crate) fn get(&mut self, kind: Kind, uuid: Uuid) -> Option<Arc<Object>> {
        self.record(Read::Object(uuid));
        self.graph.get_kind(kind, uuid).cloned()
    }

    /// An object by name. Its content is read too.
    pub(crate) fn by_name(&mut self, kind: Kind, name: &FqName) -> Option<Arc<Object>> {
        self.record(Read::Name(kind, name.clone()));
        let object = self.graph.by_name(kind, name).cloned()?;
        self.record(Read::Object(object.uuid));
        Some(object)
    }

    /// The uuid behind a name. The object's content is not read.
    pub(crate) fn find(&mut self, kind: Kind, name: &FqName) -> Option<Uuid> {
        self.record(Read::Name(kind, name.clone()));
        self.graph.by_name(kind, name).map(|object| object.uuid)
    }

    /// Children of a kind. Their content is read too.
    pub(crate) fn children(&mut self, uuid: Uuid, kind: Kind) -> Vec<Arc<Object>> {
        self.record(Read::Children(uuid, kind));
        let all: Vec<_> = self.graph.children_of_kind(uuid, kind).cloned().collect();
        for child in &all {
            self.record(Read::Object(child.uuid));
        }
        all
    }

    /// Objects of a kind that refer to one. Their content is read too.
    pub(crate) fn back_references(&mut self, uuid: Uuid, kind: Kind) -> Vec<Arc<Object>> {
        self.record(Read::BackReferences(uuid, kind));
        let all: Vec<_> = self.graph.back_references_from(uuid, kind).cloned().collect();
        for source in &all {
            self.record(Read::Object(source.uuid));
        }
        all
    }

    /// Whether an object is of a kind, which never changes.
    pub(crate) fn is_a(&mut self, kind: Kind, uuid: Uuid) -> bool {
        self.record(Read::Object(uuid));
        self.graph.get_kind(kind, uuid).is_some()
    }

    /// Whether any services live in a network.
    pub(crate) fn has_services(&mut self, network: Uuid) -> bool {
        self.record(Read::ServicesIn(network));
        self.services_in.contains_key(&network)
    }

    /// What a port serves: listener, address and port.
    pub(crate) fn memberships(&mut self, port: Uuid) -> Vec<(Uuid, IpAddr, u16)> {
        self.record(Read::Memberships(port));
        self.memberships.get(&port).into_iter().flatten().copied().collect()
    }

    /// Uuids of all objects of a kind. Their content is not read.
    pub(crate) fn all(&mut self, kind: Kind) -> Vec<Uuid> {
        self.record(Read::Kind(kind));
        self.graph.of_kind(kind).map(|object| object.uuid).collect()
    }
}
