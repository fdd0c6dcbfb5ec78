//! What the tag firewall means, by example.

#![allow(clippy::unwrap_used)]

mod world;

use serde_json::json;
use skein_compiler::Engine;
use skein_model::{Change, Kind};
use skein_policy::{
    Attributes, Direction, Layer, Packet, Peer, RuleAction, evaluate, evaluate_staged,
};
use std::net::IpAddr;
use world::firewall::{addresses, firewall_policy, rule, services, set, staged, tag};
use world::{Build, id, network, port, tagged};

const WEB: u32 = 0x20001;
const DB: u32 = 0x20002;
const SHOP: u32 = 0x10001;

/// Two tagged ports and an untagged one in one network.
fn ports() -> Vec<Change> {
    let mut all = vec![
        tag("app=shop", SHOP),
        tag("app=other", 0x10002),
        tag("tier=web", WEB),
        tag("tier=db", DB),
        tag("label=x", 1),
        tag("label=y", 2),
    ];
    all.extend(network("front", 5, &[]));
    all.extend(network("back", 6, &[]));
    all.extend(tagged("web", "front", "10.5.0.7", &[], &["app=shop", "tier=web"]));
    all.extend(tagged("db", "front", "10.5.0.8", &[], &["app=shop", "tier=db"]));
    all.extend(port("plain", "front", "10.5.0.9", &[]));
    all
}

fn compile(more: Vec<Change>) -> Engine {
    let mut engine = Engine::new();
    engine.apply(&[ports(), more].concat());
    engine
}

fn layers(engine: &Engine, name: &str) -> Vec<Layer> {
    let port = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, name)).unwrap();
    port.policy.as_ref().unwrap().policy.layers.clone()
}

fn attributes(engine: &Engine, name: &str) -> Attributes {
    engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, name)).unwrap().attributes.clone()
}

/// Whether one port's policy lets it open (egress) or be opened (ingress) a TCP connection.
fn passes(
    engine: &Engine,
    at: &str,
    direction: Direction,
    remote: &Attributes,
    packet: Packet,
) -> bool {
    let port = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, at)).unwrap();
    evaluate(&port.policy.as_ref().unwrap().policy, direction, remote, &packet).pass
}

fn address(engine: &Engine, name: &str) -> IpAddr {
    engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, name)).unwrap().addresses[0].prefix.addr()
}

fn packet(local: IpAddr, remote: IpAddr, port: u16) -> Packet {
    Packet { remote, local, protocol: 6, source_port: 40_000, destination_port: port }
}

/// Whether a connection passes at both of its ends.
fn connects(engine: &Engine, from: &str, to: &str, port: u16) -> bool {
    let (a, b) = (address(engine, from), address(engine, to));
    passes(engine, from, Direction::Egress, &attributes(engine, to), packet(a, b, port))
        && passes(engine, to, Direction::Ingress, &attributes(engine, from), packet(b, a, port))
}

/// Whether someone outside, of whom nothing is known, reaches a port.
fn enters(engine: &Engine, to: &str, remote: &str, port: u16) -> bool {
    let local = address(engine, to);
    let packet = packet(local, remote.parse().unwrap(), port);
    passes(engine, to, Direction::Ingress, &Attributes::default(), packet)
}

#[test]
fn tags_select_sets_and_their_end_denies() {
    let engine = compile(vec![
        set("shop", "app=shop", &[("p", "00001.0")]).put(),
        firewall_policy("p", "", &["web-db"]),
        rule(("web-db", "pass", "tags 20001", ">", "tags 20002"), 3306, json!({})),
    ]);
    assert!(connects(&engine, "web", "db", 3306));
    assert!(!connects(&engine, "web", "db", 3307), "the end of the list denies");
    assert!(!connects(&engine, "db", "web", 3306), "one direction only");
    assert!(layers(&engine, "plain").is_empty(), "a port without a set passes");
    let web = &layers(&engine, "web")[0];
    assert_eq!((web.name.as_str(), web.default_pass), ("firewall", false));
    assert_eq!(web.egress[0].remotes, [Peer::Tags(vec![DB])]);
    assert!(web.ingress.is_empty());
}

