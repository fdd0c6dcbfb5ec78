//! Pods whose interfaces an orchestrator announces through the configuration API, as Kubernetes' manager does: one ADD
//! makes them all, and no call of an older sandbox touches a newer one. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]
#![allow(clippy::needless_pass_by_value, reason = "json! reads better where it is passed")]

mod support;

use serde_json::{Value, json};
use skein_lab::{Attachment, CniError, CniRuntime, Pod};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Bed, api, soon};

/// An orchestrator makes a port's second address so long after the first.
const BETWEEN: Duration = Duration::from_millis(300);
const UID: &str = "5d1a2b3c-0000-4000-8000-000000000001";

/// A container runtime whose configuration names no network.
fn runtime(bed: &Bed, version: &str) -> CniRuntime {
    let host = bed.fabric.node(0).host();
    let list = json!({"cniVersion": version, "name": "k8s-pod-network", "plugins": [
        {"type": "skein", "agent": host.directory().join("agent.sock")},
    ]});
    CniRuntime::new(host, &[host.directory().join("cni-bin")], list).unwrap()
}

fn sandbox(container: &str, pod: &Pod, name: &str, uid: &str) -> Attachment {
    let mut attachment = Attachment::new(container, &pod.path());
    attachment.args = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={uid}"
    );
    attachment
}

/// Makes an object of the configuration.
fn make(bed: &Bed, kind: &str, fields: Value) -> String {
    let host = bed.fabric.control_host();
    let (status, answer) =
        api(host, "POST", &format!("/{kind}s"), &json!({ kind: fields })).unwrap();
    assert_eq!(status, 200, "{kind}: {answer}");
    answer[kind]["uuid"].as_str().unwrap().to_owned()
}

/// What an orchestrator writes: a machine, and an interface in each of the networks.
fn announce(bed: &Bed, uid: &str, name: &str, ports: &[(&str, &[(&str, &str)])]) {
    let full = [format!("k8s__shop__{name}")];
    make(bed, "virtual-machine", json!({"fq_name": full, "uuid": uid}));
    for (nth, (network, wanted)) in ports.iter().enumerate() {
        let network = json!(["default-domain", "shop", network]);
        let mut annotations =
            vec![json!({"key": "index", "value": format!("{}/{}", nth + 1, ports.len())})];
        annotations.extend(wanted.iter().map(|(key, value)| json!({"key": key, "value": value})));
        let port = make(
            bed,
            "virtual-machine-interface",
            json!({
                "fq_name": ["default-domain", "shop", format!("{name}__{nth}")],
                "parent_type": "project",
                "virtual_network_refs": [{"to": network}],
                "virtual_machine_refs": [{"to": full}],
                "annotations": {"key_value_pair": annotations},
            }),
        );
        make(
            bed,
            "instance-ip",
            json!({
                "fq_name": [format!("{name}__{nth}")],
                "virtual_network_refs": [{"to": network}],
                "virtual_machine_interface_refs": [{"uuid": port}],
            }),
        );
        if wanted.iter().any(|(key, value)| *key == "families" && value.contains("v6")) {
            std::thread::sleep(BETWEEN);
            make(
                bed,
                "instance-ip",
                json!({
                    "fq_name": [format!("{name}__{nth}-v6")], "instance_ip_family": "v6",
                    "virtual_network_refs": [{"to": network}],
                    "virtual_machine_interface_refs": [{"uuid": port}],
                }),
            );
        }
    }
}

/// Host ends of workloads' interfaces on the node.
fn links(bed: &Bed) -> usize {
    let mut list = Command::new("ip");
    let text = bed.fabric.node(0).host().run(list.args(["-o", "link"])).unwrap().stdout;
    let names = text.lines().filter_map(|line| line.split(": ").nth(1));
    names.filter(|name| name.starts_with("sk") && !name.starts_with("skein0")).count()
}

fn refused(error: CniError) -> (u64, String) {
    match error {
        CniError::Plugin { code, message, details, .. } => (code, format!("{message}; {details}")),
        other => panic!("no CNI error: {other}"),
    }
}

