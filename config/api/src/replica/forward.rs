//! Hands writes to the replica that writes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, Uri,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    http::request::Parts,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::time::Instant;
use tracing::debug;

use super::{PeerFiles, Place, REVISION, REVISION_WAIT, Replica};
use crate::{
    error::{ApiError, ApiResult},
    http::Body,
    server::ServerError,
};

/// How long a write waits for somebody who writes: a lease must end, and its successor reads everything.
const PATIENCE: Duration = Duration::from_secs(12);
/// Between attempts while nobody does.
const PAUSE: Duration = Duration::from_millis(50);
/// Longest time for the leader's answer.
const ANSWER: Duration = Duration::from_secs(30);
/// What a leader that was replaced still gets to answer: it may be asleep.
const REPLACED: Duration = Duration::from_secs(1);

/// Longest wait of a write for somebody who writes, after this replica was asked to stop: it is refused, not cut off.
const LEAVING: Duration = Duration::from_secs(2);

/// On a request: a replica hands it on, so it must not be handed on again. The replica's name.
pub(crate) const FORWARDED: &str = "x-skein-forwarded";
/// On an answer: nothing was done, this replica does not write.
const NOT_LEADING: &str = "x-skein-not-leading";
/// How the client came, for links in the answer.
pub(crate) const SCHEME: &str = "x-forwarded-proto";

/// What to do with a write.
pub(crate) enum Route {
    /// This replica writes.
    Here,
    /// The leader answered.
    Answer(Response<Body>),
}

type Pool = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Connections to other replicas.
#[derive(Debug)]
pub(super) struct Forwarder {
    connector: HttpsConnector<HttpConnector>,
    pool: Mutex<Pool>,
}

/// Why the leader gave no answer.
enum Failure {
    /// It never had the write.
    NotSent(String),
    /// It may have done it.
    Unknown(String),
}

impl Forwarder {
    pub(super) fn new(files: Option<&PeerFiles>) -> Result<Self, ServerError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |path: &str, reason: &dyn std::fmt::Display| ServerError::Tls {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable("TLS to other replicas", &e))?;
        let mut roots = RootCertStore::empty();
        let mut name = None;
        let config = match files {
            None => config.with_root_certificates(roots).with_no_client_auth(),
            Some(files) => {
                for certificate in certificates(&files.ca)? {
                    roots.add(certificate).map_err(|e| unusable("the replicas' authority", &e))?;
                }
                let path = files.key.display().to_string();
                let key =
                    PrivateKeyDer::from_pem_file(&files.key).map_err(|e| unusable(&path, &e))?;
                name = files.server_name.clone();
                config
                    .with_root_certificates(roots)
                    .with_client_auth_cert(certificates(&files.certificate)?, key)
                    .map_err(|e| unusable(&path, &e))?
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(1)));
        tcp.enforce_http(false);
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
        let builder = match name {
            Some(name) => {
                let name = ServerName::try_from(name).map_err(|e| unusable("server name", &e))?;
                builder.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name))
            }
            None => builder,
        };
        let connector = builder.enable_http1().wrap_connector(tcp);
        let pool = Mutex::new(Self::connections(&connector));
        Ok(Self { connector, pool })
    }

    fn connections(connector: &HttpsConnector<HttpConnector>) -> Pool {
        Client::builder(TokioExecutor::new()).build(connector.clone())
    }

    /// Closes the connections that nobody uses, and the others when they have their answer. Who stops leading in
    /// order waits for it: no write may be on its way on a connection that it closes.
    pub(super) fn forget(&self) {
        *self.pool.lock() = Self::connections(&self.connector);
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|e| ServerError::Tls { path: path.display().to_string(), reason: e.to_string() })
}

/// Headers that are of one connection, not of the message.
fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TRANSFER_ENCODING
            | header::CONTENT_LENGTH
            | header::TE
            | header::TRAILER
            | header::UPGRADE
            | header::EXPECT
            | header::PROXY_AUTHORIZATION
    ) || name.as_str() == "keep-alive"
}

