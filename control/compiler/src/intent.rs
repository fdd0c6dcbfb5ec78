//! What the compiler says: what the network must do, in terms of VRFs, policies and interfaces.

use crate::cluster;
use crate::context::Context;
use crate::node::NodeFacts;
use crate::port_pools::PortPool;
use ipnet::IpNet;
use skein_bgp::{RouteTarget, TunnelType};
use skein_policy::{Attributes, Policy};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// A virtual network's forwarding table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vrf {
    /// Routing instance name: its `fq_name` joined by colons.
    pub name: String,
    /// The virtual network's name.
    pub network: String,
    /// The virtual network.
    pub network_uuid: Uuid,
    /// `virtual_network_network_id`
    pub network_id: u32,
    /// Subnets in the order of the configuration.
    pub subnets: Vec<Subnet>,
    /// Routes with one of these are imported.
    pub import: BTreeSet<RouteTarget>,
    /// Routes of this VRF carry all of these.
    pub export: BTreeSet<RouteTarget>,
    /// VRFs whose services its workloads may use, by name, with their networks; its own among them if it has any.
    pub service_vrfs: Vec<(String, Uuid)>,
    /// What no route matches leaves from the node's own address.
    pub fabric_snat: bool,
    /// It is in the underlay: its workloads speak there with their own addresses, to whatever no route matches as well.
    pub underlay: bool,
    /// Its routes lead to addresses of the underlay: workloads' or nodes'.
    pub native: bool,
    /// Of the underlay, prefixes in which only what is routed is reached.
    pub closed: Vec<IpNet>,
    /// The virtual-DNS that its workloads ask.
    pub dns: Option<Uuid>,
    /// Its services are those of the node itself, and of the fabric for whoever has no way there.
    pub link_local: bool,
}

/// A subnet of a virtual network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Network address and length.
    pub prefix: IpNet,
    /// Gateway, if it has one.
    pub gateway: Option<IpAddr>,
    /// DNS and DHCP server address, if it has one.
    pub service_address: Option<IpAddr>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The virtual-machine-interface.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// The virtual network it belongs to.
    pub network: Uuid,
    /// Name of the VRF it lives in.
    pub vrf: String,
    /// MAC address of the workload.
    pub mac: String,
    /// Addresses, sorted.
    pub addresses: Vec<Address>,
    /// Policy that decides about its connections; `None` when port security is off.
    pub policy: Option<Arc<PolicySet>>,
    /// What others see of it.
    pub attributes: Attributes,
    /// Largest number of flows; 0 for the node's default.
    pub max_flows: u32,
    /// LOCAL_PREF of its routes: of several ports that share an address, the highest is used.
    pub local_preference: u32,
    /// Administratively up.
    pub enabled: bool,
    /// The node it is bound to (`host_id` of its bindings); `None` when any node may have it.
    pub host: Option<String>,
    /// Further VRFs in which it can be reached.
    pub contexts: Vec<Context>,
    /// It is the node's own stack.
    pub is_host: bool,
    /// What the node's own stack reaches through it.
    pub host_prefixes: Vec<IpNet>,
    /// The port whose device it shares, and its 802.1Q tag there.
    pub parent: Option<(Uuid, u16)>,
    /// Ports that share its device.
    pub sub_interfaces: Vec<Uuid>,
    /// What the node's own stack reaches by its uplink, without a router.
    pub underlay_prefixes: Vec<IpNet>,
    /// Networks whose services are not for the node's own stack, though it reaches them: other clusters'.
    pub others_services: BTreeSet<Uuid>,
}

impl Interface {
    /// Every policy that judges its connections somewhere.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<PolicySet>> {
        let contexts = self.contexts.iter().filter_map(|context| context.policy.as_ref());
        self.policy.iter().chain(contexts)
    }
}

/// An address of a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// Host address with the length of its subnet.
    pub prefix: IpNet,
    /// Gateway of the subnet.
    pub gateway: Option<IpAddr>,
}

/// A policy with an identity: equal policies have equal ids, a changed policy has a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySet {
    /// Version 5 UUID of the content.
    pub id: Uuid,
    /// The content.
    pub policy: Policy,
}

/// What holds for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Global {
    /// Global AS number.
    pub autonomous_system: u32,
    /// Tunnel types in order of preference.
    pub encapsulations: Vec<TunnelType>,
    /// The nodes, in order of their names.
    pub nodes: Arc<Vec<Arc<NodeFacts>>>,
    /// Ports that nodes lend to their workloads; of a protocol without any, the nodes' own.
    pub port_pools: Vec<PortPool>,
}

impl Global {
    /// What a node is told: of the nodes, those that have to do with it.
    #[must_use]
    pub fn seen_from(&self, node: &str) -> Global {
        let own = self.nodes.iter().find(|facts| facts.name == node);
        let own = own.map_or("", |facts| facts.cluster.as_str());
        let nodes = if self.nodes.iter().all(|facts| cluster::meet(own, &facts.cluster)) {
            self.nodes.clone()
        } else {
            let like = self.nodes.iter().filter(|facts| cluster::meet(own, &facts.cluster));
            Arc::new(like.cloned().collect())
        };
        Global { nodes, ..self.clone() }
    }
}
