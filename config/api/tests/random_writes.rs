//! Random writes against the planner: what is stored, loaded again, is the state it came from.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test fails by panicking

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use skein_api::plan::{Answer, Caller, Draft, Head, Intake, Now, Write, apply, bootstrap};
use skein_model::Kind;
use skein_store::{Claim, State, Transaction};
use uuid::Uuid;

/// A store in memory that holds to the contract's letter: no claim is taken twice, none given back that was not held.
#[derive(Default)]
struct Memory {
    objects: BTreeMap<(u64, Uuid), std::sync::Arc<skein_model::Object>>,
    claims: BTreeMap<String, Uuid>,
    kv: BTreeMap<String, String>,
    revision: u64,
}

impl Memory {
    fn commit(&mut self, transaction: &Transaction) {
        assert_eq!(transaction.revision, self.revision + 1);
        self.revision = transaction.revision;
        for gone in &transaction.deletes {
            assert!(self.objects.remove(&(gone.created_revision, gone.uuid)).is_some());
        }
        for object in &transaction.puts {
            self.objects.insert((object.created_revision, object.uuid), std::sync::Arc::clone(object));
        }
        for key in &transaction.releases {
            assert!(self.claims.remove(key).is_some(), "{key} was not held");
        }
        for claim in &transaction.claims {
            let old = self.claims.insert(claim.key.clone(), claim.owner);
            assert!(old.is_none_or(|o| o == claim.owner), "{} was held", claim.key);
        }
    }

    fn state(&self) -> State {
        State {
            revision: self.revision,
            objects: self.objects.values().cloned().collect(),
            claims: self.claims.iter().map(|(key, owner)| Claim { key: key.clone(), owner: *owner }).collect(),
            kv: self.kv.clone().into_iter().collect(),
            ..State::default()
        }
    }
}

/// Everything that allocators and indexes hold.
type Snapshot = (Vec<(String, u64, Option<Uuid>)>, Vec<(Uuid, String, Uuid)>, Vec<(Uuid, u64)>);

fn snapshot(head: &Head) -> Snapshot {
    let mut numbers: Vec<_> = head
        .numbers
        .iter()
        .flat_map(|(space, pool)| {
            (0..40).chain(255..300).chain(8_000_000..8_000_040).map(move |n| (space.clone(), n, pool.owner(n)))
        })
        .filter(|(_, _, owner)| owner.is_some())
        .collect();
    numbers.sort();
    let mut addresses: Vec<_> = head
        .spaces
        .iter()
        .flat_map(|(space, s)| s.subnets.iter().map(move |subnet| (space, subnet)))
        .flat_map(|(space, subnet)| subnet.pool.taken().map(|(a, o)| (*space, a.to_string(), o)).collect::<Vec<_>>())
        .collect();
    addresses.sort();
    let mut objects: Vec<_> = head.graph.objects().map(|o| (o.uuid, o.revision)).collect();
    objects.sort();
    (numbers, addresses, objects)
}

