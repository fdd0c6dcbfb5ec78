//! Pods, namespaces and members of services that come and go in numbers.

use crate::{
    ANSWER, PATIENCE, PODS_GONE, PODS_READY, Steps, create_namespace, other_node, streams,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, ProbeOutcome, SkeinNetwork};
use skein_lab::wait_for;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
/// Asked so often, one of ten members is left out once in ten thousand runs; then it is asked again.
const OFTEN: usize = 120;
const SHORT: Duration = Duration::from_millis(500);

pub(crate) fn check(
    cluster: &Cluster,
    network: &SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    relabelled(cluster, pods);
    steps.done("members relabelled out and in");
    scaled(cluster, network, pods);
    steps.done("a deployment scaled 10, 5, 8, and deleted");
    quotas(cluster);
    steps.done("priority classes and quotas");
    namespaces(cluster, network);
    steps.done("namespaces in a loop");
}

fn service(cluster: &Cluster, name: &str, selector: &Value) -> String {
    let spec = json!({"selector": selector, "ports": [{"port": 8080, "targetPort": 80}]});
    let object = json!({"metadata": {"name": name}, "spec": spec});
    let made = cluster.api().create(SERVICES, &object).unwrap();
    format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap())
}

fn names<'a>(pods: impl IntoIterator<Item = &'a KubePod>) -> BTreeSet<String> {
    pods.into_iter().map(|pod| pod.name.clone()).collect()
}

/// Waits until exactly these answer; gives how long it took.
fn answered_by(asker: &KubePod, target: &str, wanted: &BTreeSet<String>) -> Duration {
    let since = Instant::now();
    let targets = vec![target.to_owned(); OFTEN];
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

/// As many pods as there are replicas answer, a connection keeps its member through growth, and nothing is left.
fn scaled(cluster: &Cluster, network: &SkeinNetwork, pods: &[KubePod]) {
    let template = json!({
        "metadata": {"labels": {"app": "crowd"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
            "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1, "timeoutSeconds": 5},
        }]},
    });
    let labels = json!({"matchLabels": {"app": "crowd"}});
    let spec = json!({"replicas": 2, "selector": labels, "template": template});
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "crowd"}, "spec": spec});
    cluster.api().create(DEPLOYMENTS, &object).unwrap();
    let target = service(cluster, "crowd", &json!({"app": "crowd"}));
    let (asker, other) = (&pods[0], other_node(pods, &pods[0]));
    let living = |count: usize| -> Vec<KubePod> {
        wait_for(&format!("{count} pods of the deployment"), PODS_READY, || {
            let all = cluster.pods("default", "app=crowd").unwrap();
            let stays = |pod: &KubePod| pod.object["metadata"]["deletionTimestamp"].is_null();
            let living: Vec<KubePod> =
                all.into_iter().filter(|pod| stays(pod) && pod.ready).collect();
            if living.len() == count { Ok(living) } else { Err(format!("{} are", living.len())) }
        })
        .unwrap_or_else(|error| panic!("{error}"))
    };
    let scale = |replicas: usize| {
        let patch = json!({"spec": {"replicas": replicas}});
        cluster.api().merge(&format!("{DEPLOYMENTS}/crowd"), &patch).unwrap();
        let since = Instant::now();
        let living = living(replicas);
        println!("{replicas} replicas are ready after {:.1} s", since.elapsed().as_secs_f64());
        let took = answered_by(asker, &target, &names(&living));
        println!("all of them answer {:.2} s later", took.as_secs_f64());
    };
    living(2);
    // A burst, as autoscaling makes one.
    scale(10);
    // Half of the members go: whoever has one of the others must not notice.
    let log = |number: usize| cluster.state().join(format!("crowd-{number}.log"));
    let streams: Vec<_> = (0..8)
        .map(|number| {
            let client = if number % 2 == 0 { asker } else { other };
            client.stream(target.trim_start_matches("tcp:"), &log(number)).unwrap()
        })
        .collect();
    streams.iter().for_each(streams::goes_on);
    scale(5);
    let stay = names(&living(5));
    let mut kept = 0;
    for stream in streams {
        let member = stream.pod().unwrap();
        if stay.contains(&member) {
            streams::unnoticed(stream, &member);
            kept += 1;
        }
    }
    // One of 256 times all eight had those that went.
    println!("{kept} of 8 connections had a member that stayed");
    let stream = asker
        .stream(target.trim_start_matches("tcp:"), &cluster.state().join("crowd.log"))
        .unwrap();
    streams::goes_on(&stream);
    let member = stream.pod().unwrap();
    scale(8);
    streams::unnoticed(stream, &member);
    answered_by(other, &target, &names(&living(8)));
    for path in [format!("{DEPLOYMENTS}/crowd"), format!("{SERVICES}/crowd")] {
        cluster.api().delete(&path).unwrap();
    }
    wait_for("machines and ports of the deployment to go", PODS_GONE, || {
        let mut left = network.skein(&["get", "virtual-machine"]).unwrap().stdout;
        for node in 0..cluster.nodes().len() {
            left += &network.skein_on(node, &["vrouter", "interfaces"]).unwrap().stdout;
        }
        let left: Vec<&str> = left.lines().filter(|line| line.contains("crowd")).collect();
        if left.is_empty() { Ok(()) } else { Err(left.join("\n")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
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
