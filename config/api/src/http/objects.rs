//! Create, read, update, delete: spec section 3.

use hyper::{
    Response, StatusCode,
    header::{self, HeaderValue},
};
use serde_json::{Value, json};
use skein_model::{Kind, Object};
use uuid::Uuid;

use super::{Body, Call, empty, json as respond_json};
use crate::{
    error::{ApiError, ApiResult},
    plan::{Answer, Intake, Write},
    present::{self, Shape},
};

/// `POST /<type>s`
pub(super) async fn create(call: &mut Call<'_>, kind: Kind) -> ApiResult<Response<Body>> {
    let body = call.need_body()?;
    let intake = Intake::parse(kind, body)?;
    let Answer::Object(object) = call.write(Write::Create(intake)).await? else {
        return Err(ApiError::internal("a create answered something else"));
    };
    let identity = present::identity(&object, Some(&call.base));
    Ok(respond_json(&json!({ kind.name(): identity })))
}

fn last_modified(object: &Object) -> Option<HeaderValue> {
    let stamp = object.properties.get("id_perms")?.get("last_modified")?.as_str()?;
    HeaderValue::from_str(&format!("\"{stamp}\"")).ok()
}

/// `GET /<type>/<uuid>`
pub(super) fn read(call: &Call<'_>, kind: Kind, uuid: Uuid) -> ApiResult<Response<Body>> {
    let shape = Shape {
        fields: call.query.list("fields").filter(|fields| !fields.is_empty()),
        back_references: !call.query.has("exclude_back_refs"),
        children: !call.query.has("exclude_children"),
        base: (!call.query.has("exclude_hrefs")).then_some(call.base.as_str()),
    };
    let view = call.app.published.read();
    let object = view
        .graph
        .get_kind(kind, uuid)
        .ok_or_else(|| ApiError::not_found(format!("no {kind} has the uuid {uuid}")))?;
    let tag = last_modified(object);
    if tag.is_some() && call.head.headers.get(header::IF_NONE_MATCH) == tag.as_ref() {
        let mut response = empty();
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let mut response = respond_json(&json!({ kind.name(): present::full(&view.graph, object, &shape) }));
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
}

/// `PUT /<type>/<uuid>`
pub(super) async fn update(call: &mut Call<'_>, kind: Kind, uuid: Uuid) -> ApiResult<Response<Body>> {
    if call.app.published.read().graph.get_kind(kind, uuid).is_none() {
        return Err(ApiError::not_found(format!("no {kind} has the uuid {uuid}")));
    }
    let body = call.body.take().unwrap_or(Value::Null);
    let nothing = |v: &Value| v.is_null() || v.as_object().is_some_and(serde_json::Map::is_empty);
    if nothing(&body) || body.get(kind.name()).is_some_and(nothing) {
        return Ok(empty());
    }
    let intake = Intake::parse(kind, body)?;
    call.write(Write::Update(uuid, intake)).await?;
    let href = format!("{}/{kind}/{uuid}", call.base);
    Ok(respond_json(&json!({ kind.name(): {"uuid": uuid, "href": href} })))
}

/// `DELETE /<type>/<uuid>`
pub(super) async fn delete(call: &Call<'_>, kind: Kind, uuid: Uuid) -> ApiResult<Response<Body>> {
    call.write(Write::Delete(kind, uuid)).await?;
    Ok(empty())
}
