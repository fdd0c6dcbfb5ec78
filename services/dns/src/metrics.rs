//! What was asked and what came of it.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a query ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With records of a zone.
    Answered,
    /// The name has none of the type.
    NoData,
    /// The name does not exist.
    NoName,
    /// With what an upstream said.
    Forwarded,
    /// No upstream answered, or a circle of aliases.
    Failed,
    /// Not served: other classes, transfers, unknown views.
    Refused,
    /// Not readable.
    Malformed,
}

const OUTCOMES: [(Outcome, &str); 7] = [
    (Outcome::Answered, "answered"),
    (Outcome::NoData, "no_data"),
    (Outcome::NoName, "no_name"),
    (Outcome::Forwarded, "forwarded"),
    (Outcome::Failed, "failed"),
    (Outcome::Refused, "refused"),
    (Outcome::Malformed, "malformed"),
];

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    queries: [AtomicU64; 7],
    /// No query at all, or nobody had time for it.
    pub(crate) dropped: AtomicU64,
    /// An upstream did not answer in time.
    pub(crate) upstream_timeouts: AtomicU64,
    /// An upstream could not be asked, or said something else than it was asked.
    pub(crate) upstream_errors: AtomicU64,
    /// Questions sent upstream, those by TCP among them.
    pub(crate) upstream_queries: AtomicU64,
    /// Sent again by TCP, as the answer did not fit.
    pub(crate) upstream_tcp: AtomicU64,
    /// Questions that waited for the same one.
    pub(crate) joined: AtomicU64,
    /// Connections that are open.
    pub(crate) connections: AtomicU64,
}

impl Metrics {
    pub(crate) fn count(&self, outcome: Outcome) {
        let at = OUTCOMES.iter().position(|(known, _)| *known == outcome).unwrap_or(0);
        if let Some(counter) = self.queries.get(at) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many queries ended so.
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        let at = OUTCOMES.iter().position(|(known, _)| *known == outcome).unwrap_or(0);
        self.queries.get(at).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// In the text form of Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::from(
            "# HELP skein_dns_queries_total DNS queries by how they ended.\n\
             # TYPE skein_dns_queries_total counter\n",
        );
        for ((_, name), counter) in OUTCOMES.iter().zip(&self.queries) {
            let value = counter.load(Ordering::Relaxed);
            let _ = writeln!(out, "skein_dns_queries_total{{result=\"{name}\"}} {value}");
        }
        for (name, help, counter) in [
            ("dropped_total", "Datagrams that got no reply.", &self.dropped),
            ("upstream_queries_total", "Questions sent upstream.", &self.upstream_queries),
            ("upstream_tcp_total", "Questions repeated by TCP.", &self.upstream_tcp),
            (
                "upstream_timeouts_total",
                "Questions no upstream answered in time.",
                &self.upstream_timeouts,
            ),
            (
                "upstream_errors_total",
                "Questions an upstream could not be asked.",
                &self.upstream_errors,
            ),
            ("joined_total", "Questions that waited for the same one.", &self.joined),
        ] {
            let value = counter.load(Ordering::Relaxed);
            let _ = write!(
                out,
                "# HELP skein_dns_{name} {help}\n# TYPE skein_dns_{name} counter\nskein_dns_{name} {value}\n"
            );
        }
        let open = self.connections.load(Ordering::Relaxed);
        let _ = write!(
            out,
            "# HELP skein_dns_connections Open TCP connections.\n# TYPE skein_dns_connections gauge\n\
             skein_dns_connections {open}\n"
        );
        out
    }
}
