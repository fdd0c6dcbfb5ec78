//! Virtual networks: facts, route targets, VRFs; and cluster-wide settings.

use crate::engine::Engine;
use crate::intent::{Global, Subnet, Vrf};
use crate::query::{Answer, Query};
use crate::underlay::{self, IP_FABRIC};
use crate::{cluster, link_local, port_pools, rule, service};
use ipnet::IpNet;
use skein_bgp::{RouteTarget, TunnelType};
use skein_model::values::{InstanceTargetType, IpamSubnetType, RouteTargetList, VnSubnetsType};
use skein_model::views::{GlobalSystemConfig, GlobalVrouterConfig, NetworkIpam, VirtualNetwork};
use skein_model::{FqName, Kind, Object};
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

/// What others need to know of a virtual network.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NetworkFacts {
    /// Its name.
    pub(crate) name: FqName,
    /// Its number.
    pub(crate) id: u32,
    /// Its default routing instance.
    pub(crate) vrf: String,
    /// Its subnets, of its own and of flat IPAMs.
    pub(crate) subnets: Vec<Subnet>,
    /// Whether ports check policy unless they say otherwise.
    pub(crate) port_security: bool,
    /// The project it belongs to.
    pub(crate) project: Option<Uuid>,
    /// Flow limit for ports that have none.
    pub(crate) max_flows: u32,
    /// What no route matches leaves from the node's own address.
    pub(crate) fabric_snat: bool,
    /// Its addresses are the underlay's.
    pub(crate) underlay: bool,
    /// What it then closes to others there.
    pub(crate) closes: Vec<IpNet>,
    /// The cluster that it belongs to; empty: to all.
    pub(crate) cluster: String,
}

/// Route targets that a network has of its own, not through policies.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RouteTargets {
    /// Imported.
    pub(crate) import: BTreeSet<RouteTarget>,
    /// Exported.
    pub(crate) export: BTreeSet<RouteTarget>,
}

/// A positive number of a flow limit; anything else means no limit of its own.
pub(crate) fn flow_limit(value: Option<i64>) -> u32 {
    value.map_or(0, |v| u32::try_from(v.max(0)).unwrap_or(u32::MAX))
}

fn routing_instance(engine: &mut Engine, network: &Object) -> Option<Arc<Object>> {
    let all = engine.children(network.uuid, Kind::ROUTING_INSTANCE);
    let is_default =
        |ri: &&Arc<Object>| ri.property::<bool>("routing_instance_is_default") == Some(true);
    all.iter()
        .find(is_default)
        .or_else(|| all.iter().find(|ri| ri.name() == network.name()))
        .cloned()
}

pub(crate) fn facts(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::VIRTUAL_NETWORK, uuid) else { return Answer::Nothing };
    let Some(view) = VirtualNetwork::of(&object) else { return Answer::Nothing };
    let Some(id) = view.virtual_network_network_id().and_then(|id| u32::try_from(id).ok()) else {
        return Answer::Nothing;
    };
    // The default routing instance is always called like its network (spec/control-plane.md 1.1).
    let vrf = object.fq_name.child(object.name()).to_string();
    let configured = subnets(engine, &object);
    let underlay = underlay::is_underlay(engine, &object);
    let closes = if underlay { underlay::closes(engine, &object, &configured) } else { Vec::new() };
    Answer::Network(Arc::new(NetworkFacts {
        name: object.fq_name.clone(),
        id,
        vrf,
        subnets: configured.iter().filter_map(subnet).collect(),
        port_security: view.port_security_enabled().unwrap_or(true),
        project: object.parent.map(|(_, uuid)| uuid),
        max_flows: flow_limit(view.virtual_network_properties().and_then(|p| p.max_flows)),
        // In the underlay they have a way of their own.
        fabric_snat: view.fabric_snat() == Some(true) && !underlay,
        underlay,
        closes,
        cluster: cluster::of(&object),
    }))
}

/// Subnets of a network, its own and those of flat IPAMs.
fn subnets(engine: &mut Engine, network: &Object) -> Vec<IpamSubnetType> {
    let mut out = Vec::new();
    for reference in network.references_to(Kind::NETWORK_IPAM) {
        let Some(link) = reference.attribute::<VnSubnetsType>() else { continue };
        let flat = link.ipam_subnets.iter().any(|s| s.subnet.is_none());
        out.extend(link.ipam_subnets);
        if flat && let Some(ipam) = engine.get(Kind::NETWORK_IPAM, reference.uuid) {
            let own = NetworkIpam::of(&ipam).and_then(NetworkIpam::ipam_subnets);
            out.extend(own.unwrap_or_default().subnets);
        }
    }
    out
}

fn subnet(config: &IpamSubnetType) -> Option<Subnet> {
    let address = |text: &Option<String>| {
        let address = text.as_deref()?.parse::<std::net::IpAddr>().ok()?;
        (!address.is_unspecified()).then_some(address)
    };
    Some(Subnet {
        prefix: rule::prefix(config.subnet.as_ref()?)?,
        gateway: address(&config.default_gateway),
        service_address: address(&config.dns_server_address),
    })
}

