//! What `skein-probe` prints, as data.

use serde::{Deserialize, Serialize};

/// What a probe server tells whoever asks it.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct ProbeAnswer {
    /// Name of the answering pod: its host name.
    pub pod: String,
    /// Address and port of the one who asked, as the server sees them. For SCTP too.
    pub client: String,
    /// Address and port that were asked, as the server sees them; only TCP knows them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The datagram that is answered, for who sends more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<String>,
}

/// What a probe that serves HTTP says of a request.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct WebAnswer {
    /// Name of the answering pod.
    pub pod: String,
    /// Address and port of the one who asked, as the server sees them.
    pub client: String,
    /// The path of the request, with its query.
    pub path: String,
    /// The header `Host`.
    pub host: String,
    /// The header `X-Forwarded-For`.
    pub forwarded_for: String,
    /// The header `X-Forwarded-Proto`.
    pub forwarded_proto: String,
}

/// How asking one target ended: an answer or an error, never both.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ProbeOutcome {
    /// The target as given, `tcp:10.0.0.1:80`.
    pub target: String,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<ProbeAnswer>,
    /// Why there is none; `timeout` and `refused` are told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub milliseconds: f64,
}

impl ProbeOutcome {
    /// Whether an answer came.
    #[must_use]
    pub fn answered(&self) -> bool {
        self.answer.is_some()
    }
}

/// How a stream went: one TCP connection on which the server echoes.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct StreamReport {
    /// The pod at the other end.
    pub pod: String,
    /// Echoes that came back.
    pub echoes: u64,
    /// The longest wait for one, in milliseconds.
    pub longest_gap: f64,
    /// By how much the machine woke the client too late at most, in milliseconds: what of a gap may be its doing.
    #[serde(default)]
    pub longest_stall: f64,
    /// Why the connection ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
