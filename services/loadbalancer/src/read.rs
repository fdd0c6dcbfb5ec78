//! From configuration objects to a [`Balancer`].
//!
//! A listener says port and protocol, a pool refers to its listener and has members. HTTP listeners of one port are one
//! frontend: their annotations `type` (`acl` or `default`), `host`, `path` and `pathType` say which requests go to their
//! pools; without annotations everything goes there. A TERMINATED_HTTPS listener without a pool shows what the HTTP
//! listeners show, over TLS.

use crate::model::{
    Backend, Balancer, Frontend, FrontendKind, HttpProbe, Member, Method, Monitor, Persistence, Vip,
};
use crate::quote::is_plain;
use crate::routes::{self, Host, PathMatch, Route};
use skein_model::values::{
    KeyValuePairs, LoadbalancerHealthmonitorType, LoadbalancerListenerType, LoadbalancerMemberType,
    LoadbalancerPoolType, LoadbalancerType,
};
use skein_model::{Graph, Kind, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Types of objects that matter here.
pub const FOLLOWED: [Kind; 12] = [
    Kind::LOADBALANCER,
    Kind::LOADBALANCER_LISTENER,
    Kind::LOADBALANCER_POOL,
    Kind::LOADBALANCER_MEMBER,
    Kind::LOADBALANCER_HEALTHMONITOR,
    Kind::VIRTUAL_MACHINE_INTERFACE,
    Kind::VIRTUAL_NETWORK,
    Kind::INSTANCE_IP,
    Kind::FLOATING_IP,
    Kind::VIRTUAL_ROUTER,
    Kind::SERVICE_APPLIANCE_SET,
    Kind::SERVICE_APPLIANCE,
];

/// Load balancers of these providers.
pub fn served<'a>(
    graph: &'a Graph,
    providers: &'a [String],
) -> impl Iterator<Item = &'a Arc<Object>> {
    graph.of_kind(Kind::LOADBALANCER).filter(|object| {
        let provider: Option<String> = object.property("loadbalancer_provider");
        provider.is_some_and(|provider| providers.contains(&provider))
    })
}

/// The address of an instance-ip.
fn address_of(object: &Object) -> Option<IpAddr> {
    object.property::<String>("instance_ip_address")?.parse().ok()
}

/// Reads a load balancer; the error says what is still missing. One that is switched off has no frontends.
///
/// # Errors
/// It has no port, network or address yet.
pub fn balancer(graph: &Graph, object: &Object) -> Result<Balancer, String> {
    let properties: LoadbalancerType =
        object.property("loadbalancer_properties").unwrap_or_default();
    let interface = graph.targets(object, Kind::VIRTUAL_MACHINE_INTERFACE).next();
    let interface = interface.ok_or("it has no virtual-machine-interface yet")?;
    let network = graph.targets(interface, Kind::VIRTUAL_NETWORK).next();
    let network = network.ok_or("its virtual-machine-interface has no virtual-network yet")?;
    let addresses: Vec<(IpAddr, Uuid)> = graph
        .back_references_from(interface.uuid, Kind::INSTANCE_IP)
        .filter_map(|ip| Some((address_of(ip)?, ip.uuid)))
        .collect();
    let wanted = properties.vip_address.as_deref().and_then(|text| text.parse::<IpAddr>().ok());
    let found = addresses
        .iter()
        .find(|(address, _)| Some(*address) == wanted)
        .or_else(|| addresses.first().filter(|_| wanted.is_none()));
    let (address, instance_ip) = *found.ok_or("its address has no instance-ip yet")?;
    let references = |kind| interface.references_to(kind).map(|r| r.uuid).collect::<BTreeSet<_>>();
    let mut out = Balancer {
        uuid: object.uuid,
        name: object.fq_name.to_string(),
        address,
        network: network.fq_name.to_string(),
        vip: Vip {
            interface: interface.uuid,
            instance_ip,
            floating_ips: floating_ips(graph, interface.uuid, address),
            tags: references(Kind::TAG),
            security_groups: references(Kind::SECURITY_GROUP),
        },
        frontends: Vec::new(),
        backends: BTreeMap::new(),
        problems: Vec::new(),
    };
    if properties.admin_state != Some(false) && object.enabled() {
        frontends(graph, object, &mut out);
    }
    Ok(out)
}

/// Floating IPs of the port that stand for this address: it is named, or nothing is.
fn floating_ips(graph: &Graph, interface: Uuid, address: IpAddr) -> BTreeSet<Uuid> {
    let fits = |ip: &&Arc<Object>| {
        let fixed: Option<String> = ip.property("floating_ip_fixed_ip_address");
        fixed.is_none_or(|fixed| fixed.parse() == Ok(address))
    };
    let all = graph.back_references_from(interface, Kind::FLOATING_IP);
    all.filter(fits).map(|ip| ip.uuid).collect()
}

