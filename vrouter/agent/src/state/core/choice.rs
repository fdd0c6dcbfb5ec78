//! Which members of a service the clients of this node get.

use super::Core;
use crate::state::spec::{MemberSpec, ServiceSpec};
use skein_proto::session::Distribution;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// IP protocol number.
const UDP: u8 = 17;

impl Core {
    /// Members with whether each is left to the connections it has. `only`: those of this node.
    pub(super) fn choose(
        &self,
        service: &ServiceSpec,
        only: Option<&str>,
    ) -> BTreeSet<(IpAddr, u16, bool)> {
        let usable = || service.members.iter().filter(|m| only.is_none_or(|node| m.node == node));
        let ready: Vec<&MemberSpec> = usable().filter(|member| !member.draining).collect();
        let preferred =
            if only.is_some() { ready } else { self.preferred(service.distribution, ready) };
        // When all are on their way out, they are what there is.
        let some = !preferred.is_empty();
        // UDP has no connections to end in peace: whoever asks one on its way out would find out by silence that it is gone.
        let stays = |one: &&MemberSpec| !(some && one.draining && service.protocol == UDP);
        usable()
            .filter(stays)
            .map(|one| {
                let chosen = preferred.iter().any(|member| std::ptr::eq(*member, one));
                (one.address, self.member_port(service, one), some && !chosen)
            })
            .collect()
    }

    /// Of ready members those that this node's clients should use: by hints, if all have some, else by distribution.
    fn preferred<'a>(
        &self,
        distribution: Distribution,
        ready: Vec<&'a MemberSpec>,
    ) -> Vec<&'a MemberSpec> {
        let zone = self.nodes.get(&self.node).map(|node| node.zone.as_str()).unwrap_or_default();
        let narrowed = |fits: &dyn Fn(&MemberSpec) -> bool| -> Option<Vec<&'a MemberSpec>> {
            let those: Vec<_> = ready.iter().copied().filter(|member| fits(member)).collect();
            (!those.is_empty()).then_some(those)
        };
        let all = |has: fn(&MemberSpec) -> bool| ready.iter().all(|member| has(member));
        let here = |member: &MemberSpec| member.node == self.node;
        let near = |member: &MemberSpec| !zone.is_empty() && member.zone == zone;
        let mut found = None;
        if all(|member| !member.hint_nodes.is_empty()) {
            found = narrowed(&|member| member.hint_nodes.contains(&self.node));
        }
        if found.is_none() && !zone.is_empty() && all(|member| !member.hint_zones.is_empty()) {
            found = narrowed(&|member| member.hint_zones.iter().any(|hint| hint == zone));
        }
        if found.is_none() && distribution == Distribution::SameNode {
            found = narrowed(&here);
        }
        if found.is_none() && distribution != Distribution::Any {
            found = narrowed(&near);
        }
        found.unwrap_or(ready)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by panicking")]
mod tests {
    use crate::state::tables::{INSIDE, OUTSIDE, ServiceEntry};
    use crate::state::{Core, Numbers};
    use skein_proto::session as wire;
    use skein_proto::session::Distribution;
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    const HOME: &str = "home";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A node `home` in the zone east, with others beside it.
    fn core(service: wire::Service) -> Core {
        let mut core =
            Core::new(1, Some(address("192.0.2.1")), Numbers::default(), 1000).named(HOME);
        let node = |name: &str, at: &str, zone: &str| wire::NodeFacts {
            name: name.into(),
            addresses: vec![at.into()],
            zone: zone.into(),
        };
        let vrf = wire::Vrf {
            name: "services".into(),
            service_vrfs: vec!["services".into()],
            ..wire::Vrf::default()
        };
        let intent = wire::Intent {
            global: Some(wire::Global {
                nodes: vec![
                    node(HOME, "192.0.2.1", "east"),
                    node("near", "192.0.2.2", "east"),
                    node("far", "192.0.2.3", "west"),
                ],
                ..wire::Global::default()
            }),
            vrfs: vec![vrf],
            services: vec![service],
            end_of_snapshot: true,
            ..wire::Intent::default()
        };
        core.connected(0);
        core.intent(0, intent);
        core.operations();
        core
    }

