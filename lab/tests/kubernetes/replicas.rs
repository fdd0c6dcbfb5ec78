//! Deployments whose pods come and go while their namespace's way outside is by the nodes' addresses, or by their own.

use crate::outside::World;
use crate::{PODS_READY, Steps};
use serde_json::json;
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE};
use skein_lab::wait_for;

const APP: &str = "replica";

/// After [`crate::outside::check`], which made both namespaces.
pub(crate) fn check(world: &World<'_>, steps: &mut Steps) {
    for (namespace, forwarded) in [("out", false), ("edge", true)] {
        let deployments = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
        let labels = json!({"app": APP});
        let deployment = json!({"metadata": {"name": APP}, "spec": {
            "replicas": 2, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
            }},
        }});
        world.cluster.api().create(&deployments, &deployment).unwrap();
        let path = format!("{deployments}/{APP}");
        for replicas in [2, 6, 1] {
            let patch = json!({"spec": {"replicas": replicas}});
            world.cluster.api().merge(&path, &patch).unwrap();
            let pods = living(world.cluster, namespace, replicas);
            // All of them: those that were there before, and those that came.
            if forwarded {
                world.sees(&pods, |pod| pod.address.clone());
                world.reaches(&pods);
            } else {
                world.sees(&pods, |pod| world.node_of(pod));
                world.assert_kept_out(&pods);
            }
        }
        world.cluster.api().delete(&path).unwrap();
    }
    steps.done("replicas that come and go, outside by their nodes' addresses and by their own");
}

fn living(cluster: &Cluster, namespace: &str, count: usize) -> Vec<KubePod> {
    wait_for(&format!("{count} replicas"), PODS_READY, || {
        let all = cluster.pods(namespace, &format!("app={APP}")).map_err(|e| e.to_string())?;
        let stays = |pod: &KubePod| pod.object["metadata"]["deletionTimestamp"].is_null();
        let living: Vec<KubePod> = all.into_iter().filter(|pod| stays(pod) && pod.ready).collect();
        if living.len() == count { Ok(living) } else { Err(format!("{} are", living.len())) }
    })
    .unwrap_or_else(|error| panic!("{error}"))
}
