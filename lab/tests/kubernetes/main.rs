//! A real Kubernetes of three nodes with Skein as its only network.
//!
//! One cluster serves all steps, as bringing it up is most of the time. Needs root and the programs of
//! Kubernetes, which scripts/kubernetes finds or builds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step is a failed test"
)]
#![allow(clippy::print_stdout, reason = "how long the steps took is for whoever reads a failure")]

mod crowd;
mod dns;
mod fail_closed;
mod followed;
mod fronts;
mod held;
mod ingress;
mod ingress_certificates;
mod ingress_controller;
mod lifecycle;
mod networks;
mod node_ports;
#[allow(dead_code, unreachable_pub, reason = "shared with the manager's own tests")]
#[path = "../../../orchestration/kube/tests/support/oracle.rs"]
mod oracle;
mod outside;
mod policies;
mod policy_cases;
mod probes;
#[allow(unreachable_pub, reason = "shared with the manager's own tests")]
#[path = "../../../orchestration/kube/tests/support/random_policies.rs"]
mod random_policies;
mod reboot;
mod refusals;
mod replicas;
mod restarts;
mod sandboxes;
mod secondary;
mod service_flows;
mod services;
mod staged;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod users;
mod watch;
mod wide_action;

use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Cluster, ClusterOptions, KubePod, NetworkOptions, PROBE_IMAGE, ProbeAnswer, ProbeOutcome,
    SkeinNetwork, ask_from, read_outcomes,
};
use skein_lab::wait_for;
use std::path::Path;
use std::time::Duration;
use support::{programs, steps::Steps};

const NODES: usize = 3;
/// Pods of one node; there are as many DaemonSets.
const PER_NODE: usize = 3;
const ANSWER: Duration = Duration::from_secs(3);
/// Images are there, but many pods may start at a time, and after restarts kubelets ask again only now and then.
const PODS_READY: Duration = Duration::from_secs(120);
/// A kubelet may wait for its collector, which comes once a minute, before it says that a pod is gone.
const PODS_GONE: Duration = Duration::from_secs(180);
/// Far above what a change needs to arrive everywhere: it is no measurement.
const PATIENCE: Duration = Duration::from_secs(60);

fn daemon_sets() -> String {
    let one = |name: usize| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: probe{name}}}\nspec:\n  \
               selector: {{matchLabels: {{set: probe{name}}}}}\n  \
               template:\n    \
                 metadata: {{labels: {{app: probe, set: probe{name}}}}}\n    \
                 spec:\n      \
                   terminationGracePeriodSeconds: 1\n      \
                   containers:\n      \
                   - name: probe\n        \
                     image: \"{PROBE_IMAGE}\"\n        \
                     imagePullPolicy: Never\n        \
                     readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1, timeoutSeconds: 5}}\n        \
                     livenessProbe: {{tcpSocket: {{port: 81}}, initialDelaySeconds: 5, periodSeconds: 2, timeoutSeconds: 5, failureThreshold: 2}}\n"
        )
    };
    (1..=PER_NODE).map(one).collect::<Vec<_>>().join("---\n")
}

/// Every pod asks every pod, itself too, on every protocol; the asked one must see the asker's own address. Waits for
/// what is on its way: a pod is ready before every other node has its route.
fn assert_all_pairs(pods: &[KubePod], ask: impl Fn(&KubePod, &[String]) -> Result<String, String>) {
    let (mut targets, mut names) = (Vec::new(), Vec::new());
    for pod in pods {
        for protocol in ["tcp", "udp", "sctp"] {
            targets.push(format!("{protocol}:{}:80", pod.address));
            names.push(pod.name.clone());
        }
    }
    for pod in pods {
        let from = format!("{} at {} on {}", pod.name, pod.address, pod.node);
        let outcomes = wait_for(&format!("answers to {from}"), PATIENCE, || {
            let said = ask(pod, &targets)?;
            all_answered(read_outcomes(&said).map_err(|error| error.to_string())?)
        })
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(outcomes.len(), targets.len());
        for (outcome, name) in outcomes.iter().zip(&names) {
            let answer = outcome.answer.as_ref().unwrap();
            assert_eq!(&answer.pod, name, "{from}: {outcome:?}");
            let client = answer.client.rsplit_once(':').unwrap().0;
            assert_eq!(client, pod.address, "{from} is seen as another: {outcome:?}");
        }
    }
}

