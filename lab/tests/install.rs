//! Skein installed into a real Kubernetes by its plain manifest and by Helm, as users install it, and looked at by
//! `kubectl skein`.
//!
//! Needs root, the programs of Kubernetes (scripts/kubernetes finds or builds them), and an API server that survives
//! custom resources, as that script builds it. `SKEIN_IMAGE_ARCHIVE=FILE` installs an image that was built elsewhere: an archive as
//! `docker save` writes it, with the name `skein.lab/skein:1`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step is a failed test"
)]
#![allow(clippy::print_stdout, reason = "how long the steps took is for whoever reads a failure")]
#![allow(
    unreachable_pub,
    reason = "programs.rs and steps.rs are shared with tests that have more modules"
)]

#[path = "support/helm.rs"]
mod helm;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/steps.rs"]
mod steps;

use skein_lab::kubernetes::{Cluster, ClusterOptions, PROBE_IMAGE, SKEIN_IMAGE, build_skein};
use skein_lab::{Ran, wait_for};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use steps::Steps;

const NODES: usize = 2;
const MANIFEST: &str = include_str!("../../deploy/kubernetes/skein.yaml");
/// The image that the manifest names.
const IMAGE: &str = "ghcr.io/skein-net/skein:0.1.0";
/// From images to readiness, with unoptimized programs on a busy machine.
const READY: Duration = Duration::from_secs(180);
const PATIENCE: Duration = Duration::from_secs(60);

/// The manifest as this cluster takes it: with an image that is here, and without the one object that Kubernetes
/// before 1.21 serves under another version.
fn manifest() -> String {
    let parts: Vec<_> = MANIFEST
        .split("\n---\n")
        .filter(|part| !part.contains("kind: PodDisruptionBudget"))
        .collect();
    assert_eq!(parts.len() + 1, MANIFEST.split("\n---\n").count());
    let text = parts.join("\n---\n");
    assert!(text.contains(IMAGE));
    text.replace(IMAGE, SKEIN_IMAGE)
}

/// kubectl with the plugin on its PATH, on the control plane's host.
struct Kubectl<'a> {
    cluster: &'a Cluster,
    plugins: PathBuf,
}

impl Kubectl<'_> {
    fn new<'a>(cluster: &'a Cluster, programs: &Path) -> Kubectl<'a> {
        let plugins = cluster.state().join("plugins");
        std::fs::create_dir_all(&plugins).unwrap();
        std::os::unix::fs::symlink(programs.join("skein"), plugins.join("kubectl-skein")).unwrap();
        std::os::unix::fs::symlink(cluster.kubectl_program(), plugins.join("kubectl")).unwrap();
        Kubectl { cluster, plugins }
    }

    fn run(&self, line: &str) -> Ran {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(self.plugins.join("kubectl"));
        command
            .env("PATH", format!("{}:{path}", self.plugins.display()))
            .env("KUBECONFIG", self.cluster.admin_kubeconfig())
            .env("HOME", self.cluster.state())
            .env("NO_COLOR", "1")
            .args(line.split(' '));
        self.cluster.control_host().run(&mut command).unwrap()
    }

    fn good(&self, line: &str) -> String {
        self.run(line).success().unwrap_or_else(|error| panic!("{error}"))
    }

    /// What a command says that ends with 1.
    fn bad(&self, line: &str) -> String {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(1), "{line}: {}{}", ran.stdout, ran.stderr);
        ran.stdout
    }
}

#[test]
fn the_plain_manifest_makes_a_network_and_kubectl_looks_at_it() {
    let mut steps = Steps::start();
    let programs = programs::folder();
    let mut options = ClusterOptions::new(&programs);
    options.nodes = NODES;
    let cluster = Cluster::start("inst", options).unwrap_or_else(|error| panic!("{error}"));
    let archive = image(&cluster, &programs);
    cluster.import_images(&archive).unwrap_or_else(|error| panic!("{error}"));
    steps.done("Kubernetes and an image");

    // Nothing serves the service "kubernetes" before there is a network, and no kube-proxy runs here.
    let kubectl = Kubectl::new(&cluster, &programs);
    let address = cluster.control_host().ipv4();
    kubectl.good("create namespace skein-system");
    kubectl.good(&format!(
        "create configmap skein-kubernetes -n skein-system --from-literal=KUBERNETES_SERVICE_HOST={address} \
         --from-literal=KUBERNETES_SERVICE_PORT=6443"
    ));
    kubectl.good(&format!("label node {} skein.io/controller=", cluster.nodes()[0].name()));
    cluster.apply(&manifest()).unwrap_or_else(|error| panic!("{error}"));
    runs(&cluster);
    steps.done("Skein, by its manifest");

    let status = wait_for("a good status", PATIENCE, || {
        let ran = kubectl.run("skein status");
        let text = format!("{}{}", ran.stdout, ran.stderr);
        if ran.ok() { Ok(text) } else { Err(text) }
    })
    .unwrap();
    println!("{status}");
    assert!(status.contains("Overall: good") && status.contains("leads, cluster k8s"), "{status}");
    steps.done("kubectl skein status");

    let ran = kubectl.run(&format!("skein connectivity test --image {PROBE_IMAGE}"));
    println!("{}", ran.stdout);
    assert!(ran.ok(), "{}{}", ran.stdout, ran.stderr);
    for check in ["pod to pod: 4 of 4", "pod to service: 2 of 2", "host to pod: 4 of 4"] {
        assert!(ran.stdout.contains(check), "{check}: {}", ran.stdout);
    }
    steps.done("kubectl skein connectivity test");

    questions(&cluster, &kubectl);
    steps.done("kubectl skein why and policy explain");
    networks(&cluster, &kubectl);
    steps.done("a network by kubectl alone");
    ingress(&cluster, &kubectl);
    steps.done("an Ingress, and its pods replaced");
    removed(&cluster, &kubectl);
    steps.done("removed by its manifest");
    by_helm(&cluster, &kubectl);
    steps.done("installed, upgraded and removed by Helm");
}

