//! The switch `cluster_wide_policy_action`: the first rule that fits decides for both ends of a connection, as in the original. The guide's
//! three scenarios, on packets, with the switch off, on and off again.

use crate::{ANSWER, PATIENCE, PODS_READY, Steps, create_namespace, create_pod};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, NetworkOptions, PROBE_IMAGE, SkeinNetwork};
use skein_lab::wait_for;
use std::time::Duration;

const SPACE: &str = "wide";
const SILENCE: Duration = Duration::from_millis(500);
/// Where the manager with the switch tells its status.
const PORT: u16 = 8119;
const OWN_PORT: u16 = 8108;

/// Who asks whom, and whether there is to be an answer.
type Table<'a> = Vec<(&'a KubePod, &'a KubePod, bool)>;

pub(crate) fn check(
    cluster: &Cluster,
    network: &mut SkeinNetwork,
    options: &NetworkOptions,
    other: &KubePod,
    steps: &mut Steps,
) {
    create_namespace(cluster, &json!({"name": SPACE}));
    let [a, b] = ["a", "b"].map(|name| {
        let node = cluster.nodes()[usize::from(name == "b")].name();
        create_pod(
            cluster,
            SPACE,
            &json!({
                "metadata": {"name": name, "labels": {"app": name}},
                "spec": {
                    "nodeName": node, "terminationGracePeriodSeconds": 1,
                    "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
                },
            }),
        );
        cluster.wait_pods(SPACE, &format!("app={name}"), 1, PODS_READY).unwrap().remove(0)
    });
    let (a, b) = (&a, &b);
    let every = json!({});
    let only = |pod: &KubePod| json!({"matchLabels": pod.object["metadata"]["labels"]});
    let passes = json!([{}]);
    let cidr = json!([{"to": [{"ipBlock": {"cidr": format!("{}/32", b.address)}}]}]);
    let scenario = |number: usize, wide: bool| -> ([Value; 2], Table<'_>) {
        match number {
            0 => (
                [out(&every, &passes), into(&every, &json!([]))],
                vec![
                    (a, b, wide),
                    (b, a, wide),
                    (other, a, false),
                    (other, b, false),
                    (a, other, true),
                ],
            ),
            1 => (
                [into(&every, &passes), out(&every, &json!([]))],
                vec![
                    (a, b, wide),
                    (b, a, wide),
                    (a, other, false),
                    (b, other, false),
                    (other, a, true),
                ],
            ),
            _ => (
                [out(&only(a), &cidr), into(&only(b), &json!([]))],
                vec![(a, b, wide), (other, b, false), (b, a, true), (a, other, false)],
            ),
        }
    };
    let hold = |number: usize, wide: bool| {
        let (policies, table) = scenario(number, wide);
        for policy in policies {
            cluster.apply(&policy.to_string()).unwrap();
        }
        expect(&format!("scenario {number}, cluster-wide: {wide}"), &table);
    };
    hold(0, false);

    // A manager with the switch takes over from one that ends in order.
    let file = cluster.state().join("wide.toml");
    std::fs::write(&file, "[cluster]\ncluster_wide_policy_action = true\n").unwrap();
    let mut options = options.clone();
    options.manager_arguments.extend(["--config".into(), file.display().to_string()]);
    let mut wide = network.standby_manager(cluster, &options, PORT).unwrap();
    network.manager.stop().unwrap();
    wait_leading(cluster, PORT);
    for number in 0..3 {
        hold(number, true);
    }
    steps.done("policies whose first fitting rule decides for both ends");

    network.restart_manager().unwrap();
    wide.stop().unwrap();
    wait_leading(cluster, OWN_PORT);
    expect("scenario 2, no more", &scenario(2, false).1);
    cluster.api().delete(&format!("/api/v1/namespaces/{SPACE}")).unwrap();
    steps.done("each end decides for itself again");
}

fn policy(name: &str, subject: &Value, direction: &str, rules: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {"podSelector": subject, "policyTypes": [direction], direction.to_lowercase(): rules},
    })
}

fn into(subject: &Value, rules: &Value) -> Value {
    policy("into", subject, "Ingress", rules)
}

fn out(subject: &Value, rules: &Value) -> Value {
    policy("out", subject, "Egress", rules)
}

/// Waits until everything is as it is to be, all at one time.
fn expect(what: &str, table: &Table<'_>) {
    wait_for(what, PATIENCE, || {
        for (from, to, wanted) in table {
            let target = [format!("tcp:{}:80", to.address)];
            let outcomes = from.ask(&target, if *wanted { ANSWER } else { SILENCE }).unwrap();
            if outcomes[0].answered() != *wanted {
                return Err(format!("{} to {}, wanted {wanted}: {outcomes:?}", from.name, to.name));
            }
        }
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

fn wait_leading(cluster: &Cluster, port: u16) {
    wait_for("a manager to lead", PATIENCE, || {
        let answer = cluster.control_host().http(port, "GET", "/v1/status", "");
        let body = answer.map_err(|error| error.to_string())?.body;
        let status: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        if status["leading"] == true { Ok(()) } else { Err(body) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}
