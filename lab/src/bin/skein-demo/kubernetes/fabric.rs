//! The way outside from the nodes' addresses, and pods in the underlay.

use super::mistakes;
use super::reach::{ANSWER, SILENCE, all_answer, closes, none_answers, seen_as, web};
use super::services::address_of_node;
use super::stage::{SETTLED, Seen, Stage};
use skein_lab::kubernetes::{ClusterError, KubePod, ProbeOutcome};
use skein_lab::wait_for;

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    translated(stage)?;
    forwarded(stage)?;
    // Their runtimes have waited long enough by now.
    mistakes::pods_say_why(stage)
}

/// Each pod is answered by the host beyond the gateway, which sees it by this address.
fn seen_outside(stage: &Stage<'_>, pods: &[KubePod], seen: impl Fn(&KubePod) -> String) -> Seen {
    let target = [format!("tcp:{}:80", stage.outside.addresses().0)];
    let mut all = Vec::new();
    for pod in pods {
        let address = seen(pod);
        let held = wait_for("an answer from outside", SETTLED, || {
            let outcomes = pod.ask(&target, ANSWER).map_err(|error| error.to_string())?;
            if seen_as(&outcomes, &address) { Ok(()) } else { Err(format!("{outcomes:?}")) }
        });
        held.map_err(|error| error.to_string())?;
        all.push(address);
    }
    Ok(all.join(", "))
}

fn translated(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let others = stage.others.clone();
    let world = [format!("tcp:{}:80", stage.outside.addresses().0)];
    stage.apply("ip-fabric-snat.yaml")?;
    let pods = stage.ready("its pods are ready", "translated", "web", 3)?;
    stage.step("the host beyond the gateway sees their nodes' addresses", |stage| {
        seen_outside(stage, &pods, |pod| address_of_node(stage, pod))
    });
    stage.step("what is isolated stays so", |_| none_answers(&others, &web(&pods)));
    let switch = |value: &str| format!("opencontrail.org/ip_fabric_snat={value}");
    let off = switch("false");
    stage.kubectl(&["annotate", "namespace", "translated", &off, "--overwrite"])?.success()?;
    stage.step("switched off, there is no way out", |_| closes(&pods, &world));
    let on = switch("true");
    stage.kubectl(&["annotate", "namespace", "translated", &on, "--overwrite"])?.success()?;
    stage.step("switched on again, there is", |_| all_answer(&pods, &world));
    Ok(())
}

fn forwarded(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let others = stage.others.clone();
    stage.apply("ip-fabric-forwarding.yaml")?;
    let pods = stage.ready("its pods have addresses of the underlay", "underlay", "web", 3)?;
    stage.step("they reach each other", |_| all_answer(&pods, &web(&pods)));
    stage.step("the host beyond the gateway sees their own addresses", |stage| {
        seen_outside(stage, &pods, |pod| pod.address.clone())
    });
    stage.step("and reaches them", |stage| {
        let held = wait_for("answers", SETTLED, || {
            let outcomes =
                stage.world_asks(&web(&pods), ANSWER).map_err(|error| error.to_string())?;
            let own = stage.outside.addresses().0.to_string();
            if seen_as(&outcomes, &own) { Ok(String::new()) } else { Err(format!("{outcomes:?}")) }
        });
        held.map_err(|error| error.to_string())
    });
    stage.step("what is isolated stays so", |_| none_answers(&others, &web(&pods)));
    stage.step("pods with tunnels are not reached from there", |stage| {
        let outcomes =
            stage.world_asks(&web(&others), SILENCE).map_err(|error| error.to_string())?;
        let open = outcomes.iter().any(ProbeOutcome::answered);
        if open { Err(format!("{outcomes:?}")) } else { Ok(String::new()) }
    });
    Ok(())
}
