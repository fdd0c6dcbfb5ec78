//! Controller messages in typed form. What does not parse is left out and reported, never guessed.

use ipnet::IpNet;
use skein_policy::{Attributes, Layer, Peer, Policy, Rule, RuleAction};
use skein_proto::session as wire;
use std::net::IpAddr;
use std::sync::Arc;
use uuid::Uuid;

/// IP protocol number that stands for all of them on the wire.
const ANY_PROTOCOL: u32 = 256;

/// One way to reach a prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathSpec {
    /// Tunnel address of the node that has the workload.
    pub next_hop: IpAddr,
    /// MPLS label, or VNI.
    pub label: u32,
    /// Encapsulations the far end can receive, wire numbers.
    pub encapsulations: Vec<i32>,
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
    /// Switched off by its owner.
    pub admin_down: bool,
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
        Ok(Self {
            uuid,
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
            admin_down: interface.admin_down,
        })
    }
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
    let layers = set.layers.iter().map(|layer| {
        Ok(Layer {
            name: layer.name.clone(),
            egress: layer.egress.iter().map(read_rule).collect::<Result<_, String>>()?,
            ingress: layer.ingress.iter().map(read_rule).collect::<Result<_, String>>()?,
            default_pass: layer.default_pass,
        })
    });
    Ok(Policy { layers: layers.collect::<Result<_, String>>()? })
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
