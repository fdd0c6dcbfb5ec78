//! Ingresses from the Kubernetes API to pages: fetched from pods and from a host beyond the cluster that knows nothing of it.

use crate::outside::{POOL, World};
use crate::support::web::Load;
use crate::{
    PATIENCE, PODS_GONE, PODS_READY, Steps, create_namespace, create_pod, fronts,
    ingress_certificates, ingress_controller, networks,
};
use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Balancer, Cluster, KubePod, PROBE_IMAGE, Page, ProbeOutcome, Site, SkeinNetwork, WebAnswer,
};
use skein_lab::{Host, wait_for};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) const NAMESPACE: &str = "front";
pub(crate) const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/front/ingresses";
const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
pub(crate) const SECRETS: &str = "/api/v1/namespaces/front/secrets";
const DEFINITION: &str =
    include_str!("../../../deploy/helm/skein/crds/virtualnetworks.skein.io.yaml");
const HOST: &str = "one.example.com";
const WILD: &str = "two.wild.example.com";
/// From a change to a page by it: over HAProxy's reload, on a busy machine.
pub(crate) const PAGE: Duration = Duration::from_secs(60);
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(900);
/// So many requests show that all goes on.
const ENOUGH: usize = 50;
/// A node that is told to end gives everything away before.
const HAND_OVER: &str = "--hand-over";

pub(crate) fn check(world: &World<'_>, network: &SkeinNetwork, steps: &mut Steps) {
    let cluster = world.cluster;
    cluster.apply(DEFINITION).unwrap();
    let front = Front::new(world);
    let mut roles = [0, 1].map(|node| {
        Balancer::start(cluster, node, &[HAND_OVER.to_owned()])
            .unwrap_or_else(|error| panic!("{error}"))
    });
    steps.done("pods, certificates and two nodes that carry load balancers");
    ingresses(&front);
    let (shop, single) = (front.addresses("shop"), front.addresses("single"));
    steps.done("addresses of Ingresses");
    routed(&front, &shop, &single);
    others_are_left_alone(&front, network);
    steps.done("hosts, paths and classes, from pods and from outside");
    own_network(&front);
    steps.done("an Ingress in a network of its own");
    beside_policies(&front, &shop);
    steps.done("an Ingress beside network policies");
    isolated(&front);
    steps.done("an Ingress in an isolated namespace");
    fronts::check(&front, network, steps);
    renewed(&front, &shop);
    steps.done("TLS: names, another certificate, off and on");
    ingress_certificates::check(&front);
    steps.done("secrets that cannot be used are told");
    scaled(&front, &shop);
    steps.done("backends scaled under load");
    taken_over(&front, &shop, &mut roles);
    steps.done("active and standby");
    ingress_controller::check(&front, steps);
    removed(&front, network, &roles);
    steps.done("Ingresses deleted");
}

/// A namespace with pods to serve and to ask, and the host beyond the cluster.
pub(crate) struct Front<'a> {
    pub(crate) world: &'a World<'a>,
    pub(crate) cluster: &'a Cluster,
    /// One a node.
    pub(crate) clients: Vec<KubePod>,
    folder: PathBuf,
}

/// Who asks.
#[derive(Clone, Copy)]
pub(crate) enum Asker<'a> {
    Pod(&'a KubePod),
    World(&'a World<'a>),
    Node(&'a Host),
}

impl Asker<'_> {
    /// Fetches a page from an address, whatever its name would lead to. TLS only with this certificate.
    pub(crate) fn fetch(
        self,
        url: &str,
        to: &str,
        certificate: Option<&Path>,
    ) -> Result<Page, String> {
        let site: &dyn Site = match self {
            Asker::World(world) => world.outside.world(),
            Asker::Node(host) => host,
            Asker::Pod(pod) => pod,
        };
        Page::fetch(site, url, to, certificate).map_err(|error| error.to_string())
    }

    /// Waits for a page that is served by a pod whose name begins so.
    pub(crate) fn served(self, url: &str, to: &str, file: Option<&Path>, by: &str) -> WebAnswer {
        let waited = wait_for(&format!("{url} at {to} by {by}"), PAGE, || {
            let page = self.fetch(url, to, file)?;
            let said = page.said().filter(|said| said.pod.starts_with(by));
            said.ok_or_else(|| format!("{page:?}"))
        });
        waited.unwrap_or_else(|error| panic!("{error}"))
    }

    fn refused(self, url: &str, to: &str, code: u16) {
        let waited = wait_for(&format!("{url} at {to} to be {code}"), PAGE, || {
            let page = self.fetch(url, to, None)?;
            if page.code == code { Ok(()) } else { Err(format!("{page:?}")) }
        });
        waited.unwrap_or_else(|error| panic!("{error}"));
    }
}

