//! The ports of this node: which container interface is which virtual-machine-interface.

use crate::AgentError;
use crate::files;
use crate::state::Numbers;
use serde::{Deserialize, Serialize};
use skein_cni::port_api::{Port, PortAddress, PortKey};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use uuid::Uuid;

/// A port as it is kept on disk.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PortRecord {
    /// Container and interface.
    pub key: PortKey,
    /// virtual-machine-interface.
    pub uuid: Uuid,
    /// CNI network configuration it came from.
    #[serde(default)]
    pub config: String,
    /// Virtual network.
    pub network: String,
    /// Name for people.
    #[serde(default)]
    pub workload: String,
    /// MAC of the workload's end.
    pub mac: String,
    /// Its addresses.
    pub addresses: Vec<PortAddress>,
    /// Index of the host end, once bound.
    #[serde(default)]
    pub ifindex: Option<u32>,
    /// MTU of the workload's end, once bound.
    #[serde(default)]
    pub mtu: u32,
    /// Its place in a pod, when an orchestrator made its objects: then nothing is released at a controller.
    #[serde(default)]
    pub pod: Option<PodPlace>,
    /// Its addresses are the underlay's.
    #[serde(default)]
    pub underlay: bool,
}

/// The place of a port among those of its pod.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PodPlace {
    /// From 1.
    pub index: u32,
    /// The default route leads through it.
    pub default_route: bool,
}

/// How large packets may be on a workload's interface, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct LinkLimits {
    pub(crate) mtu: u32,
    /// Where no packet needs room for a tunnel.
    pub(crate) underlay_mtu: u32,
    /// Of TCP before it is cut into segments.
    pub(crate) super_packet: u32,
}

impl PortRecord {
    /// Name of the host end.
    #[must_use]
    pub fn host_interface(&self) -> String {
        skein_cni::host_interface_name(&self.key.container, &self.key.interface)
    }

    pub(crate) fn port(&self, limits: LinkLimits, active: bool) -> Port {
        Port {
            key: self.key.clone(),
            uuid: self.uuid.to_string(),
            network: self.network.clone(),
            host_interface: self.host_interface(),
            mac: self.mac.clone(),
            addresses: self.addresses.clone(),
            mtu: if self.underlay { limits.underlay_mtu } else { limits.mtu },
            super_packet: limits.super_packet,
            active,
        }
    }
}

/// A port that is gone here and that a controller has to be told of.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct PendingRelease {
    /// Which port it was.
    pub key: PortKey,
}

/// What the agent must know after a restart besides the controllers' word.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct NodeState {
    /// All ports.
    pub ports: Vec<PortRecord>,
    /// Ports to be released at a controller.
    #[serde(default)]
    pub releases: Vec<PendingRelease>,
    /// Ports that a controller was asked to make and whose answer is not here: what was made for them
    /// has to be released when the answer never comes.
    #[serde(default)]
    pub making: BTreeSet<PortKey>,
    /// Labels and VRF numbers.
    #[serde(default)]
    pub numbers: Numbers,
}

impl NodeState {
    /// File name within the data directory.
    pub const FILE: &'static str = "node.json";

    /// Reads the state of the last run; a missing file is a new node.
    ///
    /// # Errors
    /// The file is there and not readable.
    pub fn load(directory: &Path) -> Result<Self, AgentError> {
        let path = directory.join(Self::FILE);
        let Some(bytes) = files::read(&path)? else { return Ok(Self::default()) };
        serde_json::from_slice(&bytes)
            .map_err(|error| AgentError::Damaged { path, reason: error.to_string() })
    }

    /// Replaces the state on disk.
    ///
    /// # Errors
    /// The disk refused; the old state is still there.
    pub fn save(&self, directory: &Path) -> Result<(), AgentError> {
        let path = directory.join(Self::FILE);
        let bytes = serde_json::to_vec(self).map_err(|error| AgentError::Damaged {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        // A killed agent loses nothing. A machine that loses power loses its workloads with the file.
        files::replace(&path, &bytes, files::Durability::Process)
    }
}

/// Ports by key.
pub(crate) type Ports = BTreeMap<PortKey, PortRecord>;
