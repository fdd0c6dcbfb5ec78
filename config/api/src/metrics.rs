//! Counters and histograms of the server, in the Prometheus text format.

use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};
use skein_model::Kind;

use crate::replica::ReplicaMetrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    resource: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    resource: &'static str,
}

/// All metrics of one server.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latency: Histogram,
    group_size: Histogram,
    commit_seconds: Histogram,
    objects: Family<KindLabels, Gauge>,
    revision: Gauge,
    /// Open `/watch` streams.
    pub(crate) watchers: Gauge<i64, AtomicI64>,
    /// Of a replica among others.
    pub(crate) replica: Option<Arc<ReplicaMetrics>>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("skein_api");
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register(
            "requests",
            "Requests by method, resource and status code",
            requests.clone(),
        );
        let latency = Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        registry.register_with_unit(
            "request",
            "Time to answer a request",
            Unit::Seconds,
            latency.clone(),
        );
        let group_size = Histogram::new(exponential_buckets(1.0, 2.0, 10));
        registry.register("commit_group", "Writes that shared one commit", group_size.clone());
        let commit_seconds = Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        registry.register_with_unit(
            "commit",
            "Time of one durable commit",
            Unit::Seconds,
            commit_seconds.clone(),
        );
        let objects = Family::<KindLabels, Gauge>::default();
        registry.register("objects", "Objects by type", objects.clone());
        let revision = Gauge::default();
        registry.register("revision", "Revision of the last write", revision.clone());
        let watchers = Gauge::default();
        registry.register("watchers", "Open watch streams", watchers.clone());
        Self {
            registry,
            requests,
            latency,
            group_size,
            commit_seconds,
            objects,
            revision,
            watchers,
            replica: None,
        }
    }
}

impl Metrics {
    /// Those of a replica among others.
    pub(crate) fn of_replica() -> Self {
        let mut metrics = Self::default();
        let replica = ReplicaMetrics::default();
        replica.register(&mut metrics.registry);
        metrics.replica = Some(Arc::new(replica));
        metrics
    }

    /// Counts a request. `resource` is a type or action, never a path with identifiers.
    pub(crate) fn request(
        &self,
        method: &'static str,
        resource: &'static str,
        code: u16,
        took: Duration,
    ) {
        self.requests.get_or_create(&RequestLabels { method, resource, code }).inc();
        self.latency.observe(took.as_secs_f64());
    }

    #[allow(clippy::cast_precision_loss)] // groups have hundreds of members
    pub(crate) fn commit(&self, group: usize, took: Duration) {
        self.group_size.observe(group as f64);
        self.commit_seconds.observe(took.as_secs_f64());
    }

    /// The exposition text.
    pub(crate) fn render(&self, view: &crate::published::View) -> String {
        for kind in Kind::all() {
            let count = view.graph.count(kind);
            if count > 0 || self.objects.get(&KindLabels { resource: kind.name() }).is_some() {
                let gauge = self.objects.get_or_create(&KindLabels { resource: kind.name() });
                gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
            }
        }
        self.revision.set(i64::try_from(view.revision).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
