//! What the controller tells about itself over HTTP: status for people, metrics for machines.

use crate::service::Shared;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use std::fmt::Write as _;
use std::sync::Arc;

/// One controller and the nodes it knows.
#[derive(Debug, Serialize)]
struct ControllerStatus {
    controller: String,
    version: &'static str,
    synced: bool,
    revision: u64,
    objects: usize,
    routes: usize,
    services: usize,
    nodes: Vec<NodeStatus>,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: String,
    tunnel_address: String,
    connected: bool,
    since_seconds: u64,
    version: String,
    applied_revision: u64,
    interfaces_active: u32,
    flows: u32,
    routes: usize,
    services: usize,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    subject: String,
    reason: String,
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .merge(crate::explain::router())
        .with_state(shared)
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if shared.read(crate::Core::synced) {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the configuration has not been read yet\n")
    }
}

fn snapshot(shared: &Shared) -> ControllerStatus {
    let now = shared.now();
    shared.read(|core| ControllerStatus {
        controller: shared.host.clone(),
        version: env!("CARGO_PKG_VERSION"),
        synced: core.synced(),
        revision: core.revision(),
        objects: core.engine().graph().len(),
        routes: core.rib().len(),
        services: core.engine().services().map(|set| set.services.len()).sum(),
        nodes: core
            .nodes()
            .map(|(name, node)| NodeStatus {
                name: name.clone(),
                tunnel_address: node.tunnel_address.to_string(),
                connected: node.connected(),
                since_seconds: now.saturating_sub(node.since).as_secs(),
                version: node.version.clone(),
                applied_revision: node.status.applied_revision,
                interfaces_active: node.status.interfaces_active,
                flows: node.status.flows,
                routes: node.route_count(),
                services: node.service_count(),
                problems: node
                    .status
                    .problems
                    .iter()
                    .map(|p| Problem { subject: p.subject.clone(), reason: p.reason.clone() })
                    .collect(),
            })
            .collect(),
    })
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<ControllerStatus> {
    Json(snapshot(&shared))
}

/// OpenMetrics text. The figures are read when asked for, so they need no bookkeeping.
async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    let status = snapshot(&shared);
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}");
    };
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    gauge(
        "skein_controller_config_revision",
        "Configuration revision in force at this controller.",
        status.revision,
    );
    gauge(
        "skein_controller_objects",
        "Configuration objects that this controller follows.",
        count(status.objects),
    );
    gauge("skein_controller_vpn_routes", "VPN routes in the table.", count(status.routes));
    gauge("skein_controller_services", "Service addresses and ports.", count(status.services));
    gauge("skein_controller_nodes", "Nodes this controller knows.", count(status.nodes.len()));
    let connected = status.nodes.iter().filter(|node| node.connected).count();
    gauge("skein_controller_nodes_connected", "Nodes with a session.", count(connected));
    let problems = status.nodes.iter().map(|node| node.problems.len()).sum::<usize>();
    gauge("skein_controller_node_problems", "Problems that nodes report.", count(problems));
    out.push_str("# EOF\n");
    out
}
