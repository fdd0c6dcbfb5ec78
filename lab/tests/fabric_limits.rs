//! Greed, malice, want and solitude: a workload that opens flows without end, one that forges frames, a node whose
//! tables are full, and one whose controller is gone. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step is a failed test"
)]

mod support;

use serde_json::{Value, json};
use skein_lab::{Transfer, Workload, require};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;
use support::frames::{Ear, GATEWAY, ethernet, mac, send, udp4, udp6};
use support::traffic::{Echo, udp_echoes};
use support::{Bed, SILENCE, soon};

fn reaches(from: &Workload, to: &Workload) -> bool {
    [to.ipv4(), to.ipv6()].iter().all(|a| udp_echoes(&from.pod, a, 53, 40, SILENCE))
}

#[test]
fn a_workload_that_opens_flows_without_end_meets_its_own_quota() {
    const QUOTA: u64 = 300;
    const OPENED: u16 = 3000;
    let bed = Bed::start("tquota");
    bed.network("front", 1);
    // The quota is there before the port: one that is lowered refuses new flows and ends none.
    bed.network("greed", 2);
    let network = bed.uuid("virtual-network", &["default-domain", "shop", "greed"]);
    bed.put(
        "virtual-network",
        &network,
        &json!({"virtual_network_properties": {"max_flows": QUOTA}}),
    );
    bed.run("create policy all --rule 'pass any between front and greed'");
    bed.run("attach network front policy all");
    bed.run("attach network greed policy all");
    let greedy = bed.attach(0, "greedy", "greed");
    let modest = bed.attach(0, "modest", "front");
    let target = bed.attach(1, "target", "front");
    let service = Echo::start(&target.pod, 53);
    for from in [&greedy, &modest] {
        soon("the service", || reaches(from, &target));
    }
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let socket = greedy.pod.udp(any).unwrap();
    let open = || {
        for port in 20_000..20_000 + OPENED {
            // A full queue loses a packet here and there; the next round opens what is missing.
            let _ = socket.send_to(b"hello", (target.ipv4(), port));
        }
    };
    soon("the quota to refuse", || {
        open();
        bed.dropped(0, &greedy, "flow_quota") > 0
    });
    open();

    let port = bed.port(0, &greedy);
    let entry = bed.interface(0, &greedy);
    let flows = entry["counters"]["flows"].as_u64().unwrap();
    assert!(flows <= QUOTA, "{flows} flows");
    assert!(flows > QUOTA / 2, "{flows} flows: the quota is not used");
    let node_wide = bed.look(0, "drops");
    let counted = node_wide.iter().find(|one| one["reason"] == "flow_quota");
    assert!(counted.is_some_and(|one| one["packets"].as_u64() > Some(0)), "{node_wide:?}");
    soon("the event", || {
        let answer = bed.fabric.node(0).host().http(8085, "GET", "/v1/events", "").unwrap();
        let events: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
        events.iter().any(|one| one["reason"] == "flow_quota" && one["interface"] == json!(port))
    });

    // Nobody else is harmed: not the neighbour, not the target, not the target's node.
    for _ in 0..20 {
        open();
        assert!(reaches(&modest, &target), "the neighbour's new connections suffer");
    }
    assert!(target.pod.pings(modest.ipv4(), 5).unwrap());
    assert_eq!(bed.dropped(0, &modest, "flow_quota"), 0);

    // With a larger quota of the port's own it goes on: nothing has to be restarted.
    bed.put(
        "virtual-machine-interface",
        &port,
        &json!({"virtual_machine_interface_properties": {"max_flows": 10_000}}),
    );
    soon("the greedy one's own new connections", || reaches(&greedy, &target));
    drop(service);
}

