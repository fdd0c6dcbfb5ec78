//! A node: namespaces of its own with containerd and a kubelet in them.

use super::daemon::{Daemon, Line, Place, await_child, enter};
use super::image::PAUSE_IMAGE;
use super::{Authority, ClusterError, Programs, cgroups, files};
use crate::command::run;
use crate::{Host, LabError, Process, Ran, wait_for};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where a node sees its own folder.
const INSIDE: &str = "/run/node";
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";
/// The address of the cluster's DNS, by convention the tenth Service address.
const DNS: &str = "10.96.0.10";
/// For a step of a node's start that takes well under a second on an idle machine.
const STEP: Duration = Duration::from_secs(30);

/// A node of a cluster. Dropping it ends everything on it.
#[derive(Debug)]
pub struct KubeNode {
    /// The kubelet.
    pub kubelet: Daemon,
    /// The container runtime.
    pub containerd: Daemon,
    host: Host,
    folder: PathBuf,
    logs: PathBuf,
    /// Process 1 of the node, as this machine counts.
    init: u32,
    // Last: with it every process of the node's PID namespace ends.
    namespaces: Process,
}

/// What a node is made from.
pub(crate) struct Plan<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) host: Host,
    pub(crate) programs: &'a Programs,
    pub(crate) authority: &'a Authority,
    /// The node's own files.
    pub(crate) folder: PathBuf,
    /// Logs of its programs.
    pub(crate) logs: PathBuf,
    /// The archive of the images.
    pub(crate) images: &'a Path,
    /// What kubelets present at their first start.
    pub(crate) token: String,
    /// `--feature-gates` and the like.
    pub(crate) kubelet_arguments: &'a [String],
}

/// A node with a container runtime and images, which no cluster knows yet.
pub(crate) struct Prepared {
    containerd: Daemon,
    host: Host,
    folder: PathBuf,
    logs: PathBuf,
    init: u32,
    namespaces: Process,
    kubelet: Line,
}

impl Prepared {
    /// Makes the namespaces, starts the runtime and imports the images.
    pub(crate) fn new(plan: Plan<'_>) -> Result<Prepared, ClusterError> {
        let Plan { host, folder, logs, .. } = &plan;
        files::folder(logs)?;
        cgroups::make(plan.cluster, host.name())?;
        write_configuration(&plan)?;
        let (namespaces, init) = start_namespaces(host, folder, logs)?;
        let line = Line::new(&plan.programs.containerd)
            .flag("config", format!("{INSIDE}/containerd.toml"));
        let log = logs.join("containerd.log");
        let mut containerd = Daemon::start("containerd", log, Place::Node(init), line)?;
        let ctr = |arguments: &[&str]| {
            let mut command = enter(init, &plan.programs.ctr);
            command.args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io"]);
            run(None, command.args(arguments), None)?.success()
        };
        containerd.wait_ready(STEP, || ctr(&["version"]).map(|_| ()))?;
        let images = folder.join("images.tar");
        std::fs::copy(plan.images, &images)
            .map_err(|source| ClusterError::file("copy images to", &images, source))?;
        ctr(&["image", "import", &format!("{INSIDE}/images.tar")])?;
        let kubelet = Line::new(&plan.programs.kubelet)
            .flag("config", format!("{INSIDE}/kubelet.json"))
            .flag("bootstrap-kubeconfig", format!("{INSIDE}/bootstrap.kubeconfig"))
            .flag("kubeconfig", "/var/lib/kubelet/kubeconfig")
            .flag("cert-dir", "/var/lib/kubelet/pki")
            .flag("container-runtime", "remote")
            .flag("container-runtime-endpoint", format!("unix://{CONTAINERD_SOCKET}"))
            .flag("hostname-override", host.name())
            .flag("node-ip", host.ipv4())
            .args(plan.kubelet_arguments);
        let Plan { host, folder, logs, .. } = plan;
        Ok(Prepared { containerd, host, folder, logs, init, namespaces, kubelet })
    }

