//! Firewall rules, policies, address and service groups, application policy sets: spec section 12.

use serde_json::{Map, Value, json};
use skein_model::{FqName, Kind, Object, Reference};
use uuid::Uuid;

use super::super::draft::plain_reference;
use super::{policy, string, tag};
use crate::{
    error::{ApiError, ApiResult},
    plan::Draft,
};

const ENDPOINTS: [&str; 2] = ["endpoint_1", "endpoint_2"];
/// References of a rule that the server makes from the endpoints, with what to set instead.
const FILLED: [(Kind, &str, &str); 3] = [
    (Kind::TAG, "tag_refs", "tags"),
    (Kind::ADDRESS_GROUP, "address_group_refs", "address_group"),
    (Kind::VIRTUAL_NETWORK, "virtual_network_refs", "virtual_network"),
];
/// Protocol names and their numbers; everything else is a number.
const PROTOCOLS: [(&str, u8); 15] = [
    ("any", 0),
    ("icmp", 1),
    ("igmp", 2),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmp6", 58),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("vrrp", 112),
    ("sctp", 132),
    ("udplite", 136),
];
/// Tag types that both ends share unless a rule says otherwise.
const DEFAULT_MATCH: [u64; 1] = [1];

/// Checks a new object of the firewall and fills in what the server sets.
pub(super) fn on_create(draft: &Draft<'_>, object: &mut Object) -> ApiResult<()> {
    if string(object, "draft_mode_state").is_some() {
        return Err(ApiError::bad("draft_mode_state: is set by the server"));
    }
    if object.kind == Kind::APPLICATION_POLICY_SET && for_all(object) && !comes_along(draft, object)
    {
        return Err(ApiError::bad("all_applications: is set by the server"));
    }
    if object.kind == Kind::FIREWALL_RULE {
        for (kind, field, instead) in FILLED {
            if object.reference_to(kind).is_some() {
                return Err(set_by_endpoints(field, instead));
            }
        }
    }
    check(draft, object)
}

/// Checks a changed object of the firewall.
pub(super) fn on_update(draft: &Draft<'_>, old: &Object, object: &mut Object) -> ApiResult<()> {
    if string(object, "draft_mode_state") != string(old, "draft_mode_state") {
        return Err(ApiError::bad("draft_mode_state: is set by the server"));
    }
    if for_all(object) != for_all(old) && !draft.caller.system {
        return Err(ApiError::bad("all_applications: is set by the server"));
    }
    if object.kind != Kind::FIREWALL_RULE {
        return check(draft, object);
    }
    let given: Vec<_> = FILLED.iter().map(|(kind, ..)| targets(object, *kind)).collect();
    check(draft, object)?;
    // Clients send back what they read: only a wish for something else is refused.
    for ((kind, field, instead), given) in FILLED.into_iter().zip(given) {
        if given != targets(old, kind) && given != targets(object, kind) {
            return Err(set_by_endpoints(field, instead));
        }
    }
    Ok(())
}

/// Sets that the server made for all applications stay.
pub(super) fn set_before_delete(draft: &Draft<'_>, set: &Object) -> ApiResult<()> {
    if for_all(set) && !draft.caller.system {
        return Err(ApiError::bad(format!(
            "all_applications: {} is for all applications and cannot be deleted",
            set.fq_name
        )));
    }
    Ok(())
}

fn set_by_endpoints(field: &str, instead: &str) -> ApiError {
    ApiError::bad(format!("{field}: is made from the endpoints, set their {instead} instead"))
}

fn for_all(object: &Object) -> bool {
    object.properties.get("all_applications").and_then(Value::as_bool) == Some(true)
}

/// Whether a set for all applications is made with its project, or by the server itself.
fn comes_along(draft: &Draft<'_>, set: &Object) -> bool {
    draft.caller.system
        || set.parent.is_some_and(|(kind, project)| {
            kind == Kind::PROJECT && draft.head.graph.get(project).is_none()
        })
}

