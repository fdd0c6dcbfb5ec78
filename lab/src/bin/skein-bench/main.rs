//! `make bench`: every figure of the performance budget that this machine can show, each beside its
//! peer, measured in one run.
//!
//! `skein-bench fabric` measures only what goes through a fabric, `skein-bench kubernetes` a real cluster instead, and
//! of that `skein-bench manager` only what a large one costs the manager, `skein-bench pods` only how pods start, and
//! members and policies change, `skein-bench services` only new connections, `skein-bench rules` only policies of many rules.
//!
//! Prints a table and writes `target/bench/summary.json` (`kubernetes.json`, `services.json`); where measuring stops half-way there is
//! none, rather than an earlier run's. A figure that falls short is said so; the
//! exit code says whether the measurements could be made, not whether they please.

mod awake;
mod figure;
mod kubernetes;
mod measure;
mod network;
mod programs;
mod rules;
mod services;

use figure::Figures;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Where the figures are written.
const FOLDER: &str = "target/bench";

fn main() -> ExitCode {
    let mut figures = Figures::default();
    let part = std::env::args().nth(1).unwrap_or_default();
    let name = match part.as_str() {
        "" => "summary.json",
        "fabric" => "fabric.json",
        "kubernetes" => "kubernetes.json",
        "manager" => "manager.json",
        "pods" => "pods.json",
        "services" => "services.json",
        "rules" => "rules.json",
        other => {
            say(&format!(
                "`{other}` is not a part: say `fabric`, `kubernetes`, `manager`, `pods`, `services`, `rules` or nothing."
            ));
            return ExitCode::FAILURE;
        }
    };
    let folder = Path::new(FOLDER);
    if let Err(error) = figure::forget(folder, name) {
        say(&format!("{FOLDER}/{name}: {error}"));
        return ExitCode::FAILURE;
    }
    if let Err(error) = measure(&part, &mut figures) {
        say(&figures.table());
        say(&format!("\nmeasuring stopped, and {FOLDER}/{name} is not written: {error}"));
        return ExitCode::FAILURE;
    }
    say(&figures.table());
    match figures.write(folder, name) {
        Ok(path) => {
            say(&format!("written: {}", path.display()));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("{FOLDER}/{name}: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn measure(part: &str, figures: &mut Figures) -> Result<(), String> {
    match part {
        "fabric" => measure::fabric(figures).map_err(|e| e.to_string()),
        // The cluster is a run of its own: it needs the programs of Kubernetes, and some minutes.
        "kubernetes" => kubernetes::everything(figures).map_err(|e| e.to_string()),
        "manager" => kubernetes::manager(figures).map_err(|e| e.to_string()),
        "pods" => kubernetes::pods(figures).map_err(|e| e.to_string()),
        "services" => services::alone(figures).map_err(|e| e.to_string()),
        "rules" => rules::alone(figures).map_err(|e| e.to_string()),
        _ => everything(figures),
    }
}

/// What needs no cluster.
fn everything(figures: &mut Figures) -> Result<(), String> {
    measure::programs(figures).map_err(|e| e.to_string())?;
    measure::fabric(figures).map_err(|e| e.to_string())
}

/// A line for people.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
