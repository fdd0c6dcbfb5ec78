//! Two Kubernetes clusters that share a controller: the same names of namespaces, pods, services and nodes, the same
//! labels, service addresses and node ports; prefixes of pods of their own. Each is to live as if it were alone.
//! Needs root and the programs of Kubernetes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; how long the steps took is for whoever reads a failure"
)]

mod support;

use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Cluster, ClusterOptions, KubePod, NetworkOptions, PROBE_IMAGE, ProbeOutcome, SkeinNetwork,
    read_outcomes,
};
use skein_lab::{Host, LabOptions, wait_for};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;
use support::steps::Steps;
use support::{api, programs};

const PATIENCE: Duration = Duration::from_secs(60);
const PODS_READY: Duration = Duration::from_secs(120);
/// A kubelet may wait for its collector, which comes once a minute, before it says that a pod is gone.
const PODS_GONE: Duration = Duration::from_secs(180);
const SHORT: Duration = Duration::from_millis(700);
const PODS: [&str; 3] = ["client", "stranger", "web"];
const SERVICE: &str = "10.96.7.7";
const NODE_PORT: u16 = 30_777;
const MANAGER_STATUS: u16 = 8108;
/// Types of which a manager makes objects with its cluster's name on them.
const KINDS: [&str; 15] = [
    "project",
    "virtual-network",
    "network-policy",
    "network-ipam",
    "security-group",
    "virtual-machine",
    "virtual-machine-interface",
    "instance-ip",
    "loadbalancer",
    "loadbalancer-listener",
    "loadbalancer-pool",
    "loadbalancer-member",
    "application-policy-set",
    "firewall-policy",
    "firewall-rule",
];

/// One of the clusters.
struct Side {
    name: &'static str,
    cluster: Cluster,
    network: SkeinNetwork,
    /// What its pods' addresses start with.
    prefix: &'static str,
    pods: BTreeMap<String, KubePod>,
}

impl Side {
    fn pod(&self, name: &str) -> &KubePod {
        &self.pods[name]
    }

    fn at(&self, name: &str) -> String {
        format!("tcp:{}:80", self.pod(name).address)
    }

    /// The address of its node in the underlay.
    fn node(&self) -> String {
        self.cluster.nodes()[0].host().ipv4().to_string()
    }

    fn node_port(&self) -> String {
        format!("tcp:{}:{NODE_PORT}", self.node())
    }

    /// Namespace, service and pods: the same in every cluster.
    fn populate(&self) {
        let api = self.cluster.api();
        let namespace = json!({"metadata": {"name": "shop", "labels": {"team": "a"}}});
        api.create("/api/v1/namespaces", &namespace).unwrap();
        let service = json!({
            "metadata": {"name": "web"},
            "spec": {
                "type": "NodePort", "clusterIP": SERVICE, "selector": {"app": "web"},
                "ports": [{"port": 8080, "targetPort": 80, "nodePort": NODE_PORT}],
            },
        });
        api.create("/api/v1/namespaces/shop/services", &service).unwrap();
        for name in PODS {
            self.start(name);
        }
    }

    fn start(&self, name: &str) {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": name, "all": "pods"}},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
            },
        });
        // In a new namespace none is taken before its service account has what it needs.
        wait_for("a pod to be taken", PATIENCE, || {
            let made = self.cluster.api().create("/api/v1/namespaces/shop/pods", &pod);
            made.map_err(|error| error.to_string())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    fn wait_pods(&mut self, count: usize) {
        let pods = self.cluster.wait_pods("shop", "all=pods", count, PODS_READY).unwrap();
        self.pods = pods.into_iter().map(|pod| (pod.name.clone(), pod)).collect();
        for pod in self.pods.values() {
            assert!(pod.address.starts_with(self.prefix), "{}: {pod:?}", self.name);
        }
    }

    /// Lets in to `web` whom the peers say.
    fn guard(&self, peers: &Value) {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "guard", "namespace": "shop"},
            "spec": {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": peers},
        });
        self.cluster.apply(&policy.to_string()).unwrap();
    }

    fn unguard(&self) {
        let path = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies/guard";
        self.cluster.api().delete(path).unwrap();
    }

    fn manager(&self) -> Value {
        let host = self.cluster.control_host();
        let answer = host.http(MANAGER_STATUS, "GET", "/v1/status", "").unwrap();
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.body))
    }
}

