//! A small world of configuration objects to compile.
#![allow(dead_code, clippy::needless_pass_by_value)] // each test file uses its part

pub(crate) mod dns;
pub(crate) mod firewall;
pub(crate) mod services;
pub(crate) mod underlay;

use serde_json::{Map, Value, json};
use skein_model::{Change, FqName, Kind, Object, Reference};
use std::sync::Arc;
use uuid::Uuid;

/// A stable uuid for a type and name.
pub(crate) fn id(kind: Kind, name: &str) -> Uuid {
    Uuid::new_v5(&Uuid::NAMESPACE_OID, format!("{kind}/{name}").as_bytes())
}

/// Builds objects with few words.
pub(crate) struct Build(pub(crate) Object);

impl Build {
    pub(crate) fn new(kind: Kind, name: &str) -> Build {
        let fq_name = match kind {
            Kind::ROUTE_TARGET | Kind::VIRTUAL_MACHINE | Kind::INSTANCE_IP => FqName::single(name),
            Kind::PROJECT => FqName::parse(&format!("default-domain:{name}")),
            Kind::ROUTING_INSTANCE => FqName::parse(&format!("default-domain:shop:{name}:{name}")),
            Kind::GLOBAL_VROUTER_CONFIG => {
                FqName::parse("default-global-system-config:default-global-vrouter-config")
            }
            _ => FqName::parse(&format!("default-domain:shop:{name}")),
        };
        let parent = match kind {
            Kind::ROUTING_INSTANCE => {
                Some((Kind::VIRTUAL_NETWORK, id(Kind::VIRTUAL_NETWORK, name)))
            }
            Kind::ROUTE_TARGET
            | Kind::VIRTUAL_MACHINE
            | Kind::INSTANCE_IP
            | Kind::PROJECT
            | Kind::GLOBAL_VROUTER_CONFIG => None,
            _ => Some((Kind::PROJECT, id(Kind::PROJECT, "shop"))),
        };
        Build(Object {
            uuid: id(kind, name),
            kind,
            fq_name,
            parent,
            properties: Map::new(),
            references: Vec::new(),
            created_revision: 1,
            revision: 1,
        })
    }

    pub(crate) fn with(mut self, property: &str, value: Value) -> Build {
        self.0.properties.insert(property.into(), value);
        self
    }

    pub(crate) fn refer(self, kind: Kind, name: &str) -> Build {
        self.refer_with(kind, name, Value::Null)
    }

    pub(crate) fn refer_with(mut self, kind: Kind, name: &str, attr: Value) -> Build {
        self.0.references.push(Reference { kind, uuid: id(kind, name), attr, relaxed: false });
        self
    }

    pub(crate) fn under(mut self, kind: Kind, name: &str) -> Build {
        self.0.parent = Some((kind, id(kind, name)));
        self
    }

    pub(crate) fn put(self) -> Change {
        Change::Put(Arc::new(self.0))
    }
}

/// A network with one subnet, `10.<number>.0.0/24`, and its routing instance and route target.
pub(crate) fn network(name: &str, number: u32, policies: &[&str]) -> Vec<Change> {
    let subnet = json!({"ipam_subnets": [{
        "subnet": {"ip_prefix": format!("10.{number}.0.0"), "ip_prefix_len": 24},
        "default_gateway": format!("10.{number}.0.1"),
        "dns_server_address": format!("10.{number}.0.2"),
    }]});
    let mut build = Build::new(Kind::VIRTUAL_NETWORK, name)
        .with("virtual_network_network_id", json!(number))
        .refer_with(Kind::NETWORK_IPAM, "ipam", subnet);
    for (at, policy) in policies.iter().enumerate() {
        let attr = json!({"sequence": {"major": at, "minor": 0}});
        build = build.refer_with(Kind::NETWORK_POLICY, policy, attr);
    }
    let target = format!("target:64512:{}", 8_000_000 + number);
    vec![
        Build::new(Kind::ROUTE_TARGET, &target).put(),
        Build::new(Kind::ROUTING_INSTANCE, name)
            .with("routing_instance_is_default", json!(true))
            .refer(Kind::ROUTE_TARGET, &target)
            .put(),
        build.put(),
    ]
}

/// Changes the object that [`network`] and its like put last, the network itself.
pub(crate) fn adjusted(mut changes: Vec<Change>, adjust: impl FnOnce(&mut Object)) -> Vec<Change> {
    if let Some(Change::Put(object)) = changes.last_mut() {
        adjust(Arc::make_mut(object));
    }
    changes
}

/// The same network with an IPv6 subnet, `fd00:<number>::/64`, behind its first one.
pub(crate) fn dual(changes: Vec<Change>, number: u32) -> Vec<Change> {
    adjusted(changes, |network| {
        let subnets = network.references.iter_mut();
        let mut subnets =
            subnets.filter_map(|one| one.attr.get_mut("ipam_subnets")?.as_array_mut());
        if let Some(subnets) = subnets.next() {
            subnets.push(json!({
                "subnet": {"ip_prefix": format!("fd00:{number}::"), "ip_prefix_len": 64},
                "default_gateway": format!("fd00:{number}::1"),
                "dns_server_address": format!("fd00:{number}::2"),
            }));
        }
    })
}

