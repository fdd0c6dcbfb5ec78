//! The workload's veth pair: made with its far end already inside the container. Neither end can come up
//! in the message that makes it: a veth opens only when both exist.

use crate::netlink::{
    Batch, F_ACK, F_CREATE, F_DUMP, F_EXCL, F_REPLACE, Netlink, RTM_DELLINK, RTM_GETADDR,
    RTM_GETLINK, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_NEWROUTE, RTM_SETLINK,
    attributes, u32_at,
};
use crate::{Code, Error, source_route};
use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::Path;

/// The gateway's MAC on every node (spec: vrrp_mac of the original). The host end carries it so that
/// packets to the gateway are "to this host" for the kernel, too.
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x00, 0x00, 0x5e, 0x00, 0x01, 0x00];

pub(crate) const IFLA_ADDRESS: u16 = 1;
pub(crate) const IFLA_IFNAME: u16 = 3;
pub(crate) const IFLA_MTU: u16 = 4;
pub(crate) const IFLA_LINKINFO: u16 = 18;
pub(crate) const IFLA_AF_SPEC: u16 = 26;
pub(crate) const IFLA_NET_NS_FD: u16 = 28;
const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
pub(crate) const IFLA_INFO_KIND: u16 = 1;
pub(crate) const IFLA_INFO_DATA: u16 = 2;
pub(crate) const VETH_INFO_PEER: u16 = 1;
pub(crate) const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
pub(crate) const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
pub(crate) const IFA_ADDRESS: u16 = 1;
pub(crate) const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const IFA_F_PERMANENT: u32 = 0x80;
pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_OIF: u16 = 4;
pub(crate) const RTA_GATEWAY: u16 = 5;
/// `RTNH_F_ONLINK`: the gateway is there, whatever the addresses say.
pub(crate) const ONLINK: u32 = 4;
pub(crate) const NUD_PERMANENT: u16 = 0x80;
pub(crate) const NDA_DST: u16 = 1;
pub(crate) const NDA_LLADDR: u16 = 2;
const IFF_UP: u32 = 1;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
pub(crate) const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
pub(crate) const RTN_UNICAST: u8 = 1;

/// Name of the host end: the same for every call about one container interface, with or without an
/// agent to ask. 48 bits of FNV-1a are enough for the few hundred interfaces of a node.
#[must_use]
pub fn host_interface_name(container: &str, interface: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in container.bytes().chain([0]).chain(interface.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("sk{:012x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff)
}

/// Six bytes from `aa:bb:cc:dd:ee:ff`.
pub(crate) fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

fn format_mac(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

/// What the kernel says of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) index: u32,
    pub(crate) mac: String,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// What to make.
pub(crate) struct Wanted<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) name: &'a str,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) super_packet: u32,
    /// Each with its subnet's gateway.
    pub(crate) addresses: Vec<(IpNet, Option<IpAddr>)>,
    pub(crate) gateways: Vec<IpAddr>,
    /// The workload has other interfaces.
    pub(crate) several: bool,
}

/// The container's network namespace, locked against other calls about the same container.
pub(crate) struct ContainerNamespace {
    pub(crate) file: Flock<File>,
}

impl ContainerNamespace {
    /// Opens and locks the namespace; `None` when it does not exist any more.
    pub(crate) fn open(path: &Path) -> Result<Option<Self>, Error> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(Error::io(&format!("open the namespace {}", path.display()), &error));
            }
        };
        // Locking the namespace itself leaves no lock file behind.
        let file = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| Error::io("lock the container's namespace", &error.into()))?;
        Ok(Some(Self { file }))
    }

    /// Switches this process into the namespace and opens a socket there. The plugin never needs to
    /// come back: sockets of the host were opened before.
    pub(crate) fn enter(&self) -> Result<Netlink, Error> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET).map_err(|error| {
            Error::new(
                Code::UnknownContainer,
                format!("cannot enter the container's network namespace: {error}"),
                "CNI_NETNS must be a network namespace, and the plugin needs CAP_SYS_ADMIN",
            )
        })?;
        open_netlink()
    }
}

pub(crate) fn open_netlink() -> Result<Netlink, Error> {
    Netlink::open().map_err(|error| Error::io("open a netlink socket", &error))
}

