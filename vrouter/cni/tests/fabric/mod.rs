//! Nodes without a controller: each agent starts from a saved state (headless), which says what a
//! controller would have said. Ports exist in that state; CNI ADD binds them.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a failed step is a failed test")]

use serde_json::{Value, json};
use skein_agent::{AgentConfig, NodeState, PortRecord, saved};
use skein_cni::port_api::{PortAddress, PortKey};
use skein_lab::{CniRuntime, Host, Lab, LabOptions, Pod, wait_for};
use skein_proto::session as wire;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use uuid::Uuid;

/// A workload of the saved state.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Number, from 1: it makes addresses, MAC, label and uuid.
    pub number: u8,
    /// Which host it lives on.
    pub host: usize,
    /// Virtual network: 1 or 2.
    pub network: u8,
}

impl Workload {
    pub fn container(&self) -> String {
        format!("c{}", self.number)
    }

    pub fn uuid(&self) -> Uuid {
        Uuid::from_u128(0x5000 + u128::from(self.number))
    }

    pub fn label(&self) -> u32 {
        100 + u32::from(self.number)
    }

    pub fn mac(&self) -> String {
        format!("02:5e:00:00:00:{:02x}", self.number)
    }

    pub fn ipv4(&self) -> String {
        format!("10.{}.0.{}", self.network, 10 + self.number)
    }

    pub fn ipv6(&self) -> String {
        format!("fd00:{}::{}", self.network, 10 + self.number)
    }

    fn vrf(&self) -> String {
        vrf_name(self.network)
    }
}

fn vrf_name(network: u8) -> String {
    format!("default-domain:test:net{network}:net{network}")
}

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everything within a network.
    SameNetwork,
    /// Everything between the networks, too.
    Open,
    /// The set is named but not there.
    Missing,
}

/// An agent in a host's namespace, on threads of this process.
pub struct Agent {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl Agent {
    pub fn start(host: &Host, config: AgentConfig) -> Self {
        let (stop, stopped) = oneshot::channel();
        let entered = host.clone();
        // Every thread the agent makes inherits the namespace of the one that makes it.
        let thread = std::thread::spawn(move || {
            entered
                .inside(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .map_err(|error| error.to_string())?;
                    let stopped = async {
                        let _ = stopped.await;
                    };
                    let ran = runtime.block_on(skein_agent::run(config, || (), stopped));
                    ran.map_err(|error| error.to_string())
                })
                .map_err(|error| error.to_string())?
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }

    pub fn stop(mut self) {
        self.end().unwrap();
    }

    fn end(&mut self) -> Result<(), String> {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|_| Err("the agent panicked".into()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("agent: {error}");
        }
    }
}

/// Hosts with agents and the workloads that live on them.
pub struct Fabric {
    pub lab: Lab,
    pub hosts: Vec<Host>,
    pub agents: Vec<Option<Agent>>,
    pub workloads: Vec<Workload>,
}

pub struct Setup<'a> {
    pub name: &'a str,
    pub hosts: usize,
    pub workloads: &'a [Workload],
    pub policy: Policy,
    pub encapsulation: wire::Encapsulation,
}

impl Fabric {
    pub fn new(setup: &Setup<'_>) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_test_writer()
            .try_init();
        let mut lab = Lab::new(setup.name, LabOptions::default()).unwrap();
        let hosts: Vec<Host> =
            (0..setup.hosts).map(|index| lab.host(&format!("h{index}")).unwrap()).collect();
        let mut fabric = Self {
            lab,
            agents: hosts.iter().map(|_| None).collect(),
            hosts,
            workloads: setup.workloads.to_vec(),
        };
        for index in 0..fabric.hosts.len() {
            fabric.save_state(index, setup);
            fabric.start_agent(index);
        }
        fabric
    }

    pub fn socket(&self, host: usize) -> PathBuf {
        self.hosts[host].directory().join("agent.sock")
    }

