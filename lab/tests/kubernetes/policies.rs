//! Network policies: for each set of them the table of all pods x all pods x ports must be the one that Kubernetes means.
//!
//! What it means says an oracle that is written from Kubernetes' text alone. The tables are asked for by programs that
//! stay in the pods. A change counts as arrived when every connection that it concerns is as it should be; then the whole
//! table is asked for.

use crate::{
    PATIENCE, PODS_READY, Steps, all_answered, ask_from_node, create_namespace, create_pod, oracle,
    policy_cases, random_policies,
};
use oracle::{End, World};
use random_policies::Random;
use serde_json::{Value, json};
use skein_lab::kubernetes::{Asker, Cluster, KubePod, PROBE_IMAGE, ProbeOutcome, read_outcomes};
use skein_lab::wait_for;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
/// Protocol, port, and which of the pod's addresses is asked.
const DOORS: [(&str, u16, usize); 8] = [
    ("tcp", 80, 0),
    ("tcp", 81, 0),
    ("udp", 80, 0),
    ("udp", 81, 0),
    ("sctp", 80, 0),
    ("sctp", 81, 0),
    ("tcp", 80, 1),
    ("udp", 81, 1),
];
/// How long an answer is awaited in a table. What should have come is asked for again.
const ANSWER: Duration = Duration::from_millis(200);
/// Tables of policies by chance.
const BY_CHANCE: usize = 26;
/// The same of administrators' policies.
const ADMIN_BY_CHANCE: usize = 8;
/// Tables by chance while a namespace is isolated, and of those by hand each of so many.
const ISOLATED_BY_CHANCE: usize = 6;
const ISOLATED_BY_HAND: usize = 4;

/// A question: source and target by their places in the world, and a door.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    from: usize,
    to: usize,
    door: usize,
}

struct Tables<'c> {
    cluster: &'c Cluster,
    pods: Vec<KubePod>,
    askers: Vec<Asker>,
    world: World,
    /// Paths of the policies that are there.
    made: Vec<String>,
    policies: usize,
    tables: usize,
    slowest: f64,
}

pub(crate) fn check(cluster: &Cluster, steps: &mut Steps) {
    let mut tables = Tables::start(cluster);
    steps.done("pods for policies");
    tables.expect("no policy", None);
    for (at, (name, policies)) in policy_cases::cases(&tables.world).into_iter().enumerate() {
        tables.hold(name, &policies, &[]);
        // Those that close everything are the first ones.
        if at < 4 {
            tables.nodes_reach_their_own(name);
        }
    }
    steps.done("tables by hand");
    let seed = match std::env::var("SKEIN_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("SKEIN_SEED={text} is no number")),
        Err(_) => 20_261_123,
    };
    println!("SKEIN_SEED={seed}");
    let mut random = Random(seed);
    for round in 0..BY_CHANCE {
        let count = 1 + random.below(5);
        let policies: Vec<Value> = (0..count)
            .map(|at| {
                random_policies::policy(&mut random, &tables.world, &format!("r{round}-{at}"))
            })
            .collect();
        let name = format!("SKEIN_SEED={seed} round {round}");
        tables.hold(&name, &policies, &[]);
        match round % 4 {
            1 => tables.relabel_pod(&mut random, &name),
            2 => tables.relabel_namespace(&mut random, &name),
            3 => tables.edit(&mut random, &name),
            _ => {}
        }
    }
    steps.done("tables by chance, relabelled and edited");
    cluster.apply(&policy_cases::definitions().to_string()).unwrap();
    for (name, policies, admin) in policy_cases::admin_cases() {
        tables.hold(name, &policies, &admin);
    }
    for round in 0..ADMIN_BY_CHANCE {
        tables.by_chance(&mut random, "s", round, &format!("SKEIN_SEED={seed} tier round {round}"));
    }
    steps.done("tables of administrators' policies");
    tables.in_an_isolated_namespace(&mut random, seed);
    steps.done("tables in an isolated namespace");
    tables.nodes_as_peers();
    tables.hold("none again", &[], &[]);
    steps.done("tables of nodes as peers");
    tables.started_under_a_policy();
    steps.done("pods that ask as soon as they start");
    println!(
        "{} policies in {} tables of {} connections; in force after {:.3} s at most",
        tables.policies,
        tables.tables,
        tables.cells().len(),
        tables.slowest
    );
    assert!(tables.policies >= 100, "{} policies", tables.policies);
    for namespace in NAMESPACES {
        cluster.api().delete(&format!("/api/v1/namespaces/{namespace}")).unwrap();
    }
}

