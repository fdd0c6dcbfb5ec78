//! Replicas on one etcd of which the leader is killed or put to sleep while clients write through all: what was acknowledged
//! is there, nothing was done twice, and one that wakes up writes nothing.
//!
//! This binary is the test and, called with `serve ETCD NAME`, a replica.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::needless_pass_by_value
)] // a test fails by panicking

mod consistency;
#[path = "../../store/tests/support/etcd.rs"]
mod etcd;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use skein_api::{Cluster, Config, Server};
use skein_client::{Client, ListOptions};
use skein_model::Kind;
use skein_store::{Etcd, EtcdOptions};
use tokio::sync::Mutex;
use uuid::Uuid;

const ROUNDS: usize = 6;
/// Writers at each replica.
const WRITERS: usize = 3;
/// Longest wait on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.get(1).map(String::as_str) {
        Some("serve") => runtime.block_on(serve(&arguments[2], &arguments[3])),
        // The test runner asks for a list of tests.
        Some("--list") => println!("leaders_may_go_at_any_time: test"),
        _ => {
            runtime.block_on(leaders_may_go_at_any_time());
            println!("test leaders_may_go_at_any_time ... ok");
        }
    }
}

async fn serve(etcd: &str, name: &str) {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let cluster = Cluster {
        etcd: EtcdOptions::new(vec![etcd.to_owned()]),
        name: name.to_owned(),
        advertise: String::new(),
        peers: None,
    };
    // A short log makes compaction happen under fire.
    let config = Config { log_retention: 256, ..Config::new(listen, "unused".into()) };
    let server = Server::start_replica(config, cluster).await.unwrap();
    println!("{}", server.local_addr());
    std::future::pending::<()>().await;
}

struct Replica {
    child: Child,
    address: SocketAddr,
    client: Client,
}

