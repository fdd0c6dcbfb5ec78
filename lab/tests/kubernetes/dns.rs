//! Names: answered by every node itself, in a cluster without a DNS pod.

use crate::{ANSWER, NODES, PATIENCE, PODS_GONE, PODS_READY, Steps, create_namespace, create_pod};
use serde_json::{Value, json};
use skein_lab::kubernetes::{Cluster, KubePod, PROBE_IMAGE, SkeinNetwork};
use skein_lab::{Host, Ran, Stalls, Upstream, wait_for};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// The service whose address kubelets give to pods.
pub(crate) const FRONT: &str = include_str!("../../../deploy/kubernetes/dns.yaml");
const FRONT_ADDRESS: &str = "10.96.0.10";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
const UPSTREAM_PORT: u16 = 5353;
/// What the name that only the upstream server knows means.
const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
/// How long a program stays dead.
const DEAD: Duration = Duration::from_secs(1);
/// So many questions are asked before a program dies and after it is back.
const OFTEN: usize = 100;

/// Starts the server that every node asks for names outside of the cluster.
pub(crate) fn upstream(host: &Host) -> Upstream {
    Upstream::start(host, UPSTREAM_PORT, OUTSIDE_ADDRESS).unwrap()
}

/// Makes the service by which pods ask for names, before any other: Kubernetes could give its address away.
pub(crate) fn front(cluster: &Cluster, pods: &[KubePod], steps: &mut Steps) {
    let none = cluster.pods("kube-system", "k8s-app=kube-dns").unwrap();
    assert!(none.is_empty(), "there is a DNS pod: {none:?}");
    cluster.apply(FRONT).unwrap();
    let since = Instant::now();
    for pod in pods {
        let api = wait_answer(pod, &["-type=a", "kubernetes.default.svc.cluster.local"]);
        assert!(api.lines().any(|line| line.ends_with(" 10.96.0.1")), "{}: {api}", pod.name);
    }
    println!(
        "names are answered on every node {:.2} s after the service",
        since.elapsed().as_secs_f64()
    );
    steps.done("DNS on every node");
}

pub(crate) fn check(
    cluster: &Cluster,
    network: &mut SkeinNetwork,
    upstream: &Upstream,
    pods: &[KubePod],
    steps: &mut Steps,
) {
    at_once(cluster);
    steps.done("names at a pod's first question");
    services(cluster, pods);
    steps.done("names of services, endpoints and pods");
    outside(cluster, upstream, pods);
    hosts(cluster);
    subnet_addresses(cluster, pods);
    steps.done("names outside, from hosts and at the subnet's own address");
    policy_does_not_cut_names_off(cluster, pods);
    steps.done("names in spite of a policy");
    served_by_a_pod(cluster, pods);
    steps.done("names from a DNS server in a pod");
    restarted(cluster, network, pods);
    steps.done("agent killed and started again, asked all the time");
    for name in ["named", "heads", "alias"] {
        cluster.api().delete(&format!("{SERVICES}/{name}")).unwrap();
    }
    wait_for("the names to be gone", PATIENCE, || {
        let gone = resolve(&pods[0], &["-type=a", "named.default.svc.cluster.local"]);
        if gone.ok() { Err(gone.stdout) } else { Ok(()) }
    })
    .unwrap();
}

/// Asks as a pod's programs do: by its own `resolv.conf`.
fn resolve(pod: &KubePod, arguments: &[&str]) -> Ran {
    pod.run("/bin/nslookup", arguments).unwrap()
}

pub(crate) fn wait_answer(pod: &KubePod, arguments: &[&str]) -> String {
    wait_for("a name to be answered", PATIENCE, || {
        let ran = resolve(pod, arguments);
        // Server and its address come first; a name that exists and has none of the type is no failure to busybox.
        let answered = ran.ok() && ran.stdout.split_whitespace().count() > 4;
        if answered { Ok(ran.stdout) } else { Err(format!("{arguments:?}: {ran:?}")) }
    })
    .unwrap_or_else(|error| panic!("{}: {error}", pod.name))
}

