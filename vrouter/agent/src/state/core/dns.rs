//! DNS of the node: which zones its server has, whose view is answered at which port, and which services lead there.
//!
//! Every VRF with a zone has a view, and every view a port of the node's own stack: the port says whose question it is, so equal
//! addresses of two networks never mix. A service whose member is the DNS port of this node's stack leads to the
//! view of the service's own VRF, whatever network its client is in.

use super::Core;
use crate::state::spec::{MemberSpec, ServiceSpec};
use crate::state::view::Touched;
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Where DNS is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DnsPorts {
    /// What the configuration calls the DNS port of a node's stack.
    pub named: u16,
    /// The port of a VRF's view is this and the VRF's number.
    pub first: u16,
}

/// The view of a VRF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsView {
    /// Its zone.
    pub zone: String,
    /// Where it is answered.
    pub port: u16,
}

/// What the node's server is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DnsChanges {
    /// What it has is void; these are all.
    pub reset: bool,
    /// New and changed zones.
    pub zones: Vec<wire::DnsZone>,
    /// Ids of zones that are gone.
    pub zones_removed: Vec<String>,
    /// New and changed sets.
    pub records: Vec<wire::DnsRecordSet>,
    /// Ids of sets that are gone.
    pub records_removed: Vec<String>,
    /// All views, by VRF.
    pub views: BTreeMap<String, DnsView>,
    /// Addresses behind which the server itself stands.
    pub own: BTreeSet<IpAddr>,
}

/// The core's part about DNS.
#[derive(Debug, Default)]
pub(super) struct DnsState {
    pub(super) ports: Option<DnsPorts>,
    /// Zones by VRF, as services were compiled with.
    pub(super) zones: BTreeMap<String, String>,
    started: bool,
    reset: bool,
    changed_zones: BTreeSet<String>,
    changed_records: BTreeSet<String>,
    told: (BTreeMap<String, DnsView>, BTreeSet<IpAddr>),
}

impl DnsState {
    /// Notes what changed.
    pub(super) fn note(&mut self, other: bool, touched: &mut Touched) {
        self.reset |= other;
        self.changed_zones.append(&mut touched.dns_zones);
        self.changed_records.append(&mut touched.dns_records);
    }
}

impl Core {
    /// Serves DNS.
    #[must_use]
    pub fn with_dns(mut self, ports: DnsPorts) -> Self {
        self.dns.ports = Some(ports);
        self
    }

    /// What the node's server has not been told; [`Core::operations`] comes first.
    pub fn take_dns(&mut self) -> Option<DnsChanges> {
        self.dns.ports?;
        let views = self.dns_views();
        let own: BTreeSet<IpAddr> = self
            .services
            .values()
            .filter(|service| service.members.iter().any(|member| self.is_own_dns(member)))
            .map(|service| service.address)
            .collect();
        let reset = std::mem::take(&mut self.dns.reset) || !self.dns.started;
        self.dns.started = true;
        let zones = std::mem::take(&mut self.dns.changed_zones);
        let records = std::mem::take(&mut self.dns.changed_records);
        let told = (views.clone(), own.clone());
        let same = self.dns.told == told;
        if !reset && zones.is_empty() && records.is_empty() && same {
            return None;
        }
        self.dns.told = told;
        let mut changes = DnsChanges { reset, views, own, ..DnsChanges::default() };
        let leader = self.merged.leader();
        if reset {
            changes.zones = leader.dns_zones().cloned().collect();
            changes.records = leader.dns_records().cloned().collect();
            return Some(changes);
        }
        for id in zones {
            match leader.dns_zone(&id) {
                Some(zone) => changes.zones.push(zone.clone()),
                None => changes.zones_removed.push(id),
            }
        }
        for id in records {
            match leader.dns_record_set(&id) {
                Some(set) => changes.records.push(set.clone()),
                None => changes.records_removed.push(id),
            }
        }
        Some(changes)
    }

    /// The views of the node.
    #[must_use]
    pub fn dns_views(&self) -> BTreeMap<String, DnsView> {
        let all = self.dns.zones.iter().filter_map(|(vrf, zone)| {
            Some((vrf.clone(), DnsView { zone: zone.clone(), port: self.dns_port(vrf)? }))
        });
        all.collect()
    }

    /// Zones by VRF, as the controller has them now.
    pub(super) fn zones_of_vrfs(&self) -> BTreeMap<String, String> {
        let with = self.merged.leader().vrfs().filter(|vrf| !vrf.dns_zone.is_empty());
        with.map(|vrf| (vrf.name.clone(), vrf.dns_zone.clone())).collect()
    }

    /// Where the view of a VRF is answered; none if it has no zone.
    pub(super) fn dns_port(&self, vrf: &str) -> Option<u16> {
        let ports = self.dns.ports?;
        self.dns.zones.get(vrf)?;
        let number = u16::try_from(*self.context.vrfs.get(vrf)?).ok()?;
        ports.first.checked_add(number)
    }

    /// Whether a member is the DNS server of this node.
    pub(super) fn is_own_dns(&self, member: &MemberSpec) -> bool {
        member.in_fabric
            && self.dns.ports.is_some_and(|ports| ports.named == member.port)
            && Some(member.address) == self.context.own_address
    }

    /// The port of a member as it is reached here.
    pub(super) fn member_port(&self, service: &ServiceSpec, member: &MemberSpec) -> u16 {
        let view = if self.is_own_dns(member) { self.dns_port(&service.vrf) } else { None };
        view.unwrap_or(member.port)
    }
}
