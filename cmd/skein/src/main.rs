//! The Skein command line: configuration objects by name, the state of nodes, and what is wrong.
//!
//! It reaches the system only through public interfaces: the configuration API, the controller's
//! status page and the agents' introspection pages. `cli` is the grammar; each command is a file in
//! `commands`; `api` and `http` are all that knows about the wire.

mod api;
mod cli;
mod columns;
mod commands;
mod difference;
mod document;
mod error;
mod http;
mod kinds;
mod manifest;
mod nearest;
mod reference;
mod rules;
mod scope;
mod screen;
mod shorthand;
mod table;

use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse_from(arguments()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help is no failure; a reader that closes the pipe early is none either.
            let _ = error.print();
            let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if help { 0 } else { 3 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: cannot start: {error}");
            return ExitCode::from(1);
        }
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_shown() {
                let mut text = format!("error: {error}\n");
                if let Some(next) = error.next_step() {
                    text.push_str(&format!("  next: {next}\n"));
                }
                let _ = std::io::stderr().write_all(text.as_bytes());
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// The command line; under the name `kubectl-skein`, by which kubectl finds its plugins, that of `skein kube`.
fn arguments() -> Vec<OsString> {
    let mut arguments: Vec<OsString> = std::env::args_os().collect();
    let name = arguments.first().and_then(|name| Path::new(name).file_stem());
    if matches!(name.and_then(OsStr::to_str), Some("kubectl-skein" | "kubectl_skein")) {
        arguments.insert(1, "kube".into());
    }
    arguments
}
