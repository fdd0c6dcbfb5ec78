//! What a client of a service keeps, and what it must not keep: session affinity up to its timeout, datagrams up to the end of their
//! member. On every protocol. And services that are open though their pods are not.

use crate::networks::{assert_answers, assert_reach, on_every_node, wait_answers};
use crate::services::{answered_by, answering, names};
use crate::{ANSWER, PATIENCE, Steps, ask_from_host, create_namespace, create_pod, streams};
use serde_json::{Value, json};
use skein_lab::kubernetes::{
    Cluster, KubePod, PROBE_IMAGE, ProbeAnswer, ProbeOutcome, SkeinNetwork,
};
use skein_lab::wait_for;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const PODS: &str = "/api/v1/namespaces/default/pods";
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
const OFTEN: usize = 20;
const AFFINITY: u64 = 3;
const CALLS: u16 = 30_190;
/// Chosen, as ports that Kubernetes chooses may be those that later services ask for.
const OPEN: u16 = 30_195;
const CLOSED: u16 = 30_196;

pub(crate) fn check(
    cluster: &Cluster,
    network: &SkeinNetwork,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    affinity(cluster, pods);
    steps.done("session affinity and its end, TCP, UDP and SCTP");
    datagrams_move(cluster, network, pods);
    steps.done("datagrams leave a removed member");
    connections_stay(cluster, pods);
    steps.done("connections stay with a member that is not ready");
    open_services(cluster, pods);
    steps.done("open services of isolated pods");
}

fn ports() -> Value {
    PROTOCOLS
        .iter()
        .map(|name| json!({"name": name, "protocol": name.to_uppercase(), "port": 8080, "targetPort": 80}))
        .collect()
}

/// A client's questions, and what it is called.
type Client<'a> = (String, Box<dyn Fn(&[String]) -> Vec<ProbeOutcome> + 'a>);

/// Every client keeps one member, and another protocol's is another's; when it was silent long enough it gets one anew.
fn affinity(cluster: &Cluster, pods: &[KubePod]) {
    let service = json!({"metadata": {"name": "sticky"}, "spec": {
        "selector": {"set": "probe1"}, "ports": ports(), "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": AFFINITY}},
    }});
    let made = cluster.api().create(SERVICES, &service).unwrap();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let members = names(pods, "probe1");
    // Those who would meet themselves see another address, and are clients like all.
    let mut clients: Vec<Client<'_>> = pods
        .iter()
        .map(|pod| -> Client<'_> {
            (pod.name.clone(), Box::new(move |targets| pod.ask(targets, ANSWER).unwrap()))
        })
        .collect();
    for node in cluster.nodes() {
        let ask = move |targets: &[String]| ask_from_host(cluster, node.host(), targets, ANSWER);
        clients.push((node.name().to_owned(), Box::new(ask)));
    }
    let mut moved = BTreeSet::new();
    for protocol in PROTOCOLS {
        let targets = vec![format!("{protocol}:{address}:8080"); OFTEN];
        let member = |client: &Client<'_>| {
            let wait = wait_for(&format!("one member for {}", client.0), PATIENCE, || {
                let outcomes = (client.1)(&targets);
                let seen = answering(&outcomes);
                let one = seen.len() == 1 && seen.is_subset(&members);
                if one { Ok(seen) } else { Err(format!("{protocol}: {outcomes:?}")) }
            });
            wait.unwrap_or_else(|error| panic!("{error}"))
        };
        // Asked twice within the time; on a busy machine, once more.
        let stays = |client: &Client<'_>| {
            let wait = wait_for(&format!("two answers in time for {}", client.0), PATIENCE, || {
                let since = Instant::now();
                let (first, again) = (member(client), member(client));
                if since.elapsed() >= Duration::from_secs(AFFINITY) {
                    return Err(format!("it took {:?}", since.elapsed()));
                }
                assert_eq!(first, again, "{protocol}: {} stays", client.0);
                Ok(first)
            });
            wait.unwrap_or_else(|error| panic!("{error}"))
        };
        let forgotten =
            || std::thread::sleep(Duration::from_secs(AFFINITY) + Duration::from_millis(500));
        let mut first: Vec<_> = clients.iter().map(stays).collect();
        let several = |members: &[_]| members.iter().collect::<BTreeSet<_>>().len() > 1;
        // By chance twelve clients get the same one of three members, or each its own again: but not twice.
        if !several(&first) {
            forgotten();
            first = clients.iter().map(stays).collect();
        }
        assert!(several(&first), "{protocol}: all have {first:?}");
        let moves = || {
            forgotten();
            first != clients.iter().map(member).collect::<Vec<_>>()
        };
        if moves() || moves() {
            moved.insert(protocol);
        }
    }
    assert_eq!(moved, PROTOCOLS.into(), "after the timeout members are chosen anew");
    cluster.api().delete(&format!("{SERVICES}/sticky")).unwrap();
}