    /// Starts the kubelet, which asks for its certificate and registers the node.
    pub(crate) fn join(self) -> Result<KubeNode, ClusterError> {
        let Prepared { containerd, host, folder, logs, init, namespaces, kubelet } = self;
        let log = logs.join("kubelet.log");
        let kubelet = Daemon::start("kubelet", log, Place::Node(init), kubelet)?;
        Ok(KubeNode { kubelet, containerd, host, folder, logs, init, namespaces })
    }
}

impl KubeNode {
    /// The host of the lab.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Name of the node.
    #[must_use]
    pub fn name(&self) -> &str {
        self.host.name()
    }

    /// The node's folder on this machine. `cni-bin` in it is the node's `/opt/cni/bin`, `cni-conf` its
    /// `/etc/cni/net.d`, `skein` its `/var/lib/skein`, `log` its `/var/log`. The node sees it as `/run/node`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Process 1 of the node, as this machine counts: `nsenter --target` takes it.
    #[must_use]
    pub fn init(&self) -> u32 {
        self.init
    }

    /// A command that runs in all namespaces of the node.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        enter(self.init, program.as_ref())
    }

    /// Runs a command in all namespaces of the node.
    ///
    /// # Errors
    /// `nsenter` could not be started; a failure of the command is in [`Ran`].
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Ran, LabError> {
        run(None, self.command(program).args(arguments), None)
    }

    /// Gives the runtime the images of an archive on this machine.
    ///
    /// # Errors
    /// What the runtime's client said.
    pub fn import_images(&self, ctr: &Path, archive: &Path) -> Result<(), ClusterError> {
        let copy = self.folder.join("more-images.tar");
        std::fs::copy(archive, &copy)
            .map_err(|source| ClusterError::file("copy images to", &copy, source))?;
        let mut command = self.command(ctr);
        command.args(["--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "image", "import"]);
        command.arg(format!("{INSIDE}/more-images.tar"));
        run(None, &mut command, None)?.success()?;
        let _ = std::fs::remove_file(&copy);
        Ok(())
    }

    /// Starts a program in all namespaces of the node; its log stands beside the kubelet's.
    pub(crate) fn start_daemon(&self, name: &str, line: Line) -> Result<Daemon, ClusterError> {
        let log = self.logs.join(format!("{name}.log"));
        Daemon::start(name, log, Place::Node(self.init), line)
    }

    /// Fails with the end of the log when a program of the node has ended.
    pub(crate) fn check(&mut self) -> Result<(), ClusterError> {
        for process in [&mut self.namespaces, self.containerd.process(), self.kubelet.process()] {
            process.check()?;
        }
        Ok(())
    }

    pub(crate) fn power_off(&mut self) -> Result<(), ClusterError> {
        // With process 1 ends whatever is in its PID namespace, and with the last of these the mounts.
        self.namespaces.kill()?;
        let init = format!("/proc/{}", self.init);
        wait_for("the node's process 1 to be gone", STEP, || {
            if Path::new(&init).exists() { Err("it is there") } else { Ok(()) }
        })?;
        for daemon in [&mut self.kubelet, &mut self.containerd] {
            daemon.process().kill()?;
        }
        // The host's network namespace is the lab's and lives on; a boot would find it empty but for the card.
        let (uplink, host) = (self.host.uplink(), &self.host);
        for device in ["lo", uplink] {
            // There may be none.
            let _ = host.run(Command::new("tc").args(["qdisc", "del", "dev", device, "clsact"]))?;
        }
        wait_for("the node's devices to be gone", STEP, || {
            let left = devices(host).map_err(|error| error.to_string())?;
            for device in left.iter().filter(|name| *name != "lo" && *name != uplink) {
                let _ = host.ip(&format!("link delete {device}\n"));
            }
            if left.len() == 2 { Ok(()) } else { Err(format!("{left:?}")) }
        })?;
        Ok(())
    }

    pub(crate) fn boot(&mut self, cluster: &str, ctr: &Path) -> Result<(), ClusterError> {
        cgroups::make(cluster, self.host.name())?;
        (self.namespaces, self.init) = start_namespaces(&self.host, &self.folder, &self.logs)?;
        for daemon in [&mut self.containerd, &mut self.kubelet] {
            daemon.moves(Place::Node(self.init));
        }
        self.containerd.start_again()?;
        let mut ask = self.command(ctr);
        ask.args(["--address", CONTAINERD_SOCKET, "version"]);
        self.containerd.wait_ready(STEP, || run(None, &mut ask, None)?.success().map(|_| ()))?;
        self.kubelet.start_again()
    }

    pub(crate) fn detach(self) {
        self.kubelet.detach();
        self.containerd.detach();
        self.namespaces.detach();
    }
}

/// Names of a host's devices.
fn devices(host: &Host) -> Result<Vec<String>, ClusterError> {
    let shown = host.run(Command::new("ip").args(["-o", "link", "show"]))?.success()?;
    let names = shown.lines().filter_map(|line| line.split(": ").nth(1));
    Ok(names.map(|name| name.split('@').next().unwrap_or(name).to_owned()).collect())
}

fn start_namespaces(
    host: &Host,
    folder: &Path,
    logs: &Path,
) -> Result<(Process, u32), ClusterError> {
    let up = folder.join("up");
    let _ = std::fs::remove_file(&up);
    let script = folder.join("node.sh");
    files::write(&script, include_str!("node.sh"))?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private", "bash"])
        .arg(&script)
        .arg(host.name())
        .arg(folder);
    let log = logs.join("namespaces.log");
    let name = format!("the namespaces of {}", host.name());
    let mut process = Process::spawn(&name, log, Some(&host.path()), &mut command)?;
    process.wait_ready(STEP, || if up.exists() { Ok(()) } else { Err("not set up") })?;
    let init = await_child("process 1 of the node", process.pid())?;
    Ok((process, init))
}

fn write_configuration(plan: &Plan<'_>) -> Result<(), ClusterError> {
    let folder = &plan.folder;
    plan.authority.token_kubeconfig(&folder.join("bootstrap.kubeconfig"), &plan.token)?;
    files::write(&folder.join("ca.pem"), plan.authority.ca_pem())?;
    // containerd brings up a pod's loopback interface by this plugin.
    let loopback = crate::require("loopback", "containernetworking-plugins")?;
    files::copy(&loopback, &folder.join("cni-bin/loopback"))?;
    files::write(&folder.join("containerd.toml"), containerd_configuration(folder))?;
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{INSIDE}/ca.pem")},
        },
        "authorization": {"mode": "Webhook"},
        "serverTLSBootstrap": true,
        "rotateCertificates": true,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": true,
        "cgroupRoot": cgroups::name(plan.cluster, plan.host.name()),
        "enforceNodeAllocatable": ["pods"],
        "failSwapOn": false,
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "volumePluginDir": "/var/lib/kubelet/plugins/volume",
        // The disk is the machine's, and full or not is none of a test's business.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "maxPods": 250,
        // By default a node is told to be Ready up to 10 s after it is.
        "nodeStatusUpdateFrequency": "1s",
    });
    files::write(&folder.join("kubelet.json"), kubelet.to_string())
}

fn containerd_configuration(folder: &Path) -> String {
    let snapshotter = if is_overlay(folder) { "native" } else { "overlayfs" };
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE runc may not lower a score.
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
"#
    )
}

/// An overlay cannot be the upper side of another one: so it is in a container.
fn is_overlay(folder: &Path) -> bool {
    nix::sys::statfs::statfs(folder)
        .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::OVERLAYFS_SUPER_MAGIC)
}
