//! The programs load into the kernel that Debian has for clouds, whatever kernel this machine runs: Debian 12's is 6.1, the oldest
//! that Skein is for, and its verifier is stricter than newer ones.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use skein_lab::{Machine, MachineImage};
use support::{Bed, programs};

#[test]
fn the_programs_load_into_debians_kernel() {
    let bed = Bed::start("tkern");
    bed.network("machines", 1);
    let host = bed.fabric.node(0).host().clone();
    let load = programs::example("skein-datapath", "load");
    let image = MachineImage::make(host.directory(), &[("load", &load)]);
    let image = image.unwrap_or_else(|error| panic!("{error}"));
    let network = "default-domain:shop:machines";
    let mut machine = Machine::start(bed.fabric.node(0), "one", network, &image).unwrap();
    println!("Linux {}", machine.must("uname -r").unwrap().trim());
    machine.must("mount -t bpf bpf /sys/fs/bpf").unwrap();
    let said = machine.run("/programs/load").unwrap();
    assert_eq!(said.code, 0, "{}", said.text);
}
