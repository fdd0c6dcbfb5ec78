//! Which rules judge a port's connections, in order.

use super::Refusal;
use super::find::{self, PortView};
use super::names::{Author, Names};
use crate::core::Core;
use serde::Serialize;
use skein_policy::{Layer, Policy, Rule, RuleAction};
use std::ops::RangeInclusive;

/// What judges a port.
#[derive(Debug, Serialize)]
pub(crate) struct PolicyView {
    port: PortView,
    /// Nothing is judged: port security is off.
    unchecked: bool,
    /// All must pass.
    layers: Vec<LayerView>,
    /// Policies that only tell what they would change are there.
    staged: bool,
}

#[derive(Debug, Serialize)]
struct LayerView {
    name: String,
    /// What happens to what no rule fits.
    default: &'static str,
    /// The first rule that fits decides.
    ingress: Vec<RuleView>,
    egress: Vec<RuleView>,
}

/// A rule in words.
#[derive(Debug, Serialize)]
pub(crate) struct RuleView {
    action: &'static str,
    /// How far a skip reaches.
    tier: u32,
    /// Who the other end must be; empty: anyone.
    peers: Vec<String>,
    /// What it must carry besides.
    also: Option<String>,
    /// The port's own address is in one of these; empty: any.
    own: Vec<String>,
    protocol: String,
    /// Empty: all.
    ports: Vec<String>,
    #[serde(flatten)]
    author: Author,
}

pub(crate) fn explain(
    core: &Core,
    what: &str,
    network: Option<&str>,
) -> Result<PolicyView, Refusal> {
    let port = find::port(core, what, network)?;
    let names = Names::new(core.engine().graph());
    let none = Policy::default();
    let policy = port.policy.as_ref().map_or(&none, |set| &set.policy);
    Ok(PolicyView {
        port: find::view(core, port),
        unchecked: port.policy.is_none(),
        layers: policy.layers.iter().map(|layer| layer_view(layer, &names)).collect(),
        staged: !policy.staged.is_empty(),
    })
}

fn layer_view(layer: &Layer, names: &Names<'_>) -> LayerView {
    let all = |rules: &[Rule]| rules.iter().map(|one| rule(one, names)).collect();
    LayerView {
        name: layer.name.clone(),
        default: if layer.default_pass { "pass" } else { "deny" },
        ingress: all(&layer.ingress),
        egress: all(&layer.egress),
    }
}

/// A rule in words.
pub(crate) fn rule(rule: &Rule, names: &Names<'_>) -> RuleView {
    RuleView {
        action: match rule.action {
            RuleAction::Pass => "pass",
            RuleAction::Deny => "deny",
            RuleAction::Skip => "skip",
        },
        tier: rule.tier,
        peers: rule.remotes.iter().map(|peer| names.peer(peer)).collect(),
        also: (!rule.remote_tags.is_empty()).then(|| names.tags(&rule.remote_tags)),
        own: rule.local_prefixes.iter().map(ToString::to_string).collect(),
        protocol: protocol_name(rule.protocol, rule.family),
        ports: ports(&rule.destination_ports),
        author: names.author(rule.id),
    }
}

fn ports(ranges: &[RangeInclusive<u16>]) -> Vec<String> {
    let narrow = |range: &RangeInclusive<u16>| *range != (0..=u16::MAX);
    let text = |range: &RangeInclusive<u16>| {
        let (first, last) = (range.start(), range.end());
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    if ranges.iter().all(narrow) { ranges.iter().map(text).collect() } else { Vec::new() }
}

fn protocol_name(protocol: Option<u8>, family: Option<u8>) -> String {
    let name = match protocol {
        None => "any".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(132) => "sctp".to_owned(),
        Some(1) => "icmp".to_owned(),
        Some(58) => "icmpv6".to_owned(),
        Some(other) => other.to_string(),
    };
    match family {
        Some(6) if protocol != Some(58) => format!("{name} over IPv6"),
        Some(4) if protocol != Some(1) => format!("{name} over IPv4"),
        _ => name,
    }
}
