//! A service with affinity whose members are those that Kubernetes calls ready, as of most services.
//!
//! Kubernetes itself takes members out for moments: a kubelet that was started again says of every container with a readiness probe
//! that it is not ready until the first probe is through, and its node may be called not ready. A client whose member is away gets
//! another one. As long as the endpoints stay as they are, it keeps the one it has.

use crate::{ANSWER, PODS_READY};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, SkeinNetwork};
use skein_lab::wait_for;
use std::collections::{BTreeMap, BTreeSet};

const NAME: &str = "followed";
const SET: &str = "probe3";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices";

/// The service, and its client's place in it.
pub(crate) struct Followed<'a> {
    client: &'a KubePod,
    /// Of the client's node.
    node: usize,
    members: BTreeSet<String>,
    target: String,
    last: Place,
}

/// Which member a client has, while the endpoints were these.
#[derive(Debug)]
struct Place {
    /// Kubernetes counts the changes of every slice.
    generations: BTreeMap<String, i64>,
    member: String,
}

impl<'a> Followed<'a> {
    pub(crate) fn start(
        cluster: &Cluster,
        network: &SkeinNetwork,
        client: &'a KubePod,
        pods: &[KubePod],
    ) -> Followed<'a> {
        let service = json!({"metadata": {"name": NAME}, "spec": {
            "selector": {"set": SET}, "sessionAffinity": "ClientIP",
            "ports": [{"port": 8080, "targetPort": 80}],
        }});
        let made = cluster.api().create(SERVICES, &service).unwrap();
        let target = format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap());
        let node = cluster.nodes().iter().position(|node| node.name() == client.node).unwrap();
        let members = crate::services::names(pods, SET);
        let last = Place { generations: BTreeMap::new(), member: String::new() };
        let mut followed = Followed { client, node, members, target, last };
        followed.last = followed.place(cluster, network);
        followed
    }

    /// All members are back, and the client has the same one, unless Kubernetes changed the endpoints meanwhile.
    pub(crate) fn check(&mut self, cluster: &Cluster, network: &SkeinNetwork, what: &str) {
        let now = self.place(cluster, network);
        if now.generations == self.last.generations {
            assert_eq!(now.member, self.last.member, "endpoints stayed through {what}: {now:?}");
        } else {
            println!("Kubernetes changed endpoints while {what}: {:?} {now:?}", self.last);
        }
        self.last = now;
    }

    pub(crate) fn end(self, cluster: &Cluster) {
        cluster.api().delete(&format!("{SERVICES}/{NAME}")).unwrap();
    }

    /// Where the client is, when all members are ready and its node knows.
    fn place(&self, cluster: &Cluster, network: &SkeinNetwork) -> Place {
        wait_for("all members of a service, and the client's", PODS_READY, || {
            let before = self.generations(cluster)?;
            self.in_force(network)?;
            let member = self.member()?;
            let after = self.generations(cluster)?;
            if before != after {
                return Err(format!("endpoints change: {before:?} {after:?}"));
            }
            Ok(Place { generations: after, member })
        })
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Of the slices, in which every member is ready.
    fn generations(&self, cluster: &Cluster) -> Result<BTreeMap<String, i64>, String> {
        let own = format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3D{NAME}");
        let slices = cluster.api().list(&own).map_err(|error| error.to_string())?;
        let ready =
            slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        let ready: BTreeSet<String> = ready
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| endpoint["targetRef"]["name"].as_str().map(str::to_owned))
            .collect();
        if ready != self.members {
            return Err(format!("{ready:?} are ready"));
        }
        let generation = |slice: &Value| {
            let meta = &slice["metadata"];
            Some((meta["name"].as_str()?.to_owned(), meta["generation"].as_i64()?))
        };
        slices.iter().map(|slice| generation(slice).ok_or(slice.to_string())).collect()
    }

    /// The client's node gives all of them to clients.
    fn in_force(&self, network: &SkeinNetwork) -> Result<(), String> {
        let shown = network.skein_on(self.node, &["vrouter", "services", "-o", "json"]);
        let shown = shown.map_err(|error| error.to_string())?.stdout;
        let services: Value = serde_json::from_str(&shown).map_err(|error| error.to_string())?;
        let own = |service: &&Value| {
            service["name"].as_str().is_some_and(|name| name.contains(&format!("default/{NAME}")))
        };
        let service = services.as_array().into_iter().flatten().find(own).ok_or("not known")?;
        let members = service["members"].as_array().into_iter().flatten();
        let usable = members.filter(|member| member["usable"] == true).count();
        if usable == self.members.len() { Ok(()) } else { Err(service.to_string()) }
    }

    fn member(&self) -> Result<String, String> {
        let targets = vec![self.target.clone(); 5];
        let outcomes = self.client.ask(&targets, ANSWER).map_err(|error| error.to_string())?;
        let seen = crate::services::answering(&outcomes);
        match seen.first() {
            Some(one) if seen.len() == 1 && self.members.contains(one) => Ok(one.clone()),
            _ => Err(format!("{outcomes:?}")),
        }
    }
}
