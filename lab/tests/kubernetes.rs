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

mod support;

use serde_json::Value;
use skein_lab::kubernetes::{
    Cluster, ClusterOptions, KubePod, NetworkOptions, PROBE_IMAGE, SkeinNetwork, StreamReport,
    read_outcomes,
};
use std::path::Path;
use std::time::{Duration, Instant};
use support::programs;

const NODES: usize = 3;
/// Pods of one node; there are as many DaemonSets.
const PER_NODE: usize = 3;
const ANSWER: Duration = Duration::from_secs(3);
const PODS_READY: Duration = Duration::from_secs(60);
/// How long traffic goes on before and after a restart, in seconds.
const AROUND: u64 = 3;
/// Neither kubelet nor agent is in a packet's way; this much the load of a restart may cost, in milliseconds.
const LONGEST_PAUSE: f64 = 3000.0;

fn daemon_sets() -> String {
    let one = |name: usize| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: probe{name}}}\nspec:\n  \
               selector: {{matchLabels: {{set: probe{name}}}}}\n  \
               template:\n    \
                 metadata: {{labels: {{app: probe, set: probe{name}}}}}\n    \
                 spec:\n      \
                   terminationGracePeriodSeconds: 1\n      \
                   containers: [{{name: probe, image: \"{PROBE_IMAGE}\", imagePullPolicy: Never}}]\n"
        )
    };
    (1..=PER_NODE).map(one).collect::<Vec<_>>().join("---\n")
}

/// Every pod asks every pod, itself too, on every protocol; the asked one must see the asker's own address.
fn assert_all_pairs(pods: &[KubePod], ask: impl Fn(&KubePod, &[String]) -> String) {
    let (mut targets, mut names) = (Vec::new(), Vec::new());
    for pod in pods {
        for protocol in ["tcp", "udp", "sctp"] {
            targets.push(format!("{protocol}:{}:80", pod.address));
            names.push(pod.name.clone());
        }
    }
    for pod in pods {
        let outcomes = read_outcomes(&ask(pod, &targets)).unwrap();
        assert_eq!(outcomes.len(), targets.len());
        for (outcome, name) in outcomes.iter().zip(&names) {
            let from = format!("{} at {} on {}", pod.name, pod.address, pod.node);
            let Some(answer) = &outcome.answer else {
                panic!("{from}, asking {name}: {outcome:?}")
            };
            assert_eq!(&answer.pod, name, "{from}: {outcome:?}");
            let client = answer.client.rsplit_once(':').unwrap().0;
            assert_eq!(client, pod.address, "{from} is seen as another: {outcome:?}");
        }
    }
}

fn quickly(pod: &KubePod, targets: &[String]) -> String {
    serde_json::to_string(&pod.ask(targets, ANSWER).unwrap()).unwrap()
}

fn assert_unbroken(report: &StreamReport, pod: &KubePod) {
    println!("{report:?}");
    assert_eq!(report.error, None);
    assert_eq!(report.pod, pod.name);
    assert!(report.echoes > 100, "{report:?}");
    assert!(report.longest_gap < LONGEST_PAUSE, "{report:?}");
}

struct Steps(Instant);

impl Steps {
    fn done(&mut self, what: &str) {
        println!("{what}: {:.1} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}

#[test]
fn three_nodes_run_pods_that_reach_each_other_through_restarts() {
    let mut steps = Steps(Instant::now());
    let mut cluster = Cluster::start("k8s", ClusterOptions::new(&programs::folder()))
        .unwrap_or_else(|error| panic!("{error}"));
    steps.done("Kubernetes");
    assert_kubelets_joined_by_requests(&cluster);
    let mut network = SkeinNetwork::install(&cluster, &NetworkOptions::default())
        .unwrap_or_else(|error| panic!("{error}"));
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
    }

    // The users' way, over API server and kubelet.
    assert_all_pairs(&pods, |pod, targets| {
        let mut program = vec!["skein-probe", "ask", "--timeout", "3000"];
        program.extend(targets.iter().map(String::as_str));
        cluster.exec(pod, &program).unwrap().success().unwrap()
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

    let (first, last) = (&pods[0], other_node(&pods, &pods[0]));
    let node = cluster.nodes().iter().position(|node| node.name() == first.node).unwrap();
    let report = under_traffic(&cluster.state(), first, last, || {
        cluster.node_mut(node).kubelet.kill().unwrap();
        cluster.restart_kubelet(node).unwrap();
    });
    assert_unbroken(&report, last);
    steps.done("kubelet killed and started again");
    let report = under_traffic(&cluster.state(), first, last, || {
        network.agent(node).kill().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        network.restart_agent(node).unwrap();
    });
    assert_unbroken(&report, last);
    steps.done("agent killed and started again");

    assert_same(&pods, &cluster.wait_pods("default", "app=probe", count, PODS_READY).unwrap());
    assert_all_pairs(&pods, quickly);
    replace_a_pod(&cluster, &pods, first);
    steps.done("a pod replaced after the restarts");

    let (state, tree) = (cluster.state(), cluster.lab().directory());
    drop(network);
    drop(cluster);
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
    let outcomes = from.ask(&targets, Duration::from_millis(500)).unwrap();
    assert_eq!(outcomes[0].error.as_deref(), Some("refused"), "{outcomes:?}");
    assert!(outcomes[1].answer.is_none(), "{outcomes:?}");
}

/// Does something while a connection from one pod to another is busy.
fn under_traffic(
    state: &Path,
    from: &KubePod,
    to: &KubePod,
    something: impl FnOnce(),
) -> StreamReport {
    let target = format!("{}:80", to.address);
    let since = Instant::now();
    // Ended by hand: how long the restart takes is not known before.
    let stream = from.stream(&target, &state.join("stream.log")).unwrap();
    std::thread::sleep(Duration::from_secs(AROUND));
    something();
    std::thread::sleep(Duration::from_secs(AROUND));
    println!("traffic for {:.1} s", since.elapsed().as_secs_f64());
    stream.finish().unwrap()
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
    let start = Instant::now();
    loop {
        let now = cluster.pods("default", "app=probe").unwrap();
        let living: Vec<KubePod> = now
            .into_iter()
            .filter(|pod| pod.ready && pod.object["metadata"]["deletionTimestamp"].is_null())
            .collect();
        if living.len() == pods.len() && living.iter().all(|pod| pod.uid != old.uid) {
            return assert_all_pairs(&living, quickly);
        }
        assert!(start.elapsed() < PODS_READY, "no successor: {living:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
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
    let groups = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    for group in groups.map(|entry| entry.path().join(format!("skl-{name}"))) {
        assert!(!group.exists(), "{} is left", group.display());
    }
}
