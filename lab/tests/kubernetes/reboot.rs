//! A node loses power and boots: its pods come back where they were, and nothing of what was before stands in their way.

use crate::held::Held;
use crate::{
    NODES, PATIENCE, PER_NODE, PODS_READY, Steps, assert_all_pairs, assert_hosts_reach, quickly,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, SkeinNetwork};
use skein_lab::wait_for;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Instant;

const POD: &str = "/api/v1/namespaces/default/pods/lost";

pub(crate) fn check(
    cluster: &mut Cluster,
    network: &mut SkeinNetwork,
    held: &Held,
    steps: &mut Steps,
) {
    let count = NODES * PER_NODE;
    let before = cluster.wait_pods("default", "app=probe", count, PODS_READY).unwrap();
    let number = 1;
    let name = cluster.nodes()[number].name().to_owned();
    // It is deleted while its node is away: its network must not come back with the node.
    let lost = json!({
        "metadata": {"name": "lost", "labels": {"app": "lost"}},
        "spec": {
            "nodeName": name, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        },
    });
    cluster.api().create("/api/v1/namespaces/default/pods", &lost).unwrap();
    let lost = cluster.wait_pods("default", "app=lost", 1, PODS_READY).unwrap().remove(0);
    // A service by whose address a node's own pods and everyone else's are asked.
    let service = json!({
        "metadata": {"name": "after-boot"},
        "spec": {"selector": {"app": "probe"}, "ports": [{"port": 8080, "targetPort": 80}]},
    });
    let services = "/api/v1/namespaces/default/services";
    let made = cluster.api().create(services, &service).unwrap();
    let vip = format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap());

    network.agent(number).kill().unwrap();
    cluster.power_off(number).unwrap();
    cluster.api().delete(&format!("{POD}?gracePeriodSeconds=0")).unwrap();
    assert!(host_ends(cluster, number).is_empty(), "the lab did not switch it off");
    let since = Instant::now();
    cluster.boot(number).unwrap();
    network.boot_agent(number, &cluster.nodes()[number]).unwrap();
    println!("kubelet and agent are back after {:.1} s", since.elapsed().as_secs_f64());
    let after = wait_for("the node's pods to run again", PODS_READY, || {
        let all = cluster.pods("default", "app=probe").map_err(|error| error.to_string())?;
        let again = |pod: &&KubePod| {
            let old = before.iter().find(|old| old.uid == pod.uid);
            pod.ready && old.is_some_and(|old| pod.node != name || old.containers != pod.containers)
        };
        let ready = all.iter().filter(again).count();
        if ready == count {
            return Ok(all);
        }
        let events = cluster.events("default").unwrap_or_default();
        Err(format!("{ready} of {count}: {all:?}\n{}", events.join("\n")))
    })
    .unwrap_or_else(|error| panic!("{error}"));
    println!("its pods are ready after {:.1} s", since.elapsed().as_secs_f64());
    steps.done("a node switched off and booted");

    // The same pods have the same addresses in new sandboxes, and everyone reaches everyone.
    for pod in &after {
        let old = before.iter().find(|old| old.uid == pod.uid).unwrap();
        assert_eq!(old.addresses, pod.addresses, "{}", pod.name);
    }
    assert_all_pairs(&after, quickly);
    assert_hosts_reach(cluster, &after);
    for pod in &after {
        let answer = crate::wait_answer(pod, &vip);
        assert!(answer.pod.starts_with("probe"), "{answer:?}");
    }
    // Nobody who is kept out got in before the policies were in force again.
    held.check(cluster, "a boot");
    nothing_is_stale(cluster, network, number, &after, &lost);
    // Its address is free, and whoever has it next is reached.
    cluster.api().delete(&format!("{services}/after-boot")).unwrap();
    steps.done("traffic, addresses and ports after the boot");
}

/// The host's ends of pods' interfaces.
fn host_ends(cluster: &Cluster, number: usize) -> BTreeSet<String> {
    let host = cluster.nodes()[number].host();
    let shown = host.run(Command::new("ip").args(["-o", "link", "show", "type", "veth"])).unwrap();
    let names = shown.stdout.lines().filter_map(|line| line.split(": ").nth(1));
    let names = names.map(|name| name.split('@').next().unwrap_or(name).to_owned());
    names.filter(|name| name.starts_with("sk") && name.len() == 14).collect()
}

/// What the node shows, what its kernel has and what pods there are, are the same.
fn nothing_is_stale(
    cluster: &Cluster,
    network: &SkeinNetwork,
    number: usize,
    pods: &[KubePod],
    lost: &KubePod,
) {
    let name = cluster.nodes()[number].name();
    wait_for("the node to show its pods and nothing else", PATIENCE, || {
        // Each time: of pods that it started last, the kubelet may not have told yet.
        let all = cluster.api().list("/api/v1/pods").map_err(|error| error.to_string())?;
        let here = all.iter().filter(|pod| {
            pod["spec"]["nodeName"] == name
                && pod["spec"]["hostNetwork"] != true
                && pod["status"]["phase"] == "Running"
        });
        let wanted: BTreeSet<String> = here
            .flat_map(|pod| pod["status"]["podIPs"].as_array().cloned().unwrap_or_default())
            .filter_map(|ip| ip["ip"].as_str().map(str::to_owned))
            .collect();
        let own = pods.iter().filter(|pod| pod.node == name);
        if let Some(pod) = own.into_iter().find(|pod| !wanted.contains(&pod.address)) {
            return Err(format!("{} has no address in its status", pod.name));
        }
        let ran = network.skein_on(number, &["vrouter", "interfaces", "-o", "json"]);
        let text = ran.map_err(|error| error.to_string())?.stdout;
        let shown: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let workloads: Vec<&Value> = shown
            .as_array()
            .into_iter()
            .flatten()
            .filter(|one| one["host_interface"].as_str().is_some_and(|name| name.starts_with("sk")))
            .filter(|one| one["host_interface"] != "skein0")
            .collect();
        let addresses: BTreeSet<String> = workloads
            .iter()
            .flat_map(|one| one["addresses"].as_array().cloned().unwrap_or_default())
            .filter_map(|address| Some(address.as_str()?.split('/').next()?.to_owned()))
            .collect();
        let devices: BTreeSet<String> = workloads
            .iter()
            .filter_map(|one| one["host_interface"].as_str().map(str::to_owned))
            .collect();
        let active = workloads.iter().all(|one| one["active"] == true);
        let kernel = host_ends(cluster, number);
        if addresses == wanted && devices == kernel && active {
            return Ok(());
        }
        Err(format!("shown {workloads:?}; devices {kernel:?}; pods have {wanted:?}"))
    })
    .unwrap_or_else(|error| panic!("{error}"));
    // What was deleted meanwhile is gone everywhere: from the configuration, too.
    wait_for("the deleted pod's objects to go", PATIENCE, || {
        for kind in ["virtual-machine", "virtual-machine-interface"] {
            let list = network.skein(&["get", kind]).map_err(|error| error.to_string())?.stdout;
            if let Some(line) = list.lines().find(|line| line.contains("lost")) {
                return Err(format!("{line} of {}", lost.uid));
            }
        }
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{error}"));
}
