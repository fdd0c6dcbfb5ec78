//! What the sockets read and the agent writes.

use crate::metrics::Metrics;
use crate::zones::Zones;
use parking_lot::RwLock;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// Zones, counters and the node's own addresses, for several threads.
#[derive(Debug, Default)]
pub struct Shared {
    /// The zones. Held for the length of one query or one change.
    pub zones: RwLock<Zones>,
    /// Counters.
    pub metrics: Metrics,
    /// Addresses behind which this very server answers: never asked upstream.
    pub own: RwLock<Vec<IpAddr>>,
    turn: AtomicU64,
}

impl Shared {
    pub(crate) fn next_turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }
}
