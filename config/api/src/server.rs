//! The listener: accepts connections, serves them, stops cleanly.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use skein_store::{Campaign, EmbeddedStore, Etcd, EtcdStore, ObjectStore, Options, StoreError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tracing::{debug, info, warn};

use crate::{
    http::{App, Authenticate, NoAuth, serve},
    metrics::Metrics,
    published::{Published, View},
    replica::{Cluster, FORWARDED, Replica, ReplicaMetrics, elect, first_load, follow},
    sequencer::{Sequencer, StartError},
    tls::{Admission, Tls},
};

/// Certificate chain and key of the TLS listener, both PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Whom a TLS listener serves. `/healthz` and `/readyz` are for everyone.
#[derive(Debug, Clone)]
pub enum Clients {
    /// Whoever reaches it.
    Anyone,
    /// Those with a certificate of this authority.
    Certified {
        /// Certificates of the authority, PEM.
        ca: PathBuf,
        /// Their certificates name this organization; none: all of the authority's certificates do.
        organization: Option<String>,
    },
}

/// A second listener, always with TLS.
#[derive(Debug, Clone)]
pub struct Https {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Certificate and key. Changed files are read again.
    pub files: TlsFiles,
    /// Whom it serves.
    pub clients: Clients,
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// File of the embedded store.
    pub store: PathBuf,
    /// Serve HTTPS there, to anyone.
    pub tls: Option<TlsFiles>,
    /// Another listener, for clients on other machines.
    pub https: Option<Https>,
    /// Largest request body, bytes (spec section 1).
    pub max_request_size: usize,
    /// Events kept for watchers that come back; in memory events, in the store revisions.
    pub log_retention: u32,
    /// How long open requests may take after a stop was asked for.
    pub drain: Duration,
}

