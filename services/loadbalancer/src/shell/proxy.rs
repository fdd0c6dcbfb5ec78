//! HAProxy in a load balancer's namespace: one process that serves, and those before it until their last connection has ended. None of
//! them lives by this daemon.

use super::commands::run;
use super::config::LoadbalancerConfig;
use super::files::Files;
use super::namespace::Namespace;
use super::statistics;
use nix::errno::Errno;
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

/// Process id of the HAProxy that serves, if it runs: what was noted may be of an earlier life.
pub(super) fn serving(files: &Files) -> Option<i32> {
    files.serving().filter(|pid| is_ours(*pid, &files.config()))
}

/// Whether a process was started with this configuration.
fn is_ours(pid: i32, config: &Path) -> bool {
    // In one read: between two of them it may have become another program's.
    let mut line = [0; COMMAND_LINE];
    let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut line));
    let Ok(length) = read else { return false };
    let wanted = config.as_os_str().as_encoded_bytes();
    line[..length].split(|byte| *byte == 0).any(|word| word == wanted)
}

/// Has HAProxy judge a configuration; the error is what it complains about.
pub(super) async fn judge(config: &LoadbalancerConfig, files: &[&Path]) -> Result<(), String> {
    let program = config.haproxy.display().to_string();
    let mut line = vec!["-c".to_owned(), "-q".to_owned()];
    line.extend(files.iter().flat_map(|file| ["-f".to_owned(), file.display().to_string()]));
    run(&program, &line).await.map(drop)
}

/// Starts it and waits until it answers.
pub(super) async fn start(
    config: &LoadbalancerConfig,
    files: &Files,
    namespace: &Namespace,
) -> Result<(), String> {
    files.forget_serving();
    let pid = launch(config, files, namespace, &[]).await?;
    retire(pid, files, namespace).await.map(drop)
}

/// Has another process take the configuration that is in place, with no moment in which nobody accepts connections: it gets the
/// listening sockets of the one before, and only when it answers is that one told to serve what it has to the end. Gives those that
/// were told. (HAProxy's own way, by a master process, tells the old one first.)
pub(super) async fn reload(
    config: &LoadbalancerConfig,
    files: &Files,
    namespace: &Namespace,
) -> Result<BTreeSet<i32>, String> {
    let socket = files.socket().display().to_string();
    let pid = launch(config, files, namespace, &["-x", &socket])
        .await
        .map_err(|error| format!("{error}; the old configuration is in force"))?;
    retire(pid, files, namespace).await
}

/// Tells all but this one to serve what they have to the end: the one before, and what an end of this daemon may have left in
/// between. Gives them.
async fn retire(pid: i32, files: &Files, namespace: &Namespace) -> Result<BTreeSet<i32>, String> {
    let mut others: BTreeSet<i32> = namespace.processes().await.into_iter().collect();
    others.retain(|other| *other != pid && is_ours(*other, &files.config()));
    for other in &others {
        match kill(Pid::from_raw(*other), Signal::SIGUSR1) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => {
                return Err(format!(
                    "HAProxy {other} cannot be told to stop ({error}), and goes on with the old configuration beside the new \
                     one; may this service send signals (CAP_KILL)?"
                ));
            }
        }
    }
    Ok(others)
}

