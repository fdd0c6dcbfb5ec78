//! `skein-bench kubernetes`: a real cluster of three nodes, its figures beside their goals.
//!
//! What is the runtime's is measured by a plugin that does nothing, in the same run; what is Kubernetes' own is left out by
//! starting the clock at the object that Skein follows.

use crate::figure::{Better, Figures};
use crate::measure::{median, programs_folder};
use crate::network::resident_mebibytes;
use crate::{rules, services};
use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Asker, Cluster, ClusterError, ClusterOptions, KubePod, PROBE_IMAGE, SkeinNetwork,
};
use skein_lab::wait_for;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Pods that start at one time.
const BURST: usize = 100;
/// Pods that start one after the other.
const SINGLE: usize = 12;
const ROUNDS: usize = 10;
const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(40);
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
/// Objects of the large cluster that only the API server knows.
const MANY: (usize, usize, usize) = (5000, 1000, 500);
const THREADS: usize = 8;

/// A plugin that gives addresses and does nothing: what a pod's start costs without a network.
const NULL_PLUGIN: &str = r#"#!/bin/sh
[ "$CNI_COMMAND" = ADD ] || { echo '{}'; exit 0; }
n=$(( $$ % 60000 ))
echo '{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"version":"4","interface":0,"address":"10.99.'$((n / 256)).$((n % 256))'/16"}]}'
"#;

pub(crate) fn file(
    path: &Path,
    action: &'static str,
) -> impl FnOnce(std::io::Error) -> ClusterError {
    let path = path.to_owned();
    move |source| skein_lab::LabError::File { action, path, source }.into()
}

/// Measures the cluster.
pub(crate) fn everything(figures: &mut Figures) -> Result<(), ClusterError> {
    let mut cluster = Cluster::start("skbk", ClusterOptions::new(&programs_folder()))?;
    let (mut network, pods) = start(figures, &cluster)?;
    members(figures, &cluster, &pods)?;
    policy(figures, &cluster, &pods)?;
    delete(&cluster, &pods)?;
    rules::measure(figures, &cluster)?;
    services::measure(figures, &mut cluster)?;
    many(figures, &cluster, &mut network)
}

/// Measures how pods start, and how soon members and policies are in force; none of what needs many objects.
pub(crate) fn pods(figures: &mut Figures) -> Result<(), ClusterError> {
    let cluster = Cluster::start("skbk", ClusterOptions::new(&programs_folder()))?;
    let (_network, pods) = start(figures, &cluster)?;
    members(figures, &cluster, &pods)?;
    policy(figures, &cluster, &pods)?;
    delete(&cluster, &pods)
}

/// How pods start, beside the runtime alone; leaves the network and the pods of the burst.
fn start(
    figures: &mut Figures,
    cluster: &Cluster,
) -> Result<(SkeinNetwork, Vec<KubePod>), ClusterError> {
    crate::say("Pods without a network: the runtime alone");
    let null = without_network(cluster)?;
    crate::say("The same pods with Skein");
    let network = SkeinNetwork::install(cluster, &services::network_options(cluster)?)?;
    let single = one_by_one(cluster, "single")?;
    figures.add(
        "pod start, median, beyond the runtime's own",
        (single - null.0) * 1e3,
        "ms",
        format!(
            "sandbox without network: {:.0} ms; ours: {:.0} ms, of which {}",
            null.0 * 1e3,
            single * 1e3,
            steps(cluster)?
        ),
        50.0,
        Better::Lower,
    );
    let running = burst(cluster, "burst")?;
    let since = Instant::now();
    let pods = cluster.pods("default", "app=burst")?;
    let reached = all_reach_all(&pods)?;
    let own = running + reached - null.1;
    figures.add(
        "100 pods in parallel, all reach all, beyond the runtime's own",
        own,
        "s",
        format!(
            "runtime alone: {:.1} s; ours: {running:.1} s, then {:.1} s for {} connections",
            null.1,
            since.elapsed().as_secs_f64(),
            pods.len() * pods.len()
        ),
        10.0,
        Better::Lower,
    );
    Ok((network, pods))
}

