//! Virtual networks, and the routing instances and route targets that come with them.
//!
//! The default routing instance and its automatic route target are stored in the transaction that creates the
//! network, with uuids made from their names (docs/adr: derived objects). They are the server's: users read them, and cannot
//! delete them or change their default flag.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use skein_model::{FqName, Kind, Object, Reference};
use uuid::Uuid;

use super::{address, integer, subnets};
use crate::{
    error::{ApiError, ApiResult},
    plan::{Draft, draft::plain_reference, perms},
};

const IDS: &str = "virtual-network";

/// Namespace of the uuids of derived objects, itself derived from a name nobody else uses.
fn derived_uuid(parent: Option<Uuid>, name: &str) -> Uuid {
    let root = Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"derived.skein-net");
    Uuid::new_v5(&parent.unwrap_or(root), name.as_bytes())
}

fn vxlan_id(network: &Object) -> Option<u64> {
    let id =
        network.properties.get("virtual_network_properties")?.get("vxlan_network_identifier")?;
    id.as_u64().filter(|id| *id != 0)
}

/// Checks a new network, gives it its id and its subnets.
pub(super) fn on_create(draft: &mut Draft<'_>, network: &mut Object) -> ApiResult<()> {
    if integer(network, "virtual_network_network_id").is_some_and(|id| id != 0) {
        return Err(ApiError::forbidden("virtual_network_network_id: is allocated by the server"));
    }
    let id = draft.allocate_number(IDS, network.uuid, "virtual_network_network_id")?;
    network.properties.insert("virtual_network_network_id".into(), json!(id));
    claim_vxlan_id(draft, None, network)?;
    check_route_targets(draft, network)?;
    check_provider(draft, network)?;
    let access = global_access(network);
    let shared = flag(network, "is_shared");
    match (access, shared) {
        (7, Some(false)) => {
            return Err(ApiError::bad("is_shared: is false while perms2.global_access is 7"));
        }
        (_, Some(true)) => set_global_access(network, 7),
        (7, None) => {
            network.properties.insert("is_shared".into(), json!(true));
        }
        (0, None) if flag(network, "router_external") == Some(true) => {
            set_global_access(network, 5);
        }
        _ => {}
    }
    subnets::fill_links(draft, network, None)?;
    subnets::replace_space(draft, network)
}

/// Checks a changed network.
pub(super) fn on_update(
    draft: &mut Draft<'_>,
    old: &Object,
    network: &mut Object,
) -> ApiResult<()> {
    let id = |o: &Object| integer(o, "virtual_network_network_id");
    match (id(old), id(network)) {
        (Some(before), Some(after)) if before != after => {
            return Err(ApiError::forbidden(format!(
                "virtual_network_network_id: is allocated by the server and stays {before}"
            )));
        }
        (Some(before), None) => {
            network.properties.insert("virtual_network_network_id".into(), json!(before));
        }
        _ => {}
    }
    if vxlan_id(old) != vxlan_id(network) {
        claim_vxlan_id(draft, Some(old), network)?;
    }
    check_route_targets(draft, network)?;
    if flag(old, "is_provider_network") == Some(true)
        && flag(network, "is_provider_network") != Some(true)
    {
        return Err(ApiError::bad("is_provider_network: cannot be cleared"));
    }
    check_provider(draft, network)?;
    share_in_step(old, network)?;
    let links = |o: &Object| o.references_to(Kind::NETWORK_IPAM).cloned().collect::<Vec<_>>();
    let mode = |o: &Object| o.properties.get("virtual_network_properties").cloned();
    if links(old) != links(network) || mode(old) != mode(network) {
        subnets::fill_links(draft, network, Some(old))?;
        if links(old) != links(network) {
            keep_used_flat(draft, old, network)?;
            subnets::replace_space(draft, network)?;
        }
    }
    Ok(())
}

