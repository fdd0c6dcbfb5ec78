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
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tracing::{error, info};

/// How finely the clock looks for nodes that have been away for too long.
const TICK: Duration = Duration::from_millis(250);
/// How often it looks at everything else.
const SECOND: Duration = Duration::from_secs(1);

/// When a node counts as lost. One that lost its power is noticed by its silence alone, and standbys elsewhere wait for
/// it: for the three together, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// How often a silent connection is tested.
    pub test: Duration,
    /// How long the answer may take.
    pub answer: Duration,
    /// How long a node may then be without a session, as one that is restarted is.
    pub grace: Duration,
}

impl Default for Silence {
    fn default() -> Self {
        let (test, answer) = (Duration::from_millis(500), Duration::from_millis(1500));
        Self { test, answer, grace: crate::STALE_TIME }
    }
}

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
    /// When a node counts as lost.
    pub silence: Silence,
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
        shared.change(|core| core.set_grace(config.silence.grace));
        let (listener, address) = bind(config.listen).await?;
        let (status_listener, status_address) = bind(config.status).await?;
        let (stop, stopping) = watch::channel(false);
        let mut tasks = tokio::task::JoinSet::new();

        let router = grpc(authority, client.clone(), shared.clone(), config.silence)?;
        let server = router.serve_with_incoming_shutdown(at_once(listener), stopped(&stopping));
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
    silence: Silence,
) -> Result<Router, ControllerError> {
    // Without a certificate a node can only join; every other service asks for one.
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(&authority.server_chain_pem, &authority.server_key_pem))
        .client_ca_root(Certificate::from_pem(&authority.ca_pem))
        .client_auth_optional(true);
    Ok(Server::builder()
        .tls_config(tls)?
        .http2_keepalive_interval(Some(silence.test))
        .http2_keepalive_timeout(Some(silence.answer))
        .add_service(SessionServer::new(Sessions { shared: shared.clone() }))
        .add_service(EnrollServer::new(Enrolment { authority }))
        .add_service(PortsServer::new(PortService { client, shared })))
}

/// Connections whose messages leave at once. Whoever brings its own listener sets this here: the server's setting is not
/// looked at then. Without it a message waits up to 40 ms until the other end acknowledges the one before.
fn at_once(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
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
    let mut ticks = tokio::time::interval(TICK);
    let mut next = Duration::ZERO;
    loop {
        ticks.tick().await;
        let now = shared.now();
        // A change wakes every session, so not each tick is one.
        if now >= next || shared.read(|core| core.has_lost(now)) {
            next = now + SECOND;
            shared.change(|core| core.tick(now));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    #[tokio::test]
    async fn no_message_to_an_agent_waits_for_an_acknowledgement() {
        let (listener, address) = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let mut incoming = at_once(listener);
        let (_client, accepted) =
            tokio::join!(tokio::net::TcpStream::connect(address), incoming.next());
        assert!(accepted.unwrap().unwrap().nodelay().unwrap());
    }
}
