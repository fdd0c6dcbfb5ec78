//! Checks of values against the schema, and their normal form.
//!
//! Rules of the VNC API (spec/config-api.md section 3): a falsy value always passes and nulls mean
//! "absent"; integers may be numeric strings; unknown fields in a structured value are errors;
//! enumerations, ranges and patterns are enforced.

use crate::meta::{FieldMeta, PropertyMeta, ScalarMeta, StructMeta, ValueType};
use serde_json::Value;

/// Why a value is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Invalid {
    /// Path of the field: `network_policy_entries.policy_rule[0].protocol`.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Checks a property's value and brings it into normal form: no nulls inside, numbers as numbers.
///
/// # Errors
/// The first field that is wrong, with the reason.
pub fn property(meta: &PropertyMeta, value: &mut Value) -> Result<(), Invalid> {
    check(&meta.value, value, &mut Path::root(meta.name))
}

/// Checks what a reference carries.
///
/// # Errors
/// The first field that is wrong, with the reason; any value where the type carries nothing.
pub fn attribute(
    field: &str,
    meta: Option<&'static StructMeta>,
    value: &mut Value,
) -> Result<(), Invalid> {
    match meta {
        _ if falsy(value) => {
            *value = Value::Null;
            Ok(())
        }
        Some(meta) => structure(meta, value, &mut Path::root(&format!("{field}.attr"))),
        // Clients that know an older schema may send attributes that mean nothing here.
        None => {
            *value = Value::Null;
            Ok(())
        }
    }
}

/// A field path that costs nothing unless something is wrong.
struct Path(Vec<Step>);

enum Step {
    Name(String),
    Index(usize),
}

impl Path {
    fn root(name: &str) -> Path {
        Path(vec![Step::Name(name.to_owned())])
    }

    fn error<T>(&self, reason: impl Into<String>) -> Result<T, Invalid> {
        let mut field = String::new();
        for step in &self.0 {
            match step {
                Step::Name(name) if field.is_empty() => field.push_str(name),
                Step::Name(name) => field.push_str(&format!(".{name}")),
                Step::Index(at) => field.push_str(&format!("[{at}]")),
            }
        }
        Err(Invalid { field, reason: reason.into() })
    }
}

fn falsy(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn check(kind: &ValueType, value: &mut Value, path: &mut Path) -> Result<(), Invalid> {
    if falsy(value) {
        return Ok(());
    }
    match kind {
        ValueType::Text | ValueType::Time => match value {
            Value::String(_) => Ok(()),
            other => path.error(format!("expected a string, got {}", describe(other))),
        },
        ValueType::Boolean => match value {
            Value::Bool(_) => Ok(()),
            other => path.error(format!("expected true or false, got {}", describe(other))),
        },
        ValueType::Integer => integer(value, path).map(|_| ()),
        ValueType::Scalar(meta) => scalar(meta, value, path),
        ValueType::Struct(meta) => structure(meta, value, path),
    }
}

/// An integer within 64 bits; numeric strings are converted in place.
fn integer(value: &mut Value, path: &mut Path) -> Result<i128, Invalid> {
    if let Value::String(text) = value {
        let Ok(number) = text.trim().parse::<i64>() else {
            return path.error(format!("expected an integer, got the text {text:?}"));
        };
        *value = Value::from(number);
    }
    let Value::Number(number) = value else {
        return path.error(format!("expected an integer, got {}", describe(value)));
    };
    let wide = number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from));
    wide.map_or_else(|| path.error(format!("expected an integer, got {number}")), Ok)
}

fn scalar(meta: &ScalarMeta, value: &mut Value, path: &mut Path) -> Result<(), Invalid> {
    if meta.integer {
        let number = integer(value, path)?;
        let low = meta.min.is_some_and(|min| number < i128::from(min));
        let high = meta.max.is_some_and(|max| number > i128::from(max));
        if low || high {
            let bound = |b: Option<i64>| b.map_or("any".to_owned(), |v| v.to_string());
            return path.error(format!(
                "{number} is out of range, allowed are {} to {}",
                bound(meta.min),
                bound(meta.max)
            ));
        }
        return Ok(());
    }
    let Value::String(text) = value else {
        return path.error(format!("expected a string, got {}", describe(value)));
    };
    if !meta.allowed.is_empty() && !meta.allowed.contains(&text.as_str()) {
        return path
            .error(format!("{text:?} is not allowed, choose one of {}", meta.allowed.join(", ")));
    }
    if meta.name == "CommunityAttribute" && !community(text) {
        return path
            .error(format!("{text:?} is no BGP community; write ASN:number or a known name"));
    }
    if let Some(pattern) = meta.pattern {
        let whole = regex_lite::Regex::new(&format!("^(?:{pattern})$"));
        if !whole.is_ok_and(|whole| whole.is_match(text)) {
            return path.error(format!("{text:?} does not have the form {pattern}"));
        }
    }
    Ok(())
}

