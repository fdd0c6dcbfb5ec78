//! Compiling routes: each key to a next hop and an identity, counted so that both go when unused.

use super::{Core, first_prefix};
use crate::state::compile::{CompiledRoute, Context};
use crate::state::diff::Operation;
use crate::state::tables::{NextHop, RouteEntry};
use crate::state::view::Touched;
use ipnet::IpNet;
use skein_policy::Addition;

/// Next hop numbers; 0 discards. The upper end is the datapath's default table size.
const NEXT_HOPS: std::ops::Range<u32> = 1..16_384;
impl Core {
    /// Finds the routes whose compilation may differ under the new context.
    pub(super) fn mark_routes(&self, new: &Context, touched: &mut Touched) {
        let old = &self.context;
        if old.conditions != new.conditions || old.encapsulations != new.encapsulations {
            for (vrf, prefix) in self.merged.prefixes() {
                touched.route(vrf, *prefix);
            }
            for context in [old, new] {
                for (vrf, prefix) in locals(context) {
                    touched.route(vrf, *prefix);
                }
                for vrf in context.vrfs.keys() {
                    context.conditions.iter().for_each(|c| touched.route(vrf, *c));
                    context.derived(vrf).into_iter().for_each(|prefix| touched.route(vrf, prefix));
                }
            }
            return;
        }
        for prefix in old.nodes.symmetric_difference(&new.nodes) {
            new.vrfs.keys().for_each(|vrf| touched.route(vrf, *prefix));
        }
        let underlay = |context: &Context, vrf: &str| {
            context.reach.get(vrf).is_some_and(|reach| reach.underlay)
        };
        // In the underlay, or no more, the same paths lead elsewhere.
        let changed_vrf = |vrf: &str| {
            old.vrfs.get(vrf) != new.vrfs.get(vrf) || underlay(old, vrf) != underlay(new, vrf)
        };
        let loops = old.labels != new.labels;
        for (vrf, prefix) in self.merged.prefixes() {
            let leads_here = || {
                let paths = self.merged.paths(vrf, prefix);
                paths.iter().any(|path| Some(path.next_hop) == new.own_address)
            };
            if changed_vrf(vrf) || (loops && leads_here()) {
                touched.route(vrf, *prefix);
            }
        }
        for (one, other) in [(old, new), (new, old)] {
            for (vrf, prefix) in locals(one) {
                let there = other.local.get(vrf).and_then(|table| table.get(prefix));
                if changed_vrf(vrf) || there != Some(&one.local[vrf][prefix]) {
                    touched.route(vrf, *prefix);
                }
            }
        }
        for vrf in old.vrfs.keys().chain(new.vrfs.keys()) {
            if changed_vrf(vrf) || old.reach.get(vrf) != new.reach.get(vrf) {
                for prefix in old.derived(vrf).into_iter().chain(new.derived(vrf)) {
                    touched.route(vrf, prefix);
                }
            }
        }
        // A VRF that goes takes all its keys with it, those of conditions too.
        for (vrf, number) in &old.vrfs {
            if changed_vrf(vrf) {
                let keys = self.wanted.routes.range((*number, first_prefix())..);
                for ((_, prefix), _) in keys.take_while(|((vrf, _), _)| vrf == number) {
                    touched.route(vrf, *prefix);
                }
            }
        }
    }

    pub(super) fn compile_route(&mut self, vrf: &str, prefix: IpNet) {
        // A VRF that is not ours any more still has its number, for taking its routes out.
        let Some(number) = self.numbers.vrfs.get(&vrf.to_owned()) else { return };
        let key = (number, prefix);
        let known = self.context.vrfs.contains_key(vrf);
        let compiled = if known { self.context.route(&self.merged, vrf, &prefix) } else { None };
        let entry = compiled.and_then(|compiled| self.number_route(&compiled));
        let old = match entry {
            Some(entry) => self.wanted.routes.insert(key, entry),
            None => self.wanted.routes.remove(&key),
        };
        if old != entry {
            if let Some(old) = old {
                self.release_next_hop(old.next_hop);
            }
            self.unsettled.insert(key);
        } else if let Some(entry) = entry {
            // Numbering counted it a second time.
            self.release_next_hop(entry.next_hop);
        }
    }

    fn number_route(&mut self, compiled: &CompiledRoute) -> Option<RouteEntry> {
        let (identity, new) = self.identities.intern(&compiled.identity);
        if new {
            for loaded in self.policies.values_mut() {
                let entries = loaded.program.add(identity, &compiled.identity);
                if entries != Addition::default() {
                    let number = loaded.number;
                    self.policy_work.push(Operation::ExtendPolicy { number, entries });
                }
            }
        }
        let next_hop = match compiled.members.as_slice() {
            [] => return None,
            // Number 0 is that everywhere.
            [NextHop::Discard] => 0,
            [one] => self.use_next_hop(one.clone())?,
            many => {
                let members = many.iter().map(|member| self.use_next_hop(member.clone()));
                let members: Vec<u32> = members.collect::<Option<_>>()?;
                self.use_next_hop(NextHop::Ecmp { members })?
            }
        };
        Some(RouteEntry { next_hop, identity })
    }

    pub(super) fn use_next_hop(&mut self, next_hop: NextHop) -> Option<u32> {
        let Some(number) = self.next_hops.take(&next_hop, NEXT_HOPS) else {
            self.problems.insert("next hops".into(), "no next hop number is free".into());
            return None;
        };
        let users = self.next_hop_users.entry(number).or_default();
        *users += 1;
        if *users > 1 {
            // An ECMP group holds its members once, however many routes use the group.
            if let NextHop::Ecmp { members } = &next_hop {
                members.iter().for_each(|member| self.release_next_hop(*member));
            }
            return Some(number);
        }
        self.wanted.next_hops.insert(number, next_hop);
        Some(number)
    }

    pub(super) fn release_next_hop(&mut self, number: u32) {
        let Some(users) = self.next_hop_users.get_mut(&number) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        self.next_hop_users.remove(&number);
        let Some(next_hop) = self.wanted.next_hops.remove(&number) else { return };
        // The number stays taken until the kernel has forgotten it.
        if !self.applied.next_hops.contains_key(&number) {
            self.next_hops.free(&next_hop);
        }
        if let NextHop::Ecmp { members } = next_hop {
            members.into_iter().for_each(|member| self.release_next_hop(member));
        }
    }
}

fn locals(context: &Context) -> impl Iterator<Item = (&str, &IpNet)> {
    let tables = context.local.iter();
    tables.flat_map(|(vrf, table)| table.keys().map(move |prefix| (vrf.as_str(), prefix)))
}
