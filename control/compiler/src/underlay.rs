//! Networks whose addresses are the underlay's: those that refer to the nodes' own network as their provider.
//!
//! Nodes carry their packets to each other, to nodes and to the outside without a tunnel. Two such networks share the underlay and
//! would meet there, though nothing joins them: so what lies within the prefixes of any and is not routed is closed to
//! all ports that have a way into the underlay. A network with a pool of floating IPs is public and stays open.

use crate::engine::Engine;
use crate::query::{Answer, Query};
use crate::rule;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use skein_model::values::{AllocationPoolType, IpamSubnetType};
use skein_model::{FqName, Kind, Object};
use std::net::IpAddr;
use uuid::Uuid;

/// The network of the nodes.
pub(crate) const IP_FABRIC: &str = "default-domain:default-project:ip-fabric";

fn fabric(engine: &mut Engine) -> Option<Uuid> {
    engine.find(Kind::VIRTUAL_NETWORK, &FqName::parse(IP_FABRIC))
}

/// Whether a network's provider is the nodes' network.
pub(crate) fn is_underlay(engine: &mut Engine, network: &Object) -> bool {
    let mut providers = network.references_to(Kind::VIRTUAL_NETWORK).map(|r| r.uuid).peekable();
    // Most have none, and need not know which it would be.
    providers.peek().is_some()
        && fabric(engine).is_some_and(|fabric| providers.any(|provider| provider == fabric))
}

/// What one network of the underlay closes: the addresses its ports may have.
pub(crate) fn closes(
    engine: &mut Engine,
    network: &Object,
    subnets: &[IpamSubnetType],
) -> Vec<IpNet> {
    if !engine.children(network.uuid, Kind::FLOATING_IP_POOL).is_empty() {
        return Vec::new();
    }
    let mut out = Vec::new();
    for subnet in subnets {
        let pools = subnet.allocation_pools.iter().flat_map(|pool| range(pool));
        let before = out.len();
        out.extend(pools);
        if out.len() == before {
            out.extend(subnet.subnet.as_ref().and_then(rule::prefix));
        }
    }
    out
}

fn range(pool: &AllocationPoolType) -> Vec<IpNet> {
    let address = |text: &Option<String>| text.as_deref()?.parse::<IpAddr>().ok();
    match (address(&pool.start), address(&pool.end)) {
        (Some(IpAddr::V4(start)), Some(IpAddr::V4(end))) => {
            Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect()
        }
        (Some(IpAddr::V6(start)), Some(IpAddr::V6(end))) => {
            Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect()
        }
        _ => Vec::new(),
    }
}

/// All that is closed to ports with a way into the underlay.
pub(crate) fn closed(engine: &mut Engine) -> Vec<IpNet> {
    let Some(fabric) = fabric(engine) else { return Vec::new() };
    let networks = engine.back_references(fabric, Kind::VIRTUAL_NETWORK);
    let mut out = Vec::new();
    for network in networks {
        if let Answer::Network(facts) = engine.ask(Query::Network(network.uuid)) {
            out.extend(&facts.closes);
        }
    }
    out.sort();
    out.dedup();
    out
}
