//! What every store does: what is committed is there, what fails is not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test fails by panicking

mod support;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use skein_model::{Kind, Object};
use skein_store::{
    Campaign, Claim, EmbeddedStore, Etcd, EtcdOptions, EtcdStore, LogOp, ObjectStore, Options,
    StoreError, Tombstone, Transaction,
};
use support::{create, delete, object};
use uuid::Uuid;

const RETENTION: u64 = 65_536;

/// Something that keeps what is stored while stores come and go.
trait Backing {
    fn open(&self, log_retention: u64) -> Box<dyn ObjectStore>;
}

struct InFile(tempfile::TempDir);

impl Backing for InFile {
    fn open(&self, log_retention: u64) -> Box<dyn ObjectStore> {
        let options = Options { log_retention, ..Options::default() };
        Box::new(EmbeddedStore::open(self.0.path().join("config.redb"), options).unwrap())
    }
}

struct InEtcd {
    server: support::etcd::Server,
    runtime: tokio::runtime::Runtime,
    campaign: Campaign,
}

impl InEtcd {
    fn new() -> Self {
        let server = support::etcd::Server::start();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let etcd = Self::client(&server, &runtime, RETENTION);
        let mut campaign = Campaign::new(etcd, "test", "http://127.0.0.1:1");
        assert!(runtime.block_on(campaign.stand()).unwrap());
        Self { server, runtime, campaign }
    }

    fn client(
        server: &support::etcd::Server,
        runtime: &tokio::runtime::Runtime,
        log_retention: u64,
    ) -> Etcd {
        let _inside = runtime.enter();
        let options = EtcdOptions::new(vec![server.url()]);
        // Nobody keeps it alive here.
        Etcd::new(EtcdOptions { lease: Duration::from_secs(600), log_retention, ..options })
            .unwrap()
    }
}

impl Backing for InEtcd {
    fn open(&self, log_retention: u64) -> Box<dyn ObjectStore> {
        let etcd = Self::client(&self.server, &self.runtime, log_retention);
        Box::new(EtcdStore::new(etcd, self.campaign.tenure(), self.runtime.handle().clone()))
    }
}

macro_rules! contract {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[test]
            fn $name() {
                super::$name(&super::InFile(tempfile::tempdir().unwrap()));
            })*
        }
        mod etcd {
            $(#[test]
            fn $name() {
                super::$name(&super::InEtcd::new());
            })*
        }
    };
}

contract! {
    everything_committed_is_there_after_opening_again,
    a_taken_claim_fails_the_whole_group,
    revisions_follow_each_other,
    the_log_keeps_its_last_revisions_and_says_where_it_starts,
    large_transactions_are_stored_whole,
}

fn everything_committed_is_there_after_opening_again(backing: &dyn Backing) {
    let mut store = backing.open(RETENTION);
    assert_eq!(store.load().unwrap().revision, 0);
    store.commit(&[create(1, 9), create(2, 3), create(3, 5)]).unwrap();
    let change = Transaction {
        revision: 4,
        puts: vec![object(3, 2, 4)],
        kv: vec![("a".into(), Some("1".into())), ("b".into(), Some("2".into()))],
        ..Transaction::default()
    };
    let unkv = Transaction { revision: 6, kv: vec![("a".into(), None)], ..Transaction::default() };
    store.commit(&[change, delete(5, 9, 1), unkv]).unwrap();
    drop(store);
    let state = backing.open(RETENTION).load().unwrap();
    assert_eq!(state.revision, 6);
    let order: Vec<u128> = state.objects.iter().map(|o| o.uuid.as_u128()).collect();
    assert_eq!(order, [3, 5], "in order of creation");
    assert_eq!(*state.objects[0], *object(3, 2, 4));
    assert_eq!(state.kv, [("b".to_owned(), "2".to_owned())]);
    let keys: Vec<&str> = state.claims.iter().map(|c| c.key.as_str()).collect();
    assert_eq!(keys, ["name/3", "name/5"]);
    let log: Vec<(u64, LogOp, u128)> =
        state.log.iter().map(|e| (e.revision, e.op, e.uuid.as_u128())).collect();
    let (create, update, delete) = (LogOp::Create, LogOp::Update, LogOp::Delete);
    assert_eq!(
        log,
        [(1, create, 9), (2, create, 3), (3, create, 5), (4, update, 3), (5, delete, 9)]
    );
}