/// The outcomes if all are answers, else those that are not.
fn all_answered(outcomes: Vec<ProbeOutcome>) -> Result<Vec<ProbeOutcome>, String> {
    let missing: Vec<_> = outcomes.iter().filter(|outcome| !outcome.answered()).collect();
    if missing.is_empty() { Ok(outcomes) } else { Err(format!("no answer: {missing:?}")) }
}

fn quickly(pod: &KubePod, targets: &[String]) -> Result<String, String> {
    Ok(serde_json::to_string(&pod.ask(targets, ANSWER).unwrap()).unwrap())
}

/// What a target answers, once it does.
fn wait_answer(from: &KubePod, target: &str) -> ProbeAnswer {
    wait_for(&format!("an answer of {target} to {}", from.name), PATIENCE, || {
        let mut outcomes = from.ask(&[target.to_owned()], ANSWER).unwrap();
        let outcome = outcomes.remove(0);
        outcome.answer.clone().ok_or(format!("{outcome:?}"))
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn three_nodes_run_pods_that_reach_each_other_through_restarts() {
    let mut steps = Steps::start();
    let mut options = ClusterOptions::new(&programs::folder());
    let webhook = users::Webhook::ask_it(&mut options);
    let mut cluster = Cluster::start("k8s", options).unwrap_or_else(|error| panic!("{error}"));
    steps.done("Kubernetes");
    assert_kubelets_joined_by_requests(&cluster);
    let upstream = dns::upstream(cluster.control_host());
    let options = NetworkOptions {
        manager_arguments: vec![
            "--dns-serve".into(),
            "true".into(),
            // It is there once somebody makes it.
            "--public-fip-pool".into(),
            outside::POOL.into(),
        ],
        agent_arguments: vec!["--dns-upstream".into(), upstream.address.to_string()],
        ..NetworkOptions::default()
    };
    let mut network =
        SkeinNetwork::install(&cluster, &options).unwrap_or_else(|error| panic!("{error}"));
    steps.done("network");

    cluster.apply(&daemon_sets()).unwrap();
    let count = NODES * PER_NODE;
    let pods = cluster.wait_pods("default", "app=probe", count, PODS_READY).unwrap();
    steps.done("pods");
    for number in 0..NODES {
        let name = cluster.nodes()[number].name();
        assert_eq!(pods.iter().filter(|pod| pod.node == name).count(), PER_NODE, "{name}");
    }
    for pod in &pods {
        assert!(pod.address.starts_with("10.244."), "{pod:?}");
        assert_eq!(pod.restarts, 0, "its liveness probe failed: {pod:?}");
    }

    // The users' way, over API server and kubelet.
    assert_all_pairs(&pods, |pod, targets| {
        let mut program = vec!["skein-probe", "ask", "--timeout", "3000"];
        program.extend(targets.iter().map(String::as_str));
        // A kubelet may end what a busy program says too early.
        let ran = cluster.exec(pod, &program).map_err(|error| error.to_string())?;
        ran.success().map_err(|error| error.to_string())
    });
    steps.done("every pod to every pod by kubectl exec");
    assert_all_pairs(&pods, quickly);
    steps.done("every pod to every pod by the lab");
    for pod in &pods {
        let log = cluster.pod_log(pod).unwrap();
        assert!(log.contains(&format!("{} serves", pod.name)), "{log}");
    }
    assert_closed_ports_are_told_apart(&pods);
    steps.done("logs and closed ports");

    assert_hosts_reach(&cluster, &pods);
    steps.done("every node to every pod");

    dns::front(&cluster, &pods, &mut steps);
    services::check(&cluster, &network, &pods, &mut steps);
    service_flows::check(&cluster, &network, &pods, &mut steps);
    node_ports::check(&cluster, &pods, &mut steps);
    dns::check(&cluster, &mut network, &upstream, &pods, &mut steps);
    policies::check(&cluster, &mut steps);
    wide_action::check(&cluster, &mut network, &options, &pods[2], &mut steps);
    staged::check(&cluster, &network, &pods, &mut steps);
    let refused = refusals::start(&cluster);
    networks::check(&cluster, &network, &pods, &mut steps);
    probes::check(&cluster, &network, &pods, &mut steps);
    secondary::check(&cluster, &pods, &mut steps);
    lifecycle::check(&cluster, &network, &pods, &mut steps);
    refused.check(&cluster, &mut steps);
    let beyond = outside::Beyond::start(&mut cluster);
    let world = beyond.world(&cluster);
    let ways = outside::check(&world, &network, &pods, &mut steps);
    replicas::check(&world, &mut steps);
    crowd::check(&world, &network, &pods, &mut steps);
    ingress::check(&world, &network, &mut steps);
    world.ways_are_open(&ways);
    let users = users::Users::start(&cluster, &mut steps);
    let held = held::Held::start(&cluster, beyond, &pods);
    held.check(&cluster, "the start");
    steps.done("policies, services and ways that are to hold");
    sandboxes::check(&cluster, &held, &mut steps);
    restarts::check(&mut cluster, &mut network, &options, &held, &pods, &mut steps);
    users.end(&cluster, &mut steps);
    reboot::check(&mut cluster, &mut network, &held, &mut steps);
    held.end(&cluster, &mut steps);

    let (state, tree) = (cluster.state(), cluster.lab().directory());
    drop(network);
    drop(upstream);
    drop(cluster);
    drop(webhook);
    steps.done("clean-up");
    assert_nothing_is_left("k8s", &[&state, &tree]);
}

/// TLS bootstrapping: both certificates of every node were asked for, approved and issued.
fn assert_kubelets_joined_by_requests(cluster: &Cluster) {
    let requests =
        cluster.api().list("/apis/certificates.k8s.io/v1/certificatesigningrequests").unwrap();
    for signer in ["kubernetes.io/kube-apiserver-client-kubelet", "kubernetes.io/kubelet-serving"] {
        let issued = |request: &&Value| {
            request["spec"]["signerName"] == signer && request["status"]["certificate"].is_string()
        };
        assert_eq!(requests.iter().filter(issued).count(), NODES, "{signer}: {requests:?}");
    }
}

fn other_node<'a>(pods: &'a [KubePod], than: &KubePod) -> &'a KubePod {
    pods.iter().find(|pod| pod.node != than.node).unwrap()
}

fn assert_closed_ports_are_told_apart(pods: &[KubePod]) {
    let (from, to) = (&pods[0], other_node(pods, &pods[0]));
    let targets = [format!("tcp:{}:83", to.address), "tcp:10.244.9.9:80".into()];
    // Nobody has the second address: they are given from the top of the subnet.
    wait_for("a refusal", PATIENCE, || {
        let outcomes = from.ask(&targets, Duration::from_millis(500)).unwrap();
        assert!(outcomes.iter().all(|outcome| !outcome.answered()), "{outcomes:?}");
        let refused = outcomes[0].error.as_deref() == Some("refused");
        if refused { Ok(()) } else { Err(format!("{outcomes:?}")) }
    })
    .unwrap();
}

fn assert_same(before: &[KubePod], after: &[KubePod]) {
    let look = |pods: &[KubePod]| -> Vec<_> {
        pods.iter()
            .map(|pod| {
                (pod.uid.clone(), pod.addresses.clone(), pod.restarts, pod.containers.clone())
            })
            .collect()
    };
    assert_eq!(look(before), look(after));
}

/// A deleted pod's successor is reached by all, and reaches all.
fn replace_a_pod(cluster: &Cluster, pods: &[KubePod], old: &KubePod) {
    let path = format!("/api/v1/namespaces/default/pods/{}", old.name);
    cluster.api().delete(&path).unwrap();
    // A DaemonSet makes it when the old one is gone.
    let living = wait_for("a pod's successor", PODS_GONE, || {
        let now = cluster.pods("default", "app=probe").map_err(|error| error.to_string())?;
        let living: Vec<KubePod> = now
            .into_iter()
            .filter(|pod| pod.ready && pod.object["metadata"]["deletionTimestamp"].is_null())
            .collect();
        let replaced = living.iter().all(|pod| pod.uid != old.uid);
        if living.len() == pods.len() && replaced { Ok(living) } else { Err(format!("{living:?}")) }
    });
    assert_all_pairs(&living.unwrap_or_else(|error| panic!("{error}")), quickly);
}

/// Every node reaches every pod by its own address, as its kubelet's probes do.
fn assert_hosts_reach(cluster: &Cluster, pods: &[KubePod]) {
    let targets: Vec<String> = pods
        .iter()
        .flat_map(|pod| ["tcp", "udp"].map(|p| format!("{p}:{}:80", pod.address)))
        .collect();
    for (number, node) in cluster.nodes().iter().enumerate() {
        let all = wait_for("answers to a node", PATIENCE, || {
            all_answered(ask_from_node(cluster, number, &targets, ANSWER))
        });
        for outcome in all.unwrap_or_else(|error| panic!("{}: {error}", node.name())) {
            let answer = outcome.answer.as_ref().unwrap();
            let client = answer.client.rsplit_once(':').unwrap().0;
            assert_eq!(client, node.host().ipv4().to_string(), "{}: {outcome:?}", node.name());
        }
    }
}

/// Makes a namespace.
fn create_namespace(cluster: &Cluster, metadata: &Value) {
    cluster.api().create("/api/v1/namespaces", &json!({ "metadata": metadata })).unwrap();
}

/// Makes a pod; in a new namespace none is taken before its service account has what it needs.
fn create_pod(cluster: &Cluster, namespace: &str, pod: &Value) {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    wait_for("a pod to be taken", PATIENCE, || {
        cluster.api().create(&path, pod).map_err(|error| error.to_string())
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Asks from the host of a node, counted from 0.
fn ask_from_node(
    cluster: &Cluster,
    number: usize,
    targets: &[String],
    timeout: Duration,
) -> Vec<ProbeOutcome> {
    ask_from_host(cluster, cluster.nodes()[number].host(), targets, timeout)
}

fn ask_from_host(
    cluster: &Cluster,
    host: &skein_lab::Host,
    targets: &[String],
    timeout: Duration,
) -> Vec<ProbeOutcome> {
    ask_from(host, &cluster.options().programs, targets, timeout).unwrap()
}

fn assert_nothing_is_left(name: &str, folders: &[&Path]) {
    for folder in folders {
        assert!(!folder.exists(), "{} is left", folder.display());
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let own = format!("clusters/{name}/");
    assert!(!mounts.contains(&own), "{mounts}");
    let namespaces = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for entry in namespaces {
        let namespace = entry.file_name().to_string_lossy().into_owned();
        assert!(!namespace.starts_with(&format!("skl-{name}-")), "{namespace} is left");
    }
    // With cgroup v1 each hierarchy is a folder there, with v2 it is the folder itself.
    let tree = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(tree).unwrap().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([tree.to_owned()]) {
        let group = hierarchy.join(format!("skl-{name}"));
        assert!(!group.exists(), "{} is left: {:?}", group.display(), held_by(&group));
    }
}

/// The cgroups below one, each with its processes: number, state and name.
fn held_by(group: &Path) -> Vec<(String, Vec<String>)> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let process = |id: &str| {
        let status = read(&Path::new("/proc").join(id).join("status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or("?").trim().to_owned()
        };
        format!("{id} {} {}", field("State:"), field("Name:"))
    };
    let processes = read(&group.join("cgroup.procs")).lines().map(process).collect();
    let mut all = vec![(group.display().to_string(), processes)];
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            all.extend(held_by(&entry.path()));
        }
    }
    all
}
