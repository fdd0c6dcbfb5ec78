//! Identities: everything a policy can ask about a remote end, as one number.

use crate::Attributes;
use ipnet::IpNet;
use std::collections::HashMap;

/// Number of an identity, as routes and the policy map carry it. Never 0: 0 stands for "anyone", a
/// remote end no rule of the policy names.
pub type IdentityNumber = u32;

/// What is known of the remote ends behind one route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Network, security groups and tags of the route.
    pub attributes: Attributes,
    /// The CIDR peers, of all policies on the node, that contain the route's addresses. Truncated, sorted, unique,
    /// without default prefixes.
    pub prefixes: Vec<IpNet>,
}

impl Identity {
    /// Puts the parts into canonical order.
    #[must_use]
    pub fn new(mut attributes: Attributes, prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        attributes.security_groups.sort_unstable();
        attributes.security_groups.dedup();
        attributes.tags.sort_unstable();
        attributes.tags.dedup();
        let mut prefixes: Vec<IpNet> =
            prefixes.into_iter().filter(|p| p.prefix_len() > 0).map(|p| p.trunc()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        Self { attributes, prefixes }
    }

    /// First choice of a number: a digest of the content (64-bit FNV-1a folded to 32 bits), so that an agent
    /// that starts again gives the same numbers as the one whose routes and policies are still in the kernel.
    fn digest(&self) -> u32 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        let mut eat = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        eat(&self.attributes.network.to_be_bytes());
        for part in [&self.attributes.security_groups, &self.attributes.tags] {
            eat(&(part.len() as u64).to_be_bytes());
            part.iter().for_each(|id| eat(&id.to_be_bytes()));
        }
        for prefix in &self.prefixes {
            match prefix {
                IpNet::V4(p) => eat(&p.addr().octets()),
                IpNet::V6(p) => eat(&p.addr().octets()),
            }
            eat(&[prefix.prefix_len()]);
        }
        ((hash >> 32) ^ hash) as u32
    }
}

/// The identities of one node: content to number and back. A number, once given, stays with its content until the
/// identity is forgotten.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    numbers: HashMap<Identity, IdentityNumber>,
    contents: HashMap<IdentityNumber, Identity>,
}

impl Identities {
    /// The number of an identity, and whether it is new. A new one must be added to every loaded policy before a
    /// route carries it: a policy treats an identity it has never seen as "anyone".
    pub fn intern(&mut self, identity: &Identity) -> (IdentityNumber, bool) {
        if let Some(&number) = self.numbers.get(identity) {
            return (number, false);
        }
        let mut number = identity.digest();
        while number == 0 || self.contents.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        self.numbers.insert(identity.clone(), number);
        self.contents.insert(number, identity.clone());
        (number, true)
    }

    /// Gives back a number that was saved; `false` if the number or the identity is already in use otherwise.
    pub fn restore(&mut self, number: IdentityNumber, identity: &Identity) -> bool {
        if number == 0 {
            return false;
        }
        match (self.numbers.get(identity), self.contents.get(&number)) {
            (Some(have), _) => *have == number,
            (None, Some(_)) => false,
            (None, None) => {
                self.numbers.insert(identity.clone(), number);
                self.contents.insert(number, identity.clone());
                true
            }
        }
    }

    /// Frees a number. Only when no route and no policy uses it any more.
    pub fn forget(&mut self, number: IdentityNumber) -> Option<Identity> {
        let identity = self.contents.remove(&number)?;
        self.numbers.remove(&identity);
        Some(identity)
    }

    /// What a number stands for.
    #[must_use]
    pub fn get(&self, number: IdentityNumber) -> Option<&Identity> {
        self.contents.get(&number)
    }

    /// All identities, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (IdentityNumber, &Identity)> {
        self.contents.iter().map(|(number, identity)| (*number, identity))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.contents.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.contents.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(network: u32) -> Identity {
        Identity::new(Attributes { network, ..Attributes::default() }, [])
    }

    #[test]
    fn numbers_are_stable_across_restarts_and_orders() {
        let (mut a, mut b) = (Identities::default(), Identities::default());
        let forward: Vec<_> = (1..100).map(|n| a.intern(&of(n)).0).collect();
        let mut backward: Vec<_> = (1..100).rev().map(|n| b.intern(&of(n)).0).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert!(!a.intern(&of(7)).1);
        assert_eq!(a.get(forward[6]), Some(&of(7)));
    }

    #[test]
    fn a_taken_number_moves_the_newcomer() {
        let mut ids = Identities::default();
        let wanted = of(5).digest();
        assert!(ids.restore(wanted, &of(6)));
        assert_eq!(ids.intern(&of(5)), (wanted.wrapping_add(1), true));
        assert!(!ids.restore(0, &of(9)));
    }
}
