//! One configuration object.

use crate::{FqName, Kind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// One configuration object, as it is stored and as watchers receive it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// Identity; never changes.
    pub uuid: Uuid,
    /// Object type.
    pub kind: Kind,
    /// Name; never changes.
    pub fq_name: FqName,
    /// Parent, absent for objects at the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<(Kind, Uuid)>,
    /// Properties by JSON name, `id_perms`, `perms2` and `display_name` included. No nulls.
    #[serde(default)]
    pub properties: Map<String, Value>,
    /// References to other objects, in the order they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<Reference>,
    /// Store revision at which the object was made: the order of siblings.
    #[serde(default)]
    pub created_revision: u64,
    /// Store revision of the last change.
    #[serde(default)]
    pub revision: u64,
}

/// A reference from one object to another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// Type of the target.
    pub kind: Kind,
    /// The target.
    pub uuid: Uuid,
    /// What the reference carries; null when its type has no attributes.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub attr: Value,
    /// Does not block deleting the target (`ref-relax-for-delete`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub relaxed: bool,
}

impl Object {
    /// A property as a typed value; `None` when it is absent or does not have that form.
    pub fn property<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        T::deserialize(self.properties.get(name)?).ok()
    }

    /// References to objects of one type.
    pub fn references_to(&self, kind: Kind) -> impl Iterator<Item = &Reference> {
        self.references.iter().filter(move |r| r.kind == kind)
    }

    /// The first reference to an object of one type.
    pub fn reference_to(&self, kind: Kind) -> Option<&Reference> {
        self.references_to(kind).next()
    }

    /// The last element of the name.
    pub fn name(&self) -> &str {
        self.fq_name.name()
    }

    /// `id_perms.enable`, which is true unless set otherwise.
    pub fn enabled(&self) -> bool {
        self.properties
            .get("id_perms")
            .and_then(|perms| perms.get("enable"))
            .and_then(Value::as_bool)
            .unwrap_or(true)
    }
}

impl Reference {
    /// The attribute as a typed value; `None` when it is absent or does not have that form.
    pub fn attribute<T: DeserializeOwned>(&self) -> Option<T> {
        if self.attr.is_null() { None } else { T::deserialize(&self.attr).ok() }
    }
}
