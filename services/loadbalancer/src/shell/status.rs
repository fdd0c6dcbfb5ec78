//! What the daemon tells about itself over HTTP: status for people, metrics for machines.

use super::files::Files;
use super::run::{Page, Shared};
use super::statistics::{self, Line};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(shared)
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if shared.page.lock().synced {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the configuration has not been read yet\n")
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let page = shared.page.lock().clone();
    let balancers: Vec<Value> = page
        .assignments
        .iter()
        .map(|(uuid, assignment)| {
            let balancer = &assignment.balancer;
            json!({
                "uuid": uuid,
                "name": balancer.name,
                "address": balancer.address,
                "network": balancer.network,
                "ports": balancer.frontends.iter().map(|f| f.port).collect::<Vec<_>>(),
                "active": assignment.active,
                "state": page.states.get(uuid),
            })
        })
        .collect();
    let removing: Vec<Value> = page
        .states
        .iter()
        .filter(|(uuid, _)| !page.assignments.contains_key(uuid))
        .map(|(uuid, state)| json!({"uuid": uuid, "problem": state.problem}))
        .collect();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "node": shared.config.node,
        "synced": page.synced,
        "nodes": page.nodes,
        "loadbalancers": balancers,
        "removing": removing,
        "incomplete": page.incomplete,
        "failed_writes": page.failed_writes,
    }))
}

/// OpenMetrics text: the daemon's own figures, and HAProxy's, read when asked for.
async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    let page = shared.page.lock().clone();
    let mut out = own(&page);
    let mut lines: Vec<(String, Line)> = Vec::new();
    for (uuid, assignment) in &page.assignments {
        let name = assignment.balancer.name.replace(['"', '\\', '\n'], "_");
        let label = format!("loadbalancer=\"{uuid}\",name=\"{name}\"");
        let counters = statistics::counters(&Files::new(&shared.config.run_dir, *uuid)).await;
        lines.extend(counters.into_iter().map(|line| (label.clone(), line)));
    }
    type Read = fn(&Line) -> u64;
    let all: [(&str, &str, Read); 6] = [
        ("sessions_total", "Connections since the last reload.", |line| line.sessions),
        ("sessions", "Connections that are open.", |line| line.current),
        ("bytes_in_total", "Bytes from clients since the last reload.", |line| line.bytes_in),
        ("bytes_out_total", "Bytes to clients since the last reload.", |line| line.bytes_out),
        ("requests_total", "Requests since the last reload.", |line| line.requests),
        ("up", "Whether it takes traffic.", |line| u64::from(!line.status.starts_with("DOWN"))),
    ];
    for (name, help, read) in all {
        head(&mut out, name, help);
        for (label, line) in &lines {
            let _ = writeln!(
                out,
                "skein_loadbalancer_{name}{{{label},proxy=\"{}\",server=\"{}\"}} {}",
                line.proxy,
                line.server,
                read(line)
            );
        }
    }
    head(&mut out, "responses_total", "Responses by the first digit of their code.");
    for (label, line) in lines.iter().filter(|(_, line)| line.server == "FRONTEND") {
        for (digit, count) in (1..).zip(line.responses) {
            let _ = writeln!(
                out,
                "skein_loadbalancer_responses_total{{{label},proxy=\"{}\",code=\"{digit}xx\"}} {count}",
                line.proxy
            );
        }
    }
    out.push_str("# EOF\n");
    out
}

fn head(out: &mut String, name: &str, help: &str) {
    let _ = writeln!(
        out,
        "# HELP skein_loadbalancer_{name} {help}\n# TYPE skein_loadbalancer_{name} gauge"
    );
}

fn own(page: &Page) -> String {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let states = || page.states.values();
    let mut out = String::new();
    for (name, help, value) in [
        ("nodes", "Nodes that offer the service.", count(page.nodes.len())),
        ("carried", "Load balancers of this node.", count(page.assignments.len())),
        (
            "active",
            "Load balancers whose traffic this node takes.",
            count(page.assignments.values().filter(|a| a.active).count()),
        ),
        ("ready", "Load balancers that serve.", count(states().filter(|s| s.ready).count())),
        (
            "problems",
            "Load balancers that are not as they should be.",
            count(states().filter(|s| s.problem.is_some() || !s.warnings.is_empty()).count()),
        ),
        ("reloads", "Configurations taken without ending.", states().map(|s| s.reloads).sum()),
        ("deaths", "Times HAProxy was found dead.", states().map(|s| s.deaths).sum()),
        ("refused", "Configurations that HAProxy refused.", states().map(|s| s.refused).sum()),
        ("failed_writes", "Calls of the configuration API that failed.", page.failed_writes),
    ] {
        head(&mut out, name, help);
        let _ = writeln!(out, "skein_loadbalancer_{name} {value}");
    }
    out
}
