//! Other programs, run to their end.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// Nothing that is run here takes longer than a moment.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How much of a program's complaint is told.
const TOLD: usize = 1500;

/// Runs a program; the error is what it complained about.
pub(super) async fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(TIMEOUT, command.output())
        .await
        .map_err(|_| format!("{program} did not end within {} s", TIMEOUT.as_secs()))?
        .map_err(|error| format!("{program} does not start: {error}; is it installed?"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("[NOTICE]"));
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    let said: String = lines.join("; ").chars().take(TOLD).collect();
    Err(if said.is_empty() { format!("{program}: {}", output.status) } else { said })
}
