//! The Kubernetes manager's role.

use crate::all_in_one::RoleError;
use crate::api_flags::{ApiFlags, ApiSettings};
use crate::{notify, settings, shutdown};
use clap::Args;
use skein_kube::ManagerConfig;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Flags of `skeind kube-manager`. The variables that start with `KUBERNETES_` are the original's.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Settings file (TOML); flags and variables win over it
    #[arg(long, value_name = "FILE", env = "SKEIN_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    api: ApiFlags,
    /// Where status and metrics are served; for other machines only over TLS [default: 127.0.0.1:8108]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_STATUS_LISTEN")]
    status: Option<SocketAddr>,
    /// Certificate by which these are served over TLS (PEM)
    #[arg(long, value_name = "FILE", requires = "status_key")]
    status_certificate: Option<PathBuf>,
    /// Private key of that certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "status_certificate")]
    status_key: Option<PathBuf>,
    /// Who asks for more than health shows a certificate of this authority (PEM) [default: nobody is asked]
    #[arg(long, value_name = "FILE")]
    status_client_ca: Option<PathBuf>,
    /// File that says how to reach Kubernetes [default: KUBECONFIG, else the pod's service account]
    #[arg(long, value_name = "FILE", env = "SKEIN_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// This manager's name in the election [default: the host's name]
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// Namespace of the Lease by which one of several managers is chosen [default: kube-system]
    #[arg(long, value_name = "NAMESPACE")]
    lease_namespace: Option<String>,
    /// This is the only manager: write without asking for the Lease
    #[arg(long)]
    no_election: bool,
    /// Name of the cluster, part of its objects' names [default: k8s]
    #[arg(long, value_name = "NAME", env = "KUBERNETES_CLUSTER_NAME")]
    cluster_name: Option<String>,
    /// One project for all namespaces, as DOMAIN:PROJECT
    #[arg(long, value_name = "NAME", env = "KUBERNETES_CLUSTER_PROJECT")]
    cluster_project: Option<String>,
    /// Prefixes of pods [default: 10.32.0.0/12]
    #[arg(long, value_name = "PREFIXES", env = "KUBERNETES_POD_SUBNETS")]
    pod_subnets: Option<String>,
    /// Prefixes of services [default: 10.96.0.0/12]
    #[arg(long, value_name = "PREFIXES", env = "KUBERNETES_SERVICE_SUBNETS")]
    service_subnets: Option<String>,
    /// Prefixes of pods in the underlay [default: 10.64.0.0/12]
    #[arg(long, value_name = "PREFIXES", env = "KUBERNETES_IP_FABRIC_SUBNETS")]
    ip_fabric_subnets: Option<String>,
    /// The default pod network lives in the underlay: true or false [default: false]
    #[arg(long, value_name = "BOOL", env = "KUBERNETES_IP_FABRIC_FORWARDING", value_parser = truth)]
    ip_fabric_forwarding: Option<bool>,
    /// Pods reach outside through their node's address: true or false [default: false]
    #[arg(long, value_name = "BOOL", env = "KUBERNETES_IP_FABRIC_SNAT", value_parser = truth)]
    ip_fabric_snat: Option<bool>,
    /// Pool of external addresses, as DOMAIN:PROJECT:NETWORK:POOL
    #[arg(long, value_name = "NAME", env = "KUBERNETES_PUBLIC_FIP_POOL")]
    public_fip_pool: Option<String>,
    /// The nodes are machines of an outer fabric: true or false [default: false]
    #[arg(long, value_name = "BOOL", env = "KUBEMANAGER_NESTED_MODE", value_parser = truth)]
    nested_mode: Option<bool>,
    /// In nested mode: the nodes' network, as DOMAIN:PROJECT:NETWORK
    #[arg(long, value_name = "NAME", env = "KUBERNETES_CLUSTER_NETWORK")]
    cluster_network: Option<String>,
    /// Nodes answer for the names of services and pods, instead of DNS pods: true or false [default: false]
    #[arg(long, value_name = "BOOL", env = "SKEIN_DNS_SERVE", value_parser = truth)]
    dns_serve: Option<bool>,
}

/// The original's deployments write booleans in many ways.
fn truth(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err("write true or false".into()),
    }
}

fn prefixes<T: std::str::FromStr>(
    name: &'static str,
    text: Option<&str>,
    into: &mut Vec<T>,
) -> Result<(), RoleError> {
    let Some(text) = text else { return Ok(()) };
    let parts = text.split([' ', ',']).filter(|part| !part.is_empty());
    *into = parts
        .map(|part| {
            part.parse().map_err(|_| RoleError::Flag {
                name,
                reason: format!("{part:?} is not a prefix; write 10.32.0.0/12"),
            })
        })
        .collect::<Result<_, _>>()?;
    Ok(())
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(flags: Flags) -> Result<(), RoleError> {
    let mut config: ManagerConfig = settings::read(flags.config.as_deref())?;
    flags.api.over(ApiSettings {
        api: &mut config.api,
        ca: &mut config.ca,
        certificate: &mut config.certificate,
        key: &mut config.key,
        server_name: &mut config.server_name,
    });
    config.status = flags.status.unwrap_or(config.status);
    let tls = &mut config.tls;
    tls.certificate = flags.status_certificate.or(tls.certificate.take());
    tls.key = flags.status_key.or(tls.key.take());
    tls.client_ca = flags.status_client_ca.or(tls.client_ca.take());
    config.kubernetes.kubeconfig = flags.kubeconfig.or(config.kubernetes.kubeconfig);
    config.election.enabled &= !flags.no_election;
    config.election.namespace = flags.lease_namespace.unwrap_or(config.election.namespace);
    config.election.identity = flags.identity.unwrap_or(config.election.identity);
    if config.election.identity.is_empty() {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // Two managers on one host are two candidates.
        config.election.identity = format!("{}-{}", host.trim(), std::process::id());
    }
    config.dns.serve = flags.dns_serve.unwrap_or(config.dns.serve);
    let cluster = &mut config.cluster;
    cluster.cluster_name = flags.cluster_name.unwrap_or(std::mem::take(&mut cluster.cluster_name));
    cluster.cluster_project = flags.cluster_project.or(cluster.cluster_project.take());
    cluster.public_fip_pool = flags.public_fip_pool.or(cluster.public_fip_pool.take());
    cluster.nested_mode = flags.nested_mode.unwrap_or(cluster.nested_mode);
    cluster.cluster_network = flags.cluster_network.or(cluster.cluster_network.take());
    cluster.ip_fabric_forwarding =
        flags.ip_fabric_forwarding.unwrap_or(cluster.ip_fabric_forwarding);
    cluster.ip_fabric_snat = flags.ip_fabric_snat.unwrap_or(cluster.ip_fabric_snat);
    prefixes("--pod-subnets", flags.pod_subnets.as_deref(), &mut cluster.pod_subnets)?;
    prefixes("--service-subnets", flags.service_subnets.as_deref(), &mut cluster.service_subnets)?;
    prefixes(
        "--ip-fabric-subnets",
        flags.ip_fabric_subnets.as_deref(),
        &mut cluster.ip_fabric_subnets,
    )?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RoleError::Runtime)?;
    runtime.block_on(async {
        skein_kube::run(config, || notify::notify("READY=1"), shutdown::requested()).await
    })?;
    Ok(())
}
