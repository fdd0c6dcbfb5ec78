//! Who carries a load balancer: nodes in an order that everyone computes alike.
//!
//! Rendezvous hashing: each pair of load balancer and node has a score, and the highest come first. A node that comes or
//! goes concerns only the load balancers that it has or gets, and nobody has to be elected (adr/0013).

use std::collections::BTreeSet;
use uuid::Uuid;

/// How many nodes carry a load balancer: an active one and a standby.
pub const COPIES: usize = 2;

/// LOCAL_PREF of the ports of the first, the second and whoever else still has one.
const PREFERENCES: [i64; 3] = [200, 100, 50];

fn score(balancer: Uuid, node: &str) -> u128 {
    Uuid::new_v5(&balancer, node.as_bytes()).as_u128()
}

/// Nodes in the order in which they are to carry a load balancer.
#[must_use]
pub fn order<'a>(balancer: Uuid, nodes: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut scored: Vec<(u128, &str)> =
        nodes.into_iter().map(|node| (score(balancer, node), node)).collect();
    scored.sort_unstable_by(|a, b| b.cmp(a));
    scored.dedup();
    scored.into_iter().map(|(_, node)| node).collect()
}

/// What one node has to do about a load balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Carry it.
    pub carries: bool,
    /// LOCAL_PREF of its port.
    pub preference: i64,
}

/// The part of `node`, which may have a copy already (`has`). `ready` are the nodes whose copies take traffic.
///
/// A node that has become superfluous stays until as many better ones are ready as there are to be; and it stands back
/// behind a better one only when that one is ready. So at every moment somebody is there.
#[must_use]
pub fn part(order: &[&str], ready: &BTreeSet<&str>, node: &str, has: bool) -> Part {
    let Some(rank) = order.iter().position(|one| *one == node) else {
        // Not among those that offer it: it leaves as soon as anyone else is ready.
        let others = ready.iter().any(|one| *one != node);
        return Part { carries: has && !others, preference: PREFERENCES[2] };
    };
    let better = order[..rank].iter().filter(|one| ready.contains(*one)).count();
    let carries = rank < COPIES || (has && better < COPIES);
    Part { carries, preference: PREFERENCES[better.min(PREFERENCES.len() - 1)] }
}

/// The preference of the one that takes the traffic.
#[must_use]
pub fn highest() -> i64 {
    PREFERENCES[0]
}