/// Who answers a pod: the address of the one behind the target.
fn asked(pod: &KubePod, target: &str) -> Option<String> {
    server(&pod.ask(&[target.to_owned()], SHORT).unwrap()[0])
}

fn asked_by_host(cluster: &Cluster, host: &Host, target: &str) -> Option<String> {
    let mut command = Command::new(cluster.options().programs.join("skein-probe"));
    command.args(["ask", "--timeout", &SHORT.as_millis().to_string(), target]);
    let text = host.run(&mut command).unwrap().success().unwrap();
    server(&read_outcomes(&text).unwrap()[0])
}

fn server(outcome: &ProbeOutcome) -> Option<String> {
    let server = outcome.answer.as_ref()?.server.clone().unwrap();
    Some(server.rsplit_once(':').unwrap().0.to_owned())
}

/// Waits until a target is answered by this one; none: by nobody.
fn wait_answer(what: &str, wanted: Option<&KubePod>, ask: impl Fn() -> Option<String>) {
    let wanted = wanted.map(|pod| pod.address.clone());
    wait_for(what, PATIENCE, || {
        let got = ask();
        if got == wanted { Ok(()) } else { Err(format!("{got:?} instead of {wanted:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// The controller that both share, asked where it is.
struct Controller<'a>(&'a Host);

impl Controller<'_> {
    fn list(&self, kind: &str) -> Vec<Value> {
        let path = format!("/{kind}s?detail=true");
        let (status, answer) = api(self.0, "GET", &path, &Value::Null).unwrap();
        assert_eq!(status, 200, "{path}: {answer}");
        let list = answer[format!("{kind}s")].as_array().unwrap();
        list.iter().map(|entry| entry[kind].clone()).collect()
    }

    /// Every object with a cluster's name on it, with when it was changed last, by type and name.
    fn objects_of(&self, cluster: &str) -> BTreeMap<(&'static str, String), Value> {
        let mut all = BTreeMap::new();
        for kind in KINDS {
            for object in self.list(kind) {
                if note(&object, "cluster") == Some(cluster) {
                    all.insert((kind, object["fq_name"].to_string()), object);
                }
            }
        }
        all
    }

    /// The same, once nothing changes any more.
    fn settled(&self, side: &Side) -> BTreeMap<(&'static str, String), Value> {
        let mut before = self.objects_of(side.name);
        wait_for("the manager to have nothing to do", PATIENCE, || {
            std::thread::sleep(Duration::from_millis(300));
            let status = side.manager();
            let now = self.objects_of(side.name);
            let same = now == before;
            before = now;
            let done = ["waiting", "writing", "failing"].iter().all(|figure| status[figure] == 0);
            let idle = status["leading"] == true && done;
            if same && idle { Ok(()) } else { Err(status.to_string()) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        before
    }

    fn must(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = api(self.0, method, path, body).unwrap();
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    fn uuid(&self, kind: &str, name: &str) -> String {
        let name: Vec<&str> = name.split(':').collect();
        let body = json!({"type": kind, "fq_name": name});
        self.must("POST", "/fqname-to-id", &body)["uuid"].as_str().unwrap().to_owned()
    }

    /// What an operator does to let pods of both clusters reach each other.
    fn bridge(&self, networks: [&str; 2]) {
        let end = |name: &str| json!([{"virtual_network": name}]);
        let ports = json!([{"start_port": -1, "end_port": -1}]);
        let policy = json!({"network-policy": {
            "fq_name": ["default-domain", "default-project", "bridge"], "parent_type": "project",
            "network_policy_entries": {"policy_rule": [{
                "direction": "<>", "protocol": "any", "src_ports": ports, "dst_ports": ports,
                "src_addresses": end(networks[0]), "dst_addresses": end(networks[1]),
                "action_list": {"simple_action": "pass"},
            }]},
        }});
        self.must("POST", "/network-policys", &policy);
        for network in networks {
            let reference = json!({
                "type": "virtual-network", "uuid": self.uuid("virtual-network", network),
                "ref-type": "network-policy", "operation": "ADD",
                "ref-uuid": self.uuid("network-policy", "default-domain:default-project:bridge"),
                "attr": {"sequence": {"major": 9, "minor": 0}},
            });
            self.must("POST", "/ref-update", &reference);
        }
    }
}

fn note<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    let pairs = object["annotations"]["key_value_pair"].as_array()?;
    pairs.iter().find(|pair| pair["key"] == key)?["value"].as_str()
}

/// Both clusters, of a node each, on one underlay, with one controller.
fn two_sides(steps: &mut Steps) -> (Side, Side) {
    let options = |first| ClusterOptions {
        nodes: 1,
        lab: LabOptions { first, ..LabOptions::default() },
        ..ClusterOptions::new(&programs::folder())
    };
    let start = |name: &'static str, first| {
        Cluster::start(name, options(first)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| start("teast", 1));
        let two = start("twest", 101);
        (one.join().unwrap(), two)
    });
    one.join(&two).unwrap();
    steps.done("two Kubernetes");
    let options = |name: &str, pods: &str, node_prefix: &str| NetworkOptions {
        cluster: name.into(),
        pod_subnets: vec![pods.into()],
        node_prefix: node_prefix.into(),
        ..NetworkOptions::default()
    };
    let first = options("east", "10.244.0.0/16", "");
    let first = SkeinNetwork::install(&one, &first).unwrap_or_else(|error| panic!("{error}"));
    // Kubernetes calls both nodes node1; the fabric has to tell them apart.
    let second = options("west", "10.245.0.0/16", "west-");
    let second =
        SkeinNetwork::join(&two, &second, &first).unwrap_or_else(|error| panic!("{error}"));
    steps.done("the controller, and both clusters' nodes");
    let side = |name, cluster, network, prefix| Side {
        name,
        cluster,
        network,
        prefix,
        pods: BTreeMap::new(),
    };
    (side("east", one, first, "10.244."), side("west", two, second, "10.245."))
}

#[test]
fn two_clusters_on_one_controller_live_as_if_each_were_alone() {
    let mut steps = Steps::start();
    let (mut east, mut west) = two_sides(&mut steps);
    for side in [&mut east, &mut west] {
        side.populate();
    }
    for side in [&mut east, &mut west] {
        side.wait_pods(PODS.len());
    }
    steps.done("pods and services of the same names");
    let host = east.cluster.control_host().clone();
    let controller = Controller(&host);

    leases_are_apart(&east, &west);
    nodes_are_told_apart(&controller, &east, &west);
    steps.done("leases and nodes");
    for (own, other) in [(&east, &west), (&west, &east)] {
        services_are_ones_own(own, other);
        for name in PODS {
            assert_eq!(asked(own.pod(name), &other.at("web")), None, "{} reaches out", own.name);
        }
    }
    steps.done("services, node ports, and no way across");

    policies_hold_in_one(&east, &west);
    steps.done("a policy in one cluster");
    equal_labels_are_not_the_same(&controller, &east, &west);
    steps.done("equal policies beside an operator's way across");

    managers_repair_their_own(&controller, &mut east, &mut west);
    steps.done("both managers restarted, drift repaired");
    one_ends_and_the_other_stays(&controller, &mut east, &mut west);
    steps.done("one cluster emptied");
}

fn leases_are_apart(east: &Side, west: &Side) {
    let path = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    for (own, other) in [(east, west), (west, east)] {
        let lease = |of: &Side| {
            own.cluster.api().find(&format!("{path}/skein-kube-manager-{}", of.name)).unwrap()
        };
        let held = lease(own).unwrap_or_else(|| panic!("{} has no Lease", own.name));
        assert!(held["spec"]["holderIdentity"].is_string(), "{held}");
        assert_eq!(lease(other), None, "in {}", own.name);
        assert_eq!(own.manager()["leading"], true);
    }
}

/// Each virtual-router is known as its own cluster's node, by its address: both nodes are called the same.
fn nodes_are_told_apart(controller: &Controller<'_>, east: &Side, west: &Side) {
    wait_for("the nodes to be told apart", PATIENCE, || {
        let routers = controller.list("virtual-router");
        for (name, side) in [("node1", east), ("west-node1", west)] {
            let router = routers.iter().find(|r| r["fq_name"][1] == name).ok_or("missing")?;
            assert_eq!(router["virtual_router_ip_address"], side.node());
            let told = (note(router, "cluster"), note(router, "addresses"));
            if told != (Some(side.name), Some(&side.node())) {
                return Err(format!("{name}: {told:?}"));
            }
        }
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{error}"));
    for side in [east, west] {
        let name = format!("{}__shop__web", side.name);
        let machine = controller.uuid("virtual-machine", &name);
        assert_eq!(machine, side.pod("web").uid, "{name}");
    }
}

/// The service's address, the node port and the pod itself, from a pod, from the node and from outside.
fn services_are_ones_own(own: &Side, other: &Side) {
    let web = own.pod("web");
    let service = format!("tcp:{SERVICE}:8080");
    let node = own.cluster.nodes()[0].host();
    for target in [own.at("web"), service, own.node_port()] {
        wait_answer(&format!("{target} in a pod of {}", own.name), Some(web), || {
            asked(own.pod("client"), &target)
        });
        wait_answer(&format!("{target} on the node of {}", own.name), Some(web), || {
            asked_by_host(&own.cluster, node, &target)
        });
    }
    for (what, cluster) in [("its own", &own.cluster), ("the other's", &other.cluster)] {
        wait_answer(
            &format!("{}'s node port from {what} host outside", own.name),
            Some(web),
            || asked_by_host(cluster, cluster.control_host(), &own.node_port()),
        );
    }
    // The other's nodes are no nodes of this cluster: their ports are not its services'.
    assert_eq!(asked(own.pod("client"), &other.node_port()), None, "from {}", own.name);
    let seen = own.network.skein_on(0, &["vrouter", "services", "-o", "json"]).unwrap();
    let text = seen.success().unwrap();
    assert!(!text.contains(other.prefix), "{}'s node has services of the other: {text}", own.name);
}

fn policies_hold_in_one(east: &Side, west: &Side) {
    east.guard(&json!([]));
    wait_answer("the policy in east", None, || asked(east.pod("client"), &east.at("web")));
    for name in ["client", "stranger"] {
        wait_answer(&format!("{name} of west"), Some(west.pod("web")), || {
            asked(west.pod(name), &west.at("web"))
        });
    }
    east.unguard();
    let web = east.pod("web");
    wait_answer("the policy's end in east", Some(web), || {
        asked(east.pod("client"), &east.at("web"))
    });
}

/// The same policy in both: who has the label in the other cluster is nobody, even where routes lead across.
fn equal_labels_are_not_the_same(controller: &Controller<'_>, east: &Side, west: &Side) {
    let network =
        |side: &Side| format!("default-domain:{0}-default:{0}-default-pod-network", side.name);
    controller.bridge([&network(east), &network(west)]);
    for (own, other) in [(east, west), (west, east)] {
        wait_answer(&format!("the way from {}", own.name), Some(other.pod("web")), || {
            asked(own.pod("client"), &other.at("web"))
        });
    }
    let clients = json!([{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]);
    let everyone = json!([{"from": [{"namespaceSelector": {}}]}]);
    for (peers, stranger) in [(clients, false), (everyone, true)] {
        east.guard(&peers);
        west.guard(&peers);
        for (own, other) in [(east, west), (west, east)] {
            let web = own.pod("web");
            for (name, passes) in [("stranger", stranger), ("client", true)] {
                let what = format!("{name} of {} at its own", own.name);
                wait_answer(&what, Some(web).filter(|_| passes), || {
                    asked(own.pod(name), &own.at("web"))
                });
                wait_answer(&format!("{name} of {} at the other's", own.name), None, || {
                    asked(own.pod(name), &other.at("web"))
                });
            }
        }
    }
    let rules = controller.list("firewall-rule");
    for side in [east, west] {
        let own = rules.iter().filter(|rule| note(rule, "cluster") == Some(side.name));
        let own = own.filter(|rule| note(rule, "name") == Some("guard"));
        assert_eq!(own.count(), 2, "rules of {}'s policy", side.name);
    }
}

/// Every manager compares everything when it starts, and puts back what is missing: of its own cluster.
fn managers_repair_their_own(controller: &Controller<'_>, east: &mut Side, west: &mut Side) {
    let before = (controller.settled(east), controller.settled(west));
    assert!(before.0.len() > 30 && before.1.len() > 30, "{} objects", before.0.len());
    east.network.manager.kill().unwrap();
    west.network.manager.kill().unwrap();
    let kind = "loadbalancer-member";
    let members = controller.list(kind);
    let lost = members
        .iter()
        .find(|m| note(m, "cluster") == Some("east") && note(m, "namespace") == Some("shop"));
    let lost = lost.unwrap_or_else(|| panic!("{members:?}")).clone();
    controller.must("DELETE", &format!("/{kind}/{}", lost["uuid"].as_str().unwrap()), &Value::Null);
    west.network.restart_manager().unwrap();
    let after = controller.settled(west);
    assert_eq!(differences(&before.1, &after), Vec::<String>::new(), "west");
    let name = (kind, lost["fq_name"].to_string());
    assert!(!controller.objects_of("east").contains_key(&name), "west repaired what is east's");
    east.network.restart_manager().unwrap();
    wait_for("what is missing to come back", PATIENCE, || {
        controller.objects_of("east").get(&name).map(|_| ()).ok_or("not there")
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let after = (controller.settled(east), controller.settled(west));
    assert_eq!(differences(&before.1, &after.1), Vec::<String>::new(), "west");
    assert_eq!(differences(&before.0, &after.0), [format!("{name:?}")], "east");
}

type Objects = BTreeMap<(&'static str, String), Value>;

/// Names of what is not the same, touched or made anew.
fn differences(before: &Objects, after: &Objects) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let other = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    other.map(|name| format!("{name:?}")).collect()
}

fn one_ends_and_the_other_stays(controller: &Controller<'_>, east: &mut Side, west: &mut Side) {
    let before = controller.settled(west);
    let log = west.cluster.state().join("stream.log");
    let stream = west.pod("client").stream(&format!("{SERVICE}:8080"), &log).unwrap();
    east.unguard();
    let web = east.pod("web");
    wait_answer("the policy's end in east", Some(web), || {
        asked(east.pod("stranger"), &east.at("web"))
    });
    // What both demanded, west still does.
    wait_answer("west's client", Some(west.pod("web")), || {
        asked(west.pod("client"), &west.at("web"))
    });
    assert_eq!(asked(east.pod("client"), &west.at("web")), None, "west's policy");

    east.cluster.api().delete("/api/v1/namespaces/shop").unwrap();
    wait_for("east's objects to be gone", PODS_GONE, || {
        let left: Vec<_> = controller
            .objects_of("east")
            .into_iter()
            .filter(|(_, object)| note(object, "namespace") == Some("shop"))
            .map(|(name, _)| name)
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let after = controller.settled(west);
    assert_eq!(differences(&before, &after), Vec::<String>::new(), "west");
    // Tags are global: those that west uses are there, whoever made them.
    for tag in ["namespace=shop", "app=web"] {
        controller.uuid("tag", tag);
    }
    east.network.agent(0).kill().unwrap();
    east.network.manager.kill().unwrap();
    west.start("late");
    west.wait_pods(PODS.len() + 1);
    let web = west.pod("web");
    wait_answer("the service for a new pod of west", Some(web), || {
        asked(west.pod("late"), &format!("tcp:{SERVICE}:8080"))
    });
    let before = stream.echoes().unwrap();
    wait_for("west's traffic to go on", PATIENCE, || match stream.echoes().unwrap() {
        now if now > before + 40 => Ok(()),
        now => Err(format!("{before} echoes before, {now} now")),
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let report = stream.finish().unwrap();
    println!("west's traffic meanwhile: {report:?}");
    assert_eq!(report.error, None);
}
