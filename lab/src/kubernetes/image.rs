//! Container images made here: the lab pulls nothing.
//!
//! One archive in the format of `docker save` holds both images, which share their only layer: Debian's
//! static busybox, and the probe program with the libraries it needs.

use super::{ClusterError, files};
use crate::require;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The image that holds a pod's namespaces open.
pub const PAUSE_IMAGE: &str = "skein.lab/pause:1";
/// The image with busybox and `skein-probe`, which it starts as a server unless told otherwise.
pub const PROBE_IMAGE: &str = "skein.lab/probe:1";

/// Busybox's programs that tests and the demo use.
const APPLETS: [&str; 24] = [
    "sh", "cat", "echo", "env", "grep", "head", "hostname", "httpd", "ip", "kill", "ls", "mkdir",
    "nc", "nslookup", "ping", "ping6", "ps", "sleep", "tail", "test", "time", "true", "wc", "wget",
];

/// The image with every program of Skein's, as deploy/images/Dockerfile makes it.
pub const SKEIN_IMAGE: &str = "skein.lab/skein:1";

/// The image with Debian's HAProxy and busybox, as somebody's ingress controller would have them.
pub const HAPROXY_IMAGE: &str = "skein.lab/haproxy:1";

const USERS: &str = "root:x:0:0:root:/:/bin/sh\nhaproxy:x:101:101::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\nhaproxy:x:101:\n";

/// Writes an archive with [`HAPROXY_IMAGE`] to `archive`, working in the folder `work`. It starts HAProxy with
/// `/etc/haproxy/haproxy.cfg`.
///
/// # Errors
/// HAProxy or busybox is not on this machine, or something cannot be written.
pub fn build_haproxy(work: &Path, archive: &Path) -> Result<(), ClusterError> {
    let (root, contents) = (work.join("layer"), work.join("image"));
    for old in [&root, &contents] {
        let _ = fs::remove_dir_all(old);
        files::folder(old)?;
    }
    for folder in ["tmp", "etc/haproxy", "proc", "sys", "dev", "run"] {
        files::folder(&root.join(folder))?;
    }
    busybox(&root.join("bin"))?;
    install(&root, "haproxy", "haproxy")?;
    files::write(&root.join("etc/passwd"), USERS)?;
    files::write(&root.join("etc/group"), GROUPS)?;
    let entrypoint = json!(["/usr/sbin/haproxy", "-W", "-db"]);
    let images = [(HAPROXY_IMAGE, entrypoint, json!(["-f", "/etc/haproxy/haproxy.cfg"]))];
    pack(&root, &contents, &images, archive)
}

/// Copies a program of this machine to the same place in an image, with its libraries.
fn install(root: &Path, name: &'static str, package: &'static str) -> Result<(), ClusterError> {
    let program = require(name, package)?;
    let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    files::copy(&program, &inside(&program))?;
    for library in libraries(&program)? {
        files::copy(&library, &inside(&library))?;
    }
    Ok(())
}

/// Busybox with the applets in use.
fn busybox(bin: &Path) -> Result<(), ClusterError> {
    files::folder(bin)?;
    files::copy(&require("busybox", "busybox-static")?, &bin.join("busybox"))?;
    for applet in APPLETS {
        let link = bin.join(applet);
        symlink("busybox", &link).map_err(|source| ClusterError::file("link", &link, source))?;
    }
    Ok(())
}

