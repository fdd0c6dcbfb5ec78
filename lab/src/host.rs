//! A host of the lab and the bare pods on it.

use crate::command::{inside, ip, ip_batch, run};
use crate::super_packet;
use crate::{LabError, Process, Ran};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of a host's interface to the underlay.
pub(crate) const UPLINK: &str = "eth0";

/// A host: a network namespace with an uplink, and a directory for its files.
#[derive(Clone, Debug)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) directory: PathBuf,
    pub(crate) ipv4: Ipv4Addr,
    pub(crate) ipv6: Ipv6Addr,
}

impl Host {
    /// Name within the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the network namespace, as `ip netns` shows it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Underlay IPv4 address.
    #[must_use]
    pub fn ipv4(&self) -> Ipv4Addr {
        self.ipv4
    }

    /// Underlay IPv6 address.
    #[must_use]
    pub fn ipv6(&self) -> Ipv6Addr {
        self.ipv6
    }

    /// Name of the interface to the underlay.
    #[must_use]
    pub fn uplink(&self) -> &'static str {
        UPLINK
    }

    /// Directory for data, sockets and logs of this host; gone when the lab is destroyed.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A BPF file system of this host's own, where its agent pins programs and maps.
    #[must_use]
    pub fn bpf_directory(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    /// Runs a command in the host to its end.
    ///
    /// # Errors
    /// The program could not be started. Its own failure is in [`Ran`].
    pub fn run(&self, command: &mut Command) -> Result<Ran, LabError> {
        run(Some(&self.path()), command, None)
    }

    /// Runs a command in the host to its end, with input.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn run_with_input(&self, command: &mut Command, input: &[u8]) -> Result<Ran, LabError> {
        run(Some(&self.path()), command, Some(input))
    }

    /// Starts a supervised process in the host; its output goes to `<name>.log`.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process, LabError> {
        let log = self.directory.join(format!("{name}.log"));
        Process::spawn(name, log, Some(&self.path()), command)
    }

    /// Runs `work` on a thread inside the host's network namespace.
    ///
    /// # Errors
    /// The namespace could not be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        inside(Some(&self.path()), work)
    }

    /// Runs `ip` commands in the host, one a line.
    ///
    /// # Errors
    /// [`LabError::Command`] with the line that failed.
    pub fn ip(&self, lines: &str) -> Result<(), LabError> {
        ip_batch(&self.namespace, lines)
    }

    /// Makes a bare namespace on this host, with its loopback up and nothing else.
    ///
    /// # Errors
    /// The namespace could not be made.
    pub fn pod(&self, name: &str) -> Result<Pod, LabError> {
        let namespace = format!("{}-{name}", self.namespace);
        ip(&format!("netns add {namespace}"))?;
        ip_batch(&namespace, "link set lo up")?;
        Ok(Pod { name: name.to_owned(), namespace, directory: self.directory.clone() })
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }
}

/// A workload: a bare network namespace.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    namespace: String,
    directory: PathBuf,
}

impl Pod {
    /// Name on its host.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the network namespace, as `ip netns` shows it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The namespace file, what CNI calls `CNI_NETNS`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// Runs a command in the pod to its end.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn run(&self, command: &mut Command) -> Result<Ran, LabError> {
        run(Some(&self.path()), command, None)
    }

    /// Starts a supervised process in the pod; its output goes to `<pod>-<name>.log` of the host.
    ///
    /// # Errors
    /// The program could not be started.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process, LabError> {
        let name = format!("{}-{name}", self.name);
        let log = self.directory.join(format!("{name}.log"));
        Process::spawn(&name, log, Some(&self.path()), command)
    }

    /// Runs `work` on a thread inside the pod's network namespace: sockets opened there stay there.
    ///
    /// # Errors
    /// The namespace could not be entered.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        inside(Some(&self.path()), work)
    }

    /// Runs `ip` commands in the pod, one a line.
    ///
    /// # Errors
    /// [`LabError::Command`] with the line that failed.
    pub fn ip(&self, lines: &str) -> Result<(), LabError> {
        ip_batch(&self.namespace, lines)
    }

    /// Bytes a TCP super-packet over IPv4 may have on one of its interfaces; `None` on kernels before 6.3.
    ///
    /// # Errors
    /// [`LabError::Device`] when there is no such interface.
    pub fn super_packet_size(&self, interface: &str) -> Result<Option<u32>, LabError> {
        let device = interface.to_owned();
        self.inside(|| super_packet::size(interface))?
            .map_err(|source| LabError::Device { device, source })
    }

    /// True when `address` answers one of `count` echo requests sent 200 ms apart, each awaited a
    /// second.
    ///
    /// # Errors
    /// `ping` could not be started.
    pub fn pings(&self, address: &str, count: u32) -> Result<bool, LabError> {
        let count = count.to_string();
        let mut command = Command::new("ping");
        command.args(["-n", "-q", "-i", "0.2", "-W", "1", "-c", &count, address]);
        // ping's exit code is 0 when at least one answer came.
        Ok(self.run(&mut command)?.ok())
    }

    /// Removes the namespace with all that is in it.
    ///
    /// # Errors
    /// [`LabError::Command`].
    pub fn remove(self) -> Result<(), LabError> {
        ip(&format!("netns delete {}", self.namespace)).map(|_| ())
    }
}
