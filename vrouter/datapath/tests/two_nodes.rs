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
use bed::{ip, pass};
use skein_datapath::*;
use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

/// A Linux bridge and a VXLAN device on both nodes over the same underlay, with a pod each: what flannel does.
fn bridge_over_vxlan(lab: &mut Lab) -> [String; 2] {
    [0, 1].map(|index| {
        let node = lab.nodes[index].name.clone();
        let (own, other, pod) = (index + 1, 2 - index, format!("{node}-peer"));
        ip(&format!("netns add {pod}"));
        lab.names.push(pod.clone());
        ip(&format!(
            "-n {node} link add vx type vxlan id 7 local 192.0.2.{own} remote 192.0.2.{other} dstport 8472 dev uplink"
        ));
        ip(&format!("-n {node} link add name br0 type bridge"));
        ip(&format!("-n {node} link add leg type veth peer name eth0 netns {pod}"));
        for port in ["vx", "leg"] {
            ip(&format!("-n {node} link set {port} master br0 up"));
        }
        ip(&format!("-n {node} link set br0 up"));
        ip(&format!("-n {pod} addr add 10.9.0.{own}/24 dev eth0"));
        ip(&format!("-n {pod} link set eth0 mtu 1450 up"));
        pod
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn everything_works(underlay: Underlay, tag: &str, encapsulation: Encapsulation) {
    let lab = Lab::over(underlay, tag, encapsulation);
    reaches(&lab, "10.1.0.1");
    reaches(&lab, "10.1.0.12");
    reaches(&lab, "fd01::12");
    let big = run(&lab.nodes[0].pod, "ping -c 2 -i 0.1 -W 1 -s 4000 10.1.0.12");
    assert!(big.status.success(), "fragments: {:?}", lab.nodes[1].explain());

    let (bare, overlay, overlay6, retransmitted) = {
        let node = iperf_server(&lab.nodes[1].name);
        let bare = iperf(&lab.nodes[0].name, "192.0.2.2", 2).0;
        drop(node);
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

#[test]
fn a_restarted_agent_neither_stalls_nor_resets_a_transfer() {
    let mut lab = Lab::new("r", Encapsulation::Vxlan);
    reaches(&lab, "10.1.0.12");
    let _server = iperf_server(&lab.nodes[1].pod);
    let client = exec(&lab.nodes[0].pod, "iperf3 -J -C cubic -t 3 -i 0.1 -c 10.1.0.12")
        .stdout(Stdio::piped())
        .spawn()
        .expect("iperf3");
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(300));
        for node in &mut lab.nodes {
            node.datapath = Datapath::open(&node.config).expect("open again");
            node.attach();
        }
    }
    let output = client.wait_with_output().expect("iperf3 ends");
    let (rate, retransmitted) = parse_iperf(&output);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let slowest = json["intervals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["sum"]["bytes"].as_u64().unwrap())
        .min();
    println!("{rate:.1} Gbit/s over 10 takeovers, {retransmitted} segments sent again");
    assert!(slowest.unwrap() > 0, "a tenth of a second without a byte");
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
    use std::io::{Read, Write};
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

/// The figures of the budget: beside a bridge over a VXLAN device and the bare underlay, in turn.
#[test]
fn faster_than_a_bridge_over_vxlan() {
    let mut lab = Lab::new("f", Encapsulation::Vxlan);
    let peers = bridge_over_vxlan(&mut lab);
    reaches(&lab, "10.1.0.12");
    let _servers =
        [&lab.nodes[1].pod, &peers[1], &lab.nodes[1].name].map(|name| iperf_server(name));
    let measure = |what: &str| {
        let (mut by_peer, mut by_bare, mut sent_again) = (vec![], vec![], 0);
        for _ in 0..3 {
            let (ours, again) = iperf(&lab.nodes[0].pod, "10.1.0.12", 1);
            let peer = iperf(&peers[0], "10.9.0.2", 1).0;
            let bare = iperf(&lab.nodes[0].name, "192.0.2.2", 1).0;
            println!("{what}: {ours:.1} Gbit/s, bridge + VXLAN {peer:.1}, underlay {bare:.1}");
            by_peer.push(ours / peer);
            by_bare.push(ours / bare);
            sent_again += again;
        }
        let (by_peer, by_bare) = (median(by_peer), median(by_bare));
        println!(
            "{what}: {by_peer:.2} of the bridge, {by_bare:.2} of the underlay, {sent_again} sent again"
        );
        (by_peer, by_bare)
    };
    measure("64 KiB");
    for node in &lab.nodes {
        node.widen();
    }
    let (by_peer, by_bare) = measure("large super-packets");
    // The budget is 1.3 and 0.75; a loaded machine must not fail the test, a lost optimisation should. Before Linux 6.3
    // both carry 64 KiB a packet, which leaves no margin above the noise.
    let floor = if kernel_has_large_super_packets() { 1.0 } else { 0.7 };
    assert!(by_peer > floor, "{by_peer:.2} of a bridge over VXLAN");
    assert!(by_bare > 0.5, "{by_bare:.2} of the bare underlay");
}
