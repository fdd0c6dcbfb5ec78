//! The Helm chart and the plain manifest say the same, and what they say is sound.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed step is a failed test")]
#![allow(unreachable_pub, reason = "helm.rs is shared with a test that has more modules")]

#[path = "support/helm.rs"]
mod helm;

use helm::{chart, helm};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The beginning of the plain manifest; people read it first.
const HEADER: &str = "\
# Skein as the network of a Kubernetes cluster. Label the node that keeps the configuration, then apply this:
#   kubectl label node NAME skein.io/controller=
#   kubectl apply -f skein.yaml
# Other prefixes, images or names: docs/install.md. Rendered from deploy/helm/skein with its default values; a test holds
# the two together (SKEIN_WRITE=1 cargo test -p skein-lab --test chart writes this file anew).
";

fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/skein.yaml")
}

fn documents(text: &str) -> Vec<Value> {
    let parts = text.split("\n---\n").map(|part| part.strip_prefix("---\n").unwrap_or(part));
    parts
        .map(|part| serde_saphyr::from_str(part).unwrap_or_else(|e| panic!("{e}\n{part}")))
        .collect()
}

/// What `helm template` makes of the chart; what it says beside is for the reader of a failure.
fn template(options: &[&str]) -> Result<String, String> {
    let home = tempfile::tempdir().unwrap();
    let mut command = helm(home.path());
    command.arg("template").arg("skein").arg(chart()).arg("--include-crds").args(options);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(said) }
}

