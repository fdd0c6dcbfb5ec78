//! What `skein status` found, as text, JSON and verdict. Pure.

use crate::columns::plain;
use crate::error::Error;
use crate::screen::{Screen, Tone};
use crate::table::{Cell, Table};
use serde_json::{Value, json};

/// How a role answered.
pub(super) enum Answer<T> {
    /// Well, with what it said.
    Well(T),
    /// It answers and says that it is not well.
    Unwell(String),
    /// It does not answer, and what to do.
    Silent(String),
}

/// What was found.
pub(crate) struct Report {
    pub(super) api_url: String,
    pub(super) api: Answer<String>,
    pub(super) controller_url: String,
    pub(super) controller: Answer<Value>,
}

impl Report {
    /// The exit code as an error: nothing, degraded, or unreachable.
    pub(crate) fn verdict(&self) -> Result<(), Error> {
        match (&self.api, &self.controller) {
            (Answer::Silent(_), _) | (_, Answer::Silent(_)) => Err(Error::Silent),
            (Answer::Well(_), Answer::Well(said))
                if said.get("synced") != Some(&Value::Bool(false))
                    && self.nodes().iter().all(|n| connected(n) && problems(n).is_empty()) =>
            {
                Ok(())
            }
            _ => Err(Error::Degraded),
        }
    }