impl<'a> Front<'a> {
    fn new(world: &'a World<'a>) -> Front<'a> {
        let cluster = world.cluster;
        let annotations = json!({"opencontrail.org/fip-pool": POOL});
        create_namespace(cluster, &json!({"name": NAMESPACE, "annotations": annotations}));
        let folder = cluster.state().join("ingress");
        std::fs::create_dir_all(&folder).unwrap();
        let front = Front { world, cluster, clients: Vec::new(), folder };
        front.network("inner");
        for name in ["red", "blue"] {
            front.backend(name, 2);
        }
        // Least rights: these secrets, and no others.
        let role = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": {"name": "certificates", "namespace": NAMESPACE},
            "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "watch"],
                       "resourceNames": ["one", "two", "absent", "torn"]}],
        });
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": {"name": "certificates", "namespace": NAMESPACE},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "certificates"},
            "subjects": [{"kind": "ServiceAccount", "name": "skein-loadbalancer", "namespace": "skein-system"}],
        });
        for object in [role, binding] {
            cluster.apply(&object.to_string()).unwrap();
        }
        for (secret, host) in [("one", HOST), ("two", WILD)] {
            let object = front.certificate(secret, host);
            cluster.api().create(SECRETS, &object).unwrap();
        }
        let clients = networks::on_every_node(cluster, NAMESPACE, "client", &json!({}));
        for name in ["red", "blue"] {
            cluster.wait_pods(NAMESPACE, &format!("app={name}"), 2, PODS_READY).unwrap();
        }
        Front { clients, ..front }
    }

    fn pod(&self, node: usize) -> Asker<'_> {
        Asker::Pod(&self.clients[node])
    }

    pub(crate) fn beyond(&self) -> Asker<'_> {
        Asker::World(self.world)
    }

    /// A network of the namespace that reaches services, and nothing else.
    fn network(&self, name: &str) {
        let network = json!({
            "apiVersion": "skein.io/v1alpha1", "kind": "VirtualNetwork",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"subnets": [{"cidr": "10.79.0.0/24"}], "connectTo": ["services"]},
        });
        // Kubernetes' list of definitions may be a moment old.
        wait_for("a network to be taken", PATIENCE, || {
            self.cluster.apply(&network.to_string()).map_err(|error| error.to_string())
        })
        .unwrap();
    }

    /// A deployment that says which requests it got, and its service.
    fn backend(&self, name: &str, replicas: usize) {
        let container = json!({
            "name": "web", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
            "args": ["serve", "http:8080"],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "timeoutSeconds": 5},
            // Requests that are under way, and those sent before the last client knows.
            "lifecycle": {"preStop": {"exec": {"command": ["/bin/sleep", "2"]}}},
        });
        let deployment = json!({
            "metadata": {"name": name},
            "spec": {
                "replicas": replicas, "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"terminationGracePeriodSeconds": 4, "containers": [container]},
                },
            },
        });
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments");
        self.cluster.api().create(&path, &deployment).unwrap();
        let service = json!({
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services");
        self.cluster.api().create(&path, &service).unwrap();
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// A secret with a certificate that vouches for itself; the file has what a client must trust.
    pub(crate) fn certificate(&self, name: &str, host: &str) -> Value {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        std::fs::write(self.file(name), made.cert.pem()).unwrap();
        json!({
            "metadata": {"name": name}, "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()},
        })
    }

    pub(crate) fn create(&self, name: &str, annotations: &Value, spec: &Value) {
        let metadata = json!({"name": name, "annotations": annotations});
        let object = json!({"metadata": metadata, "spec": spec});
        self.cluster.api().create(INGRESSES, &object).unwrap();
    }

    /// External address and the one in its network, from the status.
    pub(crate) fn addresses(&self, name: &str) -> [String; 2] {
        self.addresses_of(&format!("{INGRESSES}/{name}"))
    }

    pub(crate) fn addresses_of(&self, path: &str) -> [String; 2] {
        let made = self.cluster.api().wait("two addresses", path, PAGE, |object| {
            object["status"]["loadBalancer"]["ingress"][1]["ip"].is_string()
        });
        let made = made.unwrap_or_else(|error| panic!("{error}"));
        let list = &made["status"]["loadBalancer"]["ingress"];
        [0, 1].map(|at| list[at]["ip"].as_str().unwrap().to_owned())
    }
}

fn path(path: &str, kind: &str, service: &str, port: &Value) -> Value {
    json!({
        "path": path, "pathType": kind,
        "backend": {"service": {"name": service, "port": port}},
    })
}

fn ingresses(front: &Front<'_>) {
    let api = front.cluster.api();
    for (name, controller) in [("skein", "skein.io/ingress"), ("others", "example.com/haproxy")] {
        let class = json!({"metadata": {"name": name}, "spec": {"controller": controller}});
        api.create(CLASSES, &class).unwrap();
    }
    let (number, named) = (json!({"number": 80}), json!({"name": "http"}));
    front.create(
        "shop",
        &json!({"kubernetes.io/ingress.class": "opencontrail"}),
        &json!({
            "rules": [
                {"host": HOST, "http": {"paths": [
                    path("/", "Prefix", "red", &number),
                    path("/blue", "Prefix", "blue", &named),
                    path("/exact", "Exact", "blue", &number),
                    path("/impl", "ImplementationSpecific", "blue", &number),
                ]}},
                {"host": "*.wild.example.com", "http": {"paths": [path("/", "Prefix", "blue", &number)]}},
            ],
            "tls": [
                {"hosts": [HOST], "secretName": "one"},
                {"hosts": ["*.wild.example.com"], "secretName": "two"},
            ],
        }),
    );
    front.create(
        "single",
        &json!({"externalIP": "10.63.0.99"}),
        &json!({
            "ingressClassName": "skein",
            "defaultBackend": {"service": {"name": "red", "port": {"number": 80}}},
        }),
    );
    front.create(
        "others",
        &json!({}),
        &json!({
            "ingressClassName": "others",
            "defaultBackend": {"service": {"name": "red", "port": {"number": 80}}},
        }),
    );
}

/// Every form of rule, from pods of each node and from outside.
fn routed(front: &Front<'_>, shop: &[String; 2], single: &[String; 2]) {
    assert_eq!(single[0], "10.63.0.99");
    assert!(shop[0].starts_with("10.63.0."), "{shop:?}");
    assert!(shop[1].starts_with("10.244."), "{shop:?}");
    let own = front.world.outside.addresses().0.to_string();
    let web = |host: &str, path: &str| format!("http://{host}{path}");
    let askers = [front.pod(0), front.pod(1), front.pod(2), front.beyond()];
    for (at, asker) in askers.into_iter().enumerate() {
        // Pods know both addresses; the world knows the external one.
        let [external, inner] = shop;
        let to = if at < 3 { inner } else { external };
        for (path, by) in [
            ("/", "red-"),
            ("/any/thing?x=1", "red-"),
            ("/blue", "blue-"),
            ("/blue/more", "blue-"),
            ("/bluer", "red-"),
            ("/exact", "blue-"),
            ("/exact/more", "red-"),
            ("/impl/more", "blue-"),
        ] {
            let said = asker.served(&web(HOST, path), to, None, by);
            assert_eq!((said.path.as_str(), said.host.as_str()), (path, HOST), "{said:?}");
            assert_eq!(said.forwarded_proto, "http");
            let client = front.clients.get(at).map_or(&own, |pod| &pod.address);
            assert_eq!(said.forwarded_for, *client, "{said:?}");
        }
        asker.served(&web(WILD, "/"), to, None, "blue-");
        asker.served(&web("ONE.Example.com", "/blue"), to, None, "blue-");
        asker.refused(&web("wild.example.com", "/"), to, 404);
        asker.refused(&web("nobody.example.com", "/"), to, 404);
        // Everything to one service, whatever is asked.
        let to = if at < 3 { &single[1] } else { &single[0] };
        asker.served(&web("anything.example.org", "/x"), to, None, "red-");
    }
}

fn made_of(network: &SkeinNetwork, name: &str) -> Vec<String> {
    let kinds = ["loadbalancer", "loadbalancer-listener", "loadbalancer-pool", "floating-ip"];
    let all = kinds.map(|kind| network.skein(&["get", kind]).unwrap().stdout);
    let own = format!("{name}__");
    let lines = all.iter().flat_map(|list| list.lines());
    lines.filter(|line| line.contains(&own)).map(str::to_owned).collect()
}

/// Nothing is made for another class, and what was made goes when the class changes.
fn others_are_left_alone(front: &Front<'_>, network: &SkeinNetwork) {
    assert_eq!(made_of(network, "others"), Vec::<String>::new());
    let api = front.cluster.api();
    let other = api.get(&format!("{INGRESSES}/others")).unwrap();
    assert!(other["status"]["loadBalancer"]["ingress"].is_null(), "{other}");
    assert!(!made_of(network, "single").is_empty());
    let change = |class: &str| {
        let patch = json!({"spec": {"ingressClassName": class}});
        api.merge(&format!("{INGRESSES}/single"), &patch).unwrap();
    };
    change("others");
    wait_for("what was made to go", PAGE, || match made_of(network, "single") {
        left if left.is_empty() => Ok(()),
        left => Err(format!("{left:?}")),
    })
    .unwrap_or_else(|error| panic!("{error}"));
    change("skein");
    let to = front.addresses("single");
    front.beyond().served("http://any/", &to[0], None, "red-");
}

/// An Ingress whose address is in a network that reaches services only, for clients of that network and for the world.
fn own_network(front: &Front<'_>) {
    let network = json!({"opencontrail.org/network": "inner"});
    let backend = json!({"service": {"name": "blue", "port": {"number": 80}}});
    let spec = json!({"ingressClassName": "skein", "defaultBackend": backend});
    front.create("inner", &network, &spec);
    let [external, inner] = front.addresses("inner");
    assert!(inner.starts_with("10.79.0."), "{inner}");
    let pods = networks::on_every_node(front.cluster, NAMESPACE, "inner", &network);
    for pod in &pods {
        assert!(pod.address.starts_with("10.79.0."), "{pod:?}");
        Asker::Pod(pod).served("http://any/", &inner, None, "blue-");
    }
    front.beyond().served("http://any/", &external, None, "blue-");
    // Pods of other networks have no way to its own address.
    let kept_out = front.clients[0].ask(&[format!("tcp:{inner}:80")], SILENCE).unwrap();
    assert_eq!(kept_out[0].error.as_deref(), Some("timeout"), "{kept_out:?}");
    front.cluster.api().delete(&format!("{INGRESSES}/inner")).unwrap();
    for pod in &pods {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}", pod.name);
        front.cluster.api().delete(&path).unwrap();
    }
}

