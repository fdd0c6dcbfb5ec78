//! The ports that an orchestrator makes for a workload: waited for, and if they do not come, why.
//!
//! An agent asks when a container starts. What makes the objects (kube-manager, say) may be slower than the container
//! runtime or may be missing altogether, so the answer waits for them and a refusal names the link that is missing.

use crate::core::{Core, may_have};
use crate::service::Shared;
use skein_compiler::Interface;
use skein_model::values::KeyValuePairs;
use skein_model::{FqName, Kind, Object};
use skein_proto::ports::{FindReply, FindRequest, FoundPort, KeyValue, PortAddress};
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// Longest wait, whatever the caller asks: a container runtime gives up after minutes.
const WAIT_LIMIT: Duration = Duration::from_secs(60);

/// Waits until every port of the machine is there and has what the node needs.
pub(crate) async fn wait(
    shared: &Arc<Shared>,
    node: &str,
    request: &FindRequest,
) -> Result<FindReply, Status> {
    if request.machine.is_empty() && request.machine_name.is_empty() {
        return Err(Status::invalid_argument("machine or machine_name is needed"));
    }
    let limit = Duration::from_millis(request.wait_ms.into()).min(WAIT_LIMIT);
    let mut news = shared.news();
    let mut missing = String::new();
    let search = async {
        loop {
            news.mark_unchanged();
            match shared.read(|core| find(core, node, request)) {
                Ok(reply) => return Ok(reply),
                Err(reason) => missing = reason,
            }
            if news.changed().await.is_err() {
                return Err(Status::unavailable("the controller is stopping"));
            }
        }
    };
    tokio::time::timeout(limit, search).await.unwrap_or_else(|_| Err(Status::not_found(missing)))
}

/// The machine's ports, or what is missing.
fn find(core: &Core, node: &str, request: &FindRequest) -> Result<FindReply, String> {
    let graph = core.engine().graph();
    let machine = if request.machine.is_empty() {
        graph.by_name(Kind::VIRTUAL_MACHINE, &FqName::single(&request.machine_name))
    } else {
        let uuid =
            request.machine.parse().map_err(|_| format!("{:?} is no uuid", request.machine))?;
        graph.get_kind(Kind::VIRTUAL_MACHINE, uuid)
    };
    let wanted =
        if request.machine_name.is_empty() { &request.machine } else { &request.machine_name };
    let machine = machine.ok_or_else(|| {
        format!(
            "no virtual-machine {wanted} in the configuration: its orchestrator has not announced the \
             workload; of a pod its Events say why, and if they do not: is kube-manager running, and does it reach the \
             configuration API?"
        )
    })?;
    let ports: Vec<&Arc<Object>> =
        graph.back_references_from(machine.uuid, Kind::VIRTUAL_MACHINE_INTERFACE).collect();
    let count = ports.iter().filter_map(|port| position(port).map(|(_, n)| n)).max().unwrap_or(1);
    if (ports.len() as u32) < count {
        return Err(format!(
            "virtual-machine {wanted} has {} of {count} interfaces: its orchestrator is still making them",
            ports.len()
        ));
    }
    let mut found = Vec::new();
    for (nth, object) in ports.iter().enumerate() {
        let port = core.interface(object.uuid).ok_or_else(|| {
            format!("interface {} has no virtual-network or no MAC address yet", object.fq_name)
        })?;
        if port.addresses.is_empty() {
            return Err(format!("interface {} has no instance-ip yet", object.fq_name));
        }
        if let Some(family) = missing_family(object, port) {
            return Err(format!(
                "interface {} has no {family} instance-ip yet: its orchestrator is still making them",
                object.fq_name
            ));
        }
        if !may_have(node, port) {
            let host = port.host.as_deref().unwrap_or_default();
            return Err(format!(
                "interface {} is bound to node {host}, not to {node}",
                object.fq_name
            ));
        }
        let index = position(object).map_or(nth as u32 + 1, |(index, _)| index);
        found.push(describe(core, object, port, index));
    }
    found.sort_by_key(|port| port.index);
    // One port takes the default route: the one that asks for it, else the first.
    if !found.iter().any(|port| port.default_route)
        && let Some(first) = found.first_mut()
    {
        first.default_route = true;
    }
    Ok(FindReply { machine: machine.uuid.to_string(), ports: found })
}

/// Annotation `families`, "v4,v6": of which families the orchestrator makes addresses, one after the other. Whoever was told in
/// between would be without the second one for all its life. Gives one that is missing.
fn missing_family(object: &Object, port: &Interface) -> Option<&'static str> {
    let families = annotation(object, "families")?;
    let named = |name: &str| families.split(',').any(|family| family == name);
    let has = |v4: bool| port.addresses.iter().any(|a| a.prefix.addr().is_ipv4() == v4);
    [("v4", true), ("v6", false)]
        .into_iter()
        .find_map(|(name, v4)| (named(name) && !has(v4)).then_some(name))
}

fn describe(core: &Core, object: &Object, port: &Interface, index: u32) -> FoundPort {
    FoundPort {
        interface: port.uuid.to_string(),
        mac: port.mac.clone(),
        addresses: addresses(port),
        vrf: port.vrf.clone(),
        index,
        device: annotation(object, "interface").unwrap_or_default(),
        default_route: annotation(object, "default-route")
            .is_some_and(|value| value.eq_ignore_ascii_case("true")),
        network: core
            .engine()
            .vrf(port.network)
            .map_or_else(String::new, |vrf| vrf.network.clone()),
        vlan: port.parent.map_or(0, |(_, tag)| tag.into()),
        parent: port.parent.map_or_else(String::new, |(parent, _)| parent.to_string()),
        network_uuid: port.network.to_string(),
        project_uuid: match object.parent {
            Some((Kind::PROJECT, uuid)) => uuid.to_string(),
            _ => String::new(),
        },
        annotations: annotations(object),
        underlay: core.engine().vrf(port.network).is_some_and(|vrf| vrf.underlay),
    }
}

/// A port's addresses with their gateways, as a node's agent hears of them.
pub(crate) fn addresses(port: &Interface) -> Vec<PortAddress> {
    let one = |a: &skein_compiler::Address| PortAddress {
        prefix: a.prefix.to_string(),
        gateway: a.gateway.map_or_else(String::new, |gateway| gateway.to_string()),
    };
    port.addresses.iter().map(one).collect()
}

/// Annotation `index`, "2/3": which of how many interfaces (spec/kubernetes.md section 6).
pub(crate) fn position(object: &Object) -> Option<(u32, u32)> {
    let text = annotation(object, "index")?;
    let (index, count) = text.split_once('/')?;
    Some((index.parse().ok()?, count.parse().ok()?))
}

fn annotations(object: &Object) -> Vec<KeyValue> {
    let pairs: KeyValuePairs = object.property("annotations").unwrap_or_default();
    let pairs = pairs.key_value_pair.into_iter();
    pairs
        .filter_map(|pair| Some(KeyValue { key: pair.key?, value: pair.value.unwrap_or_default() }))
        .collect()
}

fn annotation(object: &Object, key: &str) -> Option<String> {
    let pairs: KeyValuePairs = object.property("annotations")?;
    pairs.key_value_pair.into_iter().find(|pair| pair.key.as_deref() == Some(key))?.value
}
