//! What cannot be done is said where its user looks.

use super::stage::{SETTLED, Stage};
use serde_json::Value;
use skein_lab::kubernetes::ClusterError;
use skein_lab::wait_for;
use std::time::Duration;

/// Kind, name, reason of the Event.
const TOLD: [(&str, &str, &str); 4] = [
    ("Namespace", "mistaken", "BadAnnotation"),
    ("Service", "mistaken", "UnknownPool"),
    ("Pod", "mistaken", "UnknownNetwork"),
    ("Pod", "mistaken-too", "BadAnnotation"),
];
/// A runtime waits 20 s for a pod's announcement before it says what is missing.
const ANNOUNCED: Duration = Duration::from_secs(60);

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    stage.apply("bad-annotations.yaml")?;
    for (kind, name, reason) in TOLD {
        stage.step(&format!("the {kind} {name} has an Event {reason}"), |stage| {
            let held = wait_for("an Event", SETTLED, || told(stage, kind, name, reason));
            held.map_err(|error| error.to_string())
        });
    }
    Ok(())
}

/// The message of an Event.
fn told(stage: &Stage<'_>, kind: &str, name: &str, reason: &str) -> Result<String, String> {
    let all = stage.cluster.api().list("/api/v1/events").map_err(|error| error.to_string())?;
    let about = |event: &&Value| {
        let object = &event["involvedObject"];
        object["kind"] == kind && object["name"] == name && event["reason"] == reason
    };
    let found = all.iter().find(about).ok_or("there is none")?;
    Ok(found["message"].as_str().unwrap_or_default().to_owned())
}

/// The pods' runtimes say so, too, and nothing hangs.
pub(super) fn pods_say_why(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    for name in ["mistaken", "mistaken-too"] {
        let text =
            format!("the pod {name}, asked for before, does not start, and its runtime says why");
        stage.step(&text, |stage| {
            let held = wait_for("the runtime's words", ANNOUNCED, || {
                let path = format!("/api/v1/namespaces/default/pods/{name}");
                let pod = stage.cluster.api().get(&path).map_err(|error| error.to_string())?;
                if pod["status"]["phase"] != "Pending" {
                    return Err(format!("it is {}", pod["status"]["phase"]));
                }
                told(stage, "Pod", name, "FailedCreatePodSandBox")
            });
            let said = held.map_err(|error| error.to_string())?;
            // The runtime's own words come first.
            let own = said.rfind("failed (add): ").map_or(0, |at| at + "failed (add): ".len());
            Ok(said[own..].to_owned())
        });
    }
    stage.remove("bad-annotations.yaml")?;
    stage.step("and both go when they are deleted", |stage| {
        let held = wait_for("the pods to go", ANNOUNCED, || {
            let left = stage.cluster.api().list("/api/v1/namespaces/default/pods");
            let left = left.map_err(|error| error.to_string())?;
            let name =
                |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let left: Vec<String> =
                left.iter().map(name).filter(|name| name.starts_with("mistaken")).collect();
            if left.is_empty() { Ok(String::new()) } else { Err(left.join(", ")) }
        });
        held.map_err(|error| error.to_string())
    });
    Ok(())
}