#[test]
fn a_greedy_sender_leaves_room_for_others_in_its_receivers_quota() {
    const QUOTA: u64 = 400;
    const OPENED: u16 = 3000;
    let bed = Bed::start("tshare");
    bed.network("front", 1);
    bed.network("narrow", 2);
    let network = bed.uuid("virtual-network", &["default-domain", "shop", "narrow"]);
    let quota = json!({"virtual_network_properties": {"max_flows": QUOTA}});
    bed.put("virtual-network", &network, &quota);
    bed.run("create policy all --rule 'pass any between front and narrow'");
    bed.run("attach network front policy all");
    bed.run("attach network narrow policy all");
    let receiver = bed.attach(1, "receiver", "narrow");
    let far = bed.attach(0, "far", "front");
    let near = bed.attach(1, "near", "front");
    let modest = bed.attach(0, "modest", "front");
    let service = Echo::start(&receiver.pod, 53);
    let answers = Echo::start(&modest.pod, 53);
    for from in [&far, &near, &modest] {
        soon("the service", || reaches(from, &receiver));
    }
    // One greedy sender on another node and one on the receiver's own.
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let sockets = [&far, &near].map(|sender| sender.pod.udp(any).unwrap());
    let flood = || {
        for port in 20_000..20_000 + OPENED {
            for socket in &sockets {
                let _ = socket.send_to(b"hello", (receiver.ipv4(), port));
            }
        }
    };
    soon("the share to refuse", || {
        flood();
        bed.dropped(1, &receiver, "remote_share") > 0
    });
    for _ in 0..20 {
        flood();
        assert!(reaches(&modest, &receiver), "another sender's new connections suffer");
        assert!(reaches(&receiver, &modest), "the receiver's own new connections suffer");
    }
    assert_eq!(bed.dropped(1, &receiver, "flow_quota"), 0);
    let counters = &bed.interface(1, &receiver)["counters"];
    assert_eq!(counters["flow_quota"], json!(QUOTA));
    let flows = counters["flows"].as_u64().unwrap();
    assert!((QUOTA / 2..QUOTA).contains(&flows), "{flows} flows");
    let shown = bed.fabric.node(1).skein("vrouter interfaces").unwrap();
    assert!(shown.stdout.contains(&format!("/{QUOTA}")), "{}", shown.stdout);
    let port = bed.port(1, &receiver);
    soon("the event", || {
        let answer = bed.fabric.node(1).host().http(8085, "GET", "/v1/events", "").unwrap();
        let events: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
        events.iter().any(|one| one["reason"] == "remote_share" && one["interface"] == json!(port))
    });
    drop((service, answers));
}

/// In every hostile frame, and in nothing else.
const HOSTILE: &[u8] = b"skein-hostile-frame";
/// In frames that are as they should be: they prove that the ears hear.
const HARMLESS: &[u8] = b"skein-harmless-frame";

