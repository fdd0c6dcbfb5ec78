//! Network policies and security groups.

use serde_json::{Value, json};
use skein_model::Object;
use uuid::Uuid;

use super::integer;
use crate::{
    error::{ApiError, ApiResult},
    plan::Draft,
};

const IDS: &str = "security-group";
/// Protocol names that rules may use; everything else is a number.
const PROTOCOLS: [&str; 6] = ["any", "tcp", "udp", "icmp", "icmp6", "sctp"];

fn rules_of<'a>(object: &'a mut Object, property: &str) -> Option<&'a mut Vec<Value>> {
    object.properties.get_mut(property)?.get_mut("policy_rule")?.as_array_mut()
}

fn list<'a>(rule: &'a Value, name: &str) -> &'a [Value] {
    rule.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str).filter(|s| !s.is_empty())
}

/// Uuids for rules, no two alike, protocols and ports in range.
fn common(field: &str, rules: &mut [Value]) -> ApiResult<()> {
    for (at, rule) in rules.iter_mut().enumerate() {
        let field = format!("{field}[{at}]");
        let Value::Object(map) = rule else {
            return Err(ApiError::bad(format!("{field}: must be an object")));
        };
        if map.get("rule_uuid").and_then(Value::as_str).is_none_or(str::is_empty) {
            map.insert("rule_uuid".into(), json!(Uuid::new_v4().to_string()));
        }
        if rule.get("action_list").and_then(|a| text(a, "simple_action")) == Some("skip") {
            return Err(ApiError::bad(format!(
                "{field}.action_list.simple_action: skip is for firewall rules, choose one of deny, pass"
            )));
        }
        if let Some(protocol) = text(rule, "protocol") {
            let lower = protocol.to_ascii_lowercase();
            let known = PROTOCOLS.contains(&lower.as_str())
                || lower == "ipv6-icmp"
                || protocol.parse::<u8>().is_ok();
            if !known {
                return Err(ApiError::bad(format!(
                    "{field}.protocol: {protocol:?} is neither a number 0 to 255 nor one of {}",
                    PROTOCOLS.join(", ")
                )));
            }
        }
        for side in ["src_ports", "dst_ports"] {
            for (n, ports) in list(rule, side).iter().enumerate() {
                let port = |name: &str| ports.get(name).and_then(Value::as_i64);
                if let (Some(start), Some(end)) = (port("start_port"), port("end_port"))
                    && start > end
                    && end != -1
                {
                    return Err(ApiError::bad(format!(
                        "{field}.{side}[{n}]: starts at {start} above its end {end}"
                    )));
                }
            }
        }
        for side in ["src_addresses", "dst_addresses"] {
            for (n, address) in list(rule, side).iter().enumerate() {
                let field = format!("{field}.{side}[{n}]");
                let single = address.get("subnet").filter(|s| !s.is_null()).into_iter();
                for subnet in single.chain(list(address, "subnet_list")) {
                    check_prefix(&field, subnet)?;
                }
            }
        }
    }
    let bare = |rule: &Value| {
        let mut rule = rule.clone();
        if let Value::Object(map) = &mut rule {
            for name in ["rule_uuid", "created", "last_modified"] {
                map.remove(name);
            }
        }
        rule
    };
    let mut seen = std::collections::HashMap::<String, usize>::with_capacity(rules.len());
    for (at, rule) in rules.iter().enumerate() {
        if let Some(first) = seen.insert(bare(rule).to_string(), at) {
            return Err(ApiError::conflict(format!(
                "{field}[{at}]: is the same rule as {field}[{first}]"
            )));
        }
    }
    Ok(())
}

pub(super) fn check_prefix(field: &str, subnet: &Value) -> ApiResult<()> {
    let Some(prefix) = text(subnet, "ip_prefix") else { return Ok(()) };
    let len = subnet.get("ip_prefix_len").and_then(Value::as_u64).unwrap_or(0);
    let good = prefix
        .parse()
        .ok()
        .zip(u8::try_from(len).ok())
        .is_some_and(|(ip, len)| ipnet::IpNet::new(ip, len).is_ok());
    if good {
        Ok(())
    } else {
        Err(ApiError::bad(format!("{field}.subnet: {prefix}/{len} is not a prefix")))
    }
}

