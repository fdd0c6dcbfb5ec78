//! When a table of the kernel has no room: what has to wait, and which ports it concerns.
//!
//! The other changes of a round go on: those of other ports, and removals, without which there would never be room again. What builds
//! upon a change that is not done waits with it, so that every moment stays safe (`diff.rs`).

use super::Core;
use crate::state::diff::Operation;
use crate::state::tables::{InterfaceEntry, NextHop, PolicyState, Tables};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Changes of one round that are not done, by what builds upon them.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    policies: BTreeSet<u32>,
    /// Identities that routes in the kernel carry, once a policy is not what it should be: those all policies tell apart.
    known: Option<BTreeSet<u32>>,
    contexts: BTreeSet<u32>,
    next_hops: BTreeSet<u32>,
    services: BTreeSet<(u32, IpAddr)>,
    interfaces: BTreeSet<u32>,
    anything: bool,
}

impl Waiting {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.anything
    }
}

impl Core {
    /// Notes a change that is not done, because the kernel refused it or because it [has to wait](Core::waits).
    pub fn note_undone(&self, operation: &Operation, waiting: &mut Waiting) {
        waiting.anything = true;
        match operation {
            Operation::LoadPolicy { number, .. } | Operation::ExtendPolicy { number, .. } => {
                // One that is only not extended judges as before, but those who are new are nobody to it.
                if matches!(operation, Operation::LoadPolicy { .. }) {
                    waiting.policies.insert(*number);
                }
                let routes = self.applied.routes.values();
                waiting.known.get_or_insert_with(|| routes.map(|route| route.identity).collect());
            }
            Operation::PutContext(id, _) => {
                waiting.contexts.insert(*id);
            }
            Operation::PutNextHop(number, _) => {
                waiting.next_hops.insert(*number);
            }
            Operation::PutService((vrf, address, ..), _) => {
                waiting.services.insert((*vrf, *address));
            }
            Operation::PutInterface(ifindex, _) => {
                waiting.interfaces.insert(*ifindex);
            }
            _ => {}
        }
    }

    /// Whether a change must not be done now, because one before it in the same round is not.
    #[must_use]
    pub fn waits(&self, operation: &Operation, waiting: &Waiting) -> bool {
        if waiting.is_empty() {
            return false;
        }
        let not_loaded = |policy: PolicyState| match policy {
            PolicyState::Loaded { v4, v6 } => {
                waiting.policies.contains(&v4) || waiting.policies.contains(&v6)
            }
            PolicyState::Missing | PolicyState::Disabled => false,
        };
        match operation {
            Operation::ExtendPolicy { number, .. } | Operation::ShrinkPolicy { number, .. } => {
                waiting.policies.contains(number)
            }
            Operation::PutContext(_, context) => not_loaded(context.policy),
            Operation::PutNextHop(_, NextHop::Local { context, .. }) => {
                waiting.contexts.contains(context)
            }
            Operation::PutNextHop(_, NextHop::Ecmp { members }) => {
                members.iter().any(|member| waiting.next_hops.contains(member))
            }
            Operation::SetNode(node) => waiting.next_hops.contains(&node.next_hop),
            Operation::PutRoute(_, prefix, route) => {
                waiting.next_hops.contains(&route.next_hop)
                    || waiting.known.as_ref().is_some_and(|known| !known.contains(&route.identity))
                    || self.leads_to_none(route.next_hop, prefix.addr(), waiting)
            }
            Operation::PutInterface(_, entry) => {
                not_loaded(entry.policy)
                    || entry.floating.iter().any(|id| waiting.contexts.contains(id))
            }
            Operation::PutNative(_, number) => {
                let leads_to = self.wanted.next_hops.get(number);
                waiting.next_hops.contains(number)
                    || matches!(leads_to, Some(NextHop::Local { ifindex, .. })
                        if waiting.interfaces.contains(ifindex))
            }
            Operation::RemovePolicy(number) => self.is_judged_by(*number),
            Operation::RemoveNextHop(number, _) => self.is_led_by(*number),
            Operation::RemoveContext(id, context) => self.is_in_context(*id, context.ifindex),
            Operation::LoadPolicy { .. }
            | Operation::PutNextHop(..)
            | Operation::SetNodeAddresses(_)
            | Operation::SetAges(_)
            | Operation::PutService(..)
            | Operation::RemoveNative(_)
            | Operation::RemoveInterface(..)
            | Operation::RemoveService(_)
            | Operation::RemoveRoute(..) => false,
        }
    }

