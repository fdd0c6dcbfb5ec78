//! HTTP around the planner and the published state.

mod actions;
pub(crate) mod bodies;
mod collection;
mod discovery;
mod objects;
mod query;
mod watch;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{self, HeaderValue},
    http::request::Parts,
};
use serde_json::Value;
use skein_model::Kind;
use tokio::{sync::watch as tokio_watch, time::Instant};
use tracing::debug;
use uuid::Uuid;

use crate::{
    error::{ApiError, ApiResult},
    metrics::Metrics,
    plan::{Answer, Caller, Write, parse_uuid},
    published::Published,
    replica::{REVISION, REVISION_WAIT, Replica, Route, SCHEME},
    sequencer::{Refused, Sequencer},
    tls::Admission,
};
use query::Query;

/// Body of every answer.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Decides who a request comes from. The only place where credentials are looked at.
pub trait Authenticate: Send + Sync + 'static {
    /// Names the caller of a request, or refuses it (401, 403).
    ///
    /// # Errors
    /// The refusal.
    fn authenticate(&self, request: &Parts) -> ApiResult<Caller>;
}

/// `auth = noauth`: everyone may do everything.
#[derive(Debug, Clone, Copy)]
pub struct NoAuth;

impl Authenticate for NoAuth {
    fn authenticate(&self, _request: &Parts) -> ApiResult<Caller> {
        Ok(Caller { admin: true, project: None, system: false })
    }
}

/// Everything that requests are served from.
pub(crate) struct App {
    /// State as of the last durable write.
    pub(crate) published: Arc<Published>,
    /// The writing thread.
    pub(crate) sequencer: Sequencer,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Who asks.
    pub(crate) auth: Arc<dyn Authenticate>,
    /// Largest body, bytes.
    pub(crate) max_request_size: usize,
    /// `https` behind a TLS listener.
    pub(crate) scheme: &'static str,
    /// Turns true when the server stops.
    pub(crate) stopping: tokio_watch::Receiver<bool>,
    /// Its place among others, if there are others.
    pub(crate) replica: Option<Arc<Replica>>,
}

/// One request, with its body read.
struct Call<'a> {
    app: &'a Arc<App>,
    caller: Caller,
    head: Parts,
    query: Query,
    body: Option<Value>,
    base: String,
    /// Revision of what was written.
    revision: AtomicU64,
    /// A write was not done because another replica writes.
    elsewhere: AtomicBool,
}

impl Call<'_> {
    async fn write(&self, write: Write) -> ApiResult<Answer> {
        match self.app.sequencer.write(write, self.caller.clone()).await {
            Ok((answer, revision)) => {
                self.revision.store(revision, Ordering::Relaxed);
                Ok(answer)
            }
            Err(Refused::Error(error)) => Err(error),
            Err(Refused::NotLeading) => {
                self.elsewhere.store(true, Ordering::Relaxed);
                Err(ApiError::unavailable("nothing was stored: this replica does not lead"))
            }
        }
    }

    fn need_body(&mut self) -> ApiResult<Value> {
        self.body.take().ok_or_else(|| {
            ApiError::bad("the request needs a JSON body with Content-Type: application/json")
        })
    }
}

