//! Rules in words: `pass tcp from front to back port 80`, `ingress tcp from any port 22`.

use crate::error::Error;
use crate::scope::Scope;
use serde_json::{Value, json};
use skein_model::{FqName, Kind};

/// How a network policy's rule is written.
pub(crate) const POLICY_RULE: &str = "pass|deny [PROTOCOL] from PEER to PEER [port N[-M][,...]], or `between PEER and PEER` for both ways";
/// How a security group's rule is written.
pub(crate) const GROUP_RULE: &str =
    "ingress|egress [PROTOCOL] [from|to PEER] [port N[-M][,...]]; PEER is any, a prefix or a group";

/// A rule of a network policy, in the API's form.
pub(crate) fn policy(text: &str, scope: &Scope) -> Result<Value, Error> {
    let mut words = Words::new(text, POLICY_RULE);
    let action = match words.next() {
        Some(action @ ("pass" | "deny")) => action,
        other => return words.wrong(&format!("it starts with {}", quoted(other))),
    };
    let protocol = words.protocol()?;
    let (direction, joint) = match words.next() {
        Some("from") => (">", "to"),
        Some("between") => ("<>", "and"),
        other => return words.wrong(&format!("after the protocol comes {}", quoted(other))),
    };
    let source = words.peer(scope, Kind::VIRTUAL_NETWORK)?;
    if words.next() != Some(joint) {
        return words.wrong(&format!("the first peer is not followed by {joint:?}"));
    }
    let target = words.peer(scope, Kind::VIRTUAL_NETWORK)?;
    let ports = words.ports(protocol)?;
    words.end()?;
    Ok(json!({
        "direction": direction,
        "protocol": protocol,
        "src_addresses": [source.address],
        "src_ports": [any_port()],
        "dst_addresses": [target.address],
        "dst_ports": ports,
        "action_list": {"simple_action": action},
    }))
}

/// A rule of a security group, in the API's form; one for each address family it is about.
pub(crate) fn group(text: &str, scope: &Scope) -> Result<Vec<Value>, Error> {
    let mut words = Words::new(text, GROUP_RULE);
    let ingress = match words.next() {
        Some("ingress") => true,
        Some("egress") => false,
        other => return words.wrong(&format!("it starts with {}", quoted(other))),
    };
    let protocol = words.protocol()?;
    let joint = if ingress { "from" } else { "to" };
    let peer = if words.take(joint) {
        words.peer(scope, Kind::SECURITY_GROUP)?
    } else {
        Peer { address: Value::Null, family: None, any: true }
    };
    let ports = words.ports(protocol)?;
    words.end()?;
    let families = [("IPv4", "0.0.0.0"), ("IPv6", "::")];
    let chosen = families.iter().filter(|(family, _)| peer.family.is_none_or(|f| f == *family));
    let rules = chosen.map(|(family, everything)| {
        let address = if peer.any {
            json!({"subnet": {"ip_prefix": everything, "ip_prefix_len": 0}})
        } else {
            peer.address.clone()
        };
        let own = json!({"security_group": "local"});
        let (source, target) = if ingress { (address, own) } else { (own, address) };
        json!({
            "direction": ">",
            "protocol": protocol,
            "ethertype": family,
            "src_addresses": [source],
            "src_ports": [any_port()],
            "dst_addresses": [target],
            "dst_ports": ports,
        })
    });
    Ok(rules.collect())
}

/// One end of a rule.
struct Peer {
    address: Value,
    family: Option<&'static str>,
    any: bool,
}

/// The words of a rule, read one by one.
struct Words<'a> {
    text: &'a str,
    form: &'static str,
    words: Vec<&'a str>,
    at: usize,
}

