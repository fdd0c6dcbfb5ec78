//! "Why does this not pass?": the walk of a packet, told from the tables the programs read. Changes nothing.

use crate::{Datapath, DropReason, Flow, NextHop, NextHopId, Result, Vif, VifPolicy};
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The interface's record.
    pub vif: Option<Vif>,
    /// The connection, if it exists already.
    pub flow: Option<Flow>,
    /// Next hop of the route to the other end.
    pub next_hop: Option<(NextHopId, NextHop)>,
    /// Identity of the other end.
    pub identity: Option<u32>,
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
        let mut answer = Answer {
            vif: None,
            flow: None,
            next_hop: None,
            identity: None,
            rule: None,
            dropped: None,
        };
        answer.dropped = self.walk(question, &mut answer)?;
        Ok(answer)
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
        let Some(route) = self.find_route(record.vrf, q.remote)? else {
            return Ok(Some(if out { DropReason::NoRoute } else { DropReason::SourceAddress }));
        };
        let next_hop = self.next_hop(route.next_hop)?;
        answer.identity = Some(route.identity);
        answer.next_hop = Some((route.next_hop, next_hop.clone()));
        if next_hop == NextHop::Discard {
            return Ok(Some(DropReason::DiscardRoute));
        }
        let VifPolicy::Enforce { v4, v6 } = record.policy else { return Ok(None) };
        let Some(policy) = (if q.local.is_ipv4() { v4 } else { v6 }) else {
            return Ok(Some(DropReason::NoPolicy));
        };
        let (local_port, remote_port) = if out {
            (q.source_port, q.destination_port)
        } else {
            (q.destination_port, q.source_port)
        };
        answer.flow =
            self.flow(record.id, q.protocol, (q.local, local_port), (q.remote, remote_port))?;
        let ports = (q.source_port, q.destination_port);
        match self.judge(policy, route.identity, q.direction, q.protocol, ports)? {
            None => Ok(Some(DropReason::PolicyIncomplete)),
            Some((pass, rule)) => {
                answer.rule = Some(rule);
                Ok((!pass).then_some(DropReason::PolicyDeny))
            }
        }
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
