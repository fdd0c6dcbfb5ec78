//! Splitting routes at CIDR conditions, so that one route lookup also tells which prefixes hold.

use crate::{Peer, Policy};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// One entry of the merged table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlaid<'a, R> {
    /// Where the entry goes.
    pub prefix: IpNet,
    /// The route whose next hop and attributes it inherits: the longest one that contains `prefix`.
    pub route: &'a R,
    /// All conditions that contain `prefix`, sorted: the CIDR part of its identity.
    pub conditions: Vec<IpNet>,
}

/// The CIDR conditions of policies, exceptions included: truncated, unique, without default prefixes (those hold for a whole family
/// and are no part of identities).
#[must_use]
pub fn policy_prefixes<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> BTreeSet<IpNet> {
    policies
        .into_iter()
        .flat_map(|policy| &policy.layers)
        .flat_map(|layer| layer.egress.iter().chain(&layer.ingress))
        .flat_map(|rule| &rule.remotes)
        .flat_map(|peer| {
            let (prefix, except) = match peer {
                Peer::Prefix(prefix) => (Some(prefix), &[][..]),
                Peer::PrefixExcept(prefix, except) => (Some(prefix), &except[..]),
                _ => (None, &[][..]),
            };
            prefix.into_iter().chain(except)
        })
        .filter(|prefix| prefix.prefix_len() > 0)
        .map(IpNet::trunc)
        .collect()
}

/// Merges one VRF's routes with the CIDR conditions. Every route appears; so does every condition that lies inside a
/// route. A condition no route covers is left out: there is nothing to forward to.
#[must_use]
pub fn overlay<'a, R>(
    routes: &'a BTreeMap<IpNet, R>,
    conditions: &BTreeSet<IpNet>,
) -> Vec<Overlaid<'a, R>> {
    let all: BTreeSet<IpNet> =
        routes.keys().map(IpNet::trunc).chain(conditions.iter().copied()).collect();
    all.into_iter()
        .filter_map(|prefix| {
            let route = ancestors(prefix).find_map(|p| routes.get(&p))?;
            let mut holding: Vec<IpNet> =
                ancestors(prefix).filter(|p| conditions.contains(p)).collect();
            holding.sort_unstable();
            Some(Overlaid { prefix, route, conditions: holding })
        })
        .collect()
}

/// The prefix itself and everything that contains it, longest first.
fn ancestors(prefix: IpNet) -> impl Iterator<Item = IpNet> {
    std::iter::successors(Some(prefix), IpNet::supernet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn conditions_split_routes_and_inherit_from_the_longest() {
        let routes = BTreeMap::from([
            (net("10.0.0.0/8"), "wide"),
            (net("10.1.0.0/16"), "narrow"),
            (net("10.1.2.3/32"), "host"),
        ]);
        let conditions =
            BTreeSet::from([net("10.1.2.0/24"), net("10.0.0.0/7"), net("192.168.0.0/16")]);
        let merged: Vec<_> = overlay(&routes, &conditions)
            .into_iter()
            .map(|o| (o.prefix.to_string(), *o.route, o.conditions.len()))
            .collect();
        assert_eq!(
            merged,
            vec![
                ("10.0.0.0/8".into(), "wide", 1),
                ("10.1.0.0/16".into(), "narrow", 1),
                ("10.1.2.0/24".into(), "narrow", 2),
                ("10.1.2.3/32".into(), "host", 2),
            ]
        );
    }
}
