//! Services and connections whose every answer is awaited.

use super::soon;
use nix::sys::signal::Signal;
use skein_lab::{Pod, Process};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A service that sends back what it gets, over TCP and UDP, until it is dropped.
#[derive(Debug)]
pub struct Echo(Arc<AtomicBool>);

impl Echo {
    pub fn start(pod: &Pod, port: u16) -> Echo {
        let all = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let (tcp, udp) = pod
            .inside(|| (TcpListener::bind(all).unwrap(), UdpSocket::bind(all).unwrap()))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        // Threads end within this time of the drop; sockets are theirs alone.
        let tick = Some(Duration::from_millis(20));
        udp.set_read_timeout(tick).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let stopping = stop.clone();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            while !stopping.load(Ordering::Relaxed) {
                if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&buffer[..length], from);
                }
            }
        });
        let stopping = stop.clone();
        std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                match tcp.accept() {
                    Ok((stream, _)) => {
                        std::thread::spawn(move || echo(stream));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Echo(stop)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Why an established connection no longer carries data, or that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    Yes,
    Silence,
    Reset,
}

/// An established TCP connection to an [`Echo`].
#[derive(Debug)]
pub struct Connection(TcpStream);

impl Connection {
    pub fn open(from: &Pod, address: &str, port: u16) -> Option<Connection> {
        let target = SocketAddr::new(address.parse().unwrap(), port);
        let limit = Duration::from_secs(1);
        let stream = from.inside(|| TcpStream::connect_timeout(&target, limit)).unwrap().ok()?;
        stream.set_nodelay(true).unwrap();
        Some(Connection(stream))
    }

    /// Sends a few bytes and waits for them to come back.
    pub fn carries(&mut self, limit: Duration) -> Carries {
        self.0.set_read_timeout(Some(limit)).unwrap();
        let mut buffer = [0; 4];
        let result = self.0.write_all(b"ping").and_then(|()| self.0.read_exact(&mut buffer));
        match result {
            Ok(()) => Carries::Yes,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Carries::Silence,
            Err(_) => Carries::Reset,
        }
    }
}

/// Whether a datagram of this many bytes comes back from an [`Echo`] unharmed.
pub fn udp_echoes(from: &Pod, address: &str, port: u16, bytes: usize, limit: Duration) -> bool {
    let target: IpAddr = address.parse().unwrap();
    let any: IpAddr =
        if target.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.udp(SocketAddr::new(any, 0)).unwrap();
    socket.set_read_timeout(Some(limit)).unwrap();
    let sent: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
    let mut buffer = vec![0; 65536];
    socket.send_to(&sent, SocketAddr::new(target, port)).is_ok()
        && socket.recv_from(&mut buffer).is_ok_and(|(length, _)| buffer[..length] == sent)
}

/// Echo requests that go on, one after the other in a fixed time, until they are stopped.
#[derive(Debug)]
pub struct Pings(Process);

/// What came back.
#[derive(Debug)]
pub struct Pinged {
    /// How many were answered.
    pub answered: usize,
    /// Requests before the last answered one that were not. One that is under way at the end is none of them.
    pub missing: Vec<usize>,
}

impl Pings {
    /// Starts once the address answers; `interval` is in seconds.
    pub fn start(from: &Pod, address: &str, interval: &str) -> Pings {
        soon(&format!("{address} to answer"), || from.pings(address, 1).unwrap());
        let mut command = Command::new("ping");
        command.args(["-n", "-i", interval, "-w", "600", address]);
        Pings(from.spawn("pings", &mut command).unwrap())
    }

    /// Numbers of the requests that were answered so far, as `ping` counts them: from one.
    fn answered(&self) -> BTreeSet<usize> {
        let said = std::fs::read_to_string(self.0.log_path()).unwrap();
        // The last line may not be whole yet.
        let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let answers = whole.lines().filter(|line| line.contains(" bytes from "));
        let number = |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok();
        answers.map(|line| number(line).unwrap_or_else(|| panic!("no number: {line}"))).collect()
    }

    /// Waits for answers to a few more requests, so that what is missing before them is seen, and ends.
    pub fn stop(mut self) -> Pinged {
        let last = |answered: &BTreeSet<usize>| answered.last().copied().unwrap_or(0);
        let before = last(&self.answered());
        soon("more requests to be answered", || last(&self.answered()) >= before + 5);
        let ended = self.0.signal(Signal::SIGINT).and_then(|()| self.0.reap());
        assert!(ended.unwrap().success(), "{}", self.0.log_tail());
        let answered = self.answered();
        let missing = (1..last(&answered)).filter(|number| !answered.contains(number)).collect();
        Pinged { answered: answered.len(), missing }
    }
}

/// What `ping` with these options says, standard output and error.
pub fn ping(from: &Pod, options: &str) -> String {
    let mut command = Command::new("ping");
    command.args(["-n", "-c", "2", "-i", "0.2", "-W", "1"]).args(options.split_whitespace());
    let ran = from.run(&mut command).unwrap();
    ran.stdout + &ran.stderr
}
