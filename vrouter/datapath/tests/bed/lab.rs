//! Two nodes made of network namespaces, joined by an underlay, with a workload each.

use super::{ip, need_root};
use skein_datapath::*;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub fn exec(namespace: &str, command: &str) -> Command {
    let mut all = Command::new("ip");
    all.args(["netns", "exec", namespace]).args(command.split_whitespace());
    all
}

pub fn run(namespace: &str, command: &str) -> Output {
    exec(namespace, command).output().expect("ip netns exec")
}

/// Does something inside a namespace.
pub fn within<T>(namespace: &str, act: impl FnOnce() -> T) -> T {
    let here = File::open("/proc/thread-self/ns/net").expect("own namespace");
    let there = File::open(format!("/var/run/netns/{namespace}")).expect("namespace");
    let net = nix::sched::CloneFlags::CLONE_NEWNET;
    nix::sched::setns(there, net).expect("enter");
    let result = act();
    nix::sched::setns(here, net).expect("leave");
    result
}

pub struct Node {
    pub name: String,
    pub pod: String,
    pub number: u8,
    pub uplink: u32,
    pub vif: u32,
    pub config: Config,
    pub datapath: Datapath,
}

/// Both nodes; everything goes when it is dropped.
pub struct Lab {
    pub nodes: Vec<Node>,
    pub names: Vec<String>,
    pins: Vec<PathBuf>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        for pin in &self.pins {
            let _ = Datapath::purge(pin);
        }
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Underlay {
    V4,
    V6,
}

impl Underlay {
    pub fn address(self, node: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, node).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, node.into()).into(),
        }
    }
}

pub const POLICY: PolicyId = 1;

impl Lab {
    pub fn new(tag: &str, encapsulation: Encapsulation) -> Self {
        Self::over(Underlay::V4, tag, encapsulation)
    }

    pub fn over(underlay: Underlay, tag: &str, encapsulation: Encapsulation) -> Self {
        need_root();
        let id = format!("sk{}{tag}", std::process::id() % 100_000);
        let mut lab = Self { nodes: vec![], names: vec![], pins: vec![] };
        for number in [1, 2] {
            for name in [format!("{id}-n{number}"), format!("{id}-p{number}")] {
                ip(&format!("netns add {name}"));
                ip(&format!("-n {name} link set lo up"));
                lab.names.push(name);
            }
        }
        let (n1, n2) = (format!("{id}-n1"), format!("{id}-n2"));
        ip(&format!("-n {n1} link add uplink type veth peer name uplink netns {n2}"));
        for number in [1, 2] {
            let node = lab.node(&id, number, underlay, encapsulation);
            lab.nodes.push(node);
        }
        lab
    }

    fn node(
        &mut self,
        id: &str,
        number: u8,
        underlay: Underlay,
        encapsulation: Encapsulation,
    ) -> Node {
        let (name, pod) = (format!("{id}-n{number}"), format!("{id}-p{number}"));
        let mtu = 1500 - Encapsulation::Vxlan.overhead(underlay.address(1));
        ip(&format!("-n {name} addr add 192.0.2.{number}/24 dev uplink"));
        ip(&format!("-n {name} addr add 2001:db8::{number}/64 dev uplink nodad"));
        ip(&format!("-n {name} link set uplink up"));
        ip(&format!("-n {name} link add pod type veth peer name eth0 netns {pod}"));
        ip(&format!("-n {name} link set pod up"));
        ip(&format!("-n {pod} link set eth0 address 02:00:00:00:00:0{number} mtu {mtu} up"));
        ip(&format!("-n {pod} addr add 10.1.0.1{number}/32 dev eth0"));
        ip(&format!("-n {pod} route add 10.1.0.1 dev eth0"));
        ip(&format!("-n {pod} route add default via 10.1.0.1"));
        ip(&format!("-n {pod} addr add fd01::1{number}/128 dev eth0 nodad"));
        ip(&format!("-n {pod} route add default via fe80::5e00:100 dev eth0"));
        let pin_dir = PathBuf::from(format!("/sys/fs/bpf/{name}"));
        self.pins.push(pin_dir.clone());
        let config = Config { flow_table_size: 4096, ..Config::new(pin_dir) };
        let datapath = Datapath::open(&config).expect("open");
        let (uplink, vif) = within(&name, || (super::ifindex("uplink"), super::ifindex("pod")));
        let mut node = Node { name, pod, number, uplink, vif, config, datapath };
        node.fill(underlay, encapsulation);
        node.attach();
        node
    }
}

impl Node {
    pub fn attach(&self) {
        within(&self.name, || {
            self.datapath.attach_uplink(self.uplink).expect("attach");
            self.datapath.attach_workload(self.vif).expect("attach");
        });
    }

