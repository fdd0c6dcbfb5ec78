//! How many ports a second the API creates: a port is a virtual-machine-interface and its instance-ip, each durable
//! before its answer, from 32 connections.
//!
//! `cargo run --release -p skein-api --example ports -- [PORTS] [CONNECTIONS]` prints one JSON line. The load
//! generator writes prepared bytes on kept connections and reads the status line, so that it costs little beside the server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use skein_api::{Config, Server};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use uuid::Uuid;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Ports in one network: four /20 subnets hold 10,000 and more.
const SUBNETS: [&str; 4] = ["10.0.0.0", "10.0.16.0", "10.0.32.0", "10.0.48.0"];

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends one POST and waits for its answer; the body of it is returned.
    async fn post(&mut self, path: &str, body: &str) -> Result<String, Error> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection".into());
            }
            let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end])?.to_ascii_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .and_then(|n| n.trim().parse().ok())
                .ok_or("an answer without content-length")?;
            while self.buffer.len() < end + 4 + length {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err("the server closed the connection".into());
                }
            }
            let answer = String::from_utf8_lossy(&self.buffer[end + 4..end + 4 + length]).into_owned();
            if !head.starts_with("http/1.1 200") {
                return Err(format!("{path}: {head}\n{answer}").into());
            }
            return Ok(answer);
        }
    }
}

async fn worker(
    address: SocketAddr,
    network: Uuid,
    next: Arc<AtomicUsize>,
    ports: usize,
) -> Result<Vec<Duration>, Error> {
    let mut connection = Connection::open(address).await?;
    let mut times = Vec::new();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        if n >= ports {
            return Ok(times);
        }
        let port = Uuid::new_v4();
        let vmi = format!(
            r#"{{"virtual-machine-interface": {{"uuid": "{port}", "parent_type": "project", "fq_name": ["default-domain", "default-project", "port-{n}"], "virtual_network_refs": [{{"uuid": "{network}"}}]}}}}"#
        );
        let iip = format!(
            r#"{{"instance-ip": {{"fq_name": ["ip-{n}"], "virtual_network_refs": [{{"uuid": "{network}"}}], "virtual_machine_interface_refs": [{{"uuid": "{port}"}}]}}}}"#
        );
        let start = Instant::now();
        connection.post("/virtual-machine-interfaces", &vmi).await?;
        connection.post("/instance-ips", &iip).await?;
        times.push(start.elapsed());
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let ports: usize = arguments.next().map_or(Ok(10_000), |n| n.parse())?;
    let connections: usize = arguments.next().map_or(Ok(32), |n| n.parse())?;
    let dir = tempfile::tempdir_in(std::env::var("SKEIN_BENCH_DIR").unwrap_or_else(|_| ".".into()))?;
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::start(Config::new(listen, dir.path().join("config.redb"))).await?;
    let address = server.local_addr();

    let network = Uuid::new_v4();
    let subnets: Vec<String> = SUBNETS
        .iter()
        .map(|prefix| format!(r#"{{"subnet": {{"ip_prefix": "{prefix}", "ip_prefix_len": 20}}}}"#))
        .collect();
    let body = format!(
        r#"{{"virtual-network": {{"uuid": "{network}", "parent_type": "project", "fq_name": ["default-domain", "default-project", "bench"], "network_ipam_refs": [{{"to": ["default-domain", "default-project", "default-network-ipam"], "attr": {{"ipam_subnets": [{}]}}}}]}}}}"#,
        subnets.join(", ")
    );
    Connection::open(address).await?.post("/virtual-networks", &body).await?;

    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let workers: Vec<_> =
        (0..connections).map(|_| tokio::spawn(worker(address, network, Arc::clone(&next), ports))).collect();
    let mut times = Vec::with_capacity(ports);
    for worker in workers {
        times.append(&mut worker.await??);
    }
    let seconds = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    #[allow(clippy::cast_precision_loss)]
    let rate = ports as f64 / seconds;
    let line = serde_json::json!({
        "name": "config_ports_per_second", "value": (rate * 10.0).round() / 10.0, "unit": "1/s",
        "ports": ports, "connections": connections, "median_ms": at(0.5), "p99_ms": at(0.99),
    });
    #[allow(clippy::print_stdout)]
    {
        println!("{line}");
    }
    if std::env::var_os("SKEIN_BENCH_METRICS").is_some() {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        #[allow(clippy::print_stderr)]
        {
            eprintln!("{text}");
        }
    }
    server.shutdown().await;
    Ok(())
}
