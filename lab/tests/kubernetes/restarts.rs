//! What holds while programs of the node and of the control plane are killed.

use crate::{
    NODES, PER_NODE, PODS_READY, Steps, assert_all_pairs, assert_same, other_node, quickly,
    replace_a_pod,
};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, SkeinNetwork, StreamReport};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long traffic goes on before and after a restart.
const AROUND: Duration = Duration::from_secs(2);
/// How long a program stays dead.
const DEAD: Duration = Duration::from_secs(1);
/// None of them is in a packet's way; this much the load of a restart may cost, in milliseconds.
const LONGEST_PAUSE: f64 = 3000.0;

pub(crate) fn check(
    cluster: &mut Cluster,
    network: &mut SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    let (first, last) = (&pods[0], other_node(pods, &pods[0]));
    let node = cluster.nodes().iter().position(|node| node.name() == first.node).unwrap();
    let count = NODES * PER_NODE;

    under_traffic(&cluster.state(), first, last, || {
        network.manager.kill().unwrap();
        // A pod that nobody announces waits for the manager, and no longer.
        cluster.apply(&late_pod("late", cluster.nodes()[node].name())).unwrap();
        std::thread::sleep(DEAD);
        let since = Instant::now();
        network.restart_manager().unwrap();
        cluster.wait_pods("default", "app=late", 1, PODS_READY).unwrap();
        println!("a late pod is ready {:.1} s after the manager", since.elapsed().as_secs_f64());
    });
    steps.done("kube-manager killed and started again");
    under_traffic(&cluster.state(), first, last, || {
        network.controller.kill().unwrap();
        std::thread::sleep(DEAD);
        let since = Instant::now();
        network.restart_controller().unwrap();
        cluster.apply(&late_pod("later", cluster.nodes()[node].name())).unwrap();
        cluster.wait_pods("default", "app=later", 1, PODS_READY).unwrap();
        println!("a new pod is ready {:.1} s after the controller", since.elapsed().as_secs_f64());
    });
    steps.done("controller killed and started again");
    under_traffic(&cluster.state(), first, last, || {
        network.agent(node).kill().unwrap();
        std::thread::sleep(DEAD);
        network.restart_agent(node).unwrap();
    });
    steps.done("agent killed and started again");
    under_traffic(&cluster.state(), first, last, || {
        cluster.node_mut(node).kubelet.kill().unwrap();
        cluster.restart_kubelet(node).unwrap();
    });
    steps.done("kubelet killed and started again");

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

/// Does something while a connection from one pod to another is busy, which must not notice.
fn under_traffic(state: &Path, from: &KubePod, to: &KubePod, something: impl FnOnce()) {
    let target = format!("{}:80", to.address);
    let since = Instant::now();
    // Ended by hand: how long the restart takes is not known before.
    let stream = from.stream(&target, &state.join("stream.log")).unwrap();
    std::thread::sleep(AROUND);
    something();
    std::thread::sleep(AROUND);
    let report: StreamReport = stream.finish().unwrap();
    println!("traffic for {:.1} s: {report:?}", since.elapsed().as_secs_f64());
    assert_eq!(report.error, None);
    assert_eq!(report.pod, to.name);
    assert!(report.echoes > 100, "{report:?}");
    assert!(report.longest_gap < LONGEST_PAUSE, "{report:?}");
}
