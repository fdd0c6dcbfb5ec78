//! Running programs to their end, in any network namespace.

use crate::LabError;
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// What a finished program left.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    command: String,
}

impl Ran {
    /// True when the exit code was 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output when the exit code was 0.
    ///
    /// # Errors
    /// [`LabError::Command`] with what the program said.
    pub fn success(self) -> Result<String, LabError> {
        if self.ok() {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        Err(LabError::Command {
            command: self.command.clone(),
            status: self.code.map_or("signal".into(), |code| format!("exit code {code}")),
            stderr: said.trim().to_owned(),
        })
    }
}

/// Runs `work` on a thread that has switched to the namespace file, or on the caller's own when
/// `namespace` is `None`.
pub(crate) fn inside<T: Send>(
    namespace: Option<&Path>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, LabError> {
    let Some(path) = namespace else { return Ok(work()) };
    let failed =
        |source: std::io::Error| LabError::Namespace { name: path.display().to_string(), source };
    let file = File::open(path).map_err(failed)?;
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))?;
                Ok(work())
            })
            .join()
            .unwrap_or_else(|_| Err(failed(std::io::Error::other("the thread inside it panicked"))))
    })
}

pub(crate) fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

pub(crate) fn spawn(namespace: Option<&Path>, command: &mut Command) -> Result<Child, LabError> {
    let program = command.get_program().to_string_lossy().into_owned();
    inside(namespace, || command.spawn())?.map_err(|source| LabError::Start { program, source })
}

/// Runs a command to its end with `stdin` given.
pub(crate) fn run(
    namespace: Option<&Path>,
    command: &mut Command,
    stdin: Option<&[u8]>,
) -> Result<Ran, LabError> {
    let line = describe(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = spawn(namespace, command)?;
    let output = |source| LabError::Output { what: line.clone(), reason: source_text(&source) };
    if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // A program that ends without reading its input is judged by its exit code.
        let _ = pipe.write_all(bytes);
    }
    let done = child.wait_with_output().map_err(output)?;
    Ok(Ran {
        code: done.status.code(),
        stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        command: line,
    })
}

fn source_text(error: &std::io::Error) -> String {
    error.to_string()
}

/// `ip` with the arguments of one line split at spaces.
pub(crate) fn ip(line: &str) -> Result<String, LabError> {
    tracing::debug!(line, "ip");
    run(None, Command::new("ip").args(line.split_whitespace()), None)?.success()
}

/// Many `ip` commands in one process: set-up speed is bounded by process starts.
pub(crate) fn ip_batch(namespace: &str, lines: &str) -> Result<(), LabError> {
    tracing::debug!(namespace, lines, "ip batch");
    let mut command = Command::new("ip");
    command.args(["-n", namespace, "-batch", "-"]);
    run(None, &mut command, Some(lines.as_bytes()))?.success().map(|_| ())
}

/// Fails with the package to install when `program` is on none of the directories of PATH.
///
/// # Errors
/// [`LabError::Missing`].
pub fn require(program: &'static str, package: &'static str) -> Result<PathBuf, LabError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/cni", "/opt/cni/bin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or(LabError::Missing { program, package })
}
