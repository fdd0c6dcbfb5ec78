//! What the end-to-end tests share: the programs, a fabric to act on, and traffic to judge it by.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test"
)]

pub mod frames;
pub mod inside;
pub mod named;
pub mod programs;
pub mod steps;
pub mod traffic;
pub mod web;

use serde_json::{Value, json};
use skein_lab::{Fabric, FabricOptions, Host, LabOptions, Workload, wait_until};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a change may take to have its effect. Far above what it needs: it is no measurement.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long something that must not arrive is waited for.
pub const SILENCE: Duration = Duration::from_millis(700);

/// Fabrics that run at one time: more would make a small machine's timing meaningless.
const FABRICS: usize = 2;

static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// A place among the running fabrics.
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> Place {
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        while *running >= FABRICS {
            running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
        }
        *running += 1;
        Place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// A fabric with a project `shop`.
#[derive(Debug)]
pub struct Bed {
    pub fabric: Fabric,
    _place: Place,
}

impl Bed {
    /// Starts a fabric of two nodes.
    pub fn start(name: &str) -> Bed {
        Bed::on(name, LabOptions::default())
    }

    /// The same on an underlay of one's own choice.
    pub fn on(name: &str, lab: LabOptions) -> Bed {
        let place = Place::take();
        let options = FabricOptions { programs: programs::folder(), nodes: 2, lab };
        let fabric = Fabric::start(name, options).unwrap_or_else(|error| panic!("{error}"));
        let bed = Bed { fabric, _place: place };
        bed.run("create project shop");
        bed
    }

    /// Runs the CLI with `--project shop`; it must succeed.
    pub fn run(&self, line: &str) -> String {
        let ran = self.fabric.skein(&format!("--project shop {line}")).unwrap();
        ran.success().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Makes a network with the subnets 10.N.0.0/24 and fd00:N::/64.
    pub fn network(&self, name: &str, number: u8) {
        self.run(&format!(
            "create network {name} --subnet 10.{number}.0.0/24 --subnet fd00:{number}::/64"
        ));
    }

    /// Attaches a workload of a node to a network.
    pub fn attach(&self, node: usize, name: &str, network: &str) -> Workload {
        let network = format!("default-domain:shop:{network}");
        let attached = self.fabric.node(node).attach(name, &network);
        attached.unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Asks the configuration API; gives status and body.
    pub fn api(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        api(self.fabric.control_host(), method, path, body).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The uuid of an object by type and name.
    pub fn uuid(&self, kind: &str, name: &[&str]) -> String {
        let (status, answer) =
            self.api("POST", "/fqname-to-id", &json!({"type": kind, "fq_name": name}));
        assert_eq!(status, 200, "{kind} {name:?}: {answer}");
        answer["uuid"].as_str().unwrap().to_owned()
    }

    /// Changes fields of an object.
    pub fn put(&self, kind: &str, uuid: &str, fields: &Value) {
        let (status, answer) =
            self.api("PUT", &format!("/{kind}/{uuid}"), &json!({ kind: fields }));
        assert_eq!(status, 200, "{kind} {uuid}: {answer}");
    }

    /// What the CLI shows of a node.
    pub fn look(&self, node: usize, what: &str) -> Vec<Value> {
        look(&self.fabric, node, what)
    }

    /// The node's entry for a workload's interface.
    pub fn interface(&self, node: usize, workload: &Workload) -> Value {
        let all = self.look(node, "interfaces");
        let own = |entry: &&Value| {
            let addresses = entry["addresses"].as_array().unwrap();
            addresses.iter().any(|a| a.as_str().unwrap().split('/').next() == Some(workload.ipv4()))
        };
        all.iter().find(own).unwrap_or_else(|| panic!("{workload:?} in {all:?}")).clone()
    }

    /// The workload's virtual-machine-interface.
    pub fn port(&self, node: usize, workload: &Workload) -> String {
        self.interface(node, workload)["uuid"].as_str().unwrap().to_owned()
    }

    /// How often a node dropped a packet of a workload for a reason.
    pub fn dropped(&self, node: usize, workload: &Workload, reason: &str) -> u64 {
        self.interface(node, workload)["counters"]["drops"][reason].as_u64().unwrap_or(0)
    }
}

/// What the CLI shows of a node, as a list.
pub fn look(fabric: &Fabric, node: usize, what: &str) -> Vec<Value> {
    let ran = fabric.node(node).skein(&format!("vrouter {what} -o json")).unwrap();
    let text = ran.success().unwrap_or_else(|error| panic!("{error}"));
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    value.as_array().unwrap_or_else(|| panic!("no list: {value}")).clone()
}

/// Asks the configuration API from the controller's host; `Err` when no answer came.
pub fn api(host: &Host, method: &str, path: &str, body: &Value) -> Result<(u16, Value), String> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let answer = host.http(8082, method, path, &body).map_err(|error| error.to_string())?;
    let value = if answer.body.trim().is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&answer.body).unwrap_or(Value::String(answer.body))
    };
    Ok((answer.status, value))
}

/// Waits until a condition holds, with a text for when it does not.
pub fn soon(what: &str, condition: impl FnMut() -> bool) {
    wait_until(what, PATIENCE, condition).unwrap_or_else(|error| panic!("{error}"));
}
