//! Super-packets beyond 64 KiB: workloads are given them, and what travels in them arrives whole. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step is a failed test"
)]

mod support;

use serde_json::Value;
use skein_lab::{Iperf, Workload};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use support::traffic::{Echo, udp_echoes};
use support::{Bed, SILENCE, soon};

/// What the kernel has without being asked.
const DEFAULT: u32 = 65_536;
const LENGTH: usize = 48 << 20;
const PORT: u16 = 7000;

/// Sends in one go, so that TCP has enough at hand to make its packets as large as they may be.
fn arrives_whole(from: &Workload, to: &Workload, address: &str) -> bool {
    let target = SocketAddr::new(address.parse::<IpAddr>().unwrap(), PORT);
    let all: Vec<u8> = (0..LENGTH).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect();
    let listener = to.pod.inside(|| TcpListener::bind(target)).unwrap().unwrap();
    let receiver = std::thread::spawn(move || {
        let mut got = Vec::with_capacity(LENGTH);
        listener.accept().unwrap().0.read_to_end(&mut got).unwrap();
        got
    });
    let mut stream = from.pod.inside(|| TcpStream::connect(target)).unwrap().unwrap();
    stream.write_all(&all).unwrap();
    drop(stream);
    receiver.join().unwrap() == all
}

/// Segments that a workload's TCP sent again, without those that its peers had got already: a sender that moves to
/// another core is overtaken by itself, sends again what is still in the other core's queue, and is told of each
/// one that came twice (RFC 2883).
fn lost_segments(of: &Workload) -> i64 {
    let counters = of.pod.inside(|| {
        ["snmp", "netstat"]
            .map(|file| std::fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap())
    });
    let counters = counters.unwrap().concat();
    // A line of names, then one of numbers, each behind the protocol's name.
    let lines: Vec<&str> = counters.lines().collect();
    let values: HashMap<&str, &str> = lines
        .chunks_exact(2)
        .flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()))
        .collect();
    let count = |name: &str| values[name].parse::<i64>().unwrap();
    count("RetransSegs") - count("TCPDSACKRecvSegs")
}

#[test]
fn workloads_send_large_super_packets_and_they_arrive_whole() {
    let bed = Bed::start("tsuper");
    bed.network("front", 1);
    let sender = bed.attach(0, "sender", "front");
    let near = bed.attach(0, "near", "front");
    let far = bed.attach(1, "far", "front");
    let answer = bed.fabric.node(0).host().http(8085, "GET", "/v1/status", "").unwrap();
    let status: Value = serde_json::from_str(&answer.body).unwrap();
    let told = u32::try_from(status["super_packet"].as_u64().unwrap()).unwrap();
    for workload in [&sender, &near, &far] {
        match workload.pod.super_packet_size("eth0").unwrap() {
            Some(size) => {
                assert!(told > DEFAULT, "a veth uplink takes more than {told}");
                assert_eq!(size, told, "{}", workload.pod.name());
            }
            None => assert_eq!(told, DEFAULT, "this kernel has no larger ones"),
        }
    }

    let services = [&near, &far].map(|to| Echo::start(&to.pod, 53));
    for to in [&near, &far] {
        for address in [to.ipv4(), to.ipv6()] {
            soon("the service", || udp_echoes(&sender.pod, address, 53, 40, SILENCE));
            assert!(arrives_whole(&sender, to, address), "{address}");
            // Now: a flow that ended is soon forgotten.
            let flows = bed.look(0, "flows");
            let flow =
                flows.iter().find(|f| f["remote"] == address && f["remote_port"] == PORT).unwrap();
            let mean = flow["bytes_out"].as_u64().unwrap() / flow["packets_out"].as_u64().unwrap();
            // IPv6 has another form of them.
            let larger = told > DEFAULT && address == to.ipv4();
            assert_eq!(mean > u64::from(DEFAULT), larger, "{mean} bytes a packet to {address}");
        }
        // Datagrams know nothing of it, whole ones and fragmented ones.
        for bytes in [1000, 30_000] {
            assert!(udp_echoes(&sender.pod, to.ipv4(), 53, bytes, SILENCE), "{bytes} bytes");
        }
    }
    // Nothing on the way cuts them: a bridge with br_netfilter trims a packet to the length its header
    // tells, and what cannot be segmented any more is lost.
    let iperf = Iperf { seconds: 1, ..Iperf::default() };
    let server = iperf.server(&far.pod).unwrap();
    let before = lost_segments(&sender);
    iperf.measure(&sender.pod, far.ipv4()).unwrap();
    let lost = lost_segments(&sender) - before;
    assert!(lost < 1000, "{lost} segments lost");
    drop(server);
    drop(services);
}
