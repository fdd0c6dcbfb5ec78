//! One request in the making.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use skein_model::{FqName, Kind, Object, Reference};
use skein_store::{Claim, Tombstone, Transaction};
use uuid::Uuid;

use super::{Caller, Head, Space};
use crate::{
    alloc::{Grant, Refusal},
    error::{ApiError, ApiResult},
};

/// The moment of a request, as `id_perms` shows it: UTC with microseconds and no zone.
#[derive(Debug, Clone)]
pub struct Now(pub String);

/// How to take back an allocation.
#[derive(Debug)]
enum Undo {
    Number { space: String, number: u64, owner: Uuid, was_held: bool },
    Address { space: Uuid, address: IpAddr, owner: Uuid, was_held: bool },
    Space { space: Uuid, old: Option<Space> },
}

/// Changes of one request on top of a [`Head`].
#[derive(Debug)]
pub struct Draft<'a> {
    /// The state below. Allocators in it are changed at once and undone on refusal; objects only at the end.
    pub head: &'a mut Head,
    /// When the request is handled.
    pub now: &'a Now,
    /// Who asks.
    pub caller: &'a Caller,
    order: Vec<Uuid>,
    objects: HashMap<Uuid, Option<Arc<Object>>>,
    claims: Vec<Claim>,
    releases: Vec<String>,
    kv: Vec<(String, Option<String>)>,
    undo: Vec<Undo>,
}

impl<'a> Draft<'a> {
    /// An empty draft.
    pub fn new(head: &'a mut Head, now: &'a Now, caller: &'a Caller) -> Self {
        Self {
            head,
            now,
            caller,
            order: Vec::new(),
            objects: HashMap::new(),
            claims: Vec::new(),
            releases: Vec::new(),
            kv: Vec::new(),
            undo: Vec::new(),
        }
    }

