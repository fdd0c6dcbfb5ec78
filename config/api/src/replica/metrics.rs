//! Counters of a replica among others.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ForwardLabels {
    result: &'static str,
}

/// Metrics of a replica.
#[derive(Debug, Default)]
pub(crate) struct ReplicaMetrics {
    leader: Gauge<i64, AtomicI64>,
    lag: Gauge<i64, AtomicI64>,
    forwarded: Family<ForwardLabels, Counter>,
    etcd_errors: Counter<u64, AtomicU64>,
    pub(super) leader_changes: Counter,
}

impl ReplicaMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        let leader = self.leader.clone();
        registry.register("leader", "Whether this replica writes: 1 if so", leader);
        let lag = self.lag.clone();
        registry.register("follower_lag", "Revisions that etcd has and this replica does not", lag);
        let forwarded = self.forwarded.clone();
        registry.register("forwarded", "Writes handed to the leader, by result", forwarded);
        let errors = self.etcd_errors.clone();
        registry.register("etcd_errors", "Calls of etcd that failed", errors);
        let changes = self.leader_changes.clone();
        registry.register("leader_changes", "Leaders seen, the first included", changes);
    }

    pub(super) fn leads(&self, yes: bool) {
        self.leader.set(i64::from(yes));
    }

    pub(super) fn lag(&self, revisions: u64) {
        self.lag.set(i64::try_from(revisions).unwrap_or(i64::MAX));
    }

    pub(super) fn forwarded(&self, result: &'static str) {
        self.forwarded.get_or_create(&ForwardLabels { result }).inc();
    }

    pub(crate) fn etcd_errors(&self, total: u64) {
        self.etcd_errors.inc_by(total.saturating_sub(self.etcd_errors.get()));
    }
}
