//! Firewall rules with their names resolved.

use super::end::{End, Local};
use crate::engine::Engine;
use crate::query::Answer;
use crate::rule::{self, Rules};
use ipnet::IpNet;
use skein_model::Kind;
use skein_model::values::FirewallServiceType;
use skein_model::views::{FirewallRule as View, ServiceGroup};
use skein_policy::{Rule, RuleAction};
use std::ops::RangeInclusive;
use std::sync::Arc;
use uuid::Uuid;

/// A firewall rule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FirewallRule {
    /// The configured rule.
    pub(crate) id: Uuid,
    pub(crate) action: RuleAction,
    /// A deny that is only a hole in a pass rule behind it.
    pub(crate) is_exception: bool,
    /// `endpoint_1` and `endpoint_2`.
    pub(crate) ends: [End; 2],
    /// Which end may open the connection.
    pub(crate) opens: [bool; 2],
    /// At which end's ports the rule is judged.
    pub(crate) judged: [bool; 2],
    /// Tag types of which both ends must carry the same value.
    pub(crate) match_types: Vec<u32>,
    /// Alternatives.
    pub(crate) services: Vec<Service>,
}

/// Protocol and ports of a connection.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    protocol: Option<u8>,
    family: Option<u8>,
    source_ports: Vec<RangeInclusive<u16>>,
    destination_ports: Vec<RangeInclusive<u16>>,
}

/// Reads one rule. One without a direction or an action, which the API does not let in, says nothing.
pub(crate) fn resolve(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::FIREWALL_RULE, uuid) else { return Answer::Nothing };
    let Some(view) = View::of(&object) else { return Answer::Nothing };
    let opens = match view.direction().as_deref() {
        Some(">") => [true, false],
        Some("<") => [false, true],
        Some("<>") => [true, true],
        _ => return Answer::Nothing,
    };
    let action = match view.action_list().and_then(|list| list.simple_action).as_deref() {
        Some("pass") => RuleAction::Pass,
        Some("deny") => RuleAction::Deny,
        Some("skip") => RuleAction::Skip,
        _ => return Answer::Nothing,
    };
    let judged = match view.judged_at().as_deref() {
        Some("endpoint-1") => [true, false],
        Some("endpoint-2") => [false, true],
        _ => [true, true],
    };
    let types = view.match_tag_types().unwrap_or_default().tag_type;
    let mut match_types: Vec<u32> =
        types.into_iter().filter_map(|tag_type| u32::try_from(tag_type).ok()).collect();
    match_types.sort_unstable();
    match_types.dedup();
    let ends = [End::resolve(engine, view.endpoint_1()), End::resolve(engine, view.endpoint_2())];
    let mut services: Vec<Service> = view.service().iter().flat_map(service).collect();
    for group in object.references_to(Kind::SERVICE_GROUP) {
        let Some(group) = engine.get(Kind::SERVICE_GROUP, group.uuid) else { continue };
        let list = ServiceGroup::of(&group)
            .and_then(ServiceGroup::service_group_firewall_service_list)
            .unwrap_or_default();
        services.extend(list.firewall_service.iter().flat_map(service));
    }
    Answer::FirewallRule(Arc::new(FirewallRule {
        id: uuid,
        action,
        is_exception: view.is_exception() == Some(true) && action == RuleAction::Deny,
        ends,
        opens,
        judged,
        match_types,
        services,
    }))
}

/// A configured service; ICMP without a family is two.
fn service(config: &FirewallServiceType) -> Vec<Service> {
    let protocols = rule::protocols(config.protocol.as_deref().unwrap_or("any"), None);
    let ports = |ports: &Option<skein_model::values::PortType>| {
        ports.as_ref().map_or(Vec::new(), |one| rule::ports(std::slice::from_ref(one)))
    };
    protocols
        .into_iter()
        .map(|protocol| {
            // Types and codes of ICMP are not a firewall's matter (spec/vrouter.md section 4.2).
            let icmp = rule::is_icmp(protocol);
            Service {
                protocol: protocol.number,
                family: protocol.family,
                source_ports: if icmp { Vec::new() } else { ports(&config.src_ports) },
                destination_ports: if icmp { Vec::new() } else { ports(&config.dst_ports) },
            }
        })
        .collect()
}

impl FirewallRule {
    /// Makes this pass rule leave out what an exception names, if that is about the same connections otherwise.
    pub(crate) fn cut(&mut self, hole: &FirewallRule) -> bool {
        if self.action != RuleAction::Pass
            || hole.opens != self.opens
            || hole.services != self.services
        {
            return false;
        }
        let [first, second] = &mut self.ends;
        (*second == hole.ends[1] && first.cut(&hole.ends[0]))
            || (*first == hole.ends[0] && second.cut(&hole.ends[1]))
    }

    /// Adds what the rule means at a port that stands at `end`.
    pub(super) fn emit(
        &self,
        end: usize,
        tier: u32,
        local: &Local,
        shared: &[Vec<u32>],
        rules: &mut Rules,
    ) {
        let Some(remotes) = self.ends[1 - end].remote() else { return };
        let local_prefixes: Vec<IpNet> = match local {
            Local::Always => Vec::new(),
            Local::In(nets) => nets.clone(),
        };
        for service in &self.services {
            for remote_tags in shared {
                let rule = Rule {
                    id: self.id,
                    action: self.action,
                    tier,
                    remotes: remotes.clone(),
                    remote_tags: remote_tags.clone(),
                    local_prefixes: local_prefixes.clone(),
                    family: service.family,
                    protocol: service.protocol,
                    source_ports: service.source_ports.clone(),
                    destination_ports: service.destination_ports.clone(),
                };
                match (self.opens[end], self.opens[1 - end]) {
                    (true, true) => {
                        rules.egress.push(rule.clone());
                        rules.ingress.push(rule);
                    }
                    (true, false) => rules.egress.push(rule),
                    (false, true) => rules.ingress.push(rule),
                    (false, false) => {}
                }
            }
        }
    }
}
