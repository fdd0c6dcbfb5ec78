//! Addresses of ports and of the pools above them: instance-ip, floating-ip, alias-ip, bare reservations.

use std::{net::IpAddr, sync::Arc};

use serde_json::{Value, json};
use skein_model::{Kind, Object};
use uuid::Uuid;

use super::{string, subnets};
use crate::{
    alloc::{Grant, Refusal},
    error::{ApiError, ApiResult},
    plan::{Draft, Space, names::is_flat},
};

/// A subnet that may serve a request.
#[derive(Debug, Clone)]
struct Candidate {
    space: Uuid,
    index: usize,
    flat: bool,
    /// `subnet_uuid` of the subnet, and of the link for flat ones.
    uuids: [String; 2],
}

/// What a request asks for.
#[derive(Debug, Default)]
struct Wish<'a> {
    address: Option<IpAddr>,
    subnet: Option<&'a str>,
    is_v4: Option<bool>,
    /// Pools of a vRouter.
    bound_to: Option<Vec<(IpAddr, IpAddr)>>,
}

/// An address given.
#[derive(Debug)]
struct Given {
    address: IpAddr,
    subnet_uuid: String,
    prefix: ipnet::IpNet,
    grant: Grant,
}

/// Subnets of a network in the order in which they are asked.
fn candidates(draft: &Draft<'_>, network: &Object, flat_first: bool) -> Vec<Candidate> {
    let mut found = Vec::new();
    for link in network.references_to(Kind::NETWORK_IPAM) {
        if draft.get(link.uuid).is_some_and(|ipam| is_flat(&ipam)) {
            let on_link = link
                .attr
                .get("ipam_subnets")
                .and_then(|l| l.get(0))
                .and_then(|e| e.get("subnet_uuid"));
            let on_link = on_link.and_then(Value::as_str).unwrap_or_default();
            found.extend(draft.space(link.uuid).iter().enumerate().map(|(index, subnet)| {
                Candidate {
                    space: link.uuid,
                    index,
                    flat: true,
                    uuids: [subnet.uuid.clone(), on_link.to_owned()],
                }
            }));
        } else {
            let own =
                draft.space(network.uuid).iter().enumerate().filter(|(_, s)| s.ipam == link.uuid);
            found.extend(own.map(|(index, subnet)| Candidate {
                space: network.uuid,
                index,
                flat: false,
                uuids: [subnet.uuid.clone(), String::new()],
            }));
        }
    }
    let mode =
        string(network, "address_allocation_mode").unwrap_or("user-defined-subnet-preferred");
    match mode {
        "user-defined-subnet-only" => found.retain(|c| !c.flat),
        "flat-subnet-only" => found.retain(|c| c.flat),
        "flat-subnet-preferred" => found.sort_by_key(|c| !c.flat),
        _ => found.sort_by_key(|c| c.flat != flat_first),
    }
    found
}

/// Gives an address of the candidates.
fn give(
    draft: &mut Draft<'_>,
    mut candidates: Vec<Candidate>,
    owner: Uuid,
    wish: &Wish<'_>,
    place: &str,
) -> ApiResult<Given> {
    if let Some(subnet) = wish.subnet {
        candidates.retain(|c| c.uuids.iter().any(|u| u == subnet));
        if candidates.is_empty() {
            return Err(ApiError::bad(format!("subnet_uuid: {place} has no subnet {subnet}")));
        }
    }
    if let Some(is_v4) = wish.is_v4 {
        candidates.retain(|c| {
            draft
                .space(c.space)
                .get(c.index)
                .is_some_and(|s| s.pool.spec().prefix.addr().is_ipv4() == is_v4)
        });
    }
    if candidates.is_empty() {
        return Err(ApiError::bad(format!(
            "{place} has no {}subnet to take an address from",
            wish.is_v4.map_or("", |v4| if v4 { "IPv4 " } else { "IPv6 " })
        )));
    }
    for candidate in &candidates {
        let Some(subnet) = draft.space(candidate.space).get(candidate.index) else { continue };
        let prefix = subnet.pool.spec().prefix;
        let subnet_uuid = candidate.uuids[0].clone();
        match wish.address {
            Some(wanted) if !prefix.contains(&wanted) => {}
            Some(wanted) => {
                let grant = draft
                    .take_address(candidate.space, candidate.index, wanted, owner)
                    .map_err(|refusal| explain(draft, wanted, prefix, refusal))?;
                return Ok(Given { address: wanted, subnet_uuid, prefix, grant });
            }
            None => {
                let bound_to = wish.bound_to.as_deref();
                if let Some(address) =
                    draft.allocate_address(candidate.space, candidate.index, owner, bound_to)
                {
                    return Ok(Given { address, subnet_uuid, prefix, grant: Grant::Reserved });
                }
            }
        }
    }
    Err(match wish.address {
        Some(wanted) => ApiError::bad(format!("the address {wanted} is in no subnet of {place}")),
        None => ApiError::bad(format!("no free address: every subnet of {place} is exhausted")),
    })
}

