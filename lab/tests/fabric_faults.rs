//! Whatever is killed, whenever: nothing that was acknowledged is lost, nothing is left over, no
//! connection breaks, and every node ends up as one that starts afresh.
//!
//! A configuration writer, workloads that come and go and one long transfer go on while the
//! controller and the agents are killed at random points and started again after random times, and CNI plugins in
//! the middle of their ADDs. The seed
//! is printed; `SKEIN_SEED` repeats it and `SKEIN_FAULT_ROUNDS` asks for more. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step is a failed test"
)]
#![allow(clippy::print_stdout, reason = "the seed is for whoever reads a failure")]

mod support;

use serde_json::{Value, json};
use skein_lab::{Attachment, CniError, CniRuntime, Host, Transfer, Workload, require};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};
use support::{Bed, api, soon};

/// About a minute on two cores.
const ROUNDS: u64 = 10;
/// Neither a dead agent nor a dead controller is in a packet's way; this much the load may cost.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A small generator (xorshift64*): the whole run follows from one number.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn pause(&mut self, up_to_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.below(up_to_ms)));
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// What is known of a network that the writer made; `None` where the last write had no answer.
#[derive(Clone, Debug)]
struct Known {
    exists: Option<bool>,
    attached: Option<bool>,
    label: Option<String>,
}

/// Writes configuration, and remembers what was acknowledged.
struct Writer {
    host: Host,
    random: Random,
    policy: String,
    networks: BTreeMap<u128, Known>,
    acknowledged: usize,
}

