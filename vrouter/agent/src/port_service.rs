//! The port API's server: HTTP over a unix socket, for the CNI plugin and whoever attaches workloads.
//!
//! Calls about one port run one after the other; calls about different ports run side by side.

use crate::node::NodeHandle;
use crate::pod_service;
use crate::port_times::Step;
use crate::ports::PortRecord;
use crate::session::Channels;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use skein_cni::port_api::{Bind, Failure, Gc, Port, PortAddress, PortKey, Prepare, Released};
use skein_proto::ports::ports_client::PortsClient;
use skein_proto::ports::{EnsureReply, EnsureRequest, ReleaseRequest};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, OwnedMutexGuard};
use tonic::Code;

/// How long `bind` waits for the controller's word to be in force.
pub(crate) const BIND_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a controller may take to make a port's objects. One that is silent is noticed sooner, by its connection.
const ENSURE_TIMEOUT: Duration = Duration::from_secs(8);
/// Releases that failed are tried again this often.
const RELEASE_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub(crate) struct PortService {
    pub(crate) node: NodeHandle,
    pub(crate) channels: Channels,
    pub(crate) locks: Arc<Locks>,
    released: Arc<Notify>,
}

/// A lock for every port that is being worked on.
#[derive(Default)]
pub(crate) struct Locks(Mutex<HashMap<PortKey, Arc<tokio::sync::Mutex<()>>>>);