impl Replica {
    fn start(etcd: &str, name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serve", etcd, name])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "a replica did not start");
        let client = Client::new(line.trim()).unwrap();
        Self { child, address: line.trim().parse().unwrap(), client }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    async fn leads(&self) -> bool {
        let text = support::http_get(self.address, "/metrics").await;
        text.lines().any(|line| line == "skein_api_leader 1")
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until one of them leads and says which.
async fn leader(replicas: &[Option<Replica>]) -> usize {
    let started = Instant::now();
    loop {
        for (at, replica) in replicas.iter().enumerate() {
            if let Some(replica) = replica
                && replica.leads().await
            {
                return at;
            }
        }
        assert!(started.elapsed() < PATIENCE, "nobody leads");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What clients were told.
#[derive(Default)]
struct Told {
    /// Objects that were made, with their addresses, and not deleted.
    made: BTreeMap<Uuid, String>,
    deleted: BTreeSet<Uuid>,
    /// Addresses that were reserved without objects.
    reserved: BTreeSet<String>,
    /// Reservations that were refused, or not answered: each may have been done once.
    unclear: usize,
    refusals: BTreeSet<String>,
}

async fn leaders_may_go_at_any_time() {
    let server = etcd::Server::start();
    let url = server.url();
    let mut replicas: Vec<Option<Replica>> =
        ["a", "b", "c"].iter().map(|name| Some(Replica::start(&url, name))).collect();
    let at = leader(&replicas).await;
    let client = replicas[at].as_ref().unwrap().client.clone();
    let net = |name: &str, prefix: &str| support::network(name, &[prefix]);
    let shared = client.create(Kind::VIRTUAL_NETWORK, net("shared", "10.0.0.0/16")).await.unwrap();
    let other = client.create(Kind::VIRTUAL_NETWORK, net("other", "10.1.0.0/16")).await.unwrap();
    let told = Arc::new(Mutex::new(Told::default()));
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = replicas
            .iter()
            .flatten()
            .enumerate()
            .flat_map(|(n, replica)| (0..WRITERS).map(move |w| (n, w, replica.client.clone())))
            .map(|(n, w, client)| {
                let (told, stop) = (Arc::clone(&told), Arc::clone(&stop));
                let name = format!("{round}-{n}-{w}");
                tokio::spawn(async move { write(client, shared, other, &name, told, stop).await })
            })
            .collect();
        let before = told.lock().await.made.len();
        let pause = 200 + u64::from(Uuid::new_v4().as_fields().1) % 1000;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let at = leader(&replicas).await;
        let lost = replicas[at].take().unwrap();
        let sleeps = round % 2 == 1;
        lost.signal(if sleeps { Signal::SIGSTOP } else { Signal::SIGKILL });
        leader(&replicas).await;
        let count = told.lock().await.made.len();
        let started = Instant::now();
        while told.lock().await.made.len() < count + 20 {
            assert!(
                started.elapsed() < PATIENCE,
                "writes do not go on: {:?}",
                told.lock().await.refusals
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if sleeps {
            // It wakes up with writes in hand, and another leads.
            lost.signal(Signal::SIGCONT);
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.await.unwrap();
        }
        replicas[at] = Some(if sleeps { lost } else { Replica::start(&url, "again") });
        check(&server, &replicas, &*told.lock().await, other).await;
        let now = told.lock().await.made.len();
        let how = if sleeps { "slept" } else { "killed" };
        println!("round {round}: leader {at} {how} after {pause} ms, {} writes", now - before);
    }
    let told = told.lock().await;
    assert!(told.made.len() > 100 && told.reserved.len() > 30, "too few writes to mean anything");
    println!("unclear: {}; {:?}", told.unclear, told.refusals);
}

/// Writes until it is told to stop; a client whose replica is gone tries again.
async fn write(
    client: Client,
    shared: Uuid,
    other: Uuid,
    name: &str,
    told: Arc<Mutex<Told>>,
    stop: Arc<AtomicBool>,
) {
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let fields =
            json!({"fq_name": [format!("{name}-{n}")], "virtual_network_refs": [{"uuid": shared}]});
        match client.create(Kind::INSTANCE_IP, fields).await {
            Ok(ip) => {
                let read = client.get(Kind::INSTANCE_IP, ip).await;
                let address = read
                    .map(|o| o.properties["instance_ip_address"].as_str().unwrap().to_owned())
                    .unwrap_or_default();
                // A delete that is not answered may have happened or not.
                if n % 4 != 1 {
                    told.lock().await.made.insert(ip, address);
                } else if client.delete(Kind::INSTANCE_IP, ip).await.is_ok() {
                    told.lock().await.deleted.insert(ip);
                }
            }
            Err(error) => {
                told.lock().await.refusals.insert(error.to_string());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        match client.ip_alloc(other, 1, None).await {
            Ok(addresses) => {
                let mut told = told.lock().await;
                for address in addresses {
                    assert!(told.reserved.insert(address.to_string()), "{address} was given twice");
                }
            }
            Err(_) => {
                told.lock().await.unclear += 1;
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// All replicas show the same, it is what etcd has, and it is what clients were told.
async fn check(server: &etcd::Server, replicas: &[Option<Replica>], told: &Told, other: Uuid) {
    let first = replicas[0].as_ref().unwrap();
    let revision = support::create_mark(&first.client).await;
    let mut shown = Vec::new();
    for replica in replicas.iter().flatten() {
        let started = Instant::now();
        while !support::demand(&replica.client, revision).await {
            assert!(started.elapsed() < PATIENCE, "a replica does not follow");
        }
        let list = replica.client.list(Kind::INSTANCE_IP, &ListOptions::default()).await.unwrap();
        let addresses: BTreeMap<Uuid, String> = list
            .into_iter()
            .map(|o| (o.uuid, o.properties["instance_ip_address"].as_str().unwrap().to_owned()))
            .collect();
        shown.push(addresses);
    }
    assert!(shown.iter().all(|one| *one == shown[0]), "replicas show different things");
    let shown = &shown[0];
    for (uuid, address) in &told.made {
        let kept = shown.get(uuid).unwrap_or_else(|| panic!("{uuid} was acknowledged and is lost"));
        assert!(address.is_empty() || kept == address, "{uuid} had {address} and has {kept}");
    }
    assert!(told.deleted.iter().all(|uuid| !shown.contains_key(uuid)), "a deleted one is back");
    assert_eq!(shown.values().collect::<BTreeSet<_>>().len(), shown.len(), "an address twice");
    let etcd = Etcd::new(EtcdOptions::new(vec![server.url()])).unwrap();
    let state = etcd.load().await.unwrap().state;
    assert!(state.revision >= revision);
    consistency::check(&state);
    let kept: BTreeSet<Uuid> = state
        .objects
        .iter()
        .filter(|object| object.kind == Kind::INSTANCE_IP)
        .map(|object| object.uuid)
        .collect();
    assert_eq!(kept, shown.keys().copied().collect());
    // Reservations have no name that would refuse a second one.
    let prefix = format!("ip/{other}/");
    let reserved: BTreeSet<&str> = state
        .claims
        .iter()
        .filter(|claim| claim.owner.is_nil())
        .filter_map(|claim| claim.key.strip_prefix(&prefix))
        .collect();
    assert!(told.reserved.iter().all(|address| reserved.contains(address.as_str())));
    let most = told.reserved.len() + told.unclear;
    assert!(reserved.len() <= most, "{} reserved, {most} asked for", reserved.len());
}
