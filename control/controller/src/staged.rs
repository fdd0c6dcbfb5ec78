//! What staged policies would change, from all nodes, written to the policies: `staged_report`.
//!
//! Nodes know rules, people know policies. Whoever made a policy - a person, the Kubernetes manager - finds the sum at the
//! policy's object. It is written when it differs, and at most every few seconds.

use crate::core::Core;
use crate::service::Shared;
use serde_json::{Value, json};
use skein_client::Client;
use skein_model::views::FirewallPolicy;
use skein_model::{Graph, Kind, Object};
use skein_proto::session::StagedChange;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tracing::debug;
use uuid::Uuid;

/// How often reports are compared with what is written.
const INTERVAL: Duration = Duration::from_secs(5);
/// Examples of a report.
const EXAMPLES: usize = 4;

/// What is known of one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Report {
    would_deny: u64,
    would_allow: u64,
    examples: BTreeSet<String>,
}

impl Report {
    fn value(&self) -> Value {
        let examples: Vec<&String> = self.examples.iter().take(EXAMPLES).collect();
        json!({
            "would_deny": self.would_deny, "would_allow": self.would_allow, "examples": examples,
        })
    }
}

/// Sums up by staged policies. Rules of policies in force can decide there, too: those are not theirs.
fn sum<'a>(
    graph: &Graph,
    changes: impl Iterator<Item = &'a StagedChange>,
) -> BTreeMap<Uuid, Report> {
    let mut reports: BTreeMap<Uuid, Report> = BTreeMap::new();
    for change in changes {
        let Ok(rule) = change.rule.parse::<Uuid>() else { continue };
        for policy in graph.back_references_from(rule, Kind::FIREWALL_POLICY).filter(|p| staged(p))
        {
            let report = reports.entry(policy.uuid).or_default();
            let (count, word) = if change.would_deny {
                (&mut report.would_deny, "deny")
            } else {
                (&mut report.would_allow, "allow")
            };
            *count += change.connections;
            report.examples.insert(format!("would {word} {}", change.example));
        }
    }
    reports
}

fn staged(policy: &Object) -> bool {
    FirewallPolicy::of(policy).and_then(FirewallPolicy::staged) == Some(true)
}

/// Policies whose report is to be written, with what they should have; null: none.
fn due(core: &Core) -> Vec<(Uuid, Value)> {
    let graph = core.engine().graph();
    let nodes = core.nodes().filter(|(_, node)| node.connected());
    let reports = sum(graph, nodes.flat_map(|(_, node)| &node.status.staged));
    let mut due = Vec::new();
    for policy in graph.of_kind(Kind::FIREWALL_POLICY) {
        let written = policy.properties.get("staged_report").unwrap_or(&Value::Null);
        let wanted = match reports.get(&policy.uuid) {
            Some(report) => report.value(),
            // What was found stays while the policy is staged: nodes forget when they start again.
            None if staged(policy) => continue,
            None => Value::Null,
        };
        if *written != wanted {
            due.push((policy.uuid, wanted));
        }
    }
    due
}

/// Whether the API beside this controller is the one that writes. Of several controllers each may hear other nodes for a while,
/// and would put right what the other one has just written; so the one beside the leader writes alone.
async fn leads(client: &Client) -> bool {
    let Ok(metrics) = client.text("/metrics").await else { return false };
    let mut lines = metrics.lines().filter_map(|line| line.strip_prefix("skein_api_leader "));
    // One that is alone does not speak of it.
    lines.next().is_none_or(|value| value.trim() == "1")
}

/// Writes reports until the task is dropped.
pub(crate) async fn report(client: Client, shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let due = shared.read(due);
        if due.is_empty() || !leads(&client).await {
            continue;
        }
        for (policy, report) in due {
            let fields = json!({ "staged_report": report });
            if let Err(error) = client.update(Kind::FIREWALL_POLICY, policy, fields).await {
                debug!(%policy, %error, "a report is not written; tried again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_model::{Change, FqName, Reference};

    #[test]
    fn changes_are_summed_by_the_staged_policy_of_the_rule() {
        let (rule, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let mut graph = Graph::default();
        let mut put = |kind, uuid: u128, name: &str, staged: bool, to: Option<Uuid>| {
            let to = to.map(|uuid| Reference {
                kind: Kind::FIREWALL_RULE,
                uuid,
                attr: Value::Null,
                relaxed: false,
            });
            let object = Object {
                uuid: Uuid::from_u128(uuid),
                kind,
                fq_name: FqName::single(name),
                parent: None,
                properties: serde_json::Map::from_iter([("staged".to_owned(), staged.into())]),
                references: to.into_iter().collect(),
                created_revision: 1,
                revision: 1,
            };
            graph.apply(&Change::Put(Arc::new(object)));
        };
        put(Kind::FIREWALL_RULE, 1, "r", false, None);
        put(Kind::FIREWALL_RULE, 2, "s", false, None);
        put(Kind::FIREWALL_POLICY, 3, "p", true, Some(rule));
        put(Kind::FIREWALL_POLICY, 4, "q", false, Some(other));
        let change = |rule: Uuid, would_deny, connections| StagedChange {
            rule: rule.to_string(),
            would_deny,
            egress: false,
            connections,
            example: "a -> b tcp 80".into(),
        };
        let all = [
            change(rule, true, 2),
            change(rule, true, 3),
            change(rule, false, 1),
            change(other, true, 9),
        ];
        let sums = sum(&graph, all.iter());
        assert_eq!(sums.len(), 1);
        assert_eq!(
            sums[&Uuid::from_u128(3)].value(),
            json!({"would_deny": 5, "would_allow": 1,
                   "examples": ["would allow a -> b tcp 80", "would deny a -> b tcp 80"]})
        );
    }
}
