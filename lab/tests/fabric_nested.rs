//! Workloads inside machines: QEMU guests on two nodes run the CNI plugin in nested mode, their pods are VLAN sub-interfaces of
//! the machines' ports, and what the pods' interfaces are the node's agent tells at a link-local service. Needs root, QEMU and
//! Debian's kernel for clouds.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]
#![allow(clippy::needless_pass_by_value, reason = "json! reads better where it is passed")]

mod support;

use serde_json::{Value, json};
use skein_lab::{Machine, MachineImage};
use std::time::{Duration, Instant};
use support::inside::{Inside, config, link_local};
use support::{Bed, api, soon};

fn make(bed: &Bed, kind: &str, fields: Value) -> String {
    let host = bed.fabric.control_host();
    let (status, answer) =
        api(host, "POST", &format!("/{kind}s"), &json!({ kind: fields })).unwrap();
    assert_eq!(status, 200, "{kind}: {answer}");
    answer[kind]["uuid"].as_str().unwrap().to_owned()
}

/// A pod as kube-manager writes it in nested mode; gives its port.
fn announce(bed: &Bed, name: &str, network: &str, parent: &str, vlan: u16) -> String {
    let machine = [format!("k8s__shop__{name}")];
    make(bed, "virtual-machine", json!({"fq_name": machine, "uuid": uid(name)}));
    let network = json!(["default-domain", "shop", network]);
    let port = make(
        bed,
        "virtual-machine-interface",
        json!({
            "fq_name": ["default-domain", "shop", format!("{name}__0")], "parent_type": "project",
            "virtual_network_refs": [{"to": network}],
            "virtual_machine_refs": [{"to": machine}],
            "virtual_machine_interface_refs": [{"uuid": parent}],
            "virtual_machine_interface_properties": {"sub_interface_vlan_tag": vlan},
            "annotations": {"key_value_pair": [{"key": "index", "value": "0/1"}]},
        }),
    );
    make(
        bed,
        "instance-ip",
        json!({
            "fq_name": [format!("{name}__0")], "instance_ip_family": "v4",
            "virtual_network_refs": [{"to": network}],
            "virtual_machine_interface_refs": [{"uuid": port}],
        }),
    );
    port
}

fn uid(name: &str) -> String {
    format!("5d1a2b3c-0000-4000-8000-00000000{:04x}", name.bytes().map(u32::from).sum::<u32>())
}

fn add(machine: &mut Machine, name: &'static str, kind: &'static str) -> Inside {
    Inside::new("shop", name, &uid(name), kind).add(machine)
}

