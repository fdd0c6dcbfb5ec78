//! The steps of `make demo-k8s`: a real Kubernetes with Skein as its only network, and the original's deployment guide on it,
//! heading by heading. What is applied are the files of `examples/kubernetes`; what is ticked was seen by traffic.

mod custom_networks;
mod default_mode;
mod fabric;
mod ingress;
mod interfaces;
mod isolation;
mod mistakes;
mod names;
mod plugin;
mod policies;
mod public;
mod reach;
mod restarts;
mod services;
mod stage;
mod tenants;

use crate::screen::Screen;
use skein_lab::kubernetes::{Cluster, ClusterError, ClusterOptions, NetworkOptions, SkeinNetwork};
use skein_lab::{LabOptions, Upstream};
use stage::{Seen, Stage};
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

/// Name of the cluster: its namespaces start with it.
const CLUSTER: &str = "skk8s";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// The definition of networks by kubectl alone.
const DEFINITION: &str = "deploy/helm/skein/crds/virtualnetworks.skein.io.yaml";
/// What the name that a server outside of the cluster knows means.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const UPSTREAM_PORT: u16 = 5353;
/// What the router at the edge looks for on the nodes' own network: public addresses, and pods of the underlay.
const UNDERLAY: [&str; 2] = ["10.63.0.0/24", "10.64.0.0/12"];

/// A heading of the guide, and its steps.
type Part = (&'static str, fn(&mut Stage<'_>) -> Result<(), ClusterError>);

const PARTS: [Part; 14] = [
    ("Default mode: one network for all pods", default_mode::show),
    ("Services, without kube-proxy", services::show),
    ("Names, answered by every node itself", names::show),
    ("Public addresses, reached from a host beyond the gateway", public::show),
    ("Namespace isolation, with and without isolation of its services", isolation::show),
    ("Custom networks, for a pod and for a namespace", custom_networks::show),
    ("Network policies: the guide's six examples", policies::show),
    ("Ingress: single service, fanout, virtual hosts, TLS", ingress::show),
    ("Mistakes are told", mistakes::show),
    ("Several interfaces", interfaces::show),
    ("ip-fabric: SNAT and forwarding", fabric::show),
    ("Tenants by priority, and a burst of pods", tenants::show),
    ("Kubelet and agent are killed and started again under traffic", restarts::show),
    ("kubectl skein", plugin::show),
];

fn options() -> ClusterOptions {
    ClusterOptions {
        lab: LabOptions { keep: true, ..LabOptions::default() },
        ..ClusterOptions::new(&crate::programs())
    }
}

/// Builds the cluster, shows it, leaves it running. True when every step held.
pub(crate) fn up(screen: &mut Screen) -> Result<bool, ClusterError> {
    screen.say("Everything that is applied is a file of this repository; examples/kubernetes says what each shows.");
    let since = Instant::now();
    let mut stage = build(screen)?;
    for (at, (title, show)) in PARTS.into_iter().enumerate() {
        stage.head(&format!("{}. {title}", at + 3));
        // What comes later may hold all the same; without the first pods nothing does.
        if let Err(error) = show(&mut stage) {
            stage.fail(&error);
            if at == 0 {
                break;
            }
        }
    }
    Ok(leave(stage, since.elapsed()))
}

fn build(screen: &mut Screen) -> Result<Stage<'_>, ClusterError> {
    screen.head("1. Kubernetes: a control plane and three nodes, in namespaces of this machine");
    screen.begin(
        "etcd, API server, controllers, scheduler, kubelets; a gateway and a host beyond it",
    );
    let mut cluster = Cluster::start(CLUSTER, options())?;
    let outside = cluster.outside()?;
    for node in cluster.nodes() {
        outside.leads(node.host())?;
    }
    for prefix in UNDERLAY {
        outside.expects(prefix)?;
    }
    let version = cluster.api().get("/version")?;
    screen.end(true, version["gitVersion"].as_str().unwrap_or_default());
    screen.begin("TLS bootstrapping: every kubelet has both of its certificates by requests");
    let requests = cluster.api().list(REQUESTS)?;
    let issued = requests.iter().filter(|r| r["status"]["certificate"].is_string()).count();
    let wanted = 2 * cluster.nodes().len();
    screen.end(issued == wanted, &format!("{issued} of {wanted} issued"));

    screen.head("2. Skein is its only network");
    screen
        .begin("controller, kube-manager, an agent on every node, the CNI plugin: nodes are Ready");
    let mut serve = Command::new(cluster.options().programs.join("skein-probe"));
    let server = outside.world().spawn("probe", serve.args(["serve", "tcp:80"]))?;
    let upstream = Upstream::start(cluster.control_host(), UPSTREAM_PORT, OUTSIDE)?;
    let definition = skein_lab::kubernetes::repository().join(DEFINITION);
    cluster.kubectl(&["apply", "-f", &definition.display().to_string()])?.success()?;
    let options = NetworkOptions {
        manager_arguments: vec!["--dns-serve".into(), "true".into()],
        agent_arguments: vec!["--dns-upstream".into(), upstream.address.to_string()],
        ..NetworkOptions::default()
    };
    let network = SkeinNetwork::install(&cluster, &options)?;
    screen.end(true, "");
    Stage::new(screen, cluster, network, outside, server, upstream)
}

/// Says what can be tried, and lets everything live on. True when every step held.
fn leave(stage: Stage<'_>, took: Duration) -> bool {
    let (good, bad) = stage.screen.totals();
    stage.screen.head(&format!("{good} steps held, {bad} did not, in {} s.", took.as_secs()));
    stage.screen.say("The cluster stays up. Try:");
    let kubectl = stage.cluster.kubectl_line();
    let mut lines = vec![format!("{kubectl} get pods -A -o wide")];
    if let [from, to, ..] = stage.others.as_slice() {
        lines.push(format!("{kubectl} exec {} -- ping -c 3 {}", from.name, to.address));
    }
    lines.push(format!(
        "{kubectl} apply -f examples/kubernetes/network-policy-3-deny-all-ingress.yaml"
    ));
    lines.push(format!(
        "sudo ip netns exec {} {}/skein status",
        stage.cluster.control_host().namespace(),
        stage.cluster.options().programs.display()
    ));
    if let Some(address) = &stage.page {
        let world = stage.outside.world().namespace();
        lines.push(format!(
            "sudo ip netns exec {world} curl -H 'Host: red.example.com' http://{address}/"
        ));
    }
    for line in lines {
        stage.screen.say(&format!("  {line}"));
    }
    stage.screen.say("`make demo-k8s-down` removes every trace.");
    stage.detach();
    bad == 0
}

/// Removes every trace.
pub(crate) fn down(screen: &mut Screen) -> Result<bool, ClusterError> {
    screen.begin("removing processes, namespaces, cgroups and files of the cluster");
    Cluster::remove(CLUSTER, &options().directory)?;
    screen.end(true, "");
    Ok(true)
}
