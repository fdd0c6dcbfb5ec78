//! All zones of a node, kept by their sets of records: what changes is one set, never a zone.

use crate::record::{BadRecord, Parsed, RecordSpec};
use crate::zone::{Zone, ZoneSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Records that come and go together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordSet {
    /// Names it among all of the node's.
    pub id: String,
    /// Id of its zone.
    pub zone: String,
    /// Its records.
    pub records: Vec<RecordSpec>,
}

#[derive(Debug)]
struct Kept {
    set: RecordSet,
    /// Short form of its id.
    number: u32,
    placed: Vec<Parsed>,
}

/// Zones, their records, and which zone a view begins with.
#[derive(Debug, Default)]
pub struct Zones {
    zones: HashMap<String, Zone>,
    sets: HashMap<String, Kept>,
    of_zone: HashMap<String, BTreeSet<String>>,
    views: BTreeMap<String, Option<String>>,
    last_number: u32,
    changes: u32,
}

/// What a view begins with.
pub(crate) enum View<'a> {
    /// This zone.
    Zone(&'a Zone),
    /// None: everything is asked upstream.
    Outside,
    /// One that nobody has told of yet: its names must not be asked of others, who would deny them.
    Unknown,
}

impl Zones {
    /// Makes a zone, or changes one. Its records stay.
    ///
    /// # Errors
    /// The domain is none; the zone is not served.
    pub fn set_zone(&mut self, spec: ZoneSpec) -> Result<Vec<BadRecord>, String> {
        if self.zones.get(&spec.id).is_some_and(|zone| zone.spec == spec) {
            return Ok(Vec::new());
        }
        let id = spec.id.clone();
        self.changes = self.changes.wrapping_add(1);
        let zone = Zone::new(spec, self.changes);
        // A zone that cannot be read must not go on as it was.
        self.zones.remove(&id);
        self.zones.insert(id.clone(), zone?);
        let mut bad = Vec::new();
        for set in self.of_zone.get(&id).cloned().unwrap_or_default() {
            bad.extend(self.place(&set));
        }
        Ok(bad)
    }

    /// Removes a zone. Its sets are remembered until they are removed, too.
    pub fn remove_zone(&mut self, id: &str) {
        self.zones.remove(id);
    }

    /// Makes a set of records, or changes one; gives those that cannot be answered with.
    pub fn set_records(&mut self, set: RecordSet) -> Vec<BadRecord> {
        if self.sets.get(&set.id).is_some_and(|kept| kept.set == set) {
            return Vec::new();
        }
        let id = set.id.clone();
        self.remove_records(&id);
        self.of_zone.entry(set.zone.clone()).or_default().insert(id.clone());
        self.last_number = self.last_number.wrapping_add(1);
        let number = self.last_number;
        self.sets.insert(id.clone(), Kept { set, number, placed: Vec::new() });
        self.place(&id)
    }

    /// Removes a set.
    pub fn remove_records(&mut self, id: &str) {
        let Some(kept) = self.sets.remove(id) else { return };
        if let Some(ids) = self.of_zone.get_mut(&kept.set.zone) {
            ids.remove(id);
            if ids.is_empty() {
                self.of_zone.remove(&kept.set.zone);
            }
        }
        if let Some(zone) = self.zones.get_mut(&kept.set.zone) {
            kept.placed.iter().for_each(|record| zone.remove(record, kept.number));
        }
    }

    /// Puts a set's records into its zone, if that is known.
    fn place(&mut self, id: &str) -> Vec<BadRecord> {
        let Some(kept) = self.sets.get_mut(id) else { return Vec::new() };
        let Some(zone) = self.zones.get_mut(&kept.set.zone) else { return Vec::new() };
        kept.placed.clear();
        let mut bad = Vec::new();
        for spec in &kept.set.records {
            let parsed = match spec.parse(&zone.name) {
                Ok(parsed) => parsed,
                Err(wrong) => {
                    bad.push(wrong);
                    continue;
                }
            };
            match zone.insert(parsed.clone(), spec.ttl, kept.number) {
                Ok(()) => kept.placed.push(parsed),
                Err(reason) => {
                    bad.push(BadRecord {
                        name: spec.name.clone(),
                        kind: spec.kind.clone(),
                        reason,
                    });
                }
            }
        }
        bad
    }

    /// Sets what each view begins with; a view without a zone only asks upstream.
    pub fn set_views(&mut self, views: BTreeMap<String, Option<String>>) {
        self.views = views;
    }

    /// What a view begins with; `None`: there is no such view.
    pub(crate) fn view(&self, view: &str) -> Option<View<'_>> {
        Some(match self.views.get(view)? {
            None => View::Outside,
            Some(id) => self.zones.get(id).map_or(View::Unknown, View::Zone),
        })
    }

    pub(crate) fn zone(&self, id: &str) -> Option<&Zone> {
        self.zones.get(id)
    }

    /// Zones with how many records they have, by id, for people: id, domain, records.
    #[must_use]
    pub fn summary(&self) -> Vec<(String, String, usize)> {
        let all = self.zones.iter();
        let mut all: Vec<_> =
            all.map(|(id, zone)| (id.clone(), zone.name.to_ascii(), zone.len())).collect();
        all.sort();
        all
    }
}
