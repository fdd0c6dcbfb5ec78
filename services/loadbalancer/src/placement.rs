//! Who carries a load balancer: nodes in an order that everyone computes alike.
//!
//! Rendezvous hashing: each pair of load balancer and node has a score, and the highest come first. A node that comes or
//! goes concerns only the load balancers that it has or gets, and nobody has to be elected (adr/0013).

use std::collections::BTreeSet;
use uuid::Uuid;

/// How many nodes carry a load balancer: an active one and a standby.
pub const COPIES: usize = 2;

/// LOCAL_PREF of the port of the first node; of each further one half as much: 200, 100, 50, ...
const HIGHEST: i64 = 200;

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

/// Whether a node is to carry a load balancer. `order` are the nodes that are there, `ready` those whose copies take traffic;
/// it may have a copy already (`has`).
///
/// A node that has become superfluous stays until as many better ones are ready as there are to be: at every moment
/// somebody is there.
#[must_use]
pub fn carries(order: &[&str], ready: &BTreeSet<&str>, node: &str, has: bool) -> bool {
    let Some(rank) = order.iter().position(|one| *one == node) else {
        // Not among those that offer it: it leaves as soon as anyone else is ready.
        return has && !order.iter().any(|one| ready.contains(one));
    };
    let better = order[..rank].iter().filter(|one| ready.contains(*one)).count();
    rank < COPIES || (has && better < COPIES)
}

/// LOCAL_PREF of a node's port. `order` are all nodes, those that are away, too: one that comes back has its old place, and
/// no two are ever equal for long. A node stands back behind a better one when that one is ready, and not before.
#[must_use]
pub fn preference(order: &[&str], ready: &BTreeSet<&str>, node: &str, has: Option<i64>) -> i64 {
    let rank = order.iter().position(|one| *one == node).unwrap_or(order.len());
    let own =
        u32::try_from(rank).ok().and_then(|rank| HIGHEST.checked_shr(rank)).unwrap_or(0).max(1);
    if order[..rank].iter().any(|one| ready.contains(one)) {
        return own;
    }
    has.unwrap_or(own).clamp(own, HIGHEST)
}
