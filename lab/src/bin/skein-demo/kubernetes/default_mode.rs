//! Pods in the cluster's own network.

use super::Stage;
use super::reach::ANSWER;
use super::stage::SETTLED;
use skein_lab::kubernetes::{ClusterError, KubePod};
use skein_lab::wait_for;

const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
const PODS: usize = 9;

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    stage.apply("pods.yaml")?;
    let pods = stage.ready("nine pods on three nodes are ready", "default", "probe", PODS)?;
    for protocol in PROTOCOLS {
        let text = format!("every pod reaches every pod by {}", protocol.to_uppercase());
        stage.step(&text, |_| {
            let held = wait_for("all pairs", SETTLED, || pairs(&pods, protocol));
            held.map_err(|error| error.to_string())
        });
    }
    // One a node: they are in the nodes' order.
    let mut others = pods;
    others.dedup_by(|a, b| a.node == b.node);
    if let [from, to, ..] = others.as_slice() {
        users_way(stage, from, to)?;
    }
    stage.others = others;
    Ok(())
}

/// The right pod answers, and sees the asker's own address.
fn pairs(pods: &[KubePod], protocol: &str) -> Result<String, String> {
    let targets: Vec<String> =
        pods.iter().map(|pod| format!("{protocol}:{}:80", pod.address)).collect();
    let mut good = 0;
    for from in pods {
        let outcomes = from.ask(&targets, ANSWER).map_err(|error| error.to_string())?;
        let own = format!("{}:", from.address);
        let answers =
            pods.iter().zip(&outcomes).filter_map(|(to, o)| Some((to, o.answer.as_ref()?)));
        good += answers.filter(|(to, a)| a.pod == to.name && a.client.starts_with(&own)).count();
    }
    let all = pods.len() * pods.len();
    let said = format!("{good} of {all}, none behind another's address");
    if good == all { Ok(said) } else { Err(said) }
}

fn users_way(stage: &mut Stage<'_>, from: &KubePod, to: &KubePod) -> Result<(), ClusterError> {
    let arguments = ["exec", &from.name, "--", "ping", "-c", "1", &to.address];
    let mut first = Some(stage.kubectl(&arguments)?);
    stage.step("the ping is answered by a pod on another node", |stage| {
        // The node's kubelet asks the API server whether kubectl may: on a slow machine that takes longer than it waits.
        let pinged = wait_for("an answer", SETTLED, || {
            let ran = first.take().map_or_else(|| stage.kubectl_quietly(&arguments), Ok);
            let ran = ran.map_err(|error| error.to_string())?;
            if ran.ok() { Ok(()) } else { Err(format!("{}{}", ran.stdout, ran.stderr)) }
        });
        pinged.map(|()| String::new()).map_err(|error| error.to_string())
    });
    let ran = stage.kubectl(&["logs", &to.name])?;
    stage.step("the log is that of the pod", |_| {
        if ran.stdout.starts_with(&to.name) { Ok(ran.stdout.clone()) } else { Err(ran.stderr) }
    });
    Ok(())
}
