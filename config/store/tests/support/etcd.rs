//! An etcd of its own for a test, on free ports of the loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for a process on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// One member. It ends with the value, and its data with it.
pub struct Server {
    dir: tempfile::TempDir,
    client: u16,
    peer: u16,
    child: Option<Child>,
    tls: Option<Files>,
}

/// Certificate, key, and the authority of its clients, PEM.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub clients: PathBuf,
}

/// What etcd's JSON interface takes for bytes.
fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in text.as_bytes().chunks(3) {
        let bytes = [three[0], *three.get(1).unwrap_or(&0), *three.get(2).unwrap_or(&0)];
        let bits = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        for n in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * n)) as usize & 63];
            out.push(if n <= three.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// Ports that nobody listens on, all different: each is held until all are chosen.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// One that wants certificates from its clients.
    pub fn start_with(tls: Option<Files>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [client, peer] = free_ports();
        let mut server = Self { dir, client, peer, child: None, tls };
        // Another process may have got a port meanwhile.
        while !server.launch() {
            server.wipe();
            [server.client, server.peer] = free_ports();
        }
        server
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.client)
    }

    /// Changes keys behind everybody's back, by etcd's JSON interface: `kv/put` and `kv/deleterange`.
    pub fn meddle(&self, call: &str, fields: &[(&str, &str)]) {
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\":\"{}\"", base64(value)))
            .collect();
        let body = format!("{{{}}}", fields.join(","));
        let mut stream = TcpStream::connect(("127.0.0.1", self.client)).unwrap();
        let length = body.len();
        let request = format!(
            "POST /v3/{call} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Starts it, after a stop with its old data and at its old ports.
    pub fn run(&mut self) {
        let until = Instant::now() + PATIENCE;
        while !self.launch() {
            // Somebody's outgoing connection has one for a while.
            assert!(Instant::now() < until, "etcd's port stays taken: {}", self.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// False: a port of its is taken.
    fn launch(&mut self) -> bool {
        // Or what answers below might be somebody else.
        if [self.client, self.peer]
            .iter()
            .any(|port| TcpListener::bind(("127.0.0.1", *port)).is_err())
        {
            return false;
        }
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = Command::new("etcd");
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.certificate).arg("--key-file").arg(&tls.key);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.clients);
        }
        let child = command
            .args(["--name", "test", "--log-level", "error", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("this test runs etcd: install the package etcd-server");
        self.child = Some(child);
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            if ended.is_some() && self.log().contains("address already in use") {
                self.child = None;
                return false;
            }
            assert!(ended.is_none(), "etcd ended: {}", self.log());
            if TcpStream::connect(("127.0.0.1", self.client)).is_ok() {
                return true;
            }
            assert!(Instant::now() < until, "etcd does not listen: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Takes its data away, while it does not run.
    pub fn wipe(&self) {
        match std::fs::remove_dir_all(self.dir.path().join("data")) {
            // It ended before it had any.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result.unwrap(),
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
