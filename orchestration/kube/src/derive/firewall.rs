//! Rules, and where they are put.

use super::Context;
use crate::desired::{Demand, Derived, Desired, Link};
use crate::key::Key;
use crate::names;
use ipnet::IpNet;
use serde_json::{Value, json};
use skein_model::{FqName, Kind};

/// One end of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// Everyone.
    Any,
    /// Who carries all of these tags.
    Tags(Vec<String>),
    /// These addresses.
    Prefix(IpNet),
}

/// A rule as it is meant.
#[derive(Clone, Debug)]
pub(super) struct RuleSpec<'a> {
    pub(super) name: &'a str,
    pub(super) action: &'a str,
    pub(super) protocol: &'a str,
    pub(super) ports: (u16, u16),
    pub(super) source: End,
    pub(super) target: End,
    /// The end that asks this rule.
    pub(super) judged_at: &'a str,
    /// It only cuts a hole into the rule behind it.
    pub(super) exception: bool,
}

/// The name of a prefix's address-group. Names have no colons in them.
pub(super) fn group_name(net: &IpNet) -> String {
    net.to_string().replace(':', "-")
}

fn end(end: &End) -> Value {
    match end {
        End::Any => json!({"any": true}),
        End::Tags(tags) => json!({ "tags": tags }),
        End::Prefix(net) => {
            json!({"address_group": format!("{}:{}", names::POLICY_MANAGEMENT, group_name(net))})
        }
    }
}

impl Context<'_> {
    /// A rule as an object.
    pub(super) fn rule(&self, key: &Key, spec: &RuleSpec<'_>, out: &mut Derived) -> Desired {
        for end in [&spec.source, &spec.target] {
            if let End::Prefix(net) = end {
                let demand = Demand::AddressGroup(net.to_string());
                if !out.demands.contains(&demand) {
                    out.demands.push(demand);
                }
            }
        }
        let mut needs = Vec::new();
        for end in [&spec.source, &spec.target] {
            match end {
                End::Any => {}
                End::Tags(tags) => {
                    needs.extend(tags.iter().map(|tag| (Kind::TAG, FqName::single(tag))));
                }
                End::Prefix(net) => {
                    needs.push((Kind::ADDRESS_GROUP, self.names.policy_object(&group_name(net))));
                }
            }
        }
        let tagged = |end: &End| matches!(end, End::Tags(_));
        // Tags are shared by all clusters: a rule about two pods is about two of one cluster.
        let matched: &[&str] =
            if tagged(&spec.source) && tagged(&spec.target) { &["application"] } else { &[] };
        let judged = if self.settings.cluster_wide_policy_action { "both" } else { spec.judged_at };
        let (first, last) = spec.ports;
        let name = self.names.policy_object(spec.name);
        let name = self.free_name(key, Kind::FIREWALL_RULE, name);
        let mut rule = self
            .owned(key, Kind::FIREWALL_RULE, Some(Kind::POLICY_MANAGEMENT), name, &[])
            .set("action_list", json!({"simple_action": spec.action}))
            .set(
                "service",
                json!({
                    "protocol": spec.protocol,
                    "src_ports": {"start_port": 0, "end_port": 65535},
                    "dst_ports": {"start_port": first, "end_port": last},
                }),
            )
            .set("direction", ">")
            .set("endpoint_1", end(&spec.source))
            .set("endpoint_2", end(&spec.target))
            .set("match_tags", json!({ "tag_list": matched }))
            .set("judged_at", judged)
            .set("is_exception", spec.exception);
        rule.needs = needs;
        rule
    }

    /// A rule in one of the policies that the whole cluster shares.
    pub(super) fn linked_rule(
        &self,
        key: &Key,
        policy: &str,
        spec: &RuleSpec<'_>,
        out: &mut Derived,
    ) {
        let rule = self.rule(key, spec, out);
        out.links.push(Link {
            holder: (Kind::FIREWALL_POLICY, self.names.policy_object(&self.names.of(policy))),
            target: (Kind::FIREWALL_RULE, rule.name.clone()),
            attr: json!({"sequence": format!("00000.{}", rank(rule.name.name()))}),
            optional: false,
        });
        out.objects.push(rule);
    }

    /// A policy's place in the cluster's application-policy-set.
    pub(super) fn placed(&self, policy: &FqName, sequence: &str) -> Link {
        Link {
            holder: (Kind::APPLICATION_POLICY_SET, self.names.aps()),
            target: (Kind::FIREWALL_POLICY, policy.clone()),
            attr: json!({ "sequence": sequence }),
            optional: false,
        }
    }
}

/// Digits that are the same for the same text: a place among others without counting them.
pub(super) fn rank(text: &str) -> String {
    let number = u64::from_str_radix(&names::digest(text), 16).unwrap_or(0);
    format!("{:015}", number % 1_000_000_000_000_000)
}
