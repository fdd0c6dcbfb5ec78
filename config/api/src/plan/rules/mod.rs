//! What each type demands beyond the schema: spec sections 8, 11 to 14 and 17.
//!
//! The planner calls these hooks at fixed points; each type's rules are in a file of their own.

pub(super) mod address;
mod bootstrap;
mod dns;
mod firewall;
mod network;
mod policy;
mod port;
mod project;
pub(crate) mod subnets;
mod system;
pub(super) mod tag;
mod vrouter;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use skein_model::{Kind, Object};
use uuid::Uuid;

pub use bootstrap::bootstrap;

use super::{Draft, Intake, names};
use crate::error::{ApiError, ApiResult};

/// Types whose rules are in [`firewall`].
const FIREWALL: [Kind; 5] = [
    Kind::FIREWALL_RULE,
    Kind::FIREWALL_POLICY,
    Kind::APPLICATION_POLICY_SET,
    Kind::ADDRESS_GROUP,
    Kind::SERVICE_GROUP,
];

/// Names the server makes up itself.
pub(super) fn before_create(draft: &mut Draft<'_>, intake: &mut Intake) -> ApiResult<()> {
    match intake.kind {
        Kind::TAG => tag::before_create(draft, intake),
        Kind::GLOBAL_SYSTEM_CONFIG => system::before_create(draft),
        _ => Ok(()),
    }
}

/// Checks a new object and fills in what the server sets.
pub(super) fn on_create(draft: &mut Draft<'_>, object: &mut Object) -> ApiResult<()> {
    match object.kind {
        Kind::VIRTUAL_NETWORK => network::on_create(draft, object),
        Kind::NETWORK_IPAM => subnets::ipam_on_create(draft, object),
        Kind::INSTANCE_IP => address::instance_ip_on_create(draft, object),
        Kind::FLOATING_IP | Kind::ALIAS_IP => address::pool_ip_on_create(draft, object),
        Kind::FLOATING_IP_POOL => address::check_pool_subnets(draft, object),
        Kind::VIRTUAL_MACHINE_INTERFACE => port::on_create(draft, object),
        Kind::NETWORK_POLICY => policy::network_policy(object),
        Kind::SECURITY_GROUP => policy::security_group_on_create(draft, object),
        Kind::ROUTING_INSTANCE => network::routing_instance_on_create(draft, object),
        Kind::TAG => tag::on_create(draft, object),
        Kind::TAG_TYPE => tag::type_on_create(draft, object),
        Kind::GLOBAL_SYSTEM_CONFIG => system::check(draft, object),
        Kind::GLOBAL_VROUTER_CONFIG => vrouter::check(object),
        Kind::VIRTUAL_ROUTER => subnets::virtual_router(draft, object),
        Kind::VIRTUAL_DNS => dns::server(draft, object),
        Kind::VIRTUAL_DNS_RECORD => dns::record(object),
        kind if FIREWALL.contains(&kind) => firewall::on_create(draft, object),
        _ => Ok(()),
    }?;
    tag::check_references(draft, object)
}

/// Makes what comes with a new object.
pub(super) fn after_create(draft: &mut Draft<'_>, object: &Arc<Object>) -> ApiResult<()> {
    match object.kind {
        Kind::VIRTUAL_NETWORK => network::after_create(draft, object),
        Kind::PROJECT => project::after_create(draft, object),
        _ => Ok(()),
    }
}

