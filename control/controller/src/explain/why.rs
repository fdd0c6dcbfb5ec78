//! What becomes of one connection: which service and members, which route, which rule at which end.

mod inquiries;

use super::Refusal;
use super::find::{self, PortView};
use super::names::{Author, Names};
use super::nodes::{Inquiry, NodeView};
use crate::core::Core;
use ipnet::IpNet;
use serde::Serialize;
use skein_compiler::{Interface, Service, Vrf};
use skein_policy::{Attributes, Direction, Packet, Policy, evaluate, evaluate_staged};
use std::net::IpAddr;
use std::sync::Arc;

/// A connection that someone might open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) family: Option<u8>,
}

/// A client's port: any will do, as policies of clients seldom ask for it.
const SOURCE_PORT: u16 = 40_000;
/// ICMP echo request, as policies see it: `type << 8 | code`.
const ECHO: u16 = 8 << 8;
const ECHO_V6: u16 = 128 << 8;

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct Why {
    /// Whether it works; through a service: with every member.
    passes: bool,
    /// One sentence.
    pub(super) summary: String,
    /// A node has something else in force.
    pub(super) differs: bool,
    from: PortView,
    to: String,
    pub(super) service: Option<ServiceView>,
    /// One for each end that may answer.
    pub(super) ways: Vec<Way>,
}

#[derive(Debug, Serialize)]
pub(super) struct ServiceView {
    name: String,
    address: IpAddr,
    port: u16,
    /// The network it lives in.
    network: String,
    members: usize,
    #[serde(skip)]
    pub(super) inquiry: Option<Inquiry>,
    /// What the asker's node has of it.
    pub(super) node: Option<NodeView>,
}

/// One end that may answer, and how it is reached.
#[derive(Debug, Serialize)]
pub(super) struct Way {
    passes: bool,
    /// One sentence.
    summary: String,
    address: IpAddr,
    port: u16,
    /// Its port; none: it is outside.
    to: Option<PortView>,
    route: Route,
    /// The verdict where the connection leaves.
    egress: Option<VerdictView>,
    /// The verdict where it arrives.
    ingress: Option<VerdictView>,
    #[serde(skip)]
    pub(super) inquiries: Vec<Inquiry>,
    /// What the two nodes have in force.
    pub(super) nodes: Vec<NodeView>,
}

#[derive(Debug, Serialize)]
struct Route {
    there: bool,
    /// How it goes, or what is missing.
    text: String,
}

#[derive(Debug, Serialize)]
struct VerdictView {
    pass: bool,
    /// Nothing judges.
    unchecked: bool,
    /// The layer that decided.
    layer: Option<String>,
    /// The rule that decided; none: what no rule fits.
    #[serde(flatten)]
    author: Option<Author>,
    /// What it would be with staged policies in force, if that is another one.
    staged: Option<&'static str>,
}

/// A target before anything is judged.
struct Target<'a> {
    address: IpAddr,
    port: u16,
    interface: Option<&'a Arc<Interface>>,
    /// The VRF in which the connection looks for it.
    vrf: &'a str,
}

pub(crate) fn explain(
    core: &Core,
    from: &str,
    to: &str,
    connection: Connection,
) -> Result<Why, Refusal> {
    let source = find::port(core, from, None)?;
    let Some(vrf) = core.engine().vrf(source.network) else {
        return Err(Refusal::Unknown(format!("the network of {} has no VRF yet", source.name)));
    };
    let names = Names::new(core.engine().graph());
    let asker = Asker { core, source, vrf, connection, names };
    let address = to.parse::<IpAddr>().ok();
    let port = match address {
        Some(_) => None,
        None => Some(find::port(core, to, None)?),
    };
    let mut why = Why {
        passes: false,
        summary: String::new(),
        differs: false,
        from: find::view(core, source),
        to: port.map_or_else(|| to.to_owned(), |port| port.name.clone()),
        service: None,
        ways: Vec::new(),
    };
    match (address, port) {
        (Some(address), _) => match asker.service(address) {
            Some(service) => asker.by_service(service, &mut why),
            None => {
                let interface = asker.owner_of(address);
                let target = Target { address, port: connection.port, interface, vrf: &vrf.name };
                why.ways.push(asker.way(&target)?);
            }
        },
        (None, Some(port)) => {
            let address = asker.common_address(port)?;
            let target =
                Target { address, port: connection.port, interface: Some(port), vrf: &vrf.name };
            why.ways.push(asker.way(&target)?);
        }
        (None, None) => {}
    }
    conclude(&mut why);
    Ok(why)
}