impl Config {
    /// Defaults for a listener and a store.
    #[must_use]
    pub fn new(listen: SocketAddr, store: PathBuf) -> Self {
        Self {
            listen,
            store,
            tls: None,
            https: None,
            max_request_size: 1_024_000,
            log_retention: 65_536,
            drain: Duration::from_secs(5),
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store or what is in it.
    #[error(transparent)]
    Start(#[from] StartError),
    /// What replicas need.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address.
    #[error("cannot listen on {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Certificate or key.
    #[error("TLS: {path}: {reason}")]
    Tls {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    https: Option<SocketAddr>,
    published: Arc<Published>,
    stop: watch::Sender<bool>,
    accepting: Vec<JoinHandle<()>>,
    writer: std::thread::JoinHandle<()>,
    member: Option<Member>,
}

/// What a replica does beside serving.
#[derive(Debug)]
struct Member {
    replica: Arc<Replica>,
    drain: Duration,
    closing: watch::Sender<bool>,
    electing: JoinHandle<()>,
    following: JoinHandle<()>,
}

impl Server {
    /// Opens the embedded store and serves it.
    ///
    /// # Errors
    /// The store does not open, the address is taken, or the TLS files are unusable.
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        let options =
            Options { log_retention: u64::from(config.log_retention), ..Options::default() };
        let store = EmbeddedStore::open(&config.store, options).map_err(StartError::from)?;
        Self::start_with(config, Box::new(store), Arc::new(NoAuth)).await
    }

    /// Serves any store, with any way to authenticate.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_with(
        config: Config,
        store: Box<dyn ObjectStore>,
        auth: Arc<dyn Authenticate>,
    ) -> Result<Self, ServerError> {
        let doors = Doors::open(&config).await?;
        let metrics = Arc::new(Metrics::default());
        let retention = usize::try_from(config.log_retention).unwrap_or(usize::MAX);
        let loading = Arc::clone(&metrics);
        let started =
            tokio::task::spawn_blocking(move || Sequencer::start(store, retention, loading)).await;
        let (sequencer, published, writer) =
            started.map_err(|e| StartError::Thread(std::io::Error::other(e)))??;
        let parts = Parts { sequencer, published, metrics, auth, writer, replica: None };
        Ok(Self::serve(doors, &config, parts, None))
    }

    /// Serves the configuration in etcd as one of several replicas; `config.store` is not used. Waits for etcd.
    ///
    /// # Errors
    /// As for [`start`](Self::start); settings or files of `cluster` are unusable, or etcd refuses this client.
    pub async fn start_replica(config: Config, mut cluster: Cluster) -> Result<Self, ServerError> {
        cluster.etcd.log_retention = u64::from(config.log_retention);
        let doors = Doors::open(&config).await?;
        if cluster.advertise.is_empty() {
            cluster.advertise = doors.url();
        }
        let metrics = Arc::new(Metrics::of_replica());
        let counters: Arc<ReplicaMetrics> = metrics.replica.clone().unwrap_or_default();
        let etcd = Etcd::new(cluster.etcd.clone()).map_err(StartError::from)?;
        let campaign = Campaign::new(etcd.clone(), &cluster.name, &cluster.advertise);
        let tenure = campaign.tenure();
        let loaded = first_load(&etcd).await.map_err(StartError::from)?;
        let retention = usize::try_from(config.log_retention).unwrap_or(usize::MAX);
        let published = Arc::new(Published::new(View::load(&loaded.state), retention));
        let handle = tokio::runtime::Handle::current();
        let store = Box::new(EtcdStore::new(etcd.clone(), tenure.clone(), handle));
        let (sequencer, writer) = Sequencer::start_resting(
            store,
            Arc::clone(&published),
            Arc::clone(&metrics),
            tenure.clone(),
        )?;
        let replica = Arc::new(Replica::new(cluster, etcd, Arc::clone(&published), counters)?);
        replica.start_from(loaded.leader);
        let (closing, closed) = watch::channel(false);
        let following = tokio::spawn(follow(Arc::clone(&replica), loaded.at));
        let electing =
            tokio::spawn(elect(Arc::clone(&replica), campaign, sequencer.clone(), closed));
        let drain = config.drain;
        let member = Member { replica: Arc::clone(&replica), drain, closing, electing, following };
        let auth = Arc::new(NoAuth);
        let parts = Parts { sequencer, published, metrics, auth, writer, replica: Some(replica) };
        Ok(Self::serve(doors, &config, parts, Some(member)))
    }

    fn serve(doors: Doors, config: &Config, parts: Parts, member: Option<Member>) -> Self {
        let Parts { sequencer, published, metrics, auth, writer, replica } = parts;
        let (stop, stopping) = watch::channel(false);
        let (address, https) = (doors.address, doors.https);
        let mut accepting = Vec::new();
        for Door { listener, address, tls } in doors.list {
            let app = Arc::new(App {
                published: Arc::clone(&published),
                sequencer: sequencer.clone(),
                metrics: Arc::clone(&metrics),
                auth: Arc::clone(&auth),
                max_request_size: config.max_request_size,
                scheme: if tls.is_some() { "https" } else { "http" },
                stopping: stopping.clone(),
                replica: replica.clone(),
            });
            info!(%address, scheme = app.scheme, "configuration API listens");
            let (tls, stopping) = (tls.map(Arc::new), stopping.clone());
            accepting.push(tokio::spawn(accept(listener, tls, app, stopping, config.drain)));
        }
        drop(sequencer);
        Self { address, https, published, stop, accepting, writer, member }
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where the second listener is, if there is one.
    #[must_use]
    pub fn https_addr(&self) -> Option<SocketAddr> {
        self.https
    }

    /// The newest durable revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.published.read().revision
    }

    /// Stops accepting, lets open requests finish within the drain time, and closes the store. A replica first gives
    /// the lead back and waits, at most as long again, until the others hand it no more writes.
    pub async fn shutdown(mut self) {
        if let Some(member) = &mut self.member {
            // A connection that is closed with a write unread leaves its sender in doubt, so until nobody sends
            // any, they are answered: nothing was done, ask another.
            member.replica.leave();
            member.closing.send_replace(true);
            if let Err(error) = (&mut member.electing).await {
                warn!(%error, "the election ended badly");
            }
            member.replica.parted(member.drain).await;
        }
        self.stop.send_replace(true);
        for accepting in self.accepting {
            if let Err(error) = accepting.await {
                warn!(%error, "a listener ended badly");
            }
        }
        if let Some(member) = self.member {
            // Not before the requests are answered: they wait to see what another wrote for them.
            member.following.abort();
            let _ = member.following.await;
        }
        // The last sender of the queue went with the listener and its connections.
        let writer = self.writer;
        if tokio::task::spawn_blocking(move || writer.join()).await.is_err() {
            warn!("the writing thread ended badly");
        }
        info!("configuration API stopped");
    }
}

/// What requests are served from.
struct Parts {
    sequencer: Sequencer,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
    auth: Arc<dyn Authenticate>,
    writer: std::thread::JoinHandle<()>,
    replica: Option<Arc<Replica>>,
}

/// A listener and how it is entered.
struct Door {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
}

/// All listeners.
struct Doors {
    list: Vec<Door>,
    address: SocketAddr,
    https: Option<SocketAddr>,
}

impl Doors {
    async fn open(config: &Config) -> Result<Self, ServerError> {
        let (listener, address) = bind(config.listen).await?;
        let tls = config.tls.clone().map(|files| Tls::new(files, Clients::Anyone)).transpose()?;
        let mut list = vec![Door { listener, address, tls }];
        let mut https_address = None;
        if let Some(https) = config.https.clone() {
            let tls = Some(Tls::new(https.files, https.clients)?);
            let (listener, address) = bind(https.listen).await?;
            https_address = Some(address);
            list.push(Door { listener, address, tls });
        }
        Ok(Self { list, address, https: https_address })
    }

    /// An address for others on this machine.
    fn url(&self) -> String {
        match self.https {
            Some(address) => format!("https://{address}"),
            None => format!("http://{}", self.address),
        }
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// Waits until a stop is asked for, or nobody is left who could ask.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    app: Arc<App>,
    mut stopping: watch::Receiver<bool>,
    drain: Duration,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // Small answers must not wait for more.
                    let _ = stream.set_nodelay(true);
                    let (tls, app, stopping) = (tls.clone(), Arc::clone(&app), stopping.clone());
                    connections.spawn(connection(stream, peer, tls, app, stopping));
                }
                Err(error) => {
                    // Out of descriptors, most likely: wait for some to come back.
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = stopped(&mut stopping) => break,
        }
    }
    drop(listener);
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(drain, finish).await.is_err() {
        warn!("open requests did not finish in time");
    }
    connections.shutdown().await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<Tls>>,
    app: Arc<App>,
    stopping: watch::Receiver<bool>,
) {
    let result = match tls {
        None => drive(stream, app, Admission::Full, stopping).await,
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => {
                let admission = tls.admit(stream.get_ref().1);
                drive(stream, app, admission, stopping).await
            }
            Ok(Err(error)) => {
                debug!(%peer, %error, "TLS handshake failed");
                return;
            }
            Err(_) => {
                debug!(%peer, "TLS handshake took too long");
                return;
            }
        },
    };
    if let Err(error) = result {
        debug!(%peer, %error, "connection ended");
    }
}

/// Serves one connection until it ends, or until the request in hand is answered after a stop.
async fn drive<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    app: Arc<App>,
    admission: Admission,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).pipeline_flush(true);
    let peer = OnceLock::new();
    let service = service_fn(move |request: Request<Incoming>| {
        if let Some(replica) = &app.replica
            && request.headers().contains_key(FORWARDED)
        {
            peer.get_or_init(|| replica.joined());
        }
        serve(Arc::clone(&app), admission, request)
    });
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A request that is there is read before its connection counts as idle.
        biased;
        result = serving.as_mut() => return result,
        () = stopped(&mut stopping) => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time between requests of a kept connection, and for the head of one.
const IDLE: Duration = Duration::from_secs(300);
