//! `/watch`: the stream of changes as server-sent events, spec section 16.
//!
//! Beyond the original: `resource_type=*` watches everything, every event carries its revision as `id:`, and a watcher that comes
//! back with `Last-Event-ID` (or `since=`) gets what it missed instead of everything. If that is no longer in the log
//! the answer is 410, and within a stream an event `stop`: list again.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Response,
    body::Frame,
    header::{self, HeaderValue},
};
use serde_json::{Map, Value, json};
use skein_model::{Kind, Object};
use skein_store::LogOp;
use tokio::sync::mpsc;
use tracing::debug;

use super::{App, Body, Call};
use crate::{
    error::{ApiError, ApiResult},
    present::{self, Shape},
    published::{Event, View},
    replica::REVISION_WAIT,
};

/// Silence is broken this often, so that both ends notice a dead connection.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Objects rendered under one read lock.
const CHUNK: usize = 256;
/// Buffers that wait for a slow reader. After that it is simply behind and catches up from the log.
const BUFFERED: usize = 16;

/// Which types, and which of their fields.
#[derive(Debug, Clone)]
struct Selection {
    kinds: Vec<(Kind, Option<Vec<String>>)>,
    all: bool,
}

impl Selection {
    fn of(call: &Call<'_>) -> ApiResult<Self> {
        let types = call.query.get("resource_type").filter(|t| !t.is_empty()).ok_or_else(|| {
            ApiError::bad("resource_type: must be given, a comma list of types or *")
        })?;
        let fields = |kind: Kind| call.query.list(&format!("{}_fields", kind.snake()));
        let mut kinds = Vec::new();
        let all = types == "*";
        if all {
            kinds.extend(Kind::all().map(|kind| (kind, fields(kind))));
        } else {
            for name in types.split(',') {
                let kind = Kind::parse(name).ok_or_else(|| {
                    ApiError::not_found(format!("resource_type: there is no type {name:?}"))
                })?;
                kinds.push((kind, fields(kind)));
            }
        }
        Ok(Self { kinds, all })
    }

    fn shape(&self, kind: Kind) -> Option<Shape<'static>> {
        let (_, fields) = self.kinds.iter().find(|(k, _)| *k == kind)?;
        Some(Shape { fields: fields.clone(), ..Shape::default() })
    }
}

