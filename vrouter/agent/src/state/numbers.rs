//! Numbers the agent gives: VRFs, labels, next hops, policies. VRFs and labels are kept on disk, because
//! other nodes hold them; next hops and policies are read back from the kernel.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Labels below 16 are reserved (RFC 3032, section 2.1); labels have 20 bits, and so fit a VNI.
pub(crate) const LABELS: Range<u32> = 16..1 << 20;
/// VRF numbers: 16 bits as in the original, 0 is the underlay.
pub(crate) const VRFS: Range<u32> = 1..1 << 16;

/// Names to numbers of one kind. A freed number is not given again soon: the search goes on from the
/// last one, so that a late packet for the old owner does not reach a new one.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(from = "Saved<K>", into = "Saved<K>", bound(serialize = "K: Ord + Clone + Serialize"))]
#[serde(bound(deserialize = "K: Ord + Clone + Deserialize<'de>"))]
pub(crate) struct Pool<K: Ord + Clone> {
    given: BTreeMap<K, u32>,
    taken: BTreeSet<u32>,
    last: u32,
}

#[derive(Serialize, Deserialize)]
struct Saved<K: Ord> {
    given: BTreeMap<K, u32>,
    last: u32,
}

impl<K: Ord + Clone> From<Saved<K>> for Pool<K> {
    fn from(saved: Saved<K>) -> Self {
        let taken = saved.given.values().copied().collect();
        Self { given: saved.given, taken, last: saved.last }
    }
}

impl<K: Ord + Clone> From<Pool<K>> for Saved<K> {
    fn from(pool: Pool<K>) -> Self {
        Self { given: pool.given, last: pool.last }
    }
}

impl<K: Ord + Clone> Default for Pool<K> {
    fn default() -> Self {
        Self { given: BTreeMap::new(), taken: BTreeSet::new(), last: 0 }
    }
}

impl<K: Ord + Clone> Pool<K> {
    pub(crate) fn get(&self, name: &K) -> Option<u32> {
        self.given.get(name).copied()
    }

    /// The number of `name`, given now if it has none; `None` when all of `range` are taken.
    pub(crate) fn take(&mut self, name: &K, range: Range<u32>) -> Option<u32> {
        if let Some(number) = self.get(name) {
            return Some(number);
        }
        let next = self.last.wrapping_add(1);
        let start = if range.contains(&next) { next } else { range.start };
        let number =
            (start..range.end).chain(range.start..start).find(|n| !self.taken.contains(n))?;
        self.set(name.clone(), number);
        Some(number)
    }

    /// Records a number found in the kernel.
    pub(crate) fn set(&mut self, name: K, number: u32) {
        self.last = number;
        self.taken.insert(number);
        if let Some(old) = self.given.insert(name, number).filter(|old| *old != number) {
            self.taken.remove(&old);
        }
    }

    /// Goes on behind `number`.
    fn go_on_after(&mut self, number: u32) {
        self.last = number;
    }

    pub(crate) fn free(&mut self, name: &K) {
        if let Some(number) = self.given.remove(name) {
            self.taken.remove(&number);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.given.iter().map(|(name, number)| (name, *number))
    }
}

/// The numbers that outlive the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Numbers {
    /// By routing instance name.
    #[serde(default)]
    pub(crate) vrfs: Pool<String>,
    /// By interface uuid.
    #[serde(default)]
    pub(crate) labels: Pool<uuid::Uuid>,
    /// Metadata addresses by interface uuid.
    #[serde(default)]
    pub(crate) metadata: Pool<uuid::Uuid>,
}

/// More labels than an agent gives before what it gave is on the disk.
const MAYBE_GIVEN: u32 = 4096;

impl Numbers {
    /// What was given last may have been forgotten, by a loss of power: those numbers are not given to others soon, as
    /// other nodes may hold them.
    pub(crate) fn skip_forgotten(&mut self) {
        let (first, count) = (LABELS.start, LABELS.end - LABELS.start);
        let last = self.labels.last.max(first) - first;
        self.labels.go_on_after(first + (last + MAYBE_GIVEN) % count);
    }

    /// All that was given may have been forgotten: labels begin anywhere, not where they began the last time.
    pub(crate) fn begin_anywhere(&mut self) {
        let count = u128::from(LABELS.end - LABELS.start);
        let some = u32::try_from(uuid::Uuid::new_v4().as_u128() % count).unwrap_or(0);
        self.labels.go_on_after(LABELS.start + some);
    }

    /// A port is gone for good: its numbers may go to another, later.
    pub(crate) fn forget(&mut self, port: &uuid::Uuid) {
        self.labels.free(port);
        self.metadata.free(port);
    }

    /// Interfaces by label.
    #[must_use]
    pub fn label_owners(&self) -> BTreeMap<u32, uuid::Uuid> {
        self.labels.iter().map(|(uuid, label)| (label, *uuid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_and_are_not_reused_at_once() {
        let mut pool = Pool::default();
        assert_eq!(pool.take(&"a", 16..20), Some(16));
        assert_eq!(pool.take(&"b", 16..20), Some(17));
        assert_eq!(pool.take(&"a", 16..20), Some(16));
        pool.free(&"a");
        assert_eq!(pool.take(&"c", 16..20), Some(18));
        assert_eq!(pool.take(&"d", 16..20), Some(19));
        assert_eq!(pool.take(&"e", 16..20), Some(16));
        assert_eq!(pool.take(&"f", 16..20), None);
    }

    #[test]
    fn labels_that_may_be_forgotten_are_not_given_again_soon() {
        let port = uuid::Uuid::from_u128;
        let mut numbers = Numbers::default();
        for n in 0..100 {
            numbers.labels.take(&port(n), LABELS).unwrap();
        }
        let mut older = numbers.clone();
        for n in 100..1000 {
            numbers.labels.take(&port(n), LABELS).unwrap();
        }
        older.skip_forgotten();
        for n in 1000..1100 {
            let label = older.labels.take(&port(n), LABELS).unwrap();
            assert!(!numbers.labels.taken.contains(&label), "{label}");
        }
        assert_eq!(older.labels.get(&port(7)), numbers.labels.get(&port(7)));
        // Around the end of the range.
        older.labels.go_on_after(LABELS.end - 1);
        older.skip_forgotten();
        assert!(LABELS.contains(&older.labels.take(&port(2000), LABELS).unwrap()));
        let mut new = Numbers::default();
        new.begin_anywhere();
        assert!(LABELS.contains(&new.labels.take(&port(1), LABELS).unwrap()));
    }

    #[test]
    fn a_saved_pool_goes_on_where_it_stopped() {
        let mut pool: Pool<String> = Pool::default();
        pool.take(&"a".into(), 16..20);
        pool.take(&"b".into(), 16..20);
        pool.free(&"a".into());
        let text = serde_json::to_string(&pool).unwrap();
        let mut again: Pool<String> = serde_json::from_str(&text).unwrap();
        assert_eq!(again, pool);
        assert_eq!(again.take(&"c".into(), 16..20), Some(18));
    }
}
