//! The writer's end: the [`ObjectStore`] contract on etcd.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    campaign::Tenure,
    client::{Etcd, absent, after, blamed, changed, created, delete, kv, led, put, read},
    layout::{CLAIMS, FORMAT, HEAD, Head, LEADER, LOG, PACKED, PackedRows, log_key, piece_key},
    pack::{MOST_BYTES, MOST_ROWS, Rows, pack},
    rpc,
};
use crate::{ObjectStore, State, StoreError, Transaction};

/// One attempt at a commit.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// How long a commit is tried before its outcome counts as unknown.
const COMMIT: Duration = Duration::from_secs(5);

/// Configuration in etcd, for the replica that leads.
#[derive(Debug)]
pub struct EtcdStore {
    etcd: Etcd,
    tenure: Tenure,
    runtime: Handle,
    /// Absent before the first load and after a failed commit.
    position: Option<Position>,
}

/// The last commit that is known.
#[derive(Debug, Clone)]
struct Position {
    head: Head,
    /// etcd's revision of it; 0 if there is none.
    changed: i64,
}

/// Keys and values of one etcd transaction that moves the head, or lays out what it announced.
struct Step {
    operations: Vec<rpc::RequestOp>,
    fresh: Vec<(String, Uuid)>,
    next: Option<Head>,
}

/// What etcd said.
enum Outcome {
    /// Done, at this revision of etcd.
    Done(i64),
    /// These claims are held by their owners already.
    Held(Vec<String>),
}

impl EtcdStore {
    /// A store that commits while the tenure lasts. `runtime` does the input and output, so `load` and `commit` must not be called by
    /// one of its own tasks.
    #[must_use]
    pub fn new(etcd: Etcd, tenure: Tenure, runtime: Handle) -> Self {
        Self { etcd, tenure, runtime, position: None }
    }

    async fn write(
        &self,
        mut position: Position,
        group: &[Transaction],
    ) -> Result<Position, StoreError> {
        if position.head.packed > 0 {
            let rows = self.etcd.pieces(position.head.packed, 0).await?;
            position = self.lay_out(position, rows).await?;
        }
        let prefix = self.etcd.options().prefix.len();
        let before = position.head.revision;
        for rows in pack(group, before, prefix)? {
            let stored = position.head.revision > before;
            let result = if rows.fit() {
                self.commit_rows(&position, rows).await
            } else {
                self.commit_packed(position, rows).await
            };
            position = match result {
                // "Nothing was stored" would be wrong for the group as a whole.
                Err(error) if stored => return Err(self.unknown(&error)),
                result => result?,
            };
        }
        Ok(position)
    }

    fn term(&self) -> Result<i64, StoreError> {
        self.tenure.term().ok_or(StoreError::NotLeader)
    }

    /// The head after these rows, and from where on the log goes.
    fn advanced(&self, from: &Head, revision: u64) -> Result<(Head, bool), StoreError> {
        let retention = self.etcd.options().log_retention;
        let oldest = revision.saturating_sub(retention);
        // A sixteenth of slack makes compaction rare.
        let compacts = oldest > from.compacted + retention / 16;
        let compacted = if compacts { oldest } else { from.compacted };
        let term = self.term()?;
        let (format, first, id) = (FORMAT, from.revision + 1, Uuid::new_v4());
        let origin = if from.origin.is_nil() { Uuid::new_v4() } else { from.origin };
        Ok((Head { format, revision, first, compacted, term, origin, id, packed: 0 }, compacts))
    }

    fn log_row(&self, rows: &Rows) -> Result<(String, String), StoreError> {
        let text = serde_json::to_string(&rows.log)
            .map_err(|source| StoreError::Encode { uuid: Uuid::nil(), source })?;
        if text.len() > MOST_BYTES {
            let what = format!("the log of {} changes at once", rows.log.len());
            return Err(StoreError::TooLarge { what, bytes: text.len(), most: MOST_BYTES });
        }
        Ok((log_key(rows.revision), text))
    }

    fn cut_log(&self, head: &Head) -> rpc::RequestOp {
        delete(self.etcd.key(LOG), self.etcd.key(&log_key(head.compacted + 1)))
    }

    async fn commit_rows(&self, at: &Position, rows: Rows) -> Result<Position, StoreError> {
        let (head, compacts) = self.advanced(&at.head, rows.revision)?;
        let mut operations = Vec::with_capacity(rows.changes.len() + 3);
        if !rows.log.is_empty() {
            let (key, row) = self.log_row(&rows)?;
            operations.push(put(self.etcd.key(&key), row, 0));
        }
        if compacts {
            operations.push(self.cut_log(&head));
        }
        operations.extend(rows.changes.into_iter().map(|change| self.operation(change)));
        let step = Step { operations, fresh: rows.fresh, next: Some(head) };
        self.step(at, step).await
    }

