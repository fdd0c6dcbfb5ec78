//! What cannot be done is said where its user looks: by an Event on the object, in a pod's status, and in the pod's own events. Nothing
//! hangs, and what is mended runs.

use crate::{PODS_GONE, PODS_READY, Steps, create_namespace};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, PROBE_IMAGE};
use skein_lab::wait_for;
use std::time::Duration;

/// A runtime waits 20 s for a pod's announcement before it says what is missing.
const ANNOUNCED: Duration = Duration::from_secs(60);

const NETWORK: &str = "opencontrail.org/network";
const NETWORKS: &str = "k8s.v1.cni.cncf.io/networks";

const SERVICE_NETWORK: &str = "k8s.v1.cni.cncf.io/service-network";
const POLICY_FOR: &str = "k8s.v1.cni.cncf.io/policy-for";
const PODS: &str = "/api/v1/namespaces/default/pods";
const DEFINITIONS: &str =
    "/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";

/// Annotation, value, reason of the Event.
type Bad = (&'static str, &'static str, &'static str);

const ON_NAMESPACES: [Bad; 7] = [
    ("opencontrail.org/isolation", "maybe", "BadAnnotation"),
    ("opencontrail.org/isolation.service", "1", "BadAnnotation"),
    ("opencontrail.org/isolation.service", "false", "NotIsolated"),
    (NETWORK, "{'domain': 'd'", "BadAnnotation"),
    ("opencontrail.org/fip-pool", "only-a-name", "BadAnnotation"),
    ("opencontrail.org/ip_fabric_forwarding", "on", "BadAnnotation"),
    ("opencontrail.org/ip_fabric_snat", "yes", "BadAnnotation"),
];
/// A network of which a pod has [`TAKEN`].
const ASKED: &str = "asked";
const TAKEN: &str = "10.9.1.5";
const HOLDER: &str = "holds-an-address";
const ON_PODS: [Bad; 13] = [
    // These two are mended.
    (NETWORKS, r#"[{"name": "asked", "ips": ["10.9.1.5"]}]"#, "AddressTaken"),
    (NETWORKS, "asked@far-too-long-name1", "BadAnnotation"),
    (NETWORKS, "asked@a/b", "BadAnnotation"),
    (NETWORKS, "asked@net1,asked@net1", "BadAnnotation"),
    (NETWORKS, r#"[{"name": "asked", "ips": ["10.9.2.5"]}]"#, "BadAnnotation"),
    (NETWORKS, r#"[{"name": "asked", "mac": "02:00:00"}]"#, "BadAnnotation"),
    (NETWORKS, r#"[{"name": "asked", "default-route": ["10.9.1.1"]}]"#, "BadAnnotation"),
    (NETWORK, "a:b", "BadAnnotation"),
    (NETWORK, "default-domain:nobody:nothing", "UnknownNetwork"),
    (NETWORKS, "a/b/c", "BadAnnotation"),
    (NETWORKS, "[{]", "BadAnnotation"),
    (NETWORKS, "missing", "UnknownNetwork"),
    (NETWORKS, r#"[{"name": "missing", "ips": ["10.300.0.1"]}]"#, "BadAnnotation"),
];
const ON_SERVICES: [Bad; 4] = [
    (SERVICE_NETWORK, "a/b/c", "BadAnnotation"),
    (SERVICE_NETWORK, "missing", "UnknownNetwork"),
    ("opencontrail.org/fip-pool", "[1, 2]", "BadAnnotation"),
    ("opencontrail.org/fip-pool", "default-domain:nobody:nothing:pool", "UnknownPool"),
];
const ON_DEFINITIONS: [Bad; 3] = [
    ("opencontrail.org/cidr", "10.9.0.0/40", "BadDefinition"),
    (NETWORK, "a:b", "BadDefinition"),
    ("opencontrail.org/ip_fabric_snat", "no", "BadAnnotation"),
];

const ON_INGRESSES: [Bad; 2] = [
    ("externalIP", "everywhere", "BadAnnotation"),
    ("opencontrail.org/fip-pool", "only-a-name", "BadAnnotation"),
];
const ON_POLICIES: [Bad; 3] = [
    ("skein.io/staged", "perhaps", "BadAnnotation"),
    (POLICY_FOR, "a/b/c", "BadAnnotation"),
    (POLICY_FOR, "missing", "UnknownNetwork"),
];

/// Objects that were asked for and cannot be: kind, name, reason.
pub(crate) struct Refused(Vec<(&'static str, String, &'static str)>);

/// Asks for what cannot be; the answers are looked at later.
pub(crate) fn start(cluster: &Cluster) -> Refused {
    let mut asked = Vec::new();
    for (at, (key, value, reason)) in ON_NAMESPACES.into_iter().enumerate() {
        let name = format!("bad-{at}");
        create_namespace(cluster, &json!({"name": name, "annotations": {key: value}}));
        asked.push(("Namespace", name, reason));
    }
    let api = cluster.api();
    let meta =
        |name: &str, key: &str, value: &str| json!({"name": name, "annotations": {key: value}});
    let definition = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": meta(ASKED, "opencontrail.org/cidr", "10.9.1.0/24"),
        "spec": {"config": r#"{"cniVersion": "0.3.1", "type": "skein"}"#},
    });
    cluster.apply(&definition.to_string()).unwrap();
    let spec = |at: usize| {
        json!({
            "nodeName": cluster.nodes()[at % cluster.nodes().len()].name(),
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        })
    };
    // What means nothing is told, too, but hinders nobody.
    let wish = json!([{"name": ASKED, "ips": [TAKEN], "cni-args": {"labels": []}}]).to_string();
    let mut metadata = meta(HOLDER, NETWORKS, &wish);
    metadata["labels"] = json!({"app": HOLDER});
    api.create(PODS, &json!({"metadata": metadata, "spec": spec(2)})).unwrap();
    cluster.wait_pods("default", &format!("app={HOLDER}"), 1, PODS_READY).unwrap();
    for (at, (key, value, reason)) in ON_PODS.into_iter().enumerate() {
        let name = format!("bad-{at}");
        let mut metadata = meta(&name, key, value);
        metadata["labels"] = json!({"refused": name});
        api.create(PODS, &json!({"metadata": metadata, "spec": spec(at)})).unwrap();
        asked.push(("Pod", name, reason));
    }
    asked.push(("Pod", HOLDER.into(), "Ignored"));
    for (at, (key, value, reason)) in ON_SERVICES.into_iter().enumerate() {
        let name = format!("bad-{at}");
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}]});
        let service = json!({"metadata": meta(&name, key, value), "spec": spec});
        api.create("/api/v1/namespaces/default/services", &service).unwrap();
        asked.push(("Service", name, reason));
    }
    for (at, (key, value, reason)) in ON_DEFINITIONS.into_iter().enumerate() {
        let name = format!("bad-{at}");
        let mut metadata = meta(&name, key, value);
        // One that would be good without it.
        if key != "opencontrail.org/cidr" {
            metadata["annotations"]["opencontrail.org/cidr"] = json!("10.9.0.0/24");
        }
        let definition = json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": metadata, "spec": {"config": r#"{"cniVersion": "0.3.1", "type": "skein"}"#},
        });
        cluster.apply(&definition.to_string()).unwrap();
        asked.push(("NetworkAttachmentDefinition", name, reason));
    }
    for (at, (key, value, reason)) in ON_POLICIES.into_iter().enumerate() {
        let name = format!("bad-{at}");
        let spec = json!({"podSelector": {"matchLabels": {"app": "nobody"}}});
        let policy = json!({"metadata": meta(&name, key, value), "spec": spec});
        api.create(POLICIES, &policy).unwrap();
        asked.push(("NetworkPolicy", name, reason));
    }
    for (at, (key, value, reason)) in ON_INGRESSES.into_iter().enumerate() {
        let name = format!("bad-{at}");
        let mut metadata = meta(&name, key, value);
        metadata["annotations"]["kubernetes.io/ingress.class"] = json!("opencontrail");
        let backend = json!({"service": {"name": "bad-0", "port": {"number": 80}}});
        let ingress = json!({"metadata": metadata, "spec": {"defaultBackend": backend}});
        api.create(INGRESSES, &ingress).unwrap();
        asked.push(("Ingress", name, reason));
    }
    Refused(asked)
}