fn conclude(why: &mut Why) {
    let good = why.ways.iter().filter(|way| way.passes).count();
    why.passes = good > 0 && good == why.ways.len();
    if !why.summary.is_empty() {
        return;
    }
    why.summary = match (&why.service, why.ways.as_slice()) {
        (Some(service), []) => {
            format!("refused: service {} has no member that is ready", service.name)
        }
        (Some(service), ways) if good == ways.len() => {
            format!("passes, to one of {} members of service {}", ways.len(), service.name)
        }
        (Some(service), ways) => {
            format!("passes to {good} of {} members of service {}", ways.len(), service.name)
        }
        (None, ways) => ways.first().map_or_else(String::new, |way| way.summary.clone()),
    };
}

struct Asker<'a> {
    core: &'a Core,
    source: &'a Arc<Interface>,
    vrf: &'a Arc<Vrf>,
    connection: Connection,
    names: Names<'a>,
}

impl<'a> Asker<'a> {
    /// The service that answers at an address, in a VRF whose services the source may use or in any other.
    fn service(&self, address: IpAddr) -> Option<&'a Service> {
        let Connection { protocol, port, .. } = self.connection;
        let all = self.core.engine().services().flat_map(|set| &set.services);
        let mut fitting: Vec<_> = all
            .filter(|s| s.address == address && s.protocol == protocol && s.port == port)
            .collect();
        fitting.sort_by_key(|service| (!self.may_use(service), service.vrf.clone()));
        fitting.first().copied()
    }

    fn may_use(&self, service: &Service) -> bool {
        let others = &self.source.others_services;
        let mut usable = self.vrf.service_vrfs.iter().filter(|(_, of)| !others.contains(of));
        usable.any(|(name, _)| *name == service.vrf)
    }

    fn by_service(&self, service: &'a Service, why: &mut Why) {
        let network = self.core.engine().vrfs().find(|vrf| vrf.name == service.vrf);
        let network = network.map_or_else(|| service.vrf.clone(), |vrf| vrf.network.clone());
        why.service = Some(ServiceView {
            name: service.name.clone(),
            address: service.address,
            port: service.port,
            network: network.clone(),
            members: service.members.len(),
            inquiry: None,
            node: None,
        });
        if !self.may_use(service) {
            why.summary = format!(
                "network {} may not use the services of {network}: no network policy joins them",
                self.vrf.network
            );
            return;
        }
        let staying = service.members.iter().any(|member| !member.draining);
        let own = self.source.host.as_deref().unwrap_or_default();
        let chosen = service.members.iter().filter(|member| {
            (!member.draining || !staying) && (!service.internal_local || member.node == own)
        });
        if let Some(view) = &mut why.service {
            view.inquiry = self.look_at_service(service, chosen.clone());
        }
        for member in chosen {
            let interface = member.interface.and_then(|uuid| self.core.interface(uuid));
            let (address, port) = (member.address, member.port);
            let target = Target { address, port, interface, vrf: &service.vrf };
            if let Ok(way) = self.way(&target) {
                why.ways.push(way);
            }
        }
    }

    /// The port that has an address, the source's own network first.
    fn owner_of(&self, address: IpAddr) -> Option<&'a Arc<Interface>> {
        let mut all: Vec<_> = self
            .core
            .engine()
            .interfaces()
            .filter(|port| port.addresses.iter().any(|own| own.prefix.addr() == address))
            .collect();
        let reached = |port: &Interface| self.joined(port).is_ok();
        all.sort_by_key(|port| (port.network != self.source.network, !reached(port), port.uuid));
        all.first().copied()
    }

    /// An address of the target in a family that both have.
    fn common_address(&self, target: &Interface) -> Result<IpAddr, Refusal> {
        let families = |port: &Interface| -> Vec<bool> {
            port.addresses.iter().map(|a| a.prefix.addr().is_ipv4()).collect()
        };
        let own = families(self.source);
        let wanted = self.connection.family.map(|family| family == 4);
        let mut addresses = target.addresses.iter().map(|address| address.prefix.addr());
        let found = addresses.find(|address| {
            own.contains(&address.is_ipv4()) && wanted.is_none_or(|v4| v4 == address.is_ipv4())
        });
        found.ok_or_else(|| {
            Refusal::Wrong(format!(
                "{} and {} have no addresses of one family",
                self.source.name, target.name
            ))
        })
    }

    /// Whether routes of a port's network and of the source's lead to each other.
    fn joined(&self, port: &Interface) -> Result<(), String> {
        if port.network == self.source.network {
            return Ok(());
        }
        let Some(other) = self.core.engine().vrf(port.network) else {
            return Err("its network has no VRF".into());
        };
        let (here, there) = (&self.vrf.network, &other.network);
        match (
            self.vrf.import.is_disjoint(&other.export),
            other.import.is_disjoint(&self.vrf.export),
        ) {
            (false, false) => Ok(()),
            (true, true) => Err(format!(
                "networks {here} and {there} are not joined: no network policy at both and no common \
                 route target"
            )),
            (true, false) => Err(format!("{here} imports no route target that {there} exports")),
            (false, true) => Err(format!("{there} imports no route target that {here} exports")),
        }
    }

    /// The longest route to an address, with what its path tells of the other end.
    fn route(&self, target: &Target<'_>) -> (Route, Option<Attributes>) {
        let rib = self.core.rib();
        let best =
            self.longest(target).and_then(|prefix| rib.best(target.vrf, prefix).into_iter().next());
        if let Some((_, path)) = best {
            let attributes = Attributes {
                network: path.network,
                security_groups: path.security_groups.clone(),
                tags: path.tags.clone(),
            };
            let text = format!("a route in {} to node {}", target.vrf, path.next_hop);
            return (Route { there: true, text }, Some(attributes));
        }
        let outside = target.interface.is_none();
        if outside && (self.vrf.fabric_snat || target.vrf != self.vrf.name || self.source.is_host) {
            let text = "outside the fabric, from the node's own address".to_owned();
            return (Route { there: true, text }, None);
        }
        let text = match target.interface {
            Some(port) => self.joined(port).map_or_else(
                |reason| reason,
                |()| match &port.host {
                    Some(node) => {
                        format!("node {node} has not announced it; is its agent connected?")
                    }
                    None => "no node has announced it".into(),
                },
            ),
            None => {
                format!("{} has no route to it, and no way outside (SNAT is off)", self.vrf.network)
            }
        };
        (Route { there: false, text }, None)
    }

    fn way(&self, target: &Target<'_>) -> Result<Way, Refusal> {
        let own = self.source.addresses.iter().map(|address| address.prefix.addr());
        let same = |address: &IpAddr| address.is_ipv4() == target.address.is_ipv4();
        let Some(own) = own.into_iter().find(same) else {
            return Err(Refusal::Wrong(format!(
                "{} has no address of the family of {}",
                self.source.name, target.address
            )));
        };
        let (route, told) = self.route(target);
        let remote = told
            .or_else(|| target.interface.map(|port| port.attributes.clone()))
            .unwrap_or_default();
        let destination_port = match self.connection.protocol {
            1 => ECHO,
            58 => ECHO_V6,
            _ => target.port,
        };
        let source_port =
            if matches!(self.connection.protocol, 6 | 17 | 132) { SOURCE_PORT } else { 0 };
        let packet = |local, remote| Packet {
            local,
            remote,
            protocol: self.connection.protocol,
            source_port,
            destination_port,
        };
        let policy = self.source.policy.as_ref().map(|set| &set.policy);
        let egress = self.judge(policy, Direction::Egress, &remote, &packet(own, target.address));
        let ingress = target.interface.map(|port| {
            let set = if port.vrf == target.vrf || target.vrf == self.vrf.name {
                port.policy.as_ref()
            } else {
                // A member of a service in another network is judged as it stands there.
                let there =
                    port.contexts.iter().find(|c| c.vrf == target.vrf && c.floating.is_none());
                there.map_or(port.policy.as_ref(), |context| context.policy.as_ref())
            };
            let policy = set.map(|set| &set.policy);
            if self.source.is_host && self.source.host == port.host {
                return VerdictView::passed("the node's own host always reaches its workloads");
            }
            self.judge(
                policy,
                Direction::Ingress,
                &self.source.attributes,
                &packet(target.address, own),
            )
        });
        let mut way = Way {
            passes: route.there
                && egress.pass
                && ingress.as_ref().is_none_or(|verdict| verdict.pass),
            summary: String::new(),
            address: target.address,
            port: target.port,
            to: target.interface.map(|port| find::view(self.core, port)),
            route,
            egress: Some(egress),
            ingress,
            inquiries: Vec::new(),
            nodes: Vec::new(),
        };
        way.inquiries = self.look_at_way(&way, target, &packet(own, target.address));
        way.summary = summary(&way);
        Ok(way)
    }

    fn longest(&self, target: &Target<'_>) -> Option<&'a IpNet> {
        let prefixes = self.core.rib().prefixes(target.vrf);
        let holding = prefixes.filter(|prefix| prefix.contains(&target.address));
        holding.max_by_key(|prefix| prefix.prefix_len())
    }

    fn judge(
        &self,
        policy: Option<&Policy>,
        direction: Direction,
        remote: &Attributes,
        packet: &Packet,
    ) -> VerdictView {
        let Some(policy) = policy else {
            return VerdictView { unchecked: true, ..VerdictView::passed("no policy is in force") };
        };
        let verdict = evaluate(policy, direction, remote, packet);
        let staged = evaluate_staged(policy, direction, remote, packet)
            .filter(|staged| staged.pass != verdict.pass)
            .map(|staged| if staged.pass { "pass" } else { "deny" });
        let layer = verdict.layer.and_then(|index| policy.layers.get(index));
        VerdictView {
            pass: verdict.pass,
            unchecked: policy.layers.is_empty(),
            layer: layer.map(|layer| layer.name.clone()),
            author: verdict.rule.map(|id| self.names.author(id)),
            staged,
        }
    }
}