/// Checks the rules of a network policy.
pub(super) fn network_policy(policy: &mut Object) -> ApiResult<()> {
    let Some(rules) = rules_of(policy, "network_policy_entries") else { return Ok(()) };
    let field = "network_policy_entries.policy_rule";
    common(field, rules)?;
    for (at, rule) in rules.iter().enumerate() {
        let action = rule.get("action_list");
        let has_action = action.and_then(Value::as_object).is_some_and(|a| {
            a.values()
                .any(|v| !matches!(v, Value::Null | Value::Bool(false)) && v.as_str() != Some(""))
        });
        if !has_action {
            return Err(ApiError::bad(format!("{field}[{at}].action_list: must say what to do")));
        }
        for side in ["src_addresses", "dst_addresses"] {
            if let Some(n) =
                list(rule, side).iter().position(|a| text(a, "security_group").is_some())
            {
                return Err(ApiError::bad(format!(
                    "{field}[{at}].{side}[{n}].security_group: is for security groups, not for network policies"
                )));
            }
        }
    }
    Ok(())
}

fn security_group_rules(group: &mut Object) -> ApiResult<()> {
    let Some(rules) = rules_of(group, "security_group_entries") else { return Ok(()) };
    let field = "security_group_entries.policy_rule";
    common(field, rules)?;
    for (at, rule) in rules.iter().enumerate() {
        let sides = ["src_addresses", "dst_addresses"];
        let local = |side: &&str| {
            list(rule, side).iter().any(|a| text(a, "security_group") == Some("local"))
        };
        if !sides.iter().any(local) {
            return Err(ApiError::bad(format!(
                "{field}[{at}]: one side must be the address {{\"security_group\": \"local\"}}"
            )));
        }
        let Some(ethertype) = text(rule, "ethertype") else { continue };
        for side in sides {
            for (n, address) in list(rule, side).iter().enumerate() {
                let single = address.get("subnet").filter(|s| !s.is_null()).into_iter();
                for subnet in single.chain(list(address, "subnet_list")) {
                    let Some(ip) =
                        text(subnet, "ip_prefix").and_then(|p| p.parse::<std::net::IpAddr>().ok())
                    else {
                        continue;
                    };
                    if ip.is_ipv4() != (ethertype == "IPv4") {
                        return Err(ApiError::bad(format!(
                            "{field}[{at}].{side}[{n}].subnet: {ip} does not fit ethertype {ethertype}"
                        )));
                    }
                }
            }
        }
    }
    Ok(())
}

fn configured(group: &Object) -> Option<u64> {
    integer(group, "configured_security_group_id").filter(|id| *id != 0)
}

fn set_id(draft: &mut Draft<'_>, group: &mut Object) -> ApiResult<()> {
    let id = match configured(group) {
        Some(id) => id,
        None => draft.allocate_number(IDS, group.uuid, "security_group_id")?,
    };
    group.properties.insert("security_group_id".into(), json!(id));
    Ok(())
}

/// Checks a new group and gives it its id.
pub(super) fn security_group_on_create(draft: &mut Draft<'_>, group: &mut Object) -> ApiResult<()> {
    if integer(group, "security_group_id").is_some_and(|id| id != 0) {
        return Err(ApiError::forbidden("security_group_id: is allocated by the server"));
    }
    security_group_rules(group)?;
    set_id(draft, group)
}

/// Checks a changed group; a configured id takes the place of the allocated one.
pub(super) fn security_group_on_update(
    draft: &mut Draft<'_>,
    old: &Object,
    group: &mut Object,
) -> ApiResult<()> {
    let before = integer(old, "security_group_id");
    if integer(group, "security_group_id").is_some_and(|id| Some(id) != before) {
        return Err(ApiError::forbidden(
            "security_group_id: is allocated by the server and cannot change",
        ));
    }
    security_group_rules(group)?;
    if configured(old) == configured(group) {
        if let Some(before) = before {
            group.properties.insert("security_group_id".into(), json!(before));
        }
        return Ok(());
    }
    security_group_on_delete(draft, old);
    set_id(draft, group)
}

/// Gives the id back.
pub(super) fn security_group_on_delete(draft: &mut Draft<'_>, group: &Object) {
    if let Some(id) = integer(group, "security_group_id") {
        draft.release_number(IDS, id, group.uuid);
    }
}
