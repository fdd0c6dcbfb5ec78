//! The way outside, pods in the underlay, and addresses that are reached from beyond the cluster: a router at the edge of the underlay
//! and a host behind it, which knows nothing of fabrics.

use crate::networks::{assert_answers, assert_reach, on_every_node};
use crate::{ANSWER, PATIENCE, PODS_GONE, Steps, all_answered, create_namespace};
use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Cluster, KubePod, ProbeOutcome, SkeinNetwork, Stream, ask_from, example,
};
use skein_lab::{Outside, Process, wait_for};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(900);

/// A pool of external addresses, once [`check`] has made it.
pub(crate) const POOL: &str = "default-domain:edge:public:pool";

/// The host beyond the router, which serves and asks as pods do.
pub(crate) struct Beyond {
    outside: Outside,
    target: Vec<String>,
    _server: Process,
}

/// The same, beside the cluster.
pub(crate) struct World<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) outside: &'a Outside,
    target: &'a [String],
}

/// Pods that go out by their nodes' addresses, and pods in the underlay: one a node.
pub(crate) struct Ways {
    pub(crate) translated: Vec<KubePod>,
    pub(crate) forwarded: Vec<KubePod>,
}

impl Beyond {
    /// Adds router and host to a cluster.
    pub(crate) fn start(cluster: &mut Cluster) -> Beyond {
        let outside = cluster.outside().unwrap();
        let cluster = &*cluster;
        for node in cluster.nodes() {
            outside.leads(node.host()).unwrap();
        }
        let mut serve = Command::new(cluster.options().programs.join("skein-probe"));
        let server = outside.world().spawn("probe", serve.args(["serve", "tcp:80"])).unwrap();
        let target = vec![format!("tcp:{}:80", outside.addresses().0)];
        Beyond { outside, target, _server: server }
    }

    pub(crate) fn world<'a>(&'a self, cluster: &'a Cluster) -> World<'a> {
        World { cluster, outside: &self.outside, target: &self.target }
    }
}

