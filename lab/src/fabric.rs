//! A whole Skein fabric on one machine: a controller host, nodes, and workloads attached by the CNI
//! plugin as a container runtime attaches them.

use crate::{
    Attachment, CniError, CniRuntime, Host, Lab, LabError, LabOptions, Outside, Pod, Process, Ran,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where agents connect to the controller.
const AGENT_PORT: u16 = 8084;

/// How long daemons may take to be ready. Release builds need well under a second.
const READY: Duration = Duration::from_secs(20);

/// Why a fabric does not stand.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// The lab underneath.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The CNI plugin.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// A program of Skein's is not where it should be.
    #[error(
        "{0} is missing; build it with `cargo build --release -p skein -p skeind -p skein-cni`"
    )]
    NotBuilt(PathBuf),
    /// A file could not be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An answer has not the expected form.
    #[error("{what}: {reason}")]
    Answer {
        /// Which one.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// How to build a fabric.
#[derive(Clone, Debug)]
pub struct FabricOptions {
    /// Folder with `skeind`, `skein` and `skein-cni`.
    pub programs: PathBuf,
    /// How many nodes.
    pub nodes: usize,
    /// The underlay.
    pub lab: LabOptions,
}

/// A running fabric. Dropping it removes every trace, unless the lab keeps it.
#[derive(Debug)]
pub struct Fabric {
    controller: Process,
    control_host: Host,
    nodes: Vec<Node>,
    options: FabricOptions,
    // Last, so that processes end before their namespaces go.
    lab: Lab,
}

/// A node: a host with an agent.
#[derive(Debug)]
pub struct Node {
    host: Host,
    agent: Process,
    command: Vec<String>,
    plugins: PathBuf,
    skein: PathBuf,
}

/// A workload attached to a network.
#[derive(Debug)]
pub struct Workload {
    /// Its namespace.
    pub pod: Pod,
    /// Its addresses without lengths, IPv4 first.
    pub addresses: Vec<String>,
    runtime: CniRuntime,
    attachment: Attachment,
}

impl Workload {
    /// Its first IPv4 address.
    pub fn ipv4(&self) -> &str {
        self.addresses.iter().find(|a| !a.contains(':')).map_or("", String::as_str)
    }

    /// Its first IPv6 address.
    pub fn ipv6(&self) -> &str {
        self.addresses.iter().find(|a| a.contains(':')).map_or("", String::as_str)
    }

    /// Detaches it, as a runtime does before it removes the container.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn detach(self) -> Result<(), FabricError> {
        self.runtime.del(&self.attachment)?;
        self.pod.remove()?;
        Ok(())
    }

    /// CNI CHECK.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn check(&self) -> Result<(), FabricError> {
        Ok(self.runtime.check(&self.attachment)?)
    }
}

fn program(folder: &Path, name: &str) -> Result<PathBuf, FabricError> {
    let path = folder.join(name);
    if path.is_file() { Ok(path) } else { Err(FabricError::NotBuilt(path)) }
}

impl Fabric {
    /// Builds a fabric and waits until every daemon is ready.
    ///
    /// # Errors
    /// A program is missing, or something did not start; the error quotes its log.
    pub fn start(name: &str, options: FabricOptions) -> Result<Fabric, FabricError> {
        let mut lab = Lab::new(name, options.lab)?;
        let control_host = lab.host("ctl")?;
        let controller = start_controller(&control_host, &options.programs)?;
        let mut fabric = Fabric { controller, control_host, nodes: Vec::new(), options, lab };
        fabric.wait_controller()?;
        for number in 1..=fabric.options.nodes {
            let host = fabric.lab.host(&format!("node{number}"))?;
            let controllers = [format!("{}:{AGENT_PORT}", fabric.control_host.ipv4())];
            let join = fabric.control_host.directory().join("data/pki/join-token");
            let node = Node::start(host, &fabric.options.programs, &controllers, &join)?;
            fabric.nodes.push(node);
        }
        for node in &mut fabric.nodes {
            node.wait_ready()?;
        }
        Ok(fabric)
    }

    fn wait_controller(&mut self) -> Result<(), FabricError> {
        let host = self.control_host.clone();
        Ok(self.controller.wait_ready(READY, || answers(&host, 8083, "/readyz"))?)
    }

    /// The lab underneath.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Adds a router and a host beyond it, and makes it every node's way out.
    ///
    /// # Errors
    /// A command that failed.
    pub fn outside(&mut self) -> Result<Outside, FabricError> {
        let outside = Outside::new(&mut self.lab)?;
        for node in &self.nodes {
            outside.leads(&node.host)?;
        }
        Ok(outside)
    }

