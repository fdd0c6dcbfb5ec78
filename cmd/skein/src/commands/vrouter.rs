//! `skein vrouter`: a look into one node, as its agent sees it.

mod tables;

use crate::cli::{Global, Output};
use crate::error::Error;
use crate::http::Endpoint;
use crate::screen::{Format, Screen, yaml};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

/// Arguments of `skein vrouter`.
#[derive(Args, Debug)]
#[command(after_help = "\
The agent listens on 127.0.0.1:8085 of its node unless its configuration says otherwise. Run this
on the node, or give --node ADDR (or SKEIN_NODE).

Examples:
  skein vrouter interfaces
  skein vrouter routes --vrf default-domain:shop:front:front
  skein vrouter drops                              why are packets lost, and what to do
  skein vrouter trace --interface web-1 --dst 10.1.2.3 --protocol tcp --dport 80")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    look: Look,
}

#[derive(Debug, Subcommand)]
enum Look {
    /// The agent itself: controllers, tables, problems
    Status(Plain),
    /// Ports of workloads, with addresses, state and counters
    Interfaces(Plain),
    /// Routes in the kernel
    Routes {
        /// Only those of one VRF, by its name
        #[arg(long)]
        vrf: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        output: Output,
    },
    /// Ways out: local interfaces, tunnels, groups of them
    Nexthops(Plain),
    /// Services: where they are reached, and which members connections from this node may get
    Services(Plain),
    /// Live connections, with the rule that let them pass
    Flows {
        /// Only those of one port: uuid, container, workload or host interface
        #[arg(long, value_name = "PORT")]
        interface: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        output: Output,
    },
    /// Dropped packets by reason, and what to do about each
    Drops {
        /// Lists reasons that never happened, too
        #[arg(long, short = 'a')]
        all: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Samples of dropped packets, the newest first
    Events {
        /// Goes on showing new ones
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        output: Output,
    },
    /// What staged policies would change: live connections they would refuse, refused ones they would let pass
    Staged(Plain),
    /// What would happen to a packet that a port sends
    Trace(Trace),
}

#[derive(Args, Debug)]
struct Plain {
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct Trace {
    /// The port that sends: uuid, container, workload or host interface
    #[arg(long, value_name = "PORT")]
    interface: String,
    /// Source address [default: the port's own]
    #[arg(long, value_name = "ADDRESS")]
    src: Option<IpAddr>,
    /// Destination address
    #[arg(long, value_name = "ADDRESS")]
    dst: IpAddr,
    /// tcp, udp, icmp, icmp6, sctp or a number
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp", value_parser = protocol)]
    protocol: u8,
    /// Source port
    #[arg(long, value_name = "PORT", default_value_t = 40000)]
    sport: u16,
    /// Destination port
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    dport: u16,
    #[command(flatten)]
    output: Output,
}

/// Time between two looks of `--follow`.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let screen = global.screen();
    let node = agent(&global.node, global.timeout)?;
    match &arguments.look {
        Look::Status(plain) => {
            let value = node.get("/v1/status", &[]).await?;
            match plain.output.format {
                Format::Json => screen.json(&value),
                _ => screen.write(&yaml(&value)?),
            }
        }
        Look::Interfaces(plain) => {
            let value = node.get("/v1/interfaces", &[]).await?;
            show(screen, plain.output, value, tables::interfaces)
        }
        Look::Nexthops(plain) => {
            let value = node.get("/v1/nexthops", &[]).await?;
            show(screen, plain.output, value, tables::next_hops)
        }
        Look::Services(plain) => {
            let value = node.get("/v1/services", &[]).await?;
            show(screen, plain.output, value, tables::services)
        }
        Look::Routes { vrf, limit, output } => {
            let mut query = Vec::new();
            query.extend(vrf.as_ref().map(|vrf| ("vrf", vrf.clone())));
            query.extend(limit.map(|limit| ("limit", limit.to_string())));
            let value = node.get("/v1/routes", &query).await?;
            show(screen, *output, value, tables::routes)
        }
        Look::Flows { interface, limit, output } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(interface.as_ref().map(|port| ("interface", port.clone())));
            let value = node.get("/v1/flows", &query).await?;
            show(screen, *output, value, tables::flows)
        }
        Look::Drops { all, output } => {
            let mut value = node.get("/v1/drops", &[]).await?;
            if let (false, Some(list)) = (*all, value.as_array_mut()) {
                list.retain(|drop| drop.get("packets").and_then(Value::as_u64) != Some(0));
            }
            show(screen, *output, value, tables::drops)
        }
        Look::Events { follow: false, output } => {
            let value = node.get("/v1/events", &[]).await?;
            show(screen, *output, value, tables::events)
        }
        Look::Events { follow: true, .. } => follow(screen, &node).await,
        Look::Staged(plain) => {
            let value = node.get("/v1/staged", &[]).await?;
            show(screen, plain.output, value, tables::staged)
        }
        Look::Trace(trace) => self::trace(screen, &node, trace).await,
    }
}

