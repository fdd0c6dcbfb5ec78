//! Object types as small numbers.

use crate::meta::{TYPES, TypeMeta};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// An object type of the schema, such as [`Kind::VIRTUAL_NETWORK`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind(pub(crate) u16);

include!(concat!(env!("OUT_DIR"), "/kinds.rs"));

impl Kind {
    /// Every type, in alphabetical order of the names.
    pub fn all() -> impl ExactSizeIterator<Item = Kind> {
        (0..TYPES.len()).map(|at| Kind(u16::try_from(at).unwrap_or(u16::MAX)))
    }

    /// Finds a type by its name, written with dashes or with underscores. Case counts.
    pub fn parse(name: &str) -> Option<Kind> {
        let same = |known: &str| {
            known.len() == name.len()
                && known.bytes().zip(name.bytes()).all(|(a, b)| a == b || (a == b'-' && b == b'_'))
        };
        Kind::all().find(|kind| same(kind.name()))
    }

    /// Its metadata.
    pub fn meta(self) -> &'static TypeMeta {
        &TYPES[usize::from(self.0)]
    }

    /// The name with dashes, as in URLs: `virtual-network`.
    pub fn name(self) -> &'static str {
        self.meta().name
    }

    /// The name with underscores, as in JSON field names: `virtual_network`.
    pub fn snake(self) -> &'static str {
        self.meta().snake
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<str>::deserialize(from)?;
        Kind::parse(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown object type {name}")))
    }
}
