//! What only etcd's store has: a lead that is won and lost, followers, and ways in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)] // a test fails by panicking

mod support;

use std::{path::Path, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use skein_store::{
    Campaign, Change, Etcd, EtcdOptions, EtcdStore, Leader, ObjectStore, StoreError, Transaction,
};
use support::{create, delete, etcd::Server, object};

const PATIENCE: Duration = Duration::from_secs(60);

/// A candidate that nobody keeps alive, with its store.
fn candidate(server: &Server, name: &str) -> (Etcd, Campaign, EtcdStore) {
    let options = EtcdOptions::new(vec![server.url()]);
    let etcd = Etcd::new(EtcdOptions { lease: Duration::from_secs(600), ..options }).unwrap();
    let campaign = Campaign::new(etcd.clone(), name, &format!("http://{name}"));
    let handle = tokio::runtime::Handle::current();
    let store = EtcdStore::new(etcd.clone(), campaign.tenure(), handle);
    (etcd, campaign, store)
}

/// Stores are for threads of their own.
async fn load(store: EtcdStore) -> (EtcdStore, Result<u64, StoreError>) {
    let mut store = store;
    let load = move || {
        let result = store.load().map(|state| state.revision);
        (store, result)
    };
    tokio::task::spawn_blocking(load).await.unwrap()
}

async fn commit(store: EtcdStore, group: Vec<Transaction>) -> (EtcdStore, Result<(), StoreError>) {
    let mut store = store;
    let commit = move || {
        let result = store.commit(&group);
        (store, result)
    };
    tokio::task::spawn_blocking(commit).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_lead_writes_nothing() {
    let server = Server::start();
    let (_, mut first, one) = candidate(&server, "first");
    let (etcd, mut second, two) = candidate(&server, "second");
    assert!(first.stand().await.unwrap());
    assert!(!second.stand().await.unwrap(), "there is one lead");
    let (one, result) = load(one).await;
    assert_eq!(result.unwrap(), 0);
    let (one, result) = commit(one, vec![create(1, 1)]).await;
    result.unwrap();
    // Its key goes while it believes to lead, as when it slept beyond its lease.
    server.meddle("kv/deleterange", &[("key", "/skein/leader")]);
    assert!(second.stand().await.unwrap());
    assert!(first.tenure().term().is_some());
    let (one, result) = commit(one, vec![create(2, 2)]).await;
    assert!(matches!(result, Err(StoreError::NotLeader)), "{result:?}");
    assert!(first.tenure().term().is_none(), "now it knows");
    let (_, result) = commit(one, vec![create(2, 2)]).await;
    assert!(matches!(result, Err(StoreError::NeedsLoad { .. })), "{result:?}");
    let (two, result) = load(two).await;
    assert_eq!(result.unwrap(), 1);
    let (_, result) = commit(two, vec![create(2, 3)]).await;
    result.unwrap();
    let loaded = etcd.load().await.unwrap();
    let leader = loaded.leader.unwrap();
    assert_eq!((leader.name.as_str(), leader.url.as_str()), ("second", "http://second"));
    let objects: Vec<u128> = loaded.state.objects.iter().map(|o| o.uuid.as_u128()).collect();
    assert_eq!(objects, [1, 3]);
    // In order, the place is free at once.
    second.resign().await;
    assert!(first.stand().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_another_moved_is_read_again() {
    let server = Server::start();
    let (etcd, mut campaign, one) = candidate(&server, "one");
    let handle = tokio::runtime::Handle::current();
    let two = EtcdStore::new(etcd, campaign.tenure(), handle);
    assert!(campaign.stand().await.unwrap());
    let (one, _) = load(one).await;
    let (two, _) = load(two).await;
    let (_, result) = commit(one, vec![create(1, 1)]).await;
    result.unwrap();
    let (two, result) = commit(two, vec![create(1, 2)]).await;
    assert!(matches!(result, Err(StoreError::NeedsLoad { .. })), "{result:?}");
    let (two, result) = load(two).await;
    assert_eq!(result.unwrap(), 1);
    let (_, result) = commit(two, vec![create(2, 2)]).await;
    result.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_not_renewed_ends() {
    let server = Server::start();
    let options = EtcdOptions::new(vec![server.url()]);
    let etcd = Etcd::new(EtcdOptions { lease: Duration::from_secs(2), ..options }).unwrap();
    let mut short = Campaign::new(etcd, "short", "http://short");
    assert!(short.stand().await.unwrap());
    assert!(short.keep().await.unwrap());
    let (_, mut next, _) = candidate(&server, "next");
    let mut won = false;
    let started = std::time::Instant::now();
    while !won {
        assert!(started.elapsed() < PATIENCE);
        won = next.stand().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(short.tenure().term().is_none(), "it stopped before another began");
    assert!(!short.keep().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_see_commits_whole_and_in_order() {
    let server = Server::start();
    let (etcd, mut campaign, store) = candidate(&server, "one");
    let before = etcd.load().await.unwrap();
    let mut changes = etcd.follow(before.at).await.unwrap();
    assert!(campaign.stand().await.unwrap());
    let (store, _) = load(store).await;
    let large = Transaction {
        revision: 3,
        puts: (100..500).map(|n| object(n, 3, 3)).collect(),
        ..Transaction::default()
    };
    let change = Transaction {
        revision: 4,
        puts: vec![object(1, 1, 4)],
        kv: vec![("a".into(), Some("b".into()))],
        ..Transaction::default()
    };
    let group = vec![create(1, 1), create(2, 2), large, change, delete(5, 2, 2)];
    let (_, result) = commit(store, group.clone()).await;
    result.unwrap();
    let mut seen = Vec::new();
    let mut leaders = Vec::new();
    while seen.len() < group.len() {
        let list = tokio::time::timeout(PATIENCE, changes.next()).await.unwrap().unwrap();
        for change in list {
            match change {
                Change::Leader(leader) => leaders.push(leader.map(|leader: Leader| leader.name)),
                Change::Commit(commit) => {
                    let known = seen.len() as u64;
                    if commit.revision() > known {
                        assert_eq!(commit.first(), known + 1);
                        seen.extend(etcd.transactions(commit, known).await.unwrap());
                    }
                }
            }
        }
    }
    assert_eq!(leaders, [Some("one".to_owned())]);
    for (seen, written) in seen.iter().zip(&group) {
        assert_eq!(seen.revision, written.revision);
        assert_eq!(seen.puts, written.puts);
        assert_eq!(seen.deletes, written.deletes);
    }
    let pairs: Vec<_> = seen.iter().flat_map(|seen| seen.kv.clone()).collect();
    assert_eq!(pairs, [("a".to_owned(), Some("b".to_owned()))]);
    // Who comes back from before sees the same again.
    let mut again = etcd.follow(before.at).await.unwrap();
    let list = tokio::time::timeout(PATIENCE, again.next()).await.unwrap().unwrap();
    assert!(!list.is_empty());
}

/// A writer that dies between the commit of a large transaction and its rows: others read it whole, and the next one finishes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_packed_commit_is_finished_by_the_next_writer() {
    let server = Server::start();
    let (etcd, mut campaign, store) = candidate(&server, "one");
    assert!(campaign.stand().await.unwrap());
    let (store, _) = load(store).await;
    let (store, result) = commit(store, vec![create(1, 1), create(2, 2)]).await;
    result.unwrap();
    drop(store);
    let row = |n: u128| {
        let text = serde_json::to_string(&*object(n, 3, 3)).unwrap();
        (format!("objects/{:020}/{}", 3, object(n, 3, 3).uuid), Some(text))
    };
    let gone = format!("objects/{:020}/{}", 1, object(1, 1, 1).uuid);
    let rows: Vec<(String, Option<String>)> =
        vec![row(7), row(8), (gone, None), ("claims/name/1".into(), None)];
    let packed = serde_json::to_string(&rows).unwrap();
    let (first, second) = packed.split_at(packed.len() / 2);
    let mut head: serde_json::Value =
        serde_json::from_slice(&etcd.get("head").await.unwrap().unwrap()).unwrap();
    for (field, value) in [("revision", 3), ("first", 3), ("packed", 2)] {
        head[field] = value.into();
    }
    let head = &head.to_string();
    for (key, value) in [("packed/000000", first), ("packed/000001", second), ("head", head)] {
        server.meddle("kv/put", &[("key", &format!("/skein/{key}")), ("value", value)]);
    }
    let objects = |state: &skein_store::State| {
        state.objects.iter().map(|o| o.uuid.as_u128()).collect::<Vec<_>>()
    };
    let state = etcd.load().await.unwrap().state;
    assert_eq!((state.revision, objects(&state)), (3, vec![2, 7, 8]));
    assert_eq!(state.claims.len(), 1);
    let handle = tokio::runtime::Handle::current();
    let next = EtcdStore::new(etcd.clone(), campaign.tenure(), handle);
    let (next, result) = load(next).await;
    assert_eq!(result.unwrap(), 3);
    let (_, result) = commit(next, vec![create(4, 9)]).await;
    result.unwrap();
    let state = etcd.load().await.unwrap().state;
    assert_eq!((state.revision, objects(&state)), (4, vec![2, 7, 8, 9]));
    assert_eq!(etcd.get("packed/000000").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_are_away_are_passed_over() {
    let server = Server::start();
    let options = EtcdOptions::new(vec!["http://127.0.0.1:1".into(), server.url()]);
    let etcd = Etcd::new(options).unwrap();
    assert_eq!(etcd.create("x", b"first".to_vec()).await.unwrap(), b"first");
    assert_eq!(etcd.create("x", b"second".to_vec()).await.unwrap(), b"first");
    assert_eq!(etcd.errors(), 1);
    etcd.follow(0).await.unwrap();
    let nobody = Etcd::new(EtcdOptions::new(vec!["http://127.0.0.1:1".into()])).unwrap();
    let error = nobody.load().await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1") && text.contains("refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_skeins_is_refused() {
    let server = Server::start();
    let etcd = Etcd::new(EtcdOptions::new(vec![server.url()])).unwrap();
    server.meddle("kv/put", &[("key", "/skein/head"), ("value", "nonsense")]);
    let error = etcd.load().await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let future = r#"{"format":9,"revision":3,"first":3,"compacted":0,"term":1,
        "id":"00000000-0000-0000-0000-000000000000"}"#;
    server.meddle("kv/put", &[("key", "/skein/head"), ("value", future)]);
    let error = etcd.load().await.unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 9, .. }), "{error:?}");
}

/// An authority with what it issued, in a folder.
fn certificates(dir: &Path) -> support::etcd::Files {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&key).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    let issuer = Issuer::new(authority, key);
    for name in ["server", "client"] {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let issued = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), issued.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
    support::etcd::Files {
        certificate: dir.join("server.pem"),
        key: dir.join("server.key"),
        clients: dir.join("ca.pem"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_certificates_of_both_ends() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start_with(Some(certificates(ours.path())));
    certificates(theirs.path());
    let options = |ca: &Path, of: Option<&Path>| EtcdOptions {
        ca: Some(ca.join("ca.pem")),
        certificate: of.map(|dir| dir.join("client.pem")),
        key: of.map(|dir| dir.join("client.key")),
        ..EtcdOptions::new(vec![server.url()])
    };
    let good = Etcd::new(options(ours.path(), Some(ours.path()))).unwrap();
    assert_eq!(good.create("x", b"y".to_vec()).await.unwrap(), b"y");
    for (wrong, reason) in [
        (options(theirs.path(), Some(ours.path())), "certificate"),
        (options(ours.path(), Some(theirs.path())), "certificate"),
        (options(ours.path(), None), "certificate"),
    ] {
        let error = Etcd::new(wrong).unwrap().get("x").await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, StoreError::Unreachable { .. }), "{text}");
        assert!(text.to_lowercase().contains(reason), "{text}");
    }
    let mut half = options(ours.path(), Some(ours.path()));
    half.key = None;
    assert!(matches!(Etcd::new(half), Err(StoreError::EtcdSettings { .. })));
    let missing = options(Path::new("/nowhere"), None);
    assert!(matches!(Etcd::new(missing), Err(StoreError::EtcdSettings { .. })));
}
