//! The all-in-one role: configuration API and controller on the embedded store.

use crate::settings::{self, SettingsError};
use crate::{notify, shutdown};
use clap::Args;
use serde::Deserialize;
use skein_api::{Config, Server, TlsFiles};
use skein_controller::{Controller, ControllerConfig, ControllerError};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const DEFAULT_DATA: &str = "/var/lib/skein";
const DEFAULT_API: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8082);
const DEFAULT_LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8084);
const DEFAULT_STATUS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8083);

/// Flags of `skeind all-in-one`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Settings file (TOML); flags and variables win over it
    #[arg(long, value_name = "FILE", env = "SKEIN_CONFIG")]
    config: Option<PathBuf>,
    /// Data directory: configuration store and certificates [default: /var/lib/skein]
    #[arg(long, value_name = "DIR", env = "SKEIN_DATA")]
    data: Option<PathBuf>,
    /// Where the configuration API listens [default: 127.0.0.1:8082]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_API_LISTEN")]
    api: Option<SocketAddr>,
    /// Where agents connect, over TLS [default: 0.0.0.0:8084]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where status and metrics are served [default: 127.0.0.1:8083]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_STATUS_LISTEN")]
    status: Option<SocketAddr>,
}

/// The settings file of the all-in-one role.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data: Option<PathBuf>,
    api: Option<SocketAddr>,
    listen: Option<SocketAddr>,
    status: Option<SocketAddr>,
    tls: Option<Tls>,
}

/// Serve the configuration API over HTTPS.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tls {
    certificate: PathBuf,
    key: PathBuf,
}

/// Why the role does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoleError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("data directory {path}: {source}; choose another one with --data")]
    Data { path: PathBuf, source: std::io::Error },
    #[error("runtime: {0}")]
    Runtime(std::io::Error),
    #[error(transparent)]
    Api(#[from] skein_api::ServerError),
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error(transparent)]
    Agent(#[from] skein_agent::AgentError),
    #[error(transparent)]
    Manager(#[from] skein_kube::ManagerError),
    #[error(transparent)]
    Loadbalancer(#[from] skein_loadbalancer::LoadbalancerError),
    #[error("{name}: {reason}")]
    Flag { name: &'static str, reason: String },
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(flags: Flags) -> Result<(), RoleError> {
    let file: File = settings::read(flags.config.as_deref())?;
    let data = flags.data.or(file.data).unwrap_or_else(|| DEFAULT_DATA.into());
    std::fs::create_dir_all(&data)
        .map_err(|source| RoleError::Data { path: data.clone(), source })?;
    let mut api =
        Config::new(flags.api.or(file.api).unwrap_or(DEFAULT_API), data.join("config.redb"));
    api.tls = file.tls.map(|tls| TlsFiles { certificate: tls.certificate, key: tls.key });
    let listen = flags.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN);
    let status = flags.status.or(file.status).unwrap_or(DEFAULT_STATUS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(RoleError::Runtime)?;
    runtime.block_on(serve(api, data, listen, status))
}

async fn serve(
    api: Config,
    data: PathBuf,
    listen: SocketAddr,
    status: SocketAddr,
) -> Result<(), RoleError> {
    let server = Server::start(api).await?;
    let controller = Controller::start(ControllerConfig {
        listen,
        status,
        api: format!("http://{}", reachable(server.local_addr())),
        data,
        host: host_name(),
    })
    .await?;
    while !controller.ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    notify::notify("READY=1");
    tracing::info!(
        api = %server.local_addr(),
        agents = %controller.address,
        status = %controller.status_address,
        "ready"
    );
    shutdown::requested().await;
    controller.stop().await;
    server.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// The address under which this process reaches a listener of its own.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "controller".to_owned(), |name| name.trim().to_owned())
}
