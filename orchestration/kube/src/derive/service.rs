//! Services as load-balancer objects: spec section 1.4 and docs/adr/0009.

use super::{Context, cluster, dns, networks};
use crate::desired::{Derived, Desired, Patch};
use crate::key::Key;
use crate::names;
use crate::objects::{Endpoint, Meta, Service, ServicePort, ServiceType};
use crate::packed;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use skein_model::{FqName, Kind};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use uuid::Uuid;

const POOL: &str = "opencontrail.org/fip-pool";
/// Classes of load balancers that are served besides the default one.
const CLASSES: [&str; 2] = ["opencontrail.org/native", "skein.io/native"];

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let place = (key.namespace.clone(), key.name.clone());
    let Some(service) = cx.cache.services.get(&place) else { return Derived::default() };
    let mut out = Derived::default();
    dns::records(cx, key, service, &mut out);
    // Headless ones and names of outside things are for DNS alone.
    if service.kind == ServiceType::ExternalName || service.headless || service.addresses.is_empty()
    {
        return out;
    }
    let Some(service) = within(cx, service, &mut out) else {
        // Perhaps they were, and a setting is wrong now.
        out.hold = true;
        return out;
    };
    let service = service.as_ref();
    let project = cx.names.project(&key.namespace);
    let base = format!("{}__{}", key.name, service.meta.uid);
    let port = vip(cx, key, service, &mut out);
    let external = external(cx, key, service, &base, &port, &mut out);
    let balancer = project.child(&base);
    let mut facts = facts(service, &external, &mut out);
    if dns::is_front(cx, key) {
        // A node asks itself.
        facts["internal_traffic_policy"] = json!("Local");
    }
    let vip_address = service.addresses.first().map(IpAddr::to_string).unwrap_or_default();
    out.objects.push(
        cx.owned(key, Kind::LOADBALANCER, Some(Kind::PROJECT), balancer.clone(), &[])
            .uuid(service.meta.uid)
            .set("display_name", key.name.to_string())
            .set("loadbalancer_provider", "native")
            .set(
                "loadbalancer_properties",
                json!({
                    "vip_address": vip_address, "admin_state": true, "status": "ACTIVE",
                    "provisioning_status": "ACTIVE", "operating_status": "ONLINE",
                }),
            )
            .set("loadbalancer_service", facts)
            .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [port])
            .refer(
                Kind::SERVICE_APPLIANCE_SET,
                [FqName::single("default-global-system-config").child("native")],
            ),
    );
    for one in &service.ports {
        listener(cx, key, service, one, &base, &balancer, &mut out);
    }
    out.objects.extend(external.objects);
    if !external.left {
        report(cx, key, service, &external.granted, &external.plain, &mut out);
    }
    out
}

/// The service as far as its addresses are in the service network; none if none is.
fn within<'s>(
    cx: &Context<'_>,
    service: &'s Service,
    out: &mut Derived,
) -> Option<Cow<'s, Service>> {
    let subnets = &cx.settings.service_subnets;
    let is_in = |address: &IpAddr| subnets.iter().any(|net| net.contains(address));
    let mut outside = service.addresses.iter().filter(|address| !is_in(address)).peekable();
    if outside.peek().is_none() {
        return Some(Cow::Borrowed(service));
    }
    let known: Vec<String> = subnets.iter().map(IpNet::to_string).collect();
    for address in outside {
        let text = format!(
            "the cluster address {address} is not served: it is not in service_subnets ({}); set it in the manager's \
             configuration to all that the API server gives addresses from (ServiceCIDR)",
            known.join(", ")
        );
        out.problem("OutsideServiceSubnets", text);
    }
    let mut inside = service.clone();
    inside.addresses.retain(is_in);
    (!inside.addresses.is_empty()).then_some(Cow::Owned(inside))
}

