//! The load balancers' role on a node of a cluster.

use super::daemon::{Daemon, Line};
use super::{Cluster, ClusterError};
use crate::Host;
use serde_json::Value;
use std::time::Duration;

const READY: Duration = Duration::from_secs(30);
const STATUS: u16 = 8086;
/// Its account; which secrets it may read is said where they are.
const RIGHTS: &str = include_str!("../../../deploy/kubernetes/loadbalancer-rbac.yaml");
const ACCOUNT: &str = "system:serviceaccount:skein-system:skein-loadbalancer";

/// `skeind loadbalancer` on a node, with the rights and the ways of a real installation: it speaks HTTPS to the
/// configuration API, both sides with certificates. Dropping it kills it; HAProxy goes on until the node goes.
#[derive(Debug)]
pub struct Balancer {
    daemon: Daemon,
    host: Host,
}

impl Balancer {
    /// Starts it on a node, counted from 0, and waits until it is ready. The network must be installed.
    ///
    /// # Errors
    /// A program is missing, or it did not start; the error quotes its log.
    pub fn start(
        cluster: &Cluster,
        node: usize,
        arguments: &[String],
    ) -> Result<Balancer, ClusterError> {
        let skeind = cluster.options().programs.join("skeind");
        cluster.apply(RIGHTS)?;
        let node = &cluster.nodes()[node];
        let kubeconfig = node.folder().join("loadbalancer.kubeconfig");
        cluster.authority().kubeconfig(&kubeconfig, ACCOUNT, &[])?;
        let pki = cluster.state().join("controller/pki");
        let line = Line::new(&skeind)
            .arg("loadbalancer")
            .flag("node", node.name())
            .flag("api", format!("https://{}:8182", cluster.control_host().ipv4()))
            .file("ca", &pki.join("ca.pem"))
            .file("cert", &pki.join("client.pem"))
            .file("key", &pki.join("client.key"))
            .file("kubeconfig", &kubeconfig)
            .args(arguments);
        let daemon = node.start_daemon("skein-loadbalancer", line)?;
        let mut balancer = Balancer { daemon, host: node.host().clone() };
        balancer.wait_ready()?;
        Ok(balancer)
    }

    fn wait_ready(&mut self) -> Result<(), ClusterError> {
        let host = self.host.clone();
        self.daemon.wait_ready(READY, || {
            let answer =
                host.http(STATUS, "GET", "/readyz", "").map_err(|error| error.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        })
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// It could not be reaped.
    pub fn kill(&mut self) -> Result<(), ClusterError> {
        self.daemon.kill()
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It could not be reaped.
    pub fn stop(&mut self) -> Result<(), ClusterError> {
        self.daemon.stop()
    }

    /// Starts it again after it ended, and waits until it is ready.
    ///
    /// # Errors
    /// The end of its log.
    pub fn start_again(&mut self) -> Result<(), ClusterError> {
        self.daemon.start_again()?;
        self.wait_ready()
    }

    /// Lets it live on after this value is dropped.
    pub fn detach(self) {
        self.daemon.detach();
    }

    /// Its file of words.
    #[must_use]
    pub fn log_path(&self) -> &std::path::Path {
        self.daemon.log_path()
    }

    /// Its page `/v1/status`.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self) -> Result<Value, ClusterError> {
        let answer = self.host.http(STATUS, "GET", "/v1/status", "")?;
        serde_json::from_str(&answer.body)
            .map_err(|error| ClusterError::answer("/v1/status", error))
    }
}
