//! Services: addresses and ports behind which members stand.

use crate::abi::{self, bytes_of, ip_from_abi, ip_to_abi, types};
use crate::vif::check_vrf;
use crate::{Datapath, Error, Result, VrfId};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// In place of a VRF: the service is reached by clients outside the fabric, at the uplink, by one of the node's addresses or
/// by one that is routed to the node.
pub const OUTSIDE: VrfId = 0;

/// In place of a VRF: the service is reached by workloads and the node's own stack, by an address of a node. In this and
/// [`OUTSIDE`], the unspecified address stands for all addresses of nodes: here of any node, there of this one
/// ([`crate::Datapath::set_node_addresses`]).
pub const INSIDE: VrfId = abi::SERVICES_INSIDE;

/// Where a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// VRF of the address, [`OUTSIDE`] or [`INSIDE`]. Workloads reach it by routes to [`crate::NextHop::Service`] that name this VRF.
    pub vrf: VrfId,
    /// Its address.
    pub address: IpAddr,
    /// IP protocol: TCP, UDP or SCTP.
    pub protocol: u8,
    /// Its port.
    pub port: u16,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Where it is reached. Another service of the same key replaces this one.
    pub at: ServiceKey,
    /// VRF in which members are routed: `at.vrf`, if that is one.
    pub member_vrf: VrfId,
    /// Those that clients of this node may get; in the order of the configuration or any other.
    pub members: Vec<ServiceMember>,
    /// A client address stays with its member for so long after its last connection; `None`: each connection by itself.
    pub affinity: Option<Duration>,
    /// From outside: `members` are all on this node and see the client's address; otherwise they see the node's.
    pub keep_source: bool,
    /// It is the node's own: clients are known by [`crate::Vif::metadata`] there, and no policy keeps them away. IPv4 only.
    pub link_local: bool,
    /// What workloads ask it passes their policy, as DNS of the node itself must.
    pub open: bool,
    /// Only clients in one of these; empty: anyone. The node's own stack always may.
    pub sources: Vec<IpNet>,
    /// [`INSIDE`], at all addresses: not at those of other nodes, which have services of their own or are left alone.
    pub by_node: bool,
}

/// A member of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceMember {
    /// Its own address, of the service address's family.
    pub address: IpAddr,
    /// Its own port.
    pub port: u16,
    /// Keeps its connections, and gets new ones only if no other member is left.
    pub draining: bool,
}

fn key(at: &ServiceKey) -> types::service_key {
    let (family, address) = ip_to_abi(at.address);
    types::service_key {
        vrf: at.vrf,
        address,
        port: at.port,
        family: family as u8,
        protocol: at.protocol,
    }
}

fn member_key(service: u32, family: u32, member: &types::member) -> types::member_key {
    types::member_key {
        service,
        address: member.address,
        port: member.port,
        family: family as u8,
        pad: 0,
    }
}

fn source_key(service: u32, prefix: &IpNet) -> types::service_source_key {
    let (family, address) = ip_to_abi(prefix.network());
    let bits = 64 + u32::from(prefix.prefix_len());
    types::service_source_key { bits, service, family, address }
}

/// Order of members for an index by jump consistent hashing: who is there keeps the index, the last take the places of those
/// who left, newcomers come last. So few clients change their member.
fn arrange(old: &[Vec<u8>], wanted: &BTreeSet<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut order: Vec<Option<Vec<u8>>> =
        old.iter().map(|member| wanted.contains(member).then(|| member.clone())).collect();
    let known: BTreeSet<_> = old.iter().cloned().collect();
    let mut newcomers = wanted.iter().filter(|member| !known.contains(*member)).cloned();
    for place in &mut order {
        if place.is_none() {
            *place = newcomers.next();
        }
    }
    order.extend(newcomers.map(Some));
    while let Some(gap) = order.iter().position(Option::is_none) {
        // pop and put back: the last moves into the gap, unless it is the gap.
        let last = order.pop().flatten();
        if gap < order.len() {
            order[gap] = last;
        }
    }
    order.into_iter().flatten().collect()
}

