//! What the demo shows: a line a step, with a tick or a cross.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

/// Standard output, with progress when it is a terminal.
pub(crate) struct Screen {
    terminal: bool,
    held: usize,
    broken: usize,
    /// The step under way.
    open: Option<(String, Instant)>,
}

impl Screen {
    pub(crate) fn new() -> Screen {
        let terminal = std::io::stdout().is_terminal() && std::env::var_os("CI").is_none();
        Screen { terminal, held: 0, broken: 0, open: None }
    }

    fn write(text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    /// A line for people.
    pub(crate) fn say(&self, text: &str) {
        Self::write(&format!("{text}\n"));
    }

    /// A heading.
    pub(crate) fn head(&self, text: &str) {
        if self.terminal {
            self.say(&format!("\n\x1b[1m{text}\x1b[0m"));
        } else {
            self.say(&format!("\n{text}"));
        }
    }

    /// A command that a person could have typed.
    pub(crate) fn command(&self, line: &str) {
        if self.terminal {
            self.say(&format!("  \x1b[2m$ {line}\x1b[0m"));
        } else {
            self.say(&format!("  $ {line}"));
        }
    }

    /// A step begins.
    pub(crate) fn begin(&mut self, text: &str) {
        if self.terminal {
            Self::write(&format!("  … {text}"));
        }
        self.open = Some((text.to_owned(), Instant::now()));
    }

    /// The step under way has ended; `detail` says what was seen.
    pub(crate) fn end(&mut self, held: bool, detail: &str) {
        let Some((text, since)) = self.open.take() else { return };
        let (sign, colour) = if held { ("✓", "32") } else { ("✗", "31") };
        if held {
            self.held += 1;
        } else {
            self.broken += 1;
        }
        let detail = if detail.is_empty() { String::new() } else { format!(" — {detail}") };
        let seconds = since.elapsed().as_secs_f64();
        let took = if seconds >= 1.0 { format!(" ({seconds:.1} s)") } else { String::new() };
        if self.terminal {
            Self::write(&format!("\r\x1b[K  \x1b[{colour}m{sign}\x1b[0m {text}{detail}{took}\n"));
        } else {
            Self::write(&format!("  {sign} {text}{detail}{took}\n"));
        }
    }

    /// Something ended a part of the demo early.
    pub(crate) fn fail(&mut self, error: &str) {
        if self.open.is_some() {
            self.end(false, "");
        } else {
            self.broken += 1;
        }
        self.say(&format!("\n{error}"));
    }

    /// Steps that held and steps that did not.
    pub(crate) fn totals(&self) -> (usize, usize) {
        (self.held, self.broken)
    }
}
