//! Machines that are workloads: QEMU guests with Debian's kernel, plugged into a node by a tap.
//!
//! The guest is an initial RAM file system of busybox, the modules of VLANs, macvlans and the datapath, and the programs it was given. It takes commands by
//! its serial line, one a time; nothing else runs in it.

use crate::wait::wait_for;
use crate::{Host, LabError, Node, Process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What a guest's kernel needs, in the order in which modules load.
const MODULES: [&str; 17] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "llc",
    "stp",
    "mrp",
    "garp",
    "8021q",
    "macvlan",
    // What a node needs, when the guest is one.
    "veth",
    "sch_ingress",
    "cls_bpf",
];
/// How long a guest may take to boot; emulated on an idle core it is five seconds.
const BOOT: Duration = Duration::from_secs(90);
/// How long a command in a guest may take; loading the programs into its kernel takes half a minute on a busy machine, and one
/// command does it three times.
const PATIENCE: Duration = Duration::from_secs(600);

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run/netns /var /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
ln -s /run /var/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module || echo "no $module"; done
ip link set lo up
stty -F /dev/ttyS0 -echo -onlcr
exec </dev/ttyS0 >/dev/ttyS0 2>&1
echo "@@ready@@"
while read -r line; do
  ( eval "$line" ) </dev/null
  echo "@@$?@@"
done
poweroff -f
"#;

/// Kernel and initial file system of the guests.
#[derive(Clone, Debug)]
pub struct MachineImage {
    kernel: PathBuf,
    initrd: PathBuf,
}

impl MachineImage {
    /// Puts the image together in a folder. Guests have each program as `/programs/NAME`, with the libraries it needs.
    ///
    /// # Errors
    /// A Debian kernel for clouds, busybox or QEMU is missing: the error says what to do.
    pub fn make(folder: &Path, programs: &[(&str, &Path)]) -> Result<Self, LabError> {
        let missing = |what: &str, remedy: &str| LabError::Start {
            program: what.to_owned(),
            source: std::io::Error::other(format!("`{remedy}`")),
        };
        crate::require("qemu-system-x86_64", "qemu-system-x86")?;
        let (kernel, modules) =
            kernel().ok_or_else(|| missing("a kernel for guests", "scripts/guest-kernel"))?;
        let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new);
        let busybox = busybox.into_iter().find(|path| path.is_file());
        let busybox = busybox.ok_or_else(|| missing("busybox", "apt install busybox-static"))?;
        let mut archive = Archive::default();
        for folder in ["bin", "modules", "programs"] {
            archive.folder(folder);
        }
        archive.file("init", INIT.as_bytes(), true);
        archive.copy("bin/busybox", busybox)?;
        let mut shared = BTreeSet::new();
        for (name, program) in programs {
            archive.copy(&format!("programs/{name}"), program)?;
            shared.extend(libraries(program)?);
        }
        for library in shared {
            archive.copy(library.trim_start_matches('/'), Path::new(&library))?;
        }
        let mut order = String::new();
        for name in MODULES {
            // What is built in is no file.
            if let Some(path) = find_module(&modules, name) {
                archive.copy(&format!("modules/{name}.ko"), &path)?;
                order += &format!("{name}.ko\n");
            }
        }
        archive.file("modules/order", order.as_bytes(), false);
        let initrd = folder.join("machine.cpio");
        write(&initrd, &archive.end())?;
        Ok(Self { kernel, initrd })
    }
}

/// The kernel that `scripts/guest-kernel` unpacks, and the folder of its modules.
fn kernel() -> Option<(PathBuf, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest-kernel");
    let (version, path) = fs::read_dir(root.join("boot")).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((name.strip_prefix("vmlinuz-")?.to_owned(), entry.path()))
    })?;
    let modules = root.join("lib/modules").join(version).join("kernel");
    modules.is_dir().then_some((path, modules))
}

fn find_module(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let file = format!("{name}.ko");
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.file_name() == file.as_str() {
                return Some(path);
            }
        }
    }
    None
}

/// What a program is linked to, the loader included.
fn libraries(program: &Path) -> Result<BTreeSet<String>, LabError> {
    let listed = Command::new("ldd").arg(program).output();
    let listed = listed.map_err(|source| LabError::Start { program: "ldd".into(), source })?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let words = text.split_whitespace();
    Ok(words.filter(|word| word.starts_with('/')).map(str::to_owned).collect())
}