/// A flat IPAM stays linked while the network has addresses from it: their way back is the link.
fn keep_used_flat(draft: &Draft<'_>, old: &Object, network: &Object) -> ApiResult<()> {
    for link in old.references_to(Kind::NETWORK_IPAM) {
        if network.references_to(Kind::NETWORK_IPAM).any(|kept| kept.uuid == link.uuid) {
            continue;
        }
        if let Some(user) = address::user_of_flat(draft, old.uuid, link.uuid) {
            return Err(ApiError::conflict(format!(
                "network_ipam_refs: the flat IPAM {} is in use by {} {}",
                link.uuid, user.kind, user.fq_name
            )));
        }
    }
    Ok(())
}

fn flag(object: &Object, name: &str) -> Option<bool> {
    object.properties.get(name).and_then(Value::as_bool)
}

fn global_access(object: &Object) -> u64 {
    let access = object.properties.get("perms2").and_then(|p| p.get("global_access"));
    access.and_then(Value::as_u64).unwrap_or(0)
}

fn set_global_access(object: &mut Object, access: u64) {
    if let Some(Value::Object(perms)) = object.properties.get_mut("perms2") {
        perms.insert("global_access".into(), json!(access));
    }
}

/// Keeps `is_shared`, `router_external` and `perms2.global_access` in step: spec section 8.
fn share_in_step(old: &Object, network: &mut Object) -> ApiResult<()> {
    let changed =
        |name: &str| flag(old, name).unwrap_or(false) != flag(network, name).unwrap_or(false);
    let (shared, external) = (changed("is_shared"), changed("router_external"));
    let access = global_access(network);
    if access == global_access(old) {
        if shared {
            set_global_access(
                network,
                if flag(network, "is_shared") == Some(true) { 7 } else { 0 },
            );
        } else if external {
            set_global_access(
                network,
                if flag(network, "router_external") == Some(true) { 5 } else { 0 },
            );
        }
    } else if shared && (access == 7) != (flag(network, "is_shared") == Some(true)) {
        return Err(ApiError::bad("is_shared: contradicts perms2.global_access"));
    } else {
        network.properties.insert("is_shared".into(), json!(access == 7));
    }
    Ok(())
}

/// A VXLAN id chosen by the user is taken from the space of the network ids.
fn claim_vxlan_id(draft: &mut Draft<'_>, old: Option<&Object>, network: &Object) -> ApiResult<()> {
    let own = integer(network, "virtual_network_network_id");
    let wanted = vxlan_id(network);
    if let Some(before) = old.and_then(vxlan_id).filter(|b| Some(*b) != wanted && Some(*b) != own) {
        draft.release_number(IDS, before, network.uuid);
    }
    let Some(wanted) = wanted else { return Ok(()) };
    draft.take_number(IDS, wanted, network.uuid).map_err(|holder| {
        let holder =
            draft.get(holder).map_or_else(|| holder.to_string(), |o| o.fq_name.to_string());
        ApiError::bad(format!(
            "virtual_network_properties.vxlan_network_identifier: {wanted} is in use by {holder}"
        ))
    })
}

/// Provider networks are linked to by others, one each, and not among themselves.
fn check_provider(draft: &Draft<'_>, network: &Object) -> ApiResult<()> {
    let is_provider = flag(network, "is_provider_network") == Some(true);
    if network
        .properties
        .get("provider_properties")
        .is_some_and(|p| p.as_object().is_some_and(|p| !p.is_empty()))
    {
        let given = |name: &str| {
            network.properties["provider_properties"].get(name).is_some_and(|v| !v.is_null())
        };
        if !(given("segmentation_id") && given("physical_network")) {
            return Err(ApiError::bad(
                "provider_properties: needs segmentation_id and physical_network",
            ));
        }
    }
    let mut providers = 0;
    for link in network.references_to(Kind::VIRTUAL_NETWORK) {
        let other = draft.need(Kind::VIRTUAL_NETWORK, link.uuid)?;
        if flag(&other, "is_provider_network") == Some(true) {
            providers += 1;
            if is_provider {
                return Err(ApiError::bad(
                    "virtual_network_refs: provider networks do not link to each other",
                ));
            }
        }
    }
    if providers > 1 {
        return Err(ApiError::bad("virtual_network_refs: a network links to one provider network"));
    }
    Ok(())
}

