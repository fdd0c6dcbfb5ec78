//! Configuration in etcd, for several replicas of the API.
//!
//! Exactly one replica writes at a time: who holds the leader's key ([`Campaign`]). Every etcd transaction of a commit says
//! under which leadership and after which state of `head` it was made, so a writer that was asleep beyond its lease, or one whose
//! message was late, changes nothing. All replicas follow the keys ([`Etcd::follow`]) and see each commit whole, under Skein's
//! own revisions.
//!
//! Keys, below a prefix; watchers get those from `head` to `objects`:
//!
//! | key | value |
//! |---|---|
//! | `authority` | what the controllers of a fabric share (not of this crate) |
//! | `claims/<key>` | uuid of the owner |
//! | `head` | [`layout::Head`]: format, revision, log's start; changes with every commit |
//! | `kv/<key>` | the clients' own pairs |
//! | `leader` | [`Leader`], bound to its lease |
//! | `log/<last revision>` | what the commit did |
//! | `objects/<revision of creation>/<uuid>` | the object, JSON |
//! | `packed/<n>` | pieces of a transaction that is too large for one of etcd's |

mod campaign;
mod client;
mod follow;
mod layout;
mod pack;
mod read;
mod rpc;
mod store;

pub use campaign::{Campaign, Leader, Tenure};
pub use client::{Etcd, EtcdOptions};
pub use follow::{Change, Changes, Commit};
pub use read::Loaded;
pub use store::EtcdStore;
