//! Workloads in the underlay, the way outside from the nodes' addresses, and addresses that are reached from outside: from objects of
//! the configuration API to packets, with a router and a host beyond it. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]
#![allow(clippy::needless_pass_by_value, reason = "json! reads better where it is passed")]

mod support;

use serde_json::{Value, json};
use skein_lab::{Host, LabOptions, Outside, Workload};
use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use support::frames::{self, Ear};
use support::named::{Named, answering, from_host, from_pod};
use support::traffic::{Carries, Connection, Echo, ping};
use support::{Bed, PATIENCE, SILENCE, soon};

const FABRIC: [&str; 3] = ["default-domain", "default-project", "ip-fabric"];
const WORLD: &str = "198.51.100.2";
const WORLD6: &str = "fd98:51:100::2";

fn make(bed: &Bed, kind: &str, fields: Value) -> String {
    let (status, answer) = bed.api("POST", &format!("/{kind}s"), &json!({ kind: fields }));
    assert_eq!(status, 200, "{kind}: {answer}");
    answer[kind]["uuid"].as_str().unwrap().to_owned()
}

fn remove(bed: &Bed, kind: &str, uuid: &str) {
    let (status, answer) = bed.api("DELETE", &format!("/{kind}/{uuid}"), &Value::Null);
    assert_eq!(status, 200, "{kind}: {answer}");
}

fn of_network(bed: &Bed, name: &str, fields: Value) {
    let uuid = bed.uuid("virtual-network", &["default-domain", "shop", name]);
    bed.put("virtual-network", &uuid, &fields);
}

/// A network 10.N.0.0/24 in the underlay, whose addresses the router looks for there.
fn provided(bed: &Bed, outside: &Outside, name: &str, number: u8) {
    bed.network(name, number);
    of_network(bed, name, json!({"virtual_network_refs": [{"to": FABRIC}]}));
    outside.expects(&format!("10.{number}.0.0/24")).unwrap();
    outside.expects(&format!("fd00:{number}::/64")).unwrap();
}

/// Joins networks of the project to each other's and to the nodes', all that are named.
fn join(bed: &Bed, policy: &str, one: &str, others: &[&str]) {
    let end = |name: &str| match name {
        "nodes" => json!({"virtual_network": FABRIC.join(":")}),
        name => json!({"virtual_network": format!("default-domain:shop:{name}")}),
    };
    let any = json!([{"start_port": -1, "end_port": -1}]);
    make(
        bed,
        "network-policy",
        json!({
            "fq_name": ["default-domain", "shop", policy], "parent_type": "project",
            "network_policy_entries": {"policy_rule": [{
                "direction": "<>", "protocol": "any", "src_ports": any, "dst_ports": any,
                "src_addresses": [end(one)],
                "dst_addresses": others.iter().map(|name| end(name)).collect::<Vec<_>>(),
                "action_list": {"simple_action": "pass"},
            }]},
        }),
    );
}

fn attach_policies(bed: &Bed, network: &str, policies: &[&str]) {
    let refs: Vec<Value> = policies
        .iter()
        .map(|name| {
            json!({"to": ["default-domain", "shop", name],
                   "attr": {"sequence": {"major": 0, "minor": 0}}})
        })
        .collect();
    let fields = json!({"network_policy_refs": refs});
    match network {
        "nodes" => {
            let uuid = bed.uuid("virtual-network", &FABRIC);
            bed.put("virtual-network", &uuid, &fields);
        }
        network => of_network(bed, network, fields),
    }
}

fn names(list: &[&str]) -> BTreeSet<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn uplink_mac(host: &Host) -> String {
    let ran = host.run(Command::new("cat").arg("/sys/class/net/eth0/address")).unwrap();
    let shown = host.run(Command::new("ip").args(["-o", "link", "show", "eth0"])).unwrap().stdout;
    let words: Vec<&str> = shown.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "link/ether").map(|at| at + 1);
    at.and_then(|at| words.get(at)).map_or(ran.stdout.trim().to_owned(), |mac| (*mac).to_owned())
}

