//! What the node thread does for the port API, and for ports that nobody calls for any more.

use super::Node;
use crate::ports::{LinkLimits, PendingRelease, PodPlace, PortRecord};
use crate::state::{LocalPort, PortProblem};
use skein_cni::port_api::PortKey;
use skein_proto::session::{self as wire, from_agent};
use std::collections::BTreeMap;
use std::time::Instant;
use tokio::sync::oneshot;
use uuid::Uuid;

/// Seconds for which a pod's port is unknown to everyone before it is forgotten: a pod that starts is known sooner.
const UNCLAIMED: u32 = 10;

impl Node {
    /// Notes, on disk, that a controller is asked to make a port.
    pub(crate) fn begin(&mut self, key: &PortKey) {
        self.making.insert(key.clone());
        self.save_state();
    }

    /// Whatever a controller made for this port is to be released: the port never came to be.
    pub(crate) fn abandon(&mut self, key: &PortKey) {
        self.making.remove(key);
        if !self.releases.iter().any(|pending| pending.key == *key) {
            self.releases.push(PendingRelease { key: key.clone() });
        }
        self.save_state();
    }

    /// Adds ports that a controller has made or found. A port whose earlier sandbox is still here leaves that one:
    /// it is the same workload, started anew.
    pub(crate) fn register(&mut self, records: Vec<PortRecord>) {
        let add = records.iter().map(|record| record.uuid.to_string()).collect();
        for record in records {
            self.making.remove(&record.key);
            let earlier =
                |key: &PortKey, other: &PortRecord| other.uuid == record.uuid && *key != record.key;
            for (key, _) in self.ports.extract_if(.., |key, other| earlier(key, other)) {
                tracing::info!(container = key.container, port = %record.uuid, "superseded");
            }
            self.core.unbind(record.uuid);
            self.times.known(&record.key);
            self.ports.insert(record.key.clone(), record);
        }
        self.save_state();
        let interest = wire::Interest { add, ..wire::Interest::default() };
        self.tell(&from_agent::Message::Interest(interest));
    }

    /// Binds a port's host end; the receiver fires once the port forwards with its policy in force, and names that the node
    /// answers can be asked for.
    pub(crate) fn bind(
        &mut self,
        key: &PortKey,
        ifindex: u32,
        mtu: u32,
    ) -> Option<Result<(Uuid, oneshot::Receiver<()>), String>> {
        self.times.made(key);
        let record = self.ports.get_mut(key)?;
        record.ifindex = Some(ifindex);
        record.mtu = mtu;
        let uuid = record.uuid;
        // Hooked up before anything else: until its entry is written, the workload reaches nothing.
        if let Err(error) = self.kernel.attach(ifindex) {
            return Some(Err(error.to_string()));
        }
        self.core.bind(LocalPort { uuid, ifindex, mtu, vlan: None });
        Some(Ok((uuid, self.in_force(uuid))))
    }

    /// The receiver fires once a port forwards with its policy in force.
    pub(crate) fn in_force(&mut self, uuid: Uuid) -> oneshot::Receiver<()> {
        let (reply, receiver) = oneshot::channel();
        self.waiting.push((uuid, Instant::now(), reply));
        receiver
    }

    /// Forgets a port here and queues its release at a controller.
    pub(crate) fn release(&mut self, key: &PortKey) -> Option<PortRecord> {
        let Some(record) = self.ports.remove(key) else {
            // The plugin was killed while its ADD waited for the controller.
            if self.making.contains(key) {
                self.abandon(key);
            }
            return None;
        };
        self.times.forget(key);
        self.core.forget(record.uuid);
        if record.pod.is_none() {
            self.releases.push(PendingRelease { key: key.clone() });
        }
        let interest =
            wire::Interest { remove: vec![record.uuid.to_string()], ..wire::Interest::default() };
        self.settle();
        self.tell(&from_agent::Message::Interest(interest));
        Some(record)
    }

    /// Forgets all ports of a pod's sandbox.
    pub(crate) fn release_pod(&mut self, container: &str) -> Vec<PortRecord> {
        let of_pod = self.ports.values().filter(|record| record.pod.is_some());
        let keys: Vec<PortKey> = of_pod
            .filter(|record| record.key.container == container)
            .map(|record| record.key.clone())
            .collect();
        keys.iter().filter_map(|key| self.release(key)).collect()
    }

    /// Ports of a pod's sandbox in order of their index.
    pub(crate) fn pod(&self, container: &str) -> Vec<(PodPlace, PortRecord)> {
        let of_pod = self.ports.values().filter(|record| record.key.container == container);
        let mut all: Vec<_> = of_pod.filter_map(|r| Some((r.pod?, r.clone()))).collect();
        all.sort_by_key(|(place, _)| place.index);
        all
    }

    /// A controller has released the port.
    pub(crate) fn released(&mut self, key: &PortKey) {
        self.releases.retain(|pending| pending.key != *key);
        self.save_state();
    }

    /// What workloads' interfaces are given.
    pub(crate) fn link_limits(&self) -> LinkLimits {
        let super_packet = self.kernel.super_packet;
        LinkLimits {
            mtu: self.underlay.workload_mtu(),
            underlay_mtu: self.underlay.mtu(),
            super_packet,
        }
    }

    /// Why a port does not forward.
    pub(crate) fn problem(&self, record: &PortRecord) -> Option<PortProblem> {
        self.core.port_problem(record.uuid)
    }

    /// Why a workload behind a port is not to start yet.
    pub(crate) fn not_yet(&self, record: &PortRecord) -> Option<PortProblem> {
        self.problem(record).or_else(|| self.core.names_problem(record.uuid, &self.dns.heard()))
    }

    /// Forgets ports of pods that have no interface here and that controllers, who have said everything, do not
    /// know: they were deleted while the node had no power, and nobody is left to call the plugin for them.
    pub(super) fn forget_unclaimed(&mut self) {
        let fresh = self.core.is_fresh();
        let unclaimed = |record: &&PortRecord| {
            fresh
                && record.pod.is_some()
                && record.ifindex.is_none()
                && self.core.interface(record.uuid).is_none()
        };
        let seconds: BTreeMap<PortKey, u32> = self
            .ports
            .values()
            .filter(unclaimed)
            .map(|record| {
                let before = self.unclaimed.get(&record.key).copied().unwrap_or(0);
                (record.key.clone(), before + 1)
            })
            .collect();
        self.unclaimed = seconds;
        let over = self.unclaimed.iter().filter(|(_, seconds)| **seconds >= UNCLAIMED);
        let over: Vec<PortKey> = over.map(|(key, _)| key.clone()).collect();
        for key in over {
            tracing::info!(container = key.container, "a port that nobody knows is forgotten");
            self.release(&key);
        }
    }
}
