//! The writes there are, and their answers.

use std::{net::IpAddr, sync::Arc};

use serde_json::Value;
use skein_model::{Kind, Object};
use uuid::Uuid;

use super::{Draft, Intake, RefIntent, create, delete, elements, references, rules, update};
use crate::error::ApiResult;

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// May do anything, as everyone may when authentication is off.
    pub admin: bool,
    /// Project of the caller, without dashes.
    pub project: Option<String>,
    /// The server itself, which may touch what users may not.
    pub system: bool,
}

/// What to do with one element of a list or map property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementOp {
    /// Append to a list.
    Add,
    /// Replace in a list.
    Modify,
    /// Remove from a list or map.
    Delete,
    /// Put into a map.
    Set,
}

/// One line of `prop-collection-update`.
#[derive(Debug, Clone)]
pub struct ElementUpdate {
    /// The property.
    pub field: String,
    /// What to do.
    pub operation: ElementOp,
    /// The new element.
    pub value: Option<Value>,
    /// Index in a list, key in a map.
    pub position: Option<String>,
}

/// One write.
#[derive(Debug, Clone)]
pub enum Write {
    /// Create an object.
    Create(Intake),
    /// Merge fields into an object.
    Update(Uuid, Intake),
    /// Delete an object.
    Delete(Kind, Uuid),
    /// Add or drop one reference.
    RefUpdate {
        /// Holder's type.
        kind: Kind,
        /// Holder.
        uuid: Uuid,
        /// Type of the target.
        target: Kind,
        /// Target and attributes.
        intent: RefIntent,
        /// Add, else drop.
        add: bool,
        /// Do not keep the target from being deleted.
        relax: bool,
    },
    /// Let a reference no longer keep its target.
    Relax {
        /// Who refers.
        holder: Uuid,
        /// To what.
        target: Uuid,
    },
    /// Change elements of list and map properties.
    Elements(Uuid, Vec<ElementUpdate>),
    /// Store or delete a pair of the clients.
    Kv(String, Option<String>),
    /// Reserve addresses without objects.
    IpAlloc {
        /// The network.
        network: Uuid,
        /// How many.
        count: u32,
        /// Only from this subnet.
        subnet: Option<String>,
        /// 4 or 6.
        family: Option<u8>,
    },
    /// Give such addresses back.
    IpFree {
        /// The network.
        network: Uuid,
        /// Which.
        addresses: Vec<IpAddr>,
    },
    /// Count the addresses of subnets that are not free. Changes nothing; the allocators live with the planner.
    SubnetCount {
        /// The network.
        network: Uuid,
        /// `subnet_uuid`s.
        subnets: Vec<String>,
    },
    /// Attach and detach tags.
    SetTag(Kind, Uuid, serde_json::Map<String, Value>),
    /// Change owner and shares.
    Permissions(Uuid, serde_json::Map<String, Value>),
}

/// What a write answers.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The object in its new form; the last form for a delete.
    Object(Arc<Object>),
    /// Addresses.
    Addresses(Vec<IpAddr>),
    /// Numbers.
    Counts(Vec<usize>),
    /// Nothing but success.
    Done,
}

/// Plans one write.
///
/// # Errors
/// The refusal; the draft must then be dropped.
pub fn apply(draft: &mut Draft<'_>, write: Write) -> ApiResult<Answer> {
    match write {
        Write::Create(intake) => create::create(draft, intake).map(Answer::Object),
        Write::Update(uuid, intake) => update::update(draft, uuid, intake).map(Answer::Object),
        Write::Delete(kind, uuid) => delete::delete(draft, kind, uuid).map(Answer::Object),
        Write::RefUpdate { kind, uuid, target, intent, add, relax } => {
            references::ref_update(draft, kind, uuid, target, &intent, add, relax)
                .map(Answer::Object)
        }
        Write::Relax { holder, target } => {
            references::relax(draft, holder, target).map(Answer::Object)
        }
        Write::Elements(uuid, updates) => {
            elements::update_elements(draft, uuid, &updates).map(Answer::Object)
        }
        Write::Kv(key, value) => {
            if value.is_none() && !draft.head.kv.contains_key(&key) {
                return Err(crate::error::ApiError::not_found(format!(
                    "key: {key:?} is not stored"
                )));
            }
            draft.kv(key, value);
            Ok(Answer::Done)
        }
        Write::IpAlloc { network, count, subnet, family } => {
            rules::address::reserve(draft, network, count, subnet.as_deref(), family)
                .map(Answer::Addresses)
        }
        Write::IpFree { network, addresses } => {
            rules::address::unreserve(draft, network, &addresses)?;
            Ok(Answer::Done)
        }
        Write::SubnetCount { network, subnets } => {
            rules::address::count(draft, network, &subnets).map(Answer::Counts)
        }
        Write::SetTag(kind, uuid, request) => {
            rules::tag::set_tag(draft, kind, uuid, &request).map(Answer::Object)
        }
        Write::Permissions(uuid, request) => {
            rules::permissions(draft, uuid, &request).map(Answer::Object)
        }
    }
}
