//! Load balancers by HAProxy on two nodes, from objects of the configuration API to answers: reloads, restarts, deaths.
//! Needs root and the programs `haproxy` and `curl`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failed step is a failed test; figures are for the reader"
)]
#![allow(clippy::needless_pass_by_value, reason = "json! reads better where it is passed")]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use skein_lab::{Process, Stalls, Workload, wait_until};
use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use support::web::{Account, Load, Web, from_pod};
use support::{Bed, PATIENCE, api, programs, soon};

const VIP: &str = "10.1.0.100";
const HOST: &str = "shop.example.com";

fn make(bed: &Bed, kind: &str, fields: Value) -> String {
    let host = bed.fabric.control_host();
    let (status, answer) =
        api(host, "POST", &format!("/{kind}s"), &json!({ kind: fields })).unwrap();
    assert_eq!(status, 200, "{kind}: {answer}");
    answer[kind]["uuid"].as_str().unwrap().to_owned()
}

fn full(name: &str) -> Value {
    json!(["default-domain", "shop", name])
}

/// The role on one node, and a HAProxy that does what a test wants.
struct Role {
    process: Process,
    node: usize,
}

impl Role {
    fn start(bed: &Bed, node: usize) -> Role {
        let host = bed.fabric.node(node).host();
        let folder = host.directory();
        let tricks = folder.join("haproxy");
        // Refuses configurations, or does not start at all, while a file says so.
        let script = format!(
            "#!/bin/sh\n\
             [ -e {0}/lb-dead ] && {{ echo 'cannot live' >&2; exit 1; }}\n\
             [ -e {0}/lb-refuse ] && [ \"$1\" = -c ] && {{ echo 'ALERT: cannot be' >&2; exit 1; }}\n\
             exec /usr/sbin/haproxy \"$@\"\n",
            folder.display()
        );
        if !tricks.exists() {
            std::fs::write(&tricks, script).unwrap();
            std::fs::set_permissions(&tricks, PermissionsExt::from_mode(0o755)).unwrap();
            std::fs::create_dir_all(folder.join("certificates")).unwrap();
        }
        let mut command = Command::new(programs::folder().join("skeind"));
        command
            .args(["loadbalancer", "--node", host.name(), "--api"])
            .arg(format!("http://{}:8082", bed.fabric.control_host().ipv4()))
            .arg("--socket")
            .arg(folder.join("agent.sock"))
            .arg("--run-dir")
            .arg(folder.join("lb"))
            .arg("--haproxy")
            .arg(&tricks)
            .arg("--namespace-prefix")
            .arg(format!("{}-lb-", host.namespace()))
            .arg("--certificates")
            .arg(folder.join("certificates"));
        let mut process = host.spawn("loadbalancer", &mut command).unwrap();
        let ready = || match host.http(8086, "GET", "/readyz", "") {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.body),
            Err(error) => Err(error.to_string()),
        };
        process.wait_ready(Duration::from_secs(20), ready).unwrap();
        Role { process, node }
    }

    fn status(&self, bed: &Bed) -> Value {
        let answer = bed.fabric.node(self.node).host().http(8086, "GET", "/v1/status", "");
        answer.map_or(Value::Null, |answer| serde_json::from_str(&answer.body).unwrap())
    }

    /// What it says of its only load balancer.
    fn balancer(&self, bed: &Bed) -> Value {
        self.status(bed)["loadbalancers"][0].clone()
    }

    fn state(&self, bed: &Bed, what: &str) -> Value {
        self.balancer(bed)["state"][what].clone()
    }

    fn folder(&self, bed: &Bed) -> PathBuf {
        bed.fabric.node(self.node).host().directory().to_owned()
    }

    /// Ends the daemon as a crash would.
    fn kill(&mut self) {
        self.process.kill().unwrap();
    }
}