fn explain(draft: &Draft<'_>, wanted: IpAddr, prefix: ipnet::IpNet, refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Taken(holder) => {
            let holder = draft.get(holder).map_or_else(
                || "a reservation".to_owned(),
                |o| format!("{} {}", o.kind, o.fq_name),
            );
            ApiError::conflict(format!("the address {wanted} is in use by {holder}"))
        }
        Refusal::Reserved => ApiError::bad(format!(
            "the address {wanted} is, or shares its unit with, a reserved address of {prefix}"
        )),
        Refusal::Misaligned => ApiError::bad(format!(
            "the address {wanted} does not start an allocation unit of {prefix}"
        )),
        Refusal::Outside => ApiError::bad(format!("the address {wanted} is not in {prefix}")),
    }
}

fn parse_address(object: &Object, field: &str) -> ApiResult<Option<IpAddr>> {
    string(object, field)
        .map(|text| {
            text.parse()
                .map_err(|_| ApiError::bad(format!("{field}: {text:?} is not an IP address")))
        })
        .transpose()
}

fn family(object: &Object, field: &str, address: Option<IpAddr>) -> ApiResult<Option<bool>> {
    let is_v4 = string(object, field).map(|f| f == "v4");
    match (is_v4, address) {
        (Some(v4), Some(address)) if v4 != address.is_ipv4() => {
            Err(ApiError::bad(format!("{field}: does not fit the address {address}")))
        }
        _ => Ok(is_v4),
    }
}

/// Networks of the fabric itself, whose addresses are not ours to give.
fn is_fabric(network: &Object) -> bool {
    let parts = network.fq_name.parts();
    parts.len() == 3
        && &*parts[0] == "default-domain"
        && &*parts[1] == "default-project"
        && matches!(&*parts[2], "ip-fabric" | "__link_local__")
}

/// Gives a new instance-ip its address.
pub(super) fn instance_ip_on_create(draft: &mut Draft<'_>, ip: &mut Object) -> ApiResult<()> {
    let address = parse_address(ip, "instance_ip_address")?;
    let mut wish =
        Wish { address, is_v4: family(ip, "instance_ip_family", address)?, ..Wish::default() };
    let subnet = string(ip, "subnet_uuid").map(str::to_owned);
    wish.subnet = subnet.as_deref();
    let one = |kind: Kind| -> ApiResult<Option<Uuid>> {
        let mut found = ip.references_to(kind);
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => {
                Err(ApiError::bad(format!("{}_refs: an instance-ip has at most one", kind.snake())))
            }
            (only, _) => Ok(only.map(|r| r.uuid)),
        }
    };
    let network = one(Kind::VIRTUAL_NETWORK)?;
    let ipam = one(Kind::NETWORK_IPAM)?;
    let router = one(Kind::VIRTUAL_ROUTER)?;
    let given = match (network, ipam, router) {
        (Some(network), None, None) => {
            let network = draft.need(Kind::VIRTUAL_NETWORK, network)?;
            if is_fabric(&network) {
                return Ok(());
            }
            let place = format!("network {}", network.fq_name);
            let specific = wish.address.is_some() || wish.subnet.is_some();
            let given = give(draft, candidates(draft, &network, specific), ip.uuid, &wish, &place)?;
            if given.grant == Grant::Shared {
                check_gateway(draft, ip, &network, given.address)?;
            }
            given
        }
        (None, Some(ipam), None) | (None, None, Some(ipam)) => {
            if let Some(wanted) = wish.address {
                return Err(ApiError::bad(format!(
                    "instance_ip_address: {wanted} cannot be asked for from an IPAM or a vRouter"
                )));
            }
            let (ipam, bound_to) =
                if router.is_some() { router_pools(draft, ipam)? } else { (ipam, None) };
            wish.bound_to = bound_to;
            let ipam = draft.need(Kind::NETWORK_IPAM, ipam)?;
            let all = draft.space(ipam.uuid).iter().enumerate().map(|(index, subnet)| Candidate {
                space: ipam.uuid,
                index,
                flat: true,
                uuids: [subnet.uuid.clone(), String::new()],
            });
            let all = all.collect();
            give(draft, all, ip.uuid, &wish, &format!("IPAM {}", ipam.fq_name))?
        }
        (None, None, None) => {
            return Err(ApiError::bad(
                "virtual_network_refs: an instance-ip needs a network, an IPAM or a virtual-router",
            ));
        }
        _ => {
            return Err(ApiError::bad(
                "virtual_network_refs: an instance-ip has a network, an IPAM or a virtual-router, not several",
            ));
        }
    };
    ip.properties.insert("instance_ip_address".into(), json!(given.address.to_string()));
    ip.properties.insert("subnet_uuid".into(), json!(given.subnet_uuid));
    ip.properties.insert(
        "instance_ip_subnet".into(),
        json!({"ip_prefix": given.prefix.network().to_string(), "ip_prefix_len": given.prefix.prefix_len()}),
    );
    let family = if given.address.is_ipv4() { "v4" } else { "v6" };
    ip.properties.insert("instance_ip_family".into(), json!(family));
    Ok(())
}

