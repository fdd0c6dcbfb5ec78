//! TLS secrets by name, for whoever serves with them: only those that are asked for are read, one watch each, so that a
//! role bound to their names is enough. Their content is kept nowhere and shown to nobody.

use crate::config::Kubernetes;
use crate::shell;
use crate::shell::ManagerError;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
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
                    say(Err("it cannot be read; see the log, and the role of this service".into()));
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

fn read(secret: &Secret) -> Result<TlsSecret, String> {
    let part = |key: &str| -> Result<String, String> {
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let bytes = bytes.ok_or_else(|| format!("the secret has no {key}"))?;
        String::from_utf8(bytes.0.clone()).map_err(|_| format!("{key} of the secret is not text"))
    };
    Ok(TlsSecret { certificates: part("tls.crt")?, key: part("tls.key")? })
}
