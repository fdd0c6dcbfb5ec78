//! `kubectl skein status`: `skein status`, and what Kubernetes adds to it.

use super::Cluster;
use super::reach::{self, Manager, Reach};
use crate::cli::{Global, Output};
use crate::columns::plain;
use crate::commands::status::{self, Report};
use crate::error::Error;
use crate::screen::{Format, Screen, Tone, yaml};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Arguments of `skein kube status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 everything is well; 1 degraded: a role is not ready, a node has no agent or is not
connected, or something reports a problem; 2 the controller does not answer.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    output: Output,
}

/// What Kubernetes adds.
struct Addition {
    managers: Vec<Manager>,
    /// Nodes of Kubernetes on which no agent runs.
    without_agent: Vec<String>,
}

pub(super) async fn run(
    global: &Global,
    cluster: &Cluster,
    arguments: &Arguments,
) -> Result<(), Error> {
    let kubectl = cluster.kubectl();
    let reach = Reach::open(global, cluster, &kubectl).await?;
    let report = status::look(&reach.api, &reach.controller).await;
    let managers = reach::managers(global, cluster, &kubectl).await?;
    let nodes = kubectl.list(&["get", "nodes"]).await?;
    let known: BTreeSet<String> = report.node_names().collect();
    let names = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str());
    let without_agent = names.filter(|name| !known.contains(*name)).map(str::to_owned).collect();
    let addition = Addition { managers, without_agent };
    let screen = global.screen();
    match arguments.output.format {
        Format::Json => screen.json(&addition.json(&report))?,
        Format::Yaml => screen.write(&yaml(&addition.json(&report))?)?,
        Format::Table | Format::Wide | Format::Name => {
            screen.write(&format!("{}{}", addition.render(screen), report.render(screen)))?;
        }
    }
    report.verdict()?;
    if addition.is_well() { Ok(()) } else { Err(Error::Degraded) }
}

/// What is wrong with a manager; nothing if it is well.
fn trouble(status: &Result<Value, Error>) -> Option<String> {
    let status = match status {
        Ok(status) => status,
        Err(error) => return Some(error.to_string()),
    };
    if status.get("synced") == Some(&Value::Bool(false)) {
        return Some("has not read Kubernetes or the configuration yet".into());
    }
    match status.get("failing").and_then(Value::as_u64).unwrap_or(0) {
        0 => None,
        failing => Some(format!("{failing} objects cannot be written; its log says why")),
    }
}

fn leads(manager: &Manager) -> bool {
    manager.status.as_ref().is_ok_and(|status| status.get("leading") == Some(&Value::Bool(true)))
}

impl Addition {
    fn is_well(&self) -> bool {
        self.without_agent.is_empty()
            && self.managers.iter().any(leads)
            && self.managers.iter().all(|manager| trouble(&manager.status).is_none())
    }

    fn json(&self, report: &Report) -> Value {
        let mut value = report.to_json();
        let managers: Vec<Value> = self
            .managers
            .iter()
            .map(|manager| match &manager.status {
                Ok(status) => json!({"name": manager.name, "status": status}),
                Err(error) => json!({"name": manager.name, "error": error.to_string()}),
            })
            .collect();
        value["kube_managers"] = managers.into();
        value["nodes_without_agent"] = json!(self.without_agent);
        if !self.is_well() && value["state"] == "good" {
            value["state"] = "degraded".into();
        }
        value
    }

    fn render(&self, screen: Screen) -> String {
        let mut text = String::new();
        let mut line = |tone: Tone, name: &str, said: &str| {
            let mark = screen.paint(tone, if tone == Tone::Good { "✓" } else { "✗" });
            text.push_str(&format!("{mark} kube-manager {name}  {}\n", screen.paint(tone, said)));
        };
        if self.managers.is_empty() {
            line(Tone::Bad, "", "none is there: pods get no networks");
        } else if !self.managers.iter().any(leads) {
            line(Tone::Warn, "", "none leads: nothing that changes is carried out");
        }
        for manager in &self.managers {
            match (&manager.status, trouble(&manager.status)) {
                (_, Some(trouble)) => line(Tone::Warn, &manager.name, &trouble),
                (Ok(status), None) => {
                    let said = |field: &str| plain(status.get(field));
                    let role = if leads(manager) { "leads" } else { "stands by" };
                    let text = format!(
                        "{role}, cluster {}, version {}, {} objects, {} with a problem",
                        said("cluster"),
                        said("version"),
                        said("kubernetes_objects"),
                        said("problems"),
                    );
                    line(Tone::Good, &manager.name, &text);
                }
                (Err(_), None) => {}
            }
        }
        for node in &self.without_agent {
            let mark = screen.paint(Tone::Bad, "✗");
            text.push_str(&format!("{mark} node {node} has no agent: pods there get no network\n"));
        }
        text
    }
}
