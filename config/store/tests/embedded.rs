//! The embedded store: damage, full disks and second processes; `contract.rs` has what every store does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test fails by panicking

mod support;

use std::{fs, path::Path};

use skein_store::{EmbeddedStore, ObjectStore, Options, StoreError, Transaction};
use support::create;

fn open(path: &Path) -> EmbeddedStore {
    EmbeddedStore::open(path, Options::default()).unwrap()
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
    fs::write(
        &path,
        b"this was never a database, whatever its name says; it is a text of some length",
    )
    .unwrap();
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
            Err(_) => {
                panic!("cut at {cut}: the engine panics, which ends the daemon without a word")
            }
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
