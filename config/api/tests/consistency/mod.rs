//! What holds in any store, at any moment, whoever was killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

use skein_model::Kind;
use skein_store::State;
use uuid::Uuid;

/// Every object has its name and its numbers, and no claim is without its object, but for addresses that are reserved.
pub fn check(state: &State) {
    let mut expected: BTreeMap<String, Uuid> = BTreeMap::new();
    let by_uuid: BTreeMap<Uuid, _> = state.objects.iter().map(|o| (o.uuid, o)).collect();
    for object in &state.objects {
        expected.insert(format!("name/{}/{}", object.kind, object.fq_name), object.uuid);
        match object.kind {
            Kind::INSTANCE_IP => {
                let net = object.reference_to(Kind::VIRTUAL_NETWORK).unwrap().uuid;
                let address = object.properties["instance_ip_address"].as_str().unwrap();
                expected.insert(format!("ip/{net}/{address}"), object.uuid);
            }
            Kind::VIRTUAL_NETWORK => {
                let id = &object.properties["virtual_network_network_id"];
                expected.insert(format!("id/virtual-network/{id}"), object.uuid);
                let instance = object.fq_name.child(object.name());
                let instance = state.objects.iter().find(|o| o.fq_name == instance);
                assert!(instance.is_some(), "{} has no routing instance", object.fq_name);
            }
            Kind::ROUTING_INSTANCE => {
                for reference in object.references_to(Kind::ROUTE_TARGET) {
                    let target = by_uuid[&reference.uuid];
                    let number = target.name().rsplit(':').next().unwrap();
                    expected.insert(format!("id/route-target/{number}"), object.uuid);
                }
            }
            Kind::SECURITY_GROUP => {
                let id = &object.properties["security_group_id"];
                expected.insert(format!("id/security-group/{id}"), object.uuid);
            }
            Kind::TAG_TYPE => {
                let id = object.properties["tag_type_id"].as_str().unwrap();
                let id = u64::from_str_radix(&id[2..], 16).unwrap();
                expected.insert(format!("id/tag-type/{id}"), object.uuid);
            }
            _ => {}
        }
        for reference in &object.references {
            assert!(by_uuid.contains_key(&reference.uuid), "{} refers to nothing", object.fq_name);
        }
    }
    let found: BTreeMap<String, Uuid> =
        state.claims.iter().map(|c| (c.key.clone(), c.owner)).collect();
    for (key, owner) in &expected {
        assert_eq!(found.get(key), Some(owner), "{key}");
    }
    for (key, owner) in &found {
        if owner.is_nil() && key.starts_with("ip/") {
            continue;
        }
        assert_eq!(expected.get(key), Some(owner), "{key} is claimed by {owner}");
    }
}
