//! `skein why` asks the nodes of a connection what they have in force, and says where that is something else. Needs root.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

mod support;

use serde_json::Value;
use skein_lab::{Host, require};
use std::process::Command;
use support::{Bed, soon};

/// The answer, and whether the exit code says that all is well.
fn why(bed: &Bed, question: &str) -> (Value, bool) {
    let ran = bed.fabric.skein(&format!("why {question} -o json")).unwrap();
    let answer = serde_json::from_str(&ran.stdout);
    (answer.unwrap_or_else(|error| panic!("{error}: {ran:?}")), ran.ok())
}

/// Node, end and differences, of all nodes of the first way.
fn nodes(answer: &Value) -> Vec<(String, String, String)> {
    let nodes = answer["ways"][0]["nodes"].as_array().unwrap_or_else(|| panic!("{answer:#}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let differs = |node: &Value| {
        let all = node["differs"].as_array().unwrap();
        all.iter().map(text).collect::<Vec<_>>().join("; ")
    };
    nodes.iter().map(|node| (text(&node["node"]), text(&node["end"]), differs(node))).collect()
}

/// Takes the record of a workload's interface out of the kernel, behind the agent's back.
fn forget_interface(host: &Host, index: u64) {
    let table = host.bpf_directory().join("skein/vifs");
    let mut command = Command::new("bpftool");
    command.args(["map", "delete", "pinned"]).arg(table).arg("key");
    command.args(u32::try_from(index).unwrap().to_ne_bytes().map(|byte| byte.to_string()));
    let deleted = command.output().unwrap();
    assert!(deleted.status.success(), "{deleted:?}");
}

#[test]
fn nodes_say_what_they_have_in_force_and_where_it_differs() {
    require("bpftool", "bpftool").unwrap();
    let mut bed = Bed::start("twhy");
    bed.network("net", 1);
    bed.network("apart", 2);
    let near = bed.attach(0, "near", "net");
    let far = bed.attach(1, "far", "net");
    let other = bed.attach(1, "other", "apart");
    let names = [0, 1].map(|node| bed.fabric.node(node).host().name().to_owned());
    let question = format!("{} {}:80", bed.port(0, &near), bed.port(1, &far));

    let mut last = Value::Null;
    soon("both nodes to agree", || {
        let (answer, good) = why(&bed, &question);
        last = answer;
        good
    });
    let agreed = |node: &str, end: &str| (node.to_owned(), end.to_owned(), String::new());
    assert_eq!(nodes(&last), [agreed(&names[0], "leaving"), agreed(&names[1], "arriving")]);
    let leaving = &last["ways"][0]["nodes"][0];
    assert_eq!(leaving["route"], format!("{}/32", far.ipv4()), "{leaving:#}");
    let tunnel = format!("tunnel to {}", bed.fabric.node(1).host().ipv4());
    assert!(leaving["via"].as_str().unwrap().starts_with(&tunnel), "{leaving:#}");
    let text = bed.fabric.skein(&format!("why {question}")).unwrap().stdout;
    let line = format!("  in force  ✓ {}, leaving: {}/32: {tunnel}", names[0], far.ipv4());
    assert!(text.contains(&line), "{text}");

    // What does not pass by the controller's word does not pass at the nodes: no difference.
    let apart = format!("{} {}:80", bed.port(0, &near), bed.port(1, &other));
    let (answer, good) = why(&bed, &apart);
    assert!(!good && answer["differs"] == false, "{answer:#}");
    assert_eq!(nodes(&answer).len(), 2, "{answer:#}");

    // A kernel that has something else.
    let index = bed.interface(1, &far)["ifindex"].as_u64().unwrap();
    forget_interface(bed.fabric.node(1).host(), index);
    let (answer, good) = why(&bed, &question);
    assert!(!good && answer["passes"] == true && answer["differs"] == true, "{answer:#}");
    let dropped = (names[1].clone(), "arriving".to_owned(), "drops it: no_interface".to_owned());
    assert_eq!(nodes(&answer), [agreed(&names[0], "leaving"), dropped]);
    let summary = answer["summary"].as_str().unwrap();
    assert!(
        summary.contains(&format!("but node {} drops it: no_interface", names[1])),
        "{summary}"
    );

    // A node that nobody can ask is told, and is no difference.
    bed.fabric.node_mut(1).kill_agent().unwrap();
    soon("the node's session to end", || {
        let (answer, good) = why(&bed, &question);
        let problem = answer["ways"][0]["nodes"][1]["problem"].as_str().unwrap_or_default();
        good && problem.contains("no session")
    });
    // Its successor reads the kernel, and puts right what is missing there.
    let started = bed.fabric.node_mut(1).restart_agent();
    started.unwrap_or_else(|error| panic!("{error}"));
    soon("both nodes to agree again", || {
        let (answer, good) = why(&bed, &question);
        good && answer["ways"][0]["nodes"][1]["problem"].is_null()
    });
}
