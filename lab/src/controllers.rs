//! Several controllers that are one: hosts with a member of an etcd cluster and `skeind all-in-one` on it each, which can lose
//! their power and come back.

use crate::command::require;
use crate::fabric::words;
use crate::kubernetes::{Authority, ClusterError};
use crate::{Host, Lab, LabError, Process, Ran, wait_for};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Where agents connect.
const AGENT_PORT: u16 = 8084;
/// The configuration API, for clients with a certificate.
const TLS_PORT: u16 = 8182;
/// The same on the host itself.
const API_PORT: u16 = 8082;
const STATUS_PORT: u16 = 8083;
/// Members find each other, choose a leader and store what is there at the start.
const READY: Duration = Duration::from_secs(60);

/// The controllers of a fabric. Dropping it kills them.
#[derive(Debug)]
pub struct Controllers {
    members: Vec<Member>,
    skein: PathBuf,
}

/// One of them.
#[derive(Debug)]
struct Member {
    host: Host,
    logs: PathBuf,
    etcd: Vec<String>,
    controller: Vec<String>,
    /// Etcd and the controller; none while the host has no power.
    running: Option<(Process, Process)>,
}

impl Member {
    fn start_etcd(&self) -> Result<Process, LabError> {
        self.spawn("etcd", &self.etcd)
    }

    fn start_controller(&self) -> Result<Process, LabError> {
        self.spawn("controller", &self.controller)
    }

    fn spawn(&self, name: &str, line: &[String]) -> Result<Process, LabError> {
        let mut command = Command::new(line.first().map_or("", String::as_str));
        command.args(line.get(1..).unwrap_or_default());
        let log = self.logs.join(format!("{name}.log"));
        Process::spawn(name, log, Some(&self.host.path()), &mut command)
    }

    fn wait_ready(&mut self) -> Result<(), LabError> {
        let host = self.host.clone();
        let Some((_, controller)) = &mut self.running else { return Ok(()) };
        controller.wait_ready(READY, || {
            for port in [API_PORT, STATUS_PORT] {
                let answer = host.http(port, "GET", "/readyz", "").map_err(|e| e.to_string())?;
                if answer.status != 200 {
                    return Err(format!("port {port}: {}", answer.body));
                }
            }
            Ok(())
        })
    }
}

impl Controllers {
    /// Starts a member of etcd and a controller on each of the hosts, and waits until all are ready. Certificates of etcd go
    /// to `folder`, logs to folders of the hosts' names in `logs`.
    ///
    /// # Errors
    /// A program is missing, or something did not start; the error quotes its log.
    pub fn start(
        hosts: Vec<Host>,
        folder: &Path,
        programs: &Path,
        logs: &Path,
    ) -> Result<Controllers, ClusterError> {
        let etcd = require("etcd", "etcd-server")?;
        let program = |name: &str| {
            let path = programs.join(name);
            if path.is_file() { Ok(path) } else { Err(ClusterError::NotBuilt(path)) }
        };
        let (skeind, skein) = (program("skeind")?, program("skein")?);
        let authority = Authority::new(folder, "https://127.0.0.1")?;
        let peers: Vec<String> =
            hosts.iter().map(|h| format!("{}=https://{}:2380", h.name(), h.ipv4())).collect();
        let endpoints: Vec<String> =
            hosts.iter().map(|h| format!("https://{}:2379", h.ipv4())).collect();
        let mut members = Vec::new();
        for host in hosts {
            let names = [host.ipv4().to_string(), "127.0.0.1".to_owned()];
            let (certificate, key) = authority.issue_files(
                host.name(),
                &format!("etcd-{}", host.name()),
                &[],
                &names,
            )?;
            let logs = logs.join(host.name());
            std::fs::create_dir_all(&logs).map_err(|e| ClusterError::file("create", &logs, e))?;
            let files = Files { ca: authority.ca_file(), certificate, key };
            members.push(Member {
                etcd: etcd_line(&etcd, &host, &files, &peers.join(",")),
                controller: controller_line(&skeind, &host, &files, &endpoints.join(",")),
                host,
                logs,
                running: None,
            });
        }
        // A member alone is not ready: all first.
        let stores: Result<Vec<Process>, LabError> =
            members.iter().map(Member::start_etcd).collect();
        for (member, store) in members.iter_mut().zip(stores?) {
            member.running = Some((store, member.start_controller()?));
        }
        for member in &mut members {
            member.wait_ready()?;
        }
        Ok(Controllers { members, skein })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// The host of one, counted from 0.
    #[must_use]
    pub fn host(&self, number: usize) -> &Host {
        &self.members[number].host
    }

    /// Addresses of the configuration API, as clients take them.
    #[must_use]
    pub fn api(&self) -> String {
        let one = |member: &Member| format!("https://{}:{TLS_PORT}", member.host.ipv4());
        self.members.iter().map(one).collect::<Vec<_>>().join(",")
    }

    /// Where agents connect.
    #[must_use]
    pub fn for_agents(&self) -> Vec<String> {
        let one = |member: &Member| format!("{}:{AGENT_PORT}", member.host.ipv4());
        self.members.iter().map(one).collect()
    }

    /// Where the controllers' certificates and the join token are: the same at all of them.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.members[0].host.directory().join("data/pki")
    }

