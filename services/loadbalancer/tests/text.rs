//! The text of configurations, by example, and that HAProxy takes each of them. Needs the program `haproxy`.
//!
//! `SKEIN_WRITE_GOLDEN=1` writes the examples anew; look at the difference before committing it.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use serde_json::json;
use skein_loadbalancer::render::{Place, render};
use skein_model::Kind;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use world::{VIP, World};

/// Stands for the folder of certificates in the examples.
const FOLDER: &str = "/CERTIFICATES";

fn place() -> Place {
    let names = ["shop__default", "shop__one", "shop__two"];
    Place {
        log: Some("/dev/log".into()),
        connections: 20_000,
        threads: 2,
        user: Some(("haproxy".into(), "haproxy".into())),
        certificates: names
            .iter()
            .map(|name| ((*name).to_owned(), Path::new(FOLDER).join(format!("{name}.pem"))))
            .collect(),
    }
}

/// Certificates with these names and for these hosts.
fn certificates(folder: &Path) {
    let names = ["default", "one", "two"];
    for name in names {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![format!("{name}.example.com")]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let text = certificate.pem() + &key.serialize_pem();
        std::fs::write(folder.join(format!("shop__{name}.pem")), text).unwrap();
    }
}

fn judge(text: &str, what: &str) {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let text = text.replace(FOLDER, folder.path().to_str().unwrap());
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, &text).unwrap();
    // What the service adds: without it one with no port would have nothing to listen at.
    let control = folder.path().join("control.cfg");
    let socket = folder.path().join("a.sock");
    std::fs::write(&control, format!("global\n    stats socket {}\n", socket.display())).unwrap();
    let ran =
        Command::new("haproxy").args(["-c", "-f"]).arg(&file).arg("-f").arg(&control).output();
    let ran = ran.unwrap_or_else(|error| panic!("haproxy: {error}; install the package haproxy"));
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{what}: {said}\n{text}");
    assert!(!said.contains("WARNING"), "{what}: {said}\n{text}");
}

fn check(name: &str, world: &World) {
    let balancer = world.read();
    assert_eq!(balancer.problems, Vec::<String>::new(), "{name}");
    let text = render(&balancer, &place());
    judge(&text, name);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.cfg"));
    if std::env::var_os("SKEIN_WRITE_GOLDEN").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(text == wanted, "{name} differs from {}:\n{text}", golden.display());
}

#[test]
fn one_service_is_the_default_of_everything() {
    let mut world = World::new(VIP);
    world.otherwise(("10.96.0.1", 80));
    check("single", &world);
}

#[test]
fn a_fanout_with_hosts_and_paths() {
    let mut world = World::new(VIP);
    world.route("shop.example.com", "Prefix", "/", ("10.96.0.1", 80));
    world.route("shop.example.com", "Prefix", "/cart", ("10.96.0.2", 80));
    world.route("shop.example.com", "Exact", "/cart", ("10.96.0.3", 80));
    world.route("*.example.com", "Prefix", "/", ("10.96.0.4", 80));
    world.route("", "ImplementationSpecific", "/it's/\"odd\"$HOME#x", ("10.96.0.5", 80));
    check("fanout", &world);
}

#[test]
fn tls_shows_the_same_as_plain_http() {
    let mut world = World::new("fd00:1::64");
    world.route("one.example.com", "Prefix", "/", ("fd00:96::1", 80));
    world.otherwise(("fd00:96::2", 8080));
    world.listener(
        "tls",
        json!({
            "protocol": "TERMINATED_HTTPS", "protocol_port": 443,
            "sni_containers": ["shop__one", "shop__missing", "shop__two"],
            "default_tls_container": "shop__default",
        }),
        &[],
    );
    check("tls", &world);
}