/// The IPAM behind a vRouter's pools.
type RouterPools = (Uuid, Option<Vec<(IpAddr, IpAddr)>>);

fn router_pools(draft: &Draft<'_>, router: Uuid) -> ApiResult<RouterPools> {
    let router = draft.need(Kind::VIRTUAL_ROUTER, router)?;
    router
        .references_to(Kind::NETWORK_IPAM)
        .map(|link| (link.uuid, subnets::pools_of_link(&link.attr)))
        .find(|(_, pools)| !pools.is_empty())
        .map(|(ipam, pools)| (ipam, Some(pools)))
        .ok_or_else(|| {
            ApiError::bad(format!(
                "virtual_router_refs: {} has no IPAM link with allocation_pools",
                router.fq_name
            ))
        })
}

/// The gateway's address is only for ports that belong to no VM: routers and the like.
fn check_gateway(
    draft: &Draft<'_>,
    ip: &Object,
    network: &Object,
    address: IpAddr,
) -> ApiResult<()> {
    let is_gateway =
        draft.space(network.uuid).iter().any(|s| s.pool.spec().gateway == Some(address));
    for port in ip.references_to(Kind::VIRTUAL_MACHINE_INTERFACE) {
        let port = draft.need(Kind::VIRTUAL_MACHINE_INTERFACE, port.uuid)?;
        if is_gateway && port.reference_to(Kind::VIRTUAL_MACHINE).is_some() {
            return Err(ApiError::bad(format!(
                "instance_ip_address: {address} is the gateway of {} and {} belongs to a virtual machine",
                network.fq_name, port.fq_name
            )));
        }
    }
    Ok(())
}

/// Fields that cannot change once an address was given.
fn unchanged(old: &Object, new: &mut Object, fields: &[&str]) -> ApiResult<()> {
    for field in fields {
        let (Some(before), after) = (old.properties.get(*field), new.properties.get(*field)) else {
            continue;
        };
        match after {
            Some(after) if after == before || same_address(before, after) => {}
            None | Some(Value::Null) => {}
            Some(after) => {
                return Err(ApiError::bad(format!(
                    "{field}: cannot change from {before} to {after}"
                )));
            }
        }
        new.properties.insert((*field).to_owned(), before.clone());
    }
    Ok(())
}

fn same_address(a: &Value, b: &Value) -> bool {
    let parse = |v: &Value| v.as_str().and_then(|s| s.parse::<IpAddr>().ok());
    parse(a).is_some() && parse(a) == parse(b)
}

/// An instance-ip keeps its address, its subnet and its network.
pub(super) fn instance_ip_on_update(old: &Object, new: &mut Object) -> ApiResult<()> {
    unchanged(
        old,
        new,
        &["instance_ip_address", "instance_ip_family", "subnet_uuid", "instance_ip_subnet"],
    )?;
    for kind in [Kind::VIRTUAL_NETWORK, Kind::NETWORK_IPAM, Kind::VIRTUAL_ROUTER] {
        let target = |o: &Object| o.reference_to(kind).map(|r| r.uuid);
        if target(old) != target(new) && string(old, "instance_ip_address").is_some() {
            return Err(ApiError::bad(format!(
                "{}_refs: cannot change, the address belongs there; create another instance-ip",
                kind.snake()
            )));
        }
    }
    Ok(())
}

