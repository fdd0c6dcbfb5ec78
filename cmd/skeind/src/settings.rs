//! Settings files.

use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a settings file is not usable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// It cannot be read.
    #[error("--config {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It says something that is not known or not allowed.
    #[error("--config {path}: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// Where and what, over several lines.
        reason: String,
    },
}

/// Reads a TOML file; no file means defaults.
pub(crate) fn read<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, SettingsError> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|error| SettingsError::Content {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
