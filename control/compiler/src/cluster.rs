//! Orchestrators' clusters that share a fabric.
//!
//! An orchestrator says by the annotation `cluster` of networks and virtual-routers which of them are its own. What a
//! node's own stack may use, and which nodes are its like, ends at its cluster: two clusters may have services of the
//! same addresses and the same node ports (adr/0025). Who names no cluster belongs to all of them.

use skein_model::Object;
use skein_model::values::KeyValuePairs;

const CLUSTER: &str = "cluster";

/// What an orchestrator wrote on an object.
pub(crate) fn annotation(object: &Object, key: &str) -> Option<String> {
    let pairs: KeyValuePairs = object.property("annotations")?;
    pairs.key_value_pair.into_iter().find(|pair| pair.key.as_deref() == Some(key))?.value
}

/// The cluster that an object belongs to; empty: to all.
pub(crate) fn of(object: &Object) -> String {
    annotation(object, CLUSTER).unwrap_or_default()
}

/// Whether one has to do with the other.
pub(crate) fn meet(one: &str, other: &str) -> bool {
    one.is_empty() || other.is_empty() || one == other
}
