//! From what should be there and what is there to the writes in between.

use crate::desired::{Derived, Desired, Link, Ref};
use crate::key::{Key, Ownership, Sort};
use crate::packed;
use serde_json::{Map, Value, json};
use skein_model::{FqName, Graph, Kind, Object, Reference};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Reference lists longer than this are changed one by one, not written whole.
const WHOLE_LIST: usize = 64;

/// One call of the configuration API.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Make an object.
    Create {
        /// Its type.
        kind: Kind,
        /// Its name, to know it by.
        name: FqName,
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
    /// Add a reference, change what it carries, or remove it.
    Reference {
        /// The holder's type.
        kind: Kind,
        /// The holder.
        uuid: Uuid,
        /// The target's type.
        target_kind: Kind,
        /// The target.
        target: FqName,
        /// What it carries; none removes it.
        attr: Option<Value>,
    },
}

/// What is to be done for an owner, and what it waits for.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Calls, to be made in this order.
    pub writes: Vec<Write>,
    /// Objects that must be there first.
    pub waits: Vec<(Kind, FqName)>,
    /// Objects that must be gone first.
    pub waits_gone: Vec<Uuid>,
    /// Addresses that go and must come back.
    pub keep: Vec<(FqName, IpAddr)>,
    /// Names that something else has.
    pub clashes: Vec<(Kind, FqName)>,
}

/// Everything a plan is made from.
#[derive(Debug)]
pub struct Planner<'a> {
    /// The configuration.
    pub graph: &'a Graph,
    /// Whose objects are whose.
    pub ownership: &'a Ownership,
    /// The owner.
    pub key: &'a Key,
    /// Its objects.
    pub owned: &'a BTreeSet<Uuid>,
    /// What it wants.
    pub derived: &'a Derived,
    /// Addresses to ask for.
    pub addresses: &'a HashMap<FqName, IpAddr>,
}

