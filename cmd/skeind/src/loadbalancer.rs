//! The load balancers' role of one node.

use crate::all_in_one::RoleError;
use crate::api_flags::{ApiFlags, ApiSettings};
use crate::settings::{self, SettingsError};
use crate::{notify, shutdown};
use clap::Args;
use skein_kube::Kubernetes;
use skein_kube::secrets::{self, Complaint, FoundSecrets, SecretName};
use skein_loadbalancer::{Certificates, Complaints, Found, LoadbalancerConfig, Pem};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::sync::watch;

/// Flags of `skeind loadbalancer`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Settings file (TOML); flags and variables win over it
    #[arg(long, value_name = "FILE", env = "SKEIN_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    api: ApiFlags,
    /// Name of this node's virtual-router [default: the host's name]
    #[arg(long, env = "SKEIN_NODE_NAME")]
    node: Option<String>,
    /// Unix socket of the agent's port API [default: /run/skein/agent.sock]
    #[arg(long, value_name = "PATH", env = "SKEIN_SOCKET")]
    socket: Option<PathBuf>,
    /// Where status and metrics are served [default: 127.0.0.1:8086]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_STATUS_LISTEN")]
    status: Option<SocketAddr>,
    /// Configurations, certificates and sockets; in memory [default: /run/skein/loadbalancer]
    #[arg(long, value_name = "DIR", env = "SKEIN_RUN_DIR")]
    run_dir: Option<PathBuf>,
    /// HAProxy, 2.6 or newer [default: /usr/sbin/haproxy]
    #[arg(long, value_name = "PROGRAM")]
    haproxy: Option<PathBuf>,
    /// How network namespaces are called before the load balancer's uuid [default: skein-lb-]
    #[arg(long, value_name = "TEXT")]
    namespace_prefix: Option<String>,
    /// Folder with certificates as NAME.pem, for load balancers whose certificates are not in Kubernetes
    #[arg(long, value_name = "DIR")]
    certificates: Option<PathBuf>,
    /// Read TLS secrets of Kubernetes by this file
    #[arg(long, value_name = "FILE", env = "SKEIN_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Read TLS secrets of the cluster in which this is a pod, by its service account
    #[arg(long, conflicts_with = "kubeconfig")]
    in_cluster: bool,
    /// Where HAProxy logs, as its `log` setting has it; empty: nowhere [default: /dev/log]
    #[arg(long, value_name = "PLACE")]
    haproxy_log: Option<String>,
    /// Give every load balancer to other nodes before ending, for HAProxy ends with this, as in a container
    #[arg(long)]
    hand_over: bool,
}

/// The file: the settings, and a table `kubernetes`, which an empty one switches on by the pod's service account.
fn read(flags: &Flags) -> Result<(LoadbalancerConfig, Option<Kubernetes>), SettingsError> {
    let mut file: toml::Table = settings::read(flags.config.as_deref())?;
    let wrong = |error: toml::de::Error| SettingsError::Content {
        path: flags.config.clone().unwrap_or_default(),
        reason: error.to_string(),
    };
    let kubernetes = file.remove("kubernetes").map(toml::Value::try_into).transpose();
    Ok((file.try_into().map_err(wrong)?, kubernetes.map_err(wrong)?))
}