impl Locks {
    pub(crate) async fn lock(&self, key: &PortKey) -> OwnedMutexGuard<()> {
        let lock = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Locks nobody holds or waits for are let go here, so that the table stays small.
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
            all.entry(key.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// A refused call.
pub(crate) struct Refusal {
    status: StatusCode,
    failure: Failure,
}

impl Refusal {
    pub(crate) fn new(
        status: StatusCode,
        message: impl Into<String>,
        hint: &str,
        retry: bool,
    ) -> Self {
        Self { status, failure: Failure { message: message.into(), hint: hint.into(), retry } }
    }

    pub(crate) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping", "repeat the call", true)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.failure).unwrap_or_default();
        (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

pub(crate) type Reply<T> = Result<axum::Json<T>, Refusal>;

pub(crate) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        let hint = "see the fields of the port API; is the plugin of the same release?";
        Refusal::new(StatusCode::BAD_REQUEST, format!("the request: {error}"), hint, false)
    })
}

impl PortService {
    pub(crate) fn new(node: NodeHandle, channels: Channels) -> Self {
        Self { node, channels, locks: Arc::default(), released: Arc::default() }
    }

    pub(crate) fn router(&self) -> Router {
        Router::new()
            .route("/v1/ports/prepare", post(prepare))
            .route("/v1/ports/bind", post(bind))
            .route("/v1/ports/release", post(release))
            .route("/v1/ports/check", post(check))
            .route("/v1/ports/gc", post(gc))
            .route("/v1/ports", get(list))
            .route("/v1/ports/status", get(status))
            .route("/v1/pods/prepare", post(pod_service::prepare))
            .route("/v1/pods/release", post(pod_service::release))
            .route("/v1/pods/check", post(pod_service::check))
            .with_state(self.clone())
    }

    /// Tells controllers of released ports, and picks up what the plugin released while no agent ran.
    pub(crate) async fn keep_releasing(self, socket: std::path::PathBuf) {
        loop {
            for tombstone in skein_cni::Tombstone::list(&socket) {
                let _guard = self.locks.lock(&tombstone.key).await;
                let key = tombstone.key.clone();
                let release = move |node: &mut crate::node::Node| {
                    node.release(&key);
                    pod_service::remove_links(&node.release_pod(&key.container));
                };
                if self.node.ask(release).await.is_some()
                    && let Err(error) = std::fs::remove_file(&tombstone.path)
                {
                    tracing::warn!(path = %tombstone.path.display(), %error, "release note stays");
                }
            }
            let pending = self.node.ask(|node| node.releases.clone()).await.unwrap_or_default();
            for one in pending {
                let _guard = self.locks.lock(&one.key).await;
                // Meanwhile an ADD of the same name may have released it and made it anew.
                let wanted = one.clone();
                let still = self.node.ask(move |node| node.releases.contains(&wanted)).await;
                if still != Some(true) {
                    continue;
                }
                // The controller being away is reported by the session; here it only means "later".
                if let Err(reason) = self.release_at_controller(&one.key).await {
                    tracing::debug!(container = one.key.container, reason, "not released yet");
                    break;
                }
            }
            let _ = tokio::time::timeout(RELEASE_INTERVAL, self.released.notified()).await;
        }
    }

    async fn release_at_controller(&self, key: &PortKey) -> Result<(), String> {
        let mut last = "no controller is connected".to_owned();
        for channel in self.channels.connected() {
            let request = ReleaseRequest {
                container_id: key.container.clone(),
                interface_name: key.interface.clone(),
            };
            let mut client = PortsClient::new(channel);
            match tokio::time::timeout(ENSURE_TIMEOUT, client.release(request)).await {
                Ok(Ok(_)) => {
                    let key = key.clone();
                    self.node.ask(move |node| node.released(&key)).await;
                    return Ok(());
                }
                Ok(Err(status)) => last = status.message().to_owned(),
                Err(_) => last = "no answer in time".into(),
            }
        }
        Err(last)
    }

    async fn ensure(&self, prepare: &Prepare) -> Result<EnsureReply, Refusal> {
        let request = EnsureRequest {
            network: prepare.network.clone(),
            container_id: prepare.key.container.clone(),
            interface_name: prepare.key.interface.clone(),
            workload: prepare.workload.clone(),
            addresses: prepare.addresses.iter().map(ToString::to_string).collect(),
            mac: prepare.mac.clone().unwrap_or_default(),
            security_groups: prepare.security_groups.clone(),
        };
        let away = |message: String| {
            let hint = "see that a controller runs and `skein status` shows this node connected";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, hint, true)
        };
        let mut last = away("no controller is connected: no new port can be made".into());
        let (mut missing, mut silent) = (None, false);
        for channel in self.channels.connected() {
            let mut client = PortsClient::new(channel);
            let status = match tokio::time::timeout(ENSURE_TIMEOUT, client.ensure(request.clone()))
                .await
            {
                Ok(Ok(reply)) => return Ok(reply.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => tonic::Status::deadline_exceeded("the controller did not answer in time"),
            };
            let refused = matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::AlreadyExists
                    | Code::FailedPrecondition
                    | Code::PermissionDenied
                    | Code::ResourceExhausted
                    | Code::Unauthenticated
            );
            if refused {
                let hint = "correct the network configuration, or make what it names";
                let refusal = Refusal::new(StatusCode::CONFLICT, status.message(), hint, false);
                if status.code() != Code::NotFound {
                    return Err(refusal);
                }
                // What was made a moment ago may be known to the next one already.
                missing.get_or_insert(refusal);
                continue;
            }
            silent = true;
            last = away(status.message().to_owned());
        }
        Err(missing.filter(|_| !silent).unwrap_or(last))
    }
}

async fn prepare(State(service): State<PortService>, body: Bytes) -> Reply<Port> {
    let prepare: Prepare = read(&body)?;
    let _guard = service.locks.lock(&prepare.key).await;
    let (key, network) = (prepare.key.clone(), prepare.network.clone());
    let known = service
        .node
        .ask(move |node| {
            let pending = node.releases.iter().any(|one| one.key == key);
            (describe(node, &key), pending)
        })
        .await;
    let (known, pending) = known.ok_or_else(Refusal::stopping)?;
    if let Some(port) = known {
        if port.network == network {
            return Ok(axum::Json(port));
        }
        let message = format!("the port is already in network {}", port.network);
        let hint = "delete it (DEL) before adding it to another network";
        return Err(Refusal::new(StatusCode::CONFLICT, message, hint, false));
    }
    if pending {
        // An earlier life of the same name has to end first: its release would take the new port.
        service.release_at_controller(&prepare.key).await.map_err(|reason| {
            let message = format!("the port's earlier life is not released yet: {reason}");
            let hint = "it is released when a controller is connected";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, hint, true)
        })?;
    }
    let key = prepare.key.clone();
    service.node.ask(move |node| node.begin(&key)).await.ok_or_else(Refusal::stopping)?;
    let asked = Instant::now();
    let made = service.ensure(&prepare).await.and_then(|made| {
        record(&prepare, &made).map_err(|what| {
            let message = format!("the controller's answer is not usable: {what}");
            let hint = "are controller and agent of the same release?";
            Refusal::new(StatusCode::BAD_GATEWAY, message, hint, false)
        })
    });
    let record = match made {
        Ok(record) => record,
        Err(refusal) => {
            // It may have made some of the objects, or may still be making them.
            let key = prepare.key.clone();
            service.node.ask(move |node| node.abandon(&key)).await;
            service.released.notify_one();
            return Err(refusal);
        }
    };
    let (key, took) = (prepare.key.clone(), asked.elapsed());
    let port = service
        .node
        .ask(move |node| {
            node.times.took(Step::Objects, took);
            node.register(vec![record]);
            describe(node, &key)
        })
        .await;
    port.flatten().map(axum::Json).ok_or_else(Refusal::stopping)
}

