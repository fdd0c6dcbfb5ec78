//! The text of an HAProxy configuration (version 2.6, Debian's). The same load balancer gives the same text.
//!
//! Whatever comes from outside stands in quotes and was looked at by [`read`](crate::read) before.

use crate::model::{Backend, Balancer, Frontend, FrontendKind, Method, Monitor, Persistence};
use crate::quote::{comment, quoted};
use crate::routes::{Host, PathMatch, Route};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use uuid::Uuid;

/// What a node adds to a load balancer's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where HAProxy logs: an address or a socket; `None`: nowhere.
    pub log: Option<String>,
    /// Most connections of the whole process.
    pub connections: u32,
    /// Threads of the process.
    pub threads: u32,
    /// User and group of the process that serves.
    pub user: Option<(String, String)>,
    /// Files of the certificates that are there, by name: certificates and key in one.
    pub certificates: BTreeMap<String, PathBuf>,
}

/// Where requests go that fit no route.
const NO_ROUTE: &str = "no_route";

/// Writes the configuration.
#[must_use]
pub fn render(balancer: &Balancer, place: &Place) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "# Load balancer {} ({}). Written by skeind loadbalancer: changes are overwritten.",
        comment(&balancer.name),
        balancer.uuid
    );
    global(place, &mut out);
    let mut unrouted = false;
    for frontend in &balancer.frontends {
        let crts = match &frontend.kind {
            FrontendKind::Https { default, by_name } => {
                let names = default.iter().chain(by_name);
                let files: Vec<&Path> = names
                    .filter_map(|name| Some(place.certificates.get(name)?.as_path()))
                    .collect();
                // Without any certificate TLS cannot begin; the port stays closed.
                if files.is_empty() {
                    continue;
                }
                files
            }
            FrontendKind::Http | FrontendKind::Tcp => Vec::new(),
        };
        unrouted |= self::frontend(balancer, frontend, &crts, &mut out);
    }
    for (uuid, backend) in &balancer.backends {
        self::backend(*uuid, backend, &mut out);
    }
    if unrouted {
        let _ = write!(
            out,
            "\nbackend {NO_ROUTE}\n    mode http\n    \
             http-request return status 404 content-type text/plain string \"no route for this host and path\\n\"\n"
        );
    }
    out
}

fn global(place: &Place, out: &mut String) {
    let _ = writeln!(out, "global");
    if let Some(log) = &place.log {
        let _ = writeln!(out, "    log {log} len 4096 format rfc3164 local0");
    }
    if let Some((user, group)) = &place.user {
        let _ = writeln!(out, "    user {user}\n    group {group}");
    }
    let _ = writeln!(out, "    maxconn {}\n    nbthread {}", place.connections, place.threads);
    out.push_str(
        "    hard-stop-after 15m
    tune.ssl.default-dh-param 2048
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets

defaults
    log global
    option dontlognull
    option redispatch
    retries 3
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout tunnel 1h
    timeout http-request 10s
    timeout http-keep-alive 60s
    timeout queue 30s
",
    );
}

/// `10.1.1.5:80` or `[fd00::5]:80`.
fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Writes a frontend; says whether some requests fit no route.
fn frontend(balancer: &Balancer, frontend: &Frontend, crts: &[&Path], out: &mut String) -> bool {
    let port = frontend.port;
    let mode = if frontend.kind == FrontendKind::Tcp { "tcp" } else { "http" };
    let _ = write!(out, "\nfrontend port_{port}\n    mode {mode}\n    option {mode}log\n");
    let _ = write!(out, "    bind {}", socket(balancer.address, port));
    if !crts.is_empty() {
        out.push_str(" ssl alpn h2,http/1.1");
        for file in crts {
            let _ = write!(out, " crt {}", file.display());
        }
    }
    out.push('\n');
    if let Some(limit) = frontend.connection_limit {
        let _ = writeln!(out, "    maxconn {limit}");
    }
    if mode == "tcp" {
        if let Some(pool) = known(balancer, frontend.default) {
            let _ = writeln!(out, "    default_backend pool_{pool}");
        }
        return false;
    }
    let scheme = if crts.is_empty() { "http" } else { "https" };
    let _ = write!(
        out,
        "    option idle-close-on-response\n    option forwardfor\n    \
         http-request set-header X-Forwarded-Proto {scheme}\n    \
         http-request set-header X-Forwarded-Port {port}\n"
    );
    routes(balancer, &frontend.routes, out);
    let default = known(balancer, frontend.default);
    let name = default.map_or_else(|| NO_ROUTE.to_owned(), |pool| format!("pool_{pool}"));
    let _ = writeln!(out, "    default_backend {name}");
    default.is_none()
}

