//! Virtual DNS servers: zones, which networks use them, and what is in them.
//!
//! A zone is one answer and every set of records another - one of a virtual-DNS-record, one of a port, one of a floating IP -
//! so a name that changes costs its own set, whatever else is in the zone.

use crate::engine::Engine;
use crate::query::{Answer, Query};
use serde::Deserialize;
use skein_model::values::{IpamType, VirtualDnsRecordType, VirtualDnsType};
use skein_model::{FqName, Kind, Object};
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// The original's default (spec/vrouter.md section 5.2).
const DEFAULT_TTL: u32 = 84_600;
/// How long "there is none" is remembered when nobody says: what is asked for too early is found soon after.
const NEGATIVE_TTL: u32 = 60;

/// A virtual-DNS without its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsZone {
    /// The virtual-DNS.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its domain.
    pub domain: String,
    /// Order of records.
    pub order: DnsOrder,
    /// Seconds, for records that have none.
    pub default_ttl: u32,
    /// Seconds for which "there is none" may be remembered.
    pub negative_ttl: u32,
    /// Who is asked for names that are not its own.
    pub next: DnsNext,
    /// Addresses lead back to names.
    pub reverse: bool,
    /// Names of a Kubernetes cluster that are computed.
    pub cluster: bool,
}

/// In which order the records of one name are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsOrder {
    /// As they are.
    Fixed,
    /// By chance.
    Random,
    /// Each query begins one later.
    RoundRobin,
}

/// Who is asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsNext {
    /// The node's own resolvers.
    Upstream,
    /// Another virtual-DNS.
    Zone(Uuid),
    /// A server.
    Server(IpAddr),
}

/// Records that come and go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecordSet {
    /// The virtual-DNS-record, port or floating IP.
    pub uuid: Uuid,
    /// The virtual-DNS.
    pub zone: Uuid,
    /// The records.
    pub records: Vec<DnsRecord>,
}

/// A record as the configuration writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsRecord {
    /// Owner, relative to the domain unless it ends with a dot.
    pub name: String,
    /// A, AAAA, CNAME, PTR, NS, MX or SRV.
    pub kind: String,
    /// By type.
    pub data: String,
    /// Seconds; `None`: the zone's default.
    pub ttl: Option<u32>,
    /// Of MX.
    pub preference: u16,
    /// Its address leads back to its name.
    pub reverse: bool,
}

/// What `virtual_DNS_data` has besides the original's (adr/0012).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ZoneExtension {
    cluster_names: bool,
}

/// What `virtual_DNS_record_data` has besides the original's.
#[derive(Debug, Deserialize)]
struct RecordExtension {
    #[serde(default = "yes")]
    reverse: bool,
}

fn yes() -> bool {
    true
}

fn seconds(value: Option<i64>) -> Option<u32> {
    value.and_then(|value| u32::try_from(value).ok())
}

fn server_data(object: &Object) -> Option<VirtualDnsType> {
    object.property("virtual_DNS_data")
}

/// The zone of a virtual-DNS.
pub(crate) fn zone(engine: &mut Engine, uuid: Uuid) -> Answer {
    read_zone(engine, uuid).map_or(Answer::Nothing, |zone| Answer::DnsZone(Arc::new(zone)))
}

fn read_zone(engine: &mut Engine, uuid: Uuid) -> Option<DnsZone> {
    let object = engine.get(Kind::VIRTUAL_DNS, uuid)?;
    let data = server_data(&object)?;
    let more: ZoneExtension = object.property("virtual_DNS_data").unwrap_or_default();
    let next = data.next_virtual_dns.unwrap_or_default();
    let default_ttl = seconds(data.default_ttl_seconds).unwrap_or(DEFAULT_TTL);
    let negative = data.soa_record.and_then(|soa| seconds(soa.negative_cache_ttl_seconds));
    Some(DnsZone {
        uuid,
        name: object.fq_name.to_string(),
        domain: data.domain_name?,
        order: match data.record_order.as_deref() {
            Some("fixed") => DnsOrder::Fixed,
            Some("round-robin") => DnsOrder::RoundRobin,
            _ => DnsOrder::Random,
        },
        default_ttl,
        negative_ttl: negative.unwrap_or(default_ttl.min(NEGATIVE_TTL)),
        next: if let Ok(address) = next.parse() {
            DnsNext::Server(address)
        } else if next.is_empty() {
            DnsNext::Upstream
        } else {
            let found = engine.find(Kind::VIRTUAL_DNS, &FqName::parse(&next));
            found.map_or(DnsNext::Upstream, DnsNext::Zone)
        },
        reverse: data.reverse_resolution == Some(true),
        cluster: more.cluster_names,
    })
}

/// The virtual-DNS that a network's workloads ask: that of the first of its IPAMs that has one.
pub(crate) fn of_network(engine: &mut Engine, network: Uuid) -> Answer {
    let Some(network) = engine.get(Kind::VIRTUAL_NETWORK, network) else { return Answer::Nothing };
    for reference in network.references_to(Kind::NETWORK_IPAM) {
        let Some(ipam) = engine.get(Kind::NETWORK_IPAM, reference.uuid) else { continue };
        let Some(how) = ipam.property::<IpamType>("network_ipam_mgmt") else { continue };
        if how.ipam_dns_method.as_deref() != Some("virtual-dns-server") {
            continue;
        }
        if let Some(server) = ipam.reference_to(Kind::VIRTUAL_DNS) {
            return Answer::DnsServer(server.uuid);
        }
        let name = how.ipam_dns_server.and_then(|server| server.virtual_dns_server_name);
        let found = name.and_then(|name| engine.find(Kind::VIRTUAL_DNS, &FqName::parse(&name)));
        if let Some(server) = found {
            return Answer::DnsServer(server);
        }
    }
    Answer::Nothing
}

