//! Several nodes and the configuration between them: who carries what, and that somebody always does.
#![allow(clippy::unwrap_used, clippy::panic)]

mod world;

use proptest::prelude::*;
use serde_json::json;
use skein_loadbalancer::core::{BEAT, LIFETIME};
use skein_loadbalancer::{Assignment, Core, Settings, placement};
use skein_model::Kind;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;
use world::{VIP, World, id};

fn web() -> Uuid {
    id(Kind::LOADBALANCER, "web")
}

/// A node as its daemon would be: plugged a step after it is told to, ready a step later.
struct Node {
    name: String,
    core: Core,
    running: bool,
    /// Its HAProxy can live.
    healthy: bool,
    plugged: bool,
    assignments: BTreeMap<Uuid, Assignment>,
}

struct Fabric {
    world: World,
    nodes: Vec<Node>,
    now: Duration,
    /// Once somebody takes traffic, somebody has to.
    served: bool,
}

impl Fabric {
    fn new(names: &[&str]) -> Fabric {
        let mut world = World::new(VIP);
        world.otherwise(("10.96.0.1", 80));
        let mut fabric = Fabric { world, nodes: Vec::new(), now: Duration::ZERO, served: false };
        for name in names {
            fabric.join(name);
        }
        fabric
    }

    fn join(&mut self, name: &str) {
        let router = json!({"virtual_router_ip_address": "192.168.0.1"});
        self.world.put(Kind::VIRTUAL_ROUTER, name, router);
        let settings = Settings {
            node: name.to_owned(),
            providers: vec!["opencontrail".into(), "haproxy".into()],
        };
        let mut core = Core::new(settings);
        core.snapshot(self.world.objects(), self.now);
        self.nodes.push(Node {
            name: name.to_owned(),
            core,
            running: true,
            healthy: true,
            plugged: false,
            assignments: BTreeMap::new(),
        });
    }

    fn port(name: &str) -> String {
        format!("port-{name}")
    }

    /// Ports that share the address, with their preference, those of running nodes only: others are stale to routing.
    fn takers(&self) -> BTreeMap<String, i64> {
        let shared = self.world.targets(Kind::INSTANCE_IP, "vip", Kind::VIRTUAL_MACHINE_INTERFACE);
        let mut takers = BTreeMap::new();
        for node in self.nodes.iter().filter(|node| node.running) {
            let uuid = id(Kind::VIRTUAL_MACHINE_INTERFACE, &Self::port(&node.name));
            let Some(port) = self.world.object(uuid).filter(|_| shared.contains(&uuid)) else {
                continue;
            };
            let preference =
                port.properties["virtual_machine_interface_properties"]["local_preference"]
                    .as_i64()
                    .unwrap_or(100);
            takers.insert(node.name.clone(), preference);
        }
        takers
    }

    /// One step of the node's daemon, and of the port API.
    fn step(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        if !node.running {
            return;
        }
        let name = Self::port(&node.name);
        let uuid = id(Kind::VIRTUAL_MACHINE_INTERFACE, &name);
        let wanted = node.assignments.contains_key(&web());
        if wanted && !node.plugged {
            let bindings = json!({"key_value_pair": [{"key": "host_id", "value": node.name}]});
            self.world.put(
                Kind::VIRTUAL_MACHINE_INTERFACE,
                &name,
                json!({"virtual_machine_interface_bindings": bindings}),
            );
            node.plugged = true;
            node.core.plugged(web(), Some(uuid));
        } else if !wanted && node.plugged {
            // The port API takes the port out of the address it shares, too.
            let refer = skein_loadbalancer::Write::Refer {
                kind: Kind::INSTANCE_IP,
                uuid: id(Kind::INSTANCE_IP, "vip"),
                port: uuid,
                add: false,
            };
            self.world.write(&refer);
            self.world.remove(Kind::VIRTUAL_MACHINE_INTERFACE, &name);
            node.plugged = false;
            node.core.plugged(web(), None);
        } else if wanted {
            node.core.ready(web(), node.healthy);
        }
        let work = node.core.poll(now);
        node.assignments = work.assignments;
        for (subject, writes) in work.writes {
            for write in &writes {
                self.world.write(write);
            }
            node.core.wrote(subject);
        }
        self.tell();
    }

