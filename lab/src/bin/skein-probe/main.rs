//! A server and a client for truth tables of pods x ports x protocols.
//!
//! - `skein-probe serve [PROTOCOL:PORT...]` answers on TCP, UDP and SCTP with the pod's name and the
//!   client's address; `http:PORT` answers requests with what they were.
//! - `skein-probe ask [--timeout MS] TARGET...` asks `PROTOCOL:HOST:PORT` targets (`-` reads them from
//!   standard input), all at once, and prints a JSON list with how each ended.
//! - `skein-probe asks` does so for every line of its input: a timeout in milliseconds, then targets.
//! - `skein-probe stream [--seconds N] [--interval MS] HOST:PORT` keeps one connection busy and prints, now
//!   and then and at the end, how many echoes there were and how long its longest pause was.
//! - `skein-probe open [--milliseconds N] [--threads N]` opens new connections to the `ADDRESS:PORT` targets on standard
//!   input, one after the other in each thread, and prints how many; `skein-probe end PORT` is who ends them.

mod ask;
mod connections;
mod sctp;
mod serve;
mod stream;
mod web;

use std::io::Write as _;
use std::process::ExitCode;

const USAGE: &str = "usage: skein-probe serve [PROTOCOL:PORT...]\n       \
                     skein-probe ask [--timeout MS] PROTOCOL:HOST:PORT... | -\n       \
                     skein-probe asks\n       \
                     skein-probe stream [--seconds N] [--interval MS] HOST:PORT\n       \
                     skein-probe open [--milliseconds N] [--threads N]\n       \
                     skein-probe end PORT\n";

/// Transport protocols that are asked and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn parse(text: &str) -> Result<Protocol, String> {
        match text {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            other => Err(format!("`{other}` is no protocol; say tcp, udp or sctp")),
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.split_first() {
        Some((verb, rest)) if verb == "serve" => serve::run(rest),
        Some((verb, rest)) if verb == "ask" => ask::run(rest),
        Some((verb, [])) if verb == "asks" => ask::batches(),
        Some((verb, rest)) if verb == "stream" => stream::run(rest),
        Some((verb, rest)) if verb == "open" => connections::open(rest),
        Some((verb, rest)) if verb == "end" => connections::end(rest),
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            let _ = writeln!(std::io::stderr(), "{reason}");
            ExitCode::from(2)
        }
    }
}

/// Prints a value as one line of JSON.
fn print(value: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string(value).map_err(|error| error.to_string())?;
    writeln!(std::io::stdout(), "{text}").map_err(|error| error.to_string())
}

/// Flags as given: name and value.
type Flags<'a> = Vec<(&'a str, u64)>;

/// Takes `--name VALUE` pairs off the front; gives the values by name and the rest.
fn flags<'a>(arguments: &'a [String], known: &[&str]) -> Result<(Flags<'a>, &'a [String]), String> {
    let mut found = Vec::new();
    let mut rest = arguments;
    while let [name, value, more @ ..] = rest {
        let Some(flag) = name.strip_prefix("--") else { break };
        if !known.contains(&flag) {
            return Err(format!("--{flag}? {USAGE}"));
        }
        let value = value.parse().map_err(|_| format!("--{flag} {value}: not a number"))?;
        found.push((flag, value));
        rest = more;
    }
    Ok((found, rest))
}

/// The value of a flag, or what holds without it.
fn flag(found: &[(&str, u64)], name: &str, otherwise: u64) -> u64 {
    found.iter().find(|(flag, _)| *flag == name).map_or(otherwise, |(_, value)| *value)
}