impl VerdictView {
    fn passed(reason: &str) -> VerdictView {
        let author = Author { rule: reason.to_owned(), ..Author::default() };
        VerdictView {
            pass: true,
            unchecked: false,
            layer: None,
            author: Some(author),
            staged: None,
        }
    }

    /// Who decided.
    fn by(&self) -> String {
        match &self.author {
            Some(Author { owner: Some(owner), .. }) => match &owner.namespace {
                Some(namespace) => format!("{} {namespace}/{}", owner.kind, owner.name),
                None => format!("{} {}", owner.kind, owner.name),
            },
            Some(Author { policy: Some(policy), .. }) => format!("policy {policy}"),
            Some(author) => author.rule.clone(),
            None => format!("no rule of the layer {}", self.layer.as_deref().unwrap_or("?")),
        }
    }
}

fn summary(way: &Way) -> String {
    let denied =
        |verdict: &Option<VerdictView>| verdict.as_ref().filter(|v| !v.pass).map(VerdictView::by);
    if !way.route.there {
        return format!("does not pass: {}", way.route.text);
    }
    if let Some(by) = denied(&way.egress) {
        return format!("denied where it leaves, by {by}");
    }
    if let Some(by) = denied(&way.ingress) {
        return format!("denied where it arrives, by {by}");
    }
    "passes".to_owned()
}
