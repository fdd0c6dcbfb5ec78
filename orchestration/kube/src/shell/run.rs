//! The loop: news in, writes out.

use super::informers::{self, News};
use super::pod_times::PodTimes;
use super::report::{self, Outbox};
use super::tls::{Peer, TlsError, TlsListener};
use super::watches::Watches;
use super::{discovery, election, status};
use crate::config::{Kubernetes, ManagerConfig};
use crate::core::{Core, FOLLOWED, Notice, Outcome, Reason, Work};
use crate::key::{Key, Sort};
use crate::objects::{KubeObject, Resource};
use crate::settings::BadSetting;
use crate::tellings::Told;
use crate::{packed, writer};
use futures_util::FutureExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use parking_lot::Mutex;
use skein_client::{Client, ClientError, Event, Tls};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info, warn};

/// News that wait at most.
const QUEUE: usize = 1024;
/// News taken at once, so that a burst is one round of work.
const BATCH: usize = 512;

/// How long writes that are on their way may take when the manager stops.
const LAST_WRITES: Duration = Duration::from_secs(2);

/// Why the manager does not run.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// A setting makes no sense.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// The configuration API's address makes no sense.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It is not known how to reach Kubernetes.
    #[error("Kubernetes: {0}; set kubernetes.kubeconfig, or run in a pod with a service account")]
    Kubernetes(String),
    /// A file of `[tls]` cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Whoever reaches the status address could read what pods there are, and what is wrong with them.
    #[error(
        "status {0}: without TLS it is for this machine alone; give [tls] a certificate and a key (--status-certificate, \
         --status-key), or listen on 127.0.0.1"
    )]
    OpenStatus(std::net::SocketAddr),
    /// The status address cannot be had.
    #[error("status address {address}: {source}; choose another one")]
    Status {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What the loop, the status page and whoever tells Kubernetes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    pub(super) leading: watch::Receiver<bool>,
    pub(super) outbox: Outbox,
    pub(super) watches: Watches,
    pub(super) pod_times: PodTimes,
}

/// A client, as the settings say.
pub(crate) async fn kubernetes(settings: &Kubernetes) -> Result<kube::Client, ManagerError> {
    let wrong = |error: &dyn std::error::Error| ManagerError::Kubernetes(error.to_string());
    let options = KubeConfigOptions { context: settings.context.clone(), ..Default::default() };
    let config = match &settings.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|e| wrong(&e))?;
            kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|e| wrong(&e))?
        }
        None => kube::Config::infer().await.map_err(|e| wrong(&e))?,
    };
    if config.accept_invalid_certs {
        warn!("the kubeconfig turns the check of the API server's certificate off");
    }
    kube::Client::try_from(config).map_err(|e| wrong(&e))
}

/// Runs until `stop` completes.
///
/// # Errors
/// It cannot start. Whatever fails later is tried again.
pub async fn run(
    mut config: ManagerConfig,
    ready: impl FnOnce(),
    stop: impl Future<Output = ()>,
) -> Result<(), ManagerError> {
    config.cluster.dns = config.dns.clone();
    config.cluster.check()?;
    let tls = Tls {
        ca: config.ca.clone(),
        certificate: config.certificate.clone(),
        key: config.key.clone(),
        server_name: config.server_name.clone(),
    };
    let client = Client::with_tls(&config.api, &tls)?;
    let cluster = kubernetes(&config.kubernetes).await?;
    if config.tls.is_plain() && !config.status.ip().is_loopback() {
        return Err(ManagerError::OpenStatus(config.status));
    }
    let listener = tokio::net::TcpListener::bind(config.status)
        .await
        .map_err(|source| ManagerError::Status { address: config.status, source })?;
    let (leading, is_leading) = watch::channel(!config.election.enabled);
    let shared = Arc::new(Shared {
        core: Mutex::new(Core::new(config.cluster.clone())),
        leading: is_leading.clone(),
        outbox: Outbox::default(),
        watches: Watches::default(),
        pod_times: PodTimes::default(),
    });
    let page = status::router(shared.clone());
    let served = match TlsListener::new(listener, &config.tls)? {
        Err(plain) => axum::serve(plain, page).into_future().boxed(),
        Ok(secure) => {
            let page = if config.tls.client_ca.is_some() { status::guarded(page) } else { page };
            let page = page.into_make_service_with_connect_info::<Peer>();
            axum::serve(secure, page).into_future().boxed()
        }
    };
    let pages = tokio::spawn(async move {
        if let Err(error) = served.await {
            warn!(%error, "status is no longer served");
        }
    });
    let (news, inbox) = mpsc::channel(QUEUE);
    informers::start(&cluster, &news, &shared);
    let identity = config.election.identity.clone();
    let teller = tokio::spawn(report::tell(cluster.clone(), identity, shared.clone()));
    let (end, ended) = oneshot::channel::<()>();
    let candidate = config.election.enabled.then(|| {
        let name = format!("skein-kube-manager-{}", config.cluster.cluster_name);
        let election = config.election.clone();
        let ended = async { drop(ended.await) };
        tokio::spawn(election::take_part(cluster.clone(), election, name, leading, ended))
    });
    tokio::spawn(definitions(cluster, is_leading.clone()));
    info!(api = config.api, status = %config.status, "started");
    ready();
    let (writing, mut no_writers) = mpsc::channel(1);
    let manager = Loop {
        shared,
        client,
        start: Instant::now(),
        listed: HashSet::new(),
        concurrency: config.concurrency.max(1),
        writing,
    };
    let resync = Duration::from_secs(config.timer_interval);
    tokio::select! {
        () = manager.turn(inbox, is_leading, resync) => {}
        () = stop => {}
    }
    // The loop is over. What it has begun to write ends before another one writes.
    let _ = tokio::time::timeout(LAST_WRITES, no_writers.recv()).await;
    drop(end);
    if let Some(candidate) = candidate {
        let _ = candidate.await;
    }
    for task in [pages, teller] {
        task.abort();
    }
    info!("stopped");
    Ok(())
}

