//! Tags, tag types and `set-tag`: spec section 12.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use skein_model::{FqName, Kind, Object};
use uuid::Uuid;

use super::super::{Intake, create, draft::plain_reference};
use super::string;
use crate::{
    error::{ApiError, ApiResult},
    plan::{Draft, names, update},
};

/// Types that every system has, with their ids.
pub(super) const PREDEFINED: [(&str, u64); 7] = [
    ("label", 0),
    ("application", 1),
    ("tier", 2),
    ("deployment", 3),
    ("site", 4),
    ("neutron_fwaas", 5),
    ("neutron_tag", 6),
];
/// Types of which an object may carry several tags.
const MULTI: [&str; 3] = ["label", "neutron_fwaas", "neutron_tag"];
const TYPES: &str = "tag-type";

fn value_space(tag_type: u64) -> String {
    format!("tag/{tag_type:04x}")
}

pub(super) fn hex(value: Option<&Value>) -> Option<u64> {
    u64::from_str_radix(value?.as_str()?.trim_start_matches("0x"), 16).ok()
}

/// A tag is named after its type and value.
pub(super) fn before_create(_draft: &Draft<'_>, intake: &mut Intake) -> ApiResult<()> {
    let given = |name: &str| {
        let text = intake.properties.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
        text.map(str::to_owned).ok_or_else(|| ApiError::bad(format!("{name}: must be given")))
    };
    let tag_type = given("tag_type_name")?.to_lowercase();
    if tag_type.contains(['=', ':']) {
        return Err(ApiError::bad(format!(
            "tag_type_name: {tag_type:?} must contain neither \"=\" nor \":\""
        )));
    }
    let value = given("tag_value")?;
    if value.contains(':') {
        return Err(ApiError::bad(format!("tag_value: {value:?} must not contain \":\"")));
    }
    let name = format!("{tag_type}={value}");
    match &mut intake.fq_name {
        Some(parts) => {
            if let Some(last) = parts.last_mut() {
                name.clone_into(last);
            }
        }
        None => intake.fq_name = Some(vec![name.clone()]),
    }
    intake.properties.insert("display_name".into(), Value::String(name));
    if intake.references_to(Kind::TAG_TYPE).is_some_and(|refs| !refs.is_empty()) {
        return Err(ApiError::bad("tag_type_refs: is set by the server from tag_type_name"));
    }
    // Global tags need no parent_type; a name of several elements means a project.
    if intake.parent_type.is_none() && intake.fq_name.as_ref().is_some_and(|parts| parts.len() > 1)
    {
        intake.parent_type = Some("project".to_owned());
    }
    Ok(())
}

/// Finds or makes the tag's type and gives the tag its id.
pub(super) fn on_create(draft: &mut Draft<'_>, tag: &mut Object) -> ApiResult<()> {
    let type_name = string(tag, "tag_type_name").unwrap_or_default().to_lowercase();
    let tag_type = match draft.by_name(Kind::TAG_TYPE, &FqName::single(&type_name)) {
        Some(existing) => existing,
        None => {
            let mut fields = Map::new();
            fields.insert("fq_name".into(), json!([type_name]));
            fields.insert("id_perms".into(), json!({"user_visible": false}));
            create::create(draft, Intake::from_fields(Kind::TAG_TYPE, fields)?)?
        }
    };
    let type_id = hex(tag_type.properties.get("tag_type_id")).unwrap_or(0);
    let space = value_space(type_id);
    let value = match tag
        .properties
        .get("tag_id")
        .filter(|id| id.as_str().is_some_and(|i| !i.is_empty()))
    {
        Some(chosen) => {
            let id = hex(Some(chosen)).unwrap_or(0);
            let value = id & 0xffff;
            if id >> 16 != type_id || value < 0x8000 {
                return Err(ApiError::bad(format!(
                    "tag_id: must be 0x{type_id:04x} followed by a value of at least 0x8000"
                )));
            }
            draft
                .take_number(&space, value, tag.uuid)
                .map_err(|_| ApiError::bad(format!("tag_id: 0x{id:08x} is in use")))?;
            value
        }
        None => draft.allocate_number(&space, tag.uuid, "tag_id")?,
    };
    tag.properties.insert("tag_id".into(), json!(format!("0x{type_id:04x}{value:04x}")));
    tag.references.push(plain_reference(&tag_type));
    Ok(())
}

