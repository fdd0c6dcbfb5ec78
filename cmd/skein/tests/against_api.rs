//! The commands against a real configuration API on a store of its own.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use serde_json::Value;
use skein_api::{Config, Server};
use std::io::Write;
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use tokio::runtime::Runtime;

/// A server, the runtime it lives in, and its store.
struct Fixture {
    runtime: Runtime,
    server: Option<Server>,
    address: String,
    _store: tempfile::TempDir,
}

impl Fixture {
    fn start() -> Fixture {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build();
        let (runtime, store) = (runtime.unwrap(), tempfile::tempdir().unwrap());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config::new(listen, store.path().join("config.redb"));
        let server = runtime.block_on(Server::start(config)).unwrap();
        let address = format!("http://{}", server.local_addr());
        Fixture { runtime, server: Some(server), address, _store: store }
    }

    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_skein"))
            .args(arguments)
            .env("SKEIN_API", &self.address)
            .env("SKEIN_PROJECT", "shop")
            .env_remove("SKEIN_DOMAIN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// What a command prints; it must succeed.
    fn good(&self, arguments: &[&str]) -> String {
        self.good_with(arguments, "")
    }

    fn good_with(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command complains about; it must exit with `code`.
    fn bad(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments, "");
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        error
    }

    /// An object as the API gives it.
    fn object(&self, kind: &str, name: &str) -> Value {
        let text = self.good(&["get", kind, name, "-o", "json"]);
        let value: Value = serde_json::from_str(&text).unwrap();
        value.as_object().unwrap().values().next().unwrap().clone()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown());
        }
    }
}

#[test]
fn a_tenant_is_made_looked_at_and_removed() {
    let fixture = Fixture::start();
    assert_eq!(
        fixture.good(&["create", "project", "shop"]),
        "project default-domain:shop created\n"
    );
    fixture.good(&["create", "policy", "web", "--rule", "pass tcp from front to back port 80"]);
    fixture.good(&[
        "create",
        "network",
        "front",
        "--subnet",
        "10.1.1.0/24",
        "--subnet",
        "fd00:1::/64",
        "--policy",
        "web",
    ]);
    fixture.good(&["create", "network", "back", "--subnet", "10.1.2.0/24"]);
    fixture.good(&[
        "create",
        "sg",
        "ssh",
        "--rule",
        "ingress tcp from any port 22",
        "--rule",
        "egress",
    ]);
    fixture.good(&["create", "vmi", "p1", "--ref", "vn=front", "--ref", "sg=ssh"]);
    fixture.good(&[
        "create",
        "iip",
        "p1-v4",
        "--ref",
        "vn=default-domain:shop:front",
        "--ref",
        "vmi=p1",
    ]);

    let table = fixture.good(&["get", "networks"]);
    let front = table.lines().find(|line| line.contains("front")).unwrap();
    assert!(front.contains("10.1.1.0/24,fd00:1::/64") && front.contains("web"), "{table}");
    assert!(fixture.good(&["get", "iip", "p1-v4"]).contains("10.1.1."));
    assert_eq!(
        fixture.good(&["get", "vmi", "-o", "name"]),
        "virtual-machine-interface/default-domain:shop:p1\n"
    );
    let shown = fixture.good(&["show", "network", "front"]);
    for line in ["network-policy default-domain:shop:web", "instance-ip p1-v4"] {
        assert!(shown.contains(line), "{shown}");
    }

    fixture.good(&["attach", "network", "back", "policy", "web"]);
    assert_eq!(fixture.object("vn", "back")["network_policy_refs"][0]["to"][2], Value::from("web"));
    let error = fixture.bad(&["delete", "policy", "web"], 1);
    assert!(error.contains("delete network-policy default-domain:shop:web"), "{error}");
    fixture.good(&["detach", "network", "back", "policy", "web"]);
    assert!(fixture.object("vn", "back").get("network_policy_refs").is_none());

    fixture.good(&["delete", "iip", "p1-v4"]);
    fixture.good(&["delete", "vmi", "p1"]);
    assert_eq!(
        fixture.good(&["delete", "network", "front", "back"]),
        "virtual-network default-domain:shop:front deleted\n\
         virtual-network default-domain:shop:back deleted\n"
    );
    assert_eq!(fixture.good(&["get", "vn"]), "no virtual-network here\n");
    fixture.good(&["delete", "vn", "front", "--ignore-missing"]);
}

const SHOP: &str = "
kind: network
name: front
subnets: [10.1.1.0/24]
policies: [web]
virtual_network_properties: {forwarding_mode: l3}
---
kind: policy
name: web
rules:
  - pass tcp from front to back port 80
  - pass icmp between front and back
