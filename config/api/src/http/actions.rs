//! Actions: spec section 5.

use hyper::{Method, Response};
use serde_json::{Value, json};
use skein_model::{Kind, meta::Collection};
use uuid::Uuid;

use super::{
    Body, Call, bodies, collection, discovery, empty, json as respond_json, kind_field, uuid_field,
    watch,
};
use crate::{
    error::{ApiError, ApiResult},
    plan::{Answer, Write},
};

/// The action of a first path segment.
pub(super) fn label(segment: &str) -> Option<&'static str> {
    discovery::ACTIONS.iter().map(|(uri, ..)| *uri).find(|uri| *uri == segment)
}

/// Whether a POST of this action is for the writing thread.
pub(super) fn is_write(action: &str, body: &[u8]) -> bool {
    match action {
        "ref-update"
        | "ref-relax-for-delete"
        | "prop-collection-update"
        | "chown"
        | "chmod"
        | "set-tag" => true,
        "useragent-kv" => serde_json::from_slice::<Value>(body)
            .is_ok_and(|body| body.get("operation").is_some_and(|o| o != "RETRIEVE")),
        _ => false,
    }
}

/// Serves an action that stands alone.
pub(super) async fn serve(call: &mut Call<'_>, action: &str) -> ApiResult<Response<Body>> {
    let method = call.head.method.clone();
    match (action, &method) {
        ("watch", &Method::GET) => return watch::watch(call).await,
        ("prop-collection-get", &Method::GET) => return elements_get(call),
        ("obj-perms", &Method::GET) => return obj_perms(call),
        ("aaa-mode", &Method::GET | &Method::PUT) => return aaa_mode(call),
        ("multi-tenancy", &Method::GET) => return Ok(respond_json(&json!({"enabled": false}))),
        (_, &Method::POST) => {}
        _ => {
            return Err(ApiError {
                status: 405,
                message: format!("{method} is not offered on /{action}"),
            });
        }
    }
    if action == "list-bulk-collection" {
        return collection::bulk(call);
    }
    let body = call.need_body()?;
    if !body.is_object() {
        return Err(ApiError::bad("the body must be a JSON object"));
    }
    match action {
        "fqname-to-id" => name_to_id(call, &body),
        "id-to-fqname" => id_to_name(call, &body),
        "ref-update" => {
            call.write(bodies::reference(&body)?).await?;
            Ok(respond_json(&json!({"uuid": uuid_field(&body, "uuid")?})))
        }
        "ref-relax-for-delete" => {
            call.write(bodies::relax(&body)?).await?;
            Ok(respond_json(&json!({"uuid": uuid_field(&body, "uuid")?})))
        }
        "prop-collection-update" => {
            call.write(bodies::elements(&body)?).await?;
            Ok(empty())
        }
        "useragent-kv" => key_value(call, body).await,
        "chown" | "chmod" => {
            let uuid = uuid_field(&body, "uuid")?;
            if action == "chown" && body.get("owner").and_then(Value::as_str).is_none() {
                return Err(ApiError::bad("owner: must be given"));
            }
            let Value::Object(fields) = body else {
                return Err(ApiError::bad("the body must be an object"));
            };
            call.write(Write::Permissions(uuid, fields)).await?;
            Ok(respond_json(&json!({})))
        }
        "set-tag" => {
            let kind = kind_field(&body, "obj_type")?;
            let uuid = uuid_field(&body, "obj_uuid")?;
            let Value::Object(fields) = body else {
                return Err(ApiError::bad("the body must be an object"));
            };
            call.write(Write::SetTag(kind, uuid, fields)).await?;
            Ok(respond_json(&json!({})))
        }
        _ => {
            Err(ApiError { status: 405, message: format!("{method} is not offered on /{action}") })
        }
    }
}

fn name_to_id(call: &Call<'_>, body: &Value) -> ApiResult<Response<Body>> {
    let kind = kind_field(body, "type")?;
    let name = bodies::name_of(body, "fq_name")?;
    let view = call.app.published.read();
    let object = view
        .graph
        .by_name(kind, &name)
        .ok_or_else(|| ApiError::not_found(format!("no {kind} is called {name}")))?;
    Ok(respond_json(&json!({"uuid": object.uuid})))
}

fn id_to_name(call: &Call<'_>, body: &Value) -> ApiResult<Response<Body>> {
    let uuid = uuid_field(body, "uuid")?;
    let view = call.app.published.read();
    let object = view
        .graph
        .get(uuid)
        .ok_or_else(|| ApiError::not_found(format!("no object has the uuid {uuid}")))?;
    Ok(respond_json(&json!({"fq_name": object.fq_name, "type": object.kind.name()})))
}

