//! Two nodes made of network namespaces, joined by an underlay, with a workload each: real packets, real TCP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::lab::*;
use bed::pass;
use skein_datapath::*;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn everything_works(underlay: Underlay, tag: &str, encapsulation: Encapsulation) {
    let mut lab = Lab::over(underlay, tag, encapsulation);
    reaches(&lab, "10.1.0.1");
    reaches(&lab, "10.1.0.12");
    reaches(&lab, "fd01::12");
    let big = run(&lab.nodes[0].pod, "ping -c 2 -i 0.1 -W 1 -s 4000 10.1.0.12");
    assert!(big.status.success(), "fragments: {:?}", lab.nodes[1].explain());

    let (bare, overlay, overlay6, retransmitted) = {
        let node = iperf_server(&lab.nodes[1].name);
        let bare = iperf(&lab.nodes[0].name, "192.0.2.2", 2).0;
        drop(node);
        // Its connections are looked at when they have ended, by a reset.
        lab.nodes[1].datapath.keep_ended(true).unwrap();
        let _server = iperf_server(&lab.nodes[1].pod);
        let (overlay, retransmitted) = iperf(&lab.nodes[0].pod, "10.1.0.12", 2);
        let overlay6 = iperf(&lab.nodes[0].pod, "fd01::12", 2).0;
        (bare, overlay, overlay6, retransmitted)
    };
    println!(
        "{encapsulation:?}: {overlay:.1} Gbit/s (IPv6 {overlay6:.1}), bare underlay {bare:.1}: \
         ratio {:.2}; {retransmitted} segments sent again",
        overlay / bare
    );
    // Speed is the machine's affair (an emulated one carries a tenth); the size of what arrives is ours.
    let flows = lab.nodes[1].datapath.flows(FlowFilter::default()).unwrap();
    for own in [IpAddr::from([10, 1, 0, 12]), "fd01::12".parse().unwrap()] {
        let of_family = flows.iter().filter(|f| f.local == own);
        let busiest = of_family.max_by_key(|f| f.bytes_in).expect("a flow of each family");
        let mean = busiest.bytes_in / busiest.packets_in;
        println!("{encapsulation:?} {own}: {mean} bytes a packet arrived");
        assert!(
            busiest.bytes_in > 10_000_000 && mean > 4 * 1500,
            "super-packets do not pass: {busiest:?} {}",
            lab.nodes[1].explain()
        );
    }
}

#[test]
fn vxlan_carries_both_families_fragments_and_tcp() {
    everything_works(Underlay::V4, "v", Encapsulation::Vxlan);
}

#[test]
fn mpls_over_udp_carries_both_families_fragments_and_tcp() {
    everything_works(Underlay::V4, "u", Encapsulation::MplsOverUdp);
}

#[test]
fn mpls_over_gre_carries_both_families_fragments_and_tcp() {
    everything_works(Underlay::V4, "g", Encapsulation::MplsOverGre);
}

#[test]
fn an_ipv6_underlay_carries_both_families_by_vxlan() {
    everything_works(Underlay::V6, "v6", Encapsulation::Vxlan);
}

#[test]
fn an_ipv6_underlay_carries_both_families_by_mpls_over_udp() {
    everything_works(Underlay::V6, "u6", Encapsulation::MplsOverUdp);
}

/// Reads until the end: how many bytes, the longest time without any, and the longest time that a thread was not woken
/// though its time was up.
fn longest_silence(mut stream: TcpStream) -> (usize, Duration, Duration) {
    const NAP: Duration = Duration::from_millis(5);
    let ended = Arc::new(AtomicBool::new(false));
    let flag = ended.clone();
    let napping = std::thread::spawn(move || {
        let mut latest = Duration::ZERO;
        while !flag.load(Ordering::Relaxed) {
            let since = Instant::now();
            std::thread::sleep(NAP);
            latest = latest.max(since.elapsed().saturating_sub(NAP));
        }
        latest
    });
    let (mut total, mut longest, mut last) = (0, Duration::ZERO, Instant::now());
    let mut buffer = vec![0; 1 << 17];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        longest = longest.max(last.elapsed());
        last = Instant::now();
        if read == 0 {
            break;
        }
        total += read;
    }
    ended.store(true, Ordering::Relaxed);
    (total, longest, napping.join().unwrap())
}