/// The same network with lists of route targets: for both directions, for import, for export.
pub(crate) fn targeted(
    changes: Vec<Change>,
    both: &[&str],
    import: &[&str],
    export: &[&str],
) -> Vec<Change> {
    adjusted(changes, |network| {
        let lists = [
            ("route_target_list", both),
            ("import_route_target_list", import),
            ("export_route_target_list", export),
        ];
        for (field, targets) in lists {
            network.properties.insert(field.into(), json!({"route_target": targets}));
        }
    })
}

/// Another address of a port, an object of its own.
pub(crate) fn second_address(port: &str, network: &str, address: &str) -> Change {
    Build::new(Kind::INSTANCE_IP, &format!("{port}-second"))
        .with("instance_ip_address", json!(address))
        .refer(Kind::VIRTUAL_NETWORK, network)
        .refer(Kind::VIRTUAL_MACHINE_INTERFACE, port)
        .put()
}

/// A policy with rules `(source, destination, direction, protocol, port, action)`.
pub(crate) fn policy(name: &str, rules: &[(&str, &str, &str, &str, i64, &str)]) -> Change {
    let end = |name: &str| match name {
        "any" | "local" => json!([{"virtual_network": name}]),
        _ if name.contains('/') => {
            let (prefix, length) = name.split_once('/').unwrap();
            let length: u8 = length.parse().unwrap();
            json!([{"subnet": {"ip_prefix": prefix, "ip_prefix_len": length}}])
        }
        _ => json!([{"virtual_network": format!("default-domain:shop:{name}")}]),
    };
    let rules: Vec<Value> = rules
        .iter()
        .map(|(source, destination, direction, protocol, port, action)| {
            json!({
                "direction": direction, "protocol": protocol,
                "src_addresses": end(source), "dst_addresses": end(destination),
                "src_ports": [{"start_port": -1, "end_port": -1}],
                "dst_ports": [{"start_port": port, "end_port": port}],
                "action_list": {"simple_action": action},
            })
        })
        .collect();
    Build::new(Kind::NETWORK_POLICY, name)
        .with("network_policy_entries", json!({"policy_rule": rules}))
        .put()
}

/// A security group that lets in `protocol` from `from`, and everything out: of IPv6 if `from` is an IPv6 prefix, else of IPv4.
pub(crate) fn group(name: &str, number: u32, protocol: &str, from: &str) -> Change {
    let (ethertype, everything) =
        if from.contains(':') { ("IPv6", "::") } else { ("IPv4", "0.0.0.0") };
    let from = if from.contains('/') {
        let (prefix, length) = from.split_once('/').unwrap();
        let length: u8 = length.parse().unwrap();
        json!([{"subnet": {"ip_prefix": prefix, "ip_prefix_len": length}}])
    } else {
        json!([{"security_group": format!("default-domain:shop:{from}")}])
    };
    let any = json!([{"start_port": 0, "end_port": 65535}]);
    Build::new(Kind::SECURITY_GROUP, name)
        .with("security_group_id", json!(number))
        .with(
            "security_group_entries",
            json!({"policy_rule": [
                {"direction": ">", "protocol": protocol, "ethertype": ethertype,
                 "src_addresses": from, "dst_addresses": [{"security_group": "local"}],
                 "src_ports": any, "dst_ports": any},
                {"direction": ">", "protocol": "any", "ethertype": ethertype,
                 "src_addresses": [{"security_group": "local"}],
                 "dst_addresses": [{"subnet": {"ip_prefix": everything, "ip_prefix_len": 0}}],
                 "src_ports": any, "dst_ports": any},
            ]}),
        )
        .put()
}

/// A port with one address.
pub(crate) fn port(name: &str, network: &str, address: &str, groups: &[&str]) -> Vec<Change> {
    tagged(name, network, address, groups, &[])
}

/// A port with one address, and tags.
pub(crate) fn tagged(
    name: &str,
    network: &str,
    address: &str,
    groups: &[&str],
    tags: &[&str],
) -> Vec<Change> {
    let mut build = Build::new(Kind::VIRTUAL_MACHINE_INTERFACE, name)
        .with(
            "virtual_machine_interface_mac_addresses",
            json!({"mac_address": ["02:00:00:00:00:01"]}),
        )
        .refer(Kind::VIRTUAL_NETWORK, network);
    for group in groups {
        build = build.refer(Kind::SECURITY_GROUP, group);
    }
    for tag in tags {
        build = build.refer(Kind::TAG, tag);
    }
    let ip = Build::new(Kind::INSTANCE_IP, name)
        .with("instance_ip_address", json!(address))
        .refer(Kind::VIRTUAL_NETWORK, network)
        .refer(Kind::VIRTUAL_MACHINE_INTERFACE, name);
    vec![build.put(), ip.put()]
}
