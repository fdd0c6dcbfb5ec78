//! What a pod has: spec sections 1.3 and 6.

use super::annotations::{NetworkChoice, network_choices};
use super::tags::Candidate;
use super::{Context, host_port, nested, networks, requests};
use crate::desired::{Demand, Derived, IGNORED, Link, Patch, Predicate};
use crate::key::Key;
use crate::names;
use crate::objects::Pod;
use crate::packed;
use serde_json::{Value, json};
use skein_model::{FqName, Kind, Object};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";
/// Of addresses: whether it is the sixth version's, and what the configuration calls it.
const FAMILIES: [(bool, &str); 2] = [(false, "v4"), (true, "v6")];
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// One interface of a pod.
struct Interface {
    /// `default`, or the definition's name.
    label: String,
    /// `namespace/name` for network-status.
    full: String,
    network: FqName,
    /// The network is the cluster's own and carries the application tag.
    own: bool,
    choice: NetworkChoice,
}

/// The port of a pod's n-th interface.
pub(super) fn port_uuid(pod: Uuid, index: usize) -> Uuid {
    Uuid::new_v5(&pod, format!("interface/{index}").as_bytes())
}

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let place = (key.namespace.clone(), key.name.clone());
    let Some(pod) = cx.cache.pods.get(&place) else { return Derived::default() };
    if !pod.is_attached() {
        return Derived::default();
    }
    let interfaces = match interfaces(cx, pod) {
        Ok(interfaces) => interfaces,
        Err((reason, message)) => return Derived::wrong(reason, message),
    };
    let mut out = Derived::default();
    for interface in &interfaces {
        if cx.graph.by_name(Kind::VIRTUAL_NETWORK, &interface.network).is_none() {
            out.waits.push((Kind::VIRTUAL_NETWORK, interface.network.clone()));
            // The cluster's own networks come by themselves.
            if !interface.own {
                out.problem(
                    "UnknownNetwork",
                    format!(
                        "virtual-network {} does not exist; create it, or change the annotation",
                        interface.network
                    ),
                );
            }
        }
    }
    if !out.waits.is_empty() {
        out.hold = true;
        return out;
    }
    if let Some((reason, message)) = interfaces.iter().find_map(|one| impossible(cx, one).err()) {
        return Derived::wrong(reason, message);
    }
    for interface in &interfaces {
        for what in &interface.choice.ignored {
            let message = format!(
                "annotation {NETWORKS}: {what} of {} means nothing here, and the interface is made without it",
                interface.label
            );
            out.problem(IGNORED, message);
        }
    }
    let parent = match nested::parent(cx, pod) {
        Ok(parent) => parent,
        Err((reason, message)) => {
            out.problem(reason, message);
            out.hold = true;
            return out;
        }
    };
    if let Some(first) = interfaces.first().filter(|first| !first.own) {
        out.demands.push(Demand::Reach(first.network.clone()));
        if pod.probed {
            cx.tell_of_reach(&first.network, &mut out);
        }
    }
    let machine = machine(cx, key, pod, &mut out);
    let outer = parent.and_then(|parent| nested::node(parent));
    let node = outer.as_deref().or(pod.node.as_deref()).unwrap_or_default();
    // In an outer fabric the node's address is that of a machine, not of a vRouter.
    // Before its kubelet has told of the pod, the node itself tells where it is.
    let at = || cx.cache.nodes.get(node)?.addresses.first().copied();
    let address = pod.host_address.or_else(at).filter(|_| parent.is_none());
    let host = cx.router(node, address).map_or(node, |router| router.name()).to_owned();
    let mut plugged = nested::Plug { parent, host: host.clone(), taken: BTreeSet::new() };
    let mut status = Vec::new();
    let default = default_interface(&interfaces);
    for (at, interface) in interfaces.iter().enumerate() {
        let entry = attach(
            cx,
            key,
            pod,
            (at, interfaces.len()),
            interface,
            &machine,
            &mut plugged,
            &mut out,
        );
        if at == 0 && !pod.host_ports.is_empty() {
            let addresses = entry.as_ref().map(|(addresses, _)| addresses.as_slice());
            let uuid = port_uuid(pod.meta.uid, 0);
            let target = host_port::Target {
                port: cx.names.project(&key.namespace).child(&format!("{}__{uuid}", key.name)),
                uuid,
                host: &host,
                addresses: addresses.unwrap_or_default(),
            };
            host_port::derive(cx, key, pod, &target, &mut out);
        }
        status.push(
            entry.map(|(addresses, mac)| {
                describe(cx, interface, at, &addresses, &mac, at == default)
            }),
        );
    }
    if let Some(router) = cx.router(node, address) {
        out.links.push(Link {
            holder: (Kind::VIRTUAL_ROUTER, router.fq_name.clone()),
            target: (Kind::VIRTUAL_MACHINE, machine),
            attr: Value::Null,
            optional: true,
        });
    } else {
        let usual = FqName::single("default-global-system-config").child(node);
        out.waits.push((Kind::VIRTUAL_ROUTER, usual));
    }
    if interfaces.len() > 1
        && let Some(all) = status.into_iter().collect::<Option<Vec<Value>>>()
    {
        report(key, pod, &all, &mut out);
    }
    out
}

