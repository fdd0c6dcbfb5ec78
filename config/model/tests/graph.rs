//! The graph's indexes equal what a walk over all objects finds, after any sequence of changes.

use proptest::prelude::*;
use skein_model::{Change, FqName, Graph, Kind, Object, Reference};
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

fn id(n: u8) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

fn change() -> impl Strategy<Value = Change> {
    let put = (0u8..12, 0u8..12, proptest::collection::vec(0u8..12, 0..3), 0u64..5).prop_map(
        |(n, parent, targets, created)| {
            Change::Put(Arc::new(Object {
                uuid: id(n),
                kind: if n % 2 == 0 { Kind::VIRTUAL_NETWORK } else { Kind::NETWORK_POLICY },
                fq_name: FqName::single(&format!("object-{n}")),
                parent: (parent > 5).then(|| (Kind::PROJECT, id(parent))),
                properties: serde_json::Map::new(),
                references: targets
                    .into_iter()
                    .map(|t| Reference {
                        kind: Kind::NETWORK_POLICY,
                        uuid: id(t),
                        attr: serde_json::Value::Null,
                        relaxed: false,
                    })
                    .collect(),
                created_revision: created,
                revision: created,
            }))
        },
    );
    prop_oneof![3 => put, 1 => (0u8..12).prop_map(|n| Change::Delete(id(n)))]
}

proptest! {
    #[test]
    fn indexes_equal_a_full_walk(changes in proptest::collection::vec(change(), 0..60)) {
        let mut graph = Graph::default();
        let mut plain: BTreeMap<Uuid, Arc<Object>> = BTreeMap::new();
        for change in &changes {
            let old = graph.apply(change);
            let expected = match change {
                Change::Put(object) => plain.insert(object.uuid, object.clone()),
                Change::Delete(uuid) => plain.remove(uuid),
            };
            prop_assert_eq!(old, expected);
        }
        prop_assert_eq!(graph.len(), plain.len());
        for n in 0..12 {
            let uuid = id(n);
            let mut children: Vec<_> = plain
                .values()
                .filter(|o| o.parent.is_some_and(|(_, p)| p == uuid))
                .map(|o| (o.created_revision, o.uuid))
                .collect();
            children.sort_unstable();
            let found: Vec<_> =
                graph.children(uuid).map(|o| (o.created_revision, o.uuid)).collect();
            prop_assert_eq!(found, children);
            let sources: Vec<_> = plain
                .values()
                .filter(|o| o.references.iter().any(|r| r.uuid == uuid))
                .map(|o| o.uuid)
                .collect();
            let found: Vec<_> = graph.back_references(uuid).map(|o| o.uuid).collect();
            prop_assert_eq!(found, sources);
        }
        for object in plain.values() {
            prop_assert_eq!(graph.by_name(object.kind, &object.fq_name), Some(object));
        }
    }
}

#[test]
fn every_type_of_the_schema_is_known_by_both_spellings() {
    assert_eq!(Kind::all().len(), 126);
    for kind in Kind::all() {
        assert_eq!(Kind::parse(kind.name()), Some(kind));
        assert_eq!(Kind::parse(kind.snake()), Some(kind));
        for property in kind.meta().all_properties() {
            assert!(kind.meta().property(property.name).is_some(), "{kind} {}", property.name);
        }
        for parent in kind.meta().parents {
            assert!(parent.meta().child(kind).is_some(), "{parent} lists {kind} as a child");
        }
    }
}
