//! A typed view of one map.

use crate::abi::{Plain, bytes_of, from_bytes};
use crate::{Error, Result};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use std::marker::PhantomData;

pub(crate) struct Table<K, V> {
    map: MapHandle,
    name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Table<K, V> {
    pub(crate) fn new(map: MapHandle, name: &'static str) -> Self {
        Self { map, name, types: PhantomData }
    }

    pub(crate) fn size(&self) -> u32 {
        self.map.max_entries()
    }

    fn failed(&self, verb: &str) -> impl FnOnce(libbpf_rs::Error) -> Error {
        let (name, size, what) = (self.name, self.size(), format!("to {verb} table {}", self.name));
        move |source| {
            let text = source.to_string();
            // Hash tables say E2BIG when they are full, tries ENOSPC.
            if text.contains("Argument list too long") || text.contains("No space left") {
                Error::Full { table: name, size }
            } else {
                Error::Kernel { what, source }
            }
        }
    }

    pub(crate) fn set(&self, key: &K, value: &V) -> Result<()> {
        self.map.update(bytes_of(key), bytes_of(value), MapFlags::ANY).map_err(self.failed("write"))
    }

    /// Writes if the key is absent; `false` if it was there.
    pub(crate) fn insert(&self, key: &K, value: &V) -> Result<bool> {
        match self.map.update(bytes_of(key), bytes_of(value), MapFlags::NO_EXIST) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(self.failed("write")(e)),
        }
    }

    pub(crate) fn set_many(&self, entries: &[(K, V)]) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let keys: Vec<u8> = entries.iter().flat_map(|(k, _)| bytes_of(k)).copied().collect();
        let values: Vec<u8> = entries.iter().flat_map(|(_, v)| bytes_of(v)).copied().collect();
        self.map
            .update_batch(&keys, &values, entries.len() as u32, MapFlags::ANY, MapFlags::ANY)
            .map_err(self.failed("write"))
    }

    pub(crate) fn get(&self, key: &K) -> Result<Option<V>> {
        let found = self.map.lookup(bytes_of(key), MapFlags::ANY).map_err(self.failed("read"))?;
        Ok(found.and_then(|bytes| from_bytes(&bytes)))
    }

    /// `false` if there was no such key.
    pub(crate) fn remove(&self, key: &K) -> Result<bool> {
        match self.map.delete(bytes_of(key)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == libbpf_rs::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed("delete from")(e)),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = K> + '_ {
        self.map.keys().filter_map(|bytes| from_bytes(&bytes))
    }

    pub(crate) fn entries(&self) -> Result<Vec<(K, V)>> {
        let mut all = Vec::new();
        for key in self.keys() {
            // Gone between the two calls: not an entry any more.
            if let Some(value) = self.get(&key)? {
                all.push((key, value));
            }
        }
        Ok(all)
    }

    /// Visits entries of a hash table in batches until `visit` says stop.
    pub(crate) fn each(&self, mut visit: impl FnMut(K, V) -> bool) -> Result<()> {
        let batches = self
            .map
            .lookup_batch(4096, MapFlags::ANY, MapFlags::ANY)
            .map_err(self.failed("read"))?;
        for (key, value) in batches {
            if let (Some(key), Some(value)) = (from_bytes(&key), from_bytes(&value))
                && !visit(key, value)
            {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn per_cpu(&self, key: &K) -> Result<Vec<V>> {
        let found =
            self.map.lookup_percpu(bytes_of(key), MapFlags::ANY).map_err(self.failed("read"))?;
        Ok(found.unwrap_or_default().iter().filter_map(|bytes| from_bytes(bytes)).collect())
    }

    pub(crate) fn set_per_cpu(&self, key: &K, value: &V) -> Result<()> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(self.failed("size"))?;
        // Values of per-CPU maps are rounded up to 8 bytes.
        let mut bytes = bytes_of(value).to_vec();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        self.map
            .update_percpu(bytes_of(key), &vec![bytes; cpus], MapFlags::ANY)
            .map_err(self.failed("write"))
    }
}
