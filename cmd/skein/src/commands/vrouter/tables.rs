//! The agent's lists as tables. Pure.

use crate::columns::plain;
use crate::screen::{Screen, Tone};
use crate::table::{Cell, Table};
use serde_json::Value;

/// Workload ports.
pub(crate) fn interfaces(list: &[Value], wide: bool) -> Table {
    let mut head = vec!["PORT", "WORKLOAD", "NETWORK", "ADDRESSES", "STATE", "PKTS-OUT", "PKTS-IN"];
    head.extend(["FLOWS", "DROPS"]);
    if wide {
        head.extend(["MAC", "DEVICE", "LABEL", "VRF", "POLICY", "UUID"]);
    }
    let mut table = Table::new(&head);
    for item in list {
        let drops = item.pointer("/counters/drops").and_then(Value::as_object);
        let drops: u64 = drops.into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
        let mut row: Vec<Cell> = vec![
            first(item, &["name", "container", "uuid"]).into(),
            text(item, "workload").into(),
            last_part(&text(item, "network")).into(),
            text(item, "addresses").into(),
            state(item),
            at(item, "/counters/packets_out").into(),
            at(item, "/counters/packets_in").into(),
            flows_of_quota(item).into(),
            if item.get("counters").is_none_or(Value::is_null) {
                "".into()
            } else {
                Cell::toned(drops.to_string(), if drops == 0 { Tone::Plain } else { Tone::Warn })
            },
        ];
        if wide {
            row.push(text(item, "mac").into());
            row.push(text(item, "host_interface").into());
            row.push(text(item, "label").into());
            row.push(text(item, "vrf").into());
            row.push(policy(item.get("policy")).into());
            row.push(text(item, "uuid").into());
        }
        table.row(row);
    }
    table
}

/// Flows, and how many the port may have: `12/16384`.
fn flows_of_quota(item: &Value) -> String {
    let quota = at(item, "/counters/flow_quota");
    let flows = at(item, "/counters/flows");
    if quota.is_empty() { flows } else { format!("{flows}/{quota}") }
}

fn state(item: &Value) -> Cell {
    match item.get("active").and_then(Value::as_bool) {
        Some(true) => Cell::toned("active", Tone::Good),
        _ => match text(item, "problem") {
            problem if problem.is_empty() => Cell::toned("inactive", Tone::Bad),
            problem => Cell::toned(problem, Tone::Bad),
        },
    }
}

/// `"missing"`, `"disabled"` or the numbers of the loaded policies.
fn policy(value: Option<&Value>) -> String {
    let loaded = value.and_then(|v| v.get("loaded"));
    loaded.map_or_else(|| plain(value), |l| format!("v4:{} v6:{}", at(l, "/v4"), at(l, "/v6")))
}

/// Routes in the kernel.
pub(crate) fn routes(list: &[Value], wide: bool) -> Table {
    let mut head = vec!["VRF", "PREFIX", "VIA"];
    if wide {
        head.extend(["NEXTHOP", "IDENTITY", "NETWORK-ID", "GROUPS", "TAGS"]);
    }
    let mut table = Table::new(&head);
    for item in list {
        let mut row: Vec<Cell> = vec![
            text(item, "vrf").into(),
            text(item, "prefix").into(),
            via(item.get("via")).into(),
        ];
        if wide {
            let fields = ["next_hop", "identity", "network_id", "security_groups", "tags"];
            row.extend(fields.iter().map(|field| Cell::from(text(item, field))));
        }
        table.row(row);
    }
    table
}

/// Ways out.
pub(crate) fn next_hops(list: &[Value], _wide: bool) -> Table {
    let mut table = Table::new(&["ID", "VIA"]);
    for item in list {
        table.row(vec![text(item, "id").into(), via(item.get("via")).into()]);
    }
    table
}

