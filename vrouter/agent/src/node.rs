//! The one writer: a thread that owns the core, the ports and the datapath.
//!
//! Everything else sends it messages. It takes all that are waiting, applies the outcome to the kernel
//! once, answers those who waited for it, and tells the controllers what changed.

use crate::kernel::Kernel;
use crate::ports::{LinkLimits, NodeState, PendingRelease, PodPlace, PortRecord, Ports};
use crate::saved::Saver;
use crate::state::{Core, LocalPort, PortProblem};
use crate::{AgentError, Underlay};
use skein_cni::port_api::PortKey;
use skein_datapath::{DropReason, Event, Timeouts};
use skein_proto::session::{self as wire, FromAgent, ToAgent, from_agent, to_agent};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc as channel, oneshot, watch};
use uuid::Uuid;

/// The core wakes at least this often, for events of the datapath.
const TICK: Duration = Duration::from_millis(100);
/// Flows are swept, and failed operations tried again, this often.
const SECOND: Duration = Duration::from_secs(1);
/// A burst of changes is saved once.
const SAVE_DELAY: Duration = Duration::from_millis(300);
/// Controllers hear from us at least this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// Seconds for which a pod's port is unknown to everyone before it is forgotten: a pod that starts is known sooner.
const UNCLAIMED: u32 = 10;
/// Events a person can look back at.
const EVENTS_KEPT: usize = 256;
/// Messages taken before the kernel is brought up to date.
const BATCH: usize = 4096;

type Call = Box<dyn FnOnce(&mut Node) + Send>;

/// What the node thread is told.
pub(crate) enum Message {
    /// A controller's stream opened; what is sent into the queue goes to it.
    Connected(usize, channel::UnboundedSender<FromAgent>),
    /// It closed.
    Disconnected(usize),
    /// It said something.
    Said(usize, Box<ToAgent>),
    /// Interfaces were removed; `None`: any may have been.
    LinksGone(Option<Vec<u32>>),
    /// Work for a caller that waits.
    Call(Call),
    /// End.
    Stop,
}

/// Talks to the node thread.
#[derive(Clone)]
pub(crate) struct NodeHandle(mpsc::Sender<Message>);

impl NodeHandle {
    pub(crate) fn send(&self, message: Message) {
        // A node that has ended is the daemon ending; nothing is owed to the sender.
        let _ = self.0.send(message);
    }

    /// Runs `work` on the node thread; `None` when it has ended.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Node) -> R + Send + 'static,
    ) -> Option<R> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Call(Box::new(move |node| {
            let _ = reply.send(work(node));
        })));
        answer.await.ok()
    }
}

/// A remembered event of the datapath.
#[derive(Clone, Debug)]
pub(crate) struct SeenEvent {
    pub(crate) at: std::time::SystemTime,
    pub(crate) event: Event,
    pub(crate) decision: Option<skein_policy::Decision>,
}

struct Controller {
    address: String,
    queue: Option<channel::UnboundedSender<FromAgent>>,
    name: String,
    version: String,
}

/// State of the node thread.
pub(crate) struct Node {
    pub(crate) core: Core,
    pub(crate) kernel: Kernel,
    pub(crate) ports: Ports,
    pub(crate) releases: Vec<PendingRelease>,
    making: BTreeSet<PortKey>,
    pub(crate) underlay: Underlay,
    pub(crate) events: VecDeque<SeenEvent>,
    pub(crate) events_seen: u64,
    pub(crate) flows_live: u64,
    pub(crate) staged: crate::state::Staged,
    exhaustion: crate::exhaustion::Exhaustion,
    started: Instant,
    pub(crate) apply_failure: Option<String>,
    pub(crate) host: Option<crate::host::HostPort>,
    pub(crate) host_failure: Option<String>,
    pub(crate) dns: crate::dns::Dns,
    health: watch::Sender<crate::health_port::Checks>,
    name: String,
    directory: PathBuf,
    controllers: Vec<Controller>,
    waiting: Vec<(Uuid, oneshot::Sender<()>)>,
    /// Sub-interfaces that controllers were asked for.
    nested_interest: BTreeSet<Uuid>,
    published: BTreeMap<(String, String, String), wire::LocalRoute>,
    saver: Saver,
    unsaved_since: Option<Instant>,
    saved_state: NodeState,
    told_revision: u64,
    timeouts: Timeouts,
    /// Pods' ports that nobody knows of, and for how many seconds.
    unclaimed: BTreeMap<PortKey, u32>,
}