    fn member(last: u8, node: &str, zone: &str) -> wire::Member {
        wire::Member {
            address: format!("10.0.0.{last}"),
            port: 80,
            interface: uuid::Uuid::from_u128(last.into()).to_string(),
            node: node.into(),
            zone: zone.into(),
            ..wire::Member::default()
        }
    }

    fn service(members: Vec<wire::Member>) -> wire::Service {
        wire::Service {
            id: "one".into(),
            vrf: "services".into(),
            address: "10.96.0.1".into(),
            protocol: 6,
            port: 80,
            node_port: 30_080,
            members,
            ..wire::Service::default()
        }
    }

    /// Members that take new connections, and those that keep what they have.
    fn split(entry: &ServiceEntry) -> (Vec<u8>, Vec<u8>) {
        let last = |address: &IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let of = |wanted: bool| {
            let those = entry.members.iter().filter(move |(.., left)| *left == wanted);
            those.map(|(address, ..)| last(address)).collect()
        };
        (of(false), of(true))
    }

    fn chosen(service: wire::Service) -> (Vec<u8>, Vec<u8>) {
        let core = core(service);
        let mut entries = core.wanted().services.iter();
        let (_, entry) = entries.find(|(key, _)| key.1 == address("10.96.0.1")).unwrap();
        split(entry)
    }

    fn three() -> Vec<wire::Member> {
        vec![member(1, HOME, "east"), member(2, "near", "east"), member(3, "far", "west")]
    }

    #[test]
    fn hints_then_distribution_narrow_the_choice_while_something_is_left() {
        assert_eq!(chosen(service(three())), (vec![1, 2, 3], vec![]));
        let with = |distribution: Distribution, members| wire::Service {
            distribution: distribution.into(),
            ..service(members)
        };
        let (zone, node) = (Distribution::SameZone, Distribution::SameNode);
        assert_eq!(chosen(with(zone, three())), (vec![1, 2], vec![3]));
        assert_eq!(chosen(with(node, three())), (vec![1], vec![2, 3]));
        assert_eq!(chosen(with(node, three()[1..].to_vec())), (vec![2], vec![3]), "then the zone");
        assert_eq!(chosen(with(zone, three()[2..].to_vec())), (vec![3], vec![]), "then anyone");
        let hinted = |zones: [&str; 3]| {
            let mut members = three();
            for (member, zone) in members.iter_mut().zip(zones) {
                member.hint_zones.extend((!zone.is_empty()).then(|| zone.to_owned()));
            }
            members
        };
        let hints = hinted(["west", "east", "west"]);
        assert_eq!(chosen(with(zone, hints)), (vec![2], vec![1, 3]), "hints say otherwise");
        let hints = hinted(["west", "east", ""]);
        assert_eq!(
            chosen(service(hints)),
            (vec![1, 2, 3], vec![]),
            "one has none: they do not count"
        );
        let hints = hinted(["west", "west", "west"]);
        assert_eq!(chosen(service(hints)), (vec![1, 2, 3], vec![]), "none is for here");
        let mut hints = hinted(["east", "east", "east"]);
        hints.iter_mut().for_each(|member| member.hint_nodes.push("far".into()));
        hints[2].hint_nodes.push(HOME.into());
        assert_eq!(chosen(service(hints)), (vec![3], vec![1, 2]), "nodes before zones");
        // Who is leaving serves only when nobody else is left, whatever the zone.
        let mut leaving = three();
        leaving[0].draining = true;
        leaving[1].draining = true;
        assert_eq!(chosen(with(zone, leaving.clone())), (vec![3], vec![1, 2]));
        leaving[2].draining = true;
        assert_eq!(chosen(with(zone, leaving)), (vec![1, 2, 3], vec![]));
    }

