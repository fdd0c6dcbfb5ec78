//! Load balancers of provider `native`: services that nodes carry out themselves.
//!
//! A listener is asked for its [`Frontend`] - where it answers and how - and for the members behind it. An output is
//! one listener's services, one for each of its addresses, so that a member costs its own listener and no other.

use crate::cluster::annotation;
use crate::engine::Engine;
use crate::query::{Answer, Query};
use crate::{link_local, rule};
use ipnet::IpNet;
use serde::Deserialize;
use skein_model::values::{
    LoadbalancerListenerType, LoadbalancerMemberType, LoadbalancerType, SubnetType,
};
use skein_model::{Kind, Object};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// Kubernetes' default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: u32 = 10_800;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// One virtual address and port, and the members behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// One for each VRF, address, protocol and port.
    pub id: String,
    /// For people: `namespace/name:port`.
    pub name: String,
    /// Name of the VRF where the address lives.
    pub vrf: String,
    /// Where it answers.
    pub address: IpAddr,
    /// IP protocol: 6, 17 or 132.
    pub protocol: u8,
    /// Where it answers.
    pub port: u16,
    /// Sorted; empty: connections are refused.
    pub members: Vec<Member>,
    /// A client address stays with its member this long; 0: no affinity.
    pub affinity_seconds: u32,
    /// Clients within the cluster get members of their own node only.
    pub internal_local: bool,
    /// On every address of a node, too; 0: none.
    pub node_port: u16,
    /// From outside: members of the node where the connection enters only.
    pub external_local: bool,
    /// Clients outside the fabric reach the address, too, when it is routed to a node.
    pub external: bool,
    /// The address is one of the underlay: a node that has members answers for it there.
    pub announced: bool,
    /// Clients from outside must be in one of these; empty: anyone.
    pub source_prefixes: Vec<IpNet>,
    /// HTTP port on every node that tells whether the node has members; 0: none.
    pub health_check_port: u16,
    /// A port of this one node, at its addresses; empty: a service.
    pub node: String,
    /// Which members to prefer.
    pub distribution: Distribution,
}

/// Which members to prefer while there are some and no hints say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distribution {
    /// None.
    #[default]
    Any,
    /// Those of the client's zone.
    SameZone,
    /// Those of the client's node, then those of its zone.
    SameNode,
}

/// Who serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Its own address.
    pub address: IpAddr,
    /// Its own port.
    pub port: u16,
    /// The virtual-machine-interface; `None`: not a workload of the fabric.
    pub interface: Option<Uuid>,
    /// The node it is on; may be empty.
    pub node: String,
    /// On its way out: chosen only while no other member is left.
    pub draining: bool,
    /// The zone of its node; may be empty.
    pub zone: String,
    /// Zones whose clients should use it.
    pub hint_zones: Vec<String>,
    /// Nodes whose clients should use it.
    pub hint_nodes: Vec<String>,
}

/// The services of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSet {
    /// The network in whose VRF the addresses live.
    pub network: Uuid,
    /// One for each address.
    pub services: Vec<Service>,
    /// Ports behind it, also those that take no new connections now, with the addresses and ports they serve on.
    pub(crate) present: BTreeMap<Uuid, BTreeSet<(IpAddr, u16)>>,
}

/// Where a listener answers, and how: everything about its services but the members.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Frontend {
    pub(crate) network: Uuid,
    pub(crate) vrf: String,
    name: String,
    addresses: Vec<Place>,
    /// Addresses in other networks, which a pool of floating IPs gave.
    pub(crate) floating: Vec<(Uuid, IpAddr)>,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    node_port: u16,
    affinity_seconds: u32,
    internal_local: bool,
    external_local: bool,
    publish_not_ready: bool,
    health_check_port: u16,
    node: String,
    distribution: Distribution,
}

/// One of a service's addresses in its own VRF.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    address: IpAddr,
    /// Answers on the node port, too: the cluster's own addresses do.
    cluster: bool,
    announced: bool,
    source_prefixes: Vec<IpNet>,
}

