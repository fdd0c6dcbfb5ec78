//! What staged policies would change, as the node tells it: to controllers, people and Prometheus.

use crate::node::Node;
use crate::state::staged::{AT_ONCE, line};
use crate::state::{Sample, Staged};
use serde_json::{Value, json};
use skein_datapath::FlowFilter;
use skein_policy::Direction;
use skein_proto::session as wire;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Judges the node's connections by what is staged. Free while nothing is.
pub(crate) fn look(node: &mut Node) {
    let idle = node.staged.is_idle(&node.core);
    // What has begun and ended since the last look is to be there.
    if let Err(error) = node.kernel.datapath.keep_ended(!idle) {
        tracing::warn!(%error, "staged policies may miss connections that were reset");
    }
    if idle {
        return;
    }
    match node.kernel.datapath.flows(FlowFilter { vif: None, limit: AT_ONCE }) {
        Ok(flows) => node.staged.look(&node.core, &flows, SystemTime::now()),
        Err(error) => tracing::warn!(%error, "staged policies are not compared with connections"),
    }
}

/// For controllers.
pub(crate) fn changes(staged: &Staged) -> Vec<wire::StagedChange> {
    let all = staged.totals().map(|(cause, connections, last)| wire::StagedChange {
        rule: cause.rule.map(|rule| rule.to_string()).unwrap_or_default(),
        would_deny: cause.would_deny,
        egress: cause.direction == Direction::Egress,
        connections,
        example: last.map(|sample| line(&sample.connection)).unwrap_or_default(),
    });
    all.collect()
}

fn word(would_deny: bool) -> &'static str {
    if would_deny { "deny" } else { "allow" }
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
    }
}

/// `/v1/staged`.
#[allow(clippy::unnecessary_wraps, reason = "one form for all looks")]
pub(crate) fn shown(node: &mut Node) -> Result<Value, skein_datapath::Error> {
    let sample = |sample: &Sample| {
        let connection = &sample.connection;
        json!({
            "time": sample.at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            "interface": sample.port,
            "local": connection.local.0,
            "local_port": connection.local.1,
            "remote": connection.remote.0,
            "remote_port": connection.remote.1,
            "protocol": connection.protocol,
        })
    };
    let total = node.staged.totals().map(|(cause, connections, last)| {
        let own = node.staged.samples().filter(|sample| sample.cause == *cause);
        json!({
            "would": word(cause.would_deny),
            "direction": way(cause.direction),
            "rule": cause.rule,
            "connections": connections,
            "last": last.map(|sample| line(&sample.connection)),
            "samples": own.map(sample).collect::<Vec<_>>(),
        })
    });
    Ok(total.collect())
}

pub(crate) fn metrics(node: &Node) -> String {
    let mut text = String::new();
    let name = "skein_staged_connections_total";
    let help = "Connections that a staged policy would judge otherwise; refused ones are samples";
    // Writing to a String cannot fail.
    let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} counter");
    for (cause, connections, _) in node.staged.totals() {
        let rule = cause.rule.map_or_else(|| "default".to_owned(), |rule| rule.to_string());
        let (would, way) = (word(cause.would_deny), way(cause.direction));
        let _ = writeln!(
            text,
            "{name}{{would=\"{would}\",direction=\"{way}\",rule=\"{rule}\"}} {connections}"
        );
    }
    text
}
