//! Which rules of a policy speak about a remote end.

use crate::{Attributes, Family, Identity, Peer, Rule};
use ipnet::IpNet;
use std::net::IpAddr;

/// Whether a peer condition holds; `in_prefix` tells whether the remote address is in a prefix.
pub(crate) fn peer_matches(
    peer: &Peer,
    who: &Attributes,
    in_prefix: impl Fn(&IpNet) -> bool,
) -> bool {
    match peer {
        Peer::Network(network) => who.network == *network,
        Peer::SecurityGroup(group) => who.security_groups.contains(group),
        Peer::Prefix(prefix) => in_prefix(prefix),
        Peer::Tags(tags) => tags.iter().all(|tag| who.tags.contains(tag)),
    }
}

/// Whether the rule's remote condition holds for an identity, or for a remote end of which nothing is known
/// (`None`). A default prefix (length 0) holds for every address of its family: it is no part of identities.
pub(crate) fn remote_matches(rule: &Rule, family: Family, identity: Option<&Identity>) -> bool {
    rule.remotes.is_empty()
        || rule.remotes.iter().any(|peer| match (peer, identity) {
            (Peer::Prefix(prefix), _) if prefix.prefix_len() == 0 => {
                Family::of_prefix(prefix) == family
            }
            (Peer::Tags(tags), None) => tags.is_empty(),
            (_, None) => false,
            (peer, Some(identity)) => peer_matches(peer, &identity.attributes, |prefix| {
                identity.prefixes.binary_search(&prefix.trunc()).is_ok()
            }),
        })
}

/// Whether family and local address allow the rule at all.
pub(crate) fn local_matches(rule: &Rule, family: Family, local: Option<IpAddr>) -> bool {
    rule.family.is_none_or(|f| f == family.number())
        && (rule.local_prefixes.is_empty()
            || local.is_some_and(|a| rule.local_prefixes.iter().any(|p| p.contains(&a))))
}
