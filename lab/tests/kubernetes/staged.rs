//! Staged policies: nothing is refused or let in because of them, and their writer learns what they would do.

use crate::{ANSWER, PATIENCE, Steps, other_node};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, SkeinNetwork};
use skein_lab::wait_for;
use std::time::Duration;

const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
/// Nodes tell controllers every 5 s, and controllers write as often.
const REPORTED: Duration = Duration::from_secs(90);

pub(crate) fn check(
    cluster: &Cluster,
    network: &SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    let target = pods.iter().find(|pod| pod.name.starts_with("probe1")).unwrap();
    let asker = other_node(pods, target);
    let node = cluster.nodes().iter().position(|node| node.name() == target.node).unwrap();
    let at = |port: u16| [format!("tcp:{}:{port}", target.address)];
    assert_eq!(changes(network, node), json!([]), "nothing is staged");

    // What passes and would be refused.
    let narrow = json!({
        "podSelector": {"matchLabels": {"set": "probe1"}},
        "ingress": [{"ports": [{"port": 81}]}],
    });
    create(cluster, "narrow", true, &narrow);
    let shown = until(network, node, "a refusal", |change| {
        let outcome = &asker.ask(&at(80), ANSWER).unwrap()[0];
        assert!(outcome.answered(), "a staged policy is in force: {outcome:?}");
        let last = change["last"].as_str().unwrap_or_default().to_owned();
        change["would"] == "deny" && last.ends_with(&format!("-> {} tcp 80", target.address))
    });
    assert_eq!(shown["direction"], "ingress", "{shown}");
    assert!(shown["samples"][0]["interface"].is_string(), "{shown}");
    let metrics = cluster.nodes()[node].host().http(8085, "GET", "/metrics", "").unwrap().body;
    assert!(metrics.contains("skein_staged_connections_total{would=\"deny\""), "{metrics}");
    told(cluster, "narrow", "would deny");
    remove(cluster, "narrow");
    wait_for("the node to forget", PATIENCE, || match changes(network, node) {
        Value::Array(list) if list.is_empty() => Ok(()),
        other => Err(other.to_string()),
    })
    .unwrap();
    steps.done("a staged policy that would refuse");

    // What is refused and would pass.
    let shut = json!({"podSelector": {"matchLabels": {"set": "probe1"}}, "ingress": []});
    create(cluster, "shut", false, &shut);
    create(cluster, "narrow", true, &narrow);
    until(network, node, "a passage", |change| {
        asker.ask(&at(81), Duration::from_millis(200)).unwrap();
        change["would"] == "allow" && change["last"].as_str().unwrap().ends_with("tcp 81")
    });
    let outcome = &asker.ask(&at(81), Duration::from_millis(500)).unwrap()[0];
    assert!(!outcome.answered(), "{outcome:?}");
    told(cluster, "narrow", "would allow");
    // In force, it does what was told.
    let path = format!("{POLICIES}/narrow");
    let off = json!({"metadata": {"annotations": {"skein.io/staged": null}}});
    cluster.api().merge(&path, &off).unwrap();
    wait_for("the policy to be in force", PATIENCE, || {
        let outcomes = asker.ask(&at(81), Duration::from_millis(300)).unwrap();
        if outcomes[0].answered() { Ok(()) } else { Err(format!("{outcomes:?}")) }
    })
    .unwrap();
    for name in ["narrow", "shut"] {
        remove(cluster, name);
    }
    wait_for("all to pass again", PATIENCE, || {
        let outcomes = asker.ask(&at(80), Duration::from_millis(300)).unwrap();
        if outcomes[0].answered() { Ok(()) } else { Err(format!("{outcomes:?}")) }
    })
    .unwrap();
    steps.done("a staged policy that would let pass");
}

fn create(cluster: &Cluster, name: &str, staged: bool, spec: &Value) {
    let mut metadata = json!({ "name": name });
    if staged {
        metadata["annotations"] = json!({"skein.io/staged": "true"});
    }
    cluster.api().create(POLICIES, &json!({"metadata": metadata, "spec": spec})).unwrap();
}

fn remove(cluster: &Cluster, name: &str) {
    cluster.api().delete(&format!("{POLICIES}/{name}")).unwrap();
}

fn changes(network: &SkeinNetwork, node: usize) -> Value {
    let shown = network.skein_on(node, &["vrouter", "staged", "-o", "json"]).unwrap();
    serde_json::from_str(&shown.success().unwrap()).unwrap()
}

/// Waits for a change that the node tells.
fn until(
    network: &SkeinNetwork,
    node: usize,
    what: &str,
    mut is_it: impl FnMut(&Value) -> bool,
) -> Value {
    wait_for(what, PATIENCE, || {
        let all = changes(network, node);
        // Asked even while there is none: it makes the connections.
        let none = json!({"would": "", "last": ""});
        let list = all.as_array().unwrap();
        let found = list.iter().chain([&none]).find(|change| is_it(change)).cloned();
        found.ok_or_else(|| all.to_string())
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// Waits for the Event at the policy.
fn told(cluster: &Cluster, name: &str, what: &str) {
    wait_for("an Event", REPORTED, || {
        let events = cluster.events("default").unwrap();
        let wanted = format!("{name}: StagedPolicy:");
        if events.iter().any(|event| event.starts_with(&wanted) && event.contains(what)) {
            Ok(())
        } else {
            Err(events.join("\n"))
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}
