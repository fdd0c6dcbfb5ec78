//! What Kubernetes itself does for tenants, on this network: quotas by priority, and as many pods as are wanted.

use super::reach::{ANSWER, answered_by};
use super::services::OFTEN;
use super::stage::{SETTLED, Stage};
use skein_lab::kubernetes::{ClusterError, KubePod};
use skein_lab::wait_for;
use std::time::Duration;

const BURST: usize = 10;
const PODS_READY: Duration = Duration::from_secs(90);

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let Some(client) = stage.others.first().cloned() else { return Ok(()) };
    stage.apply("tenants.yaml")?;
    stage.ready("pods of high priority run", "tenants", "gold", 2)?;
    stage.ready("of low priority one does", "tenants", "bronze", 1)?;
    stage.step("the second one is over the quota of its class", |stage| {
        let held = wait_for("a refusal", SETTLED, || {
            let events = stage.cluster.events("tenants").map_err(|error| error.to_string())?;
            let told = events.iter().find(|event| event.contains("exceeded quota: bronze"));
            told.cloned().ok_or_else(|| events.join("\n"))
        });
        held.map(|_| "exceeded quota: bronze".into()).map_err(|error| error.to_string())
    });
    let target = stage.service("tenants", "gold")?;
    for count in [BURST, 3] {
        let replicas = format!("--replicas={count}");
        stage.kubectl(&["scale", "-n", "tenants", "deployment", "gold", &replicas])?.success()?;
        let text = format!("{count} pods are ready, and these and no others serve");
        stage.step(&text, |stage| {
            let pods = wait_for("these pods", PODS_READY, || living(stage, count));
            let pods = pods.map_err(|error| error.to_string())?;
            let targets = vec![target.clone(); OFTEN];
            answered_by(&pods, || client.ask(&targets, ANSWER)).map(|_| String::new())
        });
    }
    Ok(())
}

/// Pods that are ready and not on their way out, when they are as many.
fn living(stage: &Stage<'_>, count: usize) -> Result<Vec<KubePod>, String> {
    let all = stage.cluster.pods("tenants", "app=gold").map_err(|error| error.to_string())?;
    let stays = |pod: &KubePod| pod.ready && pod.object["metadata"]["deletionTimestamp"].is_null();
    let living: Vec<KubePod> = all.into_iter().filter(stays).collect();
    if living.len() == count { Ok(living) } else { Err(format!("{} are", living.len())) }
}
