//! A controller in a cluster tells its own nodes and managers how to join, by Secrets in its namespace: nobody has to
//! copy certificates around.

use super::run::{ManagerError, kubernetes};
use crate::config::Kubernetes;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, Patch, PatchParams};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;
use tracing::{info, warn};

/// The Secret that agents read: `join` (the join string) and `controllers`.
pub(super) const JOIN_SECRET: &str = "skein-join";
/// The Secret that clients of the configuration API read: `api`, `ca.pem`, `client.pem` and `client.key`.
pub(super) const CLIENT_SECRET: &str = "skein-client";

/// How often the Secrets are put right, should someone have changed them or a certificate be new.
const AGAIN: Duration = Duration::from_secs(300);
/// Wait after a failure: the API server may come later than this controller.
const RETRY: Duration = Duration::from_secs(5);

/// What to tell, and where.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Namespace of the Secrets.
    pub namespace: String,
    /// How to reach Kubernetes.
    pub kubernetes: Kubernetes,
    /// The controller's certificates.
    pub pki: PathBuf,
    /// Where agents connect, `HOST:PORT`.
    pub agents: String,
    /// The configuration API, `https://HOST:PORT`.
    pub api: String,
}

/// Keeps the Secrets until the task is dropped.
///
/// # Errors
/// It is not known how to reach Kubernetes. Whatever fails later is tried again.
pub async fn publish(publication: Publication) -> Result<(), ManagerError> {
    let client = kubernetes(&publication.kubernetes).await?;
    let secrets: Api<Secret> = Api::namespaced(client, &publication.namespace);
    let mut told = false;
    loop {
        match write(&secrets, &publication).await {
            Ok(()) => {
                if !told {
                    info!(namespace = publication.namespace, "how to join is in Secrets");
                    told = true;
                }
                tokio::time::sleep(AGAIN).await;
            }
            Err(reason) => {
                warn!(reason, "the Secrets for agents and managers are not written; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn write(secrets: &Api<Secret>, publication: &Publication) -> Result<(), String> {
    let file = |name: &str| {
        let path = publication.pki.join(name);
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let text = |text: &str| text.as_bytes().to_vec();
    let join = vec![
        // The line's end is no part of it.
        ("join", file("join-token")?.trim_ascii().to_vec()),
        ("controllers", text(&publication.agents)),
    ];
    let client = vec![
        ("api", text(&publication.api)),
        ("ca.pem", file("ca.pem")?),
        ("client.pem", file("client.pem")?),
        ("client.key", file("client.key")?),
    ];
    for (name, entries) in [(JOIN_SECRET, join), (CLIENT_SECRET, client)] {
        let data: BTreeMap<String, ByteString> =
            entries.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect();
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some(data),
            ..Secret::default()
        };
        let parameters = PatchParams::apply("skein-controller").force();
        let patched = secrets.patch(name, &parameters, &Patch::Apply(&secret)).await;
        patched.map_err(|error| format!("Secret {name}: {error}"))?;
    }
    Ok(())
}