/// An archive with the image to install: one built from deploy/images/Dockerfile if `SKEIN_IMAGE_ARCHIVE` names it.
fn image(cluster: &Cluster, programs: &Path) -> PathBuf {
    if let Some(archive) = std::env::var_os("SKEIN_IMAGE_ARCHIVE") {
        return archive.into();
    }
    let (work, archive) = (cluster.state().join("skein-image"), cluster.state().join("skein.tar"));
    build_skein(programs, &work, &archive).unwrap_or_else(|error| panic!("{error}"));
    archive
}

/// All pods of the installation are ready, and with them the nodes.
fn runs(cluster: &Cluster) {
    for (name, count) in [
        ("skein-controller", 1),
        ("skein-agent", NODES),
        ("skein-kube-manager", 2),
        ("skein-loadbalancer", NODES),
    ] {
        let selector = format!("app.kubernetes.io/name={name}");
        cluster
            .wait_pods("skein-system", &selector, count, READY)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    cluster.wait_nodes_ready().unwrap_or_else(|error| panic!("{error}"));
}

fn probe(namespace: &str, name: &str, node: &str, annotations: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}, \
         annotations: {{{annotations}}}}}\nspec:\n  nodeName: {node}\n  terminationGracePeriodSeconds: 0\n  \
         containers: [{{name: probe, image: \"{PROBE_IMAGE}\", imagePullPolicy: Never, ports: \
         [{{name: http, containerPort: 80}}]}}]\n"
    )
}

/// Applies when the namespace's service account is there, and waits for the pods.
fn start(cluster: &Cluster, namespace: &str, manifest: &str, names: &[&str]) {
    wait_for("pods to be taken", PATIENCE, || {
        cluster.apply(manifest).map_err(|error| error.to_string())
    })
    .unwrap_or_else(|error| panic!("{error}"));
    for name in names {
        cluster
            .wait_pods(namespace, &format!("app={name}"), 1, READY)
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-for-clients, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: client}}}]
    ports: [{port: 80, protocol: TCP}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 8000, targetPort: 80}]}
";

fn questions(cluster: &Cluster, kubectl: &Kubectl<'_>) {
    kubectl.good("create namespace shop");
    let (first, second) = (cluster.nodes()[0].name(), cluster.nodes()[1].name());
    let pods = [
        probe("shop", "web", first, ""),
        probe("shop", "client", second, ""),
        probe("shop", "stranger", second, ""),
        POLICIES.to_owned(),
    ];
    start(cluster, "shop", &pods.join("---\n"), &["web", "client", "stranger"]);
    let answer_that = |line: &str, passes: bool, holds: &dyn Fn(&str) -> bool| {
        wait_for(line, PATIENCE, || {
            let ran = kubectl.run(line);
            let good = ran.code == Some(if passes { 0 } else { 1 });
            let text = format!("{}{}", ran.stdout, ran.stderr);
            if good && holds(&text) { Ok(text) } else { Err(text) }
        })
        .unwrap_or_else(|error| panic!("{error}"))
    };
    let answer = |line: &str, passes: bool, words: &str| {
        answer_that(line, passes, &|text| text.contains(words))
    };
    answer("skein why shop/client shop/web:http", true, "NetworkPolicy shop/web-for-clients");
    answer("skein why shop/client shop/web:81", false, "denied where it arrives");
    let denied = answer(
        "skein why shop/stranger shop/web:80",
        false,
        "denied where it arrives, by NetworkPolicy shop/web-for-clients",
    );
    println!("{denied}");
    // Of the service, and at both ends: the nodes have what they were told, once each of them has answered in time.
    let in_force = |text: &str| text.matches("in force  ✓").count() == 3;
    let service = answer_that("skein why client svc/web:http -n shop", true, &|text| {
        text.contains("service   shop/web") && in_force(text)
    });
    assert!(service.contains("to one of 1 members"), "{service}");
    answer("skein why shop/web shop/stranger/icmp", true, "passes");
    answer("skein why shop/client 203.0.113.9:443", false, "no route");
    let rules = kubectl.good("skein policy explain shop/web");
    println!("{rules}");
    let wanted = "NetworkPolicy shop/web-for-clients  pass  tcp 80 from ";
    assert!(rules.contains(wanted), "{rules}");
    let text = kubectl.bad("skein why shop/nobody shop/web:80");
    assert!(text.is_empty(), "{text}");
}