    /// The host of the controller.
    pub fn control_host(&self) -> &Host {
        &self.control_host
    }

    /// The controller's process.
    pub fn controller(&mut self) -> &mut Process {
        &mut self.controller
    }

    /// A node, counted from 0.
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    /// A node to do things to, counted from 0.
    pub fn node_mut(&mut self, number: usize) -> &mut Node {
        &mut self.nodes[number]
    }

    /// Runs the CLI on the controller's host, its arguments split at spaces but within quotes.
    ///
    /// # Errors
    /// The program could not be started. Its own failure is in [`Ran`].
    pub fn skein(&self, line: &str) -> Result<Ran, FabricError> {
        let mut command = Command::new(program(&self.options.programs, "skein")?);
        command.args(words(line));
        Ok(self.control_host.run(&mut command)?)
    }

    /// Kills the controller as a crash would.
    ///
    /// # Errors
    /// The process could not be reaped.
    pub fn kill_controller(&mut self) -> Result<(), FabricError> {
        Ok(self.controller.kill()?)
    }

    /// Starts the controller again on its data and waits until it is ready.
    ///
    /// # Errors
    /// It did not start.
    pub fn restart_controller(&mut self) -> Result<(), FabricError> {
        self.controller = start_controller(&self.control_host, &self.options.programs)?;
        self.wait_controller()
    }

    /// Lets everything live on after this value is dropped.
    pub fn detach(self) {
        self.controller.detach();
        for node in self.nodes {
            node.agent.detach();
        }
    }
}

