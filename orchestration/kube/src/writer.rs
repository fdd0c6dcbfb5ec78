//! Writes, through the configuration API's client.

use crate::core::{Outcome, Reason};
use crate::plan::Write;
use serde_json::{Value, json};
use skein_client::{Client, ClientError};

/// How the API begins when it has no address left.
const EXHAUSTED: &str = "no free address";
/// How it begins when somebody else has the address.
const TAKEN: &str = "the address ";

/// Makes the writes in their order. What is done already counts as done: a write may be repeated after a lost answer.
pub async fn execute(client: &Client, writes: &[Write]) -> Outcome {
    for write in writes {
        if let Err(error) = one(client, write).await {
            let reason = match &error {
                ClientError::Refused { status: 400, text } if text.starts_with(EXHAUSTED) => {
                    Reason::PoolEmpty(text.clone())
                }
                ClientError::Refused { status: 409, text } if text.starts_with(TAKEN) => {
                    Reason::AddressTaken(text.clone())
                }
                ClientError::Refused { status: 400 | 403 | 409 | 412, .. } => Reason::Refused,
                _ => Reason::Unavailable,
            };
            return Outcome::Failed(format!("{}: {error}", describe(write)), reason);
        }
    }
    Outcome::Written
}

async fn one(client: &Client, write: &Write) -> Result<(), ClientError> {
    match write {
        Write::Create { kind, name, fields } => {
            match client.create(*kind, fields.clone()).await {
                Ok(_) => Ok(()),
                // Another one made it, or an answer was lost: the watch will show it.
                Err(error) if error.is_conflict() => {
                    client.name_to_id(*kind, name).await.map(drop).map_err(|_| error)
                }
                Err(error) => Err(error),
            }
        }
        Write::Update { kind, uuid, fields } => client.update(*kind, *uuid, fields.clone()).await,
        Write::Delete { kind, uuid } => match client.delete(*kind, *uuid).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        },
        Write::Reference { kind, uuid, target_kind, target, attr } => {
            let body = json!({
                "type": kind.name(), "uuid": uuid,
                "ref-type": target_kind.name(), "ref-uuid": Value::Null, "ref-fq-name": target,
                "operation": if attr.is_some() { "ADD" } else { "DELETE" },
                "attr": attr,
            });
            let answer = client.request(http::Method::POST, "/ref-update", Some(&body)).await;
            match answer {
                // Neither end needs the other any more.
                Err(error) if error.is_not_found() && attr.is_none() => Ok(()),
                other => other.map(drop),
            }
        }
    }
}

fn describe(write: &Write) -> String {
    match write {
        Write::Create { kind, name, .. } => format!("{kind} {name} cannot be made"),
        Write::Update { kind, uuid, .. } => format!("{kind} {uuid} cannot be changed"),
        Write::Delete { kind, uuid } => format!("{kind} {uuid} cannot be removed"),
        Write::Reference { kind, uuid, target_kind, target, .. } => {
            format!("{kind} {uuid} and {target_kind} {target} cannot be linked or parted")
        }
    }
}
