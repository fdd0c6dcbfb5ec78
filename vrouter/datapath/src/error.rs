//! What can go wrong between the agent and the kernel.

use std::path::PathBuf;

/// An error of the datapath; the text ends with what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pinned tables were made by a version with another layout.
    #[error(
        "the tables in {pin_dir} have layout version {found}, this program needs {wanted}: stop the workloads' \
         traffic or drain the node, then remove the directory (`Datapath::purge`) and start again"
    )]
    AbiVersion {
        /// Where they are.
        pin_dir: PathBuf,
        /// Version found in the pinned `meta` map.
        found: u32,
        /// Version this program was built for.
        wanted: u32,
    },
    /// A pinned map does not fit although the version does.
    #[error(
        "pinned table {table} in {pin_dir} does not fit this program ({detail}): purge the directory and start again"
    )]
    PinnedTable {
        /// Where it is.
        pin_dir: PathBuf,
        /// Name of the map.
        table: String,
        /// What differs.
        detail: String,
    },
    /// The pin directory is unusable.
    #[error(
        "pin directory {path}: {source}; mount a bpffs there (`mount -t bpf bpf /sys/fs/bpf`) and run as root"
    )]
    PinDirectory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kernel refused a program or map.
    #[error(
        "the kernel refused {what}: {source}; root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON) and Linux 6.1 or later are needed"
    )]
    Kernel {
        /// What was asked for.
        what: String,
        /// What libbpf said.
        source: libbpf_rs::Error,
    },
    /// A table has no room.
    #[error("table {table} is full ({size} entries): raise its size in the node's configuration")]
    Full {
        /// Name of the map.
        table: &'static str,
        /// Entries it can hold.
        size: u32,
    },
    /// The interface is gone or cannot be attached to.
    #[error(
        "interface with index {ifindex}: {source}; see that it exists in the caller's network namespace"
    )]
    Interface {
        /// Index asked for.
        ifindex: u32,
        /// What the system said.
        source: libbpf_rs::Error,
    },
    /// An argument breaks a rule of the interface.
    #[error("{field}: {reason}")]
    Argument {
        /// Which one.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(libbpf_rs::Error) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source }
    }
}