fn via(value: Option<&Value>) -> String {
    match value {
        Some(Value::Array(members)) => {
            members.iter().map(|m| via(Some(m))).collect::<Vec<_>>().join(" | ")
        }
        Some(one) if one.get("type") == Some(&Value::from("local")) => {
            let context = one.get("context").map(|number| format!(", context {number}"));
            format!("local, interface {}{}", text(one, "ifindex"), context.unwrap_or_default())
        }
        Some(one) if one.get("type") == Some(&Value::from("service")) => {
            format!("a member of the service, VRF {}", text(one, "vrf"))
        }
        Some(one) if one.get("type") == Some(&Value::from("outside")) => {
            "outside, from the node's address".to_owned()
        }
        Some(one) if one.get("type") == Some(&Value::from("native")) => {
            match one.get("node").and_then(Value::as_str) {
                Some(node) => format!("the underlay, to {node}"),
                None => "the underlay".to_owned(),
            }
        }
        Some(one) if one.get("type") == Some(&Value::from("discard")) => "closed".to_owned(),
        Some(one) if one.get("type") == Some(&Value::from("tunnel")) => format!(
            "{} to {}, label {}",
            text(one, "encapsulation"),
            text(one, "destination"),
            text(one, "label")
        ),
        other => plain(other),
    }
}

/// Services. A member that this node may not choose now is in brackets.
pub(crate) fn services(list: &[Value], wide: bool) -> Table {
    let mut head = vec!["SERVICE", "ADDRESS", "PROTOCOL", "NODE-PORT", "MEMBERS"];
    if wide {
        head.extend(["AFFINITY", "INSIDE", "OUTSIDE", "SOURCES", "VRF", "STATE"]);
    }
    let mut table = Table::new(&head);
    for item in list {
        let members = item.get("members").and_then(Value::as_array).into_iter().flatten();
        let members: Vec<String> = members
            .map(|member| {
                let text = socket(member);
                let usable = member.get("usable") == Some(&Value::Bool(true));
                if usable { text } else { format!("({text})") }
            })
            .collect();
        let mut row: Vec<Cell> = vec![
            text(item, "name").into(),
            socket(item).into(),
            protocol(item).into(),
            text(item, "node_port").into(),
            if members.is_empty() {
                Cell::toned("none: refused", Tone::Warn)
            } else {
                members.join(" ").into()
            },
        ];
        if wide {
            let scope = |field: &str| {
                let local = item.get(field) == Some(&Value::Bool(true));
                if local { "local" } else { "cluster" }
            };
            row.push(format!("{}s", text(item, "affinity_seconds")).into());
            row.push(scope("internal_local").into());
            row.push(scope("external_local").into());
            row.push(text(item, "source_prefixes").into());
            row.push(text(item, "vrf").into());
            row.push(match item.get("in_force").and_then(Value::as_bool) {
                Some(true) => Cell::toned("in force", Tone::Good),
                _ => Cell::toned("not in the kernel", Tone::Bad),
            });
        }
        table.row(row);
    }
    table
}

