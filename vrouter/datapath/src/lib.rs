//! The eBPF datapath of one node: loads and attaches the programs, and is the only writer of their tables.
//!
//! An agent opens one [`Datapath`] and uses it from one thread (it is `Send`, not `Sync`). State lives in the kernel, pinned
//! under [`Config::pin_dir`]: dropping a `Datapath`, or the whole agent, disturbs no packet and no flow.
//!
//! ```text
//! Datapath::open(&Config) -> Result<Datapath>          reuse pinned tables, load programs
//! Datapath::purge(pin_dir) -> Result<()>               remove the pins (attached filters keep forwarding until detached)
//!
//! attach_workload(ifindex)  attach_uplink(ifindex)     hook up, or replace the programs atomically (caller's netns)
//! detach(ifindex)
//! widen_uplink(ifindex) -> bytes                       larger super-packets; then, in the workload's namespace:
//! set_super_packet_size(ifindex, bytes)
//!
//! set_vif(&Vif)  remove_vif(ifindex)  vifs()           remove ends the interface's flows too
//! set_next_hop(id, &NextHop)  remove_next_hop(id)  next_hops()
//! change_routes(&[RouteChange])  routes()              one generation step per VRF and call; change_routes_that_fit goes on when full
//! set_context(id, &Context)  remove_context(id)  contexts()   a port's further VRFs: floating IPs, memberships
//! set_label(label, ifindex, context)  remove_label(label)  labels()
//! set_service(&Service)  remove_service(&ServiceKey)  services()
//! set_node_address(&NodeAddress)  node_address()       what leaves, and enters, by the node's own address
//! set_native(addr, Native)  remove_native(addr)  natives()   addresses in the underlay
//! set_uplink(ifindex, mac)  announce(addr)             where, and what, neighbours are told for them
//! set_node_addresses(&map)  node_addresses()           where node ports answer; attach_loopback(ifindex): for the node itself
//! add_peer(addr)  remove_peer(addr)  peers()           tunnel sources that are accepted
//! add_tunnel_address(addr)  remove_tunnel_address(addr)  tunnel_addresses()   our own tunnel end points
//! load_policy(id, &Addition)                           also to extend it by one more identity
//! shrink_policy(id, identities)                         entries of identities that no route carries any more
//! unload_policy(id)  policies()
//!
//! drops() -> Vec<(DropReason, u64)>                    whole node
//! vif_counters(VifId) -> VifCounters
//! flows(FlowFilter) -> Vec<Flow>
//! sweep(&Timeouts) -> Swept                            call about every second
//! poll_events(|Event| ...)  event_fd()                 readable when there are events
//! trace(&Question) -> Answer                           what would happen to a packet, from the same tables
//! run(Hook, &Run) -> Ran                               a packet through a program without a wire
//! ```
//!
//! Order of writing, so that no packet meets a half-written state: policies before the interfaces that use them; an identity's
//! policy entries before routes that carry it; next hops before routes; labels, routes and the interface before the label is
//! told to anyone; contexts before the labels, next hops and interfaces that name them; a service, and the routes to its members,
//! before the route to its address; the node's address before routes to the outside; a workload's interface and routes before its
//! address in the underlay. Removal goes the other way round.

mod abi;
mod config;
mod context;
mod datapath;
mod error;
mod event;
mod flow;
mod load;
mod native;
mod node_address;
mod policy;
mod routing;
mod run;
mod service;
mod super_packet;
mod table;
mod trace;
mod types;
mod vif;

pub use config::Config;
pub use context::{Context, ContextId, Floating, FloatingDirection, PortMapping};
pub use datapath::{Datapath, Hook};
pub use error::{Error, Result};
pub use native::Native;
pub use node_address::{AddressOwner, NodeAddress};
pub use run::{Outcome, Ran, Run};
pub use service::{INSIDE, OUTSIDE, Service, ServiceKey, ServiceMember};
pub use super_packet::{DEFAULT_SUPER_PACKET, is_veth, set_super_packet_size, widen_uplink};
pub use trace::{Answer, Question};
pub use types::*;

include!(concat!(env!("OUT_DIR"), "/drop_reason.rs"));
