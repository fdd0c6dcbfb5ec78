//! Where configuration is kept.
//!
//! The [`ObjectStore`] contract is small on purpose: load everything once, then commit groups of
//! [`Transaction`]s, each of which carries one revision. A transaction holds the objects it puts and
//! deletes together with the [`Claim`]s it takes or gives back: a claim is a key that at most one owner
//! may hold (a name, an address, a number), so "one name, one winner" is a property of the store and
//! not of whoever plans the writes.
//!
//! [`EmbeddedStore`] keeps it all in one redb file. A group is one redb transaction with one fsync, so the
//! cost of durability is shared by all writers that were waiting. Reads do not come here: the API
//! serves them from its graph in memory.
//!
//! [`EtcdStore`] keeps it in etcd, where several replicas of the API follow what the one of them commits that leads
//! ([`Campaign`], [`Etcd::follow`]).

mod contract;
mod embedded;
mod error;
mod etcd;

pub use contract::{Claim, LogEntry, LogOp, ObjectStore, State, Tombstone, Transaction};
pub use embedded::{EmbeddedStore, Options};
pub use error::StoreError;
pub use etcd::{
    Campaign, Change, Changes, Commit, Etcd, EtcdOptions, EtcdStore, Leader, Loaded, Tenure,
};
