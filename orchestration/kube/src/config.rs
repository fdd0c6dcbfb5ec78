//! Settings of the daemon.

use crate::settings::{Dns, Settings};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Settings of `skeind kube-manager`, as its file has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ManagerConfig {
    /// The configuration API: `https://HOST:PORT`, or `http://` on the machine itself; of several controllers all addresses,
    /// with commas in between.
    pub api: String,
    /// Certificates of the authority that vouches for the API, PEM; none: those the machine trusts.
    pub ca: Option<PathBuf>,
    /// Certificate that the manager shows the API, PEM, with `key`.
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, PEM.
    pub key: Option<PathBuf>,
    /// Name that the API's certificate must carry, if not the one in `api`.
    pub server_name: Option<String>,
    /// Where status and metrics are served.
    pub status: SocketAddr,
    /// How these are served over TLS; without files they are plain, and for the machine itself alone.
    pub tls: StatusTls,
    /// How to reach Kubernetes.
    pub kubernetes: Kubernetes,
    /// Seconds between two full comparisons of both sides; 0: only changes count.
    pub timer_interval: u64,
    /// Owners that are written at the same time.
    pub concurrency: usize,
    /// Election among several managers.
    pub election: Election,
    /// What the core must know about its cluster.
    pub cluster: Settings,
    /// Names of the cluster.
    pub dns: Dns,
}

/// Status over TLS.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusTls {
    /// The certificate and its chain, PEM, with `key`.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
    /// Whoever asks for more than health shows a certificate of this authority. None: nobody is asked for one.
    pub client_ca: Option<PathBuf>,
}

impl StatusTls {
    /// Whether no file is named.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.certificate.is_none() && self.key.is_none() && self.client_ca.is_none()
    }
}

/// How to reach Kubernetes. Nothing: the file of `KUBECONFIG`, else the pod's own service account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kubernetes {
    /// A kubeconfig file.
    pub kubeconfig: Option<PathBuf>,
    /// A context in it, instead of its current one.
    pub context: Option<String>,
}

/// Election of the one manager that writes, by a Lease.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Election {
    /// Off: there is one manager only.
    pub enabled: bool,
    /// Namespace of the Lease.
    pub namespace: String,
    /// This manager's name.
    pub identity: String,
    /// Seconds for which a lease holds without being renewed.
    pub duration: u32,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            api: "http://127.0.0.1:8082".into(),
            ca: None,
            certificate: None,
            key: None,
            server_name: None,
            status: SocketAddr::from(([127, 0, 0, 1], 8108)),
            tls: StatusTls::default(),
            kubernetes: Kubernetes::default(),
            timer_interval: 120,
            concurrency: 32,
            election: Election::default(),
            cluster: Settings::default(),
            dns: Dns::default(),
        }
    }
}

impl Default for Election {
    fn default() -> Self {
        Self {
            enabled: true,
            namespace: "kube-system".into(),
            identity: String::new(),
            duration: 15,
        }
    }
}
