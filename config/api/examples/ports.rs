//! How many ports a second the API creates: a port is a virtual-machine-interface and its instance-ip, each durable
//! before its answer, from 32 connections.
//!
//! `cargo run --release -p skein-api --example ports -- [PORTS] [CONNECTIONS] [etcd]` prints JSON lines. With `etcd` the
//! configuration is in an etcd that is started for it, and as many puts of the same size are made there first, two for each
//! port, one after the other as for a port: `config_ports_of_raw_puts` is the rate of ports by that of these pairs. The load
//! generator writes prepared bytes on kept connections and reads the status line, so that it costs little beside the server.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

#[path = "../../store/tests/support/etcd.rs"]
mod etcd;

use skein_api::{Cluster, Config, Server};
use skein_store::{Etcd, EtcdOptions};
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
        self.ask(path, &request).await
    }

    async fn get(&mut self, path: &str) -> Result<String, Error> {
        self.ask(path, &format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n")).await
    }

    async fn ask(&mut self, path: &str, request: &str) -> Result<String, Error> {
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
            let answer =
                String::from_utf8_lossy(&self.buffer[end + 4..end + 4 + length]).into_owned();
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
    name: String,
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
            r#"{{"virtual-machine-interface": {{"uuid": "{port}", "parent_type": "project", "fq_name": ["default-domain", "default-project", "{name}-{n}"], "virtual_network_refs": [{{"uuid": "{network}"}}]}}}}"#
        );
        let iip = format!(
            r#"{{"instance-ip": {{"fq_name": ["{name}-ip-{n}"], "virtual_network_refs": [{{"uuid": "{network}"}}], "virtual_machine_interface_refs": [{{"uuid": "{port}"}}]}}}}"#
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
    let on_etcd = arguments.next().is_some_and(|argument| argument == "etcd");
    let lines = if on_etcd {
        etcd_lines(ports, connections).await?
    } else {
        let dir =
            tempfile::tempdir_in(std::env::var("SKEIN_BENCH_DIR").unwrap_or_else(|_| ".".into()))?;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::start(Config::new(listen, dir.path().join("config.redb"))).await?;
        let measured = measure(server.local_addr(), "bench", ports, connections).await?;
        server.shutdown().await;
        vec![serde_json::json!({
            "name": "config_ports_per_second", "value": round(measured.rate), "unit": "1/s",
            "ports": ports, "connections": connections,
            "median_ms": measured.median, "p99_ms": measured.p99,
        })]
    };
    for line in lines {
        #[allow(clippy::print_stdout)]
        {
            println!("{line}");
        }
    }
    Ok(())
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// On etcd: raw puts, ports at the leader, ports at a follower.
async fn etcd_lines(ports: usize, connections: usize) -> Result<Vec<serde_json::Value>, Error> {
    // Of a port: 1,000 bytes for the interface and 750 for the address, as objects are stored.
    const SIZES: [usize; 2] = [1000, 750];
    let engine = etcd::Server::start();
    let client = Etcd::new(EtcdOptions::new(vec![engine.url()]))?;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (client, next) = (client.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= ports {
                        return Ok::<(), skein_store::StoreError>(());
                    }
                    for size in SIZES {
                        client.put(&format!("raw/{n:010}/{size}"), vec![b'x'; size]).await?;
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    #[allow(clippy::cast_precision_loss)]
    let raw = ports as f64 / start.elapsed().as_secs_f64();
    let mut replicas = Vec::new();
    for name in ["first", "second"] {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let cluster = Cluster {
            etcd: EtcdOptions::new(vec![engine.url()]),
            name: name.to_owned(),
            advertise: String::new(),
            peers: None,
        };
        let server = Server::start_replica(Config::new(listen, "unused".into()), cluster).await?;
        while Connection::open(server.local_addr()).await?.get("/readyz").await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        replicas.push(server);
    }
    let leader = measure(replicas[0].local_addr(), "bench", ports, connections).await?;
    let follower = measure(replicas[1].local_addr(), "other", ports, connections).await?;
    for server in replicas {
        server.shutdown().await;
    }
    let through = |name: &str, of: &Measured| {
        serde_json::json!({
            "name": name, "value": round(of.rate), "unit": "1/s", "ports": ports,
            "connections": connections, "median_ms": of.median, "p99_ms": of.p99,
        })
    };
    let share = (leader.rate / raw * 100.0).round() / 100.0;
    Ok(vec![
        through("config_ports_per_second_on_etcd", &leader),
        through("config_ports_per_second_by_a_follower", &follower),
        serde_json::json!({
            "name": "config_ports_of_raw_puts", "value": share, "raw_puts_per_second": round(raw * 2.0),
        }),
    ])
}

struct Measured {
    /// Ports a second.
    rate: f64,
    /// Milliseconds of a port.
    median: f64,
    p99: f64,
}

/// Makes a network and ports in it.
async fn measure(
    address: SocketAddr,
    name: &str,
    ports: usize,
    connections: usize,
) -> Result<Measured, Error> {
    let network = Uuid::new_v4();
    let subnets: Vec<String> = SUBNETS
        .iter()
        .map(|prefix| format!(r#"{{"subnet": {{"ip_prefix": "{prefix}", "ip_prefix_len": 20}}}}"#))
        .collect();
    let body = format!(
        r#"{{"virtual-network": {{"uuid": "{network}", "parent_type": "project", "fq_name": ["default-domain", "default-project", "{name}"], "network_ipam_refs": [{{"to": ["default-domain", "default-project", "default-network-ipam"], "attr": {{"ipam_subnets": [{}]}}}}]}}}}"#,
        subnets.join(", ")
    );
    Connection::open(address).await?.post("/virtual-networks", &body).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| tokio::spawn(worker(address, network, name.to_owned(), Arc::clone(&next), ports)))
        .collect();
    let mut times = Vec::with_capacity(ports);
    for worker in workers {
        times.append(&mut worker.await??);
    }
    let seconds = start.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(index).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    if std::env::var_os("SKEIN_BENCH_METRICS").is_some() {
        let text = Connection::open(address).await?.get("/metrics").await?;
        #[allow(clippy::print_stderr)]
        {
            eprintln!("{text}");
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = ports as f64 / seconds;
    Ok(Measured { rate, median: at(0.5), p99: at(0.99) })
}
