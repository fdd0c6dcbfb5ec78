//! ADD, DEL and CHECK of a pod whose interfaces Kubernetes' manager has announced: all of them in one call.

use crate::commands::connect;
use crate::link::{self, ContainerNamespace};
use crate::netlink::Netlink;
use crate::pod_api::{Pod, PodKey, PreparePod};
use crate::port_api::{Port, PortKey, Released};
use crate::reply::{self, Made};
use crate::{AgentClient, Attachment, Code, Error, NetworkConfig, Tombstone, host_interface_name};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;

fn key(attachment: &Attachment) -> PodKey {
    PodKey { container: attachment.container.clone() }
}

/// The pod as the runtime names it.
pub(crate) fn asked(config: &NetworkConfig, attachment: &Attachment) -> PreparePod {
    let arguments = &attachment.arguments;
    let text = |part: &Option<String>| part.clone().unwrap_or_default();
    PreparePod {
        container: attachment.container.clone(),
        interface: attachment.interface.clone(),
        config: config.name.clone(),
        machine: arguments.pod_uid.clone(),
        machine_name: format!(
            "{}__{}__{}",
            config.cluster_name,
            text(&arguments.pod_namespace),
            text(&arguments.pod_name)
        ),
        workload: arguments.workload(),
    }
}

pub(crate) fn add(
    config: &NetworkConfig,
    attachment: &Attachment,
    namespace: &ContainerNamespace,
    path: &Path,
    host: &mut Netlink,
    agent: &AgentClient,
) -> Result<Value, Error> {
    let prepare = asked(config, attachment);
    let pod: Pod = agent.post("/v1/pods/prepare", &prepare)?;
    let mut done = Vec::new();
    let mut failure = None;
    for one in &pod.ports {
        let gateways =
            if one.default_route { reply::default_routes(config, &one.port) } else { Vec::new() };
        let routes = (gateways.clone(), pod.ports.len() > 1);
        match connect(config, &one.port, routes, namespace, host, agent) {
            Ok((port, host_mac, mtu)) => done.push((port, host_mac, mtu, gateways)),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    if let Some(error) = failure {
        if !pod.ports.iter().all(|one| one.port.active) {
            // Best effort: the runtime sends DEL after a failed ADD, which does the same again.
            let _ = agent.post::<Released>("/v1/pods/release", &key(attachment));
            for one in &pod.ports {
                let _ = link::delete(host, &one.port.host_interface);
            }
        }
        return Err(error);
    }
    let made: Vec<Made<'_>> = done
        .iter()
        .map(|(port, host_mac, mtu, gateways)| Made {
            port,
            host_mac: host_mac.clone(),
            mtu: *mtu,
            gateways: gateways.clone(),
        })
        .collect();
    Ok(reply::add(config, &made, path))
}

/// Removes every interface of this container; the ports of a newer sandbox of the same pod stay.
pub(crate) fn del(config: &NetworkConfig, attachment: &Attachment) -> Result<(), Error> {
    let told =
        AgentClient::new(&config.agent).post::<Released>("/v1/pods/release", &key(attachment));
    // Without the agent's list: what ADD reported, and the first interface's name.
    let mut names: BTreeSet<String> = reported(config);
    names.insert(host_interface_name(&attachment.container, &attachment.interface));
    let released = told.as_ref().map(|released| released.ports.as_slice()).unwrap_or_default();
    names.extend(released.iter().map(|port| port.host_interface.clone()));
    let mut host = link::open_netlink()?;
    let mut outcome = Ok(());
    for name in &names {
        // Teardown goes on after an error and reports the first.
        outcome = outcome.and(link::delete(&mut host, name));
    }
    match told {
        Ok(_) => outcome,
        Err(error) if error.code == Code::TryAgain => {
            let key = PortKey {
                container: attachment.container.clone(),
                interface: attachment.interface.clone(),
            };
            outcome.and(Tombstone::leave(&config.agent, &key))
        }
        Err(error) => Err(error),
    }
}

/// Host ends in the result of ADD, where the runtime passes it. Only names of ours: the result comes from outside.
fn reported(config: &NetworkConfig) -> BTreeSet<String> {
    let interfaces = config.prev_result.as_ref().map(|result| &result["interfaces"]);
    let interfaces = interfaces.and_then(Value::as_array).into_iter().flatten();
    interfaces
        .filter(|interface| interface["sandbox"].as_str().is_none_or(str::is_empty))
        .filter_map(|interface| interface["name"].as_str())
        .filter(|name| is_ours(name))
        .map(str::to_owned)
        .collect()
}

/// The form of [`host_interface_name`].
fn is_ours(name: &str) -> bool {
    name.strip_prefix("sk").is_some_and(|hash| {
        hash.len() == 12 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// The pod's ports, all in force, and whether each has the default route.
pub(crate) fn ports(
    attachment: &Attachment,
    agent: &AgentClient,
) -> Result<Vec<(Port, bool)>, Error> {
    let pod: Pod = agent.post("/v1/pods/check", &key(attachment))?;
    Ok(pod.ports.into_iter().map(|one| (one.port, one.default_route)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_names_are_removed() {
        assert!(is_ours(&host_interface_name("c1", "eth0")));
        for other in ["eth0", "skein0", "sk0123456789ag", "sk0123456789a", ""] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
