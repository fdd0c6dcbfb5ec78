//! Compiling intent: which ports forward, judged by which loaded policy, in which VRF.

use super::dns::asks_itself;
use super::{Core, Loaded, LocalPort, PolicyKey, PortProblem, first_prefix};
use crate::state::compile::{self, Context, LocalPath, Reach};
use crate::state::diff::Operation;
use crate::state::numbers::{LABELS, VRFS};
use crate::state::port_pools::{self, PortPools};
use crate::state::spec::{InterfaceSpec, prefixes, read_policy};
use crate::state::tables::{
    ContextEntry, FloatingDirection, FloatingEntry, InterfaceEntry, PolicyState, Tables,
};
use crate::state::view::Touched;
use ipnet::IpNet;
use skein_policy::{Attributes, Family, Policy, Program, policy_prefixes};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Policy numbers; 0 is "no policy".
const POLICIES: std::ops::Range<u32> = 1..1 << 16;

/// A bound port on its way to a table entry.
pub(super) struct Judged {
    pub(super) ifindex: u32,
    pub(super) entry: InterfaceEntry,
    policy: Option<Arc<Policy>>,
    local: Vec<IpAddr>,
}

/// A context on its way to a table entry.
struct JudgedContext {
    id: u32,
    entry: ContextEntry,
    policy: Option<Arc<Policy>>,
    local: Vec<IpAddr>,
}

/// Floating addresses a port can open connections from, as many as the kernel looks at.
const FLOATING: usize = 8;

