//! What staged policies would change: connections judged a second time, beside the datapath.
//!
//! Nothing here is asked for while no policy of the node has a staged layer. While one has, the live connections of its
//! ports are looked at every second, and the samples of refused packets as they come. A connection counts when the
//! policy with what is staged says otherwise than the policy in force, both evaluated the same way.

use super::core::Core;
use skein_datapath::{DropReason, Event, Flow};
use skein_policy::{Attributes, Direction, Packet, Policy, evaluate, evaluate_staged};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;
use uuid::Uuid;

/// Samples a person can look back at.
const SAMPLES: usize = 256;
/// Refused connections that are remembered, so that a repeated packet counts once.
const REFUSED: usize = 4096;
/// Connections looked at in one round; a port's quota is far below.
pub(crate) const AT_ONCE: usize = 262_144;

/// One connection of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Label of the port's interface.
    pub vif: u32,
    /// Who opens it.
    pub direction: Direction,
    /// IP protocol number.
    pub protocol: u8,
    /// The workload's address and port.
    pub local: (IpAddr, u16),
    /// The other end's.
    pub remote: (IpAddr, u16),
}

/// What decides differently, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cause {
    /// The rule that would decide; `None`: the end of the list.
    pub rule: Option<Uuid>,
    /// True: what passes now would be refused. False: what is refused now would pass.
    pub would_deny: bool,
    /// Who opens the connections.
    pub direction: Direction,
}

/// One connection that would be judged otherwise.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it was seen.
    pub at: SystemTime,
    /// The port.
    pub port: Uuid,
    /// The connection.
    pub connection: Connection,
    /// Why.
    pub cause: Cause,
}

/// What was found so far.
#[derive(Debug, Default)]
pub struct Staged {
    /// Connections of the last look, with the policy they were judged under.
    seen: HashMap<Connection, Arc<Policy>>,
    refused: HashSet<Connection>,
    totals: BTreeMap<Cause, (u64, Option<Sample>)>,
    samples: VecDeque<Sample>,
}

impl Connection {
    fn of(flow: &Flow) -> Self {
        // A service's connection is judged as what it becomes.
        let remote =
            flow.translated.map_or((flow.remote, flow.remote_port), |other| match flow.direction {
                Direction::Egress => (other.remote, other.remote_port),
                Direction::Ingress => (flow.remote, flow.remote_port),
            });
        Self {
            vif: flow.vif,
            direction: flow.direction,
            protocol: flow.protocol,
            local: (flow.local, flow.local_port),
            remote,
        }
    }

    fn packet(&self) -> Packet {
        let (source_port, destination_port) = match self.direction {
            Direction::Egress => (self.local.1, self.remote.1),
            Direction::Ingress => (self.remote.1, self.local.1),
        };
        let (source_port, destination_port) = match self.protocol {
            // Echo: only requests open anything. Its identifier is no port.
            1 => (0, 8 << 8),
            58 => (0, 128 << 8),
            _ => (source_port, destination_port),
        };
        Packet {
            remote: self.remote.0,
            local: self.local.0,
            protocol: self.protocol,
            source_port,
            destination_port,
        }
    }
}

/// Whether what is staged decides otherwise about a connection, and by which rule.
fn difference(policy: &Policy, connection: &Connection, remote: &Attributes) -> Option<Cause> {
    let packet = connection.packet();
    let direction = connection.direction;
    let staged = evaluate_staged(policy, direction, remote, &packet)?;
    let now = evaluate(policy, direction, remote, &packet);
    (staged.pass != now.pass).then_some(Cause {
        rule: staged.rule,
        would_deny: now.pass,
        direction,
    })
}

impl Staged {
    /// True while nothing is staged at any port of the node, and then all is forgotten.
    pub fn is_idle(&mut self, core: &Core) -> bool {
        let idle = core.staged_ports().next().is_none();
        if idle && !(self.totals.is_empty() && self.seen.is_empty()) {
            *self = Self::default();
        }
        idle
    }

    /// Looks at the connections that are there.
    pub fn look(&mut self, core: &Core, flows: &[Flow], at: SystemTime) {
        let ports: BTreeMap<u32, (Uuid, &Arc<Policy>)> =
            core.staged_ports().map(|(label, uuid, policy)| (label, (uuid, policy))).collect();
        // A rule that is gone tells nothing any more.
        let rules: HashSet<Uuid> = ports
            .values()
            .flat_map(|(_, policy)| &policy.staged)
            .flat_map(|layer| layer.egress.iter().chain(&layer.ingress))
            .map(|rule| rule.id)
            .collect();
        self.totals.retain(|cause, _| cause.rule.is_none_or(|rule| rules.contains(&rule)));
        let before = std::mem::take(&mut self.seen);
        for flow in flows {
            let Some((port, policy)) = ports.get(&flow.vif) else { continue };
            let connection = Connection::of(flow);
            let known = before.get(&connection).is_some_and(|known| Arc::ptr_eq(known, policy));
            if !known {
                let remote = core.identity(flow.identity).map(|identity| &identity.attributes);
                let nobody = Attributes::default();
                let cause = difference(policy, &connection, remote.unwrap_or(&nobody));
                if let Some(cause) = cause {
                    self.count(Sample { at, port: *port, connection, cause });
                }
            }
            self.seen.insert(connection, (*policy).clone());
        }
    }

