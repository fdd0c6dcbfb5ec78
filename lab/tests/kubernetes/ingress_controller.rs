//! Somebody else's ingress controller: HAProxy in a pod like any other, which finds services by name and their members by the
//! cluster's DNS, and is reached by its node's port and by a service with an external address.

use crate::ingress::{Asker, Front, NAMESPACE};
use crate::{PATIENCE, PODS_READY, Steps, outside::POOL};
use serde_json::{Value, json};
use skein_lab::kubernetes::{HAPROXY_IMAGE, KubePod, build_haproxy};
use skein_lab::wait_for;
use std::collections::BTreeSet;

/// One way by a service's address, one to its members, which are asked for by name.
const CONFIGURATION: &str = "
global
    log stdout format raw local0
defaults
    mode http
    log global
    option forwardfor
    option redispatch
    retries 3
    timeout connect 2s
    timeout client 10s
    timeout server 10s
resolvers cluster
    parse-resolv-conf
    accepted_payload_size 4096
    timeout resolve 1s
    timeout retry 1s
    hold valid 1s
frontend web
    bind :8080
    http-request return status 200 if { path /healthz }
    use_backend members if { path_beg /members }
    use_backend service if { path_beg /service }
backend service
    server red red.front.svc.cluster.local:80 resolvers cluster init-addr none
backend members
    balance roundrobin
    server-template blue 4 _http._tcp.members.front.svc.cluster.local resolvers cluster init-addr none
";
const HOST_PORT: u16 = 8480;

pub(crate) fn check(front: &Front<'_>, steps: &mut Steps) {
    let cluster = front.cluster;
    let (work, archive) =
        (cluster.state().join("haproxy-image"), cluster.state().join("haproxy.tar"));
    build_haproxy(&work, &archive).unwrap_or_else(|error| panic!("{error}"));
    cluster.import_images(&archive).unwrap_or_else(|error| panic!("{error}"));
    let pod = start(front);
    steps.done("another's ingress controller");
    let url = |path: &str| format!("http://any.example.com{path}");
    // By its own address, from a pod.
    let client = Asker::Pod(&front.clients[0]);
    let said = client.served(&url("/service"), &format!("{}:8080", pod.address), None, "red-");
    assert_eq!(said.forwarded_for, front.clients[0].address, "{said:?}");
    // By the service with an external address, from outside.
    let path = format!("/api/v1/namespaces/{NAMESPACE}/services/controller");
    let made = cluster.api().wait("an address", &path, PATIENCE, |object| {
        object["status"]["loadBalancer"]["ingress"][0]["ip"].is_string()
    });
    let made = made.unwrap_or_else(|error| panic!("{error}"));
    let external = made["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap().to_owned();
    front.beyond().served(&url("/service/x"), &external, None, "red-");
    front.beyond().served(&url("/members/x"), &external, None, "blue-");
    // By the port of its node, from outside and from every node.
    let node = cluster.nodes().iter().find(|node| node.name() == pod.node).unwrap();
    let at = format!("{}:{HOST_PORT}", node.host().ipv4());
    let said = front.beyond().served(&url("/members"), &at, None, "blue-");
    let world = front.world.outside.addresses().0.to_string();
    assert_eq!(said.forwarded_for, world, "a port of a host does not hide the client: {said:?}");
    for node in cluster.nodes() {
        Asker::Node(node.host()).served(&url("/service"), &at, None, "red-");
    }
    members_are_found(front, &external);
    steps.done("reached by host port and by an external address; members found by DNS");
    for path in [path, format!("/api/v1/namespaces/{NAMESPACE}/pods/controller")] {
        cluster.api().delete(&path).unwrap();
    }
}

/// The controller's configuration, its pod, its service; and the service whose members it asks for.
fn start(front: &Front<'_>) -> KubePod {
    let api = front.cluster.api();
    let core = |kind: &str| format!("/api/v1/namespaces/{NAMESPACE}/{kind}");
    let map = json!({"metadata": {"name": "controller"}, "data": {"haproxy.cfg": CONFIGURATION}});
    api.create(&core("configmaps"), &map).unwrap();
    let ports = json!([{"name": "http", "port": 8080}]);
    let members = json!({"clusterIP": "None", "selector": {"app": "blue"}, "ports": ports});
    api.create(&core("services"), &json!({"metadata": {"name": "members"}, "spec": members}))
        .unwrap();
    let service = json!({
        "metadata": {"name": "controller", "annotations": {"opencontrail.org/fip-pool": POOL}},
        "spec": {
            "type": "LoadBalancer", "selector": {"app": "controller"},
            "ports": [{"port": 80, "targetPort": 8080}],
        },
    });
    api.create(&core("services"), &service).unwrap();
    let probe: Value = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5});
    let pod = json!({
        "metadata": {"name": "controller", "labels": {"app": "controller"}},
        "spec": {
            "nodeName": front.cluster.nodes()[2].name(),
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "haproxy", "image": HAPROXY_IMAGE, "imagePullPolicy": "Never",
                "ports": [{"containerPort": 8080, "hostPort": HOST_PORT}],
                "readinessProbe": probe,
                "volumeMounts": [{"name": "configuration", "mountPath": "/etc/haproxy"}],
            }],
            "volumes": [{"name": "configuration", "configMap": {"name": "controller"}}],
        },
    });
    api.create(&core("pods"), &pod).unwrap();
    front.cluster.wait_pods(NAMESPACE, "app=controller", 1, PODS_READY).unwrap().remove(0)
}

/// Every member is used, without anybody telling the controller which there are.
fn members_are_found(front: &Front<'_>, external: &str) {
    let pods = front.cluster.wait_pods(NAMESPACE, "app=blue", 2, PODS_READY).unwrap();
    let wanted: BTreeSet<String> = pods.into_iter().map(|pod| pod.name).collect();
    wait_for("all members to answer", PODS_READY, || {
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            let url = "http://any.example.com/members";
            seen.insert(front.beyond().served(url, external, None, "blue-").pod);
        }
        if seen == wanted { Ok(()) } else { Err(format!("{seen:?} of {wanted:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
}