const LISTS: [(&str, Option<&str>); 3] = [
    ("route_target_list", None),
    ("import_route_target_list", Some("import")),
    ("export_route_target_list", Some("export")),
];

fn targets_in<'a>(network: &'a Object, list: &str) -> impl Iterator<Item = &'a str> {
    let found =
        network.properties.get(list).and_then(|l| l.get("route_target")).and_then(Value::as_array);
    found.into_iter().flatten().filter_map(Value::as_str)
}

/// Checks the form of the user's route targets, and that they stay out of the automatic range.
fn check_route_targets(draft: &Draft<'_>, network: &Object) -> ApiResult<()> {
    let own_asn = draft.head.autonomous_system();
    for (list, _) in LISTS {
        for target in targets_in(network, list) {
            check_route_target(list, target, own_asn)?;
        }
    }
    Ok(())
}

/// `target:<asn or IPv4>:<number>`; a trailing `L` on the ASN asks for its 4-byte form.
pub(super) fn check_route_target(field: &str, text: &str, own_asn: u64) -> ApiResult<()> {
    let wrong = |why: &str| ApiError::bad(format!("{field}.route_target: {text:?} {why}"));
    let form = || wrong("is not of the form target:<asn or address>:<number>");
    let mut parts = text.strip_prefix("target:").ok_or_else(form)?.splitn(2, ':');
    let (administrator, number) = parts.next().zip(parts.next()).ok_or_else(form)?;
    let number: u64 = number.parse().map_err(|_| form())?;
    if administrator.parse::<std::net::Ipv4Addr>().is_ok() {
        return if number <= 0xffff { Ok(()) } else { Err(wrong("has a number above 65535")) };
    }
    let four_byte = administrator.ends_with('L');
    let asn: u64 = administrator.trim_end_matches('L').parse().map_err(|_| form())?;
    let wide = four_byte || asn > 0xffff;
    if asn == 0 || asn > u64::from(u32::MAX) {
        return Err(wrong("has an ASN outside 1 to 4294967295"));
    }
    let most = if wide { 0xffff } else { u64::from(u32::MAX) };
    if number > most {
        return Err(wrong(&format!("has a number above {most}")));
    }
    let automatic = if asn > 0xffff { 8_000..=32_768 } else { 8_000_000..=16_777_216 };
    if asn == own_asn && automatic.contains(&number) {
        return Err(wrong("is in the range of automatic route targets of this system"));
    }
    Ok(())
}

/// Makes the default routing instance with its route target.
pub(super) fn after_create(draft: &mut Draft<'_>, network: &Arc<Object>) -> ApiResult<()> {
    make_instance(draft, network, network.name(), true)?;
    sync_route_targets(draft, network)
}

/// Makes a routing instance of the server's under a network.
pub(super) fn make_instance(
    draft: &mut Draft<'_>,
    network: &Arc<Object>,
    name: &str,
    is_default: bool,
) -> ApiResult<Arc<Object>> {
    let mut instance = derived(Kind::ROUTING_INSTANCE, network.fq_name.child(name), Some(network));
    instance.properties.insert("routing_instance_is_default".into(), json!(is_default));
    if !is_fabric(network) {
        give_route_target(draft, &mut instance)?;
    }
    perms::fill_new(draft, &mut instance)?;
    Ok(draft.put_new(instance))
}

/// The fabric's own networks and the link-local one exchange no VPN routes.
pub(super) fn is_fabric(network: &Object) -> bool {
    matches!(network.name(), "ip-fabric" | "__link_local__")
        && network.fq_name.parts().len() == 3
        && &*network.fq_name.parts()[1] == "default-project"
}

