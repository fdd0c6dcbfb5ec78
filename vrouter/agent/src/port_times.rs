//! How long new ports take until they forward, by step: for whoever asks why a pod starts slowly.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use skein_cni::port_api::PortKey;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What is waited for, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A controller's answer, and with it the orchestrator's objects.
    Objects,
    /// The plugin: it makes the interface and gives it its addresses.
    Interface,
    /// The policy in force, the tables written.
    Policy,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Objects => "objects",
            Step::Interface => "interface",
            Step::Policy => "policy",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    step: &'static str,
}

/// Times since the start.
pub(crate) struct PortTimes {
    registry: Registry,
    steps: Family<Labels, Histogram, fn() -> Histogram>,
    /// Ports whose interface is being made, and since when.
    making: BTreeMap<PortKey, Instant>,
}

/// From half a millisecond to 16 seconds.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_5, 2.0, 16))
}

impl Default for PortTimes {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("skein_agent");
        let steps = Family::new_with_constructor(buckets as fn() -> Histogram);
        let help = "Time that new ports took, by step";
        registry.register_with_unit("port", help, Unit::Seconds, steps.clone());
        Self { registry, steps, making: BTreeMap::new() }
    }
}

impl PortTimes {
    /// A step ended.
    pub(crate) fn took(&self, step: Step, time: Duration) {
        tracing::debug!(step = step.name(), ?time, "a new port");
        self.steps.get_or_create(&Labels { step: step.name() }).observe(time.as_secs_f64());
    }

    /// The plugin begins to make a port's interface.
    pub(crate) fn known(&mut self, key: &PortKey) {
        self.making.insert(key.clone(), Instant::now());
    }

    /// It has made it.
    pub(crate) fn made(&mut self, key: &PortKey) {
        // A call that is repeated says nothing of how long it takes.
        if let Some(since) = self.making.remove(key) {
            self.took(Step::Interface, since.elapsed());
        }
    }

    /// It will not.
    pub(crate) fn forget(&mut self, key: &PortKey) {
        self.making.remove(key);
    }

    /// In the text form of Prometheus.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String does not fail.
        let _ = encode_registry(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_is_counted_once() {
        let key = PortKey { container: "c".into(), interface: "eth0".into() };
        let mut times = PortTimes::default();
        times.took(Step::Objects, Duration::from_millis(3));
        times.known(&key);
        times.made(&key);
        times.made(&key);
        times.known(&key);
        times.forget(&key);
        times.made(&key);
        let text = times.text();
        for line in [
            "skein_agent_port_seconds_count{step=\"objects\"} 1",
            "skein_agent_port_seconds_count{step=\"interface\"} 1",
            "skein_agent_port_seconds_bucket{le=\"0.004\",step=\"objects\"} 1",
            "skein_agent_port_seconds_bucket{le=\"0.002\",step=\"objects\"} 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
