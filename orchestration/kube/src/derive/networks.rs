//! Which network things live in, and what networks look like.

use super::{Context, annotations, virtual_network};
use crate::desired::{Desired, Ref};
use crate::key::Key;
use crate::objects::Meta;
use ipnet::IpNet;
use serde_json::{Value, json};
use skein_model::{FqName, Graph, Kind};
use std::net::IpAddr;

/// Annotation that names a network.
const NETWORK: &str = "opencontrail.org/network";

/// What a namespace says about its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    /// It has networks of its own.
    pub(super) isolated: bool,
    /// Its services are in a network of their own, too.
    pub(super) services_isolated: bool,
    /// It says something about isolation of services.
    pub(super) about_services: bool,
    /// Its pods live in the underlay.
    pub(super) forwarding: Option<bool>,
    /// Its pods reach outside through their node's address.
    pub(super) snat: Option<bool>,
    /// What of its annotations is not understood.
    pub(super) problems: Vec<String>,
}

impl Wishes {
    pub(super) fn of(meta: &Meta) -> Self {
        let mut problems = Vec::new();
        let mut read = |key: &str| match annotations::boolean(meta, key) {
            Ok(value) => value,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let early = read("opencontrail.kubernetes.isolated");
        let isolated = read("opencontrail.org/isolation").or(early).unwrap_or(false);
        let services = read("opencontrail.org/isolation.service");
        let forwarding = read("opencontrail.org/ip_fabric_forwarding");
        let snat = read("opencontrail.org/ip_fabric_snat");
        Self {
            isolated,
            services_isolated: isolated && services.unwrap_or(true),
            about_services: services.is_some(),
            forwarding,
            snat,
            problems,
        }
    }
}

/// The name in an annotation, if there is one.
pub(super) fn chosen(cx: &Context<'_>, meta: &Meta) -> Result<Option<FqName>, String> {
    let Some(text) = meta.annotation(NETWORK) else { return Ok(None) };
    // A namespace means its own networks.
    let namespace = if meta.namespace.is_empty() { &meta.name } else { &meta.namespace };
    virtual_network::named(cx, namespace, text)
        .map(Some)
        .map_err(|reason| format!("annotation {NETWORK}: {reason}"))
}

impl Context<'_> {
    /// What a namespace says about its networks.
    pub(super) fn wishes(&self, namespace: &str) -> Wishes {
        self.cache.namespaces.get(namespace).map(|n| Wishes::of(&n.meta)).unwrap_or_default()
    }

    /// Whether a namespace has networks of its own. The one called `default` never has: its networks are the
    /// cluster's.
    pub(super) fn isolated(&self, namespace: &str) -> bool {
        namespace != "default" && self.wishes(namespace).isolated
    }

    /// The network of pods that choose none.
    pub(super) fn pod_network_of(&self, namespace: &str) -> FqName {
        if self.isolated(namespace) {
            self.names.namespaced(namespace, "pod-network")
        } else {
            self.names.pod_network()
        }
    }

    /// The network of a namespace's services.
    pub(super) fn service_network_of(&self, namespace: &str) -> FqName {
        if namespace != "default" && self.wishes(namespace).services_isolated {
            self.names.namespaced(namespace, "service-network")
        } else {
            self.names.service_network()
        }
    }

    /// The network that the operator chose for a pod, for its namespace, or the one it has anyway. The second
    /// value: it is an operator's choice.
    pub(super) fn network_for(&self, meta: &Meta) -> Result<(FqName, bool), String> {
        if let Some(own) = chosen(self, meta)? {
            return Ok((own, true));
        }
        let namespace = self.cache.namespaces.get(&meta.namespace);
        let of_namespace = namespace
            .map(|n| chosen(self, &n.meta))
            .transpose()
            .map_err(|reason| format!("namespace {}: {reason}", meta.namespace))?;
        Ok(match of_namespace.flatten() {
            Some(name) => (name, true),
            None => (self.pod_network_of(&meta.namespace), false),
        })
    }

