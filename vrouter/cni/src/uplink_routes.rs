//! Routes by which the host reaches the underlay's workloads of other nodes: on its uplink, without a router, for those nodes
//! answer there. Everything here may be repeated.

use crate::Error;
use crate::host_link::{PROTOCOL, RTA_PREFSRC, installed};
use crate::link::{self, address_bytes, exchange, kernel};
use crate::links::Links;
use crate::netlink::{Batch, F_ACK, F_CREATE, F_REPLACE, RTM_DELROUTE, RTM_NEWROUTE};
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
        let mut batch = Batch::default();
        let mut what = Vec::new();
        for prefix in &wanted {
            let (family, to) = address_bytes(prefix.addr());
            let header = header(prefix, family);
            let mut message = batch.message(RTM_NEWROUTE, F_ACK | F_CREATE | F_REPLACE, &header);
            message = message.attribute(link::RTA_DST, &to);
            if family == own_family {
                message = message.attribute(RTA_PREFSRC, &source);
            }
            message.number(link::RTA_OIF, self.uplink);
            what.push(format!("add the host's route to {prefix}"));
        }
        for prefix in there.difference(&wanted) {
            let (family, to) = address_bytes(prefix.addr());
            batch
                .message(RTM_DELROUTE, F_ACK, &header(prefix, family))
                .attribute(link::RTA_DST, &to)
                .number(link::RTA_OIF, self.uplink);
            what.push(format!("remove the host's route to {prefix}"));
        }
        if what.is_empty() {
            return Ok(());
        }
        let outcomes = exchange(&mut links.0, &mut batch, "write the host's routes")?;
        for (outcome, what) in outcomes.iter().zip(&what) {
            outcome.result.as_ref().map_err(|error| kernel(what, error))?;
        }
        Ok(())
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