/// Measures the manager of a large cluster.
pub(crate) fn manager(figures: &mut Figures) -> Result<(), ClusterError> {
    let cluster = Cluster::start("skbk", ClusterOptions::new(&programs_folder()))?;
    let mut network = SkeinNetwork::install(&cluster, &services::network_options(&cluster)?)?;
    many(figures, &cluster, &mut network)
}

/// Median start of a single sandbox and time of a burst, in seconds.
fn without_network(cluster: &Cluster) -> Result<(f64, f64), ClusterError> {
    for node in cluster.nodes() {
        let plugin = node.folder().join("cni-bin/null");
        fs::write(&plugin, NULL_PLUGIN).map_err(file(&plugin, "write"))?;
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))
            .map_err(file(&plugin, "make executable"))?;
        let list = json!({"cniVersion": "0.4.0", "name": "null", "plugins": [{"type": "null"}]});
        let path = node.folder().join("cni-conf/10-null.conflist");
        fs::write(&path, list.to_string()).map_err(file(&path, "write"))?;
    }
    cluster.wait_nodes_ready()?;
    let single = one_by_one(cluster, "alone")?;
    let all = burst(cluster, "crowd")?;
    delete(cluster, &cluster.pods("default", "app=crowd")?)?;
    for node in cluster.nodes() {
        let path = node.folder().join("cni-conf/10-null.conflist");
        fs::remove_file(&path).map_err(file(&path, "remove"))?;
    }
    Ok((single, all))
}

fn pod(name: &str, app: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": app}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        },
    })
}

pub(crate) fn delete(cluster: &Cluster, pods: &[KubePod]) -> Result<(), ClusterError> {
    for pod in pods {
        cluster.api().delete(&format!("{PODS}/{}", pod.name))?;
    }
    Ok(wait_for("pods to go", PATIENCE, || match cluster.api().list(PODS) {
        Ok(list) if list.is_empty() => Ok(()),
        Ok(list) => Err(format!("{} are there", list.len())),
        Err(error) => Err(error.to_string()),
    })?)
}

/// Starts pods one after the other on the first node; the median of what the runtime says a sandbox took.
fn one_by_one(cluster: &Cluster, app: &str) -> Result<f64, ClusterError> {
    let node = cluster.nodes()[0].name();
    for number in 0..SINGLE {
        let name = format!("{app}-{number}");
        cluster.api().create(PODS, &pod(&name, app, node))?;
        wait_for("a pod", PATIENCE, || {
            let pods = cluster.pods("default", &format!("app={app}")).map_err(|e| e.to_string())?;
            let up = pods.iter().all(|pod| pod.phase == "Running");
            if up { Ok(()) } else { Err("it does not run yet".to_owned()) }
        })?;
    }
    let log = cluster.logs().join(node).join("containerd.log");
    let text = fs::read_to_string(&log).map_err(file(&log, "read"))?;
    let times = (0..SINGLE).filter_map(|number| sandbox_time(&text, &format!("{app}-{number}")));
    let times: Vec<f64> = times.collect();
    delete(cluster, &cluster.pods("default", &format!("app={app}"))?)?;
    Ok(median(times))
}

