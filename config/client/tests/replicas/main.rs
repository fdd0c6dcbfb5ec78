//! A client of several replicas: a real API behind doors that fail as networks and hosts do. All doors lead to one server, so
//! what a call did is seen whichever door it took.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod relay;

use std::net::SocketAddr;

use hyper::Method;
use relay::{Door, Mood};
use serde_json::{Value, json};
use skein_api::{Config, Server};
use skein_client::{Client, ClientError, Event, ListOptions};
use skein_model::Kind;
use uuid::Uuid;

struct Bed {
    server: Option<Server>,
    doors: Vec<Door>,
    client: Client,
    _directory: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let server =
            Server::start(Config::new(listen, directory.path().join("config.redb"))).await.unwrap();
        let mut doors = Vec::new();
        for _ in 0..3 {
            doors.push(Door::to(server.local_addr()).await);
        }
        let list: Vec<String> =
            doors.iter().map(|door| format!("http://{}", door.address)).collect();
        let client = Client::new(&list.join(",")).unwrap();
        Self { server: Some(server), doors, client, _directory: directory }
    }

    /// The number of tags called so.
    async fn tags(&self, value: &str) -> usize {
        let all = self.client.list(Kind::TAG, &ListOptions::default()).await.unwrap();
        all.iter().filter(|tag| tag.properties.get("tag_value") == Some(&json!(value))).count()
    }
}

fn tag(value: &str) -> Value {
    json!({"fq_name": [format!("application={value}")], "tag_type_name": "application", "tag_value": value})
}

