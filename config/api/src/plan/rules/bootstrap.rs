//! Objects that every system has: spec section 16.

use serde_json::{Value, json};
use skein_model::{FqName, Kind};

use super::{
    super::{Intake, create},
    network, tag,
};
use crate::{
    error::{ApiError, ApiResult},
    plan::Draft,
};

/// Creates what is missing. Existing objects are left as they are, whatever was changed on them.
///
/// One of the original's is left out: the alarm `system-defined-bottle-request-size-limit`. It is a rule over a figure of the
/// original's analytics, and nothing here would judge it; a request that is too large is answered with 413 and
/// is counted (`skein_api_requests`).
///
/// # Errors
/// The schema or the rules refuse one of them, which would be a bug.
pub fn bootstrap(draft: &mut Draft<'_>) -> ApiResult<()> {
    let domain = "default-domain";
    let project = [domain, "default-project"];
    let below = |name: &'static str| [project[0], project[1], name];
    let system = "default-global-system-config";

    ensure(
        draft,
        Kind::GLOBAL_SYSTEM_CONFIG,
        &[system],
        json!({
            "autonomous_system": 64512, "config_version": "1.0", "enable_4byte_as": false,
            "ibgp_auto_mesh": true,
        }),
    )?;
    ensure(
        draft,
        Kind::GLOBAL_VROUTER_CONFIG,
        &[system, "default-global-vrouter-config"],
        json!({
            "parent_type": "global-system-config",
            "encapsulation_priorities": {"encapsulation": ["VXLAN", "MPLSoUDP", "MPLSoGRE"]},
        }),
    )?;
    ensure(draft, Kind::GLOBAL_QOS_CONFIG, &[system, "default-global-qos-config"], json!({}))?;
    ensure(draft, Kind::DOMAIN, &[domain], json!({}))?;
    for (name, _) in tag::PREDEFINED {
        ensure(draft, Kind::TAG_TYPE, &[name], json!({"id_perms": {"user_visible": false}}))?;
    }
    ensure(draft, Kind::POLICY_MANAGEMENT, &["default-policy-management"], json!({}))?;
    ensure(
        draft,
        Kind::APPLICATION_POLICY_SET,
        &["default-policy-management", "default-application-policy-set"],
        json!({
            "parent_type": "policy-management", "all_applications": true,
            "global_vrouter_config_refs": [{"to": [system, "default-global-vrouter-config"]}],
        }),
    )?;
    ensure(draft, Kind::PROJECT, &project, json!({}))?;
    ensure(draft, Kind::FABRIC, &[system, "default-fabric"], json!({}))?;
    ensure(
        draft,
        Kind::DISCOVERY_SERVICE_ASSIGNMENT,
        &["default-discovery-service-assignment"],
        json!({}),
    )?;
    let shared =
        json!({"owner": "cloud-admin", "owner_access": 7, "global_access": 5, "share": []});
    ensure(draft, Kind::NETWORK_IPAM, &below("default-network-ipam"), json!({"perms2": shared}))?;
    ensure(
        draft,
        Kind::NETWORK_IPAM,
        &below("service-chain-flat-ipam"),
        json!({
            "ipam_subnet_method": "flat-subnet",
            "ipam_subnets": {"subnets": [
                {"subnet": {"ip_prefix": "0.0.0.0", "ip_prefix_len": 8}},
                {"subnet": {"ip_prefix": "::ffff:0:0", "ip_prefix_len": 104}},
            ]},
        }),
    )?;
    ensure(
        draft,
        Kind::SECURITY_GROUP,
        &below("__no_rule__"),
        json!({
            "perms2": shared, "security_group_entries": {"policy_rule": []},
        }),
    )?;
    ensure(
        draft,
        Kind::VIRTUAL_NETWORK,
        &below("ip-fabric"),
        json!({"is_provider_network": true}),
    )?;
    ensure(draft, Kind::VIRTUAL_NETWORK, &below("__link_local__"), json!({}))?;
    ensure(draft, Kind::VIRTUAL_NETWORK, &below("dci-network"), json!({}))?;
    ensure(draft, Kind::VIRTUAL_NETWORK, &below("default-virtual-network"), json!({}))?;
    for name in ["ip-fabric", "dci-network"] {
        let full = name_of(&below(name))?;
        if draft.by_name(Kind::ROUTING_INSTANCE, &full.child("__default__")).is_none()
            && let Some(network) = draft.by_name(Kind::VIRTUAL_NETWORK, &full)
        {
            network::make_instance(draft, &network, "__default__", false)?;
        }
    }
    Ok(())
}

fn name_of(parts: &[&str]) -> ApiResult<FqName> {
    FqName::new(parts).ok_or_else(|| ApiError::internal("a bootstrap object has no name"))
}

fn ensure(draft: &mut Draft<'_>, kind: Kind, parts: &[&str], fields: Value) -> ApiResult<()> {
    if draft.by_name(kind, &name_of(parts)?).is_some() {
        return Ok(());
    }
    let Value::Object(mut fields) = fields else {
        return Err(ApiError::internal("a bootstrap object is not an object"));
    };
    fields.insert("fq_name".into(), json!(parts));
    create::create(draft, Intake::from_fields(kind, fields)?).map(drop)
}
