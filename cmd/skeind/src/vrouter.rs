//! The vRouter role: one node's agent.

use crate::all_in_one::RoleError;
use crate::{notify, settings, shutdown};
use clap::Args;
use skein_agent::AgentConfig;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Flags of `skeind vrouter`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Settings file (TOML); flags and variables win over it
    #[arg(long, value_name = "FILE", env = "SKEIN_CONFIG")]
    config: Option<PathBuf>,
    /// Controllers; all of them; may be given more than once [for example 10.0.0.1:8084]
    #[arg(
        long = "controller",
        value_name = "ADDR:PORT",
        env = "SKEIN_CONTROLLERS",
        value_delimiter = ','
    )]
    controllers: Vec<String>,
    /// Name of this node [default: the host's name]
    #[arg(long, env = "SKEIN_NODE_NAME")]
    node: Option<String>,
    /// Address where other nodes send encapsulated packets [default: the uplink's]
    #[arg(long, value_name = "ADDR", env = "SKEIN_TUNNEL_ADDRESS")]
    tunnel_address: Option<IpAddr>,
    /// Interface to the underlay; may be given more than once [default: the tunnel address's]
    #[arg(long = "uplink", value_name = "INTERFACE", env = "SKEIN_UPLINKS", value_delimiter = ',')]
    uplinks: Vec<String>,
    /// Directory of the state that survives a restart [default: /var/lib/skein/agent]
    #[arg(long, value_name = "DIR", env = "SKEIN_DATA")]
    data: Option<PathBuf>,
    /// Directory on a BPF file system for programs and maps [default: /sys/fs/bpf/skein]
    #[arg(long, value_name = "DIR", env = "SKEIN_PIN_DIR")]
    pin_dir: Option<PathBuf>,
    /// Unix socket of the port API that the CNI plugin uses [default: /run/skein/agent.sock]
    #[arg(long, value_name = "PATH", env = "SKEIN_SOCKET")]
    socket: Option<PathBuf>,
    /// Where the node is inspected over HTTP [default: 127.0.0.1:8085]
    #[arg(long, value_name = "ADDR:PORT", env = "SKEIN_INTROSPECTION")]
    introspection: Option<SocketAddr>,
    /// File with the join string, as the controller keeps it in pki/join-token
    #[arg(long, value_name = "FILE", env = "SKEIN_JOIN_FILE")]
    join_file: Option<PathBuf>,
    /// DNS server to ask for names that are nobody's here; may be given more than once [default: those of /etc/resolv.conf]
    #[arg(
        long = "dns-upstream",
        value_name = "ADDR:PORT",
        env = "SKEIN_DNS_UPSTREAMS",
        value_delimiter = ','
    )]
    dns_upstreams: Vec<SocketAddr>,
}

/// Runs until SIGTERM or SIGINT; the datapath goes on forwarding.
pub(crate) fn run(flags: Flags) -> Result<(), RoleError> {
    let mut config: AgentConfig = settings::read(flags.config.as_deref())?;
    // A secret does not belong on a command line, where every user of the machine can read it.
    if let Ok(join) = std::env::var("SKEIN_JOIN") {
        config.join = Some(join);
    }
    if !flags.controllers.is_empty() {
        config.controllers = flags.controllers;
    }
    if !flags.dns_upstreams.is_empty() {
        config.dns.upstreams = flags.dns_upstreams;
    }
    if !flags.uplinks.is_empty() {
        config.uplinks = flags.uplinks;
    }
    if let Some(node) = flags.node {
        config.node = node;
    } else if config.node.is_empty() {
        config.node = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_default();
    }
    config.tunnel_address = flags.tunnel_address.or(config.tunnel_address);
    config.join_file = flags.join_file.or(config.join_file);
    if let Some(data) = flags.data {
        config.data_dir = data;
    }
    if let Some(pin_dir) = flags.pin_dir {
        config.pin_dir = pin_dir;
    }
    if let Some(socket) = flags.socket {
        config.socket = socket;
    }
    if let Some(introspection) = flags.introspection {
        config.introspection = introspection;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(RoleError::Runtime)?;
    runtime.block_on(async {
        skein_agent::run(config, || notify::notify("READY=1"), shutdown::requested()).await
    })?;
    Ok(())
}
