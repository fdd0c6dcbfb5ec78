//! What machines of this node ask about the workloads inside them, over a link-local service (docs/adr/0014).
//!
//! Who asks is told by the metadata address that the datapath gave its connection, never by what it says. It hears of ports on
//! VLANs of its own interfaces and of nothing else. The calls are those of the pod API, and those of the original's plugin
//! for nested clusters (spec/kubernetes.md section 7.4), which only reads.

use crate::pod_service::FIND_WAIT;
use crate::port_service::{BIND_TIMEOUT, PortService, Refusal, Reply, addresses, read, status};
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use skein_cni::pod_api::{Nested, Pod, PodPort, PreparePod};
use skein_cni::port_api::{Port, PortKey};
use skein_proto::ports::{FindReply, FoundPort};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use uuid::Uuid;

/// The original's plugin asks again by itself.
const AT_ONCE: Duration = Duration::from_millis(200);

pub(crate) fn router(service: &PortService) -> Router {
    Router::new()
        .route("/v1/pods/prepare", post(prepare))
        .route("/v1/pods/check", post(check))
        .route("/v1/ports/status", get(status))
        .route("/vm-cfg/{machine}", get(configuration))
        .route("/vm/{machine}", get(ports_of))
        .route("/vm/{machine}/{port}", get(port_of))
        .with_state(service.clone())
}

/// The interfaces of the machine that asks, with their MAC addresses.
type Asker = BTreeMap<Uuid, String>;

async fn asker(service: &PortService, from: SocketAddr) -> Result<Asker, Refusal> {
    let found = service.node.ask(move |node| {
        let IpAddr::V4(address) = from.ip() else { return Asker::new() };
        let Some(port) = node.core.by_metadata(address) else { return Asker::new() };
        let own = node.ports.values().find(|record| record.uuid == port);
        let Some(own) = own else { return Asker::new() };
        // A machine has as many interfaces as its workload has ports.
        let same = node.ports.values().filter(|record| record.key.container == own.key.container);
        same.map(|record| (record.uuid, record.mac.clone())).collect()
    });
    let found = found.await.ok_or_else(Refusal::stopping)?;
    if found.is_empty() {
        let hint = "ask from a machine of this node, at the link-local service's address";
        let message = format!("{} is no machine of this node", from.ip());
        return Err(Refusal::new(StatusCode::FORBIDDEN, message, hint, false));
    }
    Ok(found)
}

/// Ports of a workload, all of them on VLANs of the asker's interfaces. Others are as good as not there.
fn own(asker: &Asker, found: &FindReply) -> Option<Vec<(FoundPort, Nested)>> {
    let one = |port: &FoundPort| {
        let parent_mac = asker.get(&port.parent.parse().ok()?)?.clone();
        let vlan = u16::try_from(port.vlan).ok().filter(|vlan| *vlan != 0)?;
        Some((port.clone(), Nested { vlan, parent_mac }))
    };
    let all: Option<Vec<_>> = found.ports.iter().map(one).collect();
    all.filter(|ports| !ports.is_empty())
}

fn not_its_own(machine: &str) -> Refusal {
    let message = format!("{machine} has no ports on VLANs of this machine's interfaces");
    let hint = "see the log of kube-manager: is nested mode on, and is cluster_network the machines' network?";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, hint, true)
}

async fn find(
    service: &PortService,
    asker: &Asker,
    prepare: &PreparePod,
    wait: Duration,
) -> Result<(String, Vec<(FoundPort, Nested)>), Refusal> {
    let found = service.find(prepare, wait).await?;
    let ports = own(asker, &found).ok_or_else(|| not_its_own(&prepare.machine_name))?;
    Ok((found.machine, ports))
}

/// Until every port forwards with its policy in force.
async fn in_force(service: &PortService, ports: &[Uuid]) -> Result<(), Refusal> {
    let wanted = ports.to_vec();
    let waiting = service.node.ask(move |node| {
        wanted.iter().map(|port| (*port, node.in_force(*port))).collect::<Vec<_>>()
    });
    let waiting = waiting.await.ok_or_else(Refusal::stopping)?;
    let all = async {
        for (_, done) in waiting {
            let _ = done.await;
        }
    };
    if tokio::time::timeout(BIND_TIMEOUT, all).await.is_ok() {
        return Ok(());
    }
    let wanted = ports.to_vec();
    let problem = service.node.ask(move |node| {
        let problem = |port: &Uuid| {
            let names = || node.core.names_problem(*port, &node.dns.heard());
            node.core.port_problem(*port).or_else(names)
        };
        wanted.iter().find_map(|port| Some((*port, problem(port)?)))
    });
    let message = match problem.await.flatten() {
        Some((port, problem)) => format!("port {port} is not in force: {problem}"),
        None => return Ok(()),
    };
    let hint = "see `skein vrouter interfaces` on the node; the call may be repeated";
    Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message, hint, true))
}

fn bad_answer(what: String) -> Refusal {
    let hint = "are controller and agent of the same release?";
    Refusal::new(StatusCode::BAD_GATEWAY, what, hint, false)
}

