//! Whether this kernel carries the datapath: `kernel verdicts` and `kernel packets` say what they saw, or panic.
//!
//! - `verdicts`: the programs load, go on a workload's, an uplink's and the loopback interface by tc, and judge packets under
//!   BPF_PROG_TEST_RUN: some pass, one is dropped, for the right reason.
//! - `packets`: two nodes made of network namespaces, a workload each; TCP of both families and fragments cross the tunnel, what no
//!   rule lets in does not, and a connection outlives its node's datapath being opened and attached anew.
//!
//! What the kernel's verifier refuses, it says why. Needs root, a BPF file system and `ip` of iproute2; makes network namespaces and
//! pin directories of its own and removes them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "it says how it went, and stops when something is wrong"
)]

#[path = "../tests/bed/mod.rs"]
mod bed;

use bed::lab::{Lab, Node, within};
use bed::*;
use skein_datapath::*;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;

/// Far above what an emulated machine needs.
const PATIENCE: Duration = Duration::from_secs(60);
/// What must not arrive is waited for this long.
const SILENCE: Duration = Duration::from_secs(2);
/// More than fits any packet, and not so much that an emulated machine takes long.
const BYTES: usize = 2 << 20;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("verdicts") => verdicts(),
        Some("packets") => packets(),
        _ => panic!("say `verdicts` or `packets`"),
    }
}

fn verdicts() {
    let mut bed = Bed::new();
    println!("loaded");
    ip("link set lo up");
    bed.datapath.attach_workload(bed.alice).expect("on a workload's interface");
    bed.datapath.attach_workload(bed.bob).expect("on a workload's interface");
    bed.datapath.attach_uplink(bed.uplink).expect("on the uplink");
    bed.datapath.attach_loopback(ifindex("lo")).expect("on the loopback interface");
    // Over what is there, as an agent does when it starts again.
    bed.datapath.attach_workload(bed.alice).expect("in place of itself");
    println!("attached");

    let near = ip4(ALICE, BOB).with(6, &tcp(1000, 80, SYN));
    assert_eq!(bed.alice(&from_alice(&near)).outcome, bed.delivered(bed.bob));
    let far = ip4(ALICE, FAR).with(17, &udp(1000, 53, b"question"));
    assert_eq!(bed.alice(&from_alice(&far)).outcome, bed.tunnel_out());
    let far6 = ip6(ALICE6, FAR6, 64, 17, &udp(1000, 53, b"question"));
    assert_eq!(bed.alice(&from_alice(&far6)).outcome, bed.tunnel_out());
    let answer = vxlan(PEER, ALICE_LABEL, &ip4(FAR, ALICE).with(17, &udp(53, 1000, b"answer")));
    assert_eq!(bed.fabric(&answer).outcome, bed.delivered(bed.alice));
    println!("forwarded");

    bed.set_policy(2, &only(vec![pass(17, 53)], vec![]));
    bed.judge_alice_by(2);
    let other = ip4(ALICE, FAR).with(17, &udp(1000, 54, b"question"));
    assert_eq!(bed.alice(&from_alice(&other)).outcome, dropped(DropReason::PolicyDeny));
    assert_eq!(bed.alice(&from_alice(&far)).outcome, bed.tunnel_out(), "what the rule lets out");
    let strange =
        vxlan([192, 0, 2, 77].into(), ALICE_LABEL, &ip4(FAR, ALICE).with(17, &udp(1, 2, b"x")));
    assert_eq!(bed.fabric(&strange).outcome, dropped(DropReason::UnknownPeer));
    let counted = bed.datapath.drops().expect("counters");
    assert!(counted.contains(&(DropReason::PolicyDeny, 1)), "{counted:?}");
    println!("dropped");
    bed.datapath.detach(bed.alice).expect("detached");
    println!("verdicts hold");
}

/// Takes one connection, or every one, and sends back what comes.
fn echo(node: &Node, at: &str) -> JoinHandle<()> {
    let listener = within(&node.pod, || TcpListener::bind(at)).expect("a listener");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().expect("the same connection");
                let _ = std::io::copy(&mut reader, &mut stream);
            });
        }
    })
}

fn connect(node: &Node, to: &str) -> std::io::Result<TcpStream> {
    connect_within(node, to, PATIENCE)
}

