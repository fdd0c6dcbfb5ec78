//! Pieces that network policy rules and security group rules share.

use ipnet::IpNet;
use skein_model::values::{PortType, SubnetType};
use skein_policy::Rule;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// Rules by who opens the connection.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    /// The workload does.
    pub(crate) egress: Vec<Rule>,
    /// The remote end does.
    pub(crate) ingress: Vec<Rule>,
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// A protocol condition together with the family it implies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Protocol {
    /// `None` means any.
    pub(crate) number: Option<u8>,
    /// `None` means both.
    pub(crate) family: Option<u8>,
}

/// Reads a protocol as the API has it: `any`, a name or a number.
///
/// `icmp` without a family means ICMP for IPv4 and ICMPv6 for IPv6, as people mean it; Neutron
/// writes `icmp` for both too. An unknown name matches nothing: the list is empty.
pub(crate) fn protocols(text: &str, family: Option<u8>) -> Vec<Protocol> {
    let one = |number: u8| vec![Protocol { number: Some(number), family }];
    match text.to_ascii_lowercase().as_str() {
        "any" | "" => vec![Protocol { number: None, family }],
        "tcp" => one(6),
        "udp" => one(17),
        "sctp" => one(132),
        "icmp" => match family {
            Some(6) => one(ICMPV6),
            Some(_) => one(ICMP),
            None => vec![
                Protocol { number: Some(ICMP), family: Some(4) },
                Protocol { number: Some(ICMPV6), family: Some(6) },
            ],
        },
        "icmp6" | "icmpv6" | "ipv6-icmp" => one(ICMPV6),
        "gre" => one(47),
        "esp" => one(50),
        "ah" => one(51),
        "igmp" => one(2),
        "ospf" => one(89),
        "vrrp" => one(112),
        "udplite" => one(136),
        other => match other.parse::<u8>() {
            Ok(number) => one(number),
            Err(_) => Vec::new(),
        },
    }
}

/// Port ranges; empty means any. A start of -1 means any.
pub(crate) fn ports(ports: &[PortType]) -> Vec<RangeInclusive<u16>> {
    let mut out = Vec::new();
    for port in ports {
        let start = port.start_port.unwrap_or(0);
        let end = port.end_port.unwrap_or(65535);
        if start < 0 || (start == 0 && !(0..65535).contains(&end)) {
            return Vec::new();
        }
        let number = |v: i64| u16::try_from(v).unwrap_or(u16::MAX);
        if start <= end {
            out.push(number(start)..=number(end));
        }
    }
    out
}

/// ICMP type and code, which Neutron writes into the port fields; empty means any.
pub(crate) fn icmp_types(ports: &[PortType]) -> Vec<RangeInclusive<u16>> {
    let mut out = Vec::new();
    for port in ports {
        let kind = port.start_port.unwrap_or(-1);
        let code = port.end_port.unwrap_or(-1);
        let (Ok(kind), any_range) = (u8::try_from(kind), kind == 0 && code == 65535) else {
            return Vec::new();
        };
        if any_range {
            return Vec::new();
        }
        let base = u16::from(kind) << 8;
        match u8::try_from(code) {
            Ok(code) => out.push(base | u16::from(code)..=base | u16::from(code)),
            Err(_) => out.push(base..=base | 0xff),
        }
    }
    out
}

/// Whether a protocol's port fields carry ICMP type and code.
pub(crate) fn is_icmp(protocol: Protocol) -> bool {
    matches!(protocol.number, Some(ICMP | ICMPV6))
}

/// A prefix; `None` when it is not one.
pub(crate) fn prefix(subnet: &SubnetType) -> Option<IpNet> {
    let address: IpAddr = subnet.ip_prefix.as_deref()?.parse().ok()?;
    let length = u8::try_from(subnet.ip_prefix_len?).ok()?;
    IpNet::new(address, length).ok().map(|net| net.trunc())
}

/// The family of a prefix, 4 or 6.
pub(crate) fn family(net: &IpNet) -> u8 {
    match net {
        IpNet::V4(_) => 4,
        IpNet::V6(_) => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(start: i64, end: i64) -> PortType {
        PortType { start_port: Some(start), end_port: Some(end) }
    }

    #[test]
    fn any_port_is_written_in_three_ways() {
        assert!(ports(&[port(-1, -1)]).is_empty());
        assert!(ports(&[port(0, 65535)]).is_empty());
        assert!(ports(&[]).is_empty());
        assert_eq!(ports(&[port(80, 80), port(443, 444)]), vec![80..=80, 443..=444]);
    }

    #[test]
    fn icmp_type_and_code_travel_in_the_port_fields() {
        assert!(icmp_types(&[port(0, 65535)]).is_empty());
        assert!(icmp_types(&[port(-1, -1)]).is_empty());
        assert_eq!(icmp_types(&[port(8, 0)]), vec![0x0800..=0x0800]);
        assert_eq!(icmp_types(&[port(3, -1)]), vec![0x0300..=0x03ff]);
    }

    #[test]
    fn icmp_without_a_family_means_both_versions() {
        assert_eq!(protocols("icmp", None).len(), 2);
        assert_eq!(protocols("icmp", Some(6))[0].number, Some(58));
        assert_eq!(protocols("6", None)[0].number, Some(6));
        assert!(protocols("no-such", None).is_empty());
    }
}