#[test]
fn policies_and_rules_are_read_in_order_of_their_sequences() {
    let engine = compile(vec![
        set(
            "shop",
            "app=shop",
            &[("late", "00002.0"), ("early", "00001.5"), ("first", "00001.25")],
        )
        .put(),
        firewall_policy("late", "", &["deny"]),
        firewall_policy("early", "", &["pass-2"]),
        firewall_policy("first", "", &["pass-1"]),
        rule(("deny", "deny", "any", "<>", "any"), 0, json!({})),
        rule(("pass-1", "pass", "any", "<>", "any"), 1, json!({})),
        rule(("pass-2", "pass", "any", "<>", "any"), 2, json!({})),
    ]);
    let ports: Vec<_> =
        layers(&engine, "web")[0].egress.iter().map(|r| r.destination_ports.clone()).collect();
    assert_eq!(ports, [vec![1..=1], vec![2..=2], vec![]]);
}

#[test]
fn nearer_tags_win_and_labels_add_up() {
    let mut engine = compile(vec![
        Build::new(Kind::PROJECT, "shop")
            .refer(Kind::TAG, "app=other")
            .refer(Kind::TAG, "tier=db")
            .refer(Kind::TAG, "label=x")
            .put(),
    ]);
    assert_eq!(attributes(&engine, "plain").tags, [1, 0x10002, DB]);
    assert_eq!(attributes(&engine, "web").tags, [1, SHOP, WEB]);
    engine.apply(&tagged("plain", "front", "10.5.0.9", &[], &["label=y"]));
    assert_eq!(attributes(&engine, "plain").tags, [1, 2, 0x10002, DB]);
}

#[test]
fn every_kind_of_endpoint_is_understood_at_both_ends() {
    let policy = |rules: &[&str]| {
        vec![set("shop", "app=shop", &[("p", "1.0")]).put(), firewall_policy("p", "", rules)]
    };
    let engine = compile(
        [
            policy(&["group", "net", "subnet"]),
            vec![
                addresses("office", &["192.0.2.0/24"], &["label=x"]),
                rule(("group", "pass", "group office", ">", "tags 20001"), 80, json!({})),
                rule(("net", "pass", "network front", "<", "network back"), 81, json!({})),
                rule(("subnet", "pass", "10.5.0.7/32", ">", "198.51.100.0/24"), 82, json!({})),
            ],
        ]
        .concat(),
    );
    assert!(enters(&engine, "web", "192.0.2.9", 80));
    assert!(!enters(&engine, "web", "192.0.3.9", 80) && !enters(&engine, "db", "192.0.2.9", 80));
    let labelled = Attributes { tags: vec![1], ..Attributes::default() };
    let at = packet(address(&engine, "web"), "203.0.113.1".parse().unwrap(), 80);
    assert!(passes(&engine, "web", Direction::Ingress, &labelled, at));
    let from_back = Attributes { network: 6, ..Attributes::default() };
    let at = packet(address(&engine, "db"), "10.6.0.1".parse().unwrap(), 81);
    assert!(passes(&engine, "db", Direction::Ingress, &from_back, at));
    // Local addresses decide which port a subnet is about.
    for (port, open) in [("web", true), ("db", false)] {
        let out = packet(address(&engine, port), "198.51.100.1".parse().unwrap(), 82);
        assert_eq!(passes(&engine, port, Direction::Egress, &Attributes::default(), out), open);
    }
}

#[test]
fn match_tags_need_the_same_value_at_both_ends() {
    let mut engine = compile(vec![
        set("shop", "app=shop", &[("p", "1.0")]).put(),
        firewall_policy("p", "", &["same"]),
        rule(
            ("same", "pass", "any", "<>", "any"),
            80,
            json!({"match_tag_types": {"tag_type": [1]}}),
        ),
    ]);
    assert!(connects(&engine, "web", "db", 80));
    assert!(!enters(&engine, "web", "192.0.2.9", 80), "no tag is no match");
    engine.apply(&tagged("db", "front", "10.5.0.8", &[], &["app=other", "tier=db"]));
    assert!(!connects(&engine, "web", "db", 80));
    let untyped = json!({"match_tag_types": {"tag_type": [4]}});
    engine.apply(&[rule(("same", "pass", "any", "<>", "any"), 80, untyped)]);
    assert!(layers(&engine, "web")[0].egress.is_empty(), "no tag of that type at this end");
}

