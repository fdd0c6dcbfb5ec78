//! Networks that users make with kubectl: `virtualnetworks.skein.io` (docs/adr/0017).
//!
//! A network is the virtual-network of its name in its namespace's project, with an IPAM of its own and, if it is
//! joined with others, a network-policy on its own side. Joining takes both sides: nobody joins another one's network
//! by naming it. Only the cluster's own pod and service networks ask nothing.

use super::networks::{self, attached};
use super::{Context, cluster};
use crate::desired::{Derived, Desired, Link, Patch, Ref};
use crate::key::Key;
use crate::names;
use crate::objects::VirtualNetwork;
use ipnet::IpNet;
use serde_json::{Value, json};
use skein_model::{FqName, Kind};
use std::net::IpAddr;

/// Keeps a network from going while pods use it.
pub const FINALIZER: &str = "skein.io/in-use";
/// The floating-ip-pool of an external network.
const POOL: &str = "pool";
/// How many pods are named when a network is still in use.
const NAMED: usize = 5;

/// The name of what a definition makes.
pub(super) fn network_name(cx: &Context<'_>, namespace: &str, name: &str) -> FqName {
    let project = cx.names.project(namespace);
    if cx.names.is_shared() {
        project.child(&format!("{namespace}-{name}"))
    } else {
        project.child(name)
    }
}

/// Reads a network's name as users write it: `NAME`, `NAMESPACE/NAME`, or a name of the configuration in full.
pub(super) fn named(cx: &Context<'_>, namespace: &str, text: &str) -> Result<FqName, String> {
    let text = text.trim();
    if text.contains([':', ',', '{', '[']) {
        return names::parse_fq_name(text, &["domain", "project", "name"]);
    }
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let good = |part: &str| {
        let inner =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        !part.is_empty() && part.chars().all(inner)
    };
    if !good(namespace) || !good(name) {
        return Err(format!(
            "{text:?} is not a name; write NAME or NAMESPACE/NAME of a VirtualNetwork, or domain:project:name"
        ));
    }
    Ok(network_name(cx, namespace, name))
}

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let place = (key.namespace.clone(), key.name.clone());
    let Some(wish) = cx.cache.virtual_networks.get(&place) else { return Derived::default() };
    let name = network_name(cx, &key.namespace, &key.name);
    let there = cx.graph.by_name(Kind::VIRTUAL_NETWORK, &name).is_some();
    let users = if wish.deleting { users(cx, &name) } else { Vec::new() };
    if wish.deleting && users.is_empty() {
        return let_go(key, wish, there);
    }
    let mut out = match objects(cx, key, wish, &name) {
        Ok(out) => out,
        Err(reason) => {
            let mut out = Derived::wrong("BadNetwork", reason.clone());
            out.patches.extend(status(key, wish, &name, &Err(("BadNetwork", reason))));
            return out;
        }
    };
    let state = if users.is_empty() {
        if there { Ok(()) } else { Err(("Creating", "the network is being made".to_owned())) }
    } else {
        let named: Vec<_> = users.iter().take(NAMED).map(String::as_str).collect();
        let more = users.len().saturating_sub(NAMED);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = format!("{}{rest} use it; it is deleted when they are gone", named.join(", "));
        out.problem("InUse", text.clone());
        Err(("InUse", text))
    };
    if !wish.deleting && !wish.finalizers.iter().any(|f| f == FINALIZER) {
        let all: Vec<&str> =
            wish.finalizers.iter().map(String::as_str).chain([FINALIZER]).collect();
        out.patches.push(finalizers(key, &all));
    }
    cx.tell_of_reach(&name, &mut out);
    out.patches.extend(status(key, wish, &name, &state));
    out
}

/// Nothing is wanted any more; the definition may go once the network is gone.
fn let_go(key: &Key, wish: &VirtualNetwork, there: bool) -> Derived {
    let mut out = Derived::default();
    if !there && wish.finalizers.iter().any(|f| f == FINALIZER) {
        let rest: Vec<&str> =
            wish.finalizers.iter().map(String::as_str).filter(|f| *f != FINALIZER).collect();
        out.patches.push(finalizers(key, &rest));
    }
    out
}

fn finalizers(key: &Key, all: &[&str]) -> Patch {
    Patch { key: key.clone(), status: false, body: json!({"metadata": {"finalizers": all}}) }
}

/// Pods that live in a network, or choose it, as `namespace/name`.
fn users(cx: &Context<'_>, network: &FqName) -> Vec<String> {
    let mut out = Vec::new();
    for pod in cx.cache.pods.values().filter(|pod| pod.is_attached()) {
        let chosen = cx.network_for(&pod.meta).is_ok_and(|(name, _)| name == *network);
        // Interfaces that it has, whatever its annotations say by now.
        let has = || {
            let machine = cx.graph.get_kind(Kind::VIRTUAL_MACHINE, pod.meta.uid)?;
            let ports =
                cx.graph.back_references_from(machine.uuid, Kind::VIRTUAL_MACHINE_INTERFACE);
            let mut networks = ports
                .filter_map(|port| cx.graph.get(port.reference_to(Kind::VIRTUAL_NETWORK)?.uuid));
            networks.find(|found| found.fq_name == *network).map(drop)
        };
        if chosen || has().is_some() {
            out.push(pod.meta.display());
        }
    }
    out
}

