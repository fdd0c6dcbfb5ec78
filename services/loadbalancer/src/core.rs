//! What a node has to do: which load balancers it carries, and what it writes about its copies of them.
//!
//! Every node computes the same from the same objects, and writes only about itself: that it offers the service (a
//! `service-appliance`, with a beat that changes), and about its own port at each load balancer (its preference, and whether
//! it shares the address). So no node waits for another, and no two write the same thing (adr/0013). No I/O: time is an
//! argument.

use crate::cluster::Clusters;
use crate::model::Balancer;
use crate::placement;
use crate::read;
use serde_json::{Value, json};
use skein_model::values::{KeyValuePairs, VirtualMachineInterfacePropertiesType};
use skein_model::{Change, FqName, Graph, Kind, Object};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How often a node says that it still offers the service.
pub const BEAT: Duration = Duration::from_secs(20);
/// How long a node counts after its last beat. Traffic does not wait for this: routes of a dead node stand back within
/// seconds, and the standby has it. This is when a third node takes the place.
pub const LIFETIME: Duration = Duration::from_secs(60);
/// How long until a write that has not come back by watch is made again.
const REPEAT: Duration = Duration::from_secs(2);
/// Most flows of a node's port: each request takes one from the client and one to a member, where a workload of its own has
/// enough with the default.
const MAX_FLOWS: i64 = 65_536;
/// The property of a service-appliance that changes with every beat.
const BEAT_KEY: &str = "beat";

/// What the core must know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of this node's virtual-router.
    pub node: String,
    /// Providers whose load balancers are served. The first one's service-appliance-set lists the nodes.
    pub providers: Vec<String>,
}

/// One call of the configuration API.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Make an object.
    Create {
        /// Its type.
        kind: Kind,
        /// Its fields.
        fields: Value,
    },
    /// Replace fields of an object.
    Update {
        /// Its type.
        kind: Kind,
        /// Which.
        uuid: Uuid,
        /// The fields.
        fields: Value,
    },
    /// Remove an object.
    Delete {
        /// Its type.
        kind: Kind,
        /// Which.
        uuid: Uuid,
    },
    /// Add or remove a reference to a port.
    Refer {
        /// Type of the holder.
        kind: Kind,
        /// The holder.
        uuid: Uuid,
        /// The virtual-machine-interface.
        port: Uuid,
        /// Add it.
        add: bool,
    },
}

/// What a node carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The load balancer.
    pub balancer: Arc<Balancer>,
    /// Whether this node's copy takes the traffic, as far as the objects say.
    pub active: bool,
}

/// What there is to do now.
#[derive(Debug, Default)]
pub struct Work {
    /// What this node carries; everything else is to be taken down.
    pub assignments: BTreeMap<Uuid, Assignment>,
    /// Calls in their order, by subject: a load balancer, or nil for the node itself. A subject's next calls come when
    /// [`Core::wrote`] has been told of these.
    pub writes: Vec<(Uuid, Vec<Write>)>,
    /// Load balancers that are not complete, and what they lack.
    pub incomplete: BTreeMap<Uuid, String>,
}

/// A node's copy of a load balancer.
#[derive(Clone, Debug, Default)]
struct Copy {
    /// Its virtual-machine-interface.
    port: Option<Uuid>,
    /// It serves; none: that is not known yet, as after a restart of the daemon, and nothing is said about it.
    ready: Option<bool>,
    /// The last that was known of its load balancer.
    balancer: Option<Arc<Balancer>>,
}

#[derive(Debug)]
struct Beat {
    text: String,
    seen: Duration,
}

/// A node's view of the load balancers of a fabric.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    graph: Graph,
    synced: bool,
    beats: BTreeMap<String, Beat>,
    copies: BTreeMap<Uuid, Copy>,
    writing: HashSet<Uuid>,
    wrote: BTreeMap<Uuid, (Vec<Write>, Duration)>,
    beaten: Option<Duration>,
    leaving: bool,
}