/// The port that stands for the service, and its addresses.
fn vip(cx: &Context<'_>, key: &Key, service: &Service, out: &mut Derived) -> FqName {
    let network = cx.service_network_of(&key.namespace);
    let name = format!("{}__Service__{}__{}", cx.names.cluster(), key.name, service.meta.uid);
    let uuid = Uuid::new_v5(&service.meta.uid, b"vip");
    let port = cx.names.project(&key.namespace).child(&name);
    out.objects.push(
        cx.owned(key, Kind::VIRTUAL_MACHINE_INTERFACE, Some(Kind::PROJECT), port.clone(), &[])
            .uuid(uuid)
            .set("virtual_machine_interface_device_owner", "K8S:LOADBALANCER")
            .set("port_security_enabled", true)
            .refer(Kind::VIRTUAL_NETWORK, [network.clone()])
            .refer(Kind::SECURITY_GROUP, [cx.names.namespaced(&key.namespace, "default-sg")]),
    );
    for address in &service.addresses {
        let v6 = address.is_ipv6();
        let name = format!("{}__{uuid}{}", key.name, if v6 { "-v6" } else { "" });
        out.objects.push(
            cx.owned(key, Kind::INSTANCE_IP, None, FqName::single(&name), &[])
                .uuid(Uuid::new_v5(&uuid, if v6 { b"v6" } else { b"v4" }))
                .set("instance_ip_address", address.to_string())
                .set("instance_ip_family", if v6 { "v6" } else { "v4" })
                .refer(Kind::VIRTUAL_NETWORK, [network.clone()])
                .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [port.clone()]),
        );
    }
    port
}

/// What the objects of the original cannot say.
fn facts(service: &Service, external: &External, out: &mut Derived) -> Value {
    let texts = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    let policy = |local: bool| if local { "Local" } else { "Cluster" };
    let mut ranges = Vec::new();
    for text in &service.source_ranges {
        match text.trim().parse::<IpNet>() {
            Ok(net) => ranges.push(cluster::subnet(&net.trunc())),
            Err(_) => out.problem(
                "BadSourceRange",
                format!("loadBalancerSourceRanges: {text:?} is not a prefix; write 192.0.2.0/24"),
            ),
        }
    }
    let mut facts = Map::new();
    let mut set = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    set("addresses", json!(texts(&service.addresses)));
    set("external_addresses", json!(external.plain));
    set("ingress_addresses", json!(external.granted));
    set("session_affinity", json!(if service.affinity.is_some() { "ClientIP" } else { "None" }));
    if let Some(seconds) = service.affinity {
        set("session_affinity_timeout", json!(seconds));
    }
    set("internal_traffic_policy", json!(policy(service.internal_local)));
    set("external_traffic_policy", json!(policy(service.external_local)));
    if let Some(port) = service.health_port {
        set("health_check_node_port", json!(port));
    }
    set("source_ranges", json!(ranges));
    set("publish_not_ready", json!(service.publish_not_ready));
    match service.distribution.as_deref() {
        Some("PreferSameNode") => set("traffic_distribution", json!("PreferSameNode")),
        Some("PreferSameZone" | "PreferClose") => {
            set("traffic_distribution", json!("PreferSameZone"));
        }
        _ => {}
    }
    Value::Object(facts)
}

