//! Several replicas on one etcd: one order of writes, the same view everywhere, and nothing lost when one of them goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::needless_pass_by_value
)] // a test fails by panicking

#[path = "../../store/tests/support/etcd.rs"]
mod etcd;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::Method;
use serde_json::{Value, json};
use skein_api::{Cluster, Config, Server};
use skein_client::{Client, ClientError, Event, ListOptions};
use skein_model::Kind;
use skein_store::{Etcd, EtcdOptions};
use support::{network, refused};
use uuid::Uuid;

/// Longest wait for something on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

async fn replica(etcd: &etcd::Server, name: &str) -> (Server, Client) {
    replica_with(etcd, name, Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), "unused".into()))
        .await
}

async fn replica_with(etcd: &etcd::Server, name: &str, config: Config) -> (Server, Client) {
    let cluster = Cluster {
        // No lead is lost here because the machine is busy.
        etcd: EtcdOptions { lease: Duration::from_secs(30), ..EtcdOptions::new(vec![etcd.url()]) },
        name: name.to_owned(),
        advertise: String::new(),
        peers: None,
    };
    let server = Server::start_replica(config, cluster).await.unwrap();
    let client = Client::new(&format!("http://{}", server.local_addr())).unwrap();
    (server, client)
}

/// Asks until the answer is yes.
async fn until<F: Future<Output = bool>>(what: &str, ask: impl Fn() -> F) {
    let started = Instant::now();
    while !ask().await {
        assert!(started.elapsed() < PATIENCE, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ready(server: &Server) -> bool {
    support::http_get(server.local_addr(), "/readyz").await.starts_with("HTTP/1.1 200 ")
}

async fn metric(server: &Server, name: &str) -> i64 {
    let text = support::http_get(server.local_addr(), "/metrics").await;
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

async fn leads(server: &Server) -> bool {
    metric(server, "skein_api_leader ").await == 1
}

/// Everything that an API shows, by uuid.
async fn everything(client: &Client) -> BTreeMap<Uuid, Value> {
    let mut all = BTreeMap::new();
    for kind in Kind::all() {
        for object in client.list(kind, &ListOptions::default()).await.unwrap() {
            let mut value = serde_json::to_value(&object).unwrap();
            // Lists do not carry revisions.
            value.as_object_mut().unwrap().remove("revision");
            all.insert(object.uuid, value);
        }
    }
    all
}

/// What etcd holds, read by somebody who knows nothing.
async fn stored(etcd: &etcd::Server) -> skein_store::State {
    Etcd::new(EtcdOptions::new(vec![etcd.url()])).unwrap().load().await.unwrap().state
}

/// All events of a replica from a revision on, up to another.
async fn history(client: &Client, from: u64, to: u64) -> Vec<(u64, String)> {
    use http_body_util::BodyExt as _;
    let uri = format!("{}/watch?resource_type=*&since={from}", client.base());
    let pool = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http::<http_body_util::Empty<bytes::Bytes>>();
    let answer = pool.get(uri.parse().unwrap()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    let mut text = String::new();
    let mut events = Vec::new();
    while events.last().is_none_or(|(revision, _)| *revision < to) {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let field = |name: &str| {
                event
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or_default()
                    .to_owned()
            };
            let revision = field("id: ").parse().unwrap();
            events.push((revision, format!("{} {}", field("event: "), field("data: "))));
        }
    }
    events
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writes_through_all_replicas_have_one_order() {
    let etcd = etcd::Server::start();
    let replicas =
        [replica(&etcd, "a").await, replica(&etcd, "b").await, replica(&etcd, "c").await];
    for (server, _) in &replicas {
        until("a replica is ready", || ready(server)).await;
    }
    let net = replicas[0]
        .1
        .create(Kind::VIRTUAL_NETWORK, network("shared", &["10.0.0.0/16"]))
        .await
        .unwrap();
    let start = replicas[0].0.revision();
    let mut writers = Vec::new();
    for writer in 0..9_usize {
        let client = replicas[writer % 3].1.clone();
        writers.push(tokio::spawn(async move {
            let mut addresses = Vec::new();
            for n in 0..25 {
                let name = format!("{writer}-{n}");
                let fields = json!({"fq_name": [name], "virtual_network_refs": [{"uuid": net}]});
                let ip = client.create(Kind::INSTANCE_IP, fields).await.unwrap();
                // Read your writes, through the replica they went by.
                let object = client.get(Kind::INSTANCE_IP, ip).await.unwrap();
                let address = object.properties["instance_ip_address"].as_str().unwrap().to_owned();
                if n % 3 == 1 {
                    let fields = json!({"display_name": format!("again {name}")});
                    client.update(Kind::INSTANCE_IP, ip, fields).await.unwrap();
                }
                if n % 4 == 2 {
                    client.delete(Kind::INSTANCE_IP, ip).await.unwrap();
                    let gone = refused(client.get(Kind::INSTANCE_IP, ip).await).unwrap_err();
                    assert_eq!(gone.0, 404);
                    continue;
                }
                client.kv_store(&name, &name).await.unwrap();
                assert_eq!(client.kv_get(&name).await.unwrap(), Some(name));
                addresses.push(address);
            }
            addresses
        }));
    }
    let mut addresses = Vec::new();
    for writer in writers {
        addresses.extend(writer.await.unwrap());
    }
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len());
    // One more write, by which the others can be asked for all before it.
    let last = support::create_mark(&replicas[1].1).await;
    for (_, client) in &replicas {
        assert!(support::demand(client, last).await);
    }
    let views = [
        everything(&replicas[0].1).await,
        everything(&replicas[1].1).await,
        everything(&replicas[2].1).await,
    ];
    assert_eq!(views[0], views[1]);
    assert_eq!(views[0], views[2]);
    let state = stored(&etcd).await;
    assert_eq!(state.revision, last);
    let uuids: BTreeSet<Uuid> = state.objects.iter().map(|object| object.uuid).collect();
    assert_eq!(uuids, views[0].keys().copied().collect());
    // The same events under the same revisions, with none left out: each write of an object is one.
    let histories = [
        history(&replicas[0].1, start, last - 1).await,
        history(&replicas[1].1, start, last - 1).await,
        history(&replicas[2].1, start, last - 1).await,
    ];
    let revisions = |history: &[(u64, String)]| {
        history.iter().map(|(revision, _)| *revision).collect::<BTreeSet<_>>()
    };
    assert_eq!(revisions(&histories[0]), revisions(&histories[1]));
    assert_eq!(revisions(&histories[0]), revisions(&histories[2]));
    let kinds = |history: &[(u64, String)]| {
        history.iter().map(|(r, e)| (*r, e[..6].to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&histories[0]), kinds(&histories[1]));
    assert_eq!(kinds(&histories[0]), kinds(&histories[2]));
    let mut leaders = 0;
    for (server, _) in &replicas {
        leaders += metric(server, "skein_api_leader ").await;
    }
    assert_eq!(leaders, 1);
    for (server, _) in replicas {
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_stops_in_order_is_followed_at_once() {
    let etcd = etcd::Server::start();
    let first = replica(&etcd, "first").await;
    until("the first leads", || leads(&first.0)).await;
    let second = replica(&etcd, "second").await;
    until("the second follows", || ready(&second.0)).await;
    let net = first.1.create(Kind::VIRTUAL_NETWORK, network("n", &["10.0.0.0/24"])).await.unwrap();
    let mut watcher = second.1.watch(&[Kind::INSTANCE_IP]);
    let Event::Snapshot(..) = watcher.next().await else { panic!("no snapshot") };
    let client = second.1.clone();
    let writing = tokio::spawn(async move {
        for n in 0..40 {
            let fields =
                json!({"fq_name": [format!("ip-{n}")], "virtual_network_refs": [{"uuid": net}]});
            client.create(Kind::INSTANCE_IP, fields).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    first.0.shutdown().await;
    writing.await.unwrap();
    until("the second leads", || leads(&second.0)).await;
    for n in 0..40 {
        match tokio::time::timeout(PATIENCE, watcher.next()).await.unwrap() {
            Event::Put(object, _) => assert_eq!(object.name(), format!("ip-{n}")),
            other => panic!("{other:?}"),
        }
    }
    second.0.shutdown().await;
}

/// Sends a write as another replica does, on a connection that stays open.
fn hand_on(peer: &mut std::net::TcpStream, name: &str) -> String {
    use std::io::{Read as _, Write as _};
    let body = json!({"virtual-machine": {"fq_name": [name]}}).to_string();
    let length = body.len();
    let request = format!(
        "POST /virtual-machines HTTP/1.1\r\nhost: test\r\nx-skein-forwarded: other\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    peer.write_all(request.as_bytes()).unwrap();
    // Answers of less than one segment come at once.
    let mut answer = vec![0; 16_384];
    let length = peer.read(&mut answer).unwrap();
    String::from_utf8(answer[..length].to_vec()).unwrap()
}

/// Until nobody hands writes on to it any more, a leader that stops answers that it did not do them: a connection closed
/// under one would leave its sender in doubt. Replicas that see the change close theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_stops_leaves_nobody_in_doubt() {
    let etcd = etcd::Server::start();
    let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)), "unused".into());
    // Only closed connections end the wait for the others.
    config.drain = PATIENCE * 10;
    let first = replica_with(&etcd, "first", config).await;
    until("the first leads", || leads(&first.0)).await;
    let second = replica(&etcd, "second").await;
    until("the second follows", || ready(&second.0)).await;
    let mut slow = std::net::TcpStream::connect(first.0.local_addr()).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let answer = hand_on(&mut slow, "before");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let vm = |name: &str| json!({"fq_name": [name]});
    // By a connection of the second's to the first.
    second.1.create(Kind::VIRTUAL_MACHINE, vm("handed-on")).await.unwrap();
    let stopping = tokio::spawn(first.0.shutdown());
    until("the second leads", || leads(&second.0)).await;
    // One that has not seen it yet.
    let answer = tokio::task::spawn_blocking(move || (hand_on(&mut slow, "late"), slow));
    let (answer, slow) = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("x-skein-not-leading: 1"), "{answer}");
    assert!(!stopping.is_finished());
    second.1.create(Kind::VIRTUAL_MACHINE, vm("late")).await.unwrap();
    drop(slow);
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
    second.0.shutdown().await;
}

/// A watcher goes on at another replica from where it was, with nothing twice and nothing missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_goes_on_at_another_replica() {
    let etcd = etcd::Server::start();
    let first = replica(&etcd, "first").await;
    until("the first leads", || ready(&first.0)).await;
    let net = first.1.create(Kind::VIRTUAL_NETWORK, network("n", &["10.0.0.0/24"])).await.unwrap();
    let before = first.0.revision();
    for n in 0..5 {
        let fields =
            json!({"fq_name": [format!("ip-{n}")], "virtual_network_refs": [{"uuid": net}]});
        first.1.create(Kind::INSTANCE_IP, fields).await.unwrap();
    }
    let last = first.0.revision();
    // One that started later has read the past.
    let second = replica(&etcd, "second").await;
    let there = history(&second.1, before, last).await;
    let here = history(&first.1, before, last).await;
    let short =
        |h: &[(u64, String)]| h.iter().map(|(r, e)| (*r, e[..6].to_owned())).collect::<Vec<_>>();
    assert_eq!(short(&here), short(&there));
    assert_eq!(there.len(), 5);
    // One that is ahead of every replica is told after a while.
    let path = format!("/watch?resource_type=*&since={}", last + 1000);
    let answer = second.1.request(Method::GET, &path, None).await;
    assert!(matches!(answer, Err(ClientError::Refused { status: 410, .. })), "{answer:?}");
    second.0.shutdown().await;
    first.0.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn without_etcd_reads_go_on_and_writes_are_refused() {
    let mut etcd = etcd::Server::start();
    let one = replica(&etcd, "one").await;
    let two = replica(&etcd, "two").await;
    for (server, _) in [&one, &two] {
        until("a replica is ready", || ready(server)).await;
    }
    let net = two.1.create(Kind::VIRTUAL_NETWORK, network("n", &["10.0.0.0/24"])).await.unwrap();
    etcd.kill();
    for (server, client) in [&one, &two] {
        let fields = json!({"fq_name": ["lost"], "virtual_network_refs": [{"uuid": net}]});
        let (status, text) = refused(client.create(Kind::INSTANCE_IP, fields).await).unwrap_err();
        assert_eq!(status, 503, "{text}");
        client.get(Kind::VIRTUAL_NETWORK, net).await.unwrap();
        until("it says that it is not ready", || async { !ready(server).await }).await;
        assert!(metric(server, "skein_api_etcd_errors").await > 0);
    }
    etcd.run();
    for (server, client) in [&one, &two] {
        until("it works again", || ready(server)).await;
        let name = format!("after-{}", server.local_addr().port());
        let fields = json!({"fq_name": [name], "virtual_network_refs": [{"uuid": net}]});
        client.create(Kind::INSTANCE_IP, fields).await.unwrap();
    }
    let state = stored(&etcd).await;
    let ips = state.objects.iter().filter(|o| o.kind == Kind::INSTANCE_IP).count();
    assert!((2..=4).contains(&ips), "{ips}");
    one.0.shutdown().await;
    two.0.shutdown().await;
}

/// A write that is under way when etcd restarts is answered when etcd is back, and done once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_restart_of_etcd_loses_nothing() {
    let mut etcd = etcd::Server::start();
    let (server, client) = replica(&etcd, "only").await;
    until("it leads", || ready(&server)).await;
    let net = client.create(Kind::VIRTUAL_NETWORK, network("n", &["10.0.0.0/16"])).await.unwrap();
    let done = Arc::new(tokio::sync::Mutex::new(BTreeSet::new()));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (client, done, stop) = (client.clone(), Arc::clone(&done), Arc::clone(&stop));
            tokio::spawn(async move {
                for n in 0.. {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    let name = format!("{writer}-{n}");
                    let fields =
                        json!({"fq_name": [name], "virtual_network_refs": [{"uuid": net}]});
                    if client.create(Kind::INSTANCE_IP, fields).await.is_ok() {
                        done.lock().await.insert(name);
                    }
                }
            })
        })
        .collect();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        etcd.kill();
        etcd.run();
        let count = done.lock().await.len();
        until("writes go on", || async { done.lock().await.len() > count + 5 }).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let done = done.lock().await;
    let list = client.list(Kind::INSTANCE_IP, &ListOptions::default()).await.unwrap();
    let shown: BTreeSet<String> = list.iter().map(|object| object.name().to_owned()).collect();
    assert!(done.is_subset(&shown), "{:?}", done.difference(&shown).collect::<Vec<_>>());
    let state = stored(&etcd).await;
    let kept: BTreeSet<String> = state
        .objects
        .iter()
        .filter(|object| object.kind == Kind::INSTANCE_IP)
        .map(|object| object.name().to_owned())
        .collect();
    assert_eq!(kept, shown);
    server.shutdown().await;
}

/// An etcd whose disk is lost does not empty the network: what is known is shown until a person decides.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_etcd_that_lost_its_data_is_not_believed() {
    let mut etcd = etcd::Server::start();
    let (server, client) = replica(&etcd, "one").await;
    let (second, _) = replica(&etcd, "two").await;
    until("it leads", || ready(&server)).await;
    let net = client.create(Kind::VIRTUAL_NETWORK, network("n", &["10.0.0.0/24"])).await.unwrap();
    let revision = server.revision();
    // One that knows nothing yet has nothing to compare with.
    until("the second knows it", || async { second.revision() == revision }).await;
    etcd.kill();
    etcd.wipe();
    etcd.run();
    for server in [&server, &second] {
        until("it says that it is not ready", || async { !ready(server).await }).await;
    }
    let fields = json!({"fq_name": ["lost"], "virtual_network_refs": [{"uuid": net}]});
    let (status, text) = refused(client.create(Kind::INSTANCE_IP, fields).await).unwrap_err();
    assert_eq!(status, 503, "{text}");
    client.get(Kind::VIRTUAL_NETWORK, net).await.unwrap();
    assert!(!ready(&server).await && !ready(&second).await);
    assert_eq!(stored(&etcd).await.revision, 0, "nobody begins anew");
    assert_eq!((server.revision(), second.revision()), (revision, revision));
    server.shutdown().await;
    second.shutdown().await;
}
