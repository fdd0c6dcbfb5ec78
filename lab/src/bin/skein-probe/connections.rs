//! As many new connections as a machine can make: one side opens them, the other one ends them at once.
//!
//! A connection is four packets: the handshake, and a reset by the server, so that neither side has to remember it. What
//! is left to compare between two networks is what they do for a connection.

use crate::{flag, flags, print};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use serde::Serialize;
use std::io::Read as _;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A lost packet is sent again after a second: what takes longer has failed.
const PATIENCE: i64 = 3;
/// Both ends of what is measured share the machine; more threads than it has cores, so that none waits.
const ENDERS: usize = 2;

#[derive(Serialize)]
struct Report {
    opened: u64,
    failed: u64,
    seconds: f64,
    /// How the last one that failed did.
    error: Option<String>,
}

/// Listens on a port, and resets every connection.
pub(crate) fn end(arguments: &[String]) -> Result<(), String> {
    let [port] = arguments else { return Err(crate::USAGE.to_owned()) };
    let port: u16 = port.parse().map_err(|_| format!("`{port}`: no port"))?;
    let on = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let listener = TcpListener::bind(on).map_err(|error| format!("TCP {on}: {error}"))?;
    let reset = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    std::thread::scope(|scope| {
        for _ in 0..ENDERS {
            scope.spawn(|| {
                while let Ok((stream, _)) = listener.accept() {
                    let _ = setsockopt(&stream, sockopt::Linger, &reset);
                }
            });
        }
    });
    Err(format!("TCP {on}: no more connections"))
}

/// Opens connections to the targets on standard input, in turn, for a while; prints how many.
pub(crate) fn open(arguments: &[String]) -> Result<(), String> {
    let (found, rest) = flags(arguments, &["milliseconds", "threads"])?;
    if !rest.is_empty() {
        return Err(crate::USAGE.to_owned());
    }
    let length = Duration::from_millis(flag(&found, "milliseconds", 1000));
    let threads = usize::try_from(flag(&found, "threads", 8)).unwrap_or(8);
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| format!("input: {error}"))?;
    let targets = text
        .split_whitespace()
        .map(|target| target.parse::<SocketAddr>().map_err(|error| format!("`{target}`: {error}")));
    let targets: Vec<SocketAddr> = targets.collect::<Result<_, _>>()?;
    if targets.is_empty() {
        return Err("no targets on standard input".into());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let since = Instant::now();
    let mut report = Report { opened: 0, failed: 0, seconds: 0.0, error: None };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                let (stop, targets) = (stop.clone(), &targets);
                // Each begins elsewhere, so that together they are everywhere.
                let first = number * targets.len() / threads;
                scope.spawn(move || work(targets, first, &stop))
            })
            .collect();
        std::thread::sleep(length);
        report.seconds = since.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            let (opened, failed, error) = worker.join().unwrap_or((0, 1, None));
            report.opened += opened;
            report.failed += failed;
            report.error = error.or(report.error.take());
        }
    });
    print(&report)
}

fn work(targets: &[SocketAddr], first: usize, stop: &AtomicBool) -> (u64, u64, Option<String>) {
    let (mut opened, mut failed, mut last) = (0, 0, None);
    for target in targets.iter().cycle().skip(first) {
        // One that ends after its time is not counted.
        let outcome = one(target);
        if stop.load(Ordering::Relaxed) {
            break;
        }
        match outcome {
            Ok(()) => opened += 1,
            Err(error) => {
                failed += 1;
                last = Some(format!("{target}: {error}"));
            }
        }
    }
    (opened, failed, last)
}

/// One connection, until the server has ended it.
fn one(target: &SocketAddr) -> Result<(), Errno> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let stream = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::new(PATIENCE, 0);
    setsockopt(&stream, sockopt::SendTimeout, &patience)?;
    setsockopt(&stream, sockopt::ReceiveTimeout, &patience)?;
    match connect(stream.as_raw_fd(), &SockaddrStorage::from(*target)) {
        Ok(()) => {}
        // The end may be here before we look.
        Err(Errno::ECONNRESET) => return Ok(()),
        Err(error) => return Err(error),
    }
    match nix::unistd::read(&stream, &mut [0]) {
        Ok(_) | Err(Errno::ECONNRESET) => Ok(()),
        Err(error) => Err(error),
    }
}
