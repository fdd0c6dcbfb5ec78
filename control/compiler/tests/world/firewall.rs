//! Objects of the tag firewall.

use super::Build;
use serde_json::{Value, json};
use skein_model::{Change, Kind};

/// A tag.
pub(crate) fn tag(name: &str, id: u32) -> Change {
    Build::new(Kind::TAG, name).with("tag_id", json!(format!("{id:#010x}"))).put()
}

/// An end of a rule: `any`, `tags 1 2` (numbers in hex), `group name`, `network name` or a prefix.
pub(crate) fn end(text: &str) -> Value {
    match text.split_once(' ') {
        Some(("tags", ids)) => {
            let names: Vec<&str> = ids.split(' ').collect();
            let ids: Vec<u32> =
                names.iter().map(|id| u32::from_str_radix(id, 16).unwrap()).collect();
            json!({"tags": names, "tag_ids": ids})
        }
        Some(("group", name)) => json!({"address_group": format!("default-domain:shop:{name}")}),
        Some(("network", name)) => {
            json!({"virtual_network": format!("default-domain:shop:{name}")})
        }
        _ => match text.split_once('/') {
            Some((prefix, length)) => {
                let length: u8 = length.parse().unwrap();
                json!({"subnet": {"ip_prefix": prefix, "ip_prefix_len": length}})
            }
            None => json!({"any": true}),
        },
    }
}

/// A rule `(name, action, end, direction, end)` for TCP to one port, and extra properties.
pub(crate) fn rule(
    (name, action, one, direction, two): (&str, &str, &str, &str, &str),
    port: u16,
    extra: Value,
) -> Change {
    let mut build = Build::new(Kind::FIREWALL_RULE, name)
        .with("action_list", json!({"simple_action": action}))
        .with("endpoint_1", end(one))
        .with("direction", json!(direction))
        .with("endpoint_2", end(two))
        .with("match_tag_types", json!({"tag_type": []}));
    if port > 0 {
        let ports = json!({"start_port": port, "end_port": port});
        build = build.with("service", json!({"protocol": "tcp", "dst_ports": ports}));
    } else {
        build = build.with("service", json!({"protocol": "any"}));
    }
    for (property, value) in extra.as_object().into_iter().flatten() {
        build = build.with(property, value.clone());
    }
    build.put()
}

/// A policy with rules in this order, in a tier.
pub(crate) fn firewall_policy(name: &str, tier: &str, rules: &[&str]) -> Change {
    let mut build = Build::new(Kind::FIREWALL_POLICY, name);
    if !tier.is_empty() {
        build = build.with("policy_tier", json!(tier));
    }
    for (at, rule) in rules.iter().enumerate() {
        let attr = json!({"sequence": format!("{at:05}.0")});
        build = build.refer_with(Kind::FIREWALL_RULE, rule, attr);
    }
    build.put()
}

/// A policy that is only staged.
pub(crate) fn staged(name: &str, rules: &[&str]) -> Change {
    let Change::Put(object) = firewall_policy(name, "", rules) else { unreachable!() };
    Build(skein_model::Object::clone(&object)).with("staged", json!(true)).put()
}

/// A set of policies `(name, sequence)` for an application.
pub(crate) fn set(name: &str, application: &str, policies: &[(&str, &str)]) -> Build {
    let mut build = Build::new(Kind::APPLICATION_POLICY_SET, name);
    if !application.is_empty() {
        build = build.refer(Kind::TAG, application);
    }
    for (policy, sequence) in policies {
        build = build.refer_with(Kind::FIREWALL_POLICY, policy, json!({"sequence": sequence}));
    }
    build
}

/// An address group with prefixes and labels.
pub(crate) fn addresses(name: &str, prefixes: &[&str], labels: &[&str]) -> Change {
    let subnets: Vec<Value> = prefixes.iter().map(|text| end(text)["subnet"].clone()).collect();
    let mut build = Build::new(Kind::ADDRESS_GROUP, name)
        .with("address_group_prefix", json!({"subnet": subnets}));
    for label in labels {
        build = build.refer(Kind::TAG, label);
    }
    build.put()
}

/// A service group of TCP ports.
pub(crate) fn services(name: &str, ports: &[u16]) -> Change {
    let list: Vec<Value> = ports
        .iter()
        .map(|p| json!({"protocol": "tcp", "dst_ports": {"start_port": p, "end_port": p}}))
        .collect();
    Build::new(Kind::SERVICE_GROUP, name)
        .with("service_group_firewall_service_list", json!({"firewall_service": list}))
        .put()
}
