//! CNI errors: a code from the specification, a message, and what to do about it.

use serde_json::{Value, json};

/// Error codes of CNI specification 1.1, section 5, and the plugin's own from 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Code {
    /// The `cniVersion` is not supported.
    IncompatibleVersion = 1,
    /// A field of the configuration is not known; the message names key and value.
    UnsupportedField = 2,
    /// The container is not known or does not exist; nothing needs cleaning.
    UnknownContainer = 3,
    /// A required environment variable is missing or malformed.
    InvalidEnvironment = 4,
    /// Input or output failed.
    Io = 5,
    /// The input is not JSON of the right shape.
    Decode = 6,
    /// The configuration is readable but makes no sense.
    InvalidConfig = 7,
    /// A transient condition: the runtime should try again.
    TryAgain = 11,
    /// STATUS: ADD would fail now.
    NotAvailable = 50,
    /// The kernel refused a network operation.
    Kernel = 100,
    /// The container's network is not as ADD left it.
    CheckFailed = 101,
    /// The agent or the controller refused the port.
    Refused = 102,
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
#[error("{message}; {details}")]
pub struct Error {
    /// CNI error code.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub details: String,
}

impl Error {
    /// An error with its remedy.
    pub fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    /// Input or output failed while doing `what`.
    #[must_use]
    pub fn io(what: &str, error: &std::io::Error) -> Self {
        Self::new(Code::Io, format!("cannot {what}: {error}"), "see the node's logs")
    }

    /// The error object of the specification. `input` is the configuration as it came: the object
    /// carries its version when that can be read.
    #[must_use]
    pub fn to_json(&self, input: &[u8]) -> Value {
        let version = serde_json::from_slice::<Value>(input)
            .ok()
            .and_then(|config| Some(config.get("cniVersion")?.as_str()?.to_owned()))
            .unwrap_or_else(|| "1.1.0".to_owned());
        json!({
            "cniVersion": version,
            "code": self.code as u32,
            "msg": self.message,
            "details": self.details,
        })
    }
}
