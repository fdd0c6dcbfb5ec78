//! From what the kernel holds to what is wanted, in an order that keeps every moment safe.

use super::Core;
use crate::state::diff::Operation;
use crate::state::tables::NextHop;
use std::collections::BTreeSet;

impl Core {
    /// Compiles what was touched and gives the operations that lead from what the kernel holds to what is
    /// wanted, in a safe order. Each must be confirmed with [`Core::applied`] once done; what is not
    /// confirmed comes again.
    pub fn operations(&mut self) -> Vec<Operation> {
        self.compile();
        self.forget_identities();
        let mut all = Vec::new();
        let gone = self.applied.natives.keys().filter(|a| !self.wanted.natives.contains_key(*a));
        all.extend(gone.map(|address| Operation::RemoveNative(*address)));
        // An interface that is gone stops first: its label must not reach a port that took its index.
        for (ifindex, entry) in &self.applied.interfaces {
            if !self.wanted.interfaces.contains_key(ifindex) {
                for (id, context) in
                    self.applied.contexts.iter().filter(|(_, c)| c.ifindex == *ifindex)
                {
                    all.push(Operation::RemoveContext(*id, context.clone()));
                }
                all.push(Operation::RemoveInterface(*ifindex, entry.clone()));
            }
        }
        let stopped: BTreeSet<u32> = all
            .iter()
            .filter_map(|operation| match operation {
                Operation::RemoveContext(id, _) => Some(*id),
                _ => None,
            })
            .collect();
        all.extend(self.policy_work.iter().cloned());
        for (id, context) in &self.wanted.contexts {
            if stopped.contains(id) || self.applied.contexts.get(id) != Some(context) {
                all.push(Operation::PutContext(*id, context.clone()));
            }
        }
        let mut hops = Vec::new();
        for (number, next_hop) in &self.wanted.next_hops {
            if self.applied.next_hops.get(number) != Some(next_hop) {
                hops.push(Operation::PutNextHop(*number, next_hop.clone()));
            }
        }
        // ECMP groups refer to members: members have the smaller effort of going first.
        hops.sort_by_key(|operation| {
            matches!(operation, Operation::PutNextHop(_, NextHop::Ecmp { .. }))
        });
        all.append(&mut hops);
        if let Some(node) = &self.wanted.node
            && self.applied.node.as_ref() != Some(node)
        {
            all.push(Operation::SetNode(node.clone()));
        }
        if self.wanted.node_addresses != self.applied.node_addresses {
            all.push(Operation::SetNodeAddresses(self.wanted.node_addresses.clone()));
        }
        let leads_to_service = |number: &u32| {
            matches!(self.wanted.next_hops.get(number), Some(NextHop::Service { .. }))
        };
        let (mut to_services, mut gone, mut gone_to_services) =
            (Vec::new(), Vec::new(), Vec::new());
        for key in &self.unsettled {
            match (self.wanted.routes.get(key), self.applied.routes.get(key)) {
                (Some(wanted), applied) if applied != Some(wanted) => {
                    let put = Operation::PutRoute(key.0, key.1, *wanted);
                    if leads_to_service(&wanted.next_hop) {
                        to_services.push(put);
                    } else {
                        all.push(put);
                    }
                }
                (None, Some(route)) => {
                    let hop = self.applied.next_hops.get(&route.next_hop);
                    let remove = Operation::RemoveRoute(key.0, key.1);
                    if matches!(hop, Some(NextHop::Service { .. })) {
                        gone_to_services.push(remove);
                    } else {
                        gone.push(remove);
                    }
                }
                _ => {}
            }
        }
        let mut services_gone = Vec::new();
        for key in &self.unsettled_services {
            match (self.wanted.services.get(key), self.applied.services.get(key)) {
                (Some(wanted), applied) if applied != Some(wanted) => {
                    all.push(Operation::PutService(*key, wanted.clone()));
                }
                (None, Some(_)) => services_gone.push(Operation::RemoveService(*key)),
                _ => {}
            }
        }
        all.append(&mut to_services);
        for (ifindex, entry) in &self.wanted.interfaces {
            if self.applied.interfaces.get(ifindex) != Some(entry) {
                all.push(Operation::PutInterface(*ifindex, entry.clone()));
            }
        }
        // The way in last, when all behind it is there.
        for (address, number) in &self.wanted.natives {
            if self.applied.natives.get(address) != Some(number) {
                all.push(Operation::PutNative(*address, *number));
            }
        }
        // Removal from the outside in.
        all.append(&mut gone_to_services);
        all.append(&mut services_gone);
        all.append(&mut gone);
        let old = self.applied.next_hops.iter();
        let old = old.filter(|(number, _)| !self.wanted.next_hops.contains_key(*number));
        all.extend(old.map(|(number, hop)| Operation::RemoveNextHop(*number, hop.clone())));
        for (id, context) in &self.applied.contexts {
            if !self.wanted.contexts.contains_key(id) && !stopped.contains(id) {
                all.push(Operation::RemoveContext(*id, context.clone()));
            }
        }
        let loaded: BTreeSet<u32> = self.policies.values().map(|loaded| loaded.number).collect();
        let old = self.applied_policies.iter().filter(|number| !loaded.contains(*number));
        all.extend(old.map(|number| Operation::RemovePolicy(*number)));
        all
    }