fn record(prepare: &Prepare, made: &EnsureReply) -> Result<PortRecord, String> {
    Ok(PortRecord {
        key: prepare.key.clone(),
        uuid: made.interface.parse().map_err(|_| format!("interface `{}`", made.interface))?,
        config: prepare.config.clone(),
        network: prepare.network.clone(),
        workload: prepare.workload.clone(),
        mac: made.mac.clone(),
        addresses: addresses(&made.addresses)?,
        ifindex: None,
        mtu: 0,
        pod: None,
        underlay: made.underlay,
    })
}

/// A controller's addresses.
pub(crate) fn addresses(
    given: &[skein_proto::ports::PortAddress],
) -> Result<Vec<PortAddress>, String> {
    let one = |address: &skein_proto::ports::PortAddress| {
        Ok(PortAddress {
            prefix: address.prefix.parse().map_err(|_| format!("address `{}`", address.prefix))?,
            gateway: match address.gateway.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| format!("gateway `{text}`"))?),
            },
        })
    };
    given.iter().map(one).collect()
}

pub(crate) fn describe(node: &mut crate::node::Node, key: &PortKey) -> Option<Port> {
    let record = node.ports.get(key)?;
    let active = node.problem(record).is_none();
    Some(record.port(node.link_limits(), active))
}

fn unknown(key: &PortKey) -> Refusal {
    let message = format!("no port {} of container {}", key.interface, key.container);
    Refusal::new(StatusCode::NOT_FOUND, message, "call prepare (CNI ADD) first", false)
}

async fn bind(State(service): State<PortService>, body: Bytes) -> Reply<Port> {
    let Bind { key, ifindex, mtu } = read(&body)?;
    let _guard = service.locks.lock(&key).await;
    let wanted = key.clone();
    let bound = service.node.ask(move |node| node.bind(&wanted, ifindex, mtu)).await;
    let (_, in_force) =
        bound.ok_or_else(Refusal::stopping)?.ok_or_else(|| unknown(&key))?.map_err(|reason| {
            let hint = "see the agent's log and `dmesg`";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, reason, hint, true)
        })?;
    let waited = tokio::time::timeout(BIND_TIMEOUT, in_force).await;
    let wanted = key.clone();
    let state = service.node.ask(move |node| {
        let problem = node.ports.get(&wanted).and_then(|record| node.not_yet(record));
        (describe(node, &wanted), problem)
    });
    match state.await.ok_or_else(Refusal::stopping)? {
        (Some(port), None) if waited.is_ok() => Ok(axum::Json(port)),
        (Some(_), problem) => {
            let why = problem.map_or_else(|| "no answer in time".into(), |why| why.to_string());
            let hint =
                "see `skein vrouter interfaces` and the controller's log; the call may be repeated";
            let message =
                format!("the port is not in force after {} s: {why}", BIND_TIMEOUT.as_secs());
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, hint, true))
        }
        (None, _) => Err(unknown(&key)),
    }
}

