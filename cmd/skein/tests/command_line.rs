//! The binary as a shell sees it: what it prints, where, and its exit code.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn skein(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skein"));
    command.args(arguments);
    for variable in ["API", "CONTROLLER", "NODE", "DOMAIN", "PROJECT"] {
        command.env_remove(format!("SKEIN_{variable}"));
    }
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// An address of this host where nothing listens.
fn silent() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn help_tells_a_newcomer_where_to_begin() {
    let output = skein(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = text(&output.stdout);
    for word in ["status", "create network front", "apply -f", "Exit codes", "SKEIN_API", "explain"]
    {
        assert!(help.contains(word), "no {word:?} in\n{help}");
    }
}

#[test]
fn every_command_has_help() {
    let commands = [
        "status",
        "get",
        "show",
        "create",
        "apply",
        "delete",
        "attach",
        "detach",
        "vrouter",
        "types",
        "explain",
        "completion",
    ];
    for name in commands {
        let output = skein(&[name, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{name}");
        assert!(text(&output.stdout).contains("Usage: skein"), "{name}");
    }
    for name in ["status", "interfaces", "routes", "nexthops", "flows", "drops", "events", "trace"]
    {
        assert_eq!(skein(&["vrouter", name, "--help"]).status.code(), Some(0), "{name}");
    }
}

#[test]
fn mistakes_of_the_writer_exit_with_3_and_say_what_to_do() {
    for (line, words) in [
        (&["frobnicate"][..], "unrecognized subcommand"),
        (&["get", "netwrok"], "did you mean network?"),
        (&["create", "network", "a", "--subnet", "10.1.1.1/24"], "did you mean 10.1.1.0/24?"),
        (&["create", "policy", "a", "--rule", "pass"], "write it as: pass|deny"),
        (&["apply", "-f", "/nonexistent/x.yaml"], "cannot read /nonexistent/x.yaml"),
        (&["get", "vn", "--api", "https://x", "--ca", "/nonexistent/ca"], "/nonexistent/ca"),
        (&["get", "vn", "--api", "ftp://x"], "http or https"),
        (&["explain", "vn.colour"], "has no field"),
        (&["delete", "vn"], "required"),
        (&["delete"], "required"),
    ] {
        let output = skein(line);
        assert_eq!(output.status.code(), Some(3), "{line:?}");
        assert!(text(&output.stderr).contains(words), "{line:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{line:?}");
    }
}

#[test]
fn what_does_not_answer_exits_with_2_and_says_where() {
    let address = silent();
    for line in [
        &["get", "vn", "--api", &address][..],
        &["create", "project", "x", "--api", &address],
        &["vrouter", "drops", "--node", &address],
    ] {
        let output = skein(line);
        assert_eq!(output.status.code(), Some(2), "{line:?}");
        let error = text(&output.stderr);
        assert!(error.contains(&address) && error.contains("refused"), "{line:?}: {error}");
        assert!(error.contains("next: "), "{line:?}: {error}");
    }
    let output = skein(&["status", "--api", &address, "--controller", &address]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("Overall: unreachable"), "{}", text(&output.stdout));
    let output = skein(&["status", "-o", "json", "--api", &address, "--controller", &address]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["api"]["state"], "unreachable");
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let output = skein(&["get", "vn", "--api", &address, "--timeout", "0.2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("no answer within 0.2 s"), "{}", text(&output.stderr));
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let mut child = command(&["completion", "bash"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn manifests_are_checked_whole_before_anything_is_sent() {
    let address = silent();
    let mut child = command(&["apply", "-f", "-", "--api", &address])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let manifest = "kind: project\nname: shop\n---\nkind: vn\nname: front\nmtu: many\n";
    child.stdin.take().unwrap().write_all(manifest.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    let error = text(&output.stderr);
    assert!(
        error.contains("-, object 2: ") && error.contains("mtu: expected an integer"),
        "{error}"
    );
}

#[test]
fn completion_is_there_for_every_shell() {
    for (shell, word) in
        [("bash", "complete -F"), ("zsh", "#compdef skein"), ("fish", "complete -c")]
    {
        let output = skein(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        assert!(text(&output.stdout).contains(word), "{shell}");
    }
}

#[test]
fn types_and_explain_need_no_server() {
    let types = text(&skein(&["types"]).stdout);
    let line = types.lines().find(|l| l.starts_with("virtual-network ")).unwrap();
    assert!(line.contains("vn,network") && line.contains("project"), "{line}");
    let explained = text(&skein(&["explain", "sg"]).stdout);
    assert!(explained.contains("security_group_entries"), "{explained}");
    assert!(!explained.contains('\x1b'), "colours without a terminal");
}