fn targets(object: &Object, kind: Kind) -> Vec<Uuid> {
    let mut all: Vec<Uuid> = object.references_to(kind).map(|r| r.uuid).collect();
    all.sort_unstable();
    all
}

fn check(draft: &Draft<'_>, object: &mut Object) -> ApiResult<()> {
    check_scope(draft, object)?;
    match object.kind {
        Kind::FIREWALL_RULE => rule(draft, object),
        Kind::SERVICE_GROUP => service_group(object),
        Kind::ADDRESS_GROUP => address_group(object),
        _ => Ok(()),
    }
}

/// What is global must not depend on a project.
fn check_scope(draft: &Draft<'_>, object: &Object) -> ApiResult<()> {
    if object.fq_name.parts().len() != 2 {
        return Ok(());
    }
    let security = [
        (Kind::FIREWALL_POLICY, "firewall_policy_refs"),
        (Kind::FIREWALL_RULE, "firewall_rule_refs"),
        (Kind::ADDRESS_GROUP, "address_group_refs"),
        (Kind::SERVICE_GROUP, "service_group_refs"),
    ];
    for (kind, field) in security {
        for target in object.references_to(kind).filter_map(|r| draft.get(r.uuid)) {
            if target.fq_name.parts().len() != 2 {
                return Err(ApiError::bad(format!(
                    "{field}: {} is global and cannot refer to {}, which is of a project",
                    object.fq_name, target.fq_name
                )));
            }
        }
    }
    Ok(())
}

fn address_group(group: &Object) -> ApiResult<()> {
    let field = "address_group_prefix.subnet";
    let subnets = group.properties.get("address_group_prefix").and_then(|p| p.get("subnet"));
    for (at, subnet) in subnets.and_then(Value::as_array).into_iter().flatten().enumerate() {
        check_prefix(&format!("{field}[{at}]"), subnet)?;
    }
    Ok(())
}

/// A prefix that must be there.
fn check_prefix(field: &str, subnet: &Value) -> ApiResult<()> {
    if policy::text(subnet, "ip_prefix").is_none() {
        return Err(ApiError::bad(format!("{field}.ip_prefix: must be given")));
    }
    policy::check_prefix(field, subnet)
}

fn service_group(group: &mut Object) -> ApiResult<()> {
    let field = "service_group_firewall_service_list.firewall_service";
    let services = group
        .properties
        .get_mut("service_group_firewall_service_list")
        .and_then(|list| list.get_mut("firewall_service"))
        .and_then(Value::as_array_mut);
    for (at, one) in services.into_iter().flatten().enumerate() {
        service(&format!("{field}[{at}]"), one)?;
    }
    Ok(())
}

/// Fills in a service's protocol number and checks its ports.
fn service(field: &str, service: &mut Value) -> ApiResult<()> {
    if let Some(protocol) = policy::text(service, "protocol") {
        let lower = protocol.to_ascii_lowercase();
        let named = PROTOCOLS.iter().find(|(name, _)| *name == lower).map(|(_, number)| *number);
        let number = named.or_else(|| protocol.parse::<u8>().ok()).ok_or_else(|| {
            let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
            ApiError::bad(format!(
                "{field}.protocol: {protocol:?} is neither a number 0 to 255 nor one of {}",
                names.join(", ")
            ))
        })?;
        if let Value::Object(map) = &mut *service {
            map.insert("protocol_id".into(), json!(number));
        }
    } else if let Value::Object(map) = &mut *service {
        map.remove("protocol_id");
    }
    for side in ["src_ports", "dst_ports"] {
        let port = |name: &str| service.get(side).and_then(|p| p.get(name)).and_then(Value::as_i64);
        if let (Some(start), Some(end)) = (port("start_port"), port("end_port"))
            && start > end
            && end != -1
        {
            return Err(ApiError::bad(format!(
                "{field}.{side}: starts at {start} above its end {end}"
            )));
        }
    }
    Ok(())
}

