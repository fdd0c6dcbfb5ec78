//! The global system configuration.

use skein_model::{Kind, Object};

use super::{integer, network};
use crate::{
    error::{ApiError, ApiResult},
    plan::Draft,
};

/// There is one.
pub(super) fn before_create(draft: &Draft<'_>) -> ApiResult<()> {
    match draft.head.graph.of_kind(Kind::GLOBAL_SYSTEM_CONFIG).next() {
        Some(existing) => Err(ApiError::bad(format!(
            "there is one global-system-config, {} with uuid {}; change that",
            existing.fq_name, existing.uuid
        ))),
        None => Ok(()),
    }
}

/// The AS number fits its width.
pub(super) fn check(_draft: &Draft<'_>, config: &Object) -> ApiResult<()> {
    let four_byte = config.properties.get("enable_4byte_as").and_then(serde_json::Value::as_bool);
    match integer(config, "autonomous_system") {
        Some(asn) if asn > 0xffff && four_byte != Some(true) => {
            Err(ApiError::bad(format!("autonomous_system: {asn} needs enable_4byte_as")))
        }
        _ => Ok(()),
    }
}

/// A new AS number must not collide with route targets that users configured.
pub(super) fn on_update(draft: &Draft<'_>, old: &Object, new: &Object) -> ApiResult<()> {
    check(draft, new)?;
    let asn = integer(new, "autonomous_system");
    if asn == integer(old, "autonomous_system") {
        return Ok(());
    }
    let Some(asn) = asn else {
        return Err(ApiError::bad("autonomous_system: cannot be removed"));
    };
    for other in draft.head.graph.of_kind(Kind::VIRTUAL_NETWORK) {
        for list in ["route_target_list", "import_route_target_list", "export_route_target_list"] {
            let targets = other.properties.get(list).and_then(|l| l.get("route_target"));
            for target in targets.and_then(serde_json::Value::as_array).into_iter().flatten() {
                if let Some(target) = target.as_str() {
                    network::check_route_target(list, target, asn).map_err(|e| {
                        ApiError::bad(format!(
                            "autonomous_system: network {}: {}",
                            other.fq_name, e.message
                        ))
                    })?;
                }
            }
        }
    }
    Ok(())
}