/// `loadbalancer_service`: what Kubernetes says and the original's properties cannot (adr/0009).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Extension {
    addresses: Vec<String>,
    external_addresses: Vec<String>,
    ingress_addresses: Vec<String>,
    session_affinity: Option<String>,
    session_affinity_timeout: Option<u32>,
    internal_traffic_policy: Option<String>,
    external_traffic_policy: Option<String>,
    source_ranges: Vec<SubnetType>,
    publish_not_ready: Option<bool>,
    health_check_node_port: Option<u16>,
    traffic_distribution: Option<String>,
    host_node: Option<String>,
}

/// What `loadbalancer_listener_properties` has besides the original's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListenerExtension {
    node_port: Option<u16>,
}

/// What `loadbalancer_member_properties` has besides the original's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MemberExtension {
    interface: Option<String>,
    node: Option<String>,
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
    zone: Option<String>,
    hint_zones: Vec<String>,
    hint_nodes: Vec<String>,
}

fn addresses(texts: &[String]) -> Vec<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

fn number(value: Option<i64>) -> Option<u16> {
    value.and_then(|value| u16::try_from(value).ok()).filter(|port| *port != 0)
}

/// Nodes balance connections; what is above TCP they leave to the members.
fn protocol(text: Option<&str>) -> Option<u8> {
    match text {
        Some("TCP" | "HTTP" | "HTTPS") => Some(TCP),
        Some("UDP") => Some(UDP),
        Some("SCTP") => Some(SCTP),
        _ => None,
    }
}

/// The number of an IP protocol in a port mapping.
pub(crate) fn protocol_number(text: &str) -> Option<u8> {
    match text.to_ascii_uppercase().as_str() {
        "TCP" => Some(TCP),
        "UDP" => Some(UDP),
        "SCTP" => Some(SCTP),
        number => number.parse().ok(),
    }
}

pub(crate) fn frontend(engine: &mut Engine, listener: Uuid) -> Answer {
    read_frontend(engine, listener)
        .map_or(Answer::Nothing, |found| Answer::Frontend(Arc::new(found)))
}

fn read_frontend(engine: &mut Engine, uuid: Uuid) -> Option<Frontend> {
    let listener = engine.get(Kind::LOADBALANCER_LISTENER, uuid)?;
    let front: LoadbalancerListenerType = listener.property("loadbalancer_listener_properties")?;
    let more: ListenerExtension =
        listener.property("loadbalancer_listener_properties").unwrap_or_default();
    let balancer = listener.reference_to(Kind::LOADBALANCER)?.uuid;
    let balancer = engine.get(Kind::LOADBALANCER, balancer)?;
    let provider: Option<String> = balancer.property("loadbalancer_provider");
    let properties: LoadbalancerType =
        balancer.property("loadbalancer_properties").unwrap_or_default();
    let off = front.admin_state == Some(false) || properties.admin_state == Some(false);
    if provider.as_deref() != Some("native") || off {
        return None;
    }
    let extension: Extension = balancer.property("loadbalancer_service").unwrap_or_default();
    let virtual_port = balancer.reference_to(Kind::VIRTUAL_MACHINE_INTERFACE)?.uuid;
    let object = engine.get(Kind::VIRTUAL_MACHINE_INTERFACE, virtual_port)?;
    let network = object.reference_to(Kind::VIRTUAL_NETWORK)?.uuid;
    let Answer::Network(facts) = engine.ask(Query::Network(network)) else { return None };
    // A port of a node hangs on the pod's own port, whose floating IPs are nothing to it.
    let host_node = extension.host_node.clone().unwrap_or_default();
    let floating = if host_node.is_empty() { floating(engine, virtual_port) } else { Vec::new() };
    let (protocol, port) = (protocol(front.protocol.as_deref())?, number(front.protocol_port)?);
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let affinity = extension.session_affinity.as_deref() == Some("ClientIP");
    Some(Frontend {
        name: display_name(&balancer, &listener, port),
        addresses: if host_node.is_empty() {
            places(engine, virtual_port, properties.vip_address, &extension, &floating)
        } else {
            host_places(&extension)
        },
        floating,
        vrf: facts.vrf.clone(),
        network,
        protocol,
        port,
        node_port: more.node_port.unwrap_or(0),
        affinity_seconds: if affinity {
            extension.session_affinity_timeout.unwrap_or(AFFINITY_SECONDS)
        } else {
            0
        },
        internal_local: is_local(&extension.internal_traffic_policy),
        external_local: is_local(&extension.external_traffic_policy),
        publish_not_ready: extension.publish_not_ready == Some(true),
        health_check_port: extension.health_check_node_port.unwrap_or(0),
        node: host_node,
        distribution: match extension.traffic_distribution.as_deref() {
            Some("PreferSameZone") => Distribution::SameZone,
            Some("PreferSameNode") => Distribution::SameNode,
            _ => Distribution::Any,
        },
    })
}