/// Gives an instance-ip's address back.
pub(super) fn instance_ip_on_delete(draft: &mut Draft<'_>, ip: &Object) {
    let Some(address) = string(ip, "instance_ip_address").and_then(|a| a.parse().ok()) else {
        return;
    };
    let mut spaces: Vec<Uuid> = Vec::new();
    for reference in &ip.references {
        match reference.kind {
            Kind::VIRTUAL_NETWORK => spaces.extend(spaces_of(draft, reference.uuid)),
            Kind::NETWORK_IPAM => spaces.push(reference.uuid),
            Kind::VIRTUAL_ROUTER => spaces.extend(draft.get(reference.uuid).iter().flat_map(|r| {
                r.references_to(Kind::NETWORK_IPAM).map(|l| l.uuid).collect::<Vec<_>>()
            })),
            _ => {}
        }
    }
    release_in(draft, &spaces, address, ip.uuid);
}

fn spaces_of(draft: &Draft<'_>, network: Uuid) -> Vec<Uuid> {
    let ipams = draft.get(network);
    let ipams = ipams
        .iter()
        .flat_map(|n| n.references_to(Kind::NETWORK_IPAM).map(|r| r.uuid).collect::<Vec<_>>());
    std::iter::once(network).chain(ipams).collect()
}

fn release_in(draft: &mut Draft<'_>, spaces: &[Uuid], address: IpAddr, owner: Uuid) {
    for space in spaces {
        if draft.release_address(*space, address, owner) {
            return;
        }
    }
    // A relaxed reference may have led there once, or a vRouter's link: what the owner holds goes with the owner.
    let holds = |space: &Space| {
        space.subnets.iter().any(|subnet| {
            subnet.pool.contains(address) && subnet.pool.owner(address) == Some(owner)
        })
    };
    let found = draft.head.spaces.iter().find(|(_, space)| holds(space)).map(|(uuid, _)| *uuid);
    if let Some(space) = found {
        draft.release_address(space, address, owner);
    }
}

/// The instance, floating or alias address of a network that stands in a flat IPAM.
pub(super) fn user_of_flat(draft: &Draft<'_>, network: Uuid, ipam: Uuid) -> Option<Arc<Object>> {
    let instances = draft.back_references(network).into_iter();
    let instances = instances.filter(|from| from.kind == Kind::INSTANCE_IP);
    let pools = draft.children(network).into_iter();
    let pools = pools.filter(|c| matches!(c.kind, Kind::FLOATING_IP_POOL | Kind::ALIAS_IP_POOL));
    instances.chain(pools.flat_map(|pool| draft.children(pool.uuid))).find(|ip| {
        let field = match ip.kind {
            Kind::INSTANCE_IP => "instance_ip_address",
            kind => pool_fields(kind).0,
        };
        let address = string(ip, field).and_then(|a| a.parse().ok());
        address.is_some_and(|address| {
            draft.space(ipam).iter().any(|subnet| {
                subnet.pool.contains(address) && subnet.pool.owner(address) == Some(ip.uuid)
            })
        })
    })
}

/// Field names of the two types that live in pools of a network.
fn pool_fields(kind: Kind) -> (&'static str, &'static str) {
    if kind == Kind::FLOATING_IP {
        ("floating_ip_address", "floating_ip_address_family")
    } else {
        ("alias_ip_address", "alias_ip_address_family")
    }
}

/// The pool and the network above a floating or alias address; none under an instance-ip.
fn pool_and_network(draft: &Draft<'_>, ip: &Object) -> Option<(Arc<Object>, Arc<Object>)> {
    let pool = ip
        .parent
        .filter(|(kind, _)| matches!(*kind, Kind::FLOATING_IP_POOL | Kind::ALIAS_IP_POOL))
        .and_then(|(_, uuid)| draft.get(uuid))?;
    let network = draft.get(pool.parent?.1)?;
    Some((pool, network))
}

/// Gives a new floating or alias address.
pub(super) fn pool_ip_on_create(draft: &mut Draft<'_>, ip: &mut Object) -> ApiResult<()> {
    let (field, family_field) = pool_fields(ip.kind);
    let address = parse_address(ip, field)?;
    let is_v4 = family(ip, family_field, address)?;
    let Some((pool, network)) = pool_and_network(draft, ip) else { return Ok(()) };
    if ip.reference_to(Kind::PROJECT).is_none()
        && let Some((Kind::PROJECT, project)) = network.parent
        && let Some(project) = draft.get(project)
    {
        ip.references.push(super::super::draft::plain_reference(&project));
    }
    let place = format!("network {}", network.fq_name);
    let allowed = pool_subnets(&pool);
    let all = candidates(draft, &network, address.is_some());
    let chosen: Vec<Candidate> = if allowed.is_empty() {
        all
    } else {
        all.into_iter().filter(|c| allowed.iter().any(|a| c.uuids.contains(a))).collect()
    };
    let wish = Wish { address, is_v4, ..Wish::default() };
    let given = give(draft, chosen, ip.uuid, &wish, &place)?;
    if given.grant == Grant::Shared {
        return Err(ApiError::conflict(format!(
            "{field}: {} is the gateway or service address of {}",
            given.address, given.prefix
        )));
    }
    ip.properties.insert(field.into(), json!(given.address.to_string()));
    let family = if given.address.is_ipv4() { "v4" } else { "v6" };
    ip.properties.insert(family_field.into(), json!(family));
    Ok(())
}