    fn operation(&self, (key, value): (String, Option<String>)) -> rpc::RequestOp {
        match value {
            Some(value) => put(self.etcd.key(&key), value, 0),
            None => delete(self.etcd.key(&key), Vec::new()),
        }
    }

    /// A transaction that is too large: its rows in pieces first, then the head that names them, then laid out.
    async fn commit_packed(&self, at: Position, rows: Rows) -> Result<Position, StoreError> {
        self.check_claims(&rows).await?;
        let (mut head, compacts) = self.advanced(&at.head, rows.revision)?;
        let (log_key, log) = self.log_row(&rows)?;
        let mut packed: PackedRows = rows.changes.into_iter().collect();
        if !rows.log.is_empty() {
            packed.push((log_key, Some(log)));
        }
        let text = serde_json::to_vec(&packed)
            .map_err(|source| StoreError::Encode { uuid: Uuid::nil(), source })?;
        for (n, piece) in text.chunks(MOST_BYTES).enumerate() {
            let operations = vec![put(self.etcd.key(&piece_key(n)), piece.to_vec(), 0)];
            self.step(&at, Step { operations, fresh: vec![], next: None }).await?;
            head.packed = n + 1;
        }
        let operations = if compacts { vec![self.cut_log(&head)] } else { vec![] };
        debug!(revision = head.revision, pieces = head.packed, "a large transaction is packed");
        let at = self.step(&at, Step { operations, fresh: vec![], next: Some(head) }).await?;
        // It is stored from here on, whoever lays it out.
        self.lay_out(at, packed).await.map_err(|error| self.unknown(&error))
    }

    fn unknown(&self, error: &StoreError) -> StoreError {
        StoreError::Unknown { endpoints: self.etcd.endpoints(), reason: error.to_string() }
    }

    /// Nobody else writes claims while head and leadership stay as they are, which the commit checks.
    async fn check_claims(&self, rows: &Rows) -> Result<(), StoreError> {
        for some in rows.fresh.chunks(MOST_ROWS) {
            let request = rpc::TxnRequest {
                success: some.iter().map(|(key, _)| read(self.etcd.key(key))).collect(),
                ..Default::default()
            };
            let answer = self
                .etcd
                .call(ATTEMPT, COMMIT, |channel| {
                    let request = request.clone();
                    async move { Ok(kv(channel).txn(led(request)).await?.into_inner()) }
                })
                .await?;
            self.held(some, &found(answer.responses))?;
        }
        Ok(())
    }

    /// Claims of these that their owners hold already.
    fn held(
        &self,
        fresh: &[(String, Uuid)],
        found: &BTreeMap<Vec<u8>, rpc::KeyValue>,
    ) -> Result<Vec<String>, StoreError> {
        let mut held = Vec::new();
        for (key, claimant) in fresh {
            let Some(kv) = found.get(&self.etcd.key(key)) else { continue };
            let holder = std::str::from_utf8(&kv.value).ok().and_then(|t| t.parse::<Uuid>().ok());
            let holder = holder.ok_or_else(|| self.etcd.corrupt(format!("{key}: no uuid")))?;
            if holder != *claimant {
                let key = key.strip_prefix(CLAIMS).unwrap_or(key).to_owned();
                return Err(StoreError::ClaimTaken { key, holder, claimant: *claimant });
            }
            held.push(key.clone());
        }
        Ok(held)
    }

    /// Writes the rows of a packed commit, and then says that they are where they belong. May be done again at any point.
    async fn lay_out(&self, at: Position, rows: PackedRows) -> Result<Position, StoreError> {
        let mut operations = Vec::new();
        let mut bytes = 0;
        for (key, value) in rows {
            let size = key.len() + value.as_ref().map_or(0, String::len);
            if operations.len() == MOST_ROWS || bytes + size > MOST_BYTES {
                let operations = std::mem::take(&mut operations);
                self.step(&at, Step { operations, fresh: vec![], next: None }).await?;
                bytes = 0;
            }
            bytes += size;
            operations.push(self.operation((key, value)));
        }
        let pieces = self.etcd.key(PACKED);
        operations.push(delete(pieces.clone(), after(&pieces)));
        let (term, id) = (self.term()?, Uuid::new_v4());
        let next = Some(Head { packed: 0, term, id, ..at.head.clone() });
        self.step(&at, Step { operations, fresh: vec![], next }).await
    }

