//! Names of services: records of the cluster's virtual-DNS, as the Kubernetes DNS specification 1.1.0 asks.
//!
//! Only what cannot be computed is written: pods' names are their addresses, and addresses lead back by themselves.

use super::Context;
use crate::desired::{Derived, Desired};
use crate::key::{Key, Sort};
use crate::objects::{Service, ServicePort, ServiceType};
use serde_json::{Value, json};
use skein_model::{FqName, Kind};
use std::collections::BTreeMap;
use std::net::IpAddr;
use uuid::Uuid;

/// Where everyone asks.
const PORT: u16 = 53;
/// What the port of a node's own stack is called.
const HOST_PORT: &str = "vhost0";
/// Records are equals among themselves.
const PRIORITY_AND_WEIGHT: &str = "0 100";

/// The zone, if Skein serves the cluster's names.
pub(super) fn server(cx: &Context<'_>, key: &Key) -> Option<Desired> {
    let dns = &cx.settings.dns;
    dns.serve.then(|| {
        cx.owned(key, Kind::VIRTUAL_DNS, Some(Kind::DOMAIN), cx.names.cluster_dns(), &[]).set(
            "virtual_DNS_data",
            json!({
                "domain_name": dns.domain, "dynamic_records_from_client": false,
                "record_order": "round-robin", "default_ttl_seconds": dns.ttl,
                "soa_record": {"negative_cache_ttl_seconds": dns.ttl},
                "external_visible": false, "reverse_resolution": true, "cluster_names": true,
            }),
        )
    })
}

/// Lets the workloads of an IPAM's networks ask the zone; or takes that back.
pub(super) fn link(cx: &Context<'_>, ipam: Desired) -> Desired {
    let server = cx.names.cluster_dns();
    if cx.settings.dns.serve {
        let how = json!({
            "ipam_dns_method": "virtual-dns-server",
            "ipam_dns_server": {"virtual_dns_server_name": server.to_string()},
        });
        return ipam.set("network_ipam_mgmt", how).refer(Kind::VIRTUAL_DNS, [server]);
    }
    // What somebody else put there is theirs.
    let ours = cx.graph.by_name(Kind::NETWORK_IPAM, &ipam.name).is_some_and(|object| {
        let how = object.properties.get("network_ipam_mgmt");
        let named = how.and_then(|how| how.pointer("/ipam_dns_server/virtual_dns_server_name"));
        named.and_then(Value::as_str) == Some(server.to_string().as_str())
    });
    if ours {
        ipam.set("network_ipam_mgmt", Value::Null).refer(Kind::VIRTUAL_DNS, [])
    } else {
        ipam
    }
}

/// Whether a service is the one by which pods ask the nodes.
pub(super) fn is_front(cx: &Context<'_>, key: &Key) -> bool {
    cx.settings.dns.serve && cx.settings.dns.front().as_ref() == Some(key)
}

/// The members of that service: every node's own stack.
pub(super) fn members(
    cx: &Context<'_>,
    key: &Key,
    port: &ServicePort,
    pool: &FqName,
    pool_uuid: Uuid,
    out: &mut Derived,
) {
    if port.port != PORT {
        return;
    }
    let number = cx.settings.dns.port;
    for router in cx.graph.of_kind(Kind::VIRTUAL_ROUTER).filter(|router| !cx.is_others(router)) {
        let address = router.properties.get("virtual_router_ip_address").and_then(Value::as_str);
        let Some(address) = address.and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
        let mut ports = cx.graph.children_of_kind(router.uuid, Kind::VIRTUAL_MACHINE_INTERFACE);
        let Some(host) = ports.find(|port| port.name() == HOST_PORT) else { continue };
        let id = Uuid::new_v5(&pool_uuid, format!("{address}/{number}").as_bytes());
        let name = pool.child(&id.to_string());
        out.objects.push(
            cx.owned(key, Kind::LOADBALANCER_MEMBER, Some(Kind::LOADBALANCER_POOL), name, &[])
                .uuid(id)
                .set(
                    "loadbalancer_member_properties",
                    json!({
                        "address": address.to_string(), "protocol_port": number, "admin_state": true,
                        "weight": 1, "interface": host.uuid.to_string(), "node": router.name(),
                        "ready": true, "serving": true, "terminating": false,
                    }),
                ),
        );
    }
}

