//! Ingresses as load-balancer objects: spec section 1.5.

use super::firewall::{End, RuleSpec};
use super::service::pool_for;
use super::{Context, networks};
use crate::desired::{Demand, Derived, Patch, Predicate};
use crate::key::Key;
use crate::names;
use crate::objects::{Backend, Ingress, IngressPath, PathType};
use crate::packed;
use serde_json::{Value, json};
use skein_model::{FqName, Kind};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Names of the class that is served, in annotation and in `ingressClassName`.
const CLASS: &str = "opencontrail";
/// Controllers of IngressClass objects that are served.
const CONTROLLERS: [&str; 2] = ["opencontrail.org/ingress", "skein.io/ingress"];

/// Whether an ingress is for Skein.
fn is_ours(cx: &Context<'_>, ingress: &Ingress) -> bool {
    if let Some(annotation) = ingress.meta.annotation("kubernetes.io/ingress.class") {
        return annotation == CLASS;
    }
    let served = |name: &str| {
        cx.cache
            .classes
            .get(name)
            .map_or(name == CLASS, |class| CONTROLLERS.contains(&class.controller.as_str()))
    };
    match ingress.class.as_deref() {
        Some(name) => served(name),
        // Nobody's by name: whoever is the default; without one, ours, as in the original.
        None => cx
            .cache
            .classes
            .values()
            .find(|class| class.is_default)
            .is_none_or(|class| CONTROLLERS.contains(&class.controller.as_str())),
    }
}

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let place = (key.namespace.clone(), key.name.clone());
    let Some(ingress) = cx.cache.ingresses.get(&place) else { return Derived::default() };
    if !is_ours(cx, ingress) {
        return Derived::default();
    }
    let (network, chosen) = match cx.network_for(&ingress.meta) {
        Ok(network) => network,
        Err(message) => return Derived::wrong("BadAnnotation", message),
    };
    let mut out = Derived::default();
    if cx.graph.by_name(Kind::VIRTUAL_NETWORK, &network).is_none() {
        out.waits.push((Kind::VIRTUAL_NETWORK, network.clone()));
        if chosen {
            let text = format!("virtual-network {network} does not exist; create it");
            out.problem("UnknownNetwork", text);
        }
        out.hold = true;
        return out;
    }
    let uid = ingress.meta.uid;
    let base = format!("{}__{uid}", key.name);
    let (port, address_name) = vip(cx, key, uid, &network, &mut out);
    let vip_address = cx.graph.by_name(Kind::INSTANCE_IP, &address_name);
    let vip_address = vip_address.and_then(|object| packed::text(object, "instance_ip_address"));
    let balancer = cx.names.project(&key.namespace).child(&base);
    out.objects.push(
        cx.owned(key, Kind::LOADBALANCER, Some(Kind::PROJECT), balancer.clone(), &[])
            .uuid(uid)
            .set("display_name", key.name.to_string())
            .set("loadbalancer_provider", "opencontrail")
            .set(
                "loadbalancer_properties",
                json!({
                    "vip_address": vip_address, "admin_state": true, "status": "ACTIVE",
                    "provisioning_status": "ACTIVE", "operating_status": "ONLINE",
                }),
            )
            .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [port.clone()])
            .refer(
                Kind::SERVICE_APPLIANCE_SET,
                [FqName::single("default-global-system-config").child("opencontrail")],
            ),
    );
    let mut services = BTreeSet::new();
    let mut paths: Vec<(&str, Option<&IngressPath>, &Backend)> = Vec::new();
    for rule in &ingress.rules {
        paths.extend(rule.paths.iter().map(|path| (rule.host.as_str(), Some(path), &path.backend)));
    }
    paths.extend(ingress.default.iter().map(|backend| ("", None, backend)));
    for (host, path, backend) in paths {
        front(cx, key, uid, &base, &balancer, host, path, backend, &mut services, &mut out);
    }
    tls(cx, key, ingress, &base, &balancer, &mut out);
    for service in services {
        allow(cx, key, &service, &mut out);
    }
    let external = external(cx, key, ingress, &port, &mut out);
    report(key, ingress, external, vip_address, &mut out);
    out
}

