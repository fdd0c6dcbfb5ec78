//! The pair that joins the host's own stack to the fabric: `skein0` is the host's end, the other one the data path's.
//! Both are in the host's namespace. Everything here may be repeated.

use crate::Error;
use crate::host_routes::{Changes, PROTOCOL, RTA_PREFSRC, installed};
use crate::link::{
    self, NDA_DST, NDA_LLADDR, NUD_PERMANENT, ONLINK, address_bytes, exchange, kernel, link_header,
};
use crate::links::Links;
use crate::netlink::{
    Batch, F_ACK, F_CREATE, F_EXCL, F_REPLACE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWNEIGH, RTM_SETLINK,
};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The host's end.
pub const HOST_LINK: &str = "skein0";
/// The data path's end.
pub const HOST_LINK_PEER: &str = "skein0-fabric";

/// Next hop of the host's routes: nobody's address, known on this interface alone.
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The host's end has it, for want of another.
const UNUSED4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 2);
const RT_SCOPE_LINK: u8 = 253;
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x5e00, 0x0100);

/// What the pair shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// MAC address of the host's end.
    pub mac: [u8; 6],
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// The node's address: source of what the host sends by it.
    pub address: IpAddr,
    /// What the host reaches by it.
    pub prefixes: BTreeSet<IpNet>,
}

impl HostLink {
    /// Makes the pair unless it is there, and brings it, its neighbour and the host's routes in line. Gives the index
    /// of the data path's end.
    ///
    /// # Errors
    /// The kernel refused, with what it said.
    pub fn ensure(&self, links: &mut Links) -> Result<u32, Error> {
        if link::find(&mut links.0, HOST_LINK)?.is_none() {
            // A lonely other end would be in the way of its name.
            link::delete(&mut links.0, HOST_LINK_PEER)?;
        }
        self.make(links)?;
        let missing = |name: &str| {
            let gone = std::io::Error::new(ErrorKind::NotFound, "it vanished");
            kernel(&format!("look up the interface {name}"), &gone)
        };
        let host = link::find(&mut links.0, HOST_LINK)?.ok_or_else(|| missing(HOST_LINK))?;
        let peer =
            link::find(&mut links.0, HOST_LINK_PEER)?.ok_or_else(|| missing(HOST_LINK_PEER))?;
        // Strict filtering would drop what comes by a service from a host whose own way is the underlay.
        // Answers to what the host sent to a node port at an address of its own come from that address, 127.0.0.1 too;
        // the programs let no others through.
        for (setting, value) in [("rp_filter", "2"), ("accept_local", "1"), ("route_localnet", "1")]
        {
            let path = crate::sysctl(&format!("ipv4/conf/{HOST_LINK}/{setting}"));
            let _ = std::fs::write(path, value);
        }
        self.own_address(links, host.index)?;
        self.neighbour(links, host.index)?;
        self.routes(links, host.index)?;
        Ok(peer.index)
    }

