//! What an agent must be told about its node.

use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Configuration of one agent, readable from TOML. Every field but `node` and `controllers` has a
/// default that suits a machine with one agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AgentConfig {
    /// Name of the virtual-router object; also the subject of the certificate.
    pub node: String,
    /// All controllers as `host:port`, five at most: each has to know every node.
    pub controllers: Vec<String>,
    /// Where other nodes send encapsulated packets; absent: the first global address of the uplink.
    pub tunnel_address: Option<IpAddr>,
    /// Interfaces to the underlay; empty: the one that carries `tunnel_address`.
    pub uplinks: Vec<String>,
    /// Directory of the state that survives a restart: ports, last intent, certificates.
    pub data_dir: PathBuf,
    /// Directory below a BPF file system where programs and maps are pinned.
    pub pin_dir: PathBuf,
    /// Unix socket of the port API.
    pub socket: PathBuf,
    /// Address of the introspection API.
    pub introspection: SocketAddr,
    /// Port, at the tunnel address, where machines of this node ask about workloads inside them, by way of a link-local service;
    /// 0: nowhere.
    pub machine_port: u16,
    /// Certificates made elsewhere; absent: enrol with `join`.
    pub certificates: Option<Certificates>,
    /// Join string `skein1.<secret>.<sha256 of the CA certificate>`.
    pub join: Option<String>,
    /// File that holds the join string.
    pub join_file: Option<PathBuf>,
    /// The name every controller's certificate carries.
    pub server_name: String,
    /// Flow entries one port may hold when its interface names no other quota.
    pub max_flows_per_port: u32,
    /// Seconds without packets after which a flow ends.
    pub flow_idle_seconds: u32,
    /// Sizes of the kernel's tables.
    pub tables: TableConfig,
    /// DNS that the node answers itself.
    pub dns: DnsConfig,
    /// Most bytes of a TCP super-packet (GSO) of a workload, if the uplink takes so many. Absent: as large as helps, but on a veth
    /// uplink the kernel's default of 65,536.
    pub super_packet_bytes: Option<u32>,
}

/// Files of a certificate, all PEM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificates {
    /// Certificates to trust.
    pub ca: PathBuf,
    /// This node's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            node: String::new(),
            controllers: Vec::new(),
            tunnel_address: None,
            uplinks: Vec::new(),
            data_dir: "/var/lib/skein/agent".into(),
            pin_dir: "/sys/fs/bpf/skein".into(),
            socket: "/run/skein/agent.sock".into(),
            introspection: SocketAddr::from(([127, 0, 0, 1], 8085)),
            // The original's.
            machine_port: 9091,
            certificates: None,
            join: None,
            join_file: None,
            server_name: "skein-controller".into(),
            // A pod with 16 thousand connections is busy; a quarter of a default table of 65,536
            // for one port is the most that leaves room for neighbours.
            max_flows_per_port: 16_384,
            // The original's flow_cache_timeout (spec/vrouter.md section 3.3).
            flow_idle_seconds: 180,
            tables: TableConfig::default(),
            dns: DnsConfig::default(),
            super_packet_bytes: None,
        }
    }
}

/// How many entries the kernel's tables have, by their names there. One that is pinned keeps its size until the pins are removed. A
/// table that is full is told of; what does not fit waits, everything else goes on.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// Connections; 272 bytes each, taken at once.
    pub flows: u32,
    /// Routes to single addresses.
    pub host_routes: u32,
    /// Routes to wider prefixes.
    pub prefix_routes: u32,
    /// Ways that routes lead; 160 bytes each, taken at once.
    pub next_hops: u32,
    /// Entries of policies.
    pub policies: u32,
    /// Interfaces of workloads.
    pub vifs: u32,
    /// Further networks of workloads: floating IPs, memberships in services.
    pub contexts: u32,
    /// Services.
    pub services: u32,
    /// Members of services.
    pub members: u32,
}

impl Default for TableConfig {
    fn default() -> Self {
        let usual = skein_datapath::Config::new("");
        Self {
            flows: usual.flow_table_size,
            host_routes: usual.host_route_table_size,
            prefix_routes: usual.prefix_route_table_size,
            next_hops: usual.next_hop_table_size,
            policies: usual.policy_table_size,
            vifs: usual.vif_table_size,
            contexts: usual.context_table_size,
            services: usual.service_table_size,
            members: usual.member_table_size,
        }
    }
}

impl AgentConfig {
    /// What the datapath is opened with.
    pub(crate) fn datapath(&self) -> skein_datapath::Config {
        let TableConfig {
            flows,
            host_routes,
            prefix_routes,
            next_hops,
            policies,
            vifs,
            contexts,
            services,
            members,
        } = self.tables;
        skein_datapath::Config {
            flow_table_size: flows,
            host_route_table_size: host_routes,
            prefix_route_table_size: prefix_routes,
            next_hop_table_size: next_hops,
            policy_table_size: policies,
            vif_table_size: vifs,
            context_table_size: contexts,
            service_table_size: services,
            member_table_size: members,
            ..skein_datapath::Config::new(&self.pin_dir)
        }
    }
}

/// DNS of a node: what virtual DNS servers say, and who is asked for the rest.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// What load balancers' members call the DNS port of a node's own stack. Nothing listens there.
    pub port: u16,
    /// Views are answered at this port of the interface skein0 and those above it, one for each VRF with a virtual DNS server.
    pub first_view_port: u16,
    /// Servers to ask, `address:port`; empty: those of `resolv_conf`.
    pub upstreams: Vec<SocketAddr>,
    /// The node's own resolver's file.
    pub resolv_conf: PathBuf,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            port: 8053,
            // Below the kernel's own choice (32768) and node ports (30000), far from what people number by hand.
            first_view_port: 16_053,
            upstreams: Vec::new(),
            resolv_conf: "/etc/resolv.conf".into(),
        }
    }
}