/// The port that clients connect to.
fn vip(
    cx: &Context<'_>,
    key: &Key,
    uid: Uuid,
    network: &FqName,
    out: &mut Derived,
) -> (FqName, FqName) {
    let uuid = Uuid::new_v5(&uid, b"vip");
    let own_tag = format!("ingress={}", cx.names.of(&format!("{}-{}", key.namespace, key.name)));
    let tags = [own_tag, names::namespace_tag(&key.namespace), cx.names.application_tag()];
    for tag in &tags[..2] {
        out.demands.push(Demand::Tag(tag.clone(), Predicate::Named));
    }
    let port = format!("{}__Ingress__{}__{uid}", cx.names.cluster(), key.name);
    let port = cx.names.project(&key.namespace).child(&port);
    out.objects.push(
        cx.owned(key, Kind::VIRTUAL_MACHINE_INTERFACE, Some(Kind::PROJECT), port.clone(), &[])
            .uuid(uuid)
            .set("virtual_machine_interface_device_owner", "K8S:LOADBALANCER")
            .set("port_security_enabled", true)
            .refer(Kind::VIRTUAL_NETWORK, [network.clone()])
            .refer(Kind::SECURITY_GROUP, [cx.names.namespaced(&key.namespace, "default-sg")])
            .refer(Kind::TAG, tags.iter().map(|tag| FqName::single(tag))),
    );
    let v6 = networks::prefixes(cx.graph, network).iter().all(|net| net.addr().is_ipv6());
    let address = FqName::single(&format!("{}__{uuid}", key.name));
    let mut shared = cx
        .owned(key, Kind::INSTANCE_IP, None, address.clone(), &[])
        .uuid(Uuid::new_v5(&uuid, b"address"))
        .set("instance_ip_family", if v6 { "v6" } else { "v4" })
        .set("instance_ip_mode", "active-standby")
        .refer(Kind::VIRTUAL_NETWORK, [network.clone()])
        .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [port.clone()]);
    // The ports of the nodes that carry it come and go.
    shared.open = true;
    out.objects.push(shared);
    (port, address)
}

/// The service's address and port behind a backend.
fn resolve(
    cx: &Context<'_>,
    key: &Key,
    backend: &Backend,
) -> Result<(String, IpAddr, u16), String> {
    let (name, wanted) = match backend {
        Backend::Unusable(reason) => return Err(reason.clone()),
        Backend::Number(name, number) => (name, Ok(*number)),
        Backend::Named(name, port) => (name, Err(port)),
    };
    let place = (key.namespace.clone(), Arc::from(name.as_str()));
    let service =
        cx.cache.services.get(&place).ok_or_else(|| format!("there is no service {name}"))?;
    let address = *service
        .addresses
        .first()
        .ok_or_else(|| format!("service {name} has no cluster address"))?;
    let port = match wanted {
        Ok(number) => service.ports.iter().find(|port| port.port == number).map(|port| port.port),
        Err(word) => service.ports.iter().find(|port| port.name == *word).map(|port| port.port),
    };
    let port = port.ok_or_else(|| match wanted {
        Ok(number) => format!("service {name} has no port {number}"),
        Err(word) => format!("service {name} has no port called {word}"),
    })?;
    Ok((name.clone(), address, port))
}