    fn make(&self, links: &mut Links) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch
            .message(RTM_NEWLINK, F_ACK | F_CREATE | F_EXCL, &link_header(0, false))
            .text(link::IFLA_IFNAME, HOST_LINK)
            .number(link::IFLA_MTU, self.mtu)
            .attribute(link::IFLA_ADDRESS, &self.mac)
            .nested(link::IFLA_LINKINFO, &[], |info| {
                info.text(link::IFLA_INFO_KIND, "veth").nested(link::IFLA_INFO_DATA, &[], |data| {
                    data.nested(link::VETH_INFO_PEER, &link_header(0, false), |peer| {
                        peer.text(link::IFLA_IFNAME, HOST_LINK_PEER)
                            .number(link::IFLA_MTU, self.mtu)
                            .attribute(link::IFLA_ADDRESS, &link::GATEWAY_MAC);
                    });
                });
            });
        for name in [HOST_LINK, HOST_LINK_PEER] {
            // No link-local addresses of its own: nothing else is on this wire. Fails where there is no IPv6.
            batch
                .message(RTM_SETLINK, F_ACK, &link_header(0, false))
                .text(link::IFLA_IFNAME, name)
                .nested(link::IFLA_AF_SPEC, &[], |families| {
                    families.nested(u16::from(link::AF_INET6), &[], |inet6| {
                        let none = [link::IN6_ADDR_GEN_MODE_NONE];
                        inet6.attribute(link::IFLA_INET6_ADDR_GEN_MODE, &none);
                    });
                });
            let mac = if name == HOST_LINK { self.mac } else { link::GATEWAY_MAC };
            batch
                .message(RTM_SETLINK, F_ACK, &link_header(0, true))
                .text(link::IFLA_IFNAME, name)
                .number(link::IFLA_MTU, self.mtu)
                .attribute(link::IFLA_ADDRESS, &mac);
        }
        let what = format!("make the pair of {HOST_LINK}");
        let outcomes = exchange(&mut links.0, &mut batch, &what)?;
        for (nth, outcome) in outcomes.iter().enumerate() {
            match &outcome.result {
                Err(error) if nth == 0 && error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if nth == 0 || nth % 2 == 0 => return Err(kernel(&what, error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn gateway(&self) -> IpAddr {
        if self.address.is_ipv4() { GATEWAY4.into() } else { GATEWAY6.into() }
    }

    /// An address for no one to use: on an interface without any, loose filtering refuses what comes from an address of
    /// the host's own.
    fn own_address(&self, links: &mut Links, index: u32) -> Result<(), Error> {
        if self.address.is_ipv6() {
            return Ok(());
        }
        let (family, bytes) = address_bytes(UNUSED4.into());
        let header = [&[family, 32, 0, RT_SCOPE_LINK][..], &index.to_ne_bytes()].concat();
        let mut batch = Batch::default();
        batch
            .message(RTM_NEWADDR, F_ACK | F_CREATE | F_REPLACE, &header)
            .attribute(link::IFA_LOCAL, &bytes)
            .attribute(link::IFA_ADDRESS, &bytes);
        let what = "give skein0 an address";
        let outcomes = exchange(&mut links.0, &mut batch, what)?;
        outcomes.iter().try_for_each(|outcome| {
            outcome.result.as_ref().map(|_| ()).map_err(|error| kernel(what, error))
        })
    }

    fn neighbour(&self, links: &mut Links, index: u32) -> Result<(), Error> {
        let (family, bytes) = address_bytes(self.gateway());
        let mut header = [0; 12];
        header[0] = family;
        header[4..8].copy_from_slice(&index.to_ne_bytes());
        header[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        let mut batch = Batch::default();
        batch
            .message(RTM_NEWNEIGH, F_ACK | F_CREATE | F_REPLACE, &header)
            .attribute(NDA_DST, &bytes)
            .attribute(NDA_LLADDR, &link::GATEWAY_MAC);
        let what = "add the neighbour of skein0";
        let outcomes = exchange(&mut links.0, &mut batch, what)?;
        outcomes.iter().try_for_each(|outcome| {
            outcome.result.as_ref().map(|_| ()).map_err(|error| kernel(what, error))
        })
    }

    /// Adds the routes that are missing and removes those of ours that are not wanted.
    fn routes(&self, links: &mut Links, index: u32) -> Result<(), Error> {
        let (family, source) = address_bytes(self.address);
        let wanted: BTreeSet<IpNet> = self
            .prefixes
            .iter()
            .filter(|prefix| prefix.addr().is_ipv4() == self.address.is_ipv4())
            .map(IpNet::trunc)
            .collect();
        let there = installed(links, family, index)?;
        let header = |prefix: &IpNet, flags: u32| {
            let mut header = [0; 12];
            header[..8].copy_from_slice(&[
                family,
                prefix.prefix_len(),
                0,
                0,
                link::RT_TABLE_MAIN,
                PROTOCOL,
                0,
                link::RTN_UNICAST,
            ]);
            header[8..].copy_from_slice(&flags.to_ne_bytes());
            header
        };
        let gateway = address_bytes(self.gateway()).1;
        let mut changes = Changes::by(index);
        // All are written: their source may be another one now.
        for prefix in &wanted {
            changes
                .add(prefix, &header(prefix, ONLINK))
                .attribute(link::RTA_GATEWAY, &gateway)
                .attribute(RTA_PREFSRC, &source);
        }
        for prefix in there.difference(&wanted) {
            changes.remove(prefix, &header(prefix, 0));
        }
        changes.write(links)
    }
}
