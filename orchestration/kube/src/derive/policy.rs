//! Network policies of namespaces as firewall objects: spec section 5.

use super::Context;
use super::firewall::{End, RuleSpec, rank};
use super::tags::interface_tag;
use crate::desired::{Demand, Derived, Interfaces, Predicate, Ref};
use crate::key::{Key, Sort};
use crate::names;
use crate::objects::{NetworkPolicy, Peer, PolicyPort, PolicyRule, PortName, Selector};
use serde_json::json;
use skein_model::{FqName, Kind};
use std::collections::BTreeSet;

/// Which way a rule looks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Ingress,
    Egress,
}

impl Way {
    fn judged_at(self) -> &'static str {
        // Each end is asked for its own direction: the subject's end.
        match self {
            Way::Ingress => "endpoint-2",
            Way::Egress => "endpoint-1",
        }
    }
}

struct Making<'c, 'g> {
    cx: &'c Context<'g>,
    key: &'c Key,
    /// The networks that it is about; none: the pods' first ones.
    networks: Option<BTreeSet<String>>,
    /// What its objects are called after.
    name: String,
    subject: Vec<String>,
    rules: Vec<FqName>,
    out: Derived,
}

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let place = (key.namespace.clone(), key.name.clone());
    let multi = key.sort == Sort::MultiPolicy;
    let policies = if multi { &cx.cache.multi_policies } else { &cx.cache.policies };
    let Some(policy) = policies.get(&place) else { return Derived::default() };
    let networks = match cx.policy_networks(policy) {
        Ok(networks) => networks,
        Err(reason) => return Derived::wrong("BadAnnotation", reason),
    };
    // No name in Kubernetes has an underscore, so it meets no other policy's.
    let name = if multi { format!("{}__multi", key.name) } else { key.name.to_string() };
    let (rules, out) = (Vec::new(), Derived::default());
    let mut making = Making { cx, key, networks, name, subject: Vec::new(), rules, out };
    for problem in &policy.problems {
        making.out.problem("BadPolicy", problem.clone());
    }
    if let Some(networks) = &making.networks {
        cx.tell_of_networks(networks, &mut making.out);
    }
    making.subject = making.pods_here(Some(&policy.subject));
    for (at, rule) in policy.ingress.iter().enumerate() {
        let prefix = format!("{}-ingress-{}-{at}", key.namespace, making.name);
        making.block(Way::Ingress, &prefix, rule);
    }
    for (at, rule) in policy.egress.iter().enumerate() {
        // The original does not count blocks here; more than one needs a name of its own.
        let prefix = match at {
            0 => format!("{}-egress-{}", key.namespace, making.name),
            at => format!("{}-egress-{}__{at}", key.namespace, making.name),
        };
        making.block(Way::Egress, &prefix, rule);
    }
    making.finish(policy)
}

impl Making<'_, '_> {
    fn demand(&mut self, list: Vec<(String, Predicate)>) -> Vec<String> {
        let mut tags = Vec::new();
        for (tag, predicate) in list {
            let demand = Demand::Tag(tag.clone(), predicate);
            if !self.out.demands.contains(&demand) {
                self.out.demands.push(demand);
            }
            tags.push(tag);
        }
        tags
    }

    /// Pods of the policy's own namespace.
    fn pods_here(&mut self, selector: Option<&Selector>) -> Vec<String> {
        if let Some(networks) = self.networks.clone() {
            return self.interfaces(networks, selector, None);
        }
        let mut list = selector.map_or_else(Vec::new, |selector| {
            if selector.is_empty() { Vec::new() } else { self.cx.tags.for_pods(selector) }
        });
        list.push((names::namespace_tag(&self.key.namespace), Predicate::Named));
        sorted(self.demand(list))
    }

    /// Interfaces in the networks that the policy is about: none of their tags is one that a policy about pods' first
    /// interfaces could mean, so everything about them is in one.
    fn interfaces(
        &mut self,
        networks: BTreeSet<String>,
        pods: Option<&Selector>,
        namespaces: Option<&Selector>,
    ) -> Vec<String> {
        let which = Interfaces {
            networks,
            namespace: namespaces.is_none().then(|| self.key.namespace.to_string()),
            namespaces: namespaces.cloned().unwrap_or_default(),
            pods: pods.cloned().unwrap_or_default(),
        };
        let tag = interface_tag(&which);
        let demand = Demand::Tag(tag.clone(), Predicate::Interfaces(which));
        if !self.out.demands.contains(&demand) {
            self.out.demands.push(demand);
            self.pass_unless_restricted(&tag);
        }
        vec![tag]
    }