fn connect_within(node: &Node, to: &str, limit: Duration) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().expect("an address");
    let stream = within(&node.pod, || TcpStream::connect_timeout(&to, limit))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends bytes and wants the same ones back.
fn carries(stream: &mut TcpStream, length: usize) {
    let sent: Vec<u8> = (0..length).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect();
    let mut writer = stream.try_clone().expect("the same connection");
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    let mut back = vec![0; length];
    stream.read_exact(&mut back).expect("the bytes come back");
    writing.join().expect("no panic").expect("the bytes leave");
    assert!(back == sent, "other bytes came back");
}

fn packets() {
    let mut lab = Lab::new("k", Encapsulation::Vxlan);
    println!("two nodes loaded and attached");
    let everywhere = ["[::]:7000", "[::]:7001"].map(|at| echo(&lab.nodes[1], at));
    for to in ["10.1.0.12:7000", "[fd01::12]:7000"] {
        let mut stream = connect(&lab.nodes[0], to).unwrap_or_else(|e| {
            panic!("{to}: {e}; {:?}", lab.nodes.iter().map(Node::explain).collect::<Vec<_>>())
        });
        carries(&mut stream, BYTES);
    }
    println!("TCP crossed");
    fragments(&lab);
    println!("fragments crossed");

    let mut held = connect(&lab.nodes[0], "10.1.0.12:7000").expect("a connection");
    carries(&mut held, 1000);
    let node = &mut lab.nodes[0];
    node.datapath = Datapath::open(&node.config).expect("open again");
    node.attach();
    carries(&mut held, BYTES);
    println!("a connection went on over a new start");

    let node = &mut lab.nodes[1];
    let policy = flatten(&only(vec![], vec![pass(6, 7000)]));
    node.datapath.load_policy(2, &policy).expect("policy");
    let vif = Vif { policy: VifPolicy::Enforce { v4: Some(2), v6: Some(2) }, ..node.vif() };
    node.datapath.set_vif(&vif).expect("vif");
    for address in ["10.1.0.12", "[fd01::12]"] {
        let mut open =
            connect(&lab.nodes[0], &format!("{address}:7000")).expect("what a rule lets in");
        carries(&mut open, 1000);
        let closed = connect_within(&lab.nodes[0], &format!("{address}:7001"), SILENCE);
        assert!(closed.is_err(), "{address}: no rule lets it in");
    }
    let drops = lab.nodes[1].datapath.drops().expect("counters");
    assert!(
        drops.iter().any(|(reason, n)| *reason == DropReason::PolicyDeny && *n > 1),
        "{drops:?}"
    );
    println!("the policy dropped");

    // The node's own traffic with itself passes the program on its loopback interface.
    within(&lab.nodes[0].name, || {
        lab.nodes[0].datapath.attach_loopback(ifindex("lo")).expect("attach");
        let listener = TcpListener::bind("127.0.0.1:7002").expect("a listener");
        let mut near = TcpStream::connect("127.0.0.1:7002").expect("a connection to itself");
        near.write_all(b"self").expect("write");
        let mut heard = [0; 4];
        listener.accept().expect("accept").0.read_exact(&mut heard).expect("read");
        assert_eq!(&heard, b"self");
    });
    drop(everywhere);
    println!("packets hold");
}

/// Datagrams of three packets, with their answers.
fn fragments(lab: &Lab) {
    for (own, other) in [("10.1.0.11:9", "10.1.0.12:9"), ("[fd01::11]:9", "[fd01::12]:9")] {
        let bind = |pod: &str, at| within(pod, || UdpSocket::bind(at)).expect("a socket");
        let (here, there) = (bind(&lab.nodes[0].pod, own), bind(&lab.nodes[1].pod, other));
        let sent: Vec<u8> = (0..4000_usize).map(|at| (at % 251) as u8).collect();
        let mut heard = vec![0; 5000];
        for socket in [&here, &there] {
            socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        }
        here.send_to(&sent, other).expect("sent");
        let (length, from) = there.recv_from(&mut heard).expect("the datagram");
        there.send_to(&heard[..length], from).expect("answered");
        let length = here.recv(&mut heard).expect("the answer");
        assert!(heard[..length] == sent[..], "{other}: another datagram came back");
    }
}