impl Node {
    /// Starts an agent on a host, which joins these controllers, `HOST:PORT` each, by the join string of a file. It may not be
    /// ready yet: [`Node::wait_ready`].
    ///
    /// # Errors
    /// A program is missing, or the agent did not start.
    pub fn start(
        host: Host,
        programs: &Path,
        controllers: &[String],
        join: &Path,
    ) -> Result<Node, FabricError> {
        let folder = host.directory().to_owned();
        // The wires of a lab take what a card takes; the agent cannot know that of a veth.
        let settings = folder.join("agent.toml");
        std::fs::write(&settings, "super_packet_bytes = 196608\n")
            .map_err(|source| FabricError::File { path: settings.clone(), source })?;
        let command = vec![
            program(programs, "skeind")?.display().to_string(),
            "vrouter".into(),
            "--config".into(),
            settings.display().to_string(),
            "--node".into(),
            host.name().to_owned(),
            "--controller".into(),
            controllers.join(","),
            "--tunnel-address".into(),
            host.ipv4().to_string(),
            "--uplink".into(),
            host.uplink().to_owned(),
            "--data".into(),
            folder.join("agent").display().to_string(),
            "--pin-dir".into(),
            host.bpf_directory().join("skein").display().to_string(),
            "--socket".into(),
            folder.join("agent.sock").display().to_string(),
            "--join-file".into(),
            join.display().to_string(),
        ];
        // A plugin's file has the name of its type.
        let plugins = folder.join("cni-bin");
        let link = plugins.join("skein");
        let file = |source| FabricError::File { path: link.clone(), source };
        std::fs::create_dir_all(&plugins).map_err(file)?;
        std::os::unix::fs::symlink(program(programs, "skein-cni")?, &link).map_err(file)?;
        let agent = start_agent(&host, &command)?;
        let skein = program(programs, "skein")?;
        Ok(Node { host, agent, command, plugins, skein })
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The agent's process.
    pub fn agent(&mut self) -> &mut Process {
        &mut self.agent
    }

    /// Process id of the agent.
    pub fn agent_pid(&self) -> u32 {
        self.agent.pid()
    }

    /// Runs the CLI on this node.
    ///
    /// # Errors
    /// The program could not be started. Its own failure is in [`Ran`].
    pub fn skein(&self, line: &str) -> Result<Ran, FabricError> {
        let mut command = Command::new(&self.skein);
        command.args(words(line));
        Ok(self.host.run(&mut command)?)
    }

    /// Kills the agent as a crash would.
    ///
    /// # Errors
    /// The process could not be reaped.
    pub fn kill_agent(&mut self) -> Result<(), FabricError> {
        Ok(self.agent.kill()?)
    }

    /// Starts the agent again and waits until it is ready.
    ///
    /// # Errors
    /// It did not start.
    pub fn restart_agent(&mut self) -> Result<(), FabricError> {
        self.agent = start_agent(&self.host, &self.command)?;
        self.wait_ready()
    }

    /// Starts the agent again as systemd does, which is told by a datagram to this socket when it is ready. Nothing is waited
    /// for.
    ///
    /// # Errors
    /// It did not start.
    pub fn start_agent_notifying(&mut self, socket: &Path) -> Result<(), FabricError> {
        let mut start = Command::new(&self.command[0]);
        start.args(&self.command[1..]).env("NOTIFY_SOCKET", socket);
        self.agent = self.host.spawn("agent", &mut start)?;
        Ok(())
    }

    /// Starts the agent again while no controller runs: waits until it answers, ready or not. It listens only
    /// once the kernel is up to date with what it has saved.
    ///
    /// # Errors
    /// It did not start.
    pub fn start_agent_alone(&mut self) -> Result<(), FabricError> {
        self.agent = start_agent(&self.host, &self.command)?;
        let host = self.host.clone();
        Ok(self.agent.wait_ready(READY, || answers(&host, 8085, "/healthz"))?)
    }

    /// Waits until the agent is ready.
    ///
    /// # Errors
    /// It is not for too long; the error quotes its log.
    pub fn wait_ready(&mut self) -> Result<(), FabricError> {
        let host = self.host.clone();
        Ok(self.agent.wait_ready(READY, || answers(&host, 8085, "/readyz"))?)
    }

    /// A container runtime that attaches workloads of this node to a network.
    ///
    /// # Errors
    /// The plugin is not there.
    pub fn runtime(&self, network: &str) -> Result<CniRuntime, FabricError> {
        let list = json!({
            "cniVersion": "1.1.0",
            "name": network.replace(':', "-"),
            "plugins": [{
                "type": "skein",
                "network": network,
                "agent": self.host.directory().join("agent.sock"),
            }],
        });
        Ok(CniRuntime::new(&self.host, std::slice::from_ref(&self.plugins), list)?)
    }

    /// Makes a namespace and attaches it to a network, as a container runtime does.
    ///
    /// # Errors
    /// What the plugin said.
    pub fn attach(&self, name: &str, network: &str) -> Result<Workload, FabricError> {
        let pod = self.host.pod(name)?;
        let runtime = self.runtime(network)?;
        let attachment = Attachment::new(&format!("{}-{name}", self.host.namespace()), &pod.path());
        let result = match runtime.add(&attachment) {
            Ok(result) => result,
            Err(error) => {
                // As a runtime that gives a sandbox up.
                let _ = runtime.del(&attachment);
                let _ = pod.remove();
                return Err(error.into());
            }
        };
        let addresses = addresses(&result)?;
        Ok(Workload { pod, addresses, runtime, attachment })
    }
}

fn addresses(result: &Value) -> Result<Vec<String>, FabricError> {
    let ips = result["ips"].as_array().ok_or_else(|| FabricError::Answer {
        what: "result of CNI ADD".into(),
        reason: format!("no ips in {result}"),
    })?;
    let mut out: Vec<String> = ips
        .iter()
        .filter_map(|ip| ip["address"].as_str())
        .map(|address| address.split('/').next().unwrap_or_default().to_owned())
        .collect();
    out.sort_by_key(|address| address.contains(':'));
    Ok(out)
}

fn start_controller(host: &Host, programs: &Path) -> Result<Process, FabricError> {
    let mut command = Command::new(program(programs, "skeind")?);
    command
        .arg("all-in-one")
        .arg("--data")
        .arg(host.directory().join("data"))
        .args(["--api", "0.0.0.0:8082"])
        .arg("--listen")
        .arg(format!("0.0.0.0:{AGENT_PORT}"));
    Ok(host.spawn("controller", &mut command)?)
}

fn start_agent(host: &Host, command: &[String]) -> Result<Process, FabricError> {
    let mut start = Command::new(&command[0]);
    start.args(&command[1..]);
    Ok(host.spawn("agent", &mut start)?)
}

/// Whether a daemon's page about itself on this host says yes.
fn answers(host: &Host, port: u16, page: &str) -> Result<(), String> {
    let answer = host.http(port, "GET", page, "").map_err(|error| error.to_string())?;
    if answer.status == 200 { Ok(()) } else { Err(answer.body) }
}

/// Splits a command line at spaces, keeping what stands in single quotes together.
pub(crate) fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            out.push(part.to_owned());
        } else {
            out.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("create policy web --rule 'pass tcp' -o json").len(), 7);
        assert_eq!(words("a 'b c'"), ["a", "b c"]);
    }
}
