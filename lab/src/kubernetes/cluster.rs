//! The cluster as one value.

use super::control_plane::{API_PORT, BootstrapToken, Plan};
use super::node::{self, KubeNode, Prepared};
use super::{Api, Authority, ClusterError, ControlPlane, KubePod, Programs, cgroups, files, image};
use crate::command::run;
use crate::{Controllers, Host, Lab, LabError, LabOptions, Outside, Ran, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// On two busy cores nodes register within 10 s of their start.
const REGISTERED: Duration = Duration::from_secs(90);
const READY: Duration = Duration::from_secs(60);

/// How to build a cluster.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Folder with `skeind`, `skein`, `skein-cni` and `skein-probe`.
    pub programs: PathBuf,
    /// How many nodes.
    pub nodes: usize,
    /// The cluster's files go to a folder below this one: `logs`, which stays, and `state`.
    pub directory: PathBuf,
    /// The underlay.
    pub lab: LabOptions,
    /// More arguments of the API server.
    pub api_server_arguments: Vec<String>,
    /// More arguments of the controller manager.
    pub controller_manager_arguments: Vec<String>,
    /// More arguments of every kubelet.
    pub kubelet_arguments: Vec<String>,
}

impl ClusterOptions {
    /// Three nodes, with the programs of a build folder (`target/release`) and the files beside it
    /// (`target/clusters`).
    #[must_use]
    pub fn new(programs: &Path) -> ClusterOptions {
        ClusterOptions {
            programs: programs.to_owned(),
            nodes: 3,
            directory: programs.parent().unwrap_or(programs).join("clusters"),
            lab: LabOptions::default(),
            api_server_arguments: Vec::new(),
            controller_manager_arguments: Vec::new(),
            kubelet_arguments: Vec::new(),
        }
    }
}

/// A running Kubernetes, without a network for its pods: nodes are Ready once something installs one.
/// Dropping it removes every trace but the logs, unless the lab keeps it.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<KubeNode>,
    /// The control plane.
    pub control_plane: ControlPlane,
    control_host: Host,
    authority: Authority,
    programs: Programs,
    options: ClusterOptions,
    folder: PathBuf,
    // After the processes above, which live in its namespaces.
    lab: Lab,
    _sweep: Sweep,
}

/// Removes what the lab does not know of, after the lab is gone.
#[derive(Debug)]
struct Sweep {
    name: String,
    folder: PathBuf,
    keep: bool,
}

impl Drop for Sweep {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let cleared =
            cgroups::remove(&self.name).and_then(|()| remove_folder(&state(&self.folder)));
        if let Err(error) = cleared {
            tracing::warn!(cluster = self.name, %error, "cluster not removed completely");
        }
    }
}

fn state(folder: &Path) -> PathBuf {
    folder.join("state")
}

fn remove_folder(path: &Path) -> Result<(), LabError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

