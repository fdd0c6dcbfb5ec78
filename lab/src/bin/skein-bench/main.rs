//! `make bench`: every figure of the performance budget that this machine can show, each beside its
//! peer, measured in one run.
//!
//! `skein-bench kubernetes` measures a real cluster instead, `skein-bench services` its services alone.
//!
//! Prints a table and writes `target/bench/summary.json` (`kubernetes.json`, `services.json`). A figure that falls short is said so; the
//! exit code says whether the measurements could be made, not whether they please.

mod awake;
mod figure;
mod kubernetes;
mod measure;
mod network;
mod programs;
mod services;

use figure::Figures;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut figures = Figures::default();
    // The cluster is a run of its own: it needs the programs of Kubernetes, and some minutes.
    let (measured, name) = match std::env::args().nth(1).as_deref() {
        Some("kubernetes") => {
            (kubernetes::everything(&mut figures).map_err(|e| e.to_string()), "kubernetes.json")
        }
        Some("services") => {
            (services::alone(&mut figures).map_err(|e| e.to_string()), "services.json")
        }
        _ => (measure::everything(&mut figures).map_err(|e| e.to_string()), "summary.json"),
    };
    if let Err(error) = measured {
        say(&figures.table());
        say(&format!("\nmeasuring stopped: {error}"));
        return ExitCode::FAILURE;
    }
    say(&figures.table());
    match figures.write(name) {
        Ok(path) => {
            say(&format!("written: {}", path.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("target/bench/{name}: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A line for people.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
