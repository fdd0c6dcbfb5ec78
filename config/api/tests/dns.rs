//! Virtual DNS servers and records: spec section 17.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::needless_pass_by_value)] // a test fails by panicking

mod support;

use serde_json::{Value, json};
use skein_model::Kind;
use support::Fixture;
use uuid::Uuid;

async fn server(fixture: &Fixture, name: &str, data: Value) -> Result<Uuid, String> {
    let fields = json!({
        "fq_name": ["default-domain", name], "parent_type": "domain", "virtual_DNS_data": data,
    });
    fixture.create(Kind::VIRTUAL_DNS, fields).await.map_err(|(_, text)| text)
}

async fn record(fixture: &Fixture, name: &str, data: Value) -> Result<Uuid, String> {
    let fields = json!({
        "fq_name": ["default-domain", "shop", name], "parent_type": "virtual-DNS",
        "virtual_DNS_record_data": data,
    });
    fixture.create(Kind::VIRTUAL_DNS_RECORD, fields).await.map_err(|(_, text)| text)
}

#[tokio::test]
async fn a_server_has_a_domain_and_asks_nobody_in_a_circle() {
    let fixture = Fixture::new().await;
    for (name, data, field) in [
        ("a", json!({}), "domain_name"),
        ("b", json!({"domain_name": "shop_1.example"}), "domain_name"),
        ("c", json!({"domain_name": "-x.example"}), "domain_name"),
        ("d", json!({"domain_name": "a..b"}), "domain_name"),
        ("e", json!({"domain_name": "a.b", "default_ttl_seconds": -1}), "default_ttl_seconds"),
        (
            "f",
            json!({"domain_name": "a.b", "default_ttl_seconds": 2_147_483_648_i64}),
            "default_ttl_seconds",
        ),
        ("g", json!({"domain_name": "a.b", "record_order": "any"}), "record_order"),
        (
            "h",
            json!({"domain_name": "a.b", "next_virtual_DNS": "default-domain:nobody"}),
            "next_virtual_DNS",
        ),
        (
            "i",
            json!({"domain_name": "a.b", "next_virtual_DNS": "default-domain:i"}),
            "next_virtual_DNS",
        ),
    ] {
        let error = server(&fixture, name, data).await.unwrap_err();
        assert!(error.contains(field), "{name}: {error}");
    }
    let first = json!({"domain_name": "a.example", "next_virtual_DNS": "192.0.2.53"});
    let first = server(&fixture, "first", first).await.unwrap();
    let second = json!({"domain_name": "b.example", "next_virtual_DNS": "default-domain:first"});
    let second = server(&fixture, "second", second).await.unwrap();
    let circle = json!({"virtual_DNS_data": {"domain_name": "a.example", "next_virtual_DNS": "default-domain:second"}});
    let error = fixture.update(Kind::VIRTUAL_DNS, first, circle).await.unwrap_err().1;
    assert!(error.contains("circle"), "{error}");
    let error = fixture.delete(Kind::VIRTUAL_DNS, first).await.unwrap_err().1;
    assert!(error.contains("default-domain:second"), "{error}");
    fixture.delete(Kind::VIRTUAL_DNS, second).await.unwrap();
    fixture.delete(Kind::VIRTUAL_DNS, first).await.unwrap();
}

#[tokio::test]
async fn a_record_says_what_its_type_can() {
    let fixture = Fixture::new().await;
    server(&fixture, "shop", json!({"domain_name": "shop.example"})).await.unwrap();
    let data = |name: &str, kind: &str, data: &str| json!({"record_name": name, "record_type": kind, "record_class": "IN", "record_data": data});
    for (nth, good) in [
        data("www", "A", "10.0.0.1"),
        data("@", "AAAA", "fd00::1"),
        data("a.b", "CNAME", "www.example.com."),
        data("10.0.0.1", "PTR", "www"),
        data("1.0.0.10.in-addr.arpa", "PTR", "www"),
        data("@", "NS", "ns.example.com"),
        data("_https._tcp.web", "SRV", "0 100 443 web.shop.example."),
        json!({"record_name": "@", "record_type": "MX", "record_data": "mail", "record_mx_preference": 10, "record_ttl_seconds": 60}),
    ]
    .into_iter()
    .enumerate()
    {
        record(&fixture, &nth.to_string(), good).await.unwrap();
    }
    for (bad, field) in [
        (data("www", "A", "fd00::1"), "record_data"),
        (data("www", "AAAA", "10.0.0.1"), "record_data"),
        (data("www", "TXT", "x"), "record_type"),
        (json!({"record_name": "www", "record_data": "10.0.0.1"}), "record_type"),
        (data("-www", "A", "10.0.0.1"), "record_name"),
        (data("", "A", "10.0.0.1"), "record_name"),
        (data("*", "A", "10.0.0.1"), "record_name"),
        (data("www", "PTR", "www"), "record_name"),
        (data("www", "CNAME", "a b"), "record_data"),
        (data("www", "SRV", "0 443 web"), "record_data"),
        (data("www", "SRV", "0 1 70000 web"), "record_data"),
        (
            json!({"record_name": "@", "record_type": "MX", "record_data": "mail", "record_mx_preference": 70000}),
            "record_mx_preference",
        ),
        (
            json!({"record_name": "w", "record_type": "A", "record_data": "10.0.0.1", "record_ttl_seconds": -5}),
            "record_ttl_seconds",
        ),
    ] {
        let error = record(&fixture, "bad", bad.clone()).await.unwrap_err();
        assert!(error.contains(field), "{bad}: {error}");
    }
}
