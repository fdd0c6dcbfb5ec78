//! Queries per second of the core on one thread: `cargo run --release -p skein-dns --example dns-bench`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a figure for people")]

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use skein_dns::{Next, Order, RecordSet, RecordSpec, Transport, ZoneSpec, Zones};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

const SERVICES: usize = 1000;

fn main() {
    let mut zones = Zones::default();
    let spec = ZoneSpec {
        id: "c".into(),
        domain: "cluster.local".into(),
        order: Order::RoundRobin,
        default_ttl: 5,
        negative_ttl: 5,
        next: Next::Upstream,
        reverse: true,
        cluster: true,
    };
    zones.set_zone(spec).unwrap();
    let start = Instant::now();
    for n in 0..SERVICES {
        let record = |name: String, kind: &str, data: String| RecordSpec {
            name,
            kind: kind.into(),
            data,
            reverse: true,
            ..RecordSpec::default()
        };
        let name = format!("service-{n}.default.svc");
        let records = vec![
            record(name.clone(), "A", format!("10.96.{}.{}", n / 250, n % 250)),
            record(format!("_http._tcp.{name}"), "SRV", format!("0 100 80 {name}.cluster.local.")),
        ];
        zones.set_records(RecordSet { id: n.to_string(), zone: "c".into(), records });
    }
    println!("{SERVICES} services read in {:?}", start.elapsed());
    zones.set_views(BTreeMap::from([("pods".into(), Some("c".into()))]));
    let query = |name: &str, kind| {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    };
    for (what, bytes) in [
        ("A of a service", query("service-500.default.svc.cluster.local.", RecordType::A)),
        ("no such name", query("example.com.default.svc.cluster.local.", RecordType::A)),
        ("A of a pod", query("10-244-1-2.default.pod.cluster.local.", RecordType::A)),
        ("SRV", query("_http._tcp.service-500.default.svc.cluster.local.", RecordType::SRV)),
        ("PTR", query("7.1.96.10.in-addr.arpa.", RecordType::PTR)),
        ("to be forwarded", query("www.example.com.", RecordType::A)),
    ] {
        let (start, mut count) = (Instant::now(), 0u64);
        while start.elapsed() < Duration::from_millis(500) {
            for _ in 0..256 {
                count += 1;
                black_box(zones.answer("pods", &bytes, Transport::Udp, count));
            }
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        println!("{what:16} {rate:>9.0} a second");
    }
}