/// Floating IPs of a port: network and address.
fn floating(engine: &mut Engine, port: Uuid) -> Vec<(Uuid, IpAddr)> {
    let mut out = Vec::new();
    for object in engine.back_references(port, Kind::FLOATING_IP) {
        let address: Option<String> = object.property("floating_ip_address");
        let address = address.and_then(|text| text.parse().ok());
        if let (Some(address), Some(network)) = (address, pool_network(engine, &object)) {
            out.push((network, address));
        }
    }
    out.sort_unstable();
    out
}

/// The network whose pool a floating IP comes from.
pub(crate) fn pool_network(engine: &mut Engine, floating_ip: &Object) -> Option<Uuid> {
    let (Kind::FLOATING_IP_POOL, pool) = floating_ip.parent? else { return None };
    match engine.get(Kind::FLOATING_IP_POOL, pool)?.parent {
        Some((Kind::VIRTUAL_NETWORK, network)) => Some(network),
        _ => None,
    }
}

/// Addresses of a node at which a port of it answers: unspecified ones stand for all of a family.
fn host_places(extension: &Extension) -> Vec<Place> {
    let listed: BTreeSet<IpAddr> = addresses(&extension.addresses).into_iter().collect();
    let place =
        |address| Place { address, cluster: true, announced: false, source_prefixes: Vec::new() };
    listed.into_iter().map(place).collect()
}

/// Every address of a balancer in its own VRF, each once.
fn places(
    engine: &mut Engine,
    virtual_port: Uuid,
    vip_address: Option<String>,
    extension: &Extension,
    floating: &[(Uuid, IpAddr)],
) -> Vec<Place> {
    let mut cluster = addresses(&extension.addresses);
    if cluster.is_empty() {
        cluster.extend(vip_address.and_then(|text| text.parse::<IpAddr>().ok()));
    }
    if cluster.is_empty() {
        for object in engine.back_references(virtual_port, Kind::INSTANCE_IP) {
            let address: Option<String> = object.property("instance_ip_address");
            cluster.extend(address.and_then(|text| text.parse::<IpAddr>().ok()));
        }
    }
    let sources: Vec<IpNet> = extension.source_ranges.iter().filter_map(rule::prefix).collect();
    let mut guarded = addresses(&extension.ingress_addresses);
    guarded.extend(floating.iter().map(|(_, address)| *address));
    let open = addresses(&extension.external_addresses);
    let mut announced = BTreeSet::new();
    for (network, address) in floating {
        if let Answer::Network(facts) = engine.ask(Query::Network(*network))
            && facts.underlay
        {
            announced.insert(*address);
        }
    }
    let mut out: BTreeMap<IpAddr, Place> = BTreeMap::new();
    let mut add = |list: Vec<IpAddr>, cluster: bool, sources: &[IpNet]| {
        for address in list.into_iter().filter(|address| !address.is_unspecified()) {
            out.entry(address).or_insert_with(|| Place {
                address,
                cluster,
                announced: announced.contains(&address),
                source_prefixes: sources.to_vec(),
            });
        }
    };
    add(cluster, true, &[]);
    add(guarded, false, &sources);
    add(open, false, &[]);
    out.into_values().collect()
}

fn display_name(balancer: &Object, listener: &Object, port: u16) -> String {
    let named = annotation(balancer, "namespace").zip(annotation(balancer, "name"));
    let service = named.map_or_else(
        || balancer.name().to_owned(),
        |(namespace, name)| format!("{namespace}/{name}"),
    );
    let port_name = annotation(listener, "portName").filter(|name| !name.is_empty());
    format!("{service}:{}", port_name.unwrap_or_else(|| port.to_string()))
}

