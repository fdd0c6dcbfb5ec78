//! Services: cluster addresses, node ports and host ports, all by the nodes themselves.

use super::Stage;
use super::reach::{ANSWER, answered_by};
use super::stage::SETTLED;
use skein_lab::kubernetes::{ClusterError, KubePod, ask_from};
use skein_lab::wait_for;

const PODS: usize = 9;
const NODE_PORT: u16 = 30_080;
const HOST_PORT: u16 = 18_080;
/// Asked so often, one of nine members is left out once in many thousand runs.
pub(super) const OFTEN: usize = 120;

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    stage.apply("services.yaml")?;
    let members = stage.cluster.wait_pods("default", "app=probe", PODS, SETTLED)?;
    let target = stage.service("default", "probe")?;
    for protocol in ["tcp", "udp"] {
        let target = target.replace("tcp:", &format!("{protocol}:"));
        stage.step(&format!("every pod reaches {target}, and every pod serves it"), |_| {
            let targets = vec![target.clone(); OFTEN];
            for from in &members {
                answered_by(&members, || from.ask(&targets, ANSWER))?;
            }
            Ok(String::new())
        });
    }
    stage.step("so do programs of the nodes themselves", |stage| {
        let targets = vec![target.clone(); OFTEN];
        for node in stage.cluster.nodes() {
            let programs = &stage.cluster.options().programs;
            answered_by(&members, || ask_from(node.host(), programs, &targets, ANSWER))?;
        }
        Ok(String::new())
    });
    stage.step(
        &format!("port {NODE_PORT} of every node leads there, also from beyond the gateway"),
        |stage| {
            for node in stage.cluster.nodes() {
                let targets = vec![format!("tcp:{}:{NODE_PORT}", node.host().ipv4()); OFTEN];
                answered_by(&members, || stage.world_asks(&targets, ANSWER))?;
            }
            Ok("NodePort".into())
        },
    );
    host_port(stage)
}

fn host_port(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    stage.apply("host-port.yaml")?;
    let pod = stage.pod("default", "host-port")?;
    let text =
        format!("port {HOST_PORT} of the pod's node is the pod's, who sees the client outside");
    stage.step(&text, |stage| {
        let target = format!("tcp:{}:{HOST_PORT}", address_of_node(stage, &pod));
        let client = stage.outside.addresses().0.to_string();
        let held = wait_for("the pod", SETTLED, || {
            let outcomes = stage.world_asks(std::slice::from_ref(&target), ANSWER);
            let outcomes = outcomes.map_err(|error| error.to_string())?;
            let right = super::reach::seen_as(&outcomes, &client);
            if right { Ok(format!("seen as {client}")) } else { Err(format!("{outcomes:?}")) }
        });
        held.map_err(|error| error.to_string())
    });
    Ok(())
}

/// Where a pod's node is in the underlay.
pub(super) fn address_of_node(stage: &Stage<'_>, pod: &KubePod) -> String {
    let mut nodes = stage.cluster.nodes().iter();
    let node = nodes.find(|node| node.name() == pod.node);
    node.map_or_else(String::new, |node| node.host().ipv4().to_string())
}
