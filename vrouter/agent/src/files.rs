//! Files that are replaced whole or not at all.

use crate::AgentError;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What the new content must survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The end of the process, and no wait for the disk. After a loss of power the file may be the old one, or empty.
    Process,
    /// Loss of power.
    Machine,
}

/// The content, or `None` when there is no such file.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, AgentError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(AgentError::file("read", path)(error)),
    }
}

/// Replaces a file by rename. Only its owner may read it: states name tenants, and keys are keys.
pub(crate) fn replace(path: &Path, bytes: &[u8], durable: Durability) -> Result<(), AgentError> {
    let aside = path.with_extension("new");
    let written = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            // A rename may reach the disk before the bytes do: without this a loss of power could
            // leave an empty file.
            if durable == Durability::Machine { file.sync_all() } else { Ok(()) }
        });
    written.map_err(AgentError::file("write", &aside))?;
    std::fs::rename(&aside, path).map_err(AgentError::file("replace", path))?;
    if durable == Durability::Machine {
        let directory = path.parent().unwrap_or(Path::new("."));
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(AgentError::file("sync", directory))?;
    }
    Ok(())
}
