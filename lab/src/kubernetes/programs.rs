//! Where the programs of Kubernetes and of the node are.

use super::ClusterError;
use crate::require;
use std::path::{Path, PathBuf};

/// Names the folder with the programs, by the convention of Kubernetes' own test tools.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// The programs of a cluster.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The API server.
    pub api_server: PathBuf,
    /// The controller manager.
    pub controller_manager: PathBuf,
    /// The scheduler.
    pub scheduler: PathBuf,
    /// The node's agent of Kubernetes.
    pub kubelet: PathBuf,
    /// The command line.
    pub kubectl: PathBuf,
    /// The store of the API server.
    pub etcd: PathBuf,
    /// The container runtime.
    pub containerd: PathBuf,
    /// Its command line.
    pub ctr: PathBuf,
}

impl Programs {
    /// Looks in the folder that `KUBEBUILDER_ASSETS` names, then where programs are installed, then
    /// where `scripts/kubernetes` puts what it builds. An API server that it built instead of one that does not
    /// survive custom resources goes first.
    ///
    /// # Errors
    /// [`ClusterError::NoKubernetes`], or a missing package.
    pub fn find() -> Result<Programs, ClusterError> {
        let etcd = match kubernetes("etcd") {
            Ok(path) => path,
            Err(_) => require("etcd", "etcd-server")?,
        };
        // Programs that are started by these.
        require("runc", "runc")?;
        require("iptables", "iptables")?;
        require("loopback", "containernetworking-plugins")?;
        Ok(Programs {
            api_server: match built("instead/kube-apiserver") {
                path if path.is_file() => path,
                _ => kubernetes("kube-apiserver")?,
            },
            controller_manager: kubernetes("kube-controller-manager")?,
            scheduler: kubernetes("kube-scheduler")?,
            kubelet: kubernetes("kubelet")?,
            kubectl: kubernetes("kubectl")?,
            etcd,
            containerd: require("containerd", "containerd")?,
            ctr: require("ctr", "containerd")?,
        })
    }

    /// Kubernetes' service proxy, which no cluster of ours needs: a neighbour, and a peer to measure beside.
    ///
    /// # Errors
    /// [`ClusterError::NoKubernetes`].
    pub fn kube_proxy() -> Result<PathBuf, ClusterError> {
        kubernetes("kube-proxy")
    }
}

/// A program of Kubernetes: the first of its name.
fn kubernetes(program: &'static str) -> Result<PathBuf, ClusterError> {
    let searched = folders();
    let found = searched.iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or(ClusterError::NoKubernetes { program, searched })
}

fn folders() -> Vec<PathBuf> {
    let assets = std::env::var_os(ASSETS).filter(|value| !value.is_empty()).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    assets
        .into_iter()
        .chain(std::env::split_paths(&path))
        .chain([PathBuf::from("/usr/local/bin"), built("bin")])
        .collect()
}

/// Where `scripts/kubernetes` builds.
fn built(what: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kubernetes").join(what)
}
