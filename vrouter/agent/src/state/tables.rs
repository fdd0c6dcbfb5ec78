//! What the kernel shall hold, in the agent's terms.

use ipnet::IpNet;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// How packets for a prefix leave.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum NextHop {
    /// A workload of this node.
    Local {
        /// Host end of its interface.
        ifindex: u32,
    },
    /// A workload of another node.
    Tunnel {
        /// That node's tunnel address.
        destination: IpAddr,
        /// How to wrap the packet.
        encapsulation: Encapsulation,
        /// MPLS label, or VNI.
        label: u32,
    },
    /// Several equal ways.
    Ecmp {
        /// Numbers of the members, in order.
        members: Vec<u32>,
    },
}

/// Encapsulations a route can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// RFC 7348, UDP port 4789.
    Vxlan,
    /// RFC 7510, UDP port 6635.
    MplsOverUdp,
    /// RFC 4023.
    MplsOverGre,
}

/// One route: where to, and who lives there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RouteEntry {
    /// Number of the next hop.
    pub next_hop: u32,
    /// Identity of the remote end.
    pub identity: u32,
}

/// What decides about a port's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyState {
    /// No policy is known: drop everything (fail closed).
    Missing,
    /// The owner switched port security off.
    Disabled,
    /// Loaded policies, one a family.
    Loaded {
        /// Number of the IPv4 policy.
        v4: u32,
        /// Number of the IPv6 policy.
        v6: u32,
    },
}

/// One bound port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InterfaceEntry {
    /// virtual-machine-interface.
    pub uuid: Uuid,
    /// Number of its VRF.
    pub vrf: u32,
    /// Label that reaches it from other nodes; also its number in the kernel's tables.
    pub label: u32,
    /// MAC of the workload.
    pub mac: [u8; 6],
    /// IPv4 gateway it may ask for.
    pub gateway4: Option<Ipv4Addr>,
    /// IPv6 gateway it may ask for.
    pub gateway6: Option<Ipv6Addr>,
    /// What decides about its connections.
    pub policy: PolicyState,
    /// Flow quota.
    pub max_flows: u32,
    /// Largest IP packet it takes, in bytes; 0: no limit.
    pub mtu: u32,
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// By index of the host end.
    pub interfaces: BTreeMap<u32, InterfaceEntry>,
    /// By number.
    pub next_hops: BTreeMap<u32, NextHop>,
    /// By VRF number and prefix.
    pub routes: BTreeMap<(u32, IpNet), RouteEntry>,
}