    /// Behind all policies stands, for pods' first interfaces, their namespace's rule that lets pass what none of them
    /// restricts. It is not about these.
    fn pass_unless_restricted(&mut self, tag: &str) {
        let me = || End::Tags(vec![tag.to_owned()]);
        let mark = tag.trim_start_matches("selector-").split('=').next().unwrap_or_default();
        for (direction, source, target, way) in
            [("ingress", End::Any, me(), Way::Ingress), ("egress", me(), End::Any, Way::Egress)]
        {
            let name =
                format!("{}-{}-interfaces-{mark}-{direction}", self.key.namespace, self.name);
            let rule = RuleSpec {
                name: &name,
                action: "pass",
                protocol: "any",
                ports: (0, u16::MAX),
                source,
                target,
                judged_at: way.judged_at(),
                exception: false,
            };
            self.cx.linked_rule(self.key, "allowall", &rule, &mut self.out);
        }
    }

    fn peer_tags(&mut self, pods: Option<&Selector>, namespaces: Option<&Selector>) -> Vec<String> {
        let Some(namespaces) = namespaces else { return self.pods_here(pods) };
        if let Some(networks) = self.networks.clone() {
            return self.interfaces(networks, pods, Some(namespaces));
        }
        let mut list = self.cx.tags.for_namespaces(namespaces);
        if let Some(pods) = pods.filter(|selector| !selector.is_empty()) {
            list.extend(self.cx.tags.for_pods(pods));
        }
        sorted(self.demand(list))
    }

    fn block(&mut self, way: Way, prefix: &str, rule: &PolicyRule) {
        let any = [PolicyPort { protocol: "any".into(), port: None }];
        let ports: &[PolicyPort] = if rule.ports.is_empty() { &any } else { &rule.ports };
        for (k, port) in ports.iter().enumerate() {
            if rule.peers.is_empty() {
                self.add(way, &format!("{prefix}-allow-all-{k}"), port, End::Any, false);
            }
        }
        for (j, peer) in rule.peers.iter().enumerate() {
            for (k, port) in ports.iter().enumerate() {
                match peer {
                    Peer::Block(block) => {
                        for except in &block.except {
                            let name =
                                format!("{prefix}-ipBlock-{j}-{}-{k}", plain(&except.to_string()));
                            self.add(way, &name, port, End::Prefix(*except), true);
                        }
                        let name = format!(
                            "{prefix}-ipBlock-{j}-cidr-{}-{k}",
                            plain(&block.cidr.to_string())
                        );
                        self.add(way, &name, port, End::Prefix(block.cidr), false);
                    }
                    Peer::Pods { pods, namespaces } => {
                        let tags = self.peer_tags(pods.as_ref(), namespaces.as_ref());
                        let what = if pods.is_some() { "podSelector" } else { "namespaceSelector" };
                        self.add(
                            way,
                            &format!("{prefix}-{what}-{j}-{k}"),
                            port,
                            End::Tags(tags),
                            false,
                        );
                    }
                }
            }
        }
    }

    /// Adds a rule; one for each number if the port is a name.
    fn add(&mut self, way: Way, name: &str, port: &PolicyPort, peer: End, exception: bool) {
        let PortName::Named(word) = (match &port.port {
            None => return self.add_one(way, name, port, (0, u16::MAX), peer, exception, None),
            Some(PortName::Range(first, last)) => {
                return self.add_one(way, name, port, (*first, *last), peer, exception, None);
            }
            Some(named) => named,
        }) else {
            return;
        };
        let protocol = port.protocol.to_uppercase();
        self.out.demands.push(Demand::PortName(protocol.clone(), word.clone()));
        let peer = match (way, peer) {
            // Whoever it is: only pods call a port anything, and the tag of the name finds them.
            (Way::Egress, End::Any) => End::Tags(Vec::new()),
            (Way::Egress, End::Prefix(_)) => return,
            (_, peer) => peer,
        };
        for number in self.cx.cache.port_numbers(&protocol, word) {
            let tag = (
                format!("port-{}-{word}={number}", port.protocol),
                Predicate::Port(protocol.clone(), word.clone(), number),
            );
            let tag = self.demand(vec![tag]).pop();
            let name = format!("{name}-{number}");
            self.add_one(way, &name, port, (number, number), peer.clone(), exception, tag);
        }
    }