#[test]
fn workloads_of_the_underlay_speak_with_their_own_addresses() {
    let mut bed = Bed::on("tipf", LabOptions { mtu: 9000, ..LabOptions::default() });
    let outside = bed.fabric.outside().unwrap();
    provided(&bed, &outside, "pods", 64);
    provided(&bed, &outside, "apart", 65);
    bed.network("tenant", 1);
    join(&bed, "nodes", "nodes", &["pods", "apart", "tenant"]);
    join(&bed, "pt", "pods", &["tenant"]);
    attach_policies(&bed, "nodes", &["nodes"]);
    attach_policies(&bed, "pods", &["nodes", "pt"]);
    attach_policies(&bed, "apart", &["nodes"]);
    attach_policies(&bed, "tenant", &["nodes", "pt"]);
    let near = bed.attach(0, "near", "pods");
    let beside = bed.attach(0, "beside", "pods");
    let far = bed.attach(1, "far", "pods");
    let other = bed.attach(1, "other", "apart");
    let tenant = bed.attach(1, "tenant", "tenant");
    let _servers = [
        Named::start(&near.pod, 80, "near"),
        Named::start(&beside.pod, 80, "beside"),
        Named::start(&far.pod, 80, "far"),
        Named::start(&other.pod, 80, "other"),
        Named::start(&tenant.pod, 80, "tenant"),
        Named::start(outside.world(), 80, "world"),
    ];
    let hosts = [0, 1].map(|node| bed.fabric.node(node).host().clone());

    // From node to node, no tunnel, and the whole of the underlay's frames.
    let ear = Ear::of_uplink(&hosts[0]);
    for (to, name) in [(&far, "far"), (&beside, "beside")] {
        for (address, own) in [(to.ipv4(), near.ipv4()), (to.ipv6(), near.ipv6())] {
            soon(&format!("{name} at {address}"), || from_pod(&near.pod, address, 80).is_ok());
            let expected = (name.to_owned(), own.to_owned());
            assert_eq!(from_pod(&near.pod, address, 80).unwrap(), expected);
        }
    }
    let whole = |address: &str, size: u32| {
        // Each one is answered, if late: of two that are answered in time there is nothing to wait for.
        let said = ping(&near.pod, &format!("-W 10 -M do -s {size} {address}"));
        assert!(said.contains(" 0% packet loss"), "{address}: {said}");
    };
    whole(far.ipv4(), 8972);
    whole(far.ipv6(), 8952);
    ear.caught_up();
    assert_eq!(ear.heard_udp(4789), 0, "something went by a tunnel");

    // To the outside, and from there.
    for (world, own) in [(WORLD, near.ipv4()), (WORLD6, near.ipv6())] {
        let expected = ("world".to_owned(), own.to_owned());
        soon("the world", || from_pod(&near.pod, world, 80).is_ok_and(|said| said == expected));
    }
    whole(WORLD, 8972);
    for (to, name) in [(&near, "near"), (&far, "far"), (&other, "other")] {
        for (address, world) in [(to.ipv4(), WORLD), (to.ipv6(), WORLD6)] {
            let expected = (name.to_owned(), world.to_owned());
            soon(&format!("{name} from outside"), || {
                from_pod(outside.world(), address, 80).is_ok_and(|said| said == expected)
            });
        }
    }
    ear.caught_up();
    assert_eq!(ear.heard_udp(4789), 0, "something went by a tunnel");

    // Nodes, theirs and others.
    for host in &hosts {
        for to in [&near, &far] {
            soon("a node to reach it", || from_host(host, to.ipv4(), 80).is_ok());
            let address = host.ipv4().to_string();
            assert!(to.pod.pings(&address, 3).unwrap(), "{address} from {}", to.ipv4());
        }
    }
    assert_eq!(from_host(&hosts[0], far.ipv4(), 80).unwrap().1, hosts[0].ipv4().to_string());
    ear.caught_up();
    assert_eq!(ear.heard_udp(4789), 0, "something went by a tunnel");

    // A tenant's network that is joined: by a tunnel, with the same addresses.
    for address in [near.ipv4(), near.ipv6()] {
        soon("the tenant to reach it", || from_pod(&tenant.pod, address, 80).is_ok());
    }
    assert_eq!(from_pod(&near.pod, tenant.ipv4(), 80).unwrap().1, near.ipv4());
    soon("a tunnel on the wire", || ear.heard_udp(4789) > 0);

    // Networks that nothing joins stay apart, though both are in the underlay.
    assert!(from_pod(&near.pod, other.ipv4(), 80).is_err());
    assert!(from_pod(&other.pod, near.ipv4(), 80).is_err());
    assert!(from_pod(&other.pod, far.ipv4(), 80).is_err());
    soon("the world, from there", || from_pod(&other.pod, WORLD, 80).is_ok());

    // Someone on the underlay who knows where the tenant lives gets nowhere, nor in its name.
    let gateway = outside.gateway();
    let mac = uplink_mac(&hosts[1]);
    outside.expects("10.1.0.0/24").unwrap();
    gateway.ip(&format!("neigh replace {} lladdr {mac} dev eth0\n", tenant.ipv4())).unwrap();
    assert!(from_pod(outside.world(), tenant.ipv4(), 80).is_err(), "a tenant met from outside");
    let heard = Ear::of_pod(&far.pod);
    let address = |text: &str| text.parse().unwrap();
    let forged = |source: &str, mark: &[u8]| {
        let packet = frames::udp4(address(source), address(far.ipv4()), (1, 2), mark);
        frames::ethernet(frames::mac(&mac), [2, 0, 0, 0, 0, 9], 0x0800, &packet)
    };
    let before = bed.dropped(1, &far, "source_address");
    let send = [
        forged(tenant.ipv4(), b"in the tenant's name"),
        forged(other.ipv4(), b"in the other's name"),
        forged("10.64.0.200", b"in nobody's name"),
        forged("198.51.100.77", b"from a stranger outside"),
    ];
    frames::send_from(gateway, &send);
    soon("the stranger's", || heard.heard(b"from a stranger outside") > 0);
    std::thread::sleep(SILENCE);
    for mark in [&b"in the tenant's name"[..], b"in the other's name", b"in nobody's name"] {
        assert_eq!(heard.heard(mark), 0);
    }
    assert!(bed.dropped(1, &far, "source_address") >= before + 3, "{:?}", bed.look(1, "drops"));
    // A workload speaks for itself only.
    let forged = frames::udp4(address(far.ipv4()), address(WORLD), (1, 2), b"in far's name");
    let own = bed.interface(0, &near)["mac"].as_str().unwrap().to_owned();
    let ear = Ear::of_uplink(&hosts[0]);
    frames::send(
        &near.pod,
        &[frames::ethernet(frames::GATEWAY, frames::mac(&own), 0x0800, &forged)],
    );
    soon("the drop", || bed.dropped(0, &near, "source_address") == 1);
    ear.caught_up();
    assert_eq!(ear.heard(b"in far's name"), 0);

    // The agent comes and goes; what it put in place stays.
    let _echo = Echo::start(&far.pod, 7);
    let mut connection = Connection::open(&near.pod, far.ipv4(), 7).unwrap();
    assert_eq!(connection.carries(PATIENCE), Carries::Yes);
    bed.fabric.node_mut(1).kill_agent().unwrap();
    assert_eq!(connection.carries(PATIENCE), Carries::Yes);
    gateway.ip("neigh flush dev eth0\n").unwrap();
    assert!(from_pod(outside.world(), far.ipv4(), 80).is_ok(), "nobody answers for it");
    bed.fabric.node_mut(1).restart_agent().unwrap();
    assert_eq!(connection.carries(PATIENCE), Carries::Yes);
    assert!(from_pod(outside.world(), far.ipv4(), 80).is_ok());

    // An address that moves is found at once: its new node says so.
    let moved = far.ipv4().to_owned();
    drop(connection);
    far.detach().unwrap();
    let start = Instant::now();
    let mut there: Option<Workload> = None;
    for nth in 0..4 {
        let next = bed.attach(0, &format!("next{nth}"), "pods");
        if next.ipv4() == moved {
            there = Some(next);
            break;
        }
    }
    let there = there.expect("a freed address is given out again");
    let _server = Named::start(&there.pod, 80, "moved");
    soon("the moved address", || {
        from_pod(outside.world(), &moved, 80).is_ok_and(|(name, _)| name == "moved")
    });
    println!("an address was reached {:?} after it left another node", start.elapsed());
    // And out of the underlay again.
    of_network(&bed, "pods", json!({"virtual_network_refs": []}));
    soon("the world to lose it", || from_pod(outside.world(), near.ipv4(), 80).is_err());
    assert!(from_pod(&near.pod, WORLD, 80).is_err());
    soon("neighbours to stay", || from_pod(&near.pod, beside.ipv4(), 80).is_ok());
}

