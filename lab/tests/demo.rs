//! `make demo`, as somebody sees it who has just cloned this: every step holds, twice in a row, and nothing is left
//! after `make demo-down`. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use support::programs;

/// Not the one that whoever runs the tests may have up.
const NAME: &str = "tdemo";

fn demo(what: &str) -> Output {
    // The programs that it shows are beside it.
    programs::folder();
    let mut command = Command::new(env!("CARGO_BIN_EXE_skein-demo"));
    // Nobody is there to be asked.
    command.args([what, NAME]).env("CI", "true").stdin(Stdio::null());
    command.output().unwrap()
}

/// What there is of it on this machine: namespaces, files, pinned programs, processes.
fn traces() -> Vec<String> {
    let named = |folder: &str| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string()).filter(|path| path.contains(NAME))
    };
    let mut found: Vec<String> =
        ["/run/netns", "/run", "/sys/fs/bpf", "/tmp"].into_iter().flat_map(named).collect();
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    found.extend(mounts.lines().filter(|line| line.contains(NAME)).map(str::to_owned));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(NAME) && Path::new(&entry.file_name()) != Path::new(&own()) {
            found.push(line);
        }
    }
    found
}

fn own() -> String {
    std::process::id().to_string()
}

#[test]
fn every_step_of_the_demo_holds_twice_and_nothing_is_left() {
    for turn in 0..2 {
        let ran = demo("up");
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{turn}: {said}{}", String::from_utf8_lossy(&ran.stderr));
        assert!(said.contains(" steps held, 0 did not."), "{said}");
        let ticks = said.lines().filter(|line| line.trim_start().starts_with('✓')).count();
        assert!(ticks >= 22, "{said}");
        // The fabric stays up, and the commands that it names work.
        let commands = said.lines().filter_map(|line| line.trim().strip_prefix("sudo "));
        let commands: Vec<&str> = commands.collect();
        assert_eq!(commands.len(), 3, "{said}");
        for command in commands {
            let skein = programs::folder().join("skein").display().to_string();
            let words = command.replace("target/release/skein", &skein);
            let mut words = words.split(' ');
            let ran = Command::new(words.next().unwrap()).args(words).output().unwrap();
            assert!(ran.status.success(), "{command}: {}", String::from_utf8_lossy(&ran.stderr));
        }
    }
    let ran = demo("down");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    assert_eq!(traces(), Vec::<String>::new());
}
