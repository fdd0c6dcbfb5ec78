//! What a fabric lets through and what it does not, from workload to workload: networks, policies,
//! security groups, route targets, encapsulations, and the signals the gateway gives.
//!
//! Every test builds its own fabric - controller, two nodes, CNI plugin - and acts on it as a user would:
//! through the CLI and the configuration API. They need root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step is a failed test"
)]

mod support;

use serde_json::{Value, json};
use skein_lab::{Transfer, Workload};
use std::process::Command;
use std::time::Duration;
use support::frames::Ear;
use support::traffic::{Carries, Connection, Echo, Pings, ping, udp_echoes};
use support::{Bed, PATIENCE, SILENCE, soon};

fn connects(from: &Workload, address: &str, port: u16) -> bool {
    from.pod.connects(address, port, SILENCE).unwrap()
}

/// The workload's addresses of both families.
fn both(to: &Workload) -> [&str; 2] {
    [to.ipv4(), to.ipv6()]
}

#[test]
fn networks_are_apart_and_a_policy_opens_one_port_one_way() {
    let bed = Bed::start("tpol");
    bed.network("front", 1);
    bed.network("back", 2);
    let web = bed.attach(0, "web", "front");
    let near = bed.attach(0, "near", "front");
    let far = bed.attach(1, "far", "front");
    let database = bed.attach(1, "db", "back");
    let beside = bed.attach(0, "beside", "back");
    let services = [80, 81]
        .map(|port| [&web, &near, &far, &database, &beside].map(|w| Echo::start(&w.pod, port)));

    for to in [&near, &far] {
        for address in both(to) {
            assert!(web.pod.pings(address, 10).unwrap(), "{address}");
            assert!(connects(&web, address, 80), "{address}");
            assert!(udp_echoes(&web.pod, address, 80, 500, PATIENCE), "{address}");
        }
    }
    for to in [&database, &beside] {
        for address in both(to) {
            assert!(!connects(&web, address, 80), "{address}: networks are not apart");
            assert!(!udp_echoes(&web.pod, address, 80, 10, SILENCE), "{address}");
            assert!(!web.pod.pings(address, 1).unwrap(), "{address}");
        }
    }

    bed.run("create policy web --rule 'pass tcp from front to back port 80'");
    bed.run("attach network front policy web");
    bed.run("attach network back policy web");
    let mut open = Vec::new();
    for to in [&database, &beside] {
        for address in both(to) {
            soon(&format!("{address} port 80"), || connects(&web, address, 80));
            assert!(!connects(&web, address, 81), "{address}: the wrong port is open");
            assert!(!udp_echoes(&web.pod, address, 80, 10, SILENCE), "{address}: UDP is open");
            assert!(!web.pod.pings(address, 1).unwrap(), "{address}: ICMP is open");
            open.push(Connection::open(&web.pod, address, 80).unwrap());
        }
        for address in both(&web) {
            assert!(!connects(to, address, 80), "{address}: the wrong direction is open");
        }
    }
    // A node says beforehand what it would do with a packet, and why.
    let traced = |to: &Workload, address: &str, port: u16| {
        let own = bed.port(0, &web);
        let line = format!("vrouter trace --interface {own} --dst {address} --dport {port}");
        let node = bed.fabric.node(0);
        let text = node.skein(&line).unwrap().success().unwrap();
        let json = node.skein(&format!("{line} -o json")).unwrap().success().unwrap();
        let answer: Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"));
        let dropped = answer["kernel"]["dropped"].as_str().map(str::to_owned);
        assert_eq!(answer["passes"], json!(dropped.is_none()), "{}: {answer}", to.pod.name());
        (dropped, text)
    };
    for to in [&database, &beside] {
        for address in both(to) {
            assert_eq!(traced(to, address, 80).0, None, "{address} port 80");
            let (dropped, text) = traced(to, address, 81);
            assert_eq!(dropped.as_deref(), Some("policy_deny"), "{address} port 81");
            assert!(text.contains("it is dropped") && text.contains("egress policy"), "{text}");
        }
    }
    let mut inside = Connection::open(&web.pod, far.ipv4(), 80).unwrap();
    for connection in open.iter_mut().chain([&mut inside]) {
        assert_eq!(connection.carries(PATIENCE), Carries::Yes);
    }

    bed.run("detach network front policy web");
    bed.run("detach network back policy web");
    for to in [&database, &beside] {
        for address in both(to) {
            soon(&format!("{address} to be closed"), || !connects(&web, address, 80));
        }
    }
    for connection in &mut open {
        assert_ne!(connection.carries(SILENCE), Carries::Yes, "{connection:?} lives on");
    }
    assert_eq!(inside.carries(PATIENCE), Carries::Yes, "it had nothing to do with the policy");
    drop(services);
}