/// The records that an object stands for.
pub(crate) fn records(engine: &mut Engine, uuid: Uuid) -> Answer {
    let Some(object) = engine.any(uuid) else { return Answer::Nothing };
    let found = match object.kind {
        Kind::VIRTUAL_DNS_RECORD => written(&object),
        Kind::VIRTUAL_MACHINE_INTERFACE => of_port(engine, &object),
        Kind::FLOATING_IP => of_floating_ip(engine, &object),
        _ => None,
    };
    let Some((zone, records)) = found.filter(|(_, records)| !records.is_empty()) else {
        return Answer::Nothing;
    };
    Answer::DnsRecords(Arc::new(DnsRecordSet { uuid, zone, records }))
}

fn written(object: &Object) -> Option<(Uuid, Vec<DnsRecord>)> {
    let (Kind::VIRTUAL_DNS, zone) = object.parent? else { return None };
    let data: VirtualDnsRecordType = object.property("virtual_DNS_record_data")?;
    let more: RecordExtension = object.property("virtual_DNS_record_data")?;
    let preference = data.record_mx_preference.and_then(|value| u16::try_from(value).ok());
    let record = DnsRecord {
        name: data.record_name?,
        kind: data.record_type?,
        data: data.record_data?,
        ttl: seconds(data.record_ttl_seconds),
        preference: preference.unwrap_or(0),
        reverse: more.reverse,
    };
    Some((zone, vec![record]))
}

fn address_record(name: &str, address: IpAddr) -> DnsRecord {
    DnsRecord {
        name: name.to_owned(),
        kind: if address.is_ipv4() { "A" } else { "AAAA" }.to_owned(),
        data: address.to_string(),
        ttl: None,
        preference: 0,
        reverse: true,
    }
}

/// A name that one label can be; machines may be called anything.
fn is_label(text: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && bytes.first().is_some_and(|c| plain(*c))
        && bytes.last().is_some_and(|c| plain(*c))
        && bytes.iter().all(|c| plain(*c) || *c == b'-')
}

/// What a machine is called in DNS.
fn machine_name(engine: &mut Engine, port: &Object) -> Option<String> {
    let machine = match port.reference_to(Kind::VIRTUAL_MACHINE) {
        Some(reference) => reference.uuid,
        None => port.parent.filter(|(kind, _)| *kind == Kind::VIRTUAL_MACHINE)?.1,
    };
    let machine = engine.get(Kind::VIRTUAL_MACHINE, machine)?;
    let display: Option<String> = machine.property("display_name");
    let name = display.unwrap_or_else(|| machine.name().to_owned()).to_ascii_lowercase();
    is_label(&name).then_some(name)
}

fn server_of(engine: &mut Engine, network: Uuid) -> Option<(Uuid, VirtualDnsType)> {
    let Answer::DnsServer(server) = engine.ask(Query::NetworkDns(network)) else { return None };
    let object = engine.get(Kind::VIRTUAL_DNS, server)?;
    Some((server, server_data(&object)?))
}

/// `machine.domain` for every address, if the server wants that (`dynamic_records_from_client`).
fn of_port(engine: &mut Engine, port: &Object) -> Option<(Uuid, Vec<DnsRecord>)> {
    let network = port.reference_to(Kind::VIRTUAL_NETWORK)?.uuid;
    let (zone, data) = server_of(engine, network)?;
    if data.dynamic_records_from_client != Some(true) {
        return None;
    }
    let name = machine_name(engine, port)?;
    let mut addresses: Vec<IpAddr> = Vec::new();
    for object in engine.back_references(port.uuid, Kind::INSTANCE_IP) {
        let text: Option<String> = object.property("instance_ip_address");
        addresses.extend(text.and_then(|text| text.parse::<IpAddr>().ok()));
    }
    addresses.sort_unstable();
    addresses.dedup();
    Some((zone, addresses.into_iter().map(|address| address_record(&name, address)).collect()))
}

/// A floating IP's name, in the form that the server of its network wants (`floating_ip_record`).
fn of_floating_ip(engine: &mut Engine, object: &Object) -> Option<(Uuid, Vec<DnsRecord>)> {
    let network = crate::service::pool_network(engine, object)?;
    let (zone, data) = server_of(engine, network)?;
    if data.dynamic_records_from_client != Some(true) {
        return None;
    }
    let port = object.reference_to(Kind::VIRTUAL_MACHINE_INTERFACE)?.uuid;
    let port = engine.get(Kind::VIRTUAL_MACHINE_INTERFACE, port)?;
    let address: Option<String> = object.property("floating_ip_address");
    let address: IpAddr = address?.parse().ok()?;
    let dashed = address.to_string().replace(['.', ':'], "-");
    let tenant = || {
        let (Kind::PROJECT, project) = port.parent? else { return None };
        Some(project)
    };
    let notation = data.floating_ip_record.unwrap_or_else(|| "dashed-ip-tenant-name".to_owned());
    let first = if notation.starts_with("vm-name") { machine_name(engine, &port)? } else { dashed };
    let name = if notation.ends_with("tenant-name") {
        let tenant = tenant().and_then(|uuid| engine.get(Kind::PROJECT, uuid))?;
        let tenant = tenant.name().to_ascii_lowercase();
        is_label(&tenant).then(|| format!("{first}.{tenant}"))?
    } else {
        first
    };
    Some((zone, vec![address_record(&name, address)]))
}
