//! One end of a firewall rule.

use super::Subject;
use crate::engine::Engine;
use crate::query::{Answer, Query};
use crate::rule;
use ipnet::IpNet;
use skein_model::values::FirewallRuleEndpointType;
use skein_model::views::AddressGroup;
use skein_model::{FqName, Kind};
use skein_policy::Peer;
use uuid::Uuid;

/// Who may stand at an end of a rule, with all names resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum End {
    /// Anyone.
    Anyone,
    /// Who carries all of these tags; sorted.
    Tags(Vec<u32>),
    /// Ports of a network, by its uuid and number.
    Network(Uuid, u32),
    /// Addresses, or whoever carries one of the labels.
    Addresses {
        /// Alternatives.
        prefixes: Vec<Prefix>,
        /// Alternatives.
        labels: Vec<u32>,
    },
    /// A name that nothing has: matches nothing.
    Nobody,
}

/// Addresses of a prefix without those of some others.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prefix {
    pub(crate) net: IpNet,
    pub(crate) except: Vec<IpNet>,
}

/// How an end applies to a port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Local {
    /// Whatever its address.
    Always,
    /// If its address is in one of these.
    In(Vec<IpNet>),
}

impl End {
    /// Reads an endpoint. One that says nothing is anyone.
    pub(crate) fn resolve(engine: &mut Engine, endpoint: Option<FirewallRuleEndpointType>) -> End {
        let endpoint = endpoint.unwrap_or_default();
        if !endpoint.tags.is_empty() {
            // The API writes an id beside every name; a name without one is not known.
            let mut ids: Vec<u32> =
                endpoint.tag_ids.iter().filter_map(|id| u32::try_from(*id).ok()).collect();
            if ids.len() < endpoint.tags.len() {
                return End::Nobody;
            }
            ids.sort_unstable();
            ids.dedup();
            return End::Tags(ids);
        }
        if let Some(name) = endpoint.address_group.filter(|name| !name.is_empty()) {
            return group(engine, &name);
        }
        if let Some(subnet) = &endpoint.subnet {
            return rule::prefix(subnet).map_or(End::Nobody, |net| End::Addresses {
                prefixes: vec![Prefix { net, except: Vec::new() }],
                labels: Vec::new(),
            });
        }
        match endpoint.virtual_network.as_deref() {
            None | Some("" | "any") => End::Anyone,
            Some(name) => network(engine, name),
        }
    }

    /// Whether a port stands at this end.
    pub(crate) fn local(&self, subject: &Subject) -> Option<Local> {
        let carries = |tag: &u32| subject.tags.binary_search(tag).is_ok();
        match self {
            End::Anyone => Some(Local::Always),
            End::Tags(tags) => tags.iter().all(carries).then_some(Local::Always),
            End::Network(uuid, _) => (*uuid == subject.network).then_some(Local::Always),
            End::Addresses { labels, .. } if labels.iter().any(carries) => Some(Local::Always),
            End::Addresses { prefixes, .. } => {
                let nets: Vec<IpNet> = prefixes.iter().flat_map(Prefix::subtracted).collect();
                (!nets.is_empty()).then_some(Local::In(nets))
            }
            End::Nobody => None,
        }
    }

    /// This end as a condition on the remote side, empty meaning anyone; `None` when it matches nobody.
    pub(crate) fn remote(&self) -> Option<Vec<Peer>> {
        match self {
            End::Anyone => Some(Vec::new()),
            End::Tags(tags) => Some(vec![Peer::Tags(tags.clone())]),
            End::Network(_, id) => Some(vec![Peer::Network(*id)]),
            End::Addresses { prefixes, labels } => {
                let labels = labels.iter().map(|label| Peer::Tags(vec![*label]));
                let peers: Vec<Peer> = prefixes.iter().map(Prefix::peer).chain(labels).collect();
                (!peers.is_empty()).then_some(peers)
            }
            End::Nobody => None,
        }
    }

    /// Cuts another end's prefixes out of this one's; `false` when they are not inside.
    pub(crate) fn cut(&mut self, hole: &End) -> bool {
        let (End::Addresses { prefixes, .. }, End::Addresses { prefixes: holes, .. }) =
            (self, hole)
        else {
            return false;
        };
        let fits = |hole: &Prefix| prefixes.iter().any(|p| p.net.contains(&hole.net));
        if holes.is_empty() || !holes.iter().all(fits) {
            return false;
        }
        for hole in holes {
            for prefix in prefixes.iter_mut().filter(|p| p.net.contains(&hole.net)) {
                prefix.except.push(hole.net);
                prefix.except.sort_unstable();
                prefix.except.dedup();
            }
        }
        true
    }
}

impl Prefix {
    fn peer(&self) -> Peer {
        if self.except.is_empty() {
            Peer::Prefix(self.net)
        } else {
            Peer::PrefixExcept(self.net, self.except.clone())
        }
    }

    /// The prefixes that remain without the exceptions.
    fn subtracted(&self) -> Vec<IpNet> {
        let mut remaining = vec![self.net];
        for hole in &self.except {
            let mut next = Vec::new();
            for net in remaining {
                if hole.contains(&net) {
                    continue;
                }
                if !net.contains(hole) {
                    next.push(net);
                    continue;
                }
                // Every sibling on the way from the net down to the hole stays.
                let mut around = *hole;
                while around != net {
                    let Some(parent) = around.supernet() else { break };
                    let length = around.prefix_len();
                    let halves = parent.subnets(length).into_iter().flatten();
                    next.extend(halves.filter(|half| *half != around));
                    around = parent;
                }
            }
            remaining = next;
        }
        remaining.sort_unstable();
        remaining
    }
}

fn group(engine: &mut Engine, name: &str) -> End {
    let Some(object) = engine.by_name(Kind::ADDRESS_GROUP, &FqName::parse(name)) else {
        return End::Nobody;
    };
    let subnets = AddressGroup::of(&object)
        .and_then(AddressGroup::address_group_prefix)
        .unwrap_or_default()
        .subnet;
    let prefixes = subnets.iter().filter_map(rule::prefix);
    let labels = match engine.ask(Query::Tags(object.uuid)) {
        Answer::Tags(tags) => tags.iter().map(|(id, _)| *id).collect(),
        _ => Vec::new(),
    };
    End::Addresses {
        prefixes: prefixes.map(|net| Prefix { net, except: Vec::new() }).collect(),
        labels,
    }
}

fn network(engine: &mut Engine, name: &str) -> End {
    let Some(uuid) = engine.find(Kind::VIRTUAL_NETWORK, &FqName::parse(name)) else {
        return End::Nobody;
    };
    match engine.ask(Query::Network(uuid)) {
        Answer::Network(facts) => End::Network(uuid, facts.id),
        _ => End::Nobody,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_taken_out_of_local_prefixes_exactly() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let holed = Prefix { net: net("10.0.0.0/28"), except: vec![net("10.0.0.4/30")] };
        let left = holed.subtracted();
        for last in 0..16u8 {
            let address = std::net::IpAddr::from([10, 0, 0, last]);
            let inside = left.iter().any(|p| p.contains(&address));
            assert_eq!(inside, !(4..8).contains(&last), "{address}");
        }
        let whole = Prefix { net: net("10.0.0.0/28"), except: vec![net("10.0.0.0/28")] };
        assert!(whole.subtracted().is_empty());
    }
}
