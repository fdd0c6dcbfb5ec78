//! Network interfaces of this namespace, for the agent: looked up, listed and watched without a
//! netlink library of hundreds of types.

use crate::link::{self, Found};
use crate::netlink::{
    Batch, F_DUMP, Netlink, RTM_DELLINK, RTM_GETADDR, RTM_GETLINK, RTM_NEWADDR, RTM_NEWLINK,
    attributes, u32_at,
};
use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
/// Multicast group of link changes (RTMGRP_LINK).
const LINK_GROUP: u32 = 1;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its MAC address; zeros if it has none.
    pub mac: [u8; 6],
}

/// A view of the interfaces of the namespace it was opened in.
pub struct Links(pub(crate) Netlink);

impl Links {
    /// Opens a netlink socket in the caller's namespace.
    ///
    /// # Errors
    /// The kernel gave none.
    pub fn open() -> std::io::Result<Self> {
        Netlink::open().map(Self)
    }

    /// Looks an interface up by name.
    ///
    /// # Errors
    /// The kernel refused, with what it said.
    pub fn by_name(&mut self, name: &str) -> Result<Option<Link>, crate::Error> {
        let found = link::find(&mut self.0, name)?;
        Ok(found.map(|Found { index, mtu, mac, .. }| {
            let mac = link::parse_mac(&mac).unwrap_or_default();
            Link { index, name: name.to_owned(), mtu, mac }
        }))
    }

    /// Every interface.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn all(&mut self) -> std::io::Result<Vec<Link>> {
        let mut batch = Batch::default();
        batch.message(RTM_GETLINK, F_DUMP, &[0; 16]);
        let outcomes = self.0.exchange(&mut batch)?;
        let answers = outcomes.iter().flat_map(|outcome| &outcome.answers);
        Ok(answers
            .filter(|answer| answer.kind == RTM_NEWLINK)
            .map(|answer| {
                let index = u32_at(&answer.body, 4);
                let mut found = Link { index, name: String::new(), mtu: 0, mac: [0; 6] };
                for (kind, value) in attributes(&answer.body, 16) {
                    match kind {
                        IFLA_IFNAME => {
                            let text = value.strip_suffix(&[0]).unwrap_or(value);
                            found.name = String::from_utf8_lossy(text).into_owned();
                        }
                        IFLA_MTU => found.mtu = u32_at(value, 0),
                        link::IFLA_ADDRESS => found.mac = value.try_into().unwrap_or_default(),
                        _ => {}
                    }
                }
                found
            })
            .collect())
    }

    /// Every address with the index of its interface.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn addresses(&mut self) -> std::io::Result<Vec<(u32, IpNet)>> {
        let mut batch = Batch::default();
        batch.message(RTM_GETADDR, F_DUMP, &[0; 8]);
        let outcomes = self.0.exchange(&mut batch)?;
        let answers = outcomes.iter().flat_map(|outcome| &outcome.answers);
        Ok(answers
            .filter(|answer| answer.kind == RTM_NEWADDR)
            .filter_map(|answer| Some((u32_at(&answer.body, 4), link::address_of(&answer.body)?)))
            .collect())
    }

    /// Removes an interface; a missing one is no error.
    ///
    /// # Errors
    /// The kernel refused, with what it said.
    pub fn delete(&mut self, name: &str) -> Result<(), crate::Error> {
        link::delete(&mut self.0, name)
    }
}

/// Tells of interfaces that go.
pub struct LinkWatch(File);

impl LinkWatch {
    /// Begins to watch the caller's namespace. Reads wait at most a second.
    ///
    /// # Errors
    /// The kernel gave no socket.
    pub fn open() -> std::io::Result<Self> {
        let descriptor = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::seconds(1))?;
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, LINK_GROUP))?;
        Ok(Self(File::from(descriptor)))
    }

    /// Indices of interfaces that were removed since the last call; empty after a quiet second. `None` when
    /// the kernel lost messages: look at everything again.
    ///
    /// # Errors
    /// The socket failed.
    pub fn gone(&mut self) -> std::io::Result<Option<Vec<u32>>> {
        let mut buffer = vec![0; 32 * 1024];
        let length = match self.0.read(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(Some(Vec::new()));
            }
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOBUFS) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut gone = Vec::new();
        let mut rest = &buffer[..length];
        while rest.len() >= 16 {
            let size = usize::try_from(u32_at(rest, 0)).unwrap_or(0);
            if size < 24 || size > rest.len() {
                break;
            }
            if crate::netlink::u16_at(rest, 4) == RTM_DELLINK {
                gone.push(u32_at(rest, 20));
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Some(gone))
    }
}
