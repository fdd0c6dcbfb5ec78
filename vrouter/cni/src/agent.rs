//! A client of the agent's port API: one HTTP/1.1 request a connection over a unix socket; inside a machine, over TCP to a
//! link-local service of its node.
//!
//! Written out because it is forty lines against a start-up millisecond of a runtime and a client library.

use crate::port_api::Failure;
use crate::{Code, Error};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A link-local service answers from the node the machine is on.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The agent answers `bind` when the controller's word is in force, at the latest after 20 s.
const TIMEOUT: Duration = Duration::from_secs(50);

/// Where the agent is.
#[derive(Clone, Debug)]
enum At {
    Socket(PathBuf),
    Service(SocketAddr),
}

/// A stream to it.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl At {
    fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        match self {
            Self::Socket(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(Box::new(stream))
            }
            Self::Service(address) => {
                let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(Box::new(stream))
            }
        }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => path.display().fmt(f),
            Self::Service(address) => address.fmt(f),
        }
    }
}

/// Talks to the agent.
#[derive(Clone, Debug)]
pub struct AgentClient {
    at: At,
}

impl AgentClient {
    /// A client of the agent at `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { at: At::Socket(socket.to_owned()) }
    }

    /// A client, inside a machine, of the node's agent behind a link-local service.
    #[must_use]
    pub fn behind(service: SocketAddr) -> Self {
        Self { at: At::Service(service) }
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
            let inside = matches!(self.at, At::Service(_));
            let hint = if inside {
                "is it a link-local service of global-vrouter-config with 127.0.0.1 behind it, and is \
                 its address routed by the machine's interface?"
            } else if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
                "start the agent (`skeind vrouter`), or correct `agent` in the configuration"
            } else {
                "see the agent's log; the call may be repeated"
            };
            let message = format!("the agent at {} does not answer: {error}", self.at);
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
        self.at
            .connect()
            .and_then(|mut stream| {
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
