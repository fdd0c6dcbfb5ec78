//! A test bed: one network namespace with three interfaces and an open datapath, and packets with names.

#![allow(dead_code, unreachable_pub, reason = "every test file uses a part of it")]

pub mod balanced;
pub mod lab;
pub mod whole;

use skein_datapath::*;
use skein_policy::{Addition, Direction, Layer, Policy, Rule, RuleAction};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

pub const VRF: u32 = 1;
pub const ALICE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub const BOB: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 3);
/// Behind a VXLAN tunnel.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 9);
/// Behind MPLSoUDP, MPLSoGRE, and both (ECMP).
pub const FAR_UDP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 9);
pub const FAR_GRE: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 9);
pub const FAR_ECMP: Ipv4Addr = Ipv4Addr::new(10, 4, 0, 9);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
pub const ALICE6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
pub const BOB6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 3);
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 9);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1);
pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const PEER_2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
pub const ALICE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
pub const BOB_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
pub const ALICE_LABEL: u32 = 100;
pub const BOB_LABEL: u32 = 101;
pub const FAR_LABEL: u32 = 700;
pub const ALICE_ID: u32 = 11;
pub const BOB_ID: u32 = 12;
/// Passes everything.
pub const ALLOW: u32 = 1;
pub const MTU: u32 = 1500;

pub struct Bed {
    pub datapath: Datapath,
    pub alice: u32,
    pub bob: u32,
    pub uplink: u32,
    pin_dir: PathBuf,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = Datapath::purge(&self.pin_dir);
    }
}

static BEDS: AtomicU32 = AtomicU32::new(0);

pub fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split_whitespace()).output();
    let done = done.expect("these tests need the `ip` program (package iproute2)");
    assert!(
        done.status.success(),
        "`ip {arguments}` failed: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

pub fn ifindex(name: &str) -> u32 {
    let path = Command::new("cat").arg(format!("/sys/class/net/{name}/ifindex")).output();
    let by_sysfs = path.ok().and_then(|o| String::from_utf8(o.stdout).ok()?.trim().parse().ok());
    // sysfs shows the namespace it was mounted in; the link's own words are right everywhere.
    let shown = Command::new("ip").args(["-o", "link", "show", name]).output().expect("ip");
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    text.split(':').next().and_then(|n| n.trim().parse().ok()).or(by_sysfs).expect("ifindex")
}

/// Checks what every test here needs, and says what is missing.
pub fn need_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test loads eBPF programs and makes network namespaces: run it as root"
    );
    if !std::path::Path::new("/sys/fs/bpf").exists()
        || nix::sys::statfs::statfs("/sys/fs/bpf").map(|s| s.filesystem_type())
            != Ok(nix::sys::statfs::BPF_FS_MAGIC)
    {
        let done = Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]).status();
        assert!(
            done.is_ok_and(|s| s.success()),
            "this test needs a bpffs: `mount -t bpf bpf /sys/fs/bpf` failed"
        );
    }
}

