//! `skeind vrouter` as systemd runs it: it tells when it is ready, and ends when it is told, under traffic that does not notice.
//! Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step is a failed test"
)]

mod support;

use skein_lab::{Host, Transfer};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use support::traffic::{Carries, Connection, Echo, Pings};
use support::{Bed, PATIENCE, SILENCE, soon};

/// Status code and body of a page that the agent has about itself; `None`: nobody answers.
fn page(host: &Host, path: &str) -> Option<(u16, String)> {
    host.http(8085, "GET", path, "").ok().map(|answer| (answer.status, answer.body))
}

#[test]
fn it_tells_systemd_and_stops_when_told_and_no_packet_notices() {
    let mut bed = Bed::start("tagent");
    bed.network("front", 1);
    bed.run("create security-group web --rule 'egress any' --rule 'ingress tcp from any port 80' --rule 'ingress icmp from any'");
    let [left, right] = [bed.attach(0, "left", "front"), bed.attach(1, "right", "front")];
    let port = bed.port(0, &left);
    let groups = serde_json::json!([{"to": ["default-domain", "shop", "web"]}]);
    bed.put(
        "virtual-machine-interface",
        &port,
        &serde_json::json!({"security_group_refs": groups}),
    );
    let services = [80, 81].map(|port| Echo::start(&left.pod, port));
    let host = bed.fabric.node(0).host().clone();
    let reaches = |port| right.pod.connects(left.ipv4(), port, SILENCE).unwrap();
    soon("the group's rules", || reaches(80) && !reaches(81));

    let transfer = Transfer::start(&left.pod, &right.pod, right.ipv4(), 7000).unwrap();
    let mut held = Connection::open(&right.pod, left.ipv4(), 80).unwrap();
    let pings = Pings::start(&right.pod, left.ipv6(), "0.02");

    let path = host.directory().join("notify");
    for turn in 0..2 {
        let agent = bed.fabric.node_mut(0).agent();
        let status = agent.stop(PATIENCE).unwrap_or_else(|error| panic!("{turn}: {error}"));
        assert_eq!(status.code(), Some(0), "{turn}: {status}; {}", agent.log_tail());
        assert!(page(&host, "/healthz").is_none(), "{turn}: somebody answers for it");
        // What is open goes on, what is new is judged as before.
        let before = transfer.arrived();
        soon("the transfer to go on without an agent", || transfer.arrived() > before + (1 << 20));
        assert_eq!(held.carries(PATIENCE), Carries::Yes, "{turn}");
        soon("a new connection without an agent", || reaches(80));
        assert!(!reaches(81), "{turn}: what no rule lets in");

        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        bed.fabric.node_mut(0).start_agent_notifying(&path).unwrap();
        let mut said = Vec::new();
        let told = bed.fabric.node_mut(0).agent().wait_ready(PATIENCE, || {
            let mut message = [0; 256];
            socket.recv(&mut message).map(|length| said = message[..length].to_vec())
        });
        told.unwrap_or_else(|error| panic!("{turn}: {error}"));
        assert_eq!(said, b"READY=1", "{turn}");
        // From here on systemd starts what comes after it, so nothing may have to be waited for.
        assert_eq!(page(&host, "/healthz").map(|page| page.0), Some(200), "{turn}");
        let (code, metrics) = page(&host, "/metrics").unwrap();
        assert!(code == 200 && metrics.contains("skein_agent_"), "{turn}: {code} {metrics}");
        // It is ready for workloads once a controller has told it what there is.
        soon("/readyz", || page(&host, "/readyz").is_some_and(|page| page.0 == 200));
        bed.attach(0, &format!("late{turn}"), "front").detach().unwrap();
    }

    let before = transfer.arrived();
    soon("the transfer to go on", || transfer.arrived() > before + (1 << 20));
    assert_eq!(held.carries(PATIENCE), Carries::Yes);
    let pinged = pings.stop();
    assert!(pinged.answered > 0 && pinged.missing.is_empty(), "{pinged:?}");
    let report = transfer.finish().unwrap();
    assert!(report.intact && report.longest_pause() < Duration::from_secs(3), "{report:?}");
    drop(services);
}
