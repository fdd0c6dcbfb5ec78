//! What the steps are made of: the cluster with its network, the host beyond its gateway, commands as a user types them,
//! and a line on the screen for each thing that was seen.

use crate::screen::Screen;
use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Balancer, Cluster, ClusterError, KubePod, ProbeOutcome, SkeinNetwork, ask_from, repository,
};
use skein_lab::{Outside, Process, Ran, Upstream, wait_for};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// How long a change may take; it is no measurement.
pub(super) const SETTLED: Duration = Duration::from_secs(20);
/// How long pods may take to be ready.
const PODS_READY: Duration = Duration::from_secs(90);
/// An error is told in so many letters.
const BRIEF: usize = 400;

/// What a step saw: held, or did not, in words.
pub(super) type Seen = Result<String, String>;

/// Where the steps happen.
pub(super) struct Stage<'s> {
    pub(super) screen: &'s mut Screen,
    pub(super) cluster: Cluster,
    pub(super) network: SkeinNetwork,
    /// The gateway and the host beyond it, which serves TCP at port 80.
    pub(super) outside: Outside,
    /// Nodes that carry load balancers.
    pub(super) balancers: Vec<Balancer>,
    /// Pods of the default mode, one a node.
    pub(super) others: Vec<KubePod>,
    /// Where pages are served for clients outside.
    pub(super) page: Option<String>,
    plugins: PathBuf,
    server: Process,
    _upstream: Upstream,
}

