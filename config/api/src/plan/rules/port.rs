//! Ports: virtual-machine-interface.

use serde_json::{Value, json};
use skein_model::{Kind, Object, Reference};
use uuid::Uuid;

use super::network;
use crate::{
    error::{ApiError, ApiResult},
    plan::Draft,
};

/// Shortest prefixes of an allowed address pair in active-standby mode (`aap_prefix_len_limit`).
const SHORTEST_ACTIVE_STANDBY: [u64; 2] = [24, 120];

/// Checks a new port, gives it a MAC and its routing instance.
pub(super) fn on_create(draft: &mut Draft<'_>, port: &mut Object) -> ApiResult<()> {
    let macs = port.properties.get("virtual_machine_interface_mac_addresses");
    let macs = macs.and_then(|m| m.get("mac_address")).and_then(Value::as_array);
    if macs.is_none_or(|list| list.iter().all(|m| m.as_str().is_none_or(str::is_empty))) {
        let mac = if is_unplugged_baremetal(port) {
            "00:00:00:00:00:00".to_owned()
        } else {
            let b = port.uuid.as_bytes();
            format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4])
        };
        port.properties.insert(
            "virtual_machine_interface_mac_addresses".into(),
            json!({"mac_address": [mac]}),
        );
    }
    fill_bindings(port);
    check(draft, None, port)
}

/// Checks a changed port.
pub(super) fn on_update(draft: &mut Draft<'_>, old: &Object, port: &mut Object) -> ApiResult<()> {
    fill_bindings(port);
    check(draft, Some(old), port)
}

fn check(draft: &Draft<'_>, old: Option<&Object>, port: &mut Object) -> ApiResult<()> {
    normalise_macs(port)?;
    let networks: Vec<Uuid> = port.references_to(Kind::VIRTUAL_NETWORK).map(|r| r.uuid).collect();
    let [network] = networks.as_slice() else {
        return Err(ApiError::bad("virtual_network_refs: a port needs one virtual network"));
    };
    let before = old.and_then(|o| o.reference_to(Kind::VIRTUAL_NETWORK)).map(|r| r.uuid);
    join_routing_instance(draft, port, *network, before)?;
    check_vlan(draft, old, port)?;
    check_address_pairs(port)
}

/// A baremetal port that no switch port is known for yet.
fn is_unplugged_baremetal(port: &Object) -> bool {
    binding(port, "vnic_type") == Some("baremetal") && binding(port, "profile").is_none()
}

fn binding<'a>(port: &'a Object, key: &str) -> Option<&'a str> {
    let pairs = port.properties.get("virtual_machine_interface_bindings")?.get("key_value_pair")?;
    let pair =
        pairs.as_array()?.iter().find(|p| p.get("key").and_then(Value::as_str) == Some(key))?;
    pair.get("value").and_then(Value::as_str)
}

/// A port with bindings says what kind of NIC it is and how it is plugged.
fn fill_bindings(port: &mut Object) {
    if binding(port, "vnic_type").is_none() {
        add_binding(port, "vnic_type", "normal");
    }
    if binding(port, "vif_type").is_none() && binding(port, "host_id").is_some() {
        let vif = if binding(port, "vnic_type") == Some("direct") { "hw_veb" } else { "vrouter" };
        add_binding(port, "vif_type", vif);
    }
}

fn add_binding(port: &mut Object, key: &str, value: &str) {
    let bindings = port
        .properties
        .entry("virtual_machine_interface_bindings")
        .or_insert_with(|| json!({"key_value_pair": []}));
    if !bindings.get("key_value_pair").is_some_and(Value::is_array) {
        *bindings = json!({"key_value_pair": []});
    }
    if let Some(Value::Array(pairs)) = bindings.get_mut("key_value_pair") {
        pairs.push(json!({"key": key, "value": value}));
    }
}

/// Colons, lower case, six bytes.
fn normalise_macs(port: &mut Object) -> ApiResult<()> {
    let macs = port.properties.get_mut("virtual_machine_interface_mac_addresses");
    let Some(Value::Array(list)) = macs.and_then(|m| m.get_mut("mac_address")) else {
        return Ok(());
    };
    for (at, mac) in list.iter_mut().enumerate() {
        let text = mac.as_str().unwrap_or_default().replace('-', ":").to_ascii_lowercase();
        let six =
            text.split(':').filter(|b| b.len() == 2 && u8::from_str_radix(b, 16).is_ok()).count()
                == 6;
        if !six || text.len() != 17 {
            return Err(ApiError::bad(format!(
                "virtual_machine_interface_mac_addresses.mac_address[{at}]: {mac} is not a MAC address"
            )));
        }
        *mac = Value::String(text);
    }
    Ok(())
}

