//! The loop: configuration in, workers told, words out.

use super::certificates::{Certificates, Found};
use super::config::LoadbalancerConfig;
use super::files::Files;
use super::status;
use super::worker::{Report, State, Wanted, Worker};
use crate::core::{Assignment, Core, Settings, Write};
use crate::read::FOLLOWED;
use parking_lot::Mutex;
use serde_json::Value;
use skein_client::{Client, ClientError, Event, ReferenceChange};
use skein_model::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use uuid::Uuid;

/// Reports that wait at most.
const QUEUE: usize = 256;
/// Changes that come within this time are one.
const GATHER: Duration = Duration::from_millis(20);

/// How long other nodes get to take everything, when this one leaves. Pods are killed after 30 s.
const HAND_OVER: Duration = Duration::from_secs(20);

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum LoadbalancerError {
    /// A setting makes no sense.
    #[error("setting {0}")]
    Setting(String),
    /// The configuration API's address makes no sense.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// HAProxy cannot be run.
    #[error("{program}: {reason}; install HAProxy 2.6 or newer, or set `haproxy`")]
    Program {
        /// The program.
        program: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder cannot be had.
    #[error("run_dir {path}: {source}")]
    Folder {
        /// The folder.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The status address cannot be had.
    #[error("status address {address}: {source}; choose another one")]
    Status {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What the loop and the status page share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Arc<LoadbalancerConfig>,
    pub(super) page: Mutex<Page>,
}

/// What there is to tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Page {
    pub(super) synced: bool,
    pub(super) nodes: Vec<String>,
    pub(super) assignments: BTreeMap<Uuid, Assignment>,
    pub(super) incomplete: BTreeMap<Uuid, String>,
    pub(super) states: BTreeMap<Uuid, State>,
    /// Calls of the configuration API that failed.
    pub(super) failed_writes: u64,
}

/// Runs until `stop` completes. HAProxy goes on, unless everything is to be handed over.
///
/// # Errors
/// It cannot start. Whatever fails later is tried again.
pub async fn run(
    mut config: LoadbalancerConfig,
    certificates: Option<Certificates>,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), LoadbalancerError> {
    config.check().map_err(LoadbalancerError::Setting)?;
    if let Some(wanted) = config.fit() {
        info!(
            wanted,
            connections = config.connections,
            "fewer connections: open files are limited"
        );
    }
    let client = Client::with_tls(&config.api, &config.tls())?;
    let program = config.haproxy.display().to_string();
    let version = super::commands::run(&program, &["-v"])
        .await
        .map_err(|reason| LoadbalancerError::Program { program: program.clone(), reason })?;
    std::fs::create_dir_all(&config.run_dir)
        .map_err(|source| LoadbalancerError::Folder { path: config.run_dir.clone(), source })?;
    let listener = tokio::net::TcpListener::bind(config.status)
        .await
        .map_err(|source| LoadbalancerError::Status { address: config.status, source })?;
    let certificates =
        certificates.or_else(|| config.certificates.clone().map(Certificates::folder));
    let config = Arc::new(config);
    let shared = Arc::new(Shared { config: config.clone(), page: Mutex::new(Page::default()) });
    let page = status::router(shared.clone());
    let pages = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, page).await {
            warn!(%error, "status is no longer served");
        }
    });
    let settings = Settings { node: config.node.clone(), providers: config.providers.clone() };
    let (reports, inbox) = mpsc::channel(QUEUE);
    let daemon = Loop {
        core: Core::new(settings),
        client,
        shared,
        config: config.clone(),
        certificates,
        workers: BTreeMap::new(),
        reports,
        start: Instant::now(),
    };
    let first = version.lines().next().unwrap_or_default().to_owned();
    info!(node = config.node, api = config.api, status = %config.status, haproxy = first, "started");
    ready();
    let (leave, leaving) = watch::channel(false);
    let turn = daemon.turn(inbox, leaving);
    tokio::pin!(turn);
    tokio::select! {
        () = &mut turn => {}
        () = stop => {}
    }
    if config.hand_over {
        info!("leaving all load balancers to other nodes");
        let _ = leave.send(true);
        match tokio::time::timeout(HAND_OVER, turn).await {
            Ok(()) => info!("stopped; nothing is left here"),
            Err(_) => warn!("stopped, though no other node has taken everything"),
        }
    } else {
        info!("stopped; HAProxy goes on");
    }
    pages.abort();
    Ok(())
}

