//! Sends a call: to one replica, to the next if that is no use, and again if that is right.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use serde_json::{Value, json};
use tracing::{debug, warn};
use uuid::Uuid;

use crate::{
    Client, ClientError,
    repeat::{self, Repeat},
    tls,
};

/// Time for one call, whatever happens to it.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time for one replica's answer where another can be asked. A host without power is noticed sooner; this is for a process
/// that hangs, and far above what the largest answers take.
const TRY: Duration = Duration::from_secs(15);
/// For so long all replicas are asked again when none can serve, as while a new one of them comes to lead.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pause before they are.
const PAUSE: Duration = Duration::from_millis(200);
/// Of an answer: the revision it knows. Of a request: the one that the answer has to know.
const REVISION: &str = "x-skein-revision";

/// One replica's answer, read to its end.
struct Answer {
    status: StatusCode,
    body: Bytes,
}

/// Why there is none.
struct Failure {
    error: ClientError,
    /// Whether the replica may have done what was asked.
    maybe_done: bool,
}

/// A response with its body unread, and whose it is.
pub(crate) struct Opened {
    pub(crate) response: Response<Incoming>,
    pub(crate) replica: usize,
}

impl Client {
    /// Any call: `path` begins with a slash. An empty answer is null.
    ///
    /// With several replicas, a call whose outcome is not known is sent again if that changes nothing: `GET`; `PUT` and
    /// `DELETE` of objects (404 is then a success); `POST` to make an object, which gets a uuid here unless it has one (409
    /// is then a success if the object that is there holds what was sent); and actions that read or say what is to be, as
    /// `ref-update`. All others, as `ip-alloc`, fail with [`ClientError::Unreachable`], and the caller has to look.
    ///
    /// # Errors
    /// The API cannot be reached or refuses.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let call = self.repeated(method, path, body);
        let late = || self.silent(&format!("no answer within {} s", TIMEOUT.as_secs()));
        tokio::time::timeout(TIMEOUT, call).await.unwrap_or_else(|_| Err(late()))
    }

    /// Reads a page that is no JSON, as `/metrics`.
    ///
    /// # Errors
    /// The API cannot be reached or refuses.
    pub async fn text(&self, path: &str) -> Result<String, ClientError> {
        let Opened { response, replica } = self.open(path, None).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.map_err(|error| self.unreachable(replica, &error))?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        Err(ClientError::Refused { status: status.as_u16(), text })
    }

    async fn repeated(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        if self.replicas().len() == 1 {
            let sent = self.attempt(0, &method, path, body, None).await;
            return self.read(&sent.map_err(|failure| failure.error)?);
        }
        let mut rule = Repeat::of(&method, path, body);
        let made = match (rule, body) {
            (Repeat::Made(kind), Some(body)) => repeat::with_uuid(kind, body),
            _ => None,
        };
        if matches!(rule, Repeat::Made(_)) && made.is_none() {
            rule = Repeat::Never;
        }
        let body = made.as_ref().map_or(body, |(body, ..)| Some(body));
        // Whether an earlier try may have done it.
        let mut maybe_done = false;
        let mut attempts = Attempts::new(self);
        while let Some(replica) = attempts.next().await {
            match tokio::time::timeout(TRY, self.attempt(replica, &method, path, body, None)).await
            {
                Ok(Ok(answer)) if answer.status == StatusCode::SERVICE_UNAVAILABLE => {
                    let perhaps = perhaps_done(&answer);
                    if perhaps && rule == Repeat::Never {
                        return Err(refusal(&answer));
                    }
                    maybe_done |= perhaps;
                    attempts.failed(replica, refusal(&answer));
                }
                Ok(Ok(answer)) => {
                    self.replicas.answered(replica);
                    return match (rule, answer.status) {
                        (Repeat::Gone, StatusCode::NOT_FOUND) if maybe_done => Ok(Value::Null),
                        (Repeat::Made(kind), StatusCode::CONFLICT) if maybe_done => {
                            let path = |uuid: &Uuid| format!("/{kind}/{uuid}");
                            let there = match &made {
                                Some((_, uuid, _)) => self.look(replica, &path(uuid)).await,
                                None => None,
                            };
                            let ours = there.zip(made.as_ref()).and_then(|(there, made)| {
                                let (body, uuid, fresh) = made;
                                let name = kind.name();
                                let same = *fresh || repeat::holds(&there[name], &body[name]);
                                same.then(|| json!({ name: {"uuid": uuid} }))
                            });
                            ours.map_or_else(|| self.read(&answer), Ok)
                        }
                        _ => self.read(&answer),
                    };
                }
                Ok(Err(failure)) => {
                    if failure.maybe_done && rule == Repeat::Never {
                        self.replicas.failed(replica, Instant::now());
                        return Err(undecided(failure.error));
                    }
                    maybe_done |= failure.maybe_done;
                    attempts.failed(replica, failure.error);
                }
                Err(_) => {
                    let error = self.unreachable_at(replica, &late(TRY));
                    if rule == Repeat::Never {
                        self.replicas.failed(replica, Instant::now());
                        return Err(undecided(error));
                    }
                    maybe_done = true;
                    attempts.failed(replica, error);
                }
            }
        }
        Err(attempts.end())
    }

    /// An object, if it can be had.
    async fn look(&self, replica: usize, path: &str) -> Option<Value> {
        let answer = self.attempt(replica, &Method::GET, path, None, None).await.ok()?;
        if !answer.status.is_success() {
            return None;
        }
        serde_json::from_slice(&answer.body).ok()
    }

    /// Sends a request that reads and hands out the response with its body unread.
    pub(crate) async fn open(
        &self,
        path: &str,
        last_event: Option<u64>,
    ) -> Result<Opened, ClientError> {
        let mut attempts = Attempts::new(self);
        while let Some(replica) = attempts.next().await {
            let sent = self.send(replica, &Method::GET, path, None, last_event);
            let error = match tokio::time::timeout(TRY, sent).await {
                Ok(Ok(response)) if response.status() == StatusCode::SERVICE_UNAVAILABLE => {
                    let status = response.status();
                    let body = response.into_body().collect().await;
                    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                    refusal(&Answer { status, body })
                }
                Ok(Ok(response)) => {
                    self.replicas.answered(replica);
                    return Ok(Opened { response, replica });
                }
                Ok(Err(failure)) => failure.error,
                Err(_) => self.unreachable_at(replica, &late(TRY)),
            };
            attempts.failed(replica, error);
        }
        Err(attempts.end())
    }

    async fn attempt(
        &self,
        replica: usize,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        last_event: Option<u64>,
    ) -> Result<Answer, Failure> {
        let response = self.send(replica, method, path, body, last_event).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| Failure {
            error: self.unreachable(replica, &error),
            // Whoever refuses has said so.
            maybe_done: status.is_success(),
        })?;
        Ok(Answer { status, body: body.to_bytes() })
    }

    async fn send(
        &self,
        replica: usize,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        last_event: Option<u64>,
    ) -> Result<Response<Incoming>, Failure> {
        let base = self.replicas().get(replica).map_or("", String::as_str);
        let mut request = Request::builder().method(method).uri(format!("{base}{path}"));
        if let Some(revision) = last_event {
            request = request.header("last-event-id", revision);
        }
        let known = self.replicas.revision();
        if known > 0 && self.replicas().len() > 1 {
            request = request.header(REVISION, known);
        }
        let bytes = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes)).map_err(|e| Failure {
            error: self.answer_error(replica, format!("bad request: {e}")),
            maybe_done: false,
        })?;
        let response = self.pool.request(request).await.map_err(|error| {
            let told = self.unreachable(replica, &error);
            // The pool's word for a request that it got back unsent; its type says so nowhere else.
            let unsent =
                error.is_connect() || error.to_string().starts_with("client error (Canceled)");
            let refused = matches!(told, ClientError::Untrusted { .. });
            Failure { error: told, maybe_done: !unsent && !refused }
        })?;
        let revision = response.headers().get(REVISION).and_then(|value| value.to_str().ok());
        if let Some(revision) = revision.and_then(|text| text.parse().ok()) {
            self.replicas.saw(revision);
        }
        Ok(response)
    }

    fn read(&self, answer: &Answer) -> Result<Value, ClientError> {
        if !answer.status.is_success() {
            return Err(refusal(answer));
        }
        if answer.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer.body).map_err(|e| self.misunderstood(e.to_string()))
    }

    /// The error for an answer that makes no sense, whoever gave it.
    pub(crate) fn misunderstood(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Answer { base: self.base().to_owned(), reason: reason.into() }
    }

    pub(crate) fn answer_error(&self, replica: usize, reason: impl Into<String>) -> ClientError {
        ClientError::Answer { base: self.at(replica), reason: reason.into() }
    }

    pub(crate) fn unreachable(
        &self,
        replica: usize,
        error: &(dyn std::error::Error + 'static),
    ) -> ClientError {
        let base = self.at(replica);
        if let Some(reason) = tls::explain(error) {
            return ClientError::Untrusted { base, reason };
        }
        let mut reason = error.to_string();
        if base.starts_with("http:") && tls::is_no_http(error) {
            reason.push_str(" (if it serves HTTPS, write https:// before the address)");
        }
        let mut source = error.source();
        while let Some(inner) = source {
            reason = format!("{reason}: {inner}");
            source = inner.source();
        }
        ClientError::Unreachable { base, reason }
    }

    fn unreachable_at(&self, replica: usize, reason: &str) -> ClientError {
        ClientError::Unreachable { base: self.at(replica), reason: reason.to_owned() }
    }

    fn silent(&self, reason: &str) -> ClientError {
        ClientError::Unreachable { base: self.base().to_owned(), reason: reason.to_owned() }
    }

    fn at(&self, replica: usize) -> String {
        self.replicas().get(replica).cloned().unwrap_or_default()
    }
}