/// What the node thread starts with.
pub(crate) struct NodeSetup {
    pub(crate) name: String,
    pub(crate) directory: PathBuf,
    pub(crate) controllers: Vec<String>,
    pub(crate) core: Core,
    pub(crate) kernel: Kernel,
    pub(crate) underlay: Underlay,
    pub(crate) state: NodeState,
    pub(crate) dns: crate::dns::Dns,
    pub(crate) timeouts: Timeouts,
    /// Who answers health checks of services listens to this.
    pub(crate) health: watch::Sender<crate::health_port::Checks>,
}

impl Node {
    /// Starts the thread. The kernel is up to date with the saved state when this returns.
    pub(crate) fn start(
        setup: NodeSetup,
    ) -> Result<(NodeHandle, std::thread::JoinHandle<()>), AgentError> {
        let controller = |address| Controller {
            address,
            queue: None,
            name: String::new(),
            version: String::new(),
        };
        let mut node = Self {
            core: setup.core,
            kernel: setup.kernel,
            releases: setup.state.releases.clone(),
            making: BTreeSet::new(),
            ports: setup.state.ports.iter().map(|r| (r.key.clone(), r.clone())).collect(),
            underlay: setup.underlay,
            events: VecDeque::new(),
            events_seen: 0,
            flows_live: 0,
            staged: crate::state::Staged::default(),
            exhaustion: crate::exhaustion::Exhaustion::default(),
            started: Instant::now(),
            apply_failure: None,
            host: None,
            host_failure: None,
            dns: setup.dns,
            health: setup.health,
            name: setup.name,
            saver: Saver::start(setup.directory.clone()),
            directory: setup.directory,
            controllers: setup.controllers.into_iter().map(controller).collect(),
            waiting: Vec::new(),
            nested_interest: BTreeSet::new(),
            published: BTreeMap::new(),
            unsaved_since: None,
            saved_state: setup.state,
            told_revision: 0,
            unclaimed: BTreeMap::new(),
            timeouts: setup.timeouts,
        };
        for key in &node.saved_state.making.clone() {
            node.abandon(key);
        }
        node.check_links(None);
        node.look_at_addresses();
        let bound: Vec<(u32, LocalPort)> = node.ports.values().filter_map(local_port).collect();
        for (ifindex, port) in bound {
            node.kernel.attach(ifindex)?;
            node.core.bind(port);
        }
        node.settle();
        // What was refused up to now is not this agent's news.
        node.count_refusals();
        let (sender, messages) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("skein-node".into())
            .spawn(move || node.run(&messages))
            .map_err(AgentError::file("start the thread of", std::path::Path::new("the node")))?;
        Ok((NodeHandle(sender), thread))
    }

    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut next_second = Instant::now() + SECOND;
        let mut next_status = Instant::now() + STATUS_INTERVAL;
        loop {
            let mut open = true;
            match messages.recv_timeout(TICK) {
                Ok(message) => {
                    open = self.take(message);
                    for message in messages.try_iter().take(BATCH) {
                        open &= self.take(message);
                    }
                    self.settle();
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => open = false,
            }
            self.read_events();
            let now = Instant::now();
            if now >= next_second {
                next_second = now + SECOND;
                self.every_second();
            }
            if now >= next_status {
                next_status = now + STATUS_INTERVAL;
                self.count_refusals();
                self.send_status();
            }
            let due = self.unsaved_since.is_some_and(|since| since.elapsed() >= SAVE_DELAY);
            if due || (!open && self.unsaved_since.is_some()) {
                self.unsaved_since = None;
                let (intent, routes) = self.core.saved();
                self.saver.save(intent, routes);
            }
            if !open {
                return;
            }
        }
    }

    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Connected(index, queue) => self.connected(index, queue),
            Message::Disconnected(index) => {
                if let Some(controller) = self.controllers.get_mut(index) {
                    controller.queue = None;
                }
                self.core.disconnected(index);
            }
            Message::Said(index, said) => self.said(index, *said),
            Message::LinksGone(indices) => self.check_links(indices.as_deref()),
            Message::Call(work) => work(self),
            Message::Stop => return false,
        }
        true
    }

    fn connected(&mut self, index: usize, queue: channel::UnboundedSender<FromAgent>) {
        let send = |message| {
            let _ = queue.send(FromAgent { message: Some(message) });
        };
        send(from_agent::Message::Hello(wire::Hello {
            node: self.name.clone(),
            tunnel_address: self.underlay.tunnel_address.to_string(),
            encapsulations: [
                wire::Encapsulation::Vxlan,
                wire::Encapsulation::MplsOUdp,
                wire::Encapsulation::MplsOGre,
            ]
            .map(i32::from)
            .to_vec(),
            version: env!("CARGO_PKG_VERSION").into(),
            revision: self.core.revision(),
        }));
        send(from_agent::Message::Interest(wire::Interest {
            // The host's port too: a controller that has just started may not know it yet, and would refuse its route.
            add: self
                .ports
                .values()
                .map(|record| record.uuid)
                .chain(self.host.as_ref().map(|host| host.uuid))
                .chain(self.nested_interest.iter().copied())
                .map(|uuid| uuid.to_string())
                .collect(),
            remove: Vec::new(),
            replace: true,
        }));
        let reach = self.published.values().cloned().collect();
        send(from_agent::Message::Publish(wire::Publish { reach, unreach: Vec::new() }));
        send(from_agent::Message::EndOfPublish(wire::EndOfPublish {}));
        self.core.connected(index);
        if let Some(controller) = self.controllers.get_mut(index) {
            controller.queue = Some(queue);
        }
    }

    fn said(&mut self, index: usize, said: ToAgent) {
        match said.message {
            Some(to_agent::Message::HelloAck(ack)) => {
                tracing::info!(controller = ack.controller, version = ack.version, "connected");
                if let Some(controller) = self.controllers.get_mut(index) {
                    controller.name = ack.controller;
                    controller.version = ack.version;
                }
            }
            Some(to_agent::Message::Intent(intent)) => {
                self.unsaved_since.get_or_insert_with(Instant::now);
                self.core.intent(index, intent);
            }
            Some(to_agent::Message::Routes(routes)) => {
                self.unsaved_since.get_or_insert_with(Instant::now);
                self.core.routes(index, &routes);
            }
            Some(to_agent::Message::PublishRejected(rejected)) => {
                let route = rejected.route.unwrap_or_default();
                tracing::warn!(
                    prefix = route.prefix,
                    vrf = route.vrf,
                    reason = rejected.reason,
                    "a controller refused a route of this node: other nodes cannot reach the port"
                );
            }
            Some(to_agent::Message::Look(question)) => {
                let looked = crate::look::look(self, &question);
                let message = Some(from_agent::Message::Looked(looked));
                if let Some(queue) = self.controllers.get(index).and_then(|c| c.queue.as_ref()) {
                    let _ = queue.send(FromAgent { message });
                }
            }
            None => {}
        }
    }

    /// Brings the kernel, the disk and the controllers up to date with the core.
    fn settle(&mut self) {
        self.keep_host();
        // Most of the time one round is enough; freed numbers can make a second one useful.
        for _ in 0..2 {
            let operations = self.core.operations();
            if operations.is_empty() {
                break;
            }
            let (done, error) = self.kernel.apply(&operations);
            for operation in &operations[..done] {
                self.core.applied(operation);
            }
            let failure = error.map(|error| error.to_string());
            if failure.is_some() && failure != self.apply_failure {
                tracing::warn!(
                    operation = ?operations.get(done),
                    error = failure.as_deref().unwrap_or_default(),
                    "the kernel refused a change; it is tried again every second"
                );
            }
            self.apply_failure = failure;
            if self.apply_failure.is_some() {
                break;
            }
        }
        // What the host reaches by its pair depends on which workloads are here.
        self.keep_host();
        if let Some(changes) = self.core.take_dns() {
            for (subject, reason) in self.dns.apply(changes) {
                tracing::warn!(subject, reason, "left out of DNS");
            }
        }
        self.ask_for_nested();
        let checks = self.core.health_checks();
        self.health.send_if_modified(|told| {
            let differs = *told != checks;
            if differs {
                *told = checks;
            }
            differs
        });
        // Labels are on disk before anyone is told of them.
        self.save_state();
        self.publish();
        let core = &self.core;
        for (_, reply) in
            self.waiting.extract_if(.., |(uuid, _)| core.port_problem(*uuid).is_none())
        {
            let _ = reply.send(());
        }
        if self.core.revision() != self.told_revision && self.apply_failure.is_none() {
            self.told_revision = self.core.revision();
            self.send_status();
        }
    }

    /// Asks the controllers for ports that share local ports' devices, as their configuration names them.
    fn ask_for_nested(&mut self) {
        let wanted = self.core.sub_interfaces();
        if wanted == self.nested_interest {
            return;
        }
        let names = |uuids: std::collections::btree_set::Difference<'_, Uuid>| {
            uuids.map(ToString::to_string).collect()
        };
        let interest = wire::Interest {
            add: names(wanted.difference(&self.nested_interest)),
            remove: names(self.nested_interest.difference(&wanted)),
            replace: false,
        };
        self.nested_interest = wanted;
        self.tell(&from_agent::Message::Interest(interest));
    }

    fn publish(&mut self) {
        let key = |route: &wire::LocalRoute| {
            (route.vrf.clone(), route.prefix.clone(), route.interface.clone())
        };
        let now: BTreeMap<_, _> =
            self.core.local_routes().into_iter().map(|route| (key(&route), route)).collect();
        if now == self.published {
            return;
        }
        let reach = now.iter().filter(|(key, route)| self.published.get(*key) != Some(*route));
        let unreach = self.published.iter().filter(|(key, _)| !now.contains_key(*key));
        let publish = wire::Publish {
            reach: reach.map(|(_, route)| route.clone()).collect(),
            unreach: unreach.map(|(_, route)| route.clone()).collect(),
        };
        self.published = now;
        self.tell(&from_agent::Message::Publish(publish));
    }

    fn tell(&self, message: &from_agent::Message) {
        for queue in self.controllers.iter().filter_map(|controller| controller.queue.as_ref()) {
            let _ = queue.send(FromAgent { message: Some(message.clone()) });
        }
    }

    fn send_status(&self) {
        let mut problems: Vec<wire::Problem> = self
            .core
            .problems()
            .iter()
            .map(|(subject, reason)| wire::Problem {
                subject: subject.clone(),
                reason: reason.clone(),
            })
            .collect();
        problems.extend(
            self.apply_failure
                .iter()
                .map(|reason| wire::Problem { subject: self.name.clone(), reason: reason.clone() }),
        );
        problems.extend(self.host_failure.iter().map(|reason| wire::Problem {
            subject: format!("{} (host)", self.name),
            reason: reason.clone(),
        }));
        let exhausted = self.exhausted().into_iter();
        problems.extend(exhausted.map(|(subject, reason)| wire::Problem { subject, reason }));
        let revision = if self.apply_failure.is_none() { self.core.revision() } else { 0 };
        self.tell(&from_agent::Message::Status(wire::Status {
            applied_revision: revision,
            interfaces_active: u32::try_from(self.core.in_force().interfaces.len())
                .unwrap_or(u32::MAX),
            flows: u32::try_from(self.flows_live).unwrap_or(u32::MAX),
            problems,
            staged: crate::staged::changes(&self.staged),
        }));
    }

    /// Whether workloads found no port of the node's of late: whom it is about, and what is wrong.
    pub(crate) fn exhausted(&self) -> Option<(String, String)> {
        let subject = format!("{} (port_translation_pools)", self.name);
        self.exhaustion.problem().map(|reason| (subject, reason))
    }

    /// Looks whether the node's ports that workloads borrow have run out.
    fn count_refusals(&mut self) {
        let Ok(drops) = self.kernel.datapath.drops() else { return };
        let refused = drops.into_iter().find(|(reason, _)| *reason == DropReason::SnatExhausted);
        let refused = refused.map_or(0, |(_, packets)| packets);
        if self.exhaustion.count(refused, self.started.elapsed())
            && let Some(problem) = self.exhaustion.problem()
        {
            tracing::warn!(reason = "snat_exhausted", "{problem}");
        }
    }

    fn every_second(&mut self) {
        // Before the sweep: what has ended meanwhile is still there.
        crate::staged::look(self);
        match self.kernel.datapath.sweep(&self.timeouts) {
            Ok(swept) => self.flows_live = swept.live,
            Err(error) => tracing::warn!(%error, "flows are not swept: idle ones stay"),
        }
        self.kernel.announcer.repeat(&self.kernel.datapath);
        self.forget_unclaimed();
        let moved = self.look_at_addresses();
        if moved || self.apply_failure.is_some() || self.host_failure.is_some() {
            self.settle();
        }
    }

    /// Forgets ports of pods that have no interface here and that controllers, who have said everything, do not
    /// know: they were deleted while the node had no power, and nobody is left to call the plugin for them.
    fn forget_unclaimed(&mut self) {
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

    fn read_events(&mut self) {
        let mut new = Vec::new();
        if let Err(error) = self.kernel.datapath.poll_events(|event| new.push(event)) {
            tracing::debug!(%error, "no events");
        }
        for event in new {
            self.events_seen += 1;
            let decision = self.core.decision(event.rule).cloned();
            self.staged.refused(&self.core, &event, std::time::SystemTime::now());
            tracing::debug!(
                reason = event.reason.name(),
                vif = event.vif,
                local = %event.local,
                remote = %event.remote,
                protocol = event.protocol,
                "dropped"
            );
            if self.events.len() == EVENTS_KEPT {
                self.events.pop_front();
            }
            self.events.push_back(SeenEvent { at: std::time::SystemTime::now(), event, decision });
        }
    }

    /// Looks at bound ports whose host end may be gone.
    fn check_links(&mut self, gone: Option<&[u32]>) {
        let present = || -> Option<Vec<u32>> {
            let mut links = skein_cni::links::Links::open().ok()?;
            Some(links.all().ok()?.into_iter().map(|link| link.index).collect())
        };
        let missing: Vec<u32> = match gone {
            Some(gone) => gone.to_vec(),
            None => {
                // Without a list nothing is known to be gone.
                let Some(present) = present() else { return };
                let bound = self.ports.values().filter_map(|record| record.ifindex);
                bound.filter(|index| !present.contains(index)).collect()
            }
        };
        self.host_link_gone(&missing);
        for ifindex in missing {
            self.kernel.detach(ifindex);
            for record in self.ports.values_mut().filter(|r| r.ifindex == Some(ifindex)) {
                tracing::debug!(ifindex, port = %record.uuid, "the host interface is gone");
                record.ifindex = None;
                self.core.unbind(record.uuid);
            }
        }
    }

    fn save_state(&mut self) {
        let state = NodeState {
            ports: self.ports.values().cloned().collect(),
            releases: self.releases.clone(),
            making: self.making.clone(),
            numbers: self.core.numbers().clone(),
        };
        if state == self.saved_state {
            return;
        }
        match state.save(&self.directory) {
            Ok(()) => self.saved_state = state,
            Err(error) => tracing::warn!(%error, "ports are not saved: free disk space"),
        }
    }

    // ------------------------------------------------------------------ for the port API

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
            self.ports.insert(record.key.clone(), record);
        }
        self.save_state();
        let interest = wire::Interest { add, ..wire::Interest::default() };
        self.tell(&from_agent::Message::Interest(interest));
    }

    /// Binds a port's host end; the receiver fires once the port forwards with its policy in force.
    pub(crate) fn bind(
        &mut self,
        key: &PortKey,
        ifindex: u32,
        mtu: u32,
    ) -> Option<Result<(Uuid, oneshot::Receiver<()>), String>> {
        let record = self.ports.get_mut(key)?;
        record.ifindex = Some(ifindex);
        record.mtu = mtu;
        let uuid = record.uuid;
        // Hooked up before anything else: until its entry is written, the workload reaches nothing.
        if let Err(error) = self.kernel.attach(ifindex) {
            return Some(Err(error.to_string()));
        }
        self.core.bind(LocalPort { uuid, ifindex, mtu, vlan: None });
        let (reply, receiver) = oneshot::channel();
        self.waiting.push((uuid, reply));
        Some(Ok((uuid, receiver)))
    }

    /// The receiver fires once a port forwards with its policy in force.
    pub(crate) fn in_force(&mut self, uuid: Uuid) -> oneshot::Receiver<()> {
        let (reply, receiver) = oneshot::channel();
        self.waiting.push((uuid, reply));
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

    /// Address, name, version and connection state of each controller.
    pub(crate) fn controllers(&self) -> impl Iterator<Item = (&str, &str, &str, bool)> {
        self.controllers.iter().map(|controller| {
            let Controller { address, name, version, queue } = controller;
            (address.as_str(), name.as_str(), version.as_str(), queue.is_some())
        })
    }
}

fn local_port(record: &PortRecord) -> Option<(u32, LocalPort)> {
    let ifindex = record.ifindex?;
    Some((ifindex, LocalPort { uuid: record.uuid, ifindex, mtu: record.mtu, vlan: None }))
}