/// One socket of a client, which sends again and again.
struct Caller {
    name: String,
    socket: UdpSocket,
    target: String,
    calls: Cell<usize>,
}

impl Caller {
    fn new(name: String, socket: UdpSocket, target: String) -> Caller {
        Caller { name, socket, target, calls: Cell::new(0) }
    }

    /// Who answers within a moment.
    fn call(&self) -> Result<String, String> {
        let mut buffer = [0; 512];
        self.calls.set(self.calls.get() + 1);
        let question = format!("call {}", self.calls.get());
        self.socket
            .send_to(question.as_bytes(), &self.target)
            .map_err(|error| error.to_string())?;
        loop {
            let (length, _) =
                self.socket.recv_from(&mut buffer).map_err(|error| error.to_string())?;
            let answer: ProbeAnswer =
                serde_json::from_slice(&buffer[..length]).map_err(|error| error.to_string())?;
            // What comes late is no answer to this.
            if answer.question.as_deref() == Some(&question) {
                return Ok(answer.pod);
            }
        }
    }

    /// Calls until somebody answers whom the test wants; who that is.
    fn reaches(&self, wanted: impl Fn(&str) -> bool) -> String {
        wait_for(&format!("{} to be answered", self.name), PATIENCE, || match self.call() {
            Ok(pod) if wanted(&pod) => Ok(pod),
            other => Err(format!("{other:?}")),
        })
        .unwrap_or_else(|error| panic!("{error}"))
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    socket
}

/// Members are taken out of a service by a label, by readiness and by their end; who sends from the same port all the time
/// must be answered by another one.
fn datagrams_move(cluster: &Cluster, network: &SkeinNetwork, pods: &[KubePod]) {
    for (number, name) in ["call-0", "call-1", "call-2"].into_iter().enumerate() {
        let pod = json!({
            "metadata": {"name": name, "labels": {"app": "calls", "called": "yes"}},
            "spec": {
                "nodeName": cluster.nodes()[number].name(), "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
            },
        });
        create_pod(cluster, "default", &pod);
    }
    let called = cluster.wait_pods("default", "app=calls", 3, crate::PODS_READY).unwrap();
    let service = json!({"metadata": {"name": "calls"}, "spec": {
        "type": "NodePort", "selector": {"called": "yes"},
        "ports": [{"protocol": "UDP", "port": 5060, "targetPort": 80, "nodePort": CALLS}],
    }});
    let made = cluster.api().create(SERVICES, &service).unwrap();
    let target = format!("{}:5060", made["spec"]["clusterIP"].as_str().unwrap());
    let of_set = |pod: &&KubePod| pod.object["metadata"]["labels"]["set"] == "probe1";
    let mut callers: Vec<Caller> = pods
        .iter()
        .filter(of_set)
        .map(|pod| Caller::new(pod.name.clone(), pod.inside(socket).unwrap(), target.clone()))
        .collect();
    for node in cluster.nodes() {
        let door = format!("{}:{CALLS}", node.host().ipv4());
        let own = node.host().inside(socket).unwrap();
        callers.push(Caller::new(node.name().to_owned(), own, target.clone()));
        let own = node.host().inside(socket).unwrap();
        callers.push(Caller::new(format!("{} at its port", node.name()), own, door.clone()));
        let outside = cluster.control_host().inside(socket).unwrap();
        let name = format!("outside at {}", node.name());
        callers.push(Caller::new(name, outside, door));
    }
    for caller in &callers {
        caller.reaches(|pod| pod.starts_with("call-"));
    }
    let label = |pod: &KubePod, value: Value| {
        let patch = json!({"metadata": {"labels": {"called": value}}});
        cluster.api().merge(&format!("{PODS}/{}", pod.name), &patch).unwrap();
    };
    let everyone_moves = |gone: &[&str]| {
        let since = Instant::now();
        for caller in &callers {
            caller.reaches(|pod| !gone.contains(&pod));
        }
        println!("without {gone:?} after {:.2} s", since.elapsed().as_secs_f64());
        for caller in &callers {
            for _ in 0..3 {
                let pod = caller.reaches(|_| true);
                assert!(!gone.contains(&pod.as_str()), "{} is at {pod} again", caller.name);
            }
        }
    };
    // It lives, and answers whoever asks it; but it is no member any more.
    label(&called[0], Value::Null);
    settled(network, &called[0]);
    everyone_moves(&["call-0"]);
    label(&called[0], json!("yes"));
    label(&called[1], Value::Null);
    settled(network, &called[1]);
    everyone_moves(&["call-1"]);
    // It is gone altogether.
    label(&called[1], json!("yes"));
    cluster.api().delete(&format!("{PODS}/call-2")).unwrap();
    settled(network, &called[2]);
    everyone_moves(&["call-2"]);
    cluster.api().delete(&format!("{SERVICES}/calls")).unwrap();
    for name in ["call-0", "call-1"] {
        cluster.api().delete(&format!("{PODS}/{name}")).unwrap();
    }
}

/// A pod says by a gate that it is not ready: it gets no new connections, and keeps those it has.
fn connections_stay(cluster: &Cluster, pods: &[KubePod]) {
    let gate = "skein.io/lab";
    let pod = json!({
        "metadata": {"name": "stays", "labels": {"app": "stays"}},
        "spec": {
            "nodeName": cluster.nodes()[1].name(), "terminationGracePeriodSeconds": 0,
            "readinessGates": [{"conditionType": gate}],
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        },
    });
    create_pod(cluster, "default", &pod);
    let path = format!("{PODS}/stays");
    cluster
        .api()
        .wait("stays", &path, crate::PODS_READY, |o| o["status"]["phase"] == "Running")
        .unwrap();
    let ready = |status: &str| {
        // The kubelet writes the others at the same time.
        wait_for("the pod to take a condition", PATIENCE, || {
            let now = cluster.api().get(&path).map_err(|error| error.to_string())?;
            let mut all = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
            all.retain(|condition| condition["type"] != gate);
            all.push(json!({"type": gate, "status": status}));
            let patch = json!({
                "metadata": {"resourceVersion": now["metadata"]["resourceVersion"]},
                "status": {"conditions": all},
            });
            cluster
                .api()
                .merge(&format!("{path}/status"), &patch)
                .map_err(|error| error.to_string())
        })
        .unwrap();
    };
    ready("True");
    let service = json!({"metadata": {"name": "stays"}, "spec": {
        "selector": {"app": "stays"}, "ports": [{"port": 8080, "targetPort": 80}],
    }});
    let made = cluster.api().create(SERVICES, &service).unwrap();
    let target = format!("{}:8080", made["spec"]["clusterIP"].as_str().unwrap());
    let asked = [format!("tcp:{target}")];
    let client = pods.iter().find(|pod| pod.node == cluster.nodes()[0].name()).unwrap();
    let answers = |wanted: bool| {
        wait_for(&format!("an answer: {wanted}"), PATIENCE, || {
            let outcomes = client.ask(&asked, ANSWER).unwrap();
            if outcomes[0].answered() == wanted { Ok(()) } else { Err(format!("{outcomes:?}")) }
        })
        .unwrap();
    };
    answers(true);
    let stream = client.stream(&target, &cluster.state().join("stays.json")).unwrap();
    streams::goes_on(&stream);
    ready("False");
    answers(false);
    streams::goes_on(&stream);
    ready("True");
    answers(true);
    let report = streams::unnoticed(stream, "stays");
    // Less what the machine did not let the client wake for; how long at most it is with that, `unnoticed` says.
    let gap = report.longest_gap - report.longest_stall;
    assert!(report.echoes > 100 && gap < 500.0, "{report:?}");
    cluster.api().delete(&format!("{SERVICES}/stays")).unwrap();
    cluster.api().delete(&path).unwrap();
}

/// Waits until no node has the member any more.
fn settled(network: &SkeinNetwork, pod: &KubePod) {
    wait_for("nodes without the member", PATIENCE, || {
        for node in 0..crate::NODES {
            let shown = network.skein_on(node, &["vrouter", "services", "-o", "json"]).unwrap();
            let text = shown.stdout;
            let services: Value =
                serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
            let ours = services.as_array().into_iter().flatten().filter(|service| {
                service["name"].as_str().is_some_and(|name| name.contains("default/calls"))
            });
            let mut members = ours.flat_map(|s| s["members"].as_array().into_iter().flatten());
            if members.any(|member| member["address"] == json!(pod.address)) {
                return Err(format!("node {node}: {text}"));
            }
        }
        Ok(())
    })
    .unwrap_or_else(|error| panic!("{error}"));
}

/// `isolation.service: 'false'`: pods stay closed, services are open; and it can be changed while they run.
fn open_services(cluster: &Cluster, others: &[KubePod]) {
    let isolated = |name: &str, service: &str| {
        let annotations = json!({
            "opencontrail.org/isolation": "true", "opencontrail.org/isolation.service": service,
        });
        create_namespace(cluster, &json!({"name": name, "annotations": annotations}));
        on_every_node(cluster, name, "web", &json!({}))
    };
    let shop = isolated("open-shop", "false");
    let neighbour = isolated("closed-shop", "true");
    let address = |namespace: &str, node_port: u16| {
        let mut ports = ports();
        for port in ports.as_array_mut().unwrap() {
            port["nodePort"] = json!(node_port);
        }
        let service = json!({"metadata": {"name": "web"}, "spec": {
            "type": "NodePort", "selector": {"app": "web"}, "ports": ports,
        }});
        let path = format!("/api/v1/namespaces/{namespace}/services");
        let made = cluster.api().create(&path, &service).unwrap();
        made["spec"]["clusterIP"].as_str().unwrap().to_owned()
    };
    let (open, closed) = (address("open-shop", OPEN), address("closed-shop", CLOSED));
    let members: BTreeSet<String> = shop.iter().map(|pod| pod.name.clone()).collect();
    let reached = |from: &[KubePod]| {
        for protocol in PROTOCOLS {
            let targets = vec![format!("{protocol}:{open}:8080"); 2 * OFTEN];
            for pod in from {
                answered_by(&members, &pod.name, || pod.ask(&targets, ANSWER).unwrap());
            }
        }
    };
    let open_target = [format!("tcp:{open}:8080")];
    let closed_target = [format!("tcp:{closed}:8080")];
    reached(&shop);
    reached(&others[..3]);
    assert_reach(others, &shop, false);
    assert_answers(others, &closed_target, false);
    // Isolated pods of another namespace are others, too.
    reached(&neighbour[..1]);
    assert_reach(&neighbour, &shop, false);
    assert_answers(&shop, &closed_target, false);
    for node in cluster.nodes() {
        let ask = || ask_from_host(cluster, node.host(), &open_target, ANSWER);
        wait_for("a host at an open service", PATIENCE, || {
            let outcomes = ask();
            if outcomes[0].answered() { Ok(()) } else { Err(format!("{outcomes:?}")) }
        })
        .unwrap();
    }
    // Closed and opened while it runs.
    for (value, wanted) in [("true", false), ("false", true)] {
        let patch =
            json!({"metadata": {"annotations": {"opencontrail.org/isolation.service": value}}});
        cluster.api().merge("/api/v1/namespaces/open-shop", &patch).unwrap();
        wait_answers(&others[..3], &open_target, wanted);
        assert_answers(&shop, &open_target, true);
        assert_answers(&others[..3], &open_target, wanted);
        assert_reach(&others[..3], &shop, false);
    }
    for namespace in ["open-shop", "closed-shop"] {
        cluster.api().delete(&format!("/api/v1/namespaces/{namespace}")).unwrap();
    }
}
