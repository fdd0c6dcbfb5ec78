//! Objects as clients see them.

use serde_json::{Map, Value, json};
use skein_model::{FqName, Graph, Kind, Object};

/// What to show of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape<'a> {
    /// Only these fields, besides identity, `id_perms` and `perms2`.
    pub(crate) fields: Option<Vec<String>>,
    /// Show back references.
    pub(crate) back_references: bool,
    /// Show children.
    pub(crate) children: bool,
    /// What hrefs start with; none for no hrefs.
    pub(crate) base: Option<&'a str>,
}

fn href(base: &str, kind: Kind, uuid: uuid::Uuid) -> Value {
    Value::String(format!("{base}/{kind}/{uuid}"))
}

fn names(name: &FqName) -> Value {
    Value::Array(name.parts().iter().map(|p| Value::String(p.to_string())).collect())
}

/// Identity as a create answers it, and as every object starts.
pub(crate) fn identity(object: &Object, base: Option<&str>) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("uuid".into(), json!(object.uuid));
    map.insert("name".into(), json!(object.name()));
    map.insert("fq_name".into(), names(&object.fq_name));
    if let Some((kind, uuid)) = object.parent {
        map.insert("parent_type".into(), json!(kind.name()));
        map.insert("parent_uuid".into(), json!(uuid));
        if let Some(base) = base {
            map.insert("parent_href".into(), href(base, kind, uuid));
        }
    }
    if let Some(base) = base {
        map.insert("href".into(), href(base, object.kind, object.uuid));
    }
    map
}

/// The short form that lists use.
pub(crate) fn brief(object: &Object, base: Option<&str>) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("uuid".into(), json!(object.uuid));
    map.insert("fq_name".into(), names(&object.fq_name));
    if let Some(base) = base {
        map.insert("href".into(), href(base, object.kind, object.uuid));
    }
    map
}

/// One end of a link.
fn link(
    graph: &Graph,
    kind: Kind,
    uuid: uuid::Uuid,
    attr: Option<&Value>,
    base: Option<&str>,
) -> Value {
    let mut map = Map::new();
    // A target that vanished is shown, not hidden.
    let to = graph.get(uuid).map_or_else(|| json!(["ERROR"]), |target| names(&target.fq_name));
    map.insert("to".into(), to);
    map.insert("uuid".into(), json!(uuid));
    if let Some(attr) = attr {
        map.insert("attr".into(), attr.clone());
    }
    if let Some(base) = base {
        map.insert("href".into(), href(base, kind, uuid));
    }
    Value::Object(map)
}

/// Adds properties and links of the wanted shape.
pub(crate) fn extend(
    map: &mut Map<String, Value>,
    graph: &Graph,
    object: &Object,
    shape: &Shape<'_>,
) {
    let wanted =
        |field: &str| shape.fields.as_ref().is_none_or(|fields| fields.iter().any(|f| f == field));
    for (name, value) in &object.properties {
        if wanted(name) || name == "id_perms" || name == "perms2" {
            map.insert(name.clone(), value.clone());
        }
    }
    let meta = object.kind.meta();
    for reference in &object.references {
        let Some(known) = meta.reference(reference.kind) else { continue };
        if wanted(known.field) {
            push(
                map,
                known.field,
                link(graph, reference.kind, reference.uuid, Some(&reference.attr), shape.base),
            );
        }
    }
    let named = |fields: &[&'static str]| {
        shape
            .fields
            .as_ref()
            .is_some_and(|wanted| wanted.iter().any(|w| fields.contains(&w.as_str())))
    };
    let child_fields: Vec<&'static str> = meta.children.iter().map(|c| c.field).collect();
    if (shape.fields.is_none() && shape.children) || named(&child_fields) {
        for child in graph.children(object.uuid) {
            if let Some(known) = meta.child(child.kind)
                && wanted(known.field)
            {
                push(map, known.field, link(graph, child.kind, child.uuid, None, shape.base));
            }
        }
    }
    let back_fields: Vec<&'static str> = meta.back_references.iter().map(|b| b.field).collect();
    if (shape.fields.is_none() && shape.back_references) || named(&back_fields) {
        for source in graph.back_references(object.uuid) {
            let Some(known) = meta.back_references.iter().find(|b| b.source == source.kind) else {
                continue;
            };
            let symmetric = source.kind == object.kind
                && meta.reference(source.kind).is_some_and(|r| r.symmetric);
            if symmetric || !wanted(known.field) {
                continue;
            }
            for reference in source.references.iter().filter(|r| r.uuid == object.uuid) {
                push(
                    map,
                    known.field,
                    link(graph, source.kind, source.uuid, Some(&reference.attr), shape.base),
                );
            }
        }
    }
}

fn push(map: &mut Map<String, Value>, field: &str, value: Value) {
    if let Some(Value::Array(list)) = map.get_mut(field) {
        list.push(value);
    } else {
        map.insert(field.to_owned(), Value::Array(vec![value]));
    }
}

/// The whole object in the wanted shape.
#[must_use]
pub(crate) fn full(graph: &Graph, object: &Object, shape: &Shape<'_>) -> Value {
    let mut map = identity(object, shape.base);
    extend(&mut map, graph, object, shape);
    Value::Object(map)
}
