//! Zones and their records: what of them a node is owed, and how it is told.
//!
//! A node has the zones of the networks it has, and those behind them. What changed is one set of records, so a service that
//! comes costs every node one small message, however many services there are.

use crate::node::{IntentDelta, Node};
use skein_compiler::{DnsNext, DnsOrder, DnsRecord, DnsRecordSet, DnsZone, Engine};
use skein_proto::session;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use uuid::Uuid;

/// What a node was told of zones.
#[derive(Debug, Default)]
pub(crate) struct SentDns {
    zones: BTreeMap<Uuid, Arc<DnsZone>>,
    records: BTreeMap<Uuid, Arc<DnsRecordSet>>,
}

impl SentDns {
    pub(crate) fn clear(&mut self) {
        self.zones.clear();
        self.records.clear();
    }
}

/// What a node has not been told of zones yet.
#[derive(Debug, Default)]
pub(crate) struct PendingDns {
    pub(crate) zones: BTreeSet<Uuid>,
    pub(crate) records: BTreeSet<Uuid>,
}

impl PendingDns {
    pub(crate) fn is_empty(&self) -> bool {
        self.zones.is_empty() && self.records.is_empty()
    }
}

/// Changes of zones for one node.
#[derive(Debug, Default)]
pub(crate) struct DnsDelta {
    zones: Vec<Arc<DnsZone>>,
    zones_removed: Vec<Uuid>,
    records: Vec<Arc<DnsRecordSet>>,
    records_removed: Vec<Uuid>,
}

impl Node {
    /// Notes a zone that changed, if the node has it.
    pub(crate) fn zone_changed(&mut self, zone: Uuid) {
        if self.sent_dns.zones.contains_key(&zone) {
            self.pending.dns.zones.insert(zone);
        }
    }

    /// Notes a set of records that changed, if it is or was in a zone that the node has.
    pub(crate) fn records_changed(&mut self, object: Uuid, zone: Option<Uuid>) {
        let known = self.sent_dns.records.contains_key(&object);
        if known || zone.is_some_and(|zone| self.sent_dns.zones.contains_key(&zone)) {
            self.pending.dns.records.insert(object);
        }
    }

    /// Turns what is pending into changes, given the networks whose VRFs the node has.
    pub(crate) fn take_dns(
        &mut self,
        networks: &BTreeSet<Uuid>,
        engine: &Engine,
        out: &mut IntentDelta,
    ) {
        let PendingDns { zones: mut dirty, mut records } = std::mem::take(&mut self.pending.dns);
        let needed = needed(networks, engine);
        let sent = &mut self.sent_dns;
        for zone in needed.iter().filter(|zone| !sent.zones.contains_key(*zone)) {
            dirty.insert(*zone);
            records.extend(engine.dns_records_in(*zone));
        }
        let gone: Vec<Uuid> =
            sent.zones.keys().filter(|zone| !needed.contains(zone)).copied().collect();
        for zone in &gone {
            let left = sent.records.iter().filter(|(_, set)| set.zone == *zone);
            records.extend(left.map(|(object, _)| *object));
        }
        dirty.extend(gone);
        for zone in dirty {
            match engine.dns_zone(zone).filter(|_| needed.contains(&zone)) {
                Some(new) if sent.zones.get(&zone) == Some(new) => {}
                Some(new) => {
                    sent.zones.insert(zone, new.clone());
                    out.dns.zones.push(new.clone());
                }
                None if sent.zones.remove(&zone).is_some() => out.dns.zones_removed.push(zone),
                None => {}
            }
        }
        for object in records {
            let new = engine.dns_records(object).filter(|set| sent.zones.contains_key(&set.zone));
            match new {
                Some(new) if sent.records.get(&object) == Some(new) => {}
                Some(new) => {
                    sent.records.insert(object, new.clone());
                    out.dns.records.push(new.clone());
                }
                None if sent.records.remove(&object).is_some() => {
                    out.dns.records_removed.push(object);
                }
                None => {}
            }
        }
    }
}

/// The zones of networks and those behind them.
fn needed(networks: &BTreeSet<Uuid>, engine: &Engine) -> BTreeSet<Uuid> {
    let own = networks.iter().filter_map(|network| engine.vrf(*network)?.dns);
    let mut open: Vec<Uuid> = own.collect();
    let mut needed = BTreeSet::new();
    while let Some(zone) = open.pop() {
        let Some(found) = engine.dns_zone(zone) else { continue };
        if needed.insert(zone)
            && let DnsNext::Zone(next) = found.next
        {
            open.push(next);
        }
    }
    needed
}

impl DnsDelta {
    /// Writes itself into a message.
    pub(crate) fn write(&self, message: &mut session::Intent) {
        let texts = |uuids: &[Uuid]| uuids.iter().map(ToString::to_string).collect();
        message.dns_zones = self.zones.iter().map(|one| zone(one)).collect();
        message.dns_zones_removed = texts(&self.zones_removed);
        message.dns_records = self.records.iter().map(|one| set(one)).collect();
        message.dns_records_removed = texts(&self.records_removed);
    }
}

fn zone(zone: &DnsZone) -> session::DnsZone {
    let (mut next_zone, mut next_server) = (String::new(), String::new());
    match zone.next {
        DnsNext::Upstream => {}
        DnsNext::Zone(next) => next_zone = next.to_string(),
        DnsNext::Server(address) => next_server = address.to_string(),
    }
    let order = match zone.order {
        DnsOrder::Fixed => session::DnsOrder::Fixed,
        DnsOrder::Random => session::DnsOrder::Random,
        DnsOrder::RoundRobin => session::DnsOrder::RoundRobin,
    };
    session::DnsZone {
        id: zone.uuid.to_string(),
        name: zone.name.clone(),
        domain: zone.domain.clone(),
        order: order.into(),
        default_ttl: zone.default_ttl,
        negative_ttl: zone.negative_ttl,
        next_zone,
        next_server,
        reverse: zone.reverse,
        cluster_names: zone.cluster,
    }
}

fn set(set: &DnsRecordSet) -> session::DnsRecordSet {
    let record = |record: &DnsRecord| session::DnsRecord {
        name: record.name.clone(),
        r#type: record.kind.clone(),
        data: record.data.clone(),
        ttl: record.ttl,
        preference: record.preference.into(),
        no_reverse: !record.reverse,
    };
    session::DnsRecordSet {
        id: set.uuid.to_string(),
        zone: set.zone.to_string(),
        records: set.records.iter().map(record).collect(),
    }
}
