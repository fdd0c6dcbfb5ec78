//! `prop-collection-update`: single elements of list and map properties.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Map, Value};
use skein_model::{
    Object,
    meta::{Collection, PropertyMeta, StructMeta, ValueType},
    validate,
};
use uuid::Uuid;

use super::{Draft, ElementOp, ElementUpdate, update};
use crate::error::{ApiError, ApiResult};

/// The wrapper's only list field of a list or map property.
pub(crate) fn list_field(property: &PropertyMeta) -> Option<(&'static StructMeta, &'static str)> {
    match property.value {
        ValueType::Struct(wrapper) if property.collection != Collection::None => {
            wrapper.fields.iter().find(|f| f.list).map(|f| (wrapper, f.name))
        }
        _ => None,
    }
}

/// Applies the updates in order. Positions in a list are those that the list had before the request: a client that deletes
/// two elements names the positions that it has read. What the request adds comes behind them.
pub(super) fn update_elements(
    draft: &mut Draft<'_>,
    uuid: Uuid,
    updates: &[ElementUpdate],
) -> ApiResult<Arc<Object>> {
    let old = draft
        .get(uuid)
        .ok_or_else(|| ApiError::not_found(format!("uuid: no object has the uuid {uuid}")))?;
    let mut new = Object::clone(&old);
    // Of each property that is touched: its list, and the positions in it that are deleted.
    let mut touched = BTreeMap::new();
    for one in updates {
        let property = old.kind.meta().property(&one.field).ok_or_else(|| {
            ApiError::bad(format!("field: a {} has no property {:?}", old.kind, one.field))
        })?;
        let (_, list) = list_field(property).ok_or_else(|| {
            ApiError::bad(format!("field: {} is neither a list nor a map", one.field))
        })?;
        let value =
            new.properties.entry(one.field.clone()).or_insert_with(|| Value::Object(Map::new()));
        if !value.is_object() {
            *value = Value::Object(Map::new());
        }
        let Value::Object(wrapper) = value else { continue };
        let slot = wrapper.entry(list).or_insert_with(|| Value::Array(Vec::new()));
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        let Value::Array(elements) = slot else { continue };
        let (_, _, gone) =
            touched.entry(property.name).or_insert_with(|| (property, list, BTreeSet::new()));
        apply(property, elements, gone, one)?;
    }
    for (property, list, gone) in touched.into_values() {
        let Some(value) = new.properties.get_mut(property.name) else { continue };
        if let Some(Value::Array(elements)) = value.get_mut(list) {
            let mut at = 0..;
            elements.retain(|_| at.next().is_some_and(|at| !gone.contains(&at)));
        }
        validate::property(property, value)?;
    }
    update::store(draft, &old, new)
}

fn apply(
    property: &PropertyMeta,
    elements: &mut Vec<Value>,
    gone: &mut BTreeSet<usize>,
    one: &ElementUpdate,
) -> ApiResult<()> {
    let field = property.name;
    let value = || {
        one.value
            .clone()
            .filter(|v| !v.is_null())
            .ok_or_else(|| ApiError::bad(format!("{field}: value must be given")))
    };
    let position = || {
        one.position
            .clone()
            .ok_or_else(|| ApiError::bad(format!("{field}: position must be given")))
    };
    match (property.collection, one.operation) {
        (Collection::List, ElementOp::Add) => elements.push(value()?),
        (Collection::List, ElementOp::Modify | ElementOp::Delete) => {
            let position = position()?;
            let at = position.parse::<usize>().ok();
            let at = at.filter(|at| *at < elements.len() && !gone.contains(at));
            let at = at.ok_or_else(|| {
                ApiError::bad(format!("{field}: there is no element at position {position}"))
            })?;
            if one.operation == ElementOp::Modify {
                elements[at] = value()?;
            } else {
                gone.insert(at);
            }
        }
        (Collection::Map { key }, ElementOp::Set) => {
            let value = value()?;
            let name = value
                .get(key)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .or_else(|| one.position.clone());
            let name =
                name.ok_or_else(|| ApiError::bad(format!("{field}: the element has no {key:?}")))?;
            match elements.iter_mut().find(|e| e.get(key).and_then(Value::as_str) == Some(&name)) {
                Some(existing) => *existing = value,
                None => elements.push(value),
            }
        }
        (Collection::Map { key }, ElementOp::Delete) => {
            let position = position()?;
            elements.retain(|e| e.get(key).and_then(Value::as_str) != Some(&position));
        }
        (Collection::List, ElementOp::Set) => {
            return Err(ApiError::bad(format!("{field}: a list takes add, modify and delete")));
        }
        (Collection::Map { .. }, _) => {
            return Err(ApiError::bad(format!("{field}: a map takes set and delete")));
        }
        (Collection::None, _) => {
            return Err(ApiError::bad(format!("{field}: is neither a list nor a map")));
        }
    }
    Ok(())
}
