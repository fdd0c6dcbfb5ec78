//! `make bench`: every figure of the performance budget that this machine can show, each beside its
//! peer, measured in one run.
//!
//! `skein-bench fabric` measures only what goes through a fabric, `skein-bench kubernetes` a real cluster instead, and
//! of that `skein-bench manager` only what a large one costs the manager, `skein-bench pods` only how pods start, and
//! members and policies change, `skein-bench services` only new connections, `skein-bench rules` only policies of many rules.
//!
//! Prints a table and writes `target/bench/summary.json` (`kubernetes.json`, `services.json`). A figure that falls short is said so; the
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
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut figures = Figures::default();
    let part = std::env::args().nth(1).unwrap_or_default();
    let (measured, name) = match part.as_str() {
        "" => (everything(&mut figures), "summary.json"),
        "fabric" => (measure::fabric(&mut figures).map_err(|e| e.to_string()), "fabric.json"),
        // The cluster is a run of its own: it needs the programs of Kubernetes, and some minutes.
        "kubernetes" => {
            (kubernetes::everything(&mut figures).map_err(|e| e.to_string()), "kubernetes.json")
        }
        "manager" => (kubernetes::manager(&mut figures).map_err(|e| e.to_string()), "manager.json"),
        "pods" => (kubernetes::pods(&mut figures).map_err(|e| e.to_string()), "pods.json"),
        "services" => (services::alone(&mut figures).map_err(|e| e.to_string()), "services.json"),
        "rules" => (rules::alone(&mut figures).map_err(|e| e.to_string()), "rules.json"),
        other => {
            say(&format!(
                "`{other}` is not a part: say `fabric`, `kubernetes`, `manager`, `pods`, `services`, `rules` or nothing."
            ));
            return ExitCode::FAILURE;
        }
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

/// What needs no cluster.
fn everything(figures: &mut Figures) -> Result<(), String> {
    measure::programs(figures).map_err(|e| e.to_string())?;
    measure::fabric(figures).map_err(|e| e.to_string())
}

/// A line for people.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