pub(crate) fn route_targets(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::VIRTUAL_NETWORK, uuid) else { return Answer::Nothing };
    let Some(view) = VirtualNetwork::of(&object) else { return Answer::Nothing };
    let mut out = RouteTargets::default();
    if let Some(instance) = routing_instance(engine, &object) {
        for reference in instance.references_to(Kind::ROUTE_TARGET) {
            let Some(target) = engine.get(Kind::ROUTE_TARGET, reference.uuid) else { continue };
            let Ok(number) = target.fq_name.to_string().parse() else { continue };
            let side = reference.attribute::<InstanceTargetType>().and_then(|t| t.import_export);
            if side.as_deref() != Some("export") {
                out.import.insert(number);
            }
            if side.as_deref() != Some("import") {
                out.export.insert(number);
            }
        }
    }
    // The API checks the form; a target it let through that is none belongs nowhere.
    let listed = |list: Option<RouteTargetList>| -> BTreeSet<RouteTarget> {
        let list = list.unwrap_or_default().route_target;
        list.iter().filter_map(|text| text.parse().ok()).collect()
    };
    let both = listed(view.route_target_list());
    out.import.extend(&both);
    out.export.extend(&both);
    out.import.extend(listed(view.import_route_target_list()));
    out.export.extend(listed(view.export_route_target_list()));
    // Routes of services' members stay within: nobody may ask for them.
    out.import.retain(|target| !target.is_private());
    out.export.retain(|target| !target.is_private());
    // In the original the nodes' network has no VPN routes; here the nodes' own stacks are workloads of it.
    if object.fq_name.to_string() == IP_FABRIC {
        out.import.insert(RouteTarget::FABRIC);
        out.export.insert(RouteTarget::FABRIC);
    }
    Answer::RouteTargets(Arc::new(out))
}

pub(crate) fn vrf(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Answer::Network(network) = engine.ask(Query::Network(uuid)) else {
        return Answer::Nothing;
    };
    let Answer::RouteTargets(own) = engine.ask(Query::RouteTargets(uuid)) else {
        return Answer::Nothing;
    };
    let mut import = own.import.clone();
    let peers = match engine.ask(Query::Peers(uuid)) {
        Answer::Peers(peers) => peers,
        _ => Arc::default(),
    };
    for peer in peers.iter() {
        if let Answer::RouteTargets(theirs) = engine.ask(Query::RouteTargets(*peer)) {
            import.extend(&theirs.export);
        }
    }
    let dns = match engine.ask(Query::NetworkDns(uuid)) {
        Answer::DnsServer(server) => Some(server),
        _ => None,
    };
    Answer::Vrf(Arc::new(Vrf {
        name: network.vrf.clone(),
        network: network.name.to_string(),
        network_uuid: uuid,
        network_id: network.id,
        subnets: network.subnets.clone(),
        import,
        export: own.export.clone(),
        service_vrfs: service::usable(engine, uuid, &peers),
        fabric_snat: network.fabric_snat,
        underlay: network.underlay,
        native: network.underlay || network.name.to_string() == IP_FABRIC,
        closed: if network.underlay || network.fabric_snat {
            underlay::closed(engine)
        } else {
            Vec::new()
        },
        dns,
        link_local: network.name.to_string() == link_local::NETWORK,
    }))
}

/// Defaults of a cluster without configuration: DESIGN.md decision 9.
const DEFAULT_ENCAPSULATIONS: [TunnelType; 3] =
    [TunnelType::Vxlan, TunnelType::MplsOverUdp, TunnelType::MplsOverGre];
const DEFAULT_AUTONOMOUS_SYSTEM: u32 = 64512;

pub(crate) fn global(engine: &mut Engine) -> Answer {
    let system = FqName::single("default-global-system-config");
    let vrouter = system.child("default-global-vrouter-config");
    let autonomous_system = engine
        .by_name(Kind::GLOBAL_SYSTEM_CONFIG, &system)
        .as_deref()
        .and_then(GlobalSystemConfig::of)
        .and_then(GlobalSystemConfig::autonomous_system)
        .and_then(|asn| u32::try_from(asn).ok())
        .unwrap_or(DEFAULT_AUTONOMOUS_SYSTEM);
    let object = engine.by_name(Kind::GLOBAL_VROUTER_CONFIG, &vrouter);
    let vrouter = object.as_deref().and_then(GlobalVrouterConfig::of);
    let pools = vrouter.and_then(GlobalVrouterConfig::port_translation_pools).unwrap_or_default();
    let listed =
        vrouter.and_then(GlobalVrouterConfig::encapsulation_priorities).unwrap_or_default();
    let mut encapsulations: Vec<TunnelType> =
        listed.encapsulation.iter().filter_map(|name| TunnelType::parse(name)).collect();
    if encapsulations.is_empty() {
        encapsulations = DEFAULT_ENCAPSULATIONS.to_vec();
    }
    let nodes = match engine.ask(Query::Nodes) {
        Answer::Nodes(nodes) => nodes,
        _ => Arc::default(),
    };
    let port_pools = port_pools::read(&pools);
    Answer::Global(Arc::new(Global { autonomous_system, encapsulations, nodes, port_pools }))
}
