//! Link-local services: addresses that every workload reaches, whatever its network, and behind which the node itself or a machine
//! of the fabric answers (`linklocal_services` of global-vrouter-config, spec/vrouter.md section 5.4).

use crate::engine::Engine;
use crate::query::{Answer, Query};
use crate::service::{Distribution, Member, Service, ServiceSet};
use skein_model::values::LinklocalServicesTypes;
use skein_model::{FqName, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// The network that their addresses live in.
pub(crate) const NETWORK: &str = "default-domain:default-project:__link_local__";

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The network, once it has services.
pub(crate) fn network(engine: &mut Engine) -> Option<Uuid> {
    let uuid = engine.find(Kind::VIRTUAL_NETWORK, &FqName::parse(NETWORK))?;
    engine.has_services(uuid).then_some(uuid)
}

/// The services of a global-vrouter-config. An entry says no protocol: it stands for TCP and UDP.
pub(crate) fn services(engine: &mut Engine, config: Uuid) -> Answer {
    let Some(object) = engine.get(Kind::GLOBAL_VROUTER_CONFIG, config) else {
        return Answer::Nothing;
    };
    let entries: LinklocalServicesTypes = object.property("linklocal_services").unwrap_or_default();
    let Some(network) = engine.find(Kind::VIRTUAL_NETWORK, &FqName::parse(NETWORK)) else {
        return Answer::Nothing;
    };
    let Answer::Network(facts) = engine.ask(Query::Network(network)) else {
        return Answer::Nothing;
    };
    let port = |number: Option<i64>| u16::try_from(number?).ok().filter(|port| *port != 0);
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    for entry in &entries.linklocal_service_entry {
        let address = entry.linklocal_service_ip.as_deref().and_then(|text| text.parse().ok());
        let Some::<IpAddr>(address) = address else { continue };
        let (Some(at), Some(behind)) =
            (port(entry.linklocal_service_port), port(entry.ip_fabric_service_port))
        else {
            continue;
        };
        let members: BTreeSet<Member> = entry
            .ip_fabric_service_ip
            .iter()
            .filter_map(|text| text.parse::<IpAddr>().ok())
            .filter(|member| member.is_ipv4() && address.is_ipv4())
            .map(|address| Member {
                address,
                port: behind,
                interface: None,
                node: String::new(),
                draining: false,
                zone: String::new(),
                hint_zones: Vec::new(),
                hint_nodes: Vec::new(),
            })
            .collect();
        for protocol in [TCP, UDP] {
            let id = format!("{config}/{address}/{protocol}/{at}");
            // The first entry of an address and port has it.
            services.entry(id.clone()).or_insert_with(|| Service {
                id,
                name: entry.linklocal_service_name.clone().unwrap_or_default(),
                vrf: facts.vrf.clone(),
                address,
                protocol,
                port: at,
                members: members.iter().cloned().collect(),
                affinity_seconds: 0,
                internal_local: false,
                node_port: 0,
                external_local: false,
                external: false,
                announced: false,
                health_check_port: 0,
                node: String::new(),
                distribution: Distribution::default(),
                source_prefixes: Vec::new(),
            });
        }
    }
    if services.is_empty() {
        return Answer::Nothing;
    }
    Answer::Services(Arc::new(ServiceSet {
        network,
        services: services.into_values().collect(),
        present: BTreeMap::new(),
    }))
}