#[allow(clippy::too_many_arguments)] // one place, one call
fn front(
    cx: &Context<'_>,
    key: &Key,
    uid: Uuid,
    base: &str,
    balancer: &FqName,
    host: &str,
    path: Option<&IngressPath>,
    backend: &Backend,
    services: &mut BTreeSet<String>,
    out: &mut Derived,
) {
    let (text, compare) = path.map_or(("", PathType::Prefix), |p| (p.path.as_str(), p.kind));
    let compare = match compare {
        // The original knows no other way.
        PathType::ImplementationSpecific if path.is_some() && cx.settings.exact_ingress_paths => {
            PathType::Exact
        }
        other => other,
    };
    let compare = compare.name();
    let kind = if path.is_some() { "acl" } else { "default" };
    let uuid = Uuid::new_v5(&uid, format!("{kind}\0{host}\0{text}\0{compare}").as_bytes());
    let project = cx.names.project(&key.namespace);
    let name = project.child(&format!("{base}-HTTP-80-{uuid}"));
    let more = [("type", kind), ("host", host), ("path", text), ("pathType", compare)];
    // The same path twice: the first one counts, as everywhere in Kubernetes.
    if out.objects.iter().any(|o| o.kind == Kind::LOADBALANCER_LISTENER && o.name == name) {
        return;
    }
    out.objects.push(
        cx.owned(key, Kind::LOADBALANCER_LISTENER, Some(Kind::PROJECT), name.clone(), &more)
            .uuid(uuid)
            .set(
                "loadbalancer_listener_properties",
                json!({"protocol": "HTTP", "protocol_port": 80, "admin_state": true}),
            )
            .refer(Kind::LOADBALANCER, [balancer.clone()]),
    );
    let pool = Uuid::new_v5(&uuid, b"pool");
    out.objects.push(
        cx.owned(key, Kind::LOADBALANCER_POOL, Some(Kind::PROJECT), name.clone(), &more)
            .uuid(pool)
            .set(
                "loadbalancer_pool_properties",
                json!({
                    "protocol": "HTTP", "loadbalancer_method": "ROUND_ROBIN", "admin_state": true,
                }),
            )
            .refer(Kind::LOADBALANCER_LISTENER, [name.clone()]),
    );
    let (service, address, port) = match resolve(cx, key, backend) {
        Ok(found) => found,
        Err(reason) => {
            return out.problem("BadBackend", format!("host {host:?} path {text:?}: {reason}"));
        }
    };
    let member = Uuid::new_v5(&pool, format!("{address}/{port}").as_bytes());
    out.objects.push(
        cx.owned(
            key,
            Kind::LOADBALANCER_MEMBER,
            Some(Kind::LOADBALANCER_POOL),
            name.child(&member.to_string()),
            &[("serviceName", service.as_str())],
        )
        .uuid(member)
        .set(
            "loadbalancer_member_properties",
            json!({
                "address": address.to_string(), "protocol_port": port, "admin_state": true,
                "weight": 1,
            }),
        ),
    );
    services.insert(service);
}

/// One more listener, for HTTPS, with the secrets' names.
fn tls(
    cx: &Context<'_>,
    key: &Key,
    ingress: &Ingress,
    base: &str,
    balancer: &FqName,
    out: &mut Derived,
) {
    let mut by_host = Vec::new();
    let mut default = None;
    for one in &ingress.tls {
        let Some(secret) = one.secret_name.as_deref().filter(|s| !s.is_empty()) else {
            out.problem("BadTls", "spec.tls: an entry names no secret".into());
            continue;
        };
        let container = format!("{}__{secret}", key.namespace);
        if one.hosts.is_empty() {
            default = Some(container);
        } else if !by_host.contains(&container) {
            by_host.push(container);
        }
    }
    if by_host.is_empty() && default.is_none() {
        return;
    }
    let uuid = Uuid::new_v5(&ingress.meta.uid, b"TERMINATED_HTTPS");
    let name = format!("{base}-TERMINATED_HTTPS-443-{uuid}");
    let name = cx.names.project(&key.namespace).child(&name);
    out.objects.push(
        cx.owned(key, Kind::LOADBALANCER_LISTENER, Some(Kind::PROJECT), name, &[])
            .uuid(uuid)
            .set(
                "loadbalancer_listener_properties",
                json!({
                    "protocol": "TERMINATED_HTTPS", "protocol_port": 443, "admin_state": true,
                    "sni_containers": by_host, "default_tls_container": default,
                }),
            )
            .refer(Kind::LOADBALANCER, [balancer.clone()]),
    );
}

