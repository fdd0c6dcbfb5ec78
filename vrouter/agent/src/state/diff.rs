//! One step towards what is wanted, and the order that keeps every moment safe.

use super::tables::{
    ContextEntry, InterfaceEntry, NextHop, NodeEntry, RouteEntry, ServiceEntry, ServiceKey,
};
use ipnet::IpNet;
use skein_policy::{Addition, Family};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// One change of the kernel's tables. [`Core::operations`](super::Core::operations) gives them in this
/// order: next hops before the routes that use them, policy before the identities and interfaces it judges, contexts
/// before what names them, members' routes before a service and the service before the routes to it, removals from the outside in after everything new is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Write a next hop.
    PutNextHop(u32, NextHop),
    /// Load a whole policy under a number nothing refers to yet.
    LoadPolicy {
        /// Its number.
        number: u32,
        /// Its family.
        family: Family,
        /// Its entries.
        entries: Addition,
    },
    /// Teach a loaded policy one more identity.
    ExtendPolicy {
        /// Its number.
        number: u32,
        /// More entries.
        entries: Addition,
    },
    /// Make a loaded policy forget identities that no route carries any more.
    ShrinkPolicy {
        /// Its number.
        number: u32,
        /// Numbers of the identities.
        identities: BTreeSet<u32>,
    },
    /// Write a context and its label.
    PutContext(u32, ContextEntry),
    /// Say what the node lends of itself.
    SetNode(NodeEntry),
    /// Say at which addresses node ports answer.
    SetNodeAddresses(BTreeMap<IpAddr, bool>),
    /// Write a service.
    PutService(ServiceKey, ServiceEntry),
    /// Write a route.
    PutRoute(u32, IpNet, RouteEntry),
    /// Write an interface and its label: from now on it forwards.
    PutInterface(u32, InterfaceEntry),
    /// Answer for an address in the underlay; 0 in place of the next hop: it is that of services.
    PutNative(IpAddr, u32),
    /// Answer for it no more.
    RemoveNative(IpAddr),
    /// Forget an interface and its label: from now on it drops.
    RemoveInterface(u32, InterfaceEntry),
    /// Remove a service; the routes to its address went before.
    RemoveService(ServiceKey),
    /// Remove a context and its label.
    RemoveContext(u32, ContextEntry),
    /// Remove a route.
    RemoveRoute(u32, IpNet),
    /// Unload a policy nothing refers to any more.
    RemovePolicy(u32),
    /// Remove a next hop nothing refers to any more.
    RemoveNextHop(u32, NextHop),
}
