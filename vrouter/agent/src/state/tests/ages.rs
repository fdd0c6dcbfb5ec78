//! Connections that last otherwise than the node's settings say.

use super::{core, feed};
use crate::state::diff::Operation;
use crate::state::tests::events::Event;
use skein_proto::session as wire;
use std::collections::BTreeMap;

#[test]
fn ages_of_the_configuration_are_written_once_and_taken_back() {
    let mut core = core();
    core.connected(0);
    let mut say = |ages: &[(u32, u32, u32)]| {
        let age = |&(protocol, port, seconds): &(u32, u32, u32)| wire::FlowAge {
            protocol,
            port,
            seconds,
        };
        let flow_ages = ages.iter().map(age).collect();
        let intent = wire::Intent {
            global: Some(wire::Global { flow_ages, ..wire::Global::default() }),
            end_of_snapshot: true,
            ..wire::Intent::default()
        };
        feed(&mut core, &Event::Intent(0, intent));
        let mut told = None;
        for operation in core.operations() {
            if let Operation::SetAges(ages) = &operation {
                told = Some(ages.clone());
            }
            core.applied(&operation);
        }
        told
    };
    assert_eq!(say(&[]), None, "nothing to say");
    let wanted = BTreeMap::from([((6, 0), 0), ((17, 53), 10)]);
    // Of no protocol or port that there is: a newer controller's.
    let listed = [(17, 53, 10), (6, 0, 0), (300, 0, 5), (6, 70_000, 5)];
    assert_eq!(say(&listed), Some(wanted));
    assert_eq!(say(&listed), None, "nothing new");
    assert_eq!(say(&[]), Some(BTreeMap::new()));
}
