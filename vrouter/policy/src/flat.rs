//! The flattened form: what is written into the kernel's policy map, and a model of its lookup.
//!
//! A lookup is one longest prefix match on (identity, protocol, destination port). Three lengths of key exist:
//! identity alone, identity and protocol, and identity, protocol and some bits of the port. An identity without any entry is one
//! no rule names; the lookup is repeated with identity 0, "anyone".

use crate::{Direction, IdentityNumber, RuleNumber};
use std::collections::BTreeMap;

/// What an entry says about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Open it.
    Pass,
    /// Refuse it.
    Drop,
    /// Look the source port up in this source table of the policy.
    BySource(u32),
}

/// One entry of the policy map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// Who opens.
    pub direction: Direction,
    /// The remote end; 0 is anyone no rule names.
    pub identity: IdentityNumber,
    /// IP protocol; `None`: every protocol without a longer entry.
    pub protocol: Option<u8>,
    /// Destination port, or ICMP `type << 8 | code`; bits beyond `port_bits` are 0.
    pub port: u16,
    /// How many leading bits of `port` count; 0 when `protocol` is `None`.
    pub port_bits: u8,
    /// What to do.
    pub action: Action,
    /// Who says so. 0 for [`Action::BySource`].
    pub rule: RuleNumber,
}

/// One entry of a source table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceEntry {
    /// Number of the table within its policy.
    pub table: u32,
    /// Source port; bits beyond `port_bits` are 0.
    pub port: u16,
    /// How many leading bits of `port` count.
    pub port_bits: u8,
    /// The connection may be opened.
    pub pass: bool,
    /// Who says so.
    pub rule: RuleNumber,
}

/// A flattened policy held in memory: the model of the kernel's two maps.
#[derive(Clone, Debug, Default)]
pub struct FlatPolicy {
    entries: BTreeMap<(Direction, IdentityNumber), Vec<Entry>>,
    sources: BTreeMap<u32, Vec<SourceEntry>>,
}

impl FlatPolicy {
    /// Adds entries, as loading them into the kernel would.
    pub fn extend(&mut self, entries: &[Entry], sources: &[SourceEntry]) {
        for entry in entries {
            self.entries.entry((entry.direction, entry.identity)).or_default().push(*entry);
        }
        for entry in sources {
            self.sources.entry(entry.table).or_default().push(*entry);
        }
    }

    /// The verdict for an opening packet: pass, and the rule that decided. `None` only if the policy was never loaded.
    #[must_use]
    pub fn lookup(
        &self,
        direction: Direction,
        identity: IdentityNumber,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Option<(bool, RuleNumber)> {
        let own = self.entries.get(&(direction, identity));
        let entry = own
            .or_else(|| self.entries.get(&(direction, 0)))?
            .iter()
            .filter(|e| {
                e.protocol
                    .is_none_or(|p| p == protocol && shares(e.port, destination_port, e.port_bits))
            })
            .max_by_key(|e| (e.protocol.is_some(), e.port_bits))?;
        match entry.action {
            Action::Pass => Some((true, entry.rule)),
            Action::Drop => Some((false, entry.rule)),
            Action::BySource(table) => self
                .sources
                .get(&table)?
                .iter()
                .filter(|s| shares(s.port, source_port, s.port_bits))
                .max_by_key(|s| s.port_bits)
                .map(|s| (s.pass, s.rule)),
        }
    }

    /// How many entries both tables hold.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.values().map(Vec::len).sum::<usize>()
            + self.sources.values().map(Vec::len).sum::<usize>()
    }

    /// Whether nothing was loaded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn shares(a: u16, b: u16, bits: u8) -> bool {
    bits == 0 || (a ^ b) >> (16 - u32::from(bits.min(16))) == 0
}
