//! The steps of `make demo-k8s`: a real Kubernetes with Skein as its only network.

use crate::screen::Screen;
use skein_lab::kubernetes::{
    Cluster, ClusterError, ClusterOptions, KubePod, NetworkOptions, PROBE_IMAGE, ProbeOutcome,
    SkeinNetwork,
};
use skein_lab::{LabOptions, wait_for};
use std::collections::BTreeSet;
use std::time::Duration;

/// Name of the cluster: its namespaces start with it.
const CLUSTER: &str = "skk8s";
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
const PER_NODE: usize = 3;
const PODS_READY: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(3);
/// How long a restart is shown on each side.
const UNDER_TRAFFIC: Duration = Duration::from_secs(2);
/// The longest pause, in milliseconds, that a restart may cost.
const PAUSE: f64 = 1000.0;

/// Asked so often, one of nine members is left out once in many thousand runs.
const OFTEN: usize = 120;
/// How long a change may take; it is no measurement.
const SETTLED: Duration = Duration::from_secs(15);
/// How long an answer that shall not come is waited for.
const GLANCE: Duration = Duration::from_millis(300);
const SERVICE: &str = r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe"},
    "spec": {"selector": {"app": "probe"}, "ports": [{"port": 8080, "targetPort": 80}]}}"#;
const POLICY: &str = r#"{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "closed"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}"#;

fn options() -> ClusterOptions {
    ClusterOptions {
        lab: LabOptions { keep: true, ..LabOptions::default() },
        ..ClusterOptions::new(&crate::programs())
    }
}

/// Builds the cluster, shows it, leaves it running. True when every step held.
pub(crate) fn up(screen: &mut Screen) -> Result<bool, ClusterError> {
    screen.head("1. Kubernetes: a control plane and three nodes, in namespaces of this machine");
    screen.begin("etcd, API server, controllers, scheduler; kubelets join by approved requests");
    let cluster = Cluster::start(CLUSTER, options())?;
    let version = cluster.api().get("/version")?;
    screen.end(true, version["gitVersion"].as_str().unwrap_or_default());
    screen.head("2. Skein is its only network");
    screen.begin(
        "controller, kube-manager, an agent on every node, the CNI plugin: all nodes are Ready",
    );
    let network = SkeinNetwork::install(&cluster, &NetworkOptions::default())?;
    screen.end(true, "");
    let mut demo = Demo { cluster, network };
    let result = demo.show(screen);
    let Demo { cluster, network } = demo;
    let (good, bad) = screen.totals();
    if let Ok(Some((from, to))) = &result {
        screen.head(&format!("{good} steps held, {bad} did not."));
        screen.say("The cluster stays up. Try:");
        let kubectl = cluster.kubectl_line();
        for line in [
            format!("{kubectl} get pods -o wide"),
            format!("{kubectl} exec {} -- ping -c 3 {}", from.name, to.address),
            format!(
                "sudo ip netns exec {} {}/skein status",
                cluster.control_host().namespace(),
                cluster.options().programs.display()
            ),
        ] {
            screen.say(&format!("  {line}"));
        }
        screen.say("`make demo-k8s-down` removes every trace.");
    }
    // Also after a failure: what is there to look at is more than the error tells.
    network.detach();
    cluster.detach();
    result.map(|_| bad == 0)
}

/// Removes every trace.
pub(crate) fn down(screen: &mut Screen) -> Result<bool, ClusterError> {
    screen.begin("removing processes, namespaces, cgroups and files of the cluster");
    Cluster::remove(CLUSTER, &options().directory)?;
    screen.end(true, "");
    Ok(true)
}

struct Demo {
    cluster: Cluster,
    network: SkeinNetwork,
}

impl Demo {
    /// Shows everything; gives two pods to try.
    fn show(&mut self, screen: &mut Screen) -> Result<Option<(KubePod, KubePod)>, ClusterError> {
        let pods = self.pods(screen)?;
        let Some(to) = pods.iter().find(|pod| pod.node != pods[0].node) else { return Ok(None) };
        let from = &pods[0];
        self.reach(screen, &pods)?;
        self.users_way(screen, from, to)?;
        self.service_and_policy(screen, &pods)?;
        self.restarts(screen, from, to)?;
        self.status(screen)?;
        Ok(Some((from.clone(), to.clone())))
    }

    fn pods(&self, screen: &mut Screen) -> Result<Vec<KubePod>, ClusterError> {
        screen.head("3. Pods");
        let count = PER_NODE * self.cluster.nodes().len();
        screen.begin(&format!("{count} pods on three nodes are ready"));
        self.cluster.apply(&format!(
            "apiVersion: apps/v1\n\
             kind: Deployment\n\
             metadata: {{name: probe}}\n\
             spec:\n  \
               replicas: {count}\n  \
               selector: {{matchLabels: {{app: probe}}}}\n  \
               template:\n    \
                 metadata: {{labels: {{app: probe}}}}\n    \
                 spec:\n      \
                   terminationGracePeriodSeconds: 1\n      \
                   topologySpreadConstraints:\n      \
                   - maxSkew: 1\n        \
                     topologyKey: kubernetes.io/hostname\n        \
                     whenUnsatisfiable: DoNotSchedule\n        \
                     labelSelector: {{matchLabels: {{app: probe}}}}\n      \
                   containers:\n      \
                   - {{name: probe, image: \"{PROBE_IMAGE}\", imagePullPolicy: Never}}\n"
        ))?;
        let pods = self.cluster.wait_pods("default", "app=probe", count, PODS_READY)?;
        screen.end(true, "");
        Ok(pods)
    }

