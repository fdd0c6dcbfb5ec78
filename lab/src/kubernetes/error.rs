//! Why a cluster does not stand, or did not do what it was asked.

use crate::LabError;
use std::path::PathBuf;

/// An error of the cluster; the text says what was tried and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The lab underneath, or a program of the cluster; a program's error quotes its log.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// Kubernetes itself is not on this machine.
    #[error(
        "no Kubernetes: {program} is in none of {}; run scripts/kubernetes, which finds or builds it, \
         or set KUBEBUILDER_ASSETS to a folder that holds it",
        .searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    )]
    NoKubernetes {
        /// The program that was looked for.
        program: &'static str,
        /// Where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// A program of Skein's is not where it should be.
    #[error(
        "{0} is missing; build it with `cargo build -p skein -p skeind -p skein-cni -p skein-lab`"
    )]
    NotBuilt(PathBuf),
    /// A certificate could not be made.
    #[error("certificate for {what}: {source}")]
    Certificate {
        /// Whose.
        what: String,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// The API server said no.
    #[error("{method} {path}: {status}: {message}")]
    Api {
        /// HTTP method.
        method: String,
        /// Path and query.
        path: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// An answer has not the expected form.
    #[error("{what}: {reason}")]
    Answer {
        /// Which one.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClusterError {
    pub(crate) fn file(
        action: &'static str,
        path: &std::path::Path,
        source: std::io::Error,
    ) -> ClusterError {
        LabError::File { action, path: path.to_owned(), source }.into()
    }

    pub(crate) fn answer(what: &str, reason: impl std::fmt::Display) -> ClusterError {
        ClusterError::Answer { what: what.to_owned(), reason: reason.to_string() }
    }
}