impl Core {
    /// Interfaces, policies and what routes depend on; marks the routes that follow from changes.
    pub(super) fn compile_intent(&mut self, touched: &mut Touched) {
        let leader = self.merged.leader();
        self.problems.clear();
        self.port_problems.clear();
        let mut context = Context {
            own_address: self.context.own_address,
            encapsulations: compile::encapsulations(leader.global()),
            services: self.context.services.clone(),
            nodes: compile::node_prefixes(leader.global()),
            ..Context::default()
        };
        self.problems.extend(self.service_problems.clone());
        self.pools = PortPools::read(leader.global(), &self.host_ports).unwrap_or_else(|reason| {
            self.problems.insert(port_pools::SUBJECT.into(), reason);
            PortPools::default()
        });
        for vrf in leader.vrfs() {
            if let Some(number) = self.numbers.vrfs.take(&vrf.name, VRFS) {
                context.vrfs.insert(vrf.name.clone(), number);
            } else {
                self.problems.insert(vrf.name.clone(), "no VRF number is free".into());
            }
        }
        let of_node = leader.vrfs().filter(|vrf| vrf.link_local);
        context.link_local = of_node.map(|vrf| vrf.name.clone()).collect();
        let networks: BTreeMap<&str, u32> =
            leader.vrfs().map(|vrf| (vrf.name.as_str(), vrf.network_id)).collect();
        for vrf in leader.vrfs() {
            let usable = vrf.service_vrfs.iter().filter_map(|name| {
                let network = networks.get(name.as_str()).copied()?;
                Some((name.clone(), context.vrfs.get(name).copied()?, network))
            });
            let closed = prefixes(&vrf.closed_prefixes).unwrap_or_else(|reason| {
                self.problems.insert(vrf.name.clone(), reason);
                Vec::new()
            });
            let mut services: Vec<_> = usable.collect();
            if self.dns.ports.is_some()
                && asks_itself(vrf, context.own_address)
                && !services.iter().any(|(name, _, _)| *name == vrf.name)
                && let Some(number) = context.vrfs.get(&vrf.name)
            {
                services.push((vrf.name.clone(), *number, vrf.network_id));
            }
            let reach = Reach {
                services,
                outside: vrf.fabric_snat,
                underlay: vrf.underlay,
                closed: closed.iter().map(IpNet::trunc).collect(),
            };
            if reach != Reach::default() && context.vrfs.contains_key(&vrf.name) {
                context.reach.insert(vrf.name.clone(), reach);
            }
        }
        let mut policies: BTreeMap<String, Arc<Policy>> = BTreeMap::new();
        for set in leader.policies() {
            match read_policy(set) {
                Ok(policy) => {
                    policies.insert(set.id.clone(), Arc::new(policy));
                }
                Err(reason) => {
                    self.problems.insert(format!("policy {}", set.id), reason);
                }
            }
        }
        self.interfaces.clear();
        for interface in leader.interfaces() {
            match InterfaceSpec::read(interface) {
                Ok(spec) => {
                    self.interfaces.insert(spec.uuid, spec);
                }
                Err(reason) => {
                    if let Ok(uuid) = interface.uuid.parse() {
                        self.port_problems.insert(uuid, PortProblem::Unreadable(reason.clone()));
                    }
                    self.problems.insert(format!("interface {}", interface.uuid), reason);
                }
            }
        }

        self.find_nested();

        // Who is here, and with which policy.
        let mut used: Vec<Judged> = Vec::new();
        let mut contexts: Vec<JudgedContext> = Vec::new();
        self.host_interface = None;
        for (uuid, LocalPort { ifindex, mtu, vlan, .. }) in self.ports.iter().chain(&self.nested) {
            let spec = self.interfaces.get(uuid);
            let problem = match spec {
                None => Some(PortProblem::NoIntent),
                Some(spec) if spec.admin_down => Some(PortProblem::AdminDown),
                Some(spec) if !context.vrfs.contains_key(&spec.vrf) => {
                    Some(PortProblem::NoVrf(spec.vrf.clone()))
                }
                Some(_) => None,
            };
            if let Some(problem) = problem {
                self.port_problems.entry(*uuid).or_insert(problem);
                continue;
            }
            let label = self.numbers.labels.take(uuid, LABELS);
            let (Some(spec), Some(label)) = (spec, label) else {
                self.port_problems.insert(*uuid, PortProblem::Exhausted);
                continue;
            };
            let policy = spec.policy.as_deref().and_then(|id| policies.get(id)).cloned();
            let local: Vec<IpAddr> =
                spec.addresses.iter().map(|(prefix, _)| prefix.addr()).collect();
            let mut floating = Vec::new();
            let dns = if spec.host && self.dns.ports.is_some() {
                self.dns_contexts(self.merged.leader(), &context.vrfs, spec)
            } else {
                Vec::new()
            };
            for wanted in spec.contexts.iter().chain(&dns) {
                let Some(vrf) = context.vrfs.get(&wanted.vrf).copied() else {
                    let subject = format!("interface {}", spec.name);
                    let reason = format!("routing instance {} is not known", wanted.vrf);
                    self.problems.insert(subject, reason);
                    continue;
                };
                let Some(id) = self.numbers.labels.take(&wanted.id(*uuid), LABELS) else {
                    self.problems
                        .insert(format!("interface {}", spec.name), "no label is free".into());
                    continue;
                };
                let opens = |f: &FloatingEntry| f.direction != FloatingDirection::Ingress;
                if wanted.floating.as_ref().is_some_and(opens) && floating.len() < FLOATING {
                    floating.push(id);
                }
                context.labels.insert(id, (*ifindex, id));
                if let Some(floating) = wanted.floating.as_ref().filter(|_| wanted.underlay)
                    && let Err(reason) = context.claim(floating.address, (vrf, *ifindex, id))
                {
                    self.problems.insert(format!("interface {}", spec.name), reason);
                }
                let addresses = match &wanted.floating {
                    Some(floating) => vec![floating.address],
                    None => local.clone(),
                };
                let attributes = Attributes { network: wanted.network, ..spec.attributes.clone() };
                let table = context.local.entry(wanted.vrf.clone()).or_default();
                for address in addresses {
                    let attributes = attributes.clone();
                    table.entry(address.into()).or_default().push(LocalPath {
                        ifindex: *ifindex,
                        context: id,
                        attributes,
                        local_preference: spec.local_preference,
                        alone: false,
                    });
                }
                let policy = wanted.policy.as_deref().and_then(|id| policies.get(id)).cloned();
                contexts.push(JudgedContext {
                    id,
                    entry: ContextEntry {
                        ifindex: *ifindex,
                        vrf,
                        policy: if spec.policy_disabled {
                            PolicyState::Disabled
                        } else {
                            PolicyState::Missing
                        },
                        floating: wanted.floating.clone(),
                    },
                    policy: policy.filter(|_| !spec.policy_disabled),
                    local: local.clone(),
                });
            }
            if spec.host {
                self.host_interface = Some(*ifindex);
            }
            let entry = InterfaceEntry {
                uuid: *uuid,
                vrf: context.vrfs[&spec.vrf],
                label,
                mac: spec.mac,
                gateway4: gateways(spec).find_map(|gateway| match gateway {
                    IpAddr::V4(gateway) => Some(gateway),
                    IpAddr::V6(_) => None,
                }),
                gateway6: gateways(spec).find_map(|gateway| match gateway {
                    IpAddr::V6(gateway) => Some(gateway),
                    IpAddr::V4(_) => None,
                }),
                policy: if spec.policy_disabled {
                    PolicyState::Disabled
                } else {
                    PolicyState::Missing
                },
                max_flows: if spec.max_flows == 0 {
                    self.default_max_flows
                } else {
                    spec.max_flows
                },
                mtu: *mtu,
                host: spec.host,
                vlan: *vlan,
                metadata: None,
                floating,
            };
            context.labels.insert(label, (*ifindex, 0));
            if !spec.host && context.reach.get(&spec.vrf).is_some_and(|reach| reach.underlay) {
                let vrf = context.vrfs[&spec.vrf];
                for address in &local {
                    if let Err(reason) = context.claim(*address, (vrf, *ifindex, 0)) {
                        self.problems.insert(format!("interface {}", spec.name), reason);
                    }
                }
            }
            let table = context.local.entry(spec.vrf.clone()).or_default();
            for (prefix, _) in &spec.addresses {
                table.entry(prefix.addr().into()).or_default().push(LocalPath {
                    ifindex: *ifindex,
                    context: 0,
                    attributes: spec.attributes.clone(),
                    local_preference: spec.local_preference,
                    alone: false,
                });
            }
            let policy = policy.filter(|_| !spec.policy_disabled);
            used.push(Judged { ifindex: *ifindex, entry, policy, local });
        }
        self.join_link_local(&mut used, &mut context);
        let own = used.iter().filter_map(|judged| judged.policy.as_deref());
        let in_contexts = contexts.iter().filter_map(|judged| judged.policy.as_deref());
        context.conditions = policy_prefixes(own.chain(in_contexts));
        self.mark_routes(&context, touched);
        self.context = context;
        self.read_nodes();
        self.free_vrf_numbers();
        self.load_policies(used, contexts);
        self.free_context_labels();
    }

