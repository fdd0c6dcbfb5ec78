//! Asking the API server in milliseconds.
//!
//! `kubectl proxy` beside the API server carries the administrator's certificate; a request is then one
//! plain HTTP exchange over loopback, where a kubectl of its own would take a tenth of a second.

use super::ClusterError;
use crate::{Host, wait_for};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// Where the proxy listens, in the control plane's namespace.
pub(crate) const PROXY_PORT: u16 = 8001;
const PATIENCE: Duration = Duration::from_secs(30);

/// The API of a cluster, as its administrator.
#[derive(Clone, Debug)]
pub struct Api {
    host: Host,
}

impl Api {
    pub(crate) fn new(host: &Host) -> Api {
        Api { host: host.clone() }
    }

    /// GET.
    ///
    /// # Errors
    /// [`ClusterError::Api`] for any status above 299.
    pub fn get(&self, path: &str) -> Result<Value, ClusterError> {
        self.send("GET", path, "application/json", "")
    }

    /// GET; `None` when there is no such object.
    ///
    /// # Errors
    /// As [`Api::get`], but for 404.
    pub fn find(&self, path: &str) -> Result<Option<Value>, ClusterError> {
        match self.get(path) {
            Err(ClusterError::Api { status: 404, .. }) => Ok(None),
            other => other.map(Some),
        }
    }

    /// The items of a list.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn list(&self, path: &str) -> Result<Vec<Value>, ClusterError> {
        let mut answer = self.get(path)?;
        match answer["items"].take() {
            Value::Array(items) => Ok(items),
            _ => Err(ClusterError::answer(path, "not a list")),
        }
    }

    /// Waits until an object is there and `holds` is true of it.
    ///
    /// # Errors
    /// Time is up; the error tells the object as it was last seen.
    pub fn wait(
        &self,
        what: &str,
        path: &str,
        timeout: Duration,
        holds: impl Fn(&Value) -> bool,
    ) -> Result<Value, ClusterError> {
        Ok(wait_for(what, timeout, || {
            let object = self.get(path).map_err(|error| error.to_string())?;
            if holds(&object) { Ok(object) } else { Err(object.to_string()) }
        })?)
    }

    /// POST of an object.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn create(&self, path: &str, object: &Value) -> Result<Value, ClusterError> {
        self.send("POST", path, "application/json", &object.to_string())
    }

    /// PUT of an object.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn replace(&self, path: &str, object: &Value) -> Result<Value, ClusterError> {
        self.send("PUT", path, "application/json", &object.to_string())
    }

    /// PATCH by a merge patch (RFC 7396).
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn merge(&self, path: &str, patch: &Value) -> Result<Value, ClusterError> {
        self.send("PATCH", path, "application/merge-patch+json", &patch.to_string())
    }

    /// DELETE.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn delete(&self, path: &str) -> Result<Value, ClusterError> {
        self.send("DELETE", path, "application/json", "")
    }

    /// The body of an answer as text: logs, metrics and pages about health.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub fn text(&self, path: &str) -> Result<String, ClusterError> {
        self.exchange("GET", path, "application/json", "")
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &str,
    ) -> Result<Value, ClusterError> {
        let text = self.exchange(method, path, kind, body)?;
        serde_json::from_str(&text).map_err(|error| ClusterError::answer(path, error))
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        kind: &str,
        body: &str,
    ) -> Result<String, ClusterError> {
        let failed = |status: u16, message: String| ClusterError::Api {
            method: method.to_owned(),
            path: path.to_owned(),
            status,
            message,
        };
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(("127.0.0.1", PROXY_PORT))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            // HTTP/1.0: the answer comes unchunked and ends with the connection.
            let request = format!(
                "{method} {path} HTTP/1.0\r\nHost: localhost\r\nAccept: application/json\r\n\
                 Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = self.host.inside(ask)?.map_err(|error| failed(0, error.to_string()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        if (200..300).contains(&status) {
            return Ok(body.to_owned());
        }
        let said: Option<Value> = serde_json::from_str(body).ok();
        let message = said.and_then(|value| value["message"].as_str().map(str::to_owned));
        Err(failed(status, message.unwrap_or_else(|| body.trim().to_owned())))
    }
}