impl World<'_> {
    /// Out by the nodes' addresses, and in and out by their own.
    pub(crate) fn ways_are_open(&self, ways: &Ways) {
        self.sees(&ways.translated, |pod| self.node_of(pod));
        self.sees(&ways.forwarded, |pod| pod.address.clone());
        self.reaches(&ways.forwarded);
    }

    pub(crate) fn ask(&self, targets: &[String], timeout: Duration) -> Vec<ProbeOutcome> {
        ask_from(self.outside.world(), &self.cluster.options().programs, targets, timeout).unwrap()
    }

    /// A busy connection from there.
    pub(crate) fn stream(&self, target: &str, log: &Path) -> Stream {
        let programs = &self.cluster.options().programs;
        Stream::from_host(self.outside.world(), programs, target, log).unwrap()
    }

    /// Each pod is answered by the world, which sees it by this address.
    pub(crate) fn sees(&self, pods: &[KubePod], seen: impl Fn(&KubePod) -> String) {
        for pod in pods {
            wait_for(&format!("{} to reach the world", pod.name), PATIENCE, || {
                let outcomes = pod.ask(self.target, ANSWER).unwrap();
                let wanted = format!("{}:", seen(pod));
                let right = |o: &ProbeOutcome| {
                    o.answer.as_ref().is_some_and(|answer| answer.client.starts_with(&wanted))
                };
                if outcomes.iter().all(right) { Ok(()) } else { Err(format!("{outcomes:?}")) }
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
    }

    /// The address of a pod's node in the underlay.
    pub(crate) fn node_of(&self, pod: &KubePod) -> String {
        let mut nodes = self.cluster.nodes().iter();
        nodes.find(|node| node.name() == pod.node).unwrap().host().ipv4().to_string()
    }

    /// Waits until no pod reaches the world any more. All ask at once: what does not come is waited for.
    fn closes(&self, pods: &[KubePod]) {
        wait_for("the way out to close", PATIENCE, || {
            let open = std::thread::scope(|scope| {
                let ask = |pod: &'_ KubePod| pod.ask(self.target, SILENCE).unwrap()[0].answered();
                let asking: Vec<_> = pods.iter().map(|pod| scope.spawn(move || ask(pod))).collect();
                asking.into_iter().filter_map(|one| one.join().ok()).any(|open| open)
            });
            if open { Err("still open") } else { Ok(()) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    /// Each pod answers the world, and sees it by its own address.
    pub(crate) fn reaches(&self, pods: &[KubePod]) {
        let own = format!("{}:", self.outside.addresses().0);
        for pod in pods {
            let targets = ["tcp", "udp", "sctp"].map(|p| format!("{p}:{}:80", pod.address));
            wait_for(&format!("the world to reach {}", pod.name), PATIENCE, || {
                let outcomes = self.ask(&targets, ANSWER);
                let right = |o: &ProbeOutcome| {
                    let answer = o.answer.as_ref();
                    answer.is_some_and(|a| a.pod == pod.name && a.client.starts_with(&own))
                };
                if outcomes.iter().all(right) { Ok(()) } else { Err(format!("{outcomes:?}")) }
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
    }

    pub(crate) fn assert_kept_out(&self, pods: &[KubePod]) {
        let targets: Vec<String> = pods.iter().map(|p| format!("tcp:{}:80", p.address)).collect();
        for outcome in self.ask(&targets, SILENCE) {
            assert!(!outcome.answered(), "{outcome:?}");
        }
    }
}

pub(crate) fn check(
    world: &World<'_>,
    network: &SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) -> Ways {
    of_the_cluster(world, pods);
    steps.done("outside for the cluster's own pod network, on and off");
    let translated = translated(world, pods, steps);
    let forwarded = forwarded(world, &translated, pods, steps);
    public_pool(world, network);
    balanced(world, pods, &translated, steps);
    Ways { translated, forwarded }
}

fn annotate(world: &World<'_>, namespace: &str, key: &str, value: &Value) {
    let annotations = json!({ format!("opencontrail.org/{key}"): value });
    let patch = json!({"metadata": {"annotations": annotations}});
    world.cluster.api().merge(&format!("/api/v1/namespaces/{namespace}"), &patch).unwrap();
}

/// The annotation at namespace `default` is about the network of all pods that have no other.
fn of_the_cluster(world: &World<'_>, pods: &[KubePod]) {
    assert_answers(pods, world.target, false);
    annotate(world, "default", "ip_fabric_snat", &json!("true"));
    world.sees(pods, |pod| world.node_of(pod));
    assert_reach(pods, pods, true);
    annotate(world, "default", "ip_fabric_snat", &Value::Null);
    world.closes(pods);
}

/// A namespace whose pods leave by their nodes' addresses, as long as it says so; gives them.
fn translated(world: &World<'_>, others: &[KubePod], steps: &mut Steps) -> Vec<KubePod> {
    let cluster = world.cluster;
    let annotations = json!({"opencontrail.org/isolation": "true"});
    create_namespace(cluster, &json!({"name": "out", "annotations": annotations}));
    let own = on_every_node(cluster, "out", "web", &json!({}));
    assert_answers(&own, world.target, false);
    annotate(world, "out", "ip_fabric_snat", &json!("true"));
    world.sees(&own, |pod| world.node_of(pod));
    world.outside.expects("10.244.0.0/16").unwrap();
    world.assert_kept_out(&own);
    // What is isolated stays so.
    assert_reach(others, &own, false);
    assert_reach(&own, others, true);
    annotate(world, "out", "ip_fabric_snat", &json!("false"));
    world.closes(&own);
    annotate(world, "out", "ip_fabric_snat", &json!("true"));
    world.sees(&own, |pod| world.node_of(pod));
    steps.done("outside by the nodes' addresses, on, off and on again");
    own
}

/// A namespace in the underlay, made twice.
fn forwarded(
    world: &World<'_>,
    alone: &[KubePod],
    others: &[KubePod],
    steps: &mut Steps,
) -> Vec<KubePod> {
    let cluster = world.cluster;
    // The manager's default of its subnets in the underlay.
    world.outside.expects("10.64.0.0/12").unwrap();
    let annotations = json!({
        "opencontrail.org/isolation": "true", "opencontrail.org/ip_fabric_forwarding": "true",
        "opencontrail.org/ip_fabric_snat": "true",
    });
    let mut round = 0;
    loop {
        create_namespace(cluster, &json!({"name": "edge", "annotations": annotations}));
        let own = on_every_node(cluster, "edge", "web", &json!({}));
        for pod in &own {
            let address: std::net::Ipv4Addr = pod.address.parse().unwrap();
            assert!(matches!(address.octets(), [10, 64..=79, ..]), "{pod:?}");
        }
        assert_reach(&own, &own, true);
        world.sees(&own, |pod| pod.address.clone());
        world.reaches(&own);
        if round == 1 {
            steps.done("pods in the underlay, made twice");
            return own;
        }
        round += 1;
        // Isolated from each other, though both may go out.
        assert_reach(others, &own, false);
        assert_reach(&own, alone, false);
        assert_reach(alone, &own, false);
        assert_reach(&own, others, true);
        // Nodes reach them, and they the nodes.
        for number in 0..cluster.nodes().len() {
            let targets: Vec<String> =
                own.iter().map(|pod| format!("tcp:{}:80", pod.address)).collect();
            wait_for("pods in the underlay to answer a node", PATIENCE, || {
                all_answered(crate::ask_from_node(cluster, number, &targets, ANSWER))
            })
            .unwrap_or_else(|error| panic!("{}: {error}", cluster.nodes()[number].name()));
        }
        // It stays where it is, and says so.
        annotate(world, "edge", "ip_fabric_forwarding", &json!("false"));
        wait_for("the event", PATIENCE, || {
            let events = cluster.api().list("/api/v1/events").map_err(|e| e.to_string())?;
            let told = events.iter().any(|event| {
                event["reason"] == "ForwardingStays" && event["involvedObject"]["name"] == "edge"
            });
            if told { Ok(()) } else { Err(format!("{} others", events.len())) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        world.sees(&own, |pod| pod.address.clone());
        // Its pods first: what still has some is looked at again after longer and longer times.
        for pod in &own {
            let path = format!("/api/v1/namespaces/edge/pods/{}", pod.name);
            // Else a kubelet may wait for its collector's next minute before it says that a pod is gone.
            cluster.api().delete(&format!("{path}?gracePeriodSeconds=0")).unwrap();
        }
        wait_for("its pods to go", PODS_GONE, || {
            let left = cluster.pods("edge", "app=web").map_err(|error| error.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(format!("{} are there", left.len())) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        cluster.api().delete("/api/v1/namespaces/edge").unwrap();
        wait_for("the namespace to go", PODS_GONE, || {
            match cluster.api().find("/api/v1/namespaces/edge").map_err(|e| e.to_string())? {
                Some(_) => Err("it is there".to_owned()),
                None => Ok(()),
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// A public network in the underlay, with addresses for services and Ingresses.
pub(crate) fn public_pool(world: &World<'_>, network: &SkeinNetwork) {
    let file = example("public-network.skein.yaml");
    network.skein(&["apply", "-f", &file.display().to_string()]).unwrap().success().unwrap();
    world.outside.expects("10.63.0.0/24").unwrap();
}

/// Services with addresses of a public network: by a pool of their own, their namespace's and the cluster's.
fn balanced(world: &World<'_>, pods: &[KubePod], alone: &[KubePod], steps: &mut Steps) {
    let of_set = |pod: &&KubePod| pod.object["metadata"]["labels"]["set"] == "probe1";
    let members: BTreeSet<String> = pods.iter().filter(of_set).map(|p| p.name.clone()).collect();
    let own_pool = json!({"opencontrail.org/fip-pool": POOL});
    let front = Balanced::new(world, "default", &own_pool, &json!({"set": "probe1"}));
    front.answers(&members);
    // With the policy `Local` the client is seen as itself, by the members of one node.
    front.change(&json!({"externalTrafficPolicy": "Local"}));
    let own = format!("{}:", world.outside.addresses().0);
    wait_for("members to see the world", PATIENCE, || {
        let outcomes = world.ask(&front.targets, ANSWER);
        let right = |o: &ProbeOutcome| {
            o.answer.as_ref().is_some_and(|answer| answer.client.starts_with(&own))
        };
        let one = answering(&outcomes).len() == 1;
        if one && outcomes.iter().all(right) { Ok(()) } else { Err(format!("{outcomes:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    front.change(&json!({"externalTrafficPolicy": "Cluster"}));
    front.answers(&members);
    steps.done("a load balancer's address from outside");
    // Who may come is said by the service.
    front.change(&json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]}));
    front.answers(&["-".to_owned()].into());
    let range = format!("{}/32", world.outside.addresses().0);
    front.change(&json!({"loadBalancerSourceRanges": [range]}));
    front.answers(&members);
    front.remove();
    steps.done("source ranges of a load balancer");
    // In an isolated namespace, which nobody else inside reaches, by the pool of the namespace.
    annotate(world, "out", "fip-pool", &json!(POOL));
    let inner = Balanced::new(world, "out", &json!({}), &json!({"app": "web"}));
    // And by the pool of the cluster, which the manager was told.
    let plain = Balanced::new(world, "default", &json!({}), &json!({"set": "probe1"}));
    inner.answers(&alone.iter().map(|pod| pod.name.clone()).collect());
    plain.answers(&members);
    assert_reach(pods, alone, false);
    inner.remove();
    plain.remove();
    annotate(world, "out", "fip-pool", &Value::Null);
    steps.done("load balancers of an isolated namespace, and of the cluster's pool");
}

fn answering(outcomes: &[ProbeOutcome]) -> BTreeSet<String> {
    let name = |o: &ProbeOutcome| o.answer.as_ref().map_or("-".to_owned(), |a| a.pod.clone());
    outcomes.iter().map(name).collect()
}

/// A service of type LoadBalancer.
pub(crate) struct Balanced<'a> {
    world: &'a World<'a>,
    path: String,
    targets: Vec<String>,
}

impl<'a> Balanced<'a> {
    pub(crate) fn new(
        world: &'a World<'a>,
        namespace: &str,
        annotations: &Value,
        selector: &Value,
    ) -> Balanced<'a> {
        let service = json!({
            "metadata": {"name": "front", "annotations": annotations},
            "spec": {
                "type": "LoadBalancer", "selector": selector,
                "ports": [{"port": 8080, "targetPort": 80}],
            },
        });
        let services = format!("/api/v1/namespaces/{namespace}/services");
        world.cluster.api().create(&services, &service).unwrap();
        let path = format!("{services}/front");
        let made = world.cluster.api().wait("an address", &path, PATIENCE, |object| {
            object["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
        });
        let made = made.unwrap_or_else(|error| panic!("{error}"));
        let address = made["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap();
        assert!(address.starts_with("10.63.0."), "{address}");
        Balanced { world, path, targets: vec![format!("tcp:{address}:8080"); 40] }
    }

    fn change(&self, spec: &Value) {
        self.world.cluster.api().merge(&self.path, &json!({ "spec": spec })).unwrap();
    }

    /// Its address and port.
    pub(crate) fn target(&self) -> &str {
        self.targets[0].trim_start_matches("tcp:")
    }

    /// Waits until exactly these answer the world; "-" is nobody.
    pub(crate) fn answers(&self, members: &BTreeSet<String>) {
        let timeout = if members.contains("-") { SILENCE } else { ANSWER };
        wait_for(&format!("{} to answer the world by {members:?}", self.path), PATIENCE, || {
            let often = self.targets.len().max(12 * members.len());
            let targets = vec![self.targets[0].clone(); often];
            let now = answering(&self.world.ask(&targets, timeout));
            if now == *members { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    pub(crate) fn remove(self) {
        self.world.cluster.api().delete(&self.path).unwrap();
    }
}
