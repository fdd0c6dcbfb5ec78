//! The all-in-one role: configuration API and controller, on the embedded store or with others on etcd.

use crate::settings::{self, SettingsError};
use crate::{notify, replica, shutdown};
use clap::Args;
use serde::Deserialize;
use skein_api::{Clients, Cluster, Config, Https, Server, TlsFiles};
use skein_controller::{
    Authority, CLIENT_ORGANIZATION, Controller, ControllerConfig, ControllerError, Silence,
};
use skein_kube::Publication;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DEFAULT_DATA: &str = "/var/lib/skein";
const DEFAULT_API: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8082);
const DEFAULT_HTTPS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8182);
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
    /// Where the configuration API listens without TLS and without asking who comes [default: 127.0.0.1:8082]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_API_LISTEN")]
    api: Option<SocketAddr>,
    /// Where the configuration API listens with TLS, for clients with a certificate [default: 0.0.0.0:8182]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_API_HTTPS_LISTEN")]
    api_https: Option<SocketAddr>,
    /// More names and addresses by which clients know the API, for its certificate
    #[arg(long = "api-name", value_name = "NAME", env = "SKEIN_API_NAMES", value_delimiter = ',')]
    api_names: Vec<String>,
    /// Runs in a Kubernetes cluster: keep how to join in Secrets of this namespace
    #[arg(long, value_name = "NAMESPACE", env = "SKEIN_PUBLISH_NAMESPACE")]
    publish_namespace: Option<String>,
    /// Address under which the cluster's nodes reach this controller, for those Secrets; of several controllers all addresses
    #[arg(
        long,
        value_name = "ADDR",
        env = "SKEIN_PUBLISH_ADDRESS",
        value_delimiter = ',',
        requires = "publish_namespace"
    )]
    publish_address: Vec<IpAddr>,
    /// Where agents connect, over TLS [default: 0.0.0.0:8084]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where status and metrics are served [default: 127.0.0.1:8083]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_STATUS_LISTEN")]
    status: Option<SocketAddr>,
    #[command(flatten)]
    replica: replica::ReplicaFlags,
}

/// The settings file of the all-in-one role.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    data: Option<PathBuf>,
    api: Option<SocketAddr>,
    api_https: Option<SocketAddr>,
    api_names: Vec<String>,
    listen: Option<SocketAddr>,
    status: Option<SocketAddr>,
    tls: Tls,
    silence: SilenceFile,
    etcd: replica::File,
    advertise_api: Option<String>,
}

/// When a node counts as lost, in milliseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SilenceFile {
    test: Option<u64>,
    answer: Option<u64>,
    grace: Option<u64>,
}

impl SilenceFile {
    fn read(&self) -> Silence {
        let time = |milliseconds: Option<u64>, default| {
            // Less than this is the network's own delay.
            milliseconds.map_or(default, |given| Duration::from_millis(given.max(100)))
        };
        let default = Silence::default();
        Silence {
            test: time(self.test, default.test),
            answer: time(self.answer, default.answer),
            grace: time(self.grace, default.grace),
        }
    }
}

/// How the configuration API is served over HTTPS. Without files: certificates of the controller's own authority.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    /// The server's certificate and chain, with `key`.
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    /// Clients show a certificate of this authority [default: one that the controller issued for clients].
    client_ca: Option<PathBuf>,
    /// Nobody is asked for a certificate.
    anyone: bool,
}