    /// A pod network of the cluster's own, on the cluster's addresses.
    pub(super) fn pod_network(
        &self,
        key: &Key,
        name: FqName,
        forwarding: bool,
        snat: bool,
        policies: Vec<FqName>,
    ) -> Desired {
        let forwarding = self.underlay(&name, forwarding, true).is_in();
        let ipam = if forwarding { "ip-fabric-ipam" } else { "pod-ipam" };
        let network = self.flat_network(key, name, ipam, policies);
        self.reaches_outside(network, forwarding, snat)
    }

    /// A service network of the cluster's own.
    pub(super) fn service_network(
        &self,
        key: &Key,
        name: FqName,
        policies: Vec<FqName>,
    ) -> Desired {
        self.flat_network(key, name, "service-ipam", policies)
    }

    fn flat_network(&self, key: &Key, name: FqName, ipam: &str, policies: Vec<FqName>) -> Desired {
        // The subnets are the IPAM's; the link needs an entry of its own.
        let link = json!({"ipam_subnets": [{}]});
        let ipam = Ref { name: self.names.shared_object(ipam), attr: link };
        let mut desired = self
            .owned(key, Kind::VIRTUAL_NETWORK, Some(Kind::PROJECT), name, &[("isolated", "True")])
            .set("virtual_network_properties", json!({"forwarding_mode": "l3"}))
            .set("address_allocation_mode", "flat-subnet-only")
            .refer_with(Kind::NETWORK_IPAM, vec![ipam])
            .refer_with(Kind::NETWORK_POLICY, policies.into_iter().map(attached).collect())
            .refer(Kind::TAG, [FqName::single(&self.names.application_tag())]);
        desired.open = true;
        desired
    }

    /// A rule list between networks.
    pub(super) fn network_policy(
        &self,
        key: &Key,
        name: FqName,
        sources: &[FqName],
        targets: &[FqName],
        direction: &str,
    ) -> Desired {
        let side = |names: &[FqName]| -> Vec<Value> {
            names.iter().map(|name| json!({"virtual_network": name.to_string()})).collect()
        };
        let any = json!([{"start_port": -1, "end_port": -1}]);
        let rule = json!({
            "direction": direction, "protocol": "any",
            "src_addresses": side(sources), "src_ports": any,
            "dst_addresses": side(targets), "dst_ports": any,
            "action_list": {"simple_action": "pass"},
        });
        self.owned(key, Kind::NETWORK_POLICY, Some(Kind::PROJECT), name, &[])
            .set("network_policy_entries", json!({"policy_rule": [rule]}))
    }
}

/// A policy on a network.
pub(super) fn attached(name: FqName) -> Ref {
    Ref { name, attr: json!({"sequence": {"major": 0, "minor": 0}}) }
}

/// The prefixes of a network.
pub(super) fn prefixes(graph: &Graph, network: &FqName) -> Vec<IpNet> {
    subnets(graph, network).into_iter().map(|(net, _)| net).collect()
}

/// The prefixes of a network with their gateways.
pub(super) fn subnets(graph: &Graph, network: &FqName) -> Vec<(IpNet, Option<IpAddr>)> {
    let Some(network) = graph.by_name(Kind::VIRTUAL_NETWORK, network) else { return Vec::new() };
    let mut out = Vec::new();
    for link in network.references_to(Kind::NETWORK_IPAM) {
        let own = link.attr.get("ipam_subnets");
        let ipam = graph.get(link.uuid);
        let flat = ipam.and_then(|i| i.properties.get("ipam_subnets")?.get("subnets"));
        for list in [own, flat].into_iter().flatten() {
            for subnet in list.as_array().into_iter().flatten() {
                let gateway = subnet.get("default_gateway").and_then(Value::as_str);
                // The API writes "None" or the unspecified address for none.
                let gateway = gateway.and_then(|text| text.parse::<IpAddr>().ok());
                let gateway = gateway.filter(|address| !address.is_unspecified());
                let Some(subnet) = subnet.get("subnet") else { continue };
                let prefix = subnet.get("ip_prefix").and_then(Value::as_str);
                let len = subnet.get("ip_prefix_len").and_then(Value::as_u64);
                let prefix = prefix.and_then(|p| p.parse::<IpAddr>().ok());
                let len = len.and_then(|len| u8::try_from(len).ok());
                if let Some((prefix, len)) = prefix.zip(len)
                    && let Ok(net) = IpNet::new(prefix, len)
                {
                    out.push((net, gateway));
                }
            }
        }
    }
    out
}
