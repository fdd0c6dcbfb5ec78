//! Carries the core's operations into the datapath's tables, and reads them back after a restart.

use crate::announce::Announcer;
use crate::state::{
    Core, Encapsulation, InterfaceEntry, NextHop, Operation, PolicyState, Tables, Waiting,
};
use crate::{AgentError, Underlay, host_ports, steering};
use skein_datapath as datapath;
use skein_datapath::{Datapath, Route, RouteChange, Vif, VifPolicy};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use uuid::Uuid;

/// The datapath with what the agent knows of the underlay.
pub(crate) struct Kernel {
    pub(crate) datapath: Datapath,
    underlay: Underlay,
    /// Bytes of a TCP super-packet that all uplinks take.
    pub(crate) super_packet: u32,
    attached: BTreeSet<u32>,
    /// Tunnel sources by number of next hops that need them.
    peers: BTreeMap<IpAddr, u32>,
    pub(crate) announcer: Announcer,
}

impl Kernel {
    /// Opens the datapath and hooks it to the uplinks. `largest`: bytes of a super-packet, if the configuration has a limit.
    pub(crate) fn open(
        config: &datapath::Config,
        underlay: Underlay,
        largest: Option<u32>,
    ) -> Result<Self, AgentError> {
        let mut datapath = Datapath::open(config)?;
        let own = underlay.tunnel_address;
        for address in datapath.tunnel_addresses()? {
            if address != own {
                datapath.remove_tunnel_address(address)?;
            }
        }
        datapath.add_tunnel_address(own)?;
        if let Some(exit) = underlay.uplinks.first() {
            datapath.set_uplink(exit.index, exit.mac)?;
        }
        for uplink in &underlay.uplinks {
            datapath.attach_uplink(uplink.index)?;
        }
        let super_packet = widen(&underlay, largest);
        let (attached, peers) = (BTreeSet::new(), BTreeMap::new());
        let announcer = Announcer::new(underlay.exit());
        Ok(Self { datapath, underlay, super_packet, attached, peers, announcer })
    }

    /// What the tables hold, and which policies are loaded. `owners` tells whose label is whose; entries
    /// that cannot be understood are left out, so that they are written anew or removed.
    pub(crate) fn read_back(
        &mut self,
        owners: &BTreeMap<u32, Uuid>,
    ) -> Result<(Tables, Vec<u32>), AgentError> {
        let mut tables = Tables::default();
        for vif in self.datapath.vifs()? {
            let Some(uuid) = owners.get(&vif.id) else {
                // Nobody's: it must not forward, whoever has its index now.
                self.datapath.remove_label(vif.label)?;
                self.datapath.remove_vif(vif.ifindex)?;
                continue;
            };
            tables.interfaces.insert(vif.ifindex, interface_entry(&vif, *uuid));
        }
        for (number, next_hop) in self.datapath.next_hops()? {
            let known = match &next_hop {
                datapath::NextHop::Discard => None,
                datapath::NextHop::Service { vrf } => Some(NextHop::Service { vrf: *vrf }),
                datapath::NextHop::Outside { .. } => Some(NextHop::Outside),
                datapath::NextHop::Native { node, .. } => Some(NextHop::Native { node: *node }),
                datapath::NextHop::Local { ifindex, context } => {
                    Some(NextHop::Local { ifindex: *ifindex, context: *context })
                }
                datapath::NextHop::Tunnel { remote, encapsulation, label, .. } => {
                    *self.peers.entry(*remote).or_default() += 1;
                    Some(NextHop::Tunnel {
                        destination: *remote,
                        encapsulation: match encapsulation {
                            datapath::Encapsulation::Vxlan => Encapsulation::Vxlan,
                            datapath::Encapsulation::MplsOverUdp => Encapsulation::MplsOverUdp,
                            datapath::Encapsulation::MplsOverGre => Encapsulation::MplsOverGre,
                        },
                        label: *label,
                    })
                }
                datapath::NextHop::Composite { members } => {
                    Some(NextHop::Ecmp { members: members.clone() })
                }
            };
            let Some(known) = known else { continue };
            // Written for another underlay: same meaning, other bytes.
            let rewritten = self.next_hop(&known);
            if rewritten != next_hop {
                self.datapath.set_next_hop(number, &rewritten)?;
            }
            tables.next_hops.insert(number, known);
        }
        for route in self.datapath.routes()? {
            let entry =
                crate::state::RouteEntry { next_hop: route.next_hop, identity: route.identity };
            tables.routes.insert((route.vrf, route.prefix), entry);
        }
        for peer in self.datapath.peers()? {
            if !self.peers.contains_key(&peer) {
                self.datapath.remove_peer(peer)?;
            }
        }
        self.read_back_steering(owners, &mut tables)?;
        let seconds = |idle: std::time::Duration| u32::try_from(idle.as_secs()).unwrap_or(u32::MAX);
        let ages = self.datapath.ages()?.into_iter();
        tables.ages =
            ages.map(|age| ((age.protocol, age.port), age.idle.map_or(0, seconds))).collect();
        let policies = self.datapath.policies();
        Ok((tables, policies))
    }

