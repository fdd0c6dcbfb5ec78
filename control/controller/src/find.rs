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
    let mut seen = false;
    let search = async {
        loop {
            news.mark_unchanged();
            let (found, there) = shared.read(|core| {
                (find(core, node, request), matches!(machine(core, request), Ok(Some(_))))
            });
            match found {
                Ok(reply) => return Ok(reply),
                Err(reason) => missing = reason,
            }
            // What has a name may come back as another one of that name; what has a uuid is gone for good.
            if seen && !there && !request.machine.is_empty() {
                return Err(Status::aborted(format!(
                    "virtual-machine {} was removed while its interfaces were waited for: the workload is being deleted",
                    wanted(request)
                )));
            }
            seen |= there;
            if news.changed().await.is_err() {
                return Err(Status::unavailable("the controller is stopping"));
            }
        }
    };
    tokio::time::timeout(limit, search).await.unwrap_or_else(|_| Err(Status::not_found(missing)))
}

/// The machine that is asked for; none is known, or what is wrong with the question.
fn machine<'a>(core: &'a Core, request: &FindRequest) -> Result<Option<&'a Arc<Object>>, String> {
    let graph = core.engine().graph();
    if request.machine.is_empty() {
        return Ok(graph.by_name(Kind::VIRTUAL_MACHINE, &FqName::single(&request.machine_name)));
    }
    let uuid = request.machine.parse().map_err(|_| format!("{:?} is no uuid", request.machine))?;
    Ok(graph.get_kind(Kind::VIRTUAL_MACHINE, uuid))
}

/// What people call it.
fn wanted(request: &FindRequest) -> &str {
    if request.machine_name.is_empty() { &request.machine } else { &request.machine_name }
}

/// The machine's ports, or what is missing.
fn find(core: &Core, node: &str, request: &FindRequest) -> Result<FindReply, String> {
    let graph = core.engine().graph();
    let wanted = wanted(request);
    let machine = machine(core, request)?.ok_or_else(|| {
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

#[cfg(test)]
#[path = "../../compiler/tests/world/mod.rs"]
mod world;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::world::{Build, id, network};
    use super::*;
    use serde_json::json;
    use skein_model::Change;

    fn changed(shared: &Shared, changes: &[Change]) {
        shared.change(|core| core.configure(changes, 1, false));
    }

    fn machine() -> Change {
        Build::new(Kind::VIRTUAL_MACHINE, "pod").put()
    }

    fn port() -> Change {
        let annotations = json!({"key_value_pair": [{"key": "families", "value": "v4,v6"}]});
        Build::new(Kind::VIRTUAL_MACHINE_INTERFACE, "pod")
            .with(
                "virtual_machine_interface_mac_addresses",
                json!({"mac_address": ["02:00:00:00:00:01"]}),
            )
            .with("annotations", annotations)
            .refer(Kind::VIRTUAL_NETWORK, "red")
            .refer(Kind::VIRTUAL_MACHINE, "pod")
            .put()
    }

    fn address(name: &str, address: &str) -> Change {
        Build::new(Kind::INSTANCE_IP, name)
            .with("instance_ip_address", json!(address))
            .refer(Kind::VIRTUAL_NETWORK, "red")
            .refer(Kind::VIRTUAL_MACHINE_INTERFACE, "pod")
            .put()
    }

    /// A red network of both families, and somebody who waits for the pod's ports there.
    async fn waiting() -> (Arc<Shared>, tokio::task::JoinHandle<Result<FindReply, Status>>) {
        let shared = Arc::new(Shared::new("here".into()));
        let mut changes = network("red", 1, &[]);
        let subnet = |prefix: &str, length: u8| json!({"subnet": {"ip_prefix": prefix, "ip_prefix_len": length}});
        let subnets = json!({"ipam_subnets": [subnet("10.1.0.0", 24), subnet("fd00:1::", 64)]});
        let red = Build::new(Kind::VIRTUAL_NETWORK, "red")
            .with("virtual_network_network_id", json!(1))
            .refer_with(Kind::NETWORK_IPAM, "ipam", subnets);
        changes.push(red.put());
        changed(&shared, &changes);
        let request = FindRequest {
            machine: id(Kind::VIRTUAL_MACHINE, "pod").to_string(),
            machine_name: "pod".into(),
            wait_ms: 60_000,
        };
        let (asked, there) = (request.clone(), shared.clone());
        let answer = tokio::spawn(async move { wait(&there, "node-1", &asked).await });
        let missing = shared.read(|core| find(core, "node-1", &request)).unwrap_err();
        assert!(missing.contains("no virtual-machine pod"), "{missing}");
        (shared, answer)
    }

    #[tokio::test]
    async fn the_answer_comes_with_the_last_address() {
        let (shared, answer) = waiting().await;
        let mut reasons = Vec::new();
        for change in [machine(), port(), address("four", "10.1.0.5")] {
            changed(&shared, &[change]);
            tokio::task::yield_now().await;
            assert!(!answer.is_finished());
            let request = FindRequest { machine_name: "pod".into(), ..FindRequest::default() };
            reasons.push(shared.read(|core| find(core, "node-1", &request)).unwrap_err());
        }
        for (reason, wanted) in
            reasons.iter().zip(["has 0 of 1 interfaces", "no instance-ip", "no v6 instance-ip"])
        {
            assert!(reason.contains(wanted), "{reason}");
        }
        changed(&shared, &[address("six", "fd00:1::5")]);
        let found = answer.await.unwrap().unwrap();
        let prefixes: Vec<&str> =
            found.ports[0].addresses.iter().map(|address| &*address.prefix).collect();
        assert_eq!(prefixes, ["10.1.0.5/24", "fd00:1::5/64"]);
    }

    #[tokio::test]
    async fn who_waits_for_a_machine_that_is_removed_hears_at_once() {
        let (shared, answer) = waiting().await;
        // Let it see each state: what comes and goes between two looks was never there.
        tokio::task::yield_now().await;
        changed(&shared, &[machine(), port()]);
        tokio::task::yield_now().await;
        let gone = [Kind::VIRTUAL_MACHINE_INTERFACE, Kind::VIRTUAL_MACHINE]
            .map(|kind| Change::Delete(id(kind, "pod")));
        changed(&shared, &gone);
        let refused = answer.await.unwrap().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Aborted, "{refused}");
    }
}