fn late(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs())
}

fn refusal(answer: &Answer) -> ClientError {
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    ClientError::Refused { status: answer.status.as_u16(), text }
}

/// Whether a replica that could not serve had handed the call on: its text then says that it may have been done.
fn perhaps_done(answer: &Answer) -> bool {
    let text = String::from_utf8_lossy(&answer.body);
    text.split(|c: char| !c.is_alphanumeric()).any(|word| word == "may")
}

/// Says that it is open whether the call was done.
fn undecided(error: ClientError) -> ClientError {
    match error {
        ClientError::Unreachable { base, reason } => ClientError::Unreachable {
            base,
            reason: format!("{reason}; it may have been done, and is not sent a second time"),
        },
        other => other,
    }
}

/// The tries of one call: every replica in turn, and again after a pause until patience ends.
struct Attempts<'a> {
    client: &'a Client,
    started: Instant,
    /// What is left of this round, last first.
    round: Vec<usize>,
    first: bool,
    /// What each replica said last.
    said: Vec<Option<ClientError>>,
}

impl<'a> Attempts<'a> {
    fn new(client: &'a Client) -> Self {
        let said = client.replicas().iter().map(|_| None).collect();
        Self { client, started: Instant::now(), round: Vec::new(), first: true, said }
    }

    /// Whom to ask now.
    async fn next(&mut self) -> Option<usize> {
        if self.round.is_empty() {
            if self.client.replicas().len() > 1 {
                self.client.replicas.meet().await;
            }
            if !std::mem::take(&mut self.first) {
                let over = self.started.elapsed() + PAUSE >= PATIENCE;
                if over || self.client.replicas().len() == 1 {
                    return None;
                }
                tokio::time::sleep(PAUSE).await;
            }
            self.round = self.client.replicas.order(Instant::now());
            self.round.reverse();
        }
        self.round.pop()
    }