fn write(path: &Path, content: &[u8]) -> Result<(), LabError> {
    fs::write(path, content).map_err(|source| LabError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
}

/// An archive in the form that the kernel unpacks (cpio, "newc").
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<String>,
    count: u32,
}

impl Archive {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.count += 1;
        let fields = [self.count, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(format!("{:08X}{:08X}", name.len() + 1, 0).bytes());
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn folder(&mut self, path: &str) {
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
        self.entry(path, 0o040_755, &[]);
    }

    fn file(&mut self, path: &str, content: &[u8], executable: bool) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
        self.entry(path, if executable { 0o100_755 } else { 0o100_644 }, content);
    }

    fn copy(&mut self, to: &str, from: &Path) -> Result<(), LabError> {
        let content = fs::read(from).map_err(|source| LabError::File {
            action: "read",
            path: from.to_owned(),
            source,
        })?;
        self.file(to, &content, true);
        Ok(())
    }

    fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// A running guest, its first interface a port of a network.
#[derive(Debug)]
pub struct Machine {
    /// Its virtual-machine-interface.
    pub port: String,
    /// Its IPv4 address.
    pub ipv4: String,
    /// MAC of its interface.
    pub mac: String,
    line: UnixStream,
    tap: String,
    host: Host,
    // Killed when dropped.
    _guest: Process,
}

/// What a command in a guest said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Standard output and error.
    pub text: String,
}