fn uuid(number: u128) -> String {
    let hex = format!("{:032x}", 0x7e57_0000_0000_4000_8000_0000_0000_0000_u128 + number);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

impl Writer {
    fn run(mut self, stop: &AtomicBool) -> Writer {
        while !stop.load(Ordering::Relaxed) {
            self.step();
            self.random.pause(20);
        }
        self
    }

    fn step(&mut self) {
        let count = self.networks.len();
        let choice = self.random.below(10);
        if count < 5 || choice < 3 {
            let number = count as u128;
            let known = Known { exists: None, attached: Some(false), label: None };
            self.networks.insert(number, known);
            let body = json!({"virtual-network": {
                "uuid": uuid(number),
                "fq_name": ["default-domain", "shop", format!("churn-{number}")],
                "parent_type": "project",
            }});
            let done = self.write("POST", "/virtual-networks", &body, true);
            self.networks.get_mut(&number).unwrap().exists = done.then_some(true);
            return;
        }
        let number = u128::from(self.random.below(count as u64));
        let before = self.networks[&number].clone();
        // A network whose state is not known is left as it is: it has to be one or the other.
        if before.exists != Some(true) {
            return;
        }
        let mut after = before.clone();
        match choice {
            3..=5 => {
                let label = format!("label {}", self.random.below(1_000_000));
                let body = json!({"virtual-network": {"display_name": label}});
                let path = format!("/virtual-network/{}", uuid(number));
                after.label = self.write("PUT", &path, &body, true).then_some(label);
            }
            6..=8 if before.attached.is_some() => {
                let attach = before.attached == Some(false);
                let body = json!({
                    "type": "virtual-network", "uuid": uuid(number),
                    "ref-type": "network-policy", "ref-uuid": self.policy,
                    "operation": if attach { "ADD" } else { "DELETE" },
                    "attr": {"sequence": {"major": 0, "minor": 0}},
                });
                after.attached = self.write("POST", "/ref-update", &body, true).then_some(attach);
            }
            _ => {
                let path = format!("/virtual-network/{}", uuid(number));
                let done = self.write("DELETE", &path, &Value::Null, true);
                after.exists = done.then_some(false);
            }
        }
        self.networks.insert(number, after);
    }

    /// True when the write was acknowledged. A refusal of what is right is a failure.
    fn write(&mut self, method: &str, path: &str, body: &Value, right: bool) -> bool {
        match api(&self.host, method, path, body) {
            Ok((200..300, _)) => {
                self.acknowledged += 1;
                true
            }
            Ok((status @ 400..500, answer)) if right => {
                panic!("{method} {path} was refused with {status}: {answer}")
            }
            // No answer, or the answer of a daemon that is starting or ending.
            Ok(_) | Err(_) => false,
        }
    }

    /// Compares the configuration with what was acknowledged.
    fn verify(&self) {
        for (number, known) in &self.networks {
            let path = format!("/virtual-network/{}", uuid(*number));
            let (status, answer) = api(&self.host, "GET", &path, &Value::Null).unwrap();
            assert!(status == 200 || status == 404, "{path}: {status} {answer}");
            if let Some(exists) = known.exists {
                assert_eq!(status == 200, exists, "churn-{number} {known:?}: {answer}");
            }
            if status != 200 {
                continue;
            }
            let network = &answer["virtual-network"];
            if let Some(label) = &known.label {
                assert_eq!(network["display_name"], json!(label), "churn-{number}");
            }
            if let Some(attached) = known.attached {
                let references = network["network_policy_refs"].as_array().map_or(0, Vec::len);
                assert_eq!(references == 1, attached, "churn-{number}: {answer}");
            }
        }
    }
}

/// Workloads of one node that come and go.
struct Churn {
    host: Host,
    runtime: CniRuntime,
    random: Random,
    /// How many ADDs were killed before they ended.
    struck: Arc<AtomicUsize>,
}

impl Churn {
    fn run(mut self, stop: &AtomicBool, added: &AtomicUsize) {
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            self.one(number, added);
        }
    }

    fn one(&mut self, number: u32, added: &AtomicUsize) {
        let name = format!("c{number}");
        let pod = self.host.pod(&name).unwrap();
        let container = format!("{}-{name}", self.host.namespace());
        let mut attachment = Attachment::new(&container, &pod.path());
        // Runtimes die and lose their patience in the middle of an ADD, early and late.
        let struck = self.random.below(3) == 0;
        if struck {
            let limit = [10, 30, 120][usize::try_from(self.random.below(3)).unwrap()];
            let after = Duration::from_millis(self.random.below(limit));
            if !self.runtime.add_and_kill(&attachment, after).unwrap() {
                self.struck.fetch_add(1, Ordering::Relaxed);
            }
        }
        // A kubelet repeats a failed ADD for the same sandbox, or gives it up and makes another.
        let tries = if struck { self.random.below(3) } else { self.random.below(3) + 1 };
        for _ in 0..tries {
            match self.runtime.add(&attachment) {
                Ok(result) => {
                    assert_eq!(result["ips"].as_array().map(Vec::len), Some(2), "{result}");
                    added.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                // While a daemon is away it has to say so, in CNI's form.
                Err(CniError::Plugin { .. }) => self.random.pause(300),
                Err(other) => panic!("{other}"),
            }
        }
        self.random.pause(700);
        // Sandboxes vanish before their DEL, too.
        let gone_first = self.random.below(4) == 0;
        if gone_first {
            pod.clone().remove().unwrap();
            attachment.netns = None;
        }
        // DEL always ends well, whoever is away.
        self.runtime.del(&attachment).unwrap_or_else(|error| panic!("DEL {container}: {error}"));
        if !gone_first {
            pod.remove().unwrap();
        }
    }
}

/// Kills and restarts one round's victim.
fn strike(bed: &mut Bed, random: &mut Random) {
    let node = usize::from(random.below(2) == 1);
    let (controller, agent) = match random.below(6) {
        0 | 1 => (true, false),
        2..=4 => (false, true),
        _ => (true, true),
    };
    random.pause(2500);
    if controller {
        bed.fabric.kill_controller().unwrap();
    }
    random.pause(50);
    if agent {
        bed.fabric.node_mut(node).kill_agent().unwrap();
    }
    random.pause(1500);
    if controller {
        bed.fabric.restart_controller().unwrap_or_else(|error| panic!("{error}"));
    }
    if agent {
        let started = bed.fabric.node_mut(node).restart_agent();
        started.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What a node has in force, without numbers that are only names within one life of it.
fn in_force(bed: &Bed, node: usize) -> Vec<Value> {
    let mut all = Vec::new();
    for (what, unstable) in [
        ("interfaces", ["counters", "policy", "workload"].as_slice()),
        ("routes", &["next_hop", "identity"]),
        ("nexthops", &["id"]),
    ] {
        let mut list = bed.look(node, what);
        for entry in &mut list {
            for field in unstable {
                entry.as_object_mut().unwrap().remove(*field);
            }
        }
        list.sort_by_key(Value::to_string);
        all.extend(list);
    }
    all
}

/// How many entries each of a node's kernel tables has, but for flows and counters.
fn table_sizes(bed: &Bed, node: usize) -> BTreeMap<String, usize> {
    let folder = bed.fabric.node(node).host().bpf_directory().join("skein");
    let mut sizes = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
    {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let mut command = Command::new("bpftool");
        let ran = command.args(["-j", "map", "dump", "pinned"]).arg(&path).output().unwrap();
        let dumped: Value = serde_json::from_slice(&ran.stdout).unwrap_or(Value::Null);
        if let Some(entries) = dumped.as_array() {
            sizes.insert(name, entries.len());
        }
    }
    sizes
}

/// Names of the interfaces of a host.
fn links(host: &Host) -> Vec<String> {
    let mut command = Command::new("ip");
    let text = host.run(command.args(["-j", "link", "show"])).unwrap().success().unwrap();
    let list: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut names: Vec<String> =
        list.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect();
    names.sort();
    names
}

/// Nothing of the workloads that came and went is left anywhere.
fn nothing_left(bed: &Bed, fixed: &[Workload; 2]) {
    for node in [0, 1] {
        let host = bed.fabric.node(node).host();
        soon("the node's releases", || {
            let answer = host.http(8085, "GET", "/v1/status", "").unwrap();
            let status: Value = serde_json::from_str(&answer.body).unwrap();
            status["pending_releases"] == 0 && status["ready"] == true && status["ports"] == 1
        });
        let device =
            bed.interface(node, &fixed[node])["host_interface"].as_str().unwrap().to_owned();
        // The node's own stack is in the fabric, too.
        let mut expected = vec!["eth0".to_owned(), "lo".to_owned(), device];
        expected.extend(["skein0".to_owned(), "skein0-fabric".to_owned()]);
        expected.sort();
        assert_eq!(links(host), expected, "interfaces on node {node}");
        let prefix = format!("{}-", host.namespace());
        let left: Vec<_> = std::fs::read_dir("/run/netns")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&prefix) && *name != *fixed[node].pod.namespace())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    for (kind, expected) in
        [("virtual-machine-interface", 4), ("virtual-machine", 2), ("instance-ip", 4)]
    {
        let (_, answer) = bed.api("GET", &format!("/{kind}s"), &Value::Null);
        let list = answer[format!("{kind}s")].as_array().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(list.len(), expected, "{kind}s that are left: {answer}");
    }
}

/// Takes away all a node keeps but its list of ports, and starts it.
fn start_afresh(bed: &mut Bed, node: usize) {
    bed.fabric.node_mut(node).kill_agent().unwrap();
    let host = bed.fabric.node(node).host().clone();
    std::fs::remove_dir_all(host.bpf_directory().join("skein")).unwrap();
    std::fs::remove_file(host.directory().join("agent/intent.pb")).unwrap();
    let started = bed.fabric.node_mut(node).restart_agent();
    started.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn killing_any_process_at_any_point_loses_and_leaves_nothing() {
    require("bpftool", "bpftool").unwrap();
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("SKEIN_SEED").unwrap_or(clock.as_secs()).max(1);
    let rounds = number("SKEIN_FAULT_ROUNDS").unwrap_or(ROUNDS);
    println!("SKEIN_SEED={seed} SKEIN_FAULT_ROUNDS={rounds} repeats this run");
    let mut random = Random(seed);

    let mut bed = Bed::start("tfault");
    bed.network("front", 1);
    bed.run("create policy churn --rule 'pass any between any and any'");
    let fixed = [bed.attach(0, "left", "front"), bed.attach(1, "right", "front")];
    let [left, right] = &fixed;
    soon("the route to the other node", || left.pod.pings(right.ipv4(), 1).unwrap());
    let transfer = Transfer::start(&left.pod, &right.pod, right.ipv4(), 7000).unwrap();

    let policy = bed.uuid("network-policy", &["default-domain", "shop", "churn"]);
    let writer = Writer {
        host: bed.fabric.control_host().clone(),
        random: Random(random.below(u64::MAX >> 33) + 1),
        policy,
        networks: BTreeMap::new(),
        acknowledged: 0,
    };
    let struck = Arc::new(AtomicUsize::new(0));
    let churns = [0, 1].map(|node| Churn {
        host: bed.fabric.node(node).host().clone(),
        runtime: bed.fabric.node(node).runtime("default-domain:shop:front").unwrap(),
        random: Random(random.below(u64::MAX >> 33) + 1),
        struck: struck.clone(),
    });
    let (stop, added) = (AtomicBool::new(false), AtomicUsize::new(0));
    let writer = std::thread::scope(|scope| {
        let writing = scope.spawn(|| writer.run(&stop));
        let churning = churns.map(|churn| scope.spawn(|| churn.run(&stop, &added)));
        for round in 0..rounds {
            let struck = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                strike(&mut bed, &mut random);
            }));
            let ended = writing.is_finished()
                || churning.iter().any(std::thread::ScopedJoinHandle::is_finished);
            if struck.is_err() || ended {
                stop.store(true, Ordering::Relaxed);
                panic!("it broke in round {round}");
            }
        }
        stop.store(true, Ordering::Relaxed);
        for one in churning {
            one.join().expect("workloads come and go");
        }
        writing.join().expect("the writer's requests are right")
    });
    let (written, added) = (writer.acknowledged, added.into_inner());
    let struck = struck.load(Ordering::Relaxed);
    println!("{written} writes acknowledged, {added} workloads attached, {struck} ADDs killed");
    let much = written > 100 && added > 10 && struck > 3;
    assert!(much, "too little went on to show anything");

    writer.verify();
    nothing_left(&bed, &fixed);
    let report = transfer.finish().unwrap();
    println!("{report:?}");
    assert!(report.intact && report.longest_pause() < LONGEST_PAUSE, "{report:?}");

    for node in [0, 1] {
        let (lived, sizes) = (in_force(&bed, node), table_sizes(&bed, node));
        println!("node {node}: {sizes:?}");
        assert!(!sizes.is_empty(), "no kernel tables are found");
        start_afresh(&mut bed, node);
        // What comes last is a route, or an interface's policy; how much there is says nothing.
        let mut differs = String::new();
        let same = skein_lab::wait_until("a fresh node", support::PATIENCE, || {
            let now = in_force(&bed, node);
            differs = format!("lived: {lived:#?}\nfresh: {now:#?}");
            now == lived
        });
        assert!(same.is_ok(), "node {node}: {differs}");
        let count = |sizes: BTreeMap<String, usize>| -> BTreeMap<String, usize> {
            sizes.into_iter().filter(|(name, _)| !is_history(name)).collect()
        };
        let lived = count(sizes);
        let mut fresh = BTreeMap::new();
        let same = skein_lab::wait_until("the same tables", support::PATIENCE, || {
            fresh = count(table_sizes(&bed, node));
            fresh == lived
        });
        assert!(same.is_ok(), "node {node}: {lived:?} lived, {fresh:?} fresh");
    }
    for address in [right.ipv4(), right.ipv6()] {
        assert!(left.pod.pings(address, 10).unwrap(), "{address}");
    }
    assert!(bed.run("status").contains("node1"));
}

/// Tables that traffic fills.
fn is_history(name: &str) -> bool {
    ["flow", "drop", "frag", "event", "peer"].iter().any(|part| name.contains(part))
}