/// Answers one request; every failure becomes a status and a sentence.
pub(crate) async fn serve(
    app: Arc<App>,
    admission: Admission,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let method = method_name(request.method());
    let (resource, result) = match turned_away(admission, request.uri().path()) {
        Some(refusal) => ("other", Err(refusal)),
        None => dispatch(&app, request).await,
    };
    let mut response = result.unwrap_or_else(|error| {
        debug!(method, resource, status = error.status, error = %error.message, "refused");
        let status =
            StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = respond(status, PLAIN, error.message);
        if error.status == 413 {
            // The rest of the body is not wanted.
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    });
    if app.replica.is_some() && !response.headers().contains_key(REVISION) {
        // Not less than what was read: whoever asks elsewhere for this revision sees nothing older.
        let revision = app.published.revision();
        response.headers_mut().insert(REVISION, HeaderValue::from(revision));
    }
    app.metrics.request(method, resource, response.status().as_u16(), started.elapsed());
    Ok(response)
}

/// An answer that says something to a person.
pub(crate) fn plain(status: u16, message: &'static str) -> Response<Body> {
    respond(
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        PLAIN,
        message,
    )
}

const PLAIN: &str = "text/plain; charset=utf-8";

/// What a client hears that may not come in.
fn turned_away(admission: Admission, path: &str) -> Option<ApiError> {
    if matches!(path, "/healthz" | "/readyz") {
        return None;
    }
    match admission {
        Admission::Full => None,
        Admission::NoCertificate => Some(ApiError::unauthorized(
            "this address wants a client certificate; give one that the controller's authority issued \
             (pki/client.pem and pki/client.key in its data directory)",
        )),
        Admission::WrongCertificate => Some(ApiError::forbidden(
            "this certificate is not one for clients of the configuration API; nodes' certificates \
             are not (pki/client.pem in the controller's data directory is)",
        )),
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "OTHER",
    }
}

/// Splits the path into what is asked for. Labels never carry identifiers.
async fn dispatch(
    app: &Arc<App>,
    request: Request<Incoming>,
) -> (&'static str, ApiResult<Response<Body>>) {
    let path = request.uri().path().to_owned();
    let mut segments = path.trim_matches('/').split('/');
    let first = segments.next().unwrap_or_default();
    let rest: Vec<&str> = segments.collect();
    match (first, rest.as_slice()) {
        ("healthz", []) => return ("healthz", Ok(text("ok"))),
        ("readyz", []) => return ("readyz", ready(app)),
        ("metrics", []) => {
            if let (Some(replica), Some(counters)) = (&app.replica, &app.metrics.replica) {
                counters.etcd_errors(replica.etcd.errors());
            }
            let body = app.metrics.render(&app.published.read());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            return ("metrics", Ok(respond(StatusCode::OK, kind, body)));
        }
        _ => {}
    }
    let object = Kind::parse(first);
    let collection = first.strip_suffix('s').and_then(Kind::parse);
    let resource = match (object, collection, first) {
        (Some(kind), ..) | (None, Some(kind), _) => kind.name(),
        (_, _, "") => "root",
        _ => actions::label(first).unwrap_or("unknown"),
    };
    if resource == "unknown" {
        let error = ApiError::not_found(format!("/{first}: there is no such type or action"));
        return (resource, Err(error));
    }
    let (head, caller, bytes) = match receive(app, request).await {
        Ok(received) => received,
        Err(error) => return (resource, Err(error)),
    };
    let place = Target { path: &path, first, rest: &rest, object, collection, resource };
    let result = match &app.replica {
        None => answer(app, head, caller, &bytes, &place).await.into_result(),
        Some(replica) => among(app, replica, head, caller, &bytes, &place).await,
    };
    (resource, result)
}

/// What a path names.
struct Target<'a> {
    path: &'a str,
    first: &'a str,
    rest: &'a [&'a str],
    object: Option<Kind>,
    collection: Option<Kind>,
    resource: &'static str,
}

impl Target<'_> {
    /// Whether a request is one for the writing thread.
    fn is_write(&self, method: &Method, body: &Bytes) -> bool {
        match (self.rest, method) {
            ([_], &Method::PUT | &Method::DELETE) => self.object.is_some(),
            ([], &Method::POST) if self.collection.is_some() => true,
            ([], &Method::POST) => actions::is_write(self.first, body),
            ([_, _], &Method::POST) => self.object == Some(Kind::VIRTUAL_NETWORK),
            _ => false,
        }
    }
}

/// What became of a request.
enum Answered {
    Result(ApiResult<Response<Body>>),
    /// Nothing: another replica writes.
    Elsewhere,
}

impl Answered {
    fn into_result(self) -> ApiResult<Response<Body>> {
        match self {
            Self::Result(result) => result,
            Self::Elsewhere => Err(ApiError::unavailable("nothing was stored; try again")),
        }
    }
}

