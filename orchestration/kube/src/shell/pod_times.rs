//! How long the manager takes for new pods: from the moment it hears where one is until all of its ports are written.

use crate::key::Key;
use crate::plan::Write;
use parking_lot::Mutex;
use skein_model::Kind;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Upper ends of the buckets, in milliseconds.
const BUCKETS: [u64; 12] = [2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

#[derive(Debug, Default)]
struct Times {
    /// Pods without ports, and since when they are known.
    new: HashMap<Key, Instant>,
    /// Pods by bucket, those above all of them last.
    counts: [u64; BUCKETS.len() + 1],
    sum: Duration,
}

/// Times since the start.
#[derive(Debug, Default)]
pub(super) struct PodTimes(Mutex<Times>);

impl PodTimes {
    /// A pod that should have ports has none yet.
    pub(super) fn new_pod(&self, key: Key) {
        self.0.lock().new.entry(key).or_insert_with(Instant::now);
    }

    /// It is gone.
    pub(super) fn gone(&self, key: &Key) {
        self.0.lock().new.remove(key);
    }

    /// Writes for an owner were made. A pod's addresses are its last, what links it to its node aside.
    pub(super) fn written(&self, key: &Key, writes: &[Write]) {
        let address = |write: &Write| matches!(write, Write::Create { kind, .. } if *kind == Kind::INSTANCE_IP);
        if writes.iter().any(address) {
            let mut times = self.0.lock();
            if let Some(since) = times.new.remove(key) {
                times.count(since.elapsed());
            }
        }
    }

    /// OpenMetrics text.
    pub(super) fn write(&self, out: &mut String) {
        let times = self.0.lock();
        out.push_str(
            "# HELP skein_kube_pod_seconds Time from hearing of a new pod until its ports were written.\n\
             # TYPE skein_kube_pod_seconds histogram\n",
        );
        let mut total = 0;
        for (bound, count) in BUCKETS.iter().zip(&times.counts) {
            total += count;
            let bound = Duration::from_millis(*bound).as_secs_f64();
            let _ = writeln!(out, "skein_kube_pod_seconds_bucket{{le=\"{bound:?}\"}} {total}");
        }
        total += times.counts[BUCKETS.len()];
        let _ = writeln!(out, "skein_kube_pod_seconds_bucket{{le=\"+Inf\"}} {total}");
        let _ = writeln!(out, "skein_kube_pod_seconds_sum {}", times.sum.as_secs_f64());
        let _ = writeln!(out, "skein_kube_pod_seconds_count {total}");
    }
}

impl Times {
    fn count(&mut self, took: Duration) {
        let over = |bound: &u64| took <= Duration::from_millis(*bound);
        let bucket = BUCKETS.iter().position(over).unwrap_or(BUCKETS.len());
        self.counts[bucket] += 1;
        self.sum += took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Sort;
    use serde_json::Value;
    use skein_model::FqName;

    #[test]
    fn a_pod_counts_once_when_its_addresses_are_written() {
        let key = Key::new(Sort::Pod, "default", "web");
        let create = |kind| Write::Create { kind, name: FqName::single("x"), fields: Value::Null };
        let times = PodTimes::default();
        times.new_pod(key.clone());
        times.written(&key, &[create(Kind::VIRTUAL_MACHINE)]);
        let count = |wanted: &str| {
            let mut out = String::new();
            times.write(&mut out);
            assert!(out.contains(&format!("skein_kube_pod_seconds_count {wanted}\n")), "{out}");
        };
        count("0");
        for _ in 0..2 {
            times.written(&key, &[create(Kind::INSTANCE_IP)]);
        }
        count("1");
        times.new_pod(key.clone());
        times.gone(&key);
        times.written(&key, &[create(Kind::INSTANCE_IP)]);
        count("1");
    }

    #[test]
    fn buckets_add_up() {
        let mut times = Times::default();
        for milliseconds in [1, 2, 40, 90_000] {
            times.count(Duration::from_millis(milliseconds));
        }
        let mut out = String::new();
        PodTimes(Mutex::new(times)).write(&mut out);
        for line in [
            "{le=\"0.002\"} 2",
            "{le=\"0.02\"} 2",
            "{le=\"0.05\"} 3",
            "{le=\"10.0\"} 3",
            "{le=\"+Inf\"} 4",
            "_count 4",
        ] {
            assert!(
                out.contains(&format!("skein_kube_pod_seconds_bucket{line}\n"))
                    || out.contains(&format!("skein_kube_pod_seconds{line}\n")),
                "{line}: {out}"
            );
        }
    }
}
