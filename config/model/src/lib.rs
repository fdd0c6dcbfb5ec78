//! The VNC data model: generated types and metadata, and the object graph. No I/O.
//!
//! `schema/*.yaml` at the top of the repository is the source. From it come [`Kind`] and its
//! metadata ([`meta`]), one struct per structured value ([`values`]), typed views of objects
//! ([`views`]) and the checks of [`validate`]. [`Object`] is what is stored and what travels;
//! [`Graph`] holds objects with their parents, references and back references.

mod fq_name;
mod graph;
mod kind;
pub mod meta;
mod object;
pub mod validate;

/// Structured values of the API, generated from `schema/structs.yaml`.
///
/// Absent fields are `None` or empty; unknown fields are ignored when reading.
#[allow(clippy::doc_markdown)]
pub mod values {
    use serde::{Deserialize, Deserializer, Serialize};

    /// Lists travel as JSON null, as a missing field and as `[]`; all mean empty.
    fn null_as_empty<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: Deserialize<'de>,
    {
        Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
    }

    include!(concat!(env!("OUT_DIR"), "/values.rs"));
}

/// Typed access to the properties of an [`Object`], generated from `schema/types/`.
#[allow(clippy::doc_markdown)]
pub mod views {
    use crate::{Kind, Object, values};

    include!(concat!(env!("OUT_DIR"), "/views.rs"));
}

pub use fq_name::FqName;
pub use graph::{Change, Graph};
pub use kind::Kind;
pub use object::{Object, Reference};
