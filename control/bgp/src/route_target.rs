//! Route targets (RFC 4360 section 4).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Which VRFs a route belongs into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteTarget {
    /// Two-octet AS number and a 32-bit value.
    As2(u16, u32),
    /// IPv4 address and a 16-bit value.
    Ipv4(Ipv4Addr, u16),
    /// Four-octet AS number and a 16-bit value (RFC 5668).
    As4(u32, u16),
}

/// A text is no route target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no route target; write target:ASN:NUMBER or target:ADDRESS:NUMBER, with a number up \
     to 65535 for addresses and for AS numbers above 65535"
)]
pub struct BadRouteTarget(pub String);

impl RouteTarget {
    /// The target that only one network's own VRF imports, by the network's number. Its AS number is 0, which nobody
    /// can have (RFC 7607), so nothing configured or received is mistaken for it.
    #[must_use]
    pub fn private(network: u32) -> RouteTarget {
        RouteTarget::As2(0, network)
    }

    /// The target of the nodes' own network, which has none in the configuration. Its AS number is 0, too.
    pub const FABRIC: RouteTarget = RouteTarget::As4(0, 1);

    /// Whether it is one of [`RouteTarget::private`] or [`RouteTarget::FABRIC`]: no configuration can name these.
    #[must_use]
    pub fn is_private(self) -> bool {
        matches!(self, RouteTarget::As2(0, _) | RouteTarget::As4(0, _))
    }

    /// The extended community: type, sub-type, value.
    pub fn octets(self) -> [u8; 8] {
        let mut out = [0; 8];
        out[1] = 0x02;
        match self {
            RouteTarget::As2(asn, value) => {
                out[2..4].copy_from_slice(&asn.to_be_bytes());
                out[4..8].copy_from_slice(&value.to_be_bytes());
            }
            RouteTarget::Ipv4(address, value) => {
                out[0] = 0x01;
                out[2..6].copy_from_slice(&address.octets());
                out[6..8].copy_from_slice(&value.to_be_bytes());
            }
            RouteTarget::As4(asn, value) => {
                out[0] = 0x02;
                out[2..6].copy_from_slice(&asn.to_be_bytes());
                out[6..8].copy_from_slice(&value.to_be_bytes());
            }
        }
        out
    }

    /// From the extended community; `None` when it is another one.
    pub fn from_octets(octets: [u8; 8]) -> Option<RouteTarget> {
        let [kind, 0x02, a, b, c, d, e, f] = octets else { return None };
        match kind {
            0x00 => {
                Some(RouteTarget::As2(u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f])))
            }
            0x01 => Some(RouteTarget::Ipv4(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, f]))),
            0x02 => {
                Some(RouteTarget::As4(u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f])))
            }
            _ => None,
        }
    }
}

impl FromStr for RouteTarget {
    type Err = BadRouteTarget;

    fn from_str(text: &str) -> Result<RouteTarget, BadRouteTarget> {
        let bad = || BadRouteTarget(text.to_owned());
        let (left, right) =
            text.strip_prefix("target:").and_then(|rest| rest.split_once(':')).ok_or_else(bad)?;
        if let Ok(address) = left.parse::<Ipv4Addr>() {
            return Ok(RouteTarget::Ipv4(address, right.parse().map_err(|_| bad())?));
        }
        // A trailing L asks for the four-octet form of a small AS number.
        if let Some(asn) = left.strip_suffix('L') {
            let asn = asn.parse().map_err(|_| bad())?;
            return Ok(RouteTarget::As4(asn, right.parse().map_err(|_| bad())?));
        }
        if let Ok(asn) = left.parse::<u16>() {
            return Ok(RouteTarget::As2(asn, right.parse().map_err(|_| bad())?));
        }
        let asn = left.parse::<u32>().map_err(|_| bad())?;
        Ok(RouteTarget::As4(asn, right.parse().map_err(|_| bad())?))
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteTarget::As2(asn, value) => write!(f, "target:{asn}:{value}"),
            RouteTarget::Ipv4(address, value) => write!(f, "target:{address}:{value}"),
            RouteTarget::As4(asn, value) if *asn <= u32::from(u16::MAX) => {
                write!(f, "target:{asn}L:{value}")
            }
            RouteTarget::As4(asn, value) => write!(f, "target:{asn}:{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_target() -> impl Strategy<Value = RouteTarget> {
        prop_oneof![
            (any::<u16>(), any::<u32>()).prop_map(|(a, v)| RouteTarget::As2(a, v)),
            (any::<u32>(), any::<u16>()).prop_map(|(a, v)| RouteTarget::Ipv4(a.into(), v)),
            (any::<u32>(), any::<u16>()).prop_map(|(a, v)| RouteTarget::As4(a, v)),
        ]
    }

    proptest! {
        #[test]
        fn text_and_octets_come_back_the_same(target in any_target()) {
            prop_assert_eq!(target.to_string().parse::<RouteTarget>().unwrap(), target);
            prop_assert_eq!(RouteTarget::from_octets(target.octets()), Some(target));
        }
    }

    #[test]
    fn golden_vector_of_the_automatic_target() {
        // spec/control-plane.md section 5.9: ASN 64512, number 8000007.
        let target: RouteTarget = "target:64512:8000007".parse().unwrap();
        assert_eq!(target.octets(), [0x00, 0x02, 0xfc, 0x00, 0x00, 0x7a, 0x12, 0x07]);
    }

    #[test]
    fn what_is_no_route_target_is_told_so() {
        for text in ["", "64512:1", "target:64512", "target:70000:70000", "target:1.2.3.4:70000"] {
            assert!(text.parse::<RouteTarget>().is_err(), "{text}");
        }
    }
}
