//! Configuration objects in little memory.
//!
//! There are tens of thousands of ports, addresses and members, and a tree of maps for each would take ten times the
//! space of its text. So the properties of the types that are many are kept as text, and read when they are looked at.

use serde_json::{Map, Value};
use skein_model::{Kind, Object};
use std::borrow::Cow;

/// The one property of a packed object. No property of the schema has such a name.
const TEXT: &str = "=packed";

/// Types of which there are many.
fn is_many(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::VIRTUAL_MACHINE
            | Kind::VIRTUAL_MACHINE_INTERFACE
            | Kind::INSTANCE_IP
            | Kind::LOADBALANCER
            | Kind::LOADBALANCER_LISTENER
            | Kind::LOADBALANCER_POOL
            | Kind::LOADBALANCER_MEMBER
            | Kind::FLOATING_IP
            | Kind::FIREWALL_RULE
            | Kind::FIREWALL_POLICY
            | Kind::VIRTUAL_DNS_RECORD
    )
}

/// Drops what nobody here looks at and packs the rest. A packed object stays as it is.
pub fn shrink(object: &mut Object) {
    for name in ["id_perms", "perms2"] {
        object.properties.remove(name);
    }
    if is_many(object.kind) && !object.properties.contains_key(TEXT) {
        let mut text = serde_json::to_string(&object.properties).unwrap_or_default();
        text.shrink_to_fit();
        object.properties = Map::from_iter([(TEXT.to_owned(), Value::String(text))]);
    }
    object.references.shrink_to_fit();
}

/// The properties of an object, packed or not.
#[must_use]
pub fn properties(object: &Object) -> Cow<'_, Map<String, Value>> {
    match object.properties.get(TEXT).and_then(Value::as_str) {
        Some(text) => Cow::Owned(serde_json::from_str(text).unwrap_or_default()),
        None => Cow::Borrowed(&object.properties),
    }
}

/// One property that is a text.
#[must_use]
pub fn text(object: &Object, name: &str) -> Option<String> {
    properties(object).get(name).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use skein_model::FqName;

    #[test]
    fn what_is_packed_reads_as_before() {
        let Value::Object(fields) = json!({"display_name": "a", "id_perms": {"enable": true}, "instance_ip_address": "10.0.0.1"})
        else {
            panic!("an object");
        };
        let mut object = Object {
            uuid: uuid::Uuid::nil(),
            kind: Kind::INSTANCE_IP,
            fq_name: FqName::single("a"),
            parent: None,
            properties: fields,
            references: Vec::new(),
            created_revision: 0,
            revision: 0,
        };
        shrink(&mut object);
        let once = object.clone();
        shrink(&mut object);
        assert_eq!(object, once);
        assert_eq!(text(&object, "instance_ip_address").as_deref(), Some("10.0.0.1"));
        assert_eq!(properties(&object).len(), 2);
    }
}
