//! Puts the controller together: watch, gRPC, status, clock.

use crate::configuration;
use crate::pki::{Authority, PkiError};
use crate::ports::PortService;
use crate::service::{Enrolment, Sessions, Shared};
use crate::status;
use skein_client::{Client, ClientError};
use skein_proto::enroll::enroll_server::EnrollServer;
use skein_proto::ports::ports_server::PortsServer;
use skein_proto::session::session_server::SessionServer;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tracing::{error, info};

/// How often a silent connection is tested, and how long the answer may take. A node that lost its power is noticed by
/// nothing else, and standbys elsewhere wait for it.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(3));

/// How a controller runs.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Where status and metrics are served.
    pub status: SocketAddr,
    /// The configuration API, `http://HOST:PORT`.
    pub api: String,
    /// Data directory; certificates live in its `pki` folder.
    pub data: PathBuf,
    /// Name shown to people.
    pub host: String,
}

/// Why a controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The API's address.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// An address is taken or not ours.
    #[error("cannot listen on {address}: {source}; choose another address or stop what uses it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The TLS set-up or the server failed.
    #[error("gRPC server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    /// Where agents connect.
    pub address: SocketAddr,
    /// Where status and metrics are.
    pub status_address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    tasks: tokio::task::JoinSet<()>,
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ControllerError> {
    let error = |source| ControllerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(error)?;
    let local = listener.local_addr().map_err(error)?;
    Ok((listener, local))
}

impl Controller {
    /// Starts a controller on the current runtime.
    ///
    /// # Errors
    /// Certificates, addresses or the API's address are unusable. The API being away is no error.
    pub async fn start(config: ControllerConfig) -> Result<Controller, ControllerError> {
        let authority = Arc::new(Authority::open(&config.data.join("pki"))?);
        let client = Client::new(&config.api)?;
        let shared = Arc::new(Shared::new(config.host.clone()));
        let (listener, address) = bind(config.listen).await?;
        let (status_listener, status_address) = bind(config.status).await?;
        let (stop, stopping) = watch::channel(false);
        let mut tasks = tokio::task::JoinSet::new();

        let server = grpc(authority, client.clone(), shared.clone(), listener, stopped(&stopping))?;
        tasks.spawn(async move {
            if let Err(error) = server.await {
                error!(%error, "the gRPC server ended");
            }
        });
        let router = status::router(shared.clone());
        let ending = stopped(&stopping);
        tasks.spawn(async move {
            let served = axum::serve(status_listener, router).with_graceful_shutdown(ending).await;
            if let Err(error) = served {
                error!(%error, "the status server ended");
            }
        });
        // The watch reads a blocking amount at the start; a task of its own keeps sessions alive.
        let follow = configuration::follow(client.clone(), shared.clone());
        tasks.spawn(until(follow, stopped(&stopping)));
        let report = crate::staged::report(client.clone(), shared.clone());
        tasks.spawn(until(report, stopped(&stopping)));
        let register = configuration::register_nodes(client, shared.clone());
        tasks.spawn(until(register, stopped(&stopping)));
        tasks.spawn(until(clock(shared.clone()), stopped(&stopping)));
        info!(%address, %status_address, "controller runs");
        Ok(Controller { address, status_address, shared, stop, tasks })
    }

    /// Whether the configuration has been read.
    pub fn ready(&self) -> bool {
        self.shared.read(crate::Core::synced)
    }

    /// Stops taking requests and waits for what runs to end.
    pub async fn stop(mut self) {
        let _ = self.stop.send(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        // Sessions are streams without an end of their own.
        let _ = tokio::time::timeout(Duration::from_secs(1), ended).await;
        self.tasks.shutdown().await;
    }
}

fn grpc(
    authority: Arc<Authority>,
    client: Client,
    shared: Arc<Shared>,
    listener: TcpListener,
    ending: impl Future<Output = ()> + Send + 'static,
) -> Result<impl Future<Output = Result<(), tonic::transport::Error>>, ControllerError> {
    // Without a certificate a node can only join; every other service asks for one.
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&authority.server_chain_pem, &authority.server_key_pem))
        .client_ca_root(Certificate::from_pem(&authority.ca_pem))
        .client_auth_optional(true);
    let router = Server::builder()
        .tls_config(tls)?
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .tcp_nodelay(true)
        .add_service(SessionServer::new(Sessions { shared: shared.clone() }))
        .add_service(EnrollServer::new(Enrolment { authority }))
        .add_service(PortsServer::new(PortService { client, shared }));
    Ok(router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), ending))
}

fn stopped(stopping: &watch::Receiver<bool>) -> impl Future<Output = ()> + Send + 'static {
    let mut stopping = stopping.clone();
    async move {
        // A closed channel means that the controller is gone: stop as well.
        let _ = stopping.wait_for(|stop| *stop).await;
    }
}

async fn until(work: impl Future<Output = ()>, stopped: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stopped => {}
    }
}

async fn clock(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        let now = shared.now();
        shared.change(|core| core.tick(now));
    }
}
