//! Three controllers, of which any one is lost at a time: its host loses power, without a word to anybody, and comes back
//! later with the disk it had. Pods are added and deleted all the while (spec/kubernetes.md section 8, statement 29).
//! Needs root, etcd and the programs of Kubernetes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; how long the steps took is for whoever reads a failure"
)]

mod support;

use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Cluster, ClusterOptions, KubePod, NetworkOptions, PROBE_IMAGE, SkeinNetwork,
};
use skein_lab::{Cli, Controllers, Host, Lab, LabOptions, Node, Transfer, Workload, wait_for};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::steps::Steps;
use support::traffic::{Echo, udp_echoes};
use support::{SILENCE, api, programs};

const COUNT: usize = 3;
/// Far above what anything here needs, an election and a host that has to be noticed as lost included: no measurement.
const PATIENCE: Duration = Duration::from_secs(45);
const PODS_READY: Duration = Duration::from_secs(90);
const ANSWER: Duration = Duration::from_secs(3);
/// What the three must agree on.
const KINDS: [&str; 9] = [
    "project",
    "virtual-network",
    "network-policy",
    "virtual-router",
    "virtual-machine",
    "virtual-machine-interface",
    "instance-ip",
    "security-group",
    "tag",
];

/// One of the tests at a time: both are too much for a small machine.
static TURN: Mutex<()> = Mutex::new(());

fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    let held = wait_for(what, PATIENCE, || if condition() { Ok(()) } else { Err("not yet") });
    held.unwrap_or_else(|error| panic!("{error}"));
}

/// Objects of all types that matter, as one controller has them, by uuid.
fn everything(host: &Host) -> Result<BTreeMap<String, Value>, String> {
    let mut all = BTreeMap::new();
    for kind in KINDS {
        let path = format!("/{kind}s?detail=True&exclude_hrefs=True");
        let (status, answer) = api(host, "GET", &path, &Value::Null)?;
        let list = answer[format!("{kind}s")].as_array();
        let list = list.ok_or_else(|| format!("{kind}s of {}: {status} {answer}", host.name()))?;
        for one in list {
            let uuid = one[kind]["uuid"].as_str().unwrap_or_default();
            all.insert(format!("{kind} {uuid}"), one[kind].clone());
        }
    }
    Ok(all)
}

/// All controllers answer the same.
fn agree(controllers: &Controllers) -> BTreeMap<String, Value> {
    wait_for("the controllers to agree", PATIENCE, || {
        let first = everything(controllers.host(0))?;
        for number in 1..controllers.count() {
            let other = everything(controllers.host(number))?;
            if first != other {
                let differs = first.iter().find(|(key, one)| other.get(*key) != Some(*one));
                let more = other.keys().find(|key| !first.contains_key(*key));
                return Err(format!("controller {number}: {differs:?}, {more:?}"));
            }
        }
        Ok(first)
    })
    .unwrap_or_else(|error| panic!("{error}"))
}

/// A fabric of two nodes under three controllers.
struct Fabric {
    nodes: Vec<Node>,
    controllers: Controllers,
    lab: Lab,
}

impl Fabric {
    fn start(name: &str) -> Fabric {
        let mut lab = Lab::new(name, LabOptions::default()).unwrap();
        let hosts = (1..=COUNT).map(|n| lab.host(&format!("ctl{n}")).unwrap()).collect();
        let (folder, programs) = (lab.directory().join("etcd-pki"), programs::folder());
        let controllers = Controllers::start(hosts, &folder, &programs, &lab.directory());
        let controllers = controllers.unwrap_or_else(|error| panic!("{error}"));
        let join = controllers.pki().join("join-token");
        let mut nodes = Vec::new();
        for number in 1..=2 {
            let host = lab.host(&format!("node{number}")).unwrap();
            nodes.push(Node::start(host, &programs, &controllers.for_agents(), &join).unwrap());
        }
        for node in &mut nodes {
            node.wait_ready().unwrap_or_else(|error| panic!("{error}"));
        }
        Fabric { nodes, controllers, lab }
    }

    /// Runs the CLI on a node, with the addresses of all controllers.
    fn run(&self, line: &str) -> String {
        let line = format!("--project shop {line}");
        let ran = self.controllers.cli().run(self.nodes[0].host(), &line).unwrap();
        ran.success().unwrap_or_else(|error| panic!("{error}"))
    }