impl<'a> Words<'a> {
    fn new(text: &'a str, form: &'static str) -> Words<'a> {
        Words { text, form, words: text.split_whitespace().collect(), at: 0 }
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at).copied();
        self.at += 1;
        word
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.at) == Some(&word);
        self.at += usize::from(found);
        found
    }

    fn wrong<T>(&self, why: &str) -> Result<T, Error> {
        let message = format!("the rule {:?} is not understood: {why}", self.text);
        Err(Error::usage(message, format!("write it as: {}", self.form)))
    }

    fn protocol(&mut self) -> Result<&'a str, Error> {
        match self.words.get(self.at).copied() {
            None | Some("from" | "to" | "between" | "port") => Ok("any"),
            Some(word @ ("any" | "tcp" | "udp" | "icmp" | "icmp6" | "sctp")) => {
                self.at += 1;
                Ok(word)
            }
            Some(word) if word.parse::<u8>().is_ok() => {
                self.at += 1;
                Ok(word)
            }
            Some(word) => self.wrong(&format!(
                "{word:?} is no protocol (any, tcp, udp, icmp, icmp6, sctp or a number to 255)"
            )),
        }
    }

    fn peer(&mut self, scope: &Scope, named: Kind) -> Result<Peer, Error> {
        let Some(word) = self.next() else {
            return self.wrong("a peer is missing");
        };
        if let Ok(net) = word.parse::<ipnet::IpNet>() {
            let net = net.trunc();
            let subnet = json!({"ip_prefix": net.network(), "ip_prefix_len": net.prefix_len()});
            let family = if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
            return Ok(Peer {
                address: json!({"subnet": subnet}),
                family: Some(family),
                any: false,
            });
        }
        let field =
            if named == Kind::SECURITY_GROUP { "security_group" } else { "virtual_network" };
        let name = match word {
            "any" => "any".to_owned(),
            // "local": whichever network the policy is attached to.
            "local" if named == Kind::VIRTUAL_NETWORK => "local".to_owned(),
            _ => scope.complete(named, word)?.to_string(),
        };
        Ok(Peer { address: json!({field: name}), family: None, any: word == "any" })
    }

    fn ports(&mut self, protocol: &str) -> Result<Vec<Value>, Error> {
        if !self.take("port") && !self.take("ports") {
            return Ok(vec![any_port()]);
        }
        if !matches!(protocol, "tcp" | "udp" | "sctp" | "6" | "17" | "132") {
            return self.wrong(&format!("protocol {protocol} has no ports; use tcp, udp or sctp"));
        }
        let Some(list) = self.next() else {
            return self.wrong("the port is missing");
        };
        let range = |item: &str| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (first.parse::<u16>().ok()?, last.parse::<u16>().ok()?);
            (first <= last).then(|| json!({"start_port": first, "end_port": last}))
        };
        match list.split(',').map(range).collect() {
            Some(ports) => Ok(ports),
            None => self.wrong(&format!("{list:?} is no port, range or list of them")),
        }
    }

    fn end(&mut self) -> Result<(), Error> {
        match self.next() {
            None => Ok(()),
            Some(word) => self.wrong(&format!("{word:?} is too much")),
        }
    }
}

fn any_port() -> Value {
    json!({"start_port": -1, "end_port": -1})
}

fn quoted(word: Option<&str>) -> String {
    word.map_or("nothing".to_owned(), |word| format!("{word:?}"))
}

/// A rule of a policy or a group in words, for people.
pub(crate) fn in_words(rule: &Value) -> String {
    let text = |field: &str| rule.get(field).and_then(Value::as_str).unwrap_or("");
    let peers = |field: &str| {
        let list = rule.get(field).and_then(Value::as_array);
        let names: Vec<String> = list.into_iter().flatten().map(address).collect();
        if names.is_empty() { "any".to_owned() } else { names.join(",") }
    };
    let ports = |field: &str, word: &str| {
        let list = rule.get(field).and_then(Value::as_array);
        let ranges: Vec<String> = list.into_iter().flatten().filter_map(port).collect();
        if ranges.is_empty() { String::new() } else { format!(" {word} {}", ranges.join(",")) }
    };
    let action = rule.pointer("/action_list/simple_action").and_then(Value::as_str);
    let (from, to) = if text("direction") == "<>" { ("between", "and") } else { ("from", "to") };
    let mut words = String::new();
    if let Some(action) = action {
        words.push_str(&format!("{action} "));
    }
    words.push_str(&format!(
        "{} {from} {}{} {to} {}{}",
        if text("protocol").is_empty() { "any" } else { text("protocol") },
        peers("src_addresses"),
        ports("src_ports", "source-port"),
        peers("dst_addresses"),
        ports("dst_ports", "port"),
    ));
    words
}

