//! `make demo`: a working two-node fabric, step by step, on this machine.
//!
//! `skein-demo up` builds it, shows what it does and leaves it running; `skein-demo down` removes
//! every trace. Nothing is asked; the exit code is 0 only if every step held.

mod screen;
mod steps;

use screen::Screen;
use std::process::ExitCode;

/// Name of the demo's lab: its namespaces start with it.
const LAB: &str = "skdemo";

fn main() -> ExitCode {
    let mut screen = Screen::new();
    let result = match std::env::args().nth(1).as_deref() {
        Some("up") | None => steps::up(&mut screen),
        Some("down") => steps::down(&mut screen),
        Some(other) => {
            screen.say(&format!("{other}? Say `skein-demo up` or `skein-demo down`."));
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
