//! Objects with their parents, references and back references.

use crate::{FqName, Kind, Object};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use uuid::Uuid;

/// One step of the graph's history.
#[derive(Clone, Debug)]
pub enum Change {
    /// The object is new, or replaces the one with its uuid.
    Put(Arc<Object>),
    /// The object is gone.
    Delete(Uuid),
}

/// All objects at one moment.
///
/// One writer applies [`Change`]s; every index is kept by [`Graph::apply`]. References to objects
/// that are not (yet) there are kept too, so the order of changes does not matter.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    objects: HashMap<Uuid, Arc<Object>>,
    names: HashMap<Kind, HashMap<FqName, Uuid>>,
    kinds: HashMap<Kind, BTreeSet<Uuid>>,
    children: HashMap<Uuid, BTreeSet<(u64, Uuid)>>,
    back_references: HashMap<Uuid, BTreeSet<Uuid>>,
}

impl Graph {
    /// Applies one change and returns the object it replaced or removed.
    pub fn apply(&mut self, change: &Change) -> Option<Arc<Object>> {
        match change {
            Change::Put(object) => {
                let old = self.remove(object.uuid);
                self.insert(object);
                old
            }
            Change::Delete(uuid) => self.remove(*uuid),
        }
    }

    fn insert(&mut self, object: &Arc<Object>) {
        let uuid = object.uuid;
        self.names.entry(object.kind).or_default().insert(object.fq_name.clone(), uuid);
        self.kinds.entry(object.kind).or_default().insert(uuid);
        if let Some((_, parent)) = object.parent {
            self.children.entry(parent).or_default().insert((object.created_revision, uuid));
        }
        for reference in &object.references {
            self.back_references.entry(reference.uuid).or_default().insert(uuid);
        }
        self.objects.insert(uuid, object.clone());
    }

    fn remove(&mut self, uuid: Uuid) -> Option<Arc<Object>> {
        let old = self.objects.remove(&uuid)?;
        if let Some(names) = self.names.get_mut(&old.kind)
            && names.get(&old.fq_name) == Some(&uuid)
        {
            names.remove(&old.fq_name);
        }
        if let Some(kind) = self.kinds.get_mut(&old.kind) {
            kind.remove(&uuid);
        }
        if let Some((_, parent)) = old.parent
            && let Some(siblings) = self.children.get_mut(&parent)
        {
            siblings.remove(&(old.created_revision, uuid));
            if siblings.is_empty() {
                self.children.remove(&parent);
            }
        }
        for reference in &old.references {
            if let Some(sources) = self.back_references.get_mut(&reference.uuid) {
                sources.remove(&uuid);
                if sources.is_empty() {
                    self.back_references.remove(&reference.uuid);
                }
            }
        }
        Some(old)
    }

    /// The object with this uuid.
    pub fn get(&self, uuid: Uuid) -> Option<&Arc<Object>> {
        self.objects.get(&uuid)
    }

    /// The object with this uuid, if it is of this type.
    pub fn get_kind(&self, kind: Kind, uuid: Uuid) -> Option<&Arc<Object>> {
        self.get(uuid).filter(|object| object.kind == kind)
    }

    /// The object of this type and name.
    pub fn by_name(&self, kind: Kind, name: &FqName) -> Option<&Arc<Object>> {
        self.get(*self.names.get(&kind)?.get(name)?)
    }

    /// Objects of one type, in order of their uuids.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.kinds.get(&kind).into_iter().flatten().filter_map(|uuid| self.get(*uuid))
    }

    /// How many objects of one type there are.
    pub fn count(&self, kind: Kind) -> usize {
        self.kinds.get(&kind).map_or(0, BTreeSet::len)
    }

    /// Children of an object in the order they were made.
    pub fn children(&self, uuid: Uuid) -> impl Iterator<Item = &Arc<Object>> {
        self.children.get(&uuid).into_iter().flatten().filter_map(|(_, child)| self.get(*child))
    }

    /// Children of one type in the order they were made.
    pub fn children_of_kind(&self, uuid: Uuid, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.children(uuid).filter(move |child| child.kind == kind)
    }

    /// Objects that refer to this one, in order of their uuids.
    pub fn back_references(&self, uuid: Uuid) -> impl Iterator<Item = &Arc<Object>> {
        self.back_references.get(&uuid).into_iter().flatten().filter_map(|from| self.get(*from))
    }

    /// Objects of one type that refer to this one.
    pub fn back_references_from(
        &self,
        uuid: Uuid,
        kind: Kind,
    ) -> impl Iterator<Item = &Arc<Object>> {
        self.back_references(uuid).filter(move |from| from.kind == kind)
    }

    /// Targets of an object's references to one type, as far as they exist.
    pub fn targets<'a>(
        &'a self,
        object: &'a Object,
        kind: Kind,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        object.references_to(kind).filter_map(|reference| self.get(reference.uuid))
    }

    /// Every object, in no particular order.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}
