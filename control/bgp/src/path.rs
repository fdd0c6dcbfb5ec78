//! One way to reach a prefix.

use crate::{RouteDistinguisher, RouteTarget, TunnelType};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Who announced a path: an agent's node name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub Arc<str>);

/// What makes a path the same path when it is announced again.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathKey {
    /// Destination.
    pub prefix: IpNet,
    /// Route distinguisher: vRouter and VRF.
    pub rd: RouteDistinguisher,
    /// Who announced it.
    pub source: Source,
    /// Tells apart several workloads of one node that share an address: their labels.
    pub id: u32,
}

/// LOCAL_PREF of a path whose origin wants nothing else (RFC 4271 section 9.1.1 leaves it to the speaker).
pub const DEFAULT_LOCAL_PREFERENCE: u32 = 100;

/// LOCAL_PREF of a path whose announcer is away: any other way to the prefix is better, but it is better than none
/// (RFC 9494 calls such paths stale).
pub const STALE_LOCAL_PREFERENCE: u32 = 0;

/// A path: RFC 4364 route attributes as far as forwarding and policy need them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Tunnel address of the node that has the workload.
    pub next_hop: IpAddr,
    /// MPLS label; VNI when VXLAN carries the route's label.
    pub label: u32,
    /// Tunnel types the next hop can receive.
    pub tunnels: Vec<TunnelType>,
    /// The prefix is one of the underlay: others there need no tunnel.
    pub native: bool,
    /// Where the path belongs.
    pub route_targets: BTreeSet<RouteTarget>,
    /// Origin virtual network.
    pub network: u32,
    /// Security groups of the workload, sorted.
    pub security_groups: Vec<u32>,
    /// Tags of the workload, sorted.
    pub tags: Vec<u32>,
    /// LOCAL_PREF.
    pub local_preference: u32,
}
