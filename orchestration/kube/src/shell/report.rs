//! What Kubernetes is told: Events and status. Nothing of it is lost while the API server is away.

use super::cluster_event::{self, OF_CLUSTER};
use super::discovery;
use super::run::Shared;
use crate::core::Notice;
use crate::derive::STAGED;
use crate::desired::{Patch, shortened};
use crate::key::Key;
use crate::objects::Resource;
use crate::tellings::{Telling, Tellings, Told};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::{Api, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType, Reporter};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tracing::{debug, info, warn};
use uuid::Uuid;

/// How long the API server may take for one thing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the loop leaves what is to be told.
#[derive(Debug)]
pub(super) struct Outbox {
    tellings: Mutex<Tellings>,
    news: Notify,
    start: Instant,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { tellings: Mutex::default(), news: Notify::new(), start: Instant::now() }
    }
}

impl Outbox {
    pub(super) fn put(&self, told: Told) {
        self.tellings.lock().put(told, self.start.elapsed());
        self.news.notify_one();
    }

    /// How many things were not told yet.
    pub(super) fn waiting(&self) -> usize {
        self.tellings.lock().len()
    }

    /// The next thing to tell, once there is one.
    async fn next(&self) -> Telling {
        loop {
            let now = self.start.elapsed();
            let (telling, next) = {
                let mut tellings = self.tellings.lock();
                (tellings.take(now), tellings.next())
            };
            if let Some(telling) = telling {
                return telling;
            }
            let pause = next.map_or(Duration::from_secs(3600), |at| at.saturating_sub(now));
            tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn again(&self, telling: Telling) -> bool {
        self.tellings.lock().again(telling, self.start.elapsed())
    }
}

/// Why something was not told.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Kubernetes(#[from] kube::Error),
    #[error("its type is not served")]
    NotServed,
    #[error("the API server takes too long")]
    Slow,
}

impl Failure {
    fn code(&self) -> Option<u16> {
        match self {
            Failure::Kubernetes(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
    }

    /// Whether it may go well later.
    fn passes(&self) -> bool {
        match self {
            // 401: a token that is renewed. 403: an API server that starts does not know rights at first.
            Failure::Kubernetes(kube::Error::Api(status)) => {
                status.code >= 500 || matches!(status.code, 401 | 403 | 408 | 429)
            }
            Failure::Kubernetes(kube::Error::SerdeError(_) | kube::Error::BuildRequest(_)) => false,
            _ => true,
        }
    }
}

/// Tells Kubernetes, one thing after the other, for as long as it is so.
pub(super) async fn tell(client: Client, identity: String, shared: Arc<Shared>) {
    let reporter = Reporter { controller: "skein-kube-manager".into(), instance: Some(identity) };
    let mut teller = Teller { client, reporter, types: HashMap::new() };
    let mut leading = shared.leading.clone();
    loop {
        // Another one tells meanwhile. Without an API server nobody leads, and what was found stays to be told.
        if leading.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        let telling = tokio::select! {
            telling = shared.outbox.next() => telling,
            Ok(_) = leading.wait_for(|leads| !*leads) => continue,
        };
        if !shared.core.lock().wants(&telling.told) {
            continue;
        }
        let (key, what) = match &telling.told {
            Told::Notice(notice, _) => (notice.key.clone(), "an Event"),
            Told::Patches(key, _) => (key.clone(), "its status"),
        };
        let sent = tokio::time::timeout(PATIENCE, teller.send(&telling)).await;
        let Err(error) = sent.unwrap_or(Err(Failure::Slow)) else { continue };
        let first = telling.failures == 0;
        // The object may be gone, or its type is served in another version now.
        let moved = error.code() == Some(404) && first;
        if (error.passes() || moved) && shared.outbox.again(telling) {
            if first && !moved {
                warn!(%error, object = %key, "{what} was not written; trying again");
            }
        } else if error.code() == Some(404) {
            debug!(%error, object = %key, "{what} was not written");
        } else {
            warn!(%error, object = %key, "{what} was not written");
        }
    }
}

struct Teller {
    client: Client,
    reporter: Reporter,
    types: HashMap<Resource, ApiResource>,
}

impl Teller {
    async fn send(&mut self, telling: &Telling) -> Result<(), Failure> {
        match &telling.told {
            Told::Notice(notice, uid) => {
                let is_staged = notice.problem.reason == STAGED;
                if telling.failures > 0 {
                } else if is_staged {
                    info!(object = %notice.key, "{}", notice.problem.message);
                } else {
                    warn!(object = %notice.key, reason = notice.problem.reason, "{}", notice.problem.message);
                }
                self.event(notice, *uid, is_staged).await
            }
            Told::Patches(_, patches) => {
                for patch in patches {
                    self.apply(patch).await?;
                }
                Ok(())
            }
        }
    }

    async fn event(
        &mut self,
        notice: &Notice,
        uid: Option<Uuid>,
        is_staged: bool,
    ) -> Result<(), Failure> {
        // The cluster itself is no object of Kubernetes.
        let Some(resource) = notice.key.resource() else { return Ok(()) };
        let served = self.served(resource).await?;
        let event = Event {
            // What a staged policy would do is what its writer waits for, and no fault.
            type_: if is_staged { EventType::Normal } else { EventType::Warning },
            reason: notice.problem.reason.to_owned(),
            note: Some(shortened(&notice.problem.message)),
            action: "Translate".into(),
            secondary: None,
        };
        let regarding = reference(&served, resource, &notice.key, uid);
        let namespace = [notice.key.namespace.as_ref()];
        let places: &[&str] = if is_namespaced(resource) { &namespace } else { &OF_CLUSTER };
        // One Event for each message: a recorder of client libraries would count a second problem with the same reason as a
        // repetition of the first, and never show its words.
        cluster_event::publish(&self.client, &self.reporter, &event, regarding, places).await?;
        Ok(())
    }

    async fn served(&mut self, resource: Resource) -> Result<ApiResource, Failure> {
        if let Some(known) = self.types.get(&resource) {
            return Ok(known.clone());
        }
        let found = discovery::find(&self.client, resource).await?.ok_or(Failure::NotServed)?;
        self.types.insert(resource, found.clone());
        Ok(found)
    }

    async fn apply(&mut self, patch: &Patch) -> Result<(), Failure> {
        let Some(resource) = patch.key.resource() else { return Ok(()) };
        let served = self.served(resource).await?;
        let api: Api<DynamicObject> = if is_namespaced(resource) {
            Api::namespaced_with(self.client.clone(), &patch.key.namespace, &served)
        } else {
            Api::all_with(self.client.clone(), &served)
        };
        let (name, body) = (&patch.key.name, dated(patch.body.clone(), Timestamp::now()));
        let body = if patch.status && resource == Resource::Pod {
            kube::api::Patch::Strategic(&body)
        } else {
            kube::api::Patch::Merge(&body)
        };
        let parameters = PatchParams::default();
        let written = if patch.status {
            api.patch_status(name, &parameters, &body).await.map(drop)
        } else {
            api.patch(name, &parameters, &body).await.map(drop)
        };
        let written = written.map_err(Failure::from);
        if written.as_ref().is_err_and(|error| error.code() == Some(404)) {
            self.types.remove(&resource);
        }
        written
    }
}

fn reference(
    served: &ApiResource,
    resource: Resource,
    key: &Key,
    uid: Option<Uuid>,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(served.api_version.clone()),
        kind: Some(served.kind.clone()),
        name: Some(key.name.to_string()),
        // Events about objects without a namespace belong into `default`. It is said here, too: API servers of 1.20
        // refuse one that is said in one place only.
        namespace: Some(if is_namespaced(resource) {
            key.namespace.to_string()
        } else {
            "default".into()
        }),
        uid: uid.map(|uid| uid.to_string()),
        ..ObjectReference::default()
    }
}

fn is_namespaced(resource: Resource) -> bool {
    matches!(
        resource,
        Resource::Pod
            | Resource::Service
            | Resource::Ingress
            | Resource::NetworkPolicy
            | Resource::MultiNetworkPolicy
            | Resource::Nad
            | Resource::VirtualNetwork
    )
}

/// Conditions that change by a patch have no time yet.
fn dated(mut body: Value, now: Timestamp) -> Value {
    let conditions = body.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if let Some(time) = condition.get_mut("lastTransitionTime").filter(|time| time.is_null()) {
            *time = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into();
        }
    }
    body
}