/// Checks a changed object against its old form.
pub(super) fn on_update(draft: &mut Draft<'_>, old: &Object, new: &mut Object) -> ApiResult<()> {
    match new.kind {
        Kind::VIRTUAL_NETWORK => network::on_update(draft, old, new),
        Kind::NETWORK_IPAM => subnets::ipam_on_update(draft, old, new),
        Kind::INSTANCE_IP => address::instance_ip_on_update(old, new),
        Kind::FLOATING_IP | Kind::ALIAS_IP => address::pool_ip_on_update(old, new),
        Kind::FLOATING_IP_POOL => address::check_pool_subnets(draft, new),
        Kind::VIRTUAL_MACHINE_INTERFACE => port::on_update(draft, old, new),
        Kind::NETWORK_POLICY => policy::network_policy(new),
        Kind::SECURITY_GROUP => policy::security_group_on_update(draft, old, new),
        Kind::ROUTING_INSTANCE => network::routing_instance_on_update(draft, old, new),
        Kind::TAG => tag::on_update(old, new),
        Kind::GLOBAL_SYSTEM_CONFIG => system::on_update(draft, old, new),
        Kind::GLOBAL_VROUTER_CONFIG => vrouter::check(new),
        Kind::VIRTUAL_ROUTER => subnets::virtual_router(draft, new),
        Kind::VIRTUAL_DNS => dns::server(draft, new),
        Kind::VIRTUAL_DNS_RECORD => dns::record(new),
        kind if FIREWALL.contains(&kind) => firewall::on_update(draft, old, new),
        _ => Ok(()),
    }?;
    if new.references != old.references { tag::check_references(draft, new) } else { Ok(()) }
}

/// Brings what hangs on a changed object in step.
pub(super) fn after_update(
    draft: &mut Draft<'_>,
    _old: &Object,
    new: &Arc<Object>,
) -> ApiResult<()> {
    match new.kind {
        Kind::VIRTUAL_NETWORK => network::sync_route_targets(draft, new),
        _ => Ok(()),
    }
}

/// Refuses deletes that the type does not allow, before links are looked at.
pub(super) fn before_delete(draft: &mut Draft<'_>, object: &Object) -> ApiResult<()> {
    match object.kind {
        Kind::VIRTUAL_NETWORK => network::before_delete(draft, object),
        Kind::ROUTING_INSTANCE => network::routing_instance_before_delete(draft, object),
        Kind::VIRTUAL_MACHINE_INTERFACE => port::before_delete(draft, object),
        Kind::APPLICATION_POLICY_SET => firewall::set_before_delete(draft, object),
        Kind::VIRTUAL_DNS => dns::server_before_delete(draft, object),
        _ => Ok(()),
    }
}

/// Gives back what the object was allocated.
pub(super) fn on_delete(draft: &mut Draft<'_>, object: &Object) -> ApiResult<()> {
    match object.kind {
        Kind::VIRTUAL_NETWORK => network::on_delete(draft, object),
        Kind::NETWORK_IPAM => subnets::drop_space(draft, object.uuid),
        Kind::INSTANCE_IP => address::instance_ip_on_delete(draft, object),
        Kind::FLOATING_IP | Kind::ALIAS_IP => address::pool_ip_on_delete(draft, object),
        Kind::SECURITY_GROUP => policy::security_group_on_delete(draft, object),
        Kind::ROUTING_INSTANCE => network::routing_instance_on_delete(draft, object),
        Kind::TAG => tag::on_delete(draft, object),
        Kind::TAG_TYPE => tag::type_on_delete(draft, object),
        _ => return Ok(()),
    }
    Ok(())
}

/// Cleans up behind a deleted object.
pub(super) fn after_delete(draft: &mut Draft<'_>, object: &Object) -> ApiResult<()> {
    match object.kind {
        Kind::ROUTING_INSTANCE => network::drop_orphan_targets(draft, object),
        Kind::TAG => tag::after_delete(draft, object),
        Kind::PROJECT => project::after_delete(draft, object),
        _ => Ok(()),
    }
}

/// Counts objects of a project against its quota: spec section 11.
pub(super) fn check_quota(draft: &Draft<'_>, object: &Object) -> ApiResult<()> {
    if draft.caller.system || !object.kind.meta().quota || !user_visible(object) {
        return Ok(());
    }
    let Some(project) = project_of(draft, object) else { return Ok(()) };
    let Some(quota) = project.properties.get("quota").and_then(Value::as_object) else {
        return Ok(());
    };
    let limit =
        quota.get(object.kind.snake()).or_else(|| quota.get("defaults")).and_then(Value::as_i64);
    let Some(limit) = limit.filter(|limit| *limit >= 0) else { return Ok(()) };
    let counted = draft
        .head
        .graph
        .of_kind(object.kind)
        .filter(|other| {
            user_visible(other) && project_of(draft, other).is_some_and(|p| p.uuid == project.uuid)
        })
        .count();
    if i64::try_from(counted).is_ok_and(|counted| counted < limit) {
        return Ok(());
    }
    Err(ApiError::over_quota(format!(
        "quota exceeded: project {} may have {limit} of {} and has {counted}",
        project.fq_name, object.kind
    )))
}

