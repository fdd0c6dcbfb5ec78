//! Subnets of networks and flat IPAMs: normal form, checks, and the address spaces made of them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use skein_model::{Graph, Kind, Object};
use uuid::Uuid;

use crate::{
    alloc::{PoolRange, SubnetPool, SubnetSpec, address, number},
    error::{ApiError, ApiResult},
    plan::{Draft, Space, Subnet, names::is_flat},
};

/// Whether gateway and service address stay with the subnet; a subnetted flat IPAM and a `routed` network keep neither.
fn keeps_back(owner: &Object) -> bool {
    let text = |name: &str| owner.properties.get(name).and_then(Value::as_str);
    let subnetting = owner.properties.get("ipam_subnetting").and_then(Value::as_bool);
    subnetting != Some(true) && text("virtual_network_category") != Some("routed")
}

/// The list of subnets inside a reference attribute or an IPAM's property.
fn list_in<'a>(value: Option<&'a Value>, field: &str) -> &'a [Value] {
    value.and_then(|v| v.get(field)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Builds the address space of a stored network or flat IPAM, without owners.
pub(crate) fn space_of(owner: &Object, graph: &Graph) -> ApiResult<Space> {
    let mut space = Space::default();
    let mut add = |ipam: Uuid, field: &str, list: &[Value]| -> ApiResult<()> {
        for (at, subnet) in list.iter().enumerate() {
            let Value::Object(map) = subnet else { continue };
            let spec = spec_of(&format!("{field}[{at}]"), map, keeps_back(owner))?;
            space.subnets.push(Subnet {
                uuid: map.get("subnet_uuid").and_then(Value::as_str).unwrap_or_default().to_owned(),
                ipam,
                pool: SubnetPool::new(spec),
            });
        }
        Ok(())
    };
    if owner.kind == Kind::NETWORK_IPAM {
        add(
            owner.uuid,
            "ipam_subnets.subnets",
            list_in(owner.properties.get("ipam_subnets"), "subnets"),
        )?;
    } else {
        for link in owner.references_to(Kind::NETWORK_IPAM) {
            if !graph.get(link.uuid).is_some_and(|ipam| is_flat(ipam)) {
                let field = "network_ipam_refs.attr.ipam_subnets";
                add(link.uuid, field, list_in(Some(&link.attr), "ipam_subnets"))?;
            }
        }
    }
    Ok(space)
}

/// Reads a prefix and brings it to its network address.
fn prefix_of(field: &str, subnet: &Map<String, Value>) -> ApiResult<Option<IpNet>> {
    let Some(Value::Object(prefix)) = subnet.get("subnet") else { return Ok(None) };
    let Some(ip) = prefix.get("ip_prefix").and_then(Value::as_str).filter(|ip| !ip.is_empty())
    else {
        return Ok(None);
    };
    let ip: IpAddr = ip.parse().map_err(|_| {
        ApiError::bad(format!("{field}.subnet.ip_prefix: {ip:?} is not an IP address"))
    })?;
    let len = prefix
        .get("ip_prefix_len")
        .and_then(Value::as_u64)
        .and_then(|len| u8::try_from(len).ok())
        .and_then(|len| IpNet::new(ip, len).ok())
        .ok_or_else(|| {
            ApiError::bad(format!("{field}.subnet.ip_prefix_len: must fit the address {ip}"))
        })?;
    Ok(Some(len.trunc()))
}

/// An address field; absent, empty, "None" and the zero address mean that there is none.
fn address_of(field: &str, subnet: &Map<String, Value>, name: &str) -> ApiResult<Option<IpAddr>> {
    match subnet.get(name).and_then(Value::as_str) {
        None | Some("" | "None") => Ok(None),
        Some(text) => text
            .parse::<IpAddr>()
            .map(|a| (!a.is_unspecified()).then_some(a))
            .map_err(|_| ApiError::bad(format!("{field}.{name}: {text:?} is not an IP address"))),
    }
}

fn spec_of(field: &str, subnet: &Map<String, Value>, keep_back: bool) -> ApiResult<SubnetSpec> {
    let prefix = prefix_of(field, subnet)?.ok_or_else(|| {
        ApiError::bad(format!("{field}.subnet: ip_prefix and ip_prefix_len must be given"))
    })?;
    let unit = match subnet.get("alloc_unit").and_then(Value::as_i64) {
        None | Some(0) => 1,
        Some(n) => u32::try_from(n).ok().filter(|n| n.is_power_of_two()).ok_or_else(|| {
            ApiError::bad(format!("{field}.alloc_unit: must be a power of two, got {n}"))
        })?,
    };
    let base = number(prefix.network());
    let span = number(prefix.broadcast()) - base;
    if u128::from(unit) > span.saturating_add(1) {
        return Err(ApiError::bad(format!("{field}.alloc_unit: {unit} is larger than {prefix}")));
    }
    let mut pools = Vec::new();
    for (at, pool) in pool_list(subnet).iter().enumerate() {
        let field = format!("{field}.allocation_pools[{at}]");
        let end = |name: &str| -> ApiResult<IpAddr> {
            let text = pool.get(name).and_then(Value::as_str).unwrap_or_default();
            text.parse().ok().filter(|a| prefix.contains(a)).ok_or_else(|| {
                ApiError::bad(format!("{field}.{name}: {text:?} is not an address of {prefix}"))
            })
        };
        let (first, last) = (end("start")?, end("end")?);
        if number(first) > number(last) {
            return Err(ApiError::bad(format!(
                "{field}: the start {first} is above the end {last}"
            )));
        }
        let unit = u128::from(unit);
        if unit > 1
            && !((number(first) - base).is_multiple_of(unit)
                && (number(last) + 1 - base).is_multiple_of(unit))
        {
            return Err(ApiError::bad(format!("{field}: must be aligned to alloc_unit {unit}")));
        }
        let vrouter_specific =
            pool.get("vrouter_specific_pool").and_then(Value::as_bool).unwrap_or(false);
        pools.push(PoolRange { start: first, end: last, vrouter_specific });
    }
    let mut sorted: Vec<(u128, u128)> =
        pools.iter().map(|p| (number(p.start), number(p.end))).collect();
    sorted.sort_unstable();
    if let Some(two) = sorted.windows(2).find(|two| two[1].0 <= two[0].1) {
        let like = prefix.addr();
        return Err(ApiError::bad(format!(
            "{field}.allocation_pools: two pools share the address {}",
            address(two[1].0, like)
        )));
    }
    let gateway = address_of(field, subnet, "default_gateway")?;
    if let Some(gateway) = gateway {
        let inside = prefix.contains(&gateway)
            && gateway != prefix.network()
            && gateway != prefix.broadcast();
        // A point-to-point or host prefix has nothing but its ends.
        if !inside && span > 1 {
            return Err(ApiError::bad(format!(
                "{field}.default_gateway: {gateway} is not a host address of {prefix}"
            )));
        }
    }
    let service = address_of(field, subnet, "dns_server_address")
        .map_err(|e| ApiError { status: 409, ..e })?;
    if let Some(service) = service
        && service.is_ipv4() != prefix.addr().is_ipv4()
    {
        return Err(ApiError::conflict(format!(
            "{field}.dns_server_address: {service} is not of the family of {prefix}"
        )));
    }
    Ok(SubnetSpec {
        prefix,
        gateway: gateway.filter(|_| keep_back),
        service: service.filter(|s| keep_back && prefix.contains(s)),
        from_start: subnet.get("addr_from_start").and_then(Value::as_bool).unwrap_or(false),
        unit,
        pools,
    })
}

fn pool_list(subnet: &Map<String, Value>) -> &[Value] {
    subnet.get("allocation_pools").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Fills in what the client left out. `old` is the subnet of the same prefix before the change.
fn fill(field: &str, subnet: &mut Map<String, Value>, old: Option<&Value>) -> ApiResult<()> {
    let prefix = prefix_of(field, subnet)?.ok_or_else(|| {
        ApiError::bad(format!("{field}.subnet: ip_prefix and ip_prefix_len must be given"))
    })?;
    subnet.insert(
        "subnet".into(),
        json!({"ip_prefix": prefix.network().to_string(), "ip_prefix_len": prefix.prefix_len()}),
    );
    let absent = |subnet: &Map<String, Value>, name: &str| {
        subnet.get(name).is_none_or(|v| v.is_null() || v.as_str() == Some(""))
    };
    for name in ["subnet_uuid", "default_gateway", "dns_server_address"] {
        if absent(subnet, name)
            && let Some(value) = old.and_then(|old| old.get(name))
        {
            subnet.insert(name.into(), value.clone());
        }
    }
    if let Some(old) = old {
        for name in ["addr_from_start", "alloc_unit"] {
            if absent(subnet, name)
                && let Some(value) = old.get(name)
            {
                subnet.insert(name.into(), value.clone());
            }
        }
    }
    if absent(subnet, "subnet_uuid") {
        subnet.insert("subnet_uuid".into(), json!(Uuid::new_v4().to_string()));
    }
    let from_start = subnet.get("addr_from_start").and_then(Value::as_bool).unwrap_or(false);
    let (base, top) = (number(prefix.network()), number(prefix.broadcast()));
    // Below four addresses there is no room for a gateway, a service address and a host.
    let defaults = (top - base >= 3)
        .then(|| if from_start { (base + 1, base + 2) } else { (top - 1, top - 2) });
    let text = |n: Option<u128>| {
        n.map_or_else(|| "None".to_owned(), |n| address(n, prefix.addr()).to_string())
    };
    if absent(subnet, "default_gateway") {
        subnet.insert("default_gateway".into(), json!(text(defaults.map(|d| d.0))));
    }
    if absent(subnet, "dns_server_address") {
        let gateway = subnet.get("default_gateway").and_then(Value::as_str).map(str::to_owned);
        // A gateway chosen on the default service address moves the latter to the default gateway's place.
        let service = defaults.map(|d| if gateway == Some(text(Some(d.1))) { d.0 } else { d.1 });
        subnet.insert("dns_server_address".into(), json!(text(service)));
    }
    Ok(())
}

/// The old subnet with the same prefix.
fn same_prefix<'a>(
    field: &str,
    subnet: &Map<String, Value>,
    old: &'a [Value],
) -> ApiResult<Option<&'a Value>> {
    let prefix = prefix_of(field, subnet)?;
    for candidate in old {
        if let Value::Object(map) = candidate
            && prefix.is_some()
            && prefix_of(field, map)? == prefix
        {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// Fills in the subnets on a network's IPAM links.
pub(super) fn fill_links(
    draft: &Draft<'_>,
    network: &mut Object,
    old: Option<&Object>,
) -> ApiResult<()> {
    let mode =
        network.properties.get("virtual_network_properties").and_then(|p| p.get("forwarding_mode"));
    let is_l3 = mode.and_then(Value::as_str) == Some("l3");
    for link in network.references.iter_mut().filter(|r| r.kind == Kind::NETWORK_IPAM) {
        let ipam = draft.need(Kind::NETWORK_IPAM, link.uuid)?;
        let field = "network_ipam_refs.attr.ipam_subnets";
        let old_link = old.and_then(|o| o.references.iter().find(|r| r.uuid == link.uuid));
        if !link.attr.is_object() {
            link.attr = json!({});
        }
        let Value::Object(attr) = &mut link.attr else { continue };
        let list = attr.entry("ipam_subnets").or_insert_with(|| json!([]));
        if !list.is_array() {
            *list = json!([]);
        }
        let Value::Array(list) = list else { continue };
        let old_list = list_in(old_link.map(|r| &r.attr), "ipam_subnets");
        if is_flat(&ipam) {
            if !is_l3 {
                return Err(ApiError::bad(format!(
                    "virtual_network_properties.forwarding_mode: must be l3 to use the flat IPAM {}",
                    ipam.fq_name
                )));
            }
            for (at, entry) in list.iter().enumerate() {
                let map = entry.as_object().cloned().unwrap_or_default();
                if prefix_of(&format!("{field}[{at}]"), &map)?.is_some() {
                    return Err(ApiError::bad(format!(
                        "{field}[{at}].subnet: subnets of the flat IPAM {} are set on the IPAM",
                        ipam.fq_name
                    )));
                }
            }
            let kept = list.first().and_then(|e| e.get("subnet_uuid")).and_then(Value::as_str);
            let known = old_list.first().and_then(|e| e.get("subnet_uuid")).and_then(Value::as_str);
            let uuid = kept.or(known).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
            *list = vec![json!({"subnet_uuid": uuid})];
            continue;
        }
        for (at, entry) in list.iter_mut().enumerate() {
            let field = format!("{field}[{at}]");
            let Value::Object(subnet) = entry else {
                return Err(ApiError::bad(format!("{field}: must be an object")));
            };
            let before = same_prefix(&field, subnet, old_list)?;
            fill(&field, subnet, before)?;
        }
    }
    Ok(())
}

/// Puts a network's or flat IPAM's new address space in place of the old one, keeping the owners.
pub(super) fn replace_space(draft: &mut Draft<'_>, owner: &Object) -> ApiResult<()> {
    let mut new = space_of(owner, &draft.head.graph)?;
    check_overlap(draft, owner, &new)?;
    let old: Vec<Subnet> = draft.space(owner.uuid).to_vec();
    for subnet in &old {
        let prefix = subnet.pool.spec().prefix;
        match new.subnets.iter_mut().find(|s| s.pool.spec().prefix == prefix) {
            Some(kept) => {
                check_change(subnet.pool.spec(), kept.pool.spec())?;
                for (address, holder) in subnet.pool.taken() {
                    kept.pool.restore(address, holder);
                }
            }
            None => {
                if let Some((address, holder)) =
                    subnet.pool.taken().find(|(_, holder)| !holder.is_nil())
                {
                    return Err(ApiError::conflict(format!(
                        "network_ipam_refs: the subnet {prefix} is in use, {address} belongs to {holder}"
                    )));
                }
                if let Some(user) = user_of_shared(draft, owner.uuid, &subnet.uuid) {
                    return Err(ApiError::conflict(format!(
                        "network_ipam_refs: the subnet {prefix} is in use by {} {}",
                        user.kind, user.fq_name
                    )));
                }
                // Bare reservations go with their subnet.
                let bare: Vec<_> = subnet.pool.taken().collect();
                for (address, holder) in bare {
                    draft.release_address(owner.uuid, address, holder);
                }
            }
        }
    }
    draft.set_space(owner.uuid, Some(new));
    Ok(())
}

/// Who uses a subnet by its gateway or service address, which the pool does not record.
fn user_of_shared(
    draft: &Draft<'_>,
    network: Uuid,
    subnet: &str,
) -> Option<std::sync::Arc<Object>> {
    draft.back_references(network).into_iter().find(|from| {
        from.kind == Kind::INSTANCE_IP
            && from.properties.get("subnet_uuid").and_then(Value::as_str) == Some(subnet)
    })
}

fn check_change(old: &SubnetSpec, new: &SubnetSpec) -> ApiResult<()> {
    let prefix = old.prefix;
    if old.gateway != new.gateway {
        let show = |g: Option<IpAddr>| g.map_or_else(|| "none".to_owned(), |g| g.to_string());
        return Err(ApiError::bad(format!(
            "default_gateway: of {prefix} cannot change from {} to {}",
            show(old.gateway),
            show(new.gateway)
        )));
    }
    if old.unit != new.unit {
        return Err(ApiError::bad(format!(
            "alloc_unit: of {prefix} cannot change from {} to {}",
            old.unit, new.unit
        )));
    }
    if let Some(gone) = old.pools.iter().find(|pool| !new.pools.contains(pool)) {
        return Err(ApiError::bad(format!(
            "allocation_pools: the pool {} to {} of {prefix} cannot be removed or changed",
            gone.start, gone.end
        )));
    }
    Ok(())
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// Subnets that a network can use must not overlap: its own and those of its flat IPAMs.
fn check_overlap(draft: &Draft<'_>, owner: &Object, new: &Space) -> ApiResult<()> {
    let own: Vec<IpNet> = new.subnets.iter().map(|s| s.pool.spec().prefix).collect();
    let among = |nets: &[IpNet], what: &str| -> ApiResult<()> {
        for (at, a) in nets.iter().enumerate() {
            if let Some(b) = nets[at + 1..].iter().find(|b| overlap(a, b)) {
                return Err(ApiError::bad(format!("{what}: the subnets {a} and {b} overlap")));
            }
        }
        Ok(())
    };
    if owner.kind == Kind::NETWORK_IPAM {
        among(&own, "ipam_subnets")?;
        for network in draft.back_references(owner.uuid) {
            if network.kind == Kind::VIRTUAL_NETWORK {
                let mut all = network_prefixes(draft, &network, Some(owner.uuid));
                all.extend(&own);
                among(&all, &format!("ipam_subnets (with network {})", network.fq_name))?;
            }
        }
        return Ok(());
    }
    let mut all = own;
    for link in owner.references_to(Kind::NETWORK_IPAM) {
        if draft.get(link.uuid).is_some_and(|ipam| is_flat(&ipam)) {
            all.extend(draft.space(link.uuid).iter().map(|s| s.pool.spec().prefix));
        }
    }
    among(&all, "network_ipam_refs")
}

fn network_prefixes(draft: &Draft<'_>, network: &Object, without: Option<Uuid>) -> Vec<IpNet> {
    let flat =
        network.references_to(Kind::NETWORK_IPAM).map(|r| r.uuid).filter(|u| Some(*u) != without);
    std::iter::once(network.uuid)
        .chain(flat)
        .flat_map(|space| draft.space(space).iter().map(|s| s.pool.spec().prefix))
        .collect()
}

/// Frees every address of an owner and drops its space.
pub(super) fn drop_space(draft: &mut Draft<'_>, owner: Uuid) {
    let taken: Vec<_> =
        draft.space(owner).iter().flat_map(|s| s.pool.taken().collect::<Vec<_>>()).collect();
    for (address, holder) in taken {
        draft.release_address(owner, address, holder);
    }
    if draft.head.spaces.contains_key(&owner) {
        draft.set_space(owner, None);
    }
}

/// Checks a new IPAM and opens its space if it is flat.
pub(super) fn ipam_on_create(draft: &mut Draft<'_>, ipam: &mut Object) -> ApiResult<()> {
    fill_ipam(ipam, None)?;
    if is_flat(ipam) { replace_space(draft, ipam) } else { Ok(()) }
}

/// Checks a changed IPAM.
pub(super) fn ipam_on_update(
    draft: &mut Draft<'_>,
    old: &Object,
    ipam: &mut Object,
) -> ApiResult<()> {
    for name in ["ipam_subnet_method", "ipam_subnetting"] {
        let value = |o: &Object| {
            o.properties.get(name).filter(|v| !v.is_null() && v.as_bool() != Some(false)).cloned()
        };
        let default = |v: Option<Value>| v.filter(|v| v.as_str() != Some("user-defined-subnet"));
        if default(value(old)) != default(value(ipam)) {
            return Err(ApiError::bad(format!("{name}: cannot change after creation")));
        }
    }
    fill_ipam(ipam, Some(old))?;
    if is_flat(ipam) && ipam.properties.get("ipam_subnets") != old.properties.get("ipam_subnets") {
        replace_space(draft, ipam)?;
    }
    Ok(())
}

fn fill_ipam(ipam: &mut Object, old: Option<&Object>) -> ApiResult<()> {
    let flat = is_flat(ipam);
    let name = ipam.fq_name.clone();
    let Some(Value::Object(wrapper)) = ipam.properties.get_mut("ipam_subnets") else {
        return Ok(());
    };
    let Some(Value::Array(list)) = wrapper.get_mut("subnets") else { return Ok(()) };
    if !flat && !list.is_empty() {
        return Err(ApiError::bad(format!(
            "ipam_subnets: {name} does not have ipam_subnet_method flat-subnet, its subnets are set on the networks"
        )));
    }
    let old_list = list_in(old.and_then(|o| o.properties.get("ipam_subnets")), "subnets");
    for (at, entry) in list.iter_mut().enumerate() {
        let field = format!("ipam_subnets.subnets[{at}]");
        let Value::Object(subnet) = entry else {
            return Err(ApiError::bad(format!("{field}: must be an object")));
        };
        let before = same_prefix(&field, subnet, old_list)?;
        fill(&field, subnet, before)?;
    }
    Ok(())
}

/// The pools that one IPAM link reserves for a vRouter.
pub(super) fn pools_of_link(attr: &Value) -> Vec<(IpAddr, IpAddr)> {
    let end = |pool: &Value, name: &str| {
        pool.get(name).and_then(Value::as_str).and_then(|a| a.parse().ok())
    };
    let pools = list_in(Some(attr), "allocation_pools").iter();
    pools.filter_map(|pool| Some((end(pool, "start")?, end(pool, "end")?))).collect()
}

/// A vRouter's pools are vRouter-specific pools of a flat IPAM, and no other vRouter has them.
pub(super) fn virtual_router(draft: &mut Draft<'_>, router: &mut Object) -> ApiResult<()> {
    for link in router.references_to(Kind::NETWORK_IPAM) {
        let ipam = draft.need(Kind::NETWORK_IPAM, link.uuid)?;
        if !is_flat(&ipam) {
            return Err(ApiError::bad(format!(
                "network_ipam_refs: {} is not flat, only flat IPAMs have pools for vRouters",
                ipam.fq_name
            )));
        }
        for (start, end) in pools_of_link(&link.attr) {
            let known = draft.space(ipam.uuid).iter().flat_map(|s| s.pool.spec().pools.clone());
            if !known.into_iter().any(|p| p.vrouter_specific && p.start == start && p.end == end) {
                return Err(ApiError::bad(format!(
                    "network_ipam_refs.attr.allocation_pools: {start} to {end} is no vRouter-specific pool of {}",
                    ipam.fq_name
                )));
            }
            let other = draft.back_references(ipam.uuid).into_iter().find(|other| {
                other.kind == Kind::VIRTUAL_ROUTER
                    && other.uuid != router.uuid
                    && other.references.iter().any(|r| {
                        r.uuid == ipam.uuid && pools_of_link(&r.attr).contains(&(start, end))
                    })
            });
            if let Some(other) = other {
                return Err(ApiError::bad(format!(
                    "network_ipam_refs.attr.allocation_pools: {start} to {end} belongs to {}",
                    other.fq_name
                )));
            }
        }
    }
    Ok(())
}