/// Why the role does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoleError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("data directory {path}: {source}; choose another one with --data")]
    Data { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}; is it there, and writable?")]
    File { path: PathBuf, source: std::io::Error },
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
    Pki(#[from] skein_controller::PkiError),
    #[error(transparent)]
    Store(#[from] skein_store::StoreError),
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
    if !api.listen.ip().is_loopback() {
        tracing::warn!(
            address = %api.listen,
            "the configuration API is open to whoever reaches this address; others use --api-https"
        );
    }
    let mut names = flags.api_names;
    names.extend(file.api_names);
    names.extend(flags.publish_address.iter().map(ToString::to_string));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(RoleError::Runtime)?;
    let pki = data.join("pki");
    let mut cluster = None;
    if let Some(settings) = flags.replica.settle(file.etcd, file.advertise_api)? {
        if file.tls.certificate.is_some() || file.tls.client_ca.is_some() {
            return Err(RoleError::Flag {
                name: "tls",
                reason: "controllers on one etcd know each other by certificates of their own \
                         authority; leave certificate and client_ca away"
                    .into(),
            });
        }
        runtime.block_on(settings.share_authority(&pki))?;
        names.push(settings.host.clone());
        cluster = Some(settings.cluster(host_name(), &pki));
    }
    let https = flags.api_https.or(file.api_https).unwrap_or(DEFAULT_HTTPS);
    api.https = Some(secure(https, file.tls, names, &pki)?);
    let listen = flags.listen.or(file.listen).unwrap_or(DEFAULT_LISTEN);
    let status = flags.status.or(file.status).unwrap_or(DEFAULT_STATUS);
    let at = |port: u16, scheme: &str| {
        let all = flags.publish_address.iter();
        let all = all.map(|address| format!("{scheme}{}", SocketAddr::new(*address, port)));
        all.collect::<Vec<_>>().join(",")
    };
    let publication = match flags.publish_namespace {
        Some(_) if flags.publish_address.is_empty() => {
            return Err(RoleError::Flag {
                name: "--publish-namespace",
                reason: "give --publish-address, too: nodes must know where this is".into(),
            });
        }
        Some(namespace) => Some(Publication {
            namespace,
            kubernetes: skein_kube::Kubernetes::default(),
            pki,
            agents: at(listen.port(), ""),
            api: at(https.port(), "https://"),
        }),
        None => None,
    };
    let controller = ControllerConfig {
        listen,
        status,
        // Known when the API listens.
        api: String::new(),
        data,
        host: host_name(),
        silence: file.silence.read(),
    };
    runtime.block_on(serve(api, cluster, controller, publication))
}

/// The listener with TLS: by the configured files, else by the controller's authority.
fn secure(
    listen: SocketAddr,
    tls: Tls,
    names: Vec<String>,
    pki: &Path,
) -> Result<Https, RoleError> {
    let authority = Authority::open(pki)?;
    authority.client_certificate(pki)?;
    let files = match (tls.certificate, tls.key) {
        (Some(certificate), Some(key)) => TlsFiles { certificate, key },
        (None, None) => {
            let names: Vec<_> = own_names(listen).into_iter().chain(names).collect();
            let issued = authority.api_certificate(pki, &names)?;
            TlsFiles { certificate: issued.certificate, key: issued.key }
        }
        _ => {
            return Err(RoleError::Flag {
                name: "tls",
                reason: "a certificate needs its key, and a key its certificate".into(),
            });
        }
    };
    let clients = match (tls.anyone, tls.client_ca) {
        (true, _) => Clients::Anyone,
        (false, Some(ca)) => Clients::Certified { ca, organization: None },
        (false, None) => Clients::Certified {
            ca: pki.join("ca.pem"),
            organization: Some(CLIENT_ORGANIZATION.to_owned()),
        },
    };
    Ok(Https { listen, files, clients })
}

/// Names and addresses under which clients reach a listener of this machine.
fn own_names(listen: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), host_name()];
    let mut addresses = vec![listen.ip()];
    if listen.ip().is_unspecified() {
        let found = nix::ifaddrs::getifaddrs().into_iter().flatten();
        addresses = found.filter_map(|interface| address_of(&interface)).collect();
    }
    // Link-local addresses mean something else on every wire.
    let global = addresses.iter().filter(|address| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    });
    names.extend(global.map(IpAddr::to_string));
    names
}

fn address_of(interface: &nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address.as_ref()?;
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip())))
}

async fn serve(
    api: Config,
    cluster: Option<Cluster>,
    controller: ControllerConfig,
    publication: Option<Publication>,
) -> Result<(), RoleError> {
    let server = match cluster {
        Some(cluster) => Server::start_replica(api, cluster).await?,
        None => Server::start(api).await?,
    };
    let api = format!("http://{}", reachable(server.local_addr()));
    let controller = Controller::start(ControllerConfig { api, ..controller }).await?;
    while !controller.ready() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let publishing = publication.map(|publication| {
        tokio::spawn(async move {
            if let Err(error) = skein_kube::publish(publication).await {
                tracing::error!(%error, "how to join is not told to the cluster");
            }
        })
    });
    notify::notify("READY=1");
    tracing::info!(
        api = %server.local_addr(),
        agents = %controller.address,
        status = %controller.status_address,
        "ready"
    );
    shutdown::requested().await;
    if let Some(publishing) = publishing {
        publishing.abort();
    }
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