    /// The revision this draft will get.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.head.revision + 1
    }

    /// The object with this uuid as this draft sees it.
    #[must_use]
    pub fn get(&self, uuid: Uuid) -> Option<Arc<Object>> {
        match self.objects.get(&uuid) {
            Some(changed) => changed.clone(),
            None => self.head.graph.get(uuid).cloned(),
        }
    }

    /// The object of this type with this uuid, or 404.
    ///
    /// # Errors
    /// There is none.
    pub fn need(&self, kind: Kind, uuid: Uuid) -> ApiResult<Arc<Object>> {
        self.get(uuid)
            .filter(|object| object.kind == kind)
            .ok_or_else(|| ApiError::not_found(format!("no {kind} has the uuid {uuid}")))
    }

    /// The object of this type and name as this draft sees it.
    #[must_use]
    pub fn by_name(&self, kind: Kind, name: &FqName) -> Option<Arc<Object>> {
        let drafted = self.order.iter().filter_map(|uuid| self.objects.get(uuid)?.as_ref());
        if let Some(object) = drafted.into_iter().find(|o| o.kind == kind && o.fq_name == *name) {
            return Some(Arc::clone(object));
        }
        let object = self.head.graph.by_name(kind, name)?;
        (!self.objects.contains_key(&object.uuid)).then(|| Arc::clone(object))
    }

    /// Children in order of creation, without those that this draft deletes.
    #[must_use]
    pub fn children(&self, uuid: Uuid) -> Vec<Arc<Object>> {
        let mut children: Vec<Arc<Object>> =
            self.head.graph.children(uuid).filter_map(|child| self.get(child.uuid)).collect();
        for new in self.order.iter().filter_map(|uuid| self.objects.get(uuid)?.as_ref()) {
            let is_child = new.parent.is_some_and(|(_, parent)| parent == uuid);
            if is_child && !children.iter().any(|c| c.uuid == new.uuid) {
                children.push(Arc::clone(new));
            }
        }
        children
    }

    /// Objects that refer to this one, as this draft sees them.
    #[must_use]
    pub fn back_references(&self, uuid: Uuid) -> Vec<Arc<Object>> {
        let refers = |o: &Arc<Object>| o.references.iter().any(|r| r.uuid == uuid);
        let mut from: Vec<Arc<Object>> = self
            .head
            .graph
            .back_references(uuid)
            .filter_map(|source| self.get(source.uuid))
            .filter(|source| refers(source))
            .collect();
        for new in self.order.iter().filter_map(|uuid| self.objects.get(uuid)?.as_ref()) {
            if refers(new) && !from.iter().any(|o| o.uuid == new.uuid) {
                from.push(Arc::clone(new));
            }
        }
        from
    }

    /// Stores an object in its new form, at this draft's revision.
    pub fn put(&mut self, mut object: Object) -> Arc<Object> {
        object.revision = self.revision();
        let uuid = object.uuid;
        if !self.objects.contains_key(&uuid) {
            self.order.push(uuid);
        }
        let object = Arc::new(object);
        self.objects.insert(uuid, Some(Arc::clone(&object)));
        object
    }

    /// Stores a new object and claims its name.
    pub fn put_new(&mut self, mut object: Object) -> Arc<Object> {
        object.created_revision = self.revision();
        self.claim(name_key(object.kind, &object.fq_name), object.uuid);
        self.put(object)
    }

    /// Stores a changed object: `last_modified` moves.
    pub fn put_changed(&mut self, mut object: Object) -> Arc<Object> {
        super::perms::touch(&mut object, self.now);
        self.put(object)
    }

    /// Drops an object and its name.
    pub fn delete(&mut self, object: &Object) {
        self.release(name_key(object.kind, &object.fq_name));
        if !self.objects.contains_key(&object.uuid) {
            self.order.push(object.uuid);
        }
        self.objects.insert(object.uuid, None);
    }

    /// Whether this draft deletes the object.
    #[must_use]
    pub fn is_deleted(&self, uuid: Uuid) -> bool {
        matches!(self.objects.get(&uuid), Some(None))
    }

    /// Takes a key for an owner in the store.
    pub fn claim(&mut self, key: String, owner: Uuid) {
        self.claims.push(Claim { key, owner });
    }

    /// Gives a key back in the store.
    pub fn release(&mut self, key: String) {
        let before = self.claims.len();
        self.claims.retain(|claim| claim.key != key);
        if self.claims.len() == before {
            self.releases.push(key);
        }
    }

    /// Changes a key-value pair of the clients.
    pub fn kv(&mut self, key: String, value: Option<String>) {
        self.kv.push((key, value));
    }

    /// Takes the lowest free number of a space; `what` names it in the refusal.
    ///
    /// # Errors
    /// The space is used up.
    pub fn allocate_number(&mut self, space: &str, owner: Uuid, what: &str) -> ApiResult<u64> {
        let number = self
            .head
            .number_pool(space)
            .allocate(owner)
            .ok_or_else(|| ApiError::bad(format!("{what}: all numbers are in use")))?;
        self.undo.push(Undo::Number { space: space.to_owned(), number, owner, was_held: false });
        self.claim(number_key(space, number), owner);
        Ok(number)
    }

    /// Takes a number that the caller chose.
    ///
    /// # Errors
    /// Who has it.
    pub fn take_number(&mut self, space: &str, number: u64, owner: Uuid) -> Result<(), Uuid> {
        if self.head.number_pool(space).owner(number) == Some(owner) {
            return Ok(());
        }
        self.head.number_pool(space).take(number, owner)?;
        self.undo.push(Undo::Number { space: space.to_owned(), number, owner, was_held: false });
        self.claim(number_key(space, number), owner);
        Ok(())
    }

    /// Gives a number back, if `owner` has it.
    pub fn release_number(&mut self, space: &str, number: u64, owner: Uuid) {
        if self.head.number_pool(space).release(number, owner) {
            self.undo.push(Undo::Number { space: space.to_owned(), number, owner, was_held: true });
            self.release(number_key(space, number));
        }
    }

    /// The subnets of an owner.
    #[must_use]
    pub fn space(&self, space: Uuid) -> &[super::Subnet] {
        self.head.spaces.get(&space).map_or(&[], |space| &space.subnets)
    }

    /// Replaces the subnets of an owner. Addresses of subnets that vanish must have been released.
    pub fn set_space(&mut self, space: Uuid, new: Option<Space>) {
        let old = match new {
            Some(new) => self.head.spaces.insert(space, new),
            None => self.head.spaces.remove(&space),
        };
        self.undo.push(Undo::Space { space, old });
    }

    /// Takes the best free address of a subnet.
    pub fn allocate_address(
        &mut self,
        space: Uuid,
        subnet: usize,
        owner: Uuid,
        bound_to: Option<&[(IpAddr, IpAddr)]>,
    ) -> Option<IpAddr> {
        let pool = &mut self.head.spaces.get_mut(&space)?.subnets.get_mut(subnet)?.pool;
        let address = pool.allocate(owner, bound_to)?;
        self.undo.push(Undo::Address { space, address, owner, was_held: false });
        self.claim(address_key(space, address), owner);
        Some(address)
    }

    /// Takes an address that the caller chose.
    ///
    /// # Errors
    /// Why not.
    pub fn take_address(
        &mut self,
        space: Uuid,
        subnet: usize,
        address: IpAddr,
        owner: Uuid,
    ) -> Result<Grant, Refusal> {
        let found = self.head.spaces.get_mut(&space).and_then(|s| s.subnets.get_mut(subnet));
        let grant = found.ok_or(Refusal::Outside)?.pool.take(address, owner)?;
        if grant == Grant::Reserved {
            self.undo.push(Undo::Address { space, address, owner, was_held: false });
            self.claim(address_key(space, address), owner);
        }
        Ok(grant)
    }

    /// Gives an address back, if `owner` has it.
    pub fn release_address(&mut self, space: Uuid, address: IpAddr, owner: Uuid) -> bool {
        let subnets = self.head.spaces.get_mut(&space).map(|s| &mut s.subnets);
        let released = subnets
            .into_iter()
            .flatten()
            .any(|subnet| subnet.pool.contains(address) && subnet.pool.release(address, owner));
        if released {
            self.undo.push(Undo::Address { space, address, owner, was_held: true });
            self.release(address_key(space, address));
        }
        released
    }

    /// Whether nothing would be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
            && self.claims.is_empty()
            && self.releases.is_empty()
            && self.kv.is_empty()
    }

    /// Turns the draft into a write at the next revision and applies it to the head. None if nothing changed.
    pub fn finish(mut self) -> Option<Transaction> {
        self.undo.clear();
        if self.is_empty() {
            return None;
        }
        let mut transaction = Transaction {
            revision: self.revision(),
            claims: std::mem::take(&mut self.claims),
            releases: std::mem::take(&mut self.releases),
            kv: std::mem::take(&mut self.kv),
            ..Transaction::default()
        };
        for uuid in std::mem::take(&mut self.order) {
            match self.objects.remove(&uuid).flatten() {
                Some(object) => transaction.puts.push(object),
                None => {
                    if let Some(old) = self.head.graph.get(uuid) {
                        transaction.deletes.push(Tombstone {
                            uuid,
                            kind: old.kind,
                            created_revision: old.created_revision,
                        });
                    }
                }
            }
        }
        self.head.apply(&transaction);
        Some(transaction)
    }
}

