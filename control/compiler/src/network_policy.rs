//! Network policies: which networks they join, and what they let through.
//!
//! A rule joins two networks when policies at *both* of them name the other (spec/control-plane.md
//! section 1.3). What passes is decided at both ends by each network's own rules, first match
//! first; after the rules, a network's own traffic passes, traffic of networks that a rule names
//! does not, and the rest does.

use crate::engine::Engine;
use crate::query::{Answer, Query, Stamped};
use crate::rule::{self, Protocol, Rules};
use ipnet::IpNet;
use skein_model::values::{AddressType, PolicyRuleType, VirtualNetworkPolicyType};
use skein_model::views::NetworkPolicy;
use skein_model::{FqName, Kind, Object};
use skein_policy::{Layer, Peer, Rule};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use uuid::Uuid;

/// Networks that a network's policies pass traffic from or to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mentions {
    /// A rule says `any`.
    pub(crate) any: bool,
    /// Rules name these.
    pub(crate) networks: BTreeSet<Uuid>,
}

impl Mentions {
    fn names(&self, network: Uuid) -> bool {
        self.any || self.networks.contains(&network)
    }
}

/// One end of a rule as a network sees it.
#[derive(Clone, Debug, PartialEq)]
enum End {
    /// Any network.
    Any,
    /// This network, or another one.
    Network(Uuid),
    /// Addresses, in whatever network.
    Prefixes(Vec<IpNet>),
    /// A name that nothing has: matches nothing.
    Nobody,
}

/// The implicit rule behind a network's policies that passes its own traffic. The id is the original's.
pub const OWN_NETWORK: Uuid = Uuid::from_u128(0x1000_0000_0001);
/// The implicit rule behind a network's policies about all other networks. The id is the original's.
pub const OTHER_NETWORKS: Uuid = Uuid::from_u128(0x1000_0000_0002);

/// Policies of a network in order of their sequence.
fn policies(engine: &mut Engine, network: &Object) -> Vec<Arc<Object>> {
    let mut all: Vec<_> = network
        .references_to(Kind::NETWORK_POLICY)
        .map(|reference| {
            let sequence = reference
                .attribute::<VirtualNetworkPolicyType>()
                .and_then(|attr| attr.sequence)
                .map(|s| (s.major.unwrap_or(0), s.minor.unwrap_or(0)));
            (sequence.unwrap_or_default(), reference.uuid)
        })
        .collect();
    all.sort_by_key(|(sequence, _)| *sequence);
    all.into_iter().filter_map(|(_, uuid)| engine.get(Kind::NETWORK_POLICY, uuid)).collect()
}

fn rules_of(policy: &Object) -> Vec<PolicyRuleType> {
    NetworkPolicy::of(policy)
        .and_then(NetworkPolicy::network_policy_entries)
        .unwrap_or_default()
        .policy_rule
}

fn passes(config: &PolicyRuleType) -> bool {
    config.action_list.as_ref().and_then(|a| a.simple_action.as_deref()) != Some("deny")
}

/// Every network that a policy is attached to: what the policy's own name stands for as an address.
fn attached(engine: &mut Engine, name: &str) -> Vec<End> {
    let Some(policy) = engine.find(Kind::NETWORK_POLICY, &FqName::parse(name)) else {
        return vec![End::Nobody];
    };
    let networks = engine.back_references(policy, Kind::VIRTUAL_NETWORK);
    networks.iter().map(|network| End::Network(network.uuid)).collect()
}

fn end(engine: &mut Engine, network: Uuid, address: &AddressType) -> End {
    let mut prefixes: Vec<IpNet> = address.subnet_list.iter().filter_map(rule::prefix).collect();
    prefixes.extend(address.subnet.as_ref().and_then(rule::prefix));
    if !prefixes.is_empty() {
        return End::Prefixes(prefixes);
    }
    match address.virtual_network.as_deref() {
        Some("any") => End::Any,
        Some("local") => End::Network(network),
        Some(name) if !name.is_empty() => engine
            .find(Kind::VIRTUAL_NETWORK, &FqName::parse(name))
            .map_or(End::Nobody, End::Network),
        _ => End::Nobody,
    }
}

fn ends(engine: &mut Engine, network: Uuid, addresses: &[AddressType]) -> Vec<End> {
    let mut out = Vec::new();
    for address in addresses {
        match address.network_policy.as_deref() {
            Some(name) if !name.is_empty() => out.extend(attached(engine, name)),
            _ => out.push(end(engine, network, address)),
        }
    }
    out
}

