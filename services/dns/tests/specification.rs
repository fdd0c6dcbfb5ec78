//! The Kubernetes DNS specification 1.1.0, section by section, and what DNS asks of every server.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]

use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use proptest::prelude::*;
use skein_dns::{
    Next, Order, Outcome, RecordSet, RecordSpec, Transport, UDP_LIMIT, Verdict, ZoneSpec, Zones,
};
use std::collections::BTreeMap;

fn zone(id: &str, domain: &str) -> ZoneSpec {
    ZoneSpec {
        id: id.into(),
        domain: domain.into(),
        order: Order::Fixed,
        default_ttl: 5,
        negative_ttl: 7,
        next: Next::Upstream,
        reverse: true,
        cluster: domain == "cluster.local",
    }
}

fn record(name: &str, kind: &str, data: &str, reverse: bool) -> RecordSpec {
    RecordSpec {
        name: name.into(),
        kind: kind.into(),
        data: data.into(),
        reverse,
        ..RecordSpec::default()
    }
}

fn set(id: &str, records: &[(&str, &str, &str)]) -> RecordSet {
    RecordSet {
        id: id.into(),
        zone: "c".into(),
        records: records
            .iter()
            // The service's own name does not lead back from its endpoints.
            .map(|(name, kind, data)| record(name, kind, data, *name != "headless.default.svc"))
            .collect(),
    }
}

/// The specification's cluster: a service, a headless one with two endpoints, and an external name.
fn cluster() -> Zones {
    let mut zones = Zones::default();
    assert!(zones.set_zone(zone("c", "cluster.local")).unwrap().is_empty());
    for one in [
        set(
            "kubernetes",
            &[
                ("kubernetes.default.svc", "A", "10.3.0.1"),
                ("kubernetes.default.svc", "AAAA", "2001:db8::1"),
                (
                    "_https._tcp.kubernetes.default.svc",
                    "SRV",
                    "0 100 443 kubernetes.default.svc.cluster.local.",
                ),
            ],
        ),
        set(
            "headless",
            &[
                ("headless.default.svc", "A", "10.3.0.100"),
                ("headless.default.svc", "A", "10.3.0.101"),
                ("my-pet.headless.default.svc", "A", "10.3.0.100"),
                ("10-3-0-101.headless.default.svc", "A", "10.3.0.101"),
                (
                    "_https._tcp.headless.default.svc",
                    "SRV",
                    "0 50 443 my-pet.headless.default.svc.cluster.local.",
                ),
                (
                    "_https._tcp.headless.default.svc",
                    "SRV",
                    "0 50 443 10-3-0-101.headless.default.svc.cluster.local.",
                ),
            ],
        ),
        set("foo", &[("foo.default.svc", "CNAME", "www.example.com")]),
        set("inside", &[("inside.default.svc", "CNAME", "headless.default.svc.cluster.local")]),
    ] {
        assert_eq!(zones.set_records(one), []);
    }
    views(&mut zones, &[("pods", "c")]);
    zones
}

fn views(zones: &mut Zones, list: &[(&str, &str)]) {
    let all = list.iter().map(|(view, zone)| ((*view).to_owned(), Some((*zone).to_owned())));
    zones.set_views(all.collect());
}

fn query(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = 4711;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(size) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        message.edns = Some(edns);
    }
    message.to_vec().unwrap()
}

fn reply(zones: &Zones, view: &str, bytes: &[u8]) -> (Message, Outcome) {
    match zones.answer(view, bytes, Transport::Udp, 0) {
        Verdict::Reply(bytes, outcome) => (Message::from_vec(&bytes).unwrap(), outcome),
        other => panic!("{other:?}"),
    }
}

/// Code and records of a reply, as text.
fn ask(zones: &Zones, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
    let (message, _) = reply(zones, "pods", &query(name, kind, None));
    assert!(message.metadata.authoritative && message.metadata.recursion_available);
    assert_eq!(message.metadata.id, 4711);
    let negative = message.answers.is_empty();
    // RFC 2308: with the start of authority, by which "none" is remembered; and only then.
    let soa = message.authorities.first().map(Record::record_type);
    assert_eq!(soa, negative.then_some(RecordType::SOA), "{name} {kind}");
    let text = |r: &Record| format!("{} {} {}", r.ttl, r.record_type(), r.data);
    (message.metadata.response_code, message.answers.iter().map(text).collect())
}