/// What an Ingress leads to is reached by it, whatever policies say about the pods. A policy about all of the namespace is about the Ingress'
/// own address, too, as it was in the original: it then says who may come there.
fn beside_policies(front: &Front<'_>, shop: &[String; 2]) {
    let api = front.cluster.api();
    let policies = format!("/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies");
    let red = front.cluster.wait_pods(NAMESPACE, "app=red", 2, PODS_READY).unwrap();
    let direct: Vec<String> = red.iter().map(|pod| format!("tcp:{}:8080", pod.address)).collect();
    let page = [format!("tcp:{}:80", shop[1])];
    let silent = |targets: &[String]| {
        wait_for(&format!("{targets:?} to be closed"), PATIENCE, || {
            let outcomes = front.clients[0].ask(targets, SILENCE).unwrap();
            let closed = |o: &ProbeOutcome| o.error.as_deref() == Some("timeout");
            if outcomes.iter().all(closed) { Ok(()) } else { Err(format!("{outcomes:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    };
    let served = || {
        for (asker, at) in [(front.pod(0), 1), (front.pod(2), 1), (front.beyond(), 0)] {
            asker.served("http://one.example.com/", &shop[at], None, "red-");
        }
    };
    let create = |name: &str, spec: Value| {
        api.create(&policies, &json!({"metadata": {"name": name}, "spec": spec})).unwrap();
    };
    create(
        "pods",
        json!({"podSelector": {"matchLabels": {"app": "red"}}, "policyTypes": ["Ingress"]}),
    );
    silent(&direct);
    served();
    create("all", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    // The address is closed, to whoever asks from outside as well.
    silent(&page);
    wait_for("the page to be closed to the world", PATIENCE, || {
        let outside = front.world.ask(&[format!("tcp:{}:80", shop[0])], SILENCE);
        if outside[0].answered() { Err(format!("{outside:?}")) } else { Ok(()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    create(
        "pages",
        json!({"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 80}]}]}),
    );
    served();
    silent(&direct);
    for name in ["pods", "all", "pages"] {
        api.delete(&format!("{policies}/{name}")).unwrap();
    }
    served();
}

/// The page of an isolated namespace: for its own pods and for the world, but not for other namespaces by the address inside.
fn isolated(front: &Front<'_>) {
    const SPACE: &str = "lone-front";
    let api = front.cluster.api();
    let annotations =
        json!({"opencontrail.org/isolation": "true", "opencontrail.org/fip-pool": POOL});
    create_namespace(front.cluster, &json!({"name": SPACE, "annotations": annotations}));
    let pod = |name: &str, node: usize, args: &[&str]| {
        let container = json!({
            "name": "web", "image": PROBE_IMAGE, "imagePullPolicy": "Never", "args": args,
        });
        json!({
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "nodeName": front.cluster.nodes()[node].name(), "terminationGracePeriodSeconds": 1,
                "containers": [container],
            },
        })
    };
    create_pod(front.cluster, SPACE, &pod("page", 2, &["serve", "http:8080"]));
    create_pod(front.cluster, SPACE, &pod("reader", 0, &["serve"]));
    let service = json!({
        "metadata": {"name": "page"},
        "spec": {"selector": {"app": "page"}, "ports": [{"port": 80, "targetPort": 8080}]},
    });
    api.create(&format!("/api/v1/namespaces/{SPACE}/services"), &service).unwrap();
    let backend = json!({"service": {"name": "page", "port": {"number": 80}}});
    let ingress = json!({
        "metadata": {"name": "page"},
        "spec": {"ingressClassName": "skein", "defaultBackend": backend},
    });
    let ingresses = format!("/apis/networking.k8s.io/v1/namespaces/{SPACE}/ingresses");
    api.create(&ingresses, &ingress).unwrap();
    let [external, inner] = front.addresses_of(&format!("{ingresses}/page"));
    let reader = front.cluster.wait_pods(SPACE, "app=reader", 1, PODS_READY).unwrap().remove(0);
    Asker::Pod(&reader).served("http://any/", &inner, None, "page");
    front.beyond().served("http://any/", &external, None, "page");
    let kept_out = front.clients[0].ask(&[format!("tcp:{inner}:80")], SILENCE).unwrap();
    assert!(
        !kept_out[0].answered() && kept_out[0].error.as_deref() != Some("refused"),
        "{kept_out:?}"
    );
    api.delete(&format!("/api/v1/namespaces/{SPACE}")).unwrap();
}

/// Certificates by name; a new one is served and no connection breaks; without TLS nobody listens.
fn renewed(front: &Front<'_>, shop: &[String; 2]) {
    let api = front.cluster.api();
    let url = |host: &str, path: &str| format!("https://{host}{path}");
    let (first, second) = (front.file("one"), front.file("two"));
    for (asker, to) in [(front.pod(0), &shop[1]), (front.beyond(), &shop[0])] {
        let said = asker.served(&url(HOST, "/blue"), to, Some(&first), "blue-");
        assert_eq!(said.forwarded_proto, "https");
        asker.served(&url(WILD, "/"), to, Some(&second), "blue-");
        // Each name has its own certificate, not just one that is there.
        assert!(asker.fetch(&url(HOST, "/"), to, Some(&second)).is_err());
    }
    let (to, mut later) = (&shop[0], first);
    // A long answer takes six seconds. If it was not under way all through the change, that is made once more.
    let renewals = (0..5).take_while(|round| {
        let name = format!("renewed-{round}");
        let renewal = front.certificate(&name, HOST)["stringData"].take();
        let before = std::mem::replace(&mut later, front.file(&name));
        let later = &later;
        std::thread::scope(|scope| {
            let long = scope.spawn(|| front.beyond().fetch(&url(HOST, "/slow"), to, Some(&before)));
            let load = Load::start(front.world.outside.world(), to, HOST, 1, 2);
            load.goes_on(ENOUGH);
            let since = Instant::now();
            api.merge(&format!("{SECRETS}/one"), &json!({"stringData": renewal})).unwrap();
            front.beyond().served(&url(HOST, "/"), to, Some(later), "red-");
            println!("the new certificate is served after {:.2} s", since.elapsed().as_secs_f64());
            load.goes_on(ENOUGH);
            let ended_before = long.is_finished();
            let page = long.join().unwrap();
            let account = load.stop();
            assert!(account.bad.is_empty(), "{account:?}");
            match page {
                // It came so late that it met the new certificate.
                Err(error) if error.contains("certificate") => true,
                page => {
                    assert_eq!(page.unwrap_or_else(|error| panic!("{error}")).code, 200);
                    ended_before
                }
            }
        })
    });
    assert!(renewals.count() < 5, "no long answer was under way all through the change");
    let later = later;
    front.beyond().served(&url(WILD, "/"), to, Some(&second), "blue-");
    let kept = api.get(&format!("{INGRESSES}/shop")).unwrap()["spec"]["tls"].take();
    api.merge(&format!("{INGRESSES}/shop"), &json!({"spec": {"tls": null}})).unwrap();
    wait_for("nobody to listen for TLS", PAGE, || {
        match front.beyond().fetch(&url(HOST, "/"), to, Some(&later)) {
            Err(error) if error.contains("Failed to connect") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    front.beyond().served("http://one.example.com/", to, None, "red-");
    api.merge(&format!("{INGRESSES}/shop"), &json!({"spec": {"tls": kept}})).unwrap();
    front.beyond().served(&url(HOST, "/"), to, Some(&later), "red-");
}

fn scaled(front: &Front<'_>, shop: &[String; 2]) {
    let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/deployments/red/scale");
    let load = Load::start(front.world.outside.world(), &shop[0], HOST, 1, 1);
    for count in [4, 1] {
        let patch = json!({"spec": {"replicas": count}});
        front.cluster.api().merge(&path, &patch).unwrap();
        front.cluster.wait_pods(NAMESPACE, "app=red", count, PODS_GONE).unwrap();
        load.goes_on(ENOUGH);
    }
    let account = load.stop();
    println!(
        "backends 2, 4, 1: {} requests, {} failed, longest wait {:?}",
        account.good,
        account.bad.len(),
        account.silence
    );
    // This Kubernetes does not tell that an endpoint is terminating (1.22 does): each of the three pods that go may break the
    // one request that is under way between HAProxy and it at that moment.
    assert!(account.bad.len() <= 3 && account.good > 300, "{account:?}");
}

/// What a role says of an Ingress's load balancer.
fn said(role: &Balancer, name: &str) -> Value {
    let status = role.status().unwrap();
    let all = status["loadbalancers"].as_array().cloned().unwrap_or_default();
    let own = format!(":{name}__");
    let named = |one: &Value| one["name"].as_str().is_some_and(|name| name.contains(&own));
    all.into_iter().find(named).unwrap_or_default()
}

fn wait_active(role: &Balancer, other: Option<&Balancer>) {
    let waited = wait_for("one to be active and the other to stand by", PAGE, || {
        let (one, two) = (said(role, "shop"), other.map(|other| said(other, "shop")));
        let stands_by =
            two.as_ref().is_none_or(|two| two["active"] == false && two["state"]["ready"] == true);
        if one["active"] == true && stands_by { Ok(()) } else { Err(format!("{one} {two:?}")) }
    });
    waited.unwrap_or_else(|error| panic!("{error}"));
}

/// The role that is active is killed, then told to end: requests go on.
fn taken_over(front: &Front<'_>, shop: &[String; 2], roles: &mut [Balancer; 2]) {
    if said(&roles[0], "shop")["active"] != true {
        roles.swap(0, 1);
    }
    let [active, standby] = roles;
    let standby = &*standby;
    wait_active(active, Some(standby));
    let world = front.world.outside.world();
    let load = Load::start(world, &shop[0], HOST, 2, 1);
    let pid = said(active, "shop")["state"]["pid"].clone();
    active.kill().unwrap();
    load.goes_on(ENOUGH);
    active.start_again().unwrap();
    wait_active(active, Some(standby));
    wait_for("the same HAProxy to be found", PAGE, || {
        let state = said(active, "shop")["state"].take();
        if state["pid"] == pid && pid.is_number() { Ok(()) } else { Err(format!("{state} {pid}")) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    load.goes_on(ENOUGH);
    let account = load.stop();
    println!("role killed: {} requests, longest wait {:?}", account.good, account.silence);
    assert!(account.bad.is_empty(), "{:?}", account.bad);

    // From outside, and from a pod, which goes by routes of the fabric instead of an announced address.
    let load = Load::start(world, &shop[0], HOST, 2, 0);
    load.goes_on(ENOUGH);
    let since = Instant::now();
    active.stop().unwrap();
    println!("the active node left within {:.1} s", since.elapsed().as_secs_f64());
    wait_active(standby, None);
    front.pod(2).served("http://one.example.com/blue", &shop[1], None, "blue-");
    load.goes_on(ENOUGH);
    let account = load.stop();
    println!(
        "role ended: {} requests, {} failed, longest wait {:?}",
        account.good,
        account.bad.len(),
        account.silence
    );
    // Requests under way at the moment of the change may break; the next ones do not.
    assert!(account.bad.len() <= 4 && account.silence < Duration::from_secs(3), "{account:?}");
    active.start_again().unwrap();
    wait_active(active, Some(standby));
    front.beyond().served("http://one.example.com/blue", &shop[0], None, "blue-");
}

/// What is deleted is gone everywhere.
fn removed(front: &Front<'_>, network: &SkeinNetwork, roles: &[Balancer; 2]) {
    let api = front.cluster.api();
    for name in ["shop", "single", "others"] {
        api.delete(&format!("{INGRESSES}/{name}")).unwrap();
    }
    wait_for("every trace to go", PAGE, || {
        let left =
            ["shop", "single", "inner", "sealed", "others"].map(|name| made_of(network, name));
        let left: Vec<String> = left.into_iter().flatten().collect();
        let carried = roles.each_ref().map(|role| role.status().unwrap_or_default());
        let idle = |status: &Value| {
            let none = |key: &str| status[key].as_array().is_some_and(Vec::is_empty);
            none("loadbalancers") && none("removing")
        };
        if left.is_empty() && carried.iter().all(idle) {
            return Ok(());
        }
        Err(format!("{left:?} {carried:?}"))
    })
    .unwrap_or_else(|error| panic!("{error}"));
    for node in &front.cluster.nodes()[..2] {
        let left = node.run("ip", &["netns", "list"]).unwrap().success().unwrap();
        assert!(!left.contains("skein-lb-"), "{left}");
    }
    // Those of other namespaces, too, which are on their way out.
    wait_for("ports of Ingresses to go", PODS_GONE, || {
        let ports = network.skein(&["get", "virtual-machine-interface"]).unwrap().stdout;
        if ports.contains("__Ingress__") { Err(ports) } else { Ok(()) }
    })
    .unwrap_or_else(|error| panic!("{error}"));
    for class in ["skein", "others"] {
        api.delete(&format!("{CLASSES}/{class}")).unwrap();
    }
    api.delete(&format!("/api/v1/namespaces/{NAMESPACE}")).unwrap();
}