#[test]
fn hostile_frames_arrive_nowhere() {
    let bed = Bed::start("thost");
    bed.network("front", 1);
    bed.network("back", 2);
    let evil = bed.attach(0, "evil", "front");
    let victims = [
        bed.attach(0, "near", "front"),
        bed.attach(1, "far", "front"),
        bed.attach(0, "nearb", "back"),
        bed.attach(1, "farb", "back"),
    ];
    let [near, far, near_back, far_back] = &victims;
    for to in [near, far] {
        soon("a route", || evil.pod.pings(to.ipv4(), 1).unwrap());
    }
    // Somebody listens: else the victims' answers, port unreachable, would quote what they got.
    let open = |victim: &Workload| {
        victim.pod.udp(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 9999)).unwrap()
    };
    let _open: Vec<_> = victims.iter().map(open).collect();
    let ears: Vec<Ear> = victims.iter().map(|victim| Ear::of_pod(&victim.pod)).collect();
    let hosts = [0, 1].map(|node| bed.fabric.node(node).host().clone());
    let wires: Vec<Ear> = hosts.iter().map(Ear::of_uplink).collect();

    let entry = bed.interface(0, &evil);
    let own_mac = mac(entry["mac"].as_str().unwrap());
    let v4 = |workload: &Workload| -> Ipv4Addr { workload.ipv4().parse().unwrap() };
    let v6 = |workload: &Workload| -> Ipv6Addr { workload.ipv6().parse().unwrap() };
    let own = v4(&evil);
    let ip = |packet: &[u8]| ethernet(GATEWAY, own_mac, 0x0800, packet);
    for to in [near, far] {
        let honest = udp6(v6(&evil), v6(to), (1000, 9999), HARMLESS);
        send(
            &evil.pod,
            &[
                ip(&udp4(own, v4(to), (1000, 9999), HARMLESS)),
                ethernet(GATEWAY, own_mac, 0x86dd, &honest),
            ],
        );
    }
    soon("the harmless ones", || {
        ears[..2].iter().all(|ear| ear.heard(HARMLESS) == 2) && wires[1].heard(HARMLESS) == 2
    });

    let mut frames = Vec::new();
    for to in &victims {
        let to_back = v4(to).octets()[1] == 2;
        // Addresses that are not its own: a neighbour's, one of the other network, the gateway's,
        // a node's, nobody's.
        for source in
            [v4(near), v4(near_back), [10, 1, 0, 1].into(), hosts[1].ipv4(), [8, 8, 8, 8].into()]
        {
            frames.push(ip(&udp4(source, v4(to), (1000, 9999), HOSTILE)));
        }
        // A MAC address that is not its own, and frames past the gateway.
        let honest = udp4(own, v4(to), (1000, 9999), HOSTILE);
        frames.push(ethernet(GATEWAY, [2, 9, 9, 9, 9, 9], 0x0800, &honest));
        let node = usize::from(std::ptr::eq(to, far) || std::ptr::eq(to, far_back));
        let its_mac = mac(bed.interface(node, to)["mac"].as_str().unwrap());
        for destination in [its_mac, [0xff; 6], [0x01, 0, 0x5e, 0, 0, 1]] {
            frames.push(ethernet(destination, own_mac, 0x0800, &honest));
        }
        for source in [v6(near), v6(near_back), hosts[1].ipv6(), Ipv6Addr::LOCALHOST] {
            let forged = udp6(source, v6(to), (1000, 9999), HOSTILE);
            frames.push(ethernet(GATEWAY, own_mac, 0x86dd, &forged));
        }
        // The other network, plainly and in tags and tunnels of its own making.
        if to_back {
            frames.push(ip(&honest));
        }
        let tagged = [&[0, 7, 8, 0][..], &honest].concat();
        frames.push(ethernet(GATEWAY, own_mac, 0x8100, &tagged));
        frames.push(ethernet(GATEWAY, own_mac, 0x88a8, &tagged));
        frames.push(ethernet(GATEWAY, own_mac, 0x8847, &[&[0, 1, 1, 64][..], &honest].concat()));
        frames.push(ethernet(GATEWAY, own_mac, 0x88cc, HOSTILE));
    }
    // Encapsulated by the workload towards the tunnel end points, with labels of any port.
    let labels: Vec<u32> = [0, 1]
        .iter()
        .flat_map(|node| bed.look(*node, "interfaces"))
        .filter_map(|entry| u32::try_from(entry["label"].as_u64()?).ok())
        .collect();
    assert_eq!(labels.len(), 5);
    for host in &hosts {
        for to in &victims {
            for label in &labels {
                let inner = udp4(v4(near), v4(to), (1000, 9999), HOSTILE);
                let vni = (label << 8).to_be_bytes();
                let in_frame = ethernet(GATEWAY, GATEWAY, 0x0800, &inner);
                let vxlan = [&[8, 0, 0, 0][..], &vni, &in_frame].concat();
                let mpls = [&((label << 12) | 0x1ff).to_be_bytes()[..], &inner].concat();
                for source in [own, hosts[1].ipv4()] {
                    frames.push(ip(&udp4(source, host.ipv4(), (50_000, 4789), &vxlan)));
                    frames.push(ip(&udp4(source, host.ipv4(), (50_000, 6635), &mpls)));
                }
            }
        }
    }
    // Cut short at every length, and with every byte of the headers wrong in turn. What a changed
    // byte leaves whole - type of service, identification, ports - is no attack.
    let whole = ip(&udp4(own, v4(far_back), (1000, 9999), HOSTILE));
    frames.extend((0..whole.len()).map(|length| whole[..length].to_vec()));
    for at in 0..42 {
        for flip in [0x01, 0x0f, 0x80, 0xff] {
            let mut frame = whole.clone();
            frame[at] ^= flip;
            frames.push(frame);
        }
    }
    send(&evil.pod, &frames);
    // Random ones, with an Ethernet header that gets them past the first look.
    let mut state = 0x5eed_u64;
    let noise: Vec<Vec<u8>> = (0..2000)
        .map(|number| {
            let mut bytes = Vec::new();
            while bytes.len() < 20 + number % 120 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                bytes.push((state >> 40) as u8);
            }
            bytes.extend(HOSTILE);
            ethernet(GATEWAY, own_mac, if number % 2 == 0 { 0x0800 } else { 0x86dd }, &bytes)
        })
        .collect();
    send(&evil.pod, &noise);

    // What is sent after them has overtaken none: when it is there, they have been judged.
    for to in [near, far] {
        send(&evil.pod, &[ip(&udp4(own, v4(to), (1001, 9999), HARMLESS))]);
    }
    soon("the last harmless ones", || ears[..2].iter().all(|ear| ear.heard(HARMLESS) == 3));
    for (ear, victim) in ears.iter().zip(&victims) {
        ear.caught_up();
        assert_eq!(ear.heard(HOSTILE), 0, "{} got a hostile frame", victim.pod.name());
    }
    for (wire, host) in wires.iter().zip(&hosts) {
        wire.caught_up();
        assert_eq!(wire.heard(HOSTILE), 0, "{} saw a hostile frame on its uplink", host.name());
    }
    for reason in ["source_address", "source_mac", "destination_mac", "truncated", "no_route"] {
        assert!(bed.dropped(0, &evil, reason) > 0, "{reason} is not counted");
    }
    assert!(evil.pod.pings(far.ipv4(), 3).unwrap(), "the vRouter goes on for the sender, too");
}

