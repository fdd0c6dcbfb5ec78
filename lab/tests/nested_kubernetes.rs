//! A Kubernetes whose nodes are machines of a fabric: its own API server and controllers, the real manager in nested mode, and
//! QEMU guests on two nodes as its nodes. The test has the kubelet's part: it calls the CNI plugin in the guests and tells the
//! API server what became of it. Needs root, QEMU, Debian's kernel for clouds and the programs of Kubernetes.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]

mod support;

use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, ClusterOptions};
use skein_lab::{Host, Machine, MachineImage, Process, wait_for};
use std::process::Command;
use std::time::{Duration, Instant};
use support::inside::{Inside, link_local};
use support::{Bed, PATIENCE, programs, soon};

/// Where the manager, beside the API server, reaches the fabric's configuration.
const FABRIC: &str = "172.30.255.2";
const MANAGER: &str = "172.30.255.1";
const NODES: &str = "default-domain:shop:machines";
const MANAGER_STATUS: u16 = 8108;

/// A wire between the host of the Kubernetes control plane and that of the fabric's controller, which have an underlay each.
fn join(cluster: &Host, fabric: &Host) {
    cluster
        .ip(&format!(
            "link add to-fabric type veth peer name to-cluster netns {}\n\
             address add {MANAGER}/30 dev to-fabric\n\
             link set to-fabric up\n",
            fabric.namespace()
        ))
        .unwrap();
    fabric
        .ip(&format!("address add {FABRIC}/30 dev to-cluster\nlink set to-cluster up\n"))
        .unwrap();
}

fn manager(cluster: &Cluster) -> Process {
    let mut command = Command::new(programs::folder().join("skeind"));
    command
        .arg("kube-manager")
        .args(["--api", &format!("http://{FABRIC}:8082")])
        .arg("--kubeconfig")
        .arg(cluster.admin_kubeconfig())
        .args(["--identity", "manager", "--nested-mode", "true", "--cluster-network", NODES])
        .args(["--pod-subnets", "10.244.0.0/16", "--service-subnets", "10.96.0.0/16"]);
    let host = cluster.control_host();
    let mut process = host.spawn("kube-manager", &mut command).unwrap();
    process
        .wait_ready(Duration::from_secs(30), || {
            let answer =
                host.http(MANAGER_STATUS, "GET", "/readyz", "").map_err(|e| e.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(answer.body) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    process
}

/// Tells why, when the test fails.
struct Why<'a>(&'a Cluster);

impl Drop for Why<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("events:\n  {}", self.0.events("default").unwrap_or_default().join("\n  "));
            let log = self.0.control_host().directory().join("kube-manager.log");
            println!("{}", std::fs::read_to_string(log).unwrap_or_default());
        }
    }
}

/// What a kubelet does to join.
fn register(cluster: &Cluster, name: &str, address: &str) {
    cluster.api().create("/api/v1/nodes", &json!({"metadata": {"name": name}})).unwrap();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    cluster.api().merge(&format!("/api/v1/nodes/{name}/status"), &status).unwrap();
}

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}

/// A pod that the scheduler put on a node; gives its uid.
fn schedule(cluster: &Cluster, node: &str, namespace: &str, name: &str, labels: &Value) -> String {
    let pod = json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none"}]},
    });
    // In a new namespace none is taken before its service account has what it needs.
    let made = wait_for("a pod to be taken", PATIENCE, || {
        let made = cluster.api().create(&format!("/api/v1/namespaces/{namespace}/pods"), &pod);
        made.map_err(|error| error.to_string())
    });
    made.unwrap()["metadata"]["uid"].as_str().unwrap().to_owned()
}

/// What a kubelet tells of a pod that runs.
fn tell(cluster: &Cluster, pod: &Inside, machine: &Machine) {
    let (now, ready) = ("2026-01-01T00:00:00Z", "True");
    let conditions: Vec<Value> = ["Initialized", "ContainersReady", "Ready"]
        .map(|kind| json!({"type": kind, "status": ready, "lastTransitionTime": now}))
        .to_vec();
    let status = json!({"status": {
        "phase": "Running", "hostIP": machine.ipv4, "podIP": pod.ipv4,
        "podIPs": [{"ip": pod.ipv4}], "conditions": conditions,
    }});
    cluster.api().merge(&format!("{}/status", path(&pod.namespace, &pod.name)), &status).unwrap();
}

