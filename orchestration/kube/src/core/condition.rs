//! What a pod's status says about its network: nothing, unless something is wrong or was.

use crate::desired::{IGNORED, Patch, Problem, shortened};
use crate::key::Key;
use crate::objects::{NETWORK_READY, NetworkCondition, Pod};
use serde_json::{Value, json};

/// The change of a pod's status that is missing. `settled`: it has all that it asks for.
pub(super) fn patch(key: &Key, pod: &Pod, problems: &[Problem], settled: bool) -> Option<Patch> {
    // What ended says for good how it was.
    if !pod.is_attached() {
        return None;
    }
    let before = pod.condition.as_deref();
    let problems: Vec<&Problem> = problems.iter().filter(|one| one.reason != IGNORED).collect();
    let wanted = match problems.first() {
        Some(first) => {
            let texts: Vec<&str> = problems.iter().map(|one| one.message.as_str()).collect();
            NetworkCondition {
                ready: false,
                reason: first.reason.to_owned(),
                message: shortened(&texts.join("; ")),
            }
        }
        // Who never had a problem is told nothing, and who has one no more only when all is made.
        None if settled && before.is_some() => NetworkCondition {
            ready: true,
            reason: "Made".into(),
            message: "its interfaces are made as it asks".into(),
        },
        None => return None,
    };
    if before == Some(&wanted) {
        return None;
    }
    let mut condition = json!({
        "type": NETWORK_READY, "status": if wanted.ready { "True" } else { "False" },
        "reason": wanted.reason, "message": wanted.message,
    });
    if before.is_none_or(|before| before.ready != wanted.ready) {
        condition["lastTransitionTime"] = Value::Null;
    }
    // A pod that was made anew by the same name meanwhile is another one.
    let body = json!({"metadata": {"uid": pod.meta.uid}, "status": {"conditions": [condition]}});
    Some(Patch { key: key.clone(), status: true, body })
}
