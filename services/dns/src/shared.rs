//! What the sockets read and the agent writes.

use crate::metrics::Metrics;
use crate::zones::Zones;
use parking_lot::RwLock;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Zones, counters and the node's own addresses, for several threads.
#[derive(Debug, Default)]
pub struct Shared {
    /// The zones. Held for the length of one query or one change.
    pub zones: RwLock<Zones>,
    /// Counters.
    pub metrics: Metrics,
    /// Addresses behind which this very server answers: never asked upstream.
    pub own: RwLock<Vec<IpAddr>>,
    /// Views whose questions are heard: their sockets are open.
    pub heard: watch::Sender<BTreeSet<String>>,
    turn: AtomicU64,
}

impl Shared {
    /// Notes that a view is heard, until what is returned is dropped.
    pub(crate) fn hears(self: &Arc<Self>, view: &str) -> Hears {
        self.heard.send_if_modified(|views| views.insert(view.to_owned()));
        Hears { shared: self.clone(), view: view.to_owned() }
    }

    pub(crate) fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}

/// A view is heard while this lives.
pub(crate) struct Hears {
    shared: Arc<Shared>,
    view: String,
}

impl Drop for Hears {
    fn drop(&mut self) {
        self.shared.heard.send_if_modified(|views| views.remove(&self.view));
    }
}
