//! Calls of etcd: several endpoints, one of which answers.

use std::{
    future::Future,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tracing::debug;
use uuid::Uuid;

use super::rpc::{self, kv_client::KvClient};
use crate::StoreError;

/// One attempt at one endpoint, where much may be read.
const ATTEMPT: Duration = Duration::from_secs(2);
/// One attempt at one endpoint for what takes milliseconds: another member must be asked before a lease ends.
pub(super) const SHORT: Duration = Duration::from_millis(600);
/// A whole call, over all endpoints.
pub(super) const CALL: Duration = Duration::from_secs(6);
/// Between rounds over endpoints that all failed.
const PAUSE: Duration = Duration::from_millis(100);
/// etcd refuses pings that come more often than every 5 s.
const PING: Duration = Duration::from_secs(10);
/// Pages and watch answers are larger than the library's limit of 4 MiB.
const LARGEST_ANSWER: usize = 512 << 20;

/// Where etcd is and how to get in.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// URLs of members, `https://HOST:2379`.
    pub endpoints: Vec<String>,
    /// Certificates of the authority that vouches for them, PEM; needed for `https`.
    pub ca: Option<PathBuf>,
    /// Certificate that they ask for, PEM, with `key`.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM.
    pub key: Option<PathBuf>,
    /// What all keys begin with.
    pub prefix: String,
    /// How many revisions the log keeps for watchers that come back.
    pub log_retention: u64,
    /// How long a leader that is not heard of keeps its place. etcd has a least of its own, about 2 s.
    pub lease: Duration,
}

impl EtcdOptions {
    /// Defaults for some endpoints.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            ca: None,
            certificate: None,
            key: None,
            prefix: "/skein/".into(),
            log_retention: 65_536,
            lease: Duration::from_secs(3),
        }
    }
}

/// A client of one etcd. Cloning shares its connections.
#[derive(Debug, Clone)]
pub struct Etcd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    endpoints: Vec<(String, Channel)>,
    /// Index of the endpoint that answered last.
    current: AtomicUsize,
    options: EtcdOptions,
    errors: AtomicU64,
    /// Of the configuration that was read first.
    origin: Mutex<Option<Uuid>>,
}

