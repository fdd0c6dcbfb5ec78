//! Real packets and real TCP between two nodes by services, floating IPs, the host's port and the nodes' addresses.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says by panicking"
)]

mod bed;
use bed::ip;
use bed::lab::*;
use skein_datapath::*;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};

const SERVICES: VrfId = 2;
const PUBLIC: VrfId = 3;
const MEMBER: ContextId = 5;
const FLOATING: ContextId = 6;
/// What a node calls its own host's port, beside the pod's 16 + number.
const HOST_LABEL: u32 = 300;
const MEMBER_LABEL: u32 = 100;
const FLOATING_LABEL: u32 = 200;
/// An address of node 2's stack that no vRouter knows.
const WORLD: &str = "198.51.100.1";

fn route(vrf: VrfId, prefix: &str, next_hop: NextHopId) -> RouteChange {
    RouteChange::Set(Route { vrf, prefix: prefix.parse().unwrap(), next_hop, identity: 7 })
}

/// A tunnel to the other node that ends at a label of its.
fn tunnel(node: &Node, label: u32) -> NextHop {
    NextHop::Tunnel {
        remote: Underlay::V4.address(3 - node.number),
        local: Underlay::V4.address(node.number),
        encapsulation: Encapsulation::Vxlan,
        label,
        uplink: node.uplink,
        gateway: None,
        mtu: 1500,
    }
}

/// Both pods as members of services in a VRF of their own, and with a floating address in another.
fn add_contexts(node: &mut Node) {
    let (own, other, vif) = (node.number, 3 - node.number, node.vif);
    let (member, floating) = (
        tunnel(node, MEMBER_LABEL + u32::from(other)),
        tunnel(node, FLOATING_LABEL + u32::from(other)),
    );
    let record = Vif { floating: vec![FLOATING], ..node.vif() };
    let d = &mut node.datapath;
    let context =
        |vrf, floating| Context { vrf, policy4: Some(POLICY), policy6: Some(POLICY), floating };
    let address = Floating {
        address: Ipv4Addr::new(203, 0, 113, own).into(),
        fixed: Ipv4Addr::new(10, 1, 0, 10 + own).into(),
        direction: FloatingDirection::Both,
        ports: vec![],
    };
    d.set_context(MEMBER, &context(SERVICES, None)).unwrap();
    d.set_context(FLOATING, &context(PUBLIC, Some(address))).unwrap();
    d.set_label(MEMBER_LABEL + u32::from(own), vif, MEMBER).unwrap();
    d.set_label(FLOATING_LABEL + u32::from(own), vif, FLOATING).unwrap();
    d.set_next_hop(10, &NextHop::Service { vrf: SERVICES }).unwrap();
    d.set_next_hop(11, &NextHop::Local { ifindex: vif, context: MEMBER }).unwrap();
    d.set_next_hop(12, &member).unwrap();
    d.set_next_hop(13, &NextHop::Local { ifindex: vif, context: FLOATING }).unwrap();
    d.set_next_hop(14, &floating).unwrap();
    let mut routes = vec![
        route(1, "10.96.0.0/16", 10),
        route(1, "fd96::/64", 10),
        route(PUBLIC, &format!("203.0.113.{own}/32"), 13),
        route(PUBLIC, &format!("203.0.113.{other}/32"), 14),
    ];
    for prefix in ["10.1.0.1", "fd01::1"] {
        let bits = if prefix.contains(':') { 128 } else { 32 };
        routes.push(route(SERVICES, &format!("{prefix}{own}/{bits}"), 11));
        routes.push(route(SERVICES, &format!("{prefix}{other}/{bits}"), 12));
    }
    d.change_routes(&routes).unwrap();
    d.set_vif(&record).unwrap();
}

fn set_service(node: &mut Node, vrf: VrfId, at: &str, members: &[(&str, u16)], keep_source: bool) {
    let at: SocketAddr = at.parse().unwrap();
    let members = members.iter().map(|(address, port)| ServiceMember {
        address: address.parse().unwrap(),
        port: *port,
        draining: false,
    });
    let service = Service {
        at: ServiceKey { vrf, address: at.ip(), protocol: 6, port: at.port() },
        member_vrf: SERVICES,
        members: members.collect(),
        affinity: None,
        keep_source,
        link_local: false,
        open: false,
        sources: vec![],
        by_node: false,
    };
    node.datapath.set_service(&service).unwrap();
}

