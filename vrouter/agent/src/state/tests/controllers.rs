//! Three controllers that know the same, of which any one goes and comes back.

use super::wire::{interface, policy, route, service, vrf};
use super::{DNS, OWN};
use crate::state::core::Core;
use crate::state::diff::Operation;
use crate::state::numbers::Numbers;
use crate::state::tests::events::{Event, feed};
use skein_proto::session as wire;

const COUNT: usize = 3;

/// All there is, as of a revision.
fn intent(revision: u64) -> wire::Intent {
    wire::Intent {
        revision,
        vrfs: vec![vrf(0, 0), vrf(1, 1)],
        policies: vec![policy(0, 1), policy(1, 2)],
        interfaces: vec![interface(1, 0, 0, 0), interface(2, 1, 1, 0)],
        services: vec![service(0, 0, 1, 0)],
        end_of_snapshot: true,
        ..wire::Intent::default()
    }
}

fn routes() -> wire::Routes {
    wire::Routes {
        reach: vec![route(0, 3, 32, 2, 1), route(1, 4, 32, 3, 2)],
        end_of_rib: vec!["vrf0".into(), "vrf1".into()],
        ..wire::Routes::default()
    }
}

fn settle(core: &mut Core) -> Vec<Operation> {
    let operations = core.operations();
    for operation in &operations {
        core.applied(operation);
    }
    operations
}

#[test]
fn any_one_may_go_and_come_back_without_a_change_of_the_kernel() {
    let mut core = Core::new(COUNT, Some(OWN.parse().unwrap()), Numbers::default(), 1000)
        .named("here")
        .with_dns(DNS);
    for controller in 0..COUNT {
        core.connected(controller);
        core.intent(controller, intent(10));
        core.routes(controller, &routes());
    }
    for port in [1, 2] {
        feed(&mut core, &Event::Bind(port));
    }
    assert!(!settle(&mut core).is_empty());
    assert_eq!(core.in_force().routes.len(), core.wanted().routes.len());
    let in_force = core.in_force().clone();
    assert!(in_force.interfaces.len() == 2 && in_force.routes.len() >= 4, "{in_force:?}");
    for lost in [0, 1, 2, 1, 0] {
        let holds = |core: &mut Core, what: &str| {
            assert_eq!(settle(core), [], "controller {lost}: {what}");
            assert!(core.is_fresh(), "controller {lost}: {what}");
        };
        core.disconnected(lost);
        holds(&mut core, "it is gone");
        core.connected(lost);
        holds(&mut core, "it is back and has said nothing");
        // Late: it has read an older revision, in which little was there, and heard from few nodes.
        let old = wire::Intent {
            revision: 5,
            vrfs: vec![vrf(0, 0)],
            policies: vec![policy(0, 3)],
            interfaces: vec![interface(1, 0, 0, 0)],
            end_of_snapshot: true,
            ..wire::Intent::default()
        };
        core.intent(lost, old);
        holds(&mut core, "it says what was");
        let empty = wire::Routes { end_of_rib: vec!["vrf0".into()], ..wire::Routes::default() };
        core.routes(lost, &empty);
        holds(&mut core, "it knows no routes");
        core.intent(lost, wire::Intent { end_of_snapshot: false, ..intent(10) });
        holds(&mut core, "it has caught up");
        core.routes(lost, &routes());
        holds(&mut core, "it has heard from all nodes");
        assert_eq!(core.in_force(), &in_force);
    }
    // Without any the last word of all stays.
    (0..COUNT).for_each(|controller| core.disconnected(controller));
    assert_eq!(settle(&mut core), []);
    assert!(!core.is_fresh());
}