/// Answers a request of a replica among others: writes go to the one that writes.
async fn among(
    app: &Arc<App>,
    replica: &Replica,
    head: Parts,
    caller: Caller,
    bytes: &Bytes,
    target: &Target<'_>,
) -> ApiResult<Response<Body>> {
    if let Some(demanded) = head.headers.get(REVISION) {
        let revision = demanded.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        let revision =
            revision.ok_or_else(|| ApiError::bad(format!("{REVISION}: must be a revision")))?;
        if !app.published.reached(revision, REVISION_WAIT).await {
            return Err(ApiError::unavailable(format!(
                "{REVISION}: this replica does not have revision {revision} yet; ask another one"
            )));
        }
    }
    if !target.is_write(&head.method, bytes) {
        return answer(app, head, caller, bytes, target).await.into_result();
    }
    let until = Replica::patience();
    loop {
        match replica.route(&head, bytes, app.scheme, until).await? {
            Route::Answer(response) => return Ok(response),
            Route::Here => match answer(app, head.clone(), caller.clone(), bytes, target).await {
                Answered::Result(result) => return result,
                // It led a moment ago.
                Answered::Elsewhere => tokio::time::sleep(Duration::from_millis(20)).await,
            },
        }
    }
}

/// Answers from what is here.
async fn answer(
    app: &Arc<App>,
    head: Parts,
    caller: Caller,
    bytes: &Bytes,
    target: &Target<'_>,
) -> Answered {
    let mut call = match read(app, head, caller, bytes) {
        Ok(call) => call,
        Err(error) => return Answered::Result(Err(error)),
    };
    let result = act(&mut call, target).await;
    if call.elsewhere.load(Ordering::Relaxed) {
        return Answered::Elsewhere;
    }
    let revision = call.revision.load(Ordering::Relaxed);
    Answered::Result(result.map(|mut response| {
        if revision > 0 {
            response.headers_mut().insert(REVISION, HeaderValue::from(revision));
        }
        response
    }))
}

async fn act(call: &mut Call<'_>, target: &Target<'_>) -> ApiResult<Response<Body>> {
    let Target { path, first, rest, object, collection, resource } = *target;
    let method = call.head.method.clone();
    let wrong_method =
        || ApiError { status: 405, message: format!("{method} is not offered on {path}") };
    match (rest, object, collection) {
        ([], None, None) if first.is_empty() => match method {
            Method::GET => Ok(discovery::document(&call.base)),
            _ => Err(wrong_method()),
        },
        // A type whose name ends like another's plural is not in the schema, so the order does not matter.
        ([], _, Some(kind)) => match method {
            Method::GET => collection::list(call, kind),
            Method::POST => objects::create(call, kind).await,
            _ => Err(wrong_method()),
        },
        ([id], Some(kind), _) => match parse_uuid(id) {
            None => Err(ApiError::not_found(format!("no {kind} has the uuid {id:?}"))),
            Some(uuid) => match method {
                Method::GET => objects::read(call, kind, uuid),
                Method::PUT => objects::update(call, kind, uuid).await,
                Method::DELETE => objects::delete(call, kind, uuid).await,
                _ => Err(wrong_method()),
            },
        },
        ([id, action], Some(Kind::VIRTUAL_NETWORK), _) if method == Method::POST => {
            match parse_uuid(id) {
                None => Err(ApiError::not_found(format!("no virtual-network has the uuid {id:?}"))),
                Some(uuid) => actions::network(call, uuid, action).await,
            }
        }
        ([], None, None) => actions::serve(call, resource).await,
        _ => Err(ApiError::not_found(format!("{path}: there is no such resource"))),
    }
}