impl Etcd {
    /// Prepares connections; nothing is sent yet. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// An address or file is not usable.
    pub fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        if options.endpoints.is_empty() {
            return Err(settings("no endpoint is given"));
        }
        let mut endpoints = Vec::new();
        for url in &options.endpoints {
            endpoints.push((url.clone(), channel(url, &options)?));
        }
        let (current, errors) = (AtomicUsize::new(0), AtomicU64::new(0));
        let origin = Mutex::new(None);
        Ok(Self(Arc::new(Inner { endpoints, current, options, errors, origin })))
    }

    /// What it was made with.
    #[must_use]
    pub fn options(&self) -> &EtcdOptions {
        &self.0.options
    }

    /// Attempts that failed so far.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.0.errors.load(Ordering::Relaxed)
    }

    /// Names the store in messages: endpoints and prefix.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.endpoints(), self.0.options.prefix)
    }

    pub(super) fn endpoints(&self) -> String {
        self.0.options.endpoints.join(",")
    }

    /// Remembers which configuration this is. An etcd that has none any more, or another, is not believed: an empty
    /// network for everyone is not what anybody wants of a disk that was lost.
    pub(super) fn recognize(&self, origin: Option<Uuid>) -> Result<(), StoreError> {
        let mut known = self.0.origin.lock();
        if known.is_some() && *known != origin {
            return Err(StoreError::Emptied { path: self.name() });
        }
        *known = origin;
        Ok(())
    }

    /// A key below the prefix.
    pub(super) fn key(&self, suffix: &str) -> Vec<u8> {
        format!("{}{suffix}", self.0.options.prefix).into_bytes()
    }

    /// Address of the endpoint that answered last.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.0.endpoints[self.index()].0
    }

    /// The endpoint that answered last, and its address.
    pub(super) fn current(&self) -> (String, Channel) {
        let (url, channel) = &self.0.endpoints[self.index()];
        (url.clone(), channel.clone())
    }

    fn index(&self) -> usize {
        self.0.current.load(Ordering::Relaxed) % self.0.endpoints.len()
    }

    /// The next call goes to another endpoint, unless another call saw to that already.
    pub(super) fn move_on(&self, from: usize) {
        self.0.errors.fetch_add(1, Ordering::Relaxed);
        let next = (from + 1) % self.0.endpoints.len();
        let _ = self.0.current.compare_exchange(from, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// As [`move_on`](Self::move_on) from wherever it is.
    pub(super) fn leave(&self) {
        self.move_on(self.index());
    }

    /// Calls one endpoint after the other until one answers, or `limit` is over. Only for what may be done twice.
    pub(super) async fn call<T, F, Fut>(
        &self,
        attempt: Duration,
        limit: Duration,
        call: F,
    ) -> Result<T, StoreError>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let until = Instant::now() + limit;
        let mut last = String::new();
        let mut attempts = 0;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::Unreachable { endpoints: self.endpoints(), reason: last });
            }
            let at = self.index();
            let (url, channel) = &self.0.endpoints[at];
            match tokio::time::timeout(attempt.min(left), call(channel.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => {
                    if let Some(error) = self.permanent(url, &status) {
                        self.0.errors.fetch_add(1, Ordering::Relaxed);
                        return Err(error);
                    }
                    last = blamed(url, &status);
                }
                Err(_) => last = format!("{url}: no answer in time"),
            }
            debug!(reason = last, "an attempt at etcd failed");
            self.move_on(at);
            attempts += 1;
            if attempts % self.0.endpoints.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// An error that another attempt would meet as well.
    pub(super) fn permanent(&self, url: &str, status: &Status) -> Option<StoreError> {
        let reason = told(status);
        match status.code() {
            Code::ResourceExhausted if reason.contains("space exceeded") => {
                Some(StoreError::EtcdFull { endpoints: self.endpoints() })
            }
            Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Unimplemented
            | Code::NotFound => Some(StoreError::EtcdRefused { endpoint: url.to_owned(), reason }),
            Code::OutOfRange => Some(StoreError::Compacted),
            _ => None,
        }
    }

    pub(super) async fn range(
        &self,
        request: rpc::RangeRequest,
    ) -> Result<rpc::RangeResponse, StoreError> {
        self.call(ATTEMPT, CALL, |channel| {
            let request = request.clone();
            async move { Ok(kv(channel).range(led(request)).await?.into_inner()) }
        })
        .await
    }

    /// Reads a value below the prefix.
    ///
    /// # Errors
    /// etcd does not answer or refuses.
    pub async fn get(&self, suffix: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let request = rpc::RangeRequest { key: self.key(suffix).into(), ..Default::default() };
        let mut answer = self.range(request).await?;
        Ok(answer.kvs.pop().map(|kv| kv.value.to_vec()))
    }

    /// Stores a value below the prefix, whatever is there and whoever leads: what measurements compare with.
    ///
    /// # Errors
    /// etcd does not answer or refuses.
    pub async fn put(&self, suffix: &str, value: Vec<u8>) -> Result<(), StoreError> {
        let request = rpc::TxnRequest {
            success: vec![put(self.key(suffix), value, 0)],
            ..Default::default()
        };
        self.call(ATTEMPT, CALL, |channel| {
            let request = request.clone();
            async move { kv(channel).txn(led(request)).await.map(drop) }
        })
        .await
    }

    /// Stores a value below the prefix unless one is there; returns the one that is there afterwards.
    ///
    /// # Errors
    /// etcd does not answer or refuses.
    pub async fn create(&self, suffix: &str, value: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let key = self.key(suffix);
        let request = rpc::TxnRequest {
            compare: vec![absent(key.clone())],
            success: vec![put(key, value, 0)],
            failure: vec![],
        };
        // Twice is as good as once: the second one finds the first.
        self.call(ATTEMPT, CALL, |channel| {
            let request = request.clone();
            async move { Ok(kv(channel).txn(led(request)).await?.into_inner()) }
        })
        .await?;
        self.get(suffix).await?.ok_or_else(|| StoreError::EtcdRefused {
            endpoint: self.endpoints(),
            reason: format!("{suffix} is not there after it was stored; does somebody delete it?"),
        })
    }
}

pub(super) fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

pub(super) fn watcher(channel: Channel) -> rpc::watch_client::WatchClient<Channel> {
    rpc::watch_client::WatchClient::new(channel).max_decoding_message_size(LARGEST_ANSWER)
}

