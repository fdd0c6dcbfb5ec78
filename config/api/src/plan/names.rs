//! Names, parents, uuids: spec section 7.

use skein_model::{FqName, Kind, Object};
use uuid::Uuid;

use super::{Draft, RefIntent};
use crate::error::{ApiError, ApiResult};

/// A uuid in any of the forms that clients send.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<Uuid> {
    // Braces and URNs are not among them.
    (text.len() == 36 || text.len() == 32).then(|| Uuid::try_parse(text).ok()).flatten()
}

/// Whether an IPAM shares its subnets among its networks.
#[must_use]
pub fn is_flat(ipam: &Object) -> bool {
    ipam.kind == Kind::NETWORK_IPAM
        && ipam.properties.get("ipam_subnet_method").and_then(|m| m.as_str()) == Some("flat-subnet")
}

/// Checks the characters of a name.
pub(super) fn check_characters(kind: Kind, parts: &[String]) -> ApiResult<()> {
    let Some(last) = parts.last() else {
        return Err(ApiError::bad("fq_name: must have at least one element"));
    };
    for part in parts {
        if part.is_empty() {
            return Err(ApiError::bad("fq_name: an element is empty"));
        }
        if let Some(c) = part.chars().find(|c| illegal_in_xml(*c)) {
            return Err(ApiError::bad(format!("fq_name: the character {c:?} is not allowed")));
        }
    }
    if kind != Kind::ROUTE_TARGET && last.contains(':') {
        return Err(ApiError::bad(format!(
            "fq_name: the last element {last:?} must not contain \":\""
        )));
    }
    Ok(())
}

fn illegal_in_xml(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Decides on the parent: its type from `parent_type` or the schema, the object from the front of the name.
pub(super) fn find_parent(
    draft: &Draft<'_>,
    kind: Kind,
    parts: &[String],
    parent_type: Option<&str>,
) -> ApiResult<Option<(Kind, Uuid)>> {
    let meta = kind.meta();
    let allowed = || {
        let root = meta.root_allowed.then_some("config-root");
        root.into_iter().chain(meta.parents.iter().map(|p| p.name())).collect::<Vec<_>>().join(", ")
    };
    let parent = match parent_type.map(|t| t.replace('_', "-")) {
        Some(name) if name == "config-root" && meta.root_allowed => None,
        Some(name) => {
            let parent =
                meta.parents.iter().find(|p| p.name().eq_ignore_ascii_case(&name)).ok_or_else(
                    || {
                        ApiError::bad(format!(
                            "parent_type: a {kind} cannot be under {name}, allowed are {}",
                            allowed()
                        ))
                    },
                )?;
            Some(*parent)
        }
        None if meta.root_allowed => None,
        None => match meta.parents {
            [only] => Some(*only),
            _ => return Err(ApiError::bad(format!("parent_type: give one of {}", allowed()))),
        },
    };
    let Some(parent_kind) = parent else {
        return if parts.len() == 1 {
            Ok(None)
        } else {
            Err(ApiError::bad(format!(
                "fq_name: a {kind} without parent has a name of one element, this has {}",
                parts.len()
            )))
        };
    };
    let front = FqName::new(&parts[..parts.len() - 1]).ok_or_else(|| {
        ApiError::bad(format!(
            "fq_name: a {kind} under a {parent_kind} starts with the parent's name"
        ))
    })?;
    let parent = draft.by_name(parent_kind, &front).ok_or_else(|| {
        ApiError::not_found(format!("fq_name: the parent {parent_kind} {front} does not exist"))
    })?;
    Ok(Some((parent_kind, parent.uuid)))
}

/// Finds the target of a reference by uuid, by name, or by both if they agree.
pub(super) fn resolve(
    draft: &Draft<'_>,
    field: &str,
    kind: Kind,
    intent: &RefIntent,
) -> ApiResult<Uuid> {
    let by_uuid = match &intent.uuid {
        Some(text) => {
            let uuid = parse_uuid(text)
                .ok_or_else(|| ApiError::bad(format!("{field}.uuid: {text:?} is not a uuid")))?;
            let found = draft
                .get(uuid)
                .filter(|o| o.kind == kind)
                .ok_or_else(|| ApiError::bad(format!("{field}: no {kind} has the uuid {uuid}")))?;
            Some(found)
        }
        None => None,
    };
    let by_name = match &intent.to {
        Some(parts) => {
            let name =
                FqName::new(parts).ok_or_else(|| ApiError::bad(format!("{field}.to: is empty")))?;
            let found = draft
                .by_name(kind, &name)
                .ok_or_else(|| ApiError::bad(format!("{field}: no {kind} is called {name}")))?;
            Some(found)
        }
        None => None,
    };
    match (by_uuid, by_name) {
        (Some(a), Some(b)) if a.uuid != b.uuid => Err(ApiError::bad(format!(
            "{field}: \"uuid\" means {}, \"to\" means {}; they must agree",
            a.fq_name, b.fq_name
        ))),
        (Some(found), _) | (None, Some(found)) => Ok(found.uuid),
        (None, None) => {
            Err(ApiError::bad(format!("{field}: names no target, give \"to\" or \"uuid\"")))
        }
    }
}