#[test]
fn a_rule_that_denies_wins_over_later_ones_that_pass() {
    let bed = Bed::start("tdeny");
    bed.network("front", 1);
    bed.network("back", 2);
    let web = bed.attach(0, "web", "front");
    let [near, far] = [bed.attach(0, "near", "back"), bed.attach(1, "far", "back")];
    let services = [80, 81].map(|port| [&near, &far].map(|to| Echo::start(&to.pod, port)));
    bed.run(
        "create policy most --rule 'deny tcp from front to back port 81' \
         --rule 'pass any from front to back'",
    );
    bed.run("attach network front policy most");
    bed.run("attach network back policy most");
    let mut open = Vec::new();
    for to in [&near, &far] {
        for address in both(to) {
            soon(&format!("{address} port 80"), || connects(&web, address, 80));
            assert!(!connects(&web, address, 81), "{address}: what is denied passes");
            assert!(
                udp_echoes(&web.pod, address, 81, 10, PATIENCE),
                "{address}: only TCP is denied"
            );
            assert!(web.pod.pings(address, 10).unwrap(), "{address}");
            open.push(Connection::open(&web.pod, address, 80).unwrap());
        }
    }
    assert!(bed.dropped(0, &web, "policy_deny") > 0);

    // The same rules the other way round: the first one that matches decides.
    bed.run(
        "create policy all --rule 'pass any from front to back' \
         --rule 'deny tcp from front to back port 81'",
    );
    for network in ["front", "back"] {
        bed.run(&format!("attach network {network} policy all"));
        bed.run(&format!("detach network {network} policy most"));
    }
    for to in [&near, &far] {
        for address in both(to) {
            soon(&format!("{address} port 81"), || connects(&web, address, 81));
        }
    }
    for connection in &mut open {
        assert_eq!(connection.carries(PATIENCE), Carries::Yes, "{connection:?}");
    }
    drop(services);
}

/// Sets the groups of a workload's port.
fn join(bed: &Bed, node: usize, workload: &Workload, groups: &[&str]) {
    let references: Vec<Value> =
        groups.iter().map(|name| json!({"to": ["default-domain", "shop", name]})).collect();
    bed.put(
        "virtual-machine-interface",
        &bed.port(node, workload),
        &json!({"security_group_refs": references}),
    );
}

#[test]
fn security_groups_deny_what_no_rule_of_theirs_lets_in() {
    let bed = Bed::start("tsg");
    bed.network("front", 1);
    let server = bed.attach(1, "server", "front");
    let member = bed.attach(0, "member", "front");
    let stranger = bed.attach(0, "stranger", "front");
    let services = [22, 80, 8000, 8005, 8010, 8011].map(|port| Echo::start(&server.pod, port));
    let back = Echo::start(&stranger.pod, 80);
    for address in both(&server) {
        soon(&format!("a route to {address}"), || connects(&stranger, address, 22));
    }
    bed.run("create security-group clients --rule 'egress any'");
    bed.run(
        "create security-group servers --rule 'egress any' \
         --rule 'ingress tcp from clients port 80' \
         --rule 'ingress tcp from any port 8000-8010' \
         --rule 'ingress icmp from clients'",
    );
    join(&bed, 0, &member, &["clients"]);
    join(&bed, 1, &server, &["servers"]);
    for address in both(&server) {
        soon(&format!("{address} to close"), || !connects(&stranger, address, 22));
        soon(&format!("{address} to know the member"), || connects(&member, address, 80));
        assert!(!connects(&member, address, 22), "{address}: no rule has port 22");
        assert!(!connects(&stranger, address, 80), "{address}: it is no member");
        for (port, open) in [(8000, true), (8005, true), (8010, true), (8011, false)] {
            assert_eq!(connects(&stranger, address, port), open, "{address} port {port}");
        }
        assert!(member.pod.pings(address, 3).unwrap(), "{address}: ICMP of a member");
        assert!(!stranger.pod.pings(address, 1).unwrap(), "{address}: ICMP of a stranger");
        assert!(!udp_echoes(&member.pod, address, 80, 10, SILENCE), "{address}: UDP");
    }
    // Answers to what goes out come back in without a rule.
    for address in both(&stranger) {
        assert!(connects(&server, address, 80), "{address}: the server's own connection");
    }
    let mut held = Connection::open(&member.pod, server.ipv4(), 80).unwrap();
    assert_eq!(held.carries(PATIENCE), Carries::Yes);

    // Leaving the group ends what membership allowed; joining it allows it anew.
    join(&bed, 0, &member, &[]);
    soon("the former member to be shut out", || !connects(&member, server.ipv4(), 80));
    assert_ne!(held.carries(SILENCE), Carries::Yes, "a former member's connection lives on");
    join(&bed, 0, &stranger, &["clients"]);
    soon("the new member to be let in", || connects(&stranger, server.ipv4(), 80));

    // Without port security nothing is checked, the sender's address included.
    let port = bed.port(1, &server);
    bed.put(
        "virtual-machine-interface",
        &port,
        &json!({"security_group_refs": [], "port_security_enabled": false}),
    );
    for address in both(&server) {
        soon(&format!("{address} without port security"), || connects(&member, address, 22));
    }
    drop((services, back));
}

