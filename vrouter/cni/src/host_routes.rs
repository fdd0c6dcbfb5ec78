//! The host's own routes that are ours: which are there, and changes of them.

use crate::Error;
use crate::link::{self, address_bytes, exchange, kernel};
use crate::links::Links;
use crate::netlink::{
    Batch, F_ACK, F_CREATE, F_DUMP, F_REPLACE, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWROUTE,
    attributes, u32_at,
};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// Our routes are told from others by this number (rtnetlink.h: above 4 there are user protocols).
pub(crate) const PROTOCOL: u8 = 0x5e;
pub(crate) const RTA_PREFSRC: u16 = 7;

/// Routes of ours by an interface.
pub(crate) fn installed(
    links: &mut Links,
    family: u8,
    index: u32,
) -> Result<BTreeSet<IpNet>, Error> {
    let mut batch = Batch::default();
    let mut header = [0; 12];
    header[0] = family;
    batch.message(RTM_GETROUTE, F_DUMP, &header);
    let outcomes = exchange(&mut links.0, &mut batch, "list routes")?;
    let mut found = BTreeSet::new();
    for answer in outcomes.iter().flat_map(|outcome| &outcome.answers) {
        let value = |wanted| attributes(&answer.body, 12).find(|(kind, _)| *kind == wanted);
        let ours = answer.kind == RTM_NEWROUTE
            && answer.body.get(5) == Some(&PROTOCOL)
            && value(link::RTA_OIF).is_some_and(|(_, bytes)| u32_at(bytes, 0) == index);
        let length = answer.body.get(1).copied().unwrap_or(0);
        let address = value(link::RTA_DST).and_then(|(_, bytes)| link::address_from(bytes));
        if let Some(address) = address.filter(|_| ours) {
            found.extend(IpNet::new(address, length).ok());
        }
    }
    Ok(found)
}

/// Changes of routes by one interface, to be made together.
#[derive(Default)]
pub(crate) struct Changes {
    index: u32,
    batch: Batch,
    what: Vec<String>,
}

impl Changes {
    /// None yet.
    pub(crate) fn by(index: u32) -> Changes {
        Changes { index, ..Changes::default() }
    }

    /// Adds a route, or writes it anew; attributes may follow.
    pub(crate) fn add(&mut self, prefix: &IpNet, header: &[u8]) -> &mut Batch {
        self.what.push(format!("add the host's route to {prefix}"));
        self.batch
            .message(RTM_NEWROUTE, F_ACK | F_CREATE | F_REPLACE, header)
            .attribute(link::RTA_DST, &address_bytes(prefix.addr()).1)
            .number(link::RTA_OIF, self.index)
    }

    /// Removes a route.
    pub(crate) fn remove(&mut self, prefix: &IpNet, header: &[u8]) {
        self.what.push(format!("remove the host's route to {prefix}"));
        self.batch
            .message(RTM_DELROUTE, F_ACK, header)
            .attribute(link::RTA_DST, &address_bytes(prefix.addr()).1)
            .number(link::RTA_OIF, self.index);
    }

    /// Makes them; the error names the first that the kernel refused.
    pub(crate) fn write(mut self, links: &mut Links) -> Result<(), Error> {
        if self.what.is_empty() {
            return Ok(());
        }
        let outcomes = exchange(&mut links.0, &mut self.batch, "write the host's routes")?;
        for (outcome, what) in outcomes.iter().zip(&self.what) {
            outcome.result.as_ref().map_err(|error| kernel(what, error))?;
        }
        Ok(())
    }
}
