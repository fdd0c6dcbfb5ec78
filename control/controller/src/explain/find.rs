//! Finds the port that a question is about.

use super::Refusal;
use crate::core::Core;
use crate::find::position;
use serde::Serialize;
use skein_compiler::Interface;
use skein_model::{FqName, Kind};
use std::sync::Arc;
use uuid::Uuid;

/// A port, for people.
#[derive(Debug, Serialize)]
pub(crate) struct PortView {
    /// The virtual-machine-interface.
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    /// The machine it is a port of, if it is one's.
    pub(crate) machine: Option<String>,
    pub(crate) network: String,
    pub(crate) addresses: Vec<String>,
    /// The node it is bound to.
    pub(crate) node: Option<String>,
    /// The node's own stack.
    pub(crate) is_host: bool,
}

pub(crate) fn view(core: &Core, port: &Interface) -> PortView {
    let graph = core.engine().graph();
    let machine = graph.get(port.uuid).and_then(|object| {
        let machine = object.reference_to(Kind::VIRTUAL_MACHINE)?;
        Some(graph.get(machine.uuid)?.fq_name.to_string())
    });
    PortView {
        uuid: port.uuid,
        name: port.name.clone(),
        machine,
        network: network_name(core, port.network),
        addresses: port.addresses.iter().map(|a| a.prefix.addr().to_string()).collect(),
        node: port.host.clone(),
        is_host: port.is_host,
    }
}

pub(crate) fn network_name(core: &Core, network: Uuid) -> String {
    let name = core.engine().graph().get(network).map(|object| object.fq_name.to_string());
    name.unwrap_or_else(|| network.to_string())
}

/// The port that `what` names: a port or a machine, by uuid or name. Of a machine's ports the first, or the one in
/// `network`.
pub(crate) fn port<'a>(
    core: &'a Core,
    what: &str,
    network: Option<&str>,
) -> Result<&'a Arc<Interface>, Refusal> {
    let graph = core.engine().graph();
    let object = what.parse::<Uuid>().ok().and_then(|uuid| graph.get(uuid)).or_else(|| {
        let name = FqName::parse(what);
        [Kind::VIRTUAL_MACHINE_INTERFACE, Kind::VIRTUAL_MACHINE]
            .into_iter()
            .find_map(|kind| graph.by_name(kind, &name))
    });
    let Some(object) = object else {
        return Err(Refusal::Unknown(format!(
            "no port or machine {what} in the configuration: has its orchestrator announced it?"
        )));
    };
    let mut ports: Vec<_> = match object.kind {
        Kind::VIRTUAL_MACHINE_INTERFACE => vec![object],
        Kind::VIRTUAL_MACHINE => {
            graph.back_references_from(object.uuid, Kind::VIRTUAL_MACHINE_INTERFACE).collect()
        }
        kind => return Err(Refusal::Wrong(format!("{what} is a {kind}, not a port or machine"))),
    };
    ports.sort_by_key(|port| (position(port).map_or(u32::MAX, |(index, _)| index), port.uuid));
    let mut usable = ports.iter().filter_map(|port| core.interface(port.uuid));
    let found = match network {
        Some(wanted) => usable.find(|port| {
            let name = network_name(core, port.network);
            name == wanted || name.rsplit(':').next() == Some(wanted)
        }),
        None => usable.next(),
    };
    found.ok_or_else(|| match network {
        Some(network) => Refusal::Unknown(format!("{what} has no port in network {network}")),
        None => Refusal::Unknown(format!("{what} has no port with a network and an address yet")),
    })
}
