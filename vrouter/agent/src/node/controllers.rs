//! What the node thread and the controllers say to each other.

use super::{Controller, Node};
use skein_proto::session::{self as wire, FromAgent, ToAgent, from_agent, to_agent};
use std::collections::BTreeMap;
use std::time::Instant;
use tokio::sync::mpsc as channel;
use uuid::Uuid;

impl Node {
    pub(super) fn connected(&mut self, index: usize, queue: channel::UnboundedSender<FromAgent>) {
        let send = |message| {
            let _ = queue.send(FromAgent { message: Some(message) });
        };
        send(from_agent::Message::Hello(wire::Hello {
            node: self.name.clone(),
            tunnel_address: self.underlay.tunnel_address.to_string(),
            encapsulations: [
                wire::Encapsulation::Vxlan,
                wire::Encapsulation::MplsOUdp,
                wire::Encapsulation::MplsOGre,
            ]
            .map(i32::from)
            .to_vec(),
            version: env!("CARGO_PKG_VERSION").into(),
            revision: self.core.revision(),
        }));
        send(from_agent::Message::Interest(wire::Interest {
            // The host's port too: a controller that has just started may not know it yet, and would refuse its route.
            add: self
                .ports
                .values()
                .map(|record| record.uuid)
                .chain(self.host.as_ref().map(|host| host.uuid))
                .chain(self.nested_interest.iter().copied())
                .map(|uuid| uuid.to_string())
                .collect(),
            remove: Vec::new(),
            replace: true,
        }));
        let reach = self.published.values().cloned().collect();
        send(from_agent::Message::Publish(wire::Publish { reach, unreach: Vec::new() }));
        send(from_agent::Message::EndOfPublish(wire::EndOfPublish {}));
        self.core.connected(index);
        if let Some(controller) = self.controllers.get_mut(index) {
            controller.queue = Some(queue);
        }
    }

    pub(super) fn said(&mut self, index: usize, said: ToAgent) {
        match said.message {
            Some(to_agent::Message::HelloAck(ack)) => {
                tracing::info!(controller = ack.controller, version = ack.version, "connected");
                if let Some(controller) = self.controllers.get_mut(index) {
                    controller.name = ack.controller;
                    controller.version = ack.version;
                }
            }
            Some(to_agent::Message::Intent(intent)) => {
                self.unsaved_word = true;
                self.unsaved_since.get_or_insert_with(Instant::now);
                self.core.intent(index, intent);
            }
            Some(to_agent::Message::Routes(routes)) => {
                self.unsaved_word = true;
                self.unsaved_since.get_or_insert_with(Instant::now);
                self.core.routes(index, &routes);
            }
            Some(to_agent::Message::PublishRejected(rejected)) => {
                let route = rejected.route.unwrap_or_default();
                tracing::warn!(
                    prefix = route.prefix,
                    vrf = route.vrf,
                    reason = rejected.reason,
                    "a controller refused a route of this node: other nodes cannot reach the port"
                );
            }
            Some(to_agent::Message::Look(question)) => {
                let looked = crate::look::look(self, &question);
                let message = Some(from_agent::Message::Looked(looked));
                if let Some(queue) = self.controllers.get(index).and_then(|c| c.queue.as_ref()) {
                    let _ = queue.send(FromAgent { message });
                }
            }
            None => {}
        }
    }

    /// Asks the controllers for ports that share local ports' devices, as their configuration names them.
    pub(super) fn ask_for_nested(&mut self) {
        let wanted = self.core.sub_interfaces();
        if wanted == self.nested_interest {
            return;
        }
        let names = |uuids: std::collections::btree_set::Difference<'_, Uuid>| {
            uuids.map(ToString::to_string).collect()
        };
        let interest = wire::Interest {
            add: names(wanted.difference(&self.nested_interest)),
            remove: names(self.nested_interest.difference(&wanted)),
            replace: false,
        };
        self.nested_interest = wanted;
        self.tell(&from_agent::Message::Interest(interest));
    }

    pub(super) fn publish(&mut self) {
        let key = |route: &wire::LocalRoute| {
            (route.vrf.clone(), route.prefix.clone(), route.interface.clone())
        };
        let now: BTreeMap<_, _> =
            self.core.local_routes().into_iter().map(|route| (key(&route), route)).collect();
        if now == self.published {
            return;
        }
        let reach = now.iter().filter(|(key, route)| self.published.get(*key) != Some(*route));
        let unreach = self.published.iter().filter(|(key, _)| !now.contains_key(*key));
        let publish = wire::Publish {
            reach: reach.map(|(_, route)| route.clone()).collect(),
            unreach: unreach.map(|(_, route)| route.clone()).collect(),
        };
        self.published = now;
        self.tell(&from_agent::Message::Publish(publish));
    }

    pub(super) fn tell(&self, message: &from_agent::Message) {
        for queue in self.controllers.iter().filter_map(|controller| controller.queue.as_ref()) {
            let _ = queue.send(FromAgent { message: Some(message.clone()) });
        }
    }

    pub(super) fn send_status(&self) {
        let mut problems: Vec<wire::Problem> = self
            .core
            .problems()
            .iter()
            .map(|(subject, reason)| wire::Problem {
                subject: subject.clone(),
                reason: reason.clone(),
            })
            .collect();
        problems.extend(
            self.apply_failure
                .iter()
                .map(|reason| wire::Problem { subject: self.name.clone(), reason: reason.clone() }),
        );
        problems.extend(self.host_failure.iter().map(|reason| wire::Problem {
            subject: format!("{} (host)", self.name),
            reason: reason.clone(),
        }));
        let exhausted = self.exhausted().into_iter().chain(self.without_room());
        problems.extend(exhausted.map(|(subject, reason)| wire::Problem { subject, reason }));
        let revision = if self.apply_failure.is_none() { self.core.revision() } else { 0 };
        self.tell(&from_agent::Message::Status(wire::Status {
            applied_revision: revision,
            interfaces_active: u32::try_from(self.core.in_force().interfaces.len())
                .unwrap_or(u32::MAX),
            flows: u32::try_from(self.flows_live).unwrap_or(u32::MAX),
            problems,
            staged: crate::staged::changes(&self.staged),
        }));
    }

    /// Address, name, version and connection state of each controller.
    pub(crate) fn controllers(&self) -> impl Iterator<Item = (&str, &str, &str, bool)> {
        self.controllers.iter().map(|controller| {
            let Controller { address, name, version, queue } = controller;
            (address.as_str(), name.as_str(), version.as_str(), queue.is_some())
        })
    }
}
