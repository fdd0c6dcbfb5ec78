//! Ports of a node that lead to a pod (`hostPort`): load-balancer objects on the pod's own port, docs/adr/0016.

use super::Context;
use crate::desired::Derived;
use crate::key::Key;
use crate::objects::{HostPort, Pod};
use serde_json::json;
use skein_model::{FqName, Kind};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use uuid::Uuid;

/// The pod's first port and where it is.
pub(super) struct Target<'a> {
    /// Its name.
    pub(super) port: FqName,
    /// Its uuid.
    pub(super) uuid: Uuid,
    /// What the fabric calls its node.
    pub(super) host: &'a str,
    /// Its addresses, as far as they are known.
    pub(super) addresses: &'a [IpAddr],
}

/// One balancer for each address of the node that is asked for, and one for all of them.
pub(super) fn derive(
    cx: &Context<'_>,
    key: &Key,
    pod: &Pod,
    target: &Target<'_>,
    out: &mut Derived,
) {
    let mut wanted: BTreeMap<Option<IpAddr>, Vec<&HostPort>> = BTreeMap::new();
    for port in &pod.host_ports {
        wanted.entry(port.address).or_default().push(port);
    }
    for (address, ports) in wanted {
        let fits = |own: &&IpAddr| address.is_none_or(|a| a.is_ipv4() == own.is_ipv4());
        let members: Vec<IpAddr> = target.addresses.iter().filter(fits).copied().collect();
        // Its addresses are on their way.
        if members.is_empty() {
            continue;
        }
        balancer(cx, key, pod, target, address, &ports, &members, out);
    }
}

#[allow(clippy::too_many_arguments)] // one place, one call
fn balancer(
    cx: &Context<'_>,
    key: &Key,
    pod: &Pod,
    target: &Target<'_>,
    address: Option<IpAddr>,
    ports: &[&HostPort],
    members: &[IpAddr],
    out: &mut Derived,
) {
    let all = |member: &IpAddr| match member {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let places: BTreeSet<IpAddr> = match address {
        Some(address) => BTreeSet::from([address]),
        None => members.iter().map(all).collect(),
    };
    let places: Vec<String> = places.iter().map(IpAddr::to_string).collect();
    let part = address.map_or_else(|| "all".to_owned(), |a| a.to_string().replace(':', "-"));
    let base = format!("{}__host-ports__{}__{part}", key.name, pod.meta.uid);
    let project = cx.names.project(&key.namespace);
    let name = project.child(&base);
    let uuid = Uuid::new_v5(&target.uuid, format!("host-ports/{part}").as_bytes());
    out.objects.push(
        cx.owned(key, Kind::LOADBALANCER, Some(Kind::PROJECT), name.clone(), &[])
            .uuid(uuid)
            .set("display_name", key.name.to_string())
            .set("loadbalancer_provider", "native")
            .set(
                "loadbalancer_properties",
                json!({"vip_address": members.first().map(IpAddr::to_string), "admin_state": true}),
            )
            .set("loadbalancer_service", json!({"addresses": places, "host_node": target.host}))
            .refer(Kind::VIRTUAL_MACHINE_INTERFACE, [target.port.clone()]),
    );
    let mut seen = BTreeSet::new();
    for port in ports {
        // Two containers cannot have it; the first one does.
        if !seen.insert((&port.protocol, port.port)) {
            continue;
        }
        let listener = format!("{base}-{}-{}", port.protocol, port.port);
        let listener_uuid =
            Uuid::new_v5(&uuid, format!("{}/{}", port.protocol, port.port).as_bytes());
        let full = project.child(&listener);
        out.objects.push(
            cx.owned(
                key,
                Kind::LOADBALANCER_LISTENER,
                Some(Kind::PROJECT),
                full.clone(),
                &[("portName", "hostPort")],
            )
            .uuid(listener_uuid)
            .set(
                "loadbalancer_listener_properties",
                json!({"protocol": port.protocol, "protocol_port": port.port, "admin_state": true}),
            )
            .refer(Kind::LOADBALANCER, [name.clone()]),
        );
        let pool = Uuid::new_v5(&listener_uuid, b"pool");
        out.objects.push(
            cx.owned(key, Kind::LOADBALANCER_POOL, Some(Kind::PROJECT), full.clone(), &[])
                .uuid(pool)
                .set(
                    "loadbalancer_pool_properties",
                    json!({"protocol": port.protocol, "admin_state": true,
                           "loadbalancer_method": "ROUND_ROBIN"}),
                )
                .refer(Kind::LOADBALANCER_LISTENER, [full.clone()]),
        );
        for member in members {
            let id = Uuid::new_v5(&pool, member.to_string().as_bytes());
            out.objects.push(
                cx.owned(
                    key,
                    Kind::LOADBALANCER_MEMBER,
                    Some(Kind::LOADBALANCER_POOL),
                    full.child(&id.to_string()),
                    &[],
                )
                .uuid(id)
                .set(
                    "loadbalancer_member_properties",
                    json!({
                        "address": member.to_string(), "protocol_port": port.target,
                        "admin_state": true, "weight": 1, "interface": target.uuid.to_string(),
                        "node": target.host,
                    }),
                ),
            );
        }
    }
}