#[test]
fn a_node_without_a_controller_starts_and_forwards() {
    let mut bed = Bed::start("thead");
    bed.network("front", 1);
    bed.network("back", 2);
    bed.run("create policy dns --rule 'pass udp from front to back port 53'");
    bed.run("attach network front policy dns");
    bed.run("attach network back policy dns");
    let web = bed.attach(0, "web", "front");
    let near = bed.attach(0, "near", "front");
    let far = bed.attach(1, "far", "front");
    let back = bed.attach(1, "back", "back");
    let services = [&near, &far, &back].map(|workload| Echo::start(&workload.pod, 53));
    for to in [&near, &far, &back] {
        soon("connections", || reaches(&web, to));
    }
    // The agent saves a burst of changes once, a moment later.
    let saved = bed.fabric.node(0).host().directory().join("agent/intent.pb");
    let age = || saved.metadata().and_then(|m| m.modified()).ok()?.elapsed().ok();
    soon("the saved intent to be the last", || age() > Some(Duration::from_secs(1)));

    let transfer = Transfer::start(&web.pod, &far.pod, far.ipv4(), 7000).unwrap();
    bed.fabric.kill_controller().unwrap();
    bed.fabric.node_mut(0).kill_agent().unwrap();
    for to in [&near, &far, &back] {
        assert!(reaches(&web, to), "new flows with neither agent nor controller");
    }
    bed.fabric.node_mut(0).start_agent_alone().unwrap();
    for to in [&near, &far, &back] {
        assert!(reaches(&web, to), "new flows without a controller");
    }
    assert!(!back.pod.connects(web.ipv4(), 53, SILENCE).unwrap(), "policy stays in force");
    let report = transfer.finish().unwrap();
    assert!(report.intact && report.longest_pause() < Duration::from_secs(1), "{report:?}");
    let all = bed.look(0, "interfaces");
    assert!(all.iter().all(|one| one["active"] == true) && all.len() == 2, "{all:?}");

    // A workload can be removed, and its place stays empty: packets to it are refused, not lost
    // in somebody else's hands.
    let address = near.ipv4().to_owned();
    near.detach().unwrap();
    assert_eq!(bed.look(0, "interfaces").len(), 1);
    assert!(!web.pod.pings(&address, 1).unwrap());
    // A new one cannot be made, and the refusal says why.
    let refused = bed.fabric.node(0).attach("late", "default-domain:shop:front").unwrap_err();
    assert!(refused.to_string().contains("controller"), "{refused}");

    bed.fabric.restart_controller().unwrap();
    soon("the release to reach the controller", || {
        let (status, answer) = bed.api("GET", "/virtual-machine-interfaces", &Value::Null);
        // Of workloads; the two nodes' own are there, too.
        let list = answer["virtual-machine-interfaces"].as_array();
        status == 200 && list.map(Vec::len) == Some(3 + 2)
    });
    soon("new workloads", || {
        let all = bed.fabric.node(0).skein("vrouter interfaces").unwrap();
        all.ok()
            && bed.fabric.node(0).host().http(8085, "GET", "/readyz", "").unwrap().status == 200
    });
    let fresh = bed.attach(0, "fresh", "front");
    soon("the new workload's connections", || reaches(&fresh, &far));
    drop(services);
}

