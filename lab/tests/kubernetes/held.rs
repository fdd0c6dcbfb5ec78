//! What holds through every restart: policies, a service with the member that a client once got, ports of nodes, and the ways out and in.
//!
//! Two pods that policies keep out ask all the time, while something is killed and while it starts again: an answer at any
//! moment is the end of the test. Everyone else asks after each step.

use crate::outside::{Beyond, Ways};
use crate::watch::Watch;
use crate::{ANSWER, PATIENCE, PODS_READY, Steps, ask_from_host, create_namespace, create_pod};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubeNode, KubePod, PROBE_IMAGE, ProbeOutcome};
use skein_lab::wait_for;
use std::time::Duration;

const NAMESPACE: &str = "guarded";
const SERVICE: &str = "/api/v1/namespaces/default/services/kept";
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(500);

/// The policies, who asks in spite of them, and what else is to be as it was.
pub(crate) struct Held {
    beyond: Beyond,
    /// The address of a service whose clients stay with their member: its endpoints are the same through everything but the end of a pod.
    pub(crate) service: String,
    /// The same service at the nodes.
    node_port: u64,
    watches: Vec<Watch>,
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": format!("{name}-{node}"), "labels": {"app": name}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        },
    })
}

impl Held {
    /// Puts the policies in force, starts who asks in spite of them, and makes the service.
    pub(crate) fn start(cluster: &Cluster, beyond: Beyond, pods: &[KubePod]) -> Held {
        create_namespace(cluster, &json!({"name": NAMESPACE}));
        let policies = format!("/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies");
        let make = |name: &str, spec: Value| {
            let policy = json!({"metadata": {"name": name}, "spec": spec});
            cluster.api().create(&policies, &policy).unwrap();
        };
        let is = |app: &str| json!({"matchLabels": {"app": app}});
        make("shut", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
        make(
            "door",
            json!({
                "podSelector": is("target"), "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": is("friend")}], "ports": [{"port": 80}]}],
            }),
        );
        make("mute", json!({"podSelector": is("mute"), "policyTypes": ["Egress"]}));
        let nodes: Vec<&str> = cluster.nodes().iter().map(KubeNode::name).collect();
        // Who asks is on nodes that are not switched off.
        let wanted = [
            ("target", &nodes[..]),
            ("friend", &nodes[..1]),
            ("stranger", &[nodes[0], nodes[2]][..]),
            ("mute", &nodes[2..]),
        ];
        for (name, places) in wanted {
            for node in places {
                create_pod(cluster, NAMESPACE, &pod(name, node));
            }
        }
        let started = wanted.map(|(name, places)| {
            let selector = format!("app={name}");
            cluster.wait_pods(NAMESPACE, &selector, places.len(), PODS_READY).unwrap()
        });
        let [targets, _, strangers, mutes] = started;
        let at = |pods: &[KubePod]| -> Vec<String> {
            let protocols = ["tcp", "udp", "sctp"];
            let each = |pod: &KubePod| protocols.map(|p| format!("{p}:{}:80", pod.address));
            pods.iter().flat_map(each).collect()
        };
        let outsiders = strangers.iter().map(|pod| (pod, at(&targets)));
        let outsiders = outsiders.chain(mutes.iter().map(|pod| (pod, at(&pods[..3]))));
        let watches = outsiders.map(|(pod, targets)| {
            // Kubernetes tells of policies and of pods on different ways: the pod may have been known first.
            wait_for(&format!("{} to be kept out", pod.name), PATIENCE, || {
                let outcomes = pod.ask(&targets, SILENCE).unwrap();
                let open = outcomes.iter().any(ProbeOutcome::answered);
                if open { Err(format!("{outcomes:?}")) } else { Ok(()) }
            })
            .unwrap_or_else(|error| panic!("{error}"));
            Watch::kept_out(pod, targets)
        });
        let watches = watches.collect();
        // A kubelet that was started again calls pods not ready until it has probed them.
        let service = json!({"metadata": {"name": "kept"}, "spec": {
            "type": "NodePort", "selector": {"set": "probe3"}, "sessionAffinity": "ClientIP",
            "publishNotReadyAddresses": true,
            "ports": [{"port": 8080, "targetPort": 80}],
        }});
        let made = cluster.api().create("/api/v1/namespaces/default/services", &service).unwrap();
        let service = format!("{}:8080", made["spec"]["clusterIP"].as_str().unwrap());
        // As Kubernetes chose it: of what was deleted just now, some ports may be taken still.
        let node_port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
        Held { beyond, service, node_port, watches }
    }

    /// Where the pods are that policies let in some, `app=target`, and whom they let in there, `app=friend`.
    #[allow(clippy::unused_self, reason = "there is such a namespace as long as it holds")]
    pub(crate) fn namespace(&self) -> &'static str {
        NAMESPACE
    }

    /// Pods of a namespace, as they run now.
    fn running(cluster: &Cluster, namespace: &str, app: &str, count: usize) -> Vec<KubePod> {
        wait_for(&format!("pods {app} of {namespace}"), PODS_READY, || {
            let pods = cluster.pods(namespace, &format!("app={app}")).map_err(|e| e.to_string())?;
            // Of a node that booted, the status is that of before for a while.
            let gone = pods.iter().find(|pod| !pod.ready || pod.pid().is_err());
            match gone {
                None if pods.len() == count => Ok(pods),
                other => Err(format!("{} there, {:?} does not run", pods.len(), other)),
            }
        })
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Everything holds after `what`: policies let in whom they let in and nobody else did get in meanwhile, node ports answer from outside,
    /// pods go out by their nodes' addresses and those in the underlay are reached.
    pub(crate) fn check(&self, cluster: &Cluster, what: &str) {
        let count = cluster.nodes().len();
        let before: Vec<usize> = self.watches.iter().map(Watch::rounds).collect();
        let friend = Self::running(cluster, NAMESPACE, "friend", 1).remove(0);
        let targets = Self::running(cluster, NAMESPACE, "target", count);
        let asked: Vec<String> =
            targets.iter().map(|pod| format!("tcp:{}:80", pod.address)).collect();
        for _ in 0..2 {
            wait_for(&format!("whom policies let in, after {what}"), PATIENCE, || {
                crate::all_answered(friend.ask(&asked, ANSWER).unwrap())
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
        let doors: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|node| format!("tcp:{}:{}", node.host().ipv4(), self.node_port))
            .collect();
        wait_for(&format!("node ports from outside, after {what}"), PATIENCE, || {
            crate::all_answered(ask_from_host(cluster, cluster.control_host(), &doors, ANSWER))
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let ways = Ways {
            translated: Self::running(cluster, "out", "web", count),
            forwarded: Self::running(cluster, "edge", "web", count),
        };
        self.beyond.world(cluster).ways_are_open(&ways);
        for (watch, before) in self.watches.iter().zip(before) {
            watch.check(before);
        }
    }

    /// Which member the service gives to a client, always the same one.
    pub(crate) fn member(&self, client: &KubePod) -> String {
        let targets = vec![format!("tcp:{}", self.service); 5];
        wait_for(&format!("one member for {}", client.name), PATIENCE, || {
            let outcomes = client.ask(&targets, ANSWER).unwrap();
            let seen = crate::services::answering(&outcomes);
            match seen.first() {
                Some(one) if seen.len() == 1 && one != "-" => Ok(one.clone()),
                _ => Err(format!("{outcomes:?}")),
            }
        })
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Nobody who was kept out was answered to the end; takes all away.
    pub(crate) fn end(self, cluster: &Cluster, steps: &mut Steps) {
        for watch in &self.watches {
            watch.check(watch.rounds());
            println!("{watch} in vain");
        }
        cluster.api().delete(SERVICE).unwrap();
        for namespace in [NAMESPACE, "out", "edge"] {
            cluster.api().delete(&format!("/api/v1/namespaces/{namespace}")).unwrap();
        }
        steps.done("policies, services and ways that held all the time");
    }
}