fn known(balancer: &Balancer, pool: Option<Uuid>) -> Option<Uuid> {
    pool.filter(|pool| balancer.backends.contains_key(pool))
}

/// One condition a host and one a path, each written once; then the routes in their order.
fn routes(balancer: &Balancer, routes: &[Route], out: &mut String) {
    let mut hosts: BTreeMap<&Host, usize> = BTreeMap::new();
    let mut paths: BTreeMap<&PathMatch, usize> = BTreeMap::new();
    for route in routes {
        if route.host != Host::Any {
            let next = hosts.len();
            hosts.entry(&route.host).or_insert(next);
        }
        if route.path != PathMatch::Prefix(String::new()) {
            let next = paths.len();
            paths.entry(&route.path).or_insert(next);
        }
    }
    if !hosts.is_empty() {
        out.push_str(
            "    http-request set-var(txn.host) req.hdr(host),host_only,lower,rtrim(.)\n    \
             http-request set-var(txn.parent) var(txn.host),field(2,.,0)\n",
        );
    }
    for (host, number) in &hosts {
        let (variable, name) = match host {
            Host::Exact(name) => ("host", name),
            Host::Under(name) => ("parent", name),
            Host::Any => continue,
        };
        let _ = writeln!(out, "    acl h{number} var(txn.{variable}) -m str -- {}", quoted(name));
    }
    for (path, number) in &paths {
        match path {
            PathMatch::Exact(path) => {
                let _ = writeln!(out, "    acl p{number} path -m str -- {}", quoted(path));
            }
            // Two conditions of one name: either will do.
            PathMatch::Prefix(path) => {
                let below = quoted(&format!("{path}/"));
                let _ = writeln!(out, "    acl p{number} path -m str -- {}", quoted(path));
                let _ = writeln!(out, "    acl p{number} path -m beg -- {below}");
            }
        }
    }
    for route in routes {
        if !balancer.backends.contains_key(&route.pool) {
            continue;
        }
        let host = hosts.get(&route.host).map(|number| format!(" h{number}"));
        let path = paths.get(&route.path).map(|number| format!(" p{number}"));
        let conditions = host.unwrap_or_default() + &path.unwrap_or_default();
        let conditions = if conditions.is_empty() { " TRUE" } else { &conditions };
        let _ = writeln!(out, "    use_backend pool_{} if{conditions}", route.pool);
    }
}

fn backend(uuid: Uuid, backend: &Backend, out: &mut String) {
    let mode = if backend.http { "http" } else { "tcp" };
    let balance = match backend.method {
        Method::RoundRobin => "roundrobin",
        Method::LeastConnections => "leastconn",
        Method::Source => "source",
    };
    let _ = write!(out, "\nbackend pool_{uuid}\n    mode {mode}\n    balance {balance}\n");
    if backend.http {
        // A member may be the address of a service: each request is chosen for anew there.
        out.push_str("    option http-server-close\n");
    }
    match &backend.persistence {
        Some(Persistence::Source) => {
            out.push_str("    stick-table type ipv6 size 100k expire 30m\n    stick on src\n");
        }
        Some(Persistence::Cookie) => {
            out.push_str("    cookie SKEIN insert indirect nocache httponly\n");
        }
        Some(Persistence::ApplicationCookie(name)) => {
            let _ = write!(
                out,
                "    stick-table type string len 64 size 100k expire 3h\n    \
                 stick store-response res.cook({name})\n    stick match req.cook({name})\n"
            );
        }
        None => {}
    }
    if let Some(monitor) = &backend.monitor {
        self::monitor(monitor, out);
    }
    for member in &backend.members {
        let at = socket(member.address, member.port);
        let _ = write!(out, "    server {} {at} weight {}", member.uuid, member.weight);
        if backend.persistence == Some(Persistence::Cookie) {
            let _ = write!(out, " cookie {}", &member.uuid.simple().to_string()[..12]);
        }
        if let Some(monitor) = &backend.monitor {
            let _ =
                write!(out, " check inter {}ms rise 1 fall {}", monitor.interval, monitor.retries);
            if monitor.tls {
                out.push_str(" check-ssl verify none");
            }
        }
        out.push('\n');
    }
}

fn monitor(monitor: &Monitor, out: &mut String) {
    let _ = writeln!(out, "    timeout check {}ms", monitor.timeout);
    if let Some(probe) = &monitor.http {
        let _ = write!(
            out,
            "    option httpchk\n    http-check send meth {} uri {} ver HTTP/1.1 hdr Host localhost\n    \
             http-check expect status {}\n",
            probe.method,
            quoted(&probe.path),
            probe.codes
        );
    }
}
