//! Numbers handed out lowest first: network ids, security group ids, route targets, tag values.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use uuid::Uuid;

/// One space of numbers, each with at most one owner.
#[derive(Debug, Clone)]
pub struct NumberPool {
    range: RangeInclusive<u64>,
    owners: BTreeMap<u64, Uuid>,
    /// Numbers below `next` that are free again.
    freed: BTreeSet<u64>,
    /// Every free number that is not in `freed` is at least this.
    next: u64,
}

impl NumberPool {
    /// An empty pool that allocates from `range`. Numbers outside it may still be taken by name.
    #[must_use]
    pub fn new(range: RangeInclusive<u64>) -> Self {
        Self { next: *range.start(), range, owners: BTreeMap::new(), freed: BTreeSet::new() }
    }

    /// Hands out the lowest free number, or none if all are taken.
    pub fn allocate(&mut self, owner: Uuid) -> Option<u64> {
        if let Some(number) = self.freed.pop_first() {
            self.owners.insert(number, owner);
            return Some(number);
        }
        while self.range.contains(&self.next) {
            let number = self.next;
            self.next += 1;
            if let std::collections::btree_map::Entry::Vacant(slot) = self.owners.entry(number) {
                slot.insert(owner);
                return Some(number);
            }
        }
        None
    }

    /// Takes one number. Returns the holder if someone else has it.
    ///
    /// # Errors
    /// The current holder.
    pub fn take(&mut self, number: u64, owner: Uuid) -> Result<(), Uuid> {
        match self.owners.get(&number) {
            Some(holder) if *holder != owner => Err(*holder),
            Some(_) => Ok(()),
            None => {
                self.freed.remove(&number);
                self.owners.insert(number, owner);
                Ok(())
            }
        }
    }

    /// Gives a number back if `owner` holds it.
    pub fn release(&mut self, number: u64, owner: Uuid) -> bool {
        if self.owners.get(&number) != Some(&owner) {
            return false;
        }
        self.owners.remove(&number);
        if number < self.next && self.range.contains(&number) {
            self.freed.insert(number);
        }
        true
    }

    /// Who holds a number.
    #[must_use]
    pub fn owner(&self, number: u64) -> Option<Uuid> {
        self.owners.get(&number).copied()
    }

    /// Numbers with their holders, in order.
    pub fn owners(&self) -> impl Iterator<Item = (u64, Uuid)> + '_ {
        self.owners.iter().map(|(number, owner)| (*number, *owner))
    }

    /// How many numbers are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// True if none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::NumberPool;

    fn who(n: u8) -> Uuid {
        Uuid::from_u128(u128::from(n) + 1)
    }

    #[test]
    fn a_number_freed_is_the_next_one_given() {
        let mut pool = NumberPool::new(1..=10);
        for expected in 1..=5 {
            assert_eq!(pool.allocate(who(0)), Some(expected));
        }
        assert!(pool.release(2, who(0)));
        assert!(pool.release(4, who(0)));
        assert_eq!(pool.allocate(who(0)), Some(2));
        assert_eq!(pool.allocate(who(0)), Some(4));
        assert_eq!(pool.allocate(who(0)), Some(6));
    }

    proptest! {
        /// Against the obvious model: the lowest number of the range that is not in the map.
        #[test]
        fn matches_the_naive_pool(ops in prop::collection::vec((0u8..3, 0u64..24, 0u8..3), 0..200)) {
            let mut pool = NumberPool::new(2..=17);
            let mut naive: BTreeMap<u64, Uuid> = BTreeMap::new();
            for (op, number, owner) in ops {
                let owner = who(owner);
                match op {
                    0 => {
                        let expected = (2..=17).find(|n| !naive.contains_key(n));
                        prop_assert_eq!(pool.allocate(owner), expected);
                        if let Some(n) = expected { naive.insert(n, owner); }
                    }
                    1 => {
                        let expected = match naive.get(&number) {
                            Some(h) if *h != owner => Err(*h),
                            _ => { naive.insert(number, owner); Ok(()) }
                        };
                        prop_assert_eq!(pool.take(number, owner), expected);
                    }
                    _ => {
                        let expected = naive.get(&number) == Some(&owner);
                        if expected { naive.remove(&number); }
                        prop_assert_eq!(pool.release(number, owner), expected);
                    }
                }
                prop_assert_eq!(pool.len(), naive.len());
            }
        }
    }
}