    /// Takes a sample of a refused packet.
    pub fn refused(&mut self, core: &Core, event: &Event, at: SystemTime) {
        if event.reason != DropReason::PolicyDeny {
            return;
        }
        let found = core.staged_ports().find(|(label, _, _)| *label == event.vif);
        let Some((_, port, policy)) = found else { return };
        let connection = Connection {
            vif: event.vif,
            direction: event.direction,
            protocol: event.protocol,
            local: (event.local, event.local_port),
            remote: (event.remote, event.remote_port),
        };
        if self.refused.len() >= REFUSED {
            self.refused.clear();
        }
        if !self.refused.insert(connection) {
            return;
        }
        let remote = core.remote_of(port, event.remote);
        if let Some(cause) = difference(policy, &connection, &remote) {
            self.count(Sample { at, port, connection, cause });
        }
    }

    fn count(&mut self, sample: Sample) {
        let total = self.totals.entry(sample.cause).or_default();
        total.0 += 1;
        total.1 = Some(sample.clone());
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
    }

    /// Connections by what decides about them, with the last one.
    pub fn totals(&self) -> impl Iterator<Item = (&Cause, u64, Option<&Sample>)> {
        self.totals.iter().map(|(cause, (count, last))| (cause, *count, last.as_ref()))
    }

    /// Samples, the newest first.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter().rev()
    }
}

/// A connection in one line, from who opens it to who is asked.
#[must_use]
pub(crate) fn line(connection: &Connection) -> String {
    let protocol = match connection.protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmp6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    };
    let (from, to) = match connection.direction {
        Direction::Egress => (connection.local, connection.remote),
        Direction::Ingress => (connection.remote, connection.local),
    };
    match connection.protocol {
        6 | 17 | 132 => format!("{} -> {} {protocol} {}", from.0, to.0, to.1),
        _ => format!("{} -> {} {protocol}", from.0, to.0),
    }
}

impl Core {
    /// Ports whose policy has something staged: label, port, policy.
    pub fn staged_ports(&self) -> impl Iterator<Item = (u32, Uuid, &Arc<Policy>)> {
        let staged = self.judging().filter(|(_, policy)| !policy.staged.is_empty());
        staged.filter_map(|(uuid, policy)| {
            let entries = &self.in_force().interfaces;
            let entry = entries.values().find(|entry| entry.uuid == uuid)?;
            Some((entry.label, uuid, policy))
        })
    }

    /// Who an address is, to a port.
    fn remote_of(&self, port: Uuid, address: IpAddr) -> Attributes {
        let entry = self.in_force().interfaces.values().find(|entry| entry.uuid == port);
        let route = entry.and_then(|entry| self.lookup(entry.vrf, address));
        route.map_or_else(Attributes::default, |(_, route)| self.attributes(&route))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skein_policy::{Layer, Peer, Rule, RuleAction};

    fn layer(rules: Vec<Rule>) -> Layer {
        Layer { name: "firewall".into(), ingress: rules, egress: vec![], default_pass: true }
    }

    fn rule(action: RuleAction, port: u16) -> Rule {
        Rule {
            id: Uuid::new_v4(),
            action,
            remotes: vec![Peer::Tags(vec![7])],
            protocol: Some(6),
            destination_ports: vec![port..=port],
            ..Rule::default()
        }
    }

    #[test]
    fn only_what_would_be_judged_otherwise_is_told() {
        let (now, then) = (rule(RuleAction::Deny, 80), rule(RuleAction::Deny, 81));
        let policy =
            Policy { layers: vec![layer(vec![now])], staged: vec![layer(vec![then.clone()])] };
        let tagged = Attributes { tags: vec![7], ..Attributes::default() };
        let at = |port| Connection {
            vif: 1,
            direction: Direction::Ingress,
            protocol: 6,
            local: ([10, 0, 0, 1].into(), port),
            remote: ([10, 0, 0, 2].into(), 40_000),
        };
        let told = |port, who: &Attributes| difference(&policy, &at(port), who);
        let cause = Cause { rule: Some(then.id), would_deny: true, direction: Direction::Ingress };
        assert_eq!(told(81, &tagged), Some(cause));
        // It would not be refused any more: no rule says so, the end of the list passes.
        let opened = Cause { rule: None, would_deny: false, ..cause };
        assert_eq!(told(80, &tagged), Some(opened));
        assert_eq!(told(82, &tagged), None);
        assert_eq!(told(81, &Attributes::default()), None);
        let nothing = Policy { staged: vec![], ..policy.clone() };
        assert_eq!(difference(&nothing, &at(81), &tagged), None);
        assert_eq!(line(&at(81)), "10.0.0.2 -> 10.0.0.1 tcp 81");
    }
}
