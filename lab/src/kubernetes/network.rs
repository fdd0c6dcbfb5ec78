//! Skein as the network of a cluster: controller, Kubernetes manager, an agent on every node, the CNI plugin. Clusters may
//! share a controller.

use super::control_plane::SERVICE_RANGE;
use super::daemon::{Daemon, Line, Place};
use super::{Cluster, ClusterError, KubeNode, files};
use crate::{Controllers, Host, Ran};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const API_PORT: u16 = 8082;
const TLS_PORT: u16 = 8182;
const AGENT_PORT: u16 = 8084;
/// Release builds need well under a second.
const READY: Duration = Duration::from_secs(30);
/// The file names of Kubernetes' convention: the first in order is the cluster's network.
const CONFIGURATION: &str = "10-skein.conflist";
/// The manager's account and what it may do.
const RIGHTS: &str = include_str!("../../../deploy/kubernetes/rbac.yaml");
/// The Lease in it, with the name of a cluster.
const LEASE: &str = "skein-kube-manager-k8s";
const LEASE_BEFORE: &str = "skein-kube-manager-";
/// The user that a token of that account would be.
const ACCOUNT: &str = "system:serviceaccount:skein-system:skein-kube-manager";

/// What `skeind kube-manager` is told about the cluster.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Name of the cluster, part of its objects' names.
    pub cluster: String,
    /// Prefixes of pods, of both families.
    pub pod_subnets: Vec<String>,
    /// Prefixes of services: the API server's.
    pub service_subnets: Vec<String>,
    /// More arguments of the manager.
    pub manager_arguments: Vec<String>,
    /// More arguments of every agent.
    pub agent_arguments: Vec<String>,
    /// Put before nodes' names for what the fabric calls them: those of clusters that share a controller differ there.
    pub node_prefix: String,
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            cluster: "k8s".into(),
            pod_subnets: vec!["10.244.0.0/16".into(), "fd00:244::/64".into()],
            service_subnets: vec![SERVICE_RANGE.into()],
            manager_arguments: Vec::new(),
            agent_arguments: Vec::new(),
            node_prefix: String::new(),
        }
    }
}

/// Skein, installed into a cluster. Dropping it kills its daemons; the datapath stays until the cluster goes.
#[derive(Debug)]
pub struct SkeinNetwork {
    /// The agents, one a node, in the nodes' order.
    agents: Vec<Agent>,
    /// What makes configuration objects from Kubernetes' objects.
    pub manager: Daemon,
    /// The controller with the configuration API; none: it is another cluster's, or there are several.
    own_controller: Option<Daemon>,
    controller: Controller,
    /// Where the manager is.
    control_host: Host,
    skein: PathBuf,
}

/// Where a controller is, and what its clients need.
#[derive(Clone, Debug)]
struct Controller {
    host: Host,
    /// Its certificates and keys.
    pki: PathBuf,
    /// Where its clients on other hosts find the configuration API: of several, all addresses.
    api: String,
    /// Where agents connect.
    agents: Vec<String>,
    /// There are several, none of them beside the manager.
    several: bool,
}

impl Controller {
    fn alone(host: Host, pki: PathBuf) -> Controller {
        let address = host.ipv4();
        Controller {
            api: format!("https://{address}:{TLS_PORT}"),
            agents: vec![format!("{address}:{AGENT_PORT}")],
            host,
            pki,
            several: false,
        }
    }
}

#[derive(Debug)]
struct Agent {
    daemon: Daemon,
    host: Host,
}

impl Agent {
    fn wait_ready(&mut self) -> Result<(), ClusterError> {
        let host = self.host.clone();
        self.daemon.wait_ready(READY, || answers(&host, 8085))
    }
}

impl SkeinNetwork {
    /// Starts the controller and the Kubernetes manager beside the control plane, then an agent and the plugin on
    /// every node. Returns once all nodes are Ready.
    ///
    /// # Errors
    /// A program is missing, or something did not start; the error quotes its log.
    pub fn install(
        cluster: &Cluster,
        options: &NetworkOptions,
    ) -> Result<SkeinNetwork, ClusterError> {
        let programs = &cluster.options().programs;
        let skeind = program(programs, "skeind")?;
        let control_host = cluster.control_host().clone();
        let data = cluster.state().join("controller");
        let line = Line::new(&skeind)
            .arg("all-in-one")
            .file("data", &data)
            .flag("api", format!("0.0.0.0:{API_PORT}"))
            .flag("listen", format!("0.0.0.0:{AGENT_PORT}"));
        let log = cluster.logs().join("ctl/skein-controller.log");
        let mut daemon =
            Daemon::start("skein-controller", log, Place::Host(control_host.clone()), line)?;
        daemon.wait_ready(READY, || answers(&control_host, 8083))?;
        let controller = Controller::alone(control_host, data.join("pki"));
        Self::with(cluster, options, controller, Some(daemon))
    }

