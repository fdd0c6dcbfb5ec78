//! Logs: to standard error, as text or JSON lines.

use clap::{Args, ValueEnum};
use std::io::IsTerminal as _;
use tracing_subscriber::EnvFilter;

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One readable line an event
    Text,
    /// One JSON object a line
    Json,
}

/// Flags for logs.
#[derive(Debug, Args)]
pub(crate) struct Logging {
    /// What to log: a level, or directives such as `info,skein_agent=debug`
    #[arg(long = "log", global = true, env = "SKEIN_LOG", default_value = "info")]
    filter: String,
    /// How logs look
    #[arg(long = "log-format", global = true, env = "SKEIN_LOG_FORMAT", default_value = "text")]
    format: Format,
}

/// A filter that makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("--log {0:?}: {1}; write a level such as info, or target=level pairs")]
pub(crate) struct BadFilter(String, String);

impl Logging {
    /// Starts logging.
    pub(crate) fn start(&self) -> Result<(), BadFilter> {
        let filter = EnvFilter::try_new(&self.filter)
            .map_err(|error| BadFilter(self.filter.clone(), error.to_string()))?;
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal());
        match self.format {
            Format::Text => builder.init(),
            Format::Json => builder.json().init(),
        }
        Ok(())
    }
}