/// The status, if it is another one than what is there.
fn status(
    key: &Key,
    wish: &VirtualNetwork,
    name: &FqName,
    state: &Result<(), (&str, String)>,
) -> Option<Patch> {
    let (ready, reason, message) = match state {
        Ok(()) => ("True", "Made", "pods may use it"),
        Err((reason @ "InUse", message)) => ("True", *reason, message.as_str()),
        Err((reason, message)) => ("False", *reason, message.as_str()),
    };
    let wanted = json!({
        "network": name.to_string(),
        "conditions": [
            {"type": "Ready", "status": ready, "reason": reason, "message": message},
        ],
    });
    (wish.status != wanted).then(|| Patch {
        key: key.clone(),
        status: true,
        body: json!({ "status": wanted }),
    })
}

fn objects(
    cx: &Context<'_>,
    key: &Key,
    wish: &VirtualNetwork,
    name: &FqName,
) -> Result<Derived, String> {
    let spec = &wish.spec;
    let mut out = Derived::default();
    let mut subnets = Vec::new();
    let mut nets: Vec<IpNet> = Vec::new();
    for subnet in &spec.subnets {
        let net: IpNet = subnet
            .cidr
            .parse()
            .map_err(|_| format!("subnet {:?} is not a prefix; write 10.1.0.0/16", subnet.cidr))?;
        if net.trunc() != net {
            return Err(format!("subnet {net} has bits behind its length; write {}", net.trunc()));
        }
        if let Some(other) = nets.iter().find(|n| n.contains(&net) || net.contains(*n)) {
            return Err(format!("subnets {other} and {net} overlap"));
        }
        let mut entry = json!({"subnet": cluster::subnet(&net)});
        if let Some(text) = &subnet.gateway {
            let gateway: IpAddr =
                text.parse().map_err(|_| format!("gateway {text:?} of {net} is not an address"))?;
            if !net.contains(&gateway) {
                return Err(format!("gateway {gateway} is not in {net}"));
            }
            entry["default_gateway"] = gateway.to_string().into();
        }
        nets.push(net);
        subnets.push(entry);
    }
    if subnets.is_empty() {
        return Err("it has no subnet; give spec.subnets".into());
    }
    let ipam =
        name.parent().unwrap_or_else(|| name.clone()).child(&format!("{}-ipam", name.name()));
    out.objects.push(
        cx.owned(key, Kind::NETWORK_IPAM, Some(Kind::PROJECT), ipam.clone(), &[])
            .set("ipam_subnet_method", "user-defined-subnet"),
    );
    let joins = joins(cx, key, wish, name, &mut out)?;
    let targets = &spec.route_targets;
    // An empty list is none.
    let list = |targets: &[String]| match targets {
        [] => Value::Null,
        some => json!({ "route_target": some }),
    };
    let link = Ref { name: ipam, attr: json!({ "ipam_subnets": subnets }) };
    let mut network: Desired = cx
        .owned(key, Kind::VIRTUAL_NETWORK, Some(Kind::PROJECT), name.clone(), &[])
        .set("virtual_network_properties", json!({"forwarding_mode": "l3"}))
        .set("address_allocation_mode", "user-defined-subnet-only")
        .set("fabric_snat", spec.fabric_snat)
        .set("router_external", spec.external)
        .set("route_target_list", list(&targets.import_export))
        .set("import_route_target_list", list(&targets.import))
        .set("export_route_target_list", list(&targets.export))
        .refer_with(Kind::NETWORK_IPAM, vec![link])
        .refer_with(Kind::NETWORK_POLICY, joins.into_iter().map(attached).collect());
    network.open = true;
    out.objects.push(network);
    if spec.external {
        let pool = name.child(POOL);
        out.objects.push(cx.owned(
            key,
            Kind::FLOATING_IP_POOL,
            Some(Kind::VIRTUAL_NETWORK),
            pool,
            &[],
        ));
    }
    Ok(out)
}

/// The policy that joins the network with others, if any; it stands on its own side, and on that of the cluster's.
fn joins(
    cx: &Context<'_>,
    key: &Key,
    wish: &VirtualNetwork,
    name: &FqName,
    out: &mut Derived,
) -> Result<Option<FqName>, String> {
    let pods = cx.names.pod_network();
    let services = cx.names.service_network();
    let mut others: Vec<FqName> = Vec::new();
    if wish.spec.isolated == Some(false) {
        others.extend([pods.clone(), services.clone()]);
    }
    for text in &wish.spec.connect_to {
        others.push(match text.as_str() {
            "pods" => pods.clone(),
            "services" => services.clone(),
            other => named(cx, &key.namespace, other)
                .map_err(|reason| format!("spec.connectTo: {reason}"))?,
        });
    }
    others.sort();
    others.dedup();
    others.retain(|other| other != name);
    if others.is_empty() {
        return Ok(None);
    }
    let project = name.parent().unwrap_or_else(|| name.clone());
    let policy = project.child(&format!("{}-np", name.name()));
    let own = std::slice::from_ref(name);
    out.objects.push(cx.network_policy(key, policy.clone(), own, &others, "<>"));
    for holder in [pods, services].into_iter().filter(|own| others.contains(own)) {
        let there = networks::attached(policy.clone());
        out.links.push(Link {
            holder: (Kind::VIRTUAL_NETWORK, holder),
            target: (Kind::NETWORK_POLICY, there.name),
            attr: there.attr,
            optional: false,
        });
    }
    Ok(Some(policy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finalizer_is_added_beside_others() {
        let key = Key::new(crate::key::Sort::VirtualNetwork, "shop", "blue");
        let patch = finalizers(&key, &["other", FINALIZER]);
        let list = patch.body["metadata"]["finalizers"].clone();
        assert_eq!(list, json!(["other", "skein.io/in-use"]));
    }
}