    /// The same for a cluster that shares the controller of another one, `first`, whose underlay it is joined to.
    ///
    /// # Errors
    /// As [`SkeinNetwork::install`].
    pub fn join(
        cluster: &Cluster,
        options: &NetworkOptions,
        first: &SkeinNetwork,
    ) -> Result<SkeinNetwork, ClusterError> {
        Self::with(cluster, options, first.controller.clone(), None)
    }

    /// The same with several controllers, on hosts of their own.
    ///
    /// # Errors
    /// As [`SkeinNetwork::install`].
    pub fn install_on(
        cluster: &Cluster,
        options: &NetworkOptions,
        controllers: &Controllers,
    ) -> Result<SkeinNetwork, ClusterError> {
        let controller = Controller {
            host: controllers.host(0).clone(),
            pki: controllers.pki(),
            api: controllers.api(),
            agents: controllers.for_agents(),
            several: true,
        };
        Self::with(cluster, options, controller, None)
    }

    fn with(
        cluster: &Cluster,
        options: &NetworkOptions,
        controller: Controller,
        own_controller: Option<Daemon>,
    ) -> Result<SkeinNetwork, ClusterError> {
        let programs = &cluster.options().programs;
        let skeind = program(programs, "skeind")?;
        let plugin = program(programs, "skein-cni")?;
        let skein = program(programs, "skein")?;
        let manager = start_manager(cluster, &skeind, options, &controller, None)?;
        let control_host = cluster.control_host().clone();
        let agents = Vec::new();
        let mut network =
            SkeinNetwork { agents, manager, own_controller, controller, control_host, skein };
        network.wait_manager()?;
        let join = files::read(&network.controller.pki.join("join-token"))?;
        for node in cluster.nodes() {
            let agent = network.start_agent(node, &skeind, &join, options)?;
            network.agents.push(agent);
        }
        for (agent, node) in network.agents.iter_mut().zip(cluster.nodes()) {
            agent.wait_ready()?;
            // A plugin's file has the name of its type; the configuration comes last, as it makes the node Ready.
            files::copy(&plugin, &node.folder().join("cni-bin/skein"))?;
            configure(node, options)?;
        }
        cluster.wait_nodes_ready()?;
        Ok(network)
    }

    /// Starts one more Kubernetes manager, which waits for its turn. `port`: where its status is.
    ///
    /// # Errors
    /// It did not start; the error quotes its log.
    pub fn standby_manager(
        &self,
        cluster: &Cluster,
        options: &NetworkOptions,
        port: u16,
    ) -> Result<Daemon, ClusterError> {
        let skeind = program(&cluster.options().programs, "skeind")?;
        let mut manager = start_manager(cluster, &skeind, options, &self.controller, Some(port))?;
        let host = cluster.control_host().clone();
        manager.wait_ready(READY, || answers(&host, port))?;
        Ok(manager)
    }

    fn wait_manager(&mut self) -> Result<(), ClusterError> {
        let host = self.control_host.clone();
        self.manager.wait_ready(READY, || answers(&host, 8108))
    }

    fn start_agent(
        &self,
        node: &KubeNode,
        skeind: &Path,
        join: &str,
        options: &NetworkOptions,
    ) -> Result<Agent, ClusterError> {
        files::write_secret(&node.folder().join("skein/join"), join)?;
        let host = node.host();
        // Sockets, pins and state are where a package's unit has them: the node has these folders for itself.
        let line = Line::new(skeind)
            .arg("vrouter")
            .flag("node", format!("{}{}", options.node_prefix, node.name()))
            .flag("controller", self.controller.agents.join(","))
            .flag("tunnel-address", host.ipv4())
            .flag("uplink", host.uplink())
            .flag("join-file", "/var/lib/skein/join")
            .args(&options.agent_arguments);
        Ok(Agent { daemon: node.start_daemon("skein-agent", line)?, host: host.clone() })
    }

    /// The agent of a node, counted from 0.
    pub fn agent(&mut self, node: usize) -> &mut Daemon {
        &mut self.agents[node].daemon
    }

    /// Starts an agent again after it was killed, and waits until it is ready.
    ///
    /// # Errors
    /// The end of its log.
    pub fn restart_agent(&mut self, node: usize) -> Result<(), ClusterError> {
        self.agents[node].daemon.start_again()?;
        self.agents[node].wait_ready()
    }

    /// Starts a node's agent after the node was booted, and waits until it is ready.
    ///
    /// # Errors
    /// The end of its log.
    pub fn boot_agent(&mut self, number: usize, node: &KubeNode) -> Result<(), ClusterError> {
        self.agents[number].daemon.moves(Place::Node(node.init()));
        self.restart_agent(number)
    }

    fn own_controller(&mut self) -> Result<&mut Daemon, ClusterError> {
        let missing = || ClusterError::answer("the controller", "it is another cluster's");
        self.own_controller.as_mut().ok_or_else(missing)
    }