/// Pods that are the first of their network on their node, and whose programs ask before they do anything else, a single question each: for
/// a service, and for their own name. A question that nobody hears is not asked again.
fn at_once(cluster: &Cluster) {
    const ROUNDS: usize = 3;
    let name = |round: usize| format!("first-{round}");
    let script = "ask() { /bin/nslookup -retry=1 -timeout=60 -type=a $1.cluster.local || echo \"no answer: $1\"; }; \
                  ask kubernetes.default.svc; \
                  own=$(/bin/ip -4 -o addr show eth0 | /bin/busybox sed 's/.* inet \\([0-9.]*\\).*/\\1/'); \
                  ask $(echo $own | /bin/busybox tr . -).$SPACE.pod; echo asked $own";
    for round in 0..ROUNDS {
        let isolated = json!({"opencontrail.org/isolation": "true"});
        create_namespace(cluster, &json!({"name": name(round), "annotations": isolated}));
        for node in cluster.nodes() {
            let pod = json!({
                "metadata": {"name": node.name(), "labels": {"first": "yes"}},
                "spec": {
                    "nodeName": node.name(), "restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
                        "command": ["/bin/sh", "-c", script],
                        "env": [{"name": "SPACE", "value": name(round)}],
                    }],
                },
            });
            create_pod(cluster, &name(round), &pod);
        }
    }
    for round in 0..ROUNDS {
        let ended = wait_for("the first questions to be asked", PODS_READY, || {
            let all = cluster.pods(&name(round), "first=yes").map_err(|error| error.to_string())?;
            let ended = all.iter().filter(|pod| pod.phase == "Succeeded").count();
            if ended == NODES { Ok(all) } else { Err(format!("{ended} of {} have", all.len())) }
        });
        for pod in ended.unwrap_or_else(|error| panic!("{error}")) {
            let log = cluster.pod_log(&pod).unwrap();
            assert!(!log.contains("no answer"), "{} on {}: {log}", pod.namespace, pod.node);
            let own = log.lines().rfind(|line| line.starts_with("asked ")).unwrap();
            let own = own.trim_start_matches("asked ").to_owned();
            for address in ["10.96.0.1", &own] {
                let told = log.lines().any(|line| line.ends_with(&format!(" {address}")));
                assert!(told && !address.is_empty(), "{} on {}: {log}", pod.namespace, pod.node);
            }
        }
        cluster.api().delete(&format!("/api/v1/namespaces/{}", name(round))).unwrap();
    }
}

fn services(cluster: &Cluster, pods: &[KubePod]) {
    let make = |name: &str, spec: Value| {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        cluster.api().create(SERVICES, &object).unwrap()
    };
    let ports = json!([{"name": "http", "port": 8080, "targetPort": 80}]);
    let since = Instant::now();
    let named = make("named", json!({"selector": {"set": "probe1"}, "ports": ports}));
    let address = named["spec"]["clusterIP"].as_str().unwrap();
    let found = wait_answer(&pods[0], &["-type=a", "named.default.svc.cluster.local"]);
    println!("a new service has a name after {:.2} s", since.elapsed().as_secs_f64());
    assert!(found.contains(address), "{found}");
    // The system's own resolver, with search list and ndots, and then a connection.
    for name in ["named", "named.default", "named.default.svc", "named.default.svc.cluster.local"] {
        wait_for("a service to be reached by name", PATIENCE, || {
            let outcomes = pods[0].ask(&[format!("tcp:{name}:8080")], ANSWER).unwrap();
            if outcomes[0].answered() { Ok(()) } else { Err(format!("{name}: {outcomes:?}")) }
        })
        .unwrap();
    }
    let srv = wait_answer(&pods[0], &["-type=srv", "_http._tcp.named.default.svc.cluster.local"]);
    assert!(srv.contains("8080 named.default.svc.cluster.local"), "{srv}");
    let ptr = wait_answer(&pods[0], &[address]);
    assert!(ptr.contains("named.default.svc.cluster.local"), "{ptr}");
    let version = wait_answer(&pods[0], &["-type=txt", "dns-version.cluster.local"]);
    assert!(version.contains("1.1.0"), "{version}");

    // Headless: every endpoint, and a pod that has a name of its own among them.
    make("heads", json!({"clusterIP": "None", "selector": {"heads": "yes"}, "ports": ports}));
    for number in 0..NODES {
        let pod = json!({
            "metadata": {"name": format!("head-{number}"), "labels": {"heads": "yes"}},
            "spec": {
                "hostname": format!("first-{number}"), "subdomain": "heads",
                "nodeName": cluster.nodes()[number].name(), "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
            },
        });
        create_pod(cluster, "default", &pod);
    }
    let heads = cluster.wait_pods("default", "heads=yes", NODES, PODS_READY).unwrap();
    let name = "heads.default.svc.cluster.local";
    wait_for("all endpoints to have names", PATIENCE, || {
        let all = resolve(&pods[0], &["-type=a", name]).stdout;
        let missing = heads.iter().find(|pod| !all.contains(&pod.address));
        missing.map_or(Ok(()), |pod| Err(format!("{} is missing: {all}", pod.address)))
    })
    .unwrap();
    let first = wait_answer(&pods[0], &["-type=a", &format!("first-0.{name}")]);
    assert!(first.contains(&heads[0].address), "{first}");
    let ptr = wait_answer(&pods[0], &[&heads[0].address]);
    assert!(ptr.contains(&format!("first-0.{name}")), "{ptr}");
    wait_for("a service record of every endpoint", PATIENCE, || {
        let srv = resolve(&pods[0], &["-type=srv", &format!("_http._tcp.{name}")]).stdout;
        if srv.matches("first-").count() == NODES { Ok(()) } else { Err(srv) }
    })
    .unwrap();
    let dashed = heads[0].address.replace('.', "-");
    let pod = wait_answer(&pods[0], &["-type=a", &format!("{dashed}.default.pod.cluster.local")]);
    assert!(pod.contains(&heads[0].address), "{pod}");
    // An endpoint that is gone is no answer any more.
    let path = format!("/api/v1/namespaces/default/pods/{}", heads[1].name);
    cluster.api().delete(&path).unwrap();
    wait_for("an endpoint to lose its name", PODS_GONE, || {
        let all = resolve(&pods[0], &["-type=a", name]).stdout;
        if all.contains(&heads[1].address) { Err(all) } else { Ok(()) }
    })
    .unwrap();
    for head in [&heads[0], &heads[2]] {
        cluster.api().delete(&format!("/api/v1/namespaces/default/pods/{}", head.name)).unwrap();
    }
    let nobody = resolve(&pods[0], &["-type=a", "nobody.default.svc.cluster.local"]);
    assert!(!nobody.ok() && nobody.stdout.contains("NXDOMAIN"), "{nobody:?}");
}