fn records(zones: &Zones, name: &str, kind: RecordType) -> Vec<String> {
    let (code, records) = ask(zones, name, kind);
    assert_eq!(code, ResponseCode::NoError, "{name} {kind}");
    records
}

use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SRV, TXT};

#[test]
fn section_2_2_the_version_of_the_schema() {
    assert_eq!(records(&cluster(), "dns-version.cluster.local.", TXT), ["5 TXT 1.1.0"]);
}

#[test]
fn section_2_3_a_service_with_a_cluster_address() {
    let zones = cluster();
    let name = "kubernetes.default.svc.cluster.local.";
    assert_eq!(records(&zones, name, A), ["5 A 10.3.0.1"]);
    assert_eq!(records(&zones, name, AAAA), ["5 AAAA 2001:db8::1"]);
    let port = "_https._tcp.kubernetes.default.svc.cluster.local.";
    assert_eq!(
        records(&zones, port, SRV),
        ["5 SRV 0 100 443 kubernetes.default.svc.cluster.local."]
    );
    assert_eq!(
        records(&zones, "1.0.3.10.in-addr.arpa.", PTR),
        ["5 PTR kubernetes.default.svc.cluster.local."]
    );
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.";
    assert_eq!(records(&zones, v6, PTR), ["5 PTR kubernetes.default.svc.cluster.local."]);
    // The addresses of what SRV points to come along.
    let (message, _) = reply(&zones, "pods", &query(port, SRV, None));
    assert_eq!(message.additionals.len(), 2);
}

#[test]
fn section_2_4_a_headless_service() {
    let zones = cluster();
    let name = "headless.default.svc.cluster.local.";
    assert_eq!(records(&zones, name, A), ["5 A 10.3.0.100", "5 A 10.3.0.101"]);
    assert_eq!(records(&zones, &format!("my-pet.{name}"), A), ["5 A 10.3.0.100"]);
    assert_eq!(records(&zones, &format!("_https._tcp.{name}"), SRV).len(), 2);
    assert_eq!(records(&zones, "100.0.3.10.in-addr.arpa.", PTR), [format!("5 PTR my-pet.{name}")]);
}

#[test]
fn section_2_5_an_external_name() {
    let zones = cluster();
    let name = "foo.default.svc.cluster.local.";
    assert_eq!(records(&zones, name, CNAME), ["5 CNAME www.example.com."]);
    // For its address somebody else is asked, and the alias stands before what they say.
    let Verdict::Forward(forward) = zones.answer("pods", &query(name, A, None), Transport::Udp, 0)
    else {
        panic!("it must be forwarded")
    };
    let mut said = Message::query();
    said.add_query(Query::query(Name::from_ascii("www.example.com.").unwrap(), A));
    let address = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 1));
    let target = Name::from_ascii("www.example.com.").unwrap();
    said.add_answer(Record::from_rdata(target, 60, address));
    let (bytes, outcome) = forward.finish(Some(&said.into_response().to_vec().unwrap()));
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!((outcome, message.metadata.id), (Outcome::Forwarded, 4711));
    let kinds: Vec<RecordType> = message.answers.iter().map(Record::record_type).collect();
    assert_eq!(kinds, [CNAME, A]);
    assert_eq!(message.queries[0].name.to_ascii(), name);
    // Nobody answers: the client is told, at once and not never.
    let (bytes, outcome) = forward.finish(None);
    assert_eq!(outcome, Outcome::Failed);
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    // One that leads to a service of the cluster is followed here.
    let inside = records(&zones, "inside.default.svc.cluster.local.", A);
    assert_eq!(inside.len(), 3, "{inside:?}");
}

#[test]
fn section_2_6_pods_are_their_addresses() {
    let zones = cluster();
    assert_eq!(records(&zones, "10-244-3-7.shop.pod.cluster.local.", A), ["5 A 10.244.3.7"]);
    assert_eq!(records(&zones, "fd00--7.shop.pod.cluster.local.", AAAA), ["5 AAAA fd00::7"]);
    assert!(records(&zones, "10-244-3-7.shop.pod.cluster.local.", AAAA).is_empty());
    assert_eq!(ask(&zones, "web.shop.pod.cluster.local.", A).0, ResponseCode::NXDomain);
    assert!(records(&zones, "shop.pod.cluster.local.", A).is_empty());
}