/// Opens a stream.
pub(super) async fn watch(call: &mut Call<'_>) -> ApiResult<Response<Body>> {
    let selection = Selection::of(call)?;
    let last_seen = call.head.headers.get("last-event-id").and_then(|v| v.to_str().ok());
    let since = match last_seen.or_else(|| call.query.get("since")) {
        None | Some("") => None,
        Some(text) => {
            let revision = text
                .parse::<u64>()
                .map_err(|_| ApiError::bad(format!("since: {text:?} is not a revision")))?;
            // Another replica showed it already.
            if call.app.replica.is_some() {
                call.app.published.reached(revision, REVISION_WAIT).await;
            }
            let view = call.app.published.read();
            if revision > view.revision {
                if let Some(reason) = call.app.replica.as_ref().and_then(|r| r.unready()) {
                    return Err(ApiError::unavailable(format!(
                        "since: revision {revision} is not here yet: {reason}"
                    )));
                }
                return Err(ApiError::gone(format!(
                    "since: revision {revision} is not of this store, the newest is {}; list again",
                    view.revision
                )));
            }
            if view.events_after(revision, 1).is_none() {
                return Err(ApiError::gone(format!(
                    "since: revision {revision} is no longer in the log; list again"
                )));
            }
            Some(revision)
        }
    };
    let (sender, receiver) = mpsc::channel(BUFFERED);
    let app = Arc::clone(call.app);
    tokio::spawn(async move {
        app.metrics.watchers.inc();
        let end = feed(&app, &selection, since, &sender).await;
        debug!(?end, "watch ends");
        app.metrics.watchers.dec();
    });
    let mut response = Response::new(Stream(receiver).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}

/// Why a stream ended.
#[derive(Debug)]
enum End {
    ClientGone,
    Stopped,
}

async fn feed(
    app: &App,
    selection: &Selection,
    since: Option<u64>,
    sender: &mpsc::Sender<Bytes>,
) -> End {
    let mut bell = app.published.subscribe();
    let mut stopping = app.stopping.clone();
    let mut position = match since {
        Some(revision) => revision,
        None => match snapshot(app, selection, sender).await {
            Ok(revision) => revision,
            Err(end) => return end,
        },
    };
    loop {
        bell.mark_unchanged();
        let batch = {
            let view = app.published.read();
            match view.events_after(position, CHUNK) {
                Some(events) => {
                    let text = render(&view, selection, &events);
                    let up_to = events.last().map_or(view.revision, |last| last.revision);
                    Some((text, up_to, events.is_empty()))
                }
                None => None,
            }
        };
        let Some((text, up_to, is_empty)) = batch else {
            let _ = sender
                .send(event("stop", position, &json!({"error": "fell behind the log; list again"})))
                .await;
            return End::Stopped;
        };
        position = up_to;
        if !text.is_empty() && sender.send(Bytes::from(text)).await.is_err() {
            return End::ClientGone;
        }
        if !is_empty {
            continue;
        }
        tokio::select! {
            rung = bell.changed() => if rung.is_err() { return End::Stopped },
            () = crate::server::stopped(&mut stopping) => {
                let _ = sender.send(event("stop", position, &json!({"error": "the server is stopping"}))).await;
                return End::Stopped;
            }
            () = sender.closed() => return End::ClientGone,
            () = tokio::time::sleep(KEEPALIVE) => {
                if sender.send(Bytes::from_static(b":\n\n")).await.is_err() {
                    return End::ClientGone;
                }
            }
        }
    }
}

/// One `init` event per type, all as of one revision.
async fn snapshot(
    app: &App,
    selection: &Selection,
    sender: &mpsc::Sender<Bytes>,
) -> Result<u64, End> {
    let (revision, lists) = {
        let view = app.published.read();
        let lists: Vec<(Kind, Vec<Arc<Object>>)> = selection
            .kinds
            .iter()
            .filter(|(kind, _)| !selection.all || view.graph.count(*kind) > 0)
            .map(|(kind, _)| (*kind, view.graph.of_kind(*kind).cloned().collect()))
            .collect();
        (view.revision, lists)
    };
    let count = lists.len();
    for (at, (kind, objects)) in lists.into_iter().enumerate() {
        let Some(shape) = selection.shape(kind) else { continue };
        // Only the last one carries the id: who breaks off before has no place to resume from.
        let id = if at + 1 == count { format!("id: {revision}\n") } else { String::new() };
        let mut text = format!("event: init\n{id}data: {{\"{kind}s\": [");
        for (at, chunk) in objects.chunks(CHUNK).enumerate() {
            {
                let view = app.published.read();
                for (n, object) in chunk.iter().enumerate() {
                    if at + n > 0 {
                        text.push_str(", ");
                    }
                    text.push_str(&one(&view, object, &shape).to_string());
                }
            }
            if sender.send(Bytes::from(std::mem::take(&mut text))).await.is_err() {
                return Err(End::ClientGone);
            }
        }
        text.push_str("]}\n\n");
        if sender.send(Bytes::from(text)).await.is_err() {
            return Err(End::ClientGone);
        }
    }
    if count == 0 && sender.send(event("init", revision, &json!({}))).await.is_err() {
        return Err(End::ClientGone);
    }
    Ok(revision)
}

fn one(view: &View, object: &Object, shape: &Shape<'_>) -> Value {
    let mut map = present::identity(object, None);
    present::extend(&mut map, &view.graph, object, shape);
    if let Some(fields) = &shape.fields {
        for always in ["id_perms", "perms2"] {
            if !fields.iter().any(|f| f == always) {
                map.remove(always);
            }
        }
    }
    json!({ object.kind.name(): map })
}

fn render(view: &View, selection: &Selection, events: &[Event]) -> String {
    let mut text = String::new();
    for change in events {
        let Some(shape) = selection.shape(change.kind) else { continue };
        let name = match change.op {
            LogOp::Create => "create",
            LogOp::Update => "update",
            LogOp::Delete => "delete",
        };
        let data = match &change.object {
            Some(object) => one(view, object, &shape),
            None => {
                let mut gone = Map::new();
                gone.insert("uuid".into(), json!(change.uuid));
                json!({ change.kind.name(): gone })
            }
        };
        write_event(&mut text, name, change.revision, &data);
    }
    text
}

fn write_event(text: &mut String, name: &str, revision: u64, data: &Value) {
    use std::fmt::Write;
    // Writing into a String does not fail.
    let _ = write!(text, "event: {name}\nid: {revision}\ndata: {data}\n\n");
}

fn event(name: &str, revision: u64, data: &Value) -> Bytes {
    let mut text = String::new();
    write_event(&mut text, name, revision, data);
    Bytes::from(text)
}

/// A body that is fed by a task.
struct Stream(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
