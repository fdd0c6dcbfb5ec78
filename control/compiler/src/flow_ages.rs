//! How long connections of some protocols and ports last without a packet: `flow_aging_timeout_list` of
//! global-vrouter-config (spec/vrouter.md section 3.3). Every node does the same.

use crate::rule::protocols;
use skein_model::values::{FlowAgingTimeout, FlowAgingTimeoutList};
use std::collections::BTreeMap;

/// Connections of one protocol and port, or of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowAge {
    /// IP protocol number.
    pub protocol: u8,
    /// A port of either end; 0: all of the protocol whose ports have no entry.
    pub port: u16,
    /// Seconds without a packet; 0: for ever.
    pub seconds: u32,
}

/// In order, one for each protocol and port: of several the last one counts, as it does in the original. What says nothing sensible is left
/// out: the API refuses it.
pub(crate) fn read(list: &FlowAgingTimeoutList) -> Vec<FlowAge> {
    let all = list.flow_aging_timeout.iter().flat_map(one);
    let all: BTreeMap<(u8, u16), FlowAge> =
        all.map(|age| ((age.protocol, age.port), age)).collect();
    all.into_values().collect()
}

fn one(entry: &FlowAgingTimeout) -> Vec<FlowAge> {
    let port = u16::try_from(entry.port.unwrap_or(0)).ok();
    let seconds = entry.timeout_in_seconds.and_then(|seconds| u32::try_from(seconds).ok());
    let (Some(port), Some(seconds), Some(name)) = (port, seconds, entry.protocol.as_deref()) else {
        return Vec::new();
    };
    let numbers = protocols(name, None).into_iter().filter_map(|protocol| protocol.number);
    numbers.map(|protocol| FlowAge { protocol, port, seconds }).collect()
}