#[test]
fn what_lbaas_asks_for() {
    let mut world = World::new(VIP);
    let mut listener = |name: &str, protocol: &str, port: u16, limit: Option<u32>| {
        let limit = limit.map_or(json!(null), |limit| json!(limit));
        world.listener(
            name,
            json!({"protocol": protocol, "protocol_port": port, "connection_limit": limit}),
            &[],
        );
    };
    listener("http", "HTTP", 80, Some(500));
    listener("app", "HTTP", 81, None);
    listener("pass", "HTTPS", 443, None);
    listener("bytes", "TCP", 5432, None);
    let monitor = |kind: &str| {
        json!({"loadbalancer_healthmonitor_properties": {
            "monitor_type": kind, "delay": 3, "timeout": 2, "max_retries": 4,
            "http_method": "HEAD", "url_path": "/health", "expected_codes": "200-204, 301",
        }})
    };
    for kind in ["HTTP", "HTTPS", "TCP"] {
        world.put(Kind::LOADBALANCER_HEALTHMONITOR, kind, monitor(kind));
    }
    world.pool(
        "http",
        json!({"protocol": "HTTP", "loadbalancer_method": "LEAST_CONNECTIONS",
               "session_persistence": "HTTP_COOKIE"}),
        Some("HTTP"),
    );
    world.pool(
        "app",
        json!({"protocol": "HTTP", "loadbalancer_method": "ROUND_ROBIN",
               "session_persistence": "APP_COOKIE", "persistence_cookie_name": "JSESSIONID"}),
        None,
    );
    world.pool(
        "pass",
        json!({"protocol": "HTTPS", "session_persistence": "SOURCE_IP"}),
        Some("HTTPS"),
    );
    world.pool(
        "bytes",
        json!({"protocol": "TCP", "loadbalancer_method": "SOURCE_IP"}),
        Some("TCP"),
    );
    for pool in ["http", "app", "pass", "bytes"] {
        world.member(pool, &format!("{pool}-1"), "10.1.0.11", 8080, json!({"weight": 3}));
        world.member(pool, &format!("{pool}-2"), "10.1.0.12", 8080, json!({}));
        world.member(pool, &format!("{pool}-3"), "10.1.0.13", 8080, json!({"admin_state": false}));
    }
    check("lbaas", &world);
}

#[test]
fn without_certificates_the_port_stays_closed_and_the_rest_works() {
    let mut world = World::new(VIP);
    world.otherwise(("10.96.0.1", 80));
    let tls = json!({"protocol": "TERMINATED_HTTPS", "protocol_port": 443,
                     "sni_containers": ["shop__one"]});
    world.listener("tls", tls, &[]);
    let place = Place { certificates: BTreeMap::new(), ..place() };
    let text = render(&world.read(), &place);
    judge(&text, "no certificates");
    assert!(text.contains("bind 10.1.0.100:80\n"), "{text}");
    assert!(!text.contains(":443"), "{text}");
}

#[test]
fn switched_off_or_empty_is_no_frontend() {
    let world = World::new(VIP);
    judge(&render(&world.read(), &place()), "nothing");
    let mut world = World::new(VIP);
    world.otherwise(("10.96.0.1", 80));
    let off = json!({"loadbalancer_provider": "opencontrail",
        "loadbalancer_properties": {"vip_address": VIP, "admin_state": false},
        "virtual_machine_interface_refs":
            [{"uuid": world::id(Kind::VIRTUAL_MACHINE_INTERFACE, "vip")}]});
    world.put(Kind::LOADBALANCER, "web", off);
    assert!(world.read().frontends.is_empty());
}

#[test]
fn what_makes_no_sense_is_left_out_and_said() {
    let mut world = World::new(VIP);
    world.route("good.example.com", "Prefix", "/", ("10.96.0.1", 80));
    world.route("bad host", "Prefix", "/", ("10.96.0.1", 80));
    world.route("a.example.com", "Prefix", "/x\n    use_backend evil", ("10.96.0.1", 80));
    world.listener("udp", json!({"protocol": "UDP", "protocol_port": 53}), &[]);
    world.listener("both", json!({"protocol": "TCP", "protocol_port": 80}), &[]);
    let balancer = world.read();
    assert_eq!(balancer.problems.len(), 4, "{:?}", balancer.problems);
    let text = render(&balancer, &place());
    judge(&text, "nonsense");
    assert!(!text.contains("evil"), "{text}");
}
