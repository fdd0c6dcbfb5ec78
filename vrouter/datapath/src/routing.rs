//! Routes, next hops and tunnel end points.

use crate::abi::{self, address_key, bytes_of, ip_from_abi, ip_to_abi, types};
use crate::{
    Datapath, Encapsulation, Error, NextHop, NextHopId, Result, Route, RouteChange, VrfId,
    vif::check_vrf,
};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

fn check_mtu(mtu: u32) -> Result<()> {
    if mtu >= 1280 {
        return Ok(());
    }
    let reason = format!("{mtu} is less than 1280, which IPv6 needs");
    Err(Error::Argument { field: "mtu", reason })
}

fn encode(next_hop: &NextHop) -> Result<types::next_hop> {
    let mut raw = types::next_hop::default();
    match next_hop {
        NextHop::Discard => {}
        NextHop::Local { ifindex, context } => {
            raw.r#type = abi::NEXT_HOP_LOCAL;
            raw.ifindex = *ifindex;
            raw.context = *context;
        }
        NextHop::Service { vrf } => {
            check_vrf(*vrf)?;
            raw.r#type = abi::NEXT_HOP_SERVICE;
            raw.vrf = *vrf;
        }
        NextHop::Outside { uplink, gateway, mtu } => {
            check_mtu(*mtu)?;
            raw.r#type = abi::NEXT_HOP_OUTSIDE;
            raw.ifindex = *uplink;
            raw.mtu = *mtu;
            if let Some(gateway) = gateway {
                (raw.gateway_family, raw.gateway) = ip_to_abi(*gateway);
            }
        }
        NextHop::Native { uplink, node, gateway, mtu } => {
            check_mtu(*mtu)?;
            raw.r#type = abi::NEXT_HOP_NATIVE;
            raw.ifindex = *uplink;
            raw.mtu = *mtu;
            if let Some(node) = node {
                (raw.family, raw.remote) = ip_to_abi(*node);
            }
            if let Some(gateway) = gateway {
                (raw.gateway_family, raw.gateway) = ip_to_abi(*gateway);
            }
        }
        NextHop::Tunnel { remote, local, encapsulation, label, uplink, gateway, mtu } => {
            if remote.is_ipv4() != local.is_ipv4() {
                let reason = format!("{local} and {remote} are of different families");
                return Err(Error::Argument { field: "local", reason });
            }
            let bits = if *encapsulation == Encapsulation::Vxlan { 24 } else { 20 };
            if *label >= 1 << bits {
                let reason = format!("{label} has more than {bits} bits");
                return Err(Error::Argument { field: "label", reason });
            }
            check_mtu(*mtu)?;
            raw.r#type = abi::NEXT_HOP_TUNNEL;
            raw.encapsulation = match encapsulation {
                Encapsulation::Vxlan => abi::ENCAP_VXLAN,
                Encapsulation::MplsOverUdp => abi::ENCAP_MPLS_UDP,
                Encapsulation::MplsOverGre => abi::ENCAP_MPLS_GRE,
            };
            raw.ifindex = *uplink;
            raw.label = *label;
            raw.mtu = *mtu;
            (raw.family, raw.remote) = ip_to_abi(*remote);
            raw.local = ip_to_abi(*local).1;
            if let Some(gateway) = gateway {
                (raw.gateway_family, raw.gateway) = ip_to_abi(*gateway);
            }
        }
        NextHop::Composite { members } => {
            if members.is_empty() || members.len() > abi::MAX_MEMBERS {
                let reason =
                    format!("{} members; 1 to {} are possible", members.len(), abi::MAX_MEMBERS);
                return Err(Error::Argument { field: "members", reason });
            }
            raw.r#type = abi::NEXT_HOP_COMPOSITE;
            raw.count = members.len() as u32;
            raw.members[..members.len()].copy_from_slice(members);
        }
    }
    Ok(raw)
}

