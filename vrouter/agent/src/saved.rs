//! The controllers' last word on disk, so that a node starts without them (headless).
//!
//! The file holds the protocol's own messages, each with its length before it: what a controller would
//! send to bring a new agent up to date.

use crate::{AgentError, files};
use prost::Message;
use skein_proto::session::{Intent, Routes};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

/// File name within the data directory.
pub const FILE: &str = "intent.pb";

/// Reads the saved word; `None` when there is none.
///
/// # Errors
/// The file is there and not readable.
pub fn load(directory: &Path) -> Result<Option<(Intent, Routes)>, AgentError> {
    let path = directory.join(FILE);
    let Some(bytes) = files::read(&path)? else { return Ok(None) };
    let mut rest = bytes.as_slice();
    let read = Intent::decode_length_delimited(&mut rest)
        .and_then(|intent| Ok((intent, Routes::decode_length_delimited(&mut rest)?)));
    read.map(Some).map_err(|error| AgentError::Damaged { path, reason: error.to_string() })
}

/// Writes the word, durably.
///
/// # Errors
/// The disk refused; the old file is still there.
pub fn save(directory: &Path, intent: &Intent, routes: &Routes) -> Result<(), AgentError> {
    let mut bytes = intent.encode_length_delimited_to_vec();
    bytes.extend(routes.encode_length_delimited_to_vec());
    files::replace(&directory.join(FILE), &bytes, files::Durability::Machine)
}

/// Writes on a thread of its own: an fsync takes milliseconds, and the core has packets' routes to write.
pub(crate) struct Saver {
    queue: Option<mpsc::Sender<(Intent, Routes)>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    pub(crate) fn start(directory: PathBuf) -> Self {
        let (queue, work) = mpsc::channel::<(Intent, Routes)>();
        let thread = std::thread::spawn(move || {
            while let Ok(mut latest) = work.recv() {
                // Only the last word counts.
                while let Ok(newer) = work.try_recv() {
                    latest = newer;
                }
                if let Err(error) = save(&directory, &latest.0, &latest.1) {
                    tracing::warn!(%error, "the last intent is not saved: a restart would need a controller");
                }
            }
        });
        Self { queue: Some(queue), thread: Some(thread) }
    }

    pub(crate) fn save(&self, intent: Intent, routes: Routes) {
        if let Some(queue) = &self.queue {
            let _ = queue.send((intent, routes));
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // Closing the queue ends the thread after its last write.
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
