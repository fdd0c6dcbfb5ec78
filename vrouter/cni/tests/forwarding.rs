//! Two nodes without a controller forward between workloads, keep networks apart, and survive a restart.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]

mod fabric;

use fabric::{Fabric, Policy, Setup, Workload};
use serde_json::json;
use skein_lab::{Iperf, Stalls};
use skein_proto::session::Encapsulation;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const NEAR: Workload = Workload { number: 1, host: 0, network: 1 };
const NEIGHBOUR: Workload = Workload { number: 2, host: 0, network: 1 };
const FAR: Workload = Workload { number: 3, host: 1, network: 1 };
const STRANGER: Workload = Workload { number: 4, host: 1, network: 2 };

fn two_hosts(name: &str, policy: Policy, encapsulation: Encapsulation) -> Fabric {
    Fabric::new(&Setup {
        name,
        hosts: 2,
        workloads: &[NEAR, NEIGHBOUR, FAR, STRANGER],
        policy,
        encapsulation,
    })
}

fn reaches_and_is_kept_apart(name: &str, encapsulation: Encapsulation) {
    let fabric = two_hosts(name, Policy::SameNetwork, encapsulation);
    let near = fabric.attach(&NEAR);
    fabric.attach(&NEIGHBOUR);
    let far = fabric.attach(&FAR);
    fabric.attach(&STRANGER);
    for (what, address) in [
        ("the gateway", "10.1.0.1".to_owned()),
        ("a neighbour", NEIGHBOUR.ipv4()),
        ("a neighbour", NEIGHBOUR.ipv6()),
        ("another node", FAR.ipv4()),
        ("another node", FAR.ipv6()),
    ] {
        let status = || (fabric.look(0, "/v1/drops"), fabric.look(1, "/v1/drops"));
        assert!(near.pings(&address, 3).unwrap(), "{what} {address} unreachable: {:?}", status());
    }
    assert!(!near.pings(&STRANGER.ipv4(), 1).unwrap(), "networks are not kept apart");
    let iperf = Iperf { seconds: 2, ..Iperf::default() };
    let _server = iperf.server(&far).unwrap();
    let measured = iperf.measure(&near, &FAR.ipv4()).unwrap();
    println!("{encapsulation:?}: {:.2} Gb/s across nodes", measured.bits_per_second / 1e9);
    assert!(measured.bits_per_second > 1e8, "{measured:?}");
    let ask = |to: &Workload| {
        let query = format!(
            "interface={}&src={}&dst={}&dport=80",
            NEAR.container(),
            NEAR.ipv4(),
            to.ipv4()
        );
        fabric.look(0, &format!("/v1/trace?{query}"))
    };
    let trace = ask(&FAR);
    assert_eq!(
        (&trace["passes"], &trace["kernel"]["dropped"]),
        (&json!(true), &json!(null)),
        "{trace}"
    );
    let trace = ask(&STRANGER);
    assert_eq!(trace["passes"], false, "{trace}");
    assert!(trace["kernel"]["dropped"].is_string(), "{trace}");
    let flows = fabric.look(0, "/v1/flows");
    assert!(!flows.as_array().unwrap().is_empty());
    let metrics = fabric.look(0, "/metrics");
    assert!(metrics.as_str().unwrap().contains("skein_agent_interfaces 2"));
}

#[test]
fn vxlan_reaches_within_a_network_only() {
    reaches_and_is_kept_apart("tvxl", Encapsulation::Vxlan);
}

#[test]
fn mpls_over_udp_reaches_within_a_network_only() {
    reaches_and_is_kept_apart("tmpls", Encapsulation::MplsOUdp);
}

#[test]
fn a_policy_between_networks_opens_them() {
    let fabric = two_hosts("topen", Policy::Open, Encapsulation::Vxlan);
    let near = fabric.attach(&NEAR);
    fabric.attach(&STRANGER);
    assert!(near.pings(&STRANGER.ipv4(), 3).unwrap(), "{:?}", fabric.look(1, "/v1/drops"));
    assert!(near.pings(&STRANGER.ipv6(), 3).unwrap());
}

#[test]
fn an_agent_restart_neither_stalls_nor_loses_a_transfer() {
    let mut fabric = two_hosts("trest", Policy::SameNetwork, Encapsulation::Vxlan);
    let (near, far) = (fabric.attach(&NEAR), fabric.attach(&FAR));
    let stalls = Stalls::watch();
    let listener = far.inside(|| TcpListener::bind("0.0.0.0:9000")).unwrap().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut total, mut longest, mut last) = (0_u64, Duration::ZERO, Instant::now());
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = stream.read(&mut buffer).unwrap();
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if read == 0 {
                return (total, longest);
            }
            total += read as u64;
        }
    });
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = stop.clone();
    let target = format!("{}:9000", FAR.ipv4());
    let sender = std::thread::spawn(move || {
        near.inside(|| {
            let mut stream = TcpStream::connect(target).unwrap();
            let (block, mut sent) = (vec![7; 1 << 14], 0_u64);
            while !flag.load(std::sync::atomic::Ordering::Relaxed) {
                stream.write_all(&block).unwrap();
                sent += block.len() as u64;
            }
            sent
        })
        .unwrap()
    });
    std::thread::sleep(Duration::from_millis(300));
    for host in [0, 1, 0] {
        fabric.stop_agent(host);
        std::thread::sleep(Duration::from_millis(200));
        fabric.start_agent(host);
        std::thread::sleep(Duration::from_millis(200));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let sent = sender.join().unwrap();
    let (received, longest) = receiver.join().unwrap();
    assert_eq!(sent, received);
    let stall = stalls.longest();
    println!(
        "{sent} bytes over three restarts, longest silence {longest:?}, the machine's {stall:?}"
    );
    let own = longest.saturating_sub(stall);
    assert!(own < Duration::from_millis(500), "stalled for {longest:?}, the machine for {stall:?}");
}
