//! What holds while programs of the node and of the control plane are killed.

use crate::followed::Followed;
use crate::held::Held;
use crate::watch::Watch;
use crate::{
    NODES, PATIENCE, PER_NODE, PODS_GONE, PODS_READY, Steps, assert_all_pairs, assert_same, dns,
    other_node, quickly, replace_a_pod, streams,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, NetworkOptions, PROBE_IMAGE, SkeinNetwork, Stream};
use skein_lab::wait_for;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long traffic goes on before and after a restart.
const AROUND: Duration = Duration::from_secs(2);
/// How long a program stays dead at least.
const DEAD: Duration = Duration::from_secs(1);
/// What the managers compete for.
const LEASE: &str =
    "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/skein-kube-manager-k8s";
/// How long a program may take to end when it is asked to.
const ORDERLY: Duration = Duration::from_secs(10);

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
    let member = held.member(first);
    let same_member = Watch::answered_by(first, format!("tcp:{}", held.service), &member);
    let followed = Followed::start(cluster, network, first, pods);
    let mut ends = Ends { first, last, held, member, same_member, followed };
    let late = |cluster: &Cluster, name: &str| {
        late_pod(cluster, name, cluster.nodes()[node].name());
        cluster.wait_pods("default", &format!("app={name}"), 1, PODS_READY).unwrap();
    };

    ends.under_traffic(&cluster.state(), |traffic| {
        network.manager.kill().unwrap();
        // A pod that nobody announces waits for the manager, and no longer.
        late_pod(cluster, "late", cluster.nodes()[node].name());
        traffic.goes_on_without_it();
        let since = Instant::now();
        network.restart_manager().unwrap();
        cluster.wait_pods("default", "app=late", 1, PODS_READY).unwrap();
        println!("a late pod is ready {:.1} s after the manager", since.elapsed().as_secs_f64());
    });
    ends.hold(cluster, network, "kube-manager killed and started again", steps);
    ends.under_traffic(&cluster.state(), |traffic| {
        network.kill_controller().unwrap();
        traffic.goes_on_without_it();
        let since = Instant::now();
        network.restart_controller().unwrap();
        late(cluster, "later");
        println!("a new pod is ready {:.1} s after the controller", since.elapsed().as_secs_f64());
    });
    ends.hold(cluster, network, "controller killed and started again", steps);
    ends.under_traffic(&cluster.state(), |traffic| {
        network.agent(node).kill().unwrap();
        traffic.goes_on_without_it();
        network.restart_agent(node).unwrap();
    });
    ends.hold(cluster, network, "agent killed and started again", steps);
    ends.under_traffic(&cluster.state(), |traffic| {
        cluster.node_mut(node).kubelet.kill().unwrap();
        traffic.goes_on_without_it();
        cluster.restart_kubelet(node).unwrap();
    });
    ends.hold(cluster, network, "kubelet killed and started again", steps);

    ends.under_traffic(&cluster.state(), |traffic| {
        cluster.restart_runtime(node).unwrap();
        traffic.goes_on_without_it();
        late(cluster, "after-runtime");
    });
    ends.hold(cluster, network, "container runtime killed and started again", steps);
    ends.under_traffic(&cluster.state(), |traffic| {
        cluster.control_plane.api_server.kill().unwrap();
        traffic.goes_on_without_it();
        cluster.control_plane.restart_api_server().unwrap();
        late(cluster, "after-api");
    });
    ends.hold(cluster, network, "API server killed and started again", steps);
    ends.under_traffic(&cluster.state(), |traffic| {
        cluster.control_plane.etcd.kill().unwrap();
        traffic.goes_on_without_it();
        cluster.control_plane.restart_etcd().unwrap();
        late(cluster, "after-etcd");
    });
    ends.hold(cluster, network, "etcd killed and started again", steps);
    missed_deletes(cluster, network);
    ends.hold(cluster, network, "deleted while the manager was away", steps);
    take_over(cluster, network, options, last);
    ends.hold(cluster, network, "a standing-by manager took over", steps);
    println!("{}", ends.same_member);
    ends.followed.end(cluster);
    // Before its pod goes.
    drop(ends.same_member);

    assert_same(pods, &cluster.wait_pods("default", "app=probe", count, PODS_READY).unwrap());
    assert_all_pairs(pods, quickly);
    crate::assert_hosts_reach(cluster, pods);
    replace_a_pod(cluster, pods, first);
    steps.done("a pod replaced after the restarts");
}

