//! What holds while programs of the node and of the control plane are killed.

use crate::held::Held;
use crate::{
    NODES, PATIENCE, PER_NODE, PODS_READY, Steps, assert_all_pairs, assert_same, dns, other_node,
    quickly, replace_a_pod,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Cluster, KubePod, NetworkOptions, PROBE_IMAGE, SkeinNetwork, StreamReport,
};
use skein_lab::wait_for;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long traffic goes on before and after a restart.
const AROUND: Duration = Duration::from_secs(2);
/// How long a program stays dead.
const DEAD: Duration = Duration::from_secs(1);
/// How long a program may take to end when it is asked to.
const ORDERLY: Duration = Duration::from_secs(10);
/// None of them is in a packet's way; this much the load of a restart may cost, in milliseconds.
const LONGEST_PAUSE: f64 = 3000.0;

pub(crate) fn check(
    cluster: &mut Cluster,
    network: &mut SkeinNetwork,
    options: &NetworkOptions,
    held: &Held,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    let (first, last) = (&pods[0], other_node(pods, &pods[0]));
    let node = cluster.nodes().iter().position(|node| node.name() == first.node).unwrap();
    let count = NODES * PER_NODE;
    let ends = Ends { first, last, held, member: held.member(first) };

    ends.under_traffic(&cluster.state(), || {
        network.manager.kill().unwrap();
        // A pod that nobody announces waits for the manager, and no longer.
        cluster.apply(&late_pod("late", cluster.nodes()[node].name())).unwrap();
        std::thread::sleep(DEAD);
        let since = Instant::now();
        network.restart_manager().unwrap();
        cluster.wait_pods("default", "app=late", 1, PODS_READY).unwrap();
        println!("a late pod is ready {:.1} s after the manager", since.elapsed().as_secs_f64());
    });
    ends.hold(cluster, "kube-manager killed and started again", steps);
    ends.under_traffic(&cluster.state(), || {
        network.kill_controller().unwrap();
        std::thread::sleep(DEAD);
        let since = Instant::now();
        network.restart_controller().unwrap();
        cluster.apply(&late_pod("later", cluster.nodes()[node].name())).unwrap();
        cluster.wait_pods("default", "app=later", 1, PODS_READY).unwrap();
        println!("a new pod is ready {:.1} s after the controller", since.elapsed().as_secs_f64());
    });
    ends.hold(cluster, "controller killed and started again", steps);
    ends.under_traffic(&cluster.state(), || {
        network.agent(node).kill().unwrap();
        std::thread::sleep(DEAD);
        network.restart_agent(node).unwrap();
    });
    ends.hold(cluster, "agent killed and started again", steps);
    ends.under_traffic(&cluster.state(), || {
        cluster.node_mut(node).kubelet.kill().unwrap();
        cluster.restart_kubelet(node).unwrap();
    });
    ends.hold(cluster, "kubelet killed and started again", steps);

    ends.under_traffic(&cluster.state(), || {
        cluster.restart_runtime(node).unwrap();
        cluster.apply(&late_pod("after-runtime", cluster.nodes()[node].name())).unwrap();
        cluster.wait_pods("default", "app=after-runtime", 1, PODS_READY).unwrap();
    });
    ends.hold(cluster, "container runtime killed and started again", steps);
    ends.under_traffic(&cluster.state(), || {
        cluster.control_plane.api_server.kill().unwrap();
        std::thread::sleep(DEAD);
        cluster.control_plane.restart_api_server().unwrap();
        cluster.apply(&late_pod("after-api", cluster.nodes()[node].name())).unwrap();
        cluster.wait_pods("default", "app=after-api", 1, PODS_READY).unwrap();
    });
    ends.hold(cluster, "API server killed and started again", steps);
    ends.under_traffic(&cluster.state(), || {
        cluster.control_plane.etcd.kill().unwrap();
        std::thread::sleep(DEAD);
        cluster.control_plane.restart_etcd().unwrap();
        cluster.apply(&late_pod("after-etcd", cluster.nodes()[node].name())).unwrap();
        cluster.wait_pods("default", "app=after-etcd", 1, PODS_READY).unwrap();
    });
    ends.hold(cluster, "etcd killed and started again", steps);
    missed_deletes(cluster, network);
    ends.hold(cluster, "deleted while the manager was away", steps);
    take_over(cluster, network, options, last);
    ends.hold(cluster, "a standing-by manager took over", steps);

    assert_same(pods, &cluster.wait_pods("default", "app=probe", count, PODS_READY).unwrap());
    assert_all_pairs(pods, quickly);
    crate::assert_hosts_reach(cluster, pods);
    replace_a_pod(cluster, pods, first);
    steps.done("a pod replaced after the restarts");
}