impl Datapath {
    /// Adds a service or replaces it, members and all. New connections meet the old or the new members, never a gap.
    /// Connections of members that are not named any more: TCP stays while the member is routed, everything else moves to another
    /// member with its next packet.
    ///
    /// # Errors
    /// [`Error::Argument`] for a VRF out of range, a member of another family, or a protocol without ports; [`Error::Full`].
    pub fn set_service(&mut self, service: &Service) -> Result<()> {
        let at = &service.at;
        check(service)?;
        let key = key(at);
        let family = u32::from(key.family);
        let old = self.services.get(&key)?;
        let id = match old {
            Some(old) => old.id,
            None => self.new_service_id()?,
        };
        let plain = |member: &ServiceMember| types::member {
            address: ip_to_abi(member.address).1,
            port: member.port,
            pad: [0; 2],
        };
        let bytes = |draining: bool| -> BTreeSet<Vec<u8>> {
            let those = service.members.iter().filter(|member| member.draining == draining);
            those.map(|member| bytes_of(&plain(member)).to_vec()).collect()
        };
        let (active, draining) = (bytes(false), bytes(true));
        let eligible = if active.is_empty() { &draining } else { &active };
        let before = self.member_order(id, old.map_or(0, |old| old.count))?;
        let order = arrange(&before, eligible);
        let mut raw = types::service {
            affinity: service.affinity.map_or(0, |d| d.as_nanos().try_into().unwrap_or(u64::MAX)),
            id,
            vrf: service.member_vrf,
            count: order.len() as u32,
            slots: old.map_or(0, |old| old.slots).max(order.len() as u32),
            flags: 0,
            pad: 0,
            ..types::service::default()
        };
        for (place, bytes) in raw.first.iter_mut().zip(&order) {
            *place = abi::from_bytes(bytes).unwrap_or_default();
        }
        if service.keep_source {
            raw.flags |= abi::SERVICE_KEEP_SOURCE;
        }
        if service.link_local {
            raw.flags |= abi::SERVICE_LINK_LOCAL;
        }
        if service.open {
            raw.flags |= abi::SERVICE_OPEN;
        }
        if !service.sources.is_empty() {
            raw.flags |= abi::SERVICE_SOURCES;
        }
        if service.by_node {
            raw.flags |= abi::SERVICE_BY_NODE;
        }

        let mut known: BTreeMap<Vec<u8>, types::member_key> = BTreeMap::new();
        let marked = [(abi::MEMBER_DRAINING, &draining), (0, &active)];
        for (mark, bytes) in marked.iter().flat_map(|(m, those)| those.iter().map(move |b| (m, b)))
        {
            let Some(member) = abi::from_bytes::<types::member>(bytes) else { continue };
            let key = member_key(id, family, &member);
            let takes = if eligible.contains(bytes) { abi::MEMBER_ELIGIBLE } else { 0 };
            self.member_set.set(&key, &(mark | takes))?;
            known.insert(bytes_of(&key).to_vec(), key);
        }
        for (index, bytes) in (0..).zip(&order) {
            if before.get(index as usize) == Some(bytes) {
                continue;
            }
            if let Some(member) = abi::from_bytes::<types::member>(bytes) {
                self.members.set(&types::member_slot { service: id, index }, &member)?;
            }
        }
        let wanted: BTreeSet<_> =
            service.sources.iter().map(|s| bytes_of(&source_key(id, s)).to_vec()).collect();
        for prefix in &service.sources {
            self.service_sources.set(&source_key(id, prefix), &1)?;
        }
        self.services.set(&key, &raw)?;

        let mut gone = false;
        let had = self.service_members.entry(id).or_default();
        for (bytes, key) in &*had {
            if !known.contains_key(bytes) {
                gone |= self.member_set.remove(key)?;
            }
        }
        *had = known;
        if old.is_some() {
            for key in self.service_sources.keys().filter(|key| key.service == id) {
                if !wanted.contains(bytes_of(&key)) {
                    self.service_sources.remove(&key)?;
                }
            }
        } else if is_pseudo(at.vrf) {
            self.count_outside(1)?;
        }
        if gone || old.is_some_and(|old| old.vrf != service.member_vrf) {
            self.step_generation(service.member_vrf)?;
        }
        Ok(())
    }