pub(super) type Wrong = (&'static str, String);

fn interfaces(cx: &Context<'_>, pod: &Pod) -> Result<Vec<Interface>, Wrong> {
    let bad = |message: String| ("BadAnnotation", message);
    let (network, chosen) = cx.network_for(&pod.meta).map_err(bad)?;
    let mut out = vec![Interface {
        label: "default".into(),
        full: "cluster-wide-default".into(),
        network,
        own: !chosen,
        choice: NetworkChoice::default(),
    }];
    let Some(text) = pod.meta.annotation(NETWORKS) else { return Ok(out) };
    let choices =
        network_choices(text).map_err(|reason| bad(format!("annotation {NETWORKS}: {reason}")))?;
    let mut names: BTreeSet<String> = BTreeSet::from(["eth0".to_owned()]);
    for (at, choice) in choices.into_iter().enumerate() {
        let namespace: Arc<str> =
            choice.namespace.as_deref().map_or_else(|| pod.meta.namespace.clone(), Arc::from);
        let place = (namespace.clone(), Arc::from(choice.name.as_str()));
        let full = format!("{namespace}/{}", choice.name);
        let nad = cx.cache.nads.get(&place).ok_or_else(|| {
            ("UnknownNetwork", format!("there is no NetworkAttachmentDefinition {full}"))
        })?;
        let network = super::nad::network_of(cx, nad).map_err(|reason| {
            ("UnknownNetwork", format!("NetworkAttachmentDefinition {full}: {reason}"))
        })?;
        // Another plugin's network is for a plugin above ours to attach.
        let Some(network) = network else { continue };
        let interface = choice.interface.clone().unwrap_or_else(|| format!("eth{}", at + 1));
        if !names.insert(interface.clone()) {
            return Err(bad(format!(
                "annotation {NETWORKS}: two interfaces are called {interface}"
            )));
        }
        out.push(Interface { label: choice.name.clone(), full, network, own: false, choice });
    }
    Ok(out)
}

/// Whether its network can give what an interface asks for.
fn impossible(cx: &Context<'_>, interface: &Interface) -> Result<(), Wrong> {
    let subnets = networks::subnets(cx.graph, &interface.network);
    if subnets.is_empty() && !interface.own {
        let network = &interface.network;
        let message =
            format!("virtual-network {network} has no subnet to take an address from; give it one");
        return Err(("NoSubnet", message));
    }
    requests::check(&interface.choice, &interface.network, &subnets)
        .map_err(|reason| ("BadAnnotation", format!("annotation {NETWORKS}: {reason}")))
}

/// The interface that the default route is on.
fn default_interface(interfaces: &[Interface]) -> usize {
    interfaces.iter().position(|i| !i.choice.default_route.is_empty()).unwrap_or(0)
}

fn machine(cx: &Context<'_>, key: &Key, pod: &Pod, out: &mut Derived) -> FqName {
    let name = FqName::single(&format!("{}__{}__{}", cx.names.cluster(), key.namespace, key.name));
    let labels = serde_json::to_string(&pod.meta.labels).unwrap_or_default();
    let uid = pod.meta.uid.to_string();
    let more = [("k8s_uuid", uid.as_str()), ("labels", labels.as_str())];
    out.objects.push(
        cx.owned(key, Kind::VIRTUAL_MACHINE, None, name.clone(), &more)
            .uuid(pod.meta.uid)
            .set("display_name", key.name.to_string())
            .set("server_type", "container"),
    );
    name
}

#[allow(clippy::too_many_arguments)] // one place, one call
fn attach(
    cx: &Context<'_>,
    key: &Key,
    pod: &Pod,
    (at, count): (usize, usize),
    interface: &Interface,
    machine: &FqName,
    plugged: &mut nested::Plug<'_>,
    out: &mut Derived,
) -> Option<(Vec<IpAddr>, String)> {
    let namespace = &*key.namespace;
    let uuid = port_uuid(pod.meta.uid, at);
    let base = format!("{}__{uuid}", key.name);
    let name = cx.names.project(namespace).child(&base);
    let index = format!("{at}/{count}");
    let mut more = vec![("index", index.as_str()), ("network", interface.label.as_str())];
    if let Some(wanted) = interface.choice.interface.as_deref() {
        more.push(("interface", wanted));
    }
    let default_route = !interface.choice.default_route.is_empty();
    if default_route {
        more.push(("default-route", "True"));
    }
    let prefixes = networks::prefixes(cx.graph, &interface.network);
    let families: Vec<&str> = FAMILIES
        .into_iter()
        .filter(|(v6, _)| prefixes.iter().any(|net| net.addr().is_ipv6() == *v6))
        .map(|(_, family)| family)
        .collect();
    // The controller tells no node of the port before it has an address of each.
    let families = families.join(",");
    more.push(("families", &families));
    let tags = tags(cx, pod, at, interface, out);
    let mut port = cx
        .owned(key, Kind::VIRTUAL_MACHINE_INTERFACE, Some(Kind::PROJECT), name.clone(), &more)
        .uuid(uuid)
        .set("port_security_enabled", true)
        .refer(Kind::VIRTUAL_MACHINE, [machine.clone()])
        .refer(Kind::VIRTUAL_NETWORK, [interface.network.clone()])
        .refer(Kind::SECURITY_GROUP, [cx.names.namespaced(namespace, "default-sg")])
        .refer(Kind::TAG, tags.iter().map(|tag| FqName::single(tag)));
    port = match plugged.placed(cx, uuid, port) {
        Ok(port) => port,
        Err((reason, message)) => {
            out.problem(reason, message);
            out.hold = true;
            return None;
        }
    };
    if let Some(mac) = &interface.choice.mac {
        port = port.set("virtual_machine_interface_mac_addresses", json!({"mac_address": [mac]}));
    }
    out.objects.push(port);
    let mut actual = Vec::new();
    let mut complete = true;
    for (v6, family) in FAMILIES {
        if !families.contains(family) {
            continue;
        }
        let address_name = address_name(&base, v6);
        let asked = interface.choice.addresses.iter().find(|a| a.is_ipv6() == v6);
        let mut address = cx
            .owned(key, Kind::INSTANCE_IP, None, address_name.clone(), &[])
            .uuid(Uuid::new_v5(&uuid, if v6 { b"v6" } else { b"v4" }))
            .set("instance_ip_family", family)
            .refer(Kind::VIRTUAL_NETWORK, [interface.network.clone()])
            .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [name.clone()]);
        if let Some(asked) = asked {
            address = address.set("instance_ip_address", asked.to_string());
        } else if at == 0 && cx.settings.keep_pod_addresses {
            // A pod that runs keeps its address, whatever became of the configuration meanwhile.
            let had = pod.addresses.iter().find(|a| a.is_ipv6() == v6);
            if let Some(had) = had.filter(|a| prefixes.iter().any(|net| net.contains(*a))) {
                out.addresses.push((address_name.clone(), *had));
            }
        }
        out.objects.push(address);
        match address_of(cx, &address_name) {
            Some(address) => actual.push(address),
            None => complete = false,
        }
    }
    let port = cx.graph.by_name(Kind::VIRTUAL_MACHINE_INTERFACE, &name)?;
    let properties = packed::properties(port);
    let mac = properties.get("virtual_machine_interface_mac_addresses")?;
    let mac = mac.get("mac_address")?.get(0)?.as_str()?.to_owned();
    complete.then_some((actual, mac))
}

