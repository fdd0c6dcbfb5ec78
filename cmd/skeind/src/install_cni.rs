//! Puts the CNI plugin and its configuration onto a node: what an init container does before the agent starts.

use crate::all_in_one::RoleError;
use clap::Args;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The first configuration in the folder is the cluster's network.
const CONFIGURATION: &str = "10-skein.conflist";
/// The plugin's file has the name of its type.
const PLUGIN: &str = "skein";

/// Flags of `skeind install-cni`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The plugin's program
    #[arg(long, value_name = "FILE", default_value = "/usr/bin/skein-cni")]
    plugin: PathBuf,
    /// Where the container runtime looks for plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    bin_dir: PathBuf,
    /// Where the container runtime looks for configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Name of the cluster, as the Kubernetes manager has it
    #[arg(long, value_name = "NAME", default_value = "k8s", env = "KUBERNETES_CLUSTER_NAME")]
    cluster_name: String,
}

/// Copies both, each whole or not at all; the configuration last, as it makes the node Ready.
pub(crate) fn run(flags: &Flags) -> Result<(), RoleError> {
    let program = fs::read(&flags.plugin).map_err(failed(&flags.plugin))?;
    replace(&flags.bin_dir, PLUGIN, &program, 0o755)?;
    // A cluster's name is letters, digits and '-', so it needs no escapes here.
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if flags.cluster_name.is_empty() || !flags.cluster_name.chars().all(plain) {
        return Err(RoleError::Flag {
            name: "--cluster-name",
            reason: format!("{:?}: use letters, digits, '-', '_' and '.'", flags.cluster_name),
        });
    }
    let list = format!(
        "{{\n  \"cniVersion\": \"1.0.0\",\n  \"name\": \"skein\",\n  \"plugins\": [{{\"type\": \"{PLUGIN}\", \
         \"clusterName\": \"{}\"}}]\n}}\n",
        flags.cluster_name
    );
    replace(&flags.conf_dir, CONFIGURATION, list.as_bytes(), 0o644)?;
    tracing::info!(plugins = %flags.bin_dir.display(), "CNI plugin installed");
    Ok(())
}

/// Writes aside and renames: a runtime that looks meanwhile sees the old file or the new one.
fn replace(folder: &Path, name: &str, content: &[u8], mode: u32) -> Result<(), RoleError> {
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let (aside, path) = (folder.join(format!(".{name}.new")), folder.join(name));
    let mut file = fs::File::create(&aside).map_err(failed(&aside))?;
    file.write_all(content)
        .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all())
        .map_err(failed(&aside))?;
    drop(file);
    fs::rename(&aside, &path).map_err(failed(&path))
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> RoleError {
    let path = path.to_owned();
    move |source| RoleError::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let plugin = folder.path().join("skein-cni");
        let flags = |cluster: &str| Flags {
            plugin: plugin.clone(),
            bin_dir: folder.path().join("bin"),
            conf_dir: folder.path().join("net.d"),
            cluster_name: cluster.into(),
        };
        assert!(run(&flags("k8s")).unwrap_err().to_string().contains("skein-cni"));
        for content in ["first", "second"] {
            fs::write(&plugin, content).unwrap();
            run(&flags("west-1")).unwrap();
            assert_eq!(fs::read_to_string(folder.path().join("bin/skein")).unwrap(), content);
        }
        let list = fs::read_to_string(folder.path().join("net.d/10-skein.conflist")).unwrap();
        assert!(list.contains("\"clusterName\": \"west-1\""), "{list}");
        let mode = fs::metadata(folder.path().join("bin/skein")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(run(&flags("a\"b")).is_err());
        let names: Vec<_> = fs::read_dir(folder.path().join("net.d")).unwrap().collect();
        assert_eq!(names.len(), 1);
    }
}
