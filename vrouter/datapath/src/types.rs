//! The objects an agent puts into the datapath.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Number of a workload interface: chosen by the agent, not 0, not given to another interface while flows of the first
/// may live ([`crate::Datapath::remove_vif`] ends them). Unlike an ifindex it never means two things.
pub type VifId = u32;
/// Number of a VRF, 1 to 65,535.
pub type VrfId = u32;
/// Number of a next hop; 0 discards.
pub type NextHopId = u32;
/// Number of a loaded policy, not 0. Load a changed policy under a new number and switch interfaces to it: live flows are
/// judged again on their next packet. Unload the old one when no interface has it.
pub type PolicyId = u32;

/// MAC address under which every workload sees its gateway.
pub const GATEWAY_MAC: [u8; 6] = [0x00, 0x00, 0x5e, 0x00, 0x01, 0x00];
/// Link-local address of every IPv6 gateway.
pub const GATEWAY_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x5e00, 0x0100);

/// A workload interface, known by the host end's ifindex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vif {
    /// Index of the host end. A VLAN sub-interface, which has no device, has [`crate::sub_interface`] of its id.
    pub ifindex: u32,
    /// Its number.
    pub id: VifId,
    /// Where its packets are routed.
    pub vrf: VrfId,
    /// MAC of the workload's end.
    pub mac: [u8; 6],
    /// Gateway address the vRouter answers for.
    pub gateway4: Option<Ipv4Addr>,
    /// Same for IPv6, besides [`GATEWAY_LINK_LOCAL`].
    pub gateway6: Option<Ipv6Addr>,
    /// Label other nodes use for it; informative here, [`crate::Datapath::set_label`] makes it work.
    pub label: u32,
    /// What may pass.
    pub policy: VifPolicy,
    /// Nothing passes.
    pub admin_down: bool,
    /// Flows it may have at a time, whichever end opened them. A remote may have opened as many of them as there is room left:
    /// half of the quota if it is the only one.
    pub flow_quota: u32,
    /// Largest IP packet delivered to it; 0: no limit.
    pub mtu: u32,
    /// How packets get in.
    pub delivery: Delivery,
    /// The node's own stack. What it opens to workloads of this node passes their policy, and it is not answered for addresses
    /// of its own. Its device is one end of a veth pair in the host's namespace: [`Delivery::Transmit`].
    pub host: bool,
    /// The device it shares and the tag by which its frames are known there; `None`: it has a device of its own. Frames
    /// leave by [`Delivery::Transmit`], whatever `delivery` says.
    pub vlan: Option<Vlan>,
    /// By which link-local services on this node know it ([`crate::Service::link_local`]); `None`: it reaches none.
    pub metadata: Option<Ipv4Addr>,
    /// Contexts with a floating address from which it opens connections that its own VRF has no route, or a shorter
    /// one, for; at most 8, the first fitting one of the longest prefix is taken.
    pub floating: Vec<crate::ContextId>,
}

/// Which tagged frames belong to a sub-interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vlan {
    /// Index of the host end of the device, which another interface has.
    pub device: u32,
    /// Its 802.1Q tag: 1 to 4094.
    pub tag: u16,
}

/// The number that stands for a sub-interface wherever an interface is named by its device's index.
#[must_use]
pub fn sub_interface(id: VifId) -> u32 {
    crate::abi::SUB_INTERFACE | id
}

/// The policy of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VifPolicy {
    /// Judge by these loaded policies; a family without one drops with [`crate::DropReason::NoPolicy`].
    Enforce {
        /// For IPv4.
        v4: Option<PolicyId>,
        /// For IPv6.
        v6: Option<PolicyId>,
    },
    /// Port security is off: no policy, no flows, no source checks.
    Disabled,
}

/// How packets enter a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The interface is one end of a veth pair whose other end is the workload's: straight into its namespace.
    VethPeer,
    /// Anything else (tap): transmit on it.
    Transmit,
}

