//! The one thread that writes.
//!
//! It takes whatever requests are waiting, plans them one after another, commits the outcome as one group, shows it to
//! readers, and only then answers. The fsync is shared by the group, so throughput grows with the number of
//! clients while each still waits for its own write to be durable.

use std::{
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use skein_store::{ObjectStore, StoreError, Transaction};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use crate::{
    error::{ApiError, ApiResult},
    metrics::Metrics,
    plan::{Answer, Caller, Draft, Head, Now, Write, apply, bootstrap},
    published::{Published, View},
};

/// Requests that may wait; more are told to come back (spec section 15).
const QUEUE: usize = 4096;
/// Most requests of one group: bounds the time that the first of them waits.
const GROUP: usize = 512;

/// An answer and the revision at which it holds.
pub(crate) type Reply = ApiResult<(Answer, u64)>;

struct Job {
    write: Write,
    caller: Caller,
    reply: oneshot::Sender<Reply>,
}

/// Hands writes to the writing thread.
#[derive(Debug, Clone)]
pub(crate) struct Sequencer {
    queue: mpsc::Sender<Job>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Sequencer {
    /// Loads the store, creates the bootstrap objects and starts the thread.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub(crate) fn start(
        mut store: Box<dyn ObjectStore>,
        retention: usize,
        metrics: Arc<Metrics>,
    ) -> Result<(Self, Arc<Published>, JoinHandle<()>), StartError> {
        let state = store.load()?;
        let mut head = Head::load(&state);
        let published = Arc::new(Published::new(View::load(&state), retention));
        drop(state);
        let caller = Caller { admin: true, project: None, system: true };
        let now = now();
        let mut draft = Draft::new(&mut head, &now, &caller);
        bootstrap(&mut draft).map_err(StartError::Bootstrap)?;
        if let Some(transaction) = draft.finish() {
            let group = [transaction];
            store.commit(&group)?;
            published.publish(&group);
        }
        info!(revision = head.revision, objects = head.graph.len(), "configuration loaded");
        let (queue, jobs) = mpsc::channel(QUEUE);
        let trouble = Arc::new(Mutex::new(None));
        let mut worker = Worker {
            store,
            head,
            published: Arc::clone(&published),
            metrics,
            trouble: Arc::clone(&trouble),
            last_group: 1,
        };
        let thread = std::thread::Builder::new()
            .name("skein-sequencer".into())
            .spawn(move || worker.run(jobs))
            .map_err(StartError::Thread)?;
        Ok((Self { queue, trouble }, published, thread))
    }

    /// Does one write. When it answers, the write is durable and visible.
    ///
    /// # Errors
    /// The refusal; nothing changed.
    pub(crate) async fn write(&self, write: Write, caller: Caller) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Job { write, caller, reply }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => {
                ApiError::unavailable(format!("{QUEUE} writes are waiting; try again"))
            }
            mpsc::error::TrySendError::Closed(_) => ApiError::unavailable("the server is stopping"),
        })?;
        answer.await.unwrap_or_else(|_| Err(ApiError::unavailable("the server is stopping")))
    }

    /// Why writes fail at the moment, if they do.
    #[must_use]
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

/// Why the configuration cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store does not open, load or take writes.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The objects that every system has cannot be made.
    #[error("cannot create the bootstrap objects: {0}")]
    Bootstrap(ApiError),
    /// No thread for writing.
    #[error("cannot start the writing thread: {0}")]
    Thread(std::io::Error),
}

/// The time as `id_perms` shows it.
fn now() -> Now {
    let now = jiff::Timestamp::now();
    Now(now.strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string())
}

struct Worker {
    store: Box<dyn ObjectStore>,
    head: Head,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
    trouble: Arc<Mutex<Option<String>>>,
    last_group: usize,
}

impl Worker {
    fn run(&mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut group: Vec<Job> = Vec::with_capacity(GROUP);
        while let Some(first) = jobs.blocking_recv() {
            group.push(first);
            self.gather(&mut jobs, &mut group);
            self.handle(&mut group);
        }
        info!(revision = self.head.revision, "the writing thread ends");
    }

    /// Takes what waits. With many writers the next requests are a moment away, and one fsync for all of them
    /// costs less than two.
    fn gather(&mut self, jobs: &mut mpsc::Receiver<Job>, group: &mut Vec<Job>) {
        let deadline = Instant::now() + GATHER;
        loop {
            while group.len() < GROUP
                && let Ok(job) = jobs.try_recv()
            {
                group.push(job);
            }
            if group.len() >= self.last_group.min(GROUP) || Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(GATHER / 8);
        }
        // Follows the number of concurrent writers up at once and down slowly.
        self.last_group =
            group.len().max(self.last_group.saturating_sub(self.last_group / 4 + 1)).max(1);
    }

    fn handle(&mut self, group: &mut Vec<Job>) {
        if self.trouble.lock().is_some()
            && let Err(error) = self.recover()
        {
            for job in group.drain(..) {
                let _ = job.reply.send(Err(ApiError::from(&error)));
            }
            return;
        }
        let now = now();
        let mut transactions: Vec<Transaction> = Vec::with_capacity(group.len());
        let mut answers: Vec<(oneshot::Sender<Reply>, ApiResult<Answer>)> =
            Vec::with_capacity(group.len());
        for job in group.drain(..) {
            let mut draft = Draft::new(&mut self.head, &now, &job.caller);
            let answer = apply(&mut draft, job.write);
            if answer.is_ok() {
                transactions.extend(draft.finish());
            }
            answers.push((job.reply, answer));
        }
        if !transactions.is_empty() {
            let started = Instant::now();
            let committed = self.store.commit(&transactions);
            self.metrics.commit(transactions.len(), started.elapsed());
            if let Err(error) = committed {
                error!(%error, "writes are refused until the store works again");
                *self.trouble.lock() = Some(error.to_string());
                let refusal = ApiError::from(&error);
                for (reply, _) in answers {
                    let _ = reply.send(Err(refusal.clone()));
                }
                if let Err(error) = self.recover() {
                    warn!(%error, "the store does not open; the next write tries again");
                }
                return;
            }
            self.published.publish(&transactions);
        }
        let revision = self.head.revision;
        for (reply, answer) in answers {
            // Nobody listens if the client has gone; its write stands.
            let _ = reply.send(answer.map(|answer| (answer, revision)));
        }
    }

    /// Opens the store again and takes its content for the truth: a group whose commit failed may yet be in it.
    fn recover(&mut self) -> Result<(), StoreError> {
        let state = self.store.load()?;
        self.head = Head::load(&state);
        self.published.replace(View::load(&state));
        *self.trouble.lock() = None;
        info!(revision = state.revision, "the store works again");
        Ok(())
    }
}

/// Longest wait for more writers, when the last groups had several. A tenth of what an fsync on common disks costs.
const GATHER: Duration = Duration::from_micros(400);