    fn failed(&mut self, replica: usize, error: ClientError) {
        debug!(%error, "a replica does not serve; another one is asked");
        self.client.replicas.failed(replica, Instant::now());
        if let Some(said) = self.said.get_mut(replica) {
            *said = Some(error);
        }
    }

    /// What to tell the caller: a refusal says most; else what happened at each.
    fn end(mut self) -> ClientError {
        let refused =
            |said: &Option<ClientError>| matches!(said, Some(ClientError::Refused { .. }));
        // As the API begins when it was asked for more than it knows.
        let behind = |said: &Option<ClientError>| match said {
            Some(ClientError::Refused { text, .. }) => text.starts_with(REVISION),
            _ => false,
        };
        if self.said.iter().all(behind) {
            let revision = self.client.replicas.revision();
            warn!(
                revision,
                "no replica of the configuration API knows what was seen here, as after a restore; going on with what they know"
            );
            self.client.replicas.forget_revision();
        }
        if let Some(said) = self.said.iter_mut().find(|said| refused(said))
            && let Some(error) = said.take()
        {
            return error;
        }
        if let [only] = self.said.as_mut_slice()
            && let Some(error) = only.take()
        {
            return error;
        }
        let untrusted = |error: &ClientError| matches!(error, ClientError::Untrusted { .. });
        let all: Vec<&ClientError> = self.said.iter().flatten().collect();
        if !all.is_empty() && all.iter().all(|error| untrusted(error)) {
            return self
                .said
                .into_iter()
                .flatten()
                .next()
                .unwrap_or_else(|| self.client.silent("no replica was asked"));
        }
        let mut reasons = Vec::new();
        for (base, said) in self.client.replicas().iter().zip(&self.said) {
            let reason = match said {
                Some(
                    ClientError::Unreachable { reason, .. } | ClientError::Untrusted { reason, .. },
                ) => reason.clone(),
                Some(other) => other.to_string(),
                None => continue,
            };
            reasons.push(format!("{base}: {reason}"));
        }
        self.client.silent(&reasons.join("; "))
    }
}
