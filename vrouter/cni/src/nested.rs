//! Pods inside a machine that is a workload itself: their interfaces are on VLANs of the machine's, and what they are is the
//! word of the outer node's agent (docs/adr/0014). There is no agent in the machine, and nothing is kept there but the
//! interfaces themselves, which carry in their alias whose they are.

use crate::config::NestedConfig;
use crate::link::{self, ContainerNamespace, Wanted};
use crate::nested_link::{self, Owner};
use crate::netlink::Netlink;
use crate::pod_api::{Pod, PodPort};
use crate::reply::{self, Made};
use crate::{AgentClient, Attachment, Code, Error, NetworkConfig, host_interface_name, pod};
use serde_json::Value;
use std::path::Path;

fn owner<'a>(config: &'a NetworkConfig, attachment: &'a Attachment) -> Owner<'a> {
    Owner { config: &config.name, container: &attachment.container }
}

pub(crate) fn add(
    config: &NetworkConfig,
    inside: &NestedConfig,
    attachment: &Attachment,
    namespace: &ContainerNamespace,
    path: &Path,
    machine: &mut Netlink,
) -> Result<Value, Error> {
    let agent = AgentClient::behind(inside.vrouter);
    let pod: Pod = agent.post("/v1/pods/prepare", &pod::asked(config, attachment))?;
    let parent = link::find(machine, &inside.parent)?.ok_or_else(|| {
        let message = format!("the machine has no interface {}", inside.parent);
        Error::new(Code::InvalidConfig, message, "correct `parentInterface` in /etc/cni/net.d")
    })?;
    let owner = owner(config, attachment);
    let mut container = None;
    let mut done = Vec::new();
    let several = pod.ports.len() > 1;
    for mut one in pod.ports {
        let place = (&parent, several);
        let made =
            connect(config, inside, place, &owner, &mut one, namespace, machine, &mut container);
        match made {
            Ok(mtu) => done.push((one, mtu)),
            Err(error) => {
                // Best effort: the runtime sends DEL after a failed ADD, which does the same again.
                let _ = nested_link::remove(machine, |found| *found == owner);
                return Err(error);
            }
        }
    }
    let made: Vec<Made<'_>> = done
        .iter()
        .map(|(one, mtu)| Made {
            port: &one.port,
            host_mac: parent.mac.clone(),
            mtu: *mtu,
            gateways: gateways(config, one),
        })
        .collect();
    Ok(reply::add(config, &made, path))
}

fn gateways(config: &NetworkConfig, one: &PodPort) -> Vec<std::net::IpAddr> {
    if one.default_route { reply::default_routes(config, &one.port) } else { Vec::new() }
}

#[allow(clippy::too_many_arguments)] // one place, one call
fn connect(
    config: &NetworkConfig,
    inside: &NestedConfig,
    (parent, several): (&link::Found, bool),
    owner: &Owner<'_>,
    one: &mut PodPort,
    namespace: &ContainerNamespace,
    machine: &mut Netlink,
    container: &mut Option<Netlink>,
) -> Result<u32, Error> {
    let refused = |message: String, hint: &str| Error::new(Code::Refused, message, hint);
    let Some(place) = one.nested.clone() else {
        let message = format!("the node says nothing of a VLAN for {}", one.port.key.interface);
        return Err(refused(message, "are plugin and agent of the same release?"));
    };
    if !place.parent_mac.eq_ignore_ascii_case(&parent.mac) {
        let message = format!(
            "the pod's port is on the interface with MAC {}, and {} has {}",
            place.parent_mac, inside.parent, parent.mac
        );
        return Err(refused(message, "correct `parentInterface` in /etc/cni/net.d"));
    }
    let mac = link::parse_mac(&one.port.mac)
        .ok_or_else(|| refused(format!("`{}` is no MAC address", one.port.mac), "report this"))?;
    let key = &one.port.key;
    let device = host_interface_name(&key.container, &key.interface);
    let gateways = gateways(config, one);
    let mtu = config.mtu.unwrap_or(one.port.mtu).min(one.port.mtu).min(parent.mtu);
    let wanted = Wanted {
        host_name: &device,
        name: &key.interface,
        mac,
        mtu,
        super_packet: 0,
        addresses: one.port.addresses.iter().map(|a| (a.prefix, a.gateway)).collect(),
        gateways,
        several,
    };
    let mut here = match container.take() {
        Some(socket) => socket,
        None => namespace.enter()?,
    };
    let known = link::find(&mut here, wanted.name)?;
    // A repeated ADD finds what an earlier one made.
    let fresh = known.is_none_or(|found| found.mac != one.port.mac);
    if fresh {
        nested_link::make(
            machine,
            namespace,
            &nested_link::Plan {
                parent: parent.index,
                vlan: place.vlan,
                macvlan: inside.macvlan,
                owner,
                wanted: &wanted,
            },
        )?;
    }
    let found = link::find(&mut here, wanted.name)?.ok_or_else(|| {
        let message = format!("the interface {} vanished while it was being set up", wanted.name);
        Error::new(
            Code::TryAgain,
            message,
            "the container is probably ending; else repeat the call",
        )
    })?;
    nested_link::mark(&mut here, found.index, owner)?;
    link::configure(&mut here, found.index, &wanted)?;
    *container = Some(here);
    one.port.host_interface = if inside.macvlan { device } else { inside.parent.clone() };
    Ok(mtu)
}

/// Removes what ADD made for this container. The node keeps the ports: they go with their configuration.
pub(crate) fn del(
    config: &NetworkConfig,
    attachment: &Attachment,
    namespace: Option<&ContainerNamespace>,
) -> Result<(), Error> {
    let mut machine = link::open_netlink()?;
    let owner = owner(config, attachment);
    let outcome = nested_link::remove(&mut machine, |found| *found == owner);
    let Some(namespace) = namespace else { return outcome };
    let mut container = namespace.enter()?;
    outcome.and(nested_link::remove(&mut container, |found| *found == owner))
}

/// Removes what is left of containers that are gone.
pub(crate) fn gc(config: &NetworkConfig, keep: &[&str]) -> Result<(), Error> {
    let stale = |found: &Owner<'_>| found.config == config.name && !keep.contains(&found.container);
    nested_link::remove(&mut link::open_netlink()?, stale)
}

/// The pod's ports, all in force.
pub(crate) fn ports(
    config: &NetworkConfig,
    inside: &NestedConfig,
    attachment: &Attachment,
) -> Result<Vec<PodPort>, Error> {
    let agent = AgentClient::behind(inside.vrouter);
    let pod: Pod = agent.post("/v1/pods/check", &pod::asked(config, attachment))?;
    Ok(pod.ports)
}