    /// A route to services of an address that has none in the kernel.
    fn leads_to_none(&self, next_hop: u32, address: IpAddr, waiting: &Waiting) -> bool {
        let Some(NextHop::Service { vrf }) = self.wanted.next_hops.get(&next_hop) else {
            return false;
        };
        let place = (*vrf, address);
        let there = || self.applied.services.keys().any(|(vrf, own, ..)| (*vrf, *own) == place);
        waiting.services.contains(&place) && !there()
    }

    fn is_judged_by(&self, number: u32) -> bool {
        let interfaces = self.applied.interfaces.values().map(|entry| entry.policy);
        let mut all = interfaces.chain(self.applied.contexts.values().map(|entry| entry.policy));
        all.any(|policy| matches!(policy, PolicyState::Loaded { v4, v6 } if v4 == number || v6 == number))
    }

    fn is_led_by(&self, number: u32) -> bool {
        let Tables { routes, natives, next_hops, node, .. } = &self.applied;
        routes.values().any(|route| route.next_hop == number)
            || natives.values().any(|native| *native == number)
            || node.as_ref().is_some_and(|node| node.next_hop == number)
            || next_hops
                .values()
                .any(|hop| matches!(hop, NextHop::Ecmp { members } if members.contains(&number)))
    }

    fn is_in_context(&self, id: u32, owner: u32) -> bool {
        let Tables { interfaces, next_hops, .. } = &self.applied;
        let leads = |hop: &NextHop| matches!(hop, NextHop::Local { context, .. } if *context == id);
        interfaces.get(&owner).is_some_and(|entry| entry.floating.contains(&id))
            || next_hops.values().any(leads)
    }

    /// Names of the ports that lack something while these changes are not done.
    #[must_use]
    pub fn concerned(&self, undone: &[&Operation]) -> BTreeSet<String> {
        let (mut vrfs, mut hops, mut policies) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut devices = BTreeSet::new();
        for operation in undone {
            match operation {
                Operation::PutRoute(vrf, ..) => {
                    vrfs.insert(*vrf);
                }
                Operation::PutNextHop(number, _) => {
                    hops.insert(*number);
                }
                Operation::LoadPolicy { number, .. } | Operation::ExtendPolicy { number, .. } => {
                    policies.insert(*number);
                }
                Operation::PutContext(_, context) => {
                    devices.insert(context.ifindex);
                }
                Operation::PutInterface(ifindex, _) => {
                    devices.insert(*ifindex);
                }
                Operation::PutService((vrf, ..), _) => {
                    let clients = self.wanted.routes.iter().filter(|(_, route)| {
                        self.wanted.next_hops.get(&route.next_hop)
                            == Some(&NextHop::Service { vrf: *vrf })
                    });
                    vrfs.extend(clients.map(|((vrf, _), _)| *vrf));
                }
                _ => {}
            }
        }
        if !hops.is_empty() {
            let routes = self.wanted.routes.iter();
            let led = routes.filter(|(_, route)| hops.contains(&route.next_hop));
            vrfs.extend(led.map(|((vrf, _), _)| *vrf));
        }
        let judged = |policy: PolicyState| {
            matches!(policy, PolicyState::Loaded { v4, v6 }
                if policies.contains(&v4) || policies.contains(&v6))
        };
        let contexts = self.wanted.contexts.values();
        devices.extend(contexts.filter(|c| judged(c.policy)).map(|context| context.ifindex));
        let concerns = |(ifindex, entry): &(&u32, &InterfaceEntry)| {
            devices.contains(*ifindex) || vrfs.contains(&entry.vrf) || judged(entry.policy)
        };
        let name = |(_, entry): (&u32, &InterfaceEntry)| match self.interfaces.get(&entry.uuid) {
            Some(spec) => spec.name.clone(),
            None => entry.uuid.to_string(),
        };
        self.wanted.interfaces.iter().filter(concerns).map(name).collect()
    }
}