/// Makes a pod; right after a restart of its store an API server may still refuse to write.
fn late_pod(cluster: &Cluster, name: &str, node: &str) {
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
           nodeName: {node}\n  terminationGracePeriodSeconds: 1\n  \
           containers: [{{name: probe, image: \"{PROBE_IMAGE}\", imagePullPolicy: Never}}]\n"
    );
    wait_for("a pod to be taken", PATIENCE, || cluster.apply(&pod).map_err(|e| e.to_string()))
        .unwrap_or_else(|error| panic!("{error}"));
}

/// What is deleted while no manager runs is cleared away when one does.
fn missed_deletes(cluster: &Cluster, network: &mut SkeinNetwork) {
    let api = cluster.api();
    let service = json!({"metadata": {"name": "missed"}, "spec": {"ports": [{"port": 80}]}});
    let policy = json!({"metadata": {"name": "missed"}, "spec": {"podSelector": {"matchLabels": {"app": "missed"}}}});
    crate::create_namespace(cluster, &json!({"name": "missed"}));
    let node = cluster.nodes()[0].name();
    late_pod(cluster, "missed", node);
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
    wait_for("the pod to go", PODS_GONE, || match api.find(pods).unwrap() {
        None => Ok(()),
        Some(_) => Err("it is there"),
    })
    .unwrap();
    network.restart_manager().unwrap();
    wait_for("what is left over to go", PODS_GONE, || match left(network) {
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
    let node = cluster.nodes()[0].name();
    let holder = || {
        let lease = cluster.api().get(LEASE).unwrap();
        lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    };
    let first = holder();
    let mut standby = network.standby_manager(cluster, options, port).unwrap();
    let leads = || {
        let answer = cluster.control_host().http(port, "GET", "/v1/status", "").unwrap();
        let status: Value = serde_json::from_str(&answer.body).unwrap();
        status["leading"] == true
    };
    assert!(!leads() && !first.is_empty() && holder() == first, "two lead");
    network.manager.kill().unwrap();
    let since = Instant::now();
    late_pod(cluster, "taken", node);
    let new = cluster.wait_pods("default", "app=taken", 1, PODS_READY).unwrap();
    println!("a pod is ready {:.1} s after the manager's death", since.elapsed().as_secs_f64());
    let second = holder();
    assert!(leads() && second != first, "{second} leads");
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
    assert!(leads() && holder() == second);
    let since = Instant::now();
    let lease = || cluster.api().get(LEASE).unwrap()["spec"].take();
    let time = |value: &Value| value.as_str().unwrap().parse::<Timestamp>().unwrap();
    let kept = lease();
    assert_eq!(kept["leaseDurationSeconds"], 15, "{kept}");
    standby.process().stop(ORDERLY).unwrap();
    let given = holder();
    assert_ne!(given, second, "a manager that ended holds the Lease");
    late_pod(cluster, "given-back", node);
    let newer = cluster.wait_pods("default", "app=given-back", 1, PODS_READY).unwrap();
    let took = since.elapsed();
    println!("a pod is ready {:.1} s after the manager's orderly end", took.as_secs_f64());
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(holder(), first);
    // Taken before the one who had it would have lost it.
    let taken = lease();
    let waited = time(&taken["acquireTime"]).duration_since(time(&kept["renewTime"]));
    assert!(waited.as_secs_f64() < 15.0, "{kept}, then {taken}");
    assert_all_pairs(&[new[0].clone(), newer[0].clone(), old.clone()], quickly);
}

/// Two pods with traffic between them, and the members of services that one of them has.
struct Ends<'a> {
    first: &'a KubePod,
    last: &'a KubePod,
    held: &'a Held,
    /// Of the service whose endpoints stay.
    member: String,
    same_member: Watch,
    followed: Followed<'a>,
}

/// A connection from pod to pod, and one to a service.
struct Traffic([Stream; 2]);

impl Traffic {
    fn goes_on_without_it(&self) {
        std::thread::sleep(DEAD);
        self.0.iter().for_each(streams::goes_on);
    }
}

impl Ends<'_> {
    /// Does something while a connection from one pod to the other and one to a service are busy, which must not notice.
    fn under_traffic(&self, state: &Path, something: impl FnOnce(&Traffic)) {
        let since = Instant::now();
        // Ended by hand: how long the restart takes is not known before.
        let target = format!("{}:80", self.last.address);
        let direct = self.first.stream(&target, &state.join("stream.log")).unwrap();
        let log = state.join("stream-service.log");
        let served = self.first.stream(&self.held.service, &log).unwrap();
        let traffic = Traffic([direct, served]);
        std::thread::sleep(AROUND);
        something(&traffic);
        std::thread::sleep(AROUND);
        for (stream, pod) in traffic.0.into_iter().zip([&self.last.name, &self.member]) {
            let report = streams::unnoticed(stream, pod);
            assert!(report.echoes > 100, "{report:?}");
            println!("traffic for {:.1} s: {report:?}", since.elapsed().as_secs_f64());
        }
    }

    /// What else holds: policies, ports, ways, and the members of a client that comes again and again.
    fn hold(&mut self, cluster: &Cluster, network: &SkeinNetwork, what: &str, steps: &mut Steps) {
        let before = self.same_member.rounds();
        self.held.check(cluster, what);
        assert_eq!(self.held.member(self.first), self.member, "the client's member after {what}");
        self.same_member.check(before);
        self.followed.check(cluster, network, what);
        steps.done(what);
    }
}
