//! What is measured, in order.

use crate::awake::Awake;
use crate::figure::{Better, Figures};
use crate::network::{self, Net};
use crate::programs;
use serde_json::json;
use skein_lab::{Attachment, CniRuntime, Fabric, FabricError, FabricOptions, LabOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Name of the benchmark's lab.
const LAB: &str = "skbench";
/// How often each ADD and DEL pair is timed.
const CNI_ROUNDS: usize = 30;
/// How often a policy is applied and taken back.
const CHANGE_ROUNDS: usize = 20;
/// Ports on one node when the agent's memory is read.
const PORTS: usize = 100;

/// The middle of some measurements.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) fn programs_folder() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_path_buf))
        .unwrap_or_else(|| "target/release".into())
}

/// Measures what needs no fabric.
pub(crate) fn programs(figures: &mut Figures) -> Result<(), FabricError> {
    let programs = programs_folder();
    crate::say("Flow set-up, in the kernel alone");
    kernel(figures, &programs)?;
    crate::say("Configuration API");
    api(figures, &programs)
}

/// Measures a fabric of two nodes.
pub(crate) fn fabric(figures: &mut Figures) -> Result<(), FabricError> {
    let programs = programs_folder();
    crate::say("A fabric of two nodes");
    let options = FabricOptions { programs, nodes: 2, lab: LabOptions::default() };
    let fabric = Fabric::start(LAB, options)?;
    let net = Net::new(&fabric)?;
    let awake = Awake::all_cores();
    network::across_nodes(figures, &fabric, &net)?;
    network::one_node(figures, &fabric, &net)?;
    network::rules(figures, &fabric, &net)?;
    drop(awake);
    network::config_to_packet(figures, &fabric, CHANGE_ROUNDS)?;
    cni(figures, &fabric)?;
    memory(figures, &fabric)?;
    Ok(())
}

fn kernel(figures: &mut Figures, programs: &Path) -> Result<(), FabricError> {
    let measured = programs::run(&programs.join("examples/datapath-bench"), &[])?;
    for (name, value) in &measured {
        crate::say(&format!("  {name}: {value:.1}"));
    }
    let rate = measured.get("flow_setup_local").copied().unwrap_or(f64::NAN);
    figures.add(
        "flow set-up, new UDP 5-tuples per second and core",
        rate,
        "/s",
        "BPF_PROG_TEST_RUN",
        1_000_000.0,
        Better::Higher,
    );
    // A stream's rate wavers by more than the goal: this is the same without the machine around it.
    let of = |name: &str| measured.get(name).copied().unwrap_or(f64::NAN);
    let (bare, ruled) = (of("established"), of("established_1000_rules"));
    figures.add(
        "a packet of a known connection, 1,000 rules in front, of none",
        ruled / bare,
        "x",
        format!("BPF_PROG_TEST_RUN: no rules {bare:.1} ns, 1,000 {ruled:.1} ns"),
        1.03,
        Better::Lower,
    );
    Ok(())
}

fn api(figures: &mut Figures, programs: &Path) -> Result<(), FabricError> {
    let measured = programs::run(&programs.join("examples/ports"), &["10000", "32"])?;
    let rate = measured.values().copied().next().unwrap_or(f64::NAN);
    figures.add(
        "ports created through the REST API, durable, 32 connections",
        rate,
        "/s",
        "a port is a VMI and its instance IP",
        2000.0,
        Better::Higher,
    );
    let measured = programs::run(&programs.join("examples/ports"), &["5000", "32", "etcd"])?;
    let of = |name: &str| measured.get(name).copied().unwrap_or(f64::NAN);
    crate::say(&format!(
        "  on etcd: {:.0} ports/s, {:.0} by a replica that hands them on",
        of("config_ports_per_second_on_etcd"),
        of("config_ports_per_second_by_a_follower"),
    ));
    figures.add(
        "the same with the configuration in etcd, of pairs of raw etcd puts",
        of("config_ports_of_raw_puts"),
        "x",
        "same sizes, same connections, same etcd; within twice",
        0.5,
        Better::Higher,
    );
    Ok(())
}

fn cni(figures: &mut Figures, fabric: &Fabric) -> Result<(), FabricError> {
    let host = fabric.node(0).host();
    let list = json!({"cniVersion": "1.0.0", "name": "reference", "plugins": [{
        "type": "bridge", "bridge": "cni0", "isGateway": true,
        "ipam": {"type": "host-local", "subnet": "10.77.0.0/16",
                 "dataDir": host.directory().join("host-local")}}]});
    let reference = CniRuntime::new(host, &["/usr/lib/cni".into()], list)?;
    let ours = fabric.node(0).runtime("default-domain:bench:front")?;
    let (mut own, mut other, mut adds) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..CNI_ROUNDS {
        let pod = host.pod(&format!("cni-{round}"))?;
        let attachment = Attachment::new(&format!("bench-{round}"), &pod.path());
        // In turn, so that both see the same machine.
        for (runtime, times) in [(&reference, &mut other), (&ours, &mut own)] {
            let start = Instant::now();
            runtime.add(&attachment)?;
            if std::ptr::eq(runtime, &raw const ours) {
                adds.push(start.elapsed().as_secs_f64() * 1e3);
            }
            runtime.del(&attachment)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        pod.remove()?;
    }
    let (own, other) = (median(own), median(other));
    crate::say(&format!("  ADD alone: {:.1} ms", median(adds)));
    figures.add(
        "CNI ADD + DEL, median, of the reference plugin's",
        own / other,
        "x",
        format!("bridge + host-local: {other:.1} ms; ours: {own:.1} ms"),
        1.0,
        Better::Lower,
    );
    Ok(())
}

fn memory(figures: &mut Figures, fabric: &Fabric) -> Result<(), FabricError> {
    let node = fabric.node(0);
    let mut workloads = Vec::new();
    let start = Instant::now();
    for number in 0..PORTS {
        workloads.push(node.attach(&format!("m{number}"), "default-domain:bench:front")?);
    }
    let each = start.elapsed().as_secs_f64() * 1e3 / PORTS as f64;
    crate::say(&format!("  {PORTS} workloads attached, {each:.1} ms each"));
    std::thread::sleep(Duration::from_secs(1));
    let resident = network::resident_mebibytes(node.agent_pid());
    figures.add(
        "resident memory of the agent, 100 interfaces",
        resident,
        "MiB",
        "VmRSS",
        64.0,
        Better::Lower,
    );
    for workload in workloads {
        workload.detach()?;
    }
    Ok(())
}