#[test]
fn service_groups_are_alternatives() {
    let rule = Build::new(Kind::FIREWALL_RULE, "r")
        .with("action_list", json!({"simple_action": "pass"}))
        .with("direction", json!("<>"))
        .refer(Kind::SERVICE_GROUP, "web");
    let engine = compile(vec![
        set("shop", "app=shop", &[("p", "1.0")]).put(),
        firewall_policy("p", "", &["r"]),
        services("web", &[80, 443]),
        rule.put(),
    ]);
    assert!(connects(&engine, "web", "db", 80) && connects(&engine, "web", "db", 443));
    assert!(!connects(&engine, "web", "db", 444));
}

#[test]
fn sets_for_all_come_first_and_empty_ones_have_no_say() {
    let global =
        |policies| set("all", "", policies).refer(Kind::GLOBAL_VROUTER_CONFIG, "vrouters").put();
    let mut engine = compile(vec![
        Build::new(Kind::GLOBAL_VROUTER_CONFIG, "vrouters").put(),
        global(&[]),
        set("mine", "", &[]).with("all_applications", json!(true)).put(),
        Build::new(Kind::PROJECT, "shop").refer(Kind::APPLICATION_POLICY_SET, "mine").put(),
        set("shop", "app=shop", &[("pass", "1.0")]).put(),
        firewall_policy("pass", "", &["pass"]),
        firewall_policy("deny", "", &["deny"]),
        rule(("pass", "pass", "any", "<>", "any"), 0, json!({})),
        rule(("deny", "deny", "any", "<>", "any"), 22, json!({})),
    ]);
    assert!(connects(&engine, "web", "db", 22) && layers(&engine, "plain").is_empty());
    engine.apply(&[global(&[("deny", "1.0")])]);
    assert!(!connects(&engine, "web", "db", 22) && connects(&engine, "web", "db", 23));
    assert!(!enters(&engine, "plain", "192.0.2.9", 80), "a set for all has an end, too");
    engine.apply(&[
        global(&[]),
        set("mine", "", &[("deny", "1.0")]).with("all_applications", json!(true)).put(),
    ]);
    assert!(!connects(&engine, "web", "db", 22) && connects(&engine, "web", "db", 23));
}

#[test]
fn a_pass_anywhere_passes_end_to_end_unless_rules_say_where_they_are_judged() {
    // The guide's first scenario: everyone may leave, nobody may enter (spec/kubernetes.md section 5.6).
    let world = |out: serde_json::Value, into: serde_json::Value| {
        compile(vec![
            set("shop", "app=shop", &[("p", "1.0")]).put(),
            firewall_policy("p", "", &["out", "in"]),
            rule(("out", "pass", "tags 10001", ">", "any"), 0, out),
            rule(("in", "deny", "any", ">", "tags 10001"), 0, into),
        ])
    };
    assert!(connects(&world(json!({}), json!({})), "web", "db", 80));
    let strict = world(json!({"judged_at": "endpoint-1"}), json!({"judged_at": "endpoint-2"}));
    assert!(!connects(&strict, "web", "db", 80));
    assert!(connects(&strict, "web", "plain", 80));
}

#[test]
fn an_exception_is_a_hole_in_the_next_pass_rule_about_the_same() {
    let ends = |from: &'static str| (from, ">", "tags 20001");
    let one = |name, action, from, extra| {
        let (a, direction, b) = ends(from);
        rule((name, action, a, direction, b), 80, extra)
    };
    let engine = compile(vec![
        set("shop", "app=shop", &[("p", "1.0")]).put(),
        addresses("hole", &["10.0.1.0/24"], &[]),
        addresses("wide", &["10.0.0.0/16"], &[]),
        addresses("again", &["10.0.1.8/29"], &[]),
        firewall_policy("p", "", &["hole", "other-port", "wide", "again"]),
        one("hole", "deny", "group hole", json!({"is_exception": true})),
        rule(("other-port", "pass", "group wide", ">", "tags 20001"), 81, json!({})),
        one("wide", "pass", "group wide", json!({})),
        one("again", "pass", "group again", json!({})),
    ]);
    assert!(enters(&engine, "web", "10.0.2.1", 80));
    assert!(!enters(&engine, "web", "10.0.1.1", 80));
    assert!(enters(&engine, "web", "10.0.1.1", 81), "other connections have no hole");
    assert!(enters(&engine, "web", "10.0.1.9", 80), "the hole is no verdict");
    let net = |text: &str| text.parse().unwrap();
    let rules = &layers(&engine, "web")[0].ingress;
    let holed = Peer::PrefixExcept(net("10.0.0.0/16"), vec![net("10.0.1.0/24")]);
    assert_eq!(rules[1].remotes, [holed]);
    assert!(rules.iter().all(|r| r.action == RuleAction::Pass));
}

