//! The embedded store: one redb file.
//!
//! Rows of objects are keyed by (revision of creation, uuid). New objects therefore go to the right edge of the
//! tree, where a group of creates shares a few pages, and a scan yields the order of creation. Finding a row by uuid
//! is never needed: the whole graph is in memory.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};
use skein_model::Object;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{Claim, LogEntry, ObjectStore, State, StoreError, Transaction};

const OBJECTS: TableDefinition<'_, (u64, u128), &[u8]> = TableDefinition::new("objects");
const CLAIMS: TableDefinition<'_, &str, u128> = TableDefinition::new("claims");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const KV: TableDefinition<'_, &str, &str> = TableDefinition::new("kv");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// Layout of the tables above; raised when an older version could not read the file.
const FORMAT: u64 = 1;

/// How an [`EmbeddedStore`] behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many revisions the log keeps for watchers that come back.
    pub log_retention: u64,
    /// Page cache, bytes. Objects are read once at start, so it serves interior pages only.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { log_retention: 65_536, cache_bytes: 32 << 20 }
    }
}

/// Configuration in one file of this machine.
#[derive(Debug)]
pub struct EmbeddedStore {
    path: PathBuf,
    options: Options,
    /// Absent after a failed commit: redb refuses to go on with a handle that saw an I/O error.
    db: Option<Database>,
    revision: u64,
    compacted: u64,
}

