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
use skein_store::{ObjectStore, StoreError, Tenure, Transaction};
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

/// Why a write was not done.
#[derive(Debug, Clone)]
pub(crate) enum Refused {
    /// The client is told.
    Error(ApiError),
    /// Another replica writes; nothing was done, so it may be asked.
    NotLeading,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

/// An answer and the revision at which it holds.
pub(crate) type Reply = Result<(Answer, u64), Refused>;

struct Job {
    write: Write,
    caller: Caller,
    reply: oneshot::Sender<Reply>,
}

enum Order {
    Write(Job),
    /// Read the newest state and write from now on.
    Lead(oneshot::Sender<Result<(), StartError>>),
    /// Write no more.
    Rest(oneshot::Sender<()>),
    /// See whether the store works again.
    Mend,
}

/// Hands writes to the writing thread.
#[derive(Debug, Clone)]
pub(crate) struct Sequencer {
    queue: mpsc::Sender<Order>,
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
        let head = Head::load(&state);
        let published = Arc::new(Published::new(View::load(&state), retention));
        drop(state);
        let mut worker = Worker::new(store, Arc::clone(&published), metrics, None);
        worker.head = head;
        worker.bootstrap()?;
        let (sequencer, thread) = worker.start()?;
        Ok((sequencer, published, thread))
    }

    /// Starts the thread of a replica. It writes after [`lead`](Self::lead), while the tenure lasts.
    ///
    /// # Errors
    /// There is no thread.
    pub(crate) fn start_resting(
        store: Box<dyn ObjectStore>,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
        tenure: Tenure,
    ) -> Result<(Self, JoinHandle<()>), StartError> {
        Worker::new(store, published, metrics, Some(tenure)).start()
    }

    /// Reads the newest state and writes from now on.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub(crate) async fn lead(&self) -> Result<(), StartError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || StartError::Thread(std::io::Error::other("the writing thread has ended"));
        self.queue.send(Order::Lead(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Writes no more, and forgets what only a writer needs.
    pub(crate) async fn rest(&self) {
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Order::Rest(reply)).await.is_ok() {
            let _ = answer.await;
        }
    }

    /// Has the store looked at again after a failure, without a write that waits for it.
    pub(crate) fn mend(&self) {
        if self.trouble.lock().is_some() {
            // With a full queue there are writes that do it.
            let _ = self.queue.try_send(Order::Mend);
        }
    }

    /// Does one write. When it answers, the write is durable and visible.
    ///
    /// # Errors
    /// The refusal; nothing changed.
    pub(crate) async fn write(&self, write: Write, caller: Caller) -> Reply {
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Order::Write(Job { write, caller, reply })).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => {
                ApiError::unavailable(format!("{QUEUE} writes are waiting; try again"))
            }
            mpsc::error::TrySendError::Closed(_) => ApiError::unavailable("the server is stopping"),
        })?;
        answer.await.unwrap_or_else(|_| Err(ApiError::unavailable("the server is stopping").into()))
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
    /// Among replicas: the right to write.
    tenure: Option<Tenure>,
    /// Whether `head` is the newest state.
    leads: bool,
}

impl Worker {
    fn new(
        store: Box<dyn ObjectStore>,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
        tenure: Option<Tenure>,
    ) -> Self {
        Self {
            store,
            head: Head::default(),
            published,
            metrics,
            trouble: Arc::new(Mutex::new(None)),
            last_group: 1,
            leads: tenure.is_none(),
            tenure,
        }
    }

    fn start(mut self) -> Result<(Sequencer, JoinHandle<()>), StartError> {
        let (queue, orders) = mpsc::channel(QUEUE);
        let trouble = Arc::clone(&self.trouble);
        let thread = std::thread::Builder::new()
            .name("skein-sequencer".into())
            .spawn(move || self.run(orders))
            .map_err(StartError::Thread)?;
        Ok((Sequencer { queue, trouble }, thread))
    }

    /// Creates what every system has and is not there yet.
    fn bootstrap(&mut self) -> Result<(), StartError> {
        let caller = Caller { admin: true, project: None, system: true };
        let now = now();
        let mut draft = Draft::new(&mut self.head, &now, &caller);
        bootstrap(&mut draft).map_err(StartError::Bootstrap)?;
        if let Some(transaction) = draft.finish() {
            let group = [transaction];
            self.store.commit(&group)?;
            self.published.publish(&group);
        }
        let (revision, objects) = (self.head.revision, self.head.graph.len());
        info!(revision, objects, "configuration loaded");
        Ok(())
    }

