//! The node as a person sees it: JSON over HTTP, and metrics for Prometheus.

use crate::PortRecord;
use crate::node::{Node, NodeHandle};
use crate::port_service::not_ready;
use crate::state::{LocalPort, NextHop};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use skein_datapath::{Flow, FlowFilter};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::UNIX_EPOCH;

/// Flows listed unless the caller asks for another number.
const FLOW_LIMIT: usize = 100;

pub(crate) fn router(node: NodeHandle) -> Router {
    Router::new()
        .route("/v1/status", get(|node| answer(node, status)))
        .route("/v1/interfaces", get(|node| answer(node, interfaces)))
        .route("/v1/nexthops", get(|node| answer(node, next_hops)))
        .route("/v1/services", get(|node| answer(node, services)))
        .route("/v1/dns", get(|node| answer(node, dns)))
        .route("/v1/drops", get(|node| answer(node, drops)))
        .route("/v1/events", get(|node| answer(node, events)))
        .route("/v1/staged", get(|node| answer(node, crate::staged::shown)))
        .route("/v1/routes", get(routes))
        .route("/v1/flows", get(flows))
        .route("/v1/trace", get(crate::trace::trace))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

/// A refused question: the field and the reason.
pub(crate) struct Refused(pub(crate) StatusCode, pub(crate) String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({"error": self.1}))).into_response()
    }
}

pub(crate) type Answer = Result<axum::Json<Value>, Refused>;

pub(crate) fn stopping() -> Refused {
    Refused(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping".into())
}

async fn answer(
    State(node): State<NodeHandle>,
    look: fn(&mut Node) -> Result<Value, skein_datapath::Error>,
) -> Answer {
    finish(node.ask(look).await)
}

pub(crate) fn finish(looked: Option<Result<Value, skein_datapath::Error>>) -> Answer {
    let value = looked.ok_or_else(stopping)?;
    value
        .map(axum::Json)
        .map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn status(node: &mut Node) -> Result<Value, skein_datapath::Error> {
    let controllers: Vec<Value> = node
        .controllers()
        .map(|(address, name, version, connected)| {
            json!({"address": address, "name": name, "version": version, "connected": connected})
        })
        .collect();
    let mut problems = node.core.problems().clone();
    problems.extend(node.exhausted());
    problems.extend(node.without_room());
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "ready": not_ready(node).is_none(),
        "reason": not_ready(node),
        "tunnel_address": node.underlay.tunnel_address,
        "uplinks": node.underlay.uplinks.iter().map(|link| &link.name).collect::<Vec<_>>(),
        "mtu": node.underlay.mtu(),
        "workload_mtu": node.underlay.workload_mtu(),
        "super_packet": node.kernel.super_packet,
        "controllers": controllers,
        "revision": node.core.revision(),
        "ports": node.ports.len(),
        "interfaces": node.core.in_force().interfaces.len(),
        "routes": node.core.in_force().routes.len(),
        "next_hops": node.core.in_force().next_hops.len(),
        "services": node.core.services().len(),
        "contexts": node.core.in_force().contexts.len(),
        "host": node.host.as_ref().map(|host| json!({
            "uuid": host.uuid,
            "interface": skein_cni::HOST_LINK,
            "ifindex": host.ifindex,
            "active": node.core.port_problem(host.uuid).is_none(),
        })),
        "host_problem": node.host_failure,
        "flows": node.flows_live,
        "pending_releases": node.releases.len(),
        "problems": problems,
        "kernel": node.apply_failure,
    }))
}

fn dns(node: &mut Node) -> Result<Value, skein_datapath::Error> {
    let zones: Vec<Value> = node
        .dns
        .shared
        .zones
        .read()
        .summary()
        .into_iter()
        .map(|(id, domain, records)| json!({"id": id, "domain": domain, "records": records}))
        .collect();
    let views: Vec<Value> = node
        .core
        .dns_views()
        .into_iter()
        .map(|(vrf, view)| json!({"vrf": vrf, "zone": view.zone, "port": view.port}))
        .collect();
    Ok(json!({"zones": zones, "views": views, "own": *node.dns.shared.own.read()}))
}