    /// Kills the controller as a crash would.
    ///
    /// # Errors
    /// It could not be reaped, or is another cluster's.
    pub fn kill_controller(&mut self) -> Result<(), ClusterError> {
        self.own_controller()?.kill()
    }

    /// Starts the controller again after it was killed, and waits until it is ready.
    ///
    /// # Errors
    /// The end of its log; or it is another cluster's.
    pub fn restart_controller(&mut self) -> Result<(), ClusterError> {
        let host = self.controller.host.clone();
        let controller = self.own_controller()?;
        controller.start_again()?;
        controller.wait_ready(READY, || answers(&host, 8083))
    }

    /// Starts the Kubernetes manager again after it was killed, and waits until it is ready.
    ///
    /// # Errors
    /// The end of its log.
    pub fn restart_manager(&mut self) -> Result<(), ClusterError> {
        self.manager.start_again()?;
        self.wait_manager()
    }

    /// Runs the CLI on the controller's host.
    ///
    /// # Errors
    /// It could not be started; its own failure is in [`Ran`].
    pub fn skein(&self, arguments: &[&str]) -> Result<Ran, ClusterError> {
        Ok(self.controller.host.run(Command::new(&self.skein).args(arguments))?)
    }

    /// Runs the CLI on a node, counted from 0: `skein vrouter ...` shows that node.
    ///
    /// # Errors
    /// It could not be started; its own failure is in [`Ran`].
    pub fn skein_on(&self, node: usize, arguments: &[&str]) -> Result<Ran, ClusterError> {
        Ok(self.agents[node].host.run(Command::new(&self.skein).args(arguments))?)
    }

    /// Lets everything live on after this value is dropped.
    pub fn detach(self) {
        self.manager.detach();
        if let Some(controller) = self.own_controller {
            controller.detach();
        }
        for agent in self.agents {
            agent.daemon.detach();
        }
    }
}

/// Starts the manager with the rights that a real installation gives it, and no more.
fn start_manager(
    cluster: &Cluster,
    skeind: &Path,
    options: &NetworkOptions,
    controller: &Controller,
    standby: Option<u16>,
) -> Result<Daemon, ClusterError> {
    cluster.apply(&RIGHTS.replace(LEASE, &format!("{LEASE_BEFORE}{}", options.cluster)))?;
    let kubeconfig = cluster.state().join("kube-manager.kubeconfig");
    cluster.authority().kubeconfig(&kubeconfig, ACCOUNT, &[])?;
    let name = standby.map_or(String::new(), |port| format!("-{port}"));
    let line = Line::new(skeind)
        .arg("kube-manager")
        .file("kubeconfig", &kubeconfig)
        .flag("cluster-name", &options.cluster)
        // As the name of a pod that is started again: it need not wait for its own lease to end.
        .flag("identity", format!("{}{name}", cluster.control_host().name()))
        .flag("status", format!("127.0.0.1:{}", standby.unwrap_or(8108)))
        .flag("pod-subnets", options.pod_subnets.join(","))
        .flag("service-subnets", options.service_subnets.join(","))
        .args(&options.manager_arguments);
    let beside = controller.host.namespace() == cluster.control_host().namespace();
    let line = if beside && !controller.several {
        line.flag("api", format!("http://127.0.0.1:{API_PORT}"))
    } else {
        let Controller { pki, api, .. } = controller;
        line.flag("api", api)
            .file("ca", &pki.join("ca.pem"))
            .file("cert", &pki.join("client.pem"))
            .file("key", &pki.join("client.key"))
    };
    let log = cluster.logs().join(format!("ctl/skein-kube-manager{name}.log"));
    let place = Place::Host(cluster.control_host().clone());
    Daemon::start(&format!("skein-kube-manager{name}"), log, place, line)
}

/// Gives containerd the network's configuration: written aside and renamed, as the runtime watches the folder.
fn configure(node: &KubeNode, options: &NetworkOptions) -> Result<(), ClusterError> {
    let list = json!({
        "cniVersion": "1.0.0",
        "name": "skein",
        // Without a network: what the manager made for the pod.
        "plugins": [{"type": "skein", "clusterName": options.cluster}],
    });
    let folder = node.folder().join("cni-conf");
    let (aside, path) = (folder.join(".skein.new"), folder.join(CONFIGURATION));
    files::write(&aside, format!("{list:#}\n"))?;
    fs::rename(&aside, &path).map_err(|source| ClusterError::file("write", &path, source))
}

fn program(folder: &Path, name: &str) -> Result<PathBuf, ClusterError> {
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(ClusterError::NotBuilt(path)) }
}

/// Whether a daemon's readiness page on a host says yes.
fn answers(host: &Host, port: u16) -> Result<(), String> {
    let answer = host.http(port, "GET", "/readyz", "").map_err(|error| error.to_string())?;
    if answer.status == 200 { Ok(()) } else { Err(answer.body) }
}