impl Machine {
    /// Makes a port of the network on the node, plugs a tap into it, and boots a guest behind that.
    ///
    /// # Errors
    /// The agent refused the port, or the guest did not boot; the error quotes its console.
    pub fn start(
        node: &Node,
        name: &str,
        network: &str,
        image: &MachineImage,
    ) -> Result<Self, LabError> {
        let host = node.host().clone();
        let socket = host.directory().join("agent.sock");
        let container = format!("{}-{name}", host.namespace());
        let key = json!({"container": container, "interface": "eth0"});
        let mut wanted = key.clone();
        wanted["network"] = json!(network);
        wanted["workload"] = json!(name);
        let port = port_api(&socket, "/v1/ports/prepare", &wanted)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (mac, mtu) = (text(&port["mac"]), port["mtu"].as_u64().unwrap_or(1280));
        let addresses = port["addresses"].as_array().cloned().unwrap_or_default();
        let tap = format!("vm-{name}");
        host.ip(&format!("tuntap add dev {tap} mode tap vnet_hdr\nlink set {tap} mtu {mtu} up"))?;
        let console = host.directory().join(format!("{name}.serial"));
        let _ = fs::remove_file(&console);
        let mut qemu = Command::new("qemu-system-x86_64");
        // Emulated: a lab is often a virtual machine itself, and KVM within one may hang.
        qemu.args(["-accel", "tcg", "-cpu", "max", "-m", "256", "-smp", "1"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            .args(["-append", "console=ttyS0 quiet loglevel=3 rdinit=/init panic=-1"])
            .arg("-serial")
            .arg(format!("unix:{},server=on,wait=off", console.display()))
            .arg("-netdev")
            .arg(format!("tap,id=n0,ifname={tap},script=no,downscript=no,vnet_hdr=on"))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=n0,mac={mac},romfile="));
        let guest = host.spawn(&format!("machine-{name}"), &mut qemu)?;
        let line = wait_for("the guest's serial line", BOOT, || {
            UnixStream::connect(&console).map_err(|error| error.to_string())
        })?;
        let mut bind = key;
        bind["ifindex"] = json!(ifindex(&host, &tap)?);
        bind["mtu"] = json!(mtu);
        port_api(&socket, "/v1/ports/bind", &bind)?;
        let mut machine = Self {
            port: text(&port["uuid"]),
            ipv4: String::new(),
            mac,
            line,
            tap,
            host,
            _guest: guest,
        };
        machine.read_to("@@ready@@", BOOT)?;
        machine.configure(&addresses, mtu)?;
        Ok(machine)
    }

    fn configure(&mut self, addresses: &[Value], mtu: u64) -> Result<(), LabError> {
        let mut script = format!("ip link set eth0 mtu {mtu} up");
        for address in addresses {
            let prefix = address["prefix"].as_str().unwrap_or_default();
            let v4 = !prefix.contains(':');
            if v4 {
                prefix.split('/').next().unwrap_or_default().clone_into(&mut self.ipv4);
                script += &format!("; ip addr add {prefix} dev eth0");
                if let Some(gateway) = address["gateway"].as_str() {
                    script += &format!("; ip route add default via {gateway}");
                }
            }
        }
        let said = self.run(&script)?;
        if said.code == 0 { Ok(()) } else { Err(self.failed(&script, &said)) }
    }

    fn failed(&self, command: &str, said: &Said) -> LabError {
        LabError::Command {
            command: format!("{} (in {})", command, self.tap),
            status: format!("exit code {}", said.code),
            stderr: said.text.clone(),
        }
    }

    /// Runs a line of shell in the guest.
    ///
    /// # Errors
    /// The guest does not answer.
    pub fn run(&mut self, command: &str) -> Result<Said, LabError> {
        let failed = |source| LabError::File {
            action: "write to",
            path: PathBuf::from(format!("the serial line of {}", self.tap)),
            source,
        };
        // The terminal takes 4095 bytes a line.
        self.line.write_all(format!("{command}\n").as_bytes()).map_err(failed)?;
        let text = self.read_to("@@\n", PATIENCE)?;
        let (said, code) =
            text.trim_end().trim_end_matches('@').rsplit_once("@@").unwrap_or((&text, ""));
        Ok(Said { code: code.parse().unwrap_or(-1), text: said.to_owned() })
    }

    /// The same, and it must succeed.
    ///
    /// # Errors
    /// The command failed; the error says what it wrote.
    pub fn must(&mut self, command: &str) -> Result<String, LabError> {
        let said = self.run(command)?;
        if said.code == 0 { Ok(said.text) } else { Err(self.failed(command, &said)) }
    }

    /// Writes a file in the guest.
    ///
    /// # Errors
    /// As [`Machine::must`].
    pub fn put(&mut self, path: &str, content: &str) -> Result<(), LabError> {
        let quoted = content.replace('\'', r"'\''").replace('\n', " ");
        self.must(&format!("echo '{quoted}' > {path}")).map(drop)
    }

    /// Calls the CNI plugin in the guest, as a container runtime there does.
    ///
    /// # Errors
    /// The guest does not answer. What the plugin said is in [`Said`].
    pub fn cni(
        &mut self,
        command: &str,
        config: &Value,
        container: &str,
        netns: &str,
        args: &str,
    ) -> Result<Said, LabError> {
        self.put("/tmp/config", &config.to_string())?;
        self.run(&format!(
            "CNI_COMMAND={command} CNI_CONTAINERID={container} CNI_NETNS={netns} CNI_IFNAME=eth0 \
             CNI_PATH=/programs CNI_ARGS='{args}' /programs/skein < /tmp/config"
        ))
    }

    fn read_to(&mut self, end: &str, limit: Duration) -> Result<String, LabError> {
        let until = Instant::now() + limit;
        let mut text = String::new();
        let mut buffer = [0; 4096];
        let _ = self.line.set_read_timeout(Some(Duration::from_millis(200)));
        while !text.contains(end) {
            match self.line.read(&mut buffer) {
                Ok(length) if length > 0 => {
                    text += &String::from_utf8_lossy(&buffer[..length]).replace('\r', "");
                }
                _ if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => {
                    return Err(LabError::Timeout {
                        what: format!("the guest behind {}", self.tap),
                        seconds: limit.as_secs_f64(),
                        last: text,
                    });
                }
            }
        }
        Ok(text)
    }

    /// The host that it runs on.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}

fn ifindex(host: &Host, name: &str) -> Result<u32, LabError> {
    let shown = host.run(Command::new("ip").args(["-o", "link", "show", "dev", name]))?;
    let index = shown.stdout.split(':').next().and_then(|index| index.trim().parse().ok());
    index.ok_or_else(|| LabError::Command {
        command: format!("ip link show dev {name}"),
        status: "no index".into(),
        stderr: shown.stdout,
    })
}

/// A call of a node's port API.
fn port_api(socket: &Path, path: &str, body: &Value) -> Result<Value, LabError> {
    let failed = |reason: String| LabError::Command {
        command: format!("POST {path} {body}"),
        status: "refused".into(),
        stderr: reason,
    };
    let body_text = body.to_string();
    let ask = || -> std::io::Result<String> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body_text}",
            body_text.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|error| failed(error.to_string()))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split_whitespace().nth(1) != Some("200") {
        return Err(failed(body.to_owned()));
    }
    serde_json::from_str(body).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_archive_is_aligned_and_ends() {
        let mut archive = Archive::default();
        archive.file("a/b/c", b"hello", true);
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes.windows(6).filter(|w| w == b"070701").count(), 4);
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
