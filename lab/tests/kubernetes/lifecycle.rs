//! Pods, namespaces and members of services that come and go in numbers.

use crate::{ANSWER, PATIENCE, PODS_READY, Steps, create_namespace};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, ProbeOutcome, SkeinNetwork};
use skein_lab::wait_for;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Asked so often a member, one of ten is left out once in ten thousand runs; then all are asked again.
const OFTEN: usize = 12;
const SHORT: Duration = Duration::from_millis(500);

pub(crate) fn check(
    cluster: &Cluster,
    network: &SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    relabelled(cluster, pods);
    steps.done("members relabelled out and in");
    quotas(cluster);
    steps.done("priority classes and quotas");
    namespaces(cluster, network);
    steps.done("namespaces in a loop");
}

pub(crate) fn service(cluster: &Cluster, name: &str, selector: &Value) -> String {
    let spec = json!({"selector": selector, "ports": [{"port": 8080, "targetPort": 80}]});
    let object = json!({"metadata": {"name": name}, "spec": spec});
    let made = cluster.api().create(SERVICES, &object).unwrap();
    format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap())
}

pub(crate) fn names<'a>(pods: impl IntoIterator<Item = &'a KubePod>) -> BTreeSet<String> {
    pods.into_iter().map(|pod| pod.name.clone()).collect()
}

/// Waits until exactly these answer; gives how long it took.
pub(crate) fn answered_by(asker: &KubePod, target: &str, wanted: &BTreeSet<String>) -> Duration {
    let since = Instant::now();
    let targets = vec![target.to_owned(); OFTEN * wanted.len().max(10)];
    let timeout = if wanted.contains("-") { SHORT } else { ANSWER };
    wait_for(&format!("{} members", wanted.len()), PODS_READY, || {
        let outcomes = asker.ask(&targets, timeout).unwrap();
        let name = |o: &ProbeOutcome| o.answer.as_ref().map_or("-".into(), |a| a.pod.clone());
        let now: BTreeSet<String> = outcomes.iter().map(name).collect();
        if now == *wanted { Ok(()) } else { Err(format!("{now:?}, wanted {wanted:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    since.elapsed()
}

/// A service made before it has members, and members by labels: none that lost its label gets anything.
fn relabelled(cluster: &Cluster, pods: &[KubePod]) {
    let target = service(cluster, "sides", &json!({"side": "in"}));
    let label = |pods: &[KubePod], value: Value| {
        for pod in pods {
            let path = format!("/api/v1/namespaces/default/pods/{}", pod.name);
            let patch = json!({"metadata": {"labels": {"side": value}}});
            cluster.api().merge(&path, &patch).unwrap();
        }
    };
    let asker = &pods[0];
    answered_by(asker, &target, &BTreeSet::from(["-".to_owned()]));
    label(pods, json!("in"));
    answered_by(asker, &target, &names(pods));
    label(&pods[..5], json!("out"));
    answered_by(asker, &target, &names(&pods[5..]));
    label(&pods[..3], json!("in"));
    answered_by(asker, &target, &names(pods[..3].iter().chain(&pods[5..])));
    label(pods, Value::Null);
    cluster.api().delete(&format!("{SERVICES}/sides")).unwrap();
}

/// Tenants share by priority classes with quotas: whoever is above has room, whoever is over it is refused.
fn quotas(cluster: &Cluster) {
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    for (name, value) in [("gold", 1000), ("bronze", 10)] {
        cluster
            .api()
            .create(classes, &json!({"metadata": {"name": name}, "value": value}))
            .unwrap();
    }
    create_namespace(cluster, &json!({"name": "tenants"}));
    let quota = json!({
        "metadata": {"name": "bronze"},
        "spec": {"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["bronze"]},
        ]}},
    });
    let path = "/api/v1/namespaces/tenants";
    cluster.api().create(&format!("{path}/resourcequotas"), &quota).unwrap();
    cluster
        .api()
        .wait(
            "the quota to be counted",
            &format!("{path}/resourcequotas/bronze"),
            PATIENCE,
            |quota| quota["status"]["hard"]["pods"] == "1",
        )
        .unwrap();
    let pod = |name: &str, class: &str| {
        json!({
            "metadata": {"name": name, "labels": {"app": "tenant"}},
            "spec": {
                "priorityClassName": class, "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
            },
        })
    };
    for (name, class) in [("bronze-1", "bronze"), ("gold-1", "gold"), ("gold-2", "gold")] {
        crate::create_pod(cluster, "tenants", &pod(name, class));
    }
    let refused = cluster.api().create(&format!("{path}/pods"), &pod("bronze-2", "bronze"));
    assert!(refused.is_err_and(|error| error.to_string().contains("quota")));
    let tenants = cluster.wait_pods("tenants", "app=tenant", 3, PODS_READY).unwrap();
    crate::assert_all_pairs(&tenants, crate::quickly);
    cluster.api().delete(path).unwrap();
    for name in ["gold", "bronze"] {
        cluster.api().delete(&format!("{classes}/{name}")).unwrap();
    }
}

/// Projects come and go with namespaces.
fn namespaces(cluster: &Cluster, network: &SkeinNetwork) {
    let projects = |wanted: usize| {
        wait_for("projects of namespaces", PODS_READY, || {
            let shown = network.skein(&["get", "project"]).unwrap().stdout;
            let count = shown.lines().filter(|line| line.contains("k8s-loop-")).count();
            if count == wanted { Ok(()) } else { Err(format!("{count} of {wanted}:\n{shown}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    };
    for round in 0..3 {
        let names: Vec<String> = (0..8).map(|at| format!("loop-{round}-{at}")).collect();
        let annotations = |at: usize| match at % 2 {
            0 => json!({}),
            _ => json!({"opencontrail.org/isolation": "true"}),
        };
        for (at, name) in names.iter().enumerate() {
            create_namespace(cluster, &json!({"name": name, "annotations": annotations(at)}));
        }
        projects(names.len());
        for name in &names {
            cluster.api().delete(&format!("/api/v1/namespaces/{name}")).unwrap();
        }
        projects(0);
    }
}
