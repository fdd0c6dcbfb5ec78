//! What Kubernetes is told: Events and status.

use super::cluster_event::{self, OF_CLUSTER};
use super::discovery;
use crate::core::Notice;
use crate::derive::STAGED;
use crate::desired::Patch;
use crate::key::Key;
use crate::objects::Resource;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::api::{Api, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use std::collections::HashMap;
use tokio::sync::mpsc::Receiver;
use tracing::{debug, info, warn};
use uuid::Uuid;

/// Objects whose last notes are remembered.
const REMEMBERED: usize = 4096;
/// Longest note that an Event may carry, in bytes.
const NOTE: usize = 1000;

/// Something to tell.
#[derive(Debug)]
pub(super) enum Told {
    /// An Event on an object with this uid.
    Notice(Notice, Option<Uuid>),
    /// A change of an object.
    Patch(Patch),
}

/// Tells Kubernetes, one thing after the other. What fails is told again by the next look at its owner.
pub(super) async fn tell(client: Client, identity: String, mut queue: Receiver<Told>) {
    let reporter = Reporter { controller: "skein-kube-manager".into(), instance: Some(identity) };
    let recorder = Recorder::new(client.clone(), reporter.clone());
    let mut types: HashMap<Resource, ApiResource> = HashMap::new();
    let mut notes: HashMap<(Key, &'static str), String> = HashMap::new();
    while let Some(told) = queue.recv().await {
        let key = match &told {
            Told::Notice(notice, _) => &notice.key,
            Told::Patch(patch) => &patch.key,
        };
        let Some(served) = served(&client, &mut types, key).await else { continue };
        match told {
            Told::Notice(notice, uid) => {
                let is_staged = notice.problem.reason == STAGED;
                if is_staged {
                    info!(object = %notice.key, "{}", notice.problem.message);
                } else {
                    warn!(object = %notice.key, reason = notice.problem.reason, "{}", notice.problem.message);
                }
                let event = Event {
                    // What a staged policy would do is what its writer waits for, and no fault.
                    type_: if is_staged { EventType::Normal } else { EventType::Warning },
                    reason: notice.problem.reason.to_owned(),
                    note: Some(shortened(&notice.problem.message)),
                    action: "Translate".into(),
                    secondary: None,
                };
                let regarding = reference(&served, &notice.key, uid);
                if notes.len() >= REMEMBERED {
                    notes.clear();
                }
                let told = (notice.key.clone(), notice.problem.reason);
                let before = notes.insert(told, notice.problem.message.clone());
                let other_words = before.is_some_and(|before| before != notice.problem.message);
                // Those about objects without a namespace the recorder would put where they are refused, and of those with the
                // same reason it writes the first one's words alone.
                let written = match regarding.namespace.clone() {
                    None => {
                        cluster_event::publish(&client, &reporter, &event, regarding, &OF_CLUSTER)
                            .await
                    }
                    Some(namespace) if other_words => {
                        let namespaces = [namespace.as_str()];
                        cluster_event::publish(&client, &reporter, &event, regarding, &namespaces)
                            .await
                    }
                    Some(_) => recorder.publish(&event, &regarding).await,
                };
                if let Err(error) = written {
                    warn!(%error, object = %notice.key, "an Event was not written");
                }
            }
            Told::Patch(patch) => {
                if let Err(error) = apply(&client, &served, &patch).await {
                    // It may be gone by now, which the informer will say.
                    debug!(%error, object = %patch.key, "not written");
                }
            }
        }
    }
}

async fn served(
    client: &Client,
    types: &mut HashMap<Resource, ApiResource>,
    key: &Key,
) -> Option<ApiResource> {
    let resource = key.resource()?;
    if let Some(known) = types.get(&resource) {
        return Some(known.clone());
    }
    let found = discovery::find(client, resource).await.ok().flatten()?;
    types.insert(resource, found.clone());
    Some(found)
}

fn reference(served: &ApiResource, key: &Key, uid: Option<Uuid>) -> ObjectReference {
    let namespaced = !key.namespace.is_empty() && key.resource().is_some_and(is_namespaced);
    ObjectReference {
        api_version: Some(served.api_version.clone()),
        kind: Some(served.kind.clone()),
        name: Some(key.name.to_string()),
        // Events about objects without a namespace belong into `default`. It is said here, too: API servers of 1.20
        // refuse one that is said in one place only.
        namespace: Some(if namespaced { key.namespace.to_string() } else { "default".into() }),
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

fn shortened(text: &str) -> String {
    let end =
        text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= NOTE).last();
    text[..end.unwrap_or(0)].to_owned()
}

async fn apply(client: &Client, served: &ApiResource, patch: &Patch) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> = if patch.key.resource().is_some_and(is_namespaced) {
        Api::namespaced_with(client.clone(), &patch.key.namespace, served)
    } else {
        Api::all_with(client.clone(), served)
    };
    let (name, body) = (&patch.key.name, kube::api::Patch::Merge(&patch.body));
    let parameters = PatchParams::default();
    if patch.status {
        api.patch_status(name, &parameters, &body).await.map(drop)
    } else {
        api.patch(name, &parameters, &body).await.map(drop)
    }
}
