//! The node's DNS server: what the core says of zones and views, handed to those who answer.

use crate::AgentConfig;
use crate::state::{DnsChanges, DnsPorts};
use skein_cni::HOST_LINK;
use skein_dns::{
    Endpoint, Forwarder, Limits, Next, Order, RecordSet, RecordSpec, Shared, Upstreams, ZoneSpec,
    Zones,
};
use skein_proto::session as wire;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;

pub(crate) fn ports(config: &AgentConfig) -> DnsPorts {
    DnsPorts { named: config.dns.port, first: config.dns.first_view_port }
}

/// The server, as the node thread sees it.
pub(crate) struct Dns {
    pub(crate) shared: Arc<Shared>,
    endpoints: watch::Sender<Vec<Endpoint>>,
    address: IpAddr,
}

/// The server, as its sockets see it.
pub(crate) struct Sockets {
    shared: Arc<Shared>,
    endpoints: watch::Receiver<Vec<Endpoint>>,
    upstreams: Vec<SocketAddr>,
    resolv_conf: std::path::PathBuf,
}

/// A server of the node with this address; nothing is answered before there are views.
pub(crate) fn new(config: &AgentConfig, address: IpAddr) -> (Dns, Sockets) {
    let shared = Arc::new(Shared::default());
    let (sender, receiver) = watch::channel(Vec::new());
    let sockets = Sockets {
        shared: shared.clone(),
        endpoints: receiver,
        upstreams: config.dns.upstreams.clone(),
        resolv_conf: config.dns.resolv_conf.clone(),
    };
    (Dns { shared, endpoints: sender, address }, sockets)
}

impl Sockets {
    /// Views whose questions are heard.
    pub(crate) fn heard(&self) -> watch::Receiver<BTreeSet<String>> {
        self.shared.heard.subscribe()
    }

    /// Answers until the node thread has ended.
    pub(crate) async fn serve(self) {
        let upstreams = Upstreams::new(self.upstreams, &self.resolv_conf);
        let forwarder = Forwarder::new(self.shared.clone(), upstreams, Limits::default());
        skein_dns::serve(self.shared, forwarder, self.endpoints).await;
    }
}

impl Dns {
    /// Views whose questions are heard by now.
    pub(crate) fn heard(&self) -> BTreeSet<String> {
        self.shared.heard.borrow().clone()
    }

    /// Takes over what changed; gives what cannot be answered with: subject and reason.
    pub(crate) fn apply(&self, changes: DnsChanges) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let endpoints = changes.views.iter().map(|(vrf, view)| Endpoint {
            address: SocketAddr::new(self.address, view.port),
            device: Some(HOST_LINK.to_owned()),
            view: vrf.clone(),
        });
        let endpoints: Vec<Endpoint> = endpoints.collect();
        let views = changes.views.into_iter().map(|(vrf, view)| (vrf, Some(view.zone))).collect();
        *self.shared.own.write() = changes.own.into_iter().collect();
        if changes.reset {
            // Made aside, as a thousand services take a moment; who asks meanwhile gets what was.
            let mut fresh = Zones::default();
            fill(&mut fresh, changes.zones, changes.records, &mut problems);
            fresh.set_views(views);
            *self.shared.zones.write() = fresh;
        } else {
            let mut zones = self.shared.zones.write();
            changes.records_removed.iter().for_each(|id| zones.remove_records(id));
            changes.zones_removed.iter().for_each(|id| zones.remove_zone(id));
            fill(&mut zones, changes.zones, changes.records, &mut problems);
            zones.set_views(views);
        }
        self.endpoints.send_if_modified(|known| {
            let changed = *known != endpoints;
            *known = endpoints;
            changed
        });
        problems
    }
}

fn fill(
    zones: &mut Zones,
    new: Vec<wire::DnsZone>,
    records: Vec<wire::DnsRecordSet>,
    problems: &mut Vec<(String, String)>,
) {
    for zone in new {
        let name = format!("virtual-DNS {}", zone.name);
        match zones.set_zone(read_zone(zone)) {
            Ok(bad) => problems.extend(bad.iter().map(|bad| (name.clone(), bad.to_string()))),
            Err(reason) => problems.push((name, reason)),
        }
    }
    for set in records {
        let name = format!("DNS records {}", set.id);
        let bad = zones.set_records(read_set(set));
        problems.extend(bad.iter().map(|bad| (name.clone(), bad.to_string())));
    }
}

fn read_zone(zone: wire::DnsZone) -> ZoneSpec {
    let order = match wire::DnsOrder::try_from(zone.order) {
        Ok(wire::DnsOrder::Fixed) => Order::Fixed,
        Ok(wire::DnsOrder::RoundRobin) => Order::RoundRobin,
        Ok(wire::DnsOrder::Random) | Err(_) => Order::Random,
    };
    let next = match zone.next_server.parse() {
        Ok(address) => Next::Server(address),
        Err(_) if zone.next_zone.is_empty() => Next::Upstream,
        Err(_) => Next::Zone(zone.next_zone),
    };
    ZoneSpec {
        id: zone.id,
        domain: zone.domain,
        order,
        default_ttl: zone.default_ttl,
        negative_ttl: zone.negative_ttl,
        next,
        reverse: zone.reverse,
        cluster: zone.cluster_names,
    }
}

fn read_set(set: wire::DnsRecordSet) -> RecordSet {
    let record = |record: wire::DnsRecord| RecordSpec {
        name: record.name,
        kind: record.r#type,
        data: record.data,
        ttl: record.ttl,
        preference: u16::try_from(record.preference).unwrap_or(u16::MAX),
        reverse: !record.no_reverse,
    };
    RecordSet { id: set.id, zone: set.zone, records: set.records.into_iter().map(record).collect() }
}
