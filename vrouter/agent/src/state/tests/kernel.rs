//! What the operations are applied to.

use crate::state::diff::Operation;
use crate::state::tables::{NextHop, PolicyState, Tables};
use crate::state::{InterfaceEntry, RouteEntry};
use std::collections::{BTreeMap, BTreeSet};

/// The kernel, as far as order matters.
#[derive(Default)]
pub(super) struct Kernel {
    pub(super) tables: Tables,
    /// Loaded ones, with the identities that they tell from others.
    pub(super) policies: BTreeMap<u32, BTreeSet<u32>>,
}

impl Kernel {
    pub(super) fn apply(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::PutNextHop(number, next_hop) => {
                if let NextHop::Ecmp { members } = &next_hop {
                    assert!(members.iter().all(|m| self.tables.next_hops.contains_key(m)));
                }
                if let NextHop::Local { context, .. } = &next_hop {
                    assert!(*context == 0 || self.tables.contexts.contains_key(context));
                }
                self.tables.next_hops.insert(number, next_hop);
            }
            Operation::LoadPolicy { number, entries, .. } => {
                let told_apart = entries.entries.iter().map(|entry| entry.identity).collect();
                let before = self.policies.insert(number, told_apart);
                assert!(before.is_none(), "a policy in use is loaded over");
            }
            Operation::ExtendPolicy { number, entries } => {
                let policy = self.policies.get_mut(&number).expect("a policy that is loaded");
                policy.extend(entries.entries.iter().map(|entry| entry.identity));
            }
            Operation::ShrinkPolicy { number, identities } => {
                let carried = self.tables.routes.values().any(|r| identities.contains(&r.identity));
                assert!(!carried, "an identity in use is forgotten");
                let policy = self.policies.get_mut(&number).expect("a policy that is loaded");
                policy.retain(|identity| *identity == 0 || !identities.contains(identity));
            }
            Operation::PutContext(id, context) => {
                self.assert_loaded(context.policy);
                self.tables.contexts.insert(id, context);
            }
            Operation::SetNode(node) => {
                let hop = self.tables.next_hops.get(&node.next_hop);
                assert_eq!(hop, Some(&NextHop::Outside));
                self.tables.node = Some(node);
            }
            Operation::SetNodeAddresses(addresses) => self.tables.node_addresses = addresses,
            Operation::SetAges(ages) => self.tables.ages = ages,
            Operation::PutService(key, service) => {
                assert!(service.members.is_empty() || service.members.iter().any(|m| !m.2));
                self.tables.services.insert(key, service);
            }
            Operation::RemoveService(key) => {
                self.tables.services.remove(&key);
            }
            Operation::RemoveContext(id, _) => {
                let named = |entry: &InterfaceEntry| entry.floating.contains(&id);
                let owner = self.tables.contexts[&id].ifindex;
                let others = self.tables.interfaces.iter().filter(|(index, _)| **index != owner);
                assert!(!others.map(|(_, entry)| entry).any(named), "a context in use is removed");
                self.tables.contexts.remove(&id);
            }
            Operation::PutRoute(vrf, prefix, entry) => {
                let hop = self.tables.next_hops.get(&entry.next_hop);
                assert!(hop.is_some() || entry.next_hop == 0, "route to nowhere");
                if let Some(NextHop::Service { vrf }) = hop.cloned() {
                    let key = (vrf, prefix.addr());
                    let mut services = self.tables.services.keys();
                    assert!(services.any(|(v, a, ..)| (*v, *a) == key), "a service without one");
                }
                self.tables.routes.insert((vrf, prefix), entry);
            }
            Operation::PutInterface(ifindex, entry) => {
                self.assert_loaded(entry.policy);
                assert!(entry.floating.iter().all(|id| self.tables.contexts.contains_key(id)));
                self.tables.interfaces.insert(ifindex, entry);
            }
            Operation::PutNative(address, number) => {
                let hop = self.tables.next_hops.get(&number);
                let place = match hop {
                    Some(NextHop::Local { ifindex, .. }) => Some(*ifindex),
                    _ => None,
                };
                let there =
                    place.is_some_and(|ifindex| self.tables.interfaces.contains_key(&ifindex));
                assert!(there || number == 0, "an address of nobody's");
                self.tables.natives.insert(address, number);
            }
            Operation::RemoveNative(address) => {
                self.tables.natives.remove(&address);
            }
            Operation::RemoveInterface(ifindex, _) => {
                self.tables.interfaces.remove(&ifindex);
            }
            Operation::RemoveRoute(vrf, prefix) => {
                self.tables.routes.remove(&(vrf, prefix));
            }
            Operation::RemovePolicy(number) => {
                assert!(!self.policies_in_use().contains(&number), "a policy in use is removed");
                self.policies.remove(&number);
            }
            Operation::RemoveNextHop(number, _) => {
                assert!(self.tables.routes.values().all(|route| route.next_hop != number));
                assert!(self.tables.natives.values().all(|native| *native != number));
                let led = |route: &RouteEntry| {
                    matches!(self.tables.next_hops.get(&route.next_hop),
                        Some(NextHop::Ecmp { members }) if members.contains(&number))
                };
                assert!(!self.tables.routes.values().any(led), "a member in use is removed");
                self.tables.next_hops.remove(&number);
            }
        }
    }

    fn assert_loaded(&self, policy: PolicyState) {
        if let PolicyState::Loaded { v4, v6 } = policy {
            assert!(self.policies.contains_key(&v4) && self.policies.contains_key(&v6));
        }
    }

    fn policies_in_use(&self) -> BTreeSet<u32> {
        let loaded = |policy: PolicyState| match policy {
            PolicyState::Loaded { v4, v6 } => vec![v4, v6],
            _ => vec![],
        };
        let interfaces = self.tables.interfaces.values().map(|entry| entry.policy);
        let contexts = self.tables.contexts.values().map(|entry| entry.policy);
        interfaces.chain(contexts).flat_map(loaded).collect()
    }
}
