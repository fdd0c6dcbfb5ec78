//! The peers to compare with: a plain bridge, and a bridge over a VXLAN device (what flannel does).

use crate::{Host, LabError, Pod};

/// What VXLAN over IPv4 costs: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
const VXLAN_OVERHEAD: u16 = 50;

/// A Linux bridge on one host with pods on it.
#[derive(Debug)]
pub struct LocalBridge {
    host: Host,
    bridge: String,
    mtu: u16,
    pods: u8,
}

impl LocalBridge {
    /// Makes the bridge `name` on `host`.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn new(host: &Host, name: &str, mtu: u16) -> Result<Self, LabError> {
        host.ip(&format!(
            "link add {name} mtu {mtu} type bridge forward_delay 0\nlink set {name} up"
        ))?;
        Ok(Self { host: host.clone(), bridge: name.to_owned(), mtu, pods: 0 })
    }

    /// Adds a pod with the given address, "10.250.0.2/24".
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn pod(&mut self, name: &str, address: &str) -> Result<Pod, LabError> {
        let pod = self.host.pod(name)?;
        self.pods += 1;
        let port = format!("{}-{}", self.bridge, self.pods);
        let (mtu, bridge) = (self.mtu, &self.bridge);
        self.host.ip(&format!(
            "link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
             link set {port} master {bridge} up\n",
            pod.namespace()
        ))?;
        pod.ip(&format!("address add {address} dev eth0\nlink set eth0 up\n"))?;
        Ok(pod)
    }

    fn name(&self) -> &str {
        &self.bridge
    }
}

/// Two hosts, each with a bridge and a VXLAN device between them.
#[derive(Debug)]
pub struct BridgeOverVxlan {
    /// The bridge on each host.
    pub sides: [LocalBridge; 2],
}

impl BridgeOverVxlan {
    /// Joins two hosts by VXLAN `vni` on UDP `port`; a port other than 4789 lets it live beside a
    /// fabric that uses that one.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn new(
        hosts: [&Host; 2],
        vni: u32,
        port: u16,
        underlay_mtu: u16,
    ) -> Result<Self, LabError> {
        let mtu = underlay_mtu - VXLAN_OVERHEAD;
        let side = |own: &Host, other: &Host| {
            let bridge = LocalBridge::new(own, &format!("brx{vni}"), mtu)?;
            own.ip(&format!(
                "link add vx{vni} mtu {mtu} type vxlan id {vni} local {} remote {} \
                 dev {} dstport {port} nolearning\n\
                 link set vx{vni} master {} up\n",
                own.ipv4(),
                other.ipv4(),
                own.uplink(),
                bridge.name()
            ))?;
            Ok::<_, LabError>(bridge)
        };
        Ok(Self { sides: [side(hosts[0], hosts[1])?, side(hosts[1], hosts[0])?] })
    }
}
