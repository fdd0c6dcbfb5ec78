//! `make demo`: a working two-node fabric, step by step, on this machine.
//!
//! `skein-demo up` builds it, shows what it does and leaves it running; `skein-demo down` removes
//! every trace; a name after either is for another demo beside it. `k8s-up` and `k8s-down` do the same with a three-node Kubernetes. Nothing is asked; the exit code
//! is 0 only if every step held.

mod kubernetes;
mod screen;
mod steps;

use screen::Screen;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Name of the demo's lab, unless another is given: its namespaces start with it.
const LAB: &str = "skdemo";

/// The folder with Skein's programs: this one's own.
fn programs() -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|path| path.parent().map(Path::to_path_buf))
        .unwrap_or_else(|| "target/release".into())
}

fn main() -> ExitCode {
    let mut screen = Screen::new();
    let lab = std::env::args().nth(2).unwrap_or_else(|| LAB.to_owned());
    let result: Result<bool, Box<dyn Error>> = match std::env::args().nth(1).as_deref() {
        Some("up") | None => steps::up(&mut screen, &lab).map_err(Into::into),
        Some("down") => steps::down(&mut screen, &lab).map_err(Into::into),
        Some("k8s-up") => kubernetes::up(&mut screen).map_err(Into::into),
        Some("k8s-down") => kubernetes::down(&mut screen).map_err(Into::into),
        Some(other) => {
            screen.say(&format!("{other}? Say `skein-demo up`, `down`, `k8s-up` or `k8s-down`."));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            screen.fail(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