    pub fn start_agent(&mut self, host: usize) {
        let directory = self.hosts[host].directory();
        let config = AgentConfig {
            node: self.hosts[host].name().to_owned(),
            tunnel_address: Some(self.hosts[host].ipv4().into()),
            uplinks: vec![self.hosts[host].uplink().into()],
            data_dir: directory.join("data"),
            pin_dir: self.hosts[host].bpf_directory().join("skein"),
            socket: self.socket(host),
            introspection: SocketAddr::from(([127, 0, 0, 1], 8085)),
            ..AgentConfig::default()
        };
        self.agents[host] = Some(Agent::start(&self.hosts[host], config));
        let socket = self.socket(host);
        wait_for("the agent to answer", Duration::from_secs(10), || {
            skein_cni::AgentClient::new(&socket).get::<Value>("/v1/ports")
        })
        .unwrap();
    }

    pub fn stop_agent(&mut self, host: usize) {
        if let Some(agent) = self.agents[host].take() {
            agent.stop();
        }
    }

    /// A GET of the introspection API.
    pub fn look(&self, host: usize, path: &str) -> Value {
        let mut curl = std::process::Command::new("curl");
        curl.args(["-s", "--max-time", "5", &format!("http://127.0.0.1:8085{path}")]);
        let text = self.hosts[host].run(&mut curl).unwrap().success().unwrap();
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    pub fn runtime(&self, host: usize, version: &str, network: u8) -> CniRuntime {
        let plugin = Path::new(env!("CARGO_BIN_EXE_skein-cni"));
        let directory = self.lab.directory().join("plugins");
        std::fs::create_dir_all(&directory).unwrap();
        let link = directory.join("skein");
        if !link.exists() {
            std::os::unix::fs::symlink(plugin, &link).unwrap();
        }
        let list = json!({"cniVersion": version, "name": format!("net{network}"), "plugins": [{
            "type": "skein",
            "network": format!("default-domain:test:net{network}"),
            "agent": self.socket(host),
        }]});
        CniRuntime::new(&self.hosts[host], &[directory, "/usr/lib/cni".into()], list).unwrap()
    }

    pub fn pod(&self, workload: &Workload) -> Pod {
        self.hosts[workload.host].pod(&workload.container()).unwrap()
    }

    /// Makes a workload's pod and attaches it.
    pub fn attach(&self, workload: &Workload) -> Pod {
        let pod = self.pod(workload);
        let attachment = skein_lab::Attachment::new(&workload.container(), &pod.path());
        self.runtime(workload.host, "1.1.0", workload.network).add(&attachment).unwrap();
        pod
    }

    fn save_state(&self, host: usize, setup: &Setup<'_>) {
        let data = self.hosts[host].directory().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let own = self.workloads.iter().filter(|workload| workload.host == host);
        let ports: Vec<PortRecord> = own.map(port_record).collect();
        let labels: serde_json::Map<String, Value> = self
            .workloads
            .iter()
            .filter(|workload| workload.host == host)
            .map(|workload| (workload.uuid().to_string(), json!(workload.label())))
            .collect();
        let numbers = json!({"vrfs": {"given": {}, "last": 0},
                             "labels": {"given": labels, "last": 200}});
        let state = NodeState {
            ports,
            numbers: serde_json::from_value(numbers).unwrap(),
            // Of this start of the machine: the state of an earlier one would be left behind.
            boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().into(),
            ..NodeState::default()
        };
        state.save(&data).unwrap();
        saved::save(&data, &self.intent(host, setup), &self.routes(setup)).unwrap();
    }

    fn intent(&self, host: usize, setup: &Setup<'_>) -> wire::Intent {
        let interfaces = self.workloads.iter().filter(|w| w.host == host).map(|workload| {
            let gateway = |v6: bool| {
                let network = workload.network;
                if v6 { format!("fd00:{network}::1") } else { format!("10.{network}.0.1") }
            };
            wire::Interface {
                uuid: workload.uuid().to_string(),
                name: format!("default-domain:test:{}", workload.container()),
                vrf: workload.vrf(),
                mac: workload.mac(),
                addresses: vec![
                    wire::Address {
                        prefix: format!("{}/24", workload.ipv4()),
                        gateway: gateway(false),
                    },
                    wire::Address {
                        prefix: format!("{}/64", workload.ipv6()),
                        gateway: gateway(true),
                    },
                ],
                policy: format!("policy{}", workload.network),
                network_id: workload.network.into(),
                ..wire::Interface::default()
            }
        });
        let policies = (1..=2).map(|network| policy_set(network, setup.policy));
        let policies = if setup.policy == Policy::Missing { vec![] } else { policies.collect() };
        wire::Intent {
            revision: 1,
            global: Some(wire::Global {
                encapsulation_priorities: vec![setup.encapsulation as i32],
                ..wire::Global::default()
            }),
            vrfs: (1..=2)
                .map(|network| wire::Vrf {
                    name: vrf_name(network),
                    network: format!("default-domain:test:net{network}"),
                    network_id: network.into(),
                    ..wire::Vrf::default()
                })
                .collect(),
            policies,
            interfaces: interfaces.collect(),
            end_of_snapshot: true,
            ..wire::Intent::default()
        }
    }

    /// Both networks see all workloads: with [`Policy::Open`] the routes are there, and policy decides.
    fn routes(&self, setup: &Setup<'_>) -> wire::Routes {
        let mut reach = Vec::new();
        for vrf in [1, 2] {
            for workload in &self.workloads {
                if workload.network != vrf && setup.policy != Policy::Open {
                    continue;
                }
                let path = wire::Path {
                    next_hop: self.hosts[workload.host].ipv4().to_string(),
                    node: self.hosts[workload.host].name().into(),
                    label: workload.label(),
                    encapsulations: vec![
                        wire::Encapsulation::Vxlan as i32,
                        wire::Encapsulation::MplsOUdp as i32,
                    ],
                    network_id: workload.network.into(),
                    local_preference: 100,
                    ..wire::Path::default()
                };
                for prefix in
                    [format!("{}/32", workload.ipv4()), format!("{}/128", workload.ipv6())]
                {
                    let paths = vec![path.clone()];
                    reach.push(wire::Route { vrf: vrf_name(vrf), prefix, paths });
                }
            }
        }
        let end_of_rib = vec![vrf_name(1), vrf_name(2)];
        wire::Routes { reach, end_of_rib, ..wire::Routes::default() }
    }
}

fn port_record(workload: &Workload) -> PortRecord {
    let network = workload.network;
    let address = |prefix: String, gateway: String| PortAddress {
        prefix: prefix.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
    };
    PortRecord {
        key: PortKey { container: workload.container(), interface: "eth0".into() },
        uuid: workload.uuid(),
        config: format!("net{network}"),
        network: format!("default-domain:test:net{network}"),
        workload: String::new(),
        mac: workload.mac(),
        addresses: vec![
            address(format!("{}/24", workload.ipv4()), format!("10.{network}.0.1")),
            address(format!("{}/64", workload.ipv6()), format!("fd00:{network}::1")),
        ],
        ifindex: None,
        mtu: 0,
        pod: None,
        underlay: false,
    }
}

fn policy_set(network: u8, policy: Policy) -> wire::PolicySet {
    let peer = |network: u8| wire::PolicyPeer {
        peer: Some(wire::policy_peer::Peer::NetworkId(network.into())),
    };
    let remotes = match policy {
        Policy::Open => vec![peer(1), peer(2)],
        _ => vec![peer(network)],
    };
    let rule = wire::PolicyRule {
        id: Uuid::from_u128(0x7000 + u128::from(network)).to_string(),
        pass: true,
        remotes,
        protocol: 256,
        ..wire::PolicyRule::default()
    };
    wire::PolicySet {
        id: format!("policy{network}"),
        staged: vec![],
        layers: vec![wire::PolicyLayer {
            name: "network-policy".into(),
            egress: vec![rule.clone()],
            ingress: vec![rule],
            default_pass: false,
        }],
    }
}