struct Loop {
    core: Core,
    client: Client,
    shared: Arc<Shared>,
    config: Arc<LoadbalancerConfig>,
    certificates: Option<Certificates>,
    workers: BTreeMap<Uuid, watch::Sender<Option<Wanted>>>,
    reports: mpsc::Sender<Report>,
    start: Instant,
}

impl Loop {
    /// Ends only when it is leaving and nothing is left.
    async fn turn(mut self, mut inbox: mpsc::Receiver<Report>, mut leaving: watch::Receiver<bool>) {
        let mut watcher = self.client.watch(&FOLLOWED);
        let (done, mut finished) = mpsc::channel::<(Uuid, bool)>(QUEUE);
        for uuid in Files::all(&self.config.run_dir) {
            // Of an earlier life: what is known of it, until it is known whether it is still wanted.
            self.core.plugged(uuid, Files::new(&self.config.run_dir, uuid).port());
        }
        let (_keep, silent) = watch::channel(Found::new());
        let mut found = self.certificates.as_ref().map_or(silent, |source| source.found.clone());
        loop {
            let now = self.start.elapsed();
            let pause = self.core.next_wake(now).saturating_sub(now).max(GATHER);
            tokio::select! {
                event = watcher.next() => {
                    self.take(event);
                    let until = tokio::time::Instant::now() + GATHER;
                    while let Ok(event) = tokio::time::timeout_at(until, watcher.next()).await {
                        self.take(event);
                    }
                }
                Some(report) = inbox.recv() => self.report(report),
                Some((subject, failed)) = finished.recv() => {
                    self.core.wrote(subject);
                    self.shared.page.lock().failed_writes += u64::from(failed);
                }
                Ok(()) = found.changed() => {}
                Ok(()) = leaving.changed() => self.core.leave(),
                () = tokio::time::sleep(pause) => {}
            }
            if self.core.synced() {
                self.act(&found, &done);
            }
            // With nobody to give it to there is nothing to wait for.
            let last = self.core.nodes(self.start.elapsed()).is_empty();
            if *leaving.borrow() && self.core.has_left() && (self.workers.is_empty() || last) {
                return;
            }
        }
    }

    fn take(&mut self, event: Event) {
        let now = self.start.elapsed();
        match event {
            Event::Snapshot(objects, _) => self.core.snapshot(objects, now),
            Event::Put(object, _) => self.core.put(object, now),
            Event::Delete { uuid, .. } => self.core.delete(uuid, now),
        }
    }

    fn report(&mut self, report: Report) {
        match report {
            Report::Port(uuid, port) => {
                self.core.plugged(uuid, port);
                if port.is_none() {
                    self.complain(uuid, None);
                    self.shared.page.lock().states.remove(&uuid);
                    // If it is wanted again there may be another worker by now.
                    self.workers.retain(|other, worker| *other != uuid || !worker.is_closed());
                }
            }
            Report::State(uuid, state) => {
                self.core.ready(uuid, state.ready);
                self.complain(uuid, Some(&state));
                self.shared.page.lock().states.insert(uuid, state);
            }
        }
    }

    fn complain(&self, uuid: Uuid, state: Option<&State>) {
        let Some(source) = &self.certificates else { return };
        let page = self.shared.page.lock();
        let name = page.assignments.get(&uuid).map(|one| one.balancer.name.clone());
        let bad = state.map(|state| state.bad_certificates.clone()).unwrap_or_default();
        let now = name.filter(|_| !bad.is_empty()).map(|name| (name, bad));
        source.complaints.send_if_modified(|all| {
            let before = all.remove(&uuid);
            let differs = before != now;
            all.extend(now.map(|now| (uuid, now)));
            differs
        });
    }

