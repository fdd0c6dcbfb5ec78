//! Writes, through the configuration API's client.

use crate::core::{Outcome, Reason};
use crate::plan::Write;
use futures_util::future::join_all;
use serde_json::{Value, json};
use skein_client::{Client, ClientError};
use skein_model::Kind;
use std::mem::discriminant;

/// How the API begins when it has no address left.
const EXHAUSTED: &str = "no free address";
/// How it begins when somebody else has the address.
const TAKEN: &str = "the address ";

/// Writes that are on their way together, at most.
const TOGETHER: usize = 16;

/// Makes the writes in their order, those side by side that have nothing to do with each other: they share the API's wait for
/// its disk. What is done already counts as done: a write may be repeated after a lost answer.
pub async fn execute(client: &Client, writes: &[Write]) -> Outcome {
    for group in groups(writes) {
        let made = join_all(group.iter().map(|write| one(client, write))).await;
        let failed = group.iter().zip(made).find_map(|(write, made)| Some((write, made.err()?)));
        if let Some((write, error)) = failed {
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

/// Neighbours that need no order.
fn groups(writes: &[Write]) -> impl Iterator<Item = &[Write]> {
    writes.chunk_by(are_apart).flat_map(|group| group.chunks(TOGETHER))
}

/// Whether two writes of one owner that follow each other may change places. Objects of these types never name one of
/// their own type, and whether there is an address for one does not depend on the others.
fn are_apart(one: &Write, next: &Write) -> bool {
    let kind = |write: &Write| match write {
        Write::Create { kind, .. } | Write::Delete { kind, .. } => Some(*kind),
        Write::Update { .. } | Write::Reference { .. } => None,
    };
    let apart = |kind: &Kind| {
        matches!(
            *kind,
            Kind::INSTANCE_IP
                | Kind::FIREWALL_RULE
                | Kind::LOADBALANCER_LISTENER
                | Kind::LOADBALANCER_POOL
                | Kind::LOADBALANCER_MEMBER
                | Kind::VIRTUAL_DNS_RECORD
        )
    };
    discriminant(one) == discriminant(next)
        && kind(one) == kind(next)
        && kind(one).is_some_and(|kind| apart(&kind))
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

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::FqName;

    fn create(kind: Kind, name: &str) -> Write {
        Write::Create { kind, name: FqName::single(name), fields: Value::Null }
    }

    #[test]
    fn only_what_needs_no_order_goes_together() {
        let addresses = [Kind::INSTANCE_IP; 2].map(|kind| create(kind, "address"));
        let mut pod = vec![
            create(Kind::VIRTUAL_MACHINE, "machine"),
            create(Kind::VIRTUAL_MACHINE_INTERFACE, "one"),
            create(Kind::VIRTUAL_MACHINE_INTERFACE, "below it"),
        ];
        pod.extend(addresses);
        let uuid = uuid::Uuid::nil();
        pod.push(Write::Delete { kind: Kind::INSTANCE_IP, uuid });
        let sizes = |writes: &[Write]| groups(writes).map(<[Write]>::len).collect::<Vec<_>>();
        assert_eq!(sizes(&pod), [1, 1, 1, 2, 1]);
        let rules: Vec<Write> =
            (0..40).map(|at| create(Kind::FIREWALL_RULE, &at.to_string())).collect();
        assert_eq!(sizes(&rules), [16, 16, 8]);
        assert_eq!(groups(&rules).flatten().collect::<Vec<_>>(), rules.iter().collect::<Vec<_>>());
    }
}