/// Encapsulations of a node's ways to other nodes.
fn encapsulations(bed: &Bed, node: usize) -> Vec<String> {
    let all = bed.look(node, "nexthops");
    let used = all.iter().filter_map(|one| one["via"]["encapsulation"].as_str());
    used.map(str::to_owned).collect()
}

#[test]
fn the_encapsulation_is_switched_under_traffic() {
    let bed = Bed::start("tencap");
    bed.network("front", 1);
    let [web, far] = [bed.attach(0, "web", "front"), bed.attach(1, "far", "front")];
    let settings = bed.uuid(
        "global-vrouter-config",
        &["default-global-system-config", "default-global-vrouter-config"],
    );
    let ear = Ear::of_uplink(bed.fabric.node(1).host());
    soon("a route", || web.pod.pings(far.ipv4(), 1).unwrap());
    // What crossed the wire is printed by a process of its own, in its own time.
    soon("VXLAN on the wire", || ear.heard_udp(4789) > 0);
    ear.caught_up();
    assert_eq!(ear.heard_udp(6635), 0, "VXLAN is first by default");
    // The ear prints every frame: a bulk transfer would be measured by its speed.
    drop(ear);

    let transfer = Transfer::start(&web.pod, &far.pod, far.ipv4(), 7000).unwrap();
    let pings = Pings::start(&web.pod, far.ipv6(), "0.01");
    for (order, name) in [
        (["MPLSoUDP", "VXLAN"], "mpls-over-udp"),
        (["VXLAN", "MPLSoUDP"], "vxlan"),
        (["MPLSoUDP", "VXLAN"], "mpls-over-udp"),
    ] {
        bed.put(
            "global-vrouter-config",
            &settings,
            &json!({"encapsulation_priorities": {"encapsulation": order}}),
        );
        for node in [0, 1] {
            soon(&format!("{name} on node {node}"), || {
                let used = encapsulations(&bed, node);
                !used.is_empty() && used.iter().all(|one| one == name)
            });
        }
        let before = transfer.arrived();
        soon("the transfer to go on", || transfer.arrived() > before + (1 << 20));
    }
    let pinged = pings.stop();
    assert!(pinged.answered > 0 && pinged.missing.is_empty(), "{pinged:?}");
    let report = transfer.finish().unwrap();
    assert!(report.intact && report.longest_pause() < Duration::from_secs(1), "{report:?}");

    let ear = Ear::of_uplink(bed.fabric.node(1).host());
    for address in both(&far) {
        assert!(web.pod.pings(address, 3).unwrap(), "{address}");
    }
    soon("MPLSoUDP on the wire", || ear.heard_udp(6635) >= 4);
    ear.caught_up();
    assert_eq!(ear.heard_udp(4789), 0, "VXLAN is still used");
}

/// The gateway a workload was given.
fn gateway(workload: &Workload, family: &str) -> String {
    let mut command = Command::new("ip");
    command.args([family, "-j", "route", "show", "default"]);
    let text = workload.pod.run(&mut command).unwrap().success().unwrap();
    let routes: Value = serde_json::from_str(&text).unwrap();
    routes[0]["gateway"].as_str().unwrap_or_else(|| panic!("no gateway: {text}")).to_owned()
}