fn pool_subnets(pool: &Object) -> Vec<String> {
    let list = pool.properties.get("floating_ip_pool_subnets").and_then(|p| p.get("subnet_uuid"));
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// A floating or alias address does not change.
pub(super) fn pool_ip_on_update(old: &Object, new: &mut Object) -> ApiResult<()> {
    let (field, family_field) = pool_fields(new.kind);
    unchanged(old, new, &[field, family_field])
}

/// Gives it back.
pub(super) fn pool_ip_on_delete(draft: &mut Draft<'_>, ip: &Object) {
    let (field, _) = pool_fields(ip.kind);
    let Some(address) = string(ip, field).and_then(|a| a.parse().ok()) else { return };
    if let Some((_, network)) = pool_and_network(draft, ip) {
        let spaces = spaces_of(draft, network.uuid);
        release_in(draft, &spaces, address, ip.uuid);
    }
}

/// The subnets of a floating-ip-pool are subnets of its network.
pub(super) fn check_pool_subnets(draft: &mut Draft<'_>, pool: &mut Object) -> ApiResult<()> {
    let wanted = pool_subnets(pool);
    let network = pool.parent.and_then(|(_, uuid)| draft.get(uuid));
    let Some(network) = network.filter(|_| !wanted.is_empty()) else { return Ok(()) };
    let known = candidates(draft, &network, false);
    match wanted.iter().find(|w| !known.iter().any(|c| c.uuids.contains(w))) {
        Some(unknown) => Err(ApiError::bad(format!(
            "floating_ip_pool_subnets.subnet_uuid: network {} has no subnet {unknown}",
            network.fq_name
        ))),
        None => Ok(()),
    }
}

/// `ip-alloc`: addresses without objects.
pub(crate) fn reserve(
    draft: &mut Draft<'_>,
    network: Uuid,
    count: u32,
    subnet: Option<&str>,
    family: Option<u8>,
) -> ApiResult<Vec<IpAddr>> {
    let network = draft.need(Kind::VIRTUAL_NETWORK, network)?;
    let all = candidates(draft, &network, subnet.is_some());
    if let Some(subnet) = subnet
        && !all.iter().any(|c| c.uuids.iter().any(|u| u == subnet))
    {
        return Err(ApiError::not_found(format!(
            "subnet: network {} has no subnet {subnet}",
            network.fq_name
        )));
    }
    if all.is_empty() {
        return Err(ApiError::not_found(format!("network {} has no subnets", network.fq_name)));
    }
    let wish = Wish { subnet, is_v4: family.map(|f| f == 4), ..Wish::default() };
    let place = format!("network {}", network.fq_name);
    (0..count)
        .map(|_| {
            give(draft, all.clone(), Uuid::nil(), &wish, &place)
                .map(|given| given.address)
                .map_err(|e| ApiError { status: 409, ..e })
        })
        .collect()
}

/// `ip-free`: gives bare reservations back; addresses of objects stay.
pub(crate) fn unreserve(
    draft: &mut Draft<'_>,
    network: Uuid,
    addresses: &[IpAddr],
) -> ApiResult<()> {
    draft.need(Kind::VIRTUAL_NETWORK, network)?;
    let spaces = spaces_of(draft, network);
    for address in addresses {
        release_in(draft, &spaces, *address, Uuid::nil());
    }
    Ok(())
}

/// `subnet-ip-count`: how many addresses of each subnet are not free; 0 for an unknown one.
pub(crate) fn count(draft: &Draft<'_>, network: Uuid, subnets: &[String]) -> ApiResult<Vec<usize>> {
    let network = draft.need(Kind::VIRTUAL_NETWORK, network)?;
    let all = candidates(draft, &network, false);
    let used = |wanted: &String| {
        let of_it = all.iter().filter(|c| c.uuids.contains(wanted));
        of_it.filter_map(|c| draft.space(c.space).get(c.index)).map(|s| s.pool.used()).sum()
    };
    Ok(subnets.iter().map(used).collect())
}
