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
        Peer::PrefixExcept(prefix, except) => in_prefix(prefix) && !except.iter().any(in_prefix),
        Peer::Tags(tags) => carries(who, tags),
    }
}

/// Whether a remote end carries all of these tags.
pub(crate) fn carries(who: &Attributes, tags: &[u32]) -> bool {
    tags.iter().all(|tag| who.tags.contains(tag))
}

/// Whether the rule's remote condition holds for an identity, or for a remote end of which nothing is known
/// (`None`). A default prefix (length 0) holds for every address of its family: it is no part of identities.
pub(crate) fn remote_matches(rule: &Rule, family: Family, identity: Option<&Identity>) -> bool {
    let in_prefix = |prefix: &IpNet| {
        if prefix.prefix_len() == 0 {
            Family::of_prefix(prefix) == family
        } else {
            identity.is_some_and(|i| i.prefixes.binary_search(&prefix.trunc()).is_ok())
        }
    };
    let tagged = match identity {
        Some(identity) => carries(&identity.attributes, &rule.remote_tags),
        None => rule.remote_tags.is_empty(),
    };
    tagged
        && (rule.remotes.is_empty()
            || rule.remotes.iter().any(|peer| match (peer, identity) {
                (peer, Some(identity)) => peer_matches(peer, &identity.attributes, in_prefix),
                (Peer::Prefix(prefix), None) => in_prefix(prefix),
                (Peer::PrefixExcept(prefix, except), None) => {
                    in_prefix(prefix) && !except.iter().any(in_prefix)
                }
                (Peer::Tags(tags), None) => tags.is_empty(),
                (Peer::Network(_) | Peer::SecurityGroup(_), None) => false,
            }))
}

/// Whether family and local address allow the rule at all.
pub(crate) fn local_matches(rule: &Rule, family: Family, local: Option<IpAddr>) -> bool {
    rule.family.is_none_or(|f| f == family.number())
        && (rule.local_prefixes.is_empty()
            || local.is_some_and(|a| rule.local_prefixes.iter().any(|p| p.contains(&a))))
}
