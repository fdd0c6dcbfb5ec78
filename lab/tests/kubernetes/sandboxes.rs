//! Pods whose sandboxes die and are made anew: the same pods at the same addresses, under the policies that are about them from the
//! first packet on.

use crate::held::Held;
use crate::{PODS_READY, Steps};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use skein_lab::kubernetes::{Cluster, KubePod};
use skein_lab::wait_for;
use std::path::PathBuf;

/// A pod whom policies let in some, and one whom they let in there. Those who are kept out ask all the time.
pub(crate) fn check(cluster: &Cluster, held: &Held, steps: &mut Steps) {
    let mut old = cluster.wait_pods(held.namespace(), "app=target", 3, PODS_READY).unwrap();
    old.extend(cluster.wait_pods(held.namespace(), "app=friend", 1, PODS_READY).unwrap());
    for pod in &old {
        let dead = end_sandbox(pod);
        assert!(dead > 1, "{} had {dead} processes", pod.name);
    }
    for pod in &old {
        let new = wait_for(&format!("a new sandbox of {}", pod.name), PODS_READY, || {
            let path = format!("app={}", pod.object["metadata"]["labels"]["app"].as_str().unwrap());
            let all = cluster.pods(held.namespace(), &path).map_err(|error| error.to_string())?;
            let now = all.into_iter().find(|one| one.uid == pod.uid).ok_or("it is gone")?;
            let new = now.ready && now.containers != pod.containers && now.pid().is_ok();
            if new { Ok(now) } else { Err(format!("{now:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(new.addresses, pod.addresses, "{}", pod.name);
    }
    held.check(cluster, "new sandboxes");
    steps.done("sandboxes of pods that policies are about made anew");
}

/// Kills every process in a pod's network namespace, the one that keeps it among them; how many there were.
fn end_sandbox(pod: &KubePod) -> usize {
    let network = |pid: &str| std::fs::read_link(PathBuf::from(format!("/proc/{pid}/ns/net")));
    let own = network(&pod.pid().unwrap().to_string()).unwrap();
    let mut ended = 0;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(pid) = name.parse() else { continue };
        if network(&name).is_ok_and(|one| one == own) {
            ended += usize::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
        }
    }
    ended
}