fn byte(at: usize) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

/// Sends bytes one way over TCP and checks that they arrive whole; returns who the listener saw.
fn transfers(client: &str, to: &str, server: &str, port: u16) -> IpAddr {
    const LENGTH: usize = 16 << 20;
    let listener = within(server, || TcpListener::bind(("::", port))).expect("listen");
    let receiver = std::thread::spawn(move || {
        let mut all = Vec::with_capacity(LENGTH);
        let (mut stream, peer) = listener.accept().unwrap();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(b"thanks").unwrap();
        (all, peer.ip().to_canonical())
    });
    let address: SocketAddr = to.parse().unwrap();
    let limit = std::time::Duration::from_secs(5);
    let connect = || TcpStream::connect_timeout(&address, limit);
    let mut stream = within(client, connect).unwrap_or_else(|e| panic!("{client} to {to}: {e}"));
    stream.write_all(&(0..LENGTH).map(byte).collect::<Vec<u8>>()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut thanks = String::new();
    stream.read_to_string(&mut thanks).unwrap();
    assert_eq!(thanks, "thanks");
    let (all, peer) = receiver.join().unwrap();
    assert_eq!(all.len(), LENGTH);
    assert!(all.iter().enumerate().all(|(at, got)| *got == byte(at)), "{client} to {to}");
    peer
}

/// With checksums made by the sender, and with checksums left to the device, as veth does (and super-packets need).
fn both_ways_of_checksums(lab: &Lab, act: impl Fn()) {
    for how in ["tx off", "tx on tso on gso on"] {
        for node in &lab.nodes {
            let done = run(&node.pod, &format!("ethtool -K eth0 {how}"));
            assert!(done.status.success(), "{how}: {done:?}");
        }
        act();
    }
}

fn no_drops(lab: &Lab) {
    let drops: Vec<_> = lab.nodes.iter().map(|n| n.datapath.drops().unwrap()).collect();
    let harmless = [DropReason::Multicast, DropReason::NdIgnored, DropReason::LinkLocal];
    assert!(drops.iter().flatten().all(|(reason, _)| harmless.contains(reason)), "{drops:?}");
}

#[test]
fn tcp_crosses_a_service_in_super_packets() {
    let mut lab = Lab::new("ts", Encapsulation::Vxlan);
    for node in &mut lab.nodes {
        node.widen();
        add_contexts(node);
        set_service(node, SERVICES, "10.96.0.1:80", &[("10.1.0.12", 8080)], false);
        set_service(node, SERVICES, "[fd96::1]:80", &[("fd01::12", 8080)], false);
        set_service(node, SERVICES, "10.96.0.2:80", &[("10.1.0.11", 8080)], false);
        set_service(node, SERVICES, "10.96.0.3:5201", &[("10.1.0.12", 5201)], false);
    }
    let [one, two] = [0, 1].map(|n| lab.nodes[n].pod.clone());
    both_ways_of_checksums(&lab, || {
        let seen = transfers(&one, "10.96.0.1:80", &two, 8080);
        assert_eq!(seen, IpAddr::from([10, 1, 0, 11]), "the member sees its client");
        transfers(&one, "[fd96::1]:80", &two, 8080);
        // A pod that is its own member sees the service.
        let seen = transfers(&one, "10.96.0.2:80", &one, 8080);
        assert_eq!(seen, IpAddr::from([10, 96, 0, 2]));
    });
    no_drops(&lab);
    let filter = FlowFilter::default();
    let flows = lab.nodes[0].datapath.flows(filter).unwrap();
    let of_service = flows.iter().filter(|flow| flow.remote == IpAddr::from([10, 96, 0, 1]));
    let largest = of_service.map(|flow| flow.bytes_out / flow.packets_out).max().unwrap();
    println!("{largest} bytes a packet");
    assert!(largest > 20_000, "super-packets are cut up: {largest} bytes a packet");
    let _server = iperf_server(&two);
    // Its connections are looked at when they have ended, by a reset.
    lab.nodes[0].datapath.keep_ended(true).unwrap();
    // Speed is the machine's affair, and another from one second to the next; the size of the packets is ours.
    let [direct, by_service] = ["10.1.0.12", "10.96.0.3"].map(|to| {
        let speed = iperf(&one, to, 2);
        let flows = lab.nodes[0].datapath.flows(filter).unwrap();
        let remote: IpAddr = to.parse().unwrap();
        let of_transfer = flows.iter().filter(|f| f.remote == remote && f.remote_port == 5201);
        let busiest = of_transfer.max_by_key(|flow| flow.bytes_out).expect("its flow");
        assert!(busiest.bytes_out > 10_000_000, "{busiest:?}");
        let mean = busiest.bytes_out / busiest.packets_out;
        println!("{to}: {mean} bytes a packet, {speed:?} (Gbit/s, segments sent again)");
        mean
    });
    assert!(by_service > direct / 3, "{direct} {by_service} {}", lab.nodes[0].explain());
    // Nobody behind it: refused at once, not by a time-out.
    set_service(&mut lab.nodes[0], SERVICES, "10.96.0.1:80", &[], false);
    for to in ["10.96.0.1:80", "10.96.0.1:81", "[fd96::1]:81"] {
        let error = within(&one, || TcpStream::connect(to)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
}

#[test]
fn floating_addresses_on_two_nodes_talk() {
    let mut lab = Lab::new("tf", Encapsulation::MplsOverUdp);
    for node in &mut lab.nodes {
        add_contexts(node);
    }
    let [one, two] = [0, 1].map(|n| lab.nodes[n].pod.clone());
    reaches(&lab, "203.0.113.2");
    let big = run(&one, "ping -c 2 -i 0.1 -W 1 -s 4000 203.0.113.2");
    assert!(big.status.success(), "fragments: {:?}", lab.nodes[1].explain());
    both_ways_of_checksums(&lab, || {
        let seen = transfers(&one, "203.0.113.2:8080", &two, 8080);
        assert_eq!(seen, IpAddr::from([203, 0, 113, 1]), "by floating addresses at both ends");
    });
    no_drops(&lab);
    // Nothing listens: the refusal comes back from the floating address.
    let error = within(&one, || TcpStream::connect("203.0.113.2:9")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let traced = run(&one, "ping -c 1 -W 1 -M do -s 2000 203.0.113.2");
    assert!(!traced.status.success(), "too big, and told so");
}

/// The host's port of a node, with the node's address; and what the host reaches by it.
fn add_host(node: &mut Node) {
    let (name, own, other) = (node.name.clone(), node.number, 3 - node.number);
    ip(&format!("-n {name} link add skein0 type veth peer name skein0-v"));
    ip(&format!("-n {name} link set skein0 address 02:00:00:00:01:0{own} mtu 1450 up"));
    ip(&format!("-n {name} link set skein0-v up"));
    ip(&format!("-n {name} route add 10.1.0.0/24 dev skein0 src 192.0.2.{own}"));
    ip(&format!("-n {name} route add 10.96.0.0/16 dev skein0 src 192.0.2.{own}"));
    let ifindex = within(&name, || bed::ifindex("skein0-v"));
    let vif = Vif {
        ifindex,
        id: 2,
        mac: [2, 0, 0, 0, 1, own],
        label: HOST_LABEL + u32::from(own),
        delivery: Delivery::Transmit,
        host: true,
        ..node.vif()
    };
    let far = tunnel(node, HOST_LABEL + u32::from(other));
    let d = &mut node.datapath;
    d.set_next_hop(20, &NextHop::Local { ifindex, context: 0 }).unwrap();
    d.set_next_hop(21, &far).unwrap();
    let routes = [1, SERVICES].map(|vrf| {
        [
            route(vrf, &format!("192.0.2.{own}/32"), 20),
            route(vrf, &format!("192.0.2.{other}/32"), 21),
        ]
    });
    d.change_routes(routes.as_flattened()).unwrap();
    d.set_vif(&vif).unwrap();
    d.set_label(vif.label, ifindex, 0).unwrap();
    within(&name, || node.datapath.attach_workload(ifindex).unwrap());
    lend(node, Some(ifindex));
}

/// Lends the node's address for what has no route.
fn lend(node: &mut Node, host: Option<u32>) {
    let outside = NextHop::Outside { uplink: node.uplink, gateway: None, mtu: 1500 };
    let d = &mut node.datapath;
    d.set_next_hop(30, &outside).unwrap();
    let address = NodeAddress {
        address4: Some(Ipv4Addr::new(192, 0, 2, node.number)),
        host,
        next_hop4: 30,
        ..NodeAddress::default()
    };
    d.set_node_address(&address).unwrap();
    d.change_routes(&[route(1, "0.0.0.0/0", 30)]).unwrap();
}

#[test]
fn the_host_talks_to_workloads_here_and_there() {
    let mut lab = Lab::new("th", Encapsulation::Vxlan);
    for node in &mut lab.nodes {
        add_contexts(node);
        add_host(node);
        set_service(node, SERVICES, "10.96.0.1:80", &[("10.1.0.12", 8080)], false);
    }
    // The pod of node 1 lets nobody in. Its own host it does.
    let closed = bed::flatten(&bed::only(
        vec![skein_policy::Rule { protocol: None, destination_ports: vec![], ..bed::pass(0, 0) }],
        vec![],
    ));
    let node = &mut lab.nodes[0];
    node.datapath.load_policy(2, &closed).unwrap();
    let policy = VifPolicy::Enforce { v4: Some(2), v6: Some(2) };
    let vif = Vif { policy, ..node.vif() };
    node.datapath.set_vif(&vif).unwrap();
    let [host1, host2] = [0, 1].map(|n| lab.nodes[n].name.clone());
    let [one, two] = [0, 1].map(|n| lab.nodes[n].pod.clone());
    let pings = |from: &str, to: &str| run(from, &format!("ping -c 1 -W 1 {to}")).status.success();
    assert!(pings(&host1, "10.1.0.11"), "{:?}", lab.nodes[0].explain());
    assert!(!pings(&host2, "10.1.0.11"), "another node's host is like anyone");
    assert_eq!(transfers(&host1, "10.1.0.11:8080", &one, 8080), IpAddr::from([192, 0, 2, 1]));
    assert_eq!(transfers(&host1, "10.1.0.12:8080", &two, 8080), IpAddr::from([192, 0, 2, 1]));
    assert_eq!(transfers(&one, "192.0.2.1:8080", &host1, 8080), IpAddr::from([10, 1, 0, 11]));
    assert_eq!(transfers(&one, "192.0.2.2:8080", &host2, 8080), IpAddr::from([10, 1, 0, 11]));
    // By a service, too.
    assert_eq!(transfers(&host1, "10.96.0.1:80", &two, 8080), IpAddr::from([192, 0, 2, 1]));
    assert_eq!(transfers(&host2, "10.96.0.1:80", &two, 8080), IpAddr::from([192, 0, 2, 2]));
}

#[test]
fn workloads_reach_the_outside_and_the_outside_services_by_the_nodes_address() {
    let mut lab = Lab::new("to", Encapsulation::Vxlan);
    for node in &mut lab.nodes {
        add_contexts(node);
        add_host(node);
    }
    let [host1, host2] = [0, 1].map(|n| lab.nodes[n].name.clone());
    let [one, two] = [0, 1].map(|n| lab.nodes[n].pod.clone());
    ip(&format!("-n {host2} addr add {WORLD}/32 dev lo"));
    ip(&format!("-n {host1} route add {WORLD}/32 via 192.0.2.2"));
    reaches(&lab, WORLD);
    let big = run(&one, &format!("ping -c 2 -i 0.1 -W 1 -s 4000 {WORLD}"));
    assert!(big.status.success(), "fragments: {:?}", lab.nodes[0].explain());
    both_ways_of_checksums(&lab, || {
        let seen = transfers(&one, &format!("{WORLD}:8080"), &host2, 8080);
        assert_eq!(seen, IpAddr::from([192, 0, 2, 1]));
    });
    let error = within(&one, || TcpStream::connect(format!("{WORLD}:9"))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    // Back in: to a member here that sees the client, and to one elsewhere that sees the node.
    let node = &mut lab.nodes[0];
    set_service(node, OUTSIDE, "192.0.2.1:30080", &[("10.1.0.11", 8080)], true);
    set_service(node, OUTSIDE, "192.0.2.1:30081", &[("10.1.0.12", 8080)], false);
    set_service(node, OUTSIDE, "192.0.2.1:30082", &[("10.1.0.11", 8080)], false);
    for (port, member, client) in [(30080, &one, 2), (30081, &two, 1), (30082, &one, 1)] {
        let seen = transfers(&host2, &format!("192.0.2.1:{port}"), member, 8080);
        assert_eq!(seen, IpAddr::from([192, 0, 2, client]), "{port}");
    }
    let error = within(&host2, || TcpStream::connect("192.0.2.1:30083")).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "the host's own answer");
}