/// Of all namespaces: those about objects without one are in `default` or, with older API servers, in `kube-system`.
fn events(cluster: &Cluster) -> Vec<Value> {
    cluster.api().list("/api/v1/events").unwrap()
}

impl Refused {
    /// Every one has its Event, no pod got as far as to run, and all can be deleted.
    pub(crate) fn check(self, cluster: &Cluster, steps: &mut Steps) {
        for (kind, name, reason) in &self.0 {
            wait_for(&format!("an Event {reason} of {kind} {name}"), PODS_READY, || {
                let all = events(cluster);
                let about = |event: &&Value| {
                    event["involvedObject"]["kind"] == *kind
                        && event["involvedObject"]["name"] == name.as_str()
                };
                let own: Vec<&Value> = all.iter().filter(about).collect();
                if own.iter().any(|event| event["reason"] == *reason) {
                    return Ok(());
                }
                let told =
                    own.iter().map(|event| format!("{}: {}", event["reason"], event["message"]));
                Err(told.collect::<Vec<_>>().join("; "))
            })
            .unwrap_or_else(|error| panic!("{error}"));
        }
        steps.done("Events of bad annotations");
        for (at, (_, _, reason)) in ON_PODS.into_iter().enumerate() {
            let name = format!("bad-{at}");
            wait_for(&format!("the runtime to say why {name} does not start"), ANNOUNCED, || {
                let all = events(cluster);
                let said = all.iter().find(|event| {
                    event["involvedObject"]["name"] == name.as_str()
                        && event["reason"] == "FailedCreatePodSandBox"
                });
                said.map(|_| ()).ok_or("it says nothing")
            })
            .unwrap_or_else(|error| panic!("{error}"));
            let pod = cluster.api().get(&format!("{PODS}/{name}")).unwrap();
            assert_eq!(pod["status"]["phase"], "Pending", "{pod}");
            assert_said_in_status(cluster, &name, reason);
        }
        let pod = cluster.api().get(&format!("{PODS}/{HOLDER}")).unwrap();
        // Made together with its network, it may have been told for a moment that there is none.
        let ready = network_ready(&pod).is_none_or(|condition| condition["status"] == "True");
        assert!(ready, "nothing hinders it: {pod}");
        steps.done("conditions of pods that cannot be");
        mended(cluster);
        steps.done("two of them are mended, and run");
        let paths = [
            ("Namespace", "/api/v1/namespaces"),
            ("Pod", PODS),
            ("Service", "/api/v1/namespaces/default/services"),
            ("NetworkAttachmentDefinition", DEFINITIONS),
            ("NetworkPolicy", POLICIES),
            ("Ingress", INGRESSES),
        ];
        // The holder went so that another one got its address.
        for (kind, name, _) in self.0.iter().filter(|(_, name, _)| name != HOLDER) {
            let path = paths.iter().find(|(one, _)| one == kind).unwrap().1;
            cluster.api().delete(&format!("{path}/{name}")).unwrap();
        }
        wait_for("the pods that never ran to go", PODS_GONE, || {
            let all = cluster.api().list(PODS).unwrap();
            let left = all.iter().filter(|pod| {
                pod["metadata"]["name"].as_str().is_some_and(|name| name.starts_with("bad-"))
            });
            match left.count() {
                0 => Ok(()),
                count => Err(format!("{count} are left")),
            }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        cluster.api().delete(&format!("{DEFINITIONS}/{ASKED}")).unwrap();
        steps.done("pods that cannot be say why, and go");
    }
}

/// What a pod's status says about its network.
fn network_ready(pod: &Value) -> Option<&Value> {
    let conditions = pod["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == "skein.io/NetworkReady")
}

/// The condition has the Event's reason and words, and the kubelet's own conditions stay beside it.
fn assert_said_in_status(cluster: &Cluster, name: &str, reason: &str) {
    wait_for(&format!("the condition {reason} of {name}"), PODS_READY, || {
        let pod = cluster.api().get(&format!("{PODS}/{name}")).map_err(|e| e.to_string())?;
        let all = events(cluster);
        let told = |said: &Value| {
            all.iter().any(|event| {
                event["involvedObject"]["name"] == name
                    && event["reason"] == reason
                    && event["message"] == *said
            })
        };
        let said = network_ready(&pod).is_some_and(|condition| {
            condition["status"] == "False"
                && condition["reason"] == reason
                && condition["lastTransitionTime"].is_string()
                && told(&condition["message"])
        });
        let others = pod["status"]["conditions"].as_array().into_iter().flatten();
        let kubelets = others.filter(|one| one["type"] == "Ready").count();
        if said && kubelets == 1 { Ok(()) } else { Err(pod["status"].to_string()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// An annotation is corrected, an address becomes free: both pods run, and their status says that it is well.
fn mended(cluster: &Cluster) {
    let api = cluster.api();
    api.delete(&format!("{PODS}/{HOLDER}")).unwrap();
    let annotations = json!({NETWORKS: format!("{ASKED}@net1")});
    let correction = json!({"metadata": {"annotations": annotations}});
    api.merge(&format!("{PODS}/bad-1"), &correction).unwrap();
    for name in ["bad-0", "bad-1"] {
        let selector = format!("refused={name}");
        // Its kubelet tries again by and by.
        let pod = cluster.wait_pods("default", &selector, 1, PODS_GONE).unwrap().remove(0);
        wait_for(&format!("the status of {name}"), PODS_READY, || {
            let pod = api.get(&format!("{PODS}/{name}")).map_err(|error| error.to_string())?;
            let well = network_ready(&pod)
                .is_some_and(|one| one["status"] == "True" && one["reason"] == "Made");
            if well { Ok(()) } else { Err(pod["status"].to_string()) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let device = if name == "bad-0" { "eth1" } else { "net1" };
        let shown = pod.run("/bin/ip", &["-4", "addr", "show", device]).unwrap().success().unwrap();
        assert!(shown.contains(if name == "bad-0" { TAKEN } else { "10.9.1." }), "{shown}");
    }
}