/// A listener that is on.
struct Listener {
    uuid: Uuid,
    port: u16,
    protocol: String,
    properties: LoadbalancerListenerType,
    annotations: BTreeMap<String, String>,
    pool: Option<Uuid>,
}

fn annotations(object: &Object) -> BTreeMap<String, String> {
    let pairs: KeyValuePairs = object.property("annotations").unwrap_or_default();
    let pairs = pairs.key_value_pair.into_iter();
    pairs.filter_map(|pair| Some((pair.key?, pair.value.unwrap_or_default()))).collect()
}

fn listeners(graph: &Graph, object: &Object, out: &mut Balancer) -> Vec<Listener> {
    let mut all: Vec<&Arc<Object>> =
        graph.back_references_from(object.uuid, Kind::LOADBALANCER_LISTENER).collect();
    all.sort_by_key(|listener| (listener.created_revision, listener.uuid));
    let mut list = Vec::new();
    for listener in all {
        let properties: LoadbalancerListenerType =
            listener.property("loadbalancer_listener_properties").unwrap_or_default();
        if properties.admin_state == Some(false) || !listener.enabled() {
            continue;
        }
        let port = properties.protocol_port.and_then(|port| u16::try_from(port).ok());
        let Some(port) = port.filter(|port| *port != 0) else {
            out.problems.push(format!("listener {}: it has no usable port", listener.name()));
            continue;
        };
        let protocol = properties.protocol.clone().unwrap_or_else(|| "TCP".into());
        if !matches!(protocol.as_str(), "HTTP" | "TERMINATED_HTTPS" | "HTTPS" | "TCP") {
            let what =
                format!("listener {}: protocol {protocol} cannot be served", listener.name());
            out.problems.push(what);
            continue;
        }
        let mut pools = graph.back_references_from(listener.uuid, Kind::LOADBALANCER_POOL);
        let pool = pools.find(|pool| is_on(pool)).map(|pool| pool.uuid);
        list.push(Listener {
            uuid: listener.uuid,
            port,
            protocol,
            properties,
            annotations: annotations(listener),
            pool,
        });
    }
    list
}

fn is_on(pool: &Object) -> bool {
    let properties: LoadbalancerPoolType =
        pool.property("loadbalancer_pool_properties").unwrap_or_default();
    properties.admin_state != Some(false) && pool.enabled()
}

fn frontends(graph: &Graph, object: &Object, out: &mut Balancer) {
    let listeners = listeners(graph, object, out);
    let mut by_port: BTreeMap<u16, Vec<&Listener>> = BTreeMap::new();
    for listener in &listeners {
        by_port.entry(listener.port).or_default().push(listener);
    }
    let plain: Vec<&Listener> = listeners.iter().filter(|l| l.protocol == "HTTP").collect();
    for (port, here) in by_port {
        let Some(first) = here.iter().min_by_key(|listener| rank(&listener.protocol)) else {
            continue;
        };
        let same = |listener: &&&Listener| listener.protocol == first.protocol;
        if let Some(other) = here.iter().find(|listener| !same(listener)) {
            out.problems.push(format!(
                "port {port}: {} and {} cannot both be served there; the first is",
                first.protocol, other.protocol
            ));
        }
        let here: Vec<&Listener> = here.iter().filter(same).copied().collect();
        let limit = here.iter().filter_map(|l| l.properties.connection_limit).min();
        let connection_limit = limit.and_then(|limit| u32::try_from(limit).ok());
        let (kind, sources) = match first.protocol.as_str() {
            "HTTP" => (FrontendKind::Http, here),
            "TERMINATED_HTTPS" => {
                // One without a pool of its own shows what is shown without TLS.
                let own = here.iter().any(|listener| listener.pool.is_some());
                (certificates(&here), if own { here } else { plain.clone() })
            }
            _ => (FrontendKind::Tcp, here),
        };
        let (routes, default) = table(&kind, &sources, out);
        for pool in routes.iter().map(|route| route.pool).chain(default) {
            if !out.backends.contains_key(&pool)
                && let Some(object) = graph.get(pool)
            {
                let backend = backend(graph, object, kind != FrontendKind::Tcp, out);
                out.backends.insert(pool, backend);
            }
        }
        out.frontends.push(Frontend { port, kind, connection_limit, routes, default });
    }
}

/// Of protocols that want one port, the first is served.
fn rank(protocol: &str) -> usize {
    ["HTTP", "TERMINATED_HTTPS", "HTTPS"].iter().position(|one| *one == protocol).unwrap_or(3)
}

fn certificates(listeners: &[&Listener]) -> FrontendKind {
    let mut default = None;
    let mut by_name: Vec<String> = Vec::new();
    let some = |name: &String| !name.is_empty();
    for listener in listeners {
        let wanted = listener.properties.default_tls_container.clone().filter(some);
        default = default.or(wanted);
        for name in listener.properties.sni_containers.iter().filter(|name| some(name)) {
            if !by_name.contains(name) {
                by_name.push(name.clone());
            }
        }
    }
    FrontendKind::Https { default, by_name }
}