#[test]
fn none_of_a_type_is_told_from_no_such_name() {
    let zones = cluster();
    assert!(records(&zones, "kubernetes.default.svc.cluster.local.", TXT).is_empty());
    // Names between names exist.
    for name in [
        "cluster.local.",
        "svc.cluster.local.",
        "default.svc.cluster.local.",
        "_tcp.headless.default.svc.cluster.local.",
    ] {
        assert!(records(&zones, name, A).is_empty(), "{name}");
    }
    for name in [
        "nobody.default.svc.cluster.local.",
        "x.kubernetes.default.svc.cluster.local.",
        "nobody.svc.cluster.local.",
    ] {
        assert_eq!(ask(&zones, name, A).0, ResponseCode::NXDomain, "{name}");
    }
    assert_eq!(records(&zones, "cluster.local.", RecordType::SOA).len(), 1);
}

#[test]
fn letters_are_alike_and_come_back_as_they_were() {
    let (message, _) =
        reply(&cluster(), "pods", &query("KuberNetes.Default.SVC.cluster.LOCAL.", A, None));
    assert_eq!(message.answers.len(), 1);
    assert_eq!(message.queries[0].name.to_ascii(), "KuberNetes.Default.SVC.cluster.LOCAL.");
}

#[test]
fn what_is_not_the_zones_is_forwarded_as_it_came() {
    let zones = cluster();
    let bytes = query("Example.com.", A, Some(4096));
    let Verdict::Forward(forward) = zones.answer("pods", &bytes, Transport::Udp, 0) else {
        panic!("it must be forwarded")
    };
    // Whoever asked in other letters before: this client sees its own.
    let mut other = query("eXample.com.", A, None);
    other[2] |= 0x80;
    let (reply, _) = forward.finish(Some(&other));
    assert_eq!(&reply[..12 + 13], &[&other[..12], &bytes[12..12 + 13]].concat()[..]);
}

#[test]
fn a_view_sees_its_own_zone_and_those_behind_it() {
    let mut zones = cluster();
    let mut shop = zone("s", "shop.example");
    shop.next = Next::Zone("c".into());
    zones.set_zone(shop).unwrap();
    let mut bank = zone("b", "bank.example");
    bank.next = Next::Server("192.0.2.53".parse().unwrap());
    zones.set_zone(bank).unwrap();
    for (id, address) in [("s", "10.0.0.1"), ("b", "10.0.0.2")] {
        let mut www = set(&format!("{id}/www"), &[("www", "A", address)]);
        www.zone = id.into();
        assert_eq!(zones.set_records(www), []);
    }
    views(&mut zones, &[("pods", "c"), ("shop", "s"), ("bank", "b")]);
    let first =
        |view: &str, name: &str| match zones.answer(view, &query(name, A, None), Transport::Udp, 0)
        {
            Verdict::Reply(bytes, _) => {
                let message = Message::from_vec(&bytes).unwrap();
                message
                    .answers
                    .first()
                    .map_or(message.metadata.response_code.to_string(), |r| r.data.to_string())
            }
            Verdict::Forward(_) => "forwarded".into(),
            Verdict::Drop => "dropped".into(),
        };
    assert_eq!(first("shop", "www.shop.example."), "10.0.0.1");
    assert_eq!(first("shop", "kubernetes.default.svc.cluster.local."), "10.3.0.1");
    assert_eq!(first("shop", "www.bank.example."), "forwarded");
    assert_eq!(first("bank", "www.bank.example."), "10.0.0.2");
    assert_eq!(first("bank", "www.shop.example."), "forwarded");
    assert_eq!(first("nobody", "www.shop.example."), ResponseCode::Refused.to_string());
    // A zone that is not known yet is no reason to ask strangers for its names.
    zones
        .set_views(BTreeMap::from([("new".into(), Some("unknown".into())), ("none".into(), None)]));
    let code = |zones: &Zones, view: &str| match zones.answer(
        view,
        &query("www.shop.example.", A, None),
        Transport::Udp,
        0,
    ) {
        Verdict::Reply(bytes, _) => Message::from_vec(&bytes).unwrap().metadata.response_code,
        _ => ResponseCode::NoError,
    };
    assert_eq!(code(&zones, "new"), ResponseCode::ServFail);
    assert_eq!(code(&zones, "none"), ResponseCode::NoError);
}

