//! What the node has in force for a connection, as controllers ask it.

use crate::node::Node;
use crate::state::{InterfaceEntry, NextHop, PolicyState};
use skein_datapath::{Question, VifPolicy};
use skein_policy::Direction;
use skein_proto::session::{Look, Looked};
use std::net::IpAddr;

/// Answers from the kernel's tables; the problem says why there is nothing to tell.
pub(crate) fn look(node: &Node, look: &Look) -> Looked {
    let mut looked = Looked { id: look.id, ..Looked::default() };
    if let Err(problem) = fill(node, look, &mut looked) {
        looked.problem = problem;
    }
    looked
}

fn fill(node: &Node, look: &Look, looked: &mut Looked) -> Result<(), String> {
    let uuid = look.interface.parse().map_err(|_| format!("no uuid: {:?}", look.interface))?;
    if let Some(problem) = node.core.port_problem(uuid) {
        return Err(problem.to_string());
    }
    let tables = node.core.in_force();
    let port = node
        .core
        .local_port(uuid)
        .and_then(|port| tables.interfaces.get(&port.ifindex).map(|entry| (port.ifindex, entry)));
    let (ifindex, entry) = port.ok_or("it is not on this node")?;
    let (vrf, policy) = judged(node, look, ifindex, entry)?;
    let address = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("no address: {text:?}"));
    let number = |number: u32| u16::try_from(number).map_err(|_| format!("no port: {number}"));
    let remote = address(&look.remote)?;
    let question = Question {
        ifindex,
        direction: if look.arriving { Direction::Ingress } else { Direction::Egress },
        local: address(&look.local)?,
        remote,
        protocol: u8::try_from(look.protocol).map_err(|_| "no protocol".to_owned())?,
        source_port: number(look.source_port)?,
        destination_port: number(look.destination_port)?,
    };
    let policy = match policy {
        PolicyState::Disabled => VifPolicy::Disabled,
        PolicyState::Missing => VifPolicy::Enforce { v4: None, v6: None },
        PolicyState::Loaded { v4, v6 } => VifPolicy::Enforce { v4: Some(v4), v6: Some(v6) },
    };
    let answer = node.kernel.datapath.look(vrf, &policy, &question);
    let answer = answer.map_err(|error| error.to_string())?;
    if let Some(reason) = answer.dropped {
        reason.name().clone_into(&mut looked.dropped);
    }
    let rule = answer.rule.and_then(|rule| node.core.decision(rule)?.rule);
    looked.rule = rule.map_or_else(String::new, |rule| rule.to_string());
    let Some((number, _)) = answer.next_hop else { return Ok(()) };
    let prefix = node.core.lookup(vrf, remote).map(|(prefix, _)| prefix.to_string());
    looked.prefix = prefix.unwrap_or_default();
    // The kernel was asked where the route leads; what the number means, the agent wrote there.
    let Some(next_hop) = tables.next_hops.get(&number) else { return Ok(()) };
    looked.via = next_hop.to_string();
    match next_hop {
        NextHop::Service { vrf } => {
            looked.service = true;
            let key = (*vrf, remote, question.protocol, question.destination_port);
            if let Some(service) = tables.services.get(&key) {
                let staying = service.members.iter().any(|(.., draining)| !draining);
                let chosen =
                    service.members.iter().filter(|(.., draining)| !(staying && *draining));
                looked.members =
                    chosen.map(|(address, port, _)| format!("{address} {port}")).collect();
                looked.served_here = service.open;
            }
        }
        NextHop::Ecmp { members } => {
            let members = members.iter().filter_map(|member| tables.next_hops.get(member));
            looked.next_hops = members.filter_map(|hop| whom(node, hop)).collect();
        }
        one => looked.next_hops = whom(node, one).into_iter().collect(),
    }
    Ok(())
}

/// The VRF in which the other end is looked up, and the policy that judges.
fn judged(
    node: &Node,
    look: &Look,
    ifindex: u32,
    entry: &InterfaceEntry,
) -> Result<(u32, PolicyState), String> {
    if look.vrf.is_empty() {
        return Ok((entry.vrf, entry.policy));
    }
    let names = node.core.vrf_names();
    let number = names.iter().find(|(_, name)| **name == look.vrf).map(|(number, _)| *number);
    let number = number.ok_or_else(|| format!("it does not have {}", look.vrf))?;
    if number == entry.vrf || !look.arriving {
        return Ok((number, entry.policy));
    }
    let mut contexts = node.core.in_force().contexts.values();
    let context = contexts
        .find(|c| c.ifindex == ifindex && c.vrf == number && c.floating.is_none())
        .ok_or_else(|| format!("the port is not present in {}", look.vrf))?;
    Ok((number, context.policy))
}

/// The node that a next hop leads to.
fn whom(node: &Node, next_hop: &NextHop) -> Option<String> {
    match next_hop {
        NextHop::Local { .. } => Some(node.underlay.tunnel_address.to_string()),
        NextHop::Tunnel { destination, .. } => Some(destination.to_string()),
        NextHop::Native { node } => node.map(|node| node.to_string()),
        _ => None,
    }
}