#[allow(clippy::too_many_arguments)] // one place, one call
fn listener(
    cx: &Context<'_>,
    key: &Key,
    service: &Service,
    port: &ServicePort,
    base: &str,
    balancer: &FqName,
    out: &mut Derived,
) {
    let project = cx.names.project(&key.namespace);
    let part = format!("{}-{}", port.protocol, port.port);
    let uuid = Uuid::new_v5(&service.meta.uid, part.as_bytes());
    let name = project.child(&format!("{base}-{part}-{uuid}"));
    let mut properties = Map::new();
    properties.insert("protocol".into(), json!(port.protocol));
    properties.insert("protocol_port".into(), json!(port.port));
    properties.insert("admin_state".into(), json!(true));
    // What was set and no longer is must not stay.
    properties.insert("node_port".into(), json!(port.node_port));
    properties.insert("app_protocol".into(), json!(port.app_protocol));
    out.objects.push(
        cx.owned(
            key,
            Kind::LOADBALANCER_LISTENER,
            Some(Kind::PROJECT),
            name.clone(),
            &[("portName", &port.name)],
        )
        .uuid(uuid)
        .set("loadbalancer_listener_properties", properties)
        .refer(Kind::LOADBALANCER, [balancer.clone()]),
    );
    let pool_uuid = Uuid::new_v5(&uuid, b"pool");
    let affinity = service.affinity.map(|_| "SOURCE_IP");
    out.objects.push(
        cx.owned(key, Kind::LOADBALANCER_POOL, Some(Kind::PROJECT), name.clone(), &[])
            .uuid(pool_uuid)
            .set(
                "loadbalancer_pool_properties",
                json!({
                    "protocol": port.protocol, "admin_state": true,
                    "loadbalancer_method": "ROUND_ROBIN", "session_persistence": affinity,
                }),
            )
            .refer(Kind::LOADBALANCER_LISTENER, [name.clone()]),
    );
    if dns::is_front(cx, key) {
        dns::members(cx, key, port, &name, pool_uuid, out);
    } else {
        members(cx, key, service, port, &name, pool_uuid, out);
    }
}

/// One member for each address and port that endpoints have, ready or not.
fn members(
    cx: &Context<'_>,
    key: &Key,
    service: &Service,
    port: &ServicePort,
    pool: &FqName,
    pool_uuid: Uuid,
    out: &mut Derived,
) {
    let network = cx.service_network_chosen(service, out);
    let mut seen: BTreeMap<(IpAddr, u16), (&Endpoint, Option<Uuid>)> = BTreeMap::new();
    for slice in cx.cache.slices_of(&key.namespace, &key.name) {
        for endpoint in &slice.endpoints {
            let ports = slice.ports_of(endpoint).iter();
            for target in ports.filter(|p| *p.name == port.name && *p.protocol == port.protocol) {
                // An endpoint may move between slices and be in both for a moment: the readier one counts.
                let Some((address, interface)) = cx.answers_at(endpoint, network.as_deref(), out)
                else {
                    continue;
                };
                let slot = seen.entry((address, target.port)).or_insert((endpoint, interface));
                if (endpoint.ready, endpoint.serving) > (slot.0.ready, slot.0.serving) {
                    *slot = (endpoint, interface);
                }
            }
        }
    }
    for ((address, number), (endpoint, interface)) in seen {
        let id = Uuid::new_v5(&pool_uuid, format!("{address}/{number}").as_bytes());
        let place = (address, number, interface);
        out.objects.push(member(cx, key, service, place, endpoint, pool, id));
    }
}

fn member(
    cx: &Context<'_>,
    key: &Key,
    service: &Service,
    (address, number, interface): (IpAddr, u16, Option<Uuid>),
    endpoint: &Endpoint,
    pool: &FqName,
    id: Uuid,
) -> Desired {
    let interface = interface.map(|uuid| uuid.to_string());
    let machine = interface.as_ref().and_then(|_| Some(endpoint.pod?.to_string()));
    let node = endpoint.node.as_deref();
    let zone = endpoint.zone.as_deref().or_else(|| cx.cache.nodes.get(node?)?.zone());
    let ready = endpoint.ready || service.publish_not_ready;
    let mut more = Vec::new();
    if let (Some(vm), Some(vmi)) = (&machine, &interface) {
        more.extend([("vm", vm.as_str()), ("vmi", vmi.as_str())]);
    }
    cx.owned(
        key,
        Kind::LOADBALANCER_MEMBER,
        Some(Kind::LOADBALANCER_POOL),
        pool.child(&id.to_string()),
        &more,
    )
    .uuid(id)
    .set(
        "loadbalancer_member_properties",
        json!({
            "address": address.to_string(), "protocol_port": number, "admin_state": true,
            "weight": 1, "interface": interface, "node": node.map(|node| cx.host(node)),
            "zone": zone, "ready": ready, "serving": endpoint.serving || ready,
            "terminating": endpoint.terminating,
            "hint_zones": endpoint.hint_zones, "hint_nodes": endpoint.hint_nodes,
        }),
    )
}

