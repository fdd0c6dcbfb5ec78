//! HTTP servers with a name, requests, and load whose every answer is counted.

use super::PATIENCE;
use skein_lab::{Pod, wait_for};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one request may take, before it counts as failed.
const LIMIT: Duration = Duration::from_secs(2);

/// Between two requests of a client: one remote gets half of a port's flows at most, for a member the load balancer is that
/// one remote, and flows of closed connections go after a while.
const PAUSE: Duration = Duration::from_millis(15);

/// A server that answers every request with its name and the address it was asked from, until it is dropped.
#[derive(Debug)]
pub struct Web(Arc<AtomicBool>);

impl Web {
    pub fn start(pod: &Pod, port: u16, name: &str) -> Web {
        let listener = pod.inside(|| TcpListener::bind(("0.0.0.0", port)).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopping, name) = (stop.clone(), name.to_owned());
        std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) => {
                        let body = format!("{name} {}", from.ip());
                        std::thread::spawn(move || answer(stream, &body));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Web(stop)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn answer(mut stream: TcpStream, body: &str) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let mut asked = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = asked.windows(4).position(|end| end == b"\r\n\r\n") {
            asked.drain(..end + 4);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            if stream.write_all((head + body).as_bytes()).is_err() {
                return;
            }
            continue;
        }
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => asked.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
}

/// What came back.
struct Answer {
    status: u16,
    body: String,
    /// The server takes no further request over this connection.
    last: bool,
}

/// Asks over a connection that is open.
fn exchange(stream: &mut TcpStream, host: &str, path: &str) -> Result<Answer, String> {
    let ask = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(ask.as_bytes()).map_err(|error| format!("asking: {error}"))?;
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&said);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            if body.len() >= length {
                let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
                let status = status.ok_or_else(|| format!("no HTTP: {head:?}"))?;
                let last = head.lines().any(|line| line == "connection: close");
                return Ok(Answer { status, body: body.to_owned(), last });
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("closed after {} bytes", said.len())),
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(error) => return Err(format!("reading: {error}")),
        }
    }
}

fn connect(address: &str, port: u16) -> Result<TcpStream, String> {
    let target = SocketAddr::new(address.parse().unwrap(), port);
    let stream = TcpStream::connect_timeout(&target, LIMIT).map_err(|e| format!("opening: {e}"))?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    Ok(stream)
}

/// One request over a connection of its own, from where this thread is.
pub fn ask(address: &str, port: u16, host: &str, path: &str) -> Result<(u16, String), String> {
    let answer = exchange(&mut connect(address, port)?, host, path)?;
    Ok((answer.status, answer.body))
}

/// One request from a pod.
pub fn from_pod(pod: &Pod, address: &str, host: &str, path: &str) -> Result<(u16, String), String> {
    pod.inside(|| ask(address, 80, host, path)).unwrap()
}

/// Requests from a pod without pause, until it is stopped.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    good: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Account>>,
}

/// What came of them.
#[derive(Clone, Debug, Default)]
pub struct Account {
    pub good: usize,
    /// When and why, since the start.
    pub bad: Vec<(Duration, String)>,
    /// The longest time without a good answer.
    pub silence: Duration,
    /// By how much the machine woke a client too late at most.
    pub stall: Duration,
}

impl Load {
    /// `fresh` clients open a connection for each request, `kept` ones keep theirs as long as they can.
    pub fn start(pod: &Pod, address: &str, host: &str, fresh: usize, kept: usize) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let good = Arc::new(AtomicUsize::new(0));
        let threads = (0..fresh + kept).map(|nth| {
            let (pod, stop, good) = (pod.clone(), stop.clone(), good.clone());
            let (address, host) = (address.to_owned(), host.to_owned());
            std::thread::spawn(move || {
                pod.inside(|| run(&address, &host, nth >= fresh, &stop, &good)).unwrap()
            })
        });
        Load { threads: threads.collect(), stop, good }
    }

    /// Waits until so many more are answered.
    pub fn goes_on(&self, more: usize) {
        let good = || self.good.load(Ordering::Relaxed);
        let before = good();
        wait_for("requests to be answered", PATIENCE, || match good() {
            now if now >= before + more => Ok(()),
            now => Err(format!("{before} before, {now} now")),
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }

    pub fn stop(self) -> Account {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Account::default();
        for thread in self.threads {
            let one = thread.join().unwrap();
            all.good += one.good;
            all.bad.extend(one.bad);
            all.silence = all.silence.max(one.silence);
            all.stall = all.stall.max(one.stall);
        }
        all
    }
}

fn run(address: &str, host: &str, keep: bool, stop: &AtomicBool, good: &AtomicUsize) -> Account {
    let mut account = Account::default();
    let start = Instant::now();
    let mut last = Instant::now();
    let mut open: Option<TcpStream> = None;
    while !stop.load(Ordering::Relaxed) {
        let outcome =
            open.take().map_or_else(|| connect(address, 80), Ok).and_then(|mut stream| {
                let answer = exchange(&mut stream, host, "/")?;
                Ok((answer, stream))
            });
        match outcome {
            Ok((answer, stream)) if answer.status == 200 => {
                account.good += 1;
                good.fetch_add(1, Ordering::Relaxed);
                account.silence = account.silence.max(last.elapsed());
                last = Instant::now();
                open = Some(stream).filter(|_| keep && !answer.last);
            }
            Ok((answer, _)) => {
                account.bad.push((start.elapsed(), format!("status {}", answer.status)));
            }
            Err(why) => {
                account.bad.push((start.elapsed(), why));
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let slept = Instant::now();
        std::thread::sleep(PAUSE);
        account.stall = account.stall.max(slept.elapsed().saturating_sub(PAUSE));
    }
    account
}