/// Nothing of a tag's identity changes.
pub(super) fn on_update(old: &Object, new: &mut Object) -> ApiResult<()> {
    for name in ["tag_type_name", "tag_value", "tag_id"] {
        let before = old.properties.get(name);
        match new.properties.get(name) {
            Some(after) if Some(after) != before => {
                return Err(ApiError::bad(format!("{name}: cannot change")));
            }
            Some(_) => {}
            None => {
                if let Some(before) = before {
                    new.properties.insert(name.to_owned(), before.clone());
                }
            }
        }
    }
    let types = |o: &Object| o.references_to(Kind::TAG_TYPE).map(|r| r.uuid).collect::<Vec<_>>();
    if types(old) != types(new) {
        return Err(ApiError::bad("tag_type_refs: cannot change"));
    }
    Ok(())
}

/// Gives the id back.
pub(super) fn on_delete(draft: &mut Draft<'_>, tag: &Object) {
    if let Some(id) = hex(tag.properties.get("tag_id")) {
        draft.release_number(&value_space(id >> 16), id & 0xffff, tag.uuid);
    }
}

/// A type made on demand goes with its last tag.
pub(super) fn after_delete(draft: &mut Draft<'_>, tag: &Object) -> ApiResult<()> {
    for reference in tag.references_to(Kind::TAG_TYPE) {
        let Some(tag_type) = draft.get(reference.uuid) else { continue };
        let predefined = PREDEFINED.iter().any(|(name, _)| *name == tag_type.name());
        let users = draft.back_references(tag_type.uuid);
        if !predefined && users.iter().all(|user| user.uuid == tag.uuid) && !chosen(&tag_type) {
            type_on_delete(draft, &tag_type);
            draft.delete(&tag_type);
        }
    }
    Ok(())
}

/// A type whose id a user chose was made by that user and stays.
fn chosen(tag_type: &Object) -> bool {
    hex(tag_type.properties.get("tag_type_id")).is_some_and(|id| id >= 0x8000)
}

/// Gives a tag type its id.
pub(super) fn type_on_create(draft: &mut Draft<'_>, tag_type: &mut Object) -> ApiResult<()> {
    let predefined =
        PREDEFINED.iter().find(|(name, _)| *name == tag_type.name()).map(|(_, id)| *id);
    let chosen = hex(tag_type.properties.get("tag_type_id"));
    let id = match (predefined, chosen) {
        (Some(id), _) => {
            draft
                .take_number(TYPES, id, tag_type.uuid)
                .map_err(|_| ApiError::bad(format!("tag_type_id: 0x{id:04x} is in use")))?;
            id
        }
        (None, Some(id)) => {
            if !(0x8000..=0xffff).contains(&id) {
                return Err(ApiError::bad("tag_type_id: must be 0x8000 to 0xffff"));
            }
            draft
                .take_number(TYPES, id, tag_type.uuid)
                .map_err(|_| ApiError::bad(format!("tag_type_id: 0x{id:04x} is in use")))?;
            id
        }
        (None, None) => draft.allocate_number(TYPES, tag_type.uuid, "tag_type_id")?,
    };
    tag_type.properties.insert("tag_type_id".into(), json!(format!("0x{id:04x}")));
    Ok(())
}

/// Gives a tag type's id back.
pub(super) fn type_on_delete(draft: &mut Draft<'_>, tag_type: &Object) {
    if let Some(id) = hex(tag_type.properties.get("tag_type_id")) {
        draft.release_number(TYPES, id, tag_type.uuid);
    }
}

/// An object carries one tag of a type, except of those that allow several.
pub(super) fn check_references(draft: &Draft<'_>, object: &Object) -> ApiResult<()> {
    if object.kind == Kind::FIREWALL_RULE {
        return Ok(());
    }
    let mut seen: Vec<String> = Vec::new();
    for reference in object.references_to(Kind::TAG) {
        let Some(tag) = draft.get(reference.uuid) else { continue };
        let tag_type = string(&tag, "tag_type_name").unwrap_or_default().to_lowercase();
        if object.kind == Kind::ADDRESS_GROUP && tag_type != "label" {
            return Err(ApiError::bad(format!(
                "tag_refs: an address-group takes labels only, not {tag_type}"
            )));
        }
        if !MULTI.contains(&tag_type.as_str()) {
            if seen.contains(&tag_type) {
                return Err(ApiError::bad(format!("tag_refs: has two tags of type {tag_type}")));
            }
            seen.push(tag_type);
        }
    }
    Ok(())
}