fn address(value: &Value) -> String {
    let subnet = |s: &Value| {
        let prefix = s.get("ip_prefix").and_then(Value::as_str)?;
        Some(format!("{prefix}/{}", s.get("ip_prefix_len")?))
    };
    let named = ["virtual_network", "security_group", "network_policy"];
    if let Some(name) = named.iter().find_map(|f| value.get(f).and_then(Value::as_str)) {
        return FqName::parse(name).name().to_owned();
    }
    let list = value.get("subnet_list").and_then(Value::as_array);
    let subnets: Vec<String> = value
        .get("subnet")
        .into_iter()
        .chain(list.into_iter().flatten())
        .filter_map(subnet)
        .collect();
    if subnets.is_empty() { "any".to_owned() } else { subnets.join(",") }
}

/// A port range; `None` when it covers every port.
fn port(value: &Value) -> Option<String> {
    let number = |field: &str, absent| value.get(field).and_then(Value::as_i64).unwrap_or(absent);
    let (first, last) = (number("start_port", 0), number("end_port", 65535));
    match (first, last) {
        (-1, _) | (_, -1) | (0, 65535) => None,
        _ if first == last => Some(first.to_string()),
        _ => Some(format!("{first}-{last}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope::new("default-domain", Some("shop"))
    }

    #[test]
    fn a_policy_rule_becomes_the_apis_form() {
        assert_eq!(
            policy("pass tcp from front to default-domain:db:back port 80,443-445", &scope())
                .unwrap(),
            json!({
                "direction": ">",
                "protocol": "tcp",
                "src_addresses": [{"virtual_network": "default-domain:shop:front"}],
                "src_ports": [{"start_port": -1, "end_port": -1}],
                "dst_addresses": [{"virtual_network": "default-domain:db:back"}],
                "dst_ports": [
                    {"start_port": 80, "end_port": 80},
                    {"start_port": 443, "end_port": 445},
                ],
                "action_list": {"simple_action": "pass"},
            })
        );
    }

    #[test]
    fn words_and_rules_are_two_ways_to_say_the_same() {
        for text in [
            "pass tcp from front to back port 80",
            "deny any between front and any",
            "pass icmp from 10.0.0.0/8 to local",
        ] {
            assert_eq!(in_words(&policy(text, &scope()).unwrap()), text);
        }
    }

    #[test]
    fn a_group_rule_covers_both_families_unless_a_prefix_says_one() {
        let both = group("ingress tcp port 22", &scope()).unwrap();
        assert_eq!(both.len(), 2);
        assert_eq!(in_words(&both[1]), "tcp from ::/0 to local port 22");
        let one = group("egress udp to fd00::/8 port 53", &scope()).unwrap();
        assert_eq!(one.len(), 1);
        assert_eq!(one[0]["ethertype"], "IPv6");
        let named = group("ingress from web", &scope()).unwrap();
        assert_eq!(
            named[0]["src_addresses"],
            json!([{"security_group": "default-domain:shop:web"}])
        );
    }

    #[test]
    fn wrong_rules_say_what_is_wrong_and_what_is_right() {
        for (text, why) in [
            ("allow tcp from a to b", "starts with \"allow\""),
            ("pass tpc from a to b", "\"tpc\" is no protocol"),
            ("pass tcp from a", "not followed by \"to\""),
            ("pass tcp from a to b port 70000", "no port"),
            ("pass tcp from a to b port 90-80", "no port"),
            ("pass icmp from a to b port 8", "has no ports"),
            ("pass tcp from a to b log", "too much"),
            ("", "starts with nothing"),
        ] {
            let error = policy(text, &scope()).unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
            assert!(error.next_step().unwrap().contains("pass|deny"), "{text}");
        }
    }
}
