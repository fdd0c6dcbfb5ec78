//! A VLAN of a machine's interface, and a macvlan on top of it.

use crate::link::{
    AF_INET6, ContainerNamespace, IFLA_ADDRESS, IFLA_AF_SPEC, IFLA_IFNAME,
    IFLA_INET6_ADDR_GEN_MODE, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MTU,
    IFLA_NET_NS_FD, IN6_ADDR_GEN_MODE_NONE, Wanted, exchange, find, kernel, link_header,
};
use crate::netlink::{
    Batch, F_ACK, F_CREATE, F_DUMP, F_EXCL, Netlink, RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK,
    RTM_SETLINK, attributes, u16_at, u32_at,
};
use crate::{Code, Error};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;

const IFLA_LINK: u16 = 5;
const IFLA_IFALIAS: u16 = 20;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_MACVLAN_MODE: u16 = 1;
/// Frames to neighbours on the same VLAN leave the machine, too: the node decides about them.
const MACVLAN_MODE_VEPA: u32 = 2;
const ALIAS: &str = "skein-cni";

/// Whose an interface is, as its alias says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner<'a> {
    /// Network configuration.
    pub(crate) config: &'a str,
    pub(crate) container: &'a str,
}

impl Owner<'_> {
    fn alias(&self) -> String {
        format!("{ALIAS} {} {}", self.container, self.config)
    }
}

fn owner_of(alias: &str) -> Option<Owner<'_>> {
    let (container, config) = alias.strip_prefix(ALIAS)?.strip_prefix(' ')?.split_once(' ')?;
    Some(Owner { config, container })
}

/// What to make.
pub(crate) struct Plan<'a> {
    /// Index of the machine's interface.
    pub(crate) parent: u32,
    pub(crate) vlan: u16,
    pub(crate) macvlan: bool,
    pub(crate) owner: &'a Owner<'a>,
    pub(crate) wanted: &'a Wanted<'a>,
}

/// Makes the VLAN and what is on it; what an earlier sandbox left on the same VLAN goes.
pub(crate) fn make(
    machine: &mut Netlink,
    namespace: &ContainerNamespace,
    plan: &Plan<'_>,
) -> Result<(), Error> {
    if make_vlan(machine, namespace, plan)? == Made::Taken {
        clear(machine, plan)?;
        if make_vlan(machine, namespace, plan)? == Made::Taken {
            return Err(Error::new(
                Code::TryAgain,
                format!("VLAN {} is on another interface of the machine", plan.vlan),
                "an earlier sandbox of the pod is probably ending; else look for it with `ip -d link`",
            ));
        }
    }
    if plan.macvlan {
        return make_macvlan(machine, namespace, plan);
    }
    Ok(())
}

#[derive(PartialEq, Eq)]
enum Made {
    Now,
    Taken,
}

fn make_vlan(
    machine: &mut Netlink,
    namespace: &ContainerNamespace,
    plan: &Plan<'_>,
) -> Result<Made, Error> {
    let wanted = plan.wanted;
    let mut batch = Batch::default();
    let link = batch
        .message(RTM_NEWLINK, F_ACK | F_CREATE | F_EXCL, &link_header(0, false))
        .number(IFLA_LINK, plan.parent)
        .number(IFLA_MTU, wanted.mtu);
    link.text(IFLA_IFNAME, wanted.host_name);
    if !plan.macvlan {
        link.attribute(IFLA_ADDRESS, &wanted.mac);
    }
    link.nested(IFLA_LINKINFO, &[], |info| {
        info.text(IFLA_INFO_KIND, "vlan").nested(IFLA_INFO_DATA, &[], |data| {
            data.attribute(IFLA_VLAN_ID, &plan.vlan.to_ne_bytes());
        });
    });
    let what = format!("make VLAN {} of the machine's interface", plan.vlan);
    let outcomes = exchange(machine, &mut batch, &what)?;
    match &outcomes[0].result {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(Made::Taken),
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => {
            return Err(Error::new(
                Code::Kernel,
                format!("the machine's kernel knows no VLAN devices: {error}"),
                "load the module 8021q",
            ));
        }
        Err(error) => return Err(kernel(&what, error)),
    }
    if plan.macvlan {
        dress(machine, plan)?;
    } else {
        // Marked before it moves: what an ADD that is killed leaves here is known as ours by the next sandbox.
        if let Some(found) = find(machine, wanted.host_name)? {
            mark(machine, found.index, plan.owner)?;
        }
        move_into(machine, namespace, wanted.host_name, wanted.name)?;
    }
    Ok(Made::Now)
}

