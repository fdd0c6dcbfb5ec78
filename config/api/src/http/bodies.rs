//! The bodies of actions as writes: checked for their shape, without state. The fuzz target comes in here too.

use std::net::IpAddr;

use serde_json::Value;
use skein_model::{FqName, validate};
use uuid::Uuid;

use super::{kind_field, uuid_field};
use crate::{
    error::{ApiError, ApiResult},
    plan::{ElementOp, ElementUpdate, RefIntent, Write},
};

/// A fully qualified name in a field.
pub(crate) fn name_of(body: &Value, field: &str) -> ApiResult<FqName> {
    let wrong = || ApiError::bad(format!("{field}: must be a list of strings"));
    let parts = body.get(field).and_then(Value::as_array).ok_or_else(wrong)?;
    let parts: Option<Vec<&str>> = parts.iter().map(Value::as_str).collect();
    FqName::new(&parts.ok_or_else(wrong)?).ok_or_else(wrong)
}

/// `ref-relax-for-delete`.
pub(crate) fn relax(body: &Value) -> ApiResult<Write> {
    let (holder, target) = (uuid_field(body, "uuid")?, uuid_field(body, "ref-uuid")?);
    Ok(Write::Relax { holder, target })
}

/// `ref-update`.
pub(crate) fn reference(body: &Value) -> ApiResult<Write> {
    let kind = kind_field(body, "type")?;
    let uuid = uuid_field(body, "uuid")?;
    let target = kind_field(body, "ref-type")?;
    let operation =
        body.get("operation").and_then(Value::as_str).unwrap_or_default().to_ascii_uppercase();
    let add = match operation.as_str() {
        "ADD" => true,
        "DELETE" => false,
        other => {
            return Err(ApiError::bad(format!("operation: must be ADD or DELETE, got {other:?}")));
        }
    };
    let to = match body.get("ref-fq-name") {
        None | Some(Value::Null) => None,
        Some(_) => {
            let name = name_of(body, "ref-fq-name")?;
            Some(name.parts().iter().map(ToString::to_string).collect())
        }
    };
    let target_uuid = body.get("ref-uuid").and_then(Value::as_str).map(str::to_owned);
    if to.is_none() && target_uuid.is_none() {
        return Err(ApiError::bad("ref-uuid: give it or ref-fq-name"));
    }
    let meta = kind.meta().reference(target).ok_or_else(|| {
        ApiError::not_found(format!("ref-type: a {kind} has no references to {target}"))
    })?;
    let mut attr = body.get("attr").cloned().unwrap_or(Value::Null);
    validate::attribute(meta.field, meta.attr, &mut attr)?;
    let relax = body.get("relax_ref_for_delete").and_then(Value::as_bool).unwrap_or(false);
    let intent = RefIntent { to, uuid: target_uuid, attr };
    Ok(Write::RefUpdate { kind, uuid, target, intent, add, relax })
}

/// `prop-collection-update`.
pub(crate) fn elements(body: &Value) -> ApiResult<Write> {
    let uuid = uuid_field(body, "uuid")?;
    let list = body
        .get("updates")
        .and_then(Value::as_array)
        .ok_or_else(|| ApiError::bad("updates: must be a list"))?;
    let mut updates = Vec::with_capacity(list.len());
    for (at, one) in list.iter().enumerate() {
        let field = one
            .get("field")
            .and_then(Value::as_str)
            .ok_or_else(|| ApiError::bad(format!("updates[{at}].field: must be given")))?;
        let operation = match one.get("operation").and_then(Value::as_str).unwrap_or_default() {
            "add" => ElementOp::Add,
            "modify" => ElementOp::Modify,
            "delete" => ElementOp::Delete,
            "set" => ElementOp::Set,
            other => {
                return Err(ApiError::bad(format!(
                    "updates[{at}].operation: must be add, modify, delete or set, got {other:?}"
                )));
            }
        };
        let position = one.get("position").and_then(|p| match p {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        });
        updates.push(ElementUpdate {
            field: field.replace('-', "_"),
            operation,
            value: one.get("value").cloned(),
            position,
        });
    }
    Ok(Write::Elements(uuid, updates))
}

/// `ip-alloc` on a network.
pub(crate) fn allocation(network: Uuid, body: &Value) -> ApiResult<Write> {
    let count = match body.get("count") {
        None | Some(Value::Null) => 1,
        Some(count) => count
            .as_u64()
            .or_else(|| count.as_str()?.parse().ok())
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| (1..=65_536).contains(n))
            .ok_or_else(|| ApiError::bad("count: must be a number from 1 to 65536"))?,
    };
    let family = match body.get("family").and_then(Value::as_str) {
        None => None,
        Some("v4") => Some(4),
        Some("v6") => Some(6),
        Some(other) => {
            return Err(ApiError::bad(format!("family: must be v4 or v6, got {other:?}")));
        }
    };
    let subnet = body.get("subnet").and_then(Value::as_str).map(str::to_owned);
    Ok(Write::IpAlloc { network, count, subnet, family })
}

/// `ip-free` on a network.
pub(crate) fn release(network: Uuid, body: &Value) -> ApiResult<Write> {
    let addresses = strings(body, "ip_addr")?
        .iter()
        .map(|text| {
            text.parse::<IpAddr>()
                .map_err(|_| ApiError::bad(format!("ip_addr: {text:?} is not an IP address")))
        })
        .collect::<ApiResult<Vec<_>>>()?;
    Ok(Write::IpFree { network, addresses })
}

/// `subnet-ip-count` on a network.
pub(crate) fn count(network: Uuid, body: &Value) -> ApiResult<Write> {
    Ok(Write::SubnetCount { network, subnets: strings(body, "subnet_list")? })
}

fn strings(body: &Value, name: &str) -> ApiResult<Vec<String>> {
    let wrong = || ApiError::bad(format!("{name}: must be a list of strings"));
    let list = body.get(name).and_then(Value::as_array).ok_or_else(wrong)?;
    list.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
}
