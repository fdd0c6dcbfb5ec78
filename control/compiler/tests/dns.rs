//! What virtual DNS servers mean, by example.

#![allow(clippy::unwrap_used, reason = "tests")]

mod world;

use serde_json::json;
use skein_compiler::{DnsNext, Engine};
use skein_model::{Change, Kind};
use std::net::IpAddr;
use world::dns::{ipam, machine, record, server};
use world::services::floating_ip;
use world::{Build, id, network, port};

fn compile(changes: impl IntoIterator<Item = Vec<Change>>) -> Engine {
    let mut engine = Engine::new();
    engine.apply(&changes.into_iter().flatten().collect::<Vec<_>>());
    engine
}

fn shop() -> Vec<Vec<Change>> {
    vec![
        vec![
            server(
                "shop",
                json!({"domain_name": "shop.example", "dynamic_records_from_client": true}),
            ),
            ipam("shop"),
            record("shop", "www", "A", "10.0.0.1"),
        ],
        network("red", 1, &[]),
        port("a", "red", "10.1.0.7", &[]),
    ]
}

/// Names and data of an object's records.
fn records(engine: &Engine, kind: Kind, name: &str) -> Vec<String> {
    let set = engine.dns_records(id(kind, name));
    let all = set.into_iter().flat_map(|set| &set.records);
    all.map(|record| format!("{} {} {}", record.name, record.kind, record.data)).collect()
}

#[test]
fn a_network_has_the_server_of_its_ipam() {
    let mut engine = compile(shop());
    let of_red = |engine: &Engine| engine.vrf(id(Kind::VIRTUAL_NETWORK, "red")).unwrap().dns;
    let shop = id(Kind::VIRTUAL_DNS, "shop");
    assert_eq!(of_red(&engine), Some(shop));
    let zone = engine.dns_zone(shop).unwrap();
    assert_eq!(
        (zone.domain.as_str(), zone.default_ttl, zone.negative_ttl),
        ("shop.example", 84_600, 60)
    );
    assert_eq!(zone.next, DnsNext::Upstream);
    engine.apply(&[ipam("")]);
    assert_eq!(of_red(&engine), None);
    // By name, the server may come later.
    engine.apply(&[ipam("bank")]);
    assert_eq!(of_red(&engine), None);
    engine.apply(&[server(
        "bank",
        json!({"domain_name": "bank.example", "next_virtual_DNS": "default-domain:shop"}),
    )]);
    let bank = id(Kind::VIRTUAL_DNS, "bank");
    assert_eq!(of_red(&engine), Some(bank));
    assert_eq!(engine.dns_zone(bank).unwrap().next, DnsNext::Zone(shop));
    engine.apply(&[Change::Delete(shop)]);
    assert_eq!(engine.dns_zone(bank).unwrap().next, DnsNext::Upstream);
    engine.apply(&[server(
        "bank",
        json!({"domain_name": "bank.example", "next_virtual_DNS": "192.0.2.53"}),
    )]);
    let server: IpAddr = "192.0.2.53".parse().unwrap();
    assert_eq!(engine.dns_zone(bank).unwrap().next, DnsNext::Server(server));
}

#[test]
fn a_record_that_changes_is_its_own_set_and_no_other() {
    let mut engine = compile(shop());
    let many = (0..1000).map(|n| record("shop", &format!("s{n}"), "A", "10.0.0.9"));
    engine.apply(&many.collect::<Vec<_>>());
    assert_eq!(engine.dns_records_in(id(Kind::VIRTUAL_DNS, "shop")).count(), 1001);
    let delta = engine.apply(&[record("shop", "s7", "A", "10.0.0.7")]);
    assert_eq!(delta.dns_records.len(), 1);
    assert!(delta.dns_zones.is_empty() && delta.vrfs.is_empty() && delta.interfaces.is_empty());
    let gone = id(Kind::VIRTUAL_DNS_RECORD, "shop:s7:A");
    let delta = engine.apply(&[Change::Delete(gone)]);
    assert_eq!(delta.dns_records, [(gone, None)]);
    assert_eq!(engine.dns_records_in(id(Kind::VIRTUAL_DNS, "shop")).count(), 1000);
}

#[test]
fn machines_have_names_where_the_server_wants_that() {
    let mut engine = compile(shop());
    assert!(records(&engine, Kind::VIRTUAL_MACHINE_INTERFACE, "a").is_empty());
    let of_machine = || {
        Build::new(Kind::VIRTUAL_MACHINE_INTERFACE, "a")
            .with(
                "virtual_machine_interface_mac_addresses",
                json!({"mac_address": ["02:00:00:00:00:01"]}),
            )
            .refer(Kind::VIRTUAL_NETWORK, "red")
            .refer(Kind::VIRTUAL_MACHINE, "Web-1")
            .put()
    };
    engine.apply(&[machine("Web-1"), of_machine()]);
    assert_eq!(records(&engine, Kind::VIRTUAL_MACHINE_INTERFACE, "a"), ["web-1 A 10.1.0.7"]);
    engine.apply(&[server("shop", json!({"domain_name": "shop.example"}))]);
    assert!(records(&engine, Kind::VIRTUAL_MACHINE_INTERFACE, "a").is_empty());
}

#[test]
fn floating_ips_are_named_as_the_server_wants() {
    let mut engine = compile(shop());
    engine.apply(&network("public", 2, &[]));
    engine.apply(&floating_ip("f", "public", "10.2.0.5", "a"));
    engine.apply(&[
        Build::new(Kind::PROJECT, "shop").put(),
        machine("web"),
        Build::new(Kind::VIRTUAL_MACHINE_INTERFACE, "a")
            .with(
                "virtual_machine_interface_mac_addresses",
                json!({"mac_address": ["02:00:00:00:00:01"]}),
            )
            .refer(Kind::VIRTUAL_NETWORK, "red")
            .refer(Kind::VIRTUAL_MACHINE, "web")
            .put(),
    ]);
    for (notation, name) in [
        (None, "10-2-0-5.shop"),
        (Some("dashed-ip"), "10-2-0-5"),
        (Some("dashed-ip-tenant-name"), "10-2-0-5.shop"),
        (Some("vm-name"), "web"),
        (Some("vm-name-tenant-name"), "web.shop"),
    ] {
        engine.apply(&[server("shop", json!({
            "domain_name": "shop.example", "dynamic_records_from_client": true, "floating_ip_record": notation,
        }))]);
        assert_eq!(records(&engine, Kind::FLOATING_IP, "f"), [format!("{name} A 10.2.0.5")]);
    }
}