/// Every port is in the default routing instance of its network.
fn join_routing_instance(
    draft: &Draft<'_>,
    port: &mut Object,
    network: Uuid,
    before: Option<Uuid>,
) -> ApiResult<()> {
    let network = draft.need(Kind::VIRTUAL_NETWORK, network)?;
    if let Some(before) = before.filter(|b| *b != network.uuid)
        && let Some(old) = draft.get(before).and_then(|old| network::default_instance(draft, &old))
    {
        port.references.retain(|r| r.uuid != old.uuid);
    }
    if let Some(instance) = network::default_instance(draft, &network)
        && !port.references.iter().any(|r| r.uuid == instance.uuid)
    {
        port.references.push(Reference {
            kind: Kind::ROUTING_INSTANCE,
            uuid: instance.uuid,
            attr: json!({"direction": "both"}),
            relaxed: false,
        });
    }
    Ok(())
}

fn vlan(port: &Object) -> u64 {
    let tag = port.properties.get("virtual_machine_interface_properties");
    tag.and_then(|p| p.get("sub_interface_vlan_tag")).and_then(Value::as_u64).unwrap_or(0)
}

/// Sub-interfaces: a VLAN each on one primary port, no deeper.
fn check_vlan(draft: &Draft<'_>, old: Option<&Object>, port: &Object) -> ApiResult<()> {
    let field = "virtual_machine_interface_properties.sub_interface_vlan_tag";
    let tag = port.properties.get("virtual_machine_interface_properties");
    if let Some(tag) = tag.and_then(|p| p.get("sub_interface_vlan_tag")).and_then(Value::as_i64)
        && !(0..=4094).contains(&tag)
    {
        return Err(ApiError::bad(format!(
            "{field}: {tag} is out of range, allowed are 0 to 4094"
        )));
    }
    let tag = vlan(port);
    if let Some(before) = old.map(vlan).filter(|b| *b != tag)
        && before != 0
    {
        return Err(ApiError::bad(format!("{field}: cannot change from {before} to {tag}")));
    }
    if tag == 0 {
        return Ok(());
    }
    for link in port.references_to(Kind::VIRTUAL_MACHINE_INTERFACE) {
        let primary = draft.need(Kind::VIRTUAL_MACHINE_INTERFACE, link.uuid)?;
        if vlan(&primary) != 0 {
            return Err(ApiError::bad(format!(
                "virtual_machine_interface_refs: {} is a sub-interface itself",
                primary.fq_name
            )));
        }
        for sibling in primary.references_to(Kind::VIRTUAL_MACHINE_INTERFACE) {
            if sibling.uuid != port.uuid
                && draft.get(sibling.uuid).is_some_and(|sibling| vlan(&sibling) == tag)
            {
                return Err(ApiError::bad(format!(
                    "{field}: {tag} is in use on {}",
                    primary.fq_name
                )));
            }
        }
    }
    Ok(())
}

fn check_address_pairs(port: &Object) -> ApiResult<()> {
    let field = "virtual_machine_interface_allowed_address_pairs";
    let pairs = port.properties.get(field).and_then(|p| p.get("allowed_address_pair"));
    let pairs = pairs.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if !pairs.is_empty()
        && port.properties.get("port_security_enabled").and_then(Value::as_bool) == Some(false)
    {
        return Err(ApiError::bad(format!("{field}: needs port_security_enabled")));
    }
    for (at, pair) in pairs.iter().enumerate() {
        let field = format!("{field}.allowed_address_pair[{at}]");
        let ip = pair.get("ip");
        let prefix =
            ip.and_then(|i| i.get("ip_prefix")).and_then(Value::as_str).unwrap_or_default();
        if prefix.is_empty() {
            continue;
        }
        let address: std::net::IpAddr = prefix.parse().map_err(|_| {
            ApiError::bad(format!("{field}.ip.ip_prefix: {prefix:?} is not an IP address"))
        })?;
        let len = ip.and_then(|i| i.get("ip_prefix_len")).and_then(Value::as_u64).unwrap_or(0);
        let (longest, shortest) = if address.is_ipv4() {
            (32, SHORTEST_ACTIVE_STANDBY[0])
        } else {
            (128, SHORTEST_ACTIVE_STANDBY[1])
        };
        if len > longest {
            return Err(ApiError::bad(format!(
                "{field}.ip.ip_prefix_len: {len} is above {longest}"
            )));
        }
        if pair.get("address_mode").and_then(Value::as_str) == Some("active-standby")
            && len < shortest
        {
            return Err(ApiError::bad(format!(
                "{field}.ip.ip_prefix_len: active-standby needs at least /{shortest}, got /{len}"
            )));
        }
    }
    Ok(())
}

/// A primary port stays while it has sub-interfaces.
pub(super) fn before_delete(draft: &Draft<'_>, port: &Object) -> ApiResult<()> {
    if vlan(port) != 0 {
        return Ok(());
    }
    for link in port.references_to(Kind::VIRTUAL_MACHINE_INTERFACE) {
        if let Some(sub) = draft.get(link.uuid).filter(|sub| vlan(sub) != 0) {
            return Err(ApiError::conflict(format!(
                "the port has the sub-interface {}",
                sub.fq_name
            )));
        }
    }
    Ok(())
}
