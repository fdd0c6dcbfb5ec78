//! Thousands of policies by chance, from Kubernetes' objects to what nodes are told, against Kubernetes' own words.
//!
//! The manager's core writes to a real configuration API, the compiler reads from it, and the reference evaluator
//! judges every connection of a small cluster; the oracle says what it should be. A failure names the connection and
//! the policies; `SKEIN_SEED` repeats a run and `SKEIN_TABLE_ROUNDS` makes it longer.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod support;

use serde_json::{Value, json};
use skein_client::{Event, Watcher};
use skein_compiler::{Engine, Interface};
use skein_kube::objects::KubeObject;
use skein_model::{Change, Kind};
use skein_policy::{Attributes, Direction, Packet, evaluate};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use support::oracle::{self, End, Namespace, Pod, World};
use support::random_policies::{self, NAMESPACE_LABELS, POD_LABELS, Random};
use support::{Bench, object};

const NAMESPACES: [&str; 4] = ["x", "y", "z", "team"];
const PODS: [&str; 4] = ["a", "b", "c", "d"];
const PROTOCOLS: [(&str, u8); 3] = [("TCP", 6), ("UDP", 17), ("SCTP", 132)];
const PORTS: [u16; 3] = [80, 81, 82];
const OUTSIDE: [&str; 3] = ["192.0.2.7", "10.32.200.1", "2001:db8::7"];
/// About 300 policies, and half a minute on two cores with a debug build.
const ROUNDS: u64 = 10;
const POLICIES: usize = 28;

/// What controllers follow of what Kubernetes' objects become.
const COMPILED: [Kind; 12] = [
    Kind::GLOBAL_SYSTEM_CONFIG,
    Kind::PROJECT,
    Kind::NETWORK_IPAM,
    Kind::VIRTUAL_NETWORK,
    Kind::ROUTING_INSTANCE,
    Kind::VIRTUAL_MACHINE_INTERFACE,
    Kind::INSTANCE_IP,
    Kind::TAG,
    Kind::APPLICATION_POLICY_SET,
    Kind::FIREWALL_POLICY,
    Kind::FIREWALL_RULE,
    Kind::ADDRESS_GROUP,
];

struct Compiler {
    engine: Engine,
    watcher: Watcher,
    /// Of the last object that came.
    revision: u64,
}

impl Compiler {
    /// Takes what has come, until nothing more does and it knows what the manager has seen. A busy machine may be
    /// quiet for longer.
    async fn catch_up(&mut self, bench: &Bench) {
        let quiet = Duration::from_millis(40);
        let followed = bench.core.graph().objects().filter(|one| COMPILED.contains(&one.kind));
        let wanted = followed.map(|one| one.revision).max().unwrap_or(0);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(
                Instant::now() < deadline,
                "revision {wanted} does not come: {}",
                self.revision
            );
            let changes: Vec<Change> = match tokio::time::timeout(quiet, self.watcher.next()).await
            {
                Ok(Event::Snapshot(objects, revision)) => {
                    self.revision = revision;
                    objects.into_iter().map(|one| Change::Put(Arc::new(one))).collect()
                }
                Ok(Event::Put(object, revision)) => {
                    self.revision = revision;
                    vec![Change::Put(Arc::new(object))]
                }
                Ok(Event::Delete { uuid, .. }) => vec![Change::Delete(uuid)],
                Err(_) if self.revision >= wanted => return,
                Err(_) => continue,
            };
            self.engine.apply(&changes);
        }
    }

    fn port(&self, pod: &Pod) -> Arc<Interface> {
        let prefix = format!("default-domain:k8s-{}:{}__", pod.namespace, pod.name);
        let found = self.engine.interfaces().find(|one| one.name.starts_with(&prefix));
        found.unwrap_or_else(|| panic!("{prefix} has no port")).clone()
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

fn labels(random: &mut Random, known: &[(&str, &[&str])]) -> oracle::Labels {
    let mut labels = oracle::Labels::new();
    for (key, values) in known {
        if !key.starts_with("kubernetes.io/") && random.below(3) > 0 {
            labels.insert((*key).to_owned(), (*random.pick(values)).to_owned());
        }
    }
    labels
}

fn as_object(value: &Value) -> KubeObject {
    object(&value.to_string())
}

fn put_namespace(bench: &mut Bench, namespace: &Namespace) {
    let meta = json!({"name": namespace.name, "labels": namespace.labels});
    bench.put(as_object(&json!({"kind": "Namespace", "metadata": meta})));
}

fn put_pod(bench: &mut Bench, pod: &Pod) {
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|(name, protocol, number)| {
            json!({"name": name, "protocol": protocol, "containerPort": number})
        })
        .collect();
    bench.put(as_object(&json!({
        "kind": "Pod",
        "metadata": {"name": pod.name, "namespace": pod.namespace, "labels": pod.labels},
        "spec": {"nodeName": "node-1", "containers": [{"name": "one", "ports": ports}]},
        "status": {"phase": "Running", "hostIP": "10.9.9.1"},
    })));
}

