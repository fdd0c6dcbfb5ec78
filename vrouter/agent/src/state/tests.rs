//! Random event sequences: the incremental result equals a compile from nothing, and the operations
//! keep every moment consistent.

use super::core::{Core, DnsChanges, DnsPorts, LocalPort};
use super::diff::Operation;
use super::numbers::Numbers;
use super::tables::{NextHop, PolicyState, Tables};
use proptest::prelude::*;
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use uuid::Uuid;

const OWN: &str = "172.31.0.1";
const DNS: DnsPorts = DnsPorts { named: 8080, first: 16_000 };

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few live at a time")]
enum Event {
    Connect(usize),
    Disconnect(usize),
    Intent(usize, wire::Intent),
    Routes(usize, wire::Routes),
    Bind(u8),
    Unbind(u8),
    /// Operations are taken and all applied; the flag lets the last third of them fail.
    Apply(bool),
}

fn uuid(port: u8) -> Uuid {
    Uuid::from_u128(u128::from(port) + 1)
}

/// The same number means the same VRF but for the low bits of `uses`: whose services, and the way outside.
fn vrf(number: u8, uses: u8) -> wire::Vrf {
    let usable = (0..3).filter(|other| uses & (1 << other) != 0);
    wire::Vrf {
        name: format!("vrf{number}"),
        network_id: u32::from(number),
        service_vrfs: usable.map(|other| format!("vrf{other}")).collect(),
        fabric_snat: uses & 8 != 0,
        link_local: uses & 16 != 0,
        underlay: uses & 64 != 0,
        closed_prefixes: if uses & 32 != 0 { vec!["10.0.0.0/29".into()] } else { vec![] },
        dns_zone: if uses & 128 != 0 { "zone0".into() } else { String::new() },
        subnets: vec![wire::Subnet {
            prefix: "10.0.0.0/24".into(),
            service_address: if number == 0 { String::new() } else { "10.0.0.253".into() },
            ..wire::Subnet::default()
        }],
        ..wire::Vrf::default()
    }
}

fn zone(number: u8, version: u8) -> wire::DnsZone {
    wire::DnsZone {
        id: format!("zone{number}"),
        domain: "a.example".into(),
        default_ttl: version.into(),
        ..wire::DnsZone::default()
    }
}

fn records(number: u8, zone: u8) -> wire::DnsRecordSet {
    wire::DnsRecordSet {
        id: format!("set{number}"),
        zone: format!("zone{zone}"),
        ..wire::DnsRecordSet::default()
    }
}

/// What the node's server has, from changes alone.
#[derive(Debug, Default, PartialEq)]
struct Server {
    zones: BTreeMap<String, wire::DnsZone>,
    records: BTreeMap<String, wire::DnsRecordSet>,
    told: DnsChanges,
}

