//! The server: says who answers, and whom it sees.

use crate::{Protocol, sctp, web};
use nix::sys::signal::{SigSet, Signal};
use skein_lab::kubernetes::ProbeAnswer;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

/// What is served when nothing else is said: two ports each, for policies that tell them apart.
const DEFAULT: [&str; 6] = ["tcp:80", "tcp:81", "udp:80", "udp:81", "sctp:80", "sctp:81"];
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(120);

/// Serves until SIGTERM: as process 1 of a container it must ask for the signal, or never get it.
pub(crate) fn run(arguments: &[String]) -> Result<(), String> {
    let given: Vec<&str> = if arguments.is_empty() {
        DEFAULT.to_vec()
    } else {
        arguments.iter().map(String::as_str).collect()
    };
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTERM);
    stop.add(Signal::SIGINT);
    stop.thread_block().map_err(|error| format!("signals: {error}"))?;
    let pod = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .map_err(|error| format!("host name: {error}"))?;
    let mut associations = Vec::new();
    for text in &given {
        let (protocol, port) = text.split_once(':').ok_or(format!("`{text}`: PROTOCOL:PORT"))?;
        let port: u16 = port.parse().map_err(|_| format!("`{text}`: no port"))?;
        let on = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        if protocol == "http" {
            web::serve(&pod, on)?;
            continue;
        }
        match Protocol::parse(protocol)? {
            Protocol::Tcp => tcp(&pod, on)?,
            Protocol::Udp => udp(&pod, on)?,
            Protocol::Sctp => associations.push(port),
        }
    }
    if !associations.is_empty() {
        sctp::serve(&pod, &associations)?;
    }
    let _ = writeln!(std::io::stdout(), "{pod} serves {}", given.join(" "));
    stop.wait().map_err(|error| format!("signals: {error}"))?;
    Ok(())
}

/// The answer to a client at an address.
pub(crate) fn answer(pod: &str, client: SocketAddr, server: Option<SocketAddr>) -> Vec<u8> {
    line(&ProbeAnswer {
        pod: pod.to_owned(),
        client: plain(client).to_string(),
        server: server.map(|address| plain(address).to_string()),
        question: None,
    })
}

fn line(answer: &ProbeAnswer) -> Vec<u8> {
    let mut text = serde_json::to_vec(answer).unwrap_or_default();
    text.push(b'\n');
    text
}

/// An IPv4 address that arrived on an IPv6 socket, as what it is.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn tcp(pod: &str, on: SocketAddr) -> Result<(), String> {
    let listener = TcpListener::bind(on).map_err(|error| format!("TCP {on}: {error}"))?;
    let pod = pod.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let pod = pod.clone();
            std::thread::spawn(move || converse(&pod, stream));
        }
    });
    Ok(())
}

/// Says who answers, then echoes for as long as the client goes on.
fn converse(pod: &str, mut stream: TcpStream) -> Option<()> {
    let greeting = answer(pod, stream.peer_addr().ok()?, stream.local_addr().ok());
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(IDLE)).ok()?;
    stream.write_all(&greeting).ok()?;
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer).ok().filter(|length| *length > 0)?;
        stream.write_all(&buffer[..length]).ok()?;
    }
}

fn udp(pod: &str, on: SocketAddr) -> Result<(), String> {
    let socket = UdpSocket::bind(on).map_err(|error| format!("UDP {on}: {error}"))?;
    let pod = pod.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        loop {
            // An error is about an earlier answer that nobody wanted.
            let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
            let answer = ProbeAnswer {
                pod: pod.clone(),
                client: plain(client).to_string(),
                server: None,
                question: Some(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            };
            let _ = socket.send_to(&line(&answer), client);
        }
    });
    Ok(())
}
