//! Writes for the tests of both stores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking
#![allow(dead_code, unreachable_pub)] // each test file uses its part

pub mod etcd;

use std::sync::Arc;

use serde_json::{Map, json};
use skein_model::{FqName, Kind, Object};
use skein_store::{Claim, Tombstone, Transaction};
use uuid::Uuid;

pub fn object(n: u128, created: u64, revision: u64) -> Arc<Object> {
    let mut properties = Map::new();
    properties.insert("display_name".into(), json!(format!("at {revision}")));
    Arc::new(Object {
        uuid: Uuid::from_u128(n),
        kind: Kind::VIRTUAL_NETWORK,
        fq_name: FqName::new(&["domain", "project", &format!("net-{n}")]).unwrap(),
        parent: None,
        properties,
        references: vec![],
        created_revision: created,
        revision,
    })
}

pub fn create(revision: u64, n: u128) -> Transaction {
    Transaction {
        revision,
        puts: vec![object(n, revision, revision)],
        claims: vec![Claim { key: format!("name/{n}"), owner: Uuid::from_u128(n) }],
        ..Transaction::default()
    }
}

pub fn delete(revision: u64, n: u128, created: u64) -> Transaction {
    Transaction {
        revision,
        deletes: vec![Tombstone {
            uuid: Uuid::from_u128(n),
            kind: Kind::VIRTUAL_NETWORK,
            created_revision: created,
        }],
        releases: vec![format!("name/{n}")],
        ..Transaction::default()
    }
}
