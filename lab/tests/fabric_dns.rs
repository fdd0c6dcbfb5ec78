//! Names of two tenants whose networks, addresses, zones and machines are called and numbered alike: each has its own, on
//! every node, and its own way to names outside.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]

mod support;

use serde_json::{Value, json};
use skein_lab::{Upstream, Workload, wait_for};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Instant;
use support::{Bed, PATIENCE};

const DOMAIN: &str = "corp.test";
/// The DNS address of both tenants' subnets.
const SERVER: &str = "10.1.0.2";
/// What [`Upstream::NAME`] means to the nodes' resolver, and to that of one tenant.
const FOR_ALL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const FOR_BLUE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 81);

fn make(bed: &Bed, kind: &str, fields: &Value) -> String {
    let (status, answer) = bed.api("POST", &format!("/{kind}s"), &json!({ kind: fields }));
    assert_eq!(status, 200, "{kind}: {answer}");
    answer[kind]["uuid"].as_str().unwrap().to_owned()
}

/// A tenant: a project with a zone and a network, called and numbered as every other tenant's.
struct Tenant {
    name: &'static str,
    /// The same machines on both nodes: `web` on the first, `db` on the second.
    web: Workload,
    db: Workload,
}

impl Tenant {
    fn new(bed: &Bed, name: &'static str, next: &str) -> Tenant {
        make(
            bed,
            "project",
            &json!({"fq_name": ["default-domain", name], "parent_type": "domain"}),
        );
        let zone = json!(["default-domain", format!("{name}-names")]);
        let data = json!({
            "domain_name": DOMAIN, "dynamic_records_from_client": true, "record_order": "fixed",
            "default_ttl_seconds": 5, "external_visible": false, "reverse_resolution": true,
            "next_virtual_DNS": next,
        });
        make(
            bed,
            "virtual-DNS",
            &json!({"fq_name": zone, "parent_type": "domain", "virtual_DNS_data": data}),
        );
        let ipam = json!(["default-domain", name, "names"]);
        make(
            bed,
            "network-ipam",
            &json!({
                "fq_name": ipam, "parent_type": "project", "virtual_DNS_refs": [{"to": zone}],
                "network_ipam_mgmt": {
                    "ipam_dns_method": "virtual-dns-server",
                    "ipam_dns_server": {"virtual_dns_server_name": format!("default-domain:{name}-names")},
                },
            }),
        );
        let subnet = json!({
            "subnet": {"ip_prefix": "10.1.0.0", "ip_prefix_len": 24},
            "default_gateway": "10.1.0.1", "dns_server_address": SERVER,
        });
        make(
            bed,
            "virtual-network",
            &json!({
                "fq_name": ["default-domain", name, "front"], "parent_type": "project",
                "network_ipam_refs": [{"to": ipam, "attr": {"ipam_subnets": [subnet]}}],
            }),
        );
        let network = format!("default-domain:{name}:front");
        let attach = |node: usize, machine: &str| {
            let attached = bed.fabric.node(node).attach(&format!("{name}-{machine}"), &network);
            attached.unwrap_or_else(|error| panic!("{name}-{machine}: {error}"))
        };
        let tenant = Tenant { name, web: attach(0, "web"), db: attach(1, "db") };
        tenant.call_machines_alike(bed);
        tenant
    }

    /// What a tenant calls its machines, who know nothing of others' names.
    fn call_machines_alike(&self, bed: &Bed) {
        let (_, answer) = bed.api("GET", "/virtual-machines?detail=true", &Value::Null);
        let all = answer["virtual-machines"].as_array().unwrap();
        for machine in ["web", "db"] {
            let end = format!("{}-{machine}", self.name);
            let own = all
                .iter()
                .map(|entry| &entry["virtual-machine"])
                .find(|entry| entry.to_string().contains(&end));
            let uuid = own.unwrap_or_else(|| panic!("{end}: {answer}"))["uuid"].as_str().unwrap();
            bed.put("virtual-machine", uuid, &json!({"display_name": machine}));
        }
    }

    fn record(&self, bed: &Bed, name: &str, data: &str) -> String {
        make(
            bed,
            "virtual-DNS-record",
            &json!({
                "fq_name": ["default-domain", format!("{}-names", self.name), name],
                "parent_type": "virtual-DNS",
                "virtual_DNS_record_data": {
                    "record_name": name, "record_type": "A", "record_class": "IN",
                    "record_data": data, "record_ttl_seconds": 5,
                },
            }),
        )
    }

    /// What its machines on both nodes are told about a name or an address; all must be told the same.
    fn ask(&self, kind: &str, name: &str) -> Option<String> {
        let [one, other] = [&self.web, &self.db].map(|from| ask(from, kind, name));
        if one == other { one } else { Some(format!("not the same: {one:?} and {other:?}")) }
    }