fn a_taken_claim_fails_the_whole_group(backing: &dyn Backing) {
    let mut store = backing.open(RETENTION);
    store.load().unwrap();
    store.commit(&[create(1, 1)]).unwrap();
    let thief = Transaction {
        revision: 3,
        claims: vec![Claim { key: "name/1".into(), owner: Uuid::from_u128(7) }],
        ..Transaction::default()
    };
    let error = store.commit(&[create(2, 2), thief]).unwrap_err();
    assert!(matches!(error, StoreError::ClaimTaken { .. }), "{error}");
    assert!(matches!(store.commit(&[create(2, 2)]).unwrap_err(), StoreError::NeedsLoad { .. }));
    let state = store.load().unwrap();
    assert_eq!((state.revision, state.objects.len()), (1, 1));
    // Swapping within one transaction is fine: releases come first.
    let swap = Transaction {
        revision: 2,
        releases: vec!["name/1".into()],
        claims: vec![Claim { key: "name/1".into(), owner: Uuid::from_u128(7) }],
        ..Transaction::default()
    };
    store.commit(&[swap]).unwrap();
    assert_eq!(store.load().unwrap().claims[0].owner, Uuid::from_u128(7));
}

fn revisions_follow_each_other(backing: &dyn Backing) {
    let mut store = backing.open(RETENTION);
    store.load().unwrap();
    assert!(matches!(
        store.commit(&[create(2, 1)]).unwrap_err(),
        StoreError::Revision { found: 2, expected: 1 }
    ));
}

fn the_log_keeps_its_last_revisions_and_says_where_it_starts(backing: &dyn Backing) {
    let mut store = backing.open(32);
    store.load().unwrap();
    for revision in 1..=200 {
        store.commit(&[create(revision, u128::from(revision))]).unwrap();
    }
    drop(store);
    let state = backing.open(32).load().unwrap();
    assert!((200 - 36..=200 - 32).contains(&state.compacted), "{}", state.compacted);
    let revisions: Vec<u64> = state.log.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, (state.compacted + 1..=200).collect::<Vec<_>>());
    assert_eq!(state.objects.len(), 200, "only the log is compacted");
}

/// A transaction that is larger than one request or one transaction of any engine is stored whole.
fn large_transactions_are_stored_whole(backing: &dyn Backing) {
    let mut store = backing.open(RETENTION);
    store.load().unwrap();
    let claim = |n: u128| Claim { key: format!("name/{n}"), owner: Uuid::from_u128(n) };
    let many = Transaction {
        revision: 1,
        puts: (1..=700).map(|n| object(n, 1, 1)).collect(),
        claims: (1..=700).map(claim).collect(),
        ..Transaction::default()
    };
    let heavy = |n: u128, revision| {
        let mut large = Object::clone(&object(n, revision, revision));
        large.properties.insert("filler".into(), json!("x".repeat(600_000)));
        Arc::new(large)
    };
    let bytes = Transaction {
        revision: 3,
        puts: (1001..=1004).map(|n| heavy(n, 3)).collect(),
        ..Transaction::default()
    };
    store.commit(&[many, create(2, 900), bytes, create(4, 901)]).unwrap();
    let fewer = Transaction {
        revision: 5,
        deletes: (1..=300)
            .map(|n| Tombstone {
                uuid: Uuid::from_u128(n),
                kind: Kind::VIRTUAL_NETWORK,
                created_revision: 1,
            })
            .collect(),
        releases: (1..=300).map(|n: u128| format!("name/{n}")).collect(),
        ..Transaction::default()
    };
    store.commit(&[fewer]).unwrap();
    let before = store.load().unwrap();
    drop(store);
    let mut store = backing.open(RETENTION);
    for state in [before, store.load().unwrap()] {
        assert_eq!(state.revision, 5);
        assert_eq!(state.objects.len(), 400 + 2 + 4);
        assert_eq!(state.claims.len(), 400 + 2);
        assert_eq!(state.log.len(), 700 + 1 + 4 + 1 + 300);
    }
    let thief = Transaction {
        revision: 6,
        puts: (2001..=2400).map(|n| object(n, 6, 6)).collect(),
        claims: vec![Claim { key: "name/650".into(), owner: Uuid::from_u128(2001) }],
        ..Transaction::default()
    };
    let error = store.commit(&[thief]).unwrap_err();
    assert!(matches!(error, StoreError::ClaimTaken { .. }), "{error}");
    assert_eq!(store.load().unwrap().revision, 5);
}
