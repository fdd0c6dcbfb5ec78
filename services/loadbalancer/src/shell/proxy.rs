//! HAProxy: a master process and its workers in a load balancer's namespace. None of them is a child of this daemon.

use super::commands::run;
use super::config::LoadbalancerConfig;
use super::files::Files;
use super::namespace::Namespace;
use super::statistics;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

/// How long it may take to begin, or to take another configuration.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long connections that are open get at the end of a load balancer.
const GRACE: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(20);

/// The master's process id, if it runs: the file may be of an earlier life.
pub(super) fn master(files: &Files) -> Option<i32> {
    let pid: i32 =
        std::fs::read_to_string(files.pid()).ok()?.lines().next()?.trim().parse().ok()?;
    is_ours(pid, &files.config()).then_some(pid)
}

/// Whether a process was started with this configuration.
fn is_ours(pid: i32, config: &Path) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let wanted = config.as_os_str().as_encoded_bytes();
    // A process that has ended and was not collected yet has no command line.
    line.split(|byte| *byte == 0).any(|word| word == wanted)
}

/// Has HAProxy judge a configuration; the error is what it complains about.
pub(super) async fn judge(config: &LoadbalancerConfig, file: &Path) -> Result<(), String> {
    let program = config.haproxy.display().to_string();
    run(&program, &["-c", "-q", "-f", &file.display().to_string()]).await.map(drop)
}

/// Starts it and waits until it answers.
pub(super) async fn start(
    config: &LoadbalancerConfig,
    files: &Files,
    namespace: &Namespace,
) -> Result<(), String> {
    let _ = std::fs::remove_file(files.pid());
    let text = |path: &Path| path.display().to_string();
    let net = format!("--net={}", text(&namespace.path()));
    let program = text(&config.haproxy);
    let (pid, file) = (text(&files.pid()), text(&files.config()));
    run("nsenter", &[net.as_str(), "--", &program, "-W", "-D", "-p", &pid, "-f", &file]).await?;
    wait(|| async { statistics::worker(files).await.is_some() && master(files).is_some() })
        .await
        .then_some(())
        .ok_or_else(|| "HAProxy was started and does not answer on its socket".to_owned())
}

/// Has it take the configuration that is in place, with no connection refused in between: the new worker takes the
/// listening sockets over from the old one, which serves what it has to the end.
pub(super) async fn reload(files: &Files) -> Result<(), String> {
    let before = statistics::worker(files).await;
    let pid = master(files).ok_or("HAProxy does not run")?;
    kill(Pid::from_raw(pid), Signal::SIGUSR2)
        .map_err(|error| format!("no signal sent: {error}"))?;
    let renewed = || async {
        let now = statistics::worker(files).await;
        now.is_some() && now != before
    };
    if wait(renewed).await {
        return Ok(());
    }
    Err("HAProxy did not take the configuration, the old one is still in force; see its log".into())
}

async fn wait<F: Future<Output = bool>>(condition: impl Fn() -> F) -> bool {
    let until = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < until {
        if condition().await {
            return true;
        }
        tokio::time::sleep(STEP).await;
    }
    false
}

/// Takes note of the end of a process. In a container this daemon is process 1, to which HAProxy falls as a child.
pub(super) fn collect(pid: i32) {
    // Of somebody else's child it fails, and nothing is to be done.
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}

/// Ends it: open connections first get a moment.
pub(super) async fn stop(files: &Files, namespace: &Namespace) {
    let mut seen = BTreeSet::new();
    end(files, namespace, &mut seen).await;
    seen.into_iter().for_each(collect);
}

async fn end(files: &Files, namespace: &Namespace, seen: &mut BTreeSet<i32>) {
    let mut running = namespace.processes().await;
    for (signal, wait) in
        [(Signal::SIGUSR1, GRACE), (Signal::SIGTERM, STEP), (Signal::SIGKILL, GRACE)]
    {
        let master = master(files);
        seen.extend(running.iter().copied().chain(master));
        // The master tells its workers, but for the signal that nobody can tell on.
        let targets =
            master.filter(|_| signal != Signal::SIGKILL).map_or(running.clone(), |pid| vec![pid]);
        for pid in targets {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        let until = tokio::time::Instant::now() + wait;
        loop {
            running = namespace.processes().await;
            if running.is_empty() {
                return;
            }
            if tokio::time::Instant::now() >= until {
                break;
            }
            tokio::time::sleep(STEP).await;
        }
    }
}
