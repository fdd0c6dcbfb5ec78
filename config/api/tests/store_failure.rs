//! A store that fails: nobody is told that something was stored which was not, and the server recovers.

mod support;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use serde_json::json;
use skein_api::{Config, NoAuth, Server};
use skein_client::{Client, Event};
use skein_model::Kind;
use skein_store::{EmbeddedStore, ObjectStore, Options, State, StoreError, Transaction};
use support::{network, refused};

const WORKS: u8 = 0;
const REFUSES: u8 = 1;
/// Writes, and then says that it did not: an fsync that fails after the data is out.
const LIES: u8 = 2;

struct Faulty {
    inner: EmbeddedStore,
    mode: Arc<AtomicU8>,
}

impl ObjectStore for Faulty {
    fn load(&mut self) -> Result<State, StoreError> {
        match self.mode.load(Ordering::SeqCst) {
            REFUSES => Err(StoreError::DiskFull { path: "test".into() }),
            _ => self.inner.load(),
        }
    }

    fn commit(&mut self, group: &[Transaction]) -> Result<(), StoreError> {
        match self.mode.load(Ordering::SeqCst) {
            WORKS => self.inner.commit(group),
            REFUSES => Err(StoreError::DiskFull { path: "test".into() }),
            _ => {
                self.inner.commit(group)?;
                self.mode.store(WORKS, Ordering::SeqCst);
                Err(StoreError::NeedsLoad { path: "test".into() })
            }
        }
    }
}

#[tokio::test]
async fn a_failing_store_is_refused_writes_until_it_works_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.redb");
    let inner = EmbeddedStore::open(&path, Options::default()).unwrap();
    let mode = Arc::new(AtomicU8::new(WORKS));
    let store = Box::new(Faulty { inner, mode: Arc::clone(&mode) });
    let config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), path);
    let server = Server::start_with(config, store, Arc::new(NoAuth)).await.unwrap();
    let client = Client::new(&server.local_addr().to_string()).unwrap();
    let net =
        client.create(Kind::VIRTUAL_NETWORK, network("front", &["10.0.0.0/24"])).await.unwrap();
    let mut watcher = client.watch(&[Kind::INSTANCE_IP]);
    let Event::Snapshot(..) = watcher.next().await else { panic!("no snapshot") };
    let ip = |name: &str| json!({"fq_name": [name], "virtual_network_refs": [{"uuid": net}]});
    let before = server.revision();

    mode.store(REFUSES, Ordering::SeqCst);
    for name in ["a", "b"] {
        let (status, text) = refused(client.create(Kind::INSTANCE_IP, ip(name)).await).unwrap_err();
        assert_eq!(status, 503);
        assert!(text.contains("no space left"), "{text}");
    }
    assert_eq!(server.revision(), before, "readers see nothing of it");
    client.get(Kind::VIRTUAL_NETWORK, net).await.unwrap();
    assert!(support::http_get(server.local_addr(), "/readyz").await.starts_with("HTTP/1.1 503 "));

    mode.store(WORKS, Ordering::SeqCst);
    let first = client.create(Kind::INSTANCE_IP, ip("a")).await.unwrap();
    let first = client.get(Kind::INSTANCE_IP, first).await.unwrap();
    assert_eq!(
        first.properties["instance_ip_address"], "10.0.0.252",
        "refused writes hold no address"
    );
    assert!(support::http_get(server.local_addr(), "/readyz").await.starts_with("HTTP/1.1 200 "));

    // The outcome of this one is unknown to its client, and known to everyone after the store was read again.
    mode.store(LIES, Ordering::SeqCst);
    let (status, _) = refused(client.create(Kind::INSTANCE_IP, ip("b")).await).unwrap_err();
    assert_eq!(status, 503);
    let third = client.create(Kind::INSTANCE_IP, ip("c")).await.unwrap();
    let third = client.get(Kind::INSTANCE_IP, third).await.unwrap();
    assert_eq!(third.properties["instance_ip_address"], "10.0.0.250", "what was written is held");
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match watcher.next().await {
            Event::Put(object, _) => seen.push(object.name().to_owned()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["a", "b", "c"]);
}
