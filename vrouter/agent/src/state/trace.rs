//! What would happen to a packet a workload sends: the same walk the kernel makes, over what it holds, with
//! the reference evaluator for policy.

use super::core::Core;
use super::tables::{InterfaceEntry, NextHop, PolicyState, RouteEntry};
use ipnet::IpNet;
use serde::Serialize;
use skein_policy::{Attributes, Direction, Packet, evaluate};
use std::net::IpAddr;

/// A packet to follow.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Host end it comes in by.
    pub ifindex: u32,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port; ICMP: `type << 8 | code`.
    pub destination_port: u16,
}

/// One step of the walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Where: `interface`, `source`, `route`, `egress policy`, `ingress policy`, `next hop`.
    pub at: &'static str,
    /// What was found.
    pub found: String,
}

/// The whole walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// True when the packet leaves towards its destination, or is answered here.
    pub passes: bool,
    /// In order; the last one decided.
    pub steps: Vec<Step>,
}

impl Trace {
    fn step(&mut self, at: &'static str, found: impl Into<String>) {
        self.steps.push(Step { at, found: found.into() });
    }
}

impl Core {
    /// Follows the opening packet of a connection from a workload of this node.
    #[must_use]
    pub fn trace(&self, question: &Question) -> Trace {
        let mut trace = Trace { passes: false, steps: Vec::new() };
        trace.passes = self.walk(question, &mut trace).is_some();
        trace
    }

    fn walk(&self, question: &Question, trace: &mut Trace) -> Option<()> {
        let entry = self.in_force().interfaces.get(&question.ifindex);
        let Some(entry) = entry else {
            trace.step("interface", "it has no entry: everything drops");
            return None;
        };
        let names = self.vrf_names();
        let vrf = names.get(&entry.vrf).copied().unwrap_or("unknown");
        trace.step("interface", format!("label {}, VRF {vrf}", entry.label));
        let gateway = [entry.gateway4.map(IpAddr::from), entry.gateway6.map(IpAddr::from)];
        if gateway.contains(&Some(question.destination)) {
            trace.step("interface", "the destination is the gateway: answered here");
            return Some(());
        }
        let own = self.lookup(entry.vrf, question.source);
        let is_local = |route: &RouteEntry| {
            match self.in_force().next_hops.get(&route.next_hop) {
            Some(NextHop::Local { ifindex, .. }) => *ifindex == question.ifindex,
            Some(NextHop::Ecmp { members }) => members.iter().any(|member| {
                let member = self.in_force().next_hops.get(member);
                matches!(member, Some(NextHop::Local { ifindex, .. }) if *ifindex == question.ifindex)
            }),
            _ => false,
        }
        };
        let checked = entry.policy != PolicyState::Disabled;
        match &own {
            Some((prefix, route)) if is_local(route) => {
                trace.step("source", format!("{prefix} leads back to this interface"));
            }
            _ if checked => {
                trace.step("source", "the address is not this interface's: dropped");
                return None;
            }
            _ => trace.step("source", "not checked: port security is off"),
        }
        let Some((prefix, route)) = self.lookup(entry.vrf, question.destination) else {
            trace.step("route", "nothing covers the destination: dropped");
            return None;
        };
        let remote = self.attributes(&route);
        trace.step("route", format!("{prefix}, network {}", remote.network));
        // What goes to a service is judged as what it becomes there.
        let hop = self.in_force().next_hops.get(&route.next_hop);
        if !matches!(hop, Some(NextHop::Service { .. })) {
            self.judge("egress policy", Direction::Egress, entry, &remote, question, trace)?;
        }
        self.deliver(&route, question, &own, trace)
    }

    fn deliver(
        &self,
        route: &RouteEntry,
        question: &Question,
        source: &Option<(IpNet, RouteEntry)>,
        trace: &mut Trace,
    ) -> Option<()> {
        if route.next_hop == 0 {
            trace.step("next hop", "closed: in the underlay only what is routed is reached");
            return None;
        }
        match self.in_force().next_hops.get(&route.next_hop) {
            None | Some(NextHop::Discard) => {
                trace.step("next hop", "not in the kernel: dropped");
                None
            }
            Some(
                away @ (NextHop::Tunnel { .. }
                | NextHop::Ecmp { .. }
                | NextHop::Outside
                | NextHop::Native { .. }),
            ) => {
                trace.step("next hop", away.to_string());
                Some(())
            }
            Some(NextHop::Service { vrf }) => {
                let key =
                    (*vrf, question.destination, question.protocol, question.destination_port);
                let Some(service) = self.in_force().services.get(&key) else {
                    trace.step("next hop", "no service has this port: refused");
                    return None;
                };
                let members: Vec<String> = service
                    .members
                    .iter()
                    .map(|(address, port, _)| format!("{address} {port}"))
                    .collect();
                if members.is_empty() {
                    trace.step("next hop", "the service has no member: refused");
                    return None;
                }
                // Policy judges what it becomes; which member that is, the connection's hash says.
                trace
                    .step("next hop", format!("a service's member, one of {}", members.join(", ")));
                Some(())
            }
            Some(here @ NextHop::Local { ifindex, .. }) => {
                trace.step("next hop", here.to_string());
                let Some(entry) = self.in_force().interfaces.get(ifindex) else {
                    trace.step("next hop", "it has no entry: dropped");
                    return None;
                };
                // The receiver knows the sender by the route of its own VRF.
                let known = self.lookup(entry.vrf, question.source).or(*source);
                let remote = known.map_or_else(Attributes::default, |(_, r)| self.attributes(&r));
                self.judge("ingress policy", Direction::Ingress, entry, &remote, question, trace)
            }
        }
    }

    fn judge(
        &self,
        at: &'static str,
        direction: Direction,
        entry: &InterfaceEntry,
        remote: &Attributes,
        question: &Question,
        trace: &mut Trace,
    ) -> Option<()> {
        if entry.policy == PolicyState::Disabled {
            trace.step(at, "port security is off: passes");
            return Some(());
        }
        let Some(policy) = self.policy_of(entry.uuid) else {
            trace.step(at, "no policy is known: dropped");
            return None;
        };
        let (local, other) = match direction {
            Direction::Egress => (question.source, question.destination),
            Direction::Ingress => (question.destination, question.source),
        };
        let packet = Packet {
            remote: other,
            local,
            protocol: question.protocol,
            source_port: question.source_port,
            destination_port: question.destination_port,
        };
        let verdict = evaluate(policy, direction, remote, &packet);
        let layer = verdict.layer.and_then(|index| policy.layers.get(index));
        let layer = layer.map_or("no layer", |layer| &layer.name);
        let by = verdict.rule.map_or_else(|| "its default".into(), |rule| format!("rule {rule}"));
        let word = if verdict.pass { "passes" } else { "dropped" };
        trace.step(at, format!("{layer}, {by}: {word}"));
        verdict.pass.then_some(())
    }

    pub(super) fn attributes(&self, route: &RouteEntry) -> Attributes {
        self.identity(route.identity)
            .map(|identity| identity.attributes.clone())
            .unwrap_or_default()
    }

    pub(crate) fn lookup(&self, vrf: u32, address: IpAddr) -> Option<(IpNet, RouteEntry)> {
        let routes = &self.in_force().routes;
        std::iter::successors(Some(IpNet::from(address)), IpNet::supernet)
            .find_map(|prefix| Some((prefix, *routes.get(&(vrf, prefix))?)))
    }
}
