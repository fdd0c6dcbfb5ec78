//! Plain HTTP from inside a host, for readiness pages and for measurements that a process start
//! would drown.

use crate::{Host, LabError};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

impl Host {
    /// Sends a request to a port of this host's loopback and reads the whole answer.
    ///
    /// # Errors
    /// Nobody listens, or what answers does not speak HTTP.
    pub fn http(
        &self,
        port: u16,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<HttpAnswer, LabError> {
        let failed = |reason: String| LabError::Command {
            command: format!("{method} http://127.0.0.1:{port}{path}"),
            status: "no answer".into(),
            stderr: reason,
        };
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(30)))?;
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = self.inside(ask)?.map_err(|error| failed(error.to_string()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| failed(format!("not HTTP: {head:?}")))?;
        Ok(HttpAnswer { status, body: body.to_owned() })
    }
}
