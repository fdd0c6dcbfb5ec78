//! Packs transactions into as few of etcd's as they fit.
//!
//! Costs decide: one of etcd's transactions is one fsync at its members, however many keys it changes, up to a limit on operations
//! and one on bytes. etcd refuses the same key twice, so transactions that touch one key go into different ones.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::layout::{CLAIMS, KV, LogRow, object_key};
use crate::{StoreError, Transaction};

/// Operations of one etcd transaction (`--max-txn-ops`), less those that every commit has: head, log, the log's end.
pub(super) const MOST_ROWS: usize = 128 - 3;
/// Bytes of one etcd request (`--max-request-bytes` is 1.5 MiB) that are spent on rows.
pub(super) const MOST_BYTES: usize = 1 << 20;
/// What keys, lengths and the compare of a row cost beside its value.
const ROW_OVERHEAD: usize = 64;

/// Keys below the prefix that change together, and what must hold.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// What becomes of each key.
    pub(super) changes: BTreeMap<String, Option<String>>,
    /// Claims that nobody else may hold.
    pub(super) fresh: Vec<(String, Uuid)>,
    /// What the transactions did.
    pub(super) log: LogRow,
    /// Revision of the last transaction.
    pub(super) revision: u64,
    bytes: usize,
}

impl Rows {
    /// The rows of one transaction. Releases apply before claims.
    pub(super) fn of(transaction: &Transaction, prefix: usize) -> Result<Self, StoreError> {
        let mut changes = BTreeMap::new();
        for gone in &transaction.deletes {
            changes.insert(object_key(gone.created_revision, gone.uuid), None);
        }
        for object in &transaction.puts {
            let text = serde_json::to_string(object.as_ref())
                .map_err(|source| StoreError::Encode { uuid: object.uuid, source })?;
            if text.len() > MOST_BYTES {
                return Err(StoreError::TooLarge {
                    what: format!("{} {}", object.kind, object.fq_name),
                    bytes: text.len(),
                    most: MOST_BYTES,
                });
            }
            changes.insert(object_key(object.created_revision, object.uuid), Some(text));
        }
        let released: BTreeSet<&String> = transaction.releases.iter().collect();
        for key in &released {
            changes.insert(format!("{CLAIMS}{key}"), None);
        }
        let mut fresh = Vec::new();
        for claim in &transaction.claims {
            let key = format!("{CLAIMS}{}", claim.key);
            if !released.contains(&claim.key) {
                fresh.push((key.clone(), claim.owner));
            }
            changes.insert(key, Some(claim.owner.to_string()));
        }
        for (key, value) in &transaction.kv {
            if let Some(value) = value.as_ref().filter(|value| value.len() > MOST_BYTES) {
                let (what, bytes) = (format!("the value of key {key:?}"), value.len());
                return Err(StoreError::TooLarge { what, bytes, most: MOST_BYTES });
            }
            changes.insert(format!("{KV}{key}"), value.clone());
        }
        let entries = transaction.log().into_iter();
        let log: LogRow = entries.map(|entry| (entry.revision, entry)).collect();
        let row = |(key, value): (&String, &Option<String>)| {
            prefix * 2 + key.len() * 2 + value.as_ref().map_or(0, String::len) + ROW_OVERHEAD
        };
        let bytes = changes.iter().map(row).sum::<usize>() + log.len() * 120;
        Ok(Self { changes, fresh, log, revision: transaction.revision, bytes })
    }

    /// Whether one etcd transaction holds them.
    pub(super) fn fit(&self) -> bool {
        self.changes.len() <= MOST_ROWS && self.bytes <= MOST_BYTES + ROW_OVERHEAD * MOST_ROWS
    }

    /// Takes the rows of the next transaction in, if both together fit.
    fn join(&mut self, next: Rows) -> Option<Rows> {
        let together = self.changes.len() + next.changes.len() <= MOST_ROWS
            && self.bytes + next.bytes <= MOST_BYTES
            && !next.changes.keys().any(|key| self.changes.contains_key(key));
        if !together {
            return Some(next);
        }
        self.changes.extend(next.changes);
        self.fresh.extend(next.fresh);
        self.log.extend(next.log);
        self.revision = next.revision;
        self.bytes += next.bytes;
        None
    }
}

/// The group as rows that go together, in order. `last` is the revision before it.
pub(super) fn pack(
    group: &[Transaction],
    last: u64,
    prefix: usize,
) -> Result<Vec<Rows>, StoreError> {
    let mut packed: Vec<Rows> = Vec::new();
    for (expected, transaction) in (last + 1..).zip(group) {
        if transaction.revision != expected {
            return Err(StoreError::Revision { found: transaction.revision, expected });
        }
        let rows = Rows::of(transaction, prefix)?;
        let left = match packed.last_mut() {
            Some(last) => last.join(rows),
            None => Some(rows),
        };
        packed.extend(left);
    }
    Ok(packed)
}
