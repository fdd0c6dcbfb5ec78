//! Flattened policies in the kernel.

use crate::abi::{POLICY_BY_SOURCE, POLICY_DROP, POLICY_PASS, bytes_of, types};
use crate::{Datapath, PolicyId, Result, error::Error};
use skein_policy::{Action, Addition, Direction, Entry, SourceEntry};
use std::collections::{BTreeSet, HashSet};

/// Keys of one policy.
#[derive(Default)]
pub(crate) struct LoadedKeys {
    entries: Vec<types::policy_key>,
    sources: Vec<types::source_key>,
}

/// Bits of a policy key before the protocol, and before the port.
const TO_PROTOCOL: u32 = 72;
const TO_PORT: u32 = 80;
/// Bits of a source key before the port.
const TO_SOURCE_PORT: u32 = 64;

fn entry(policy: PolicyId, entry: &Entry) -> (types::policy_key, types::policy_value) {
    let bits =
        if entry.protocol.is_some() { TO_PORT + u32::from(entry.port_bits) } else { TO_PROTOCOL };
    let key = types::policy_key {
        bits,
        policy,
        identity: entry.identity,
        direction: entry.direction as u8,
        protocol: entry.protocol.unwrap_or(0),
        port: entry.port.to_be(),
    };
    let (action, table) = match entry.action {
        Action::Pass => (POLICY_PASS, 0),
        Action::Drop => (POLICY_DROP, 0),
        Action::BySource(table) => (POLICY_BY_SOURCE, table),
    };
    (key, types::policy_value { action, rule: entry.rule, table })
}

fn source(policy: PolicyId, entry: &SourceEntry) -> (types::source_key, types::policy_value) {
    let key = types::source_key {
        bits: TO_SOURCE_PORT + u32::from(entry.port_bits),
        policy,
        table: entry.table,
        port: entry.port.to_be(),
        pad: [0; 2],
    };
    let action = if entry.pass { POLICY_PASS } else { POLICY_DROP };
    (key, types::policy_value { action, rule: entry.rule, table: 0 })
}

impl Datapath {
    /// Writes entries of a policy: all of a fresh one, or one more identity's of a loaded one. Never changes what
    /// other identities meet.
    ///
    /// # Errors
    /// [`Error::Argument`] for an id of 0; [`Error::Full`], after which the policy is as it was before.
    pub fn load_policy(&mut self, id: PolicyId, addition: &Addition) -> Result<()> {
        if id == 0 {
            return Err(Error::Argument { field: "policy", reason: "the id must not be 0".into() });
        }
        let sources: Vec<_> = addition.sources.iter().map(|s| source(id, s)).collect();
        // An identity without entries is "anyone" until its first entry. Its shortest key, which covers everything
        // else, comes last: until then longer ones decide exactly, and what they do not cover is still "anyone".
        let mut entries: Vec<_> = addition.entries.iter().map(|e| entry(id, e)).collect();
        entries.sort_by_key(|(key, _)| std::cmp::Reverse(key.bits));
        let fresh = !self.loaded_policies.contains_key(&id);
        let loaded = self.loaded_policies.entry(id).or_default();
        let before = (loaded.sources.len(), loaded.entries.len());
        loaded.sources.extend(sources.iter().map(|(key, _)| *key));
        loaded.entries.extend(entries.iter().map(|(key, _)| *key));
        let outcome =
            self.policy_sources.set_many(&sources).and_then(|()| self.policies.set_many(&entries));
        if matches!(outcome, Err(Error::Full { .. })) {
            self.take_back(id, fresh, before)?;
        }
        outcome
    }

    /// Takes out what was added to a policy beyond these numbers of keys: it would take room from others, and be counted
    /// twice when it comes again.
    fn take_back(
        &mut self,
        id: PolicyId,
        fresh: bool,
        (sources, entries): (usize, usize),
    ) -> Result<()> {
        let Some(loaded) = self.loaded_policies.get_mut(&id) else { return Ok(()) };
        let added = loaded.entries.split_off(entries.min(loaded.entries.len()));
        let kept: HashSet<&[u8]> = loaded.entries.iter().map(bytes_of).collect();
        // The last one written covers the others, and goes first.
        for key in added.iter().rev().filter(|key| !kept.contains(bytes_of(*key))) {
            self.policies.remove(key)?;
        }
        let added = loaded.sources.split_off(sources.min(loaded.sources.len()));
        let kept: HashSet<&[u8]> = loaded.sources.iter().map(bytes_of).collect();
        for key in added.iter().filter(|key| !kept.contains(bytes_of(*key))) {
            self.policy_sources.remove(key)?;
        }
        if fresh {
            self.loaded_policies.remove(&id);
        }
        Ok(())
    }

    /// Takes the entries of identities that no route carries any more out of a loaded policy.
    ///
    /// # Errors
    /// [`Error::Kernel`]; what is left goes the next time.
    pub fn shrink_policy(&mut self, id: PolicyId, identities: &BTreeSet<u32>) -> Result<()> {
        let Some(loaded) = self.loaded_policies.get_mut(&id) else { return Ok(()) };
        // Those of identity 0 are everybody's.
        let goes =
            |key: &types::policy_key| key.identity != 0 && identities.contains(&key.identity);
        for key in loaded.entries.iter().filter(|key| goes(key)) {
            self.policies.remove(key)?;
        }
        loaded.entries.retain(|key| !goes(key));
        Ok(())
    }

    /// Takes a policy out. No interface may have it any more. `false` if it was not loaded.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn unload_policy(&mut self, id: PolicyId) -> Result<bool> {
        let Some(keys) = self.loaded_policies.remove(&id) else { return Ok(false) };
        for key in &keys.entries {
            self.policies.remove(key)?;
        }
        for key in &keys.sources {
            self.policy_sources.remove(key)?;
        }
        Ok(true)
    }

    /// Ids of loaded policies, also of those an earlier process loaded.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyId> {
        let mut ids: Vec<_> = self.loaded_policies.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    pub(crate) fn find_policies(&mut self) {
        for key in self.policies.keys() {
            self.loaded_policies.entry(key.policy).or_default().entries.push(key);
        }
        for key in self.policy_sources.keys() {
            self.loaded_policies.entry(key.policy).or_default().sources.push(key);
        }
    }

    /// The kernel's verdict from the same tables: pass, and the rule.
    pub(crate) fn judge(
        &self,
        policy: PolicyId,
        identity: u32,
        direction: Direction,
        protocol: u8,
        ports: (u16, u16),
    ) -> Result<Option<(bool, u32)>> {
        let mut key = types::policy_key {
            bits: 96,
            policy,
            identity,
            direction: direction as u8,
            protocol,
            port: ports.1.to_be(),
        };
        let mut found = self.policies.get(&key)?;
        if found.is_none() && identity != 0 {
            key.identity = 0;
            found = self.policies.get(&key)?;
        }
        if let Some(value) = found
            && value.action == POLICY_BY_SOURCE
        {
            let port = ports.0.to_be();
            let key = types::source_key { bits: 80, policy, table: value.table, port, pad: [0; 2] };
            found = self.policy_sources.get(&key)?;
        }
        Ok(found.map(|value| (value.action == POLICY_PASS, value.rule)))
    }
}