/// `set-tag`: attaches and detaches tags by type and value.
pub(crate) fn set_tag(
    draft: &mut Draft<'_>,
    kind: Kind,
    uuid: Uuid,
    request: &Map<String, Value>,
) -> ApiResult<Arc<Object>> {
    let old = draft.need(kind, uuid)?;
    let mut new = Object::clone(&old);
    for (type_name, wish) in request {
        if matches!(type_name.as_str(), "obj_type" | "obj_uuid") {
            continue;
        }
        let type_name = type_name.to_lowercase();
        let multi = MULTI.contains(&type_name.as_str());
        if draft.by_name(Kind::TAG_TYPE, &FqName::single(&type_name)).is_none() {
            return Err(ApiError::not_found(format!("{type_name}: there is no such tag type")));
        }
        if wish.is_null() {
            drop_type(draft, &mut new, &type_name);
            continue;
        }
        if !wish.is_object() {
            return Err(ApiError::bad(format!("{type_name}: must be null or an object")));
        }
        let is_global = match wish.get("is_global") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(global)) => *global,
            Some(_) => {
                return Err(ApiError::bad(format!("{type_name}.is_global: must be true or false")));
            }
        };
        let values = |name: &str| -> ApiResult<Vec<String>> {
            match wish.get(name) {
                None | Some(Value::Null) => Some(Vec::new()),
                Some(Value::Array(list)) => {
                    list.iter().map(|v| v.as_str().map(str::to_owned)).collect::<Option<_>>()
                }
                Some(_) => None,
            }
            .ok_or_else(|| ApiError::bad(format!("{type_name}.{name}: must be a list of strings")))
        };
        let (add, remove) = (values("add_values")?, values("delete_values")?);
        if multi {
            for value in add {
                let tag = find(draft, &new, &type_name, &value, is_global)?;
                if !new.references.iter().any(|r| r.uuid == tag.uuid) {
                    new.references.push(plain_reference(&tag));
                }
            }
            for value in remove {
                let tag = find(draft, &new, &type_name, &value, is_global)?;
                new.references.retain(|r| r.uuid != tag.uuid);
            }
            if let Some(value) = wish.get("value").and_then(Value::as_str) {
                let tag = find(draft, &new, &type_name, value, is_global)?;
                if !new.references.iter().any(|r| r.uuid == tag.uuid) {
                    new.references.push(plain_reference(&tag));
                }
            }
        } else {
            if !add.is_empty() || !remove.is_empty() {
                return Err(ApiError::bad(format!(
                    "{type_name}: has one value, give \"value\" instead of add_values and delete_values"
                )));
            }
            let value = wish
                .get("value")
                .and_then(Value::as_str)
                .ok_or_else(|| ApiError::bad(format!("{type_name}.value: must be given")))?;
            let tag = find(draft, &new, &type_name, value, is_global)?;
            drop_type(draft, &mut new, &type_name);
            new.references.push(plain_reference(&tag));
        }
    }
    update::store(draft, &old, new)
}

fn drop_type(draft: &Draft<'_>, object: &mut Object, type_name: &str) {
    object.references.retain(|r| {
        r.kind != Kind::TAG
            || draft.get(r.uuid).is_none_or(|tag| {
                string(&tag, "tag_type_name").unwrap_or_default().to_lowercase() != type_name
            })
    });
}

/// The tag of a scope: global, or of the object's project.
fn find(
    draft: &Draft<'_>,
    object: &Object,
    type_name: &str,
    value: &str,
    is_global: bool,
) -> ApiResult<Arc<Object>> {
    let name = format!("{type_name}={value}");
    let full = if is_global {
        FqName::single(&name)
    } else {
        project_of(draft, object)
            .ok_or_else(|| {
                ApiError::not_found(format!(
                    "{type_name}: the object has no project, set is_global"
                ))
            })?
            .child(&name)
    };
    draft
        .by_name(Kind::TAG, &full)
        .ok_or_else(|| ApiError::not_found(format!("{type_name}: there is no tag {full}")))
}

fn project_of(draft: &Draft<'_>, object: &Object) -> Option<FqName> {
    if object.kind == Kind::PROJECT {
        return Some(object.fq_name.clone());
    }
    if let Some((Kind::PROJECT, uuid)) = object.parent {
        return draft.get(uuid).map(|p| p.fq_name.clone());
    }
    let owner = object.properties.get("perms2")?.get("owner")?.as_str()?;
    let project = draft.get(names::parse_uuid(owner)?)?;
    (project.kind == Kind::PROJECT).then(|| project.fq_name.clone())
}
