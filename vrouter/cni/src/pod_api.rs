//! The port API's calls about a whole pod, whose interfaces an orchestrator has announced.
//!
//! | call | meaning |
//! |---|---|
//! | `POST /v1/pods/prepare` | [`PreparePod`] -> [`Pod`]: waits for the orchestrator's ports; may be repeated |
//! | `POST /v1/pods/release` | [`PodKey`] -> [`Released`](crate::port_api::Released): all ports of this container; always ends |
//! | `POST /v1/pods/check` | [`PodKey`] -> [`Pod`], or an error that says what is wrong |
//!
//! Machines that are workloads themselves find `prepare` and `check` at a link-local service of their node, for pods on VLANs of
//! their own interfaces: such ports are in force when the answer comes, and say in `nested` where they are.
//!
//! Each port of the node is bound by `/v1/ports/bind`. Nothing is made or removed in the configuration.

use crate::port_api::Port;
use serde::{Deserialize, Serialize};

/// Names a pod's sandbox.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PodKey {
    /// Container id. A restarted pod has another one.
    pub container: String,
}

/// Asks for the ports of a pod.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PreparePod {
    /// Container id.
    pub container: String,
    /// Name of the first interface, unless the orchestrator asks for another one.
    pub interface: String,
    /// Name of the CNI network configuration; garbage collection is scoped by it.
    pub config: String,
    /// virtual-machine uuid, the pod's uid; absent: by name.
    #[serde(default)]
    pub machine: Option<String>,
    /// virtual-machine name, `CLUSTER__NAMESPACE__POD`.
    pub machine_name: String,
    /// Name for people.
    #[serde(default)]
    pub workload: String,
}

/// A pod's ports in order of their index.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Pod {
    /// At least one.
    pub ports: Vec<PodPort>,
}

/// One of a pod's ports.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PodPort {
    /// The port; its key holds the name of the interface.
    pub port: Port,
    /// The pod's default route leads through it.
    pub default_route: bool,
    /// The pod is inside a machine: how its port is reached there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nested: Option<Nested>,
}

/// Where a sub-interface is in its machine.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Nested {
    /// 802.1Q tag of its frames.
    pub vlan: u16,
    /// MAC of the machine's interface that carries them.
    pub parent_mac: String,
}
