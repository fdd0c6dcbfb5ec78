//! One load balancer of this node: brings what runs in line with what should, and keeps it so.

use super::certificates::Found;
use super::config::LoadbalancerConfig;
use super::files::Files;
use super::namespace::Namespace;
use super::proxy;
use crate::model::Balancer;
use crate::render::{Place, render};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

/// How often it is seen whether HAProxy still runs.
const LOOK: Duration = Duration::from_millis(200);
/// How often everything is compared, though nothing is known to have changed.
const COMPARE: Duration = Duration::from_secs(30);
/// First and longest wait before something that failed is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How long clients' nodes get to hear that somebody else has the traffic.
const SETTLE: Duration = Duration::from_millis(500);
/// Dying again within this time counts as not serving, until it has lived longer.
const HEALTHY: Duration = Duration::from_secs(10);

/// What should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) balancer: Arc<Balancer>,
    /// Those that the load balancer wants, as far as something is known of them.
    pub(super) certificates: Found,
}

/// What is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct State {
    /// It serves.
    pub(super) ready: bool,
    /// Process id of the HAProxy that serves.
    pub(super) pid: Option<i32>,
    /// Configurations that it took without ending.
    pub(super) reloads: u64,
    /// Times it was found dead.
    pub(super) deaths: u64,
    /// Configurations that it refused.
    pub(super) refused: u64,
    /// What is wrong now.
    pub(super) problem: Option<String>,
    /// What is wrong with parts of it, which it does without.
    pub(super) warnings: Vec<String>,
    /// Certificates among them.
    #[serde(skip)]
    pub(super) bad_certificates: BTreeMap<String, String>,
}

/// What the daemon is told.
#[derive(Debug)]
pub(super) enum Report {
    /// The node's port; none: everything is removed.
    Port(Uuid, Option<Uuid>),
    /// The state has changed.
    State(Uuid, State),
}

pub(super) struct Worker {
    uuid: Uuid,
    config: Arc<LoadbalancerConfig>,
    files: Files,
    namespace: Namespace,
    wanted: watch::Receiver<Option<Wanted>>,
    reports: mpsc::Sender<Report>,
    state: State,
    told: Option<State>,
    port: Option<Uuid>,
    /// Processes that serve their last connections.
    leaving: BTreeSet<i32>,
    /// HAProxy ended the last time then.
    died: Option<Instant>,
    /// A configuration that was refused: it is not tried again.
    bad: Option<String>,
    /// Certificates that HAProxy has looked at, and what it says of them.
    judged: BTreeMap<PathBuf, Result<(), String>>,
}

impl Worker {
    pub(super) fn new(
        uuid: Uuid,
        config: Arc<LoadbalancerConfig>,
        wanted: watch::Receiver<Option<Wanted>>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        Self {
            uuid,
            files: Files::new(&config.run_dir, uuid),
            namespace: Namespace::new(&config, uuid),
            config,
            wanted,
            reports,
            state: State::default(),
            told: None,
            port: None,
            leaving: BTreeSet::new(),
            died: None,
            bad: None,
            judged: BTreeMap::new(),
        }
    }

