//! A network namespace with a port of the load balancer's network.

use super::commands::run;
use super::config::LoadbalancerConfig;
use serde_json::{Value, json};
use skein_cni::port_api::{Port, PortKey};
use skein_cni::{AgentClient, Request};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// The interface in the namespace.
const INTERFACE: &str = "eth0";
/// The name under which the agent keeps these ports apart from a container runtime's.
const CONFIGURATION: &str = "skein-loadbalancer";

/// The namespace of one load balancer.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    name: String,
    container: String,
    agent: PathBuf,
}

impl Namespace {
    pub(super) fn new(config: &LoadbalancerConfig, balancer: Uuid) -> Self {
        Self {
            name: format!("{}{balancer}", config.namespace_prefix),
            container: format!("lb.{}.{balancer}", config.node),
            agent: config.agent.clone(),
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    fn key(&self) -> PortKey {
        PortKey { container: self.container.clone(), interface: INTERFACE.into() }
    }

    /// Makes what is missing of it: may be repeated at any time. Gives the port.
    pub(super) async fn plug(
        &self,
        network: &str,
        workload: &str,
        address: IpAddr,
    ) -> Result<Uuid, String> {
        let path = self.path();
        if path.exists() && !is_namespace(&path) {
            // Only the name is left of one that ended with the container it was in.
            std::fs::remove_file(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        }
        if !path.exists() {
            run("ip", &["netns", "add", &self.name]).await?;
        }
        run("ip", &["-n", &self.name, "link", "set", "lo", "up"]).await?;
        if self.port().await.is_ok_and(|port| port.network != network) {
            // The address has moved to another network.
            self.unplug().await?;
        }
        self.call("ADD", network, workload).await?;
        let port = self.port().await?;
        self.address(address).await?;
        port.uuid.parse().map_err(|_| format!("the agent calls the port {}", port.uuid))
    }

    /// The port as the agent has it.
    async fn port(&self) -> Result<Port, String> {
        let (agent, key) = (AgentClient::new(&self.agent), self.key());
        aside(move || agent.post("/v1/ports/check", &key).map_err(|error| error.to_string())).await
    }

    /// The load balancer's address, and no other one, on the loopback: the port has an address of its own, by which
    /// members see a standby, too.
    async fn address(&self, wanted: IpAddr) -> Result<(), String> {
        let said = run("ip", &["-j", "-n", &self.name, "addr", "show", "dev", "lo"]).await?;
        let said: Value = serde_json::from_str(&said).unwrap_or_default();
        let present = said[0]["addr_info"].as_array().into_iter().flatten();
        let present = present.filter_map(|one| one["local"].as_str()?.parse::<IpAddr>().ok());
        let mut there = false;
        for address in present.filter(|address| !address.is_loopback()) {
            if address == wanted {
                there = true;
            } else {
                let length = if address.is_ipv4() { 32 } else { 128 };
                let text = format!("{address}/{length}");
                run("ip", &["-n", &self.name, "addr", "del", &text, "dev", "lo"]).await?;
            }
        }
        if !there {
            let (length, more) = if wanted.is_ipv4() { (32, None) } else { (128, Some("nodad")) };
            let text = format!("{wanted}/{length}");
            let mut line = vec!["-n", &self.name, "addr", "add", &text, "dev", "lo"];
            line.extend(more);
            run("ip", &line).await?;
        }
        Ok(())
    }

    async fn call(&self, command: &str, network: &str, workload: &str) -> Result<(), String> {
        let input = json!({
            "cniVersion": "1.1.0", "name": CONFIGURATION, "type": "skein",
            "network": network, "agent": self.agent,
        });
        let (command, container) = (command.to_owned(), self.container.clone());
        let path = self.path().display().to_string();
        // A name for people; CNI has no other place for it.
        let workload: String =
            workload.chars().filter(|c| !matches!(c, ';' | '=') && !c.is_control()).collect();
        aside(move || {
            let variable = |name: &str| match name {
                "CNI_COMMAND" => Some(command.clone()),
                "CNI_CONTAINERID" => Some(container.clone()),
                "CNI_NETNS" => Some(path.clone()),
                "CNI_IFNAME" => Some(INTERFACE.to_owned()),
                "CNI_ARGS" => Some(format!("IgnoreUnknown=1;K8S_POD_NAME={workload}")),
                _ => None,
            };
            let input = input.to_string();
            let request = Request::parse(variable, input.as_bytes());
            let done = request.and_then(|request| skein_cni::execute(&request));
            done.map(drop).map_err(|error| error.to_string())
        })
        .await
    }

    async fn unplug(&self) -> Result<(), String> {
        // The network decides nothing when a port goes; that there is one says that Kubernetes did not make it.
        self.call("DEL", "default-domain:default-project:any", "").await
    }

    /// Process ids in the namespace.
    pub(super) async fn processes(&self) -> Vec<i32> {
        if !is_namespace(&self.path()) {
            return Vec::new();
        }
        let said = run("ip", &["netns", "pids", &self.name]).await.unwrap_or_default();
        said.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Removes it, and the port.
    pub(super) async fn remove(&self) -> Result<(), String> {
        self.unplug().await?;
        if self.path().exists() {
            run("ip", &["netns", "del", &self.name]).await?;
        }
        Ok(())
    }
}

/// Whether a namespace is mounted there: a file by itself is none.
fn is_namespace(path: &Path) -> bool {
    use nix::sys::statfs::{NSFS_MAGIC, statfs};
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Does work on a thread of its own, for entering a namespace changes the thread for good.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("skein-lb-plug".into())
        .spawn(move || drop(done.send(work())))
        .map_err(|error| format!("no thread can be had: {error}"))?;
    outcome.await.unwrap_or_else(|_| Err("the work ended early; see the log above".into()))
}