fn counted(counters: &skein_datapath::VifCounters, quota: Option<u32>) -> Value {
    json!({
        "packets_out": counters.packets_out,
        "bytes_out": counters.bytes_out,
        "packets_in": counters.packets_in,
        "bytes_in": counters.bytes_in,
        "flows": counters.flows,
        "flow_quota": quota,
        "drops": counters.drops.iter()
            .map(|(reason, count)| (reason.name().to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>(),
    })
}

fn interfaces(node: &mut Node) -> Result<Value, skein_datapath::Error> {
    let vrfs = names(node);
    let mut list = Vec::new();
    for record in node.ports.values() {
        let spec = node.core.interface(record.uuid);
        let problem = node.problem(record).map(|problem| problem.to_string());
        let entry =
            record.ifindex.and_then(|ifindex| node.core.in_force().interfaces.get(&ifindex));
        let counters = match entry {
            Some(entry) => Some(node.kernel.datapath.vif_counters(entry.label)?),
            None => None,
        };
        list.push(json!({
            "uuid": record.uuid,
            "name": spec.map(|spec| spec.name.clone()),
            "container": record.key.container,
            "interface": record.key.interface,
            "workload": record.workload,
            "network": record.network,
            "host_interface": record.host_interface(),
            "ifindex": record.ifindex,
            "mac": record.mac,
            "addresses": record.addresses.iter().map(|a| a.prefix.to_string()).collect::<Vec<_>>(),
            "vrf": entry.and_then(|entry| vrfs.get(&entry.vrf)),
            "label": entry.map(|entry| entry.label),
            "policy": entry.map(|entry| json!(entry.policy)),
            "active": problem.is_none(),
            "problem": problem,
            "counters": counters.map(|counters| counted(&counters, entry.map(|entry| entry.max_flows))),
        }));
    }
    let nested: Vec<LocalPort> = node.core.nested().values().cloned().collect();
    for port in nested {
        list.push(nested_interface(node, &vrfs, &port)?);
    }
    Ok(json!(list))
}

/// A workload inside a workload: its parent's device and its tag stand for a device of its own.
fn nested_interface(
    node: &mut Node,
    vrfs: &BTreeMap<u32, String>,
    port: &LocalPort,
) -> Result<Value, skein_datapath::Error> {
    let spec = node.core.interface(port.uuid);
    let problem = node.core.port_problem(port.uuid).map(|problem| problem.to_string());
    let entry = node.core.in_force().interfaces.get(&port.ifindex);
    let counters = match entry {
        Some(entry) => Some(node.kernel.datapath.vif_counters(entry.label)?),
        None => None,
    };
    let parent = spec.and_then(|spec| spec.parent);
    let above = parent.and_then(|(parent, _)| node.ports.values().find(|r| r.uuid == parent));
    let tag = port.vlan.map(|(_, tag)| tag);
    let device = above.map(PortRecord::host_interface).zip(tag);
    let mac = spec.map(|spec| spec.mac.map(|byte| format!("{byte:02x}")).join(":"));
    let addresses = spec.into_iter().flat_map(|spec| &spec.addresses);
    Ok(json!({
        "uuid": port.uuid,
        "name": spec.map(|spec| spec.name.clone()),
        "container": above.map(|record| record.key.container.clone()),
        "workload": spec.and_then(|spec| spec.name.rsplit(':').next().map(str::to_owned)),
        "network": spec.and_then(|spec| spec.vrf.rsplit_once(':').map(|(name, _)| name.to_owned())),
        "host_interface": device.map(|(name, tag)| format!("{name}.{tag}")),
        "parent": parent.map(|(parent, _)| parent),
        "vlan": tag,
        "ifindex": port.vlan.map(|(device, _)| device),
        "mac": mac,
        "addresses": addresses.map(|(prefix, _)| prefix.to_string()).collect::<Vec<_>>(),
        "vrf": entry.and_then(|entry| vrfs.get(&entry.vrf)),
        "label": entry.map(|entry| entry.label),
        "policy": entry.map(|entry| json!(entry.policy)),
        "active": problem.is_none(),
        "problem": problem,
        "counters": counters.map(|counters| counted(&counters, entry.map(|entry| entry.max_flows))),
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteQuery {
    vrf: Option<String>,
    #[serde(default)]
    limit: usize,
}

async fn routes(State(node): State<NodeHandle>, Query(query): Query<RouteQuery>) -> Answer {
    let looked = node.ask(move |node| {
        let vrfs = names(node);
        let limit = if query.limit == 0 { usize::MAX } else { query.limit };
        let tables = node.core.in_force();
        let wanted = tables.routes.iter().filter(|((vrf, _), _)| {
            query.vrf.as_ref().is_none_or(|name| vrfs.get(vrf) == Some(name))
        });
        let list: Vec<Value> = wanted
            .take(limit)
            .map(|((vrf, prefix), entry)| {
                let identity = node.core.identity(entry.identity);
                json!({
                    "vrf": vrfs.get(vrf),
                    "prefix": prefix,
                    "next_hop": entry.next_hop,
                    "via": via(&tables.next_hops, entry.next_hop),
                    "identity": entry.identity,
                    "network_id": identity.map(|identity| identity.attributes.network),
                    "security_groups": identity.map(|i| i.attributes.security_groups.clone()),
                    "tags": identity.map(|identity| identity.attributes.tags.clone()),
                    "conditions": identity.map(|i| {
                        i.prefixes.iter().map(IpNet::to_string).collect::<Vec<_>>()
                    }),
                })
            })
            .collect();
        Ok(json!(list))
    });
    finish(looked.await)
}

fn via(next_hops: &BTreeMap<u32, NextHop>, number: u32) -> Value {
    match next_hops.get(&number) {
        None if number == 0 => json!({"type": "discard"}),
        None | Some(NextHop::Discard) => Value::Null,
        Some(NextHop::Native { node }) => json!({"type": "native", "node": node}),
        Some(NextHop::Ecmp { members }) => {
            members.iter().map(|member| via(next_hops, *member)).collect()
        }
        Some(NextHop::Local { ifindex, context: 0 }) => {
            json!({"type": "local", "ifindex": ifindex})
        }
        Some(NextHop::Local { ifindex, context }) => {
            json!({"type": "local", "ifindex": ifindex, "context": context})
        }
        Some(NextHop::Service { vrf }) => json!({"type": "service", "vrf": vrf}),
        Some(NextHop::Outside) => json!({"type": "outside"}),
        Some(NextHop::Tunnel { destination, encapsulation, label }) => json!({
            "type": "tunnel",
            "destination": destination,
            "encapsulation": encapsulation,
            "label": label,
        }),
    }
}

fn next_hops(node: &mut Node) -> Result<Value, skein_datapath::Error> {
    let table = &node.core.in_force().next_hops;
    let list = table.keys().map(|number| json!({"id": number, "via": via(table, *number)}));
    Ok(list.collect())
}

fn services(node: &mut Node) -> Result<Value, skein_datapath::Error> {
    let numbers: BTreeMap<String, u32> =
        names(node).into_iter().map(|(number, name)| (name, number)).collect();
    let list = node.core.services().iter().map(|(id, service)| {
        let vrf = numbers.get(&service.vrf).copied().unwrap_or(0);
        let key = (vrf, service.address, service.protocol, service.port);
        let key = node.core.place_of(id).unwrap_or(key);
        let here = node.core.in_force().services.get(&key);
        // What clients of this node may get, and why the others do not.
        let members = service.members.iter().map(|member| {
            let chosen = here.and_then(|entry| {
                let mut all = entry.members.iter();
                all.find(|(address, port, _)| (*address, *port) == (member.address, member.port))
            });
            json!({
                "address": member.address,
                "port": member.port,
                "node": member.node,
                "in_fabric": member.in_fabric,
                "draining": member.draining,
                "usable": chosen.is_some_and(|(_, _, draining)| !draining),
            })
        });
        json!({
            "id": id,
            "name": service.name,
            "vrf": service.vrf,
            "address": service.address,
            "protocol": service.protocol,
            "port": service.port,
            "node_port": (service.node_port != 0).then_some(service.node_port),
            "node": service.node,
            "external": service.external,
            "internal_local": service.internal_local,
            "external_local": service.external_local,
            "affinity_seconds": service.affinity_seconds,
            "source_prefixes": service.sources,
            "in_force": here.is_some(),
            "members": members.collect::<Vec<_>>(),
        })
    });
    Ok(list.collect())
}

fn drops(node: &mut Node) -> Result<Value, skein_datapath::Error> {
    let counted = node.kernel.datapath.drops()?;
    let list = counted.into_iter().map(|(reason, packets)| {
        json!({
            "reason": reason.name(),
            "packets": packets,
            "what": reason.what(),
            "do": reason.action(),
        })
    });
    Ok(list.collect())
}

fn events(node: &mut Node) -> Result<Value, skein_datapath::Error> {
    let list = node.events.iter().rev().map(|seen| {
        let event = &seen.event;
        json!({
            "time": seen.at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            "reason": event.reason.name(),
            "what": event.reason.what(),
            "interface": owner(node, event.vif),
            "direction": format!("{:?}", event.direction).to_lowercase(),
            "local": event.local,
            "remote": event.remote,
            "protocol": event.protocol,
            "local_port": event.local_port,
            "remote_port": event.remote_port,
            "layer": seen.decision.as_ref().map(|decision| &decision.layer),
            "rule": seen.decision.as_ref().and_then(|decision| decision.rule),
        })
    });
    Ok(list.collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowQuery {
    interface: Option<String>,
    limit: Option<usize>,
}

async fn flows(State(node): State<NodeHandle>, Query(query): Query<FlowQuery>) -> Answer {
    let looked = node.ask(move |node| {
        let vif = match &query.interface {
            None => None,
            Some(name) => Some(find(node, name).ok_or_else(|| name.clone())?.1),
        };
        let filter = FlowFilter { vif, limit: query.limit.unwrap_or(FLOW_LIMIT) };
        let looked = node.kernel.datapath.flows(filter);
        let found = looked.map(|list| list.iter().map(|flow| flow_json(node, flow)).collect());
        Ok::<_, String>(found)
    });
    let found = looked.await.ok_or_else(stopping)?.map_err(|name| unknown_interface(&name))?;
    finish(Some(found))
}

pub(crate) fn unknown_interface(name: &str) -> Refused {
    let message = format!("interface: no active port `{name}` on this node; see /v1/interfaces");
    Refused(StatusCode::NOT_FOUND, message)
}

fn flow_json(node: &Node, flow: &Flow) -> Value {
    let decision = node.core.decision(flow.rule);
    json!({
        "interface": owner(node, flow.vif),
        "direction": format!("{:?}", flow.direction).to_lowercase(),
        "protocol": flow.protocol,
        "local": flow.local,
        "local_port": flow.local_port,
        "remote": flow.remote,
        "remote_port": flow.remote_port,
        "packets_out": flow.packets_out,
        "bytes_out": flow.bytes_out,
        "packets_in": flow.packets_in,
        "bytes_in": flow.bytes_in,
        "idle_seconds": std::time::Duration::from_nanos(flow.idle_ns).as_secs_f64(),
        "tcp_state": flow.tcp_state,
        "next_hop": flow.next_hop,
        "layer": decision.map(|decision| &decision.layer),
        "rule": decision.and_then(|decision| decision.rule),
    })
}

/// Index and number of an active port's interface, by uuid, container, host interface or workload name.
pub(crate) fn find(node: &Node, name: &str) -> Option<(u32, u32)> {
    let record = node.ports.values().find(|record| {
        record.uuid.to_string() == name
            || record.key.container == name
            || record.workload == name
            || record.host_interface() == name
    })?;
    let ifindex = record.ifindex?;
    let entry = node.core.in_force().interfaces.get(&ifindex)?;
    Some((ifindex, entry.label))
}

fn owner(node: &Node, vif: u32) -> Option<String> {
    let interfaces = &node.core.in_force().interfaces;
    interfaces.values().find(|entry| entry.label == vif).map(|entry| entry.uuid.to_string())
}

fn names(node: &Node) -> BTreeMap<u32, String> {
    node.core.vrf_names().into_iter().map(|(number, name)| (number, name.to_owned())).collect()
}

async fn ready(State(node): State<NodeHandle>) -> Response {
    match node.ask(|node| not_ready(node)).await {
        Some(None) => "ready\n".into_response(),
        Some(Some(reason)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
        }
        None => stopping().into_response(),
    }
}

async fn metrics(State(node): State<NodeHandle>) -> Response {
    let Some(text) = node.ask(metrics_text).await else { return stopping().into_response() };
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn metrics_text(node: &mut Node) -> String {
    let tables = node.core.in_force();
    let connected = node.controllers().filter(|(_, _, _, connected)| *connected).count();
    let failures = [&node.apply_failure, &node.host_failure].into_iter().flatten().count();
    let problems = node.core.problems().len()
        + node.exhausted().iter().count()
        + node.full_tables.len()
        + failures;
    let gauges = [
        ("skein_agent_ready", "1 when new ports can be made", u64::from(not_ready(node).is_none())),
        ("skein_agent_controllers_connected", "Open controller streams", connected as u64),
        ("skein_agent_interfaces", "Interfaces that forward", tables.interfaces.len() as u64),
        ("skein_agent_routes", "Routes in the kernel", tables.routes.len() as u64),
        ("skein_agent_next_hops", "Next hops in the kernel", tables.next_hops.len() as u64),
        ("skein_agent_services", "Service addresses in the kernel", tables.services.len() as u64),
        ("skein_agent_contexts", "Further VRFs of ports", tables.contexts.len() as u64),
        ("skein_agent_flows", "Live flows", node.flows_live),
        (
            "skein_agent_pending_releases",
            "Released ports no controller knows of",
            node.releases.len() as u64,
        ),
        ("skein_agent_problems", "Things /v1/status explains", problems as u64),
        ("skein_agent_revision", "Configuration revision in use", node.core.revision()),
    ];
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, help, value) in gauges {
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} gauge\n{name} {value}");
    }
    let name = "skein_agent_table_full_changes";
    let _ =
        writeln!(text, "# HELP {name} Changes that wait for room in a table.\n# TYPE {name} gauge");
    for (table, full) in &node.full_tables {
        let _ = writeln!(text, "{name}{{table=\"{table}\"}} {}", full.changes);
    }
    text.push_str(&node.times.text());
    text.push_str(&crate::staged::metrics(node));
    let name = "skein_agent_drop_events_total";
    let _ = writeln!(text, "# HELP {name} Sampled drop events.\n# TYPE {name} counter");
    let _ = writeln!(text, "{name} {}", node.events_seen);
    let name = "skein_drops_total";
    let _ = writeln!(text, "# HELP {name} Dropped packets by reason.\n# TYPE {name} counter");
    for (reason, packets) in node.kernel.datapath.drops().unwrap_or_default() {
        let _ = writeln!(text, "{name}{{reason=\"{}\"}} {packets}", reason.name());
    }
    text.push_str(&node.dns.shared.metrics.text());
    text
}