    /// Whether a host has power.
    #[must_use]
    pub fn has_power(&self, number: usize) -> bool {
        self.members[number].running.is_some()
    }

    /// The one that writes, as those say that have power.
    ///
    /// # Errors
    /// None says so of itself for too long.
    pub fn leader(&self) -> Result<usize, LabError> {
        wait_for("a controller to lead", READY, || {
            for (number, member) in self.members.iter().enumerate() {
                if member.running.is_none() {
                    continue;
                }
                let answer = member.host.http(API_PORT, "GET", "/metrics", "");
                let text = answer.map_err(|error| error.to_string())?.body;
                if text.lines().any(|line| line.trim() == "skein_api_leader 1") {
                    return Ok(number);
                }
            }
            Err("none leads".to_owned())
        })
    }

    /// Takes a host's power away: nothing of what it had begun to say is heard, and nobody is told that it is gone.
    ///
    /// # Errors
    /// Its link or its programs are still there.
    pub fn power_off(&mut self, lab: &Lab, number: usize) -> Result<(), LabError> {
        let member = &mut self.members[number];
        lab.set_link(&member.host, false)?;
        if let Some((mut etcd, mut controller)) = member.running.take() {
            controller.kill()?;
            etcd.kill()?;
        }
        Ok(())
    }

    /// Gives it back its power, and waits until it is ready again. Its disk is as it was.
    ///
    /// # Errors
    /// It does not start; the error quotes its log.
    pub fn power_on(&mut self, lab: &Lab, number: usize) -> Result<(), LabError> {
        let member = &mut self.members[number];
        lab.set_link(&member.host, true)?;
        member.running = Some((member.start_etcd()?, member.start_controller()?));
        member.wait_ready()
    }

    /// The CLI with the addresses of all.
    #[must_use]
    pub fn cli(&self) -> Cli {
        let page = |member: &Member| format!("http://{}:{STATUS_PORT}", member.host.ipv4());
        let pages = self.members.iter().map(page).collect::<Vec<_>>().join(",");
        Cli { skein: self.skein.clone(), api: self.api(), pages, pki: self.pki() }
    }
}

/// The CLI as somebody has it who knows several controllers.
#[derive(Clone, Debug)]
pub struct Cli {
    skein: PathBuf,
    api: String,
    /// The controllers' status pages.
    pages: String,
    pki: PathBuf,
}

impl Cli {
    /// Runs it on a host, its arguments split at spaces but within quotes.
    ///
    /// # Errors
    /// It could not be started. Its own failure is in [`Ran`].
    pub fn run(&self, from: &Host, line: &str) -> Result<Ran, LabError> {
        let mut command = Command::new(&self.skein);
        command
            .env("SKEIN_API", &self.api)
            .env("SKEIN_CONTROLLER", &self.pages)
            .env("SKEIN_CA", self.pki.join("ca.pem"))
            .env("SKEIN_CERT", self.pki.join("client.pem"))
            .env("SKEIN_KEY", self.pki.join("client.key"))
            .args(words(line));
        from.run(&mut command)
    }
}

struct Files {
    ca: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

fn line(program: &Path, flags: &[(&str, String)]) -> Vec<String> {
    let mut line = vec![program.display().to_string()];
    line.extend(flags.iter().map(|(name, value)| format!("--{name}={value}")));
    line
}

fn etcd_line(program: &Path, host: &Host, files: &Files, peers: &str) -> Vec<String> {
    let (clients, members) =
        (format!("https://{}:2379", host.ipv4()), format!("https://{}:2380", host.ipv4()));
    let (ca, certificate, key) = (
        files.ca.display().to_string(),
        files.certificate.display().to_string(),
        files.key.display().to_string(),
    );
    line(
        program,
        &[
            ("name", host.name().to_owned()),
            ("data-dir", host.directory().join("etcd").display().to_string()),
            ("listen-client-urls", clients.clone()),
            ("advertise-client-urls", clients),
            ("listen-peer-urls", members.clone()),
            ("initial-advertise-peer-urls", members),
            ("initial-cluster", peers.to_owned()),
            ("initial-cluster-token", "skein".to_owned()),
            ("client-cert-auth", "true".to_owned()),
            ("trusted-ca-file", ca.clone()),
            ("cert-file", certificate.clone()),
            ("key-file", key.clone()),
            ("peer-client-cert-auth", "true".to_owned()),
            ("peer-trusted-ca-file", ca),
            ("peer-cert-file", certificate),
            ("peer-key-file", key),
        ],
    )
}

fn controller_line(skeind: &Path, host: &Host, files: &Files, endpoints: &str) -> Vec<String> {
    let mut command = line(
        skeind,
        &[
            ("data", host.directory().join("data").display().to_string()),
            ("listen", format!("0.0.0.0:{AGENT_PORT}")),
            // People look at it from other hosts.
            ("status", format!("0.0.0.0:{STATUS_PORT}")),
            ("etcd", endpoints.to_owned()),
            ("etcd-ca", files.ca.display().to_string()),
            ("etcd-certificate", files.certificate.display().to_string()),
            ("etcd-key", files.key.display().to_string()),
            ("advertise-api", format!("https://{}:{TLS_PORT}", host.ipv4())),
        ],
    );
    command.insert(1, "all-in-one".into());
    command
}
