//! `skein why`: what becomes of a connection, and who decides it.

use crate::cli::{Global, Output};
use crate::columns::plain;
use crate::error::Error;
use crate::http::Endpoint;
use crate::screen::{Format, Screen, Tone, yaml};
use clap::Args;
use serde_json::Value;

/// Arguments of `skein why`.
#[derive(Args, Debug)]
#[command(after_help = "\
The controller answers from what it tells the nodes, without sending a packet: which service and
members, whether there is a route, and which rule decides at each end.

Examples:
  skein why default-domain:shop:web-1 default-domain:shop:db-1:5432
  skein why 7d1c...e2 10.1.2.3:53/udp
  skein why default-domain:shop:web-1 default-domain:shop:db-1/icmp

Exit code: 0 it passes; 1 it does not.")]
pub(crate) struct Arguments {
    /// Port or machine that opens the connection: name or uuid
    from: String,
    /// Who is asked, as NAME:PORT[/PROTOCOL]: port, machine or address [default protocol: tcp]
    to: String,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let controller = global.controller()?;
    let target = Target::parse(&arguments.to)?;
    let titles = (arguments.from.clone(), arguments.to.clone());
    let question = Question { from: arguments.from.clone(), to: target.name.clone(), target };
    ask(&controller, global.screen(), arguments.output.format, &question, titles).await
}

/// Who is asked, on what port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// A name or an address.
    pub(crate) name: String,
    /// The port, or its name; none for ICMP.
    pub(crate) port: Option<String>,
    /// In small letters.
    pub(crate) protocol: String,
}

/// A question to the controller.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) target: Target,
}

impl Target {
    /// Reads `NAME:PORT[/PROTOCOL]`, `[ADDRESS]:PORT[/PROTOCOL]` or `NAME/icmp`.
    pub(crate) fn parse(text: &str) -> Result<Target, Error> {
        let wrong = |why: &str| {
            Error::usage(
                format!("{text:?}: {why}"),
                "write it as NAME:PORT, NAME:PORT/udp, NAME/icmp or [IPv6]:PORT",
            )
        };
        let known = ["tcp", "udp", "sctp", "icmp", "icmpv6"];
        let (rest, protocol) = match text.rsplit_once('/') {
            // A namespace may be called tcp: then a port follows the name, not a protocol.
            Some((rest, last)) if known.contains(&last.to_ascii_lowercase().as_str()) => {
                (rest, last.to_ascii_lowercase())
            }
            _ => (text, "tcp".to_owned()),
        };
        if protocol.starts_with("icmp") {
            let name = rest.trim_start_matches('[').trim_end_matches(']').to_owned();
            return Ok(Target { name, port: None, protocol });
        }
        let Some((name, port)) = rest.rsplit_once(':') else { return Err(wrong("it has no port")) };
        let number = port.parse::<u16>();
        let named = !port.is_empty() && port.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        if !named || number.is_ok_and(|port| port == 0) {
            return Err(wrong("its port is none"));
        }
        let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        if name.is_empty() {
            return Err(wrong("it has no name"));
        }
        Ok(Target { name, port: Some(port.to_owned()), protocol })
    }
}

/// Asks, prints, and says by the exit code whether the connection passes.
pub(crate) async fn ask(
    controller: &Endpoint,
    screen: Screen,
    format: Format,
    question: &Question,
    titles: (String, String),
) -> Result<(), Error> {
    let mut query = vec![
        ("from", question.from.clone()),
        ("to", question.to.clone()),
        ("protocol", question.target.protocol.clone()),
    ];
    if let Some(port) = &question.target.port {
        query.push(("port", port.clone()));
    }
    let answer = controller.get("/v1/why", &query).await?;
    match format {
        Format::Json => screen.json(&answer)?,
        Format::Yaml => screen.write(&yaml(&answer)?)?,
        Format::Table | Format::Wide | Format::Name => {
            screen.write(&render(screen, &answer, &titles, format == Format::Wide))?;
        }
    }
    if passes(&answer) { Ok(()) } else { Err(Error::Degraded) }
}

fn passes(value: &Value) -> bool {
    value.get("passes").and_then(Value::as_bool).unwrap_or(false)
}

fn mark(screen: Screen, good: bool) -> String {
    if good { screen.paint(Tone::Good, "✓") } else { screen.paint(Tone::Bad, "✗") }
}

