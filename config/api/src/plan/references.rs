//! References one at a time, and the other end of symmetric ones.

use std::sync::Arc;

use serde_json::Value;
use skein_model::{Kind, Object, Reference};
use uuid::Uuid;

use super::{Draft, RefIntent, names, update};
use crate::error::{ApiError, ApiResult};

/// `ref-update`: adds, changes or drops one reference.
pub(super) fn ref_update(
    draft: &mut Draft<'_>,
    kind: Kind,
    uuid: Uuid,
    target: Kind,
    intent: &RefIntent,
    add: bool,
    relax: bool,
) -> ApiResult<Arc<Object>> {
    let old = draft.need(kind, uuid)?;
    let meta = kind.meta().reference(target).ok_or_else(|| {
        ApiError::not_found(format!("ref-type: a {kind} has no references to {target}"))
    })?;
    let mut new = Object::clone(&old);
    let found = names::resolve(draft, meta.field, target, intent);
    if add {
        // The action answers 404 where a body with the same mistake is 400.
        let wanted = found.map_err(|e| ApiError { status: 404, ..e })?;
        match new.references.iter_mut().find(|r| r.uuid == wanted) {
            Some(existing) => {
                existing.attr = intent.attr.clone();
                existing.relaxed |= relax;
            }
            None => new.references.push(Reference {
                kind: target,
                uuid: wanted,
                attr: intent.attr.clone(),
                relaxed: relax,
            }),
        }
    } else {
        // Dropping what is not there succeeds; so does dropping a reference to something that is gone.
        let wanted = match found {
            Ok(uuid) => Some(uuid),
            Err(_) => intent.uuid.as_deref().and_then(names::parse_uuid),
        };
        if let Some(wanted) = wanted {
            new.references.retain(|r| r.uuid != wanted || r.kind != target);
        }
    }
    update::store(draft, &old, new)
}

/// `ref-relax-for-delete`: the reference no longer keeps its target.
pub(super) fn relax(draft: &mut Draft<'_>, holder: Uuid, target: Uuid) -> ApiResult<Arc<Object>> {
    let old = draft
        .get(holder)
        .ok_or_else(|| ApiError::not_found(format!("uuid: no object has the uuid {holder}")))?;
    let mut new = Object::clone(&old);
    let reference = new.references.iter_mut().find(|r| r.uuid == target).ok_or_else(|| {
        ApiError::not_found(format!(
            "ref-uuid: {} {} does not refer to {target}",
            old.kind, old.fq_name
        ))
    })?;
    if reference.relaxed {
        return Ok(old);
    }
    reference.relaxed = true;
    Ok(draft.put(new))
}

/// Brings the peers of symmetric references in step with the object.
pub(super) fn mirror(
    draft: &mut Draft<'_>,
    old: Option<&Arc<Object>>,
    new: &Arc<Object>,
) -> ApiResult<()> {
    let Some(meta) = new.kind.meta().reference(new.kind).filter(|m| m.symmetric) else {
        return Ok(());
    };
    if let Some(own) = new.references.iter().find(|r| r.uuid == new.uuid) {
        return Err(ApiError::bad(format!(
            "{}: an object cannot refer to itself ({})",
            meta.field, own.uuid
        )));
    }
    let before: Vec<&Reference> = old.iter().flat_map(|o| o.references_to(new.kind)).collect();
    for reference in new.references_to(new.kind) {
        if before.iter().any(|b| b.uuid == reference.uuid && b.attr == reference.attr) {
            continue;
        }
        set_peer(draft, reference.uuid, new, Some(&reference.attr));
    }
    for reference in before {
        if !new.references.iter().any(|r| r.uuid == reference.uuid) {
            set_peer(draft, reference.uuid, new, None);
        }
    }
    Ok(())
}

/// Takes the object out of its peers' references.
pub(super) fn unmirror(draft: &mut Draft<'_>, object: &Arc<Object>) {
    if object.kind.meta().reference(object.kind).is_some_and(|m| m.symmetric) {
        for reference in object.references_to(object.kind) {
            set_peer(draft, reference.uuid, object, None);
        }
    }
}

fn set_peer(draft: &mut Draft<'_>, peer: Uuid, object: &Object, attr: Option<&Value>) {
    let Some(old) = draft.get(peer) else { return };
    let mut new = Object::clone(&old);
    new.references.retain(|r| r.uuid != object.uuid);
    if let Some(attr) = attr {
        new.references.push(Reference {
            kind: object.kind,
            uuid: object.uuid,
            attr: attr.clone(),
            relaxed: false,
        });
    }
    if new.references != old.references {
        draft.put_changed(new);
    }
}
