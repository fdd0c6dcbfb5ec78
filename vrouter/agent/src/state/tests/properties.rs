//! Random event sequences: the incremental result equals a compile from nothing, and the operations
//! keep every moment consistent.

use super::dns::Server;
use super::events::{Fate, events};
use super::wire::uuid;
use super::{DNS, Event, Kernel, OWN, core, feed};
use crate::state::core::{Core, Waiting};
use crate::state::diff::Operation;
use crate::state::tables::{FloatingEntry, NextHop, PolicyState, ServiceEntry, ServiceKey, Tables};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use uuid::Uuid;

/// Tables with the numbers resolved, so that two cores can be compared.
type Resolved = (
    BTreeMap<(String, String), (Vec<NextHop>, skein_policy::Identity)>,
    BTreeMap<u32, (Uuid, String, bool)>,
    BTreeMap<u32, (String, Option<FloatingEntry>, bool)>,
    BTreeMap<ServiceKey, ServiceEntry>,
    BTreeMap<IpAddr, Vec<NextHop>>,
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

/// The identities that each interface's policies know.
fn told_apart(kernel: &Kernel) -> BTreeMap<u32, Vec<BTreeSet<u32>>> {
    let interfaces = kernel.tables.interfaces.iter();
    let known = interfaces.map(|(ifindex, entry)| match entry.policy {
        PolicyState::Loaded { v4, v6 } => {
            (*ifindex, [v4, v6].iter().map(|number| kernel.policies[number].clone()).collect())
        }
        _ => (*ifindex, Vec::new()),
    });
    known.collect()
}

/// Whether a table can be too full for it.
fn takes_room(operation: &Operation) -> bool {
    !matches!(
        operation,
        Operation::RemoveNative(_)
            | Operation::RemoveInterface(..)
            | Operation::RemoveService(_)
            | Operation::RemoveContext(..)
            | Operation::RemoveRoute(..)
            | Operation::RemovePolicy(_)
            | Operation::RemoveNextHop(..)
            | Operation::ShrinkPolicy { .. }
    )
}

proptest! {
    #[test]
    fn incremental_equals_full_and_every_step_is_safe(events in events()) {
        let mut incremental = core().without_spare_identities();
        let mut kernel = Kernel::default();
        let mut server = Server::default();
        for event in &events {
            feed(&mut incremental, event);
            if let Event::Apply(fate) = event {
                let operations = incremental.operations();
                server.apply(&mut incremental);
                let end = match fate {
                    Fate::Cut => operations.len() * 2 / 3,
                    Fate::Done | Fate::NoRoom(_) => operations.len(),
                };
                let mut waiting = Waiting::default();
                for (at, operation) in operations[..end].iter().enumerate() {
                    let refused = matches!(fate, Fate::NoRoom(bits) if takes_room(operation)
                        && bits.rotate_left(at as u32 * 7) % 4 == 0);
                    if refused || incremental.waits(operation, &waiting) {
                        incremental.note_undone(operation, &mut waiting);
                    } else {
                        kernel.apply(operation);
                        incremental.applied(operation);
                    }
                }
            }
        }
        // Once more for identities whose last routes have gone only now.
        for _ in 0..2 {
            for operation in incremental.operations() {
                kernel.apply(&operation);
                incremental.applied(&operation);
            }
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
        let mut anew = Kernel::default();
        for operation in full.operations() {
            anew.apply(&operation);
            full.applied(&operation);
        }
        // Policies tell the same identities apart: none is missing, and none is left of those that are gone.
        prop_assert_eq!(told_apart(&kernel), told_apart(&anew));
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
        after.adopt(kernel.tables.clone(), kernel.policies.keys().copied().collect::<Vec<_>>());
        after.load(intent, &routes);
        bound.iter().for_each(|port| feed(&mut after, &Event::Bind(*port)));
        for operation in after.operations() {
            let policy_only = matches!(
                operation,
                Operation::LoadPolicy { .. }
                    | Operation::ExtendPolicy { .. }
                    | Operation::ShrinkPolicy { .. }
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
