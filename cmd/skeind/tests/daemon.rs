//! The daemon as systemd and people run it: units, settings, readiness, the end.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Every listener of `skeind all-in-one`, on ports that the system chooses.
const ANYWHERE: [&str; 8] = [
    "--api",
    "127.0.0.1:0",
    "--api-https",
    "127.0.0.1:0",
    "--listen",
    "127.0.0.1:0",
    "--status",
    "127.0.0.1:0",
];

/// Without variables of whoever runs the tests.
fn skeind() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skeind"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd")
}

/// Files of the folder with the units, by extension: name and text.
fn files(extension: &str) -> Vec<(String, String)> {
    let all = std::fs::read_dir(units()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<(String, String)> = all
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    found.sort();
    found
}

/// A value of a unit, which has it once.
fn value<'a>(unit: &'a str, key: &str) -> Option<&'a str> {
    unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn units_start_roles_that_there_are() {
    let all = files("service");
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["skein-controller", "skein-kube-manager", "skein-loadbalancer", "skein-vrouter"]
    );
    for (name, unit) in &all {
        let line = value(unit, "ExecStart").unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[0], "/usr/bin/skeind", "{name}");
        let help = skeind().args(&words[1..]).arg("--help").output().unwrap();
        assert!(help.status.success(), "{name}: {}", text(&help));
        for variable in unit.lines().filter_map(|line| line.strip_prefix("Environment=")) {
            let variable = variable.split('=').next().unwrap();
            assert!(text(&help).contains(variable), "{name} does not know {variable}");
        }
        assert_eq!(value(unit, "Type"), Some("notify"), "{name}");
        if let Some(file) = words.iter().find_map(|word| word.strip_prefix("/etc/skein/")) {
            assert!(units().join(file).is_file(), "{name} has no example of {file}");
        }
    }
}

#[test]
fn examples_of_settings_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    for (role, example) in files("toml") {
        // Also what is switched off by a comment.
        let lines = example.lines().map(|line| match line.strip_prefix("# ") {
            Some(setting) if setting.contains(" = ") || setting.starts_with('[') => setting,
            _ => line,
        });
        // It must not begin: what it would need does not exist in this folder.
        let all: Vec<&str> = lines.collect();
        let all = all.join("\n").replace("/etc/skein", "/nowhere").replace("/var/lib", "/dev/null");
        let all = all.replace("/run/credentials", "/nowhere");
        // Controllers are services of that name, and run every role of theirs.
        let role = if role == "controller" { "all-in-one".to_owned() } else { role };
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, all).unwrap();
        let mut command = skeind();
        if role == "all-in-one" {
            // Its example names no data directory.
            command.env("SKEIN_DATA", folder.path().join("data"));
        }
        let ran = command.args([&role, "--config"]).arg(&file).output().unwrap();
        assert!(!ran.status.success(), "{role}: {}", text(&ran));
        // What is wrong is told with the name of the file, and what is missing without.
        let said = text(&ran);
        assert!(!said.contains("settings.toml"), "{role}: {said}");
        assert!(said.contains("/nowhere") || said.contains("/dev/null"), "{role}: {said}");

        std::fs::write(&file, "no_such_setting = 1\n").unwrap();
        let ran = skeind().args([&role, "--config"]).arg(&file).output().unwrap();
        assert!(!ran.status.success());
        let said = text(&ran);
        assert!(said.contains("settings.toml") && said.contains("no_such_setting"), "{said}");
    }
}

/// A daemon in the foreground, ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Asks it to stop; gives its exit code.
    fn stop(&mut self) -> Option<i32> {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < until, "it does not stop");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Starts all roles and waits until they are ready, as systemd does. Gives what it logged until then, too.
fn start(folder: &Path, command: &mut Command) -> (Running, String) {
    let path = folder.join("notify");
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let log = folder.join("log");
    let file = std::fs::File::create(&log).unwrap();
    command.env("NOTIFY_SOCKET", &path).stdout(file.try_clone().unwrap()).stderr(file);
    let running = Running(command.spawn().unwrap());
    let mut message = [0; 256];
    let length = socket.recv(&mut message).unwrap_or_else(|error| {
        panic!("not ready: {error}\n{}", std::fs::read_to_string(&log).unwrap())
    });
    assert_eq!(&message[..length], b"READY=1");
    let until = Instant::now() + PATIENCE;
    loop {
        let said = std::fs::read_to_string(&log).unwrap();
        if said.contains("ready") && said.contains("status=127") {
            return (running, said);
        }
        assert!(Instant::now() < until, "{said}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The address that a log line names so.
fn address(log: &str, name: &str) -> String {
    let plain: String = plain(log);
    let at = plain.rfind(&format!("{name}=127.0.0.1:")).unwrap() + name.len() + 1;
    plain[at..].split_whitespace().next().unwrap().to_owned()
}

/// Without colours.
fn plain(log: &str) -> String {
    let mut plain = String::new();
    let mut rest = log;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain += before;
        rest = after.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain + rest
}

/// Status code and body of a GET.
fn get(address: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let code = said.split(' ').nth(1).unwrap().parse().unwrap();
    (code, said)
}

#[test]
fn it_tells_when_it_is_ready_and_ends_when_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut command = skeind();
    command.arg("all-in-one").arg("--data").arg(&data).args(ANYWHERE);
    let (mut running, log) = start(folder.path(), &mut command);
    for (name, metric) in [("api", "skein_api"), ("status", "skein_")] {
        let address = address(&log, name);
        assert_eq!(get(&address, "/healthz").0, 200, "{name}");
        assert_eq!(get(&address, "/readyz").0, 200, "{name}");
        let (code, metrics) = get(&address, "/metrics");
        assert_eq!(code, 200, "{name}");
        assert!(metrics.contains(metric), "{name}: {metrics}");
    }
    assert_eq!(running.stop(), Some(0));
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("stopped"), "{log}");
    // What it leaves is good: it starts again with it.
    let (mut running, _) = start(folder.path(), &mut command);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let [by_file, by_variable, by_flag] =
        ["file", "variable", "flag"].map(|name| folder.path().join(name));
    let settings = folder.path().join("settings.toml");
    std::fs::write(&settings, format!("data = {by_file:?}\n")).unwrap();
    let base = || {
        let mut command = skeind();
        command.arg("all-in-one").arg("--config").arg(&settings).args(ANYWHERE);
        command
    };
    let store = |data: &Path| data.join("config.redb").is_file();

    let (mut running, _) = start(folder.path(), &mut base());
    assert_eq!(running.stop(), Some(0));
    assert!(store(&by_file));

    let (mut running, _) = start(folder.path(), base().env("SKEIN_DATA", &by_variable));
    assert_eq!(running.stop(), Some(0));
    assert!(store(&by_variable));

    let mut command = base();
    command.env("SKEIN_DATA", folder.path().join("unused")).arg("--data").arg(&by_flag);
    let (mut running, _) = start(folder.path(), &mut command);
    assert_eq!(running.stop(), Some(0));
    assert!(store(&by_flag) && !folder.path().join("unused").exists());
}