fn carried(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| !is_of_connection(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

impl Replica {
    /// Finds out where a write goes, and has the leader do it if that is another replica. Returns when this
    /// replica's view has what was written.
    ///
    /// # Errors
    /// Nobody writes for too long, or the leader was lost while it worked on this.
    pub(crate) async fn route(
        &self,
        head: &Parts,
        body: &Bytes,
        scheme: &'static str,
        until: Instant,
    ) -> ApiResult<Route> {
        let mut reason = "no replica leads".to_owned();
        let mut until = until;
        loop {
            // Before the leader is looked up: if another leads from here on, this goes on a connection that is then
            // forgotten.
            let pool = self.forwarder.pool.lock().clone();
            match self.place() {
                Place::Here => return Ok(Route::Here),
                // One hop: the one who asks knows better where to ask next.
                _ if head.headers.contains_key(FORWARDED) => {
                    let mut answer = crate::http::plain(503, "this replica does not lead");
                    answer.headers_mut().insert(NOT_LEADING, HeaderValue::from_static("1"));
                    return Ok(Route::Answer(answer));
                }
                Place::There(leader) => match self.send(&pool, &leader, head, body, scheme).await {
                    Ok(answer) if answer.headers().contains_key(NOT_LEADING) => {
                        reason = format!("{} is about to lead", leader.url);
                    }
                    Ok(answer) => {
                        self.metrics.forwarded("answered");
                        return self.answered(answer).await.map(Route::Answer);
                    }
                    Err(Failure::NotSent(why)) => {
                        debug!(url = leader.url, why, "the leader is not reached");
                        reason = format!("the leader {} is not reached: {why}", leader.url);
                    }
                    Err(Failure::Unknown(why)) => {
                        self.metrics.forwarded("lost");
                        return Err(ApiError::unavailable(format!(
                            "the leader {} was lost while it worked on this ({why}); it may or may \
                                 not be stored, look before writing again",
                            leader.url
                        )));
                    }
                },
                Place::Nowhere => {}
            }
            if let Some(since) = self.leaving() {
                until = until.min(since + LEAVING);
            }
            if Instant::now() >= until {
                self.metrics.forwarded("refused");
                return Err(ApiError::unavailable(format!(
                    "nothing was stored: {reason}; writes are possible again when a replica leads, \
                     which needs most members of etcd"
                )));
            }
            let mut standing = self.standing.subscribe();
            let _ = tokio::time::timeout(PAUSE, standing.changed()).await;
        }
    }

    /// When a write that comes now is refused if nobody writes until then.
    pub(crate) fn patience() -> Instant {
        Instant::now() + PATIENCE
    }

    async fn send(
        &self,
        pool: &Pool,
        leader: &skein_store::Leader,
        head: &Parts,
        body: &Bytes,
        scheme: &'static str,
    ) -> Result<Response<Bytes>, Failure> {
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let uri: Uri = format!("{}{path}", leader.url.trim_end_matches('/'))
            .parse()
            .map_err(|e| Failure::NotSent(format!("no address: {e}")))?;
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = carried(&head.headers);
        let name = HeaderValue::from_str(&self.cluster.name);
        let name = name.unwrap_or_else(|_| HeaderValue::from_static("replica"));
        request.headers_mut().insert(FORWARDED, name);
        request.headers_mut().insert(SCHEME, HeaderValue::from_static(scheme));
        let answering = async {
            let answer = pool.request(request).await.map_err(|error| {
                let why = explained(&error);
                if error.is_connect() { Failure::NotSent(why) } else { Failure::Unknown(why) }
            })?;
            let (parts, body) = answer.into_parts();
            let body = body.collect().await.map_err(|e| Failure::Unknown(explained(&e)))?;
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        tokio::select! {
            answer = answering => answer,
            () = self.replaced(leader) => Err(Failure::Unknown("another leads now".into())),
            () = tokio::time::sleep(ANSWER) => Err(Failure::Unknown("no answer in time".into())),
        }
    }

    /// Completes a while after another leader than this one was seen.
    async fn replaced(&self, leader: &skein_store::Leader) {
        let mut standing = self.standing.subscribe();
        let other =
            standing.wait_for(|now| now.seen.as_ref().is_none_or(|s| s.term != leader.term));
        if other.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(REPLACED).await;
    }

    /// The leader's answer, when this replica shows what it is about.
    async fn answered(&self, answer: Response<Bytes>) -> ApiResult<Response<Body>> {
        let (parts, body) = answer.into_parts();
        let revision = parts.headers.get(REVISION).and_then(|v| v.to_str().ok()?.parse().ok());
        if let Some(revision) = revision
            && !self.published.reached(revision, REVISION_WAIT).await
        {
            return Err(ApiError::unavailable(format!(
                "the leader stored this at revision {revision}, which reads here may not show yet; \
                 look at another replica"
            )));
        }
        let mut response = Response::new(Full::new(body).boxed_unsync());
        *response.status_mut() = parts.status;
        *response.headers_mut() = carried(&parts.headers);
        Ok(response)
    }
}

/// An error with everything that is behind it.
fn explained(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