/// A request that a member without a leader refuses at once instead of keeping it.
pub(super) fn led<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
    request
}

pub(super) fn absent(key: Vec<u8>) -> rpc::Compare {
    created(key, 0)
}

pub(super) fn created(key: Vec<u8>, at: i64) -> rpc::Compare {
    rpc::Compare {
        result: rpc::compare::CompareResult::Equal.into(),
        target: rpc::compare::CompareTarget::Create.into(),
        key: key.into(),
        target_union: Some(rpc::compare::TargetUnion::CreateRevision(at)),
    }
}

pub(super) fn changed(key: Vec<u8>, at: i64) -> rpc::Compare {
    rpc::Compare {
        result: rpc::compare::CompareResult::Equal.into(),
        target: rpc::compare::CompareTarget::Mod.into(),
        key: key.into(),
        target_union: Some(rpc::compare::TargetUnion::ModRevision(at)),
    }
}

pub(super) fn put(
    key: impl Into<bytes::Bytes>,
    value: impl Into<bytes::Bytes>,
    lease: i64,
) -> rpc::RequestOp {
    let request = rpc::PutRequest { key: key.into(), value: value.into(), lease };
    rpc::RequestOp { request: Some(rpc::request_op::Request::RequestPut(request)) }
}

pub(super) fn delete(key: Vec<u8>, range_end: Vec<u8>) -> rpc::RequestOp {
    let request = rpc::DeleteRangeRequest { key: key.into(), range_end: range_end.into() };
    rpc::RequestOp { request: Some(rpc::request_op::Request::RequestDeleteRange(request)) }
}

pub(super) fn read(key: Vec<u8>) -> rpc::RequestOp {
    let request = rpc::RangeRequest { key: key.into(), ..Default::default() };
    rpc::RequestOp { request: Some(rpc::request_op::Request::RequestRange(request)) }
}

/// The end of the range of all keys that begin with this one.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// A status with what is behind it: "transport error" alone helps nobody.
pub(super) fn told(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(inner) = source {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = inner.source();
    }
    text
}

/// Which endpoint failed, and why as far as one can tell.
pub(super) fn blamed(url: &str, status: &Status) -> String {
    let reason = told(status);
    // A server that does not take a certificate says so after the handshake, by closing.
    let closed = ["connection closed", "reset", "broken pipe", "canceled"];
    if url.starts_with("https:") && closed.iter().any(|word| reason.contains(word)) {
        return format!("{url}: {reason}; does it take this client's certificate?");
    }
    format!("{url}: {reason}")
}

fn settings(reason: impl Into<String>) -> StoreError {
    StoreError::EtcdSettings { reason: reason.into() }
}

fn channel(url: &str, options: &EtcdOptions) -> Result<Channel, StoreError> {
    let bad = |reason: &dyn std::fmt::Display| settings(format!("{url}: {reason}"));
    let secure = url.starts_with("https://");
    if !secure && !url.starts_with("http://") {
        return Err(bad(&"write it as https://HOST:2379"));
    }
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|e| bad(&e))?
        .connect_timeout(ATTEMPT)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        // A page of large objects must not wait for window updates.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20);
    if secure {
        let ca = options
            .ca
            .as_ref()
            .ok_or_else(|| bad(&"TLS needs the authority's certificate: give it with --etcd-ca"))?;
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(file(ca)?));
        match (&options.certificate, &options.key) {
            (None, None) => {}
            (Some(certificate), Some(key)) => {
                tls = tls.identity(Identity::from_pem(file(certificate)?, file(key)?));
            }
            _ => {
                return Err(settings(
                    "a client certificate needs its key, and a key its certificate",
                ));
            }
        }
        endpoint = endpoint.tls_config(tls).map_err(|e| {
            let reason = std::error::Error::source(&e).map_or(e.to_string(), ToString::to_string);
            bad(&format!(
                "{reason}; are the files of --etcd-ca, --etcd-certificate and --etcd-key PEM?"
            ))
        })?;
    }
    Ok(endpoint.connect_lazy())
}

fn file(path: &PathBuf) -> Result<String, StoreError> {
    std::fs::read_to_string(path).map_err(|e| settings(format!("{}: {e}", path.display())))
}
