//! The controller's answer for people.

use crate::columns::plain;
use crate::screen::{Screen, Tone};
use serde_json::Value;

pub(super) fn passes(value: &Value) -> bool {
    is(value, "passes")
}

pub(super) fn is(value: &Value, field: &str) -> bool {
    value.get(field).and_then(Value::as_bool).unwrap_or(false)
}

fn mark(screen: Screen, good: bool) -> String {
    if good { screen.paint(Tone::Good, "✓") } else { screen.paint(Tone::Bad, "✗") }
}

/// For people.
pub(super) fn render(
    screen: Screen,
    answer: &Value,
    (from, to): &(String, String),
    wide: bool,
) -> String {
    let mut text = format!(
        "{} {from} -> {to}: {}\n",
        mark(screen, passes(answer) && !is(answer, "differs")),
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
        if let Some(node) = service.get("node").filter(|node| !node.is_null()) {
            text.push_str(&in_force(screen, node));
        }
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
        let nodes = way.get("nodes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        text.extend(nodes.iter().map(|node| in_force(screen, node)));
    }
    text
}

/// What a node said that it has in force.
fn in_force(screen: Screen, node: &Value) -> String {
    let differs = node.get("differs").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let given = |field: &str| node.get(field).filter(|value| !value.is_null());
    let (sign, said) = match given("problem") {
        _ if !differs.is_empty() => {
            let all: Vec<String> = differs.iter().map(|one| plain(Some(one))).collect();
            (mark(screen, false), all.join(", and "))
        }
        Some(problem) => (screen.paint(Tone::Warn, "?"), plain(Some(problem))),
        None => {
            let members =
                given("members").map(|members| format!("members {}", plain(Some(members))));
            let route = given("via")
                .map(|via| format!("{}: {}", plain(node.get("route")), plain(Some(via))));
            let dropped = given("dropped").map(|reason| plain(Some(reason)));
            let said = [members.or(route), dropped].into_iter().flatten().collect::<Vec<_>>();
            (mark(screen, true), said.join(", "))
        }
    };
    format!("  in force  {sign} {}, {}: {said}\n", plain(node.get("node")), plain(node.get("end")))
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
                "nodes": [
                    {"node": "n1", "end": "leaving", "route": "10.0.0.3/32", "via": "a tunnel",
                     "dropped": null, "problem": null, "differs": []},
                    {"node": "n2", "end": "arriving", "route": "10.0.0.2/32", "via": "a tunnel",
                     "differs": ["lets it pass by its policy"]},
                    {"node": "n3", "end": "arriving", "problem": "it did not answer", "differs": []},
                ],
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
  in force  ✓ n1, leaving: 10.0.0.3/32: a tunnel
  in force  ✗ n2, arriving: lets it pass by its policy
  in force  ? n3, arriving: it did not answer
"
        );
    }
}