/// What every kernel allows: nothing to set.
const DEFAULT_SUPER_PACKET: u32 = 65_536;

/// Lets TCP over IPv4 hand over super-packets of this size. In the message that makes the device: kernels before 6.3 pass
/// over the attribute there.
fn widen(link: &mut Batch, super_packet: u32) {
    if super_packet > DEFAULT_SUPER_PACKET {
        link.number(IFLA_GSO_IPV4_MAX_SIZE, super_packet);
    }
}

/// Makes the pair. `Ok(false)` when the host end's name is taken.
pub(crate) fn create(
    host: &mut Netlink,
    namespace: &ContainerNamespace,
    wanted: &Wanted<'_>,
) -> Result<bool, Error> {
    let mut batch = Batch::default();
    let descriptor = namespace.file.as_raw_fd().cast_unsigned();
    let pair = batch
        .message(RTM_NEWLINK, F_ACK | F_CREATE | F_EXCL, &link_header(0, false))
        .text(IFLA_IFNAME, wanted.host_name)
        .number(IFLA_MTU, wanted.mtu)
        .attribute(IFLA_ADDRESS, &GATEWAY_MAC);
    widen(pair, wanted.super_packet);
    pair.nested(IFLA_LINKINFO, &[], |info| {
        info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, &[], |data| {
            data.nested(VETH_INFO_PEER, &link_header(0, false), |peer| {
                peer.text(IFLA_IFNAME, wanted.name)
                    .number(IFLA_MTU, wanted.mtu)
                    .attribute(IFLA_ADDRESS, &wanted.mac)
                    .number(IFLA_NET_NS_FD, descriptor);
                widen(peer, wanted.super_packet);
            });
        });
    });
    // No IPv6 link-local address on the host end: the host is no neighbour of the workload.
    batch
        .message(RTM_SETLINK, F_ACK, &link_header(0, false))
        .text(IFLA_IFNAME, wanted.host_name)
        .nested(IFLA_AF_SPEC, &[], |families| {
            families.nested(u16::from(AF_INET6), &[], |inet6| {
                inet6.attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
            });
        });
    batch.message(RTM_SETLINK, F_ACK, &link_header(0, true)).text(IFLA_IFNAME, wanted.host_name);
    let outcomes = exchange(host, &mut batch, "make the veth pair")?;
    match &outcomes[0].result {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(kernel("make the veth pair", error)),
    }
    // Outcome 1 fails where the kernel has no IPv6; then there is nothing to switch off.
    outcomes[2].result.as_ref().map_err(|error| kernel("set the host interface up", error))?;
    Ok(true)
}

/// Sets the container's interface up and gives it its addresses and routes; may be repeated.
pub(crate) fn configure(
    container: &mut Netlink,
    index: u32,
    wanted: &Wanted<'_>,
) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch.message(RTM_SETLINK, F_ACK, &link_header(index, true));
    let mut what = vec!["set the container's interface up".to_owned()];
    let own = |gateway: IpAddr| wanted.addresses.iter().any(|(prefix, _)| prefix.addr() == gateway);
    for (address, gateway) in &wanted.addresses {
        let (family, bytes) = address_bytes(address.addr());
        let header = [&[family, address.prefix_len(), 0, 0][..], &index.to_ne_bytes()].concat();
        let gateway = gateway.filter(|gateway| !own(*gateway));
        let flags = if gateway.is_some() { IFA_F_NOPREFIXROUTE } else { 0 };
        batch
            .message(RTM_NEWADDR, F_ACK | F_CREATE | F_REPLACE, &header)
            .attribute(IFA_LOCAL, &bytes)
            .attribute(IFA_ADDRESS, &bytes)
            // The allocator has made sure of uniqueness; a second of silence would be the price of asking.
            .number(IFA_FLAGS, IFA_F_NODAD | IFA_F_PERMANENT | flags);
        what.push(format!("add the address {address}"));
        if let Some(gateway) = gateway {
            by_gateway(&mut batch, &mut what, index, address, gateway);
        }
    }
    let mut rules = Vec::new();
    for (address, gateway) in &wanted.addresses {
        let address = address.addr();
        let default = wanted.gateways.iter().any(|gateway| gateway.is_ipv4() == address.is_ipv4());
        // Others' subnets go before the default route.
        let wanted = wanted.several || !default;
        if let Some(gateway) = gateway.filter(|gateway| wanted && !own(*gateway)) {
            source_route::add(&mut batch, index, address, gateway);
            what.push(format!("add the route of {address}"));
            rules.push(what.len());
            what.push(format!("add the rule for {address}"));
        }
    }
    for gateway in &wanted.gateways {
        let (family, bytes) = address_bytes(*gateway);
        let mut header =
            [family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0];
        header[8..].copy_from_slice(&ONLINK.to_ne_bytes());
        batch
            .message(RTM_NEWROUTE, F_ACK | F_CREATE | F_REPLACE, &header)
            .attribute(RTA_GATEWAY, &bytes)
            .number(RTA_OIF, index);
        what.push(format!("add the default route via {gateway}"));
    }
    let outcomes = exchange(container, &mut batch, "configure the container's interface")?;
    for (at, (outcome, what)) in outcomes.iter().zip(&what).enumerate() {
        // A repeated call finds its own rule.
        let there = |error: &std::io::Error| error.kind() == ErrorKind::AlreadyExists;
        if rules.contains(&at) && outcome.result.as_ref().is_err_and(there) {
            continue;
        }
        outcome.result.as_ref().map_err(|error| kernel(what, error))?;
    }
    Ok(())
}