/// Addresses by which a service is reached from outside.
#[derive(Default)]
struct External {
    objects: Vec<Desired>,
    /// Addresses of pools, as far as they were given.
    granted: Vec<String>,
    /// Addresses that no pool holds.
    plain: Vec<String>,
    /// The status is another controller's to write.
    left: bool,
}

impl External {
    /// Addresses that another controller gave: nodes answer them, as kube-proxy does.
    fn foreign(&mut self, service: &Service) {
        self.left = true;
        let usable = service.ingress_vips.iter().filter(|ip| ip.parse::<IpAddr>().is_ok());
        self.granted.extend(usable.cloned());
    }
}

/// The pool of external addresses for an object, if there is one.
pub(super) fn pool_for(cx: &Context<'_>, meta: &Meta) -> Result<Option<FqName>, String> {
    let keys = ["domain", "project", "network", "name"];
    let namespace = cx.cache.namespaces.get(&meta.namespace).map(|n| &n.meta);
    for (what, meta) in [("", Some(meta)), ("namespace's ", namespace)] {
        if let Some(text) = meta.and_then(|meta| meta.annotation(POOL)) {
            let name = names::parse_fq_name(text, &keys);
            return name.map(Some).map_err(|e| format!("{what}annotation {POOL}: {e}"));
        }
    }
    Ok(cx.settings.public_pool())
}

fn external(
    cx: &Context<'_>,
    key: &Key,
    service: &Service,
    base: &str,
    port: &FqName,
    out: &mut Derived,
) -> External {
    let mut all = External::default();
    let ours = match service.class.as_deref() {
        None | Some("") => true,
        Some(class) => CLASSES.contains(&class),
    };
    let balanced = service.kind == ServiceType::LoadBalancer && ours;
    if service.kind == ServiceType::LoadBalancer && !ours {
        all.foreign(service);
    }
    // What was written back as external is the pool's, not the user's wish.
    let writes_back = cx.settings.write_external_ips && balanced;
    let asked = service.external.iter().filter(|ip| !writes_back || !service.ingress.contains(ip));
    let asked: Vec<&str> = asked.map(String::as_str).collect();
    let mut wanted: Vec<Option<&str>> = match (&service.wanted, asked.is_empty()) {
        (Some(one), _) if balanced => vec![Some(one)],
        (_, false) if writes_back => vec![None],
        (_, true) if balanced => vec![None],
        _ => Vec::new(),
    };
    wanted.extend(asked.iter().map(|text| Some(*text)));
    wanted.dedup();
    if wanted.is_empty() {
        return all;
    }
    let pool = match pool_for(cx, &service.meta) {
        Ok(pool) => pool,
        Err(message) => {
            out.problem("BadAnnotation", message);
            None
        }
    };
    let known = pool.as_ref().filter(|pool| {
        let known = cx.graph.by_name(Kind::FLOATING_IP_POOL, pool).is_some();
        if !known {
            out.waits.push((Kind::FLOATING_IP_POOL, (*pool).clone()));
            let text = format!("floating-ip-pool {pool} does not exist; create it");
            out.problem("UnknownPool", text);
        }
        known
    });
    let prefixes = known.and_then(FqName::parent);
    let prefixes = prefixes.map_or_else(Vec::new, |net| networks::prefixes(cx.graph, &net));
    let given = known.filter(|_| writes_back).and_then(|pool| {
        let own = cx.graph.by_name(Kind::FLOATING_IP, &pool.child(&floating_name(base, None)))?;
        packed::text(own, "floating_ip_address")
    });
    for wish in wanted {
        // The status may not have been seen yet.
        if wish.is_some() && wish == given.as_deref() && service.wanted.is_none() {
            continue;
        }
        let address = match wish.map(str::parse::<IpAddr>) {
            Some(Err(_)) => {
                let text = format!("{:?} is not an address", wish.unwrap_or_default());
                out.problem("BadAddress", text);
                continue;
            }
            Some(Ok(address)) => Some(address),
            None => None,
        };
        let held = address.is_none_or(|a| prefixes.iter().any(|net| net.contains(&a)));
        match (known, held, address) {
            (Some(pool), true, _) => {
                let name = floating_name(base, wish);
                floating(cx, key, service.meta.uid, pool.child(&name), address, port, &mut all);
            }
            // Nodes answer it when someone routes it to them.
            (_, _, Some(address)) => all.plain.push(address.to_string()),
            // Another controller may serve it without a class.
            (None, _, None) if pool.is_none() && !service.ingress.is_empty() => {
                all.foreign(service);
            }
            (None, _, None) if pool.is_none() && service.wanted.is_none() => out.problem(
                "NoPool",
                format!(
                    "no external address: there is no pool; set public_fip_pool, or the annotation {POOL} \
                     on the service or its namespace"
                ),
            ),
            _ => {}
        }
    }
    all
}

