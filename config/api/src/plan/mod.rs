//! The planner: every rule of the API, without I/O.
//!
//! A [`Head`] is the newest state, including writes that are planned and not yet durable. Each request runs in a
//! [`Draft`] on top of it, which collects objects, claims and allocations. If the request is refused the draft
//! undoes its allocations and leaves no trace; if it is accepted it becomes one
//! [`Transaction`](skein_store::Transaction) at the next revision. One thread runs drafts one after another, so rules
//! never race.

mod create;
mod delete;
mod draft;
mod elements;
mod head;
mod intake;
mod names;
mod perms;
mod references;
mod rules;
mod update;
mod write;

pub use draft::{Draft, Now};
pub(crate) use elements::list_field;
pub use head::{Head, Space, Subnet};
pub use intake::{Intake, RefIntent};
pub use names::{is_flat, parse_uuid};
pub use rules::bootstrap;
pub use write::{Answer, Caller, ElementOp, ElementUpdate, Write, apply};