    /// What `skein status` tells, whatever its exit code.
    fn status(&self) -> Result<Value, String> {
        let ran = self.controllers.cli().run(self.nodes[0].host(), "status -o json --timeout 3");
        let ran = ran.map_err(|error| error.to_string())?;
        serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))
    }

    /// It tells who is away and that one of the others leads; with all of them, that all is well.
    fn status_tells(&self, lost: Option<usize>) {
        wait_for("a true status", PATIENCE, || {
            let status = self.status()?;
            let of = |name: &str, number: usize| status[name][number]["state"].clone();
            let away = |number: usize| lost == Some(number);
            let leaders = (0..COUNT).filter(|n| status["apis"][*n]["leads"] == true).count();
            let told = (0..COUNT).all(|number| {
                ["apis", "controllers"]
                    .iter()
                    .all(|name| (of(name, number) == "unreachable") == away(number))
            });
            let word = if lost.is_some() { "degraded" } else { "good" };
            let holds = told && leaders == 1 && status["state"] == word;
            if holds { Ok(()) } else { Err(status.to_string()) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    fn lose(&mut self, number: usize) {
        self.controllers.power_off(&self.lab, number).unwrap();
    }

    fn give_back(&mut self, number: usize) {
        let back = self.controllers.power_on(&self.lab, number);
        back.unwrap_or_else(|error| panic!("{error}"));
    }

    fn attach(&self, node: usize, name: &str, network: &str) -> Workload {
        let network = format!("default-domain:shop:{network}");
        // A runtime tries again, too, when the first try had the misfortune to ask the one that is lost.
        wait_for(&format!("ADD of {name}"), PATIENCE, || {
            self.nodes[node].attach(name, &network).inspect_err(|error| println!("{error}"))
        })
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Whether every controller that has power has a node's session.
    fn joined_everywhere(&self) -> Result<(), String> {
        for number in (0..COUNT).filter(|n| self.controllers.has_power(*n)) {
            let host = self.controllers.host(number);
            let answer = host.http(8083, "GET", "/v1/status", "").map_err(|e| e.to_string())?;
            let status: Value = serde_json::from_str(&answer.body).map_err(|e| e.to_string())?;
            let nodes = status["nodes"].as_array().ok_or_else(|| status.to_string())?;
            let connected = nodes.iter().filter(|node| node["connected"] == true).count();
            if connected != self.nodes.len() {
                return Err(format!("controller {number}: {status}"));
            }
        }
        Ok(())
    }
}

/// Makes networks by the CLI until it is told to stop; gives the names of those that were acknowledged.
fn write(cli: &Cli, from: &Host, stop: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("w{number}");
        let ran = cli.run(from, &format!("--project shop create network {name}")).unwrap();
        match ran.success() {
            Ok(_) => acknowledged.push(name),
            Err(error) => println!("not acknowledged: {error}"),
        }
    }
    acknowledged
}

fn reaches(from: &Workload, to: &Workload) -> bool {
    [to.ipv4(), to.ipv6()].iter().all(|a| udp_echoes(&from.pod, a, 53, 40, SILENCE))
}

/// What goes on while a controller is lost: a workload comes and another goes, and a policy is changed.
fn work(fabric: &Fabric, fixed: &Fixed, round: usize, leaves: Option<Workload>) -> Workload {
    let mut steps = Steps::start();
    let comes = fabric.attach(round % 2, &format!("new{round}"), "front");
    let _service = Echo::start(&comes.pod, 53);
    soon("those who were there to reach the new one", || reaches(&fixed.left, &comes));
    soon("the new one to reach those who were there", || reaches(&comes, &fixed.right));
    steps.done("  a workload is added and reached");
    if let Some(leaves) = leaves {
        leaves.detach().unwrap_or_else(|error| panic!("{error}"));
        steps.done("  another one is deleted");
    }
    for network in ["front", "back"] {
        fabric.run(&format!("attach network {network} policy join"));
    }
    soon("the policy to let pass", || reaches(&fixed.left, &fixed.behind));
    for network in ["front", "back"] {
        fabric.run(&format!("detach network {network} policy join"));
    }
    soon("the policy to be gone", || !reaches(&fixed.left, &fixed.behind));
    steps.done("  a policy comes and goes");
    comes
}

/// Workloads that are there from the beginning to the end.
struct Fixed {
    left: Workload,
    right: Workload,
    /// In a network that nobody reaches without a policy.
    behind: Workload,
}

#[test]
fn any_controller_may_be_lost_while_workloads_come_and_go() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut steps = Steps::start();
    let mut fabric = Fabric::start("tha");
    steps.done("three controllers and two nodes");
    fabric.run("create project shop");
    fabric.run("create network front --subnet 10.1.0.0/24 --subnet fd00:1::/64");
    fabric.run("create network back --subnet 10.2.0.0/24 --subnet fd00:2::/64");
    fabric.run("create policy join --rule 'pass any between front and back'");
    let fixed = Fixed {
        left: fabric.attach(0, "left", "front"),
        right: fabric.attach(1, "right", "front"),
        behind: fabric.attach(1, "behind", "back"),
    };
    let _services = [&fixed.right, &fixed.behind].map(|workload| Echo::start(&workload.pod, 53));
    soon("the route to the other node", || reaches(&fixed.left, &fixed.right));
    assert!(!reaches(&fixed.left, &fixed.behind), "no policy joins the networks");
    let sessions = wait_for("sessions everywhere", PATIENCE, || fabric.joined_everywhere());
    sessions.unwrap_or_else(|error| panic!("{error}"));
    let address = fixed.right.ipv4();
    let transfer = Transfer::start(&fixed.left.pod, &fixed.right.pod, address, 7000).unwrap();
    steps.done("workloads, and a stream between them");

    let stop = AtomicBool::new(false);
    let (cli, from) = (fabric.controllers.cli(), fabric.nodes[1].host().clone());
    let (written, last) = std::thread::scope(|scope| {
        let writing = scope.spawn(|| write(&cli, &from, &stop));
        let lost = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut came = None;
            let mut before = Vec::new();
            for round in 0..COUNT {
                // The one that leads first, and then those that were not lost yet.
                let leads = fabric.controllers.leader().unwrap();
                let untouched = (0..COUNT).filter(|number| !before.contains(number));
                let first = untouched.clone().find(|number| *number == leads);
                let lost = first.or(untouched.clone().next()).unwrap();
                before.push(lost);
                let arrived = transfer.arrived();
                fabric.lose(lost);
                came = Some(work(&fabric, &fixed, round, came.take()));
                assert!(transfer.arrived() > arrived, "the stream stands still");
                let how = if lost == leads { "which led" } else { "which followed" };
                steps.done(&format!("work without controller {lost}, {how}"));
                if round == 0 {
                    fabric.status_tells(Some(lost));
                }
                fabric.give_back(lost);
                wait_for("sessions everywhere", PATIENCE, || fabric.joined_everywhere())
                    .unwrap_or_else(|error| panic!("{error}"));
                steps.done("it is back");
            }
            came.unwrap()
        }));
        stop.store(true, Ordering::Relaxed);
        let written = writing.join().expect("the writer goes on");
        (written, lost.unwrap_or_else(|cause| std::panic::resume_unwind(cause)))
    });
    println!("{} writes acknowledged", written.len());
    assert!(written.len() > 10, "too little was written to show anything");
    last.detach().unwrap();
    fabric.status_tells(None);
    let all = agree(&fabric.controllers);
    let names: Vec<&str> =
        all.values().filter_map(|one| one["fq_name"].as_array()?.last()?.as_str()).collect();
    let missing: Vec<_> = written.iter().filter(|name| !names.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "acknowledged, and not there: {missing:?}");
    soon("what left to be gone everywhere", || {
        let all = everything(fabric.controllers.host(0)).unwrap();
        all.keys().filter(|key| key.starts_with("virtual-machine ")).count() == 3
    });
    assert!(reaches(&fixed.left, &fixed.right));
    let report = transfer.finish().unwrap();
    println!("{report:?}");
    assert!(report.intact, "{report:?}");
    steps.done("what was acknowledged is everywhere");
}