    fn word(&self) -> &'static str {
        match self.verdict() {
            Ok(()) => "good",
            Err(Error::Silent) => "unreachable",
            Err(_) => "degraded",
        }
    }

    /// Names of the nodes that the controller knows.
    pub(crate) fn node_names(&self) -> impl Iterator<Item = String> {
        self.nodes().iter().map(|node| plain(node.get("name")))
    }

    fn nodes(&self) -> &[Value] {
        match &self.controller {
            Answer::Well(value) => {
                value.get("nodes").and_then(Value::as_array).map_or(&[], Vec::as_slice)
            }
            _ => &[],
        }
    }

    /// For scripts.
    pub(crate) fn to_json(&self) -> Value {
        let role = |state: &str, reason: &str, url: &str| json!({"state": state, "reason": reason, "url": url});
        let api = match &self.api {
            Answer::Well(_) => role("good", "", &self.api_url),
            Answer::Unwell(reason) => role("degraded", reason, &self.api_url),
            Answer::Silent(reason) => role("unreachable", reason, &self.api_url),
        };
        let mut controller = match &self.controller {
            Answer::Well(_) => role("good", "", &self.controller_url),
            Answer::Unwell(reason) => role("degraded", reason, &self.controller_url),
            Answer::Silent(reason) => role("unreachable", reason, &self.controller_url),
        };
        if let (Answer::Well(Value::Object(said)), Some(map)) =
            (&self.controller, controller.as_object_mut())
        {
            map.extend(said.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        json!({"state": self.word(), "api": api, "controller": controller})
    }

    /// For people.
    pub(crate) fn render(&self, screen: Screen) -> String {
        let mut text = String::new();
        let mut role = |name: &str, url: &str, tone: Tone, said: &str| {
            let mark = screen.paint(tone, if tone == Tone::Good { "✓" } else { "✗" });
            text.push_str(&format!("{mark} {name:<11} {url}  {}\n", screen.paint(tone, said)));
        };
        match &self.api {
            Answer::Well(_) => role("config API", &self.api_url, Tone::Good, "ready"),
            Answer::Unwell(reason) => role("config API", &self.api_url, Tone::Warn, reason),
            Answer::Silent(reason) => role("config API", &self.api_url, Tone::Bad, reason),
        }
        match &self.controller {
            Answer::Well(value) => {
                let said = |field: &str| plain(value.get(field));
                let behind = value.get("synced") == Some(&Value::Bool(false));
                let tone = if behind { Tone::Warn } else { Tone::Good };
                let line = format!(
                    "{}, version {}, revision {}, {} objects{}",
                    said("controller"),
                    said("version"),
                    said("revision"),
                    said("objects"),
                    if behind { "; has not read the configuration yet" } else { "" }
                );
                role("controller", &self.controller_url, tone, &line);
            }
            Answer::Unwell(reason) => {
                role("controller", &self.controller_url, Tone::Warn, reason);
            }
            Answer::Silent(reason) => role("controller", &self.controller_url, Tone::Bad, reason),
        }
        if let Answer::Well(_) = self.controller {
            text.push_str(&self.render_nodes(screen));
        }
        text.push_str(&format!("\nOverall: {}\n", screen.paint(self.tone(), self.word())));
        text
    }

    fn tone(&self) -> Tone {
        match self.word() {
            "good" => Tone::Good,
            "degraded" => Tone::Warn,
            _ => Tone::Bad,
        }
    }

    fn render_nodes(&self, screen: Screen) -> String {
        let nodes = self.nodes();
        if nodes.is_empty() {
            return "\nNo node has connected yet; start one with `skeind vrouter`.\n".to_owned();
        }
        let up = nodes.iter().filter(|node| connected(node)).count();
        let mut text = format!("\nNodes: {up} of {} connected\n", nodes.len());
        let mut table = Table::new(&[
            "NODE", "ADDRESS", "STATE", "FOR", "VERSION", "REVISION", "PORTS", "ROUTES", "FLOWS",
            "PROBLEMS",
        ]);
        for node in nodes {
            let said = |field: &str| Cell::from(plain(node.get(field)));
            let bad = problems(node).len();
            table.row(vec![
                said("name"),
                said("tunnel_address"),
                if connected(node) {
                    Cell::toned("connected", Tone::Good)
                } else {
                    Cell::toned("away", Tone::Bad)
                },
                node.get("since_seconds")
                    .and_then(Value::as_f64)
                    .map_or_else(String::new, ago)
                    .into(),
                said("version"),
                said("applied_revision"),
                said("interfaces_active"),
                said("routes"),
                said("flows"),
                Cell::toned(bad.to_string(), if bad == 0 { Tone::Plain } else { Tone::Bad }),
            ]);
        }
        text.push_str(&table.render(screen));
        let mut listed = String::new();
        for node in nodes {
            for problem in problems(node) {
                listed.push_str(&format!(
                    "  {}: {}: {}\n",
                    plain(node.get("name")),
                    plain(problem.get("subject")),
                    plain(problem.get("reason"))
                ));
            }
        }
        if !listed.is_empty() {
            text.push_str(&format!("\n{}\n{listed}", screen.paint(Tone::Bad, "Problems")));
        }
        text
    }
}

fn connected(node: &Value) -> bool {
    node.get("connected").and_then(Value::as_bool).unwrap_or(false)
}

fn problems(node: &Value) -> &[Value] {
    node.get("problems").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A length of time in its largest unit.
fn ago(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7_200.0 => format!("{:.0}m", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3_600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, connected: bool, problems: &Value) -> Value {
        json!({"name": name, "tunnel_address": "192.168.0.11", "connected": connected,
               "since_seconds": 300, "version": "0.1.0", "applied_revision": 42,
               "interfaces_active": 2, "flows": 8, "routes": 6, "problems": problems})
    }

    fn report(nodes: &Value) -> Report {
        Report {
            api_url: "http://a:8082".into(),
            api: Answer::Well(String::new()),
            controller_url: "http://a:8083".into(),
            controller: Answer::Well(json!({"controller": "ctl", "version": "0.1.0",
                "revision": 42, "objects": 17, "nodes": nodes})),
        }
    }

    #[test]
    fn a_healthy_system_fits_one_screen() {
        let report = report(&json!([node("node-a", true, &json!([]))]));
        assert_eq!(
            report.render(Screen::plain()),
            "\
✓ config API  http://a:8082  ready
✓ controller  http://a:8083  ctl, version 0.1.0, revision 42, 17 objects

Nodes: 1 of 1 connected
NODE    ADDRESS       STATE      FOR  VERSION  REVISION  PORTS  ROUTES  FLOWS  PROBLEMS
node-a  192.168.0.11  connected  5m   0.1.0    42        2      6       8      0

Overall: good
"
        );
        assert!(report.verdict().is_ok());
    }

    #[test]
    fn the_exit_code_tells_degraded_from_unreachable() {
        let code = |report: &Report| report.verdict().map_or_else(|e| e.exit_code(), |()| 0);
        let away = report(&json!([node("node-a", false, &json!([]))]));
        assert_eq!(code(&away), 1);
        let problem = json!([{"subject": "port p", "reason": "no route"}]);
        let troubled = report(&json!([node("node-a", true, &problem)]));
        assert_eq!(code(&troubled), 1);
        assert!(troubled.render(Screen::plain()).contains("node-a: port p: no route"));
        let mut unwell = report(&json!([]));
        unwell.api = Answer::Unwell("recovering".into());
        assert_eq!(code(&unwell), 1);
        unwell.controller = Answer::Silent("connection refused".into());
        assert_eq!(code(&unwell), 2);
        assert_eq!(unwell.to_json()["state"], "unreachable");
    }
}
