//! Networks beside the cluster's own: what pods ask for on them is what they get, and policies and services may be about them.

use crate::networks::{assert_answers, assert_reach, on_every_node};
use crate::services::answered_by;
use crate::{
    ANSWER, PATIENCE, PODS_READY, Steps, all_answered, ask_from_host, create_namespace, create_pod,
    dns, fail_closed, wait_answer,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE};
use skein_lab::wait_for;
use std::time::Duration;

const DEFINITIONS: &str =
    "/apis/k8s.cni.cncf.io/v1/namespaces/default/network-attachment-definitions";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
const MULTI: &str = "/apis/k8s.cni.cncf.io/v1beta1/namespaces/default/multi-networkpolicies";
const STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(900);

/// The definition of policies for other networks.
const MULTI_DEFINITION: &str =
    include_str!("../../../deploy/kubernetes/multi-networkpolicies.yaml");

pub(crate) fn check(cluster: &Cluster, others: &[KubePod], steps: &mut Steps) {
    // Early: the manager looks for new types now and then.
    cluster.apply(MULTI_DEFINITION).unwrap();
    let definition = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {"name": "side", "annotations": {"opencontrail.org/cidr": "10.12.0.0/24"}},
        "spec": {"config": r#"{"cniVersion": "0.3.1", "type": "skein"}"#},
    });
    cluster.apply(&definition.to_string()).unwrap();
    let own: Vec<Side> = ["web", "db", "other"]
        .into_iter()
        .enumerate()
        .map(|(at, role)| Side::new(cluster, at, role))
        .collect();
    for side in &own {
        side.has_what_it_asked_for(cluster);
    }
    let pods: Vec<KubePod> = own.iter().map(|side| side.pod.clone()).collect();
    assert_reach(&pods, &pods, true);
    // Whose default route is elsewhere answers others, and its node, at its first address.
    assert_reach(others, &pods, true);
    for side in &own {
        let to: Vec<String> = own.iter().map(|other| other.target(80)).collect();
        answered(&side.pod, &to, true);
    }
    steps.done("addresses, MACs, names and default routes that pods asked for");
    services(cluster, &own, others);
    steps.done("services on a second network");
    policies(cluster, &own);
    steps.done("policies on a second network");
    let askers = own[1..].iter().map(|side| side.pod.clone()).collect::<Vec<_>>();
    let subject = json!({"matchLabels": own[0].pod.object["metadata"]["labels"]});
    fail_closed::of_other_networks(cluster, &askers, &own[0].address, &subject);
    fail_closed::of_administrators(cluster, &others[..3]);
    steps.done("policies that nobody understands fail closed");
    three_networks(cluster, others);
    steps.done("three networks in an isolated namespace, one of another");
    for side in &own {
        cluster
            .api()
            .delete(&format!("/api/v1/namespaces/default/pods/{}", side.pod.name))
            .unwrap();
    }
    cluster.api().delete(&format!("{DEFINITIONS}/side")).unwrap();
}

/// A pod with an interface `net7` in the network.
struct Side {
    pod: KubePod,
    address: String,
    mac: String,
    /// Its default route is on it.
    default: bool,
}

impl Side {
    fn new(cluster: &Cluster, at: usize, role: &str) -> Side {
        let node = &cluster.nodes()[at % cluster.nodes().len()];
        let (address, mac) = (format!("10.12.0.5{at}"), format!("02:00:00:12:00:0{at}"));
        let default = role == "other";
        let mut asked = json!({
            "name": "side", "interface": "net7", "ips": [format!("{address}/24")], "mac": mac,
        });
        if default {
            asked["default-route"] = json!(["10.12.0.254"]);
        }
        let pod = json!({
            "metadata": {
                "name": format!("side-{role}"), "labels": {"app": "side", "role": role},
                "annotations": {"k8s.v1.cni.cncf.io/networks": json!([asked]).to_string()},
            },
            "spec": {
                "nodeName": node.name(), "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
                    "readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 1},
                }],
            },
        });
        create_pod(cluster, "default", &pod);
        let selector = format!("app=side,role={role}");
        let pod = cluster.wait_pods("default", &selector, 1, PODS_READY).unwrap().remove(0);
        Side { pod, address, mac, default }
    }

    fn target(&self, port: u16) -> String {
        format!("tcp:{}:{port}", self.address)
    }

    fn has_what_it_asked_for(&self, cluster: &Cluster) {
        let ip =
            |arguments: &[&str]| self.pod.run("/bin/ip", arguments).unwrap().success().unwrap();
        let shown = ip(&["-4", "addr", "show", "net7"]);
        assert!(shown.contains(&format!("inet {}/", self.address)), "{shown}");
        let shown = ip(&["link", "show", "net7"]);
        assert!(shown.contains(&self.mac), "{shown}");
        let route = ip(&["-4", "route", "show", "default"]);
        let device = if self.default { "dev net7" } else { "dev eth0" };
        assert!(route.lines().count() == 1 && route.contains(device), "{route}");
        let path = format!("/api/v1/namespaces/default/pods/{}", self.pod.name);
        let told = cluster.api().wait("network-status", &path, PATIENCE, |object| {
            object["metadata"]["annotations"][STATUS].is_string()
        });
        let told = told.unwrap_or_else(|error| panic!("{error}"));
        let text = told["metadata"]["annotations"][STATUS].as_str().unwrap();
        let status: Value = serde_json::from_str(text).unwrap();
        assert_eq!(status.as_array().unwrap().len(), 2, "{status}");
        assert_eq!(status[0]["name"], "cluster-wide-default");
        assert_eq!(status[0]["ips"], json!(self.pod.addresses), "{status}");
        assert_eq!(status[0]["default"], !self.default);
        let wanted = json!({
            "name": "default/side", "interface": "net7", "ips": [self.address], "mac": self.mac,
            "default": self.default, "dns": {},
        });
        assert_eq!(status[1], wanted);
    }
}

