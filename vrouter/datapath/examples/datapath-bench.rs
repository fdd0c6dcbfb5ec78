//! Measures the programs under BPF_PROG_TEST_RUN, one JSON object a line: `{"name", "value", "unit"}`.
//!
//! What is measured: the time the kernel itself takes for one run of a program, mean of many, on one core, without driver, skb
//! allocation and neighbour output.
//!
//! - `flow_setup_*`: the program `bench_workload` writes the frame anew with ports never used before and walks it as
//!   from_workload does: parse, two route lookups (reverse path and destination), policy, quota, insertion into the flow table,
//!   TTL, delivery to a workload on the node. Writing the frame is part of the time. `_local` has policy at the source only
//!   (one new flow a packet), `_local_both_ends` at both (two).
//! - `established_*`: the same walk for ports already known.
//! - `service_*`: the same packets to a service among 1,000 of 10 members each: a member is picked, both entries go in, addresses
//!   and ports are rewritten.
//! - `uplink_host_*`: what the host's own packets pay at the uplink: on a node that does nothing there, on one that lends its
//!   address, and on one with 100 addresses of workloads in the underlay.
//! - `native_established`: a packet from the underlay, without a tunnel, to a workload there.
//! - `*_1000_rules`: a policy of 1,000 rules before the one that matches.
//!
//! Needs root; makes a network namespace and a pin directory of its own and removes them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a measurement prints, and stops when something is wrong"
)]

#[path = "../tests/bed/mod.rs"]
mod bed;

use bed::*;
use skein_datapath::*;

const FLOWS: u32 = 400_000;

fn line(name: &str, value: f64, unit: &str) {
    println!("{}", serde_json::json!({ "name": name, "value": value, "unit": unit }));
}

/// Best of several: other work on the machine only ever makes it slower.
fn nanoseconds(rounds: usize, mut run: impl FnMut() -> Ran, expected: Outcome) -> f64 {
    (0..rounds)
        .map(|_| {
            let ran = run();
            assert_eq!(ran.outcome, expected);
            ran.duration.as_nanos() as f64
        })
        .fold(f64::INFINITY, f64::min)
}

struct Bench {
    bed: Bed,
    frame: Vec<u8>,
}

impl Bench {
    fn new(rules: u16) -> Self {
        let mut bed = Bed::with(|config| {
            config.flow_table_size = 1 << 20;
            config.with_bench = true;
        });
        let mut egress: Vec<_> = (0..rules)
            .map(|n| skein_policy::Rule {
                action: skein_policy::RuleAction::Deny,
                ..pass(6, n * 7 + 1)
            })
            .collect();
        egress.push(skein_policy::Rule { destination_ports: vec![], ..pass(17, 0) });
        bed.set_policy(
            2,
            &only(
                egress,
                vec![skein_policy::Rule {
                    protocol: None,
                    destination_ports: vec![],
                    ..pass(0, 0)
                }],
            ),
        );
        let frame = from_alice(&ip4(ALICE, BOB).with(17, &udp(1, 2, &[0; 22])));
        assert_eq!(frame.len(), 64);
        bed.datapath.set_bench_frame(&frame, 0).expect("bench frame");
        let mut bench = Self { bed, frame };
        bench.secure(false);
        bench
    }

    /// 1,000 services of 10 members each, all of them Bob; the frame goes to one of them.
    fn with_services() -> Self {
        let mut bench = Self::new(0);
        let datapath = &mut bench.bed.datapath;
        datapath.set_next_hop(20, &NextHop::Service { vrf: 2 }).expect("next hop");
        let route = |vrf, prefix: &str, next_hop| {
            let prefix = prefix.parse().expect("prefix");
            RouteChange::Set(Route { vrf, prefix, next_hop, identity: 1002 })
        };
        let routes = [route(VRF, "10.96.0.0/16", 20), route(2, "10.50.0.0/16", 2)];
        datapath.change_routes(&routes).expect("routes");
        for number in 0..1000_u16 {
            let [high, low] = (number / 10).to_be_bytes();
            let members = (1..=10).map(|member| ServiceMember {
                address: [10, 50, (number / 10) as u8, member].into(),
                port: 8000 + number % 10,
                draining: false,
            });
            let service = Service {
                // The measuring program counts the destination port up when source ports are used up.
                at: ServiceKey {
                    vrf: 2,
                    address: [10, 96, high, low].into(),
                    protocol: 17,
                    port: number % 10,
                },
                member_vrf: 2,
                members: members.collect(),
                affinity: None,
                keep_source: false,
                link_local: false,
                open: false,
                sources: vec![],
                by_node: false,
            };
            datapath.set_service(&service).expect("service");
        }
        let service = [10, 96, 0, 50].into();
        bench.frame = from_alice(&ip4(ALICE, service).with(17, &udp(1, 2, &[0; 22])));
        bench
    }

