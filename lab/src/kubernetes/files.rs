//! Writing the cluster's files, with errors that name them.

use super::ClusterError;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

pub(crate) fn folder(path: &Path) -> Result<(), ClusterError> {
    fs::create_dir_all(path).map_err(|source| ClusterError::file("create", path, source))
}

pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result<(), ClusterError> {
    if let Some(parent) = path.parent() {
        folder(parent)?;
    }
    fs::write(path, text).map_err(|source| ClusterError::file("write", path, source))
}

/// A file that only its owner reads.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), ClusterError> {
    if let Some(parent) = path.parent() {
        folder(parent)?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| ClusterError::file("write", path, source))
}

/// Copies a program; a link would not do, as the lab's folders are seen from other mount namespaces.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), ClusterError> {
    if let Some(parent) = to.parent() {
        folder(parent)?;
    }
    // Written aside and renamed: the old one may be running at this moment.
    let aside = to.with_extension("new");
    fs::copy(from, &aside)
        .and_then(|_| fs::rename(&aside, to))
        .map_err(|source| ClusterError::file("copy a program to", to, source))
}

pub(crate) fn read(path: &Path) -> Result<String, ClusterError> {
    fs::read_to_string(path).map_err(|source| ClusterError::file("read", path, source))
}

/// The folder of this repository, with its manifests.
#[must_use]
pub fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// A manifest of `examples/kubernetes`.
#[must_use]
pub fn example(name: &str) -> PathBuf {
    repository().join("examples/kubernetes").join(name)
}
