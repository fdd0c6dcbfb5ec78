//! What must change so that an object is as wanted. Pure.
//!
//! A wanted value is met when the actual one has it and perhaps more: the server adds rule ids,
//! gateways and the like. An empty wanted value is met by an absent one.

use crate::api::{Body, fq_name};
use crate::document::{Document, Wanted};
use serde_json::{Map, Value, json};

/// The fields of an update request; empty when nothing is to be done.
pub(crate) fn changes(wanted: &Document, actual: &Body) -> Body {
    let mut changed = Map::new();
    for (field, value) in &wanted.properties {
        let now = actual.get(field).unwrap_or(&Value::Null);
        if !met(value, now) {
            changed.insert(field.clone(), adopt(value, now));
        }
    }
    for (field, references) in &wanted.references {
        let now = actual.get(*field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let same = references.len() == now.len()
            && references.iter().all(|r| find(r, now).is_some_and(|n| met(&r.attr, attr(n))));
        if !same {
            let list = references.iter().map(|wanted| {
                let mut value = wanted.to_value();
                if let Some(now) = find(wanted, now)
                    && !wanted.attr.is_null()
                {
                    value["attr"] = adopt(&wanted.attr, attr(now));
                }
                value
            });
            changed.insert((*field).to_owned(), list.collect());
        }
    }
    if !changed.is_empty()
        && changed.contains_key("perms2")
        && let Some(owner) = actual.get("perms2").and_then(|p| p.get("owner"))
    {
        // The API wants the owner in every write of perms2.
        let perms = changed.get_mut("perms2").and_then(Value::as_object_mut);
        perms.map(|p| p.entry("owner").or_insert_with(|| owner.clone()));
    }
    changed
}

fn find<'a>(wanted: &Wanted, now: &'a [Value]) -> Option<&'a Value> {
    now.iter().find(|reference| match &wanted.to {
        Some(to) => reference.get("to").and_then(fq_name).as_ref() == Some(to),
        None => reference.get("uuid") == Some(&json!(wanted.uuid)),
    })
}

fn attr(reference: &Value) -> &Value {
    reference.get("attr").unwrap_or(&Value::Null)
}

/// Whether `now` has all that is wanted.
fn met(wanted: &Value, now: &Value) -> bool {
    match (wanted, now) {
        (Value::Null, now) => empty(now),
        (wanted, Value::Null) => empty(wanted),
        (Value::Object(wanted), Value::Object(now)) => {
            if let Some(network) = network(wanted) {
                return network_text(now).is_some_and(|text| text == network);
            }
            wanted.iter().all(|(field, value)| met(value, now.get(field).unwrap_or(&Value::Null)))
        }
        (Value::Array(wanted), Value::Array(now)) => {
            wanted.len() == now.len() && wanted.iter().zip(now).all(|(w, n)| met(w, n))
        }
        (wanted, now) => wanted == now,
    }
}

/// The wanted value, but elements that are already there keep what the server gave them.
fn adopt(wanted: &Value, now: &Value) -> Value {
    match (wanted, now) {
        (Value::Object(wanted), Value::Object(now)) => {
            let field = |(name, value): (&String, &Value)| {
                (name.clone(), adopt(value, now.get(name).unwrap_or(&Value::Null)))
            };
            Value::Object(wanted.iter().map(field).collect())
        }
        (Value::Array(wanted), Value::Array(now)) => {
            let mut left: Vec<&Value> = now.iter().collect();
            let element = |value: &Value| match left.iter().position(|n| met(value, n)) {
                Some(at) => left.remove(at).clone(),
                None => value.clone(),
            };
            Value::Array(wanted.iter().map(element).collect())
        }
        (wanted, _) => wanted.clone(),
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// A subnet's network address: the server stores `10.1.1.7/24` as `10.1.1.0/24`.
fn network(map: &Body) -> Option<ipnet::IpNet> {
    if map.len() > 2 { None } else { network_text(map) }
}

fn network_text(map: &Body) -> Option<ipnet::IpNet> {
    let address = map.get("ip_prefix")?.as_str()?.parse().ok()?;
    let length = u8::try_from(map.get("ip_prefix_len")?.as_u64()?).ok()?;
    Some(ipnet::IpNet::new(address, length).ok()?.trunc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::Scope;

    fn document(fields: &Value) -> Document {
        let mut map = fields.as_object().unwrap().clone();
        map.insert("kind".into(), json!("virtual-network"));
        map.insert("name".into(), json!("front"));
        let scope = Scope::new("default-domain", Some("shop"));
        Document::from_value(Value::Object(map), &scope).unwrap()
    }

    fn actual() -> Body {
        json!({
            "display_name": "front",
            "virtual_network_properties": {"forwarding_mode": "l3", "rpf": "enable"},
            "network_ipam_refs": [{
                "to": ["default-domain", "default-project", "default-network-ipam"],
                "uuid": "u",
                "attr": {"ipam_subnets": [{
                    "subnet": {"ip_prefix": "10.1.1.0", "ip_prefix_len": 24},
                    "subnet_uuid": "s1", "default_gateway": "10.1.1.1",
                }]},
            }],
        })
        .as_object()
        .unwrap()
        .clone()
    }

    #[test]
    fn what_the_server_added_is_no_difference() {
        let wanted = document(&json!({
            "subnets": ["10.1.1.0/24"],
            "policies": [],
            "virtual_network_properties": {"forwarding_mode": "l3"},
            "route_target_list": null,
        }));
        assert_eq!(changes(&wanted, &actual()), Map::new());
    }

    #[test]
    fn a_host_address_in_a_subnet_is_the_same_subnet() {
        let wanted = document(&json!({"network_ipam_refs": [{
            "to": "default-domain:default-project:default-network-ipam",
            "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": "10.1.1.9", "ip_prefix_len": 24}}]},
        }]}));
        assert_eq!(changes(&wanted, &actual()), Map::new());
    }

    #[test]
    fn an_added_subnet_leaves_the_first_as_it_is() {
        let wanted = document(&json!({"subnets": ["10.1.1.0/24", "10.1.2.0/24"], "mtu": 1400}));
        let changed = changes(&wanted, &actual());
        assert_eq!(changed.keys().collect::<Vec<_>>(), ["mtu", "network_ipam_refs"]);
        let subnets = &changed["network_ipam_refs"][0]["attr"]["ipam_subnets"];
        assert_eq!(subnets[0]["subnet_uuid"], "s1");
        assert_eq!(subnets[1], json!({"subnet": {"ip_prefix": "10.1.2.0", "ip_prefix_len": 24}}));
    }

    #[test]
    fn references_that_are_not_wanted_go() {
        let wanted = document(&json!({"network_ipam_refs": []}));
        assert_eq!(changes(&wanted, &actual())["network_ipam_refs"], json!([]));
        let untouched = document(&json!({"display_name": "front"}));
        assert_eq!(changes(&untouched, &actual()), Map::new());
    }
}
