//! What stops an agent from starting, or a call from succeeding.

use std::path::{Path, PathBuf};

/// An error of the agent; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration is not usable.
    #[error("configuration field `{field}`: {reason}")]
    Config {
        /// Which field.
        field: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A saved file is damaged.
    #[error(
        "{path} is damaged: {reason}; move it away and start again: controllers will send what it held"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A listening socket could not be made.
    #[error("cannot listen on {address}: {source}; is another agent running on this node?")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// Certificates or enrolment.
    #[error("certificates: {0}")]
    Tls(String),
    /// The kernel refused something about a network interface.
    #[error("interface {interface}: {reason}")]
    Interface {
        /// Its name.
        interface: String,
        /// What is wrong.
        reason: String,
    },
    /// The eBPF data path.
    #[error("data path: {0}")]
    Datapath(#[from] skein_datapath::Error),
}

impl AgentError {
    pub(crate) fn file(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
