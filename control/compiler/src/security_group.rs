//! Security groups: their numbers and rules.

use crate::engine::Engine;
use crate::query::{Answer, Query, Stamped};
use crate::rule::{self, Rules};
use ipnet::IpNet;
use skein_model::values::{AddressType, PolicyRuleType};
use skein_model::views::SecurityGroup;
use skein_model::{FqName, Kind};
use skein_policy::{Peer, Rule, RuleAction};
use std::sync::Arc;
use uuid::Uuid;

pub(crate) fn id(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::SECURITY_GROUP, uuid) else { return Answer::Nothing };
    let Some(view) = SecurityGroup::of(&object) else { return Answer::Nothing };
    let chosen = view.configured_security_group_id().filter(|id| *id != 0);
    chosen
        .or_else(|| view.security_group_id())
        .and_then(|id| u32::try_from(id).ok())
        .map_or(Answer::Nothing, Answer::GroupId)
}

pub(crate) fn rules(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::SECURITY_GROUP, uuid) else { return Answer::Nothing };
    let Some(view) = SecurityGroup::of(&object) else { return Answer::Nothing };
    let mut out = Rules::default();
    let entries = view.security_group_entries().unwrap_or_default().policy_rule;
    for (at, config) in entries.iter().enumerate() {
        let id = config
            .rule_uuid
            .as_deref()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| Uuid::new_v5(&uuid, at.to_string().as_bytes()));
        let is_local = |list: &[AddressType]| {
            list.iter().any(|a| a.security_group.as_deref() == Some("local"))
        };
        if is_local(&config.src_addresses) {
            one(engine, id, config, &config.dst_addresses, &mut out.egress);
        }
        if is_local(&config.dst_addresses) {
            one(engine, id, config, &config.src_addresses, &mut out.ingress);
        }
    }
    Answer::Rules(Arc::new(Stamped::new(out)))
}

/// A rule's remote end: everyone of a family, or some peers.
enum Remote {
    Anyone(Option<u8>),
    Peer(Peer),
}

fn one(
    engine: &mut Engine,
    id: Uuid,
    config: &PolicyRuleType,
    addresses: &[AddressType],
    out: &mut Vec<Rule>,
) {
    let family = match config.ethertype.as_deref() {
        Some("IPv4") => Some(4),
        Some("IPv6") => Some(6),
        _ => None,
    };
    for remote in addresses.iter().flat_map(|address| remotes(engine, address)) {
        let (remotes, implied) = match remote {
            Remote::Anyone(family) => (Vec::new(), family),
            Remote::Peer(peer) => (vec![peer], None),
        };
        let family = implied.or(family);
        for protocol in rule::protocols(config.protocol.as_deref().unwrap_or("any"), family) {
            let icmp = rule::is_icmp(protocol);
            out.push(Rule {
                id,
                action: RuleAction::Pass,
                remotes: remotes.clone(),
                family: protocol.family.or(family),
                protocol: protocol.number,
                source_ports: if icmp { Vec::new() } else { rule::ports(&config.src_ports) },
                destination_ports: if icmp {
                    rule::icmp_types(&config.dst_ports)
                } else {
                    rule::ports(&config.dst_ports)
                },
                ..Rule::default()
            });
        }
    }
}

fn remotes(engine: &mut Engine, address: &AddressType) -> Vec<Remote> {
    let prefixes = address.subnet_list.iter().chain(&address.subnet).filter_map(rule::prefix);
    let mut out: Vec<Remote> = prefixes.map(from_prefix).collect();
    match address.security_group.as_deref() {
        None | Some("" | "local") => {}
        Some("any") => out.push(Remote::Anyone(None)),
        Some(name) => {
            if let Some(uuid) = engine.find(Kind::SECURITY_GROUP, &FqName::parse(name))
                && let Answer::GroupId(id) = engine.ask(Query::GroupId(uuid))
            {
                out.push(Remote::Peer(Peer::SecurityGroup(id)));
            }
        }
    }
    out
}

/// The whole of a family is no prefix to tell apart: it spares identities.
fn from_prefix(net: IpNet) -> Remote {
    if net.prefix_len() == 0 {
        Remote::Anyone(Some(rule::family(&net)))
    } else {
        Remote::Peer(Peer::Prefix(net))
    }
}