impl Core {
    /// A core that knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            graph: Graph::default(),
            synced: false,
            beats: BTreeMap::new(),
            copies: BTreeMap::new(),
            writing: HashSet::new(),
            wrote: BTreeMap::new(),
            beaten: None,
            leaving: false,
        }
    }

    /// Everything there is.
    pub fn snapshot(&mut self, objects: Vec<Object>, now: Duration) {
        let mut graph = Graph::default();
        for object in objects {
            graph.apply(&Change::Put(Arc::new(object)));
        }
        self.graph = graph;
        self.synced = true;
        self.listen(now);
    }

    /// An object is new or changed.
    pub fn put(&mut self, object: Object, now: Duration) {
        let appliance = object.kind == Kind::SERVICE_APPLIANCE;
        self.graph.apply(&Change::Put(Arc::new(object)));
        if appliance {
            self.listen(now);
        }
    }

    /// An object is gone.
    pub fn delete(&mut self, uuid: Uuid, now: Duration) {
        let Some(object) = self.graph.get(uuid) else { return };
        let kind = object.kind;
        self.graph.apply(&Change::Delete(uuid));
        if kind == Kind::SERVICE_APPLIANCE {
            self.listen(now);
        }
    }

    /// Whether everything has been read once.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// Notes whose beat has changed. Clocks of nodes are not compared: what counts is when it was seen to change.
    fn listen(&mut self, now: Duration) {
        let before = std::mem::take(&mut self.beats);
        for appliance in self.graph.of_kind(Kind::SERVICE_APPLIANCE) {
            if appliance.fq_name.parent().as_ref() != Some(&self.set()) {
                continue;
            }
            let text = beat_of(appliance);
            let seen = match before.get(appliance.name()) {
                Some(beat) if beat.text == text => beat.seen,
                _ => now,
            };
            self.beats.insert(appliance.name().to_owned(), Beat { text, seen });
        }
    }

    /// The set of those who offer the service.
    fn set(&self) -> FqName {
        let provider = self.settings.providers.first().map_or("opencontrail", String::as_str);
        FqName::single("default-global-system-config").child(provider)
    }

    /// Nodes that offer the service and are there.
    #[must_use]
    pub fn nodes(&self, now: Duration) -> Vec<&str> {
        let live = |(name, beat): &(&String, &Beat)| {
            if **name == self.settings.node { !self.leaving } else { now < beat.seen + LIFETIME }
        };
        let routers: BTreeSet<&str> =
            self.graph.of_kind(Kind::VIRTUAL_ROUTER).map(|router| router.name()).collect();
        let live = self.beats.iter().filter(live).map(|(name, _)| name.as_str());
        live.filter(|name| routers.contains(name)).collect()
    }

    /// This node's copy has this port; none: the copy is gone.
    pub fn plugged(&mut self, balancer: Uuid, port: Option<Uuid>) {
        match port {
            Some(_) => self.copies.entry(balancer).or_default().port = port,
            None => {
                self.copies.remove(&balancer);
                self.wrote.remove(&balancer);
            }
        }
    }

    /// This node's copy serves, or does not.
    pub fn ready(&mut self, balancer: Uuid, ready: bool) {
        self.copies.entry(balancer).or_default().ready = Some(ready);
    }

    /// Calls about a subject have been made, or have failed.
    pub fn wrote(&mut self, subject: Uuid) {
        self.writing.remove(&subject);
    }

    /// This node no longer offers the service: it says so, and gives up each load balancer as soon as another node
    /// has it.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Nobody counts on this node any more: it has left, and said so.
    #[must_use]
    pub fn has_left(&self) -> bool {
        !self.synced || (self.leaving && self.appliance().is_none() && self.writing.is_empty())
    }

    /// What says that this node offers the service.
    fn appliance(&self) -> Option<&Arc<Object>> {
        self.graph.by_name(Kind::SERVICE_APPLIANCE, &self.set().child(&self.settings.node))
    }

    /// When to ask again, at the latest.
    #[must_use]
    pub fn next_wake(&self, now: Duration) -> Duration {
        let beat = self.beaten.map_or(now, |at| at + BEAT);
        let dead = self.beats.values().map(|beat| beat.seen + LIFETIME).filter(|at| *at > now);
        let repeat = self.wrote.values().map(|(_, at)| *at + REPEAT).filter(|at| *at > now);
        dead.chain(repeat).chain([beat]).min().unwrap_or(beat)
    }

    /// What there is to do.
    pub fn poll(&mut self, now: Duration) -> Work {
        let mut work = Work::default();
        if !self.synced {
            return work;
        }
        if self.leaving {
            let own = self.appliance().map(|own| Write::Delete { kind: own.kind, uuid: own.uuid });
            self.issue(Uuid::nil(), own.into_iter().collect(), now, &mut work);
        } else {
            self.beat(now, &mut work);
        }
        let mut balancers = BTreeMap::new();
        for object in read::served(&self.graph, &self.settings.providers) {
            match read::balancer(&self.graph, object) {
                Ok(balancer) => drop(balancers.insert(object.uuid, Arc::new(balancer))),
                Err(lacks) => {
                    // What works goes on until it is known what should be instead.
                    let copy = self.copies.get(&object.uuid);
                    if let Some(known) = copy.and_then(|copy| copy.balancer.clone()) {
                        balancers.insert(object.uuid, known);
                    }
                    work.incomplete.insert(object.uuid, lacks);
                }
            }
        }
        let live: BTreeSet<String> = self.nodes(now).into_iter().map(str::to_owned).collect();
        let known: Vec<String> = self.beats.keys().cloned().collect();
        let clusters = Clusters::read(&self.graph);
        let mut wanted = Vec::new();
        for (uuid, balancer) in balancers {
            let all = placement::order(uuid, clusters.may_carry(&self.graph, uuid, &known));
            let order: Vec<&str> =
                all.iter().copied().filter(|node| live.contains(*node)).collect();
            let ready = self.ready_nodes(&balancer);
            let copy = self.copies.get(&uuid).cloned().unwrap_or_default();
            let node = self.settings.node.as_str();
            let carries = placement::carries(&order, &ready, node, copy.port.is_some());
            let own = copy.port.and_then(|port| self.preference_of(port));
            let preference = placement::preference(&all, &ready, node, own);
            let serves = carries && copy.ready != Some(false);
            // A copy that is not wanted any more goes, whatever it does.
            let told = copy.port.filter(|_| copy.ready.is_some() || !carries);
            let writes = told.map(|port| self.words(&balancer, port, preference, serves));
            let shares = copy.port.is_some_and(|port| self.shares(&balancer, port));
            let active = serves && shares && self.is_first(&balancer, own, &live);
            if carries || shares {
                wanted.push((uuid, balancer.clone()));
                work.assignments.insert(uuid, Assignment { balancer, active });
            }
            self.issue(uuid, writes.unwrap_or_default(), now, &mut work);
        }
        for (uuid, balancer) in wanted {
            self.copies.entry(uuid).or_default().balancer = Some(balancer);
        }
        work
    }

    /// Hands out calls, unless the same ones have just been made or are on their way.
    fn issue(&mut self, subject: Uuid, writes: Vec<Write>, now: Duration, work: &mut Work) {
        if writes.is_empty() {
            self.wrote.remove(&subject);
            return;
        }
        let again = self
            .wrote
            .get(&subject)
            .is_some_and(|(last, at)| *last == writes && now < *at + REPEAT);
        if again || !self.writing.insert(subject) {
            return;
        }
        self.wrote.insert(subject, (writes.clone(), now));
        work.writes.push((subject, writes));
    }

    /// Says that this node offers the service.
    fn beat(&mut self, now: Duration, work: &mut Work) {
        if self.beaten.is_some_and(|at| now < at + BEAT) || self.writing.contains(&Uuid::nil()) {
            return;
        }
        let node = &self.settings.node;
        let root = FqName::single("default-global-system-config");
        let Some(router) = self.graph.by_name(Kind::VIRTUAL_ROUTER, &root.child(node)) else {
            return;
        };
        let address: Option<String> = router.property("virtual_router_ip_address");
        let mut writes = Vec::new();
        let set = self.set();
        if self.graph.by_name(Kind::SERVICE_APPLIANCE_SET, &set).is_none() {
            let fields = json!({"fq_name": set, "parent_type": "global-system-config"});
            writes.push(Write::Create { kind: Kind::SERVICE_APPLIANCE_SET, fields });
        }
        let name = set.child(node);
        let known = self.appliance();
        let last = known.and_then(|known| beat_of(known).parse::<u64>().ok()).unwrap_or(0);
        let pairs = json!({"key_value_pair": [
            {"key": BEAT_KEY, "value": last.wrapping_add(1).to_string()},
        ]});
        writes.push(match known {
            Some(known) => Write::Update {
                kind: Kind::SERVICE_APPLIANCE,
                uuid: known.uuid,
                fields: json!({"service_appliance_properties": pairs}),
            },
            None => Write::Create {
                kind: Kind::SERVICE_APPLIANCE,
                fields: json!({
                    "fq_name": name, "parent_type": "service-appliance-set",
                    "service_appliance_ip_address": address,
                    "service_appliance_virtualization_type": "network-namespace",
                    "service_appliance_properties": pairs,
                }),
            },
        });
        self.beaten = Some(now);
        self.writing.insert(Uuid::nil());
        work.writes.push((Uuid::nil(), writes));
    }

    /// Ports that share the address of a load balancer, but for the one that stands for it.
    fn sharing(&self, balancer: &Balancer) -> impl Iterator<Item = &Arc<Object>> {
        let ip = self.graph.get_kind(Kind::INSTANCE_IP, balancer.vip.instance_ip);
        let vip = balancer.vip.interface;
        ip.into_iter()
            .flat_map(|ip| self.graph.targets(ip, Kind::VIRTUAL_MACHINE_INTERFACE))
            .filter(move |port| port.uuid != vip)
    }

    fn shares(&self, balancer: &Balancer, port: Uuid) -> bool {
        self.sharing(balancer).any(|one| one.uuid == port)
    }

    /// Nodes whose copies take traffic, or would.
    fn ready_nodes(&self, balancer: &Balancer) -> BTreeSet<&str> {
        self.sharing(balancer).filter_map(|port| host_of(port)).collect()
    }

    /// LOCAL_PREF of a port, as the objects say.
    fn preference_of(&self, port: Uuid) -> Option<i64> {
        let port = self.graph.get_kind(Kind::VIRTUAL_MACHINE_INTERFACE, port)?;
        let properties: VirtualMachineInterfacePropertiesType =
            port.property("virtual_machine_interface_properties")?;
        properties.local_preference
    }

    /// Whether nobody who is there is preferred to this.
    fn is_first(&self, balancer: &Balancer, own: Option<i64>, live: &BTreeSet<String>) -> bool {
        let there = |port: &&Arc<Object>| host_of(port).is_some_and(|host| live.contains(host));
        let others = self.sharing(balancer).filter(there).map(|port| self.preference_of(port.uuid));
        others.max().flatten() <= own
    }

    /// What is to be written so that the objects say what this node's copy is.
    fn words(&self, balancer: &Balancer, port: Uuid, preference: i64, serves: bool) -> Vec<Write> {
        let mut writes = Vec::new();
        let Some(own) = self.graph.get_kind(Kind::VIRTUAL_MACHINE_INTERFACE, port) else {
            return writes;
        };
        let refer = |kind, uuid, add| Write::Refer { kind, uuid, port, add };
        let holds = |kind, uuid: Uuid| {
            let holder = self.graph.get_kind(kind, uuid);
            holder.is_some_and(|holder| {
                holder.references_to(Kind::VIRTUAL_MACHINE_INTERFACE).any(|r| r.uuid == port)
            })
        };
        if !serves {
            // The address first: it is what draws traffic.
            if holds(Kind::INSTANCE_IP, balancer.vip.instance_ip) {
                writes.push(refer(Kind::INSTANCE_IP, balancer.vip.instance_ip, false));
            }
            for ip in &balancer.vip.floating_ips {
                if holds(Kind::FLOATING_IP, *ip) {
                    writes.push(refer(Kind::FLOATING_IP, *ip, false));
                }
            }
            return writes;
        }
        let fields = likeness(balancer, own, preference);
        if fields.as_object().is_some_and(|fields| !fields.is_empty()) {
            writes.push(Write::Update {
                kind: Kind::VIRTUAL_MACHINE_INTERFACE,
                uuid: port,
                fields,
            });
        }
        if !holds(Kind::INSTANCE_IP, balancer.vip.instance_ip) {
            writes.push(refer(Kind::INSTANCE_IP, balancer.vip.instance_ip, true));
        }
        for uuid in &balancer.vip.floating_ips {
            let Some(ip) = self.graph.get(*uuid) else { continue };
            // Each port has an address of its own, too: it must be clear which one is meant.
            if ip.property::<String>("floating_ip_fixed_ip_address").is_none() {
                let address = balancer.address.to_string();
                writes.push(Write::Update {
                    kind: Kind::FLOATING_IP,
                    uuid: *uuid,
                    fields: json!({"floating_ip_fixed_ip_address": address}),
                });
            }
            if !holds(Kind::FLOATING_IP, *uuid) {
                writes.push(refer(Kind::FLOATING_IP, *uuid, true));
            }
        }
        writes
    }
}

