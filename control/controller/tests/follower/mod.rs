//! Agents that believe what they are told, and a controller that tells two of them.
#![allow(dead_code)] // each test file uses its part

use crate::world::{id, network, policy, port};
use skein_controller::{Core, SessionId};
use skein_model::Kind;
use skein_proto::session::{self, to_agent};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(crate) const START: Duration = Duration::ZERO;

/// What a node believes, from the messages alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Follower {
    pub(crate) vrfs: BTreeMap<String, session::Vrf>,
    pub(crate) policies: BTreeMap<String, session::PolicySet>,
    pub(crate) interfaces: BTreeMap<String, session::Interface>,
    pub(crate) services: BTreeMap<String, session::Service>,
    pub(crate) dns_zones: BTreeMap<String, session::DnsZone>,
    pub(crate) dns_records: BTreeMap<String, session::DnsRecordSet>,
    pub(crate) routes: BTreeMap<(String, String), session::Route>,
    /// Nodes that it knows of.
    pub(crate) nodes: Vec<String>,
    pub(crate) complete: BTreeSet<String>,
    pub(crate) snapshots: usize,
}

impl Follower {
    pub(crate) fn follow(&mut self, messages: Vec<session::ToAgent>) {
        for message in messages {
            match message.message.unwrap() {
                to_agent::Message::Intent(intent) => self.intent(intent),
                to_agent::Message::Routes(routes) => self.routes(routes),
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn intent(&mut self, intent: session::Intent) {
        if let Some(global) = intent.global {
            self.nodes = global.nodes.into_iter().map(|node| node.name).collect();
        }
        self.policies.extend(intent.policies.into_iter().map(|p| (p.id.clone(), p)));
        self.vrfs.extend(intent.vrfs.into_iter().map(|v| (v.name.clone(), v)));
        self.interfaces.extend(intent.interfaces.into_iter().map(|i| (i.uuid.clone(), i)));
        for uuid in intent.interfaces_removed {
            assert!(self.interfaces.remove(&uuid).is_some(), "removed what was not there");
        }
        for name in intent.vrfs_removed {
            assert!(self.vrfs.remove(&name).is_some(), "removed what was not there");
            self.routes.retain(|(vrf, _), _| *vrf != name);
            self.complete.remove(&name);
        }
        for policy in intent.policies_removed {
            assert!(self.policies.remove(&policy).is_some(), "removed what was not there");
        }
        self.services.extend(intent.services.into_iter().map(|s| (s.id.clone(), s)));
        for id in intent.services_removed {
            assert!(self.services.remove(&id).is_some(), "removed what was not there");
        }
        self.dns_zones.extend(intent.dns_zones.into_iter().map(|z| (z.id.clone(), z)));
        for id in intent.dns_zones_removed {
            assert!(self.dns_zones.remove(&id).is_some(), "removed what was not there");
        }
        self.dns_records.extend(intent.dns_records.into_iter().map(|s| (s.id.clone(), s)));
        for id in intent.dns_records_removed {
            assert!(self.dns_records.remove(&id).is_some(), "removed what was not there");
        }
        for set in self.dns_records.values() {
            assert!(
                self.dns_zones.contains_key(&set.zone),
                "records of a zone the node does not have"
            );
        }
        self.snapshots += usize::from(intent.end_of_snapshot);
        // A node never holds an interface without what it needs.
        for interface in self.interfaces.values() {
            assert!(self.vrfs.contains_key(&interface.vrf));
            assert!(interface.policy_disabled || self.policies.contains_key(&interface.policy));
            for context in &interface.contexts {
                assert!(self.vrfs.contains_key(&context.vrf));
                let known = self.policies.contains_key(&context.policy);
                assert!(interface.policy_disabled || known);
            }
        }
        for service in self.services.values() {
            assert!(self.vrfs.contains_key(&service.vrf));
        }
    }

    fn routes(&mut self, routes: session::Routes) {
        for route in routes.reach {
            assert!(self.vrfs.contains_key(&route.vrf), "a route of a VRF the node does not have");
            self.routes.insert((route.vrf.clone(), route.prefix.clone()), route);
        }
        for key in routes.unreach {
            self.routes.remove(&(key.vrf, key.prefix));
        }
        self.complete.extend(routes.end_of_rib);
    }
}

pub(crate) fn hello(node: u8) -> session::Hello {
    session::Hello {
        node: format!("node-{node}"),
        tunnel_address: format!("192.168.0.{node}"),
        encapsulations: vec![
            session::Encapsulation::Vxlan.into(),
            session::Encapsulation::MplsOUdp.into(),
        ],
        version: "test".into(),
        revision: 0,
    }
}

pub(crate) fn uuid(name: &str) -> String {
    id(Kind::VIRTUAL_MACHINE_INTERFACE, name).to_string()
}

pub(crate) fn local(port: &str, network: &str, address: &str, label: u32) -> session::LocalRoute {
    session::LocalRoute {
        vrf: format!("default-domain:shop:{network}:{network}"),
        prefix: format!("{address}/32"),
        interface: uuid(port),
        label,
        instance_id: 1,
    }
}

pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) id: SessionId,
    pub(crate) view: Follower,
}

impl Agent {
    pub(crate) fn new(core: &mut Core, node: u8, ports: &[&str]) -> Agent {
        let id = core.connect(&hello(node), START).unwrap();
        let name = format!("node-{node}");
        let add = ports.iter().map(|port| uuid(port)).collect();
        core.interest(&name, id, &session::Interest { add, remove: Vec::new(), replace: true });
        Agent { name, id, view: Follower::default() }
    }

    pub(crate) fn publish(&self, core: &mut Core, route: session::LocalRoute) {
        let publish = session::Publish { reach: vec![route], unreach: Vec::new() };
        assert!(core.publish(&self.name, self.id, &publish).is_empty());
    }

    pub(crate) fn poll(&mut self, core: &mut Core) {
        self.view.follow(core.take(&self.name, self.id));
        assert!(!core.has_news(&self.name, self.id));
    }

    pub(crate) fn paths(&self, network: &str, address: &str) -> Vec<String> {
        let vrf = format!("default-domain:shop:{network}:{network}");
        let route = self.view.routes.get(&(vrf, format!("{address}/32")));
        route.map_or_else(Vec::new, |r| r.paths.iter().map(|p| p.next_hop.clone()).collect())
    }
}

pub(crate) fn two_nodes(policies: &[&str]) -> (Core, Agent, Agent) {
    let mut core = Core::default();
    let mut changes = network("front", 5, policies);
    changes.extend(network("back", 6, policies));
    changes.extend(port("f", "front", "10.5.0.7", &[]));
    changes.extend(port("b", "back", "10.6.0.7", &[]));
    changes.push(policy("web", &[("front", "back", ">", "tcp", 80, "pass")]));
    core.configure(&changes, 7, true);
    let mut one = Agent::new(&mut core, 1, &["f"]);
    let mut two = Agent::new(&mut core, 2, &["b"]);
    one.publish(&mut core, local("f", "front", "10.5.0.7", 16));
    two.publish(&mut core, local("b", "back", "10.6.0.7", 17));
    core.end_of_publish("node-1", one.id);
    core.end_of_publish("node-2", two.id);
    one.poll(&mut core);
    two.poll(&mut core);
    (core, one, two)
}