/// The agent of a node.
pub(crate) fn agent(address: &str, timeout: Duration) -> Result<Endpoint, Error> {
    let next = "is it running? --node or SKEIN_NODE gives another address; \
                agents listen on their own node's loopback unless configured otherwise";
    Endpoint::new("agent", address, 8085, timeout, next)
}

fn show(
    screen: Screen,
    output: Output,
    value: Value,
    table: fn(&[Value], bool) -> crate::table::Table,
) -> Result<(), Error> {
    let Value::Array(list) = value else {
        let reason = "it is no list".to_owned();
        return Err(Error::Answer { action: "read the agent's table".to_owned(), reason });
    };
    match output.format {
        Format::Json => screen.json(&Value::Array(list)),
        Format::Yaml => screen.write(&yaml(&Value::Array(list))?),
        Format::Table | Format::Wide if list.is_empty() => screen.line("nothing here"),
        Format::Table | Format::Wide => {
            let wide = output.format == Format::Wide;
            screen.write(&table(&list, wide).render(screen))
        }
        Format::Name => Err(Error::usage(
            "-o name is for objects of the config API",
            "use -o table, wide, json or yaml",
        )),
    }
}

/// Polls, because the agent keeps only the newest samples and answers at once.
async fn follow(screen: Screen, node: &Endpoint) -> Result<(), Error> {
    let mut seen: Vec<Value> = Vec::new();
    let mut first = true;
    loop {
        let value = node.get("/v1/events", &[]).await?;
        let events = value.as_array().cloned().unwrap_or_default();
        let fresh: Vec<Value> =
            events.iter().filter(|event| !seen.contains(event)).rev().cloned().collect();
        if !fresh.is_empty() {
            let text = tables::events(&fresh, false).render(screen);
            let skip = if first { 0 } else { text.find('\n').map_or(0, |at| at + 1) };
            screen.write(&text[skip..])?;
            first = false;
        }
        seen = events;
        tokio::time::sleep(FOLLOW_INTERVAL).await;
    }
}

async fn trace(screen: Screen, node: &Endpoint, trace: &Trace) -> Result<(), Error> {
    let src = match trace.src {
        Some(src) => src,
        None => own_address(node, &trace.interface, trace.dst).await?,
    };
    let query = [
        ("interface", trace.interface.clone()),
        ("src", src.to_string()),
        ("dst", trace.dst.to_string()),
        ("proto", trace.protocol.to_string()),
        ("sport", trace.sport.to_string()),
        ("dport", trace.dport.to_string()),
    ];
    let value = node.get("/v1/trace", &query).await?;
    match trace.output.format {
        Format::Json => screen.json(&value),
        Format::Yaml => screen.write(&yaml(&value)?),
        Format::Table | Format::Wide | Format::Name => screen.write(&tables::trace(screen, &value)),
    }
}

/// The port's address of the destination's family.
async fn own_address(node: &Endpoint, port: &str, dst: IpAddr) -> Result<IpAddr, Error> {
    let value = node.get("/v1/interfaces", &[]).await?;
    let fields = ["uuid", "container", "workload", "host_interface"];
    let found = value.as_array().into_iter().flatten().find(|interface| {
        fields.iter().any(|f| interface.get(f).and_then(Value::as_str) == Some(port))
    });
    let Some(found) = found else {
        return Err(Error::NotFound(
            format!("there is no port {port} on this node"),
            "`skein vrouter interfaces` lists them; --node gives another node".to_owned(),
        ));
    };
    let addresses = found.get("addresses").and_then(Value::as_array).into_iter().flatten();
    let own = addresses
        .filter_map(|a| a.as_str()?.split('/').next()?.parse::<IpAddr>().ok())
        .find(|a| a.is_ipv4() == dst.is_ipv4());
    own.ok_or_else(|| {
        Error::usage(
            format!("port {port} has no address of the family of {dst}"),
            "give the source address with --src",
        )
    })
}

fn protocol(text: &str) -> Result<u8, String> {
    match text {
        "icmp" => Ok(1),
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "icmp6" => Ok(58),
        "sctp" => Ok(132),
        _ => text.parse().map_err(|_| "not tcp, udp, icmp, icmp6, sctp or a number to 255".into()),
    }
}