    /// Frees the numbers of VRFs that are gone and of which the kernel holds no route any more.
    fn free_vrf_numbers(&mut self) {
        let gone: Vec<(String, u32)> = self
            .numbers
            .vrfs
            .iter()
            .filter(|(name, _)| !self.context.vrfs.contains_key(*name))
            .map(|(name, number)| (name.clone(), number))
            .collect();
        for (name, number) in gone {
            let range = (number, first_prefix())..(number + 1, first_prefix());
            let held = |tables: &Tables| tables.routes.range(range.clone()).next().is_some();
            if !held(&self.wanted) && !held(&self.applied) {
                self.numbers.vrfs.free(&name);
            }
        }
    }

    /// Loads the policies in use, unloads the others, and completes the interfaces' entries.
    fn load_policies(&mut self, used: Vec<Judged>, contexts: Vec<JudgedContext>) {
        let mut interfaces = BTreeMap::new();
        self.judging.clear();
        let mut keep: HashMap<PolicyKey, Loaded> = HashMap::new();
        for Judged { ifindex, mut entry, policy, local } in used {
            if let Some(policy) = policy {
                self.judging.insert(entry.uuid, policy.clone());
                entry.policy = self.loaded(&mut keep, &policy, &local).unwrap_or(entry.policy);
            }
            interfaces.insert(ifindex, entry);
        }
        self.wanted.contexts.clear();
        for JudgedContext { id, mut entry, policy, local } in contexts {
            if let Some(policy) = policy {
                entry.policy = self.loaded(&mut keep, &policy, &local).unwrap_or(entry.policy);
            }
            self.wanted.contexts.insert(id, entry);
        }
        let dropped: BTreeSet<u32> = self.policies.values().map(|loaded| loaded.number).collect();
        self.policies = keep;
        // Work for a policy that was dropped before it was ever loaded is void, and so is its number.
        self.policy_work.retain(|work| match work {
            Operation::LoadPolicy { number, .. }
            | Operation::ExtendPolicy { number, .. }
            | Operation::ShrinkPolicy { number, .. } => !dropped.contains(number),
            _ => true,
        });
        for number in dropped.iter().filter(|number| !self.applied_policies.contains(*number)) {
            self.policy_numbers.remove(number);
        }
        self.wanted.interfaces = interfaces;
    }