    /// Everybody who runs hears what changed.
    fn tell(&mut self) {
        for uuid in std::mem::take(&mut self.world.changed) {
            for node in self.nodes.iter_mut().filter(|node| node.running) {
                match self.world.object(uuid) {
                    Some(object) => node.core.put(object, self.now),
                    None => node.core.delete(uuid, self.now),
                }
            }
        }
    }

    /// Everybody who lives and was serving while others could not: nobody left means nobody can.
    fn check(&mut self) {
        let able = |node: &&Node| node.running && node.healthy;
        let serving = self.takers();
        if self.served && self.nodes.iter().filter(able).any(|node| node.plugged) {
            let lost = self.nodes.iter().filter(|n| n.running && !n.healthy).count();
            assert!(!serving.is_empty() || lost > 0, "nobody takes traffic at {:?}", self.now);
        }
        self.served |= !serving.is_empty();
    }

    fn settle(&mut self) {
        for _ in 0..12 {
            for at in 0..self.nodes.len() {
                self.step(at);
                self.check();
            }
            self.now += Duration::from_millis(2500);
        }
    }

    fn order(&self) -> Vec<String> {
        let names: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        placement::order(web(), names).into_iter().map(str::to_owned).collect()
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap()
    }
}

#[test]
fn two_of_many_carry_it_and_one_is_preferred() {
    let mut fabric = Fabric::new(&["a", "b", "c", "d"]);
    fabric.settle();
    let order = fabric.order();
    let wanted = BTreeMap::from([(order[0].clone(), 200), (order[1].clone(), 100)]);
    assert_eq!(fabric.takers(), wanted);
    for node in &fabric.nodes {
        let active = node.assignments.get(&web()).map(|assignment| assignment.active);
        let wanted = if node.name == order[0] {
            Some(true)
        } else if node.name == order[1] {
            Some(false)
        } else {
            None
        };
        assert_eq!(active, wanted, "{}", node.name);
    }
    // The port takes after the one that stands for the load balancer, and a floating IP leads to its address.
    let port = Fabric::port(&order[0]);
    let tags = fabric.world.targets(Kind::VIRTUAL_MACHINE_INTERFACE, &port, Kind::TAG);
    assert_eq!(tags, [id(Kind::TAG, "ingress=web")]);
    let floating = fabric.world.object(id(Kind::FLOATING_IP, "fip")).unwrap();
    assert_eq!(floating.property::<String>("floating_ip_fixed_ip_address").unwrap(), VIP);
    assert_eq!(floating.references_to(Kind::VIRTUAL_MACHINE_INTERFACE).count(), 3);
}

#[test]
fn a_better_node_that_joins_takes_over_only_when_it_is_ready() {
    let better = placement::order(web(), ["a", "b", "c"])[0].to_owned();
    let names: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != better).collect();
    let mut fabric = Fabric::new(&names);
    fabric.settle();
    let before = fabric.takers();
    fabric.join(&better);
    fabric.node(&better).healthy = false;
    fabric.settle();
    let highest = |takers: &BTreeMap<String, i64>| {
        let best = takers.iter().max_by_key(|(_, preference)| **preference);
        best.map(|(name, _)| name.clone()).unwrap()
    };
    assert_eq!(highest(&fabric.takers()), highest(&before));
    fabric.node(&better).healthy = true;
    fabric.settle();
    assert_eq!(highest(&fabric.takers()), better);
    assert_eq!(fabric.takers().len(), 2);
}

#[test]
fn nothing_is_written_when_nothing_changes() {
    let mut fabric = Fabric::new(&["a", "b", "c"]);
    fabric.settle();
    let now = fabric.now;
    for node in &mut fabric.nodes {
        let writes = node.core.poll(now).writes;
        assert!(writes.iter().all(|(subject, _)| subject.is_nil()), "{writes:?}");
    }
}

#[test]
fn a_daemon_that_starts_again_takes_nothing_away_before_it_knows() {
    let mut fabric = Fabric::new(&["a", "b"]);
    fabric.settle();
    let before = fabric.takers();
    let first = fabric.order()[0].clone();
    let port = id(Kind::VIRTUAL_MACHINE_INTERFACE, &Fabric::port(&first));
    let (objects, now) = (fabric.world.objects(), fabric.now);
    let settings = Settings { node: first.clone(), providers: vec!["opencontrail".into()] };
    let mut core = Core::new(settings);
    core.plugged(web(), Some(port));
    core.snapshot(objects, now);
    let work = core.poll(now);
    assert!(work.assignments[&web()].active);
    assert!(work.writes.iter().all(|(subject, _)| subject.is_nil()), "{:?}", work.writes);
    // It finds that its proxy does not live.
    core.ready(web(), false);
    assert!(core.poll(now).writes.iter().any(|(subject, _)| *subject == web()));
    assert_eq!(fabric.takers(), before);
}

