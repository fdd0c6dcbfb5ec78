//! Orchestrators' clusters that share a fabric: a load balancer of one is carried by that one's nodes. Others have not its
//! secrets, and might have others of the same name (adr/0025).

use skein_model::values::KeyValuePairs;
use skein_model::{Graph, Kind, Object};
use std::collections::BTreeMap;
use uuid::Uuid;

const CLUSTER: &str = "cluster";

/// The cluster that an object belongs to; empty: to all.
fn of(object: &Object) -> String {
    let pairs: KeyValuePairs = object.property("annotations").unwrap_or_default();
    let mut pairs = pairs.key_value_pair.into_iter();
    let own = pairs.find(|pair| pair.key.as_deref() == Some(CLUSTER));
    own.and_then(|pair| pair.value).unwrap_or_default()
}

/// The clusters of nodes, by the name of their virtual-router.
pub(crate) struct Clusters(BTreeMap<String, String>);

impl Clusters {
    pub(crate) fn read(graph: &Graph) -> Self {
        let routers = graph.of_kind(Kind::VIRTUAL_ROUTER);
        Self(routers.map(|router| (router.name().to_owned(), of(router))).collect())
    }

    /// Of these nodes, those that may carry a load balancer.
    pub(crate) fn may_carry<'a>(
        &self,
        graph: &Graph,
        balancer: Uuid,
        nodes: &'a [String],
    ) -> impl Iterator<Item = &'a str> {
        let cluster = graph.get(balancer).map(|object| of(object)).unwrap_or_default();
        let meets = move |node: &&'a String| {
            let own = self.0.get(*node).map_or("", String::as_str);
            own.is_empty() || cluster.is_empty() || *own == cluster
        };
        nodes.iter().filter(meets).map(String::as_str).collect::<Vec<_>>().into_iter()
    }
}
