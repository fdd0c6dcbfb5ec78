//! The server on real sockets of the loopback interface, with upstreams that behave and others that do not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed step is a failed test")]

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use skein_dns::{
    Endpoint, Forwarder, Limits, Next, Order, Outcome, RecordSet, RecordSpec, Shared, Upstreams,
    ZoneSpec, serve,
};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;

/// Long enough that nobody but a dead upstream fails for the time, on a busy machine either.
const LIMITS: Limits = Limits {
    attempt: Duration::from_secs(2),
    total: Duration::from_secs(9),
    under_way: 64,
    rest: Duration::from_secs(300),
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that is free for both transports, held.
async fn free_port() -> (UdpSocket, TcpListener) {
    loop {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn answer(query: &[u8], addresses: u8) -> Message {
    let mut message = Message::from_vec(query).unwrap().into_response();
    let name = message.queries[0].name.clone();
    for last in 0..addresses {
        let data = RData::A(A::new(192, 0, 2, last));
        message.add_answer(Record::from_rdata(name.clone(), 60, data));
    }
    message
}

/// An upstream of 100 addresses, which therefore only fit into a stream. `silent` ones hear and say nothing.
async fn upstream(silent: bool) -> (SocketAddr, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (socket, listener) = free_port().await;
    let address = socket.local_addr().unwrap();
    let count = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            if silent {
                continue;
            }
            let query = &buffer[..length];
            let big =
                Message::from_vec(query).unwrap().queries[0].name.to_ascii().starts_with("big");
            let mut reply = answer(query, u8::from(!big));
            reply.metadata.truncation = big;
            // Somebody guesses first, with another id and with another question.
            let mut guess = answer(query, 2);
            guess.metadata.id ^= 1;
            socket.send_to(&guess.to_vec().unwrap(), client).await.unwrap();
            let mut other = answer(query, 2);
            other.queries[0].name = Name::from_ascii("other.example.").unwrap();
            socket.send_to(&other.to_vec().unwrap(), client).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            socket.send_to(&reply.to_vec().unwrap(), client).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await.unwrap();
            let reply = answer(&query, 100).to_vec().unwrap();
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        }
    });
    (address, asked)
}

struct Served {
    shared: Arc<Shared>,
    address: SocketAddr,
    _endpoints: watch::Sender<Vec<Endpoint>>,
}

async fn served(upstreams: Vec<SocketAddr>) -> Served {
    let shared = Arc::new(Shared::default());
    {
        let mut zones = shared.zones.write();
        let spec = ZoneSpec {
            id: "c".into(),
            domain: "cluster.local".into(),
            order: Order::Fixed,
            default_ttl: 5,
            negative_ttl: 5,
            next: Next::Upstream,
            reverse: true,
            cluster: true,
        };
        zones.set_zone(spec).unwrap();
        let records = (0..100).map(|n| RecordSpec {
            name: "big.default.svc".into(),
            kind: "A".into(),
            data: format!("10.0.0.{n}"),
            ..RecordSpec::default()
        });
        zones.set_records(RecordSet {
            id: "big".into(),
            zone: "c".into(),
            records: records.collect(),
        });
        zones.set_views(BTreeMap::from([("pods".into(), Some("c".into()))]));
    }
    let held = free_port().await;
    let address = held.0.local_addr().unwrap();
    drop(held);
    let upstreams = Upstreams::new(upstreams, Path::new("/nonexistent"));
    let forwarder = Forwarder::new(shared.clone(), upstreams, LIMITS);
    let endpoint = Endpoint { address, device: Some("lo".into()), view: "pods".into() };
    let (endpoints, changes) = watch::channel(vec![endpoint]);
    tokio::spawn(serve(shared.clone(), forwarder, changes));
    let start = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        assert!(start.elapsed() < PATIENCE, "nobody listens at {address}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Served { shared, address, _endpoints: endpoints }
}

async fn udp(server: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await;
    let length = received.expect("an answer").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn tcp(server: SocketAddr, queries: &[Vec<u8>]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let mut out = Vec::new();
    for query in queries {
        stream.write_u16(u16::try_from(query.len()).unwrap()).await.unwrap();
        stream.write_all(query).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut reply = vec![0; usize::from(length)];
        stream.read_exact(&mut reply).await.unwrap();
        out.push(Message::from_vec(&reply).unwrap());
    }
    out
}

#[tokio::test]
async fn both_transports_answer_and_what_is_too_long_is_asked_again_by_tcp() {
    let served = served(Vec::new()).await;
    let query = query(7, "big.default.svc.cluster.local.");
    let short = udp(served.address, &query).await;
    assert!(short.metadata.truncation && !short.answers.is_empty());
    for whole in tcp(served.address, &[query.clone(), query]).await {
        assert_eq!((whole.metadata.id, whole.answers.len()), (7, 100));
    }
}

#[tokio::test]
async fn an_upstream_is_asked_by_udp_then_tcp_and_guesses_are_not_believed() {
    let (upstream, _) = upstream(false).await;
    let served = served(vec![upstream]).await;
    let reply = udp(served.address, &query(8, "www.example.com.")).await;
    assert_eq!((reply.metadata.id, reply.answers.len()), (8, 1));
    // Too long for a datagram on both sides.
    let reply = udp(served.address, &query(9, "big.example.com.")).await;
    assert!(reply.metadata.truncation, "{reply:?}");
    let replies = tcp(served.address, &[query(10, "big.example.com.")]).await;
    assert_eq!(replies[0].answers.len(), 100);
    assert_eq!(served.shared.metrics.of(Outcome::Forwarded), 3);
    let text = served.shared.metrics.text();
    assert!(text.contains("skein_dns_upstream_tcp_total 2"), "{text}");
}

#[tokio::test]
async fn a_dead_upstream_costs_one_wait_and_is_then_asked_last() {
    let ((dead, asked), (alive, answered)) = (upstream(true).await, upstream(false).await);
    let served = served(vec![dead, alive]).await;
    let start = Instant::now();
    assert_eq!(udp(served.address, &query(1, "a.example.com.")).await.answers.len(), 1);
    assert!(start.elapsed() >= LIMITS.attempt);
    let count = || (asked.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
    assert_eq!(count(), (1, 1));
    assert_eq!(udp(served.address, &query(2, "b.example.com.")).await.answers.len(), 1);
    assert_eq!(count(), (1, 2), "the one that answers is asked first");
}

#[tokio::test]
async fn without_any_upstream_the_client_is_told() {
    let (dead, asked) = upstream(true).await;
    for upstreams in [Vec::new(), vec![dead]] {
        let served = served(upstreams).await;
        let reply = udp(served.address, &query(3, "www.example.com.")).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        assert_eq!(served.shared.metrics.of(Outcome::Failed), 1);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2, "one that is alone is asked twice");
}

#[tokio::test]
async fn a_server_that_is_its_own_upstream_does_not_drown_in_itself() {
    let shared_port = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let trap = shared_port.local_addr().unwrap();
    let served = served(vec![trap]).await;
    // What is asked upstream comes back to the server, as by a resolver that forwards to us.
    let server = served.address;
    let looped = Arc::new(AtomicUsize::new(0));
    let count = looped.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, _) = shared_port.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
            shared_port.send_to(&buffer[..length], server).await.unwrap();
        }
    });
    let reply = udp(server, &query(4, "loop.example.com.")).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(looped.load(Ordering::Relaxed) <= 2, "{looped:?}");
}