    /// Takes a service away; its connections are those of members that are not named. `false` if there was none.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn remove_service(&mut self, at: &ServiceKey) -> Result<bool> {
        let key = key(at);
        let Some(old) = self.services.get(&key)? else { return Ok(false) };
        self.services.remove(&key)?;
        for index in 0..old.slots {
            self.members.remove(&types::member_slot { service: old.id, index })?;
        }
        for key in self.service_members.remove(&old.id).unwrap_or_default().values() {
            self.member_set.remove(key)?;
        }
        for key in self.service_sources.keys().filter(|key| key.service == old.id) {
            self.service_sources.remove(&key)?;
        }
        if is_pseudo(at.vrf) {
            self.count_outside(-1)?;
        }
        self.step_generation(old.vrf)?;
        Ok(true)
    }

    /// All services, in no particular order; members by address.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn services(&self) -> Result<Vec<Service>> {
        let sources = self.service_sources.entries()?;
        let mut all = vec![];
        for (key, raw) in self.services.entries()? {
            let family = u32::from(key.family);
            let sources = sources.iter().filter(|(source, _)| source.service == raw.id);
            let mut members = vec![];
            for key in self.service_members.get(&raw.id).into_iter().flat_map(BTreeMap::values) {
                let flags = self.member_set.get(key)?.unwrap_or(0);
                members.push(ServiceMember {
                    address: ip_from_abi(family, &key.address),
                    port: key.port,
                    draining: flags & abi::MEMBER_DRAINING != 0,
                });
            }
            members.sort_unstable();
            all.push(Service {
                at: ServiceKey {
                    vrf: key.vrf,
                    address: ip_from_abi(family, &key.address),
                    protocol: key.protocol,
                    port: key.port,
                },
                member_vrf: raw.vrf,
                members,
                affinity: (raw.affinity != 0).then(|| Duration::from_nanos(raw.affinity)),
                keep_source: raw.flags & abi::SERVICE_KEEP_SOURCE != 0,
                link_local: raw.flags & abi::SERVICE_LINK_LOCAL != 0,
                open: raw.flags & abi::SERVICE_OPEN != 0,
                sources: sources
                    .filter_map(|(source, _)| {
                        let address = ip_from_abi(source.family, &source.address);
                        IpNet::new(address, source.bits.saturating_sub(64) as u8).ok()
                    })
                    .collect(),
                by_node: raw.flags & abi::SERVICE_BY_NODE != 0,
            });
        }
        Ok(all)
    }

    /// VRF of a service's members, and the first one that takes connections; `None` if there is no such service.
    #[expect(clippy::type_complexity, reason = "two answers, of which the second may be missing")]
    pub(crate) fn first_member(
        &self,
        at: &ServiceKey,
    ) -> Result<Option<(VrfId, Option<(IpAddr, u16)>)>> {
        let key = key(at);
        let Some(raw) = self.services.get(&key)? else { return Ok(None) };
        let slot = types::member_slot { service: raw.id, index: 0 };
        let member = if raw.count == 0 { None } else { self.members.get(&slot)? };
        let family = u32::from(key.family);
        let member = member.map(|m| (ip_from_abi(family, &m.address), m.port));
        Ok(Some((raw.vrf, member)))
    }

    /// Whether a service is not at other nodes' addresses.
    pub(crate) fn is_by_node(&self, at: &ServiceKey) -> bool {
        let found = self.services.get(&key(at)).ok().flatten();
        found.is_some_and(|raw| raw.flags & abi::SERVICE_BY_NODE != 0)
    }

    fn new_service_id(&mut self) -> Result<u32> {
        if self.last_service == u32::MAX {
            let reason = "four thousand million services were made; open again".into();
            return Err(Error::Argument { field: "service", reason });
        }
        self.last_service += 1;
        Ok(self.last_service)
    }

    fn member_order(&self, service: u32, count: u32) -> Result<Vec<Vec<u8>>> {
        (0..count)
            .map(|index| {
                let member = self.members.get(&types::member_slot { service, index })?;
                Ok(member.map(|member| bytes_of(&member).to_vec()).unwrap_or_default())
            })
            .collect()
    }

    pub(crate) fn find_services(&mut self) -> Result<()> {
        let services = self.services.entries()?;
        self.last_service = services.iter().map(|(_, raw)| raw.id).max().unwrap_or(0);
        for key in self.member_set.keys() {
            let known = self.service_members.entry(key.service).or_default();
            known.insert(bytes_of(&key).to_vec(), key);
        }
        Ok(())
    }
}

fn is_pseudo(vrf: VrfId) -> bool {
    vrf == OUTSIDE || vrf == INSIDE
}

fn check(service: &Service) -> Result<()> {
    let at = &service.at;
    if !is_pseudo(at.vrf) {
        check_vrf(at.vrf)?;
    }
    check_vrf(service.member_vrf)?;
    let wrong = |field, reason| Err(Error::Argument { field, reason });
    if !matches!(at.protocol, 6 | 17 | 132) {
        return wrong("protocol", format!("{} has no ports; 6, 17 or 132 do", at.protocol));
    }
    if let Some(odd) = service.members.iter().find(|m| m.address.is_ipv4() != at.address.is_ipv4())
    {
        return wrong("members", format!("{} is not of the family of {}", odd.address, at.address));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn members_keep_their_places_and_the_last_ones_fill_gaps() {
        for (old, wanted, expected) in [
            (vec![], vec!["a", "b"], vec!["a", "b"]),
            (vec!["a", "b"], vec!["a", "b", "c"], vec!["a", "b", "c"]),
            (vec!["a", "b", "c", "d"], vec!["a", "c", "d"], vec!["a", "d", "c"]),
            (vec!["a", "b", "c"], vec!["a", "b"], vec!["a", "b"]),
            (vec!["a", "b", "c"], vec!["a", "c", "x"], vec!["a", "x", "c"]),
            (vec!["a", "b", "c"], vec!["c"], vec!["c"]),
            (vec!["a", "b"], vec![], vec![]),
        ] {
            let wanted = named(&wanted).into_iter().collect();
            assert_eq!(arrange(&named(&old), &wanted), named(&expected));
        }
    }
}
