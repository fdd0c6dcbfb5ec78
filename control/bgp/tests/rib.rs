//! VRF tables against a reference that looks at everything each time, and what wins by example.
#![allow(clippy::unwrap_used)]

use ipnet::IpNet;
use proptest::prelude::*;
use skein_bgp::{Path, PathKey, Rib, RouteDistinguisher, RouteTarget, Source, TunnelType};
use std::collections::{BTreeMap, BTreeSet};

fn target(n: u8) -> RouteTarget {
    RouteTarget::As2(64512, 8_000_000 + u32::from(n))
}

fn key(host: u8, node: u8, id: u32) -> PathKey {
    PathKey {
        prefix: format!("10.0.0.{host}/32").parse().unwrap(),
        rd: RouteDistinguisher { address: [192, 168, 0, node].into(), instance: 1 },
        source: Source(format!("node-{node}").into()),
        id,
    }
}

fn path(node: u8, network: u32, preference: u32, targets: &[u8]) -> Path {
    Path {
        next_hop: [192, 168, 0, node].into(),
        label: 16,
        tunnels: vec![TunnelType::Vxlan],
        native: false,
        route_targets: targets.iter().map(|n| target(*n)).collect(),
        network,
        security_groups: Vec::new(),
        tags: Vec::new(),
        local_preference: preference,
    }
}

fn best(rib: &Rib, vrf: &str, host: u8) -> Vec<u8> {
    let prefix: IpNet = format!("10.0.0.{host}/32").parse().unwrap();
    rib.best(vrf, &prefix).iter().map(|(key, _)| key.rd.address.octets()[3]).collect()
}

#[test]
fn equal_paths_form_an_ecmp_set_and_a_better_one_stands_alone() {
    let mut rib = Rib::default();
    rib.set_vrf("red", 1, &BTreeSet::from([target(1)]));
    rib.announce(&key(5, 1, 16), path(1, 1, 100, &[1]));
    rib.announce(&key(5, 2, 16), path(2, 1, 100, &[1]));
    assert_eq!(best(&rib, "red", 5), [1, 2]);
    rib.announce(&key(5, 3, 16), path(3, 1, 200, &[1]));
    assert_eq!(best(&rib, "red", 5), [3]);
}

#[test]
fn an_imported_route_never_draws_traffic_for_an_own_address() {
    let mut rib = Rib::default();
    rib.set_vrf("red", 1, &BTreeSet::from([target(1), target(2)]));
    rib.announce(&key(5, 1, 16), path(1, 1, 100, &[1]));
    rib.announce(&key(5, 2, 16), path(2, 2, 300, &[2]));
    assert_eq!(best(&rib, "red", 5), [1]);
}

#[test]
fn a_source_that_leaves_takes_its_routes_with_it() {
    let mut rib = Rib::default();
    rib.set_vrf("red", 1, &BTreeSet::from([target(1)]));
    rib.announce(&key(5, 1, 16), path(1, 1, 100, &[1]));
    rib.announce(&key(6, 2, 16), path(2, 1, 100, &[1]));
    rib.take_changed();
    rib.withdraw_source(&Source("node-1".into()), |_| false);
    assert_eq!(rib.take_changed().len(), 1);
    assert_eq!(rib.prefixes("red").count(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Vrf(u8, BTreeSet<u8>),
    RemoveVrf(u8),
    Announce(u8, u8, u32, Vec<u8>),
    Withdraw(u8, u8),
    WithdrawSource(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let targets = || proptest::collection::vec(0u8..4, 0..3);
    prop_oneof![
        (0u8..3, targets()).prop_map(|(v, t)| Step::Vrf(v, t.into_iter().collect())),
        (0u8..3).prop_map(Step::RemoveVrf),
        (0u8..4, 0u8..3, 100u32..102, targets())
            .prop_map(|(host, node, lp, t)| Step::Announce(host, node, lp, t)),
        (0u8..4, 0u8..3).prop_map(|(host, node)| Step::Withdraw(host, node)),
        (0u8..3).prop_map(Step::WithdrawSource),
    ]
}

proptest! {
    #[test]
    fn tables_equal_a_look_at_everything(steps in proptest::collection::vec(step(), 0..60)) {
        let mut rib = Rib::default();
        let mut vrfs: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
        let mut paths: BTreeMap<PathKey, Path> = BTreeMap::new();
        // What a consumer that only follows changes believes.
        let mut followed: BTreeMap<(String, IpNet), Vec<u8>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Vrf(v, t) => {
                    rib.set_vrf(&format!("v{v}"), u32::from(v), &t.iter().map(|n| target(*n)).collect());
                    vrfs.insert(v, t);
                }
                Step::RemoveVrf(v) => {
                    rib.remove_vrf(&format!("v{v}"));
                    vrfs.remove(&v);
                }
                Step::Announce(host, node, lp, t) => {
                    rib.announce(&key(host, node, 16), path(node, 9, lp, &t));
                    paths.insert(key(host, node, 16), path(node, 9, lp, &t));
                }
                Step::Withdraw(host, node) => {
                    rib.withdraw(&key(host, node, 16));
                    paths.remove(&key(host, node, 16));
                }
                Step::WithdrawSource(node) => {
                    let source = Source(format!("node-{node}").into());
                    rib.withdraw_source(&source, |_| false);
                    paths.retain(|key, _| key.source != source);
                }
            }
            for (vrf, prefix) in rib.take_changed() {
                let now: Vec<u8> =
                    rib.best(&vrf, &prefix).iter().map(|(k, _)| k.rd.address.octets()[3]).collect();
                if now.is_empty() {
                    followed.remove(&(vrf.to_string(), prefix));
                } else {
                    followed.insert((vrf.to_string(), prefix), now);
                }
            }
            let mut expected: BTreeMap<(String, IpNet), Vec<u8>> = BTreeMap::new();
            for (v, import) in &vrfs {
                let import: BTreeSet<_> = import.iter().map(|n| target(*n)).collect();
                for host in 0..4u8 {
                    let here: Vec<_> = paths
                        .iter()
                        .filter(|(k, p)| {
                            k.prefix == key(host, 0, 16).prefix
                                && !p.route_targets.is_disjoint(&import)
                        })
                        .collect();
                    let top = here.iter().map(|(_, p)| p.local_preference).max();
                    let winners: Vec<u8> = here
                        .iter()
                        .filter(|(_, p)| Some(p.local_preference) == top)
                        .map(|(k, _)| k.rd.address.octets()[3])
                        .collect();
                    if !winners.is_empty() {
                        expected.insert((format!("v{v}"), key(host, 0, 16).prefix), winners);
                    }
                }
            }
            prop_assert_eq!(&followed, &expected);
        }
    }
}
