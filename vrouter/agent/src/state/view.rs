//! What one controller says, kept whole. A new stream marks everything as old; what is not repeated
//! until the end markers is swept.

use super::spec::PathSpec;
use ipnet::IpNet;
use skein_proto::session as wire;
use std::collections::{BTreeMap, BTreeSet};

/// A value and the stream that last confirmed it.
#[derive(Clone, Debug, PartialEq)]
struct Held<T> {
    value: T,
    stream: u64,
}

/// What changed, for those who compile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Prefixes by VRF.
    pub(crate) routes: BTreeMap<String, BTreeSet<IpNet>>,
    /// VRFs, policies, interfaces or global settings: few, and compiled whole.
    pub(crate) intent: bool,
    /// Services by id.
    pub(crate) services: BTreeSet<String>,
    /// Zones and sets of DNS records by id. Nothing in the kernel follows from them.
    pub(crate) dns_zones: BTreeSet<String>,
    pub(crate) dns_records: BTreeSet<String>,
    /// What could not be read: subject and reason.
    pub(crate) problems: Vec<(String, String)>,
}

impl Touched {
    pub(crate) fn route(&mut self, vrf: &str, prefix: IpNet) {
        if let Some(prefixes) = self.routes.get_mut(vrf) {
            prefixes.insert(prefix);
        } else {
            self.routes.insert(vrf.to_owned(), BTreeSet::from([prefix]));
        }
    }
}

/// One controller's word.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    revision: u64,
    global: Option<wire::Global>,
    vrfs: BTreeMap<String, Held<wire::Vrf>>,
    policies: BTreeMap<String, Held<wire::PolicySet>>,
    interfaces: BTreeMap<String, Held<wire::Interface>>,
    services: BTreeMap<String, Held<wire::Service>>,
    dns_zones: BTreeMap<String, Held<wire::DnsZone>>,
    dns_records: BTreeMap<String, Held<wire::DnsRecordSet>>,
    routes: BTreeMap<String, BTreeMap<IpNet, Held<Vec<PathSpec>>>>,
    stream: u64,
    snapshot_done: bool,
    ribs_done: BTreeSet<String>,
}

impl View {
    /// A new stream begins: nothing is forgotten yet.
    pub(crate) fn begin(&mut self) {
        self.stream += 1;
        self.snapshot_done = false;
        self.ribs_done.clear();
    }

    /// True when the stream has repeated everything: intent and the routes of every VRF.
    pub(crate) fn is_complete(&self) -> bool {
        self.snapshot_done && self.vrfs.keys().all(|vrf| self.ribs_done.contains(vrf))
    }

