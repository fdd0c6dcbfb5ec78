//! DNS on a node: the zones of the networks that live there, and what is not theirs asked upstream.
//!
//! [`Zones`] is the core: zones, records and views in memory, changed one record set at a time, and a pure function
//! from a query to a [`Verdict`]: a reply, or the question that somebody else must be asked first. Around it there are the
//! sockets ([`serve`]) and the [`Forwarder`], which asks upstream. Names follow the Kubernetes DNS specification 1.1.0 in zones
//! that are a cluster's; messages are RFC 1034, 1035, 2308 (no such name), 2782 (SRV), 6891 (EDNS) and 7766 (TCP).

mod answer;
mod forward;
mod key;
mod message;
mod metrics;
mod record;
mod server;
mod shared;
mod upstream;
mod zone;
mod zones;

pub use answer::{Forward, Verdict};
pub use forward::{Forwarder, Limits};
pub use message::{Transport, UDP_LIMIT};
pub use metrics::{Metrics, Outcome};
pub use record::{BadRecord, RecordSpec};
pub use server::{Endpoint, serve};
pub use shared::Shared;
pub use upstream::{Upstreams, parse_resolv_conf};
pub use zone::{Next, Order, ZoneSpec};
pub use zones::{RecordSet, Zones};
