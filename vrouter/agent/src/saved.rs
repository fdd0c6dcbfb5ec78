//! The controllers' last word on disk, so that a node starts without them (headless), and what else can wait for the disk.
//!
//! The file holds the protocol's own messages, each with its length before it: what a controller would
//! send to bring a new agent up to date.

use crate::ports::NodeState;
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

/// What is to be written; only the last of each counts.
#[derive(Default)]
struct Work {
    word: Option<(Intent, Routes)>,
    state: Option<NodeState>,
}

/// Writes on a thread of its own: an fsync takes milliseconds, and the core has packets' routes to write.
pub(crate) struct Saver {
    queue: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    pub(crate) fn start(directory: PathBuf) -> Self {
        let (queue, work) = mpsc::channel::<Work>();
        let thread = std::thread::spawn(move || {
            while let Ok(Work { mut word, mut state }) = work.recv() {
                while let Ok(newer) = work.try_recv() {
                    word = newer.word.or(word);
                    state = newer.state.or(state);
                }
                if let Some(Err(error)) = state.map(|state| state.save_copy(&directory)) {
                    tracing::warn!(%error, "the copy of the node's state is not saved: free disk space");
                }
                if let Some(Err(error)) =
                    word.map(|(intent, routes)| save(&directory, &intent, &routes))
                {
                    tracing::warn!(%error, "the last intent is not saved: a restart would need a controller");
                }
            }
        });
        Self { queue: Some(queue), thread: Some(thread) }
    }

    pub(crate) fn save(&self, word: Option<(Intent, Routes)>, state: Option<NodeState>) {
        if let Some(queue) = &self.queue {
            let _ = queue.send(Work { word, state });
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
