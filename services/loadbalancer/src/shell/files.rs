//! The files of one load balancer, which are also how it is found again.

use super::certificates::{Found, Pem};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// Names the space of the hashes in file names.
const CONTENT: Uuid = Uuid::from_u128(0x0f8e_6d0b_6f0a_5b43_8f6e_52c1_9b8d_4a11);

/// Where a load balancer's files are.
#[derive(Clone, Debug)]
pub(super) struct Files {
    folder: PathBuf,
}

fn failed(action: &str, path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| format!("{action} {}: {error}", path.display())
}

impl Files {
    pub(super) fn new(run_dir: &Path, balancer: Uuid) -> Self {
        Self { folder: run_dir.join(balancer.to_string()) }
    }

    /// Load balancers that have files.
    pub(super) fn all(run_dir: &Path) -> Vec<Uuid> {
        let entries = std::fs::read_dir(run_dir).into_iter().flatten().flatten();
        let mut all: Vec<Uuid> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        all.sort_unstable();
        all
    }

    /// Makes the folder, for root alone.
    pub(super) fn make(&self) -> Result<(), String> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&self.folder).map_err(failed("cannot make", &self.folder))
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("haproxy.cfg")
    }

    fn candidate(&self) -> PathBuf {
        self.folder.join("haproxy.cfg.new")
    }

    /// Where HAProxy writes its process id when it starts.
    pub(super) fn pid(&self) -> PathBuf {
        self.folder.join("haproxy.pid")
    }

    /// The process id in that file.
    pub(super) fn launched(&self) -> Option<i32> {
        read_pid(&self.pid())
    }

    fn noted(&self) -> PathBuf {
        self.folder.join("serving")
    }

    /// Process id of the HAProxy that serves, as it was when it was found to.
    pub(super) fn serving(&self) -> Option<i32> {
        // Without a note this daemon ended before it could make one.
        read_pid(&self.noted()).or_else(|| self.launched())
    }

    /// Notes which process serves.
    pub(super) fn note_serving(&self, pid: i32) -> Result<(), String> {
        self.write(&self.noted(), pid.to_string().as_bytes())
    }

    /// Forgets who served, when nobody does.
    pub(super) fn forget_serving(&self) {
        for path in [self.noted(), self.pid()] {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Where the HAProxy that serves answers: a link to its own socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("haproxy.sock")
    }

    /// Writes the configuration of a socket that the one that serves does not have: of one that they shared either would answer.
    /// Gives the file, and the socket.
    pub(super) fn other_socket(&self) -> Result<(PathBuf, PathBuf), String> {
        let [one, other] = ["a.sock", "b.sock"].map(|name| self.folder.join(name));
        let used = std::fs::read_link(self.socket()).ok();
        let socket = if used.as_deref() == Some(&one) { other } else { one };
        let path = self.folder.join("control.cfg");
        let text = format!(
            "global\n    stats socket {} mode 600 level admin expose-fd listeners\n",
            socket.display()
        );
        self.write(&path, text.as_bytes())?;
        Ok((path, socket))
    }

    /// From now on this is the socket of the one that serves.
    pub(super) fn use_socket(&self, socket: &Path) -> Result<(), String> {
        let (link, partial) = (self.socket(), self.folder.join("haproxy.partial"));
        let _ = std::fs::remove_file(&partial);
        std::os::unix::fs::symlink(socket, &partial)
            .and_then(|()| std::fs::rename(&partial, &link))
            .map_err(failed("cannot link", &link))
    }

    /// The configuration that would be used next.
    pub(super) fn current(&self) -> Option<String> {
        std::fs::read_to_string(self.config()).ok()
    }

    /// Writes a configuration beside the current one.
    pub(super) fn propose(&self, text: &str) -> Result<PathBuf, String> {
        let path = self.candidate();
        self.write(&path, text.as_bytes())?;
        Ok(path)
    }

    /// A configuration with nothing in it but a certificate.
    pub(super) fn probe(&self, certificate: &Path) -> Result<PathBuf, String> {
        let path = self.folder.join("certificate.cfg");
        let text = format!(
            "defaults\n    mode http\n    timeout client 1s\n\nfrontend certificate\n    \
             bind 127.0.0.1:1 ssl crt {}\n    http-request deny\n",
            certificate.display()
        );
        self.write(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Puts the proposed configuration in the place of the current one.
    pub(super) fn accept(&self) -> Result<(), String> {
        let (new, config) = (self.candidate(), self.config());
        std::fs::rename(&new, &config).map_err(failed("cannot replace", &config))
    }

    /// Notes which configuration HAProxy has taken, to know after a restart of this daemon.
    pub(super) fn note_loaded(&self, text: &str) -> Result<(), String> {
        self.write(&self.folder.join("loaded"), digest(text.as_bytes()).as_bytes())
    }

    /// Whether HAProxy has taken this configuration.
    pub(super) fn is_loaded(&self, text: &str) -> bool {
        let noted = std::fs::read_to_string(self.folder.join("loaded")).unwrap_or_default();
        noted == digest(text.as_bytes())
    }

    /// Notes the node's port.
    pub(super) fn note_port(&self, port: Uuid) -> Result<(), String> {
        self.write(&self.folder.join("port"), port.to_string().as_bytes())
    }

    /// The node's port, from an earlier life.
    pub(super) fn port(&self) -> Option<Uuid> {
        std::fs::read_to_string(self.folder.join("port")).ok()?.parse().ok()
    }

    /// Writes the certificates that were found, each under a name that changes with its content; gives the files of
    /// those that are wanted.
    pub(super) fn certificates(&self, found: &Found) -> Result<BTreeMap<String, PathBuf>, String> {
        let mut files = BTreeMap::new();
        for (name, pem) in found {
            let Ok(pem) = pem else { continue };
            let path = self.folder.join(file_of(pem));
            if !path.exists() {
                self.write(&path, pem.bytes())?;
            }
            files.insert(name.clone(), path);
        }
        Ok(files)
    }

    fn used(&self) -> PathBuf {
        self.folder.join("certificates")
    }

    /// Notes which certificates are in use, to know them before they are found again.
    pub(super) fn note_certificates(&self, used: &BTreeMap<String, PathBuf>) -> Result<(), String> {
        let lines = used
            .iter()
            .filter_map(|(name, path)| Some(format!("{name}\t{}\n", path.file_name()?.to_str()?)));
        self.write(&self.used(), lines.collect::<String>().as_bytes())
    }

    /// Certificates that were in use, as far as their files are there.
    pub(super) fn noted_certificates(&self) -> BTreeMap<String, PathBuf> {
        let noted = std::fs::read_to_string(self.used()).unwrap_or_default();
        let lines = noted.lines().filter_map(|line| line.split_once('\t'));
        lines
            .map(|(name, file)| (name.to_owned(), self.folder.join(file)))
            .filter(|(_, path)| path.exists())
            .collect()
    }

    /// Removes certificates that no configuration here names any more.
    pub(super) fn forget_certificates(&self, used: &BTreeMap<String, PathBuf>) {
        let used: BTreeSet<&PathBuf> = used.values().collect();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "pem") && !used.contains(&path) {
                let _ = std::fs::remove_file(path);
            }
        }
    }

    /// Writes a file for root alone, whole or not at all.
    fn write(&self, path: &Path, content: &[u8]) -> Result<(), String> {
        let partial = path.with_extension("partial");
        let write = || -> std::io::Result<()> {
            let mut options = std::fs::OpenOptions::new();
            let mut file =
                options.create(true).write(true).truncate(true).mode(0o600).open(&partial)?;
            file.write_all(content)?;
            std::fs::rename(&partial, path)
        };
        write().map_err(failed("cannot write", path))
    }

    /// Removes everything.
    pub(super) fn remove(&self) -> Result<(), String> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("cannot remove", &self.folder)(error))
            }
            _ => Ok(()),
        }
    }
}

fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.lines().next()?.parse().ok()
}

fn digest(content: &[u8]) -> String {
    Uuid::new_v5(&CONTENT, content).to_string()
}

fn file_of(pem: &Pem) -> String {
    format!("{}.pem", digest(pem.bytes()))
}
