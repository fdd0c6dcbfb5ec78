//! How long the tag firewall takes to compile: policies as Kubernetes has them, on many ports.
//!
//! `cargo run --release -p skein-compiler --example firewall-bench [ports] [policies] [own]`; with `own`, every
//! port also carries a tag that no other has, so that no two ports share their work.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/world/mod.rs"]
mod world;

use serde_json::{Value, json};
use skein_compiler::Engine;
use skein_model::{Change, Kind};
use std::collections::HashSet;
use std::time::Instant;
use world::firewall::{addresses, rule, set, tag};
use world::{Build, network, tagged};

/// Ports of a namespace share it; each application within one is named by a policy.
const NAMESPACES: usize = 50;
const NAMESPACE: u32 = 255;
const APP: u32 = 256;
const NAME: u32 = 257;

fn policy(name: &str, rules: &[String]) -> Change {
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    world::firewall::firewall_policy(name, "", &rules)
}

/// What one NetworkPolicy becomes: its rules, and its denies for the policy at the end.
struct Translated {
    objects: Vec<Change>,
    rules: Vec<String>,
    denies: Vec<String>,
}

fn translated(policy: usize, apps: usize, port: u16) -> Translated {
    let (namespace, app) = (policy % NAMESPACES, policy / NAMESPACES);
    let ns = format!("{:x}", NAMESPACE << 16 | namespace as u32);
    let tag_of = |app: usize| format!("{:x}", APP << 16 | (app % apps) as u32);
    let subject = format!("tags {ns} {}", tag_of(app));
    let peer = format!("tags {ns} {}", tag_of(app + 1));
    let other = format!("tags {:x}", NAMESPACE << 16 | ((namespace + 1) % NAMESPACES) as u32);
    let (source, destination) =
        (json!({"judged_at": "endpoint-1"}), json!({"judged_at": "endpoint-2"}));
    let hole = json!({"judged_at": "endpoint-1", "is_exception": true});
    let mut out = Translated { objects: vec![], rules: vec![], denies: vec![] };
    let mut add = |part: &str, action: &str, one: &str, two: &str, port: u16, extra: &Value| {
        let name = format!("np{policy}-{part}");
        out.objects.push(rule((&name, action, one, ">", two), port, extra.clone()));
        if part.starts_with("deny") { &mut out.denies } else { &mut out.rules }.push(name);
    };
    add("in-pod", "pass", &peer, &subject, port, &destination);
    add("in-ns", "pass", &other, &subject, port + 1, &destination);
    add("hole", "deny", &subject, "group inner", 443, &hole);
    add("out", "pass", &subject, "group outer", 443, &source);
    add("deny-in", "deny", "any", &subject, 0, &destination);
    add("deny-out", "deny", &subject, "any", 0, &source);
    out
}

/// The cluster's set: every policy, then all denies, then what passes in namespaces without policies.
fn layout(policies: usize) -> Vec<(String, String)> {
    let names = (0..policies).map(|n| format!("np{n}"));
    let tail = ["denyall".to_owned(), "allowall".to_owned()];
    names.chain(tail).enumerate().map(|(at, name)| (name, format!("{at:05}.0"))).collect()
}

fn cluster_set(policies: usize) -> Change {
    let layout = layout(policies);
    let borrowed: Vec<_> = layout.iter().map(|(name, at)| (name.as_str(), at.as_str())).collect();
    set("cluster", "application=k8s", &borrowed).put()
}

fn labels(port: usize, apps: usize, own: bool) -> Vec<String> {
    let mut names = vec![
        "application=k8s".to_owned(),
        format!("namespace={}", port % NAMESPACES),
        format!("app={}", port / NAMESPACES % apps),
    ];
    if own {
        names.push(format!("name={port}"));
    }
    names
}

fn pod(port: usize, tags: &[String]) -> Vec<Change> {
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let address = format!("10.1.{}.{}", port / 250, port % 250 + 1);
    tagged(&format!("pod{port}"), "pods", &address, &[], &tags)
}

fn resident_mib() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) / 256
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default| arguments.get(at).map_or(default, |n| n.parse().unwrap());
    let (ports, policies) = (number(0, 5000), number(1, 500));
    let own = arguments.get(2).is_some_and(|word| word == "own");
    let apps = (policies / NAMESPACES).max(1);

    let mut all = vec![tag("application=k8s", 0x10001)];
    all.extend((0..NAMESPACES).map(|n| tag(&format!("namespace={n}"), NAMESPACE << 16 | n as u32)));
    all.extend((0..=apps).map(|n| tag(&format!("app={n}"), APP << 16 | n as u32)));
    if own {
        all.extend((0..ports).map(|n| tag(&format!("name={n}"), NAME << 16 | n as u32)));
    }
    all.extend(network("pods", 1, &[]));
    all.push(addresses("outer", &["172.16.0.0/16"], &[]));
    all.push(addresses("inner", &["172.16.1.0/24"], &[]));
    let mut denies = Vec::new();
    for n in 0..policies {
        let one = translated(n, apps, 80);
        all.extend(one.objects);
        all.push(policy(&format!("np{n}"), &one.rules));
        denies.extend(one.denies);
    }
    all.push(policy("denyall", &denies));
    let mut passes = Vec::new();
    for n in 0..NAMESPACES {
        let who = format!("tags {:x}", NAMESPACE << 16 | n as u32);
        for (side, one, two, at) in
            [("in", "any", who.as_str(), "endpoint-2"), ("out", &who, "any", "endpoint-1")]
        {
            let name = format!("allow-{n}-{side}");
            all.push(rule((&name, "pass", one, ">", two), 0, json!({"judged_at": at})));
            passes.push(name);
        }
    }
    all.push(policy("allowall", &passes));
    all.push(cluster_set(policies));
    for port in 0..ports {
        all.extend(pod(port, &labels(port, apps, own)));
    }

    println!("{ports} ports, {policies} policies, {} objects", all.len());
    let before = resident_mib();
    let mut engine = Engine::new();
    let start = Instant::now();
    let delta = engine.apply(&all);
    let distinct: HashSet<_> =
        engine.interfaces().filter_map(|i| i.policy.as_ref().map(|p| p.id)).collect();
    println!(
        "from nothing          {:>9.2?}  {} interfaces, {} distinct policies, {} MiB more resident",
        start.elapsed(),
        delta.interfaces.len(),
        distinct.len(),
        resident_mib() - before,
    );
    let mut step = |what: &str, changes: Vec<Change>| {
        let start = Instant::now();
        let delta = engine.apply(&changes);
        println!("{what:<21} {:>9.2?}  {} interfaces", start.elapsed(), delta.interfaces.len());
    };
    step("a rule's port changes", translated(7, apps, 90).objects);
    let one = translated(policies, apps, 80);
    denies.extend(one.denies);
    let mut added = one.objects;
    added.push(policy(&format!("np{policies}"), &one.rules));
    added.push(policy("denyall", &denies));
    added.push(cluster_set(policies + 1));
    step("a policy is added", added);
    let mut changed = labels(9, apps, own);
    changed[2] = format!("app={}", (9 / NAMESPACES + 1) % apps);
    step("a label changes", pod(9, &changed));
    let web = Build::new(Kind::TAG, "tier=web").with("tag_id", json!("0x00020001")).put();
    let mut namespace = vec![web];
    for port in (0..ports).filter(|port| port % NAMESPACES == 3) {
        let mut tags = labels(port, apps, own);
        tags.push("tier=web".to_owned());
        namespace.extend(pod(port, &tags));
    }
    step("a namespace's label", namespace);
}
