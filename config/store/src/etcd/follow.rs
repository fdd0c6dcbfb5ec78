//! Follows what others commit.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tonic::Streaming;
use uuid::Uuid;

use super::{
    campaign::Leader,
    client::{Etcd, led, told, watcher},
    layout::{HEAD, Head, KV, LEADER, LOG, LogRow, OBJECTS, PackedRows, object_of},
    rpc,
};
use crate::{LogOp, StoreError, Tombstone, Transaction};

/// What happened.
#[derive(Debug)]
pub enum Change {
    /// Somebody committed.
    Commit(Commit),
    /// Another leads now, or nobody.
    Leader(Option<Leader>),
}

/// A commit that is not decoded yet: whoever made it knows what is in it.
#[derive(Debug)]
pub struct Commit {
    head: Head,
    at: i64,
    events: Vec<rpc::Event>,
}

impl Commit {
    /// Skein's revision after it.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.head.revision
    }

    /// The first of its revisions: who does not know the one before has missed a commit and must load.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.head.first
    }
}

/// The stream of changes after a moment.
#[derive(Debug)]
pub struct Changes {
    etcd: Etcd,
    stream: Streaming<rpc::WatchResponse>,
    /// Events of an answer that is not complete.
    pieces: Vec<rpc::Event>,
    /// etcd's revision up to which everything was handed out.
    at: i64,
    /// Where it comes from.
    endpoint: String,
}

/// Prefix of commits' pieces: sorts after everything that is followed, and is not.
const END: &str = "p";
/// How long opening the stream may take.
const OPEN: Duration = Duration::from_secs(3);

impl Etcd {
    /// Follows what comes after a revision of etcd ([`Loaded::at`](super::Loaded), [`Changes::at`]), from the endpoint that
    /// answered last.
    ///
    /// # Errors
    /// etcd does not answer or refuses.
    pub async fn follow(&self, at: i64) -> Result<Changes, StoreError> {
        let (url, channel) = self.current();
        let create = rpc::WatchCreateRequest {
            key: self.key(HEAD).into(),
            range_end: self.key(END).into(),
            start_revision: at + 1,
            fragment: true,
        };
        let create = rpc::WatchRequest {
            request_union: Some(rpc::watch_request::RequestUnion::CreateRequest(create)),
        };
        // etcd ends the watch when the stream of requests ends.
        let requests = futures_util::stream::iter([create]).chain(futures_util::stream::pending());
        let opened = async { watcher(channel).watch(led(requests)).await };
        let opened = tokio::time::timeout(OPEN, opened).await;
        let opened =
            opened.unwrap_or_else(|_| Err(tonic::Status::unavailable("no answer in time")));
        match opened {
            Ok(stream) => {
                let (etcd, stream) = (self.clone(), stream.into_inner());
                Ok(Changes { etcd, stream, pieces: Vec::new(), at, endpoint: url })
            }
            Err(status) => {
                self.leave();
                Err(self.permanent(&url, &status).unwrap_or_else(|| StoreError::Unreachable {
                    endpoints: url,
                    reason: told(&status),
                }))
            }
        }
    }

    /// The transactions of a commit that are newer than what is known already, one for each revision.
    ///
    /// # Errors
    /// Something in it cannot be read; [`StoreError::Compacted`] if there are commits between what is known and this one.
    pub async fn transactions(
        &self,
        commit: Commit,
        known: u64,
    ) -> Result<Vec<Transaction>, StoreError> {
        let changed: PackedRows = if commit.head.packed > 0 {
            self.pieces(commit.head.packed, commit.at).await?
        } else {
            let mut rows = Vec::with_capacity(commit.events.len());
            for event in commit.events {
                let is_put = event.r#type() == rpc::event::EventType::Put;
                let Some(kv) = event.kv else { continue };
                let key = self.suffix(&kv.key)?;
                let value = is_put.then(|| String::from_utf8(kv.value.to_vec())).transpose();
                let value = value.map_err(|_| self.corrupt(format!("{key}: no text")))?;
                rows.push((key, value));
            }
            rows
        };
        self.decode(&commit.head, changed, known)
    }