fn user_visible(object: &Object) -> bool {
    object
        .properties
        .get("id_perms")
        .and_then(|p| p.get("user_visible"))
        .and_then(Value::as_bool)
        .unwrap_or(true)
}

/// The project an object counts for: its first project reference, its parent, or the grandparent of pool members.
fn project_of(draft: &Draft<'_>, object: &Object) -> Option<Arc<Object>> {
    if let Some(reference) = object.reference_to(Kind::PROJECT) {
        return draft.get(reference.uuid);
    }
    match object.parent? {
        (Kind::PROJECT, uuid) => draft.get(uuid),
        (_, uuid) if matches!(object.kind, Kind::LOADBALANCER_MEMBER | Kind::FLOATING_IP_POOL) => {
            let parent = draft.get(uuid)?;
            parent
                .parent
                .filter(|(kind, _)| *kind == Kind::PROJECT)
                .and_then(|(_, uuid)| draft.get(uuid))
        }
        _ => None,
    }
}

/// `chown` and `chmod`.
pub(super) fn permissions(
    draft: &mut Draft<'_>,
    uuid: Uuid,
    request: &Map<String, Value>,
) -> ApiResult<Arc<Object>> {
    let old = draft
        .get(uuid)
        .ok_or_else(|| ApiError::not_found(format!("uuid: no object has the uuid {uuid}")))?;
    let mut new = Object::clone(&old);
    let access = |field: &str, value: &Value| {
        value
            .as_u64()
            .filter(|a| *a <= 7)
            .ok_or_else(|| ApiError::bad(format!("{field}: must be 0 to 7")))
    };
    let mut global = None;
    if let Some(Value::Object(perms)) = new.properties.get_mut("perms2") {
        if let Some(owner) = request.get("owner").filter(|o| !o.is_null()) {
            let owner = owner
                .as_str()
                .filter(|o| names::parse_uuid(o).is_some())
                .ok_or_else(|| ApiError::bad("owner: must be a uuid"))?;
            perms.insert("owner".into(), json!(owner));
        }
        for field in ["owner_access", "global_access"] {
            if let Some(value) = request.get(field).filter(|v| !v.is_null()) {
                let value = access(field, value)?;
                perms.insert(field.into(), json!(value));
                if field == "global_access" {
                    global = Some(value);
                }
            }
        }
        if let Some(share) = request.get("share").filter(|s| !s.is_null()) {
            let list = share.as_array().ok_or_else(|| ApiError::bad("share: must be a list"))?;
            for (at, entry) in list.iter().enumerate() {
                let tenant = entry.get("tenant").and_then(Value::as_str).unwrap_or_default();
                let id = tenant
                    .strip_prefix("tenant:")
                    .or_else(|| tenant.strip_prefix("domain:"))
                    .unwrap_or(tenant);
                if names::parse_uuid(id).is_none() {
                    return Err(ApiError::bad(format!("share[{at}].tenant: must be a uuid")));
                }
                access(
                    &format!("share[{at}].tenant_access"),
                    entry.get("tenant_access").unwrap_or(&Value::Null),
                )?;
            }
            perms.insert("share".into(), share.clone());
        }
    }
    if let Some(global) = global
        && new.kind == Kind::VIRTUAL_NETWORK
    {
        new.properties.insert("is_shared".into(), json!(global != 0));
    }
    if new.properties == old.properties {
        return Ok(old);
    }
    Ok(draft.put_changed(new))
}

/// An integer property.
fn integer(object: &Object, name: &str) -> Option<u64> {
    object.properties.get(name).and_then(Value::as_u64)
}

/// A string property that is not empty.
fn string<'a>(object: &'a Object, name: &str) -> Option<&'a str> {
    object.properties.get(name).and_then(Value::as_str).filter(|s| !s.is_empty())
}
