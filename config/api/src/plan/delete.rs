//! Deleting an object: spec section 15.

use std::sync::Arc;

use skein_model::{Kind, Object};
use uuid::Uuid;

use super::{Draft, references, rules};
use crate::error::{ApiError, ApiResult};

/// How many blockers a refusal names.
const NAMED: usize = 20;

/// Deletes the object, if nothing depends on it.
pub(super) fn delete(draft: &mut Draft<'_>, kind: Kind, uuid: Uuid) -> ApiResult<Arc<Object>> {
    let object = draft.need(kind, uuid)?;
    rules::before_delete(draft, &object)?;
    let (children, blocking): (Vec<_>, Vec<_>) =
        draft.children(uuid).into_iter().partition(|child| goes_along(&object, child));
    if !blocking.is_empty() {
        return Err(ApiError::conflict(format!("Children {} still exist", hrefs(&blocking))));
    }
    let sources = draft.back_references(uuid);
    let gone: Vec<Uuid> = children.iter().map(|child| child.uuid).collect();
    let blocking: Vec<_> = sources
        .iter()
        .filter(|from| !gone.contains(&from.uuid) && blocks(from, &object))
        .cloned()
        .collect();
    if !blocking.is_empty() {
        return Err(ApiError::conflict(format!(
            "Back-References from {} still exist",
            hrefs(&blocking)
        )));
    }
    for child in children {
        remove_with_children(draft, &child)?;
    }
    remove(draft, &object)?;
    Ok(object)
}

/// Deletes an object that the server owns, and what is below it, whatever refers to it.
pub(super) fn remove_with_children(draft: &mut Draft<'_>, object: &Arc<Object>) -> ApiResult<()> {
    for child in draft.children(object.uuid) {
        remove_with_children(draft, &child)?;
    }
    remove(draft, object)
}

fn remove(draft: &mut Draft<'_>, object: &Arc<Object>) -> ApiResult<()> {
    rules::on_delete(draft, object)?;
    // What still refers here does so through relaxed or derived references, which vanish with their target.
    for from in draft.back_references(object.uuid) {
        let mut holder = Object::clone(&from);
        holder.references.retain(|r| r.uuid != object.uuid);
        draft.put_changed(holder);
    }
    references::unmirror(draft, object);
    draft.delete(object);
    rules::after_delete(draft, object)
}

/// Derived children, and the default ones that are made and deleted with their parent.
fn goes_along(parent: &Object, child: &Object) -> bool {
    let derived = parent.kind.meta().child(child.kind).is_some_and(|meta| meta.derived);
    let name = child.name();
    derived
        || name.strip_prefix("default-").is_some_and(|rest| rest == child.kind.name())
        || (child.kind == Kind::POLICY_MANAGEMENT && name == "draft-policy-management")
}

fn blocks(from: &Object, target: &Object) -> bool {
    from.references.iter().filter(|r| r.uuid == target.uuid).any(|reference| {
        let meta = from.kind.meta().reference(target.kind);
        // The peer of a symmetric reference holds one only because the deleted object does.
        let own = meta.is_some_and(|m| m.symmetric)
            && target.references.iter().any(|r| r.uuid == from.uuid);
        !reference.relaxed && !own && !meta.is_some_and(|m| m.derived)
    })
}

fn hrefs(objects: &[Arc<Object>]) -> String {
    let mut text: Vec<String> = objects
        .iter()
        .take(NAMED)
        .map(|o| format!("/{}/{} ({})", o.kind, o.uuid, o.fq_name))
        .collect();
    if objects.len() > NAMED {
        text.push(format!("and {} more", objects.len() - NAMED));
    }
    text.join(", ")
}