const NETWORK: &str = "
apiVersion: skein.io/v1alpha1
kind: VirtualNetwork
metadata: {name: blue, namespace: shop}
spec:
  subnets: [{cidr: 10.77.0.0/24}]
";

fn networks(cluster: &Cluster, kubectl: &Kubectl<'_>) {
    let chosen = "opencontrail.org/network: blue";
    let (first, second) = (cluster.nodes()[0].name(), cluster.nodes()[1].name());
    // Kubernetes' list of definitions may be a moment old.
    wait_for("a network to be taken", PATIENCE, || {
        cluster.apply(NETWORK).map_err(|error| error.to_string())
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let pods = [probe("shop", "one", first, chosen), probe("shop", "two", second, chosen)];
    start(cluster, "shop", &pods.join("---\n"), &["one", "two"]);
    let pod = |name: &str| cluster.pods("shop", &format!("app={name}")).unwrap().remove(0);
    let (one, two, web) = (pod("one"), pod("two"), pod("web"));
    assert!(one.address.starts_with("10.77.0."), "{one:?}");
    wait_for("pods of one network to reach each other", PATIENCE, || {
        let outcomes =
            one.ask(&[format!("tcp:{}:80", two.address)], Duration::from_secs(1)).unwrap();
        if outcomes[0].answered() { Ok(()) } else { Err(format!("{outcomes:?}")) }
    })
    .unwrap();
    let outside = one.ask(&[format!("tcp:{}:80", web.address)], Duration::from_secs(1)).unwrap();
    assert!(!outside[0].answered(), "{outside:?}");
    let shown = kubectl.good("get virtualnetwork blue -n shop");
    assert!(shown.contains("10.77.0.0/24") && shown.contains("True"), "{shown}");
    let why = kubectl.bad("skein why shop/one shop/web:80");
    assert!(why.contains("are not joined"), "{why}");

    // It waits for its pods, and says so.
    kubectl.good("delete virtualnetwork blue -n shop --wait=false");
    wait_for("an event that it is in use", PATIENCE, || {
        let events = cluster.events("shop").unwrap();
        let told = events.iter().any(|event| event.contains("InUse") && event.contains("shop/one"));
        if told { Ok(()) } else { Err(format!("{events:?}")) }
    })
    .unwrap();
    kubectl.good("delete pod one two -n shop --wait=false");
    wait_for("the network to go", PATIENCE, || {
        let left = kubectl.good("get virtualnetworks -n shop --ignore-not-found");
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .unwrap();
}

const PAGES: &str = "
apiVersion: v1
kind: Pod
metadata: {name: pages, namespace: shop, labels: {app: pages}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: web, image: PROBE, imagePullPolicy: Never, args: [serve, \"http:8080\"]}]
---
apiVersion: v1
kind: Service
metadata: {name: pages, namespace: shop}
spec: {selector: {app: pages}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: pages, namespace: shop}
spec:
  defaultBackend: {service: {name: pages, port: {number: 80}}}
  tls: [{hosts: [pages.example.com], secretName: pages}]
";

/// By the DaemonSet of the manifest, as docs/ingress.md says; its pods are replaced one after another.
fn ingress(cluster: &Cluster, kubectl: &Kubectl<'_>) {
    let host = "pages.example.com";
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    let (certificate, key) = (cluster.state().join("pages.pem"), cluster.state().join("pages.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (certificate.display(), key.display());
    kubectl.good(&format!("create secret tls pages -n shop --cert={cert} --key={key}"));
    kubectl.good(
        "create rolebinding skein-ingress-secrets -n shop --clusterrole=skein-ingress-secrets \
         --serviceaccount=skein-system:skein-loadbalancer",
    );
    start(cluster, "shop", &PAGES.replace("PROBE", &format!("\"{PROBE_IMAGE}\"")), &["pages"]);
    let path = "/apis/networking.k8s.io/v1/namespaces/shop/ingresses/pages";
    let told = cluster.api().wait("an address", path, PATIENCE, |object| {
        object["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
    });
    let told = told.unwrap_or_else(|error| panic!("{error}"));
    let address = told["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap().to_owned();
    let client = cluster.pods("shop", "app=client").unwrap().remove(0).pid().unwrap().to_string();
    let fetch = || {
        let mut command = Command::new("nsenter");
        command.args(["--target", &client, "--net", "--", "curl", "--silent", "--show-error"]);
        command.args(["--fail", "--max-time", "5", "--cacert"]).arg(&certificate);
        command.args(["--connect-to", &format!("::{address}:"), &format!("https://{host}/")]);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let good = output.status.success() && text.contains("\"pod\":\"pages\"");
        if good { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    };
    let page = |when: &str| {
        wait_for(&format!("a page {when}"), PATIENCE, fetch)
            .unwrap_or_else(|error| panic!("{error}"));
    };
    page("of the new Ingress");
    for old in cluster.pods("skein-system", "app.kubernetes.io/name=skein-loadbalancer").unwrap() {
        kubectl.good(&format!("delete pod -n skein-system {} --wait=false", old.name));
        wait_for("its successor", READY, || {
            page("while a pod is replaced");
            let now = cluster.pods("skein-system", "app.kubernetes.io/name=skein-loadbalancer");
            let now = now.map_err(|error| error.to_string())?;
            let ready = now.iter().filter(|pod| pod.ready && pod.uid != old.uid).count();
            if ready == NODES { Ok(()) } else { Err(format!("{ready} are ready")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
    page("of successors");
    kubectl.good("delete ingress pages -n shop");
}

/// As docs/install.md says: workloads first, then what their network is made of.
fn removed(cluster: &Cluster, kubectl: &Kubectl<'_>) {
    kubectl.good("delete namespace shop --wait=false");
    gone(kubectl, "get namespace shop --ignore-not-found");
    let path = cluster.state().join("manifest.yaml");
    std::fs::write(&path, manifest()).unwrap();
    kubectl.good(&format!("delete -f {} --wait=false", path.display()));
    gone(kubectl, "get namespace skein-system --ignore-not-found");
}

fn gone(kubectl: &Kubectl<'_>, line: &str) {
    wait_for(&format!("nothing by {line}"), READY, || {
        let left = kubectl.good(line);
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// The chart in a namespace that Helm makes; then with another value, then not at all.
fn by_helm(cluster: &Cluster, kubectl: &Kubectl<'_>) {
    let host = cluster.control_host();
    let image = SKEIN_IMAGE.rsplit_once(':').unwrap();
    let run = |words: &[&str]| {
        let mut command = helm::helm(&cluster.state());
        command.env("KUBECONFIG", cluster.admin_kubeconfig()).args(words);
        host.run(&mut command).unwrap().success().unwrap_or_else(|error| panic!("{error}"))
    };
    let chart = helm::chart();
    let address = host.ipv4().to_string();
    let values = [
        format!("--set=image.repository={}", image.0),
        format!("--set=image.tag={}", image.1),
        format!("--set=kubernetes.host={address}"),
    ];
    let release = |verb: &str, more: &[&str]| {
        let mut words = vec![verb, "skein", chart.to_str().unwrap(), "--namespace", "skein-system"];
        words.extend(values.iter().map(String::as_str));
        words.extend(more);
        run(&words)
    };
    release("install", &["--create-namespace"]);
    runs(cluster);
    let (first, second) = (cluster.nodes()[0].name(), cluster.nodes()[1].name());
    let pods = [probe("default", "here", first, ""), probe("default", "there", second, "")];
    start(cluster, "default", &pods.join("---\n"), &["here", "there"]);
    let pod = |name: &str| cluster.pods("default", &format!("app={name}")).unwrap().remove(0);
    let (here, there) = (pod("here"), pod("there"));
    let reach = |when: &str| {
        let asked = [format!("tcp:{}:80", there.address)];
        wait_for(&format!("a pod to reach the other {when}"), PATIENCE, || {
            let outcomes = here.ask(&asked, Duration::from_secs(1)).unwrap();
            if outcomes[0].answered() { Ok(()) } else { Err(format!("{outcomes:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    };
    reach("in Helm's network");
    release("upgrade", &["--set=loadbalancer.enabled=false"]);
    gone(kubectl, "get daemonset skein-loadbalancer -n skein-system --ignore-not-found");
    reach("after an upgrade");
    let status = run(&["status", "skein", "--namespace", "skein-system"]);
    assert!(status.contains("STATUS: deployed") && status.contains("REVISION: 2"), "{status}");
    kubectl.good("delete pod here there --wait=false");
    gone(kubectl, "get pods here there --ignore-not-found");
    run(&["uninstall", "skein", "--namespace", "skein-system"]);
    gone(kubectl, "get daemonsets,statefulsets,deployments -n skein-system");
}
