//! Addresses in the underlay that workloads and services of this node have.

use crate::abi::{ip_from_abi, ip_to_abi, types};
use crate::{Datapath, Error, NextHopId, Result};
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsRawFd;

/// In place of a VRF: the underlay.
const UNDERLAY: u32 = 0;
const ETH_P_ARP: u16 = 0x0806;
const ETH_P_IPV6: u16 = 0x86dd;

/// Whose an address in the underlay is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Native {
    /// A workload's: the id of a [`crate::NextHop::Local`].
    Workload(NextHopId),
    /// That of services which clients outside reach ([`crate::OUTSIDE`]).
    Services,
}

fn key(address: IpAddr) -> types::host_key {
    let (family, address) = ip_to_abi(address);
    types::host_key { vrf: UNDERLAY, family, address }
}

impl Datapath {
    /// From now on the uplink's neighbours are told our MAC for the address, and packets for a workload's that come by an uplink
    /// without a tunnel are judged and delivered. The next hop goes first. `true` if the address is new here.
    ///
    /// # Errors
    /// [`Error::Full`]; [`Error::Argument`] for a next hop out of range.
    pub fn set_native(&mut self, address: IpAddr, native: Native) -> Result<bool> {
        let next_hop = match native {
            Native::Workload(id) => {
                self.check_next_hop(id)?;
                id
            }
            Native::Services => 0,
        };
        let length = if address.is_ipv4() { 32 } else { 128 };
        let route = types::route { next_hop, identity: 0, length };
        let new = self.host_routes.get(&key(address))?.is_none();
        self.host_routes.set(&key(address), &route)?;
        if new {
            self.count_natives(1)?;
        }
        Ok(new)
    }

    /// Leaves the address to the host from now on. `false` if it was not set.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn remove_native(&mut self, address: IpAddr) -> Result<bool> {
        let known = self.host_routes.remove(&key(address))?;
        if known {
            self.count_natives(-1)?;
        }
        Ok(known)
    }

    /// All of them, in no particular order.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn natives(&self) -> Result<Vec<(IpAddr, Native)>> {
        let all = self.host_routes.entries()?.into_iter();
        let ours = all.filter(|(key, _)| key.vrf == UNDERLAY);
        Ok(ours
            .map(|(key, route)| {
                let native = match route.next_hop {
                    0 => Native::Services,
                    id => Native::Workload(id),
                };
                (ip_from_abi(key.family, &key.address), native)
            })
            .collect())
    }

    /// Says where neighbours ask for these addresses, and what they are told.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn set_uplink(&mut self, ifindex: u32, mac: [u8; 6]) -> Result<()> {
        let mut raw = self.node.get(&0)?.unwrap_or_default();
        (raw.uplink, raw.uplink_mac) = (ifindex, mac);
        // What is counted is what is there, whatever ended an earlier process.
        raw.natives = u32::try_from(self.natives()?.len()).unwrap_or(u32::MAX);
        self.node.set(&0, &raw)
    }

    fn count_natives(&self, more: i32) -> Result<()> {
        let mut raw = self.node.get(&0)?.unwrap_or_default();
        raw.natives = raw.natives.saturating_add_signed(more);
        self.node.set(&0, &raw)
    }

    /// Tells the uplink's neighbours that the address is here (RFC 5227 section 2.3, RFC 4861 section 7.2.6): they may remember
    /// another node's MAC for it. In the caller's network namespace.
    ///
    /// # Errors
    /// [`Error::Interface`] if the uplink is gone or takes no frames.
    pub fn announce(&self, address: IpAddr) -> Result<()> {
        let raw = self.node.get(&0)?.unwrap_or_default();
        let ifindex = raw.uplink;
        send(ifindex, &announcement(address, raw.uplink_mac))
            .map_err(|error| Error::Interface { ifindex, source: error.into() })
    }
}

fn announcement(address: IpAddr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(86);
    match address {
        IpAddr::V4(address) => {
            frame.extend([0xff; 6]);
            frame.extend(mac);
            frame.extend(ETH_P_ARP.to_be_bytes());
            // Ethernet, IPv4, a request: hosts heed it where a reply nobody asked for is passed over.
            frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
            frame.extend(mac);
            frame.extend(address.octets());
            frame.extend([0; 6]);
            frame.extend(address.octets());
        }
        IpAddr::V6(address) => {
            let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
            frame.extend([0x33, 0x33, 0, 0, 0, 1]);
            frame.extend(mac);
            frame.extend(ETH_P_IPV6.to_be_bytes());
            // An advertisement with the flag "override", and the MAC as its option.
            let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
            body.extend(address.octets());
            body.extend([2, 1]);
            body.extend(mac);
            let length = body.len() as u8;
            let pseudo: Vec<u8> =
                [&address.octets()[..], &all_nodes, &[0, 0, 0, length, 0, 0, 0, 58], &body]
                    .concat();
            let sum: u32 =
                pseudo.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
            let folded = (sum & 0xffff) + (sum >> 16);
            let folded = (folded & 0xffff) + (folded >> 16);
            body[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
            frame.extend([0x60, 0, 0, 0, 0, length, 58, 255]);
            frame.extend(address.octets());
            frame.extend(all_nodes);
            frame.extend(body);
        }
    }
    frame
}

fn send(ifindex: u32, frame: &[u8]) -> io::Result<()> {
    // Protocol 0: it hears nothing.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: a structure of integers and an array of them; zero is valid for all.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_ifindex = ifindex as i32;
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&frame[..6]);
    // SAFETY: both pointers come from live borrows, with their lengths beside them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            size_of_val(&to) as u32,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_are_what_the_standards_say() {
        let mac = [2, 0, 0, 0, 0, 7];
        let arp = announcement("10.64.0.5".parse().unwrap(), mac);
        assert_eq!(arp.len(), 42);
        assert_eq!(
            (&arp[..6], &arp[12..14], &arp[20..22]),
            (&[0xff; 6][..], &[8, 6][..], &[0, 1][..])
        );
        assert_eq!(
            (&arp[22..28], &arp[28..32], &arp[38..42]),
            (&mac[..], &[10, 64, 0, 5][..], &[10, 64, 0, 5][..])
        );

        let nd = announcement("fd64::5".parse().unwrap(), mac);
        assert_eq!(nd.len(), 86);
        assert_eq!((nd[20], nd[21], nd[54], nd[58]), (58, 255, 136, 0x20));
        // The checksum over pseudo header and message comes out as all ones.
        let mut sum: u32 = 58 + 32;
        for pair in nd[22..86].chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair[1]);
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        assert_eq!(sum, 0xffff);
    }
}
