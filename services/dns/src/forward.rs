//! Asks upstream: one socket a question, so that its port is chosen anew by the kernel and guessing an answer means guessing
//! port and id.
//!
//! Questions that are the same wait for one: a server that sends our question back to us meets itself and gets no second one,
//! so a circle of servers ends with a timeout and never grows.

use crate::answer::Forward;
use crate::key::Key;
use crate::message::HEADER;
use crate::shared::Shared;
use crate::upstream::Upstreams;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

const PORT: u16 = 53;

/// How long and how often is asked.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For one server to answer.
    pub attempt: Duration,
    /// For all of them together. Resolvers give up after 5 s by default.
    pub total: Duration,
    /// Questions under way at a time; more are not asked.
    pub under_way: usize,
    /// A server that failed is asked last for so long.
    pub rest: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempt: Duration::from_millis(1500),
            total: Duration::from_millis(4500),
            under_way: 2048,
            rest: Duration::from_secs(5),
        }
    }
}

type Question = (Key, RecordType, Option<IpAddr>);
type Said = Option<Arc<Vec<u8>>>;

/// Asks upstream.
#[derive(Debug)]
pub struct Forwarder {
    shared: Arc<Shared>,
    upstreams: Mutex<Upstreams>,
    limits: Limits,
    under_way: Mutex<HashMap<Question, watch::Receiver<Option<Said>>>>,
    room: Semaphore,
    failed: Mutex<HashMap<SocketAddr, Instant>>,
    ids: AtomicU64,
    secret: RandomState,
}

impl Forwarder {
    /// Asks these servers.
    #[must_use]
    pub fn new(shared: Arc<Shared>, upstreams: Upstreams, limits: Limits) -> Arc<Forwarder> {
        Arc::new(Forwarder {
            shared,
            upstreams: Mutex::new(upstreams),
            limits,
            under_way: Mutex::default(),
            room: Semaphore::new(limits.under_way),
            failed: Mutex::default(),
            ids: AtomicU64::new(0),
            secret: RandomState::new(),
        })
    }

    /// Looks whether the node has other servers now.
    pub fn refresh(&self) {
        self.upstreams.lock().refresh();
    }

    /// What a server says to a question; `None`: nobody answered.
    pub(crate) async fn ask(self: &Arc<Self>, forward: &Forward) -> Said {
        let question = (Key::of(&forward.name), forward.kind, forward.server);
        let mut answer = {
            let mut under_way = self.under_way.lock();
            if let Some(known) = under_way.get(&question) {
                self.shared.metrics.joined.fetch_add(1, Ordering::Relaxed);
                known.clone()
            } else {
                let (tell, answer) = watch::channel(None);
                under_way.insert(question.clone(), answer.clone());
                let (own, message) = (self.clone(), forward.message.clone());
                let server = forward.server;
                // On its own: a client that goes away does not end what others wait for.
                tokio::spawn(async move {
                    let said = own.ask_servers(&message, server).await;
                    own.under_way.lock().remove(&question);
                    let _ = tell.send(Some(said.map(Arc::new)));
                });
                answer
            }
        };
        match answer.wait_for(Option::is_some).await {
            Ok(said) => said.clone().flatten(),
            Err(_) => None,
        }
    }

    async fn ask_servers(&self, message: &[u8], server: Option<IpAddr>) -> Option<Vec<u8>> {
        let Ok(_room) = self.room.try_acquire() else {
            self.shared.metrics.dropped.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(limit = self.limits.under_way, "too many DNS questions are under way");
            return None;
        };
        let mut servers = match server {
            Some(address) => vec![SocketAddr::new(address, PORT)],
            None => {
                let own = self.shared.own.read().clone();
                self.upstreams.lock().servers(&own)
            }
        };
        let now = Instant::now();
        let resting = |server: &SocketAddr| {
            let failed = self.failed.lock();
            failed.get(server).is_some_and(|at| now.duration_since(*at) < self.limits.rest)
        };
        servers.sort_by_key(resting);
        let end = now + self.limits.total;
        // One server may lose a packet; with several the next one is asked.
        let rounds = if servers.len() == 1 { 2 } else { 1 };
        let mut worse = None;
        for server in servers.iter().cycle().take(servers.len() * rounds) {
            self.shared.metrics.upstream_queries.fetch_add(1, Ordering::Relaxed);
            let until = (Instant::now() + self.limits.attempt).min(end);
            match timeout_at(until, self.ask_one(message, *server)).await {
                Ok(Ok(said)) => {
                    if self.failed.lock().remove(server).is_some() {
                        tracing::info!(%server, "the upstream DNS server answers again");
                    }
                    // A server that says it cannot (SERVFAIL, REFUSED) is believed if the others cannot either.
                    if !matches!(said[3] & 0xf, 2 | 5) {
                        return Some(said);
                    }
                    worse.get_or_insert(said);
                }
                Ok(Err(error)) => {
                    self.shared.metrics.upstream_errors.fetch_add(1, Ordering::Relaxed);
                    self.note_failure(*server, &error.to_string());
                }
                Err(_) => {
                    self.shared.metrics.upstream_timeouts.fetch_add(1, Ordering::Relaxed);
                    self.note_failure(*server, "no answer in time");
                }
            }
            if Instant::now() >= end {
                break;
            }
        }
        worse
    }

    fn note_failure(&self, server: SocketAddr, reason: &str) {
        if self.failed.lock().insert(server, Instant::now()).is_none() {
            tracing::warn!(%server, reason, "an upstream DNS server fails; others are asked first");
        }
    }

    async fn ask_one(&self, message: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
        let local = match server {
            SocketAddr::V4(_) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            SocketAddr::V6(_) => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        let count = self.ids.fetch_add(1, Ordering::Relaxed);
        let [first, second, ..] = self.secret.hash_one(count).to_be_bytes();
        let mut sent = message.to_vec();
        sent[..2].copy_from_slice(&[first, second]);
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        socket.send(&sent).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let said = &buffer[..length];
            // Anything else is somebody's guess: the right one may still come.
            if !answers(&sent, said) {
                continue;
            }
            if said[2] & 2 == 0 {
                return Ok(said.to_vec());
            }
            self.shared.metrics.upstream_tcp.fetch_add(1, Ordering::Relaxed);
            return ask_by_tcp(&sent, server).await;
        }
    }
}

/// Whether a message answers another: the id and the question are the same.
fn answers(sent: &[u8], said: &[u8]) -> bool {
    if said.len() < HEADER || said[..2] != sent[..2] || said[2] & 0x80 == 0 {
        return false;
    }
    let (Ok(sent), Ok(said)) = (Message::from_vec(sent), Message::from_vec(said)) else {
        return false;
    };
    // Errors may come without the question.
    said.queries == sent.queries || (said.queries.is_empty() && said.answers.is_empty())
}

async fn ask_by_tcp(sent: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let wrong = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(sent.len()).map_err(|_| wrong("the question is too long"))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(sent);
    stream.write_all(&framed).await?;
    let length = stream.read_u16().await?;
    let mut said = vec![0; usize::from(length)];
    stream.read_exact(&mut said).await?;
    if answers(sent, &said) { Ok(said) } else { Err(wrong("the answer is to another question")) }
}

/// A wait that may end early, for callers that have better things to do.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    timeout(limit, work).await.ok()
}
