//! The configuration API: `skein-client` below, the CLI's errors and deadline above.

use crate::error::Error;
use crate::http::{Endpoint, late, query_text};
use hyper::Method;
use serde_json::{Map, Value};
use skein_client::{Client, ClientError, Tls};
use skein_model::{FqName, Kind};
use std::time::Duration;
use uuid::Uuid;

/// An object as the API gives it.
pub(crate) type Body = Map<String, Value>;

/// The configuration API.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    endpoint: Endpoint,
    client: Client,
}

impl Api {
    /// The API at an address, or at those of its replicas with commas in between.
    pub(crate) fn new(address: &str, tls: &Tls, timeout: Duration) -> Result<Api, Error> {
        let next = "is it running? `skein status` looks at every role; \
                    --api or SKEIN_API gives another address";
        let endpoint = Endpoint::with_tls("config API", address, 8082, timeout, next, tls)?;
        let client = Client::with_tls(endpoint.url(), tls)
            .map_err(|e| Error::usage(e.to_string(), "--api or SKEIN_API gives the address"))?;
        Ok(Api { endpoint, client })
    }

    /// The replicas' pages about themselves.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = Endpoint> {
        self.endpoint.each()
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
        let items = self.collection(kind, &query, &action).await?;
        items.into_iter().map(|item| unwrap(item, kind, &action)).collect()
    }

    /// The names and ids of every object of a type.
    pub(crate) async fn names(&self, kind: Kind) -> Result<Vec<(FqName, Uuid)>, Error> {
        let action = format!("list {kind}");
        let query = [("exclude_hrefs", "True".to_owned())];
        let items = self.collection(kind, &query, &action).await?;
        items
            .iter()
            .map(|item| {
                let name = item.get("fq_name").and_then(fq_name);
                let uuid = item.get("uuid").and_then(Value::as_str).and_then(|u| u.parse().ok());
                name.zip(uuid).ok_or_else(|| missing(&action, "fq_name and uuid"))
            })
            .collect()
    }

    async fn collection(
        &self,
        kind: Kind,
        query: &[(&str, String)],
        action: &str,
    ) -> Result<Vec<Value>, Error> {
        let path = format!("/{kind}s{}", query_text(query));
        let mut value = self.call(Method::GET, &path, None, action).await?;
        match value.get_mut(format!("{kind}s")).map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(missing(action, &format!("{kind}s"))),
        }
    }

    /// One object by id, with everything that refers to it; `None` when there is none.
    pub(crate) async fn read(&self, kind: Kind, uuid: Uuid) -> Result<Option<Body>, Error> {
        let action = format!("read {kind} {uuid}");
        let path = format!("/{kind}/{uuid}?exclude_hrefs=True");
        match absent(self.call(Method::GET, &path, None, &action).await)? {
            Some(value) => unwrap(value, kind, &action).map(Some),
            None => Ok(None),
        }
    }

    /// The id of a name; `None` when there is no such object.
    pub(crate) async fn id_of(&self, kind: Kind, name: &FqName) -> Result<Option<Uuid>, Error> {
        let call = self.client.name_to_id(kind, name);
        absent(self.finish(call, &format!("look up {kind} {name}")).await)
    }

    /// Makes an object; answers its id.
    pub(crate) async fn create(
        &self,
        kind: Kind,
        name: &FqName,
        body: Body,
    ) -> Result<Uuid, Error> {
        let call = self.client.create(kind, Value::Object(body));
        self.finish(call, &format!("create {kind} {name}")).await
    }

    /// Changes the fields that `body` names.
    pub(crate) async fn update(
        &self,
        kind: Kind,
        name: &FqName,
        uuid: Uuid,
        body: Body,
    ) -> Result<(), Error> {
        let call = self.client.update(kind, uuid, Value::Object(body));
        self.finish(call, &format!("update {kind} {name}")).await
    }

    /// Removes an object; false when it was not there.
    pub(crate) async fn delete(
        &self,
        kind: Kind,
        name: &FqName,
        uuid: Uuid,
    ) -> Result<bool, Error> {
        let call = self.client.delete(kind, uuid);
        Ok(absent(self.finish(call, &format!("delete {kind} {name}")).await)?.is_some())
    }

    /// Adds or removes one reference, leaving the others alone.
    pub(crate) async fn update_reference(
        &self,
        request: &Value,
        action: &str,
    ) -> Result<(), Error> {
        self.call(Method::POST, "/ref-update", Some(request), action).await.map(drop)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        action: &str,
    ) -> Result<Value, Error> {
        self.finish(self.client.request(method, path, body), action).await
    }

    /// Puts the user's deadline and words around a call.
    async fn finish<T>(
        &self,
        call: impl Future<Output = Result<T, ClientError>>,
        action: &str,
    ) -> Result<T, Error> {
        let timeout = self.endpoint.timeout();
        let Ok(result) = tokio::time::timeout(timeout, call).await else {
            return Err(self.endpoint.silent(&late(timeout)));
        };
        let action = action.to_owned();
        result.map_err(|error| match error {
            ClientError::Refused { status, text } => {
                let text = text.trim();
                let reason = if text.is_empty() { "no reason given" } else { text }.to_owned();
                Error::Refused { action, reason, status }
            }
            ClientError::Unreachable { reason, .. } if self.client.replicas().len() > 1 => {
                self.endpoint.silent(&reason)
            }
            ClientError::Unreachable { reason, .. } => {
                // A chain of causes; the innermost is the one that helps.
                self.endpoint.silent(reason.rsplit(": ").next().unwrap_or(&reason))
            }
            ClientError::Answer { reason, .. } => Error::Answer { action, reason },
            ClientError::Untrusted { reason, .. } => self.endpoint.untrusted(&reason),
            error @ (ClientError::Address(_) | ClientError::TlsFile { .. }) => {
                Error::usage(error.to_string(), String::new())
            }
        })
    }
}

/// "Not there" as a value.
fn absent<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused { status: 404, .. }) => Ok(None),
        Err(error) => Err(error),
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
