//! Workload interfaces and their labels.

use crate::abi::{self, ip_to_abi, types};
use crate::{
    ContextId, Datapath, Delivery, Error, Result, Vif, VifCounters, VifId, VifPolicy, Vlan,
};
use std::net::{IpAddr, Ipv4Addr};

fn encode(vif: &Vif) -> types::vif {
    let mut flags = 0;
    if vif.admin_down {
        flags |= abi::VIF_ADMIN_DOWN;
    }
    if vif.host {
        flags |= abi::VIF_HOST;
    }
    if vif.delivery == Delivery::VethPeer && vif.vlan.is_none() {
        flags |= abi::VIF_PEER;
    }
    if vif.vlan.is_some() {
        flags |= abi::VIF_VLAN;
    }
    let (policy4, policy6) = match vif.policy {
        VifPolicy::Enforce { v4, v6 } => (v4.unwrap_or(0), v6.unwrap_or(0)),
        VifPolicy::Disabled => {
            flags |= abi::VIF_POLICY_DISABLED;
            (0, 0)
        }
    };
    let gateway = |address: Option<IpAddr>| address.map(|a| ip_to_abi(a).1).unwrap_or_default();
    let mut floating = [0; abi::MAX_FLOATING];
    for (place, id) in floating.iter_mut().zip(&vif.floating) {
        *place = *id;
    }
    types::vif {
        ifindex: vif.ifindex,
        id: vif.id,
        vrf: vif.vrf,
        flags,
        policy4,
        policy6,
        flow_quota: vif.flow_quota,
        mtu: vif.mtu,
        label: vif.label,
        gateway4: gateway(vif.gateway4.map(IpAddr::V4)),
        gateway6: gateway(vif.gateway6.map(IpAddr::V6)),
        mac: vif.mac,
        vlan: vif.vlan.map_or(0, |vlan| vlan.tag),
        device: vif.vlan.map_or(0, |vlan| vlan.device),
        metadata: vif.metadata.map_or(0, |a| u32::from_ne_bytes(a.octets())),
        floating,
    }
}

fn vlan_of(raw: &types::vif) -> Option<Vlan> {
    let vlan = Vlan { device: raw.device, tag: raw.vlan };
    (raw.flags & abi::VIF_VLAN != 0).then_some(vlan)
}

fn vlan_key(vlan: Vlan) -> types::vlan_key {
    types::vlan_key { device: vlan.device, vlan: vlan.tag.into() }
}

/// A sub-interface has a number of its own, every other one its device's.
fn check_vlan(vif: &Vif) -> Result<()> {
    let reason = match vif.vlan {
        None if vif.ifindex < abi::SUB_INTERFACE => return Ok(()),
        None => format!("{} is no index of a device", vif.ifindex),
        Some(Vlan { tag, .. }) if !(1..=4094).contains(&tag) => {
            format!("the tag {tag} is not within 1 to 4094")
        }
        Some(Vlan { device, .. }) if device == 0 || device >= abi::SUB_INTERFACE => {
            format!("{device} is no index of a device")
        }
        Some(_) if vif.ifindex == crate::sub_interface(vif.id) => return Ok(()),
        Some(_) => format!("ifindex has to be that of sub-interface {}", vif.id),
    };
    Err(Error::Argument { field: "vlan", reason })
}

fn decode(raw: &types::vif) -> Vif {
    let some = |id: u32| (id != 0).then_some(id);
    let gateway4 = abi::ip_from_abi(4, &raw.gateway4);
    let gateway6 = abi::ip_from_abi(6, &raw.gateway6);
    Vif {
        ifindex: raw.ifindex,
        id: raw.id,
        vrf: raw.vrf,
        mac: raw.mac,
        gateway4: match gateway4 {
            IpAddr::V4(a) if !a.is_unspecified() => Some(a),
            _ => None,
        },
        gateway6: match gateway6 {
            IpAddr::V6(a) if !a.is_unspecified() => Some(a),
            _ => None,
        },
        label: raw.label,
        policy: if raw.flags & abi::VIF_POLICY_DISABLED != 0 {
            VifPolicy::Disabled
        } else {
            VifPolicy::Enforce { v4: some(raw.policy4), v6: some(raw.policy6) }
        },
        admin_down: raw.flags & abi::VIF_ADMIN_DOWN != 0,
        flow_quota: raw.flow_quota,
        mtu: raw.mtu,
        delivery: if raw.flags & abi::VIF_PEER != 0 {
            Delivery::VethPeer
        } else {
            Delivery::Transmit
        },
        host: raw.flags & abi::VIF_HOST != 0,
        vlan: vlan_of(raw),
        metadata: (raw.metadata != 0).then(|| Ipv4Addr::from(raw.metadata.to_ne_bytes())),
        floating: raw.floating.iter().copied().take_while(|id| *id != 0).collect(),
    }
}

/// Of the standard library's hasher, which has its keys from the kernel.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish() as u32
}

pub(crate) fn check_vrf(vrf: u32) -> Result<()> {
    if (1..=65_535).contains(&vrf) {
        return Ok(());
    }
    Err(Error::Argument { field: "vrf", reason: format!("{vrf} is not within 1 to 65535") })
}

