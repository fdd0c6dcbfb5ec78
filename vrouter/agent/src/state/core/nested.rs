//! Workloads in workloads: ports on VLANs of a local port's device; and what lets workloads reach services of the node itself.

use super::intent::Judged;
use super::{Core, LocalPort, PortProblem};
use crate::state::compile::{Context, LocalPath};
use crate::state::numbers::LABELS;
use crate::state::spec::ServiceSpec;
use ipnet::{IpNet, Ipv4Net};
use skein_policy::Attributes;
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use uuid::Uuid;

/// Numbers of metadata addresses: 169.254.0.16 to 169.254.159.255. What is above stays the host's: clouds have their
/// services at 169.254.169.254 and thereabouts.
const METADATA: std::ops::Range<u32> = 16..160 << 8;

/// What the host reaches by its own interface so that it can answer metadata addresses.
pub(crate) const METADATA_PREFIXES: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 17),
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 128, 0), 19),
];

fn metadata_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(169, 254, 0, 0)) | number)
}

impl Core {
    /// Ports on VLANs of local ports' devices. The first one has a tag that two claim.
    pub(super) fn find_nested(&mut self) {
        let mut found = BTreeMap::new();
        let mut taken: BTreeMap<(u32, u16), Uuid> = BTreeMap::new();
        for (uuid, spec) in &self.interfaces {
            let Some((parent, tag)) = spec.parent.filter(|_| !self.ports.contains_key(uuid)) else {
                continue;
            };
            let Some(port) = self.ports.get(&parent) else { continue };
            let above = self.interfaces.get(&parent);
            let usable = above.is_some_and(|above| !above.host && above.parent.is_none());
            if !usable {
                continue;
            }
            if above.is_some_and(|above| above.admin_down) {
                self.port_problems.insert(*uuid, PortProblem::AdminDown);
                continue;
            }
            if let Some(first) = taken.insert((port.ifindex, tag), *uuid) {
                taken.insert((port.ifindex, tag), first);
                let reason = format!("VLAN {tag} of port {parent} is another one's: {first}");
                self.port_problems.insert(*uuid, PortProblem::Unreadable(reason.clone()));
                self.problems.insert(format!("interface {}", spec.name), reason);
                continue;
            }
            let Some(label) = self.numbers.labels.take(uuid, LABELS) else {
                self.port_problems.insert(*uuid, PortProblem::Exhausted);
                continue;
            };
            found.insert(
                *uuid,
                LocalPort {
                    uuid: *uuid,
                    ifindex: skein_datapath::sub_interface(label),
                    mtu: port.mtu,
                    vlan: Some((port.ifindex, tag)),
                },
            );
        }
        let before = std::mem::replace(&mut self.nested, found);
        for gone in before.keys().filter(|uuid| !self.nested.contains_key(uuid)) {
            if !self.ports.contains_key(gone) {
                self.numbers.forget(gone);
            }
        }
    }

    /// Gives workloads a metadata address each, and the routes by which the node and they reach each other, when there are
    /// services of the node.
    pub(super) fn join_link_local(&mut self, used: &mut [Judged], context: &mut Context) {
        let host = used.iter().find(|judged| judged.entry.host);
        let host = host.map(|judged| (judged.ifindex, judged.entry.vrf));
        let (Some((host, vrf)), Some(IpAddr::V4(own))) = (host, context.own_address) else {
            return;
        };
        let name = context.vrfs.iter().find(|(_, number)| **number == vrf);
        let Some(host_vrf) = name.map(|(name, _)| name.clone()) else { return };
        if context.link_local.is_empty() {
            return;
        }
        let path = |ifindex| LocalPath {
            ifindex,
            context: 0,
            attributes: Attributes::default(),
            alone: true,
            local_preference: u32::MAX,
        };
        for judged in used.iter_mut().filter(|judged| !judged.entry.host) {
            let Some(number) = self.numbers.metadata.take(&judged.entry.uuid, METADATA) else {
                continue;
            };
            let address = metadata_address(number);
            judged.entry.metadata = Some(address);
            let table = context.local.entry(host_vrf.clone()).or_default();
            table.insert(IpAddr::from(address).into(), vec![path(judged.ifindex)]);
        }
        for vrf in &context.link_local {
            let table = context.local.entry(vrf.clone()).or_default();
            table.insert(IpAddr::from(own).into(), vec![path(host)]);
        }
    }

    /// A service. Where services are the node's own, a loopback address means the node.
    pub(super) fn read_service(&self, service: &wire::Service) -> Result<ServiceSpec, String> {
        let mut service = ServiceSpec::read(service)?;
        if let Some(own) = self.context.own_address
            && self.context.link_local.contains(&service.vrf)
        {
            for member in service.members.iter_mut().filter(|m| m.address.is_loopback()) {
                member.address = own;
            }
        }
        Ok(service)
    }

    /// A bound port, or one on a VLAN of a bound port.
    #[must_use]
    pub fn local_port(&self, uuid: Uuid) -> Option<&LocalPort> {
        self.ports.get(&uuid).or_else(|| self.nested.get(&uuid))
    }

    /// Ports that are here because their parents are.
    #[must_use]
    pub fn nested(&self) -> &BTreeMap<Uuid, LocalPort> {
        &self.nested
    }

    /// What local ports' configuration says shares their devices.
    #[must_use]
    pub fn sub_interfaces(&self) -> BTreeSet<Uuid> {
        let specs = self.ports.keys().filter_map(|uuid| self.interfaces.get(uuid));
        specs.flat_map(|spec| spec.sub_interfaces.iter().copied()).collect()
    }

    /// The port that the node knows by a metadata address.
    #[must_use]
    pub fn by_metadata(&self, address: Ipv4Addr) -> Option<Uuid> {
        let mut entries = self.applied.interfaces.values();
        entries.find(|entry| entry.metadata == Some(address)).map(|entry| entry.uuid)
    }

    /// Prefixes that lead from the host to metadata addresses; none while nothing needs them.
    #[must_use]
    pub fn metadata_prefixes(&self) -> Vec<IpNet> {
        if self.context.link_local.is_empty() {
            return Vec::new();
        }
        METADATA_PREFIXES.into_iter().map(IpNet::V4).collect()
    }
}
