//! One connection kept busy, to see what a restart of something does to it.

use crate::ask::{understand, words};
use crate::{flag, flags, print};
use nix::sys::signal::{SigSet, Signal};
use skein_lab::Stalls;
use skein_lab::kubernetes::StreamReport;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an echo may take before the connection counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

/// After so many echoes the report so far is printed.
const TELL: u64 = 20;

/// Sends, awaits the echo, and again until SIGTERM or for some seconds; prints a report now and then, and at the end.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let (found, rest) = flags(arguments, &["seconds", "interval"])?;
    let [target] = rest else { return Err(crate::USAGE.to_owned()) };
    let length = Duration::from_secs(flag(&found, "seconds", 3600));
    let interval = Duration::from_millis(flag(&found, "interval", 5));
    let mut stream = TcpStream::connect(target).map_err(|error| words(&error))?;
    stream.set_nodelay(true).map_err(|error| words(&error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| words(&error))?;
    let mut reader = BufReader::new(stream.try_clone().map_err(|error| words(&error))?);
    let mut greeting = Vec::new();
    reader.read_until(b'\n', &mut greeting).map_err(|error| words(&error))?;
    let pod = understand(&greeting)?.pod;
    let mut report =
        StreamReport { pod, echoes: 0, longest_gap: 0.0, longest_stall: 0.0, error: None };
    let stop = ends_on_sigterm()?;
    let stalls = Stalls::watch();
    let since = Instant::now();
    while since.elapsed() < length && !stop.load(Ordering::Relaxed) {
        let sent = Instant::now();
        let word = report.echoes.to_be_bytes();
        let mut echo = [0; 8];
        let exchanged = stream.write_all(&word).and_then(|()| reader.read_exact(&mut echo));
        if let Err(error) = exchanged {
            report.error = Some(words(&error));
            break;
        }
        if echo != word {
            report.error = Some("an echo was not what was sent".into());
            break;
        }
        report.echoes += 1;
        report.longest_gap = report.longest_gap.max(sent.elapsed().as_secs_f64() * 1e3);
        if report.echoes.is_multiple_of(TELL) {
            print(&report)?;
        }
        std::thread::sleep(interval);
    }
    report.longest_stall = stalls.longest().as_secs_f64() * 1e3;
    print(&report)
}

/// A flag that the signal sets.
fn ends_on_sigterm() -> Result<Arc<AtomicBool>, String> {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.thread_block().map_err(|error| format!("signals: {error}"))?;
    let told = Arc::new(AtomicBool::new(false));
    let tell = told.clone();
    std::thread::spawn(move || {
        if stop.wait().is_ok() {
            tell.store(true, Ordering::Relaxed);
        }
    });
    Ok(told)
}