impl Datapath {
    /// Adds an interface or replaces its record, in one step for the packets. A change of policy makes its flows be judged
    /// again; flows are kept as long as `id` stays. Another id on the same ifindex first removes the old interface.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id of 0 or a VRF out of range; [`Error::Full`].
    pub fn set_vif(&mut self, vif: &Vif) -> Result<()> {
        check_vrf(vif.vrf)?;
        if vif.id == 0 || vif.ifindex == 0 {
            return Err(Error::Argument {
                field: "vif",
                reason: "id and ifindex must not be 0".into(),
            });
        }
        if vif.floating.len() > abi::MAX_FLOATING || vif.floating.contains(&0) {
            let reason = format!("at most {} contexts, none of them 0", abi::MAX_FLOATING);
            return Err(Error::Argument { field: "floating", reason });
        }
        check_vlan(vif)?;
        if let Some(old) = self.vifs.get(&vif.ifindex)? {
            if old.id != vif.id {
                self.remove_vif(vif.ifindex)?;
            } else if let Some(old) = vlan_of(&old).filter(|old| Some(*old) != vif.vlan) {
                self.forget_vlan(old, vif.ifindex)?;
            }
        }
        let state = types::vif_state { seed: random(), ..types::vif_state::default() };
        if self.vif_states.insert(&vif.id, &state)? {
            self.vif_stats.set_per_cpu(&vif.id, &types::vif_counters::default())?;
        }
        self.vifs.set(&vif.ifindex, &encode(vif))?;
        // Last: what the tag leads to is there.
        vif.vlan.map_or(Ok(()), |vlan| self.vlans.set(&vlan_key(vlan), &vif.ifindex))
    }

    /// Unless another sub-interface has taken the tag over.
    fn forget_vlan(&self, vlan: Vlan, ifindex: u32) -> Result<()> {
        if self.vlans.get(&vlan_key(vlan))? == Some(ifindex) {
            self.vlans.remove(&vlan_key(vlan))?;
        }
        Ok(())
    }

    /// Removes an interface with its flows and counters. `false` if there was none.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn remove_vif(&mut self, ifindex: u32) -> Result<bool> {
        let Some(vif) = self.vifs.get(&ifindex)? else { return Ok(false) };
        if let Some(vlan) = vlan_of(&vif) {
            self.forget_vlan(vlan, ifindex)?;
        }
        self.vifs.remove(&ifindex)?;
        self.run_sweep(&mut types::sweep { vif: vif.id, ..types::sweep::default() })?;
        self.vif_states.remove(&vif.id)?;
        self.vif_stats.remove(&vif.id)?;
        for reason in crate::DropReason::ALL {
            let key = types::vif_drop_key { vif: vif.id, reason: *reason as u32 };
            self.vif_drops.remove(&key)?;
        }
        Ok(true)
    }

    /// All interfaces, in no particular order.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn vifs(&self) -> Result<Vec<Vif>> {
        Ok(self.vifs.entries()?.iter().map(|(_, raw)| decode(raw)).collect())
    }

    /// Counters of an interface; zeros if it is unknown.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn vif_counters(&self, vif: VifId) -> Result<VifCounters> {
        let mut counters = VifCounters {
            flows: self.vif_states.get(&vif)?.map_or(0, |state| state.flows),
            ..VifCounters::default()
        };
        for cpu in self.vif_stats.per_cpu(&vif)? {
            counters.packets_out += cpu.packets_out;
            counters.bytes_out += cpu.bytes_out;
            counters.packets_in += cpu.packets_in;
            counters.bytes_in += cpu.bytes_in;
        }
        for reason in crate::DropReason::ALL {
            let key = types::vif_drop_key { vif, reason: *reason as u32 };
            let count: u64 = self.vif_drops.per_cpu(&key)?.iter().sum();
            if count > 0 {
                counters.drops.push((*reason, count));
            }
        }
        Ok(counters)
    }

    /// Packets dropped on the whole node, by reason, without zeros.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn drops(&self) -> Result<Vec<(crate::DropReason, u64)>> {
        let mut all = Vec::new();
        for reason in crate::DropReason::ALL {
            let count: u64 = self.drops.per_cpu(&(*reason as u32))?.iter().sum();
            if count > 0 {
                all.push((*reason, count));
            }
        }
        Ok(all)
    }

    /// Tunnel packets with this label, or VNI, go to the interface, by one of its contexts or, with 0, in its own VRF.
    ///
    /// # Errors
    /// [`Error::Argument`] for more than 20 bits; [`Error::Full`].
    pub fn set_label(&mut self, label: u32, ifindex: u32, context: ContextId) -> Result<()> {
        if label >= 1 << 20 {
            return Err(Error::Argument {
                field: "label",
                reason: format!("{label} has more than the 20 bits of an MPLS label"),
            });
        }
        self.labels.set(&label, &types::label { ifindex, context })
    }

    /// Takes a label back. `false` if it was not set.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn remove_label(&mut self, label: u32) -> Result<bool> {
        self.labels.remove(&label)
    }

    /// All labels with their interfaces and contexts.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn labels(&self) -> Result<Vec<(u32, u32, ContextId)>> {
        let all = self.labels.entries()?;
        Ok(all.into_iter().map(|(label, to)| (label, to.ifindex, to.context)).collect())
    }
}