impl Bed {
    /// A namespace of the calling thread's own, with everything set up and all traffic allowed.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(adjust: impl FnOnce(&mut Config)) -> Self {
        need_root();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace");
        for name in ["alice", "bob", "uplink"] {
            ip(&format!("link add {name} type veth peer name {name}-p"));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {name}-p up"));
        }
        ip("addr add 192.0.2.1/24 dev uplink");
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let pin_dir =
            PathBuf::from(format!("/sys/fs/bpf/skein-test-{}-{number}", std::process::id()));
        let mut config = Config {
            flow_table_size: 4096,
            host_route_table_size: 1024,
            prefix_route_table_size: 1024,
            next_hop_table_size: 64,
            policy_table_size: 65_536,
            vif_table_size: 16,
            fragment_table_size: 256,
            ..Config::new(&pin_dir)
        };
        adjust(&mut config);
        let mut bed = Self {
            datapath: Datapath::open(&config).expect("open"),
            alice: ifindex("alice"),
            bob: ifindex("bob"),
            uplink: ifindex("uplink"),
            pin_dir,
        };
        bed.fill();
        bed
    }

    pub fn pin_dir(&self) -> &std::path::Path {
        &self.pin_dir
    }

    /// Pretends that another version made the tables.
    pub fn write_abi_version(&self, version: u32) {
        use libbpf_rs::{MapCore, MapFlags, MapHandle};
        let meta = MapHandle::from_pinned_path(self.pin_dir.join("meta")).expect("meta");
        let value = version.to_ne_bytes();
        meta.update(&0_u32.to_ne_bytes(), &value, MapFlags::ANY).expect("version");
    }

    pub fn vif(&self, ifindex: u32) -> Vif {
        let alice = ifindex == self.alice;
        Vif {
            ifindex,
            id: if alice { ALICE_ID } else { BOB_ID },
            vrf: VRF,
            mac: if alice { ALICE_MAC } else { BOB_MAC },
            gateway4: Some(GATEWAY),
            gateway6: Some(GATEWAY6),
            label: if alice { ALICE_LABEL } else { BOB_LABEL },
            policy: VifPolicy::Enforce { v4: Some(ALLOW), v6: Some(ALLOW) },
            admin_down: false,
            flow_quota: 1000,
            mtu: 0,
            delivery: Delivery::Transmit,
            host: false,
            vlan: None,
            metadata: None,
            floating: vec![],
        }
    }

    pub fn tunnel(&self, remote: Ipv4Addr, encapsulation: Encapsulation) -> NextHop {
        NextHop::Tunnel {
            remote: remote.into(),
            local: NODE.into(),
            encapsulation,
            label: FAR_LABEL,
            uplink: self.uplink,
            gateway: Some(remote.into()),
            mtu: MTU,
        }
    }

    fn fill(&mut self) {
        let (alice, bob) = (self.alice, self.bob);
        let hops = [
            NextHop::Local { ifindex: alice, context: 0 },
            NextHop::Local { ifindex: bob, context: 0 },
            self.tunnel(PEER, Encapsulation::Vxlan),
            self.tunnel(PEER, Encapsulation::MplsOverUdp),
            self.tunnel(PEER, Encapsulation::MplsOverGre),
            self.tunnel(PEER_2, Encapsulation::Vxlan),
            NextHop::Composite { members: vec![3, 6] },
        ];
        for (id, hop) in (1..).zip(&hops) {
            self.datapath.set_next_hop(id, hop).expect("next hop");
        }
        let routes = [
            ("10.1.0.2/32", 1, 1001),
            ("10.1.0.3/32", 2, 1002),
            ("10.1.0.9/32", 3, 1009),
            ("10.2.0.0/16", 4, 1010),
            ("10.3.0.0/16", 5, 1011),
            ("10.4.0.0/16", 7, 1012),
            ("10.5.0.0/16", 60, 1013),
            ("fd01::2/128", 1, 1001),
            ("fd01::3/128", 2, 1002),
            ("fd01::9/128", 3, 1009),
        ];
        let changes: Vec<_> = routes
            .iter()
            .map(|(prefix, next_hop, identity)| {
                RouteChange::Set(Route {
                    vrf: VRF,
                    prefix: prefix.parse().expect("prefix"),
                    next_hop: *next_hop,
                    identity: *identity,
                })
            })
            .collect();
        self.datapath.change_routes(&changes).expect("routes");
        let everything = skein_policy::Program::new(
            &Policy::default(),
            skein_policy::Family::V4,
            None,
            &mut skein_policy::RuleBook::default(),
        )
        .everyone();
        self.datapath.load_policy(ALLOW, &everything).expect("policy");
        for (ifindex, label) in [(alice, ALICE_LABEL), (bob, BOB_LABEL)] {
            let vif = self.vif(ifindex);
            self.datapath.set_vif(&vif).expect("vif");
            self.datapath.set_label(label, ifindex, 0).expect("label");
        }
        self.datapath.add_tunnel_address(NODE.into()).expect("address");
        self.datapath.add_peer(PEER.into()).expect("peer");
        self.datapath.add_peer(PEER_2.into()).expect("peer");
    }

    pub fn run(&self, hook: Hook, ifindex: u32, frame: &[u8]) -> Ran {
        let run = Run { frame, ifindex, gso_size: 0, repeat: 1 };
        self.datapath.run(hook, &run).expect("the kernel takes the frame")
    }

    /// Alice sends a frame.
    pub fn alice(&self, frame: &[u8]) -> Ran {
        self.run(Hook::Workload, self.alice, frame)
    }

    /// The underlay brings a frame.
    pub fn fabric(&self, frame: &[u8]) -> Ran {
        self.run(Hook::Fabric, self.uplink, frame)
    }

    pub fn set_policy(&mut self, id: u32, policy: &Policy) {
        let addition = flatten(policy);
        self.datapath.load_policy(id, &addition).expect("policy");
    }

    /// Puts Alice under a policy.
    pub fn judge_alice_by(&mut self, id: u32) {
        let policy = VifPolicy::Enforce { v4: Some(id), v6: Some(id) };
        let vif = Vif { policy, ..self.vif(self.alice) };
        self.datapath.set_vif(&vif).expect("vif");
    }

    pub fn tunnel_out(&self) -> Outcome {
        Outcome::ToTunnel { uplink: self.uplink }
    }

    pub fn delivered(&self, ifindex: u32) -> Outcome {
        Outcome::ToWorkload { ifindex, answer_to: None }
    }
}

