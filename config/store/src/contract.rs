//! The contract between the API's planner and whatever makes its writes durable.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use skein_model::{Kind, Object};
use uuid::Uuid;

use crate::StoreError;

/// A key with at most one owner: a name, an address, an allocated number.
///
/// Keys are text, `/`-separated, with the space first (`name/virtual-network/a:b:c`, `ip/<owner>/<address>`,
/// `id/<space>/<number>`); the store gives them no meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What is claimed.
    pub key: String,
    /// The object that holds it; the nil UUID for a reservation without an object.
    pub owner: Uuid,
}

/// What a delete leaves behind: enough to find the stored row and to tell a watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// The deleted object.
    pub uuid: Uuid,
    /// Its type.
    pub kind: Kind,
    /// The revision that created it, which is the first part of its row key.
    pub created_revision: u64,
}

/// One write, at one revision. All of it becomes durable or none of it.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// The revision of this write; consecutive transactions carry consecutive revisions.
    pub revision: u64,
    /// Objects in their new form. `created_revision == revision` means the object is new.
    pub puts: Vec<Arc<Object>>,
    /// Objects that go.
    pub deletes: Vec<Tombstone>,
    /// Claims taken. Taking a claim held by another owner fails the whole group.
    pub claims: Vec<Claim>,
    /// Claims given back. Releases apply before claims, so that an owner may swap.
    pub releases: Vec<String>,
    /// Key-value changes of the clients' own store; `None` deletes.
    pub kv: Vec<(String, Option<String>)>,
}

/// What happened to one object in one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogOp {
    /// It was created.
    Create,
    /// It changed.
    Update,
    /// It is gone.
    Delete,
}

/// One line of the revision log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The revision it belongs to.
    #[serde(skip)]
    pub revision: u64,
    /// What happened.
    pub op: LogOp,
    /// Its type.
    pub kind: Kind,
    /// Which object.
    pub uuid: Uuid,
}

impl Transaction {
    /// What it did, as the revision log tells it.
    #[must_use]
    pub fn log(&self) -> Vec<LogEntry> {
        let revision = self.revision;
        let puts = self.puts.iter().map(|object| LogEntry {
            revision,
            op: if object.created_revision == revision { LogOp::Create } else { LogOp::Update },
            kind: object.kind,
            uuid: object.uuid,
        });
        let deletes = self.deletes.iter().map(|gone| LogEntry {
            revision,
            op: LogOp::Delete,
            kind: gone.kind,
            uuid: gone.uuid,
        });
        puts.chain(deletes).collect()
    }
}

/// Everything that is stored, as read at start.
#[derive(Debug, Default)]
pub struct State {
    /// The last durable revision; 0 in a new store.
    pub revision: u64,
    /// All objects in order of creation.
    pub objects: Vec<Arc<Object>>,
    /// All claims.
    pub claims: Vec<Claim>,
    /// The clients' key-value pairs.
    pub kv: Vec<(String, String)>,
    /// The kept part of the revision log, oldest first.
    pub log: Vec<LogEntry>,
    /// The log is complete for every revision after this one; a watcher that saw less must relist.
    pub compacted: u64,
}

/// A durable home for configuration. One process, one thread, writes to it at a time.
pub trait ObjectStore: Send + 'static {
    /// Reads everything. Also the way back after a failed [`commit`](Self::commit): the store is opened
    /// afresh, and what it then returns is the truth, including a group whose outcome was unknown.
    ///
    /// # Errors
    /// The file cannot be opened, read or understood.
    fn load(&mut self) -> Result<State, StoreError>;

    /// Makes a group of transactions durable, each of them whole. After it returns, a power cut loses nothing of them.
    ///
    /// # Errors
    /// Nothing of the group may be assumed, and a first part of it may be stored; call [`load`](Self::load) before the
    /// next commit.
    fn commit(&mut self, group: &[Transaction]) -> Result<(), StoreError>;
}
