//! Between the API's JSON and [`Object`].

use serde_json::{Map, Value, json};
use skein_model::{FqName, Kind, Object, Reference};
use uuid::Uuid;

/// Reads an object as `GET` and `/watch` show it. Children, back references and hrefs are not part of an [`Object`].
///
/// # Errors
/// What is missing or of the wrong form.
pub fn decode(kind: Kind, fields: Map<String, Value>) -> Result<Object, String> {
    let mut uuid = None;
    let mut fq_name = None;
    let mut parent_kind = None;
    let mut parent_uuid = None;
    let mut properties = Map::new();
    let mut references = Vec::new();
    let meta = kind.meta();
    let id = |value: &Value| value.as_str().and_then(|text| Uuid::try_parse(text).ok());
    for (name, value) in fields {
        match name.as_str() {
            "uuid" => uuid = id(&value),
            "fq_name" => fq_name = serde_json::from_value::<FqName>(value).ok(),
            "parent_type" => parent_kind = value.as_str().and_then(Kind::parse),
            "parent_uuid" => parent_uuid = id(&value),
            _ if meta.property(&name).is_some() => {
                if !value.is_null() {
                    properties.insert(name, value);
                }
            }
            _ => {
                if !name.ends_with("_refs") {
                    continue;
                }
                let Some(known) = meta.all_references().find(|r| r.field == name) else { continue };
                let Value::Array(list) = value else { return Err(format!("{name} is not a list")) };
                for mut one in list {
                    let uuid = one
                        .get("uuid")
                        .and_then(id)
                        .ok_or_else(|| format!("{name} has an element without uuid"))?;
                    let attr = one.get_mut("attr").map_or(Value::Null, Value::take);
                    references.push(Reference { kind: known.target, uuid, attr, relaxed: false });
                }
            }
        }
    }
    Ok(Object {
        uuid: uuid.ok_or("uuid is missing")?,
        kind,
        fq_name: fq_name.ok_or("fq_name is missing")?,
        parent: parent_kind.zip(parent_uuid),
        properties,
        references,
        created_revision: 0,
        revision: 0,
    })
}

/// Writes an object as a request body's fields. References go by uuid.
#[must_use]
pub fn encode(object: &Object) -> Map<String, Value> {
    let mut fields = object.properties.clone();
    fields.insert("uuid".into(), json!(object.uuid));
    fields.insert("fq_name".into(), json!(object.fq_name));
    if let Some((kind, _)) = object.parent {
        fields.insert("parent_type".into(), json!(kind.name()));
    }
    for reference in &object.references {
        let Some(known) = object.kind.meta().reference(reference.kind) else { continue };
        let one = json!({"uuid": reference.uuid, "attr": reference.attr});
        match fields.get_mut(known.field) {
            Some(Value::Array(list)) => list.push(one),
            _ => {
                fields.insert(known.field.to_owned(), json!([one]));
            }
        }
    }
    fields
}
