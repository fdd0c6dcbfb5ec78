//! Controller messages in typed form. What does not parse is left out and reported, never guessed.

use super::tables::{FloatingDirection, FloatingEntry};
use ipnet::IpNet;
use skein_policy::{Attributes, Layer, Peer, Policy, Rule, RuleAction};
use skein_proto::session as wire;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// IP protocol number that stands for all of them on the wire.
const ANY_PROTOCOL: u32 = 256;

/// What a port's routes have unless it wants otherwise.
const DEFAULT_LOCAL_PREFERENCE: u32 = 100;

/// One way to reach a prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathSpec {
    /// Tunnel address of the node that has the workload.
    pub next_hop: IpAddr,
    /// MPLS label, or VNI.
    pub label: u32,
    /// Encapsulations the far end can receive, wire numbers.
    pub encapsulations: Vec<i32>,
    /// The prefix is one of the underlay.
    pub native: bool,
    /// Who lives behind the prefix.
    pub attributes: Attributes,
    /// Higher is better.
    pub local_preference: u32,
    /// Name of the node.
    pub node: Arc<str>,
    /// For display.
    pub route_distinguisher: Arc<str>,
}

impl PathSpec {
    pub(crate) fn read(path: &wire::Path) -> Result<Self, String> {
        let next_hop =
            path.next_hop.parse().map_err(|_| format!("next hop `{}`", path.next_hop))?;
        let sorted = |ids: &[u32]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        Ok(Self {
            next_hop,
            label: path.label,
            encapsulations: path.encapsulations.clone(),
            native: path.native,
            attributes: Attributes {
                network: path.network_id,
                security_groups: sorted(&path.security_groups),
                tags: sorted(&path.tags),
            },
            local_preference: path.local_preference,
            node: path.node.as_str().into(),
            route_distinguisher: path.route_distinguisher.as_str().into(),
        })
    }

    pub(crate) fn write(&self) -> wire::Path {
        wire::Path {
            next_hop: self.next_hop.to_string(),
            node: self.node.to_string(),
            label: self.label,
            encapsulations: self.encapsulations.clone(),
            native: self.native,
            network_id: self.attributes.network,
            security_groups: self.attributes.security_groups.clone(),
            tags: self.attributes.tags.clone(),
            local_preference: self.local_preference,
            route_distinguisher: self.route_distinguisher.to_string(),
        }
    }
}

/// A port as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// virtual-machine-interface.
    pub uuid: Uuid,
    /// fq_name joined by ':'.
    pub name: String,
    /// Routing instance.
    pub vrf: String,
    /// MAC of the workload.
    pub mac: [u8; 6],
    /// Addresses with the subnets' lengths, each with its gateway.
    pub addresses: Vec<(IpNet, Option<IpAddr>)>,
    /// Policy set; `None`: no policy state, everything drops.
    pub policy: Option<String>,
    /// Forward without policy and flows.
    pub policy_disabled: bool,
    /// Who this port is to others.
    pub attributes: Attributes,
    /// Flow quota, 0 for the default.
    pub max_flows: u32,
    /// Higher is better, of several ports with one address.
    pub local_preference: u32,
    /// Switched off by its owner.
    pub admin_down: bool,
    /// Further VRFs in which it can be reached.
    pub contexts: Vec<ContextSpec>,
    /// It is the node's own stack.
    pub host: bool,
    /// What the node's own stack reaches through it.
    pub host_prefixes: Vec<IpNet>,
    /// The port whose device it shares, and its 802.1Q tag there.
    pub parent: Option<(Uuid, u16)>,
    /// Ports that share its device.
    pub sub_interfaces: BTreeSet<Uuid>,
    /// What the node's own stack reaches by its uplink.
    pub underlay_prefixes: Vec<IpNet>,
}

/// A port in another VRF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextSpec {
    /// Routing instance.
    pub vrf: String,
    /// Policy set; `None`: no policy state, everything drops.
    pub policy: Option<String>,
    /// Network it is seen to be of.
    pub network: u32,
    /// `None`: reached by its own addresses.
    pub floating: Option<FloatingEntry>,
    /// The floating address is one of the underlay, and this port's alone.
    pub underlay: bool,
}

impl ContextSpec {
    /// A name of its own among all contexts of all ports, which does not change: labels are kept by it.
    pub(crate) fn id(&self, port: Uuid) -> Uuid {
        let address = self.floating.as_ref().map(|floating| floating.address.to_string());
        let name = format!("{}|{}", self.vrf, address.unwrap_or_default());
        Uuid::new_v5(&port, name.as_bytes())
    }

