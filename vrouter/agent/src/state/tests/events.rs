//! Random sequences of what may happen to a node.

use super::wire::{interface, policy, records, route, service, uuid, vrf, zone};
use crate::state::core::{Core, LocalPort};
use proptest::prelude::*;
use skein_proto::session as wire;

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant, reason = "a few live at a time")]
pub(super) enum Event {
    Connect(usize),
    Disconnect(usize),
    Intent(usize, wire::Intent),
    Routes(usize, wire::Routes),
    Bind(u8),
    Unbind(u8),
    /// Operations are taken and applied.
    Apply(Fate),
}

/// What becomes of operations.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// All are done.
    Done,
    /// The last third fails.
    Cut,
    /// There is no room for some, which this number chooses.
    NoRoom(u64),
}

pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
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
    let fate = prop_oneof![
        2 => Just(Fate::Done),
        1 => Just(Fate::Cut),
        2 => (1..=u64::MAX).prop_map(Fate::NoRoom),
    ];
    let event = prop_oneof![
        1 => controller.clone().prop_map(Event::Connect),
        1 => controller.clone().prop_map(Event::Disconnect),
        4 => (controller.clone(), intent).prop_map(|(c, i)| Event::Intent(c, i)),
        6 => (controller, routes).prop_map(|(c, r)| Event::Routes(c, r)),
        3 => (1..6u8).prop_map(Event::Bind),
        1 => (1..6u8).prop_map(Event::Unbind),
        4 => fate.prop_map(Event::Apply),
    ];
    prop::collection::vec(event, 1..40)
}

pub(super) fn feed(core: &mut Core, event: &Event) {
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