#[tokio::test]
async fn calls_go_on_while_a_replica_is_left() {
    let bed = Bed::new().await;
    let client = &bed.client;
    client.create(Kind::TAG, tag("a")).await.unwrap();
    assert!(bed.doors[0].passed() > 0 && bed.doors[1].passed() == 0, "the first is preferred");
    for (lost, mood) in [(0, Mood::Closed), (1, Mood::Busy), (2, Mood::LosesRequests)] {
        bed.doors.iter().for_each(|door| door.set(Mood::Open));
        bed.doors[lost].set(mood);
        let name = format!("without-{lost}");
        let uuid = client.create(Kind::TAG, tag(&name)).await.unwrap();
        client.update(Kind::TAG, uuid, json!({"display_name": "d"})).await.unwrap();
        assert_eq!(bed.tags(&name).await, 1);
        client.delete(Kind::TAG, uuid).await.unwrap();
    }
    bed.doors[0].set(Mood::Closed);
    bed.doors[1].set(Mood::Closed);
    bed.doors[2].set(Mood::Open);
    client.create(Kind::TAG, tag("one-left")).await.unwrap();
    bed.doors.iter().for_each(|door| door.set(Mood::Closed));
    let error = client.create(Kind::TAG, tag("none-left")).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{text}");
    for door in &bed.doors {
        assert!(text.contains(&door.address.to_string()), "each is named: {text}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_nothing_is_done_twice() {
    let bed = Bed::new().await;
    let client = &bed.client;
    let lose = || bed.doors[0].set(Mood::LosesAnswers);
    // Without a uuid of the caller's: the client gives one.
    lose();
    let uuid = client.create(Kind::TAG, tag("a")).await.unwrap();
    assert!(bed.doors[0].passed() == 1 && bed.doors[1].passed() > 0, "it was sent twice");
    assert_eq!(bed.tags("a").await, 1);
    assert_eq!(client.get(Kind::TAG, uuid).await.unwrap().uuid, uuid);
    // With one, as those who derive them do.
    let own = Uuid::from_u128(77);
    let mut fields = tag("b");
    fields["uuid"] = json!(own);
    assert_eq!(fresh(&bed).create(Kind::TAG, fields).await.unwrap(), own);
    // A name that was taken before is refused all the same.
    let refused = fresh(&bed).create(Kind::TAG, tag("b")).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    // And so is a uuid that stands for something else.
    let mut other = tag("c");
    other["uuid"] = json!(own);
    let refused = fresh(&bed).create(Kind::TAG, other).await.unwrap_err();
    assert!(refused.is_conflict(), "{refused}");
    fresh(&bed).update(Kind::TAG, own, json!({"display_name": "x"})).await.unwrap();
    fresh(&bed).delete(Kind::TAG, own).await.unwrap();
    let missing = client.delete(Kind::TAG, own).await.unwrap_err();
    assert!(missing.is_not_found(), "nothing was lost this time: {missing}");
}

/// Another client of the same doors, which knows nothing of their faults.
fn fresh(bed: &Bed) -> Client {
    Client::new(bed.client.base()).unwrap()
}

#[tokio::test]
async fn what_cannot_be_done_twice_is_not() {
    let bed = Bed::new().await;
    let client = &bed.client;
    let fields = json!({
        "fq_name": ["default-domain", "default-project", "n"],
        "network_ipam_refs": [{
            "to": ["default-domain", "default-project", "default-network-ipam"],
            "attr": {"ipam_subnets": [{"subnet": {"ip_prefix": "10.0.0.0", "ip_prefix_len": 24}}]},
        }],
    });
    let network = client.create(Kind::VIRTUAL_NETWORK, fields).await.unwrap();
    let first = client.ip_alloc(network, 1, None).await.unwrap();
    bed.doors[0].set(Mood::LosesAnswers);
    let error = fresh(&bed).ip_alloc(network, 1, None).await.unwrap_err();
    assert!(error.to_string().contains("may have been done"), "{error}");
    assert_eq!(bed.doors[1].passed(), 0, "nobody else was asked");
    // Never sent is not perhaps done.
    bed.doors[0].set(Mood::Closed);
    let second = fresh(&bed).ip_alloc(network, 1, None).await.unwrap();
    assert_ne!(first, second);
    let body = json!({"type": "tag", "fq_name": ["none"]});
    let read = fresh(&bed).request(Method::POST, "/fqname-to-id", Some(&body)).await.unwrap_err();
    assert!(read.is_not_found(), "{read}");
}

#[tokio::test]
async fn a_watch_goes_on_at_another_replica_and_misses_nothing() {
    let bed = Bed::new().await;
    let mut watcher = bed.client.watch(&[Kind::TAG]);
    assert!(matches!(watcher.next().await, Event::Snapshot(..)));
    let server = bed.server.as_ref().unwrap().local_addr();
    let writer = Client::new(&format!("http://{server}")).unwrap();
    let mut last = None;
    for round in 0..6 {
        // Only one door stays open, another one each time.
        for (index, door) in bed.doors.iter().enumerate() {
            door.set(if index == round % 3 { Mood::Open } else { Mood::Closed });
        }
        let uuid = writer.create(Kind::TAG, tag(&format!("t{round}"))).await.unwrap();
        loop {
            match watcher.next().await {
                Event::Put(object, _) if object.uuid == uuid => break,
                Event::Put(object, _) => {
                    assert_eq!(Some(object.uuid), last, "only what came last may come again");
                }
                other => panic!("a watch that goes on does not list again: {other:?}"),
            }
        }
        last = Some(uuid);
    }
}

#[tokio::test]
async fn clients_wait_for_replicas_that_come_back() {
    let bed = Bed::new().await;
    bed.doors.iter().for_each(|door| door.set(Mood::Closed));
    let client = bed.client.clone();
    let call = tokio::spawn(async move { client.create(Kind::TAG, tag("late")).await });
    // However slow the machine: the call either waits or has not begun.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    bed.doors[1].set(Mood::Open);
    call.await.unwrap().unwrap();
    assert_eq!(bed.tags("late").await, 1);
}

impl Drop for Bed {
    fn drop(&mut self) {
        // The server's threads end with it.
        drop(self.server.take());
    }
}