    #[allow(clippy::too_many_arguments)] // one place
    fn add_one(
        &mut self,
        way: Way,
        name: &str,
        port: &PolicyPort,
        ports: (u16, u16),
        peer: End,
        exception: bool,
        named: Option<String>,
    ) {
        let mut subject = self.subject.clone();
        let mut peer = peer;
        // The end that is connected to is the one that has the port.
        match (way, &mut peer) {
            (Way::Ingress, _) => subject.extend(named),
            (Way::Egress, End::Tags(tags)) => tags.extend(named),
            (Way::Egress, _) => {}
        }
        let subject = End::Tags(subject);
        let (source, target) = match way {
            Way::Ingress => (peer, subject),
            Way::Egress => (subject, peer),
        };
        let spec = RuleSpec {
            name,
            action: if exception { "deny" } else { "pass" },
            protocol: &port.protocol,
            ports,
            source,
            target,
            judged_at: way.judged_at(),
            exception,
        };
        let rule = self.cx.rule(self.key, &spec, &mut self.out);
        // The same peer may be written twice with the same outcome.
        if !self.rules.contains(&rule.name) {
            self.rules.push(rule.name.clone());
            self.out.objects.push(rule);
        }
    }

    fn finish(mut self, policy: &NetworkPolicy) -> Derived {
        let (cx, key) = (self.cx, self.key);
        let staged = cx.staged(&policy.meta, &mut self.out);
        let name =
            cx.names.policy_object(&cx.names.of(&format!("{}-{}", key.namespace, self.name)));
        let name = cx.free_name(key, Kind::FIREWALL_POLICY, name);
        let references = self
            .rules
            .iter()
            .enumerate()
            .map(|(at, rule)| Ref {
                name: rule.clone(),
                attr: json!({"sequence": format!("{at:05}.0")}),
            })
            .collect();
        self.out.objects.push(
            cx.owned(
                key,
                Kind::FIREWALL_POLICY,
                Some(Kind::POLICY_MANAGEMENT),
                name.clone(),
                &[("spec", &policy.spec)],
            )
            .set("staged", staged)
            .refer_with(Kind::FIREWALL_RULE, references),
        );
        // Older policies first, as the original orders them; a place of its own, whatever others come and go.
        let place = format!(
            "00002.{:010}{}",
            policy.meta.created.max(0),
            &rank(&format!("{}/{}", key.namespace, self.name))[..5]
        );
        self.out.links.push(cx.placed(&name, &place));
        let mut reported = vec![name];
        let mut denies = Vec::new();
        let subject = || End::Tags(self.subject.clone());
        let ends = [
            (policy.restricts_ingress, Way::Ingress, "ingress", "denyall", End::Any, subject()),
            (
                policy.restricts_egress,
                Way::Egress,
                "egress",
                "default-deny-all",
                subject(),
                End::Any,
            ),
        ];
        for (restricts, way, direction, what, source, target) in ends {
            if !restricts {
                continue;
            }
            let rule = format!("{}-{direction}-{}-{what}", key.namespace, self.name);
            let spec = RuleSpec {
                name: &rule,
                action: "deny",
                protocol: "any",
                ports: (0, u16::MAX),
                source,
                target,
                judged_at: way.judged_at(),
                exception: false,
            };
            if staged {
                denies.push(cx.rule(key, &spec, &mut self.out));
            } else {
                cx.linked_rule(key, "denyall", &spec, &mut self.out);
            }
        }
        if !denies.is_empty() {
            // What it would deny comes behind what every policy passes, and must not be in a list that is in force.
            let name = format!("{}-{}-staged-denyall", key.namespace, self.name);
            let name = cx.names.policy_object(&cx.names.of(&name));
            let name = cx.free_name(key, Kind::FIREWALL_POLICY, name);
            cx.stage_denies(key, &name, denies, &mut self.out);
            reported.push(name);
        }
        if staged {
            cx.report_staged(&reported, &mut self.out);
        }
        self.out
    }
}

fn sorted(mut tags: Vec<String>) -> Vec<String> {
    tags.sort();
    tags.dedup();
    tags
}

/// A prefix inside a name: names have no colons.
fn plain(net: &str) -> String {
    net.replace(':', "-")
}