/// Moves a new interface to the container under its name there. It cannot be made with that name: the kernel looks for it
/// among the machine's own, which has an `eth0`, too.
fn move_into(
    machine: &mut Netlink,
    namespace: &ContainerNamespace,
    made: &str,
    name: &str,
) -> Result<(), Error> {
    let Some(found) = find(machine, made)? else {
        let message = format!("the interface {made} vanished");
        return Err(Error::new(Code::TryAgain, message, "repeat the call"));
    };
    let mut batch = Batch::default();
    batch
        .message(RTM_SETLINK, F_ACK, &link_header(found.index, false))
        .text(IFLA_IFNAME, name)
        .number(IFLA_NET_NS_FD, namespace.file.as_raw_fd().cast_unsigned());
    let what = format!("move {made} into the container");
    let outcome = exchange(machine, &mut batch, &what)?;
    outcome[0].result.as_ref().map_err(|error| kernel(&what, error)).copied()
}

/// Alias, no address of its own, up. A message that makes a link takes no alias before 5.17.
fn dress(machine: &mut Netlink, plan: &Plan<'_>) -> Result<(), Error> {
    let name = plan.wanted.host_name;
    let mut batch = Batch::default();
    batch
        .message(RTM_SETLINK, F_ACK, &link_header(0, false))
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_IFALIAS, plan.owner.alias().as_bytes());
    batch.message(RTM_SETLINK, F_ACK, &link_header(0, false)).text(IFLA_IFNAME, name).nested(
        IFLA_AF_SPEC,
        &[],
        |families| {
            families.nested(u16::from(AF_INET6), &[], |inet6| {
                inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        },
    );
    batch.message(RTM_SETLINK, F_ACK, &link_header(0, true)).text(IFLA_IFNAME, name);
    let what = "set the VLAN up";
    let outcomes = exchange(machine, &mut batch, what)?;
    // The one in the middle fails where the kernel has no IPv6; then there is nothing to switch off.
    for outcome in [&outcomes[0], &outcomes[2]] {
        outcome.result.as_ref().map_err(|error| kernel(what, error))?;
    }
    Ok(())
}

fn make_macvlan(
    machine: &mut Netlink,
    namespace: &ContainerNamespace,
    plan: &Plan<'_>,
) -> Result<(), Error> {
    let wanted = plan.wanted;
    let Some(vlan) = find(machine, wanted.host_name)? else {
        let message = format!("the interface {} vanished", wanted.host_name);
        return Err(Error::new(Code::TryAgain, message, "repeat the call"));
    };
    let made = format!("m{}", wanted.host_name.get(1..).unwrap_or_default());
    // What an ADD that was killed left.
    crate::link::delete(machine, &made)?;
    let mut batch = Batch::default();
    batch
        .message(RTM_NEWLINK, F_ACK | F_CREATE | F_EXCL, &link_header(0, false))
        .number(IFLA_LINK, vlan.index)
        .text(IFLA_IFNAME, &made)
        .number(IFLA_MTU, wanted.mtu)
        .attribute(IFLA_ADDRESS, &wanted.mac)
        .nested(IFLA_LINKINFO, &[], |info| {
            info.text(IFLA_INFO_KIND, "macvlan").nested(IFLA_INFO_DATA, &[], |data| {
                data.number(IFLA_MACVLAN_MODE, MACVLAN_MODE_VEPA);
            });
        });
    let what = "make the macvlan interface";
    let outcome = exchange(machine, &mut batch, what)?;
    outcome[0].result.as_ref().map_err(|error| kernel(what, error)).copied()?;
    move_into(machine, namespace, &made, wanted.name)
}

/// One of the machine's interfaces, as far as it matters here.
struct Seen {
    index: u32,
    parent: u32,
    vlan: Option<u16>,
    alias: String,
}

fn all(machine: &mut Netlink) -> Result<Vec<Seen>, Error> {
    let mut batch = Batch::default();
    batch.message(RTM_GETLINK, F_DUMP, &link_header(0, false));
    let outcomes = exchange(machine, &mut batch, "list interfaces")?;
    let answers = outcomes.iter().flat_map(|outcome| &outcome.answers);
    let links = answers.filter(|answer| answer.kind == RTM_NEWLINK).map(|answer| {
        let mut seen =
            Seen { index: u32_at(&answer.body, 4), parent: 0, vlan: None, alias: String::new() };
        for (kind, value) in attributes(&answer.body, 16) {
            match kind {
                IFLA_LINK => seen.parent = u32_at(value, 0),
                IFLA_IFALIAS => {
                    let text = value.strip_suffix(&[0]).unwrap_or(value);
                    seen.alias = String::from_utf8_lossy(text).into_owned();
                }
                IFLA_LINKINFO => seen.vlan = vlan_of(value),
                _ => {}
            }
        }
        seen
    });
    Ok(links.collect())
}

fn vlan_of(info: &[u8]) -> Option<u16> {
    let value = |wanted| attributes(info, 0).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let kind = value(IFLA_INFO_KIND)?;
    let data = value(IFLA_INFO_DATA)?;
    let id = attributes(data, 0).find(|(kind, _)| *kind == IFLA_VLAN_ID)?;
    kind.starts_with(b"vlan").then(|| u16_at(id.1, 0))
}

fn delete(machine: &mut Netlink, index: u32) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch.message(RTM_DELLINK, F_ACK, &link_header(index, false));
    let what = "remove an interface of a pod";
    match exchange(machine, &mut batch, what)?.into_iter().next().map(|outcome| outcome.result) {
        Some(Err(error)) if error.raw_os_error() != Some(nix::libc::ENODEV) => {
            Err(kernel(what, &error))
        }
        _ => Ok(()),
    }
}

