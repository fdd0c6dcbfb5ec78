//! A server killed at random moments while clients write loses nothing that it acknowledged and keeps nothing by halves.
//!
//! This binary is the test and, called with `serve DIR`, the server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::needless_pass_by_value
)] // a test fails by panicking

mod consistency;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::BufRead,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use skein_api::{Config, Server};
use skein_client::{Client, ClientError, ListOptions};
use skein_model::Kind;
use skein_store::{EmbeddedStore, ObjectStore, Options};
use tokio::sync::Mutex;
use uuid::Uuid;

const ROUNDS: u32 = 12;
const WRITERS: u32 = 8;
/// Addresses that are acknowledged before a server is killed at a random moment. Each writer may take its last one back.
const FIRST: usize = 20;
/// Longest wait for them on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// What the server said was done.
#[derive(Default)]
struct Acknowledged {
    addresses: BTreeMap<Uuid, String>,
    networks: BTreeSet<Uuid>,
    deleted: BTreeSet<Uuid>,
    kv: BTreeMap<String, String>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.get(1).map(String::as_str) {
        Some("serve") => runtime.block_on(serve(Path::new(&arguments[2]))),
        // The test runner asks for a list of tests.
        Some("--list") => println!("nothing_acknowledged_is_lost: test"),
        _ => {
            runtime.block_on(nothing_acknowledged_is_lost());
            println!("test nothing_acknowledged_is_lost ... ok");
        }
    }
}

async fn serve(dir: &Path) {
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    // A short log makes compaction happen under fire.
    let config = Config { log_retention: 64, ..Config::new(listen, dir.join("config.redb")) };
    let server = Server::start(config).await.unwrap();
    println!("{}", server.local_addr());
    std::future::pending::<()>().await;
}

fn spawn(dir: &Path) -> (Child, Client) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["serve".as_ref(), dir.as_os_str()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(!line.is_empty(), "the server did not start again");
    (child, Client::new(line.trim()).unwrap())
}

async fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let done = Arc::new(Mutex::new(Acknowledged::default()));
    let (child, client) = spawn(dir.path());
    let net = client
        .create(Kind::VIRTUAL_NETWORK, support::network("shared", &["10.0.0.0/16"]))
        .await
        .unwrap();
    let mut running = Some((child, client));
    let mut total = 0;
    for round in 0..ROUNDS {
        let (mut child, client) = running.take().unwrap_or_else(|| spawn(dir.path()));
        check(&client, &*done.lock().await).await;
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                tokio::spawn(write(client.clone(), net, round, writer, Arc::clone(&done)))
            })
            .collect();
        // Anywhere between the first writes and the middle of a busy stretch, which a busy machine begins late.
        let started = Instant::now();
        while done.lock().await.addresses.len() < total + FIRST {
            assert!(started.elapsed() < PATIENCE, "writes do not begin");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let pause = 5 + u64::from(Uuid::new_v4().as_fields().1) % 300;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        inspect(dir.path());
        let now = done.lock().await.addresses.len();
        println!("round {round}: killed after {pause} ms, {} addresses acknowledged", now - total);
        total = now;
    }
    let (mut child, client) = spawn(dir.path());
    let done = done.lock().await;
    check(&client, &done).await;
    assert!(
        done.addresses.len() > 100,
        "too few writes to mean anything: {}",
        done.addresses.len()
    );
    assert!(!done.deleted.is_empty() && !done.networks.is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Writes until the server is gone.
async fn write(client: Client, net: Uuid, round: u32, writer: u32, done: Arc<Mutex<Acknowledged>>) {
    for n in 0.. {
        let name = format!("{round}-{writer}-{n}");
        let fields = json!({"fq_name": [name], "virtual_network_refs": [{"uuid": net}]});
        let Ok(ip) = client.create(Kind::INSTANCE_IP, fields).await else { return };
        let read = client.get(Kind::INSTANCE_IP, ip).await;
        let address =
            read.ok().map(|o| o.properties["instance_ip_address"].as_str().unwrap().to_owned());
        done.lock().await.addresses.insert(ip, address.clone().unwrap_or_default());
        if address.is_none() {
            return;
        }
        if n % 4 == 1 {
            // A delete that was not answered may have happened or not.
            let forgotten = done.lock().await.addresses.remove(&ip);
            assert!(forgotten.is_some());
            if client.delete(Kind::INSTANCE_IP, ip).await.is_err() {
                return;
            }
            done.lock().await.deleted.insert(ip);
        }
        if n % 5 == 2 {
            let network = support::network(&format!("net-{name}"), &["192.168.0.0/24"]);
            let Ok(uuid) = client.create(Kind::VIRTUAL_NETWORK, network).await else { return };
            done.lock().await.networks.insert(uuid);
            if client.kv_store(&name, &name).await.is_err() {
                return;
            }
            done.lock().await.kv.insert(name.clone(), name);
        }
    }
}

/// Everything acknowledged is there, as it was.
async fn check(client: &Client, done: &Acknowledged) {
    let found = client.list(Kind::INSTANCE_IP, &ListOptions::default()).await.unwrap();
    let found: BTreeMap<Uuid, String> = found
        .into_iter()
        .map(|o| (o.uuid, o.properties["instance_ip_address"].as_str().unwrap().to_owned()))
        .collect();
    for (uuid, address) in &done.addresses {
        let stored =
            found.get(uuid).unwrap_or_else(|| panic!("{uuid} was acknowledged and is lost"));
        assert!(address.is_empty() || stored == address, "{uuid} had {address} and has {stored}");
    }
    let distinct: BTreeSet<&String> = found.values().collect();
    assert_eq!(distinct.len(), found.len(), "two objects have one address");
    for uuid in &done.deleted {
        assert!(!found.contains_key(uuid), "{uuid} was deleted and is back");
    }
    for uuid in &done.networks {
        client.get(Kind::VIRTUAL_NETWORK, *uuid).await.unwrap();
    }
    for (key, value) in &done.kv {
        assert_eq!(client.kv_get(key).await.unwrap().as_ref(), Some(value));
    }
    // A watcher that was far behind is told so, one that was not continues.
    let far = client.request(hyper::Method::GET, "/watch?resource_type=*&since=1", None);
    if let Ok(Err(ClientError::Refused { status, .. })) =
        tokio::time::timeout(Duration::from_millis(50), far).await
    {
        assert_eq!(status, 410);
    }
}

/// The file by itself.
fn inspect(dir: &Path) {
    let started = Instant::now();
    let state =
        EmbeddedStore::open(dir.join("config.redb"), Options::default()).unwrap().load().unwrap();
    consistency::check(&state);
    assert!(started.elapsed() < Duration::from_secs(20));
}
