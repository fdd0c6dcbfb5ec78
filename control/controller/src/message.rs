//! Intent and routes as messages.

use crate::node::IntentDelta;
use ipnet::IpNet;
use skein_bgp::{Path, PathKey, TunnelType};
use skein_compiler::{
    Context, Distribution, FloatingDirection, FlowAge, Interface, Member, NodeFacts, PolicySet,
    PortMapping, PortPool, Service, Vrf,
};
use skein_policy::{Layer, Peer, Rule, RuleAction};
use skein_proto::session::{self, Encapsulation, policy_peer, to_agent};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// "Any" in `PolicyRule.protocol`.
const ANY_PROTOCOL: u32 = 256;

/// Tunnel types that a node says it can receive.
pub(crate) fn tunnels(encapsulations: &[i32]) -> Vec<TunnelType> {
    let one = |value: &i32| match Encapsulation::try_from(*value) {
        Ok(Encapsulation::Vxlan) => Some(TunnelType::Vxlan),
        Ok(Encapsulation::MplsOUdp) => Some(TunnelType::MplsOverUdp),
        Ok(Encapsulation::MplsOGre) => Some(TunnelType::MplsOverGre),
        _ => None,
    };
    encapsulations.iter().filter_map(one).collect()
}

fn encapsulations(tunnels: &[TunnelType]) -> Vec<i32> {
    let one = |tunnel: &TunnelType| match tunnel {
        TunnelType::Vxlan => Encapsulation::Vxlan,
        TunnelType::MplsOverUdp => Encapsulation::MplsOUdp,
        TunnelType::MplsOverGre => Encapsulation::MplsOGre,
    };
    tunnels.iter().map(|tunnel| i32::from(one(tunnel))).collect()
}

pub(crate) fn intent(delta: &IntentDelta) -> session::ToAgent {
    let mut message = session::Intent {
        revision: delta.revision,
        global: delta.global.as_ref().map(|global| session::Global {
            encapsulation_priorities: encapsulations(&global.encapsulations),
            nodes: global.nodes.iter().map(|n| node(n)).collect(),
            port_pools: global.port_pools.iter().map(port_pool).collect(),
            flow_ages: global.flow_ages.iter().map(flow_age).collect(),
        }),
        vrfs: delta.vrfs.iter().map(|v| vrf(v)).collect(),
        vrfs_removed: delta.vrfs_removed.clone(),
        policies: delta.policies.iter().map(|p| policy(p)).collect(),
        policies_removed: delta.policies_removed.iter().map(ToString::to_string).collect(),
        interfaces: delta.interfaces.iter().map(|i| interface(i)).collect(),
        interfaces_removed: delta.interfaces_removed.iter().map(ToString::to_string).collect(),
        end_of_snapshot: delta.end_of_snapshot,
        services: delta.services.iter().map(service).collect(),
        services_removed: delta.services_removed.clone(),
        ..session::Intent::default()
    };
    delta.dns.write(&mut message);
    session::ToAgent { message: Some(to_agent::Message::Intent(message)) }
}

fn port_pool(pool: &PortPool) -> session::PortPool {
    session::PortPool {
        protocol: pool.protocol.into(),
        first: pool.first.into(),
        last: pool.last.into(),
    }
}

fn flow_age(age: &FlowAge) -> session::FlowAge {
    session::FlowAge { protocol: age.protocol.into(), port: age.port.into(), seconds: age.seconds }
}

fn node(node: &NodeFacts) -> session::NodeFacts {
    session::NodeFacts {
        name: node.name.clone(),
        addresses: node.addresses.iter().map(ToString::to_string).collect(),
        zone: node.zone.clone(),
    }
}

fn address(address: Option<IpAddr>) -> String {
    address.map_or_else(String::new, |address| address.to_string())
}

fn vrf(vrf: &Vrf) -> session::Vrf {
    session::Vrf {
        name: vrf.name.clone(),
        network: vrf.network.clone(),
        network_uuid: vrf.network_uuid.to_string(),
        network_id: vrf.network_id,
        subnets: vrf
            .subnets
            .iter()
            .map(|subnet| session::Subnet {
                prefix: subnet.prefix.to_string(),
                gateway: address(subnet.gateway),
                service_address: address(subnet.service_address),
            })
            .collect(),
        service_vrfs: vrf.service_vrfs.iter().map(|(name, _)| name.clone()).collect(),
        fabric_snat: vrf.fabric_snat,
        underlay: vrf.underlay,
        closed_prefixes: vrf.closed.iter().map(ToString::to_string).collect(),
        dns_zone: vrf.dns.map_or_else(String::new, |zone| zone.to_string()),
        link_local: vrf.link_local,
    }
}

fn interface(port: &Interface) -> session::Interface {
    session::Interface {
        uuid: port.uuid.to_string(),
        name: port.name.clone(),
        vrf: port.vrf.clone(),
        mac: port.mac.clone(),
        addresses: port
            .addresses
            .iter()
            .map(|a| session::Address { prefix: a.prefix.to_string(), gateway: address(a.gateway) })
            .collect(),
        policy: port.policy.as_ref().map_or_else(String::new, |set| set.id.to_string()),
        policy_disabled: port.policy.is_none(),
        network_id: port.attributes.network,
        security_groups: port.attributes.security_groups.clone(),
        tags: port.attributes.tags.clone(),
        max_flows: port.max_flows,
        local_preference: port.local_preference,
        admin_down: !port.enabled,
        contexts: port.contexts.iter().map(context).collect(),
        host: port.is_host,
        host_prefixes: port.host_prefixes.iter().map(ToString::to_string).collect(),
        parent: port.parent.map_or_else(String::new, |(parent, _)| parent.to_string()),
        vlan: port.parent.map_or(0, |(_, tag)| tag.into()),
        sub_interfaces: port.sub_interfaces.iter().map(ToString::to_string).collect(),
        underlay_prefixes: port.underlay_prefixes.iter().map(ToString::to_string).collect(),
    }
}