async fn describe(
    service: &PortService,
    prepare: &PreparePod,
    ports: Vec<(FoundPort, Nested)>,
) -> Result<Pod, Refusal> {
    let limits = service.node.ask(|node| node.link_limits()).await.ok_or_else(Refusal::stopping)?;
    let one = |(nth, (found, nested)): (usize, (FoundPort, Nested))| {
        let interface = match (found.device.as_str(), nth) {
            ("", 0) => prepare.interface.clone(),
            ("", nth) => format!("eth{nth}"),
            (device, _) => device.to_owned(),
        };
        Ok(PodPort {
            port: Port {
                key: PortKey { container: prepare.container.clone(), interface },
                uuid: found.interface.clone(),
                network: found.network.clone(),
                host_interface: String::new(),
                mac: found.mac.clone(),
                addresses: addresses(&found.addresses).map_err(bad_answer)?,
                mtu: limits.mtu,
                super_packet: 0,
                active: true,
            },
            default_route: found.default_route,
            nested: Some(nested),
        })
    };
    let ports = ports.into_iter().enumerate().map(one).collect::<Result<_, Refusal>>()?;
    Ok(Pod { ports })
}

fn uuids(ports: &[(FoundPort, Nested)]) -> Vec<Uuid> {
    ports.iter().filter_map(|(port, _)| port.interface.parse().ok()).collect()
}

async fn prepare(
    State(service): State<PortService>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Reply<Pod> {
    let asker = asker(&service, from).await?;
    let prepare: PreparePod = read(&body)?;
    let (_, ports) = find(&service, &asker, &prepare, FIND_WAIT).await?;
    in_force(&service, &uuids(&ports)).await?;
    describe(&service, &prepare, ports).await.map(Json)
}

async fn check(
    State(service): State<PortService>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    body: Bytes,
) -> Reply<Pod> {
    let asker = asker(&service, from).await?;
    let prepare: PreparePod = read(&body)?;
    let (_, ports) = find(&service, &asker, &prepare, AT_ONCE).await?;
    let wanted = uuids(&ports);
    let problem = service.node.ask(move |node| {
        wanted.iter().find_map(|port| node.core.port_problem(*port).map(|p| p.to_string()))
    });
    if let Some(problem) = problem.await.ok_or_else(Refusal::stopping)? {
        let message = format!("a port of the pod does not forward: {problem}");
        let hint = "see `skein vrouter interfaces` on the node";
        return Err(Refusal::new(StatusCode::CONFLICT, message, hint, false));
    }
    describe(&service, &prepare, ports).await.map(Json)
}

// ------------------------------------------------------------------ the original's calls

fn nothing() -> Response {
    (StatusCode::NOT_FOUND, Json(json!({"error": "{ Not Found }"}))).into_response()
}

/// By name or uuid, as it was asked.
async fn look(
    service: &PortService,
    from: SocketAddr,
    machine: String,
    by_name: bool,
) -> Option<(String, Vec<(FoundPort, Nested)>)> {
    let asker = asker(service, from).await.ok()?;
    let request = PreparePod {
        container: String::new(),
        interface: String::new(),
        config: String::new(),
        machine: (!by_name).then(|| machine.clone()),
        machine_name: if by_name { machine } else { String::new() },
        workload: String::new(),
    };
    find(service, &asker, &request, AT_ONCE).await.ok()
}

async fn configuration(
    State(service): State<PortService>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(machine): Path<String>,
) -> Response {
    let Some((machine, ports)) = look(&service, from, machine, true).await else {
        return nothing();
    };
    let one = |(port, nested): &(FoundPort, Nested)| {
        let pairs = port.annotations.iter().map(|pair| format!("{{{}:{}}}", pair.key, pair.value));
        json!({
            "id": port.interface,
            "vm-uuid": machine,
            "vn-id": port.network_uuid,
            "vn-name": port.network,
            "mac-address": port.mac,
            "sub-interface": true,
            "vlan-id": nested.vlan,
            "annotations": pairs.collect::<Vec<_>>(),
        })
    };
    Json(ports.iter().map(one).collect::<Value>()).into_response()
}

async fn ports_of(
    State(service): State<PortService>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path(machine): Path<String>,
) -> Response {
    plugged(&service, from, machine, None).await
}

async fn port_of(
    State(service): State<PortService>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    Path((machine, port)): Path<(String, String)>,
) -> Response {
    plugged(&service, from, machine, Some(port)).await
}

/// Ports that forward; 404 while one does not.
async fn plugged(
    service: &PortService,
    from: SocketAddr,
    machine: String,
    port: Option<String>,
) -> Response {
    let Some((machine, mut ports)) = look(service, from, machine, false).await else {
        return nothing();
    };
    ports.retain(|(found, _)| port.as_ref().is_none_or(|port| *port == found.interface));
    let wanted = uuids(&ports);
    let all = service
        .node
        .ask(move |node| wanted.iter().all(|port| node.core.port_problem(*port).is_none()));
    if ports.is_empty() || all.await != Some(true) {
        return nothing();
    }
    let one = |(port, nested): &(FoundPort, Nested)| {
        let known = addresses(&port.addresses).unwrap_or_default();
        let mut answer = json!({
            "id": port.interface,
            "instance-id": machine,
            "vn-id": port.network_uuid,
            "vm-project-id": port.project_uuid,
            "mac-address": port.mac,
            "system-name": format!("vlan{}", nested.vlan),
            "rx-vlan-id": nested.vlan,
            "tx-vlan-id": nested.vlan,
            "vhostuser-mode": 0,
        });
        for address in known {
            let v4 = address.prefix.addr().is_ipv4();
            let gateway = address.gateway.map_or_else(String::new, |gateway| gateway.to_string());
            let prefix = if v4 { "" } else { "v6-" };
            let length = if v4 { "plen" } else { "v6-plen" };
            answer[format!("{prefix}ip-address")] = json!(address.prefix.addr());
            answer[length] = json!(address.prefix.prefix_len());
            answer[format!("{prefix}gateway")] = json!(gateway);
            answer[format!("{prefix}dns-server")] = json!(gateway);
        }
        answer
    };
    Json(ports.iter().map(one).collect::<Value>()).into_response()
}
