//! The embedded store: what is committed is there, what fails is not, and errors say what to do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test fails by panicking

use std::{fs, path::Path, sync::Arc};

use serde_json::{Map, json};
use skein_model::{FqName, Kind, Object};
use skein_store::{Claim, EmbeddedStore, LogOp, ObjectStore, Options, StoreError, Tombstone, Transaction};
use uuid::Uuid;

fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path, Options::default()).unwrap()
}

fn object(n: u128, created: u64, revision: u64) -> Arc<Object> {
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

fn create(revision: u64, n: u128) -> Transaction {
    Transaction {
        revision,
        puts: vec![object(n, revision, revision)],
        claims: vec![Claim { key: format!("name/{n}"), owner: Uuid::from_u128(n) }],
        ..Transaction::default()
    }
}

fn delete(revision: u64, n: u128, created: u64) -> Transaction {
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

#[test]
fn everything_committed_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.redb");
    let mut store = open(&path);
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
    let state = open(&path).load().unwrap();
    assert_eq!(state.revision, 6);
    let order: Vec<u128> = state.objects.iter().map(|o| o.uuid.as_u128()).collect();
    assert_eq!(order, [3, 5], "in order of creation");
    assert_eq!(*state.objects[0], *object(3, 2, 4));
    assert_eq!(state.kv, [("b".to_owned(), "2".to_owned())]);
    let keys: Vec<&str> = state.claims.iter().map(|c| c.key.as_str()).collect();
    assert_eq!(keys, ["name/3", "name/5"]);
    let log: Vec<(u64, LogOp, u128)> = state.log.iter().map(|e| (e.revision, e.op, e.uuid.as_u128())).collect();
    let (create, update, delete) = (LogOp::Create, LogOp::Update, LogOp::Delete);
    assert_eq!(log, [(1, create, 9), (2, create, 3), (3, create, 5), (4, update, 3), (5, delete, 9)]);
}

#[test]
fn a_taken_claim_fails_the_whole_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.redb");
    let mut store = open(&path);
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

#[test]
fn revisions_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(&dir.path().join("config.redb"));
    store.load().unwrap();
    assert!(matches!(store.commit(&[create(2, 1)]).unwrap_err(), StoreError::Revision { found: 2, expected: 1 }));
}

#[test]
fn the_log_keeps_its_last_revisions_and_says_where_it_starts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.redb");
    let options = Options { log_retention: 32, ..Options::default() };
    let mut store = EmbeddedStore::open(&path, options.clone()).unwrap();
    store.load().unwrap();
    for revision in 1..=200 {
        store.commit(&[create(revision, u128::from(revision))]).unwrap();
    }
    drop(store);
    let state = EmbeddedStore::open(&path, options).unwrap().load().unwrap();
    assert!((200 - 36..=200 - 32).contains(&state.compacted), "{}", state.compacted);
    let revisions: Vec<u64> = state.log.iter().map(|e| e.revision).collect();
    assert_eq!(revisions, (state.compacted + 1..=200).collect::<Vec<_>>());
    assert_eq!(state.objects.len(), 200, "only the log is compacted");
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.redb");
    let _first = open(&path);
    let error = EmbeddedStore::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error:?}");
    assert!(error.to_string().contains("in use by another process"), "{error}");
}

#[test]
fn what_is_no_store_is_called_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.redb");
    fs::write(&path, b"this was never a database, whatever its name says; it is a text of some length").unwrap();
    let error = EmbeddedStore::open(&path, Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let missing = dir.path().join("no/such/directory/config.redb");
    let error = EmbeddedStore::open(missing, Options::default()).unwrap_err();
    assert!(matches!(error, StoreError::Io { .. }), "{error:?}");
}

/// A file with bytes flipped or cut off opens with an error or with intact objects, and never panics.
#[test]
fn damage_is_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.redb");
    let mut store = open(&path);
    store.load().unwrap();
    for revision in 1..=300 {
        store.commit(&[create(revision, u128::from(revision))]).unwrap();
    }
    drop(store);
    let good = fs::read(&path).unwrap();
    let mut noticed = 0;
    for cut in [1, 100, 4096, good.len() / 2, good.len() - 1] {
        fs::write(&path, &good[..cut]).unwrap();
        let read = std::panic::catch_unwind(|| {
            EmbeddedStore::open(&path, Options::default()).and_then(|mut store| store.load())
        });
        match read {
            Ok(Ok(state)) => assert_eq!(state.objects.len(), 300, "cut at {cut}"),
            Ok(Err(_)) => noticed += 1,
            Err(_) => panic!("cut at {cut}: the engine panics, which ends the daemon without a word"),
        }
    }
    assert!(noticed >= 4, "{noticed}");
}

/// Writes fail cleanly when the file system is full, and work again once there is room.
#[test]
fn a_full_disk_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("skein-store-test"), mount, Some("tmpfs"), flags, Some("size=6m"))
        .expect("this test mounts a small file system and needs root");
    let unmount = Unmount(mount);
    let path = mount.join("config.redb");
    let mut store = open(&path);
    store.load().unwrap();
    let ballast = mount.join("ballast");
    fs::write(&ballast, vec![0u8; 2 << 20]).unwrap();
    let mut acknowledged = 0;
    let error = loop {
        let group: Vec<Transaction> =
            (1..=20).map(|n| create(acknowledged + n, u128::from(acknowledged + n))).collect();
        match store.commit(&group) {
            Ok(()) => acknowledged += 20,
            Err(error) => break error,
        }
        assert!(acknowledged < 1_000_000, "the disk does not fill");
    };
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    assert!(acknowledged > 0);
    fs::remove_file(&ballast).unwrap();
    let state = store.load().unwrap();
    assert!(state.revision >= acknowledged);
    assert_eq!(state.objects.len() as u64, state.revision);
    store.commit(&[create(state.revision + 1, 1 << 64)]).unwrap();
    drop(store);
    assert_eq!(open(&path).load().unwrap().objects.len() as u64, state.revision + 1);
    drop(unmount);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
