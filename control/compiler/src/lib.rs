//! Pure function from the object graph to network intent, with an incremental form.
//!
//! The compiler is a set of small queries over the object graph ([`query`]): what a network is,
//! which networks its policies name, what a security group allows, what a tag firewall says, what an interface needs. A query
//! may read objects and other queries. [`Engine`] remembers every answer and what was read for it;
//! after a change it asks again only what read something that changed, and stops where the answer
//! stays the same. Compiling from nothing is the same code with nothing remembered, so both forms
//! agree; `tests/incremental.rs` holds that for random histories.

mod cluster;
mod context;
mod dns;
mod engine;
mod firewall;
mod host;
mod intent;
mod interface;
mod link_local;
mod network;
mod network_policy;
mod node;
mod port_pools;
mod query;
mod rule;
mod security_group;
mod service;
mod sub_interface;
mod underlay;

pub use context::{Context, Floating, FloatingDirection, PortMapping};
pub use dns::{DnsNext, DnsOrder, DnsRecord, DnsRecordSet, DnsZone};
pub use engine::{Delta, Engine};
pub use intent::{Address, Global, Interface, PolicySet, Subnet, Vrf};
pub use network_policy::{OTHER_NETWORKS, OWN_NETWORK};
pub use node::NodeFacts;
pub use port_pools::PortPool;
pub use service::{Distribution, Member, Service, ServiceSet};