#[derive(Debug, Clone)]
enum Op {
    Network(u8, Vec<u8>),
    Subnets(u8, Vec<u8>),
    Targets(u8, u8),
    Address(u8, u8, Option<u8>),
    Group(u8, u8),
    Reserve(u8, u8),
    Unreserve(u8, u8),
    Tag(u8),
    Link(u8, u8, bool),
    Delete(u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    let subnets = || prop::collection::vec(0u8..6, 0..3);
    prop_oneof![
        2 => (0u8..4, subnets()).prop_map(|(n, s)| Op::Network(n, s)),
        2 => (0u8..4, subnets()).prop_map(|(n, s)| Op::Subnets(n, s)),
        2 => (0u8..4, 0u8..3).prop_map(|(n, t)| Op::Targets(n, t)),
        4 => (0u8..12, 0u8..4, prop::option::of(0u8..10)).prop_map(|(i, n, a)| Op::Address(i, n, a)),
        2 => (0u8..3, 0u8..3).prop_map(|(g, c)| Op::Group(g, c)),
        2 => (0u8..4, 1u8..9).prop_map(|(n, c)| Op::Reserve(n, c)),
        2 => (0u8..4, 0u8..10).prop_map(|(n, a)| Op::Unreserve(n, a)),
        2 => (0u8..3).prop_map(Op::Tag),
        2 => (0u8..4, 0u8..4, any::<bool>()).prop_map(|(a, b, add)| Op::Link(a, b, add)),
        3 => (0u8..4, 0u8..12).prop_map(|(k, n)| Op::Delete(k, n)),
    ]
}

fn id(kind: u8, n: u8) -> Uuid {
    Uuid::from_u128(0x4000_8000_0000_0000_0000 + u128::from(kind) * 256 + u128::from(n) + 1)
}

fn links(subnets: &[u8]) -> Value {
    // Small and overlapping on purpose: 10.0.x.0/29 and its upper half.
    let list: Vec<Value> = subnets
        .iter()
        .map(|s| json!({"subnet": {"ip_prefix": format!("10.0.{}.{}", s / 2, s % 2 * 4), "ip_prefix_len": 29 + s % 2}}))
        .collect();
    json!([{"to": ["default-domain", "default-project", "default-network-ipam"], "attr": {"ipam_subnets": list}}])
}

fn intake(kind: Kind, fields: &Value) -> Intake {
    Intake::from_fields(kind, fields.as_object().unwrap().clone()).unwrap()
}

fn name(n: &str) -> Value {
    json!(["default-domain", "default-project", n])
}

fn write(op: &Op) -> Write {
    let kinds = [Kind::VIRTUAL_NETWORK, Kind::INSTANCE_IP, Kind::SECURITY_GROUP, Kind::TAG];
    match op {
        Op::Network(n, subnets) => Write::Create(intake(Kind::VIRTUAL_NETWORK, &json!({
            "uuid": id(0, *n), "fq_name": name(&format!("net{n}")), "network_ipam_refs": links(subnets),
        }))),
        Op::Subnets(n, subnets) => {
            Write::Update(id(0, *n), intake(Kind::VIRTUAL_NETWORK, &json!({"network_ipam_refs": links(subnets)})))
        }
        Op::Targets(n, t) => {
            let list: Vec<String> = (0..*t).map(|t| format!("target:1:{t}")).collect();
            Write::Update(id(0, *n), intake(Kind::VIRTUAL_NETWORK, &json!({"route_target_list": {"route_target": list}})))
        }
        Op::Address(i, n, wanted) => {
            let mut fields = json!({
                "uuid": id(1, *i), "fq_name": [format!("ip{i}")], "virtual_network_refs": [{"uuid": id(0, *n)}],
            });
            if let Some(wanted) = wanted {
                fields["instance_ip_address"] = json!(format!("10.0.0.{wanted}"));
            }
            Write::Create(intake(Kind::INSTANCE_IP, &fields))
        }
        Op::Group(g, 0) => Write::Create(intake(Kind::SECURITY_GROUP, &json!({
            "uuid": id(2, *g), "fq_name": name(&format!("sg{g}")),
        }))),
        Op::Group(g, c) => {
            let fields = json!({"configured_security_group_id": if *c == 1 { 0 } else { 77 }});
            Write::Update(id(2, *g), intake(Kind::SECURITY_GROUP, &fields))
        }
        Op::Reserve(n, count) => {
            Write::IpAlloc { network: id(0, *n), count: u32::from(*count), subnet: None, family: None }
        }
        Op::Unreserve(n, a) => Write::IpFree {
            network: id(0, *n),
            addresses: vec![format!("10.0.0.{a}").parse().unwrap()],
        },
        Op::Tag(t) => Write::Create(intake(Kind::TAG, &json!({
            "uuid": id(3, *t), "tag_type_name": format!("type{}", t / 2), "tag_value": format!("v{t}"),
        }))),
        Op::Link(a, b, add) => Write::RefUpdate {
            kind: Kind::VIRTUAL_NETWORK,
            uuid: id(0, *a),
            target: Kind::VIRTUAL_NETWORK,
            intent: skein_api::plan::RefIntent { uuid: Some(id(0, *b).to_string()), ..Default::default() },
            add: *add,
            relax: false,
        },
        Op::Delete(kind, n) => Write::Delete(kinds[usize::from(*kind)], id(*kind, *n)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn loading_what_was_stored_gives_the_same_state(ops in prop::collection::vec(op(), 1..80)) {
        let now = Now("2026-01-01T00:00:00.000000".into());
        let mut head = Head::default();
        let mut memory = Memory::default();
        let system = Caller { admin: true, project: None, system: true };
        let mut draft = Draft::new(&mut head, &now, &system);
        bootstrap(&mut draft).unwrap();
        memory.commit(&draft.finish().unwrap());
        let user = Caller { admin: true, ..Caller::default() };
        for op in &ops {
            let before = snapshot(&head);
            let mut draft = Draft::new(&mut head, &now, &user);
            match apply(&mut draft, write(op)) {
                Ok(answer) => {
                    if let Some(transaction) = draft.finish() {
                        memory.commit(&transaction);
                    }
                    if let Answer::Addresses(given) = answer {
                        prop_assert!(given.len() == given.iter().collect::<std::collections::BTreeSet<_>>().len());
                    }
                }
                Err(error) => {
                    drop(draft);
                    prop_assert!((400..500).contains(&error.status), "{:?}: {}", op, error);
                    prop_assert_eq!(&before, &snapshot(&head), "{:?} was refused and left something", op);
                }
            }
            // Every address in use is of exactly one object, inside one of its network's subnets.
            for object in head.graph.of_kind(Kind::INSTANCE_IP) {
                let net = object.reference_to(Kind::VIRTUAL_NETWORK).unwrap().uuid;
                let address = object.properties["instance_ip_address"].as_str().unwrap().parse().unwrap();
                let subnet = head.spaces[&net].subnets.iter().find(|s| s.pool.contains(address));
                let subnet = subnet.expect("the subnet of an address is gone");
                let shared = Some(address) == subnet.pool.spec().gateway || Some(address) == subnet.pool.spec().service;
                prop_assert!(shared || subnet.pool.owner(address) == Some(object.uuid));
            }
        }
        let again = Head::load(&memory.state());
        prop_assert_eq!(snapshot(&head), snapshot(&again));
    }
}