    fn read(context: &wire::Context) -> Result<Self, String> {
        let address = |text: &str| -> Result<IpAddr, String> {
            text.parse().map_err(|_| format!("address `{text}`"))
        };
        let port = |number: u32| u16::try_from(number).map_err(|_| format!("port {number}"));
        let mut ports = BTreeSet::new();
        for mapping in &context.port_mappings {
            let protocol = u8::try_from(mapping.protocol)
                .map_err(|_| format!("protocol {}", mapping.protocol))?;
            ports.insert((protocol, port(mapping.floating_port)?, port(mapping.fixed_port)?));
        }
        let floating = if context.floating_address.is_empty() {
            None
        } else {
            Some(FloatingEntry {
                address: address(&context.floating_address)?,
                fixed: address(&context.fixed_address)?,
                direction: match wire::FloatingDirection::try_from(context.direction) {
                    Ok(wire::FloatingDirection::Both) => FloatingDirection::Both,
                    Ok(wire::FloatingDirection::Ingress) => FloatingDirection::Ingress,
                    Ok(wire::FloatingDirection::Egress) => FloatingDirection::Egress,
                    Err(_) => return Err(format!("direction {}", context.direction)),
                },
                ports,
            })
        };
        if floating.as_ref().is_some_and(|f| f.address.is_ipv4() != f.fixed.is_ipv4()) {
            return Err(format!("floating address {} of another family", context.floating_address));
        }
        Ok(Self {
            vrf: context.vrf.clone(),
            policy: (!context.policy.is_empty()).then(|| context.policy.clone()),
            network: context.network_id,
            floating,
            underlay: context.underlay,
        })
    }
}

/// A service as the configuration has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// For people.
    pub name: String,
    /// Routing instance where its address lives.
    pub vrf: String,
    /// Where it is reached.
    pub address: IpAddr,
    /// 6, 17 or 132.
    pub protocol: u8,
    /// Where it is reached.
    pub port: u16,
    /// Who serves.
    pub members: Vec<MemberSpec>,
    /// 0: no affinity.
    pub affinity_seconds: u32,
    /// Clients in the fabric get members of this node only.
    pub internal_local: bool,
    /// On the node's own addresses; 0: none.
    pub node_port: u16,
    /// Clients from outside get members of this node only, and are seen by their own address.
    pub external_local: bool,
    /// Clients from outside reach its address.
    pub external: bool,
    /// Its address is one of the underlay.
    pub announced: bool,
    /// Clients from outside must be in one of these.
    pub sources: BTreeSet<IpNet>,
    /// HTTP port that tells whether this node has members; 0: none.
    pub health_check_port: u16,
    /// A port of this node, at its addresses; empty: a service.
    pub node: String,
    /// Which members to prefer.
    pub distribution: wire::Distribution,
}

impl ServiceSpec {
    /// Whether clients outside the fabric come to members of this node with their own addresses.
    pub(crate) fn shows_clients(&self) -> bool {
        let entered = self.external || self.node_port != 0;
        !self.node.is_empty() || (entered && self.external_local)
    }
}

/// Who serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSpec {
    /// Its own address.
    pub address: IpAddr,
    /// Its own port.
    pub port: u16,
    /// It is a workload of the fabric.
    pub in_fabric: bool,
    /// Its node.
    pub node: String,
    /// On its way out.
    pub draining: bool,
    /// The zone of its node.
    pub zone: String,
    /// Zones whose clients should use it.
    pub hint_zones: Vec<String>,
    /// Nodes whose clients should use it.
    pub hint_nodes: Vec<String>,
}

