//! A client of the agent's port API: one HTTP/1.1 request a connection over a unix socket.
//!
//! Written out because it is forty lines against a start-up millisecond of a runtime and a client library.

use crate::port_api::Failure;
use crate::{Code, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The agent answers `bind` when the controller's word is in force, at the latest after 20 s.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Talks to the agent behind a unix socket.
#[derive(Clone, Debug)]
pub struct AgentClient {
    socket: PathBuf,
}

impl AgentClient {
    /// A client of the agent at `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// POSTs `body` to `path` and reads the answer.
    ///
    /// # Errors
    /// [`Code::TryAgain`] when the agent is away or busy, [`Code::Refused`] when it said no.
    pub fn post<A: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<A, Error> {
        let body = serde_json::to_vec(body).map_err(|error| {
            Error::new(Code::Io, format!("cannot write a request: {error}"), "report this")
        })?;
        self.call("POST", path, &body)
    }

    /// GETs `path`.
    ///
    /// # Errors
    /// As [`AgentClient::post`].
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, Error> {
        self.call("GET", path, &[])
    }

    fn call<A: DeserializeOwned>(&self, method: &str, path: &str, body: &[u8]) -> Result<A, Error> {
        let away = |error: &std::io::Error| {
            let hint = if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused)
            {
                "start the agent (`skeind vrouter`), or correct `agent` in the configuration"
            } else {
                "see the agent's log; the call may be repeated"
            };
            let message =
                format!("the agent at {} does not answer: {error}", self.socket.display());
            Error::new(Code::TryAgain, message, hint)
        };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let mut answer = Vec::new();
        UnixStream::connect(&self.socket)
            .and_then(|mut stream| {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                stream.write_all(&request)?;
                stream.read_to_end(&mut answer)
            })
            .map_err(|error| away(&error))?;
        let (status, body) = split(&answer).ok_or_else(|| {
            away(&std::io::Error::new(ErrorKind::InvalidData, "its answer is no HTTP"))
        })?;
        let unreadable = |error: serde_json::Error| {
            Error::new(
                Code::Io,
                format!("the agent's answer to {path} (status {status}) is not readable: {error}"),
                "are plugin and agent of the same release?",
            )
        };
        if status == 200 {
            return serde_json::from_slice(body).map_err(unreadable);
        }
        let failure: Failure = serde_json::from_slice(body).map_err(unreadable)?;
        let code = if failure.retry { Code::TryAgain } else { Code::Refused };
        Err(Error::new(code, failure.message, failure.hint))
    }
}

/// Status and body. The agent never answers in chunks: it knows its answers' lengths.
fn split(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.split(' ').next()?.trim().parse().ok()?;
    Some((status, &answer[end + 4..]))
}