/// A well-known name, or `asn:number` with `*` for either part.
fn community(text: &str) -> bool {
    const KNOWN: [&str; 5] =
        ["no-export", "accept-own", "no-advertise", "no-export-subconfed", "no-reoriginate"];
    if KNOWN.contains(&text) {
        return true;
    }
    let part = |p: &str| p == "*" || p.parse::<u16>().is_ok();
    text.split_once(':').is_some_and(|(asn, number)| part(asn) && part(number))
}

fn structure(meta: &'static StructMeta, value: &mut Value, path: &mut Path) -> Result<(), Invalid> {
    let Value::Object(fields) = value else {
        return path.error(format!("expected an object ({}), got {}", meta.name, describe(value)));
    };
    // Absent and null are one; storing neither keeps objects equal that mean the same.
    fields.retain(|_, v| !v.is_null());
    for (name, field) in fields.iter_mut() {
        path.0.push(Step::Name(name.clone()));
        match meta.field(name) {
            Some(known) => member(known, field, path)?,
            None => return path.error(format!("unknown field of {}", meta.name)),
        }
        path.0.pop();
    }
    Ok(())
}

fn member(meta: &FieldMeta, value: &mut Value, path: &mut Path) -> Result<(), Invalid> {
    if !meta.list {
        return check(&meta.value, value, path);
    }
    if falsy(value) {
        *value = Value::Array(Vec::new());
        return Ok(());
    }
    let Value::Array(elements) = value else {
        return path.error(format!("expected a list, got {}", describe(value)));
    };
    for (at, element) in elements.iter_mut().enumerate() {
        path.0.push(Step::Index(at));
        check(&meta.value, element, path)?;
        path.0.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use serde_json::json;

    fn try_property(kind: Kind, name: &str, mut value: Value) -> Result<Value, String> {
        let meta = kind.meta().property(name).unwrap();
        property(meta, &mut value).map_err(|e| e.to_string())?;
        Ok(value)
    }

    #[test]
    fn nulls_vanish_and_numeric_strings_become_numbers() {
        let value = try_property(
            Kind::VIRTUAL_NETWORK,
            "virtual_network_properties",
            json!({"forwarding_mode": "l3", "vxlan_network_identifier": "77", "rpf": null}),
        );
        assert_eq!(
            value.unwrap(),
            json!({"forwarding_mode": "l3", "vxlan_network_identifier": 77})
        );
    }

    #[test]
    fn errors_name_the_field_and_what_would_be_right() {
        let bad = |value| {
            try_property(Kind::NETWORK_POLICY, "network_policy_entries", value).unwrap_err()
        };
        assert_eq!(
            bad(json!({"policy_rule": [{"direction": "<>", "colour": "red"}]})),
            "network_policy_entries.policy_rule[0].colour: unknown field of PolicyRuleType"
        );
        assert_eq!(
            bad(json!({"policy_rule": [{"direction": "<"}]})),
            "network_policy_entries.policy_rule[0].direction: \"<\" is not allowed, choose one of >, <>"
        );
        assert_eq!(
            bad(json!({"policy_rule": [{"dst_ports": [{"start_port": 70000}]}]})),
            "network_policy_entries.policy_rule[0].dst_ports[0].start_port: 70000 is out of range, \
             allowed are -1 to 65535"
        );
        assert_eq!(
            bad(json!([1])),
            "network_policy_entries: expected an object (PolicyEntriesType), got a list"
        );
    }

    #[test]
    fn falsy_values_pass_whatever_their_type() {
        for value in [json!(null), json!(""), json!(0), json!(false), json!([]), json!({})] {
            assert!(try_property(Kind::VIRTUAL_NETWORK, "mtu", value.clone()).is_ok(), "{value}");
        }
        assert!(try_property(Kind::VIRTUAL_NETWORK, "is_shared", json!("yes")).is_err());
        assert!(try_property(Kind::VIRTUAL_NETWORK, "mtu", json!(1.5)).is_err());
    }
}
