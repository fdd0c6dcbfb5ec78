//! The listener: accepts connections, serves them, stops cleanly.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use skein_store::{EmbeddedStore, ObjectStore, Options};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::{
    http::{App, Authenticate, NoAuth, serve},
    metrics::Metrics,
    published::Published,
    sequencer::{Sequencer, StartError},
};

/// Certificate chain and key of the TLS listener, both PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// File of the embedded store.
    pub store: PathBuf,
    /// Serve HTTPS.
    pub tls: Option<TlsFiles>,
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
    published: Arc<Published>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    writer: std::thread::JoinHandle<()>,
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
        let tls = config.tls.as_ref().map(acceptor).transpose()?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| ServerError::Listen { address: config.listen, source })?;
        let address = listener
            .local_addr()
            .map_err(|source| ServerError::Listen { address: config.listen, source })?;
        let metrics = Arc::new(Metrics::default());
        let retention = usize::try_from(config.log_retention).unwrap_or(usize::MAX);
        let loading = Arc::clone(&metrics);
        let started =
            tokio::task::spawn_blocking(move || Sequencer::start(store, retention, loading)).await;
        let (sequencer, published, writer) =
            started.map_err(|e| StartError::Thread(std::io::Error::other(e)))??;
        let (stop, stopping) = watch::channel(false);
        let app = Arc::new(App {
            published: Arc::clone(&published),
            sequencer,
            metrics,
            auth,
            max_request_size: config.max_request_size,
            scheme: if tls.is_some() { "https" } else { "http" },
            stopping: stopping.clone(),
        });
        info!(%address, scheme = app.scheme, "configuration API listens");
        let accepting = tokio::spawn(accept(listener, tls, app, stopping, config.drain));
        Ok(Self { address, published, stop, accepting, writer })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The newest durable revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.published.read().revision
    }

    /// Stops accepting, lets open requests finish within the drain time, and closes the store.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.accepting.await {
            warn!(%error, "the listener ended badly");
        }
        // The last sender of the queue went with the listener and its connections.
        let writer = self.writer;
        if tokio::task::spawn_blocking(move || writer.join()).await.is_err() {
            warn!("the writing thread ended badly");
        }
        info!("configuration API stopped");
    }
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let wrong = |path: &PathBuf, reason: String| ServerError::Tls {
        path: path.display().to_string(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong(&files.certificate, e.to_string()))?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|e| wrong(&files.key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong(&files.certificate, e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| wrong(&files.certificate, e.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Waits until a stop is asked for, or nobody is left who could ask.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
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
    tls: Option<TlsAcceptor>,
    app: Arc<App>,
    stopping: watch::Receiver<bool>,
) {
    let result = match tls {
        None => drive(stream, app, stopping).await,
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => drive(stream, app, stopping).await,
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
    mut stopping: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).pipeline_flush(true);
    let service = service_fn(move |request| serve(Arc::clone(&app), request));
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        result = serving.as_mut() => return result,
        () = stopped(&mut stopping) => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time between requests of a kept connection, and for the head of one.
const IDLE: Duration = Duration::from_secs(300);