/// Schedules, attaches and tells.
fn start(
    cluster: &Cluster,
    (node, machine): (&str, &mut Machine),
    namespace: &str,
    name: &str,
    labels: &Value,
    kind: &'static str,
) -> Inside {
    let uid = schedule(cluster, node, namespace, name, labels);
    let pod = Inside::new(namespace, name, &uid, kind).add(machine);
    tell(cluster, &pod, machine);
    pod
}

/// The VLANs of a node's sub-interfaces.
fn vlans(bed: &Bed, node: usize) -> Vec<u64> {
    let all = bed.look(node, "interfaces");
    let mut tags: Vec<u64> = all.iter().filter_map(|entry| entry["vlan"].as_u64()).collect();
    tags.sort_unstable();
    tags
}

fn fetch(pod: &Inside, machine: &mut Machine, url: &str) -> Option<String> {
    let said = pod.run(machine, &format!("timeout 2 wget -q -O - {url}"));
    (said.code == 0).then(|| said.text.trim().to_owned())
}

#[test]
fn pods_of_a_kubernetes_in_machines_are_what_its_manager_makes_of_them() {
    let bed = Bed::start("tnestk");
    bed.network("machines", 1);
    link_local(&bed);
    let folder = bed.fabric.node(0).host().directory().to_owned();
    let plugin = std::fs::canonicalize(folder.join("cni-bin/skein")).unwrap();
    let image = MachineImage::make(&folder, &[("skein", plugin.as_path())])
        .unwrap_or_else(|e| panic!("{e}"));
    let mut one = Machine::start(bed.fabric.node(0), "one", NODES, &image).unwrap();
    let mut two = Machine::start(bed.fabric.node(1), "two", NODES, &image).unwrap();
    let options = ClusterOptions {
        nodes: 0,
        // Nobody beats these nodes' hearts.
        controller_manager_arguments: vec!["--controllers=-nodelifecycle".into()],
        ..ClusterOptions::new(&programs::folder())
    };
    let cluster = Cluster::start("tnkube", options).unwrap_or_else(|error| panic!("{error}"));
    join(cluster.control_host(), bed.fabric.control_host());
    let mut running = manager(&cluster);
    let _why = Why(&cluster);
    register(&cluster, "one", &one.ipv4);
    register(&cluster, "two", &two.ipv4);

    // Pods, in both forms, on both machines.
    let since = Instant::now();
    let a =
        start(&cluster, ("one", &mut one), "default", "a", &json!({"app": "client"}), "macvlan");
    println!("a pod has an address {:?} after it was scheduled", since.elapsed());
    let b = start(&cluster, ("two", &mut two), "default", "b", &json!({"app": "web"}), "vlan");
    let c = start(&cluster, ("two", &mut two), "default", "c", &json!({"app": "web"}), "macvlan");
    for pod in [&a, &b, &c] {
        assert!(pod.ipv4.starts_with("10.244."), "{pod:?}");
    }
    soon("pods of two machines to reach each other", || a.pings(&mut one, &b.ipv4));
    soon("pods of one machine, too", || b.pings(&mut two, &a.ipv4) && b.pings(&mut two, &c.ipv4));
    assert_eq!((vlans(&bed, 0).len(), vlans(&bed, 1).len()), (1, 2));
    // Nodes and pods reach each other, as Kubernetes demands.
    let first = one.ipv4.clone();
    soon("nodes to answer", || a.pings(&mut one, &first) && a.pings(&mut one, &two.ipv4));
    soon("a pod to answer a node", || {
        one.run(&format!("ping -c 1 -W 1 {}", b.ipv4)).unwrap().code == 0
    });

    // A service of the cluster, whose endpoints its own controllers found.
    for pod in [&b, &c] {
        two.must(&format!("mkdir -p /tmp/{0}; echo {0} > /tmp/{0}/who", pod.name)).unwrap();
        pod.run(&mut two, &format!("httpd -p 80 -h /tmp/{}", pod.name));
    }
    let service = json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 8080, "targetPort": 80}]},
    });
    let made = cluster.api().create("/api/v1/namespaces/default/services", &service).unwrap();
    let vip = format!("http://{}:8080/who", made["spec"]["clusterIP"].as_str().unwrap());
    let mut seen = std::collections::BTreeSet::new();
    soon("both backends to answer", || {
        seen.extend(fetch(&a, &mut one, &vip));
        seen.len() == 2
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["b", "c"]);
    soon("a backend to reach its own service", || fetch(&b, &mut two, &vip).is_some());
    soon("a node to be served", || {
        one.run(&format!("timeout 2 wget -q -O - {vip}")).unwrap().code == 0
    });

    // Policies of the cluster are in force at the outer nodes.
    let policy = json!({
        "metadata": {"name": "friends"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "friend"}}}]}],
        },
    });
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    cluster.api().create(policies, &policy).unwrap();
    soon("the policy to be in force", || fetch(&a, &mut one, &vip).is_none());
    // A page that was only slow would have looked the same.
    soon("the policy for everyone", || !a.pings(&mut one, &b.ipv4) && !c.pings(&mut two, &b.ipv4));
    let label = json!({"metadata": {"labels": {"role": "friend"}}});
    cluster.api().merge(&path("default", "a"), &label).unwrap();
    soon("a friend to be let in", || fetch(&a, &mut one, &vip).is_some());
    assert!(!c.pings(&mut two, &b.ipv4), "on the same machine, too");

    // An isolated namespace is one in machines as well.
    let isolation = json!({"metadata": {
        "name": "alone", "annotations": {"opencontrail.org/isolation": "true"},
    }});
    cluster.api().create("/api/v1/namespaces", &isolation).unwrap();
    let d = start(&cluster, ("two", &mut two), "alone", "d", &json!({}), "vlan");
    let e = start(&cluster, ("one", &mut one), "alone", "e", &json!({}), "vlan");
    soon("pods of a namespace to reach each other", || d.pings(&mut two, &e.ipv4));
    soon("them to reach out", || d.pings(&mut two, &a.ipv4));
    assert!(!a.pings(&mut one, &d.ipv4) && !c.pings(&mut two, &d.ipv4), "nobody reaches in");

    // A node that is no machine of the network: told, and no hang for the others.
    register(&cluster, "stranger", "10.1.0.250");
    schedule(&cluster, "stranger", "default", "lost", &json!({}));
    wait_for("the Event", PATIENCE, || {
        let events = cluster.events("default").map_err(|error| error.to_string())?;
        let found = events.iter().any(|text| text.starts_with("lost: UnknownNode"));
        if found { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .unwrap();

    // A manager that ends harms nobody, and the next one finds everything as it is.
    let before = (vlans(&bed, 0), vlans(&bed, 1));
    running.kill().unwrap();
    soon("the service without a manager", || fetch(&a, &mut one, &vip).is_some());
    running = manager(&cluster);
    let late = start(&cluster, ("one", &mut one), "default", "late", &json!({}), "macvlan");
    soon("a pod of the second manager's", || late.pings(&mut one, &a.ipv4));
    let after = (vlans(&bed, 0), vlans(&bed, 1));
    assert!(before.0.iter().all(|tag| after.0.contains(tag)), "{before:?} {after:?}");
    assert_eq!((before.1, before.0.len() + 1), (after.1, after.0.len()));

    // A pod goes: from the service, from the machine, from the fabric.
    cluster.api().delete(&format!("{}?gracePeriodSeconds=0", path("default", "b"))).unwrap();
    assert_eq!(b.call(&mut two, "DEL", &b.container()).code, 0);
    soon("the sub-interface to go", || vlans(&bed, 1).len() == 2);
    soon("the other backend to be asked alone", || {
        (0..4).all(|_| fetch(&a, &mut one, &vip).as_deref() == Some("c"))
    });
    running.check().unwrap();
}
