//! One HTTP service: requests with a deadline, and failures told as "what, where, what next".

use crate::error::Error;
use reqwest::{Client, Method};
use serde_json::Value;
use std::time::Duration;

/// A service that Skein's roles offer.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    service: &'static str,
    base: String,
    next: &'static str,
    timeout: Duration,
    client: Client,
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
    /// `address` may be a URL, HOST:PORT, or HOST, to which `port` is added.
    pub(crate) fn new(
        service: &'static str,
        address: &str,
        port: u16,
        timeout: Duration,
        next: &'static str,
    ) -> Result<Endpoint, Error> {
        let base = url_of(address, port)?;
        // Skein's own services are reached directly, whatever proxy the shell has for the web.
        let client = Client::builder().no_proxy().build().map_err(|e| {
            Error::usage(format!("cannot set up HTTP: {}", causes(&e)), "please report this")
        })?;
        Ok(Endpoint { service, base, next, timeout, client })
    }

    /// The URL that requests go to, without a slash at the end.
    pub(crate) fn url(&self) -> &str {
        &self.base
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        request = request.query(query).timeout(self.timeout);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(|e| self.unreachable(&e))?;
        Ok(Answer { status, body })
    }

    /// Reads JSON; any status but 200 and 202 is an error.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Error> {
        let action = format!("read {path} of the {}", self.service);
        self.send(Method::GET, path, query, None).await?.ok(&action)?.json(&action)
    }

    /// The error for a connection that failed under way.
    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let cause = if error.is_timeout() {
            format!("no answer within {} s", self.timeout.as_secs_f32())
        } else {
            causes(error)
        };
        let (service, url, next) = (self.service, self.base.clone(), self.next);
        Error::Unreachable { service, url, cause, next }
    }
}

impl Answer {
    /// Itself when the status is a success.
    pub(crate) fn ok(self, action: &str) -> Result<Answer, Error> {
        if matches!(self.status, 200 | 202) { Ok(self) } else { Err(self.refusal(action)) }
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
fn causes(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(cause) = deepest.source() {
        deepest = cause;
    }
    deepest.to_string()
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
    if address.starts_with("https://") {
        return wrong("this version speaks plain HTTP only; put a TLS proxy or tunnel in between");
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
    match reqwest::Url::parse(&full) {
        Ok(url) if url.scheme() == "http" && url.has_host() => Ok(full),
        Ok(_) => wrong("the scheme must be http"),
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
        for bad in ["", "ftp://x", "https://x", "http://"] {
            assert!(url_of(bad, 1).is_err(), "{bad}");
        }
    }
}