/// A floating IP of the public network's pool.
fn floating(bed: &Bed, name: &str, address: &str, port: &str) -> String {
    make(
        bed,
        "floating-ip",
        json!({"fq_name": ["default-domain", "shop", "public", "pool", name],
               "parent_type": "floating-ip-pool", "floating_ip_address": address,
               "project_refs": [{"to": ["default-domain", "shop"]}],
               "virtual_machine_interface_refs": [{"uuid": port}]}),
    )
}

#[test]
fn public_addresses_are_reached_from_outside_and_the_nodes_address_leads_there() {
    let mut bed = Bed::start("tpub");
    let outside = bed.fabric.outside().unwrap();
    let world = outside.world();
    bed.network("pods", 1);
    provided(&bed, &outside, "public", 63);
    provided(&bed, &outside, "closed", 64);
    make(
        &bed,
        "floating-ip-pool",
        json!({"fq_name": ["default-domain", "shop", "public", "pool"],
               "parent_type": "virtual-network"}),
    );
    join(&bed, "nodes", "nodes", &["pods", "closed"]);
    attach_policies(&bed, "nodes", &["nodes"]);
    attach_policies(&bed, "pods", &["nodes"]);
    attach_policies(&bed, "closed", &["nodes"]);
    let inside = bed.attach(0, "inside", "pods");
    let second = bed.attach(1, "second", "pods");
    let shut = bed.attach(1, "shut", "closed");
    let _servers = [
        Named::start(&inside.pod, 80, "inside"),
        Named::start(&second.pod, 80, "second"),
        Named::start(&shut.pod, 80, "shut"),
        Named::start(world, 80, "world"),
    ];
    let hosts = [0, 1].map(|node| bed.fabric.node(node).host().clone());

    // By the nodes' addresses, and no way back in.
    assert!(from_pod(&inside.pod, WORLD, 80).is_err(), "nothing leads outside yet");
    of_network(&bed, "pods", json!({"fabric_snat": true}));
    for (workload, host) in [(&inside, &hosts[0]), (&second, &hosts[1])] {
        let expected = ("world".to_owned(), host.ipv4().to_string());
        soon("the way outside", || from_pod(&workload.pod, WORLD, 80) == Ok(expected.clone()));
    }
    outside.expects("10.1.0.0/24").unwrap();
    let mac = uplink_mac(&hosts[0]);
    outside
        .gateway()
        .ip(&format!("neigh replace {} lladdr {mac} dev eth0\n", inside.ipv4()))
        .unwrap();
    assert!(from_pod(world, inside.ipv4(), 80).is_err(), "a way in");
    // Nor does the detour lead where no policy does, though it is there.
    soon("the other network from outside", || from_pod(world, shut.ipv4(), 80).is_ok());
    assert!(from_pod(&inside.pod, shut.ipv4(), 80).is_err(), "another network by the back door");

    // A floating IP wins, both ways; without it, it is the node's address again.
    let uuid = floating(&bed, "one", "10.63.0.77", &bed.port(0, &inside));
    let start = Instant::now();
    let expected = ("inside".to_owned(), WORLD.to_owned());
    soon("the floating IP", || from_pod(world, "10.63.0.77", 80) == Ok(expected.clone()));
    println!("a floating IP was reached from outside {:?} after it was made", start.elapsed());
    assert_eq!(from_pod(&inside.pod, WORLD, 80).unwrap().1, "10.63.0.77");
    assert!(world.pings("10.63.0.77", 3).unwrap());
    assert_eq!(from_pod(&second.pod, WORLD, 80).unwrap().1, hosts[1].ipv4().to_string());
    // Others of the fabric reach it as the world does, from the node's address.
    soon("the floating IP from a pod", || from_pod(&second.pod, "10.63.0.77", 80).is_ok());
    // To another port, and node.
    let fields = json!({"virtual_machine_interface_refs": [{"uuid": bed.port(1, &second)}]});
    bed.put("floating-ip", &uuid, &fields);
    let expected = ("second".to_owned(), WORLD.to_owned());
    soon("the floating IP to move", || from_pod(world, "10.63.0.77", 80) == Ok(expected.clone()));
    remove(&bed, "floating-ip", &uuid);
    soon("the floating IP to go", || from_pod(world, "10.63.0.77", 80).is_err());
    let node = hosts[1].ipv4().to_string();
    soon("the node's address", || from_pod(&second.pod, WORLD, 80).is_ok_and(|(_, a)| a == node));
    ports_are_as_many_as_the_configuration_says(&bed, &outside, &inside);
    of_network(&bed, "pods", json!({"fabric_snat": false}));
    soon("the way out to close", || from_pod(&inside.pod, WORLD, 80).is_err());
}

