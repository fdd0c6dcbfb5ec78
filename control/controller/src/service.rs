//! The gRPC services: sessions and enrolment.

use crate::core::Core;
use crate::inquiry::Inquiries;
use crate::node::SessionId;
use crate::pki::Authority;
use parking_lot::Mutex;
use skein_proto::enroll::enroll_server::Enroll;
use skein_proto::enroll::{JoinReply, JoinRequest};
use skein_proto::session::session_server::Session;
use skein_proto::session::{FromAgent, HelloAck, PublishRejected, ToAgent, from_agent, to_agent};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

/// Messages on their way to one agent. A slow agent holds this many and no more; everything else it
/// has not been told is one entry a thing in the core.
const OUTBOX: usize = 4;

/// The core, and a signal for everyone who sends from it.
#[derive(Debug)]
pub(crate) struct Shared {
    core: Mutex<Core>,
    news: watch::Sender<u64>,
    started: Instant,
    pub(crate) host: String,
    /// A node joined that may have no virtual-router object yet.
    pub(crate) joined: Notify,
    /// Questions to nodes.
    pub(crate) inquiries: Inquiries,
}

impl Shared {
    pub(crate) fn new(host: String) -> Shared {
        Shared {
            core: Mutex::new(Core::default()),
            news: watch::Sender::new(0),
            started: Instant::now(),
            host,
            joined: Notify::new(),
            inquiries: Inquiries::default(),
        }
    }

    /// The controller's clock: time since its start.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Tells of changes of the core.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Looks something up.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.core.lock())
    }

    /// Changes the core and wakes every session.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let out = change(&mut self.core.lock());
        self.news.send_modify(|n| *n = n.wrapping_add(1));
        out
    }
}

/// Sessions of agents.
pub(crate) struct Sessions {
    pub(crate) shared: Arc<Shared>,
}

/// The name in the certificate the other end showed.
pub(crate) fn peer_name<T>(request: &Request<T>) -> Result<String, Status> {
    let certificates = request.peer_certs().ok_or_else(|| {
        Status::unauthenticated("this service needs a node certificate; join the node first")
    })?;
    let first =
        certificates.first().ok_or_else(|| Status::unauthenticated("empty certificate chain"))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(first)
        .map_err(|e| Status::unauthenticated(format!("unreadable certificate: {e}")))?;
    let mut names = parsed.subject().iter_common_name();
    let name = names.next().and_then(|name| name.as_str().ok());
    name.map(str::to_owned)
        .ok_or_else(|| Status::unauthenticated("the certificate has no common name"))
}

#[tonic::async_trait]
impl Session for Sessions {
    type ConnectStream = ReceiverStream<Result<ToAgent, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<FromAgent>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let name = peer_name(&request)?;
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|m| m.message);
        let Some(from_agent::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message must be Hello"));
        };
        if hello.node != name {
            return Err(Status::permission_denied(format!(
                "the certificate is for {name}, the session says {}",
                hello.node
            )));
        }
        let now = self.shared.now();
        let id = self
            .shared
            .change(|core| core.connect(&hello, now))
            .map_err(Status::invalid_argument)?;
        info!(node = name, tunnel_address = hello.tunnel_address, "agent connected");
        self.shared.joined.notify_one();
        let (outbox, stream) = mpsc::channel(OUTBOX);
        let greeting = to_agent::Message::HelloAck(HelloAck {
            controller: self.shared.host.clone(),
            autonomous_system: self.shared.read(Core::autonomous_system),
            version: env!("CARGO_PKG_VERSION").into(),
        });
        // The channel is new and empty: this cannot be full.
        let _ = outbox.try_send(Ok(ToAgent { message: Some(greeting) }));
        self.shared.inquiries.opened(&name, id, outbox.clone());
        tokio::spawn(receive(self.shared.clone(), name.clone(), id, inbound, outbox.clone()));
        tokio::spawn(send(self.shared.clone(), name, id, outbox));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Takes in what an agent says until it stops.