    /// New interface records, so that no flow is left; policy at Bob's end too if asked for.
    fn secure(&mut self, both: bool) {
        for ifindex in [self.bed.alice, self.bed.bob] {
            self.bed.datapath.remove_vif(ifindex).expect("remove");
            let mine = ifindex == self.bed.alice || both;
            let policy = if mine {
                VifPolicy::Enforce { v4: Some(2), v6: Some(2) }
            } else {
                VifPolicy::Disabled
            };
            let vif = Vif { policy, flow_quota: u32::MAX, ..self.bed.vif(ifindex) };
            self.bed.datapath.set_vif(&vif).expect("vif");
        }
    }

    fn new_flows(&mut self, both: bool, entries: u32) -> f64 {
        let delivered = self.bed.delivered(self.bed.bob);
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            self.secure(both);
            self.bed.datapath.set_bench_frame(&self.frame, 0).expect("bench frame");
            let run =
                Run { frame: &self.frame, ifindex: self.bed.alice, gso_size: 0, repeat: FLOWS };
            let ns = nanoseconds(
                1,
                || self.bed.datapath.run(Hook::Bench, &run).expect("run"),
                delivered,
            );
            let flows = self.bed.datapath.vif_counters(ALICE_ID).expect("counters").flows;
            assert_eq!(flows, FLOWS * entries, "every packet opened a flow");
            best = best.min(ns);
        }
        best
    }

    fn established(&mut self) -> f64 {
        self.secure(false);
        self.bed.datapath.set_bench_frame(&self.frame, 64).expect("bench frame");
        let run =
            Run { frame: &self.frame, ifindex: self.bed.alice, gso_size: 0, repeat: 1_000_000 };
        let delivered = self.bed.delivered(self.bed.bob);
        nanoseconds(5, || self.bed.datapath.run(Hook::Bench, &run).expect("run"), delivered)
    }
}

/// What comes by the uplink without a tunnel. The packet is left as it is, or its TTL is spent from the same copy each time.
fn uplink() {
    let mut bed = Bed::with(|config| config.flow_table_size = 1 << 16);
    let outside = std::net::Ipv4Addr::new(198, 51, 100, 1);
    let to_host = ip4(outside, NODE).with(6, &tcp(40_000, 22, ACK));
    let to_host = ethernet([4; 6], [2; 6], 0x0800, &to_host);
    let host = |bed: &Bed| {
        let run = Run { frame: &to_host, ifindex: bed.uplink, gso_size: 0, repeat: 1_000_000 };
        nanoseconds(5, || bed.datapath.run(Hook::Fabric, &run).expect("run"), Outcome::Host)
    };
    line("uplink_host_plain", host(&bed), "ns/packet");
    let uplink = bed.uplink;
    let lent = NextHop::Outside { uplink, gateway: None, mtu: MTU };
    bed.datapath.set_next_hop(30, &lent).expect("next hop");
    let node = NodeAddress { address4: Some(NODE), next_hop4: 30, ..NodeAddress::default() };
    bed.datapath.set_node_address(&node).expect("node address");
    line("uplink_host_lent", host(&bed), "ns/packet");
    let native = NextHop::Native { uplink, node: None, gateway: None, mtu: MTU };
    bed.datapath.set_next_hop(40, &native).expect("next hop");
    let route =
        Route { vrf: VRF, prefix: "0.0.0.0/0".parse().expect("prefix"), next_hop: 40, identity: 1 };
    bed.datapath.change_routes(&[RouteChange::Set(route)]).expect("routes");
    bed.datapath.set_native(ALICE.into(), Native::Workload(1)).expect("native");
    for last in 100..199 {
        let address = std::net::Ipv4Addr::new(10, 1, 0, last);
        bed.datapath.set_native(address.into(), Native::Services).expect("native");
    }
    line("uplink_host_natives", host(&bed), "ns/packet");
    let to_alice = ip4(outside, ALICE).with(17, &udp(40_000, 53, &[0; 22]));
    let frame = ethernet([4; 6], [2; 6], 0x0800, &to_alice);
    // Each run spends a hop and the packet stays: as many as its TTL, many times.
    let run = Run { frame: &frame, ifindex: bed.uplink, gso_size: 0, repeat: 60 };
    let delivered = bed.delivered(bed.alice);
    let best = nanoseconds(2000, || bed.datapath.run(Hook::Fabric, &run).expect("run"), delivered);
    line("native_established", best, "ns/packet");
}

fn main() {
    for (suffix, rules) in [("", 0), ("_1000_rules", 1000)] {
        let mut bench = Bench::new(rules);
        let one = bench.new_flows(false, 1);
        line(&format!("flow_setup_local{suffix}"), 1e9 / one, "flows/s/core");
        line(&format!("flow_setup_local_ns{suffix}"), one, "ns");
        let two = bench.new_flows(true, 1);
        line(&format!("flow_setup_local_both_ends{suffix}"), 1e9 / two, "connections/s/core");
        line(&format!("established{suffix}"), bench.established(), "ns/packet");
    }
    let mut bench = Bench::with_services();
    let one = bench.new_flows(false, 2);
    line("service_setup", 1e9 / one, "connections/s/core");
    line("service_setup_ns", one, "ns");
    line("service_established", bench.established(), "ns/packet");
    uplink();
}
