//! A program that runs beside the lab: its log, its signals, its end.

use crate::{LabError, command, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How much of a log an error quotes, in lines.
const TAIL_LINES: usize = 25;

/// A supervised process. Dropping it kills it, unless it was [detached](Process::detach).
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    detached: bool,
}

impl Process {
    pub(crate) fn spawn(
        name: &str,
        log: PathBuf,
        namespace: Option<&Path>,
        command: &mut Command,
    ) -> Result<Self, LabError> {
        let open = |source| LabError::File { action: "open", path: log.clone(), source };
        let out: File = OpenOptions::new().create(true).append(true).open(&log).map_err(open)?;
        let err = out.try_clone().map_err(open)?;
        // A group of its own: Ctrl-C on the test goes to the test, which then ends this in order.
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = command::spawn(namespace, command)?;
        tracing::debug!(name, pid = child.id(), line = command::describe(command), "started");
        Ok(Self { name: name.to_owned(), log, child, detached: false })
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that collects standard output and error.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of the log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone, or is not ours.
    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).map_err(|error| LabError::Command {
            command: format!("kill {signal} {}", self.name),
            status: "no signal sent".into(),
            stderr: error.to_string(),
        })
    }

    /// True while it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Fails, with the end of the log, when the process has ended.
    ///
    /// # Errors
    /// [`LabError::Ended`].
    pub fn check(&mut self) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(status.to_string())),
            Err(error) => Err(self.ended(error.to_string())),
        }
    }

    /// Waits until `ready` holds, failing at once when the process ends before.
    ///
    /// # Errors
    /// [`LabError::Ended`] or [`LabError::Timeout`].
    pub fn wait_ready<E: std::fmt::Display>(
        &mut self,
        timeout: Duration,
        mut ready: impl FnMut() -> Result<(), E>,
    ) -> Result<(), LabError> {
        let (start, timeout) = (Instant::now(), wait::on_this_machine(timeout));
        loop {
            let last = match ready() {
                Ok(()) => return Ok(()),
                Err(error) => error.to_string(),
            };
            self.check()?;
            if start.elapsed() > timeout {
                return Err(LabError::Timeout {
                    what: format!("{} to be ready", self.name),
                    seconds: start.elapsed().as_secs_f64(),
                    last: format!("{last}; end of its log:\n{}", self.log_tail()),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL: the crash that tests want.
    ///
    /// # Errors
    /// The process could not be reaped.
    pub fn kill(&mut self) -> Result<(), LabError> {
        // It may have ended by itself; then there is nothing to kill, only to reap.
        let _ = self.child.kill();
        self.reap().map(|_| ())
    }

    /// SIGTERM and wait; SIGKILL and an error when it does not end in time.
    ///
    /// # Errors
    /// [`LabError::Timeout`] when it had to be killed.
    pub fn stop(&mut self, timeout: Duration) -> Result<ExitStatus, LabError> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        let (start, timeout) = (Instant::now(), wait::on_this_machine(timeout));
        while start.elapsed() < timeout {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.kill()?;
        Err(LabError::Timeout {
            what: format!("{} to stop after SIGTERM", self.name),
            seconds: timeout.as_secs_f64(),
            last: self.log_tail(),
        })
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// It could not be reaped.
    pub fn reap(&mut self) -> Result<ExitStatus, LabError> {
        self.child.wait().map_err(|error| self.ended(error.to_string()))
    }

    /// Lets the process live on after this value is dropped.
    pub fn detach(mut self) -> u32 {
        self.detached = true;
        self.child.id()
    }

    fn ended(&self, status: String) -> LabError {
        LabError::Ended {
            name: self.name.clone(),
            status,
            log: self.log.clone(),
            tail: self.log_tail(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.detached {
            let _ = self.kill();
        }
    }
}
