//! Loads the programs into this kernel, and says so: what its verifier refuses, it says why.
//!
//! Needs root and a BPF file system at /sys/fs/bpf. Pins a folder there and removes it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it says how it went")]

use skein_datapath::{Config, Datapath};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let folder = format!("/sys/fs/bpf/skein-load-{}", std::process::id());
    let folder = Path::new(&folder);
    // Small tables: the programs are the same.
    let config = Config {
        flow_table_size: 4096,
        host_route_table_size: 1024,
        prefix_route_table_size: 1024,
        next_hop_table_size: 64,
        policy_table_size: 65_536,
        vif_table_size: 16,
        fragment_table_size: 256,
        ..Config::new(folder)
    };
    let loaded = Datapath::open(&config);
    let _ = std::fs::remove_dir_all(folder);
    match loaded {
        Ok(_) => {
            println!("loaded");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