pub(crate) fn mentions(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(network) = engine.get(Kind::VIRTUAL_NETWORK, uuid) else { return Answer::Nothing };
    let mut out = Mentions::default();
    for policy in policies(engine, &network) {
        for config in rules_of(&policy).iter().filter(|config| passes(config)) {
            let sources = ends(engine, uuid, &config.src_addresses);
            let targets = ends(engine, uuid, &config.dst_addresses);
            for (here, there) in [(&sources, &targets), (&targets, &sources)] {
                if !here.iter().any(|end| matches!(end, End::Any) || *end == End::Network(uuid)) {
                    continue;
                }
                for end in there {
                    match end {
                        End::Any => out.any = true,
                        End::Network(other) if *other != uuid => {
                            out.networks.insert(*other);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    Answer::Mentions(Arc::new(out))
}

fn mentions_of(engine: &mut Engine, uuid: Uuid) -> Option<Arc<Mentions>> {
    match engine.ask(Query::Mentions(uuid)) {
        Answer::Mentions(mentions) => Some(mentions),
        _ => None,
    }
}

pub(crate) fn peers(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(own) = mentions_of(engine, uuid) else { return Answer::Nothing };
    let candidates: Vec<Uuid> = if own.any {
        engine.all(Kind::VIRTUAL_NETWORK)
    } else {
        own.networks.iter().copied().collect()
    };
    let mut out = Vec::new();
    for other in candidates {
        if other != uuid && mentions_of(engine, other).is_some_and(|theirs| theirs.names(uuid)) {
            out.push(other);
        }
    }
    Answer::Peers(Arc::new(out))
}

pub(crate) fn layer(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(network) = engine.get(Kind::VIRTUAL_NETWORK, uuid) else { return Answer::Nothing };
    let policies = policies(engine, &network);
    if policies.is_empty() {
        return Answer::Nothing;
    }
    let Answer::Network(facts) = engine.ask(Query::Network(uuid)) else {
        return Answer::Nothing;
    };
    let mut rules = Rules::default();
    let mut named: BTreeSet<u32> = BTreeSet::new();
    let mut any_named = false;
    for policy in policies {
        for (at, config) in rules_of(&policy).iter().enumerate() {
            let sources = ends(engine, uuid, &config.src_addresses);
            let targets = ends(engine, uuid, &config.dst_addresses);
            for end in sources.iter().chain(&targets) {
                match end {
                    End::Any => any_named = true,
                    End::Network(other) if *other != uuid => {
                        named.extend(network_id(engine, *other));
                    }
                    _ => {}
                }
            }
            let head = Head::of(config, &policy, at);
            expand(engine, uuid, &head, &sources, &targets, &mut rules);
            if config.direction.as_deref() == Some("<>") {
                expand(engine, uuid, &head, &targets, &sources, &mut rules);
            }
        }
    }
    for list in [&mut rules.egress, &mut rules.ingress] {
        list.push(implicit(OWN_NETWORK, true, vec![Peer::Network(facts.id)]));
        if !any_named && !named.is_empty() {
            let others = named.iter().map(|id| Peer::Network(*id)).collect();
            list.push(implicit(OTHER_NETWORKS, false, others));
        }
    }
    Answer::Layer(Arc::new(Stamped::new(Layer {
        name: "network-policy".into(),
        egress: rules.egress,
        ingress: rules.ingress,
        default_pass: !any_named,
    })))
}

fn network_id(engine: &mut Engine, uuid: Uuid) -> Option<u32> {
    match engine.ask(Query::Network(uuid)) {
        Answer::Network(facts) => Some(facts.id),
        _ => None,
    }
}

fn implicit(id: Uuid, pass: bool, remotes: Vec<Peer>) -> Rule {
    Rule { id, action: pass.into(), remotes, ..Rule::default() }
}

/// What all expansions of one configured rule have in common.
struct Head {
    id: Uuid,
    pass: bool,
    protocols: Vec<Protocol>,
    source_ports: Vec<RangeInclusive<u16>>,
    destination_ports: Vec<RangeInclusive<u16>>,
}

impl Head {
    fn of(config: &PolicyRuleType, policy: &Object, at: usize) -> Head {
        // Rules written before ids were given out get a stable one of their own.
        let id = config
            .rule_uuid
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| Uuid::new_v5(&policy.uuid, at.to_string().as_bytes()));
        Head {
            id,
            pass: passes(config),
            protocols: rule::protocols(config.protocol.as_deref().unwrap_or("any"), None),
            source_ports: rule::ports(&config.src_ports),
            destination_ports: rule::ports(&config.dst_ports),
        }
    }

    fn rules(&self, remote: &[Peer], local_prefixes: &[IpNet], out: &mut Vec<Rule>) {
        for protocol in &self.protocols {
            // Network policies have no ICMP types: their port fields do not apply to ICMP.
            let ports = |ports: &[RangeInclusive<u16>]| {
                if rule::is_icmp(*protocol) { Vec::new() } else { ports.to_vec() }
            };
            out.push(Rule {
                id: self.id,
                action: self.pass.into(),
                remotes: remote.to_vec(),
                local_prefixes: local_prefixes.to_vec(),
                family: protocol.family,
                protocol: protocol.number,
                source_ports: ports(&self.source_ports),
                destination_ports: ports(&self.destination_ports),
                ..Rule::default()
            });
        }
    }
}

/// Alternatives for the remote end; empty means anyone.
type Remote = Vec<Peer>;

/// Adds what a rule means for connections from `sources` to `targets`, at this network's ports.
fn expand(
    engine: &mut Engine,
    network: Uuid,
    head: &Head,
    sources: &[End],
    targets: &[End],
    rules: &mut Rules,
) {
    for source in sources {
        for target in targets {
            if let (Some(local), Some(remote)) = (local(source, network), remote(engine, target)) {
                head.rules(&remote, &local, &mut rules.egress);
            }
            if let (Some(local), Some(remote)) = (local(target, network), remote(engine, source)) {
                head.rules(&remote, &local, &mut rules.ingress);
            }
        }
    }
}

/// How this end applies to the network's own ports; `None` when it does not.
fn local(end: &End, network: Uuid) -> Option<Vec<IpNet>> {
    match end {
        End::Any => Some(Vec::new()),
        End::Network(uuid) => (*uuid == network).then(Vec::new),
        End::Prefixes(prefixes) => Some(prefixes.clone()),
        End::Nobody => None,
    }
}

/// This end as a condition on the remote side; `None` when it matches nobody.
fn remote(engine: &mut Engine, end: &End) -> Option<Remote> {
    match end {
        End::Any => Some(Vec::new()),
        End::Network(uuid) => network_id(engine, *uuid).map(|id| vec![Peer::Network(id)]),
        End::Prefixes(prefixes) => Some(prefixes.iter().copied().map(Peer::Prefix).collect()),
        End::Nobody => None,
    }
}