/// Tunnel formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encapsulation {
    /// VXLAN (RFC 7348), port 4789; the VNI carries the label.
    Vxlan,
    /// MPLS over UDP (RFC 7510), port 6635; 51234 is accepted as well.
    MplsOverUdp,
    /// MPLS over GRE (RFC 4023).
    MplsOverGre,
}

impl Encapsulation {
    /// Bytes it adds to an inner IP packet, for an outer header of the family of `remote`.
    #[must_use]
    pub fn overhead(self, remote: IpAddr) -> u32 {
        let outer = if remote.is_ipv4() { 20 } else { 40 };
        outer
            + match self {
                Self::Vxlan => 8 + 8 + 14,
                Self::MplsOverUdp => 8 + 4,
                Self::MplsOverGre => 4 + 4,
            }
    }
}

/// Where packets of a route go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Nowhere.
    Discard,
    /// To a local workload.
    Local {
        /// Host end's index.
        ifindex: u32,
        /// By which context of the workload; 0: in its own VRF.
        context: crate::ContextId,
    },
    /// To another node or a gateway.
    Tunnel {
        /// Its tunnel address; also the source accepted from it.
        remote: IpAddr,
        /// Our tunnel address.
        local: IpAddr,
        /// Format.
        encapsulation: Encapsulation,
        /// Label the other side gave to the route, 20 bits; for VXLAN up to 24 bits.
        label: u32,
        /// Interface of the underlay it leaves by.
        uplink: u32,
        /// Underlay router on that interface; `None`: the kernel's routing table is asked for every packet (about
        /// 100 ns), which follows route changes without anyone telling us.
        gateway: Option<IpAddr>,
        /// MTU of the underlay path, outer IP header included.
        mtu: u32,
    },
    /// Services: the address is one at which services of a VRF are reached. The node picks a member, translates, and routes
    /// to the member in that VRF.
    Service {
        /// Whose services.
        vrf: VrfId,
    },
    /// Out of the fabric by the uplink, from the node's own address and one of its ports ([`crate::NodeAddress`]).
    Outside {
        /// Interface of the underlay.
        uplink: u32,
        /// Router on it; `None`: as the kernel's routing table says for this interface.
        gateway: Option<IpAddr>,
        /// Largest IP packet.
        mtu: u32,
    },
    /// By the uplink as it is, without a tunnel: both ends have addresses of the underlay. Untunnelled packets from there are taken
    /// from whom such a route leads to.
    Native {
        /// Interface of the underlay.
        uplink: u32,
        /// The node that has the address; `None`: whoever has it is found by the underlay's means.
        node: Option<IpAddr>,
        /// Router on the uplink, or that node; `None`: as the kernel's routing table says for this interface.
        gateway: Option<IpAddr>,
        /// Largest IP packet.
        mtu: u32,
    },
    /// Several; a flow picks one by hash and stays with it while it is a member.
    Composite {
        /// 1 to 16 ids of [`NextHop::Local`] or [`NextHop::Tunnel`].
        members: Vec<NextHopId>,
    },
}

/// A route of a VRF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Table.
    pub vrf: VrfId,
    /// Destination.
    pub prefix: IpNet,
    /// Where to.
    pub next_hop: NextHopId,
    /// Who is there ([`skein_policy::Identities`]); 0: anyone.
    pub identity: u32,
}

/// A step of a route update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteChange {
    /// Add or replace.
    Set(Route),
    /// Take away; no error if it is not there.
    Remove {
        /// Table.
        vrf: VrfId,
        /// Destination.
        prefix: IpNet,
    },
}

/// Which connections to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Only of this interface.
    pub vif: Option<VifId>,
    /// At most this many; 0: all.
    pub limit: usize,
}