fn outside(cluster: &Cluster, upstream: &Upstream, pods: &[KubePod]) {
    let address = OUTSIDE_ADDRESS.to_string();
    let before = upstream.asked();
    let found = wait_answer(&pods[0], &["-type=a", Upstream::NAME]);
    assert!(found.contains(&address), "{found}");
    assert!(upstream.asked() > before);
    let alias = json!({
        "metadata": {"name": "alias"}, "spec": {"type": "ExternalName", "externalName": Upstream::NAME},
    });
    cluster.api().create(SERVICES, &alias).unwrap();
    let found = wait_answer(&pods[0], &["-type=a", "alias.default.svc.cluster.local"]);
    assert!(found.contains(Upstream::NAME) && found.contains(&address), "{found}");
}

/// Programs of the node itself, which pods on its network are, too.
fn hosts(cluster: &Cluster) {
    for node in cluster.nodes() {
        let mut command = Command::new("busybox");
        command.args(["nslookup", "-type=a", "named.default.svc.cluster.local", FRONT_ADDRESS]);
        wait_for(&format!("a name on {}", node.name()), PATIENCE, || {
            let ran = node.host().run(&mut command).unwrap();
            let good = ran.ok() && ran.stdout.contains("named.default");
            if good { Ok(()) } else { Err(format!("{ran:?}")) }
        })
        .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What the original's workloads ask: an address of their own subnet.
fn subnet_addresses(cluster: &Cluster, pods: &[KubePod]) {
    let node = cluster.nodes().iter().find(|node| node.name() == pods[0].node).unwrap();
    let shown = node.host().http(8085, "GET", "/v1/dns", "").unwrap().body;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let own = shown["own"].as_array().unwrap().iter().filter_map(Value::as_str);
    let address = own.clone().find(|address| address.starts_with("10.244."));
    let address = address.unwrap_or_else(|| panic!("no address of the pods' subnet: {shown}"));
    let found = wait_answer(&pods[0], &["-type=a", "named.default.svc.cluster.local", address]);
    assert!(found.contains("named.default"), "{found}");
}

fn policy_does_not_cut_names_off(cluster: &Cluster, pods: &[KubePod]) {
    let pod = &pods[0];
    let set = pod.object["metadata"]["labels"]["set"].as_str().unwrap();
    let policy = json!({
        "metadata": {"name": "nothing-out"},
        "spec": {"podSelector": {"matchLabels": {"set": set}}, "policyTypes": ["Egress"]},
    });
    cluster.api().create(POLICIES, &policy).unwrap();
    let other = crate::other_node(pods, pod);
    wait_for("the policy to be in force", PATIENCE, || {
        let outcomes = pod.ask(&[format!("tcp:{}:80", other.address)], Duration::from_millis(300));
        if outcomes.unwrap()[0].answered() { Err("connected") } else { Ok(()) }
    })
    .unwrap();
    let found = resolve(pod, &["-type=a", "named.default.svc.cluster.local"]);
    assert!(found.ok(), "{found:?}");
    cluster.api().delete(&format!("{POLICIES}/nothing-out")).unwrap();
    wait_for("the policy to be gone", PATIENCE, || {
        let outcomes = pod.ask(&[format!("tcp:{}:80", other.address)], Duration::from_millis(300));
        if outcomes.unwrap()[0].answered() { Ok(()) } else { Err("refused") }
    })
    .unwrap();
}

/// As clusters with CoreDNS have it: a server in a pod behind a service, whose address is in the `resolv.conf` of pods. Policies are
/// about it as about any other.
fn served_by_a_pod(cluster: &Cluster, pods: &[KubePod]) {
    let pod = |name: &str, node: usize, more: &Value| {
        let mut spec = json!({
            "nodeName": cluster.nodes()[node].name(), "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never"}],
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let labels = json!({"app": name});
        json!({"metadata": {"name": format!("{name}-{node}"), "labels": labels}, "spec": spec})
    };
    let service = json!({"metadata": {"name": "name-server"}, "spec": {
        "selector": {"app": "name-server"}, "ports": [{"name": "dns", "protocol": "UDP", "port": 53}],
    }});
    let made = cluster.api().create(SERVICES, &service).unwrap();
    let config =
        json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": [made["spec"]["clusterIP"]]}});
    create_pod(cluster, "default", &pod("name-server", 1, &json!({})));
    for node in 0..NODES {
        create_pod(cluster, "default", &pod("name-client", node, &config));
    }
    let server = cluster.wait_pods("default", "app=name-server", 1, PODS_READY).unwrap().remove(0);
    let clients = cluster.wait_pods("default", "app=name-client", NODES, PODS_READY).unwrap();
    let socket = server.inside(|| std::net::UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
    let upstream = Upstream::on(socket, OUTSIDE_ADDRESS).unwrap();
    let address = OUTSIDE_ADDRESS.to_string();
    for client in &clients {
        let before = upstream.asked();
        let found = wait_answer(client, &["-type=a", Upstream::NAME]);
        assert!(found.contains(&address), "{}: {found}", client.name);
        assert!(upstream.asked() > before, "{}: who answered? {found}", client.name);
    }
    // As people write it: nothing out but names.
    let policy = json!({
        "metadata": {"name": "only-names"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "name-client"}}, "policyTypes": ["Egress"],
            "egress": [{
                "to": [{"podSelector": {"matchLabels": {"app": "name-server"}}}],
                "ports": [{"protocol": "UDP", "port": 53}],
            }],
        },
    });
    cluster.api().create(POLICIES, &policy).unwrap();
    for client in &clients {
        wait_for("the policy to be in force", PATIENCE, || {
            let target = [format!("tcp:{}:80", pods[0].address)];
            let outcomes = client.ask(&target, Duration::from_millis(300)).unwrap();
            if outcomes[0].answered() { Err("connected") } else { Ok(()) }
        })
        .unwrap();
        let ran = resolve(client, &["-type=a", Upstream::NAME]);
        assert!(ran.ok() && ran.stdout.contains(&address), "{}: {ran:?}", client.name);
    }
    // Without its only rule there are no names either: an unanswered query takes the client ten seconds.
    cluster
        .api()
        .merge(&format!("{POLICIES}/only-names"), &json!({"spec": {"egress": []}}))
        .unwrap();
    wait_for("no names any more", PATIENCE, || {
        let before = upstream.asked();
        let mut command = clients[0].command("/bin/nslookup").unwrap();
        command.args(["-type=a", Upstream::NAME]);
        let mut limited = Command::new("timeout");
        limited.args(["-s", "KILL", "0.5"]).arg(command.get_program()).args(command.get_args());
        let answered = limited.output().unwrap().status.success();
        if answered || upstream.asked() > before { Err("answered") } else { Ok(()) }
    })
    .unwrap();
    drop(upstream);
    cluster.api().delete(&format!("{POLICIES}/only-names")).unwrap();
    cluster.api().delete(&format!("{SERVICES}/name-server")).unwrap();
    for pod in clients.iter().chain([&server]) {
        cluster.api().delete(&format!("/api/v1/namespaces/default/pods/{}", pod.name)).unwrap();
    }
}

/// A program's own questions: one datagram each, and nothing sent again.
struct Resolver {
    socket: UdpSocket,
    asked: u16,
}

impl Resolver {
    /// As a pod of the cluster has it in its `resolv.conf`.
    fn of(pod: &KubePod) -> Resolver {
        let socket = pod.inside(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.connect((FRONT_ADDRESS, 53)).unwrap();
        Resolver { socket, asked: 0 }
    }

    /// The number of addresses that one question for a name is answered with.
    fn ask(&mut self, name: &str, patience: Duration) -> Result<u16, String> {
        self.send(name);
        self.answer(patience).unwrap_or_else(|| Err("no answer".into()))
    }

    /// Sends one question (RFC 1035, section 4.1).
    fn send(&mut self, name: &str) {
        self.asked = self.asked.wrapping_add(1);
        let [high, low] = self.asked.to_be_bytes();
        // Recursion desired, one question.
        let mut question = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            question.push(u8::try_from(label.len()).unwrap());
            question.extend(label.as_bytes());
        }
        // The root; type A, class IN.
        question.extend([0, 0, 1, 0, 1]);
        // That nobody heard an earlier question is told instead of sending this one.
        while let Err(error) = self.socket.send(&question) {
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        }
    }

    /// The answer to the last question, if it comes in time: how many addresses, or why none.
    fn answer(&self, patience: Duration) -> Option<Result<u16, String>> {
        let until = Instant::now() + patience;
        let mut answer = [0; 1500];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1)))).unwrap();
            let length = match self.socket.recv(&mut answer) {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(_) => return None,
                Ok(length) => length,
            };
            // What comes late is no answer to this.
            if length >= 12 && answer[..2] == self.asked.to_be_bytes() {
                let code = answer[3] & 15;
                let count = u16::from_be_bytes([answer[6], answer[7]]);
                return Some(if code == 0 { Ok(count) } else { Err(format!("code {code}")) });
            }
        }
    }
}

