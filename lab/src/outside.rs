//! What is beyond the underlay: a router at its edge and a host behind it.

use crate::{Host, Lab, LabError, Pod};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The router's address towards the host beyond it.
const NEAR: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 1), Ipv6Addr::new(0xfd98, 0x51, 0x100, 0, 0, 0, 0, 1));
/// Of the host beyond.
const BEYOND: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 2), Ipv6Addr::new(0xfd98, 0x51, 0x100, 0, 0, 0, 0, 2));

/// A router of the underlay and one host behind it, which knows nothing of fabrics.
#[derive(Debug)]
pub struct Outside {
    gateway: Host,
    world: Pod,
}

impl Outside {
    /// Adds both to a lab.
    ///
    /// # Errors
    /// A command that failed.
    pub fn new(lab: &mut Lab) -> Result<Self, LabError> {
        let mtu = lab.options().mtu;
        let gateway = lab.host("gateway")?;
        let world = gateway.pod("world")?;
        gateway.ip(&format!(
            "link add world mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
             address add {}/24 dev world\n\
             address add {}/64 dev world nodad\n\
             link set world up\n",
            world.namespace(),
            NEAR.0,
            NEAR.1
        ))?;
        world.ip(&format!(
            "address add {}/24 dev eth0\n\
             address add {}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {}\n\
             route add ::/0 via {}\n",
            BEYOND.0, BEYOND.1, NEAR.0, NEAR.1
        ))?;
        Ok(Self { gateway, world })
    }

    /// The router.
    #[must_use]
    pub fn gateway(&self) -> &Host {
        &self.gateway
    }

    /// The host behind it.
    #[must_use]
    pub fn world(&self) -> &Pod {
        &self.world
    }

    /// Addresses of the host behind it.
    #[must_use]
    pub fn addresses(&self) -> (Ipv4Addr, Ipv6Addr) {
        BEYOND
    }

    /// Makes it a host's way out.
    ///
    /// # Errors
    /// A command that failed.
    pub fn leads(&self, host: &Host) -> Result<(), LabError> {
        host.ip(&format!(
            "route replace default via {}\nroute replace ::/0 via {}\n",
            self.gateway.ipv4(),
            self.gateway.ipv6()
        ))
    }

    /// Lets the router look for a prefix's addresses on the underlay itself.
    ///
    /// # Errors
    /// A command that failed.
    pub fn expects(&self, prefix: &str) -> Result<(), LabError> {
        self.gateway.ip(&format!("route replace {prefix} dev {}\n", self.gateway.uplink()))
    }
}
