//! The forwarding plane's global settings.

use serde_json::Value;
use skein_model::Object;

use crate::error::{ApiError, ApiResult};

const POOLS: &str = "port_translation_pools";
/// Ranges of ports that a protocol can have on a node.
const RANGES: usize = 4;
/// Protocols that have ports to translate.
const PROTOCOLS: [&str; 6] = ["tcp", "6", "udp", "17", "sctp", "132"];

/// Every pool says of which protocol it is, and either which ports or how many.
pub(super) fn check(config: &Object) -> ApiResult<()> {
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