    fn read_back_steering(
        &mut self,
        owners: &BTreeMap<u32, Uuid>,
        tables: &mut Tables,
    ) -> Result<(), AgentError> {
        let labels: BTreeMap<u32, u32> = self
            .datapath
            .labels()?
            .into_iter()
            .map(|(label, ifindex, _)| (label, ifindex))
            .collect();
        for (id, context) in self.datapath.contexts()? {
            match labels.get(&id).filter(|_| owners.contains_key(&id)) {
                Some(ifindex) => {
                    tables.contexts.insert(id, steering::context_entry(&context, *ifindex));
                }
                None => {
                    self.datapath.remove_label(id)?;
                    self.datapath.remove_context(id)?;
                }
            }
        }
        for service in self.datapath.services()? {
            let (key, entry) = steering::service_entry(&service);
            tables.services.insert(key, entry);
        }
        tables.node = steering::node_entry(&self.datapath.node_address()?);
        for (address, native) in self.datapath.natives()? {
            let number = match native {
                datapath::Native::Workload(number) => number,
                datapath::Native::Services => 0,
            };
            self.announcer.found(address);
            tables.natives.insert(address, number);
        }
        let addresses = self.datapath.node_addresses()?.into_iter();
        tables.node_addresses = addresses
            .map(|(address, owner)| (address, owner == datapath::AddressOwner::This))
            .collect();
        Ok(())
    }

    /// Hooks the programs to a workload's interface. Until its entry is written it drops everything.
    pub(crate) fn attach(&mut self, ifindex: u32) -> Result<(), AgentError> {
        if self.attached.insert(ifindex)
            && let Err(error) = self.datapath.attach_workload(ifindex)
        {
            self.attached.remove(&ifindex);
            return Err(error.into());
        }
        Ok(())
    }

    /// Hooks the program to `lo`, for what the node's own stack sends to its own addresses.
    pub(crate) fn attach_loopback(&mut self, ifindex: u32) -> Result<(), AgentError> {
        Ok(self.datapath.attach_loopback(ifindex)?)
    }

    /// The interface is gone: lets go of what was pinned for it.
    pub(crate) fn detach(&mut self, ifindex: u32) {
        if self.attached.remove(&ifindex)
            && let Err(error) = self.datapath.detach(ifindex)
        {
            tracing::debug!(ifindex, %error, "nothing left to detach");
        }
    }

    /// Does as many of the operations as succeed, in order, and confirms them. What finds no room is left out with all that builds
    /// upon it; any other failure ends the round.
    pub(crate) fn apply(&mut self, operations: &[Operation], core: &mut Core) -> Round {
        let mut round = Round::default();
        let mut at = 0;
        while let Some(operation) = operations.get(at) {
            if core.waits(operation, &round.waiting) {
                round.undone(at, operation, None, core);
                at += 1;
                continue;
            }
            // Runs of route changes go in one call: one generation step, one lookup cache flush.
            let run = operations[at..].iter().map_while(|operation| {
                route_change(operation).filter(|_| !core.waits(operation, &round.waiting))
            });
            let changes: Vec<RouteChange> = run.collect();
            let run = &operations[at..at + changes.len().max(1)];
            let result = if changes.is_empty() {
                self.apply_one(operation).map(|()| Vec::new())
            } else {
                self.datapath.change_routes_that_fit(&changes).map_err(AgentError::from)
            };
            let refused: BTreeMap<usize, datapath::Error> = match result {
                Ok(refused) => refused.into_iter().collect(),
                Err(AgentError::Datapath(full @ datapath::Error::Full { .. })) => {
                    BTreeMap::from([(0, full)])
                }
                Err(error) => {
                    round.failed = Some((at, error));
                    return round;
                }
            };
            for (offset, operation) in run.iter().enumerate() {
                match refused.get(&offset) {
                    Some(full) => round.undone(at + offset, operation, Some(full), core),
                    None => core.applied(operation),
                }
            }
            at += run.len();
        }
        round
    }

