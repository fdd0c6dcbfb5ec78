//! Pods with an interface in each of three networks.

use super::reach::{ANSWER, all_answer, both, web};
use super::stage::{SETTLED, Stage};
use serde_json::Value;
use skein_lab::kubernetes::{ClusterError, KubePod};
use skein_lab::wait_for;

const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// Interface and the network it is in.
const INTERFACES: [(&str, &str); 3] =
    [("eth0", "10.244."), ("eth1", "10.20.0."), ("eth2", "10.21.0.")];

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let others = stage.others.clone();
    stage.apply("several-networks.yaml")?;
    let pods = stage.ready("pods of three networks are ready", "default", "several", 3)?;
    let Some(first) = pods.first() else { return Ok(()) };
    let shown = stage.kubectl(&["exec", &first.name, "--", "ip", "-4", "-o", "addr"])?;
    for line in shown.stdout.lines() {
        stage.screen.say(&format!("    {}", line.split(" brd").next().unwrap_or(line)));
    }
    stage.step("each has eth0, eth1 and eth2 in the order of the annotation", |_| {
        for pod in &pods {
            for (interface, prefix) in INTERFACES {
                address(pod, interface, prefix)?;
            }
        }
        Ok(String::new())
    });
    for (interface, prefix) in &INTERFACES[1..] {
        let text = format!("they reach each other over {interface}, seen with its addresses");
        stage.step(&text, |_| {
            let mut targets = Vec::new();
            for pod in &pods {
                targets.push(format!("tcp:{}:80", address(pod, interface, prefix)?));
            }
            for pod in &pods {
                let held = wait_for("answers", SETTLED, || {
                    let outcomes = pod.ask(&targets, ANSWER).map_err(|error| error.to_string())?;
                    let right = outcomes.iter().all(|outcome| {
                        outcome.answer.as_ref().is_some_and(|a| a.client.starts_with(prefix))
                    });
                    if right { Ok(()) } else { Err(format!("{outcomes:?}")) }
                });
                held.map_err(|error| error.to_string())?;
            }
            Ok(format!("{prefix}0/24"))
        });
    }
    stage.step("and everyone over eth0", |_| {
        both(all_answer(&others, &web(&pods)), all_answer(&pods, &web(&others)))
    });
    stage.step("network-status tells all three", |stage| {
        let path = format!("/api/v1/namespaces/default/pods/{}", first.name);
        let told = stage.cluster.api().wait("network-status", &path, SETTLED, |object| {
            object["metadata"]["annotations"][STATUS].is_string()
        });
        let told = told.map_err(|error| error.to_string())?;
        let text = told["metadata"]["annotations"][STATUS].as_str().unwrap_or_default();
        let status: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let names: Vec<&str> =
            status.as_array().into_iter().flatten().filter_map(|n| n["name"].as_str()).collect();
        let wanted = ["cluster-wide-default", "default/left", "default/right"];
        if names == wanted { Ok(names.join(", ")) } else { Err(text.to_owned()) }
    });
    Ok(())
}

/// A pod's address on an interface, which begins so.
fn address(pod: &KubePod, interface: &str, prefix: &str) -> Result<String, String> {
    let ran = pod.run("/bin/ip", &["-4", "addr", "show", interface]);
    let shown = ran.map_err(|error| error.to_string())?.stdout;
    let mut words = shown.split_whitespace();
    let found = words.find(|word| word.starts_with(prefix)).and_then(|word| word.split('/').next());
    found.map(str::to_owned).ok_or_else(|| format!("{}: {interface}: {shown}", pod.name))
}