impl<'s> Stage<'s> {
    pub(super) fn new(
        screen: &'s mut Screen,
        cluster: Cluster,
        network: SkeinNetwork,
        outside: Outside,
        server: Process,
        upstream: Upstream,
    ) -> Result<Stage<'s>, ClusterError> {
        let plugins = cluster.state().join("plugins");
        let links = || -> std::io::Result<()> {
            std::fs::create_dir_all(&plugins)?;
            symlink(cluster.options().programs.join("skein"), plugins.join("kubectl-skein"))?;
            symlink(cluster.kubectl_program(), plugins.join("kubectl"))
        };
        links().map_err(|source| skein_lab::LabError::File {
            action: "link programs into",
            path: plugins.clone(),
            source,
        })?;
        Ok(Stage {
            screen,
            cluster,
            network,
            outside,
            balancers: Vec::new(),
            others: Vec::new(),
            page: None,
            plugins,
            server,
            _upstream: upstream,
        })
    }

    pub(super) fn head(&mut self, text: &str) {
        self.screen.head(text);
    }

    pub(super) fn fail(&mut self, error: &ClusterError) {
        self.screen.fail(&error.to_string());
    }

    /// A step: what `check` sees becomes a tick or a cross.
    pub(super) fn step(&mut self, text: &str, check: impl FnOnce(&Self) -> Seen) {
        self.screen.begin(text);
        let seen = check(self);
        let held = seen.is_ok();
        let words = seen.unwrap_or_else(|words| words);
        let brief: String = words.chars().take(BRIEF).collect();
        self.screen.end(held, brief.trim());
    }

    /// Runs kubectl as users do, with the plugin on its PATH; paths are those of the repository.
    pub(super) fn kubectl_quietly(&self, arguments: &[&str]) -> Result<Ran, ClusterError> {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(self.plugins.join("kubectl"));
        command
            .current_dir(repository())
            .env("PATH", format!("{}:{path}", self.plugins.display()))
            .env("KUBECONFIG", self.cluster.admin_kubeconfig())
            .env("HOME", self.cluster.state())
            .env("NO_COLOR", "1")
            // The lab's controller and manager are no pods, so there is nothing that kubectl could forward to.
            .env("SKEIN_API", "http://127.0.0.1:8082")
            .env("SKEIN_CONTROLLER", "http://127.0.0.1:8083")
            .env("SKEIN_KUBE_MANAGER", "http://127.0.0.1:8108")
            .args(arguments);
        Ok(self.cluster.control_host().run(&mut command)?)
    }

    /// The same, and shows the command.
    pub(super) fn kubectl(&mut self, arguments: &[&str]) -> Result<Ran, ClusterError> {
        self.screen.command(&line("kubectl", arguments));
        self.kubectl_quietly(arguments)
    }

    /// Runs the CLI where the configuration API is, and shows the command.
    pub(super) fn skein(&mut self, arguments: &[&str]) -> Result<Ran, ClusterError> {
        self.screen.command(&line("skein", arguments));
        let mut command = Command::new(self.cluster.options().programs.join("skein"));
        command.current_dir(repository()).env("NO_COLOR", "1").args(arguments);
        Ok(self.cluster.control_host().run(&mut command)?)
    }

    /// `kubectl apply` of an example.
    pub(super) fn apply(&mut self, name: &str) -> Result<(), ClusterError> {
        self.apply_file(&format!("examples/kubernetes/{name}"))
    }

    /// `kubectl apply` of a file of the repository. A new namespace's accounts and a new definition may not be there at once.
    pub(super) fn apply_file(&mut self, path: &str) -> Result<(), ClusterError> {
        let arguments = ["apply", "-f", path];
        self.screen.command(&line("kubectl", &arguments));
        let stage = &*self;
        wait_for(&format!("{path} to be taken"), SETTLED, || {
            let ran = stage.kubectl_quietly(&arguments).map_err(|error| error.to_string())?;
            ran.success().map_err(|error| error.to_string())
        })?;
        Ok(())
    }

    /// `kubectl delete` of an example, without waiting for its end.
    pub(super) fn remove(&mut self, name: &str) -> Result<(), ClusterError> {
        let path = format!("examples/kubernetes/{name}");
        self.kubectl(&["delete", "--wait=false", "-f", &path])?.success()?;
        Ok(())
    }

    /// A step: these pods get ready. They come in the order of their nodes.
    pub(super) fn ready(
        &mut self,
        text: &str,
        namespace: &str,
        app: &str,
        count: usize,
    ) -> Result<Vec<KubePod>, ClusterError> {
        self.screen.begin(text);
        let selector = format!("app={app}");
        let mut pods = self.cluster.wait_pods(namespace, &selector, count, PODS_READY)?;
        pods.sort_by(|a, b| (&a.node, &a.name).cmp(&(&b.node, &b.name)));
        let addresses: Vec<&str> = pods.iter().take(3).map(|pod| pod.address.as_str()).collect();
        let more = if pods.len() > 3 { ", ..." } else { "" };
        self.screen.end(true, &format!("{}{more}", addresses.join(", ")));
        Ok(pods)
    }

    /// The same without a step, for what is only there to ask.
    pub(super) fn pod(&self, namespace: &str, app: &str) -> Result<KubePod, ClusterError> {
        let mut pods = self.cluster.wait_pods(namespace, &format!("app={app}"), 1, PODS_READY)?;
        Ok(pods.remove(0))
    }

    /// The host beyond the gateway asks.
    pub(super) fn world_asks(
        &self,
        targets: &[String],
        timeout: Duration,
    ) -> Result<Vec<ProbeOutcome>, ClusterError> {
        ask_from(self.outside.world(), &self.cluster.options().programs, targets, timeout)
    }

    /// A service's cluster address with its first port, as a target.
    pub(super) fn service(&self, namespace: &str, name: &str) -> Result<String, ClusterError> {
        let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
        let service = self.cluster.api().get(&path)?;
        let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        Ok(format!("tcp:{address}:{}", service["spec"]["ports"][0]["port"]))
    }

    /// An object of the configuration API by type and name.
    pub(super) fn configured(&self, kind: &str, name: &[&str]) -> Result<Value, String> {
        let host = self.cluster.control_host();
        let ask = |method: &str, path: &str, body: &str| -> Result<Value, String> {
            let answer = host.http(8082, method, path, body).map_err(|error| error.to_string())?;
            if answer.status != 200 {
                return Err(format!("{kind} {}: {}", name.join(":"), answer.body));
            }
            serde_json::from_str(&answer.body).map_err(|error| error.to_string())
        };
        let question = json!({"type": kind, "fq_name": name}).to_string();
        let found = ask("POST", "/fqname-to-id", &question)?;
        let uuid = found["uuid"].as_str().unwrap_or_default();
        Ok(ask("GET", &format!("/{kind}/{uuid}"), "")?[kind].take())
    }

    /// Lets everything live on.
    pub(super) fn detach(self) {
        self.server.detach();
        for balancer in self.balancers {
            balancer.detach();
        }
        self.network.detach();
        self.cluster.detach();
    }
}

/// A command as a shell takes it.
fn line(program: &str, arguments: &[&str]) -> String {
    let quoted = arguments.iter().map(|argument| {
        let plain = argument.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@".contains(c));
        if plain { (*argument).to_owned() } else { format!("'{argument}'") }
    });
    std::iter::once(program.to_owned()).chain(quoted).collect::<Vec<_>>().join(" ")
}