impl ServiceSpec {
    pub(crate) fn read(service: &wire::Service) -> Result<Self, String> {
        let address = |text: &str| -> Result<IpAddr, String> {
            text.parse().map_err(|_| format!("address `{text}`"))
        };
        let port = |number: u32| u16::try_from(number).map_err(|_| format!("port {number}"));
        let own = address(&service.address)?;
        let protocol = match service.protocol {
            6 => 6,
            17 => 17,
            132 => 132,
            other => return Err(format!("protocol {other}")),
        };
        let members = service.members.iter().map(|member| {
            Ok(MemberSpec {
                address: address(&member.address)?,
                port: port(member.port)?,
                in_fabric: !member.interface.is_empty(),
                node: member.node.clone(),
                draining: member.draining,
                zone: member.zone.clone(),
                hint_zones: member.hint_zones.clone(),
                hint_nodes: member.hint_nodes.clone(),
            })
        });
        let members = members.collect::<Result<Vec<_>, String>>()?;
        if let Some(odd) = members.iter().find(|m| m.address.is_ipv4() != own.is_ipv4()) {
            return Err(format!("member {} is of another family", odd.address));
        }
        let sources = service.source_prefixes.iter().map(|text| {
            text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| format!("prefix `{text}`"))
        });
        Ok(Self {
            name: service.name.clone(),
            vrf: service.vrf.clone(),
            address: own,
            protocol,
            port: port(service.port)?,
            members,
            affinity_seconds: service.affinity_seconds,
            internal_local: service.internal_local,
            node_port: port(service.node_port)?,
            external_local: service.external_local,
            external: service.external,
            announced: service.announced,
            sources: sources.collect::<Result<_, String>>()?,
            health_check_port: port(service.health_check_port)?,
            node: service.node.clone(),
            // A newer controller may know more of them: preferring nobody is always right.
            distribution: service.distribution(),
        })
    }
}

impl InterfaceSpec {
    pub(crate) fn read(interface: &wire::Interface) -> Result<Self, String> {
        let uuid = interface.uuid.parse().map_err(|_| format!("uuid `{}`", interface.uuid))?;
        let mac = read_mac(&interface.mac).ok_or_else(|| format!("MAC `{}`", interface.mac))?;
        let mut addresses = Vec::new();
        for address in &interface.addresses {
            let prefix =
                address.prefix.parse().map_err(|_| format!("address `{}`", address.prefix))?;
            let gateway = match address.gateway.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| format!("gateway `{text}`"))?),
            };
            addresses.push((prefix, gateway));
        }
        let sorted = |ids: &[u32]| {
            let mut ids = ids.to_vec();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        let port = |text: &str| text.parse::<Uuid>().map_err(|_| format!("port `{text}`"));
        let parent = match interface.parent.as_str() {
            "" => None,
            text => Some((port(text)?, read_tag(interface.vlan)?)),
        };
        Ok(Self {
            uuid,
            parent,
            sub_interfaces: interface
                .sub_interfaces
                .iter()
                .map(|text| port(text))
                .collect::<Result<_, String>>()?,
            name: interface.name.clone(),
            vrf: interface.vrf.clone(),
            mac,
            addresses,
            policy: (!interface.policy.is_empty()).then(|| interface.policy.clone()),
            policy_disabled: interface.policy_disabled,
            attributes: Attributes {
                network: interface.network_id,
                security_groups: sorted(&interface.security_groups),
                tags: sorted(&interface.tags),
            },
            max_flows: interface.max_flows,
            // A controller older than this agent says nothing.
            local_preference: match interface.local_preference {
                0 => DEFAULT_LOCAL_PREFERENCE,
                wanted => wanted,
            },
            admin_down: interface.admin_down,
            contexts: interface
                .contexts
                .iter()
                .map(ContextSpec::read)
                .collect::<Result<_, String>>()?,
            host: interface.host,
            host_prefixes: prefixes(&interface.host_prefixes)?,
            underlay_prefixes: prefixes(&interface.underlay_prefixes)?,
        })
    }
}

fn read_tag(vlan: u32) -> Result<u16, String> {
    let tag = u16::try_from(vlan).ok().filter(|tag| (1..=4094).contains(tag));
    tag.ok_or_else(|| format!("VLAN {vlan}"))
}

/// Prefixes of a list.
pub(crate) fn prefixes(texts: &[String]) -> Result<Vec<IpNet>, String> {
    texts.iter().map(|text| text.parse().map_err(|_| format!("prefix `{text}`"))).collect()
}

/// Six bytes from `aa:bb:cc:dd:ee:ff`.
pub(crate) fn read_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next().filter(|part| part.len() == 2)?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

/// Reads a policy set. One unreadable rule makes the whole set unreadable: leaving out a rule could
/// open what it closes, so its interfaces fail closed.
pub(crate) fn read_policy(set: &wire::PolicySet) -> Result<Policy, String> {
    let layer = |layer: &wire::PolicyLayer| {
        Ok(Layer {
            name: layer.name.clone(),
            egress: layer.egress.iter().map(read_rule).collect::<Result<_, String>>()?,
            ingress: layer.ingress.iter().map(read_rule).collect::<Result<_, String>>()?,
            default_pass: layer.default_pass,
        })
    };
    let read = |layers: &[wire::PolicyLayer]| {
        layers.iter().map(layer).collect::<Result<Vec<Layer>, String>>()
    };
    Ok(Policy { layers: read(&set.layers)?, staged: read(&set.staged)? })
}