/// How many entries a pinned table of a node has.
fn entries(bed: &Bed, node: usize, table: &str) -> usize {
    let path = bed.fabric.node(node).host().bpf_directory().join("skein").join(table);
    let mut command = Command::new("bpftool");
    let ran = command.args(["-j", "map", "dump", "pinned"]).arg(&path).output().unwrap();
    let dumped: Value = serde_json::from_slice(&ran.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&ran.stderr)));
    dumped.as_array().map_or(0, Vec::len)
}

#[test]
fn a_full_table_is_told_of_and_harms_nobody_else_and_heals() {
    require("bpftool", "bpftool").unwrap();
    let mut bed = Bed::start("tfull");
    bed.network("front", 1);
    bed.network("back", 2);
    let web = bed.attach(0, "web", "front");
    let database = bed.attach(0, "db", "back");
    let far = bed.attach(1, "far", "front");
    let back = bed.attach(1, "back", "back");
    let services = [53, 80].map(|port| [&far, &back, &database].map(|w| Echo::start(&w.pod, port)));
    soon("connections", || reaches(&web, &far) && reaches(&database, &back));

    // Room for the routes there are, and two more.
    let host = bed.fabric.node(0).host().clone();
    let settings = host.directory().join("agent.toml");
    let size = entries(&bed, 0, "host_routes") + 2;
    let mut text = std::fs::read_to_string(&settings).unwrap();
    text += &format!("[tables]\nhost_routes = {size}\n");
    std::fs::write(&settings, text).unwrap();
    bed.fabric.node_mut(0).kill_agent().unwrap();
    std::fs::remove_dir_all(host.bpf_directory().join("skein")).unwrap();
    bed.fabric.node_mut(0).restart_agent().unwrap();
    soon("connections", || reaches(&web, &far) && reaches(&database, &back));
    let status = || bed.fabric.skein("status").unwrap();
    let well = || status().code == Some(0);
    soon("a status without problems", well);

    let metric = |name: &str| {
        let page = host.http(8085, "GET", "/metrics", "").unwrap().body;
        page.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse::<u64>().ok())
    };
    const CHANGES: &str = "skein_agent_table_full_changes{table=\"host_routes\"}";
    assert_eq!((metric(CHANGES), metric("skein_agent_problems")), (None, Some(0)));
    let mut more: Vec<Workload> =
        (0..4).map(|number| bed.attach(1, &format!("more{number}"), "front")).collect();
    soon("six routes to wait", || metric(CHANGES) == Some(6));
    assert_eq!(metric("skein_agent_problems"), Some(1));
    assert_eq!(entries(&bed, 0, "host_routes"), size);
    // Whoever looks is told the table, and whose port lacks something.
    let port = bed.interface(0, &web)["name"].as_str().unwrap().to_owned();
    soon("the problem in the status", || status().code == Some(1));
    let told = status().stdout;
    assert!(told.contains("host_routes") && told.contains(&port), "{port}: {told}");
    let other = bed.interface(0, &database)["name"].as_str().unwrap().to_owned();
    assert!(!told.contains(&other), "{other} lacks nothing: {told}");
    let log = std::fs::read_to_string(host.directory().join("agent.log")).unwrap();
    assert!(log.lines().any(|line| line.contains("WARN") && line.contains("host_routes")), "{log}");
    assert!(more.iter().any(|to| !web.pod.pings(to.ipv4(), 1).unwrap()), "there is room for all");

    // Others go on: what they have, and what is changed for them.
    assert!(reaches(&web, &far) && reaches(&database, &back));
    assert!(back.pod.connects(database.ipv4(), 80, SILENCE).unwrap());
    bed.run(
        "create security-group names --rule 'egress any' --rule 'ingress udp from any port 53'",
    );
    let group = json!({"security_group_refs": [{"to": ["default-domain", "shop", "names"]}]});
    bed.put("virtual-machine-interface", &bed.port(0, &database), &group);
    soon("the group to close a port", || !back.pod.connects(database.ipv4(), 80, SILENCE).unwrap());
    assert!(reaches(&back, &database), "what the group lets in");

    // With room comes what waited.
    let last = more.pop().unwrap();
    for workload in more {
        workload.detach().unwrap();
    }
    soon("the last one's routes", || {
        [last.ipv4(), last.ipv6()].iter().all(|address| web.pod.pings(address, 1).unwrap())
    });
    soon("nothing to wait", || metric(CHANGES).is_none());
    soon("a status without problems", well);
    let log = std::fs::read_to_string(host.directory().join("agent.log")).unwrap();
    assert!(log.contains("has room again"), "{log}");
    drop(services);
}
