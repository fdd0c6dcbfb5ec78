//! The node's way to other nodes: uplinks, tunnel address, MTU.

use crate::{AgentConfig, AgentError};
use ipnet::IpNet;
use skein_cni::links::{Link, Links};
use std::net::IpAddr;

/// VXLAN is the widest of the encapsulations: UDP 8, VXLAN 8, inner Ethernet 14.
const WIDEST_ENCAPSULATION: u32 = 30;

/// What encapsulated packets need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Interfaces encapsulated packets arrive on; the first is the one they leave by.
    pub uplinks: Vec<Link>,
    /// Where other nodes send to.
    pub tunnel_address: IpAddr,
    /// Prefixes that are reached without a router.
    pub on_link: Vec<IpNet>,
}

impl Underlay {
    /// Finds the uplinks and the tunnel address the configuration names or implies.
    ///
    /// # Errors
    /// An interface or address of the configuration does not exist here.
    pub fn find(config: &AgentConfig) -> Result<Self, AgentError> {
        let system = |source: std::io::Error| AgentError::Interface {
            interface: "(all)".into(),
            reason: format!("cannot be listed: {source}"),
        };
        let mut links = Links::open().map_err(system)?;
        let all = links.all().map_err(system)?;
        let addresses = links.addresses().map_err(system)?;
        let uplinks = if config.uplinks.is_empty() {
            let Some(wanted) = config.tunnel_address else {
                return Err(AgentError::Config {
                    field: "uplinks",
                    reason: "name the interface to the underlay, or give `tunnel_address`".into(),
                });
            };
            let holder = addresses.iter().find(|(_, net)| net.addr() == wanted);
            let index = holder.map(|(index, _)| *index).ok_or_else(|| AgentError::Config {
                field: "tunnel_address",
                reason: format!("no interface has {wanted}; see `ip address`"),
            })?;
            all.into_iter().filter(|link| link.index == index).collect()
        } else {
            let find = |name: &String| {
                all.iter().find(|link| link.name == *name).cloned().ok_or_else(|| {
                    AgentError::Interface {
                        interface: name.clone(),
                        reason: "does not exist; correct `uplinks`, see `ip link`".into(),
                    }
                })
            };
            config.uplinks.iter().map(find).collect::<Result<Vec<_>, _>>()?
        };
        let on_uplinks =
            addresses.iter().filter(|(index, _)| uplinks.iter().any(|link| link.index == *index));
        let on_link: Vec<IpNet> = on_uplinks.map(|(_, net)| *net).collect();
        let global = |net: &&IpNet| match net.addr() {
            IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        };
        let implied = || {
            let v4 = on_link.iter().filter(global).find(|net| net.addr().is_ipv4());
            v4.or_else(|| on_link.iter().find(global)).map(IpNet::addr)
        };
        let tunnel_address =
            config.tunnel_address.or_else(implied).ok_or_else(|| AgentError::Config {
                field: "tunnel_address",
                reason: "the uplink has no address other nodes could send to; give it one".into(),
            })?;
        Ok(Self { uplinks, tunnel_address, on_link })
    }

    /// MTU of the underlay in bytes.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.uplinks.iter().map(|link| link.mtu).min().unwrap_or(1500)
    }

    /// MTU for workloads: packets of this size fit the underlay in every encapsulation.
    #[must_use]
    pub fn workload_mtu(&self) -> u32 {
        let outer = if self.tunnel_address.is_ipv4() { 20 } else { 40 };
        self.mtu().saturating_sub(outer + WIDEST_ENCAPSULATION).max(1280)
    }

    /// Index of the interface encapsulated packets leave by.
    #[must_use]
    pub fn exit(&self) -> u32 {
        self.uplinks.first().map_or(0, |link| link.index)
    }

    /// Whether the uplinks are in a network that has the whole prefix.
    #[must_use]
    pub fn is_on_link(&self, prefix: &IpNet) -> bool {
        self.on_link.iter().any(|net| net.contains(prefix))
    }

    /// The remote end itself when it is a neighbour on the uplink: then no route lookup is needed for a packet.
    #[must_use]
    pub fn neighbour(&self, remote: IpAddr) -> Option<IpAddr> {
        self.on_link.iter().any(|net| net.contains(&remote)).then_some(remote)
    }
}
