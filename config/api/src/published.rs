//! What readers see: the state as of the last durable write, and the recent past for watchers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::{RwLock, RwLockReadGuard};
use skein_model::{Change, Graph, Kind, Object};
use skein_store::{LogOp, State, Transaction};
use tokio::sync::watch;
use uuid::Uuid;

/// One object's change at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// When.
    pub(crate) revision: u64,
    /// What.
    pub(crate) op: LogOp,
    /// Type of the object.
    pub(crate) kind: Kind,
    /// Which object.
    pub(crate) uuid: Uuid,
    /// Its new form; none for a delete.
    pub(crate) object: Option<Arc<Object>>,
}

/// The readable state.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// All objects.
    pub(crate) graph: Graph,
    /// The clients' key-value pairs.
    pub(crate) kv: BTreeMap<String, String>,
    /// The revision this is the state of.
    pub(crate) revision: u64,
    events: VecDeque<Event>,
    /// Events are complete for every revision after this one.
    complete_after: u64,
}

impl View {
    /// Builds the state from what was stored. The log's puts carry the objects as they are now.
    #[must_use]
    pub(crate) fn load(state: &State) -> Self {
        let mut view = Self {
            revision: state.revision,
            complete_after: state.compacted,
            kv: state.kv.iter().cloned().collect(),
            ..Self::default()
        };
        for object in &state.objects {
            view.graph.apply(&Change::Put(Arc::clone(object)));
        }
        for entry in &state.log {
            let object = view.graph.get(entry.uuid).cloned();
            // A put that was overtaken by a later one is told once, at its last revision.
            let current = object.as_ref().is_some_and(|o| o.revision == entry.revision);
            if entry.op != LogOp::Delete && !current {
                continue;
            }
            let object = if entry.op == LogOp::Delete { None } else { object };
            view.events.push_back(Event {
                revision: entry.revision,
                op: entry.op,
                kind: entry.kind,
                uuid: entry.uuid,
                object,
            });
        }
        view
    }

    fn apply(&mut self, transaction: &Transaction, retention: usize) {
        let revision = transaction.revision;
        // Where replicas follow each other, who commits may see its own commit come back first.
        if revision <= self.revision {
            return;
        }
        for gone in &transaction.deletes {
            self.graph.apply(&Change::Delete(gone.uuid));
            let (kind, uuid) = (gone.kind, gone.uuid);
            self.events.push_back(Event { revision, op: LogOp::Delete, kind, uuid, object: None });
        }
        for object in &transaction.puts {
            self.graph.apply(&Change::Put(Arc::clone(object)));
            let is_new = object.created_revision == revision;
            self.events.push_back(Event {
                revision,
                op: if is_new { LogOp::Create } else { LogOp::Update },
                kind: object.kind,
                uuid: object.uuid,
                object: Some(Arc::clone(object)),
            });
        }
        for (key, value) in &transaction.kv {
            match value {
                Some(value) => self.kv.insert(key.clone(), value.clone()),
                None => self.kv.remove(key),
            };
        }
        while self.events.len() > retention {
            if let Some(event) = self.events.pop_front() {
                self.complete_after = self.complete_after.max(event.revision);
            }
        }
        self.revision = revision;
    }

    /// Up to `limit` events after a revision; a revision's events stay together. None if they are no longer all known.
    #[must_use]
    pub(crate) fn events_after(&self, revision: u64, limit: usize) -> Option<Vec<Event>> {
        if revision < self.complete_after {
            return None;
        }
        let from = self.events.partition_point(|event| event.revision <= revision);
        let mut found: Vec<Event> = Vec::new();
        for event in self.events.range(from..) {
            if found.len() >= limit
                && found.last().is_some_and(|last| last.revision != event.revision)
            {
                break;
            }
            found.push(event.clone());
        }
        Some(found)
    }
}

/// The readable state behind its lock, with a bell for watchers.
#[derive(Debug)]
pub(crate) struct Published {
    view: RwLock<View>,
    bell: watch::Sender<u64>,
    retention: usize,
}

impl Published {
    /// Publishes the first state.
    #[must_use]
    pub(crate) fn new(view: View, retention: usize) -> Self {
        let bell = watch::Sender::new(view.revision);
        Self { view: RwLock::new(view), bell, retention }
    }

    /// Reads. Never hold this across an await.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, View> {
        self.view.read()
    }

    /// Shows a durable group to readers, all at once.
    pub(crate) fn publish(&self, group: &[Transaction]) {
        let revision = {
            let mut view = self.view.write();
            for transaction in group {
                view.apply(transaction, self.retention);
            }
            view.revision
        };
        self.bell.send_replace(revision);
    }

    /// Replaces everything after the store was opened again; watchers that cannot follow are told to relist.
    pub(crate) fn replace(&self, view: View) {
        let revision = view.revision;
        *self.view.write() = view;
        self.bell.send_replace(revision);
    }

    /// Takes in what was loaded while others may publish: keeps what is newer, unless the store's own history went back
    /// behind `before`, the revision that was known when the load began.
    pub(crate) fn adopt(&self, state: &State, before: u64) {
        if state.revision == self.revision() {
            return;
        }
        let view = View::load(state);
        let revision = {
            let mut current = self.view.write();
            if view.revision > current.revision || view.revision < before {
                *current = view;
            }
            current.revision
        };
        self.bell.send_replace(revision);
    }

    /// The newest revision that is shown.
    pub(crate) fn revision(&self) -> u64 {
        self.view.read().revision
    }

    /// Waits until a revision is shown. Whether it is, within the limit.
    pub(crate) async fn reached(&self, revision: u64, limit: Duration) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let mut bell = self.bell.subscribe();
        let reached = bell.wait_for(|shown| *shown >= revision);
        tokio::time::timeout(limit, reached).await.is_ok_and(|shown| shown.is_ok())
    }

    /// Rings with the newest revision.
    #[must_use]
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }
}
