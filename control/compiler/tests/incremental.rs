//! After any history the incremental compiler says what a compile from nothing says.

#![allow(clippy::unwrap_used)]

mod world;

use proptest::prelude::*;
use serde_json::json;
use skein_compiler::{DnsRecordSet, DnsZone, Engine, Global, Interface, ServiceSet, Vrf};
use skein_model::{Change, Graph, Kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;
use world::dns::{ipam, machine, record, server};
use world::firewall::{addresses, firewall_policy, rule, services, set, staged, tag};
use world::services::{balancer, floating_ip, member, node};
use world::underlay::{fabric, provided};
use world::{
    Build, adjusted, dual, group, id, network, policy, port, second_address, tagged, targeted,
};

const NETWORKS: [&str; 3] = ["red", "green", "blue"];
const POLICIES: [&str; 3] = ["p0", "p1", "p2"];
const GROUPS: [&str; 2] = ["g0", "g1"];
const PORTS: [&str; 4] = ["a", "b", "c", "d"];
const BALANCERS: [&str; 2] = ["web", "db"];
const MEMBERS: [&str; 3] = ["m0", "m1", "m2"];
const TARGETS: [&str; 4] = ["a", "b", "vip-web", "vip-db"];
const ENDS: [&str; 7] = ["red", "green", "blue", "any", "local", "10.1.0.0/25", "fd00:1::/80"];
/// The first two are those that networks 1 and 2 have of themselves; the last one is none.
const ROUTE_TARGETS: [&str; 5] =
    ["target:64512:8000001", "target:64512:8000002", "target:65000:7", "target:192.0.2.1:7", "7"];

const TAGS: [(&str, u32); 6] = [
    ("app=one", 0x10001),
    ("app=two", 0x10002),
    ("tier=web", 0x20001),
    ("tier=db", 0x20002),
    ("label=x", 1),
    ("label=y", 2),
];
const TAG_NAMES: [&str; 6] = ["app=one", "app=two", "tier=web", "tier=db", "label=x", "label=y"];
const FIREWALL_RULES: [&str; 4] = ["r0", "r1", "r2", "r3"];
const FIREWALL_POLICIES: [&str; 3] = ["f0", "f1", "f2"];
const SETS: [&str; 2] = ["s0", "s1"];
const FIREWALL_ENDS: [&str; 8] = [
    "any",
    "tags 20001",
    "tags 20002 1",
    "tags 2",
    "group ag",
    "network red",
    "10.1.0.0/25",
    "10.1.0.0/16",
];

fn firewall_step() -> impl Strategy<Value = Vec<Change>> {
    let one = (pick(&FIREWALL_RULES), pick(&["pass", "pass", "deny", "skip"]));
    let ends = (pick(&FIREWALL_ENDS), pick(&[">", "<", "<>"]), pick(&FIREWALL_ENDS));
    let extra = (pick(&["both", "endpoint-1", "endpoint-2"]), any::<bool>(), any::<bool>());
    let rules = (one, ends, 0u16..3, extra).prop_map(
        |((name, action), (one, direction, two), port, (judged, exception, matching))| {
            let types: &[u32] = if matching { &[1] } else { &[] };
            let extra = serde_json::json!({
                "judged_at": judged, "is_exception": exception,
                "match_tag_types": {"tag_type": types},
            });
            vec![rule((name, action, one, direction, two), port, extra)]
        },
    );
    prop_oneof![
        4 => rules,
        3 => (pick(&FIREWALL_POLICIES), pick(&["", "", "admin"]), some(&FIREWALL_RULES))
            .prop_map(|(name, tier, rules)| vec![firewall_policy(name, tier, &rules)]),
        1 => (pick(&FIREWALL_POLICIES), some(&FIREWALL_RULES))
            .prop_map(|(name, rules)| vec![staged(name, &rules)]),
        3 => (pick(&SETS), pick(&TAG_NAMES), some(&FIREWALL_POLICIES), 0u8..3).prop_map(
            |(name, tag, policies, scope)| {
                let sequences = ["00002.0", "00001.5"];
                let policies: Vec<_> = policies.into_iter().zip(sequences).collect();
                match scope {
                    0 => vec![set(name, tag, &policies).put()],
                    1 => vec![
                        Build::new(Kind::GLOBAL_VROUTER_CONFIG, "vrouters").put(),
                        set(name, "", &policies).refer(Kind::GLOBAL_VROUTER_CONFIG, "vrouters").put(),
                    ],
                    _ => vec![
                        set(name, "", &policies).with("all_applications", true.into()).put(),
                        Build::new(Kind::PROJECT, "shop")
                            .refer(Kind::APPLICATION_POLICY_SET, name)
                            .put(),
                    ],
                }
            }
        ),
        2 => proptest::sample::select(&TAGS[..]).prop_map(|(name, id)| vec![tag(name, id)]),
        3 => (pick(&PORTS), pick(&NETWORKS), some(&TAG_NAMES))
            .prop_map(|(name, network, tags)| tagged(name, network, "10.1.0.9", &[], &tags)),
        1 => (pick(&NETWORKS), some(&TAG_NAMES)).prop_map(|(name, tags)| {
            // The project is as good a holder as a network, and needs no routing instance.
            let _ = name;
            let mut project = Build::new(Kind::PROJECT, "shop");
            for tag in tags {
                project = project.refer(Kind::TAG, tag);
            }
            vec![project.put()]
        }),
        1 => some(&["10.1.0.0/24", "10.1.0.0/26", "0.0.0.0/0"])
            .prop_map(|prefixes| vec![addresses("ag", &prefixes, &["label=x"])]),
        1 => proptest::collection::vec(1u16..4, 0..3).prop_map(|ports| vec![
            services("sg", &ports),
            Build::new(Kind::FIREWALL_RULE, "r0")
                .with("action_list", serde_json::json!({"simple_action": "pass"}))
                .with("direction", "<>".into())
                .refer(Kind::SERVICE_GROUP, "sg")
                .put(),
        ]),
        1 => pick(&FIREWALL_RULES).prop_map(|n| vec![Change::Delete(id(Kind::FIREWALL_RULE, n))]),
        1 => pick(&FIREWALL_POLICIES)
            .prop_map(|n| vec![Change::Delete(id(Kind::FIREWALL_POLICY, n))]),
        1 => pick(&SETS)
            .prop_map(|n| vec![Change::Delete(id(Kind::APPLICATION_POLICY_SET, n))]),
        1 => pick(&TAG_NAMES).prop_map(|n| vec![Change::Delete(id(Kind::TAG, n))]),
        1 => Just(vec![Change::Delete(id(Kind::ADDRESS_GROUP, "ag"))]),
        1 => Just(vec![Change::Delete(id(Kind::SERVICE_GROUP, "sg"))]),
    ]
}

fn pick(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(names)
}

fn some(names: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(pick(names), 0..3)
}

fn step() -> impl Strategy<Value = Vec<Change>> {
    let rule = (pick(&ENDS), pick(&ENDS), pick(&["<>", ">"]), pick(&["any", "tcp", "icmp"]))
        .prop_flat_map(|(a, b, direction, protocol)| {
            (Just((a, b, direction, protocol)), prop_oneof![Just(-1i64), 1i64..5], any::<bool>())
        })
        .prop_map(|((a, b, direction, protocol), port, pass)| {
            (a, b, direction, protocol, port, if pass { "pass" } else { "deny" })
        });
    prop_oneof![
        1 => (pick(&NETWORKS), 1u32..5, some(&POLICIES)).prop_map(|(n, id, p)| network(n, id, &p)),
        1 => (pick(&POLICIES), proptest::collection::vec(rule, 0..4))
            .prop_map(|(name, rules)| vec![policy(name, &rules)]),
        1 => (
            pick(&GROUPS),
            8_000_000u32..8_000_003,
            pick(&["tcp", "udp"]),
            pick(&["g0", "g1", "10.2.0.0/16", "fd00:2::/64"])
        )
            .prop_map(|(name, number, protocol, from)| vec![group(name, number, protocol, from)]),
        1 => (pick(&PORTS), pick(&NETWORKS), 1u8..5, 1u8..5, some(&GROUPS)).prop_map(
            |(name, network, net, host, groups)| {
                port(name, network, &format!("10.{net}.0.{host}"), &groups)
            }
        ),
        1 => (pick(&PORTS), pick(&["0x00010001", "0x00020005"])).prop_map(|(name, tag)| vec![
            Build::new(Kind::TAG, name).with("tag_id", tag.into()).put(),
            Build::new(Kind::PROJECT, "shop").refer(Kind::TAG, name).put(),
        ]),
        1 => service_step(),
        1 => (pick(&NETWORKS), 1u32..5, some(&POLICIES)).prop_map(|(n, id, p)| provided(n, id, &p)),
        1 => (pick(&NETWORKS), 1u32..5).prop_map(|(n, id)| {
            adjusted(network(n, id, &[]), |network| {
                network.properties.insert("fabric_snat".into(), json!(true));
            })
        }),
        // Both families, and route targets of the network's own: it imports what another exports without any policy.
        3 => (
            (pick(&NETWORKS), 1u32..5, some(&POLICIES), any::<bool>()),
            (some(&ROUTE_TARGETS), some(&ROUTE_TARGETS), some(&ROUTE_TARGETS)),
        )
            .prop_map(|((n, id, policies, both), (targets, import, export))| {
                let plain = network(n, id, &policies);
                let changes = if both { dual(plain, id) } else { plain };
                targeted(changes, &targets, &import, &export)
            }),
        2 => (pick(&PORTS), pick(&NETWORKS), 1u8..5, 1u8..5).prop_map(
            |(name, network, net, host)| {
                vec![second_address(name, network, &format!("fd00:{net}::{host}"))]
            }
        ),
        1 => (pick(&PORTS), pick(&NETWORKS), 1u8..5, 1u8..5, some(&GROUPS)).prop_map(
            |(name, network, net, host, groups)| {
                port(name, network, &format!("fd00:{net}::{host}"), &groups)
            }
        ),
        1 => (pick(&NETWORKS), pick(&ROUTE_TARGETS), pick(&["import", "export", ""])).prop_map(
            |(n, target, side)| vec![
                Build::new(Kind::ROUTE_TARGET, target).put(),
                Build::new(Kind::ROUTING_INSTANCE, n)
                    .with("routing_instance_is_default", json!(true))
                    .refer_with(Kind::ROUTE_TARGET, target, match side {
                        "" => json!(null),
                        side => json!({"import_export": side}),
                    })
                    .put(),
            ]
        ),
        1 => pick(&ROUTE_TARGETS).prop_map(|n| vec![Change::Delete(id(Kind::ROUTE_TARGET, n))]),
        1 => pick(&PORTS).prop_map(|n| {
            vec![Change::Delete(id(Kind::INSTANCE_IP, &format!("{n}-second")))]
        }),
        1 => (any::<bool>(), some(&POLICIES)).prop_map(|(there, policies)| {
            let mut changes = fabric(&policies);
            if !there {
                let network = id(Kind::VIRTUAL_NETWORK, "ip-fabric");
                changes.push(Change::Delete(network));
            }
            changes
        }),
        1 => pick(&NETWORKS).prop_map(|n| vec![Change::Delete(id(Kind::VIRTUAL_NETWORK, n))]),
        1 => pick(&NETWORKS).prop_map(|n| vec![Change::Delete(id(Kind::ROUTING_INSTANCE, n))]),
        1 => pick(&POLICIES).prop_map(|n| vec![Change::Delete(id(Kind::NETWORK_POLICY, n))]),
        1 => pick(&GROUPS).prop_map(|n| vec![Change::Delete(id(Kind::SECURITY_GROUP, n))]),
        1 => pick(&PORTS).prop_map(|n| vec![Change::Delete(id(Kind::VIRTUAL_MACHINE_INTERFACE, n))]),
        1 => pick(&PORTS).prop_map(|n| vec![Change::Delete(id(Kind::INSTANCE_IP, n))]),
        1 => pick(&PORTS).prop_map(|n| vec![Change::Delete(id(Kind::TAG, n))]),
    ]
}

/// Load balancers, members that come and go and move between ports (an object never changes its parent), floating IPs, a node.
fn service_step() -> impl Strategy<Value = Vec<Change>> {
    prop_oneof![
        3 => (pick(&BALANCERS), pick(&NETWORKS), 1u8..3, any::<bool>()).prop_map(
            |(name, network, host, local)| {
                let policy = if local { "Local" } else { "Cluster" };
                let service = json!({"internal_traffic_policy": policy});
                balancer(name, network, &format!("10.9.0.{host}"), 80, service)
            }
        ),
        5 => (pick(&MEMBERS), pick(&BALANCERS), pick(&PORTS), 1u8..4, any::<bool>()).prop_map(
            |(name, of, port, host, ready)| {
                let name = format!("{of}-{name}");
                vec![member(&name, of, &format!("10.1.0.{host}"), port, json!({"ready": ready}))]
            }
        ),
        2 => (pick(&MEMBERS), pick(&NETWORKS), pick(&TARGETS), 1u8..3).prop_map(
            |(name, network, port, host)| {
                let name = format!("{network}-{name}");
                floating_ip(&name, network, &format!("203.0.113.{host}"), port)
            }
        ),
        1 => (pick(&NETWORKS), 1u8..3).prop_map(|(network, host)| {
            node("node-1", &format!("192.168.0.{host}"), network)
        }),
        1 => (pick(&BALANCERS), pick(&MEMBERS)).prop_map(|(of, n)| {
            vec![Change::Delete(id(Kind::LOADBALANCER_MEMBER, &format!("{of}-{n}")))]
        }),
        1 => (pick(&NETWORKS), pick(&MEMBERS)).prop_map(|(network, n)| {
            vec![Change::Delete(id(Kind::FLOATING_IP, &format!("{network}-{n}")))]
        }),
        1 => pick(&NETWORKS).prop_map(|n| vec![Change::Delete(id(Kind::FLOATING_IP_POOL, n))]),
        1 => pick(&BALANCERS).prop_map(|n| vec![Change::Delete(id(Kind::LOADBALANCER, n))]),
        1 => pick(&BALANCERS)
            .prop_map(|n| vec![Change::Delete(id(Kind::LOADBALANCER_LISTENER, n))]),
        1 => pick(&BALANCERS).prop_map(|n| vec![Change::Delete(id(Kind::LOADBALANCER_POOL, n))]),
    ]
}

/// Servers, what they ask next, the IPAM that names one, records, machines with names.
fn dns_step() -> impl Strategy<Value = Vec<Change>> {
    const SERVERS: [&str; 2] = ["shop", "bank"];
    let next = pick(&["", "192.0.2.53", "default-domain:shop", "default-domain:bank"]);
    let notation = pick(&["dashed-ip", "vm-name", "vm-name-tenant-name"]);
    prop_oneof![
        3 => (pick(&SERVERS), next, any::<bool>(), notation).prop_map(|(name, next, dynamic, notation)| {
            vec![server(name, json!({
                "domain_name": format!("{name}.example"), "next_virtual_DNS": next,
                "dynamic_records_from_client": dynamic, "floating_ip_record": notation,
            }))]
        }),
        2 => pick(&["", "shop", "bank"]).prop_map(|name| vec![ipam(name)]),
        4 => (pick(&SERVERS), pick(&["a", "b", "c"]), 1u8..4)
            .prop_map(|(of, name, host)| vec![record(of, name, "A", &format!("10.0.0.{host}"))]),
        1 => (pick(&SERVERS), pick(&["a", "b", "c"])).prop_map(|(of, name)| {
            vec![Change::Delete(id(Kind::VIRTUAL_DNS_RECORD, &format!("{of}:{name}:A")))]
        }),
        2 => (pick(&PORTS), pick(&NETWORKS), pick(&["web", "Db-1", "no_name"])).prop_map(
            |(name, network, of)| vec![
                machine(of),
                Build::new(Kind::VIRTUAL_MACHINE_INTERFACE, name)
                    .with("virtual_machine_interface_mac_addresses", json!({"mac_address": ["02:00:00:00:00:01"]}))
                    .refer(Kind::VIRTUAL_NETWORK, network)
                    .refer(Kind::VIRTUAL_MACHINE, of)
                    .put(),
            ]
        ),
        1 => Just(vec![Build::new(Kind::PROJECT, "shop").put()]),
        1 => pick(&SERVERS).prop_map(|n| vec![Change::Delete(id(Kind::VIRTUAL_DNS, n))]),
    ]
}

#[derive(Debug, Default, PartialEq)]
struct Outputs {
    vrfs: BTreeMap<Uuid, Arc<Vrf>>,
    interfaces: BTreeMap<Uuid, Arc<Interface>>,
    services: BTreeMap<Uuid, Arc<ServiceSet>>,
    dns_zones: BTreeMap<Uuid, Arc<DnsZone>>,
    dns_records: BTreeMap<Uuid, Arc<DnsRecordSet>>,
    /// What the index of records says.
    indexed: BTreeMap<Uuid, Vec<Uuid>>,
    global: Option<Arc<Global>>,
}

impl Outputs {
    fn apply(&mut self, engine: &mut Engine, changes: &[Change]) {
        let delta = engine.apply(changes);
        for (uuid, vrf) in delta.vrfs {
            match vrf {
                Some(vrf) => self.vrfs.insert(uuid, vrf),
                None => self.vrfs.remove(&uuid),
            };
        }
        for (uuid, interface) in delta.interfaces {
            match interface {
                Some(interface) => self.interfaces.insert(uuid, interface),
                None => self.interfaces.remove(&uuid),
            };
        }
        for (uuid, services) in delta.services {
            match services {
                Some(services) => self.services.insert(uuid, services),
                None => self.services.remove(&uuid),
            };
        }
        for (uuid, zone) in delta.dns_zones {
            match zone {
                Some(zone) => self.dns_zones.insert(uuid, zone),
                None => self.dns_zones.remove(&uuid),
            };
        }
        for (uuid, set) in delta.dns_records {
            match set {
                Some(set) => self.dns_records.insert(uuid, set),
                None => self.dns_records.remove(&uuid),
            };
        }
        self.indexed = ["shop", "bank"]
            .map(|name| id(Kind::VIRTUAL_DNS, name))
            .map(|zone| (zone, engine.dns_records_in(zone).collect()))
            .into();
        self.global = delta.global.or_else(|| self.global.take());
    }
}

/// Objects that most firewall steps need to mean anything.
fn firewall_world() -> Vec<Vec<Change>> {
    let mut world: Vec<_> = vec![TAGS.iter().map(|(name, id)| tag(name, *id)).collect()];
    world.push(network("red", 1, &[]));
    world.push(network("green", 2, &[]));
    world.push(tagged("a", "red", "10.1.0.4", &[], &["app=one", "tier=web", "label=x"]));
    world.push(tagged("b", "green", "10.1.0.4", &[], &["app=one", "tier=db"]));
    world.push(vec![set("s0", "app=one", &[("f0", "1"), ("f1", "2")]).put()]);
    world.push(vec![firewall_policy("f0", "", &["r0", "r1"])]);
    world.push(vec![firewall_policy("f1", "admin", &["r2", "r3"])]);
    world
}

proptest! {
    #[test]
    fn incremental_equals_full_with_a_firewall(
        steps in proptest::collection::vec(prop_oneof![5 => firewall_step(), 1 => step()], 1..40),
    ) {
        check(&[firewall_world(), steps].concat())?;
    }

    #[test]
    fn incremental_equals_full_with_names(
        steps in proptest::collection::vec(prop_oneof![3 => dns_step(), 2 => step()], 1..40),
    ) {
        check(&steps)?;
    }

    #[test]
    fn incremental_equals_full(history in proptest::collection::vec(step(), 1..40)) {
        check(&history)?;
    }
}

fn check(history: &[Vec<Change>]) -> Result<(), TestCaseError> {
    let mut engine = Engine::new();
    let mut outputs = Outputs::default();
    let mut graph = Graph::default();
    for changes in history {
        outputs.apply(&mut engine, changes);
        for change in changes {
            graph.apply(change);
        }
        let everything: Vec<_> = graph.objects().cloned().map(Change::Put).collect();
        let mut fresh = Outputs::default();
        fresh.apply(&mut Engine::new(), &everything);
        prop_assert_eq!(&outputs, &fresh);
    }
    Ok(())
}
