//! What nodes are asked about a connection, and what they should answer.

use super::super::nodes::{Expected, Inquiry};
use super::{Asker, SOURCE_PORT, Target, VerdictView, Way};
use skein_compiler::{Distribution, Interface, Member, Service};
use skein_policy::Packet;
use skein_proto::session::Look;
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Asker<'_> {
    /// What the asker's node is asked of a service.
    pub(super) fn look_at_service<'s>(
        &self,
        service: &Service,
        chosen: impl Iterator<Item = &'s Member>,
    ) -> Option<Inquiry> {
        let own = self.source.addresses.iter().map(|address| address.prefix.addr());
        let own = own.into_iter().find(|own| own.is_ipv4() == service.address.is_ipv4())?;
        let look = Look {
            interface: self.source.uuid.to_string(),
            local: own.to_string(),
            remote: service.address.to_string(),
            protocol: service.protocol.into(),
            source_port: SOURCE_PORT.into(),
            destination_port: service.port.into(),
            ..Look::default()
        };
        let is_hinted =
            |member: &Member| !member.hint_zones.is_empty() || !member.hint_nodes.is_empty();
        let all = service.distribution == Distribution::default()
            && !service.members.iter().any(is_hinted);
        let members = chosen.map(|member| (member.address, member.port)).collect();
        let expected = Expected::Service { members, all };
        Some(Inquiry { node: self.source.host.clone()?, look, expected })
    }

    /// What the two nodes are asked of a way.
    pub(super) fn look_at_way(
        &self,
        way: &Way,
        target: &Target<'_>,
        packet: &Packet,
    ) -> Vec<Inquiry> {
        // A member of a service is looked for where the service lives.
        let vrf = if target.vrf == self.vrf.name { "" } else { target.vrf };
        let look = |port: &Interface, arriving: bool, vrf: &str| {
            let (local, remote) = match arriving {
                false => (packet.local, packet.remote),
                true => (packet.remote, packet.local),
            };
            Look {
                id: 0,
                interface: port.uuid.to_string(),
                arriving,
                vrf: vrf.to_owned(),
                local: local.to_string(),
                remote: remote.to_string(),
                protocol: packet.protocol.into(),
                source_port: packet.source_port.into(),
                destination_port: packet.destination_port.into(),
            }
        };
        let passes = |verdict: &Option<VerdictView>| verdict.as_ref().is_none_or(|v| v.pass);
        let mut all = Vec::new();
        if let Some(node) = &self.source.host {
            let expected = Expected::Way {
                route: way.route.there,
                next_hops: self.next_hops(target),
                pass: passes(&way.egress),
            };
            let look = look(self.source, false, vrf);
            all.push(Inquiry { node: node.clone(), look, expected });
        }
        let by_own_host = |port: &Interface| self.source.is_host && self.source.host == port.host;
        if let Some(port) = target.interface.filter(|port| !by_own_host(port))
            && let Some(node) = &port.host
        {
            let vrf = if port.vrf == target.vrf { "" } else { vrf };
            // Where there is no way there, there may be none back.
            let expected = Expected::Way {
                route: way.route.there,
                next_hops: BTreeSet::new(),
                pass: passes(&way.ingress),
            };
            all.push(Inquiry { node: node.clone(), look: look(port, true, vrf), expected });
        }
        all
    }

    /// Nodes that have the longest prefix of an address.
    fn next_hops(&self, target: &Target<'_>) -> BTreeSet<IpAddr> {
        let rib = self.core.rib();
        let best = self.longest(target).map(|prefix| rib.best(target.vrf, prefix));
        best.into_iter().flatten().map(|(_, path)| path.next_hop).collect()
    }
}
