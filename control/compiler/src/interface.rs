//! Ports: where they live, what they are called, what decides about their traffic.

use crate::context;
use crate::engine::Engine;
use crate::firewall::{APPLICATION, Subject};
use crate::host;
use crate::intent::{Address, Interface, PolicySet};
use crate::network::{NetworkFacts, flow_limit};
use crate::query::{Answer, Query, Stamped, content_id};
use crate::rule::Rules;
use crate::sub_interface;
use ipnet::IpNet;
use skein_bgp::{DEFAULT_LOCAL_PREFERENCE, STALE_LOCAL_PREFERENCE};
use skein_model::values::{KeyValuePairs, MacAddressesType, VirtualMachineInterfacePropertiesType};
use skein_model::views::{InstanceIp, Tag, VirtualMachineInterface};
use skein_model::{Kind, Object};
use skein_policy::{Attributes, Layer, Policy};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// A port without any rules of its own refers to this group (spec/config-api.md section 16).
const NO_RULE: &str = "__no_rule__";

pub(crate) fn interface(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::VIRTUAL_MACHINE_INTERFACE, uuid) else {
        return Answer::Nothing;
    };
    let Some(view) = VirtualMachineInterface::of(&object) else { return Answer::Nothing };
    let Some(network) = object.reference_to(Kind::VIRTUAL_NETWORK).map(|r| r.uuid) else {
        return Answer::Nothing;
    };
    let Answer::Network(facts) = engine.ask(Query::Network(network)) else {
        return Answer::Nothing;
    };
    let macs: MacAddressesType = view.virtual_machine_interface_mac_addresses().unwrap_or_default();
    let Some(mac) = macs.mac_address.first().cloned() else { return Answer::Nothing };
    let properties: VirtualMachineInterfacePropertiesType =
        view.virtual_machine_interface_properties().unwrap_or_default();
    let own_limit = flow_limit(properties.max_flows);
    let groups = groups(engine, &object);
    let mut ids: Vec<u32> = groups.iter().map(|(_, id)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    let tags = tags(engine, &object, network, &facts);
    let checks = view.port_security_enabled().unwrap_or(facts.port_security)
        && view.virtual_machine_interface_disable_policy() != Some(true);
    let addresses = addresses(engine, uuid, network, &facts);
    let subject = subject(&object, network, &facts, &tags);
    let own_policy = checks.then(|| policy(engine, network, &groups, &subject));
    let contexts = context::contexts(engine, uuid, network, &addresses, |engine, network| {
        checks.then(|| policy(engine, network, &groups, &subject))
    });
    let port = Interface {
        uuid,
        name: object.fq_name.to_string(),
        network,
        vrf: facts.vrf.clone(),
        mac,
        addresses,
        policy: own_policy,
        attributes: Attributes {
            network: facts.id,
            security_groups: ids,
            tags: tags.into_iter().map(|(id, _)| id).collect(),
        },
        max_flows: if own_limit > 0 { own_limit } else { facts.max_flows },
        local_preference: local_preference(properties.local_preference),
        enabled: object.enabled(),
        host: sub_interface::node(engine, &object),
        contexts,
        is_host: false,
        host_prefixes: Vec::new(),
        parent: sub_interface::parent(engine, &object),
        sub_interfaces: sub_interface::children(engine, &object),
        underlay_prefixes: Vec::new(),
        others_services: BTreeSet::new(),
    };
    Answer::Interface(Arc::new(host::complete(engine, &object, port)))
}

/// What the port wants; nothing, or what is no preference, is the default. The lowest is for paths of nodes that are away.
fn local_preference(wanted: Option<i64>) -> u32 {
    let wanted = wanted.and_then(|wanted| u32::try_from(wanted).ok());
    wanted.filter(|wanted| *wanted > STALE_LOCAL_PREFERENCE).unwrap_or(DEFAULT_LOCAL_PREFERENCE)
}

/// The node that a port is bound to, as Nova and the port service write it.
pub(crate) fn bound_to(bindings: &KeyValuePairs) -> Option<String> {
    let pair = bindings.key_value_pair.iter().find(|p| p.key.as_deref() == Some("host_id"))?;
    pair.value.clone().filter(|host| !host.is_empty())
}

/// Security groups of a port with their numbers.
fn groups(engine: &mut Engine, port: &Object) -> Vec<(Uuid, u32)> {
    let mut out = Vec::new();
    for reference in port.references_to(Kind::SECURITY_GROUP) {
        if let Answer::GroupId(id) = engine.ask(Query::GroupId(reference.uuid)) {
            out.push((reference.uuid, id));
        }
    }
    out
}

fn addresses(engine: &mut Engine, port: Uuid, network: Uuid, facts: &NetworkFacts) -> Vec<Address> {
    let mut out = Vec::new();
    for object in engine.back_references(port, Kind::INSTANCE_IP) {
        if !object.references_to(Kind::VIRTUAL_NETWORK).any(|r| r.uuid == network) {
            continue;
        }
        let address = InstanceIp::of(&object).and_then(InstanceIp::instance_ip_address);
        let Some(address) = address.and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
        let subnet = facts.subnets.iter().find(|s| s.prefix.contains(&address));
        let length = subnet.map(|s| s.prefix.prefix_len());
        let length = length.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
        if let Ok(prefix) = IpNet::new(address, length) {
            out.push(Address { prefix, gateway: subnet.and_then(|s| s.gateway) });
        }
    }
    out.sort();
    out.dedup();
    out
}