/// Pools of the node's ports: they are used to the last port, then that is told; and they can go as they came.
fn ports_are_as_many_as_the_configuration_says(bed: &Bed, outside: &Outside, inside: &Workload) {
    let vrouters = ["default-global-system-config", "default-global-vrouter-config"];
    let vrouters = bed.uuid("global-vrouter-config", &vrouters);
    let pools = |pools: Value| {
        let fields = json!({"port_translation_pools": {"port_translation_pool": pools}});
        bed.put("global-vrouter-config", &vrouters, &fields);
    };
    let listen =
        |port: u16| outside.world().inside(|| TcpListener::bind((WORLD, port)).unwrap()).unwrap();
    // The port that a connection arrives from, while both ends hold it.
    let connect = |listener: &TcpListener| {
        let target = listener.local_addr().unwrap();
        let wait = Duration::from_secs(1);
        let ours = inside.pod.inside(|| TcpStream::connect_timeout(&target, wait)).unwrap().ok()?;
        let (theirs, from) = listener.accept().unwrap();
        Some((from.port(), ours, theirs))
    };
    let (trial, web) = (listen(81), listen(82));
    let range = json!({"start_port": 20_000, "end_port": 20_002});
    let one = json!({"start_port": 30_000, "end_port": 30_000});
    pools(
        json!([{"protocol": "tcp", "port_range": range}, {"protocol": "tcp", "port_range": one}]),
    );
    let configured = |port: u16| (20_000..20_003).contains(&port) || port == 30_000;
    soon("the configured ports", || connect(&trial).is_some_and(|(port, ..)| configured(port)));
    let held: Vec<_> =
        (0..4).map(|_| connect(&web).unwrap_or_else(|| panic!("no free port"))).collect();
    let used: BTreeSet<u16> = held.iter().map(|(port, ..)| *port).collect();
    assert_eq!(used, BTreeSet::from([20_000, 20_001, 20_002, 30_000]));
    assert!(connect(&web).is_none(), "a fifth of four ports");
    let host = bed.fabric.node(0).host();
    let reserved = || {
        let mut cat = Command::new("cat");
        host.run(cat.arg("/proc/sys/net/ipv4/ip_local_reserved_ports")).unwrap().stdout
    };
    assert!(reserved().starts_with("20000-20002,30000,"), "{}", reserved());
    let status = || bed.fabric.control_host().http(8083, "GET", "/v1/status", "").unwrap().body;
    soon("the controller to know", || {
        status().contains("found no free port of the node's address")
    });
    let drops = bed.look(0, "drops");
    assert!(drops.iter().any(|drop| drop["reason"] == "snat_exhausted"), "{drops:?}");

    pools(json!([]));
    let own = |port: u16| (56_000..57_024).contains(&port);
    soon("the node's own ports", || connect(&web).is_some_and(|(port, ..)| own(port)));
    assert!(reserved().starts_with("56000-"), "{}", reserved());
}

