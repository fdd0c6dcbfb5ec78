//! A server of HTTP: says which request it got, and from whom.

use crate::serve::plain;
use skein_lab::kubernetes::WebAnswer;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(120);
/// A path that ends so is answered a byte at a time: so many, each after so long.
const SLOW: (&str, u32, Duration) = ("/slow", 60, Duration::from_millis(100));

pub(crate) fn serve(pod: &str, on: SocketAddr) -> Result<(), String> {
    let listener = TcpListener::bind(on).map_err(|error| format!("HTTP {on}: {error}"))?;
    let pod = pod.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let pod = pod.clone();
            std::thread::spawn(move || converse(&pod, stream));
        }
    });
    Ok(())
}

/// Answers requests without bodies for as long as there are some.
fn converse(pod: &str, stream: TcpStream) -> Option<()> {
    let client = plain(stream.peer_addr().ok()?).to_string();
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(IDLE)).ok()?;
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let mut out = stream;
    loop {
        let first = lines.next()?.ok()?;
        let path = first.split(' ').nth(1)?.to_owned();
        let mut head = Vec::new();
        loop {
            let line = lines.next()?.ok()?;
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let header = |name: &str| {
            let mut all = head.iter().filter_map(|line| line.split_once(':'));
            let found = all.find(|(one, _)| one.eq_ignore_ascii_case(name));
            found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
        };
        let answer = WebAnswer {
            pod: pod.to_owned(),
            client: client.clone(),
            host: header("host"),
            forwarded_for: header("x-forwarded-for"),
            forwarded_proto: header("x-forwarded-proto"),
            path,
        };
        let close = header("connection").eq_ignore_ascii_case("close");
        say(&mut out, &answer, close).ok()?;
        if close {
            return Some(());
        }
    }
}

fn say(out: &mut TcpStream, answer: &WebAnswer, close: bool) -> std::io::Result<()> {
    let body = serde_json::to_string(answer).unwrap_or_default();
    let (slow, bytes, pause) = SLOW;
    let slow = answer.path.ends_with(slow);
    let length = body.len() + if slow { usize::try_from(bytes).unwrap_or(0) } else { 0 };
    let connection = if close { "close" } else { "keep-alive" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n\r\n"
    );
    out.write_all((head + &body).as_bytes())?;
    if slow {
        for _ in 0..bytes {
            std::thread::sleep(pause);
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}