fn elements_get(call: &Call<'_>) -> ApiResult<Response<Body>> {
    let uuid = call
        .query
        .get("uuid")
        .and_then(crate::plan::parse_uuid)
        .ok_or_else(|| ApiError::bad("uuid: must be given"))?;
    let fields = call.query.list("fields").ok_or_else(|| ApiError::bad("fields: must be given"))?;
    let only = call.query.get("position");
    let view = call.app.published.read();
    let object = view
        .graph
        .get(uuid)
        .ok_or_else(|| ApiError::not_found(format!("no object has the uuid {uuid}")))?;
    let mut answer = serde_json::Map::new();
    for field in fields {
        let property = object.kind.meta().property(&field);
        let list = property.and_then(|p| Some((p, crate::plan::list_field(p)?.1)));
        let Some((property, list)) = list else {
            return Err(ApiError::bad(format!(
                "fields: {field} is neither a list nor a map of {}",
                object.kind
            )));
        };
        let elements =
            object.properties.get(&field).and_then(|v| v.get(list)).and_then(Value::as_array);
        let mut positioned: Vec<(String, &Value)> = elements
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(at, element)| {
                let position = match property.collection {
                    Collection::Map { key } => {
                        element.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
                    }
                    _ => at.to_string(),
                };
                (position, element)
            })
            .filter(|(position, _)| only.is_none_or(|only| only == position))
            .collect();
        positioned.sort_by(|a, b| a.0.cmp(&b.0));
        let list =
            positioned.into_iter().map(|(position, element)| json!([element, position])).collect();
        answer.insert(field, Value::Array(list));
    }
    Ok(respond_json(&Value::Object(answer)))
}

async fn key_value(call: &Call<'_>, mut body: Value) -> ApiResult<Response<Body>> {
    let operation = body.get("operation").and_then(Value::as_str).map(str::to_owned);
    let operation = operation.ok_or_else(|| ApiError::bad("operation: must be given"))?;
    let key = body.get("key").cloned().ok_or_else(|| ApiError::bad("key: must be given"))?;
    let text =
        || key.as_str().map(str::to_owned).ok_or_else(|| ApiError::bad("key: must be a string"));
    match operation.as_str() {
        "STORE" => {
            let value = match body.get_mut("value").map(Value::take) {
                Some(Value::String(value)) => value,
                None | Some(Value::Null) => return Err(ApiError::bad("value: must be given")),
                Some(other) => other.to_string(),
            };
            call.write(Write::Kv(text()?, Some(value))).await?;
            Ok(empty())
        }
        "DELETE" => {
            call.write(Write::Kv(text()?, None)).await?;
            Ok(empty())
        }
        "RETRIEVE" => {
            let view = call.app.published.read();
            let value = match &key {
                Value::Null => Value::Array(
                    view.kv
                        .iter()
                        .map(|(key, value)| json!({"key": key, "value": value}))
                        .collect(),
                ),
                Value::Array(keys) => Value::Array(
                    keys.iter()
                        .filter_map(Value::as_str)
                        .filter_map(|k| view.kv.get(k))
                        .map(|v| json!(v))
                        .collect(),
                ),
                _ => {
                    let key = text()?;
                    let value = view.kv.get(&key);
                    json!(value.ok_or_else(|| ApiError::not_found(format!(
                        "key: {key:?} is not stored"
                    )))?)
                }
            };
            Ok(respond_json(&json!({"value": value})))
        }
        other => Err(ApiError::not_found(format!("operation: there is no operation {other:?}"))),
    }
}

fn obj_perms(call: &Call<'_>) -> ApiResult<Response<Body>> {
    let mut answer = json!({
        "token_info": null, "is_cloud_admin_role": false, "is_global_read_only_role": false,
    });
    if let Some(text) = call.query.get("uuid") {
        let uuid = crate::plan::parse_uuid(text)
            .ok_or_else(|| ApiError::bad(format!("uuid: {text:?} is not a uuid")))?;
        if call.app.published.read().graph.get(uuid).is_none() {
            return Err(ApiError::not_found(format!("no object has the uuid {uuid}")));
        }
        answer["permissions"] = json!("RWX");
    }
    Ok(respond_json(&answer))
}

fn aaa_mode(call: &mut Call<'_>) -> ApiResult<Response<Body>> {
    if call.head.method == Method::PUT {
        let body = call.need_body()?;
        match body.get("aaa-mode").and_then(Value::as_str) {
            Some("no-auth") => {}
            Some(mode @ ("cloud-admin" | "rbac")) => {
                return Err(ApiError::bad(format!(
                    "aaa-mode: {mode} needs keystone, which is not configured"
                )));
            }
            _ => return Err(ApiError::bad("aaa-mode: must be no-auth, cloud-admin or rbac")),
        }
    }
    Ok(respond_json(&json!({"aaa-mode": "no-auth"})))
}

/// Actions on one network.
pub(super) async fn network(
    call: &mut Call<'_>,
    network: Uuid,
    action: &str,
) -> ApiResult<Response<Body>> {
    if !matches!(action, "ip-alloc" | "ip-free" | "subnet-ip-count") {
        return Err(ApiError::not_found(format!("a virtual-network has no action {action}")));
    }
    if call.app.published.read().graph.get_kind(Kind::VIRTUAL_NETWORK, network).is_none() {
        return Err(ApiError::not_found(format!("no virtual-network has the uuid {network}")));
    }
    let body = call.body.take().unwrap_or_else(|| json!({}));
    match action {
        "ip-alloc" => match call.write(bodies::allocation(network, &body)?).await? {
            Answer::Addresses(addresses) => Ok(respond_json(&json!({"ip_addr": addresses}))),
            _ => Err(ApiError::internal("an allocation answered something else")),
        },
        "ip-free" => {
            call.write(bodies::release(network, &body)?).await?;
            Ok(empty())
        }
        _ => match call.write(bodies::count(network, &body)?).await? {
            Answer::Counts(counts) => Ok(respond_json(&json!({"ip_count_list": counts}))),
            _ => Err(ApiError::internal("a count answered something else")),
        },
    }
}