/// What an agent does while questions are asked.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Agent {
    Runs,
    Away,
    Ready,
}

/// Asks one question after the other until so many were answered by an agent that is ready again. Each must be answered that is sent while
/// the agent runs, or after it was told to be ready; but one may be under way when it ends. The longest time between two answers.
fn asked_all_the_time(
    pod: &KubePod,
    name: &str,
    told: &Receiver<Agent>,
    answered: &AtomicUsize,
) -> Duration {
    let mut resolver = Resolver::of(pod);
    let mut agent = Agent::Runs;
    let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
    let mut after = 0;
    while after < OFTEN {
        match told.try_recv() {
            Ok(now) => agent = now,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
        resolver.send(name);
        let since = Instant::now();
        let answer = loop {
            let answer = resolver.answer(Duration::from_millis(100));
            if agent == Agent::Runs && answer.is_none() {
                agent = told.try_recv().unwrap_or(agent);
            }
            if answer.is_some() || agent == Agent::Away || since.elapsed() > PATIENCE {
                break answer;
            }
        };
        if answer == Some(Ok(1)) {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            answered.fetch_add(1, Ordering::Relaxed);
            after += usize::from(agent == Agent::Ready);
        } else {
            assert_eq!(agent, Agent::Away, "question {} got {answer:?}", resolver.asked);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    longest
}

/// Names are away while the agent is, and not longer: once it is ready again, every single question is answered.
fn restarted(cluster: &Cluster, network: &mut SkeinNetwork, pods: &[KubePod]) {
    let name = "named.default.svc.cluster.local";
    let pod = &pods[0];
    let node = cluster.nodes().iter().position(|node| node.name() == pod.node).unwrap();
    let answered = AtomicUsize::new(0);
    let stalls = Stalls::watch();
    let (longest, down) = std::thread::scope(|scope| {
        let (tell, told) = channel();
        let asking = scope.spawn({
            let answered = &answered;
            move || asked_all_the_time(pod, name, &told, answered)
        });
        wait_for("questions to be answered", PATIENCE, || {
            let so_far = answered.load(Ordering::Relaxed);
            if so_far >= OFTEN { Ok(()) } else { Err(format!("{so_far} answers")) }
        })
        .unwrap();
        tell.send(Agent::Away).unwrap();
        let since = Instant::now();
        network.agent(node).kill().unwrap();
        std::thread::sleep(DEAD);
        network.restart_agent(node).unwrap();
        let down = since.elapsed();
        tell.send(Agent::Ready).unwrap();
        let mut resolver = Resolver::of(pod);
        for number in 0..50 {
            let answer = resolver.ask(name, PATIENCE);
            assert_eq!(answer, Ok(1), "question {number} after the agent was ready");
        }
        (asking.join().unwrap(), down)
    });
    println!(
        "the agent was away for {:.2} s, names for {:.2} s",
        down.as_secs_f64(),
        longest.as_secs_f64()
    );
    let names = longest.saturating_sub(stalls.longest());
    assert!(names < down + Duration::from_millis(700), "{longest:?}, {names:?} of {down:?}");
}
