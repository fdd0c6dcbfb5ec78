//! Servers that tell who they are and whom they see.

use skein_lab::{Host, Pod};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A server that says its name, and their address, to whoever connects.
#[derive(Debug)]
pub struct Named(Arc<AtomicBool>);

impl Named {
    pub fn start(pod: &Pod, port: u16, name: &'static str) -> Named {
        Named::serve(pod.inside(|| TcpListener::bind(("::", port)).unwrap()).unwrap(), name)
    }

    pub fn serve(listener: TcpListener, name: &'static str) -> Named {
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, from)) => {
                        let said = format!("{name} {}", from.ip().to_canonical());
                        let _ = std::io::Write::write_all(&mut stream, said.as_bytes());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Named(stop)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Who answers, and by which address it knows the asker.
fn ask(address: &str, port: u16) -> Result<(String, String), String> {
    let target = SocketAddr::new(address.parse().unwrap(), port);
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(1))
        .map_err(|error| format!("{target}: {error}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
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
