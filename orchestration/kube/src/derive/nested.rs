//! Nested mode: the cluster's nodes are machines of an outer fabric, and pods are VLANs of the machines' ports (spec sections
//! 1.1 and 1.3).

use super::Context;
use super::networks::attached;
use super::pod::Wrong;
use crate::desired::{Derived, Desired, Link};
use crate::key::Key;
use crate::objects::Pod;
use crate::packed;
use serde_json::{Value, json};
use skein_model::{FqName, Kind, Object};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// 802.1Q tags that mean a VLAN.
const TAGS: u16 = 4094;

/// The network that the nodes themselves are in: the underlay, or that of their machines.
pub(super) fn nodes(cx: &Context<'_>) -> FqName {
    cx.names.nodes_network().unwrap_or_else(|| cx.names.ip_fabric())
}

/// The policy that joins the cluster's networks to the nodes', on the nodes' network as well; its name for the others.
pub(super) fn underlay(
    cx: &Context<'_>,
    key: &Key,
    networks: &[FqName],
    out: &mut Derived,
) -> Option<FqName> {
    let (nodes, policy) = (cx.names.nodes_network()?, cx.names.nested_policy()?);
    let one = std::slice::from_ref(&nodes);
    out.objects.push(cx.network_policy(key, policy.clone(), networks, one, "<>"));
    let reference = attached(policy.clone());
    out.links.push(Link {
        holder: (Kind::VIRTUAL_NETWORK, nodes),
        target: (Kind::NETWORK_POLICY, reference.name),
        attr: reference.attr,
        optional: true,
    });
    Some(policy)
}

/// The node's address, as the pod says it, or before its kubelet has looked at it the node.
pub(crate) fn node_address(cx: &Context<'_>, pod: &Pod) -> Option<IpAddr> {
    let node = || cx.cache.nodes.get(pod.node.as_deref()?)?.addresses.first().copied();
    pod.host_address.or_else(node)
}

/// The port of the machine that a pod is on: of the nodes' network, with the node's address.
pub(super) fn parent<'a>(cx: &Context<'a>, pod: &Pod) -> Result<Option<&'a Arc<Object>>, Wrong> {
    let Some(network) = cx.names.nodes_network() else { return Ok(None) };
    let node = pod.node.as_deref().unwrap_or_default();
    let unknown = |message: String| ("UnknownNode", message);
    let Some(network) = cx.graph.by_name(Kind::VIRTUAL_NETWORK, &network) else {
        let message =
            format!("the nodes' network {network} does not exist; correct cluster_network");
        return Err(unknown(message));
    };
    let Some(address) = node_address(cx, pod) else {
        return Err(unknown(format!("node {node} has no address yet")));
    };
    let text = address.to_string();
    let mut all = cx.graph.back_references_from(network.uuid, Kind::INSTANCE_IP);
    let port = all
        .find(|ip| packed::text(ip, "instance_ip_address").as_deref() == Some(&text))
        .and_then(|ip| ip.reference_to(Kind::VIRTUAL_MACHINE_INTERFACE))
        .and_then(|port| cx.graph.get_kind(Kind::VIRTUAL_MACHINE_INTERFACE, port.uuid));
    port.map(Some).ok_or_else(|| {
        unknown(format!(
            "no port of {} has {address}, the address of node {node}; is cluster_network the network of \
             the nodes' machines?",
            network.fq_name
        ))
    })
}

/// The node of the outer fabric that a machine's port is bound to.
pub(super) fn node(port: &Object) -> Option<String> {
    let properties = packed::properties(port);
    let pairs = properties.get("virtual_machine_interface_bindings")?.get("key_value_pair")?;
    let mut pairs = pairs.as_array()?.iter();
    let host = pairs.find(|pair| pair.get("key").and_then(Value::as_str) == Some("host_id"))?;
    host.get("value").and_then(Value::as_str).map(str::to_owned)
}

fn tag(port: &Object) -> Option<u16> {
    let properties = packed::properties(port);
    let own = properties.get("virtual_machine_interface_properties")?;
    let tag = u16::try_from(own.get("sub_interface_vlan_tag")?.as_u64()?).ok()?;
    (tag != 0).then_some(tag)
}

/// How a pod's ports are plugged: on a node, or on VLANs of a machine's port.
pub(super) struct Plug<'a> {
    pub(super) parent: Option<&'a Arc<Object>>,
    pub(super) host: String,
    /// VLANs of the pod's ports before this one.
    pub(super) taken: BTreeSet<u16>,
}

impl Plug<'_> {
    /// Adds to a port what says where it is.
    pub(super) fn placed(
        &mut self,
        cx: &Context<'_>,
        uuid: Uuid,
        port: Desired,
    ) -> Result<Desired, Wrong> {
        let Some(parent) = self.parent else {
            let bindings = json!({"key_value_pair": [
                {"key": "host_id", "value": self.host}, {"key": "vif_type", "value": "vrouter"},
            ]});
            return Ok(port.set("virtual_machine_interface_bindings", bindings));
        };
        let tag = self.tag(cx, parent, uuid).ok_or_else(|| {
            let message =
                format!("all {TAGS} VLANs of the machine's port {} are taken", parent.fq_name);
            ("NoVlan", message)
        })?;
        self.taken.insert(tag);
        Ok(port
            .set("virtual_machine_interface_properties", json!({"sub_interface_vlan_tag": tag}))
            .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [parent.fq_name.clone()]))
    }

    /// The tag that the port has, else a free one. The search begins at a place of the port's own, so that pods that
    /// start together seldom want the same one; the API refuses the second, who then finds another.
    fn tag(&self, cx: &Context<'_>, parent: &Object, uuid: Uuid) -> Option<u16> {
        let known = cx.graph.get_kind(Kind::VIRTUAL_MACHINE_INTERFACE, uuid);
        let on_parent = |port: &Object| {
            port.references_to(Kind::VIRTUAL_MACHINE_INTERFACE).any(|link| link.uuid == parent.uuid)
        };
        if let Some(tag) = known.filter(|port| on_parent(port)).and_then(|port| tag(port)) {
            return Some(tag);
        }
        let referring = cx.graph.back_references_from(parent.uuid, Kind::VIRTUAL_MACHINE_INTERFACE);
        let taken: BTreeSet<u16> = referring
            .filter(|port| port.uuid != uuid)
            .filter_map(|port| tag(port))
            .chain(self.taken.iter().copied())
            .collect();
        let start = (uuid.as_u128() % u128::from(TAGS)) as u16;
        let mut all = (0..TAGS).map(|step| (start + step) % TAGS + 1);
        all.find(|tag| !taken.contains(tag))
    }
}
