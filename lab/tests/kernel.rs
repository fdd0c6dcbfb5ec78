//! The programs load into the kernel that Debian has for clouds, whatever kernel this machine runs: Debian 12's is 6.1, the oldest
//! that Skein is for, and its verifier is stricter than newer ones.

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
fn the_programs_load_into_debians_kernel() {
    let bed = Bed::start("tkern");
    bed.network("machines", 1);
    let host = bed.fabric.node(0).host().clone();
    let load = example("skein-datapath", "load");
    let image = MachineImage::make(host.directory(), &[("load", &load)]);
    let image = image.unwrap_or_else(|error| panic!("{error}"));
    let network = "default-domain:shop:machines";
    let mut machine = Machine::start(bed.fabric.node(0), "one", network, &image).unwrap();
    println!("Linux {}", machine.must("uname -r").unwrap().trim());
    machine.must("mount -t bpf bpf /sys/fs/bpf").unwrap();
    let said = machine.run("/programs/load").unwrap();
    assert_eq!(said.code, 0, "{}", said.text);
}
