//! Status over TLS: certificates that are read again when their files change, and who may see more than that the manager lives.

use crate::config::StatusTls;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info, warn};

/// How often changed files are looked for. Whoever renews certificates does it days ahead.
const LOOK: Duration = Duration::from_secs(10);
/// How long a client may take to greet.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that wait to be served.
const WAITING: usize = 64;

/// A file of `[tls]` that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("tls: {path}: {reason}")]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

fn wrong(path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError { path: path.to_owned(), reason: reason.to_string() }
}

/// What was read from the files.
struct Current {
    looked: Instant,
    changed: Vec<Option<SystemTime>>,
    acceptor: TlsAcceptor,
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Files {
    fn of(settings: &StatusTls) -> Result<Option<Self>, TlsError> {
        let client_ca = settings.client_ca.clone();
        match (settings.certificate.clone(), settings.key.clone()) {
            (Some(certificate), Some(key)) => Ok(Some(Self { certificate, key, client_ca })),
            (None, None) if client_ca.is_none() => Ok(None),
            (one, other) => {
                let path = one.or(other).or(client_ca).unwrap_or_default();
                Err(wrong(&path, &"certificate and key must both be given"))
            }
        }
    }

    fn changed(&self) -> Vec<Option<SystemTime>> {
        let all = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        all.into_iter()
            .flatten()
            .map(|path| std::fs::metadata(path).and_then(|found| found.modified()).ok())
            .collect()
    }

    fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| wrong(&self.key, &e))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| wrong(&self.certificate, &e))?;
        let config = match &self.client_ca {
            None => config.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| wrong(path, &e))?;
                }
                // Kubelets' probes have no certificate, and see whether it lives.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|e| wrong(path, &e))?;
                config.with_client_cert_verifier(verifier)
            }
        };
        let config =
            config.with_single_cert(chain, key).map_err(|e| wrong(&self.certificate, &e))?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| wrong(path, &e))?;
    if list.is_empty() { Err(wrong(path, &"it holds no certificate in PEM")) } else { Ok(list) }
}

/// Accepts connections after their handshakes, which do not wait for each other.
pub(super) struct TlsListener {
    address: SocketAddr,
    greeted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

impl TlsListener {
    /// Takes connections of a listener; gives the listener back if there is to be no TLS.
    ///
    /// # Errors
    /// A file cannot be used.
    pub(super) fn new(
        listener: TcpListener,
        settings: &StatusTls,
    ) -> Result<Result<Self, TcpListener>, TlsError> {
        let Some(files) = Files::of(settings)? else { return Ok(Err(listener)) };
        let changed = files.changed();
        let acceptor = files.acceptor()?;
        let current = Arc::new(Mutex::new(Current { looked: Instant::now(), changed, acceptor }));
        let address = listener.local_addr().map_err(|e| wrong(&files.certificate, &e))?;
        let (greet, greeted) = mpsc::channel(WAITING);
        tokio::spawn(async move {
            loop {
                let (stream, peer) = match listener.accept().await {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        warn!(%error, "status: no connection can be accepted; trying again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                };
                let Ok(place) = greet.clone().reserve_owned().await else { return };
                let acceptor = renewed(&files, &mut current.lock());
                tokio::spawn(async move {
                    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => drop(place.send((stream, peer))),
                        Ok(Err(error)) => debug!(%peer, %error, "status: no TLS"),
                        Err(_) => debug!(%peer, "status: the handshake takes too long"),
                    }
                });
            }
        });
        Ok(Ok(Self { address, greeted }))
    }
}

/// What accepts connections now. Files that are wrong after a change leave the old ones in force.
fn renewed(files: &Files, current: &mut Current) -> TlsAcceptor {
    if current.looked.elapsed() >= LOOK {
        current.looked = Instant::now();
        let now = files.changed();
        if now != current.changed {
            match files.acceptor() {
                Ok(acceptor) => {
                    info!(certificate = %files.certificate.display(), "certificate read again");
                    current.acceptor = acceptor;
                    current.changed = now;
                }
                Err(error) => warn!(%error, "the changed certificate is not used"),
            }
        }
    }
    current.acceptor.clone()
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.greeted.recv().await {
            Some(greeted) => greeted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// It showed a certificate that was verified.
    pub(super) certified: bool,
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        let (_, connection) = stream.io().get_ref();
        Self { certified: connection.peer_certificates().is_some_and(|list| !list.is_empty()) }
    }
}