fn rule(draft: &Draft<'_>, rule: &mut Object) -> ApiResult<()> {
    check_action(draft, rule)?;
    let has_service = rule
        .properties
        .get("service")
        .is_some_and(|service| service.as_object().is_some_and(|fields| !fields.is_empty()));
    match (has_service, rule.reference_to(Kind::SERVICE_GROUP).is_some()) {
        (true, true) => {
            return Err(ApiError::bad(
                "service: give either service or service_group_refs, not both",
            ));
        }
        (false, false) => {
            return Err(ApiError::bad(
                "service: give service or service_group_refs; any is {\"protocol\": \"any\"}",
            ));
        }
        _ => {}
    }
    if let Some(one) = rule.properties.get_mut("service").filter(|service| service.is_object()) {
        service("service", one)?;
    }
    match_tags(draft, rule)?;
    let mut made: Vec<Reference> = Vec::new();
    for name in ENDPOINTS {
        let Some(Value::Object(mut endpoint)) = rule.properties.remove(name) else { continue };
        endpoint_references(draft, rule, name, &mut endpoint, &mut made)?;
        rule.properties.insert(name.to_owned(), Value::Object(endpoint));
    }
    let is_made = |kind: Kind| FILLED.iter().any(|(filled, ..)| *filled == kind);
    rule.references.retain(|r| !is_made(r.kind) || made.iter().any(|m| m.uuid == r.uuid));
    for reference in made {
        if !rule.references.iter().any(|r| r.uuid == reference.uuid) {
            rule.references.push(reference);
        }
    }
    Ok(())
}

fn check_action(draft: &Draft<'_>, rule: &Object) -> ApiResult<()> {
    let action = rule.properties.get("action_list");
    let simple = action.and_then(|a| policy::text(a, "simple_action"));
    let Some(simple) = simple else {
        return Err(ApiError::bad(
            "action_list.simple_action: must be given, choose one of deny, pass, skip",
        ));
    };
    if string(rule, "direction").is_none() {
        return Err(ApiError::bad("direction: must be given, choose one of <, >, <>"));
    }
    if rule.properties.get("is_exception").and_then(Value::as_bool) == Some(true) {
        if simple != "deny" {
            return Err(ApiError::bad(format!(
                "is_exception: is for rules that deny, this one says {simple}"
            )));
        }
        let addresses = |name: &&str| {
            rule.properties.get(*name).is_some_and(|end| {
                policy::text(end, "address_group").is_some() || end.get("subnet").is_some()
            })
        };
        if !ENDPOINTS.iter().any(addresses) {
            return Err(ApiError::bad(
                "is_exception: one endpoint must be a subnet or an address_group",
            ));
        }
    }
    let host_based = action.and_then(|a| a.get("host_based_service")).and_then(Value::as_bool);
    if host_based == Some(true) {
        let offered = rule.parent.is_some_and(|(kind, project)| {
            kind == Kind::PROJECT
                && draft.children(project).iter().any(|c| c.kind == Kind::HOST_BASED_SERVICE)
        });
        if !offered {
            return Err(ApiError::bad(
                "action_list.host_based_service: only in a project that has a host-based-service",
            ));
        }
    }
    Ok(())
}

/// Fills in the numbers of the tag types that both ends must share.
fn match_tags(draft: &Draft<'_>, rule: &mut Object) -> ApiResult<()> {
    let mut types: Vec<u64> = Vec::new();
    match rule.properties.get("match_tags") {
        None => types.extend(DEFAULT_MATCH),
        Some(given) => {
            let names = given.get("tag_list").and_then(Value::as_array);
            for (at, name) in names.into_iter().flatten().enumerate() {
                let field = format!("match_tags.tag_list[{at}]");
                let name = name.as_str().unwrap_or_default().to_lowercase();
                if name == "label" {
                    return Err(ApiError::bad(format!(
                        "{field}: labels have no one value to match, name another tag type"
                    )));
                }
                let found = draft.by_name(Kind::TAG_TYPE, &FqName::single(&name));
                let id = found.and_then(|t| tag::hex(t.properties.get("tag_type_id")));
                types.push(id.ok_or_else(|| {
                    ApiError::not_found(format!("{field}: there is no tag type {name:?}"))
                })?);
            }
        }
    }
    rule.properties.insert("match_tag_types".into(), json!({"tag_type": types}));
    Ok(())
}