/// Tag types of which an object may carry several: label, `neutron_fwaas`, `neutron_tag`. What is nearer
/// hides none of these.
const SEVERAL: [u32; 3] = [0, 5, 6];

fn project(port: &Object, facts: &NetworkFacts) -> Option<Uuid> {
    match port.parent {
        Some((Kind::PROJECT, uuid)) => Some(uuid),
        _ => facts.project,
    }
}

/// What the firewall asks about a port.
fn subject(port: &Object, network: Uuid, facts: &NetworkFacts, tags: &[(u32, Uuid)]) -> Subject {
    Subject {
        project: project(port, facts),
        network,
        applications: tags
            .iter()
            .filter(|(id, _)| id >> 16 == APPLICATION)
            .map(|(_, uuid)| *uuid)
            .collect(),
        tags: tags.iter().map(|(id, _)| *id).collect(),
    }
}

/// Tags of a port, sorted: its own, then for types it has none of, its machine's, its network's and
/// its project's (spec/vrouter.md section 4.3).
fn tags(
    engine: &mut Engine,
    port: &Object,
    network: Uuid,
    facts: &NetworkFacts,
) -> Vec<(u32, Uuid)> {
    let project = project(port, facts);
    let machine = port.reference_to(Kind::VIRTUAL_MACHINE).map(|r| r.uuid);
    let holders = [Some(port.uuid), machine, Some(network), project];
    let mut by_type: BTreeMap<u32, (usize, Vec<(u32, Uuid)>)> = BTreeMap::new();
    for (rank, holder) in holders.into_iter().flatten().enumerate() {
        let Answer::Tags(tags) = engine.ask(Query::Tags(holder)) else { continue };
        for tag in tags.iter() {
            let tag_type = tag.0 >> 16;
            let (owner, list) = by_type.entry(tag_type).or_insert((rank, Vec::new()));
            if *owner == rank || SEVERAL.contains(&tag_type) {
                list.push(*tag);
            }
        }
    }
    let mut out: Vec<(u32, Uuid)> = by_type.into_values().flat_map(|(_, ids)| ids).collect();
    out.sort_unstable();
    out.dedup_by_key(|(id, _)| *id);
    out
}

/// The tags that one object carries itself.
pub(crate) fn own_tags(engine: &mut Engine, holder: Uuid) -> Answer {
    let Some(object) = engine.any(holder) else { return Answer::Nothing };
    let mut ids = Vec::new();
    for reference in object.references_to(Kind::TAG) {
        let Some(tag) = engine.get(Kind::TAG, reference.uuid) else { continue };
        let id = Tag::of(&tag).and_then(Tag::tag_id).and_then(|text| hex(&text));
        ids.extend(id.map(|id| (id, tag.uuid)));
    }
    Answer::Tags(Arc::new(ids))
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
}

fn policy(
    engine: &mut Engine,
    network: Uuid,
    groups: &[(Uuid, u32)],
    subject: &Subject,
) -> Arc<PolicySet> {
    let network_layer = match engine.ask(Query::NetworkLayer(network)) {
        Answer::Layer(layer) => Some(layer),
        _ => None,
    };
    let groups = group_rules(engine, groups);
    let firewall = match engine.firewall(subject.clone()) {
        Answer::Firewall(firewall) => Some(firewall),
        _ => None,
    };
    // Equal parts make equal ids, so ports share policies and a change is a new id.
    let mut parts = Vec::new();
    parts.extend(network_layer.iter().flat_map(|layer| *layer.id.as_bytes()));
    parts.push(b'/');
    parts.extend(groups.iter().flat_map(|rules| *rules.id.as_bytes()));
    if let Some(firewall) = &firewall {
        parts.push(b'!');
        parts.extend(firewall.id.as_bytes());
    }
    engine.shared_policy(content_id(&parts), || {
        let mut layers: Vec<Layer> = network_layer.iter().map(|l| l.value.clone()).collect();
        if !groups.is_empty() {
            layers.push(Layer {
                name: "security-group".into(),
                egress: groups.iter().flat_map(|rules| rules.value.egress.clone()).collect(),
                ingress: groups.iter().flat_map(|rules| rules.value.ingress.clone()).collect(),
                default_pass: false,
            });
        }
        let mut staged = Vec::new();
        if let Some(firewall) = &firewall {
            if let Some(layer) = &firewall.value.staged {
                staged.clone_from(&layers);
                staged.push(layer.clone());
            }
            layers.extend(firewall.value.enforced.clone());
        }
        Policy { layers, staged }
    })
}

/// Rules of a port's groups in the order of their numbers: what a union of allow rules means does
/// not depend on order, and a fixed one keeps ids equal.
fn group_rules(engine: &mut Engine, groups: &[(Uuid, u32)]) -> Vec<Arc<Stamped<Rules>>> {
    let mut sorted: Vec<_> = groups.to_vec();
    sorted.sort_by_key(|(_, id)| *id);
    let mut out = Vec::new();
    for (uuid, _) in sorted {
        if engine.get(Kind::SECURITY_GROUP, uuid).is_some_and(|group| group.name() == NO_RULE) {
            continue;
        }
        if let Answer::Rules(rules) = engine.ask(Query::GroupRules(uuid)) {
            out.push(rules);
        }
    }
    out
}
