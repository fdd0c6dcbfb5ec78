//! Pods, and running programs in them without a detour over the API server.

use super::daemon::await_child;
use super::{ClusterError, ProbeOutcome, StreamReport};
use crate::command::run;
use crate::{Pod as Host, Process, Ran};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A pod as the API server tells it.
#[derive(Clone, Debug)]
pub struct KubePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The node it runs on; empty while none was chosen.
    pub node: String,
    /// Its first address; empty while it has none.
    pub address: String,
    /// All its addresses.
    pub addresses: Vec<String>,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Whether the condition Ready holds.
    pub ready: bool,
    /// How often its containers were started again.
    pub restarts: u64,
    /// Container ids without the runtime's name, those that have one.
    pub containers: Vec<String>,
    /// All of the object.
    pub object: Value,
}

impl KubePod {
    pub(crate) fn read(object: Value) -> KubePod {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let each = |list: &Value, take: &dyn Fn(&Value) -> String| -> Vec<String> {
            list.as_array().into_iter().flatten().map(take).filter(|t| !t.is_empty()).collect()
        };
        let status = &object["status"];
        let states = &status["containerStatuses"];
        KubePod {
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
            uid: text(&object["metadata"]["uid"]),
            node: text(&object["spec"]["nodeName"]),
            address: text(&status["podIP"]),
            addresses: each(&status["podIPs"], &|ip| text(&ip["ip"])),
            phase: text(&status["phase"]),
            ready: status["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|c| c["type"] == "Ready" && c["status"] == "True"),
            restarts: states
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|state| state["restartCount"].as_u64())
                .sum(),
            containers: each(states, &|state| {
                let id = text(&state["containerID"]);
                id.split_once("://").map_or(String::new(), |(_, id)| id.to_owned())
            }),
            object,
        }
    }

    /// The process id, as this machine counts, of a process in the pod's first container.
    ///
    /// # Errors
    /// No container runs.
    pub fn pid(&self) -> Result<u32, ClusterError> {
        let id = self.containers.first().ok_or_else(|| {
            ClusterError::answer(&self.name, format!("no container yet; it is {}", self.phase))
        })?;
        process_of(id).ok_or_else(|| {
            ClusterError::answer(&self.name, format!("no process of container {id} runs"))
        })
    }

    /// A command that runs in the namespaces of the pod's first container. It costs a few milliseconds,
    /// where `kubectl exec` takes some hundred.
    ///
    /// # Errors
    /// As [`KubePod::pid`].
    pub fn command(&self, program: impl AsRef<Path>) -> Result<Command, ClusterError> {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.pid()?.to_string()])
            .args(["--mount", "--uts", "--ipc", "--net", "--pid", "--"])
            .arg(program.as_ref());
        Ok(command)
    }

    /// Runs `work` on a thread in the pod's network namespace.
    ///
    /// # Errors
    /// As [`KubePod::pid`].
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, ClusterError> {
        let path = format!("/proc/{}/ns/net", self.pid()?);
        Ok(crate::command::inside(Some(Path::new(&path)), work)?)
    }

    /// Runs a command in the pod to its end.
    ///
    /// # Errors
    /// As [`KubePod::pid`]; a failure of the command is in [`Ran`].
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Ran, ClusterError> {
        Ok(run(None, self.command(program)?.args(arguments), None)?)
    }

    /// Asks targets, `tcp:10.0.0.1:80`, all at once; how each ended, in their order. For pods of the probe
    /// image.
    ///
    /// # Errors
    /// As [`KubePod::pid`].
    pub fn ask(
        &self,
        targets: &[String],
        timeout: Duration,
    ) -> Result<Vec<ProbeOutcome>, ClusterError> {
        let timeout = timeout.as_millis().to_string();
        let mut command = self.command("/bin/skein-probe")?;
        command.args(["ask", "--timeout", &timeout, "-"]);
        let text = run(None, &mut command, Some(targets.join("\n").as_bytes()))?.success()?;
        read_outcomes(&text)
    }

    /// Keeps a connection to `target`, `10.0.0.1:80`, busy until [`Stream::finish`]. The report is collected in
    /// the file `log`.
    ///
    /// # Errors
    /// As [`KubePod::pid`].
    pub fn stream(&self, target: &str, log: &Path) -> Result<Stream, ClusterError> {
        let _ = fs::remove_file(log);
        let mut command = self.command("/bin/skein-probe")?;
        command.args(["stream", target]);
        let process = Process::spawn("stream", log.to_owned(), None, &mut command)?;
        let program = await_child("the stream", process.pid())?;
        Ok(Stream { process, program })
    }
}

/// Reads what `skein-probe ask` printed.
///
/// # Errors
/// It is no list of outcomes.
pub fn read_outcomes(text: &str) -> Result<Vec<ProbeOutcome>, ClusterError> {
    serde_json::from_str(text.trim())
        .map_err(|error| ClusterError::answer("skein-probe ask", format!("{error}: {text}")))
}

/// A busy connection under way.
#[derive(Debug)]
pub struct Stream {
    process: Process,
    program: u32,
}

impl Stream {
    /// Keeps a connection from a host outside of the cluster busy, as [`KubePod::stream`] does from a pod. `programs` is the folder
    /// with `skein-probe`.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn from_host(
        host: &Host,
        programs: &Path,
        target: &str,
        log: &Path,
    ) -> Result<Stream, ClusterError> {
        let _ = fs::remove_file(log);
        let mut command = Command::new(programs.join("skein-probe"));
        command.args(["stream", target]);
        let process = Process::spawn("stream", log.to_owned(), Some(&host.path()), &mut command)?;
        let program = process.pid();
        Ok(Stream { process, program })
    }

    /// What it is called, by its log.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.process.log_path().file_stem().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// How many echoes have come so far, in steps of twenty.
    ///
    /// # Errors
    /// Its report is not readable: it did not even begin.
    pub fn echoes(&self) -> Result<u64, ClusterError> {
        Ok(self.so_far()?.map_or(0, |report| report.echoes))
    }

    /// The pod at its other end, once there were echoes.
    ///
    /// # Errors
    /// There were none yet, or its report is not readable.
    pub fn pod(&self) -> Result<String, ClusterError> {
        let none = || ClusterError::answer("skein-probe stream", "no echo yet");
        Ok(self.so_far()?.ok_or_else(none)?.pod)
    }

    fn so_far(&self) -> Result<Option<StreamReport>, ClusterError> {
        let text = super::files::read(self.process.log_path())?;
        // The last line may be half written.
        text.rsplit_once('\n').map(|(whole, _)| last_report(whole)).transpose()
    }

    /// Ends it.
    ///
    /// # Errors
    /// It broke at once, or its report is not readable.
    pub fn finish(mut self) -> Result<StreamReport, ClusterError> {
        // It may have ended with an error, which its report tells.
        let _ = kill(Pid::from_raw(self.program.cast_signed()), Signal::SIGTERM);
        self.process.reap()?;
        last_report(&super::files::read(self.process.log_path())?)
    }
}

/// What a stream printed last.
fn last_report(text: &str) -> Result<StreamReport, ClusterError> {
    let last = text.trim().lines().next_back().unwrap_or_default();
    serde_json::from_str(last)
        .map_err(|error| ClusterError::answer("skein-probe stream", format!("{error}: {text}")))
}

/// A process in the cgroup of a container: the kernel's list is quicker than asking the runtime.
fn process_of(container: &str) -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?;
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|groups| groups.contains(container))
        })
        .min()
}