    /// Both families of a policy, loaded; `None` when numbers are used up.
    fn loaded(
        &mut self,
        keep: &mut HashMap<PolicyKey, Loaded>,
        policy: &Arc<Policy>,
        local: &[IpAddr],
    ) -> Option<PolicyState> {
        let mut number = |family| {
            let local = local_address(policy, local, family);
            self.policy(keep, PolicyKey { policy: policy.clone(), family, local })
        };
        Some(PolicyState::Loaded { v4: number(Family::V4)?, v6: number(Family::V6)? })
    }

    /// Frees the labels of contexts that are gone and that the kernel does not hold any more.
    pub(super) fn free_context_labels(&mut self) {
        let held = |id: &u32| {
            self.wanted.contexts.contains_key(id) || self.applied.contexts.contains_key(id)
        };
        let known: BTreeMap<u32, uuid::Uuid> = self.numbers.label_owners();
        self.context_labels.extend(self.wanted.contexts.keys());
        let gone: Vec<u32> = self.context_labels.iter().filter(|id| !held(id)).copied().collect();
        for id in gone {
            self.context_labels.remove(&id);
            if let Some(owner) = known.get(&id) {
                self.numbers.labels.free(owner);
            }
        }
    }

    fn policy(&mut self, keep: &mut HashMap<PolicyKey, Loaded>, key: PolicyKey) -> Option<u32> {
        if let Some(loaded) = keep.get(&key) {
            return Some(loaded.number);
        }
        let loaded = if let Some(loaded) = self.policies.remove(&key) {
            loaded
        } else {
            let number = self.free_policy_number()?;
            let mut program = Program::new(&key.policy, key.family, key.local, &mut self.book);
            let entries = program.flatten(self.identities.iter());
            self.policy_work.push(Operation::LoadPolicy { number, family: key.family, entries });
            Loaded { number, program }
        };
        let number = loaded.number;
        keep.insert(key, loaded);
        Some(number)
    }

    fn free_policy_number(&mut self) -> Option<u32> {
        let after = self.last_policy + 1;
        let number = (after..POLICIES.end)
            .chain(POLICIES.start..after.min(POLICIES.end))
            .find(|number| !self.policy_numbers.contains(number))?;
        self.last_policy = number;
        self.policy_numbers.insert(number);
        Some(number)
    }
}

fn gateways(spec: &InterfaceSpec) -> impl Iterator<Item = IpAddr> + '_ {
    spec.addresses.iter().filter_map(|(_, gateway)| *gateway)
}

/// Only a policy that asks for the local address is specialised to it; all others are shared.
fn local_address(policy: &Policy, local: &[IpAddr], family: Family) -> Option<IpAddr> {
    let rules = policy.layers.iter().flat_map(|layer| layer.egress.iter().chain(&layer.ingress));
    let asked = rules.into_iter().any(|rule| !rule.local_prefixes.is_empty());
    let first = || local.iter().find(|address| Family::of(**address) == family).copied();
    asked.then(first).flatten()
}
