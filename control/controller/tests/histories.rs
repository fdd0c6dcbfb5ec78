//! What nodes are told: following messages always ends at the truth, whatever happens in between.
#![allow(clippy::unwrap_used, clippy::panic)]

mod follower;
#[path = "../../compiler/tests/world/mod.rs"]
mod world;

use follower::{Agent, START, local, uuid};
use proptest::prelude::*;
use skein_controller::Core;
use skein_model::{Change, Kind};
use skein_proto::session;
use std::collections::{BTreeMap, BTreeSet};
use world::dns::{ipam, record, server};
use world::services::{balancer, floating_ip, member, node};
use world::{group, id, network, policy, port};

const NETWORKS: [&str; 3] = ["front", "back", "side"];
const PORTS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    Configure(Vec<Change>),
    Interest(u8, usize, bool),
    /// Node, port, network of the VRF, network of the address, host part.
    Publish(u8, usize, (usize, usize), u8, bool),
    Reconnect(u8),
    Poll(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let net = || 0usize..3;
    let policies = proptest::sample::subsequence(vec!["p", "q"], 0..=2);
    prop_oneof![
        2 => (net(), policies).prop_map(|(n, p)| {
            Step::Configure(network(NETWORKS[n], u32::try_from(n).unwrap() + 1, &p))
        }),
        1 => (net(), net(), any::<bool>()).prop_map(|(a, b, pass)| {
            let action = if pass { "pass" } else { "deny" };
            Step::Configure(vec![policy("p", &[(NETWORKS[a], NETWORKS[b], "<>", "any", -1, action)])])
        }),
        1 => Just(Step::Configure(vec![policy("q", &[("any", "any", ">", "tcp", 22, "pass")])])),
        1 => (8_000_000u32..8_000_002)
            .prop_map(|n| Step::Configure(vec![group("g", n, "tcp", "0.0.0.0/0")])),
        3 => (0usize..4, net(), 1u8..4, any::<bool>()).prop_map(|(p, n, host, grouped)| {
            let groups: &[&str] = if grouped { &["g"] } else { &[] };
            Step::Configure(port(PORTS[p], NETWORKS[n], &format!("10.{}.0.{host}", n + 1), groups))
        }),
        1 => (0usize..4).prop_map(|p| {
            Step::Configure(vec![Change::Delete(id(Kind::VIRTUAL_MACHINE_INTERFACE, PORTS[p]))])
        }),
        1 => net().prop_map(|n| {
            Step::Configure(vec![Change::Delete(id(Kind::VIRTUAL_NETWORK, NETWORKS[n]))])
        }),
        3 => (1u8..3, 0usize..4, any::<bool>()).prop_map(|(n, p, add)| Step::Interest(n, p, add)),
        4 => (1u8..3, 0usize..4, net(), 1u8..4, any::<bool>())
            .prop_map(|(node, p, n, host, reach)| Step::Publish(node, p, (n, n), host, reach)),
        3 => (1u8..3, 0usize..4, (net(), net()), 1u8..4, any::<bool>())
            .prop_map(|(node, p, n, host, reach)| Step::Publish(node, p, n, host, reach)),
        2 => (net(), 1u8..3, any::<bool>()).prop_map(|(n, host, there)| {
            let listener = id(Kind::LOADBALANCER_LISTENER, "web");
            let address = format!("10.9.0.{host}");
            Step::Configure(if there {
                balancer("web", NETWORKS[n], &address, 80, serde_json::json!({}))
            } else {
                vec![Change::Delete(listener)]
            })
        }),
        3 => (0usize..4, net(), 1u8..4, any::<bool>()).prop_map(|(p, n, host, there)| {
            let name = format!("m{p}");
            Step::Configure(vec![if there {
                let address = format!("10.{}.0.{host}", n + 1);
                member(&name, "web", &address, PORTS[p], serde_json::json!({}))
            } else {
                Change::Delete(id(Kind::LOADBALANCER_MEMBER, &name))
            }])
        }),
        2 => (0usize..4, net(), net(), 1u8..4).prop_map(|(p, n, of, host)| {
            let address = format!("10.{}.0.{host}", of + 1);
            Step::Configure(floating_ip(&format!("f{n}"), NETWORKS[n], &address, PORTS[p]))
        }),
        1 => (1u8..3, net(), any::<bool>()).prop_map(|(number, n, there)| {
            let name = format!("node-{number}");
            let mut all = node(&name, &format!("192.168.0.{number}"), NETWORKS[n]);
            if !there {
                all = vec![Change::Delete(id(Kind::VIRTUAL_MACHINE_INTERFACE, &format!("{name}:vhost0")))];
            }
            Step::Configure(all)
        }),
        2 => (0u8..3, any::<bool>()).prop_map(|(next, there)| {
            let next = ["", "default-domain:shop", "default-domain:bank"][usize::from(next)];
            Step::Configure(if there {
                vec![server("shop", serde_json::json!({"domain_name": "shop.example", "next_virtual_DNS": next}))]
            } else {
                vec![Change::Delete(id(Kind::VIRTUAL_DNS, "shop"))]
            })
        }),
        1 => any::<bool>().prop_map(|shop| {
            let bank = server("bank", serde_json::json!({"domain_name": "bank.example"}));
            Step::Configure(vec![bank, ipam(if shop { "shop" } else { "bank" })])
        }),
        3 => (any::<bool>(), 0u8..3, any::<bool>()).prop_map(|(shop, name, there)| {
            let (of, name) = (if shop { "shop" } else { "bank" }, format!("n{name}"));
            Step::Configure(vec![if there {
                record(of, &name, "A", "10.0.0.1")
            } else {
                Change::Delete(id(Kind::VIRTUAL_DNS_RECORD, &format!("{of}:{name}:A")))
            }])
        }),
        1 => (1u8..3).prop_map(Step::Reconnect),
        2 => (1u8..3).prop_map(Step::Poll),
    ]
}

