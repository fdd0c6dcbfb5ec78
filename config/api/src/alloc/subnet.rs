//! Addresses of one subnet.
//!
//! A subnet hands out addresses from its pools (the whole prefix if it names none), from the top downwards unless
//! `addr_from_start` says otherwise. A pool is a bitmap with one bit an allocation unit, counted from the end that
//! is used first, so "the best free address" is the first zero bit. Owners are kept beside it, because an
//! address may also be taken by name outside every pool.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use uuid::Uuid;

/// Bits kept for one pool: more than this many units of a pool are not handed out by themselves (spec section 13).
const TRACKED: u128 = 65_536;

/// A span of addresses that may be handed out, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolRange {
    /// First address.
    pub start: IpAddr,
    /// Last address.
    pub end: IpAddr,
    /// Only for requests that are bound to a vRouter.
    pub vrouter_specific: bool,
}

/// What decides which addresses a subnet hands out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubnetSpec {
    /// Network address and length.
    pub prefix: IpNet,
    /// Default gateway, if there is one; never handed out.
    pub gateway: Option<IpAddr>,
    /// Address of DNS and metadata services, if there is one; never handed out.
    pub service: Option<IpAddr>,
    /// Lowest free address first.
    pub from_start: bool,
    /// Addresses come in aligned blocks of this size; a power of two.
    pub unit: u32,
    /// Where to take addresses from; empty means the whole prefix.
    pub pools: Vec<PoolRange>,
}

/// How a request by address was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// The address now belongs to the caller.
    Reserved,
    /// Gateway or service address: usable, but it stays with the subnet.
    Shared,
}

/// Why an address was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Someone has it.
    Taken(Uuid),
    /// It is the network or broadcast address, or its unit holds an address that is never handed out.
    Reserved,
    /// It does not start an allocation unit.
    Misaligned,
    /// It is not in the subnet.
    Outside,
}

/// One pool as bits. Bit 0 is the unit that goes out first.
#[derive(Debug, Clone)]
struct Bits {
    /// Lowest and highest aligned unit.
    first: u128,
    last: u128,
    words: Vec<u64>,
    count: u64,
    /// All words before this one are full.
    hint: usize,
    /// The pool as it was written.
    span: (u128, u128),
    vrouter_specific: bool,
}

/// The addresses of one subnet and who has them.
#[derive(Debug, Clone)]
pub struct SubnetPool {
    spec: SubnetSpec,
    ranges: Vec<Bits>,
    owners: BTreeMap<u128, Uuid>,
}