---
kind: network
name: back
subnets: [10.1.2.0/24, \"fd00:2::/64\"]
---
kind: security-group
name: ssh
rules: [ingress tcp from 192.0.2.0/24 port 22, egress]
---
kind: project
name: shop
";

#[test]
fn apply_makes_then_changes_nothing_then_only_what_changed() {
    let fixture = Fixture::start();
    let first = fixture.good_with(&["apply", "-f", "-"], SHOP);
    assert_eq!(
        first,
        "project default-domain:shop created\n\
         network-policy default-domain:shop:web created\n\
         virtual-network default-domain:shop:front created\n\
         virtual-network default-domain:shop:back created\n\
         security-group default-domain:shop:ssh created\n"
    );
    let second = fixture.good_with(&["apply", "-f", "-"], SHOP);
    assert_eq!(second, first.replace("created", "unchanged"));

    let before = fixture.object("vn", "front");
    let more = SHOP.replace("subnets: [10.1.1.0/24]", "subnets: [10.1.1.0/24, 10.1.3.0/24]");
    let dry = fixture.good_with(&["apply", "--dry-run", "-f", "-"], &more);
    assert!(dry.contains("front configured (dry run)"), "{dry}");
    assert_eq!(fixture.object("vn", "front"), before);
    let third = fixture.good_with(&["apply", "-f", "-"], &more);
    assert_eq!(third.matches("configured").count(), 1, "{third}");
    let after = fixture.object("vn", "front");
    let subnets = |object: &Value| object["network_ipam_refs"][0]["attr"]["ipam_subnets"].clone();
    assert_eq!(
        subnets(&after)[0],
        subnets(&before)[0],
        "the first subnet keeps its id and gateway"
    );
    assert_eq!(subnets(&after).as_array().unwrap().len(), 2);

    assert!(
        fixture.good_with(&["delete", "-f", "-"], &more).contains("project default-domain:shop")
    );
}

#[test]
fn what_get_prints_apply_takes_back() {
    let fixture = Fixture::start();
    fixture.good_with(&["apply", "-f", "-"], SHOP);
    for kind in ["project", "policy", "network", "sg"] {
        for format in ["yaml", "json"] {
            let text = fixture.good(&["get", kind, "-o", format]);
            let applied = fixture.good_with(&["apply", "-f", "-"], &text);
            assert!(applied.lines().count() > 0, "{text}");
            assert!(applied.lines().all(|line| line.ends_with(" unchanged")), "{applied}\n{text}");
        }
    }
    // And into an empty system: the same ids and fields.
    let other = Fixture::start();
    let documents = [
        fixture.good(&["get", "project", "shop", "-o", "yaml"]),
        fixture.good(&["get", "policies", "-o", "yaml"]),
        fixture.good(&["get", "networks", "-o", "yaml"]),
    ];
    let all = documents.join("---\n");
    other.good_with(&["apply", "-f", "-"], &all);
    assert_eq!(other.object("vn", "front")["uuid"], fixture.object("vn", "front")["uuid"]);
}

#[test]
fn refusals_say_what_failed_and_what_to_do() {
    let fixture = Fixture::start();
    fixture.good(&["create", "project", "shop"]);
    fixture.good(&["create", "network", "front", "--subnet", "10.1.1.0/24"]);
    for (line, code, words) in [
        (&["get", "vn", "frnot"][..], 1, "did you mean front?"),
        (&["create", "network", "front"], 1, "skein apply"),
        (&["create", "network", "x", "--policy", "none"], 1, "create virtual-network"),
        (
            &["create", "vmi", "p", "--project", "none", "--ref", "vn=default-domain:shop:front"],
            1,
            "HTTP 4",
        ),
        (&["delete", "vn", "none"], 1, "there is no virtual-network none"),
        (&["attach", "vn", "front", "vm", "x"], 3, "does not refer to"),
    ] {
        let error = fixture.bad(line, code);
        assert!(error.contains(words), "{line:?}: {error}");
        assert!(error.contains("next: "), "{line:?}: {error}");
    }
}

#[test]
fn status_tells_a_ready_api_from_a_silent_controller() {
    let fixture = Fixture::start();
    let output = fixture.run(&["status", "--controller", "127.0.0.1:1", "-o", "json"], "");
    assert_eq!(output.status.code(), Some(2));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["api"]["state"], "good");
    assert_eq!(value["controller"]["state"], "unreachable");
}