fn context(context: &Context) -> session::Context {
    let floating = context.floating.as_ref();
    let mapping = |mapping: &PortMapping| session::PortMapping {
        protocol: mapping.protocol.into(),
        floating_port: mapping.floating.into(),
        fixed_port: mapping.fixed.into(),
    };
    let direction = match floating.map(|floating| floating.direction) {
        None | Some(FloatingDirection::Both) => session::FloatingDirection::Both,
        Some(FloatingDirection::Ingress) => session::FloatingDirection::Ingress,
        Some(FloatingDirection::Egress) => session::FloatingDirection::Egress,
    };
    session::Context {
        vrf: context.vrf.clone(),
        policy: context.policy.as_ref().map_or_else(String::new, |set| set.id.to_string()),
        network_id: context.network_id,
        floating_address: address(floating.map(|floating| floating.address)),
        fixed_address: address(floating.map(|floating| floating.fixed)),
        port_mappings: floating.into_iter().flat_map(|f| &f.mappings).map(mapping).collect(),
        direction: direction.into(),
        underlay: context.underlay,
    }
}

fn service(service: &Service) -> session::Service {
    session::Service {
        id: service.id.clone(),
        vrf: service.vrf.clone(),
        address: service.address.to_string(),
        protocol: service.protocol.into(),
        port: service.port.into(),
        members: service.members.iter().map(member).collect(),
        affinity_seconds: service.affinity_seconds,
        internal_local: service.internal_local,
        node_port: service.node_port.into(),
        external_local: service.external_local,
        external: service.external,
        announced: service.announced,
        name: service.name.clone(),
        source_prefixes: service.source_prefixes.iter().map(ToString::to_string).collect(),
        health_check_port: service.health_check_port.into(),
        node: service.node.clone(),
        distribution: match service.distribution {
            Distribution::Any => session::Distribution::Any,
            Distribution::SameZone => session::Distribution::SameZone,
            Distribution::SameNode => session::Distribution::SameNode,
        }
        .into(),
    }
}

fn member(member: &Member) -> session::Member {
    session::Member {
        address: member.address.to_string(),
        port: member.port.into(),
        interface: member.interface.map_or_else(String::new, |uuid| uuid.to_string()),
        node: member.node.clone(),
        draining: member.draining,
        zone: member.zone.clone(),
        hint_zones: member.hint_zones.clone(),
        hint_nodes: member.hint_nodes.clone(),
    }
}

fn policy(set: &PolicySet) -> session::PolicySet {
    session::PolicySet {
        id: set.id.to_string(),
        layers: set.policy.layers.iter().map(layer).collect(),
        staged: set.policy.staged.iter().map(layer).collect(),
    }
}

fn layer(layer: &Layer) -> session::PolicyLayer {
    session::PolicyLayer {
        name: layer.name.clone(),
        egress: layer.egress.iter().map(rule).collect(),
        ingress: layer.ingress.iter().map(rule).collect(),
        default_pass: layer.default_pass,
    }
}

fn rule(rule: &Rule) -> session::PolicyRule {
    let ports = |ranges: &[RangeInclusive<u16>]| {
        let one = |range: &RangeInclusive<u16>| session::PortRange {
            first: u32::from(*range.start()),
            last: u32::from(*range.end()),
        };
        ranges.iter().map(one).collect()
    };
    session::PolicyRule {
        id: rule.id.to_string(),
        pass: rule.action == RuleAction::Pass,
        skip: rule.action == RuleAction::Skip,
        tier: rule.tier,
        remotes: rule.remotes.iter().map(peer).collect(),
        remote_tags: rule.remote_tags.clone(),
        local_prefixes: rule.local_prefixes.iter().map(ToString::to_string).collect(),
        family: rule.family.map_or(0, u32::from),
        protocol: rule.protocol.map_or(ANY_PROTOCOL, u32::from),
        source_ports: ports(&rule.source_ports),
        destination_ports: ports(&rule.destination_ports),
    }
}

fn peer(peer: &Peer) -> session::PolicyPeer {
    let peer = match peer {
        Peer::Network(id) => policy_peer::Peer::NetworkId(*id),
        Peer::SecurityGroup(id) => policy_peer::Peer::SecurityGroup(*id),
        Peer::Prefix(prefix) => policy_peer::Peer::Prefix(prefix.to_string()),
        Peer::PrefixExcept(prefix, except) => {
            policy_peer::Peer::PrefixExcept(session::PrefixExcept {
                prefix: prefix.to_string(),
                except: except.iter().map(ToString::to_string).collect(),
            })
        }
        Peer::Tags(ids) => policy_peer::Peer::Tags(session::TagSet { ids: ids.clone() }),
    };
    session::PolicyPeer { peer: Some(peer) }
}

pub(crate) fn route(vrf: &str, prefix: &IpNet, best: &[(&PathKey, &Arc<Path>)]) -> session::Route {
    let path = |(key, path): &(&PathKey, &Arc<Path>)| session::Path {
        next_hop: path.next_hop.to_string(),
        node: key.source.0.to_string(),
        label: path.label,
        encapsulations: encapsulations(&path.tunnels),
        native: path.native,
        network_id: path.network,
        security_groups: path.security_groups.clone(),
        tags: path.tags.clone(),
        local_preference: path.local_preference,
        route_distinguisher: key.rd.to_string(),
    };
    session::Route {
        vrf: vrf.to_owned(),
        prefix: prefix.to_string(),
        paths: best.iter().map(path).collect(),
    }
}