/// An address as a number.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// A number as an address of the family of `like`.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // an IPv4 number came from 32 bits
pub fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl SubnetPool {
    /// A subnet with no address given out.
    #[must_use]
    pub fn new(spec: SubnetSpec) -> Self {
        let mut pool = Self { spec, ranges: Vec::new(), owners: BTreeMap::new() };
        pool.rebuild();
        pool
    }

    /// Changes the rules and keeps the owners.
    pub fn reconfigure(&mut self, spec: SubnetSpec) {
        self.spec = spec;
        self.rebuild();
    }

    /// The rules in force.
    #[must_use]
    pub fn spec(&self) -> &SubnetSpec {
        &self.spec
    }

    /// Whether an address lies in the prefix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.spec.prefix.contains(&address)
    }

    /// Hands out the best free address, or none if the pools are exhausted. `bound_to` are the pools of a vRouter,
    /// whose requests are served from those and nothing else.
    pub fn allocate(
        &mut self,
        owner: Uuid,
        bound_to: Option<&[(IpAddr, IpAddr)]>,
    ) -> Option<IpAddr> {
        let from_start = self.spec.from_start;
        let unit = u128::from(self.spec.unit);
        let order: Box<dyn Iterator<Item = &mut Bits>> = if from_start {
            Box::new(self.ranges.iter_mut())
        } else {
            Box::new(self.ranges.iter_mut().rev())
        };
        let like = self.spec.prefix.addr();
        let eligible = |range: &&mut Bits| match bound_to {
            None => !range.vrouter_specific,
            Some(pools) => {
                let span = (address(range.span.0, like), address(range.span.1, like));
                range.vrouter_specific && pools.contains(&span)
            }
        };
        for range in order.filter(eligible) {
            if let Some(slot) = range.first_free() {
                range.set(slot, true);
                let number = if from_start {
                    range.first + u128::from(slot) * unit
                } else {
                    range.last - u128::from(slot) * unit
                };
                self.owners.insert(number, owner);
                return Some(address(number, like));
            }
        }
        None
    }

    /// Takes one address by name. It may lie outside the pools.
    ///
    /// # Errors
    /// Why not.
    pub fn take(&mut self, wanted: IpAddr, owner: Uuid) -> Result<Grant, Refusal> {
        match self.check(wanted)? {
            Grant::Shared => Ok(Grant::Shared),
            Grant::Reserved => {
                let n = number(wanted);
                self.owners.insert(n, owner);
                self.mark(n, true);
                Ok(Grant::Reserved)
            }
        }
    }

    /// Whether an address could be taken.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, wanted: IpAddr) -> Result<Grant, Refusal> {
        if !self.contains(wanted) {
            return Err(Refusal::Outside);
        }
        if Some(wanted) == self.spec.gateway || Some(wanted) == self.spec.service {
            return Ok(Grant::Shared);
        }
        let n = number(wanted);
        if n == number(self.spec.prefix.network()) || n == number(self.spec.prefix.broadcast()) {
            return Err(Refusal::Reserved);
        }
        if !(n - number(self.spec.prefix.network())).is_multiple_of(u128::from(self.spec.unit)) {
            return Err(Refusal::Misaligned);
        }
        let unit = n..n.saturating_add(u128::from(self.spec.unit));
        if self.spec.unit > 1 && self.reserved().iter().any(|r| unit.contains(r)) {
            return Err(Refusal::Reserved);
        }
        match self.owners.get(&n) {
            Some(holder) => Err(Refusal::Taken(*holder)),
            None => Ok(Grant::Reserved),
        }
    }

    /// Puts an owner back as it was stored, without any check.
    pub fn restore(&mut self, address: IpAddr, owner: Uuid) {
        let n = number(address);
        self.owners.insert(n, owner);
        self.mark(n, true);
    }

    /// Gives an address back if `owner` holds it.
    pub fn release(&mut self, address: IpAddr, owner: Uuid) -> bool {
        let n = number(address);
        if self.owners.get(&n) != Some(&owner) {
            return false;
        }
        self.owners.remove(&n);
        self.mark(n, false);
        true
    }

    /// Who has an address.
    #[must_use]
    pub fn owner(&self, address: IpAddr) -> Option<Uuid> {
        self.owners.get(&number(address)).copied()
    }

    /// Addresses with an owner, in order.
    pub fn taken(&self) -> impl Iterator<Item = (IpAddr, Uuid)> + '_ {
        let like = self.spec.prefix.addr();
        self.owners.iter().map(move |(n, owner)| (address(*n, like), *owner))
    }

    /// Whether any address has an owner.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        !self.owners.is_empty()
    }

    /// How many addresses are not free: those with owners and the reserved ones.
    #[must_use]
    pub fn used(&self) -> usize {
        let mut reserved = self.reserved();
        reserved.retain(|n| !self.owners.contains_key(n));
        self.owners.len() + reserved.len()
    }

    /// Network, broadcast, gateway and service address, without repetition.
    fn reserved(&self) -> Vec<u128> {
        let mut reserved =
            vec![number(self.spec.prefix.network()), number(self.spec.prefix.broadcast())];
        reserved.extend(self.spec.gateway.filter(|a| self.contains(*a)).map(number));
        reserved.extend(self.spec.service.filter(|a| self.contains(*a)).map(number));
        reserved.sort_unstable();
        reserved.dedup();
        reserved
    }

    fn rebuild(&mut self) {
        let base = number(self.spec.prefix.network());
        let top = number(self.spec.prefix.broadcast());
        let unit = u128::from(self.spec.unit.max(1));
        let mut spans: Vec<(u128, u128, bool)> = self
            .spec
            .pools
            .iter()
            .map(|p| (number(p.start), number(p.end), p.vrouter_specific))
            .collect();
        if spans.is_empty() {
            spans.push((base, top, false));
        }
        spans.sort_unstable();
        self.ranges = spans
            .into_iter()
            .filter_map(|(start, end, vrouter_specific)| {
                let first = base + (start.max(base) - base).div_ceil(unit) * unit;
                // Last unit that ends inside the pool; the top of the address space must not overflow.
                let units =
                    (end.min(top) - base).checked_add(1).map_or(u128::MAX / unit, |n| n / unit);
                let last = base + units.checked_sub(1)? * unit;
                if last < first {
                    return None;
                }
                let count = ((last - first) / unit).saturating_add(1).min(TRACKED);
                let words = vec![0; usize::try_from(count.div_ceil(64)).ok()?];
                Some(Bits {
                    first,
                    last,
                    words,
                    count: u64::try_from(count).ok()?,
                    hint: 0,
                    span: (start, end),
                    vrouter_specific,
                })
            })
            .collect();
        for n in self.reserved() {
            self.mark(base + (n - base) / unit * unit, true);
        }
        let taken: Vec<u128> = self.owners.keys().copied().collect();
        for n in taken {
            self.mark(n, true);
        }
    }

    fn mark(&mut self, n: u128, used: bool) {
        let unit = u128::from(self.spec.unit.max(1));
        let from_start = self.spec.from_start;
        for range in &mut self.ranges {
            if (range.first..=range.last).contains(&n) {
                let slot =
                    if from_start { (n - range.first) / unit } else { (range.last - n) / unit };
                if slot < u128::from(range.count) {
                    #[allow(clippy::cast_possible_truncation)] // less than count, a u64
                    range.set(slot as u64, used);
                }
            }
        }
    }
}

