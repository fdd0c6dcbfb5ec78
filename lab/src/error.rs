//! What can go wrong while building or driving a lab.

use std::path::PathBuf;

/// An error of the lab; the text says what was tried and what to do.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A program ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// Exit status in words.
        status: String,
        /// What it wrote to standard error (or output, when that was empty).
        stderr: String,
    },
    /// A program could not be started.
    #[error("cannot start `{program}`: {source}; is it installed and on PATH?")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file operation failed.
    #[error("{action} {path}: {source}")]
    File {
        /// What was tried, "write" for example.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A namespace could not be entered or made.
    #[error("namespace {name}: {source}; the lab needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN)")]
    Namespace {
        /// The namespace.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel refused to read or change a device.
    #[error("device {device}: {source}")]
    Device {
        /// Its name.
        device: String,
        /// Why.
        source: std::io::Error,
    },
    /// Something did not happen in time.
    #[error("waited {seconds:.1} s for {what}; last seen: {last}")]
    Timeout {
        /// What was awaited.
        what: String,
        /// How long.
        seconds: f64,
        /// The last answer of the condition.
        last: String,
    },
    /// A program needed by the lab is not installed.
    #[error("{program} is not installed; install the Debian package `{package}`")]
    Missing {
        /// The program.
        program: &'static str,
        /// The package that has it.
        package: &'static str,
    },
    /// A supervised process ended when it should have been running.
    #[error("{name} ended ({status}); the end of its log {log}:\n{tail}")]
    Ended {
        /// Name of the process.
        name: String,
        /// Exit status in words.
        status: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// Output of a program was not what was expected.
    #[error("cannot read the output of {what}: {reason}")]
    Output {
        /// Which program.
        what: String,
        /// Why.
        reason: String,
    },
    /// A name would not fit into an interface or namespace name.
    #[error("`{name}` is not usable as a name: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// Clean-up went on after errors; these are all of them.
    #[error("clean-up left something behind: {}", .0.join("; "))]
    Cleanup(Vec<String>),
}