#[test]
fn other_record_types_and_orders() {
    let mut zones = Zones::default();
    let mut spec = zone("c", "shop.example");
    spec.order = Order::RoundRobin;
    zones.set_zone(spec.clone()).unwrap();
    let mut mail = record("@", "MX", "mail", false);
    mail.preference = 10;
    mail.ttl = Some(300);
    let mut many = set(
        "all",
        &[
            ("@", "NS", "ns"),
            ("mail", "A", "10.0.0.9"),
            ("10.9.9.9", "PTR", "mail"),
            ("www", "A", "10.0.0.1"),
            ("www", "A", "10.0.0.2"),
            ("www", "A", "10.0.0.3"),
        ],
    );
    many.records.push(mail);
    assert_eq!(zones.set_records(many), []);
    views(&mut zones, &[("pods", "c")]);
    assert_eq!(records(&zones, "shop.example.", MX), ["300 MX 10 mail.shop.example."]);
    assert_eq!(records(&zones, "shop.example.", NS), ["5 NS ns.shop.example."]);
    assert_eq!(records(&zones, "9.9.9.10.in-addr.arpa.", PTR), ["5 PTR mail.shop.example."]);
    let order = |zones: &Zones, turn| match zones.answer(
        "pods",
        &query("www.shop.example.", A, None),
        Transport::Udp,
        turn,
    ) {
        Verdict::Reply(bytes, _) => {
            let message = Message::from_vec(&bytes).unwrap();
            message.answers.iter().map(|r| r.data.to_string()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(order(&zones, 0), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(order(&zones, 4), ["10.0.0.2", "10.0.0.3", "10.0.0.1"]);
    // A changed zone keeps its records.
    spec.order = Order::Random;
    assert!(zones.set_zone(spec).unwrap().is_empty());
    let seen: std::collections::BTreeSet<_> = (0..100).map(|turn| order(&zones, turn)).collect();
    assert_eq!(seen.len(), 6, "every order comes up");
}

#[test]
fn sets_come_change_and_go() {
    let mut zones = cluster();
    assert_eq!(zones.set_records(set("a", &[("web.default.svc", "A", "10.0.0.1")])), []);
    // Two sets that say the same are told once, and either may go.
    assert_eq!(zones.set_records(set("b", &[("web.default.svc", "A", "10.0.0.1")])), []);
    assert_eq!(records(&zones, "web.default.svc.cluster.local.", A), ["5 A 10.0.0.1"]);
    zones.remove_records("a");
    assert_eq!(records(&zones, "web.default.svc.cluster.local.", A), ["5 A 10.0.0.1"]);
    assert_eq!(zones.set_records(set("b", &[("web.default.svc", "A", "10.0.0.2")])), []);
    assert_eq!(records(&zones, "web.default.svc.cluster.local.", A), ["5 A 10.0.0.2"]);
    zones.remove_records("b");
    assert_eq!(ask(&zones, "web.default.svc.cluster.local.", A).0, ResponseCode::NXDomain);
    for id in ["kubernetes", "headless", "foo", "inside"] {
        zones.remove_records(id);
    }
    // Nothing is left that would make names exist.
    assert_eq!(ask(&zones, "svc.cluster.local.", A).0, ResponseCode::NXDomain);
    assert_eq!(zones.summary(), [("c".into(), "cluster.local.".into(), 0)]);
    // What lies outside the zone is somebody else's domain.
    assert_eq!(zones.set_records(set("evil", &[("www.example.com.", "A", "10.0.0.1")])).len(), 1);
    // A set may come before its zone.
    let mut early = set("early", &[("www", "A", "10.0.0.7")]);
    early.zone = "later".into();
    assert_eq!(zones.set_records(early), []);
    zones.set_zone(zone("later", "later.example")).unwrap();
    views(&mut zones, &[("pods", "later")]);
    assert_eq!(records(&zones, "www.later.example.", A), ["5 A 10.0.0.7"]);
}

#[test]
fn a_reply_fits_its_reader() {
    let mut zones = Zones::default();
    zones.set_zone(zone("c", "cluster.local")).unwrap();
    let all: Vec<RecordSpec> =
        (0..200).map(|n| record("big.default.svc", "A", &format!("10.0.1.{n}"), false)).collect();
    zones.set_records(RecordSet { id: "big".into(), zone: "c".into(), records: all });
    views(&mut zones, &[("pods", "c")]);
    let name = "big.default.svc.cluster.local.";
    for (edns, limit) in
        [(None, 512), (Some(100), 512), (Some(900), 900), (Some(4096), usize::from(UDP_LIMIT))]
    {
        let bytes = query(name, A, edns);
        let Verdict::Reply(reply, _) = zones.answer("pods", &bytes, Transport::Udp, 0) else {
            panic!()
        };
        assert!(reply.len() <= limit && reply.len() > limit * 3 / 4, "{edns:?}: {}", reply.len());
        let message = Message::from_vec(&reply).unwrap();
        assert!(message.metadata.truncation);
        assert_eq!(message.edns.is_some(), edns.is_some());
        let Verdict::Reply(reply, _) = zones.answer("pods", &bytes, Transport::Tcp, 0) else {
            panic!()
        };
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!((message.answers.len(), message.metadata.truncation), (200, false));
    }
}

#[test]
fn what_is_not_served_is_refused() {
    let zones = cluster();
    let code = |bytes: &[u8]| reply(&zones, "pods", bytes).0.metadata.response_code;
    assert_eq!(code(&query("cluster.local.", RecordType::AXFR, None)), ResponseCode::Refused);
    let mut chaos = Message::query();
    let mut version = Query::query(Name::from_ascii("version.bind.").unwrap(), TXT);
    version.query_class = DNSClass::CH;
    chaos.add_query(version);
    assert_eq!(code(&chaos.to_vec().unwrap()), ResponseCode::Refused);
    let mut notify = query("cluster.local.", A, None);
    notify[2] |= 4 << 3;
    assert_eq!(code(&notify), ResponseCode::NotImp);
    let mut two = query("cluster.local.", A, None);
    two[5] = 2;
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut newer = Message::query();
    newer.add_query(Query::query(Name::from_ascii("cluster.local.").unwrap(), A));
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.edns = Some(edns);
    let (message, _) = reply(&zones, "pods", &newer.to_vec().unwrap());
    assert!(message.edns.is_some());
    assert_eq!(u16::from(message.metadata.response_code), 16, "BADVERS");
    // A reply gets none: two servers would talk for ever.
    let mut said = query("cluster.local.", A, None);
    said[2] |= 0x80;
    assert!(matches!(zones.answer("pods", &said, Transport::Udp, 0), Verdict::Drop));
}

#[test]
fn circles_of_aliases_and_zones_end() {
    let mut zones = Zones::default();
    for (id, next) in [("c", "d"), ("d", "c")] {
        let mut spec = zone(id, &format!("{id}.example"));
        spec.next = Next::Zone(next.into());
        zones.set_zone(spec).unwrap();
    }
    zones.set_records(set("x", &[("a", "CNAME", "b"), ("b", "CNAME", "a")]));
    zones.set_views(BTreeMap::from([("pods".into(), Some("c".into()))]));
    let (message, outcome) = reply(&zones, "pods", &query("a.c.example.", A, None));
    assert_eq!((message.answers.len(), outcome), (2, Outcome::NoData));
    assert!(matches!(
        zones.answer("pods", &query("elsewhere.", A, None), Transport::Udp, 0),
        Verdict::Forward(_)
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Whatever comes: no panic, no reply longer than allowed, and none that is not the query's.
    #[test]
    fn random_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..600), tcp: bool) {
        survive(&bytes, tcp);
    }

    /// Queries with a few bytes changed get deeper.
    #[test]
    fn damaged_queries_are_survived(
        name in prop::sample::select(vec!["kubernetes.default.svc.cluster.local.", "1.0.3.10.in-addr.arpa.", "foo.default.svc.cluster.local."]),
        kind in any::<u16>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        tcp: bool,
    ) {
        let mut bytes = query(name, RecordType::from(kind), Some(1232));
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        survive(&bytes, tcp);
        bytes.truncate(cut.index(bytes.len()));
        survive(&bytes, tcp);
    }
}

fn survive(bytes: &[u8], tcp: bool) {
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    let reply = match cluster().answer("pods", bytes, transport, 1) {
        Verdict::Reply(reply, _) => reply,
        Verdict::Forward(forward) => {
            let _ = forward.finish(Some(bytes));
            forward.finish(None).0
        }
        Verdict::Drop => return,
    };
    assert!(reply.len() >= 12 && reply[..2] == bytes[..2] && reply[2] & 0x80 != 0);
    assert!(tcp || reply.len() <= usize::from(UDP_LIMIT));
}