pub(crate) fn decode(raw: &types::next_hop) -> NextHop {
    match raw.r#type {
        abi::NEXT_HOP_LOCAL => NextHop::Local { ifindex: raw.ifindex, context: raw.context },
        abi::NEXT_HOP_SERVICE => NextHop::Service { vrf: raw.vrf },
        abi::NEXT_HOP_OUTSIDE => NextHop::Outside {
            uplink: raw.ifindex,
            gateway: (raw.gateway_family != 0)
                .then(|| ip_from_abi(raw.gateway_family, &raw.gateway)),
            mtu: raw.mtu,
        },
        abi::NEXT_HOP_NATIVE => NextHop::Native {
            uplink: raw.ifindex,
            node: (raw.family != 0).then(|| ip_from_abi(raw.family, &raw.remote)),
            gateway: (raw.gateway_family != 0)
                .then(|| ip_from_abi(raw.gateway_family, &raw.gateway)),
            mtu: raw.mtu,
        },
        abi::NEXT_HOP_TUNNEL => NextHop::Tunnel {
            remote: ip_from_abi(raw.family, &raw.remote),
            local: ip_from_abi(raw.family, &raw.local),
            encapsulation: match raw.encapsulation {
                abi::ENCAP_VXLAN => Encapsulation::Vxlan,
                abi::ENCAP_MPLS_UDP => Encapsulation::MplsOverUdp,
                _ => Encapsulation::MplsOverGre,
            },
            label: raw.label,
            uplink: raw.ifindex,
            gateway: (raw.gateway_family != 0)
                .then(|| ip_from_abi(raw.gateway_family, &raw.gateway)),
            mtu: raw.mtu,
        },
        abi::NEXT_HOP_COMPOSITE => {
            NextHop::Composite { members: raw.members[..(raw.count as usize).min(16)].to_vec() }
        }
        _ => NextHop::Discard,
    }
}