#[test]
fn one_add_makes_every_interface_of_a_pod_once_it_is_announced() {
    let bed = Bed::start("tpods");
    bed.network("front", 1);
    bed.network("back", 2);
    let host = bed.fabric.node(0).host().clone();
    let pod = host.pod("web").unwrap();
    let attachment = sandbox("c1", &pod, "web", UID);
    let runtime_ = runtime(&bed, "1.1.0");
    let back = [("interface", "net1"), ("network", "back"), ("families", "v4,v6")];
    let ports: [(&str, &[(&str, &str)]); 2] = [("front", &[]), ("back", &back)];
    // The container comes first, its announcement later.
    let (result, took) = std::thread::scope(|scope| {
        let adding = scope.spawn(|| {
            let added = runtime_.add(&attachment);
            (added, Instant::now())
        });
        std::thread::sleep(Duration::from_millis(500));
        announce(&bed, UID, "web", &ports);
        let announced = Instant::now();
        let (added, ended) = adding.join().unwrap();
        (added.unwrap(), ended.saturating_duration_since(announced))
    });
    println!("ADD of two interfaces answered {took:?} after the announcement");
    let names: Vec<&str> = [1, 3].map(|n| result["interfaces"][n]["name"].as_str().unwrap()).into();
    assert_eq!(names, ["eth0", "net1"], "{result}");
    let of = |index: u64| {
        let ips = result["ips"].as_array().unwrap();
        let own = ips.iter().filter(|ip| ip["interface"] == index);
        own.map(|ip| ip["address"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(of(1)[0].starts_with("10.1.0.") && of(3)[0].starts_with("10.2.0."), "{result}");
    // It waited for what was announced to come.
    assert!(of(3).len() == 2 && of(3)[1].starts_with("fd00:2::"), "{result}");
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "10.1.0.254"}]));
    let routes = pod.run(Command::new("ip").args(["route", "show", "default"])).unwrap().stdout;
    assert!(routes.lines().count() == 1 && routes.contains("dev eth0"), "{routes}");
    for gateway in ["10.1.0.254", "10.2.0.254"] {
        assert!(pod.pings(gateway, 3).unwrap(), "{gateway}");
    }
    // However many it speaks to, its neighbours are the gateways: the kernel has room for few.
    for nobody in 100..110 {
        let _ = pod.pings(&format!("10.1.0.{nobody}"), 1).unwrap();
    }
    let neighbours = pod.run(Command::new("ip").args(["-4", "neigh"])).unwrap().stdout;
    assert!(neighbours.lines().all(|line| line.ends_with("PERMANENT ")), "{neighbours}");

    // Repeated, checked, collected.
    assert_eq!(runtime_.add(&attachment).unwrap(), result);
    runtime_.check(&attachment).unwrap();
    runtime_.gc(&[&attachment]).unwrap();
    runtime_.check(&attachment).unwrap();
    pod.ip("address flush dev net1\n").unwrap();
    let (code, message) = refused(runtime_.check(&attachment).unwrap_err());
    assert!(code == 101 && message.contains("net1"), "{message}");
    runtime_.add(&attachment).unwrap();
    runtime_.check(&attachment).unwrap();
    runtime_.status().unwrap();

    // The pod's sandbox is made anew: the ports move, and the old one's DEL does not touch them.
    let newer = host.pod("web-2").unwrap();
    let again = sandbox("c2", &newer, "web", UID);
    let second = runtime(&bed, "0.4.0").add(&again).unwrap();
    assert_eq!(second["ips"][0]["address"], result["ips"][0]["address"]);
    assert_eq!(second["ips"][0]["version"], "4");
    assert_eq!(links(&bed), 4);
    runtime_.del(&attachment).unwrap();
    assert_eq!(links(&bed), 2);
    assert!(newer.pings("10.1.0.254", 3).unwrap() && newer.pings("10.2.0.254", 3).unwrap());
    runtime(&bed, "1.0.0").del(&again).unwrap();
    assert_eq!(links(&bed), 0);
    assert_eq!(bed.look(0, "interfaces"), Vec::<Value>::new());
    // The configuration is its orchestrator's.
    let (status, _) = bed.api("GET", &format!("/virtual-machine/{UID}"), &Value::Null);
    assert_eq!(status, 200);
    // GC frees what the runtime does not know.
    runtime_.add(&attachment).unwrap();
    runtime_.gc(&[]).unwrap();
    assert_eq!(links(&bed), 0);
}

#[test]
fn add_says_what_is_missing_and_del_needs_nobody() {
    let mut bed = Bed::start("tpodx");
    bed.network("front", 1);
    let host = bed.fabric.node(0).host().clone();
    let pod = host.pod("web").unwrap();
    let runtime = runtime(&bed, "1.1.0");
    let unknown = sandbox("c0", &pod, "nobody", "5d1a2b3c-0000-4000-8000-00000000000f");
    let (code, message) = refused(runtime.add(&unknown).unwrap_err());
    assert_eq!(code, 11, "{message}");
    assert!(message.contains("virtual-machine") && message.contains("kube-manager"), "{message}");
    assert_eq!(links(&bed), 0);
    // Without CNI_ARGS there is no pod to ask for.
    let (code, message) = refused(runtime.add(&Attachment::new("c0", &pod.path())).unwrap_err());
    assert!(code == 7 && message.contains("network"), "{message}");
    runtime.del(&unknown).unwrap();

    // By name, without a uid; two interfaces in one network.
    announce(&bed, UID, "web", &[("front", &[]), ("front", &[("default-route", "true")])]);
    let attachment = sandbox("c1", &pod, "web", "");
    let result = runtime.add(&attachment).unwrap();
    assert_eq!(result["interfaces"][3]["name"], "eth1");
    let routes = pod.run(Command::new("ip").args(["route", "show", "default"])).unwrap().stdout;
    assert!(routes.lines().count() == 1 && routes.contains("dev eth1"), "{routes}");

    bed.fabric.kill_controller().unwrap();
    // A known pod's ADD and its CHECK need no controller; neither does its DEL.
    assert_eq!(runtime.add(&attachment).unwrap(), result);
    runtime.check(&attachment).unwrap();
    bed.fabric.node_mut(0).kill_agent().unwrap();
    runtime.del(&attachment).unwrap();
    assert_eq!(links(&bed), 0);
    bed.fabric.node_mut(0).start_agent_alone().unwrap();
    soon("the agent to forget the pod", || bed.look(0, "interfaces").is_empty());
    let again = sandbox("c2", &pod, "web", "");
    let (code, message) = refused(runtime.add(&again).unwrap_err());
    assert!(code == 11 && message.contains("controller"), "{message}");
    bed.fabric.restart_controller().unwrap();
    soon("the agent's session", || runtime.status().is_ok());
    assert_eq!(runtime.add(&again).unwrap()["ips"], result["ips"]);
    runtime.del(&again).unwrap();
}
