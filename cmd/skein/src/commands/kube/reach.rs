//! The way to Skein's pages: by the addresses that are given, else by kubectl's port forwarding to the pods of an
//! installation in the cluster.

use super::Cluster;
use super::kubectl::{Forward, Kubectl};
use crate::api::Api;
use crate::cli::Global;
use crate::error::Error;
use crate::http::Endpoint;
use serde_json::Value;

/// Name of the controller's workload.
const CONTROLLER: &str = "statefulset/skein-controller";
/// Which pods are managers.
const MANAGERS: &str = "app.kubernetes.io/name=skein-kube-manager";

/// Controller and configuration API, reachable while this lives.
pub(super) struct Reach {
    pub(super) api: Api,
    pub(super) controller: Endpoint,
    _forward: Option<Forward>,
}

impl Reach {
    pub(super) async fn open(
        global: &Global,
        cluster: &Cluster,
        kubectl: &Kubectl,
    ) -> Result<Reach, Error> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        match (given(&global.api), given(&global.controller)) {
            (None, None) => {
                let namespace = &cluster.skein_namespace;
                let ports = [8082, 8083];
                let forward =
                    kubectl.forward(namespace, CONTROLLER, &ports).await.map_err(no_way)?;
                let address = |at: usize| forward.addresses.get(at).cloned().unwrap_or_default();
                Ok(Reach {
                    api: Api::new(&address(0), &global.tls(), global.timeout)?,
                    controller: global.controller_at(&address(1))?,
                    _forward: Some(forward),
                })
            }
            _ => Ok(Reach { api: global.api()?, controller: global.controller()?, _forward: None }),
        }
    }
}

fn no_way(error: Error) -> Error {
    match error {
        Error::Kubectl { call, reason } => Error::NotFound(
            format!("no controller of Skein in the cluster: kubectl {call}: {reason}"),
            "say by --skein-namespace where it is installed, or by --api and --controller where a \
             controller outside of the cluster is"
                .into(),
        ),
        other => other,
    }
}

/// A manager's status page.
pub(super) struct Manager {
    /// Its pod, or where it is.
    pub(super) name: String,
    pub(super) status: Result<Value, Error>,
}

/// What the managers say: the one that is given, else every pod's.
pub(super) async fn managers(
    global: &Global,
    cluster: &Cluster,
    kubectl: &Kubectl,
) -> Result<Vec<Manager>, Error> {
    let next = "is it running? --manager or SKEIN_KUBE_MANAGER gives another address";
    let endpoint =
        |address: &str| Endpoint::new("Kubernetes manager", address, 8108, global.timeout, next);
    if let Some(address) = cluster.manager.as_ref().filter(|address| !address.is_empty()) {
        let status = endpoint(address)?.get("/v1/status", &[]).await;
        return Ok(vec![Manager { name: address.clone(), status }]);
    }
    let namespace = &cluster.skein_namespace;
    let pods = kubectl.list(&["get", "pods", "-n", namespace, "-l", MANAGERS]).await?;
    let mut all = Vec::new();
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let status = match kubectl.forward(namespace, &format!("pod/{name}"), &[8108]).await {
            Ok(forward) => {
                let address = forward.addresses.first().cloned().unwrap_or_default();
                endpoint(&address)?.get("/v1/status", &[]).await
            }
            Err(error) => Err(error),
        };
        all.push(Manager { name, status });
    }
    Ok(all)
}
