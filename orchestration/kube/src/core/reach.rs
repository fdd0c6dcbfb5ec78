//! Networks that pods live in and nodes are to reach: judged one after the other, so that of two that overlap one is first.

use super::Core;
use crate::derive::reach::{judge, key};
use crate::key::{Key, Sort};
use skein_model::{FqName, Kind, Object};
use uuid::Uuid;

impl Core {
    /// Whether nodes reach a network by what joins it; tells those whom a change concerns.
    pub(super) fn judge_reach(&mut self, key: &Key) {
        let network = FqName::parse(&key.name);
        let used = self.tags.users_of_network(&network).next().is_some();
        let verdict = used.then(|| judge(&self.context(), &network));
        if !self.reach.set(&network, verdict) {
            return;
        }
        let mut keys: Vec<Key> = self.tags.users_of_network(&network).cloned().collect();
        let namespaces: Vec<Key> =
            keys.iter().map(|pod| Key::new(Sort::Namespace, "", &pod.namespace)).collect();
        keys.extend(namespaces);
        let object = self.graph.by_name(Kind::VIRTUAL_NETWORK, &network);
        keys.extend(object.and_then(|object| self.owners.get(&object.uuid)).cloned());
        self.marked.extend(keys);
    }

    /// All networks that were judged.
    pub(super) fn mark_reach(&mut self) {
        let keys: Vec<Key> = self.reach.judged().map(key).collect();
        self.marked.extend(keys);
    }

    /// Those that nodes do not reach: what was in their way may be gone.
    pub(super) fn mark_refused_reach(&mut self) {
        let keys: Vec<Key> = self.reach.refused().map(key).collect();
        self.marked.extend(keys);
    }

    /// A network, or an IPAM, is new or changed: its prefixes may be others, and it may have lost what joins it.
    pub(super) fn network_changed(&mut self, before: Option<&Object>, uuid: Uuid) {
        self.mark_refused_reach();
        let Some(after) = self.graph.get(uuid).cloned() else { return };
        if self.tags.users_of_network(&after.fq_name).next().is_some() {
            self.mark(key(&after.fq_name));
        }
        let lost = before.into_iter().flat_map(|before| before.references_to(Kind::NETWORK_POLICY));
        let lost = lost.filter(|link| {
            !after.references_to(Kind::NETWORK_POLICY).any(|kept| kept.uuid == link.uuid)
        });
        let owners = lost.filter_map(|link| self.owners.get(&link.uuid));
        let owners: Vec<Key> = owners.filter(|key| key.sort == Sort::Reach).cloned().collect();
        self.marked.extend(owners);
    }
}
