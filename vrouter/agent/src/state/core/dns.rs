//! DNS of the node: which zones its server has, whose view is answered at which port, and which services lead there.
//!
//! Every VRF with a zone has a view, and every view a port of the node's own stack: the port says whose question it is, so equal
//! addresses of two networks never mix. A service whose member is the DNS port of this node's stack leads to the
//! view of the service's own VRF, whatever network its client is in.

use super::{Core, PortProblem};
use crate::state::spec::{ContextSpec, InterfaceSpec, MemberSpec, ServiceSpec};
use crate::state::tables::{FloatingDirection, FloatingEntry};
use crate::state::view::{Touched, View};
use ipnet::IpNet;
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// What the node's server is called within VRFs: nobody else's address (RFC 3927), and no way to any port but its view's.
const LINK4: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 53);
const LINK6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x5e00, 0x35);
/// Where workloads ask.
const PORT: u16 = 53;
const PROTOCOLS: [u8; 2] = [6, 17];

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
    /// Services at the DNS addresses of subnets.
    pub(super) services: BTreeMap<String, ServiceSpec>,
    started: bool,
    reset: bool,
    changed_zones: BTreeSet<String>,
    changed_records: BTreeSet<String>,
    told: (BTreeMap<String, DnsView>, BTreeSet<IpAddr>),
}

/// DNS addresses of a VRF's subnets, of the family of `link`; none without a zone.
fn dns_addresses(vrf: &wire::Vrf, link: IpAddr) -> impl Iterator<Item = IpAddr> + '_ {
    let subnets = vrf.subnets.iter().filter(|_| !vrf.dns_zone.is_empty());
    let addresses = subnets.filter_map(|subnet| subnet.service_address.parse::<IpAddr>().ok());
    addresses.filter(move |address| address.is_ipv4() == link.is_ipv4())
}

/// Whether a VRF's workloads ask at addresses of its own subnets.
pub(super) fn asks_itself(vrf: &wire::Vrf, own: Option<IpAddr>) -> bool {
    own.is_some_and(|own| dns_addresses(vrf, own).next().is_some())
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
            .filter(|service| {
                let mut members = service.members.iter();
                members.any(|member| self.is_own_dns(member) || self.is_link(member))
            })
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

    /// Why a workload that starts now would ask in vain for names that this node answers; nothing if it asks others.
    #[must_use]
    pub fn names_problem(&self, uuid: Uuid, heard: &BTreeSet<String>) -> Option<PortProblem> {
        let spec = self.interfaces.get(&uuid).filter(|spec| !spec.host)?;
        // The node answers by its own stack.
        self.dns.ports.and_then(|_| self.host_port())?;
        let leader = self.merged.leader();
        let own = leader.vrfs().find(|vrf| vrf.name == spec.vrf)?;
        let mut views = std::iter::once(&own.name).chain(&own.service_vrfs);
        let mut asks = false;
        if let Some(silent) = views.find(|name| {
            let view = self.dns.zones.contains_key(*name);
            asks |= view;
            view && !heard.contains(*name)
        }) {
            return Some(PortProblem::NoNames(silent.clone()));
        }
        // The own stack answers whom it knows a way to, which comes with the port's routes from a controller.
        let here = |prefix: &IpNet| {
            let paths = self.merged.paths(&spec.vrf, prefix);
            // Somebody else's is told instead while this one stands by.
            paths.iter().any(|path| {
                Some(path.next_hop) == self.context.own_address
                    || path.local_preference > spec.local_preference
            })
        };
        let told = spec.addresses.iter().all(|(prefix, _)| here(&IpNet::from(prefix.addr())));
        (asks && self.is_fresh() && !told).then_some(PortProblem::NotAnnounced)
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
        self.dns.zones.get(vrf)?;
        self.view_port(*self.context.vrfs.get(vrf)?)
    }

    fn view_port(&self, vrf: u32) -> Option<u16> {
        self.dns.ports?.first.checked_add(u16::try_from(vrf).ok()?)
    }

    /// Brings what services are compiled from up to date; true if all of them are to be compiled again.
    pub(super) fn compile_dns(&mut self, touched: &mut Touched) -> bool {
        let zones = self.zones_of_vrfs();
        let others = std::mem::replace(&mut self.dns.zones, zones) != self.dns.zones;
        let services = self.subnet_services();
        for (id, service) in &services {
            if self.dns.services.get(id) != Some(service) {
                touched.services.insert(id.clone());
            }
        }
        touched
            .services
            .extend(self.dns.services.keys().filter(|id| !services.contains_key(*id)).cloned());
        self.dns.services = services;
        others
    }

    fn link(&self) -> Option<IpAddr> {
        let own = self.context.own_address?;
        Some(if own.is_ipv4() { LINK4.into() } else { LINK6.into() })
    }

    /// Whether the service of a subnet's DNS address is one of ours.
    pub(super) fn is_link(&self, member: &MemberSpec) -> bool {
        self.dns.ports.is_some() && Some(member.address) == self.link()
    }

    /// The DNS address of every subnet of a network with a zone, as a service whose member is the node itself.
    fn subnet_services(&self) -> BTreeMap<String, ServiceSpec> {
        let mut all = BTreeMap::new();
        let (Some(link), Some(_)) = (self.link(), self.host_interface) else { return all };
        for vrf in self.merged.leader().vrfs() {
            let Some(port) = self.dns_port(&vrf.name) else { continue };
            for address in dns_addresses(vrf, link) {
                for protocol in PROTOCOLS {
                    let service = ServiceSpec {
                        name: format!("DNS of {}", vrf.network),
                        vrf: vrf.name.clone(),
                        address,
                        protocol,
                        port: PORT,
                        members: vec![MemberSpec {
                            address: link,
                            port,
                            in_fabric: true,
                            node: self.node.clone(),
                            draining: false,
                            zone: String::new(),
                            hint_zones: Vec::new(),
                            hint_nodes: Vec::new(),
                        }],
                        affinity_seconds: 0,
                        internal_local: true,
                        node_port: 0,
                        external_local: false,
                        external: false,
                        announced: false,
                        sources: BTreeSet::new(),
                        health_check_port: 0,
                        node: String::new(),
                        distribution: wire::Distribution::Any,
                    };
                    all.insert(format!("dns/{}/{address}/{protocol}", vrf.name), service);
                }
            }
        }
        all
    }

    /// The node's own stack in every VRF whose workloads ask it: by one address, at the port of their view alone.
    pub(super) fn dns_contexts(
        &self,
        view: &View,
        vrfs: &BTreeMap<String, u32>,
        host: &InterfaceSpec,
    ) -> Vec<ContextSpec> {
        let (Some(link), Some(own)) = (self.link(), self.context.own_address) else {
            return Vec::new();
        };
        let asking = view.vrfs().filter(|vrf| dns_addresses(vrf, link).next().is_some());
        let contexts = asking.filter_map(|vrf| {
            let port = self.view_port(*vrfs.get(&vrf.name)?)?;
            Some(ContextSpec {
                vrf: vrf.name.clone(),
                policy: host.policy.clone(),
                network: vrf.network_id,
                underlay: false,
                floating: Some(FloatingEntry {
                    address: link,
                    fixed: own,
                    direction: FloatingDirection::Ingress,
                    ports: PROTOCOLS.map(|protocol| (protocol, port, port)).into(),
                }),
            })
        });
        contexts.collect()
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