#[test]
fn a_copy_whose_proxy_dies_leaves_the_address_to_the_other_and_comes_back() {
    let mut fabric = Fabric::new(&["a", "b", "c"]);
    fabric.settle();
    let order = fabric.order();
    fabric.node(&order[0]).healthy = false;
    fabric.settle();
    assert_eq!(fabric.takers(), BTreeMap::from([(order[1].clone(), 100)]));
    assert!(fabric.node(&order[1]).assignments[&web()].active);
    fabric.node(&order[0]).healthy = true;
    fabric.settle();
    let wanted = BTreeMap::from([(order[0].clone(), 200), (order[1].clone(), 100)]);
    assert_eq!(fabric.takers(), wanted);
}

#[test]
fn a_third_node_takes_the_place_of_a_dead_one_and_leaves_when_it_is_back() {
    let mut fabric = Fabric::new(&["a", "b", "c"]);
    fabric.settle();
    let order = fabric.order();
    fabric.node(&order[0]).running = false;
    fabric.settle();
    assert_eq!(fabric.takers().keys().collect::<Vec<_>>(), [&order[1]], "not yet");
    fabric.now += LIFETIME;
    fabric.settle();
    let wanted = BTreeMap::from([(order[1].clone(), 100), (order[2].clone(), 50)]);
    assert_eq!(fabric.takers(), wanted);
    assert!(fabric.node(&order[1]).assignments[&web()].active);

    // It comes back as its daemon left it, and hears everything again.
    let (objects, now) = (fabric.world.objects(), fabric.now);
    let node = fabric.node(&order[0]);
    node.running = true;
    node.core.snapshot(objects, now);
    fabric.settle();
    fabric.now += BEAT;
    fabric.settle();
    let wanted = BTreeMap::from([(order[0].clone(), 200), (order[1].clone(), 100)]);
    assert_eq!(fabric.takers(), wanted);
}

#[test]
fn a_node_that_leaves_gives_everything_to_others_and_leaves_nothing() {
    let mut fabric = Fabric::new(&["a", "b", "c"]);
    fabric.settle();
    let order = fabric.order();
    fabric.node(&order[0]).core.leave();
    // Somebody serves at every step, or `check` fails.
    fabric.settle();
    let wanted = BTreeMap::from([(order[1].clone(), 200), (order[2].clone(), 100)]);
    assert_eq!(fabric.takers(), wanted);
    let node = fabric.node(&order[0]);
    assert!(node.core.has_left() && !node.plugged);
    assert!(fabric.world.object(id(Kind::SERVICE_APPLIANCE, &order[0])).is_none());

    // The last one has nobody to give it to, and serves as long as it lives.
    let mut fabric = Fabric::new(&["a"]);
    fabric.settle();
    fabric.nodes[0].core.leave();
    fabric.settle();
    assert_eq!(fabric.takers().len(), 1);
    assert!(fabric.nodes[0].core.has_left());
}

#[test]
fn others_providers_and_incomplete_ones_are_left_alone() {
    let mut fabric = Fabric::new(&["a"]);
    fabric.world.balancer("web", "native", VIP);
    fabric.tell();
    fabric.settle();
    assert!(fabric.takers().is_empty());
    fabric.world.balancer("web", "haproxy", VIP);
    fabric.settle();
    assert_eq!(fabric.takers().len(), 1);
    // Its address goes for a moment: what works goes on.
    fabric.world.remove(Kind::INSTANCE_IP, "vip");
    fabric.tell();
    let work = fabric.nodes[0].core.poll(fabric.now);
    assert!(work.assignments.contains_key(&web()) && work.incomplete.contains_key(&web()));
    fabric.world.remove(Kind::LOADBALANCER, "web");
    fabric.served = false;
    fabric.settle();
    assert!(!fabric.nodes[0].plugged, "removed with its object");
}