/// Address and port.
fn socket(item: &Value) -> String {
    let (address, port) = (text(item, "address"), text(item, "port"));
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// Live connections.
pub(crate) fn flows(list: &[Value], wide: bool) -> Table {
    let mut head = vec!["PROTOCOL", "LOCAL", "", "REMOTE", "PKTS-OUT", "PKTS-IN", "IDLE", "RULE"];
    if wide {
        head.extend(["BYTES-OUT", "BYTES-IN", "LAYER", "NEXTHOP", "PORT"]);
    }
    let mut table = Table::new(&head);
    for item in list {
        let idle = item.get("idle_seconds").and_then(Value::as_f64).unwrap_or(0.0);
        let mut row: Vec<Cell> = vec![
            protocol(item).into(),
            endpoint(item, "local").into(),
            arrow(item).into(),
            endpoint(item, "remote").into(),
            text(item, "packets_out").into(),
            text(item, "packets_in").into(),
            format!("{idle:.1}s").into(),
            text(item, "rule").into(),
        ];
        if wide {
            let fields = ["bytes_out", "bytes_in", "layer", "next_hop", "interface"];
            row.extend(fields.iter().map(|field| Cell::from(text(item, field))));
        }
        table.row(row);
    }
    table
}

/// Counted drops.
pub(crate) fn drops(list: &[Value], _wide: bool) -> Table {
    let mut table = Table::new(&["REASON", "PACKETS", "WHAT HAPPENED", "WHAT TO DO"]);
    for item in list {
        let row = ["reason", "packets", "what", "do"];
        table.row(row.iter().map(|field| Cell::from(text(item, field))).collect());
    }
    table
}

/// What staged policies would change.
pub(crate) fn staged(list: &[Value], _wide: bool) -> Table {
    let mut table = Table::new(&["WOULD", "DIRECTION", "CONNECTIONS", "LAST", "RULE"]);
    for item in list {
        let row = ["would", "direction", "connections", "last", "rule"];
        table.row(row.iter().map(|field| Cell::from(text(item, field))).collect());
    }
    table
}

/// Sampled drops.
pub(crate) fn events(list: &[Value], wide: bool) -> Table {
    let mut head = vec!["TIME", "REASON", "PROTOCOL", "LOCAL", "", "REMOTE", "RULE"];
    if wide {
        head.extend(["LAYER", "PORT", "WHAT HAPPENED"]);
    }
    let mut table = Table::new(&head);
    for item in list {
        let mut row: Vec<Cell> = vec![
            clock(item.get("time")).into(),
            Cell::toned(text(item, "reason"), Tone::Warn),
            protocol(item).into(),
            endpoint(item, "local").into(),
            arrow(item).into(),
            endpoint(item, "remote").into(),
            text(item, "rule").into(),
        ];
        if wide {
            let fields = ["layer", "interface", "what"];
            row.extend(fields.iter().map(|field| Cell::from(text(item, field))));
        }
        table.row(row);
    }
    table
}

/// The verdict, then the tables that were asked; the last one decided.
pub(crate) fn trace(screen: Screen, value: &Value) -> String {
    let verdict = match value.get("passes").and_then(Value::as_bool) {
        Some(true) => screen.paint(Tone::Good, "✓ it passes"),
        _ => screen.paint(Tone::Bad, "✗ it is dropped"),
    };
    let mut table = Table::new(&["STEP", "FOUND"]);
    for step in value.get("steps").and_then(Value::as_array).into_iter().flatten() {
        table.row(vec![text(step, "at").into(), text(step, "found").into()]);
    }
    format!("{verdict}\n\n{}", table.render(screen))
}

/// `local` began the connection, or the other end did.
fn arrow(item: &Value) -> &'static str {
    match text(item, "direction").as_str() {
        "egress" | "out" => "->",
        "ingress" | "in" => "<-",
        _ => "",
    }
}

fn protocol(item: &Value) -> String {
    match item.get("protocol").and_then(Value::as_u64) {
        Some(1) => "icmp".to_owned(),
        Some(6) => "tcp".to_owned(),
        Some(17) => "udp".to_owned(),
        Some(58) => "icmp6".to_owned(),
        Some(132) => "sctp".to_owned(),
        _ => text(item, "protocol"),
    }
}