    /// Confirms that the kernel holds an operation's outcome.
    pub fn applied(&mut self, operation: &Operation) {
        match operation {
            Operation::PutNextHop(number, next_hop) => {
                self.applied.next_hops.insert(*number, next_hop.clone());
            }
            Operation::LoadPolicy { number, .. } => {
                self.applied_policies.insert(*number);
                self.policy_work.retain(|work| work != operation);
            }
            Operation::ExtendPolicy { .. } | Operation::ShrinkPolicy { .. } => {
                self.policy_work.retain(|work| work != operation);
            }
            Operation::PutContext(id, context) => {
                self.applied.contexts.insert(*id, context.clone());
            }
            Operation::SetNode(node) => self.applied.node = Some(node.clone()),
            Operation::PutNative(address, number) => {
                self.applied.natives.insert(*address, *number);
            }
            Operation::RemoveNative(address) => {
                self.applied.natives.remove(address);
            }
            Operation::SetNodeAddresses(addresses) => {
                self.applied.node_addresses.clone_from(addresses);
            }
            Operation::PutService(key, service) => {
                self.applied.services.insert(*key, service.clone());
                self.settle_service(key);
            }
            Operation::PutRoute(vrf, prefix, entry) => {
                self.applied.routes.insert((*vrf, *prefix), *entry);
                self.settle((*vrf, *prefix));
            }
            Operation::PutInterface(ifindex, entry) => {
                self.applied.interfaces.insert(*ifindex, entry.clone());
            }
            Operation::RemoveInterface(ifindex, _) => {
                self.applied.interfaces.remove(ifindex);
            }
            Operation::RemoveRoute(vrf, prefix) => {
                self.applied.routes.remove(&(*vrf, *prefix));
                self.settle((*vrf, *prefix));
            }
            Operation::RemoveService(key) => {
                self.applied.services.remove(key);
                self.settle_service(key);
            }
            Operation::RemoveContext(id, _) => {
                self.applied.contexts.remove(id);
                // Only now may another context get the label.
                self.free_context_labels();
            }
            Operation::RemovePolicy(number) => {
                self.applied_policies.remove(number);
                self.policy_numbers.remove(number);
            }
            Operation::RemoveNextHop(number, _) => {
                if let Some(next_hop) = self.applied.next_hops.remove(number) {
                    // Only now may another next hop get the number.
                    if !self.wanted.next_hops.contains_key(number) {
                        self.next_hops.free(&next_hop);
                    }
                }
            }
        }
    }
}
