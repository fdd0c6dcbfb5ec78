//! A DNS server outside of the fabric that knows one name.

use crate::{Host, LabError};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The server; ends when it is dropped.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// The name that it knows.
    pub const NAME: &str = "www.example.test";

    /// Starts it on a host; `known` is the address of [`Upstream::NAME`].
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(host: &Host, port: u16, known: Ipv4Addr) -> Result<Upstream, LabError> {
        let address = SocketAddr::new(host.ipv4().into(), port);
        let socket = host.inside(|| UdpSocket::bind(address))?.map_err(|e| failed(address, &e))?;
        Upstream::on(socket, known)
    }

    /// The same on a socket, wherever it is.
    ///
    /// # Errors
    /// The socket is no longer usable.
    pub fn on(socket: UdpSocket, known: Ipv4Addr) -> Result<Upstream, LabError> {
        let address = socket
            .local_addr()
            .map_err(|e| failed(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0), &e))?;
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .map_err(|e| failed(address, &e))?;
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopping, count) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stopping.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    count.fetch_add(1, Ordering::Relaxed);
                    if let Some(reply) = reply(&buffer[..length], known) {
                        let _ = socket.send_to(&reply, client);
                    }
                }
            }
        });
        Ok(Upstream { address, stop, asked, thread: Some(thread) })
    }

    /// How many questions came.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn failed(address: SocketAddr, error: &std::io::Error) -> LabError {
    LabError::Command {
        command: format!("serve names at {address}"),
        status: "refused".into(),
        stderr: error.to_string(),
    }
}

/// The reply of a server that knows one name: its address, none of another type, or no such name. None to what is no
/// question.
fn reply(query: &[u8], known: Ipv4Addr) -> Option<Vec<u8>> {
    let mut wire = Vec::new();
    for label in Upstream::NAME.split('.') {
        wire.push(u8::try_from(label.len()).ok()?);
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    let end = 12 + query.get(12..)?.iter().position(|byte| *byte == 0)? + 1;
    let named = query[12..end].eq_ignore_ascii_case(&wire);
    let address = named && query.get(end..end + 2)? == [0, 1];
    let mut out = query.get(..end + 4)?.to_vec();
    out[2] |= 0x80;
    out[3] = if named { 0x80 } else { 0x83 };
    out[4..12].copy_from_slice(&[0, 1, 0, u8::from(address), 0, 0, 0, 0]);
    if address {
        out.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        out.extend(known.octets());
    }
    Some(out)
}