/// A native load balancer with a floating IP of the public network; gives its pool and itself.
fn balancer(bed: &Bed, service: Value, public: &str) -> String {
    let full = |name: &str| json!(["default-domain", "shop", name]);
    let services = full("services");
    let vip = make(
        bed,
        "virtual-machine-interface",
        json!({"fq_name": full("vip"), "parent_type": "project",
               "virtual_network_refs": [{"to": services}]}),
    );
    make(
        bed,
        "instance-ip",
        json!({"fq_name": ["vip"], "instance_ip_address": "10.2.0.10",
               "virtual_network_refs": [{"to": services}],
               "virtual_machine_interface_refs": [{"uuid": vip}]}),
    );
    floating(bed, "web", public, &vip);
    let uuid = make(
        bed,
        "loadbalancer",
        json!({"fq_name": full("web"), "parent_type": "project", "loadbalancer_provider": "native",
               "loadbalancer_properties": {"vip_address": "10.2.0.10", "admin_state": true},
               "loadbalancer_service": service,
               "virtual_machine_interface_refs": [{"uuid": vip}]}),
    );
    make(
        bed,
        "loadbalancer-listener",
        json!({"fq_name": full("web"), "parent_type": "project",
               "loadbalancer_listener_properties": {
                   "protocol": "TCP", "protocol_port": 80, "admin_state": true},
               "loadbalancer_refs": [{"to": full("web")}]}),
    );
    make(
        bed,
        "loadbalancer-pool",
        json!({"fq_name": full("web"), "parent_type": "project",
               "loadbalancer_pool_properties": {
                   "protocol": "TCP", "admin_state": true,
                   "subnet_id": "00000000-0000-4000-8000-000000000001"},
               "loadbalancer_listener_refs": [{"to": full("web")}]}),
    );
    uuid
}