/// What a node's port must take over from the one that stands for the load balancer, and its preference.
fn likeness(balancer: &Balancer, own: &Object, preference: i64) -> Value {
    let mut fields = json!({});
    let wanted = [
        (Kind::TAG, "tag_refs", &balancer.vip.tags),
        (Kind::SECURITY_GROUP, "security_group_refs", &balancer.vip.security_groups),
    ];
    for (kind, field, wanted) in wanted {
        let have: BTreeSet<Uuid> = own.references_to(kind).map(|r| r.uuid).collect();
        // Without groups a port gets those of its project, and the port that stands for all has had them.
        if have != *wanted && !(kind == Kind::SECURITY_GROUP && wanted.is_empty()) {
            let list: Vec<Value> = wanted.iter().map(|uuid| json!({"uuid": uuid})).collect();
            fields[field] = Value::Array(list);
        }
    }
    let properties: VirtualMachineInterfacePropertiesType =
        own.property("virtual_machine_interface_properties").unwrap_or_default();
    if properties.local_preference != Some(preference) || properties.max_flows != Some(MAX_FLOWS) {
        fields["virtual_machine_interface_properties"] =
            json!({"local_preference": preference, "max_flows": MAX_FLOWS});
    }
    fields
}

fn pairs_of<'a>(object: &Object, property: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
    let pairs: KeyValuePairs = object.property(property).unwrap_or_default();
    pairs.key_value_pair.into_iter().filter_map(|pair| Some((pair.key?, pair.value?)))
}

fn beat_of(appliance: &Object) -> String {
    let mut pairs = pairs_of(appliance, "service_appliance_properties");
    pairs.find(|(key, _)| key == BEAT_KEY).map(|(_, value)| value).unwrap_or_default()
}

/// The node that a port is bound to.
fn host_of(port: &Arc<Object>) -> Option<&str> {
    let bindings = port.properties.get("virtual_machine_interface_bindings")?;
    let pairs = bindings.get("key_value_pair")?.as_array()?;
    let host = pairs.iter().find(|pair| pair["key"] == "host_id")?;
    host["value"].as_str()
}
