//! Addresses that many workloads of a node have.

use super::wire::{interface, policy, vrf};
use super::{Event, core, feed};
use crate::state::compile::ECMP_LIMIT;
use crate::state::tables::NextHop;
use skein_proto::session as wire;

/// A service's address is every member's: a route takes as many of them as the datapath can, whatever there is.
#[test]
fn a_route_to_more_workloads_than_a_next_hop_takes_leads_to_some() {
    let ports = 10..10 + 2 * ECMP_LIMIT as u8;
    let shared = wire::Address { prefix: "10.0.0.200/24".into(), gateway: "10.0.0.254".into() };
    let member =
        |port: u8| wire::Interface { addresses: vec![shared.clone()], ..interface(port, 1, 0, 0) };
    let mut core = core();
    core.connected(0);
    let intent = wire::Intent {
        revision: 1,
        vrfs: vec![vrf(1, 1)],
        policies: vec![policy(0, 0)],
        interfaces: ports.clone().map(member).collect(),
        end_of_snapshot: true,
        ..wire::Intent::default()
    };
    feed(&mut core, &Event::Intent(0, intent));
    ports.for_each(|port| feed(&mut core, &Event::Bind(port)));
    for operation in core.operations() {
        core.applied(&operation);
    }
    let groups = core.in_force().next_hops.values().filter_map(|next_hop| match next_hop {
        NextHop::Ecmp { members } => Some(members.len()),
        _ => None,
    });
    assert_eq!(groups.collect::<Vec<_>>(), [ECMP_LIMIT]);
}