/// Pods of an isolated namespace with two more networks, one of their own and one of another namespace: interfaces in the order of the
/// annotation, each with its network; names, node ports and isolation are as for any pod.
fn three_networks(cluster: &Cluster, others: &[KubePod]) {
    const SPACE: &str = "several";
    let isolated = json!({"opencontrail.org/isolation": "true"});
    create_namespace(cluster, &json!({"name": SPACE, "annotations": isolated}));
    let definition = json!({
        "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
        "metadata": {
            "name": "inner", "namespace": SPACE,
            "annotations": {"opencontrail.org/cidr": "10.13.0.0/24"},
        },
        "spec": {"config": r#"{"cniVersion": "0.3.1", "type": "skein"}"#},
    });
    cluster.apply(&definition.to_string()).unwrap();
    let wanted = json!({"k8s.v1.cni.cncf.io/networks": "inner,default/side"});
    let own = on_every_node(cluster, SPACE, "three", &wanted);
    let address = |pod: &KubePod, device: &str| -> String {
        let shown = pod.run("/bin/ip", &["-4", "addr", "show", device]).unwrap().success().unwrap();
        let mut words = shown.split_whitespace();
        let found =
            words.find(|word| *word == "inet").and_then(|_| words.next()?.split('/').next());
        found
            .unwrap_or_else(|| panic!("{} has no address on {device}: {shown}", pod.name))
            .to_owned()
    };
    for pod in &own {
        assert_eq!(address(pod, "eth0"), pod.address);
        let route = pod.run("/bin/ip", &["-4", "route", "show", "default"]).unwrap().stdout;
        assert!(route.lines().count() == 1 && route.contains("dev eth0"), "{route}");
        dns::wait_answer(pod, &["-type=a", "kubernetes.default.svc.cluster.local"]);
    }
    for (device, prefix) in [("eth0", "10.244."), ("eth1", "10.13.0."), ("eth2", "10.12.0.")] {
        let targets: Vec<String> =
            own.iter().map(|pod| format!("tcp:{}:80", address(pod, device))).collect();
        assert!(targets.iter().all(|one| one[4..].starts_with(prefix)), "{device}: {targets:?}");
        for pod in &own {
            let all = wait_for(&format!("answers on {device}"), PATIENCE, || {
                all_answered(pod.ask(&targets, ANSWER).unwrap())
            });
            for outcome in all.unwrap_or_else(|error| panic!("{}: {error}", pod.name)) {
                let client = outcome.answer.as_ref().unwrap().client.clone();
                assert!(client.starts_with(prefix), "{device}: {outcome:?}");
            }
        }
    }
    let service = json!({"metadata": {"name": "three"}, "spec": {
        "type": "NodePort", "selector": {"app": "three"}, "ports": [{"port": 8080, "targetPort": 80}],
    }});
    let services = format!("/api/v1/namespaces/{SPACE}/services");
    let made = cluster.api().create(&services, &service).unwrap();
    let port = &made["spec"]["ports"][0]["nodePort"];
    let members = own.iter().map(|pod| pod.name.clone()).collect();
    for node in cluster.nodes() {
        let targets = vec![format!("tcp:{}:{port}", node.host().ipv4()); 40];
        answered_by(&members, "outside", || {
            ask_from_host(cluster, cluster.control_host(), &targets, ANSWER)
        });
    }
    let vip = format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap());
    assert_answers(&own, std::slice::from_ref(&vip), true);
    assert_answers(others, &[vip], false);
    assert_reach(others, &own, false);
    cluster.api().delete(&format!("/api/v1/namespaces/{SPACE}")).unwrap();
}

