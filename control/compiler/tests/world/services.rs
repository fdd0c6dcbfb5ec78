//! Load balancers, floating IPs and nodes.

use super::{Build, port};
use serde_json::{Value, json};
use skein_model::{Change, Kind};
use std::sync::Arc;

/// A member behind a balancer's listener: address, port, the port's name and what else its properties say.
pub(crate) fn member(name: &str, of: &str, address: &str, behind: &str, more: Value) -> Change {
    let mut properties = json!({"address": address, "protocol_port": 8080});
    if !behind.is_empty() {
        let interface = super::id(Kind::VIRTUAL_MACHINE_INTERFACE, behind);
        properties["interface"] = json!(interface.to_string());
    }
    if let (Some(all), Value::Object(more)) = (properties.as_object_mut(), more) {
        all.extend(more);
    }
    Build::new(Kind::LOADBALANCER_MEMBER, name)
        .under(Kind::LOADBALANCER_POOL, of)
        .with("loadbalancer_member_properties", properties)
        .put()
}

/// A native load balancer with a virtual address in a network, one TCP listener and its pool, without members.
pub(crate) fn balancer(
    name: &str,
    network: &str,
    address: &str,
    port_number: u16,
    service: Value,
) -> Vec<Change> {
    let mut all = port(&format!("vip-{name}"), network, address, &[]);
    all.push(
        Build::new(Kind::LOADBALANCER, name)
            .refer(Kind::VIRTUAL_MACHINE_INTERFACE, &format!("vip-{name}"))
            .with("loadbalancer_provider", json!("native"))
            .with("loadbalancer_properties", json!({"vip_address": address}))
            .with("loadbalancer_service", service)
            .put(),
    );
    all.push(
        Build::new(Kind::LOADBALANCER_LISTENER, name)
            .refer(Kind::LOADBALANCER, name)
            .with(
                "loadbalancer_listener_properties",
                json!({"protocol": "TCP", "protocol_port": port_number, "node_port": 30080}),
            )
            .put(),
    );
    all.push(
        Build::new(Kind::LOADBALANCER_POOL, name).refer(Kind::LOADBALANCER_LISTENER, name).put(),
    );
    all
}

/// A floating IP of a network's pool for a port.
pub(crate) fn floating_ip(name: &str, network: &str, address: &str, of: &str) -> Vec<Change> {
    vec![
        Build::new(Kind::FLOATING_IP_POOL, network).under(Kind::VIRTUAL_NETWORK, network).put(),
        Build::new(Kind::FLOATING_IP, name)
            .under(Kind::FLOATING_IP_POOL, network)
            .refer(Kind::VIRTUAL_MACHINE_INTERFACE, of)
            .with("floating_ip_address", json!(address))
            .put(),
    ]
}

/// A node and the port of its own stack.
pub(crate) fn node(name: &str, address: &str, network: &str) -> Vec<Change> {
    let router =
        Build::new(Kind::VIRTUAL_ROUTER, name).with("virtual_router_ip_address", json!(address));
    let vhost = Build::new(Kind::VIRTUAL_MACHINE_INTERFACE, &format!("{name}:vhost0"))
        .under(Kind::VIRTUAL_ROUTER, name)
        .with(
            "virtual_machine_interface_mac_addresses",
            json!({"mac_address": ["02:00:00:00:00:09"]}),
        )
        .refer(Kind::VIRTUAL_NETWORK, network);
    vec![router.put(), vhost.put()]
}

/// The networks and virtual-routers among some changes, as those of an orchestrator's cluster.
pub(crate) fn of_cluster(cluster: &str, mut changes: Vec<Change>) -> Vec<Change> {
    for change in &mut changes {
        if let Change::Put(object) = change
            && matches!(object.kind, Kind::VIRTUAL_NETWORK | Kind::VIRTUAL_ROUTER)
        {
            let pairs = json!({"key_value_pair": [{"key": "cluster", "value": cluster}]});
            Arc::make_mut(object).properties.insert("annotations".into(), pairs);
        }
    }
    changes
}