/// Active and standby, once both are ready.
fn roles(bed: &Bed, both: [Role; 2]) -> (Role, Role) {
    let ready = || both.iter().all(|role| role.state(bed, "ready") == json!(true));
    if wait_until("both nodes to be ready", PATIENCE, ready).is_err() {
        let said = both
            .each_ref()
            .map(|role| format!("{}\n{}", role.status(bed), role.process.log_tail()));
        panic!("the nodes are not ready: {}", said.join("\n"));
    }
    let active = |role: &Role| role.balancer(bed)["active"] == json!(true);
    // The first to be ready is active until the other one is, which may come before it in their order.
    let mut since = (Instant::now(), None);
    soon("one to stay active", || {
        let now = both.each_ref().map(active);
        if since.1 != Some(now) {
            since = (Instant::now(), Some(now));
        }
        now[0] != now[1] && since.0.elapsed() > Duration::from_secs(1)
    });
    let [one, two] = both;
    if active(&one) { (one, two) } else { (two, one) }
}

/// A network with a client and a server on each node, and a load balancer before the servers.
struct Shop {
    clients: [Workload; 2],
    servers: [Workload; 2],
    _webs: [Web; 2],
    balancer: String,
}

fn shop(bed: &Bed) -> Shop {
    bed.network("pods", 1);
    let clients = [0, 1].map(|node| bed.attach(node, &format!("client{node}"), "pods"));
    let servers = [0, 1].map(|node| bed.attach(node, &format!("server{node}"), "pods"));
    let webs = [0, 1].map(|nth: usize| Web::start(&servers[nth].pod, 8080, &format!("web{nth}")));
    let vip = make(
        bed,
        "virtual-machine-interface",
        json!({"fq_name": full("vip"), "parent_type": "project",
               "virtual_network_refs": [{"to": full("pods")}]}),
    );
    make(
        bed,
        "instance-ip",
        json!({"fq_name": ["vip"], "instance_ip_address": VIP, "instance_ip_mode": "active-standby",
               "virtual_network_refs": [{"to": full("pods")}],
               "virtual_machine_interface_refs": [{"uuid": vip}]}),
    );
    let balancer = make(
        bed,
        "loadbalancer",
        json!({"fq_name": full("web"), "parent_type": "project",
               "loadbalancer_provider": "haproxy",
               "loadbalancer_properties": {"vip_address": VIP, "admin_state": true},
               "virtual_machine_interface_refs": [{"uuid": vip}]}),
    );
    make(
        bed,
        "loadbalancer-healthmonitor",
        json!({"fq_name": full("alive"), "parent_type": "project",
               "loadbalancer_healthmonitor_properties": {
                   "monitor_type": "HTTP", "delay": 1, "timeout": 1, "max_retries": 1,
                   "url_path": "/", "expected_codes": "200"}}),
    );
    let shop = Shop { clients, servers, _webs: webs, balancer };
    route(bed, &shop, "first", "/", 0);
    member(bed, &shop, "first", 1);
    shop
}

fn route(bed: &Bed, shop: &Shop, name: &str, path: &str, server: usize) -> [String; 2] {
    let notes = [("type", "acl"), ("host", HOST), ("path", path), ("pathType", "Prefix")];
    let notes: Vec<Value> =
        notes.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    let listener = make(
        bed,
        "loadbalancer-listener",
        json!({"fq_name": full(name), "parent_type": "project",
               "annotations": {"key_value_pair": notes},
               "loadbalancer_listener_properties": {
                   "protocol": "HTTP", "protocol_port": 80, "admin_state": true},
               "loadbalancer_refs": [{"to": full("web")}]}),
    );
    let pool = make(
        bed,
        "loadbalancer-pool",
        json!({"fq_name": full(name), "parent_type": "project",
               "loadbalancer_pool_properties": {
                   "protocol": "HTTP", "admin_state": true, "loadbalancer_method": "ROUND_ROBIN",
                   "subnet_id": "00000000-0000-4000-8000-000000000001"},
               "loadbalancer_healthmonitor_refs": [{"to": full("alive")}],
               "loadbalancer_listener_refs": [{"to": full(name)}]}),
    );
    member(bed, shop, name, server);
    [listener, pool]
}

