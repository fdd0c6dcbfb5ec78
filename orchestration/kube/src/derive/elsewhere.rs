//! Policies and services that are about networks beside pods' first ones: whoever says so by an annotation.

use super::{Context, annotations, nad, pod};
use crate::cache::Cache;
use crate::desired::Derived;
use crate::key::{Key, Sort};
use crate::objects::{Endpoint, Meta, NetworkPolicy, Resource, Service};
use skein_model::Kind;
use std::collections::BTreeSet;
use std::net::IpAddr;
use uuid::Uuid;

/// On a policy: networks that it is about, and no others. The multi-network-policy API's word.
const POLICY_FOR: &str = "k8s.v1.cni.cncf.io/policy-for";
/// On a service: the network in which its backends are asked.
const SERVICE_NETWORK: &str = "k8s.v1.cni.cncf.io/service-network";

/// Owners that name networks by annotation: a definition that comes or goes concerns them.
pub(crate) fn users_of_networks(cache: &Cache) -> Vec<Key> {
    let key = |sort, meta: &Meta| Key {
        sort,
        namespace: meta.namespace.clone(),
        name: meta.name.clone(),
    };
    let policies = |sort, list: Vec<&NetworkPolicy>| -> Vec<Key> {
        let naming = list.into_iter().filter(|policy| policy.meta.annotation(POLICY_FOR).is_some());
        naming.map(|policy| key(sort, &policy.meta)).collect()
    };
    let mut keys = policies(Sort::Policy, cache.policies.values().collect());
    keys.extend(policies(Sort::MultiPolicy, cache.multi_policies.values().collect()));
    let services = cache.services.values().map(|service| &service.meta);
    let services = services.filter(|meta| meta.annotation(SERVICE_NETWORK).is_some());
    keys.extend(services.map(|meta| key(Sort::Service, meta)));
    keys
}

/// The definitions that an annotation lists, as `namespace/name`.
fn listed(meta: &Meta, annotation: &str) -> Result<Option<BTreeSet<String>>, String> {
    let Some(text) = meta.annotation(annotation) else { return Ok(None) };
    let wrong = |reason: String| format!("annotation {annotation}: {reason}");
    let all = annotations::network_choices(text).map_err(wrong)?;
    if all.is_empty() || all.iter().any(|one| one.interface.is_some()) {
        let wanted = "write NAME or NAMESPACE/NAME of a NetworkAttachmentDefinition";
        return Err(wrong(format!("{text:?} names no network; {wanted}")));
    }
    let full = |one: annotations::NetworkChoice| {
        let namespace = one.namespace.unwrap_or_else(|| meta.namespace.to_string());
        format!("{namespace}/{}", one.name)
    };
    Ok(Some(all.into_iter().map(full).collect()))
}

impl Context<'_> {
    /// The networks that a policy is about; none: the pods' first ones.
    pub(super) fn policy_networks(
        &self,
        policy: &NetworkPolicy,
    ) -> Result<Option<BTreeSet<String>>, String> {
        match listed(&policy.meta, POLICY_FOR)? {
            None if policy.resource == Resource::MultiNetworkPolicy => Err(format!(
                "it is about no network; write the annotation {POLICY_FOR} with names of \
                 NetworkAttachmentDefinitions"
            )),
            networks => Ok(networks),
        }
    }

    /// Tells of networks that are not there, or not ours to restrict.
    pub(super) fn tell_of_networks(&self, networks: &BTreeSet<String>, out: &mut Derived) {
        for full in networks {
            let place = full.split_once('/').map(|(space, name)| (space.into(), name.into()));
            let found = place.and_then(|place| self.cache.nads.get(&place));
            let reason = match found.map(|found| nad::network_of(self, found)) {
                Some(Ok(Some(_))) => continue,
                Some(Ok(None)) => "is of another CNI plugin, which this does not reach".to_owned(),
                Some(Err(reason)) => reason,
                None => "does not exist".to_owned(),
            };
            out.problem("UnknownNetwork", format!("NetworkAttachmentDefinition {full}: {reason}"));
        }
    }

    /// The network in which a service's backends are asked; none: their first one.
    pub(super) fn service_network_chosen(
        &self,
        service: &Service,
        out: &mut Derived,
    ) -> Option<String> {
        match listed(&service.meta, SERVICE_NETWORK) {
            Ok(None) => None,
            Ok(Some(networks)) => {
                self.tell_of_networks(&networks, out);
                if networks.len() > 1 {
                    let text = format!("annotation {SERVICE_NETWORK}: one network, not several");
                    out.problem("BadAnnotation", text);
                }
                networks.into_iter().next()
            }
            Err(problem) => {
                out.problem("BadAnnotation", problem);
                None
            }
        }
    }

    /// Where an endpoint answers: its address, and its port if it has one of ours. None: nowhere (yet).
    pub(super) fn answers_at(
        &self,
        endpoint: &Endpoint,
        network: Option<&str>,
        out: &mut Derived,
    ) -> Option<(IpAddr, Option<Uuid>)> {
        let pod = endpoint.pod.and_then(|uid| self.cache.pod(uid));
        // A pod on its node's network has the node's address and no port of ours.
        let attached = pod.filter(|pod| !pod.host_network);
        let Some(network) = network.filter(|_| endpoint.pod.is_some()) else {
            let port = attached.map(|pod| pod::port_uuid(pod.meta.uid, 0));
            return Some((endpoint.address, port));
        };
        let place = pod::place_in(self, attached?, network)?;
        let name = place.address_name(endpoint.address.is_ipv6());
        let address = pod::address_of(self, &name);
        if address.is_none() {
            out.waits.push((Kind::INSTANCE_IP, name));
        }
        Some((address?, Some(place.port)))
    }
}