/// For people.
fn render(screen: Screen, answer: &Value, (from, to): &(String, String), wide: bool) -> String {
    let mut text = format!(
        "{} {from} -> {to}: {}\n",
        mark(screen, passes(answer)),
        plain(answer.get("summary"))
    );
    text.push_str(&format!("\n  from      {}\n", port(answer.get("from"))));
    if let Some(service) = answer.get("service").filter(|service| !service.is_null()) {
        text.push_str(&format!(
            "  service   {}, {}:{} in {}, {} members\n",
            plain(service.get("name")),
            plain(service.get("address")),
            plain(service.get("port")),
            plain(service.get("network")),
            plain(service.get("members")),
        ));
    }
    let ways = answer.get("ways").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for way in ways {
        let to = match way.get("to").filter(|to| !to.is_null()) {
            Some(to) => port(Some(to)),
            None => "outside the fabric".to_owned(),
        };
        let place = format!("{}:{}", plain(way.get("address")), plain(way.get("port")));
        text.push_str(&format!("\n{} to        {to}, {place}\n", mark(screen, passes(way))));
        let route = way.get("route");
        let there = route.and_then(|r| r.get("there")).and_then(Value::as_bool).unwrap_or(false);
        let said = plain(route.and_then(|route| route.get("text")));
        text.push_str(&format!("  route     {} {said}\n", mark(screen, there)));
        for (name, field) in [("leaving", "egress"), ("arriving", "ingress")] {
            if let Some(verdict) = way.get(field).filter(|verdict| !verdict.is_null()) {
                let good = verdict.get("pass").and_then(Value::as_bool).unwrap_or(false);
                let said = verdict_text(verdict, wide);
                text.push_str(&format!("  {name:<9} {} {said}\n", mark(screen, good)));
            }
        }
    }
    text
}

fn port(view: Option<&Value>) -> String {
    let Some(view) = view else { return String::new() };
    let name = match view.get("machine").filter(|machine| !machine.is_null()) {
        Some(machine) => plain(Some(machine)),
        None => plain(view.get("name")),
    };
    let node = match view.get("node").filter(|node| !node.is_null()) {
        Some(node) => format!(" on {}", plain(Some(node))),
        None => String::new(),
    };
    format!("{name}{node}, network {}", plain(view.get("network")))
}

fn verdict_text(verdict: &Value, wide: bool) -> String {
    let layer = plain(verdict.get("layer"));
    let mut text = match verdict.get("rule").filter(|rule| !rule.is_null()) {
        Some(rule) => {
            let author = author(verdict);
            if wide || author.is_empty() {
                let space = if author.is_empty() { "" } else { " " };
                format!("{author}{space}{}", plain(Some(rule)))
            } else {
                author
            }
        }
        None if verdict.get("unchecked") == Some(&Value::Bool(true)) => {
            "no policy is in force".to_owned()
        }
        None => format!("no rule fits ({layer})"),
    };
    if let Some(staged) = verdict.get("staged").and_then(Value::as_str) {
        text.push_str(&format!("; with the staged policies: {staged}"));
    }
    text
}

/// Who wrote a rule: an orchestrator's object, else a policy.
pub(crate) fn author(rule: &Value) -> String {
    if let Some(owner) = rule.get("owner").filter(|owner| !owner.is_null()) {
        let (kind, name) = (plain(owner.get("kind")), plain(owner.get("name")));
        return match owner.get("namespace").and_then(Value::as_str) {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None => format!("{kind} {name}"),
        };
    }
    match rule.get("policy").and_then(Value::as_str) {
        Some(policy) => format!("policy {policy}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_have_many_forms() {
        let target = |name: &str, port: Option<&str>, protocol: &str| Target {
            name: name.into(),
            port: port.map(str::to_owned),
            protocol: protocol.into(),
        };
        for (text, expected) in [
            ("web:80", target("web", Some("80"), "tcp")),
            ("shop/web:http/UDP", target("shop/web", Some("http"), "udp")),
            ("tcp/web:80", target("tcp/web", Some("80"), "tcp")),
            ("web/icmp", target("web", None, "icmp")),
            ("[fd00::1]:53/udp", target("fd00::1", Some("53"), "udp")),
            ("d:p:web:80", target("d:p:web", Some("80"), "tcp")),
            ("10.0.0.1:80", target("10.0.0.1", Some("80"), "tcp")),
        ] {
            assert_eq!(Target::parse(text).unwrap(), expected, "{text}");
        }
        for text in ["web", "web:", "web:0", ":80", "web:80:", "web/tcp"] {
            assert!(Target::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_denies_is_told_in_the_users_words() {
        let answer = json!({
            "passes": false, "summary": "denied where it arrives, by NetworkPolicy shop/deny",
            "from": {"machine": "a", "node": "n1", "network": "net"},
            "ways": [{
                "passes": false, "address": "10.0.0.3", "port": 80,
                "to": {"machine": "b", "node": "n2", "network": "net"},
                "route": {"there": true, "text": "a route in net to node 192.168.0.2"},
                "egress": {"pass": true, "unchecked": true, "layer": null},
                "ingress": {"pass": false, "layer": "firewall", "rule": "r",
                            "owner": {"kind": "NetworkPolicy", "namespace": "shop", "name": "deny"}},
            }],
        });
        let text = render(Screen::plain(), &answer, &("a".into(), "b:80".into()), false);
        assert_eq!(
            text,
            "\
✗ a -> b:80: denied where it arrives, by NetworkPolicy shop/deny

  from      a on n1, network net

✗ to        b on n2, network net, 10.0.0.3:80
  route     ✓ a route in net to node 192.168.0.2
  leaving   ✓ no policy is in force
  arriving  ✗ NetworkPolicy shop/deny
"
        );
    }
}
