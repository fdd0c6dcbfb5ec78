//! "Why does this not pass?": the walk of a packet, told from the tables the programs read. Changes nothing.

use crate::abi::{ADDRESS_OWN, CONTEXT_EGRESS, address_key, ip_to_abi, types};
use crate::service::{INSIDE, ServiceKey};
use crate::{
    ContextId, Datapath, DropReason, Flow, NextHop, NextHopId, PolicyId, Result, Vif, VifPolicy,
    VrfId,
};
use skein_policy::Direction;
use std::net::IpAddr;

/// A packet to ask about, from a workload's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The workload's interface.
    pub ifindex: u32,
    /// Who opens the connection.
    pub direction: Direction,
    /// The workload's address.
    pub local: IpAddr,
    /// The other end's.
    pub remote: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Port of the opener; 0 for ICMP.
    pub source_port: u16,
    /// Port of the other; ICMP: `type << 8 | code`.
    pub destination_port: u16,
}

/// What would happen, as far as it was found out: what is `None` was not reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The interface's record.
    pub vif: Option<Vif>,
    /// The connection, if it exists already.
    pub flow: Option<Flow>,
    /// Next hop of the route to the other end.
    pub next_hop: Option<(NextHopId, NextHop)>,
    /// Identity of the other end.
    pub identity: Option<u32>,
    /// Member of the service that was judged in place of the address asked about. A connection may get another one; policy
    /// sees a difference only if their identities or ports differ.
    pub member: Option<(IpAddr, u16)>,
    /// Context by whose floating address it leaves.
    pub context: Option<ContextId>,
    /// Rule that decided; 0 if no layer had a say.
    pub rule: Option<u32>,
    /// Why it would be dropped; `None`: it would pass.
    pub dropped: Option<DropReason>,
}

