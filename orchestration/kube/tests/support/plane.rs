//! etcd and an API server of Kubernetes, without anything else of it.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use serde_json::json;
use skein_api::{Config, Server};
use skein_client::Client;
use skein_kube::ManagerConfig;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a process on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// What a program says whose port another has got.
const TAKEN: &str = "address already in use";
pub const ADMIN: &str = "admin-token";
pub const MANAGER: &str = "manager-token";

fn program(name: &str) -> PathBuf {
    let assets = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let built = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/kubernetes/bin").into();
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders = assets.into_iter().chain([built]).chain(std::env::split_paths(&paths));
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing; `make setup-kubernetes` brings it"))
}

/// Ports that nobody listens on, all different: each is held until all are chosen.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

pub fn free_port() -> u16 {
    let [port] = free_ports();
    port
}

/// The body that a server on this machine answers with.
pub fn http(port: u16, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A configuration API on a store of its own.
pub struct ConfigApi {
    /// Where it is.
    pub url: String,
    pub client: Client,
    server: Server,
    _store: tempfile::TempDir,
}

impl ConfigApi {
    pub async fn start() -> Self {
        let store = tempfile::tempdir().unwrap();
        let config = Config::new(([127, 0, 0, 1], 0).into(), store.path().join("config.redb"));
        let server = Server::start(config).await.unwrap();
        let url = format!("http://{}", server.local_addr());
        let client = Client::new(&url).unwrap();
        Self { url, client, server, _store: store }
    }

    /// Settings of a manager between this and a Kubernetes, with the manager's own rights there.
    pub fn manager(&self, plane: &Plane) -> ManagerConfig {
        let mut config = ManagerConfig {
            api: self.url.clone(),
            status: ([127, 0, 0, 1], free_port()).into(),
            ..ManagerConfig::default()
        };
        config.kubernetes.kubeconfig = Some(plane.kubeconfig(MANAGER));
        config
    }

    pub async fn stop(self) {
        self.server.shutdown().await;
    }
}

/// A control plane of etcd and an API server; ends with the test.
pub struct Plane {
    dir: tempfile::TempDir,
    port: u16,
    etcd_port: u16,
    etcd: Child,
    server: Option<Child>,
}

impl Plane {
    /// Starts both; `arguments` are more of the API server.
    pub fn start(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (etcd, etcd_port) = Self::etcd(dir.path());
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(dir.path().join("sa.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("sa.pub"), key.public_key_pem()).unwrap();
        let account = "system:serviceaccount:skein-system:skein-kube-manager";
        let tokens = format!(
            "{ADMIN},admin,1,\"system:masters\"\n{MANAGER},{account},2,\"system:authenticated\"\n"
        );
        std::fs::write(dir.path().join("tokens.csv"), tokens).unwrap();
        let mut plane = Self { dir, port: free_port(), etcd_port, etcd, server: None };
        while !plane.launch_server(arguments) {
            plane.port = free_port();
        }
        plane
    }

    /// An etcd and its port. Another process may get a port between choice and use: then others are chosen.
    fn etcd(dir: &Path) -> (Child, u16) {
        loop {
            let [port, peer] = free_ports();
            let url = |port: u16| format!("http://127.0.0.1:{port}");
            let log = dir.join("etcd.log");
            let mut etcd = Command::new(program("etcd"))
                .args(["--data-dir", dir.join("etcd").to_str().unwrap()])
                .args(["--listen-client-urls", &url(port), "--advertise-client-urls", &url(port)])
                .args(["--listen-peer-urls", &url(peer)])
                .args(["--initial-advertise-peer-urls", &url(peer)])
                .args(["--initial-cluster", &format!("default={}", url(peer))])
                .arg("--unsafe-no-fsync")
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(&log).unwrap())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + PATIENCE;
            loop {
                let said = || std::fs::read_to_string(&log).unwrap();
                if etcd.try_wait().unwrap().is_some() {
                    assert!(said().contains(TAKEN), "etcd ended: {}", said());
                    break;
                }
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return (etcd, port);
                }
                assert!(Instant::now() < deadline, "etcd does not listen: {}", said());
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = std::fs::remove_dir_all(dir.join("etcd"));
        }
    }

    /// Starts the API server again, where it was.
    pub fn start_server(&mut self, arguments: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        while !self.launch_server(arguments) {
            assert!(Instant::now() < deadline, "the API server's port stays taken");
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// False: its port is taken.
    fn launch_server(&mut self, arguments: &[&str]) -> bool {
        let at = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        let log = std::fs::File::create(self.dir.path().join("apiserver.log")).unwrap();
        let server = Command::new(program("kube-apiserver"))
            .args(["--etcd-servers", &format!("http://127.0.0.1:{}", self.etcd_port)])
            .args(["--cert-dir", &at("pki"), "--bind-address", "127.0.0.1"])
            .args(["--secure-port", &self.port.to_string(), "--token-auth-file", &at("tokens.csv")])
            .args([
                "--service-account-key-file",
                &at("sa.pub"),
                "--service-account-signing-key-file",
                &at("sa.key"),
            ])
            .args(["--service-account-issuer", "https://kubernetes.default.svc"])
            .args(["--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC"])
            .args([
                "--disable-admission-plugins",
                "ServiceAccount",
                "--endpoint-reconciler-type",
                "none",
            ])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = std::fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap();
            let ended = self.server.as_mut().unwrap().try_wait().unwrap().is_some();
            if ended && said.contains(TAKEN) {
                self.server = None;
                return false;
            }
            assert!(!ended && Instant::now() < deadline, "the API server does not start: {said}");
            if self.kubectl(&["get", "--raw", "/readyz"], "").0 {
                return true;
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    pub fn kill_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Lets etcd forget all that was: whoever goes on from there is told that it is too old.
    pub fn forget_history(&self) {
        // Something is newer than all that anyone knows.
        let put = json!({"key": "bmV3ZXI=", "value": ""}).to_string();
        let answer = http(self.etcd_port, "POST", "/v3/kv/put", &put);
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let revision = &answer["header"]["revision"];
        let body = json!({ "revision": revision }).to_string();
        let answer = http(self.etcd_port, "POST", "/v3/kv/compaction", &body);
        assert!(!answer.contains("error"), "{answer}");
    }

    pub fn kubeconfig(&self, token: &str) -> PathBuf {
        let path = self.dir.path().join(format!("{token}.yaml"));
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.dir.path().join("pki/apiserver.crt"),
            }}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
        path
    }

    pub fn kubectl(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new(program("kubectl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig(ADMIN))
            .args(arguments)
            .env("HOME", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub fn apply(&self, yaml: &str) {
        let (good, text) = self.kubectl(&["apply", "-f", "-"], yaml);
        assert!(good, "{text}\n{yaml}");
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log =
                std::fs::read_to_string(self.dir.path().join("apiserver.log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines
                .iter()
                .position(|line| line.starts_with("panic") || line.starts_with("fatal"));
            let from = from.unwrap_or(lines.len().saturating_sub(30));
            eprintln!(
                "the API server's log:\n{}",
                lines[from..].iter().take(30).copied().collect::<Vec<_>>().join("\n")
            );
        }
        for child in self.server.iter_mut().chain([&mut self.etcd]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