fn labels(value: &Value) -> oracle::Labels {
    let all = value.as_object().into_iter().flatten();
    all.map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect()
}

/// Ports by name, other numbers in each pod.
fn named_ports(pod: &str) -> Value {
    match pod {
        "a" => json!([
            {"name": "door", "containerPort": 81, "protocol": "TCP"},
            {"name": "post", "containerPort": 80, "protocol": "UDP"},
        ]),
        "b" => json!([
            {"name": "door", "containerPort": 80, "protocol": "TCP"},
            {"name": "gate", "containerPort": 81, "protocol": "SCTP"},
        ]),
        _ => json!([{"name": "door", "containerPort": 80, "protocol": "UDP"}]),
    }
}

fn pod_labels(pod: &str) -> Value {
    match pod {
        "a" => json!({"pod": "a", "tier": "web", "example.com/role": "Front", "App": "one"}),
        "b" => json!({"pod": "b", "tier": "db", "application": "k8s", "team": "red"}),
        _ => json!({"pod": "c", "team": "blue", "example.com/role": ""}),
    }
}

fn namespace_labels(namespace: &str) -> Value {
    match namespace {
        "x" => json!({"ns": "x", "team": "red"}),
        "y" => json!({"ns": "y", "team": "blue", "example.com/env": "prod"}),
        _ => json!({"ns": "z", "example.com/env": ""}),
    }
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": pod_labels(name)},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
                "ports": named_ports(name),
                "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 5},
            }],
        },
    })
}

/// The address of the other family: this API server tells the first one only.
fn second_address(pod: &KubePod) -> IpAddr {
    let shown = pod.run("/bin/ip", &["-6", "addr", "show", "eth0"]).unwrap().success().unwrap();
    let found = shown.split_whitespace().find(|word| word.starts_with("fd00:244:"));
    let address = found.and_then(|word| word.split('/').next()?.parse().ok());
    address.unwrap_or_else(|| panic!("{} has no second address: {shown}", pod.name))
}

impl<'c> Tables<'c> {
    /// Three pods in each of three namespaces, a namespace's pods and pods of one name on different nodes.
    fn start(cluster: &'c Cluster) -> Tables<'c> {
        let mut world = World::default();
        for namespace in NAMESPACES {
            let own = namespace_labels(namespace);
            create_namespace(cluster, &json!({"name": namespace, "labels": own}));
            let labels = labels(&own);
            world.namespaces.push(oracle::Namespace {
                name: namespace.into(),
                labels,
                isolated: false,
            });
        }
        for (row, namespace) in NAMESPACES.into_iter().enumerate() {
            for (column, name) in PODS.into_iter().enumerate() {
                let node = cluster.nodes()[(row + column) % cluster.nodes().len()].name();
                create_pod(cluster, namespace, &pod(name, node));
            }
        }
        let mut pods = Vec::new();
        for namespace in NAMESPACES {
            for pod in cluster.wait_pods(namespace, "pod", PODS.len(), PODS_READY).unwrap() {
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let ports = named_ports(&pod.name);
                let ports = ports.as_array().unwrap().iter().map(|port| {
                    let number = port["containerPort"].as_u64().unwrap();
                    (text(&port["name"]), text(&port["protocol"]), u16::try_from(number).unwrap())
                });
                world.pods.push(oracle::Pod {
                    namespace: namespace.into(),
                    name: pod.name.clone(),
                    labels: labels(&pod_labels(&pod.name)),
                    addresses: vec![pod.address.parse().unwrap(), second_address(&pod)],
                    ports: ports.collect(),
                });
                pods.push(pod);
            }
        }
        let askers = pods.iter().map(|pod| pod.asker().unwrap()).collect();
        let made = Vec::new();
        Tables { cluster, pods, askers, world, made, policies: 0, tables: 0, slowest: 0.0 }
    }

    /// All questions of a table; whom a pod is to itself no policy says.
    fn cells(&self) -> Vec<Cell> {
        let count = self.pods.len();
        let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to)
            .flat_map(|(from, to)| (0..DOORS.len()).map(move |door| Cell { from, to, door }))
            .collect()
    }