async fn receive(
    shared: Arc<Shared>,
    name: String,
    id: SessionId,
    mut inbound: Streaming<FromAgent>,
    outbox: mpsc::Sender<Result<ToAgent, Status>>,
) {
    loop {
        let message = tokio::select! {
            message = inbound.next() => message,
            () = outbox.closed() => break,
        };
        let message = match message {
            Some(Ok(message)) => message.message,
            Some(Err(status)) => {
                info!(node = name, %status, "session ended");
                break;
            }
            None => break,
        };
        match message {
            Some(from_agent::Message::Interest(interest)) => {
                shared.change(|core| core.interest(&name, id, &interest));
            }
            Some(from_agent::Message::Publish(publish)) => {
                let rejected = shared.change(|core| core.publish(&name, id, &publish));
                for (route, reason) in rejected {
                    warn!(node = name, reason, "route not accepted");
                    let message = to_agent::Message::PublishRejected(PublishRejected {
                        route: Some(route),
                        reason,
                    });
                    if outbox.send(Ok(ToAgent { message: Some(message) })).await.is_err() {
                        break;
                    }
                }
            }
            Some(from_agent::Message::EndOfPublish(_)) => {
                shared.change(|core| core.end_of_publish(&name, id));
            }
            Some(from_agent::Message::Status(status)) => {
                shared.change(|core| core.status(&name, id, status));
            }
            Some(from_agent::Message::Looked(looked)) => {
                shared.inquiries.answered(&name, looked);
            }
            Some(from_agent::Message::Hello(_)) => {
                warn!(node = name, "a second Hello; session ended");
                break;
            }
            // A newer agent may say things that this controller does not know.
            None => {}
        }
    }
    shared.inquiries.closed(&name, id);
    let now = shared.now();
    shared.change(|core| core.disconnect(&name, id, now));
    info!(node = name, "agent disconnected; its routes stay until the restart time is over");
}

/// Sends what an agent has not been told, whenever there is something and room for it.
async fn send(
    shared: Arc<Shared>,
    name: String,
    id: SessionId,
    outbox: mpsc::Sender<Result<ToAgent, Status>>,
) {
    let mut news = shared.news.subscribe();
    loop {
        news.mark_unchanged();
        let (current, has_news) =
            shared.read(|core| (core.is_current(&name, id), core.has_news(&name, id)));
        if !current {
            let _ =
                outbox.send(Err(Status::aborted("another session of this node took over"))).await;
            return;
        }
        if has_news {
            // Room first, content last: what is sent is what is true when it leaves.
            let Ok(permits) = outbox.reserve_many(2).await else { return };
            let messages = shared.take(&name, id);
            for (permit, message) in permits.zip(messages) {
                permit.send(Ok(message));
            }
            continue;
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = outbox.closed() => return,
        }
    }
}

impl Shared {
    fn take(&self, name: &str, id: SessionId) -> Vec<ToAgent> {
        self.core.lock().take(name, id)
    }
}

/// Enrolment of nodes.
pub(crate) struct Enrolment {
    pub(crate) authority: Arc<Authority>,
}

#[tonic::async_trait]
impl Enroll for Enrolment {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        // A node that has a certificate already may renew it for its own name without the token.
        let known = peer_name(&request).ok();
        let request = request.into_inner();
        let renewal = known.as_deref() == Some(request.node.as_str());
        if !renewal && !self.authority.token_matches(&request.token) {
            warn!(node = request.node, "join refused: wrong token");
            return Err(Status::permission_denied(
                "wrong join token; the controller keeps the right one in pki/join-token",
            ));
        }
        let certificate_pem = self
            .authority
            .sign_node(&request.node, &request.csr_pem)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        info!(node = request.node, renewal, "certificate issued");
        Ok(Response::new(JoinReply { certificate_pem, ca_pem: self.authority.ca_pem.clone() }))
    }
}
