//! The lab itself: the underlay, the hosts on it, and removing all of it.

use crate::command::{inside, ip, ip_batch, require, run};
use crate::host::UPLINK;
use crate::{Host, LabError, super_packet, wait_until};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const ROOT: &str = "/run";
/// Namespace names end up as file names only, but the bridge ports are interfaces: 15 bytes.
const NAME_LIMIT: usize = 10;
/// A process of an earlier run gets this long to die after SIGKILL.
const DEATH: Duration = Duration::from_secs(5);

/// How the underlay is made.
#[derive(Clone, Copy, Debug)]
pub struct LabOptions {
    /// MTU of the underlay in bytes, 1500 or jumbo frames of 9000.
    pub mtu: u16,
    /// Leave everything in place when the value is dropped: the demo's fabric stays up.
    pub keep: bool,
    /// Number of the first host: labs that are joined have hosts of different numbers.
    pub first: u8,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self { mtu: 1500, keep: false, first: 1 }
    }
}

/// An underlay with hosts. Dropping it removes every trace.
#[derive(Debug)]
pub struct Lab {
    name: String,
    options: LabOptions,
    hosts: Vec<Host>,
    gone: bool,
}

impl Lab {
    /// Makes the underlay, after sweeping what an earlier lab of this name left.
    ///
    /// # Errors
    /// No root, no `ip` program, a name that is too long, or a command that failed.
    pub fn new(name: &str, options: LabOptions) -> Result<Self, LabError> {
        check_name(name)?;
        require("ip", "iproute2")?;
        if !nix::unistd::geteuid().is_root() {
            let source = std::io::Error::from_raw_os_error(nix::libc::EPERM);
            return Err(LabError::Namespace { name: name.to_owned(), source });
        }
        Self::remove(name)?;
        let lab = Self { name: name.to_owned(), options, hosts: Vec::new(), gone: false };
        let directory = lab.directory();
        fs::create_dir_all(&directory).map_err(|source| LabError::File {
            action: "create",
            path: directory,
            source,
        })?;
        let underlay = lab.underlay();
        ip(&format!("netns add {underlay}"))?;
        ip_batch(
            &underlay,
            &format!(
                "link set lo up\n\
                 link add br0 mtu {} type bridge stp_state 0 forward_delay 0\n\
                 link set br0 up\n",
                options.mtu
            ),
        )?;
        Ok(lab)
    }

    /// Name of the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it was made.
    #[must_use]
    pub fn options(&self) -> LabOptions {
        self.options
    }