/// A service's records by name, type and data; the value: whether its address leads back.
type Records = BTreeMap<(String, &'static str, String), bool>;

/// The records of a service.
pub(super) fn records(cx: &Context<'_>, key: &Key, service: &Service, out: &mut Derived) {
    if !cx.settings.dns.serve {
        return;
    }
    let base = format!("{}.{}.svc", key.name, key.namespace);
    let whole = format!("{base}.{}.", cx.settings.dns.domain.trim_end_matches('.'));
    let mut all = Records::new();
    if service.kind == ServiceType::ExternalName {
        external(service, &base, &mut all);
    } else if service.headless {
        headless(cx, key, service, (&base, &whole), &mut all, out);
    } else {
        for address in &service.addresses {
            all.insert((base.clone(), kind(*address), address.to_string()), true);
        }
        for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
            if !service.addresses.is_empty() {
                let data = format!("{PRIORITY_AND_WEIGHT} {} {whole}", port.port);
                all.insert((service_name(&port.name, &port.protocol, &base), "SRV", data), false);
            }
        }
    }
    let server = cx.names.cluster_dns();
    let mut all: Vec<_> = all.into_iter().collect();
    // Addresses first: with only names below it, a name exists and has none, and clients remember that.
    all.sort_by_key(|((_, kind, _), _)| *kind == "SRV");
    for ((name, kind, data), reverse) in all {
        let object = record_name(&name, kind, &data);
        out.objects.push(
            cx.owned(
                key,
                Kind::VIRTUAL_DNS_RECORD,
                Some(Kind::VIRTUAL_DNS),
                server.child(&object),
                &[],
            )
            .set(
                "virtual_DNS_record_data",
                json!({
                    "record_name": name, "record_type": kind, "record_class": "IN",
                    "record_data": data, "reverse": reverse,
                }),
            ),
        );
    }
}

fn kind(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "A" } else { "AAAA" }
}

fn service_name(port: &str, protocol: &str, base: &str) -> String {
    format!("_{port}._{}.{base}", protocol.to_ascii_lowercase())
}

/// What a record is called among the zone's: its name, type and data, without the separator of names.
fn record_name(name: &str, kind: &str, data: &str) -> String {
    if kind == "SRV" || kind == "CNAME" {
        return format!("{name}/{kind}/{}", crate::names::digest(data));
    }
    format!("{name}/{kind}/{}", data.replace(':', "-"))
}

/// An alias of a name outside; of an address, as it is written here and there, that address.
fn external(service: &Service, base: &str, all: &mut Records) {
    let Some(target) = service.external_name.as_deref().filter(|name| !name.is_empty()) else {
        return;
    };
    match target.parse::<IpAddr>() {
        Ok(address) => all.insert((base.to_owned(), kind(address), address.to_string()), false),
        Err(_) => {
            let target = format!("{}.", target.trim_end_matches('.'));
            all.insert((base.to_owned(), "CNAME", target), false)
        }
    };
}

/// Every endpoint under the service's name and under one of its own: its host name, else its address.
fn headless(
    cx: &Context<'_>,
    key: &Key,
    service: &Service,
    (base, whole): (&str, &str),
    all: &mut Records,
    out: &mut Derived,
) {
    let network = cx.service_network_chosen(service, out);
    for slice in cx.cache.slices_of(&key.namespace, &key.name) {
        for endpoint in &slice.endpoints {
            if !endpoint.ready && !service.publish_not_ready {
                continue;
            }
            let Some((address, _)) = cx.answers_at(endpoint, network.as_deref(), out) else {
                continue;
            };
            let label = endpoint
                .hostname
                .as_deref()
                .map_or_else(|| address.to_string().replace(['.', ':'], "-"), str::to_owned);
            all.insert((base.to_owned(), kind(address), address.to_string()), false);
            all.insert((format!("{label}.{base}"), kind(address), address.to_string()), true);
            for port in slice.ports_of(endpoint).iter().filter(|port| !port.name.is_empty()) {
                let data = format!("{PRIORITY_AND_WEIGHT} {} {label}.{whole}", port.port);
                all.insert((service_name(&port.name, &port.protocol, base), "SRV", data), false);
            }
        }
    }
}

impl crate::settings::Dns {
    /// The owner of the service by which pods ask.
    pub(crate) fn front(&self) -> Option<Key> {
        let (namespace, name) = self.service.split_once('/')?;
        Some(Key::new(Sort::Service, namespace, name))
    }
}