impl Planner<'_> {
    /// Makes the plan.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        let wanted: BTreeMap<(Kind, &FqName), &Desired> =
            self.derived.objects.iter().map(|d| ((d.kind, &d.name), d)).collect();
        let mut stale: BTreeSet<Uuid> = BTreeSet::new();
        let mut replaced = false;
        for uuid in self.owned {
            let Some(object) = self.graph.get(*uuid) else { continue };
            match wanted.get(&(object.kind, &object.fq_name)) {
                None if self.derived.hold => {}
                None => drop(stale.insert(*uuid)),
                Some(desired) if must_go(self.graph, object, desired) => {
                    replaced = true;
                    stale.insert(*uuid);
                    if let Some(address) = address_of(object) {
                        plan.keep.push((object.fq_name.clone(), address));
                    }
                }
                Some(_) => {}
            }
        }
        if replaced {
            // What hangs on it goes with it and comes back in the next round.
            self.close(&mut stale, &mut plan);
            self.remove(&stale, &wanted, &mut plan);
            return plan;
        }
        let mut made: BTreeSet<(Kind, &FqName)> = BTreeSet::new();
        for desired in &self.derived.objects {
            match self.graph.by_name(desired.kind, &desired.name) {
                None => self.create(desired, &mut made, &mut plan),
                Some(_) if desired.shared => {}
                Some(actual) => {
                    let mine = self.owned.contains(&actual.uuid);
                    let foreign = !mine && self.ownership.is_foreign(actual);
                    let other = desired.uuid.is_some_and(|uuid| uuid != actual.uuid);
                    if foreign || other {
                        plan.clashes.push((desired.kind, desired.name.clone()));
                    } else {
                        self.update(actual, desired, &made, &mut plan);
                    }
                }
            }
        }
        for link in &self.derived.links {
            self.link(link, &made, &mut plan);
        }
        self.unlink(&stale, &mut plan);
        self.remove(&stale, &wanted, &mut plan);
        plan
    }

    fn exists(&self, made: &BTreeSet<(Kind, &FqName)>, kind: Kind, name: &FqName) -> bool {
        made.contains(&(kind, name)) || self.graph.by_name(kind, name).is_some()
    }

    /// What its properties name and does not exist.
    fn unmet(&self, desired: &Desired, made: &BTreeSet<(Kind, &FqName)>) -> Vec<(Kind, FqName)> {
        let absent = desired.needs.iter().filter(|(kind, name)| !self.exists(made, *kind, name));
        absent.cloned().collect()
    }

    fn create<'d>(
        &'d self,
        desired: &'d Desired,
        made: &mut BTreeSet<(Kind, &'d FqName)>,
        plan: &mut Plan,
    ) {
        let mut missing = Vec::new();
        if let (Some(parent), Some(name)) = (desired.parent, desired.name.parent())
            && !made.iter().any(|(kind, made)| *kind == parent && **made == name)
            && self.graph.by_name(parent, &name).is_none()
        {
            missing.push((parent, name));
        }
        for (kind, references) in &desired.references {
            let absent = references.iter().filter(|r| !self.exists(made, *kind, &r.name));
            missing.extend(absent.map(|r| (*kind, r.name.clone())));
        }
        missing.extend(self.unmet(desired, made));
        if !missing.is_empty() {
            // What this owner itself could not make yet is waited for where it could not be made.
            plan.waits.extend(missing);
            return;
        }
        let mut fields = Map::new();
        fields.insert("fq_name".into(), json!(desired.name));
        if let Some(uuid) = desired.uuid {
            fields.insert("uuid".into(), json!(uuid));
        }
        if let Some(parent) = desired.parent {
            fields.insert("parent_type".into(), json!(parent.name()));
        }
        let meta = desired.kind.meta();
        for (name, value) in &desired.properties {
            if !value.is_null() && meta.property(name).is_some() {
                fields.insert(name.clone(), value.clone());
            }
        }
        if desired.kind == Kind::INSTANCE_IP
            && !fields.contains_key("instance_ip_address")
            && let Some(address) = self.addresses.get(&desired.name)
        {
            fields.insert("instance_ip_address".into(), json!(address.to_string()));
        }
        for (kind, references) in &desired.references {
            let Some(known) = meta.reference(*kind) else { continue };
            let list: Vec<Value> =
                references.iter().map(|r| json!({"to": r.name, "attr": r.attr})).collect();
            fields.insert(known.field.to_owned(), Value::from(list));
        }
        made.insert((desired.kind, &desired.name));
        plan.writes.push(Write::Create {
            kind: desired.kind,
            name: desired.name.clone(),
            fields: Value::Object(fields),
        });
    }

    fn update(
        &self,
        actual: &Arc<Object>,
        desired: &Desired,
        made: &BTreeSet<(Kind, &FqName)>,
        plan: &mut Plan,
    ) {
        let unmet = self.unmet(desired, made);
        if !unmet.is_empty() {
            plan.waits.extend(unmet);
            return;
        }
        let meta = desired.kind.meta();
        let mut fields = Map::new();
        let properties = packed::properties(actual);
        for (name, want) in &desired.properties {
            // An API older than this manager does not know all of them.
            if meta.property(name).is_none() {
                continue;
            }
            let have = properties.get(name);
            if !covers(want, have) {
                let pairs =
                    matches!(name.as_str(), "annotations" | "virtual_machine_interface_bindings");
                let value = if pairs { merged(want, have) } else { want.clone() };
                fields.insert(name.clone(), value);
            }
        }
        let mut singly = Vec::new();
        for (kind, references) in &desired.references {
            let Some(known) = meta.reference(*kind) else { continue };
            let mut wanted: Vec<(Uuid, &Ref)> = Vec::new();
            let mut unmade: Vec<&Ref> = Vec::new();
            for reference in references {
                match self.graph.by_name(*kind, &reference.name) {
                    Some(target) => wanted.push((target.uuid, reference)),
                    None if made.contains(&(*kind, &reference.name)) => unmade.push(reference),
                    None => plan.waits.push((*kind, reference.name.clone())),
                }
            }
            let have: Vec<&Reference> = actual.references_to(*kind).collect();
            let missing: Vec<&Ref> = wanted
                .iter()
                .filter(|(uuid, want)| {
                    !have.iter().any(|h| h.uuid == *uuid && covers(&want.attr, Some(&h.attr)))
                })
                .map(|(_, want)| *want)
                .chain(unmade.iter().copied())
                .collect();
            let extra: Vec<&Arc<Object>> = have
                .iter()
                .filter(|h| !wanted.iter().any(|(uuid, _)| *uuid == h.uuid))
                .filter_map(|h| self.graph.get(h.uuid))
                .filter(|target| {
                    let owner = self.ownership.owner_of(target);
                    // Where addresses come from is ours to say.
                    let of_cluster = || owner.as_ref().is_some_and(|o| o.sort == Sort::Cluster);
                    !desired.open
                        || owner.as_ref() == Some(self.key)
                        || (*kind == Kind::NETWORK_IPAM && of_cluster())
                })
                .collect();
            if missing.is_empty() && extra.is_empty() {
                continue;
            }
            if desired.open || have.len() > WHOLE_LIST {
                singly.extend(missing.into_iter().map(|want| Write::Reference {
                    kind: desired.kind,
                    uuid: actual.uuid,
                    target_kind: *kind,
                    target: want.name.clone(),
                    attr: Some(want.attr.clone()),
                }));
                singly.extend(extra.into_iter().map(|target| Write::Reference {
                    kind: desired.kind,
                    uuid: actual.uuid,
                    target_kind: *kind,
                    target: target.fq_name.clone(),
                    attr: None,
                }));
            } else {
                let all = wanted.iter().map(|(_, want)| *want).chain(unmade);
                let list: Vec<Value> = all.map(|r| json!({"to": r.name, "attr": r.attr})).collect();
                fields.insert(known.field.to_owned(), Value::from(list));
            }
        }
        if !fields.is_empty() {
            let fields = Value::Object(fields);
            plan.writes.push(Write::Update { kind: desired.kind, uuid: actual.uuid, fields });
        }
        plan.writes.extend(singly);
    }

    fn link(&self, link: &Link, made: &BTreeSet<(Kind, &FqName)>, plan: &mut Plan) {
        let (holder_kind, holder_name) = &link.holder;
        let (target_kind, target_name) = &link.target;
        let Some(holder) = self.graph.by_name(*holder_kind, holder_name) else {
            plan.waits.push(link.holder.clone());
            return;
        };
        if !self.exists(made, *target_kind, target_name) {
            // Its own creation waits for something, and that is noted there.
            return;
        }
        let there = self.graph.by_name(*target_kind, target_name).is_some_and(|target| {
            let mut links = holder.references_to(*target_kind);
            links.any(|r| r.uuid == target.uuid && covers(&link.attr, Some(&r.attr)))
        });
        if !there {
            plan.writes.push(Write::Reference {
                kind: *holder_kind,
                uuid: holder.uuid,
                target_kind: *target_kind,
                target: target_name.clone(),
                attr: Some(link.attr.clone()),
            });
        }
    }

    /// Removes links to objects that stay, where they no longer belong.
    fn unlink(&self, stale: &BTreeSet<Uuid>, plan: &mut Plan) {
        if self.derived.hold {
            return;
        }
        for uuid in self.owned.iter().filter(|uuid| !stale.contains(uuid)) {
            let Some(target) = self.graph.get(*uuid) else { continue };
            let holders = match target.kind {
                Kind::VIRTUAL_MACHINE => Kind::VIRTUAL_ROUTER,
                Kind::FIREWALL_RULE => Kind::FIREWALL_POLICY,
                Kind::FIREWALL_POLICY => Kind::APPLICATION_POLICY_SET,
                _ => continue,
            };
            for holder in self.graph.back_references_from(*uuid, holders) {
                let owner = self.ownership.owner_of(holder);
                let mine = owner.as_ref() == Some(self.key);
                // An operator's own set may hold our policies.
                let open = holders != Kind::VIRTUAL_ROUTER && owner.is_none();
                let wanted = self
                    .derived
                    .links
                    .iter()
                    .any(|l| l.target.1 == target.fq_name && l.holder.1 == holder.fq_name);
                if !wanted && !mine && !open {
                    plan.writes.push(removal(holder, target));
                }
            }
        }
    }

    /// Adds what refers to doomed objects or lives under them, as far as the owner owns it.
    fn close(&self, stale: &mut BTreeSet<Uuid>, plan: &mut Plan) {
        loop {
            let mut more = Vec::new();
            for uuid in self.owned.iter().filter(|uuid| !stale.contains(uuid)) {
                let Some(object) = self.graph.get(*uuid) else { continue };
                let below = object.parent.is_some_and(|(_, parent)| stale.contains(&parent));
                if below || object.references.iter().any(|r| stale.contains(&r.uuid)) {
                    more.push(*uuid);
                    if let Some(address) = address_of(object) {
                        plan.keep.push((object.fq_name.clone(), address));
                    }
                }
            }
            if more.is_empty() {
                return;
            }
            stale.extend(more);
        }
    }

    fn remove(
        &self,
        stale: &BTreeSet<Uuid>,
        wanted: &BTreeMap<(Kind, &FqName), &Desired>,
        plan: &mut Plan,
    ) {
        let mut doomed: Vec<&Arc<Object>> =
            stale.iter().filter_map(|uuid| self.graph.get(*uuid)).collect();
        doomed.sort_by_key(|object| (delete_rank(object.kind), object.uuid));
        let mut kept: BTreeSet<Uuid> = BTreeSet::new();
        for object in doomed {
            let gone = |uuid: &Uuid| stale.contains(uuid) && !kept.contains(uuid);
            let mut blockers = Vec::new();
            let mut cuts = Vec::new();
            for child in self.graph.children(object.uuid) {
                let meta = object.kind.meta().child(child.kind);
                let along = meta.is_some_and(|m| m.derived)
                    || child.name().strip_prefix("default-") == Some(child.kind.name());
                if !along && !gone(&child.uuid) {
                    blockers.push(child.uuid);
                }
            }
            for holder in self.graph.back_references(object.uuid) {
                // The other end of a symmetric reference goes with this one.
                let meta = holder.kind.meta().reference(object.kind);
                let derived = meta.is_some_and(|m| m.derived || m.symmetric);
                if derived || gone(&holder.uuid) {
                    continue;
                }
                // An update of this round drops it, as the owner's own object no longer wants it.
                let dropped = self.owned.contains(&holder.uuid)
                    && wanted.get(&(holder.kind, &holder.fq_name)).is_some_and(|desired| {
                        desired.references.iter().any(|(kind, refs)| {
                            *kind == object.kind && !refs.iter().any(|r| r.name == object.fq_name)
                        })
                    });
                if dropped {
                    continue;
                }
                let cut = matches!(
                    holder.kind,
                    Kind::VIRTUAL_ROUTER
                        | Kind::FIREWALL_POLICY
                        | Kind::APPLICATION_POLICY_SET
                        | Kind::VIRTUAL_NETWORK
                ) && (!self.ownership.is_foreign(holder) || self.key.sort == Sort::Reach)
                    // One that has to wait keeps what it refers to until it goes.
                    && !kept.contains(&holder.uuid);
                if cut {
                    cuts.push(removal(holder, object));
                } else {
                    blockers.push(holder.uuid);
                }
            }
            if blockers.is_empty() {
                plan.writes.extend(cuts);
                plan.writes.push(Write::Delete { kind: object.kind, uuid: object.uuid });
            } else {
                plan.waits_gone.extend(blockers);
                kept.insert(object.uuid);
            }
        }
    }
}

