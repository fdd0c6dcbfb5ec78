//! DEL while the agent is away: a file tells it later.
//!
//! The runtime deletes a container once and does not come back. So the plugin removes the
//! interface - which ends all traffic - and leaves a file beside the agent's socket; the agent frees
//! the port's addresses when it starts, and removes the file.

use crate::port_api::PortKey;
use crate::{Error, host_interface_name};
use std::fs;
use std::path::{Path, PathBuf};

/// A port that was deleted behind the agent's back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The port.
    pub key: PortKey,
    /// Its file, to remove when the port is freed.
    pub path: PathBuf,
}

/// Directory of the tombstones for the agent at `socket`.
#[must_use]
pub fn tombstone_directory(socket: &Path) -> PathBuf {
    socket.with_extension("released")
}

impl Tombstone {
    /// Leaves a tombstone for the agent at `socket`.
    ///
    /// # Errors
    /// The file could not be written.
    pub fn leave(socket: &Path, key: &PortKey) -> Result<(), Error> {
        let directory = tombstone_directory(socket);
        let failed = |error: std::io::Error| {
            Error::io(&format!("write a release note in {}", directory.display()), &error)
        };
        fs::create_dir_all(&directory).map_err(failed)?;
        let name = host_interface_name(&key.container, &key.interface);
        let text = serde_json::to_vec(key).map_err(|error| failed(error.into()))?;
        // Written aside first: the agent may be reading the directory at this moment.
        let aside = directory.join(format!(".{name}"));
        fs::write(&aside, text).map_err(failed)?;
        fs::rename(&aside, directory.join(name)).map_err(failed)
    }

    /// All tombstones left for the agent at `socket`; unreadable files are skipped.
    #[must_use]
    pub fn list(socket: &Path) -> Vec<Self> {
        let entries = fs::read_dir(tombstone_directory(socket)).into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name().is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
            })
            .filter_map(|path| {
                let key = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
                Some(Self { key, path })
            })
            .collect()
    }
}
