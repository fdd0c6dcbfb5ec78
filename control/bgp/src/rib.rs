//! Every path once, and the tables of the VRFs that import it.

use crate::{Path, PathKey, RouteTarget, Source};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

type Table = BTreeMap<IpNet, BTreeMap<PathKey, Arc<Path>>>;

#[derive(Debug, Default)]
struct Vrf {
    import: BTreeSet<RouteTarget>,
    network: u32,
    table: Table,
}

/// The routing information base: VPN paths by key, VRF tables by name.
///
/// A VRF holds a path when their route targets meet. Which VRFs and which paths a route target
/// concerns is indexed both ways, so a change costs what it concerns and not the whole table.
#[derive(Debug, Default)]
pub struct Rib {
    paths: BTreeMap<PathKey, Arc<Path>>,
    by_source: HashMap<Source, HashSet<PathKey>>,
    by_target: HashMap<RouteTarget, HashSet<PathKey>>,
    importers: HashMap<RouteTarget, HashSet<Arc<str>>>,
    vrfs: HashMap<Arc<str>, Vrf>,
    changed: BTreeSet<(Arc<str>, IpNet)>,
}

impl Rib {
    /// Makes a VRF, or changes what it imports. `network` is the number of its virtual network.
    pub fn set_vrf(&mut self, name: &str, network: u32, import: &BTreeSet<RouteTarget>) {
        let name: Arc<str> = Arc::from(name);
        let vrf = self.vrfs.entry(name.clone()).or_default();
        let renumbered = vrf.network != network;
        vrf.network = network;
        let before = std::mem::replace(&mut vrf.import, import.clone());
        if renumbered {
            // The preference for a VRF's own routes depends on its number.
            self.changed.extend(vrf.table.keys().map(|prefix| (name.clone(), *prefix)));
        }
        for gone in before.difference(import) {
            if let Some(all) = self.importers.get_mut(gone) {
                all.remove(&name);
            }
            self.reconsider(&name, *gone);
        }
        for new in import.difference(&before) {
            self.importers.entry(*new).or_default().insert(name.clone());
            self.reconsider(&name, *new);
        }
    }

    /// Puts the paths of one route target into a VRF or takes them out.
    fn reconsider(&mut self, name: &Arc<str>, target: RouteTarget) {
        let Some(vrf) = self.vrfs.get_mut(name) else { return };
        for key in self.by_target.get(&target).into_iter().flatten() {
            let Some(path) = self.paths.get(key) else { continue };
            let belongs = !vrf.import.is_disjoint(&path.route_targets);
            if vrf.place(key, belongs.then_some(path)) {
                self.changed.insert((name.clone(), key.prefix));
            }
        }
    }

    /// Removes a VRF and its table. Paths that others import stay.
    pub fn remove_vrf(&mut self, name: &str) {
        let Some((name, vrf)) = self.vrfs.remove_entry(name) else { return };
        for target in &vrf.import {
            if let Some(all) = self.importers.get_mut(target) {
                all.remove(&name);
            }
        }
        self.changed.extend(vrf.table.into_keys().map(|prefix| (name.clone(), prefix)));
    }

    /// Adds a path or replaces the one with its key.
    pub fn announce(&mut self, key: &PathKey, path: Path) {
        if self.paths.get(key).is_some_and(|old| **old == path) {
            return;
        }
        let path = Arc::new(path);
        let old = self.paths.insert(key.clone(), path.clone());
        self.by_source.entry(key.source.clone()).or_default().insert(key.clone());
        let before = old.map(|old| old.route_targets.clone()).unwrap_or_default();
        for gone in before.difference(&path.route_targets) {
            self.unindex(*gone, key);
        }
        for target in &path.route_targets {
            self.by_target.entry(*target).or_default().insert(key.clone());
        }
        let concerned = self.importers_of(before.union(&path.route_targets));
        for name in concerned {
            let Some(vrf) = self.vrfs.get_mut(&name) else { continue };
            let belongs = !vrf.import.is_disjoint(&path.route_targets);
            if vrf.place(key, belongs.then_some(&path)) {
                self.changed.insert((name, key.prefix));
            }
        }
    }

    /// Removes a path.
    pub fn withdraw(&mut self, key: &PathKey) {
        let Some(path) = self.paths.remove(key) else { return };
        if let Some(keys) = self.by_source.get_mut(&key.source) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_source.remove(&key.source);
            }
        }
        for target in &path.route_targets {
            self.unindex(*target, key);
        }
        for name in self.importers_of(path.route_targets.iter()) {
            let Some(vrf) = self.vrfs.get_mut(&name) else { continue };
            if vrf.place(key, None) {
                self.changed.insert((name, key.prefix));
            }
        }
    }

    /// Removes everything one source announced, except what `keep` says stays.
    pub fn withdraw_source(&mut self, source: &Source, keep: impl Fn(&PathKey) -> bool) {
        let all = self.by_source.get(source).cloned().unwrap_or_default();
        for key in all.iter().filter(|key| !keep(key)) {
            self.withdraw(key);
        }
    }

    fn unindex(&mut self, target: RouteTarget, key: &PathKey) {
        if let Some(keys) = self.by_target.get_mut(&target) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_target.remove(&target);
            }
        }
    }

    fn importers_of<'a>(
        &self,
        targets: impl Iterator<Item = &'a RouteTarget>,
    ) -> BTreeSet<Arc<str>> {
        targets.filter_map(|target| self.importers.get(target)).flatten().cloned().collect()
    }

    /// VRF and prefix pairs whose routes changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<(Arc<str>, IpNet)> {
        std::mem::take(&mut self.changed)
    }

    /// The best paths of a prefix in a VRF, all equally good, in a fixed order.
    ///
    /// A VRF's own routes come before imported ones, so that no other network can draw traffic for
    /// an address that the VRF itself has; then the higher LOCAL_PREF wins (RFC 4271 section 9.1).
    pub fn best(&self, vrf: &str, prefix: &IpNet) -> Vec<(&PathKey, &Arc<Path>)> {
        let Some(vrf) = self.vrfs.get(vrf) else { return Vec::new() };
        let Some(paths) = vrf.table.get(prefix) else { return Vec::new() };
        let rank = |path: &Path| (path.network == vrf.network, path.local_preference);
        let best = paths.values().map(|path| rank(path)).max();
        paths.iter().filter(|(_, path)| Some(rank(path)) == best).collect()
    }

    /// Prefixes of a VRF in order.
    pub fn prefixes(&self, vrf: &str) -> impl Iterator<Item = &IpNet> {
        self.vrfs.get(vrf).into_iter().flat_map(|vrf| vrf.table.keys())
    }

    /// What one source announced, in no particular order.
    pub fn of_source(&self, source: &Source) -> impl Iterator<Item = &PathKey> {
        self.by_source.get(source).into_iter().flatten()
    }

    /// One path.
    pub fn path(&self, key: &PathKey) -> Option<&Arc<Path>> {
        self.paths.get(key)
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are no paths.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }
}

impl Vrf {
    /// Sets or removes a path; says whether the table differs now.
    fn place(&mut self, key: &PathKey, path: Option<&Arc<Path>>) -> bool {
        match path {
            Some(path) => {
                let paths = self.table.entry(key.prefix).or_default();
                let old = paths.insert(key.clone(), path.clone());
                old.is_none_or(|old| *old != **path)
            }
            None => {
                let Some(paths) = self.table.get_mut(&key.prefix) else { return false };
                let was_there = paths.remove(key).is_some();
                if paths.is_empty() {
                    self.table.remove(&key.prefix);
                }
                was_there
            }
        }
    }
}