proptest! {
    /// Whatever happens and however late a node reads, what it believes in the end is what a
    /// controller that was told everything at once would tell it.
    #[test]
    fn following_ends_at_the_truth(steps in proptest::collection::vec(step(), 0..60)) {
        let mut core = Core::default();
        core.configure(&[], 0, true);
        let mut agents: Vec<Agent> = (1..3).map(|n| Agent::new(&mut core, n, &[])).collect();
        for agent in &agents {
            core.end_of_publish(&agent.name, agent.id);
        }
        let mut interest: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); 2];
        let mut published: Vec<BTreeMap<(usize, String, String), session::LocalRoute>> = vec![BTreeMap::new(); 2];
        let mut graph = skein_model::Graph::default();
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Configure(changes) => {
                    for change in &changes {
                        graph.apply(change);
                    }
                    core.configure(&changes, at as u64, false);
                }
                Step::Interest(node, p, add) => {
                    let agent = &agents[usize::from(node) - 1];
                    let list = vec![uuid(PORTS[p])];
                    let mut message = session::Interest::default();
                    if add {
                        interest[usize::from(node) - 1].insert(p);
                        message.add = list;
                    } else {
                        interest[usize::from(node) - 1].remove(&p);
                        let mine = &mut published[usize::from(node) - 1];
                        let unreach = mine.extract_if(.., |(q, _, _), _| *q == p).map(|(_, r)| r).collect();
                        core.publish(&agent.name, agent.id, &session::Publish { reach: vec![], unreach });
                        message.remove = list;
                    }
                    core.interest(&agent.name, agent.id, &message);
                }
                Step::Publish(node, p, (vrf, n), host, reach) => {
                    let agent = &agents[usize::from(node) - 1];
                    let address = format!("10.{}.0.{host}", n + 1);
                    let route = local(PORTS[p], NETWORKS[vrf], &address, 16);
                    let key = (p, route.vrf.clone(), route.prefix.clone());
                    let mine = &mut published[usize::from(node) - 1];
                    if reach && interest[usize::from(node) - 1].contains(&p) {
                        mine.insert(key, route.clone());
                    } else if !reach {
                        mine.remove(&key);
                    }
                    let publish = if reach {
                        session::Publish { reach: vec![route], unreach: vec![] }
                    } else {
                        session::Publish { reach: vec![], unreach: vec![route] }
                    };
                    core.publish(&agent.name, agent.id, &publish);
                }
                Step::Reconnect(node) => {
                    let at = usize::from(node) - 1;
                    let ports: Vec<&str> = interest[at].iter().map(|p| PORTS[*p]).collect();
                    let old = agents[at].id;
                    agents[at] = Agent::new(&mut core, node, &ports);
                    core.disconnect(&format!("node-{node}"), old, START);
                    for route in published[at].values() {
                        agents[at].publish(&mut core, route.clone());
                    }
                    core.end_of_publish(&agents[at].name, agents[at].id);
                }
                Step::Poll(node) => agents[usize::from(node) - 1].poll(&mut core),
            }
        }
        let mut fresh = Core::default();
        let all: Vec<_> = graph.objects().cloned().map(Change::Put).collect();
        fresh.configure(&all, 0, true);
        let mut truth: Vec<Agent> = Vec::new();
        for node in 1..3u8 {
            let at = usize::from(node) - 1;
            let ports: Vec<&str> = interest[at].iter().map(|p| PORTS[*p]).collect();
            let agent = Agent::new(&mut fresh, node, &ports);
            for route in published[at].values() {
                agent.publish(&mut fresh, route.clone());
            }
            truth.push(agent);
        }
        for agent in &truth {
            fresh.end_of_publish(&agent.name, agent.id);
        }
        for (agent, true_agent) in agents.iter_mut().zip(&mut truth) {
            agent.poll(&mut core);
            true_agent.poll(&mut fresh);
            let (mut seen, mut expected) = (agent.view.clone(), true_agent.view.clone());
            seen.snapshots = 0;
            expected.snapshots = 0;
            prop_assert_eq!(seen, expected);
        }
    }
}
