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

/// What a replica of the configuration API says of itself.
pub(super) struct Replica {
    /// Whether it is the one that writes; none: it is alone.
    pub(super) leads: Option<bool>,
    /// How many revisions it has not read yet.
    pub(super) behind: f64,
}

/// What was found: by address, in the order they were given.
pub(crate) struct Report {
    pub(super) apis: Vec<(String, Answer<Replica>)>,
    pub(super) controllers: Vec<(String, Answer<Value>)>,
}

impl<T> Answer<T> {
    fn well(&self) -> Option<&T> {
        match self {
            Answer::Well(said) => Some(said),
            _ => None,
        }
    }

    fn is_silent(&self) -> bool {
        matches!(self, Answer::Silent(_))
    }

    fn to_json(&self, url: &str) -> Value {
        let (state, reason) = match self {
            Answer::Well(_) => ("good", ""),
            Answer::Unwell(reason) => ("degraded", reason.as_str()),
            Answer::Silent(reason) => ("unreachable", reason.as_str()),
        };
        json!({"state": state, "reason": reason, "url": url})
    }
}

impl Report {
    /// The exit code as an error: nothing, degraded, or unreachable.
    pub(crate) fn verdict(&self) -> Result<(), Error> {
        if self.apis.iter().all(|(_, api)| api.is_silent())
            || self.controllers.iter().all(|(_, one)| one.is_silent())
        {
            return Err(Error::Silent);
        }
        let ready = |said: &Value| said.get("synced") != Some(&Value::Bool(false));
        let good = self.apis.iter().all(|(_, api)| api.well().is_some())
            && self.controllers.iter().all(|(_, one)| one.well().is_some_and(ready))
            && self.nodes().iter().all(|n| connected(n) && problems(n).is_empty())
            && self.missing().is_empty();
        if good { Ok(()) } else { Err(Error::Degraded) }
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

    /// What the first controller says that says anything.
    fn controller(&self) -> Option<&Value> {
        self.controllers.iter().find_map(|(_, one)| one.well())
    }

    fn nodes(&self) -> &[Value] {
        self.controller().map_or(&[], nodes_of)
    }

    /// Nodes that the first controller has and another one has not: name, and where it is missed.
    fn missing(&self) -> Vec<(String, &str)> {
        let mut missing = Vec::new();
        for node in self.nodes().iter().filter(|node| connected(node)) {
            for (url, one) in &self.controllers {
                let Some(said) = one.well() else { continue };
                let same = |other: &&Value| other.get("name") == node.get("name");
                if !nodes_of(said).iter().find(same).is_some_and(connected) {
                    missing.push((plain(node.get("name")), url.as_str()));
                }
            }
        }
        missing
    }

    /// For scripts: of several, `api` and `controller` are the first that are well, `apis` and `controllers` are all.
    pub(crate) fn to_json(&self) -> Value {
        let api = |(url, state): &(String, Answer<Replica>)| {
            let mut api = state.to_json(url);
            if let Some(Replica { leads: Some(leads), behind }) = state.well() {
                api["leads"] = json!(leads);
                api["behind"] = json!(behind);
            }
            api
        };
        let controller = |(url, state): &(String, Answer<Value>)| {
            let mut controller = state.to_json(url);
            if let (Answer::Well(Value::Object(said)), Some(map)) =
                (state, controller.as_object_mut())
            {
                map.extend(said.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            controller
        };
        let first = |all: &[Value]| {
            let good = all.iter().find(|one| one["state"] == "good");
            good.or(all.first()).cloned().unwrap_or_default()
        };
        let apis: Vec<Value> = self.apis.iter().map(api).collect();
        let controllers: Vec<Value> = self.controllers.iter().map(controller).collect();
        let mut all = json!({
            "state": self.word(), "api": first(&apis), "controller": first(&controllers),
        });
        if apis.len() > 1 {
            all["apis"] = Value::Array(apis);
        }
        if controllers.len() > 1 {
            all["controllers"] = Value::Array(controllers);
        }
        all
    }

    /// For people.
    pub(crate) fn render(&self, screen: Screen) -> String {
        let mut text = String::new();
        let mut role = |name: &str, url: &str, tone: Tone, said: &str| {
            let mark = screen.paint(tone, if tone == Tone::Good { "✓" } else { "✗" });
            text.push_str(&format!("{mark} {name:<11} {url}  {}\n", screen.paint(tone, said)));
        };
        for (url, api) in &self.apis {
            match api {
                Answer::Well(replica) => {
                    role("config API", url, Tone::Good, &replica.describe());
                }
                Answer::Unwell(reason) => role("config API", url, Tone::Warn, reason),
                Answer::Silent(reason) => role("config API", url, Tone::Bad, reason),
            }
        }
        let revision = |said: &Value| said.get("revision").and_then(Value::as_u64).unwrap_or(0);
        let all = self.controllers.iter().filter_map(|(_, one)| one.well());
        let newest = all.map(revision).max().unwrap_or(0);
        for (url, controller) in &self.controllers {
            match controller {
                Answer::Well(value) => {
                    let said = |field: &str| plain(value.get(field));
                    let unread = value.get("synced") == Some(&Value::Bool(false));
                    let tone = if unread { Tone::Warn } else { Tone::Good };
                    let behind = newest - revision(value);
                    let note = match (unread, behind) {
                        (true, _) => "; has not read the configuration yet".to_owned(),
                        (false, 0) => String::new(),
                        (false, behind) => format!(" ({behind} behind)"),
                    };
                    let line = format!(
                        "{}, version {}, revision {}, {} objects{note}",
                        said("controller"),
                        said("version"),
                        said("revision"),
                        said("objects"),
                    );
                    role("controller", url, tone, &line);
                }
                Answer::Unwell(reason) => role("controller", url, Tone::Warn, reason),
                Answer::Silent(reason) => role("controller", url, Tone::Bad, reason),
            }
        }
        if self.controller().is_some() {
            text.push_str(&self.render_nodes(screen));
        }
        for (node, url) in self.missing() {
            text.push_str(&format!("  {node}: no session with the controller at {url}\n"));
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

impl Replica {
    fn describe(&self) -> String {
        match (self.leads, self.behind) {
            (None, _) => "ready".to_owned(),
            (Some(true), _) => "ready, leads".to_owned(),
            (Some(false), behind) if behind > 0.0 => format!("ready, follows, {behind} behind"),
            (Some(false), _) => "ready, follows".to_owned(),
        }
    }
}

fn nodes_of(said: &Value) -> &[Value] {
    said.get("nodes").and_then(Value::as_array).map_or(&[], Vec::as_slice)
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
            apis: vec![("http://a:8082".into(), alone())],
            controllers: vec![("http://a:8083".into(), controller("ctl", 42, nodes))],
        }
    }

    fn alone() -> Answer<Replica> {
        Answer::Well(Replica { leads: None, behind: 0.0 })
    }

    fn controller(name: &str, revision: u64, nodes: &Value) -> Answer<Value> {
        Answer::Well(json!({"controller": name, "version": "0.1.0", "revision": revision,
            "objects": 17, "nodes": nodes}))
    }

    #[test]
    fn of_several_controllers_each_has_a_line() {
        let (here, there) = (node("node-a", true, &json!([])), node("node-a", false, &json!([])));
        let replica = |leads, behind| Answer::Well(Replica { leads: Some(leads), behind });
        let mut report = Report {
            apis: vec![
                ("https://a:8182".into(), replica(true, 0.0)),
                ("https://b:8182".into(), replica(false, 3.0)),
                ("https://c:8182".into(), replica(false, 0.0)),
            ],
            controllers: vec![
                ("http://a:8083".into(), controller("one", 42, &json!([here]))),
                ("http://b:8083".into(), controller("two", 40, &json!([here]))),
                ("http://c:8083".into(), controller("three", 42, &json!([there]))),
            ],
        };
        let text = report.render(Screen::plain());
        for line in [
            "✓ config API  https://a:8182  ready, leads",
            "✓ config API  https://b:8182  ready, follows, 3 behind",
            "✓ config API  https://c:8182  ready, follows\n",
            "✓ controller  http://b:8083  two, version 0.1.0, revision 40, 17 objects (2 behind)",
            "node-a: no session with the controller at http://c:8083",
            "Overall: degraded",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        report.controllers[2].1 = controller("three", 42, &json!([here]));
        assert!(report.verdict().is_ok());
        report.apis[0].1 = Answer::Silent("no route to host".into());
        report.controllers[0].1 = Answer::Silent("no route to host".into());
        assert_eq!(report.verdict().unwrap_err().exit_code(), 1, "the others go on");
        let json = report.to_json();
        assert_eq!(json["state"], "degraded");
        assert_eq!(json["api"]["url"], "https://b:8182");
        assert_eq!(json["apis"][2]["leads"], false);
        assert_eq!(json["controllers"][0]["state"], "unreachable");
        for (_, api) in &mut report.apis {
            *api = Answer::Silent("no route to host".into());
        }
        assert_eq!(report.verdict().unwrap_err().exit_code(), 2);
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
        unwell.apis[0].1 = Answer::Unwell("recovering".into());
        assert_eq!(code(&unwell), 1);
        unwell.controllers[0].1 = Answer::Silent("connection refused".into());
        assert_eq!(code(&unwell), 2);
        assert_eq!(unwell.to_json()["state"], "unreachable");
    }
}