fn world(random: &mut Random) -> World {
    let mut world = World::default();
    for name in NAMESPACES {
        let labels = labels(random, NAMESPACE_LABELS);
        world.namespaces.push(Namespace { name: name.into(), labels, isolated: false });
        for (at, pod) in PODS.into_iter().enumerate() {
            // The same names mean other numbers in each.
            let port = |name: &str, protocol: &str, number| (name.into(), protocol.into(), number);
            let ports = match at {
                0 => vec![port("door", "TCP", 80), port("post", "UDP", 81)],
                1 => vec![port("door", "TCP", 81), port("gate", "SCTP", 80)],
                2 => vec![port("door", "UDP", 80), port("post", "TCP", 82)],
                _ => Vec::new(),
            };
            world.pods.push(Pod {
                namespace: name.into(),
                name: pod.into(),
                labels: self::labels(random, POD_LABELS),
                addresses: Vec::new(),
                ports,
            });
        }
    }
    world
}

/// A connection as the nodes at its ends judge it.
fn judged(
    ports: &[Arc<Interface>],
    from: Option<usize>,
    to: Option<usize>,
    addresses: (IpAddr, IpAddr),
    door: (u8, u16),
) -> bool {
    let nobody = Attributes::default();
    let attributes = |at: Option<usize>| at.map_or(&nobody, |at| &ports[at].attributes);
    let packet = |local, remote| Packet {
        remote,
        local,
        protocol: door.0,
        source_port: 40_000,
        destination_port: door.1,
    };
    let passes = |at: Option<usize>, direction, remote, packet: Packet| {
        let Some(at) = at else { return true };
        let policy = &ports[at].policy.as_ref().unwrap().policy;
        evaluate(policy, direction, remote, &packet).pass
    };
    passes(from, Direction::Egress, attributes(to), packet(addresses.0, addresses.1))
        && passes(to, Direction::Ingress, attributes(from), packet(addresses.1, addresses.0))
}

/// A connection by the places of its ends in the list of [`ends`].
#[derive(Clone, Copy, Debug)]
struct Cell {
    from: usize,
    to: usize,
    protocol: (&'static str, u8),
    port: u16,
}

/// All ends: a pod's place in the world, the end, its address.
type Ends<'w> = Vec<(Option<usize>, End<'w>, IpAddr)>;

fn ends(world: &World) -> Ends<'_> {
    let mut ends = Ends::new();
    for (at, pod) in world.pods.iter().enumerate() {
        ends.extend(pod.addresses.iter().map(|a| (Some(at), End::Pod(pod, *a), *a)));
    }
    let outside = OUTSIDE.iter().map(|text| text.parse::<IpAddr>().unwrap());
    ends.extend(outside.map(|address| (None, End::Outside(address), address)));
    ends
}

/// What a cell should be and what it is.
fn look(world: &World, ends: &Ends<'_>, ports: &[Arc<Interface>], cell: Cell) -> (bool, bool) {
    let ((from, source, a), (to, target, b)) = (ends[cell.from], ends[cell.to]);
    let right = oracle::allowed(world, source, target, (cell.protocol.0, cell.port));
    (right, judged(ports, from, to, (a, b), (cell.protocol.1, cell.port)))
}

/// Compares the whole table; gives how many cells it has and how many of them are open, or the first wrong one.
fn compare(world: &World, ports: &[Arc<Interface>]) -> Result<(usize, usize), Cell> {
    let ends = ends(world);
    let (mut cells, mut open) = (0, 0);
    for (from, source) in ends.iter().enumerate() {
        for (to, target) in ends.iter().enumerate() {
            if source.2.is_ipv4() != target.2.is_ipv4() || source.0 == target.0 {
                continue;
            }
            for protocol in PROTOCOLS {
                for port in PORTS {
                    let cell = Cell { from, to, protocol, port };
                    let (right, ours) = look(world, &ends, ports, cell);
                    cells += 1;
                    open += usize::from(right);
                    if right != ours {
                        return Err(cell);
                    }
                }
            }
        }
    }
    Ok((cells, open))
}

