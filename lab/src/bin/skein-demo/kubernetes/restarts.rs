//! Programs that die while connections are busy.

use super::stage::{Seen, Stage};
use skein_lab::kubernetes::{ClusterError, KubePod};
use std::time::Duration;

/// How long a restart is shown on each side.
const UNDER_TRAFFIC: Duration = Duration::from_secs(2);
/// The longest pause, in milliseconds, that a restart may cost.
const PAUSE: f64 = 1000.0;

pub(super) fn show(stage: &mut Stage<'_>) -> Result<(), ClusterError> {
    let others = stage.others.clone();
    let [from, to, ..] = others.as_slice() else { return Ok(()) };
    let number = stage.cluster.nodes().iter().position(|node| node.name() == from.node);
    let number = number.unwrap_or_default();
    for kubelet in [true, false] {
        let what = if kubelet { "kubelet" } else { "skeind vrouter" };
        stage.screen.begin(&format!("kill -9 {what} of {} during a connection", from.node));
        let seen = killed(stage, kubelet, number, from, to)?;
        let held = seen.is_ok();
        stage.screen.end(held, &seen.unwrap_or_else(|words| words));
    }
    let pods = stage.cluster.pods("default", "app=probe")?;
    stage.step("no container was started again", |_| {
        match pods.iter().map(|pod| pod.restarts).sum::<u64>() {
            0 => Ok(String::new()),
            restarts => Err(format!("{restarts} were")),
        }
    });
    Ok(())
}

fn killed(
    stage: &mut Stage<'_>,
    kubelet: bool,
    number: usize,
    from: &KubePod,
    to: &KubePod,
) -> Result<Seen, ClusterError> {
    let log = stage.cluster.state().join("stream.log");
    let stream = from.stream(&format!("{}:80", to.address), &log)?;
    std::thread::sleep(UNDER_TRAFFIC);
    if kubelet {
        stage.cluster.node_mut(number).kubelet.kill()?;
        stage.cluster.restart_kubelet(number)?;
    } else {
        stage.network.agent(number).kill()?;
        std::thread::sleep(UNDER_TRAFFIC);
        stage.network.restart_agent(number)?;
    }
    std::thread::sleep(UNDER_TRAFFIC);
    let report = stream.finish()?;
    let said = format!("{} echoes, longest wait {:.0} ms", report.echoes, report.longest_gap);
    Ok(match report.error {
        Some(error) => Err(error),
        None if report.longest_gap < PAUSE => Ok(said),
        None => Err(said),
    })
}