/// How long the first node's new ports took on the average, step by step, by its agent's metrics.
fn steps(cluster: &Cluster) -> Result<String, ClusterError> {
    let page = cluster.nodes()[0].host().http(8085, "GET", "/metrics", "")?.body;
    let value = |what: &str, step: &str| -> Option<f64> {
        let name = format!("skein_agent_port_seconds_{what}{{step=\"{step}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok())
    };
    let mean = |step| {
        let mean =
            value("sum", step).unwrap_or(f64::NAN) / value("count", step).unwrap_or(f64::NAN);
        format!("{step} {:.1} ms", mean * 1e3)
    };
    Ok(["objects", "interface", "policy"].map(mean).join(", "))
}

/// From the call to its return, by the runtime's log.
fn sandbox_time(log: &str, pod: &str) -> Option<f64> {
    let of_pod = format!("RunPodSandbox for &PodSandboxMetadata{{Name:{pod},");
    let mut lines = log.lines().filter(|line| {
        line.contains(&of_pod) || line.to_lowercase().contains(&of_pod.to_lowercase())
    });
    let begin = stamp(lines.next()?)?;
    let end = stamp(lines.find(|line| line.contains("returns sandbox id"))?)?;
    Some(end - begin)
}

/// Seconds within the day, of `time="2026-11-23T03:15:12.100592Z" ...`.
fn stamp(line: &str) -> Option<f64> {
    let clock = line.split("time=\"").nth(1)?.split('T').nth(1)?.split(['Z', '+']).next()?;
    let mut parts = clock.split(':').map(str::parse::<f64>);
    let (hours, minutes, seconds) = (parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?);
    Some(hours * 3600.0 + minutes * 60.0 + seconds)
}

/// Makes 100 pods at once; seconds until all run and have addresses.
fn burst(cluster: &Cluster, app: &str) -> Result<f64, ClusterError> {
    let since = Instant::now();
    let api = cluster.api();
    let nodes: Vec<&str> =
        cluster.nodes().iter().map(skein_lab::kubernetes::KubeNode::name).collect();
    in_threads(BURST, |number| {
        let name = format!("{app}-{number}");
        api.create(PODS, &pod(&name, app, nodes[number % nodes.len()])).map(drop)
    })?;
    wait_for("100 pods to run", PATIENCE, || {
        let pods = cluster.pods("default", &format!("app={app}")).map_err(|e| e.to_string())?;
        let up = pods.iter().filter(|pod| pod.phase == "Running" && !pod.address.is_empty());
        let up = up.count();
        std::thread::sleep(Duration::from_millis(50));
        if up == BURST { Ok(()) } else { Err(format!("{up} of {BURST}")) }
    })?;
    Ok(since.elapsed().as_secs_f64())
}

pub(crate) fn in_threads(
    count: usize,
    work: impl Fn(usize) -> Result<(), ClusterError> + Sync,
) -> Result<(), ClusterError> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| -> Result<(), ClusterError> {
                    loop {
                        let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if at >= count {
                            return Ok(());
                        }
                        work(at)?;
                    }
                })
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })
}

/// Every pod asks every pod; seconds until all were answered. Starting the programs that ask is not counted.
fn all_reach_all(pods: &[KubePod]) -> Result<f64, ClusterError> {
    let targets: Vec<String> = pods.iter().map(|pod| format!("tcp:{}:80", pod.address)).collect();
    let mut askers: Vec<Asker> = pods.iter().map(KubePod::asker).collect::<Result<_, _>>()?;
    let since = Instant::now();
    for asker in &mut askers {
        wait_for("all pods to answer", PATIENCE, || {
            let outcomes =
                asker.ask(&targets, Duration::from_secs(1)).map_err(|e| e.to_string())?;
            let missing = outcomes.iter().filter(|outcome| !outcome.answered()).count();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} do not")) }
        })?;
    }
    Ok(since.elapsed().as_secs_f64())
}

/// The slices of a service, and when they were seen to change.
fn slice_members(cluster: &Cluster, service: &str) -> Result<BTreeSet<String>, ClusterError> {
    let path = format!(
        "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{service}"
    );
    let slices = cluster.api().list(&path)?;
    let endpoints =
        slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    Ok(endpoints.filter_map(|one| one["targetRef"]["name"].as_str().map(str::to_owned)).collect())
}