fn derived(kind: Kind, fq_name: FqName, parent: Option<&Object>) -> Object {
    let mut properties = Map::new();
    properties.insert("display_name".into(), json!(fq_name.name()));
    properties.insert("id_perms".into(), json!({"creator": "system"}));
    Object {
        uuid: derived_uuid(parent.map(|p| p.uuid), &format!("{kind}/{fq_name}")),
        kind,
        parent: parent.map(|p| (p.kind, p.uuid)),
        fq_name,
        properties,
        references: Vec::new(),
        created_revision: 0,
        revision: 0,
    }
}

fn target_space(asn: u64) -> &'static str {
    if asn > 0xffff { "route-target-4byte" } else { "route-target" }
}

/// Allocates a route target number for an instance and refers to it.
fn give_route_target(draft: &mut Draft<'_>, instance: &mut Object) -> ApiResult<()> {
    let asn = draft.head.autonomous_system();
    let number = draft.allocate_number(target_space(asn), instance.uuid, "route target")?;
    let target = route_target(draft, &format!("target:{asn}:{number}"))?;
    instance.references.push(plain_reference(&target));
    Ok(())
}

/// Finds or makes the object of a route target.
fn route_target(draft: &mut Draft<'_>, name: &str) -> ApiResult<Arc<Object>> {
    let fq_name = FqName::single(name);
    if let Some(existing) = draft.by_name(Kind::ROUTE_TARGET, &fq_name) {
        return Ok(existing);
    }
    let mut target = derived(Kind::ROUTE_TARGET, fq_name, None);
    perms::fill_new(draft, &mut target)?;
    Ok(draft.put_new(target))
}

/// The number of the automatic route target that this instance holds, with its space.
fn held_numbers(draft: &Draft<'_>, instance: &Object) -> Vec<(&'static str, u64)> {
    let mut held = Vec::new();
    for reference in instance.references_to(Kind::ROUTE_TARGET) {
        let Some(target) = draft.get(reference.uuid) else { continue };
        let Some(number) = target.name().rsplit(':').next().and_then(|n| n.parse().ok()) else {
            continue;
        };
        for space in ["route-target", "route-target-4byte"] {
            if draft.head.numbers.get(space).and_then(|pool| pool.owner(number))
                == Some(instance.uuid)
            {
                held.push((space, number));
            }
        }
    }
    held
}

/// The default routing instance of a network.
pub(super) fn default_instance(draft: &Draft<'_>, network: &Object) -> Option<Arc<Object>> {
    draft.by_name(Kind::ROUTING_INSTANCE, &network.fq_name.child(network.name()))
}

/// Brings the default routing instance's references in step with the network's route target lists.
pub(super) fn sync_route_targets(draft: &mut Draft<'_>, network: &Arc<Object>) -> ApiResult<()> {
    let Some(instance) = default_instance(draft, network) else { return Ok(()) };
    let held = held_numbers(draft, &instance);
    let mut wanted: Vec<Reference> = Vec::new();
    for reference in instance.references_to(Kind::ROUTE_TARGET) {
        let own = draft.get(reference.uuid).is_some_and(|target| {
            let number = target.name().rsplit(':').next().and_then(|n| n.parse::<u64>().ok());
            reference.attr.is_null() && held.iter().any(|(_, n)| Some(*n) == number)
        });
        if own {
            wanted.push(reference.clone());
        }
    }
    for (list, direction) in LISTS {
        let names: Vec<String> = targets_in(network, list).map(str::to_owned).collect();
        for name in names {
            let target = route_target(draft, &name)?;
            let attr = direction.map_or(Value::Null, |d| json!({"import_export": d}));
            match wanted.iter_mut().find(|r| r.uuid == target.uuid) {
                // Named for both directions, by one list or by two.
                Some(same) if same.attr != attr => same.attr = Value::Null,
                Some(_) => {}
                None => wanted.push(Reference { attr, ..plain_reference(&target) }),
            }
        }
    }
    let before: Vec<Reference> = instance.references_to(Kind::ROUTE_TARGET).cloned().collect();
    if before == wanted {
        return Ok(());
    }
    let mut new = Object::clone(&instance);
    new.references.retain(|r| r.kind != Kind::ROUTE_TARGET);
    new.references.append(&mut wanted);
    let new = draft.put_changed(new);
    drop_targets(draft, before.iter().filter(|b| !new.references.iter().any(|r| r.uuid == b.uuid)));
    Ok(())
}