impl Server {
    fn apply(&mut self, core: &mut Core) {
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

fn service(number: u8, vrf: u8, member: u8, kind: u8) -> wire::Service {
    wire::Service {
        id: format!("service{number}"),
        vrf: format!("vrf{vrf}"),
        // Now and then two of them want one place.
        address: format!("10.0.0.{}", 5 + number % 2),
        protocol: 6,
        port: 80,
        members: (0..=member % 3)
            .map(|nth| wire::Member {
                address: format!("10.0.0.{}", member + nth),
                port: 8080,
                interface: if kind & 1 == 0 { uuid(member).to_string() } else { String::new() },
                node: if nth == 0 { "here".into() } else { "there".into() },
                draining: kind & 2 != 0,
                zone: if nth == 1 { "east".into() } else { String::new() },
                ..wire::Member::default()
            })
            .collect(),
        internal_local: kind & 4 != 0,
        node_port: if kind & 8 != 0 { 30_080 } else { 0 },
        external: kind & 16 != 0,
        announced: kind & 128 != 0,
        external_local: kind & 32 != 0,
        node: if kind & 64 != 0 { "here".into() } else { String::new() },
        distribution: i32::from(kind) & 1,
        ..wire::Service::default()
    }
}

fn context(vrf: u8, policy: u8, floating: u8) -> wire::Context {
    wire::Context {
        vrf: format!("vrf{vrf}"),
        policy: format!("policy{policy}"),
        network_id: u32::from(vrf),
        floating_address: if floating < 3 { String::new() } else { format!("10.0.0.{floating}") },
        underlay: floating & 1 != 0,
        fixed_address: if floating < 3 { String::new() } else { "10.0.0.1".into() },
        ..wire::Context::default()
    }
}

fn policy(number: u8, version: u8) -> wire::PolicySet {
    let peer = |peer| wire::PolicyPeer { peer: Some(peer) };
    let remotes = match version {
        0 => vec![],
        1 => vec![peer(wire::policy_peer::Peer::NetworkId(1))],
        2 => vec![peer(wire::policy_peer::Peer::Prefix("10.0.0.0/30".into()))],
        _ => vec![peer(wire::policy_peer::Peer::Prefix("10.0.0.2/31".into()))],
    };
    let rule = wire::PolicyRule {
        id: Uuid::from_u128(77 + u128::from(version)).to_string(),
        pass: true,
        remotes,
        protocol: 256,
        ..wire::PolicyRule::default()
    };
    let layer = wire::PolicyLayer {
        name: "network-policy".into(),
        egress: vec![rule.clone()],
        ingress: vec![rule],
        default_pass: false,
    };
    wire::PolicySet { id: format!("policy{number}"), layers: vec![layer], staged: vec![] }
}

fn interface(port: u8, vrf: u8, policy: u8, contexts: u8) -> wire::Interface {
    // Now and then a port is a VLAN on another one's device.
    let is_nested = port == 4 && contexts >= 4;
    wire::Interface {
        uuid: uuid(port).to_string(),
        name: format!("port{port}"),
        vrf: format!("vrf{vrf}"),
        mac: format!("02:00:00:00:00:{port:02x}"),
        addresses: vec![wire::Address {
            prefix: format!("10.0.0.{port}/24"),
            gateway: "10.0.0.254".into(),
        }],
        policy: if policy == 3 { String::new() } else { format!("policy{policy}") },
        network_id: u32::from(vrf),
        contexts: (0..contexts % 4)
            .filter(|other| *other != vrf)
            .map(|other| context(other, policy % 3, contexts))
            .collect(),
        host: port == 5,
        local_preference: [0, 100, 200][usize::from(contexts % 3)],
        parent: if is_nested { uuid(1).to_string() } else { String::new() },
        vlan: if is_nested { 100 } else { 0 },
        ..wire::Interface::default()
    }
}

fn route(vrf: u8, host: u8, length: u8, next_hop: u8, label: u8) -> wire::Route {
    let path = |last: u8| wire::Path {
        next_hop: format!("172.31.0.{last}"),
        label: 16 + u32::from(label),
        encapsulations: vec![wire::Encapsulation::Vxlan as i32],
        network_id: u32::from(label % 2),
        local_preference: [100, 100, 200][usize::from(label % 3)],
        native: label > 2,
        ..wire::Path::default()
    };
    // Two paths now and then: an ECMP group.
    let paths =
        if label == 0 { vec![path(next_hop), path(next_hop + 1)] } else { vec![path(next_hop)] };
    wire::Route { vrf: format!("vrf{vrf}"), prefix: format!("10.0.0.{host}/{length}"), paths }
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let controller = 0..2usize;
    let intent = (
        prop::collection::vec((0..3u8, 0..=255u8), 0..3),
        prop::collection::vec((0..3u8, 0..4u8), 0..3),
        prop::collection::vec((1..6u8, 0..3u8, 0..4u8, 0..8u8), 0..4),
        prop::collection::vec((0..3u8, 0..3u8, 1..6u8, 0..4u8), 0..2),
        prop::collection::vec((0..4u8, 0..3u8, 1..6u8, 0..=255u8), 0..3),
        prop::collection::vec((0..2u8, 0..3u8, any::<bool>()), 0..3),
        any::<bool>(),
        0..50u64,
    )
        .prop_map(|(vrfs, policies, interfaces, removed, services, dns, end, revision)| {
            let there = |there: bool| dns.iter().filter(move |(.., yes)| *yes == there);
            wire::Intent {
                revision,
                dns_zones: there(true).map(|(z, s, _)| zone(*z, *s)).collect(),
                dns_records: there(true).map(|(z, s, _)| records(*s, *z)).collect(),
                dns_zones_removed: there(false).map(|(z, ..)| format!("zone{z}")).collect(),
                dns_records_removed: there(false).map(|(_, s, _)| format!("set{s}")).collect(),
                vrfs: vrfs.into_iter().map(|(number, uses)| vrf(number, uses)).collect(),
                policies: policies.into_iter().map(|(n, v)| policy(n, v)).collect(),
                interfaces: interfaces
                    .into_iter()
                    .map(|(n, v, p, c)| interface(n, v, p, c))
                    .collect(),
                services: services.into_iter().map(|(n, v, m, k)| service(n, v, m, k)).collect(),
                vrfs_removed: removed.iter().map(|(v, ..)| format!("vrf{v}")).collect(),
                policies_removed: removed.iter().map(|(_, p, ..)| format!("policy{p}")).collect(),
                interfaces_removed: removed
                    .iter()
                    .map(|(_, _, i, _)| uuid(*i).to_string())
                    .collect(),
                services_removed: removed.iter().map(|(.., s)| format!("service{s}")).collect(),
                end_of_snapshot: end,
                ..wire::Intent::default()
            }
        });
    let length = prop_oneof![Just(32u8), Just(32), Just(30), Just(24)];
    let reach = prop::collection::vec((0..3u8, 0..8u8, length, 1..4u8, 0..5u8), 0..5);
    let unreach = prop::collection::vec((0..3u8, 0..8u8), 0..3);
    let routes =
        (reach, unreach, prop::collection::vec(0..3u8, 0..3)).prop_map(|(r, u, e)| wire::Routes {
            reach: r.into_iter().map(|(v, h, l, n, b)| route(v, h, l, n, b)).collect(),
            unreach: u
                .into_iter()
                .map(|(v, h)| wire::RouteKey {
                    vrf: format!("vrf{v}"),
                    prefix: format!("10.0.0.{h}/32"),
                })
                .collect(),
            end_of_rib: e.into_iter().map(|v| format!("vrf{v}")).collect(),
        });
    let event = prop_oneof![
        1 => controller.clone().prop_map(Event::Connect),
        1 => controller.clone().prop_map(Event::Disconnect),
        4 => (controller.clone(), intent).prop_map(|(c, i)| Event::Intent(c, i)),
        6 => (controller, routes).prop_map(|(c, r)| Event::Routes(c, r)),
        3 => (1..6u8).prop_map(Event::Bind),
        1 => (1..6u8).prop_map(Event::Unbind),
        4 => any::<bool>().prop_map(Event::Apply),
    ];
    prop::collection::vec(event, 1..40)
}

/// The kernel, as far as order matters.
#[derive(Default)]
struct Kernel {
    tables: Tables,
    policies: BTreeSet<u32>,
}

impl Kernel {
    fn apply(&mut self, operation: &Operation) {
        match operation.clone() {
            Operation::PutNextHop(number, next_hop) => {
                if let NextHop::Ecmp { members } = &next_hop {
                    assert!(members.iter().all(|m| self.tables.next_hops.contains_key(m)));
                }
                if let NextHop::Local { context, .. } = &next_hop {
                    assert!(*context == 0 || self.tables.contexts.contains_key(context));
                }
                self.tables.next_hops.insert(number, next_hop);
            }
            Operation::LoadPolicy { number, .. } => {
                assert!(self.policies.insert(number), "a policy in use is loaded over");
            }
            Operation::ExtendPolicy { number, .. } => assert!(self.policies.contains(&number)),
            Operation::PutContext(id, context) => {
                self.assert_loaded(context.policy);
                self.tables.contexts.insert(id, context);
            }
            Operation::SetNode(node) => {
                let hop = self.tables.next_hops.get(&node.next_hop);
                assert_eq!(hop, Some(&NextHop::Outside));
                self.tables.node = Some(node);
            }
            Operation::SetNodeAddresses(addresses) => self.tables.node_addresses = addresses,
            Operation::PutService(key, service) => {
                assert!(service.members.is_empty() || service.members.iter().any(|m| !m.2));
                self.tables.services.insert(key, service);
            }
            Operation::RemoveService(key) => {
                self.tables.services.remove(&key);
            }
            Operation::RemoveContext(id, _) => {
                let named = |entry: &super::InterfaceEntry| entry.floating.contains(&id);
                let owner = self.tables.contexts[&id].ifindex;
                let others = self.tables.interfaces.iter().filter(|(index, _)| **index != owner);
                assert!(!others.map(|(_, entry)| entry).any(named), "a context in use is removed");
                self.tables.contexts.remove(&id);
            }
            Operation::PutRoute(vrf, prefix, entry) => {
                let hop = self.tables.next_hops.get(&entry.next_hop);
                assert!(hop.is_some() || entry.next_hop == 0, "route to nowhere");
                if let Some(NextHop::Service { vrf }) = hop.cloned() {
                    let key = (vrf, prefix.addr());
                    let mut services = self.tables.services.keys();
                    assert!(services.any(|(v, a, ..)| (*v, *a) == key), "a service without one");
                }
                self.tables.routes.insert((vrf, prefix), entry);
            }
            Operation::PutInterface(ifindex, entry) => {
                self.assert_loaded(entry.policy);
                assert!(entry.floating.iter().all(|id| self.tables.contexts.contains_key(id)));
                self.tables.interfaces.insert(ifindex, entry);
            }
            Operation::PutNative(address, number) => {
                let hop = self.tables.next_hops.get(&number);
                let place = match hop {
                    Some(NextHop::Local { ifindex, .. }) => Some(*ifindex),
                    _ => None,
                };
                let there =
                    place.is_some_and(|ifindex| self.tables.interfaces.contains_key(&ifindex));
                assert!(there || number == 0, "an address of nobody's");
                self.tables.natives.insert(address, number);
            }
            Operation::RemoveNative(address) => {
                self.tables.natives.remove(&address);
            }
            Operation::RemoveInterface(ifindex, _) => {
                self.tables.interfaces.remove(&ifindex);
            }
            Operation::RemoveRoute(vrf, prefix) => {
                self.tables.routes.remove(&(vrf, prefix));
            }
            Operation::RemovePolicy(number) => {
                assert!(!self.policies_in_use().contains(&number), "a policy in use is removed");
                self.policies.remove(&number);
            }
            Operation::RemoveNextHop(number, _) => {
                assert!(self.tables.routes.values().all(|route| route.next_hop != number));
                assert!(self.tables.natives.values().all(|native| *native != number));
                self.tables.next_hops.remove(&number);
            }
        }
    }

    fn assert_loaded(&self, policy: PolicyState) {
        if let PolicyState::Loaded { v4, v6 } = policy {
            assert!(self.policies.contains(&v4) && self.policies.contains(&v6));
        }
    }

    fn policies_in_use(&self) -> BTreeSet<u32> {
        let loaded = |policy: PolicyState| match policy {
            PolicyState::Loaded { v4, v6 } => vec![v4, v6],
            _ => vec![],
        };
        let interfaces = self.tables.interfaces.values().map(|entry| entry.policy);
        let contexts = self.tables.contexts.values().map(|entry| entry.policy);
        interfaces.chain(contexts).flat_map(loaded).collect()
    }
}

fn core() -> Core {
    Core::new(2, Some(OWN.parse().unwrap()), Numbers::default(), 1000).named("here").with_dns(DNS)
}

fn feed(core: &mut Core, event: &Event) {
    match event {
        Event::Connect(controller) => core.connected(*controller),
        Event::Disconnect(controller) => core.disconnected(*controller),
        Event::Intent(controller, intent) => core.intent(*controller, intent.clone()),
        Event::Routes(controller, routes) => core.routes(*controller, routes),
        Event::Bind(port) => {
            core.bind(LocalPort {
                uuid: uuid(*port),
                ifindex: u32::from(*port),
                mtu: 1450,
                vlan: None,
            });
        }
        Event::Unbind(port) => core.unbind(uuid(*port)),
        Event::Apply(_) => {}
    }
}

/// Tables with the numbers resolved, so that two cores can be compared.
type Resolved = (
    BTreeMap<(String, String), (Vec<NextHop>, skein_policy::Identity)>,
    BTreeMap<u32, (Uuid, String, bool)>,
    BTreeMap<u32, (String, Option<super::FloatingEntry>, bool)>,
    BTreeMap<super::ServiceKey, super::ServiceEntry>,
    BTreeMap<std::net::IpAddr, Vec<NextHop>>,
);

fn resolve(core: &Core, tables: &Tables) -> Resolved {
    let names = core.vrf_names();
    let members = |number: &u32| match tables.next_hops.get(number) {
        Some(NextHop::Ecmp { members }) => {
            members.iter().map(|m| tables.next_hops[m].clone()).collect()
        }
        Some(one) => vec![one.clone()],
        None => {
            assert_eq!(*number, 0);
            vec![NextHop::Discard]
        }
    };
    let natives = tables.natives.iter().map(|(address, number)| (*address, members(number)));
    let natives: BTreeMap<_, _> = natives.collect();
    let routes = tables.routes.iter().map(|((vrf, prefix), entry)| {
        let identity = core.identity(entry.identity).unwrap().clone();
        ((names[vrf].to_owned(), prefix.to_string()), (members(&entry.next_hop), identity))
    });
    let interfaces = tables.interfaces.iter().map(|(ifindex, entry)| {
        let loaded = matches!(entry.policy, PolicyState::Loaded { .. });
        (*ifindex, (entry.uuid, names[&entry.vrf].to_owned(), loaded))
    });
    let contexts = tables.contexts.iter().map(|(id, entry)| {
        let loaded = matches!(entry.policy, PolicyState::Loaded { .. });
        (*id, (names[&entry.vrf].to_owned(), entry.floating.clone(), loaded))
    });
    (routes.collect(), interfaces.collect(), contexts.collect(), tables.services.clone(), natives)
}

proptest! {
    #[test]
    fn incremental_equals_full_and_every_step_is_safe(events in events()) {
        let mut incremental = core();
        let mut kernel = Kernel::default();
        let mut server = Server::default();
        for event in &events {
            feed(&mut incremental, event);
            if let Event::Apply(fail) = event {
                let operations = incremental.operations();
                server.apply(&mut incremental);
                let end = if *fail { operations.len() * 2 / 3 } else { operations.len() };
                for operation in &operations[..end] {
                    kernel.apply(operation);
                    incremental.applied(operation);
                }
            }
        }
        for operation in incremental.operations() {
            kernel.apply(&operation);
            incremental.applied(&operation);
        }
        prop_assert_eq!(incremental.operations(), vec![]);
        server.apply(&mut incremental);
        prop_assert_eq!(&kernel.tables, incremental.wanted());
        prop_assert_eq!(&kernel.tables, incremental.in_force());

        // The same events with a single compile at the end. Labels depend on history, and routes that
        // lead back here on labels: the full compile starts with the numbers of the incremental one.
        let numbers = incremental.numbers().clone();
        let mut full =
            Core::new(2, Some(OWN.parse().unwrap()), numbers, 1000).named("here").with_dns(DNS);
        events.iter().for_each(|event| feed(&mut full, event));
        full.operations();
        let mut truth = Server::default();
        truth.apply(&mut full);
        prop_assert_eq!(server, truth);
        prop_assert_eq!(
            resolve(&incremental, incremental.wanted()),
            resolve(&full, full.wanted())
        );
    }

    #[test]
    fn a_restart_with_saved_state_changes_no_route(events in events()) {
        let mut before = core();
        let mut kernel = Kernel::default();
        events.iter().for_each(|event| feed(&mut before, event));
        for operation in before.operations() {
            kernel.apply(&operation);
            before.applied(&operation);
        }
        // One controller's word is what is saved; take a state that has only that.
        let (intent, routes) = before.saved();
        let mut settled = core();
        settled.load(intent.clone(), &routes);
        let bound: Vec<u8> = (1..6)
            .filter(|port| before.wanted().interfaces.values().any(|e| e.uuid == uuid(*port)))
            .collect();
        bound.iter().for_each(|port| feed(&mut settled, &Event::Bind(*port)));
        let mut kernel = Kernel::default();
        for operation in settled.operations() {
            kernel.apply(&operation);
            settled.applied(&operation);
        }

        let mut after = Core::new(2, Some(OWN.parse().unwrap()), settled.numbers().clone(), 1000)
            .named("here")
            .with_dns(DNS);
        after.adopt(kernel.tables.clone(), kernel.policies.clone());
        after.load(intent, &routes);
        bound.iter().for_each(|port| feed(&mut after, &Event::Bind(*port)));
        for operation in after.operations() {
            let policy_only = matches!(
                operation,
                Operation::LoadPolicy { .. }
                    | Operation::ExtendPolicy { .. }
                    | Operation::PutInterface(..)
                    | Operation::PutContext(..)
                    | Operation::RemovePolicy(_)
            );
            prop_assert!(policy_only, "a restart touched forwarding: {operation:?}");
            kernel.apply(&operation);
            after.applied(&operation);
        }
        prop_assert_eq!(&kernel.tables, after.wanted());
    }
}

#[test]
fn a_sub_interface_comes_and_goes_with_its_parent() {
    let nested = || wire::Interface { sub_interfaces: vec![], ..interface(4, 2, 0, 4) };
    let parent =
        wire::Interface { sub_interfaces: vec![uuid(4).to_string()], ..interface(1, 1, 0, 0) };
    let rival = wire::Interface { vlan: 100, parent: uuid(1).to_string(), ..interface(3, 2, 0, 0) };
    let mut core = core();
    core.connected(0);
    let local = wire::Vrf { link_local: true, ..vrf(0, 0) };
    let intent = wire::Intent {
        revision: 1,
        vrfs: vec![local, vrf(1, 1), vrf(2, 1)],
        policies: vec![policy(0, 0)],
        interfaces: vec![parent, nested(), rival, interface(5, 1, 0, 0)],
        services: vec![wire::Service {
            id: "agent".into(),
            vrf: "vrf0".into(),
            address: "10.10.10.2".into(),
            protocol: 6,
            port: 9091,
            members: vec![wire::Member {
                address: "127.0.0.1".into(),
                port: 9091,
                ..wire::Member::default()
            }],
            ..wire::Service::default()
        }],
        end_of_snapshot: true,
        ..wire::Intent::default()
    };
    feed(&mut core, &Event::Intent(0, intent));
    let settle = |core: &mut Core| {
        for operation in core.operations() {
            core.applied(&operation);
        }
    };
    settle(&mut core);
    assert_eq!(core.in_force().interfaces.len(), 0, "no device, no workload in it");
    feed(&mut core, &Event::Bind(1));
    feed(&mut core, &Event::Bind(5));
    settle(&mut core);
    assert!(core.sub_interfaces().contains(&uuid(4)));
    // Of two that claim a tag, one has it, and the other is told.
    assert_eq!(core.port_problem(uuid(4)).is_some(), core.port_problem(uuid(3)).is_none());
    let winner = if core.port_problem(uuid(4)).is_none() { uuid(4) } else { uuid(3) };
    let port = core.local_port(winner).cloned().expect("it is here because its parent is");
    assert_eq!((port.vlan, port.mtu), (Some((1, 100)), 1450));
    let entry = core.in_force().interfaces.values().find(|entry| entry.uuid == winner).cloned();
    let entry = entry.expect("in force");
    // The node's services know it, and lead to the node's own stack.
    let metadata = entry.metadata.expect("a metadata address");
    assert_eq!(core.by_metadata(metadata), Some(winner));
    let at = |vrf: u32, address: IpAddr| {
        let route = core.in_force().routes.get(&(vrf, address.into()))?;
        core.in_force().next_hops.get(&route.next_hop).cloned()
    };
    let names = core.vrf_names();
    let number = |name: &str| names.iter().find(|(_, n)| **n == name).map(|(n, _)| *n).unwrap();
    let to_host = Some(NextHop::Local { ifindex: 5, context: 0 });
    assert_eq!(at(number("vrf0"), OWN.parse().unwrap()), to_host);
    let ifindex = skein_datapath::sub_interface(entry.label);
    assert_eq!(at(number("vrf1"), metadata.into()), Some(NextHop::Local { ifindex, context: 0 }));
    let services = &core.in_force().services;
    let service = services.iter().find(|((vrf, ..), _)| *vrf == number("vrf0")).unwrap().1;
    assert!(service.link_local);
    assert_eq!(service.members.first().unwrap().0, OWN.parse::<IpAddr>().unwrap());
    drop(names);
    feed(&mut core, &Event::Unbind(1));
    settle(&mut core);
    assert_eq!(core.local_port(winner), None);
    assert_eq!(core.by_metadata(metadata), None);
    assert_eq!(core.in_force().interfaces.len(), 1, "the host's alone");
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