#[test]
fn a_restarted_agent_neither_stalls_nor_resets_a_transfer() {
    let mut lab = Lab::new("r", Encapsulation::Vxlan);
    reaches(&lab, "10.1.0.12");
    let listener = within(&lab.nodes[1].pod, || TcpListener::bind("10.1.0.12:7000")).unwrap();
    let receiver = std::thread::spawn(move || longest_silence(listener.accept().unwrap().0));
    let connect = || TcpStream::connect("10.1.0.12:7000");
    let mut stream = within(&lab.nodes[0].pod, connect).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let sender = std::thread::spawn(move || {
        let (block, mut sent) = (vec![7; 1 << 17], 0);
        while !flag.load(Ordering::Relaxed) {
            stream.write_all(&block).unwrap();
            sent += block.len();
        }
        sent
    });
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(300));
        for node in &mut lab.nodes {
            node.datapath = Datapath::open(&node.config).expect("open again");
            node.attach();
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Relaxed);
    let sent = sender.join().unwrap();
    let (received, silence, stall) = receiver.join().unwrap();
    println!("{sent} bytes over 10 takeovers, silent for {silence:?}, the machine for {stall:?}");
    assert_eq!(sent, received);
    let own = silence.saturating_sub(stall);
    assert!(own < Duration::from_millis(100), "silent for {silence:?}, the machine for {stall:?}");
    let drops: Vec<_> = lab.nodes.iter().map(|n| n.datapath.drops().unwrap()).collect();
    assert!(
        drops.iter().flatten().all(|(reason, _)| matches!(
            reason,
            DropReason::Multicast | DropReason::NdIgnored | DropReason::LinkLocal
        )),
        "{drops:?}"
    );
}

#[test]
fn only_what_the_policy_allows_passes() {
    let mut lab = Lab::new("p", Encapsulation::Vxlan);
    let node = &mut lab.nodes[1];
    let policy = bed::flatten(&bed::only(vec![], vec![pass(6, 5201)]));
    node.datapath.load_policy(2, &policy).unwrap();
    let vif = Vif { policy: VifPolicy::Enforce { v4: Some(2), v6: None }, ..node.vif() };
    node.datapath.set_vif(&vif).unwrap();
    let _server = iperf_server(&lab.nodes[1].pod);
    assert!(iperf(&lab.nodes[0].pod, "10.1.0.12", 1).0 > 0.1);
    for blocked in ["10.1.0.12", "fd01::12"] {
        let ping = run(&lab.nodes[0].pod, &format!("ping -c 1 -W 1 {blocked}"));
        assert!(!ping.status.success());
    }
    let drops = lab.nodes[1].datapath.drops().unwrap();
    assert!(drops.iter().any(|(reason, _)| *reason == DropReason::PolicyDeny), "{drops:?}");
    assert!(drops.iter().any(|(reason, _)| *reason == DropReason::NoPolicy), "{drops:?}");
}

/// Linux 6.3 brought IPv4 packets beyond 64 KiB.
fn kernel_has_large_super_packets() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("kernel release");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 3)
}

/// TCP bytes beyond 64 KiB a packet arrive whole and in order, whether the underlay takes such packets or segments them.
/// An older kernel says that it knows no such packets, and carries the usual ones.
#[test]
fn large_super_packets_arrive_unchanged() {
    for (tag, encapsulation, whole) in [
        ("bv", Encapsulation::Vxlan, true),
        ("bu", Encapsulation::MplsOverUdp, true),
        ("bg", Encapsulation::MplsOverGre, true),
        ("bs", Encapsulation::Vxlan, false),
    ] {
        let lab = Lab::new(tag, encapsulation);
        let bytes = lab.nodes[0].widen();
        let wide = bytes > DEFAULT_SUPER_PACKET;
        assert_eq!(wide, kernel_has_large_super_packets(), "veth takes half a megabyte: {bytes}");
        if wide && !whole {
            // Somebody narrows the uplink again: slower, but nothing is lost.
            within(&lab.nodes[0].name, || {
                set_super_packet_size(lab.nodes[0].uplink, DEFAULT_SUPER_PACKET + 1).unwrap();
            });
        }
        let length: usize = if whole { 64 << 20 } else { 4 << 20 };
        let byte = |at: usize| (at ^ at >> 8 ^ at >> 16) as u8;
        let listener = within(&lab.nodes[1].pod, || std::net::TcpListener::bind("0.0.0.0:7000"));
        let listener = listener.unwrap();
        let receiver = std::thread::spawn(move || {
            let mut all = Vec::with_capacity(length);
            listener.accept().unwrap().0.read_to_end(&mut all).unwrap();
            all
        });
        let connect = || std::net::TcpStream::connect("10.1.0.12:7000");
        let mut stream = within(&lab.nodes[0].pod, connect).unwrap();
        stream.write_all(&(0..length).map(byte).collect::<Vec<u8>>()).unwrap();
        drop(stream);
        let all = receiver.join().unwrap();
        assert_eq!(all.len(), length);
        assert!(all.iter().enumerate().all(|(at, got)| *got == byte(at)), "{encapsulation:?}");
        let flows = lab.nodes[0].datapath.flows(FlowFilter::default()).unwrap();
        let flow = flows.iter().find(|flow| flow.remote_port == 7000).unwrap();
        println!("{encapsulation:?}: {} bytes a packet", flow.bytes_out / flow.packets_out);
    }
}
