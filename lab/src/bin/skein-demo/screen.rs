//! What the demo shows: a line a step, with a tick or a cross.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a terminal sees that a step goes on.
const BEAT: Duration = Duration::from_secs(1);
/// Seconds after which whoever reads a log is told that a step takes long, and how often from then on.
const LONG: u64 = 5;
const AGAIN: u64 = 30;

/// Standard output, with progress when it is a terminal.
pub(crate) struct Screen {
    terminal: bool,
    held: usize,
    broken: usize,
    /// The step under way.
    open: Option<Open>,
}

/// A step under way, and who tells of it.
struct Open {
    text: String,
    since: Instant,
    ended: mpsc::Sender<()>,
    teller: Option<JoinHandle<()>>,
}

impl Open {
    fn begin(terminal: bool, text: &str) -> Open {
        let (ended, waiting) = mpsc::channel::<()>();
        let (since, own) = (Instant::now(), text.to_owned());
        let tell = move || {
            let mut seconds = 0;
            while waiting.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                seconds += BEAT.as_secs();
                if let Some(line) = progress(terminal, &own, seconds) {
                    Screen::write(&line);
                }
            }
        };
        // A step that nobody can tell of goes on all the same.
        let teller = std::thread::Builder::new().name("progress".into()).spawn(tell).ok();
        Open { text: text.to_owned(), since, ended, teller }
    }

    /// Nothing is told of it any more when this returns.
    fn end(self) -> (String, Instant) {
        drop(self.ended);
        if let Some(teller) = self.teller {
            let _ = teller.join();
        }
        (self.text, self.since)
    }
}

/// What is told of a step that has gone on for so many seconds: a terminal sees them count in its last line, a log gets a line
/// now and then.
fn progress(terminal: bool, text: &str, seconds: u64) -> Option<String> {
    if terminal {
        return Some(format!("\r\x1b[K  … {text} ({seconds} s)"));
    }
    match seconds {
        LONG => Some(format!("  … {text}\n")),
        _ if seconds.is_multiple_of(AGAIN) => Some(format!("  … {text} ({seconds} s)\n")),
        _ => None,
    }
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
        self.open = Some(Open::begin(self.terminal, text));
    }

    /// The step under way has ended; `detail` says what was seen.
    pub(crate) fn end(&mut self, held: bool, detail: &str) {
        let Some((text, since)) = self.open.take().map(Open::end) else { return };
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

#[cfg(test)]
mod tests {
    use super::{Open, progress};

    #[test]
    fn a_terminal_sees_the_seconds_count_in_one_line() {
        assert_eq!(progress(true, "a step", 1).as_deref(), Some("\r\x1b[K  … a step (1 s)"));
        assert_eq!(progress(true, "a step", 75).as_deref(), Some("\r\x1b[K  … a step (75 s)"));
    }

    #[test]
    fn a_log_gets_a_line_for_a_long_step_and_few_more() {
        let lines: Vec<String> = (1..=65).filter_map(|s| progress(false, "a step", s)).collect();
        assert_eq!(lines, ["  … a step\n", "  … a step (30 s)\n", "  … a step (60 s)\n"]);
    }

    #[test]
    fn who_tells_of_a_step_ends_with_it() {
        let step = Open::begin(false, "a step");
        assert_eq!(step.end().0, "a step");
    }
}