#[test]
fn skip_goes_on_with_the_next_tier() {
    let engine = compile(vec![
        set("shop", "app=shop", &[("a1", "1.0"), ("a2", "2.0"), ("user", "3.0"), ("base", "4.0")])
            .put(),
        firewall_policy("a1", "admin", &["skip-80"]),
        firewall_policy("a2", "admin", &["deny-all"]),
        firewall_policy("user", "", &["pass-80"]),
        firewall_policy("base", "baseline", &["pass-all"]),
        rule(("skip-80", "skip", "any", "<>", "any"), 80, json!({})),
        rule(("deny-all", "deny", "any", "<>", "tags 20002"), 0, json!({})),
        rule(("pass-80", "pass", "any", "<>", "any"), 80, json!({})),
        rule(("pass-all", "pass", "any", "<>", "any"), 0, json!({})),
    ]);
    assert!(connects(&engine, "web", "db", 80), "the rest of the admin tier is left out");
    assert!(!connects(&engine, "web", "db", 81));
    let tiers: Vec<u32> = layers(&engine, "web")[0].egress.iter().map(|r| r.tier).collect();
    assert_eq!(tiers, [0, 0, 1, 1], "tiers are told apart only behind a skip");
}

#[test]
fn a_staged_policy_is_told_of_and_not_enforced() {
    let deny = || rule(("deny", "deny", "any", ">", "tags 20002"), 80, json!({}));
    let pass = || rule(("pass", "pass", "any", "<>", "any"), 0, json!({}));
    let mut engine = compile(vec![
        set("shop", "app=shop", &[("new", "1.0"), ("old", "2.0")]).put(),
        staged("new", &["deny"]),
        firewall_policy("old", "", &["pass"]),
        deny(),
        pass(),
    ]);
    assert!(connects(&engine, "web", "db", 80));
    let told = |engine: &Engine, at: &str, remote: &str, port| {
        let interface = engine.interface(id(Kind::VIRTUAL_MACHINE_INTERFACE, at)).unwrap();
        let policy = &interface.policy.as_ref().unwrap().policy;
        let packet = packet(address(engine, at), address(engine, remote), port);
        let who = attributes(engine, remote);
        evaluate_staged(policy, Direction::Egress, &who, &packet).map(|verdict| verdict.pass)
    };
    assert_eq!(told(&engine, "web", "db", 80), Some(false));
    assert_eq!(told(&engine, "web", "db", 81), Some(true));
    // Staging the only policy of a set would close what it does not pass.
    engine.apply(&[set("shop", "app=shop", &[("new", "1.0")]).put()]);
    assert!(connects(&engine, "web", "db", 81) && layers(&engine, "web").is_empty());
    assert_eq!(told(&engine, "web", "db", 81), Some(false));
    engine.apply(&[firewall_policy("new", "", &["deny", "pass"])]);
    assert!(!connects(&engine, "web", "db", 80) && connects(&engine, "web", "db", 81));
    assert_eq!(told(&engine, "web", "db", 80), None);
}

#[test]
fn a_policy_change_reaches_only_the_ports_it_is_about() {
    let strict = json!({"judged_at": "endpoint-2"});
    let mut engine = compile(vec![
        set("shop", "app=shop", &[("p", "1.0"), ("q", "2.0")]).put(),
        firewall_policy("p", "", &["to-web"]),
        firewall_policy("q", "", &["to-db"]),
        rule(("to-web", "pass", "any", ">", "tags 20001"), 80, strict.clone()),
        rule(("to-db", "pass", "any", ">", "tags 20002"), 80, strict.clone()),
    ]);
    let delta = engine.apply(&[rule(("to-db", "pass", "any", ">", "tags 20002"), 81, strict)]);
    let touched: Vec<_> = delta.interfaces.iter().map(|(uuid, _)| *uuid).collect();
    assert_eq!(touched, [id(Kind::VIRTUAL_MACHINE_INTERFACE, "db")]);
}