    #[test]
    fn datagrams_move_on_as_soon_as_their_member_is_leaving() {
        let of = |protocol, leaving: usize| {
            let mut members = three();
            members.iter_mut().take(leaving).for_each(|member| member.draining = true);
            chosen(wire::Service { protocol, ..service(members) })
        };
        assert_eq!(of(6, 1), (vec![2, 3], vec![1]));
        assert_eq!(of(17, 1), (vec![2, 3], vec![]));
        assert_eq!(of(17, 3), (vec![1, 2, 3], vec![]), "nobody else is left");
        // A choice by zone is no reason to move.
        let near = wire::Service {
            protocol: 17,
            distribution: Distribution::SameZone.into(),
            ..service(three())
        };
        assert_eq!(chosen(near), (vec![1, 2], vec![3]));
    }

    fn places(core: &Core) -> BTreeMap<(u32, String, u16), (Vec<u8>, bool)> {
        let entries = core.wanted().services.iter();
        entries
            .map(|((vrf, at, _, port), entry)| {
                ((*vrf, at.to_string(), *port), (split(entry).0, entry.by_node))
            })
            .collect()
    }

    #[test]
    fn node_ports_are_at_every_node_and_with_the_policy_local_each_has_its_own() {
        let any = "0.0.0.0".to_owned();
        let core = core(service(three()));
        let all = places(&core);
        let everyone = (vec![1, 2, 3], false);
        assert_eq!(all[&(OUTSIDE, any.clone(), 30_080)], everyone);
        assert_eq!(all[&(INSIDE, any.clone(), 30_080)], everyone);
        assert_eq!(all.len(), 3, "{all:?}");
        let nodes = &core.wanted().node_addresses;
        let own: BTreeSet<_> = nodes.iter().filter(|(_, own)| **own).map(|(a, _)| *a).collect();
        assert_eq!((own, nodes.len()), ([address("192.0.2.1")].into(), 3));

        let local = wire::Service { external_local: true, ..service(three()) };
        let core = self::core(local);
        let all = places(&core);
        assert_eq!(all[&(OUTSIDE, any.clone(), 30_080)], (vec![1], false));
        assert_eq!(all[&(INSIDE, any, 30_080)], (vec![1, 2, 3], true));
        assert_eq!(all[&(INSIDE, "192.0.2.2".into(), 30_080)], (vec![2], false));
        assert_eq!(all[&(INSIDE, "192.0.2.3".into(), 30_080)], (vec![3], false));
    }

    #[test]
    fn a_port_of_a_node_is_at_its_addresses_alone() {
        let port = |node: &str, at: &str| wire::Service {
            address: at.into(),
            node: node.into(),
            node_port: 0,
            ..service(vec![member(1, node, "east")])
        };
        let of = |service| {
            let core = core(service);
            places(&core).into_iter().map(|((vrf, at, _), (_, alone))| (vrf, at, alone)).collect()
        };
        let place = |vrf, at: &str, alone| (vrf, at.to_owned(), alone);
        let all: Vec<_> = of(port(HOME, "0.0.0.0"));
        assert_eq!(all, [place(OUTSIDE, "0.0.0.0", false), place(INSIDE, "0.0.0.0", true)]);
        let all: Vec<_> = of(port(HOME, "127.0.0.1"));
        assert_eq!(all, [place(INSIDE, "127.0.0.1", false)], "nobody outside can mean it");
        let all: Vec<_> = of(port("far", "0.0.0.0"));
        assert_eq!(all, [place(INSIDE, "192.0.2.3", false)]);
        let all: Vec<_> = of(port("far", "127.0.0.1"));
        assert_eq!(all, []);
    }

    #[test]
    fn health_checks_count_members_of_this_node_that_take_connections() {
        let mut leaving = member(4, HOME, "east");
        leaving.draining = true;
        let mut members = three();
        members.push(leaving);
        let checked = wire::Service {
            health_check_port: 30_099,
            name: "shop/web:http".into(),
            ..service(members)
        };
        let checks = core(checked).health_checks();
        assert_eq!(checks.len(), 1);
        assert_eq!(checks[&30_099].service, "shop/web");
        assert_eq!(checks[&30_099].members, [address("10.0.0.1")].into());
    }
}