/// The whole subnet lies behind the gateway, whose MAC address is the same everywhere. Were the subnet on the link, every
/// address that the workload speaks to would be a neighbour of its own, and the kernel has room for 1,024 of them over all of a
/// node's namespaces (`net.ipv4.neigh.default.gc_thresh3`); permanent ones do not count.
fn by_gateway(
    batch: &mut Batch,
    what: &mut Vec<String>,
    index: u32,
    address: &IpNet,
    gateway: IpAddr,
) {
    let (family, bytes) = address_bytes(gateway);
    let mut neighbour = [0; 12];
    neighbour[0] = family;
    neighbour[4..8].copy_from_slice(&index.to_ne_bytes());
    neighbour[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
    batch
        .message(RTM_NEWNEIGH, F_ACK | F_CREATE | F_REPLACE, &neighbour)
        .attribute(NDA_DST, &bytes)
        .attribute(NDA_LLADDR, &GATEWAY_MAC);
    what.push(format!("add the neighbour {gateway}"));
    let subnet = address.trunc();
    let mut header = [
        family,
        subnet.prefix_len(),
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        0,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ];
    header[8..].copy_from_slice(&ONLINK.to_ne_bytes());
    batch
        .message(RTM_NEWROUTE, F_ACK | F_CREATE | F_REPLACE, &header)
        .attribute(RTA_DST, &address_bytes(subnet.addr()).1)
        .attribute(RTA_GATEWAY, &bytes)
        .number(RTA_OIF, index);
    what.push(format!("add the route to {subnet}"));
}

/// Looks an interface up by name.
pub(crate) fn find(socket: &mut Netlink, name: &str) -> Result<Option<Found>, Error> {
    let mut batch = Batch::default();
    batch.message(RTM_GETLINK, F_ACK, &link_header(0, false)).text(IFLA_IFNAME, name);
    let what = format!("look up the interface {name}");
    let outcome = exchange(socket, &mut batch, &what)?.into_iter().next();
    let Some(outcome) = outcome else { return Ok(None) };
    if let Err(error) = outcome.result {
        let gone = error.raw_os_error() == Some(nix::libc::ENODEV);
        return if gone { Ok(None) } else { Err(kernel(&what, &error)) };
    }
    Ok(outcome.answers.iter().find(|answer| answer.kind == RTM_NEWLINK).map(|answer| {
        let mut found = Found {
            index: u32_at(&answer.body, 4),
            mac: String::new(),
            mtu: 0,
            up: u32_at(&answer.body, 8) & IFF_UP != 0,
        };
        for (kind, value) in attributes(&answer.body, 16) {
            match kind {
                IFLA_ADDRESS => found.mac = format_mac(value),
                IFLA_MTU => found.mtu = u32_at(value, 0),
                _ => {}
            }
        }
        found
    }))
}

/// Removes an interface by name, with it the other end; a missing one is no error.
pub(crate) fn delete(socket: &mut Netlink, name: &str) -> Result<(), Error> {
    let mut batch = Batch::default();
    batch.message(RTM_DELLINK, F_ACK, &link_header(0, false)).text(IFLA_IFNAME, name);
    let what = format!("remove the interface {name}");
    match exchange(socket, &mut batch, &what)?.into_iter().next().map(|outcome| outcome.result) {
        Some(Err(error)) if error.raw_os_error() != Some(nix::libc::ENODEV) => {
            Err(kernel(&what, &error))
        }
        _ => Ok(()),
    }
}

/// Addresses of an interface with their lengths.
pub(crate) fn addresses(socket: &mut Netlink, index: u32) -> Result<Vec<IpNet>, Error> {
    let mut batch = Batch::default();
    batch.message(RTM_GETADDR, F_DUMP, &[0; 8]);
    let outcomes = exchange(socket, &mut batch, "list addresses")?;
    let answers = outcomes.iter().flat_map(|outcome| &outcome.answers);
    Ok(answers
        .filter(|answer| answer.kind == RTM_NEWADDR && u32_at(&answer.body, 4) == index)
        .filter_map(|answer| address_of(&answer.body))
        .collect())
}

/// The address of an RTM_NEWADDR message.
pub(crate) fn address_of(body: &[u8]) -> Option<IpNet> {
    let find = |wanted| attributes(body, 8).find(|(kind, _)| *kind == wanted);
    let (_, bytes) = find(IFA_LOCAL).or_else(|| find(IFA_ADDRESS))?;
    IpNet::new(address_from(bytes)?, *body.get(1)?).ok()
}

/// Gateways of the default routes through an interface.
pub(crate) fn default_gateways(socket: &mut Netlink, index: u32) -> Result<Vec<IpAddr>, Error> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut batch = Batch::default();
        let mut header = [0; 12];
        header[0] = family;
        batch.message(RTM_GETROUTE, F_DUMP, &header);
        for answer in exchange(socket, &mut batch, "list routes")?.iter().flat_map(|o| &o.answers) {
            let default = answer.kind == RTM_NEWROUTE
                && answer.body.get(1) == Some(&0)
                && answer.body.get(4) == Some(&RT_TABLE_MAIN)
                && !attributes(&answer.body, 12).any(|(kind, _)| kind == RTA_DST);
            let value = |wanted| attributes(&answer.body, 12).find(|(kind, _)| *kind == wanted);
            if default && value(RTA_OIF).is_some_and(|(_, bytes)| u32_at(bytes, 0) == index) {
                found.extend(value(RTA_GATEWAY).and_then(|(_, bytes)| address_from(bytes)));
            }
        }
    }
    Ok(found)
}