fn member(bed: &Bed, shop: &Shop, pool: &str, server: usize) -> String {
    make(
        bed,
        "loadbalancer-member",
        json!({"fq_name": ["default-domain", "shop", pool, format!("{pool}-{server}")],
               "parent_type": "loadbalancer-pool",
               "loadbalancer_member_properties": {
                   "address": shop.servers[server].ipv4(), "protocol_port": 8080,
                   "admin_state": true, "weight": 1}}),
    )
}

/// Pools that the active HAProxy serves, as it says itself.
fn pools(bed: &Bed, active: &Role, shop: &Shop) -> String {
    let socket = active.folder(bed).join("lb").join(&shop.balancer).join("haproxy.sock");
    let mut said = String::new();
    if let Ok(mut stream) = UnixStream::connect(socket) {
        stream.write_all(b"show stat\n").unwrap();
        stream.read_to_string(&mut said).unwrap();
    }
    said
}

fn signal(pid: &Value, signal: Signal) {
    let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// The longest time without an answer, less the longest that the machine itself stood still.
fn unanswered(account: &Account, stalls: &Stalls) -> Duration {
    let stall = stalls.longest();
    println!("the machine stood still for {stall:?}");
    account.silence.saturating_sub(stall)
}

#[test]
fn requests_go_through_reloads_restarts_and_deaths() {
    let mut bed = Bed::start("tlb");
    let shop = shop(&bed);
    let both = [Role::start(&bed, 0), Role::start(&bed, 1)];
    let start = Instant::now();
    let (mut active, standby) = roles(&bed, both);
    println!("both nodes were ready {:?} after their daemons", start.elapsed());
    let vip = |client: usize| from_pod(&shop.clients[client].pod, VIP, HOST, "/");
    // Once both routes are known everywhere, the way does not change under a request.
    for client in 0..2 {
        soon("answers", || (0..20).all(|_| vip(client).is_ok_and(|(status, _)| status == 200)));
    }
    // Both members, and each sees an address of the active one's port, which is not the shared one.
    soon("both members", || {
        let said: BTreeSet<String> =
            (0..20).filter_map(|_| vip(0).ok()).map(|(_, said)| said).collect();
        said.len() == 2
    });
    let seen: BTreeSet<String> = (0..20).map(|_| vip(0).unwrap().1).collect();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.iter().all(|said| !said.ends_with(VIP)), "{seen:?}");
    assert_eq!(from_pod(&shop.clients[0].pod, VIP, "other.example.com", "/").unwrap().0, 404);

    // Reloads under load, from the node where the standby is, too: no request fails.
    let started = Instant::now();
    let loads = [0, 1].map(|nth: usize| Load::start(&shop.clients[nth].pod, VIP, HOST, 3, 2));
    let reloads = || active.state(&bed, "reloads").as_u64().unwrap();
    let before = reloads();
    for round in 0..8 {
        let made = route(&bed, &shop, &format!("more{round}"), "/more", 1);
        soon("it to be served", || pools(&bed, &active, &shop).contains(&made[1]));
        let (status, answer) =
            bed.api("GET", &format!("/loadbalancer-pool/{}", made[1]), &Value::Null);
        assert_eq!(status, 200);
        for one in answer["loadbalancer-pool"]["loadbalancer_members"].as_array().unwrap() {
            let uuid = one["uuid"].as_str().unwrap();
            assert_eq!(
                bed.api("DELETE", &format!("/loadbalancer-member/{uuid}"), &Value::Null).0,
                200
            );
        }
        for (kind, uuid) in [("loadbalancer-pool", &made[1]), ("loadbalancer-listener", &made[0])] {
            assert_eq!(bed.api("DELETE", &format!("/{kind}/{uuid}"), &Value::Null).0, 200);
        }
        soon("it to be gone", || !pools(&bed, &active, &shop).contains(&made[1]));
    }
    // One for what was made and one for its end, at least.
    soon("every reload to be counted", || reloads() >= before + 16);
    let reloads = reloads() - before;
    println!("reloads were done after {:?}", started.elapsed());
    for role in [&active, &standby] {
        assert_eq!(role.state(&bed, "deaths"), json!(0), "a reload is no death");
    }
    // Everything is taken: of what follows the last no more than a moment passes.
    let mut last = (Instant::now(), Value::Null);
    soon("the last reload to be done", || {
        let pid = active.state(&bed, "pid");
        if last.1 != pid {
            last = (Instant::now(), pid);
        }
        last.0.elapsed() > Duration::from_secs(1)
    });
    // The daemon is killed; HAProxy goes on, and the next one finds it.
    let pid = active.state(&bed, "pid");
    active.kill();
    std::thread::sleep(Duration::from_millis(500));
    let node = active.node;
    active = Role::start(&bed, node);
    soon("the new daemon to find it", || active.state(&bed, "ready") == json!(true));
    assert_eq!(active.state(&bed, "pid"), pid, "the same HAProxy");
    soon("it to be active", || active.balancer(&bed)["active"] == json!(true));
    println!("the daemon was back after {:?}", started.elapsed());
    // So does the agent.
    bed.fabric.node_mut(node).kill_agent().unwrap();
    bed.fabric.node_mut(node).restart_agent().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    println!("the agent was back after {:?}", started.elapsed());
    for account in loads.map(Load::stop) {
        println!(
            "{} requests over {reloads} reloads and the restarts of daemon and agent, {} failed, \
             longest wait {:?}",
            account.good,
            account.bad.len(),
            account.silence
        );
        assert!(account.bad.is_empty(), "{:?}", account.bad);
        assert!(account.good > 500, "{}", account.good);
    }

    // A configuration that HAProxy refuses changes nothing, and is told.
    let refuse = active.folder(&bed).join("lb-refuse");
    std::fs::write(&refuse, "").unwrap();
    route(&bed, &shop, "refused", "/refused", 0);
    soon("the refusal to be told", || {
        active.state(&bed, "problem").as_str().is_some_and(|text| text.contains("cannot be"))
    });
    assert_eq!(vip(0).unwrap().0, 200);
    assert_eq!(active.state(&bed, "ready"), json!(true));
    std::fs::remove_file(&refuse).unwrap();
    soon("it to be taken", || active.state(&bed, "problem").is_null());

    // HAProxy is killed: it is started again.
    let client = standby.node;
    let stalls = Stalls::watch();
    let load = Load::start(&shop.clients[client].pod, VIP, HOST, 2, 0);
    std::thread::sleep(Duration::from_millis(300));
    signal(&active.state(&bed, "pid"), Signal::SIGKILL);
    soon("another HAProxy", || {
        let now = active.state(&bed, "pid");
        now.is_number() && now != pid && active.state(&bed, "ready") == json!(true)
    });
    std::thread::sleep(Duration::from_secs(1));
    let account = load.stop();
    println!(
        "HAProxy killed: {:?} without an answer, {} failed",
        account.silence,
        account.bad.len()
    );
    assert!(unanswered(&account, &stalls) < Duration::from_secs(2), "{account:?}");

    // It cannot be started any more: the standby takes over, and gives back.
    let dead = active.folder(&bed).join("lb-dead");
    let stalls = Stalls::watch();
    let load = Load::start(&shop.clients[client].pod, VIP, HOST, 2, 0);
    std::thread::sleep(Duration::from_millis(300));
    std::fs::write(&dead, "").unwrap();
    signal(&active.state(&bed, "pid"), Signal::SIGKILL);
    soon("the standby to be active", || standby.balancer(&bed)["active"] == json!(true));
    std::thread::sleep(Duration::from_secs(1));
    soon("the standby's answers", || vip(0).is_ok_and(|(status, _)| status == 200));
    let account = load.stop();
    println!("HAProxy dead: {:?} without an answer, {} failed", account.silence, account.bad.len());
    assert!(unanswered(&account, &stalls) < Duration::from_secs(4), "{account:?}");
    std::fs::remove_file(&dead).unwrap();
    soon("it to be active again", || active.balancer(&bed)["active"] == json!(true));
    soon("the other to stand by", || standby.balancer(&bed)["active"] == json!(false));

    // The node loses its wire: nothing tells anybody, and the standby takes over.
    let stalls = Stalls::watch();
    let load = Load::start(&shop.clients[client].pod, VIP, HOST, 2, 0);
    std::thread::sleep(Duration::from_millis(300));
    let host = bed.fabric.node(node).host().clone();
    host.ip(&format!("link set {} down", host.uplink())).unwrap();
    let back = wait_until("the standby to answer", Duration::from_secs(20), || {
        vip(client)
            .is_ok_and(|(status, said)| status == 200 && said.starts_with(&format!("web{client}")))
    });
    back.unwrap_or_else(|error| panic!("{error}"));
    std::thread::sleep(Duration::from_secs(2));
    let account = load.stop();
    println!("node lost: {:?} without an answer, {} failed", account.silence, account.bad.len());
    assert!(unanswered(&account, &stalls) < Duration::from_secs(15), "{account:?}");
    host.ip(&format!("link set {} up", host.uplink())).unwrap();
    soon("the node to be back", || active.balancer(&bed)["active"] == json!(true));
    soon("its answers", || vip(client).is_ok_and(|(status, _)| status == 200));

    // The end: no process, no namespace, no port is left.
    for kind in
        ["loadbalancer-member", "loadbalancer-pool", "loadbalancer-listener", "loadbalancer"]
    {
        let (_, list) = bed.api("GET", &format!("/{kind}s"), &Value::Null);
        for one in list[format!("{kind}s")].as_array().unwrap() {
            let uuid = one["uuid"].as_str().unwrap();
            assert_eq!(
                bed.api("DELETE", &format!("/{kind}/{uuid}"), &Value::Null).0,
                200,
                "{kind}"
            );
        }
    }
    let left = || {
        let namespaces = std::fs::read_dir("/run/netns").unwrap().flatten();
        let mut names = namespaces.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.any(|name| name.contains(&shop.balancer))
    };
    soon("every namespace to be gone", || !left());
    let ports = || {
        let (_, list) = bed.api("GET", "/virtual-machine-interfaces", &Value::Null);
        list["virtual-machine-interfaces"].as_array().unwrap().len()
    };
    // Four workloads, the nodes' own, and the one that stood for the load balancer.
    let others = ports_of_nodes(&bed);
    soon("every port to be gone", || ports() == 4 + others + 1);
    assert!(active.status(&bed)["loadbalancers"].as_array().unwrap().is_empty());
}

