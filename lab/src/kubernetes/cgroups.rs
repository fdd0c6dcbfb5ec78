//! A cgroup for every node, so that kubelets on one machine do not take each other's pods for orphans.

use super::ClusterError;
use crate::{LabError, wait_for};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const TREE: &str = "/sys/fs/cgroup";
/// Processes of a node that was ended get this long to be gone: a patience, as those of many pods end at the same time.
const DEATH: Duration = Duration::from_secs(60);

/// The hierarchies: with cgroup v1 one a controller, and `unified` with none beside them; with v2 the only one.
fn hierarchies() -> Vec<PathBuf> {
    let tree = Path::new(TREE);
    if is_version_2() {
        return vec![tree.to_owned()];
    }
    let mut found: Vec<PathBuf> = fs::read_dir(tree)
        .into_iter()
        .flatten()
        .flatten()
        // Links are second names of the same hierarchy.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").is_file())
        .collect();
    found.sort();
    found
}

fn is_version_2() -> bool {
    Path::new(TREE).join("cgroup.controllers").is_file()
}

/// The cgroup of a node, as the kubelet's `cgroupRoot` wants it.
pub(crate) fn name(cluster: &str, node: &str) -> String {
    format!("/skl-{cluster}/{node}")
}

/// Makes a node's cgroup in every hierarchy.
pub(crate) fn make(cluster: &str, node: &str) -> Result<(), ClusterError> {
    for hierarchy in hierarchies() {
        let mut path = hierarchy.clone();
        for part in name(cluster, node).split('/').filter(|part| !part.is_empty()) {
            let parent = path.clone();
            path.push(part);
            pass_controllers(&parent);
            fs::create_dir_all(&path)
                .map_err(|source| ClusterError::file("create", &path, source))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let (from, to) = (parent.join(file), path.join(file));
                // Version 1 starts a cpuset empty, and an empty one holds no process.
                if !is_version_2() && from.is_file() {
                    fs::read(&from)
                        .and_then(|value| fs::write(&to, value))
                        .map_err(|source| ClusterError::file("write", &to, source))?;
                }
            }
        }
        pass_controllers(&path);
    }
    Ok(())
}

/// Version 2: children get only the controllers that their parent passes on.
fn pass_controllers(path: &Path) {
    let control = path.join("cgroup.subtree_control");
    for controller in ["cpu", "cpuset", "memory", "io", "pids", "hugetlb"] {
        // A controller that the machine does not have is nothing that a pod could use.
        let _ = fs::write(&control, format!("+{controller}"));
    }
}

/// Removes a cluster's cgroups; its processes have been ended, though some may not be gone yet.
pub(crate) fn remove(cluster: &str) -> Result<(), LabError> {
    let top = format!("skl-{cluster}");
    wait_for("the cluster's cgroups to be empty", DEATH, || {
        hierarchies().iter().map(|hierarchy| hierarchy.join(&top)).try_for_each(|path| clear(&path))
    })
}

/// Removes what pods of a node left, as a boot does.
pub(crate) fn empty(cluster: &str, node: &str) -> Result<(), LabError> {
    let own = name(cluster, node);
    wait_for("a node's cgroups to be empty", DEATH, || {
        let mut paths = hierarchies().into_iter().map(|h| h.join(own.trim_start_matches('/')));
        paths.try_for_each(|path| clear(&path))
    })
}

fn clear(path: &Path) -> Result<(), String> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())) {
        clear(&entry.path())?;
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}
