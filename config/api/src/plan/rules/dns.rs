//! Virtual DNS servers and their records: spec section 17 and docs/adr/0012.

use serde_json::{Map, Value};
use skein_model::{FqName, Kind, Object};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    error::{ApiError, ApiResult},
    plan::Draft,
};

const SERVER: &str = "virtual_DNS_data";
const RECORD: &str = "virtual_DNS_record_data";
/// RFC 2181 section 8: 31 bits.
const LONGEST_TTL: i64 = 0x7fff_ffff;

fn data<'a>(object: &'a Object, property: &str) -> ApiResult<&'a Map<String, Value>> {
    let data = object.properties.get(property).and_then(Value::as_object);
    data.ok_or_else(|| ApiError::bad(format!("{property}: must be given")))
}

fn text<'a>(data: &'a Map<String, Value>, field: &str) -> &'a str {
    data.get(field).and_then(Value::as_str).unwrap_or_default().trim()
}

/// Checks a server: a domain that can be one, and nobody asked in a circle.
pub(super) fn server(draft: &Draft<'_>, server: &Object) -> ApiResult<()> {
    let data = data(server, SERVER)?;
    let domain = text(data, "domain_name");
    if !is_name(domain.strip_suffix('.').unwrap_or(domain), false) {
        return Err(ApiError::bad(format!(
            "{SERVER}.domain_name: {domain:?} is no domain; write labels of letters, digits and hyphens, \
             63 at most each, as in shop.example.com"
        )));
    }
    check_ttl(data, SERVER, "default_ttl_seconds")?;
    if let Some(soa) = data.get("soa_record").and_then(Value::as_object) {
        check_ttl(soa, "virtual_DNS_data.soa_record", "negative_cache_ttl_seconds")?;
    }
    check_next(draft, server, text(data, "next_virtual_DNS"))
}

fn check_ttl(data: &Map<String, Value>, place: &str, field: &str) -> ApiResult<()> {
    match data.get(field).and_then(Value::as_i64) {
        Some(ttl) if !(0..=LONGEST_TTL).contains(&ttl) => {
            Err(ApiError::bad(format!("{place}.{field}: {ttl} is not 0 to {LONGEST_TTL}")))
        }
        _ => Ok(()),
    }
}

/// The server that another one asks; none for addresses and for what is not there.
fn next_of(draft: &Draft<'_>, server: &Object) -> Option<std::sync::Arc<Object>> {
    let next = data(server, SERVER).ok().map(|data| text(data, "next_virtual_DNS"))?;
    if next.is_empty() || next.parse::<IpAddr>().is_ok() {
        return None;
    }
    draft.by_name(Kind::VIRTUAL_DNS, &FqName::parse(next))
}

fn check_next(draft: &Draft<'_>, server: &Object, next: &str) -> ApiResult<()> {
    if next.is_empty() || next.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let name = FqName::parse(next);
    let circle = || {
        ApiError::bad(format!(
            "{SERVER}.next_virtual_DNS: {next} leads back to {}; servers must not ask in a circle",
            server.fq_name
        ))
    };
    if name == server.fq_name {
        return Err(circle());
    }
    let mut seen = BTreeSet::from([server.uuid]);
    let mut at = draft.by_name(Kind::VIRTUAL_DNS, &name);
    if at.is_none() {
        return Err(ApiError::bad(format!(
            "{SERVER}.next_virtual_DNS: {next:?} is neither an address nor a virtual-DNS that exists; write domain:name"
        )));
    }
    while let Some(other) = at {
        if !seen.insert(other.uuid) {
            return Err(circle());
        }
        at = next_of(draft, &other);
        // What is being changed is not what is stored.
        if at.as_ref().is_some_and(|object| object.uuid == server.uuid) {
            return Err(circle());
        }
    }
    Ok(())
}

/// Nobody may be left asking a server that is gone.
pub(super) fn server_before_delete(draft: &Draft<'_>, server: &Object) -> ApiResult<()> {
    let mut others = draft.head.graph.of_kind(Kind::VIRTUAL_DNS);
    let asking = others.find(|other| {
        other.uuid != server.uuid
            && !draft.is_deleted(other.uuid)
            && next_of(draft, other).is_some_and(|next| next.uuid == server.uuid)
    });
    match asking {
        Some(other) => Err(ApiError::forbidden(format!(
            "virtual-DNS {} is the next_virtual_DNS of {}; change that one first",
            server.fq_name, other.fq_name
        ))),
        None => Ok(()),
    }
}

/// Checks a record: a name, and data that its type can have.
pub(super) fn record(record: &Object) -> ApiResult<()> {
    let data = data(record, RECORD)?;
    let (kind, name, value) =
        (text(data, "record_type"), text(data, "record_name"), text(data, "record_data"));
    let bad =
        |field: &str, reason: String| Err(ApiError::bad(format!("{RECORD}.{field}: {reason}")));
    check_ttl(data, RECORD, "record_ttl_seconds")?;
    if kind.is_empty() {
        return bad("record_type", "must be given: A, AAAA, CNAME, PTR, NS, MX or SRV".into());
    }
    let owner = name.strip_suffix('.').unwrap_or(name);
    if kind == "PTR" {
        let reverse = owner.ends_with(".in-addr.arpa") || owner.ends_with(".ip6.arpa");
        if name.parse::<IpAddr>().is_err() && !(reverse && is_name(owner, false)) {
            return bad("record_name", format!("{name:?} is no address; write 10.0.0.1"));
        }
    } else if name != "@" && !is_name(owner, true) {
        return bad("record_name", format!("{name:?} is no name; write www, or @ for the domain"));
    }
    let is_target = |text: &str| is_name(text.strip_suffix('.').unwrap_or(text), true);
    match kind {
        "A" if value.parse::<Ipv4Addr>().is_err() => {
            bad("record_data", format!("{value:?} is no IPv4 address"))
        }
        "AAAA" if value.parse::<Ipv6Addr>().is_err() => {
            bad("record_data", format!("{value:?} is no IPv6 address"))
        }
        "SRV" => {
            let parts: Vec<&str> = value.split_whitespace().collect();
            let fits = matches!(parts.as_slice(), [numbers @ .., target]
                if numbers.len() == 3
                    && numbers.iter().all(|number| number.parse::<u16>().is_ok())
                    && is_target(target));
            if fits {
                return Ok(());
            }
            bad("record_data", format!("{value:?} is not `priority weight port name`"))
        }
        "CNAME" | "PTR" | "NS" | "MX" if !is_target(value) => {
            bad("record_data", format!("{value:?} is no name; write www or www.example.com"))
        }
        "MX" => match data.get("record_mx_preference").and_then(Value::as_i64) {
            Some(preference) if !(0..=0xffff).contains(&preference) => {
                bad("record_mx_preference", format!("{preference} is not 0 to 65535"))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Whether a text is a name without its last dot: labels of 1 to 63 letters, digits and hyphens inside, 253 in all (RFC 1123
/// section 2.1). Underscores are for services' names (RFC 2782).
fn is_name(text: &str, underscores: bool) -> bool {
    let label = |label: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || (underscores && c == b'_');
        let bytes = label.as_bytes();
        bytes.len() <= 63
            && bytes.first().is_some_and(|c| plain(*c))
            && bytes.last().is_some_and(|c| plain(*c))
            && bytes.iter().all(|c| plain(*c) || *c == b'-')
    };
    text.len() <= 253 && text.split('.').all(label)
}
