//! A TCP transfer whose every byte is checked, with a record of how long it stood still.

use crate::{LabError, Pod, Stalls};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const CHUNK: usize = 64 * 1024;
/// A connection that makes no progress for this long is dead.
const STALLED: Duration = Duration::from_secs(15);

/// What became of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct TransferReport {
    /// Bytes that the sender handed to its kernel.
    pub sent: u64,
    /// Bytes that arrived.
    pub received: u64,
    /// Every byte arrived, in order, with the value it was sent with.
    pub intact: bool,
    /// The longest time between two arrivals.
    pub longest_gap: Duration,
    /// The longest time that the machine itself stood still meanwhile.
    pub longest_stall: Duration,
}

impl TransferReport {
    /// The longest time between two arrivals that is not the machine's doing: less what it stood still for.
    #[must_use]
    pub fn longest_pause(&self) -> Duration {
        self.longest_gap.saturating_sub(self.longest_stall)
    }
}

/// A running transfer.
#[derive(Debug)]
pub struct Transfer {
    stop: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    stalls: Stalls,
    sender: JoinHandle<std::io::Result<u64>>,
    receiver: JoinHandle<std::io::Result<(u64, bool, Duration)>>,
}

/// The byte at a position of the stream: no two blocks of a packet's size are alike.
fn byte(at: u64) -> u8 {
    let mixed = (at / 7).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    u8::try_from(mixed & 0xff).unwrap_or(0) ^ u8::try_from(at & 0xff).unwrap_or(0)
}

impl Transfer {
    /// Starts sending from one pod to an address of another.
    ///
    /// # Errors
    /// The pods cannot be entered, or the connection does not come up.
    pub fn start(from: &Pod, to: &Pod, address: &str, port: u16) -> Result<Transfer, LabError> {
        let failed = |what: &str, error: &dyn std::fmt::Display| LabError::Command {
            command: format!("transfer to {address} port {port}"),
            status: what.to_owned(),
            stderr: error.to_string(),
        };
        let ip: IpAddr = address.parse().map_err(|e| failed("bad address", &e))?;
        let target = SocketAddr::new(ip, port);
        let listener =
            to.inside(|| TcpListener::bind(target))?.map_err(|e| failed("cannot listen", &e))?;
        let stream = from
            .inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(5)))?
            .map_err(|e| failed("cannot connect", &e))?;
        let (accepted, _) = listener.accept().map_err(|e| failed("cannot accept", &e))?;
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let stalls = Stalls::watch();
        let stopping = stop.clone();
        let sender = std::thread::spawn(move || send(stream, &stopping));
        let counter = arrived.clone();
        let receiver = std::thread::spawn(move || receive(accepted, &counter));
        Ok(Transfer { stop, arrived, stalls, sender, receiver })
    }

    /// Bytes that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Ends the transfer and checks it.
    ///
    /// # Errors
    /// The connection was reset or stood still.
    pub fn finish(self) -> Result<TransferReport, LabError> {
        self.stop.store(true, Ordering::Relaxed);
        let failed = |side: &str, error: &dyn std::fmt::Display| LabError::Command {
            command: "transfer".into(),
            status: format!("{side} failed"),
            stderr: error.to_string(),
        };
        let sent = self.sender.join().map_err(|_| failed("sender", &"it panicked"))?;
        let received = self.receiver.join().map_err(|_| failed("receiver", &"it panicked"))?;
        let sent = sent.map_err(|e| failed("sender", &e))?;
        let (received, equal, longest_gap) = received.map_err(|e| failed("receiver", &e))?;
        let (intact, longest_stall) = (equal && sent == received, self.stalls.longest());
        Ok(TransferReport { sent, received, intact, longest_gap, longest_stall })
    }
}

fn send(mut stream: TcpStream, stop: &AtomicBool) -> std::io::Result<u64> {
    stream.set_write_timeout(Some(STALLED))?;
    let mut at = 0u64;
    let mut buffer = vec![0u8; CHUNK];
    while !stop.load(Ordering::Relaxed) {
        for (offset, place) in buffer.iter_mut().enumerate() {
            *place = byte(at + offset as u64);
        }
        stream.write_all(&buffer)?;
        at += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    Ok(at)
}

fn receive(mut stream: TcpStream, arrived: &AtomicU64) -> std::io::Result<(u64, bool, Duration)> {
    stream.set_read_timeout(Some(STALLED))?;
    let mut buffer = vec![0u8; CHUNK];
    let (mut at, mut equal, mut gap) = (0u64, true, Duration::ZERO);
    let mut last = Instant::now();
    loop {
        let got = stream.read(&mut buffer)?;
        gap = gap.max(last.elapsed());
        last = Instant::now();
        if got == 0 {
            return Ok((at, equal, gap));
        }
        equal &= buffer[..got].iter().enumerate().all(|(offset, b)| *b == byte(at + offset as u64));
        at += got as u64;
        arrived.store(at, Ordering::Relaxed);
    }
}