/// A member comes and goes; the clock starts when its slice says so.
fn members(figures: &mut Figures, cluster: &Cluster, pods: &[KubePod]) -> Result<(), ClusterError> {
    let service = json!({"metadata": {"name": "pair"}, "spec": {
        "selector": {"pair": "in"}, "ports": [{"port": 8080, "targetPort": 80}],
    }});
    let made = cluster.api().create(SERVICES, &service)?;
    let target = format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap_or_default());
    let (stays, moves) = (&pods[0], &pods[1]);
    let mut asker = pods[2].asker()?;
    let label = |pod: &KubePod, value: Value| {
        let patch = json!({"metadata": {"labels": {"pair": value}}});
        cluster.api().merge(&format!("{PODS}/{}", pod.name), &patch)
    };
    label(stays, json!("in"))?;
    let batch = vec![target; 12];
    let mut who = |wanted: &dyn Fn(&BTreeSet<String>) -> bool| -> Result<Instant, ClusterError> {
        let mut at = Instant::now();
        wait_for("members to answer", PATIENCE, || {
            let outcomes = asker.ask(&batch, GLANCE).map_err(|error| error.to_string())?;
            at = Instant::now();
            let names = outcomes.iter().filter_map(|o| o.answer.as_ref().map(|a| a.pod.clone()));
            let names: BTreeSet<String> = names.collect();
            if wanted(&names) { Ok(()) } else { Err(format!("{names:?}")) }
        })?;
        Ok(at)
    };
    who(&|names| names.contains(&stays.name))?;
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (value, times) in [(json!("in"), &mut added), (Value::Null, &mut removed)] {
            let is_in = !value.is_null();
            label(moves, value)?;
            // Seen a few milliseconds late at most: a look at the slice takes as long.
            wait_for("the slice", PATIENCE, || {
                let all = slice_members(cluster, "pair").map_err(|error| error.to_string())?;
                if all.contains(&moves.name) == is_in { Ok(()) } else { Err(format!("{all:?}")) }
            })?;
            let since = Instant::now();
            let at =
                who(&|names| names.contains(&moves.name) == is_in && names.contains(&stays.name))?;
            times.push(at.duration_since(since).as_secs_f64() * 1e3);
        }
    }
    cluster.api().delete(&format!("{SERVICES}/pair"))?;
    let worst = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    for (name, times) in [
        ("a new endpoint takes traffic, slowest of 10", added),
        ("a removed endpoint gets none, slowest of 10", removed),
    ] {
        let beside = format!("since its slice changed; median {:.0} ms", median(times.clone()));
        figures.add(name, worst(&times), "ms", beside, 200.0, Better::Lower);
    }
    Ok(())
}

/// A policy for all pods, until the last of them is closed.
fn policy(figures: &mut Figures, cluster: &Cluster, pods: &[KubePod]) -> Result<(), ClusterError> {
    // Without those that ask; a pod's own connections are not a policy's business.
    let (askers, targets) = pods.split_at(3);
    let targets: Vec<String> =
        targets.iter().map(|pod| format!("tcp:{}:80", pod.address)).collect();
    let mut asker = askers[0].asker()?;
    let deny = json!({"metadata": {"name": "deny"}, "spec": {
        "podSelector": {"matchLabels": {"app": "burst"}}, "policyTypes": ["Ingress"],
    }});
    let (mut closed, mut opened) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for (is_closed, times) in [(true, &mut closed), (false, &mut opened)] {
            let since = Instant::now();
            if is_closed {
                cluster.api().create(POLICIES, &deny)?;
            } else {
                cluster.api().delete(&format!("{POLICIES}/deny"))?;
            }
            let mut at = since;
            wait_for("the policy at all pods", PATIENCE, || {
                let begun = Instant::now();
                let outcomes = asker.ask(&targets, GLANCE).map_err(|error| error.to_string())?;
                // What does not answer is waited for: that it was closed is known from when it was asked.
                at = if is_closed { begun } else { Instant::now() };
                let wrong = outcomes.iter().filter(|one| one.answered() == is_closed).count();
                if wrong == 0 { Ok(()) } else { Err(format!("{wrong} pods")) }
            })?;
            times.push(at.duration_since(since).as_secs_f64() * 1e3);
        }
    }
    let worst = |times: &[f64]| times.iter().copied().fold(0.0, f64::max);
    figures.add(
        "a policy is enforced on 97 pods of 3 nodes, slowest of 10",
        worst(&closed),
        "ms",
        format!(
            "since it was asked for; median {:.0} ms; taken back in {:.0} ms",
            median(closed.clone()),
            median(opened)
        ),
        500.0,
        Better::Lower,
    );
    Ok(())
}