    fn learns(&self, kind: &str, name: &str, wanted: Option<&str>) {
        let what = format!("{} to learn that {name} is {wanted:?}", self.name);
        wait_for(&what, PATIENCE, || {
            let told = self.ask(kind, name);
            match (&told, wanted) {
                (Some(told), Some(wanted)) if told.contains(wanted) => Ok(()),
                (None, None) => Ok(()),
                _ => Err(format!("it is told {told:?}")),
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The answer's own lines; none if there is no such name.
fn ask(from: &Workload, kind: &str, name: &str) -> Option<String> {
    // A question that is lost is asked again soon; busybox waits for five seconds.
    let mut command = Command::new("timeout");
    let address = name.parse::<Ipv4Addr>().map(|address| {
        let [a, b, c, d] = address.octets();
        format!("{d}.{c}.{b}.{a}.in-addr.arpa")
    });
    let (kind, name) = (format!("-type={kind}"), address.as_deref().unwrap_or(name));
    command.args(["-s", "KILL", "1.5", "busybox", "nslookup", &kind, name, SERVER]);
    let ran = from.pod.run(&mut command).unwrap();
    let answer = ran.stdout.split_once("\n\n").map(|(_, answer)| answer.trim().to_owned());
    if ran.stdout.contains("NXDOMAIN") {
        return None;
    }
    Some(answer.filter(|_| ran.ok()).unwrap_or_else(|| format!("no answer: {ran:?}")))
}

#[test]
fn two_tenants_of_equal_names_and_addresses_see_their_own_names_only() {
    let mut bed = Bed::start("tdns");
    let outside = bed.fabric.control_host().clone();
    let for_all = Upstream::start(&outside, 5353, FOR_ALL).unwrap();
    let for_blue = Upstream::start(&outside, 53, FOR_BLUE).unwrap();
    for number in 0..2 {
        let settings = bed.fabric.node(number).host().directory().join("agent.toml");
        let text = std::fs::read_to_string(&settings).unwrap();
        let text = format!("{text}[dns]\nupstreams = [\"{}\"]\n", for_all.address);
        std::fs::write(&settings, text).unwrap();
        // As every real node it has a way out: kernels drop what comes from where no route leads back to.
        let host = bed.fabric.node(number).host().clone();
        host.ip(&format!("route add default via {}\n", outside.ipv4())).unwrap();
        bed.fabric.node_mut(number).kill_agent().unwrap();
        bed.fabric.node_mut(number).restart_agent().unwrap();
    }
    let red = Tenant::new(&bed, "red", "");
    // One tenant's zone asks a server of its own.
    let blue = Tenant::new(&bed, "blue", &outside.ipv4().to_string());
    assert_eq!(red.web.ipv4(), blue.web.ipv4(), "equal addresses");
    assert_eq!(red.db.ipv4(), blue.db.ipv4(), "equal addresses");

    // Names of machines: equal, and of equal addresses.
    for tenant in [&red, &blue] {
        tenant.learns("a", &format!("web.{DOMAIN}"), Some(tenant.web.ipv4()));
        tenant.learns("a", &format!("db.{DOMAIN}"), Some(tenant.db.ipv4()));
        tenant.learns("ptr", tenant.web.ipv4(), Some(&format!("web.{DOMAIN}")));
    }

    // One name, two meanings; one address, two names; and names that only one of them has.
    let shop = format!("shop.{DOMAIN}");
    red.record(&bed, "shop", "10.1.0.100");
    blue.record(&bed, "shop", "10.1.0.200");
    let own = red.record(&bed, "red-only", "10.1.0.77");
    blue.record(&bed, "blue-only", "10.1.0.77");
    red.learns("a", &shop, Some("10.1.0.100"));
    blue.learns("a", &shop, Some("10.1.0.200"));
    for (tenant, mine, others) in
        [(&red, "red-only", "blue-only"), (&blue, "blue-only", "red-only")]
    {
        tenant.learns("a", &format!("{mine}.{DOMAIN}"), Some("10.1.0.77"));
        tenant.learns("ptr", "10.1.0.77", Some(&format!("{mine}.{DOMAIN}")));
        tenant.learns("a", &format!("{others}.{DOMAIN}"), None);
    }
    red.learns("ptr", "10.1.0.200", None);
    blue.learns("ptr", "10.1.0.100", None);

    // Outside: the node's resolver, or the tenant's.
    let before = (for_all.asked(), for_blue.asked());
    red.learns("a", Upstream::NAME, Some(&FOR_ALL.to_string()));
    assert_eq!(for_blue.asked(), before.1, "another tenant's resolver is asked");
    let before = for_all.asked();
    blue.learns("a", Upstream::NAME, Some(&FOR_BLUE.to_string()));
    assert_eq!(for_all.asked(), before, "a tenant's question leaks to the nodes' resolver");
    // What is below a tenant's own domain is nobody else's to know.
    let before = (for_all.asked(), for_blue.asked());
    red.learns("a", &format!("nobody.{DOMAIN}"), None);
    blue.learns("a", &format!("nobody.{DOMAIN}"), None);
    assert_eq!((for_all.asked(), for_blue.asked()), before);

    // A change is one tenant's, too.
    let since = Instant::now();
    let (status, _) = bed.api("DELETE", &format!("/virtual-DNS-record/{own}"), &Value::Null);
    assert_eq!(status, 200);
    red.learns("a", &format!("red-only.{DOMAIN}"), None);
    println!("a name was gone on both nodes after {:?}", since.elapsed());
    blue.learns("a", &shop, Some("10.1.0.200"));

    // And what the nodes know they know again after their agents end.
    for number in 0..2 {
        bed.fabric.node_mut(number).kill_agent().unwrap();
        bed.fabric.node_mut(number).restart_agent().unwrap();
    }
    red.learns("a", &shop, Some("10.1.0.100"));
    blue.learns("a", &shop, Some("10.1.0.200"));
}
