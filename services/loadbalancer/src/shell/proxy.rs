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
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long it may take to begin, or to take another configuration.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long connections that are open get at the end of a load balancer.
const GRACE: Duration = Duration::from_secs(3);
/// No HAProxy that was started here has a longer command line.
const COMMAND_LINE: usize = 4096;
const STEP: Duration = Duration::from_millis(20);

/// The master's process id, if it runs: what was noted may be of an earlier life.
pub(super) fn master(files: &Files) -> Option<i32> {
    files.master().filter(|pid| is_ours(*pid, &files.config()))
}

/// Whether a process was started with this configuration.
fn is_ours(pid: i32, config: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    // In one read: between two of them it may have become another program's.
    let mut line = [0; COMMAND_LINE];
    let read =
        std::fs::File::open(process.join("cmdline")).and_then(|mut file| file.read(&mut line));
    let Ok(length) = read else { return false };
    let line = &line[..length];
    if line.is_empty() {
        // A master that takes a configuration starts its own program again, twice, and has no command line for some
        // milliseconds. Neither has a process that has ended and was not collected yet, but that one has no program.
        return std::fs::read_link(process.join("exe")).is_ok();
    }
    let wanted = config.as_os_str().as_encoded_bytes();
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
    files.forget_master();
    let text = |path: &Path| path.display().to_string();
    let net = format!("--net={}", text(&namespace.path()));
    let program = text(&config.haproxy);
    let (pid, file) = (text(&files.pid()), text(&files.config()));
    run("nsenter", &[net.as_str(), "--", &program, "-W", "-D", "-p", &pid, "-f", &file]).await?;
    if !wait(|| async { statistics::worker(files).await.is_some() && master(files).is_some() })
        .await
    {
        return Err("HAProxy was started and does not answer on its socket".into());
    }
    files.note_master()
}

/// Has it take the configuration that is in place, with no connection refused in between: the new worker takes the
/// listening sockets over from the old one, which serves what it has to the end.
pub(super) async fn reload(files: &Files) -> Result<(), String> {
    let before = statistics::worker(files).await;
    let pid = master(files).ok_or("HAProxy does not run")?;
    // Of two signals in a row the second is lost, or kills it: after it has a worker that serves, the master starts its
    // program once more and listens to nobody meanwhile.
    if !wait(|| async { hears(pid, Signal::SIGUSR2) }).await {
        return Err("HAProxy's master takes no signals; the old configuration is in force".into());
    }
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

/// Whether a process has a handler for a signal and would run it now.
fn hears(pid: i32, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let has = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << (signal as i32 - 1)) != 0)
    };
    has("SigCgt:") && !has("SigBlk:")
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::process::Command;
    use uuid::Uuid;

    /// Enough reloads to meet every moment of one.
    const RELOADS: usize = 12;

    #[tokio::test]
    async fn a_master_that_reloads_is_never_taken_for_dead() {
        let folder = std::env::temp_dir().join(format!("skein-lb-{}", std::process::id()));
        let files = Files::new(&folder, Uuid::from_u128(7));
        files.make().unwrap();
        let text = format!(
            "global\n    stats socket {} mode 600 level admin expose-fd listeners\n",
            files.socket().display()
        );
        files.propose(&text).unwrap();
        files.accept().unwrap();
        let started = Command::new("haproxy")
            .args(["-W", "-D", "-q", "-p"])
            .arg(files.pid())
            .arg("-f")
            .arg(files.config())
            .status()
            .unwrap_or_else(|error| panic!("haproxy: {error}; `apt install haproxy`"));
        assert!(started.success());
        assert!(wait(|| async { statistics::worker(&files).await.is_some() }).await);
        files.note_master().unwrap();
        let pid = master(&files).unwrap();
        let watched = tokio::spawn({
            let files = files.clone();
            async move {
                let mut looks = 0_u64;
                while master(&files) == Some(pid) {
                    looks += 1;
                    tokio::task::yield_now().await;
                }
                looks
            }
        });
        for _ in 0..RELOADS {
            reload(&files).await.unwrap();
        }
        assert!(!watched.is_finished(), "taken for dead after {} looks", watched.await.unwrap());
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert!(watched.await.unwrap() > 0);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