/// Finds out who asks and reads the body within its limit.
async fn receive(app: &App, request: Request<Incoming>) -> ApiResult<(Parts, Caller, Bytes)> {
    let (head, body) = request.into_parts();
    let caller = app.auth.authenticate(&head)?;
    let limit = app.max_request_size;
    let too_large = || ApiError::too_large(format!("the body is larger than {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        discard(body).await;
        return Err(too_large());
    }
    let bytes = collect(body, limit).await?.ok_or_else(too_large)?;
    Ok((head, caller, bytes))
}

/// Understands what was received.
fn read<'a>(app: &'a Arc<App>, head: Parts, caller: Caller, bytes: &Bytes) -> ApiResult<Call<'a>> {
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let host = head.headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or("localhost");
    let scheme = match head.headers.get(SCHEME) {
        // Another replica hands on what came to it that way.
        Some(scheme) if app.replica.is_some() && scheme == "http" => "http",
        Some(scheme) if app.replica.is_some() && scheme == "https" => "https",
        _ => app.scheme,
    };
    let base = format!("{scheme}://{host}");
    let is_json =
        head.headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).is_some_and(|t| {
            t.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
        });
    let body = if is_json && !bytes.is_empty() {
        let value = serde_json::from_slice(bytes)
            .map_err(|e| ApiError::bad(format!("the body is not valid JSON: {e}")))?;
        Some(value)
    } else {
        None
    };
    let (revision, elsewhere) = (AtomicU64::new(0), AtomicBool::new(false));
    Ok(Call { app, caller, head, query, body, base, revision, elsewhere })
}

/// Reads a body; none if it goes over the limit, which a chunked one does without warning.
async fn collect(mut body: Incoming, limit: usize) -> ApiResult<Option<Bytes>> {
    let mut kept: Vec<Bytes> = Vec::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::bad(format!("the body could not be read: {e}")))?;
        if let Ok(data) = frame.into_data() {
            size += data.len();
            if size > limit {
                drop(kept);
                discard(body).await;
                return Ok(None);
            }
            kept.push(data);
        }
    }
    Ok(Some(match kept.len() {
        // Nearly every body comes in one piece.
        0 | 1 => kept.pop().unwrap_or_default(),
        _ => kept.concat().into(),
    }))
}

/// Takes a body off the wire without keeping it, so that a client that is still sending sees the answer.
async fn discard(mut body: Incoming) {
    const MOST: usize = 256 << 20;
    let drain = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > MOST {
                break;
            }
        }
    };
    // A client that dawdles gets a closed connection instead.
    let _ = tokio::time::timeout(Duration::from_secs(5), drain).await;
}

fn ready(app: &App) -> ApiResult<Response<Body>> {
    if *app.stopping.borrow() {
        return Err(ApiError::unavailable("stopping"));
    }
    match app.sequencer.trouble() {
        Some(trouble) => Err(ApiError::unavailable(trouble)),
        None => match app.replica.as_ref().and_then(|replica| replica.unready()) {
            Some(reason) => Err(ApiError::unavailable(reason)),
            None => Ok(text("ready")),
        },
    }
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn json(value: &Value) -> Response<Body> {
    // A Value always encodes.
    respond(
        StatusCode::OK,
        "application/json; charset=UTF-8",
        serde_json::to_vec(value).unwrap_or_default(),
    )
}

fn text(body: &'static str) -> Response<Body> {
    respond(StatusCode::OK, "text/plain; charset=utf-8", body)
}

fn empty() -> Response<Body> {
    respond(StatusCode::OK, "text/html; charset=UTF-8", Bytes::new())
}

/// A uuid field of an action's body.
fn uuid_field(body: &Value, name: &str) -> ApiResult<Uuid> {
    let text = body
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| ApiError::bad(format!("{name}: must be given")))?;
    parse_uuid(text).ok_or_else(|| ApiError::bad(format!("{name}: {text:?} is not a uuid")))
}

/// A type field of an action's body.
fn kind_field(body: &Value, name: &str) -> ApiResult<Kind> {
    let text = body
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| ApiError::bad(format!("{name}: must be given")))?;
    Kind::parse(text)
        .ok_or_else(|| ApiError::not_found(format!("{name}: there is no type {text:?}")))
}
