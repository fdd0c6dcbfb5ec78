//! `skein rules`: which rules judge a port's connections, in order.

use super::why::author;
use crate::cli::{Global, Output};
use crate::columns::plain;
use crate::error::Error;
use crate::http::Endpoint;
use crate::screen::{Format, Screen, Tone, yaml};
use clap::Args;
use serde_json::Value;

/// Arguments of `skein rules`.
#[derive(Args, Debug)]
#[command(after_help = "\
Every layer must let a connection pass; in a layer the first rule that fits decides. -o wide adds
the names of the rules in the configuration.")]
pub(crate) struct Arguments {
    /// Port or machine: name or uuid
    of: String,
    /// Which port of a machine that has several: its network's name
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let controller = global.controller()?;
    let network = arguments.network.as_deref();
    ask(
        &controller,
        global.screen(),
        arguments.output.format,
        &arguments.of,
        network,
        &arguments.of,
    )
    .await
}

/// Asks and prints.
pub(crate) async fn ask(
    controller: &Endpoint,
    screen: Screen,
    format: Format,
    of: &str,
    network: Option<&str>,
    title: &str,
) -> Result<(), Error> {
    let mut query = vec![("of", of.to_owned())];
    query.extend(network.map(|network| ("network", network.to_owned())));
    let answer = controller.get("/v1/policy", &query).await?;
    match format {
        Format::Json => screen.json(&answer),
        Format::Yaml => screen.write(&yaml(&answer)?),
        Format::Table | Format::Wide | Format::Name => {
            screen.write(&render(screen, &answer, title, format == Format::Wide))
        }
    }
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// For people: one block a direction, one line a rule, in the order in which they are asked.
fn render(screen: Screen, answer: &Value, title: &str, wide: bool) -> String {
    let port = answer.get("port").cloned().unwrap_or_default();
    let addresses: Vec<String> = list(&port, "addresses").iter().map(|a| plain(Some(a))).collect();
    let mut text =
        format!("{title}: {}, network {}\n", addresses.join(", "), plain(port.get("network")));
    if answer.get("unchecked") == Some(&Value::Bool(true)) {
        text.push_str("\nNothing is judged: port security is off.\n");
        return text;
    }
    for (heading, direction) in [("Ingress", "ingress"), ("Egress", "egress")] {
        text.push_str(&block(screen, answer, heading, direction, wide));
    }
    if answer.get("staged") == Some(&Value::Bool(true)) {
        text.push_str("\nStaged policies are there, too: they only tell what they would change.\n");
    }
    text
}

fn block(screen: Screen, answer: &Value, heading: &str, direction: &str, wide: bool) -> String {
    let mut lines = String::new();
    let mut judged = false;
    let layers = list(answer, "layers");
    for layer in layers {
        let rules = list(layer, direction);
        let name = plain(layer.get("name"));
        let denies = plain(layer.get("default")) == "deny";
        if rules.is_empty() && !denies {
            continue;
        }
        judged = true;
        if layers.len() > 1 {
            lines.push_str(&format!("  {}\n", screen.paint(Tone::Dim, &name)));
        }
        let width = rules.iter().map(|rule| author(rule).chars().count()).max().unwrap_or(0);
        for (at, rule) in rules.iter().enumerate() {
            lines.push_str(&line(screen, at + 1, rule, direction, width, wide));
        }
        let rest = if denies {
            screen.paint(Tone::Bad, "denied")
        } else {
            screen.paint(Tone::Good, "passes")
        };
        lines.push_str(&format!("      anything else: {rest}\n"));
    }
    if judged {
        format!("\n{heading}\n{lines}")
    } else {
        format!("\n{heading}: everything passes, no policy restricts it\n")
    }
}

fn line(
    screen: Screen,
    number: usize,
    rule: &Value,
    direction: &str,
    width: usize,
    wide: bool,
) -> String {
    let action = plain(rule.get("action"));
    let tone = match action.as_str() {
        "pass" => Tone::Good,
        "deny" => Tone::Bad,
        _ => Tone::Warn,
    };
    let texts = |field: &str| -> Vec<String> {
        list(rule, field).iter().map(|text| plain(Some(text))).collect()
    };
    let mut what = plain(rule.get("protocol"));
    let ports = texts("ports");
    if !ports.is_empty() {
        what.push_str(&format!(" {}", ports.join(",")));
    }
    let peers = texts("peers");
    let word = if direction == "ingress" { "from" } else { "to" };
    let anyone = if peers.is_empty() { "anyone".to_owned() } else { peers.join(" or ") };
    let mut text = format!("{what} {word} {anyone}");
    if let Some(also) = rule.get("also").and_then(Value::as_str) {
        text.push_str(&format!(", with {also}"));
    }
    let own = texts("own");
    if !own.is_empty() {
        text.push_str(&format!(", for {}", own.join(", ")));
    }
    if wide {
        text.push_str(&format!("  [{}]", plain(rule.get("rule"))));
    }
    let author = author(rule);
    let padding = " ".repeat(width - author.chars().count());
    format!("  {number:>2}. {author}{padding}  {}  {text}\n", screen.paint(tone, &action))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_stand_in_the_order_in_which_they_are_asked() {
        let rule = |action: &str, name: &str, peers: Value, ports: Value| {
            json!({"action": action, "protocol": "tcp", "ports": ports, "peers": peers, "own": [],
                   "also": null, "rule": "r",
                   "owner": {"kind": "NetworkPolicy", "namespace": "shop", "name": name}})
        };
        let answer = json!({
            "port": {"addresses": ["10.0.0.3"], "network": "net"}, "unchecked": false,
            "staged": false,
            "layers": [{"name": "firewall", "default": "deny", "egress": [
                rule("pass", "out", json!([]), json!([]))],
                "ingress": [rule("pass", "web", json!(["role=client"]), json!(["80", "443"])),
                            rule("deny", "closed", json!([]), json!([]))]}],
        });
        assert_eq!(
            render(Screen::plain(), &answer, "shop/web-1", false),
            "\
shop/web-1: 10.0.0.3, network net

Ingress
   1. NetworkPolicy shop/web     pass  tcp 80,443 from role=client
   2. NetworkPolicy shop/closed  deny  tcp from anyone
      anything else: denied

Egress
   1. NetworkPolicy shop/out  pass  tcp to anyone
      anything else: denied
"
        );
    }
}
