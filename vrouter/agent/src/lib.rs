//! The node agent: interfaces, routes, policy and the port API.
//!
//! `skeind vrouter` calls [`run`]. Inside, one thread owns all state (`node`): it feeds what controllers,
//! the port API and the kernel say into the core without I/O ([`state`]) and carries the core's operations into
//! the datapath (`kernel`). Everything else - sessions, servers, watchers - only sends that thread messages.

mod announce;
mod config;
mod dns;
mod enroll;
mod error;
mod exhaustion;
mod files;
mod health_port;
mod host;
mod host_ports;
mod introspect;
mod kernel;
mod look;
mod node;
mod pod_service;
mod port_service;
mod port_times;
mod ports;
mod run;
pub mod saved;
mod session;
mod staged;
pub mod state;
mod steering;
mod tls;
mod trace;
mod underlay;
mod vm_service;

pub use config::{AgentConfig, Certificates, DnsConfig, TableConfig};
pub use enroll::JoinString;
pub use error::AgentError;
pub use ports::{NodeState, PendingRelease, PodPlace, PortRecord};
pub use run::run;
pub use underlay::Underlay;