/// A pod of a node that goes quickly.
fn pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name, "all": "pods"}},
        "spec": {
            "nodeName": node, "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        },
    })
}

struct Kubernetes {
    network: SkeinNetwork,
    controllers: Controllers,
    cluster: Cluster,
}

impl Kubernetes {
    fn start_pod(&self, name: &str, node: usize) {
        let pod = pod(name, self.cluster.nodes()[node].name());
        wait_for("a pod to be taken", PATIENCE, || {
            let made = self.cluster.api().create("/api/v1/namespaces/default/pods", &pod);
            made.map_err(|error| error.to_string())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    fn wait_pod(&self, name: &str) -> KubePod {
        let pods = self.cluster.wait_pods("default", &format!("app={name}"), 1, PODS_READY);
        pods.unwrap_or_else(|error| panic!("{error}")).remove(0)
    }

    /// Names of the virtual machines that controllers with power have; they may differ for a moment.
    fn machines(&self) -> Vec<String> {
        let alive = (0..COUNT).filter(|number| self.controllers.has_power(*number));
        let hosts: Vec<&Host> = alive.map(|number| self.controllers.host(number)).collect();
        let mut names = Vec::new();
        for host in hosts {
            let (_, answer) = api(host, "GET", "/virtual-machines", &Value::Null).unwrap();
            let list = answer["virtual-machines"].as_array().cloned().unwrap_or_default();
            names
                .extend(list.iter().map(|one| one["fq_name"][0].as_str().unwrap_or("").to_owned()));
        }
        names
    }

    fn all_reach_each_other(&self, pods: &[&KubePod]) {
        for from in pods {
            let targets: Vec<String> =
                pods.iter().map(|pod| format!("tcp:{}:80", pod.address)).collect();
            wait_for(&format!("{} to reach all", from.name), PATIENCE, || {
                let outcomes = from.ask(&targets, ANSWER).map_err(|error| error.to_string())?;
                if outcomes.iter().all(skein_lab::kubernetes::ProbeOutcome::answered) {
                    Ok(())
                } else {
                    Err(format!("{outcomes:?}"))
                }
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

#[test]
fn kubernetes_adds_and_deletes_pods_while_any_controller_is_lost() {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut steps = Steps::start();
    let options = ClusterOptions { nodes: 2, ..ClusterOptions::new(&programs::folder()) };
    let mut cluster = Cluster::start("khac", options).unwrap_or_else(|error| panic!("{error}"));
    let controllers = cluster.add_controllers(COUNT).unwrap_or_else(|error| panic!("{error}"));
    let network = SkeinNetwork::install_on(&cluster, &NetworkOptions::default(), &controllers);
    let network = network.unwrap_or_else(|error| panic!("{error}"));
    let mut all = Kubernetes { network, controllers, cluster };
    steps.done("a cluster of two nodes, with three controllers");
    for (name, node) in [("before0", 0), ("before1", 1), ("gone0", 0)] {
        all.start_pod(name, node);
    }
    let fixed = ["before0", "before1"].map(|name| all.wait_pod(name));
    all.wait_pod("gone0");
    steps.done("pods before");
    let mut lost_before = Vec::new();
    for round in 0..COUNT {
        let leads = all.controllers.leader().unwrap();
        let untouched = || (0..COUNT).filter(|number| !lost_before.contains(number));
        let lost = untouched().find(|number| *number == leads).or(untouched().next()).unwrap();
        lost_before.push(lost);
        all.controllers.power_off(all.cluster.lab(), lost).unwrap();
        // Added and deleted at once: neither waits for the other.
        let (comes, goes) = (format!("gone{}", round + 1), format!("gone{round}"));
        all.start_pod(&comes, round % 2);
        all.cluster.api().delete(&format!("/api/v1/namespaces/default/pods/{goes}")).unwrap();
        let new = all.wait_pod(&comes);
        steps.done("  added");
        all.all_reach_each_other(&[&fixed[0], &fixed[1], &new]);
        steps.done("  reached");
        let name = format!("k8s__default__{goes}");
        wait_for("the deleted pod to leave the configuration", PATIENCE, || {
            let machines = all.machines();
            let there = machines.contains(&name);
            if there { Err(format!("{name} of {machines:?}")) } else { Ok(()) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let how = if lost == leads { "which led" } else { "which followed" };
        steps.done(&format!("pods added and deleted without controller {lost}, {how}"));
        let back = all.controllers.power_on(all.cluster.lab(), lost);
        back.unwrap_or_else(|error| panic!("{error}"));
        all.all_reach_each_other(&[&fixed[0], &fixed[1], &new]);
        steps.done("it is back");
    }
    agree(&all.controllers);
    drop(all.network);
}
