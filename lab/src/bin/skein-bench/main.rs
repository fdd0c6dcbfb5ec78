//! `make bench`: every figure of the performance budget that this machine can show, each beside its
//! peer, measured in one run.
//!
//! Prints a table and writes `target/bench/summary.json`. A figure that falls short is said so; the
//! exit code says whether the measurements could be made, not whether they please.

mod awake;
mod figure;
mod measure;
mod network;
mod programs;

use figure::Figures;
use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut figures = Figures::default();
    match measure::everything(&mut figures) {
        Ok(()) => {}
        Err(error) => {
            say(&format!("\nmeasuring stopped: {error}"));
            return ExitCode::FAILURE;
        }
    }
    say(&figures.table());
    match figures.write() {
        Ok(path) => {
            say(&format!("written: {}", path.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("target/bench/summary.json: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// A line for people.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