fn floating_name(base: &str, wish: Option<&str>) -> String {
    format!("{base}{}-externalIP", wish.unwrap_or("None").replace(':', "-"))
}

fn floating(
    cx: &Context<'_>,
    key: &Key,
    uid: Uuid,
    name: FqName,
    address: Option<IpAddr>,
    port: &FqName,
    all: &mut External,
) {
    let object = cx.graph.by_name(Kind::FLOATING_IP, &name);
    all.granted.extend(object.and_then(|object| packed::text(object, "floating_ip_address")));
    let uuid = Uuid::new_v5(&uid, name.to_string().as_bytes());
    let mut floating = cx
        .owned(
            key,
            Kind::FLOATING_IP,
            Some(Kind::FLOATING_IP_POOL),
            name,
            &[("externalIP", "True")],
        )
        .uuid(uuid)
        .set("floating_ip_traffic_direction", "ingress")
        .refer(Kind::PROJECT, [cx.names.project(&key.namespace)])
        .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [port.clone()]);
    if let Some(address) = address {
        floating = floating.set("floating_ip_address", address.to_string());
    }
    all.objects.push(floating);
}

/// Tells Kubernetes the addresses of the pool; `plain` are those that the user wrote beside them.
fn report(
    cx: &Context<'_>,
    key: &Key,
    service: &Service,
    granted: &[String],
    plain: &[String],
    out: &mut Derived,
) {
    let balanced = service.kind == ServiceType::LoadBalancer;
    let ours = service.class.as_deref().is_none_or(|class| CLASSES.contains(&class));
    if !ours || (!balanced && service.ingress.is_empty()) {
        return;
    }
    let wanted: &[String] = if balanced { granted } else { &[] };
    // An address on its way must not make the old one vanish for a moment.
    let waiting = balanced && granted.is_empty() && out.problems.is_empty();
    if service.ingress != wanted && !waiting {
        let list: Vec<Value> = wanted.iter().map(|ip| json!({ "ip": ip })).collect();
        let body = json!({"status": {"loadBalancer": {"ingress": list}}});
        out.patches.push(Patch { key: key.clone(), status: true, body });
    }
    if cx.settings.write_external_ips && balanced && !granted.is_empty() {
        let missing = granted.iter().any(|ip| !service.external.contains(ip));
        if missing {
            let all: Vec<&String> = plain.iter().chain(granted).collect();
            let body = json!({"spec": {"externalIPs": all}});
            out.patches.push(Patch { key: key.clone(), status: false, body });
        }
    }
}