/// The proxy may reach its backends, whatever policies of namespaces say.
fn allow(cx: &Context<'_>, key: &Key, service: &str, out: &mut Derived) {
    let namespace = &*key.namespace;
    let from = format!("ingress={}", cx.names.of(&format!("{namespace}-{}", key.name)));
    // A pod may back several services, and services of two namespaces may share a name: each is a tag of its own
    // type, where the original has one type for all.
    let to = format!("{}={service}", cx.names.of(&format!("svc-{namespace}-{service}")));
    let predicate = Predicate::Service(namespace.to_owned(), service.to_owned());
    out.demands.push(Demand::Tag(to.clone(), predicate));
    let name = cx.names.of(&format!("Ingress-{namespace}-{}-{service}", key.name));
    let spec = RuleSpec {
        name: &name,
        action: "pass",
        protocol: "any",
        ports: (0, u16::MAX),
        source: End::Tags(vec![from]),
        target: End::Tags(vec![to]),
        judged_at: "both",
        exception: false,
    };
    cx.linked_rule(key, "Ingress", &spec, out);
}

fn external(
    cx: &Context<'_>,
    key: &Key,
    ingress: &Ingress,
    port: &FqName,
    out: &mut Derived,
) -> Option<String> {
    // Told even where there is no pool to take it from.
    let wanted = match ingress.meta.annotation("externalIP").map(str::parse::<IpAddr>) {
        Some(Err(_)) => {
            out.problem("BadAnnotation", "annotation externalIP: is not an address".into());
            None
        }
        Some(Ok(address)) => Some(address),
        None => None,
    };
    let pool = match pool_for(cx, &ingress.meta) {
        Ok(pool) => pool?,
        Err(message) => {
            out.problem("BadAnnotation", message);
            return None;
        }
    };
    if cx.graph.by_name(Kind::FLOATING_IP_POOL, &pool).is_none() {
        out.waits.push((Kind::FLOATING_IP_POOL, pool.clone()));
        out.problem("UnknownPool", format!("floating-ip-pool {pool} does not exist; create it"));
        return None;
    }
    let text = wanted.map(|address| address.to_string());
    let uuid = Uuid::new_v5(&ingress.meta.uid, text.as_deref().unwrap_or("floating").as_bytes());
    let name = pool.child(&format!("{}__{uuid}", key.name));
    let mut floating = cx
        .owned(
            key,
            Kind::FLOATING_IP,
            Some(Kind::FLOATING_IP_POOL),
            name.clone(),
            &[("externalIP", text.as_deref().unwrap_or("None"))],
        )
        .uuid(uuid)
        .refer(Kind::PROJECT, [cx.names.project(&key.namespace)])
        .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [port.clone()]);
    floating.open = true;
    if let Some(text) = text {
        floating = floating.set("floating_ip_address", text);
    }
    out.objects.push(floating);
    let given = cx.graph.by_name(Kind::FLOATING_IP, &name)?;
    packed::text(given, "floating_ip_address")
}

fn report(
    key: &Key,
    ingress: &Ingress,
    external: Option<String>,
    vip: Option<String>,
    out: &mut Derived,
) {
    let wanted: Vec<String> = external.into_iter().chain(vip).collect();
    if wanted.is_empty() || wanted == ingress.ingress {
        return;
    }
    let list: Vec<Value> = wanted.iter().map(|ip| json!({ "ip": ip })).collect();
    let body = json!({"status": {"loadBalancer": {"ingress": list}}});
    out.patches.push(Patch { key: key.clone(), status: true, body });
}
