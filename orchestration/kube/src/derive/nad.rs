//! Networks that pods may ask for by name: spec sections 1.6 and 6.

use super::{Context, annotations, cluster, networks};
use crate::desired::{Derived, Ref};
use crate::key::Key;
use crate::objects::Nad;
use ipnet::IpNet;
use serde_json::json;
use skein_model::{FqName, Kind};

const CIDR: &str = "opencontrail.org/cidr";
/// CNI plugins whose networks these are.
const PLUGINS: [&str; 3] = ["contrail-k8s-cni", "skein-cni", "skein"];

/// The prefixes in the annotation: one, several with commas, or a list as JSON.
fn prefixes(text: &str) -> Result<Vec<IpNet>, String> {
    let bare = text.trim_matches(['[', ']']);
    bare.split(',')
        .map(|part| {
            let part = part.trim().trim_matches(['"', '\'']);
            part.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| {
                format!("annotation {CIDR}: {part:?} is not a prefix; write 10.1.0.0/16")
            })
        })
        .collect()
}

/// The network that a definition stands for; none if another plugin's.
///
/// # Errors
/// It cannot stand for any.
pub(super) fn network_of(cx: &Context<'_>, nad: &Nad) -> Result<Option<FqName>, String> {
    let plugin = nad.plugin.as_ref().map_err(Clone::clone)?;
    if !PLUGINS.contains(&plugin.as_str()) {
        return Ok(None);
    }
    if let Some(chosen) = networks::chosen(cx, &nad.meta)? {
        return Ok(Some(chosen));
    }
    if let Some(text) = nad.meta.annotation(CIDR) {
        prefixes(text)?;
        return Ok(Some(made_network(cx, nad, "pod-network")));
    }
    Err(format!("it has neither of the annotations {CIDR} and opencontrail.org/network"))
}

/// The name of what a definition makes. The original's may be another network's already: then it says more.
fn made_network(cx: &Context<'_>, nad: &Nad, what: &str) -> FqName {
    let (namespace, name) = (&*nad.meta.namespace, &*nad.meta.name);
    let last = if cx.names.is_shared() {
        format!("{namespace}-{name}-nad-{what}")
    } else if name == namespace || name == "default" {
        format!("{name}-nad-{what}")
    } else {
        format!("{name}-{what}")
    };
    cx.names.project(namespace).child(&cx.names.of(&last))
}

pub(super) fn derive(cx: &Context<'_>, key: &Key) -> Derived {
    let place = (key.namespace.clone(), key.name.clone());
    let Some(nad) = cx.cache.nads.get(&place) else { return Derived::default() };
    match network_of(cx, nad) {
        Err(reason) => return Derived::wrong("BadDefinition", reason),
        Ok(None) => return Derived::default(),
        Ok(Some(_)) => {}
    }
    let mut out = Derived::default();
    if let Ok(Some(chosen)) = networks::chosen(cx, &nad.meta) {
        if cx.graph.by_name(Kind::VIRTUAL_NETWORK, &chosen).is_none() {
            out.waits.push((Kind::VIRTUAL_NETWORK, chosen.clone()));
            let text = format!("virtual-network {chosen} does not exist; create it");
            out.problem("UnknownNetwork", text);
        }
        return out;
    }
    let Some(Ok(nets)) = nad.meta.annotation(CIDR).map(prefixes) else { return out };
    let read = |key: &str| annotations::boolean(&nad.meta, key);
    let (forwarding, snat) = match (
        read("opencontrail.org/ip_fabric_forwarding"),
        read("opencontrail.org/ip_fabric_snat"),
    ) {
        (Ok(forwarding), Ok(snat)) => (forwarding.unwrap_or(false), snat.unwrap_or(false)),
        (Err(reason), _) | (_, Err(reason)) => return Derived::wrong("BadAnnotation", reason),
    };
    let ipam = made_network(cx, nad, "pod-ipam");
    out.objects.push(
        cx.owned(key, Kind::NETWORK_IPAM, Some(Kind::PROJECT), ipam.clone(), &[])
            .set("ipam_subnet_method", "user-defined-subnet"),
    );
    let subnets: Vec<_> = nets.iter().map(|net| json!({"subnet": cluster::subnet(net)})).collect();
    let link = Ref { name: ipam, attr: json!({ "ipam_subnets": subnets }) };
    let name = made_network(cx, nad, "pod-network");
    // Its prefixes stay what they are, so its pods' addresses do.
    let underlay = cx.underlay(&name, forwarding, false);
    cx.tell(underlay, &mut out);
    let network = cx
        .owned(key, Kind::VIRTUAL_NETWORK, Some(Kind::PROJECT), name, &[])
        .set("virtual_network_properties", json!({"forwarding_mode": "l2_l3"}))
        .set("address_allocation_mode", "user-defined-subnet-only")
        .refer_with(Kind::NETWORK_IPAM, vec![link]);
    let mut network = cx.reaches_outside(network, underlay.is_in(), snat);
    if cx.settings.policy_on_secondary {
        network = network.refer(Kind::TAG, [FqName::single(&cx.names.application_tag())]);
    }
    network.open = true;
    out.objects.push(network);
    out
}