impl Datapath {
    /// Walks the tables for a packet that opens a connection.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn trace(&self, question: &Question) -> Result<Answer> {
        let mut answer = Answer::default();
        answer.dropped = self.walk(question, &mut answer)?;
        Ok(answer)
    }

    /// Only the route to the other end in a VRF, and what a policy says of it; nothing is judged that goes to a service.
    ///
    /// # Errors
    /// [`crate::Error::Kernel`].
    pub fn look(&self, vrf: VrfId, policy: &VifPolicy, question: &Question) -> Result<Answer> {
        let mut answer = Answer::default();
        answer.dropped = self.look_up(vrf, policy, question, &mut answer)?;
        Ok(answer)
    }

    fn look_up(
        &self,
        vrf: VrfId,
        policy: &VifPolicy,
        q: &Question,
        answer: &mut Answer,
    ) -> Result<Option<DropReason>> {
        let Some(record) = self.vifs()?.into_iter().find(|v| v.ifindex == q.ifindex) else {
            return Ok(Some(DropReason::NoInterface));
        };
        answer.vif = Some(record);
        let Some(route) = self.find_route(vrf, q.remote)? else {
            let out = q.direction == Direction::Egress;
            return Ok(Some(if out { DropReason::NoRoute } else { DropReason::SourceAddress }));
        };
        let next_hop = self.next_hop(route.next_hop)?;
        answer.identity = Some(route.identity);
        answer.next_hop = Some((route.next_hop, next_hop.clone()));
        match (next_hop, policy) {
            (NextHop::Discard, _) => Ok(Some(DropReason::DiscardRoute)),
            (NextHop::Service { .. }, _) | (_, VifPolicy::Disabled) => Ok(None),
            (_, VifPolicy::Enforce { v4, v6 }) => {
                let policy = if q.local.is_ipv4() { *v4 } else { *v6 };
                let ports = (q.source_port, q.destination_port);
                self.verdict(policy, route.identity, q, ports, answer)
            }
        }
    }

    /// What a policy says of the other end.
    fn verdict(
        &self,
        policy: Option<PolicyId>,
        identity: u32,
        q: &Question,
        ports: (u16, u16),
        answer: &mut Answer,
    ) -> Result<Option<DropReason>> {
        let Some(policy) = policy else { return Ok(Some(DropReason::NoPolicy)) };
        match self.judge(policy, identity, q.direction, q.protocol, ports)? {
            None => Ok(Some(DropReason::PolicyIncomplete)),
            Some((pass, rule)) => {
                answer.rule = Some(rule);
                Ok((!pass).then_some(DropReason::PolicyDeny))
            }
        }
    }

    fn walk(&self, q: &Question, answer: &mut Answer) -> Result<Option<DropReason>> {
        let Some(record) = self.vifs()?.into_iter().find(|v| v.ifindex == q.ifindex) else {
            return Ok(Some(DropReason::NoInterface));
        };
        answer.vif = Some(record.clone());
        if record.admin_down {
            return Ok(Some(DropReason::AdminDown));
        }
        let out = q.direction == Direction::Egress;
        let secure = record.policy != VifPolicy::Disabled;
        if secure && !self.owns(&record, q.local)? {
            return Ok(Some(if out { DropReason::SourceAddress } else { DropReason::NotThisPort }));
        }
        let mut route = self.find_route(record.vrf, q.remote)?;
        let mut policies = match record.policy {
            VifPolicy::Enforce { v4, v6 } => Some((v4, v6)),
            VifPolicy::Disabled => None,
        };
        if out && let Some((id, better)) = self.floating_way(&record, q, route.as_ref())? {
            answer.context = Some(id);
            route = Some(better);
            let context = self.contexts.get(&id)?.unwrap_or_default();
            let some = |policy: u32| (policy != 0).then_some(policy);
            policies = policies.map(|_| (some(context.policy4), some(context.policy6)));
        }
        let Some(mut route) = route else {
            return Ok(Some(if out { DropReason::NoRoute } else { DropReason::SourceAddress }));
        };
        let mut ports = (q.source_port, q.destination_port);
        let way = self.next_hop(route.next_hop)?;
        let at = match (out, self.node_port(q)?, &way) {
            (true, Some(at), _) => Some(at),
            (true, None, NextHop::Service { vrf }) => Some(ServiceKey {
                vrf: *vrf,
                address: q.remote,
                protocol: q.protocol,
                port: q.destination_port,
            }),
            _ => None,
        };
        if let Some(at) = at {
            match self.first_member(&at)? {
                None => return Ok(Some(DropReason::ServicePort)),
                Some((_, None)) => return Ok(Some(DropReason::NoMembers)),
                Some((vrf, Some((address, port)))) => {
                    answer.member = Some((address, port));
                    ports.1 = port;
                    match self.find_route(vrf, address)? {
                        Some(to_member) => route = to_member,
                        None => return Ok(Some(DropReason::NoRoute)),
                    }
                }
            }
        }
        let next_hop = self.next_hop(route.next_hop)?;
        answer.identity = Some(route.identity);
        answer.next_hop = Some((route.next_hop, next_hop.clone()));
        if next_hop == NextHop::Discard {
            return Ok(Some(DropReason::DiscardRoute));
        }
        let Some((v4, v6)) = policies else { return Ok(None) };
        let policy = if q.local.is_ipv4() { v4 } else { v6 };
        if policy.is_none() {
            return Ok(Some(DropReason::NoPolicy));
        }
        let (local_port, remote_port) = if out {
            (q.source_port, q.destination_port)
        } else {
            (q.destination_port, q.source_port)
        };
        answer.flow =
            self.flow(record.id, q.protocol, (q.local, local_port), (q.remote, remote_port))?;
        self.verdict(policy, route.identity, q, ports, answer)
    }

    /// The service that answers at this address of a node.
    fn node_port(&self, q: &Question) -> Result<Option<ServiceKey>> {
        let Some(owner) = self.node_addresses.get(&address_key(q.remote))? else { return Ok(None) };
        let any: IpAddr = match q.remote {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        for address in [q.remote, any] {
            let at =
                ServiceKey { vrf: INSIDE, address, protocol: q.protocol, port: q.destination_port };
            if self.first_member(&at)?.is_some() {
                // The others' members are unknown by this name.
                return Ok(Some(at).filter(|_| {
                    owner == ADDRESS_OWN || address == q.remote || !self.is_by_node(&at)
                }));
            }
        }
        Ok(None)
    }

    /// The context by whose floating address a packet leaves, as the programs choose it, and its route there. Ports that
    /// a floating address does not stand for are not looked at.
    fn floating_way(
        &self,
        record: &Vif,
        q: &Question,
        own: Option<&types::route>,
    ) -> Result<Option<(ContextId, types::route)>> {
        let (family, local) = ip_to_abi(q.local);
        let mut best = None;
        // Any of its own addresses is better than the node's.
        let own = match own {
            Some(route) => match self.next_hop(route.next_hop)? {
                NextHop::Outside { .. } => None,
                _ => Some(route),
            },
            None => None,
        };
        let mut length = own.map(|route| route.length);
        for id in &record.floating {
            let Some(context) = self.contexts.get(id)? else { continue };
            if context.family != family
                || context.fixed.w != local.w
                || context.flags & CONTEXT_EGRESS == 0
            {
                continue;
            }
            if let Some(route) = self.find_route(context.vrf, q.remote)?
                && length.is_none_or(|known| route.length > known)
            {
                length = Some(route.length);
                best = Some((*id, route));
            }
        }
        Ok(best)
    }

    /// Whether the address is routed to this very interface.
    fn owns(&self, record: &Vif, address: IpAddr) -> Result<bool> {
        let Some(route) = self.find_route(record.vrf, address)? else { return Ok(false) };
        let here = |hop: &NextHop| matches!(hop, NextHop::Local { ifindex, .. } if *ifindex == record.ifindex);
        match self.next_hop(route.next_hop)? {
            NextHop::Composite { members } => {
                for member in members {
                    if here(&self.next_hop(member)?) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            next_hop => Ok(here(&next_hop)),
        }
    }
}