    /// The hosts in order of creation.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// Where the lab keeps its files.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        directory_of(&self.name)
    }

    /// Name of the namespace that holds the underlay bridge.
    #[must_use]
    pub fn underlay(&self) -> String {
        format!("{}-underlay", prefix(&self.name))
    }

    /// Adds a host. Hosts get 172.31.0.N and fd00:172:31::N, counted from [`LabOptions::first`].
    ///
    /// # Errors
    /// A name that is too long, or a command that failed.
    pub fn host(&mut self, name: &str) -> Result<Host, LabError> {
        check_name(name)?;
        let number = u8::try_from(self.hosts.len() + usize::from(self.options.first))
            .ok()
            .filter(|number| *number < 255)
            .ok_or(LabError::Name { name: name.into(), reason: "a lab has at most 254 hosts" })?;
        let host = Host {
            name: name.to_owned(),
            namespace: format!("{}-{name}", prefix(&self.name)),
            directory: self.directory().join(name),
            ipv4: Ipv4Addr::new(172, 31, 0, number),
            ipv6: Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, u16::from(number)),
        };
        let bpf = host.bpf_directory();
        fs::create_dir_all(&bpf).map_err(|source| LabError::File {
            action: "create",
            path: bpf.clone(),
            source,
        })?;
        mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|error| {
            LabError::File { action: "mount a BPF file system on", path: bpf, source: error.into() }
        })?;
        ip(&format!("netns add {}", host.namespace))?;
        let (underlay, mtu, port) = (self.underlay(), self.options.mtu, format!("p-{name}"));
        host.ip(&format!(
            "link set lo up\n\
             link add {UPLINK} mtu {mtu} type veth peer name {port} mtu {mtu} netns {underlay}\n\
             address add {}/24 dev {UPLINK}\n\
             address add {}/64 dev {UPLINK} nodad\n\
             link set {UPLINK} up\n",
            host.ipv4, host.ipv6
        ))?;
        ip_batch(&underlay, &format!("link set {port} master br0 up\n"))?;
        inside(Some(&Path::new("/run/netns").join(&underlay)), || super_packet::widen(&port))?
            .map_err(|source| LabError::Device { device: port.clone(), source })?;
        host.inside(|| {
            for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                let path = Path::new("/proc/sys/net").join(family);
                fs::write(&path, "1").map_err(|source| LabError::File {
                    action: "write",
                    path,
                    source,
                })?;
            }
            Ok(())
        })??;
        self.hosts.push(host.clone());
        Ok(host)
    }

    /// Joins the underlay of another lab to this one's: their hosts are neighbours until one of the labs goes.
    ///
    /// # Errors
    /// [`LabError::Command`]; their MTUs or their hosts' numbers may not fit.
    pub fn join(&self, other: &Lab) -> Result<(), LabError> {
        let (here, there) = (self.underlay(), other.underlay());
        let (port, peer) = (format!("l-{}", other.name), format!("l-{}", self.name));
        let mtu = self.options.mtu;
        ip_batch(
            &here,
            &format!(
                "link add {port} mtu {mtu} type veth peer name {peer} mtu {mtu} netns {there}\n\
                 link set {port} master br0 up\n"
            ),
        )?;
        ip_batch(&there, &format!("link set {peer} master br0 up\n"))?;
        for (namespace, device) in [(here, port), (there, peer)] {
            let path = Path::new("/run/netns").join(namespace);
            inside(Some(&path), || super_packet::widen(&device))?
                .map_err(|source| LabError::Device { device, source })?;
        }
        Ok(())
    }

    /// Cuts or restores a host's link to the underlay.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn set_link(&self, host: &Host, up: bool) -> Result<(), LabError> {
        let state = if up { "up" } else { "down" };
        ip_batch(&self.underlay(), &format!("link set p-{} {state}\n", host.name))
    }

    /// Removes everything.
    ///
    /// # Errors
    /// [`LabError::Cleanup`] with all that could not be removed.
    pub fn destroy(mut self) -> Result<(), LabError> {
        self.gone = true;
        Self::remove(&self.name)
    }

    /// Removes every trace of the lab `name`, whoever made it: processes in its namespaces, the
    /// namespaces with their devices, BPF file systems and files. Nothing to remove is success.
    ///
    /// # Errors
    /// [`LabError::Cleanup`] with all that could not be removed.
    pub fn remove(name: &str) -> Result<(), LabError> {
        let mut problems = Vec::new();
        let namespaces = namespaces_of(name);
        for namespace in &namespaces {
            if let Err(error) = end_processes(namespace) {
                problems.push(error.to_string());
            }
        }
        for namespace in &namespaces {
            if let Err(error) = ip(&format!("netns delete {namespace}")) {
                problems.push(error.to_string());
            }
        }
        let directory = directory_of(name);
        unmount_below(&directory, &mut problems);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                problems.push(format!("remove {}: {error}", directory.display()));
            }
            _ => {}
        }
        if problems.is_empty() { Ok(()) } else { Err(LabError::Cleanup(problems)) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.gone || self.options.keep {
            return;
        }
        if let Err(error) = Self::remove(&self.name) {
            tracing::warn!(lab = self.name, %error, "lab not removed completely");
        }
    }
}

fn directory_of(name: &str) -> PathBuf {
    Path::new(ROOT).join(format!("skein-lab-{name}"))
}

fn prefix(name: &str) -> String {
    format!("skl-{name}")
}

fn check_name(name: &str) -> Result<(), LabError> {
    let reason = if name.is_empty() || name.len() > NAME_LIMIT {
        "1 to 10 characters"
    } else if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()) {
        "lower case letters and digits only"
    } else {
        return Ok(());
    };
    Err(LabError::Name { name: name.to_owned(), reason })
}

fn namespaces_of(name: &str) -> Vec<String> {
    let start = format!("{}-", prefix(name));
    let mut names: Vec<String> = fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|namespace| namespace.starts_with(&start))
        .collect();
    names.sort();
    names
}

fn end_processes(namespace: &str) -> Result<(), LabError> {
    let listed = |name: &str| -> Vec<i32> {
        run(None, Command::new("ip").args(["netns", "pids", name]), None)
            .map(|ran| ran.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect())
            .unwrap_or_default()
    };
    let own = std::process::id().cast_signed();
    for pid in listed(namespace).into_iter().filter(|pid| *pid != own) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // A killed child of this process stays listed until its Process reaps it; a zombie has no
    // namespace any more and holds nothing.
    wait_until(&format!("processes in {namespace} to end"), DEATH, || {
        listed(namespace).iter().all(|pid| *pid == own)
    })
}

fn unmount_below(directory: &Path, problems: &mut Vec<String>) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new)
        .filter(|path| path.starts_with(directory));
    for path in below {
        if let Err(error) = umount2(path, MntFlags::MNT_DETACH) {
            problems.push(format!("unmount {}: {error}", path.display()));
        }
    }
}