/// That all targets answer, soon; or that none does, ever.
fn answered(from: &KubePod, targets: &[String], wanted: bool) {
    if wanted {
        let all = wait_for(&format!("answers to {}", from.name), PATIENCE, || {
            all_answered(from.ask(targets, ANSWER).unwrap())
        });
        all.unwrap_or_else(|error| panic!("{error}"));
        return;
    }
    wait_for(&format!("no answers to {}", from.name), PATIENCE, || {
        let all = from.ask(targets, SILENCE).unwrap();
        if all.iter().any(skein_lab::kubernetes::ProbeOutcome::answered) {
            Err(format!("{all:?}"))
        } else {
            Ok(())
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// Backends are asked at their second addresses: by whoever reaches the service, also who has no interface there.
fn services(cluster: &Cluster, own: &[Side], others: &[KubePod]) {
    let make = |name: &str, more: Value| {
        let mut spec = json!({
            "selector": {"app": "side"}, "ports": [{"name": "web", "port": 8080, "targetPort": 80}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({
            "metadata": {
                "name": name, "annotations": {"k8s.v1.cni.cncf.io/service-network": "side"},
            },
            "spec": spec,
        });
        cluster.api().create(SERVICES, &object).unwrap()
    };
    let made = make("side", json!({}));
    make("side-heads", json!({"clusterIP": "None"}));
    let vip = format!("tcp:{}:8080", made["spec"]["clusterIP"].as_str().unwrap());
    for client in others {
        let answer = wait_answer(client, &vip);
        let server = answer.server.unwrap_or_default();
        assert!(server.starts_with("10.12.0."), "{} was led to {server}", client.name);
    }
    let name = "side-heads.default.svc.cluster.local";
    wait_for("names of the second addresses", PATIENCE, || {
        let all = others[0].run("/bin/nslookup", &["-type=a", name]).unwrap().stdout;
        let here = |address: &str| all.contains(address);
        let good = own.iter().all(|side| here(&side.address) && !here(&side.pod.address));
        if good { Ok(()) } else { Err(all.clone()) }
    })
    .unwrap();
    for name in ["side", "side-heads"] {
        cluster.api().delete(&format!("{SERVICES}/{name}")).unwrap();
    }
}

fn policies(cluster: &Cluster, own: &[Side]) {
    let [web, db, other] = own else { panic!("three pods") };
    let annotations = json!({"k8s.v1.cni.cncf.io/policy-for": "side"});
    let primary = format!("tcp:{}:80", db.pod.address);
    // The database's second interface is for the web servers, and one port of it.
    let policy = json!({
        "metadata": {"name": "side-db", "annotations": annotations},
        "spec": {
            "podSelector": {"matchLabels": {"role": "db"}},
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": {"matchLabels": {"role": "web"}}}],
                "ports": [{"protocol": "TCP", "port": 80}],
            }],
        },
    });
    cluster.api().create(POLICIES, &policy).unwrap();
    answered(&other.pod, &[db.target(80)], false);
    answered(&web.pod, &[db.target(80)], true);
    answered(&web.pod, &[db.target(81)], false);
    // Nothing else is touched: first interfaces, what the database asks itself, others among themselves.
    answered(&other.pod, &[primary.clone(), web.target(80), web.target(81)], true);
    answered(&db.pod, &[other.target(80), web.target(81)], true);
    cluster.api().delete(&format!("{POLICIES}/side-db")).unwrap();
    answered(&other.pod, &[db.target(80), db.target(81)], true);

    // The same by the type that other plugins' users know.
    let policy = json!({
        "apiVersion": "k8s.cni.cncf.io/v1beta1", "kind": "MultiNetworkPolicy",
        "metadata": {"name": "side-db", "annotations": annotations},
        "spec": {
            "podSelector": {"matchLabels": {"role": "db"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": format!("{}/32", web.address)}}]}],
        },
    });
    cluster.apply(&policy.to_string()).unwrap();
    answered(&db.pod, &[other.target(80)], false);
    answered(&db.pod, &[web.target(80), format!("tcp:{}:80", web.pod.address)], true);
    answered(&other.pod, &[db.target(80)], true);
    cluster.api().delete(&format!("{MULTI}/side-db")).unwrap();
    answered(&db.pod, &[other.target(80)], true);
}
