//! Routes by which the host reaches the underlay's workloads of other nodes: on its uplink, without a router, for those nodes
//! answer there. Everything here may be repeated.

use crate::Error;
use crate::host_routes::{Changes, PROTOCOL, RTA_PREFSRC, installed};
use crate::link::{self, address_bytes};
use crate::links::Links;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// `RT_SCOPE_LINK` of rtnetlink.h.
const SCOPE_LINK: u8 = 253;

/// What the host reaches by an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkRoutes {
    /// Index of the uplink.
    pub uplink: u32,
    /// The node's address: source of what the host sends there.
    pub address: IpAddr,
    /// Where to.
    pub prefixes: BTreeSet<IpNet>,
}

impl UplinkRoutes {
    /// Adds the routes that are missing and removes those of ours that are not wanted.
    ///
    /// # Errors
    /// The kernel refused, with what it said.
    pub fn ensure(&self, links: &mut Links) -> Result<(), Error> {
        let (own_family, source) = address_bytes(self.address);
        let wanted: BTreeSet<IpNet> = self.prefixes.iter().map(IpNet::trunc).collect();
        let mut there = BTreeSet::new();
        for family in [link::AF_INET, link::AF_INET6] {
            there.extend(installed(links, family, self.uplink)?);
        }
        let mut changes = Changes::by(self.uplink);
        for prefix in &wanted {
            let family = address_bytes(prefix.addr()).0;
            let message = changes.add(prefix, &header(prefix, family));
            if family == own_family {
                message.attribute(RTA_PREFSRC, &source);
            }
        }
        for prefix in there.difference(&wanted) {
            changes.remove(prefix, &header(prefix, address_bytes(prefix.addr()).0));
        }
        changes.write(links)
    }
}

fn header(prefix: &IpNet, family: u8) -> [u8; 12] {
    // IPv6 routes have no scope.
    let scope = if family == link::AF_INET { SCOPE_LINK } else { 0 };
    let mut header = [0; 12];
    header[..8].copy_from_slice(&[
        family,
        prefix.prefix_len(),
        0,
        0,
        link::RT_TABLE_MAIN,
        PROTOCOL,
        scope,
        link::RTN_UNICAST,
    ]);
    header
}
