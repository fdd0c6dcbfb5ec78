//! What would happen to a packet: asked of the same tables that forward.

use crate::introspect::{Answer, find, finish, stopping, unknown_interface};
use crate::node::NodeHandle;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::json;
use std::net::IpAddr;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TraceQuery {
    /// The port that sends: uuid, container, host interface or workload.
    interface: String,
    /// Source address.
    src: IpAddr,
    /// Destination address.
    dst: IpAddr,
    /// IP protocol number.
    #[serde(default = "tcp")]
    proto: u8,
    #[serde(default)]
    sport: u16,
    #[serde(default)]
    dport: u16,
}

fn tcp() -> u8 {
    6
}