impl Cluster {
    /// Brings up a control plane and nodes: certificates, TLS bootstrapping by requests that are approved, every
    /// part waited for. What an earlier cluster of this name left is removed first.
    ///
    /// # Errors
    /// A program is missing, or something did not start; the error quotes its log.
    pub fn start(name: &str, options: ClusterOptions) -> Result<Cluster, ClusterError> {
        let programs = Programs::find()?;
        let probe = options.programs.join("skein-probe");
        if !probe.is_file() {
            return Err(ClusterError::NotBuilt(probe));
        }
        Self::remove(name, &options.directory)?;
        let folder = options.directory.join(name);
        files::folder(&folder)?;
        // Namespaces see it by its real path only.
        let folder = folder.canonicalize().map_err(|e| ClusterError::file("find", &folder, e))?;
        remove_folder(&folder.join("logs"))?;
        let (state, logs) = (state(&folder), folder.join("logs"));
        let sweep = Sweep { name: name.to_owned(), folder: folder.clone(), keep: options.lab.keep };
        let mut lab = Lab::new(name, options.lab)?;
        let control_host = lab.host("ctl")?;
        let mut hosts = Vec::new();
        for number in 1..=options.nodes {
            let host = lab.host(&format!("node{number}"))?;
            // As every real node it has a way out; what is beyond the control plane's host is nobody.
            // But no cloud's metadata: kubelets would wait 4 s for it at every start.
            host.ip(&format!(
                "route add default via {}\nroute add prohibit 169.254.169.254/32\n",
                control_host.ipv4()
            ))?;
            hosts.push(host);
        }
        let server = format!("https://{}:{API_PORT}", control_host.ipv4());
        let authority = Authority::new(&state.join("pki"), &server)?;
        let admin = folder.join("state/admin.kubeconfig");
        authority.kubeconfig(&admin, "admin", &["system:masters"])?;
        let images = state.join("images.tar");
        image::build(&probe, &state.join("image"), &images)?;
        let token = BootstrapToken::new()?;
        let plans = hosts.into_iter().map(|host| node::Plan {
            cluster: name,
            folder: state.join(host.name()),
            logs: logs.join(host.name()),
            host,
            programs: &programs,
            authority: &authority,
            images: &images,
            token: token.text(),
            kubelet_arguments: &options.kubelet_arguments,
        });
        let plan = Plan {
            host: &control_host,
            programs: &programs,
            authority: &authority,
            options: &options,
            logs: &logs.join("ctl"),
            admin: &admin,
        };
        // Nodes need no API server until their kubelets start.
        let (control_plane, prepared) = std::thread::scope(|scope| {
            let threads: Vec<_> =
                plans.map(|plan| scope.spawn(move || Prepared::new(plan))).collect();
            let control_plane = ControlPlane::start(&plan);
            let prepared: Vec<_> =
                threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
            (control_plane, prepared)
        });
        let mut control_plane = control_plane?;
        token.register(&control_plane.api)?;
        let mut nodes = Vec::new();
        for prepared in prepared {
            let prepared =
                prepared.map_err(|_| ClusterError::answer("a node's start", "it panicked"))??;
            nodes.push(prepared.join()?);
        }
        control_plane.wait_controllers()?;
        let mut cluster = Cluster {
            nodes,
            control_plane,
            control_host,
            authority,
            programs,
            options,
            folder,
            lab,
            _sweep: sweep,
        };
        cluster.wait_registered()?;
        Ok(cluster)
    }

