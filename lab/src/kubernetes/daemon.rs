//! A program of the cluster that can be killed and started again.

use super::ClusterError;
use crate::{Host, Process, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A program is found as the child of the one that entered the namespaces for it.
const BIRTH: Duration = Duration::from_secs(5);

/// Where a program runs.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// In the network namespace of a host of the lab.
    Host(Host),
    /// In all namespaces of a node; the process id of the node's process 1, as this machine counts.
    Node(u32),
}

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Line {
    pub(crate) fn new(program: &Path) -> Line {
        Line { program: program.to_owned(), arguments: Vec::new(), environment: Vec::new() }
    }

    pub(crate) fn arg(mut self, argument: impl Into<String>) -> Line {
        self.arguments.push(argument.into());
        self
    }

    /// Adds `--name=value`.
    pub(crate) fn flag(self, name: &str, value: impl std::fmt::Display) -> Line {
        self.arg(format!("--{name}={value}"))
    }

    /// Adds `--name=path`.
    pub(crate) fn file(self, name: &str, path: &Path) -> Line {
        self.flag(name, path.display())
    }

    pub(crate) fn args<'a>(self, arguments: impl IntoIterator<Item = &'a String>) -> Line {
        arguments.into_iter().fold(self, Line::arg)
    }

    pub(crate) fn env(mut self, name: &'static str, value: &Path) -> Line {
        self.environment.push((name, value.display().to_string()));
        self
    }
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    place: Place,
    line: Line,
    process: Process,
    /// In a node: the program itself, below the process that entered the namespaces.
    inner: Option<u32>,
}

impl Daemon {
    pub(crate) fn start(
        name: &str,
        log: PathBuf,
        place: Place,
        line: Line,
    ) -> Result<Daemon, ClusterError> {
        let (process, inner) = spawn(name, &log, &place, &line)?;
        Ok(Daemon { name: name.to_owned(), log, place, line, process, inner })
    }

    /// Its log file.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Process id, as this machine counts.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.unwrap_or_else(|| self.process.pid())
    }

    /// The supervised process. In a node it is the one that entered the namespaces; the program ends with it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills it as a crash would, and waits until it is gone.
    ///
    /// # Errors
    /// It could not be reaped.
    pub fn kill(&mut self) -> Result<(), ClusterError> {
        if let Some(inner) = self.inner {
            // When it has ended already there is only the rest to reap.
            let _ = kill(Pid::from_raw(inner.cast_signed()), Signal::SIGKILL);
            self.process.reap()?;
            return Ok(());
        }
        Ok(self.process.kill()?)
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// It could not be reaped.
    pub fn stop(&mut self) -> Result<(), ClusterError> {
        let _ = kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM);
        self.process.reap()?;
        Ok(())
    }

    /// Starts it again as it was started.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start_again(&mut self) -> Result<(), ClusterError> {
        (self.process, self.inner) = spawn(&self.name, &self.log, &self.place, &self.line)?;
        Ok(())
    }

    /// Where it starts the next time.
    pub(crate) fn moves(&mut self, place: Place) {
        self.place = place;
    }

    /// Waits until `ready` holds, failing at once when the program ends before.
    ///
    /// # Errors
    /// The end of its log.
    pub fn wait_ready<E: std::fmt::Display>(
        &mut self,
        timeout: Duration,
        ready: impl FnMut() -> Result<(), E>,
    ) -> Result<(), ClusterError> {
        Ok(self.process.wait_ready(timeout, ready)?)
    }

    /// Lets the program live on after this value is dropped.
    pub fn detach(self) {
        self.process.detach();
    }
}

fn spawn(
    name: &str,
    log: &Path,
    place: &Place,
    line: &Line,
) -> Result<(Process, Option<u32>), ClusterError> {
    if let Some(parent) = log.parent() {
        super::files::folder(parent)?;
    }
    let (mut command, namespace) = match place {
        Place::Host(host) => (Command::new(&line.program), Some(host.path())),
        Place::Node(init) => (enter(*init, &line.program), None),
    };
    command.args(&line.arguments);
    for (name, value) in &line.environment {
        command.env(name, value);
    }
    let mut process = Process::spawn(name, log.to_owned(), namespace.as_deref(), &mut command)?;
    let inner = match place {
        Place::Host(_) => None,
        Place::Node(_) => {
            let parent = process.pid();
            let mut found = 0;
            process.wait_ready(BIRTH, || {
                found = child_of(parent).ok_or("not yet in its namespaces")?;
                Ok::<_, &str>(())
            })?;
            Some(found)
        }
    };
    Ok((process, inner))
}

/// A command that runs a program in a node, and lets it not outlive the command.
pub(crate) fn enter(init: u32, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command
        .args(["--target", &init.to_string(), "--mount", "--uts", "--net", "--pid", "--"])
        .args(["setpriv", "--pdeathsig", "KILL", "--"])
        .arg(program);
    command
}

/// The first child of a process.
pub(crate) fn child_of(pid: u32) -> Option<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    list.split_whitespace().next()?.parse().ok()
}

/// Waits for the first child of a process.
pub(crate) fn await_child(what: &str, pid: u32) -> Result<u32, ClusterError> {
    Ok(wait_for(what, BIRTH, || child_of(pid).ok_or("no child process yet"))?)
}