/// Services, a floating address of Alice and the node's address, for packets of every sort.
pub fn add_translations(bed: &mut Bed) {
    let (alice, uplink) = (bed.alice, bed.uplink);
    let d = &mut bed.datapath;
    let policy = Some(ALLOW);
    let floating = Floating {
        address: [203, 0, 113, 10].into(),
        fixed: ALICE.into(),
        direction: FloatingDirection::Both,
        ports: vec![],
    };
    let context = Context { vrf: 3, policy4: policy, policy6: policy, floating: Some(floating) };
    d.set_context(6, &context).expect("context");
    d.set_label(106, alice, 6).expect("label");
    d.set_next_hop(20, &NextHop::Service { vrf: 2 }).expect("next hop");
    d.set_next_hop(21, &NextHop::Local { ifindex: alice, context: 6 }).expect("next hop");
    d.set_next_hop(30, &NextHop::Outside { uplink, gateway: None, mtu: MTU }).expect("next hop");
    let routes = [
        (VRF, "10.96.0.0/16", 20),
        (VRF, "fd96::/64", 20),
        (VRF, "0.0.0.0/0", 30),
        (2, "10.1.0.2/32", 1),
        (2, "10.1.0.3/32", 2),
        (2, "10.1.0.9/32", 3),
        (2, "fd01::9/128", 3),
        (3, "203.0.113.10/32", 21),
        (3, "198.51.100.0/24", 3),
    ];
    let changes = routes.map(|(vrf, prefix, next_hop)| {
        let prefix = prefix.parse().expect("prefix");
        RouteChange::Set(Route { vrf, prefix, next_hop, identity: 1 })
    });
    d.change_routes(&changes).expect("routes");
    let services: [(VrfId, IpAddr, &[IpAddr], bool); 4] = [
        (2, [10, 96, 0, 1].into(), &[FAR.into(), BOB.into(), ALICE.into()], false),
        (2, "fd96::1".parse().expect("address"), &[FAR6.into()], false),
        (OUTSIDE, NODE.into(), &[ALICE.into()], true),
        (OUTSIDE, PEER_2.into(), &[FAR.into()], false),
    ];
    for (vrf, address, members, keep_source) in services {
        for protocol in [6, 17, 132] {
            let members = members.iter().map(|address| ServiceMember {
                address: *address,
                port: 8080,
                draining: false,
            });
            let service = Service {
                at: ServiceKey { vrf, address, protocol, port: 80 },
                member_vrf: 2,
                members: members.collect(),
                affinity: None,
                keep_source,
                link_local: false,
                open: false,
                sources: vec![],
                by_node: false,
            };
            d.set_service(&service).expect("service");
        }
    }
    let node = NodeAddress { address4: Some(NODE), next_hop4: 30, ..NodeAddress::default() };
    d.set_node_address(&node).expect("node address");
}