fn member(bed: &Bed, node: usize, workload: &Workload) -> String {
    let name = format!("member-{}", workload.ipv4());
    make(
        bed,
        "loadbalancer-member",
        json!({"fq_name": ["default-domain", "shop", "web", name],
               "parent_type": "loadbalancer-pool",
               "loadbalancer_member_properties": {
                   "address": workload.ipv4(), "protocol_port": 8080, "admin_state": true,
                   "interface": bed.port(node, workload),
                   "node": bed.fabric.node(node).host().name()}}),
    )
}

/// A security group that lets one address in.
fn admits(client: &str) -> Value {
    let subnet = json!({"subnet": {"ip_prefix": client, "ip_prefix_len": 32}});
    json!({
        "fq_name": ["default-domain", "shop", "clients"], "parent_type": "project",
        "security_group_entries": {"policy_rule": [{
            "direction": ">", "protocol": "any", "ethertype": "IPv4",
            "src_addresses": [subnet], "src_ports": [{"start_port": 0, "end_port": 65535}],
            "dst_addresses": [{"security_group": "local"}],
            "dst_ports": [{"start_port": 0, "end_port": 65535}],
        }]},
    })
}

const PUBLIC: &str = "10.63.0.80";

/// Networks of pods, of services and a public one, and a workload on each node.
fn with_public_services(bed: &mut Bed, outside: &Outside) -> [Workload; 2] {
    bed.network("pods", 1);
    bed.network("services", 2);
    provided(bed, outside, "public", 63);
    make(
        bed,
        "floating-ip-pool",
        json!({"fq_name": ["default-domain", "shop", "public", "pool"],
               "parent_type": "virtual-network"}),
    );
    join(bed, "nodes", "nodes", &["pods", "services"]);
    join(bed, "ps", "pods", &["services"]);
    attach_policies(bed, "nodes", &["nodes"]);
    attach_policies(bed, "pods", &["nodes", "ps"]);
    attach_policies(bed, "services", &["nodes", "ps"]);
    [bed.attach(0, "zero", "pods"), bed.attach(1, "one", "pods")]
}

