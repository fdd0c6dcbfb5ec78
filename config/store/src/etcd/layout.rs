//! Keys and values as they are stored.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::LogEntry;

/// Layout of the keys; raised when an older version could not read them.
pub(super) const FORMAT: u64 = 1;

/// The newest commit. Whoever sees it change sees the whole commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)] // so that another format is called that
pub(super) struct Head {
    /// Layout.
    pub(super) format: u64,
    /// Skein's revision.
    pub(super) revision: u64,
    /// The first revision of the newest commit; who knows less than the one before it has missed something.
    pub(super) first: u64,
    /// The log is complete for every revision after this one.
    pub(super) compacted: u64,
    /// Who wrote it: the etcd revision that began its leadership.
    pub(super) term: i64,
    /// Of this configuration since its first commit: another one is not taken for it.
    pub(super) origin: Uuid,
    /// Of this commit and no other: a writer knows its own again when the answer was lost.
    pub(super) id: Uuid,
    /// The commit is in this many pieces below `packed/`, and not yet in its rows.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) packed: usize,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands out a reference
fn is_zero(n: &usize) -> bool {
    *n == 0
}

pub(super) const HEAD: &str = "head";
pub(super) const LEADER: &str = "leader";
pub(super) const CLAIMS: &str = "claims/";
pub(super) const KV: &str = "kv/";
pub(super) const LOG: &str = "log/";
pub(super) const OBJECTS: &str = "objects/";
pub(super) const PACKED: &str = "packed/";

pub(super) fn object_key(created: u64, uuid: Uuid) -> String {
    format!("{OBJECTS}{created:020}/{uuid}")
}

/// Revision of creation and uuid of a row of objects, whose key is given without prefix and folder.
pub(super) fn object_of(key: &str) -> Option<(u64, Uuid)> {
    let (created, uuid) = key.split_once('/')?;
    Some((created.parse().ok()?, uuid.parse().ok()?))
}

pub(super) fn log_key(revision: u64) -> String {
    format!("{LOG}{revision:020}")
}

pub(super) fn piece_key(n: usize) -> String {
    format!("{PACKED}{n:06}")
}

/// A row of the log: each entry with its revision.
pub(super) type LogRow = Vec<(u64, LogEntry)>;

/// A transaction that is larger than one of etcd's: what to do with each key below the prefix.
pub(super) type PackedRows = Vec<(String, Option<String>)>;
