//! The client: asks many targets at once.

use crate::{Protocol, flag, flags, print, sctp};
use skein_lab::kubernetes::{ProbeAnswer, ProbeOutcome};
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long an answer is awaited unless said otherwise, in milliseconds.
const TIMEOUT: u64 = 1000;
/// Targets under way at one time; a table of 100 pods and more needs no second round.
const AT_ONCE: usize = 256;
/// A datagram may be lost on a busy machine: it is sent this often within the timeout.
pub(crate) const ATTEMPTS: u32 = 3;

/// Asks all targets and prints how each ended, in their order.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let (found, rest) = flags(arguments, &["timeout"])?;
    let timeout = Duration::from_millis(flag(&found, "timeout", TIMEOUT).max(1));
    let targets = match rest {
        [dash] if dash == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string())?;
            text.split_whitespace().map(str::to_owned).collect()
        }
        given => given.to_vec(),
    };
    print(&all(&targets, timeout, |_| 0)?)
}

/// Asks batch after batch until standard input ends: a line is a timeout in milliseconds and targets, its answer a line.
pub(crate) fn batches() -> Result<(), String> {
    for line in std::io::stdin().lines() {
        let line = line.map_err(|error| error.to_string())?;
        let mut words = line.split_whitespace();
        let timeout = words.next().and_then(|word| word.parse().ok()).ok_or("no timeout")?;
        let targets: Vec<String> = words.map(str::to_owned).collect();
        print(&all(&targets, Duration::from_millis(timeout), own_port)?)?;
    }
    Ok(())
}

/// The source port for a target, always the same one below the dynamic ports. Whoever asks thousands of times from new ports
/// has as many connections: UDP and SCTP have no end that anyone sees.
fn own_port(target: &str) -> u16 {
    let hash = target
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    20_000 + (hash % 10_000) as u16
}

/// Asks targets at one time; how each ended, in their order.
/// `port` chooses the source port of UDP and SCTP; 0: any.
fn all(
    targets: &[String],
    timeout: Duration,
    port: fn(&str) -> u16,
) -> Result<Vec<ProbeOutcome>, String> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![None; targets.len()]);
    std::thread::scope(|scope| {
        for _ in 0..targets.len().min(AT_ONCE) {
            scope.spawn(|| {
                while let Some(at) = Some(next.fetch_add(1, Ordering::Relaxed))
                    && let Some(target) = targets.get(at)
                {
                    let outcome = ask(target, timeout, port(target));
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes[at] = Some(outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().map_err(|error| error.to_string())?;
    Ok(outcomes.into_iter().flatten().collect())
}

fn ask(target: &str, timeout: Duration, port: u16) -> ProbeOutcome {
    let since = Instant::now();
    let answer = resolve(target).and_then(|(protocol, address)| match protocol {
        Protocol::Tcp => tcp(address, timeout),
        Protocol::Udp => udp(address, timeout, port),
        Protocol::Sctp => sctp::ask(address, timeout, port),
    });
    let milliseconds = since.elapsed().as_secs_f64() * 1e3;
    let (answer, error) = match answer {
        Ok(answer) => (Some(answer), None),
        Err(error) => (None, Some(error)),
    };
    ProbeOutcome { target: target.to_owned(), answer, error, milliseconds }
}

fn resolve(target: &str) -> Result<(Protocol, SocketAddr), String> {
    let (protocol, address) = target.split_once(':').ok_or("no PROTOCOL:HOST:PORT")?;
    let mut addresses = address.to_socket_addrs().map_err(|error| format!("name: {error}"))?;
    let address = addresses.next().ok_or("the name has no address")?;
    Ok((Protocol::parse(protocol)?, address))
}

/// An error in few words; those that truth tables tell apart have one.
pub(crate) fn words(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => "timeout".into(),
        ErrorKind::ConnectionRefused => "refused".into(),
        _ => error.to_string(),
    }
}

pub(crate) fn understand(text: &[u8]) -> Result<ProbeAnswer, String> {
    serde_json::from_slice(text).map_err(|error| format!("not the answer of a probe: {error}"))
}

fn tcp(address: SocketAddr, timeout: Duration) -> Result<ProbeAnswer, String> {
    let since = Instant::now();
    let stream = TcpStream::connect_timeout(&address, timeout).map_err(|error| words(&error))?;
    let left = timeout.saturating_sub(since.elapsed()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).map_err(|error| words(&error))?;
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line).map_err(|error| words(&error))?;
    understand(&line)
}

/// The address that a socket for a peer is bound to.
fn any(peer: SocketAddr, port: u16) -> SocketAddr {
    if peer.is_ipv4() {
        SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
    } else {
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
    }
}

fn udp(address: SocketAddr, timeout: Duration, port: u16) -> Result<ProbeAnswer, String> {
    // Two targets may have one port.
    let socket = UdpSocket::bind(any(address, port))
        .or_else(|_| UdpSocket::bind(any(address, 0)))
        .map_err(|error| words(&error))?;
    socket.connect(address).map_err(|error| words(&error))?;
    socket.set_read_timeout(Some(timeout / ATTEMPTS)).map_err(|error| words(&error))?;
    let mut last = "timeout".to_owned();
    let mut buffer = [0; 2048];
    for _ in 0..ATTEMPTS {
        socket.send(b"who?").map_err(|error| words(&error))?;
        match socket.recv(&mut buffer) {
            Ok(length) => return understand(&buffer[..length]),
            Err(error) => last = words(&error),
        }
        if last == "refused" {
            break;
        }
    }
    Err(last)
}