/// One good packet of every kind that [`add_translations`] translates.
pub fn translated_seeds() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    use whole::whole;
    let web: IpAddr = [10, 96, 0, 1].into();
    let world: IpAddr = [198, 51, 100, 1].into();
    let far_world: IpAddr = [8, 8, 8, 8].into();
    let public: IpAddr = [203, 0, 113, 10].into();
    let (mut workload, mut fabric) = (vec![], vec![]);
    let node = |packet: &whole::Whole| ethernet([4; 6], [2; 6], 0x0800, &packet.packet());
    for protocol in [6, 17, 132] {
        let sent = [
            whole(protocol, (ALICE, 1000), (web, 80)),
            whole(protocol, (ALICE6, 1000), (IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, 1]), 80)),
            whole(protocol, (ALICE, 1001), (world, 80)),
            whole(protocol, (ALICE, 1002), (far_world, 80)),
            whole(protocol, (ALICE, 8080), (world, 5000)),
        ];
        workload.extend(sent.iter().map(|packet| from_alice(&packet.packet())));
        let member = whole(protocol, (FAR, 8080), (ALICE, 1000));
        fabric.push(vxlan(PEER, ALICE_LABEL, &member.packet()));
        fabric.push(vxlan(PEER, 106, &whole(protocol, (world, 80), (public, 1001)).packet()));
        fabric.push(vxlan(PEER, 106, &whole(protocol, (world, 9), (public, 80)).packet()));
        fabric.push(node(&whole(protocol, (world, 5000), (NODE, 80))));
        fabric.push(node(&whole(protocol, (world, 5000), (PEER_2, 80))));
        fabric.push(node(&whole(protocol, (far_world, 80), (NODE, 56_000))));
    }
    let quoted = whole(17, (ALICE, 1000), (FAR, 8080)).packet();
    fabric.push(vxlan(PEER, ALICE_LABEL, &ip4(FAR, ALICE).with(1, &icmp(3, 3, 0, &quoted))));
    let ping = whole(1, (ALICE, 77), (world, 77)).kind(8);
    workload.push(from_alice(&ping.packet()));
    (workload, fabric)
}

pub fn flatten(policy: &Policy) -> Addition {
    let mut book = skein_policy::RuleBook::default();
    skein_policy::Program::new(policy, skein_policy::Family::V4, None, &mut book).everyone()
}

/// One layer of security groups that drops by default.
pub fn only(egress: Vec<Rule>, ingress: Vec<Rule>) -> Policy {
    let name = "security-group".into();
    let layer = Layer { name, egress, ingress, default_pass: false };
    Policy { layers: vec![layer], ..Policy::default() }
}

pub fn pass(protocol: u8, port: u16) -> Rule {
    Rule {
        id: uuid::Uuid::from_u128(u128::from(port) + 1),
        action: RuleAction::Pass,
        protocol: Some(protocol),
        destination_ports: vec![port..=port],
        ..Rule::default()
    }
}

pub fn dropped(reason: DropReason) -> Outcome {
    Outcome::Dropped(reason)
}

pub const EGRESS: Direction = Direction::Egress;

// ------------------------------------------------------------------ packets

pub fn ethernet(source: [u8; 6], destination: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
}

/// From Alice to her gateway.
pub fn from_alice(packet: &[u8]) -> Vec<u8> {
    let kind = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    ethernet(ALICE_MAC, GATEWAY_MAC, kind, packet)
}

pub fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[derive(Clone, Copy)]
pub struct Ip4 {
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub ttl: u8,
    pub id: u16,
    /// Flags and offset word.
    pub fragment: u16,
}

pub fn ip4(source: Ipv4Addr, destination: Ipv4Addr) -> Ip4 {
    Ip4 { source, destination, ttl: 64, id: 1, fragment: 0 }
}

impl Ip4 {
    pub fn with(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = (20 + payload.len()) as u16;
        let mut header = vec![0x45, 0];
        header.extend(length.to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(payload);
        header
    }
}

pub fn ip6(source: Ipv6Addr, destination: Ipv6Addr, hops: u8, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload.len() as u16).to_be_bytes());
    header.extend([next, hops]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header.extend(payload);
    header
}

pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let length = (8 + payload.len()) as u16;
    let mut header = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    header.extend(payload);
    header
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;
pub const RST: u8 = 4;

pub fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = [source, destination].map(u16::to_be_bytes).concat();
    header.extend([0; 8]);
    header.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