    fn decode(
        &self,
        head: &Head,
        changed: PackedRows,
        known: u64,
    ) -> Result<Vec<Transaction>, StoreError> {
        let mut log = LogRow::new();
        let mut objects = HashMap::new();
        let mut created = HashMap::<Uuid, u64>::new();
        let mut pairs = Vec::new();
        for (key, value) in changed {
            if let Some(name) = key.strip_prefix(OBJECTS) {
                let (at, uuid) = object_of(name)
                    .ok_or_else(|| self.corrupt(format!("{key}: no key of an object")))?;
                created.insert(uuid, at);
                if let Some(value) = value {
                    objects.insert(uuid, Arc::new(self.object(&key, value.as_bytes())?));
                }
            } else if let Some(name) = key.strip_prefix(KV) {
                pairs.push((name.to_owned(), value));
            } else if key.starts_with(LOG)
                && let Some(value) = value
            {
                log.extend(self.log(&key, value.as_bytes())?);
            }
        }
        let first = known + 1;
        if head.first > first {
            return Err(StoreError::Compacted);
        }
        let mut transactions: Vec<Transaction> = (first..=head.revision)
            .map(|revision| Transaction { revision, ..Transaction::default() })
            .collect();
        for (revision, entry) in log {
            let at = revision.checked_sub(first).and_then(|at| usize::try_from(at).ok());
            let Some(transaction) = at.and_then(|at| transactions.get_mut(at)) else { continue };
            if entry.op == LogOp::Delete {
                let created_revision = created.get(&entry.uuid).copied().unwrap_or_default();
                let (uuid, kind) = (entry.uuid, entry.kind);
                transaction.deletes.push(Tombstone { uuid, kind, created_revision });
            } else {
                let object = objects.get(&entry.uuid).cloned();
                transaction.puts.push(object.ok_or_else(|| {
                    self.corrupt(format!("revision {revision} lacks its {}", entry.uuid))
                })?);
            }
        }
        if let Some(last) = transactions.last_mut() {
            last.kv = pairs;
        }
        Ok(transactions)
    }
}

impl Changes {
    /// etcd's revision up to which everything was handed out: where to go on.
    #[must_use]
    pub fn at(&self) -> i64 {
        self.at
    }

    /// Whether they come from another endpoint than the one that answered last: then this one may be dead without a word.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        self.etcd.endpoint() != self.endpoint
    }

    /// The next changes; waits for them. Safe to cancel: nothing is lost.
    ///
    /// # Errors
    /// The stream ended: load again. [`StoreError::Compacted`] if that is why.
    pub async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            let answer = match self.stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(self.broken("etcd ended the watch")),
                Err(status) => {
                    // A member that stops, an old token: another member, or the next attempt, may do.
                    return Err(self.broken(&told(&status)));
                }
            };
            if answer.compact_revision > 0 {
                return Err(StoreError::Compacted);
            }
            if answer.canceled {
                return Err(self.broken(&format!("etcd ended the watch: {}", answer.cancel_reason)));
            }
            self.pieces.extend(answer.events);
            if answer.fragment || self.pieces.is_empty() {
                continue;
            }
            let changes = self.changes()?;
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }

    fn broken(&self, reason: &str) -> StoreError {
        if !self.is_elsewhere() {
            self.etcd.leave();
        }
        StoreError::Unreachable { endpoints: self.etcd.endpoints(), reason: reason.to_owned() }
    }

    /// Sorts events by the etcd revisions that they are of.
    fn changes(&mut self) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        let mut events = std::mem::take(&mut self.pieces);
        let revision = |event: &rpc::Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
        while let Some(first) = events.first() {
            let at = revision(first);
            let rest = events.partition_point(|event| revision(event) <= at);
            let rest = events.split_off(rest);
            let together = std::mem::replace(&mut events, rest);
            self.one(at, together, &mut changes)?;
            // Not the answer's own revision: when etcd catches up, that one is ahead of what it has sent.
            self.at = at;
        }
        Ok(changes)
    }

    fn one(
        &self,
        at: i64,
        events: Vec<rpc::Event>,
        changes: &mut Vec<Change>,
    ) -> Result<(), StoreError> {
        let is = |event: &rpc::Event, name: &str| {
            event.kv.as_ref().is_some_and(|kv| kv.key == self.etcd.key(name))
        };
        let is_put = |event: &rpc::Event| event.r#type() == rpc::event::EventType::Put;
        if let Some(event) = events.iter().find(|event| is(event, LEADER)) {
            let kv = event.kv.as_ref().filter(|_| is_put(event));
            changes.push(Change::Leader(kv.and_then(|kv| self.etcd.named(kv))));
        }
        // Rows that change without the head are those of a packed commit being laid out.
        let head = events.iter().find(|event| is(event, HEAD) && is_put(event));
        if let Some(kv) = head.and_then(|event| event.kv.as_ref()) {
            let head = self.etcd.head(&kv.value)?;
            changes.push(Change::Commit(Commit { head, at, events }));
        }
        Ok(())
    }
}
