//! Further VRFs in which a port can be reached: as a member of services, or by floating IPs.

use crate::engine::Engine;
use crate::intent::{Address, PolicySet};
use crate::query::{Answer, Query};
use crate::service::{pool_network, protocol_number};
use skein_model::Kind;
use skein_model::values::PortMappings;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// A port in another VRF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The VRF's network.
    pub network: Uuid,
    /// The VRF's name.
    pub vrf: String,
    /// Number of the network: the port's origin as seen there.
    pub network_id: u32,
    /// Policy that decides about its connections there; `None` when port security is off.
    pub policy: Option<Arc<PolicySet>>,
    /// `None`: reached by the port's own addresses, as a member of a service.
    pub floating: Option<Floating>,
    /// The floating address is one of the underlay, and this port has it there.
    pub underlay: bool,
}

/// A floating IP of a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Floating {
    /// Where others see the port.
    pub address: IpAddr,
    /// The address of the port that it stands for.
    pub fixed: IpAddr,
    /// Which connections it is for.
    pub direction: FloatingDirection,
    /// Empty: all ports, unchanged.
    pub mappings: BTreeSet<PortMapping>,
}

/// A port of a floating IP, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortMapping {
    /// IP protocol number.
    pub protocol: u8,
    /// Port of the floating IP.
    pub floating: u16,
    /// Port of the workload.
    pub fixed: u16,
}

/// Who opens the connections of a floating IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FloatingDirection {
    /// Either end.
    Both,
    /// The remote end.
    Ingress,
    /// The workload.
    Egress,
}

type Wanted = BTreeSet<(Uuid, Option<Floating>)>;

/// The contexts of a port of `network`; `policy` gives the one for a context's network.
pub(crate) fn contexts(
    engine: &mut Engine,
    port: Uuid,
    network: Uuid,
    own: &[Address],
    mut policy: impl FnMut(&mut Engine, Uuid) -> Option<Arc<PolicySet>>,
) -> Vec<Context> {
    let mut wanted: Wanted = memberships(engine, port, network);
    let own = floating_ips(engine, port, own);
    wanted.extend(own.iter().cloned());
    let mut out = Vec::new();
    for (network, floating) in wanted {
        let Answer::Network(facts) = engine.ask(Query::Network(network)) else { continue };
        out.push(Context {
            network,
            vrf: facts.vrf.clone(),
            network_id: facts.id,
            policy: policy(engine, network),
            // Those of services are answered for by one node of all that have a member.
            underlay: facts.underlay && own.contains(&(network, floating.clone())),
            floating,
        });
    }
    out.sort_by(|a, b| (&a.vrf, &a.floating).cmp(&(&b.vrf, &b.floating)));
    out
}

/// Networks whose services the port serves, and the floating IPs of those services, mapped to what it serves on.
fn memberships(engine: &mut Engine, port: Uuid, own_network: Uuid) -> Wanted {
    let mut out: Wanted = BTreeSet::new();
    let mut mapped: BTreeMap<(Uuid, IpAddr, IpAddr), BTreeSet<PortMapping>> = BTreeMap::new();
    for (listener, address, fixed) in engine.memberships(port) {
        let Answer::Frontend(front) = engine.ask(Query::Frontend(listener)) else { continue };
        // In its own network it has routes already.
        if front.network != own_network {
            out.insert((front.network, None));
        }
        for (network, floating) in &front.floating {
            if floating.is_ipv4() == address.is_ipv4() {
                let mapping = PortMapping { protocol: front.protocol, floating: front.port, fixed };
                mapped.entry((*network, *floating, address)).or_default().insert(mapping);
            }
        }
    }
    out.extend(mapped.into_iter().map(|((network, address, fixed), mappings)| {
        let direction = FloatingDirection::Ingress;
        (network, Some(Floating { address, fixed, direction, mappings }))
    }));
    out
}

fn floating_ips(engine: &mut Engine, port: Uuid, own: &[Address]) -> Wanted {
    let mut out = BTreeSet::new();
    for object in engine.back_references(port, Kind::FLOATING_IP) {
        let address = |name: &str| {
            let text: Option<String> = object.property(name);
            text.and_then(|text| text.parse::<IpAddr>().ok())
        };
        let Some(floating) = address("floating_ip_address") else { continue };
        let first = || {
            let mut own = own.iter().map(|address| address.prefix.addr());
            own.find(|address| address.is_ipv4() == floating.is_ipv4())
        };
        let Some(fixed) = address("floating_ip_fixed_ip_address").or_else(first) else { continue };
        let Some(network) = pool_network(engine, &object) else { continue };
        let direction: Option<String> = object.property("floating_ip_traffic_direction");
        let enabled = object.property("floating_ip_port_mappings_enable") == Some(true);
        let listed: Option<PortMappings> = object.property("floating_ip_port_mappings");
        let listed = listed.filter(|_| enabled).unwrap_or_default().port_mappings;
        let port = |value: Option<i64>| value.and_then(|value| u16::try_from(value).ok());
        let mappings = listed.iter().filter_map(|one| {
            Some(PortMapping {
                protocol: protocol_number(one.protocol.as_deref()?)?,
                floating: port(one.src_port)?,
                fixed: port(one.dst_port)?,
            })
        });
        let mappings: BTreeSet<PortMapping> = mappings.collect();
        // Mappings that are asked for and cannot be read must not open every port.
        if enabled && mappings.is_empty() {
            continue;
        }
        let direction = match direction.as_deref() {
            Some("ingress") => FloatingDirection::Ingress,
            Some("egress") => FloatingDirection::Egress,
            _ => FloatingDirection::Both,
        };
        out.insert((network, Some(Floating { address: floating, fixed, direction, mappings })));
    }
    out
}