    /// Removes every trace but the logs of the cluster `name`, whoever made it. `directory` is
    /// [`ClusterOptions::directory`]. Nothing to remove is success.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(name: &str, directory: &Path) -> Result<(), ClusterError> {
        Lab::remove(name)?;
        cgroups::remove(name)?;
        Ok(remove_folder(&state(&directory.join(name)))?)
    }

    /// Waits until every node has registered and serves with a certificate of the cluster's.
    fn wait_registered(&mut self) -> Result<(), ClusterError> {
        let wanted = self.nodes.len();
        let mut broken = None;
        let waited = wait_for("nodes to register", REGISTERED, || {
            self.approve_serving_certificates().map_err(|error| error.to_string())?;
            if let Err(error) = self.nodes.iter_mut().try_for_each(KubeNode::check) {
                broken = Some(error);
                return Ok(());
            }
            // A kubelet that serves by a certificate of its own making answers nobody who checks.
            let serving = |node: &&KubeNode| {
                // A link to a path that only the node knows.
                node.folder().join("kubelet/pki/kubelet-server-current.pem").is_symlink()
            };
            let registered = self.api().list("/api/v1/nodes").map_err(|e| e.to_string())?.len();
            let serving = self.nodes.iter().filter(serving).count();
            if registered == wanted && serving == wanted {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
            Err(format!(
                "{registered} of {wanted} registered, {serving} with a serving certificate; \
                 kubelets' logs are in {}",
                self.logs().display()
            ))
        });
        broken.map_or(Ok(waited?), Err)
    }

    /// Approves kubelets' requests for serving certificates, which Kubernetes leaves to the cluster's operator.
    /// Gives how many there were.
    ///
    /// # Errors
    /// What the API server said.
    pub fn approve_serving_certificates(&self) -> Result<usize, ClusterError> {
        const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
        let mut approved = 0;
        for mut request in self.api().list(REQUESTS)? {
            let open = request["status"]["conditions"].as_array().is_none_or(Vec::is_empty);
            if request["spec"]["signerName"] != "kubernetes.io/kubelet-serving" || !open {
                continue;
            }
            request["status"]["conditions"] = json!([{
                "type": "Approved", "status": "True", "reason": "Lab",
                "message": "every node of the lab is one of ours",
            }]);
            let name = request["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            self.api().replace(&format!("{REQUESTS}/{name}/approval"), &request)?;
            approved += 1;
        }
        Ok(approved)
    }

    /// The lab underneath.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Joins the underlay of another cluster to this one's; their hosts' numbers differ ([`LabOptions::first`]).
    ///
    /// # Errors
    /// A command that failed.
    pub fn join(&self, other: &Cluster) -> Result<(), ClusterError> {
        Ok(self.lab.join(&other.lab)?)
    }

    /// Adds a host to the underlay that is no node.
    ///
    /// # Errors
    /// A command that failed.
    pub fn add_host(&mut self, name: &str) -> Result<Host, ClusterError> {
        Ok(self.lab.host(name)?)
    }

    /// Adds hosts for several controllers, `ctl1` and so on, and starts these.
    ///
    /// # Errors
    /// A command that failed; a program that did not start, with the end of its log.
    pub fn add_controllers(&mut self, count: usize) -> Result<Controllers, ClusterError> {
        let hosts: Result<Vec<Host>, LabError> =
            (1..=count).map(|number| self.lab.host(&format!("ctl{number}"))).collect();
        let folder = self.state().join("etcd");
        Controllers::start(hosts?, &folder, &self.options.programs, &self.logs())
    }

    /// Adds a router at the edge of the underlay and a host beyond it.
    ///
    /// # Errors
    /// A command that failed.
    pub fn outside(&mut self) -> Result<Outside, ClusterError> {
        Ok(Outside::new(&mut self.lab)?)
    }

    /// The host of the control plane.
    #[must_use]
    pub fn control_host(&self) -> &Host {
        &self.control_host
    }

    /// Issues certificates and kubeconfigs for more components.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The options it was built with.
    #[must_use]
    pub fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[KubeNode] {
        &self.nodes
    }

    /// A node to do things to, counted from 0.
    pub fn node_mut(&mut self, number: usize) -> &mut KubeNode {
        &mut self.nodes[number]
    }

    /// The API server, as administrator.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.control_plane.api
    }

    /// Where logs are: `ctl` and the nodes' names are folders in it.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    /// For files that end with the cluster.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        state(&self.folder)
    }

    /// The administrator's kubeconfig; its server is reached from the lab's hosts.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.state().join("admin.kubeconfig")
    }

    /// The program `kubectl`.
    #[must_use]
    pub fn kubectl_program(&self) -> &Path {
        &self.programs.kubectl
    }

    /// Gives every node the images of an archive on this machine.
    ///
    /// # Errors
    /// What a runtime's client said.
    pub fn import_images(&self, archive: &Path) -> Result<(), ClusterError> {
        self.nodes.iter().try_for_each(|node| node.import_images(&self.programs.ctr, archive))
    }

    fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.programs.kubectl);
        command
            .env("KUBECONFIG", self.admin_kubeconfig())
            // Its discovery cache goes where the cluster goes.
            .env("HOME", self.state())
            .args(arguments);
        command
    }

    /// The line that runs kubectl against this cluster in a shell, for people.
    #[must_use]
    pub fn kubectl_line(&self) -> String {
        format!(
            "sudo ip netns exec {} {} --kubeconfig {}",
            self.control_host.namespace(),
            self.programs.kubectl.display(),
            self.admin_kubeconfig().display()
        )
    }

    /// Runs kubectl on the control plane's host.
    ///
    /// # Errors
    /// It could not be started; its own failure is in [`Ran`].
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Ran, ClusterError> {
        Ok(self.control_host.run(&mut self.kubectl_command(arguments))?)
    }

    /// `kubectl apply` of a manifest, YAML or JSON.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn apply(&self, manifest: &str) -> Result<(), ClusterError> {
        self.on_manifest("apply", manifest)
    }

    /// `kubectl delete` of a manifest, without waiting for the end of what is deleted.
    ///
    /// # Errors
    /// What kubectl said.
    pub fn delete(&self, manifest: &str) -> Result<(), ClusterError> {
        let mut command =
            self.kubectl_command(&["delete", "--wait=false", "--ignore-not-found", "-f", "-"]);
        let path = self.control_host.path();
        run(Some(&path), &mut command, Some(manifest.as_bytes()))?.success()?;
        Ok(())
    }

    fn on_manifest(&self, verb: &str, manifest: &str) -> Result<(), ClusterError> {
        let mut command = self.kubectl_command(&[verb, "-f", "-"]);
        let path = self.control_host.path();
        run(Some(&path), &mut command, Some(manifest.as_bytes()))?.success()?;
        Ok(())
    }

    /// `kubectl exec`: over API server and kubelet, as users do it. [`KubePod::run`] is quicker.
    ///
    /// # Errors
    /// It could not be started; its own failure is in [`Ran`].
    pub fn exec(&self, pod: &KubePod, program: &[&str]) -> Result<Ran, ClusterError> {
        let mut arguments = vec!["exec", "-n", &pod.namespace, &pod.name, "--"];
        arguments.extend(program);
        self.kubectl(&arguments)
    }

    /// A container's log, over API server and kubelet.
    ///
    /// # Errors
    /// What the API server said.
    pub fn pod_log(&self, pod: &KubePod) -> Result<String, ClusterError> {
        self.api().text(&format!("/api/v1/namespaces/{}/pods/{}/log", pod.namespace, pod.name))
    }

    /// The pods of a namespace that a label selector (`app=web`) chooses, by name.
    ///
    /// # Errors
    /// What the API server said.
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<KubePod>, ClusterError> {
        let selector = selector.replace('=', "%3D").replace(',', "%2C");
        let path = format!("/api/v1/namespaces/{namespace}/pods?labelSelector={selector}");
        let mut pods: Vec<KubePod> =
            self.api().list(&path)?.into_iter().map(KubePod::read).collect();
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(pods)
    }

    /// Waits until exactly `count` pods are chosen and all are ready.
    ///
    /// # Errors
    /// Time is up; the error tells each missing pod's state and the last event about it.
    pub fn wait_pods(
        &self,
        namespace: &str,
        selector: &str,
        count: usize,
        timeout: Duration,
    ) -> Result<Vec<KubePod>, ClusterError> {
        let what = format!("{count} ready pods of {namespace} with {selector}");
        let waited = wait_for(&what, timeout, || {
            let pods = self.pods(namespace, selector).map_err(|error| error.to_string())?;
            let ready = pods.iter().filter(|pod| pod.ready).count();
            if ready == count && pods.len() == count {
                return Ok(pods);
            }
            std::thread::sleep(Duration::from_millis(20));
            let missing: Vec<_> = pods
                .iter()
                .filter(|pod| !pod.ready)
                .map(|pod| format!("{} on {} is {}", pod.name, pod.node, pod.phase))
                .collect();
            Err(format!("{ready} of {} are ready; {}", pods.len(), missing.join(", ")))
        });
        waited.map_err(|error| match error {
            LabError::Timeout { what, seconds, last } => {
                let events = self.events(namespace).unwrap_or_default().join("\n  ");
                let logs = self.logs();
                let last = format!("{last}; logs in {}; events:\n  {events}", logs.display());
                LabError::Timeout { what, seconds, last }.into()
            }
            other => other.into(),
        })
    }

    /// What events of a namespace say: object, reason and message.
    ///
    /// # Errors
    /// What the API server said.
    pub fn events(&self, namespace: &str) -> Result<Vec<String>, ClusterError> {
        let events = self.api().list(&format!("/api/v1/namespaces/{namespace}/events"))?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(events
            .iter()
            .map(|event| {
                let (about, reason) = (text(&event["involvedObject"]["name"]), &event["reason"]);
                format!("{about}: {}: {}", text(reason), text(&event["message"]))
            })
            .collect())
    }

    /// Waits until every node is Ready, which a network for the pods makes them.
    ///
    /// # Errors
    /// Time is up; the error tells why nodes are not.
    pub fn wait_nodes_ready(&self) -> Result<(), ClusterError> {
        wait_for("nodes to be Ready", READY, || {
            let nodes = self.api().list("/api/v1/nodes").map_err(|error| error.to_string())?;
            let missing: Vec<String> = nodes.iter().filter_map(why_not_ready).collect();
            if missing.is_empty() && nodes.len() == self.nodes.len() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
            let logs = self.logs();
            Err(format!("{}; kubelets' logs are in {}", missing.join("; "), logs.display()))
        })?;
        Ok(())
    }

    /// Starts a kubelet again after it was killed, and waits until it answers and its node is Ready.
    ///
    /// # Errors
    /// The end of its log.
    pub fn restart_kubelet(&mut self, number: usize) -> Result<(), ClusterError> {
        let api = self.api().clone();
        let node = &mut self.nodes[number];
        let path = format!("/api/v1/nodes/{}/proxy/healthz", node.name());
        node.kubelet.start_again()?;
        node.kubelet.wait_ready(READY, || api.text(&path).map(|_| ()))
    }

    /// Kills a node's container runtime and starts it again, and waits until it answers. Containers live on.
    ///
    /// # Errors
    /// The end of its log.
    pub fn restart_runtime(&mut self, number: usize) -> Result<(), ClusterError> {
        let node = &mut self.nodes[number];
        node.containerd.kill()?;
        node.containerd.start_again()?;
        let mut ask = node.command(&self.programs.ctr);
        ask.args(["--address", node::CONTAINERD_SOCKET, "version"]);
        node.containerd.wait_ready(READY, || run(None, &mut ask, None)?.success().map(|_| ()))
    }

    /// Takes a node's power away: every program on it ends, and what was in memory is gone - devices, programs in the
    /// kernel, mounts, containers. Its disk stays. An agent on it is a program of the network's, which must have been
    /// killed before.
    ///
    /// # Errors
    /// Something is left.
    pub fn power_off(&mut self, number: usize) -> Result<(), ClusterError> {
        let node = &mut self.nodes[number];
        node.power_off()?;
        Ok(cgroups::empty(self.lab.name(), node.name())?)
    }

    /// Boots a node that was switched off: container runtime, then the kubelet.
    ///
    /// # Errors
    /// The end of a program's log.
    pub fn boot(&mut self, number: usize) -> Result<(), ClusterError> {
        let (name, ctr) = (self.lab.name().to_owned(), self.programs.ctr.clone());
        self.nodes[number].boot(&name, &ctr)
    }

    /// Lets everything live on after this value is dropped.
    pub fn detach(self) {
        for node in self.nodes {
            node.detach();
        }
        self.control_plane.detach();
    }
}

fn why_not_ready(node: &Value) -> Option<String> {
    let conditions = node["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
    match ready {
        Some(condition) if condition["status"] == "True" => None,
        Some(condition) => Some(format!("{}: {}", node["metadata"]["name"], condition["message"])),
        None => Some(format!("{}: no condition yet", node["metadata"]["name"])),
    }
}
