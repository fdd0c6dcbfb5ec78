//! Servers that tell who they are and whom they see.

use skein_lab::{Host, Pod, Stalls};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long a connection may take, and the answer.
const LIMIT: Duration = Duration::from_secs(1);

/// A server that says its name, and their address, to whoever connects, and takes what they say.
#[derive(Debug)]
pub struct Named {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
}

impl Named {
    pub fn start(pod: &Pod, port: u16, name: &'static str) -> Named {
        Named::serve(pod.inside(|| TcpListener::bind(("::", port)).unwrap()).unwrap(), name)
    }

    pub fn serve(listener: TcpListener, name: &'static str) -> Named {
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(AtomicU64::new(0));
        let (stopping, taking) = (stop.clone(), taken.clone());
        std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, from)) => {
                        let said = format!("{name} {}", from.ip().to_canonical());
                        let taken = taking.clone();
                        std::thread::spawn(move || answer(stream, &said, &taken));
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Named { stop, taken }
    }

    /// Bytes that its clients have said so far.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Says it, then takes what comes: closing before all is read would reset the connection.
fn answer(mut stream: TcpStream, said: &str, taken: &AtomicU64) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
    let _ = stream.write_all(said.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut buffer = [0; 1 << 16];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        taken.fetch_add(length as u64, Ordering::Relaxed);
    }
}

/// Who answers a few dozen connections; a failed one answers with its error, unless the machine stood still for so long
/// meanwhile that it had no time: it is asked again then.
pub fn answering(mut ask: impl FnMut() -> Result<(String, String), String>) -> BTreeSet<String> {
    let stalls = Stalls::watch();
    let mut once = || loop {
        let _ = stalls.take();
        match ask() {
            Ok((name, _)) => return name,
            Err(_) if stalls.take() > LIMIT / 2 => {}
            Err(error) => return error,
        }
    };
    (0..30).map(|_| once()).collect()
}

/// Who answers, and by which address it knows the asker.
fn ask(address: &str, port: u16) -> Result<(String, String), String> {
    let target = SocketAddr::new(address.parse().unwrap(), port);
    let mut stream =
        TcpStream::connect_timeout(&target, LIMIT).map_err(|error| format!("{target}: {error}"))?;
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).map_err(|error| format!("{target}: {error}"))?;
    let (name, from) = said.split_once(' ').ok_or_else(|| format!("{target} said {said:?}"))?;
    Ok((name.to_owned(), from.to_owned()))
}

pub fn from_pod(pod: &Pod, address: &str, port: u16) -> Result<(String, String), String> {
    pod.inside(|| ask(address, port)).unwrap()
}

pub fn from_host(host: &Host, address: &str, port: u16) -> Result<(String, String), String> {
    host.inside(|| ask(address, port)).unwrap()
}