/// What an earlier sandbox left: our VLAN with this tag. Others' stay, and are told of.
fn clear(machine: &mut Netlink, plan: &Plan<'_>) -> Result<(), Error> {
    for seen in all(machine)? {
        let same = seen.parent == plan.parent && seen.vlan == Some(plan.vlan);
        if same && owner_of(&seen.alias).is_some() {
            delete(machine, seen.index)?;
        }
    }
    // Or one half made, without an alias yet.
    crate::link::delete(machine, plan.wanted.host_name)
}

/// Removes our interfaces of some owners; with a VLAN go the macvlans on it. Goes on after an error and reports the first.
pub(crate) fn remove(machine: &mut Netlink, of: impl Fn(&Owner<'_>) -> bool) -> Result<(), Error> {
    let mut outcome = Ok(());
    for seen in all(machine)? {
        if owner_of(&seen.alias).is_some_and(|owner| of(&owner)) {
            outcome = outcome.and(delete(machine, seen.index));
        }
    }
    outcome
}

/// Marks an interface inside a pod as ours.
pub(crate) fn mark(container: &mut Netlink, index: u32, owner: &Owner<'_>) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch
        .message(RTM_SETLINK, F_ACK, &link_header(index, false))
        .attribute(IFLA_IFALIAS, owner.alias().as_bytes());
    let what = "mark the pod's interface";
    let outcome = exchange(container, &mut batch, what)?;
    outcome[0].result.as_ref().map_err(|error| kernel(what, error)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_says_whose_it_is() {
        let owner = Owner { config: "pods of a", container: "c1" };
        assert_eq!(owner_of(&owner.alias()), Some(owner));
        for other in ["", "skein-cni", "skein-cni c1", "contrail-k8s-cni-vlan-5", "skein-cnic1 a"] {
            assert_eq!(owner_of(other), None, "{other}");
        }
    }
}