/// Where requests go.
fn table(
    kind: &FrontendKind,
    listeners: &[&Listener],
    out: &mut Balancer,
) -> (Vec<Route>, Option<Uuid>) {
    let mut list = Vec::new();
    let mut default = None;
    for listener in listeners {
        let Some(pool) = listener.pool else { continue };
        let said = |name: &str| listener.annotations.get(name).map_or("", String::as_str);
        if *kind == FrontendKind::Tcp || said("type") != "acl" {
            default = default.or(Some(pool));
            continue;
        }
        let read = Host::parse(said("host"))
            .and_then(|host| Ok((host, PathMatch::parse(said("pathType"), said("path"))?)));
        match read {
            Ok((host, path)) => list.push(Route { host, path, pool }),
            Err(what) => out.problems.push(format!("listener {}: {what}", listener.uuid)),
        }
    }
    routes::sort(&mut list);
    (list, default)
}

fn backend(graph: &Graph, pool: &Arc<Object>, http: bool, out: &mut Balancer) -> Backend {
    let properties: LoadbalancerPoolType =
        pool.property("loadbalancer_pool_properties").unwrap_or_default();
    let method = match properties.loadbalancer_method.as_deref() {
        Some("LEAST_CONNECTIONS") => Method::LeastConnections,
        Some("SOURCE_IP") => Method::Source,
        _ => Method::RoundRobin,
    };
    let cookie = properties.persistence_cookie_name.filter(|name| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !name.is_empty() && name.len() <= 64 && name.bytes().all(allowed)
    });
    let persistence = match (properties.session_persistence.as_deref(), cookie) {
        (Some("SOURCE_IP"), _) => Some(Persistence::Source),
        (Some("HTTP_COOKIE"), _) if http => Some(Persistence::Cookie),
        (Some("APP_COOKIE"), Some(name)) if http => Some(Persistence::ApplicationCookie(name)),
        (None, _) => None,
        (Some(other), _) => {
            let what = format!("pool {}: session persistence {other} cannot be had", pool.name());
            out.problems.push(format!("{what}: it needs HTTP, and a cookie's name"));
            None
        }
    };
    let monitor = graph.targets(pool, Kind::LOADBALANCER_HEALTHMONITOR).next();
    let monitor = monitor.and_then(|monitor| read_monitor(monitor, out));
    let mut members: Vec<Member> = graph
        .children_of_kind(pool.uuid, Kind::LOADBALANCER_MEMBER)
        .filter_map(|m| member(m))
        .collect();
    members.sort();
    Backend { http, method, persistence, monitor, members }
}

fn member(object: &Object) -> Option<Member> {
    let properties: LoadbalancerMemberType =
        object.property("loadbalancer_member_properties").unwrap_or_default();
    if properties.admin_state == Some(false) || !object.enabled() {
        return None;
    }
    let weight = properties.weight.unwrap_or(1).clamp(0, 256);
    Some(Member {
        uuid: object.uuid,
        address: properties.address?.parse().ok()?,
        port: u16::try_from(properties.protocol_port?).ok().filter(|port| *port != 0)?,
        weight: u16::try_from(weight).unwrap_or(1),
    })
}

fn read_monitor(object: &Object, out: &mut Balancer) -> Option<Monitor> {
    let properties: LoadbalancerHealthmonitorType =
        object.property("loadbalancer_healthmonitor_properties").unwrap_or_default();
    if properties.admin_state == Some(false) {
        return None;
    }
    let kind = properties.monitor_type.unwrap_or_default();
    let seconds = |value: Option<i64>, otherwise: u32| {
        let value = value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0);
        value.unwrap_or(otherwise).min(3600) * 1000
    };
    let http = match kind.as_str() {
        "HTTP" | "HTTPS" => {
            let method = properties.http_method.unwrap_or_else(|| "GET".into());
            let path = properties.url_path.unwrap_or_else(|| "/".into());
            let codes = properties.expected_codes.unwrap_or_else(|| "200".into());
            let codes = codes.replace(' ', "");
            let good_method = method.bytes().all(|b| b.is_ascii_uppercase()) && !method.is_empty();
            let good_codes = codes
                .split([',', '-'])
                .all(|code| code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()));
            if !good_method || !good_codes || !path.starts_with('/') || !is_plain(&path) {
                out.problems.push(format!(
                    "health monitor {}: method, path or codes make no sense; connections are tested",
                    object.name()
                ));
                None
            } else {
                Some(HttpProbe { method, path, codes })
            }
        }
        "TCP" | "" => None,
        other => {
            let what = format!("health monitor {}: type {other} cannot be had", object.name());
            out.problems.push(format!("{what}; connections are tested"));
            None
        }
    };
    Some(Monitor {
        http,
        tls: kind == "HTTPS",
        interval: seconds(properties.delay, 5),
        timeout: seconds(properties.timeout, 5),
        retries: u32::try_from(properties.max_retries.unwrap_or(3)).unwrap_or(3).clamp(1, 10),
    })
}