fn removal(holder: &Object, target: &Object) -> Write {
    Write::Reference {
        kind: holder.kind,
        uuid: holder.uuid,
        target_kind: target.kind,
        target: target.fq_name.clone(),
        attr: None,
    }
}

fn address_of(object: &Object) -> Option<IpAddr> {
    if object.kind != Kind::INSTANCE_IP {
        return None;
    }
    packed::text(object, "instance_ip_address")?.parse().ok()
}

/// Whether an object cannot become what it should be, and must make way.
fn must_go(graph: &Graph, actual: &Object, desired: &Desired) -> bool {
    if desired.uuid.is_some_and(|uuid| uuid != actual.uuid) {
        return !desired.shared;
    }
    let other = |property: &str| {
        let want = desired.properties.get(property).and_then(Value::as_str);
        let parse = |text: &str| text.parse::<IpAddr>().ok();
        want.is_some_and(|want| {
            let have = packed::text(actual, property);
            have.is_some_and(|have| have != want && parse(&have) != parse(want))
        })
    };
    match actual.kind {
        Kind::INSTANCE_IP => {
            let network =
                desired.references.iter().find(|(kind, _)| *kind == Kind::VIRTUAL_NETWORK);
            let network = network.and_then(|(_, refs)| refs.first());
            let moved = network.is_some_and(|network| {
                let target = graph.by_name(Kind::VIRTUAL_NETWORK, &network.name);
                let have = actual.reference_to(Kind::VIRTUAL_NETWORK).map(|r| r.uuid);
                target.is_some_and(|target| have != Some(target.uuid))
            });
            moved || other("instance_ip_address")
        }
        Kind::FLOATING_IP => other("floating_ip_address"),
        _ => false,
    }
}

