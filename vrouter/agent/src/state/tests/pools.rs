//! Ports of the node that its workloads borrow.

use super::wire::vrf;
use super::{core, feed};
use crate::state::core::Core;
use crate::state::diff::Operation;
use crate::state::port_pools::SUBJECT;
use crate::state::tests::events::Event;
use skein_proto::session as wire;
use std::ops::RangeInclusive;

fn say(core: &mut Core, pools: &[(u32, u32, u32)]) -> Vec<RangeInclusive<u16>> {
    let pool = |(protocol, first, last): &(u32, u32, u32)| wire::PortPool {
        protocol: *protocol,
        first: *first,
        last: *last,
    };
    let global =
        wire::Global { port_pools: pools.iter().map(pool).collect(), ..wire::Global::default() };
    let intent = wire::Intent {
        global: Some(global),
        vrfs: vec![vrf(1, 8)],
        end_of_snapshot: true,
        ..wire::Intent::default()
    };
    feed(core, &Event::Intent(0, intent));
    let mut told = Vec::new();
    for operation in core.operations() {
        if let Operation::SetNode(node) = &operation {
            told.clone_from(&node.pools.udp);
        }
        core.applied(&operation);
    }
    told
}

#[test]
fn the_pools_of_the_configuration_are_lent_and_the_nodes_own_without_them() {
    let mut core = core();
    core.connected(0);
    assert_eq!(say(&mut core, &[]), [57_024..=58_047]);
    assert_eq!(say(&mut core, &[(17, 2000, 2999), (17, 5000, 5003)]), [2000..=2999, 5000..=5003]);
    assert_eq!(say(&mut core, &[(17, 2000, 2999), (17, 5000, 5003)]), [], "nothing to say");
    // Nothing would be left to the host: that is told, and the node's own are lent.
    assert_eq!(say(&mut core, &[(17, 1024, 65_535)]), [57_024..=58_047]);
    assert!(core.problems()[SUBJECT].contains("the host would keep fewer than 1024"));
    assert_eq!(say(&mut core, &[(17, 1024, 32_767)]), [1024..=32_767]);
    assert!(!core.problems().contains_key(SUBJECT));
}
