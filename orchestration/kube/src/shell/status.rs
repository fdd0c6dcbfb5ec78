//! What the manager tells about itself over HTTP: status for people, metrics for machines.

use super::run::Shared;
use super::tls::Peer;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
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

/// Pages of which only health is for those without a certificate.
pub(super) fn guarded(pages: Router) -> Router {
    pages.layer(middleware::from_fn(certified))
}

async fn certified(
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Result<Response, (StatusCode, &'static str)> {
    if peer.certified || matches!(request.uri().path(), "/healthz" | "/readyz") {
        return Ok(next.run(request).await);
    }
    Err((
        StatusCode::UNAUTHORIZED,
        "show a certificate of the authority that tls.client_ca names\n",
    ))
}

async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, &'static str) {
    if shared.core.lock().synced() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Kubernetes or the configuration has not been read yet\n")
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let leading = *shared.leading.borrow();
    let core = shared.core.lock();
    let figures = core.figures();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cluster": core.settings().cluster_name,
        "leading": leading,
        "synced": core.synced(),
        "kubernetes_objects": figures.kubernetes,
        "configuration_objects": figures.owned,
        "waiting": figures.marked,
        "writing": figures.busy,
        "failing": figures.failing,
        "problems": figures.problems,
    }))
}

/// OpenMetrics text. The figures are read when asked for, so they need no bookkeeping.
async fn metrics(State(shared): State<Arc<Shared>>) -> String {
    let leading = *shared.leading.borrow();
    let figures = shared.core.lock().figures();
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (name, help, value) in [
        ("leading", "Whether this manager writes.", u64::from(leading)),
        ("kubernetes_objects", "Kubernetes objects that are followed.", count(figures.kubernetes)),
        ("configuration_objects", "Configuration objects of this cluster.", count(figures.owned)),
        ("waiting", "Owners that wait for work.", count(figures.marked)),
        ("writing", "Owners with writes on their way.", count(figures.busy)),
        ("failing", "Owners whose last writes failed.", count(figures.failing)),
        ("problems", "Kubernetes objects with a problem.", count(figures.problems)),
        (
            "untold",
            "Events and status that Kubernetes was not told yet.",
            count(shared.outbox.waiting()),
        ),
        ("derivations", "Derivations since the start.", figures.derived),
    ] {
        let _ = writeln!(
            out,
            "# HELP skein_kube_{name} {help}\n# TYPE skein_kube_{name} gauge\nskein_kube_{name} {value}"
        );
    }
    shared.watches.write(&mut out);
    shared.pod_times.write(&mut out);
    out.push_str("# EOF\n");
    out
}
