//! The ports of this node: which container interface is which virtual-machine-interface.

use crate::AgentError;
use crate::files;
use crate::state::Numbers;
use serde::{Deserialize, Serialize};
use skein_cni::port_api::{Port, PortAddress, PortKey};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
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
    /// Which start of the machine this is of, as the kernel calls it.
    #[serde(default)]
    pub boot: String,
}

impl NodeState {
    /// File name within the data directory: what an agent that is killed finds again.
    pub const FILE: &'static str = "node.json";
    /// A copy that is a moment older and survives a loss of power, which takes the workloads with it.
    pub const COPY: &'static str = "node.copy.json";

    /// Reads the state of the last run; without a file this is a new node. `boot` is this start of the machine: the state of another one
    /// may be a moment older than what other nodes know of this one.
    ///
    /// # Errors
    /// The file is there, and neither it nor its copy is readable.
    pub fn load(directory: &Path, boot: &str) -> Result<Self, AgentError> {
        let found = Self::newest(directory)?;
        let is_new = found.is_none();
        let mut state = found.unwrap_or_default();
        if is_new {
            state.numbers.begin_anywhere();
        } else if state.boot != boot {
            state.numbers.skip_forgotten();
        }
        boot.clone_into(&mut state.boot);
        Ok(state)
    }

    fn newest(directory: &Path) -> Result<Option<Self>, AgentError> {
        match Self::read(directory.join(Self::FILE)) {
            Ok(Some(state)) => Ok(Some(state)),
            Ok(None) => Self::read(directory.join(Self::COPY)),
            Err(damaged) => match Self::read(directory.join(Self::COPY)) {
                Ok(Some(copy)) => {
                    tracing::warn!(%damaged, "the copy of the node's state is used");
                    Ok(Some(copy))
                }
                _ => Err(damaged),
            },
        }
    }

    fn read(path: PathBuf) -> Result<Option<Self>, AgentError> {
        let Some(bytes) = files::read(&path)? else { return Ok(None) };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| AgentError::Damaged { path, reason: error.to_string() })
    }

    /// Replaces the state, without a wait for the disk: new pods wait for this.
    ///
    /// # Errors
    /// The disk refused; the old state is still there.
    pub fn save(&self, directory: &Path) -> Result<(), AgentError> {
        self.write(&directory.join(Self::FILE), files::Durability::Process)
    }

    /// Replaces the copy, and waits until it is on the disk.
    ///
    /// # Errors
    /// The disk refused; the old copy is still there.
    pub fn save_copy(&self, directory: &Path) -> Result<(), AgentError> {
        self.write(&directory.join(Self::COPY), files::Durability::Machine)
    }

    fn write(&self, path: &Path, durable: files::Durability) -> Result<(), AgentError> {
        let bytes = serde_json::to_vec(self).map_err(|error| AgentError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        files::replace(path, &bytes, durable)
    }
}

/// Ports by key.
pub(crate) type Ports = BTreeMap<PortKey, PortRecord>;

#[cfg(test)]
mod tests {
    use super::*;

    fn state(releases: &[&str]) -> NodeState {
        let key = |container: &&str| PortKey {
            container: (*container).to_owned(),
            interface: "eth0".to_owned(),
        };
        let releases = releases.iter().map(|one| PendingRelease { key: key(one) }).collect();
        NodeState { releases, boot: "this one".into(), ..NodeState::default() }
    }

    #[test]
    fn what_a_loss_of_power_damages_has_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let load = || NodeState::load(folder, "this one");
        assert_eq!(load().unwrap().releases, [], "a new node");
        state(&["one"]).save_copy(folder).unwrap();
        assert_eq!(load().unwrap(), state(&["one"]), "the file is not there yet");
        state(&["one", "two"]).save(folder).unwrap();
        assert_eq!(load().unwrap(), state(&["one", "two"]));
        let later = NodeState::load(folder, "another").unwrap();
        assert_eq!(later.releases, state(&["one", "two"]).releases);
        assert_ne!(later.numbers, Numbers::default(), "labels that are forgotten are left out");
        std::fs::write(folder.join(NodeState::FILE), b"").unwrap();
        assert_eq!(load().unwrap(), state(&["one"]));
        std::fs::write(folder.join(NodeState::COPY), b"{").unwrap();
        let error = load().unwrap_err().to_string();
        assert!(error.contains(NodeState::FILE), "{error}");
    }
}
