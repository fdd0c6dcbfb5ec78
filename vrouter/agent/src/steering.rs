//! Contexts, services and the node's own address in the datapath's terms, and back.

use crate::state::{
    ContextEntry, FloatingDirection, FloatingEntry, NodeEntry, PolicyState, PortPools,
    ServiceEntry, ServiceKey,
};
use skein_datapath as datapath;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

pub(crate) fn context(entry: &ContextEntry) -> datapath::Context {
    let (policy4, policy6) = match entry.policy {
        PolicyState::Loaded { v4, v6 } => (Some(v4), Some(v6)),
        PolicyState::Missing | PolicyState::Disabled => (None, None),
    };
    datapath::Context {
        vrf: entry.vrf,
        policy4,
        policy6,
        floating: entry.floating.as_ref().map(|floating| datapath::Floating {
            address: floating.address,
            fixed: floating.fixed,
            direction: match floating.direction {
                FloatingDirection::Both => datapath::FloatingDirection::Both,
                FloatingDirection::Ingress => datapath::FloatingDirection::Ingress,
                FloatingDirection::Egress => datapath::FloatingDirection::Egress,
            },
            ports: floating
                .ports
                .iter()
                .map(|(protocol, floating, fixed)| datapath::PortMapping {
                    protocol: *protocol,
                    floating: *floating,
                    fixed: *fixed,
                })
                .collect(),
        }),
    }
}

pub(crate) fn context_entry(context: &datapath::Context, ifindex: u32) -> ContextEntry {
    ContextEntry {
        ifindex,
        vrf: context.vrf,
        policy: match (context.policy4, context.policy6) {
            (Some(v4), Some(v6)) => PolicyState::Loaded { v4, v6 },
            _ => PolicyState::Missing,
        },
        floating: context.floating.as_ref().map(|floating| FloatingEntry {
            address: floating.address,
            fixed: floating.fixed,
            direction: match floating.direction {
                datapath::FloatingDirection::Both => FloatingDirection::Both,
                datapath::FloatingDirection::Ingress => FloatingDirection::Ingress,
                datapath::FloatingDirection::Egress => FloatingDirection::Egress,
            },
            ports: floating.ports.iter().map(|p| (p.protocol, p.floating, p.fixed)).collect(),
        }),
    }
}

pub(crate) fn service_key(key: &ServiceKey) -> datapath::ServiceKey {
    let (vrf, address, protocol, port) = *key;
    datapath::ServiceKey { vrf, address, protocol, port }
}

pub(crate) fn service(key: &ServiceKey, entry: &ServiceEntry) -> datapath::Service {
    let seconds = u64::from(entry.affinity_seconds);
    datapath::Service {
        at: service_key(key),
        member_vrf: entry.member_vrf,
        members: entry
            .members
            .iter()
            .map(|(address, port, draining)| datapath::ServiceMember {
                address: *address,
                port: *port,
                draining: *draining,
            })
            .collect(),
        affinity: (seconds != 0).then(|| Duration::from_secs(seconds)),
        keep_source: entry.keep_source,
        link_local: entry.link_local,
        open: entry.open,
        sources: entry.sources.iter().copied().collect(),
        by_node: entry.by_node,
    }
}

pub(crate) fn service_entry(service: &datapath::Service) -> (ServiceKey, ServiceEntry) {
    let at = service.at;
    let seconds = service.affinity.map_or(0, |affinity| affinity.as_secs());
    let entry = ServiceEntry {
        member_vrf: service.member_vrf,
        members: service.members.iter().map(|m| (m.address, m.port, m.draining)).collect(),
        affinity_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        keep_source: service.keep_source,
        link_local: service.link_local,
        open: service.open,
        sources: service.sources.iter().copied().collect(),
        by_node: service.by_node,
    };
    ((at.vrf, at.address, at.protocol, at.port), entry)
}

pub(crate) fn node_address(entry: &NodeEntry) -> datapath::NodeAddress {
    let PortPools { tcp, udp, sctp } = entry.pools.clone();
    let base = datapath::NodeAddress {
        host: entry.host,
        tcp,
        udp,
        sctp,
        ..datapath::NodeAddress::default()
    };
    match entry.address {
        IpAddr::V4(address) => {
            datapath::NodeAddress { address4: Some(address), next_hop4: entry.next_hop, ..base }
        }
        IpAddr::V6(address) => {
            datapath::NodeAddress { address6: Some(address), next_hop6: entry.next_hop, ..base }
        }
    }
}

pub(crate) fn node_addresses(
    addresses: &BTreeMap<IpAddr, bool>,
) -> BTreeMap<IpAddr, datapath::AddressOwner> {
    let owner = |own: &bool| match own {
        true => datapath::AddressOwner::This,
        false => datapath::AddressOwner::Other,
    };
    addresses.iter().map(|(address, own)| (*address, owner(own))).collect()
}

pub(crate) fn node_entry(node: &datapath::NodeAddress) -> Option<NodeEntry> {
    let v4 = node.address4.map(|address| (address.into(), node.next_hop4));
    let v6 = || node.address6.map(|address| (address.into(), node.next_hop6));
    let (address, next_hop) = v4.or_else(v6)?;
    let pools = PortPools { tcp: node.tcp.clone(), udp: node.udp.clone(), sctp: node.sctp.clone() };
    Some(NodeEntry { address, host: node.host, next_hop, pools })
}