/// 5,000 pods, 1,000 services and 500 policies that only the API server knows, on nodes that are not there.
fn many(
    figures: &mut Figures,
    cluster: &Cluster,
    network: &mut SkeinNetwork,
) -> Result<(), ClusterError> {
    let (pods, services, policies) = MANY;
    crate::say(&format!("{pods} pods, {services} services, {policies} policies in the API server"));
    let api = cluster.api();
    let namespace = |at: usize| format!("many-{}", at % 50);
    in_threads(100, |at| {
        api.create("/api/v1/nodes", &json!({"metadata": {"name": format!("many-{at}")}}))?;
        if at < 50 {
            let labels = json!({"team": format!("t{}", at % 7)});
            let meta = json!({"name": namespace(at), "labels": labels});
            api.create("/api/v1/namespaces", &json!({ "metadata": meta }))?;
        }
        Ok(())
    })?;
    in_threads(services, |at| {
        let path = format!("/api/v1/namespaces/{}/services", namespace(at));
        let spec = json!({"selector": {"svc": format!("s{at}")}, "ports": [{"port": 80, "targetPort": 8080}]});
        api.create(&path, &json!({"metadata": {"name": format!("svc-{at}")}, "spec": spec}))
            .map(drop)
    })?;
    in_threads(pods, |at| {
        let path = format!("/api/v1/namespaces/{}/pods", namespace(at));
        let labels = json!({
            "app": format!("app-{}", at % 200), "role": format!("r{}", at % 5),
            // Services and pods of one number are in one namespace.
            "svc": format!("s{}", at % services),
        });
        let spec = json!({
            "nodeName": format!("many-{}", at % 100), "automountServiceAccountToken": false,
            "containers": [{"name": "a", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}],
        });
        let name = format!("app-{at}");
        let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
        wait_for("a pod to be taken", PATIENCE, || {
            api.create(&path, &pod).map_err(|error| error.to_string())
        })?;
        let address = format!("10.245.{}.{}", at / 250, at % 250 + 1);
        let status = json!({"status": {
            "phase": "Running", "hostIP": "10.9.9.9", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        api.merge(&format!("{path}/{name}/status"), &status).map(drop)
    })?;
    in_threads(policies, |at| {
        let path =
            format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", namespace(at));
        let team =
            json!([{"key": "team", "operator": "NotIn", "values": [format!("t{}", at % 7)]}]);
        let from = json!([
            {"podSelector": {"matchLabels": {"role": format!("r{}", at % 5)}}},
            {"namespaceSelector": {"matchExpressions": team}},
            {"ipBlock": {"cidr": format!("10.{}.0.0/16", at % 200)}},
        ]);
        let spec = json!({
            "podSelector": {"matchLabels": {"app": format!("app-{}", at % 200)}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": from, "ports": [{"port": 80}, {"port": "http"}]}],
        });
        api.create(&path, &json!({"metadata": {"name": format!("np-{at}")}, "spec": spec}))
            .map(drop)
    })?;
    let first = settled(cluster, Instant::now())?;
    crate::say(&format!("  in the configuration {first:.1} s after the last was made"));
    let resident = resident_mebibytes(network.manager.pid());
    network.manager.kill()?;
    let since = Instant::now();
    network.restart_manager()?;
    let resync = settled(cluster, since)?;
    let after = resident_mebibytes(network.manager.pid());
    figures.add(
        "full resync of a manager with 5,000 pods, 1,000 services, 500 policies",
        resync,
        "s",
        "started again: lists, compares, writes what differs",
        30.0,
        Better::Lower,
    );
    figures.add(
        "resident memory of that manager, the whole process",
        resident.max(after),
        "MiB",
        format!("VmRSS; {after:.0} MiB after a start with everything in place"),
        300.0,
        Better::Lower,
    );
    Ok(())
}

/// Waits until the manager has nothing to do for a second; seconds since `since` without that second.
fn settled(cluster: &Cluster, since: Instant) -> Result<f64, ClusterError> {
    let quiet = Duration::from_secs(1);
    let mut idle: Option<Instant> = None;
    let ended = wait_for("the manager to have written all", Duration::from_secs(600), || {
        let answer = cluster.control_host().http(8108, "GET", "/v1/status", "");
        let status: Value = answer
            .ok()
            .and_then(|answer| serde_json::from_str(&answer.body).ok())
            .unwrap_or(Value::Null);
        std::thread::sleep(Duration::from_millis(20));
        let zero = |name: &str| status[name].as_u64() == Some(0);
        let all = status["kubernetes_objects"].as_u64() > Some(MANY.0 as u64);
        if !(status["synced"] == true
            && status["leading"] == true
            && all
            && zero("waiting")
            && zero("writing"))
        {
            idle = None;
            return Err(status.to_string());
        }
        let begun = *idle.get_or_insert_with(Instant::now);
        if begun.elapsed() >= quiet { Ok(begun) } else { Err(status.to_string()) }
    })?;
    Ok(ended.duration_since(since).as_secs_f64())
}
