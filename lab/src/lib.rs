//! Hosts made of network namespaces, for the demo, the tests and the benchmarks.
//!
//! A [`Lab`] is an underlay - a bridge in a namespace of its own, so that the machine's own namespace
//! stays as it was - and [`Host`]s joined to it by veth pairs. A host runs programs, supervised by
//! [`Process`], and holds [`Pod`]s: bare namespaces that a CNI plugin or a plain bridge connects.
//! Everything carries the lab's name, so an interrupted run is swept away by the next one.
//!
//! [`kubernetes`] makes whole clusters of such hosts.
//!
//! Namespaces are entered by a short-lived thread that switches itself and then spawns: the child
//! inherits the namespace, and no code runs between fork and exec.

mod bridge;
mod cni;
mod command;
mod controllers;
mod error;
mod fabric;
mod host;
mod http;
mod iperf;
mod machine;
mod outside;
mod probe;
mod process;
mod stall;
mod super_packet;
mod topology;
mod transfer;
mod upstream;
mod wait;

pub mod kubernetes;

pub use bridge::{BridgeOverVxlan, LocalBridge};
pub use cni::{Attachment, CniError, CniRuntime};
pub use command::{Ran, require};
pub use controllers::{Cli, Controllers};
pub use error::LabError;
pub use fabric::{Fabric, FabricError, FabricOptions, Node, Workload};
pub use host::{Host, Pod};
pub use http::HttpAnswer;
pub use iperf::{Iperf, Throughput};
pub use machine::{Machine, MachineImage, Said};
pub use outside::Outside;
pub use probe::TcpService;
pub use process::Process;
pub use stall::Stalls;
pub use topology::{Lab, LabOptions};
pub use transfer::{Transfer, TransferReport};
pub use upstream::Upstream;
pub use wait::{wait_for, wait_until};