    fn apply_one(&mut self, operation: &Operation) -> Result<(), AgentError> {
        match operation {
            Operation::PutNextHop(number, next_hop) => {
                if let NextHop::Tunnel { destination, .. } = next_hop
                    && !self.peers.contains_key(destination)
                {
                    self.datapath.add_peer(*destination)?;
                }
                self.datapath.set_next_hop(*number, &self.next_hop(next_hop))?;
                // Counted when done: a failed operation comes again.
                if let NextHop::Tunnel { destination, .. } = next_hop {
                    *self.peers.entry(*destination).or_default() += 1;
                }
            }
            Operation::LoadPolicy { number, entries, .. }
            | Operation::ExtendPolicy { number, entries } => {
                self.datapath.load_policy(*number, entries)?;
            }
            Operation::ShrinkPolicy { number, identities } => {
                self.datapath.shrink_policy(*number, identities)?;
            }
            Operation::PutInterface(ifindex, entry) => {
                self.datapath.set_vif(&vif(*ifindex, entry))?;
                self.datapath.set_label(entry.label, *ifindex, 0)?;
                if entry.vlan.is_none() {
                    self.attach(*ifindex)?;
                }
            }
            Operation::RemoveInterface(ifindex, entry) => {
                self.datapath.remove_label(entry.label)?;
                self.datapath.remove_vif(*ifindex)?;
            }
            Operation::RemovePolicy(number) => {
                self.datapath.unload_policy(*number)?;
            }
            Operation::RemoveNextHop(number, next_hop) => {
                self.datapath.remove_next_hop(*number)?;
                if let NextHop::Tunnel { destination, .. } = next_hop
                    && let Some(users) = self.peers.get_mut(destination)
                {
                    *users -= 1;
                    if *users == 0 {
                        self.peers.remove(destination);
                        self.datapath.remove_peer(*destination)?;
                    }
                }
            }
            Operation::PutContext(id, entry) => {
                self.datapath.set_context(*id, &steering::context(entry))?;
                self.datapath.set_label(*id, entry.ifindex, *id)?;
            }
            Operation::RemoveContext(id, _) => {
                self.datapath.remove_label(*id)?;
                self.datapath.remove_context(*id)?;
            }
            Operation::PutService(key, entry) => {
                self.datapath.set_service(&steering::service(key, entry))?;
            }
            Operation::RemoveService(key) => {
                self.datapath.remove_service(&steering::service_key(key))?;
            }
            Operation::SetNode(entry) => {
                let node = steering::node_address(entry);
                host_ports::reserve(&self.datapath.node_address()?, &node)?;
                self.datapath.set_node_address(&node)?;
            }
            Operation::PutNative(address, number) => {
                let native = match number {
                    0 => datapath::Native::Services,
                    number => datapath::Native::Workload(*number),
                };
                if self.datapath.set_native(*address, native)? {
                    self.announcer.here(*address, &self.datapath);
                }
            }
            Operation::RemoveNative(address) => {
                self.datapath.remove_native(*address)?;
                self.announcer.gone(*address);
            }
            Operation::SetNodeAddresses(addresses) => {
                self.datapath.set_node_addresses(&steering::node_addresses(addresses))?;
            }
            Operation::SetAges(ages) => {
                let ages: Vec<_> = ages.iter().map(age).collect();
                self.datapath.set_ages(&ages)?;
            }
            Operation::PutRoute(..) | Operation::RemoveRoute(..) => {
                let change: Vec<RouteChange> = route_change(operation).into_iter().collect();
                self.datapath.change_routes(&change)?;
            }
        }
        Ok(())
    }

    fn next_hop(&self, next_hop: &NextHop) -> datapath::NextHop {
        match next_hop {
            NextHop::Service { vrf } => datapath::NextHop::Service { vrf: *vrf },
            NextHop::Discard => datapath::NextHop::Discard,
            NextHop::Native { node } => datapath::NextHop::Native {
                uplink: self.underlay.exit(),
                node: *node,
                gateway: node.and_then(|node| self.underlay.neighbour(node)),
                mtu: self.underlay.mtu(),
            },
            NextHop::Outside => datapath::NextHop::Outside {
                uplink: self.underlay.exit(),
                gateway: None,
                mtu: self.underlay.mtu(),
            },
            NextHop::Local { ifindex, context } => {
                datapath::NextHop::Local { ifindex: *ifindex, context: *context }
            }
            NextHop::Tunnel { destination, encapsulation, label } => datapath::NextHop::Tunnel {
                remote: *destination,
                local: self.underlay.tunnel_address,
                encapsulation: match encapsulation {
                    Encapsulation::Vxlan => datapath::Encapsulation::Vxlan,
                    Encapsulation::MplsOverUdp => datapath::Encapsulation::MplsOverUdp,
                    Encapsulation::MplsOverGre => datapath::Encapsulation::MplsOverGre,
                },
                label: *label,
                uplink: self.underlay.exit(),
                gateway: self.underlay.neighbour(*destination),
                mtu: self.underlay.mtu(),
            },
            NextHop::Ecmp { members } => datapath::NextHop::Composite { members: members.clone() },
        }
    }
}

