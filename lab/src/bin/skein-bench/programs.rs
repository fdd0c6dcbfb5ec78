//! Measurements that are programs of their own: they print JSON lines.

use serde::Deserialize;
use skein_lab::{FabricError, LabError};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

#[derive(Deserialize)]
struct Line {
    name: String,
    value: f64,
}

/// Runs a measuring program and collects what it prints.
pub(crate) fn run(path: &Path, arguments: &[&str]) -> Result<BTreeMap<String, f64>, FabricError> {
    if !path.is_file() {
        return Err(FabricError::NotBuilt(path.to_owned()));
    }
    let failed = |status: String, stderr: String| LabError::Command {
        command: path.display().to_string(),
        status,
        stderr,
    };
    let ran = Command::new(path)
        .args(arguments)
        .output()
        .map_err(|error| failed("not started".into(), error.to_string()))?;
    if !ran.status.success() {
        let stderr = String::from_utf8_lossy(&ran.stderr).into_owned();
        return Err(failed(ran.status.to_string(), stderr).into());
    }
    let text = String::from_utf8_lossy(&ran.stdout);
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    Ok(lines.map(|line| (line.name, line.value)).collect())
}
