//! The one writer: a thread that owns the core, the ports and the datapath.
//!
//! Everything else sends it messages. It takes all that are waiting, applies the outcome to the kernel
//! once, answers those who waited for it, and tells the controllers what changed.

mod controllers;
mod full;
mod ports;

use crate::kernel::Kernel;
use crate::port_times::{PortTimes, Step};
use crate::ports::{NodeState, PendingRelease, PortRecord, Ports};
use crate::saved::Saver;
use crate::state::{Core, LocalPort};
use crate::{AgentError, Underlay};
use full::FullTable;
use skein_cni::port_api::PortKey;
use skein_datapath::{DropReason, Event, Timeouts};
use skein_proto::session::{self as wire, FromAgent, ToAgent};
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
    /// Tables of the kernel that had no room of late.
    pub(crate) full_tables: BTreeMap<&'static str, FullTable>,
    pub(crate) host: Option<crate::host::HostPort>,
    pub(crate) host_failure: Option<String>,
    pub(crate) dns: crate::dns::Dns,
    health: watch::Sender<crate::health_port::Checks>,
    name: String,
    directory: PathBuf,
    controllers: Vec<Controller>,
    /// Ports whose policy is not in force yet, since when, and who waits for it.
    waiting: Vec<(Uuid, Instant, oneshot::Sender<()>)>,
    pub(crate) times: PortTimes,
    /// Sub-interfaces that controllers were asked for.
    nested_interest: BTreeSet<Uuid>,
    published: BTreeMap<(String, String, String), wire::LocalRoute>,
    saver: Saver,
    /// Since when something waits for the saver: the controllers' word, or the node's own state.
    unsaved_since: Option<Instant>,
    unsaved_word: bool,
    uncopied: bool,
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
            full_tables: BTreeMap::new(),
            host: None,
            host_failure: None,
            dns: setup.dns,
            health: setup.health,
            name: setup.name,
            saver: Saver::start(setup.directory.clone()),
            directory: setup.directory,
            controllers: setup.controllers.into_iter().map(controller).collect(),
            waiting: Vec::new(),
            times: PortTimes::default(),
            nested_interest: BTreeSet::new(),
            published: BTreeMap::new(),
            unsaved_since: None,
            unsaved_word: false,
            uncopied: false,
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
                let word = std::mem::take(&mut self.unsaved_word).then(|| self.core.saved());
                let state = std::mem::take(&mut self.uncopied).then(|| self.saved_state.clone());
                self.saver.save(word, state);
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

    /// Brings the kernel, the disk and the controllers up to date with the core.
    fn settle(&mut self) {
        self.keep_host();
        // Most of the time one round is enough; freed numbers can make a second one useful.
        for _ in 0..2 {
            let operations = self.core.operations();
            if operations.is_empty() {
                // Also what was refused before is not wanted any more.
                self.apply_failure = None;
                self.note_full_tables(&BTreeMap::new(), &operations);
                break;
            }
            let round = self.kernel.apply(&operations, &mut self.core);
            let failed = round.failed.map(|(at, error)| (at, error.to_string()));
            if let Some((at, error)) = &failed
                && self.apply_failure.as_ref() != Some(error)
            {
                tracing::warn!(
                    operation = ?operations.get(*at),
                    error,
                    "the kernel refused a change; it is tried again every second"
                );
            }
            self.apply_failure = failed.map(|(_, error)| error);
            self.note_full_tables(&round.full, &operations);
            if self.apply_failure.is_some() || !self.full_tables.is_empty() {
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
        // Most of the time nobody waits.
        let heard = if self.waiting.is_empty() { BTreeSet::new() } else { self.dns.heard() };
        let core = &self.core;
        let in_force = |uuid: Uuid| {
            core.port_problem(uuid).is_none() && core.names_problem(uuid, &heard).is_none()
        };
        for (_, since, reply) in self.waiting.extract_if(.., |(uuid, ..)| in_force(*uuid)) {
            self.times.took(Step::Policy, since.elapsed());
            let _ = reply.send(());
        }
        if self.core.revision() != self.told_revision && self.apply_failure.is_none() {
            self.told_revision = self.core.revision();
            self.send_status();
        }
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
        if self.core.is_fresh() && self.apply_failure.is_none() {
            self.kernel.announcer.confirm();
        }
        self.kernel.announcer.repeat(&self.kernel.datapath);
        self.forget_unclaimed();
        let moved = self.look_at_addresses();
        let failed = self.apply_failure.is_some() || self.host_failure.is_some();
        if moved || failed || !self.full_tables.is_empty() {
            self.settle();
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
            boot: self.saved_state.boot.clone(),
        };
        if state == self.saved_state {
            return;
        }
        match state.save(&self.directory) {
            Ok(()) => {
                self.saved_state = state;
                self.uncopied = true;
                self.unsaved_since.get_or_insert_with(Instant::now);
            }
            Err(error) => tracing::warn!(%error, "ports are not saved: free disk space"),
        }
    }
}

fn local_port(record: &PortRecord) -> Option<(u32, LocalPort)> {
    let ifindex = record.ifindex?;
    Some((ifindex, LocalPort { uuid: record.uuid, ifindex, mtu: record.mtu, vlan: None }))
}