/// Which node the router has heard to be at the public address.
fn announcer(bed: &Bed, outside: &Outside) -> Option<usize> {
    let mut show = Command::new("ip");
    let known = outside.gateway().run(show.args(["neigh", "show", PUBLIC])).unwrap().stdout;
    (0..2).find(|node| known.contains(&uplink_mac(bed.fabric.node(*node).host())))
}

/// A service with a public address and a member on each node.
struct Public {
    bed: Bed,
    outside: Outside,
    workloads: [Workload; 2],
    echoes: [Echo; 2],
    members: [String; 2],
    /// The node that answers for the address.
    answers: usize,
}

impl Public {
    fn start(name: &str) -> Public {
        let mut bed = Bed::start(name);
        let outside = bed.fabric.outside().unwrap();
        let workloads = with_public_services(&mut bed, &outside);
        let echoes = workloads.each_ref().map(|workload| Echo::start(&workload.pod, 8080));
        balancer(&bed, json!({}), PUBLIC);
        let members = [0, 1].map(|node| member(&bed, node, &workloads[node]));
        let mut found = None;
        soon("the public address", || {
            found = Connection::open(outside.world(), PUBLIC, 80).and(announcer(&bed, &outside));
            found.is_some()
        });
        Public { bed, outside, workloads, echoes, members, answers: found.unwrap() }
    }
}

/// Any node passes clients on to members of any, so which of them a client comes by does not follow the members.
#[test]
fn a_public_address_stays_where_it_is_while_members_come_and_go() {
    let Public { bed, outside, workloads, members, answers: here, echoes: _echoes } =
        Public::start("tpls");
    let open = || Connection::open(outside.world(), PUBLIC, 80);
    let there = 1 - here;
    let held = |node: usize| {
        let mut list = Command::new("ss");
        list.args(["-Htn", "state", "established", "sport", "=", ":8080"]);
        workloads[node].pod.run(&mut list).unwrap().stdout.lines().count()
    };
    soon("both members", || {
        let _connections: Vec<_> = (0..16).map(|_| open()).collect();
        held(0) > 0 && held(1) > 0
    });
    let opened = |count: usize| {
        let mut all = Vec::new();
        soon("connections", || {
            all.extend(open());
            all.len() == count
        });
        all
    };
    let limit = Duration::from_secs(5);
    let carry = |connections: &mut Vec<Connection>| {
        let yes = |connection: &mut Connection| connection.carries(limit) == Carries::Yes;
        connections.iter_mut().map(yes).filter(|carries| *carries).count()
    };
    soon("earlier connections to end", || held(0) + held(1) == 0);
    let mut connections = opened(24);
    assert_eq!(carry(&mut connections), 24);
    let kept = held(there);
    assert!(kept > 0, "no connection has the member on the other node");

    // The node that answers has no member any more: who has the other one does not notice.
    remove(&bed, "loadbalancer-member", &members[here]);
    soon("the removed member to be out", || {
        let before = held(there);
        let new: Vec<Connection> = (0..8).filter_map(|_| open()).collect();
        new.len() == 8 && held(there) == before + 8
    });
    assert!(carry(&mut connections) >= kept);
    assert_eq!(announcer(&bed, &outside), Some(here));
    let mut connections = opened(8);
    member(&bed, here, &workloads[here]);
    soon("the member to be back", || {
        let before = held(here);
        let _new: Vec<_> = (0..8).map(|_| open()).collect();
        held(here) > before
    });
    assert_eq!(carry(&mut connections), 8);
    assert_eq!(announcer(&bed, &outside), Some(here));
}

