//! The sockets: datagrams and streams in, replies out.

use crate::answer::Verdict;
use crate::forward::{Forwarder, within};
use crate::message::Transport;
use crate::shared::Shared;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// A socket that cannot be had is tried again after so long, and devices are looked at as often.
const AGAIN: Duration = Duration::from_secs(1);
/// Upstream servers may change as often as a DHCP lease; a look costs one `stat`.
const REFRESH: Duration = Duration::from_secs(5);
/// A stream without questions (RFC 7766 section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// Streams at a time; the next ones wait.
const STREAMS: usize = 256;
const BACKLOG: u32 = 128;

/// Where is answered, and with which view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address and port, of UDP and TCP.
    pub address: SocketAddr,
    /// Only what comes by this interface; it need not exist yet.
    pub device: Option<String>,
    /// The view of whoever asks here.
    pub view: String,
}

/// Answers at every endpoint there is, until the sender of `endpoints` is gone.
pub async fn serve(
    shared: Arc<Shared>,
    forwarder: Arc<Forwarder>,
    mut endpoints: watch::Receiver<Vec<Endpoint>>,
) {
    let streams = Arc::new(Semaphore::new(STREAMS));
    let mut running: Vec<(Endpoint, JoinSet<()>)> = Vec::new();
    let mut refresh = tokio::time::interval(REFRESH);
    loop {
        let wanted = endpoints.borrow_and_update().clone();
        // Dropping a set ends its tasks and closes their sockets.
        running.retain(|(endpoint, _)| wanted.contains(endpoint));
        for endpoint in wanted {
            if running.iter().any(|(known, _)| *known == endpoint) {
                continue;
            }
            let mut tasks = JoinSet::new();
            let context = Context {
                shared: shared.clone(),
                forwarder: forwarder.clone(),
                streams: streams.clone(),
                view: endpoint.view.as_str().into(),
            };
            tasks.spawn(keep_open(endpoint.clone(), context));
            running.push((endpoint, tasks));
        }
        tokio::select! {
            changed = endpoints.changed() => if changed.is_err() { return },
            _ = refresh.tick() => forwarder.refresh(),
        }
    }
}

#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    forwarder: Arc<Forwarder>,
    streams: Arc<Semaphore>,
    view: Arc<str>,
}

/// Index of an interface: one of the same name that was made anew has another one.
fn index_of(device: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(device).ok()
}

/// Has the sockets of an endpoint, anew when its interface is another one.
async fn keep_open(endpoint: Endpoint, context: Context) {
    let mut complained = false;
    loop {
        let index = endpoint.device.as_deref().map(index_of);
        if index == Some(None) {
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        let mut tasks = JoinSet::new();
        match open(&endpoint).await {
            Ok((socket, listener)) => {
                tracing::info!(address = %endpoint.address, view = endpoint.view, "DNS is answered");
                complained = false;
                let _hears = context.shared.hears(&context.view);
                tasks.spawn(datagrams(Arc::new(socket), context.clone()));
                tasks.spawn(connections(listener, context.clone()));
                while endpoint.device.as_deref().map(index_of) == index && tasks.len() == 2 {
                    let _ = within(AGAIN, tasks.join_next()).await;
                }
            }
            Err(error) => {
                if !complained {
                    tracing::warn!(
                        address = %endpoint.address, %error,
                        "DNS cannot be answered there; tried again every second"
                    );
                }
                complained = true;
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn open(endpoint: &Endpoint) -> io::Result<(UdpSocket, TcpListener)> {
    let device = endpoint.device.as_deref().map(str::as_bytes);
    let socket = UdpSocket::bind(endpoint.address).await?;
    socket.bind_device(device)?;
    let stream =
        if endpoint.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    stream.bind_device(device)?;
    stream.set_reuseaddr(true)?;
    stream.bind(endpoint.address)?;
    Ok((socket, stream.listen(BACKLOG)?))
}

async fn datagrams(socket: Arc<UdpSocket>, context: Context) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // What an earlier reply met: its reader is gone.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%error, "a DNS socket failed");
                return;
            }
        };
        let Context { shared, forwarder, view, .. } = &context;
        let turn = shared.next_turn();
        let verdict = shared.zones.read().answer(view, &buffer[..length], Transport::Udp, turn);
        match verdict {
            Verdict::Reply(reply, outcome) => {
                shared.metrics.count(outcome);
                tracing::trace!(%client, ?outcome, "DNS query");
                // A full send buffer is the kernel's to say: waiting would keep others from being heard.
                if socket.try_send_to(&reply, client).is_err() {
                    let _ = socket.send_to(&reply, client).await;
                }
            }
            Verdict::Forward(forward) => {
                let (socket, shared, forwarder) =
                    (socket.clone(), shared.clone(), forwarder.clone());
                tokio::spawn(async move {
                    let said = forwarder.ask(&forward).await;
                    let (reply, outcome) = forward.finish(said.as_deref().map(Vec::as_slice));
                    shared.metrics.count(outcome);
                    tracing::trace!(%client, ?outcome, "DNS query");
                    let _ = socket.send_to(&reply, client).await;
                });
            }
            Verdict::Drop => {
                shared.metrics.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%client, "a datagram that is no DNS query");
            }
        }
    }
}

async fn connections(listener: TcpListener, context: Context) {
    loop {
        let Ok(room) = context.streams.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection that was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let context = context.clone();
        tokio::spawn(async move {
            let open = &context.shared.metrics.connections;
            open.fetch_add(1, Ordering::Relaxed);
            // An end in the middle is the client's choice.
            let _ = questions(stream, &context).await;
            open.fetch_sub(1, Ordering::Relaxed);
            drop(room);
        });
    }
}

async fn questions(mut stream: TcpStream, context: &Context) -> io::Result<()> {
    let Context { shared, forwarder, view, .. } = context;
    loop {
        let Some(length) = within(IDLE, stream.read_u16()).await else { return Ok(()) };
        let mut query = vec![0; usize::from(length?)];
        let Some(read) = within(IDLE, stream.read_exact(&mut query)).await else { return Ok(()) };
        read?;
        let turn = shared.next_turn();
        let verdict = shared.zones.read().answer(view, &query, Transport::Tcp, turn);
        let (reply, outcome) = match verdict {
            Verdict::Reply(reply, outcome) => (reply, outcome),
            Verdict::Forward(forward) => {
                let said = forwarder.ask(&forward).await;
                forward.finish(said.as_deref().map(Vec::as_slice))
            }
            Verdict::Drop => {
                shared.metrics.dropped.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
        };
        shared.metrics.count(outcome);
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        let Some(written) = within(IDLE, stream.write_all(&framed)).await else { return Ok(()) };
        written?;
    }
}
