//! Lists and watches of Kubernetes, one a type. Objects are made small before anyone keeps them.

use super::discovery;
use super::run::Shared;
use super::watches::{Listing, Watches};
use crate::cache::Place;
use crate::objects::{KubeObject, Resource};
use futures_util::StreamExt as _;
use kube::Client;
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tracing::{debug, info, warn};

/// How long until a type that is not served is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How long after a type was not served any more.
const AFTER_THE_END: Duration = Duration::from_secs(1);

/// What an informer tells.
#[derive(Debug)]
pub(super) enum News {
    /// New or changed.
    Put(Box<KubeObject>),
    /// Gone.
    Delete(Box<KubeObject>),
    /// Everything was listed: exactly these are there.
    Listed(Resource, HashSet<Place>),
}

/// Starts an informer for every type. Types that the API server does not know count as listed and are looked for now
/// and then, since definitions may come later.
pub(super) fn start(client: &Client, news: &Sender<News>, shared: &Arc<Shared>) {
    for resource in Resource::ALL {
        // Slices where there are slices, else the older form: the task of the slices decides.
        if resource != Resource::Endpoints {
            tokio::spawn(follow(client.clone(), resource, news.clone(), shared.clone()));
        }
    }
}

/// Follows a type for as long as anyone wants to know, in the version that is served: an API server may be another one
/// after its restart.
async fn follow(client: Client, resource: Resource, news: Sender<News>, shared: Arc<Shared>) {
    let mut told = false;
    let mut why = Listing::Start;
    loop {
        let Some((resource, served)) = look_for(&client, resource, &news, &mut told).await else {
            return;
        };
        info!(kind = resource.kind(), version = served.api_version, "following");
        match watch(client.clone(), resource, &served, &news, (&shared.watches, why)).await {
            End::NotServed => {}
            End::Unwanted => return,
        }
        // What was seen last stays until it is listed again: while an API server starts, it may not know all its types.
        told = true;
        why = Listing::Rediscovered;
        info!(kind = resource.kind(), version = served.api_version, "not served any more");
        tokio::time::sleep(AFTER_THE_END).await;
    }
}

/// Waits until a type is served, in whatever version, or the older type in its place.
async fn look_for(
    client: &Client,
    mut resource: Resource,
    news: &Sender<News>,
    told: &mut bool,
) -> Option<(Resource, ApiResource)> {
    loop {
        match discovery::find(client, resource).await {
            Ok(Some(served)) => return Some((resource, served)),
            Ok(None) if resource == Resource::EndpointSlice => {
                resource = Resource::Endpoints;
                continue;
            }
            Ok(None) => {
                if !*told {
                    debug!(kind = resource.kind(), "not served by this cluster");
                    *told = true;
                    news.send(News::Listed(resource, HashSet::new())).await.ok()?;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            Err(error) => {
                warn!(kind = resource.kind(), %error, "Kubernetes cannot be asked; trying again");
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        }
    }
}

/// Why a type is not watched any more.
enum End {
    /// The API server does not know it, or not in this version.
    NotServed,
    /// Nobody wants to know.
    Unwanted,
}

/// Whether the API server does not know what was asked for.
fn is_unknown(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) =
        error
    else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the API server does not remember how things were when the watch was interrupted.
fn is_expired(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchError(status) if status.code == 410)
}

async fn watch(
    client: Client,
    resource: Resource,
    served: &ApiResource,
    news: &Sender<News>,
    (watches, mut why): (&Watches, Listing),
) -> End {
    let api: Api<DynamicObject> = Api::all_with(client, served);
    // The stream lists, watches, and lists again after a 410, with growing waits after errors.
    let mut stream = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut seen: HashSet<Place> = HashSet::new();
    let mut failing = false;
    while let Some(event) = stream.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) if is_unknown(&error) => return End::NotServed,
            Err(error) => {
                watches.interrupted(resource.kind());
                if is_expired(&error) {
                    why = Listing::Expired;
                }
                if !failing {
                    warn!(kind = resource.kind(), %error, "watch is interrupted; trying again");
                    failing = true;
                }
                continue;
            }
        };
        if failing && !matches!(event, Event::Init) {
            info!(kind = resource.kind(), "watch works again");
            failing = false;
        }
        let (object, gone) = match event {
            Event::Init => {
                seen.clear();
                watches.listed(resource.kind(), why);
                continue;
            }
            Event::InitDone => {
                if news.send(News::Listed(resource, std::mem::take(&mut seen))).await.is_err() {
                    return End::Unwanted;
                }
                continue;
            }
            Event::InitApply(object) => {
                let meta = &object.metadata;
                let text = |part: &Option<String>| part.as_deref().unwrap_or_default().into();
                seen.insert((text(&meta.namespace), text(&meta.name)));
                (object, false)
            }
            Event::Apply(object) => (object, false),
            Event::Delete(object) => (object, true),
        };
        let small = match KubeObject::read(resource, object) {
            Ok(small) => Box::new(small),
            Err(error) => {
                warn!(%error, "a Kubernetes object is left out");
                continue;
            }
        };
        let told = if gone { News::Delete(small) } else { News::Put(small) };
        if news.send(told).await.is_err() {
            return End::Unwanted;
        }
    }
    // A watch of kube's has no end.
    End::NotServed
}
