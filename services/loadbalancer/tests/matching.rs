//! Where a real HAProxy sends requests, against the table and against the rule. Needs the program `haproxy`.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use proptest::prelude::*;
use serde_json::json;
use skein_loadbalancer::render::{Place, render};
use skein_loadbalancer::{Balancer, routes};
use skein_model::Kind;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::{Duration, Instant};
use world::{World, id};

/// A server that answers every request with its name and how it was asked.
fn server(name: &str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let name = name.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut asked = Vec::new();
            let mut buffer = [0; 4096];
            while !asked.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(length @ 1..) => asked.extend_from_slice(&buffer[..length]),
                    _ => break,
                }
            }
            let asked = String::from_utf8_lossy(&asked).to_ascii_lowercase();
            let from = asked.lines().find_map(|line| line.strip_prefix("x-forwarded-for: "));
            let body = format!("{name}|{}", from.unwrap_or_default());
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    port
}

/// HAProxy in the foreground with the configuration of a load balancer on a loopback port.
struct Proxy {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Proxy {
    fn start(balancer: &Balancer) -> Proxy {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let place = Place {
            log: None,
            connections: 200,
            threads: 1,
            user: None,
            certificates: BTreeMap::new(),
        };
        let text = render(balancer, &place).replace(":80\n", &format!(":{port}\n"));
        let file = folder.path().join("haproxy.cfg");
        std::fs::write(&file, text).unwrap();
        let mut child = Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(&file)
            .spawn()
            .unwrap_or_else(|error| panic!("haproxy: {error}; install the package haproxy"));
        let until = Instant::now() + Duration::from_secs(5);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "no start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Proxy { child, port, _folder: folder }
    }

    /// Status and body.
    fn ask(&self, host: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let status = said.split(' ').nth(1).unwrap().parse().unwrap();
        let body = said.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A load balancer with these routes on the loopback, each with a server of its own; servers by pool.
fn balancer(
    routes: &[(&str, &str, &str)],
    default: bool,
) -> (Balancer, BTreeMap<uuid::Uuid, String>) {
    let mut world = World::new("127.0.0.1");
    let mut servers = BTreeMap::new();
    for (host, kind, path) in routes {
        let name = format!("{host} {kind} {path}");
        world.route(host, kind, path, ("127.0.0.1", server(&name)));
        servers.insert(id(Kind::LOADBALANCER_POOL, &name), name);
    }
    if default {
        world.otherwise(("127.0.0.1", server("default")));
    }
    (world.read(), servers)
}

#[test]
fn requests_go_where_the_table_says() {
    let table = [
        ("a.example.com", "Prefix", "/"),
        ("a.example.com", "Prefix", "/foo"),
        ("a.example.com", "Exact", "/foo"),
        ("a.example.com", "Prefix", "/foo/bar/"),
        ("a.example.com", "Exact", "/exact/"),
        ("*.example.com", "Prefix", "/wild"),
        ("*.deep.example.com", "Prefix", "/wild"),
        ("b.example.com", "ImplementationSpecific", ""),
        ("b.example.com", "ImplementationSpecific", "/impl"),
        ("", "Prefix", "/any"),
        ("", "Exact", "/q'uote\"$HOME"),
    ];
    let (balancer, _) = balancer(&table, true);
    let proxy = Proxy::start(&balancer);
    for (host, path, wanted) in [
        ("a.example.com", "/", "a.example.com Prefix /"),
        ("A.Example.COM", "/", "a.example.com Prefix /"),
        ("a.example.com:8080", "/other", "a.example.com Prefix /"),
        ("a.example.com.", "/other", "a.example.com Prefix /"),
        ("a.example.com", "/foo", "a.example.com Exact /foo"),
        ("a.example.com", "/foo?x=/foo/bar", "a.example.com Exact /foo"),
        ("a.example.com", "/foo/", "a.example.com Prefix /foo"),
        ("a.example.com", "/foo/x", "a.example.com Prefix /foo"),
        ("a.example.com", "/foobar", "a.example.com Prefix /"),
        ("a.example.com", "/Foo", "a.example.com Prefix /"),
        ("a.example.com", "/foo/bar", "a.example.com Prefix /foo/bar/"),
        ("a.example.com", "/foo/bar/x", "a.example.com Prefix /foo/bar/"),
        ("a.example.com", "/foo/barx", "a.example.com Prefix /foo"),
        ("a.example.com", "/exact/", "a.example.com Exact /exact/"),
        ("a.example.com", "/exact", "a.example.com Prefix /"),
        ("x.example.com", "/wild/y", "*.example.com Prefix /wild"),
        ("example.com", "/wild", "default"),
        ("x.y.example.com", "/wild", "default"),
        ("x.deep.example.com", "/wild", "*.deep.example.com Prefix /wild"),
        ("x.example.com", "/", "default"),
        ("b.example.com", "/what/ever", "b.example.com ImplementationSpecific "),
        ("b.example.com", "/impl/x", "b.example.com ImplementationSpecific /impl"),
        ("nobody.org", "/any/thing", " Prefix /any"),
        ("x.example.com", "/any", " Prefix /any"),
        ("nobody.org", "/q'uote\"$HOME", " Exact /q'uote\"$HOME"),
        ("nobody.org", "/", "default"),
        ("", "/any", " Prefix /any"),
    ] {
        let (status, body) = proxy.ask(host, path);
        assert_eq!((status, body), (200, format!("{wanted}|127.0.0.1")), "{host} {path}");
    }
}

#[test]
fn what_fits_nothing_is_not_found_and_a_pool_without_members_is_unavailable() {
    let (balancer, _) = balancer(&[("a.example.com", "Prefix", "/")], false);
    let proxy = Proxy::start(&balancer);
    assert_eq!(proxy.ask("a.example.com", "/").0, 200);
    assert_eq!(proxy.ask("b.example.com", "/").0, 404);
    let mut world = World::new("127.0.0.1");
    world.listener("default", json!({"protocol": "HTTP", "protocol_port": 80}), &[]);
    world.pool("default", json!({"protocol": "HTTP"}), None);
    assert_eq!(Proxy::start(&world.read()).ask("a", "/").0, 503);
}

fn route() -> impl Strategy<Value = (&'static str, &'static str, &'static str)> {
    const HOSTS: &[&str] = &["", "a.test", "b.a.test", "*.a.test", "*.b.a.test", "*.test"];
    const PATHS: &[&str] = &["/", "/a", "/a/", "/a/b", "/a/b/", "/ab", "/a/b/c"];
    const KINDS: &[&str] = &["Exact", "Prefix", "ImplementationSpecific"];
    (
        proptest::sample::select(HOSTS),
        proptest::sample::select(KINDS),
        proptest::sample::select(PATHS),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn haproxy_and_the_rule_agree(list in proptest::collection::vec(route(), 1..12)) {
        let (balancer, servers) = balancer(&list, false);
        let proxy = Proxy::start(&balancer);
        let table = &balancer.frontends[0].routes;
        for host in ["a.test", "b.a.test", "c.b.a.test", "x.test", "test", "other"] {
            for path in ["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/a/bc", "/ab", "/abc", "/z"] {
                let wanted = routes::choose(table, host, path).map(|pool| servers[&pool].clone());
                let (status, body) = proxy.ask(host, path);
                let got = (status == 200).then(|| body.split('|').next().unwrap().to_owned());
                prop_assert_eq!(got, wanted, "{} {} of {:?}", host, path, list);
            }
        }
    }
}
