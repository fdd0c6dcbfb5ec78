//! `skein why` and `skein rules` against a real controller on a real configuration API.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use serde_json::{Value, json};
use skein_api::{Config, Server};
use skein_client::Client;
use skein_controller::{Controller, ControllerConfig, Silence};
use skein_model::Kind;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;
use tokio::runtime::Runtime;

struct Fixture {
    runtime: Runtime,
    server: Option<Server>,
    controller: Option<Controller>,
    client: Client,
    api: String,
    status: String,
    _data: tempfile::TempDir,
}

impl Fixture {
    fn start() -> Fixture {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.enable_all().worker_threads(2).build().unwrap();
        let data = tempfile::tempdir().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config::new(any, data.path().join("config.redb"));
        let server = runtime.block_on(Server::start(config)).unwrap();
        let api = format!("http://{}", server.local_addr());
        let controller = ControllerConfig {
            listen: any,
            status: any,
            api: api.clone(),
            data: data.path().to_owned(),
            host: "here".into(),
            silence: Silence::default(),
        };
        let controller = runtime.block_on(Controller::start(controller)).unwrap();
        let status = format!("http://{}", controller.status_address);
        let client = runtime.block_on(async { Client::new(&api) }).unwrap();
        Fixture {
            runtime,
            server: Some(server),
            controller: Some(controller),
            client,
            api,
            status,
            _data: data,
        }
    }

    fn create(&self, kind: Kind, fields: Value) {
        self.runtime.block_on(self.client.create(kind, fields)).unwrap();
    }

    fn skein(&self, line: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_skein"))
            .args(line.split(' '))
            .env("SKEIN_API", &self.api)
            .env("SKEIN_CONTROLLER", &self.status)
            .output()
            .unwrap()
    }

    /// A network with a port in it.
    fn network(&self, name: &str, prefix: &str, policy: Option<&str>) {
        let full = |name: &str| json!(["default-domain", "default-project", name]);
        let policies: Vec<Value> = policy
            .iter()
            .map(|policy| json!({"to": full(policy), "attr": {"sequence": {"major": 0, "minor": 0}}}))
            .collect();
        self.create(
            Kind::VIRTUAL_NETWORK,
            json!({
                "fq_name": full(name), "parent_type": "project",
                "network_policy_refs": policies,
                "network_ipam_refs": [{
                    "to": full("default-network-ipam"),
                    "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": prefix, "ip_prefix_len": 24}}]},
                }],
            }),
        );
        let port = format!("{name}-1");
        self.create(
            Kind::VIRTUAL_MACHINE_INTERFACE,
            json!({
                "fq_name": full(&port), "parent_type": "project",
                "virtual_network_refs": [{"to": full(name)}],
            }),
        );
        self.create(
            Kind::INSTANCE_IP,
            json!({
                "fq_name": [format!("{port}-ip")],
                "virtual_network_refs": [{"to": full(name)}],
                "virtual_machine_interface_refs": [{"to": full(&port)}],
            }),
        );
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let (server, controller) = (self.server.take(), self.controller.take());
        self.runtime.block_on(async {
            if let Some(controller) = controller {
                controller.stop().await;
            }
            if let Some(server) = server {
                server.shutdown().await;
            }
        });
    }
}

#[test]
fn the_controller_tells_who_decides_a_connection() {
    let fixture = Fixture::start();
    let any = |port: i64| json!([{"start_port": port, "end_port": port}]);
    let end =
        |name: &str| json!([{"virtual_network": format!("default-domain:default-project:{name}")}]);
    fixture.create(
        Kind::NETWORK_POLICY,
        json!({
            "fq_name": ["default-domain", "default-project", "web"], "parent_type": "project",
            "network_policy_entries": {"policy_rule": [{
                "direction": ">", "protocol": "tcp", "rule_sequence": {"major": -1, "minor": -1},
                "src_addresses": end("front"), "dst_addresses": end("back"),
                "src_ports": [{"start_port": -1, "end_port": -1}], "dst_ports": any(80),
                "action_list": {"simple_action": "pass"},
            }]},
        }),
    );
    fixture.network("front", "10.1.1.0", Some("web"));
    fixture.network("back", "10.1.2.0", Some("web"));
    fixture.network("alone", "10.1.3.0", None);

    let why = |to: &str| -> Value {
        let name = |port: &str| format!("default-domain:default-project:{port}");
        let line = format!("why {} {} -o json", name("front-1"), name(to));
        let mut said = String::new();
        // The controller follows the API; it may be a moment behind.
        for _ in 0..100 {
            let output = fixture.skein(&line);
            said = String::from_utf8_lossy(&output.stderr).into_owned();
            if let Ok(value) = serde_json::from_slice(&output.stdout) {
                // No node has announced anything here, so nothing can pass.
                assert_eq!(output.status.code(), Some(1), "{said}");
                return value;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(said.is_empty(), "{said}");
        Value::Null
    };
    let joined = why("back-1:80");
    let way = &joined["ways"][0];
    assert_eq!(way["egress"]["pass"], true, "{joined:#}");
    assert_eq!(way["ingress"]["pass"], true, "{joined:#}");
    assert_eq!(way["ingress"]["policy"], "default-domain:default-project:web", "{joined:#}");
    assert!(way["route"]["text"].as_str().unwrap().contains("no node has announced it"), "{way:#}");

    let other = why("back-1:81");
    assert_eq!(other["ways"][0]["egress"]["pass"], false, "{other:#}");
    let udp = why("back-1:80/udp");
    assert_eq!(udp["ways"][0]["egress"]["pass"], false, "{udp:#}");

    let apart = why("alone-1:80");
    let text = apart["summary"].as_str().unwrap();
    assert!(text.contains("are not joined"), "{text}");

    let output = fixture.skein("rules default-domain:default-project:back-1");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    let rule = "policy default-domain:default-project:web  pass  tcp 80 from network \
                default-domain:default-project:front";
    assert!(text.split_once("Egress").unwrap().0.contains(rule), "{text}");

    let output = fixture.skein("why nobody back-1:80");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("no port or machine nobody"), "{error}");
}