impl Drop for Draft<'_> {
    /// A draft that was not finished takes its allocations back, last first.
    fn drop(&mut self) {
        for undo in self.undo.drain(..).rev() {
            match undo {
                Undo::Number { space, number, owner, was_held: false } => {
                    self.head.number_pool(&space).release(number, owner);
                }
                Undo::Number { space, number, owner, was_held: true } => {
                    // Free a moment ago in the same thread, so nobody else can hold it.
                    let _ = self.head.number_pool(&space).take(number, owner);
                }
                Undo::Address { space, address, owner, was_held } => {
                    let subnets = self.head.spaces.get_mut(&space).map(|s| &mut s.subnets);
                    if let Some(subnet) =
                        subnets.and_then(|s| s.iter_mut().find(|s| s.pool.contains(address)))
                    {
                        if was_held {
                            subnet.pool.restore(address, owner);
                        } else {
                            subnet.pool.release(address, owner);
                        }
                    }
                }
                Undo::Space { space, old: Some(old) } => {
                    self.head.spaces.insert(space, old);
                }
                Undo::Space { space, old: None } => {
                    self.head.spaces.remove(&space);
                }
            }
        }
    }
}

/// A reference without attributes.
#[must_use]
pub(super) fn plain_reference(target: &Object) -> Reference {
    Reference {
        kind: target.kind,
        uuid: target.uuid,
        attr: serde_json::Value::Null,
        relaxed: false,
    }
}

fn name_key(kind: Kind, name: &FqName) -> String {
    format!("name/{kind}/{name}")
}

fn number_key(space: &str, number: u64) -> String {
    format!("id/{space}/{number}")
}

fn address_key(space: Uuid, address: IpAddr) -> String {
    format!("ip/{space}/{address}")
}