/// Until every program that ran when this was called has ended.
fn wait_for_programs() {
    /// `MEMBARRIER_CMD_GLOBAL` (linux/membarrier.h): a grace period of RCU, under which programs run.
    const GLOBAL: nix::libc::c_int = 1;
    // SAFETY: a system call with integer arguments, which changes no memory of ours.
    let code = unsafe { nix::libc::syscall(nix::libc::SYS_membarrier, GLOBAL, 0, 0) };
    if code != 0 {
        // Not offered with nohz_full. A program runs for microseconds.
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

fn host_key(vrf: VrfId, address: IpAddr) -> types::host_key {
    let (family, address) = ip_to_abi(address);
    types::host_key { vrf, family, address }
}

/// Bits of a prefix key before the address: VRF and family.
const PREFIX_BASE: u32 = 64;

fn prefix_key(vrf: VrfId, prefix: IpNet) -> types::prefix_key {
    types::prefix_key {
        bits: PREFIX_BASE + u32::from(prefix.prefix_len()),
        host: host_key(vrf, prefix.network()),
    }
}

fn is_host(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

impl Datapath {
    /// Adds or replaces a next hop. No packet meets a mixture: where another one was, packets drop with
    /// [`crate::DropReason::DiscardRoute`] until every program has let go of it (some milliseconds). To move routes without
    /// a gap, give them another next hop instead.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id out of range or values a header cannot hold.
    pub fn set_next_hop(&mut self, id: NextHopId, next_hop: &NextHop) -> Result<()> {
        let size = self.next_hops.size();
        if id >= size && *next_hop != NextHop::Discard {
            return Err(Error::Full { table: "next_hops", size });
        }
        self.check_next_hop(id)?;
        let new = encode(next_hop)?;
        let old = self.next_hops.get(&id)?.unwrap_or_default();
        if bytes_of(&old) == bytes_of(&new) {
            return Ok(());
        }
        if old.r#type != abi::NEXT_HOP_DISCARD {
            // The type alone: a program that has seen it reads the rest as it was.
            let discards = types::next_hop { r#type: abi::NEXT_HOP_DISCARD, ..old };
            self.next_hops.set(&id, &discards)?;
            self.retired.insert(id);
        }
        if new.r#type == abi::NEXT_HOP_DISCARD {
            return Ok(());
        }
        if self.retired.contains(&id) {
            wait_for_programs();
            self.retired.clear();
        }
        self.next_hops.set(&id, &types::next_hop { r#type: abi::NEXT_HOP_DISCARD, ..new })?;
        self.next_hops.set(&id, &new)
    }

    pub(crate) fn check_next_hop(&self, id: NextHopId) -> Result<()> {
        if id == 0 || id >= self.next_hops.size() {
            let reason = format!("{id} is not within 1 to {}", self.next_hops.size() - 1);
            return Err(Error::Argument { field: "next hop", reason });
        }
        Ok(())
    }

    /// Makes a next hop discard. Routes that still name it drop with a reason.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id out of range.
    pub fn remove_next_hop(&mut self, id: NextHopId) -> Result<()> {
        self.set_next_hop(id, &NextHop::Discard)
    }

    /// All next hops that do not discard.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn next_hops(&self) -> Result<Vec<(NextHopId, NextHop)>> {
        let mut all = Vec::new();
        for id in 1..self.next_hops.size() {
            match self.next_hop(id)? {
                NextHop::Discard => {}
                next_hop => all.push((id, next_hop)),
            }
        }
        Ok(all)
    }

    pub(crate) fn next_hop(&self, id: NextHopId) -> Result<NextHop> {
        Ok(self.next_hops.get(&id)?.map_or(NextHop::Discard, |raw| decode(&raw)))
    }

    /// Applies changes in order and then tells the flows of the VRFs concerned to look their routes up again. One
    /// call for many changes is cheaper than many calls.
    ///
    /// # Errors
    /// [`Error::Argument`] before anything is changed; [`Error::Full`] with the changes before the one that did not fit
    /// applied.
    pub fn change_routes(&mut self, changes: &[RouteChange]) -> Result<()> {
        match self.change(changes, false)?.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// The same, but a route that finds no room is no reason to leave out those that come after it: gives which found none, and
    /// what the table said.
    ///
    /// # Errors
    /// [`Error::Argument`] before anything is changed; [`Error::Kernel`].
    pub fn change_routes_that_fit(
        &mut self,
        changes: &[RouteChange],
    ) -> Result<Vec<(usize, Error)>> {
        self.change(changes, true)
    }

    fn change(&mut self, changes: &[RouteChange], go_on: bool) -> Result<Vec<(usize, Error)>> {
        for change in changes {
            match change {
                RouteChange::Set(route) => {
                    check_vrf(route.vrf)?;
                    if route.next_hop != 0 {
                        self.check_next_hop(route.next_hop)?;
                    }
                }
                RouteChange::Remove { vrf, .. } => check_vrf(*vrf)?,
            }
        }
        let mut touched = BTreeSet::new();
        let mut refused = Vec::new();
        let mut result = Ok(());
        for (at, change) in changes.iter().enumerate() {
            match self.change_route(change) {
                Ok(()) => {
                    touched.insert(match change {
                        RouteChange::Set(route) => route.vrf,
                        RouteChange::Remove { vrf, .. } => *vrf,
                    });
                }
                Err(error @ Error::Full { .. }) => {
                    refused.push((at, error));
                    if !go_on {
                        break;
                    }
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        for vrf in touched {
            self.step_generation(vrf)?;
        }
        result.map(|()| refused)
    }

    /// Lets the flows of a VRF look everything up again.
    pub(crate) fn step_generation(&self, vrf: VrfId) -> Result<()> {
        let generation = self.generations.get(&vrf)?.unwrap_or(0);
        self.generations.set(&vrf, &generation.wrapping_add(1))
    }

    fn change_route(&self, change: &RouteChange) -> Result<()> {
        match *change {
            RouteChange::Set(Route { vrf, prefix, next_hop, identity }) => {
                let value = types::route { next_hop, identity, length: prefix.prefix_len().into() };
                if is_host(prefix) {
                    self.host_routes.set(&host_key(vrf, prefix.addr()), &value)
                } else {
                    self.set_prefix_route(&prefix_key(vrf, prefix), &value)
                }
            }
            RouteChange::Remove { vrf, prefix } => if is_host(prefix) {
                self.host_routes.remove(&host_key(vrf, prefix.addr()))
            } else {
                self.prefix_routes.remove(&prefix_key(vrf, prefix))
            }
            .map(drop),
        }
    }

    /// Full tries of older kernels (before 6.13, and what it was backported to) take nothing, not even in the place of their own: there
    /// the old entry goes first.
    fn set_prefix_route(&self, key: &types::prefix_key, value: &types::route) -> Result<()> {
        match self.prefix_routes.set(key, value) {
            Err(Error::Full { .. }) if self.prefix_routes.remove(key)? => {
                self.prefix_routes.set(key, value)
            }
            outcome => outcome,
        }
    }

    /// All routes of all VRFs, in no particular order.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn routes(&self) -> Result<Vec<Route>> {
        let mut all = Vec::new();
        let mut push = |key: &types::host_key, bits: Option<u32>, value: &types::route| {
            let address = ip_from_abi(key.family, &key.address);
            let full = if address.is_ipv4() { 32 } else { 128 };
            if let Ok(prefix) = IpNet::new(address, bits.map_or(full, |bits| bits as u8)) {
                let types::route { next_hop, identity, length: _ } = *value;
                all.push(Route { vrf: key.vrf, prefix, next_hop, identity });
            }
        };
        // VRF 0 is none: see natives().
        for (key, value) in self.host_routes.entries()?.into_iter().filter(|(key, _)| key.vrf != 0)
        {
            push(&key, None, &value);
        }
        for (key, value) in self.prefix_routes.entries()? {
            push(&key.host, Some(key.bits.saturating_sub(PREFIX_BASE)), &value);
        }
        Ok(all)
    }

    pub(crate) fn find_route(&self, vrf: VrfId, address: IpAddr) -> Result<Option<types::route>> {
        let host = host_key(vrf, address);
        if let Some(route) = self.host_routes.get(&host)? {
            return Ok(Some(route));
        }
        let bits = PREFIX_BASE + if address.is_ipv4() { 32 } else { 128 };
        self.prefix_routes.get(&types::prefix_key { bits, host })
    }

    /// Accepts tunnel packets from this address.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn add_peer(&mut self, address: IpAddr) -> Result<()> {
        let number = self.last_peer % 0x7fff_ffff + 1;
        if self.peers.insert(&address_key(address), &number)? {
            self.last_peer = number;
        }
        Ok(())
    }

    /// Refuses tunnel packets from this address from now on. `false` if they were refused already.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn remove_peer(&mut self, address: IpAddr) -> Result<bool> {
        self.peers.remove(&address_key(address))
    }

    /// All accepted tunnel sources.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn peers(&self) -> Result<Vec<IpAddr>> {
        Ok(self.peers.keys().map(|key| ip_from_abi(key.family, &key.address)).collect())
    }

    pub(crate) fn find_peers(&mut self) -> Result<()> {
        self.last_peer = self.peers.entries()?.iter().map(|(_, n)| *n).max().unwrap_or(0);
        Ok(())
    }

    /// Tunnel packets to this address of the node are ours; all else on the uplink is the host's.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn add_tunnel_address(&mut self, address: IpAddr) -> Result<()> {
        self.tunnel_addresses.set(&address_key(address), &1)
    }

    /// Leaves tunnel packets to this address to the host from now on.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn remove_tunnel_address(&mut self, address: IpAddr) -> Result<bool> {
        self.tunnel_addresses.remove(&address_key(address))
    }

    /// Our own tunnel addresses.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn tunnel_addresses(&self) -> Result<Vec<IpAddr>> {
        let keys = self.tunnel_addresses.keys();
        Ok(keys.map(|key| ip_from_abi(key.family, &key.address)).collect())
    }
}
