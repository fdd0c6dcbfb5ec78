//! Kubernetes' own kube-proxy, as Skein's neighbour on a node and as its peer in measurements.

use super::daemon::{Daemon, Line, Place};
use super::{Cluster, ClusterError};
use crate::Host;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const HEALTH: u16 = 10_256;
/// The first rules of 1,000 services need a few seconds on two busy cores.
const READY: Duration = Duration::from_secs(60);

/// A running kube-proxy in its iptables mode. Dropping it kills it; its rules stay until [`KubeProxy::remove`].
#[derive(Debug)]
pub struct KubeProxy {
    daemon: Daemon,
    host: Host,
    program: PathBuf,
}

impl KubeProxy {
    /// Starts it in the network namespace of a host, as the proxy of the node `name`, and waits for its first rules.
    /// `pods`: the prefix of pods; whoever asks services from elsewhere is masqueraded.
    ///
    /// # Errors
    /// The program is missing, or did not start; the error quotes its log.
    pub fn start(
        cluster: &Cluster,
        host: &Host,
        name: &str,
        pods: &str,
    ) -> Result<KubeProxy, ClusterError> {
        let program = super::Programs::kube_proxy()?;
        // What kubeadm's installation runs it as.
        let kubeconfig = cluster.state().join(format!("kube-proxy-{}.kubeconfig", host.name()));
        cluster.authority().kubeconfig(&kubeconfig, "system:kube-proxy", &[])?;
        let line = Line::new(&program)
            .file("kubeconfig", &kubeconfig)
            .flag("proxy-mode", "iptables")
            .flag("hostname-override", name)
            .flag("bind-address", host.ipv4())
            .flag("cluster-cidr", pods)
            .flag("healthz-bind-address", format!("127.0.0.1:{HEALTH}"))
            .flag("metrics-bind-address", "127.0.0.1:10249")
            // These are the machine's, and may not be written from a namespace.
            .flag("conntrack-max-per-core", 0)
            .flag("conntrack-min", 0)
            .flag("conntrack-tcp-timeout-established", "0s")
            .flag("conntrack-tcp-timeout-close-wait", "0s");
        let log = cluster.logs().join(format!("kube-proxy-{}.log", host.name()));
        let place = Place::Host(host.clone());
        let mut daemon = Daemon::start("kube-proxy", log, place, line)?;
        daemon.wait_ready(READY, || {
            let answer = host.http(HEALTH, "GET", "/healthz", "").map_err(|e| e.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        })?;
        Ok(KubeProxy { daemon, host: host.clone(), program })
    }

    /// Its version, and the iptables it writes its rules with.
    ///
    /// # Errors
    /// They could not be asked.
    pub fn versions(&self) -> Result<String, ClusterError> {
        let say = |program: &Path, argument: &str| {
            let said = self.host.run(Command::new(program).arg(argument))?.success()?;
            Ok::<_, ClusterError>(said.trim().to_owned())
        };
        let own = say(&self.program, "--version")?.replace("Kubernetes ", "kube-proxy ");
        Ok(format!("{own}, {}", say(Path::new("iptables"), "-V")?))
    }

    /// Ends it and takes its rules away.
    ///
    /// # Errors
    /// What it said.
    pub fn remove(mut self) -> Result<(), ClusterError> {
        self.daemon.kill()?;
        // Its own `--cleanup` fails where there is no ipset. The kubelet makes its chains again.
        for command in ["iptables", "ip6tables"] {
            let line = format!("{command}-save | grep -v KUBE- | {command}-restore");
            self.host.run(Command::new("sh").args(["-c", &line]))?.success()?;
        }
        Ok(())
    }
}
