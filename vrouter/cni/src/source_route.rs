//! Answers leave by the interface that was asked: routes of its addresses alone.
//!
//! Without them a pod with several interfaces answers whoever is not in an interface's own subnets by another one, from an
//! address that is not that one's: a client of a service whose backends are in a second network, or a kubelet's
//! probe of a pod whose default route leads through one, would wait for ever.

use crate::link::{ONLINK, RTA_GATEWAY, RTA_OIF, address_bytes};
use crate::netlink::{Batch, F_ACK, F_CREATE, F_EXCL, F_REPLACE, RTM_NEWROUTE, RTM_NEWRULE};
use std::net::IpAddr;

const RTA_TABLE: u16 = 15;
const FRA_SRC: u16 = 2;
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const FR_ACT_TO_TBL: u8 = 1;
const RTN_UNICAST: u8 = 1;
const RTPROT_STATIC: u8 = 4;
/// Tables of interfaces, out of everyone's way: this and the interface's index.
const TABLES: u32 = 0x736b_0000;
/// Before the main table (32766), after whatever the workload's own people put first.
const PRIORITY: u32 = 30_000;

/// Adds the two messages for an address and its gateway. The second, the rule, may be there already.
pub(crate) fn add(batch: &mut Batch, index: u32, address: IpAddr, gateway: IpAddr) {
    let (family, source) = address_bytes(address);
    let table = TABLES.wrapping_add(index);
    let mut route = [family, 0, 0, 0, 0, RTPROT_STATIC, 0, RTN_UNICAST, 0, 0, 0, 0];
    route[8..].copy_from_slice(&ONLINK.to_ne_bytes());
    batch
        .message(RTM_NEWROUTE, F_ACK | F_CREATE | F_REPLACE, &route)
        .number(RTA_TABLE, table)
        .attribute(RTA_GATEWAY, &address_bytes(gateway).1)
        .number(RTA_OIF, index);
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let rule = [family, 0, bits, 0, 0, 0, 0, FR_ACT_TO_TBL, 0, 0, 0, 0];
    batch
        .message(RTM_NEWRULE, F_ACK | F_CREATE | F_EXCL, &rule)
        .attribute(FRA_SRC, &source)
        .number(FRA_PRIORITY, PRIORITY)
        .number(FRA_TABLE, table);
}
