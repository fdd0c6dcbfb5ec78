//! The CNI plugin, and the port API it speaks with the agent.
//!
//! A plugin call is: [`Request::parse`] (pure, fuzzed) -> [`execute`] -> JSON on standard output.
//! The plugin makes and removes the veth pair; the agent decides addresses, routes and policy and
//! answers `bind` only when they are in force in the kernel. No async runtime: a call is a handful of
//! system calls, and start-up time is part of every pod's start.

mod agent;
mod commands;
mod config;
mod environment;
mod error;
mod host_link;
mod host_routes;
mod link;
pub mod links;
mod nested;
mod nested_link;
mod netlink;
mod pod;
pub mod pod_api;
pub mod port_api;
mod reply;
mod request;
mod source_route;
mod sysctl;
mod tombstone;
mod uplink_routes;

pub use agent::AgentClient;
pub use commands::execute;
pub use config::NetworkConfig;
pub use environment::{Arguments, Attachment};
pub use error::{Code, Error};
pub use host_link::{HOST_LINK, HOST_LINK_PEER, HostLink};
pub use link::host_interface_name;
pub use reply::SUPPORTED_VERSIONS;
pub use request::{Command, Request};
pub use sysctl::sysctl;
pub use tombstone::{Tombstone, tombstone_directory};
pub use uplink_routes::UplinkRoutes;
