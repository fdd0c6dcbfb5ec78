//! What people ask when traffic does not do what they expect: which rules judge a port ([`policy`]), and what
//! becomes of one connection ([`why`]). Answers come from the compiled intent by the reference evaluator, so they
//! are what nodes are told to do; names are those that a person wrote. The nodes of a connection are asked besides what they
//! have in force ([`nodes`]).

mod find;
mod names;
mod nodes;
mod policy;
mod why;

use crate::core::Core;
use crate::service::Shared;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;

/// Paths below the status page.
pub(crate) fn router() -> Router<Arc<Shared>> {
    Router::new().route("/v1/policy", get(policy_of)).route("/v1/why", get(why))
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The question makes no sense.
    Wrong(String),
    /// What it is about does not exist.
    Unknown(String),
}

type Reply = (StatusCode, Json<Value>);

fn reply<T: Serialize>(answer: Result<T, Refusal>) -> Reply {
    let (status, text) = match answer.map(|answer| serde_json::to_value(answer)) {
        Ok(Ok(value)) => return (StatusCode::OK, Json(value)),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(Refusal::Wrong(text)) => (StatusCode::BAD_REQUEST, text),
        Err(Refusal::Unknown(text)) => (StatusCode::NOT_FOUND, text),
    };
    (status, Json(json!({ "error": text })))
}

#[derive(Debug, Deserialize)]
struct PolicyQuestion {
    /// A port or machine: uuid or name.
    of: String,
    /// Network of the machine's port, if it has several.
    network: Option<String>,
}

async fn policy_of(
    State(shared): State<Arc<Shared>>,
    Query(question): Query<PolicyQuestion>,
) -> Reply {
    reply(shared.read(|core| policy::explain(core, &question.of, question.network.as_deref())))
}

#[derive(Debug, Deserialize)]
struct WhyQuestion {
    /// A port or machine: uuid or name.
    from: String,
    /// A port or machine, or an address.
    to: String,
    /// `tcp` unless said otherwise.
    protocol: Option<String>,
    /// Destination port; ICMP has none.
    port: Option<u16>,
    /// 4 or 6, if both ends have both.
    family: Option<u8>,
}

async fn why(State(shared): State<Arc<Shared>>, Query(question): Query<WhyQuestion>) -> Reply {
    let answer = protocol(question.protocol.as_deref().unwrap_or("tcp")).and_then(|protocol| {
        let connection =
            why::Connection { protocol, port: question.port.unwrap_or(0), family: question.family };
        shared.read(|core: &Core| why::explain(core, &question.from, &question.to, connection))
    });
    let mut answer = match answer {
        Ok(answer) => answer,
        refused => return reply(refused),
    };
    let replies = shared.inquiries.ask(nodes::questions(&answer)).await;
    shared.read(|core| nodes::add(core, &mut answer, replies));
    reply(Ok(answer))
}

/// Protocols by name or number.
fn protocol(text: &str) -> Result<u8, Refusal> {
    match text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(6),
        "udp" => Ok(17),
        "sctp" => Ok(132),
        "icmp" => Ok(1),
        "icmpv6" => Ok(58),
        other => other.parse().map_err(|_| {
            Refusal::Wrong(format!("protocol {text:?}: write tcp, udp, sctp, icmp or a number"))
        }),
    }
}
