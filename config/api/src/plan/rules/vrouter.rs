//! The forwarding plane's global settings.

use serde_json::Value;
use skein_model::Object;

use crate::error::{ApiError, ApiResult};

const POOLS: &str = "port_translation_pools";
/// Ranges of ports that a protocol can have on a node.
const RANGES: usize = 4;
/// Protocols that have ports to translate.
const PROTOCOLS: [&str; 6] = ["tcp", "6", "udp", "17", "sctp", "132"];

const AGES: &str = "flow_aging_timeout_list";
/// Entries that a node has room for.
const MOST_AGES: usize = 1024;
/// Protocols that go by a name here; others by their number.
const NAMES: [&str; 11] =
    ["tcp", "udp", "sctp", "icmp", "icmpv6", "icmp6", "ipv6-icmp", "gre", "esp", "ah", "udplite"];

/// What can be said about the forwarding plane can be done.
pub(super) fn check(config: &Object) -> ApiResult<()> {
    check_pools(config)?;
    check_ages(config)
}

/// Every entry names its protocol, a port there is, and a time.
fn check_ages(config: &Object) -> ApiResult<()> {
    let ages = config.properties.get(AGES).and_then(|ages| ages.get("flow_aging_timeout"));
    let ages = ages.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if ages.len() > MOST_AGES {
        let count = ages.len();
        return Err(ApiError::bad(format!("{AGES}: {count} entries; a node takes {MOST_AGES}")));
    }
    for (at, age) in ages.iter().enumerate() {
        let bad = |why: String| Err(ApiError::bad(format!("{AGES}[{at}].{why}")));
        let protocol = age.get("protocol").and_then(Value::as_str).unwrap_or_default();
        let name = protocol.to_ascii_lowercase();
        if !NAMES.contains(&name.as_str()) && !name.parse::<u8>().is_ok_and(|number| number > 0) {
            return bad(format!(
                "protocol: {protocol:?} is neither tcp, udp, sctp, icmp nor a number"
            ));
        }
        let number = |field| age.get(field).and_then(Value::as_i64);
        let port = number("port").unwrap_or(0);
        if !(0..=65_535).contains(&port) {
            return bad(format!("port: {port} is none; 0 stands for the whole protocol"));
        }
        match number("timeout_in_seconds") {
            Some(seconds) if u32::try_from(seconds).is_ok() => {}
            _ => return bad("timeout_in_seconds: give a number; 0 is for ever".into()),
        }
    }
    Ok(())
}

/// Every pool says of which protocol it is, and either which ports or how many.
fn check_pools(config: &Object) -> ApiResult<()> {
    let pools = config.properties.get(POOLS).and_then(|pools| pools.get("port_translation_pool"));
    let pools = pools.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (at, pool) in pools.iter().enumerate() {
        let bad = |why: String| Err(ApiError::bad(format!("{POOLS}[{at}].{why}")));
        let protocol = pool.get("protocol").and_then(Value::as_str).unwrap_or_default();
        if !PROTOCOLS.contains(&protocol.to_ascii_lowercase().as_str()) {
            return bad(format!("protocol: {protocol:?} is none of tcp, udp and sctp"));
        }
        let given = |field| pool.get(field).filter(|value| !value.is_null());
        match (given("port_range"), given("port_count")) {
            (Some(range), None) => {
                let port = |field, or| range.get(field).and_then(Value::as_i64).unwrap_or(or);
                let (start, end) = (port("start_port", 0), port("end_port", 65_535));
                if start < 1 || end < start {
                    let why = "the first port is at least 1, and not behind the last";
                    return bad(format!("port_range: {start} to {end}: {why}"));
                }
            }
            (None, Some(count)) => {
                let text = count.as_str().unwrap_or_default().trim();
                if !text.parse::<u16>().is_ok_and(|count| count > 0) {
                    return bad(format!("port_count: {text:?} is no number from 1 to 65535"));
                }
            }
            _ => return bad("port_range: give either this or port_count".into()),
        }
    }
    for protocol in PROTOCOLS.chunks(2) {
        let of_it = |pool: &&Value| {
            let name = pool.get("protocol").and_then(Value::as_str).unwrap_or_default();
            protocol.contains(&name.to_ascii_lowercase().as_str())
        };
        let count = pools.iter().filter(of_it).count();
        if count > RANGES {
            return Err(ApiError::bad(format!(
                "{POOLS}: {count} pools of {}; a node has room for {RANGES} a protocol: join some",
                protocol[0]
            )));
        }
    }
    Ok(())
}