    /// Works until the load balancer is not wanted here any more and every trace of it is gone.
    pub(super) async fn run(mut self) {
        let mut wait = BACKOFF.0;
        let mut next = Instant::now();
        // What runs from an earlier life of this daemon serves, even if nothing else can be done now.
        self.state.pid = proxy::serving(&self.files);
        self.state.ready = self.state.pid.is_some();
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let Some(wanted) = wanted else {
                if self.remove().await {
                    let (uuid, reports) = (self.uuid, self.reports.clone());
                    // Who hears that it is gone must be able to see that nobody listens here any more.
                    drop(self);
                    let _ = reports.send(Report::Port(uuid, None)).await;
                    return;
                }
                tokio::time::sleep(BACKOFF.1).await;
                continue;
            };
            if Instant::now() >= next {
                match self.converge(&wanted).await {
                    Ok(()) => {
                        if self.state.problem.take().is_some() {
                            info!(balancer = wanted.balancer.name, "works");
                        }
                        wait = BACKOFF.0;
                        next = Instant::now() + COMPARE;
                    }
                    Err(problem) => {
                        self.complain(&wanted, problem);
                        next = Instant::now() + wait;
                        wait = (wait * 2).min(BACKOFF.1);
                    }
                }
            }
            self.tell().await;
            self.leaving.retain(|pid| proxy::collect(*pid));
            if self.state.ready && proxy::serving(&self.files).is_none() {
                self.state.deaths += 1;
                if let Some(pid) = self.state.pid.take() {
                    proxy::collect(pid);
                }
                warn!(balancer = wanted.balancer.name, "HAProxy has ended; starting it again");
                // Dying again and again is no service: traffic goes elsewhere until it lives.
                self.state.ready = self.died.is_none_or(|at| at.elapsed() > HEALTHY);
                self.died = Some(Instant::now());
                self.tell().await;
                next = Instant::now();
                continue;
            }
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        // The daemon ends; HAProxy goes on.
                        return;
                    }
                    next = Instant::now();
                }
                () = tokio::time::sleep(LOOK.min(next - Instant::now())) => {}
            }
        }
    }

    fn complain(&mut self, wanted: &Wanted, problem: String) {
        if self.state.problem.as_ref() != Some(&problem) {
            warn!(balancer = wanted.balancer.name, "{problem}");
        }
        self.state.problem = Some(problem);
        self.state.pid = proxy::serving(&self.files);
        // A refused configuration or a busy agent take nothing away from what runs.
        self.state.ready &= self.state.pid.is_some();
    }

    async fn tell(&mut self) {
        if self.told.as_ref() != Some(&self.state) {
            self.told = Some(self.state.clone());
            let _ = self.reports.send(Report::State(self.uuid, self.state.clone())).await;
        }
    }

    async fn converge(&mut self, wanted: &Wanted) -> Result<(), String> {
        let balancer = &wanted.balancer;
        self.files.make()?;
        let port = self.namespace.plug(&balancer.network, &balancer.name, balancer.address).await?;
        if self.port != Some(port) {
            self.files.note_port(port)?;
            self.port = Some(port);
            let _ = self.reports.send(Report::Port(self.uuid, Some(port))).await;
        }
        self.state.warnings = warnings(wanted);
        let found = wanted.certificates.iter();
        let bad = found.filter_map(|(name, what)| Some((name.clone(), what.clone().err()?)));
        self.state.bad_certificates = bad.collect();
        let certificates = self.good_certificates(wanted).await?;
        let user = (!self.config.user.is_empty())
            .then(|| (self.config.user.clone(), self.config.user.clone()));
        let place = Place {
            log: (!self.config.log.is_empty()).then(|| self.config.log.clone()),
            connections: self.config.connections,
            threads: self.config.threads,
            user,
            certificates,
        };
        let text = render(balancer, &place);
        let refused = self.propose(&text).await;
        if proxy::serving(&self.files).is_none() {
            if self.files.current().is_none() {
                // There never was one that works.
                return refused;
            }
            proxy::start(&self.config, &self.files, &self.namespace).await?;
            let used = self.files.current().unwrap_or_default();
            self.files.note_loaded(&used)?;
            info!(balancer = balancer.name, "HAProxy has started");
        } else if let Some(used) = self.files.current().filter(|text| !self.files.is_loaded(text)) {
            let told = proxy::reload(&self.config, &self.files, &self.namespace).await?;
            self.leaving.extend(told);
            self.files.note_loaded(&used)?;
            self.state.reloads += 1;
            info!(balancer = balancer.name, "HAProxy has taken the new configuration");
        }
        self.state.pid = proxy::serving(&self.files);
        self.state.ready = self.state.pid.is_some();
        if !self.state.ready {
            return Err(
                "HAProxy ended with the configuration it had taken; starting it again".into()
            );
        }
        if refused.is_ok() {
            self.files.note_certificates(&place.certificates)?;
            self.files.forget_certificates(&place.certificates);
        }
        refused
    }

    /// Writes the certificates and leaves out those that HAProxy does not take: one must not keep the others from being used.
    async fn good_certificates(
        &mut self,
        wanted: &Wanted,
    ) -> Result<BTreeMap<String, PathBuf>, String> {
        let mut certificates = self.files.certificates(&wanted.certificates)?;
        // Of an earlier life of this daemon: one that is still being looked for stays until something is known of it.
        let mut noted = self.files.noted_certificates();
        noted.retain(|name, _| {
            !wanted.certificates.contains_key(name) && wanted.balancer.certificates().contains(name)
        });
        certificates.extend(noted);
        self.judged.retain(|path, _| certificates.values().any(|used| used == path));
        for (name, path) in certificates.clone() {
            if !self.judged.contains_key(&path) {
                let probe = self.files.probe(&path)?;
                let verdict = proxy::judge(&self.config, &[&probe]).await;
                self.judged.insert(path.clone(), verdict);
            }
            if let Some(Err(complaint)) = self.judged.get(&path) {
                self.state.warnings.push(format!("certificate {name}: {complaint}"));
                self.state.bad_certificates.insert(name.clone(), complaint.clone());
                certificates.remove(&name);
            }
        }
        Ok(certificates)
    }

    /// Puts a configuration in place, if HAProxy finds it good. One that it refuses changes nothing.
    async fn propose(&mut self, text: &str) -> Result<(), String> {
        if self.files.current().as_deref() == Some(text) {
            self.bad = None;
            return Ok(());
        }
        let file = self.files.propose(text)?;
        let (control, _) = self.files.other_socket()?;
        if let Err(complaint) = proxy::judge(&self.config, &[&file, &control]).await {
            if self.bad.as_deref() != Some(text) {
                self.state.refused += 1;
                self.bad = Some(text.to_owned());
            }
            return Err(format!(
                "HAProxy refuses the configuration, and the last good one stays: {complaint}"
            ));
        }
        self.bad = None;
        self.files.accept()
    }

    /// Takes everything down; says whether it succeeded.
    async fn remove(&mut self) -> bool {
        if self.state.ready {
            // Nodes go on sending until they have heard that it moved.
            tokio::time::sleep(SETTLE).await;
        }
        proxy::stop(&self.files, &self.namespace).await;
        let outcome = match self.namespace.remove().await {
            Ok(()) => self.files.remove(),
            Err(problem) => Err(problem),
        };
        if let Err(problem) = outcome {
            warn!(balancer = %self.uuid, "cannot be removed yet: {problem}");
            self.state = State { problem: Some(problem), ..State::default() };
            self.tell().await;
            return false;
        }
        info!(balancer = %self.uuid, "removed from this node");
        true
    }
}

/// What it does without.
fn warnings(wanted: &Wanted) -> Vec<String> {
    let mut all = wanted.balancer.problems.clone();
    for name in wanted.balancer.certificates() {
        match wanted.certificates.get(&name) {
            Some(Ok(_)) => {}
            Some(Err(why)) => all.push(format!("certificate {name}: {why}")),
            None => all.push(format!("certificate {name}: not found yet")),
        }
    }
    all
}