/// A node without members answers as long as controllers hear it; then another one does.
#[test]
fn a_public_address_leaves_a_node_that_is_lost() {
    let Public { mut bed, outside, members, answers: lost, echoes: _echoes, .. } =
        Public::start("tpll");
    let answers = || Connection::open(outside.world(), PUBLIC, 80).is_some();
    remove(&bed, "loadbalancer-member", &members[lost]);
    bed.fabric.node_mut(lost).kill_agent().unwrap();
    let start = Instant::now();
    soon("the other node", || announcer(&bed, &outside) == Some(1 - lost));
    println!("the other node answered {:?} after the agent was killed", start.elapsed());
    soon("its clients to be served", answers);
    bed.fabric.node_mut(lost).restart_agent().unwrap();
    soon("the first node again", || announcer(&bed, &outside) == Some(lost));
    soon("its clients to be served", answers);
}

#[test]
fn one_node_answers_for_a_services_public_address() {
    let mut bed = Bed::start("tplb");
    let outside = bed.fabric.outside().unwrap();
    let world = outside.world();
    let workloads = with_public_services(&mut bed, &outside);
    let _servers = [
        Named::start(&workloads[0].pod, 8080, "zero"),
        Named::start(&workloads[1].pod, 8080, "one"),
    ];
    let hosts = [0, 1].map(|node| bed.fabric.node(node).host().clone());
    let uuid = balancer(&bed, json!({}), PUBLIC);
    let members = [0, 1].map(|node| member(&bed, node, &workloads[node]));
    soon("the public address", || from_pod(world, PUBLIC, 80).is_ok());
    soon("both members", || answering(|| from_pod(world, PUBLIC, 80)) == names(&["zero", "one"]));
    // One of the nodes, and no other, says that it is there.
    let chosen = announcer(&bed, &outside).unwrap();
    // Members see the node, unless the client is to be kept.
    let seen = from_pod(world, PUBLIC, 80).unwrap().1;
    assert!(hosts.iter().any(|host| host.ipv4().to_string() == seen), "{seen}");
    let local = json!({"loadbalancer_service": {"external_traffic_policy": "Local"}});
    bed.put("loadbalancer", &uuid, &local);
    let own = ["zero", "one"][chosen];
    soon("the node's own member", || answering(|| from_pod(world, PUBLIC, 80)) == names(&[own]));
    assert_eq!(from_pod(world, PUBLIC, 80).unwrap().1, WORLD);
    // So it is the client whom policies judge, though no route leads to it from the member's network.
    let group = make(&bed, "security-group", admits(WORLD));
    let port = bed.port(chosen, &workloads[chosen]);
    let refs = json!({"security_group_refs": [{"uuid": group}]});
    bed.put("virtual-machine-interface", &port, &refs);
    soon("a rule for the client", || from_pod(world, PUBLIC, 80).is_ok());
    bed.put("security-group", &group, &admits("192.0.2.1"));
    soon("a rule for another client", || from_pod(world, PUBLIC, 80).is_err());
    bed.put("security-group", &group, &admits(WORLD));
    soon("the client's rule again", || from_pod(world, PUBLIC, 80).is_ok());
    bed.put("virtual-machine-interface", &port, &json!({"security_group_refs": []}));
    // Its member goes: the other node takes over, and says so.
    let start = Instant::now();
    remove(&bed, "loadbalancer-member", &members[chosen]);
    let rest = ["zero", "one"][1 - chosen];
    soon("the other node", || from_pod(world, PUBLIC, 80).is_ok_and(|(name, _)| name == rest));
    println!("the other node answered {:?} after the member went", start.elapsed());
    assert_eq!(answering(|| from_pod(world, PUBLIC, 80)), names(&[rest]));
    assert_eq!(from_pod(world, PUBLIC, 80).unwrap().1, WORLD);
    // Pods use it as well, wherever they are.
    assert!(start.elapsed() < Duration::from_secs(60));
    soon("a pod", || from_pod(&workloads[chosen].pod, PUBLIC, 80).is_ok());
}
