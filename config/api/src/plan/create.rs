//! Creating an object: spec section 3, "order of checks".

use std::sync::Arc;

use serde_json::Value;
use skein_model::{FqName, Object, Reference};
use uuid::Uuid;

use super::{Draft, Intake, RefIntent, names, perms, references, rules};
use crate::error::{ApiError, ApiResult};

/// Creates the object and everything that comes with it.
pub(super) fn create(draft: &mut Draft<'_>, mut intake: Intake) -> ApiResult<Arc<Object>> {
    rules::before_create(draft, &mut intake)?;
    let kind = intake.kind;
    let parts = intake.fq_name.take().ok_or_else(|| ApiError::bad("fq_name: must be given"))?;
    names::check_characters(kind, &parts)?;
    let fq_name = FqName::new(&parts).ok_or_else(|| ApiError::bad("fq_name: must be given"))?;
    if let Some(existing) = draft.by_name(kind, &fq_name) {
        return Err(ApiError::conflict(format!(
            "fq_name: {kind} {fq_name} exists with uuid {}",
            existing.uuid
        )));
    }
    let parent = names::find_parent(draft, kind, &parts, intake.parent_type.as_deref())?;
    let uuid = match &intake.uuid {
        Some(text) => names::parse_uuid(text)
            .ok_or_else(|| ApiError::bad(format!("uuid: {text:?} is not a uuid")))?,
        None => Uuid::new_v4(),
    };
    if uuid.is_nil() {
        return Err(ApiError::bad("uuid: the nil uuid is not allowed"));
    }
    if let Some(existing) = draft.get(uuid) {
        return Err(ApiError::conflict(format!(
            "uuid: {uuid} belongs to the {} {}",
            existing.kind, existing.fq_name
        )));
    }
    let mut object = Object {
        uuid,
        kind,
        fq_name,
        parent,
        properties: std::mem::take(&mut intake.properties),
        references: Vec::new(),
        created_revision: 0,
        revision: 0,
    };
    for (meta, intents) in &intake.references {
        let resolved = resolve_all(draft, meta.field, meta.target, intents)?;
        object.references.extend(resolved);
    }
    let has_name = object
        .properties
        .get("display_name")
        .and_then(Value::as_str)
        .is_some_and(|n| !n.is_empty());
    if !has_name {
        object.properties.insert("display_name".into(), Value::String(object.name().to_owned()));
    }
    perms::fill_new(draft, &mut object)?;
    rules::on_create(draft, &mut object)?;
    rules::check_quota(draft, &object)?;
    let object = draft.put_new(object);
    references::mirror(draft, None, &object)?;
    rules::after_create(draft, &object)?;
    Ok(object)
}

/// Finds the targets of a reference list. A target named twice counts once, with the last attributes.
pub(super) fn resolve_all(
    draft: &Draft<'_>,
    field: &str,
    kind: skein_model::Kind,
    intents: &[RefIntent],
) -> ApiResult<Vec<Reference>> {
    let mut found: Vec<Reference> = Vec::with_capacity(intents.len());
    for (at, intent) in intents.iter().enumerate() {
        let field = if intents.len() == 1 { field.to_owned() } else { format!("{field}[{at}]") };
        let uuid = names::resolve(draft, &field, kind, intent)?;
        let reference = Reference { kind, uuid, attr: intent.attr.clone(), relaxed: false };
        match found.iter_mut().find(|r| r.uuid == uuid) {
            Some(same) => *same = reference,
            None => found.push(reference),
        }
    }
    Ok(found)
}