    /// True when no stream was ever complete and nothing was loaded.
    pub(crate) fn is_empty(&self) -> bool {
        self.vrfs.is_empty() && self.interfaces.is_empty() && self.routes.is_empty()
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn global(&self) -> Option<&wire::Global> {
        self.global.as_ref()
    }

    pub(crate) fn vrfs(&self) -> impl Iterator<Item = &wire::Vrf> {
        self.vrfs.values().map(|held| &held.value)
    }

    pub(crate) fn policies(&self) -> impl Iterator<Item = &wire::PolicySet> {
        self.policies.values().map(|held| &held.value)
    }

    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &wire::Interface> {
        self.interfaces.values().map(|held| &held.value)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &wire::Service> {
        self.services.values().map(|held| &held.value)
    }

    pub(crate) fn service(&self, id: &str) -> Option<&wire::Service> {
        self.services.get(id).map(|held| &held.value)
    }

    pub(crate) fn dns_zones(&self) -> impl Iterator<Item = &wire::DnsZone> {
        self.dns_zones.values().map(|held| &held.value)
    }

    pub(crate) fn dns_zone(&self, id: &str) -> Option<&wire::DnsZone> {
        self.dns_zones.get(id).map(|held| &held.value)
    }

    pub(crate) fn dns_records(&self) -> impl Iterator<Item = &wire::DnsRecordSet> {
        self.dns_records.values().map(|held| &held.value)
    }

    pub(crate) fn dns_record_set(&self, id: &str) -> Option<&wire::DnsRecordSet> {
        self.dns_records.get(id).map(|held| &held.value)
    }

    pub(crate) fn paths(&self, vrf: &str, prefix: &IpNet) -> &[PathSpec] {
        let held = self.routes.get(vrf).and_then(|table| table.get(prefix));
        held.map(|held| held.value.as_slice()).unwrap_or_default()
    }

    pub(crate) fn prefixes(&self) -> impl Iterator<Item = (&str, &IpNet)> {
        let tables = self.routes.iter();
        tables.flat_map(|(vrf, table)| table.keys().map(move |prefix| (vrf.as_str(), prefix)))
    }

    pub(crate) fn intent(&mut self, intent: wire::Intent, touched: &mut Touched) {
        let stream = self.stream;
        self.revision = self.revision.max(intent.revision);
        // A change of services alone concerns nothing else.
        touched.intent |= intent.end_of_snapshot
            || intent.global.is_some()
            || !(intent.vrfs.is_empty() && intent.vrfs_removed.is_empty())
            || !(intent.policies.is_empty() && intent.policies_removed.is_empty())
            || !(intent.interfaces.is_empty() && intent.interfaces_removed.is_empty());
        for service in intent.services {
            touched.services.insert(service.id.clone());
            self.services.insert(service.id.clone(), Held { value: service, stream });
        }
        for id in intent.services_removed {
            self.services.remove(&id);
            touched.services.insert(id);
        }
        for zone in intent.dns_zones {
            touched.dns_zones.insert(zone.id.clone());
            self.dns_zones.insert(zone.id.clone(), Held { value: zone, stream });
        }
        for id in intent.dns_zones_removed {
            self.dns_zones.remove(&id);
            touched.dns_zones.insert(id);
        }
        for set in intent.dns_records {
            touched.dns_records.insert(set.id.clone());
            self.dns_records.insert(set.id.clone(), Held { value: set, stream });
        }
        for id in intent.dns_records_removed {
            self.dns_records.remove(&id);
            touched.dns_records.insert(id);
        }
        if let Some(global) = intent.global {
            self.global = Some(global);
        }
        for vrf in intent.vrfs {
            self.vrfs.insert(vrf.name.clone(), Held { value: vrf, stream });
        }
        for policy in intent.policies {
            self.policies.insert(policy.id.clone(), Held { value: policy, stream });
        }
        for interface in intent.interfaces {
            self.interfaces.insert(interface.uuid.clone(), Held { value: interface, stream });
        }
        for name in &intent.interfaces_removed {
            self.interfaces.remove(name);
        }
        for name in &intent.policies_removed {
            self.policies.remove(name);
        }
        for name in &intent.vrfs_removed {
            self.vrfs.remove(name);
            self.drop_table(name, touched);
        }
        if intent.end_of_snapshot {
            self.revision = intent.revision;
            self.snapshot_done = true;
            self.interfaces.retain(|_, held| held.stream == stream);
            self.policies.retain(|_, held| held.stream == stream);
            self.vrfs.retain(|_, held| held.stream == stream);
            let gone = self.services.extract_if(.., |_, held| held.stream != stream);
            touched.services.extend(gone.map(|(id, _)| id));
            let gone = self.dns_zones.extract_if(.., |_, held| held.stream != stream);
            touched.dns_zones.extend(gone.map(|(id, _)| id));
            let gone = self.dns_records.extract_if(.., |_, held| held.stream != stream);
            touched.dns_records.extend(gone.map(|(id, _)| id));
            let known: Vec<String> =
                self.routes.keys().filter(|vrf| !self.vrfs.contains_key(*vrf)).cloned().collect();
            known.iter().for_each(|vrf| self.drop_table(vrf, touched));
        }
    }

    pub(crate) fn routes(&mut self, routes: &wire::Routes, touched: &mut Touched) {
        let stream = self.stream;
        for route in &routes.reach {
            let subject = || format!("route {} in {}", route.prefix, route.vrf);
            let Ok(prefix) = route.prefix.parse::<IpNet>() else {
                touched.problems.push((subject(), "the prefix is not readable".into()));
                continue;
            };
            let prefix = prefix.trunc();
            let mut paths = Vec::with_capacity(route.paths.len());
            for path in &route.paths {
                match PathSpec::read(path) {
                    Ok(path) => paths.push(path),
                    Err(what) => touched.problems.push((subject(), format!("unreadable {what}"))),
                }
            }
            paths.sort_unstable();
            let table = self.routes.entry(route.vrf.clone()).or_default();
            let old = table.insert(prefix, Held { value: paths, stream });
            // A repeated route is no change: a reconnect touches nothing that stayed.
            if old.map(|held| held.value).as_ref() != table.get(&prefix).map(|held| &held.value) {
                touched.route(&route.vrf, prefix);
            }
        }
        for key in &routes.unreach {
            let Ok(prefix) = key.prefix.parse::<IpNet>() else { continue };
            let removed =
                self.routes.get_mut(&key.vrf).and_then(|table| table.remove(&prefix.trunc()));
            if removed.is_some() {
                touched.route(&key.vrf, prefix.trunc());
            }
        }
        for vrf in &routes.end_of_rib {
            self.ribs_done.insert(vrf.clone());
            if let Some(table) = self.routes.get_mut(vrf) {
                table.retain(|prefix, held| {
                    if held.stream != stream {
                        touched.route(vrf, *prefix);
                    }
                    held.stream == stream
                });
            }
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self, touched: &mut Touched) {
        touched.intent = true;
        touched.services.extend(self.services.keys().cloned());
        touched.dns_zones.extend(self.dns_zones.keys().cloned());
        touched.dns_records.extend(self.dns_records.keys().cloned());
        let names: Vec<String> = self.routes.keys().cloned().collect();
        names.iter().for_each(|vrf| self.drop_table(vrf, touched));
        *self = Self { stream: self.stream, ..Self::default() };
    }

    /// The messages that would build this view again: the form it is saved in.
    pub(crate) fn messages(&self) -> (wire::Intent, wire::Routes) {
        let intent = wire::Intent {
            revision: self.revision,
            global: self.global.clone(),
            vrfs: self.vrfs().cloned().collect(),
            policies: self.policies().cloned().collect(),
            interfaces: self.interfaces().cloned().collect(),
            services: self.services().cloned().collect(),
            dns_zones: self.dns_zones().cloned().collect(),
            dns_records: self.dns_records().cloned().collect(),
            end_of_snapshot: true,
            ..wire::Intent::default()
        };
        let reach = self.routes.iter().flat_map(|(vrf, table)| {
            table.iter().map(|(prefix, held)| wire::Route {
                vrf: vrf.clone(),
                prefix: prefix.to_string(),
                paths: held.value.iter().map(PathSpec::write).collect(),
            })
        });
        let routes = wire::Routes {
            reach: reach.collect(),
            end_of_rib: self.vrfs.keys().cloned().collect(),
            ..wire::Routes::default()
        };
        (intent, routes)
    }

    fn drop_table(&mut self, vrf: &str, touched: &mut Touched) {
        for prefix in self.routes.remove(vrf).into_iter().flat_map(BTreeMap::into_keys) {
            touched.route(vrf, prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(prefixes: &[&str], end: bool) -> wire::Routes {
        let path = wire::Path { next_hop: "172.31.0.2".into(), label: 16, ..wire::Path::default() };
        wire::Routes {
            reach: prefixes
                .iter()
                .map(|prefix| wire::Route {
                    vrf: "a".into(),
                    prefix: (*prefix).into(),
                    paths: vec![path.clone()],
                })
                .collect(),
            end_of_rib: if end { vec!["a".into()] } else { vec![] },
            ..wire::Routes::default()
        }
    }

    #[test]
    fn a_new_stream_sweeps_what_it_does_not_repeat_and_touches_only_that() {
        let mut view = View::default();
        view.begin();
        view.routes(&routes(&["10.0.0.1/32", "10.0.0.2/32"], true), &mut Touched::default());
        view.begin();
        let mut touched = Touched::default();
        view.routes(&routes(&["10.0.0.2/32"], false), &mut touched);
        assert_eq!(touched, Touched::default());
        assert_eq!(view.prefixes().count(), 2);
        view.routes(&routes(&[], true), &mut touched);
        assert_eq!(view.prefixes().count(), 1);
        assert_eq!(touched.routes["a"], BTreeSet::from(["10.0.0.1/32".parse().unwrap()]));
    }

    #[test]
    fn an_unreadable_route_is_reported_and_left_out() {
        let mut view = View::default();
        let mut touched = Touched::default();
        view.routes(&routes(&["nonsense"], true), &mut touched);
        assert_eq!(view.prefixes().count(), 0);
        assert_eq!(touched.problems.len(), 1);
    }

    #[test]
    fn saved_messages_build_the_same_view() {
        let mut view = View::default();
        let intent = wire::Intent {
            revision: 7,
            vrfs: vec![wire::Vrf { name: "a".into(), ..wire::Vrf::default() }],
            end_of_snapshot: true,
            ..wire::Intent::default()
        };
        view.intent(intent, &mut Touched::default());
        view.routes(&routes(&["10.0.0.1/32"], true), &mut Touched::default());
        let (intent, table) = view.messages();
        let mut copy = View::default();
        copy.intent(intent, &mut Touched::default());
        copy.routes(&table, &mut Touched::default());
        assert!(copy.is_complete());
        assert_eq!(copy.messages(), view.messages());
    }
}
