//! Controllers on one etcd, as processes: one authority, any of them takes writes, and one may be lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

#[path = "../../../config/store/tests/support/etcd.rs"]
mod etcd;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(90);

struct Controller {
    child: Child,
    api: u16,
    dir: tempfile::TempDir,
}

fn command(dir: &Path, etcd: &etcd::Server, api: u16, https: u16) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skeind"));
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(std::fs::File::create(dir.join("log")).unwrap());
    command.args(["all-in-one", "--data"]).arg(dir.join("data"));
    command.args(["--etcd", &etcd.url(), "--etcd-prefix", "/test"]);
    command.args(["--advertise-api", &format!("https://127.0.0.1:{https}")]);
    command.args(["--api", &format!("127.0.0.1:{api}")]);
    command.args(["--api-https", &format!("127.0.0.1:{https}")]);
    command.args(["--listen", "127.0.0.1:0", "--status", "127.0.0.1:0"]);
    command
}

impl Controller {
    fn start(etcd: &etcd::Server) -> Controller {
        // Another process may get a port between choice and use: then others are chosen.
        std::iter::repeat_with(|| Self::launch(etcd)).flatten().next().unwrap()
    }

    /// Nothing: a port of its is taken.
    fn launch(etcd: &etcd::Server) -> Option<Controller> {
        let dir = tempfile::tempdir().unwrap();
        let [api, https] = etcd::free_ports();
        let child = command(dir.path(), etcd, api, https).spawn().unwrap();
        let mut controller = Controller { child, api, dir };
        let started = Instant::now();
        while controller.get("/readyz").is_none_or(|(status, _)| status != 200) {
            let ended = controller.child.try_wait().unwrap().is_some();
            if ended && controller.log().contains("already in use") {
                return None;
            }
            assert!(!ended && started.elapsed() < PATIENCE, "not ready: {}", controller.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(controller)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn pki(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("data/pki").join(name)).unwrap()
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        self.ask(&format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"))
    }

    /// Makes a virtual machine.
    fn create(&self, name: &str) -> (u16, String) {
        let body = format!("{{\"virtual-machine\": {{\"fq_name\": [\"{name}\"]}}}}");
        let length = body.len();
        self.ask(&format!(
            "POST /virtual-machines HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .unwrap()
    }

    fn ask(&self, request: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.api)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let status = text.split(' ').nth(1)?.parse().ok()?;
        Some((status, text))
    }

    fn leads(&self) -> bool {
        self.get("/metrics").unwrap().1.lines().any(|line| line == "skein_api_leader 1")
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn one_of_three_may_be_lost() {
    let etcd = etcd::Server::start();
    let mut all: Vec<Controller> = (0..3).map(|_| Controller::start(&etcd)).collect();
    for name in ["ca.pem", "ca.key", "join-token"] {
        assert_eq!(all[0].pki(name), all[1].pki(name), "{name}");
        assert_eq!(all[0].pki(name), all[2].pki(name), "{name}");
    }
    for (n, controller) in all.iter().enumerate() {
        // Over HTTPS with a client certificate, where it does not lead.
        let (status, text) = controller.create(&format!("vm-{n}"));
        assert_eq!(status, 200, "{text}");
        assert!(text.contains("http://test/virtual-machine/"), "{text}");
        assert!(controller.get("/virtual-machines").unwrap().1.contains(&format!("vm-{n}")));
    }
    let started = Instant::now();
    let leader = loop {
        if let Some(leader) = all.iter().position(Controller::leads) {
            break leader;
        }
        assert!(started.elapsed() < PATIENCE, "nobody leads");
    };
    drop(all.remove(leader));
    for (n, controller) in all.iter().enumerate() {
        let started = Instant::now();
        loop {
            let (status, text) = controller.create(&format!("after-{n}"));
            // 409: one whose answer was 503 had been done.
            if status == 200 || status == 409 {
                break;
            }
            assert!(status == 503 && started.elapsed() < PATIENCE, "{text}");
        }
        let list = controller.get("/virtual-machines").unwrap().1;
        assert!(
            ["vm-0", "vm-1", "vm-2", "after-0"].iter().all(|name| list.contains(name)),
            "{list}"
        );
    }
    let started = Instant::now();
    while all.iter().filter(|controller| controller.leads()).count() != 1 {
        assert!(started.elapsed() < PATIENCE, "not one that leads");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_data_directory_of_another_fabric_is_refused() {
    let (one, other) = (etcd::Server::start(), etcd::Server::start());
    let first = Controller::start(&one);
    let second = Controller::start(&other);
    let before = second.pki("ca.pem");
    let mut dir = tempfile::tempdir().unwrap();
    let mut second = second;
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    std::mem::swap(&mut second.dir, &mut dir);
    let [api, https] = etcd::free_ports();
    let status = command(dir.path(), &one, api, https).status().unwrap();
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    assert!(!status.success() && log.contains("belongs to another fabric"), "{log}");
    let after = std::fs::read_to_string(dir.path().join("data/pki/ca.pem")).unwrap();
    assert_eq!(before, after);
    assert_ne!(first.pki("ca.pem"), after);
}

#[test]
fn what_could_be_read_on_the_way_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, reason) in [
        (&["--etcd", "http://192.0.2.1:2379", "--advertise-api", "https://a:1"][..], "without TLS"),
        (&["--etcd", "http://127.0.0.1:1", "--advertise-api", "http://192.0.2.1:1"], "write it as"),
        (&["--etcd", "http://127.0.0.1:1"], "--advertise-api"),
        (&["--advertise-api", "https://a:1"], "without --etcd"),
        (&["--etcd", "https://127.0.0.1:1", "--advertise-api", "https://a:1"], "--etcd-ca"),
        (&["--etcd", "127.0.0.1:1", "--advertise-api", "https://a:1"], "https://HOST:2379"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_skeind"))
            .env_clear()
            .args(["all-in-one", "--data"])
            .arg(dir.path())
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let text = text + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains(reason), "{arguments:?}: {text}");
    }
}