/// A member with what decides whether it is chosen.
struct Candidate {
    member: Member,
    chosen: bool,
}

fn candidates(engine: &mut Engine, listener: Uuid, publish_not_ready: bool) -> Vec<Candidate> {
    let mut out = Vec::new();
    for pool in engine.back_references(listener, Kind::LOADBALANCER_POOL) {
        for object in engine.children(pool.uuid, Kind::LOADBALANCER_MEMBER) {
            let member: Option<LoadbalancerMemberType> =
                object.property("loadbalancer_member_properties");
            let Some(member) = member.filter(|member| member.admin_state != Some(false)) else {
                continue;
            };
            let more: MemberExtension =
                object.property("loadbalancer_member_properties").unwrap_or_default();
            let address = member.address.as_deref().and_then(|text| text.parse().ok());
            let (Some(address), Some(port)) = (address, number(member.protocol_port)) else {
                continue;
            };
            let terminating = more.terminating == Some(true);
            let ready = publish_not_ready || more.ready != Some(false);
            let draining = terminating && !publish_not_ready;
            out.push(Candidate {
                // Who is leaving may still serve; who is not ready does not.
                chosen: if draining { more.serving != Some(false) } else { ready },
                member: Member {
                    address,
                    port,
                    interface: more.interface.and_then(|text| text.parse().ok()),
                    node: more.node.unwrap_or_default(),
                    draining,
                    zone: more.zone.unwrap_or_default(),
                    hint_zones: more.hint_zones,
                    hint_nodes: more.hint_nodes,
                },
            });
        }
    }
    out
}

pub(crate) fn services(engine: &mut Engine, listener: Uuid) -> Answer {
    if engine.is_a(Kind::GLOBAL_VROUTER_CONFIG, listener) {
        return link_local::services(engine, listener);
    }
    let Answer::Frontend(front) = engine.ask(Query::Frontend(listener)) else {
        return Answer::Nothing;
    };
    let candidates = candidates(engine, listener, front.publish_not_ready);
    let mut present: BTreeMap<Uuid, BTreeSet<(IpAddr, u16)>> = BTreeMap::new();
    for Member { address, port, interface, .. } in candidates.iter().map(|one| &one.member) {
        if let Some(interface) = interface {
            present.entry(*interface).or_default().insert((*address, *port));
        }
    }
    let chosen: BTreeSet<Member> =
        candidates.into_iter().filter(|one| one.chosen).map(|one| one.member).collect();
    let services = front.addresses.iter().map(|place| Service {
        id: format!("{listener}/{}", place.address),
        name: front.name.clone(),
        vrf: front.vrf.clone(),
        address: place.address,
        protocol: front.protocol,
        port: front.port,
        members: chosen
            .iter()
            .filter(|member| member.address.is_ipv4() == place.address.is_ipv4())
            .cloned()
            .collect(),
        affinity_seconds: front.affinity_seconds,
        internal_local: place.cluster && front.internal_local,
        node_port: if place.cluster { front.node_port } else { 0 },
        external_local: front.external_local,
        external: !place.cluster,
        announced: place.announced && !place.cluster,
        source_prefixes: place.source_prefixes.clone(),
        health_check_port: front.health_check_port,
        node: front.node.clone(),
        distribution: front.distribution,
    });
    Answer::Services(Arc::new(ServiceSet {
        network: front.network,
        services: services.collect(),
        present,
    }))
}

/// Of a network and those joined to it, the ones that have services, with the names of their VRFs.
pub(crate) fn usable(engine: &mut Engine, network: Uuid, peers: &[Uuid]) -> Vec<(String, Uuid)> {
    let mut out = Vec::new();
    for candidate in std::iter::once(network).chain(peers.iter().copied()) {
        if !engine.has_services(candidate) {
            continue;
        }
        if let Answer::Network(facts) = engine.ask(Query::Network(candidate)) {
            out.push((facts.vrf.clone(), candidate));
        }
    }
    // Whoever they are, workloads reach what is link-local.
    if let Some(link_local) = link_local::network(engine)
        && let Answer::Network(facts) = engine.ask(Query::Network(link_local))
    {
        out.push((facts.vrf.clone(), link_local));
    }
    out.sort_unstable();
    out.dedup();
    out
}