fn read_rule(rule: &wire::PolicyRule) -> Result<Rule, String> {
    let wrong = |what: String| format!("rule {}: {what}", rule.id);
    let ports = |ranges: &[wire::PortRange]| {
        ranges
            .iter()
            .map(|range| match (u16::try_from(range.first), u16::try_from(range.last)) {
                (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
                _ => Err(wrong(format!("port range {}-{}", range.first, range.last))),
            })
            .collect::<Result<Vec<_>, String>>()
    };
    let prefix = |text: &str| text.parse::<IpNet>().map_err(|_| wrong(format!("prefix `{text}`")));
    let all =
        |list: &[String]| list.iter().map(|text| prefix(text)).collect::<Result<Vec<_>, String>>();
    let remotes = rule.remotes.iter().map(|remote| match &remote.peer {
        Some(wire::policy_peer::Peer::NetworkId(id)) => Ok(Peer::Network(*id)),
        Some(wire::policy_peer::Peer::SecurityGroup(id)) => Ok(Peer::SecurityGroup(*id)),
        Some(wire::policy_peer::Peer::Prefix(text)) => Ok(Peer::Prefix(prefix(text)?)),
        Some(wire::policy_peer::Peer::PrefixExcept(p)) => {
            Ok(Peer::PrefixExcept(prefix(&p.prefix)?, all(&p.except)?))
        }
        Some(wire::policy_peer::Peer::Tags(tags)) => Ok(Peer::Tags(tags.ids.clone())),
        None => Err(wrong("an empty remote".into())),
    });
    Ok(Rule {
        id: rule.id.parse().map_err(|_| wrong("its id is no uuid".into()))?,
        action: if rule.skip { RuleAction::Skip } else { rule.pass.into() },
        tier: rule.tier,
        remotes: remotes.collect::<Result<_, String>>()?,
        remote_tags: rule.remote_tags.clone(),
        local_prefixes: all(&rule.local_prefixes)?,
        family: match rule.family {
            0 => None,
            4 => Some(4),
            6 => Some(6),
            other => return Err(wrong(format!("family {other}"))),
        },
        protocol: match rule.protocol {
            ANY_PROTOCOL => None,
            number => Some(u8::try_from(number).map_err(|_| wrong(format!("protocol {number}")))?),
        },
        source_ports: ports(&rule.source_ports)?,
        destination_ports: ports(&rule.destination_ports)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_keeps_tiers_holes_and_what_is_staged() {
        let hole = wire::PrefixExcept {
            prefix: "10.0.0.0/8".into(),
            except: vec!["10.1.0.0/16".into(), "10.2.0.0/16".into()],
        };
        let rule = wire::PolicyRule {
            id: uuid::Uuid::from_u128(7).to_string(),
            protocol: ANY_PROTOCOL,
            pass: true,
            skip: true,
            tier: 3,
            remote_tags: vec![9],
            remotes: vec![wire::PolicyPeer {
                peer: Some(wire::policy_peer::Peer::PrefixExcept(hole.clone())),
            }],
            ..wire::PolicyRule::default()
        };
        let layer = |rule| wire::PolicyLayer { egress: vec![rule], ..wire::PolicyLayer::default() };
        let set = |rule: wire::PolicyRule| wire::PolicySet {
            staged: vec![layer(wire::PolicyRule { skip: false, ..rule.clone() })],
            layers: vec![layer(rule)],
            ..wire::PolicySet::default()
        };
        let policy = read_policy(&set(rule.clone())).expect("a readable policy");
        let read = &policy.layers[0].egress[0];
        assert_eq!((read.action, read.tier), (RuleAction::Skip, 3));
        assert_eq!(read.remote_tags, [9]);
        let prefix = |text: &str| text.parse::<IpNet>().expect("a prefix");
        let except = vec![prefix("10.1.0.0/16"), prefix("10.2.0.0/16")];
        assert_eq!(read.remotes, [Peer::PrefixExcept(prefix("10.0.0.0/8"), except)]);
        assert_eq!(policy.staged[0].egress[0].action, RuleAction::Pass);

        let broken = wire::PrefixExcept { except: vec!["10.1".into()], ..hole };
        let peer = wire::policy_peer::Peer::PrefixExcept(broken);
        let remotes = vec![wire::PolicyPeer { peer: Some(peer) }];
        assert!(read_policy(&set(wire::PolicyRule { remotes, ..rule })).is_err());
    }
}