pub fn icmp(kind: u8, code: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(payload);
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

pub fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, rest: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(rest);
    let sum = checksum6(source, destination, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

pub fn checksum6(source: Ipv6Addr, destination: Ipv6Addr, message: &[u8]) -> u16 {
    let length = (message.len() as u32).to_be_bytes();
    checksum(&[&source.octets(), &destination.octets(), &length, &[0, 0, 0, 58], message])
}

/// A tunnel packet from a peer to this node.
pub fn vxlan(from: Ipv4Addr, label: u32, inner: &[u8]) -> Vec<u8> {
    let kind = if inner[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let frame = ethernet([9; 6], [8; 6], kind, inner);
    let header = [0x0800_0000_u32.to_be_bytes(), (label << 8).to_be_bytes()].concat();
    let outer = ip4(from, NODE).with(17, &udp(50_000, 4789, &[header, frame].concat()));
    ethernet([1; 6].map(|b| b & 0xfe), [2; 6], 0x0800, &outer)
}

pub fn mpls(label: u32) -> [u8; 4] {
    (label << 12 | 1 << 8 | 64).to_be_bytes()
}

pub fn mpls_over_udp(from: Ipv4Addr, label: u32, port: u16, inner: &[u8]) -> Vec<u8> {
    let payload = [&mpls(label)[..], inner].concat();
    let outer = ip4(from, NODE).with(17, &udp(50_000, port, &payload));
    ethernet([4; 6], [2; 6], 0x0800, &outer)
}

pub fn mpls_over_gre(from: Ipv4Addr, label: u32, inner: &[u8]) -> Vec<u8> {
    let payload = [&[0, 0, 0x88, 0x47][..], &mpls(label), inner].concat();
    ethernet([4; 6], [2; 6], 0x0800, &ip4(from, NODE).with(47, &payload))
}

pub fn address4(frame: &[u8], at: usize) -> IpAddr {
    IpAddr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
}

/// One good packet of every kind: from the workload, and from the fabric.
pub fn seeds() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let workload = vec![
        from_alice(&ip4(ALICE, FAR).with(6, &tcp(1000, 80, SYN))),
        from_alice(&ip4(ALICE, BOB).with(17, &udp(1, 2, &[7; 100]))),
        from_alice(&Ip4 { fragment: 0x2000, ..ip4(ALICE, FAR) }.with(17, &udp(1, 2, &[7; 16]))),
        from_alice(
            &ip4(ALICE, FAR).with(1, &icmp(3, 4, 0, &ip4(FAR, ALICE).with(17, &udp(1, 2, b"x")))),
        ),
        from_alice(&ip4(ALICE, GATEWAY).with(1, &icmp(8, 0, 1, b"ping"))),
        from_alice(&ip6(ALICE6, FAR6, 64, 60, &[17, 0, 1, 4, 0, 0, 0, 0, 0, 1, 0, 2, 0, 8, 0, 0])),
        from_alice(&ip6(ALICE6, BOB6, 64, 44, &[17, 0, 0, 1, 0, 0, 0, 9, 0, 1, 0, 2, 0, 8, 0, 0])),
        from_alice(&ip6(ALICE6, GATEWAY6, 255, 58, &icmp6(ALICE6, GATEWAY6, 135, &[0; 28]))),
        ethernet(
            ALICE_MAC,
            [255; 6],
            0x0806,
            &[
                0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 10, 10, 1, 0, 2, 0, 0, 0, 0, 0, 0, 10, 1, 0,
                1,
            ],
        ),
    ];
    let inner4 = ip4(FAR, ALICE).with(6, &tcp(80, 1000, SYN));
    let inner6 = ip6(FAR6, ALICE6, 64, 17, &udp(1, 2, b"data"));
    let fabric = vec![
        vxlan(PEER, ALICE_LABEL, &inner4),
        vxlan(PEER, ALICE_LABEL, &inner6),
        mpls_over_udp(PEER, ALICE_LABEL, 6635, &inner6),
        mpls_over_gre(PEER, ALICE_LABEL, &ip4(FAR_GRE, ALICE).with(17, &udp(1, 2, b""))),
        vxlan(PEER, ALICE_LABEL, &ip4(FAR, ALICE).with(1, &icmp(11, 0, 0, &inner4))),
    ];
    (workload, fabric)
}