    fn right(world: &World, cell: Cell) -> bool {
        let (protocol, port, family) = DOORS[cell.door];
        let end = |at: usize| End::Pod(&world.pods[at], world.pods[at].addresses[family]);
        let protocol = protocol.to_uppercase();
        oracle::allowed(world, end(cell.from), end(cell.to), (&protocol, port))
    }

    /// Asks; gives those that are not as they should be, with what was said.
    fn wrong(&mut self, cells: &[Cell]) -> Vec<(Cell, String)> {
        let world = &self.world;
        let asking = self.askers.iter_mut().enumerate().map(|(from, asker)| {
            let own: Vec<Cell> = cells.iter().filter(|cell| cell.from == from).copied().collect();
            (own, asker)
        });
        let answers = std::thread::scope(|scope| {
            let threads: Vec<_> = asking
                .filter(|(own, _)| !own.is_empty())
                .map(|(own, asker)| {
                    scope.spawn(move || {
                        let targets: Vec<String> = own
                            .iter()
                            .map(|cell| {
                                let (protocol, port, family) = DOORS[cell.door];
                                let address = world.pods[cell.to].addresses[family];
                                format!("{protocol}:{}", std::net::SocketAddr::new(address, port))
                            })
                            .collect();
                        let outcomes = asker.ask(&targets, ANSWER).unwrap();
                        own.into_iter().zip(outcomes).collect::<Vec<_>>()
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        let wrong = answers
            .into_iter()
            .filter(|(cell, outcome)| outcome.answered() != Self::right(world, *cell));
        wrong.map(|(cell, outcome)| (cell, format!("{:?}", outcome.error))).collect()
    }

    /// Asks until all is as it should be; what is, is not asked again.
    fn until_right(&mut self, name: &str, mut cells: Vec<Cell>) {
        let waited = wait_for(&format!("the table of {name}"), PATIENCE, || {
            let wrong = self.wrong(&cells);
            let lines = wrong.iter().map(|(cell, said)| self.describe(*cell, said));
            let lines: Vec<String> = lines.collect();
            cells = wrong.into_iter().map(|(cell, _)| cell).collect();
            if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
        });
        let ask = |port, path| {
            let answer = self.cluster.control_host().http(port, "GET", path, "");
            answer.map_or_else(|error| error.to_string(), |answer| answer.body)
        };
        waited.unwrap_or_else(|error| {
            panic!(
                "{error}\nmanager: {}\nconfiguration: {}\n{}\n{}\n{:?}\n{:?}",
                ask(8108, "/v1/status"),
                ask(8082, "/firewall-policys"),
                json!(self.world.policies),
                json!(self.world.admin),
                self.world.namespaces,
                self.world.pods,
            )
        });
    }

    fn describe(&self, cell: Cell, said: &str) -> String {
        let place = |at: usize| {
            let pod = &self.pods[at];
            format!("{}/{} on {}", pod.namespace, pod.name, pod.node)
        };
        let (from, to) = (place(cell.from), place(cell.to));
        let right = Self::right(&self.world, cell);
        format!("{from} -> {to} {:?} should be {right}: {said}", DOORS[cell.door])
    }

    /// The whole table must be right, after what differs from another world.
    fn expect(&mut self, name: &str, before: Option<&World>) {
        let cells = self.cells();
        if let Some(before) = before {
            let changed: Vec<Cell> = cells
                .iter()
                .filter(|cell| Self::right(before, **cell) != Self::right(&self.world, **cell))
                .copied()
                .collect();
            let since = Instant::now();
            self.until_right(name, changed);
            self.slowest = self.slowest.max(since.elapsed().as_secs_f64());
        }
        self.until_right(name, cells);
        self.tables += 1;
    }

    /// Puts these policies in place of those that are there.
    fn hold(&mut self, name: &str, policies: &[Value], admin: &[Value]) {
        let before = self.world.clone();
        let old = std::mem::take(&mut self.made);
        let number = self.tables;
        let mut make = |policy: &Value| {
            // Those before are taken away only when these are there: names must differ.
            let mut policy = policy.clone();
            let own = format!("{}-{number}", policy["metadata"]["name"].as_str().unwrap());
            policy["metadata"]["name"] = json!(own);
            let path = collection(&policy);
            let stored = wait_for("a policy to be taken", PATIENCE, || {
                self.cluster.api().create(&path, &policy).map_err(|error| error.to_string())
            });
            let stored = stored.unwrap_or_else(|error| panic!("{name}: {error}: {policy}"));
            self.made.push(format!("{path}/{own}"));
            self.policies += 1;
            stored
        };
        // The oracle reads what the API server kept: what it does not know, it drops.
        self.world.policies = policies.iter().map(&mut make).collect();
        self.world.admin = admin.iter().map(&mut make).collect();
        for path in old {
            self.cluster.api().delete(&path).unwrap();
        }
        self.expect(name, Some(&before));
    }

    /// Policies of users and of administrators by chance.
    fn by_chance(&mut self, random: &mut Random, prefix: &str, round: usize, name: &str) {
        let policies: Vec<Value> = (0..random.below(3))
            .map(|at| {
                random_policies::policy(random, &self.world, &format!("{prefix}{round}-{at}"))
            })
            .collect();
        let admin: Vec<Value> = (0..1 + random.below(4))
            .map(|at| random_policies::admin(random, &self.world, 10 * round + at))
            .collect();
        self.hold(name, &policies, &admin);
    }

    /// Policies narrow what isolation leaves, and none opens what it closes. It is switched while some of them hold.
    fn in_an_isolated_namespace(&mut self, random: &mut Random, seed: u64) {
        // Most of the policies by hand are about it.
        self.isolate("x", true);
        for (name, policies) in
            policy_cases::cases(&self.world).into_iter().step_by(ISOLATED_BY_HAND)
        {
            self.hold(&format!("{name}, isolated"), &policies, &[]);
        }
        for round in 0..ISOLATED_BY_CHANCE {
            let name = format!("SKEIN_SEED={seed} isolated round {round}");
            self.by_chance(random, "i", round, &name);
        }
        self.isolate("x", false);
    }

    fn isolate(&mut self, namespace: &str, is: bool) {
        let before = self.world.clone();
        let value = json!({"opencontrail.org/isolation": is.to_string()});
        let patch = json!({"metadata": {"annotations": value}});
        self.cluster.api().merge(&format!("/api/v1/namespaces/{namespace}"), &patch).unwrap();
        let mut all = self.world.namespaces.iter_mut();
        all.find(|one| one.name == namespace).unwrap().isolated = is;
        self.expect(&format!("isolation of {namespace}: {is}"), Some(&before));
    }

    fn relabel_pod(&mut self, random: &mut Random, name: &str) {
        let before = self.world.clone();
        let at = random.below(self.pods.len());
        let (key, values) = *random.pick(&random_policies::POD_LABELS[1..]);
        let value = *random.pick(values);
        let pod = &self.pods[at];
        let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name);
        self.cluster.api().merge(&path, &json!({"metadata": {"labels": {key: value}}})).unwrap();
        self.world.pods[at].labels.insert(key.into(), value.into());
        self.expect(&format!("{name}, {path} {key}={value}"), Some(&before));
    }

    fn relabel_namespace(&mut self, random: &mut Random, name: &str) {
        let before = self.world.clone();
        let at = random.below(self.world.namespaces.len());
        let value = *random.pick(&["red", "blue", "green"]);
        let path = format!("/api/v1/namespaces/{}", self.world.namespaces[at].name);
        self.cluster.api().merge(&path, &json!({"metadata": {"labels": {"team": value}}})).unwrap();
        self.world.namespaces[at].labels.insert("team".into(), value.into());
        self.expect(&format!("{name}, {path} team={value}"), Some(&before));
    }

    /// Other rules for a policy that is there.
    fn edit(&mut self, random: &mut Random, name: &str) {
        let before = self.world.clone();
        let at = random.below(self.world.policies.len());
        let mut edited = self.world.policies[at].clone();
        edited["spec"] = random_policies::policy(random, &self.world, "edited")["spec"].take();
        edited["metadata"].as_object_mut().unwrap().remove("resourceVersion");
        let path = &self.made[at];
        let path = path.clone();
        self.world.policies[at] = self.cluster.api().replace(&path, &edited).unwrap();
        self.policies += 1;
        self.expect(&format!("{name}, {path} edited"), Some(&before));
    }

    /// What administrators say about nodes: from every pod to a server on each node's own network.
    fn nodes_as_peers(&mut self) {
        let nodes = self.cluster.nodes();
        let _servers: Vec<_> = nodes
            .iter()
            .map(|node| {
                let mut serve = Command::new(self.cluster.options().programs.join("skein-probe"));
                serve.args(["serve", "tcp:7090", "udp:7090"]);
                node.host().spawn("peers", &mut serve).unwrap()
            })
            .collect();
        let described: Vec<(oracle::Labels, IpAddr)> = nodes
            .iter()
            .map(|node| {
                let path = format!("/api/v1/nodes/{}", node.name());
                let object = self.cluster.api().get(&path).unwrap();
                (labels(&object["metadata"]["labels"]), node.host().ipv4().into())
            })
            .collect();
        for (name, admin) in policy_cases::node_cases() {
            self.hold(name, &[], &admin);
            for (from, pod) in self.pods.iter().enumerate() {
                let mut targets = Vec::new();
                let mut wanted = Vec::new();
                for (labels, address) in &described {
                    for protocol in ["tcp", "udp"] {
                        let own = &self.world.pods[from];
                        let ends = (End::Pod(own, own.addresses[0]), End::Node(labels, *address));
                        let door = (protocol.to_uppercase(), 7090);
                        wanted.push(oracle::allowed(
                            &self.world,
                            ends.0,
                            ends.1,
                            (&door.0, door.1),
                        ));
                        targets.push(format!("{protocol}:{address}:7090"));
                    }
                }
                wait_for(&format!("{name}: {}/{}", pod.namespace, pod.name), PATIENCE, || {
                    let outcomes = pod.ask(&targets, ANSWER).unwrap();
                    let right = outcomes.iter().zip(&wanted).all(|(o, w)| o.answered() == *w);
                    if right { Ok(()) } else { Err(format!("wanted {wanted:?}: {outcomes:?}")) }
                })
                .unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }

    /// Pods that a policy keeps in, whose programs ask the moment they run: they are never answered. One that it is not about asks the
    /// same and always is.
    fn started_under_a_policy(&mut self) {
        let (space, count) = ("x", 10);
        let api = self.cluster.api();
        let path = format!("/apis/networking.k8s.io/v1/namespaces/{space}/networkpolicies/quiet");
        let spec =
            json!({"podSelector": {"matchLabels": {"quiet": "yes"}}, "policyTypes": ["Egress"]});
        let policy = json!({"metadata": {"name": "quiet"}, "spec": spec});
        api.create(path.trim_end_matches("/quiet"), &policy).unwrap();
        let own = &self.pods[0];
        let label = json!({"metadata": {"labels": {"quiet": "yes"}}});
        api.merge(&format!("/api/v1/namespaces/{space}/pods/{}", own.name), &label).unwrap();
        let targets: Vec<String> = self.pods[1..4]
            .iter()
            .flat_map(|pod| ["tcp", "udp", "sctp"].map(|p| format!("{p}:{}:80", pod.address)))
            .collect();
        wait_for("the policy to be in force", PATIENCE, || {
            let outcomes = own.ask(&targets, ANSWER).unwrap();
            if outcomes.iter().any(ProbeOutcome::answered) { Err("answered") } else { Ok(()) }
        })
        .unwrap();
        for number in 0..=count {
            // Who is to be answered waits for it.
            let (name, quiet, wait) = match number {
                0 => ("loud".to_owned(), "no", 15_000),
                number => (format!("quiet-{number}"), "yes", 300),
            };
            let asks = format!("/bin/skein-probe ask --timeout {wait} {}", targets.join(" "));
            let script = format!("for round in 1 2 3; do {asks}; done");
            let container = json!({
                "name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", script],
            });
            let pod = json!({
                "metadata": {"name": name, "labels": {"started": "yes", "quiet": quiet}},
                "spec": {
                    "nodeName": self.cluster.nodes()[number % 3].name(),
                    "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                    "containers": [container],
                },
            });
            create_pod(self.cluster, space, &pod);
        }
        let ended = wait_for("all of them to have asked", PODS_READY, || {
            let all = self.cluster.pods(space, "started=yes").map_err(|error| error.to_string())?;
            let ended = all.iter().filter(|pod| pod.phase == "Succeeded").count();
            if ended == count + 1 { Ok(all) } else { Err(format!("{ended} have")) }
        });
        for pod in ended.unwrap_or_else(|error| panic!("{error}")) {
            let log = self.cluster.pod_log(&pod).unwrap();
            let rounds: Vec<Vec<ProbeOutcome>> =
                log.lines().map(|line| read_outcomes(line).unwrap()).collect();
            assert_eq!(rounds.len(), 3, "{}: {log}", pod.name);
            for outcome in rounds.iter().flatten() {
                assert_eq!(outcome.answered(), pod.name == "loud", "{}: {outcome:?}", pod.name);
            }
        }
        api.delete(&path).unwrap();
    }

    /// Whatever comes in or not: a node reaches its own pods, so that its probes work.
    fn nodes_reach_their_own(&self, name: &str) {
        for (number, node) in self.cluster.nodes().iter().enumerate() {
            let own = self.pods.iter().filter(|pod| pod.node == node.name());
            let targets: Vec<String> = own.map(|pod| format!("tcp:{}:80", pod.address)).collect();
            let all = wait_for("a node's own pods", PATIENCE, || {
                all_answered(ask_from_node(self.cluster, number, &targets, ANSWER))
            });
            all.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

/// Where objects of this type are.
fn collection(policy: &Value) -> String {
    let version = policy["apiVersion"].as_str().unwrap();
    match policy["kind"].as_str().unwrap() {
        "NetworkPolicy" => {
            let namespace = policy["metadata"]["namespace"].as_str().unwrap();
            format!("/apis/{version}/namespaces/{namespace}/networkpolicies")
        }
        "ClusterNetworkPolicy" => format!("/apis/{version}/clusternetworkpolicies"),
        "AdminNetworkPolicy" => format!("/apis/{version}/adminnetworkpolicies"),
        "BaselineAdminNetworkPolicy" => format!("/apis/{version}/baselineadminnetworkpolicies"),
        other => panic!("{other}"),
    }
}