/// Takes away every policy without which the cell is wrong as well, then panics with the rest.
async fn explain(
    bench: &mut Bench,
    compiler: &mut Compiler,
    world: &mut World,
    cell: Cell,
    seed: &str,
) -> ! {
    let mut kept = Vec::new();
    let all = world.policies.len() + world.admin.len();
    for _ in 0..all {
        let admin = world.policies.is_empty();
        let list = if admin { &mut world.admin } else { &mut world.policies };
        let one = list.remove(0);
        let mut rest = world.clone();
        for other in &kept {
            let other: &(bool, Value) = other;
            if other.0 { &mut rest.admin } else { &mut rest.policies }.push(other.1.clone());
        }
        bench.core.kube_delete(&as_object(&one));
        bench.settle().await;
        compiler.catch_up(bench).await;
        let ports: Vec<_> = rest.pods.iter().map(|pod| compiler.port(pod)).collect();
        let (right, ours) = look(&rest, &ends(&rest), &ports, cell);
        if right == ours {
            bench.put(as_object(&one));
            kept.push((admin, one));
        }
    }
    let list = ends(world);
    let (from, to) = (list[cell.from].1, list[cell.to].1);
    let mut about = String::new();
    for (_, policy) in &kept {
        about += &format!("{policy}\n");
    }
    for namespace in &world.namespaces {
        about += &format!("{namespace:?}\n");
    }
    panic!("{seed}: {cell:?} is wrong\n{from:?}\n{to:?}\n{about}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_policies_mean_what_kubernetes_says() {
    let seed = number("SKEIN_SEED").unwrap_or(20_261_123).max(1);
    let rounds = number("SKEIN_TABLE_ROUNDS").unwrap_or(ROUNDS);
    let mut random = Random(seed);
    let mut world = world(&mut random);
    let mut settings = skein_kube::Settings::default();
    settings.pod_subnets.push("fd00:32::/64".parse().unwrap());
    let mut bench = Bench::with(settings).await;
    let watcher = bench.client.watch(&COMPILED);
    let mut compiler = Compiler { engine: Engine::new(), watcher, revision: 0 };
    bench.put(support::namespace("default", "", ""));
    for namespace in &world.namespaces {
        put_namespace(&mut bench, namespace);
    }
    for pod in &world.pods {
        put_pod(&mut bench, pod);
    }
    bench.settle().await;
    compiler.catch_up(&bench).await;
    for at in 0..world.pods.len() {
        let port = compiler.port(&world.pods[at]);
        world.pods[at].addresses = port.addresses.iter().map(|one| one.prefix.addr()).collect();
        assert_eq!(world.pods[at].addresses.len(), 2, "{port:?}");
    }
    let (mut policies, mut cells, mut open) = (0, 0, 0);
    let since = Instant::now();
    for round in 0..rounds {
        let old: Vec<Value> = world.policies.drain(..).chain(world.admin.drain(..)).collect();
        // Few and many at once, and administrators' in every other round.
        for at in 0..1 + random.below(2 * POLICIES) {
            let made = random_policies::policy(&mut random, &world, &format!("p{round}-{at}"));
            world.policies.push(made);
        }
        for at in 0..(random.below(8) * usize::from(round % 2 == 1)) {
            world.admin.push(random_policies::admin(&mut random, &world, at));
        }
        // Administrators' have the same names in every round: those are edited.
        let stays = |one: &Value| {
            let same = |new: &Value| {
                new["kind"] == one["kind"] && new["metadata"]["name"] == one["metadata"]["name"]
            };
            world.admin.iter().any(same)
        };
        for policy in world.policies.iter().chain(&world.admin) {
            bench.put(as_object(policy));
        }
        // The old ones go while the new ones are on their way, as when users replace them.
        for _ in 0..random.below(6) {
            let owners = 1 + random.below(16);
            bench.some(owners).await;
        }
        for old in old.iter().filter(|one| !stays(one)) {
            bench.core.kube_delete(&as_object(old));
        }
        if random.below(2) == 0 {
            let at = random.below(world.pods.len());
            world.pods[at].labels = labels(&mut random, POD_LABELS);
            put_pod(&mut bench, &world.pods[at]);
        }
        if random.below(3) == 0 {
            let at = random.below(world.namespaces.len());
            world.namespaces[at].labels = labels(&mut random, NAMESPACE_LABELS);
            put_namespace(&mut bench, &world.namespaces[at]);
        }
        policies += world.policies.len() + world.admin.len();
        bench.settle().await;
        compiler.catch_up(&bench).await;
        // A tag that goes while a rule needs it anew is made again: what was refused was tried again.
        bench.log.clear();
        let ports: Vec<_> = world.pods.iter().map(|pod| compiler.port(pod)).collect();
        let told = format!("SKEIN_SEED={seed}, round {round}");
        match compare(&world, &ports) {
            Ok((all, passing)) => {
                cells += all;
                open += passing;
            }
            Err(cell) => explain(&mut bench, &mut compiler, &mut world, cell, &told).await,
        }
    }
    println!(
        "SKEIN_SEED={seed}: {policies} policies in {rounds} rounds, {cells} connections, {open} of them open, {:.1} s",
        since.elapsed().as_secs_f64()
    );
    // A table that is nearly all open or closed would show nothing.
    assert!(open * 10 > cells && open * 10 < cells * 9, "{open} of {cells} are open");
}