fn endpoint(item: &Value, end: &str) -> String {
    let (address, port) = (text(item, end), text(item, &format!("{end}_port")));
    if port.is_empty() || matches!(protocol(item).as_str(), "icmp" | "icmp6") {
        address
    } else if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// Seconds since 1970 as a time of day, UTC.
fn clock(value: Option<&Value>) -> String {
    let Some(seconds) = value.and_then(Value::as_f64) else { return plain(value) };
    let second = jiff::SignedDuration::try_from_secs_f64(seconds).ok();
    let stamp = second.and_then(|s| jiff::Timestamp::from_duration(s).ok());
    stamp.map_or_else(String::new, |stamp| stamp.strftime("%H:%M:%S%.3f").to_string())
}

fn text(item: &Value, field: &str) -> String {
    plain(item.get(field))
}

fn at(item: &Value, pointer: &str) -> String {
    plain(item.pointer(pointer))
}

fn first(item: &Value, fields: &[&str]) -> String {
    fields.iter().map(|field| text(item, field)).find(|t| !t.is_empty()).unwrap_or_default()
}

fn last_part(name: &str) -> String {
    name.rsplit(':').next().unwrap_or(name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(table: &Table) -> Vec<String> {
        table.render(Screen::plain()).lines().map(str::to_owned).collect()
    }

    #[test]
    fn interfaces_show_state_and_counters() {
        let list = [
            json!({"name": "p-1", "workload": "web", "network": "d:shop:front", "active": true,
                   "addresses": ["10.1.1.3/24", "fd00::3/64"],
                   "counters": {"packets_out": 5, "packets_in": 4, "flows": 1, "flow_quota": 300,
                                "drops": {"policy": 2, "ttl": 1}}}),
            json!({"uuid": "u-2", "active": false, "problem": "no policy yet", "counters": null}),
        ];
        let lines = lines(&interfaces(&list, false));
        let words = |line: &str| {
            line.split("  ")
                .filter(|w| !w.is_empty())
                .map(|w| w.trim().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(&lines[1]),
            ["p-1", "web", "front", "10.1.1.3/24,fd00::3/64", "active", "5", "4", "1/300", "3"]
        );
        assert!(lines[2].contains("no policy yet"));
    }

    #[test]
    fn a_route_says_where_it_leads() {
        let tunnel = json!({"type": "tunnel", "destination": "192.168.0.12",
                            "encapsulation": "vxlan", "label": 17});
        let list = [
            json!({"vrf": "v", "prefix": "10.1.1.4/32", "via": tunnel}),
            json!({"vrf": "v", "prefix": "10.1.1.5/32",
                   "via": [{"type": "local", "ifindex": 9}, tunnel]}),
        ];
        assert_eq!(
            lines(&routes(&list, false))[1..],
            [
                "v    10.1.1.4/32  vxlan to 192.168.0.12, label 17",
                "v    10.1.1.5/32  local, interface 9 | vxlan to 192.168.0.12, label 17",
            ]
        );
    }

    #[test]
    fn services_show_who_can_be_chosen() {
        let list = [
            json!({"name": "shop/web:http", "address": "10.96.0.10", "port": 80, "protocol": 6,
                   "node_port": 30080, "members": [
                {"address": "10.1.1.3", "port": 8080, "usable": true},
                {"address": "10.1.1.4", "port": 8080, "usable": false}]}),
            json!({"name": "shop/db:5432", "address": "fd00::a", "port": 5432, "protocol": 6,
                   "node_port": null, "members": []}),
        ];
        let lines = lines(&services(&list, false));
        assert!(lines[1].contains("10.96.0.10:80"), "{}", lines[1]);
        assert!(lines[1].ends_with("10.1.1.3:8080 (10.1.1.4:8080)"), "{}", lines[1]);
        assert!(lines[2].contains("[fd00::a]:5432") && lines[2].contains("none: refused"));
    }

    #[test]
    fn flows_show_both_ends() {
        let list = [json!({"protocol": 6, "direction": "egress", "local": "fd00::3",
            "local_port": 40000, "remote": "fd00::4", "remote_port": 80, "packets_out": 1,
            "packets_in": 2, "idle_seconds": 0.25, "rule": null})];
        assert_eq!(
            lines(&flows(&list, false))[1],
            "tcp       [fd00::3]:40000  ->  [fd00::4]:80  1         2        0.2s  -"
        );
    }

    #[test]
    fn a_trace_tells_its_steps() {
        let value = json!({"passes": false, "steps": [
            {"at": "interface", "found": "label 17, VRF v"},
            {"at": "policy", "found": "no rule lets it pass"},
        ]});
        assert_eq!(
            trace(Screen::plain(), &value),
            "✗ it is dropped\n\nSTEP       FOUND\ninterface  label 17, VRF v\n\
             policy     no rule lets it pass\n"
        );
    }

    #[test]
    fn event_times_are_readable() {
        assert_eq!(clock(Some(&json!(1_700_000_000.5))), "22:13:20.500");
        assert_eq!(clock(Some(&json!(f64::MAX))), "");
    }
}
