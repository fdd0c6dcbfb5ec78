//! What can go wrong between a client and the API.

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The API refused; the text is for people.
    #[error("{text} (status {status})")]
    Refused {
        /// HTTP status: 400 wrong, 404 not there, 409 collides, 412 quota, 503 not now.
        status: u16,
        /// What the API said.
        text: String,
    },
    /// The API cannot be reached.
    #[error(
        "cannot reach the configuration API at {base}: {reason}; is it running, and is the address right?"
    )]
    Unreachable {
        /// Where it was looked for.
        base: String,
        /// What happened.
        reason: String,
    },
    /// There is no trust between the two.
    #[error("no trusted connection to {base}: {reason}")]
    Untrusted {
        /// Where it was looked for.
        base: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file that says whom to trust, or who we are, is not usable.
    #[error("{path}: {reason}")]
    TlsFile {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address makes no sense.
    #[error("{0:?} is not the address of an API; write https://HOST:PORT or http://HOST:PORT")]
    Address(String),
    /// The answer makes no sense.
    #[error("the answer of {base} is not understood: {reason}; is it a configuration API?")]
    Answer {
        /// Who answered.
        base: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// The HTTP status, if the API answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether the thing is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status() == Some(404)
    }

    /// Whether it collides with something that is there.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status() == Some(409)
    }
}
