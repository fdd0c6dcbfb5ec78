//! Settings of the daemon.

use serde::Deserialize;
use skein_client::Tls;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Open files of HAProxy that are no connections.
const FILES_ASIDE: u32 = 500;

/// Settings of `skeind loadbalancer`, as its file has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadbalancerConfig {
    /// Name of this node's virtual-router.
    pub node: String,
    /// The configuration API: `https://HOST:PORT`, or `http://` on the machine itself; of several controllers all addresses,
    /// with commas in between.
    pub api: String,
    /// Certificates of the authority that vouches for the API, PEM; none: those the machine trusts.
    pub ca: Option<PathBuf>,
    /// Certificate that this service shows the API, PEM, with `key`.
    pub certificate: Option<PathBuf>,
    /// The certificate's private key, PEM.
    pub key: Option<PathBuf>,
    /// Name that the API's certificate must carry, if not the one in `api`.
    pub server_name: Option<String>,
    /// The agent's unix socket.
    pub agent: PathBuf,
    /// Where status and metrics are served.
    pub status: SocketAddr,
    /// Configurations, certificates and sockets; on a file system in memory, for it holds private keys.
    pub run_dir: PathBuf,
    /// Providers whose load balancers are served.
    pub providers: Vec<String>,
    /// The program.
    pub haproxy: PathBuf,
    /// User and group of the process that serves; empty: those of this daemon.
    pub user: String,
    /// Network namespaces are called this and the load balancer's uuid.
    pub namespace_prefix: String,
    /// Where HAProxy logs, as its `log` setting has it; empty: nowhere.
    pub log: String,
    /// Most connections of a load balancer.
    pub connections: u32,
    /// Threads of a load balancer.
    pub threads: u32,
    /// Folder with files `NAME.pem`, certificates and key in one, for those who have them from elsewhere.
    pub certificates: Option<PathBuf>,
    /// HAProxy does not outlive this daemon, as in a container: at its end it leaves every load balancer to other nodes.
    pub hand_over: bool,
}

impl Default for LoadbalancerConfig {
    fn default() -> Self {
        Self {
            node: String::new(),
            api: "http://127.0.0.1:8082".into(),
            ca: None,
            certificate: None,
            key: None,
            server_name: None,
            agent: "/run/skein/agent.sock".into(),
            status: SocketAddr::from(([127, 0, 0, 1], 8086)),
            run_dir: "/run/skein/loadbalancer".into(),
            providers: vec!["opencontrail".into(), "haproxy".into()],
            haproxy: "/usr/sbin/haproxy".into(),
            user: "haproxy".into(),
            namespace_prefix: "skein-lb-".into(),
            log: "/dev/log".into(),
            connections: 20_000,
            threads: 2,
            certificates: None,
            hand_over: false,
        }
    }
}

impl LoadbalancerConfig {
    /// How it speaks to the configuration API.
    pub(super) fn tls(&self) -> Tls {
        Tls {
            ca: self.ca.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            server_name: self.server_name.clone(),
        }
    }

    /// Asks for no more connections than HAProxy can have files for: it would not start. Gives the number that was
    /// asked for, if it is too many.
    pub(super) fn fit(&mut self) -> Option<u32> {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        let files: u32 = line.split_whitespace().nth(1)?.parse().ok()?;
        // Two for each connection, and some for listeners, checks and pipes.
        let most = (files.saturating_sub(FILES_ASIDE) / 2).max(100);
        (self.connections > most).then(|| std::mem::replace(&mut self.connections, most))
    }

    /// Whether it makes sense.
    ///
    /// # Errors
    /// The setting, and what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let word = |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_whitespace());
        let run_dir = self.run_dir.to_str().unwrap_or_default();
        if self.node.is_empty() {
            return Err("node: name this node's virtual-router".into());
        }
        if self.providers.is_empty() {
            return Err("providers: name at least one, opencontrail for example".into());
        }
        // The name of a unix socket has 107 bytes, and HAProxy makes it under a longer one first.
        if !self.run_dir.is_absolute() || !word(run_dir) || run_dir.len() > 50 {
            return Err(
                "run_dir: choose an absolute path of at most 50 bytes, without spaces".into()
            );
        }
        if self.namespace_prefix.contains('/') || self.log.contains(|c: char| c.is_control()) {
            return Err("namespace_prefix and log: no slashes or control characters".into());
        }
        if self.threads == 0 || self.connections == 0 {
            return Err("threads and connections: at least 1".into());
        }
        Ok(())
    }
}
