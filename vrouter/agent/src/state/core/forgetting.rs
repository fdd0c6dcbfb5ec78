//! Identities that nobody has any more. Each costs entries in every policy that tells it from others, and clusters
//! make new ones for as long as they live: a namespace that comes and goes leaves some behind.

use super::Core;
use crate::state::diff::Operation;
use std::collections::{BTreeSet, HashSet};

/// So many are kept without a look at what they are good for.
pub(super) const SPARE: usize = 256;

impl Core {
    /// Forgets identities that no route carries, neither a wanted one nor one in the kernel, once there are twice as many as
    /// were of use the last time. The kernel looks identities up by routes alone, so nobody asks for them any more.
    pub(super) fn forget_identities(&mut self) {
        if self.identities.len() <= self.identity_limit {
            return;
        }
        let routes = self.wanted.routes.values().chain(self.applied.routes.values());
        let used: HashSet<u32> = routes.map(|route| route.identity).collect();
        let all = self.identities.iter().map(|(number, _)| number);
        let gone: BTreeSet<u32> = all.filter(|number| !used.contains(number)).collect();
        for number in &gone {
            self.identities.forget(*number);
        }
        self.identity_limit = match self.identity_spare {
            0 => 0,
            spare => spare.max(2 * self.identities.len()),
        };
        if gone.is_empty() {
            return;
        }
        // What is not in the kernel yet need not get there.
        self.policy_work.retain_mut(|work| match work {
            Operation::LoadPolicy { entries, .. } => {
                entries.entries.retain(|entry| !gone.contains(&entry.identity));
                true
            }
            Operation::ExtendPolicy { entries, .. } => {
                entries.entries.retain(|entry| !gone.contains(&entry.identity));
                *entries != skein_policy::Addition::default()
            }
            _ => true,
        });
        // First of all: a number may stand for another identity in what comes behind, and a full table needs the room.
        let loaded = self.policies.values().map(|loaded| loaded.number);
        let loaded = loaded.filter(|number| self.applied_policies.contains(number));
        let shrinks = loaded
            .map(|number| Operation::ShrinkPolicy { number, identities: gone.clone() })
            .collect::<Vec<_>>();
        self.policy_work.splice(0..0, shrinks);
    }

    /// Keeps no identity that is of no use, not even for a while.
    #[cfg(test)]
    pub(crate) fn without_spare_identities(mut self) -> Self {
        (self.identity_spare, self.identity_limit) = (0, 0);
        self
    }

    /// How many identities are known.
    #[must_use]
    pub fn identity_count(&self) -> usize {
        self.identities.len()
    }
}
