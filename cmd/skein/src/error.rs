//! What can go wrong, what the reader can do about it, and the exit code that says so to scripts.

use std::io;

/// A failure of a command. The message says what failed and where; [`Error::next_step`] what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nothing answered at the address.
    #[error("{service} at {url} does not answer: {cause}")]
    Unreachable { service: &'static str, url: String, cause: String, next: &'static str },
    /// Something answers there, but there is no trust.
    #[error("no trusted connection to the {service} at {url}: {reason}")]
    Untrusted { service: &'static str, url: String, reason: String },
    /// The service answered and said no.
    #[error("{action}: {reason} (HTTP {status})")]
    Refused { action: String, reason: String, status: u16 },
    /// The answer is not what this version understands.
    #[error("{action}: the answer is not understood: {reason}")]
    Answer { action: String, reason: String },
    /// kubectl said no.
    #[error("kubectl {call}: {reason}")]
    Kubectl { call: String, reason: String },
    /// A named object does not exist.
    #[error("{0}")]
    NotFound(String, String),
    /// The command line or a manifest is wrong; nothing was sent.
    #[error("{0}")]
    Usage(String, String),
    /// A file could not be read.
    #[error("cannot read {path}: {cause}")]
    File { path: String, cause: io::Error },
    /// The command did its work and found that all is not well; already on the screen.
    #[error("degraded")]
    Degraded,
    /// The command did its work and found that something does not answer; already on the screen.
    #[error("unreachable")]
    Silent,
    /// Standard output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// The reader of our output has gone (`skein get ... | head`): not a failure.
    #[error("closed")]
    Closed,
}

/// Exit codes, as `skein --help` lists them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done; for `status`: everything is well
  1  refused, not found or failed; for `status`: degraded
  2  the system does not answer
  3  the command line or a manifest is wrong; nothing was sent";

impl Error {
    /// A mistake in what the user wrote, with what to do instead.
    pub(crate) fn usage(message: impl Into<String>, next: impl Into<String>) -> Error {
        Error::Usage(message.into(), next.into())
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Closed => 0,
            Error::Refused { .. }
            | Error::Answer { .. }
            | Error::NotFound(..)
            | Error::Kubectl { .. }
            | Error::Degraded
            | Error::Output(_) => 1,
            Error::Unreachable { .. } | Error::Untrusted { .. } | Error::Silent => 2,
            Error::Usage(..) | Error::File { .. } => 3,
        }
    }

    /// Whether the command has shown all there is to say.
    pub(crate) fn is_shown(&self) -> bool {
        matches!(self, Error::Degraded | Error::Silent | Error::Closed)
    }

    /// What the reader can do next.
    pub(crate) fn next_step(&self) -> Option<String> {
        let text = match self {
            Error::Unreachable { next, .. } => (*next).to_owned(),
            Error::Untrusted { .. } => "--ca, --cert, --key and --server-name, or SKEIN_CA, SKEIN_CERT, \
                                        SKEIN_KEY and SKEIN_SERVER_NAME, say whom to trust and who we are"
                .into(),
            Error::NotFound(_, next) | Error::Usage(_, next) => next.clone(),
            Error::Refused { status, reason, .. } => refused(*status, reason)?.to_owned(),
            Error::Kubectl { .. } => {
                "try the same with kubectl; --context and --kubeconfig say which cluster".into()
            }
            Error::Answer { .. } => {
                "check that the address is right and that `skein --version` fits the servers'"
                    .into()
            }
            Error::File { .. } => "check the path; `-f -` reads standard input".into(),
            Error::Degraded | Error::Silent | Error::Output(_) | Error::Closed => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

/// Advice by status code, where there is any that the server's own text does not give.
fn refused(status: u16, reason: &str) -> Option<&'static str> {
    match status {
        400 => Some("`skein explain TYPE` lists the fields, their types and allowed values"),
        401 | 403 => Some("the server wants other credentials or rights for this"),
        404 => Some("`skein get TYPE` lists what exists"),
        409 if reason.contains("ref") || reason.contains("child") => {
            Some("`skein show TYPE NAME` lists what refers to it; remove those first")
        }
        409 => Some("`skein get TYPE` shows what exists; `skein apply` updates in place"),
        412 => Some("raise the project's quota or delete what is not needed"),
        413 => Some("send fewer or smaller objects at once"),
        500..=599 => Some("see the server's log, and `skein status`"),
        _ => None,
    }
}