    pub fn vif(&self) -> Vif {
        Vif {
            ifindex: self.vif,
            id: 1,
            vrf: 1,
            mac: [2, 0, 0, 0, 0, self.number],
            gateway4: Some(Ipv4Addr::new(10, 1, 0, 1)),
            gateway6: Some(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1)),
            label: 16 + u32::from(self.number),
            policy: VifPolicy::Enforce { v4: Some(POLICY), v6: Some(POLICY) },
            admin_down: false,
            flow_quota: 1000,
            mtu: 0,
            delivery: Delivery::VethPeer,
            host: false,
            vlan: None,
            metadata: None,
            floating: vec![],
        }
    }

    fn fill(&mut self, underlay: Underlay, encapsulation: Encapsulation) {
        let (own, other) = (self.number, 3 - self.number);
        let (vif, record) = (self.vif, self.vif());
        let everything = super::flatten(&skein_policy::Policy::default());
        let remote = NextHop::Tunnel {
            remote: underlay.address(other),
            local: underlay.address(own),
            encapsulation,
            label: 16 + u32::from(other),
            uplink: self.uplink,
            gateway: None,
            mtu: 1500,
        };
        let datapath = &mut self.datapath;
        datapath.load_policy(POLICY, &everything).expect("policy");
        datapath.set_next_hop(1, &NextHop::Local { ifindex: vif, context: 0 }).expect("next hop");
        datapath.set_next_hop(2, &remote).expect("next hop");
        let route = |prefix: String, next_hop| {
            let prefix = prefix.parse().expect("prefix");
            RouteChange::Set(Route { vrf: 1, prefix, next_hop, identity: 7 })
        };
        datapath
            .change_routes(&[
                route(format!("10.1.0.1{own}/32"), 1),
                route(format!("10.1.0.1{other}/32"), 2),
                route(format!("fd01::1{own}/128"), 1),
                route(format!("fd01::1{other}/128"), 2),
            ])
            .expect("routes");
        datapath.set_vif(&record).expect("vif");
        datapath.set_label(16 + u32::from(own), vif, 0).expect("label");
        datapath.add_tunnel_address(underlay.address(own)).expect("address");
        datapath.add_peer(underlay.address(other)).expect("peer");
    }

    /// What an agent does for speed; connections made before do not profit.
    pub fn widen(&self) -> u32 {
        let bytes = within(&self.name, || widen_uplink(self.uplink).expect("uplink"));
        within(&self.pod, || {
            set_super_packet_size(super::ifindex("eth0"), bytes).expect("workload");
        });
        bytes
    }

    pub fn explain(&self) -> String {
        format!("{}: {:?}", self.name, self.datapath.drops())
    }
}

pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn iperf_server(namespace: &str) -> Server {
    let mut command = exec(namespace, "iperf3 -s");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = Server(child.expect("iperf3 is needed (package iperf3)"));
    let deadline = Instant::now() + Duration::from_secs(5);
    while !String::from_utf8_lossy(&run(namespace, "ss -ltn").stdout).contains(":5201") {
        assert!(Instant::now() < deadline, "iperf3 does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

/// Gbit/s received, and the sender's retransmissions.
pub fn parse_iperf(output: &Output) -> (f64, u64) {
    let text = String::from_utf8_lossy(&output.stdout);
    let json: serde_json::Value = serde_json::from_str(&text).expect("iperf3 -J");
    let end = &json["end"];
    let rate = end["sum_received"]["bits_per_second"].as_f64();
    let rate = rate.unwrap_or_else(|| panic!("iperf3: {text}"));
    (rate / 1e9, end["sum_sent"]["retransmits"].as_u64().unwrap_or(0))
}

/// With the congestion control most hosts have, whatever this one has: one that paces its packets (bbr) measures timers.
pub fn iperf(from: &str, to: &str, seconds: u32) -> (f64, u64) {
    let command = format!("iperf3 -J -C cubic -t {seconds} -c {to}");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let output = run(from, &command);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let error = report["error"].as_str().unwrap_or_default();
        // Between two measurements the server takes nobody for a moment.
        let not_yet = ["refused", "busy"].iter().any(|word| error.contains(word));
        if !not_yet || Instant::now() > deadline {
            return parse_iperf(&output);
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

pub fn reaches(lab: &Lab, to: &str) {
    let done = run(&lab.nodes[0].pod, &format!("ping -c 3 -i 0.05 -W 1 {to}"));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let why: Vec<_> = lab.nodes.iter().map(Node::explain).collect();
    assert!(done.status.success(), "{to}: {text} {why:#?}");
}