/// Drops route targets of the server's that nobody refers to any more.
fn drop_targets<'r>(draft: &mut Draft<'_>, references: impl Iterator<Item = &'r Reference>) {
    for reference in references {
        let Some(target) = draft.get(reference.uuid) else { continue };
        let creator = target.properties.get("id_perms").and_then(|p| p.get("creator"));
        if creator.and_then(Value::as_str) == Some("system")
            && draft.back_references(target.uuid).is_empty()
        {
            draft.delete(&target);
        }
    }
}

/// After an instance is gone: its route targets, if nobody else has them.
pub(super) fn drop_orphan_targets(draft: &mut Draft<'_>, instance: &Object) -> ApiResult<()> {
    drop_targets(draft, instance.references.iter().filter(|r| r.kind == Kind::ROUTE_TARGET));
    Ok(())
}

/// The networks that the system stands on stay.
pub(super) fn before_delete(draft: &Draft<'_>, network: &Object) -> ApiResult<()> {
    if is_fabric(network) && !draft.caller.system {
        return Err(ApiError::conflict(format!(
            "{} is a network of the system and stays",
            network.fq_name
        )));
    }
    Ok(())
}

/// Gives back ids and addresses.
pub(super) fn on_delete(draft: &mut Draft<'_>, network: &Object) {
    if let Some(id) = integer(network, "virtual_network_network_id") {
        draft.release_number(IDS, id, network.uuid);
    }
    if let Some(id) = vxlan_id(network) {
        draft.release_number(IDS, id, network.uuid);
    }
    subnets::drop_space(draft, network.uuid);
}

/// A routing instance made by a user (a service's, say) has a route target of its own.
pub(super) fn routing_instance_on_create(
    draft: &mut Draft<'_>,
    instance: &mut Object,
) -> ApiResult<()> {
    if flag(instance, "routing_instance_is_default") == Some(true) && !draft.caller.system {
        return Err(ApiError::conflict(
            "routing_instance_is_default: the default instance is the server's",
        ));
    }
    give_route_target(draft, instance)
}

/// The default flag stays, and so does an automatic route target.
pub(super) fn routing_instance_on_update(
    draft: &Draft<'_>,
    old: &Object,
    new: &mut Object,
) -> ApiResult<()> {
    let is_default = |o: &Object| flag(o, "routing_instance_is_default").unwrap_or(false);
    if is_default(old) != is_default(new) {
        return Err(ApiError::conflict("routing_instance_is_default: cannot change"));
    }
    for reference in old.references_to(Kind::ROUTE_TARGET) {
        let number = draft.get(reference.uuid).and_then(|target| {
            target.name().rsplit(':').next().and_then(|n| n.parse::<u64>().ok())
        });
        let automatic = held_numbers(draft, old).iter().any(|(_, n)| Some(*n) == number);
        if automatic && !new.references.iter().any(|r| r.uuid == reference.uuid) {
            new.references.push(reference.clone());
        }
    }
    Ok(())
}

/// The default instance goes with its network only.
pub(super) fn routing_instance_before_delete(
    draft: &Draft<'_>,
    instance: &Object,
) -> ApiResult<()> {
    if flag(instance, "routing_instance_is_default") == Some(true) && !draft.caller.system {
        return Err(ApiError::conflict(format!(
            "{} is the default routing instance of its network and goes with it",
            instance.fq_name
        )));
    }
    Ok(())
}

/// Gives the automatic number back.
pub(super) fn routing_instance_on_delete(draft: &mut Draft<'_>, instance: &Object) {
    for (space, number) in held_numbers(draft, instance) {
        draft.release_number(space, number, instance.uuid);
    }
}
