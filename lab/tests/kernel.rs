//! The datapath works on the kernel that Debian 12 has for clouds, whatever kernel this machine runs: that is 6.1, the oldest that
//! Skein is for, and its verifier is stricter than newer ones. The programs load, attach, judge packets, and carry real ones.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use skein_lab::{Machine, MachineImage};
use std::path::PathBuf;
use std::process::Command;
use support::{Bed, programs};

/// An example program of a package, in the same profile; built if need be.
fn example(package: &str, name: &str) -> PathBuf {
    let folder = programs::folder();
    let release = folder.ends_with("release");
    let target = folder.parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    build.args(["build", "--quiet", "--package", package, "--example", name, "--target-dir"]);
    build.arg(target).args(release.then_some("--release"));
    let status = build.status().unwrap_or_else(|error| panic!("cargo does not start: {error}"));
    assert!(status.success(), "see why with `cargo build -p {package} --example {name}`");
    folder.join("examples").join(name)
}

#[test]
fn the_datapath_works_on_debians_oldest_kernel() {
    let bed = Bed::start("tkern");
    bed.network("machines", 1);
    let host = bed.fabric.node(0).host().clone();
    let kernel = example("skein-datapath", "kernel");
    // The guest's own `ip` makes no pairs of interfaces.
    let ip = find("ip");
    let image = MachineImage::make(host.directory(), &[("kernel", &kernel), ("ip", &ip)]);
    let image = image.unwrap_or_else(|error| panic!("{error}"));
    let network = "default-domain:shop:machines";
    let mut machine = Machine::start(bed.fabric.node(0), "one", network, &image).unwrap();
    let release = machine.must("uname -r").unwrap();
    assert!(release.starts_with("6.1."), "Linux {release} is not the oldest that Skein is for");
    for (part, last) in [("verdicts", "verdicts hold"), ("packets", "packets hold")] {
        let said = machine.run(&format!("PATH=/programs:$PATH /programs/kernel {part}")).unwrap();
        println!("Linux {}, {part}: {}", release.trim(), said.text);
        assert!(said.code == 0 && said.text.contains(last), "{part}: {}", said.text);
    }
}

/// Where a program of this machine is.
fn find(name: &str) -> PathBuf {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no `{name}`: `apt install iproute2`"))
}
