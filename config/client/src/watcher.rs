//! List and watch, over reconnects.

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Map, Value};
use skein_model::{Kind, Object};
use tracing::{debug, info};
use uuid::Uuid;

use crate::{
    Client, ClientError, decode,
    events::{Parser, Raw},
    init,
    send::Opened,
};

/// First and longest wait before connecting again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// The API breaks silence every 60 s; after more than two of those the connection is dead.
const SILENCE: Duration = Duration::from_secs(150);

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Everything there is, as of a revision. Comes first, and again when what was missed is no longer known:
    /// whatever is not in it is gone.
    Snapshot(Vec<Object>, u64),
    /// An object is new or changed. After a reconnect it may come a second time.
    Put(Object, u64),
    /// An object is gone. After a reconnect it may come a second time.
    Delete {
        /// Its type.
        kind: Kind,
        /// Its uuid.
        uuid: Uuid,
        /// When.
        revision: u64,
    },
}

/// An open answer of one replica.
#[derive(Debug)]
struct Stream {
    replica: usize,
    body: Incoming,
    parser: Parser,
}

/// A stream of [`Event`]s that never ends: it connects again, with growing waits, and resumes where it was, also
/// at another replica.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    types: String,
    /// All events up to this revision were handed out.
    complete: Option<u64>,
    stream: Option<Stream>,
    /// Objects of a snapshot in the making.
    collecting: Vec<Object>,
    wait: Duration,
    /// Whether the last attempt failed, to say once that it works again.
    failing: bool,
    /// Applied to every object before it is kept or handed out.
    each: Option<fn(&mut Object)>,
}

impl Watcher {
    pub(crate) fn new(client: Client, kinds: &[Kind]) -> Self {
        let types = if kinds.is_empty() {
            "*".to_owned()
        } else {
            kinds.iter().map(|k| k.snake()).collect::<Vec<_>>().join(",")
        };
        Self {
            client,
            types,
            complete: None,
            stream: None,
            collecting: Vec::new(),
            wait: BACKOFF.0,
            failing: false,
            each: None,
        }
    }

    /// Applies a function to every object as it arrives: for readers who keep many and want them small from the
    /// start, as a snapshot is held in full before it is handed out.
    #[must_use]
    pub fn each(mut self, shrink: fn(&mut Object)) -> Self {
        self.each = Some(shrink);
        self
    }

    /// The next event; waits for it as long as it takes. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.buffered() {
                return event;
            }
            if let Err(error) = self.fill().await {
                if !self.failing {
                    info!(%error, "watch of the configuration API is interrupted; trying again");
                    self.failing = true;
                }
                self.stream = None;
                let wait = self.wait;
                self.wait = (wait * 2).min(BACKOFF.1);
                tokio::time::sleep(wait).await;
            }
        }
    }

    /// An event out of the bytes that are here already.
    fn buffered(&mut self) -> Option<Event> {
        while let Some(raw) = self.stream.as_mut()?.parser.next() {
            match self.interpret(&raw) {
                Ok(Some(event)) => return Some(event),
                Ok(None) => {}
                Err(reason) => {
                    // What cannot be read must not be skipped: everything is listed again.
                    info!(reason, "an event is not understood; listing again");
                    self.stream = None;
                    self.complete = None;
                    return None;
                }
            }
        }
        None
    }

    /// Connects if need be and reads some bytes.
    async fn fill(&mut self) -> Result<(), ClientError> {
        if self.stream.is_none() {
            let path = format!("/watch?resource_type={}", self.types);
            let Opened { response, replica } = self.client.open(&path, self.complete).await?;
            let status = response.status();
            if status.as_u16() == 410 {
                debug!(since = self.complete, "the revision is no longer known; listing again");
                self.complete = None;
                return Ok(());
            }
            if !status.is_success() {
                let body = response.into_body().collect().await;
                let bytes = body.map_err(|e| self.client.unreachable(replica, &e))?;
                let text = String::from_utf8_lossy(&bytes.to_bytes()).into_owned();
                return Err(ClientError::Refused { status: status.as_u16(), text });
            }
            self.collecting.clear();
            let (body, parser) = (response.into_body(), Parser::default());
            self.stream = Some(Stream { replica, body, parser });
        }
        let Some(Stream { replica, body, parser }) = &mut self.stream else { return Ok(()) };
        let replica = *replica;
        let error = match tokio::time::timeout(SILENCE, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    parser.push(bytes);
                }
                self.wait = BACKOFF.0;
                if self.failing {
                    info!("watch of the configuration API works again");
                    self.failing = false;
                }
                return Ok(());
            }
            Ok(Some(Err(error))) => self.client.unreachable(replica, &error),
            Ok(None) => self.client.answer_error(replica, "the watch ended"),
            Err(_) => self.client.answer_error(replica, "the watch fell silent"),
        };
        // The next one may know more; what ended here in order comes back soon.
        self.client.replicas.failed(replica, Instant::now());
        Err(error)
    }

    fn object(
        each: Option<fn(&mut Object)>,
        kind: Kind,
        fields: Map<String, Value>,
    ) -> Result<Object, String> {
        let mut object = decode(kind, fields)?;
        if let Some(shrink) = each {
            shrink(&mut object);
        }
        Ok(object)
    }

    fn interpret(&mut self, raw: &Raw) -> Result<Option<Event>, String> {
        match raw.name.as_str() {
            "init" => {
                init::read(&raw.data, |kind, fields| {
                    self.collecting.push(Self::object(self.each, kind, fields)?);
                    Ok(())
                })?;
                // The last one carries the revision.
                let Some(revision) = raw.id else { return Ok(None) };
                self.client.replicas.saw(revision);
                self.complete = Some(revision);
                Ok(Some(Event::Snapshot(std::mem::take(&mut self.collecting), revision)))
            }
            "create" | "update" | "delete" => {
                let revision = raw.id.ok_or("an event has no revision")?;
                self.client.replicas.saw(revision);
                let envelope: Map<String, Value> =
                    serde_json::from_str(&raw.data).map_err(|error| error.to_string())?;
                let (name, fields) = envelope.into_iter().next().ok_or("an event is empty")?;
                let kind = Kind::parse(&name).ok_or_else(|| format!("unknown type {name}"))?;
                let Value::Object(fields) = fields else {
                    return Err(format!("{name} is not an object"));
                };
                // One revision may span several events, so this one may not be complete yet.
                self.complete = self.complete.max(Some(revision.saturating_sub(1)));
                if raw.name != "delete" {
                    let mut object = Self::object(self.each, kind, fields)?;
                    object.revision = revision;
                    return Ok(Some(Event::Put(object, revision)));
                }
                let uuid = fields
                    .get("uuid")
                    .and_then(Value::as_str)
                    .and_then(|t| Uuid::try_parse(t).ok());
                let uuid = uuid.ok_or("a delete has no uuid")?;
                Ok(Some(Event::Delete { kind, uuid, revision }))
            }
            // The server says why it ends the stream; the end follows.
            "stop" => {
                debug!(data = %raw.data, "the server ends the watch");
                Ok(None)
            }
            _ => Ok(None),
        }
    }
}
