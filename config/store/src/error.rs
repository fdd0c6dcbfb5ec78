//! What can go wrong with the store, in words that say what to do.

use std::{io, path::Path};

use uuid::Uuid;

/// Why the store could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the file.
    #[error(
        "the store {path} is in use by another process; stop it, or give this one its own data directory"
    )]
    Locked {
        /// The file.
        path: String,
    },
    /// The file system is full.
    #[error(
        "no space left on the file system of {path}; free some and writes work again, nothing acknowledged was lost"
    )]
    DiskFull {
        /// The file.
        path: String,
    },
    /// The file is not a Skein store, or is damaged.
    #[error(
        "the store {path} is damaged or not a Skein store ({reason}); restore it from a backup or move it away to start empty"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What was found.
        reason: String,
    },
    /// The file was written by a version with another layout.
    #[error(
        "the store {path} has format {found}, this version reads format {expected}; use the version that wrote it"
    )]
    Format {
        /// The file.
        path: String,
        /// Format number in the file.
        found: u64,
        /// Format number of this version.
        expected: u64,
    },
    /// The operating system refused.
    #[error(
        "cannot {action} the store {path}: {source}; check that the directory exists and is writable"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A claim is held by someone else. The planner checks first, so this is a bug or a second writer.
    #[error("{key} belongs to {holder}, {claimant} cannot have it")]
    ClaimTaken {
        /// The contested key.
        key: String,
        /// Who has it.
        holder: Uuid,
        /// Who wanted it.
        claimant: Uuid,
    },
    /// An earlier commit failed and the state was not loaded again.
    #[error("the store {path} must be loaded again after a failed write")]
    NeedsLoad {
        /// The file.
        path: String,
    },
    /// A transaction does not follow the last one.
    #[error("revision {found} does not follow {expected}")]
    Revision {
        /// The revision in the transaction.
        found: u64,
        /// The revision that was due.
        expected: u64,
    },
    /// An object could not be written as JSON.
    #[error("cannot encode {uuid}: {source}")]
    Encode {
        /// The object.
        uuid: Uuid,
        /// The serializer's complaint.
        source: serde_json::Error,
    },
    /// No member of etcd answers.
    #[error(
        "etcd at {endpoints} does not answer ({reason}); look after its members and the network to them, reads go on meanwhile"
    )]
    Unreachable {
        /// Who was asked.
        endpoints: String,
        /// What the last attempt met.
        reason: String,
    },
    /// etcd says no.
    #[error(
        "etcd at {endpoint} refuses: {reason}; check its certificates, users and limits for this client"
    )]
    EtcdRefused {
        /// Who was asked.
        endpoint: String,
        /// Its answer.
        reason: String,
    },
    /// etcd's quota is used up.
    #[error(
        "etcd at {endpoints} has no space left: compact and defragment it, disarm its alarm, and set --auto-compaction-retention"
    )]
    EtcdFull {
        /// Who was asked.
        endpoints: String,
    },
    /// How etcd is to be reached makes no sense.
    #[error("etcd: {reason}")]
    EtcdSettings {
        /// What is wrong.
        reason: String,
    },
    /// etcd has forgotten the revision that was asked for.
    #[error("etcd has compacted the revision that was being read; reading again helps")]
    Compacted,
    /// etcd lost what it had.
    #[error(
        "etcd {path} has nothing left of the configuration that was there, or has another one: restore it from a backup; \
         only if it is meant to begin anew, restart all controllers"
    )]
    Emptied {
        /// Endpoints and prefix.
        path: String,
    },
    /// Another replica writes, or nobody.
    #[error("this replica does not lead any more, nothing was stored; ask again")]
    NotLeader,
    /// A commit may have been stored or not.
    #[error(
        "it may or may not be stored, look before writing again: etcd at {endpoints} did not say what became of it ({reason})"
    )]
    Unknown {
        /// Who was asked.
        endpoints: String,
        /// What the last attempt met.
        reason: String,
    },
    /// A row that etcd does not take.
    #[error("{what} has {bytes} bytes, etcd takes {most}; split it")]
    TooLarge {
        /// Which object or key.
        what: String,
        /// Its size as it would be stored.
        bytes: usize,
        /// The limit.
        most: usize,
    },
}

impl StoreError {
    /// Sorts an error of the database engine by what a person can do about it.
    pub(crate) fn from_redb(action: &'static str, path: &Path, error: redb::Error) -> Self {
        let path = path.display().to_string();
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::Locked { path },
            redb::Error::Io(source) => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Self::DiskFull { path }
                }
                // redb reports a file without its magic number this way.
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    Self::Corrupt { path, reason: source.to_string() }
                }
                _ => Self::Io { action, path, source },
            },
            redb::Error::PreviousIo => Self::NeedsLoad { path },
            other => Self::Corrupt { path, reason: other.to_string() },
        }
    }
}