/// A connection of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Whose.
    pub vif: VifId,
    /// The workload's address.
    pub local: IpAddr,
    /// The other end's.
    pub remote: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// The workload's port; ICMP: the identifier.
    pub local_port: u16,
    /// The other end's port; ICMP echo: 8 when the workload asks, 0 when it answers (ICMPv6: 128, 129).
    pub remote_port: u16,
    /// Who opened it.
    pub direction: skein_policy::Direction,
    /// Policy it was last judged under; 0 never.
    pub policy: PolicyId,
    /// The other end's identity.
    pub identity: u32,
    /// Rule that let it pass ([`skein_policy::RuleBook`]).
    pub rule: u32,
    /// Where its packets leave to.
    pub next_hop: NextHopId,
    /// TCP: SYN seen 1, established 2, FIN from the workload 4, FIN to it 8, RST 16.
    pub tcp_state: u8,
    /// Packets from the workload.
    pub packets_out: u64,
    /// Bytes (IP length) from the workload.
    pub bytes_out: u64,
    /// Packets to the workload.
    pub packets_in: u64,
    /// Bytes to the workload.
    pub bytes_in: u64,
    /// Nanoseconds since its last packet.
    pub idle_ns: u64,
    /// Context of the interface by which it goes; 0: its own VRF.
    pub context: crate::ContextId,
    /// How it looks to the other end, if not as above.
    pub translated: Option<Translated>,
}

/// The addresses of a translated connection outside its workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// What the workload's address becomes.
    pub local: IpAddr,
    /// What the workload's port becomes.
    pub local_port: u16,
    /// The other end's real address.
    pub remote: IpAddr,
    /// The other end's real port.
    pub remote_port: u16,
}

/// When connections are forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Without a packet for so long.
    pub idle: std::time::Duration,
    /// The same of an exchange without TCP or SCTP, as long as not both ends have sent, or all of it took less than two seconds: a name
    /// that was looked up.
    pub brief: std::time::Duration,
    /// The same after FIN from both ends or RST.
    pub closed: std::time::Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        // 180 s is what users of the original know (spec section 3.3).
        Self {
            idle: std::time::Duration::from_secs(180),
            // As Linux has it (nf_conntrack_udp_timeout); Cilium's 60 s are for all of UDP.
            brief: std::time::Duration::from_secs(30),
            closed: std::time::Duration::from_secs(5),
        }
    }
}

/// Connections that age otherwise than [`Timeouts`] say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age {
    /// IP protocol.
    pub protocol: u8,
    /// One of their ports; of an entry for the opener's port and one for the other's, the former counts. 0: all of the protocol
    /// whose ports have no entry.
    pub port: u16,
    /// Without a packet for so long; `None`: for ever. Closed ones go as all do.
    pub idle: Option<std::time::Duration>,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Flows left.
    pub live: u64,
    /// Flows forgotten.
    pub removed: u64,
}

/// Counters of one interface, from the workload's point of view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VifCounters {
    /// Packets forwarded from it.
    pub packets_out: u64,
    /// Bytes (IP length) forwarded from it.
    pub bytes_out: u64,
    /// Packets delivered to it.
    pub packets_in: u64,
    /// Bytes delivered to it.
    pub bytes_in: u64,
    /// Flows it has now.
    pub flows: u32,
    /// Packets dropped, by reason, without zeros.
    pub drops: Vec<(crate::DropReason, u64)>,
}

/// Something worth telling a person, at most 100 a second and interface for each of three kinds: refused by policy, quota,
/// share of a quota or table full, forged source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Monotonic clock, nanoseconds.
    pub time_ns: u64,
    /// Why the packet was dropped.
    pub reason: crate::DropReason,
    /// Whose packet; 0 when it was nobody's yet.
    pub vif: VifId,
    /// Rule that refused it; 0 if the reason is not policy.
    pub rule: u32,
    /// Who opened.
    pub direction: skein_policy::Direction,
    /// The workload's address.
    pub local: IpAddr,
    /// The other end's.
    pub remote: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// The workload's port.
    pub local_port: u16,
    /// The other end's port.
    pub remote_port: u16,
}
