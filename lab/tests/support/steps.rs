//! How long the steps of a long test took.

#![allow(clippy::print_stdout, reason = "how long the steps took is for whoever reads a failure")]

use std::time::Instant;

/// A clock that starts anew with every step.
#[derive(Debug)]
pub struct Steps(Instant);

impl Steps {
    /// Starts with the first step.
    pub fn start() -> Steps {
        Steps(Instant::now())
    }

    /// Tells how long a step took.
    pub fn done(&mut self, what: &str) {
        println!("{what}: {:.1} s", self.0.elapsed().as_secs_f64());
        self.0 = Instant::now();
    }
}