impl Bits {
    fn first_free(&mut self) -> Option<u64> {
        while let Some(word) = self.words.get(self.hint) {
            if *word != u64::MAX {
                let slot = self.hint as u64 * 64 + u64::from(word.trailing_ones());
                return (slot < self.count).then_some(slot);
            }
            self.hint += 1;
        }
        None
    }

    fn set(&mut self, slot: u64, used: bool) {
        let Some(word) = usize::try_from(slot / 64).ok().filter(|w| *w < self.words.len()) else {
            return;
        };
        let bit = 1u64 << (slot % 64);
        if used {
            self.words[word] |= bit;
        } else {
            self.words[word] &= !bit;
            self.hint = self.hint.min(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn owner(n: u8) -> Uuid {
        Uuid::from_u128(u128::from(n) + 1)
    }

    fn spec(prefix: &str, from_start: bool) -> SubnetSpec {
        let prefix: IpNet = prefix.parse().unwrap();
        let (base, top) = (number(prefix.network()), number(prefix.broadcast()));
        let like = prefix.addr();
        let (gateway, service) = if from_start { (base + 1, base + 2) } else { (top - 1, top - 2) };
        SubnetSpec {
            prefix,
            gateway: Some(address(gateway, like)),
            service: Some(address(service, like)),
            from_start,
            unit: 1,
            pools: vec![],
        }
    }

    #[test]
    fn a_bare_slash_24_gives_252_first() {
        let mut pool = SubnetPool::new(spec("10.1.2.0/24", false));
        assert_eq!(pool.allocate(owner(0), None), Some("10.1.2.252".parse().unwrap()));
        assert_eq!(pool.allocate(owner(0), None), Some("10.1.2.251".parse().unwrap()));
        assert!(pool.release("10.1.2.252".parse().unwrap(), owner(0)));
        assert_eq!(pool.allocate(owner(0), None), Some("10.1.2.252".parse().unwrap()));
        assert_eq!(pool.used(), 4 + 2);
    }

    #[test]
    fn from_start_gives_3_first() {
        let mut pool = SubnetPool::new(spec("10.1.2.0/24", true));
        assert_eq!(pool.allocate(owner(0), None), Some("10.1.2.3".parse().unwrap()));
    }

    #[test]
    fn a_slash_64_hands_out_its_tracked_part_and_takes_any_address() {
        let mut pool = SubnetPool::new(spec("fd00::/64", false));
        assert_eq!(
            pool.allocate(owner(0), None),
            Some("fd00::ffff:ffff:ffff:fffc".parse().unwrap())
        );
        let far = "fd00::1234".parse().unwrap();
        assert_eq!(pool.take(far, owner(1)), Ok(Grant::Reserved));
        assert_eq!(pool.take(far, owner(2)), Err(Refusal::Taken(owner(1))));
        let mut given = 1;
        while pool.allocate(owner(0), None).is_some() {
            given += 1;
        }
        assert_eq!(given, 65_536 - 3);
    }

    #[test]
    fn units_are_aligned_and_never_hold_a_reserved_address() {
        let mut pool = SubnetPool::new(SubnetSpec { unit: 4, ..spec("10.0.0.0/28", true) });
        assert_eq!(pool.allocate(owner(0), None), Some("10.0.0.4".parse().unwrap()));
        assert_eq!(pool.allocate(owner(0), None), Some("10.0.0.8".parse().unwrap()));
        assert_eq!(pool.allocate(owner(0), None), None);
        assert_eq!(pool.take("10.0.0.5".parse().unwrap(), owner(0)), Err(Refusal::Misaligned));
    }

    #[test]
    fn the_whole_ipv6_space_does_not_overflow() {
        let mut pool =
            SubnetPool::new(SubnetSpec { gateway: None, service: None, ..spec("::/0", true) });
        assert_eq!(pool.allocate(owner(0), None), Some("::1".parse().unwrap()));
    }

    #[derive(Debug, Clone)]
    enum Op {
        Allocate(u8),
        Take(u128, u8),
        Release(u128, u8),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        prop::collection::vec(
            prop_oneof![
                3 => (0u8..4).prop_map(Op::Allocate),
                1 => (0u128..40, 0u8..4).prop_map(|(a, o)| Op::Take(a, o)),
                2 => (0u128..40, 0u8..4).prop_map(|(a, o)| Op::Release(a, o)),
            ],
            0..150,
        )
    }

    proptest! {
        /// The bitmap against a map that is searched address by address.
        #[test]
        fn matches_the_naive_allocator(
            ops in ops(),
            from_start: bool,
            unit_log in 0u32..3,
            pools in prop::collection::vec((0u128..32, 0u128..32), 0..3),
        ) {
            let mut s = spec("10.9.8.0/27", from_start);
            s.unit = 1 << unit_log;
            let base = number(s.prefix.network());
            let like = s.prefix.addr();
            // Disjoint pools, as the API's checks guarantee.
            let mut cuts: Vec<u128> = pools.iter().flat_map(|(a, b)| [*a, *b]).collect();
            cuts.sort_unstable();
            cuts.dedup();
            s.pools = cuts.chunks_exact(2).map(|c| PoolRange {
                start: address(base + c[0], like), end: address(base + c[1], like), vrouter_specific: false,
            }).collect();
            let unit = u128::from(s.unit);
            let reserved: Vec<u128> = [Some(s.prefix.network()), Some(s.prefix.broadcast()), s.gateway, s.service]
                .into_iter().flatten().map(number).collect();
            let spans: Vec<(u128, u128)> = if s.pools.is_empty() { vec![(base, base + 31)] } else {
                s.pools.iter().map(|p| (number(p.start), number(p.end))).collect()
            };
            let mut pool = SubnetPool::new(s.clone());
            let mut naive: BTreeMap<u128, Uuid> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Allocate(o) => {
                        let fits = |n: &u128| (*n - base).is_multiple_of(unit)
                            && spans.iter().any(|(a, b)| *a <= *n && *n + unit - 1 <= *b)
                            && !reserved.iter().any(|r| *n <= *r && *r < *n + unit)
                            && !naive.contains_key(n);
                        let expected = if from_start {
                            (base..base + 32).find(fits)
                        } else {
                            (base..base + 32).rev().find(fits)
                        };
                        prop_assert_eq!(pool.allocate(owner(o), None).map(number), expected);
                        if let Some(n) = expected { naive.insert(n, owner(o)); }
                    }
                    Op::Take(offset, o) => {
                        let n = base + offset;
                        let expected = if offset >= 32 { Err(Refusal::Outside) }
                            else if Some(n) == s.gateway.map(number) || Some(n) == s.service.map(number) { Ok(Grant::Shared) }
                            else if reserved.contains(&n) { Err(Refusal::Reserved) }
                            else if !offset.is_multiple_of(unit) { Err(Refusal::Misaligned) }
                            else if reserved.iter().any(|r| n <= *r && *r < n + unit) { Err(Refusal::Reserved) }
                            else if let Some(h) = naive.get(&n) { Err(Refusal::Taken(*h)) }
                            else { naive.insert(n, owner(o)); Ok(Grant::Reserved) };
                        prop_assert_eq!(pool.take(address(n, like), owner(o)), expected);
                    }
                    Op::Release(offset, o) => {
                        let n = base + offset;
                        let expected = naive.get(&n) == Some(&owner(o));
                        if expected { naive.remove(&n); }
                        prop_assert_eq!(pool.release(address(n, like), owner(o)), expected);
                    }
                }
            }
            prop_assert_eq!(pool.taken().map(|(a, o)| (number(a), o)).collect::<BTreeMap<_, _>>(), naive);
        }
    }
}