/// Checks an endpoint and finds what it names.
fn endpoint_references(
    draft: &Draft<'_>,
    rule: &Object,
    field: &str,
    endpoint: &mut Map<String, Value>,
    made: &mut Vec<Reference>,
) -> ApiResult<()> {
    endpoint.remove("tag_ids");
    let given = |name: &str| match endpoint.get(name) {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(_) => true,
    };
    let kinds = ["tags", "address_group", "virtual_network", "subnet", "any"];
    let used: Vec<&str> = kinds.into_iter().filter(|name| given(name)).collect();
    if used.len() > 1 {
        return Err(ApiError::bad(format!("{field}: give only one of {}", used.join(", "))));
    }
    let text = |name: &str| endpoint.get(name).and_then(Value::as_str).unwrap_or_default();
    match used.first().copied() {
        Some("tags") => {
            let names = endpoint.get("tags").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut ids: Vec<u64> = Vec::with_capacity(names.len());
            for (at, name) in names.iter().enumerate() {
                let field = format!("{field}.tags[{at}]");
                let found = find_tag(draft, rule, &field, name.as_str().unwrap_or_default())?;
                ids.extend(tag::hex(found.properties.get("tag_id")));
                made.push(plain_reference(&found));
            }
            endpoint.insert("tag_ids".into(), json!(ids));
        }
        Some("address_group") => {
            let name = text("address_group");
            let found =
                draft.by_name(Kind::ADDRESS_GROUP, &FqName::parse(name)).ok_or_else(|| {
                    ApiError::not_found(format!("{field}.address_group: there is no {name}"))
                })?;
            if rule.fq_name.parts().len() == 2 && found.fq_name.parts().len() != 2 {
                return Err(ApiError::bad(format!(
                    "{field}.address_group: {} is global and cannot refer to {name}, which is of a project",
                    rule.fq_name
                )));
            }
            made.push(plain_reference(&found));
        }
        Some("virtual_network") if text("virtual_network") != "any" => {
            let name = text("virtual_network");
            let found =
                draft.by_name(Kind::VIRTUAL_NETWORK, &FqName::parse(name)).ok_or_else(|| {
                    ApiError::not_found(format!("{field}.virtual_network: there is no {name}"))
                })?;
            made.push(plain_reference(&found));
        }
        Some("subnet") => {
            check_prefix(
                &format!("{field}.subnet"),
                endpoint.get("subnet").unwrap_or(&Value::Null),
            )?;
        }
        _ => {}
    }
    Ok(())
}

/// The tag that `type=value` means in a rule's scope, or that `global:type=value` means.
fn find_tag(
    draft: &Draft<'_>,
    rule: &Object,
    field: &str,
    name: &str,
) -> ApiResult<std::sync::Arc<Object>> {
    let (global, plain) = match name.strip_prefix("global:") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    let Some((tag_type, value)) =
        plain.split_once('=').filter(|(t, v)| !t.is_empty() && !v.is_empty())
    else {
        return Err(ApiError::bad(format!(
            "{field}: {name:?} must have the form type=value or global:type=value"
        )));
    };
    let plain = format!("{}={value}", tag_type.to_lowercase());
    let above = rule.fq_name.parent();
    let scope = match rule.parent {
        _ if global => None,
        // Below a policy-management the scope is what that one is in.
        Some((Kind::POLICY_MANAGEMENT, _)) => above.and_then(|pm| pm.parent()),
        _ => above,
    };
    let full = scope.map_or_else(|| FqName::single(&plain), |scope| scope.child(&plain));
    draft
        .by_name(Kind::TAG, &full)
        .ok_or_else(|| ApiError::not_found(format!("{field}: there is no tag {full}")))
}