/// A pod's interface in one of its networks.
pub(super) struct Place {
    /// Its port.
    pub(super) port: Uuid,
    /// What its address of IPv4 is called.
    base: String,
}

impl Place {
    /// The name of its address object.
    pub(super) fn address_name(&self, v6: bool) -> FqName {
        address_name(&self.base, v6)
    }
}

fn address_name(base: &str, v6: bool) -> FqName {
    FqName::single(&if v6 { format!("{base}-v6") } else { base.to_owned() })
}

/// The interface by which a pod is in the network of a definition, `namespace/name`; the first if there are several.
pub(super) fn place_in(cx: &Context<'_>, pod: &Pod, network: &str) -> Option<Place> {
    let interfaces = interfaces(cx, pod).ok()?;
    let at = interfaces.iter().skip(1).position(|one| one.full == network)? + 1;
    let port = port_uuid(pod.meta.uid, at);
    Some(Place { port, base: format!("{}__{port}", pod.meta.name) })
}

pub(super) fn address_of(cx: &Context<'_>, name: &FqName) -> Option<IpAddr> {
    let object: &Object = cx.graph.by_name(Kind::INSTANCE_IP, name)?;
    packed::text(object, "instance_ip_address")?.parse().ok()
}

fn tags(
    cx: &Context<'_>,
    pod: &Pod,
    at: usize,
    interface: &Interface,
    out: &mut Derived,
) -> BTreeSet<String> {
    let namespace = cx.cache.namespaces.get(&pod.meta.namespace).map(|n| &n.meta);
    let services = cx.cache.services_of(pod.meta.uid);
    let candidate = Candidate { pod, namespace, services: &services };
    let mut tags = BTreeSet::new();
    if at > 0 {
        tags.extend(cx.tags.of_interface(candidate, &interface.full));
        if !cx.settings.policy_on_secondary {
            // Nobody's policy is about it.
            if !tags.is_empty() {
                tags.insert(cx.names.application_tag());
            }
            return tags;
        }
    }
    tags.extend(cx.tags.of_pod(candidate));
    let own = Demand::Tag(names::namespace_tag(&pod.meta.namespace), Predicate::Named);
    if !out.demands.contains(&own) {
        out.demands.push(own);
    }
    if !interface.own {
        // An operator's network does not carry it, and policies must hold there as well.
        tags.insert(cx.names.application_tag());
    }
    tags
}

fn describe(
    cx: &Context<'_>,
    interface: &Interface,
    at: usize,
    addresses: &[IpAddr],
    mac: &str,
    default: bool,
) -> Value {
    let name = interface.choice.interface.clone().unwrap_or_else(|| format!("eth{at}"));
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    if cx.settings.network_status_single_ip {
        let first = texts.first().cloned().unwrap_or_default();
        return json!({"name": interface.full, "ips": first, "mac": mac});
    }
    json!({
        "name": interface.full, "interface": name, "ips": texts, "mac": mac,
        "default": default, "dns": {},
    })
}

/// Writes network-status, if it is not there yet.
fn report(key: &Key, pod: &Pod, all: &[Value], out: &mut Derived) {
    let text = Value::from(all).to_string();
    let there: Option<Value> =
        pod.meta.annotation(STATUS).and_then(|text| serde_json::from_str(text).ok());
    if there.as_ref() != Some(&Value::from(all)) {
        let body = json!({"metadata": {"annotations": {STATUS: text}}});
        out.patches.push(Patch { key: key.clone(), status: false, body });
    }
}