/// Writes an archive with [`SKEIN_IMAGE`] to `archive`, working in the folder `work`. `programs` holds what was built.
///
/// # Errors
/// A program is missing, or something cannot be written.
pub fn build_skein(programs: &Path, work: &Path, archive: &Path) -> Result<(), ClusterError> {
    let (root, contents) = (work.join("layer"), work.join("image"));
    for old in [&root, &contents] {
        let _ = fs::remove_dir_all(old);
        files::folder(old)?;
    }
    for folder in ["usr/bin", "tmp", "etc", "proc", "sys", "dev", "run", "var/lib"] {
        files::folder(&root.join(folder))?;
    }
    let run = root.join("var/run");
    symlink("/run", &run).map_err(|source| ClusterError::file("link", &run, source))?;
    for name in ["skeind", "skein", "skein-cni"] {
        let program = programs.join(name);
        if !program.is_file() {
            return Err(ClusterError::NotBuilt(program));
        }
        let copy = root.join("usr/bin").join(name);
        files::copy(&program, &copy)?;
        // Only symbols; the copy is ours to shrink.
        let _ = Command::new("strip").arg(&copy).status();
        for library in libraries(&program)? {
            files::copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
        }
    }
    // What the role `loadbalancer` runs; with a user for HAProxy.
    for (name, package) in [("haproxy", "haproxy"), ("ip", "iproute2"), ("nsenter", "util-linux")] {
        install(&root, name, package)?;
    }
    files::write(&root.join("etc/passwd"), USERS)?;
    files::write(&root.join("etc/group"), GROUPS)?;
    let plugin = root.join("usr/bin/kubectl-skein");
    symlink("skein", &plugin).map_err(|source| ClusterError::file("link", &plugin, source))?;
    let images = [(SKEIN_IMAGE, json!(["/usr/bin/skeind"]), Value::Null)];
    pack(&root, &contents, &images, archive)
}

/// Writes the archive with all images to `archive`, working in the folder `work`.
pub(crate) fn build(probe: &Path, work: &Path, archive: &Path) -> Result<(), ClusterError> {
    let root = work.join("layer");
    let contents = work.join("image");
    for old in [&root, &contents] {
        let _ = fs::remove_dir_all(old);
        files::folder(old)?;
    }
    fill(&root, probe)?;
    let images = [
        (PAUSE_IMAGE, json!(["/bin/busybox", "sleep", "2147483647"]), Value::Null),
        (PROBE_IMAGE, json!(["/bin/skein-probe"]), json!(["serve"])),
    ];
    pack(&root, &contents, &images, archive)
}

/// Packs a folder as the only layer of images: name, entry point, arguments.
fn pack(
    root: &Path,
    contents: &Path,
    images: &[(&str, Value, Value)],
    archive: &Path,
) -> Result<(), ClusterError> {
    let layer = contents.join("layer.tar");
    tar(root, &layer)?;
    let bytes = fs::read(&layer).map_err(|e| ClusterError::file("read", &layer, e))?;
    let layer_digest = sha256(&bytes);
    let mut manifest = Vec::new();
    for (name, entrypoint, arguments) in images {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": entrypoint, "Cmd": arguments, "Env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
            "history": [{"created_by": "skein-lab"}],
        })
        .to_string();
        let file = format!("{}.json", sha256(config.as_bytes()));
        files::write(&contents.join(&file), &config)?;
        manifest.push(json!({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}));
    }
    files::write(&contents.join("manifest.json"), Value::from(manifest).to_string())?;
    tar(contents, archive)
}

fn fill(root: &Path, probe: &Path) -> Result<(), ClusterError> {
    let bin = root.join("bin");
    for folder in ["tmp", "etc", "proc", "sys", "dev", "var/www"] {
        files::folder(&root.join(folder))?;
    }
    let tmp = root.join("tmp");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777))
        .map_err(|source| ClusterError::file("change", &tmp, source))?;
    busybox(&bin)?;
    files::copy(probe, &bin.join("skein-probe"))?;
    // Only symbols; the copy is ours to shrink.
    let _ = Command::new("strip").arg(bin.join("skein-probe")).status();
    for library in libraries(probe)? {
        files::copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    Ok(())
}

/// The libraries that the loader would load, and the loader, as `ldd` finds them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, ClusterError> {
    let ran = crate::command::run(None, Command::new("ldd").arg(program), None)?;
    // A static program has none, and ldd says so by failing.
    Ok(ran
        .stdout
        .lines()
        .flat_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

/// Packs what is in a folder, by names that start with no "./": the importer looks for those.
fn tar(folder: &Path, archive: &Path) -> Result<(), ClusterError> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .map_err(|source| ClusterError::file("read", folder, source))?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    let mut command = Command::new("tar");
    command
        .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--mtime=@0", "-cf"])
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .args(names);
    crate::command::run(None, &mut command, None)?.success()?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
