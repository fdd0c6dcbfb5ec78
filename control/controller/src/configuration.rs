//! Follows the configuration: the watch feeds the core.

use crate::service::Shared;
use skein_client::{Client, Event};
use skein_model::{Change, FqName, Kind};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tracing::{debug, info, warn};
use uuid::Uuid;

/// Types that say anything about forwarding; the others are not followed.
pub(crate) const FOLLOWED: &[Kind] = &[
    Kind::GLOBAL_SYSTEM_CONFIG,
    Kind::GLOBAL_VROUTER_CONFIG,
    Kind::PROJECT,
    Kind::NETWORK_IPAM,
    Kind::VIRTUAL_NETWORK,
    Kind::ROUTING_INSTANCE,
    Kind::ROUTE_TARGET,
    Kind::NETWORK_POLICY,
    Kind::SECURITY_GROUP,
    Kind::VIRTUAL_MACHINE,
    Kind::VIRTUAL_MACHINE_INTERFACE,
    Kind::INSTANCE_IP,
    Kind::FLOATING_IP_POOL,
    Kind::FLOATING_IP,
    Kind::LOADBALANCER,
    Kind::LOADBALANCER_LISTENER,
    Kind::LOADBALANCER_POOL,
    Kind::LOADBALANCER_MEMBER,
    Kind::TAG,
    Kind::APPLICATION_POLICY_SET,
    Kind::FIREWALL_POLICY,
    Kind::FIREWALL_RULE,
    Kind::SERVICE_GROUP,
    Kind::ADDRESS_GROUP,
    Kind::VIRTUAL_ROUTER,
    Kind::VIRTUAL_DNS,
    Kind::VIRTUAL_DNS_RECORD,
];

/// Feeds the core until the task is dropped.
pub(crate) async fn follow(client: Client, shared: Arc<Shared>) {
    let mut watcher = client.watch(FOLLOWED);
    let mut known: HashSet<Uuid> = HashSet::new();
    loop {
        match watcher.next().await {
            Event::Snapshot(objects, revision) => {
                let now: HashSet<Uuid> = objects.iter().map(|object| object.uuid).collect();
                let gone = known.difference(&now).map(|uuid| Change::Delete(*uuid));
                let changes: Vec<Change> = gone
                    .chain(objects.into_iter().map(|object| Change::Put(Arc::new(object))))
                    .collect();
                info!(revision, objects = now.len(), "configuration read");
                known = now;
                shared.change(|core| core.configure(&changes, revision, true));
            }
            Event::Put(object, revision) => {
                debug!(revision, kind = %object.kind, name = %object.fq_name, "changed");
                known.insert(object.uuid);
                let change = [Change::Put(Arc::new(object))];
                shared.change(|core| core.configure(&change, revision, false));
            }
            Event::Delete { kind, uuid, revision } => {
                debug!(revision, %kind, %uuid, "deleted");
                known.remove(&uuid);
                shared.change(|core| core.configure(&[Change::Delete(uuid)], revision, false));
            }
        }
    }
}

/// Keeps a virtual-router object for every node that joins, with its tunnel address and the port of its own stack.
pub(crate) async fn register_nodes(client: Client, shared: Arc<Shared>) {
    let mut written: std::collections::HashMap<String, std::net::IpAddr> =
        std::collections::HashMap::new();
    loop {
        let nodes: Vec<_> = shared.read(|core| {
            core.nodes()
                .filter(|(_, node)| node.connected())
                .map(|(name, node)| (name.clone(), node.tunnel_address))
                .collect()
        });
        let mut failed = false;
        for (name, address) in nodes {
            if written.get(&name) == Some(&address) {
                continue;
            }
            match register(&client, &name, address).await {
                Ok(()) => {
                    written.insert(name, address);
                }
                Err(error) => {
                    failed = true;
                    warn!(node = name, %error, "virtual-router object not written; tried again");
                }
            }
        }
        if failed {
            tokio::time::sleep(Duration::from_secs(1)).await;
        } else {
            shared.joined.notified().await;
        }
    }
}

/// Writes a node's objects: the virtual-router with its address, and the port of its own stack.
async fn register(
    client: &Client,
    name: &str,
    address: std::net::IpAddr,
) -> Result<(), skein_client::ClientError> {
    let full = FqName::single("default-global-system-config").child(name);
    let address = address.to_string();
    match client.get_by_name(Kind::VIRTUAL_ROUTER, &full).await {
        Ok(object) => {
            let same = object.properties.get("virtual_router_ip_address").and_then(|v| v.as_str())
                == Some(address.as_str());
            if !same {
                let fields = serde_json::json!({"virtual_router_ip_address": address});
                client.update(Kind::VIRTUAL_ROUTER, object.uuid, fields).await?;
            }
        }
        Err(error) if error.is_not_found() => {
            let fields = serde_json::json!({
                "fq_name": full,
                "parent_type": "global-system-config",
                "virtual_router_ip_address": address,
            });
            create_once(client, Kind::VIRTUAL_ROUTER, fields).await?;
        }
        Err(error) => return Err(error),
    }
    let port = full.child("vhost0");
    match client.get_by_name(Kind::VIRTUAL_MACHINE_INTERFACE, &port).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => {
            let fields = serde_json::json!({
                "fq_name": port,
                "parent_type": "virtual-router",
                "virtual_network_refs": [
                    {"to": ["default-domain", "default-project", "ip-fabric"]},
                ],
                "virtual_machine_interface_bindings": {"key_value_pair": [
                    {"key": "host_id", "value": name},
                ]},
            });
            create_once(client, Kind::VIRTUAL_MACHINE_INTERFACE, fields).await
        }
        Err(error) => Err(error),
    }
}

/// Creates an object; another controller may have been faster.
async fn create_once(
    client: &Client,
    kind: Kind,
    fields: serde_json::Value,
) -> Result<(), skein_client::ClientError> {
    match client.create(kind, fields).await {
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::FOLLOWED;
    use std::collections::BTreeSet;
    use std::path::Path;

    /// Names of types in the sources below a folder: `Kind::NAME`.
    fn named(folder: &Path, found: &mut BTreeSet<String>) {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder:?}: {e}"));
        for entry in entries {
            let path = entry.unwrap_or_else(|e| panic!("{folder:?}: {e}")).path();
            if path.is_dir() {
                named(&path, found);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
            for after in text.split("Kind::").skip(1) {
                let name: String =
                    after.chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
                // What is associated with the type and no type itself has small letters.
                if after[name.len()..].starts_with(|c: char| !c.is_ascii_alphanumeric()) {
                    found.insert(name.to_lowercase().replace('_', "-"));
                }
            }
        }
    }

    #[test]
    fn every_type_that_the_compiler_asks_for_is_followed() {
        let mut asked = BTreeSet::new();
        named(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../compiler/src"), &mut asked);
        assert!(asked.len() > 15, "the compiler's sources are not read: {asked:?}");
        let followed: BTreeSet<String> =
            FOLLOWED.iter().map(|kind| kind.name().to_lowercase()).collect();
        let missing: Vec<_> = asked.difference(&followed).collect();
        assert!(missing.is_empty(), "the compiler asks for {missing:?}, which never arrive");
    }
}
