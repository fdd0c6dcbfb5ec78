//! Names: what the node's server is told, and services that lead to it.

use super::wire::{interface, policy, records, uuid, vrf, zone};
use super::{Event, OWN, core, feed};
use crate::state::core::{Core, DnsChanges, PortProblem};
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet};

/// What the node's server has, from changes alone.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Server {
    pub(super) zones: BTreeMap<String, wire::DnsZone>,
    pub(super) records: BTreeMap<String, wire::DnsRecordSet>,
    pub(super) told: DnsChanges,
}

impl Server {
    pub(super) fn apply(&mut self, core: &mut Core) {
        let Some(mut changes) = core.take_dns() else { return };
        if changes.reset {
            self.zones.clear();
            self.records.clear();
        }
        self.zones.extend(changes.zones.drain(..).map(|zone| (zone.id.clone(), zone)));
        self.records.extend(changes.records.drain(..).map(|set| (set.id.clone(), set)));
        changes.zones_removed.drain(..).for_each(|id| drop(self.zones.remove(&id)));
        changes.records_removed.drain(..).for_each(|id| drop(self.records.remove(&id)));
        self.told = DnsChanges { reset: false, ..changes };
    }
}

/// A node with the port of its own stack, a network that asks a zone, and a service that leads to the node's DNS.
fn asking() -> (Core, wire::Intent) {
    let intent = wire::Intent {
        vrfs: vec![vrf(1, 2 | 128), vrf(2, 2)],
        policies: vec![policy(0, 0)],
        interfaces: vec![interface(5, 2, 0, 0), interface(1, 1, 0, 0)],
        services: vec![wire::Service {
            id: "kube-dns".into(),
            vrf: "vrf1".into(),
            address: "10.96.0.10".into(),
            protocol: 17,
            port: 53,
            members: vec![
                wire::Member {
                    address: OWN.into(),
                    port: 8080,
                    interface: uuid(5).to_string(),
                    node: "here".into(),
                    draining: false,
                    ..wire::Member::default()
                },
                wire::Member {
                    address: "172.31.0.2".into(),
                    port: 8080,
                    interface: uuid(9).to_string(),
                    node: "there".into(),
                    draining: false,
                    ..wire::Member::default()
                },
            ],
            internal_local: true,
            ..wire::Service::default()
        }],
        dns_zones: vec![zone(0, 5)],
        dns_records: vec![records(0, 0)],
        end_of_snapshot: true,
        ..wire::Intent::default()
    };
    let mut core = core();
    core.connected(0);
    core.intent(0, intent.clone());
    for port in [5, 1] {
        feed(&mut core, &Event::Bind(port));
    }
    for operation in core.operations() {
        core.applied(&operation);
    }
    (core, intent)
}

#[test]
fn a_service_of_the_nodes_dns_leads_to_the_view_of_its_network() {
    let (mut core, intent) = asking();
    let vrfs = core.vrf_names();
    let number = *vrfs.iter().find(|(_, name)| **name == "vrf1").unwrap().0;
    let view = 16_000 + u16::try_from(number).unwrap();
    let entry = &core.wanted().services[&(number, "10.96.0.10".parse().unwrap(), 17, 53)];
    let members: Vec<_> = entry.members.iter().copied().collect();
    assert_eq!(
        members,
        [(OWN.parse().unwrap(), view, false)],
        "only its own node, at the view's port"
    );
    assert!(entry.open, "whatever policy the client has");
    // The DNS address of the network's own subnet leads there, too, by an address that reaches no other port.
    for protocol in [6, 17] {
        let entry = &core.wanted().services[&(number, "10.0.0.253".parse().unwrap(), protocol, 53)];
        assert!(entry.open && entry.member_vrf == number);
        let [(link, port, _)] = entry.members.iter().collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!((link.to_string().as_str(), *port), ("169.254.0.53", view));
        let mut contexts = core.wanted().contexts.values();
        let context =
            contexts.find(|c| c.floating.as_ref().is_some_and(|f| f.address == *link)).unwrap();
        let ports = &context.floating.as_ref().unwrap().ports;
        assert_eq!(
            (context.vrf, context.ifindex),
            (
                number,
                core.wanted().interfaces.iter().find(|(_, e)| e.host).map(|(i, _)| *i).unwrap()
            )
        );
        assert_eq!(ports.iter().copied().collect::<Vec<_>>(), [(6, view, view), (17, view, view)]);
    }
    // Nobody else is told of that address.
    assert!(core.local_routes().iter().all(|route| !route.prefix.starts_with("169.254.")));
    let mut server = Server::default();
    server.apply(&mut core);
    assert_eq!((server.zones.len(), server.records.len()), (1, 1));
    assert_eq!(server.told.views["vrf1"].port, view);
    assert_eq!(
        server.told.own,
        BTreeSet::from(["10.96.0.10".parse().unwrap(), "10.0.0.253".parse().unwrap()])
    );
    // A record that changes is a record that is told, and no work for the kernel.
    let changed = wire::Intent {
        dns_records: vec![records(1, 0)],
        revision: intent.revision,
        ..wire::Intent::default()
    };
    core.intent(0, changed);
    assert_eq!(core.operations(), []);
    let changes = core.take_dns().unwrap();
    assert_eq!((changes.reset, changes.zones.len(), changes.records.len()), (false, 0, 1));
    assert_eq!(core.take_dns(), None);
}

#[test]
fn a_workload_waits_until_its_names_are_answered() {
    let (mut core, _) = asking();
    let heard = |views: &[&str]| views.iter().map(|view| (*view).to_owned()).collect();
    assert_eq!(core.port_problem(uuid(1)), None, "it forwards");
    let complete = vec!["vrf1".into(), "vrf2".into()];
    core.routes(0, &wire::Routes { end_of_rib: complete, ..wire::Routes::default() });
    let silent = core.names_problem(uuid(1), &heard(&[]));
    assert_eq!(silent, Some(PortProblem::NoNames("vrf1".into())));
    // The node's own stack answers whom it knows a way to.
    let unknown = core.names_problem(uuid(1), &heard(&["vrf1"]));
    assert_eq!(unknown, Some(PortProblem::NotAnnounced));
    let reach = core
        .local_routes()
        .into_iter()
        .filter(|route| route.interface == uuid(1).to_string())
        .map(|route| wire::Route {
            vrf: route.vrf,
            prefix: route.prefix,
            paths: vec![wire::Path {
                next_hop: OWN.into(),
                label: route.label,
                ..wire::Path::default()
            }],
        })
        .collect();
    core.routes(0, &wire::Routes { reach, ..wire::Routes::default() });
    core.operations();
    assert_eq!(core.names_problem(uuid(1), &heard(&["vrf1"])), None);
    // Who asks others does not wait, nor does the node's own stack.
    assert_eq!(core.names_problem(uuid(5), &heard(&[])), None);
    core.disconnected(0);
    assert_eq!(core.names_problem(uuid(1), &heard(&["vrf1"])), None, "nobody could tell");
}

#[test]
fn names_are_answered_after_a_restart_without_a_controller() {
    let (core, _) = asking();
    let (intent, routes) = core.saved();
    let mut after = self::core();
    after.load(intent, &routes);
    after.operations();
    let mut server = Server::default();
    server.apply(&mut after);
    assert_eq!((server.zones.len(), server.records.len(), server.told.views.len()), (1, 1, 1));
}