/// Makes what others' objects need to exist, once this manager leads.
async fn definitions(cluster: kube::Client, mut leading: watch::Receiver<bool>) {
    if leading.wait_for(|leads| *leads).await.is_err() {
        return;
    }
    while let Err(error) = discovery::ensure_nad(&cluster).await {
        warn!(%error, "the definition of network attachments cannot be made; trying again");
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
}

struct Loop {
    shared: Arc<Shared>,
    client: Client,
    start: Instant,
    /// Types that were listed.
    listed: HashSet<Resource>,
    concurrency: usize,
    /// Held by every write on its way; nothing is ever sent.
    writing: mpsc::Sender<()>,
}

impl Loop {
    async fn turn(
        mut self,
        mut inbox: mpsc::Receiver<News>,
        mut leading: watch::Receiver<bool>,
        resync: Duration,
    ) {
        let mut watcher = self.client.watch(&FOLLOWED).each(packed::shrink);
        let (done, mut finished) = mpsc::channel::<(Key, Outcome)>(QUEUE);
        let period = if resync.is_zero() { Duration::from_secs(86_400) } else { resync };
        let mut timer = tokio::time::interval(period);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        timer.tick().await;
        loop {
            let wake = self.shared.core.lock().next_wake();
            let pause = wake.map_or(Duration::from_secs(3600), |at| {
                at.saturating_sub(self.start.elapsed()).max(Duration::from_millis(5))
            });
            tokio::select! {
                Some(news) = inbox.recv() => {
                    self.take(news);
                    for _ in 0..BATCH {
                        let Ok(news) = inbox.try_recv() else { break };
                        self.take(news);
                    }
                }
                event = watcher.next() => self.configured(event),
                Some((key, outcome)) = finished.recv() => self.done(&key, &outcome),
                // Without an election nobody ever says another thing.
                Ok(()) = leading.changed() => {
                    if *leading.borrow_and_update() {
                        // What the one before did is seen by the watch; the rest is found by comparing.
                        self.shared.core.lock().mark_all();
                    }
                }
                _ = timer.tick(), if !resync.is_zero() => self.shared.core.lock().mark_all(),
                () = tokio::time::sleep(pause) => {}
            }
            if *leading.borrow() {
                let work = self.shared.core.lock().poll(self.start.elapsed(), self.concurrency);
                for one in work {
                    self.begin(one, &done);
                }
            }
        }
    }

    fn take(&mut self, news: News) {
        let mut core = self.shared.core.lock();
        match news {
            News::Put(object) => {
                if let Some(key) = core.new_pod(&object) {
                    self.shared.pod_times.new_pod(key);
                }
                core.kube_put(*object);
            }
            News::Delete(object) => {
                if let KubeObject::Pod(pod) = &*object {
                    let place = Key::new(Sort::Pod, &pod.meta.namespace, &pod.meta.name);
                    self.shared.pod_times.gone(&place);
                }
                core.kube_delete(&object);
            }
            News::Listed(resource, seen) => {
                core.kube_relisted(resource, &seen);
                let resource = if resource == Resource::Endpoints {
                    Resource::EndpointSlice
                } else {
                    resource
                };
                self.listed.insert(resource);
                // One of the two forms of endpoints is enough.
                if self.listed.len() + 1 == Resource::ALL.len() {
                    core.kubernetes_listed();
                }
            }
        }
    }

    fn configured(&self, event: Event) {
        let mut core = self.shared.core.lock();
        match event {
            Event::Snapshot(objects, revision) => core.config_snapshot(objects, revision),
            Event::Put(object, revision) => core.config_put(object, revision),
            Event::Delete { uuid, .. } => core.config_delete(uuid),
        }
    }

    fn begin(&self, work: Work, done: &mpsc::Sender<(Key, Outcome)>) {
        let Work { key, writes, patches, notices } = work;
        if !patches.is_empty() {
            self.shared.outbox.put(Told::Patches(key.clone(), patches));
        }
        self.notify(notices);
        if writes.is_empty() {
            return;
        }
        let (client, done) = (self.client.clone(), done.clone());
        let (writing, shared) = (self.writing.clone(), self.shared.clone());
        tokio::spawn(async move {
            let outcome = writer::execute(&client, &writes).await;
            match &outcome {
                Outcome::Written => shared.pod_times.written(&key, &writes),
                // Most are tags that another cluster uses still.
                Outcome::Failed(text, Reason::Refused)
                    if matches!(key.sort, Sort::Tag | Sort::AddressGroup) =>
                {
                    debug!(owner = %key, "{text}");
                }
                Outcome::Failed(text, _) => warn!(owner = %key, "{text}"),
            }
            drop(writing);
            let _ = done.send((key, outcome)).await;
        });
    }

    fn done(&self, key: &Key, outcome: &Outcome) {
        let notices = self.shared.core.lock().done(key, outcome, self.start.elapsed());
        self.notify(notices);
    }

    fn notify(&self, notices: Vec<Notice>) {
        for notice in notices {
            let uid = self.shared.core.lock().uid_of(&notice.key);
            self.shared.outbox.put(Told::Notice(notice, uid));
        }
    }
}
