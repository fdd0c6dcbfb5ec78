//! The port API: how a workload's interface is announced to the agent, JSON over a unix socket.
//!
//! | call | meaning |
//! |---|---|
//! | `POST /v1/ports/prepare` | [`Prepare`] -> [`Port`]: addresses and MAC; may be repeated |
//! | `POST /v1/ports/bind` | [`Bind`] -> [`Port`]: answers when forwarding and policy are in force |
//! | `POST /v1/ports/release` | [`PortKey`] -> [`Released`]: always ends; unknown ports are no error |
//! | `POST /v1/ports/check` | [`PortKey`] -> [`Port`], or an error that says what is wrong |
//! | `POST /v1/ports/gc` | [`Gc`] -> [`Released`] |
//! | `GET /v1/ports` | all [`Port`]s |
//! | `GET /v1/ports/status` | 200, or 503 with the reason why new ports would fail |
//!
//! Errors have a 4xx or 5xx status and a [`Failure`] body.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Names a port: one interface of one container.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[serde(deny_unknown_fields)]
pub struct PortKey {
    /// Container id.
    pub container: String,
    /// Interface name inside the container.
    pub interface: String,
}

/// Asks for a port.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// Which port.
    #[serde(flatten)]
    pub key: PortKey,
    /// Name of the CNI network configuration; garbage collection is scoped by it.
    #[serde(default)]
    pub config: String,
    /// The virtual network, fq_name joined by ':'.
    pub network: String,
    /// Name for people, may be empty.
    #[serde(default)]
    pub workload: String,
    /// Wanted addresses; empty: one of each family the network has.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Wanted MAC; absent: allocated.
    #[serde(default)]
    pub mac: Option<String>,
    /// Security groups, fq_names joined by ':'.
    #[serde(default)]
    pub security_groups: Vec<String>,
}

/// Says that the host end of a port's interface exists.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Which port.
    #[serde(flatten)]
    pub key: PortKey,
    /// Index of the host end in the agent's network namespace.
    pub ifindex: u32,
    /// MTU of the workload's end in bytes.
    pub mtu: u32,
}

/// A port as the agent has it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Port {
    /// Which port.
    #[serde(flatten)]
    pub key: PortKey,
    /// Its virtual-machine-interface.
    pub uuid: String,
    /// Its virtual network.
    pub network: String,
    /// Name of the host end.
    pub host_interface: String,
    /// MAC of the workload's interface.
    pub mac: String,
    /// Addresses of the workload's interface.
    pub addresses: Vec<PortAddress>,
    /// MTU of the workload's interface in bytes: the uplink's less the encapsulation.
    pub mtu: u32,
    /// Most bytes of a TCP super-packet (GSO) on the workload's interface, if the kernel can set it; 0: the kernel's default.
    #[serde(default)]
    pub super_packet: u32,
    /// True once it is bound and forwarding.
    pub active: bool,
}

/// One address of a port.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PortAddress {
    /// Host address with the subnet's length, `10.1.1.3/24`.
    pub prefix: IpNet,
    /// The subnet's gateway.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// Garbage collection: what is still in use.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Gc {
    /// Name of the CNI network configuration.
    pub config: String,
    /// Ports to keep; the configuration's others are released.
    pub keep: Vec<PortKey>,
}

/// What was released.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Released {
    /// The ports, with the host interfaces that may still exist.
    pub ports: Vec<Port>,
}

/// Why a call failed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Failure {
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// True when the same call may work a little later.
    #[serde(default)]
    pub retry: bool,
}
