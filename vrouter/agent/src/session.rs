//! One controller's stream, kept open.

use crate::node::{Message, NodeHandle};
use crate::tls;
use rustls::ClientConfig;
use skein_proto::session::session_client::SessionClient;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(5);
/// A snapshot of a large node is a few megabytes.
const MESSAGE_LIMIT: usize = 64 << 20;

/// Channels to the controllers that are connected now, for calls besides the stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Channels(Arc<RwLock<Vec<Option<Channel>>>>);

impl Channels {
    pub(crate) fn new(controllers: usize) -> Self {
        Self(Arc::new(RwLock::new(vec![None; controllers])))
    }

    pub(crate) fn connected(&self) -> Vec<Channel> {
        let channels = self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        channels.iter().flatten().cloned().collect()
    }

    fn set(&self, index: usize, channel: Option<Channel>) {
        let mut channels = self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(slot) = channels.get_mut(index) {
            *slot = channel;
        }
    }
}

/// Keeps the stream to one controller open until the daemon stops.
pub(crate) async fn run(
    index: usize,
    address: String,
    server_name: String,
    mut config: watch::Receiver<Arc<ClientConfig>>,
    node: NodeHandle,
    channels: Channels,
) {
    let mut delay = FIRST_DELAY;
    let mut last = String::new();
    loop {
        let current = config.borrow_and_update().clone();
        match tls::connect(&address, &server_name, current).await {
            Ok(channel) => {
                delay = FIRST_DELAY;
                channels.set(index, Some(channel.clone()));
                last = stream(index, channel, &node).await;
                channels.set(index, None);
                node.send(Message::Disconnected(index));
                tracing::warn!(controller = address, reason = last, "the stream ended");
            }
            Err(error) => {
                if error != last {
                    tracing::warn!(controller = address, error, "no connection; trying again");
                    last = error;
                }
            }
        }
        // Half fixed, half random: a thousand agents do not come back in one wave.
        let random = RandomState::new().hash_one(index) % 1000;
        let jitter = delay.mul_f64(0.5 + 0.0005 * f64::from(u32::try_from(random).unwrap_or(0)));
        tokio::time::sleep(jitter).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

/// Runs one stream to its end; gives the reason.
async fn stream(index: usize, channel: Channel, node: &NodeHandle) -> String {
    let (queue, messages) = mpsc::unbounded_channel();
    // The node fills the queue first: a controller answers only after Hello.
    node.send(Message::Connected(index, queue));
    let mut client = SessionClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT);
    let mut incoming = match client.connect(UnboundedReceiverStream::new(messages)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return explain(&status),
    };
    loop {
        match incoming.message().await {
            Ok(Some(message)) => node.send(Message::Said(index, Box::new(message))),
            Ok(None) => return "the controller closed it".into(),
            Err(status) => return explain(&status),
        }
    }
}

fn explain(status: &tonic::Status) -> String {
    if status.message().is_empty() { tls::explain(status) } else { status.message().to_owned() }
}
