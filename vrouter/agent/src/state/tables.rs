//! What the kernel shall hold, in the agent's terms.

use super::port_pools::PortPools;
use ipnet::IpNet;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
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
        /// Its context by which the packets go; 0: its own VRF.
        context: u32,
    },
    /// The address is that of services: the node picks a member and routes to it in their VRF.
    Service {
        /// Number of the VRF.
        vrf: u32,
    },
    /// Nowhere: a prefix in which only what is routed is reached.
    Discard,
    /// Out of the fabric, from the node's own address.
    Outside,
    /// By the underlay without a tunnel, as both ends have addresses there.
    Native {
        /// The node that has the address; `None`: whoever has it.
        node: Option<IpAddr>,
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

impl std::fmt::Display for NextHop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Local { ifindex, .. } => write!(f, "interface {ifindex} of this node"),
            Self::Service { .. } => f.write_str("a member of the service"),
            Self::Discard => f.write_str("nowhere"),
            Self::Outside => f.write_str("out of the fabric, from the node's own address"),
            Self::Native { node: Some(node) } => {
                write!(f, "by the underlay without a tunnel, to node {node}")
            }
            Self::Native { node: None } => {
                f.write_str("by the underlay without a tunnel, to whoever has it")
            }
            Self::Tunnel { destination, encapsulation, label } => {
                write!(f, "tunnel to {destination}, {encapsulation:?}, label {label}")
            }
            Self::Ecmp { members } => write!(f, "one of {} by hash", members.len()),
        }
    }
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
    /// It is the node's own stack.
    pub host: bool,
    /// It is a VLAN on another port's device: host end and tag.
    pub vlan: Option<(u32, u16)>,
    /// By which the node's own services know it.
    pub metadata: Option<Ipv4Addr>,
    /// Contexts whose floating addresses it may open connections from.
    pub floating: Vec<u32>,
}

/// A further VRF of a port; its number is also the label that leads there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ContextEntry {
    /// Host end of the port's interface.
    pub ifindex: u32,
    /// Number of the VRF.
    pub vrf: u32,
    /// What decides about the port's connections there.
    pub policy: PolicyState,
    /// `None`: the port is reached by its own addresses.
    pub floating: Option<FloatingEntry>,
}

/// An address that stands for one of a port's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct FloatingEntry {
    /// Where others see the port.
    pub address: IpAddr,
    /// The port's own address.
    pub fixed: IpAddr,
    /// Who opens the connections.
    pub direction: FloatingDirection,
    /// Protocol, floating port, own port; empty: all.
    pub ports: BTreeSet<(u8, u16, u16)>,
}

/// Who opens connections by a floating address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FloatingDirection {
    /// Either end.
    Both,
    /// The remote end.
    Ingress,
    /// The workload.
    Egress,
}

/// Where a service is reached: VRF number (or [`OUTSIDE`], [`INSIDE`]), address, protocol, port.
pub type ServiceKey = (u32, IpAddr, u8, u16);

/// A service as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceEntry {
    /// Number of the VRF in which members are routed.
    pub member_vrf: u32,
    /// Address, port, and whether it is on its way out. Not all are, as far as the kernel knows.
    pub members: BTreeSet<(IpAddr, u16, bool)>,
    /// How long a client stays with its member; 0: no affinity.
    pub affinity_seconds: u32,
    /// Members see the client's address.
    pub keep_source: bool,
    /// Members are the node itself, or are reached from its address.
    pub link_local: bool,
    /// What workloads ask it passes their policy.
    pub open: bool,
    /// Clients must be in one of these; empty: anyone.
    pub sources: BTreeSet<IpNet>,
    /// At all addresses of nodes, but not of other ones.
    pub by_node: bool,
}

/// In place of a VRF's number: clients outside the fabric.
pub(crate) const OUTSIDE: u32 = skein_datapath::OUTSIDE;
/// In place of a VRF's number: workloads, and the node's own stack, by an address of a node.
pub(crate) const INSIDE: u32 = skein_datapath::INSIDE;

/// What the node lends of itself: its addresses, to packets that leave the fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeEntry {
    /// Its address.
    pub address: IpAddr,
    /// Host end of its own stack's interface.
    pub host: Option<u32>,
    /// Number of a [`NextHop::Outside`].
    pub next_hop: u32,
    /// Its ports that workloads borrow.
    pub pools: PortPools,
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
    /// By number.
    pub contexts: BTreeMap<u32, ContextEntry>,
    /// Where they are reached.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// `None`: nothing leaves the fabric here.
    pub node: Option<NodeEntry>,
    /// Addresses in the underlay that are here, each with the number of the next hop to its workload; 0: of services.
    pub natives: BTreeMap<IpAddr, u32>,
    /// Addresses of nodes, and whether they are this one's.
    pub node_addresses: BTreeMap<IpAddr, bool>,
    /// Seconds for which connections of a protocol and port last without a packet; 0: for ever. Port 0: all of the protocol.
    pub ages: BTreeMap<(u8, u16), u32>,
}
