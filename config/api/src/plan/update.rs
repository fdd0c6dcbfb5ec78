//! Changing an object: a merge at the level of fields.

use std::sync::Arc;

use skein_model::{Kind, Object};
use uuid::Uuid;

use super::{Draft, Intake, create::resolve_all, perms, references, rules};
use crate::error::{ApiError, ApiResult};

/// Applies an update body.
pub(super) fn update(
    draft: &mut Draft<'_>,
    uuid: Uuid,
    mut intake: Intake,
) -> ApiResult<Arc<Object>> {
    let kind = intake.kind;
    let old = draft.need(kind, uuid)?;
    check_identity(&old, &intake)?;
    let mut new = Object::clone(&old);
    perms::merge(&mut new, &mut intake.properties)?;
    for property in &intake.removed {
        if !matches!(property.name, "id_perms" | "perms2") {
            new.properties.remove(property.name);
        }
    }
    new.properties.append(&mut intake.properties);
    for (meta, intents) in &intake.references {
        let mut wanted = resolve_all(draft, meta.field, meta.target, intents)?;
        for reference in &mut wanted {
            reference.relaxed =
                old.references.iter().any(|r| r.uuid == reference.uuid && r.relaxed);
        }
        // Kept references stay where they are, so that the order of links (and of subnets) is stable.
        let mut merged = Vec::with_capacity(new.references.len() + wanted.len());
        for reference in new.references.drain(..) {
            if reference.kind != meta.target {
                merged.push(reference);
            } else if let Some(at) = wanted.iter().position(|w| w.uuid == reference.uuid) {
                merged.push(wanted.remove(at));
            }
        }
        merged.append(&mut wanted);
        new.references = merged;
    }
    store(draft, &old, new)
}

/// Runs the type's rules over a changed object and stores it, if it changed.
pub(super) fn store(
    draft: &mut Draft<'_>,
    old: &Arc<Object>,
    mut new: Object,
) -> ApiResult<Arc<Object>> {
    rules::on_update(draft, old, &mut new)?;
    if new.properties == old.properties && new.references == old.references {
        return Ok(Arc::clone(old));
    }
    let new = draft.put_changed(new);
    references::mirror(draft, Some(old), &new)?;
    rules::after_update(draft, old, &new)?;
    Ok(new)
}

fn check_identity(old: &Object, intake: &Intake) -> ApiResult<()> {
    if let Some(parts) = &intake.fq_name
        && old.kind != Kind::TAG
        && !old.fq_name.parts().iter().map(|p| &**p).eq(parts.iter().map(String::as_str))
    {
        return Err(ApiError::bad(format!("fq_name: cannot change from {}", old.fq_name)));
    }
    Ok(())
}