/// Starts a process in the namespace and waits until it answers on the socket; gives its id.
async fn launch(
    config: &LoadbalancerConfig,
    files: &Files,
    namespace: &Namespace,
    more: &[&str],
) -> Result<i32, String> {
    let text = |path: &Path| path.display().to_string();
    let net = format!("--net={}", text(&namespace.path()));
    let program = text(&config.haproxy);
    let (pid, file) = (text(&files.pid()), text(&files.config()));
    let (control, socket) = files.other_socket()?;
    let control = text(&control);
    let own = [net.as_str(), "--", &program, "-D", "-p", &pid, "-f", &file, "-f", &control];
    run("nsenter", &[&own, more].concat()).await?;
    let pid = files.launched().ok_or("HAProxy was started and wrote no process id")?;
    if wait(|| async { statistics::process(&socket).await == Some(pid) }).await {
        files.use_socket(&socket)?;
        files.note_serving(pid)?;
        return Ok(pid);
    }
    if is_ours(pid, &files.config()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    collect(pid);
    Err("HAProxy was started and does not answer on its socket; see its log".into())
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

/// Takes note of the end of a process; says whether it is still there. In a container this daemon is process 1, to which HAProxy falls
/// as a child.
pub(super) fn collect(pid: i32) -> bool {
    // Of somebody else's child it fails, and nothing is to be done.
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    kill(Pid::from_raw(pid), None).is_ok()
}

/// Ends it: open connections first get a moment.
pub(super) async fn stop(files: &Files, namespace: &Namespace) {
    let mut seen = BTreeSet::new();
    end(files, namespace, &mut seen).await;
    for pid in seen {
        collect(pid);
    }
}

async fn end(files: &Files, namespace: &Namespace, seen: &mut BTreeSet<i32>) {
    let mut running = namespace.processes().await;
    for (signal, wait) in
        [(Signal::SIGUSR1, GRACE), (Signal::SIGTERM, STEP), (Signal::SIGKILL, GRACE)]
    {
        seen.extend(running.iter().copied().chain(serving(files)));
        for pid in &running {
            let _ = kill(Pid::from_raw(*pid), signal);
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
    use std::net::{Ipv4Addr, SocketAddr};
    use std::os::fd::AsFd as _;
    use std::process::Command;
    use uuid::Uuid;

    /// Enough reloads to meet every moment of one.
    const RELOADS: usize = 12;
    const PORT: u16 = 80;

    fn ip(line: &str) {
        let ran = Command::new("ip").args(line.split(' ')).status();
        assert!(
            ran.unwrap_or_else(|error| panic!("ip: {error}; it needs root")).success(),
            "{line}"
        );
    }

    struct Bed {
        config: LoadbalancerConfig,
        files: Files,
        namespace: Namespace,
        name: String,
        folder: PathBuf,
    }

    impl Bed {
        fn start() -> Bed {
            let folder = std::env::temp_dir().join(format!("skein-lb-{}", std::process::id()));
            let config = LoadbalancerConfig {
                namespace_prefix: format!("sklb{}-", std::process::id()),
                run_dir: folder.clone(),
                ..LoadbalancerConfig::default()
            };
            let uuid = Uuid::from_u128(7);
            let (files, namespace) = (Files::new(&folder, uuid), Namespace::new(&config, uuid));
            let name = format!("{}{uuid}", config.namespace_prefix);
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
            files.make().unwrap();
            Bed { config, files, namespace, name, folder }
        }

        /// A configuration that answers with this word.
        fn proposes(&self, word: &str) {
            let text = format!(
                "defaults\n    mode http\n    timeout client 5s\n\
                 frontend port\n    bind 127.0.0.1:{PORT}\n    \
                 http-request return status 200 content-type text/plain string {word}\n"
            );
            self.files.propose(&text).unwrap();
            self.files.accept().unwrap();
        }

        /// Asks over a connection of its own.
        fn ask(&self) -> std::io::Result<String> {
            use std::io::Write as _;
            let namespace = std::fs::File::open(self.namespace.path())?;
            let asked = std::thread::spawn(move || {
                nix::sched::setns(namespace.as_fd(), nix::sched::CloneFlags::CLONE_NEWNET)?;
                let target = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
                let mut stream = std::net::TcpStream::connect(target)?;
                stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
                let mut said = String::new();
                stream.read_to_string(&mut said)?;
                Ok(said.lines().next_back().unwrap_or_default().to_owned())
            });
            asked.join().unwrap()
        }
    }

    impl Drop for Bed {
        fn drop(&mut self) {
            ip(&format!("netns del {}", self.name));
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[tokio::test]
    async fn a_reload_leaves_no_moment_without_somebody_who_accepts() {
        let bed = std::sync::Arc::new(Bed::start());
        bed.proposes("word-0");
        start(&bed.config, &bed.files, &bed.namespace).await.unwrap();
        let mut pid = serving(&bed.files).unwrap();
        let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let asked = std::thread::spawn({
            let (bed, ended) = (bed.clone(), ended.clone());
            move || {
                let mut asked = 0_u64;
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    let said = bed.ask().unwrap_or_else(|error| panic!("{error}"));
                    assert!(said.starts_with("word-"), "{said}");
                    asked += 1;
                }
                asked
            }
        });
        for round in 1..=RELOADS {
            bed.proposes(&format!("word-{round}"));
            let told = reload(&bed.config, &bed.files, &bed.namespace).await.unwrap();
            assert!(told.contains(&pid), "{told:?}");
            pid = serving(&bed.files).unwrap();
            assert!(!told.contains(&pid));
            // Nobody new comes to those before, once they have heard.
            while bed.ask().unwrap() != format!("word-{round}") {}
        }
        assert!(!asked.is_finished());
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(asked.join().unwrap() > 0);
        // One that cannot live changes nothing.
        bed.files.propose("global\n    no-such-word\n").unwrap();
        bed.files.accept().unwrap();
        reload(&bed.config, &bed.files, &bed.namespace).await.unwrap_err();
        assert_eq!(serving(&bed.files), Some(pid));
        assert_eq!(bed.ask().unwrap(), format!("word-{RELOADS}"));
        stop(&bed.files, &bed.namespace).await;
        assert_eq!(bed.namespace.processes().await, Vec::<i32>::new());
    }
}
