//! The port of a node's own stack: `vhost0` of a virtual-router, in the ip-fabric network.

use crate::cluster;
use crate::engine::Engine;
use crate::intent::{Address, Interface};
use crate::query::{Answer, Query, content_id};
use ipnet::IpNet;
use skein_model::{Kind, Object};
use skein_policy::Policy;
use std::net::IpAddr;

/// Name of the port, as the original calls it.
const NAME: &str = "vhost0";

/// Makes a port the host's, if the object is that of a virtual-router: it has the node's address, nothing judges it,
/// and what it reaches are the networks that policies join to its own.
pub(crate) fn complete(engine: &mut Engine, object: &Object, mut port: Interface) -> Interface {
    let Some((Kind::VIRTUAL_ROUTER, router)) = object.parent else { return port };
    if object.name() != NAME {
        return port;
    }
    let Some(router) = engine.get(Kind::VIRTUAL_ROUTER, router) else { return port };
    let address: Option<String> = router.property("virtual_router_ip_address");
    let address = address.and_then(|text| text.parse::<IpAddr>().ok());
    port.is_host = true;
    port.host = Some(router.name().to_owned());
    port.addresses = address
        .map(|address| Address { prefix: IpNet::from(address), gateway: None })
        .into_iter()
        .collect();
    let own = cluster::of(&router);
    let pass = engine.shared_policy(content_id(b"host"), Policy::default);
    port.policy = Some(pass.clone());
    for context in &mut port.contexts {
        context.policy = Some(pass.clone());
    }
    if let Answer::Peers(peers) = engine.ask(Query::Peers(port.network)) {
        for peer in peers.iter() {
            if let Answer::Network(facts) = engine.ask(Query::Network(*peer)) {
                if !cluster::meet(&own, &facts.cluster) {
                    port.others_services.insert(*peer);
                }
                let prefixes = facts.subnets.iter().map(|subnet| subnet.prefix);
                if facts.underlay {
                    port.underlay_prefixes.extend(prefixes);
                } else {
                    port.host_prefixes.extend(prefixes);
                }
            }
        }
    }
    for prefixes in [&mut port.host_prefixes, &mut port.underlay_prefixes] {
        prefixes.sort();
        prefixes.dedup();
    }
    port
}
