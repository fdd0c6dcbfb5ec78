//! From a function over the 65,536 ports to the fewest prefixes whose longest match computes it.
//!
//! This is the optimal routing table construction of Draves, King, Venkatachary and Zill (ORTC, 1999): going up, a
//! node keeps the values that make both halves cheapest; going down, a value is written only where
//! it differs from what the nearest ancestor already says.

use std::ops::RangeInclusive;

/// A piecewise constant function: each value holds from its start to the next start; the first starts at 0.
pub(crate) type Steps<V> = Vec<(u16, V)>;

/// A port prefix with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PortPrefix<V> {
    pub(crate) port: u16,
    pub(crate) bits: u8,
    pub(crate) value: V,
}

/// Sorted, disjoint, non-empty ranges that cover the same ports.
pub(crate) fn normalise(ranges: &[RangeInclusive<u16>]) -> Vec<RangeInclusive<u16>> {
    let mut sorted: Vec<_> = ranges.iter().filter(|r| !r.is_empty()).cloned().collect();
    sorted.sort_unstable_by_key(|r| *r.start());
    let mut merged: Vec<RangeInclusive<u16>> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if u32::from(*range.start()) <= u32::from(*last.end()) + 1 => {
                *last = *last.start()..=(*last.end()).max(*range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Drops steps that change nothing.
pub(crate) fn simplify<V: PartialEq>(steps: &mut Steps<V>) {
    steps.dedup_by(|next, kept| next.1 == kept.1);
}

/// The minimal prefix set for `steps`, given the value that holds where no prefix matches.
pub(crate) fn prefixes<V: Copy + Ord>(
    steps: &[(u16, V)],
    inherited: Option<V>,
) -> Vec<PortPrefix<V>> {
    let mut found = Vec::new();
    if let Some(root) = Node::build(steps, 0, 0) {
        root.emit(inherited, 0, 0, &mut found);
    }
    found
}

struct Node<V> {
    /// Values with which this half of the tree is cheapest; sorted.
    choices: Vec<V>,
    children: Option<Box<[Node<V>; 2]>>,
}

impl<V: Copy + Ord> Node<V> {
    /// `steps` begins with the step in force at `base`.
    fn build(steps: &[(u16, V)], base: u32, bits: u8) -> Option<Self> {
        let first = steps.first()?;
        if steps.len() == 1 {
            return Some(Self { choices: vec![first.1], children: None });
        }
        let half = base + (0x8000_u32 >> bits);
        // Steps that start before the middle, and those in force from the middle on.
        let split = steps.partition_point(|s| u32::from(s.0) < half);
        let from = if steps.get(split).is_some_and(|s| u32::from(s.0) == half) {
            split
        } else {
            split.max(1) - 1
        };
        let left = Self::build(&steps[..split.max(1)], base, bits + 1)?;
        let right = Self::build(&steps[from..], half, bits + 1)?;
        let both: Vec<V> =
            left.choices.iter().filter(|v| right.choices.contains(v)).copied().collect();
        let choices = if both.is_empty() {
            let mut either = [left.choices.as_slice(), right.choices.as_slice()].concat();
            either.sort_unstable();
            either.dedup();
            either
        } else {
            both
        };
        Some(Self { choices, children: Some(Box::new([left, right])) })
    }

    fn emit(&self, inherited: Option<V>, base: u32, bits: u8, out: &mut Vec<PortPrefix<V>>) {
        let value = match inherited {
            Some(value) if self.choices.contains(&value) => value,
            _ => {
                let value = self.choices[0];
                out.push(PortPrefix { port: base as u16, bits, value });
                value
            }
        };
        if let Some(children) = &self.children {
            children[0].emit(Some(value), base, bits + 1, out);
            children[1].emit(Some(value), base + (0x8000_u32 >> bits), bits + 1, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lookup(table: &[PortPrefix<u8>], port: u16, inherited: u8) -> u8 {
        table
            .iter()
            .filter(|p| p.bits == 0 || (p.port ^ port) >> (16 - p.bits) == 0)
            .max_by_key(|p| p.bits)
            .map_or(inherited, |p| p.value)
    }

    #[test]
    fn one_hole_in_everything_costs_its_own_prefixes_only() {
        let found = prefixes(&[(0, 1), (80, 2), (81, 1)], Some(1));
        assert_eq!(found, vec![PortPrefix { port: 80, bits: 16, value: 2 }]);
    }

    #[test]
    fn ranges_are_merged() {
        assert_eq!(normalise(&[5..=9, 1..=4, 20..=20, 8..=12]), vec![1..=12, 20..=20]);
        #[expect(clippy::reversed_empty_ranges, reason = "an empty range is the case under test")]
        let empty = normalise(&[9..=3]);
        assert!(empty.is_empty());
    }

    proptest! {
        #[test]
        fn longest_match_equals_the_function(
            cuts in proptest::collection::btree_map(any::<u16>(), 0u8..3, 0..20),
            probes in proptest::collection::vec(any::<u16>(), 50),
            inherited in 0u8..3,
        ) {
            let mut steps: Steps<u8> = vec![(0, 0)];
            steps.extend(cuts.iter().filter(|(p, _)| **p > 0).map(|(p, v)| (*p, *v)));
            simplify(&mut steps);
            let table = prefixes(&steps, Some(inherited));
            let edges = cuts.keys().flat_map(|p| [*p, p.wrapping_sub(1)]);
            for port in probes.into_iter().chain(edges) {
                let expected = steps.iter().rev().find(|s| s.0 <= port).map(|s| s.1);
                prop_assert_eq!(Some(lookup(&table, port, inherited)), expected);
            }
        }
    }
}