pub(crate) fn link_header(index: u32, up: bool) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    if up {
        header[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        header[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    }
    header
}

pub(crate) fn address_bytes(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

pub(crate) fn address_from(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

pub(crate) fn exchange(
    socket: &mut Netlink,
    batch: &mut Batch,
    what: &str,
) -> Result<Vec<crate::netlink::Outcome>, Error> {
    socket.exchange(batch).map_err(|error| kernel(what, &error))
}

pub(crate) fn kernel(what: &str, error: &std::io::Error) -> Error {
    let details = match error.raw_os_error() {
        Some(nix::libc::EPERM) => "the plugin needs CAP_NET_ADMIN",
        Some(nix::libc::EEXIST) => "an interface of this name is already in the container",
        _ => "see `dmesg` and the node's logs; the call may be repeated",
    };
    Error::new(Code::Kernel, format!("the kernel refused to {what}: {error}"), details)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_fit_and_differ() {
        let one = host_interface_name("c1", "eth0");
        assert_eq!(one.len(), 14);
        assert_ne!(one, host_interface_name("c1", "eth1"));
        assert_ne!(host_interface_name("c1e", "th0"), one);
    }

    #[test]
    fn macs_are_read_strictly() {
        assert_eq!(parse_mac("02:0a:00:00:00:ff"), Some([2, 10, 0, 0, 0, 255]));
        for wrong in
            ["", "02:0a:00:00:00", "02:0a:00:00:00:ff:01", "2:a:0:0:0:f", "02-0a-00-00-00-ff"]
        {
            assert_eq!(parse_mac(wrong), None);
        }
    }
}