    fn run(&mut self, mut orders: mpsc::Receiver<Order>) {
        let mut group: Vec<Job> = Vec::with_capacity(GROUP);
        while let Some(first) = orders.blocking_recv() {
            let next = match first {
                Order::Write(job) => {
                    group.push(job);
                    let next = self.gather(&mut orders, &mut group);
                    self.handle(&mut group);
                    next
                }
                order => Some(order),
            };
            match next {
                None | Some(Order::Write(_)) => {}
                Some(Order::Lead(reply)) => {
                    let _ = reply.send(self.lead());
                }
                Some(Order::Rest(reply)) => {
                    self.rest();
                    let _ = reply.send(());
                }
                Some(Order::Mend) => {
                    let broken = self.trouble.lock().is_some();
                    if broken && self.may_write() && self.recover().is_ok() {
                        info!(revision = self.head.revision, "the store works again");
                    }
                }
            }
        }
        info!(revision = self.head.revision, "the writing thread ends");
    }

    fn lead(&mut self) -> Result<(), StartError> {
        self.recover()?;
        self.bootstrap()?;
        self.leads = true;
        Ok(())
    }

    fn rest(&mut self) {
        self.leads = false;
        self.head = Head::default();
        *self.trouble.lock() = None;
    }

    /// Whether what is planned here may be stored.
    fn may_write(&self) -> bool {
        self.leads && self.tenure.as_ref().is_none_or(|tenure| tenure.term().is_some())
    }

    /// Takes what waits. With many writers the next requests are a moment away, and one fsync for all of them
    /// costs less than two.
    /// Returns what is not a write and came after them.
    fn gather(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        group: &mut Vec<Job>,
    ) -> Option<Order> {
        let mut other = None;
        let deadline = Instant::now() + GATHER;
        loop {
            while group.len() < GROUP
                && other.is_none()
                && let Ok(order) = orders.try_recv()
            {
                match order {
                    Order::Write(job) => group.push(job),
                    order => other = Some(order),
                }
            }
            let enough = group.len() >= self.last_group.min(GROUP) || other.is_some();
            if enough || Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(GATHER / 8);
        }
        // Follows the number of concurrent writers up at once and down slowly.
        self.last_group =
            group.len().max(self.last_group.saturating_sub(self.last_group / 4 + 1)).max(1);
        other
    }

    fn handle(&mut self, group: &mut Vec<Job>) {
        if !self.may_write() {
            for job in group.drain(..) {
                let _ = job.reply.send(Err(Refused::NotLeading));
            }
            return;
        }
        if self.trouble.lock().is_some()
            && let Err(error) = self.recover()
        {
            for job in group.drain(..) {
                let _ = job.reply.send(Err(ApiError::from(&error).into()));
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
            if let Err(StoreError::NotLeader) = committed {
                // What was planned on is no longer the newest state.
                self.rest();
                for (reply, _) in answers {
                    let _ = reply.send(Err(Refused::NotLeading));
                }
                return;
            }
            if let Err(error) = committed {
                error!(%error, "writes are refused until the store works again");
                *self.trouble.lock() = Some(error.to_string());
                let mut refusal = Refused::Error(ApiError::from(&error));
                if let (StoreError::TooLarge { .. }, [_]) = (&error, transactions.as_slice()) {
                    refusal = ApiError::too_large(error.to_string()).into();
                }
                for (reply, _) in answers {
                    let _ = reply.send(Err(refusal.clone()));
                }
                match self.recover() {
                    Ok(()) => info!(revision = self.head.revision, "the store works again"),
                    Err(error) => {
                        warn!(%error, "the store does not open; the next write tries again");
                    }
                }
                return;
            }
            self.published.publish(&transactions);
        }
        let revision = self.head.revision;
        for (reply, answer) in answers {
            // Nobody listens if the client has gone; its write stands.
            let _ = reply.send(answer.map(|answer| (answer, revision)).map_err(Refused::Error));
        }
    }

    /// Loads the store and takes its content for the truth: a group whose commit failed may yet be in it.
    fn recover(&mut self) -> Result<(), StoreError> {
        let before = self.published.revision();
        let state = self.store.load()?;
        self.head = Head::load(&state);
        match self.tenure {
            Some(_) => self.published.adopt(&state, before),
            None => self.published.replace(View::load(&state)),
        }
        *self.trouble.lock() = None;
        Ok(())
    }
}

/// Longest wait for more writers, when the last groups had several. A tenth of what an fsync on common disks costs.
const GATHER: Duration = Duration::from_micros(400);