    fn reach(&self, screen: &mut Screen, pods: &[KubePod]) -> Result<(), ClusterError> {
        for protocol in PROTOCOLS {
            screen.begin(&format!("every pod reaches every pod by {}", protocol.to_uppercase()));
            let targets: Vec<String> =
                pods.iter().map(|pod| format!("{protocol}:{}:80", pod.address)).collect();
            let mut good = 0;
            for from in pods {
                let outcomes = from.ask(&targets, ANSWER)?;
                // The right pod answers, and sees the asker's own address.
                good += pods
                    .iter()
                    .zip(&outcomes)
                    .filter_map(|(to, outcome)| Some((to, outcome.answer.as_ref()?)))
                    .filter(|(to, answer)| answer.pod == to.name)
                    .filter(|(_, answer)| answer.client.starts_with(&format!("{}:", from.address)))
                    .count();
            }
            let all = pods.len() * pods.len();
            screen.end(good == all, &format!("{good} of {all}, none behind another's address"));
        }
        Ok(())
    }

    fn users_way(
        &self,
        screen: &mut Screen,
        from: &KubePod,
        to: &KubePod,
    ) -> Result<(), ClusterError> {
        screen.head("4. kubectl exec and logs");
        screen.command(&format!("kubectl exec {} -- ping -c 1 {}", from.name, to.address));
        screen.begin("the ping is answered by a pod on another node");
        let ran = self.cluster.exec(from, &["ping", "-c", "1", &to.address])?;
        screen.end(ran.ok(), "");
        screen.begin("the log is that of the pod");
        let log = self.cluster.pod_log(to)?;
        screen.end(log.starts_with(&to.name), log.trim());
        Ok(())
    }

    fn service_and_policy(
        &self,
        screen: &mut Screen,
        pods: &[KubePod],
    ) -> Result<(), ClusterError> {
        screen.head("5. A Service, and a NetworkPolicy");
        self.cluster.apply(SERVICE)?;
        let service = self.cluster.api().get("/api/v1/namespaces/default/services/probe")?;
        let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
        let targets = vec![format!("tcp:{address}:8080"); OFTEN];
        screen
            .begin(&format!("every pod reaches the Service at {address}, and every pod serves it"));
        let all: BTreeSet<&String> = pods.iter().map(|pod| &pod.name).collect();
        let held = wait_for("every member to answer every pod", SETTLED, || {
            for from in pods {
                let outcomes = from.ask(&targets, ANSWER).map_err(|error| error.to_string())?;
                let answers: BTreeSet<&String> =
                    outcomes.iter().filter_map(|o| Some(&o.answer.as_ref()?.pod)).collect();
                if answers != all || !outcomes.iter().all(ProbeOutcome::answered) {
                    return Err(format!("{} of {} serve {}", answers.len(), all.len(), from.name));
                }
            }
            Ok(())
        });
        screen.end(held.is_ok(), &held.err().map_or_else(String::new, |error| error.to_string()));
        screen.begin("a policy that lets nothing in closes every pod for every other one");
        self.cluster.apply(POLICY)?;
        let from = &pods[0];
        let others: Vec<String> =
            pods[1..].iter().map(|pod| format!("tcp:{}:80", pod.address)).collect();
        let open = |wanted: bool| {
            wait_for("the policy", SETTLED, || {
                let outcomes = from.ask(&others, GLANCE).map_err(|error| error.to_string())?;
                let as_wanted = outcomes.iter().all(|outcome| outcome.answered() == wanted);
                if as_wanted { Ok(()) } else { Err("not in force yet".to_owned()) }
            })
        };
        let closed = open(false);
        screen.end(closed.is_ok(), "");
        screen.begin("without it they are open again");
        self.cluster.delete(POLICY)?;
        screen.end(open(true).is_ok(), "");
        Ok(())
    }

    fn restarts(
        &mut self,
        screen: &mut Screen,
        from: &KubePod,
        to: &KubePod,
    ) -> Result<(), ClusterError> {
        screen.head("6. Kubelet and agent are killed and started again under traffic");
        let number = self.cluster.nodes().iter().position(|node| node.name() == from.node);
        let number = number.unwrap_or_default();
        let target = format!("{}:80", to.address);
        let log = self.cluster.state().join("stream.log");
        for kubelet in [true, false] {
            let what = if kubelet { "kubelet" } else { "skeind vrouter" };
            screen.begin(&format!("kill -9 {what} of {} during a connection", from.node));
            let stream = from.stream(&target, &log)?;
            std::thread::sleep(UNDER_TRAFFIC);
            if kubelet {
                self.cluster.node_mut(number).kubelet.kill()?;
                self.cluster.restart_kubelet(number)?;
            } else {
                self.network.agent(number).kill()?;
                std::thread::sleep(UNDER_TRAFFIC);
                self.network.restart_agent(number)?;
            }
            std::thread::sleep(UNDER_TRAFFIC);
            let report = stream.finish()?;
            let held = report.error.is_none() && report.longest_gap < PAUSE;
            let detail = report.error.unwrap_or_else(|| {
                format!("{} echoes, longest wait {:.0} ms", report.echoes, report.longest_gap)
            });
            screen.end(held, &detail);
        }
        screen.begin("no container was started again");
        let pods = self.cluster.pods("default", "app=probe")?;
        let restarts: u64 = pods.iter().map(|pod| pod.restarts).sum();
        screen.end(restarts == 0, "");
        Ok(())
    }

    fn status(&self, screen: &mut Screen) -> Result<(), ClusterError> {
        screen.head("7. One screen says how things are");
        screen.command("skein status");
        let ran = self.network.skein(&["status"])?;
        for line in ran.stdout.lines() {
            screen.say(&format!("  {line}"));
        }
        screen.begin("every role and node is well");
        screen.end(ran.ok(), "");
        Ok(())
    }
}