/// Runs until SIGTERM or SIGINT; HAProxy goes on, unless everything is handed over.
pub(crate) fn run(flags: Flags) -> Result<(), RoleError> {
    let (mut config, mut kubernetes) = read(&flags)?;
    flags.api.over(ApiSettings {
        api: &mut config.api,
        ca: &mut config.ca,
        certificate: &mut config.certificate,
        key: &mut config.key,
        server_name: &mut config.server_name,
    });
    config.agent = flags.socket.unwrap_or(config.agent);
    config.status = flags.status.unwrap_or(config.status);
    config.run_dir = flags.run_dir.unwrap_or(config.run_dir);
    config.haproxy = flags.haproxy.unwrap_or(config.haproxy);
    config.namespace_prefix = flags.namespace_prefix.unwrap_or(config.namespace_prefix);
    config.certificates = flags.certificates.or(config.certificates);
    config.log = flags.haproxy_log.unwrap_or(config.log);
    config.hand_over |= flags.hand_over;
    config.node = flags.node.unwrap_or(config.node);
    if config.node.is_empty() {
        config.node = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_default();
    }
    if flags.in_cluster {
        kubernetes.get_or_insert_default();
    }
    if let Some(path) = flags.kubeconfig {
        kubernetes.get_or_insert_default().kubeconfig = Some(path);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RoleError::Runtime)?;
    runtime.block_on(async {
        let certificates = match &kubernetes {
            Some(kubernetes) => Some(of_kubernetes(kubernetes, &config.node).await?),
            None => None,
        };
        let ready = || notify::notify("READY=1");
        skein_loadbalancer::run(config, certificates, ready, shutdown::requested()).await?;
        Ok(())
    })
}

/// Certificates called `NAMESPACE__SECRET`, as the Kubernetes manager calls them.
async fn of_kubernetes(settings: &Kubernetes, node: &str) -> Result<Certificates, RoleError> {
    let (wanted, mut names) = watch::channel(BTreeSet::<String>::new());
    let (sender, found) = watch::channel(Found::new());
    let (ask, asked) = watch::channel(BTreeSet::<SecretName>::new());
    let (answer, mut answers) = watch::channel(FoundSecrets::new());
    secrets::follow(settings, asked, answer).await?;
    tokio::spawn(async move {
        loop {
            let wanted = names.borrow_and_update().clone();
            // Names of namespaces have no underscores.
            let split = |name: &String| {
                name.split_once("__")
                    .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
            };
            let secrets: BTreeSet<SecretName> = wanted.iter().filter_map(split).collect();
            ask.send_if_modified(|before| {
                let differs = *before != secrets;
                *before = secrets;
                differs
            });
            let given = answers.borrow_and_update().clone();
            let mut all = Found::new();
            for name in wanted {
                let Some(secret) = split(&name) else {
                    all.insert(name, Err("it is not called NAMESPACE__SECRET".into()));
                    continue;
                };
                if let Some(secret) = given.get(&secret) {
                    let secret = secret.clone();
                    all.insert(name, secret.and_then(|s| Pem::new(&s.certificates, &s.key)));
                }
            }
            sender.send_if_modified(|before| {
                let differs = *before != all;
                *before = all;
                differs
            });
            tokio::select! {
                changed = names.changed() => if changed.is_err() { return },
                changed = answers.changed() => if changed.is_err() { return },
            }
        }
    });
    let (complaints, mut complained) = watch::channel(Complaints::new());
    let (told, tellings) = watch::channel(BTreeSet::new());
    secrets::tell(settings, node, tellings).await?;
    tokio::spawn(async move {
        while complained.changed().await.is_ok() {
            let now = about_ingresses(&complained.borrow_and_update());
            let _ = told.send(now);
        }
    });
    Ok(Certificates { wanted, found, complaints })
}

/// Whom to tell: the load balancer of an Ingress has its uid, and is called `INGRESS__UID`.
fn about_ingresses(all: &Complaints) -> BTreeSet<Complaint> {
    let mut out = BTreeSet::new();
    for (uid, (balancer, bad)) in all {
        let last = balancer.rsplit(':').next().unwrap_or_default();
        let Some((ingress, end)) = last.rsplit_once("__") else { continue };
        if end != uid.to_string() {
            continue;
        }
        for (certificate, why) in bad {
            let Some((namespace, secret)) = certificate.split_once("__") else { continue };
            out.insert(Complaint {
                namespace: namespace.to_owned(),
                ingress: ingress.to_owned(),
                uid: end.to_owned(),
                text: format!("spec.tls: secret {secret} is left out: {why}"),
            });
        }
    }
    out
}
