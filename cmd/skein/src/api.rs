//! The configuration API over HTTP: the only module that knows its paths.

use crate::error::Error;
use crate::http::{Answer, Endpoint};
use reqwest::Method;
use serde_json::{Map, Value, json};
use skein_model::{FqName, Kind};
use std::time::Duration;
use uuid::Uuid;

/// An object as the API gives it.
pub(crate) type Body = Map<String, Value>;

/// The configuration API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    endpoint: Endpoint,
}

impl Api {
    /// The API at an address.
    pub(crate) fn new(address: &str, timeout: Duration) -> Result<Api, Error> {
        let next = "is it running? `skein status` looks at every role; \
                    --api or SKEIN_API gives another address";
        Ok(Api { endpoint: Endpoint::new("config API", address, 8082, timeout, next)? })
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        self.endpoint.url()
    }

    /// Whether a health page says yes, and its text.
    pub(crate) async fn probe(&self, path: &str) -> Result<(bool, String), Error> {
        let answer = self.endpoint.send(Method::GET, path, &[], None).await?;
        Ok((answer.status == 200, answer.body.trim().to_owned()))
    }

    /// Every object of a type, with properties and references; of one project if given.
    pub(crate) async fn list(
        &self,
        kind: Kind,
        project: Option<&FqName>,
    ) -> Result<Vec<Body>, Error> {
        let mut query = vec![("detail", "True".to_owned()), ("exclude_hrefs", "True".to_owned())];
        if let Some(project) = project {
            query.push(("parent_fq_name_str", project.to_string()));
            query.push(("parent_type", "project".to_owned()));
        }
        let action = format!("list {kind}");
        let answer = self.endpoint.send(Method::GET, &format!("/{kind}s"), &query, None).await?;
        let mut value = answer.ok(&action)?.json(&action)?;
        let items = value.get_mut(format!("{kind}s")).map(Value::take);
        let Some(Value::Array(items)) = items else {
            return Err(missing(&action, &format!("{kind}s")));
        };
        items.into_iter().map(|item| unwrap(item, kind, &action)).collect()
    }

    /// The names and ids of every object of a type.
    pub(crate) async fn names(&self, kind: Kind) -> Result<Vec<(FqName, Uuid)>, Error> {
        let action = format!("list {kind}");
        let query = [("exclude_hrefs", "True".to_owned())];
        let answer = self.endpoint.send(Method::GET, &format!("/{kind}s"), &query, None).await?;
        let value = answer.ok(&action)?.json(&action)?;
        let items = value.get(format!("{kind}s")).and_then(Value::as_array);
        let items = items.ok_or_else(|| missing(&action, &format!("{kind}s")))?;
        items
            .iter()
            .map(|item| {
                let name = item.get("fq_name").and_then(fq_name);
                let uuid = item.get("uuid").and_then(Value::as_str).and_then(|u| u.parse().ok());
                name.zip(uuid).ok_or_else(|| missing(&action, "fq_name and uuid"))
            })
            .collect()
    }

    /// One object by id, with everything that refers to it; `None` when there is none.
    pub(crate) async fn read(&self, kind: Kind, uuid: Uuid) -> Result<Option<Body>, Error> {
        let action = format!("read {kind} {uuid}");
        let query = [("exclude_hrefs", "True".to_owned())];
        let answer =
            self.endpoint.send(Method::GET, &format!("/{kind}/{uuid}"), &query, None).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        let value = answer.ok(&action)?.json(&action)?;
        unwrap(value, kind, &action).map(Some)
    }

    /// The id of a name; `None` when there is no such object.
    pub(crate) async fn id_of(&self, kind: Kind, name: &FqName) -> Result<Option<Uuid>, Error> {
        let action = format!("look up {kind} {name}");
        let answer = self.post("/fqname-to-id", &json!({"type": kind, "fq_name": name})).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        let value = answer.ok(&action)?.json(&action)?;
        let uuid = value.get("uuid").and_then(Value::as_str).and_then(|u| u.parse().ok());
        uuid.map(Some).ok_or_else(|| missing(&action, "uuid"))
    }

    /// Makes an object; answers its identity.
    pub(crate) async fn create(
        &self,
        kind: Kind,
        name: &FqName,
        body: &Body,
    ) -> Result<Body, Error> {
        let action = format!("create {kind} {name}");
        let answer = self.post(&format!("/{kind}s"), &json!({kind.name(): body})).await?;
        unwrap(answer.ok(&action)?.json(&action)?, kind, &action)
    }

    /// Changes the fields that `body` names.
    pub(crate) async fn update(
        &self,
        kind: Kind,
        name: &FqName,
        uuid: Uuid,
        body: &Body,
    ) -> Result<(), Error> {
        let path = format!("/{kind}/{uuid}");
        let body = json!({kind.name(): body});
        let answer = self.endpoint.send(Method::PUT, &path, &[], Some(&body)).await?;
        answer.ok(&format!("update {kind} {name}")).map(|_| ())
    }

    /// Removes an object; false when it was not there.
    pub(crate) async fn delete(
        &self,
        kind: Kind,
        name: &FqName,
        uuid: Uuid,
    ) -> Result<bool, Error> {
        let path = format!("/{kind}/{uuid}");
        let answer = self.endpoint.send(Method::DELETE, &path, &[], None).await?;
        if answer.status == 404 {
            return Ok(false);
        }
        answer.ok(&format!("delete {kind} {name}")).map(|_| true)
    }

    /// Adds or removes one reference, leaving the others alone.
    pub(crate) async fn update_reference(
        &self,
        request: &Value,
        action: &str,
    ) -> Result<(), Error> {
        self.post("/ref-update", request).await?.ok(action).map(|_| ())
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Answer, Error> {
        self.endpoint.send(Method::POST, path, &[], Some(body)).await
    }
}

/// A name in JSON form.
pub(crate) fn fq_name(value: &Value) -> Option<FqName> {
    let parts: Option<Vec<&str>> = value.as_array()?.iter().map(Value::as_str).collect();
    FqName::new(&parts?)
}

/// The id of an object that the API gave.
pub(crate) fn uuid(body: &Body) -> Result<Uuid, Error> {
    let uuid = body.get("uuid").and_then(Value::as_str).and_then(|u| u.parse().ok());
    uuid.ok_or_else(|| missing("read an object", "uuid"))
}

/// Takes the object out of its envelope.
fn unwrap(mut value: Value, kind: Kind, action: &str) -> Result<Body, Error> {
    match value.get_mut(kind.name()).map(Value::take) {
        Some(Value::Object(body)) => Ok(body),
        _ => Err(missing(action, kind.name())),
    }
}

fn missing(action: &str, field: &str) -> Error {
    Error::Answer { action: action.to_owned(), reason: format!("it has no {field}") }
}