fn late_pod(name: &str, node: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
           nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  \
           containers: [{{name: probe, image: \"{PROBE_IMAGE}\", imagePullPolicy: Never}}]\n"
    )
}

/// What is deleted while no manager runs is cleared away when one does.
fn missed_deletes(cluster: &Cluster, network: &mut SkeinNetwork) {
    let api = cluster.api();
    let service = json!({"metadata": {"name": "missed"}, "spec": {"ports": [{"port": 80}]}});
    let policy = json!({"metadata": {"name": "missed"}, "spec": {"podSelector": {"matchLabels": {"app": "missed"}}}});
    crate::create_namespace(cluster, &json!({"name": "missed"}));
    let node = cluster.nodes()[0].name();
    cluster.apply(&late_pod("missed", node)).unwrap();
    cluster.wait_pods("default", "app=missed", 1, PODS_READY).unwrap();
    let services = "/api/v1/namespaces/default/services";
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    api.create(services, &service).unwrap();
    api.create(policies, &policy).unwrap();
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let backend = json!({"service": {"name": "missed", "port": {"number": 80}}});
    let ingress = json!({
        "metadata": {
            "name": "missed-page", "annotations": {"kubernetes.io/ingress.class": "opencontrail"},
        },
        "spec": {"defaultBackend": backend},
    });
    api.create(ingresses, &ingress).unwrap();
    let left = |network: &SkeinNetwork| -> Vec<String> {
        let kinds = ["project", "virtual-machine", "loadbalancer", "firewall-policy"];
        let lists = kinds.map(|kind| network.skein(&["get", kind]).unwrap().stdout);
        let lines = lists.iter().flat_map(|list| list.lines());
        lines.filter(|line| line.contains("missed")).map(str::to_owned).collect()
    };
    wait_for("all objects", PATIENCE, || match left(network) {
        // The Ingress has a load balancer as the service has.
        list if list.len() == 5 => Ok(()),
        list => Err(format!("{list:?}")),
    })
    .unwrap();
    network.manager.kill().unwrap();
    let pods = "/api/v1/namespaces/default/pods/missed";
    let namespace = "/api/v1/namespaces/missed".to_owned();
    let paths = [
        format!("{ingresses}/missed-page"),
        format!("{services}/missed"),
        format!("{policies}/missed"),
        pods.into(),
        namespace,
    ];
    for path in paths {
        api.delete(&path).unwrap();
    }
    wait_for("the pod to go", PODS_READY, || match api.find(pods).unwrap() {
        None => Ok(()),
        Some(_) => Err("it is there"),
    })
    .unwrap();
    network.restart_manager().unwrap();
    wait_for("what is left over to go", PODS_READY, || match left(network) {
        list if list.is_empty() => Ok(()),
        list => Err(format!("{list:?}")),
    })
    .unwrap();
}

/// The manager that leads dies; another one makes the next pod, and reaches those of the first.
fn take_over(
    cluster: &Cluster,
    network: &mut SkeinNetwork,
    options: &NetworkOptions,
    old: &KubePod,
) {
    let port = 8118;
    let mut standby = network.standby_manager(cluster, options, port).unwrap();
    let leads = || {
        let answer = cluster.control_host().http(port, "GET", "/v1/status", "").unwrap();
        let status: Value = serde_json::from_str(&answer.body).unwrap();
        status["leading"] == true
    };
    assert!(!leads(), "two lead");
    network.manager.kill().unwrap();
    let since = Instant::now();
    cluster.apply(&late_pod("taken", cluster.nodes()[0].name())).unwrap();
    let new = cluster.wait_pods("default", "app=taken", 1, PODS_READY).unwrap();
    println!("a pod is ready {:.1} s after the manager's death", since.elapsed().as_secs_f64());
    assert!(leads());
    assert_all_pairs(&[new[0].clone(), old.clone()], quickly);
    // Names, too, are its affair now: of a service that it never saw before, and of one that was there.
    let service = json!({"metadata": {"name": "taken"}, "spec": {"ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    cluster.api().create(services, &service).unwrap();
    cluster.apply(dns::FRONT).unwrap();
    for name in ["taken.default", "kept.default", "kubernetes.default"] {
        dns::wait_answer(old, &["-type=a", &format!("{name}.svc.cluster.local")]);
    }
    cluster.api().delete(&format!("{services}/taken")).unwrap();
    // And back: one that ends in order gives the Lease back, and nobody waits for its end.
    network.restart_manager().unwrap();
    assert!(leads());
    let since = Instant::now();
    standby.process().stop(ORDERLY).unwrap();
    cluster.apply(&late_pod("given-back", cluster.nodes()[0].name())).unwrap();
    let newer = cluster.wait_pods("default", "app=given-back", 1, PODS_READY).unwrap();
    let took = since.elapsed();
    println!("a pod is ready {:.1} s after the manager's orderly end", took.as_secs_f64());
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_all_pairs(&[new[0].clone(), newer[0].clone(), old.clone()], quickly);
}

/// Two pods with traffic between them, and the member of a service that one of them has.
struct Ends<'a> {
    first: &'a KubePod,
    last: &'a KubePod,
    held: &'a Held,
    member: String,
}

impl Ends<'_> {
    /// Does something while a connection from one pod to the other and one to a service are busy, which must not notice.
    fn under_traffic(&self, state: &Path, something: impl FnOnce()) {
        let since = Instant::now();
        // Ended by hand: how long the restart takes is not known before.
        let target = format!("{}:80", self.last.address);
        let direct = self.first.stream(&target, &state.join("stream.log")).unwrap();
        let log = state.join("stream-service.log");
        let served = self.first.stream(&self.held.service, &log).unwrap();
        std::thread::sleep(AROUND);
        something();
        std::thread::sleep(AROUND);
        for (stream, pod) in [(direct, &self.last.name), (served, &self.member)] {
            let report: StreamReport = stream.finish().unwrap();
            println!("traffic for {:.1} s: {report:?}", since.elapsed().as_secs_f64());
            assert_eq!(report.error, None);
            assert_eq!(report.pod, *pod);
            assert!(report.echoes > 100, "{report:?}");
            assert!(report.longest_gap < LONGEST_PAUSE, "{report:?}");
        }
    }

    /// What else holds: policies, ports, ways, and the member of a client that comes again.
    fn hold(&self, cluster: &Cluster, what: &str, steps: &mut Steps) {
        self.held.check(cluster, what);
        assert_eq!(self.held.member(self.first), self.member, "the client's member after {what}");
        steps.done(what);
    }
}