#[test]
fn pods_in_machines_are_workloads_of_the_fabric() {
    let mut bed = Bed::start("tnest");
    bed.network("machines", 1);
    bed.network("pods", 2);
    bed.network("other", 3);
    link_local(&bed);
    let host = bed.fabric.node(0).host().clone();
    let plugin = std::fs::canonicalize(host.directory().join("cni-bin/skein")).unwrap();
    let image = MachineImage::make(host.directory(), &[("skein", plugin.as_path())])
        .unwrap_or_else(|e| panic!("{e}"));
    let machines = "default-domain:shop:machines";
    let boot = Instant::now();
    let mut one = Machine::start(bed.fabric.node(0), "one", machines, &image).unwrap();
    let mut two = Machine::start(bed.fabric.node(1), "two", machines, &image).unwrap();
    println!("two machines booted in {:?}", boot.elapsed());
    let (first, second) = (one.ipv4.clone(), two.ipv4.clone());
    soon("the machines to reach each other", || {
        one.run(&format!("ping -c 1 -W 1 {second}")).unwrap().code == 0
    });

    // The same tag on both: a VLAN is a matter of one machine's port.
    announce(&bed, "a", "pods", &one.port, 100);
    let server = announce(&bed, "b", "pods", &two.port, 100);
    announce(&bed, "c", "other", &one.port, 200);
    let a = add(&mut one, "a", "macvlan");
    let b = add(&mut two, "b", "vlan");
    let c = add(&mut one, "c", "vlan");
    assert!(a.ipv4.starts_with("10.2.0.") && c.ipv4.starts_with("10.3.0."));
    soon("pods of two machines to reach each other", || a.pings(&mut one, &b.ipv4));
    assert!(b.pings(&mut two, &a.ipv4));

    // Segments, checksums and MTU with a tag: what arrives is what was sent.
    two.must("mkdir -p /tmp/www; dd if=/dev/urandom of=/tmp/www/file bs=1M count=32 2>/dev/null")
        .unwrap();
    let wanted = two.must("md5sum < /tmp/www/file").unwrap();
    b.run(&mut two, "httpd -p 80 -h /tmp/www");
    let start = Instant::now();
    let got = a.run(&mut one, &format!("sh -c 'wget -q -O - http://{}/file | md5sum'", b.ipv4));
    assert_eq!(got.text, wanted);
    let took = start.elapsed();
    println!("32 MiB from pod to pod in {took:?}");

    // A service whose member is a nested pod.
    let vip = "10.2.0.200";
    balancer(&bed, vip, &server, &b.ipv4);
    soon("the service to answer", || {
        a.run(&mut one, &format!("timeout 2 wget -q -O /dev/null http://{vip}/file")).code == 0
    });

    // Other networks are out of reach: of the tenant on the same machine, of the machine itself.
    assert!(
        !c.pings(&mut one, &a.ipv4) && !c.pings(&mut one, &b.ipv4) && !a.pings(&mut one, &c.ipv4)
    );
    assert!(!a.pings(&mut one, &first) && !a.pings(&mut one, &second));
    assert_ne!(one.run(&format!("ping -c 1 -W 1 {}", a.ipv4)).unwrap().code, 0);
    // Nor does a machine get there by speaking for its pod, or with another's tag.
    one.must("ip link add link eth0 name forged type vlan id 300; ip link set forged up").unwrap();
    one.must("ip addr add 10.2.0.77/24 dev forged").unwrap();
    assert_ne!(one.run(&format!("ping -c 1 -W 1 -I forged {}", b.ipv4)).unwrap().code, 0);
    one.must("ip link del forged").unwrap();
    let parent = |bed: &Bed| {
        let all = bed.look(0, "interfaces");
        all.into_iter().find(|entry| entry["uuid"] == json!(one.port)).unwrap()
    };
    assert!(parent(&bed)["counters"]["drops"]["vlan_tagged"].as_u64().unwrap() > 0);

    // The node shows them where they are.
    let all = bed.look(0, "interfaces");
    let nested = all.iter().find(|entry| entry["vlan"] == json!(100)).unwrap();
    assert_eq!(
        (nested["parent"].as_str(), nested["active"].as_bool()),
        (Some(one.port.as_str()), Some(true))
    );
    assert!(nested["host_interface"].as_str().unwrap().ends_with(".100"), "{nested}");

    // The agent answers by who asks. Another machine's pod is none of this one's business.
    let look = |machine: &mut Machine, pod: &str| {
        machine
            .run(&format!("timeout 5 wget -q -O - http://10.10.10.2:9091/vm-cfg/k8s__shop__{pod}"))
            .unwrap()
    };
    let told: Value = serde_json::from_str(&look(&mut one, "a").text).unwrap();
    assert_eq!(
        (told[0]["vlan-id"].as_u64(), told[0]["sub-interface"].as_bool()),
        (Some(100), Some(true))
    );
    assert_eq!(told[0]["annotations"], json!(["{index:0/1}"]));
    let plugged = format!("http://10.10.10.2:9091/vm/{}", uid("a"));
    let plugged = one.must(&format!("timeout 5 wget -q -O - {plugged}")).unwrap();
    let plugged: Value = serde_json::from_str(&plugged).unwrap();
    assert_eq!(
        (plugged[0]["ip-address"].as_str(), plugged[0]["plen"].as_u64()),
        (Some(a.ipv4.as_str()), Some(24))
    );
    assert_ne!(look(&mut two, "a").code, 0);
    assert_ne!(look(&mut one, "b").code, 0);
    // A pod is no machine.
    let asked =
        a.run(&mut one, "timeout 5 wget -q -O - http://10.10.10.2:9091/vm-cfg/k8s__shop__a");
    assert_ne!(asked.code, 0, "{}", asked.text);
    // And nobody from outside is.
    let outside = bed.fabric.control_host().run(
        std::process::Command::new("curl")
            .args(["-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"])
            .arg(format!("http://{}:9091/vm-cfg/k8s__shop__a", host.ipv4())),
    );
    assert_eq!(outside.unwrap().stdout, "404");

    // Repeated, checked, and unharmed by an agent that ends.
    for (machine, pod) in [(&mut one, &a), (&mut two, &b)] {
        let container = pod.container();
        for command in ["ADD", "CHECK", "STATUS"] {
            let said = match command {
                "CHECK" => pod.check(machine, &container),
                command => pod.call(machine, command, &container),
            };
            assert_eq!(said.code, 0, "{command} of {}: {}", pod.name, said.text);
        }
    }
    bed.fabric.node_mut(0).kill_agent().unwrap();
    assert!(a.pings(&mut one, &b.ipv4), "the kernel goes on");
    bed.fabric.node_mut(0).restart_agent().unwrap();
    assert!(a.pings(&mut one, &b.ipv4) && b.pings(&mut two, &a.ipv4));
    soon("the agent to answer again", || look(&mut one, "a").code == 0);

    // DEL of an older sandbox touches nothing; DEL and GC leave nothing.
    assert_eq!(a.call(&mut one, "DEL", "c-older").code, 0);
    assert!(a.pings(&mut one, &b.ipv4));
    // The pattern finds them while they are there.
    assert_eq!(one.must("ip link | grep -cE ' [sm]k[0-9a-f]{12}' || true").unwrap().trim(), "1");
    assert_eq!(a.call(&mut one, "DEL", "c-a").code, 0);
    assert_eq!(a.call(&mut one, "DEL", "c-a").code, 0, "again");
    assert!(!a.pings(&mut one, &b.ipv4));
    let vlans = |machine: &mut Machine| {
        machine.must("ip link | grep -cE ' [sm]k[0-9a-f]{12}' || true").unwrap()
    };
    assert_eq!(vlans(&mut one).trim(), "0");
    let a = add(&mut one, "a", "macvlan");
    assert!(a.pings(&mut one, &b.ipv4));
    one.must("while umount /run/netns/a 2>/dev/null; do :; done; rm /run/netns/a").unwrap();
    let mut gc = config("macvlan");
    gc["cni.dev/valid-attachments"] = json!([{"containerID": "c-c", "ifname": "eth0"}]);
    let said = one.cni("GC", &gc, "", "", "").unwrap();
    assert_eq!(said.code, 0, "{}", said.text);
    assert_eq!(vlans(&mut one).trim(), "0");
    assert!(c.pings(&mut one, "10.3.0.254"), "what is kept is not touched");

    // Its configuration gone, a tag leads nowhere.
    let (status, _) = bed.api("GET", &format!("/virtual-machine-interface/{server}"), &Value::Null);
    assert_eq!(status, 200);
    bed.run("delete instance-ip c__0");
    bed.run("delete virtual-machine-interface default-domain:shop:c__0");
    soon("the node to forget the pod", || !c.pings(&mut one, "10.3.0.254"));
    std::thread::sleep(Duration::from_millis(100));
    assert!(bed.look(0, "interfaces").iter().all(|entry| entry["vlan"] != json!(200)));
}

