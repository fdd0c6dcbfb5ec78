//! Reads everything at one moment of etcd.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use skein_model::Object;
use tracing::debug;
use uuid::Uuid;

use super::{
    campaign::Leader,
    client::{CALL, Etcd, SHORT, after, kv, led},
    layout::{
        CLAIMS, FORMAT, HEAD, Head, KV, LEADER, LOG, LogRow, OBJECTS, PackedRows, object_of,
        piece_key,
    },
    rpc,
};
use crate::{Claim, LogEntry, State, StoreError};

/// Rows of one answer.
const PAGE: i64 = 1000;
/// etcd may forget the moment that is being read; then the next one is read.
const ATTEMPTS: usize = 5;

/// The state and where in etcd's history it is from.
#[derive(Debug)]
pub struct Loaded {
    /// Everything stored.
    pub state: State,
    /// Who writes.
    pub leader: Option<Leader>,
    /// etcd's revision; what follows comes after it.
    pub at: i64,
    /// etcd's revision of the last change of `head`.
    pub(super) changed: i64,
    pub(super) head: Head,
}

impl Etcd {
    /// Reads everything as it is now.
    ///
    /// # Errors
    /// etcd does not answer, refuses, or holds what is not Skein's.
    pub async fn load(&self) -> Result<Loaded, StoreError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.load_once().await {
                Err(StoreError::Compacted) if attempt < ATTEMPTS => {
                    debug!("etcd forgot the revision that was being read; reading the next one");
                }
                result => return result,
            }
        }
    }

    async fn load_once(&self) -> Result<Loaded, StoreError> {
        let request = rpc::RangeRequest { key: self.key(HEAD).into(), ..Default::default() };
        let mut answer = self.range(request).await?;
        let at = answer.header.map_or(0, |header| header.revision);
        let (head, changed) = match answer.kvs.pop() {
            Some(kv) => (self.head(&kv.value)?, kv.mod_revision),
            None => {
                self.recognize(None)?;
                (Head { format: FORMAT, ..Head::default() }, 0)
            }
        };
        let mut rows = BTreeMap::new();
        for folder in [CLAIMS, KV, LOG, OBJECTS] {
            self.folder(folder, at, &mut rows).await?;
        }
        if head.packed > 0 {
            for (key, value) in self.pieces(head.packed, at).await? {
                match value {
                    Some(value) => rows.insert(key, Bytes::from(value)),
                    None => rows.remove(&key),
                };
            }
        }
        let leader = self.leader(at).await?;
        let state = self.state(&head, rows)?;
        Ok(Loaded { state, leader, at, changed, head })
    }

    /// Revision of the newest commit, as etcd has it now.
    ///
    /// # Errors
    /// etcd does not answer, refuses, or holds what is not Skein's.
    pub async fn newest(&self) -> Result<u64, StoreError> {
        let request = rpc::RangeRequest { key: self.key(HEAD).into(), ..Default::default() };
        let answer = self.call(SHORT, CALL, |channel| {
            let request = request.clone();
            async move { Ok(kv(channel).range(led(request)).await?.into_inner()) }
        });
        match answer.await?.kvs.pop() {
            Some(kv) => Ok(self.head(&kv.value)?.revision),
            None => self.recognize(None).map(|()| 0),
        }
    }

    async fn leader(&self, at: i64) -> Result<Option<Leader>, StoreError> {
        let key = self.key(LEADER).into();
        let request = rpc::RangeRequest { key, revision: at, ..Default::default() };
        Ok(self.range(request).await?.kvs.pop().and_then(|kv| self.named(&kv)))
    }

    /// What a leader's key says; one that says nothing is waited for like any other.
    pub(super) fn named(&self, kv: &rpc::KeyValue) -> Option<Leader> {
        match serde_json::from_slice::<Leader>(&kv.value) {
            Ok(leader) => Some(Leader { term: kv.create_revision, ..leader }),
            Err(error) => {
                debug!(%error, etcd = self.name(), "the leader's key cannot be read");
                None
            }
        }
    }

    /// Reads all rows of a folder, with the keys below the prefix.
    async fn folder(
        &self,
        folder: &str,
        at: i64,
        rows: &mut BTreeMap<String, Bytes>,
    ) -> Result<(), StoreError> {
        let start = self.key(folder);
        let end = after(&start);
        let mut next = start;
        loop {
            let request = rpc::RangeRequest {
                key: next.into(),
                range_end: end.clone().into(),
                limit: PAGE,
                revision: at,
            };
            let page = self.range(request).await?;
            let Some(last) = page.kvs.last() else { return Ok(()) };
            next = last.key.to_vec();
            next.push(0);
            for kv in page.kvs {
                rows.insert(self.suffix(&kv.key)?, kv.value);
            }
            if !page.more {
                return Ok(());
            }
        }
    }

    /// A key without the prefix.
    pub(super) fn suffix(&self, key: &[u8]) -> Result<String, StoreError> {
        let below = key.strip_prefix(self.options().prefix.as_bytes());
        below
            .and_then(|key| std::str::from_utf8(key).ok())
            .map(str::to_owned)
            .ok_or_else(|| self.corrupt(format!("key {:?}", String::from_utf8_lossy(key))))
    }

    /// The pieces of a large transaction, put together.
    pub(super) async fn pieces(&self, count: usize, at: i64) -> Result<PackedRows, StoreError> {
        let mut text = Vec::new();
        for n in 0..count {
            let key = self.key(&piece_key(n)).into();
            let request = rpc::RangeRequest { key, revision: at, ..Default::default() };
            let piece = self.range(request).await?.kvs.pop();
            let piece =
                piece.ok_or_else(|| self.corrupt(format!("{} is missing", piece_key(n))))?;
            text.extend_from_slice(&piece.value);
        }
        serde_json::from_slice(&text).map_err(|e| self.corrupt(format!("a packed commit: {e}")))
    }

    pub(super) fn head(&self, value: &[u8]) -> Result<Head, StoreError> {
        let head: Head =
            serde_json::from_slice(value).map_err(|e| self.corrupt(format!("{HEAD}: {e}")))?;
        if head.format != FORMAT {
            let (found, expected) = (head.format, FORMAT);
            return Err(StoreError::Format { path: self.name(), found, expected });
        }
        self.recognize(Some(head.origin))?;
        Ok(head)
    }

    pub(super) fn object(&self, key: &str, value: &[u8]) -> Result<Object, StoreError> {
        serde_json::from_slice(value).map_err(|e| self.corrupt(format!("{key}: {e}")))
    }

    pub(super) fn log(&self, key: &str, value: &[u8]) -> Result<LogRow, StoreError> {
        serde_json::from_slice(value).map_err(|e| self.corrupt(format!("{key}: {e}")))
    }

    pub(super) fn corrupt(&self, reason: String) -> StoreError {
        StoreError::Corrupt { path: self.name(), reason }
    }

    fn state(&self, head: &Head, rows: BTreeMap<String, Bytes>) -> Result<State, StoreError> {
        let mut state =
            State { revision: head.revision, compacted: head.compacted, ..State::default() };
        let text = |key: &str, value: &Bytes| {
            String::from_utf8(value.to_vec()).map_err(|_| self.corrupt(format!("{key}: no text")))
        };
        // Rows are in order of their keys: objects in that of their creation, the log from its oldest.
        for (key, value) in rows {
            if let Some(name) = key.strip_prefix(CLAIMS) {
                let owner = Uuid::try_parse(&text(&key, &value)?)
                    .map_err(|e| self.corrupt(format!("{key}: {e}")))?;
                state.claims.push(Claim { key: name.to_owned(), owner });
            } else if let Some(name) = key.strip_prefix(KV) {
                state.kv.push((name.to_owned(), text(&key, &value)?));
            } else if key.starts_with(LOG) {
                let row = self.log(&key, &value)?;
                let kept = row.into_iter().filter(|(revision, _)| *revision > head.compacted);
                state.log.extend(kept.map(|(revision, entry)| LogEntry { revision, ..entry }));
            } else if let Some(name) = key.strip_prefix(OBJECTS) {
                if object_of(name).is_none() {
                    return Err(self.corrupt(format!("{key}: no key of an object")));
                }
                state.objects.push(Arc::new(self.object(&key, &value)?));
            }
        }
        Ok(state)
    }
}