impl EmbeddedStore {
    /// Opens the file, creating it if it does not exist. The caller loads it next.
    ///
    /// # Errors
    /// The file is held by another process, damaged, of another format, or not accessible.
    pub fn open(path: impl Into<PathBuf>, options: Options) -> Result<Self, StoreError> {
        let path = path.into();
        let db = open_database(&path, &options)?;
        let mut store = Self { path, options, db: Some(db), revision: 0, compacted: 0 };
        store.prepare()?;
        Ok(store)
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the tables of a new file and checks the format of an old one.
    fn prepare(&mut self) -> Result<(), StoreError> {
        let path = &self.path;
        let db = self.db.as_ref().ok_or_else(|| needs_load(path))?;
        let fail = |e: redb::Error| StoreError::from_redb("prepare", path, e);
        let tx = db.begin_write().map_err(|e| fail(e.into()))?;
        {
            tx.open_table(OBJECTS).map_err(|e| fail(e.into()))?;
            tx.open_table(CLAIMS).map_err(|e| fail(e.into()))?;
            tx.open_table(LOG).map_err(|e| fail(e.into()))?;
            tx.open_table(KV).map_err(|e| fail(e.into()))?;
            let mut meta = tx.open_table(META).map_err(|e| fail(e.into()))?;
            let found = meta.get("format").map_err(|e| fail(e.into()))?.map(|g| g.value());
            match found {
                Some(FORMAT) => {}
                Some(found) => {
                    return Err(StoreError::Format {
                        path: path.display().to_string(),
                        found,
                        expected: FORMAT,
                    });
                }
                None => {
                    meta.insert("format", FORMAT).map_err(|e| fail(e.into()))?;
                }
            }
            self.revision =
                meta.get("revision").map_err(|e| fail(e.into()))?.map_or(0, |g| g.value());
            self.compacted =
                meta.get("compacted").map_err(|e| fail(e.into()))?.map_or(0, |g| g.value());
        }
        tx.commit().map_err(|e| fail(e.into()))
    }

    fn read(&self) -> Result<State, StoreError> {
        let path = &self.path;
        let db = self.db.as_ref().ok_or_else(|| needs_load(path))?;
        let fail = |e: redb::Error| StoreError::from_redb("read", path, e);
        let corrupt =
            |reason: String| StoreError::Corrupt { path: path.display().to_string(), reason };
        let tx = db.begin_read().map_err(|e| fail(e.into()))?;
        let mut state =
            State { revision: self.revision, compacted: self.compacted, ..State::default() };
        let objects = tx.open_table(OBJECTS).map_err(|e| fail(e.into()))?;
        for row in objects.iter().map_err(|e| fail(e.into()))? {
            let (key, value) = row.map_err(|e| fail(e.into()))?;
            let object: Object = serde_json::from_slice(value.value()).map_err(|e| {
                corrupt(format!("object {} cannot be read: {e}", Uuid::from_u128(key.value().1)))
            })?;
            state.objects.push(Arc::new(object));
        }
        let claims = tx.open_table(CLAIMS).map_err(|e| fail(e.into()))?;
        for row in claims.iter().map_err(|e| fail(e.into()))? {
            let (key, value) = row.map_err(|e| fail(e.into()))?;
            state
                .claims
                .push(Claim { key: key.value().to_owned(), owner: Uuid::from_u128(value.value()) });
        }
        let kv = tx.open_table(KV).map_err(|e| fail(e.into()))?;
        for row in kv.iter().map_err(|e| fail(e.into()))? {
            let (key, value) = row.map_err(|e| fail(e.into()))?;
            state.kv.push((key.value().to_owned(), value.value().to_owned()));
        }
        let log = tx.open_table(LOG).map_err(|e| fail(e.into()))?;
        for row in log.iter().map_err(|e| fail(e.into()))? {
            let (key, value) = row.map_err(|e| fail(e.into()))?;
            let entries: Vec<LogEntry> = serde_json::from_slice(value.value()).map_err(|e| {
                corrupt(format!("log of revision {} cannot be read: {e}", key.value()))
            })?;
            let revision = key.value();
            state.log.extend(entries.into_iter().map(|entry| LogEntry { revision, ..entry }));
        }
        Ok(state)
    }

    /// Writes one group. Dropping the transaction on an early return aborts it.
    fn write(&self, db: &Database, group: &[Transaction]) -> Result<(u64, u64), StoreError> {
        let fail = |e: redb::Error| StoreError::from_redb("write", &self.path, e);
        let mut tx = db.begin_write().map_err(|e| fail(e.into()))?;
        tx.set_durability(Durability::Immediate).map_err(|e| fail(e.into()))?;
        let mut revision = self.revision;
        let mut compacted = self.compacted;
        {
            let mut objects = tx.open_table(OBJECTS).map_err(|e| fail(e.into()))?;
            let mut claims = tx.open_table(CLAIMS).map_err(|e| fail(e.into()))?;
            let mut log = tx.open_table(LOG).map_err(|e| fail(e.into()))?;
            let mut kv = tx.open_table(KV).map_err(|e| fail(e.into()))?;
            let mut meta = tx.open_table(META).map_err(|e| fail(e.into()))?;
            for one in group {
                if one.revision != revision + 1 {
                    return Err(StoreError::Revision {
                        found: one.revision,
                        expected: revision + 1,
                    });
                }
                revision = one.revision;
                for gone in &one.deletes {
                    objects
                        .remove((gone.created_revision, gone.uuid.as_u128()))
                        .map_err(|e| fail(e.into()))?;
                }
                for object in &one.puts {
                    let bytes = serde_json::to_vec(object.as_ref())
                        .map_err(|source| StoreError::Encode { uuid: object.uuid, source })?;
                    objects
                        .insert((object.created_revision, object.uuid.as_u128()), bytes.as_slice())
                        .map_err(|e| fail(e.into()))?;
                }
                for key in &one.releases {
                    claims.remove(key.as_str()).map_err(|e| fail(e.into()))?;
                }
                for claim in &one.claims {
                    let held = claims
                        .insert(claim.key.as_str(), claim.owner.as_u128())
                        .map_err(|e| fail(e.into()))?
                        .map(|g| Uuid::from_u128(g.value()));
                    if let Some(holder) = held.filter(|holder| *holder != claim.owner) {
                        return Err(StoreError::ClaimTaken {
                            key: claim.key.clone(),
                            holder,
                            claimant: claim.owner,
                        });
                    }
                }
                for (key, value) in &one.kv {
                    match value {
                        Some(value) => kv.insert(key.as_str(), value.as_str()).map(drop),
                        None => kv.remove(key.as_str()).map(drop),
                    }
                    .map_err(|e| fail(e.into()))?;
                }
                let entries = one.log();
                if !entries.is_empty() {
                    let bytes = serde_json::to_vec(&entries)
                        .map_err(|source| StoreError::Encode { uuid: entries[0].uuid, source })?;
                    log.insert(revision, bytes.as_slice()).map_err(|e| fail(e.into()))?;
                }
            }
            let oldest = revision.saturating_sub(self.options.log_retention);
            // A sixteenth of slack makes compaction rare and its pages few.
            if oldest > compacted + self.options.log_retention / 16 {
                log.retain_in(..=oldest, |_, _| false).map_err(|e| fail(e.into()))?;
                compacted = oldest;
                meta.insert("compacted", compacted).map_err(|e| fail(e.into()))?;
            }
            meta.insert("revision", revision).map_err(|e| fail(e.into()))?;
        }
        tx.commit().map_err(|e| fail(e.into()))?;
        Ok((revision, compacted))
    }
}

impl ObjectStore for EmbeddedStore {
    fn load(&mut self) -> Result<State, StoreError> {
        if self.db.is_none() {
            info!(path = %self.path.display(), "opening the store again after a failed write");
            self.db = Some(open_database(&self.path, &self.options)?);
            self.prepare()?;
        }
        self.read()
    }

    fn commit(&mut self, group: &[Transaction]) -> Result<(), StoreError> {
        if group.is_empty() {
            return Ok(());
        }
        let db = self.db.take().ok_or_else(|| needs_load(&self.path))?;
        match self.write(&db, group) {
            Ok((revision, compacted)) => {
                self.db = Some(db);
                self.revision = revision;
                self.compacted = compacted;
                Ok(())
            }
            Err(error) => {
                // The handle goes with the error: what the file holds is only known after reopening it.
                warn!(path = %self.path.display(), %error, "a group of writes failed");
                Err(error)
            }
        }
    }
}

fn open_database(path: &Path, options: &Options) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(options.cache_bytes);
    builder.create(path).map_err(|e| StoreError::from_redb("open", path, e.into()))
}

fn needs_load(path: &Path) -> StoreError {
    StoreError::NeedsLoad { path: path.display().to_string() }
}