    fn act(&mut self, found: &watch::Receiver<Found>, done: &mpsc::Sender<(Uuid, bool)>) {
        let work = self.core.poll(self.start.elapsed());
        let mut names = BTreeSet::new();
        for (uuid, assignment) in &work.assignments {
            let own = assignment.balancer.certificates();
            let found = found.borrow();
            let certificates: Found = own
                .iter()
                .filter_map(|name| Some((name.clone(), found.get(name)?.clone())))
                .collect();
            names.extend(own);
            let wanted = Wanted { balancer: assignment.balancer.clone(), certificates };
            self.want(*uuid, Some(wanted));
        }
        let gone: Vec<Uuid> = self
            .workers
            .keys()
            .copied()
            .chain(Files::all(&self.config.run_dir))
            .filter(|uuid| !work.assignments.contains_key(uuid))
            .collect();
        for uuid in gone {
            self.want(uuid, None);
        }
        if let Some(source) = &self.certificates {
            source.wanted.send_if_modified(|before| {
                let differs = *before != names;
                *before = names;
                differs
            });
        }
        for (subject, writes) in work.writes {
            let (client, done) = (self.client.clone(), done.clone());
            tokio::spawn(async move {
                let failed = write(&client, &writes).await;
                if let Err(error) = &failed {
                    warn!(%subject, "the configuration API refuses what is to be said: {error}");
                }
                let _ = done.send((subject, failed.is_err())).await;
            });
        }
        let mut page = self.shared.page.lock();
        page.synced = true;
        page.nodes = self.core.nodes(self.start.elapsed()).into_iter().map(str::to_owned).collect();
        page.assignments = work.assignments;
        page.incomplete = work.incomplete;
    }

    /// Tells a worker what should be; makes it if there is none.
    fn want(&mut self, uuid: Uuid, wanted: Option<Wanted>) {
        if let Some(worker) = self.workers.get(&uuid)
            && !worker.is_closed()
        {
            worker.send_if_modified(|before| {
                let differs = *before != wanted;
                *before = wanted;
                differs
            });
            return;
        }
        // One that has ended with nothing left to do, and whose last report is on its way.
        if wanted.is_none() && self.workers.contains_key(&uuid) {
            return;
        }
        let (sender, receiver) = watch::channel(wanted);
        self.workers.insert(uuid, sender);
        let worker = Worker::new(uuid, self.config.clone(), receiver, self.reports.clone());
        tokio::spawn(worker.run());
    }
}

/// Makes calls in their order; the first that fails ends it. What is there already, or gone already, is no failure.
async fn write(client: &Client, writes: &[Write]) -> Result<(), ClientError> {
    for one in writes {
        let outcome = match one {
            Write::Create { kind, fields } => client.create(*kind, fields.clone()).await.map(drop),
            Write::Update { kind, uuid, fields } => {
                client.update(*kind, *uuid, fields.clone()).await
            }
            Write::Delete { kind, uuid } => client.delete(*kind, *uuid).await,
            Write::Refer { kind, uuid, port, add } => {
                let change = ReferenceChange {
                    kind: *kind,
                    uuid: *uuid,
                    target_kind: Kind::VIRTUAL_MACHINE_INTERFACE,
                    target: *port,
                    attr: Value::Null,
                };
                if *add {
                    client.reference_update(&change).await
                } else {
                    client.reference_delete(&change).await
                }
            }
        };
        match (one, outcome) {
            (Write::Create { .. }, Err(error)) if error.is_conflict() => {}
            (Write::Refer { add: false, .. } | Write::Delete { .. }, Err(error))
                if error.is_not_found() => {}
            (_, outcome) => outcome?,
        }
    }
    Ok(())
}
