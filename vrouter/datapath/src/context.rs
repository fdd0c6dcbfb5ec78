//! Contexts: further VRFs in which a port is reached, as a member of services or by a floating IP.

use crate::abi::{self, ip_from_abi, ip_to_abi, types};
use crate::vif::check_vrf;
use crate::{Datapath, Error, PolicyId, Result, VrfId};
use std::net::IpAddr;

/// Number of a context of a port: chosen by the agent, not 0.
pub type ContextId = u32;

/// A further VRF of a port. Packets with a label of the context ([`Datapath::set_label`]), or that a route leads here by
/// [`crate::NextHop::Local`] with it, are looked up, judged and answered in that VRF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Where the other end is routed.
    pub vrf: VrfId,
    /// Judged instead of the interface's own policy; `None` drops with [`crate::DropReason::NoPolicy`].
    pub policy4: Option<PolicyId>,
    /// The same for IPv6.
    pub policy6: Option<PolicyId>,
    /// `None`: the port is reached by its own addresses there.
    pub floating: Option<Floating>,
}

/// An address that stands for one of the port's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floating {
    /// The address in the context's VRF.
    pub address: IpAddr,
    /// The port's own address, of the same family.
    pub fixed: IpAddr,
    /// Who may open connections by it. For those that the port opens the context is also to be in
    /// [`crate::Vif::floating`].
    pub direction: FloatingDirection,
    /// Ports it stands for; empty: all, and every protocol.
    pub ports: Vec<PortMapping>,
}

/// Who may open connections by a floating address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatingDirection {
    /// Both ends.
    Both,
    /// The other end.
    Ingress,
    /// The port.
    Egress,
}

/// A port of a floating address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// IP protocol: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port as others see it.
    pub floating: u16,
    /// The workload's.
    pub fixed: u16,
}

fn encode(context: &Context) -> Result<types::context> {
    check_vrf(context.vrf)?;
    let mut raw = types::context {
        vrf: context.vrf,
        policy4: context.policy4.unwrap_or(0),
        policy6: context.policy6.unwrap_or(0),
        ..types::context::default()
    };
    if let Some(floating) = &context.floating {
        if floating.address.is_ipv4() != floating.fixed.is_ipv4() {
            let reason =
                format!("{} and {} are of different families", floating.address, floating.fixed);
            return Err(Error::Argument { field: "floating", reason });
        }
        (raw.family, raw.floating) = ip_to_abi(floating.address);
        raw.fixed = ip_to_abi(floating.fixed).1;
        raw.flags = match floating.direction {
            FloatingDirection::Both => abi::CONTEXT_INGRESS | abi::CONTEXT_EGRESS,
            FloatingDirection::Ingress => abi::CONTEXT_INGRESS,
            FloatingDirection::Egress => abi::CONTEXT_EGRESS,
        };
        if !floating.ports.is_empty() {
            raw.flags |= abi::CONTEXT_MAPPED;
        }
    }
    Ok(raw)
}

fn mapping_keys(id: ContextId, mapping: &PortMapping) -> [(types::port_mapping_key, u32); 2] {
    let PortMapping { protocol, floating, fixed } = *mapping;
    let key = |port, towards| types::port_mapping_key { context: id, port, protocol, towards };
    [(key(floating, abi::TO_FIXED), fixed.into()), (key(fixed, abi::TO_FLOATING), floating.into())]
}

impl Datapath {
    /// Adds a context or replaces it. Flows that go by it are judged again; those of another floating address or port end
    /// with [`crate::DropReason::TranslationGone`].
    ///
    /// # Errors
    /// [`Error::Argument`] for an id of 0, a VRF out of range or addresses of two families; [`Error::Full`].
    pub fn set_context(&mut self, id: ContextId, context: &Context) -> Result<()> {
        if id == 0 {
            return Err(Error::Argument {
                field: "context",
                reason: "the id must not be 0".into(),
            });
        }
        let raw = encode(context)?;
        let old = self.contexts.get(&id)?;
        let wanted: Vec<_> = context
            .floating
            .iter()
            .flat_map(|floating| &floating.ports)
            .flat_map(|mapping| mapping_keys(id, mapping))
            .collect();
        // New ports first, then the record that asks for them, then old ports go.
        for (key, port) in &wanted {
            self.port_mappings.set(key, port)?;
        }
        self.contexts.set(&id, &raw)?;
        for key in self.mappings_of(id) {
            if !wanted.iter().any(|(k, _)| abi::bytes_of(k) == abi::bytes_of(&key)) {
                self.port_mappings.remove(&key)?;
            }
        }
        if let Some(old) = old {
            self.step_generation(old.vrf)?;
        }
        self.step_generation(context.vrf)
    }

    /// Takes a context away; its labels and routes go first. `false` if there was none.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn remove_context(&mut self, id: ContextId) -> Result<bool> {
        let Some(old) = self.contexts.get(&id)? else { return Ok(false) };
        self.contexts.remove(&id)?;
        for key in self.mappings_of(id) {
            self.port_mappings.remove(&key)?;
        }
        self.step_generation(old.vrf)?;
        Ok(true)
    }

    fn mappings_of(&self, id: ContextId) -> Vec<types::port_mapping_key> {
        self.port_mappings.keys().filter(|key| key.context == id).collect()
    }

    /// All contexts, in no particular order.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn contexts(&self) -> Result<Vec<(ContextId, Context)>> {
        let mappings = self.port_mappings.entries()?;
        let some = |id: u32| (id != 0).then_some(id);
        let decode = |(id, raw): (u32, types::context)| {
            let floating = (raw.family != 0).then(|| Floating {
                address: ip_from_abi(raw.family, &raw.floating),
                fixed: ip_from_abi(raw.family, &raw.fixed),
                direction: match raw.flags & (abi::CONTEXT_INGRESS | abi::CONTEXT_EGRESS) {
                    abi::CONTEXT_INGRESS => FloatingDirection::Ingress,
                    abi::CONTEXT_EGRESS => FloatingDirection::Egress,
                    _ => FloatingDirection::Both,
                },
                ports: mappings
                    .iter()
                    .filter(|(key, _)| key.context == id && key.towards == abi::TO_FIXED)
                    .map(|(key, fixed)| PortMapping {
                        protocol: key.protocol,
                        floating: key.port,
                        fixed: *fixed as u16,
                    })
                    .collect(),
            });
            let (policy4, policy6) = (some(raw.policy4), some(raw.policy6));
            (id, Context { vrf: raw.vrf, policy4, policy6, floating })
        };
        Ok(self.contexts.entries()?.into_iter().map(decode).collect())
    }
}
