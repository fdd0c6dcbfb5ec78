//! Helm itself, as `scripts/helm` finds or fetches it.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the chart is.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/skein")
}

/// A command line of Helm that keeps nothing in the user's home.
pub fn helm(home: &Path) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/helm");
    let found = Command::new(&script).output().unwrap_or_else(|e| panic!("{script:?}: {e}"));
    let said = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success(), "no Helm, says {}: {said}", script.display());
    let mut command = Command::new(String::from_utf8_lossy(&found.stdout).trim());
    command.env("HOME", home).env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME");
    command.env_remove("XDG_DATA_HOME");
    command
}
