//! `/v1/trace`: what would happen to a packet.

use crate::introspect::{Answer, Refused, find, finish, stopping, unknown_interface};
use crate::node::NodeHandle;
use crate::state::Question;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use std::net::IpAddr;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceQuery {
    /// The port that sends: uuid, container, host interface or workload.
    interface: String,
    src: IpAddr,
    dst: IpAddr,
    /// `tcp`, `udp`, `icmp`, `icmp6` or a number.
    #[serde(default = "tcp")]
    proto: String,
    #[serde(default)]
    sport: u16,
    /// ICMP: type and code as `type << 8 | code`.
    #[serde(default)]
    dport: u16,
}

fn tcp() -> String {
    "tcp".into()
}

pub(crate) async fn trace(
    State(node): State<NodeHandle>,
    Query(query): Query<TraceQuery>,
) -> Answer {
    let protocol = match query.proto.as_str() {
        "icmp" => 1,
        "tcp" => 6,
        "udp" => 17,
        "icmp6" | "icmpv6" => 58,
        other => other.parse().map_err(|_| {
            let message = format!("proto: `{other}` is not tcp, udp, icmp, icmp6 or 0 to 255");
            Refused(StatusCode::BAD_REQUEST, message)
        })?,
    };
    if query.src.is_ipv4() != query.dst.is_ipv4() {
        let message = "dst: source and destination are of different families".into();
        return Err(Refused(StatusCode::BAD_REQUEST, message));
    }
    let name = query.interface.clone();
    let looked = node.ask(move |node| {
        let ifindex = find(node, &query.interface)?.0;
        let walked = node.core.trace(&Question {
            ifindex,
            source: query.src,
            destination: query.dst,
            protocol,
            source_port: query.sport,
            destination_port: query.dport,
        });
        // The kernel's own tables are asked too: a difference between the two is a bug to report.
        let kernel = node.kernel.datapath.trace(&skein_datapath::Question {
            ifindex,
            direction: skein_policy::Direction::Egress,
            local: query.src,
            remote: query.dst,
            protocol,
            source_port: query.sport,
            destination_port: query.dport,
        });
        Some(kernel.map(|kernel| {
            json!({
                "passes": walked.passes,
                "steps": walked.steps,
                "kernel": {
                    "dropped": kernel.dropped.map(skein_datapath::DropReason::name),
                    "do": kernel.dropped.map(skein_datapath::DropReason::action),
                    "next_hop": kernel.next_hop.map(|(number, _)| number),
                    "identity": kernel.identity,
                    "rule": kernel.rule.and_then(|rule| node.core.decision(rule)?.rule),
                    "live_flow": kernel.flow.is_some(),
                },
            })
        }))
    });
    let looked = looked.await.ok_or_else(stopping)?.ok_or_else(|| unknown_interface(&name))?;
    finish(Some(looked))
}
