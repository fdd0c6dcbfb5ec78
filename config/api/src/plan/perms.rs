//! `id_perms` and `perms2`: spec section 8.

use serde_json::{Map, Value, json};
use skein_model::{Kind, Object};

use super::{Draft, Now};
use crate::error::{ApiError, ApiResult};

/// Fills in both blocks of a new object. `sent` blocks were taken from the request.
pub(super) fn fill_new(draft: &Draft<'_>, object: &mut Object) -> ApiResult<()> {
    let sent = take_map(object, "id_perms");
    let (high, low) = object.uuid.as_u64_pair();
    let user_visible = sent.get("user_visible").and_then(Value::as_bool).unwrap_or(true);
    let mut id_perms = json!({
        "enable": sent.get("enable").and_then(Value::as_bool).unwrap_or(true),
        "uuid": {"uuid_mslong": high, "uuid_lslong": low},
        "created": draft.now.0,
        "last_modified": draft.now.0,
        "description": sent.get("description").cloned().unwrap_or(Value::Null),
        "user_visible": user_visible,
        "creator": sent.get("creator").cloned().unwrap_or(Value::Null),
        "permissions": {
            "owner": "cloud-admin", "owner_access": 7,
            "group": "cloud-admin-group", "group_access": 7, "other_access": 7,
        },
    });
    if let (Some(Value::Object(sent)), Some(Value::Object(own))) =
        (sent.get("permissions"), id_perms.get_mut("permissions"))
    {
        own.extend(sent.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
    }
    object.properties.insert("id_perms".into(), id_perms);

    let mut perms2 = take_map(object, "perms2");
    let owner = if object.kind == Kind::PROJECT {
        object.uuid.simple().to_string()
    } else if let Some(owner) = perms2.get("owner").and_then(Value::as_str).filter(|o| !o.is_empty() && *o != "None") {
        owner.to_owned()
    } else {
        owner_from_parent(draft, object)
    };
    perms2.insert("owner".into(), Value::String(owner));
    perms2.entry("owner_access").or_insert_with(|| json!(7));
    perms2.entry("global_access").or_insert_with(|| json!(0));
    let share = perms2.entry("share").or_insert_with(|| json!([]));
    if !share.is_array() {
        *share = json!([]);
    }
    if let Value::Array(share) = share {
        let automatic = match object.kind {
            Kind::DOMAIN => Some((object.uuid, 6)),
            Kind::SERVICE_TEMPLATE | Kind::VIRTUAL_DNS => object.parent.map(|(_, domain)| (domain, 5)),
            _ => None,
        };
        if let Some((domain, access)) = automatic {
            let entry = json!({"tenant": format!("domain:{domain}"), "tenant_access": access});
            if !share.contains(&entry) {
                share.push(entry);
            }
        }
    }
    object.properties.insert("perms2".into(), Value::Object(perms2));
    Ok(())
}

fn owner_from_parent(draft: &Draft<'_>, object: &Object) -> String {
    let caller = || draft.caller.project.clone().unwrap_or_else(|| "cloud-admin".to_owned());
    match object.parent {
        Some((Kind::DOMAIN, _)) | None => caller(),
        Some((_, parent)) => draft
            .get(parent)
            .and_then(|parent| Some(parent.properties.get("perms2")?.get("owner")?.as_str()?.to_owned()))
            .unwrap_or_else(caller),
    }
}

/// Merges the blocks of an update into those of the object.
pub(super) fn merge(object: &mut Object, properties: &mut Map<String, Value>) -> ApiResult<()> {
    if let Some(Value::Object(sent)) = properties.remove("id_perms")
        && let Some(Value::Object(own)) = object.properties.get_mut("id_perms")
    {
        // Identity, visibility and times are the server's; what the client sends for them is dropped.
        for field in ["enable", "description", "permissions"] {
            match sent.get(field) {
                Some(Value::Object(inner)) => {
                    if let Some(Value::Object(own)) = own.get_mut(field) {
                        own.extend(inner.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())));
                    }
                }
                Some(value) => {
                    own.insert(field.to_owned(), value.clone());
                }
                None => {}
            }
        }
    }
    if let Some(sent) = properties.remove("perms2") {
        let Value::Object(sent) = sent else {
            return Err(ApiError::bad("perms2: must be an object"));
        };
        if sent.get("owner").and_then(Value::as_str).is_none_or(str::is_empty) {
            return Err(ApiError::bad("perms2.owner: must be given when perms2 is"));
        }
        if let Some(Value::Object(own)) = object.properties.get_mut("perms2") {
            own.extend(sent.into_iter().filter(|(_, v)| !v.is_null()));
        }
    }
    Ok(())
}

/// Moves `last_modified`.
pub(super) fn touch(object: &mut Object, now: &Now) {
    if let Some(Value::Object(id_perms)) = object.properties.get_mut("id_perms") {
        id_perms.insert("last_modified".into(), Value::String(now.0.clone()));
    }
}

fn take_map(object: &mut Object, field: &str) -> Map<String, Value> {
    match object.properties.remove(field) {
        Some(Value::Object(map)) => map.into_iter().filter(|(_, v)| !v.is_null()).collect(),
        _ => Map::new(),
    }
}
