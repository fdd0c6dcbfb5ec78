//! Metadata of object types and values: what the generated tables hold.

use crate::Kind;

/// An object type.
#[derive(Debug)]
pub struct TypeMeta {
    /// `virtual-network`
    pub name: &'static str,
    /// `virtual_network`
    pub snake: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// 1 networking core, 2 OpenStack and inventory, 3 the rest.
    pub tier: u8,
    /// Allowed parent types, without the root.
    pub parents: &'static [Kind],
    /// May stand alone, with an `fq_name` of one element.
    pub root_allowed: bool,
    /// Counted by project quota.
    pub quota: bool,
    /// Takes part in the security draft mode.
    pub draftable: bool,
    /// Fields that the server fills in or overwrites.
    pub server_sets: &'static [&'static str],
    /// Types that may have this one as their parent.
    pub children: &'static [ChildMeta],
    /// Types it may refer to, without those of [`CommonMeta`].
    pub references: &'static [ReferenceMeta],
    /// Its properties, without those of [`CommonMeta`].
    pub properties: &'static [PropertyMeta],
    /// Types that may refer to it.
    pub back_references: &'static [BackReferenceMeta],
}

impl TypeMeta {
    /// The property called `name`, common ones included.
    pub fn property(&self, name: &str) -> Option<&'static PropertyMeta> {
        let find = |all: &'static [PropertyMeta]| {
            all.binary_search_by(|p| p.name.cmp(name)).ok().map(|at| &all[at])
        };
        find(self.properties).or_else(|| find(common().properties))
    }

    /// Every property, common ones first.
    pub fn all_properties(&self) -> impl Iterator<Item = &'static PropertyMeta> {
        common().properties.iter().chain(self.properties)
    }

    /// The reference to `target`, common ones included.
    pub fn reference(&self, target: Kind) -> Option<&'static ReferenceMeta> {
        self.all_references().find(|r| r.target == target)
    }

    /// Every reference it may have, common ones first.
    pub fn all_references(&self) -> impl Iterator<Item = &'static ReferenceMeta> {
        common().references.iter().chain(self.references)
    }

    /// The child link to `kind`.
    pub fn child(&self, kind: Kind) -> Option<&'static ChildMeta> {
        self.children.iter().find(|c| c.kind == kind)
    }
}

/// What every type has.
#[derive(Debug)]
pub struct CommonMeta {
    /// `id_perms`, `perms2`, `annotations`, `display_name`
    pub properties: &'static [PropertyMeta],
    /// References to tags.
    pub references: &'static [ReferenceMeta],
}

/// What every type has.
pub fn common() -> &'static CommonMeta {
    &COMMON
}

/// A child type.
#[derive(Debug)]
pub struct ChildMeta {
    /// The child's type.
    pub kind: Kind,
    /// JSON field that lists the children: `access_control_lists`.
    pub field: &'static str,
    /// Managed by the system; does not block a delete of the parent.
    pub derived: bool,
}

/// A reference to another type.
#[derive(Debug)]
pub struct ReferenceMeta {
    /// The type referred to.
    pub target: Kind,
    /// JSON field: `network_ipam_refs`.
    pub field: &'static str,
    /// Name of the edge in the original's metadata.
    pub link: &'static str,
    /// What the reference carries.
    pub attr: Option<&'static StructMeta>,
    /// Stored at both ends.
    pub symmetric: bool,
    /// Managed by the system; does not block a delete of the target.
    pub derived: bool,
}

/// The other end of a reference.
#[derive(Debug)]
pub struct BackReferenceMeta {
    /// The type that refers.
    pub source: Kind,
    /// JSON field: `virtual_network_back_refs`.
    pub field: &'static str,
}

/// A property of an object type.
#[derive(Debug)]
pub struct PropertyMeta {
    /// JSON field name.
    pub name: &'static str,
    /// Its type.
    pub value: ValueType,
    /// Whether its elements can be edited one by one.
    pub collection: Collection,
    /// Set by the system; advice for people.
    pub system_only: bool,
    /// What readers assume when it is absent.
    pub default: Option<&'static str>,
}

/// How a property with elements is keyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collection {
    /// One value.
    None,
    /// Elements in order; the value is a struct with one list field.
    List,
    /// Elements by key; the value is a struct with one list field.
    Map {
        /// Field of the element that is the key.
        key: &'static str,
    },
}

/// A structured value.
#[derive(Debug)]
pub struct StructMeta {
    /// `PolicyEntriesType`
    pub name: &'static str,
    /// Its fields, sorted by name.
    pub fields: &'static [FieldMeta],
}

impl StructMeta {
    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&'static FieldMeta> {
        self.fields.binary_search_by(|f| f.name.cmp(name)).ok().map(|at| &self.fields[at])
    }
}

/// A field of a structured value.
#[derive(Debug)]
pub struct FieldMeta {
    /// JSON field name.
    pub name: &'static str,
    /// Its type, or its elements' type.
    pub value: ValueType,
    /// A JSON array.
    pub list: bool,
    /// Writers should give it; not enforced.
    pub required: bool,
    /// What readers assume when it is absent.
    pub default: Option<&'static str>,
}

/// The type of a value.
#[derive(Clone, Copy, Debug)]
pub enum ValueType {
    /// A string.
    Text,
    /// An integer; numeric strings are accepted and converted.
    Integer,
    /// `true` or `false`.
    Boolean,
    /// Date or time, as a string.
    Time,
    /// A named scalar with allowed values.
    Scalar(&'static ScalarMeta),
    /// A structured value.
    Struct(&'static StructMeta),
}

/// A named scalar.
#[derive(Debug)]
pub struct ScalarMeta {
    /// `VlanIdType`
    pub name: &'static str,
    /// Integer, else string.
    pub integer: bool,
    /// Allowed strings; empty means any.
    pub allowed: &'static [&'static str],
    /// Smallest allowed number.
    pub min: Option<i64>,
    /// Largest allowed number.
    pub max: Option<i64>,
    /// Regular expression for the whole string.
    pub pattern: Option<&'static str>,
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));
