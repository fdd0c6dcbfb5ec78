//! Tables of the kernel that have no room: who is told, and what.

use super::Node;
use crate::state::Operation;
use std::collections::{BTreeMap, BTreeSet};

/// Ports that are named; of more, how many.
const NAMED: usize = 5;

/// A table that has no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FullTable {
    /// What it said: its name, its size, what to do.
    reason: String,
    /// Changes that are not done for it.
    pub(crate) changes: usize,
    /// Ports that lack something.
    ports: BTreeSet<String>,
}

impl FullTable {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let Self { reason, changes, ports } = self;
        let mut named = ports.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
        if ports.len() > NAMED {
            named += &format!(" and {} more", ports.len() - NAMED);
        }
        let whom = if ports.is_empty() { String::new() } else { format!(" of {named}") };
        format!("{reason}; {changes} changes{whom} wait for room")
    }
}

impl Node {
    /// Takes what a round of changes found full, and says what begins and ends. A round without changes has nothing that waits.
    pub(super) fn note_full_tables(
        &mut self,
        full: &BTreeMap<&'static str, (String, Vec<usize>)>,
        operations: &[Operation],
    ) {
        let now: BTreeMap<_, _> = full
            .iter()
            .map(|(table, (reason, places))| {
                let undone: Vec<_> = places.iter().filter_map(|at| operations.get(*at)).collect();
                let ports = self.core.concerned(&undone);
                (*table, FullTable { reason: reason.clone(), changes: undone.len(), ports })
            })
            .collect();
        if now == self.full_tables {
            return;
        }
        for (table, full) in &now {
            // How many wait may change with everything that is configured.
            if self.full_tables.get(table).is_none_or(|before| before.ports != full.ports) {
                tracing::warn!(table, "{}", full.text());
            }
        }
        for table in self.full_tables.keys().filter(|table| !now.contains_key(*table)) {
            tracing::info!(table, "the table has room again: nothing waits for it");
        }
        self.full_tables = now;
        self.send_status();
    }

    /// Full tables as problems: whom it is about, and what is wrong.
    pub(crate) fn without_room(&self) -> impl Iterator<Item = (String, String)> {
        let subject = |table: &str| format!("{} ({table})", self.name);
        self.full_tables.iter().map(move |(table, full)| (subject(table), full.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::FullTable;

    #[test]
    fn a_full_table_names_itself_and_whom_it_concerns() {
        let mut full = FullTable {
            reason: "table routes is full".into(),
            changes: 7,
            ports: ["web".into(), "db".into()].into(),
        };
        assert_eq!(full.text(), "table routes is full; 7 changes of db, web wait for room");
        full.ports.extend((0..10).map(|number| format!("z{number}")));
        let many =
            "table routes is full; 7 changes of db, web, z0, z1, z2 and 7 more wait for room";
        assert_eq!(full.text(), many);
        full.ports.clear();
        assert_eq!(full.text(), "table routes is full; 7 changes wait for room");
    }
}