/// Order of deletion: what refers goes before what is referred to.
fn delete_rank(kind: Kind) -> u8 {
    const ORDER: [Kind; 17] = [
        Kind::FLOATING_IP,
        Kind::FLOATING_IP_POOL,
        Kind::INSTANCE_IP,
        Kind::LOADBALANCER_MEMBER,
        Kind::LOADBALANCER_POOL,
        Kind::LOADBALANCER_LISTENER,
        Kind::LOADBALANCER,
        Kind::VIRTUAL_MACHINE_INTERFACE,
        Kind::VIRTUAL_MACHINE,
        Kind::APPLICATION_POLICY_SET,
        Kind::FIREWALL_POLICY,
        Kind::FIREWALL_RULE,
        Kind::ADDRESS_GROUP,
        Kind::VIRTUAL_NETWORK,
        Kind::NETWORK_POLICY,
        Kind::NETWORK_IPAM,
        Kind::SECURITY_GROUP,
    ];
    let at =
        ORDER.iter().position(|k| *k == kind).unwrap_or(if kind == Kind::TAG { 19 } else { 18 });
    u8::try_from(at).unwrap_or(u8::MAX)
}

/// Whether what is there contains what is wanted; the API adds fields of its own. Null and empty lists want absence.
#[must_use]
pub fn covers(want: &Value, have: Option<&Value>) -> bool {
    let have = have.filter(|have| !have.is_null());
    match (want, have) {
        (Value::Null, None) => true,
        (Value::Null, Some(have)) => {
            matches!(have, Value::String(s) if s.is_empty()) || is_empty(have)
        }
        (Value::Array(list), None) => list.is_empty(),
        (Value::Object(fields), None) => fields.values().all(|want| covers(want, None)),
        (Value::Bool(false), None) => true,
        (Value::String(text), None) => text.is_empty(),
        (_, None) => false,
        (Value::Object(fields), Some(Value::Object(have))) => {
            if let (Some(Value::Array(pairs)), Some(Value::Array(others))) =
                (fields.get("key_value_pair"), have.get("key_value_pair"))
            {
                return pairs.iter().all(|pair| others.contains(pair));
            }
            fields.iter().all(|(name, want)| covers(want, have.get(name)))
        }
        (Value::Array(list), Some(Value::Array(have))) => {
            list.len() == have.len() && list.iter().zip(have).all(|(w, h)| covers(w, Some(h)))
        }
        (want, Some(have)) => want == have,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Pairs of ours over pairs that are there.
fn merged(want: &Value, have: Option<&Value>) -> Value {
    let list = |value: &Value| value.get("key_value_pair").and_then(Value::as_array).cloned();
    let wanted = list(want).unwrap_or_default();
    let mut all = have.and_then(list).unwrap_or_default();
    all.retain(|pair| !wanted.iter().any(|w| w.get("key") == pair.get("key")));
    all.extend(wanted);
    json!({ "key_value_pair": all })
}