fn names() -> impl Strategy<Value = BTreeSet<String>> {
    proptest::collection::btree_set("[a-z]{1,6}", 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_node_that_comes_or_goes_moves_nothing_between_others(
        nodes in names(), other in "[A-Z]{3}", balancer in any::<u128>(),
    ) {
        let balancer = Uuid::from_u128(balancer);
        let before = placement::order(balancer, nodes.iter().map(String::as_str));
        let with = nodes.iter().map(String::as_str).chain([other.as_str()]);
        let mut after = placement::order(balancer, with);
        prop_assert!(after.contains(&other.as_str()));
        after.retain(|name| *name != other);
        prop_assert_eq!(before, after);
    }

    #[test]
    fn load_balancers_spread(nodes in names(), seed in any::<u64>()) {
        prop_assume!(nodes.len() > 1);
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        let many = 200 * nodes.len();
        for nth in 0..many {
            let balancer = Uuid::from_u64_pair(seed, nth as u64);
            let order = placement::order(balancer, nodes.iter().map(String::as_str));
            *first.entry(order[0]).or_default() += 1;
        }
        for node in &nodes {
            let share = first.get(node.as_str()).copied().unwrap_or(0);
            prop_assert!((100..=300).contains(&share), "{} has {}", node, share);
        }
    }

    /// Nodes come, die, come back and lose their proxies in any order: in the end the best two of those that can carry it.
    #[test]
    fn it_ends_with_the_best_two(events in proptest::collection::vec((0..5usize, 0..4u8), 0..12)) {
        let names = ["a", "b", "c", "d", "e"];
        let mut fabric = Fabric::new(&names);
        fabric.settle();
        for (at, what) in events {
            let (objects, now) = (fabric.world.objects(), fabric.now);
            let node = &mut fabric.nodes[at];
            match what {
                0 => node.running = false,
                1 if !node.running => {
                    node.running = true;
                    node.core.snapshot(objects, now);
                }
                2 => node.healthy = false,
                3 => node.healthy = true,
                _ => {}
            }
            // Who has lost everybody may be without for a moment.
            fabric.served = false;
            fabric.settle();
        }
        fabric.served = false;
        for _ in 0..4 {
            fabric.now += BEAT;
            fabric.settle();
        }
        let order = fabric.order();
        let live: Vec<&String> =
            order.iter().filter(|n| fabric.nodes.iter().any(|x| x.name == **n && x.running)).collect();
        // A node that runs and whose proxy does not live still counts: it may live at any moment.
        let healthy = |name: &&&String| fabric.nodes.iter().any(|x| x.name == ***name && x.healthy);
        let wanted: Vec<&String> = live.iter().take(2).filter(healthy).copied().collect();
        let takers = fabric.takers();
        for name in &wanted {
            prop_assert!(takers.contains_key(*name), "{:?} of {:?}", takers, wanted);
        }
        if let Some(first) = wanted.first() {
            let best = takers.values().max().unwrap();
            prop_assert_eq!(&takers[*first], best);
            prop_assert_eq!(takers.values().filter(|p| *p == best).count(), 1);
        }
        if wanted.len() == 2 {
            prop_assert_eq!(takers.len(), 2, "{:?}", takers);
        }
    }
}

#[test]
fn a_load_balancer_of_a_cluster_stays_on_its_nodes() {
    let mut fabric = Fabric::new(&["a", "b", "c", "d"]);
    let of = |cluster: &str| json!({"key_value_pair": [{"key": "cluster", "value": cluster}]});
    for (name, cluster) in [("a", "east"), ("b", "west"), ("c", "east"), ("d", "west")] {
        let fields =
            json!({"virtual_router_ip_address": "192.168.0.1", "annotations": of(cluster)});
        fabric.world.put(Kind::VIRTUAL_ROUTER, name, fields);
    }
    fabric.world.annotate(Kind::LOADBALANCER, "web", of("west"));
    fabric.settle();
    let carriers = |fabric: &Fabric| fabric.takers().into_keys().collect::<Vec<_>>();
    assert_eq!(carriers(&fabric), ["b", "d"]);
    // None of the others takes a place that becomes free.
    fabric.node("b").running = false;
    fabric.now += LIFETIME;
    fabric.settle();
    assert_eq!(carriers(&fabric), ["d"]);
    // It changes sides: who has it gives it up when another one is ready.
    fabric.world.annotate(Kind::LOADBALANCER, "web", of("east"));
    fabric.tell();
    fabric.settle();
    assert_eq!(carriers(&fabric), ["a", "c"]);
}