/// How many interfaces are the nodes' own.
fn ports_of_nodes(bed: &Bed) -> usize {
    let (_, list) = bed.api("GET", "/virtual-machine-interfaces", &Value::Null);
    let all = list["virtual-machine-interfaces"].as_array().unwrap();
    all.iter()
        .filter(|one| one["fq_name"].as_array().unwrap().last() == Some(&json!("vhost0")))
        .count()
}

/// A certificate for a host, signed by itself, in the folder of every node.
fn certificate(bed: &Bed, name: &str, host: &str) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    for node in 0..2 {
        let folder = bed.fabric.node(node).host().directory().join("certificates");
        let partial = folder.join("partial");
        std::fs::write(&partial, pem.clone() + &key.serialize_pem()).unwrap();
        std::fs::rename(&partial, folder.join(format!("{name}.pem"))).unwrap();
    }
    pem
}

#[test]
fn tls_ends_here_by_names_and_certificates_change_without_a_break() {
    let bed = Bed::start("tlbtls");
    let shop = shop(&bed);
    make(
        &bed,
        "loadbalancer-listener",
        json!({"fq_name": full("tls"), "parent_type": "project",
               "loadbalancer_listener_properties": {
                   "protocol": "TERMINATED_HTTPS", "protocol_port": 443, "admin_state": true,
                   "sni_containers": ["one", "broken"], "default_tls_container": "two"},
               "loadbalancer_refs": [{"to": full("web")}]}),
    );
    let both = [Role::start(&bed, 0), Role::start(&bed, 1)];
    let (mut active, _standby) = roles(&bed, both);
    let client = &shop.clients[0].pod;
    soon("an answer without TLS", || from_pod(client, VIP, HOST, "/").is_ok());
    // As long as no certificate is there, the port is closed and the reason is told.
    let warned = |what: &str| {
        let all = active.state(&bed, "warnings");
        all.as_array().unwrap().iter().any(|one| one.as_str().unwrap().contains(what))
    };
    soon("the missing certificate to be told", || warned("certificate one"));

    let one = certificate(&bed, "one", HOST);
    let two = certificate(&bed, "two", "two.example.com");
    for node in 0..2 {
        let folder = bed.fabric.node(node).host().directory().join("certificates");
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n\
                      -----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        std::fs::write(folder.join("broken.pem"), broken).unwrap();
    }
    let file = bed.fabric.node(0).host().directory().join("trusted.pem");
    // Succeeds only with the certificate that is trusted, for the host that is asked for.
    let fetch = |trusted: &str, host: &str| {
        std::fs::write(&file, trusted).unwrap();
        let mut command = Command::new("curl");
        command.args(["-s", "-S", "--max-time", "3", "--cacert"]).arg(&file);
        command.args(["--resolve", &format!("{host}:443:{VIP}"), "-H", &format!("Host: {HOST}")]);
        command.arg(format!("https://{host}/"));
        let ran = client.run(&mut command).unwrap();
        if ran.ok() { Ok(ran.stdout) } else { Err(ran.stderr) }
    };
    soon("an answer over TLS", || fetch(&one, HOST).is_ok_and(|said| said.starts_with("web")));
    // The folder is read now and then: what was written together may be found one after the other.
    soon("the default certificate", || fetch(&two, "two.example.com").is_ok());
    let untrusted =
        |said: Result<String, String>| said.is_err_and(|why| why.contains("certificate"));
    assert!(untrusted(fetch(&two, HOST)), "not the default one for a name that has its own");
    soon("the broken certificate to be told", || warned("certificate broken"));

    // Nobody but root reads keys, and no log has them.
    let folder = active.folder(&bed).join("lb").join(&shop.balancer);
    assert_eq!(std::fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        if entry.path().extension().is_some_and(|e| e == "pem") {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
    }
    let log = std::fs::read_to_string(active.process.log_path()).unwrap();
    assert!(!log.contains("PRIVATE KEY"), "{log}");

    // Another certificate: requests go on, and it is the one that is shown.
    let load = Load::start(client, VIP, HOST, 2, 1);
    let renewed = certificate(&bed, "one", HOST);
    soon("the new certificate", || fetch(&renewed, HOST).is_ok());
    // The process before a reload may accept one more.
    soon("the old one not to be used any more", || untrusted(fetch(&one, HOST)));
    let account = load.stop();
    assert!(account.bad.is_empty(), "{:?}", account.bad);
    let keys = || {
        let entries = std::fs::read_dir(&folder).unwrap().flatten();
        entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "pem")).count()
    };
    soon("the old key to be gone", || keys() == 2);

    // The daemon is killed. The next one takes nothing away while it does not know the certificates yet.
    let (pid, node) = (active.state(&bed, "pid"), active.node);
    active.kill();
    active = Role::start(&bed, node);
    soon("the new daemon to have read them", || {
        let all = active.state(&bed, "warnings");
        let words = all.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.clone().any(|one| one.contains("certificate broken")) && words.count() == 1
    });
    assert_eq!(active.state(&bed, "pid"), pid, "it is the same HAProxy: {}", active.status(&bed));
    assert!(fetch(&renewed, HOST).is_ok());
}