fn render(options: &[&str]) -> String {
    template(options).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn helm_finds_nothing_wrong() {
    let home = tempfile::tempdir().unwrap();
    let output = helm(home.path()).args(["lint", "--strict"]).arg(chart()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // A chart that is packed is whole: its rights are links to files of other folders here.
    let output =
        helm(home.path()).arg("package").arg(chart()).arg("-d").arg(home.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let packed = home.path().join("skein-0.1.0.tgz");
    let mut command = helm(home.path());
    let output =
        command.args(["template", "skein", "--include-crds"]).arg(packed).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), render(&[]));
}

#[test]
fn the_plain_manifest_is_the_chart_with_its_defaults() {
    let rendered = format!("{HEADER}{}", render(&[]));
    if std::env::var_os("SKEIN_WRITE").is_some() {
        std::fs::write(manifest(), &rendered).unwrap();
    }
    let there = std::fs::read_to_string(manifest()).unwrap();
    assert!(there == rendered, "run: SKEIN_WRITE=1 cargo test -p skein-lab --test chart");
}

/// A release that lives in the chart's own namespace, which Helm then makes.
#[test]
fn the_namespace_is_there_once() {
    let spaces =
        |text: &str| documents(text).iter().filter(|object| object["kind"] == "Namespace").count();
    assert_eq!(spaces(&render(&[])), 1);
    assert_eq!(spaces(&render(&["--namespace", "skein-system"])), 0);
    assert_eq!(
        documents(&render(&["--namespace", "skein-system"])).len() + 1,
        documents(&render(&[])).len()
    );
}

#[test]
fn what_a_kubernetes_serves_is_what_it_gets() {
    let budget = |options: &[&str]| render(options).contains("kind: PodDisruptionBudget");
    assert!(budget(&["--kube-version", "1.34.0"]));
    // Before 1.21 it is of another version; the manager does without.
    assert!(!render(&["--kube-version", "1.20.2"]).contains("kind: PodDisruptionBudget"));
    let error = template(&["--kube-version", "1.19.0"]).unwrap_err();
    assert!(error.contains("kubeVersion"), "{error}");
}

#[test]
fn every_object_is_said_once_and_in_a_usable_order() {
    let all = documents(&render(&[]));
    let mut seen = BTreeSet::new();
    let mut namespaces = BTreeSet::new();
    for object in &all {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let (kind, name) = (text("/kind"), text("/metadata/name"));
        assert!(
            !text("/apiVersion").is_empty() && !kind.is_empty() && !name.is_empty(),
            "{object}"
        );
        let namespace = text("/metadata/namespace");
        assert!(seen.insert((kind, namespace, name)), "{kind} {name} is there twice");
        if kind == "Namespace" {
            namespaces.insert(name);
        }
        let built_in = namespace.is_empty() || namespace == "kube-system";
        assert!(
            built_in || namespaces.contains(namespace),
            "{kind} {name} comes before {namespace}"
        );
    }
    for (kind, name) in [
        ("CustomResourceDefinition", "virtualnetworks.skein.io"),
        ("StatefulSet", "skein-controller"),
        ("DaemonSet", "skein-agent"),
        ("Deployment", "skein-kube-manager"),
        ("DaemonSet", "skein-loadbalancer"),
    ] {
        assert!(seen.iter().any(|(k, _, n)| *k == kind && *n == name), "{kind} {name} is missing");
    }
}

/// Nothing of the network may need the network.
#[test]
fn every_pod_starts_before_there_is_a_network() {
    for object in documents(&render(&[])) {
        let Some(pod) = object.pointer("/spec/template/spec") else { continue };
        let name = &object["metadata"]["name"];
        assert_eq!(pod["hostNetwork"], true, "{name}");
        assert_eq!(pod["tolerations"][0]["operator"], "Exists", "{name}");
        assert_eq!(pod["priorityClassName"], "system-node-critical", "{name}");
        for container in pod["containers"].as_array().unwrap() {
            assert!(container["resources"]["requests"].is_object(), "{name}");
            assert!(container["readinessProbe"].is_object(), "{name}");
            assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL", "{name}");
            assert!(container["securityContext"].get("privileged").is_none(), "{name}");
        }
    }
}

#[test]
fn values_change_what_they_say() {
    let text = render(&[
        "--set=image.repository=registry.local/skein",
        "--set=controller.persistentVolume.enabled=true",
        "--set=controller.persistentVolume.storageClassName=fast",
        "--set=kubernetes.host=10.0.0.1",
        "--set=cluster.name=west",
    ]);
    let all = documents(&text);
    let find = |kind: &str, name: &str| {
        let found = all.iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
        found.cloned().unwrap_or_else(|| panic!("no {kind} {name}"))
    };
    let controller = find("StatefulSet", "skein-controller");
    assert!(controller["spec"]["template"]["spec"].get("volumes").is_none());
    assert_eq!(controller["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"], "fast");
    let image = &controller["spec"]["template"]["spec"]["containers"][0]["image"];
    assert_eq!(image, "registry.local/skein:0.1.0");
    assert_eq!(find("ConfigMap", "skein-kubernetes")["data"]["KUBERNETES_SERVICE_PORT"], "6443");
    assert_eq!(controller["spec"]["replicas"], 1);
    let three = documents(&render(&[
        "--kube-version=1.34.0",
        "--set=controller.replicas=3",
        "--set=controller.etcd.endpoints=https://10.0.0.1:2379\\,https://10.0.0.2:2379",
        "--set=controller.addresses=10.0.0.1\\,10.0.0.2\\,10.0.0.3",
    ]));
    let several = |kind: &str| {
        let named = |o: &&Value| o["kind"] == kind && o["metadata"]["name"] == "skein-controller";
        three.iter().find(named).unwrap_or_else(|| panic!("no {kind}"))
    };
    assert_eq!(several("PodDisruptionBudget")["spec"]["maxUnavailable"], 1);
    assert_eq!(several("StatefulSet")["spec"]["replicas"], 3);
    let pod = &several("StatefulSet")["spec"]["template"]["spec"];
    let arguments = pod["containers"][0]["args"].to_string();
    for argument in [
        "--etcd=https://10.0.0.1:2379,https://10.0.0.2:2379",
        "--publish-address=10.0.0.1,10.0.0.2,10.0.0.3",
        "--advertise-api=https://$(HOST_ADDRESS):8182",
    ] {
        assert!(arguments.contains(argument), "{argument}: {arguments}");
    }
    let volumes = pod["volumes"].as_array().unwrap();
    assert_eq!(volumes[0]["secret"]["secretName"], "skein-etcd");
    assert_eq!(volumes.len(), 2, "{volumes:?}");
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    assert_eq!(mounts.len(), 2, "{mounts:?}");
    // The manager's pages are the machine's own, or over TLS.
    let manager = |all: &[Value]| {
        let named = |o: &&Value| o["kind"] == "Deployment";
        all.iter().find(named).unwrap()["spec"]["template"]["spec"].clone()
    };
    let own = manager(&all);
    assert!(own["containers"][0]["args"].to_string().contains("--status=127.0.0.1:8108"));
    assert_eq!(own["containers"][0]["readinessProbe"]["httpGet"].get("scheme"), None);
    assert_eq!(own["volumes"].as_array().unwrap().len(), 1);
    let open = manager(&documents(&render(&[
        "--set=kubeManager.status.listen=0.0.0.0:8108",
        "--set=kubeManager.status.secret=pages",
        "--set=kubeManager.status.clientCa=true",
    ])));
    let arguments = open["containers"][0]["args"].to_string();
    for argument in [
        "--status=0.0.0.0:8108",
        "--status-certificate=/etc/skein/status/tls.crt",
        "--status-key=/etc/skein/status/tls.key",
        "--status-client-ca=/etc/skein/status/ca.crt",
    ] {
        assert!(arguments.contains(argument), "{argument}: {arguments}");
    }
    for probe in ["livenessProbe", "readinessProbe"] {
        assert_eq!(open["containers"][0][probe]["httpGet"]["scheme"], "HTTPS", "{probe}");
    }
    assert_eq!(open["volumes"][1]["secret"]["secretName"], "pages");
    assert_eq!(open["containers"][0]["volumeMounts"][1]["mountPath"], "/etc/skein/status");
    // Keys are read where somebody says so, and everywhere only on request.
    let bound = |all: &[Value]| {
        all.iter().any(|o| {
            o["metadata"]["name"] == "skein-ingress-secrets" && o["kind"] == "ClusterRoleBinding"
        })
    };
    assert!(!bound(&all));
    let rights = &find("ClusterRole", "skein-ingress-secrets")["rules"];
    assert_eq!(rights[0]["verbs"], serde_json::json!(["list", "watch"]));
    assert!(bound(&documents(&render(&["--set=loadbalancer.readAllSecrets=true"]))));
    let without = documents(&render(&["--set=loadbalancer.enabled=false"]));
    assert!(without.iter().all(|o| o["metadata"]["name"] != "skein-loadbalancer"));
    let lease = find("Role", "skein-kube-manager-lease");
    assert_eq!(lease["rules"][0]["resourceNames"][0], "skein-kube-manager-west");
}
