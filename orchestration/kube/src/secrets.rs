//! TLS secrets by name, for whoever serves with them: only those that are asked for are read, one watch each, so that a
//! role bound to their names is enough. Their content is kept nowhere and shown to nobody. What cannot be used is told by
//! Events on the Ingresses that name it.

use crate::config::Kubernetes;
use crate::shell;
use crate::shell::{ManagerError, cluster_event};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::events::{Event as Told, EventType, Reporter};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{info, warn};

/// Namespace and name.
pub type SecretName = (String, String);

/// Certificates and private key of a secret of type `kubernetes.io/tls`.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsSecret {
    /// `tls.crt`.
    pub certificates: String,
    /// `tls.key`.
    pub key: String,
}

impl fmt::Debug for TlsSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsSecret(..)")
    }
}

/// What was found, or why it is not usable. A name that is absent has not been answered yet.
pub type FoundSecrets = BTreeMap<SecretName, Result<TlsSecret, String>>;

/// Follows the wanted secrets until nobody wants to know any more. Returns when the connection is set up.
///
/// # Errors
/// It is not known how to reach Kubernetes.
pub async fn follow(
    settings: &Kubernetes,
    wanted: watch::Receiver<BTreeSet<SecretName>>,
    found: watch::Sender<FoundSecrets>,
) -> Result<(), ManagerError> {
    let client = shell::kubernetes(settings).await?;
    tokio::spawn(keep(client, wanted, found));
    Ok(())
}

/// Has one task for every wanted name.
async fn keep(
    client: Client,
    mut wanted: watch::Receiver<BTreeSet<SecretName>>,
    found: watch::Sender<FoundSecrets>,
) {
    let mut tasks = BTreeMap::new();
    loop {
        let names = wanted.borrow_and_update().clone();
        tasks.retain(|name, task: &mut tokio::task::JoinHandle<()>| {
            let keep = names.contains(name);
            if !keep {
                task.abort();
                found.send_modify(|found| drop(found.remove(name)));
            }
            keep
        });
        for name in names {
            tasks
                .entry(name.clone())
                .or_insert_with(|| tokio::spawn(one(client.clone(), name, found.clone())));
        }
        if wanted.changed().await.is_err() {
            tasks.values().for_each(tokio::task::JoinHandle::abort);
            return;
        }
    }
}

/// Follows one secret.
async fn one(client: Client, name: SecretName, found: watch::Sender<FoundSecrets>) {
    let say = |what: Result<TlsSecret, String>| {
        found.send_if_modified(|all| {
            let differs = all.get(&name) != Some(&what);
            all.insert(name.clone(), what);
            differs
        });
    };
    let api: Api<Secret> = Api::namespaced(client, &name.0);
    // List and watch of one name: RBAC's `resourceNames` allows exactly that.
    let config = watcher::Config::default().fields(&format!("metadata.name={}", name.1));
    let mut stream = watcher(api, config).default_backoff().boxed();
    let mut listed = false;
    let mut failing = false;
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => listed = false,
            Ok(Event::InitApply(secret) | Event::Apply(secret)) => {
                listed = true;
                say(read(&secret));
            }
            Ok(Event::InitDone) if listed => {}
            Ok(Event::InitDone | Event::Delete(_)) => {
                say(Err(format!("there is no secret {} in namespace {}", name.1, name.0)));
            }
            Err(error) => {
                if !failing {
                    warn!(namespace = name.0, secret = name.1, %error, "a secret cannot be read; trying again");
                }
                failing = true;
                // What was read stays in force while the API server is away.
                if !matches!(found.borrow().get(&name), Some(Ok(_))) {
                    say(Err(unreadable(&name, &error)));
                }
                continue;
            }
        }
        if failing {
            info!(namespace = name.0, secret = name.1, "the secret can be read again");
            failing = false;
        }
    }
}

fn unreadable((namespace, name): &SecretName, error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if matches!(status.code, 401 | 403) =>
        {
            format!(
                "{namespace}/{name} may not be read; bind the ClusterRole skein-ingress-secrets in namespace \
                 {namespace} to the load balancers' account"
            )
        }
        _ => "it cannot be read; see the log of this service".into(),
    }
}

/// What to tell the users of an Ingress.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub ingress: String,
    /// Its uid.
    pub uid: String,
    /// What is wrong.
    pub text: String,
}

/// How long until what could not be told is told again.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// Tells each complaint once, for as long as it is one, until nobody complains any more. Returns when the connection is set up.
/// `node` says who tells.
///
/// # Errors
/// It is not known how to reach Kubernetes.
pub async fn tell(
    settings: &Kubernetes,
    node: &str,
    mut complaints: watch::Receiver<BTreeSet<Complaint>>,
) -> Result<(), ManagerError> {
    let client = shell::kubernetes(settings).await?;
    let reporter =
        Reporter { controller: "skein-loadbalancer".into(), instance: Some(node.to_owned()) };
    tokio::spawn(async move {
        let mut told = BTreeSet::new();
        loop {
            let now = complaints.borrow_and_update().clone();
            told.retain(|one| now.contains(one));
            let mut all_told = true;
            for one in now {
                if told.contains(&one) {
                    continue;
                }
                match publish(&client, &reporter, &one).await {
                    Ok(()) => drop(told.insert(one)),
                    Err(error) => {
                        warn!(namespace = one.namespace, ingress = one.ingress, %error, "an Event was not written");
                        all_told = false;
                    }
                }
            }
            let pause = if all_told { Duration::MAX } else { TELL_AGAIN };
            if let Ok(Err(_)) = tokio::time::timeout(pause, complaints.changed()).await {
                return;
            }
        }
    });
    Ok(())
}

async fn publish(
    client: &Client,
    reporter: &Reporter,
    complaint: &Complaint,
) -> Result<(), kube::Error> {
    let event = Told {
        type_: EventType::Warning,
        reason: "BadCertificate".into(),
        note: Some(complaint.text.chars().take(900).collect()),
        action: "Serve".into(),
        secondary: None,
    };
    let regarding = ObjectReference {
        api_version: Some("networking.k8s.io/v1".into()),
        kind: Some("Ingress".into()),
        name: Some(complaint.ingress.clone()),
        namespace: Some(complaint.namespace.clone()),
        uid: Some(complaint.uid.clone()),
        ..ObjectReference::default()
    };
    cluster_event::publish(client, reporter, &event, regarding, &[&complaint.namespace]).await
}

fn read(secret: &Secret) -> Result<TlsSecret, String> {
    let part = |key: &str| -> Result<String, String> {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let bytes = bytes.ok_or_else(|| format!("the secret has no {key}"))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| format!("{key} of the secret is not text"))
    };
    Ok(TlsSecret { certificates: part("tls.crt")?, key: part("tls.key")? })
}