/// A native load balancer in the pods' network, with one member.
fn balancer(bed: &Bed, vip: &str, port: &str, address: &str) {
    let full = json!(["default-domain", "shop", "web"]);
    let pods = json!(["default-domain", "shop", "pods"]);
    let vip_port = make(
        bed,
        "virtual-machine-interface",
        json!({"fq_name": ["default-domain", "shop", "vip"], "parent_type": "project",
               "virtual_network_refs": [{"to": pods}]}),
    );
    make(
        bed,
        "instance-ip",
        json!({"fq_name": ["vip"], "instance_ip_address": vip, "virtual_network_refs": [{"to": pods}],
               "virtual_machine_interface_refs": [{"uuid": vip_port}]}),
    );
    make(
        bed,
        "loadbalancer",
        json!({"fq_name": full, "parent_type": "project", "loadbalancer_provider": "native",
               "loadbalancer_properties": {"vip_address": vip, "admin_state": true},
               "loadbalancer_service": {},
               "virtual_machine_interface_refs": [{"uuid": vip_port}]}),
    );
    make(
        bed,
        "loadbalancer-listener",
        json!({"fq_name": full, "parent_type": "project",
               "loadbalancer_listener_properties": {
                   "protocol": "TCP", "protocol_port": 80, "admin_state": true},
               "loadbalancer_refs": [{"to": full}]}),
    );
    make(
        bed,
        "loadbalancer-pool",
        json!({"fq_name": full, "parent_type": "project",
               "loadbalancer_pool_properties": {
                   "protocol": "TCP", "admin_state": true,
                   "subnet_id": "00000000-0000-4000-8000-000000000001"},
               "loadbalancer_listener_refs": [{"to": full}]}),
    );
    make(
        bed,
        "loadbalancer-member",
        json!({"fq_name": ["default-domain", "shop", "web", "b"], "parent_type": "loadbalancer-pool",
               "loadbalancer_member_properties": {
                   "address": address, "protocol_port": 80, "admin_state": true, "interface": port}}),
    );
}