    /// Does one etcd transaction under the guards.
    async fn step(&self, at: &Position, mut step: Step) -> Result<Position, StoreError> {
        if let Some(head) = &step.next {
            let value = serde_json::to_vec(head)
                .map_err(|source| StoreError::Encode { uuid: Uuid::nil(), source })?;
            step.operations.push(put(self.etcd.key(HEAD), value, 0));
        }
        loop {
            match self.attempt(at, &step).await? {
                Outcome::Done(revision) => {
                    return Ok(match step.next {
                        Some(head) => Position { head, changed: revision },
                        None => at.clone(),
                    });
                }
                Outcome::Held(keys) => step.fresh.retain(|(key, _)| !keys.contains(key)),
            }
        }
    }

    /// Sends it until its outcome is known. Twice is harmless: the first that arrives moves the head, which the second compares.
    async fn attempt(&self, at: &Position, step: &Step) -> Result<Outcome, StoreError> {
        let term = self.term()?;
        let (head_key, leader_key) = (self.etcd.key(HEAD), self.etcd.key(LEADER));
        let mut compare =
            vec![changed(head_key.clone(), at.changed), created(leader_key.clone(), term)];
        let mut failure = vec![read(head_key.clone()), read(leader_key.clone())];
        for (key, _) in &step.fresh {
            compare.push(absent(self.etcd.key(key)));
            failure.push(read(self.etcd.key(key)));
        }
        let request = rpc::TxnRequest { compare, success: step.operations.clone(), failure };
        let answer = self.send(request).await?;
        if answer.succeeded {
            return Ok(Outcome::Done(answer.header.map_or(0, |header| header.revision)));
        }
        let found = found(answer.responses);
        let head = found.get(&head_key);
        if let (Some(next), Some(kv)) = (&step.next, head)
            && self.etcd.head(&kv.value)? == *next
        {
            // An attempt whose answer was lost had arrived.
            return Ok(Outcome::Done(kv.mod_revision));
        }
        if found.get(&leader_key).map(|kv| kv.create_revision) != Some(term) {
            self.tenure.end();
            return Err(StoreError::NotLeader);
        }
        if head.map_or(0, |kv| kv.mod_revision) != at.changed {
            return Err(StoreError::NeedsLoad { path: self.etcd.name() });
        }
        self.held(&step.fresh, &found).map(Outcome::Held)
    }

    async fn send(&self, request: rpc::TxnRequest) -> Result<rpc::TxnResponse, StoreError> {
        let until = Instant::now() + COMMIT;
        let mut reason = String::new();
        while Instant::now() < until && self.tenure.term().is_some() {
            let (url, channel) = self.etcd.current();
            let sent = async { kv(channel).txn(led(request.clone())).await };
            match tokio::time::timeout(ATTEMPT, sent).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => {
                    if let Some(error) = self.etcd.permanent(&url, &status) {
                        return Err(error);
                    }
                    reason = blamed(&url, &status);
                }
                Err(_) => reason = format!("{url}: no answer in time"),
            }
            debug!(reason, "a commit was not answered; asking again");
            self.etcd.leave();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if reason.is_empty() {
            return Err(StoreError::NotLeader);
        }
        Err(StoreError::Unknown { endpoints: self.etcd.endpoints(), reason })
    }
}

/// Keys that reads of a transaction found.
fn found(responses: Vec<rpc::ResponseOp>) -> BTreeMap<Vec<u8>, rpc::KeyValue> {
    let mut found = BTreeMap::new();
    for response in responses {
        if let Some(rpc::response_op::Response::ResponseRange(range)) = response.response {
            found.extend(range.kvs.into_iter().map(|kv| (kv.key.to_vec(), kv)));
        }
    }
    found
}

impl ObjectStore for EtcdStore {
    fn load(&mut self) -> Result<State, StoreError> {
        let loaded = self.runtime.block_on(self.etcd.load())?;
        info!(etcd = self.etcd.name(), revision = loaded.head.revision, "configuration read");
        self.position = Some(Position { head: loaded.head, changed: loaded.changed });
        Ok(loaded.state)
    }

    fn commit(&mut self, group: &[Transaction]) -> Result<(), StoreError> {
        if group.is_empty() {
            return Ok(());
        }
        let position =
            self.position.take().ok_or_else(|| StoreError::NeedsLoad { path: self.etcd.name() })?;
        match self.runtime.block_on(self.write(position, group)) {
            Ok(position) => {
                self.position = Some(position);
                Ok(())
            }
            Err(error) => {
                warn!(etcd = self.etcd.name(), %error, "a group of writes failed");
                Err(error)
            }
        }
    }
}
