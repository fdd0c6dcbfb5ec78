//! One HTTP service: requests with a deadline, and failures told as "what, where, what next".

use crate::error::Error;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use skein_client::{Connector, Tls, explain_tls};
use std::time::Duration;

/// A service that Skein's roles offer.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    service: &'static str,
    /// Where it is; where its replicas are, with the first one to be asked first.
    bases: Vec<String>,
    /// All of them, with commas in between.
    text: String,
    next: &'static str,
    timeout: Duration,
    client: Client<Connector, Empty<Bytes>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Text of the body.
    pub(crate) body: String,
}

impl Endpoint {
    /// `address` may be a URL, HOST:PORT, or HOST, to which `port` is added; or several of these with commas in between, which
    /// offer the same.
    pub(crate) fn new(
        service: &'static str,
        address: &str,
        port: u16,
        timeout: Duration,
        next: &'static str,
    ) -> Result<Endpoint, Error> {
        Self::with_tls(service, address, port, timeout, next, &Tls::default())
    }

    /// The same, for a service that may speak TLS.
    pub(crate) fn with_tls(
        service: &'static str,
        address: &str,
        port: u16,
        timeout: Duration,
        next: &'static str,
        tls: &Tls,
    ) -> Result<Endpoint, Error> {
        let list = address.split(',').map(str::trim).filter(|one| !one.is_empty());
        let mut bases: Vec<String> = list.map(|one| url_of(one, port)).collect::<Result<_, _>>()?;
        if bases.is_empty() {
            bases.push(url_of(address, port)?);
        }
        let secure = bases.iter().any(|base| base.starts_with("https:"));
        let connector = if secure { tls.connector() } else { Tls::plain() };
        let connector = connector.map_err(|e| {
            Error::usage(e.to_string(), "--ca, --cert and --key name the files, all in PEM")
        })?;
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Endpoint { service, text: bases.join(","), bases, next, timeout, client })
    }

    /// The URL that requests go to, without a slash at the end; of several, with commas in between.
    pub(crate) fn url(&self) -> &str {
        &self.text
    }

    /// The replicas, each for itself.
    pub(crate) fn each(&self) -> impl Iterator<Item = Endpoint> {
        self.bases.iter().map(|base| Endpoint {
            bases: vec![base.clone()],
            text: base.clone(),
            ..self.clone()
        })
    }

    /// Reads a page, whatever its status, of the first replica that answers.
    pub(crate) async fn read(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, Error> {
        let mut last = self.silent("it has no address");
        for base in &self.bases {
            match self.read_at(base, path, query).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn read_at(
        &self,
        base: &str,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<Answer, Error> {
        let uri = format!("{base}{path}{}", query_text(query));
        let uri: Uri = uri.parse().map_err(|e| self.silent(&format!("{uri:?}: {e}")))?;
        let call = async {
            let response = self.client.get(uri).await.map_err(|e| self.failed(&e))?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await;
            let body = body.map_err(|e| self.failed(&e))?.to_bytes();
            Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
        };
        // The time is for all of them.
        let timeout = self.timeout / u32::try_from(self.bases.len()).unwrap_or(1).max(1);
        tokio::time::timeout(timeout, call)
            .await
            .unwrap_or_else(|_| Err(self.silent(&late(timeout))))
    }

    /// Reads JSON; any status but 200 is an error.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Error> {
        let action = format!("read {path} of the {}", self.service);
        self.read(path, query).await?.ok(&action)?.json(&action)
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> Error {
        match explain_tls(error) {
            Some(reason) => self.untrusted(&reason),
            None => self.silent(&deepest(error)),
        }
    }

    /// The error for a service to which there is no trusted connection.
    pub(crate) fn untrusted(&self, reason: &str) -> Error {
        let (service, url) = (self.service, self.text.clone());
        Error::Untrusted { service, url, reason: reason.to_owned() }
    }

    /// The error for a service that gave no answer.
    pub(crate) fn silent(&self, cause: &str) -> Error {
        let (service, url, next) = (self.service, self.text.clone(), self.next);
        Error::Unreachable { service, url, cause: cause.to_owned(), next }
    }

    /// How long to wait for an answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// The cause when time is up.
pub(crate) fn late(timeout: Duration) -> String {
    format!("no answer within {} s", timeout.as_secs_f32())
}

impl Answer {
    /// Itself when the status is a success.
    pub(crate) fn ok(self, action: &str) -> Result<Answer, Error> {
        if self.status == 200 { Ok(self) } else { Err(self.refusal(action)) }
    }

    /// The body as JSON.
    pub(crate) fn json(&self, action: &str) -> Result<Value, Error> {
        serde_json::from_str(&self.body)
            .map_err(|e| Error::Answer { action: action.to_owned(), reason: e.to_string() })
    }

    fn refusal(self, action: &str) -> Error {
        // The agents wrap the reason in JSON, the config API sends it bare.
        let wrapped = serde_json::from_str::<Value>(&self.body).ok();
        let wrapped = wrapped.as_ref().and_then(|v| v.get("error")).and_then(Value::as_str);
        let reason = match wrapped.unwrap_or(&self.body).trim() {
            "" => "no reason given",
            text => text,
        };
        Error::Refused { action: action.to_owned(), reason: reason.to_owned(), status: self.status }
    }
}

/// The innermost reason is the one that helps: "connection refused", not "error sending request".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
}

/// `?name=value&...`, with everything but plain characters escaped (RFC 3986 section 2).
pub(crate) fn query_text(query: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (name, value) in query {
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => {
                    text.push(char::from(byte));
                }
                other => text.push_str(&format!("%{other:02X}")),
            }
        }
    }
    text
}

fn url_of(address: &str, port: u16) -> Result<String, Error> {
    let address = address.trim().trim_end_matches('/');
    let wrong = |why: &str| {
        Err(Error::usage(
            format!("{address:?} is no address: {why}"),
            "write it as http://HOST:PORT, HOST:PORT or HOST",
        ))
    };
    if address.is_empty() || address.ends_with(':') {
        return wrong("it names no host or port");
    }
    let full = if address.contains("://") {
        address.to_owned()
    } else if address.parse::<std::net::Ipv6Addr>().is_ok() {
        format!("http://[{address}]:{port}")
    } else if address.ends_with(']') || !address.contains(':') {
        format!("http://{address}:{port}")
    } else {
        format!("http://{address}")
    };
    match full.parse::<Uri>() {
        Ok(url) if !matches!(url.scheme_str(), Some("http" | "https")) => {
            wrong("the scheme must be http or https")
        }
        Ok(url) if url.path() != "/" || url.query().is_some() => wrong("it has a path"),
        Ok(_) => Ok(full),
        Err(e) => wrong(&e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed() {
        let url = |address| url_of(address, 8085).unwrap();
        assert_eq!(url("10.0.0.1"), "http://10.0.0.1:8085");
        assert_eq!(url("node-a:9000"), "http://node-a:9000");
        assert_eq!(url("fd00::1"), "http://[fd00::1]:8085");
        assert_eq!(url("[fd00::1]:80"), "http://[fd00::1]:80");
        assert_eq!(url("http://node-a:8085/"), "http://node-a:8085");
        assert_eq!(url("https://node-a:8182/"), "https://node-a:8182");
        for bad in ["", "ftp://x", "http://", "http://x/y", "a b"] {
            assert!(url_of(bad, 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn values_of_a_query_are_escaped() {
        let query = [("vrf", "d:p:a b&c".to_owned()), ("limit", "5".to_owned())];
        assert_eq!(query_text(&query), "?vrf=d:p:a%20b%26c&limit=5");
        assert_eq!(query_text(&[]), "");
    }
}
