//! What a namespace has: spec section 1.2.

use super::Context;
use super::firewall::{End, RuleSpec};
use super::networks::{Wishes, attached};
use crate::desired::{Demand, Derived, Link, Predicate};
use crate::key::Key;
use crate::names;
use serde_json::{Value, json};
use skein_model::Kind;

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let Some(namespace) = cx.cache.namespaces.get(&key.name) else { return Derived::default() };
    let name = &*key.name;
    let wishes = Wishes::of(&namespace.meta);
    let mut out = Derived::default();
    for problem in &wishes.problems {
        out.problem("BadAnnotation", problem.clone());
    }
    match super::networks::chosen(cx, &namespace.meta) {
        Ok(chosen) => {
            if let Some(network) = chosen {
                cx.tell_of_reach(&network, &mut out);
            }
        }
        Err(problem) => out.problem("BadAnnotation", problem),
    }
    if let Err(problem) = super::service::pool_for(cx, &namespace.meta) {
        out.problem("BadAnnotation", problem);
    }
    cx.tell_about_underlay(name, &wishes, &mut out);
    let isolated = cx.isolated(name);
    tell_about_isolation(&wishes, isolated, &mut out);
    let cluster_makes_it = matches!(name, "default" | "kube-system") || cx.names.is_shared();
    if !cluster_makes_it {
        let uid = namespace.meta.uid.to_string();
        let more =
            [("k8s_uuid", uid.as_str()), ("isolated", if isolated { "True" } else { "False" })];
        let project = cx.names.project(name);
        out.objects.push(cx.owned(key, Kind::PROJECT, Some(Kind::DOMAIN), project, &more));
    }
    let group = cx.names.namespaced(name, "default-sg");
    out.objects.push(
        cx.owned(key, Kind::SECURITY_GROUP, Some(Kind::PROJECT), group, &[])
            .set("security_group_entries", open_group()),
    );
    if isolated {
        networks(cx, key, &wishes, &mut out);
    }
    allow(cx, key, &mut out);
    out
}

/// Tells of annotations that say nothing where they are.
fn tell_about_isolation(wishes: &Wishes, isolated: bool, out: &mut Derived) {
    if wishes.isolated && !isolated {
        out.problem(
            "NotIsolated",
            "opencontrail.org/isolation does nothing here: the networks of the namespace default are the cluster's own; \
             put what is to be apart into another namespace"
                .into(),
        );
    } else if wishes.about_services && !isolated {
        out.problem(
            "NotIsolated",
            "opencontrail.org/isolation.service says something about isolated namespaces only: annotate this one \
             with opencontrail.org/isolation: 'true' as well, or take it away"
                .into(),
        );
    }
}

/// Everything passes, both ways, both families: policies and networks are what restricts.
fn open_group() -> Value {
    let ports = json!([{"start_port": 0, "end_port": 65535}]);
    let mut rules = Vec::new();
    for (family, prefix) in [("IPv4", "0.0.0.0"), ("IPv6", "::")] {
        let anywhere = json!([{"subnet": {"ip_prefix": prefix, "ip_prefix_len": 0}}]);
        let local = json!([{"security_group": "local"}]);
        for (from, to) in [(&anywhere, &local), (&local, &anywhere)] {
            rules.push(json!({
                "direction": ">", "protocol": "any", "ethertype": family,
                "src_addresses": from, "src_ports": ports,
                "dst_addresses": to, "dst_ports": ports,
            }));
        }
    }
    json!({ "policy_rule": rules })
}

fn networks(cx: &Context<'_>, key: &Key, wishes: &Wishes, out: &mut Derived) {
    let name = &*key.name;
    let pods = cx.names.namespaced(name, "pod-network");
    let services = cx.names.namespaced(name, "service-network");
    let own = cx.names.namespaced(name, "pod-service-np");
    let fabric = cx.names.shared_object("default-ip-fabric-np");
    let default_services = cx.names.shared_object("default-service-np");
    out.objects.push(cx.network_policy(
        key,
        own.clone(),
        std::slice::from_ref(&pods),
        std::slice::from_ref(&services),
        "<>",
    ));
    let mut on_pods = vec![fabric.clone(), default_services, own.clone()];
    if cx.settings.isolated_reach_default {
        // They reach out; nobody reaches in.
        let out_policy = cx.names.namespaced(name, "pod-default-np");
        out.objects.push(cx.network_policy(
            key,
            out_policy.clone(),
            std::slice::from_ref(&pods),
            &[cx.names.pod_network()],
            ">",
        ));
        let on_default = attached(out_policy.clone());
        out.links.push(Link {
            holder: (Kind::VIRTUAL_NETWORK, cx.names.pod_network()),
            target: (Kind::NETWORK_POLICY, on_default.name),
            attr: on_default.attr,
            optional: false,
        });
        on_pods.push(out_policy);
    }
    let forwarding = wishes.forwarding.unwrap_or(false);
    let snat = wishes.snat.unwrap_or(false);
    on_pods.extend(cx.names.nested_policy());
    out.objects.push(cx.pod_network(key, pods, forwarding, snat, on_pods));
    let mut on_services = vec![fabric, own];
    on_services.extend(cx.names.nested_policy());
    out.objects.push(cx.service_network(key, services, on_services));
}

/// What no policy selects passes: one rule for each direction, behind all others.
fn allow(cx: &Context<'_>, key: &Key, out: &mut Derived) {
    let tag = names::namespace_tag(&key.name);
    out.demands.push(Demand::Tag(tag.clone(), Predicate::Named));
    let me = || End::Tags(vec![tag.clone()]);
    for (direction, source, target, judged) in
        [("ingress", End::Any, me(), "endpoint-2"), ("egress", me(), End::Any, "endpoint-1")]
    {
        let name = format!("{}-{direction}", cx.names.of(&format!("Namespace-{}", key.name)));
        let rule = RuleSpec {
            name: &name,
            action: "pass",
            protocol: "any",
            ports: (0, u16::MAX),
            source,
            target,
            judged_at: judged,
            exception: false,
        };
        cx.linked_rule(key, "allowall", &rule, out);
    }
}
