//! The real plugin against the real agent and kernel, run as a container runtime runs it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]

mod fabric;

use fabric::{Fabric, Policy, Setup, Workload};
use serde_json::json;
use skein_cni::host_interface_name;
use skein_lab::{Attachment, CniError};
use skein_proto::session::Encapsulation;
use std::process::Command;
use std::time::{Duration, Instant};

const A: Workload = Workload { number: 1, host: 0, network: 1 };
const B: Workload = Workload { number: 2, host: 0, network: 1 };

fn one_host(name: &str, policy: Policy) -> Fabric {
    Fabric::new(&Setup {
        name,
        hosts: 1,
        workloads: &[A, B],
        policy,
        encapsulation: Encapsulation::Vxlan,
    })
}

fn code(error: &CniError) -> u64 {
    match error {
        CniError::Plugin { code, .. } => *code,
        other => panic!("no CNI error: {other}"),
    }
}

fn host_interface_exists(fabric: &Fabric, container: &str) -> bool {
    let name = host_interface_name(container, "eth0");
    let mut command = Command::new("ip");
    fabric.hosts[0].run(command.args(["link", "show", &name])).unwrap().ok()
}

#[test]
fn add_check_del_in_every_version() {
    // DEL frees the saved port, so each version has a workload of its own.
    let versions = ["0.4.0", "1.0.0", "1.1.0"];
    let workloads = [1, 2, 3].map(|number| Workload { number, host: 0, network: 1 });
    let fabric = Fabric::new(&Setup {
        name: "tconf",
        hosts: 1,
        workloads: &workloads,
        policy: Policy::SameNetwork,
        encapsulation: Encapsulation::Vxlan,
    });
    for (version, workload) in versions.into_iter().zip(&workloads) {
        let runtime = fabric.runtime(0, version, 1);
        let pod = fabric.pod(workload);
        let attachment = Attachment::new(&workload.container(), &pod.path());
        let result = runtime.add(&attachment).unwrap();
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0]["address"], format!("{}/24", workload.ipv4()));
        assert_eq!(result["ips"][0]["gateway"], "10.1.0.1");
        assert_eq!(result["ips"][1]["address"], format!("{}/64", workload.ipv6()));
        assert_eq!(result["ips"][0].get("version").is_some(), version == "0.4.0");
        assert_eq!(result["interfaces"][1]["name"], "eth0");
        assert_eq!(result["interfaces"][1]["mac"], workload.mac());
        assert_eq!(result["interfaces"][1]["sandbox"], json!(pod.path()));
        assert_eq!(result["interfaces"][1].get("mtu").is_some(), version == "1.1.0");
        assert_eq!(result["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "10.1.0.1"}));

        // The same call again: the same answer, and the interface was not made anew.
        let index = |pod: &skein_lab::Pod| {
            let text = pod.run(Command::new("ip").args(["-o", "link", "show", "eth0"])).unwrap();
            text.stdout.split(':').next().unwrap().to_owned()
        };
        let before = index(&pod);
        assert_eq!(runtime.add(&attachment).unwrap(), result);
        assert_eq!(index(&pod), before);

        runtime.check(&attachment).unwrap();
        pod.ip("route del default\n").unwrap();
        assert_eq!(code(&runtime.check(&attachment).unwrap_err()), 101);
        // A repeated ADD repairs what CHECK complained of.
        runtime.add(&attachment).unwrap();
        runtime.check(&attachment).unwrap();

        runtime.del(&attachment).unwrap();
        assert!(!host_interface_exists(&fabric, &workload.container()));
        runtime.del(&attachment).unwrap();
        pod.remove().unwrap();
        let error = runtime.add(&attachment).unwrap_err();
        assert_eq!(code(&error), 3, "a missing namespace is an unknown container");
    }
}

