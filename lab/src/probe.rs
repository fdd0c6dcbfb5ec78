//! Small services and probes inside workloads.

use crate::{LabError, Pod};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A TCP service that accepts and closes; it ends when dropped.
#[derive(Debug)]
pub struct TcpService {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl TcpService {
    /// Listens on all addresses of a pod.
    ///
    /// # Errors
    /// The port is taken.
    pub fn start(pod: &Pod, port: u16) -> Result<TcpService, LabError> {
        let failed = |error: std::io::Error| LabError::Command {
            command: format!("listen on port {port} of {}", pod.name()),
            status: "refused".into(),
            stderr: error.to_string(),
        };
        let listener = pod
            .inside(|| {
                TcpListener::bind(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port))
            })?
            .map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                if listener.accept().is_err() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Ok(TcpService { stop, thread: Some(thread) })
    }
}

impl Drop for TcpService {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Pod {
    /// Whether a TCP connection to `address` comes up within `limit`.
    ///
    /// # Errors
    /// The pod cannot be entered, or the address is none.
    pub fn connects(&self, address: &str, port: u16, limit: Duration) -> Result<bool, LabError> {
        let ip: IpAddr = address.parse().map_err(|_| LabError::Command {
            command: format!("connect to {address:?}"),
            status: "not started".into(),
            stderr: "no IP address".into(),
        })?;
        let target = SocketAddr::new(ip, port);
        self.inside(|| TcpStream::connect_timeout(&target, limit).is_ok())
    }

    /// A UDP socket of the pod, to send from or receive on.
    ///
    /// # Errors
    /// The pod cannot be entered, or the port is taken.
    pub fn udp(&self, local: SocketAddr) -> Result<UdpSocket, LabError> {
        self.inside(|| UdpSocket::bind(local))?.map_err(|error| LabError::Command {
            command: format!("bind UDP {local} in {}", self.name()),
            status: "refused".into(),
            stderr: error.to_string(),
        })
    }
}