#[test]
fn the_gateway_tells_what_does_not_fit_and_what_has_lived_too_long() {
    let bed = Bed::start("tsig");
    bed.network("front", 1);
    let web = bed.attach(0, "web", "front");
    let near = bed.attach(0, "near", "front");
    let far = bed.attach(1, "far", "front");
    let service = Echo::start(&far.pod, 80);
    soon("a route", || web.pod.pings(far.ipv6(), 1).unwrap());

    // Fragments, in order and of any number, of both families.
    for address in both(&far) {
        for bytes in [1400, 2000, 8000, 60000] {
            soon(&format!("{bytes} bytes from {address}"), || {
                udp_echoes(&web.pod, address, 80, bytes, SILENCE)
            });
        }
    }

    let [v4, v6] = ["-4", "-6"].map(|family| gateway(&web, family));

    // A workload that believes in a larger MTU than the tunnel has.
    let device = bed.interface(0, &web)["host_interface"].as_str().unwrap().to_owned();
    bed.fabric.node(0).host().ip(&format!("link set {device} mtu 1500\n")).unwrap();
    web.pod.ip("link set eth0 mtu 1500\n").unwrap();
    let said = ping(&web.pod, &format!("-M do -s 1472 {}", far.ipv4()));
    assert!(said.contains(&format!("From {v4} ")) && said.contains("Frag needed"), "{said}");
    let said = ping(&web.pod, &format!("-M do -s 1452 {}", far.ipv6()));
    assert!(said.contains(&format!("From {v6} ")) && said.contains("Packet too big"), "{said}");
    let mut big = Connection::open(&web.pod, far.ipv4(), 80).unwrap();
    assert_eq!(big.carries(PATIENCE), Carries::Yes);

    // The last hop a packet may take is the gateway, wherever the other end is.
    for to in [&near, &far] {
        let said = ping(&web.pod, &format!("-t 1 {}", to.ipv4()));
        assert!(
            said.contains(&format!("From {v4} ")) && said.contains("Time to live exceeded"),
            "{said}"
        );
        let said = ping(&web.pod, &format!("-t 1 {}", to.ipv6()));
        assert!(said.contains(&format!("From {v6} ")) && said.contains("Hop limit"), "{said}");
    }
    for gateway in [&v4, &v6] {
        assert!(web.pod.pings(gateway, 3).unwrap(), "{gateway} does not answer");
    }
    drop(service);
}

#[test]
fn route_targets_join_networks() {
    let bed = Bed::start("trt");
    for (name, number) in [("front", 1), ("back", 2), ("apart", 3)] {
        bed.network(name, number);
    }
    let web = bed.attach(0, "web", "front");
    let far = bed.attach(1, "far", "back");
    let apart = bed.attach(1, "apart", "apart");
    let services = [&web, &far, &apart].map(|workload| Echo::start(&workload.pod, 80));
    let routes = |node: usize, vrf: &str| -> Vec<String> {
        let all = bed.look(node, "routes");
        let of = |route: &&Value| route["vrf"] == json!(format!("default-domain:shop:{vrf}:{vrf}"));
        all.iter().filter(of).filter_map(|r| r["prefix"].as_str().map(str::to_owned)).collect()
    };
    let has = |node, vrf, to: &Workload| {
        let routes = routes(node, vrf);
        both(to).iter().all(|a| routes.iter().any(|r| r.split('/').next() == Some(a)))
    };
    let set = |name: &str, fields: Value| {
        let uuid = bed.uuid("virtual-network", &["default-domain", "shop", name]);
        bed.put("virtual-network", &uuid, &fields);
    };
    assert!(!has(0, "front", &far) && !has(1, "back", &web));

    // One list on both sides: imported and exported.
    let common = json!({"route_target_list": {"route_target": ["target:64512:7000"]}});
    set("front", common.clone());
    set("back", common);
    soon("the routes of both", || has(0, "front", &far) && has(1, "back", &web));
    assert!(!has(0, "front", &apart), "a network without the target is joined");

    // A network without any policy lets in whatever has a route to it.
    for address in both(&far) {
        soon(address, || connects(&web, address, 80));
    }
    assert!(!connects(&web, apart.ipv4(), 80) && !connects(&apart, web.ipv4(), 80));

    for name in ["front", "back"] {
        set(name, json!({"route_target_list": {"route_target": []}}));
    }
    soon("the routes to go", || !has(0, "front", &far) && !has(1, "back", &web));
    assert!(!connects(&web, far.ipv4(), 80) && !connects(&far, web.ipv6(), 80));

    // Export on one side and import on the other: one way only.
    set("back", json!({"export_route_target_list": {"route_target": ["target:64512:7001"]}}));
    set("front", json!({"import_route_target_list": {"route_target": ["target:64512:7001"]}}));
    soon("the imported routes", || has(0, "front", &far));
    assert!(!has(1, "back", &web), "what was only imported is exported, too");
    drop(services);
}