#[test]
fn add_answers_only_with_policy_in_force_and_leaves_nothing_when_it_fails() {
    let fabric = one_host("tfail", Policy::Missing);
    let pod = fabric.pod(&A);
    let runtime = fabric.runtime(0, "1.1.0", 1);
    let start = Instant::now();
    let error = runtime.add(&Attachment::new(&A.container(), &pod.path())).unwrap_err();
    assert_eq!(code(&error), 11, "{error}");
    assert!(error.to_string().contains("policy"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(25));
    assert!(!host_interface_exists(&fabric, &A.container()));
    let links = pod.run(Command::new("ip").args(["-o", "link"])).unwrap().stdout;
    assert!(!links.contains("eth0"), "{links}");
    // Without a controller an unknown port cannot be made, and the answer says so at once.
    let error = runtime.add(&Attachment::new("unknown", &pod.path())).unwrap_err();
    assert_eq!(code(&error), 11);
    assert!(error.to_string().contains("controller"), "{error}");
}

#[test]
fn del_always_ends() {
    let mut fabric = one_host("tdel", Policy::SameNetwork);
    let runtime = fabric.runtime(0, "1.1.0", 1);
    // Unknown container, no namespace.
    let mut unknown = Attachment::new("never", std::path::Path::new("/run/netns/none"));
    runtime.del(&unknown).unwrap();
    unknown.netns = None;
    runtime.del(&unknown).unwrap();
    // The namespace went first.
    let pod = fabric.attach(&A);
    let attachment = Attachment::new(&A.container(), &pod.path());
    pod.remove().unwrap();
    runtime.del(&attachment).unwrap();
    assert!(!host_interface_exists(&fabric, &A.container()));
    // The agent is away: the interface goes, and the agent learns of it later.
    let pod = fabric.attach(&B);
    fabric.stop_agent(0);
    runtime.del(&Attachment::new(&B.container(), &pod.path())).unwrap();
    assert!(!host_interface_exists(&fabric, &B.container()));
    fabric.start_agent(0);
    skein_lab::wait_until("the agent to free the port", Duration::from_secs(5), || {
        fabric.look(0, "/v1/interfaces") == json!([])
    })
    .unwrap();
    let left = skein_cni::Tombstone::list(&fabric.socket(0));
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(fabric.look(0, "/v1/status")["pending_releases"], 2);
}

#[test]
fn status_version_and_gc() {
    let mut fabric = one_host("tgc", Policy::SameNetwork);
    let runtime = fabric.runtime(0, "1.1.0", 1);
    let (a, b) = (fabric.attach(&A), fabric.attach(&B));
    // Headless: existing workloads are fine, new ones would fail.
    assert_eq!(code(&runtime.status().unwrap_err()), 50);
    assert_eq!(code(&fabric.runtime(0, "1.0.0", 1).status().unwrap_err()), 1);
    let versions = runtime.version().unwrap();
    assert_eq!(versions[0]["supportedVersions"], json!(["0.4.0", "1.0.0", "1.1.0"]));
    let keep = Attachment::new(&A.container(), &a.path());
    runtime.gc(&[&keep]).unwrap();
    assert!(host_interface_exists(&fabric, &A.container()));
    assert!(!host_interface_exists(&fabric, &B.container()));
    runtime.check(&keep).unwrap();
    let gone = Attachment::new(&B.container(), &b.path());
    assert_eq!(code(&runtime.check(&gone).unwrap_err()), 102);
    // GC of another network configuration touches nothing here.
    fabric.runtime(0, "1.1.0", 2).gc(&[]).unwrap();
    runtime.check(&keep).unwrap();
    fabric.stop_agent(0);
    assert_eq!(code(&runtime.status().unwrap_err()), 50);
}

#[test]
fn many_adds_and_dels_side_by_side() {
    let workloads: Vec<Workload> =
        (1..=24).map(|number| Workload { number, host: 0, network: 1 }).collect();
    let fabric = Fabric::new(&Setup {
        name: "tpar",
        hosts: 1,
        workloads: &workloads,
        policy: Policy::SameNetwork,
        encapsulation: Encapsulation::Vxlan,
    });
    std::thread::scope(|scope| {
        for workload in &workloads {
            let fabric = &fabric;
            scope.spawn(move || {
                let pod = fabric.pod(workload);
                let attachment = Attachment::new(&workload.container(), &pod.path());
                let runtime = fabric.runtime(0, "1.0.0", 1);
                // Two runtimes at once for the same container, as after a kubelet restart.
                std::thread::scope(|inner| {
                    let first = inner.spawn(|| runtime.add(&attachment));
                    let second = runtime.add(&attachment);
                    assert_eq!(first.join().unwrap().unwrap(), second.unwrap());
                });
            });
        }
    });
    let listed = fabric.look(0, "/v1/interfaces");
    let active = listed.as_array().unwrap().iter().filter(|port| port["active"] == true).count();
    assert_eq!(active, workloads.len());
    std::thread::scope(|scope| {
        for workload in &workloads {
            let fabric = &fabric;
            scope.spawn(move || {
                let path =
                    format!("/run/netns/{}-{}", fabric.hosts[0].namespace(), workload.container());
                let attachment =
                    Attachment::new(&workload.container(), std::path::Path::new(&path));
                fabric.runtime(0, "1.0.0", 1).del(&attachment).unwrap();
            });
        }
    });
    assert_eq!(fabric.look(0, "/v1/interfaces"), json!([]));
}