/// What became of a round of operations.
#[derive(Debug, Default)]
pub(crate) struct Round {
    waiting: Waiting,
    /// Tables without room: what they said, and the places of the operations that are not done for it.
    pub(crate) full: BTreeMap<&'static str, (String, Vec<usize>)>,
    /// The table of the last refusal: what builds upon it is not done for the same reason.
    last: &'static str,
    /// What else went wrong, and where: nothing after it was tried.
    pub(crate) failed: Option<(usize, AgentError)>,
}

impl Round {
    fn undone(
        &mut self,
        at: usize,
        operation: &Operation,
        full: Option<&datapath::Error>,
        core: &Core,
    ) {
        core.note_undone(operation, &mut self.waiting);
        if let Some(error @ datapath::Error::Full { table, .. }) = full {
            self.last = table;
            self.full.entry(table).or_insert_with(|| (error.to_string(), Vec::new()));
        }
        if let Some((_, places)) = self.full.get_mut(self.last) {
            places.push(at);
        }
    }
}

/// Lets the uplinks carry large super-packets; gives the size that all of them take.
fn widen(underlay: &Underlay, largest: Option<u32>) -> u32 {
    let default = datapath::DEFAULT_SUPER_PACKET;
    // Beyond 64 KiB an outer IPv6 header would need an extension that tunnels do not write.
    if !underlay.tunnel_address.is_ipv4() || largest.is_some_and(|bytes| bytes <= default) {
        return default;
    }
    let widened = underlay.uplinks.iter().map(|link| {
        let widened = match largest {
            None if datapath::is_veth(link.index)? => Ok(default),
            _ => datapath::widen_uplink(link.index),
        };
        widened.inspect_err(|error| {
            tracing::warn!(uplink = link.name, %error, "super-packets stay at 64 KiB: slower TCP");
        })
    });
    let smallest = widened.map(|bytes: datapath::Result<u32>| bytes.unwrap_or(default)).min();
    smallest.unwrap_or(default).min(largest.unwrap_or(u32::MAX))
}

fn age((&(protocol, port), seconds): (&(u8, u16), &u32)) -> datapath::Age {
    let idle = (*seconds != 0).then(|| std::time::Duration::from_secs((*seconds).into()));
    datapath::Age { protocol, port, idle }
}

fn route_change(operation: &Operation) -> Option<RouteChange> {
    match operation {
        Operation::PutRoute(vrf, prefix, entry) => Some(RouteChange::Set(Route {
            vrf: *vrf,
            prefix: *prefix,
            next_hop: entry.next_hop,
            identity: entry.identity,
        })),
        Operation::RemoveRoute(vrf, prefix) => {
            Some(RouteChange::Remove { vrf: *vrf, prefix: *prefix })
        }
        _ => None,
    }
}

fn vif(ifindex: u32, entry: &InterfaceEntry) -> Vif {
    Vif {
        ifindex,
        id: entry.label,
        vrf: entry.vrf,
        mac: entry.mac,
        gateway4: entry.gateway4,
        gateway6: entry.gateway6,
        label: entry.label,
        policy: match entry.policy {
            PolicyState::Missing => VifPolicy::Enforce { v4: None, v6: None },
            PolicyState::Disabled => VifPolicy::Disabled,
            PolicyState::Loaded { v4, v6 } => VifPolicy::Enforce { v4: Some(v4), v6: Some(v6) },
        },
        admin_down: false,
        flow_quota: entry.max_flows,
        mtu: entry.mtu,
        // The other end of the host's pair is in the same namespace: there is none to change into.
        delivery: if entry.host || entry.vlan.is_some() || !has_peer(ifindex) {
            datapath::Delivery::Transmit
        } else {
            datapath::Delivery::VethPeer
        },
        host: entry.host,
        vlan: entry.vlan.map(|(device, tag)| datapath::Vlan { device, tag }),
        metadata: entry.metadata,
        floating: entry.floating.clone(),
    }
}

/// A workload's device is one end of a veth pair, or a machine's tap: only a pair has another end to deliver into.
fn has_peer(ifindex: u32) -> bool {
    datapath::is_veth(ifindex).unwrap_or(true)
}

fn interface_entry(vif: &Vif, uuid: Uuid) -> InterfaceEntry {
    InterfaceEntry {
        uuid,
        vrf: vif.vrf,
        label: vif.label,
        mac: vif.mac,
        gateway4: vif.gateway4,
        gateway6: vif.gateway6,
        policy: match vif.policy {
            VifPolicy::Disabled => PolicyState::Disabled,
            VifPolicy::Enforce { v4: Some(v4), v6: Some(v6) } => PolicyState::Loaded { v4, v6 },
            VifPolicy::Enforce { .. } => PolicyState::Missing,
        },
        max_flows: vif.flow_quota,
        mtu: vif.mtu,
        host: vif.host,
        vlan: vif.vlan.map(|vlan| (vlan.device, vlan.tag)),
        metadata: vif.metadata,
        floating: vif.floating.clone(),
    }
}