async fn release(State(service): State<PortService>, body: Bytes) -> Reply<Released> {
    let key: PortKey = read(&body)?;
    let _guard = service.locks.lock(&key).await;
    release_all(&service, vec![key]).await
}

async fn release_all(service: &PortService, keys: Vec<PortKey>) -> Reply<Released> {
    let released = service.node.ask(move |node| {
        let limits = node.link_limits();
        let gone = keys.iter().filter_map(|key| node.release(key));
        gone.map(|record| record.port(limits, false)).collect::<Vec<_>>()
    });
    let ports = released.await.ok_or_else(Refusal::stopping)?;
    service.released.notify_one();
    Ok(axum::Json(Released { ports }))
}

async fn gc(State(service): State<PortService>, body: Bytes) -> Reply<Released> {
    let Gc { config, keep } = read(&body)?;
    let stale = service.node.ask(move |node| {
        let of_config = node.ports.values().filter(|record| record.config == config);
        // The runtime names a pod's ports by the first one.
        let kept = |record: &PortRecord| match record.pod {
            Some(_) => keep.iter().any(|key| key.container == record.key.container),
            None => keep.contains(&record.key),
        };
        let stale = of_config.filter(|record| !kept(record));
        stale.map(|record| record.key.clone()).collect::<Vec<_>>()
    });
    let stale = stale.await.ok_or_else(Refusal::stopping)?;
    release_all(&service, stale).await
}

async fn check(State(service): State<PortService>, body: Bytes) -> Reply<Port> {
    let key: PortKey = read(&body)?;
    let wanted = key.clone();
    let state = service.node.ask(move |node| {
        let problem = node.ports.get(&wanted).and_then(|record| node.problem(record));
        (describe(node, &wanted), problem)
    });
    match state.await.ok_or_else(Refusal::stopping)? {
        (Some(port), None) => Ok(axum::Json(port)),
        (Some(_), Some(problem)) => {
            let message = format!("the port does not forward: {problem}");
            let hint = "see `skein vrouter interfaces`";
            Err(Refusal::new(StatusCode::CONFLICT, message, hint, false))
        }
        (None, _) => Err(unknown(&key)),
    }
}

async fn list(State(service): State<PortService>) -> Reply<Vec<Port>> {
    let ports = service.node.ask(|node| {
        let keys: Vec<PortKey> = node.ports.keys().cloned().collect();
        keys.iter().filter_map(|key| describe(node, key)).collect::<Vec<_>>()
    });
    ports.await.map(axum::Json).ok_or_else(Refusal::stopping)
}

/// The answer of `status`.
#[derive(Serialize)]
pub(crate) struct Ready {
    ready: bool,
}

pub(crate) async fn status(State(service): State<PortService>) -> Reply<Ready> {
    let problem = service.node.ask(|node| not_ready(node)).await.ok_or_else(Refusal::stopping)?;
    match problem {
        None => Ok(axum::Json(Ready { ready: true })),
        Some(reason) => {
            let hint = "existing workloads keep their network; see `skein status`";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason, hint, true))
        }
    }
}

/// Why a new port could not be made now.
pub(crate) fn not_ready(node: &crate::node::Node) -> Option<String> {
    if let Some(failure) = &node.apply_failure {
        return Some(format!("the kernel refuses changes: {failure}"));
    }
    if !node.core.is_fresh() {
        return Some("no controller is connected and has sent everything".into());
    }
    None
}
